//! Listening for HTTP/3: QUIC connections, and what they may cost before anybody is known to be behind them.

use std::{
    io,
    net::{IpAddr, UdpSocket},
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use http::{HeaderMap, HeaderValue, Request, header};
use quinn::{
    Endpoint, EndpointConfig, IdleTimeout, Incoming, ServerConfig, TokioRuntime, TransportConfig,
    VarInt, crypto::rustls::QuicServerConfig,
};
use testudo_model::limits;
use testudo_runtime::DrainWatch;
use testudo_trust::{WebCertificate, web_server_config};
use tokio::{sync::Semaphore, task::JoinSet};

use super::{GatewayWorker, ROLE};
use crate::{
    arriving::Arriving,
    datagrams::Datagrams,
    exchange::Exchange,
    http3,
    listener::{self, StartError},
    serve::Activity,
    slots::ConnectionSlots,
};

/// Requests under way on one connection.
const MAX_STREAMS: u32 = 100;
/// Streams of the client's direction alone: control, and two of QPACK (RFC 9114 section 6.2), with room for such that mean
/// nothing.
const MAX_UNIDIRECTIONAL_STREAMS: u32 = 8;
/// Flow control.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// First packets that wait for a worker; further ones are dropped.
const MAX_WAITING: usize = 1024;
/// What is kept of one of them, and of all.
const WAITING_BYTES: u64 = 16 * 1024;
const ALL_WAITING_BYTES: u64 = 8 * 1024 * 1024;
/// Handshakes under way in a worker above which a client must first show that it receives at its address (RFC 9000 section
/// 8.1.2), which costs us nothing and it a round trip.
const UNVALIDATED_HANDSHAKES: usize = 64;
/// How long clients remember that HTTP/3 is served: a day.
const REMEMBERED_SECONDS: u32 = 24 * 3600;

/// What all workers need to listen for HTTP/3.
pub(super) struct Http3 {
    config: ServerConfig,
    datagrams: Datagrams,
}

impl Http3 {
    /// # Errors
    /// [`StartError::Quic`].
    pub(super) fn new(
        datagrams: Datagrams,
        certificate: WebCertificate,
    ) -> Result<Arc<Self>, StartError> {
        // It allows no early data: a request in it could be sent again by whoever saw it.
        let tls = web_server_config(certificate, false, &["h3"]);
        let crypto = QuicServerConfig::try_from(tls).map_err(|_| StartError::Quic)?;
        let mut config = ServerConfig::with_crypto(Arc::new(crypto));
        config
            .transport_config(Arc::new(transport()?))
            // The kernel chooses the worker by both addresses: on a new one the client would meet another.
            .migration(false)
            .max_incoming(MAX_WAITING)
            .incoming_buffer_size(WAITING_BYTES)
            .incoming_buffer_size_total(ALL_WAITING_BYTES);
        Ok(Arc::new(Self { config, datagrams }))
    }

    /// What tells clients over TCP where HTTP/3 is (RFC 7838).
    pub(super) fn alternative(&self) -> Option<HeaderValue> {
        let port = self.datagrams.address().port();
        HeaderValue::from_str(&format!("h3=\":{port}\"; ma={REMEMBERED_SECONDS}")).ok()
    }

    fn open(&self, socket: UdpSocket) -> io::Result<Endpoint> {
        let config = Some(self.config.clone());
        let runtime = Arc::new(TokioRuntime);
        Endpoint::new(EndpointConfig::default(), config, socket, runtime)
    }
}

fn transport() -> Result<TransportConfig, StartError> {
    let idle = IdleTimeout::try_from(limits::IDLE_TIMEOUT).map_err(|_| StartError::Quic)?;
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(MAX_STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(MAX_UNIDIRECTIONAL_STREAMS))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES))
        .send_window(http3::SEND_WINDOW_BYTES)
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(Some(idle));
    Ok(transport)
}

