//! The authorization endpoint (RFC 6749 section 4.1.1, OpenID Connect Core section 3.1.2).
//!
//! Until client and redirect URI are known to belong together, errors are shown to the user; from then on they
//! go to the client (RFC 6749 section 4.1.2.1). Both kinds of answer carry `iss` (RFC 9207), so that a client of
//! several providers notices a mix-up.

use std::{collections::BTreeSet, time::Duration};

use testudo_model::{
    ClientName, Redacted, SessionId, Timestamp, UserId, event::EventClass,
    limits::AUTHORIZATION_CODE_LIFETIME,
};
use testudo_store::Expected;

use crate::{
    Caller, ErrorCode, Fault, Parameters, Provider,
    change::{Change, Report, until_settled},
    claims::{ASSURANCE_ONE_FACTOR, ASSURANCE_PHISHING_RESISTANT, ASSURANCE_TWO_FACTORS},
    dpop::KeyThumbprint,
    flow::{Flow, GrantRequest, Purpose, Visit},
    limits::{FLOW_LIFETIME, MAX_COOKIE_BYTES, MAX_NONCE_BYTES, MAX_STATE_BYTES},
    pkce::CodeChallenge,
    pushed::{PushError, Reference},
    records::{AuthorizationCode, Client, CodeState, GrantType, Session},
    redirect_uri::with_parameters,
    request_object::RequestObjectError,
    scopes::{self, ScopeSet},
    secret::{self, StoredSecret},
};

/// The answer to a valid authorization request.
#[derive(Debug)]
pub enum Authorization {
    /// The user is logged in: go there. The location holds a code; never log it.
    Code {
        /// Where to redirect.
        location: Redacted<String>,
    },
    /// The user is logged in, and must be asked: go there.
    Consent {
        /// Where to redirect.
        location: Redacted<String>,
    },
    /// The user must log in first.
    Login(LoginPrompt),
}

/// What a login page needs.
#[derive(Debug)]
pub struct LoginPrompt {
    /// The sealed request; a hidden field of the form. It is also the form's protection against forgery: it
    /// works only together with `browser`.
    pub flow: String,
    /// Value of the pre-login cookie to set (`__Host-`, `HttpOnly`, `Secure`, `SameSite=Lax`).
    pub browser: Redacted<String>,
    /// What the login is for: the client that asks, or a page of ours.
    pub client_name: String,
    /// The identity provider of the account elsewhere that the login connects, if it does.
    pub connects: Option<String>,
    /// Name to fill in (`login_hint`): text from outside, escape it.
    pub username_hint: Option<String>,
}

/// Why there is neither a code nor a login page.
#[derive(Debug, thiserror::Error)]
pub enum AuthorizeError {
    /// `client_id` is missing, repeated or of no client. Show it, with status 400.
    #[error("the application that sent you here is not registered")]
    UnknownClient,
    /// `redirect_uri` is missing, repeated or not registered. Show it, with status 400.
    #[error(
        "the application that sent you here asks to return to an address it has not registered"
    )]
    UnknownRedirect,
    /// `request_uri` is no pushed request, one of another client, or expired or used. Show it, with status 400.
    #[error(
        "the application that sent you here has not said in time what it asks for; go back and start again"
    )]
    UnknownRequest,
    /// The signed request is refused, so nobody knows where its answer should go. Show it, with status 400.
    #[error("the application that sent you here has signed its request badly: {0}")]
    RequestObject(RequestObjectError),
    /// Redirect with the error in the location.
    #[error("the authorization request is refused")]
    Refused {
        /// Where to redirect.
        location: String,
        /// Why.
        #[source]
        why: Refusal,
    },
    /// Our fault.
    #[error("the authorization request could not be handled")]
    Unavailable(#[from] Fault),
}

impl From<RequestObjectError> for AuthorizeError {
    fn from(error: RequestObjectError) -> Self {
        match error {
            RequestObjectError::Unavailable(fault) => Self::Unavailable(fault),
            refused => Self::RequestObject(refused),
        }
    }
}

