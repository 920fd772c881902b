//! The OpenID provider's logic: who people and machines are, how they prove it, and the tokens they get.
//!
//! Synchronous and without HTTP: requests are [`Parameters`] and plain structs, answers are values, and every
//! endpoint has one error enum that maps to one OAuth code and one status. `controlplane` puts it on the wire.
//!
//! What is stored, and what is not:
//!
//! * an authorization request in progress is not: it travels sealed, in the login form (see [`LoginPrompt`]) or in the
//!   reference to a pushed one (see [`PushedRequest`]);
//! * access tokens are not: they are signed, short, and taken back through the revocation log;
//! * the challenge of a passkey is not: it follows from the form it is shown with (see [`PasskeyRequest`]);
//! * a login is one [`Session`]; what it gave to one client is one [`Grant`], whose id is the `sid` of its
//!   tokens and whose counter is the whole state of its refresh tokens.
//!
//! Every change and the events that report it are committed in one transaction: the caller's [`Journal`] adds
//! the event to the transaction, so there is no change without evidence and no evidence of what did not happen.

mod access_token;
mod account;
mod admin;
mod authorize;
mod caller;
mod change;
mod claims;
mod consent;
mod device;
mod directory;
mod discovery;
mod dpop;
mod fault;
mod federation;
mod flow;
pub mod import;
mod introspection;
mod journal;
mod keys;
mod login;
mod logout;
mod mail;
mod notice;
mod notification_uri;
mod parameters;
mod passkey;
mod password;
mod pkce;
mod protocol;
mod provider;
mod pushed;
mod records;
mod redirect_uri;
mod registration;
mod request_object;
mod revocation;
mod scim;
mod scopes;
mod second_factor;
mod secret;
mod seed;
mod session;
mod signal;
mod throttle;
mod token;
mod trusted_issuer;
mod userinfo;
mod verified;

pub mod limits;
pub mod webauthn;

pub use access_token::{AccessTokenError, PresentedToken, RequestProof};
pub use account::{AccountAction, AccountError, AccountPage, AccountView};
pub use admin::{
    AdminError, ClientProfile, Created, GroupProfile, MadeApiKey, MemberKind, MemberView,
    NewApiKey, NewPassword, NewSecret, RoleProfile, ServiceAccountProfile, UserProfile,
};
pub use authorize::{Authorization, AuthorizeError, LoginPrompt, Refusal};
pub use caller::{Caller, Peer};
pub use claims::{
    ASSURANCE_ONE_FACTOR, ASSURANCE_PHISHING_RESISTANT, ASSURANCE_TWO_FACTORS, IdTokenClaims,
    Memberships, UserInfo,
};
pub use consent::{ConsentDecision, ConsentError, ConsentQuestion, ConsentView};
pub use device::{
    DeviceAuthorization, DeviceAuthorizationError, DeviceDecision, DevicePage, DevicePageError,
    DeviceQuestion,
};
pub use directory::{Reserved, SNAPSHOT_COLLECTIONS, Standing};
pub use discovery::paths;
pub use dpop::{DpopError, ProofTarget};
pub use fault::Fault;
pub use federation::{
    AssuranceRule, Connecting, DirectoryEntry, DirectoryLogin, DirectoryUser, GroupClaim, GroupMap,
    IdentityProvider, InvalidMetadata, LinkId, LinkView, LoginStep, NewUsers, TokenCall,
    UpstreamAnswer, UpstreamAuthentication, UpstreamCaller, UpstreamClaims, UpstreamError,
    UpstreamLogin, UpstreamMetadata, UserDirectory,
};
pub use introspection::{ActiveToken, IntrospectError, Introspection};
pub use journal::{FleetOutbox, Journal, Outbox, OutboxEntry};
pub use keys::KeyRotation;
pub use login::{LoggedIn, LoginError, LoginForm, LoginRequest};
pub use logout::{Logout, LogoutError, LogoutQuestion};
pub use mail::{
    DueMail, Letter, LinkError, Mail, MailContent, PasswordResetPage, ResetError,
    ResetRequestError, VerificationPage,
};
pub use notice::{Delivery, DueNotice, Message, Notice, NoticeContent, Receiver};
pub use notification_uri::{InvalidNotificationUri, NotificationUri};
pub use parameters::{ParameterError, Parameters};
pub use passkey::{
    InvalidPasskeyId, InvitationAnswer, InvitationError, InvitationPage, NewInvitation,
    PasskeyCreation, PasskeyId, PasskeyLoginRequest, PasskeyRequest, PasskeyView,
};
pub use password::{BreachedListError, BreachedPasswords, PasswordRules};
pub use protocol::{ErrorCode, OauthError};
pub use provider::{Provider, Settings};
pub use pushed::{PushError, PushedRequest};
pub use records::{
    About, ApiKey, ApplicationType, Authentication, Client, ClientKind, ClientLogout, ClientPolicy,
    ClientSigning, ConsentRule, ExternalWorkload, Grant, GrantType, Group, MailAddress, PersonName,
    Provisioned, Registered, Role, ServiceAccount, Session, SignatureAlgorithm, User,
};
pub use redirect_uri::{InvalidRedirectUri, RedirectUri};
pub use registration::{
    AuthMethod, NewRegistrationToken, RedirectKind, RegistrationError, RegistrationPolicy,
    RegistrationToken,
};
pub use request_object::RequestObjectError;
pub use revocation::{RevocationEntry, RevokeError, TokenNames};
pub use scim::{Provisioner, SCIM_PATH, ScimAnswer, ScimMethod, ScimRequest, scim_fuzz};
pub use second_factor::{SecondFactorRequest, SecondFactorView, TotpSetup};
pub use seed::{
    GeneratedCredential, Seed, SeedClient, SeedError, SeedReport, SeedServiceAccount, SeedUser,
};
pub use session::{EndReason, SessionView};
pub use signal::{
    Cause, CredentialChange, CredentialType, Initiator, LastDelivery, Poll, PolledSets,
    PushAuthorization, ReceiverRight, Signal, SignalAudience, SignalDelivery, SignalError,
    SignalEvent, SignalReceiver, SignalStream, StatusSetter, StreamStatus, StreamView, signal_fuzz,
};
pub use token::{
    ClientAuthenticationError, ExchangeError, ExchangePolicy, ExchangeQuestion, TokenError,
    TokenRequest, TokenResponse, TokenType,
};
pub use trusted_issuer::{IssuerIdentity, KeySource, KnownIssuer, TrustedIssuer, WantedKeys};
pub use userinfo::{UserInfoAnswer, UserInfoError};
