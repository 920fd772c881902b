//! OpenID providers elsewhere where people of the fleet may log in.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use testudo_model::{GroupName, Redacted};

use super::{
    SeedCredential, check::Context, document::Cursor, file::FleetFile, problem::Problems,
    secret::SecretReference,
};

const CODE: &str = "fleet.identity_provider";
/// Longest name: it begins login names and is a part of addresses.
const MAX_NAME_BYTES: usize = 32;
/// Longest text of other kinds.
const MAX_TEXT_BYTES: usize = 256;
/// The classes there are (`acr`).
const CLASSES: std::ops::RangeInclusive<u8> = 1..=3;

/// An OpenID provider elsewhere where people of the fleet may log in, as a client of which the fleet is registered there. Its
/// redirect URI is `https://<server>/login/at/<name>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IdentityProviderSection {
    /// What the button on the login page says; if absent, its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Its `iss`. Everything else about it is at `<issuer>/.well-known/openid-configuration`; see `outbound` for which addresses
    /// are called.
    pub issuer: String,
    /// Who the fleet is there.
    pub client_id: String,
    /// The client secret, by reference. Not with `authentication = "private_key_jwt"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretReference>,
    /// How the fleet proves itself there: `client_secret_basic`, `client_secret_post`, or `private_key_jwt` with the key that
    /// signs its own tokens, which is published at `https://<server>/oauth2/jwks`.
    #[serde(default)]
    pub authentication: UpstreamAuthMethod,
    /// What it is asked for.
    #[serde(default = "usual_scopes")]
    pub scopes: Vec<String>,
    /// What becomes of people who have no account here: `link`, they must prove one; `create`, they get one.
    #[serde(default)]
    pub new_users: NewUserRule,
    /// Whether a mail address that it calls verified is taken over into accounts that were made for its people. Accounts are
    /// never found by a mail address.
    #[serde(default)]
    pub trust_email: bool,
    /// The claim with the login name of accounts that are made.
    #[serde(default = "preferred_username")]
    pub username_claim: String,
    /// What its groups are here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<GroupClaimSection>,
    /// What its logins are worth, by `acr` and `amr`; the first that fits counts. Without one that fits: one factor.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub assurance: Vec<AssuranceSection>,
}

/// How a client proves itself at a token endpoint elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UpstreamAuthMethod {
    /// Name and secret in a header.
    #[default]
    ClientSecretBasic,
    /// Name and secret in the form.
    ClientSecretPost,
    /// A JWT that our own key signed.
    PrivateKeyJwt,
}

/// What becomes of people who have no account here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NewUserRule {
    /// They must prove one, which is connected to theirs.
    #[default]
    Link,
    /// They get one.
    Create,
}

/// The groups of an identity provider.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupClaimSection {
    /// The claim that lists them.
    #[serde(default = "groups_claim")]
    pub claim: String,
    /// The groups here, by the name of each there. Users come into the groups that are named here, and out of them, at each
    /// login; other groups stay as they are.
    pub map: BTreeMap<String, Vec<GroupName>>,
}

/// What a login elsewhere is worth.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AssuranceSection {
    /// Its `acr`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acr: Option<String>,
    /// What its `amr` lists, all of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub amr: Vec<String>,
    /// The class it gets here: 1 (one factor), 2 (two), 3 (two that no false page gets).
    #[schemars(range(min = 1, max = 3))]
    pub class: u8,
}

/// An identity provider as declared.
#[derive(Debug, Clone)]
pub struct IdentityProvider {
    /// The fleet's name for it.
    pub name: String,
    /// What it says about itself.
    pub section: IdentityProviderSection,
    /// The secret, if that is how the fleet proves itself.
    pub secret: Option<Redacted<String>>,
}

fn usual_scopes() -> Vec<String> {
    ["openid", "profile", "email"].map(str::to_owned).to_vec()
}

fn preferred_username() -> String {
    "preferred_username".to_owned()
}

fn groups_claim() -> String {
    "groups".to_owned()
}

pub(super) fn check(
    file: &FleetFile,
    tree: Cursor<'_>,
    context: &mut Context<'_, '_>,
) -> Vec<IdentityProvider> {
    let at = tree.key("identity_providers");
    let mut seen = BTreeSet::new();
    let providers = file.identity_providers.iter().map(|(name, section)| {
        let at = at.key(name);
        if !seen.insert(&section.issuer) {
            let message = format!("`{}` is there under another name already", section.issuer);
            let place = at.key("issuer").place();
            context
                .problems
                .error(CODE, place, message)
                .help("keep one of them");
        }
        check_name(CODE, name, at, context.problems);
        check_texts(section, file.outbound.allow_http, at, context.problems);
        check_groups(section, at, context);
        check_assurance(section, at, context.problems);
        IdentityProvider {
            name: name.clone(),
            section: section.clone(),
            secret: secret(section, at, context),
        }
    });
    providers.collect()
}

