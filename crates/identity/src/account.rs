//! What users see and change of their own account: where they are logged in, and what they prove themselves with.
//!
//! Every form works in the session it was shown to alone. What takes an account over (another factor, none any more) wants a
//! login of the last minutes, with the second factor if there is one.

use serde::{Deserialize, Serialize};
use testudo_model::{ClientName, Redacted, SessionId, Timestamp, UserId, event::Actor};
use testudo_trust::constant_time_eq;

use crate::{
    AdminError, Caller, ConsentView, EndReason, Fault, LinkId, LinkView, LoginPrompt, NewPassword,
    PasskeyCreation, PasskeyId, PasskeyView, Provider, SecondFactorView, SessionView, TotpSetup,
    claims::ASSURANCE_TWO_FACTORS,
    flow::{Sealed, Visit},
    limits::{FLOW_LIFETIME, FRESH_LOGIN},
    mail::AddressError,
    passkey::{NewPasskey, RegistrationError},
    records::{PasswordCredential, Session, User},
    second_factor::NewTotp,
    webauthn::RegistrationResponse,
};

/// What to show.
#[derive(Debug)]
pub enum AccountPage {
    /// The user must log in, or do it again.
    Login(LoginPrompt),
    /// The account.
    Overview(Box<AccountView>),
    /// The secret of a new authenticator, and the form for a code of it.
    AddTotp {
        /// The sealed hidden field.
        flow: String,
        /// What the authenticator is told.
        setup: TotpSetup,
        /// A code was typed, and it was wrong.
        was_wrong: bool,
    },
    /// The form for a new passkey.
    AddPasskey {
        /// The sealed hidden field.
        flow: String,
        /// What the browser is asked.
        creation: Box<PasskeyCreation>,
        /// Why it is shown again.
        refused: Option<String>,
    },
    /// The form for another mail address.
    ChangeAddress {
        /// The sealed hidden field.
        flow: String,
        /// What is there, or was typed.
        address: String,
        /// Why it is shown again.
        refused: Option<String>,
    },
    /// The form for another password.
    ChangePassword {
        /// The sealed hidden field.
        flow: String,
        /// Whose.
        username: String,
        /// Why it is shown again.
        refused: Option<String>,
    },
    /// Another password counts. All sessions have ended: take the session cookie away.
    PasswordChanged,
    /// Recovery codes; they are not shown again.
    RecoveryCodes(Vec<Redacted<String>>),
    /// Nobody is logged in here any more. Take the session cookie away.
    LoggedOut,
}

/// An account as its user sees it.
#[derive(Debug)]
pub struct AccountView {
    /// The sealed hidden field of all forms.
    pub flow: String,
    /// Login name.
    pub username: String,
    /// Mail address, and whether it is verified.
    pub email: Option<(String, bool)>,
    /// Whether letters are sent.
    pub can_have_mail: bool,
    /// Whether they have a password.
    pub has_password: bool,
    /// Where they are logged in.
    pub sessions: Vec<SessionView>,
    /// Which of these is this browser.
    pub current: SessionId,
    /// The second factor.
    pub second_factor: Option<SecondFactorView>,
    /// What they allowed to applications.
    pub consents: Vec<ConsentView>,
    /// Passkeys.
    pub passkeys: Vec<PasskeyView>,
    /// Whether passkeys work at this provider's address.
    pub can_have_passkeys: bool,
    /// Accounts elsewhere that log them in.
    pub links: Vec<LinkView>,
    /// Whether the last of these may go.
    pub can_part_with_links: bool,
}

/// What a user wants to change.
#[derive(Debug)]
pub enum AccountAction<'a> {
    /// End one session.
    EndSession(SessionId),
    /// End all sessions.
    EndAllSessions,
    /// Take back what an application was allowed.
    RevokeConsent(ClientName),
    /// Send a link that verifies the mail address.
    VerifyAddress,
    /// Begin to change the mail address.
    BeginAddress,
    /// Change it.
    ConfirmAddress {
        /// To this.
        address: &'a str,
    },
    /// Begin to change the password.
    BeginPassword,
    /// Change it. It costs an Argon2 hash: call it from a bounded blocking pool.
    ConfirmPassword {
        /// To this.
        password: &'a Redacted<String>,
        /// The same, typed again.
        again: &'a Redacted<String>,
    },
    /// Begin to add an authenticator, in place of the one there may be.
    BeginTotp,
    /// Add it.
    ConfirmTotp {
        /// A code of it.
        code: &'a str,
    },
    /// Take it away.
    RemoveTotp,
    /// New recovery codes.
    RenewRecoveryCodes,
    /// Begin to add a passkey.
    BeginPasskey,
    /// Add it.
    ConfirmPasskey {
        /// What to call it.
        name: &'a str,
        /// What the authenticator answered.
        response: RegistrationResponse<'a>,
    },
    /// Call a passkey something else.
    RenamePasskey {
        /// Which.
        id: PasskeyId,
        /// What.
        name: &'a str,
    },
    /// Take a passkey away.
    RemovePasskey(PasskeyId),
    /// Part with an account elsewhere.
    Disconnect(LinkId),
}

