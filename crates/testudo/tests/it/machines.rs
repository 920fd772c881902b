//! Client credentials without a secret: the certificate of the connection proves the service account, and the
//! token it gets is worth nothing to anybody without that certificate (RFC 8705).

use std::time::Duration;

use testudo_trust::{IdentitySource, certificate_thumbprint};
use tokio_rustls::rustls;

use crate::{
    browser::{authorize_path, form_request},
    forge::{get, impostor},
    shop::{Shop, claims_of, service},
    sidecar_direct::careless,
    wire::{self, Answer},
};

/// A request to the control plane over a connection with a certificate.
pub fn with_certificate(shop: &Shop, identity: &IdentitySource, request: &str) -> Option<Answer> {
    let svid = identity.current();
    let config = careless(&rustls::version::TLS13, Some((svid.chain(), svid.key())));
    let mut stream = wire::connect_tls(shop.server(), "localhost", &config).ok()?;
    wire::exchange(&mut stream, request.as_bytes())
        .ok()
        .flatten()
}

fn token_request(client: &str, more: &[(&str, &str)]) -> String {
    let mut form = vec![("grant_type", "client_credentials")];
    if !client.is_empty() {
        form.push(("client_id", client));
    }
    form.extend(more);
    form_request("/oauth2/token", &form, "")
}

#[test]
fn a_certificate_is_the_credential_and_the_token_is_bound_to_it() {
    let shop = Shop::open("");
    let helper = shop.member(Some("helper"));
    let stranger = shop.member(Some("stranger"));
    let gateway = shop.member(None);
    let ask = |identity: &IdentitySource, request: &str| {
        with_certificate(&shop, identity, request).unwrap()
    };

    // Who has no certificate of the account's workload gets nothing, whatever else they bring.
    for (what, answer) in [
        (
            "no certificate",
            shop.ask_server(&token_request("robot", &[])),
        ),
        (
            "an empty secret",
            shop.ask_server(&token_request("robot", &[("client_secret", "")])),
        ),
        (
            "a guessed secret",
            shop.ask_server(&token_request("robot", &[("client_secret", "robot")])),
        ),
        (
            "another's certificate",
            ask(&stranger, &token_request("robot", &[])),
        ),
        (
            "the gateway's certificate",
            ask(&gateway, &token_request("robot", &[])),
        ),
        (
            "no name and another's certificate",
            ask(&stranger, &token_request("", &[])),
        ),
        ("another's name", ask(&helper, &token_request("web", &[]))),
        ("a user's name", ask(&helper, &token_request("root", &[]))),
        (
            "its certificate and a wrong secret",
            ask(
                &helper,
                &token_request("robot", &[("client_secret", "wrong")]),
            ),
        ),
        ("words", {
            let request = token_request("robot", &[]);
            shop.ask_server(&request.replacen("\r\n", "\r\nX-SSL-Client-Verify: SUCCESS\r\nX-Forwarded-Client-Cert: URI=spiffe://shop.example/svc/helper\r\n", 1))
        }),
    ] {
        assert!(matches!(answer.status, 400 | 401), "{what}: {answer:?}");
        assert!(!answer.body.contains("access_token"), "{what}: {answer:?}");
    }
    let (foreign, _) = impostor(&service("helper"));
    let foreign = IdentitySource::new(foreign, (*helper.bundle()).clone());
    let answer = with_certificate(&shop, &foreign, &token_request("robot", &[]));
    assert!(
        answer.as_ref().is_none_or(|answer| answer.status == 401),
        "{answer:?}"
    );

    // Its own certificate, with and without saying the name.
    for name in ["robot", ""] {
        let answer = ask(&helper, &token_request(name, &[]));
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(
            answer.json().get("refresh_token").is_none(),
            "there is nothing to refresh (RFC 6749 section 4.4.3)"
        );
    }
    let token = ask(&helper, &token_request("robot", &[])).json()["access_token"]
        .as_str()
        .unwrap()
        .to_owned();
    let thumbprint = certificate_thumbprint(&helper.current().chain()[0]);
    assert_eq!(claims_of(&token)["cnf"]["x5t#S256"], *thumbprint);

    // On its own connection the token is good; on any other it is not.
    let status = get(
        "/api/v1/status",
        &format!("Authorization: Bearer {token}\r\n"),
    );
    assert_eq!(ask(&helper, &status).status, 200);
    assert_eq!(
        shop.ask_server(&status).status,
        401,
        "without a certificate"
    );
    assert_eq!(
        ask(&stranger, &status).status,
        401,
        "with another's certificate"
    );
    let twin = shop.member(Some("helper"));
    assert_eq!(
        ask(&twin, &status).status,
        401,
        "with another certificate of the same service"
    );
    let at_gateway = get(
        "/api/orders/1",
        &format!("Authorization: Bearer {token}\r\n"),
    );
    let answer = shop.send(at_gateway.as_bytes()).unwrap();
    assert_eq!(
        (answer.status, answer.json()["code"].as_str()),
        (401, Some("token.unbound")),
        "at the gateway"
    );
    assert!(shop.upstream.take().is_empty());
    // A certificate adds nothing to the token of somebody else.
    let alice = shop.token("alice");
    let status = get(
        "/api/v1/status",
        &format!("Authorization: Bearer {alice}\r\n"),
    );
    assert_eq!(ask(&helper, &status).status, 403);
    // And is no login: a browser with it is asked for a password like any other.
    let page = ask(&helper, &get(&authorize_path(&[]), ""));
    assert!(
        page.status == 200 && page.body.contains("password"),
        "{page:?}"
    );
    // Thrown out, it gets no token any more.
    shop.fleet
        .folder
        .run(&["proxy", "revoke", service("helper").as_str()]);
    let refused = (0..30).any(|_| {
        std::thread::sleep(Duration::from_millis(100));
        with_certificate(&shop, &helper, &token_request("robot", &[]))
            .is_none_or(|answer| answer.status != 200)
    });
    assert!(refused, "a revoked workload still gets tokens");
}
