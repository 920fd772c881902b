//! Claims, as pure functions of what is known: a token is what its inputs are, and nothing else.

use serde::{Deserialize, Serialize};
use testudo_model::{
    AccessTokenClaims, ClientName, Confirmation, GroupName, RoleName, SessionId, Timestamp,
    TokenId, limits::ACCESS_TOKEN_LIFETIME,
};
use testudo_trust::{base64url, sha256};

use crate::{
    directory::Standing,
    records::{Authentication, User},
    scopes::{self, EMAIL, GROUPS, PROFILE, ROLES, ScopeSet},
};

/// `acr` of a login with one factor. The classes are ordered as their texts are: each is more than the one before.
pub const ASSURANCE_ONE_FACTOR: &str = "1";
/// `acr` of a login with two factors.
pub const ASSURANCE_TWO_FACTORS: &str = "2";
/// `acr` of a login with two factors that no page of somebody else gets anything out of.
pub const ASSURANCE_PHISHING_RESISTANT: &str = "3";
/// `amr` of a password (RFC 8176).
pub(crate) const METHOD_PASSWORD: &str = "pwd";
/// `typ` of an ID token: plain, so that no resource takes it for an access token.
pub(crate) const ID_TOKEN_TYPE: &str = "JWT";

/// What an access token is made of.
pub(crate) struct AccessTokenFacts<'a> {
    pub(crate) issuer: &'a str,
    pub(crate) audience: &'a str,
    pub(crate) id: &'a TokenId,
    pub(crate) now: Timestamp,
    pub(crate) subject: &'a str,
    pub(crate) client_id: &'a ClientName,
    pub(crate) scopes: &'a ScopeSet,
    /// The user's login; none for machines.
    pub(crate) login: Option<(&'a SessionId, &'a Authentication)>,
    /// What the token is bound to.
    pub(crate) binding: Option<Confirmation>,
}

impl AccessTokenFacts<'_> {
    /// When it ends.
    pub(crate) fn expires_at(&self) -> Timestamp {
        self.now + ACCESS_TOKEN_LIFETIME
    }
}

/// Claims of an access token (RFC 9068 section 2.2).
pub(crate) fn access_token(facts: &AccessTokenFacts<'_>) -> AccessTokenClaims {
    let (session, authentication) = facts.login.unzip();
    AccessTokenClaims {
        iss: facts.issuer.to_owned(),
        sub: facts.subject.to_owned(),
        aud: facts.audience.to_owned(),
        exp: facts.expires_at().unix_seconds(),
        iat: facts.now.unix_seconds(),
        jti: facts.id.clone(),
        client_id: facts.client_id.to_string(),
        scope: scopes::join(facts.scopes),
        sid: session.cloned(),
        auth_time: authentication.map(|authentication| authentication.at.unix_seconds()),
        acr: authentication.map(|authentication| authentication.context_class.clone()),
        amr: authentication
            .map(|authentication| authentication.methods.clone())
            .unwrap_or_default(),
        cnf: facts.binding.clone(),
        act: None,
    }
}

/// Claims of an ID token (OpenID Connect Core section 2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdTokenClaims {
    /// Issuer.
    pub iss: String,
    /// The user.
    pub sub: String,
    /// The client.
    pub aud: String,
    /// Expiry, seconds since the epoch.
    pub exp: i64,
    /// Issue time.
    pub iat: i64,
    /// When the user authenticated.
    pub auth_time: i64,
    /// The nonce of the authorization request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
    /// Assurance level.
    pub acr: String,
    /// Authentication methods (RFC 8176).
    pub amr: Vec<String>,
    /// Ties the token to the access token beside it (section 3.1.3.6).
    pub at_hash: String,
    /// The session at this client.
    pub sid: SessionId,
    /// Groups and roles, if they were asked for.
    #[serde(flatten)]
    pub memberships: Memberships,
}

