//! The fleet file as people write it. Field comments are the schema's descriptions: they are the reference.

use std::{collections::BTreeMap, net::SocketAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use testudo_model::{
    Aaguid, ActionClass, ClientName, Exposure, GroupName, LimitKey, OperationId, Priority,
    RoleName, Scope, ServiceName, ServiceProtocol, TenantName, TenantPattern, TrustDomain,
    UserRequirement, Username, own_tenant, snapshot::ProxyProtocol,
};

use super::{
    Attestation, GrantType, MailSecurity, SignatureAlgorithm, TlsMinimum,
    directories::DirectorySection,
    host::HostName,
    identity_providers::IdentityProviderSection,
    network::{ListenAddress, Network},
    route_match::RouteMatch,
    secret::SecretReference,
    signals::SignalsSection,
    units::{Period, Rate, Size},
};
use crate::LogFormat;

/// A fleet: its services, who may use them, and how they are guarded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FleetFile {
    /// The trust domain: every identity of the fleet is `spiffe://<trust_domain>/…`. It cannot change later.
    pub trust_domain: TrustDomain,
    /// Names and addresses under which people reach the gateway and the server; they go into the certificates.
    #[serde(default = "localhost")]
    pub public_names: Vec<HostName>,
    /// Where the roles listen.
    #[serde(default)]
    pub listen: ListenSection,
    /// What holds for the gateway as a whole.
    #[serde(default)]
    pub gateway: GatewaySection,
    /// How slowly bodies may be sent and taken.
    #[serde(default)]
    pub transfer: TransferSection,
    /// The services, by name. A service is called under its name inside the fleet.
    #[serde(default)]
    pub services: BTreeMap<ServiceName, ServiceSection>,
    /// Tenants beside the fleet itself, by name: users, groups, roles and clients of their own, which administrators make,
    /// and an issuer of their own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tenants: BTreeMap<TenantName, TenantSection>,
    /// Roles that users and service accounts may have.
    #[serde(default)]
    pub roles: Vec<RoleName>,
    /// Groups of users: for each the groups it is in itself.
    #[serde(default)]
    pub groups: BTreeMap<GroupName, Vec<GroupName>>,
    /// Users to create if they do not exist, by login name.
    #[serde(default)]
    pub users: BTreeMap<Username, UserSection>,
    /// Service accounts to create if they do not exist, by name.
    #[serde(default)]
    pub service_accounts: BTreeMap<ClientName, ServiceAccountSection>,
    /// Issuers outside the fleet whose word about workloads counts, by a name for them.
    #[serde(default)]
    pub trusted_issuers: BTreeMap<String, TrustedIssuerSection>,
    /// OpenID providers elsewhere where people may log in, by a name for them.
    #[serde(default)]
    pub identity_providers: BTreeMap<String, IdentityProviderSection>,
    /// LDAP directories whose people may log in, by a name for them. It must not change: it is a part of who they are.
    #[serde(default)]
    pub directories: BTreeMap<String, DirectorySection>,
    /// OAuth clients, by client id. `testudo login` has a built-in one.
    #[serde(default)]
    pub clients: BTreeMap<ClientName, ClientSection>,
    /// What OAuth clients may ask for that register themselves (RFC 7591). Without this section none can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registration: Option<RegistrationSection>,
    /// Where the policies are.
    #[serde(default)]
    pub policy: PolicySection,
    /// Where the data is.
    #[serde(default)]
    pub data: DataSection,
    /// Logs and traces.
    #[serde(default)]
    pub observability: ObservabilitySection,
    /// Where the server itself may send requests: to addresses of clients that want to be told of logouts.
    #[serde(default)]
    pub outbound: OutboundSection,
    /// Which authenticators passkeys may be on.
    #[serde(default)]
    pub passkeys: PasskeySection,
    /// Which passwords people may choose, beside long ones.
    #[serde(default)]
    pub passwords: PasswordSection,
    /// How the server sends mail to users: links that verify addresses and reset passwords, and news of their accounts.
    /// Without this section it sends none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mail: Option<MailSection>,
}

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TenantSection {
    /// What people read; its name if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Nobody logs in there, and its tokens are worth nothing. `false` does not enable it again.
    pub disabled: bool,
}

