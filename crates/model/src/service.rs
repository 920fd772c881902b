//! Services and their routes as proxies enforce them.

use std::{fmt, net::SocketAddr, str::FromStr, time::Duration};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    CanonicalPath, GroupName, OperationId, PathError, Scope, ServiceName, SpiffeId, TenantName,
    TenantPattern, limits,
};

/// One declared service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// Its name; callers inside the fleet use it as host name.
    pub name: ServiceName,
    /// The identity its sidecar must show.
    pub spiffe_id: SpiffeId,
    /// Who may reach it at all.
    pub exposure: Exposure,
    /// Public host names for which the gateway routes to it. Empty: any host not claimed by another service,
    /// by path.
    pub hosts: Vec<String>,
    /// Where the real service listens, seen from its own sidecar. Nobody else connects there.
    pub upstream: SocketAddr,
    /// What the real service speaks there.
    #[serde(default)]
    pub protocol: ServiceProtocol,
    /// What holds for its connections, if their bytes are carried unread.
    #[serde(default)]
    pub connections: ConnectionRules,
    /// Its operations. A request that matches none is refused. One whose bytes are carried unread has one,
    /// [`Route::for_connections`].
    pub routes: Vec<Route>,
    /// Whose users may use it (guardrail `guardrail.tenant_isolation`).
    #[serde(default = "own_tenant")]
    pub tenants: Vec<TenantPattern>,
    /// Whether the gateway takes API keys for it.
    #[serde(default)]
    pub api_keys: bool,
    /// Cedar `ServiceGroup` parents.
    pub groups: Vec<GroupName>,
    /// Deployment environment (`production`), an attribute for policies.
    pub environment: String,
    /// Who may connect, by address.
    pub ip: IpLists,
    /// Limits on the whole service.
    pub limits: Vec<RateLimit>,
    /// A quarantined service may neither call nor be called.
    pub quarantined: bool,
}

/// The users of the fleet itself.
pub fn own_tenant() -> Vec<TenantPattern> {
    vec![TenantPattern::One(TenantName::default_tenant())]
}

/// Whether the gateway routes to a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Exposure {
    /// Reached from other services only.
    #[default]
    Internal,
    /// Reached through the gateway as well.
    External,
}

/// What a service speaks with its own sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ServiceProtocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 in the clear, with prior knowledge (RFC 9113 section 3.3): what gRPC servers speak.
    H2c,
    /// Any protocol over TCP. Nobody on the way reads its bytes.
    Tcp,
    /// TLS that ends at the service. The gateway reads the server name and nothing else.
    Tls,
}

impl ServiceProtocol {
    /// Whether whole connections are decided about, and their bytes carried unread.
    pub const fn is_opaque(self) -> bool {
        matches!(self, Self::Tcp | Self::Tls)
    }
}

/// What holds for the connections of a service whose bytes are carried unread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionRules {
    /// Time in which a connection must move something, in milliseconds.
    pub idle_millis: u64,
    /// Connections that one sidecar of the service holds at once.
    pub max: u32,
    /// Whether the service is told the client's address by a PROXY protocol header (version 2).
    pub proxy_header: bool,
}

impl Default for ConnectionRules {
    fn default() -> Self {
        Self {
            idle_millis: u64::try_from(limits::CONNECTION_IDLE_TIMEOUT.as_millis())
                .unwrap_or(u64::MAX),
            max: limits::DEFAULT_MAX_CONNECTIONS,
            proxy_header: false,
        }
    }
}

