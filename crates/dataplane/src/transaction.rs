//! The transaction token (draft-ietf-oauth-transaction-tokens): what travels inside the fleet in place of the
//! outside token.
//!
//! The gateway mints one for each call; a sidecar believes it only when the chain in its `x5c` ends in the trust
//! bundle and names a registered edge.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{HeaderMap, HeaderValue, Method};
use testudo_model::{
    Clock, Entropy, RequestContext, SpiffeId, TRANSACTION_TOKEN_TYPE, Timestamp, TransactionClaims,
    TransactionId, TrustDomain, limits,
};
use testudo_trust::{IdentitySource, check_times, verify_jwt_x5c};

use crate::{
    cache::{Generations, TokenEnding, token_ending},
    headers::TXN_TOKEN,
    principal::Principal,
    rejection::NotReady,
    state::{Enforced, ProxyState},
    token::Login,
};

/// How long a minted token is used again for the same client, login, method and path. Signing costs several
/// times what the rest of a request does; a token that is 10 s older than its request still says nothing untrue.
const MINTED_REUSE: Duration = Duration::from_secs(10);
/// Minted tokens a worker remembers.
const MAX_MINTED: usize = 4_096;

/// Why a transaction token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TransactionError {
    /// More than one `Txn-Token` field, or one that is not text.
    #[error("there must be at most one transaction token")]
    Several,
    /// The signature or the chain does not hold.
    #[error("the signature does not lead to the trust bundle")]
    Untrusted,
    /// Signed by a workload that is no edge.
    #[error("the signer is not a registered edge")]
    NotAnEdge,
    /// Claims that contradict each other or another fleet's.
    #[error("the claims do not fit")]
    Claims,
    /// Before or after its time.
    #[error("expired or not yet valid")]
    Time,
    /// Its outside token, session, subject or edge was revoked.
    #[error("revoked")]
    Revoked,
}

/// A transaction token that holds.
#[derive(Debug)]
pub(crate) struct Transaction {
    /// As sent.
    pub(crate) token: Arc<str>,
    /// The same as a field value: it is sent many times. `None` if it cannot be one.
    field: Option<HeaderValue>,
    /// Its claims.
    pub(crate) claims: TransactionClaims,
    /// Who; `None` for an anonymous call from outside.
    pub(crate) principal: Option<Principal>,
}

impl Transaction {
    pub(crate) fn new(token: Arc<str>, claims: TransactionClaims) -> Self {
        Self {
            field: HeaderValue::from_str(&token).ok(),
            token,
            principal: Principal::from_transaction(&claims),
            claims,
        }
    }

    /// Lets a request with `headers` carry it.
    pub(crate) fn put(&self, headers: &mut HeaderMap) {
        match &self.field {
            Some(field) => drop(headers.insert(TXN_TOKEN, field.clone())),
            None => drop(headers.remove(TXN_TOKEN)),
        }
    }

    /// End of the token.
    pub(crate) fn expires(&self) -> Timestamp {
        Timestamp::from_unix_seconds(self.claims.exp)
    }
}

/// Facts of an outside call that go into its token.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct OutsideCall {
    /// The original client.
    pub(crate) client: IpAddr,
    /// Method.
    pub(crate) method: Method,
    /// Canonical path.
    pub(crate) path: String,
}

/// A transaction that has begun.
#[derive(Debug)]
pub(crate) enum Opening {
    /// Minted a moment ago for the same call.
    Known(Arc<Transaction>),
    /// Not yet signed.
    New(TransactionId, OutsideCall),
}

impl Opening {
    /// The transaction's id.
    pub(crate) fn id(&self) -> &TransactionId {
        match self {
            Self::Known(transaction) => &transaction.claims.txn,
            Self::New(id, _) => id,
        }
    }
}

/// Mints transaction tokens, for one worker of a gateway.
pub(crate) struct Mint {
    identity: IdentitySource,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    minted: Mutex<Generations<(Option<u64>, OutsideCall), Minted>>,
}

#[derive(Clone)]
struct Minted {
    transaction: Arc<Transaction>,
    identity_generation: u64,
    reusable_until: Timestamp,
}

impl Mint {
    pub(crate) fn new(
        identity: IdentitySource,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        Self {
            identity,
            clock,
            entropy,
            minted: Mutex::new(Generations::new(MAX_MINTED)),
        }
    }

    /// Begins the transaction of `call`: a remembered one, or a new id without a token yet. Signing is left to
    /// [`Mint::token`], so that a call that is going to be denied costs no signature.
    pub(crate) fn begin(&self, login: Option<&Login>, call: OutsideCall) -> Opening {
        let key = (login.map(|login| login.serial), call);
        let known = self.lock().get(&key).filter(|known| {
            known.identity_generation == self.identity.generation()
                && self.clock.now() < known.reusable_until
        });
        match known {
            Some(known) => Opening::Known(known.transaction),
            None => Opening::New(TransactionId::generate(&*self.clock, &*self.entropy), key.1),
        }
    }

