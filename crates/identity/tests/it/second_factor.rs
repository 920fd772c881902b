//! Authenticators and recovery codes, and the page where users manage them.

use std::{thread, time::Duration};

use testudo_identity::{
    AccountAction, AccountError, AccountPage, AccountView, Authorization, AuthorizeError,
    IdTokenClaims, LoggedIn, LoginError, LoginRequest, NewPassword, Parameters, Provider,
    SecondFactorRequest, UserProfile,
};
use testudo_model::{Clock, Redacted, event::Outcome};
use testudo_trust::hmac_sha1_otp;

use crate::house::{House, PASSWORD, claimed_request, code_of, native_request, query};

/// What a user has in the pocket.
pub struct Authenticator(Vec<u8>);

impl Authenticator {
    /// From the key as typed.
    fn of(base32: &str) -> Self {
        let digit = |c: char| "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567".find(c).unwrap() as u64;
        let bytes = base32.as_bytes().chunks(8).flat_map(|chunk| {
            let text = std::str::from_utf8(chunk).unwrap();
            let bits = text.chars().fold(0, |bits, c| bits << 5 | digit(c));
            bits.to_be_bytes()[3..].to_vec()
        });
        Self(bytes.collect())
    }

    pub fn code(&self, house: &House) -> String {
        let step = house.clock.now().unix_seconds() as u64 / 30;
        let hash = hmac_sha1_otp(&self.0, &step.to_be_bytes());
        let offset = usize::from(hash[19] & 0xf);
        let word = u32::from_be_bytes(hash[offset..offset + 4].try_into().unwrap());
        format!("{:06}", (word & 0x7fff_ffff) % 1_000_000)
    }
}

/// A login form of alice's with the right password, in a browser of its own.
struct Half {
    flow: String,
    browser: String,
}

impl Half {
    fn open(house: &House, request: &Parameters) -> Self {
        let prompt = house.prompt(request);
        let password = Redacted::new(PASSWORD.to_owned());
        let login = LoginRequest {
            flow: &prompt.flow,
            browser: Some(prompt.browser.expose()),
            session: None,
            username: "alice",
            password: &password,
        };
        match house.provider.login(&login, &house.caller) {
            Err(LoginError::SecondFactorNeeded { flow }) => Self {
                flow,
                browser: prompt.browser.expose().clone(),
            },
            other => panic!("{other:?}"),
        }
    }

    fn finish(&self, house: &House, code: &str) -> Result<LoggedIn, LoginError> {
        self.finish_at(&house.provider, house, code)
    }

    fn finish_at(
        &self,
        provider: &Provider,
        house: &House,
        code: &str,
    ) -> Result<LoggedIn, LoginError> {
        let request = SecondFactorRequest {
            flow: &self.flow,
            browser: Some(&self.browser),
            session: None,
            code,
        };
        provider.finish_login(&request, &house.caller)
    }
}

fn half(house: &House) -> Half {
    Half::open(house, &claimed_request(&[]))
}

/// A login with the password alone: the session cookie.
pub fn logged_in(house: &House) -> String {
    let logged_in = house.login_through(&claimed_request(&[]));
    logged_in.session_cookie.expose().clone()
}

pub fn overview(house: &House, cookie: &str) -> AccountView {
    match house.provider.account_page(Some(cookie), None).unwrap() {
        AccountPage::Overview(view) => *view,
        other => panic!("{other:?}"),
    }
}

pub fn act(
    house: &House,
    cookie: &str,
    flow: &str,
    action: AccountAction<'_>,
) -> Result<AccountPage, AccountError> {
    house
        .provider
        .change_account(flow, action, Some(cookie), None, &house.caller)
}

/// Adds an authenticator in a session; the recovery codes with it.
pub fn enrol(house: &House, cookie: &str) -> (Authenticator, Vec<String>) {
    let view = overview(house, cookie);
    let begun = act(house, cookie, &view.flow, AccountAction::BeginTotp).unwrap();
    let AccountPage::AddTotp { flow, setup, .. } = begun else {
        panic!("{begun:?}");
    };
    assert!(setup.uri.expose().contains(setup.secret.expose()));
    let authenticator = Authenticator::of(setup.secret.expose());
    let wrong = AccountAction::ConfirmTotp { code: "12345" };
    let AccountPage::AddTotp {
        was_wrong: true, ..
    } = act(house, cookie, &flow, wrong).unwrap()
    else {
        panic!("a wrong code adds nothing");
    };
    let code = authenticator.code(house);
    let right = AccountAction::ConfirmTotp { code: &code };
    let AccountPage::RecoveryCodes(codes) = act(house, cookie, &flow, right).unwrap() else {
        panic!("the code is right");
    };
    let codes: Vec<String> = codes.iter().map(|code| code.expose().clone()).collect();
    assert_eq!(codes.len(), 10);
    (authenticator, codes)
}

