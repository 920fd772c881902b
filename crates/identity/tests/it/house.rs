//! A provider with one user, a native client, a web client and a service account.

use std::{collections::BTreeMap, sync::Arc};

use serde::de::DeserializeOwned;
use testudo_identity::{
    Authorization, Caller, ClientKind, ClientLogout, ClientPolicy, ClientProfile, ConsentDecision,
    ConsentError, GrantType, LoggedIn, LoginError, LoginPrompt, LoginRequest, Logout, NewPassword,
    NewSecret, Outbox, OutboxEntry, Parameters, Peer, Provider, ServiceAccountProfile, Settings,
    TokenError, TokenRequest, TokenResponse, UserProfile,
};
use testudo_model::{
    AccessTokenClaims, Redacted, TenantName, UserId,
    event::{Event, Outcome},
    snapshot::Revocation,
};
use testudo_store::{Store, StoreOptions};
use testudo_testkit::{FakeClock, SeededEntropy};
use testudo_trust::{JwkSet, RootKey, SystemEntropy, base64url, sha256, verify_jwt};
use url::Url;

pub const ISSUER: &str = "https://id.bookshop.example";
pub const AUDIENCE: &str = "bookshop.example";
pub const PASSWORD: &str = "correct horse battery staple";
pub const SECRET: &str = "0123456789abcdef0123456789abcdef";
pub const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
pub const NATIVE_REDIRECT: &str = "http://127.0.0.1:51234/cb";
/// An address of the native client that is its alone (RFC 8252 section 7.2).
pub const CLAIMED_REDIRECT: &str = "https://app.bookshop.example/cb";
pub const WEB_REDIRECT: &str = "https://shop.example/cb";
pub const THUMBPRINT: &str = "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2";

pub struct House {
    pub provider: Arc<Provider>,
    pub clock: Arc<FakeClock>,
    pub store: Store,
    pub alice: UserId,
    pub caller: Caller,
    _folder: tempfile::TempDir,
}

pub fn settings() -> Settings {
    Settings {
        issuer: ISSUER.to_owned(),
        audience: AUDIENCE.to_owned(),
        tenant: TenantName::default_tenant(),
        reporter: "spiffe://bookshop.example/testudo/server".parse().unwrap(),
    }
}

