//! Into the local service: the calling service by its certificate, the user by the transaction token, both
//! decided again whatever the caller's proxy decided.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use http::{HeaderMap, Method, Request, Response, request::Parts};
use hyper::{body::Incoming, service::service_fn};
use testudo_model::{SpiffeId, Timestamp};
use testudo_runtime::DrainWatch;
use testudo_trust::{certificate_times, peer_identity};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::SidecarWorker;
use crate::{
    authorize::{self, Caller, Question, authorize, authorize_connection},
    body::AnswerBody,
    connection::{self, Wish},
    exchange::Exchange,
    forward::{self, Content, Outgoing},
    framing::{self, Target},
    gateway::{no_route, wants_user},
    headers::{
        self, TXN_TOKEN, X_CALLING_SERVICE, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO,
        X_USER_GROUPS, X_USER_ID, X_USER_NAME, X_USER_ROLES, X_USER_SCOPES,
    },
    limit::{Counted, Stage},
    metrics::Role,
    principal::Principal,
    rejection::{Rejection, UpstreamError},
    relay,
    serve::{self, Activity, Protocol},
    state::Enforced,
    stream::{Admission, Standing},
    tls,
    transaction::{Transaction, TransactionError},
    websocket::{self, Opening},
};

const ROLE: Role = Role::Inbound;

/// The workload at the other end of a connection, as its certificate proved it.
struct PeerWorkload {
    id: SpiffeId,
    certificate_expires: Timestamp,
    address: IpAddr,
    /// The snapshot under which the connection was last allowed.
    allowed_under: AtomicU64,
}

const NEVER: u64 = u64::MAX;

impl PeerWorkload {
    fn of(stream: &TlsStream<TcpStream>, address: SocketAddr) -> Option<Self> {
        let certificates = stream.get_ref().1.peer_certificates()?;
        let (_, certificate_expires) = certificate_times(certificates.first()?).ok()?;
        Some(Self {
            id: peer_identity(certificates)?,
            certificate_expires,
            address: address.ip().to_canonical(),
            allowed_under: AtomicU64::new(NEVER),
        })
    }

    fn as_caller<'a>(&'a self, enforced: &'a Enforced) -> Option<Caller<'a>> {
        let service = enforced.caller(&self.id)?;
        Some(Caller {
            service,
            id: &self.id,
            certificate_expires: self.certificate_expires,
        })
    }
}

/// A request of a peer that may be connected.
struct Arrived<'a> {
    /// Index of the own service.
    own: usize,
    caller: Caller<'a>,
    target: Target,
    /// 32 hex digits.
    trace: String,
    /// The address that the service's lists were asked about.
    source: IpAddr,
    transaction: Option<Arc<Transaction>>,
}

impl SidecarWorker {
    pub(super) async fn inbound_connection(
        self: Arc<Self>,
        stream: TcpStream,
        address: SocketAddr,
        drain: DrainWatch,
    ) {
        let metrics = &self.worker.proxy.metrics;
        let _open = metrics.connection(ROLE);
        let Some(stream) = tls::accept(&self.tls, stream).await else {
            return metrics.handshake_failed(ROLE);
        };
        let Some(peer) = PeerWorkload::of(&stream, address) else {
            return metrics.handshake_failed(ROLE);
        };
        let peer = Arc::new(peer);
        let protocol = Protocol::from_mesh_alpn(stream.get_ref().1.alpn_protocol());
        let transfer = self.worker.proxy.transfer();
        let activity = Activity::new();
        let requests = Arc::clone(&activity);
        let (sidecar, caller) = (Arc::clone(&self), Arc::clone(&peer));
        let service = service_fn(move |request| {
            let (sidecar, caller, active) =
                (Arc::clone(&sidecar), Arc::clone(&caller), requests.begin());
            async move {
                let exchange =
                    Exchange::begin(&sidecar.worker, ROLE, &request, caller.address, active);
                Ok::<_, Infallible>(sidecar.respond_inbound(exchange, &caller, request).await)
            }
        });
        let forbidden = self.until_forbidden(&peer);
        serve::connection(
            stream, protocol, service, transfer, activity, drain, forbidden,
        )
        .await;
    }

    async fn respond_inbound(
        &self,
        mut exchange: Exchange,
        peer: &PeerWorkload,
        request: Request<Incoming>,
    ) -> Response<AnswerBody> {
        let result = self.handle_inbound(&mut exchange, peer, request).await;
        exchange.end(&self.worker, result)
    }