/// A house where alice has an authenticator, and some time has passed.
fn house() -> (House, Authenticator, Vec<String>) {
    let house = House::new();
    let (authenticator, codes) = enrol(&house, &logged_in(&house));
    house.clock.advance(Duration::from_secs(60));
    (house, authenticator, codes)
}

#[test]
fn a_login_needs_the_code_and_tokens_say_that_it_was_shown() {
    let (house, authenticator, _) = house();
    let half = half(&house);
    let wrong = half.finish(&house, "000000");
    assert!(matches!(wrong, Err(LoginError::WrongCode)));
    let done = half.finish(&house, &authenticator.code(&house)).unwrap();
    let tokens = house.redeem_claimed(&code_of(&done)).unwrap();
    let claims = house.access_claims(&tokens);
    assert_eq!(claims.acr.as_deref(), Some("2"));
    assert_eq!(claims.amr, ["pwd", "otp", "mfa"]);
    let id: IdTokenClaims = house.claims(tokens.id_token.as_deref().unwrap(), "JWT");
    assert_eq!((&*id.acr, id.amr), ("2", claims.amr));
    assert_eq!(
        house
            .events_named("login.second_factor", Outcome::Denied)
            .len(),
        1
    );
    assert_eq!(house.events_named("factor.add", Outcome::Success).len(), 1);
}

#[test]
fn no_code_is_good_twice_however_many_try_at_once() {
    let (house, authenticator, _) = house();
    let code = authenticator.code(&house);
    let other = house.another_provider(3);
    let halves: Vec<Half> = (0..8).map(|_| half(&house)).collect();
    let got: usize = thread::scope(|scope| {
        let trying: Vec<_> = halves
            .iter()
            .enumerate()
            .map(|(index, half)| {
                let provider = if index % 2 == 0 {
                    &*house.provider
                } else {
                    &other
                };
                let (house, code) = (&house, &code);
                scope.spawn(move || usize::from(half.finish_at(provider, house, code).is_ok()))
            })
            .collect();
        trying.into_iter().map(|tried| tried.join().unwrap()).sum()
    });
    assert_eq!(got, 1);
    house.clock.advance(Duration::from_secs(30));
    assert!(matches!(
        half(&house).finish(&house, &code),
        Err(LoginError::WrongCode | LoginError::Throttled { .. })
    ));
}

#[test]
fn the_code_that_added_an_authenticator_is_used_up() {
    let house = House::new();
    let (authenticator, _) = enrol(&house, &logged_in(&house));
    let done = half(&house).finish(&house, &authenticator.code(&house));
    assert!(matches!(done, Err(LoginError::WrongCode)));
    house.clock.advance(Duration::from_secs(30));
    assert!(
        half(&house)
            .finish(&house, &authenticator.code(&house))
            .is_ok()
    );
}

#[test]
fn each_recovery_code_is_good_once_as_people_type_it() {
    let (house, _, codes) = house();
    for (index, code) in codes.iter().enumerate() {
        let typed = if index % 2 == 0 {
            code.clone()
        } else {
            format!(" {} ", code.to_uppercase().replace('-', " "))
        };
        let done = half(&house).finish(&house, &typed).unwrap();
        let tokens = house.redeem_claimed(&code_of(&done)).unwrap();
        assert_eq!(house.access_claims(&tokens).acr.as_deref(), Some("2"));
        assert!(matches!(
            half(&house).finish(&house, &typed),
            Err(LoginError::WrongCode)
        ));
        house.clock.advance(Duration::from_secs(3_700));
    }
    let left = house.provider.second_factor(&house.alice).unwrap().unwrap();
    assert_eq!(left.recovery_codes_left, 0);
}

