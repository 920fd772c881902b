//! Links with which somebody who cannot log in adds a passkey: new users, and those who have lost theirs.
//!
//! An administrator makes one and gives it to its user, by whatever way they trust. It is good once, for one account, for
//! hours; looking at its page does not use it up, because mail scanners and chat programs look at links.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use testudo_model::{Redacted, Timestamp, UserId};
use testudo_store::{Expected, Record, Versioned};
use testudo_trust::constant_time_eq;

use super::{NewPasskey, PasskeyCreation, RegistrationError};
use crate::{
    AdminError, Caller, Fault, Provider,
    change::until_settled,
    discovery::paths,
    flow::Sealed,
    limits::{FLOW_LIFETIME, MAX_COOKIE_BYTES, MAX_INVITATION_LIFETIME},
    records::User,
    redirect_uri::with_parameters,
    secret::{self, StoredSecret},
    webauthn::RegistrationResponse,
};

/// The one link of a user. A further one takes its place.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Invitation {
    user: UserId,
    /// SHA-256 of its secret, hex.
    digest: StoredSecret,
    expires_at: Timestamp,
}

impl Record for Invitation {
    const COLLECTION: &'static str = "identity.invitation";

    fn key(&self) -> String {
        self.user.to_string()
    }

    fn expires(&self) -> Option<Timestamp> {
        Some(self.expires_at)
    }
}

/// A link that was made. It is not stored and cannot be asked for again.
#[derive(Debug)]
pub struct NewInvitation {
    /// Where its user goes.
    pub link: Redacted<String>,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// What to show for a link.
#[derive(Debug)]
pub enum InvitationPage {
    /// The form for a new passkey.
    Offer {
        /// The sealed hidden field.
        flow: String,
        /// Value of the pre-login cookie to set.
        browser: Redacted<String>,
        /// What the browser is asked.
        creation: Box<PasskeyCreation>,
        /// Why it is shown again.
        refused: Option<String>,
    },
    /// The passkey is there: its user can log in.
    Done,
}

/// Why a link leads nowhere.
#[derive(Debug, thiserror::Error)]
pub enum InvitationError {
    /// It was used, replaced or has ended, or there never was one.
    #[error("this link is not good any more; ask whoever sent it for a new one")]
    Invalid,
    /// The form was sent from another browser.
    #[error("this page was opened in another browser; allow cookies and open the link again")]
    OtherBrowser,
    /// Our fault.
    #[error("the link could not be followed")]
    Unavailable(#[from] Fault),
}

/// A sent form with a new passkey.
#[derive(Debug)]
pub struct InvitationAnswer<'a> {
    /// The hidden field.
    pub flow: &'a str,
    /// The pre-login cookie.
    pub browser: Option<&'a str>,
    /// What to call the passkey.
    pub name: &'a str,
    /// What the authenticator answered.
    pub response: RegistrationResponse<'a>,
}

/// The form of an open link.
#[derive(Serialize, Deserialize)]
struct InvitationForm {
    user: UserId,
    /// That of the link.
    digest: StoredSecret,
    /// Digest of the pre-login cookie.
    browser: String,
    expires_at: Timestamp,
}

impl Sealed for InvitationForm {
    const CONTEXT: &'static [u8] = b"testudo invitation form v1";
}

impl Provider {
    /// Makes a link that is good once, for `lifetime`.
    ///
    /// # Errors
    /// There is no such user, they are disabled, passkeys do not work at this provider's address, or the lifetime is none.
    pub fn invite_user(
        &self,
        id: &UserId,
        lifetime: Duration,
        caller: &Caller,
    ) -> Result<NewInvitation, AdminError> {
        if lifetime.is_zero() || lifetime > MAX_INVITATION_LIFETIME {
            let why = format!(
                "must be at most {} hours",
                MAX_INVITATION_LIFETIME.as_secs() / 3600
            );
            return Err(AdminError::invalid("lifetime", why));
        }
        if self.relying_party.is_none() {
            let why = "must have a host name instead of an address: passkeys belong to names";
            return Err(AdminError::invalid("issuer", why));
        }
        let made = secret::generate(&*self.entropy);
        let invitation = Invitation {
            user: id.clone(),
            digest: StoredSecret::new(secret::digest(made.expose())),
            expires_at: self.clock.now() + lifetime,
        };
        until_settled(|| {
            let user = self.user(id)?.record;
            if user.disabled {
                return Err(AdminError::invalid(
                    "user",
                    "is disabled; enable them first",
                ));
            }
            let report = self
                .user_report("user.invite", &user)
                .detail("expires", invitation.expires_at.to_string());
            let change = self.change().put(Expected::Any, &invitation);
            // Of this and disabling or deleting the user one happens after the other.
            let change = self.exclude_logins(change, id)?.report(report, caller);
            Ok::<_, AdminError>(change.commit()?.then_some(()))
        })?;
        let code = format!("{id}.{}", made.expose());
        let address = format!("{}{}", self.settings.issuer, paths::INVITATION);
        Ok(NewInvitation {
            link: Redacted::new(with_parameters(&address, &[("code", &code)])),
            expires_at: invitation.expires_at,
        })
    }