    async fn handle_inbound(
        &self,
        exchange: &mut Exchange,
        peer: &PeerWorkload,
        request: Request<Incoming>,
    ) -> Result<Response<AnswerBody>, Rejection> {
        let proxy = &self.worker.proxy;
        let enforced = proxy.ready()?;
        let (mut head, body) = request.into_parts();
        if let Some(wish) = Wish::take(&mut head)? {
            return self.connect(exchange, &enforced, peer, head, wish).await;
        }
        let opening = Opening::take(&mut head)?;
        let arrived = self.arrive(exchange, &enforced, peer, &mut head)?;
        let Arrived {
            own,
            caller,
            target,
            trace,
            source,
            transaction,
        } = arrived;
        let client = exchange.client;
        let route = enforced
            .routes()
            .find_in(own, &head.method, &target.path)
            .map_err(no_route)?;
        exchange.matched(&enforced, route);
        self.worker.admit(ROLE, &enforced, route)?;
        websocket::check_route(&enforced, route, opening.as_ref())?;
        // There is no user leg on a route without users: whoever stands behind the call, nobody decided about them.
        let transaction = transaction
            .filter(|transaction| transaction.principal.is_none() || wants_user(&enforced, route));
        let principal = transaction
            .as_ref()
            .and_then(|transaction| transaction.principal.as_ref());
        let user = principal.map(|principal| principal.subject.as_str());
        let counted = Counted {
            client,
            user,
            service: caller.service,
        };
        proxy.enforce_limits(ROLE, &enforced, route, Stage::Arrival, &counted)?;
        proxy.enforce_limits(ROLE, &enforced, route, Stage::Authenticated, &counted)?;

        let question = Question {
            role: ROLE,
            enforced: &enforced,
            caller,
            principal,
            transaction: transaction
                .as_ref()
                .map(|transaction| &transaction.claims.txn),
            route,
            method: &head.method.clone(),
            path: target.path.as_str(),
            source_ip: client,
            trace: &trace,
        };
        let permit = authorize(&self.worker, &question)?;
        exchange.permitted(&permit);
        proxy.enforce_limits(ROLE, &enforced, route, Stage::Permitted, &counted)?;

        vouch(
            &mut head.headers,
            &enforced,
            &caller,
            principal,
            client,
            &target,
        );
        if let Some(transaction) = &transaction {
            transaction.put(&mut head.headers);
        }
        let delivery = self.delivered.deliver(&trace, transaction.as_ref());
        let outgoing = Outgoing {
            method: head.method,
            target: &target,
            headers: head.headers,
            content: Content::new(body, opening.is_some()),
            role: ROLE,
        };
        let forwarded = forward::to_service(&self.worker, &permit, outgoing, delivery).await?;
        let admission = Admission {
            peer: Some(peer.address),
            listed: Some(source),
            edge: transaction
                .as_ref()
                .map(|transaction| &transaction.claims.iss),
        };
        exchange.answer(opening, forwarded, |is_websocket| {
            Standing::new(&self.worker, &question, &permit, &admission, is_websocket)
        })
    }

    /// Opens a connection to the service, if it takes connections, and carries its bytes.
    async fn connect(
        &self,
        exchange: &mut Exchange,
        enforced: &Arc<Enforced>,
        peer: &PeerWorkload,
        mut head: Parts,
        wish: Wish,
    ) -> Result<Response<AnswerBody>, Rejection> {
        let proxy = &self.worker.proxy;
        let arrived = self.arrive(exchange, enforced, peer, &mut head)?;
        let client = exchange.client;
        let route = enforced
            .routes()
            .connection_to(arrived.own)
            .ok_or(Rejection::NoRoute)?;
        exchange.matched(enforced, route);
        let counted = Counted {
            client,
            user: None,
            service: arrived.caller.service,
        };
        proxy.enforce_limits(ROLE, enforced, route, Stage::Arrival, &counted)?;
        proxy.enforce_limits(ROLE, enforced, route, Stage::Authenticated, &counted)?;
        let transaction = arrived.transaction.as_ref();
        let question = Question {
            role: ROLE,
            enforced,
            caller: arrived.caller,
            principal: None,
            transaction: transaction.map(|transaction| &transaction.claims.txn),
            route,
            method: &Method::CONNECT,
            path: arrived.target.path.as_str(),
            source_ip: client,
            trace: &arrived.trace,
        };
        let permit = authorize(&self.worker, &question)?;
        exchange.permitted(&permit);
        proxy.enforce_limits(ROLE, enforced, route, Stage::Permitted, &counted)?;
        let (service, _) = permit.target().ok_or(Rejection::NoRoute)?;
        let slot = self
            .connections
            .take(service.connections.max)
            .ok_or(UpstreamError::Overloaded)?;
        let connection = forward::connect_to_service(&permit, client).await?;
        let admission = Admission {
            peer: Some(peer.address),
            listed: Some(arrived.source),
            edge: transaction.map(|transaction| &transaction.claims.iss),
        };
        let standing = Standing::new(&self.worker, &question, &permit, &admission, false)
            .ok_or(Rejection::NoRoute)?;
        let patience = connection::patience(service);
        exchange.carry(relay::run(
            wish.granted(),
            connection,
            slot,
            standing,
            patience,
        ));
        Ok(connection::grant())
    }

