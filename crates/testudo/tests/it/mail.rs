//! Letters to users through a mail server that nobody adapted, Python's `aiosmtpd`, and a browser that follows their links.
//! `./test.sh` installs both; `TESTUDO_TEST_FAST=1` leaves these tests out.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use serde_json::Value;

use crate::{
    browser::{Browser, form_request},
    browser_login::{Login, assert_logged_in, assert_readable, chromium},
    chromium::{Page, WINDOW},
    fleet::{Fleet, Folder, Process, free_ports, repository},
    installed::{left_out, tool},
    own_certificate::Files,
    roles::eventually,
    shop::Shop,
};

const OLD: &str = "dora reads what nobody else does";
const NEW: &str = "a quiet lamp under seven rivers";

/// A mail server, and what it got.
struct Mailboxes {
    _process: Process,
    letters: Arc<Mutex<Vec<Value>>>,
}

impl Mailboxes {
    fn open(port: u16, kind: &str, files: &Files) -> Self {
        let script = repository().join("crates/testudo/tests/it/mail/server.py");
        let mut child = Command::new(tool(&[".tools/venv/bin/python"]))
            .arg(script)
            .args([&port.to_string(), kind])
            .args([&files.chain, &files.key])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines.next().expect("a server that is ready").unwrap();
        assert!(ready.contains("ready"), "{ready}");
        let letters: Arc<Mutex<Vec<Value>>> = Arc::default();
        let kept = Arc::clone(&letters);
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let letter = serde_json::from_str(&line).unwrap();
                kept.lock().unwrap().push(letter);
            }
        });
        Self {
            _process: Process(child),
            letters,
        }
    }

    fn letters(&self) -> Vec<Value> {
        self.letters.lock().unwrap().clone()
    }

    /// Waits for a letter to `address` with this in its subject, and takes it.
    fn take(&self, address: &str, subject: &str) -> Value {
        let mut found = None;
        eventually("a letter comes", || {
            let mut letters = self.letters.lock().unwrap();
            let is_it = |letter: &Value| {
                letter["to"][0] == address && header(letter, "Subject").contains(subject)
            };
            found = letters
                .iter()
                .position(is_it)
                .map(|place| letters.remove(place));
            found.is_some()
        });
        found.unwrap()
    }
}

fn header(letter: &Value, name: &str) -> String {
    let headers = letter["headers"].as_array().unwrap();
    let found: Vec<&Value> = headers.iter().filter(|field| field[0] == name).collect();
    assert_eq!(found.len(), 1, "{name}: {letter:#}");
    found[0][1].as_str().unwrap().to_owned()
}

fn link(letter: &Value) -> String {
    let text = letter["text"].as_str().unwrap();
    let link = text.lines().find(|line| line.starts_with("https://"));
    let link = link.unwrap_or_else(|| panic!("{text}")).trim().to_owned();
    let html = letter["html"].as_str().unwrap();
    assert!(html.contains(&format!("<a href=\"{link}\"")), "{html}");
    link
}

/// What a fleet file says about a server at `port`.
fn section(port: u16, security: &str) -> String {
    format!(
        "\n[mail]\nserver = \"localhost\"\nport = {port}\nsecurity = \"{security}\"\nusername = \"fleet\"\n\
         password = {{ file = \"mail.password\" }}\nfrom = \"no-reply@bookshop.example\"\nfrom_name = \"Bücher & Co\"\n\
         ca_file = \"web-root.pem\"\n"
    )
}

/// The fleet file of `folder` with such a section, and what it refers to.
fn with_mail(folder: &Folder, port: u16, security: &str) -> Files {
    let files = Files::new(folder.path());
    files.renew();
    fs::write(
        folder.path().join("mail.password"),
        "the-fleet-sends-mail\n",
    )
    .unwrap();
    let text = fs::read_to_string(folder.fleet_file()).unwrap();
    fs::write(folder.fleet_file(), text + &section(port, security)).unwrap();
    files
}

