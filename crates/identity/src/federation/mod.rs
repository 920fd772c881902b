//! People who prove themselves elsewhere: at an OpenID provider that the fleet trusts, where we are one of its clients.
//!
//! Who somebody is to us is decided by the issuer and its `sub`, and by nothing else. A mail address or a name that an issuer
//! says is nobody's proof: an account of ours is connected to one elsewhere by whoever proves both.
//!
//! A login under way is no record: it travels sealed in `state`, works in the browser it began in, and once. Requests to the
//! issuer are made by whoever runs the provider (`controlplane`): here is what they say, and what their answers mean.

mod account;
mod answer;
mod directory;
mod id_token;
mod link;
mod login;
mod metadata;
mod outgoing;
mod profile;

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use testudo_model::{GroupName, Redacted};

pub use self::{
    account::Connecting,
    answer::{TokenCall, UpstreamAnswer, UpstreamError},
    directory::{DirectoryEntry, DirectoryLogin, DirectoryUser, LoginStep, UserDirectory},
    id_token::UpstreamClaims,
    link::{LinkId, LinkView},
    login::{UpstreamCaller, UpstreamLogin},
    metadata::{InvalidMetadata, UpstreamMetadata},
};
pub(crate) use self::{
    directory::UserDirectories,
    link::{AcceptedVoucher, Link, LinkError, Voucher, link_report},
    profile::ForeignProfile,
};
use crate::Provider;

/// `amr` of a login elsewhere.
pub(crate) const METHOD_FEDERATED: &str = "fed";

/// An OpenID provider elsewhere where people of the fleet may log in.
#[derive(Debug, Clone)]
pub struct IdentityProvider {
    /// What the fleet calls it.
    pub name: String,
    /// What the button on the login page says.
    pub label: String,
    /// Its `iss`.
    pub issuer: String,
    /// Who we are there.
    pub client_id: String,
    /// How we prove it.
    pub authentication: UpstreamAuthentication,
    /// What we ask for.
    pub scopes: Vec<String>,
    /// What becomes of people whom nobody here knows.
    pub new_users: NewUsers,
    /// Whether a mail address that it calls verified is taken over.
    pub trusts_email: bool,
    /// The claim with the login name that new users get.
    pub username_claim: String,
    /// What its groups are here.
    pub groups: Option<GroupClaim>,
    /// What its logins are worth; the first rule that fits counts. Without one: one factor.
    pub assurance: Vec<AssuranceRule>,
}

/// How we prove ourselves at a token endpoint (OpenID Connect Core section 9).
#[derive(Debug, Clone)]
pub enum UpstreamAuthentication {
    /// `client_secret_basic`.
    SecretBasic(Redacted<String>),
    /// `client_secret_post`.
    SecretPost(Redacted<String>),
    /// `private_key_jwt`, with the key that signs our tokens: the other side finds it at our `jwks_uri`.
    PrivateKeyJwt,
}

/// What becomes of people whom nobody here knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NewUsers {
    /// They prove an account that they have here.
    #[default]
    Link,
    /// They get an account.
    Create,
}

/// The groups of an issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupClaim {
    /// The claim that lists them.
    pub claim: String,
    /// What each of them is here. Only groups that are named here are given, and taken away again.
    pub map: GroupMap,
}

/// Groups here by the name of a group elsewhere.
pub type GroupMap = BTreeMap<String, Vec<GroupName>>;

/// A rule that says what a login elsewhere is worth.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AssuranceRule {
    /// The `acr` it has.
    pub acr: Option<String>,
    /// What is in its `amr`, all of it.
    pub amr: Vec<String>,
    /// The `acr` it gets here.
    pub class: String,
}

/// The identity providers in force.
#[derive(Default)]
pub(crate) struct IdentityProviders(RwLock<Arc<[Arc<IdentityProvider>]>>);

impl Provider {
    /// Lets people log in at these and at no others. Accounts that are connected to others stay so, for when those return.
    pub fn trust_identity_providers(&self, providers: Vec<IdentityProvider>) {
        let providers = providers.into_iter().map(Arc::new).collect();
        let all = &self.identity_providers.0;
        *all.write().unwrap_or_else(PoisonError::into_inner) = providers;
    }

