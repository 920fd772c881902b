//! What happens reaches who wants to know it, pushed or fetched, whatever dies meanwhile.

use std::{collections::BTreeSet, sync::Mutex, thread, time::Duration};

use serde_json::{Value, json};

use super::{
    ACCOUNT_DISABLED, ACCOUNT_ENABLED, CREDENTIAL_CHANGE, Polling, Pushed, SESSION_REVOKED,
    VERIFICATION, ask, event_of, id_of, issuer, set_password, stream, token, user_id,
    with_receivers,
};
use crate::{
    browser::{Browser, flow_of},
    installed::left_out,
    roles::eventually,
    shop::{Shop, claims_of},
};

/// The subject of a user.
fn user(shop: &Shop, username: &str) -> Value {
    json!({ "format": "iss_sub", "iss": issuer(shop), "sub": user_id(shop, username) })
}

#[test]
fn logging_out_and_changing_a_password_is_told_to_both_kinds_of_receivers() {
    if left_out() {
        return;
    }
    let shop = with_receivers(super::LOCAL);
    let (soc, desk) = (token(&shop, "soc"), token(&shop, "desk"));
    let pushed = Pushed::start(&shop, &issuer(&shop), "soc", "RS256");
    let made = stream(&shop, &soc, &json!({ "delivery": pushed.delivery() }));
    assert_eq!(made["aud"], "soc");
    let verify = json!({ "stream_id": id_of(&made), "state": "are you there?" });
    assert_eq!(ask(&shop, &soc, "POST", "/ssf/verify", &verify).status, 204);
    let verification = pushed.wait(VERIFICATION, |_| true);
    let event = event_of(&verification, VERIFICATION).unwrap();
    assert_eq!(event["state"], "are you there?");
    let stream_subject = json!({ "format": "opaque", "id": id_of(&made) });
    assert_eq!(verification["sub_id"], stream_subject);
    assert_eq!(
        pushed.told.lock().unwrap()[0]["authorization"],
        "Bearer of good news"
    );

    let fetched = stream(&shop, &desk, &json!({}));
    assert_eq!(fetched["aud"], "https://desk.example");
    let mut polling = Polling::start(
        &shop,
        &issuer(&shop),
        "https://desk.example",
        "ES256",
        &fetched,
    );

    // One session of an application ends: its `sid` is named.
    let mut browser = Browser::new(&shop);
    let tokens = browser.tokens("alice");
    let sid = claims_of(tokens["id_token"].as_str().unwrap())["sid"].clone();
    let page = browser.get("/account");
    let session = shop
        .fleet
        .folder
        .run(&["session", "list", "alice", "--output", "json"]);
    let session: Value = serde_json::from_str(&session).unwrap();
    let session = &session[0]["id"];
    let form = [
        ("flow", &*flow_of(&page)),
        ("action", "end-session"),
        ("session", session.as_str().unwrap()),
    ];
    assert!(browser.post("/account", &form).status < 400);
    let is_session = |claims: &Value| claims["sub_id"]["format"] == "complex";
    let revoked = pushed.wait(SESSION_REVOKED, is_session);
    let alice = user(&shop, "alice");
    assert_eq!(revoked["sub_id"]["user"], alice);
    assert_eq!(revoked["sub_id"]["session"]["id"], sid);
    let event = event_of(&revoked, SESSION_REVOKED).unwrap();
    assert_eq!(event["initiating_entity"], "user");
    assert!(!event["reason_admin"]["en"].as_str().unwrap().is_empty());

    // All of them.
    browser.tokens("alice");
    let page = browser.get("/account");
    let form = [("flow", &*flow_of(&page)), ("action", "end-all-sessions")];
    assert!(browser.post("/account", &form).status < 400);
    let revoked = pushed.wait(SESSION_REVOKED, |claims| claims["sub_id"] == alice);
    assert_eq!(
        event_of(&revoked, SESSION_REVOKED).unwrap()["initiating_entity"],
        "user"
    );

    set_password(&shop, "alice", "seven owls count the teaspoons");
    let changed = pushed.wait(CREDENTIAL_CHANGE, |claims| claims["sub_id"] == alice);
    let event = event_of(&changed, CREDENTIAL_CHANGE).unwrap();
    assert_eq!(event["credential_type"], "password");
    assert_eq!(event["change_type"], "update");
    assert_eq!(event["initiating_entity"], "admin");
    // What came of one change has one `txn`.
    let txn = changed["txn"].clone();
    pushed.wait(SESSION_REVOKED, |claims| claims["txn"] == txn);

    shop.fleet.folder.run(&["user", "disable", "alice"]);
    pushed.wait(ACCOUNT_DISABLED, |claims| claims["sub_id"] == alice);
    shop.fleet.folder.run(&["user", "enable", "alice"]);
    pushed.wait(ACCOUNT_ENABLED, |claims| claims["sub_id"] == alice);

    // Who fetches gets the same, with ids of its own.
    let got = polling.drain(&desk);
    let seen = |kind: &str| {
        got.iter()
            .filter(|claims| event_of(claims, kind).is_some())
            .count()
    };
    assert_eq!(
        [
            SESSION_REVOKED,
            CREDENTIAL_CHANGE,
            ACCOUNT_DISABLED,
            ACCOUNT_ENABLED
        ]
        .map(seen),
        [4, 1, 1, 1],
        "{got:#?}"
    );
    let ids = |all: &[Value]| -> BTreeSet<String> {
        all.iter().map(|claims| claims["jti"].to_string()).collect()
    };
    assert!(ids(&got).is_disjoint(&ids(&pushed.claims())));
    assert!(polling.drain(&desk).is_empty(), "acknowledged is gone");

    // Each delivery is in the ledger.
    let delivered = [
        "audit",
        "search",
        "activity=signal.deliver",
        "outcome=success",
    ];
    eventually("the ledger has the deliveries", || {
        shop.fleet.folder.run(&delivered).contains(id_of(&made))
    });
}