impl AuthorizeError {
    /// HTTP status of the answer.
    pub const fn status(&self) -> u16 {
        match self {
            Self::UnknownClient
            | Self::UnknownRedirect
            | Self::UnknownRequest
            | Self::RequestObject(_) => 400,
            Self::Refused { .. } => 303,
            Self::Unavailable(fault) => fault.status(),
        }
    }
}

/// What the client is told at its redirect URI.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A parameter came twice.
    #[error("`{0}` is repeated")]
    Repeated(String),
    /// Not `code`.
    #[error("response_type must be `code`")]
    ResponseType,
    /// Not `query`.
    #[error("response_mode must be `query`")]
    ResponseMode,
    /// The client must sign its requests (RFC 9101 section 10.5).
    #[error("this client must sign its authorization requests")]
    SignatureRequired,
    /// The client must push its requests (RFC 9126 section 6).
    #[error("this client must push its authorization requests")]
    PushRequired,
    /// A request by reference to anything but a pushed one.
    #[error("`request_uri` must be that of a pushed request")]
    RequestUri,
    /// Self-registration.
    #[error("`registration` is not supported")]
    Registration,
    /// The client has no such grant.
    #[error("the client may not use the authorization code grant")]
    UnauthorizedClient,
    /// PKCE is missing or not S256.
    #[error("PKCE is required: code_challenge_method=S256 and a code_challenge of 43 characters")]
    Pkce,
    /// Beyond its limit.
    #[error("`{0}` is too long")]
    TooLong(&'static str),
    /// Malformed.
    #[error("`{0}` is malformed")]
    Malformed(&'static str),
    /// No scope that the client may have.
    #[error("none of the scopes may be asked for by this client")]
    Scope,
    /// A resource that is not the fleet (RFC 8707).
    #[error("`resource` must be the audience of the fleet, once")]
    Resource,
    /// Two factors were asked for, and the user has one.
    #[error("the user has no second factor")]
    UnmetAuthentication,
    /// `prompt=none`, but nobody is logged in (recently enough), or the client is any program of the machine.
    #[error("the user must log in")]
    LoginRequired,
    /// `prompt=none`, but the user must be asked.
    #[error("the user must be asked")]
    ConsentRequired,
    /// Our fault.
    #[error("the request could not be checked; try again")]
    Unavailable,
    /// The user was asked.
    #[error("the user said no")]
    AccessDenied,
}

impl Refusal {
    /// Its code on the wire.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Repeated(_)
            | Self::ResponseMode
            | Self::PushRequired
            | Self::SignatureRequired
            | Self::Pkce
            | Self::TooLong(_)
            | Self::Malformed(_) => ErrorCode::InvalidRequest,
            Self::ResponseType => ErrorCode::UnsupportedResponseType,
            Self::RequestUri => ErrorCode::RequestUriNotSupported,
            Self::Registration => ErrorCode::RegistrationNotSupported,
            Self::UnauthorizedClient => ErrorCode::UnauthorizedClient,
            Self::Scope => ErrorCode::InvalidScope,
            Self::Resource => ErrorCode::InvalidTarget,
            Self::UnmetAuthentication => ErrorCode::UnmetAuthenticationRequirements,
            Self::LoginRequired => ErrorCode::LoginRequired,
            Self::ConsentRequired => ErrorCode::ConsentRequired,
            Self::Unavailable => ErrorCode::ServerError,
            Self::AccessDenied => ErrorCode::AccessDenied,
        }
    }
}

/// An authorization request of a known client.
pub(crate) struct Asked<'a> {
    pub(crate) client: &'a Client,
    pub(crate) parameters: &'a Parameters,
    /// Where the parameters were, if not in the request itself.
    pub(crate) pushed: Option<&'a Reference>,
    /// Whether the client has signed them.
    pub(crate) is_signed: bool,
}

