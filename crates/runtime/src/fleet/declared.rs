//! A fleet as declared: everything checked, every reference resolved, in the types the rest works with.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use testudo_model::{
    Aaguid, ClientName, GroupName, Redacted, RoleName, Scope, Service, ServiceName, SpiffeId,
    TenantName, TrustDomain, Username,
    snapshot::{GatewayRules, PolicyFile, TransferRules},
};

use super::{
    ConsentRule, Directory, IdentityProvider, Network, RegistrationSection, SignalsSection,
};
use crate::LogFormat;

/// A validated fleet file with the files it names.
#[derive(Debug, Clone)]
pub struct Fleet {
    /// The fleet's trust domain.
    pub trust_domain: TrustDomain,
    /// Services, sorted by name.
    pub services: Vec<Service>,
    /// Programs that `testudo up` starts.
    pub runs: BTreeMap<ServiceName, RunCommand>,
    /// The ports of their own that the gateway has for services that take connections and no requests.
    pub public_ports: BTreeMap<ServiceName, SocketAddr>,
    /// Where each service's sidecar listens; every service has an entry.
    pub sidecars: BTreeMap<ServiceName, SidecarListen>,
    /// Tenants beside the fleet itself.
    pub tenants: BTreeMap<TenantName, Tenant>,
    /// Groups and the groups they are in.
    pub groups: BTreeMap<GroupName, Vec<GroupName>>,
    /// Roles.
    pub roles: Vec<RoleName>,
    /// Users to create if they do not exist, by name.
    pub users: Vec<SeedUser>,
    /// Service accounts to create if they do not exist, by name.
    pub service_accounts: Vec<SeedServiceAccount>,
    /// Issuers outside the fleet whose word about workloads counts.
    pub trusted_issuers: Vec<TrustedIssuer>,
    /// OpenID providers elsewhere where people may log in.
    pub identity_providers: Vec<IdentityProvider>,
    /// LDAP directories whose people may log in.
    pub directories: Vec<Directory>,
    /// OAuth clients, by name.
    pub clients: Vec<SeedClient>,
    /// `*.cedar` of the policy folder, in name order.
    pub policies: Vec<PolicyFile>,
    /// `*.test.toml` of the policy folder, in name order.
    pub policy_tests: Vec<PolicyFile>,
    /// What holds for the gateway as a whole.
    pub gateway: GatewayRules,
    /// How slowly bodies may be sent and taken.
    pub transfer: TransferRules,
    /// Lowest TLS version of the public listeners.
    pub tls_min: TlsMinimum,
    /// Where the roles listen.
    pub listen: Listen,
    /// Names and addresses in the public certificates.
    pub public_names: Vec<String>,
    /// Data folder.
    pub data: PathBuf,
    /// Logs and traces.
    pub observability: Observability,
    /// Where the control plane itself may send requests.
    pub outbound: OutboundRules,
    /// What OAuth clients may ask for that register themselves; if nothing, none can.
    pub registration: Option<RegistrationSection>,
    /// Which authenticators passkeys may be on.
    pub passkeys: PasskeyRules,
    /// Which passwords people may choose.
    pub passwords: PasswordRules,
    /// The server that takes mail to users, if there is one.
    pub mail: Option<MailServer>,
}

/// Which passwords people may choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PasswordRules {
    /// The least estimate of zxcvbn, 0 to 4.
    pub min_score: u8,
    /// File with passwords that were stolen elsewhere, on the server's disk.
    pub breached_file: Option<PathBuf>,
}

/// The SMTP server that takes mail to users.
#[derive(Debug, Clone)]
pub struct MailServer {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// What a connection must be.
    pub security: MailSecurity,
    /// Name and password to log in with.
    pub credentials: Option<(String, Redacted<String>)>,
    /// Address that mail comes from.
    pub from: String,
    /// Name of the sender.
    pub from_name: String,
    /// The certificate authorities to trust, PEM; if none, the system's.
    pub ca_pem: Option<String>,
}

/// What a connection to a mail server must be before anything is sent on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MailSecurity {
    /// TLS after the command STARTTLS (RFC 3207). A server that does not offer it gets no mail.
    #[default]
    StartTls,
    /// TLS from the beginning (RFC 8314).
    Tls,
    /// In the clear: to this machine alone.
    None,
}

/// A tenant that is to be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// What people read.
    pub display_name: String,
    /// Nobody logs in there.
    pub disabled: bool,
}

