//! The discovery document (OpenID Connect Discovery 1.0 section 3, RFC 8414).

use serde_json::{Value, json};

use crate::{
    Fault, Provider,
    records::{GrantType, SignatureAlgorithm},
    scopes::OPENID_SCOPES,
};

/// Paths of the endpoints below the issuer.
pub mod paths {
    /// Authorization endpoint.
    pub const AUTHORIZE: &str = "/oauth2/authorize";
    /// Pushed authorization request endpoint.
    pub const PUSH: &str = "/oauth2/par";
    /// Device authorization endpoint (RFC 8628).
    pub const DEVICE_AUTHORIZATION: &str = "/oauth2/device_authorization";
    /// Where users connect devices: short enough to be typed.
    pub const DEVICE: &str = "/device";
    /// Where users are asked what an application may have.
    pub const CONSENT: &str = "/consent";
    /// The account page.
    pub const ACCOUNT: &str = "/account";
    /// Where a user who was invited adds a passkey.
    pub const INVITATION: &str = "/invitation";
    /// Where whoever has a mail address says so.
    pub const VERIFY_ADDRESS: &str = "/verify-address";
    /// Where a link is asked for that lets a password be changed.
    pub const FORGOT_PASSWORD: &str = "/forgot-password";
    /// Where such a link leads.
    pub const RESET_PASSWORD: &str = "/reset-password";
    /// Token endpoint.
    pub const TOKEN: &str = "/oauth2/token";
    /// Revocation endpoint.
    pub const REVOKE: &str = "/oauth2/revoke";
    /// Introspection endpoint.
    pub const INTROSPECT: &str = "/oauth2/introspect";
    /// Userinfo endpoint.
    pub const USERINFO: &str = "/oauth2/userinfo";
    /// Client registration endpoint (RFC 7591); what one client registered is below it (RFC 7592).
    pub const REGISTER: &str = "/oauth2/register";
    /// End session endpoint (OpenID Connect RP-Initiated Logout 1.0).
    pub const END_SESSION: &str = "/oauth2/logout";
    /// Key set.
    pub const JWKS: &str = "/oauth2/jwks";
    /// Discovery document (OpenID Connect Discovery section 4).
    pub const OPENID_CONFIGURATION: &str = "/.well-known/openid-configuration";
    /// The same for plain OAuth clients (RFC 8414 section 3).
    pub const AUTHORIZATION_SERVER: &str = "/.well-known/oauth-authorization-server";
    /// Metadata of the transmitter of signals (SSF 1.0 section 7.2).
    pub const SSF_CONFIGURATION: &str = "/.well-known/ssf-configuration";
    /// Configuration endpoint of streams (SSF 1.0 section 8.1.1).
    pub const SSF_STREAMS: &str = "/ssf/streams";
    /// Status endpoint of streams.
    pub const SSF_STATUS: &str = "/ssf/status";
    /// Add subject endpoint.
    pub const SSF_ADD_SUBJECT: &str = "/ssf/subjects/add";
    /// Remove subject endpoint.
    pub const SSF_REMOVE_SUBJECT: &str = "/ssf/subjects/remove";
    /// Verification endpoint.
    pub const SSF_VERIFICATION: &str = "/ssf/verify";
    /// Where signals of a stream, whose id follows, are fetched (RFC 8936).
    pub const SSF_POLL: &str = "/ssf/poll";
}

impl Provider {
    /// The discovery document. It promises what the code does and nothing else.
    ///
    /// # Errors
    /// The store fails.
    pub fn discovery(&self) -> Result<Value, Fault> {
        let mut document = document(&self.settings.issuer);
        if self.registration_policy()?.is_some()
            && let Some(members) = document.as_object_mut()
        {
            let endpoint = format!("{}{}", self.settings.issuer, paths::REGISTER);
            members.insert("registration_endpoint".to_owned(), endpoint.into());
        }
        Ok(document)
    }
}

