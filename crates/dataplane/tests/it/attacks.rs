//! What must not work, at the gateway and straight at a sidecar.

use std::sync::Arc;

use testudo_model::{
    ACCESS_TOKEN_TYPE, RequestContext, TRANSACTION_TOKEN_TYPE, TokenContext, TokenId,
    TransactionClaims, TransactionId,
};
use testudo_trust::{
    CertificateAuthority, IdentitySource, SigningKey, Svid, TrustBundle, base64url,
    web_client_config,
};

use crate::{
    client,
    fleet::{ALICE, Fleet},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_takes_nobody_without_a_certificate_of_the_fleet() {
    let fleet = Fleet::start().await;
    let orders = fleet.proxies["orders"].address;

    // No certificate at all: the alert comes with the first read.
    let anonymous = testudo_trust::mesh_client_config(
        &stranger(&fleet),
        testudo_trust::ExpectedPeer::InTrustDomain,
        Arc::clone(&fleet.clock),
        &["http/1.1"],
    );
    assert!(
        client::tls(orders, anonymous).await.is_err(),
        "a stranger does not even trust the sidecar"
    );
    let without =
        web_client_config(crate::fleet::pem(fleet.root()).as_bytes(), &["http/1.1"]).unwrap();
    if let Ok(stream) = client::tls(orders, without).await {
        assert_eq!(
            client::raw(stream, b"GET /orders/7 HTTP/1.1\r\nHost: a\r\n\r\n").await,
            ""
        );
    }
    // A certificate of another CA for the right name, with the fleet's bundle to accept the sidecar.
    let impostor = fleet.impostor(&fleet.domain.gateway());
    match fleet.attack_raw("orders", &impostor).await {
        Ok(stream) => assert_eq!(
            client::raw(stream, b"GET /orders/7 HTTP/1.1\r\nHost: a\r\n\r\n").await,
            ""
        ),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    assert_eq!(fleet.upstreams["orders"].seen(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_right_certificate_without_a_user_is_not_enough() {
    let fleet = Fleet::start().await;
    let orders = fleet.identity(&fleet.service_id("orders"));
    let reply = fleet
        .attack("inventory", &orders, "/stock/7", &[("x-user-id", ALICE)])
        .await
        .unwrap();
    assert_eq!((reply.status, reply.code()), (401, "policy.user_required"));
    assert_eq!(fleet.upstreams["inventory"].seen(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn not_even_the_gateway_speaks_for_a_user_by_a_header() {
    let fleet = Fleet::start().await;
    let inside = fleet.get("/orders/7", Some(&fleet.token(ALICE))).await;
    let token = inside.received("txn-token").unwrap().to_owned();
    let gateway = fleet.identity(&fleet.domain.gateway());
    let fields = [
        ("txn-token", token.as_str()),
        ("x-user-id", "usr_admin"),
        ("x_user_id", "usr_admin"),
        ("X.User.Name", "admin"),
        ("x-user-roles", "admin"),
        ("x-user-roles", "root"),
        ("x-forwarded-for", "198.51.100.1"),
        ("x-forwarded-host", "evil.example"),
        ("x-calling-service", "inventory"),
        ("connection", "x-user-groups"),
        ("x-request-id", "a b"),
        ("traceparent", "00-junk"),
    ];
    let reply = fleet
        .attack("orders", &gateway, "/orders/7", &fields)
        .await
        .unwrap();
    assert_eq!(reply.status, 200, "{reply:?}");
    for (field, value) in [
        ("x-user-id", Some(ALICE)),
        ("x-user-name", Some("alice")),
        ("x-user-roles", Some("clerk")),
        ("x-user-groups", Some("clerks")),
        ("x-forwarded-for", Some("127.0.0.1")),
        ("x-forwarded-host", Some("localhost")),
        ("x-calling-service", Some("gateway")),
        ("x_user_id", None),
        ("x.user.name", None),
    ] {
        assert_eq!(reply.received(field), value, "{field}");
    }
    assert!(
        reply
            .received("traceparent")
            .is_some_and(|trace| trace != "00-junk")
    );
    assert!(reply.received("x-request-id").is_some_and(|id| id != "a b"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stolen_transaction_token_is_useless_to_the_wrong_service() {
    let fleet = Fleet::start().await;
    let reply = fleet.get("/orders/7", Some(&fleet.token(ALICE))).await;
    let stolen = reply.received("txn-token").unwrap().to_owned();
    let fields = [("txn-token", stolen.as_str())];
    let mailer = fleet.identity(&fleet.service_id("mailer"));
    let reply = fleet
        .attack("inventory", &mailer, "/stock/7", &fields)
        .await
        .unwrap();
    assert_eq!(
        (reply.status, reply.code()),
        (403, "policy.service_leg_denied")
    );
    let undeclared = fleet.identity(&"spiffe://fleet.example/svc/undeclared".parse().unwrap());
    let reply = fleet
        .attack("inventory", &undeclared, "/stock/7", &fields)
        .await
        .unwrap();
    assert_eq!((reply.status, reply.code()), (403, "peer.refused"));
    // And at the gateway it is no token at all.
    assert_eq!(fleet.get("/orders/7", Some(&stolen)).await.status, 401);
    // Nor through an outbound listener that never delivered it.
    let outbound = fleet.proxies["mailer"].outbound.unwrap();
    let reply = client::plain(outbound, "GET", "http://orders/orders/7", &fields).await;
    assert!(reply.status == 401 || reply.status == 403, "{reply:?}");
    assert_eq!(fleet.upstreams["inventory"].seen(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_but_an_edge_mints_transaction_tokens() {
    let fleet = Fleet::start().await;
    let orders = fleet.identity(&fleet.service_id("orders"));
    let gateway = fleet.domain.gateway();
    let now = fleet.clock.now().unix_seconds();
    let claims = |issuer: &testudo_model::SpiffeId| TransactionClaims {
        iss: issuer.clone(),
        aud: fleet.domain.as_str().to_owned(),
        iat: now,
        exp: now + 60,
        txn: TransactionId::generate(&*fleet.clock, &*fleet.entropy),
        sub: Some(ALICE.to_owned()),
        scope: String::new(),
        tctx: Some(TokenContext {
            issuer: "x".to_owned(),
            token_id: TokenId::generate(&*fleet.clock, &*fleet.entropy),
            issued_at: now,
            client_id: "x".to_owned(),
            session: None,
            assurance: 3,
            authenticated_at: now,
            bound: false,
            is_api_key: false,
        }),
        rctx: RequestContext {
            req_ip: "127.0.0.1".parse().unwrap(),
            method: "GET".to_owned(),
            path: "/".to_owned(),
        },
    };
    let sign = |identity: &IdentitySource, claims: &TransactionClaims| {
        let svid = identity.current();
        svid.key()
            .sign_jwt_x5c(TRANSACTION_TOKEN_TYPE, claims, svid.chain())
            .unwrap()
    };
    let real_gateway = fleet.identity(&gateway);
    let mut expired = claims(&gateway);
    (expired.iat, expired.exp) = (now - 120, now - 60);
    let mut foreign = claims(&gateway);
    foreign.aud = "other.example".to_owned();
    let forged = [
        (
            "a service signs as itself",
            sign(&orders, &claims(&fleet.service_id("orders"))),
        ),
        (
            "a service signs as the gateway",
            sign(&orders, &claims(&gateway)),
        ),
        (
            "another CA's gateway",
            sign(&fleet.impostor(&gateway), &claims(&gateway)),
        ),
        ("expired", sign(&real_gateway, &expired)),
        ("for another fleet", sign(&real_gateway, &foreign)),
        ("no signature", "e30.e30.".to_owned()),
        ("garbage", "garbage".to_owned()),
    ];
    for (what, token) in &forged {
        let reply = fleet
            .attack("inventory", &orders, "/stock/7", &[("txn-token", token)])
            .await
            .unwrap();
        assert_eq!(
            (reply.status, reply.code()),
            (401, "token.transaction"),
            "{what}"
        );
    }
    let good = sign(&real_gateway, &claims(&gateway));
    let twice = [("txn-token", good.as_str()), ("txn-token", good.as_str())];
    assert_eq!(
        fleet
            .attack("inventory", &orders, "/stock/7", &twice)
            .await
            .unwrap()
            .status,
        401
    );
    assert_eq!(fleet.upstreams["inventory"].seen(), 0);
    let reply = fleet
        .attack("inventory", &orders, "/stock/7", &[("txn-token", &good)])
        .await
        .unwrap();
    assert_eq!(reply.status, 200, "the same claims from the edge hold");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_nobody_should_accept_are_refused() {
    let fleet = Fleet::start().await;
    let good = fleet.claims(ALICE);
    let with = |change: &dyn Fn(&mut testudo_model::AccessTokenClaims)| {
        let mut claims = good.clone();
        change(&mut claims);
        fleet.sign(&claims)
    };
    let signed = fleet.sign(&good);
    let [header, payload, signature]: [&str; 3] =
        signed.split('.').collect::<Vec<_>>().try_into().unwrap();
    let none = base64url::encode(br#"{"alg":"none","typ":"at+jwt"}"#);
    let symmetric = base64url::encode(br#"{"alg":"HS256","typ":"at+jwt"}"#);
    let now = good.iat;
    let table = [
        ("alg none", format!("{none}.{payload}.")),
        (
            "alg none with the signature",
            format!("{none}.{payload}.{signature}"),
        ),
        ("alg HS256", format!("{symmetric}.{payload}.{signature}")),
        ("no signature", format!("{header}.{payload}.")),
        ("five parts", format!("{signed}.a.b")),
        (
            "another payload",
            format!("{header}.{}.{signature}", base64url::encode(b"{}")),
        ),
        (
            "zero signature",
            format!("{header}.{payload}.{}", base64url::encode(&[0; 64])),
        ),
        ("padding", format!("{signed}=")),
        (
            "another key",
            SigningKey::generate()
                .sign_jwt(ACCESS_TOKEN_TYPE, &good)
                .unwrap(),
        ),
        ("an id token", fleet.signer.sign_jwt("JWT", &good).unwrap()),
        ("another issuer", with(&|c| c.iss.push('/'))),
        (
            "another audience",
            with(&|c| c.aud = "https://other.example".to_owned()),
        ),
        (
            "expired",
            with(&|c| (c.iat, c.exp) = (now - 600, now - 300)),
        ),
        (
            "from the future",
            with(&|c| (c.iat, c.exp) = (now + 600, now + 900)),
        ),
        (
            "bound to a certificate",
            with(&|c| {
                c.cnf = Some(testudo_model::Confirmation {
                    certificate_thumbprint: Some("A".repeat(43)),
                    key_thumbprint: None,
                });
            }),
        ),
        (
            "bound to a key",
            with(&|c| {
                c.cnf = Some(testudo_model::Confirmation {
                    certificate_thumbprint: None,
                    key_thumbprint: Some("A".repeat(43)),
                });
            }),
        ),
        ("a megabyte", "a".repeat(1 << 14)),
    ];
    for (what, token) in &table {
        let reply = fleet.get("/orders/7", Some(token)).await;
        assert_eq!(reply.status, 401, "{what}: {reply:?}");
    }
    assert_eq!(fleet.upstreams["orders"].seen(), 0);
    assert_eq!(fleet.get("/orders/7", Some(&signed)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn misplaced_credentials_are_refused() {
    let fleet = Fleet::start().await;
    let token = fleet.token(ALICE);
    let bearer = format!("Bearer {token}");
    let double_space = format!("Bearer  {token}");
    for (path, fields, status) in [
        (
            "/orders/7",
            vec![
                ("authorization", bearer.as_str()),
                ("authorization", bearer.as_str()),
            ],
            400,
        ),
        (
            "/orders/7?access_token=x",
            vec![("authorization", bearer.as_str())],
            400,
        ),
        (
            "/orders/7",
            vec![("authorization", double_space.as_str())],
            401,
        ),
        (
            "/orders/7",
            vec![("authorization", "Basic YWxpY2U6eA==")],
            401,
        ),
        ("/orders/7", vec![("x-authorization", bearer.as_str())], 401),
        (
            "/orders/7",
            vec![
                ("authorization", bearer.as_str()),
                ("connection", "authorization"),
            ],
            401,
        ),
    ] {
        assert_eq!(
            fleet.call("GET", path, None, &fields).await.status,
            status,
            "{path} {fields:?}"
        );
    }
    assert_eq!(fleet.upstreams["orders"].seen(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ambiguous_messages_are_refused_and_the_connection_closed() {
    let fleet = Fleet::start().await;
    let smuggled = "GET /orders/7 HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for (what, head) in [
        (
            "two lengths",
            "POST /public HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 5\r\n",
        ),
        (
            "length with sign",
            "POST /public HTTP/1.1\r\nHost: a\r\nContent-Length: +4\r\n",
        ),
        (
            "length list",
            "POST /public HTTP/1.1\r\nHost: a\r\nContent-Length: 4, 4\r\n",
        ),
        (
            "odd encoding",
            "POST /public HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n",
        ),
        (
            "two encodings",
            "POST /public HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n",
        ),
        (
            "encoding in 1.0",
            "POST /public HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n",
        ),
        (
            "length and encoding",
            "POST /public HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        ),
        ("bare line feed", "GET /public HTTP/1.1\nHost: a\r\n"),
        ("fragment", "GET /public#a HTTP/1.1\r\nHost: a\r\n"),
        ("no length in 1.0", "POST /public HTTP/1.0\r\nHost: a\r\n"),
        ("no host", "GET /public HTTP/1.1\r\n"),
        (
            "two hosts",
            "GET /public HTTP/1.1\r\nHost: a\r\nHost: b\r\n",
        ),
        ("host list", "GET /public HTTP/1.1\r\nHost: a,b\r\n"),
        (
            "other host in target",
            "GET http://a/public HTTP/1.1\r\nHost: b\r\n",
        ),
        (
            "space before colon",
            "GET /public HTTP/1.1\r\nHost: a\r\nX-A : b\r\n",
        ),
        (
            "folded field",
            "GET /public HTTP/1.1\r\nHost: a\r\nX-A: b\r\n c\r\n",
        ),
        ("connect", "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n"),
        ("trace", "TRACE /public HTTP/1.1\r\nHost: a\r\n"),
        (
            "upgrade",
            "GET /public HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        ),
        (
            "expectation",
            "POST /public HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\nContent-Length: 0\r\n",
        ),
    ] {
        let bytes = format!("{head}\r\n{smuggled}");
        let answer = client::raw(fleet.gateway_stream().await, bytes.as_bytes()).await;
        let status = client::status_of(&answer);
        assert!(
            (400..=505).contains(&status) && status != 401,
            "{what}: {answer}"
        );
        assert_eq!(answer.matches("HTTP/1.").count(), 1, "{what}: {answer}");
    }
    assert_eq!(fleet.upstreams["orders"].seen(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paths_that_parsers_read_differently_reach_nobody() {
    let fleet = Fleet::start().await;
    let orders = fleet.identity(&fleet.domain.gateway());
    for path in [
        "/public/../orders/7",
        "/public/%2e%2e/orders/7",
        "/public/..%2forders/7",
        "/public/..%5corders/7",
        "/public/..;/orders/7",
        "/orders;x=1/7",
        "//orders/7",
        "/./orders/7",
        "/orders/7/.",
        "/orders//7",
        "/ORDERS/7",
        "/%2561rders/7",
        "/orders/7%00",
        "/orders/7%0d%0aX:%20y",
        "/%c0%ae%c0%ae/orders/7",
        "/orders/1%2f..%2f2",
    ] {
        for answer in [
            fleet.get(path, Some(&fleet.token(ALICE))).await,
            fleet.attack("orders", &orders, path, &[]).await.unwrap(),
        ] {
            assert!(matches!(answer.status, 400 | 404), "{path}: {answer:?}");
        }
    }
    assert_eq!(fleet.upstreams["orders"].seen(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_without_a_snapshot_refuses_everything() {
    let fleet = Fleet::start_blank().await;
    let reply = fleet.get("/public", None).await;
    assert_eq!((reply.status, reply.code()), (503, "proxy.no_snapshot"));
    let gateway = fleet.identity(&fleet.domain.gateway());
    assert_eq!(
        fleet
            .attack("orders", &gateway, "/public", &[])
            .await
            .unwrap()
            .status,
        503
    );
    let outbound = fleet.proxies["orders"].outbound.unwrap();
    assert_eq!(
        client::plain(outbound, "GET", "http://inventory/stock/7", &[])
            .await
            .status,
        503
    );
}

/// A workload of another CA that trusts nobody here.
fn stranger(fleet: &Fleet) -> IdentitySource {
    let lifetime = std::time::Duration::from_secs(900);
    let ca = CertificateAuthority::generate(&fleet.domain, fleet.clock.now(), lifetime).unwrap();
    let key = SigningKey::generate();
    let id = fleet.domain.gateway();
    let csr = key.csr_der(&id).unwrap();
    let leaf = ca
        .issue(&csr, &id, &[], fleet.clock.now(), lifetime, &*fleet.entropy)
        .unwrap();
    let bundle = TrustBundle::new(fleet.domain.clone(), vec![ca.cert_der().to_vec()]).unwrap();
    IdentitySource::new(Svid::new(vec![leaf], key).unwrap(), bundle)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_for_one_service_opens_no_other() {
    let fleet = Fleet::start().await;
    let token_for = |audience: &str| {
        let mut claims = fleet.claims(ALICE);
        claims.aud = audience.to_owned();
        fleet.sign(&claims)
    };
    let own = token_for("https://fleet.example/orders");
    for _ in 0..2 {
        assert_eq!(fleet.get("/orders/7", Some(&own)).await.status, 200);
        let other = fleet.get("/mail/via/orders", Some(&own)).await;
        assert_eq!((other.status, other.code()), (401, "token.audience"));
    }
    for audience in [
        "https://fleet.example/",
        "https://fleet.example/mailer",
        "https://fleet.example/orders/",
        "https://fleet.example/Orders",
        "https://fleet.example//orders",
        "https://fleet.example.evil/orders",
        "orders",
    ] {
        let reply = fleet.get("/orders/7", Some(&token_for(audience))).await;
        assert_eq!(
            (reply.status, reply.code()),
            (401, "token.audience"),
            "{audience}"
        );
    }
    assert_eq!(fleet.upstreams["orders"].seen(), 2);
    assert_eq!(fleet.upstreams["mailer"].seen(), 0);
}
