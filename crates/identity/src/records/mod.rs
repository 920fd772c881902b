//! What the provider keeps. Secrets are in records of their own, so that what is listed and shown has none.

mod api_key;
mod client;
mod code;
mod credential;
mod grant;
mod group;
mod name_claim;
mod registered;
mod service_account;
mod session;
mod user;

pub use api_key::ApiKey;
pub use client::{
    Client, ClientKind, ClientLogout, ClientPolicy, ClientSigning, ConsentRule, GrantType,
    SignatureAlgorithm,
};
pub(crate) use code::{AuthorizationCode, CodeState};
pub(crate) use credential::{ClientSecret, PasswordCredential, SecretCredential, SecretVerifier};
pub use grant::Grant;
pub(crate) use grant::RefreshState;
pub(crate) use group::Nesting;
pub use group::{Group, Role};
pub(crate) use name_claim::{Holder, NameClaim};
pub use registered::{About, ApplicationType, Registered};
pub use service_account::{ExternalWorkload, ServiceAccount};
pub use session::{Authentication, Session};
pub use user::{MailAddress, PersonName, Provisioned, User};