/// What a request says about whether the user must log in now.
struct Freshness {
    prompt: Prompt,
    max_age: Option<Duration>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Prompt {
    /// Log in if needed.
    Default,
    /// Never show a page.
    None,
    /// Show the page in any case. `select_account` means the same here: typing the name is the choice of account.
    Login,
}

impl Provider {
    /// Handles an authorization request. `session` and `browser` are the values of the session and pre-login
    /// cookies, if the browser sent them.
    ///
    /// # Errors
    /// See [`AuthorizeError`]; whether to show or to redirect is part of it.
    pub fn authorize(
        &self,
        parameters: &Parameters,
        session: Option<&str>,
        browser: Option<&str>,
        caller: &Caller,
    ) -> Result<Authorization, AuthorizeError> {
        let client = self.requesting_client(parameters)?;
        let pushed = self.resolve_request(parameters, &client)?;
        let signed = match &pushed {
            Some(_) => None,
            None => self.read_request_object(parameters, &client)?,
        };
        let asked = match (&pushed, &signed) {
            (Some(pushed), _) => Asked {
                client: &client,
                parameters: &pushed.parameters,
                pushed: Some(&pushed.reference),
                is_signed: pushed.is_signed,
            },
            (None, signed) => Asked {
                client: &client,
                parameters: signed.as_ref().unwrap_or(parameters),
                pushed: None,
                is_signed: signed.is_some(),
            },
        };
        self.authorize_asked(&asked, session, browser, caller)
    }

    fn authorize_asked(
        &self,
        asked: &Asked<'_>,
        session: Option<&str>,
        browser: Option<&str>,
        caller: &Caller,
    ) -> Result<Authorization, AuthorizeError> {
        let Asked {
            client, parameters, ..
        } = asked;
        let redirect_uri =
            requested_redirect(parameters, client).ok_or(AuthorizeError::UnknownRedirect)?;
        let refused = |why: Refusal| AuthorizeError::Refused {
            location: self.error_location(redirect_uri, echoed_state(parameters), &why),
            why,
        };
        let (request, freshness) = self.check_request(asked, redirect_uri).map_err(refused)?;
        let session = match session {
            Some(cookie) => self.session(cookie)?,
            None => None,
        };
        if let Some(session) = &session
            && let Some(least) = &request.least_class
            && freshness.prompt != Prompt::Login
            && request.is_for(&session.user)
            && !self.can_reach(&session.user, least)?
            && !self.can_reach_elsewhere(&session.user, least)?
        {
            return Err(refused(Refusal::UnmetAuthentication));
        }
        let session = session.filter(|session| {
            client.is_assured_at(redirect_uri)
                && request.is_for(&session.user)
                && request.accepts(&session.authentication)
                && freshness.is_satisfied_by(session, self.clock.now())
        });
        match session {
            Some(session) if self.must_consent(&request, client, &session.user)? => {
                if freshness.prompt == Prompt::None {
                    return Err(refused(Refusal::ConsentRequired));
                }
                let location = self.consent_location(&request, &session.id)?;
                Ok(Authorization::Consent { location })
            }
            Some(session) => self.authorize_session(&request, &session, caller),
            None if freshness.prompt == Prompt::None => Err(refused(Refusal::LoginRequired)),
            None => {
                let hint = parameters
                    .get("login_hint")
                    .filter(|hint| hint.len() <= 128);
                let name = client.name_at(Some(redirect_uri));
                let purpose = Purpose::Authorize(Box::new(request));
                let prompt = self.prompt_login(purpose, name, browser, hint)?;
                Ok(Authorization::Login(prompt))
            }
        }
    }

    /// All checks of a request that is being pushed.
    pub(crate) fn check_pushed(&self, asked: &Asked<'_>) -> Result<(), PushError> {
        let redirect_uri =
            requested_redirect(asked.parameters, asked.client).ok_or(PushError::UnknownRedirect)?;
        self.check_request(asked, redirect_uri)?;
        Ok(())
    }

    fn requesting_client(&self, parameters: &Parameters) -> Result<Client, AuthorizeError> {
        if parameters.is_repeated("client_id") {
            return Err(AuthorizeError::UnknownClient);
        }
        let name = parameters
            .get("client_id")
            .and_then(|text| text.parse::<ClientName>().ok());
        let name = name.ok_or(AuthorizeError::UnknownClient)?;
        let stored = self
            .tenant
            .get::<Client>(name.as_str())
            .map_err(Fault::from)?;
        let client = stored
            .map(|stored| stored.record)
            .filter(|client| !client.disabled);
        client.ok_or(AuthorizeError::UnknownClient)
    }