/// Where the roles listen: `address:port`, or a port on 127.0.0.1. Port 0 takes any free port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ListenSection {
    /// The gateway's HTTPS.
    pub gateway: ListenAddress,
    /// The gateway's redirect from HTTP to HTTPS.
    pub redirect: ListenAddress,
    /// Identity provider and admin API (HTTPS).
    pub server: ListenAddress,
    /// Enrolment, snapshots and events of the proxies (gRPC over mTLS).
    pub grpc: ListenAddress,
    /// Health, readiness and metrics. Plain HTTP: keep it on loopback or on a guarded network.
    pub ops: ListenAddress,
    /// First address of sidecars for other sidecars and the gateway (mTLS). Each service gets the next free port,
    /// in the order of the file; with port 0 each gets any.
    pub sidecar_inbound: ListenAddress,
    /// First address of sidecars for their own service (plain HTTP, on loopback). As above.
    pub sidecar_outbound: ListenAddress,
}

impl Default for ListenSection {
    fn default() -> Self {
        Self {
            gateway: ListenAddress::loopback(8443),
            redirect: ListenAddress::loopback(8080),
            server: ListenAddress::loopback(9443),
            grpc: ListenAddress::loopback(9444),
            ops: ListenAddress::loopback(15020),
            sidecar_inbound: ListenAddress::loopback(15106),
            sidecar_outbound: ListenAddress::loopback(15006),
        }
    }
}

/// What holds for the gateway as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GatewaySection {
    /// Who may connect, by address.
    pub ip: IpSection,
    /// Proxies in front of the gateway whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<Network>,
    /// Whether those proxies begin connections with a header of the PROXY protocol (version 1 or 2) that says whose
    /// they are: `off`, `optional` or `required`. On ports for TCP `optional` means `required`.
    pub proxy_protocol: ProxyProtocol,
    /// Limits on the whole gateway.
    pub limit: Vec<LimitSection>,
    /// Lowest TLS version of the public listeners; 1.2 only for clients that cannot do better.
    pub tls_min: TlsMinimum,
}

/// How slowly bodies may be sent and taken. Who is slower while everybody waits for it is cut off: an upload ends with 408,
/// a download with its connection or stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TransferSection {
    /// Bytes that a client must send or take in a second. With `0B` only pauses count. gRPC requests are streams and may
    /// pause.
    pub min_per_second: Size,
    /// Time that a client may be waited for beyond what its bytes pay for, and so its longest pause.
    pub grace: Period,
}

impl Default for TransferSection {
    fn default() -> Self {
        Self {
            min_per_second: Size::default_transfer(),
            grace: Period::default_transfer_grace(),
        }
    }
}

/// Who may connect, by address. `deny` wins; an empty `allow` allows the rest.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct IpSection {
    /// If not empty, only these networks may connect.
    pub allow: Vec<Network>,
    /// These networks may not, whatever `allow` says.
    pub deny: Vec<Network>,
}

/// A rate limit, e.g. `{ per = "user", rate = "10/s", burst = 20 }`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitSection {
    /// What is counted apart.
    pub per: LimitKey,
    /// Requests per time.
    pub rate: Rate,
    /// Requests that may come at once; as many as the rate allows in its period if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub burst: Option<u32>,
}

