//! Passkeys in a real browser, with its own virtual authenticator. `./test.sh` installs the browser; `TESTUDO_TEST_FAST=1`
//! leaves these tests out.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use crate::{
    browser::Browser,
    browser_login::{Login, assert_logged_in, assert_readable, chromium},
    chromium::{Chromium, Page, WINDOW},
    fleet::{Fleet, Folder, Process, free_ports, repository},
    installed::{left_out, tool},
    roles::eventually,
    shop::{Shop, claims_of},
};

const PASSWORD: &str = "alice-reads-a-lot";
/// The model that Chromium's virtual authenticators say they are.
const MODEL: &str = "01020304-0506-0708-0102-030405060708";
const BUTTON: &str = "Log in with a passkey";

fn server(fleet: &Fleet, path: &str) -> String {
    fleet.ready["server"].as_str().unwrap().to_owned() + path
}

/// Adds a passkey on the account page of alice, who logs in with her password; the account afterwards.
fn add_passkey(browser: &mut Chromium, fleet: &Fleet) -> Page {
    browser.open(&server(fleet, "/account"));
    browser.log_in("alice", PASSWORD);
    let page = browser.click("Add a passkey");
    assert_readable(&page, "add a passkey");
    browser.fill("What you call it", "My notebook");
    browser.click("Create the passkey")
}

/// Ends what the browser and the command line have.
fn log_out(browser: &mut Chromium, fleet: &Fleet) {
    browser.open(&server(fleet, "/account"));
    let page = browser.click("Log out everywhere");
    assert!(page.text.contains("You are logged out"), "{page:#?}");
}

fn passkeys(fleet: &Fleet, user: &str) -> Vec<Value> {
    let listed = fleet
        .folder
        .run(&["user", "passkeys", user, "--output", "json"]);
    serde_json::from_str(&listed).unwrap()
}

fn events(fleet: &Fleet, filter: &[&str]) -> String {
    let search = [&["audit", "search"], filter, &["--output", "json"]].concat();
    fleet.folder.run(&search)
}

#[test]
fn a_person_adds_a_passkey_and_logs_in_with_it_alone() {
    if left_out() {
        return;
    }
    let fleet = Folder::bookshop().up();
    let mut browser = chromium(&fleet);
    browser.window(WINDOW);
    browser.authenticator(json!({}));
    let page = add_passkey(&mut browser, &fleet);
    browser.picture("account-with-passkey");
    assert_readable(&page, "account with a passkey");
    assert!(page.text.contains("My notebook: added"), "{page:#?}");
    let [kept] = &page.passkeys[..] else {
        panic!("{page:#?}");
    };
    assert_eq!(
        (&kept["isResidentCredential"], &kept["rpId"]),
        (&json!(true), &json!("localhost")),
        "the authenticator finds it by itself"
    );
    // From now on the password alone changes nothing here, and the same authenticator makes no second passkey.
    browser.touch(false);
    let page = browser.click("Add a passkey");
    assert!(
        page.text.contains("to continue to your account"),
        "{page:#?}"
    );
    let page = browser.log_in("alice", PASSWORD);
    let alert = page.alert.expect("an alert");
    assert!(alert.contains("log in with your passkey"), "{alert}");
    browser.touch(true);
    let page = browser.click(BUTTON);
    assert_eq!(page.url, server(&fleet, "/account"), "{page:#?}");
    browser.click("Add a passkey");
    let page = browser.click_in_vain("Create the passkey");
    assert_eq!(
        page.alert.as_deref(),
        Some("This device has a passkey for this account already.")
    );
    browser.open(&server(&fleet, "/account"));
    browser.fill("Name", "My phone");
    let page = browser.click("Rename My notebook");
    assert!(page.text.contains("My phone: added"), "{page:#?}");
    log_out(&mut browser, &fleet);

    // By the button. Nobody says who they are, and nothing is typed.
    browser.touch(false);
    let login = Login::begin(&fleet.folder);
    let page = browser.open(&login.address);
    browser.picture("login-with-passkey");
    assert_readable(&page, "login with passkeys");
    browser.recognise(false);
    browser.touch(true);
    let page = browser.click_in_vain(BUTTON);
    assert!(page.alert.unwrap().starts_with("No passkey was used."));
    browser.recognise(true);
    let page = browser.click(BUTTON);
    assert_logged_in(&page, login);
    let claims = claims_of(fleet.folder.run(&["token"]).trim());
    assert_eq!(
        (&claims["acr"], &claims["amr"]),
        (&json!("3"), &json!(["pop", "user", "mfa"]))
    );
    let [listed] = &passkeys(&fleet, "alice")[..] else {
        panic!("one passkey");
    };
    assert_eq!(listed["name"], "My phone");
    assert!(listed["last_used"].is_string(), "{listed}");
    log_out(&mut browser, &fleet);

    // Among what the browser fills in for the name, which the virtual one chooses at once.
    let login = Login::begin(&fleet.folder);
    let callback = login.callback();
    let page = browser.pass(&login.address, callback.as_str());
    assert_logged_in(&page, login);
    assert_eq!(
        page.passkeys[0]["signCount"],
        json!(4),
        "made, and used three times"
    );
    let logins = events(&fleet, &["activity=login.passkey", "outcome=success"]);
    assert_eq!(logins.lines().count(), 3, "{logins}");
}

