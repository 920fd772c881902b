//! Shared signals, as receivers see them that nobody here wrote: Python's `requests` and `joserfc`, with every token verified
//! by the keys of the provider. `./test.sh` installs both; `TESTUDO_TEST_FAST=1` leaves these tests out.

mod attacks;
mod delivery;
mod management;

use std::{
    fs,
    io::{BufRead, BufReader, Lines, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    browser::form_request,
    fleet::{Process, repository},
    installed::tool,
    roles::eventually,
    shop::Shop,
    wire::Answer,
};

const SECRET: &str = "a secret of thirty-two bytes or more";
const LOCAL: &str = "allow_http = true\nallow_networks = [\"127.0.0.0/8\"]";

const SESSION_REVOKED: &str = "https://schemas.openid.net/secevent/caep/event-type/session-revoked";
const CREDENTIAL_CHANGE: &str =
    "https://schemas.openid.net/secevent/caep/event-type/credential-change";
const ACCOUNT_DISABLED: &str =
    "https://schemas.openid.net/secevent/risc/event-type/account-disabled";
const ACCOUNT_ENABLED: &str = "https://schemas.openid.net/secevent/risc/event-type/account-enabled";
const VERIFICATION: &str = "https://schemas.openid.net/secevent/ssf/event-type/verification";
const STREAM_UPDATED: &str = "https://schemas.openid.net/secevent/ssf/event-type/stream-updated";

const PUSH: &str = "urn:ietf:rfc:8935";
const POLL: &str = "urn:ietf:rfc:8936";

/// A shop with two receivers, `soc` (RS256) and `desk` (ES256, with an audience of its own), and `other`, who is none.
fn with_receivers(outbound: &str) -> Shop {
    let shop = Shop::open("");
    let folder = &shop.fleet.folder;
    fs::write(folder.path().join("passwords/receiver"), SECRET).unwrap();
    let account = |name: &str, more: &str| {
        format!(
            "\n[service_accounts.{name}]\nsecret = {{ file = \"passwords/receiver\" }}\n{more}\n"
        )
    };
    let accounts = [
        account("soc", "[service_accounts.soc.signals]"),
        account(
            "desk",
            "scopes = [\"orders:read\"]\n[service_accounts.desk.signals]\nsigned_response_alg = \"ES256\"\naudience = \"https://desk.example\"",
        ),
        account("other", "scopes = [\"ssf.manage\", \"ssf.read\"]"),
    ];
    let text = fs::read_to_string(folder.fleet_file()).unwrap() + &accounts.concat();
    // A client of people that may ask for these scopes too: that makes them no receivers.
    let text = text.replace(
        "[clients.web]",
        "[clients.web]\nscopes = [\"ssf.manage\", \"ssf.read\"]",
    );
    fs::write(
        folder.fleet_file(),
        format!("{text}\n[outbound]\n{outbound}\n"),
    )
    .unwrap();
    folder.run(&["apply", "fleet.toml"]);
    shop
}

fn issuer(shop: &Shop) -> String {
    shop.fleet.ready["server"].as_str().unwrap().to_owned()
}

/// An access token of a service account with this secret, at the issuer below `base`.
fn token_at(shop: &Shop, base: &str, account: &str, secret: &str, scope: &str) -> String {
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", account),
        ("client_secret", secret),
        ("scope", scope),
    ];
    let form = match scope {
        "" => &form[..3],
        _ => &form[..],
    };
    let answer = shop.ask_server(&form_request(&format!("{base}/oauth2/token"), form, ""));
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["access_token"].as_str().unwrap().to_owned()
}

fn token(shop: &Shop, account: &str) -> String {
    token_at(shop, "", account, SECRET, "")
}

/// A request of a receiver.
fn ask(shop: &Shop, token: &str, method: &str, path: &str, body: &Value) -> Answer {
    let body = match body {
        Value::Null => String::new(),
        body => body.to_string(),
    };
    shop.ask_server(&format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ))
}

/// Makes a stream; its configuration.
fn stream(shop: &Shop, token: &str, wishes: &Value) -> Value {
    let answer = ask(shop, token, "POST", "/ssf/streams", wishes);
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.json()
}

fn id_of(stream: &Value) -> &str {
    stream["stream_id"].as_str().unwrap()
}

fn user_id(shop: &Shop, username: &str) -> String {
    let shown = shop
        .fleet
        .folder
        .run(&["user", "show", username, "--output", "json"]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    shown["id"].as_str().unwrap().to_owned()
}

/// Gives a user another password, as an administrator.
fn set_password(shop: &Shop, username: &str, password: &str) {
    let folder = &shop.fleet.folder;
    let mut child = folder
        .command(&["user", "password", username])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(password.as_bytes()).unwrap();
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

/// What happened, in the one event of a token.
fn event_of<'c>(claims: &'c Value, kind: &str) -> Option<&'c Value> {
    claims["events"].get(kind)
}

