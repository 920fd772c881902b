//! Checks of services and their routes.

use std::{collections::BTreeMap, time::Duration};

use testudo_model::{Exposure, OperationId, Route, Service, ServiceName, ServiceProtocol, limits};

use super::{
    RunCommand,
    check::{Context, ip_lists, rate_limits},
    connections,
    document::Cursor,
    file::{FleetFile, RouteSection, ServiceSection},
    host::HostName,
    problem::Problems,
    route_match::{Overlap, Wildcard},
};

/// Longest deadline of a route. What takes longer is a stream or a job, and holds a connection and its buffers.
const MAX_TIMEOUT: Duration = Duration::from_secs(3600);
/// Highest value of an attribute that is a percentage.
pub(super) const MAX_PERCENT: u8 = 100;
/// Longest name of an environment.
const MAX_ENVIRONMENT_BYTES: usize = 64;
/// Names that reach something else inside the fleet.
const RESERVED_NAMES: [&str; 3] = ["gateway", "server", "localhost"];

/// Checks all services and returns them sorted by name.
pub(super) fn check(
    file: &FleetFile,
    tree: Cursor<'_>,
    context: &mut Context<'_, '_>,
) -> Vec<Service> {
    let at = tree.key("services");
    if file.services.len() > limits::MAX_SERVICES {
        let message = format!("there are more than {} services", limits::MAX_SERVICES);
        context
            .problems
            .error("fleet.too_many_services", at.place(), message);
    }
    if file.services.is_empty() && !at.is_written() {
        context
            .problems
            .warn("fleet.no_services", at.place(), "the fleet has no services")
            .help("declare one: `[services.orders]` with `upstream = \"127.0.0.1:7002\"`");
    }
    report_contested_paths(file, at, context.problems);
    report_forks(file, at, context.problems);
    file.services
        .iter()
        .map(|(name, section)| service(file, name, section, at.key(name.as_str()), context))
        .collect()
}

/// The programs to start.
pub(super) fn runs(
    file: &FleetFile,
    tree: Cursor<'_>,
    context: &mut Context<'_, '_>,
) -> BTreeMap<ServiceName, RunCommand> {
    let mut runs = BTreeMap::new();
    for (name, section) in &file.services {
        let Some(run) = &section.run else { continue };
        match run.command.split_first() {
            Some((program, arguments)) if !program.is_empty() => {
                let command = RunCommand {
                    program: program.clone(),
                    arguments: arguments.to_vec(),
                    directory: run
                        .directory
                        .as_ref()
                        .map(|directory| context.files.resolve(directory)),
                    environment: run.env.clone(),
                };
                runs.insert(name.clone(), command);
            }
            _ => {
                let command = tree
                    .key("services")
                    .key(name.as_str())
                    .key("run")
                    .key("command");
                if !command.is_damaged() {
                    context
                        .problems
                        .error(
                            "fleet.empty_command",
                            command.place(),
                            "the command is empty",
                        )
                        .help("write the program and its arguments: `[\"python3\", \"app.py\"]`");
                }
            }
        }
    }
    runs
}

fn service(
    file: &FleetFile,
    name: &ServiceName,
    section: &ServiceSection,
    at: Cursor<'_>,
    context: &mut Context<'_, '_>,
) -> Service {
    if RESERVED_NAMES.contains(&name.as_str()) {
        let message = format!("`{name}` is a name of Testudo's own");
        context
            .problems
            .error("fleet.reserved_name", at.key_place(), message)
            .help("choose another name");
    }
    check_upstream(name, section, at, context.problems);
    check_hosts(file, section, at, context.problems);
    for (index, group) in section.groups.iter().enumerate() {
        // Service groups exist by being named; one that is a user group too is a mix-up.
        if file.groups.contains_key(group) {
            let place = at.key("groups").index(index).place();
            context
                .problems
                .error(
                    "fleet.group_kind",
                    place,
                    format!("`{group}` is a group of users"),
                )
                .help("groups of services have names of their own and need no declaration");
        }
    }
    if section.environment.is_empty() || section.environment.len() > MAX_ENVIRONMENT_BYTES {
        let message = format!("the name of an environment has 1 to {MAX_ENVIRONMENT_BYTES} bytes");
        context
            .problems
            .error("fleet.environment", at.key("environment").place(), message);
    }
    let routes = at.key("routes");
    let is_opaque = section.protocol.is_opaque();
    connections::check(file, name, section, at, context.problems);
    if section.routes.is_empty() && !routes.is_written() && !is_opaque {
        context
            .problems
            .warn(
                "fleet.no_routes",
                at.place(),
                format!("`{name}` has no routes"),
            )
            .why("a request that matches no route is refused")
            .help(format!(
                "add `[[services.{name}.routes]]` with `operation` and `match`"
            ));
    }
    report_contested_operations(section, routes, context.problems);
    Service {
        name: name.clone(),
        spiffe_id: file.trust_domain.service(name),
        exposure: section.exposure,
        hosts: section.hosts.iter().map(ToString::to_string).collect(),
        upstream: section.upstream,
        protocol: section.protocol,
        connections: connections::rules(section),
        routes: if is_opaque {
            vec![Route::for_connections()]
        } else {
            section
                .routes
                .iter()
                .enumerate()
                .map(|(index, section)| route(section, routes.index(index), context.problems))
                .collect()
        },
        tenants: section.tenants.clone(),
        api_keys: section.api_keys,
        groups: section.groups.clone(),
        environment: section.environment.clone(),
        ip: ip_lists(&section.ip),
        limits: rate_limits(&section.limit, at.key("limit"), context.problems),
        quarantined: false,
    }
}