    /// Where people may log in elsewhere, in the order of the fleet file.
    pub fn identity_providers(&self) -> Arc<[Arc<IdentityProvider>]> {
        let all = &self.identity_providers.0;
        Arc::clone(&all.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The one of that name.
    pub fn identity_provider(&self, name: &str) -> Option<Arc<IdentityProvider>> {
        let all = self.identity_providers();
        all.iter().find(|known| known.name == name).map(Arc::clone)
    }

    /// Where `name` sends browsers back to. Each has an address of its own, so that an answer of one is never taken for that
    /// of another (RFC 9700 section 4.4.2).
    pub fn upstream_redirect_uri(&self, name: &str) -> String {
        format!("{}{}", self.settings.issuer, upstream_path(name))
    }
}

/// The path of [`Provider::upstream_redirect_uri`].
pub fn upstream_path(name: &str) -> String {
    format!("/login/at/{name}")
}

impl IdentityProvider {
    /// What a login with this `acr` and `amr` is worth here.
    fn class_of(&self, acr: Option<&str>, amr: &[String]) -> &str {
        let fits = |rule: &&AssuranceRule| {
            let is_class = rule.acr.is_none() || rule.acr.as_deref() == acr;
            is_class && rule.amr.iter().all(|wanted| amr.contains(wanted))
        };
        let rule = self.assurance.iter().find(fits);
        rule.map_or(crate::ASSURANCE_ONE_FACTOR, |rule| &rule.class)
    }

    /// The `acr_values` that make its logins worth `class`, with spaces between. Nothing if it has none.
    fn classes_for(&self, class: &str) -> Option<String> {
        let enough = self.assurance.iter().filter(|rule| &*rule.class >= class);
        let values: Vec<&str> = enough.filter_map(|rule| rule.acr.as_deref()).collect();
        (class > crate::ASSURANCE_ONE_FACTOR && !values.is_empty()).then(|| values.join(" "))
    }

    /// Whether its logins may be worth `class`.
    pub(crate) fn can_reach(&self, class: &str) -> bool {
        self.assurance.iter().any(|rule| &*rule.class >= class)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provider(rules: &[(Option<&str>, &[&str], &str)]) -> IdentityProvider {
        let rule = |(acr, amr, class): &(Option<&str>, &[&str], &str)| AssuranceRule {
            acr: acr.map(str::to_owned),
            amr: amr.iter().map(|method| (*method).to_owned()).collect(),
            class: (*class).to_owned(),
        };
        IdentityProvider {
            name: "corp".to_owned(),
            label: "Corp".to_owned(),
            issuer: "https://login.corp.example".to_owned(),
            client_id: "fleet".to_owned(),
            authentication: UpstreamAuthentication::PrivateKeyJwt,
            scopes: Vec::new(),
            new_users: NewUsers::Link,
            trusts_email: false,
            username_claim: "preferred_username".to_owned(),
            groups: None,
            assurance: rules.iter().map(rule).collect(),
        }
    }

    #[test]
    fn a_login_is_worth_what_the_first_rule_says_that_fits_and_else_the_least() {
        let some = |methods: &[&str]| -> Vec<String> {
            methods.iter().map(|method| (*method).to_owned()).collect()
        };
        let corp = provider(&[
            (Some("gold"), &["hwk", "pin"], "3"),
            (Some("gold"), &[], "2"),
            (None, &["mfa"], "2"),
        ]);
        assert_eq!(corp.class_of(Some("gold"), &some(&["pin", "hwk"])), "3");
        assert_eq!(corp.class_of(Some("gold"), &some(&["hwk"])), "2");
        assert_eq!(corp.class_of(Some("other"), &some(&["mfa"])), "2");
        for (acr, amr) in [
            (None, some(&[])),
            (Some("GOLD"), some(&["pwd"])),
            (Some("3"), some(&["hwk", "pin"])),
        ] {
            assert_eq!(corp.class_of(acr, &amr), "1", "{acr:?} {amr:?}");
        }
        assert_eq!(provider(&[]).class_of(Some("3"), &some(&["mfa"])), "1");
        assert_eq!(corp.classes_for("2").as_deref(), Some("gold gold"));
        assert_eq!(corp.classes_for("1"), None);
    }
}