    /// The transaction with its token, on behalf of `login` if there is one.
    ///
    /// # Errors
    /// [`NotReady::Signing`].
    pub(crate) fn token(
        &self,
        opening: Opening,
        login: Option<&Login>,
        domain: &TrustDomain,
    ) -> Result<Arc<Transaction>, NotReady> {
        let (id, call) = match opening {
            Opening::Known(transaction) => return Ok(transaction),
            Opening::New(id, call) => (id, call),
        };
        let now = self.clock.now();
        let identity_generation = self.identity.generation();
        let transaction = Arc::new(self.sign(id, login, &call, domain, now)?);
        let minted = Minted {
            transaction: Arc::clone(&transaction),
            identity_generation,
            reusable_until: now + MINTED_REUSE,
        };
        self.lock()
            .insert((login.map(|login| login.serial), call), minted);
        Ok(transaction)
    }

    fn sign(
        &self,
        id: TransactionId,
        login: Option<&Login>,
        call: &OutsideCall,
        domain: &TrustDomain,
        now: Timestamp,
    ) -> Result<Transaction, NotReady> {
        let svid = self.identity.current();
        let claims = TransactionClaims {
            iss: svid.id().clone(),
            aud: domain.as_str().to_owned(),
            iat: now.unix_seconds(),
            exp: (now + limits::TRANSACTION_TOKEN_LIFETIME).unix_seconds(),
            txn: id,
            sub: login.map(|login| login.principal.subject.clone()),
            scope: login
                .map(|login| login.principal.scope())
                .unwrap_or_default(),
            tctx: login.map(|login| login.principal.context.clone()),
            rctx: RequestContext {
                req_ip: call.client,
                method: call.method.as_str().to_owned(),
                path: call.path.clone(),
            },
        };
        let token = svid
            .key()
            .sign_jwt_x5c(TRANSACTION_TOKEN_TYPE, &claims, svid.chain())
            .map_err(|_| NotReady::Signing)?;
        Ok(Transaction::new(token.into(), claims))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Generations<(Option<u64>, OutsideCall), Minted>> {
        self.minted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Verifies transaction tokens, for one worker of a sidecar.
pub(crate) struct TransactionVerifier {
    identity: IdentitySource,
    clock: Arc<dyn Clock>,
    verified: Mutex<Generations<TokenEnding, Verified>>,
}

#[derive(Clone)]
struct Verified {
    transaction: Arc<Transaction>,
    identity_generation: u64,
    revocations: Option<u64>,
}

impl TransactionVerifier {
    pub(crate) fn new(identity: IdentitySource, clock: Arc<dyn Clock>) -> Self {
        Self {
            identity,
            clock,
            verified: Mutex::new(Generations::new(limits::MAX_CACHED_TOKENS)),
        }
    }

    /// Verifies `token` under what is enforced now.
    ///
    /// # Errors
    /// [`TransactionError`].
    pub(crate) fn verify(
        &self,
        token: &str,
        enforced: &Enforced,
        state: &ProxyState,
    ) -> Result<Arc<Transaction>, TransactionError> {
        let identity_generation = self.identity.generation();
        let ending = token_ending(token.as_bytes()).ok_or(TransactionError::Untrusted)?;
        let remembered = self.lock().get(&ending).filter(|known| {
            *known.transaction.token == *token && known.identity_generation == identity_generation
        });
        let known = match remembered {
            Some(known) => known,
            None => Verified {
                transaction: Arc::new(
                    self.verify_signature(token, &enforced.snapshot().trust_domain)?,
                ),
                identity_generation,
                revocations: None,
            },
        };
        let transaction = Arc::clone(&known.transaction);
        if !enforced.is_edge(&transaction.claims.iss) {
            return Err(TransactionError::NotAnEdge);
        }
        if transaction.expires() + limits::CLOCK_SKEW <= self.clock.now() {
            return Err(TransactionError::Time);
        }
        let revocations = state.revocations().generation();
        if known.revocations != Some(revocations) {
            if is_revoked(&transaction, state) {
                return Err(TransactionError::Revoked);
            }
            let entry = Verified {
                revocations: Some(revocations),
                ..known
            };
            self.lock().insert(ending, entry);
        }
        Ok(transaction)
    }

    fn verify_signature(
        &self,
        token: &str,
        domain: &TrustDomain,
    ) -> Result<Transaction, TransactionError> {
        let now = self.clock.now();
        let bundle = self.identity.bundle();
        let (claims, signer): (TransactionClaims, SpiffeId) =
            verify_jwt_x5c(token, TRANSACTION_TOKEN_TYPE, &bundle, now)
                .map_err(|_| TransactionError::Untrusted)?;
        // A subject without the facts of its login, or the other way round, is nobody's claim of ours.
        if claims.iss != signer
            || claims.aud != domain.as_str()
            || claims.sub.is_some() != claims.tctx.is_some()
        {
            return Err(TransactionError::Claims);
        }
        check_times(claims.iat, None, claims.exp, now, limits::CLOCK_SKEW)
            .map_err(|_| TransactionError::Time)?;
        Ok(Transaction::new(token.into(), claims))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Generations<TokenEnding, Verified>> {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_revoked(transaction: &Transaction, state: &ProxyState) -> bool {
    let revocations = state.revocations();
    revocations.revokes_workload(&transaction.claims.iss)
        || transaction
            .principal
            .as_ref()
            .is_some_and(|principal| revocations.revokes_token(principal.identity()))
}
