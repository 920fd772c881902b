//! Client authentication at the endpoints of clients' backends (RFC 6749 section 2.3): a secret in the header or
//! the body, or no secret at all but an assertion signed with a private key, or the certificate of the connection
//! (RFC 8705, draft-ietf-oauth-spiffe-client-auth).

use base64::{Engine, engine::general_purpose::STANDARD};
use testudo_model::{ClientName, Confirmation, Redacted, event::EventClass};
use url::form_urlencoded;

use super::{
    SenderKey, TokenRequest,
    client_assertion::ASSERTION_TYPE,
    external_assertion::{Named, SPIFFE_ASSERTION_TYPE, Vouched},
    failed_proofs::Suspect,
};
use crate::{
    Caller, ErrorCode, Fault, OauthError, Parameters, Peer, Provider,
    change::Report,
    dpop::KeyThumbprint,
    limits::{MAX_AUTHORIZATION_BYTES, MAX_CLIENT_SECRET_BYTES},
    records::{
        Client, ClientKind, ClientSecret, GrantType, Holder, NameClaim, SecretCredential,
        SecretVerifier, ServiceAccount, SignatureAlgorithm,
    },
};

/// A client that proved who it is.
#[derive(Debug)]
pub(crate) struct AuthenticatedClient {
    pub(crate) holder: ClientHolder,
    /// Its workload, if the request came over a connection of it: its tokens are bound to that certificate.
    peer: Option<Peer>,
    /// The key it signed its assertion with.
    assertion_key: Option<KeyThumbprint>,
    /// Who vouched for it, if an issuer did that the fleet trusts.
    pub(super) vouched: Option<Vouched>,
    /// The key it proved to have: its tokens are bound to that too.
    pub(super) key: Option<KeyThumbprint>,
}

/// What a client id stands for.
#[derive(Debug)]
pub(crate) enum ClientHolder {
    Client(Client),
    ServiceAccount(ServiceAccount),
}

impl AuthenticatedClient {
    pub(crate) const fn name(&self) -> &ClientName {
        self.holder.name()
    }

    /// What its tokens are bound to.
    pub(crate) fn binding(&self) -> Option<Confirmation> {
        let certificate = self.peer.as_ref().map(|peer| &peer.certificate_thumbprint);
        let key = self.key.as_ref().map(KeyThumbprint::as_str);
        (certificate.is_some() || key.is_some()).then(|| Confirmation {
            certificate_thumbprint: certificate.cloned(),
            key_thumbprint: key.map(str::to_owned),
        })
    }

    /// The key it proved to have.
    pub(crate) const fn key(&self) -> Option<&KeyThumbprint> {
        self.key.as_ref()
    }

    /// What it has that a thief of its tokens has not.
    pub(crate) fn sender_key(&self) -> SenderKey {
        match (&self.key, &self.peer, &self.assertion_key) {
            (Some(key), _, _) => SenderKey::Key(key.clone()),
            (None, Some(peer), _) => SenderKey::Workload(peer.spiffe_id.clone()),
            (None, None, Some(key)) => SenderKey::Assertion(key.clone()),
            (None, None, None) => SenderKey::Unseen,
        }
    }

    /// `report` with who vouched for it, if anybody did.
    pub(super) fn told_by(&self, report: Report) -> Report {
        match &self.vouched {
            Some(Vouched { issuer, subject }) => report
                .detail("vouched_by", issuer.as_str())
                .detail("external_subject", subject.as_str()),
            None => report,
        }
    }

    /// Whether its id alone is all it shows.
    pub(crate) fn is_public(&self) -> bool {
        self.holder.is_public()
    }

    /// Whether it gets no tokens without a DPoP proof.
    pub(crate) fn must_prove_possession(&self) -> bool {
        match &self.holder {
            ClientHolder::Client(client) => client.policy.demands_proof(self.peer.is_some()),
            ClientHolder::ServiceAccount(_) => false,
        }
    }

    /// How its ID tokens are signed.
    pub(crate) fn id_token_algorithm(&self) -> SignatureAlgorithm {
        match &self.holder {
            ClientHolder::Client(client) => client.signing.id_token_signed_response_alg,
            ClientHolder::ServiceAccount(_) => SignatureAlgorithm::default(),
        }
    }

    /// Whether it is told when a session ends.
    pub(crate) fn is_told_of_logouts(&self) -> bool {
        match &self.holder {
            ClientHolder::Client(client) => client.logout.backchannel_logout_uri.is_some(),
            ClientHolder::ServiceAccount(_) => false,
        }
    }

