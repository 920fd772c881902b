//! HTTP/1.1 keep-alive to the local service: one request at a time on each connection.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, Response, header};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use testudo_model::{Clock, FleetMap, limits};
use tokio::task::AbortHandle;

use super::{Answer, Lease, Outbound, SendFailure, Unsent, connect, failure};
use crate::{
    arriving::Arriving,
    body::{RequestBody, Upload},
    framing::content_length,
    overload::RetryBudget,
    rejection::UpstreamError,
};

/// Connections of one worker to one service, idle and busy.
const MAX_OPEN: usize = 4_096;
/// Idle connections kept.
const MAX_IDLE: usize = 256;
/// Idle time after which a connection is not used again, and closed within as much again. Shorter than what common
/// servers allow (Node.js: 5 s), so that a request rarely meets a connection that is being closed.
const IDLE: Duration = Duration::from_secs(4);
/// Time an idle connection has to be ready. It is as soon as its task has had a turn, unless the service has not
/// read the request before.
const READY_WAIT: Duration = Duration::from_millis(100);
/// A connection that was closed while idle is noticed when it is used; so many in a row are not chance.
const ATTEMPTS: usize = 3;

type Sender = http1::SendRequest<RequestBody>;

/// The connections of one worker to local services.
pub(crate) struct LocalPool {
    clock: Arc<dyn Clock>,
    services: Mutex<FleetMap<SocketAddr, Arc<Service>>>,
}

struct Service {
    address: SocketAddr,
    open: AtomicUsize,
    idle: Mutex<IdleConnections>,
    retries: RetryBudget,
}

#[derive(Default)]
struct IdleConnections {
    /// The longest idle first.
    kept: Vec<Idle>,
    /// Whether a task closes those that get old.
    are_watched: bool,
}

struct Idle {
    connection: LocalConnection,
    since_nanos: u64,
}

/// Dropped, it is closed, whatever is still being written to it.
pub(crate) struct LocalConnection {
    sender: Sender,
    task: AbortHandle,
    slot: Slot,
}

/// One of the connections that a service may have.
struct Slot(Arc<Service>);

/// A connection that carries an answer. Dropped before the answer is complete, it is closed.
pub(crate) struct LocalLease {
    connection: LocalConnection,
    upload: Upload,
    clock: Arc<dyn Clock>,
}

impl LocalPool {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            services: Mutex::default(),
        }
    }

    /// Sends `request` to the service at `address`.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub(crate) async fn send(
        &self,
        address: SocketAddr,
        request: Outbound,
    ) -> Result<Answer, UpstreamError> {
        let service = self.service(address);
        let upload = request.body().upload();
        let mut request = request;
        service.retries.earn();
        for _ in 0..ATTEMPTS {
            let kept = self.idle_connection(&service).await;
            let was_kept = kept.is_some();
            let connection = match kept {
                Some(connection) => connection,
                None => service.open().await?,
            };
            match send_on(connection, request, &upload, was_kept).await {
                Ok((response, connection)) => {
                    let lease = LocalLease {
                        connection,
                        upload,
                        clock: Arc::clone(&self.clock),
                    };
                    return Ok(answer(response, Lease::Local(lease)));
                }
                Err(SendFailure::Sent(error)) => return Err(error),
                Err(SendFailure::Unsent(unsent)) => {
                    request = unsent.request;
                    if !unsent.was_kept && !service.retries.spend() {
                        break;
                    }
                }
            }
        }
        Err(UpstreamError::Broken)
    }

    /// Sends `request`, which asks for another protocol, on a connection of its own: it is not used before, and not
    /// after, whatever the service answers.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub(crate) async fn switch(
        &self,
        address: SocketAddr,
        request: Outbound,
    ) -> Result<Answer, UpstreamError> {
        let connection = self.service(address).open().await?;
        let upload = request.body().upload();
        match send_on(connection, request, &upload, false).await {
            Ok((response, connection)) => Ok(answer(response, Lease::Switched(connection))),
            Err(SendFailure::Sent(error)) => Err(error),
            Err(SendFailure::Unsent(unsent)) => Err(unsent.error),
        }
    }

    fn service(&self, address: SocketAddr) -> Arc<Service> {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        let service = services.entry(address).or_insert_with(|| {
            Arc::new(Service {
                address,
                open: AtomicUsize::new(0),
                idle: Mutex::default(),
                retries: RetryBudget::default(),
            })
        });
        Arc::clone(service)
    }

    async fn idle_connection(&self, service: &Service) -> Option<LocalConnection> {
        loop {
            let now = self.clock.monotonic_nanos();
            // The most recently used: the others get old and are let go.
            let idle = service.lock().kept.pop()?;
            if idle.is_old(now) {
                service.lock().kept.clear();
                return None;
            }
            let mut connection = idle.connection;
            let ready = tokio::time::timeout(READY_WAIT, connection.sender.ready());
            if matches!(ready.await, Ok(Ok(()))) {
                return Some(connection);
            }
        }
    }
}

fn answer(response: Response<Incoming>, lease: Lease) -> Answer {
    Answer {
        response: response.map(Arriving::from),
        tunnel: None,
        lease,
    }
}

async fn send_on(
    mut connection: LocalConnection,
    request: Outbound,
    upload: &Upload,
    was_kept: bool,
) -> Result<(Response<Incoming>, LocalConnection), SendFailure> {
    match connection.sender.try_send_request(*request).await {
        Ok(response) if is_framed_once(response.headers()) => Ok((response, connection)),
        Ok(_) => Err(SendFailure::Sent(UpstreamError::Broken)),
        Err(mut error) => Err(match error.take_message() {
            Some(request) => SendFailure::Unsent(Unsent {
                request: Box::new(request),
                error: UpstreamError::Broken,
                was_kept,
            }),
            None => SendFailure::Sent(failure(upload)),
        }),
    }
}

