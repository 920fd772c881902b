//! Which service and operation a request means: one canonical path, one table per service and, at the
//! gateway, one per public host.

use std::collections::HashMap;

use http::Method;
use matchit::Router;
use testudo_model::{
    CanonicalPath, Exposure, FleetMap, PathPattern, Route, Service, ServiceProtocol,
};

/// Why the routes of a fleet cannot be told apart.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteConflict {
    /// Two operations match the same requests.
    #[error(
        "`{method} {pattern}` means both `{first}` and `{second}`: give one of them another path or host"
    )]
    Ambiguous {
        /// The method both have.
        method: String,
        /// The pattern as the second wrote it.
        pattern: PathPattern,
        /// `<service>:<operation>`.
        first: String,
        /// `<service>:<operation>`.
        second: String,
    },
    /// A pattern that cannot stand beside the others.
    #[error("the path `{pattern}` of `{route}` cannot stand beside another: {why}")]
    Unmatchable {
        /// The pattern.
        pattern: PathPattern,
        /// `<service>:<operation>`.
        route: String,
        /// Why.
        why: String,
    },
    /// Two services under one name, of which at least one has TLS passed to it.
    #[error(
        "TLS for `{name}` can end in one place only, and both `{first}` and `{second}` claim that name"
    )]
    ServerName {
        /// The name.
        name: String,
        /// A service.
        first: String,
        /// Another one.
        second: String,
    },
    /// A public host name that is none.
    #[error("`{host}` of service `{service}` is not a host name")]
    BadHost {
        /// As written.
        host: String,
        /// The service.
        service: String,
    },
}

/// A match: indexes into [`testudo_model::snapshot::Snapshot::services`] and [`Service::routes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteRef {
    /// Index of the service.
    pub service: usize,
    /// Index of the route in it.
    pub route: usize,
}

/// Why nothing matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoRoute {
    /// No operation has this path.
    Path,
    /// Some operation has this path, but not with this method. The methods that would match.
    Method(Vec<String>),
}

/// All routes of a snapshot.
#[derive(Debug, Default)]
pub struct RouteTable {
    services: Vec<Table>,
    hosts: FleetMap<String, Table>,
    any_host: Table,
    /// Services whose TLS ends with themselves, by server name.
    server_names: FleetMap<String, usize>,
    /// Whether the service of an index takes connections and no requests.
    opaque: Vec<bool>,
}

impl RouteTable {
    /// Compiles the routes of `services`.
    ///
    /// # Errors
    /// [`RouteConflict`] when a request could match two operations, or an operation no request.
    pub fn compile(services: &[Service]) -> Result<Self, RouteConflict> {
        let mut own = Vec::with_capacity(services.len());
        let mut hosts: HashMap<String, TableBuilder<'_>> = HashMap::new();
        let mut any_host = TableBuilder::new(services);
        let server_names = server_names(services)?;
        for (index, service) in services.iter().enumerate() {
            if service.protocol.is_opaque() {
                // No request is for it, under none of its names.
                own.push(Table::default());
                for name in public_names(service) {
                    hosts
                        .entry(name?)
                        .or_insert_with(|| TableBuilder::new(services));
                }
                continue;
            }
            let mut table = TableBuilder::new(services);
            table.add(index, service)?;
            own.push(table.build()?);
            if service.exposure == Exposure::Internal {
                continue;
            }
            if service.hosts.is_empty() {
                any_host.add(index, service)?;
            }
            for name in public_names(service) {
                hosts
                    .entry(name?)
                    .or_insert_with(|| TableBuilder::new(services))
                    .add(index, service)?;
            }
        }
        let hosts = hosts
            .into_iter()
            .map(|(host, table)| Ok((host, table.build()?)))
            .collect::<Result<_, RouteConflict>>()?;
        Ok(Self {
            services: own,
            hosts,
            any_host: any_host.build()?,
            server_names,
            opaque: services
                .iter()
                .map(|service| service.protocol.is_opaque())
                .collect(),
        })
    }

    /// The operation that a connection to the service at `service` is, if it takes connections and no requests.
    pub fn connection_to(&self, service: usize) -> Option<RouteRef> {
        let is_opaque = self.opaque.get(service).copied().unwrap_or(false);
        is_opaque.then_some(RouteRef { service, route: 0 })
    }

