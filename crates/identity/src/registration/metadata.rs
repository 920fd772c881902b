//! Client metadata (RFC 7591 section 2, OpenID Connect Dynamic Client Registration 1.0 section 2): what a client asks to be,
//! and what it then is.
//!
//! Names that are not known are ignored, as the standard wants. Those that are known and would promise what is not done
//! here refuse the registration: a client must not believe that its answers are encrypted, or its keys fetched, when they
//! are not.

use serde_json::{Map, Value, json};
use testudo_trust::{ForeignKeySet, JwkSet};
use url::Url;

use super::{
    RegistrationError,
    policy::{AuthMethod, RedirectKind, RegistrationPolicy},
};
use crate::{
    ClientProfile, NotificationUri, RedirectUri,
    limits::{
        MAX_CONTACTS, MAX_REDIRECT_URI_BYTES, MAX_REDIRECT_URIS, MAX_REGISTRATION_BYTES,
        MAX_TEXT_BYTES,
    },
    records::{
        About, ApplicationType, Client, ClientKind, ClientLogout, ClientPolicy, ClientSigning,
        GrantType, SignatureAlgorithm,
    },
    redirect_uri::place_of,
    scopes::{self, ANYBODYS_SCOPES},
};

/// What has one value here, and is said in every answer.
const FIXED: [(&str, &str); 1] = [("subject_type", "public")];
/// What has one value here, if it is asked for.
const ONLY: [(&str, &str); 3] = [
    ("token_endpoint_auth_signing_alg", "ES256"),
    ("request_object_signing_alg", "ES256"),
    ("introspection_signed_response_alg", "ES256"),
];
/// What is not done here, and must not be believed to be.
const NOT_DONE: [(&str, &str); 19] = [
    ("jwks_uri", "keys are not fetched: send `jwks`"),
    ("sector_identifier_uri", "subjects are public"),
    ("request_uris", "requests are not fetched: push them"),
    ("default_max_age", "send `max_age` with each request"),
    ("default_acr_values", "send `acr_values` with each request"),
    ("id_token_encrypted_response_alg", "nothing is encrypted"),
    ("id_token_encrypted_response_enc", "nothing is encrypted"),
    ("userinfo_encrypted_response_alg", "nothing is encrypted"),
    ("userinfo_encrypted_response_enc", "nothing is encrypted"),
    ("request_object_encryption_alg", "nothing is encrypted"),
    ("request_object_encryption_enc", "nothing is encrypted"),
    (
        "introspection_encrypted_response_alg",
        "nothing is encrypted",
    ),
    (
        "introspection_encrypted_response_enc",
        "nothing is encrypted",
    ),
    (
        "authorization_signed_response_alg",
        "answers are not signed",
    ),
    ("frontchannel_logout_uri", "use backchannel_logout_uri"),
    (
        "tls_client_auth_subject_dn",
        "certificates are for the fleet",
    ),
    ("tls_client_auth_san_dns", "certificates are for the fleet"),
    ("tls_client_auth_san_uri", "certificates are for the fleet"),
    (
        "tls_client_certificate_bound_access_tokens",
        "use dpop_bound_access_tokens",
    ),
];

/// What a client says about itself, as it says it.
pub(super) struct Told(Map<String, Value>);

/// What it may be.
pub(super) struct Accepted {
    pub(super) profile: ClientProfile,
    pub(super) auth_method: AuthMethod,
    pub(super) application_type: ApplicationType,
    pub(super) about: About,
}

impl Told {
    /// Reads a request's body.
    pub(super) fn parse(body: &[u8]) -> Result<Self, RegistrationError> {
        if body.len() > MAX_REGISTRATION_BYTES {
            let why = format!("has more than {MAX_REGISTRATION_BYTES} bytes");
            return Err(RegistrationError::metadata("the request", why));
        }
        let members: Map<String, Value> = serde_json::from_slice(body)
            .map_err(|_| RegistrationError::metadata("the request", "is not a JSON object"))?;
        Ok(Self(members))
    }

