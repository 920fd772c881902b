//! The device authorization endpoint (RFC 8628): a device without a browser gets a code that its user types in where there
//! is one.
//!
//! A request is one record, under its user code. It is written when the device asks, when the user decides and when the
//! tokens are given; asking in between writes nothing.

mod page;
mod polls;
mod user_code;

use std::{
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};
use testudo_model::{Buckets, ClientName, SessionId, SourceNetwork, Timestamp, UserId};
use testudo_store::{Expected, Record};

pub use self::page::{DeviceDecision, DevicePage, DevicePageError, DeviceQuestion};
pub(crate) use self::{
    polls::{Poll, Polls},
    user_code::UserCode,
};
use crate::{
    Caller, ErrorCode, Fault, OauthError, Provider, TokenRequest,
    change::until_settled,
    discovery::paths,
    limits::{
        DEVICE_CODE_LIFETIME, DEVICE_CODE_MEMORY, DEVICE_POLL_INTERVAL, DEVICE_REQUEST_REFILL,
        DEVICE_REQUEST_REFILL_PER_SOURCE, FREE_DEVICE_REQUESTS, FREE_DEVICE_REQUESTS_PER_SOURCE,
        MAX_FAILED_PROOF_SOURCES,
    },
    records::{Authentication, Client, GrantType},
    scopes::{self, ScopeSet},
    secret::{self, StoredSecret},
    token::{ClientAuthenticationError, ClientHolder},
};

/// A device that waits for its user.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct DeviceRequest {
    pub(crate) user_code: UserCode,
    /// SHA-256 of the secret in the device code, hex.
    pub(crate) digest: StoredSecret,
    pub(crate) client_id: ClientName,
    pub(crate) client_created_at: Timestamp,
    pub(crate) scopes: ScopeSet,
    pub(crate) expires_at: Timestamp,
    pub(crate) state: DeviceState,
}

/// The life of a device's request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DeviceState {
    /// Nobody has decided.
    Waiting,
    /// The user said no.
    Denied,
    /// The user said yes.
    Allowed {
        /// In this session.
        login: SessionId,
        /// Who.
        user: UserId,
        /// How they had proved who they are.
        authentication: Authentication,
        /// When.
        at: Timestamp,
    },
    /// The device has its tokens.
    Redeemed,
}

impl DeviceRequest {
    /// Whether this client asked, and not a former one of the same name.
    pub(crate) fn belongs_to(&self, client: &Client) -> bool {
        self.client_id == client.client_id && self.client_created_at == client.created_at
    }
}

impl Record for DeviceRequest {
    const COLLECTION: &'static str = "identity.device_request";

    fn key(&self) -> String {
        self.user_code.to_string()
    }

    /// Later than it counts, so that a device learns that it was too late.
    fn expires(&self) -> Option<Timestamp> {
        Some(self.expires_at + DEVICE_CODE_MEMORY)
    }
}

/// How often devices may ask. Each request is a record, and the id of a public client is no secret.
pub(crate) struct DeviceBudget(Mutex<(Buckets<Option<SourceNetwork>>, Buckets<()>)>);

impl Default for DeviceBudget {
    fn default() -> Self {
        let of_sources = Buckets::new(
            FREE_DEVICE_REQUESTS_PER_SOURCE,
            DEVICE_REQUEST_REFILL_PER_SOURCE,
            MAX_FAILED_PROOF_SOURCES,
        );
        let together = Buckets::new(FREE_DEVICE_REQUESTS, DEVICE_REQUEST_REFILL, 1);
        Self(Mutex::new((of_sources, together)))
    }
}

impl DeviceBudget {
    /// Whether somebody at `source` may ask once more.
    fn admits(&self, source: Option<IpAddr>, now: u64) -> bool {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (of_sources, together) = &mut *buckets;
        // The source first: one that has spent its own must not spend what is everybody's.
        of_sources.take(source.map(SourceNetwork::of), now) && together.take((), now)
    }
}

/// The answer to a device (RFC 8628 section 3.2). Send it with `Cache-Control: no-store`.
#[derive(Debug, Clone, Serialize)]
pub struct DeviceAuthorization {
    /// What the device asks for its tokens with.
    pub device_code: String,
    /// What the user types.
    pub user_code: String,
    /// Where.
    pub verification_uri: String,
    /// The same with the code in it, for a QR code.
    pub verification_uri_complete: String,
    /// Seconds until it is too late.
    pub expires_in: u64,
    /// Seconds between two questions of the device.
    pub interval: u64,
}

