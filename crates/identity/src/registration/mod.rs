//! Clients that register themselves (RFC 7591, OpenID Connect Dynamic Client Registration 1.0) and manage what they
//! registered (RFC 7592).
//!
//! Off, unless there is a [`RegistrationPolicy`]: it says what such a client may ask for. Whoever registers one has a token
//! for it that an administrator made ([`RegistrationToken`]); nobody registers without. What a client says about itself
//! is believed by nobody: a name is shown together with where the browser goes, a login is asked of people each time, and
//! no address of it is ever fetched.

mod access;
mod metadata;
mod policy;
mod token;

use serde_json::Value;
use testudo_model::{ClientName, Redacted, event::EventClass, random_bytes};
use testudo_store::{Expected, Versioned};
use testudo_trust::hex;

pub(crate) use self::access::RegistrationCredential;
use self::metadata::{Accepted, Told};
pub use self::{
    policy::{AuthMethod, RedirectKind, RegistrationPolicy},
    token::{NewRegistrationToken, RegistrationToken},
};
use crate::{
    Caller, ErrorCode, Fault, OauthError, Provider,
    admin::{AdminError, NewSecret, Secrets, stage_client_deletion, stage_new_client},
    change::{Change, Report, until_settled},
    records::{Client, Registered, SecretCredential},
};

/// Begins every `client_id` that is made here, so that people see what they look at.
const CLIENT_ID_PREFIX: &str = "dcr-";
/// What a client must not say about itself (RFC 7592 section 2.2).
const OURS_TO_SAY: [&str; 4] = [
    "registration_access_token",
    "registration_client_uri",
    "client_secret_expires_at",
    "client_id_issued_at",
];

/// Why nothing was registered, shown or changed.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    /// There is no policy: answer as if there were no such endpoint.
    #[error("clients cannot register themselves here")]
    Off,
    /// The token is missing, unknown, used up or expired, or not that of the client.
    #[error("the token is invalid, expired or used up, or not of this client")]
    Token,
    /// A redirect URI that is none, or that the policy has not.
    #[error("redirect_uris: {0}")]
    RedirectUri(String),
    /// Something else that cannot be, or that the policy has not.
    #[error("{name}: {why}")]
    Metadata {
        /// The name of the metadata.
        name: String,
        /// What is wrong, and what is right.
        why: String,
    },
    /// Our fault.
    #[error("the registration could not be handled")]
    Unavailable(#[from] Fault),
}

impl RegistrationError {
    fn metadata(name: &str, why: impl Into<String>) -> Self {
        Self::Metadata {
            name: name.chars().take(64).collect(),
            why: why.into(),
        }
    }

    /// The answer on the wire (RFC 7591 section 3.2.2, RFC 6750 section 3.1).
    pub fn to_oauth(&self) -> OauthError {
        match self {
            Self::Off => OauthError::new(ErrorCode::InvalidRequest, 404, self),
            Self::Token => OauthError {
                challenge: Some(r#"Bearer error="invalid_token""#.to_owned()),
                ..OauthError::new(ErrorCode::InvalidToken, 401, self)
            },
            Self::RedirectUri(_) => OauthError::new(ErrorCode::InvalidRedirectUri, 400, self),
            Self::Metadata { .. } => OauthError::new(ErrorCode::InvalidClientMetadata, 400, self),
            Self::Unavailable(fault) => OauthError::of_fault(fault, self),
        }
    }
}

impl From<AdminError> for RegistrationError {
    fn from(error: AdminError) -> Self {
        match error {
            AdminError::Unavailable(fault) => Self::Unavailable(fault),
            AdminError::Invalid {
                field: "list of redirect URIs",
                why,
            } => Self::RedirectUri(format!("the list {why}")),
            other => Self::metadata("client", other.to_string()),
        }
    }
}

impl Provider {
    /// Registers the client that `body` describes (JSON, RFC 7591 section 3.1), with an initial access token. The answer
    /// (section 3.2.1) has its secret, if it gets one, and its registration access token: neither can be asked for again.
    ///
    /// # Errors
    /// See [`RegistrationError`]; [`RegistrationError::to_oauth`] is the answer.
    pub fn register_client(
        &self,
        token: &str,
        body: &[u8],
        caller: &Caller,
    ) -> Result<Redacted<Value>, RegistrationError> {
        let registered = self.try_register(token, body, caller);
        self.tell_refusal(registered, None, caller)
    }

