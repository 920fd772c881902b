//! Clients that send or take bodies slowly (slow POST, slow read): cut off when they are slower than the fleet allows.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use testudo_model::snapshot::TransferRules;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::{sleep, timeout},
};

use crate::{client, fleet::Fleet};

const RULES: TransferRules = TransferRules {
    min_bytes_per_second: 1_000,
    grace_millis: 500,
};
const POST: &str = "POST /public HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n";

async fn strict_fleet() -> Fleet {
    Fleet::start_with(|snapshot| snapshot.transfer = RULES).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_drips_is_cut_off_long_before_its_deadline() {
    let fleet = strict_fleet().await;
    for drop_by_drop in [false, true] {
        let began = Instant::now();
        let (mut reader, mut writer) = tokio::io::split(fleet.gateway_stream().await);
        writer.write_all(POST.as_bytes()).await.unwrap();
        writer.flush().await.unwrap();
        let dripping = tokio::spawn(async move {
            while drop_by_drop && writer.write_all(b"x").await.is_ok() {
                let _ = writer.flush().await;
                sleep(Duration::from_millis(50)).await;
            }
            std::future::pending::<()>().await;
        });
        let mut answer = Vec::new();
        let _ = timeout(Duration::from_secs(8), reader.read_to_end(&mut answer)).await;
        let answer = String::from_utf8_lossy(&answer);
        assert_eq!(client::status_of(&answer), 408, "{answer}");
        assert!(answer.contains("request.body_too_slow"), "{answer}");
        assert!(answer.contains("connection: close"), "{answer}");
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "{:?}",
            began.elapsed()
        );
        dripping.abort();
    }
    assert_eq!(fleet.get("/public", None).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_is_fast_enough_may_take_its_time() {
    let fleet = strict_fleet().await;
    let mut stream = fleet.gateway_stream().await;
    stream.write_all(POST.as_bytes()).await.unwrap();
    for _ in 0..10 {
        sleep(Duration::from_millis(90)).await;
        stream.write_all(&[b'x'; 100]).await.unwrap();
        stream.flush().await.unwrap();
    }
    let mut answer = [0; 15];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
}

/// A service with an answer that no socket buffer holds.
async fn large_answer() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let body = vec![b'x'; 32 * 1024 * 1024];
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                let _ = stream.write_all(&[head.into_bytes(), body].concat()).await;
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_that_is_taken_by_drops_ends_with_its_connection() {
    let service = large_answer().await;
    let fleet = Fleet::start_with(|snapshot| {
        snapshot.transfer = RULES;
        for service_of_all in &mut snapshot.services {
            service_of_all.upstream = service;
        }
    })
    .await;
    let began = Instant::now();
    let mut stream = fleet.gateway_stream().await;
    let request = b"GET /public HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(request).await.unwrap();
    // Until the buffers of both hosts are full, then drop by drop.
    let mut taken = vec![0; 64];
    for _ in 0..40 {
        stream.read_exact(&mut taken).await.unwrap();
        sleep(Duration::from_millis(100)).await;
    }
    let mut rest = Vec::new();
    let read = timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await;
    assert!(read.is_ok(), "it goes on");
    assert!(rest.len() < 31 * 1024 * 1024, "{} bytes", rest.len());
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
}

/// Reads each request, and either closes the connection or says nothing; how many it has read.
async fn useless_service(closes: bool) -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let mut request = [0; 4096];
                while let Ok(1..) = stream.read(&mut request).await {
                    count.fetch_add(1, Ordering::SeqCst);
                    if closes {
                        break;
                    }
                }
            });
        }
    });
    (address, seen)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_fails_every_call_gets_each_call_once() {
    for (closes, path, status) in [(true, "/public", 502), (false, "/slow", 504)] {
        let (service, seen) = useless_service(closes).await;
        let fleet = Fleet::start_with(|snapshot| {
            for service_of_all in &mut snapshot.services {
                service_of_all.upstream = service;
            }
        })
        .await;
        for _ in 0..20 {
            assert_eq!(fleet.get(path, None).await.status, status);
        }
        assert_eq!(seen.load(Ordering::SeqCst), 20);
    }
}
