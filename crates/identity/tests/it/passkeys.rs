//! Passkeys: adding them, logging in with them, losing them; and what an attacker makes of each step.

use std::{thread, time::Duration};

use testudo_identity::{
    AccountAction, AccountError, AccountPage, AccountView, AdminError, Authorization, LoggedIn,
    LoginError, LoginPrompt, LoginRequest, NewPassword, Parameters, PasskeyCreation,
    PasskeyLoginRequest, PasskeyView, Provider, UserProfile, limits::MAX_PASSKEYS_PER_USER,
};
use testudo_model::{
    Redacted, UserId,
    event::{Detail, Event, Outcome},
};

use crate::{
    authenticator::{Asserted, Authenticator, BACKUP_ELIGIBLE, Created, VERIFIED},
    house::{House, PASSWORD, claimed_request, code_of, native_request, query},
    invitations::{accept, invite},
};

fn overview(house: &House, cookie: &str) -> AccountView {
    match house.provider.account_page(Some(cookie), None).unwrap() {
        AccountPage::Overview(view) => *view,
        other => panic!("{other:?}"),
    }
}

fn act(
    house: &House,
    cookie: &str,
    flow: &str,
    action: AccountAction<'_>,
) -> Result<AccountPage, AccountError> {
    house
        .provider
        .change_account(flow, action, Some(cookie), None, &house.caller)
}

/// Opens the form for a new passkey.
fn begin(house: &House, cookie: &str) -> (String, PasskeyCreation) {
    let flow = overview(house, cookie).flow;
    match act(house, cookie, &flow, AccountAction::BeginPasskey).unwrap() {
        AccountPage::AddPasskey {
            flow,
            creation,
            refused: None,
        } => (flow, *creation),
        other => panic!("{other:?}"),
    }
}

/// Sends it.
fn confirm(
    house: &House,
    cookie: &str,
    flow: &str,
    created: &Created,
) -> Result<AccountPage, AccountError> {
    let response = created.response();
    let name = "Notebook";
    act(
        house,
        cookie,
        flow,
        AccountAction::ConfirmPasskey { name, response },
    )
}

/// Adds a passkey in a session.
fn add(house: &House, cookie: &str) -> Authenticator {
    let (flow, creation) = begin(house, cookie);
    let mut authenticator = Authenticator::new();
    let created = authenticator.create(&creation);
    let page = confirm(house, cookie, &flow, &created).unwrap();
    assert!(matches!(page, AccountPage::Overview(_)), "{page:?}");
    authenticator
}

/// A login with the password alone: the session cookie.
fn logged_in(house: &House) -> String {
    let logged_in = house.login_through(&claimed_request(&[]));
    logged_in.session_cookie.expose().clone()
}

/// A house where alice has a passkey.
fn house() -> (House, Authenticator) {
    let house = House::new();
    let authenticator = add(&house, &logged_in(&house));
    (house, authenticator)
}

fn send_to(
    provider: &Provider,
    house: &House,
    prompt: &LoginPrompt,
    asserted: &Asserted,
) -> Result<LoggedIn, LoginError> {
    let request = PasskeyLoginRequest {
        flow: &prompt.flow,
        browser: Some(prompt.browser.expose()),
        session: None,
        response: asserted.response(),
    };
    provider.login_with_passkey(&request, &house.caller)
}

fn send(house: &House, prompt: &LoginPrompt, asserted: &Asserted) -> Result<LoggedIn, LoginError> {
    send_to(&house.provider, house, prompt, asserted)
}

fn answer(house: &House, prompt: &LoginPrompt, authenticator: &mut Authenticator) -> Asserted {
    authenticator.get(&house.provider.passkey_request(&prompt.flow).unwrap())
}

fn log_in_for(
    house: &House,
    request: &Parameters,
    authenticator: &mut Authenticator,
) -> Result<LoggedIn, LoginError> {
    let prompt = house.prompt(request);
    let asserted = answer(house, &prompt, authenticator);
    send(house, &prompt, &asserted)
}

pub fn log_in(house: &House, authenticator: &mut Authenticator) -> Result<LoggedIn, LoginError> {
    log_in_for(house, &claimed_request(&[]), authenticator)
}

fn assert_refused(outcome: Result<LoggedIn, LoginError>) {
    assert!(
        matches!(outcome, Err(LoginError::WrongPasskey)),
        "{outcome:?}"
    );
}

/// Why logins with passkeys were refused, the last one last.
fn reasons(house: &House) -> Vec<String> {
    let events = house.events_named("login.passkey", Outcome::Denied);
    events.iter().map(|event| detail(event, "reason")).collect()
}