    /// What a client registered (RFC 7592 section 2.1). The secret is not known any more.
    ///
    /// # Errors
    /// See [`RegistrationError`].
    pub fn registered_client(
        &self,
        client_id: &str,
        token: &str,
        caller: &Caller,
    ) -> Result<Redacted<Value>, RegistrationError> {
        let shown = self.managed(client_id, token).and_then(|managed| {
            if let Some(settled) = managed.credential.record.settled(token) {
                let expected = Expected::Version(managed.credential.version);
                // Who loses this race finds the same done.
                self.change().put(expected, &settled).commit()?;
            }
            let access_token = Redacted::new(token.to_owned());
            Ok(self.document(&managed.client.record, None, &access_token))
        });
        self.tell_refusal(shown, Some(client_id), caller)
    }

    /// Replaces what a client registered (RFC 7592 section 2.2). The answer has the next registration access token; the one
    /// it came with is good until that is used.
    ///
    /// # Errors
    /// See [`RegistrationError`].
    pub fn reregister_client(
        &self,
        client_id: &str,
        token: &str,
        body: &[u8],
        caller: &Caller,
    ) -> Result<Redacted<Value>, RegistrationError> {
        let replaced = self.try_reregister(client_id, token, body, caller);
        self.tell_refusal(replaced, Some(client_id), caller)
    }

    /// Deletes a client that registered itself (RFC 7592 section 2.3).
    ///
    /// # Errors
    /// See [`RegistrationError`].
    pub fn deregister_client(
        &self,
        client_id: &str,
        token: &str,
        caller: &Caller,
    ) -> Result<(), RegistrationError> {
        let deleted = until_settled(|| {
            let Managed { client, credential } = self.managed(client_id, token)?;
            let name = &client.record.client_id;
            // A token that was renewed meanwhile deletes nothing any more.
            let right = Expected::Version(credential.version);
            let change = stage_client_deletion(self.change(), name, client.version, right)
                .report(report("client.delete", name), caller);
            Ok(change.commit()?.then_some(()))
        });
        self.tell_refusal(deleted, Some(client_id), caller)
    }

    /// What clients that register themselves may ask for; nothing if they may not.
    ///
    /// # Errors
    /// The store fails.
    pub fn registration_policy(&self) -> Result<Option<RegistrationPolicy>, Fault> {
        let stored = self
            .tenant
            .get::<RegistrationPolicy>(RegistrationPolicy::KEY)?;
        Ok(stored.map(|stored| stored.record))
    }

    fn try_register(
        &self,
        token: &str,
        body: &[u8],
        caller: &Caller,
    ) -> Result<Redacted<Value>, RegistrationError> {
        let policy = self.registration_policy()?.ok_or(RegistrationError::Off)?;
        // Nobody learns what the policy has who may not register.
        self.usable_registration_token(token)?;
        let told = Told::parse(body)?;
        let accepted = Accepted::of(&told, &policy)?;
        self.prepare_to_sign(&accepted.profile.signing)?;
        let client_id = self.new_client_id()?;
        until_settled(|| {
            let allowance = self.usable_registration_token(token)?;
            let now = self.clock.now();
            let registered = Registered {
                auth_method: accepted.auth_method,
                application_type: accepted.application_type,
                about: accepted.about.clone(),
                token: allowance.record.id.clone(),
                expires_at: policy.client_lifetime().map(|lifetime| now + lifetime),
            };
            let blank = Client {
                registered: Some(Box::new(registered)),
                ..self.blank_client(&client_id)
            };
            let client = accepted.profile.clone().apply(blank);
            let secrets = self.first_secret(&client, &accepted)?;
            let (credential, access_token) = RegistrationCredential::first(&client, &*self.entropy);
            let change = stage_new_client(self.change(), &client, &secrets)
                .put(Expected::Absent, &credential);
            let change = token::spend(change, &allowance);
            let said = report("client.register", &client_id)
                .detail("token", allowance.record.id.as_str())
                .detail("name", client.display_name.as_str())
                .detail("redirect_uris", redirects_of(&client));
            let done = change.report(said, caller).commit()?;
            let secret = secrets.generated.as_ref();
            Ok(done.then(|| self.document(&client, secret, &access_token)))
        })
    }

