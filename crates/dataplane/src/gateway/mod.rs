//! The edge: from outside into the fleet.
//!
//! [`GatewayWorker::handle`] is the life of a request, in order. [`arrival`] is what comes before, and [`connect`] the way
//! to services that take connections and no requests. Requests over QUIC come through `http3`.

mod arrival;
mod connect;
#[cfg_attr(not(feature = "http3"), path = "without_http3.rs")]
mod http3;

use std::{collections::BTreeMap, convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use arrival::{Arrival, Destination};
use futures_util::future::join_all;
use http::{HeaderValue, Request, Response, header, request::Parts};
use http3::Http3;
use hyper::{body::Incoming, service::service_fn};
use rustls::ServerConfig;
use testudo_model::{LimitKey, RateLimit, ServiceName, UserRequirement};
use testudo_policy::GATEWAY;
use testudo_runtime::{Drain, DrainWatch};
use testudo_trust::{ApiKeyText, WebCertificate, web_server_config};
use tokio::net::TcpStream;

use crate::{
    api_keys::{self, KeyUse},
    arriving::Arriving,
    authorize::{Question, authorize},
    body::AnswerBody,
    exchange::Exchange,
    forward::{self, Content, Outgoing},
    framing::{self, Target},
    headers,
    iplist::limited_network,
    limit::{Counted, Stage},
    listener::{self, Listeners, Running, StartError},
    metrics::Role,
    possession::{BoundRequest, DPOP, Possession},
    proxy::{Proxy, ProxyParts, Worker},
    redirect::{self, Redirect},
    rejection::Rejection,
    routes::{NoRoute, RouteRef},
    serve::{self, Activity, Protocol},
    slots::ConnectionSlots,
    source,
    spread::Seat,
    state::Enforced,
    stream::{Admission, Standing},
    tls,
    token::{self, Credentials, Login, TokenError, TokenVerifier},
    transaction::{Mint, OutsideCall},
    websocket::{self, Opening},
};

const ROLE: Role = Role::Gateway;

/// Signatures of unknown tokens checked for one address. A check costs five times what everything else does, so
/// this bounds what a flood of forged tokens can take; a token that was good is not checked again.
const UNKNOWN_TOKENS: RateLimit = RateLimit {
    per: LimitKey::Ip,
    requests: 200,
    period_millis: 1_000,
    burst: 400,
};

/// What a gateway is made of.
pub struct GatewayOptions {
    /// Where it listens; each socket has a worker thread.
    pub listen: Listeners,
    /// Its public certificate.
    pub certificate: WebCertificate,
    /// Whether TLS 1.2 is allowed beside 1.3.
    pub allow_tls12: bool,
    /// The plaintext listener that sends browsers to HTTPS, if there is to be one.
    pub redirect: Option<Redirect>,
    /// Ports of services that take connections and no requests, by their names.
    pub connections: BTreeMap<ServiceName, Listeners>,
    /// Identity, state, evidence.
    pub parts: ProxyParts,
    /// When to stop.
    pub drain: Drain,
    /// How long requests under way may take to finish when stopping.
    pub drain_deadline: Duration,
}

/// The edge role.
pub struct Gateway;

impl Gateway {
    /// Starts the worker threads. They end after the drain.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(options: GatewayOptions) -> Result<Running, StartError> {
        Self::start_all(options, None)
    }

    /// The same, which serves HTTP/3 at `datagrams` as well.
    ///
    /// # Errors
    /// [`StartError`].
    #[cfg(feature = "http3")]
    pub fn start_with_http3(
        options: GatewayOptions,
        datagrams: crate::Datagrams,
    ) -> Result<Running, StartError> {
        let http3 = Http3::new(datagrams, options.certificate.clone())?;
        Self::start_all(options, Some(http3))
    }

    fn start_all(
        options: GatewayOptions,
        http3: Option<Arc<Http3>>,
    ) -> Result<Running, StartError> {
        let proxy = Proxy::new(options.parts);
        let alternative = http3.as_ref().and_then(|http3| http3.alternative());
        let possession = Arc::new(Possession::new(
            Arc::clone(&proxy.clock),
            &*proxy.entropy,
            options.certificate.clone(),
        ));
        let tls = web_server_config(
            options.certificate,
            options.allow_tls12,
            &["h2", "http/1.1"],
        );
        let slots = ConnectionSlots::new();
        let mut redirect = options.redirect;
        let mut ports = listener::seats_by_worker(options.connections);
        let workers = options
            .listen
            .into_seats()
            .into_iter()
            .map(|seat| {
                let worker = GatewayWorker::new(
                    Arc::clone(&proxy),
                    Arc::clone(&tls),
                    Arc::clone(&possession),
                    alternative.clone(),
                );
                let (slots, drain) = (slots.clone(), options.drain.watch());
                let deadline = options.drain_deadline;
                let seats = Seats {
                    https: seat,
                    redirect: redirect.take(),
                    connections: ports.next().unwrap_or_default(),
                    http3: http3.clone(),
                };
                async move { worker.run(seats, slots, drain, deadline).await }
            })
            .collect();
        Running::start("gateway", workers)
    }
}