#[test]
fn a_copy_of_an_authenticator_is_noticed_and_does_not_log_in() {
    if left_out() {
        return;
    }
    let fleet = Folder::bookshop().up();
    let mut browser = chromium(&fleet);
    browser.window(WINDOW);
    browser.authenticator(json!({}));
    let kept = add_passkey(&mut browser, &fleet).passkeys[0].clone();
    log_out(&mut browser, &fleet);
    let login = Login::begin(&fleet.folder);
    let callback = login.callback();
    let page = browser.pass(&login.address, callback.as_str());
    assert_logged_in(&page, login);

    browser.window(WINDOW);
    browser.authenticator(json!({ "automaticPresenceSimulation": false }));
    browser.copy(&kept);
    let login = Login::begin(&fleet.folder);
    browser.open(&login.address);
    browser.touch(true);
    let page = browser.click(BUTTON);
    browser.picture("passkey-refused");
    assert_eq!(page.status, 401, "{page:#?}");
    assert!(
        page.alert
            .unwrap()
            .starts_with("This passkey was not accepted")
    );
    let found = events(&fleet, &["activity=passkey.clone"]);
    assert!(found.contains("the signature counter went back"), "{found}");
}

#[test]
fn an_authenticator_of_another_model_than_those_allowed_is_refused() {
    if left_out() {
        return;
    }
    let folder = Folder::bookshop();
    let text = fs::read_to_string(folder.fleet_file()).unwrap();
    let other = "cb69481e-8ff7-4039-93ec-0a2729a154a8";
    let rule = format!("[passkeys]\nattestation = \"direct\"\nallowed_aaguids = [\"{other}\"]");
    fs::write(folder.fleet_file(), format!("{text}\n{rule}\n")).unwrap();
    let fleet = folder.up();
    let mut browser = chromium(&fleet);
    browser.window(WINDOW);
    browser.authenticator(json!({}));
    let page = add_passkey(&mut browser, &fleet);
    let alert = page.alert.expect("an alert");
    assert_eq!(alert, "Authenticators of this model are not allowed.");
    assert_eq!(passkeys(&fleet, "alice"), Vec::<Value>::new());
    // The model says which it is, and is allowed then.
    let refused = events(&fleet, &["activity=passkey.add", "outcome=denied"]);
    assert!(refused.contains("not allowed"), "{refused}");
    fleet.folder.edit(other, MODEL);
    fleet.folder.run(&["apply", "fleet.toml"]);
    browser.authenticator(json!({}));
    let page = browser.click("Create the passkey");
    assert!(page.text.contains("Passkey: added"), "{page:#?}");
    assert_eq!(passkeys(&fleet, "alice")[0]["aaguid"], MODEL);
}

