//! What a user proves themselves with beside the password: an authenticator's one-time passwords, and recovery codes for
//! when it is lost.

mod login;
mod totp;

use serde::{Deserialize, Serialize};
use testudo_model::{Entropy, Redacted, Timestamp, UserId, event::EventClass, random_bytes};
use testudo_store::{Expected, Record, Versioned};

pub(crate) use self::login::FirstFactor;
pub use self::login::SecondFactorRequest;
use crate::{
    Caller, Fault, Provider,
    change::{Change, Report, until_settled},
    limits::RECOVERY_CODES,
    records::Session,
    secret::{self, StoredSecret},
    signal::{Cause, Credential, CredentialChange, CredentialType, Initiator},
};

/// `amr` of a one-time password (RFC 8176); a recovery code is one too.
pub(crate) const METHOD_ONE_TIME: &str = "otp";
/// `amr` of several factors.
pub(crate) const METHOD_SEVERAL: &str = "mfa";

/// The second factors of a user. Whoever has this record has an authenticator.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SecondFactors {
    user: UserId,
    totp: StoredSecret,
    added_at: Timestamp,
    /// The step of the newest code that was taken: it and older ones are not taken again.
    last_step: u64,
    /// SHA-256 of the recovery codes left, hex.
    recovery_codes: Vec<StoredSecret>,
}

impl Record for SecondFactors {
    const COLLECTION: &'static str = "identity.second_factors";

    fn key(&self) -> String {
        self.user.to_string()
    }
}

impl SecondFactors {
    /// Those of a user who comes with an authenticator, and without recovery codes.
    pub(crate) fn imported(user: &UserId, secret: &Redacted<Vec<u8>>, now: Timestamp) -> Self {
        Self {
            user: user.clone(),
            totp: StoredSecret::from_bytes(secret.expose()),
            added_at: now,
            last_step: 0,
            recovery_codes: Vec::new(),
        }
    }
}

/// An authenticator that is being added: it counts once a code of it was typed.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct NewTotp {
    secret: StoredSecret,
}

/// What an authenticator is told, shown once.
#[derive(Debug)]
pub struct TotpSetup {
    /// The secret in base32, to be typed.
    pub secret: Redacted<String>,
    /// The same as a link (`otpauth:`).
    pub uri: Redacted<String>,
}

/// What is known of a user's second factors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SecondFactorView {
    /// When the authenticator was added.
    pub added_at: Timestamp,
    /// Recovery codes that were not used.
    pub recovery_codes_left: usize,
}

/// A code that was right, with what must be stored so that it is not right again.
pub(crate) struct AcceptedCode {
    version: u64,
    after: SecondFactors,
    /// For the event.
    pub(crate) kind: &'static str,
}

impl AcceptedCode {
    /// Uses the code up; the change fails if somebody else did.
    pub(crate) fn use_up<'p>(&self, change: Change<'p>) -> Change<'p> {
        change.put(Expected::Version(self.version), &self.after)
    }
}

impl NewTotp {
    pub(crate) fn generate(entropy: &dyn Entropy) -> Self {
        Self {
            secret: StoredSecret::from_bytes(totp::new_secret(entropy).expose()),
        }
    }

    /// What to show of it.
    pub(crate) fn setup(&self, issuer: &str, username: &str) -> TotpSetup {
        let secret = self.secret.bytes().unwrap_or_default();
        TotpSetup {
            secret: Redacted::new(totp::base32(&secret)),
            uri: Redacted::new(totp::uri(&secret, issuer, username)),
        }
    }
}

impl Provider {
    /// What is known of a user's second factors; `None` if they have none.
    ///
    /// # Errors
    /// The store fails.
    pub fn second_factor(&self, user: &UserId) -> Result<Option<SecondFactorView>, Fault> {
        let stored = self.second_factors(user)?;
        Ok(stored.map(|Versioned { record, .. }| SecondFactorView {
            added_at: record.added_at,
            recovery_codes_left: record.recovery_codes.len(),
        }))
    }

    fn second_factors(&self, user: &UserId) -> Result<Option<Versioned<SecondFactors>>, Fault> {
        Ok(self.tenant.get::<SecondFactors>(user.as_str())?)
    }

    /// Whether `typed` is a code of the user's now: of the authenticator, or for recovery.
    pub(crate) fn accept_code(
        &self,
        user: &UserId,
        typed: &str,
    ) -> Result<Option<AcceptedCode>, Fault> {
        let Some(Versioned { record, version }) = self.second_factors(user)? else {
            return Ok(None);
        };
        let typed = normalized(typed);
        if totp::is_code(&typed) {
            let secret = record.totp.bytes().unwrap_or_default();
            let last = Some(record.last_step);
            let step = totp::matching_step(&secret, &typed, self.clock.now(), last);
            return Ok(step.map(|last_step| AcceptedCode {
                version,
                after: SecondFactors {
                    last_step,
                    ..record
                },
                kind: "authenticator",
            }));
        }
        let is_it = |known: &StoredSecret| secret::matches(&typed, known.expose());
        let left: Vec<StoredSecret> = record
            .recovery_codes
            .iter()
            .filter(|known| !is_it(known))
            .cloned()
            .collect();
        if left.len() == record.recovery_codes.len() {
            return Ok(None);
        }
        Ok(Some(AcceptedCode {
            version,
            after: SecondFactors {
                recovery_codes: left,
                ..record
            },
            kind: "recovery code",
        }))
    }