fn route(section: &RouteSection, at: Cursor<'_>, problems: &mut Problems<'_>) -> Route {
    if section.sensitivity > MAX_PERCENT {
        let message = format!("a sensitivity is 0 to {MAX_PERCENT}");
        problems.error("fleet.out_of_range", at.key("sensitivity").place(), message);
    }
    let timeout = section.timeout.duration();
    if timeout.is_zero() || timeout > MAX_TIMEOUT {
        problems
            .error(
                "fleet.out_of_range",
                at.key("timeout").place(),
                "a timeout is more than zero and at most an hour",
            )
            .why("a request without a deadline can hold a connection and its memory for ever");
    }
    if section.websocket
        && !section
            .matches
            .methods()
            .iter()
            .any(|method| method == "GET")
    {
        problems
            .error(
                "fleet.websocket_method",
                at.key("websocket").place(),
                "a WebSocket is opened with GET, and this route does not match it",
            )
            .help("write `match = \"GET /…\"`");
    }
    Route {
        operation: section.operation.clone(),
        methods: section.matches.methods().to_vec(),
        path: section.matches.path().clone(),
        action: section
            .action
            .unwrap_or_else(|| section.matches.default_action()),
        user: section.user,
        scopes: section.scopes.clone(),
        sensitivity: section.sensitivity.into(),
        step_up: section.step_up,
        limits: rate_limits(&section.limit, at.key("limit"), problems),
        max_body_bytes: section.max_body.bytes(),
        timeout_millis: section.timeout.millis(),
        priority: section.priority,
        websocket: section.websocket,
    }
}

fn check_upstream(
    name: &ServiceName,
    section: &ServiceSection,
    at: Cursor<'_>,
    problems: &mut Problems<'_>,
) {
    let (upstream, place) = (section.upstream, at.key("upstream").place());
    if upstream.port() == 0 || upstream.ip().is_unspecified() {
        problems
            .error(
                "fleet.upstream_address",
                place,
                format!("nothing can be reached at {upstream}"),
            )
            .help(format!(
                "write the address `{name}` listens on, such as `127.0.0.1:7002`"
            ));
        return;
    }
    if upstream.ip().is_loopback() {
        return;
    }
    let why = "requests travel from the sidecar to that address unencrypted, and whoever reaches it reaches the \
               service without any check";
    let message = format!("`{name}` is not on loopback but at {upstream}");
    if section.allow_remote_upstream {
        problems
            .warn("fleet.remote_upstream", place, message)
            .why(why);
    } else {
        problems.error("fleet.remote_upstream", place, message).why(why).help(
            "run the sidecar on the service's machine and let the service listen on 127.0.0.1, or accept it with \
             `allow_remote_upstream = true`",
        );
    }
}

fn check_hosts(
    file: &FleetFile,
    section: &ServiceSection,
    at: Cursor<'_>,
    problems: &mut Problems<'_>,
) {
    let hosts = at.key("hosts");
    if section.exposure == Exposure::Internal && !section.hosts.is_empty() {
        problems
            .error(
                "fleet.hosts_of_internal",
                hosts.place(),
                "an internal service has no public host names",
            )
            .help("add `exposure = \"external\"` or remove `hosts`");
        return;
    }
    for (index, host) in section.hosts.iter().enumerate() {
        // The gateway shows no certificate for TLS that passes it.
        if section.protocol != ServiceProtocol::Tls && !file.public_names.contains(host) {
            problems
                .warn("fleet.host_not_public", hosts.index(index).place(), format!("`{host}` is not in `public_names`"))
                .why("the gateway's certificate will not name it, so clients will refuse the connection")
                .help(format!("add \"{host}\" to `public_names`"));
        }
    }
}

/// Two routes of one service with one operation id, or for the same requests.
fn report_contested_operations(
    section: &ServiceSection,
    at: Cursor<'_>,
    problems: &mut Problems<'_>,
) {
    let mut operations: BTreeMap<&OperationId, usize> = BTreeMap::new();
    for (index, route) in section.routes.iter().enumerate() {
        if let Some(first) = operations.insert(&route.operation, index) {
            let line = problems
                .source
                .line_of(at.index(first).key("operation").place());
            problems
                .error(
                    "fleet.duplicate_operation",
                    at.index(index).key("operation").place(),
                    format!("the operation `{}` is declared twice", route.operation),
                )
                .why(format!(
                    "the first one is {line}; policies and events could not tell them apart"
                ));
        }
        for (earlier, other) in section.routes.iter().enumerate().take(index) {
            let Some(method) = route.matches.shared_method(&other.matches) else {
                continue;
            };
            let overlap = route.matches.overlap(&other.matches);
            report_overlap(
                overlap,
                method,
                (other, at.index(earlier)),
                (route, at.index(index)),
                problems,
            );
        }
    }
}

