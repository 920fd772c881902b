//! oauth2-proxy, which teams put in front of what knows no logins, in a browser: a whole application of others.

use std::{
    fs,
    net::TcpStream,
    process::{Command, Stdio},
};

use testudo_trust::base64url;

use super::authority;
use crate::{
    chromium::{Chromium, WINDOW},
    fleet::{Process, free_ports},
    installed::{left_out, tool},
    recorder::{Recorder, Seen},
    roles::eventually,
    shop::{Shop, claims_of, password},
};

/// A running oauth2-proxy, and what it protects.
struct Proxy {
    address: String,
    application: Recorder,
    _process: Process,
}

impl Proxy {
    /// Registers it as a client of the fleet and starts it.
    fn start(shop: &Shop) -> Self {
        let folder = &shop.fleet.folder;
        let [port] = free_ports();
        let address = format!("http://127.0.0.1:{port}");
        let file = fs::read_to_string(folder.fleet_file()).unwrap();
        let client = format!(
            r#"
[clients.wiki]
kind = "confidential"
redirect_uris = ["{address}/oauth2/callback"]
secret = {{ file = "passwords/help-desk" }}
consent = "required"
"#
        );
        fs::write(folder.fleet_file(), format!("{file}{client}")).unwrap();
        folder.run(&["apply", "fleet.toml"]);

        let application = Recorder::start();
        let issuer = shop.fleet.ready["server"].as_str().unwrap();
        let authority = authority(shop);
        let options = [
            ("http-address", format!("127.0.0.1:{port}")),
            ("upstream", format!("http://{}/", application.address)),
            ("provider", "oidc".to_owned()),
            ("oidc-issuer-url", issuer.to_owned()),
            ("provider-ca-file", authority.display().to_string()),
            ("client-id", "wiki".to_owned()),
            ("client-secret", password("help-desk")),
            ("redirect-url", format!("{address}/oauth2/callback")),
            ("code-challenge-method", "S256".to_owned()),
            ("scope", "openid profile".to_owned()),
            ("oidc-email-claim", "preferred_username".to_owned()),
            ("email-domain", "*".to_owned()),
            ("cookie-secret", base64url::encode(&[7; 32])),
            ("cookie-secure", "false".to_owned()),
            ("skip-provider-button", "true".to_owned()),
            ("pass-access-token", "true".to_owned()),
            (
                "backend-logout-url",
                format!("{issuer}/oauth2/logout?id_token_hint={{id_token}}"),
            ),
        ];
        let log = fs::File::create(folder.path().join("oauth2-proxy.log")).unwrap();
        let child = Command::new(tool(&[".tools/oauth2-proxy"]))
            .args(options.map(|(name, value)| format!("--{name}={value}")))
            .env("SSL_CERT_FILE", &authority)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let process = Process(child);
        eventually("oauth2-proxy listens", || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Self {
            address,
            application,
            _process: process,
        }
    }

    /// The one request for a page that arrived behind it; browsers ask for more than that.
    fn page(&self, target: &str) -> Seen {
        let mut seen = self.application.take();
        seen.retain(|request| request.target() == target);
        assert_eq!(seen.len(), 1, "{seen:#?}");
        seen.remove(0)
    }
}

#[test]
fn a_person_logs_into_what_oauth2_proxy_protects_and_out_again() {
    if left_out() {
        return;
    }
    let shop = Shop::open("");
    let proxy = Proxy::start(&shop);
    let issuer = shop.fleet.ready["server"].as_str().unwrap();
    let mut browser = Chromium::start(Some(&authority(&shop)));
    browser.window(WINDOW);

    let orders = format!("{}/orders", proxy.address);
    let page = browser.open(&orders);
    assert!(page.url.starts_with(issuer), "{page:#?}");
    assert!(page.text.contains("wiki"), "{page:#?}");
    let page = browser.log_in("alice", &password("alice"));
    assert!(page.text.contains("wiki wants to act for you"), "{page:#?}");
    assert!(page.text_contrast >= 4.5 && !page.overflows, "{page:#?}");
    assert_eq!(page.complaints, Vec::<String>::new());
    browser.picture("consent");
    let page = browser.click("Allow");
    assert_eq!((&*page.url, page.status), (&*orders, 200), "{page:#?}");
    let fields = proxy.page("/orders").fields();
    let field = |name: &str| {
        let found = fields.iter().find(|(field, _)| field == name);
        found.map_or("", |(_, value)| value)
    };
    let claims = claims_of(field("x-forwarded-access-token"));
    assert_eq!(
        (&claims["client_id"], &claims["iss"]),
        (&"wiki".into(), &issuer.into())
    );
    assert_eq!(claims["sub"], field("x-forwarded-user"));
    assert_eq!(field("x-forwarded-preferred-username"), "alice");

    // Who leaves is let in again as long as she is logged in at the provider; what the proxy had been given is over.
    assert_eq!(browser.open(&orders).url, orders);
    let leave = format!("{}/oauth2/sign_out?rd=%2Forders", proxy.address);
    assert_eq!(browser.open(&leave).url, orders);
    let search = [
        "audit",
        "search",
        "activity=session.end",
        "--output",
        "json",
    ];
    eventually("the logout of the proxy is in the ledger", || {
        shop.fleet.folder.run(&search).contains("\"wiki\"")
    });
    browser.open(&format!("{issuer}/logout"));
    browser.click("Log out");
    let page = browser.open(&leave);
    assert!(page.url.starts_with(issuer), "{page:#?}");
    // What she allowed she need not allow again, until she takes it back; then she may say no.
    let page = browser.log_in("alice", &password("alice"));
    assert_eq!(page.url, orders, "{page:#?}");
    let page = browser.open(&format!("{issuer}/account"));
    assert!(page.text.contains("What applications may do"), "{page:#?}");
    browser.picture("account-with-consent");
    let page = browser.click("Take it back");
    assert!(!page.text.contains("What applications may do"), "{page:#?}");
    let page = browser.open(&leave);
    assert!(page.text.contains("Allow access?"), "{page:#?}");
    let page = browser.click("Do not allow");
    assert!(page.url.starts_with(&proxy.address), "{page:#?}");
    assert_eq!(page.status, 403, "{page:#?}");
}
