//! Who is told when a session ends: every application, whatever dies or fails meanwhile.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use testudo_trust::{JwkSet, verify_jwt};
use url::form_urlencoded;

use crate::{
    browser::{Browser, VERIFIER, authorize_path, flow_of, query_of, token},
    roles::eventually,
    shop::{Shop, claims_of, password},
};

const CLIENT: &str = "help-desk";
const CALLBACK: &str = "https://desk.example/callback";

/// An application's side of back-channel logout.
struct Application {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// What is answered, after the status line's version.
    answer: String,
    /// The logout tokens that were answered with 200.
    taken: Vec<String>,
    /// Requests, whatever was answered.
    asked: usize,
}

impl Application {
    fn start(answer: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let application = Self {
            address: listener.local_addr().unwrap(),
            state: Arc::default(),
        };
        application.answer(answer);
        let state = Arc::clone(&application.state);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let state = Arc::clone(&state);
                thread::spawn(move || serve(&stream.unwrap(), &state));
            }
        });
        application
    }

    /// From now on.
    fn answer(&self, answer: &str) {
        self.state.lock().unwrap().answer = answer.to_owned();
    }

    fn asked(&self) -> usize {
        self.state.lock().unwrap().asked
    }

    fn taken(&self) -> Vec<String> {
        self.state.lock().unwrap().taken.clone()
    }
}