    /// Whether TLS passes the gateway to any service.
    pub fn passes_tls(&self) -> bool {
        !self.server_names.is_empty()
    }

    /// The service to which TLS for `name` passes the gateway, by index.
    pub fn behind_server_name(&self, name: &str) -> Option<usize> {
        self.server_names.get(name).copied()
    }

    /// The public operation that `method`, `host` and `path` mean. A host that a service claims has that
    /// service's routes only.
    ///
    /// # Errors
    /// [`NoRoute`].
    pub fn find_public(
        &self,
        host: &str,
        method: &Method,
        path: &CanonicalPath<'_>,
    ) -> Result<RouteRef, NoRoute> {
        let table = normalise_host(host)
            .and_then(|name| self.hosts.get(&name))
            .unwrap_or(&self.any_host);
        table.find(method, path)
    }

    /// Whether a service is found by this host name, as [`normalise_host`] gives it.
    pub fn has_host(&self, host: &str) -> bool {
        self.hosts.contains_key(host)
    }

    /// The operation of the service at `service` that `method` and `path` mean.
    ///
    /// # Errors
    /// [`NoRoute`].
    pub fn find_in(
        &self,
        service: usize,
        method: &Method,
        path: &CanonicalPath<'_>,
    ) -> Result<RouteRef, NoRoute> {
        self.services
            .get(service)
            .ok_or(NoRoute::Path)?
            .find(method, path)
    }
}

/// The services to which TLS passes the gateway, by server name.
fn server_names(services: &[Service]) -> Result<FleetMap<String, usize>, RouteConflict> {
    let mut passing = FleetMap::default();
    let mut claims: HashMap<String, &Service> = HashMap::new();
    for (index, service) in services.iter().enumerate() {
        let passes = service.protocol == ServiceProtocol::Tls;
        for name in public_names(service) {
            let name = name?;
            if let Some(other) = claims.insert(name.clone(), service)
                && other.name != service.name
                && (passes || other.protocol == ServiceProtocol::Tls)
            {
                return Err(RouteConflict::ServerName {
                    name,
                    first: other.name.to_string(),
                    second: service.name.to_string(),
                });
            }
            if passes {
                passing.insert(name, index);
            }
        }
    }
    Ok(passing)
}

/// The public names of a service.
fn public_names(service: &Service) -> impl Iterator<Item = Result<String, RouteConflict>> {
    let is_external = service.exposure == Exposure::External;
    let names = service.hosts.iter().filter(move |_| is_external);
    names.map(|host| {
        normalise_host(host).ok_or_else(|| RouteConflict::BadHost {
            host: host.clone(),
            service: service.name.to_string(),
        })
    })
}

/// A host name in lower case without port and trailing dot; `None` if it is not one.
pub fn normalise_host(authority: &str) -> Option<String> {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0,
        None => authority
            .split_once(':')
            .map_or(authority, |(host, _port)| host),
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b':');
    (!host.is_empty() && host.len() <= 253 && host.bytes().all(allowed))
        .then(|| host.to_ascii_lowercase())
}

/// One namespace of paths.
#[derive(Debug, Default)]
struct Table {
    paths: Router<Vec<Operation>>,
}

#[derive(Debug, Clone)]
struct Operation {
    method: String,
    target: RouteRef,
}

impl Table {
    fn find(&self, method: &Method, path: &CanonicalPath<'_>) -> Result<RouteRef, NoRoute> {
        let operations = self
            .paths
            .at(path.as_str())
            .map_err(|_| NoRoute::Path)?
            .value;
        let with = |name: &str| operations.iter().find(|operation| operation.method == name);
        let head_as_get = || {
            if *method == Method::HEAD {
                with("GET")
            } else {
                None
            }
        };
        with(method.as_str())
            .or_else(head_as_get)
            .map(|operation| operation.target)
            .ok_or_else(|| NoRoute::Method(operations.iter().map(|o| o.method.clone()).collect()))
    }
}

struct TableBuilder<'a> {
    services: &'a [Service],
    paths: HashMap<String, Vec<Operation>>,
}

impl<'a> TableBuilder<'a> {
    fn new(services: &'a [Service]) -> Self {
        Self {
            services,
            paths: HashMap::new(),
        }
    }

