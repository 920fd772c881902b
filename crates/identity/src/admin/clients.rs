//! OAuth clients.

use serde::{Deserialize, Serialize};
use testudo_model::{ClientName, Scope, SpiffeId, event::EventClass};
use testudo_store::{Cursor, Expected, Page, Versioned};

use super::{AdminError, Created, Named, NewSecret, Secrets, check_count, check_keys, check_text};
use crate::{
    Caller, Provider, RedirectUri,
    change::{Change, Report, until_settled},
    limits::{MAX_REDIRECT_URIS, MAX_SCOPES},
    records::{
        Client, ClientKind, ClientLogout, ClientPolicy, ClientSigning, GrantType, NameClaim,
        SecretCredential, SignatureAlgorithm,
    },
    registration::RegistrationCredential,
};

/// What an administrator says about a client.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientProfile {
    /// Name for people; on the login page.
    pub display_name: String,
    /// Whether it can keep a secret.
    pub kind: ClientKind,
    /// Where answers may go.
    #[serde(default)]
    pub redirect_uris: Vec<RedirectUri>,
    /// Grants it may use.
    pub grants: Vec<GrantType>,
    /// Scopes it may ask for beside those of OpenID Connect.
    #[serde(default)]
    pub scopes: Vec<Scope>,
    /// The workload it runs as, instead of a secret.
    #[serde(default)]
    pub workload: Option<SpiffeId>,
    /// The JWK Set (RFC 7517) with the keys it signs assertions with, instead of a secret.
    #[serde(default)]
    pub jwks: Option<String>,
    /// What it must do beyond what everybody must.
    #[serde(default)]
    pub policy: ClientPolicy,
    /// How what it is told is signed.
    #[serde(default)]
    pub signing: ClientSigning,
    /// How it takes part in logouts.
    #[serde(default)]
    pub logout: ClientLogout,
}

impl ClientProfile {
    /// Checks the profile; `has_secret` says whether the client has or gets one.
    pub(crate) fn check(&self, has_secret: bool) -> Result<(), AdminError> {
        check_text("display name", Some(&self.display_name))?;
        check_count(
            "list of redirect URIs",
            self.redirect_uris.len(),
            MAX_REDIRECT_URIS,
        )?;
        check_count(
            "list of post-logout redirect URIs",
            self.logout.post_logout_redirect_uris.len(),
            MAX_REDIRECT_URIS,
        )?;
        check_count("list of scopes", self.scopes.len(), MAX_SCOPES)?;
        let uses = |grant| self.grants.contains(&grant);
        if uses(GrantType::ClientCredentials) || uses(GrantType::TokenExchange) {
            let why = "has a grant that is for service accounts: declare one";
            return Err(AdminError::invalid("list of grants", why));
        }
        if uses(GrantType::AuthorizationCode) && self.redirect_uris.is_empty() {
            let why = "is empty, but the authorization code grant needs one";
            return Err(AdminError::invalid("list of redirect URIs", why));
        }
        check_keys(self.jwks.as_deref())?;
        if self.policy.require_signed_request_object && self.jwks.is_none() {
            let why = "is missing, but the client must sign its requests";
            return Err(AdminError::invalid("key set", why));
        }
        if self.policy.pkce_optional && self.kind == ClientKind::Public {
            let why = "is public, but pkce_optional is for confidential clients";
            return Err(AdminError::invalid("kind", why));
        }
        if self.policy.fapi2_security_profile {
            self.check_fapi2(has_secret)?;
        }
        let has_proof = has_secret || self.workload.is_some() || self.jwks.is_some();
        match self.kind {
            ClientKind::Public if has_proof => Err(AdminError::invalid(
                "kind",
                "is public, but a public client has neither secret, workload nor keys",
            )),
            ClientKind::Confidential if !has_proof => Err(AdminError::invalid(
                "kind",
                "is confidential, but the client has neither secret, workload nor keys to prove itself with",
            )),
            ClientKind::Public | ClientKind::Confidential => Ok(()),
        }
    }

    /// What the FAPI 2.0 Security Profile asks of a client's registration (section 5.3.3.1).
    fn check_fapi2(&self, has_secret: bool) -> Result<(), AdminError> {
        if self.kind == ClientKind::Public {
            let why = "is public, but fapi2_security_profile is for confidential clients";
            return Err(AdminError::invalid("kind", why));
        }
        if has_secret {
            let why = "is there, but with fapi2_security_profile a client signs or has a workload: delete it";
            return Err(AdminError::invalid("secret", why));
        }
        if self.policy.pkce_optional {
            let why = "has pkce_optional, but fapi2_security_profile asks for a code challenge";
            return Err(AdminError::invalid("policy", why));
        }
        if self.signing.uses(SignatureAlgorithm::Rs256) {
            let why = "has RS256, which fapi2_security_profile does not allow";
            return Err(AdminError::invalid("list of signature algorithms", why));
        }
        let is_https = |uri: &RedirectUri| uri.as_str().starts_with("https://");
        if !self.redirect_uris.iter().all(is_https) {
            let why = "has one that is not https, which fapi2_security_profile asks for";
            return Err(AdminError::invalid("list of redirect URIs", why));
        }
        Ok(())
    }

    /// `client` as this profile says.
    pub(crate) fn apply(self, client: Client) -> Client {
        let Self {
            display_name,
            kind,
            redirect_uris,
            grants,
            scopes,
            workload,
            jwks,
            policy,
            signing,
            logout,
        } = self;
        Client {
            display_name,
            kind,
            redirect_uris,
            grants,
            scopes,
            workload,
            jwks,
            policy,
            signing,
            logout,
            ..client
        }
    }
}

