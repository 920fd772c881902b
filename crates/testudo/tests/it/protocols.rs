//! WebSocket, gRPC and server-sent events through the whole chain, with servers and clients that nobody adapted: the
//! Python packages `websockets` and `grpcio`. `./test.sh` installs them; `TESTUDO_TEST_FAST=1` leaves these tests out.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    fleet::{Fleet, Folder, Process, free_ports, repository},
    installed::{left_out, tool},
    wire,
};

const FLEET: &str = r#"
trust_domain = "protocols.example"
public_names = ["localhost"]
roles = ["testudo-admin"]

[services.chat]
upstream = "127.0.0.1:{chat}"
exposure = "external"
run = { command = ["{python}", "{services}", "websocket", "{chat}"] }

[[services.chat.routes]]
operation = "chat.live"
match = "GET /live"
websocket = true
timeout = "2s"

[[services.chat.routes]]
operation = "chat.history"
match = "GET /history"

[services.rooms]
upstream = "127.0.0.1:{rooms}"
run = { command = ["{python}", "{services}", "websocket", "{rooms}"] }

[[services.rooms.routes]]
operation = "rooms.live"
match = "GET /live"
websocket = true

[[services.rooms.routes]]
operation = "rooms.secret"
match = "GET /secret"
websocket = true

[services.echo]
upstream = "127.0.0.1:{echo}"
protocol = "h2c"
exposure = "external"
run = { command = ["{python}", "{services}", "grpc", "{echo}"] }

[[services.echo.routes]]
operation = "echo"
match = "POST /test.Echo/{method}"
action = "read"
timeout = "5s"

[services.depth]
upstream = "127.0.0.1:{depth}"
protocol = "h2c"
run = { command = ["{python}", "{services}", "grpc", "{depth}"] }

[[services.depth.routes]]
operation = "depth"
match = "POST /test.Echo/{method}"
action = "read"

[services.news]
upstream = "127.0.0.1:{news}"
exposure = "external"
run = { command = ["{python}", "{services}", "events", "{news}"] }

[[services.news.routes]]
operation = "news.events"
match = "GET /events"
timeout = "1s"

[[services.news.routes]]
operation = "news.listeners"
match = "GET /listeners"
user = "none"

[groups]
people = []

[users.alice]
groups = ["people"]
password = { file = "passwords/alice" }

[users.bob]
password = { file = "passwords/bob" }
"#;

const POLICIES: &str = r#"
@id("people-look")
@reason("people read everything")
permit (principal in Fleet::Group::"people", action == Fleet::Action::"read", resource);

@id("chat-enters-rooms")
@reason("the chat has rooms, but not the secret one")
permit (
  principal == Fleet::Service::"chat",
  action in [Fleet::Action::"connect", Fleet::Action::"invoke"],
  resource in Fleet::Api::"rooms"
) unless { resource == Fleet::Route::"rooms:rooms.secret" };

@id("echo-asks-depth")
@reason("an echo has depth")
permit (
  principal == Fleet::Service::"echo",
  action in [Fleet::Action::"connect", Fleet::Action::"invoke"],
  resource in Fleet::Api::"depth"
);
"#;

fn python() -> String {
    tool(&[".tools/venv/bin/python"])
}

fn script(name: &str) -> String {
    let path = repository()
        .join("crates/testudo/tests/it/protocols")
        .join(name);
    path.display().to_string()
}

fn open_fleet() -> Fleet {
    let folder = Folder::empty();
    let mut text = FLEET
        .replace("{python}", &python())
        .replace("{services}", &script("services.py"));
    for (name, port) in ["chat", "rooms", "echo", "depth", "news"]
        .iter()
        .zip(free_ports::<5>())
    {
        text = text.replace(&format!("{{{name}}}"), &port.to_string());
    }
    fs::write(folder.fleet_file(), text).unwrap();
    fs::create_dir(folder.path().join("policies")).unwrap();
    fs::write(folder.path().join("policies/fleet.cedar"), POLICIES).unwrap();
    fs::create_dir(folder.path().join("passwords")).unwrap();
    for name in ["alice", "bob"] {
        let password = format!("correct horse of {name}\n");
        fs::write(folder.path().join("passwords").join(name), password).unwrap();
    }
    folder.up()
}

