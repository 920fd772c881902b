//! HTTP/2 connections to one address, and the streams on them: few connections, many streams.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Ping, PingPong, Reason, RecvStream, SendStream,
    client::{Builder, SendRequest},
};
use http::{Method, Request, Response, StatusCode, header};
use http_body::Body;
use testudo_model::{Timestamp, limits};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::{AbortHandle, yield_now},
    time::{sleep, timeout},
};

use super::{Answer, Lease, Outbound, SendFailure, Unsent, failure};
use crate::{
    arriving::Arriving,
    body::{RequestBody, Upload},
    http2::{Received, Sending, Tunnel},
    rejection::UpstreamError,
};

/// Streams on one connection before another is opened; our proxies allow [`limits::MAX_HTTP2_STREAMS`].
pub(super) const STREAMS_PER_CONNECTION: usize = 200;
/// Connections of one worker to one address.
pub(super) const MAX_CONNECTIONS: usize = 8;
/// Streams before the other side has said how many it takes.
const STREAMS_BEFORE_SETTINGS: usize = 100;
/// A connection that answers no ping for this long is dead.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// The connections to one address.
#[derive(Default)]
pub(super) struct Connections {
    open: Mutex<Vec<Arc<Connection>>>,
    /// Held while a connection is opened, so that a burst opens one and not hundreds.
    opening: tokio::sync::Mutex<()>,
    /// Connections that could not be opened so far.
    failed: AtomicU64,
}

/// One connection.
pub(super) struct Connection {
    sender: SendRequest<Bytes>,
    streams: AtomicUsize,
    has_answered: AtomicBool,
    /// The other side takes no more streams.
    is_leaving: AtomicBool,
    /// No stream begins on it after this.
    usable_until: Timestamp,
    task: AbortHandle,
}

/// A place for a stream on a connection; free again when dropped.
pub(super) struct Place(Arc<Connection>);

/// A request under way; ends when dropped.
pub(crate) struct OpenStream {
    place: Place,
    upload: Upload,
}

/// An upstream's answer, and what it keeps open.
pub(super) struct Reply {
    response: Response<Arriving>,
    tunnel: Option<Tunnel>,
    stream: OpenStream,
}

impl Reply {
    /// The answer, with what `lease` makes of what is kept.
    pub(super) fn leased(self, lease: impl FnOnce(OpenStream) -> Lease) -> Answer {
        Answer {
            response: self.response,
            tunnel: self.tunnel,
            lease: lease(self.stream),
        }
    }
}

impl Connections {
    /// A place on the least used connection, or on a new one from `open` if those there are have enough.
    pub(super) async fn place<F>(
        &self,
        now: Timestamp,
        open: impl FnOnce() -> F,
    ) -> Result<Place, UpstreamError>
    where
        F: Future<Output = Result<Arc<Connection>, UpstreamError>>,
    {
        if let Some(place) = self.free_place(now) {
            return Ok(place);
        }
        let failed_before = self.failed.load(Ordering::Acquire);
        let _one_at_a_time = self.opening.lock().await;
        if let Some(place) = self.free_place(now) {
            return Ok(place);
        }
        // Whoever waited has waited for this attempt; each trying in turn would wait as many times as long.
        if self.failed.load(Ordering::Acquire) != failed_before {
            return Err(UpstreamError::Unreachable);
        }
        if self.lock().len() >= MAX_CONNECTIONS {
            return Err(UpstreamError::Overloaded);
        }
        // Boxed: opening is rare and its future large, and every request would carry it.
        let opened = Box::pin(open()).await.inspect_err(|_| {
            self.failed.fetch_add(1, Ordering::AcqRel);
        });
        let connection = opened?;
        self.lock().push(Arc::clone(&connection));
        Ok(Place::take(connection))
    }

    /// Closes all connections with everything that runs on them.
    pub(super) fn close(&self) {
        for connection in self.lock().drain(..) {
            connection.task.abort();
        }
    }

