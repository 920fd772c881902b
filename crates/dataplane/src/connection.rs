//! Connections whose bytes nobody on the way reads: plain TCP, and TLS that ends at the service.
//!
//! Such a connection is decided about as a whole, at each hop, as the one operation of its service. Between proxies it
//! is an extended CONNECT with [`Capsules`] in it, on the same connections as requests.

use std::{future::ready, net::IpAddr, sync::Arc, time::Duration};

use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode, Version, header::HeaderName,
    request::Parts,
};
use hyper::{
    ext::Protocol,
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;
use testudo_model::{CanonicalPath, Service};

use crate::{
    body::AnswerBody,
    capsule::Capsules,
    forward::{Content, Outgoing},
    framing::{FramingError, Target},
    metrics::Role,
    proxy::Worker,
    record,
    rejection::{Rejection, UpstreamError},
    relay::{self, Opened, Patience},
    stream::Standing,
    tcp, trace,
};

/// Name of the protocol in an extended CONNECT between proxies.
pub(crate) const PROTOCOL: &str = "connect-tcp";
/// RFC 9297 section 3.4.
const CAPSULE_PROTOCOL: HeaderName = HeaderName::from_static("capsule-protocol");
/// The path of the operation. It says nothing, and policies may ask for one.
const PATH: &str = "/";
/// The reason label of what was carried.
const ALLOWED: &str = "allowed";

/// A connection over a mesh stream.
pub(crate) type MeshConnection = Capsules<TokioIo<Upgraded>>;

/// The wish of another proxy for a connection.
pub(crate) struct Wish(OnUpgrade);

impl Wish {
    /// Takes the wish out of `head`, if it has one. What is left is a GET to be judged like any other.
    ///
    /// # Errors
    /// [`FramingError::Connect`] if it came over something that cannot carry a connection.
    pub(crate) fn take(head: &mut Parts) -> Result<Option<Self>, FramingError> {
        let protocol = head.extensions.get::<Protocol>().map(Protocol::as_str);
        if head.method != Method::CONNECT
            || head.version != Version::HTTP_2
            || protocol != Some(PROTOCOL)
        {
            return Ok(None);
        }
        let upgrade = head
            .extensions
            .remove::<OnUpgrade>()
            .ok_or(FramingError::Connect)?;
        head.extensions.remove::<Protocol>();
        head.method = Method::GET;
        Ok(Some(Self(upgrade)))
    }

    /// The connection, once the answer is out that grants the wish.
    pub(crate) async fn granted(self) -> Option<MeshConnection> {
        let upgraded = self.0.await.ok()?;
        Some(Capsules::new(TokioIo::new(upgraded)))
    }
}

/// The answer that grants a wish.
pub(crate) fn grant() -> Response<AnswerBody> {
    Response::new(AnswerBody::empty())
}

/// What is asked about a connection to `service`, and its trace id.
pub(crate) struct Ask {
    /// Service and path.
    pub(crate) target: Target,
    /// The fields that go along.
    headers: HeaderMap,
    /// 32 hex digits.
    pub(crate) trace: String,
}

impl Ask {
    pub(crate) fn new(worker: &Worker, service: &Service) -> Result<Self, Rejection> {
        let mut headers = HeaderMap::new();
        // Nobody names spans of connections; that the hops belong together is said all the same.
        let trace = trace::settle(&mut headers, &*worker.entropy, false, false)
            .context
            .trace_id();
        headers.insert(CAPSULE_PROTOCOL, HeaderValue::from_static("?1"));
        let target = Target {
            authority: service.name.to_string(),
            path: CanonicalPath::parse(PATH)?.into_owned(),
            query: None,
        };
        Ok(Self {
            target,
            headers,
            trace,
        })
    }

    /// The request that asks for it, at a proxy that stands at `role`.
    pub(crate) fn outgoing(&self, role: Role) -> Outgoing<'_> {
        Outgoing {
            method: Method::CONNECT,
            target: &self.target,
            headers: self.headers.clone(),
            content: Content::Connection,
            role,
        }
    }
}

/// A connection through this proxy that may begin.
pub(crate) struct Through {
    opened: Opened,
    standing: Standing,
    patience: Patience,
}

impl Through {
    pub(crate) fn new(service: &Service, opened: Opened, standing: Standing) -> Self {
        Self {
            opened,
            standing,
            patience: patience(service),
        }
    }

    /// Carries the bytes of `client`, as soon as it is there.
    pub(crate) async fn carry<C>(self, client: impl Future<Output = Option<C>>)
    where
        C: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        let (far, kept) = self.opened.into_parts();
        relay::run(
            client,
            Capsules::new(far),
            kept,
            self.standing,
            self.patience,
        )
        .await;
    }
}

/// How long a connection of `service` may be idle.
pub(crate) const fn patience(service: &Service) -> Patience {
    Patience::of_connection(Duration::from_millis(service.connections.idle_millis))
}

/// A connection that came without any request: to be carried, or counted, recorded and reset.
pub(crate) struct Arrived {
    pub(crate) role: Role,
    pub(crate) stream: tcp::Connection,
    /// Where it came from.
    pub(crate) client: IpAddr,
    /// Name of the service it is for, or what there is instead.
    pub(crate) wanted: String,
    /// The label of the service, if there is one.
    pub(crate) label: Option<Arc<str>>,
    pub(crate) began_nanos: u64,
}

impl Arrived {
    /// Carries or resets it.
    pub(crate) async fn end(self, worker: &Worker, result: Result<Through, Rejection>) {
        let reason = result.as_ref().err().map_or(ALLOWED, Rejection::code);
        let status = result
            .as_ref()
            .err()
            .map_or(StatusCode::OK, Rejection::status);
        let proxy = &worker.proxy;
        let now = proxy.clock.monotonic_nanos();
        let took = Duration::from_nanos(now.saturating_sub(self.began_nanos));
        let service = self.label.as_ref().unwrap_or(&worker.no_service);
        proxy
            .metrics
            .request(self.role, service, status, reason, took);
        match result {
            Ok(through) => through.carry(ready(Some(self.stream))).await,
            Err(rejection) => record::refusal(
                worker,
                self.role,
                &rejection,
                self.client,
                Method::CONNECT.as_str(),
                &self.wanted,
            ),
        }
    }
}

/// A refusal of the next proxy, as one of ours.
pub(crate) fn refused_by_next() -> Rejection {
    UpstreamError::Refused.into()
}
