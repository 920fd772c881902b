//! No secret shows where it should not.

use testudo_identity::{Authorization, LoginRequest, TokenRequest};
use testudo_model::Redacted;

use crate::house::{House, PASSWORD, SECRET, claimed_request, code_of, native_request, redemption};

#[test]
fn debug_output_holds_no_secret() {
    let house = House::new();
    let logged_in = house.login_through(&native_request(&[]));
    let code = code_of(&logged_in);
    let cookie = logged_in.session_cookie.expose().clone();
    let parameters = redemption(&code, &[("client_secret", SECRET)]);
    let request = TokenRequest {
        parameters: &parameters,
        authorization: Some(SECRET),
        dpop: None,
        peer: None,
    };
    let tokens = house.redeem(&code).unwrap();
    let session = house.provider.session(&cookie).unwrap();
    let sessions = house.provider.sessions_of(&house.alice).unwrap();
    let password = Redacted::new(PASSWORD.to_owned());
    let form = LoginRequest {
        flow: "flow",
        browser: None,
        session: None,
        username: "alice",
        password: &password,
    };
    let silent =
        house
            .provider
            .authorize(&claimed_request(&[]), Some(&cookie), None, &house.caller);
    let silent = silent.unwrap();
    let shown = format!(
        "{logged_in:?} {request:?} {tokens:?} {session:?} {sessions:?} {form:?} {silent:?}"
    );
    let Authorization::Code { location } = &silent else {
        panic!("no code")
    };
    let second_code = &crate::house::query(location.expose())["code"];
    let cookie_secret = cookie.split_once('.').unwrap().1;
    let refresh_token = tokens.refresh_token.as_deref().unwrap();
    let secrets = [
        PASSWORD,
        SECRET,
        &code,
        second_code,
        cookie_secret,
        refresh_token.rsplit('.').next().unwrap(),
        &tokens.access_token,
        tokens.id_token.as_deref().unwrap(),
    ];
    for secret in secrets {
        assert!(!shown.contains(secret), "{secret} shows in {shown}");
    }
}

#[test]
fn events_hold_no_secret() {
    let house = House::new();
    let code = house.code();
    let tokens = house.redeem(&code).unwrap();
    let refresh_token = tokens.refresh_token.as_deref().unwrap();
    house.refresh(refresh_token).unwrap();
    let _ = house.token(&redemption(
        &code,
        &[("client_id", "web"), ("client_secret", SECRET)],
    ));
    let _ = house.try_login("alice", "a wrong password");
    let events = serde_json::to_string(&house.events()).unwrap();
    for secret in [
        PASSWORD,
        SECRET,
        "a wrong password",
        &code,
        refresh_token,
        &tokens.access_token,
    ] {
        assert!(!events.contains(secret), "{secret} is in an event");
    }
    assert!(events.contains("token.issue") && events.contains("192.0.2.7"));
}

#[test]
fn what_is_listed_to_administrators_has_no_secret() {
    let house = House::new();
    let users = house.provider.users(None, 10).unwrap();
    let clients = house.provider.clients(None, 10).unwrap();
    let accounts = house.provider.service_accounts(None, 10).unwrap();
    let json = |value: serde_json::Value| value.to_string();
    let listed = [
        json(serde_json::to_value(&users.items[0].record).unwrap()),
        json(serde_json::to_value(&clients.items[1].record).unwrap()),
        json(serde_json::to_value(&accounts.items[0].record).unwrap()),
    ]
    .concat();
    assert!(listed.contains("alice") && listed.contains("web") && listed.contains("restock"));
    assert!(
        !listed.contains("argon2") && !listed.contains("secret") && !listed.contains("password")
    );
}