    /// Whether it says anything of this name. `null` is nothing.
    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<&str>, RegistrationError> {
        let wrong = || RegistrationError::metadata(name, "is a text");
        self.get(name)
            .map(|value| value.as_str().ok_or_else(wrong))
            .transpose()
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    fn texts(&self, name: &str) -> Result<Option<Vec<&str>>, RegistrationError> {
        let wrong = || RegistrationError::metadata(name, "is a list of texts");
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let list = value.as_array().ok_or_else(wrong)?;
        let texts: Option<Vec<&str>> = list.iter().map(Value::as_str).collect();
        texts.map(Some).ok_or_else(wrong)
    }

    fn flag(&self, name: &str) -> Result<bool, RegistrationError> {
        let wrong = || RegistrationError::metadata(name, "is true or false");
        self.get(name)
            .map_or(Ok(false), |value| value.as_bool().ok_or_else(wrong))
    }

    /// A line of text for people.
    fn line(&self, name: &str) -> Result<Option<String>, RegistrationError> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        if text.len() > MAX_TEXT_BYTES || !text.chars().all(is_plain) {
            let why = format!(
                "has more than {MAX_TEXT_BYTES} bytes, or characters that are invisible or change the direction of text"
            );
            return Err(RegistrationError::metadata(name, why));
        }
        Ok(Some(text.to_owned()).filter(|text| !text.trim().is_empty()))
    }

    /// An address for people.
    fn page(&self, name: &str) -> Result<Option<String>, RegistrationError> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        let is_page = text.len() <= MAX_REDIRECT_URI_BYTES
            && text.starts_with("https://")
            && text.bytes().all(|byte| byte.is_ascii_graphic())
            && Url::parse(text).is_ok_and(|url| url.username().is_empty());
        if is_page {
            Ok(Some(text.to_owned()))
        } else {
            let why = "is an address that begins with https://";
            Err(RegistrationError::metadata(name, why))
        }
    }
}

/// Whether a character is what it looks like: a name must not be written so that people read another.
const fn is_plain(character: char) -> bool {
    !(character.is_ascii_control()
        || matches!(
            character,
            '\u{80}'..='\u{9f}'
                | '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{3164}'
                | '\u{fe00}'..='\u{fe0f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffc}'
                | '\u{e0000}'..='\u{e0fff}'
        ))
}

impl Accepted {
    /// What a client asks for, if the policy has it.
    pub(super) fn of(told: &Told, policy: &RegistrationPolicy) -> Result<Self, RegistrationError> {
        refuse_what_is_not_done(told)?;
        let auth_method = auth_method(told, policy)?;
        let grants = grants(told, policy)?;
        let redirect_uris = redirect_uris(told, "redirect_uris", policy)?;
        let application_type = application_type(told, &redirect_uris)?;
        let profile = ClientProfile {
            display_name: display_name(told, &redirect_uris)?,
            kind: match auth_method {
                AuthMethod::None => ClientKind::Public,
                _ => ClientKind::Confidential,
            },
            grants,
            scopes: asked_scopes(told, policy)?,
            workload: None,
            jwks: key_set(told, auth_method)?,
            policy: ClientPolicy {
                require_pushed_authorization_requests: told
                    .flag("require_pushed_authorization_requests")?,
                require_signed_request_object: told.flag("require_signed_request_object")?,
                dpop_bound_access_tokens: told.flag("dpop_bound_access_tokens")?,
                pkce_optional: policy.pkce_optional && auth_method != AuthMethod::None,
                ..ClientPolicy::default()
            },
            signing: ClientSigning {
                // What is meant by nothing (OpenID Connect Dynamic Client Registration 1.0 section 2).
                id_token_signed_response_alg: algorithm(told, "id_token_signed_response_alg")?
                    .unwrap_or(SignatureAlgorithm::Rs256),
                userinfo_signed_response_alg: algorithm(told, "userinfo_signed_response_alg")?,
            },
            logout: ClientLogout {
                post_logout_redirect_uris: redirect_uris_of(
                    told,
                    "post_logout_redirect_uris",
                    policy,
                )?,
                backchannel_logout_uri: notification_uri(told, policy)?,
                backchannel_logout_session_required: told
                    .flag("backchannel_logout_session_required")?,
            },
            redirect_uris,
        };
        profile.check(auth_method.has_secret())?;
        Ok(Self {
            profile,
            auth_method,
            application_type,
            about: about(told)?,
        })
    }
}