    /// Whether it proved to be a workload of the fleet, which is the audience of our access tokens.
    pub(crate) const fn is_in_fleet(&self) -> bool {
        self.peer.is_some()
    }

    pub(crate) fn may_use(&self, grant: GrantType) -> bool {
        match &self.holder {
            ClientHolder::Client(client) => !is_for_accounts(grant) && client.may_use(grant),
            ClientHolder::ServiceAccount(_) => is_for_accounts(grant),
        }
    }
}

const fn is_for_accounts(grant: GrantType) -> bool {
    matches!(
        grant,
        GrantType::ClientCredentials | GrantType::TokenExchange
    )
}

impl ClientHolder {
    const fn name(&self) -> &ClientName {
        match self {
            Self::Client(client) => &client.client_id,
            Self::ServiceAccount(account) => &account.name,
        }
    }

    const fn is_disabled(&self) -> bool {
        match self {
            Self::Client(client) => client.disabled,
            Self::ServiceAccount(account) => account.disabled,
        }
    }

    /// The public keys it signs assertions with.
    fn jwks(&self) -> Option<&str> {
        match self {
            Self::Client(client) => client.jwks.as_deref(),
            Self::ServiceAccount(account) => account.jwks.as_deref(),
        }
    }

    /// Whether the client id alone will do.
    fn is_public(&self) -> bool {
        matches!(self, Self::Client(client) if client.kind == ClientKind::Public)
    }

    const fn refuses_secrets(&self) -> bool {
        match self {
            Self::Client(client) => client.policy.refuses_secrets(),
            Self::ServiceAccount(_) => false,
        }
    }

    fn runs_as(&self, peer: &Peer) -> bool {
        match self {
            Self::Client(client) => client.workload.as_ref() == Some(&peer.spiffe_id),
            Self::ServiceAccount(account) => account.workloads.contains(&peer.spiffe_id),
        }
    }
}

/// Why a client is not authenticated. The answer does not tell an unknown client from a wrong secret.
#[derive(Debug, thiserror::Error)]
pub enum ClientAuthenticationError {
    /// More than one way at once (RFC 6749 section 2.3).
    #[error(
        "use one way of client authentication: the Authorization header, client_secret or client_assertion"
    )]
    TwoMethods,
    /// Not a well-formed `Basic` header.
    #[error("the Authorization header is not well-formed `Basic` authentication")]
    MalformedHeader,
    /// Nothing says who the client is.
    #[error(
        "the client is not named: send client_id, or connect with the certificate of its workload"
    )]
    Unnamed,
    /// Unknown, disabled, or no or wrong proof.
    #[error("the client is unknown or did not prove who it is")]
    Failed {
        /// Whether it tried `Basic`, which the answer must then name.
        basic: bool,
    },
    /// `client_assertion_type` is missing or unknown.
    #[error("client_assertion_type must be {ASSERTION_TYPE} or {SPIFFE_ASSERTION_TYPE}")]
    AssertionType,
    /// An assertion that the client has signed, but that is not for this.
    #[error("the client assertion is refused: {0}")]
    Assertion(&'static str),
    /// The keys of the trusted issuer are not here, or too old.
    #[error(
        "the keys of the issuer of this assertion are being fetched; try again in a few seconds"
    )]
    IssuerKeys,
    /// Too many failures for this client, or of all clients, from where the request came.
    #[error("too many failed attempts to prove who the client is; wait a little and try again")]
    Throttled,
    /// Our fault.
    #[error("the client could not be authenticated")]
    Unavailable(#[from] Fault),
}

impl ClientAuthenticationError {
    pub(crate) const fn is_failed_proof(&self) -> bool {
        matches!(self, Self::Failed { .. } | Self::Assertion(_))
    }

