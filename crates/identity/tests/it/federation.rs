//! Logging in at an identity provider elsewhere, and what an attacker makes of each step.

mod attacks;

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use serde_json::{Value, json};
use testudo_identity::{
    AccountAction, AccountError, AccountPage, AssuranceRule, Authorization, Caller, Connecting,
    GroupClaim, IdentityProvider, LinkView, LoggedIn, LoginError, LoginPrompt, LoginRequest,
    NewPassword, NewUsers, Parameters, SecondFactorRequest, UpstreamAuthentication, UpstreamCaller,
    UpstreamError, UpstreamLogin, UpstreamMetadata, User, UserProfile,
    limits::{FREE_FAILURES_PER_SOURCE, MAX_LINKS_PER_USER},
};
use testudo_model::{Clock, Redacted, UserId, event::Outcome};
use testudo_trust::{ForeignKeySet, SigningKey, base64url, hmac_sha256, sha256};

use crate::{
    assertions::jwks_of,
    house::{House, ISSUER, PASSWORD, claimed_request, code_of, form, query},
    passkeys::detail,
    second_factor::{Authenticator, enrol},
};

const CORP: &str = "https://login.corp.example";
const OTHER: &str = "https://login.other.example";
const CLIENT: &str = "fleet-at-corp";

/// A house whose people may log in at `corp` and at `other`.
struct Town {
    house: House,
    corp: SigningKey,
    other: SigningKey,
    /// Each answer comes from a network of its own: how many one network may send is tested apart.
    network: AtomicU8,
}

/// A browser that is at the identity provider.
struct Trip {
    prompt: LoginPrompt,
    asked: BTreeMap<String, String>,
    at: &'static str,
}

fn at(name: &str, issuer: &str, new_users: NewUsers) -> IdentityProvider {
    IdentityProvider {
        name: name.to_owned(),
        label: name.to_uppercase(),
        issuer: issuer.to_owned(),
        client_id: CLIENT.to_owned(),
        authentication: UpstreamAuthentication::SecretBasic(Redacted::new("s:€cret".to_owned())),
        scopes: vec!["openid".to_owned(), "profile".to_owned()],
        new_users,
        trusts_email: true,
        username_claim: "preferred_username".to_owned(),
        groups: Some(GroupClaim {
            claim: "groups".to_owned(),
            map: BTreeMap::from([
                ("cn-staff".to_owned(), vec!["staff".parse().unwrap()]),
                ("cn-admins".to_owned(), vec!["admins".parse().unwrap()]),
            ]),
        }),
        assurance: vec![AssuranceRule {
            acr: Some("gold".to_owned()),
            amr: vec!["mfa".to_owned()],
            class: "2".to_owned(),
        }],
    }
}

fn metadata(issuer: &str) -> UpstreamMetadata {
    let document = json!({
        "issuer": issuer,
        "authorization_endpoint": format!("{issuer}/auth?tenant=7"),
        "token_endpoint": format!("{issuer}/token"),
        "jwks_uri": format!("{issuer}/jwks"),
        "authorization_response_iss_parameter_supported": issuer == CORP,
    });
    UpstreamMetadata::read(document.to_string().as_bytes(), issuer, false).unwrap()
}

fn issuer_of(name: &str) -> &'static str {
    if name == "corp" { CORP } else { OTHER }
}

impl Town {
    fn new(new_users: NewUsers) -> Self {
        let house = House::new();
        for group in ["staff", "admins", "local"] {
            let group = group.parse().unwrap();
            let profile = testudo_identity::GroupProfile::default();
            house
                .provider
                .create_group(&group, profile, &house.caller)
                .unwrap();
        }
        house.provider.trust_identity_providers(vec![
            at("corp", CORP, new_users),
            at("other", OTHER, new_users),
        ]);
        Self {
            house,
            corp: SigningKey::generate(),
            other: SigningKey::generate(),
            network: AtomicU8::new(0),
        }
    }

    fn keys(&self, name: &str) -> ForeignKeySet {
        let key = if name == "corp" {
            &self.corp
        } else {
            &self.other
        };
        ForeignKeySet::parse(&jwks_of(&[key])).unwrap()
    }

