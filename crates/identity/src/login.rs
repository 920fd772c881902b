//! The login form: password in, session and code out.

use std::time::Duration;

use testudo_model::{
    Redacted, SessionId, Timestamp, UserId, Username, event::EventClass, limits::SESSION_LIFETIME,
};
use testudo_store::{Expected, Versioned};
use testudo_trust::{constant_time_eq, dummy_verify, hash_password, needs_rehash, verify_password};

use crate::{
    Caller, Fault, Provider,
    authorize::Refusal,
    change::{Change, Report, until_settled},
    claims::{
        ASSURANCE_ONE_FACTOR, ASSURANCE_PHISHING_RESISTANT, ASSURANCE_TWO_FACTORS, METHOD_PASSWORD,
    },
    federation::{AcceptedVoucher, LinkError, LinkId, LoginStep, Voucher, link_report},
    flow::{Flow, Purpose},
    limits::MAX_PASSWORD_BYTES,
    passkey::{AcceptedPasskey, ShownPasskey},
    records::{Authentication, Holder, NameClaim, PasswordCredential, Session, User},
    second_factor::{AcceptedCode, FirstFactor, METHOD_ONE_TIME, METHOD_SEVERAL},
    secret::{self, StoredSecret},
    session::session_cookie,
    throttle::Attempt,
};

/// A sent login form. It costs an Argon2 hash: call [`Provider::login`] from a bounded blocking pool.
#[derive(Debug)]
pub struct LoginRequest<'a> {
    /// The hidden field.
    pub flow: &'a str,
    /// The pre-login cookie.
    pub browser: Option<&'a str>,
    /// The session cookie the browser may still have.
    pub session: Option<&'a str>,
    /// The name as typed.
    pub username: &'a str,
    /// The password as typed.
    pub password: &'a Redacted<String>,
}

/// A successful login.
#[derive(Debug)]
pub struct LoggedIn {
    /// Where to redirect: to the client, with a code, or to a page of ours.
    pub location: Redacted<String>,
    /// Value of the session cookie to set (`__Host-`, `HttpOnly`, `Secure`, `SameSite=Lax`).
    pub session_cookie: Redacted<String>,
    /// The session.
    pub session: SessionId,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// What a login form is for, for people.
#[derive(Debug)]
pub struct LoginForm {
    /// Who asked for it.
    pub client_name: String,
    /// The identity provider of the account elsewhere that the login connects, if it does.
    pub connects: Option<String>,
}

/// Why a login failed. What the user may know is `Display`; the event knows more.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The form is not ours, or its client is gone.
    #[error("this login page is no longer valid; go back to the application and start again")]
    FlowInvalid,
    /// The form is older than [`crate::limits::FLOW_LIFETIME`].
    #[error("this login page has expired; go back to the application and start again")]
    FlowExpired,
    /// The pushed request behind it gave a code already.
    #[error("this login was used already; go back to the application and start again")]
    FlowUsed,
    /// The pre-login cookie is missing or of another browser.
    #[error(
        "this login page was opened in another browser; allow cookies, go back and start again"
    )]
    OtherBrowser,
    /// Unknown name, wrong password or disabled user: which one is nobody's business.
    #[error("the username or the password is wrong")]
    WrongCredentials,
    /// The password was right, and the user has a second factor: show the form for it.
    #[error("a code is needed")]
    SecondFactorNeeded {
        /// The sealed hidden field.
        flow: String,
    },
    /// The code is not one of now, or was used.
    #[error("the code is wrong, or it was used before")]
    WrongCode,
    /// The password was right, but more is wanted, and the user has a passkey for it.
    #[error("the password alone is not enough here: log in with your passkey")]
    PasskeyNeeded,
    /// The passkey is not known, its user is disabled, or what it said is not right: which one is nobody's business.
    #[error("this passkey was not accepted; try another one, or log in in another way")]
    WrongPasskey,
    /// The account elsewhere that was to be connected is connected to another one, or there are too many.
    #[error("you are not logged in: {0}")]
    NotConnected(String),
    /// Too many failures.
    #[error("too many failed logins; wait {} seconds and try again", retry_after.as_secs().max(1))]
    Throttled {
        /// Time to wait.
        retry_after: Duration,
    },
    /// Our fault.
    #[error("the login could not be handled")]
    Unavailable(#[from] Fault),
}