    fn try_reregister(
        &self,
        client_id: &str,
        token: &str,
        body: &[u8],
        caller: &Caller,
    ) -> Result<Redacted<Value>, RegistrationError> {
        let policy = self.registration_policy()?.ok_or(RegistrationError::Off)?;
        let known = self.managed(client_id, token)?;
        let told = Told::parse(body)?;
        self.check_own(&told, &known.client.record)?;
        let accepted = Accepted::of(&told, &policy)?;
        self.prepare_to_sign(&accepted.profile.signing)?;
        until_settled(|| {
            let Managed { client, credential } = self.managed(client_id, token)?;
            let (stored, expected) = (client.record, Expected::Version(client.version));
            let registered = stored.registered.clone().map(|registered| {
                Box::new(Registered {
                    auth_method: accepted.auth_method,
                    application_type: accepted.application_type,
                    about: accepted.about.clone(),
                    ..*registered
                })
            });
            let client = Client {
                registered,
                updated_at: self.clock.now(),
                ..accepted.profile.clone().apply(stored)
            };
            let (change, secrets) = self.stage_secret(self.change(), &client, &accepted)?;
            let (next, access_token) = credential.record.renewed(token, &*self.entropy);
            let said = report("client.update", &client.client_id)
                .detail("redirect_uris", redirects_of(&client));
            let done = change
                .put(expected, &client)
                .put(Expected::Version(credential.version), &next)
                .report(said, caller)
                .commit()?;
            let secret = secrets.generated.as_ref();
            Ok(done.then(|| self.document(&client, secret, &access_token)))
        })
    }

    /// The client of an id with the right to manage it. Who has not the right learns nothing, not even whether it exists.
    fn managed(&self, client_id: &str, token: &str) -> Result<Managed, RegistrationError> {
        if self.registration_policy()?.is_none() {
            return Err(RegistrationError::Off);
        }
        let name: ClientName = client_id.parse().map_err(|_| RegistrationError::Token)?;
        let credential = self.tenant.get::<RegistrationCredential>(name.as_str());
        let credential = credential
            .map_err(Fault::from)?
            .filter(|credential| credential.record.opens(token));
        let client = self.tenant.get::<Client>(name.as_str());
        let client = client
            .map_err(Fault::from)?
            .filter(|client| client.record.registered.is_some() && !client.record.disabled);
        let found = client.zip(credential);
        let (client, credential) = found.ok_or(RegistrationError::Token)?;
        Ok(Managed { client, credential })
    }

    /// What a client repeats of itself is as we know it (RFC 7592 section 2.2).
    fn check_own(&self, told: &Told, client: &Client) -> Result<(), RegistrationError> {
        if let Some(name) = OURS_TO_SAY.into_iter().find(|name| told.has(name)) {
            return Err(RegistrationError::metadata(
                name,
                "is for the server to say",
            ));
        }
        if told.text("client_id")? != Some(client.client_id.as_str()) {
            let why = "must be there, and be that of the client";
            return Err(RegistrationError::metadata("client_id", why));
        }
        if let Some(given) = told.text("client_secret")? {
            let given = Redacted::new(given.to_owned());
            if !self.has_secret(&client.client_id, &given)? {
                let why = "is not that of the client; leave it away, or send the present one";
                return Err(RegistrationError::metadata("client_secret", why));
            }
        }
        Ok(())
    }

