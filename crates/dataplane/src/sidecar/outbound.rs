//! Calls of the local service to others: `http://<service>/<path>`, by `HTTP_PROXY` or by `Host`.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use http::{HeaderMap, HeaderValue, Method, Request, Response, Version, header, request::Parts};
use hyper::{
    body::Incoming,
    service::service_fn,
    upgrade::{self, OnUpgrade},
};
use hyper_util::rt::TokioIo;
use testudo_runtime::DrainWatch;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use super::{SidecarWorker, connect::Asked, tunnel::Tunnel};
use crate::{
    authorize::{Question, authorize},
    body::AnswerBody,
    connection,
    exchange::Exchange,
    forward::{self, Content, Outgoing},
    framing,
    gateway::no_route,
    headers::{self, TXN_TOKEN},
    metrics::Role,
    rejection::Rejection,
    routes::normalise_host,
    serve::{self, Activity, Protocol},
    state::Enforced,
    stream::{Admission, Standing},
    transaction::Transaction,
    websocket::{self, Opening},
};

const ROLE: Role = Role::Outbound;

/// How requests of a connection come here.
#[derive(Clone)]
enum Way {
    /// As they are; the last may open a tunnel.
    Direct(Arc<Mutex<Option<Opened>>>),
    /// Through a tunnel.
    Tunnel(Arc<Tunnel>),
}

/// A tunnel whose CONNECT is answered, and its stream to come.
type Opened = (Tunnel, OnUpgrade);

impl SidecarWorker {
    pub(super) async fn outbound_connection(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        drain: DrainWatch,
    ) {
        // Whoever can speak here speaks as the service. That is the service's own host and nobody else.
        if !peer.ip().to_canonical().is_loopback() {
            tracing::warn!(%peer, service = %self.service, "outbound connection from elsewhere refused");
            return;
        }
        let _open = self.worker.proxy.metrics.connection(ROLE);
        let opened = Arc::new(Mutex::new(None));
        Arc::clone(&self)
            .serve_outbound(
                stream,
                peer,
                Way::Direct(Arc::clone(&opened)),
                drain.clone(),
            )
            .await;
        let opened = opened.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((tunnel, upgrade)) = opened
            && let Ok(stream) = upgrade.await
        {
            let way = Way::Tunnel(Arc::new(tunnel));
            self.serve_outbound(TokioIo::new(stream), peer, way, drain)
                .await;
        }
    }

    async fn serve_outbound(
        self: Arc<Self>,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        peer: SocketAddr,
        way: Way,
        drain: DrainWatch,
    ) {
        let transfer = self.worker.proxy.transfer();
        let activity = Activity::new();
        let requests = Arc::clone(&activity);
        let service = service_fn(move |request| {
            let (sidecar, way, active) = (Arc::clone(&self), way.clone(), requests.begin());
            async move {
                let exchange = Exchange::begin(&sidecar.worker, ROLE, &request, peer.ip(), active);
                Ok::<_, Infallible>(sidecar.respond_outbound(exchange, &way, request).await)
            }
        });
        serve::connection(
            stream,
            Protocol::Detect,
            service,
            transfer,
            activity,
            drain,
            std::future::pending(),
        )
        .await;
    }

    async fn respond_outbound(
        &self,
        mut exchange: Exchange,
        way: &Way,
        mut request: Request<Incoming>,
    ) -> Response<AnswerBody> {
        let result = match way {
            Way::Direct(opened) if asks_for_tunnel(&request) => {
                match self.open_tunnel(&mut exchange, &mut request, opened).await {
                    // Not a call: nothing was decided, so nothing is counted.
                    Ok(None) => return Response::new(AnswerBody::empty()),
                    Ok(Some(answer)) => Ok(answer),
                    Err(rejection) => Err(rejection),
                }
            }
            _ => self.handle_outbound(&mut exchange, way, request).await,
        };
        exchange.end(&self.worker, result)
    }

    /// Notes the tunnel that is to be served once the answer to CONNECT is out. To a service that takes connections
    /// and no requests there is a connection instead, with an answer of its own.
    async fn open_tunnel(
        &self,
        exchange: &mut Exchange,
        request: &mut Request<Incoming>,
        opened: &Mutex<Option<Opened>>,
    ) -> Result<Option<Response<AnswerBody>>, Rejection> {
        let enforced = self.worker.proxy.ready()?;
        self.own_index(&enforced)?;
        let (tunnel, called) = Tunnel::open(request.uri(), request.headers(), &enforced)?;
        let upgrade = upgrade::on(request);
        if enforced.routes().connection_to(called).is_none() {
            *opened.lock().unwrap_or_else(PoisonError::into_inner) = Some((tunnel, upgrade));
            return Ok(None);
        }
        exchange.reached(&enforced, called);
        let asked = self
            .ask_for_connection(&enforced, called, exchange.client)
            .await?;
        Ok(Some(match asked {
            Asked::Refused(answer) => answer,
            Asked::Open(through) => {
                let client = async { Some(TokioIo::new(upgrade.await.ok()?)) };
                exchange.carry(through.carry(client));
                connection::grant()
            }
        }))
    }