/// Why an account is not shown or changed.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// The form is not ours, too old, or of another session.
    #[error("this page is no longer valid; open it again")]
    FormInvalid,
    /// Our fault.
    #[error("the account could not be shown or changed")]
    Unavailable(#[from] Fault),
}

/// A form of the account page.
#[derive(Serialize, Deserialize)]
struct AccountForm {
    session: SessionId,
    /// An authenticator that waits for its first code.
    totp: Option<NewTotp>,
    expires_at: Timestamp,
}

impl Sealed for AccountForm {
    const CONTEXT: &'static [u8] = b"testudo account form v1";
}

impl Provider {
    /// The account of who is logged in.
    ///
    /// # Errors
    /// The store fails.
    pub fn account_page(
        &self,
        session: Option<&str>,
        browser: Option<&str>,
    ) -> Result<AccountPage, Fault> {
        match self.logged_in(session)? {
            Some(session) => self.account_overview(&session),
            None => Ok(AccountPage::Login(
                self.prompt_visit(Visit::Account { two_factors: false }, browser)?,
            )),
        }
    }

    /// Does what a form of the account page asks for.
    ///
    /// # Errors
    /// See [`AccountError`].
    pub fn change_account(
        &self,
        flow: &str,
        action: AccountAction<'_>,
        session: Option<&str>,
        browser: Option<&str>,
        caller: &Caller,
    ) -> Result<AccountPage, AccountError> {
        let form: AccountForm = self
            .flow_seal
            .unseal(flow)
            .ok_or(AccountError::FormInvalid)?;
        let session = self
            .logged_in(session)?
            .filter(|session| session.id == form.session && self.clock.now() <= form.expires_at);
        let session = session.ok_or(AccountError::FormInvalid)?;
        match action {
            AccountAction::EndSession(id) => Ok(self.end_own_session(&session, &id, caller)?),
            AccountAction::EndAllSessions => {
                self.log_out_everywhere(&session, caller)?;
                Ok(AccountPage::LoggedOut)
            }
            AccountAction::RevokeConsent(client) => {
                self.revoke_consent(&session.user, &client, caller)?;
                Ok(self.account_overview(&session)?)
            }
            AccountAction::RenamePasskey { id, name } => {
                self.rename_own_passkey(&session, &id, name, caller)?;
                Ok(self.account_overview(&session)?)
            }
            AccountAction::VerifyAddress => self.verify_own_address(&session, caller),
            _ if !self.is_fresh(&session)? => {
                Ok(AccountPage::Login(self.prompt_fresh(&session, browser)?))
            }
            AccountAction::ConfirmPasskey { name, response } => {
                let new = NewPasskey {
                    user: &session.user,
                    flow,
                    expires_at: form.expires_at,
                    name,
                    response,
                };
                self.confirm_passkey(&session, &new, caller)
            }
            AccountAction::ConfirmAddress { address } => {
                self.confirm_address(&session, address, caller)
            }
            AccountAction::ConfirmPassword { password, again } => {
                self.confirm_password(&session, password, again, caller)
            }
            AccountAction::ConfirmTotp { code } => {
                let new = form.totp.ok_or(AccountError::FormInvalid)?;
                self.confirm_totp(&session, new, code, caller)
            }
            action => Ok(self.change_proofs(&session, action, caller)?),
        }
    }

    /// What takes an account over, and needs no answer of an authenticator.
    fn change_proofs(
        &self,
        session: &Session,
        action: AccountAction<'_>,
        caller: &Caller,
    ) -> Result<AccountPage, Fault> {
        match action {
            AccountAction::BeginTotp => {
                let new = NewTotp::generate(&*self.entropy);
                return self.totp_page(session, new, false);
            }
            AccountAction::BeginPasskey => return self.passkey_page(session, None),
            AccountAction::BeginAddress if self.mail_is_carried() => {
                return self.address_page(session, None, None);
            }
            AccountAction::BeginPassword => return self.password_page(session, None),
            AccountAction::RenewRecoveryCodes => {
                if let Some(codes) = self.renew_recovery_codes(session, caller)? {
                    return Ok(AccountPage::RecoveryCodes(codes));
                }
            }
            AccountAction::RemoveTotp => self.remove_totp(session, caller)?,
            AccountAction::RemovePasskey(id) => self.remove_own_passkey(session, &id, caller)?,
            AccountAction::Disconnect(link) => self.disconnect_own(session, &link, caller)?,
            _ => {}
        }
        self.account_overview(session)
    }