impl GatewayWorker {
    /// Serves HTTP/3 until the drain, then finishes what is under way, at most until `deadline`.
    pub(super) async fn serve_http3(
        self: Arc<Self>,
        http3: Arc<Http3>,
        slots: ConnectionSlots,
        mut drain: DrainWatch,
        deadline: Duration,
    ) {
        let socket = tokio::select! {
            socket = http3.datagrams.socket() => socket,
            () = drain.drained() => None,
        };
        let Some(socket) = socket else { return };
        let endpoint = match http3.open(socket) {
            Ok(endpoint) => endpoint,
            Err(error) => return tracing::error!(%error, "the socket for HTTP/3 cannot be used"),
        };
        let unvalidated = Arc::new(Semaphore::new(UNVALIDATED_HANDSHAKES));
        let mut connections = JoinSet::new();
        loop {
            let incoming = tokio::select! {
                () = drain.drained() => break,
                Some(ended) = connections.join_next() => {
                    listener::report(&ended);
                    continue;
                }
                incoming = endpoint.accept() => incoming,
            };
            let Some(incoming) = incoming else { break };
            let trust = Arc::clone(&unvalidated).try_acquire_owned().ok();
            if trust.is_none() && !incoming.remote_address_validated() {
                // It can only fail for one that was sent again.
                let _ = incoming.retry();
                continue;
            }
            let Some(slot) = slots.try_take() else {
                incoming.refuse();
                continue;
            };
            let (gateway, slots, drain) = (Arc::clone(&self), slots.clone(), drain.clone());
            connections.spawn(async move {
                let _open = gateway.worker.proxy.metrics.connection(ROLE);
                let handshake = gateway.handshake(incoming).await;
                drop(trust);
                let Some(connection) = handshake else { return };
                // Only now: an address that has not shown that it receives may be anybody's.
                let client = connection.remote_address().ip().to_canonical();
                match slots.for_source(slot, client) {
                    Some(_slot) => gateway.quic_connection(connection, client, drain).await,
                    None => connection.close(http3::EXCESSIVE_LOAD, b""),
                }
            });
        }
        endpoint.set_server_config(None);
        listener::finish(connections, deadline).await;
        endpoint.close(http3::NO_ERROR, b"");
        // Closes that arrive spare clients a timeout.
        let _ = tokio::time::timeout(limits::LINGER_TIMEOUT, endpoint.wait_idle()).await;
    }

    /// The handshake that `incoming` begins, after which the client is known to be where it says.
    async fn handshake(&self, incoming: Incoming) -> Option<quinn::Connection> {
        let handshake = async { incoming.accept()?.await };
        let Ok(Ok(connection)) = tokio::time::timeout(limits::HANDSHAKE_TIMEOUT, handshake).await
        else {
            self.worker.proxy.metrics.handshake_failed(ROLE);
            return None;
        };
        Some(connection)
    }

    /// Serves one connection.
    async fn quic_connection(
        self: Arc<Self>,
        connection: quinn::Connection,
        client: IpAddr,
        drain: DrainWatch,
    ) {
        let transfer = self.worker.proxy.transfer();
        let activity = Activity::new();
        let requests = Arc::clone(&activity);
        let service = move |request: Request<Arriving>| {
            let (gateway, active) = (Arc::clone(&self), requests.begin());
            Box::pin(async move {
                let exchange = Exchange::begin(&gateway.worker, ROLE, &request, client, active);
                let mut answer = gateway.respond(exchange, request).await;
                gateway.date(answer.headers_mut());
                answer
            })
        };
        http3::serve(connection, service, transfer, activity, drain).await;
    }

    /// Says when the answer was made, if the service does not (RFC 9110 section 6.6.1).
    fn date(&self, fields: &mut HeaderMap) {
        let now = self.worker.proxy.clock.now().unix_seconds();
        let now = UNIX_EPOCH + Duration::from_secs(u64::try_from(now).unwrap_or(0));
        if let Ok(date) = HeaderValue::try_from(httpdate::fmt_http_date(now)) {
            fields.entry(header::DATE).or_insert(date);
        }
    }
}
