//! Table B of the bad-input table from the other side: what a service that speaks HTTP/2 may not answer. Its callers get 502
//! and nothing of what it said, and the next call is served.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use testudo_model::ServiceProtocol;

use crate::{
    client,
    fleet::Fleet,
    frames::{
        CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, RESET, SETTINGS, literals,
    },
};

const PREFACE_BYTES: usize = 24;
const ACK: u8 = 1;
const PUSH_PROMISE: u8 = 5;
const GOAWAY: u8 = 7;

/// A frame on the stream that is answered: type, flags and payload.
type Said = (u8, u8, Vec<u8>);

/// A service that answers every request with the same frames.
#[derive(Clone)]
struct Scripted(Arc<Mutex<Vec<Said>>>);

impl Scripted {
    fn start() -> (Self, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let scripted = Self(Arc::default());
        let served = scripted.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let served = served.clone();
                thread::spawn(move || served.serve(&stream.unwrap()));
            }
        });
        (scripted, address)
    }

    fn serve(&self, mut stream: &TcpStream) -> Option<()> {
        stream.read_exact(&mut [0; PREFACE_BYTES]).ok()?;
        write(stream, &(SETTINGS, 0, Vec::new()), 0)?;
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).ok()?;
            let [l0, l1, l2, kind, flags, id @ ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, l0, l1, l2]) as usize];
            stream.read_exact(&mut payload).ok()?;
            match kind {
                SETTINGS if flags & ACK == 0 => write(stream, &(SETTINGS, ACK, Vec::new()), 0)?,
                PING if flags & ACK == 0 => write(stream, &(PING, ACK, payload), 0)?,
                HEADERS => {
                    let answer = self.0.lock().unwrap().clone();
                    for said in &answer {
                        let is_about_all = said.0 == GOAWAY;
                        let id = u32::from_be_bytes(id);
                        write(stream, said, if is_about_all { 0 } else { id })?;
                    }
                }
                _ => {}
            }
        }
    }

    fn say(&self, answer: Vec<Said>) {
        *self.0.lock().unwrap() = answer;
    }
}

fn write(mut stream: &TcpStream, (kind, flags, payload): &Said, id: u32) -> Option<()> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let frame = [&length[1..], &[*kind, *flags], &id.to_be_bytes(), payload].concat();
    stream.write_all(&frame).ok()
}

/// The head of an answer.
fn head(fields: &[(&str, &str)]) -> Said {
    (HEADERS, END_HEADERS, literals(fields))
}

/// The end of its body.
fn body(text: &str) -> Said {
    (DATA, END_STREAM, text.as_bytes().to_vec())
}

fn good() -> Vec<Said> {
    vec![
        head(&[(":status", "200"), ("content-length", "4")]),
        body("good"),
    ]
}

async fn fleet() -> (Fleet, Scripted) {
    let (scripted, address) = Scripted::start();
    let fleet = Fleet::start_with(|snapshot| {
        for service in &mut snapshot.services {
            service.upstream = address;
            service.protocol = ServiceProtocol::H2c;
        }
    })
    .await;
    (fleet, scripted)
}

/// Everything that the gateway's client gets.
async fn ask(fleet: &Fleet) -> String {
    let request = b"GET /public HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    client::raw(fleet.gateway_stream().await, request).await
}