    fn set_out(&self, at: &'static str, request: &Parameters) -> Trip {
        let prompt = self.house.prompt(request);
        self.set_out_from(at, prompt)
    }

    fn set_out_from(&self, at: &'static str, prompt: LoginPrompt) -> Trip {
        let browser = Some(prompt.browser.expose().as_str());
        let metadata = metadata(issuer_of(at));
        let provider = &self.house.provider;
        let location = provider
            .begin_upstream_login(at, &metadata, &prompt.flow, browser)
            .unwrap();
        Trip {
            asked: query(location.expose()),
            prompt,
            at,
        }
    }

    fn trip(&self) -> Trip {
        self.set_out("corp", &claimed_request(&[]))
    }

    /// The claims of somebody at corp with changes: `null` takes one away.
    fn claims(&self, trip: &Trip, changes: Value) -> Value {
        let now = self.house.clock.now().unix_seconds();
        let mut claims = json!({
            "iss": issuer_of(trip.at),
            "sub": "248289761001",
            "aud": CLIENT,
            "iat": now,
            "exp": now + 300,
            "auth_time": now,
            "nonce": trip.asked["nonce"],
            "preferred_username": "carol",
            "name": "Carol",
        });
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims
            .as_object_mut()
            .unwrap()
            .retain(|_, value| !value.is_null());
        claims
    }

    /// The answer that the browser brings, with changes.
    fn answer(&self, trip: &Trip, changes: &[(&str, &str)]) -> Parameters {
        let defaults = [
            ("code", "SplxlOBeZQQYbYS6WxSbIA"),
            ("state", trip.asked["state"].as_str()),
            ("iss", issuer_of(trip.at)),
        ];
        crate::house::changed(&defaults, changes)
    }

    fn come_back_with(
        &self,
        trip: &Trip,
        answer: &Parameters,
        id_token: &str,
        session: Option<&str>,
    ) -> Result<UpstreamLogin, UpstreamError> {
        let network = self.network.fetch_add(1, Ordering::Relaxed);
        let caller = Caller {
            source_ip: Some(format!("198.51.{network}.7").parse().unwrap()),
            ..Caller::default()
        };
        self.come_back_from(&caller, trip, answer, id_token, session)
    }

    fn come_back_from(
        &self,
        caller: &Caller,
        trip: &Trip,
        answer: &Parameters,
        id_token: &str,
        session: Option<&str>,
    ) -> Result<UpstreamLogin, UpstreamError> {
        let provider = &self.house.provider;
        let browser = Some(trip.prompt.browser.expose().as_str());
        let metadata = metadata(issuer_of(trip.at));
        let answer =
            provider.receive_upstream_answer(trip.at, &metadata, answer, browser, caller)?;
        let keys = self.keys(trip.at);
        let claims = provider.check_upstream_token(&answer, id_token, &keys, caller)?;
        let by = UpstreamCaller {
            session,
            browser,
            caller,
        };
        provider.finish_upstream_login(answer, &claims, &by)
    }

    fn token(&self, trip: &Trip, changes: Value) -> String {
        let key = if trip.at == "corp" {
            &self.corp
        } else {
            &self.other
        };
        key.sign_jwt("JWT", &self.claims(trip, changes)).unwrap()
    }

    fn come_back(&self, trip: &Trip, changes: Value) -> Result<UpstreamLogin, UpstreamError> {
        let answer = self.answer(trip, &[]);
        self.come_back_with(trip, &answer, &self.token(trip, changes), None)
    }

    /// A whole login of somebody at corp.
    fn log_in(&self, changes: Value) -> Result<UpstreamLogin, UpstreamError> {
        self.come_back(&self.trip(), changes)
    }

    fn logged_in(&self, changes: Value) -> LoggedIn {
        logged_in(self.log_in(changes))
    }

    fn user(&self, name: &str) -> User {
        let stored = self.house.provider.user_by_name(&name.parse().unwrap());
        stored.unwrap().record
    }

    fn links(&self, user: &UserId) -> Vec<LinkView> {
        self.house.provider.links_of(user).unwrap()
    }

    /// Why logins elsewhere did not count, the last one last.
    fn reasons(&self) -> Vec<String> {
        let events = self.house.events_named("login.upstream", Outcome::Denied);
        events.iter().map(|event| detail(event, "reason")).collect()
    }

