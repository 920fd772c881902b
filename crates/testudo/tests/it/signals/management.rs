//! Receivers manage their streams, and administrators look after them.

use serde_json::{Value, json};

use super::{
    ACCOUNT_DISABLED, POLL, PUSH, Polling, Pushed, SESSION_REVOKED, STREAM_UPDATED, VERIFICATION,
    ask, event_of, id_of, issuer, stream, token, token_at, user_id, with_receivers,
};
use crate::{installed::left_out, roles::eventually, shop::Shop};

fn disable_and_enable(shop: &Shop, username: &str) {
    shop.fleet.folder.run(&["user", "disable", username]);
    shop.fleet.folder.run(&["user", "enable", username]);
}

fn set_status(shop: &Shop, token: &str, stream: &Value, status: &str) -> u16 {
    let body = json!({ "stream_id": id_of(stream), "status": status, "reason": "a test" });
    ask(shop, token, "POST", "/ssf/status", &body).status
}

fn events(claims: &[Value], kind: &str) -> usize {
    claims
        .iter()
        .filter(|claims| event_of(claims, kind).is_some())
        .count()
}

#[test]
fn a_stream_is_what_its_receiver_says() {
    let shop = with_receivers("");
    let metadata = shop
        .ask_server("GET /.well-known/ssf-configuration HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .json();
    let at = |path: &str| format!("{}{path}", issuer(&shop));
    assert_eq!(
        metadata,
        json!({
            "spec_version": "1_0",
            "issuer": issuer(&shop),
            "jwks_uri": at("/oauth2/jwks"),
            "delivery_methods_supported": [PUSH, POLL],
            "configuration_endpoint": at("/ssf/streams"),
            "status_endpoint": at("/ssf/status"),
            "add_subject_endpoint": at("/ssf/subjects/add"),
            "remove_subject_endpoint": at("/ssf/subjects/remove"),
            "verification_endpoint": at("/ssf/verify"),
            "authorization_schemes": [
                { "spec_urn": "urn:ietf:rfc:6749" },
                { "spec_urn": "urn:ietf:rfc:9449" },
                { "spec_urn": "urn:ietf:rfc:8705" },
            ],
            "default_subjects": "ALL",
        })
    );
    let soc = token(&shop, "soc");
    let none = ask(&shop, &soc, "GET", "/ssf/streams", &Value::Null);
    assert_eq!((none.status, none.json()), (200, json!([])));
    let wishes = json!({
        "delivery": { "method": PUSH, "endpoint_url": "https://soc.example/events", "authorization_header": "Bearer quiet" },
        "events_requested": [SESSION_REVOKED],
        "description": "for the night shift",
    });
    let made = stream(&shop, &soc, &wishes);
    let one = format!("/ssf/streams?stream_id={}", id_of(&made));
    assert_eq!(ask(&shop, &soc, "GET", &one, &Value::Null).json(), made);
    assert_eq!(made["iss"], issuer(&shop));
    assert_eq!(made["events_delivered"], json!([SESSION_REVOKED]));
    assert!(!made.to_string().contains("quiet"), "{made}");

    // PATCH keeps what it does not name; PUT does not. What is ours to say may come along as it is.
    let mut change =
        json!({ "stream_id": id_of(&made), "events_requested": [ACCOUNT_DISABLED], "aud": "soc" });
    let patched = ask(&shop, &soc, "PATCH", "/ssf/streams", &change).json();
    assert_eq!(patched["description"], "for the night shift");
    assert_eq!(patched["events_delivered"], json!([ACCOUNT_DISABLED]));
    change["aud"] = json!("desk");
    assert_eq!(
        ask(&shop, &soc, "PATCH", "/ssf/streams", &change).status,
        400
    );
    let replaced = json!({ "stream_id": id_of(&made), "delivery": { "method": POLL } });
    let replaced = ask(&shop, &soc, "PUT", "/ssf/streams", &replaced).json();
    assert_eq!(replaced.get("description"), None);
    assert_eq!(replaced["delivery"]["method"], POLL);
    assert_eq!(
        replaced["delivery"]["endpoint_url"],
        at(&format!("/ssf/poll/{}", id_of(&made)))
    );

    for wrong in [
        json!({ "delivery": { "method": "urn:ietf:rfc:1149" } }),
        json!({ "delivery": { "method": PUSH } }),
        json!({ "delivery": { "method": PUSH, "endpoint_url": "http://soc.example/" } }),
        json!({ "events_requested": "all" }),
        json!({ "description": "x".repeat(257) }),
        json!([]),
    ] {
        let answer = ask(&shop, &soc, "POST", "/ssf/streams", &wrong);
        assert_eq!(answer.status, 400, "{wrong}: {answer:?}");
        assert_eq!(answer.json()["error"], "invalid_request");
    }
    for _ in 1..4 {
        stream(&shop, &soc, &json!({}));
    }
    assert_eq!(
        ask(&shop, &soc, "POST", "/ssf/streams", &json!({})).status,
        409
    );
    let all = ask(&shop, &soc, "GET", "/ssf/streams", &Value::Null).json();
    assert_eq!(all.as_array().unwrap().len(), 4);
    assert_eq!(ask(&shop, &soc, "DELETE", &one, &Value::Null).status, 204);
    assert_eq!(ask(&shop, &soc, "DELETE", &one, &Value::Null).status, 404);
    assert_eq!(ask(&shop, &soc, "GET", &one, &Value::Null).status, 404);
}

#[test]
fn what_waits_for_a_paused_stream_comes_later_and_for_a_disabled_one_never() {
    if left_out() {
        return;
    }
    let shop = with_receivers(super::LOCAL);
    let soc = token(&shop, "soc");
    let pushed = Pushed::start(&shop, &issuer(&shop), "soc", "RS256");
    let made = stream(
        &shop,
        &soc,
        &json!({ "delivery": pushed.delivery(), "events_requested": [ACCOUNT_DISABLED] }),
    );
    let status = format!("/ssf/status?stream_id={}", id_of(&made));
    assert_eq!(set_status(&shop, &soc, &made, "paused"), 200);
    let told = ask(&shop, &soc, "GET", &status, &Value::Null).json();
    assert_eq!(
        told,
        json!({ "stream_id": id_of(&made), "status": "paused", "reason": "a test" })
    );
    disable_and_enable(&shop, "larry");
    let shown = || -> Value {
        let shown = shop
            .fleet
            .folder
            .run(&["signal", "show", id_of(&made), "--output", "json"]);
        serde_json::from_str(&shown).unwrap()
    };
    assert_eq!(shown()["waiting"], 1);
    assert_eq!(shown()["status"], "paused");
    assert!(pushed.claims().is_empty());
    assert_eq!(set_status(&shop, &soc, &made, "enabled"), 200);
    pushed.wait(ACCOUNT_DISABLED, |_| true);
    eventually("nothing waits", || shown()["waiting"] == 0);
    assert_eq!(shown()["last_delivery"]["failure"], Value::Null);
    assert!(shown()["last_delivery"]["at"].is_string());

    assert_eq!(set_status(&shop, &soc, &made, "disabled"), 200);
    disable_and_enable(&shop, "larry");
    assert_eq!(set_status(&shop, &soc, &made, "enabled"), 200);
    // An administrator closes the stream: that is told, and cannot be undone by the receiver.
    shop.fleet.folder.run(&["signal", "disable", id_of(&made)]);
    let updated = pushed.wait(STREAM_UPDATED, |_| true);
    assert_eq!(
        event_of(&updated, STREAM_UPDATED).unwrap()["status"],
        "disabled"
    );
    assert_eq!(set_status(&shop, &soc, &made, "enabled"), 403);
    let verify = json!({ "stream_id": id_of(&made) });
    assert_eq!(ask(&shop, &soc, "POST", "/ssf/verify", &verify).status, 400);
    disable_and_enable(&shop, "larry");
    shop.fleet.folder.run(&["signal", "enable", id_of(&made)]);
    pushed.wait(STREAM_UPDATED, |claims| {
        event_of(claims, STREAM_UPDATED).unwrap()["status"] == "enabled"
    });
    disable_and_enable(&shop, "larry");
    eventually("what happens now is told", || {
        events(&pushed.claims(), ACCOUNT_DISABLED) >= 2
    });
    // A second verification comes too soon.
    assert_eq!(ask(&shop, &soc, "POST", "/ssf/verify", &verify).status, 204);
    assert_eq!(ask(&shop, &soc, "POST", "/ssf/verify", &verify).status, 429);
    pushed.wait(VERIFICATION, |_| true);
    assert_eq!(events(&pushed.claims(), ACCOUNT_DISABLED), 2);
    let listed = shop.fleet.folder.run(&["signal", "list"]);
    assert!(
        listed.contains(id_of(&made)) && listed.contains("soc"),
        "{listed}"
    );
    shop.fleet.folder.run(&["signal", "delete", id_of(&made)]);
    let gone = ask(&shop, &soc, "GET", &status, &Value::Null);
    assert_eq!(gone.status, 404);
}

#[test]
fn a_receiver_is_told_nothing_of_a_user_it_has_removed() {
    if left_out() {
        return;
    }
    let shop = with_receivers("");
    let desk = token(&shop, "desk");
    let made = stream(
        &shop,
        &desk,
        &json!({ "events_requested": [ACCOUNT_DISABLED] }),
    );
    let mut polling = Polling::start(
        &shop,
        &issuer(&shop),
        "https://desk.example",
        "ES256",
        &made,
    );
    let subject = |sub: &str| {
        json!({
            "stream_id": id_of(&made),
            "subject": { "format": "iss_sub", "iss": issuer(&shop), "sub": sub },
        })
    };
    let larry = subject(&user_id(&shop, "larry"));
    // Nobody learns who there is.
    for subject in [
        &larry,
        &subject("usr_00000000000000000000000000"),
        &subject("x"),
    ] {
        let answer = ask(&shop, &desk, "POST", "/ssf/subjects/remove", subject);
        assert_eq!((answer.status, &*answer.body), (204, ""), "{subject}");
    }
    disable_and_enable(&shop, "larry");
    disable_and_enable(&shop, "alice");
    let got = polling.drain(&desk);
    assert_eq!(got.len(), 1, "{got:#?}");
    assert_eq!(got[0]["sub_id"]["sub"], user_id(&shop, "alice"));
    let answer = ask(&shop, &desk, "POST", "/ssf/subjects/add", &larry);
    assert_eq!((answer.status, &*answer.body), (200, ""));
    disable_and_enable(&shop, "larry");
    assert_eq!(polling.drain(&desk).len(), 1);
    let mail = json!({ "stream_id": id_of(&made), "subject": { "format": "email", "email": "a@b.example" } });
    assert_eq!(
        ask(&shop, &desk, "POST", "/ssf/subjects/add", &mail).status,
        400
    );
}

#[test]
fn a_tenant_has_receivers_of_its_own() {
    if left_out() {
        return;
    }
    let shop = with_receivers("");
    let folder = &shop.fleet.folder;
    folder.run(&["tenant", "create", "acme"]);
    let path =
        "GET /.well-known/ssf-configuration/tenants/acme HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert_eq!(
        shop.ask_server(path).status,
        404,
        "there is no receiver yet"
    );
    let secret = folder.run(&[
        "--tenant",
        "acme",
        "service-account",
        "create",
        "watch",
        "--signals",
        "RS256",
    ]);
    let watch = token_at(&shop, "/tenants/acme", "watch", secret.trim(), "");
    let fleet = token(&shop, "desk");
    let of_fleet = stream(&shop, &fleet, &json!({}));
    let made = ask(
        &shop,
        &watch,
        "POST",
        "/tenants/acme/ssf/streams",
        &json!({}),
    );
    assert_eq!(made.status, 201, "{made:?}");
    let made = made.json();
    let acme = format!("{}/tenants/acme", issuer(&shop));
    assert_eq!(made["iss"], acme);
    let mut theirs = Polling::start(&shop, &acme, "watch", "RS256", &made);
    let mut ours = Polling::start(
        &shop,
        &issuer(&shop),
        "https://desk.example",
        "ES256",
        &of_fleet,
    );
    super::set_password(&shop, "larry", "seven owls count the teaspoons");
    assert!(
        theirs.drain(&watch).is_empty(),
        "the fleet's people are not theirs"
    );
    assert_eq!(ours.drain(&fleet).len(), 2);
    let file = folder.path().join("passwords/anna");
    std::fs::write(&file, "eleven sober owls count teaspoons").unwrap();
    let made_anna = folder
        .command(&["--tenant", "acme", "user", "create", "anna"])
        .stdin(std::fs::File::open(file).unwrap())
        .output()
        .unwrap();
    assert!(made_anna.status.success());
    folder.run(&["--tenant", "acme", "user", "disable", "anna"]);
    let told = theirs.drain(&watch);
    assert_eq!(events(&told, ACCOUNT_DISABLED), 1, "{told:#?}");
    assert!(
        ours.drain(&fleet).is_empty(),
        "their people are not the fleet's"
    );
    // Each at the other's door: neither token, nor stream.
    for (token, path) in [
        (&watch, "/ssf/streams"),
        (&fleet, "/tenants/acme/ssf/streams"),
    ] {
        let answer = ask(&shop, token, "GET", path, &Value::Null);
        assert_eq!(answer.status, 401, "{path}: {answer:?}");
    }
    let crossed = format!("/tenants/acme/ssf/poll/{}", id_of(&of_fleet));
    assert_eq!(ask(&shop, &watch, "POST", &crossed, &json!({})).status, 404);
    let listed = folder.run(&["--tenant", "acme", "signal", "list"]);
    assert!(
        listed.contains(id_of(&made)) && !listed.contains(id_of(&of_fleet)),
        "{listed}"
    );
}
