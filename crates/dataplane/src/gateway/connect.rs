//! Connections from outside to services that take no requests: at ports of their own, and TLS that passes by its server
//! name.

use std::{net::SocketAddr, sync::Arc};

use http::Method;
use testudo_model::{Exposure, ServiceName};
use testudo_policy::GATEWAY;
use tokio::net::TcpStream;

use super::{GatewayWorker, ROLE, arrival::Arrival};
use crate::{
    authorize::{Question, authorize},
    connection::{self, Arrived, Ask, Through},
    forward::{self, Forwarded},
    limit::{Counted, Stage},
    rejection::Rejection,
    state::Enforced,
    stream::{Admission, Standing},
    tcp,
    transaction::OutsideCall,
};

impl GatewayWorker {
    /// Serves a connection at the public port of `called`.
    pub(super) async fn public_port(
        self: Arc<Self>,
        called: ServiceName,
        stream: TcpStream,
        peer: SocketAddr,
    ) {
        let _open = self.worker.proxy.metrics.connection(ROLE);
        if let Some(arrival) = self.arrive_at_port(stream, peer).await {
            self.pass(called.as_str(), arrival).await;
        }
    }

    /// Carries a connection to the service `called`, untouched, or resets it.
    pub(super) async fn pass(&self, called: &str, arrival: Arrival) {
        let proxy = &self.worker.proxy;
        let mut arrived = Arrived {
            role: ROLE,
            stream: tcp::Connection::new(arrival.stream),
            client: arrival.client,
            wanted: called.to_owned(),
            label: None,
            began_nanos: proxy.clock.monotonic_nanos(),
        };
        let result = self.connect_from(&mut arrived, called).await;
        arrived.end(&self.worker, result).await;
    }

    async fn connect_from(
        &self,
        arrived: &mut Arrived,
        called: &str,
    ) -> Result<Through, Rejection> {
        let proxy = &self.worker.proxy;
        let enforced = proxy.ready()?;
        let counted = Counted {
            client: arrived.client,
            user: None,
            service: GATEWAY,
        };
        self.admit_source(&enforced, &counted)?;
        let called = enforced.service_index(called).ok_or(Rejection::NoRoute)?;
        arrived.label = enforced.service_label(called).cloned();
        self.ask_for_connection(&enforced, called, &counted).await
    }

    /// Decides about a connection to the service at `called` and asks one of its proxies for it.
    async fn ask_for_connection(
        &self,
        enforced: &Arc<Enforced>,
        called: usize,
        counted: &Counted<'_>,
    ) -> Result<Through, Rejection> {
        let proxy = &self.worker.proxy;
        let (service, route) = enforced
            .snapshot()
            .services
            .get(called)
            .filter(|service| service.exposure == Exposure::External)
            .zip(enforced.routes().connection_to(called))
            .ok_or(Rejection::NoRoute)?;
        if !enforced
            .service_ip(called)
            .is_some_and(|filter| filter.allows(counted.client))
        {
            return Err(Rejection::Source);
        }
        proxy.enforce_limits(ROLE, enforced, route, Stage::Arrival, counted)?;
        self.gateway_limits(enforced, Stage::Authenticated, counted)?;
        proxy.enforce_limits(ROLE, enforced, route, Stage::Authenticated, counted)?;

        let ask = Ask::new(&self.worker, service)?;
        let begun = self.mint.begin(
            None,
            OutsideCall {
                client: counted.client,
                method: Method::CONNECT,
                path: ask.target.path.as_str().to_owned(),
            },
        );
        let own = proxy.own_identity();
        let caller = own.as_caller(GATEWAY);
        self.worker.may_connect(ROLE, enforced, &caller, called)?;
        let transaction_id = begun.id().clone();
        let question = Question {
            role: ROLE,
            enforced,
            caller,
            principal: None,
            transaction: Some(&transaction_id),
            route,
            method: &Method::CONNECT,
            path: ask.target.path.as_str(),
            source_ip: counted.client,
            trace: &ask.trace,
        };
        let permit = authorize(&self.worker, &question)?;
        self.gateway_limits(enforced, Stage::Permitted, counted)?;
        proxy.enforce_limits(ROLE, enforced, route, Stage::Permitted, counted)?;
        let transaction = self
            .mint
            .token(begun, None, &enforced.snapshot().trust_domain)
            .map_err(Rejection::NotReady)?;
        let outgoing = ask.outgoing(ROLE);
        let forwarded =
            forward::to_proxy(&self.worker, &permit, outgoing, Some(&transaction)).await?;
        let Forwarded::Opened(_, opened) = forwarded else {
            return Err(connection::refused_by_next());
        };
        let admission = Admission {
            peer: None,
            listed: Some(counted.client),
            edge: None,
        };
        let standing = Standing::new(&self.worker, &question, &permit, &admission, false)
            .ok_or(Rejection::NoRoute)?;
        Ok(Through::new(service, opened, standing))
    }
}
