//! TLS handshakes that clients begin.

use std::sync::Arc;

use rustls::ServerConfig;
use testudo_model::limits;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// The handshake on `stream`; `None` if it fails or takes too long. It has memory of its own, and so has its result: a
/// future that held either would have room for it in each of its states.
pub(crate) async fn accept<S>(config: &Arc<ServerConfig>, stream: S) -> Option<Box<TlsStream<S>>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = TlsAcceptor::from(Arc::clone(config)).accept(stream);
    let handshake = Box::pin(tokio::time::timeout(limits::HANDSHAKE_TIMEOUT, handshake));
    handshake.await.ok()?.ok().map(Box::new)
}