pub fn detail(event: &Event, name: &str) -> String {
    match &event.details[name] {
        Detail::Text(text) => text.as_str().to_owned(),
        Detail::Flag(flag) => flag.to_string(),
        Detail::Number(number) => number.to_string(),
    }
}

pub fn passkeys(house: &House) -> Vec<PasskeyView> {
    house.provider.passkeys_of(&house.alice).unwrap()
}

pub fn another_user(house: &House, name: &str) -> UserId {
    let password = NewPassword::Given(Redacted::new(PASSWORD.to_owned()));
    let made = house.provider.create_user(
        &name.parse().unwrap(),
        UserProfile::default(),
        Some(&password),
        &house.caller,
    );
    made.unwrap().record.id
}

#[test]
fn a_passkey_is_added_and_logs_in_with_two_factors() {
    let (house, mut authenticator) = house();
    assert_eq!(authenticator.user_handle, house.alice.as_str().as_bytes());
    let done = log_in(&house, &mut authenticator).unwrap();
    let tokens = house.redeem_claimed(&code_of(&done)).unwrap();
    let claims = house.access_claims(&tokens);
    assert_eq!(claims.sub, house.alice.as_str());
    assert_eq!(claims.acr.as_deref(), Some("3"));
    assert_eq!(claims.amr, ["pop", "user", "mfa"]);
    let [passkey] = &passkeys(&house)[..] else {
        panic!("one passkey");
    };
    assert_eq!(passkey.name, "Notebook");
    assert!(passkey.last_used_at.is_some() && !passkey.is_synchronised && !passkey.is_attested);
    assert_eq!(house.events_named("passkey.add", Outcome::Success).len(), 1);
    let event = &house.events_named("login.passkey", Outcome::Success)[0];
    assert_eq!(event.actor.subject.as_deref(), Some(house.alice.as_str()));
    assert_eq!(event.actor.client.as_deref(), Some("cli"));
    assert_eq!(detail(event, "passkey"), passkey.id.to_string());
    // The session of it is one like any other, and fresh enough to change the account.
    let cookie = done.session_cookie.expose();
    assert!(matches!(
        house.provider.authorize(
            &claimed_request(&[("acr_values", "2")]),
            Some(cookie),
            None,
            &house.caller
        ),
        Ok(Authorization::Code { .. })
    ));
    add(&house, cookie);
    assert_eq!(passkeys(&house).len(), 2);
}

#[test]
fn a_passkey_that_is_synchronised_is_a_software_key() {
    let house = House::new();
    let cookie = logged_in(&house);
    let (flow, creation) = begin(&house, &cookie);
    let mut authenticator = Authenticator::new();
    let created = authenticator.create_bent(&creation, |said| said.flags |= BACKUP_ELIGIBLE);
    confirm(&house, &cookie, &flow, &created).unwrap();
    let prompt = house.prompt(&claimed_request(&[]));
    let options = house.provider.passkey_request(&prompt.flow).unwrap();
    let asserted = authenticator.get_bent(&options, |said| said.flags |= BACKUP_ELIGIBLE);
    let done = send(&house, &prompt, &asserted).unwrap();
    let tokens = house.redeem_claimed(&code_of(&done)).unwrap();
    assert_eq!(house.access_claims(&tokens).amr, ["swk", "user", "mfa"]);
}

#[test]
fn an_answer_is_good_once_in_its_form_in_its_browser_in_its_time() {
    let (house, mut authenticator) = house();
    let (prompt, other) = (
        house.prompt(&claimed_request(&[])),
        house.prompt(&claimed_request(&[])),
    );
    let asserted = answer(&house, &prompt, &mut authenticator);
    assert_refused(send(&house, &other, &asserted));
    let elsewhere = LoginPrompt {
        browser: other.browser.clone(),
        connects: None,
        flow: prompt.flow.clone(),
        client_name: String::new(),
        username_hint: None,
    };
    assert!(matches!(
        send(&house, &elsewhere, &asserted),
        Err(LoginError::OtherBrowser)
    ));
    assert!(send(&house, &prompt, &asserted).is_ok());
    assert_refused(send(&house, &prompt, &asserted));
    assert_eq!(
        reasons(&house),
        [
            "the challenge is another one",
            "the challenge was used before"
        ]
    );
    // Nobody cries wolf for a repeated answer.
    assert!(
        house
            .events_named("passkey.clone", Outcome::Denied)
            .is_empty()
    );
    let late = answer(&house, &other, &mut authenticator);
    house.clock.advance(Duration::from_secs(15 * 60 + 1));
    assert!(matches!(
        send(&house, &other, &late),
        Err(LoginError::FlowExpired)
    ));
    for flow in ["", "x"] {
        let bent = LoginPrompt {
            flow: flow.to_owned(),
            ..house.prompt(&claimed_request(&[]))
        };
        assert!(matches!(
            send(&house, &bent, &asserted),
            Err(LoginError::FlowInvalid)
        ));
    }
}