impl LoginError {
    /// HTTP status of the answer.
    pub const fn status(&self) -> u16 {
        match self {
            Self::FlowInvalid | Self::FlowExpired | Self::FlowUsed => 400,
            Self::SecondFactorNeeded { .. } => 200,
            Self::WrongCredentials | Self::WrongCode | Self::PasskeyNeeded | Self::WrongPasskey => {
                401
            }
            Self::OtherBrowser => 403,
            Self::NotConnected(_) => 409,
            Self::Throttled { .. } => 429,
            Self::Unavailable(fault) => fault.status(),
        }
    }
}

/// A user who has proved who they are, with the state that holds for.
pub(crate) struct Proven {
    pub(crate) user: User,
    /// What the password was right for, if it was one.
    pub(crate) hash: Option<StoredSecret>,
    /// The password under today's parameters, if it was stored under older ones.
    pub(crate) rehashed: Option<StoredSecret>,
}

/// What a user has shown.
#[derive(Clone, Copy)]
pub(crate) enum Means<'a> {
    Password,
    /// And this, as typed.
    PasswordAndCode(&'a str),
    Passkey(&'a ShownPasskey),
    /// A login elsewhere.
    Elsewhere(&'a Voucher),
    /// And this, as typed.
    ElsewhereAndCode(&'a Voucher, &'a str),
}

/// What must be written with the login, so that what was shown is not good again.
enum Accepted {
    Password,
    PasswordAndCode(AcceptedCode),
    Passkey(AcceptedPasskey),
    Elsewhere(Box<AcceptedVoucher>, Option<AcceptedCode>),
}

impl Accepted {
    fn use_up<'p>(&self, change: Change<'p>) -> Change<'p> {
        match self {
            Self::Password => change,
            Self::PasswordAndCode(code) => code.use_up(change),
            Self::Passkey(passkey) => passkey.use_up(change),
            Self::Elsewhere(voucher, code) => {
                let change = voucher.use_up(change);
                code.iter().fold(change, |change, code| code.use_up(change))
            }
        }
    }

    /// The account elsewhere that it was, if it was one, and when its user logged in there.
    fn elsewhere(&self) -> Option<(&LinkId, Timestamp)> {
        match self {
            Self::Elsewhere(accepted, _) => Some((accepted.link(), accepted.voucher.at)),
            _ => None,
        }
    }

    /// `acr` and `amr`.
    fn assurance(&self) -> (&str, Vec<&str>) {
        match self {
            Self::Password => (ASSURANCE_ONE_FACTOR, vec![METHOD_PASSWORD]),
            Self::Elsewhere(accepted, code) => {
                let voucher = &accepted.voucher;
                let mut methods: Vec<&str> = voucher.methods.iter().map(String::as_str).collect();
                match code {
                    None => (&voucher.class, methods),
                    Some(_) => {
                        methods.extend([METHOD_ONE_TIME, METHOD_SEVERAL]);
                        (ASSURANCE_TWO_FACTORS, methods)
                    }
                }
            }
            Self::PasswordAndCode(_) => {
                let methods = vec![METHOD_PASSWORD, METHOD_ONE_TIME, METHOD_SEVERAL];
                (ASSURANCE_TWO_FACTORS, methods)
            }
            Self::Passkey(passkey) => {
                let methods = [&passkey.methods()[..], &[METHOD_SEVERAL]].concat();
                (ASSURANCE_PHISHING_RESISTANT, methods)
            }
        }
    }

    /// The event of the login.
    fn report(&self) -> Report {
        let report = |activity: &str| Report::new(EventClass::Authentication, activity);
        match self {
            Self::Password => report("login.password"),
            Self::PasswordAndCode(code) => {
                report("login.password").detail("second_factor", code.kind)
            }
            Self::Passkey(passkey) => {
                report("login.passkey").detail("passkey", passkey.id().as_str())
            }
            Self::Elsewhere(accepted, code) => {
                let voucher = &accepted.voucher;
                let report = voucher.describe(report(&voucher.activity));
                match code {
                    Some(code) => report.detail("second_factor", code.kind),
                    None => report,
                }
            }
        }
    }
}

impl Provider {
    /// Logs a user in and answers the authorization request the form belongs to, or goes on to the page it was shown for. Asks
    /// no directory.
    ///
    /// # Errors
    /// See [`LoginError`]. After `WrongCredentials` and `Throttled` the same form may be sent again.
    pub fn login(
        &self,
        request: &LoginRequest<'_>,
        caller: &Caller,
    ) -> Result<LoggedIn, LoginError> {
        match self.begin_login(request, caller)? {
            LoginStep::LoggedIn(logged_in) => Ok(logged_in),
            LoginStep::AskDirectories(asked) => {
                Err(self.refuse_directory_login(&asked, "no directory was asked", caller))
            }
        }
    }