/// One service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceSection {
    /// Where the real service listens, seen from its own sidecar: an address on loopback.
    #[schemars(with = "String", extend("examples" = ["127.0.0.1:7002"]))]
    pub upstream: SocketAddr,
    /// What it speaks there: `http1` (HTTP/1.1), or `h2c` (HTTP/2 in the clear with prior knowledge) for gRPC. With
    /// `tcp` (any protocol) and `tls` (TLS that ends at the service) whole connections are decided about and their bytes
    /// carried unread: such a service has no `routes`, and policies know its one operation as `connect`.
    #[serde(default)]
    pub protocol: ServiceProtocol,
    /// Allow an `upstream` that is not on loopback. What the sidecar sends there is plain HTTP, and whoever
    /// reaches that address reaches the service without any check.
    #[serde(default)]
    pub allow_remote_upstream: bool,
    /// Whether the gateway routes to it.
    #[serde(default)]
    pub exposure: Exposure,
    /// Public host names for which the gateway routes to it; any host, by path, if empty. With `protocol = "tls"` the
    /// server names for which TLS passes the gateway.
    #[serde(default)]
    pub hosts: Vec<HostName>,
    /// The port of its own that the gateway has for an external service with `protocol = "tcp"` or `"tls"`:
    /// `address:port`, or a port on 127.0.0.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen: Option<ListenAddress>,
    /// What holds for its connections, with `protocol = "tcp"` or `"tls"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<ConnectionsSection>,
    /// Whose users may use it, by tenant; `*` is every tenant.
    #[serde(default = "own_tenant")]
    pub tenants: Vec<TenantPattern>,
    /// Take API keys (`testudo api-key create`) at the gateway, beside access tokens.
    #[serde(default)]
    pub api_keys: bool,
    /// Service groups it is in, for policies.
    #[serde(default)]
    pub groups: Vec<GroupName>,
    /// Deployment environment, an attribute for policies.
    #[serde(default = "production")]
    pub environment: String,
    /// Who may connect to its sidecar, by address.
    #[serde(default)]
    pub ip: IpSection,
    /// Limits on the whole service.
    #[serde(default)]
    pub limit: Vec<LimitSection>,
    /// Where its sidecar listens. Absent addresses are the next free ones from `listen.sidecar_inbound` and
    /// `listen.sidecar_outbound`, in the order of the services in the file: append new services.
    #[serde(default)]
    pub sidecar: SidecarSection,
    /// The program that `testudo up` starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunSection>,
    /// Its operations. A request that matches none is refused.
    #[serde(default)]
    pub routes: Vec<RouteSection>,
}

/// Where a sidecar listens.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SidecarSection {
    /// For other sidecars and the gateway (mTLS).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inbound: Option<ListenAddress>,
    /// For its own service (plain HTTP): must be on loopback.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outbound: Option<ListenAddress>,
    /// Where its own service finds others that speak `tcp` or `tls`, by their names, e.g. `{ database = 5432 }`: must be
    /// on loopback. CONNECT at `outbound` leads there too.
    pub connections: BTreeMap<ServiceName, ListenAddress>,
}

/// What holds for the connections of a service whose bytes are carried unread.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ConnectionsSection {
    /// Time in which a connection must move something; an hour if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<Period>,
    /// Connections that one sidecar of the service holds at once; 1000 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max: Option<u32>,
    /// Begin each connection to the service with a header of the PROXY protocol, version 2, that has the client's
    /// address. The service must expect it.
    pub proxy_protocol: bool,
}

/// A program that `testudo up` starts and stops.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunSection {
    /// Program and arguments. No shell is involved.
    #[schemars(length(min = 1))]
    pub command: Vec<String>,
    /// Working folder, relative to the fleet file; the folder `testudo` was started in if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// Variables added to its environment. Not the place for secrets. Services call each other through their
    /// sidecar: `HTTP_PROXY` is set to its outbound side.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
}

/// One operation of a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteSection {
    /// Operation id, unique in the service; policies, events and metrics name it.
    pub operation: OperationId,
    /// Methods and path, e.g. `POST /orders/{id}` or `GET,PUT /files/{*path}`. `GET` implies `HEAD`.
    #[serde(rename = "match")]
    pub matches: RouteMatch,
    /// What kind of access this is: the Cedar action of the user leg. If absent: `read` for GET, HEAD and
    /// OPTIONS, `write` for everything else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<ActionClass>,
    /// Whether a user must stand behind the call.
    #[serde(default)]
    pub user: UserRequirement,
    /// OAuth scopes the user's token must carry, all of them.
    #[serde(default)]
    pub scopes: Vec<Scope>,
    /// How sensitive the data is, 0 to 100; an attribute for policies.
    #[serde(default)]
    #[schemars(range(min = 0, max = 100))]
    pub sensitivity: u8,
    /// Whether a fresh strong login is needed.
    #[serde(default)]
    pub step_up: bool,
    /// Limits on this route.
    #[serde(default)]
    pub limit: Vec<LimitSection>,
    /// Largest request body.
    #[serde(default = "Size::default_body")]
    pub max_body: Size,
    /// Deadline for the whole request. An answer that is a stream (`text/event-stream`, gRPC) must begin in this
    /// time; then it may last, as long as it does not stand still for five minutes.
    #[serde(default = "Period::default_timeout")]
    pub timeout: Period,
    /// How much the call matters when not all can be served: `low`, `default`, `high` or `critical`. The least important
    /// are turned away first, with 503 and `Retry-After`.
    #[serde(default)]
    pub priority: Priority,
    /// Whether a WebSocket may be opened here. It is decided about like any request, ends when that decision no
    /// longer holds or nothing has moved for five minutes, and is bound by neither `timeout` nor `max_body`.
    #[serde(default)]
    pub websocket: bool,
}