#[test]
fn a_server_killed_while_signals_wait_loses_none() {
    if left_out() {
        return;
    }
    let mut shop = with_receivers(super::LOCAL);
    let (soc, desk) = (token(&shop, "soc"), token(&shop, "desk"));
    let mut pushed = Pushed::start(&shop, &issuer(&shop), "soc", "RS256");
    stream(&shop, &soc, &json!({ "delivery": pushed.delivery() }));
    let fetched = stream(&shop, &desk, &json!({}));
    let mut ended = BTreeSet::new();
    for round in 0..3 {
        // Mid-way; in one round the receiver takes what comes while the server dies.
        pushed.answer(if round == 1 { 202 } else { 503 });
        let answered = Mutex::new(Vec::new());
        thread::scope(|scope| {
            let (answered, shop) = (&answered, &shop);
            let logins: Vec<_> = (0..4)
                .map(|_| {
                    let mut browser = Browser::new(shop);
                    let tokens = browser.tokens("alice");
                    let sid = claims_of(tokens["id_token"].as_str().unwrap())["sid"].clone();
                    let refresh = tokens["refresh_token"].as_str().unwrap_or("").to_owned();
                    (browser, tokens, sid, refresh)
                })
                .collect();
            let ending = scope.spawn(move || {
                for (mut browser, tokens, sid, _) in logins {
                    let hint = tokens["id_token"].as_str().unwrap().to_owned();
                    let attempt = std::panic::AssertUnwindSafe(|| {
                        let answer = browser.get(&format!("/oauth2/logout?id_token_hint={hint}"));
                        assert!(answer.status < 400, "{answer:?}");
                    });
                    // What breaks off with the kill was never answered.
                    if std::panic::catch_unwind(attempt).is_ok() {
                        answered.lock().unwrap().push(sid);
                    }
                }
            });
            thread::sleep(Duration::from_millis(30 + 50 * round));
            shop.fleet.process.signal("-KILL");
            ending.join().unwrap();
        });
        for sid in answered.into_inner().unwrap() {
            ended.insert(sid.as_str().unwrap().to_owned());
        }
        let _ = shop.fleet.process.0.wait();
        shop.fleet = shop.fleet.folder.up();
    }
    assert!(ended.len() >= 3, "hardly anybody logged out: {ended:?}");
    pushed.answer(202);
    let sids = |claims: &[Value]| -> BTreeSet<String> {
        let ids = claims
            .iter()
            .filter_map(|claims| claims["sub_id"]["session"]["id"].as_str());
        ids.map(str::to_owned).collect()
    };
    eventually("the pushed receiver knows all that ended", || {
        sids(&pushed.claims()).is_superset(&ended)
    });
    assert!(pushed.refused() > 0);
    // Who fetches knows them too, and each once: what was not acknowledged has the id it had.
    let desk = token(&shop, "desk");
    let mut polling = Polling::start(
        &shop,
        &issuer(&shop),
        "https://desk.example",
        "ES256",
        &fetched,
    );
    let first = polling.poll(&desk, &json!({ "returnImmediately": true }));
    shop.fleet.process.signal("-KILL");
    let _ = shop.fleet.process.0.wait();
    shop.fleet = shop.fleet.folder.up();
    let again = polling.poll(&desk, &json!({ "returnImmediately": true }));
    assert_eq!(first["sets"], again["sets"]);
    let got = polling.drain(&desk);
    assert!(sids(&got).is_superset(&ended), "{ended:?} {got:#?}");
    let ids: BTreeSet<String> = got.iter().map(|claims| claims["jti"].to_string()).collect();
    assert_eq!(ids.len(), got.len(), "nothing comes twice");
}