    fn verify_own_address(
        &self,
        session: &Session,
        caller: &Caller,
    ) -> Result<AccountPage, AccountError> {
        match self.send_verification(session, caller) {
            Ok(()) => Ok(self.account_overview(session)?),
            Err(AddressError::Unavailable(fault)) => Err(fault.into()),
            Err(refused) => Ok(self.address_page(session, None, Some(refused.to_string()))?),
        }
    }

    fn confirm_address(
        &self,
        session: &Session,
        address: &str,
        caller: &Caller,
    ) -> Result<AccountPage, AccountError> {
        if !self.mail_is_carried() {
            return Err(AccountError::FormInvalid);
        }
        let address = address.trim();
        match self.change_own_address(session, address, caller) {
            Ok(()) => Ok(self.account_overview(session)?),
            Err(AddressError::Unavailable(fault)) => Err(fault.into()),
            Err(refused) => {
                let refused = Some(refused.to_string());
                Ok(self.address_page(session, Some(address), refused)?)
            }
        }
    }

    fn confirm_password(
        &self,
        session: &Session,
        password: &Redacted<String>,
        again: &Redacted<String>,
        caller: &Caller,
    ) -> Result<AccountPage, AccountError> {
        if !constant_time_eq(password.expose().as_bytes(), again.expose().as_bytes()) {
            let refused = "the two passwords differ".to_owned();
            return Ok(self.password_page(session, Some(refused))?);
        }
        if !self.has_password(&session.user)? {
            return Err(AccountError::FormInvalid);
        }
        let caller = Caller {
            actor: Actor {
                subject: Some(session.user.to_string()),
                session: Some(session.id.clone()),
                ..caller.actor.clone()
            },
            ..caller.clone()
        };
        let password = NewPassword::Given(password.clone());
        match self.set_password(&session.user, &password, &caller) {
            Ok(_) => Ok(AccountPage::PasswordChanged),
            Err(AdminError::Unavailable(fault)) => Err(fault.into()),
            Err(AdminError::Invalid { field, why }) => {
                let refused = Some(format!("the {field} {why}"));
                Ok(self.password_page(session, refused)?)
            }
            Err(_) => Err(AccountError::FormInvalid),
        }
    }

    fn confirm_totp(
        &self,
        session: &Session,
        new: NewTotp,
        code: &str,
        caller: &Caller,
    ) -> Result<AccountPage, AccountError> {
        match self.add_totp(session, &new, code, caller)? {
            Some(codes) => Ok(AccountPage::RecoveryCodes(codes)),
            None => Ok(self.totp_page(session, new, true)?),
        }
    }

    fn confirm_passkey(
        &self,
        session: &Session,
        new: &NewPasskey<'_>,
        caller: &Caller,
    ) -> Result<AccountPage, AccountError> {
        match self.add_own_passkey(session, new, caller) {
            Ok(()) => Ok(self.account_overview(session)?),
            Err(RegistrationError::Unavailable(fault)) => Err(fault.into()),
            Err(refused) => Ok(self.passkey_page(session, Some(refused.to_string()))?),
        }
    }

    fn account_overview(&self, session: &Session) -> Result<AccountPage, Fault> {
        let user = self.tenant.get::<User>(session.user.as_str())?;
        let user = user.map(|stored| stored.record);
        let email = user
            .as_ref()
            .and_then(|user| Some((user.email.clone()?, user.email_verified)));
        Ok(AccountPage::Overview(Box::new(AccountView {
            flow: self.account_form(session, None)?,
            username: user.map_or_else(String::new, |user| user.username.to_string()),
            email,
            can_have_mail: self.mail_is_carried(),
            has_password: self.has_password(&session.user)?,
            sessions: self.sessions_of(&session.user)?,
            current: session.id.clone(),
            second_factor: self.second_factor(&session.user)?,
            consents: self.consents_of(&session.user)?,
            passkeys: self.passkeys_of(&session.user)?,
            can_have_passkeys: self.relying_party.is_some(),
            links: self.links_to_part_with(&session.user)?,
            can_part_with_links: self.can_part_with_links(session)?,
        })))
    }

