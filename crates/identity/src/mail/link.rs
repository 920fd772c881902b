//! Links that are good once, for a short time, for one account and the address they were sent to.
//!
//! To open one shows a page and changes nothing, because mail scanners open links; the form on the page does it. A link begins
//! with the provider's own address, whatever a request says about its host.

use serde::{Deserialize, Serialize};
use testudo_model::{Entropy, Redacted, Timestamp, UserId, random_bytes};
use testudo_store::{Expected, Record, Versioned};
use testudo_trust::{constant_time_eq, hex};

use crate::{
    Fault, Provider,
    change::Change,
    discovery::paths,
    flow::Sealed,
    limits::{RESET_LINK_LIFETIME, VERIFICATION_LINK_LIFETIME},
    records::{PasswordCredential, User},
    redirect_uri::with_parameters,
    secret,
};

/// What a link is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LinkPurpose {
    VerifyAddress,
    ResetPassword,
}

impl LinkPurpose {
    const fn as_str(self) -> &'static str {
        match self {
            Self::VerifyAddress => "verify address",
            Self::ResetPassword => "reset password",
        }
    }

    const fn path(self) -> &'static str {
        match self {
            Self::VerifyAddress => paths::VERIFY_ADDRESS,
            Self::ResetPassword => paths::RESET_PASSWORD,
        }
    }
}

/// What tells the links of a user apart. It opens nothing: that takes a sealed code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LinkName(String);

impl LinkName {
    fn generate(entropy: &dyn Entropy) -> Self {
        Self(hex::encode(&random_bytes::<16>(entropy)))
    }
}

/// The one link of a user for a purpose. A further one takes its place.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct MailedLink {
    user: UserId,
    purpose: LinkPurpose,
    name: LinkName,
    /// Where it was sent. It is good while that is the user's address.
    address: String,
    /// Where it lets a password be changed: digest of what is stored of the present one. Another password makes it worthless.
    password: Option<String>,
    expires_at: Timestamp,
}

impl MailedLink {
    pub(crate) fn key_of(purpose: LinkPurpose, user: &UserId) -> String {
        format!("{}:{user}", purpose.as_str())
    }
}

impl Record for MailedLink {
    const COLLECTION: &'static str = "identity.mailed_link";

    fn key(&self) -> String {
        Self::key_of(self.purpose, &self.user)
    }

    fn expires(&self) -> Option<Timestamp> {
        Some(self.expires_at)
    }
}

/// What is in a link.
#[derive(Serialize, Deserialize)]
struct LinkCode {
    purpose: LinkPurpose,
    user: UserId,
    name: LinkName,
}

impl Sealed for LinkCode {
    const CONTEXT: &'static [u8] = b"testudo mailed link v1";
}

/// Why a link leads nowhere.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// It was used, replaced or has ended, what it was for has changed, or there never was one.
    #[error("this link is not good any more; ask for a new one")]
    Invalid,
    /// Our fault.
    #[error("the link could not be followed")]
    Unavailable(#[from] Fault),
}

/// A link that is good now, with what it is about.
pub(crate) struct OpenLink {
    link: Versioned<MailedLink>,
    pub(crate) user: Versioned<User>,
    pub(crate) credential: Versioned<PasswordCredential>,
}

impl OpenLink {
    /// Uses the link up; the change fails if somebody else did, or the user or their password has changed.
    pub(crate) fn use_up<'p>(&self, change: Change<'p>) -> Change<'p> {
        let version = Expected::Version(self.link.version);
        change.delete::<MailedLink>(version, &self.link.record.key())
    }
}

impl Provider {
    /// A new link of `user` to `address`, in place of the one there may be.
    pub(crate) fn new_link<'p>(
        &self,
        change: Change<'p>,
        purpose: LinkPurpose,
        user: &UserId,
        address: &str,
    ) -> Result<(Change<'p>, LinkName), Fault> {
        let lifetime = match purpose {
            LinkPurpose::VerifyAddress => VERIFICATION_LINK_LIFETIME,
            LinkPurpose::ResetPassword => RESET_LINK_LIFETIME,
        };
        let credential = self.tenant.get::<PasswordCredential>(user.as_str())?;
        let link = MailedLink {
            user: user.clone(),
            purpose,
            name: LinkName::generate(&*self.entropy),
            address: address.to_owned(),
            password: credential.and_then(|stored| password_of(purpose, &stored.record)),
            expires_at: self.clock.now() + lifetime,
        };
        Ok((change.put(Expected::Any, &link), link.name))
    }

    /// The link of a letter as it is sent, and when it ends; `None` if it is not good any more.
    pub(super) fn link_to_send(
        &self,
        purpose: LinkPurpose,
        user: &UserId,
        address: &str,
        name: &LinkName,
    ) -> Result<Option<(Redacted<String>, Timestamp)>, Fault> {
        let code = LinkCode {
            purpose,
            user: user.clone(),
            name: name.clone(),
        };
        let open = self.open_code(&code)?;
        let Some(open) = open.filter(|open| open.link.record.address == address) else {
            return Ok(None);
        };
        let code = self.flow_seal.seal(&*self.entropy, &code)?;
        let page = format!("{}{}", self.settings.issuer, purpose.path());
        let link = Redacted::new(with_parameters(&page, &[("code", &code)]));
        Ok(Some((link, open.link.record.expires_at)))
    }

    /// The link with this code, if it is good and for `purpose`.
    pub(super) fn open_link(
        &self,
        purpose: LinkPurpose,
        code: &str,
    ) -> Result<OpenLink, LinkError> {
        let code: LinkCode = self.flow_seal.unseal(code).ok_or(LinkError::Invalid)?;
        if code.purpose != purpose {
            return Err(LinkError::Invalid);
        }
        self.open_code(&code)?.ok_or(LinkError::Invalid)
    }

    fn open_code(&self, code: &LinkCode) -> Result<Option<OpenLink>, Fault> {
        let (id, now) = (code.user.as_str(), self.clock.now());
        let key = MailedLink::key_of(code.purpose, &code.user);
        let link = self.tenant.get::<MailedLink>(&key)?;
        let user = self.tenant.get::<User>(id)?;
        let credential = self.tenant.get::<PasswordCredential>(id)?;
        let (Some(link), Some(user), Some(credential)) = (link, user, credential) else {
            return Ok(None);
        };
        let password = password_of(code.purpose, &credential.record);
        let is_the_one = constant_time_eq(link.record.name.0.as_bytes(), code.name.0.as_bytes());
        let is_good = is_the_one
            && now < link.record.expires_at
            && !user.record.disabled
            && user.record.email.as_ref() == Some(&link.record.address)
            && link.record.password == password;
        Ok(is_good.then_some(OpenLink {
            link,
            user,
            credential,
        }))
    }
}

fn password_of(purpose: LinkPurpose, credential: &PasswordCredential) -> Option<String> {
    let hash = credential.hash.as_ref();
    hash.filter(|_| purpose == LinkPurpose::ResetPassword)
        .map(|hash| secret::digest(hash.expose()))
}