/// What a client is, by the same names. What is not there it is not.
pub(super) fn of_client(client: &Client) -> Map<String, Value> {
    let Some(registered) = &client.registered else {
        return Map::new();
    };
    let responses: &[&str] = match client.may_use(GrantType::AuthorizationCode) {
        true => &["code"],
        false => &[],
    };
    let scopes = ANYBODYS_SCOPES
        .into_iter()
        .chain(client.scopes.iter().map(|scope| scope.as_str()));
    let jwks = client.jwks.as_deref();
    let jwks = jwks.and_then(|text| serde_json::from_str::<Value>(text).ok());
    let (about, logout) = (&registered.about, &client.logout);
    let told = json!({
        "client_name": client.display_name,
        "application_type": registered.application_type,
        "redirect_uris": client.redirect_uris,
        "token_endpoint_auth_method": registered.auth_method.as_str(),
        "grant_types": client.grants.iter().map(|grant| grant.as_str()).collect::<Vec<_>>(),
        "response_types": responses,
        "scope": scopes.collect::<Vec<_>>().join(" "),
        "jwks": jwks,
        "require_pushed_authorization_requests": client.policy.require_pushed_authorization_requests,
        "require_signed_request_object": client.policy.require_signed_request_object,
        "dpop_bound_access_tokens": client.policy.dpop_bound_access_tokens,
        "id_token_signed_response_alg": client.signing.id_token_signed_response_alg,
        "userinfo_signed_response_alg": client.signing.userinfo_signed_response_alg,
        "post_logout_redirect_uris": some(&logout.post_logout_redirect_uris),
        "backchannel_logout_uri": logout.backchannel_logout_uri,
        "backchannel_logout_session_required": logout.backchannel_logout_session_required,
        "client_uri": about.client_uri,
        "logo_uri": about.logo_uri,
        "policy_uri": about.policy_uri,
        "tos_uri": about.tos_uri,
        "initiate_login_uri": about.initiate_login_uri,
        "contacts": some(&about.contacts),
        "software_id": about.software_id,
        "software_version": about.software_version,
    });
    let mut members = match told {
        Value::Object(members) => members,
        _ => Map::new(),
    };
    members.retain(|_, value| !value.is_null());
    let fixed = FIXED
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.into()));
    members.extend(fixed);
    members
}

/// A list, if there is anything in it.
const fn some<T>(list: &[T]) -> Option<&[T]> {
    if list.is_empty() { None } else { Some(list) }
}

fn refuse_what_is_not_done(told: &Told) -> Result<(), RegistrationError> {
    for (name, why) in NOT_DONE {
        let is_nothing = |value: &Value| {
            *value == Value::Bool(false) || value.as_array().is_some_and(Vec::is_empty)
        };
        if told.get(name).is_some_and(|value| !is_nothing(value)) {
            return Err(RegistrationError::metadata(name, why));
        }
    }
    for (name, value) in FIXED.into_iter().chain(ONLY) {
        if told.text(name)?.is_some_and(|asked| asked != value) {
            let why = format!("can be `{value}` only");
            return Err(RegistrationError::metadata(name, why));
        }
    }
    Ok(())
}

fn auth_method(told: &Told, policy: &RegistrationPolicy) -> Result<AuthMethod, RegistrationError> {
    const NAME: &str = "token_endpoint_auth_method";
    // RFC 7591 section 2 on what is meant by nothing.
    let asked = told
        .text(NAME)?
        .unwrap_or(AuthMethod::ClientSecretBasic.as_str());
    let method = AuthMethod::parse(asked).filter(|method| policy.auth_methods.contains(method));
    method.ok_or_else(|| {
        let known = policy.auth_methods.iter().map(|method| method.as_str());
        one_of(NAME, asked, known)
    })
}

fn algorithm(told: &Told, name: &str) -> Result<Option<SignatureAlgorithm>, RegistrationError> {
    let known = SignatureAlgorithm::ALL.map(SignatureAlgorithm::as_str);
    let parse = |asked| {
        SignatureAlgorithm::parse(asked).ok_or_else(|| one_of(name, asked, known.into_iter()))
    };
    told.text(name)?.map(parse).transpose()
}

fn grants(told: &Told, policy: &RegistrationPolicy) -> Result<Vec<GrantType>, RegistrationError> {
    const NAME: &str = "grant_types";
    let default = || vec![GrantType::AuthorizationCode.as_str()];
    let mut grants = Vec::new();
    for asked in told.texts(NAME)?.unwrap_or_else(default) {
        let grant = GrantType::parse(asked).filter(|grant| policy.grants.contains(grant));
        let grant = grant.ok_or_else(|| {
            let known = policy.grants.iter().map(|grant| grant.as_str());
            one_of(NAME, asked, known)
        })?;
        if !grants.contains(&grant) {
            grants.push(grant);
        }
    }
    let is_code = grants.contains(&GrantType::AuthorizationCode);
    let responses = told.texts("response_types")?;
    let fits = responses.is_none_or(|responses| match is_code {
        true => responses == ["code"],
        false => responses.is_empty(),
    });
    if grants.is_empty() || !fits {
        let why = "must be [\"code\"] with the grant authorization_code, and [] without";
        return Err(RegistrationError::metadata("response_types", why));
    }
    Ok(grants)
}

