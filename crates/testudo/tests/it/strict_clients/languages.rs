//! Clients in five languages, each of a library that people use there: they log in, verify what they get, refresh it, and
//! are refused what they must not get. Each does so at a provider of somebody else's first.

use std::{any::Any, fs, path::PathBuf};

use serde_json::{Value, json};
use testudo_trust::{SigningKey, base64url};

use super::{authority, jose, oauth4webapi, reference::Reference, run_trusting};
use crate::{
    installed::{left_out, tool},
    shop::{Shop, password},
};

const REDIRECT: &str = "https://client.example/callback";
/// With which clients are registered at the other provider.
const REGISTRATION_TOKEN: &str = "anybody-who-knows-this-registers-clients";

/// A provider that knows alice, a client with a secret and one with a key.
struct Provider {
    issuer: String,
    authority: PathBuf,
    key: SigningKey,
    /// The `aud` of access tokens, if they are JWTs.
    audience: Option<&'static str>,
    /// With which clients are registered.
    registration_token: String,
    _running: Box<dyn Any>,
}

impl Provider {
    /// Both: somebody else's, then ours.
    fn both() -> [fn() -> Self; 2] {
        [Self::reference, Self::testudo]
    }

    fn reference() -> Self {
        let key = SigningKey::generate();
        let clients = [
            json!({
                "client_id": "with-secret",
                "client_secret": password("help-desk"),
                "redirect_uris": [REDIRECT],
            }),
            json!({
                "client_id": "with-key",
                "token_endpoint_auth_method": "private_key_jwt",
                "jwks": { "keys": [key.public_jwk()] },
                "redirect_uris": [REDIRECT],
            }),
        ];
        let running = Reference::start(&clients, REGISTRATION_TOKEN);
        Self {
            issuer: running.issuer.clone(),
            authority: running.authority.clone(),
            key,
            audience: None,
            registration_token: REGISTRATION_TOKEN.to_owned(),
            _running: Box::new(running),
        }
    }

    fn testudo() -> Self {
        let shop = Shop::open("");
        let folder = &shop.fleet.folder;
        let key = SigningKey::generate();
        let jwks = json!({ "keys": [key.public_jwk()] });
        let file = fs::read_to_string(folder.fleet_file()).unwrap();
        let clients = format!(
            r#"
[clients.with-secret]
kind = "confidential"
redirect_uris = ["{REDIRECT}"]
secret = {{ file = "passwords/help-desk" }}

[clients.with-key]
kind = "confidential"
grant_types = ["authorization_code", "refresh_token", "device_code"]
redirect_uris = ["{REDIRECT}"]
jwks = '{jwks}'

[registration]
auth_methods = ["private_key_jwt"]
redirect_hosts = ["client.example"]
"#
        );
        fs::write(folder.fleet_file(), format!("{file}{clients}")).unwrap();
        folder.run(&["apply", "fleet.toml"]);
        let registration_token = folder.run(&["registration-token", "create"]);
        Self {
            issuer: shop.fleet.ready["server"].as_str().unwrap().to_owned(),
            authority: authority(&shop),
            key,
            audience: Some("https://shop.example"),
            registration_token: registration_token.trim().to_owned(),
            _running: Box::new(shop),
        }
    }

    /// What an application found: a script of ours, or a program with somebody who logs in for it.
    fn application(&self, client_id: &str, script: &str, arguments: &[String]) -> Value {
        let told = json!({
            "issuer": self.issuer,
            "client_id": client_id,
            "client_secret": password("help-desk"),
            "key": base64url::encode(self.key.to_pkcs8().expose()),
            "kid": self.key.key_id(),
            "jwk": self.key.public_jwk(),
            "initial_access_token": self.registration_token,
            "redirect_uri": REDIRECT,
            "user": "alice",
            "password": password("alice"),
            "audience": self.audience,
            "device": self.audience.is_some(),
        });
        let found = run_trusting(&self.authority, script, arguments, &told);
        found.unwrap_or_else(|failure| panic!("at {}: {failure}", self.issuer))
    }
}

#[test]
fn go_oidc_and_oauth2_of_go_log_in() {
    if left_out() {
        return;
    }
    let client = [tool(&[".tools/go-oidc-client"])];
    for provider in Provider::both() {
        let provider = provider();
        assert_eq!(
            provider.application("with-secret", "companion.mjs", &client),
            json!({
                "name": "alice",
                "bound": provider.audience.is_some(),
                "elsewhere": true,
                "again": "invalid_grant",
                "after": "invalid_grant",
            })
        );
    }
}

#[test]
fn openidconnect_of_rust_logs_in() {
    if left_out() {
        return;
    }
    let client = [tool(&[".tools/openidconnect/debug/openidconnect-client"])];
    for provider in Provider::both() {
        let provider = provider();
        assert_eq!(
            provider.application("with-secret", "companion.mjs", &client),
            json!({
                "name": "alice",
                "bound": provider.audience.is_some(),
                "elsewhere": true,
                "mixed_up": true,
                "again": "invalid_grant",
                "after": "invalid_grant",
            })
        );
    }
}

#[test]
fn authlib_of_python_logs_in_with_a_key() {
    if left_out() {
        return;
    }
    let program = [
        tool(&[".tools/venv/bin/python3"]),
        super::script_path("authlib_client.py")
            .display()
            .to_string(),
    ];
    for provider in Provider::both() {
        let provider = provider();
        assert_eq!(
            provider.application("with-key", "companion.mjs", &program),
            json!({
                "name": "alice",
                "wrong": vec!["invalid_claim"; if provider.audience.is_some() { 4 } else { 3 }],
                "again": "invalid_grant",
                "after": "invalid_grant",
            })
        );
    }
}

#[test]
fn oauth4webapi_pushes_proves_and_connects_and_jose_verifies() {
    if left_out() {
        return;
    }
    let libraries = [oauth4webapi(), jose()];
    for provider in Provider::both() {
        let provider = provider();
        let mut expected = json!({
            "name": "alice",
            "type": ["dpop", true, "with-key"],
            "bound": provider.audience.is_some(),
            "elsewhere": "ERR_JWT_CLAIM_VALIDATION_FAILED",
            "again": "invalid_grant",
            "after": "invalid_grant",
            "revoked": false,
        });
        if provider.audience.is_some() {
            expected["connected"] = json!(["authorization_pending", "dpop", true]);
        }
        assert_eq!(
            provider.application("with-key", "oauth4webapi.mjs", &libraries),
            expected
        );
    }
}

#[test]
fn openid_client_registers_itself_and_manages_that() {
    if left_out() {
        return;
    }
    for provider in Provider::both() {
        let found = provider().application("", "registration.mjs", &[super::library()]);
        assert_eq!(
            found,
            json!({
                "untold": 401,
                "refused": [
                    "invalid_token",
                    "invalid_redirect_uri",
                    "invalid_client_metadata",
                    "invalid_client_metadata",
                ],
                "method": "private_key_jwt",
                "name": "alice",
                "names": ["An application", "Another name", "Another name"],
                "rotated": true,
                "statuses": [200, 200, 200, 401, 204, 401],
                "after": "invalid_client",
            })
        );
    }
}
