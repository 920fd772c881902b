//! h2spec, the conformance tests of HTTP/2 and HPACK (RFC 9113, RFC 7541), at every listener that speaks HTTP/2.
//! `./test.sh` builds it; `TESTUDO_TEST_FAST=1` leaves these tests out.

use std::{fs, net::SocketAddr, process::Command, sync::Arc};

use rustls::pki_types::ServerName;
use testudo_runtime::SystemClock;
use testudo_trust::{ExpectedPeer, IdentitySource, mesh_client_config};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};
use tokio_rustls::TlsConnector;

use crate::{
    installed::{left_out, tool},
    shop::Shop,
    wire,
};

/// Cases of the version that `./test.sh` builds, the strict ones among them.
const CASES: usize = 146;
/// Where a plaintext listener speaks HTTP/1.1 as well, what does not begin with the preface is HTTP/1.1: it gets a 400
/// and the end of the connection, which h2spec takes for a truncated frame.
const NO_PREFACE: &str = "http2/3.5: Sends invalid connection preface";

/// A proxy may answer before the frame comes that is wrong (RFC 9113 section 8.1), or forget a stream before another frame
/// for it does (section 5.1). h2spec takes both for a failure, so a case has failed that fails every time.
const RUNS: usize = 3;

#[test]
fn the_gateway_passes_every_case_of_h2spec() {
    if left_out() {
        return;
    }
    let shop = Shop::open("");
    assert_eq!(
        failed_cases(shop.gateway(), &["--tls", "--insecure"]),
        [""; 0]
    );
    works_afterwards(&shop);
}

#[test]
fn a_sidecar_passes_every_case_of_h2spec_inbound() {
    if left_out() {
        return;
    }
    let shop = Shop::open("");
    let helper = shop.member(Some("helper"));
    let runtime = Runtime::new().unwrap();
    let address = runtime.block_on(bridge_to_inbound(&shop, &helper));
    assert_eq!(failed_cases(address, &[]), [""; 0]);
    works_afterwards(&shop);
}

#[test]
fn a_sidecar_passes_every_case_of_h2spec_outbound() {
    if left_out() {
        return;
    }
    let shop = Shop::open("");
    let outbound = shop.fleet.address("/sidecars/helper/outbound");
    assert_eq!(failed_cases(outbound, &[]), [NO_PREFACE]);
    let refusal = wire::exchange(
        &mut wire::connect(outbound).unwrap(),
        b"INVALID CONNECTION PREFACE\r\n\r\n",
    );
    let refusal = refusal.unwrap().expect("an answer");
    assert_eq!(refusal.status, 400);
    assert_eq!(refusal.header("connection"), Some("close"));
    works_afterwards(&shop);
}

/// The cases that do not pass at `address`, each with its section.
fn failed_cases(address: SocketAddr, options: &[&str]) -> Vec<String> {
    let mut failed = failed_once(address, options);
    for _ in 1..RUNS {
        if failed.is_empty() {
            break;
        }
        let again = failed_once(address, options);
        failed.retain(|case| again.contains(case));
    }
    failed
}

fn failed_once(address: SocketAddr, options: &[&str]) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.xml");
    let output = Command::new(tool(&[".tools/h2spec"]))
        .args(["--host", &address.ip().to_string()])
        .args(["--port", &address.port().to_string()])
        .args(["--path", "/public/h2spec", "--strict", "--timeout", "10"])
        .arg("--junit-report")
        .arg(&report)
        .args(options)
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    let report = fs::read_to_string(report).unwrap_or_else(|error| panic!("{error}: {printed}"));
    let cases: Vec<&str> = report.split("<testcase ").skip(1).collect();
    assert_eq!(cases.len(), CASES, "{printed}");
    let failed = cases.iter().filter(|case| !case.contains("\"></testcase>"));
    failed.map(|case| name_of(case)).collect()
}

/// `<section>: <title>` of a case in the report.
fn name_of(case: &str) -> String {
    let attribute = |name: &str| {
        let (_, value) = case.split_once(&format!("{name}=\"")).unwrap();
        value.split('"').next().unwrap()
    };
    format!("{}: {}", attribute("package"), attribute("classname"))
}

/// An address behind which h2spec, which has no client certificate, finds the inbound side of the shop's sidecar.
async fn bridge_to_inbound(shop: &Shop, client: &IdentitySource) -> SocketAddr {
    let clock = Arc::new(SystemClock::new());
    let tls = mesh_client_config(client, ExpectedPeer::InTrustDomain, clock, &["h2"]);
    let inbound = shop.fleet.address("/sidecars/shop/inbound");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut plain, _)) = listener.accept().await {
            let connector = TlsConnector::from(Arc::clone(&tls));
            tokio::spawn(async move {
                let stream = TcpStream::connect(inbound).await.unwrap();
                let name = ServerName::try_from("127.0.0.1").unwrap();
                let mut sealed = connector.connect(name, stream).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut plain, &mut sealed).await;
            });
        }
    });
    address
}

fn works_afterwards(shop: &Shop) {
    let request = b"GET /public/normal HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert_eq!(shop.send(request).expect("an answer").status, 200);
}
