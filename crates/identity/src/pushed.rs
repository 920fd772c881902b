//! Pushed authorization requests (RFC 9126): the client's backend says what it asks for, so that the browser that
//! carries it can neither read nor change it.
//!
//! A pushed request is no row. The reference is the request itself, sealed, and is good for the client that pushed it,
//! for [`PUSHED_REQUEST_LIFETIME`]. What is stored is that a code was given for it, in the transaction that gives the
//! code: so a reference gives one code at most, and a reload of the login page before that harms nobody (section 4).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use testudo_model::{ClientName, Timestamp};
use testudo_store::{Expected, Record};

use crate::{
    AuthorizeError, Caller, ClientAuthenticationError, DpopError, ErrorCode, Fault, OauthError,
    Parameters, ProofTarget, Provider, Refusal,
    authorize::Asked,
    change::Change,
    discovery::paths,
    flow::{GrantRequest, Sealed},
    limits::{FLOW_LIFETIME, MAX_REQUEST_REFERENCE_BYTES, PUSHED_REQUEST_LIFETIME},
    records::Client,
    request_object::RequestObjectError,
    secret,
    token::{ClientHolder, TokenRequest},
};

/// What a proof at this endpoint is made for.
const PUSH_REQUEST: ProofTarget<'_> = ProofTarget {
    method: "POST",
    path: paths::PUSH,
};
/// What references begin with (section 2.2).
const SCHEME: &str = "urn:ietf:params:oauth:request_uri:";

/// The parameters of an authorization request that mean something to us. Others, and what proves the client, are not
/// kept.
pub(crate) const KEPT: [&str; 15] = [
    "acr_values",
    "code_challenge",
    "code_challenge_method",
    "dpop_jkt",
    "id_token_hint",
    "login_hint",
    "max_age",
    "nonce",
    "prompt",
    "redirect_uri",
    "resource",
    "response_mode",
    "response_type",
    "scope",
    "state",
];

/// The answer to a pushed request (section 2.2). Send it with status 201 and `Cache-Control: no-store`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PushedRequest {
    /// The `request_uri` of the authorization request.
    pub request_uri: String,
    /// Seconds it is good for.
    pub expires_in: u64,
}

