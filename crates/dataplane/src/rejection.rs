//! Every way in which the request path says no, with its code, its status and what the caller is told.

use http::StatusCode;
use testudo_model::{DecisionId, PathError, Problem};
use testudo_policy::ReasonCode;

use crate::{
    framing::FramingError, limit::Limited, overload::RETRY_AFTER_SECONDS, possession::ProofError,
    proxy_protocol::HeaderError, sidecar::TunnelError, step_up::StepUpChallenge, token::TokenError,
    transaction::TransactionError, websocket::WebsocketError,
};

/// Why a request is not forwarded, or why its answer could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Rejection {
    /// The message could be read in two ways, or goes beyond a limit.
    #[error("the request is refused by the framing gate")]
    Framing(#[from] FramingError),
    /// CONNECT that leads nowhere, or a request that does not belong into its tunnel.
    #[error("the tunnel is refused")]
    Tunnel(#[from] TunnelError),
    /// A WebSocket that is not opened.
    #[error("the WebSocket is refused")]
    Websocket(#[from] WebsocketError),
    /// The path has no canonical form.
    #[error("the path is refused")]
    Path(#[from] PathError),
    /// The client's address may not connect.
    #[error("the source address is not allowed")]
    Source,
    /// A trusted proxy did not say whose connection it is, as the gateway was told it would.
    #[error("the header of the PROXY protocol is refused")]
    ProxyHeader(#[from] HeaderError),
    /// A limit is used up.
    #[error("a rate limit is used up")]
    Limited(Limited),
    /// No operation has this path.
    #[error("no route matches")]
    NoRoute,
    /// An operation has this path, with other methods.
    #[error("no route matches the method")]
    Method(Vec<String>),
    /// No or no good access token.
    #[error("the access token is refused")]
    Token(#[from] TokenError),
    /// No good proof of possession beside a good access token.
    #[error("the proof of possession is refused")]
    Proof(#[from] ProofError),
    /// No good transaction token.
    #[error("the transaction token is refused")]
    Transaction(#[from] TransactionError),
    /// The calling workload is unknown, revoked or its certificate has ended.
    #[error("the calling workload is refused: {0}")]
    Peer(&'static str),
    /// The policies say no.
    #[error("denied: {reason}")]
    Denied {
        /// Why.
        reason: ReasonCode,
        /// The recorded decision; `None` for one of a flood by nobody known, of which a sample is recorded.
        decision: Option<DecisionId>,
        /// The login with which the same user would not be denied, if there is one.
        step_up: Option<StepUpChallenge>,
    },
    /// The proxy cannot decide or prove: it fails closed.
    #[error("not ready: {0}")]
    NotReady(NotReady),
    /// The proxy has too much to do, and this matters less than the rest.
    #[error("the proxy is overloaded")]
    Overloaded,
    /// The called service could not answer.
    #[error("the upstream failed")]
    Upstream(#[from] UpstreamError),
}

/// What a proxy lacks to decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotReady {
    /// No snapshot yet.
    #[error("no snapshot has arrived")]
    NoSnapshot,
    /// Its own certificate has ended.
    #[error("the proxy's certificate has expired")]
    IdentityExpired,
    /// Decisions cannot be recorded.
    #[error("the event spool is full")]
    SpoolFull,
    /// The service it stands for is not in the snapshot.
    #[error("the service of this sidecar is not declared")]
    UndeclaredService,
    /// A token could not be signed.
    #[error("the transaction token could not be signed")]
    Signing,
}

/// Why the called service could not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UpstreamError {
    /// Nobody offers the service.
    #[error("no sidecar of the service is known")]
    NoEndpoint,
    /// No connection could be made.
    #[error("no connection could be made")]
    Unreachable,
    /// As many requests are open as it takes at once, and more important ones wait.
    #[error("too many requests are open; try again in a moment")]
    Overloaded,
    /// The connection broke before an answer.
    #[error("the connection broke")]
    Broken,
    /// It switched protocols without being asked, or not as it was asked.
    #[error("the service's answer to the opening of a WebSocket is wrong")]
    Handshake,
    /// No answer in time.
    #[error("no answer in time")]
    TimedOut,
    /// The proxy of the called service said no; its event says why.
    #[error("the proxy of the called service refused the connection")]
    Refused,
    /// The client sent a body beyond the route's limit.
    #[error("the request body is too large")]
    BodyTooLarge,
    /// The client's body ended early.
    #[error("the request body was not received")]
    BodyUnreadable,
    /// The client sent its body slower than the fleet allows.
    #[error("the request body came too slowly")]
    BodyTooSlow,
}

impl Rejection {
    /// HTTP status.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Framing(error) => error.status(),
            Self::Tunnel(error) => error.status(),
            Self::Websocket(error) => error.status(),
            Self::Path(PathError::TooLong) => StatusCode::URI_TOO_LONG,
            Self::Path(_) | Self::ProxyHeader(_) => StatusCode::BAD_REQUEST,
            Self::Limited(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Token(error) => error.status(),
            Self::Proof(_)
            | Self::Transaction(_)
            | Self::Denied {
                reason: ReasonCode::UserRequired,
                ..
            }
            | Self::Denied {
                step_up: Some(_), ..
            } => StatusCode::UNAUTHORIZED,
            Self::Source | Self::Peer(_) | Self::Denied { .. } => StatusCode::FORBIDDEN,
            Self::NotReady(_) | Self::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
            Self::Upstream(error) => error.status(),
        }
    }

    /// Stable code; also the `reason` label of the metrics.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Framing(error) => error.code(),
            Self::Tunnel(error) => error.code(),
            Self::Websocket(error) => error.code(),
            Self::Path(_) => "request.path",
            Self::Source => "source.denied",
            Self::ProxyHeader(_) => "source.proxy_header",
            Self::Limited(_) => "limit.exceeded",
            Self::NoRoute => "route.not_found",
            Self::Method(_) => "route.method_not_allowed",
            Self::Token(error) => error.code(),
            Self::Proof(error) => error.code(),
            Self::Transaction(_) => "token.transaction",
            Self::Peer(_) => "peer.refused",
            Self::Denied {
                step_up: Some(_), ..
            } => "policy.step_up",
            Self::Denied { reason, .. } => reason.as_str(),
            Self::NotReady(NotReady::NoSnapshot) => "proxy.no_snapshot",
            Self::NotReady(NotReady::IdentityExpired) => "proxy.identity_expired",
            Self::NotReady(NotReady::SpoolFull) => "proxy.spool_full",
            Self::NotReady(NotReady::UndeclaredService) => "proxy.undeclared_service",
            Self::NotReady(NotReady::Signing) => "proxy.signing",
            Self::Overloaded => "proxy.overloaded",
            Self::Upstream(error) => error.code(),
        }
    }

    /// When to try again, if that may help and is known.
    pub(crate) fn retry_after_seconds(&self) -> Option<u64> {
        match self {
            Self::Limited(limited) => Some(limited.retry_after_seconds()),
            Self::NotReady(_) | Self::Overloaded | Self::Upstream(UpstreamError::Overloaded) => {
                Some(RETRY_AFTER_SECONDS)
            }
            _ => None,
        }
    }

    /// The decision, if one was made.
    pub(crate) const fn decision(&self) -> Option<&DecisionId> {
        match self {
            Self::Denied { decision, .. } => decision.as_ref(),
            _ => None,
        }
    }

    /// Whether the connection must not carry another request: who framed one badly frames the next badly, and who
    /// wanted another protocol may already speak it.
    pub(crate) const fn closes_connection(&self) -> bool {
        matches!(
            self,
            Self::Framing(_)
                | Self::Tunnel(_)
                | Self::Websocket(_)
                | Self::Upstream(UpstreamError::BodyTooLarge | UpstreamError::BodyTooSlow)
        )
    }

    /// The answer's body. It never repeats what only the inside may know: which policy denied is found with
    /// the decision id.
    pub(crate) fn problem(&self) -> Problem {
        let problem = Problem::new(self.status().as_u16(), self.code(), self.title());
        let problem = match self.decision() {
            Some(decision) => problem.with_decision(decision.clone()),
            None => problem,
        };
        match self.detail() {
            Some(detail) => problem.with_detail(detail),
            None => problem,
        }
    }

    const fn title(&self) -> &'static str {
        match self {
            Self::Framing(_) => "The request is malformed or ambiguous",
            Self::Tunnel(_) => "The tunnel is refused",
            Self::Websocket(_) => "The WebSocket is not opened",
            Self::Path(_) => "The path is malformed or ambiguous",
            Self::Source => "This address may not connect",
            Self::ProxyHeader(_) => "The header of the PROXY protocol is refused",
            Self::Limited(_) => "Too many requests",
            Self::NoRoute => "There is nothing here",
            Self::Method(_) => "Not with this method",
            Self::Token(_) | Self::Proof(_) | Self::Transaction(_) => "Authentication failed",
            Self::Peer(_) => "The calling workload is refused",
            Self::Denied {
                reason: ReasonCode::UserRequired,
                ..
            } => "A login is required",
            Self::Denied {
                step_up: Some(_), ..
            } => "Another login is required",
            Self::Denied { .. } => "Not allowed",
            Self::NotReady(_) => "Not ready",
            Self::Overloaded | Self::Upstream(UpstreamError::Overloaded) => "Too much to do",
            Self::Upstream(UpstreamError::BodyTooLarge) => "The body is too large",
            Self::Upstream(UpstreamError::BodyTooSlow) => "The body came too slowly",
            Self::Upstream(_) => "The service did not answer",
        }
    }

    fn detail(&self) -> Option<String> {
        match self {
            Self::Framing(error) => Some(error.to_string()),
            Self::Tunnel(error) => Some(error.to_string()),
            Self::Websocket(error) => Some(error.to_string()),
            Self::Path(error) => Some(error.to_string()),
            Self::Token(error) => Some(error.to_string()),
            Self::Proof(error) => Some(error.to_string()),
            Self::ProxyHeader(error) => Some(error.to_string()),
            Self::Limited(limited) => Some(format!(
                "limit per {}; try again in {} s",
                limited.key(),
                limited.retry_after_seconds()
            )),
            Self::Denied {
                step_up: Some(challenge),
                ..
            } => Some(challenge.detail().to_owned()),
            Self::Denied {
                decision: Some(decision),
                ..
            } => Some(format!(
                "`testudo policy explain {decision}` tells which rule and why"
            )),
            Self::Denied { decision: None, .. } => Some(
                "there are so many such calls that this decision was not recorded; try again later for one that can \
                 be explained"
                    .to_owned(),
            ),
            Self::Upstream(error) => Some(error.to_string()),
            Self::NotReady(why) => Some(why.to_string()),
            Self::Overloaded => Some("try again in a moment".to_owned()),
            Self::Source
            | Self::NoRoute
            | Self::Method(_)
            | Self::Transaction(_)
            | Self::Peer(_) => None,
        }
    }
}

impl UpstreamError {
    const fn status(self) -> StatusCode {
        match self {
            Self::NoEndpoint | Self::Unreachable | Self::Overloaded => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Broken | Self::Handshake | Self::Refused => StatusCode::BAD_GATEWAY,
            Self::TimedOut => StatusCode::GATEWAY_TIMEOUT,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyUnreadable => StatusCode::BAD_REQUEST,
            Self::BodyTooSlow => StatusCode::REQUEST_TIMEOUT,
        }
    }

    const fn code(self) -> &'static str {
        match self {
            Self::NoEndpoint => "upstream.no_endpoint",
            Self::Unreachable => "upstream.unreachable",
            Self::Overloaded => "upstream.overloaded",
            Self::Broken => "upstream.broken",
            Self::Handshake => "upstream.websocket",
            Self::Refused => "upstream.refused",
            Self::TimedOut => "upstream.timed_out",
            Self::BodyTooLarge => "request.body_too_large",
            Self::BodyUnreadable => "request.body_unreadable",
            Self::BodyTooSlow => "request.body_too_slow",
        }
    }
}
