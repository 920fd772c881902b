//! What receivers, and who is none, may not do.

use serde_json::{Value, json};
use testudo_trust::SigningKey;

use super::{
    PUSH, SECRET, VERIFICATION, ask, id_of, issuer, stream, token, token_at, with_receivers,
};
use crate::{
    browser::{Browser, form_request},
    roles::eventually,
    shop::{Shop, claims_of},
};

/// Every request a receiver may make, about this stream.
fn requests(shop: &Shop, stream: &Value) -> Vec<(&'static str, String, Value)> {
    let id = id_of(stream);
    let one = json!({ "stream_id": id });
    let subject = json!({
        "stream_id": id,
        "subject": { "format": "iss_sub", "iss": issuer(shop), "sub": "usr_00000000000000000000000000" },
    });
    let status = json!({ "stream_id": id, "status": "disabled" });
    let fetch = json!({ "returnImmediately": true });
    vec![
        ("GET", format!("/ssf/streams?stream_id={id}"), Value::Null),
        ("GET", format!("/ssf/status?stream_id={id}"), Value::Null),
        ("POST", format!("/ssf/poll/{id}"), fetch),
        ("PATCH", "/ssf/streams".to_owned(), one.clone()),
        ("PUT", "/ssf/streams".to_owned(), one.clone()),
        ("POST", "/ssf/status".to_owned(), status),
        ("POST", "/ssf/subjects/add".to_owned(), subject.clone()),
        ("POST", "/ssf/subjects/remove".to_owned(), subject),
        ("POST", "/ssf/verify".to_owned(), one),
        (
            "DELETE",
            format!("/ssf/streams?stream_id={id}"),
            Value::Null,
        ),
    ]
}

#[test]
fn a_receiver_sees_and_changes_no_stream_but_its_own() {
    let shop = with_receivers("");
    let (soc, desk) = (token(&shop, "soc"), token(&shop, "desk"));
    let made = stream(&shop, &soc, &json!({}));
    for (method, path, body) in requests(&shop, &made) {
        let answer = ask(&shop, &desk, method, &path, &body);
        assert_eq!(answer.status, 404, "{method} {path}: {answer:?}");
    }
    let own = ask(&shop, &desk, "GET", "/ssf/streams", &Value::Null);
    assert_eq!(own.json(), json!([]));
    // Nor does it take what waits for another off the queue.
    let verify = json!({ "stream_id": id_of(&made) });
    assert_eq!(ask(&shop, &soc, "POST", "/ssf/verify", &verify).status, 204);
    let poll = format!("/ssf/poll/{}", id_of(&made));
    let now = json!({ "returnImmediately": true });
    let waiting = ask(&shop, &soc, "POST", &poll, &now).json();
    let jti = waiting["sets"]
        .as_object()
        .unwrap()
        .keys()
        .next()
        .unwrap()
        .clone();
    let of_desk = stream(&shop, &desk, &json!({}));
    let of_desk = format!("/ssf/poll/{}", id_of(&of_desk));
    let stolen =
        json!({ "returnImmediately": true, "ack": [jti], "setErrs": { &*jti: { "err": "x" } } });
    let answer = ask(&shop, &desk, "POST", &of_desk, &stolen);
    assert_eq!(answer.json()["sets"], json!({}));
    let still = ask(&shop, &soc, "POST", &poll, &now).json();
    assert!(still["sets"].get(&jti).is_some(), "{still}");
    let claims = claims_of(still["sets"][&jti].as_str().unwrap());
    assert!(claims["events"].get(VERIFICATION).is_some());
}

