//! Passwords that a directory knows: whom it may speak for, and who stays out.

use std::collections::BTreeMap;

use testudo_identity::{
    AccountAction, AccountPage, DirectoryEntry, DirectoryLogin, LoggedIn, LoginError, LoginRequest,
    LoginStep, NewPassword, SecondFactorRequest, UserDirectory,
};
use testudo_model::{
    Redacted,
    event::{Detail, Outcome},
};

use crate::{
    house::{House, PASSWORD, claimed_request, code_of},
    second_factor::enrol,
};

fn house() -> House {
    let house = House::new();
    for group in ["staff", "local"] {
        let profile = testudo_identity::GroupProfile::default();
        house
            .provider
            .create_group(&group.parse().unwrap(), profile, &house.caller)
            .unwrap();
    }
    house
        .provider
        .trust_directories(vec![directory("corp"), directory("branch")]);
    house
}

fn directory(name: &str) -> UserDirectory {
    let staff = vec!["staff".parse().unwrap()];
    UserDirectory {
        name: name.to_owned(),
        trusts_email: false,
        groups: Some(BTreeMap::from([("shop-staff".to_owned(), staff)])),
    }
}

fn entry(id: &str, username: &str) -> DirectoryEntry {
    DirectoryEntry {
        id: id.to_owned(),
        username: username.to_owned(),
        display_name: Some("Somebody".to_owned()),
        email: Some("somebody@corp.example".to_owned()),
        groups: vec!["shop-staff".to_owned(), "others".to_owned()],
    }
}

/// Sends a login form.
fn begin(house: &House, username: &str, password: &str) -> Result<LoginStep, LoginError> {
    let prompt = house.prompt(&claimed_request(&[]));
    let password = Redacted::new(password.to_owned());
    let request = LoginRequest {
        flow: &prompt.flow,
        browser: Some(prompt.browser.expose()),
        session: None,
        username,
        password: &password,
    };
    house.provider.begin_login(&request, &house.caller)
}

fn asked(house: &House, username: &str) -> DirectoryLogin {
    match begin(house, username, "typed") {
        Ok(LoginStep::AskDirectories(asked)) => asked,
        other => panic!("{other:?}"),
    }
}

fn log_in(house: &House, at: &str, entry: &DirectoryEntry) -> Result<LoggedIn, LoginError> {
    let asked = asked(house, &entry.username);
    house
        .provider
        .finish_directory_login(&asked, at, entry, None, &house.caller)
}