/// Where the control plane may send requests to addresses that clients have registered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OutboundRules {
    /// Networks beside the public ones.
    pub allow_networks: Vec<Network>,
    /// Also without TLS.
    pub allow_http: bool,
    /// The certificate authorities to trust, PEM; if none, the system's. The fleet's own are always trusted.
    pub ca_pem: Option<String>,
}

/// Which authenticators passkeys may be on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PasskeyRules {
    /// What they must say of themselves.
    pub attestation: Attestation,
    /// The models that may come; if none, all that the roots vouch for.
    pub allowed_aaguids: Vec<Aaguid>,
    /// The roots of makers that are trusted, PEM.
    pub roots_pem: Option<String>,
}

/// What an authenticator must say of itself (WebAuthn section 5.4.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Attestation {
    /// Nothing.
    #[default]
    None,
    /// Of which model it is.
    Direct,
}

/// Where the roles listen. Port 0 takes any free port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listen {
    /// The gateway's HTTPS.
    pub gateway: SocketAddr,
    /// The gateway's redirect from HTTP to HTTPS.
    pub redirect: SocketAddr,
    /// Identity provider and admin API.
    pub server: SocketAddr,
    /// Enrolment, snapshots and events of the proxies.
    pub grpc: SocketAddr,
    /// Health, readiness and metrics.
    pub ops: SocketAddr,
}

/// Where a sidecar listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SidecarListen {
    /// For other sidecars and the gateway, with mTLS.
    pub inbound: SocketAddr,
    /// For its own service, in plain HTTP on loopback.
    pub outbound: SocketAddr,
    /// For connections of its own service to others that take no requests, on loopback.
    pub connections: BTreeMap<ServiceName, SocketAddr>,
}

/// A program that `testudo up` starts and stops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunCommand {
    /// The program.
    pub program: String,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Working folder; the folder `testudo` was started in if absent.
    pub directory: Option<PathBuf>,
    /// Variables added to its environment.
    pub environment: BTreeMap<String, String>,
}

/// Lowest TLS version of the public listeners. Inside the fleet it is always 1.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum TlsMinimum {
    /// TLS 1.2 for old clients.
    #[serde(rename = "1.2")]
    Tls12,
    /// TLS 1.3 only.
    #[default]
    #[serde(rename = "1.3")]
    Tls13,
}

/// A credential of a user, service account or client as the fleet file gives it.
#[derive(Debug, Clone)]
pub enum SeedCredential {
    /// None given: generated when the account is made, and shown once.
    Generated,
    /// The secret itself, read from a file or the environment.
    Secret(Redacted<String>),
    /// Its argon2id hash in PHC form.
    Hash(Redacted<String>),
}

/// A user to create.
#[derive(Debug, Clone)]
pub struct SeedUser {
    /// Login name.
    pub username: Username,
    /// Display name.
    pub name: Option<String>,
    /// Mail address.
    pub email: Option<String>,
    /// Whether that address is known to be theirs.
    pub email_verified: Option<bool>,
    /// Groups.
    pub groups: Vec<GroupName>,
    /// Roles.
    pub roles: Vec<RoleName>,
    /// Clearance, 0 to 100.
    pub clearance: i64,
    /// May do nothing.
    pub disabled: bool,
    /// Password.
    pub password: SeedCredential,
}

/// A service account to create.
#[derive(Debug, Clone)]
pub struct SeedServiceAccount {
    /// Its name; also its OAuth client id.
    pub name: ClientName,
    /// Groups.
    pub groups: Vec<GroupName>,
    /// Roles.
    pub roles: Vec<RoleName>,
    /// Clearance, 0 to 100.
    pub clearance: i64,
    /// May do nothing.
    pub disabled: bool,
    /// Scopes it may ask for.
    pub scopes: Vec<Scope>,
    /// How it proves itself; nothing if others vouch for it.
    pub authentication: Option<SeedAuthentication>,
    /// The workloads outside the fleet that may act as it.
    pub external: Vec<ExternalWorkload>,
    /// How it receives signals, if it does.
    pub signals: Option<SignalsSection>,
}

/// Workloads outside the fleet as an issuer describes them.
#[derive(Debug, Clone)]
pub struct ExternalWorkload {
    /// Name of the issuer.
    pub issuer: String,
    /// Its `sub`.
    pub subject: Option<String>,
    /// Further claims.
    pub claims: BTreeMap<String, String>,
}