#[test]
fn nobody_receives_who_is_not_to() {
    let shop = with_receivers("");
    let soc = token(&shop, "soc");
    let made = stream(&shop, &soc, &json!({}));
    let mut browser = Browser::new(&shop);
    let scope = [("scope", "openid ssf.manage ssf.read")];
    let of_user = browser.tokens_for("root", &scope)["access_token"].clone();
    let of_user = of_user.as_str().unwrap();
    assert!(
        claims_of(of_user)["scope"]
            .as_str()
            .unwrap()
            .contains("ssf.manage")
    );
    let forged = SigningKey::generate()
        .sign_jwt("at+jwt", &claims_of(&soc))
        .unwrap();
    let other = token(&shop, "other");
    let unrelated = token_at(&shop, "", "desk", SECRET, "orders:read");
    let reader = token_at(&shop, "", "soc", SECRET, "ssf.read");
    for (index, (method, path, body)) in requests(&shop, &made).into_iter().enumerate() {
        let status = |token: &str| ask(&shop, token, method, &path, &body).status;
        assert_eq!(status(""), 401, "{method} {path}");
        assert_eq!(status(&forged), 401, "{method} {path}");
        assert_eq!(status(of_user), 403, "{method} {path} by a user");
        assert_eq!(status(&other), 403, "{method} {path} by no receiver");
        assert_eq!(status(&unrelated), 403, "{method} {path} without the scope");
        // The first three only look.
        let expected = if index < 3 { 200 } else { 403 };
        assert_eq!(status(&reader), expected, "{method} {path} by a reader");
    }
    let answer = ask(&shop, &unrelated, "GET", "/ssf/streams", &Value::Null);
    let challenge = answer.header("www-authenticate").unwrap();
    assert!(challenge.contains("insufficient_scope"), "{challenge}");
    // A token in the query is none.
    let path = format!("/ssf/streams?access_token={soc}");
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(shop.ask_server(&request).status, 401);
    // Who may receive no more does not from the next request on, and its tokens are worth nothing.
    shop.fleet
        .folder
        .run(&["service-account", "disable", "soc"]);
    assert_eq!(
        ask(&shop, &soc, "GET", "/ssf/streams", &Value::Null).status,
        401
    );
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", "soc"),
        ("client_secret", SECRET),
    ];
    let answer = shop.ask_server(&form_request("/oauth2/token", &form, ""));
    assert!(answer.status >= 400, "{answer:?}");
    let listed = shop.fleet.folder.run(&["signal", "list"]);
    assert!(listed.contains(id_of(&made)), "{listed}");
}

#[test]
fn nothing_is_pushed_into_the_network_of_the_fleet() {
    let shop = with_receivers("");
    let soc = token(&shop, "soc");
    for (number, endpoint) in [
        "https://127.0.0.1:9/",
        "https://169.254.169.254/latest/",
        "https://localhost:9/",
    ]
    .iter()
    .enumerate()
    {
        let delivery = json!({ "method": PUSH, "endpoint_url": endpoint });
        let made = stream(
            &shop,
            &soc,
            &json!({ "delivery": delivery, "description": number.to_string() }),
        );
        let verify = json!({ "stream_id": id_of(&made) });
        assert_eq!(ask(&shop, &soc, "POST", "/ssf/verify", &verify).status, 204);
        eventually("it is not sent, and the administrator sees why", || {
            let shown =
                shop.fleet
                    .folder
                    .run(&["signal", "show", id_of(&made), "--output", "json"]);
            let shown: Value = serde_json::from_str(&shown).unwrap();
            let failure = shown["last_delivery"]["failure"]
                .as_str()
                .unwrap_or("")
                .to_owned();
            failure.contains("not public")
        });
    }
}

#[test]
fn what_is_too_large_or_no_request_is_refused_in_words() {
    let shop = with_receivers("");
    let soc = token(&shop, "soc");
    let made = stream(&shop, &soc, &json!({}));
    let poll = format!("/ssf/poll/{}", id_of(&made));
    let huge = json!({ "ack": ["x".repeat(100_000)] });
    assert!(matches!(
        ask(&shop, &soc, "POST", &poll, &huge).status,
        400 | 413
    ));
    let many = json!({ "ack": vec!["x"; 1_001] });
    let answer = ask(&shop, &soc, "POST", &poll, &many);
    assert_eq!(answer.status, 400, "{answer:?}");
    assert!(
        answer.json()["error_description"]
            .as_str()
            .unwrap()
            .contains("1000")
    );
    let deep = format!("{}{}", "[".repeat(30_000), "]".repeat(30_000));
    for body in ["{", "null", "[]", "\u{0}", &deep] {
        let request = format!(
            "POST {poll} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {soc}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = shop.ask_server(&request);
        assert_eq!(answer.status, 400, "{answer:?}");
    }
    let state = json!({ "stream_id": id_of(&made), "state": "x".repeat(1_025) });
    assert_eq!(ask(&shop, &soc, "POST", "/ssf/verify", &state).status, 400);
    let missing = ask(&shop, &soc, "GET", "/ssf/status", &Value::Null);
    assert_eq!(missing.status, 404);
}