fn report_overlap(
    overlap: Overlap,
    method: &str,
    (other, other_at): (&RouteSection, Cursor<'_>),
    (route, at): (&RouteSection, Cursor<'_>),
    problems: &mut Problems<'_>,
) {
    let line = problems.source.line_of(other_at.key("match").place());
    let place = at.key("match").place();
    let (one, two) = (&other.operation, &route.operation);
    match overlap {
        Overlap::None | Overlap::Nested => {}
        Overlap::Same => {
            problems
                .error(
                    "fleet.route_conflict",
                    place,
                    format!("`{one}` and `{two}` match the same {method} requests"),
                )
                .why(format!(
                    "`{one}` is {line}; it would not be clear whose rules hold"
                ))
                .help("give one of them another path or method");
        }
        Overlap::Crossing => {
            problems
                .warn(
                    "fleet.route_overlap",
                    place,
                    format!("some {method} requests match both `{one}` and `{two}`"),
                )
                .why(format!(
                    "`{one}` is {line}; the route with the earlier literal segment wins"
                ));
        }
    }
}

/// Two external services that claim the same host and path.
fn report_contested_paths(file: &FleetFile, at: Cursor<'_>, problems: &mut Problems<'_>) {
    let external = || {
        file.services
            .iter()
            .filter(|(_, section)| section.exposure == Exposure::External)
    };
    // Per host (none means: any other host) the routes in it by their shape.
    let mut claims: BTreeMap<(Option<&HostName>, String), (&ServiceName, Cursor<'_>)> =
        BTreeMap::new();
    for (name, section) in external() {
        let hosts: Vec<Option<&HostName>> = if section.hosts.is_empty() {
            vec![None]
        } else {
            section.hosts.iter().map(Some).collect()
        };
        for (index, route) in section.routes.iter().enumerate() {
            let route_at = at
                .key(name.as_str())
                .key("routes")
                .index(index)
                .key("match");
            for host in &hosts {
                let claim = (*host, route.matches.shape());
                match claims.get(&claim) {
                    Some((other, other_at)) if *other != name => {
                        let line = problems.source.line_of(other_at.place());
                        let where_ =
                            host.map_or_else(|| "any host".to_owned(), |host| format!("`{host}`"));
                        let path = route.matches.path();
                        problems
                            .error(
                                "fleet.contested_path",
                                route_at.place(),
                                format!("`{other}` and `{name}` both claim `{path}` on {where_}"),
                            )
                            .why(format!("`{other}` claims it {line}; the gateway could not tell whom to call"))
                            .help("give each service `hosts` of its own, or other paths");
                        break;
                    }
                    Some(_) => {}
                    None => {
                        claims.insert(claim, (name, route_at));
                    }
                }
            }
        }
    }
}

/// The routes that one table of a proxy holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Table<'a> {
    /// At the sidecar of the service.
    Service(&'a ServiceName),
    /// At the gateway, for a host; for none: any other host.
    Host(Option<&'a HostName>),
}

/// `{name}` and `{*name}` in the same place of one table: no proxy could take such a snapshot.
fn report_forks(file: &FleetFile, at: Cursor<'_>, problems: &mut Problems<'_>) {
    let mut places: BTreeMap<(Table<'_>, String), (Wildcard, &RouteSection, Cursor<'_>)> =
        BTreeMap::new();
    for (name, section) in &file.services {
        let mut tables = vec![Table::Service(name)];
        if section.exposure == Exposure::External {
            let hosts = section.hosts.iter().map(|host| Table::Host(Some(host)));
            tables.extend(hosts);
            if section.hosts.is_empty() {
                tables.push(Table::Host(None));
            }
        }
        for (index, route) in section.routes.iter().enumerate() {
            let service_at = at.key(name.as_str());
            let route_at = service_at.key("routes").index(index).key("match");
            let mut rival = None;
            for table in &tables {
                for (before, wildcard) in route.matches.wildcards() {
                    let (known, other, other_at) = *places
                        .entry((*table, before))
                        .or_insert((wildcard, route, route_at));
                    if known != wildcard {
                        rival = rival.or(Some((other, other_at)));
                    }
                }
            }
            if let Some(rival) = rival {
                report_fork((route, route_at), rival, problems);
            }
        }
    }
}

fn report_fork(
    (route, at): (&RouteSection, Cursor<'_>),
    (other, other_at): (&RouteSection, Cursor<'_>),
    problems: &mut Problems<'_>,
) {
    let line = problems.source.line_of(other_at.place());
    let (one, two) = (other.matches.path(), route.matches.path());
    problems
        .error(
            "fleet.route_fork",
            at.place(),
            format!("`{two}` cannot stand beside `{one}`"),
        )
        .why(format!(
            "`{one}` is {line}; where one has `{{name}}` the other has `{{*name}}`, and a proxy's table has room for \
             one of them behind the same segments"
        ))
        .help("put a literal segment before one of them, or use `{*name}` for both");
}
