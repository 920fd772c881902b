//! The first bytes of a connection from outside: whose it is, and where its TLS ends.

use std::net::{IpAddr, SocketAddr};

use bytes::BytesMut;
use testudo_model::{limits, snapshot::ProxyProtocol};
use tokio::{io::AsyncReadExt, net::TcpStream, time::Instant};

use super::{GatewayWorker, ROLE};
use crate::{
    client_hello::{self, ClientHello},
    proxy_protocol::{self, HeaderError},
    record,
    rejection::Rejection,
    tcp::ReadAhead,
};

/// A connection of which it is known whose it is.
pub(super) struct Arrival {
    pub(super) stream: ReadAhead<TcpStream>,
    /// The peer, or whoever a trusted proxy says is behind it.
    pub(super) client: IpAddr,
}

/// Where a connection at the port for HTTPS goes.
pub(super) enum Destination {
    /// To the gateway itself.
    Here(Arrival),
    /// To the service of this name, untouched.
    Passed(String, Arrival),
}

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Port {
    Https,
    Tcp,
}

impl GatewayWorker {
    /// A connection at a port for TCP; `None` if it is not served.
    pub(super) async fn arrive_at_port(
        &self,
        mut stream: TcpStream,
        peer: SocketAddr,
    ) -> Option<Arrival> {
        let mut read = BytesMut::new();
        let client = self.client(&mut stream, &mut read, peer, Port::Tcp).await?;
        Some(Arrival {
            stream: ReadAhead::new(stream, read),
            client,
        })
    }

    /// A connection at the port for HTTPS; `None` if it is not served.
    pub(super) async fn arrive(
        &self,
        mut stream: TcpStream,
        peer: SocketAddr,
    ) -> Option<Destination> {
        let mut read = BytesMut::new();
        let client = self
            .client(&mut stream, &mut read, peer, Port::Https)
            .await?;
        let passed = self.passed_to(&mut stream, &mut read).await?;
        let arrival = Arrival {
            stream: ReadAhead::new(stream, read),
            client,
        };
        Some(match passed {
            Some(service) => Destination::Passed(service, arrival),
            None => Destination::Here(arrival),
        })
    }

    /// Whose connection it is. `None` if a trusted proxy should have said and did not.
    async fn client(
        &self,
        stream: &mut TcpStream,
        read: &mut BytesMut,
        peer: SocketAddr,
        port: Port,
    ) -> Option<IpAddr> {
        let client = peer.ip().to_canonical();
        let Some(enforced) = self.worker.proxy.state.enforced() else {
            // Nothing will be served; over HTTPS the client is told so.
            return Some(client);
        };
        let rule = enforced.snapshot().gateway.proxy_protocol;
        if rule == ProxyProtocol::Off || !enforced.trusted_proxies().contains(client) {
            return Some(client);
        }
        let header = proxy_protocol::read(stream, read).await;
        match header {
            Ok(header) => Some(
                header
                    .client
                    .map_or(client, |behind| behind.ip().to_canonical()),
            ),
            Err(HeaderError::Absent) if rule == ProxyProtocol::Optional && port == Port::Https => {
                Some(client)
            }
            Err(error) => {
                tracing::debug!(%peer, %error, "connection of a trusted proxy refused");
                let rejection = Rejection::ProxyHeader(error);
                record::refusal(&self.worker, ROLE, &rejection, client, "CONNECT", "");
                None
            }
        }
    }

    /// The service to which the TLS of `stream` passes; what was read to find out is left in `read`. The outer `None`:
    /// the connection ended before.
    async fn passed_to(
        &self,
        stream: &mut TcpStream,
        read: &mut BytesMut,
    ) -> Option<Option<String>> {
        let Some(enforced) = self.worker.proxy.state.enforced() else {
            return Some(None);
        };
        if !enforced.routes().passes_tls() {
            return Some(None);
        }
        let until = Instant::now() + limits::HANDSHAKE_TIMEOUT;
        let hello = loop {
            match client_hello::parse(read) {
                Ok(Some(hello)) => break hello,
                Ok(None) => {}
                // The gateway's own TLS says what is wrong with it.
                Err(_) => break ClientHello::default(),
            }
            let came = tokio::time::timeout_at(until, stream.read_buf(read)).await;
            if !matches!(came, Ok(Ok(1..))) {
                self.worker.proxy.metrics.handshake_failed(ROLE);
                return None;
            }
        };
        let service = hello
            .server_name
            .and_then(|name| enforced.routes().behind_server_name(&name))
            .and_then(|index| enforced.snapshot().services.get(index))
            .map(|service| service.name.to_string());
        Some(service)
    }
}