fn serve(stream: &TcpStream, state: &Mutex<State>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        if line == "\r\n" {
            break;
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let mut pairs = form_urlencoded::parse(&body);
    let (name, token) = pairs.next()?;
    assert_eq!((&*name, pairs.next()), ("logout_token", None));
    let answer = {
        let mut state = state.lock().unwrap();
        state.asked += 1;
        if state.answer.starts_with("200") {
            state.taken.push(token.into_owned());
        }
        state.answer.clone()
    };
    let answer = format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n");
    { stream }.write_all(answer.as_bytes()).ok()
}

/// The shop with a help desk that wants to be told, and this beside it.
fn shop(application: &Application, outbound: &str) -> Shop {
    shop_with(&format!("http://{}/logout", application.address), outbound)
}

fn shop_with(uri: &str, outbound: &str) -> Shop {
    let shop = Shop::open("");
    let file = shop.fleet.folder.fleet_file();
    let text = fs::read_to_string(&file).unwrap();
    let text = text.replace(
        "[clients.help-desk]",
        &format!(
            "[clients.help-desk]\nbackchannel_logout_uri = \"{uri}\"\npost_logout_redirect_uris = [\"https://desk.example/bye\"]"
        ),
    );
    fs::write(&file, format!("{text}\n[outbound]\n{outbound}\n")).unwrap();
    shop.fleet.folder.run(&["apply", "fleet.toml"]);
    shop
}

const LOCAL: &str = "allow_http = true\nallow_networks = [\"127.0.0.0/8\"]";

/// Logs alice in at the help desk; what it got.
fn log_in(browser: &mut Browser<'_>) -> Value {
    let path = authorize_path(&[("client_id", CLIENT), ("redirect_uri", CALLBACK)]);
    let page = browser.get(&path);
    let flow = flow_of(&page);
    let form = [
        ("flow", &*flow),
        ("username", "alice"),
        ("password", &*password("alice")),
    ];
    let answer = browser.post("/login", &form);
    let code = query_of(answer.header("location").unwrap())["code"].clone();
    let tokens = token(
        browser.shop,
        &[
            ("grant_type", "authorization_code"),
            ("client_id", CLIENT),
            ("client_secret", &password("help-desk")),
            ("redirect_uri", CALLBACK),
            ("code_verifier", VERIFIER),
            ("code", &code),
        ],
    );
    assert_eq!(tokens.status, 200, "{tokens:?}");
    tokens.json()
}

fn sid_of(tokens: &Value) -> String {
    let claims = claims_of(tokens["id_token"].as_str().unwrap());
    claims["sid"].as_str().unwrap().to_owned()
}

/// Logs out as the help desk asks for it.
fn log_out(browser: &mut Browser<'_>, tokens: &Value) {
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair("id_token_hint", tokens["id_token"].as_str().unwrap())
        .append_pair("post_logout_redirect_uri", "https://desk.example/bye")
        .append_pair("state", "done")
        .finish();
    let answer = browser.get(&format!("/oauth2/logout?{query}"));
    assert_eq!(
        answer.header("location"),
        Some("https://desk.example/bye?state=done"),
        "{answer:?}"
    );
}

/// The `sid`s of the logout tokens, each of which is good.
fn sids(shop: &Shop, tokens: &[String]) -> BTreeSet<String> {
    let jwks = shop
        .ask_server("GET /oauth2/jwks HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .body;
    let keys = JwkSet::parse(&jwks).unwrap();
    let sid = |token: &String| {
        let claims: Value = verify_jwt(token, "logout+jwt", &keys).unwrap();
        assert_eq!(claims["aud"], CLIENT);
        claims["sid"].as_str().unwrap().to_owned()
    };
    tokens.iter().map(sid).collect()
}

fn failures(shop: &Shop) -> String {
    let filter = [
        "audit",
        "search",
        "activity=logout.notify",
        "outcome=failure",
    ];
    shop.fleet
        .folder
        .run(&[&filter[..], &["--output", "json"]].concat())
}

#[test]
fn a_server_killed_while_sessions_end_loses_no_notification() {
    let application = Application::start("503 Service Unavailable");
    let mut shop = shop(&application, LOCAL);
    let mut ended = BTreeSet::new();
    for round in 0..4 {
        let answered = Mutex::new(Vec::new());
        thread::scope(|scope| {
            let (answered, shop) = (&answered, &shop);
            let browsing = scope.spawn(move || {
                let mut logins = Vec::new();
                for _ in 0..5 {
                    let mut browser = Browser::new(shop);
                    let tokens = log_in(&mut browser);
                    logins.push((browser, tokens));
                }
                logins
            });
            let logins = browsing.join().unwrap();
            let logging_out = scope.spawn(move || {
                for (mut browser, tokens) in logins {
                    let attempt = std::panic::AssertUnwindSafe(|| log_out(&mut browser, &tokens));
                    // What breaks off with the kill was never answered.
                    if std::panic::catch_unwind(attempt).is_ok() {
                        answered.lock().unwrap().push(sid_of(&tokens));
                    }
                }
            });
            // Mid-way, another way each time; in one round attempts are answered well when it is killed.
            application.answer(if round == 2 { "200 OK" } else { "503 Busy" });
            thread::sleep(Duration::from_millis(40 + 60 * round));
            shop.fleet.process.signal("-KILL");
            logging_out.join().unwrap();
        });
        ended.extend(answered.into_inner().unwrap());
        let _ = shop.fleet.process.0.wait();
        shop.fleet = shop.fleet.folder.up();
    }
    assert!(ended.len() >= 4, "hardly anybody logged out: {ended:?}");
    application.answer("200 OK");
    eventually("the help desk knows all sessions that have ended", || {
        sids(&shop, &application.taken()).is_superset(&ended)
    });
    // All of it is told in the ledger, failures too.
    assert!(failures(&shop).contains("status 503"));
}

#[test]
fn an_administrator_ends_a_session_and_the_application_knows() {
    let application = Application::start("200 OK");
    let shop = shop(&application, LOCAL);
    let tokens = log_in(&mut Browser::new(&shop));
    let sid = sid_of(&tokens);
    shop.fleet.folder.run(&["session", "revoke", &sid]);
    let started = Instant::now();
    eventually("the help desk knows", || !application.taken().is_empty());
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(
        sids(&shop, &application.taken()),
        BTreeSet::from([sid.clone()])
    );
    eventually("the delivery is in the ledger", || {
        let filter = [
            "audit",
            "search",
            "activity=logout.notify",
            "outcome=success",
        ];
        let found = shop
            .fleet
            .folder
            .run(&[&filter[..], &["--output", "json"]].concat());
        found.contains(&sid)
    });
    assert_eq!(application.asked(), 1, "once is enough");
}

#[test]
fn no_name_or_redirect_leads_the_server_where_it_must_not_go() {
    let application = Application::start("200 OK");
    let port = application.address.port();
    // The same place, by address and by name: it is not public, and nothing allows it.
    for host in ["127.0.0.1", "localhost", "2130706433", "[::ffff:127.0.0.1]"] {
        let shop = shop_with(&format!("http://{host}:{port}/logout"), "allow_http = true");
        let mut browser = Browser::new(&shop);
        let tokens = log_in(&mut browser);
        log_out(&mut browser, &tokens);
        eventually("the refusal is in the ledger", || {
            failures(&shop).contains("is not public")
        });
    }
    assert_eq!(application.asked(), 0);
    // An answer that sends elsewhere sends nobody anywhere.
    let elsewhere = Application::start("200 OK");
    application.answer(&format!(
        "307 Temporary Redirect\r\nLocation: http://{}/logout",
        elsewhere.address
    ));
    let shop = shop(&application, LOCAL);
    let mut browser = Browser::new(&shop);
    let tokens = log_in(&mut browser);
    log_out(&mut browser, &tokens);
    eventually("the failure is in the ledger", || {
        failures(&shop).contains("status 307")
    });
    assert_eq!(elsewhere.asked(), 0);
    assert!(application.asked() > 0);
}

#[test]
fn an_address_without_tls_is_refused_when_the_fleet_is_applied() {
    let shop = Shop::open("");
    let file = shop.fleet.folder.fleet_file();
    let text = fs::read_to_string(&file).unwrap();
    for (uri, message) in [
        ("http://desk.example/logout", "this address is not https"),
        ("//desk.example/logout", "no address that can be called"),
        ("https://", "no address that can be called"),
        (
            "https://user@desk.example/",
            "no address that can be called",
        ),
    ] {
        let told = format!("[clients.help-desk]\nbackchannel_logout_uri = \"{uri}\"");
        fs::write(&file, text.replace("[clients.help-desk]", &told)).unwrap();
        let output = shop.fleet.folder.testudo(&["apply", "fleet.toml"]);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && errors.contains(message),
            "{errors}"
        );
    }
}

#[test]
fn a_logout_form_from_another_site_is_sent_on_to_where_the_cookies_are() {
    let application = Application::start("200 OK");
    let shop = shop(&application, LOCAL);
    let mut browser = Browser::new(&shop);
    let tokens = log_in(&mut browser);
    let form = [
        ("id_token_hint", tokens["id_token"].as_str().unwrap()),
        ("post_logout_redirect_uri", "https://desk.example/bye"),
    ];
    // Cookies with `SameSite=Lax` do not come with it.
    let cookies = std::mem::take(&mut browser.cookies);
    let answer = browser.post_with("/oauth2/logout", &form, "Sec-Fetch-Site: cross-site\r\n");
    let location = answer.header("location").unwrap().to_owned();
    assert!(location.starts_with("/logout?flow="), "{answer:?}");
    browser.cookies = cookies;
    let answer = browser.get(&location);
    assert_eq!(answer.header("location"), Some("https://desk.example/bye"));
    assert!(!browser.cookies.contains_key("__Host-testudo-session"));
    eventually("the help desk knows", || !application.taken().is_empty());
    // Without an ID token the user is asked, whoever sends the form.
    let mut browser = Browser::new(&shop);
    log_in(&mut browser);
    let page = browser.get("/oauth2/logout?client_id=help-desk");
    assert!(page.body.contains("Log out?"), "{page:?}");
    assert!(browser.cookies.contains_key("__Host-testudo-session"));
    let bad = browser
        .get("/oauth2/logout?client_id=help-desk&post_logout_redirect_uri=https://evil.example");
    assert_eq!((bad.status, bad.header("location")), (400, None));
}
