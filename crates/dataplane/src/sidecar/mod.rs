//! The proxy beside a service: [`inbound`] guards it, [`outbound`] makes its calls, if need be through a [`tunnel`], and
//! [`connect`] has its connections to services that take no requests.

mod connect;
mod inbound;
mod outbound;
mod tunnel;

pub(crate) use tunnel::TunnelError;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use rustls::ServerConfig;
use testudo_model::ServiceName;
use testudo_runtime::{Drain, DrainWatch};
use testudo_trust::{PeerAuth, mesh_server_config};

use crate::{
    inflight::Delivered,
    listener::{self, Listeners, Running, StartError},
    proxy::{Proxy, ProxyParts, Worker},
    rejection::{NotReady, Rejection},
    slots::ConnectionSlots,
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
    /// Where the service connects to services that take connections and no requests, by their names. Only loopback
    /// peers are served.
    pub connections: BTreeMap<ServiceName, Listeners>,
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
        let connections = OpenConnections::default();
        let slots = ConnectionSlots::new();
        let name = format!("sidecar-{}", options.service);
        let mut outward = listener::seats_by_worker(options.connections);
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
                    connections: connections.clone(),
                    worker: Arc::new(Worker::new(Arc::clone(&proxy))),
                });
                let seats = Seats {
                    inbound,
                    outbound,
                    connections: outward.next().unwrap_or_default(),
                };
                let (slots, drain, deadline) =
                    (slots.clone(), options.drain.watch(), options.drain_deadline);
                async move { worker.run(seats, slots, drain, deadline).await }
            })
            .collect();
        Running::start(&name, workers)
    }
}

/// Where a worker listens.
struct Seats {
    inbound: Seat,
    outbound: Seat,
    connections: Vec<(ServiceName, Seat)>,
}

struct SidecarWorker {
    service: ServiceName,
    worker: Arc<Worker>,
    tls: Arc<ServerConfig>,
    transactions: TransactionVerifier,
    delivered: Arc<Delivered>,
    connections: OpenConnections,
}

/// Connections to the service that all workers of a sidecar hold open, if it takes connections.
#[derive(Clone, Default)]
struct OpenConnections(Arc<AtomicU32>);

/// One of them, until it is dropped.
struct OpenConnection(OpenConnections);

impl OpenConnections {
    /// Takes one of `max`, if any is left.
    fn take(&self, max: u32) -> Option<OpenConnection> {
        let before = self.0.fetch_add(1, Ordering::AcqRel);
        let open = OpenConnection(self.clone());
        (before < max).then_some(open)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl SidecarWorker {
    async fn run(
        self: Arc<Self>,
        seats: Seats,
        slots: ConnectionSlots,
        drain: DrainWatch,
        deadline: Duration,
    ) {
        tokio::spawn(
            Arc::clone(&self.worker).close_forbidden_connections(self.service.to_string()),
        );
        tokio::spawn(Arc::clone(&self.worker.pressure).watch());
        let accept_inbound = listener::accept(
            seats.inbound,
            slots.clone(),
            drain.clone(),
            deadline,
            |stream, peer, drain| Arc::clone(&self).inbound_connection(stream, peer, drain),
        );
        let accept_outbound = listener::accept(
            seats.outbound,
            slots.clone(),
            drain.clone(),
            deadline,
            |stream, peer, drain| Arc::clone(&self).outbound_connection(stream, peer, drain),
        );
        let accept_connections = seats.connections.into_iter().map(|(called, seat)| {
            let sidecar = Arc::clone(&self);
            listener::accept(
                seat,
                slots.clone(),
                drain.clone(),
                deadline,
                move |stream, peer, _| {
                    Arc::clone(&sidecar).connection_to(called.clone(), stream, peer)
                },
            )
        });
        tokio::join!(
            accept_inbound,
            accept_outbound,
            join_all(accept_connections)
        );
    }

    /// Index of the own service.
    fn own_index(&self, enforced: &Enforced) -> Result<usize, Rejection> {
        enforced
            .service_index(self.service.as_str())
            .ok_or(Rejection::NotReady(NotReady::UndeclaredService))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_connections_are_open_as_may_be_and_one_that_ends_makes_room() {
        let connections = OpenConnections::default();
        let first = connections.take(2);
        let second = connections.take(2);
        assert!(first.is_some() && second.is_some());
        assert!(connections.take(2).is_none() && connections.take(2).is_none());
        drop(first);
        assert!(connections.take(2).is_some());
    }
}
