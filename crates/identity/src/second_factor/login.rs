//! The second half of a login.

use serde::{Deserialize, Serialize};
use testudo_model::{Timestamp, UserId, event::EventClass};
use testudo_store::Versioned;
use testudo_trust::constant_time_eq;

use crate::{
    Caller, Fault, LoggedIn, LoginError, Provider,
    change::Report,
    federation::Voucher,
    flow::{Flow, Sealed},
    limits::SECOND_FACTOR_LIFETIME,
    login::{Means, Proven},
    records::{PasswordCredential, User},
    secret,
    throttle::Attempt,
};

/// A sent form for the code.
#[derive(Debug)]
pub struct SecondFactorRequest<'a> {
    /// The hidden field.
    pub flow: &'a str,
    /// The pre-login cookie.
    pub browser: Option<&'a str>,
    /// The session cookie the browser may still have.
    pub session: Option<&'a str>,
    /// The code as typed.
    pub code: &'a str,
}

/// A login whose first half was right.
#[derive(Serialize, Deserialize)]
struct HalfLogin {
    flow: Flow,
    user: UserId,
    first: FirstFactor,
    expires_at: Timestamp,
}

/// What was right.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FirstFactor {
    /// A password: digest of the hash that it was right for. A new password makes this worthless.
    Password(String),
    /// A login elsewhere.
    Elsewhere(Box<Voucher>),
}

impl FirstFactor {
    pub(crate) fn password(proven: &Proven) -> Self {
        Self::Password(digest_of(proven))
    }
}

impl Sealed for HalfLogin {
    const CONTEXT: &'static [u8] = b"testudo half login v1";
}

impl Provider {
    /// The hidden field of the form for the code.
    pub(crate) fn half_login(
        &self,
        flow: Flow,
        user: &UserId,
        first: FirstFactor,
    ) -> Result<String, Fault> {
        let half = HalfLogin {
            flow,
            user: user.clone(),
            first,
            expires_at: self.clock.now() + SECOND_FACTOR_LIFETIME,
        };
        self.flow_seal.seal(&*self.entropy, &half)
    }

    /// Goes on with a login whose first half was right.
    ///
    /// # Errors
    /// See [`LoginError`]. After `WrongCode` and `Throttled` the same form may be sent again.
    pub fn finish_login(
        &self,
        request: &SecondFactorRequest<'_>,
        caller: &Caller,
    ) -> Result<LoggedIn, LoginError> {
        let half: HalfLogin = self
            .flow_seal
            .unseal(request.flow)
            .ok_or(LoginError::FlowInvalid)?;
        if self.clock.now() > half.expires_at {
            return Err(LoginError::FlowExpired);
        }
        self.check_flow(&half.flow, request.browser)?;
        let proven = self.still_proven(&half)?.ok_or(LoginError::FlowInvalid)?;
        let attempt = Attempt::at_second_factor(&half.user, caller.source_ip);
        if let Err(retry_after) = self.begin_attempt(&attempt, caller)? {
            return Err(LoginError::Throttled { retry_after });
        }
        let means = match &half.first {
            FirstFactor::Password(_) => Means::PasswordAndCode(request.code),
            FirstFactor::Elsewhere(voucher) => Means::ElsewhereAndCode(voucher, request.code),
        };
        let done = self.start_session(
            &half.flow,
            &proven,
            &attempt,
            request.session,
            means,
            caller,
        );
        if let Err(LoginError::WrongCode) = &done {
            let report = Report::new(EventClass::Authentication, "login.second_factor")
                .denied("wrong code")
                .target(half.user.as_str());
            self.report(report, caller)?;
        }
        done
    }

    fn still_proven(&self, half: &HalfLogin) -> Result<Option<Proven>, Fault> {
        let user = self.tenant.get::<User>(half.user.as_str())?;
        let credential = self.tenant.get::<PasswordCredential>(half.user.as_str())?;
        let hash = credential.and_then(|credential| credential.record.hash);
        let proven = |user: Versioned<User>, hash| Proven {
            user: user.record,
            hash,
            rehashed: None,
        };
        Ok(match &half.first {
            FirstFactor::Password(digest) => user
                .zip(hash)
                .map(|(user, hash)| proven(user, Some(hash)))
                .filter(|proven| constant_time_eq(digest_of(proven).as_bytes(), digest.as_bytes())),
            FirstFactor::Elsewhere(_) => user.map(|user| proven(user, None)),
        })
    }
}

/// Digest of the hash that the password was right for.
fn digest_of(proven: &Proven) -> String {
    let hash = proven.hash.as_ref().map_or("", |hash| hash.expose());
    secret::digest(hash)
}