/// One operation of a service: what matches, what it needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// Operation id, unique in the service.
    pub operation: OperationId,
    /// Upper-case HTTP methods; `HEAD` is implied by `GET`.
    pub methods: Vec<String>,
    /// Path pattern.
    pub path: PathPattern,
    /// What kind of access this is: the Cedar action of the user leg.
    pub action: ActionClass,
    /// Whether a user must stand behind the call.
    pub user: UserRequirement,
    /// OAuth scopes the user's token must carry, all of them.
    pub scopes: Vec<Scope>,
    /// How sensitive the data is, 0 to 100; an attribute for policies.
    pub sensitivity: i64,
    /// Whether a fresh strong login is needed (guardrail `guardrail.step_up`).
    pub step_up: bool,
    /// Limits on this route.
    pub limits: Vec<RateLimit>,
    /// Largest request body in bytes.
    pub max_body_bytes: u64,
    /// Deadline for the whole request, in milliseconds; for an answer that is a stream, until it begins.
    pub timeout_millis: u64,
    /// How much it matters when not all calls can be served.
    #[serde(default)]
    pub priority: Priority,
    /// Whether a WebSocket may be opened. It outlives `timeout_millis`, and `max_body_bytes` does not count its
    /// bytes.
    #[serde(default)]
    pub websocket: bool,
}

impl Route {
    /// The route's name in the fleet, `<service>:<operation>`; its Cedar entity id.
    pub fn full_name(&self, service: &ServiceName) -> String {
        format!("{service}:{}", self.operation)
    }

    /// The one operation of a service whose bytes are carried unread: to connect. There is no user leg, because nothing
    /// in a connection says who the user is.
    pub fn for_connections() -> Self {
        Self {
            operation: OperationId::connect(),
            methods: vec!["CONNECT".to_owned()],
            path: PathPattern("/".to_owned()),
            action: ActionClass::Write,
            user: UserRequirement::None,
            scopes: Vec::new(),
            sensitivity: 0,
            step_up: false,
            limits: Vec::new(),
            max_body_bytes: 0,
            timeout_millis: u64::try_from(limits::DEFAULT_REQUEST_TIMEOUT.as_millis())
                .unwrap_or(u64::MAX),
            priority: Priority::Default,
            websocket: false,
        }
    }

    /// The deadline.
    pub const fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_millis)
    }
}

/// How much a call matters when not all can be served: the least important are turned away first. In the order of
/// importance.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Can wait until tomorrow: reports, prefetching, crawlers.
    Low,
    /// What is not said to be anything else.
    #[default]
    Default,
    /// People are waiting for it.
    High,
    /// The last that is given up: paying, logging in, what others depend on.
    Critical,
}

impl Priority {
    /// All of them, the least important first.
    pub const ALL: [Self; 4] = [Self::Low, Self::Default, Self::High, Self::Critical];

    /// Its name in the fleet file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Default => "default",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

/// The Cedar action of the user leg.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum ActionClass {
    /// Looks only.
    Read,
    /// Changes data.
    Write,
    /// Changes how the service works or who may use it.
    Admin,
}

impl ActionClass {
    /// The action's name in policies.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }
}

/// Whether a user must stand behind a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum UserRequirement {
    /// No user, no call (401). The default: forgetting the setting opens nothing.
    #[default]
    Required,
    /// Decided with the user if there is one, by the service leg alone if not.
    Optional,
    /// Machine only or anonymous: there is no user leg.
    None,
}

/// A path pattern: literal segments, `{name}` for one segment, `{*name}` at the end for the rest. Literals are as in
/// a [`CanonicalPath`], which is what is matched.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct PathPattern(String);

/// Why a text is not a path pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{pattern}` is not a path pattern: {why}")]
pub struct InvalidPathPattern {
    pattern: String,
    why: &'static str,
}

impl PathPattern {
    /// The pattern with its literals in canonical form.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PathPattern {
    type Err = InvalidPathPattern;