    /// The answer on the wire (RFC 6749 section 5.2).
    pub fn to_oauth(&self) -> OauthError {
        let (error, status, basic) = match self {
            Self::TwoMethods => (ErrorCode::InvalidRequest, 400, false),
            Self::MalformedHeader => (ErrorCode::InvalidClient, 401, true),
            Self::Unnamed | Self::AssertionType | Self::Assertion(_) => {
                (ErrorCode::InvalidClient, 401, false)
            }
            Self::Failed { basic } => (ErrorCode::InvalidClient, 401, *basic),
            Self::Throttled => (ErrorCode::TemporarilyUnavailable, 429, false),
            Self::IssuerKeys => (ErrorCode::TemporarilyUnavailable, 503, false),
            Self::Unavailable(fault) => return OauthError::of_fault(fault, self),
        };
        OauthError {
            challenge: basic.then(|| r#"Basic realm="testudo", charset="UTF-8""#.to_owned()),
            ..OauthError::new(error, status, self)
        }
    }
}

/// What a request says about its client.
#[derive(Debug)]
struct ClientCredentials {
    client_id: Option<String>,
    proof: Proof,
}

/// What a client brings to prove itself with, beside the certificate of its connection.
#[derive(Debug)]
enum Proof {
    Nothing,
    Secret {
        given: Redacted<String>,
        /// Whether it came in the header.
        basic: bool,
    },
    Assertion(Redacted<String>),
}

/// What an assertion proves.
enum Asserted {
    Nothing,
    /// The client has the private half of this key.
    Key(KeyThumbprint),
    /// Somebody vouches for it.
    Vouched(Vouched),
}

impl ClientCredentials {
    /// Reads `client_secret_basic`, `client_secret_post`, `private_key_jwt` or a bare client id.
    fn of(request: &TokenRequest<'_>) -> Result<Self, ClientAuthenticationError> {
        let body_id = request.parameters.get("client_id");
        let proof = Proof::in_body(request.parameters)?;
        let Some(header) = request.authorization else {
            let named = match &proof {
                Proof::Assertion(assertion) if body_id.is_none() => {
                    Named::of(assertion.expose()).map(|named| named.subject)
                }
                _ => body_id.map(str::to_owned),
            };
            return Ok(Self {
                client_id: named,
                proof,
            });
        };
        if !matches!(proof, Proof::Nothing) {
            return Err(ClientAuthenticationError::TwoMethods);
        }
        let (id, secret) = parse_basic(header).ok_or(ClientAuthenticationError::MalformedHeader)?;
        if body_id.is_some_and(|body_id| body_id != id) {
            return Err(ClientAuthenticationError::TwoMethods);
        }
        Ok(Self {
            client_id: Some(id),
            proof: Proof::Secret {
                given: secret,
                basic: true,
            },
        })
    }
}

impl Proof {
    fn in_body(parameters: &Parameters) -> Result<Self, ClientAuthenticationError> {
        let of = |name| {
            parameters
                .get(name)
                .map(|text| Redacted::new(text.to_owned()))
        };
        match (of("client_secret"), of("client_assertion")) {
            (None, None) => Ok(Self::Nothing),
            (Some(given), None) => Ok(Self::Secret {
                given,
                basic: false,
            }),
            (None, Some(assertion)) => match parameters.get("client_assertion_type") {
                Some(ASSERTION_TYPE | SPIFFE_ASSERTION_TYPE) => Ok(Self::Assertion(assertion)),
                _ => Err(ClientAuthenticationError::AssertionType),
            },
            (Some(_), Some(_)) => Err(ClientAuthenticationError::TwoMethods),
        }
    }
}

/// Parses `Basic base64(urlencode(id) ":" urlencode(secret))` (RFC 6749 section 2.3.1).
fn parse_basic(header: &str) -> Option<(String, Redacted<String>)> {
    if header.len() > MAX_AUTHORIZATION_BYTES {
        return None;
    }
    let (scheme, encoded) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (id, secret) = decoded.split_once(':')?;
    Some((url_decode(id), Redacted::new(url_decode(secret))))
}

/// Decodes `application/x-www-form-urlencoded` text that is no list of pairs.
fn url_decode(text: &str) -> String {
    // A separator cannot occur in encoded text; if a client did not encode, it means itself.
    let protected = text.replace('&', "%26").replace('=', "%3D");
    form_urlencoded::parse(protected.as_bytes())
        .next()
        .map_or_else(String::new, |(name, _)| name.into())
}

impl Provider {
    /// Whether handling `request` takes an Argon2 hash, because its client has a secret that is stored as one: then
    /// handle it in the bounded pool that logins use.
    ///
    /// # Errors
    /// The store fails.
    pub fn costs_a_hash(&self, request: &TokenRequest<'_>) -> Result<bool, Fault> {
        let credentials = ClientCredentials::of(request).ok();
        let named = credentials
            .filter(|credentials| matches!(credentials.proof, Proof::Secret { .. }))
            .and_then(|credentials| credentials.client_id?.parse::<ClientName>().ok());
        let Some(name) = named else {
            return Ok(false);
        };
        let secrets = self.valid_secrets(&name)?;
        Ok(secrets
            .iter()
            .any(|secret| matches!(secret.verifier, SecretVerifier::Argon2id(_))))
    }