    fn assert_refused(&self, outcome: Result<UpstreamLogin, UpstreamError>, why: &str) {
        assert!(
            matches!(outcome, Err(UpstreamError::NotAccepted { .. })),
            "{outcome:?}"
        );
        assert_eq!(self.reasons().last().map(String::as_str), Some(why));
    }

    /// Connects alice to corp by hand.
    fn connect_alice(&self) {
        let house = &self.house;
        let link = house
            .provider
            .connect_user(&house.alice, "corp", "248289761001", &house.caller);
        link.unwrap();
    }

    /// The login form with a local password.
    fn send_password(&self, prompt: &LoginPrompt) -> Result<LoggedIn, LoginError> {
        let password = Redacted::new(PASSWORD.to_owned());
        let request = LoginRequest {
            flow: &prompt.flow,
            browser: Some(prompt.browser.expose()),
            session: None,
            username: "alice",
            password: &password,
        };
        self.house.provider.login(&request, &self.house.caller)
    }

    fn account(&self, cookie: &str) -> testudo_identity::AccountView {
        match self
            .house
            .provider
            .account_page(Some(cookie), None)
            .unwrap()
        {
            AccountPage::Overview(view) => *view,
            other => panic!("{other:?}"),
        }
    }
}

fn logged_in(outcome: Result<UpstreamLogin, UpstreamError>) -> LoggedIn {
    match outcome {
        Ok(UpstreamLogin::LoggedIn(logged_in)) => logged_in,
        other => panic!("{other:?}"),
    }
}

fn prompt_to_connect(outcome: Result<UpstreamLogin, UpstreamError>) -> LoginPrompt {
    match outcome {
        Ok(UpstreamLogin::Connect(prompt)) => prompt,
        other => panic!("{other:?}"),
    }
}

fn names<T: ToString>(all: &[T]) -> Vec<String> {
    all.iter().map(ToString::to_string).collect()
}

#[test]
fn the_identity_provider_is_asked_as_the_specifications_say() {
    let town = Town::new(NewUsers::Create);
    let trip = town.trip();
    let asked = &trip.asked;
    for (name, value) in [
        ("tenant", "7"),
        ("response_type", "code"),
        ("client_id", CLIENT),
        ("redirect_uri", "https://id.bookshop.example/login/at/corp"),
        ("scope", "openid profile"),
        ("code_challenge_method", "S256"),
    ] {
        assert_eq!(asked[name], value, "{name}");
    }
    assert!(!asked.contains_key("max_age") && !asked.contains_key("prompt"));
    let browser = Some(trip.prompt.browser.expose().as_str());
    let (provider, metadata) = (&town.house.provider, metadata(CORP));
    let (answer, caller) = (town.answer(&trip, &[]), &town.house.caller);
    let answer = provider.receive_upstream_answer("corp", &metadata, &answer, browser, caller);
    let call = provider
        .upstream_token_call(&answer.unwrap(), &metadata)
        .unwrap();
    assert_eq!(call.url, "https://login.corp.example/token");
    // RFC 6749 section 2.3.1: the secret is form-encoded before it is base64.
    let authorization = call.authorization.unwrap();
    assert_eq!(
        authorization.expose(),
        "Basic ZmxlZXQtYXQtY29ycDpzJTNBJUUyJTgyJUFDY3JldA=="
    );
    let sent = query(&format!("https://x/?{}", call.form.expose()));
    assert_eq!(sent["code"], "SplxlOBeZQQYbYS6WxSbIA");
    assert_eq!(
        base64url::encode(&sha256(sent["code_verifier"].as_bytes())),
        asked["code_challenge"]
    );
    // No two trips have anything in common.
    let again = town.trip();
    for name in ["state", "nonce", "code_challenge"] {
        assert_ne!(asked[name], again.asked[name], "{name}");
    }
    // What is asked for by the application is asked for there too.
    let forced = town.set_out("corp", &claimed_request(&[("prompt", "login")]));
    assert_eq!(
        (&*forced.asked["max_age"], &*forced.asked["prompt"]),
        ("0", "login")
    );
    let strong = [("max_age", "60"), ("acr_values", "2")];
    let strong = town.set_out("corp", &claimed_request(&strong));
    assert_eq!(
        (&*strong.asked["max_age"], &*strong.asked["acr_values"]),
        ("60", "gold")
    );
}