/// Why a device gets no code.
#[derive(Debug, thiserror::Error)]
pub enum DeviceAuthorizationError {
    /// A parameter came twice.
    #[error("`{0}` is repeated")]
    Repeated(String),
    /// The client did not prove who it is.
    #[error(transparent)]
    Client(#[from] ClientAuthenticationError),
    /// The client has no such grant.
    #[error("this client may not use the device authorization grant")]
    UnauthorizedClient,
    /// No scope that the client may have.
    #[error("scope is missing, malformed or more than this client may ask for")]
    Scope,
    /// A resource that is not the fleet (RFC 8707).
    #[error("`resource` must be the audience of the fleet, once")]
    Resource,
    /// Too many requests.
    #[error("too many devices ask at once; wait a little and try again")]
    Throttled,
    /// Our fault.
    #[error("the request could not be handled")]
    Unavailable(#[from] Fault),
}

impl DeviceAuthorizationError {
    /// The answer on the wire.
    pub fn to_oauth(&self) -> OauthError {
        let (error, status) = match self {
            Self::Client(error) => return error.to_oauth(),
            Self::Unavailable(fault) => return OauthError::of_fault(fault, self),
            Self::Repeated(_) => (ErrorCode::InvalidRequest, 400),
            Self::UnauthorizedClient => (ErrorCode::UnauthorizedClient, 400),
            Self::Scope => (ErrorCode::InvalidScope, 400),
            Self::Resource => (ErrorCode::InvalidTarget, 400),
            Self::Throttled => (ErrorCode::TemporarilyUnavailable, 429),
        };
        OauthError::new(error, status, self)
    }
}

impl Provider {
    /// Handles a request of the device authorization endpoint.
    ///
    /// It costs an Argon2 hash if [`costs_a_hash`](Self::costs_a_hash) says so.
    ///
    /// # Errors
    /// See [`DeviceAuthorizationError`].
    pub fn authorize_device(
        &self,
        request: &TokenRequest<'_>,
        caller: &Caller,
    ) -> Result<DeviceAuthorization, DeviceAuthorizationError> {
        let parameters = request.parameters;
        if let Some(repeated) = parameters.first_repeated() {
            let name = repeated.chars().take(64).collect();
            return Err(DeviceAuthorizationError::Repeated(name));
        }
        let client = self.authenticate_client_at("device.authorize", request, caller)?;
        let ClientHolder::Client(client) = client.holder else {
            return Err(DeviceAuthorizationError::UnauthorizedClient);
        };
        if !client.may_use(GrantType::DeviceCode) {
            return Err(DeviceAuthorizationError::UnauthorizedClient);
        }
        if !parameters.ask_for(&self.settings.audience) {
            return Err(DeviceAuthorizationError::Resource);
        }
        let scopes = scopes::parse(parameters.get("scope").unwrap_or(""))
            .map(|asked| client.permitted(&asked))
            .filter(|granted| !granted.is_empty());
        let scopes = scopes.ok_or(DeviceAuthorizationError::Scope)?;
        let now = self.clock.monotonic_nanos();
        if !self.device_budget.admits(caller.source_ip, now) {
            return Err(DeviceAuthorizationError::Throttled);
        }
        Ok(self.new_device_request(&client, &scopes)?)
    }

    fn new_device_request(
        &self,
        client: &Client,
        scopes: &ScopeSet,
    ) -> Result<DeviceAuthorization, Fault> {
        let secret = secret::generate(&*self.entropy);
        // A code that somebody else's device shows at the moment is taken: then another.
        until_settled(|| {
            let user_code = UserCode::generate(&*self.entropy);
            let request = DeviceRequest {
                user_code: user_code.clone(),
                digest: StoredSecret::new(secret::digest(secret.expose())),
                client_id: client.client_id.clone(),
                client_created_at: client.created_at,
                scopes: scopes.clone(),
                expires_at: self.clock.now() + DEVICE_CODE_LIFETIME,
                state: DeviceState::Waiting,
            };
            let stored = self.change().put(Expected::Absent, &request).commit()?;
            let verification_uri = format!("{}{}", self.settings.issuer, paths::DEVICE);
            Ok(stored.then(|| DeviceAuthorization {
                device_code: format!("{user_code}.{}", secret.expose()),
                verification_uri_complete: format!("{verification_uri}?user_code={user_code}"),
                user_code: user_code.to_string(),
                verification_uri,
                expires_in: DEVICE_CODE_LIFETIME.as_secs(),
                interval: DEVICE_POLL_INTERVAL.as_secs(),
            }))
        })
    }
}