/// A user to create.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UserSection {
    /// Display name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Mail address. It is this one again with each start, whatever the user has changed it to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// Whether that address is known to be theirs. If absent, users show it by following a link that is sent there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email_verified: Option<bool>,
    /// Groups.
    pub groups: Vec<GroupName>,
    /// Roles.
    pub roles: Vec<RoleName>,
    /// Clearance, 0 to 100; an attribute for policies.
    #[schemars(range(min = 0, max = 100))]
    pub clearance: u8,
    /// A disabled user may do nothing.
    pub disabled: bool,
    /// The password, by reference. If absent one is generated and shown once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretReference>,
}

/// A service account to create. It gets tokens with the client credentials grant.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServiceAccountSection {
    /// Groups.
    pub groups: Vec<GroupName>,
    /// Roles.
    pub roles: Vec<RoleName>,
    /// Clearance, 0 to 100; an attribute for policies.
    #[schemars(range(min = 0, max = 100))]
    pub clearance: u8,
    /// A disabled account may do nothing.
    pub disabled: bool,
    /// Scopes it may ask for.
    pub scopes: Vec<Scope>,
    /// The client secret, by reference. If absent, and `spiffe` and `jwks` too, one is
    /// generated and shown once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretReference>,
    /// The declared service whose certificate proves the account, instead of a secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spiffe: Option<ServiceName>,
    /// The JWK Set (RFC 7517, as JSON text) with the public ES256 keys that the account signs assertions with
    /// (`private_key_jwt`), instead of a secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwks: Option<String>,
    /// Workloads outside the fleet that may act as the account, by a token of an issuer in `trusted_issuers`, instead of
    /// a secret.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub external: Vec<ExternalWorkloadSection>,
    /// Lets the account receive signals of what happens to users and sessions, with the scopes `ssf.read` and
    /// `ssf.manage`. Without this section it cannot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signals: Option<SignalsSection>,
}

/// Workloads as a trusted issuer describes them. Everything named must fit exactly.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ExternalWorkloadSection {
    /// Name of the issuer.
    pub issuer: String,
    /// Its `sub`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Further claims of its tokens; `kubernetes.io.namespace` is `namespace` in `kubernetes.io`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub claims: BTreeMap<String, String>,
}

/// An issuer outside the fleet whose word about workloads counts: a cluster, a cloud, a build system, another SPIFFE
/// trust domain. What it vouches for is worth nothing until a service account names it in `external`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrustedIssuerSection {
    /// The `iss` of its tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// Instead of `issuer`: its tokens are JWT-SVIDs of this trust domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust_domain: Option<TrustDomain>,
    /// The `aud` of its tokens; if absent, the issuer of this fleet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// Its keys: a JWK Set (RFC 7517) as JSON text. RS256, PS256, ES256, ES384 and EdDSA are read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwks: Option<String>,
    /// Instead of `jwks`: where its keys are. Without both, `<issuer>/.well-known/openid-configuration` says so. See
    /// `outbound` for which addresses are called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwks_uri: Option<String>,
}