#[test]
fn guessing_codes_is_slowed_down() {
    let (house, authenticator, _) = house();
    let half = half(&house);
    let mut refused = 0;
    for guess in 0..7 {
        match half.finish(&house, &format!("{guess:06}")) {
            Err(LoginError::WrongCode) => refused += 1,
            Err(LoginError::Throttled { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(refused, 6, "five, and the one that starts the delay");
    let right = half.finish(&house, &authenticator.code(&house));
    assert!(matches!(right, Err(LoginError::Throttled { .. })));
}

#[test]
fn half_a_login_is_good_in_its_browser_for_its_password_and_for_a_while() {
    let (house, authenticator, _) = house();
    let mine = half(&house);
    let code = authenticator.code(&house);
    let elsewhere = Half {
        flow: mine.flow.clone(),
        browser: half(&house).browser,
    };
    assert!(matches!(
        elsewhere.finish(&house, &code),
        Err(LoginError::OtherBrowser)
    ));
    let login = house.prompt(&native_request(&[]));
    for flow in ["", "x", &*login.flow] {
        let bent = Half {
            flow: flow.to_owned(),
            browser: mine.browser.clone(),
        };
        assert!(matches!(
            bent.finish(&house, &code),
            Err(LoginError::FlowInvalid)
        ));
    }
    // Half a login is no login.
    let half_as_login = LoginRequest {
        flow: &mine.flow,
        browser: Some(&mine.browser),
        session: None,
        username: "alice",
        password: &Redacted::new(PASSWORD.to_owned()),
    };
    let refused = house.provider.login(&half_as_login, &house.caller);
    assert!(matches!(refused, Err(LoginError::FlowInvalid)));

    house.clock.advance(Duration::from_secs(301));
    let late = mine.finish(&house, &authenticator.code(&house));
    assert!(matches!(late, Err(LoginError::FlowExpired)));

    let mine = half(&house);
    let password = NewPassword::Given(Redacted::new(format!("{PASSWORD}!")));
    house
        .provider
        .set_password(&house.alice, &password, &house.caller)
        .unwrap();
    let stale = mine.finish(&house, &authenticator.code(&house));
    assert!(matches!(stale, Err(LoginError::FlowInvalid)));
}

#[test]
fn a_disabled_user_does_not_finish_a_login() {
    let (house, authenticator, _) = house();
    let mine = half(&house);
    house
        .provider
        .disable_user(&house.alice, &house.caller)
        .unwrap();
    let refused = mine.finish(&house, &authenticator.code(&house));
    assert!(matches!(refused, Err(LoginError::WrongCredentials)));
}

#[test]
fn an_application_can_ask_for_two_factors() {
    let house = House::new();
    let (weak, enrolling) = (logged_in(&house), logged_in(&house));
    let ask = |cookie: &str, values: &str| {
        let request = claimed_request(&[("acr_values", values)]);
        house
            .provider
            .authorize(&request, Some(cookie), None, &house.caller)
    };
    let error = |refused: Result<Authorization, AuthorizeError>| match refused {
        Err(AuthorizeError::Refused { location, .. }) => query(&location)["error"].clone(),
        other => panic!("{other:?}"),
    };
    // Who has one factor cannot show two; who may prefer is served.
    assert_eq!(error(ask(&weak, "2")), "unmet_authentication_requirements");
    assert_eq!(
        error(ask(&weak, "gold 2 1")),
        "unmet_authentication_requirements"
    );
    for values in ["1", "1 2", "gold", ""] {
        assert!(
            matches!(ask(&weak, values), Ok(Authorization::Code { .. })),
            "{values}"
        );
    }
    let request = claimed_request(&[("acr_values", "2")]);
    let unmet = house.login_through(&request);
    let answer = query(unmet.location.expose());
    assert_eq!(answer["error"], "unmet_authentication_requirements");
    assert_eq!(answer["state"], "xyz");

    let (authenticator, _) = enrol(&house, &enrolling);
    house.clock.advance(Duration::from_secs(60));
    assert!(matches!(ask(&weak, "2"), Ok(Authorization::Login(_))));
    let done = Half::open(&house, &request)
        .finish(&house, &authenticator.code(&house))
        .unwrap();
    let strong = done.session_cookie.expose();
    assert!(matches!(ask(strong, "2"), Ok(Authorization::Code { .. })));
    let tokens = house.redeem_claimed(&code_of(&done)).unwrap();
    assert_eq!(house.access_claims(&tokens).acr.as_deref(), Some("2"));
}

#[test]
fn what_takes_an_account_over_needs_a_fresh_login_with_all_factors() {
    let house = House::new();
    let (weak, enrolling) = (logged_in(&house), logged_in(&house));
    let form = overview(&house, &weak).flow;
    enrol(&house, &enrolling);
    let sensitive = || {
        [
            AccountAction::BeginTotp,
            AccountAction::ConfirmTotp { code: "000000" },
            AccountAction::RemoveTotp,
            AccountAction::RenewRecoveryCodes,
        ]
    };
    // A login with the password alone, of a user with an authenticator.
    for action in sensitive() {
        let page = act(&house, &weak, &form, action);
        assert!(matches!(page, Ok(AccountPage::Login(_))), "{page:?}");
    }
    assert!(
        house
            .provider
            .second_factor(&house.alice)
            .unwrap()
            .is_some()
    );
    // A login of some time ago.
    let house = House::new();
    let old = logged_in(&house);
    house.clock.advance(Duration::from_secs(601));
    let form = overview(&house, &old).flow;
    for action in sensitive() {
        let page = act(&house, &old, &form, action);
        assert!(matches!(page, Ok(AccountPage::Login(_))), "{page:?}");
    }
}

#[test]
fn a_user_changes_their_factors() {
    let (house, authenticator, codes) = house();
    let done = half(&house)
        .finish(&house, &authenticator.code(&house))
        .unwrap();
    let cookie = done.session_cookie.expose();
    let view = overview(&house, cookie);
    assert_eq!(view.second_factor.unwrap().recovery_codes_left, 10);
    let renewed = act(
        &house,
        cookie,
        &view.flow,
        AccountAction::RenewRecoveryCodes,
    )
    .unwrap();
    let AccountPage::RecoveryCodes(renewed) = renewed else {
        panic!("{renewed:?}");
    };
    assert!(matches!(
        half(&house).finish(&house, &codes[0]),
        Err(LoginError::WrongCode)
    ));
    assert!(half(&house).finish(&house, renewed[0].expose()).is_ok());

    let view = overview(&house, cookie);
    let removed = act(&house, cookie, &view.flow, AccountAction::RemoveTotp).unwrap();
    let AccountPage::Overview(view) = removed else {
        panic!("{removed:?}");
    };
    assert_eq!(view.second_factor, None);
    assert!(house.try_login("alice", PASSWORD).is_ok());
}

#[test]
fn an_administrator_helps_somebody_who_has_lost_everything() {
    let (house, _, _) = house();
    house
        .provider
        .reset_second_factors(&house.alice, &house.caller)
        .unwrap();
    assert!(house.try_login("alice", PASSWORD).is_ok());
    assert_eq!(
        house.events_named("factor.reset", Outcome::Success).len(),
        1
    );
}

#[test]
fn a_form_of_the_account_works_in_its_session_alone() {
    let house = House::new();
    let (mine, attackers) = (logged_in(&house), logged_in(&house));
    let theirs = overview(&house, &attackers).flow;
    let login = house.prompt(&native_request(&[])).flow;
    for flow in [&*theirs, &*login, "", "x"] {
        let refused = act(&house, &mine, flow, AccountAction::EndAllSessions);
        assert!(matches!(refused, Err(AccountError::FormInvalid)));
    }
    let own = overview(&house, &mine).flow;
    house.clock.advance(Duration::from_secs(16 * 60));
    let refused = act(&house, &mine, &own, AccountAction::EndAllSessions);
    assert!(matches!(refused, Err(AccountError::FormInvalid)));
    assert!(house.provider.session(&mine).unwrap().is_some());
    // An authenticator is added with the form that showed it, not with another.
    let own = overview(&house, &mine).flow;
    let house_of_old = act(
        &house,
        &mine,
        &own,
        AccountAction::ConfirmTotp { code: "000000" },
    );
    assert!(matches!(
        house_of_old,
        Ok(AccountPage::Login(_)) | Err(AccountError::FormInvalid)
    ));
}

#[test]
fn a_user_sees_and_ends_their_own_sessions_and_nobody_elses() {
    let house = House::new();
    let (here, there) = (logged_in(&house), logged_in(&house));
    let name = "bob".parse().unwrap();
    let password = NewPassword::Given(Redacted::new(PASSWORD.to_owned()));
    house
        .provider
        .create_user(
            &name,
            UserProfile::default(),
            Some(&password),
            &house.caller,
        )
        .unwrap();
    let bob = house.login_as("bob", &claimed_request(&[]));
    let view = overview(&house, &here);
    assert_eq!(view.username, "alice");
    assert_eq!(view.sessions.len(), 2);
    let other = view
        .sessions
        .iter()
        .find(|session| session.id != view.current)
        .unwrap();
    let end = |id| act(&house, &here, &view.flow, AccountAction::EndSession(id)).unwrap();
    assert!(matches!(end(bob.session.clone()), AccountPage::Overview(_)));
    let bobs = bob.session_cookie.expose();
    assert!(house.provider.session(bobs).unwrap().is_some());
    let AccountPage::Overview(after) = end(other.id.clone()) else {
        panic!("still logged in here");
    };
    assert_eq!(after.sessions.len(), 1);
    assert!(house.provider.session(&there).unwrap().is_none());
    let everywhere = act(&house, &here, &view.flow, AccountAction::EndAllSessions).unwrap();
    assert!(matches!(everywhere, AccountPage::LoggedOut));
    assert!(house.provider.session(&here).unwrap().is_none());
    assert!(house.provider.session(bobs).unwrap().is_some());
}