    /// Who sends this request, proven.
    pub(crate) fn authenticate_client(
        &self,
        request: &TokenRequest<'_>,
        caller: &Caller,
    ) -> Result<AuthenticatedClient, ClientAuthenticationError> {
        let credentials = ClientCredentials::of(request)?;
        let suspect = Suspect::new(credentials.client_id.as_deref(), caller.source_ip);
        let now = self.clock.monotonic_nanos();
        if self.failed_proofs.are_too_many(&suspect, now) {
            return Err(ClientAuthenticationError::Throttled);
        }
        let authenticated = self.prove_client(request, &credentials);
        if let Err(error) = &authenticated
            && error.is_failed_proof()
        {
            self.failed_proofs.add(suspect, now);
        }
        authenticated
    }

    /// The same at another endpoint than the token endpoint, which reports its refusals itself: wherever a secret can
    /// be guessed, a failure is an event of `activity`.
    pub(crate) fn authenticate_client_at(
        &self,
        activity: &str,
        request: &TokenRequest<'_>,
        caller: &Caller,
    ) -> Result<AuthenticatedClient, ClientAuthenticationError> {
        let authenticated = self.authenticate_client(request, caller);
        if let Err(error) = &authenticated
            && error.is_failed_proof()
        {
            let report = Report::new(EventClass::Authentication, activity)
                .denied(&error.to_string())
                .detail(
                    "client_id",
                    request.parameters.get("client_id").unwrap_or(""),
                );
            self.report_refusal(report, caller)?;
        }
        authenticated
    }

    /// The same for what a client id alone must not open.
    pub(crate) fn authenticate_confidential(
        &self,
        activity: &str,
        request: &TokenRequest<'_>,
        caller: &Caller,
    ) -> Result<AuthenticatedClient, ClientAuthenticationError> {
        let client = self.authenticate_client_at(activity, request, caller)?;
        if client.holder.is_public() {
            return Err(ClientAuthenticationError::Failed { basic: false });
        }
        Ok(client)
    }

    fn prove_client(
        &self,
        request: &TokenRequest<'_>,
        credentials: &ClientCredentials,
    ) -> Result<AuthenticatedClient, ClientAuthenticationError> {
        let failed = ClientAuthenticationError::Failed {
            basic: matches!(credentials.proof, Proof::Secret { basic: true, .. }),
        };
        let named = match &credentials.client_id {
            Some(id) => self.client_holder(id)?,
            None => Some(self.holder_of_workload(request.peer)?),
        };
        let Some(holder) = named.filter(|holder| !holder.is_disabled()) else {
            return Err(failed);
        };
        let peer = request.peer.filter(|peer| holder.runs_as(peer));
        let (mut assertion_key, mut vouched) = (None, None);
        let proven = match &credentials.proof {
            Proof::Nothing => holder.is_public() || peer.is_some(),
            Proof::Secret { .. } if holder.refuses_secrets() => false,
            Proof::Secret { given, .. } => self.has_secret(holder.name(), given)?,
            Proof::Assertion(assertion) => match self.asserted(assertion.expose(), &holder)? {
                Asserted::Nothing => false,
                Asserted::Key(key) => {
                    assertion_key = Some(key);
                    true
                }
                Asserted::Vouched(by) => {
                    vouched = Some(by);
                    true
                }
            },
        };
        if !proven {
            return Err(failed);
        }
        // A client that connects with its own certificate gets bound tokens whatever else it sent.
        let peer = peer.cloned();
        Ok(AuthenticatedClient {
            holder,
            peer,
            assertion_key,
            vouched,
            key: None,
        })
    }

    /// What an assertion proves of `holder`: its own, or that of an issuer which the fleet trusts.
    fn asserted(
        &self,
        assertion: &str,
        holder: &ClientHolder,
    ) -> Result<Asserted, ClientAuthenticationError> {
        let Some(named) = Named::of(assertion) else {
            return Ok(Asserted::Nothing);
        };
        if let ClientHolder::ServiceAccount(account) = holder
            && named.issuer.as_deref() != Some(account.name.as_str())
            && let Some(issuer) = self.issuers.of(named.issuer.as_deref(), &named.subject)
        {
            let vouched = self.check_external(assertion, &issuer, account)?;
            return Ok(Asserted::Vouched(vouched));
        }
        match holder.jwks() {
            Some(jwks) => {
                let key = self.use_assertion(assertion, holder.name(), jwks)?;
                Ok(Asserted::Key(key))
            }
            None => Ok(Asserted::Nothing),
        }
    }

