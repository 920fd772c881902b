//! What requests over HTTP/2 come to, with connections in memory and servers that behave as the test wants.

use std::{convert::Infallible, future::pending, time::Duration};

use bytes::Bytes;
use h2::{Reason, ext::Protocol, server};
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use testudo_model::Timestamp;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    sync::mpsc,
    time::timeout,
};

use super::{
    Outbound, SendFailure,
    sent::Reply,
    streams::{Connection, Connections, Place},
};
use crate::{body::RequestBody, http2::Tunnel, rejection::UpstreamError};

const NOW: Timestamp = Timestamp::from_unix_seconds(0);
/// Longer than anything takes.
const LONG: Duration = Duration::from_secs(10);
const FOR_EVER: Timestamp = Timestamp::from_unix_seconds(i64::MAX);

type Server = server::Connection<DuplexStream, Bytes>;

/// Connections with one to a server, which has done nothing yet.
async fn connected() -> (Connections, Server) {
    connected_asking(None).await
}

/// The same; `every` so often the server is asked if it is still there.
async fn connected_asking(every: Option<Duration>) -> (Connections, Server) {
    let (near, far) = duplex(1024 * 1024);
    let mut settings = server::Builder::new();
    settings.enable_connect_protocol();
    let (begun, server) = tokio::join!(
        Connection::begin(near, FOR_EVER, every),
        settings.handshake(far)
    );
    let connections = Connections::default();
    connections.lock().push(begun.unwrap());
    (connections, server.unwrap())
}

async fn place(connections: &Connections) -> Place {
    let unreachable = || async { Err(UpstreamError::Unreachable) };
    connections.place(NOW, unreachable).await.unwrap()
}

fn get() -> Outbound {
    let request = Request::get("https://orders/").body(RequestBody::none());
    Box::new(request.unwrap())
}

fn connect() -> Outbound {
    let mut request = get();
    *request.method_mut() = Method::CONNECT;
    let protocol = Protocol::from_static("websocket");
    request.extensions_mut().insert(protocol);
    request
}

/// Answers what comes until it is gone.
async fn answer_all(mut server: Server) {
    while let Some(Ok((_, mut respond))) = server.accept().await {
        let answer = respond.send_response(Response::new(()), false);
        let _ = answer.unwrap().send_data(Bytes::from("hello"), true);
    }
}

async fn text(reply: Reply) -> Bytes {
    let content = reply.response.into_body().collect().await;
    content.unwrap().to_bytes()
}

#[tokio::test]
async fn a_connection_carries_many_requests_and_ends_when_nobody_holds_it() {
    let (connections, server) = connected().await;
    let server = tokio::spawn(answer_all(server));
    for _ in 0..3 {
        let reply = place(&connections).await.send(get()).await;
        assert_eq!(text(reply.ok().unwrap()).await, "hello");
    }
    drop(connections);
    timeout(LONG, server).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_request_that_met_a_leaving_connection_can_be_sent_again() {
    let (connections, mut server) = connected().await;
    let place = place(&connections).await;
    server.abrupt_shutdown(Reason::NO_ERROR);
    while server.accept().await.is_some() {}
    // The farewell arrives.
    tokio::task::yield_now().await;
    let Err(SendFailure::Unsent(unsent)) = place.send(get()).await else {
        panic!("it cannot have been sent");
    };
    assert_eq!(unsent.error, UpstreamError::Broken);
    assert!(connections.free_place(NOW).is_none());
}

/// SETTINGS, and once HEADERS have come GOAWAY: nothing was looked at, because of the last byte.
async fn says_goodbye(mut far: DuplexStream, code: u8) {
    const FRAME_HEAD_BYTES: usize = 9;
    const PREFACE_BYTES: usize = 24;
    const HEADERS: u8 = 1;
    far.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    far.read_exact(&mut [0; PREFACE_BYTES]).await.unwrap();
    loop {
        let mut head = [0; FRAME_HEAD_BYTES];
        far.read_exact(&mut head).await.unwrap();
        let length = usize::from(head[1]) * 256 + usize::from(head[2]);
        far.read_exact(&mut vec![0; length]).await.unwrap();
        if head[3] == HEADERS {
            break;
        }
    }
    let goodbye = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, code];
    far.write_all(&goodbye).await.unwrap();
    pending::<()>().await;
}

#[tokio::test]
async fn a_request_that_came_after_a_goodbye_in_peace_can_be_sent_again() {
    for (code, is_unseen) in [(0, true), (2, false)] {
        let (near, far) = duplex(64 * 1024);
        let talk = async {
            let connection = Connection::begin(near, FOR_EVER, None).await.unwrap();
            Place::take(connection).send(get()).await.err().unwrap()
        };
        let failure = tokio::select! {
            failure = talk => failure,
            () = says_goodbye(far, code) => panic!("it says nothing more"),
        };
        let can_be_sent_again = matches!(failure, SendFailure::Unsent(_));
        assert_eq!(can_be_sent_again, is_unseen, "{code}");
    }
}