#[test]
fn the_key_that_signs_our_tokens_proves_us_elsewhere() {
    let town = Town::new(NewUsers::Create);
    let mut corp = at("corp", CORP, NewUsers::Create);
    corp.authentication = UpstreamAuthentication::PrivateKeyJwt;
    town.house.provider.trust_identity_providers(vec![corp]);
    let trip = town.trip();
    let browser = Some(trip.prompt.browser.expose().as_str());
    let (provider, metadata) = (&town.house.provider, metadata(CORP));
    let (answer, caller) = (town.answer(&trip, &[]), &town.house.caller);
    let answer = provider.receive_upstream_answer("corp", &metadata, &answer, browser, caller);
    let call = provider
        .upstream_token_call(&answer.unwrap(), &metadata)
        .unwrap();
    assert!(call.authorization.is_none());
    let sent = query(&format!("https://x/?{}", call.form.expose()));
    let claims: Value = town.house.claims(&sent["client_assertion"], "JWT");
    assert_eq!(
        (&claims["iss"], &claims["sub"]),
        (&json!(CLIENT), &json!(CLIENT))
    );
    assert_eq!(claims["aud"], CORP);
    // It is no token of ours for anybody.
    let token = testudo_identity::PresentedToken::bearer(&sent["client_assertion"], None);
    assert!(provider.user_info(token).is_err());
}

#[test]
fn who_is_new_gets_an_account_and_has_it_again_at_the_next_login() {
    let town = Town::new(NewUsers::Create);
    let first = town.logged_in(json!({ "groups": ["cn-staff", "cn-unknown"] }));
    let carol = town.user("carol");
    assert_eq!(carol.display_name.as_deref(), Some("Carol"));
    assert_eq!(names(&carol.groups), ["staff"]);
    let tokens = town.house.redeem_claimed(&code_of(&first)).unwrap();
    let claims = town.house.access_claims(&tokens);
    assert_eq!(claims.sub, carol.id.as_str());
    assert_eq!(
        (claims.acr.as_deref(), &claims.amr[..]),
        (Some("1"), &["fed".to_owned()][..])
    );
    let event = &town.house.events_named("login.upstream", Outcome::Success)[0];
    assert_eq!(event.actor.subject.as_deref(), Some(carol.id.as_str()));
    assert_eq!(detail(event, "upstream"), "corp");
    assert_eq!(detail(event, "upstream_subject"), "248289761001");

    // Another name there, another group: the same user here. Groups that nobody there decides about stay.
    let local = "local".parse().unwrap();
    let kind = testudo_identity::MemberKind::User;
    let (provider, caller) = (&town.house.provider, &town.house.caller);
    provider.add_member(&local, kind, "carol", caller).unwrap();
    town.logged_in(json!({
        "groups": "cn-admins", "preferred_username": "carol.smith", "name": "Carol Smith",
        "acr": "gold", "amr": ["pwd", "mfa"],
    }));
    let after = town.user("carol");
    assert_eq!(after.id, carol.id);
    assert_eq!(after.display_name.as_deref(), Some("Carol Smith"));
    assert_eq!(names(&after.groups), ["local", "admins"]);
    let [link] = &town.links(&carol.id)[..] else {
        panic!("one link");
    };
    assert_eq!((&*link.authority, &*link.subject), (CORP, "248289761001"));
    assert_eq!(link.account.as_deref(), Some("carol.smith"));
    // Nobody there says anything any more.
    town.logged_in(json!({}));
    assert_eq!(names(&town.user("carol").groups), ["local"]);
    assert_eq!(
        town.house
            .events_named("user.create", Outcome::Success)
            .len(),
        2
    );
}