/// An OAuth client.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClientSection {
    /// Whether it can keep a secret.
    pub kind: ClientKind,
    /// Where the browser may return to. Compared byte by byte: no wildcards. For a native application give
    /// `http://127.0.0.1/…` without a port.
    pub redirect_uris: Vec<String>,
    /// Grant types it may use.
    #[serde(default = "browser_grants")]
    pub grant_types: Vec<GrantType>,
    /// Scopes it may ask for.
    pub scopes: Vec<Scope>,
    /// The client secret, by reference; confidential clients only. If absent, and `spiffe` and `jwks` too, one is
    /// generated and shown once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretReference>,
    /// The declared service whose certificate proves the client, instead of a secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spiffe: Option<ServiceName>,
    /// The JWK Set (RFC 7517, as JSON text) with the public ES256 keys that the client signs assertions with
    /// (`private_key_jwt`), instead of a secret; confidential clients only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwks: Option<String>,
    /// The client must push its authorization requests (RFC 9126): none is taken from the browser.
    pub require_pushed_authorization_requests: bool,
    /// The client must sign its authorization requests (RFC 9101) with a key of its `jwks`.
    pub require_signed_request_object: bool,
    /// The client must prove that it has a key, to which its tokens are bound (DPoP, RFC 9449).
    pub dpop_bound_access_tokens: bool,
    /// The client need not use PKCE; confidential clients only. For applications that cannot: they must check the `nonce` of
    /// their ID tokens.
    pub pkce_optional: bool,
    /// How its ID tokens and logout tokens are signed: `ES256`, or `RS256` for applications that read nothing else.
    pub id_token_signed_response_alg: SignatureAlgorithm,
    /// How its userinfo answers are signed; if absent, they are plain JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub userinfo_signed_response_alg: Option<SignatureAlgorithm>,
    /// The client must do all that the FAPI 2.0 Security Profile asks for: push its requests, sign (`jwks`) or use its
    /// certificate (`spiffe`) instead of a secret, have tokens that are bound to its key or certificate, and return to
    /// `https` only; confidential clients only. Its refresh tokens are not rotated.
    pub fapi2_security_profile: bool,
    /// Whether users are asked before the client gets what it asks for: `implied` or `required`. They are asked once, and
    /// can take it back at `/account`.
    pub consent: ConsentRule,
    /// Where the browser may return to after a logout that the client asked for. Compared byte by byte.
    pub post_logout_redirect_uris: Vec<String>,
    /// Where the client is told that a session has ended (OpenID Connect Back-Channel Logout). See `outbound` for which
    /// addresses may be reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backchannel_logout_uri: Option<String>,
    /// The client must be told which session has ended. Every client is told.
    pub backchannel_logout_session_required: bool,
}

/// Whether users are asked before an OAuth client gets what it asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ConsentRule {
    /// They are not: it is the organisation's own.
    #[default]
    Implied,
    /// They are.
    Required,
}

/// Whether an OAuth client can keep a secret (RFC 6749 section 2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClientKind {
    /// It cannot: an application in a browser or on a device.
    #[default]
    Public,
    /// It can: a program on a server.
    Confidential,
}

/// What OAuth clients may ask for that register themselves, each with a token that `testudo registration-token create` makes.
/// What is registered already stays when this changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RegistrationSection {
    /// Grant types they may use; not `client_credentials`, which is for service accounts.
    pub grant_types: Vec<GrantType>,
    /// Scopes they may ask for beside those of OpenID Connect.
    pub scopes: Vec<Scope>,
    /// How they may prove who they are.
    pub auth_methods: Vec<RegistrationAuthMethod>,
    /// Where the browser may return to.
    pub redirects: Vec<RedirectKind>,
    /// Hosts of such addresses with `https`, and of `backchannel_logout_uri`: a name, or `*.apps.example` for all below
    /// `apps.example`. If empty, any.
    pub redirect_hosts: Vec<String>,
    /// Those that prove who they are need not use PKCE.
    pub pkce_optional: bool,
    /// Time after which such a client ends and must register again, e.g. `90d`. If absent, it does not end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_lifetime: Option<Period>,
}

impl Default for RegistrationSection {
    fn default() -> Self {
        Self {
            grant_types: browser_grants(),
            scopes: Vec::new(),
            auth_methods: vec![
                RegistrationAuthMethod::None,
                RegistrationAuthMethod::PrivateKeyJwt,
            ],
            redirects: vec![RedirectKind::Https],
            redirect_hosts: Vec::new(),
            pkce_optional: false,
            client_lifetime: None,
        }
    }
}

/// How an OAuth client that registers itself proves who it is (RFC 7591 section 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RegistrationAuthMethod {
    /// Not at all: an application in a browser or on a device.
    None,
    /// With a secret that it is given, in the header.
    ClientSecretBasic,
    /// With a secret that it is given, in the body.
    ClientSecretPost,
    /// With an assertion that it signs (RFC 7523).
    PrivateKeyJwt,
}

