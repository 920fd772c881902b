//! What clients' backends do at the identity provider, over TLS: introspection, revocation, pushed requests.

use serde_json::{Value, json};
use url::form_urlencoded;

use crate::{
    browser::{Browser, authorize_path, code_form, flow_of, form_request, query_of, token},
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

/// The authorization request of the public client, for its body.
fn request_form(changes: &[(&str, &str)]) -> Vec<(String, String)> {
    let path = authorize_path(changes);
    let query = path.split_once('?').unwrap().1;
    form_urlencoded::parse(query.as_bytes())
        .into_owned()
        .collect()
}

/// Pushes a request; the reference.
fn push(shop: &Shop, changes: &[(&str, &str)]) -> Answer {
    let form = request_form(changes);
    let form: Vec<(&str, &str)> = form
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect();
    shop.ask_server(&form_request("/oauth2/par", &form, ""))
}

fn authorize_by_reference(client: &str, request_uri: &str) -> String {
    let query = form_urlencoded::Serializer::new(String::new())
        .extend_pairs([("client_id", client), ("request_uri", request_uri)])
        .finish();
    format!("/oauth2/authorize?{query}")
}

#[test]
fn a_pushed_request_gives_one_code_to_the_client_that_pushed_it() {
    let shop = Shop::open("");
    let pushed = push(&shop, &[("state", "pushed")]);
    assert_eq!(pushed.status, 201, "{pushed:?}");
    assert_eq!(pushed.header("cache-control"), Some("no-store"));
    assert_eq!(pushed.json()["expires_in"], 90);
    let request_uri = pushed.json()["request_uri"].as_str().unwrap().to_owned();
    assert!(request_uri.len() < 1_024, "{}", request_uri.len());

    let mut browser = Browser::new(&shop);
    for (client, uri) in [
        ("cli", &*request_uri),
        ("help-desk", &request_uri),
        ("web", "urn:ietf:params:oauth:request_uri:made-up"),
    ] {
        let answer = browser.get(&authorize_by_reference(client, uri));
        assert_eq!(
            (answer.status, answer.header("location")),
            (400, None),
            "{client} {uri}"
        );
    }
    let page = browser.get(&authorize_by_reference("web", &request_uri));
    let flow = flow_of(&page);
    let form = [
        ("flow", &*flow),
        ("username", "alice"),
        ("password", &*password("alice")),
    ];
    let answer = browser.post("/login", &form);
    let query = query_of(answer.header("location").unwrap());
    assert_eq!(query["state"], "pushed");
    assert_eq!(query["iss"], shop.fleet.ready["server"].as_str().unwrap());
    let tokens = token(&shop, &code_form(&query["code"]));
    assert_eq!(tokens.status, 200, "{tokens:?}");

    // A second code there is not: neither by the session, nor by the page that is still open.
    let again = browser.get(&authorize_by_reference("web", &request_uri));
    assert_eq!((again.status, again.header("location")), (400, None));
    assert_eq!(browser.post("/login", &form).status, 400);

    // What is wrong is said at once, and to the client.
    for (changes, error) in [
        (
            &[("redirect_uri", "https://evil.example/")][..],
            "invalid_request",
        ),
        (
            &[("request_uri", "https://evil.example/")],
            "invalid_request",
        ),
        (&[("scope", "nothing:known")], "invalid_scope"),
        (&[("client_id", "help-desk")], "invalid_client"),
    ] {
        let refused = push(&shop, changes);
        assert_eq!(refused.json()["error"], error, "{changes:?}: {refused:?}");
    }
    let by_query = shop.ask_server(&get("/oauth2/par", ""));
    assert_eq!(by_query.status, 405);
}