#[tokio::test]
async fn only_who_says_so_has_not_seen_a_request() {
    for (reason, is_unseen) in [
        (Reason::REFUSED_STREAM, true),
        (Reason::CANCEL, false),
        (Reason::INTERNAL_ERROR, false),
        (Reason::NO_ERROR, false),
    ] {
        let (connections, mut server) = connected().await;
        let served = place(&connections).await;
        served.connection().note_answer();
        let refusing = async {
            let (_, mut respond) = server.accept().await.unwrap().unwrap();
            respond.send_reset(reason);
            while server.accept().await.is_some() {}
        };
        let failure = tokio::select! {
            outcome = served.send(get()) => outcome.err().unwrap(),
            () = refusing => panic!("the connection ended"),
        };
        let can_be_sent_again = matches!(failure, SendFailure::Unsent(_));
        assert_eq!(can_be_sent_again, is_unseen, "{reason:?}");
        // Or a service that refuses would get each request three times.
        let is_free = matches!(failure, SendFailure::Unsent(unsent) if unsent.was_kept);
        assert!(!is_free, "{reason:?}");
    }
}

/// A request whose body does not end, as it comes from a client.
async fn endless() -> Outbound {
    let (mut client, near) = duplex(64 * 1024);
    let (sender, mut receiver) = mpsc::channel(1);
    let service = service_fn(move |request: Request<Incoming>| {
        let sender = sender.clone();
        async move {
            sender.send(request.into_body()).await.unwrap();
            pending::<Result<Response<String>, Infallible>>().await
        }
    });
    tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(near), service));
    tokio::spawn(async move {
        let head = b"POST / HTTP/1.1\r\ncontent-length: 1000000000\r\n\r\n";
        client.write_all(head).await.unwrap();
        while client.write_all(&[0; 1024]).await.is_ok() {}
    });
    let mut request = get();
    *request.method_mut() = Method::POST;
    *request.body_mut() = RequestBody::new(receiver.recv().await.unwrap(), u64::MAX, None);
    request
}

#[tokio::test]
async fn an_upload_that_waits_for_room_ends_with_whoever_waited_for_the_answer() {
    let (connections, mut server) = connected().await;
    let place = place(&connections).await;
    let asking = tokio::spawn(async move { place.send(endless().await).await.is_ok() });
    let (request, _respond) = server.accept().await.unwrap().unwrap();
    let mut body = request.into_body();
    let served = tokio::spawn(async move { while server.accept().await.is_some() {} });
    while body.flow_control().available_capacity() > 0 {
        body.data().await.unwrap().unwrap();
    }
    asking.abort();
    let end = loop {
        match body.data().await {
            Some(Ok(_)) => {}
            Some(Err(error)) => break error.reason(),
            None => break None,
        }
    };
    assert_eq!(end, Some(Reason::CANCEL));
    served.abort();
}

#[tokio::test]
async fn a_tunnel_carries_more_than_a_window_both_ways_and_its_end() {
    let (connections, mut server) = connected().await;
    let echo = tokio::spawn(async move {
        let (request, mut respond) = server.accept().await.unwrap().unwrap();
        let sending = respond.send_response(Response::new(()), false).unwrap();
        let running = tokio::spawn(async move { while server.accept().await.is_some() {} });
        let far = Tunnel::new(sending, request.into_body());
        let (mut from, mut to) = tokio::io::split(far);
        tokio::io::copy(&mut from, &mut to).await.unwrap();
        to.shutdown().await.unwrap();
        running.await.unwrap();
    });
    let reply = place(&connections).await.send(connect()).await;
    let (mut from, mut to) = tokio::io::split(reply.ok().unwrap().tunnel.unwrap());
    let bytes: Vec<u8> = (0..u32::from(u16::MAX))
        .flat_map(u32::to_be_bytes)
        .collect();
    let sent = bytes.clone();
    let writing = async move {
        to.write_all(&sent).await.unwrap();
        to.shutdown().await.unwrap();
        to
    };
    let mut back = Vec::new();
    let (_to, read) = tokio::join!(writing, from.read_to_end(&mut back));
    read.unwrap();
    assert!(back == bytes, "{} bytes of {}", back.len(), bytes.len());
    drop(connections);
    echo.abort();
}

#[tokio::test]
async fn a_connection_whose_other_side_is_silent_is_given_up_with_what_runs_on_it() {
    const OFTEN: Duration = Duration::from_millis(50);
    let (connections, mut server) = connected_asking(Some(OFTEN)).await;
    let asking = place(&connections).await.send(get());
    let silent = async {
        let (_request, _respond) = server.accept().await.unwrap().unwrap();
        pending::<()>().await;
    };
    tokio::select! {
        outcome = timeout(LONG, asking) => {
            let outcome = outcome.unwrap().err();
            assert!(matches!(outcome, Some(SendFailure::Sent(UpstreamError::Broken))));
        }
        () = silent => {}
    }
    assert!(connections.free_place(NOW).is_none());
}

#[tokio::test]
async fn a_connection_that_answers_pings_may_wait_for_ever() {
    const OFTEN: Duration = Duration::from_millis(20);
    let (connections, mut server) = connected_asking(Some(OFTEN)).await;
    let asking = place(&connections).await.send(get());
    let answering = async {
        let (_request, _respond) = server.accept().await.unwrap().unwrap();
        while server.accept().await.is_some() {}
    };
    tokio::select! {
        outcome = timeout(20 * OFTEN, asking) => assert!(outcome.is_err(), "it goes on"),
        () = answering => panic!("the connection ended"),
    }
    assert!(connections.free_place(NOW).is_some());
}