/// Where a worker listens.
struct Seats {
    https: Seat,
    redirect: Option<Redirect>,
    connections: Vec<(ServiceName, Seat)>,
    http3: Option<Arc<Http3>>,
}

struct GatewayWorker {
    worker: Arc<Worker>,
    tls: Arc<ServerConfig>,
    tokens: TokenVerifier,
    possession: Arc<Possession>,
    mint: Mint,
    /// Where else the same is served, for clients over TCP.
    alternative: Option<HeaderValue>,
}

impl GatewayWorker {
    fn new(
        proxy: Arc<Proxy>,
        tls: Arc<ServerConfig>,
        possession: Arc<Possession>,
        alternative: Option<HeaderValue>,
    ) -> Arc<Self> {
        let clock = Arc::clone(&proxy.clock);
        let identity = proxy.identity.clone();
        let worker = Arc::new(Worker::new(proxy));
        let mint = Mint::new(identity, Arc::clone(&clock), Arc::clone(&worker.entropy));
        Arc::new(Self {
            worker,
            tls,
            tokens: TokenVerifier::new(clock),
            possession,
            mint,
            alternative,
        })
    }

    async fn run(
        self: Arc<Self>,
        seats: Seats,
        slots: ConnectionSlots,
        drain: DrainWatch,
        deadline: Duration,
    ) {
        tokio::spawn(Arc::clone(&self.worker).close_forbidden_connections(GATEWAY.to_owned()));
        tokio::spawn(Arc::clone(&self.worker.pressure).watch());
        let redirecting = async {
            if let Some(redirect) = seats.redirect {
                redirect::run(redirect, slots.clone(), drain.clone(), deadline).await;
            }
        };
        let serving = listener::accept(
            seats.https,
            slots.clone(),
            drain.clone(),
            deadline,
            |stream, peer, drain| Arc::clone(&self).connection(stream, peer, drain),
        );
        let carrying = seats.connections.into_iter().map(|(called, seat)| {
            let gateway = Arc::clone(&self);
            listener::accept(
                seat,
                slots.clone(),
                drain.clone(),
                deadline,
                move |stream, peer, _| {
                    Arc::clone(&gateway).public_port(called.clone(), stream, peer)
                },
            )
        });
        let over_quic = async {
            if let Some(http3) = seats.http3 {
                let (slots, drain) = (slots.clone(), drain.clone());
                let gateway = Arc::clone(&self);
                gateway.serve_http3(http3, slots, drain, deadline).await;
            }
        };
        tokio::join!(redirecting, serving, join_all(carrying), over_quic);
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, peer: SocketAddr, drain: DrainWatch) {
        let metrics = &self.worker.proxy.metrics;
        let _open = metrics.connection(ROLE);
        let Arrival { stream, client } = match Box::pin(self.arrive(stream, peer)).await {
            Some(Destination::Here(arrival)) => arrival,
            Some(Destination::Passed(service, arrival)) => {
                return Box::pin(self.pass(&service, arrival)).await;
            }
            None => return,
        };
        let Some(stream) = tls::accept(&self.tls, stream).await else {
            return metrics.handshake_failed(ROLE);
        };
        let protocol = Protocol::from_alpn(stream.get_ref().1.alpn_protocol());
        let transfer = self.worker.proxy.transfer();
        let activity = Activity::new();
        let requests = Arc::clone(&activity);
        let service = service_fn(move |request: Request<Incoming>| {
            let (gateway, active) = (Arc::clone(&self), requests.begin());
            let request = request.map(Arriving::from);
            async move {
                let exchange = Exchange::begin(&gateway.worker, ROLE, &request, client, active);
                let mut answer = gateway.respond(exchange, request).await;
                if let Some(alternative) = &gateway.alternative {
                    let fields = answer.headers_mut();
                    fields.insert(header::ALT_SVC, alternative.clone());
                }
                Ok::<_, Infallible>(answer)
            }
        });
        serve::connection(
            stream,
            protocol,
            service,
            transfer,
            activity,
            drain,
            std::future::pending(),
        )
        .await;
    }