    fn check_request(
        &self,
        asked: &Asked<'_>,
        redirect_uri: &str,
    ) -> Result<(GrantRequest, Freshness), Refusal> {
        let Asked {
            client,
            parameters,
            pushed,
            is_signed,
        } = *asked;
        if let Some(repeated) = parameters.first_repeated() {
            return Err(Refusal::Repeated(repeated.chars().take(64).collect()));
        }
        refuse_unsupported(parameters)?;
        if client.policy.demands_push() && pushed.is_none() {
            return Err(Refusal::PushRequired);
        }
        if client.policy.require_signed_request_object && !is_signed {
            return Err(Refusal::SignatureRequired);
        }
        if !client.may_use(GrantType::AuthorizationCode) {
            return Err(Refusal::UnauthorizedClient);
        }
        if !parameters.ask_for(&self.settings.audience) {
            return Err(Refusal::Resource);
        }
        let freshness = Freshness::of(parameters)?;
        let request = GrantRequest {
            client_id: client.client_id.clone(),
            client_created_at: client.created_at,
            redirect_uri: redirect_uri.to_owned(),
            scopes: granted_scopes(parameters.get("scope"), client)?,
            state: limited(parameters, "state", MAX_STATE_BYTES)?,
            nonce: limited(parameters, "nonce", MAX_NONCE_BYTES)?,
            challenge: code_challenge(parameters, client)?,
            key: bound_key(parameters)?,
            pushed: pushed.cloned(),
            is_signed,
            user: self.hinted_user(parameters, client)?,
            least_class: least_class(parameters.get("acr_values")).map(str::to_owned),
            max_age: freshness.seconds(),
            asks_consent: prompts(parameters).any(|word| word == "consent"),
        };
        Ok((request, freshness))
    }

    /// The login page of a page of our own.
    pub(crate) fn prompt_visit(
        &self,
        visit: Visit,
        browser: Option<&str>,
    ) -> Result<LoginPrompt, Fault> {
        let name = visit.name().to_owned();
        self.prompt_login(Purpose::Visit(visit), name, browser, None)
    }

    /// A login page. A browser keeps its pre-login cookie, so that two tabs can log in.
    fn prompt_login(
        &self,
        purpose: Purpose,
        client_name: String,
        browser: Option<&str>,
        hint: Option<&str>,
    ) -> Result<LoginPrompt, Fault> {
        let browser = self.browser_value(browser);
        let flow = Flow {
            purpose,
            client_name,
            browser: secret::digest(browser.expose()),
            expires_at: self.clock.now() + FLOW_LIFETIME,
            connects: None,
        };
        Ok(LoginPrompt {
            connects: None,
            flow: self.flow_seal.seal(&*self.entropy, &flow)?,
            browser,
            client_name: flow.client_name,
            username_hint: hint.map(str::to_owned),
        })
    }

    /// The pre-login cookie of a browser: the one it has, or a new one.
    pub(crate) fn browser_value(&self, browser: Option<&str>) -> Redacted<String> {
        let known = browser.filter(|value| (43..=MAX_COOKIE_BYTES).contains(&value.len()));
        known.map_or_else(
            || secret::generate(&*self.entropy),
            |value| Redacted::new(value.to_owned()),
        )
    }

    fn authorize_session(
        &self,
        request: &GrantRequest,
        session: &Session,
        caller: &Caller,
    ) -> Result<Authorization, AuthorizeError> {
        let location = until_settled(|| {
            if self.is_used(request)? {
                return Err(AuthorizeError::UnknownRequest);
            }
            let (change, location) = self.stage_code(self.change(), request, session, caller);
            Ok(change.commit()?.then_some(location))
        })?;
        Ok(Authorization::Code { location })
    }