/// Whether everybody reads the same body of an answer (RFC 9112 section 6.3). hyper reads what it can make sense of,
/// and leaves the fields as they are to whoever comes next.
fn is_framed_once(fields: &HeaderMap) -> bool {
    let mut lengths = fields.get_all(header::CONTENT_LENGTH).iter();
    let mut codings = fields.get_all(header::TRANSFER_ENCODING).iter();
    match (
        (lengths.next(), lengths.next()),
        (codings.next(), codings.next()),
    ) {
        ((None, _), (None, _)) => true,
        ((Some(length), None), (None, _)) => content_length(length.as_bytes()).is_some(),
        ((None, _), (Some(coding), None)) => coding.as_bytes().eq_ignore_ascii_case(b"chunked"),
        _ => false,
    }
}

impl Service {
    async fn open(self: &Arc<Self>) -> Result<LocalConnection, UpstreamError> {
        let slot = Slot::take(self)?;
        let (sender, task) = self.connect().await?;
        Ok(LocalConnection { sender, task, slot })
    }

    async fn connect(&self) -> Result<(Sender, AbortHandle), UpstreamError> {
        let socket = connect(self.address).await?;
        let (sender, connection) = http1::Builder::new()
            .max_headers(limits::MAX_HEADER_FIELDS)
            .max_buf_size(limits::MAX_HEADER_BYTES + limits::MAX_PATH_BYTES)
            .handshake(TokioIo::new(socket))
            .await
            .map_err(|_| UpstreamError::Unreachable)?;
        let task = tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "connection to the local service ended");
            }
        });
        Ok((sender, task.abort_handle()))
    }

    /// Closes connections that get old, until none is idle. After a burst nobody else would: a request takes one.
    async fn close_old(self: Arc<Self>, clock: Arc<dyn Clock>) {
        loop {
            tokio::time::sleep(IDLE).await;
            let now = clock.monotonic_nanos();
            let mut idle = self.lock();
            let old = idle.kept.partition_point(|idle| idle.is_old(now));
            idle.kept.drain(..old);
            if idle.kept.is_empty() {
                idle.are_watched = false;
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, IdleConnections> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Idle {
    fn is_old(&self, now_nanos: u64) -> bool {
        Duration::from_nanos(now_nanos.saturating_sub(self.since_nanos)) > IDLE
    }
}

impl LocalLease {
    /// Makes the connection available again, unless a request is still being sent on it: the next one would wait
    /// behind a client that may take its time.
    pub(crate) fn give_back(self) {
        if !self.upload.has_ended() || self.connection.sender.is_closed() {
            return;
        }
        let service = Arc::clone(&self.connection.slot.0);
        let idle = Idle {
            connection: self.connection,
            since_nanos: self.clock.monotonic_nanos(),
        };
        let mut connections = service.lock();
        if connections.kept.len() < MAX_IDLE {
            connections.kept.push(idle);
        }
        if !connections.are_watched {
            connections.are_watched = true;
            drop(connections);
            tokio::spawn(service.close_old(self.clock));
        }
    }
}

impl Drop for LocalConnection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Slot {
    fn take(service: &Arc<Service>) -> Result<Self, UpstreamError> {
        let slot = Self(Arc::clone(service));
        if service.open.fetch_add(1, Ordering::AcqRel) < MAX_OPEN {
            Ok(slot)
        } else {
            Err(UpstreamError::Overloaded)
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use testudo_testkit::FakeClock;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    /// Answers one request, and returns when the other side has closed.
    async fn answer_once(mut socket: TcpStream) {
        let mut bytes = [0; 1_024];
        assert!(socket.read(&mut bytes).await.unwrap() > 0);
        let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
        socket.write_all(answer).await.unwrap();
        assert_eq!(socket.read(&mut bytes).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn connections_that_nobody_uses_any_more_are_closed() {
        let clock = FakeClock::today();
        let pool = LocalPool::new(Arc::clone(&clock) as Arc<dyn Clock>);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = async {
            let connections = std::iter::repeat_with(|| listener.accept()).take(3);
            let accepted = futures_util::future::join_all(connections).await;
            let answered = accepted.into_iter().map(|it| answer_once(it.unwrap().0));
            futures_util::future::join_all(answered).await;
        };
        let client = async {
            let requests = (0..3).map(|_| {
                let request = Request::get("/").header("host", "orders");
                pool.send(
                    address,
                    Box::new(request.body(RequestBody::none()).unwrap()),
                )
            });
            for answer in futures_util::future::join_all(requests).await {
                answer
                    .unwrap_or_else(|error| panic!("{error:?}"))
                    .lease
                    .give_back();
            }
            let kept = pool.service(address).lock().kept.len();
            assert_eq!(kept, 3, "they are kept first");
            clock.advance(2 * IDLE);
        };
        let both = futures_util::future::join(service, client);
        tokio::time::timeout(3 * IDLE, both)
            .await
            .expect("all are closed");
    }

    #[tokio::test]
    async fn whoever_gives_up_while_connecting_takes_no_place_away() {
        let pool = LocalPool::new(FakeClock::today());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let service = pool.service(listener.local_addr().unwrap());
        for _ in 0..3 {
            let connecting = service.open();
            // The connection is begun in the first poll and never made: the request was given up.
            assert!(futures_util::FutureExt::now_or_never(connecting).is_none());
        }
        assert_eq!(service.open.load(Ordering::Acquire), 0);
        let connection = service.open().await.unwrap();
        assert_eq!(service.open.load(Ordering::Acquire), 1);
        drop(connection);
        assert_eq!(service.open.load(Ordering::Acquire), 0);
    }
}