    async fn respond(
        &self,
        mut exchange: Exchange,
        request: Request<Arriving>,
    ) -> Response<AnswerBody> {
        let result = self.handle(&mut exchange, request).await;
        exchange.end(&self.worker, result)
    }

    async fn handle(
        &self,
        exchange: &mut Exchange,
        request: Request<Arriving>,
    ) -> Result<Response<AnswerBody>, Rejection> {
        let proxy = &self.worker.proxy;
        let enforced = proxy.ready()?;
        let (mut head, body) = request.into_parts();
        let opening = Opening::take(&mut head)?;
        let target = framing::admit(&head)?;

        exchange.client =
            source::client_address(exchange.client, &head.headers, enforced.trusted_proxies());
        let client = exchange.client;
        let arrived = Counted {
            client,
            user: None,
            service: GATEWAY,
        };
        self.admit_source(&enforced, &arrived)?;

        headers::sanitise_request(&mut head.headers);
        let trace = exchange.join_trace(&self.worker, &mut head.headers, &target);

        let route = enforced
            .routes()
            .find_public(&target.authority, &head.method, &target.path)
            .map_err(no_route)?;
        exchange.reached(&enforced, route.service);
        exchange.matched(&enforced, route);
        self.worker.admit(ROLE, &enforced, route)?;
        websocket::check_route(&enforced, route, opening.as_ref())?;
        if !enforced
            .service_ip(route.service)
            .is_some_and(|filter| filter.allows(client))
        {
            return Err(Rejection::Source);
        }
        proxy.enforce_limits(ROLE, &enforced, route, Stage::Arrival, &arrived)?;

        let login = self.authenticate(&enforced, route, &head, &target, &arrived)?;
        // Nobody decides about the user of a route without users, so none goes along.
        let login = login.filter(|_| wants_user(&enforced, route));
        head.headers.remove(header::AUTHORIZATION);
        head.headers.remove(DPOP);
        api_keys::remove(&mut head.headers);
        let principal = login.as_ref().map(|login| &login.principal);
        let known = Counted {
            user: principal.map(|principal| principal.subject.as_str()),
            ..arrived
        };
        self.gateway_limits(&enforced, Stage::Authenticated, &known)?;
        proxy.enforce_limits(ROLE, &enforced, route, Stage::Authenticated, &known)?;

        let call = OutsideCall {
            client,
            method: head.method.clone(),
            path: target.path.as_str().to_owned(),
        };
        let begun = self.mint.begin(login.as_deref(), call);
        let own = proxy.own_identity();
        let caller = own.as_caller(GATEWAY);
        self.worker
            .may_connect(ROLE, &enforced, &caller, route.service)?;
        let transaction_id = begun.id().clone();
        let question = Question {
            role: ROLE,
            enforced: &enforced,
            caller,
            principal,
            transaction: Some(&transaction_id),
            route,
            method: &head.method.clone(),
            path: target.path.as_str(),
            source_ip: client,
            trace: &trace,
        };
        let permit = authorize(&self.worker, &question)?;

        exchange.permitted(&permit);
        self.gateway_limits(&enforced, Stage::Permitted, &known)?;
        proxy.enforce_limits(ROLE, &enforced, route, Stage::Permitted, &known)?;
        let transaction = self
            .mint
            .token(begun, login.as_deref(), &enforced.snapshot().trust_domain)
            .map_err(Rejection::NotReady)?;
        let outgoing = Outgoing {
            method: head.method,
            target: &target,
            headers: head.headers,
            content: Content::new(body, opening.is_some()),
            role: ROLE,
        };
        let forwarded =
            forward::to_proxy(&self.worker, &permit, outgoing, Some(&transaction)).await?;
        let admission = Admission {
            peer: None,
            listed: Some(client),
            edge: None,
        };
        exchange.answer(opening, forwarded, |is_websocket| {
            Standing::new(&self.worker, &question, &permit, &admission, is_websocket)
        })
    }

    fn admit_source(&self, enforced: &Enforced, arrived: &Counted<'_>) -> Result<(), Rejection> {
        if !enforced.gateway_ip().allows(arrived.client) {
            return Err(Rejection::Source);
        }
        self.gateway_limits(enforced, Stage::Arrival, arrived)
    }