#[test]
fn a_poll_gets_what_it_asks_for_and_waits_for_the_rest() {
    if left_out() {
        return;
    }
    let shop = with_receivers("");
    let desk = token(&shop, "desk");
    let made = stream(
        &shop,
        &desk,
        &json!({ "events_requested": [ACCOUNT_DISABLED, "urn:unknown"] }),
    );
    assert_eq!(made["events_delivered"], json!([ACCOUNT_DISABLED]));
    assert_eq!(
        made["events_requested"],
        json!([ACCOUNT_DISABLED, "urn:unknown"])
    );
    let mut polling = Polling::start(
        &shop,
        &issuer(&shop),
        "https://desk.example",
        "ES256",
        &made,
    );
    let toggle = || {
        shop.fleet.folder.run(&["user", "disable", "larry"]);
        shop.fleet.folder.run(&["user", "enable", "larry"]);
    };
    for _ in 0..3 {
        toggle();
    }
    let two = polling.poll(&desk, &json!({ "maxEvents": 2 }));
    assert_eq!(two["sets"].as_object().unwrap().len(), 2, "{two}");
    assert_eq!(two["more"], true);
    let ids: Vec<String> = two["sets"].as_object().unwrap().keys().cloned().collect();
    // One is taken, one refused; an id of nothing changes nothing. No more than that is asked for.
    let said = json!({
        "maxEvents": 0,
        "ack": [ids[0], "ntc_00000000000000000000000000", "x"],
        "setErrs": { &*ids[1]: { "err": "invalid_audience", "description": "?" } },
    });
    let none = polling.poll(&desk, &said);
    assert!(none["sets"].as_object().unwrap().is_empty());
    let rest = polling.poll(&desk, &json!({}));
    let left: Vec<&String> = rest["sets"].as_object().unwrap().keys().collect();
    assert_eq!(left.len(), 1);
    assert!(!ids.contains(left[0]));
    assert_eq!(rest["more"], false);
    let refused = [
        "audit",
        "search",
        "activity=signal.deliver",
        "outcome=failure",
        "--output",
        "json",
    ];
    eventually("the refusal is in the ledger", || {
        shop.fleet.folder.run(&refused).contains("invalid_audience")
    });

    // A poll waits for what is not there yet.
    polling.ask(&desk, &json!({ "ack": [left[0]] }));
    thread::sleep(Duration::from_millis(700));
    toggle();
    let came = polling.answer();
    assert_eq!(came["sets"].as_object().unwrap().len(), 1, "{came}");
    let seconds = came["seconds"].as_f64().unwrap();
    assert!((0.6..10.0).contains(&seconds), "{seconds}");
    // Or not, if it would rather not.
    let body = json!({ "ack": came["sets"].as_object().unwrap().keys().collect::<Vec<_>>(), "returnImmediately": true });
    let none = polling.poll(&desk, &body);
    assert!(none["sets"].as_object().unwrap().is_empty());
    assert!(none["seconds"].as_f64().unwrap() < 5.0);
}