    /// Adds a new code for `session` to `change`; the location takes it to the client.
    pub(crate) fn stage_code<'p>(
        &'p self,
        mut change: Change<'p>,
        request: &GrantRequest,
        session: &Session,
        caller: &Caller,
    ) -> (Change<'p>, Redacted<String>) {
        let code = secret::generate(&*self.entropy);
        let record = AuthorizationCode {
            digest: StoredSecret::new(secret::digest(code.expose())),
            client_id: request.client_id.clone(),
            client_created_at: request.client_created_at,
            redirect_uri: request.redirect_uri.clone(),
            challenge: request.challenge.clone(),
            key: request.key.clone(),
            scopes: request.scopes.clone(),
            nonce: request.nonce.clone(),
            login: session.id.clone(),
            user: session.user.clone(),
            authentication: session.authentication.clone(),
            expires_at: self.clock.now() + AUTHORIZATION_CODE_LIFETIME,
            state: CodeState::Issued,
        };
        if let Some(reference) = &request.pushed {
            change = change.use_up(reference);
        }
        let report = grant_report(request, session.user.as_str(), &session.id);
        let change = change.put(Expected::Absent, &record).report(report, caller);
        (change, self.code_location(request, code.expose()))
    }

    fn code_location(&self, request: &GrantRequest, code: &str) -> Redacted<String> {
        let mut answer = vec![("code", code), ("iss", self.settings.issuer.as_str())];
        answer.extend(request.state.as_deref().map(|state| ("state", state)));
        Redacted::new(with_parameters(&request.redirect_uri, &answer))
    }

    /// Where a user goes after a login that is not what `request` is for.
    pub(crate) fn refused_location(
        &self,
        request: &GrantRequest,
        why: &Refusal,
    ) -> Redacted<String> {
        let state = request.state.as_deref();
        Redacted::new(self.error_location(&request.redirect_uri, state, why))
    }

    /// The user of `id_token_hint`, who the client had an ID token of ours about: the request is for nobody else (OpenID
    /// Connect Core section 3.1.2.1).
    fn hinted_user(
        &self,
        parameters: &Parameters,
        client: &Client,
    ) -> Result<Option<UserId>, Refusal> {
        let Some(token) = parameters.get("id_token_hint") else {
            return Ok(None);
        };
        let hint = self
            .id_token_hint(token)
            .map_err(|_| Refusal::Unavailable)?;
        let theirs = hint.filter(|(_, issued_to)| issued_to.client_id == client.client_id);
        let (hint, _) = theirs.ok_or(Refusal::Malformed("id_token_hint"))?;
        Ok(Some(hint.user))
    }

    pub(crate) fn error_location(
        &self,
        redirect_uri: &str,
        state: Option<&str>,
        why: &Refusal,
    ) -> String {
        let description = why.to_string();
        let mut answer = vec![
            ("error", why.code().as_str()),
            ("error_description", description.as_str()),
            ("iss", self.settings.issuer.as_str()),
        ];
        answer.extend(state.map(|state| ("state", state)));
        with_parameters(redirect_uri, &answer)
    }
}

fn grant_report(request: &GrantRequest, subject: &str, session: &SessionId) -> Report {
    Report::new(EventClass::Authentication, "authorization.grant")
        .subject(subject)
        .client(request.client_id.as_str())
        .session(session)
        .detail("scope", scopes::join(&request.scopes))
        .detail("pushed", request.pushed.is_some())
        .detail("signed", request.is_signed)
}

fn requested_redirect<'a>(parameters: &'a Parameters, client: &Client) -> Option<&'a str> {
    parameters
        .get("redirect_uri")
        .filter(|uri| !parameters.is_repeated("redirect_uri") && client.accepts_redirect_to(uri))
}

/// The `state` that goes back with an error, if there is one good one.
fn echoed_state(parameters: &Parameters) -> Option<&str> {
    let state = parameters.get("state")?;
    (state.len() <= MAX_STATE_BYTES && !parameters.is_repeated("state")).then_some(state)
}

fn refuse_unsupported(parameters: &Parameters) -> Result<(), Refusal> {
    if parameters.get("request_uri").is_some() {
        return Err(Refusal::RequestUri);
    }
    if parameters.get("registration").is_some() {
        return Err(Refusal::Registration);
    }
    if parameters.get("response_type") != Some("code") {
        return Err(Refusal::ResponseType);
    }
    if parameters
        .get("response_mode")
        .is_some_and(|mode| mode != "query")
    {
        return Err(Refusal::ResponseMode);
    }
    Ok(())
}