#[test]
fn of_two_logins_with_one_answer_one_happens() {
    for round in 0..8 {
        let (house, mut authenticator) = house();
        let prompt = house.prompt(&claimed_request(&[]));
        authenticator.sign_count = round % 2;
        let asserted = answer(&house, &prompt, &mut authenticator);
        let other = house.another_provider(99);
        let outcomes = thread::scope(|scope| {
            [&*house.provider, &other]
                .map(|provider| scope.spawn(|| send_to(provider, &house, &prompt, &asserted)))
                .map(|login| login.join().unwrap())
        });
        let done = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        assert_eq!(done, 1, "{outcomes:?}");
        assert_eq!(
            house.events_named("login.passkey", Outcome::Success).len(),
            1
        );
        assert!(
            house
                .events_named("passkey.clone", Outcome::Denied)
                .is_empty()
        );
    }
}

#[test]
fn a_login_with_a_passkey_that_is_being_removed_happens_before_or_not_at_all() {
    for _ in 0..8 {
        let (house, mut authenticator) = house();
        let prompt = house.prompt(&claimed_request(&[]));
        let asserted = answer(&house, &prompt, &mut authenticator);
        let id = passkeys(&house)[0].id.clone();
        let other = house.another_provider(99);
        let (login, removed) = thread::scope(|scope| {
            let login = scope.spawn(|| send(&house, &prompt, &asserted));
            let removed = scope.spawn(|| other.remove_passkey_of(&house.alice, &id, &house.caller));
            (login.join().unwrap(), removed.join().unwrap())
        });
        removed.unwrap();
        assert!(passkeys(&house).is_empty(), "a login brings none back");
        assert!(matches!(login, Ok(_) | Err(LoginError::WrongPasskey)));
        assert_refused(log_in(&house, &mut authenticator));
    }
}

#[test]
fn only_what_belongs_together_logs_anybody_in() {
    let (house, mut mine) = house();
    let bob = another_user(&house, "bob");
    let bobs_session = house.login_as("bob", &claimed_request(&[]));
    let mut bobs = add(&house, bobs_session.session_cookie.expose());
    assert_eq!(bobs.user_handle, bob.as_str().as_bytes());
    // Of a stranger, of bob under the name of alice, of bob with the signature of alice.
    assert_refused(log_in(&house, &mut Authenticator::new()));
    bobs.user_handle.clone_from(&mine.user_handle);
    assert_refused(log_in(&house, &mut bobs));
    bobs.user_handle = bob.as_str().as_bytes().to_vec();
    let prompt = house.prompt(&claimed_request(&[]));
    let (own, other) = (
        answer(&house, &prompt, &mut bobs),
        answer(&house, &prompt, &mut mine),
    );
    let mixed = Asserted {
        signature: other.signature,
        ..own.clone()
    };
    assert_refused(send(&house, &prompt, &mixed));
    let options = house.provider.passkey_request(&prompt.flow).unwrap();
    let unverified = mine.get_bent(&options, |said| said.flags &= !VERIFIED);
    assert_refused(send(&house, &prompt, &unverified));
    assert_eq!(
        reasons(&house),
        [
            "unknown passkey",
            "the passkey is of another user",
            "the signature is wrong",
            "the authenticator has not verified the user"
        ]
    );
    assert!(send(&house, &prompt, &own).is_ok());
    house.provider.disable_user(&bob, &house.caller).unwrap();
    assert_refused(log_in(&house, &mut bobs));
    house.provider.enable_user(&bob, &house.caller).unwrap();
    assert!(log_in(&house, &mut bobs).is_ok());
    // Deleted, and somebody of the same name.
    house.provider.delete_user(&bob, &house.caller).unwrap();
    let successor = another_user(&house, "bob");
    assert!(house.provider.passkeys_of(&bob).unwrap().is_empty());
    bobs.user_handle = successor.as_str().as_bytes().to_vec();
    assert_refused(log_in(&house, &mut bobs));
}