/// What the user is in, with what groups in groups give, at the time of the answer. Nothing decides by it here: the fleet
/// asks the directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memberships {
    /// With the scope `groups`: all groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<GroupName>>,
    /// With the scope `roles`: all roles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roles: Option<Vec<RoleName>>,
}

impl Memberships {
    /// Whether `granted` asks for any of it.
    pub(crate) fn are_in(granted: &ScopeSet) -> bool {
        scopes::has(granted, GROUPS) || scopes::has(granted, ROLES)
    }

    /// What `granted` opens.
    pub(crate) fn of(standing: Standing, granted: &ScopeSet) -> Self {
        Self {
            groups: scopes::has(granted, GROUPS).then_some(standing.groups),
            roles: scopes::has(granted, ROLES).then_some(standing.roles),
        }
    }
}

/// What an ID token is made of.
pub(crate) struct IdTokenFacts<'a> {
    pub(crate) issuer: &'a str,
    pub(crate) now: Timestamp,
    pub(crate) subject: &'a str,
    pub(crate) client_id: &'a ClientName,
    pub(crate) session: &'a SessionId,
    pub(crate) authentication: &'a Authentication,
    pub(crate) nonce: Option<&'a str>,
    pub(crate) access_token: &'a str,
    pub(crate) memberships: Memberships,
}

/// Claims of an ID token.
pub(crate) fn id_token(facts: IdTokenFacts<'_>) -> IdTokenClaims {
    IdTokenClaims {
        iss: facts.issuer.to_owned(),
        sub: facts.subject.to_owned(),
        aud: facts.client_id.to_string(),
        exp: (facts.now + ACCESS_TOKEN_LIFETIME).unix_seconds(),
        iat: facts.now.unix_seconds(),
        auth_time: facts.authentication.at.unix_seconds(),
        nonce: facts.nonce.map(str::to_owned),
        acr: facts.authentication.context_class.clone(),
        amr: facts.authentication.methods.clone(),
        at_hash: at_hash(facts.access_token),
        sid: facts.session.clone(),
        memberships: facts.memberships,
    }
}

/// The left half of the access token's SHA-256, base64url.
fn at_hash(access_token: &str) -> String {
    let hash = sha256(access_token.as_bytes());
    base64url::encode(hash.first_chunk::<16>().map_or(&[], |half| half.as_slice()))
}

/// The userinfo answer (OpenID Connect Core section 5.3.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserInfo {
    /// The user.
    pub sub: String,
    /// Name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// First name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given_name: Option<String>,
    /// Surname.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family_name: Option<String>,
    /// Login name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_username: Option<String>,
    /// When the record was changed, seconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<i64>,
    /// Mail address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// Whether that address is theirs, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email_verified: Option<bool>,
    /// Groups and roles.
    #[serde(flatten)]
    pub memberships: Memberships,
}

