//! Forged and misplaced access tokens (table E) at the gateway and at the control plane's own resources.

use std::{io::ErrorKind, time::Duration};

use serde_json::json;
use testudo_trust::SigningKey;

use crate::{
    forge::{forge, get, signed},
    forged::{algorithms, confusions, contents, encodings, keys, signatures},
    shop::Shop,
    wire,
};

#[test]
fn no_forged_access_token_is_accepted_anywhere() {
    let (shop, key) = Shop::open("").with_issuer_key();
    let forge = forge(&shop, key);
    let at_gateway = |token: &str| {
        shop.send(
            get(
                "/api/orders/1",
                &format!("Authorization: Bearer {token}\r\n"),
            )
            .as_bytes(),
        )
    };
    // The lever works: what the tests sign is believed, in the spellings RFC 9068 and RFC 7515 allow.
    for (what, token) in [
        ("as issued", forge.good()),
        (
            "typ in full",
            forge.with_header(&json!({ "typ": "application/at+jwt" })),
        ),
        (
            "typ in another case",
            forge.with_header(&json!({ "typ": "AT+JWT" })),
        ),
        ("nbf in the past", forge.with_claims(&json!({ "nbf": 0 }))),
        (
            "claims of others",
            forge.with_claims(&json!({ "more": { "a": [1, 2] } })),
        ),
    ] {
        let answer = at_gateway(&token);
        assert_eq!(
            answer.as_ref().map(|answer| answer.status),
            Some(200),
            "{what}: {answer:?}"
        );
    }
    shop.upstream.take();

    let tables = [
        algorithms(&forge),
        confusions(&forge),
        signatures(&forge),
        keys(&forge),
        contents(&forge),
        encodings(&forge),
    ];
    let mut accepted = Vec::new();
    for (what, token) in tables.iter().flatten() {
        let answer = at_gateway(token);
        let status = answer.as_ref().map_or(0, |answer| answer.status);
        // What does not fit a header section is refused before it is looked at, and so is a field that is none.
        let is_misshaped = token.len() > 30_000 || token.contains(['\0', '\t', ' ']);
        let is_refused = status == 401 || (is_misshaped && matches!(status, 0 | 400 | 431));
        let seen = shop.upstream.take();
        if !is_refused || !seen.is_empty() {
            accepted.push(format!(
                "{what} at the gateway: {answer:?}, the service saw {seen:?}"
            ));
        }
        // The flood limit for unknown tokens is not what is tested here.
        std::thread::sleep(Duration::from_millis(2));
        if token.len() > 30_000 {
            continue;
        }
        for path in ["/oauth2/userinfo", "/api/v1/status"] {
            let request = get(path, &format!("Authorization: Bearer {token}\r\n"));
            let answer = wire::exchange(&mut shop.at_server(), request.as_bytes()).unwrap();
            let status = answer.as_ref().map_or(0, |answer| answer.status);
            if status != 401 && !(is_misshaped && status == 400) {
                accepted.push(format!("{what} at {path}: {answer:?}"));
            }
        }
    }
    assert!(accepted.is_empty(), "{accepted:#?}");
    // A life without end is the issuer's mistake to make; nothing breaks.
    let forever =
        at_gateway(&forge.with_claims(&json!({ "exp": i64::MAX }))).map(|answer| answer.status);
    assert!(matches!(forever, Some(200 | 401)), "{forever:?}");
    shop.upstream.take();
    // E4: nobody has looked at the attacker's keys.
    assert_eq!(
        forge.bait.accept().map(|_| ()).unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
    assert_eq!(at_gateway(&forge.good()).unwrap().status, 200);
}

#[test]
fn a_token_counts_in_one_place_only() {
    let shop = Shop::open("");
    let alice = shop.token("alice");
    let both = format!("Authorization: Bearer {alice}\r\nAuthorization: Bearer {alice}\r\n");
    for (path, fields, allowed) in [
        ("/api/orders/1", both.clone(), &[400, 401][..]),
        (
            "/api/orders/1",
            format!("Authorization: Basic YWxpY2U6eA==\r\nAuthorization: Bearer {alice}\r\n"),
            &[400, 401],
        ),
        (
            "/api/orders/1",
            format!("Authorization: Bearer {alice}\r\nAuthorization: Basic YWxpY2U6eA==\r\n"),
            &[400, 401],
        ),
        (
            "/api/orders/1",
            format!("Authorization: Bearer {alice}, Bearer {alice}\r\n"),
            &[401],
        ),
        (
            "/api/orders/1",
            format!("Authorization: Bearer  {alice}\r\n"),
            &[401],
        ),
        (
            "/api/orders/1",
            format!("Authorization: Bearer\t{alice}\r\n"),
            &[401],
        ),
        (
            "/api/orders/1",
            format!("Authorization: bearer  {alice}\r\n"),
            &[401],
        ),
        (
            "/api/orders/1",
            format!("Authorization: Bearer{alice}\r\n"),
            &[401],
        ),
        (
            "/api/orders/1",
            format!("Authorization: {alice}\r\n"),
            &[401],
        ),
        (
            "/api/orders/1",
            format!("Authorization: Token {alice}\r\n"),
            &[401],
        ),
        (
            "/api/orders/1",
            format!("Authorization: DPoP {alice}\r\n"),
            &[401],
        ),
        (
            "/api/orders/1",
            format!("Authorization: Basic {alice}\r\n"),
            &[401],
        ),
        (
            "/api/orders/1",
            "Authorization: Basic YWxpY2U6YWxpY2U=\r\n".to_owned(),
            &[401],
        ),
        (
            "/api/orders/1",
            "Authorization: Bearer\r\n".to_owned(),
            &[401],
        ),
        (
            "/api/orders/1",
            "Authorization: Bearer \r\n".to_owned(),
            &[401],
        ),
        ("/api/orders/1", "Authorization:\r\n".to_owned(), &[401]),
        (
            "/api/orders/1",
            format!("Authorization: Bearer \"{alice}\"\r\n"),
            &[401],
        ),
        (
            "/api/orders/1",
            format!("X-Authorization: Bearer {alice}\r\n"),
            &[401],
        ),
        (
            "/api/orders/1",
            format!("Proxy-Authorization: Bearer {alice}\r\n"),
            &[401],
        ),
        (
            "/api/orders/1",
            format!("Cookie: access_token={alice}\r\n"),
            &[401],
        ),
        ("/api/orders/1", format!("Txn-Token: {alice}\r\n"), &[401]),
        (
            "/api/orders/1",
            format!("Authorization: Bearer {alice}\r\nConnection: Authorization\r\n"),
            &[401],
        ),
        (
            &format!("/api/orders/1?access_token={alice}"),
            String::new(),
            &[400, 401],
        ),
        (
            &format!("/api/orders/1?a=b&access_token={alice}"),
            format!("Authorization: Bearer {alice}\r\n"),
            &[400, 401],
        ),
        (
            &format!("/api/orders/1?access%5Ftoken={alice}"),
            format!("Authorization: Bearer {alice}\r\n"),
            &[400, 401],
        ),
        (
            &format!("/api/orders/1?%61ccess_token={alice}"),
            String::new(),
            &[400, 401],
        ),
        (
            "/api/orders/1?access_token",
            format!("Authorization: Bearer {alice}\r\n"),
            &[400, 401],
        ),
    ] {
        let answer = shop.send(get(path, &fields).as_bytes()).expect("an answer");
        assert!(
            allowed.contains(&answer.status),
            "{path:.40} {fields:.60}: {answer:?}"
        );
        assert!(shop.upstream.take().is_empty(), "{path:.40} {fields:.60}");
    }
    // The scheme has no case (RFC 9110 section 11.1).
    let lower = get(
        "/api/orders/1",
        &format!("authorization: bearer {alice}\r\n"),
    );
    assert_eq!(shop.send(lower.as_bytes()).unwrap().status, 200);
    // An alias that a framework might read as the field does not reach the service.
    let seen = shop.upstream.take_one();
    assert!(seen.taken_for("authorization").is_empty(), "{seen:#?}");
    let alias = get(
        "/public",
        &format!("Authorization_: x\r\nauthorization.: x\r\nX-A: {alice}\r\n"),
    );
    let _ = shop.send(alias.as_bytes());
    for seen in shop.upstream.take() {
        assert!(seen.taken_for("authorization").is_empty(), "{seen:#?}");
    }
    // A body is no place either (RFC 6750 section 2.2).
    let form = format!("access_token={alice}");
    let post = format!(
        "DELETE /api/orders/1 HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         Content-Length: {}\r\n\r\n{form}",
        form.len()
    );
    assert_eq!(shop.send(post.as_bytes()).unwrap().status, 401);
    assert!(shop.upstream.take().is_empty());
}

#[test]
fn a_flood_of_unknown_keys_costs_the_flooder_and_nobody_is_asked() {
    let (shop, key) = Shop::open("").with_issuer_key();
    let forge = forge(&shop, key);
    let own = SigningKey::generate();
    let mut connection = shop.at_gateway();
    let mut refused = std::collections::BTreeMap::<u16, usize>::new();
    for n in 0..1_500 {
        let header = forge.header(&json!({ "kid": format!("unknown-{n}") }));
        let token = signed(&header, &forge.payload(), &own);
        let request = get(
            "/api/orders/1",
            &format!("Authorization: Bearer {token}\r\n"),
        );
        let answer = wire::exchange(&mut connection, request.as_bytes())
            .unwrap()
            .unwrap();
        *refused.entry(answer.status).or_default() += 1;
    }
    assert!(
        refused.keys().all(|status| matches!(status, 401 | 429)),
        "{refused:?}"
    );
    assert!(shop.upstream.take().is_empty());
    // Whoever is known already goes on unhindered; strangers do after a moment.
    std::thread::sleep(Duration::from_millis(1_100));
    assert_eq!(
        shop.fleet
            .call("GET", "/api/orders/1", Some(&forge.good()), "")
            .status,
        200
    );
    assert_eq!(shop.upstream.take().len(), 1);
}