#[test]
fn a_login_there_is_worth_here_what_a_rule_says() {
    let town = Town::new(NewUsers::Create);
    for (said, acr) in [
        (json!({ "acr": "gold", "amr": ["mfa"] }), "2"),
        (json!({ "acr": "gold", "amr": ["pwd"] }), "1"),
        (json!({ "acr": "3", "amr": ["mfa", "hwk"] }), "1"),
        (json!({ "acr": "3" }), "1"),
    ] {
        let done = town.logged_in(said.clone());
        let tokens = town.house.redeem_claimed(&code_of(&done)).unwrap();
        let claims = town.house.access_claims(&tokens);
        assert_eq!(claims.acr.as_deref(), Some(acr), "{said}");
        assert_eq!(claims.amr.contains(&"mfa".to_owned()), acr == "2");
    }
    // An application that wants two factors gets them, or is told; and may ask for them again.
    let request = claimed_request(&[("acr_values", "2")]);
    let trip = town.set_out("corp", &request);
    let done = logged_in(town.come_back(&trip, json!({ "acr": "gold", "amr": ["mfa"] })));
    assert!(query(done.location.expose()).contains_key("code"));
    let trip = town.set_out("corp", &request);
    let weak = logged_in(town.come_back(&trip, json!({})));
    let told = query(weak.location.expose());
    assert_eq!(told["error"], "unmet_authentication_requirements");
    let cookie = Some(weak.session_cookie.expose().as_str());
    let again = town
        .house
        .provider
        .authorize(&request, cookie, None, &town.house.caller);
    assert!(matches!(again, Ok(Authorization::Login(_))), "{again:?}");
}

#[test]
fn a_mail_address_is_taken_over_if_it_is_verified_and_the_fleet_believes_that() {
    for (said, taken) in [
        (
            json!({ "email": "c@corp.example", "email_verified": true }),
            true,
        ),
        (
            json!({ "email": "c@corp.example", "email_verified": "true" }),
            false,
        ),
        (json!({ "email": "c@corp.example" }), false),
        (json!({ "email_verified": true }), false),
    ] {
        let town = Town::new(NewUsers::Create);
        town.logged_in(said.clone());
        assert_eq!(town.user("carol").email.is_some(), taken, "{said}");
    }
    let town = Town::new(NewUsers::Create);
    let mut corp = at("corp", CORP, NewUsers::Create);
    corp.trusts_email = false;
    town.house.provider.trust_identity_providers(vec![corp]);
    town.logged_in(json!({ "email": "c@corp.example", "email_verified": true }));
    assert_eq!(town.user("carol").email, None);
}

#[test]
fn who_proves_an_account_here_is_connected_at_their_first_login() {
    let town = Town::new(NewUsers::Link);
    let prompt = prompt_to_connect(town.log_in(json!({})));
    assert!(
        town.house
            .provider
            .user_by_name(&"carol".parse().unwrap())
            .is_err()
    );
    // The form is for whoever has an account here, not for another identity provider.
    let browser = Some(prompt.browser.expose().as_str());
    let other = metadata(OTHER);
    let refused = town
        .house
        .provider
        .begin_upstream_login("other", &other, &prompt.flow, browser);
    assert!(matches!(refused, Err(LoginError::FlowInvalid)));

    let done = town.send_password(&prompt).unwrap();
    assert!(query(done.location.expose()).contains_key("code"));
    let [link] = &town.links(&town.house.alice)[..] else {
        panic!("one link");
    };
    assert_eq!(link.account.as_deref(), Some("carol"));
    let linked = &town.house.events_named("upstream.link", Outcome::Success)[0];
    assert_eq!(linked.target.as_deref(), Some(town.house.alice.as_str()));
    // Once: the same form connects nobody else.
    let again = town.send_password(&prompt);
    assert!(
        matches!(again, Err(LoginError::NotConnected(_))),
        "{again:?}"
    );
    let done = town.logged_in(json!({}));
    let tokens = town.house.redeem_claimed(&code_of(&done)).unwrap();
    assert_eq!(
        town.house.access_claims(&tokens).sub,
        town.house.alice.as_str()
    );
    // Her name stays hers, whatever they call her there.
    assert_eq!(town.user("alice").display_name.as_deref(), Some("Alice"));
}

