//! HTTP/2 in the clear to the local service, with prior knowledge (RFC 9113 section 3.3).

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use testudo_model::{Clock, FleetMap, Timestamp};

use super::{
    Answer, Lease, Outbound, SendFailure, connect,
    streams::{Connection, Connections},
};
use crate::{overload::RetryBudget, rejection::UpstreamError};

/// A connection that the service closed while it was idle is noticed when it is used; so many in a row are not
/// chance.
const ATTEMPTS: usize = 3;
/// It ends when the service does.
const FOR_EVER: Timestamp = Timestamp::from_unix_seconds(i64::MAX);

/// The HTTP/2 connections of one worker to local services.
pub(crate) struct H2cPool {
    clock: Arc<dyn Clock>,
    services: Mutex<FleetMap<SocketAddr, Arc<Service>>>,
}

#[derive(Default)]
struct Service {
    connections: Connections,
    retries: RetryBudget,
}

impl H2cPool {
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
        let mut request = request;
        service.retries.earn();
        for _ in 0..ATTEMPTS {
            let now = self.clock.now();
            let place = service.connections.place(now, || open(address)).await?;
            match place.send(request).await {
                Ok(reply) => return Ok(reply.leased(Lease::H2c)),
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

    fn service(&self, address: SocketAddr) -> Arc<Service> {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(services.entry(address).or_default())
    }
}

async fn open(address: SocketAddr) -> Result<Arc<Connection>, UpstreamError> {
    let socket = connect(address).await?;
    // No pings: on one machine a service that has gone is noticed, and gRPC servers close connections with more pings
    // than they like.
    Connection::begin(socket, FOR_EVER, None).await
}