/// A name that is a part of addresses and of login names.
pub(super) fn check_name(
    code: &'static str,
    name: &str,
    at: Cursor<'_>,
    problems: &mut Problems<'_>,
) {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if !(1..=MAX_NAME_BYTES).contains(&name.len()) || !name.bytes().all(is_plain) {
        problems
            .error(code, at.key_place(), format!("`{name}` cannot be its name"))
            .why("it is a part of addresses and of login names")
            .help(format!(
                "use 1 to {MAX_NAME_BYTES} characters of a-z, 0-9 and `-`"
            ));
    }
}

fn check_texts(
    section: &IdentityProviderSection,
    allow_http: bool,
    at: Cursor<'_>,
    problems: &mut Problems<'_>,
) {
    let is_address = section.issuer.starts_with("https://")
        || (allow_http && section.issuer.starts_with("http://"));
    let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_address || !is_plain(&section.issuer) || section.issuer.contains(['?', '#', '@']) {
        problems
            .error(
                CODE,
                at.key("issuer").place(),
                "this is no issuer: an https address without query and fragment",
            )
            .why("who is on the way could log in as anybody")
            .help("write it exactly as its metadata does, such as `https://login.example`");
    }
    for (key, text) in [
        ("client_id", Some(&section.client_id)),
        ("label", section.label.as_ref()),
        ("username_claim", Some(&section.username_claim)),
    ] {
        let is_text = |text: &&String| {
            text.is_empty() || text.len() > MAX_TEXT_BYTES || text.chars().any(char::is_control)
        };
        if text.filter(is_text).is_some() {
            let message = format!("this has 1 to {MAX_TEXT_BYTES} bytes and no control characters");
            problems.error(CODE, at.key(key).place(), message);
        }
    }
    for (index, scope) in section.scopes.iter().enumerate() {
        if scope.is_empty() || !is_plain(scope) {
            let place = at.key("scopes").index(index).place();
            problems.error(CODE, place, "a scope is one word of ASCII");
        }
    }
    if !section.scopes.iter().any(|scope| scope == "openid") {
        problems
            .error(CODE, at.key("scopes").place(), "`openid` is missing")
            .why("without it nobody says who has logged in")
            .help("add \"openid\"");
    }
}

fn check_groups(section: &IdentityProviderSection, at: Cursor<'_>, context: &mut Context<'_, '_>) {
    let Some(groups) = &section.groups else {
        return;
    };
    check_map(&groups.map, at.key("groups").key("map"), context);
}

/// Every group that is given is declared.
pub(super) fn check_map(
    map: &BTreeMap<String, Vec<GroupName>>,
    at: Cursor<'_>,
    context: &mut Context<'_, '_>,
) {
    for (theirs, ours) in map {
        for (index, group) in ours.iter().enumerate() {
            let place = at.key(theirs).index(index).place();
            context.expect_declared("groups", "group", group.as_str(), place);
        }
    }
}

fn check_assurance(section: &IdentityProviderSection, at: Cursor<'_>, problems: &mut Problems<'_>) {
    for (index, rule) in section.assurance.iter().enumerate() {
        let at = at.key("assurance").index(index);
        if !CLASSES.contains(&rule.class) {
            let message = "a class is 1, 2 or 3";
            problems.error("fleet.out_of_range", at.key("class").place(), message);
        }
        if rule.acr.is_none() && rule.amr.is_empty() {
            problems
                .error(CODE, at.place(), "this is every login there")
                .help("add `acr`, or `amr`, or both");
        }
        if rule.acr.as_deref().is_some_and(|acr| acr.contains(' ')) {
            let place = at.key("acr").place();
            problems.error(CODE, place, "an `acr` has no spaces");
        }
    }
}

fn secret(
    section: &IdentityProviderSection,
    at: Cursor<'_>,
    context: &mut Context<'_, '_>,
) -> Option<Redacted<String>> {
    let place = at.key("secret");
    match (&section.authentication, &section.secret) {
        (UpstreamAuthMethod::PrivateKeyJwt, None) => None,
        (UpstreamAuthMethod::PrivateKeyJwt, Some(_)) => {
            context
                .problems
                .error(CODE, place.place(), "there is a `secret` beside a key")
                .why("the weaker of the two would decide")
                .help("remove `secret`");
            None
        }
        (_, None) => {
            context
                .problems
                .error(
                    CODE,
                    at.key_place(),
                    "nothing says how the fleet proves itself",
                )
                .help("add `secret`, or `authentication = \"private_key_jwt\"`");
            None
        }
        (_, Some(reference)) => match context.credential(Some(reference), place) {
            SeedCredential::Secret(secret) => Some(secret),
            SeedCredential::Hash(_) => {
                context
                    .problems
                    .error(CODE, place.place(), "a hash proves nothing elsewhere")
                    .help("give the secret by `file` or `env`");
                None
            }
            SeedCredential::Generated => None,
        },
    }
}