    /// The page of a link with this `code`.
    ///
    /// # Errors
    /// See [`InvitationError`].
    pub fn invitation_page(
        &self,
        code: &str,
        browser: Option<&str>,
    ) -> Result<InvitationPage, InvitationError> {
        let (user, made) = code.split_once('.').ok_or(InvitationError::Invalid)?;
        let user: UserId = user.parse().map_err(|_| InvitationError::Invalid)?;
        if made.len() > MAX_COOKIE_BYTES {
            return Err(InvitationError::Invalid);
        }
        let digest = StoredSecret::new(secret::digest(made));
        self.open_invitation(&user, &digest)?;
        self.offer(user, digest, browser, None)
    }

    /// Adds the passkey that was made on the page of a link, which is used up by it.
    ///
    /// # Errors
    /// See [`InvitationError`].
    pub fn accept_invitation(
        &self,
        answer: &InvitationAnswer<'_>,
        caller: &Caller,
    ) -> Result<InvitationPage, InvitationError> {
        let form: InvitationForm = self
            .flow_seal
            .unseal(answer.flow)
            .ok_or(InvitationError::Invalid)?;
        if self.clock.now() > form.expires_at {
            return Err(InvitationError::Invalid);
        }
        let browser = secret::digest(answer.browser.unwrap_or(""));
        if !constant_time_eq(browser.as_bytes(), form.browser.as_bytes()) {
            return Err(InvitationError::OtherBrowser);
        }
        self.open_invitation(&form.user, &form.digest)?;
        match self.add_invited_passkey(&form, answer, caller) {
            Ok(()) => Ok(InvitationPage::Done),
            Err(RegistrationError::Unavailable(fault)) => Err(fault.into()),
            Err(RegistrationError::NoUser) => Err(InvitationError::Invalid),
            Err(refused) => {
                let refused = Some(refused.to_string());
                self.offer(form.user, form.digest, answer.browser, refused)
            }
        }
    }

    fn add_invited_passkey(
        &self,
        form: &InvitationForm,
        answer: &InvitationAnswer<'_>,
        caller: &Caller,
    ) -> Result<(), RegistrationError> {
        let new = NewPasskey {
            user: &form.user,
            flow: answer.flow,
            expires_at: form.expires_at,
            name: answer.name,
            response: answer.response,
        };
        let report = || {
            self.account_report("passkey.add", form.user.as_str())
                .detail("invited", true)
        };
        let added = self.verify_passkey(&new).and_then(|verified| {
            until_settled(|| {
                let invitation = self.live_invitation(&form.user, &form.digest)?;
                let invitation = invitation.ok_or(RegistrationError::NoUser)?;
                let change = self
                    .stage_passkey(self.change(), &verified)?
                    .delete::<Invitation>(
                        Expected::Version(invitation.version),
                        form.user.as_str(),
                    );
                let report = verified.describe(report());
                Ok(change.report(report, caller).commit()?.then_some(()))
            })
        });
        self.report_unless_added(&added, report(), caller)?;
        added
    }

    /// The form for a link that is good.
    fn offer(
        &self,
        user: UserId,
        digest: StoredSecret,
        browser: Option<&str>,
        refused: Option<String>,
    ) -> Result<InvitationPage, InvitationError> {
        let browser = self.browser_value(browser);
        let form = InvitationForm {
            user,
            digest,
            browser: secret::digest(browser.expose()),
            expires_at: self.clock.now() + FLOW_LIFETIME,
        };
        let flow = self.flow_seal.seal(&*self.entropy, &form)?;
        let creation = self.passkey_creation(&form.user, &flow)?;
        Ok(InvitationPage::Offer {
            flow,
            browser,
            creation: Box::new(creation.ok_or(InvitationError::Invalid)?),
            refused,
        })
    }

    /// Whether a link is good, and its user enabled.
    fn open_invitation(&self, user: &UserId, digest: &StoredSecret) -> Result<(), InvitationError> {
        let invitation = self.live_invitation(user, digest)?;
        let user = self
            .tenant
            .get::<User>(user.as_str())
            .map_err(Fault::from)?;
        let is_enabled = user.is_some_and(|user| !user.record.disabled);
        match invitation {
            Some(_) if is_enabled => Ok(()),
            _ => Err(InvitationError::Invalid),
        }
    }

    fn live_invitation(
        &self,
        user: &UserId,
        digest: &StoredSecret,
    ) -> Result<Option<Versioned<Invitation>>, Fault> {
        let stored = self.tenant.get::<Invitation>(user.as_str())?;
        let now = self.clock.now();
        Ok(stored.filter(|stored| {
            let known = stored.record.digest.expose().as_bytes();
            constant_time_eq(known, digest.expose().as_bytes()) && now < stored.record.expires_at
        }))
    }
}
