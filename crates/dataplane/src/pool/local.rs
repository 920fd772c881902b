//! HTTP/1.1 keep-alive to the local service: one request at a time on each connection.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, Request, header};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use testudo_model::{Clock, limits};

use super::{Answer, Lease, SendFailure, Unsent, connect, failure};
use crate::{body::RequestBody, framing::content_length, rejection::UpstreamError};

/// Connections of one worker to one service, idle and busy.
const MAX_OPEN: usize = 4_096;
/// Idle connections kept.
const MAX_IDLE: usize = 256;
/// Idle time after which a connection is not used again. Shorter than what common servers allow (Node.js: 5 s),
/// so that a request rarely meets a connection that is being closed.
const IDLE_NANOS: u64 = Duration::from_secs(4).as_nanos() as u64;
/// A connection that was closed while idle is noticed when it is used; so many in a row are not chance.
const ATTEMPTS: usize = 3;

type Sender = http1::SendRequest<RequestBody>;

/// The connections of one worker to local services.
pub(crate) struct LocalPool {
    clock: Arc<dyn Clock>,
    services: Mutex<HashMap<SocketAddr, Arc<Service>>>,
}

struct Service {
    address: SocketAddr,
    open: AtomicUsize,
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    connection: LocalConnection,
    since_nanos: u64,
}

pub(crate) struct LocalConnection {
    sender: Sender,
    service: Arc<Service>,
}

/// A connection that carries an answer. Dropped before the answer is complete, it is closed.
pub(crate) struct LocalLease {
    connection: LocalConnection,
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
        request: Request<RequestBody>,
    ) -> Result<Answer, UpstreamError> {
        let service = self.service(address);
        let mut request = request;
        for _ in 0..ATTEMPTS {
            let connection = match self.idle_connection(&service).await {
                Some(connection) => connection,
                None => service.open().await?,
            };
            match send_on(connection, request).await {
                Ok((response, connection)) => {
                    let lease = LocalLease {
                        connection,
                        clock: Arc::clone(&self.clock),
                    };
                    return Ok((response, Lease::Local(lease)));
                }
                Err(SendFailure::Sent(error)) => return Err(error),
                Err(SendFailure::Unsent(unsent)) => request = *unsent.request,
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
        request: Request<RequestBody>,
    ) -> Result<Answer, UpstreamError> {
        let connection = self.service(address).open().await?;
        match send_on(connection, request).await {
            Ok((response, connection)) => Ok((response, Lease::Switched(connection))),
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
            })
        });
        Arc::clone(service)
    }

    async fn idle_connection(&self, service: &Service) -> Option<LocalConnection> {
        loop {
            let now = self.clock.monotonic_nanos();
            // The most recently used: the others get old and are let go.
            let idle = service.lock().pop()?;
            if now.saturating_sub(idle.since_nanos) > IDLE_NANOS {
                service.lock().clear();
                return None;
            }
            let mut connection = idle.connection;
            if connection.sender.ready().await.is_ok() {
                return Some(connection);
            }
        }
    }
}

async fn send_on(
    mut connection: LocalConnection,
    request: Request<RequestBody>,
) -> Result<(http::Response<hyper::body::Incoming>, LocalConnection), SendFailure> {
    let outcome = request.body().outcome();
    match connection.sender.try_send_request(request).await {
        Ok(response) if is_framed_once(response.headers()) => Ok((response, connection)),
        Ok(_) => Err(SendFailure::Sent(UpstreamError::Broken)),
        Err(mut error) => Err(match error.take_message() {
            Some(request) => SendFailure::Unsent(Unsent {
                request: Box::new(request),
                error: UpstreamError::Broken,
            }),
            None => SendFailure::Sent(failure(&outcome)),
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
        if self.open.fetch_add(1, Ordering::AcqRel) >= MAX_OPEN {
            self.open.fetch_sub(1, Ordering::AcqRel);
            return Err(UpstreamError::Overloaded);
        }
        match self.connect().await {
            Ok(sender) => Ok(LocalConnection {
                sender,
                service: Arc::clone(self),
            }),
            Err(error) => {
                self.open.fetch_sub(1, Ordering::AcqRel);
                Err(error)
            }
        }
    }

    async fn connect(&self) -> Result<Sender, UpstreamError> {
        let socket = connect(self.address).await?;
        let (sender, connection) = http1::Builder::new()
            .max_headers(limits::MAX_HEADER_FIELDS)
            .max_buf_size(limits::MAX_HEADER_BYTES + limits::MAX_PATH_BYTES)
            .handshake(TokioIo::new(socket))
            .await
            .map_err(|_| UpstreamError::Unreachable)?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "connection to the local service ended");
            }
        });
        Ok(sender)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LocalLease {
    /// Makes the connection available again.
    pub(crate) fn give_back(self) {
        let service = Arc::clone(&self.connection.service);
        let idle = Idle {
            connection: self.connection,
            since_nanos: self.clock.monotonic_nanos(),
        };
        let mut connections = service.lock();
        if connections.len() < MAX_IDLE && !idle.connection.sender.is_closed() {
            connections.push(idle);
        } else {
            drop(connections);
        }
    }
}

impl Drop for LocalConnection {
    fn drop(&mut self) {
        self.service.open.fetch_sub(1, Ordering::AcqRel);
    }
}