    async fn handle_outbound(
        &self,
        exchange: &mut Exchange,
        way: &Way,
        request: Request<Incoming>,
    ) -> Result<Response<AnswerBody>, Rejection> {
        let proxy = &self.worker.proxy;
        let enforced = proxy.ready()?;
        self.own_index(&enforced)?;
        let (mut head, body) = request.into_parts();
        let opening = Opening::take(&mut head)?;
        believe_target(&mut head);
        let target = framing::admit(&head)?;
        if let Way::Tunnel(tunnel) = way {
            tunnel.admit(&target)?;
        }
        let called = normalise_host(&target.authority)
            .and_then(|name| enforced.service_index(&name))
            .ok_or(Rejection::NoRoute)?;
        exchange.reached(&enforced, called);

        let forwarded = forwarded_token(&head.headers);
        headers::sanitise_request(&mut head.headers);
        let trace = exchange.join_trace(&self.worker, &mut head.headers, &target);
        let transaction = self
            .transaction_behind(&enforced, forwarded.as_deref(), &trace)
            .await;
        if let Some(transaction) = &transaction {
            exchange.client = transaction.claims.rctx.req_ip.to_canonical();
        }

        let route = enforced
            .routes()
            .find_in(called, &head.method, &target.path)
            .map_err(no_route)?;
        exchange.matched(&enforced, route);
        self.worker.admit(ROLE, &enforced, route)?;
        websocket::check_route(&enforced, route, opening.as_ref())?;
        let own = proxy.own_identity();
        let caller = own.as_caller(self.service.as_str());
        self.worker.may_connect(ROLE, &enforced, &caller, called)?;
        let question = Question {
            role: ROLE,
            enforced: &enforced,
            caller,
            principal: transaction
                .as_ref()
                .and_then(|transaction| transaction.principal.as_ref()),
            transaction: transaction
                .as_ref()
                .map(|transaction| &transaction.claims.txn),
            route,
            method: &head.method.clone(),
            path: target.path.as_str(),
            source_ip: exchange.client,
            trace: &trace,
        };
        let permit = authorize(&self.worker, &question)?;
        exchange.permitted(&permit);
        let outgoing = Outgoing {
            method: head.method,
            target: &target,
            headers: head.headers,
            content: Content::new(body, opening.is_some()),
            role: ROLE,
        };
        let forwarded =
            forward::to_proxy(&self.worker, &permit, outgoing, transaction.as_deref()).await?;
        let admission = Admission {
            peer: None,
            listed: None,
            edge: transaction
                .as_ref()
                .map(|transaction| &transaction.claims.iss),
        };
        exchange.answer(opening, forwarded, |is_websocket| {
            Standing::new(&self.worker, &question, &permit, &admission, is_websocket)
        })
    }

    /// On whose behalf the service calls: the token it forwards, if a sidecar of it delivered that, else the request
    /// that is open under the same trace. Anything else is a call of the service for itself.
    async fn transaction_behind(
        &self,
        enforced: &Enforced,
        forwarded: Option<&str>,
        trace: &str,
    ) -> Option<Arc<Transaction>> {
        let verify = |token: &str| {
            let state = &self.worker.proxy.state;
            self.transactions.verify(token, enforced, state).ok()
        };
        if let Some(transaction) = forwarded.and_then(verify)
            && self.delivered.was_delivered(&transaction.claims.txn).await
        {
            return Some(transaction);
        }
        self.delivered.behind(trace, verify).await
    }
}

/// CONNECT of HTTP/1; with HTTP/2 no client uses it towards a proxy on its own host.
fn asks_for_tunnel(request: &Request<Incoming>) -> bool {
    request.method() == Method::CONNECT && request.version() < Version::HTTP_2
}

/// A forward proxy goes by the absolute target and ignores `Host` (RFC 9112 section 3.2.2): some clients put the
/// proxy's own address there.
fn believe_target(head: &mut Parts) {
    let target = head
        .uri
        .authority()
        .map(|authority| HeaderValue::from_str(authority.as_str()));
    if head.version < Version::HTTP_2
        && let Some(Ok(host)) = target
    {
        head.headers.insert(header::HOST, host);
    }
}

fn forwarded_token(fields: &HeaderMap) -> Option<String> {
    let mut tokens = fields.get_all(TXN_TOKEN).iter();
    let token = tokens.next()?.to_str().ok()?.to_owned();
    tokens.next().is_none().then_some(token)
}