    fn add(&mut self, service_index: usize, service: &Service) -> Result<(), RouteConflict> {
        for (route_index, route) in service.routes.iter().enumerate() {
            let target = RouteRef {
                service: service_index,
                route: route_index,
            };
            let key = without_names(&route.path);
            for method in &route.methods {
                self.add_operation(&key, method, target, service, route)?;
            }
        }
        Ok(())
    }

    fn add_operation(
        &mut self,
        key: &str,
        method: &str,
        target: RouteRef,
        service: &Service,
        route: &Route,
    ) -> Result<(), RouteConflict> {
        let operations = self.paths.entry(key.to_owned()).or_default();
        if let Some(taken) = operations
            .iter()
            .find(|operation| operation.method == method)
        {
            let first = self.services.get(taken.target.service);
            return Err(RouteConflict::Ambiguous {
                method: method.to_owned(),
                pattern: route.path.clone(),
                first: first
                    .and_then(|s| Some(s.routes.get(taken.target.route)?.full_name(&s.name)))
                    .unwrap_or_default(),
                second: route.full_name(&service.name),
            });
        }
        operations.push(Operation {
            method: method.to_owned(),
            target,
        });
        Ok(())
    }

    fn build(self) -> Result<Table, RouteConflict> {
        let mut paths = Router::new();
        for (pattern, operations) in self.paths {
            let named = operations.first().and_then(|operation| {
                let service = self.services.get(operation.target.service)?;
                let route = service.routes.get(operation.target.route)?;
                Some((route.path.clone(), route.full_name(&service.name)))
            });
            if let (Err(error), Some((pattern, route))) =
                (paths.insert(&pattern, operations), named)
            {
                return Err(RouteConflict::Unmatchable {
                    pattern,
                    route,
                    why: error.to_string(),
                });
            }
        }
        Ok(Table { paths })
    }
}