/// Makes a user with the password [`OLD`].
fn create(fleet: &Fleet, name: &str, email: &str, further: &[&str]) {
    let arguments = [&["user", "create", name, "--email", email], further].concat();
    let mut child = fleet
        .folder
        .command(&arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(OLD.as_bytes())
        .unwrap();
    assert!(child.wait().unwrap().success());
}

fn user(fleet: &Fleet, name: &str) -> Value {
    let shown = fleet
        .folder
        .run(&["user", "show", name, "--output", "json"]);
    serde_json::from_str(&shown).unwrap()
}

fn events(fleet: &Fleet, filter: &[&str]) -> String {
    let search = [&["audit", "search"], filter, &["--output", "json"]].concat();
    fleet.folder.run(&search)
}

fn assert_shows(page: &Page, name: &str, text: &str) {
    assert_readable(page, name);
    assert!(page.text.contains(text), "{name}: {page:#?}");
}

#[test]
fn a_person_who_forgot_the_password_chooses_another_one_with_a_letter() {
    if left_out() {
        return;
    }
    let [port] = free_ports();
    let folder = Folder::bookshop();
    let files = with_mail(&folder, port, "starttls");
    let mailboxes = Mailboxes::open(port, "starttls", &files);
    let fleet = folder.up();
    let server = |path: &str| fleet.ready["server"].as_str().unwrap().to_owned() + path;
    create(
        &fleet,
        "dora",
        "dora@bookshop.example",
        &["--email-verified"],
    );
    let mut browser = chromium(&fleet);
    browser.window(WINDOW);

    let login = Login::begin(&fleet.folder);
    let page = browser.open(&login.address);
    assert_shows(&page, "login", "Forgot your password?");
    let page = browser.open(&server("/forgot-password"));
    assert_shows(&page, "forgot password", "Username or mail address");
    browser.fill("Username or mail address", "Dora@bookshop.example");
    let page = browser.click("Send the link");
    assert_shows(&page, "letter on its way", "Look into your mailbox");

    let letter = mailboxes.take("dora@bookshop.example", "Choose a new password");
    assert_eq!(
        (&letter["tls"], &letter["login"]),
        (&true.into(), &true.into())
    );
    assert_eq!(letter["from"], "no-reply@bookshop.example");
    assert_eq!(
        header(&letter, "From"),
        "Bücher & Co <no-reply@bookshop.example>"
    );
    assert_eq!(header(&letter, "Auto-Submitted"), "auto-generated");
    let link = link(&letter);
    assert!(link.starts_with(&server("/reset-password?code=")), "{link}");
    // A mail scanner was there first.
    browser.open(&link);
    let page = browser.open(&link);
    browser.picture("reset-password");
    assert_shows(&page, "reset password", "for dora");
    for (password, again, why) in [
        (NEW, OLD, "The two passwords differ"),
        ("short", "short", "must have 15 characters"),
    ] {
        browser.fill("New password", password);
        browser.fill("The same again", again);
        let page = browser.click("Change the password");
        assert_readable(&page, why);
        assert!(
            page.alert
                .as_deref()
                .is_some_and(|alert| alert.contains(why)),
            "{page:#?}"
        );
    }
    browser.fill("New password", NEW);
    browser.fill("The same again", NEW);
    let page = browser.click("Change the password");
    assert_shows(&page, "password changed", "Your password is changed");
    mailboxes.take("dora@bookshop.example", "Your password");
    let page = browser.open(&link);
    assert!(page.text.contains("This link leads nowhere"), "{page:#?}");

    browser.open(&login.address);
    let page = browser.log_in("dora", OLD);
    assert!(page.alert.is_some(), "{page:#?}");
    let page = browser.log_in("dora", NEW);
    assert_logged_in(&page, login);
    let done = events(&fleet, &["activity=password.reset", "outcome=success"]);
    assert!(done.contains("dora"), "{done}");
}

#[test]
fn a_person_changes_the_address_confirms_it_and_the_former_one_is_told() {
    if left_out() {
        return;
    }
    let [port] = free_ports();
    let folder = Folder::bookshop();
    let files = with_mail(&folder, port, "tls");
    let mailboxes = Mailboxes::open(port, "tls", &files);
    let fleet = folder.up();
    let server = |path: &str| fleet.ready["server"].as_str().unwrap().to_owned() + path;
    create(&fleet, "dora", "dora@bookshop.example", &[]);
    assert_eq!(user(&fleet, "dora")["email_verified"], false);
    let mut browser = chromium(&fleet);
    browser.window(WINDOW);
    browser.open(&server("/account"));
    let page = browser.log_in("dora", OLD);
    browser.picture("account-with-address");
    assert_shows(&page, "account", "dora@bookshop.example: not confirmed yet");
    browser.click("Send a link to confirm it");
    let first = link(&mailboxes.take("dora@bookshop.example", "Confirm your mail address"));
    let page = browser.click("Change the address");
    assert_shows(&page, "change the address", "Your mail address");
    browser.fill("Mail address", "later-dora@bookshop.example");
    browser.click("Change it");
    mailboxes.take("dora@bookshop.example", "Your mail address");
    // The server has said that it is to come again, and it did.
    let letter = mailboxes.take("later-dora@bookshop.example", "Confirm your mail address");

    let page = browser.open(&first);
    assert!(page.text.contains("This link leads nowhere"), "{page:#?}");
    let page = browser.open(&link(&letter));
    browser.picture("verify-address");
    assert_shows(&page, "verify address", "later-dora@bookshop.example");
    assert_eq!(user(&fleet, "dora")["email_verified"], false);
    let page = browser.click("Confirm");
    assert_shows(&page, "address verified", "Your mail address is confirmed");
    let dora = user(&fleet, "dora");
    assert_eq!(
        (&dora["email"], &dora["email_verified"]),
        (&"later-dora@bookshop.example".into(), &true.into())
    );
    fleet.folder.run(&["user", "verify-email", "dora"]);
}

#[test]
fn letters_survive_the_server_and_lead_to_the_provider_whatever_a_request_says() {
    if left_out() {
        return;
    }
    let [port] = free_ports();
    let mut shop = Shop::open("");
    let files = with_mail(&shop.fleet.folder, port, "starttls");
    shop.fleet.folder.run(&["apply", "fleet.toml"]);
    let verified = &["--email-verified"];
    create(&shop.fleet, "dora", "dora@bookshop.example", verified);
    create(&shop.fleet, "nobody", "nobody@bookshop.example", verified);
    // Nobody is there to take letters, and the request says that we are somebody else.
    let ask = |shop: &Shop, name: &str, fields: &str| {
        let request = form_request("/forgot-password", &[("username", name)], fields);
        let request = request.replace("Host: localhost", "Host: evil.example");
        shop.ask_server(&request)
    };
    let forwarded = "X-Forwarded-Host: evil.example\r\nForwarded: host=evil.example\r\n";
    let (known, unknown) = (ask(&shop, "dora", forwarded), ask(&shop, "stranger", ""));
    assert_eq!((known.status, known.body), (200, unknown.body));
    let other_site = "Sec-Fetch-Site: cross-site\r\n";
    assert_eq!(ask(&shop, "dora", other_site).status, 403);
    assert_eq!(ask(&shop, "nobody", "").status, 200);
    eventually("that nobody is there is in the ledger", || {
        let failed = events(&shop.fleet, &["activity=mail.send", "outcome=failure"]);
        failed.contains("no connection to the mail server") && !failed.contains("@bookshop.example")
    });
    shop.fleet.process.signal("-KILL");
    let _ = shop.fleet.process.0.wait();
    let mailboxes = Mailboxes::open(port, "starttls", &files);
    shop.fleet = shop.fleet.folder.up();
    let letter = mailboxes.take("dora@bookshop.example", "Choose a new password");
    let issuer = shop.fleet.ready["server"].as_str().unwrap();
    assert!(
        link(&letter).starts_with(&format!("{issuer}/reset-password?code=")),
        "{letter:#}"
    );
    assert!(!letter.to_string().contains("evil.example"), "{letter:#}");
    eventually("that it was refused for good is in the ledger", || {
        events(&shop.fleet, &["activity=mail.send", "outcome=failure"]).contains("status 550")
    });
    let mut browser = Browser::new(&shop);
    let page = browser.get(link(&letter).strip_prefix(issuer).unwrap());
    assert_eq!(page.status, 200, "{page:?}");
    assert_eq!(page.header("referrer-policy"), Some("no-referrer"));
    assert!(mailboxes.letters().is_empty(), "one letter for one request");

    // Without the section no letters are sent, and pages say so.
    let file = shop.fleet.folder.fleet_file();
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace(&section(port, "starttls"), "")).unwrap();
    shop.fleet.folder.run(&["apply", "fleet.toml"]);
    assert_eq!(Browser::new(&shop).get("/forgot-password").status, 404);
    // Nor does a file that would send them in the clear become the fleet's.
    let open = section(port, "none").replace("\"localhost\"", "\"mail.example\"");
    fs::write(&file, fs::read_to_string(&file).unwrap() + &open).unwrap();
    let output = shop.fleet.folder.testudo(&["apply", "fleet.toml"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("in the clear"), "{errors}");
}