fn limited(
    parameters: &Parameters,
    name: &'static str,
    limit: usize,
) -> Result<Option<String>, Refusal> {
    match parameters.get(name) {
        Some(value) if value.len() > limit => Err(Refusal::TooLong(name)),
        value => Ok(value.map(str::to_owned)),
    }
}

/// The code challenge, which only a client may leave out that need not send one. One that is there must be good.
fn code_challenge(
    parameters: &Parameters,
    client: &Client,
) -> Result<Option<CodeChallenge>, Refusal> {
    let challenge = parameters.get("code_challenge");
    let method = parameters.get("code_challenge_method");
    if client.may_omit_challenge() && challenge.is_none() && method.is_none() {
        return Ok(None);
    }
    if method != Some("S256") {
        return Err(Refusal::Pkce);
    }
    let challenge = challenge.and_then(CodeChallenge::parse);
    challenge.map(Some).ok_or(Refusal::Pkce)
}

/// The key that the code shall be bound to (RFC 9449 section 10).
fn bound_key(parameters: &Parameters) -> Result<Option<KeyThumbprint>, Refusal> {
    let Some(text) = parameters.get("dpop_jkt") else {
        return Ok(None);
    };
    let key = KeyThumbprint::parse(text).ok_or(Refusal::Malformed("dpop_jkt"))?;
    Ok(Some(key))
}

fn granted_scopes(asked: Option<&str>, client: &Client) -> Result<ScopeSet, Refusal> {
    let asked = scopes::parse(asked.unwrap_or("")).ok_or(Refusal::Malformed("scope"))?;
    let granted = client.permitted(&asked);
    if granted.is_empty() {
        Err(Refusal::Scope)
    } else {
        Ok(granted)
    }
}

/// The class that is asked for: values are in order of preference, and what is not known says nothing
/// (OpenID Connect Core section 3.1.2.1).
fn least_class(acr_values: Option<&str>) -> Option<&str> {
    let mut values = acr_values.unwrap_or("").split(' ');
    let known = [
        ASSURANCE_ONE_FACTOR,
        ASSURANCE_TWO_FACTORS,
        ASSURANCE_PHISHING_RESISTANT,
    ];
    values.find(|value| known.contains(value))
}

/// The words of `prompt`.
fn prompts(parameters: &Parameters) -> impl Iterator<Item = &str> {
    let words = parameters.get("prompt").unwrap_or("").split(' ');
    words.filter(|word| !word.is_empty())
}

impl Freshness {
    fn of(parameters: &Parameters) -> Result<Self, Refusal> {
        let max_age = match parameters.get("max_age").map(str::parse::<u32>) {
            Some(Ok(seconds)) => Some(Duration::from_secs(u64::from(seconds))),
            Some(Err(_)) => return Err(Refusal::Malformed("max_age")),
            None => None,
        };
        Ok(Self {
            prompt: Prompt::of(parameters)?,
            max_age,
        })
    }

    /// How old a login may be.
    fn seconds(&self) -> Option<u64> {
        match self.prompt {
            Prompt::Login => Some(0),
            Prompt::None | Prompt::Default => self.max_age.map(|age| age.as_secs()),
        }
    }

    fn is_satisfied_by(&self, session: &Session, now: Timestamp) -> bool {
        let fresh_enough = self.max_age.is_none_or(|max_age| {
            !max_age.is_zero() && now.since(session.authentication.at) <= max_age
        });
        self.prompt != Prompt::Login && fresh_enough
    }
}

impl Prompt {
    fn of(parameters: &Parameters) -> Result<Self, Refusal> {
        let words: BTreeSet<&str> = prompts(parameters).collect();
        let known = ["none", "login", "consent", "select_account"];
        let none = words.contains("none");
        if words.iter().any(|word| !known.contains(word)) || (none && words.len() > 1) {
            return Err(Refusal::Malformed("prompt"));
        }
        // To be asked for consent is no login.
        Ok(match words.iter().any(|word| *word != "consent") {
            _ if none => Self::None,
            false => Self::Default,
            true => Self::Login,
        })
    }
}
