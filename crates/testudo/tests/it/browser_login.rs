//! `testudo login` with a real browser: what a person sees and does, and what the browser makes of it.
//! `./test.sh` installs the browser; `TESTUDO_TEST_FAST=1` leaves these tests out, except for the last ones.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Lines, Read, Write},
    net::TcpStream,
    process::{ChildStderr, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use url::Url;

use crate::{
    browser::{Browser, query_of},
    chromium::{Chromium, Page, WINDOW, Window},
    fleet::{Fleet, Folder, Process},
    installed::left_out,
    roles::eventually,
    shop::{Shop, password},
    wire,
};

const PASSWORD: &str = "alice-reads-a-lot";
const LOGGED_IN: &str = "You may close this window.";

/// A `testudo login` that waits for its browser.
pub struct Login {
    process: Process,
    said: Lines<BufReader<ChildStderr>>,
    /// The address it asks to open.
    pub address: String,
}

impl Login {
    pub fn begin(folder: &Folder) -> Self {
        let mut command = folder.command(&["login", "--no-browser"]);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = said
            .by_ref()
            .map(|line| line.unwrap().trim().to_owned())
            .find(|line| line.starts_with("https://"));
        Self {
            process: Process(child),
            said,
            address: address.expect("an address to open"),
        }
    }

    /// Where it waits.
    pub fn callback(&self) -> Url {
        Url::parse(&query_of(&self.address)["redirect_uri"]).unwrap()
    }

    /// Waits until it ends; the exit code and what it said.
    fn end(mut self) -> (Option<i32>, String) {
        let until = Instant::now() + Duration::from_secs(20);
        let code = loop {
            if let Some(status) = self.process.0.try_wait().unwrap() {
                break status.code();
            }
            assert!(Instant::now() < until, "the login still waits");
            std::thread::sleep(Duration::from_millis(20));
        };
        let said: Vec<String> = self.said.map(Result::unwrap).collect();
        (code, said.join("\n"))
    }
}

pub fn chromium(fleet: &Fleet) -> Chromium {
    let ca = fleet
        .folder
        .path()
        .join(fleet.ready["ca"].as_str().unwrap());
    Chromium::start(Some(&ca))
}

/// The end of every login that went well.
pub fn assert_logged_in(page: &Page, login: Login) {
    assert!(page.url.starts_with(login.callback().as_str()), "{page:#?}");
    assert!(page.text.contains(LOGGED_IN), "{page:#?}");
    assert_eq!(page.status, 200);
    assert_eq!(page.complaints, Vec::<String>::new());
    let (code, said) = login.end();
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn a_person_logs_in_with_a_browser_and_out_again() {
    if left_out() {
        return;
    }
    let fleet = Folder::bookshop().up();
    let folder = &fleet.folder;
    let mut browser = chromium(&fleet);
    browser.window(WINDOW);

    // A wrong password and an unknown name get the same words, and the name need not be typed again.
    let login = Login::begin(folder);
    let page = browser.open(&login.address);
    assert_eq!(page.status, 200, "{page:#?}");
    assert_eq!(page.alert, None);
    let first = page.text;
    let mut refusals = Vec::new();
    for name in ["alice", "nobody-here"] {
        let page = browser.log_in(name, "not the password");
        assert_eq!(page.status, 401, "{page:#?}");
        assert_eq!(page.field("username").value, name);
        assert_eq!(page.field("password").value, "");
        assert!(page.field("password").focused && page.field("password").invalid);
        refusals.push((page.alert.clone().expect("an alert"), page.text));
    }
    browser.picture("wrong-password");
    assert_eq!(
        refusals[0], refusals[1],
        "nothing tells whether a user exists"
    );
    let (alert, text) = &refusals[0];
    assert!(alert.contains("username or the password"), "{alert}");
    for line in first.lines() {
        assert!(text.contains(line), "the page lost `{line}`: {text}");
    }
    let page = browser.log_in("alice", PASSWORD);
    browser.picture("logged-in");
    assert_logged_in(&page, login);

    // The token opens what it should, and the session is there to be seen.
    let token = folder.run(&["token"]).trim().to_owned();
    assert_eq!(fleet.call("GET", "/orders", Some(&token), "").status, 200);
    assert_eq!(fleet.call("GET", "/orders", None, "").status, 401);
    let sessions: Value =
        serde_json::from_str(&folder.run(&["session", "list", "alice", "--output", "json"]))
            .unwrap();
    assert_eq!(sessions.as_array().unwrap().len(), 1, "{sessions}");

    let renewed = renew(folder);
    assert_eq!(fleet.call("GET", "/orders", Some(&renewed), "").status, 200);

    // After the logout nothing of it is good for anything, kept or not.
    let kept = fs::read(folder.path().join("home/login.json")).unwrap();
    folder.run(&["logout"]);
    eventually("the gateway refuses the token", || {
        fleet.call("GET", "/orders", Some(&renewed), "").status == 401
    });
    assert_eq!(folder.testudo(&["token"]).status.code(), Some(4));
    fs::write(folder.path().join("home/login.json"), kept).unwrap();
    make_stale(folder);
    let refused = folder.testudo(&["token"]);
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("invalid_grant"),
        "{refused:?}"
    );
    let login = Login::begin(folder);
    let page = browser.open(&login.address);
    assert_eq!(page.title, "Log in · bookshop.example", "{page:#?}");
    assert_logged_in(&browser.log_in("alice", PASSWORD), login);
}

/// Renews the access token as if it had expired.
fn renew(folder: &Folder) -> String {
    let before = folder.run(&["token"]);
    make_stale(folder);
    let after = folder.run(&["token"]);
    assert_ne!(before, after);
    after.trim().to_owned()
}

fn make_stale(folder: &Folder) {
    let path = folder.path().join("home/login.json");
    let mut kept: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    kept["obtained_at"] = 0.into();
    fs::write(path, kept.to_string()).unwrap();
}

#[test]
fn a_keyboard_is_enough_and_no_script_is_needed() {
    if left_out() {
        return;
    }
    let fleet = Folder::bookshop().up();
    let mut browser = chromium(&fleet);
    browser.window(Window {
        javascript: false,
        ..WINDOW
    });
    let login = Login::begin(&fleet.folder);
    let page = browser.open(&login.address);
    assert!(page.field("username").focused, "{page:#?}");
    browser.type_text("alice");
    let page = browser.press("Tab");
    assert!(page.field("password").focused, "{page:#?}");
    browser.type_text("not the password");
    // The name is kept and the password asked for again.
    let page = browser.press_enter();
    assert_eq!(page.status, 401, "{page:#?}");
    assert!(page.field("password").focused, "{page:#?}");
    browser.type_text(PASSWORD);
    let page = browser.press_enter();
    assert_logged_in(&page, login);
}

#[test]
fn the_login_page_is_guarded_by_the_browser() {
    if left_out() {
        return;
    }
    let fleet = Folder::bookshop().up();
    let login = Login::begin(&fleet.folder);
    let mut browser = chromium(&fleet);
    browser.window(WINDOW);
    let page = browser.open(&login.address);

    let policy = &page.headers["content-security-policy"];
    let directives: BTreeSet<&str> = policy.split(';').map(str::trim).collect();
    let expected = [
        "default-src 'none'",
        "style-src 'self'",
        "img-src 'self'",
        "script-src 'self'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ];
    assert_eq!(directives, BTreeSet::from(expected));
    for (name, value) in [
        ("cache-control", "no-store"),
        ("referrer-policy", "no-referrer"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("strict-transport-security", "max-age=63072000"),
    ] {
        assert_eq!(page.headers.get(name).map(String::as_str), Some(value));
    }
    assert_eq!(page.complaints, Vec::<String>::new());

    // What the browser keeps, before and after the login.
    let page = browser.log_in("alice", PASSWORD);
    let names: Vec<&str> = page.cookies.iter().map(|cookie| &*cookie.name).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    for cookie in &page.cookies {
        assert!(cookie.name.starts_with("__Host-testudo-"), "{cookie:?}");
        assert!(cookie.secure && cookie.http_only, "{cookie:?}");
        assert_eq!(cookie.same_site, "Lax");
        assert_eq!(cookie.path, "/");
        assert_eq!(cookie.domain, "localhost", "of this host alone");
        assert!(cookie.expires < 0.0, "until the browser closes: {cookie:?}");
    }
    assert_eq!(page.headers["cache-control"], "no-store");
    assert_eq!(page.headers["referrer-policy"], "no-referrer");
    assert_logged_in(&page, login);

    // Nobody else's page shows it, though it may show the picture.
    let other_page = format!(
        "https://localhost:{}/books",
        fleet.address("/gateway").port()
    );
    let shield = fleet.ready["server"].as_str().unwrap().to_owned() + "/assets/shield.svg";
    let login = Login::begin(&fleet.folder);
    for (framed, shown) in [
        (&login.address, "chrome-error://chromewebdata/"),
        (&shield, &*shield),
    ] {
        browser.window(WINDOW);
        browser.open(&other_page);
        assert_eq!(browser.frame(framed).frames, [shown]);
    }

    // Who does not know the CA is not shown a form to type a password into.
    let mut stranger = Chromium::start(None);
    stranger.window(WINDOW);
    let refused = stranger.open_in_vain(&login.address);
    assert!(refused.contains("ERR_CERT_AUTHORITY_INVALID"), "{refused}");
}

#[test]
fn everybody_can_read_the_pages_and_fill_the_form() {
    if left_out() {
        return;
    }
    let fleet = Folder::bookshop().up();
    let server = |path: &str| fleet.ready["server"].as_str().unwrap().to_owned() + path;
    let mut browser = chromium(&fleet);
    for (name, size) in [
        ("desktop", (1280, 800)),
        ("phone", (390, 844)),
        ("small", (320, 568)),
    ] {
        for dark in [false, true] {
            let name = format!("{name}-{}", if dark { "dark" } else { "light" });
            browser.window(Window {
                dark,
                size,
                ..WINDOW
            });
            let login = Login::begin(&fleet.folder);
            let page = browser.open(&login.address);
            browser.picture(&format!("login-{name}"));
            assert_eq!(page.language, "en");
            assert_eq!(page.title, "Log in · bookshop.example");
            for (field, kind, label, autocomplete) in [
                ("username", "text", "Username", "username webauthn"),
                ("password", "password", "Password", "current-password"),
            ] {
                let field = page.field(field);
                assert_eq!(field.kind, kind);
                assert_eq!(field.label, label);
                assert_eq!(field.autocomplete, autocomplete);
            }
            assert_eq!(page.fields.len(), 2);
            assert_readable(&page, &name);
            assert_readable(&browser.log_in("alice", "not the password"), &name);
            browser.picture(&format!("again-{name}"));
            let page = browser.log_in("alice", PASSWORD);
            browser.picture(&format!("end-{name}"));
            assert_readable(&page, &name);
            assert_logged_in(&page, login);
            for (path, heading) in [
                ("/account", "Your account"),
                ("/device", "Connect a device"),
            ] {
                let page = browser.open(&server(path));
                browser.picture(&format!("{}-{name}", path.trim_start_matches('/')));
                assert!(page.text.contains(heading), "{page:#?}");
                assert_readable(&page, &name);
            }
            browser.open(&server("/account"));
            let page = browser.click("Add an authenticator");
            browser.picture(&format!("totp-{name}"));
            assert!(page.text.contains("Type this key"), "{page:#?}");
            assert_readable(&page, &name);
            browser.open(&server("/account"));
            let page = browser.click("Add a passkey");
            browser.picture(&format!("passkey-{name}"));
            assert_eq!(page.field("name").label, "What you call it");
            assert_readable(&page, &name);
        }
    }
    assert_readable(&browser.open(&server("/logout")), "logout");
    browser.picture("logout");
    let page = browser.click("Log out");
    browser.picture("logged-out");
    assert!(page.text.contains("You are logged out"), "{page:#?}");
    assert_readable(&page, "logged out");
    assert!(
        !page
            .cookies
            .iter()
            .any(|cookie| cookie.name.contains("session"))
    );
}

pub fn assert_readable(page: &Page, name: &str) {
    assert!(page.text_contrast >= 4.5, "{name}: {page:#?}");
    assert!(page.border_contrast >= 3.0, "{name}: {page:#?}");
    assert!(!page.overflows, "{name}: {page:#?}");
    // That a password was wrong is an error of the page itself; nothing else may be missing or forbidden.
    let refused = |complaint: &String| complaint.contains("status of 401");
    assert!(page.complaints.iter().all(refused), "{name}: {page:#?}");
    assert!(!page.title.is_empty() && page.language == "en", "{page:#?}");
}

#[test]
fn the_login_waits_for_its_own_answer_whoever_else_calls() {
    let shop = Shop::open("");
    let login = Login::begin(&shop.fleet.folder);
    let callback = login.callback();
    let port = callback.port().unwrap();
    // A connection that a browser opened ahead of need, and one that talks without end.
    let _silent = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut endless = TcpStream::connect(("127.0.0.1", port)).unwrap();
    endless.write_all(&[b'x'; 128 * 1024]).unwrap();
    let ask = |target: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(8)))
            .unwrap();
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: {}\r\n\r\n",
            callback.authority()
        );
        wire::exchange(&mut stream, request.as_bytes())
            .unwrap()
            .expect("an answer")
    };
    // Requests that any page can make the browser send.
    let state = &query_of(&login.address)["state"];
    for (target, status) in [
        ("/", 404),
        ("/favicon.ico", 404),
        ("/callback", 404),
        ("/callback?", 400),
        ("/callback?code=x", 400),
        ("/callback?code=x&state=", 400),
        ("/callback?code=x&state=of-another-login", 400),
        ("/callback?error=access_denied", 400),
        (
            &*format!("/callback?code=x&state={state}&state={state}"),
            400,
        ),
        (&*format!("/other?code=x&state={state}"), 404),
    ] {
        let answer = ask(target);
        assert_eq!(answer.status, status, "{target}");
        assert!(!answer.body.contains("You are logged in"), "{target}");
    }
    // The one that counts.
    let mut browser = Browser::new(&shop);
    let server = shop.fleet.ready["server"].as_str().unwrap();
    let page = browser.get(login.address.strip_prefix(server).unwrap());
    let flow = crate::browser::flow_of(&page);
    let form = [
        ("flow", &*flow),
        ("username", "alice"),
        ("password", &*password("alice")),
    ];
    let answer = browser.post("/login", &form);
    let location = Url::parse(answer.header("location").unwrap()).unwrap();
    let answer = ask(&location[url::Position::BeforePath..]);
    assert_eq!(answer.status, 200);
    assert!(answer.body.contains(LOGGED_IN), "{answer:?}");
    let (code, said) = login.end();
    assert_eq!(code, Some(0), "{said}");
    shop.fleet.folder.run(&["token"]);
}

#[test]
fn a_login_that_failed_is_not_said_to_have_succeeded() {
    let shop = Shop::open("");
    let login = Login::begin(&shop.fleet.folder);
    let callback = login.callback();
    let mut stream = TcpStream::connect(("127.0.0.1", callback.port().unwrap())).unwrap();
    let state = &query_of(&login.address)["state"];
    let request = format!("GET /callback?code=made-up&state={state} HTTP/1.1\r\nHost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(answer.contains("You are not logged in"), "{answer}");
    let (code, said) = login.end();
    assert_ne!(code, Some(0));
    assert!(said.contains("invalid_grant"), "{said}");
    assert_eq!(shop.fleet.folder.testudo(&["token"]).status.code(), Some(4));
}