/// The pattern without the names of its parameters, so that `/a/{id}` and `/a/{name}` are seen to be the same.
fn without_names(pattern: &PathPattern) -> String {
    let mut nameless = String::with_capacity(pattern.as_str().len());
    for (position, segment) in pattern.as_str().split('/').skip(1).enumerate() {
        nameless.push('/');
        if segment.starts_with("{*") {
            nameless.push_str("{*rest}");
        } else if segment.starts_with('{') {
            nameless.push_str(&format!("{{p{position}}}"));
        } else {
            nameless.push_str(segment);
        }
    }
    nameless
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;
    use testudo_runtime::fleet::{RouteMatch, Wildcard};

    use super::*;
    use crate::fixtures::{route, service};

    fn path(text: &str) -> CanonicalPath<'_> {
        CanonicalPath::parse(text).unwrap()
    }

    #[test]
    fn a_method_and_path_mean_one_operation() {
        let mut orders = service("orders");
        orders.routes = vec![
            route("orders.list", &["GET"], "/orders"),
            route("orders.create", &["POST"], "/orders"),
            route("orders.read", &["GET"], "/orders/{id}"),
            route("orders.latest", &["GET"], "/orders/latest"),
            route("files.read", &["GET"], "/files/{*rest}"),
        ];
        let table = RouteTable::compile(&[orders]).unwrap();
        let find = |method, text| {
            table
                .find_in(0, &method, &path(text))
                .map(|found| found.route)
        };
        assert_eq!(find(Method::GET, "/orders"), Ok(0));
        assert_eq!(find(Method::HEAD, "/orders"), Ok(0));
        assert_eq!(find(Method::POST, "/orders"), Ok(1));
        assert_eq!(find(Method::GET, "/orders/7"), Ok(2));
        assert_eq!(find(Method::GET, "/orders/latest"), Ok(3));
        assert_eq!(find(Method::GET, "/files/a/b"), Ok(4));
        assert_eq!(find(Method::GET, "/orders/"), Err(NoRoute::Path));
        assert_eq!(find(Method::GET, "/Orders"), Err(NoRoute::Path));
        assert_eq!(
            find(Method::DELETE, "/orders"),
            Err(NoRoute::Method(vec!["GET".to_owned(), "POST".to_owned()]))
        );
    }

    #[test]
    fn internal_services_have_no_public_route() {
        let mut hidden = service("hidden");
        hidden.exposure = Exposure::Internal;
        hidden.routes = vec![route("x.read", &["GET"], "/x")];
        let table = RouteTable::compile(&[hidden]).unwrap();
        assert_eq!(
            table.find_public("any.example", &Method::GET, &path("/x")),
            Err(NoRoute::Path)
        );
    }

    #[test]
    fn a_claimed_host_has_its_own_routes_only_whatever_its_case() {
        let mut shop = service("shop");
        shop.hosts = vec!["Shop.Example".to_owned()];
        shop.routes = vec![route("shop.home", &["GET"], "/home")];
        let mut site = service("site");
        site.routes = vec![
            route("site.home", &["GET"], "/home"),
            route("site.about", &["GET"], "/about"),
        ];
        let table = RouteTable::compile(&[shop, site]).unwrap();
        let find = |host, text| {
            table
                .find_public(host, &Method::GET, &path(text))
                .map(|r| r.service)
        };
        assert_eq!(find("SHOP.example:8443", "/home"), Ok(0));
        assert_eq!(find("shop.example.", "/home"), Ok(0));
        assert_eq!(find("shop.example", "/about"), Err(NoRoute::Path));
        assert_eq!(find("other.example", "/home"), Ok(1));
    }

    #[test]
    fn routes_that_cannot_be_told_apart_are_refused() {
        let mut one = service("one");
        one.routes = vec![route("a.read", &["GET"], "/a/{id}")];
        let mut two = service("two");
        two.routes = vec![route("b.read", &["GET"], "/a/{name}")];
        let error = RouteTable::compile(&[one, two]).unwrap_err();
        assert!(
            matches!(error, RouteConflict::Ambiguous { ref first, ref second, .. }
            if first == "one:a.read" && second == "two:b.read"),
            "{error}"
        );
    }

    proptest! {
        /// What the check of a fleet accepts, every proxy takes, and what it refuses, none would.
        #[test]
        fn a_table_takes_the_patterns_that_the_check_of_a_fleet_accepts(
            patterns in prop::collection::btree_set("(/(a|b|%61|\\{x\\}|\\{y\\})){1,3}(/|/\\{\\*r\\})?", 1..6),
        ) {
            let mut one = service("one");
            let mut shapes = HashSet::new();
            let mut places: HashMap<String, Wildcard> = HashMap::new();
            let mut forks = false;
            for (number, pattern) in patterns.iter().enumerate() {
                let matches: RouteMatch = format!("GET {pattern}").parse().unwrap();
                if !shapes.insert(matches.shape()) {
                    continue;
                }
                for (before, wildcard) in matches.wildcards() {
                    forks |= *places.entry(before).or_insert(wildcard) != wildcard;
                }
                one.routes.push(route(&format!("op.{number}"), &["GET"], pattern));
            }
            prop_assert_eq!(RouteTable::compile(&[one]).is_err(), forks);
        }
    }

    #[test]
    fn services_that_take_connections_have_no_requests_and_server_names_of_their_own() {
        let mut vault = service("vault");
        vault.protocol = ServiceProtocol::Tls;
        vault.hosts = vec!["Vault.Example".to_owned()];
        vault.routes = vec![Route::for_connections()];
        let mut site = service("site");
        site.routes = vec![route("site.home", &["GET"], "/")];
        let table = RouteTable::compile(&[vault.clone(), site.clone()]).unwrap();
        assert!(table.passes_tls());
        assert_eq!(table.behind_server_name("vault.example"), Some(0));
        assert_eq!(table.behind_server_name("site.example"), None);
        assert!(table.connection_to(0).is_some() && table.connection_to(1).is_none());
        for method in [Method::GET, Method::CONNECT] {
            let found = table.find_public("vault.example", &method, &path("/"));
            assert_eq!(found, Err(NoRoute::Path));
            assert_eq!(table.find_in(0, &method, &path("/")), Err(NoRoute::Path));
        }

        site.hosts = vec!["vault.example".to_owned()];
        let error = RouteTable::compile(&[vault, site]).unwrap_err();
        assert!(matches!(error, RouteConflict::ServerName { .. }), "{error}");
    }

    #[test]
    fn escapes_in_patterns_mean_what_they_mean_in_requests() {
        let mut one = service("one");
        one.routes = vec![route("a.read", &["GET"], "/%61/caf%c3%a9")];
        let table = RouteTable::compile(&[one]).unwrap();
        assert!(
            table
                .find_in(0, &Method::GET, &path("/a/caf%C3%A9"))
                .is_ok()
        );
    }
}