#[test]
fn who_is_refused_there_sees_the_login_form_again() {
    let town = Town::new(NewUsers::Create);
    let trip = town.trip();
    let answer = form(&[
        ("error", "access_denied"),
        ("state", &trip.asked["state"]),
        ("iss", CORP),
    ]);
    let flow = match town.come_back_with(&trip, &answer, "", None) {
        Err(UpstreamError::Refused {
            flow: Some(flow), ..
        }) => flow,
        other => panic!("{other:?}"),
    };
    let prompt = LoginPrompt {
        flow,
        ..town.trip().prompt
    };
    // The form is still that of the same browser, and of no other.
    assert!(matches!(
        town.send_password(&prompt),
        Err(LoginError::OtherBrowser)
    ));
    let prompt = LoginPrompt {
        browser: trip.prompt.browser,
        ..prompt
    };
    town.send_password(&prompt).unwrap();
    let event = &town.house.events_named("login.upstream", Outcome::Denied)[0];
    assert_eq!(detail(event, "error"), "access_denied");
    assert_eq!(event.actor.client.as_deref(), Some("cli"));
}

#[test]
fn a_user_connects_an_account_and_parts_with_it() {
    let town = Town::new(NewUsers::Create);
    let (provider, caller) = (&town.house.provider, &town.house.caller);
    let mine = town.house.login_through(&claimed_request(&[]));
    let cookie = mine.session_cookie.expose();
    let browser = "b".repeat(43);
    let begin = |flow: &str, session: &str| {
        let by = UpstreamCaller {
            session: Some(session),
            browser: Some(&browser),
            caller,
        };
        provider.begin_connecting("corp", &metadata(CORP), flow, &by)
    };
    let flow = town.account(cookie).flow;
    let trip = match begin(&flow, cookie).unwrap() {
        Connecting::Elsewhere { location, browser } => Trip {
            asked: query(location.expose()),
            prompt: LoginPrompt {
                browser,
                ..town.trip().prompt
            },
            at: "corp",
        },
        Connecting::Login(prompt) => panic!("{prompt:?}"),
    };
    assert_eq!(trip.asked["max_age"], "600");
    let answer = town.answer(&trip, &[]);
    let token = town.token(&trip, json!({}));
    // In nobody's session, or in that of somebody else.
    crate::passkeys::another_user(&town.house, "mallory");
    let theirs = town
        .house
        .login_as("mallory", &claimed_request(&[]))
        .session_cookie;
    for session in [None, Some(theirs.expose().as_str())] {
        let outcome = town.come_back_with(&trip, &answer, &token, session);
        assert!(
            matches!(outcome, Err(UpstreamError::Login(LoginError::OtherBrowser))),
            "{outcome:?}"
        );
    }
    assert!(matches!(
        begin(&flow, theirs.expose()),
        Err(AccountError::FormInvalid)
    ));
    let outcome = town.come_back_with(&trip, &answer, &token, Some(cookie));
    assert!(matches!(outcome, Ok(UpstreamLogin::Connected { location }) if location == "/account"));
    let [link] = &town.account(cookie).links[..] else {
        panic!("one link");
    };

    // It logs her in from now on, also into a session that ends when she parts with it.
    let by_corp = town.logged_in(json!({}));
    let sessions = || provider.sessions_of(&town.house.alice).unwrap().len();
    assert_eq!(sessions(), 2);
    let part = |cookie: &str| {
        let flow = town.account(cookie).flow;
        let action = AccountAction::Disconnect(link.id.clone());
        provider.change_account(&flow, action, Some(cookie), None, caller)
    };
    part(theirs.expose()).unwrap();
    assert_eq!(town.links(&town.house.alice).len(), 1);
    part(cookie).unwrap();
    assert!(town.links(&town.house.alice).is_empty());
    assert_eq!(sessions(), 1);
    assert!(
        provider
            .session(by_corp.session_cookie.expose())
            .unwrap()
            .is_none()
    );
    for activity in ["upstream.link", "upstream.unlink"] {
        let event = &town.house.events_named(activity, Outcome::Success)[0];
        assert_eq!(
            event.actor.subject.as_deref(),
            Some(town.house.alice.as_str())
        );
    }
    // A login of long ago connects nothing.
    town.house.clock.advance(Duration::from_secs(11 * 60));
    let flow = town.account(cookie).flow;
    assert!(matches!(begin(&flow, cookie), Ok(Connecting::Login(_))));
}