async fn works_afterwards(fleet: &Fleet, scripted: &Scripted, what: &str) {
    scripted.say(good());
    let got = ask(fleet).await;
    assert!(got.ends_with("\r\n\r\ngood"), "after {what}: {got}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b6_heads_that_are_no_heads_are_no_answers() {
    let (fleet, scripted) = fleet().await;
    works_afterwards(&fleet, &scripted, "nothing").await;
    let status = (":status", "200");
    let mut believed = Vec::new();
    for fields in [
        &[("x", "evil")][..],
        &[status, status],
        &[(":status", "evil")],
        &[(":status", "20")],
        &[(":status", "2000")],
        &[(":status", "101")],
        &[("x", "evil"), status],
        &[status, ("Evil", "x")],
        &[status, ("evil ", "x")],
        &[status, ("evil:", "x")],
        &[status, ("x", "y\r\nevil: z")],
        &[status, ("x", "evil\0")],
        &[status, ("connection", "evil")],
        &[status, ("transfer-encoding", "chunked")],
        &[status, ("upgrade", "evil")],
        &[status, ("content-length", "+4")],
        &[status, ("content-length", "4, 4")],
        &[status, ("content-length", "4"), ("content-length", "5")],
    ] {
        scripted.say(vec![head(fields), body("evil")]);
        let got = ask(&fleet).await;
        if client::status_of(&got) != 502 || got.contains("evil") {
            believed.push((format!("{fields:?}"), got));
        }
        works_afterwards(&fleet, &scripted, &format!("{fields:?}")).await;
    }
    assert!(believed.is_empty(), "{believed:#?}");
}

/// h2 leaves out what only requests have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b6_an_answer_has_no_fields_of_a_request() {
    let (fleet, scripted) = fleet().await;
    scripted.say(vec![
        head(&[
            (":status", "200"),
            (":path", "/evil"),
            ("content-length", "4"),
        ]),
        body("good"),
    ]);
    let got = ask(&fleet).await;
    assert!(
        got.ends_with("\r\n\r\ngood") && !got.contains("evil"),
        "{got}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b3_b4_heads_without_end_and_heads_that_unpack_to_large_ones_are_no_answers() {
    let (fleet, scripted) = fleet().await;
    let start = literals(&[(":status", "200")]);
    let more = literals(&[("x", "evil")]).repeat(1_000);
    // As in `http2_table`: an entry of 3,000 bytes for the dynamic table, and references to it.
    let entry = [&[0x40, 1, b'x', 0x7f, 0x80 | 57, 22][..], &[b'a'; 3_000]].concat();
    let bomb = [&start[..], &entry, &[0x80 | 62; 12_000]].concat();
    let endless = |part: &[u8], count| {
        let mut said = vec![(HEADERS, 0, start.clone())];
        said.resize(count, (CONTINUATION, 0, part.to_vec()));
        said
    };
    for (what, answer) in [
        ("empty parts", endless(&[], 10_000)),
        ("full parts", endless(&more, 100)),
        ("a bomb", vec![(HEADERS, END_HEADERS | END_STREAM, bomb)]),
    ] {
        scripted.say(answer);
        let got = ask(&fleet).await;
        assert_eq!(client::status_of(&got), 502, "{what}: {got}");
        works_afterwards(&fleet, &scripted, what).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b7_frames_out_of_place_are_no_answers() {
    let (fleet, scripted) = fleet().await;
    let promise = [
        &[0, 0, 0, 2][..],
        &literals(&[(":method", "GET"), (":path", "/evil")]),
    ]
    .concat();
    for (what, answer) in [
        ("a body first", vec![body("evil")]),
        ("a reset", vec![(RESET, 0, vec![0, 0, 0, 2])]),
        (
            "a goodbye with an error",
            vec![(GOAWAY, 0, vec![0, 0, 0, 0, 0, 0, 0, 1])],
        ),
        ("a promise", vec![(PUSH_PROMISE, END_HEADERS, promise)]),
        (
            "a reset of a wrong length",
            vec![(RESET, 0, b"evil!".to_vec())],
        ),
    ] {
        scripted.say(answer);
        let got = ask(&fleet).await;
        assert_eq!(client::status_of(&got), 502, "{what}: {got}");
        assert!(!got.contains("evil"), "{what}: {got}");
        works_afterwards(&fleet, &scripted, what).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b7_a_body_of_another_length_is_not_taken_for_the_whole() {
    let (fleet, scripted) = fleet().await;
    for (length, text) in [("4", "evil!"), ("5", "evil"), ("0", "evil")] {
        scripted.say(vec![
            head(&[(":status", "200"), ("content-length", length)]),
            body(text),
        ]);
        let got = ask(&fleet).await;
        let (_, body) = got.split_once("\r\n\r\n").unwrap_or_default();
        let is_whole = client::status_of(&got) == 200 && body.len().to_string() == length;
        assert!(!is_whole || body.is_empty(), "{length} {text}: {got}");
        works_afterwards(&fleet, &scripted, text).await;
    }
}

/// RFC 9113 section 8.1: only after a whole answer a reset says that nothing went wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b7_a_body_that_is_broken_off_by_a_reset_is_not_taken_for_the_whole() {
    const NO_ERROR: u8 = 0;
    const INTERNAL_ERROR: u8 = 2;
    const CANCEL: u8 = 8;
    let (fleet, scripted) = fleet().await;
    for (length, code) in [
        (Some("9"), NO_ERROR),
        (Some("9"), CANCEL),
        (None, CANCEL),
        (None, INTERNAL_ERROR),
    ] {
        let what = format!("{length:?} {code}");
        let mut fields = vec![(":status", "200")];
        fields.extend(length.map(|length| ("content-length", length)));
        scripted.say(vec![
            head(&fields),
            (DATA, 0, b"evil".to_vec()),
            (RESET, 0, vec![0, 0, 0, code]),
        ]);
        let got = ask(&fleet).await;
        let (_, body) = got.split_once("\r\n\r\n").unwrap_or_default();
        let is_whole = match length {
            Some(length) => body.len().to_string() == length,
            None => body.ends_with("0\r\n\r\n"),
        };
        assert!(client::status_of(&got) == 502 || !is_whole, "{what}: {got}");
        works_afterwards(&fleet, &scripted, &what).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b5_interim_answers_end_at_the_sidecar() {
    let (fleet, scripted) = fleet().await;
    let hint = head(&[(":status", "103"), ("link", "</evil>; rel=preload")]);
    let mut answer = vec![hint; 1_000];
    answer.extend(good());
    scripted.say(answer);
    let got = ask(&fleet).await;
    assert_eq!(got.matches("HTTP/1.1 ").count(), 1, "{got}");
    assert!(matches!(client::status_of(&got), 200 | 502), "{got}");
    assert!(!got.contains("evil"), "{got}");
    works_afterwards(&fleet, &scripted, "hints").await;
}