    fn client_holder(&self, client_id: &str) -> Result<Option<ClientHolder>, Fault> {
        let Ok(name) = client_id.parse::<ClientName>() else {
            return Ok(None);
        };
        let claim = self
            .tenant
            .get::<NameClaim>(&NameClaim::client_key(&name))?;
        Ok(match claim.map(|claim| claim.record.holder) {
            Some(Holder::Client) => {
                let client = self.tenant.get::<Client>(name.as_str())?;
                client.map(|client| ClientHolder::Client(client.record))
            }
            Some(Holder::ServiceAccount(id)) => {
                let account = self.tenant.get::<ServiceAccount>(id.as_str())?;
                account.map(|account| ClientHolder::ServiceAccount(account.record))
            }
            Some(Holder::User(_)) | None => None,
        })
    }

    /// The service account a workload acts as, if there is exactly one: with several, the request must say.
    fn holder_of_workload(
        &self,
        peer: Option<&Peer>,
    ) -> Result<ClientHolder, ClientAuthenticationError> {
        let peer = peer.ok_or(ClientAuthenticationError::Unnamed)?;
        let found = self
            .tenant
            .find::<ServiceAccount>("workload", peer.spiffe_id.as_str());
        let mut found = found.map_err(Fault::from)?.into_iter();
        match (found.next(), found.next()) {
            (Some(account), None) => Ok(ClientHolder::ServiceAccount(account.record)),
            _ => Err(ClientAuthenticationError::Unnamed),
        }
    }

    pub(crate) fn has_secret(
        &self,
        holder: &ClientName,
        given: &Redacted<String>,
    ) -> Result<bool, Fault> {
        if given.expose().len() > MAX_CLIENT_SECRET_BYTES {
            return Ok(false);
        }
        // All are compared, so that the time does not tell which one matched.
        let valid = self.valid_secrets(holder)?;
        let accepts = |matched, secret: &ClientSecret| secret.verifier.accepts(given) | matched;
        Ok(valid.iter().fold(false, accepts))
    }

    fn valid_secrets(&self, holder: &ClientName) -> Result<Vec<ClientSecret>, Fault> {
        let now = self.clock.now();
        let stored = self.tenant.get::<SecretCredential>(holder.as_str())?;
        let mut secrets = stored
            .map(|stored| stored.record.secrets)
            .unwrap_or_default();
        secrets.retain(|secret| secret.expires_at.is_none_or(|expires| now < expires));
        Ok(secrets)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(text: &str) -> String {
        format!("Basic {}", STANDARD.encode(text))
    }

    #[test]
    fn basic_credentials_are_form_encoded_inside() {
        let (id, secret) = parse_basic(&header("shop-web:a%2Bb%3A+c")).unwrap();
        assert_eq!(
            (id.as_str(), secret.expose().as_str()),
            ("shop-web", "a+b: c")
        );
        let (_, raw) = parse_basic(&header("shop-web:k&e=y:z")).unwrap();
        assert_eq!(raw.expose(), "k&e=y:z");
    }

    #[test]
    fn what_is_not_basic_is_refused() {
        for bad in [
            "",
            "Basic",
            "Basic !!!",
            "Bearer abc",
            &header("no-colon"),
            "Basic /w==",
        ] {
            assert!(parse_basic(bad).is_none(), "{bad}");
        }
        assert!(parse_basic(&header(&"a:".repeat(2000))).is_none());
    }

    proptest! {
        #[test]
        fn no_header_crashes_the_parser(text in "\\PC{0,100}") {
            let _ = parse_basic(&text);
            let _ = parse_basic(&header(&text));
        }

        #[test]
        fn encoded_credentials_survive(id in "[a-z]{1,10}", secret in "\\PC{1,40}") {
            let encoded: String = form_urlencoded::byte_serialize(secret.as_bytes()).collect();
            let (parsed_id, parsed) = parse_basic(&header(&format!("{id}:{encoded}"))).unwrap();
            prop_assert_eq!(parsed_id, id);
            prop_assert_eq!(parsed.expose(), &secret);
        }
    }
}
