//! Logging in at somebody else's identity provider: npm's `oidc-provider`, with a real browser; and one that lies about where
//! it can be asked. `./test.sh` installs both; `TESTUDO_TEST_FAST=1` leaves out what needs them.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener},
    thread,
};

use serde_json::{Value, json};
use testudo_trust::SigningKey;

use crate::{
    browser::{Browser, authorize_path, flow_of, query_of},
    browser_login::{Login, assert_logged_in, assert_readable},
    chromium::{Chromium, Page, WINDOW},
    installed::left_out,
    roles::eventually,
    shop::{Shop, claims_of, password},
    strict_clients::{authority, reference::Reference},
    token_story::{activities, explained},
};

const BUTTON: &str = "Log in with Corp";

/// A fleet whose people may log in at the other provider.
struct Town {
    shop: Shop,
    corp: Reference,
}

impl Town {
    /// `client` is what the other side knows of the fleet, `section` what the fleet says of it.
    fn open(client: Value, section: &str) -> Self {
        let shop = Shop::open("");
        let server = shop.fleet.ready["server"].as_str().unwrap();
        let mut told = json!({
            "client_id": "fleet",
            "redirect_uris": [format!("{server}/login/at/corp")],
            "response_types": ["code"],
        });
        for (name, value) in client.as_object().unwrap() {
            told[name] = value.clone();
        }
        if told["token_endpoint_auth_method"] == "private_key_jwt" {
            told["jwks"] = jwks(&shop);
        }
        let corp = Reference::start(&[told], "none");
        let town = Self { shop, corp };
        let (issuer, ca) = (&town.corp.issuer, town.corp.authority.display());
        town.apply(&format!(
            "[outbound]\nallow_networks = [\"127.0.0.1\", \"::1\"]\nca_file = \"{ca}\"\n\n\
             [identity_providers.corp]\nlabel = \"Corp\"\nissuer = \"{issuer}\"\nclient_id = \"fleet\"\n\
             scopes = [\"openid\", \"profile\"]\n{section}"
        ));
        town
    }

    fn apply(&self, more: &str) {
        apply(&self.shop, more);
    }

    fn server(&self, path: &str) -> String {
        self.shop.fleet.ready["server"].as_str().unwrap().to_owned() + path
    }

    fn browser(&self) -> Chromium {
        let mut browser =
            Chromium::trusting(&[&authority(&self.shop), self.corp.authority.as_path()]);
        browser.window(WINDOW);
        browser
    }

    /// Goes there from a page with the button, and logs in as somebody.
    fn log_in_there(&self, browser: &mut Chromium, button: &str, name: &str) -> Page {
        let page = browser.click(button);
        assert!(page.url.starts_with(&self.corp.issuer), "{page:#?}");
        browser.type_text(name);
        browser.press("Tab");
        browser.type_text("anything");
        browser.press_enter();
        browser.click("Continue")
    }

    fn links(&self, user: &str) -> Vec<Value> {
        let folder = &self.shop.fleet.folder;
        let listed = folder.run(&["user", "links", user, "--output", "json"]);
        serde_json::from_str(&listed).unwrap()
    }
}

fn apply(shop: &Shop, more: &str) {
    let folder = &shop.fleet.folder;
    let file = fs::read_to_string(folder.fleet_file()).unwrap();
    fs::write(folder.fleet_file(), format!("{file}\n{more}")).unwrap();
    folder.run(&["apply", "fleet.toml"]);
}

fn jwks(shop: &Shop) -> Value {
    let answer = shop.ask_server("GET /oauth2/jwks HTTP/1.1\r\nHost: localhost\r\n\r\n");
    answer.json()
}

