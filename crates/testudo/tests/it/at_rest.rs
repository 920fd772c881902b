//! What a thief of the disk reads: nothing. After real use the data folder of the control plane and the state of
//! every proxy are searched for everything that went in, plain and encoded, while the fleet runs and after it.
//!
//! The exceptions are for others to read: `ca.pem`, which browsers and `curl` need.

use std::{
    collections::{BTreeSet, HashMap},
    fmt::Write as _,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Stdio,
};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};

use crate::{
    fleet::{Fleet, Folder},
    roles::{Apart, eventually},
};

/// Files that are meant to be read.
const PUBLIC: [&str; 1] = ["ca.pem"];
/// Shorter words turn up in sealed bytes by chance.
const SHORTEST_NEEDLE: usize = 6;
/// The same for a part of a word in base64: 48 bits.
const SHORTEST_BASE64: usize = 8;

/// Something that went in.
struct Needle {
    what: String,
    forms: Vec<Vec<u8>>,
}

impl Needle {
    fn new(what: &str, text: &str) -> Self {
        assert!(
            text.len() >= SHORTEST_NEEDLE,
            "{what} is too short to look for"
        );
        Self {
            what: format!("{what} {text:?}"),
            forms: forms(text.as_bytes()),
        }
    }
}

/// `plain` itself, in hex, in UTF-16, and in base64 at each of the three places in its groups of bytes.
fn forms(plain: &[u8]) -> Vec<Vec<u8>> {
    let hex = plain.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    });
    let utf16 = plain.iter().flat_map(|byte| [*byte, 0]).collect();
    let mut forms = vec![
        plain.to_vec(),
        hex.to_uppercase().into_bytes(),
        hex.into_bytes(),
        utf16,
    ];
    for shift in 0..3 {
        // The first and last characters also hold bits of the neighbours.
        let encoded = STANDARD_NO_PAD.encode([vec![0; shift], plain.to_vec()].concat());
        let first = (shift * 8).div_ceil(6);
        let last = (shift + plain.len()) * 8 / 6;
        let inner = &encoded[first..last];
        if inner.len() >= SHORTEST_BASE64 {
            forms.push(inner.as_bytes().to_vec());
            forms.push(inner.replace('+', "-").replace('/', "_").into_bytes());
        }
    }
    forms
}

/// All forms of all needles by their first bytes, to look for them in one pass.
struct Index<'a>(HashMap<[u8; 4], Vec<(&'a str, &'a [u8])>>);

impl<'a> Index<'a> {
    fn of(needles: &'a [Needle]) -> Self {
        let mut index: HashMap<_, Vec<_>> = HashMap::new();
        for needle in needles {
            for form in &needle.forms {
                let first = form[..4].try_into().unwrap();
                index
                    .entry(first)
                    .or_default()
                    .push((needle.what.as_str(), form.as_slice()));
            }
        }
        Self(index)
    }

    /// What is in `haystack`.
    fn search(&self, haystack: &[u8]) -> BTreeSet<&'a str> {
        let mut found = BTreeSet::new();
        for (at, first) in haystack.windows(4).enumerate() {
            for (what, form) in self.0.get(first).into_iter().flatten() {
                if haystack[at..].starts_with(form) {
                    found.insert(*what);
                }
            }
        }
        found
    }
}

/// Every file below `folders` that is not meant to be read, with what is in it.
fn files(folders: &[PathBuf]) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = folders.to_vec();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() && !PUBLIC.iter().any(|name| path.ends_with(name)) {
                // A file may go between the listing and the reading: spool segments do.
                if let Ok(bytes) = fs::read(&path) {
                    found.push((path, bytes));
                }
            }
        }
    }
    found
}

/// What is found, as `file: needle`.
fn search(folders: &[PathBuf], needles: &[Needle]) -> Vec<String> {
    let index = Index::of(needles);
    let mut found = Vec::new();
    for (path, bytes) in files(folders) {
        let inside = index.search(&bytes).into_iter();
        found.extend(inside.map(|what| format!("{}: {what}", path.display())));
    }
    found
}

/// A bookshop whose people have names that do not turn up by chance.
fn bookshop() -> Folder {
    let folder = Folder::bookshop();
    for (short, long) in NAMES {
        fs::rename(
            folder.path().join("passwords").join(short),
            folder.path().join("passwords").join(long),
        )
        .unwrap();
    }
    let mut texts = vec![folder.fleet_file()];
    texts.extend(
        fs::read_dir(folder.path().join("policies"))
            .unwrap()
            .map(|entry| entry.unwrap().path()),
    );
    for path in texts {
        let mut text = fs::read_to_string(&path).unwrap();
        for (short, long) in NAMES {
            text = text
                .replace(&format!("users.{short}]"), &format!("users.{long}]"))
                .replace(
                    &format!("passwords/{short}\""),
                    &format!("passwords/{long}\""),
                )
                .replace(
                    &format!("user = \"{short}\""),
                    &format!("user = \"{long}\""),
                );
        }
        fs::write(path, text).unwrap();
    }
    folder
}

const NAMES: [(&str, &str); 3] = [
    ("alice", "alice-liddell"),
    ("bob", "robert-cratchit"),
    ("carol", "carol-kennicott"),
];