    /// The same, where directories may be asked about names that nobody has here, and about those that came from there.
    ///
    /// # Errors
    /// As [`login`](Self::login).
    pub fn begin_login(
        &self,
        request: &LoginRequest<'_>,
        caller: &Caller,
    ) -> Result<LoginStep, LoginError> {
        let flow = self.open_flow(request.flow, request.browser)?;
        let username = request
            .username
            .trim()
            .to_lowercase()
            .parse::<Username>()
            .ok();
        let attempt = Attempt::new(username.as_ref(), caller.source_ip);
        if let Err(retry_after) = self.begin_attempt(&attempt, caller)? {
            return Err(LoginError::Throttled { retry_after });
        }
        let (flow, attempt) = match &username {
            Some(username) if request.password.expose().len() <= MAX_PASSWORD_BYTES => {
                let whose = self.whose(username)?;
                match self.ask_directories(whose, flow, attempt, username) {
                    Ok(asked) => {
                        // As much work as for a name that somebody has here.
                        dummy_verify(request.password);
                        return Ok(LoginStep::AskDirectories(asked));
                    }
                    Err(back) => back,
                }
            }
            _ => (flow, attempt),
        };
        match self.prove(username.as_ref(), request.password)? {
            Ok(proven) if self.needs_passkey(&proven.user.id, flow.purpose.least_class())? => {
                self.settle_forgiveness(&attempt)?;
                Err(LoginError::PasskeyNeeded)
            }
            Ok(proven) if self.second_factor(&proven.user.id)?.is_some() => {
                self.settle_forgiveness(&attempt)?;
                let first = FirstFactor::password(&proven);
                let flow = self.half_login(flow, &proven.user.id, first)?;
                Err(LoginError::SecondFactorNeeded { flow })
            }
            Ok(proven) => {
                let (session, means) = (request.session, Means::Password);
                self.start_session(&flow, &proven, &attempt, session, means, caller)
                    .map(LoginStep::LoggedIn)
            }
            Err(reason) => {
                let target = username.as_ref().map_or("malformed name", Username::as_str);
                self.report(refusal(&flow.purpose, target, reason), caller)?;
                Err(LoginError::WrongCredentials)
            }
        }
    }

    /// Whether the user has a passkey, and nothing else of theirs makes a login of this class.
    pub(crate) fn needs_passkey(&self, user: &UserId, class: &str) -> Result<bool, Fault> {
        Ok(self.class_of_password(user)? < class && self.can_reach(user, class)?)
    }

    /// What a page needs to show a form again. `None` if the form is not ours.
    pub fn login_form(&self, flow: &str) -> Option<LoginForm> {
        let flow: Flow = self.flow_seal.unseal(flow)?;
        Some(LoginForm {
            connects: self.label_of(&flow),
            client_name: flow.client_name,
        })
    }

    /// The identity provider of the account elsewhere that a login connects, for people.
    fn label_of(&self, flow: &Flow) -> Option<String> {
        let source = &flow.connects.as_ref()?.source;
        let at = self.identity_provider(source);
        Some(at.map_or_else(|| source.clone(), |at| at.label.clone()))
    }

    pub(crate) fn open_flow(&self, flow: &str, browser: Option<&str>) -> Result<Flow, LoginError> {
        let flow: Flow = self.flow_seal.unseal(flow).ok_or(LoginError::FlowInvalid)?;
        if self.clock.now() > flow.expires_at {
            return Err(LoginError::FlowExpired);
        }
        self.check_flow(&flow, browser)?;
        Ok(flow)
    }

    /// All about a flow but its time: the browser, and whether what it is for still stands.
    pub(crate) fn check_flow(&self, flow: &Flow, browser: Option<&str>) -> Result<(), LoginError> {
        let browser = secret::digest(browser.unwrap_or(""));
        if !constant_time_eq(browser.as_bytes(), flow.browser.as_bytes()) {
            return Err(LoginError::OtherBrowser);
        }
        if let Purpose::Authorize(request) = &flow.purpose {
            let client = self.client_named(request.client_id.as_str())?;
            if client.is_none_or(|client| client.created_at != request.client_created_at) {
                return Err(LoginError::FlowInvalid);
            }
            if self.is_used(request)? {
                return Err(LoginError::FlowUsed);
            }
        }
        Ok(())
    }