    fn from_str(text: &str) -> Result<Self, InvalidPathPattern> {
        let refuse = |why| {
            Err(InvalidPathPattern {
                pattern: text.to_owned(),
                why,
            })
        };
        let Some(rest) = text.strip_prefix('/') else {
            return refuse("it must start with `/`");
        };
        let mut canonical = String::with_capacity(text.len());
        let mut segments = rest.split('/').peekable();
        while let Some(segment) = segments.next() {
            let is_last = segments.peek().is_none();
            let name = |s: &str| {
                !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            };
            let as_path = format!("/{segment}");
            match segment.strip_prefix('{').and_then(|s| s.strip_suffix('}')) {
                Some(parameter) => {
                    match parameter.strip_prefix('*') {
                        Some(rest) if name(rest) && is_last => {}
                        Some(_) => return refuse("`{*name}` may only be the last segment"),
                        None if name(parameter) => {}
                        None => {
                            return refuse("a parameter is `{name}` of letters, digits and `_`");
                        }
                    }
                    canonical.push_str(&as_path);
                }
                None if matches!(segment, "." | "..") || (segment.is_empty() && !is_last) => {
                    return refuse("empty and dot segments never match");
                }
                None => match CanonicalPath::parse(&as_path) {
                    // A lone `*` is a wildcard elsewhere; taken as a letter it would surprise.
                    Ok(path) if !path.as_str().contains('*') => canonical.push_str(path.as_str()),
                    Err(PathError::PercentEncoding | PathError::NotUtf8) => {
                        return refuse(
                            "an escape is `%` and two hexadecimal digits, once, of UTF-8",
                        );
                    }
                    _ => return refuse("a segment is either a literal or `{name}`"),
                },
            }
        }
        Ok(Self(canonical))
    }
}

impl TryFrom<String> for PathPattern {
    type Error = InvalidPathPattern;

    fn try_from(text: String) -> Result<Self, InvalidPathPattern> {
        text.parse()
    }
}

impl From<PathPattern> for String {
    fn from(pattern: PathPattern) -> Self {
        pattern.0
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for PathPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Addresses that may and may not connect. `deny` wins; an empty `allow` allows the rest.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct IpLists {
    /// If not empty, only these networks may connect.
    #[schemars(with = "Vec<String>")]
    pub allow: Vec<IpNet>,
    /// These networks may not, whatever `allow` says.
    #[schemars(with = "Vec<String>")]
    pub deny: Vec<IpNet>,
}

/// A rate limit (GCRA): `requests` per `period`, and `burst` at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimit {
    /// What is counted apart.
    pub per: LimitKey,
    /// Requests allowed per period. At least 1.
    pub requests: u32,
    /// The period in milliseconds. At least 1.
    pub period_millis: u64,
    /// Requests that may come at once. At least 1.
    pub burst: u32,
}

/// What a rate limit counts apart.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum LimitKey {
    /// Each client address; IPv6 by /64, IPv4-mapped as IPv4.
    Ip,
    /// Each user.
    User,
    /// Each calling service.
    Service,
    /// All callers together.
    Route,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_checked_when_parsed() {
        for good in ["/", "/a", "/a/{id}", "/a/{id}/b", "/files/{*rest}", "/a/"] {
            assert!(good.parse::<PathPattern>().is_ok(), "{good}");
        }
        for bad in [
            "", "a", "//", "/a//b", "/../a", "/{}", "/{*r}/b", "/a{id}", "/a b", "/{id", "/*",
            "/a%zz", "/a%2", "/a%2fb", "/a%3bb", "/%2561", "/%c0", "/%2e%2e", "/%2a", "/a;b",
        ] {
            assert!(bad.parse::<PathPattern>().is_err(), "{bad}");
        }
    }

    #[test]
    fn two_spellings_of_a_literal_are_one_pattern() {
        for (written, canonical) in [
            ("/%61", "/a"),
            ("/users/%40all/{id}", "/users/@all/{id}"),
            ("/caf%c3%a9/{*rest}", "/caf%C3%A9/{*rest}"),
            ("/a%20b/", "/a%20b/"),
        ] {
            let pattern: PathPattern = written.parse().unwrap();
            assert_eq!(pattern.as_str(), canonical);
            assert_eq!(canonical.parse(), Ok(pattern), "it reads back");
        }
    }
}