    /// Adds an authenticator that shows `typed` now; the recovery codes, or `None` if the code is wrong.
    pub(crate) fn add_totp(
        &self,
        session: &Session,
        new: &NewTotp,
        typed: &str,
        caller: &Caller,
    ) -> Result<Option<Vec<Redacted<String>>>, Fault> {
        let secret = new.secret.bytes().unwrap_or_default();
        let now = self.clock.now();
        let Some(last_step) = totp::matching_step(&secret, &normalized(typed), now, None) else {
            return Ok(None);
        };
        let codes = recovery_codes(&*self.entropy);
        until_settled(|| {
            let before = self.second_factors(&session.user)?;
            let (expected, added) = match before {
                Some(stored) => (Expected::Version(stored.version), CredentialChange::Update),
                None => (Expected::Absent, CredentialChange::Create),
            };
            let factors = SecondFactors {
                user: session.user.clone(),
                totp: new.secret.clone(),
                added_at: now,
                last_step,
                recovery_codes: digests(&codes),
            };
            let report = factor_report("factor.add", session);
            let cause = Cause::new(Initiator::User, "an authenticator app was added");
            let change = self.change().put(expected, &factors).signal_credential(
                app_of(&session.user),
                added,
                cause,
            )?;
            Ok::<_, Fault>(change.report(report, caller).commit()?.then_some(()))
        })?;
        Ok(Some(codes))
    }

    /// Takes the authenticator and the recovery codes away.
    pub(crate) fn remove_totp(&self, session: &Session, caller: &Caller) -> Result<(), Fault> {
        let report = factor_report("factor.remove", session);
        self.remove_second_factors(&session.user, true, report, caller)
    }

    /// Takes all second factors of a user away: they have lost them.
    ///
    /// # Errors
    /// The store fails.
    pub fn reset_second_factors(&self, user: &UserId, caller: &Caller) -> Result<(), Fault> {
        let report = self.account_report("factor.reset", user.as_str());
        self.remove_second_factors(user, false, report, caller)
    }

    fn remove_second_factors(
        &self,
        user: &UserId,
        by_user: bool,
        report: Report,
        caller: &Caller,
    ) -> Result<(), Fault> {
        until_settled(|| {
            let mut change = self.change();
            if let Some(stored) = self.second_factors(user)? {
                let removal = CredentialChange::removal(by_user);
                let cause = Cause::by(by_user, "an authenticator app was removed");
                change = change
                    .delete::<SecondFactors>(Expected::Version(stored.version), user.as_str())
                    .signal_credential(app_of(user), removal, cause)?;
            }
            Ok(change.report_ref(&report, caller).commit()?.then_some(()))
        })
    }

    /// New recovery codes in place of those left; `None` if the user has no authenticator.
    pub(crate) fn renew_recovery_codes(
        &self,
        session: &Session,
        caller: &Caller,
    ) -> Result<Option<Vec<Redacted<String>>>, Fault> {
        let codes = recovery_codes(&*self.entropy);
        let renewed = until_settled(|| {
            let Some(mut stored) = self.second_factors(&session.user)? else {
                return Ok::<_, Fault>(Some(false));
            };
            stored.record.recovery_codes = digests(&codes);
            let report = factor_report("factor.recovery_codes", session);
            let change = self
                .change()
                .put(Expected::Version(stored.version), &stored.record);
            Ok(change.report(report, caller).commit()?.then_some(true))
        })?;
        Ok(renewed.then_some(codes))
    }
}

/// What receivers of signals learn of an authenticator.
const fn app_of(user: &UserId) -> Credential<'_> {
    Credential {
        user,
        kind: CredentialType::App,
        aaguid: None,
    }
}

fn factor_report(activity: &str, session: &Session) -> Report {
    Report::new(EventClass::AccountChange, activity)
        .subject(session.user.as_str())
        .session(&session.id)
        .target(session.user.as_str())
}

/// As stored and compared: without what people add for reading.
fn normalized(typed: &str) -> String {
    let kept = typed
        .chars()
        .filter(|c| !c.is_whitespace() && *c != '-')
        .take(64);
    kept.map(|c| c.to_ascii_lowercase()).collect()
}

/// Codes of 80 random bits, so that no slow hash is needed: `xxxxx-xxxxx-xxxxx-xxxxx`.
fn recovery_codes(entropy: &dyn Entropy) -> Vec<Redacted<String>> {
    let code = |_| {
        let letters = testudo_trust::hex::encode(&random_bytes::<10>(entropy));
        let parts: Vec<&str> = letters
            .as_bytes()
            .chunks(5)
            .filter_map(|part| std::str::from_utf8(part).ok())
            .collect();
        Redacted::new(parts.join("-"))
    };
    (0..RECOVERY_CODES).map(code).collect()
}

fn digests(codes: &[Redacted<String>]) -> Vec<StoredSecret> {
    let digest = |code: &Redacted<String>| secret::digest(&normalized(code.expose()));
    codes
        .iter()
        .map(|code| StoredSecret::new(digest(code)))
        .collect()
}