#[test]
fn a_copied_authenticator_is_refused_and_reported() {
    let (house, mut authenticator) = house();
    authenticator.sign_count = 7;
    assert!(log_in(&house, &mut authenticator).is_ok());
    for count in [7, 6, 0] {
        authenticator.sign_count = count;
        assert_refused(log_in(&house, &mut authenticator));
    }
    let found = house.events_named("passkey.clone", Outcome::Denied);
    assert_eq!(found.len(), 3);
    assert_eq!(found[0].target.as_deref(), Some(house.alice.as_str()));
    authenticator.sign_count = 8;
    assert!(
        log_in(&house, &mut authenticator).is_ok(),
        "the one with the higher counter"
    );
}

#[test]
fn a_passkey_is_added_once_and_to_one_account() {
    let (house, _) = house();
    let cookie = logged_in_strongly(&house);
    let (flow, creation) = begin(&house, &cookie);
    assert_eq!(creation.exclude.len(), 2, "no authenticator gets two");
    let mut authenticator = Authenticator::new();
    let created = authenticator.create(&creation);
    assert!(matches!(
        confirm(&house, &cookie, &flow, &created),
        Ok(AccountPage::Overview(_))
    ));
    let refused = |page: Result<AccountPage, AccountError>| match page {
        Ok(AccountPage::AddPasskey {
            refused: Some(refused),
            ..
        }) => refused,
        other => panic!("{other:?}"),
    };
    // The same answer again; the same credential with another answer; as somebody else.
    let again = refused(confirm(&house, &cookie, &flow, &created));
    assert_eq!(again, "this page was used before; open it again");
    let (flow, creation) = begin(&house, &cookie);
    let known = refused(confirm(
        &house,
        &cookie,
        &flow,
        &authenticator.create(&creation),
    ));
    assert_eq!(known, "this passkey was added before");
    another_user(&house, "bob");
    let bobs = house.login_as("bob", &claimed_request(&[]));
    let bobs = bobs.session_cookie.expose();
    let (flow, creation) = begin(&house, bobs);
    let known = refused(confirm(
        &house,
        bobs,
        &flow,
        &authenticator.create(&creation),
    ));
    assert_eq!(known, "this passkey was added before");
    // What was made for another form, or for a login.
    let (other_flow, _) = begin(&house, bobs);
    let fresh = Authenticator::new().create(&creation);
    let other_form = refused(confirm(&house, bobs, &other_flow, &fresh));
    assert_eq!(other_form, "the challenge is another one");
    assert!(matches!(
        confirm(&house, &cookie, &flow, &fresh),
        Err(AccountError::FormInvalid)
    ));
    assert_eq!(house.events_named("passkey.add", Outcome::Denied).len(), 4);
}

/// A session of alice with a passkey of its own.
fn logged_in_strongly(house: &House) -> String {
    let invited = invite(house, &house.alice.clone());
    let mut authenticator = accept(house, &invited).unwrap();
    let done = log_in(house, &mut authenticator).unwrap();
    done.session_cookie.expose().clone()
}

#[test]
fn nobody_has_too_many() {
    let house = House::new();
    let cookie = logged_in(&house);
    let mut authenticator = add(&house, &cookie);
    let strong = log_in(&house, &mut authenticator).unwrap();
    let cookie = strong.session_cookie.expose();
    for _ in 1..MAX_PASSKEYS_PER_USER {
        add(&house, cookie);
    }
    let (flow, creation) = begin(&house, cookie);
    let created = Authenticator::new().create(&creation);
    let page = confirm(&house, cookie, &flow, &created).unwrap();
    let AccountPage::AddPasskey { refused, .. } = page else {
        panic!("{page:?}");
    };
    assert!(refused.unwrap().contains("remove one first"));
    assert_eq!(passkeys(&house).len(), MAX_PASSKEYS_PER_USER);
}