const fn named(name: &str) -> Named<'_> {
    Named {
        kind: "client",
        name,
    }
}

impl Provider {
    /// Creates a client.
    ///
    /// # Errors
    /// The name is taken (clients and service accounts share names), or the profile or secret is not acceptable.
    pub fn create_client(
        &self,
        client_id: &ClientName,
        profile: ClientProfile,
        secret: &NewSecret,
        caller: &Caller,
    ) -> Result<Created<Client>, AdminError> {
        profile.check(!matches!(secret, NewSecret::None))?;
        self.prepare_to_sign(&profile.signing)?;
        let client = profile.apply(self.blank_client(client_id));
        let secrets = Secrets::first(client_id, secret, client.created_at, &*self.entropy)?;
        let change = stage_new_client(self.change(), &client, &secrets)
            .report(client_report("client.create", client_id), caller);
        self.commit_new(change, named(client_id.as_str()))?;
        Ok(Created {
            record: client,
            generated: secrets.generated,
        })
    }

    /// A new enabled client of which nothing is known but the name.
    pub(crate) fn blank_client(&self, client_id: &ClientName) -> Client {
        let now = self.clock.now();
        Client {
            client_id: client_id.clone(),
            display_name: client_id.to_string(),
            kind: ClientKind::Public,
            redirect_uris: Vec::new(),
            grants: Vec::new(),
            scopes: Vec::new(),
            workload: None,
            jwks: None,
            policy: ClientPolicy::default(),
            signing: ClientSigning::default(),
            logout: ClientLogout::default(),
            registered: None,
            disabled: false,
            created_at: now,
            updated_at: now,
        }
    }

    /// A client.
    ///
    /// # Errors
    /// There is none.
    pub fn client(&self, client_id: &ClientName) -> Result<Versioned<Client>, AdminError> {
        self.load(named(client_id.as_str()), client_id.as_str())
    }

    /// A page of clients, in order of creation.
    ///
    /// # Errors
    /// The store fails.
    pub fn clients(&self, after: Option<Cursor>, limit: usize) -> Result<Page<Client>, AdminError> {
        self.page(after, limit)
    }

    /// Replaces what is said about a client.
    ///
    /// # Errors
    /// The version is not the present one, or the profile is not acceptable.
    pub fn update_client(
        &self,
        client_id: &ClientName,
        version: u64,
        profile: ClientProfile,
        caller: &Caller,
    ) -> Result<(), AdminError> {
        let has_secret = self
            .tenant
            .get::<SecretCredential>(client_id.as_str())?
            .is_some();
        profile.check(has_secret)?;
        self.prepare_to_sign(&profile.signing)?;
        let stored =
            self.load_at::<Client>(named(client_id.as_str()), client_id.as_str(), version)?;
        let client = Client {
            updated_at: self.clock.now(),
            ..profile.apply(stored.record)
        };
        let change = self
            .change()
            .put(Expected::Version(version), &client)
            .report(client_report("client.update", client_id), caller);
        self.commit_change(change, named(client_id.as_str()))
    }

    /// Disables a client, or enables it again. A disabled client gets no tokens, so what it has ends within the
    /// life of an access token; its users' sessions go on.
    ///
    /// # Errors
    /// There is none.
    pub fn set_client_disabled(
        &self,
        client_id: &ClientName,
        disabled: bool,
        caller: &Caller,
    ) -> Result<(), AdminError> {
        until_settled(|| {
            let stored = self.client(client_id)?;
            let client = Client {
                disabled,
                updated_at: self.clock.now(),
                ..stored.record
            };
            let activity = if disabled {
                "client.disable"
            } else {
                "client.enable"
            };
            let change = self
                .change()
                .put(Expected::Version(stored.version), &client);
            Ok(change
                .report(client_report(activity, client_id), caller)
                .commit()?
                .then_some(()))
        })
    }

    /// Deletes a client. What it was granted is worthless at once, also for a later client of the same name.
    ///
    /// # Errors
    /// The version is not the present one.
    pub fn delete_client(
        &self,
        client_id: &ClientName,
        version: u64,
        caller: &Caller,
    ) -> Result<(), AdminError> {
        self.load_at::<Client>(named(client_id.as_str()), client_id.as_str(), version)?;
        let change = stage_client_deletion(self.change(), client_id, version, Expected::Any)
            .report(client_report("client.delete", client_id), caller);
        self.commit_change(change, named(client_id.as_str()))
    }
}

fn client_report(activity: &str, client_id: &ClientName) -> Report {
    Report::new(EventClass::EntityManagement, activity).target(client_id.as_str())
}

/// The records of a new client.
pub(crate) fn stage_new_client<'p>(
    change: Change<'p>,
    client: &Client,
    secrets: &Secrets,
) -> Change<'p> {
    let change = change
        .put(Expected::Absent, &NameClaim::of_client(client))
        .put(Expected::Absent, client);
    match &secrets.credential {
        Some(credential) => change.put(Expected::Absent, credential),
        None => change,
    }
}

/// Takes away the records of a client, if it has this version and its registration access token is in the state `right`.
pub(crate) fn stage_client_deletion<'p>(
    change: Change<'p>,
    client_id: &ClientName,
    version: u64,
    right: Expected,
) -> Change<'p> {
    let key = client_id.as_str();
    change
        .delete::<Client>(Expected::Version(version), key)
        .delete::<NameClaim>(Expected::Any, &NameClaim::client_key(client_id))
        .delete::<SecretCredential>(Expected::Any, key)
        .delete::<RegistrationCredential>(right, key)
}
