//! Services that nobody adapted, behind Testudo: httpbin (Python), json-server (Node.js) and Debian's nginx.
//! `./test.sh` installs them; `TESTUDO_TEST_FAST=1` leaves these tests out.

use std::{
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use crate::{
    fleet::{Fleet, Folder, free_ports},
    installed::{left_out, tool},
    wire,
};

const MEGABYTE: usize = 1024 * 1024;

/// A fleet of one service: anybody may read, people may write.
fn fleet_of(command: impl FnOnce(&Path, u16) -> Vec<String>) -> Fleet {
    let folder = Folder::empty();
    let [port] = free_ports();
    let command = command(folder.path(), port);
    let fleet = format!(
        r#"
trust_domain = "third-party.example"
public_names = ["localhost"]

[services.app]
upstream = "127.0.0.1:{port}"
exposure = "external"
run = {{ command = {command:?} }}

[[services.app.routes]]
operation = "home"
match = "GET /"
user = "none"

[[services.app.routes]]
operation = "read"
match = "GET,OPTIONS /{{*rest}}"
user = "none"

[[services.app.routes]]
operation = "write"
match = "POST,PUT,PATCH,DELETE /{{*rest}}"

[groups]
people = []

[users.alice]
groups = ["people"]
password = {{ file = "passwords/alice" }}

[users.bob]
password = {{ file = "passwords/bob" }}
"#
    );
    fs::write(folder.fleet_file(), fleet).unwrap();
    for name in ["alice", "bob"] {
        fs::create_dir_all(folder.path().join("passwords")).unwrap();
        fs::write(
            folder.path().join("passwords").join(name),
            format!("correct horse of {name}\n"),
        )
        .unwrap();
    }
    fs::create_dir(folder.path().join("policies")).unwrap();
    let policy = r#"
@id("people-write")
@reason("people change things")
permit (
  principal in Fleet::Group::"people",
  action == Fleet::Action::"write",
  resource in Fleet::Api::"app"
);
"#;
    fs::write(folder.path().join("policies/app.cedar"), policy).unwrap();
    folder.up()
}

fn token(fleet: &Fleet, username: &str) -> String {
    fleet.token_with_scope(username, "openid profile")
}

/// One connection to the gateway, used again and again.
struct Connection<S>(S);

/// An answer as bytes.
struct Reply {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Reply {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers(name).next()
    }

    fn headers(&self, name: &str) -> impl Iterator<Item = &str> {
        self.head.lines().skip(1).filter_map(move |line| {
            let (field, value) = line.split_once(':')?;
            field.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }
}

fn connect(fleet: &Fleet) -> Connection<impl Read + Write + use<>> {
    Connection(wire::connect_tls(fleet.address("/gateway"), "localhost", &fleet.tls()).unwrap())
}

impl<S: Read + Write> Connection<S> {
    fn get(&mut self, path: &str) -> Reply {
        self.send("GET", path, &[], b"")
    }

    fn send(&mut self, method: &str, path: &str, fields: &[(&str, &str)], body: &[u8]) -> Reply {
        let length = body.len().to_string();
        let mut fields = fields.to_vec();
        if !body.is_empty() {
            fields.push(("Content-Length", &length));
        }
        self.write(method, path, &fields);
        self.0.write_all(body).unwrap();
        self.0.flush().unwrap();
        self.read(method)
    }

    /// Sends `chunks` with `Transfer-Encoding: chunked`.
    fn send_chunked(&mut self, path: &str, fields: &[(&str, &str)], chunks: &[&[u8]]) -> Reply {
        let mut fields = fields.to_vec();
        fields.push(("Transfer-Encoding", "chunked"));
        self.write("POST", path, &fields);
        for chunk in chunks {
            write!(self.0, "{:x}\r\n", chunk.len()).unwrap();
            self.0.write_all(chunk).unwrap();
            self.0.write_all(b"\r\n").unwrap();
            self.0.flush().unwrap();
        }
        self.0.write_all(b"0\r\n\r\n").unwrap();
        self.0.flush().unwrap();
        self.read("POST")
    }

    fn write(&mut self, method: &str, path: &str, fields: &[(&str, &str)]) {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n");
        for (name, value) in fields {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        self.0.write_all(head.as_bytes()).unwrap();
    }

    fn read(&mut self, method: &str) -> Reply {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.byte());
        }
        let head = String::from_utf8(head).unwrap();
        let status: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut reply = Reply {
            status,
            head,
            body: Vec::new(),
        };
        if method == "HEAD" || matches!(status, 204 | 304) {
            return reply;
        }
        reply.body = match reply.header("content-length") {
            Some(length) => self.exactly(length.parse().unwrap()),
            None => {
                assert_eq!(
                    reply.header("transfer-encoding"),
                    Some("chunked"),
                    "{}",
                    reply.head
                );
                self.chunks()
            }
        };
        reply
    }

    fn chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let mut line = Vec::new();
            while !line.ends_with(b"\r\n") {
                line.push(self.byte());
            }
            let size =
                usize::from_str_radix(std::str::from_utf8(&line).unwrap().trim(), 16).unwrap();
            body.extend(self.exactly(size));
            assert_eq!(self.exactly(2), b"\r\n");
            if size == 0 {
                return body;
            }
        }
    }

    fn exactly(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    fn byte(&mut self) -> u8 {
        self.exactly(1)[0]
    }
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

/// Bytes that are no text and do not repeat soon.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..length).map(|_| next()).collect()
}

/// What holds for every service: who may write, and that a refusal names a decision. Alice's credentials.
fn only_people_write(fleet: &Fleet, path: &str) -> String {
    let json = ("Content-Type", "application/json");
    let stranger = connect(fleet).send("POST", path, &[json], b"{}");
    assert_eq!(stranger.status, 401);
    // Nobody has read the body, so nobody could find the next request behind it.
    assert_eq!(
        stranger.header("connection"),
        Some("close"),
        "{}",
        stranger.head
    );
    let bob = bearer(&token(fleet, "bob"));
    let denied = connect(fleet).send("POST", path, &[json, ("Authorization", &bob)], b"{}");
    assert_eq!(denied.status, 403);
    assert!(
        denied.json()["decision"]
            .as_str()
            .unwrap()
            .starts_with("dec_")
    );
    bearer(&token(fleet, "alice"))
}

#[test]
fn httpbin_works_behind_it() {
    if left_out() {
        return;
    }
    let fleet = fleet_of(|_, port| {
        let server = tool(&[".tools/venv/bin/waitress-serve"]);
        vec![
            server,
            format!("--listen=127.0.0.1:{port}"),
            "httpbin:app".to_owned(),
        ]
    });
    let mut connection = connect(&fleet);

    // One connection for everything that reads.
    let got = connection.get("/get?a=1&a=2&text=caf%C3%A9%20%26%20more");
    assert_eq!(got.status, 200);
    assert_eq!(
        got.json()["args"],
        json!({ "a": ["1", "2"], "text": "café & more" })
    );
    let head = connection.send("HEAD", "/get", &[], b"");
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert!(head.header("content-length").is_some(), "{}", head.head);
    for status in [201, 400, 404, 418, 500, 503] {
        assert_eq!(connection.get(&format!("/status/{status}")).status, status);
    }
    assert_eq!(connection.get("/no/such/page").status, 404);
    assert_eq!(connection.send("OPTIONS", "/get", &[], b"").status, 200);
    for _ in 0..20 {
        assert_eq!(connection.get("/uuid").status, 200);
    }

    // Redirects lead to where the caller can go.
    let redirect = connection.get("/redirect/1");
    assert_eq!(
        (redirect.status, redirect.header("location")),
        (302, Some("/get"))
    );
    let absolute = connection.get("/absolute-redirect/1");
    let location = absolute.header("location").unwrap();
    assert!(
        !location.starts_with("http://"),
        "plain HTTP on the HTTPS port: {location}"
    );

    // Bodies of a length nobody says beforehand, packed bodies, cookies.
    let lines = String::from_utf8(connection.get("/stream/50").body).unwrap();
    assert_eq!(lines.lines().count(), 50);
    let packed = connection.get("/gzip");
    assert_eq!(packed.header("content-encoding"), Some("gzip"));
    assert!(packed.body.starts_with(&[0x1f, 0x8b]));
    let cookies = connection.get("/cookies/set?first=1&second=2");
    assert_eq!(cookies.headers("set-cookie").count(), 2, "{}", cookies.head);

    // Who calls is for Testudo to say.
    let forged = [
        ("X-User-Id", "root"),
        ("X-Forwarded-For", "192.0.2.1"),
        ("X_User_Id", "root"),
    ];
    let seen = connection.send("GET", "/headers", &forged, b"").json()["headers"].to_string();
    assert!(
        !seen.contains("root") && !seen.contains("192.0.2.1"),
        "{seen}"
    );

    let alice = only_people_write(&fleet, "/post");
    let authorized = ("Authorization", alice.as_str());
    let form = ("Content-Type", "application/x-www-form-urlencoded");
    let posted = connection.send("POST", "/post", &[authorized, form], b"a=1&b=two");
    assert_eq!(posted.json()["form"], json!({ "a": "1", "b": "two" }));
    let headers = &posted.json()["headers"];
    assert!(
        headers["X-User-Id"].as_str().unwrap().starts_with("usr_"),
        "{headers}"
    );
    assert!(
        headers.get("Authorization").is_none(),
        "the outside token ends at the gateway: {headers}"
    );
    for method in ["PUT", "PATCH", "DELETE"] {
        let path = format!("/{}", method.to_lowercase());
        assert_eq!(
            connection.send(method, &path, &[authorized], b"x").status,
            200,
            "{method}"
        );
    }

    // A megabyte up and down again, with a length and in chunks.
    let text: String = noise(MEGABYTE)
        .iter()
        .map(|byte| char::from(b'a' + byte % 26))
        .collect();
    let plain = ("Content-Type", "text/plain");
    let whole = connection.send(
        "POST",
        "/anything/whole",
        &[authorized, plain],
        text.as_bytes(),
    );
    assert!(
        whole.json()["data"] == text.as_str(),
        "a megabyte changed on its way"
    );
    let chunks: Vec<&[u8]> = text.as_bytes().chunks(10_000).collect();
    let chunked = connection.send_chunked("/anything/chunked", &[authorized, plain], &chunks);
    assert_eq!(chunked.status, 200);
    assert!(
        chunked.json()["data"] == text.as_str(),
        "chunks changed on their way"
    );
}

#[test]
fn json_server_works_behind_it() {
    if left_out() {
        return;
    }
    let fleet = fleet_of(|folder, port| {
        let posts: Vec<Value> = (1..=30)
            .map(|id| json!({ "id": id, "title": format!("post {id}") }))
            .collect();
        fs::write(
            folder.join("db.json"),
            json!({ "posts": posts }).to_string(),
        )
        .unwrap();
        let server = tool(&[".tools/node_modules/.bin/json-server"]);
        let database = folder.join("db.json").display().to_string();
        let port = port.to_string();
        [
            &server,
            "--host",
            "127.0.0.1",
            "--port",
            &port,
            "--quiet",
            &database,
        ]
        .map(str::to_owned)
        .to_vec()
    });
    let mut connection = connect(&fleet);
    assert_eq!(connection.get("/posts/7").json()["title"], "post 7");
    assert_eq!(
        connection
            .get("/posts?_page=2&_limit=10")
            .json()
            .as_array()
            .unwrap()
            .len(),
        10
    );
    assert_eq!(connection.get("/posts?q=post%2029").json()[0]["id"], 29);
    assert_eq!(connection.get("/posts/999").status, 404);
    let head = connection.send("HEAD", "/posts/7", &[], b"");
    assert_eq!((head.status, head.body.len()), (200, 0));

    // Caching still works: a validator from the service, and nothing twice.
    let etag = connection
        .get("/posts/7")
        .header("etag")
        .unwrap()
        .to_owned();
    assert_eq!(
        connection
            .send("GET", "/posts/7", &[("If-None-Match", &etag)], b"")
            .status,
        304
    );

    let alice = only_people_write(&fleet, "/posts");
    let fields = [
        ("Authorization", alice.as_str()),
        ("Content-Type", "application/json"),
    ];
    let long = "x".repeat(MEGABYTE);
    let made = connection.send(
        "POST",
        "/posts",
        &fields,
        json!({ "title": long }).to_string().as_bytes(),
    );
    assert_eq!(made.status, 201);
    assert_eq!(made.json()["id"], 31);
    assert!(connection.get("/posts/31").json()["title"] == long.as_str());
    let changed = connection.send("PATCH", "/posts/31", &fields, br#"{"title":"short"}"#);
    assert_eq!(changed.json()["title"], "short");
    assert_eq!(
        connection
            .send("PUT", "/posts/31", &fields, br#"{"title":"other"}"#)
            .status,
        200
    );
    assert_eq!(
        connection.send("DELETE", "/posts/31", &fields, b"").status,
        200
    );
    assert_eq!(connection.get("/posts/31").status, 404);
}

#[test]
fn nginx_works_behind_it() {
    if left_out() {
        return;
    }
    let file = noise(MEGABYTE);
    let fleet = fleet_of(|folder, port| {
        let root = folder.join("www");
        fs::create_dir_all(root.join("docs")).unwrap();
        fs::write(root.join("index.html"), "<h1>home</h1>").unwrap();
        fs::write(root.join("docs/index.html"), "<h1>docs</h1>").unwrap();
        fs::write(root.join("docs/two words.txt"), "two words").unwrap();
        fs::write(root.join("large.bin"), &file).unwrap();
        let configuration = nginx_configuration(folder, &root, port);
        fs::write(folder.join("nginx.conf"), configuration).unwrap();
        let nginx = tool(&["/usr/sbin/nginx", "/usr/local/sbin/nginx", "/usr/bin/nginx"]);
        let file = folder.join("nginx.conf").display().to_string();
        [&nginx, "-e", "stderr", "-c", &file]
            .map(str::to_owned)
            .to_vec()
    });
    let mut connection = connect(&fleet);
    let home = connection.get("/");
    assert_eq!(
        (home.status, home.header("content-type")),
        (200, Some("text/html"))
    );
    assert_eq!(home.body, b"<h1>home</h1>");
    assert_eq!(connection.get("/docs/two%20words.txt").body, b"two words");
    assert_eq!(connection.get("/docs/?version=1").body, b"<h1>docs</h1>");
    assert_eq!(connection.get("/nothing").status, 404);

    // nginx names its own address in a redirect; the caller must not be sent there.
    let redirect = connection.get("/docs");
    assert_eq!(
        (redirect.status, redirect.header("location")),
        (301, Some("/docs/"))
    );

    let large = connection.get("/large.bin");
    assert!(large.body == file, "a megabyte changed on its way");
    let head = connection.send("HEAD", "/large.bin", &[], b"");
    assert_eq!(head.header("content-length"), Some("1048576"));
    let part = connection.send("GET", "/large.bin", &[("Range", "bytes=1000-1999")], b"");
    assert_eq!(part.status, 206);
    assert_eq!(part.body, &file[1000..2000]);
    let etag = large.header("etag").unwrap().to_owned();
    assert_eq!(
        connection
            .send("GET", "/large.bin", &[("If-None-Match", &etag)], b"")
            .status,
        304
    );

    // Nothing outside of the folder, whatever the spelling; nginx does not even see most of them.
    for path in [
        "/../nginx.conf",
        "/docs/%2e%2e/%2e%2e/nginx.conf",
        "/..%2fnginx.conf",
    ] {
        let answer = connect(&fleet).get(path);
        assert!(
            matches!(answer.status, 400 | 404),
            "{path}: {}",
            answer.status
        );
    }
    // Static files take no POST; that is for nginx to say.
    let alice = only_people_write(&fleet, "/large.bin");
    assert_eq!(
        connection
            .send("POST", "/large.bin", &[("Authorization", &alice)], b"x")
            .status,
        405
    );
}

/// Debian's defaults, for one process of whoever runs the test.
fn nginx_configuration(folder: &Path, root: &Path, port: u16) -> String {
    let (folder, root) = (folder.display(), root.display());
    let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .filter(|module| **module == "client_body" || Path::new("/etc/nginx/nginx.conf").exists())
        .map(|module| format!("    {module}_temp_path {folder}/{module};\n"))
        .collect();
    let mime_types = PathBuf::from("/etc/nginx/mime.types");
    let mime_types = mime_types
        .exists()
        .then(|| format!("    include {};\n", mime_types.display()));
    let mime_types = mime_types.unwrap_or_else(|| "    types {{ text/html html; }}\n".to_owned());
    format!(
        "daemon off;\nmaster_process off;\npid {folder}/nginx.pid;\nevents {{}}\nhttp {{\n{mime_types}{paths}    \
         access_log off;\n    server {{\n        listen 127.0.0.1:{port};\n        root {root};\n    }}\n}}\n"
    )
}