#[test]
fn whoever_has_the_password_alone_cannot_change_the_passkeys_of_somebody_who_has_one() {
    let (house, mut authenticator) = house();
    let weak = logged_in(&house);
    let view = overview(&house, &weak);
    let id = view.passkeys[0].id.clone();
    let page = act(
        &house,
        &weak,
        &view.flow,
        AccountAction::RemovePasskey(id.clone()),
    )
    .unwrap();
    let AccountPage::Login(prompt) = page else {
        panic!("{page:?}");
    };
    assert!(matches!(
        act(&house, &weak, &view.flow, AccountAction::BeginPasskey),
        Ok(AccountPage::Login(_))
    ));
    // The login it asks for is one with the passkey, or it would lead round in a circle.
    let request = LoginRequest {
        flow: &prompt.flow,
        browser: Some(prompt.browser.expose()),
        session: None,
        username: "alice",
        password: &Redacted::new(PASSWORD.to_owned()),
    };
    assert!(matches!(
        house.provider.login(&request, &house.caller),
        Err(LoginError::PasskeyNeeded)
    ));
    let asserted = answer(&house, &prompt, &mut authenticator);
    let done = send(&house, &prompt, &asserted).unwrap();
    assert_eq!(done.location.expose(), "/account");
    let strong = done.session_cookie.expose();
    let view = overview(&house, strong);
    act(&house, strong, &view.flow, AccountAction::RemovePasskey(id)).unwrap();
    assert!(passkeys(&house).is_empty());
    assert_eq!(
        house.events_named("passkey.remove", Outcome::Success).len(),
        1
    );
    // A login of some time ago will not do either.
    let cookie = logged_in(&house);
    let flow = overview(&house, &cookie).flow;
    house.clock.advance(Duration::from_secs(601));
    let late = act(&house, &cookie, &flow, AccountAction::BeginPasskey);
    assert!(matches!(late, Ok(AccountPage::Login(_))), "{late:?}");
}

#[test]
fn an_application_that_asks_for_two_factors_gets_them_by_passkey() {
    for class in ["2", "3"] {
        asks_for(class);
    }
}

fn asks_for(class: &str) {
    let (house, mut authenticator) = house();
    let request = native_request(&[("acr_values", class)]);
    let prompt = house.prompt(&request);
    let by_password = LoginRequest {
        flow: &prompt.flow,
        browser: Some(prompt.browser.expose()),
        session: None,
        username: "alice",
        password: &Redacted::new(PASSWORD.to_owned()),
    };
    for _ in 0..10 {
        assert!(
            matches!(
                house.provider.login(&by_password, &house.caller),
                Err(LoginError::PasskeyNeeded)
            ),
            "the password is right: it is not slowed down"
        );
    }
    let done = log_in_for(&house, &request, &mut authenticator).unwrap();
    assert!(query(done.location.expose()).contains_key("code"));
}

#[test]
fn a_user_names_and_removes_their_own_passkeys_and_nobody_elses() {
    let (house, mut mine) = house();
    another_user(&house, "bob");
    let bobs_session = house.login_as("bob", &claimed_request(&[]));
    let bobs_cookie = bobs_session.session_cookie.expose();
    let my_id = passkeys(&house)[0].id.clone();
    let flow = overview(&house, bobs_cookie).flow;
    let rename = |cookie: &str, flow: &str| {
        let id = my_id.clone();
        act(
            &house,
            cookie,
            flow,
            AccountAction::RenamePasskey { id, name: "Stolen" },
        )
        .unwrap();
    };
    rename(bobs_cookie, &flow);
    let remove = AccountAction::RemovePasskey(my_id.clone());
    act(&house, bobs_cookie, &flow, remove).unwrap();
    assert_eq!(passkeys(&house)[0].name, "Notebook");
    assert!(log_in(&house, &mut mine).is_ok());
    let cookie = logged_in(&house);
    rename(&cookie, &overview(&house, &cookie).flow);
    assert_eq!(passkeys(&house)[0].name, "Stolen");
    assert!(matches!(
        house
            .provider
            .remove_passkey_of(&overview_user(&house, "bob"), &my_id, &house.caller),
        Err(AdminError::NotFound {
            kind: "passkey",
            ..
        })
    ));
}

fn overview_user(house: &House, name: &str) -> UserId {
    house
        .provider
        .user_by_name(&name.parse().unwrap())
        .unwrap()
        .record
        .id
}

#[test]
fn answers_that_are_wrong_are_slowed_down_by_network() {
    let (house, mut authenticator) = house();
    for _ in 0..30 {
        assert_refused(log_in(&house, &mut Authenticator::new()));
    }
    let mut throttled = 0;
    for _ in 0..5 {
        if let Err(LoginError::Throttled { .. }) = log_in(&house, &mut Authenticator::new()) {
            throttled += 1;
        }
    }
    assert!(throttled >= 4, "{throttled}");
    let prompt = house.prompt(&claimed_request(&[]));
    let asserted = answer(&house, &prompt, &mut authenticator);
    let request = PasskeyLoginRequest {
        flow: &prompt.flow,
        browser: Some(prompt.browser.expose()),
        session: None,
        response: asserted.response(),
    };
    let elsewhere = testudo_identity::Caller {
        source_ip: Some("198.51.100.9".parse().unwrap()),
        ..house.caller.clone()
    };
    assert!(
        house
            .provider
            .login_with_passkey(&request, &elsewhere)
            .is_ok()
    );
}