    /// A place on the least used connection, if it has room. Connections that have ended or may not be used any more
    /// are let go; what runs on them may finish.
    fn free_place(&self, now: Timestamp) -> Option<Place> {
        let mut connections = self.lock();
        connections.retain(|connection| connection.is_usable(now));
        let streams = |connection: &Arc<Connection>| connection.streams.load(Ordering::Relaxed);
        let least = connections
            .iter()
            .min_by_key(|connection| streams(connection))?;
        (streams(least) < STREAMS_PER_CONNECTION).then(|| Place::take(Arc::clone(least)))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Connection>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    /// Begins HTTP/2 on `stream`. `asks_every`: how often the other side is asked if it is still there, while something
    /// runs.
    pub(super) async fn begin(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        usable_until: Timestamp,
        asks_every: Option<Duration>,
    ) -> Result<Arc<Self>, UpstreamError> {
        let (sender, mut connection) = Builder::new()
            .enable_push(false)
            .initial_max_send_streams(STREAMS_BEFORE_SETTINGS)
            .initial_window_size(limits::MESH_STREAM_WINDOW_BYTES)
            .initial_connection_window_size(limits::MESH_CONNECTION_WINDOW_BYTES)
            .max_header_list_size(u32::try_from(limits::MAX_HEADER_BYTES).unwrap_or(u32::MAX))
            .handshake(stream)
            .await
            .map_err(|_| UpstreamError::Unreachable)?;
        let pings = connection.ping_pong();
        let task = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "HTTP/2 connection ended");
            }
        });
        let connection = Arc::new(Self {
            sender,
            streams: AtomicUsize::new(0),
            has_answered: AtomicBool::new(false),
            is_leaving: AtomicBool::new(false),
            usable_until,
            task: task.abort_handle(),
        });
        if let (Some(pings), Some(every)) = (pings, asks_every) {
            tokio::spawn(keep_asking(pings, Arc::downgrade(&connection), every));
        }
        Ok(connection)
    }

    fn is_usable(&self, now: Timestamp) -> bool {
        !self.is_leaving.load(Ordering::Relaxed)
            && !self.task.is_finished()
            && now < self.usable_until
    }

    /// A sender that takes a request, unless the other side takes no more.
    async fn ready(&self) -> Option<SendRequest<Bytes>> {
        let ready = self.sender.clone().ready().await;
        if ready.is_err() {
            self.is_leaving.store(true, Ordering::Relaxed);
        }
        ready.ok()
    }
}

/// Asks the other side `every` so often if it is still there, as long as something runs on `connection`, and ends that if
/// it is not. In a task of its own, so that a request pays nothing for it.
async fn keep_asking(mut pings: PingPong, connection: Weak<Connection>, every: Duration) {
    loop {
        sleep(every).await;
        let Some(connection) = connection.upgrade() else {
            return;
        };
        if connection.streams.load(Ordering::Relaxed) == 0 {
            continue;
        }
        let answered = timeout(PING_TIMEOUT.min(every), pings.ping(Ping::opaque())).await;
        if !matches!(answered, Ok(Ok(_))) {
            connection.task.abort();
            return;
        }
    }
}

impl Place {
    fn take(connection: Arc<Connection>) -> Self {
        connection.streams.fetch_add(1, Ordering::Relaxed);
        Self(connection)
    }

    /// Sends `request` from here.
    pub(super) async fn send(self, request: Outbound) -> Result<Reply, SendFailure> {
        let ends_with_head = request.body().is_end_stream() && *request.method() != Method::CONNECT;
        if !ends_with_head {
            // What is sent of a body cannot be sent again, so a farewell that has arrived is read first.
            yield_now().await;
        }
        let Some(sender) = self.0.ready().await else {
            return Err(SendFailure::Unsent(self.unsent(request)));
        };
        let upload = request.body().upload();
        let (head, body) = request.into_parts();
        let mut head = Request::from_parts(head, ());
        announce_length(&mut head, &body);
        // Dropped when nobody waits any more, also before the answer, it ends the sending of the body.
        let stream = OpenStream {
            place: self,
            upload,
        };
        if ends_with_head {
            // Tells that all was sent.
            drop(body);
            stream.send_head(sender, head).await
        } else {
            stream.send_whole(sender, head, body).await
        }
    }

    /// `request`, which nobody has seen.
    fn unsent(&self, request: Outbound) -> Unsent {
        Unsent {
            request,
            error: UpstreamError::Broken,
            was_kept: self.0.has_answered.load(Ordering::Relaxed),
        }
    }
}

impl OpenStream {
    /// Sends a request without a body.
    async fn send_head(
        self,
        mut sender: SendRequest<Bytes>,
        head: Request<()>,
    ) -> Result<Reply, SendFailure> {
        let again = head.clone();
        let sent = sender.send_request(head, true);
        drop(sender);
        let outcome = match sent {
            Ok((answer, _)) => answer.await,
            Err(error) => Err(error),
        };
        match outcome {
            Ok(answer) => Ok(self.reply(answer, None)),
            Err(error) if is_unseen(&error) => {
                let request = again.map(|()| RequestBody::none());
                Err(SendFailure::Unsent(self.place.unsent(Box::new(request))))
            }
            Err(_) => Err(self.failure()),
        }
    }