    fn has_password(&self, user: &UserId) -> Result<bool, Fault> {
        let credential = self.tenant.get::<PasswordCredential>(user.as_str())?;
        Ok(credential.is_some_and(|stored| stored.record.hash.is_some()))
    }

    fn address_page(
        &self,
        session: &Session,
        typed: Option<&str>,
        refused: Option<String>,
    ) -> Result<AccountPage, Fault> {
        let user = self.tenant.get::<User>(session.user.as_str())?;
        let known = user.and_then(|stored| stored.record.email);
        Ok(AccountPage::ChangeAddress {
            flow: self.account_form(session, None)?,
            address: typed.map(str::to_owned).or(known).unwrap_or_default(),
            refused,
        })
    }

    fn password_page(
        &self,
        session: &Session,
        refused: Option<String>,
    ) -> Result<AccountPage, Fault> {
        if !self.has_password(&session.user)? {
            return self.account_overview(session);
        }
        let user = self.tenant.get::<User>(session.user.as_str())?;
        Ok(AccountPage::ChangePassword {
            flow: self.account_form(session, None)?,
            username: user.map_or_else(String::new, |user| user.record.username.to_string()),
            refused,
        })
    }

    fn totp_page(
        &self,
        session: &Session,
        new: NewTotp,
        was_wrong: bool,
    ) -> Result<AccountPage, Fault> {
        let user = self.tenant.get::<User>(session.user.as_str())?;
        let username = user.map_or_else(String::new, |user| user.record.username.to_string());
        let issuer = self.settings.issuer.trim_start_matches("https://");
        Ok(AccountPage::AddTotp {
            setup: new.setup(issuer, &username),
            flow: self.account_form(session, Some(new))?,
            was_wrong,
        })
    }

    fn passkey_page(
        &self,
        session: &Session,
        refused: Option<String>,
    ) -> Result<AccountPage, Fault> {
        let flow = self.account_form(session, None)?;
        Ok(match self.passkey_creation(&session.user, &flow)? {
            Some(creation) => AccountPage::AddPasskey {
                flow,
                creation: Box::new(creation),
                refused,
            },
            None => self.account_overview(session)?,
        })
    }

    fn account_form(&self, session: &Session, totp: Option<NewTotp>) -> Result<String, Fault> {
        let form = AccountForm {
            session: session.id.clone(),
            totp,
            expires_at: self.clock.now() + FLOW_LIFETIME,
        };
        self.flow_seal.seal(&*self.entropy, &form)
    }

    /// Ends a session if it is of the same user; nobody learns whether there is another of that id.
    fn end_own_session(
        &self,
        session: &Session,
        id: &SessionId,
        caller: &Caller,
    ) -> Result<AccountPage, Fault> {
        let own = self.sessions_of(&session.user)?;
        if own.iter().any(|own| own.id == *id) {
            self.end_session(id, EndReason::Logout, caller)?;
        }
        if *id == session.id {
            return Ok(AccountPage::LoggedOut);
        }
        self.account_overview(session)
    }

    /// The session that a form of the account page was shown to.
    pub(crate) fn session_of_form(
        &self,
        flow: &str,
        session: Option<&str>,
    ) -> Result<Session, AccountError> {
        let form: AccountForm = self
            .flow_seal
            .unseal(flow)
            .ok_or(AccountError::FormInvalid)?;
        let session = self
            .logged_in(session)?
            .filter(|session| session.id == form.session && self.clock.now() <= form.expires_at);
        session.ok_or(AccountError::FormInvalid)
    }

    /// The login form of who must log in again, with all they have.
    pub(crate) fn prompt_fresh(
        &self,
        session: &Session,
        browser: Option<&str>,
    ) -> Result<LoginPrompt, Fault> {
        let two_factors = self.can_reach(&session.user, ASSURANCE_TWO_FACTORS)?;
        self.prompt_visit(Visit::Account { two_factors }, browser)
    }

    /// Whether the login is of the last minutes, and with all the user has.
    pub(crate) fn is_fresh(&self, session: &Session) -> Result<bool, Fault> {
        let age = self.clock.now().since(session.authentication.at);
        let is_strong = &*session.authentication.context_class >= ASSURANCE_TWO_FACTORS
            || !self.can_reach(&session.user, ASSURANCE_TWO_FACTORS)?;
        Ok(age <= FRESH_LOGIN && is_strong)
    }
}