/// An issuer outside the fleet.
#[derive(Debug, Clone)]
pub struct TrustedIssuer {
    /// The fleet's name for it.
    pub name: String,
    /// How its tokens name it.
    pub identity: TrustedIdentity,
    /// `aud` of its tokens, if it is not the fleet's issuer.
    pub audience: Option<String>,
    /// Where its keys are.
    pub keys: TrustedKeys,
}

/// How tokens name their issuer.
#[derive(Debug, Clone)]
pub enum TrustedIdentity {
    /// By `iss`.
    Issuer(String),
    /// By the trust domain of the SPIFFE id in `sub`.
    TrustDomain(TrustDomain),
}

/// Where an issuer's keys are.
#[derive(Debug, Clone)]
pub enum TrustedKeys {
    /// A JWK Set.
    Given(String),
    /// Where there is one.
    JwksUri(String),
    /// Where the metadata is that names it.
    Discovery(String),
}

/// How a confidential client or service account proves itself at the token endpoint.
#[derive(Debug, Clone)]
pub enum SeedAuthentication {
    /// With a client secret.
    Secret(SeedCredential),
    /// Secretless: with the X.509-SVID of this workload (RFC 8705).
    Workload(SpiffeId),
    /// Secretless: with assertions that a key of this JWK Set signed (RFC 7523).
    Keys(String),
}

/// An OAuth client to create or change.
#[derive(Debug, Clone)]
pub struct SeedClient {
    /// Client id.
    pub name: ClientName,
    /// Redirect URIs, compared byte by byte.
    pub redirect_uris: Vec<String>,
    /// Grant types it may use.
    pub grant_types: Vec<GrantType>,
    /// Scopes it may ask for.
    pub scopes: Vec<Scope>,
    /// How it proves itself; `None` for a public client.
    pub authentication: Option<SeedAuthentication>,
    /// It must push its authorization requests (RFC 9126).
    pub require_pushed_authorization_requests: bool,
    /// It must sign its authorization requests (RFC 9101).
    pub require_signed_request_object: bool,
    /// Its tokens are bound to a key it has (RFC 9449).
    pub dpop_bound_access_tokens: bool,
    /// It need not use PKCE.
    pub pkce_optional: bool,
    /// How its ID tokens are signed.
    pub id_token_signed_response_alg: SignatureAlgorithm,
    /// How its userinfo answers are signed, if they are.
    pub userinfo_signed_response_alg: Option<SignatureAlgorithm>,
    /// It does what the FAPI 2.0 Security Profile asks for.
    pub fapi2_security_profile: bool,
    /// Whether its users are asked.
    pub consent: ConsentRule,
    /// Where the browser may return to after a logout, compared byte by byte.
    pub post_logout_redirect_uris: Vec<String>,
    /// Where it is told that a session has ended.
    pub backchannel_logout_uri: Option<String>,
    /// It must be told which session.
    pub backchannel_logout_session_required: bool,
}

/// Algorithms that tokens for OAuth clients are signed with (RFC 7518 section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum SignatureAlgorithm {
    /// ECDSA on P-256 with SHA-256.
    #[default]
    #[serde(rename = "ES256")]
    Es256,
    /// RSA with PKCS#1 v1.5 and SHA-256.
    #[serde(rename = "RS256")]
    Rs256,
}

/// OAuth grant types.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum GrantType {
    /// Authorization code with PKCE (RFC 6749 section 4.1, RFC 7636).
    AuthorizationCode,
    /// Refresh token (RFC 6749 section 6).
    RefreshToken,
    /// Client credentials (RFC 6749 section 4.4).
    ClientCredentials,
    /// Device code, for devices without a browser (RFC 8628).
    DeviceCode,
}

impl GrantType {
    /// The value of `grant_type`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AuthorizationCode => "authorization_code",
            Self::RefreshToken => "refresh_token",
            Self::ClientCredentials => "client_credentials",
            Self::DeviceCode => "device_code",
        }
    }
}

/// Logs and traces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observability {
    /// Form of log lines.
    pub log_format: LogFormat,
    /// Log filter, e.g. `info` or `info,testudo_dataplane=debug`.
    pub log_filter: String,
    /// OpenTelemetry collector (OTLP over HTTP); no traces are exported if absent.
    pub otlp_endpoint: Option<String>,
}
