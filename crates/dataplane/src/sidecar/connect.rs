//! Connections of the local service to services that take no requests: at a listener of their own on loopback, or by
//! CONNECT at the outbound listener.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use http::{Method, Response};
use testudo_model::ServiceName;
use tokio::net::TcpStream;

use super::SidecarWorker;
use crate::{
    authorize::{Question, authorize},
    body::AnswerBody,
    connection::{self, Arrived, Ask, Through},
    forward::{self, Forwarded},
    metrics::Role,
    rejection::Rejection,
    state::Enforced,
    stream::{Admission, Standing},
};

const ROLE: Role = Role::Outbound;

/// What came of asking for a connection.
pub(super) enum Asked {
    /// It may begin.
    Open(Box<Through>),
    /// The proxy of the called service says no, with this answer.
    Refused(Response<AnswerBody>),
}

impl SidecarWorker {
    /// Serves a connection at the listener for `called`.
    pub(super) async fn connection_to(
        self: Arc<Self>,
        called: ServiceName,
        stream: TcpStream,
        peer: SocketAddr,
    ) {
        // As at the outbound listener: whoever can speak here speaks as the service.
        if !peer.ip().to_canonical().is_loopback() {
            tracing::warn!(%peer, service = %self.service, "outbound connection from elsewhere refused");
            return;
        }
        let proxy = &self.worker.proxy;
        let _open = proxy.metrics.connection(ROLE);
        let mut arrived = Arrived {
            role: ROLE,
            stream: stream.into(),
            client: peer.ip().to_canonical(),
            wanted: called.to_string(),
            label: None,
            began_nanos: proxy.clock.monotonic_nanos(),
        };
        let result = self.connect_from(&mut arrived, &called).await;
        arrived.end(&self.worker, result).await;
    }

    async fn connect_from(
        &self,
        arrived: &mut Arrived,
        called: &ServiceName,
    ) -> Result<Through, Rejection> {
        let enforced = self.worker.proxy.ready()?;
        let called = enforced
            .service_index(called.as_str())
            .ok_or(Rejection::NoRoute)?;
        arrived.label = enforced.service_label(called).cloned();
        match self
            .ask_for_connection(&enforced, called, arrived.client)
            .await?
        {
            Asked::Open(through) => Ok(*through),
            Asked::Refused(_) => Err(connection::refused_by_next()),
        }
    }

    /// Decides about a connection to the service at `called` and asks one of its proxies for it.
    pub(super) async fn ask_for_connection(
        &self,
        enforced: &Arc<Enforced>,
        called: usize,
        client: IpAddr,
    ) -> Result<Asked, Rejection> {
        let proxy = &self.worker.proxy;
        self.own_index(enforced)?;
        let route = enforced
            .routes()
            .connection_to(called)
            .ok_or(Rejection::NoRoute)?;
        let service = enforced
            .snapshot()
            .services
            .get(called)
            .ok_or(Rejection::NoRoute)?;
        let own = proxy.own_identity();
        let caller = own.as_caller(self.service.as_str());
        self.worker.may_connect(ROLE, enforced, &caller, called)?;
        let ask = Ask::new(&self.worker, service)?;
        let question = Question {
            role: ROLE,
            enforced,
            caller,
            principal: None,
            transaction: None,
            route,
            method: &Method::CONNECT,
            path: ask.target.path.as_str(),
            source_ip: client,
            trace: &ask.trace,
        };
        let permit = authorize(&self.worker, &question)?;
        let forwarded = forward::to_proxy(&self.worker, &permit, ask.outgoing(ROLE), None).await?;
        let admission = Admission {
            peer: None,
            listed: None,
            edge: None,
        };
        match forwarded {
            Forwarded::Answered(answer) => Ok(Asked::Refused(answer)),
            Forwarded::Opened(_, opened) => {
                let standing = Standing::new(&self.worker, &question, &permit, &admission, false)
                    .ok_or(Rejection::NoRoute)?;
                let through = Through::new(service, opened, standing);
                Ok(Asked::Open(Box::new(through)))
            }
        }
    }
}
