//! What a service may not answer (table A18): its callers get 502 and nothing of what it said, and no connection that
//! was out of step is used again.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use crate::{client, fleet::Fleet};

const GOOD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood";

/// A service that answers every request with the same bytes.
#[derive(Clone, Default)]
struct Scripted {
    answer: Arc<Mutex<String>>,
    hangs_up: Arc<AtomicBool>,
    connections: Arc<AtomicUsize>,
}

impl Scripted {
    fn start() -> (Self, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let scripted = Self::default();
        let served = scripted.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let served = served.clone();
                served.connections.fetch_add(1, Ordering::SeqCst);
                thread::spawn(move || served.serve(&stream.unwrap()));
            }
        });
        (scripted, address)
    }

    fn serve(&self, mut stream: &TcpStream) -> Option<()> {
        let mut lines = BufReader::new(stream).lines();
        loop {
            while !lines.next()?.ok()?.is_empty() {}
            let answer = self.answer.lock().unwrap().clone();
            stream.write_all(answer.as_bytes()).ok()?;
            if self.hangs_up.swap(false, Ordering::SeqCst) {
                return None;
            }
        }
    }

    fn say(&self, answer: &str) {
        answer.clone_into(&mut self.answer.lock().unwrap());
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn fleet() -> (Fleet, Scripted) {
    let (scripted, address) = Scripted::start();
    let fleet = Fleet::start_with(|snapshot| {
        let orders = snapshot
            .services
            .iter_mut()
            .find(|service| service.name.as_str() == "orders");
        orders.unwrap().upstream = address;
    })
    .await;
    (fleet, scripted)
}

/// Everything that the gateway's client gets.
async fn ask(fleet: &Fleet) -> String {
    let request = b"GET /public HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    client::raw(fleet.gateway_stream().await, request).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_can_be_read_in_two_ways_is_no_answer() {
    let (fleet, scripted) = fleet().await;
    for answer in [
        "HTTP/1.1 200 OK\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n4\r\nevil\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nevil",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nevil!",
        "HTTP/1.1 200 OK\r\nContent-Length: 4, 4\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\nContent-Length: +4\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\nContent-Length: 04\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\nno colon\r\nContent-Length: 4\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\nX : y\r\nContent-Length: 4\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 4\r\n\r\nevil",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: evil\r\nConnection: Upgrade\r\n\r\n",
        "evil",
    ] {
        scripted.say(&format!("{answer}\r\n\r\n"));
        let got = ask(&fleet).await;
        assert_eq!(client::status_of(&got), 502, "{answer:?}: {got}");
        assert!(!got.contains("evil"), "{answer:?}: {got}");
        works_on_a_new_connection(&fleet, &scripted, answer).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_beyond_an_answer_are_nobodys() {
    let (fleet, scripted) = fleet().await;
    for surplus in [
        "evil",
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        "\r\n",
    ] {
        scripted.say(&format!("{GOOD}{surplus}"));
        let got = ask(&fleet).await;
        assert!(got.ends_with("\r\n\r\ngood"), "{surplus:?}: {got}");
        works_on_a_new_connection(&fleet, &scripted, surplus).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn part_of_an_answer_is_not_taken_for_the_whole() {
    let (fleet, scripted) = fleet().await;
    for part in [
        "HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\npart",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n400\r\npart",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n",
    ] {
        scripted.say(part);
        scripted.hangs_up.store(true, Ordering::SeqCst);
        let got = ask(&fleet).await;
        let is_whole = got.ends_with("0\r\n\r\n") || got.contains("content-length: 4\r\n");
        assert!(!is_whole, "{part:?}: {got}");
        works_on_a_new_connection(&fleet, &scripted, part).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interim_answers_end_at_the_sidecar() {
    let (fleet, scripted) = fleet().await;
    let hint = "HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n";
    scripted.say(&(hint.repeat(1000) + GOOD));
    let got = ask(&fleet).await;
    assert_eq!(got.matches("HTTP/1.1 ").count(), 1, "{got}");
    assert!(matches!(client::status_of(&got), 200 | 502), "{got}");
}

async fn works_on_a_new_connection(fleet: &Fleet, scripted: &Scripted, what: &str) {
    let before = scripted.connections();
    scripted.say(GOOD);
    let got = ask(fleet).await;
    assert!(got.ends_with("\r\n\r\ngood"), "after {what:?}: {got}");
    assert_eq!(scripted.connections(), before + 1, "after {what:?}");
}
