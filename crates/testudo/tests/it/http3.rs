//! HTTP/3 at the gateway with a client that nobody adapted: the Python package `aioquic`. `./test.sh` installs it;
//! `TESTUDO_TEST_FAST=1` leaves these tests out.

use std::{
    io::{BufRead, BufReader, Write},
    process::{ChildStdin, ChildStdout, Command, Stdio},
};

use serde_json::{Value, json};

use crate::{
    fleet::{Process, repository},
    installed::{left_out, tool},
    roles::Apart,
};

const NO_ERROR: u64 = 0x100;

struct Client {
    _process: Process,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Client {
    fn start(apart: &Apart) -> Self {
        let script = repository().join("crates/testudo/tests/it/http3/client.py");
        let port = apart.fleet.address("/gateway").port().to_string();
        let mut child = Command::new(tool(&[".tools/venv/bin/python"]))
            .arg(script)
            .args(["localhost", &port])
            .arg(apart.fleet.folder.data().join("ca.pem"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut client = Self {
            _process: Process(child),
            input,
            output: BufReader::new(output),
        };
        client.connect();
        client
    }

    fn say(&mut self, what: &Value) {
        writeln!(self.input, "{what}").unwrap();
    }

    fn hear(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("the client has failed: {line:?}"))
    }

    /// From here on over a new connection.
    fn connect(&mut self) {
        self.say(&json!({ "connect": true }));
    }

    fn ask(&mut self, requests: Value) -> Vec<Value> {
        self.say(&json!({ "requests": requests }));
        self.hear().as_array().unwrap().clone()
    }
}

fn serving() -> Apart {
    let mut apart = Apart::bookshop();
    apart
        .gateway
        .restart_with(&apart.fleet.folder, &["--http3"]);
    apart
}

#[test]
fn a_client_of_another_make_is_served_over_http3_as_over_tcp() {
    if left_out() {
        return;
    }
    let apart = serving();
    let over_tcp = apart.fleet.call("GET", "/books/1", None, "");
    let port = apart.fleet.address("/gateway").port();
    let expected = format!("h3=\":{port}\"; ma=86400");
    assert_eq!(over_tcp.header("alt-svc"), Some(&expected[..]));

    let mut client = Client::start(&apart);
    let bearer = |user| {
        json!({ "authorization": format!("Bearer {}", apart.fleet.token(user)),
        "content-type": "application/json" })
    };
    let order = |headers: Value| {
        json!({ "method": "POST", "path": "/orders", "headers": headers,
        "body": r#"{"book":"1"}"# })
    };
    let answers = client.ask(json!([
        { "path": "/books/1" },
        { "path": "/nowhere" },
        { "path": "/books/../admin" },
        order(json!({})),
        order(bearer("alice")),
    ]));
    let statuses: Vec<_> = answers
        .iter()
        .map(|answer| answer["headers"][":status"].as_str().unwrap())
        .collect();
    let ordered = apart.fleet.call(
        "POST",
        "/orders",
        Some(&apart.fleet.token("alice")),
        r#"{"book":"1"}"#,
    );
    let ordered = ordered.status.to_string();
    assert_eq!(statuses, ["200", "404", "400", "401", &ordered]);
    let book: Value = serde_json::from_str(answers[0]["body"].as_str().unwrap()).unwrap();
    assert_eq!(book, over_tcp.json());
    assert!(
        answers
            .iter()
            .all(|answer| answer["headers"]["date"].is_string())
    );
    assert_eq!(answers[3]["headers"]["www-authenticate"], "Bearer");

    // More at once than a connection may have.
    let many = vec![json!({ "path": "/nowhere" }); 300];
    let answers = client.ask(many.into());
    let missing = |answer: &Value| answer["headers"][":status"] == "404";
    assert!(answers.len() == 300 && answers.iter().all(missing));
}

#[test]
fn an_upgrade_closes_http3_connections_in_order_and_the_new_process_takes_new_ones() {
    if left_out() {
        return;
    }
    let mut apart = serving();
    let mut client = Client::start(&apart);
    let book = json!([{ "path": "/books/1" }]);
    let before = client.ask(book.clone());
    assert_eq!(before[0]["headers"][":status"], "200");
    apart.gateway.upgrade(&apart.fleet.folder);
    client.say(&json!({ "wait": "closed" }));
    assert_eq!(client.hear()["closed"], NO_ERROR);
    client.connect();
    assert_eq!(client.ask(book)[0]["body"], before[0]["body"]);
}