    /// What a request of `peer` says about itself and where it comes from, as far as that may be at all.
    fn arrive<'a>(
        &self,
        exchange: &mut Exchange,
        enforced: &'a Arc<Enforced>,
        peer: &'a PeerWorkload,
        head: &mut Parts,
    ) -> Result<Arrived<'a>, Rejection> {
        let own = self.own_index(enforced)?;
        exchange.reached(enforced, own);
        let caller = self.admit_peer(enforced, peer)?;
        let target = framing::admit_from_proxy(head)?;
        let transaction = self.transaction(enforced, &head.headers)?;
        headers::sanitise_request(&mut head.headers);
        let trace = exchange.join_trace(&self.worker, &mut head.headers, &target);

        // An edge speaks for the client's address; a service speaks for nobody's but its own.
        let client = transaction
            .as_ref()
            .map_or(peer.address, |t| t.claims.rctx.req_ip.to_canonical());
        exchange.client = client;
        let source = if enforced.is_edge(&peer.id) {
            client
        } else {
            peer.address
        };
        if !enforced
            .service_ip(own)
            .is_some_and(|filter| filter.allows(source))
        {
            return Err(Rejection::Source);
        }
        Ok(Arrived {
            own,
            caller,
            target,
            trace,
            source,
            transaction,
        })
    }

    /// Whether the peer may be connected at all: known, not revoked, its certificate not ended since the
    /// handshake, and allowed to connect by the policies of this snapshot.
    fn admit_peer<'a>(
        &self,
        enforced: &'a Arc<Enforced>,
        peer: &'a PeerWorkload,
    ) -> Result<Caller<'a>, Rejection> {
        let proxy = &self.worker.proxy;
        if peer.certificate_expires <= proxy.clock.now() {
            return Err(Rejection::Peer("its certificate has expired"));
        }
        if proxy.state.revocations().revokes_workload(&peer.id) {
            return Err(Rejection::Peer("its identity is revoked"));
        }
        let caller = peer
            .as_caller(enforced)
            .ok_or(Rejection::Peer("it is not declared"))?;
        let version = enforced.version().0;
        if peer.allowed_under.load(Ordering::Acquire) != version {
            authorize_connection(
                &self.worker,
                ROLE,
                enforced,
                &caller,
                &self.service,
                peer.address,
            )?;
            peer.allowed_under.store(version, Ordering::Release);
        }
        Ok(caller)
    }

    /// The transaction of the request; `None` if it brings no token.
    fn transaction(
        &self,
        enforced: &Enforced,
        fields: &HeaderMap,
    ) -> Result<Option<Arc<Transaction>>, TransactionError> {
        let mut tokens = fields.get_all(TXN_TOKEN).iter();
        let Some(token) = tokens.next() else {
            return Ok(None);
        };
        let token = token.to_str().map_err(|_| TransactionError::Several)?;
        if tokens.next().is_some() {
            return Err(TransactionError::Several);
        }
        self.transactions
            .verify(token, enforced, &self.worker.proxy.state)
            .map(Some)
    }

    /// Resolves when a change of policy or revocations forbids a connection that had been allowed.
    async fn until_forbidden(&self, peer: &PeerWorkload) {
        let proxy = &self.worker.proxy;
        let mut changes = proxy.state.changes();
        while changes.changed().await.is_ok() {
            let Some(enforced) = proxy.state.enforced() else {
                continue;
            };
            if peer.allowed_under.load(Ordering::Acquire) == NEVER {
                continue;
            }
            let is_allowed = !proxy.state.revocations().revokes_workload(&peer.id)
                && peer.as_caller(&enforced).is_some_and(|caller| {
                    let caller = authorize::peer(&enforced, &caller);
                    let now = proxy.clock.now();
                    enforced
                        .policy()
                        .decide_connect(&caller, &self.service, peer.address, now)
                        .allowed
                });
            if !is_allowed {
                tracing::info!(peer = %peer.id, service = %self.service, "connection closed: no longer allowed");
                return;
            }
        }
        std::future::pending().await
    }
}

/// Sets the fields a service may trust: nobody else can have set them.
fn vouch(
    fields: &mut HeaderMap,
    enforced: &Enforced,
    caller: &Caller<'_>,
    principal: Option<&Principal>,
    client: IpAddr,
    target: &Target,
) {
    headers::set(fields, X_CALLING_SERVICE, caller.service);
    headers::set(fields, X_FORWARDED_FOR, &client.to_string());
    headers::set(fields, X_FORWARDED_PROTO, "https");
    headers::set(fields, X_FORWARDED_HOST, &target.authority);
    let Some(principal) = principal else { return };
    headers::set(fields, X_USER_ID, &principal.subject);
    headers::set(fields, X_USER_SCOPES, &principal.scope());
    if let Some(subject) = enforced.subject(&principal.subject) {
        headers::set(fields, X_USER_NAME, &subject.username);
        headers::set_list(
            fields,
            X_USER_GROUPS,
            subject.groups.iter().map(|group| group.as_str()),
        );
        headers::set_list(
            fields,
            X_USER_ROLES,
            subject.roles.iter().map(|role| role.as_str()),
        );
    }
}