#[test]
fn a_person_who_is_new_logs_in_elsewhere_and_a_token_tells_where() {
    if left_out() {
        return;
    }
    let client = json!({ "token_endpoint_auth_method": "private_key_jwt" });
    let section = "authentication = \"private_key_jwt\"\nnew_users = \"create\"\n";
    let town = Town::open(client, section);
    let folder = &town.shop.fleet.folder;
    let listed = folder.run(&["identity-provider", "list"]);
    assert!(listed.contains(&town.server("/login/at/corp")), "{listed}");

    let mut browser = town.browser();
    let page = browser.open(&town.server("/account"));
    assert_readable(&page, "login with another provider");
    browser.picture("login-elsewhere");
    let page = town.log_in_there(&mut browser, BUTTON, "carol");
    assert_eq!(page.url, town.server("/account"), "{page:#?}");
    assert_readable(&page, "account with another provider");
    browser.picture("account-elsewhere");
    assert!(page.text.contains("Corp (carol)"), "{page:#?}");
    assert!(page.text.contains("Nothing else logs you in"), "{page:#?}");
    let [link] = &town.links("carol")[..] else {
        panic!("one link");
    };
    assert_eq!(
        (&link["subject"], &link["issuer"]),
        (&json!("carol"), &json!(town.corp.issuer))
    );

    // There they are still logged in, and nobody asks again.
    browser.click("Log out everywhere");
    let login = Login::begin(folder);
    browser.open(&login.address);
    let page = browser.click(BUTTON);
    assert_logged_in(&page, login);
    let token = folder.run(&["token"]).trim().to_owned();
    assert_eq!(claims_of(&token)["amr"], json!(["fed"]));
    let story = explained(folder, &token);
    assert_eq!(
        activities(&story),
        ["login.upstream", "authorization.grant", "token.issue"]
    );
    assert_eq!(story["username"], "carol");
    assert_eq!(
        story["steps"][0]["what"],
        "carol logged in at corp as carol"
    );

    // Who is disabled here is nobody here, whatever they are there.
    folder.run(&["user", "disable", "carol"]);
    browser.open(&town.server("/account"));
    let page = browser.click(BUTTON);
    assert_eq!(page.status, 401, "{page:#?}");
    let alert = page.alert.expect("an alert");
    assert!(
        alert.starts_with("The answer of Corp cannot be accepted"),
        "{alert}"
    );
    // The way back leads in nowhere twice, nor from another window.
    browser.window(WINDOW);
    let page = browser.open(&town.server("/login/at/corp?code=x&state=x"));
    assert_eq!(page.status, 400, "{page:#?}");
    let page = browser.open(&town.server("/login/at/nowhere?code=x&state=x"));
    assert_eq!(page.status, 404, "{page:#?}");
}

#[test]
fn a_person_connects_their_account_by_proving_both_and_parts_with_it() {
    if left_out() {
        return;
    }
    let client = json!({ "client_secret": password("help-desk") });
    let section = "secret = { file = \"passwords/help-desk\" }\n";
    let town = Town::open(client, section);
    let folder = &town.shop.fleet.folder;
    let alice = |browser: &mut Chromium| browser.log_in("alice", &password("alice"));

    // At their first login, by the password here.
    let mut browser = town.browser();
    browser.open(&town.server("/account"));
    let page = town.log_in_there(&mut browser, BUTTON, "alice-at-corp");
    assert!(page.text.contains("not connected to one here"), "{page:#?}");
    assert!(!page.text.contains(BUTTON), "{page:#?}");
    assert_readable(&page, "login to connect");
    browser.picture("login-to-connect");
    let page = browser.log_in("alice", "not the password");
    assert!(page.text.contains("not connected to one here"), "{page:#?}");
    let page = alice(&mut browser);
    assert!(page.text.contains("Corp (alice-at-corp)"), "{page:#?}");
    let page = browser.click("Disconnect Corp");
    assert!(
        page.text.contains("Connected accounts\n\nYou have none"),
        "{page:#?}"
    );
    assert!(town.links("alice").is_empty());

    // From the account page, by logging in there.
    browser.window(WINDOW);
    browser.open(&town.server("/account"));
    alice(&mut browser);
    let page = town.log_in_there(&mut browser, "Connect Corp", "alice-at-corp");
    assert!(page.text.contains("Corp (alice-at-corp)"), "{page:#?}");
    browser.click("Log out everywhere");
    browser.open(&town.server("/account"));
    let page = browser.click(BUTTON);
    assert!(page.text.contains("Your account\n\nalice"), "{page:#?}");
    eventually("the ledger knows of both", || {
        let found = |activity: &str| {
            let filter = format!("activity={activity}");
            folder.run(&["audit", "search", &filter, "--output", "json"])
        };
        found("upstream.link").matches("upstream_subject").count() == 2
            && found("upstream.unlink").contains("alice-at-corp")
    });
}

/// An identity provider that says what it likes.
struct Liar {
    address: SocketAddr,
}