/// Where the browser may return to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RedirectKind {
    /// An address with `https`.
    Https,
    /// `http` on the loopback interface: a program on the user's device.
    Loopback,
    /// A scheme of an application's own, such as `com.example.app` (RFC 8252).
    PrivateUse,
}

/// Where the policies are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PolicySection {
    /// Folder with `*.cedar` and `*.test.toml`, relative to the fleet file. Read in name order.
    pub directory: String,
}

impl Default for PolicySection {
    fn default() -> Self {
        Self {
            directory: "policies".to_owned(),
        }
    }
}

/// Where the data is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DataSection {
    /// Folder of the sealed store and the spools, relative to the fleet file. The root key is in a file beside it,
    /// `<folder>.key`.
    pub directory: String,
}

impl Default for DataSection {
    fn default() -> Self {
        Self {
            directory: "data".to_owned(),
        }
    }
}

/// Logs and traces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ObservabilitySection {
    /// Form of log lines.
    pub log_format: LogFormat,
    /// Level (`error`, `warn`, `info`, `debug`, `trace`) or `target=level` directives.
    pub log_filter: String,
    /// OpenTelemetry collector (OTLP over HTTP) that gets the traces, e.g. `http://127.0.0.1:4318`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp_endpoint: Option<String>,
}

impl Default for ObservabilitySection {
    fn default() -> Self {
        Self {
            log_format: LogFormat::Human,
            log_filter: "info".to_owned(),
            otlp_endpoint: None,
        }
    }
}

/// Where the server itself may send requests. Addresses that are not public (private networks, this machine, the metadata
/// services of clouds) are refused, whatever name leads there.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OutboundSection {
    /// Networks that may be reached although they are not public.
    pub allow_networks: Vec<Network>,
    /// Also without TLS. For development: what is sent can be read and kept back on the way.
    pub allow_http: bool,
    /// PEM file with the certificate authorities to trust, relative to the fleet file. If absent, those of the system.
    /// Certificates of the fleet are always trusted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
}

/// Which authenticators passkeys may be on. It is asked when a passkey is added; those that are there stay.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PasskeySection {
    /// `none`: any. `direct`: an authenticator must say of which model it is; those that synchronise passkeys mostly do not.
    pub attestation: Attestation,
    /// With `direct`: the models that may come, by AAGUID. If absent, all that `roots_file` vouches for.
    pub allowed_aaguids: Vec<Aaguid>,
    /// With `direct`: PEM file with the root certificates of makers that are trusted to say what they made, relative to the
    /// fleet file. If absent, authenticators are believed about themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub roots_file: Option<String>,
}

/// Which passwords people may choose, beside long ones. It is asked when a password is set; those that are there stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PasswordSection {
    /// How hard a password must be to guess, 0 to 4, as zxcvbn estimates it: with 3 it takes a hundred million guesses, with 4
    /// ten billion. Who it is for counts too.
    #[schemars(range(min = 0, max = 4))]
    pub min_score: u8,
    /// File with passwords that were stolen elsewhere, which nobody may choose: the list of Have I Been Pwned, ordered by hash, on
    /// the server's disk. An absolute path; it is opened when the fleet is applied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breached_file: Option<String>,
}

impl Default for PasswordSection {
    fn default() -> Self {
        Self {
            min_score: 3,
            breached_file: None,
        }
    }
}

/// The SMTP server that takes mail to users.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MailSection {
    /// Host name or address of the server; its certificate must have it.
    pub server: HostName,
    /// Its port. If absent, 587 with `starttls`, 465 with `tls` and 25 with `none`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// `starttls`: the connection must become TLS before anything is sent. `tls`: it is TLS from the beginning. `none`: in the
    /// clear, only to a server on this machine.
    #[serde(default)]
    pub security: MailSecurity,
    /// Name to log in with at the server. If absent, it is used without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The password that belongs to it, by reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretReference>,
    /// Address that mail comes from.
    pub from: String,
    /// Name of the sender. If absent, the trust domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_name: Option<String>,
    /// PEM file with the certificate authorities to trust, relative to the fleet file. If absent, those of the system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
}

fn localhost() -> Vec<HostName> {
    vec![HostName::localhost()]
}

fn production() -> String {
    "production".to_owned()
}

fn browser_grants() -> Vec<GrantType> {
    vec![GrantType::AuthorizationCode, GrantType::RefreshToken]
}