fn asked_scopes(
    told: &Told,
    policy: &RegistrationPolicy,
) -> Result<Vec<testudo_model::Scope>, RegistrationError> {
    let asked = scopes::parse(told.text("scope")?.unwrap_or(""));
    let malformed = || RegistrationError::metadata("scope", "is malformed, or has too many");
    let mut further = Vec::new();
    for scope in asked.ok_or_else(malformed)? {
        if ANYBODYS_SCOPES.contains(&scope.as_str()) {
            continue;
        }
        if !policy.scopes.contains(&scope) {
            let known = policy.scopes.iter().map(|scope| scope.as_str());
            let known = ANYBODYS_SCOPES.into_iter().chain(known);
            return Err(one_of("scope", scope.as_str(), known));
        }
        further.push(scope);
    }
    Ok(further)
}

fn one_of<'a>(name: &str, asked: &str, known: impl Iterator<Item = &'a str>) -> RegistrationError {
    let asked: String = asked.chars().take(64).collect();
    let known = known.collect::<Vec<_>>().join(", ");
    RegistrationError::metadata(name, format!("`{asked}` is not one of: {known}"))
}

fn redirect_uris(
    told: &Told,
    name: &str,
    policy: &RegistrationPolicy,
) -> Result<Vec<RedirectUri>, RegistrationError> {
    let refused = |error: RegistrationError| match error {
        RegistrationError::Metadata { why, .. } => RegistrationError::RedirectUri(why),
        other => other,
    };
    redirect_uris_of(told, name, policy).map_err(refused)
}

fn redirect_uris_of(
    told: &Told,
    name: &str,
    policy: &RegistrationPolicy,
) -> Result<Vec<RedirectUri>, RegistrationError> {
    let refused = |why: String| RegistrationError::metadata(name, why);
    let texts = told.texts(name)?.unwrap_or_default();
    if texts.len() > MAX_REDIRECT_URIS {
        return Err(refused(format!("has more than {MAX_REDIRECT_URIS}")));
    }
    let mut uris = Vec::new();
    for text in texts {
        let uri: RedirectUri = text.parse().map_err(|why| refused(format!("{why}")))?;
        let kind = RedirectKind::of(&uri);
        if !policy.redirects.contains(&kind) {
            let known = policy.redirects.iter().map(|kind| kind.as_str());
            let known = known.collect::<Vec<_>>().join(", ");
            return Err(refused(format!("`{text}` is not one of: {known}")));
        }
        if kind == RedirectKind::Https && !policy.admits_host(host_of(text)) {
            return Err(refused(format!("the host of `{text}` may not be used")));
        }
        uris.push(uri);
    }
    Ok(uris)
}

/// The host as it is written, without the port.
fn host_of(uri: &str) -> &str {
    let place = place_of(uri);
    place.split_once(':').map_or(place, |(host, _)| host)
}

fn application_type(
    told: &Told,
    redirect_uris: &[RedirectUri],
) -> Result<ApplicationType, RegistrationError> {
    let is_web = redirect_uris
        .iter()
        .all(|uri| RedirectKind::of(uri) == RedirectKind::Https);
    match told.text("application_type")? {
        Some("web") if !is_web => Err(RegistrationError::RedirectUri(
            "an application of type `web` has https alone; is it `native`?".to_owned(),
        )),
        Some("native") => Ok(ApplicationType::Native),
        Some("web") | None if is_web => Ok(ApplicationType::Web),
        None => Ok(ApplicationType::Native),
        Some(_) => {
            let why = "is `web` or `native`";
            Err(RegistrationError::metadata("application_type", why))
        }
    }
}

fn display_name(told: &Told, redirect_uris: &[RedirectUri]) -> Result<String, RegistrationError> {
    let unnamed = || {
        let first = redirect_uris.first();
        first.map_or("?", |uri| place_of(uri.as_str())).to_owned()
    };
    Ok(told.line("client_name")?.unwrap_or_else(unnamed))
}

