//! One gRPC connection to the control plane: HTTP/2 over TLS 1.3, where the certificates are SPIFFE ones.

use std::{future::Future, io, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use testudo_model::limits::HANDSHAKE_TIMEOUT;
use testudo_trust::mesh_server_name;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint, Uri};

use super::LinkError;

/// A connection that answers no ping for so long is dead.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const MAX_ADDRESS_BYTES: usize = 300;
/// A control plane that takes a call and does not answer it by then will not, although it may still answer pings.
const CALL_DEADLINE: Duration = Duration::from_secs(20);

/// Where the control plane's proxy port is: `host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerAddress(String);

impl ServerAddress {
    /// Reads `host:port`.
    ///
    /// # Errors
    /// It is something else.
    pub fn parse(text: &str) -> Result<Self, LinkError> {
        let invalid = || LinkError::Address {
            address: text.chars().take(100).collect(),
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(invalid)?;
        let port_ok = port.parse::<u16>().is_ok_and(|port| port != 0);
        let host_ok = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
        if text.len() > MAX_ADDRESS_BYTES
            || !port_ok
            || host.is_empty()
            || !host.bytes().all(host_ok)
        {
            return Err(invalid());
        }
        Ok(Self(text.to_owned()))
    }

    /// The address as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A channel that connects when it is used, and again when the connection broke.
pub(super) fn channel(
    server: &ServerAddress,
    tls: Arc<ClientConfig>,
) -> Result<Channel, LinkError> {
    let invalid = || LinkError::Address {
        address: server.0.clone(),
    };
    let endpoint = Endpoint::from_shared(format!("http://{}", server.0))
        .map_err(|_| invalid())?
        .connect_timeout(HANDSHAKE_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true);
    let address: Arc<str> = server.0.as_str().into();
    let connector = tower::service_fn(move |_: Uri| {
        let (address, tls) = (Arc::clone(&address), Arc::clone(&tls));
        async move { connect(&address, tls).await.map(TokioIo::new) }
    });
    Ok(endpoint.connect_with_connector_lazy(connector))
}

/// The answer to `call`, named `action` in errors.
///
/// # Errors
/// The control plane refused, or said nothing for too long.
pub(super) async fn answer<T>(
    action: &'static str,
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, LinkError> {
    answer_within(CALL_DEADLINE, action, call).await
}

async fn answer_within<T>(
    deadline: Duration,
    action: &'static str,
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, LinkError> {
    tokio::time::timeout(deadline, call)
        .await
        .map_err(|_| LinkError::Silence)?
        .map(tonic::Response::into_inner)
        .map_err(LinkError::refused(action))
}

async fn connect(address: &str, tls: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    let stream = TlsConnector::from(tls)
        .connect(mesh_server_name(), tcp)
        .await?;
    match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => Ok(stream),
        _ => Err(io::Error::other("the server does not speak HTTP/2")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_call_that_is_taken_and_never_answered_ends() {
        let silent = std::future::pending::<Result<tonic::Response<()>, tonic::Status>>();
        let ended = answer_within(Duration::from_millis(10), "watch", silent).await;
        assert!(matches!(ended, Err(LinkError::Silence)), "{ended:?}");
    }

    #[test]
    fn an_address_is_host_and_port() {
        for good in [
            "127.0.0.1:9444",
            "[::1]:9444",
            "control.bookshop.example:9444",
        ] {
            assert!(ServerAddress::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "host",
            "host:",
            "host:0",
            "host:70000",
            ":9444",
            "ho st:1",
            "https://host:1",
            "a/b:1",
        ] {
            assert!(ServerAddress::parse(bad).is_err(), "{bad}");
        }
    }
}