/// Everything a fleet is used for; what went in.
fn use_it(fleet: &Fleet) -> Vec<Needle> {
    let mut needles = Vec::new();
    let mut add = |what: &str, text: &str| needles.push(Needle::new(what, text));
    for (short, name) in NAMES {
        add("user name", name);
        add("mail address", &format!("{short}@bookshop.example"));
        let password =
            fs::read_to_string(fleet.folder.path().join("passwords").join(name)).unwrap();
        add("password", password.trim());
    }
    let alice = fleet.token("alice-liddell");
    let bob = fleet.token("robert-cratchit");
    for token in [&alice, &bob] {
        for part in token.split('.') {
            add("access token", part);
        }
    }
    for (what, text) in refresh_tokens(fleet) {
        add(&what, &text);
    }
    let calls = [
        ("POST", "/orders", Some(&alice), r#"{"book":"1"}"#, 201),
        ("POST", "/orders", Some(&bob), r#"{"book":"1"}"#, 403),
        ("GET", "/orders/very-secret-order", Some(&alice), "", 404),
        ("GET", "/books/the-forbidden-book/stock", None, "", 401),
        ("GET", "/no-such-place/at-all", Some(&alice), "", 404),
    ];
    for (method, path, token, body, status) in calls {
        let answer = fleet.call(method, path, token.map(String::as_str), body);
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
    }
    for path in [
        "very-secret-order",
        "the-forbidden-book",
        "no-such-place",
        "/orders",
        "/books",
    ] {
        add("path", path);
    }
    wrong_password(fleet, "a wrong password that somebody typed");
    add("password", "a wrong password that somebody typed");
    for name in [
        "catalog",
        "orders",
        "inventory",
        "orders.create",
        "inventory.reserve",
    ] {
        add("service or operation", name);
    }
    for text in [
        "customers-order",
        "Fleet::Group",
        "customers see books",
        "forbid (",
        "permit (",
    ] {
        add("policy", text);
    }
    for text in [
        "stock-admin",
        "staff-readers",
        "customers",
        "127.0.0.1",
        "bookshop.example",
    ] {
        add("setting", text);
    }
    for secret in shown_secrets(fleet) {
        add("client secret", &secret);
    }
    // A change is use as well.
    fleet.folder.edit("sensitivity = 30", "sensitivity = 31");
    fleet.folder.run(&["apply", "fleet.toml"]);
    fleet.folder.run(&["key", "rotate"]);
    eventually("the refused call is in the ledger", || {
        fleet
            .folder
            .run(&["audit", "search", "reason=policy.user_leg_denied"])
            .contains("orders.create")
    });
    needles
}

fn refresh_tokens(fleet: &Fleet) -> Vec<(String, String)> {
    let folders = fs::read_dir(fleet.folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let logins = folders
        .map(|folder| folder.join("login.json"))
        .filter(|login| login.exists());
    let mut tokens = Vec::new();
    for login in logins {
        let login: serde_json::Value = serde_json::from_slice(&fs::read(login).unwrap()).unwrap();
        for kind in ["refresh_token", "id_token"] {
            if let Some(token) = login["tokens"][kind].as_str() {
                tokens.push((kind.to_owned(), token.to_owned()));
            }
        }
    }
    tokens
}

fn wrong_password(fleet: &Fleet, password: &str) {
    let mut login = fleet
        .folder
        .command(&["login", "--username", "alice-liddell"])
        .env("TESTUDO_HOME", fleet.folder.path().join("home"))
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    writeln!(login.stdin.take().unwrap(), "{password}").unwrap();
    assert!(!login.wait().unwrap().success());
}

/// Secrets that the start has shown once.
fn shown_secrets(fleet: &Fleet) -> Vec<String> {
    let mut secrets = Vec::new();
    for log in ["log", "server.log"] {
        let text = fs::read_to_string(fleet.folder.path().join(log)).unwrap_or_default();
        let shown = text.lines().filter(|line| line.contains("(shown once)"));
        secrets.extend(shown.filter_map(|line| Some(line.rsplit_once(": ")?.1.trim().to_owned())));
    }
    assert!(
        !secrets.is_empty(),
        "the service account's secret was shown"
    );
    secrets
}

/// The search finds what is there: a needle in each of its forms.
fn the_search_is_not_blind(folder: &Path, needles: &[Needle]) {
    let planted = folder.join("planted");
    for needle in needles {
        for form in &needle.forms {
            fs::write(
                &planted,
                [b"\0\xff before".as_slice(), form, b"after \x80"].concat(),
            )
            .unwrap();
            let found = search(&[folder.to_owned()], std::slice::from_ref(needle));
            assert!(!found.is_empty(), "{} is not found in a form", needle.what);
        }
    }
    fs::remove_file(planted).unwrap();
}

#[test]
fn nothing_that_went_into_a_fleet_can_be_read_from_its_folder() {
    let mut fleet = bookshop().up();
    let needles = use_it(&fleet);
    let folders = [fleet.folder.data()];
    assert_eq!(
        search(&folders, &needles),
        Vec::<String>::new(),
        "while it runs"
    );
    assert_eq!(fleet.process.stop(), Some(0));
    assert!(files(&folders).len() > 5, "the folders hold something");
    assert_eq!(search(&folders, &needles), Vec::<String>::new(), "after it");
    the_search_is_not_blind(&fleet.folder.path().join("home"), &needles);
}

#[test]
fn nothing_that_went_through_a_proxy_can_be_read_from_its_state() {
    let mut apart = Apart::of(bookshop());
    let needles = use_it(&apart.fleet);
    // Events that wait: the control plane is away.
    apart.fleet.process.signal("-KILL");
    let _ = apart
        .fleet
        .call("GET", "/orders/very-secret-order", None, "");
    std::thread::sleep(std::time::Duration::from_secs(1));
    let folders = [
        apart.fleet.folder.data(),
        apart.fleet.folder.path().join("proxies"),
    ];
    assert_eq!(
        search(&folders, &needles),
        Vec::<String>::new(),
        "while it runs"
    );
    for proxy in apart.proxies() {
        proxy.process.stop();
    }
    assert_eq!(search(&folders, &needles), Vec::<String>::new(), "after it");
}