    fn gateway_limits(
        &self,
        enforced: &Enforced,
        stage: Stage,
        counted: &Counted<'_>,
    ) -> Result<(), Rejection> {
        let proxy = &self.worker.proxy;
        let limits = enforced.gateway_limits();
        proxy
            .limiter
            .enforce(limits, stage, counted)
            .map_err(|limited| {
                proxy.metrics.limited(ROLE, limited.key());
                Rejection::Limited(limited)
            })
    }

    /// The login behind the request; `None` for an anonymous one, about which the policies decide.
    fn authenticate(
        &self,
        enforced: &Enforced,
        route: RouteRef,
        head: &Parts,
        target: &Target,
        arrived: &Counted<'_>,
    ) -> Result<Option<Arc<Login>>, Rejection> {
        let proxy = &self.worker.proxy;
        let refused = |error| match error {
            // A route without users has no use for credentials of another scheme; they end here.
            TokenError::Scheme if !wants_user(enforced, route) => Ok(None),
            error => Err(Rejection::from(error)),
        };
        let credentials = match token::credentials(&head.headers, target.query.as_deref()) {
            Ok(Some(credentials)) => credentials,
            Ok(None) => return Ok(None),
            Err(error) => return refused(error),
        };
        if ApiKeyText::is_meant(credentials.token) {
            let login = self.api_key_login(enforced, route, credentials, arrived)?;
            return Ok(Some(login));
        }
        let remembered = self.tokens.remembered(credentials.token, enforced);
        proxy.metrics.token_lookup(remembered.is_some());
        let verified = match remembered {
            Some(verified) => verified,
            None => {
                let token = match token::token68(credentials.token) {
                    Ok(token) => token,
                    Err(error) => return refused(error),
                };
                self.count_unknown(arrived)?;
                self.tokens.verify(token, enforced)?
            }
        };
        let login = self
            .tokens
            .login(verified, credentials.has_proof, &proxy.state)?;
        if let Some(service) = &login.service
            && enforced.service_label(route.service).map(|label| &**label) != Some(&**service)
        {
            return Err(TokenError::Audience.into());
        }
        if let Some(key) = &login.key {
            let request = BoundRequest {
                method: &head.method,
                target,
                fields: &head.headers,
                token: token::token68(credentials.token)?,
                key,
            };
            self.possession.prove(request, enforced.routes())?;
        }
        Ok(Some(login))
    }

    /// The login of an API key. Those that are good count for nothing: looking one up costs less than a signature.
    fn api_key_login(
        &self,
        enforced: &Enforced,
        route: RouteRef,
        credentials: Credentials<'_>,
        arrived: &Counted<'_>,
    ) -> Result<Arc<Login>, Rejection> {
        let proxy = &self.worker.proxy;
        if credentials.has_proof {
            return Err(TokenError::Unbound.into());
        }
        let service = enforced.snapshot().services.get(route.service);
        let place = KeyUse {
            service: service.map_or("", |service| service.name.as_str()),
            is_taken: service.is_some_and(|service| service.api_keys),
            client: arrived.client,
            now: proxy.clock.now(),
        };
        let text = token::token68(credentials.token).map_err(|_| TokenError::UnknownKey);
        let login = text.and_then(|text| enforced.api_keys().login(text, &place, &proxy.state));
        if matches!(login, Err(TokenError::UnknownKey)) {
            self.count_unknown(arrived)?;
        }
        Ok(login?)
    }

    fn count_unknown(&self, arrived: &Counted<'_>) -> Result<(), Rejection> {
        let from = limited_network(arrived.client);
        let limiter = &self.worker.proxy.limiter;
        limiter
            .count(&UNKNOWN_TOKENS, "unknown-tokens", from)
            .map_err(Rejection::Limited)
    }
}

/// Whether a user may stand behind calls of the route.
pub(crate) fn wants_user(enforced: &Enforced, route: RouteRef) -> bool {
    let service = enforced.snapshot().services.get(route.service);
    service
        .and_then(|service| service.routes.get(route.route))
        .is_none_or(|route| route.user != UserRequirement::None)
}

/// A route that does not match, as a refusal.
pub(crate) fn no_route(error: NoRoute) -> Rejection {
    match error {
        NoRoute::Path => Rejection::NoRoute,
        NoRoute::Method(allowed) => Rejection::Method(allowed),
    }
}