fn key_set(told: &Told, method: AuthMethod) -> Result<Option<String>, RegistrationError> {
    let jwks = told.get("jwks").map(Value::to_string);
    if method == AuthMethod::PrivateKeyJwt && jwks.is_none() {
        let why = "is needed to prove who the client is";
        return Err(RegistrationError::metadata("jwks", why));
    }
    let must_sign = told.flag("require_signed_request_object")?;
    Ok(jwks.filter(|jwks| !method.has_secret() || must_sign || !is_of_others(jwks)))
}

/// Whether a good key set has no key for ES256. What such keys sign is not read here: who has a secret need not register
/// them, and is not told that they were (RFC 7591 section 3.2.1).
fn is_of_others(jwks: &str) -> bool {
    ForeignKeySet::parse(jwks).is_ok() && JwkSet::parse(jwks).is_err()
}

fn notification_uri(
    told: &Told,
    policy: &RegistrationPolicy,
) -> Result<Option<NotificationUri>, RegistrationError> {
    const NAME: &str = "backchannel_logout_uri";
    let Some(text) = told.text(NAME)? else {
        return Ok(None);
    };
    let uri: NotificationUri = text
        .parse()
        .map_err(|why| RegistrationError::metadata(NAME, format!("{why}")))?;
    // What leads where is decided when it is called; whose names may be used, here.
    if !policy.admits_host(host_of(text)) {
        return Err(RegistrationError::metadata(
            NAME,
            "has a host that may not be used",
        ));
    }
    Ok(Some(uri))
}

