//! The proxy beside a service: [`inbound`] guards it, [`outbound`] makes its calls, if need be through a [`tunnel`].

mod inbound;
mod outbound;
mod tunnel;

pub(crate) use tunnel::TunnelError;

use std::{sync::Arc, time::Duration};

use rustls::ServerConfig;
use testudo_model::ServiceName;
use testudo_runtime::{Drain, DrainWatch};
use testudo_trust::{PeerAuth, mesh_server_config};

use crate::{
    inflight::Delivered,
    listener::{self, ConnectionSlots, Listeners, Running, StartError},
    proxy::{Proxy, ProxyParts, Worker},
    rejection::{NotReady, Rejection},
    spread::Seat,
    state::Enforced,
    transaction::TransactionVerifier,
};

/// What a sidecar is made of. Where the service itself listens stands in the snapshot.
pub struct SidecarOptions {
    /// The service it stands for.
    pub service: ServiceName,
    /// Where other proxies reach it (mTLS). A worker thread has one socket here and one of `outbound`: both must have
    /// been bound for as many.
    pub inbound: Listeners,
    /// Where the service makes its calls (plain HTTP). Only loopback peers are served.
    pub outbound: Listeners,
    /// What it hands to the service; shared with a sidecar that takes over.
    pub delivered: Arc<Delivered>,
    /// Identity, state, evidence.
    pub parts: ProxyParts,
    /// When to stop.
    pub drain: Drain,
    /// How long requests under way may take to finish when stopping.
    pub drain_deadline: Duration,
}

/// The sidecar role.
pub struct Sidecar;

impl Sidecar {
    /// Starts the worker threads. They end after the drain.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(options: SidecarOptions) -> Result<Running, StartError> {
        let proxy = Proxy::new(options.parts);
        let clock = Arc::clone(&proxy.clock);
        let tls = mesh_server_config(
            &proxy.identity,
            PeerAuth::Required,
            clock,
            &["h2", "http/1.1"],
        );
        let delivered = options.delivered;
        let slots = ConnectionSlots::new();
        let name = format!("sidecar-{}", options.service);
        let workers = options
            .inbound
            .into_seats()
            .into_iter()
            .zip(options.outbound.into_seats())
            .map(|(inbound, outbound)| {
                let worker = Arc::new(SidecarWorker {
                    service: options.service.clone(),
                    tls: Arc::clone(&tls),
                    transactions: TransactionVerifier::new(
                        proxy.identity.clone(),
                        Arc::clone(&proxy.clock),
                    ),
                    delivered: Arc::clone(&delivered),
                    worker: Arc::new(Worker::new(Arc::clone(&proxy))),
                });
                let (slots, drain, deadline) =
                    (slots.clone(), options.drain.watch(), options.drain_deadline);
                async move { worker.run(inbound, outbound, slots, drain, deadline).await }
            })
            .collect();
        Running::start(&name, workers)
    }
}

struct SidecarWorker {
    service: ServiceName,
    worker: Arc<Worker>,
    tls: Arc<ServerConfig>,
    transactions: TransactionVerifier,
    delivered: Arc<Delivered>,
}

impl SidecarWorker {
    async fn run(
        self: Arc<Self>,
        inbound: Seat,
        outbound: Seat,
        slots: ConnectionSlots,
        drain: DrainWatch,
        deadline: Duration,
    ) {
        tokio::spawn(
            Arc::clone(&self.worker).close_forbidden_connections(self.service.to_string()),
        );
        let accept_inbound = listener::accept(
            inbound,
            slots.clone(),
            drain.clone(),
            deadline,
            |stream, peer, drain| Arc::clone(&self).inbound_connection(stream, peer, drain),
        );
        let accept_outbound =
            listener::accept(outbound, slots, drain, deadline, |stream, peer, drain| {
                Arc::clone(&self).outbound_connection(stream, peer, drain)
            });
        tokio::join!(accept_inbound, accept_outbound);
    }

    /// Index of the own service.
    fn own_index(&self, enforced: &Enforced) -> Result<usize, Rejection> {
        enforced
            .service_index(self.service.as_str())
            .ok_or(Rejection::NotReady(NotReady::UndeclaredService))
    }
}
