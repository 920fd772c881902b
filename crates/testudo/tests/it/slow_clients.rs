//! Slow clients by the thousand: Debian's `slowhttptest` in its four modes, TLS handshakes that nobody finishes, and floods
//! of HTTP/2 frames. Nobody else notices, and what they held comes back (I4 of the bad-input table). `./test.sh` installs
//! it; `TESTUDO_TEST_FAST=1` leaves that part out.

use std::{
    fs,
    net::TcpStream,
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use rustls::pki_types::ServerName;
use testudo_runtime::raise_descriptor_limit;
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;

use crate::{
    fleet::Process,
    installed::{left_out, tool},
    shop::Shop,
};

#[path = "../../../dataplane/tests/it/frames.rs"]
#[allow(dead_code, reason = "shared with the data plane's tests")]
mod frames;

use frames::{END_STREAM, Ended, Frames, PING, RESET};

/// What `slowhttptest` does, by its options: bytes of headers, of bodies and of answers one by one, and ranges.
const MODES: [&str; 4] = ["-H", "-B", "-X", "-R"];
/// Handshakes that stay half open meanwhile.
const HALF_OPEN: usize = 1_000;
/// Time for what clients held to come back.
const RETURN: Duration = Duration::from_secs(40);

/// What a process holds.
#[derive(Debug, Clone, Copy)]
struct Holding {
    bytes: usize,
    descriptors: usize,
}

impl Holding {
    fn of(process: &Process) -> Self {
        let process = process.0.id();
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = resident.unwrap().trim().trim_end_matches(" kB");
        Self {
            bytes: 1024 * kib.parse::<usize>().unwrap(),
            descriptors: fs::read_dir(format!("/proc/{process}/fd")).unwrap().count(),
        }
    }
}

/// Somebody else, on a connection of their own.
fn works(shop: &Shop, meanwhile: &str) {
    let request = b"GET /public/works HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let answer = shop.send(request).expect("an answer");
    assert_eq!(answer.status, 200, "{meanwhile}: {}", answer.body);
}

/// Waits until what is left is little enough.
fn comes_back(shop: &Shop, is_little: impl Fn(Holding) -> bool) {
    let until = Instant::now() + RETURN;
    loop {
        let now = Holding::of(&shop.fleet.process);
        if is_little(now) {
            return;
        }
        assert!(Instant::now() < until, "left: {now:?}");
        sleep(Duration::from_millis(200));
    }
}

#[test]
fn slow_clients_by_the_thousand_fail_nobody_and_what_they_held_comes_back() {
    if left_out() {
        return;
    }
    raise_descriptor_limit();
    let shop = Shop::open("");
    works(&shop, "before");
    let before = Holding::of(&shop.fleet.process);
    // Slowly enough to leave some of two cores to other tests.
    let most = attack(&shop, 5_000, 40);
    assert!(most.descriptors > HALF_OPEN, "{before:?}, {most:?}");
    assert!(shop.upstream.take().len() > 100, "the attack was none");
    let is_gone = |now: Holding| now.descriptors <= before.descriptors + 100;
    comes_back(&shop, is_gone);
    works(&shop, "after the first");
    // Allocators keep what they had. What others held must have been enough.
    attack(&shop, 1_000, 5);
    comes_back(&shop, |now| is_gone(now) && now.bytes <= most.bytes);
    works(&shop, "after the second");
}

/// So many connections in all modes together; the most that was held.
fn attack(shop: &Shop, connections: u64, seconds: u64) -> Holding {
    let half_open: Vec<TcpStream> = (0..HALF_OPEN)
        .map(|_| TcpStream::connect(shop.gateway()).unwrap())
        .collect();
    let mut attacks = MODES.map(|mode| slowhttptest(mode, shop, connections / 4, seconds));
    let mut most = Holding::of(&shop.fleet.process);
    let is_running = |attack: &mut Process| attack.0.try_wait().unwrap().is_none();
    while attacks.iter_mut().any(is_running) {
        works(shop, "meanwhile");
        let now = Holding::of(&shop.fleet.process);
        most.descriptors = most.descriptors.max(now.descriptors);
        most.bytes = most.bytes.max(now.bytes);
        sleep(Duration::from_millis(100));
    }
    drop(half_open);
    most
}

/// `slowhttptest` at the gateway; its connections are opened in the first four fifths of its time.
fn slowhttptest(mode: &str, shop: &Shop, connections: u64, seconds: u64) -> Process {
    let program = tool(&["/usr/bin/slowhttptest", "/usr/local/bin/slowhttptest"]);
    let url = format!("https://{}/public/slow", shop.gateway());
    let numbers = [
        ("-c", connections),
        ("-r", connections * 5 / (4 * seconds)),
        ("-l", seconds),
        ("-i", 2),
        ("-s", 100_000),
        ("-k", 3),
        ("-w", 1),
        ("-y", 10),
        ("-z", 1),
        ("-n", 2),
    ];
    let numbers = numbers.map(|(option, number)| [option.to_owned(), number.to_string()]);
    let child = Command::new(program)
        .arg(mode)
        .args(numbers.concat())
        .args(["-u", &url])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    Process(child.unwrap())
}

#[test]
fn what_floods_of_frames_have_held_comes_back() {
    let shop = Shop::open("");
    let runtime = Runtime::new().unwrap();
    let round = || {
        runtime.block_on(flood(&shop));
        works(&shop, "after the floods");
    };
    // What is made once is there after the first two.
    round();
    round();
    let before = Holding::of(&shop.fleet.process);
    round();
    round();
    comes_back(&shop, |now| {
        now.descriptors <= before.descriptors + 20 && now.bytes <= before.bytes + before.bytes / 20
    });
}

/// Rapid resets, pings, header sections that do not end.
async fn flood(shop: &Shop) {
    let pem = fs::read(
        shop.fleet
            .folder
            .path()
            .join(shop.fleet.ready["ca"].as_str().unwrap()),
    );
    let tls = testudo_trust::web_client_config(&pem.unwrap(), &["h2"]).unwrap();
    type Flood = fn(&mut Frames<tokio_rustls::client::TlsStream<tokio::net::TcpStream>>);
    let floods: [Flood; 3] = [
        |client| {
            for stream in (1..20_000).step_by(2) {
                client.request(stream, END_STREAM, "GET", "/public/flood", "");
                client.queue(RESET, 0, stream, &[0, 0, 0, 8]);
            }
        },
        |client| (0..50_000).for_each(|_| client.queue(PING, 0, 0, b"pingpong")),
        |client| {
            let fields = frames::literals(&[("x", "y")]).repeat(3_000);
            client.queue(frames::HEADERS, END_STREAM, 1, &[]);
            (0..100).for_each(|_| client.queue(frames::CONTINUATION, 0, 1, &fields));
        },
    ];
    for flood in floods {
        for _ in 0..5 {
            let stream = tokio::net::TcpStream::connect(shop.gateway())
                .await
                .unwrap();
            let name = ServerName::try_from("localhost").unwrap();
            let connector = TlsConnector::from(std::sync::Arc::clone(&tls));
            let stream = connector.connect(name, stream).await.unwrap();
            let mut client = Frames::open(stream, 65_535).await;
            flood(&mut client);
            assert!(matches!(client.ended().await, Ended::GoAway(_)));
        }
    }
}