fn token(fleet: &Fleet, username: &str) -> String {
    fleet.token_with_scope(username, "openid profile")
}

/// A client at work, and what it says.
struct Client {
    process: Process,
    lines: BufReader<ChildStdout>,
}

impl Client {
    fn start(fleet: &Fleet, kind: &str, token: Option<&str>, steps: &[&str]) -> Self {
        let gateway = format!("localhost:{}", fleet.address("/gateway").port());
        let ca = fleet
            .folder
            .path()
            .join(fleet.ready["ca"].as_str().unwrap());
        let mut child: Child = Command::new(python())
            .arg(script("clients.py"))
            .args([
                kind,
                &gateway,
                &ca.display().to_string(),
                token.unwrap_or(""),
            ])
            .args(steps)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self {
            process: Process(child),
            lines,
        }
    }

    fn next(&mut self) -> Option<Value> {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).ok()
    }

    fn all(mut self) -> Vec<Value> {
        let said = std::iter::from_fn(|| self.next()).collect();
        assert!(self.process.0.wait().unwrap().success(), "{said:?}");
        said
    }
}

/// The end of a stream in the ledger, which may take the time of a block.
fn end_of_stream(fleet: &Fleet, activity: &str, reason: &str) {
    let activity = format!("activity=stream.close.{activity}");
    let until = Instant::now() + Duration::from_secs(20);
    let mut found = String::new();
    while Instant::now() < until {
        let arguments = ["audit", "search", &activity, "--output", "json"];
        found = fleet.folder.run(&arguments);
        if found.contains(&format!(r#""reason":"{reason}""#)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    panic!("no {activity} with {reason}: {found}");
}

#[test]
fn a_websocket_is_what_its_two_ends_agreed_on() {
    if left_out() {
        return;
    }
    let fleet = open_fleet();
    let alice = token(&fleet, "alice");
    let steps = [
        "/live",
        "hello",
        "large",
        "ask ws://rooms/live",
        "ask ws://rooms/secret",
        "close",
    ];
    let said = Client::start(&fleet, "websocket", Some(&alice), &steps).all();
    let opened = json!({ "path": "/live", "user": "alice", "caller": "gateway", "authorization": null,
        "subprotocol": "chat.v2", "extensions": ["permessage-deflate"], "seen": 1 });
    assert_eq!(said[0]["opened"], opened);
    assert_eq!(said[0]["subprotocol"], "chat.v2");
    assert_eq!(said[1]["heard"], "hello");
    assert_eq!(said[2]["same"], true);
    // The chat opens another one, through both sidecars, for the same user.
    let room: Value = serde_json::from_str(said[3]["heard"].as_str().unwrap()).unwrap();
    assert_eq!(
        (&room["user"], &room["caller"]),
        (&json!("alice"), &json!("chat")),
        "{room}"
    );
    let secret = said[4]["heard"].as_str().unwrap();
    assert!(secret.contains("403"), "{secret}");
    assert_eq!(
        (&said[5]["closed"], &said[5]["reason"]),
        (&json!(4000), &json!("as you wish"))
    );
    for hop in ["gateway", "inbound", "outbound"] {
        end_of_stream(&fleet, hop, "closed");
    }

    let bob = token(&fleet, "bob");
    for (path, token, status, code) in [
        ("/live", None, 401, "policy.user_required"),
        ("/live", Some(&*bob), 403, "policy.user_leg_denied"),
        ("/history", Some(&*alice), 501, "route.websocket"),
    ] {
        let said = Client::start(&fleet, "websocket", token, &[path]).all();
        assert_eq!(said, [json!({ "refused": status, "code": code })], "{path}");
    }
    let said = Client::start(&fleet, "websocket", Some(&alice), &["/live"]).all();
    assert_eq!(
        said[0]["opened"]["seen"], 2,
        "nothing came that was refused"
    );
}

#[test]
fn an_open_websocket_ends_with_the_user_or_the_rule_that_allowed_it() {
    if left_out() {
        return;
    }
    let fleet = open_fleet();
    let alice = token(&fleet, "alice");
    let waits = || {
        let mut client = Client::start(&fleet, "websocket", Some(&alice), &["/live", "wait"]);
        assert_eq!(client.next().unwrap()["opened"]["user"], "alice");
        client
    };
    // Whichever hop hears of it first says why; for the others the stream was closed.
    // Longer than the deadline of the route, with nothing going on.
    let mut client = waits();
    std::thread::sleep(Duration::from_secs(3));
    assert!(client.process.0.try_wait().unwrap().is_none());
    let policies = fleet.folder.path().join("policies/fleet.cedar");
    let kept = fs::read_to_string(&policies).unwrap();
    fs::write(&policies, kept.replace("\"read\"", "\"write\"")).unwrap();
    fleet.folder.run(&["apply", "fleet.toml"]);
    assert_eq!(client.next().unwrap()["ended"], true);
    end_of_stream(&fleet, "*", "policy.user_leg_denied");

    fs::write(&policies, kept).unwrap();
    fleet.folder.run(&["apply", "fleet.toml"]);
    let mut client = waits();
    let sessions = fleet
        .folder
        .run(&["session", "list", "alice", "--output", "json"]);
    let sessions: Value = serde_json::from_str(&sessions).unwrap();
    let session = sessions[0]["id"].as_str().unwrap();
    fleet.folder.run(&["session", "revoke", session]);
    assert_eq!(client.next().unwrap()["ended"], true);
    end_of_stream(&fleet, "*", "user_revoked");
}

#[test]
fn grpc_works_for_a_client_and_a_server_that_know_nothing_of_it() {
    if left_out() {
        return;
    }
    let fleet = open_fleet();
    let (alice, bob) = (token(&fleet, "alice"), token(&fleet, "bob"));
    let steps = [
        "Unary hello",
        "ClientStream one two three",
        "ServerStream 4",
        "Both one two three",
        "Unary ask depth:80",
        "Unary fail",
        "Slow 100",
    ];
    let said = Client::start(&fleet, "grpc", Some(&alice), &steps).all();
    for (said, answers) in said.iter().zip([
        &["hello for alice"][..],
        &["one two three"],
        &["0", "1", "2", "3"],
        &["one", "two", "three"],
        // A call of one service to another, for the same user.
        &["hello for alice"],
    ]) {
        assert_eq!(said["answers"], json!(answers), "{said}");
        assert_eq!(said["user"], "alice", "trailers come back");
    }
    // The service's own failure is its own.
    assert_eq!(said[5]["status"], "FAILED_PRECONDITION");
    assert_eq!(said[5]["details"], "as you wish: 100 %");
    assert_eq!(said[6]["status"], "DEADLINE_EXCEEDED");

    for (token, status, code, decided) in [
        (None, "UNAUTHENTICATED", "policy.user_required", true),
        (
            Some("nonsense"),
            "UNAUTHENTICATED",
            "token.untrusted",
            false,
        ),
        (
            Some(&*bob),
            "PERMISSION_DENIED",
            "policy.user_leg_denied",
            true,
        ),
    ] {
        let said = Client::start(&fleet, "grpc", token, &["Unary hello"]).all();
        assert_eq!(said[0]["status"], status, "{said:?}");
        assert!(said[0]["details"].as_str().unwrap().starts_with(code));
        assert_eq!(said[0]["decided"], decided);
    }
}

#[test]
fn events_come_as_they_happen_until_nobody_listens() {
    if left_out() {
        return;
    }
    let fleet = open_fleet();
    let alice = token(&fleet, "alice");
    let listeners = || fleet.call("GET", "/listeners", None, "").body;
    let mut stream =
        wire::connect_tls(fleet.address("/gateway"), "localhost", &fleet.tls()).unwrap();
    let head =
        format!("GET /events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {alice}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let since = Instant::now();
    let (mut heard, mut bytes) = (String::new(), [0; 1024]);
    // Whichever hop hears of it first says why; for the others the stream was closed.
    // Longer than the deadline of the route, 1 s.
    while !heard.contains("id: 9") {
        let count = stream.read(&mut bytes).unwrap();
        assert_ne!(count, 0, "{heard}");
        heard.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
        let expected = since.elapsed().as_millis() / 200 + 2;
        assert!(heard.matches("data: alice").count() as u128 <= expected);
    }
    assert!(
        since.elapsed() < Duration::from_secs(6),
        "they are not held back"
    );
    assert_eq!(listeners(), "1");
    drop(stream);
    let gone = Instant::now();
    while listeners() != "0" {
        assert!(
            gone.elapsed() < Duration::from_secs(2),
            "it is still sent to"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}