    /// The secret of a new client, if it is to have one.
    fn first_secret(
        &self,
        client: &Client,
        accepted: &Accepted,
    ) -> Result<Secrets, RegistrationError> {
        let new = match accepted.auth_method.has_secret() {
            true => NewSecret::Generate,
            false => NewSecret::None,
        };
        let (name, now) = (&client.client_id, self.clock.now());
        let mut secrets = Secrets::first(name, &new, now, &*self.entropy)?;
        if let Some(credential) = &mut secrets.credential {
            credential.expires_at = client.expires_at();
        }
        Ok(secrets)
    }

    /// A secret for a client that has none and is to have one from now on; none for one that is to have none.
    fn stage_secret<'p>(
        &self,
        change: Change<'p>,
        client: &Client,
        accepted: &Accepted,
    ) -> Result<(Change<'p>, Secrets), RegistrationError> {
        let name = client.client_id.as_str();
        let stored = self.tenant.get::<SecretCredential>(name);
        let stored = stored.map_err(Fault::from)?;
        let unchanged = Secrets {
            credential: None,
            generated: None,
        };
        Ok(match (stored, accepted.auth_method.has_secret()) {
            (Some(stored), false) => {
                let expected = Expected::Version(stored.version);
                (change.delete::<SecretCredential>(expected, name), unchanged)
            }
            (None, true) => {
                let secrets = self.first_secret(client, accepted)?;
                let change = match &secrets.credential {
                    Some(credential) => change.put(Expected::Absent, credential),
                    None => change,
                };
                (change, secrets)
            }
            (Some(_), true) | (None, false) => (change, unchanged),
        })
    }

    fn new_client_id(&self) -> Result<ClientName, Fault> {
        let random = hex::encode(&random_bytes::<16>(&*self.entropy));
        let name = format!("{CLIENT_ID_PREFIX}{random}");
        name.parse().map_err(|_| Fault::Key { what: "client id" })
    }

    /// The answer to a client about itself (RFC 7591 section 3.2.1, RFC 7592 section 3).
    fn document(
        &self,
        client: &Client,
        secret: Option<&Redacted<String>>,
        access_token: &Redacted<String>,
    ) -> Redacted<Value> {
        let mut told = metadata::of_client(client);
        let mut say = |name: &str, value: Value| told.insert(name.to_owned(), value);
        say("client_id", client.client_id.as_str().into());
        say(
            "client_id_issued_at",
            client.created_at.unix_seconds().into(),
        );
        if let Some(secret) = secret {
            let expires = client.expires_at().map_or(0, |at| at.unix_seconds());
            say("client_secret", secret.expose().as_str().into());
            say("client_secret_expires_at", expires.into());
        }
        let address = format!(
            "{}{}/{}",
            self.settings.issuer,
            crate::paths::REGISTER,
            client.client_id
        );
        say("registration_client_uri", address.into());
        say(
            "registration_access_token",
            access_token.expose().as_str().into(),
        );
        Redacted::new(Value::Object(told))
    }

    /// Records a refusal that tells something, within the bounds for refusals.
    fn tell_refusal<T>(
        &self,
        answered: Result<T, RegistrationError>,
        client_id: Option<&str>,
        caller: &Caller,
    ) -> Result<T, RegistrationError> {
        if let Err(error) = &answered
            && !matches!(
                error,
                RegistrationError::Off | RegistrationError::Unavailable(_)
            )
        {
            let report = Report::new(EventClass::EntityManagement, "client.register")
                .denied(&error.to_string())
                .detail("client_id", client_id.unwrap_or(""));
            self.report_refusal(report, caller)?;
        }
        answered
    }
}

/// A client, with the right to manage it.
struct Managed {
    client: Versioned<Client>,
    credential: Versioned<RegistrationCredential>,
}

fn report(activity: &str, client_id: &ClientName) -> Report {
    Report::new(EventClass::EntityManagement, activity)
        .target(client_id.as_str())
        .detail("source", "registration")
}

fn redirects_of(client: &Client) -> String {
    let uris = client.redirect_uris.iter().map(|uri| uri.as_str());
    uris.collect::<Vec<_>>().join(" ")
}
