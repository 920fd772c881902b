//! The proxy port (9444): enrolment, certificates, what proxies enforce, and their events.
//!
//! gRPC over TLS 1.3 with the fleet's certificates. A client certificate is needed for everything but
//! enrolment, and what it says about the caller is never read from a message. One that has lately ended passes the
//! handshake and gets its holder the next one; every other call refuses it.

mod distribution;
mod peer;
mod revocation_log;
mod service;
mod status;
mod upkeep;
mod watch;

use std::{sync::Arc, time::Duration};

use testudo_audit::Ledger;
use testudo_model::{
    Clock,
    limits::{LATE_RENEWAL, MAX_BLOCK_BYTES},
};
use testudo_runtime::DrainWatch;
use testudo_trust::{IdentitySource, PeerAuth, mesh_server_config};
use testudo_workload::Workloads;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;

use crate::wire::{enrolment_server::EnrolmentServer, proxy_server::ProxyServer};
use peer::StrangerLimits;
use service::Services;

pub use distribution::{Connected, Distribution, PublishError, Rollout};
pub use revocation_log::RevocationLog;
pub use upkeep::{own_identity, run as keep_up, turn as keep_up_once};

/// A join token and a certificate request.
const MAX_ENROLMENT_BYTES: usize = 16 * 1024;
/// The largest message of a proxy, a block of events, with its frame.
const MAX_PROXY_MESSAGE_BYTES: usize = MAX_BLOCK_BYTES + 1024;
/// Calls at the same time on one connection: a watch, a renewal, a shipment, and as many again.
const MAX_STREAMS: u32 = 8;
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Header bytes of a call; ours have about 300.
const MAX_HEADER_BYTES: u32 = 8 * 1024;

/// The port's parts.
pub struct ProxyPort {
    /// Who may join and be.
    pub workloads: Arc<Workloads>,
    /// Where events go.
    pub ledger: Arc<Ledger>,
    /// What proxies get.
    pub distribution: Arc<Distribution>,
    /// The control plane's own certificate; see [`own_identity`].
    pub identity: IdentitySource,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

impl ProxyPort {
    /// Serves until `drain` starts.
    ///
    /// # Errors
    /// The listener fails for good.
    pub async fn serve(
        self,
        listener: TcpListener,
        mut drain: DrainWatch,
    ) -> Result<(), tonic::transport::Error> {
        let tls = mesh_server_config(
            &self.identity,
            PeerAuth::OptionalAndLate(LATE_RENEWAL),
            Arc::clone(&self.clock),
            &["h2"],
        );
        let strangers = StrangerLimits::default();
        let incoming = peer::accept(listener, TlsAcceptor::from(tls), strangers, drain.clone());
        let services = Services::new(
            self.workloads,
            self.ledger,
            self.distribution,
            self.clock,
            drain.clone(),
        );
        Server::builder()
            .max_concurrent_streams(MAX_STREAMS)
            .http2_keepalive_interval(Some(KEEP_ALIVE))
            .http2_keepalive_timeout(Some(KEEP_ALIVE))
            .http2_max_header_list_size(MAX_HEADER_BYTES)
            .add_service(
                EnrolmentServer::from_arc(Arc::clone(&services))
                    .max_decoding_message_size(MAX_ENROLMENT_BYTES),
            )
            .add_service(
                ProxyServer::from_arc(services).max_decoding_message_size(MAX_PROXY_MESSAGE_BYTES),
            )
            .serve_with_incoming_shutdown(ReceiverStream::new(incoming), async move {
                drain.drained().await
            })
            .await
    }
}