/// The claims about `user` that `granted` scopes open (OpenID Connect Core section 5.4).
pub(crate) fn user_info(user: &User, memberships: Memberships, granted: &ScopeSet) -> UserInfo {
    let profile = scopes::has(granted, PROFILE);
    let email = scopes::has(granted, EMAIL);
    UserInfo {
        sub: user.id.to_string(),
        name: user.display_name.clone().filter(|_| profile),
        given_name: user.provisioned.name.given.clone().filter(|_| profile),
        family_name: user.provisioned.name.family.clone().filter(|_| profile),
        preferred_username: profile.then(|| user.username.to_string()),
        updated_at: profile.then(|| user.updated_at.unix_seconds()),
        email: user.email.clone().filter(|_| email),
        email_verified: (email && user.email.is_some()).then_some(user.email_verified),
        memberships,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_795_341_600);

    fn authentication() -> Authentication {
        Authentication {
            at: Timestamp::from_unix_seconds(1_795_341_000),
            context_class: ASSURANCE_ONE_FACTOR.to_owned(),
            methods: vec![METHOD_PASSWORD.to_owned()],
        }
    }

    fn session() -> SessionId {
        "ses_01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap()
    }

    #[test]
    fn the_access_token_of_a_user_has_the_claims_of_rfc_9068() {
        let claims = access_token(&AccessTokenFacts {
            issuer: "https://id.bookshop.example",
            audience: "bookshop.example",
            id: &"tok_01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap(),
            now: NOW,
            subject: "usr_01ARZ3NDEKTSV4RRFFQ69G5FAV",
            client_id: &"shop-web".parse().unwrap(),
            scopes: &scopes::parse("openid orders:read").unwrap(),
            login: Some((&session(), &authentication())),
            binding: None,
        });
        insta::assert_snapshot!(serde_json::to_string_pretty(&claims).unwrap(), @r#"
        {
          "iss": "https://id.bookshop.example",
          "sub": "usr_01ARZ3NDEKTSV4RRFFQ69G5FAV",
          "aud": "bookshop.example",
          "exp": 1795341900,
          "iat": 1795341600,
          "jti": "tok_01ARZ3NDEKTSV4RRFFQ69G5FAV",
          "client_id": "shop-web",
          "scope": "openid orders:read",
          "sid": "ses_01ARZ3NDEKTSV4RRFFQ69G5FAV",
          "auth_time": 1795341000,
          "acr": "1",
          "amr": [
            "pwd"
          ]
        }
        "#);
    }

    #[test]
    fn the_access_token_of_a_machine_is_bound_and_knows_no_login() {
        let claims = access_token(&AccessTokenFacts {
            issuer: "https://id.bookshop.example",
            audience: "bookshop.example",
            id: &"tok_01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap(),
            now: NOW,
            subject: "sva_01ARZ3NDEKTSV4RRFFQ69G5FAV",
            client_id: &"restock".parse().unwrap(),
            scopes: &scopes::parse("stock:write").unwrap(),
            login: None,
            binding: Some(Confirmation {
                certificate_thumbprint: Some(
                    "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2".to_owned(),
                ),
                key_thumbprint: None,
            }),
        });
        insta::assert_snapshot!(serde_json::to_string_pretty(&claims).unwrap(), @r#"
        {
          "iss": "https://id.bookshop.example",
          "sub": "sva_01ARZ3NDEKTSV4RRFFQ69G5FAV",
          "aud": "bookshop.example",
          "exp": 1795341900,
          "iat": 1795341600,
          "jti": "tok_01ARZ3NDEKTSV4RRFFQ69G5FAV",
          "client_id": "restock",
          "scope": "stock:write",
          "cnf": {
            "x5t#S256": "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2"
          }
        }
        "#);
    }

    #[test]
    fn an_id_token_speaks_to_the_client_and_names_the_access_token() {
        let claims = id_token(IdTokenFacts {
            issuer: "https://id.bookshop.example",
            now: NOW,
            subject: "usr_01ARZ3NDEKTSV4RRFFQ69G5FAV",
            client_id: &"shop-web".parse().unwrap(),
            session: &session(),
            authentication: &authentication(),
            nonce: Some("n-0S6_WzA2Mj"),
            access_token: "jHkWEdUXMU1BwAsC4vtUsZwnNvTIxEl0z9K3vx5KF0Y",
            memberships: Memberships::default(),
        });
        insta::assert_snapshot!(serde_json::to_string_pretty(&claims).unwrap(), @r#"
        {
          "iss": "https://id.bookshop.example",
          "sub": "usr_01ARZ3NDEKTSV4RRFFQ69G5FAV",
          "aud": "shop-web",
          "exp": 1795341900,
          "iat": 1795341600,
          "auth_time": 1795341000,
          "nonce": "n-0S6_WzA2Mj",
          "acr": "1",
          "amr": [
            "pwd"
          ],
          "at_hash": "77QmUPtjPfzWtF2AnpK9RQ",
          "sid": "ses_01ARZ3NDEKTSV4RRFFQ69G5FAV"
        }
        "#);
    }
}