impl Liar {
    /// `say` answers a path with a status and a text.
    fn start(say: impl Fn(SocketAddr, &str) -> (u16, String) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
                let first = lines.next().unwrap_or_default();
                for line in lines {
                    if line.is_empty() {
                        break;
                    }
                }
                let path = first.split(' ').nth(1).unwrap_or("");
                let (status, text) = say(address, path);
                let length = text.len();
                let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n");
                let _ = write!(stream, "{head}Location: http://127.0.0.1:1/\r\n\r\n{text}");
            }
        });
        Self { address }
    }

    /// Tries to log in there; the last page, and why it did not work according to the ledger.
    fn visit(&self, shop: &Shop, number: usize) -> (u16, String, String) {
        let (name, address) = (format!("liar-{number}"), self.address);
        apply(
            shop,
            &format!(
                "[identity_providers.{name}]\nissuer = \"http://{address}\"\nclient_id = \"fleet\"\n\
                 authentication = \"private_key_jwt\"\nnew_users = \"create\"\n"
            ),
        );
        let mut browser = Browser::new(shop);
        let flow = flow_of(&browser.get(&authorize_path(&[])));
        let path = format!("/login/at/{name}");
        let begun = browser.post(&path, &[("flow", &flow)]);
        if begun.status != 303 {
            return (begun.status, begun.body, String::new());
        }
        let state = query_of(begun.header("location").unwrap())["state"].clone();
        let page = browser.get(&format!("{path}?code=x&state={state}"));
        let search = [
            "audit",
            "search",
            "activity=login.upstream",
            "--output",
            "json",
        ];
        let mut why = String::new();
        eventually("the ledger says why", || {
            let found = shop.fleet.folder.run(&search);
            let event = found.lines().find(|event| event.contains(&name));
            why = event.unwrap_or_default().to_owned();
            !why.is_empty()
        });
        (page.status, page.body, why)
    }
}

/// A shop that may be led to this machine, and no further.
fn open_to_liars() -> Shop {
    let shop = Shop::open("");
    apply(
        &shop,
        "[outbound]\nallow_http = true\nallow_networks = [\"127.0.0.1\"]\n",
    );
    shop
}

fn discovery(issuer: SocketAddr, token_endpoint: &str) -> String {
    json!({
        "issuer": format!("http://{issuer}"),
        "authorization_endpoint": format!("http://{issuer}/auth"),
        "token_endpoint": token_endpoint,
        "jwks_uri": format!("http://{issuer}/jwks"),
    })
    .to_string()
}

fn one_key() -> String {
    json!({ "keys": [SigningKey::generate().public_jwk()] }).to_string()
}

#[test]
fn what_an_identity_provider_says_leads_to_no_address_of_ours() {
    let shop = open_to_liars();
    let all = [
        (
            "http://169.254.169.254/latest/",
            "169.254.169.254, which is not public",
        ),
        ("http://[::ffff:10.0.0.1]/", "which is not public"),
        ("http://127.0.0.2/", "127.0.0.2, which is not public"),
    ];
    for (number, (token_endpoint, expected)) in all.into_iter().enumerate() {
        let liar = Liar::start(move |address, path| match path {
            "/.well-known/openid-configuration" => (200, discovery(address, token_endpoint)),
            "/jwks" => (200, one_key()),
            _ => (404, String::new()),
        });
        let (status, page, why) = liar.visit(&shop, number);
        assert_eq!(status, 401, "{page}");
        assert!(page.contains("cannot be accepted"), "{page}");
        assert!(why.contains(expected), "{why}");
        assert!(!page.contains("169.254"), "{page}");
    }
}

#[test]
fn who_lies_about_who_they_are_or_leads_elsewhere_is_not_asked_further() {
    type Say = fn(SocketAddr) -> (u16, String);
    let says: [Say; 4] = [
        |_| {
            (
                200,
                discovery(([127, 0, 0, 1], 1).into(), "http://127.0.0.1/token"),
            )
        },
        |_| (302, String::new()),
        |_| (200, "x".repeat(100_000)),
        |address| (200, discovery(address, "file:///etc/passwd")),
    ];
    let shop = open_to_liars();
    for (number, say) in says.into_iter().enumerate() {
        let liar = Liar::start(move |address, path| match path {
            "/.well-known/openid-configuration" => say(address),
            "/jwks" => (200, one_key()),
            _ => (404, String::new()),
        });
        let (status, page, _) = liar.visit(&shop, number);
        assert_eq!(status, 502, "{page}");
        assert!(page.contains("cannot be reached"), "{page}");
    }
}

#[test]
fn a_token_endpoint_that_says_no_or_nonsense_logs_nobody_in() {
    let answers = [
        (
            400,
            r#"{"error":"invalid_grant"}"#,
            "token endpoint answers 400 invalid_grant",
        ),
        (500, "<html>", "token endpoint answers 500"),
        (200, "{}", "its answer has no ID token"),
        (200, r#"{"id_token":"a.b.c"}"#, "ID token: "),
    ];
    let shop = open_to_liars();
    for (number, (status, body, expected)) in answers.into_iter().enumerate() {
        let liar = Liar::start(move |address, path| match path {
            "/.well-known/openid-configuration" => {
                (200, discovery(address, &format!("http://{address}/token")))
            }
            "/jwks" => (200, one_key()),
            _ => (status, body.to_owned()),
        });
        let (status, page, why) = liar.visit(&shop, number);
        assert_eq!(status, 401, "{page}");
        assert!(why.contains(expected), "{why}");
        // The form is there again, for another way in.
        assert!(page.contains("name=\"password\""), "{page}");
    }
}