#[test]
fn who_is_invited_adds_a_passkey_and_who_has_lost_it_is_invited_again() {
    if left_out() {
        return;
    }
    let fleet = Folder::bookshop().up();
    let folder = &fleet.folder;
    let invite = || folder.run(&["user", "invite", "bob"]).trim().to_owned();
    let replaced = invite();
    let link = invite();
    let mut browser = chromium(&fleet);
    browser.window(WINDOW);
    browser.authenticator(json!({}));
    let page = browser.open(&replaced);
    assert_eq!(page.status, 400, "{page:#?}");
    assert!(page.text.contains("This link leads nowhere"), "{page:#?}");
    // Programs that look at links do not use them up.
    for _ in 0..2 {
        let page = browser.open(&link);
        assert_eq!(page.status, 200, "{page:#?}");
        assert!(page.text.contains("for bob"), "{page:#?}");
        assert_readable(&page, "invitation");
    }
    browser.picture("invitation");
    let page = browser.click("Create the passkey");
    assert!(page.text.contains("Your passkey is ready"), "{page:#?}");
    assert!(
        !page
            .cookies
            .iter()
            .any(|cookie| cookie.name.contains("session")),
        "the link is no login"
    );
    assert_eq!(browser.open(&link).status, 400);

    let login = Login::begin(folder);
    let callback = login.callback();
    let page = browser.pass(&login.address, callback.as_str());
    assert_logged_in(&page, login);

    // Lost.
    let id = passkeys(&fleet, "bob")[0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    folder.run(&["user", "remove-passkey", "bob", &id]);
    assert_eq!(passkeys(&fleet, "bob"), Vec::<Value>::new());
    let again = folder.testudo(&["user", "remove-passkey", "bob", &id]);
    assert_eq!(again.status.code(), Some(3), "{again:?}");
    browser.touch(false);
    let login = Login::begin(folder);
    browser.open(&login.address);
    browser.touch(true);
    let page = browser.click(BUTTON);
    assert_eq!(page.status, 401, "{page:#?}");
    let found = events(&fleet, &["activity=login.passkey", "outcome=denied"]);
    assert!(found.contains("unknown passkey"), "{found}");
    browser.authenticator(json!({}));
    browser.open(&invite());
    let page = browser.click("Create the passkey");
    assert!(page.text.contains("Your passkey is ready"), "{page:#?}");
    let login = Login::begin(folder);
    let callback = login.callback();
    let page = browser.pass(&login.address, callback.as_str());
    assert_logged_in(&page, login);
}

#[test]
fn a_form_that_no_authenticator_answered_does_nothing() {
    let shop = Shop::open("");
    let mut browser = Browser::new(&shop);
    let flow = browser.open_login();
    let cross = "Sec-Fetch-Site: cross-site\r\n";
    let large = "A".repeat(6_000);
    for part in ["", "AAAA", "=", "{}", &large] {
        let form = [
            ("flow", &*flow),
            ("credential_id", part),
            ("client_data", part),
            ("authenticator_data", part),
            ("signature", part),
            ("user_handle", part),
        ];
        let answer = browser.post("/login/passkey", &form);
        assert_eq!(answer.status, 401, "{answer:?}");
        assert!(
            answer.body.contains("This passkey was not accepted"),
            "{answer:?}"
        );
        // The page is as good as it was for a password, and offers nothing by itself.
        assert!(answer.body.contains(&flow) && answer.body.contains("name=\"password\""));
        assert!(!answer.body.contains("data-offer"), "{answer:?}");
        assert_eq!(browser.cookies.len(), 1, "no session");
        assert_eq!(
            browser.post_with("/login/passkey", &form, cross).status,
            403
        );
        let mut stranger = Browser::new(&shop);
        assert_eq!(stranger.post("/login/passkey", &form).status, 403);
    }
    let none = [("flow", "none of ours")];
    assert_eq!(browser.post("/login/passkey", &none).status, 400);
    assert_eq!(browser.post("/invitation", &none).status, 400);
    assert_eq!(browser.post_with("/invitation", &none, cross).status, 403);
    for path in [
        "/invitation",
        "/invitation?code=usr_01ARZ3NDEKTSV4RRFFQ69G5FAV.x",
    ] {
        let answer = browser.get(path);
        assert_eq!(answer.status, 400, "{answer:?}");
        assert!(
            answer.body.contains("This link is not good any more"),
            "{answer:?}"
        );
    }
    let script = browser.get("/assets/passkey.js");
    assert_eq!(
        script.header("content-type"),
        Some("text/javascript; charset=utf-8")
    );
    assert_eq!(script.header("x-content-type-options"), Some("nosniff"));
    let page = browser.get("/account");
    assert!(
        page.body
            .contains("<script src=\"/assets/passkey.js\" defer></script>")
    );
    assert_eq!(page.body.matches("<script").count(), 1, "nothing inline");
    let mut words = page.body.split_whitespace();
    assert!(
        !words.any(|word| word.starts_with("on") && word.contains('=')),
        "no handlers: {page:?}"
    );
}

/// A web application of somebody else, on a port of its own.
struct Portal {
    name: &'static str,
    port: u16,
    _process: Option<Process>,
}

impl Portal {
    const fn new(name: &'static str, port: u16) -> Self {
        Self {
            name,
            port,
            _process: None,
        }
    }

    fn at(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    fn secret(&self) -> String {
        format!("{}-keeps-this-to-itself-for-the-test", self.name)
    }

    /// Its section of the fleet file.
    fn section(&self, folder: &Folder) -> String {
        let file = format!("passwords-{}", self.name);
        fs::write(folder.path().join(&file), self.secret()).unwrap();
        format!(
            r#"
[clients.{}]
kind = "confidential"
redirect_uris = ["{}"]
secret = {{ file = "{file}" }}
backchannel_logout_uri = "{}"
backchannel_logout_session_required = true
"#,
            self.name,
            self.at("/callback"),
            self.at("/logout"),
        )
    }

    fn start(&mut self, fleet: &Fleet) {
        let told = json!({
            "issuer": fleet.ready["server"],
            "client_id": self.name,
            "client_secret": self.secret(),
            "port": self.port,
        });
        let ca = fleet.ready["ca"].as_str().unwrap();
        let mut child = Command::new("node")
            .arg(repository().join("crates/testudo/tests/it/strict_clients/portal.mjs"))
            .arg(tool(&[".tools/node_modules/openid-client/build/index.js"]))
            .arg(tool(&[".tools/node_modules/jose/dist/webapi/index.js"]))
            .arg(told.to_string())
            .env("NODE_EXTRA_CA_CERTS", fleet.folder.path().join(ca))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let said = child.stdout.take().unwrap();
        BufReader::new(said).read_line(&mut line).unwrap();
        self._process = Some(Process(child));
        assert_eq!(line.trim(), "ready");
    }
}

#[test]
fn a_new_user_adds_a_passkey_uses_two_applications_and_logs_out_of_both() {
    if left_out() {
        return;
    }
    let folder = Folder::bookshop();
    let [one, two] = free_ports();
    let mut portals = [
        Portal::new("library", one),
        Portal::new("reading-room", two),
    ];
    let mut text = fs::read_to_string(folder.fleet_file()).unwrap();
    for portal in &portals {
        text += &portal.section(&folder);
    }
    text += "\n[users.nora]\n\n[outbound]\nallow_http = true\nallow_networks = [\"127.0.0.1\"]\n";
    fs::write(folder.fleet_file(), text).unwrap();
    let fleet = folder.up();
    for portal in &mut portals {
        portal.start(&fleet);
    }
    let [library, reading_room] = &portals;

    let link = fleet.folder.run(&["user", "invite", "nora"]);
    let mut browser = chromium(&fleet);
    browser.window(WINDOW);
    browser.authenticator(json!({}));
    browser.open(link.trim());
    let page = browser.click("Create the passkey");
    assert!(page.text.contains("Your passkey is ready"), "{page:#?}");

    // The first application sends her to log in, the second finds her logged in.
    browser.touch(false);
    let page = browser.open(&library.at("/login"));
    assert!(page.text.contains("to continue to library"), "{page:#?}");
    browser.touch(true);
    let page = browser.click(BUTTON);
    let shown = |page: &Page, portal: &Portal| {
        assert_eq!(page.url, portal.at("/"), "{page:#?}");
        assert_eq!(page.complaints, Vec::<String>::new());
        page.text.trim().to_owned()
    };
    let logged_in = "nora, acr 3, amr pop user mfa";
    assert_eq!(shown(&page, library), format!("At library: {logged_in}"));
    let page = browser.open(&reading_room.at("/login"));
    assert_eq!(
        shown(&page, reading_room),
        format!("At reading-room: {logged_in}")
    );

    log_out(&mut browser, &fleet);
    for portal in &portals {
        eventually("the application knows", || {
            let page = browser.open(&portal.at("/"));
            shown(&page, portal) == format!("At {}: nobody", portal.name)
        });
    }
    // And neither gets her back without her.
    browser.touch(false);
    for portal in &portals {
        let page = browser.open(&portal.at("/login"));
        assert!(
            page.url.starts_with(&server(&fleet, "/oauth2/authorize")),
            "{page:#?}"
        );
    }
}