fn start(arguments: &[&str], shop: &Shop) -> (Process, ChildStdin, Lines<BufReader<ChildStdout>>) {
    let script = repository().join("crates/testudo/tests/it/signals/receiver.py");
    let ca = shop.fleet.folder.data().join("ca.pem");
    let [mode, issuer, more @ ..] = arguments else {
        panic!("a mode and an issuer");
    };
    let mut child: Child = Command::new(tool(&[".tools/venv/bin/python"]))
        .arg(script)
        .args([mode, issuer])
        .arg(ca)
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdin = child.stdin.take().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (Process(child), stdin, lines)
}

/// A receiver that is pushed to, and what it got.
struct Pushed {
    _process: Process,
    stdin: ChildStdin,
    port: u16,
    told: Arc<Mutex<Vec<Value>>>,
    answers: mpsc::Receiver<Value>,
}

impl Pushed {
    fn start(shop: &Shop, issuer: &str, audience: &str, algorithm: &str) -> Self {
        let (process, stdin, mut lines) = start(&["push", issuer, audience, algorithm], shop);
        let ready: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        let told: Arc<Mutex<Vec<Value>>> = Arc::default();
        let kept = Arc::clone(&told);
        let (heard, answers) = mpsc::channel();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let line: Value = serde_json::from_str(&line).unwrap();
                if line.get("answers").is_some() {
                    let _ = heard.send(line);
                } else {
                    kept.lock().unwrap().push(line);
                }
            }
        });
        Self {
            _process: process,
            stdin,
            port: ready["port"].as_u64().unwrap().try_into().unwrap(),
            told,
            answers,
        }
    }

    /// Answers with this status from now on.
    fn answer(&mut self, status: u16) {
        writeln!(self.stdin, "{status}").unwrap();
        self.stdin.flush().unwrap();
        self.answers.recv_timeout(Duration::from_secs(10)).unwrap();
    }

    fn delivery(&self) -> Value {
        json!({
            "method": PUSH,
            "endpoint_url": format!("http://127.0.0.1:{}/events", self.port),
            "authorization_header": "Bearer of good news",
        })
    }

    /// The claims of all tokens it took.
    fn claims(&self) -> Vec<Value> {
        let told = self.told.lock().unwrap();
        let taken = told.iter().filter(|line| line.get("claims").is_some());
        taken.map(|line| line["claims"].clone()).collect()
    }

    fn refused(&self) -> usize {
        let told = self.told.lock().unwrap();
        told.iter()
            .filter(|line| line.get("refused").is_some())
            .count()
    }

    /// Waits for a token with such an event.
    fn wait(&self, kind: &str, matches: impl Fn(&Value) -> bool) -> Value {
        let mut found = None;
        eventually(kind, || {
            let claims = self.claims();
            let mut events = claims
                .iter()
                .filter(|claims| event_of(claims, kind).is_some());
            found = events.find(|claims| matches(claims)).cloned();
            found.is_some()
        });
        found.unwrap()
    }
}

/// A receiver that polls.
struct Polling {
    _process: Process,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Polling {
    fn start(shop: &Shop, issuer: &str, audience: &str, algorithm: &str, stream: &Value) -> Self {
        assert_eq!(stream["delivery"]["method"], POLL);
        let endpoint = stream["delivery"]["endpoint_url"].as_str().unwrap();
        let (process, stdin, lines) = start(&["poll", issuer, audience, algorithm, endpoint], shop);
        Self {
            _process: process,
            stdin,
            lines,
        }
    }

    fn ask(&mut self, token: &str, body: &Value) {
        writeln!(self.stdin, "{token} {body}").unwrap();
        self.stdin.flush().unwrap();
    }

    fn answer(&mut self) -> Value {
        serde_json::from_str(&self.lines.next().unwrap().unwrap()).unwrap()
    }

    /// One poll; what came.
    fn poll(&mut self, token: &str, body: &Value) -> Value {
        self.ask(token, body);
        let answer = self.answer();
        assert_eq!(answer["status"], 200, "{answer}");
        answer
    }

    /// Fetches and acknowledges until nothing is left; the claims by `jti`.
    fn drain(&mut self, token: &str) -> Vec<Value> {
        let mut all = Vec::new();
        let mut acknowledged: Vec<String> = Vec::new();
        loop {
            let body = json!({ "returnImmediately": true, "ack": acknowledged });
            let answer = self.poll(token, &body);
            let sets = answer["sets"].as_object().unwrap();
            if sets.is_empty() {
                return all;
            }
            acknowledged = sets.keys().cloned().collect();
            all.extend(sets.values().cloned());
        }
    }
}