fn reason(house: &House) -> String {
    let events = house.events_named("login.directory", Outcome::Denied);
    match &events.last().unwrap().details["reason"] {
        Detail::Text(text) => text.as_str().to_owned(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_directory_is_asked_about_names_that_nobody_has_and_about_its_own() {
    let house = house();
    assert_eq!(asked(&house, "carol").directories(), ["corp", "branch"]);
    let done = log_in(&house, "branch", &entry("1", "carol")).unwrap();
    let tokens = house.redeem_claimed(&code_of(&done)).unwrap();
    let claims = house.access_claims(&tokens);
    assert_eq!(
        (claims.acr.as_deref(), &claims.amr[..]),
        (Some("1"), &["pwd".to_owned()][..])
    );
    assert_eq!(asked(&house, "carol").directories(), ["branch"]);
    let carol = house
        .provider
        .user_by_name(&"carol".parse().unwrap())
        .unwrap()
        .record;
    assert_eq!((carol.groups.len(), carol.email), (1, None));
    // Of those who have their password here, never: with the right password or another one.
    assert!(matches!(
        begin(&house, "alice", PASSWORD),
        Ok(LoginStep::LoggedIn(_))
    ));
    assert!(matches!(
        begin(&house, "alice", "typed"),
        Err(LoginError::WrongCredentials)
    ));
    assert!(begin(&house, "carol", &"x".repeat(1025)).is_err());
    // A password that somebody gives her here does not count, also where the directory is not asked any more.
    let password = NewPassword::Given(Redacted::new(PASSWORD.to_owned()));
    house
        .provider
        .set_password(&carol.id, &password, &house.caller)
        .unwrap();
    assert!(matches!(
        begin(&house, "carol", PASSWORD),
        Ok(LoginStep::AskDirectories(_))
    ));
    house.provider.trust_directories(vec![directory("corp")]);
    assert!(matches!(
        begin(&house, "carol", PASSWORD),
        Err(LoginError::WrongCredentials)
    ));
}

#[test]
fn nobody_is_taken_over_by_a_name_or_by_another_directory() {
    let house = house();
    let carol = entry("1", "carol");
    log_in(&house, "corp", &carol).unwrap();
    // Typed one way, called another way there: the name of somebody here.
    let asked = asked(&house, "nobody-here");
    let provider = &house.provider;
    let outcome =
        provider.finish_directory_login(&asked, "corp", &entry("2", "Alice"), None, &house.caller);
    assert!(
        matches!(outcome, Err(LoginError::WrongCredentials)),
        "{outcome:?}"
    );
    assert_eq!(reason(&house), "the name is somebody else's here");
    // The same id and name in another directory is another person.
    let outcome = provider.finish_directory_login(&asked, "branch", &carol, None, &house.caller);
    assert!(
        matches!(outcome, Err(LoginError::WrongCredentials)),
        "{outcome:?}"
    );
    let outcome = provider.finish_directory_login(&asked, "gone", &carol, None, &house.caller);
    assert!(
        matches!(outcome, Err(LoginError::WrongCredentials)),
        "{outcome:?}"
    );
    for name in ["", "two words", "Łukasz"] {
        let outcome =
            provider.finish_directory_login(&asked, "corp", &entry("3", name), None, &house.caller);
        assert!(
            matches!(outcome, Err(LoginError::WrongCredentials)),
            "{outcome:?}"
        );
    }
}

#[test]
fn who_is_gone_there_is_disabled_here_and_comes_back_with_them() {
    let house = house();
    let carol = entry("1", "carol");
    let done = log_in(&house, "corp", &carol).unwrap();
    let provider = &house.provider;
    let [user] = &provider.directory_users("corp").unwrap()[..] else {
        panic!("one user");
    };
    assert!(provider.directory_users("branch").unwrap().is_empty());
    let is_disabled = || {
        let stored = provider.user_by_name(&"carol".parse().unwrap()).unwrap();
        stored.record.disabled
    };
    let follow = |entry: Option<&DirectoryEntry>| {
        provider
            .follow_directory("corp", user, entry, &house.caller)
            .unwrap();
    };
    follow(None);
    follow(None);
    assert!(is_disabled());
    assert!(
        provider
            .session(done.session_cookie.expose())
            .unwrap()
            .is_none()
    );
    assert_eq!(
        house.events_named("user.disable", Outcome::Success).len(),
        1
    );
    follow(Some(&carol));
    assert!(!is_disabled());
    follow(None);
    // A login there says that they are back, too.
    log_in(&house, "corp", &carol).unwrap();
    assert!(!is_disabled());
    // Whom an administrator has disabled stays so.
    let id = provider
        .user_by_name(&"carol".parse().unwrap())
        .unwrap()
        .record
        .id;
    provider.disable_user(&id, &house.caller).unwrap();
    follow(None);
    follow(Some(&carol));
    assert!(is_disabled());
    assert!(log_in(&house, "corp", &carol).is_err());
    assert_eq!(reason(&house), "user is disabled");
}

#[test]
fn a_second_factor_here_is_asked_for_and_the_link_stays() {
    let house = house();
    let carol = entry("1", "carol");
    let done = log_in(&house, "corp", &carol).unwrap();
    let cookie = done.session_cookie.expose();
    let (authenticator, _) = enrol(&house, cookie);
    house.clock.advance(std::time::Duration::from_secs(60));
    let prompt = house.prompt(&claimed_request(&[]));
    let password = Redacted::new("typed".to_owned());
    let request = LoginRequest {
        flow: &prompt.flow,
        browser: Some(prompt.browser.expose()),
        session: None,
        username: "carol",
        password: &password,
    };
    let provider = &house.provider;
    let Ok(LoginStep::AskDirectories(asked)) = provider.begin_login(&request, &house.caller) else {
        panic!("a directory is asked");
    };
    let outcome = provider.finish_directory_login(&asked, "corp", &carol, None, &house.caller);
    let Err(LoginError::SecondFactorNeeded { flow }) = outcome else {
        panic!("{outcome:?}");
    };
    let code = SecondFactorRequest {
        flow: &flow,
        browser: Some(prompt.browser.expose()),
        session: None,
        code: &authenticator.code(&house),
    };
    let done = provider.finish_login(&code, &house.caller).unwrap();
    let tokens = house.redeem_claimed(&code_of(&done)).unwrap();
    assert_eq!(house.access_claims(&tokens).acr.as_deref(), Some("2"));
    // She cannot part with the directory that she came from.
    let cookie = done.session_cookie.expose();
    let AccountPage::Overview(view) = provider.account_page(Some(cookie), None).unwrap() else {
        panic!("the account");
    };
    assert!(view.links.is_empty());
    let [user] = &provider.directory_users("corp").unwrap()[..] else {
        panic!("one user");
    };
    let action = AccountAction::Disconnect(user.link.clone());
    provider
        .change_account(&view.flow, action, Some(cookie), None, &house.caller)
        .unwrap();
    assert_eq!(provider.directory_users("corp").unwrap().len(), 1);
}
