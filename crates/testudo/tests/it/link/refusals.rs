//! What neither end of the link may be talked into.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_web_certificate_is_for_the_gateway_alone() {
    let folders = Folders::new();
    let control_plane = ControlPlane::start(&folders.at("server"), 0, &ShiftedClock::new()).await;
    let gateway = Proxy::join(&control_plane, &domain().gateway(), &folders.at("gateway")).await;
    assert!(!gateway.link.web_identity().await.unwrap().chain.is_empty());
    let orders = Proxy::join(&control_plane, &service("orders"), &folders.at("orders")).await;
    let error = with_causes(&orders.link.web_identity().await.err().unwrap());
    assert!(error.contains("only the gateway may"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_cannot_ship_events_in_the_name_of_another() {
    let folders = Folders::new();
    let clock = ShiftedClock::new();
    let control_plane = ControlPlane::start(&folders.at("server"), 0, &clock).await;
    let orders = Proxy::join(&control_plane, &service("orders"), &folders.at("orders")).await;
    let token = control_plane.token(&service("stock"));
    let stock = join(None, Some(&token), None, None, clock.clone())
        .await
        .unwrap()
        .identity;
    orders.running.abort();
    // The spool of `orders`, over a connection of `stock`.
    let link = Link::new(LinkOptions {
        server: ServerAddress::parse(&control_plane.address.to_string()).unwrap(),
        identity: stock,
        state: Arc::clone(&orders.state),
        spool: Arc::clone(&orders.spool),
        folder: None,
        inbound: None,
        version: "test",
        readiness: Readiness::new(),
        clock: clock.clone(),
        entropy: Arc::new(SystemEntropy),
    })
    .unwrap();
    orders.record("test.smuggled");
    assert!(orders.spool.sync(PATIENCE));
    assert!(!link.ship_rest(Duration::from_secs(2)).await);
    assert_eq!(control_plane.activities(), Vec::<String>::new());
    assert_eq!(
        orders.spool.status().unshipped_blocks,
        1,
        "and nothing is lost by it"
    );
}

/// One gRPC call without a client, as a stranger would make it. Answers the status code.
pub async fn call(
    address: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
    method: &str,
) -> io::Result<String> {
    let tcp = TcpStream::connect(address).await?;
    let stream = TlsConnector::from(tls)
        .connect(mesh_server_name(), tcp)
        .await?;
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    tokio::spawn(connection);
    // An empty message: one flag byte, four of length.
    let request = http::Request::post(format!("http://{address}/testudo.proxy.v1.{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::from_static(&[0; 5])))
        .unwrap();
    let response = sender
        .send_request(request)
        .await
        .map_err(io::Error::other)?;
    let status =
        |headers: &http::HeaderMap| Some(headers.get("grpc-status")?.to_str().unwrap().to_owned());
    if let Some(status) = status(response.headers()) {
        return Ok(status);
    }
    let body = response
        .into_body()
        .collect()
        .await
        .map_err(io::Error::other)?;
    Ok(status(body.trailers().unwrap()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_enrolment_is_open_to_who_shows_no_certificate_of_the_fleet() {
    const UNAUTHENTICATED: &str = "16";
    let folders = Folders::new();
    let clock = ShiftedClock::new();
    let control_plane = ControlPlane::start(&folders.at("server"), 0, &clock).await;
    let pin = control_plane.identity.bundle().sha256();
    let server = domain().server();
    for method in [
        "Enrolment/Enrol",
        "Proxy/Renew",
        "Proxy/IssueWebCertificate",
        "Proxy/Ship",
        "Proxy/Watch",
    ] {
        let tls = pinned_client_config(pin, &server, clock.clone(), &["h2"]);
        let status = call(control_plane.address, tls, method).await.unwrap();
        assert_eq!(status, UNAUTHENTICATED, "{method}");
    }

    // The same names, signed by somebody else.
    let ca =
        CertificateAuthority::generate(&domain(), clock.now(), Duration::from_secs(3600)).unwrap();
    let key = SvidKey::generate();
    let request = key.csr_der(&service("orders")).unwrap();
    let life = Duration::from_secs(600);
    let leaf = ca
        .issue(
            &request,
            &service("orders"),
            &[],
            clock.now(),
            life,
            &SystemEntropy,
        )
        .unwrap();
    let svid = Svid::new(vec![leaf, ca.cert_der().to_vec()], key).unwrap();
    let stranger = IdentitySource::new(svid, TrustBundle::clone(&control_plane.identity.bundle()));
    let tls = mesh_client_config(&stranger, ExpectedPeer::Id(server), clock.clone(), &["h2"]);
    assert!(
        call(control_plane.address, tls, "Proxy/Renew")
            .await
            .is_err()
    );
}