    /// Sends a request with what follows its head.
    async fn send_whole(
        self,
        mut sender: SendRequest<Bytes>,
        head: Request<()>,
        body: RequestBody,
    ) -> Result<Reply, SendFailure> {
        let is_connect = head.method() == Method::CONNECT;
        let (answer, sending) = sender
            .send_request(head, false)
            .map_err(|_| self.failure())?;
        drop(sender);
        let mut tunnel = None;
        if is_connect {
            drop(body);
            tunnel = Some(sending);
        } else {
            send_body(Sending::new(body, sending)).await;
        }
        let answer = answer.await.map_err(|_| self.failure())?;
        Ok(self.reply(answer, tunnel))
    }

    fn failure(&self) -> SendFailure {
        SendFailure::Sent(failure(&self.upload))
    }

    fn reply(self, answer: Response<RecvStream>, tunnel: Option<SendStream<Bytes>>) -> Reply {
        self.place.0.has_answered.store(true, Ordering::Relaxed);
        let (head, receiving) = answer.into_parts();
        let (tunnel, content) = match tunnel {
            Some(sending) if head.status == StatusCode::OK => {
                (Some(Tunnel::new(sending, receiving)), Arriving::Nothing)
            }
            _ => (
                None,
                Arriving::Answer(Received::new(receiving, &head.headers)),
            ),
        };
        Reply {
            response: Response::from_parts(head, content),
            tunnel,
            stream: self,
        }
    }
}

/// Whether the other side has certainly not looked at the request: it said goodbye before it came (RFC 9113 section 6.8),
/// or had no place for it (section 8.7).
fn is_unseen(error: &h2::Error) -> bool {
    let is_left_out = error.is_go_away() && error.reason() == Some(Reason::NO_ERROR);
    error.is_remote() && (is_left_out || error.reason() == Some(Reason::REFUSED_STREAM))
}

/// RFC 9110 section 8.6: a length that is known is said, also none where a method usually has content.
fn announce_length(head: &mut Request<()>, body: &RequestBody) {
    let has_meaning = !matches!(
        *head.method(),
        Method::GET | Method::HEAD | Method::DELETE | Method::CONNECT
    );
    if let Some(length) = body.size_hint().exact()
        && (length > 0 || has_meaning)
    {
        let announced = head.headers_mut().entry(header::CONTENT_LENGTH);
        announced.or_insert_with(|| length.into());
    }
}

/// Sends as much as there is room for, and the rest aside.
async fn send_body(mut sending: Sending) {
    let is_sent = poll_fn(|context| Poll::Ready(Pin::new(&mut sending).poll(context).is_ready()));
    if !is_sent.await {
        tokio::spawn(sending);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        // Or the stream would go on, and its place be taken twice.
        self.upload.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, future::pending};

    use h2::{ext::Protocol, server};
    use http_body_util::BodyExt;
    use hyper::{body::Incoming, server::conn::http1, service::service_fn};
    use hyper_util::rt::TokioIo;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        sync::mpsc,
    };

    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_seconds(0);
    const FOR_EVER: Timestamp = Timestamp::from_unix_seconds(i64::MAX);

    type Server = server::Connection<DuplexStream, Bytes>;

    /// Connections with one to a server, which has done nothing yet.
    async fn connected() -> (Connections, Server) {
        let (near, far) = duplex(1024 * 1024);
        let mut settings = server::Builder::new();
        settings.enable_connect_protocol();
        let (begun, server) = tokio::join!(
            Connection::begin(near, FOR_EVER, None),
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
        timeout(PING_TIMEOUT, server).await.unwrap().unwrap();
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
            let refusing = async {
                let (_, mut respond) = server.accept().await.unwrap().unwrap();
                respond.send_reset(reason);
                while server.accept().await.is_some() {}
            };
            let sending = place(&connections).await.send(get());
            let failure = tokio::select! {
                outcome = sending => outcome.err().unwrap(),
                () = refusing => panic!("the connection ended"),
            };
            let can_be_sent_again = matches!(failure, SendFailure::Unsent(_));
            assert_eq!(can_be_sent_again, is_unseen, "{reason:?}");
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
        let (near, far) = duplex(1024 * 1024);
        let begun = Connection::begin(near, FOR_EVER, Some(OFTEN));
        let (begun, server) = tokio::join!(begun, server::handshake(far));
        let (connections, mut server) = (Connections::default(), server.unwrap());
        connections.lock().push(begun.unwrap());
        let asking = place(&connections).await.send(get());
        let silent = async {
            let (_request, _respond) = server.accept().await.unwrap().unwrap();
            pending::<()>().await;
        };
        tokio::select! {
            outcome = timeout(PING_TIMEOUT, asking) => {
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
        let (near, far) = duplex(1024 * 1024);
        let begun = Connection::begin(near, FOR_EVER, Some(OFTEN));
        let (begun, server) = tokio::join!(begun, server::handshake(far));
        let (connections, mut server) = (Connections::default(), server.unwrap());
        connections.lock().push(begun.unwrap());
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
}