/// Why a request cannot be pushed (section 2.3).
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The client did not prove who it is.
    #[error(transparent)]
    Client(#[from] ClientAuthenticationError),
    /// A service account, which nobody logs in for.
    #[error("this client may not ask for authorization")]
    UnauthorizedClient,
    /// `request_uri` is there: a reference to a reference.
    #[error("`request_uri` cannot be pushed")]
    RequestUri,
    /// `redirect_uri` is missing or not registered.
    #[error("`redirect_uri` is not registered for this client")]
    UnknownRedirect,
    /// There is no good proof of possession.
    #[error(transparent)]
    Dpop(#[from] DpopError),
    /// `dpop_jkt` names another key than that of the proof.
    #[error("dpop_jkt is not the key of the DPoP proof")]
    KeyMismatch,
    /// The request object in it is refused.
    #[error(transparent)]
    RequestObject(RequestObjectError),
    /// There are parameters beside the request object (section 3).
    #[error("with `request` all parameters are in it: `{0}` is not")]
    Beside(&'static str),
    /// What would be refused at the authorization endpoint.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Longer than a reference may be.
    #[error("the request is too large to be pushed")]
    TooLarge,
    /// Our fault.
    #[error("the authorization request could not be pushed")]
    Unavailable(#[from] Fault),
}

impl PushError {
    /// The answer on the wire.
    pub fn to_oauth(&self) -> OauthError {
        match self {
            Self::Client(error) => error.to_oauth(),
            Self::Dpop(error) => error.to_oauth(),
            Self::UnauthorizedClient => OauthError::new(ErrorCode::UnauthorizedClient, 400, self),
            Self::RequestUri | Self::UnknownRedirect | Self::KeyMismatch => {
                OauthError::new(ErrorCode::InvalidRequest, 400, self)
            }
            Self::RequestObject(_) => OauthError::new(ErrorCode::InvalidRequestObject, 400, self),
            Self::Beside(_) => OauthError::new(ErrorCode::InvalidRequest, 400, self),
            Self::Refused(refusal) => OauthError::new(refusal.code(), 400, self),
            Self::TooLarge => OauthError::new(ErrorCode::InvalidRequest, 413, self),
            Self::Unavailable(fault) => OauthError::of_fault(fault, self),
        }
    }
}

impl From<RequestObjectError> for PushError {
    fn from(error: RequestObjectError) -> Self {
        match error {
            RequestObjectError::Unavailable(fault) => Self::Unavailable(fault),
            refused => Self::RequestObject(refused),
        }
    }
}

/// A pushed request, as the reference holds it.
#[derive(Serialize, Deserialize)]
struct Pushed {
    reference: Reference,
    client_id: ClientName,
    client_created_at: Timestamp,
    parameters: BTreeMap<String, String>,
    is_signed: bool,
}

/// A pushed request that an authorization request refers to.
pub(crate) struct Resolved {
    pub(crate) parameters: Parameters,
    pub(crate) reference: Reference,
    pub(crate) is_signed: bool,
}

impl Sealed for Pushed {
    const CONTEXT: &'static [u8] = b"testudo pushed request v1";
}

/// Which pushed request something came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reference {
    id: String,
    expires_at: Timestamp,
}

/// That a code was given for a pushed request.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct UsedReference(Reference);

impl Record for UsedReference {
    const COLLECTION: &'static str = "identity.used_request";

    fn key(&self) -> String {
        self.0.id.clone()
    }

    /// A login page that was opened with it at the last moment may be sent this much later.
    fn expires(&self) -> Option<Timestamp> {
        Some(self.0.expires_at + FLOW_LIFETIME)
    }
}

impl Provider {
    /// Handles a request of the pushed authorization request endpoint. All that is wrong with it is said here already.
    ///
    /// It costs an Argon2 hash if [`costs_a_hash`](Self::costs_a_hash) says so.
    ///
    /// # Errors
    /// See [`PushError`].
    pub fn push_authorization(
        &self,
        request: &TokenRequest<'_>,
        caller: &Caller,
    ) -> Result<PushedRequest, PushError> {
        let proof = request
            .dpop
            .map(|proof| self.check_proof(proof, PUSH_REQUEST, None))
            .transpose()?;
        let client = self.authenticate_client_at("authorization.push", request, caller)?;
        let key = proof.map(|proof| self.use_proof(proof)).transpose()?;
        let ClientHolder::Client(client) = client.holder else {
            return Err(PushError::UnauthorizedClient);
        };
        let parameters = request.parameters;
        if parameters.get("request_uri").is_some() {
            return Err(PushError::RequestUri);
        }
        let reference = Reference {
            id: secret::generate(&*self.entropy).into_exposed(),
            expires_at: self.clock.now() + PUSHED_REQUEST_LIFETIME,
        };
        let signed = self.read_request_object(parameters, &client)?;
        if signed.is_some()
            && let Some(beside) = KEPT.into_iter().find(|name| parameters.get(name).is_some())
        {
            return Err(PushError::Beside(beside));
        }
        let is_signed = signed.is_some();
        let parameters = signed.as_ref().unwrap_or(parameters);
        self.check_pushed(&Asked {
            client: &client,
            parameters,
            pushed: Some(&reference),
            is_signed,
        })?;
        let mut parameters = kept(parameters);
        if let Some(key) = key {
            // A proof is as good as naming its key (RFC 9449 section 10.1).
            let named = parameters.insert("dpop_jkt".to_owned(), key.as_str().to_owned());
            if named.is_some_and(|named| named != key.as_str()) {
                return Err(PushError::KeyMismatch);
            }
        }
        let pushed = Pushed {
            reference,
            client_id: client.client_id,
            client_created_at: client.created_at,
            parameters,
            is_signed,
        };
        let sealed = self.flow_seal.seal(&*self.entropy, &pushed)?;
        if sealed.len() > MAX_REQUEST_REFERENCE_BYTES {
            return Err(PushError::TooLarge);
        }
        Ok(PushedRequest {
            request_uri: format!("{SCHEME}{sealed}"),
            expires_in: PUSHED_REQUEST_LIFETIME.as_secs(),
        })
    }

    /// The parameters of an authorization request of `client`: those it pushed, if that is what it refers to. Then
    /// nothing else in the request counts (RFC 9101 section 6.3).
    pub(crate) fn resolve_request(
        &self,
        sent: &Parameters,
        client: &Client,
    ) -> Result<Option<Resolved>, AuthorizeError> {
        let Some(sealed) = sent
            .get("request_uri")
            .and_then(|uri| uri.strip_prefix(SCHEME))
        else {
            return Ok(None);
        };
        let is_alone = !sent.is_repeated("request_uri") && sent.get("request").is_none();
        let pushed = is_alone
            .then(|| self.flow_seal.unseal::<Pushed>(sealed))
            .flatten();
        let pushed = pushed.ok_or(AuthorizeError::UnknownRequest)?;
        let is_theirs =
            pushed.client_id == client.client_id && pushed.client_created_at == client.created_at;
        if !is_theirs || self.clock.now() >= pushed.reference.expires_at {
            return Err(AuthorizeError::UnknownRequest);
        }
        let parameters = Parameters::from_pairs(pushed.parameters)
            .map_err(|_| AuthorizeError::UnknownRequest)?;
        Ok(Some(Resolved {
            parameters,
            reference: pushed.reference,
            is_signed: pushed.is_signed,
        }))
    }

    /// Whether it was pushed, and a code was given for it.
    pub(crate) fn is_used(&self, request: &GrantRequest) -> Result<bool, Fault> {
        let Some(reference) = &request.pushed else {
            return Ok(false);
        };
        Ok(self.tenant.get::<UsedReference>(&reference.id)?.is_some())
    }
}

impl Change<'_> {
    /// Uses a reference up; the change fails if it was.
    pub(crate) fn use_up(self, reference: &Reference) -> Self {
        self.put(Expected::Absent, &UsedReference(reference.clone()))
    }
}

fn kept(parameters: &Parameters) -> BTreeMap<String, String> {
    let value = |name: &str| Some((name.to_owned(), parameters.get(name)?.to_owned()));
    KEPT.into_iter().filter_map(value).collect()
}
