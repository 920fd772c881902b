//! What clients' backends do at the identity provider, over TLS: introspection and revocation.

use serde_json::{Value, json};

use crate::{
    browser::{Browser, form_request},
    forge::get,
    machines::with_certificate,
    shop::{Shop, password},
    wire::Answer,
};

const INTROSPECT: &str = "/oauth2/introspect";

/// A request of the client `help-desk`, which has a secret.
fn as_desk(shop: &Shop, path: &str, form: &[(&str, &str)]) -> Answer {
    let secret = password("help-desk");
    let proof = [("client_id", "help-desk"), ("client_secret", &*secret)];
    shop.ask_server(&form_request(path, &[&proof[..], form].concat(), ""))
}

#[test]
fn a_token_is_told_about_to_its_client_and_to_the_fleet_alone() {
    let shop = Shop::open("");
    let document = shop.ask_server(&get("/.well-known/oauth-authorization-server", ""));
    let endpoint = document.json()["introspection_endpoint"].clone();
    assert!(
        endpoint.as_str().unwrap().ends_with(INTROSPECT),
        "{endpoint}"
    );

    let tokens = Browser::new(&shop).tokens("alice");
    let (access, refresh) = (
        tokens["access_token"].as_str().unwrap(),
        tokens["refresh_token"].as_str().unwrap(),
    );
    let inactive = json!({ "active": false });
    for token in [access, refresh, tokens["id_token"].as_str().unwrap(), "x"] {
        let answer = as_desk(&shop, INTROSPECT, &[("token", token)]);
        assert_eq!((answer.status, answer.json()), (200, inactive.clone()));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
    // A workload of the fleet is whom the token is meant for.
    let helper = shop.member(Some("helper"));
    let ask = |token: &str| -> Value {
        let form = [("client_id", "robot"), ("token", token)];
        let request = form_request(INTROSPECT, &form, "");
        with_certificate(&shop, &helper, &request).unwrap().json()
    };
    let told = ask(access);
    assert_eq!(
        (&told["active"], &told["client_id"], &told["token_type"]),
        (&json!(true), &json!("web"), &json!("Bearer")),
        "{told}"
    );
    assert_eq!(ask(refresh), inactive);
    let unproven = form_request(INTROSPECT, &[("client_id", "robot"), ("token", access)], "");
    assert_eq!(shop.ask_server(&unproven).status, 401, "a name is no proof");
    let public = form_request(INTROSPECT, &[("client_id", "web"), ("token", access)], "");
    assert_eq!(shop.ask_server(&public).status, 401, "anybody has it");
    assert_eq!(shop.ask_server(&get(INTROSPECT, "")).status, 405);

    // Somebody else cannot take it back; its client can, and then nobody is told more.
    assert_eq!(
        as_desk(&shop, "/oauth2/revoke", &[("token", access)]).status,
        200
    );
    assert_eq!(ask(access)["active"], true);
    let own = form_request(
        "/oauth2/revoke",
        &[("client_id", "web"), ("token", access)],
        "",
    );
    assert_eq!(shop.ask_server(&own).status, 200);
    assert_eq!(ask(access), inactive);
}