fn about(told: &Told) -> Result<About, RegistrationError> {
    let contacts = told.texts("contacts")?.unwrap_or_default();
    let is_short = |text: &&str| text.len() <= MAX_TEXT_BYTES && text.chars().all(is_plain);
    if contacts.len() > MAX_CONTACTS || !contacts.iter().all(is_short) {
        let why =
            format!("has more than {MAX_CONTACTS}, or one that is too long or not plain text");
        return Err(RegistrationError::metadata("contacts", why));
    }
    Ok(About {
        client_uri: told.page("client_uri")?,
        logo_uri: told.page("logo_uri")?,
        policy_uri: told.page("policy_uri")?,
        tos_uri: told.page("tos_uri")?,
        initiate_login_uri: told.page("initiate_login_uri")?,
        contacts: contacts.into_iter().map(str::to_owned).collect(),
        software_id: told.line("software_id")?,
        software_version: told.line("software_version")?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy() -> RegistrationPolicy {
        RegistrationPolicy {
            grants: vec![GrantType::AuthorizationCode, GrantType::RefreshToken],
            scopes: vec!["orders:read".parse().unwrap()],
            auth_methods: vec![AuthMethod::None, AuthMethod::ClientSecretBasic],
            redirects: vec![RedirectKind::Https, RedirectKind::Loopback],
            redirect_hosts: vec!["*.apps.example".to_owned()],
            pkce_optional: false,
            client_lifetime_seconds: None,
        }
    }

    fn asked(metadata: &Value) -> Result<Accepted, RegistrationError> {
        Accepted::of(&Told::parse(metadata.to_string().as_bytes())?, &policy())
    }

    /// Something that is accepted, with one thing changed.
    fn with(name: &str, value: Value) -> Value {
        let mut metadata = json!({ "redirect_uris": ["https://a.apps.example/cb"] });
        metadata[name] = value;
        metadata
    }

    #[test]
    fn what_is_not_said_is_as_the_standard_says() {
        let accepted = asked(&with("unheard_of", json!({ "x": 1 }))).unwrap();
        assert_eq!(accepted.auth_method, AuthMethod::ClientSecretBasic);
        assert_eq!(accepted.profile.grants, [GrantType::AuthorizationCode]);
        assert_eq!(accepted.profile.display_name, "a.apps.example");
        assert_eq!(accepted.application_type, ApplicationType::Web);
    }

    #[test]
    fn a_program_on_a_device_need_not_say_so() {
        let native = with("redirect_uris", json!(["http://127.0.0.1/cb"]));
        let accepted = asked(&native).unwrap();
        assert_eq!(accepted.application_type, ApplicationType::Native);
        let mut web = native;
        web["application_type"] = json!("web");
        assert!(matches!(
            asked(&web),
            Err(RegistrationError::RedirectUri(_))
        ));
    }

    #[test]
    fn what_the_policy_has_not_is_refused_by_name() {
        for (name, value) in [
            ("scope", json!("openid orders:write")),
            ("scope", json!("testudo:admin")),
            ("scope", json!(["openid"])),
            ("scope", json!("\"")),
            ("grant_types", json!(["client_credentials"])),
            ("grant_types", json!(["implicit"])),
            ("grant_types", json!(["password"])),
            (
                "grant_types",
                json!(["urn:ietf:params:oauth:grant-type:device_code"]),
            ),
            ("grant_types", json!("authorization_code")),
            ("response_types", json!(["token"])),
            ("response_types", json!(["code", "id_token"])),
            ("response_types", json!([])),
            ("token_endpoint_auth_method", json!("private_key_jwt")),
            ("token_endpoint_auth_method", json!("tls_client_auth")),
            ("token_endpoint_auth_method", json!("client_secret_jwt")),
            ("application_type", json!("service")),
            ("id_token_signed_response_alg", json!("none")),
            ("id_token_signed_response_alg", json!("PS256")),
            ("userinfo_signed_response_alg", json!("none")),
            ("subject_type", json!("pairwise")),
            ("jwks_uri", json!("http://169.254.169.254/latest/meta-data")),
            ("sector_identifier_uri", json!("https://10.0.0.1/")),
            ("request_uris", json!(["https://10.0.0.1/"])),
            ("default_max_age", json!(60)),
            ("logo_uri", json!("http://a.apps.example/logo.png")),
            ("logo_uri", json!("javascript:alert(1)")),
            ("client_uri", json!("https://user@a.apps.example/")),
            ("tos_uri", json!(7)),
            ("client_name", json!("a\u{202e}lias")),
            ("client_name", json!("Tes\u{200b}tudo")),
            ("client_name", json!("line\nbreak")),
            ("client_name", json!("x".repeat(MAX_TEXT_BYTES + 1))),
            ("contacts", json!(vec!["x"; MAX_CONTACTS + 1])),
            ("backchannel_logout_uri", json!("https://127.0.0.1/")),
            ("backchannel_logout_uri", json!("file:///etc/passwd")),
            ("dpop_bound_access_tokens", json!("true")),
            ("require_signed_request_object", json!(true)),
            ("jwks", json!({ "keys": [] })),
            ("jwks", json!("{}")),
        ] {
            let refused = asked(&with(name, value.clone())).err();
            assert!(
                matches!(refused, Some(RegistrationError::Metadata { .. })),
                "{name}: {value}: {refused:?}"
            );
        }
    }

    #[test]
    fn browsers_are_sent_where_the_policy_says_alone() {
        for uri in [
            "https://evil.example/cb",
            "https://apps.example/cb",
            "https://a.apps.example.evil.example/cb",
            "https://evil.example/?x=.apps.example",
            "https://evil.example?a.apps.example/cb",
            "https://a.apps.example@evil.example/cb",
            "https://a.apps.example/cb#fragment",
            "http://a.apps.example/cb",
            "com.example.app:/cb",
            "javascript:alert(1)",
            "https://*.apps.example/cb",
            "",
        ] {
            let refused = asked(&with("redirect_uris", json!([uri]))).err();
            assert!(
                matches!(refused, Some(RegistrationError::RedirectUri(_))),
                "{uri}: {refused:?}"
            );
        }
        let many = vec!["https://a.apps.example/cb"; MAX_REDIRECT_URIS + 1];
        for none in [
            json!([]),
            Value::Null,
            json!(many),
            json!("https://a.apps.example/cb"),
        ] {
            let refused = asked(&with("redirect_uris", none)).err();
            assert!(matches!(refused, Some(RegistrationError::RedirectUri(_))));
        }
    }

    #[test]
    fn what_is_no_object_or_too_large_is_refused() {
        for text in ["", "[]", "null", "{", "{\"a\":1} {}"] {
            assert!(Told::parse(text.as_bytes()).is_err(), "{text}");
        }
        let large = format!("{{\"x\":\"{}\"}}", "x".repeat(MAX_REGISTRATION_BYTES));
        assert!(Told::parse(large.as_bytes()).is_err());
        let deep = format!("{{\"x\":{}{}}}", "[".repeat(2_000), "]".repeat(2_000));
        assert!(Told::parse(deep.as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn no_value_of_a_known_name_crashes(
            name in prop::sample::select(vec![
                "redirect_uris", "scope", "grant_types", "response_types", "jwks", "client_name", "logo_uri", "contacts",
                "backchannel_logout_uri", "application_type", "software_id",
            ]),
            text in "\\PC{0,60}",
        ) {
            for value in [json!(text), json!([text]), json!({ "keys": [text] })] {
                let _ = asked(&with(name, value));
            }
        }
    }
}