impl House {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = FakeClock::today();
        let options = StoreOptions {
            path: folder.path().to_owned(),
            root_key: RootKey::from_bytes([7; 32]),
            clock: clock.clone(),
            entropy: Arc::new(SystemEntropy),
        };
        let store = Store::open(options).unwrap();
        let entropy = SeededEntropy::new(42);
        let provider =
            Provider::open(&store, settings(), clock.clone(), entropy, Arc::new(Outbox)).unwrap();
        let caller = Caller {
            source_ip: Some("192.0.2.7".parse().unwrap()),
            ..Caller::default()
        };
        let alice = furnish(&provider, &caller);
        Self {
            provider: Arc::new(provider),
            clock,
            store,
            alice,
            caller,
            _folder: folder,
        }
    }

    /// A second node on the same store.
    pub fn another_provider(&self, seed: u64) -> Provider {
        let entropy = SeededEntropy::new(seed);
        Provider::open(
            &self.store,
            settings(),
            self.clock.clone(),
            entropy,
            Arc::new(Outbox),
        )
        .unwrap()
    }

    pub fn prompt(&self, parameters: &Parameters) -> LoginPrompt {
        match self
            .provider
            .authorize(parameters, None, None, &self.caller)
            .unwrap()
        {
            Authorization::Login(prompt) => prompt,
            other => panic!("expected a login page, got {other:?}"),
        }
    }

    pub fn try_login(&self, username: &str, password: &str) -> Result<LoggedIn, LoginError> {
        self.try_login_from(username, password, &self.caller)
    }

    pub fn try_login_from(
        &self,
        username: &str,
        password: &str,
        caller: &Caller,
    ) -> Result<LoggedIn, LoginError> {
        let prompt = self.prompt(&native_request(&[]));
        let password = Redacted::new(password.to_owned());
        let request = LoginRequest {
            flow: &prompt.flow,
            browser: Some(prompt.browser.expose()),
            session: None,
            username,
            password: &password,
        };
        self.provider.login(&request, caller)
    }

    /// Logs alice in through the request `parameters`; answers what the browser gets.
    pub fn login_through(&self, parameters: &Parameters) -> LoggedIn {
        self.login_as("alice", parameters)
    }

    /// The same for another user with the same password.
    pub fn login_as(&self, username: &str, parameters: &Parameters) -> LoggedIn {
        let prompt = self.prompt(parameters);
        let password = Redacted::new(PASSWORD.to_owned());
        let request = LoginRequest {
            flow: &prompt.flow,
            browser: Some(prompt.browser.expose()),
            session: None,
            username,
            password: &password,
        };
        self.provider.login(&request, &self.caller).unwrap()
    }

    /// Takes a user's word at the page that `location` leads to; where the browser goes next.
    pub fn consent(
        &self,
        location: &str,
        cookie: &str,
        decision: ConsentDecision,
    ) -> Result<String, ConsentError> {
        let flow = location.strip_prefix("/consent?flow=").expect(location);
        let decided = self
            .provider
            .decide_consent(flow, decision, Some(cookie), &self.caller);
        decided.map(|location| location.expose().clone())
    }

    /// Logs out the user of a session cookie, by their own wish.
    pub fn log_out(&self, cookie: &str) {
        let nothing = Parameters::default();
        let asked = self
            .provider
            .begin_logout(&nothing, Some(cookie), &self.caller);
        if let Logout::Ask(question) = asked.unwrap() {
            let done = self
                .provider
                .confirm_logout(&question.flow, Some(cookie), &self.caller);
            assert!(matches!(done.unwrap(), Logout::Done { location: None }));
        }
    }

    /// From now on the native client takes part in logouts like this.
    pub fn tell_of_logouts(&self, logout: ClientLogout) {
        let cli = "cli".parse().unwrap();
        let version = self.provider.client(&cli).unwrap().version;
        let profile = ClientProfile {
            logout,
            ..native_profile()
        };
        self.provider
            .update_client(&cli, version, profile, &self.caller)
            .unwrap();
    }

    /// From now on the native client must do what `policy` says.
    pub fn demand(&self, policy: ClientPolicy) {
        let cli = "cli".parse().unwrap();
        let version = self.provider.client(&cli).unwrap().version;
        let profile = ClientProfile {
            policy,
            ..native_profile()
        };
        self.provider
            .update_client(&cli, version, profile, &self.caller)
            .unwrap();
    }

    /// A fresh code of alice at the native client.
    pub fn code(&self) -> String {
        code_of(&self.login_through(&native_request(&[])))
    }

    pub fn redeem(&self, code: &str) -> Result<TokenResponse, TokenError> {
        self.token(&redemption(code, &[]))
    }

    /// Redeems a code that went to [`CLAIMED_REDIRECT`].
    pub fn redeem_claimed(&self, code: &str) -> Result<TokenResponse, TokenError> {
        self.token(&redemption(code, &[("redirect_uri", CLAIMED_REDIRECT)]))
    }

    pub fn tokens(&self) -> TokenResponse {
        self.redeem(&self.code()).unwrap()
    }

    pub fn refresh(&self, refresh_token: &str) -> Result<TokenResponse, TokenError> {
        self.token(&form(&[
            ("grant_type", "refresh_token"),
            ("client_id", "cli"),
            ("refresh_token", refresh_token),
        ]))
    }

    pub fn token(&self, parameters: &Parameters) -> Result<TokenResponse, TokenError> {
        self.token_of(parameters, None)
    }

    /// The same over a connection with a certificate.
    pub fn token_of(
        &self,
        parameters: &Parameters,
        peer: Option<&Peer>,
    ) -> Result<TokenResponse, TokenError> {
        let request = TokenRequest {
            parameters,
            authorization: None,
            dpop: None,
            peer,
        };
        self.provider.token(&request, &self.caller)
    }

    pub fn claims<C: DeserializeOwned>(&self, token: &str, typ: &str) -> C {
        let keys = JwkSet::parse(&self.provider.jwks().unwrap().to_string()).unwrap();
        verify_jwt(token, typ, &keys).unwrap()
    }

    pub fn access_claims(&self, tokens: &TokenResponse) -> AccessTokenClaims {
        self.claims(&tokens.access_token, "at+jwt")
    }

    pub fn revocations(&self) -> Vec<Revocation> {
        self.provider.revocations_since(0).unwrap().0
    }

    pub fn events(&self) -> Vec<Event> {
        let tenant = self.store.tenant(&TenantName::default_tenant());
        let entries = tenant.read_log::<OutboxEntry>(0, 10_000).unwrap();
        entries.into_iter().map(|(_, entry)| entry.0).collect()
    }

    pub fn events_named(&self, activity: &str, outcome: Outcome) -> Vec<Event> {
        let matches = |event: &Event| event.activity == activity && event.outcome == outcome;
        self.events().into_iter().filter(matches).collect()
    }
}