    /// Checks a password. The inner error is for the event. Every path costs one hash, except for text that is
    /// too long to be a password of anybody.
    fn prove(
        &self,
        username: Option<&Username>,
        password: &Redacted<String>,
    ) -> Result<Result<Proven, &'static str>, Fault> {
        if password.expose().len() > MAX_PASSWORD_BYTES {
            return Ok(Err("password too long"));
        }
        let found = match username {
            Some(username) => self.user_with_credential(username)?,
            None => None,
        };
        let Some((user, hash)) = found else {
            dummy_verify(password);
            return Ok(Err("unknown user"));
        };
        let Some(hash) = hash else {
            dummy_verify(password);
            return Ok(Err("user has no password"));
        };
        if !verify_password(password, hash.expose()) {
            return Ok(Err("wrong password"));
        }
        if user.disabled {
            return Ok(Err("user is disabled"));
        }
        if self.is_of_directory(&user.id)? {
            return Ok(Err("user is of a directory that is not declared"));
        }
        let rehashed = needs_rehash(hash.expose())
            .then(|| StoredSecret::new(hash_password(password, &*self.entropy)));
        Ok(Ok(Proven {
            user,
            hash: Some(hash),
            rehashed,
        }))
    }

    fn user_with_credential(
        &self,
        username: &Username,
    ) -> Result<Option<(User, Option<StoredSecret>)>, Fault> {
        let claim = self
            .tenant
            .get::<NameClaim>(&NameClaim::user_key(username))?;
        let Some(Holder::User(id)) = claim.map(|claim| claim.record.holder) else {
            return Ok(None);
        };
        let user = self.tenant.get::<User>(id.as_str())?;
        let credential = self.tenant.get::<PasswordCredential>(id.as_str())?;
        Ok(user
            .zip(credential)
            .map(|(user, credential)| (user.record, credential.record.hash)))
    }

    pub(crate) fn start_session(
        &self,
        flow: &Flow,
        proven: &Proven,
        attempt: &Attempt,
        previous: Option<&str>,
        means: Means<'_>,
        caller: &Caller,
    ) -> Result<LoggedIn, LoginError> {
        until_settled(|| {
            let Some(mut credential) = self.unchanged_credential(proven)? else {
                return Err(LoginError::WrongCredentials);
            };
            if let Purpose::Authorize(request) = &flow.purpose
                && self.is_used(request)?
            {
                return Err(LoginError::FlowUsed);
            }
            let accepted = self.accept(&proven.user, means)?;
            let (session, cookie) = self.new_session(&proven.user, &accepted, caller);
            credential.record.last_login_at = Some(session.used_at);
            if let Some(rehashed) = &proven.rehashed {
                credential.record.hash = Some(rehashed.clone());
            }
            let change = self
                .change()
                .put(Expected::Absent, &session)
                .put(Expected::Version(credential.version), &credential.record)
                .report(
                    success(accepted.report(), &flow.purpose, proven, &session.id),
                    caller,
                );
            let change = accepted.use_up(change);
            let change = match &flow.connects {
                Some(voucher) => self.connect(change, &proven.user, voucher, caller)?,
                None => change,
            };
            let change = self.forget_cookie(change, previous)?;
            let change = self.make_room_for_session(change, &proven.user.id, None)?;
            let change = self.forgive(change, attempt)?;
            let (change, location) = match &flow.purpose {
                Purpose::Authorize(request) if !request.is_for(&session.user) => (
                    change,
                    self.refused_location(request, &Refusal::LoginRequired),
                ),
                Purpose::Authorize(request) if !request.accepts(&session.authentication) => (
                    change,
                    self.refused_location(request, &Refusal::UnmetAuthentication),
                ),
                Purpose::Authorize(request) => {
                    self.stage_answer(change, request, &session, caller)?
                }
                Purpose::Visit(visit) => (change, Redacted::new(visit.location())),
            };
            let logged_in = LoggedIn {
                location,
                session_cookie: cookie,
                session: session.id,
                expires_at: session.expires_at,
            };
            Ok(change.commit()?.then_some(logged_in))
        })
    }

    /// What was shown, if it is still good.
    fn accept(&self, user: &User, means: Means<'_>) -> Result<Accepted, LoginError> {
        Ok(match means {
            Means::Password => Accepted::Password,
            Means::PasswordAndCode(typed) => {
                let accepted = self.accept_code(&user.id, typed)?;
                Accepted::PasswordAndCode(accepted.ok_or(LoginError::WrongCode)?)
            }
            Means::Passkey(shown) => {
                let accepted = self.accept_passkey(shown)?;
                Accepted::Passkey(accepted.ok_or(LoginError::WrongPasskey)?)
            }
            Means::Elsewhere(voucher) => {
                let accepted = self.accept_voucher(&user.id, voucher)?;
                let accepted = accepted.ok_or(LoginError::WrongCredentials)?;
                Accepted::Elsewhere(Box::new(accepted), None)
            }
            Means::ElsewhereAndCode(voucher, typed) => {
                let accepted = self.accept_voucher(&user.id, voucher)?;
                let accepted = accepted.ok_or(LoginError::FlowUsed)?;
                let code = self.accept_code(&user.id, typed)?;
                let code = code.ok_or(LoginError::WrongCode)?;
                Accepted::Elsewhere(Box::new(accepted), Some(code))
            }
        })
    }

    /// Connects the account elsewhere that the login was to be for. The login writes the password record already.
    fn connect<'p>(
        &self,
        change: Change<'p>,
        user: &User,
        voucher: &Voucher,
        caller: &Caller,
    ) -> Result<Change<'p>, LoginError> {
        match self.stage_link_alone(change, &user.id, voucher) {
            Ok((change, _)) => Ok(change.report(link_report(user, voucher), caller)),
            Err(LinkError::Unavailable(fault)) => Err(fault.into()),
            Err(LinkError::NoUser) => Err(LoginError::WrongCredentials),
            Err(refused) => Err(LoginError::NotConnected(refused.to_string())),
        }
    }

    /// The credential as it is now, if it still is what the password was checked against. Writing it makes a
    /// login and a disabling or password change exclude each other.
    fn unchanged_credential(
        &self,
        proven: &Proven,
    ) -> Result<Option<Versioned<PasswordCredential>>, Fault> {
        let credential = self
            .tenant
            .get::<PasswordCredential>(proven.user.id.as_str())?;
        let user = self.tenant.get::<User>(proven.user.id.as_str())?;
        let enabled = user.is_some_and(|user| !user.record.disabled);
        let same = |credential: &Versioned<PasswordCredential>| {
            let Some(proven) = &proven.hash else {
                return true;
            };
            let hash = credential.record.hash.as_ref();
            hash.is_some_and(|hash| {
                constant_time_eq(hash.expose().as_bytes(), proven.expose().as_bytes())
            })
        };
        Ok(credential.filter(|credential| enabled && same(credential)))
    }

    fn new_session(
        &self,
        user: &User,
        accepted: &Accepted,
        caller: &Caller,
    ) -> (Session, Redacted<String>) {
        let now = self.clock.now();
        let id = SessionId::generate(&*self.clock, &*self.entropy);
        let (context_class, methods) = accepted.assurance();
        let (link, at) = accepted.elsewhere().unzip();
        let cookie_secret = secret::generate(&*self.entropy);
        let session = Session {
            id: id.clone(),
            user: user.id.clone(),
            authentication: Authentication {
                at: at.unwrap_or(now),
                context_class: context_class.to_owned(),
                methods: methods.into_iter().map(str::to_owned).collect(),
            },
            cookie_digest: Some(StoredSecret::new(secret::digest(cookie_secret.expose()))),
            link: link.cloned(),
            source_ip: caller.source_ip,
            used_at: now,
            expires_at: now + SESSION_LIFETIME,
        };
        (session, session_cookie(&id, &cookie_secret))
    }
}

fn success(report: Report, purpose: &Purpose, proven: &Proven, session: &SessionId) -> Report {
    let user = &proven.user;
    for_purpose(report, purpose)
        .subject(user.id.as_str())
        .session(session)
        .target(user.username.as_str())
}

fn refusal(purpose: &Purpose, target: &str, reason: &str) -> Report {
    let report = Report::new(EventClass::Authentication, "login.password");
    for_purpose(report, purpose).denied(reason).target(target)
}

/// Names the client that asked for the login, if one did.
pub(crate) fn for_purpose(report: Report, purpose: &Purpose) -> Report {
    match purpose.request() {
        Some(request) => report.client(request.client_id.as_str()),
        None => report,
    }
}