fn document(issuer: &str) -> Value {
    let at = |path: &str| format!("{issuer}{path}");
    let confidential = [
        "client_secret_basic",
        "client_secret_post",
        "private_key_jwt",
        "tls_client_auth",
    ];
    let told_algorithms = SignatureAlgorithm::ALL.map(SignatureAlgorithm::as_str);
    let any_client = [&confidential[..], &["none"]].concat();
    json!({
        "issuer": issuer,
        "authorization_endpoint": at(paths::AUTHORIZE),
        "pushed_authorization_request_endpoint": at(paths::PUSH),
        "require_pushed_authorization_requests": false,
        "device_authorization_endpoint": at(paths::DEVICE_AUTHORIZATION),
        "token_endpoint": at(paths::TOKEN),
        "revocation_endpoint": at(paths::REVOKE),
        "introspection_endpoint": at(paths::INTROSPECT),
        "userinfo_endpoint": at(paths::USERINFO),
        "end_session_endpoint": at(paths::END_SESSION),
        "backchannel_logout_supported": true,
        "backchannel_logout_session_supported": true,
        "jwks_uri": at(paths::JWKS),
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": GrantType::ALL.map(GrantType::as_str),
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": told_algorithms,
        "userinfo_signing_alg_values_supported": told_algorithms,
        "scopes_supported": OPENID_SCOPES,
        "claims_supported": [
            "iss", "sub", "aud", "exp", "iat", "auth_time", "nonce", "acr", "amr", "at_hash", "sid",
            "name", "given_name", "family_name", "preferred_username", "updated_at", "email", "email_verified", "groups", "roles"
        ],
        "acr_values_supported": ["1", "2", "3"],
        "prompt_values_supported": ["none", "login", "consent", "select_account"],
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": any_client,
        "token_endpoint_auth_signing_alg_values_supported": ["ES256"],
        "revocation_endpoint_auth_methods_supported": any_client,
        "revocation_endpoint_auth_signing_alg_values_supported": ["ES256"],
        "introspection_endpoint_auth_methods_supported": confidential,
        "introspection_endpoint_auth_signing_alg_values_supported": ["ES256"],
        "tls_client_certificate_bound_access_tokens": true,
        "dpop_signing_alg_values_supported": ["ES256"],
        "authorization_response_iss_parameter_supported": true,
        "claims_parameter_supported": false,
        "request_parameter_supported": true,
        "request_uri_parameter_supported": false,
        "require_signed_request_object": false,
        "request_object_signing_alg_values_supported": ["ES256"],
        "introspection_signing_alg_values_supported": ["ES256"]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_names_what_clients_look_for() {
        let text = serde_json::to_string_pretty(&document("https://id.bookshop.example")).unwrap();
        insta::assert_snapshot!(text, @r#"
        {
          "issuer": "https://id.bookshop.example",
          "authorization_endpoint": "https://id.bookshop.example/oauth2/authorize",
          "pushed_authorization_request_endpoint": "https://id.bookshop.example/oauth2/par",
          "require_pushed_authorization_requests": false,
          "device_authorization_endpoint": "https://id.bookshop.example/oauth2/device_authorization",
          "token_endpoint": "https://id.bookshop.example/oauth2/token",
          "revocation_endpoint": "https://id.bookshop.example/oauth2/revoke",
          "introspection_endpoint": "https://id.bookshop.example/oauth2/introspect",
          "userinfo_endpoint": "https://id.bookshop.example/oauth2/userinfo",
          "end_session_endpoint": "https://id.bookshop.example/oauth2/logout",
          "backchannel_logout_supported": true,
          "backchannel_logout_session_supported": true,
          "jwks_uri": "https://id.bookshop.example/oauth2/jwks",
          "response_types_supported": [
            "code"
          ],
          "response_modes_supported": [
            "query"
          ],
          "grant_types_supported": [
            "authorization_code",
            "refresh_token",
            "client_credentials",
            "urn:ietf:params:oauth:grant-type:token-exchange",
            "urn:ietf:params:oauth:grant-type:device_code"
          ],
          "subject_types_supported": [
            "public"
          ],
          "id_token_signing_alg_values_supported": [
            "ES256",
            "RS256"
          ],
          "userinfo_signing_alg_values_supported": [
            "ES256",
            "RS256"
          ],
          "scopes_supported": [
            "email",
            "groups",
            "offline_access",
            "openid",
            "profile",
            "roles"
          ],
          "claims_supported": [
            "iss",
            "sub",
            "aud",
            "exp",
            "iat",
            "auth_time",
            "nonce",
            "acr",
            "amr",
            "at_hash",
            "sid",
            "name",
            "given_name",
            "family_name",
            "preferred_username",
            "updated_at",
            "email",
            "email_verified",
            "groups",
            "roles"
          ],
          "acr_values_supported": [
            "1",
            "2",
            "3"
          ],
          "prompt_values_supported": [
            "none",
            "login",
            "consent",
            "select_account"
          ],
          "code_challenge_methods_supported": [
            "S256"
          ],
          "token_endpoint_auth_methods_supported": [
            "client_secret_basic",
            "client_secret_post",
            "private_key_jwt",
            "tls_client_auth",
            "none"
          ],
          "token_endpoint_auth_signing_alg_values_supported": [
            "ES256"
          ],
          "revocation_endpoint_auth_methods_supported": [
            "client_secret_basic",
            "client_secret_post",
            "private_key_jwt",
            "tls_client_auth",
            "none"
          ],
          "revocation_endpoint_auth_signing_alg_values_supported": [
            "ES256"
          ],
          "introspection_endpoint_auth_methods_supported": [
            "client_secret_basic",
            "client_secret_post",
            "private_key_jwt",
            "tls_client_auth"
          ],
          "introspection_endpoint_auth_signing_alg_values_supported": [
            "ES256"
          ],
          "tls_client_certificate_bound_access_tokens": true,
          "dpop_signing_alg_values_supported": [
            "ES256"
          ],
          "authorization_response_iss_parameter_supported": true,
          "claims_parameter_supported": false,
          "request_parameter_supported": true,
          "request_uri_parameter_supported": false,
          "require_signed_request_object": false,
          "request_object_signing_alg_values_supported": [
            "ES256"
          ],
          "introspection_signing_alg_values_supported": [
            "ES256"
          ]
        }
        "#);
    }
}