fn furnish(provider: &Provider, caller: &Caller) -> UserId {
    let user = provider
        .create_user(
            &"alice".parse().unwrap(),
            UserProfile {
                display_name: Some("Alice".to_owned()),
                email: Some("alice@bookshop.example".to_owned()),
                ..UserProfile::default()
            },
            Some(&NewPassword::Given(Redacted::new(PASSWORD.to_owned()))),
            caller,
        )
        .unwrap();
    provider
        .create_client(
            &"cli".parse().unwrap(),
            native_profile(),
            &NewSecret::None,
            caller,
        )
        .unwrap();
    let given = NewSecret::Given(Redacted::new(SECRET.to_owned()));
    provider
        .create_client(&"web".parse().unwrap(), web_profile(), &given, caller)
        .unwrap();
    let restock = ServiceAccountProfile {
        scopes: vec![
            "stock:read".parse().unwrap(),
            "stock:write".parse().unwrap(),
        ],
        workloads: vec!["spiffe://bookshop.example/svc/restock".parse().unwrap()],
        ..ServiceAccountProfile::default()
    };
    provider
        .create_service_account(&"restock".parse().unwrap(), restock, &given, caller)
        .unwrap();
    user.record.id
}

pub fn native_profile() -> ClientProfile {
    ClientProfile {
        display_name: "Command line".to_owned(),
        kind: ClientKind::Public,
        redirect_uris: vec![
            "http://127.0.0.1/cb".parse().unwrap(),
            CLAIMED_REDIRECT.parse().unwrap(),
        ],
        grants: vec![GrantType::AuthorizationCode, GrantType::RefreshToken],
        scopes: vec![
            "orders:read".parse().unwrap(),
            "orders:write".parse().unwrap(),
        ],
        ..ClientProfile::default()
    }
}

pub fn web_profile() -> ClientProfile {
    ClientProfile {
        display_name: "Web shop".to_owned(),
        kind: ClientKind::Confidential,
        redirect_uris: vec![WEB_REDIRECT.parse().unwrap()],
        grants: vec![GrantType::AuthorizationCode, GrantType::RefreshToken],
        scopes: vec!["orders:read".parse().unwrap()],
        ..ClientProfile::default()
    }
}

pub fn restock_peer() -> Peer {
    Peer {
        spiffe_id: "spiffe://bookshop.example/svc/restock".parse().unwrap(),
        certificate_thumbprint: THUMBPRINT.to_owned(),
    }
}

pub fn form(pairs: &[(&str, &str)]) -> Parameters {
    Parameters::from_pairs(pairs.iter().copied()).unwrap()
}

/// `defaults` with `changes`; an empty value takes a parameter away.
pub fn changed<'a>(defaults: &[(&'a str, &'a str)], changes: &[(&'a str, &'a str)]) -> Parameters {
    let mut all: BTreeMap<&str, &str> = defaults.iter().copied().collect();
    all.extend(changes.iter().copied());
    Parameters::from_pairs(all).unwrap()
}

pub fn challenge() -> String {
    base64url::encode(&sha256(VERIFIER.as_bytes()))
}

pub fn native_request(changes: &[(&str, &str)]) -> Parameters {
    let challenge = challenge();
    let defaults = [
        ("response_type", "code"),
        ("client_id", "cli"),
        ("redirect_uri", NATIVE_REDIRECT),
        ("scope", "openid profile orders:read"),
        ("state", "xyz"),
        ("nonce", "n-0S6"),
        ("code_challenge", &challenge),
        ("code_challenge_method", "S256"),
    ];
    changed(&defaults, changes)
}

/// As [`native_request`], with the answer to [`CLAIMED_REDIRECT`].
pub fn claimed_request(changes: &[(&str, &str)]) -> Parameters {
    native_request(&[&[("redirect_uri", CLAIMED_REDIRECT)], changes].concat())
}

pub fn redemption(code: &str, changes: &[(&str, &str)]) -> Parameters {
    let defaults = [
        ("grant_type", "authorization_code"),
        ("client_id", "cli"),
        ("code", code),
        ("redirect_uri", NATIVE_REDIRECT),
        ("code_verifier", VERIFIER),
    ];
    changed(&defaults, changes)
}

pub fn query(location: &str) -> BTreeMap<String, String> {
    Url::parse(location)
        .unwrap()
        .query_pairs()
        .into_owned()
        .collect()
}

pub fn code_of(logged_in: &LoggedIn) -> String {
    query(logged_in.location.expose())["code"].clone()
}
