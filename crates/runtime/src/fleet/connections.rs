//! Checks of services that take connections and no requests.

use testudo_model::{ConnectionRules, Exposure, LimitKey, ServiceName, ServiceProtocol, limits};

use super::{
    document::Cursor,
    file::{FleetFile, ServiceSection},
    problem::Problems,
};

/// What holds for the connections of a service.
pub(super) fn rules(section: &ServiceSection) -> ConnectionRules {
    let given = section.connections.as_ref();
    let usual = ConnectionRules::default();
    ConnectionRules {
        idle_millis: given
            .and_then(|given| given.idle_timeout)
            .map_or(usual.idle_millis, |period| period.millis()),
        max: given.and_then(|given| given.max).unwrap_or(usual.max),
        proxy_header: given.is_some_and(|given| given.proxy_protocol),
    }
}

/// Reports what a service says about connections or requests though it takes none.
pub(super) fn check(
    file: &FleetFile,
    name: &ServiceName,
    section: &ServiceSection,
    at: Cursor<'_>,
    problems: &mut Problems<'_>,
) {
    check_ways(file, section, at, problems);
    if section.protocol.is_opaque() {
        check_opaque(file, name, section, at, problems);
        return;
    }
    for (key, is_given) in [
        ("listen", section.listen.is_some()),
        ("connections", section.connections.is_some()),
    ] {
        if is_given {
            problems
                .error(
                    "fleet.connections_of_requests",
                    at.key(key).place(),
                    format!("`{key}` is for services with `protocol = \"tcp\"` or `\"tls\"`"),
                )
                .help(format!("remove `{key}`, or say that `{name}` speaks `tcp`"));
        }
    }
}

fn check_opaque(
    file: &FleetFile,
    name: &ServiceName,
    section: &ServiceSection,
    at: Cursor<'_>,
    problems: &mut Problems<'_>,
) {
    if !section.routes.is_empty() {
        problems
            .error(
                "fleet.routes_of_connections",
                at.key("routes").place(),
                format!("`{name}` takes connections and no requests, so it has no routes"),
            )
            .why("nobody reads what its connections carry")
            .help("remove the routes; limits and addresses stand at the service itself");
    }
    let (is_external, has_names) = (
        section.exposure == Exposure::External,
        !section.hosts.is_empty(),
    );
    if has_names && section.protocol == ServiceProtocol::Tcp {
        problems
            .error(
                "fleet.hosts_of_connections",
                at.key("hosts").place(),
                "nothing in a TCP connection names a host",
            )
            .help("give the service a port of its own with `listen`, or say that it speaks `tls`");
    }
    if section.listen.is_some() && !is_external {
        problems
            .error(
                "fleet.listen_of_internal",
                at.key("listen").place(),
                "an internal service has no public port",
            )
            .help("add `exposure = \"external\"` or remove `listen`");
    }
    if is_external && section.listen.is_none() && !has_names {
        problems
            .warn(
                "fleet.unreachable",
                at.place(),
                format!("nobody can reach `{name}` from outside"),
            )
            .why("it has neither a port of its own nor a server name")
            .help("add `listen = \"0.0.0.0:5432\"` (a gateway apart gets it with --connections), or `hosts` if it speaks `tls`");
    }
    let max = section.connections.as_ref().and_then(|given| given.max);
    if max == Some(0) {
        let place = at.key("connections").key("max").place();
        problems
            .error(
                "fleet.limit_zero",
                place,
                "a maximum of 0 lets no connection through",
            )
            .help("give at least 1");
    }
    let idle = section
        .connections
        .as_ref()
        .and_then(|given| given.idle_timeout);
    if idle
        .is_some_and(|idle| idle.duration().is_zero() || idle.duration() > limits::STREAM_LIFETIME)
    {
        let place = at.key("connections").key("idle_timeout").place();
        problems.error(
            "fleet.out_of_range",
            place,
            "an idle timeout is more than zero and at most 12 hours",
        );
    }
    for (index, limit) in section.limit.iter().enumerate() {
        if limit.per == LimitKey::User {
            let place = at.key("limit").index(index).key("per").place();
            problems
                .warn(
                    "fleet.limit_without_user",
                    place,
                    "no user is known behind a connection",
                )
                .why("connections are counted by address instead");
        }
    }
    report_shared_names(file, name, section, at, problems);
}

/// Ways of a service to others: to declared ones that take connections.
fn check_ways(
    file: &FleetFile,
    section: &ServiceSection,
    at: Cursor<'_>,
    problems: &mut Problems<'_>,
) {
    for called in section.sidecar.connections.keys() {
        let place = at.key("sidecar").key("connections").key(called.as_str());
        match file.services.get(called) {
            Some(other) if other.protocol.is_opaque() => {}
            Some(_) => {
                problems
                    .error(
                        "fleet.connection_to_requests",
                        place.key_place(),
                        format!("`{called}` takes requests, not connections"),
                    )
                    .help("call it as `http://` through `HTTP_PROXY`, or say that it speaks `tcp`");
            }
            None => {
                problems
                    .error(
                        "fleet.unknown_reference",
                        place.key_place(),
                        format!("there is no service `{called}`"),
                    )
                    .help(format!("declare it under `[services.{called}]`"));
            }
        }
    }
}

/// TLS for one name ends in one place.
fn report_shared_names(
    file: &FleetFile,
    name: &ServiceName,
    section: &ServiceSection,
    at: Cursor<'_>,
    problems: &mut Problems<'_>,
) {
    if section.protocol != ServiceProtocol::Tls {
        return;
    }
    for (index, host) in section.hosts.iter().enumerate() {
        let place = at.key("hosts").index(index).place();
        if file.public_names.contains(host) {
            problems
                .error(
                    "fleet.contested_server_name",
                    place,
                    format!("`{host}` is in `public_names`, where TLS ends at the gateway"),
                )
                .why("TLS for one name can end in one place only")
                .help("give the service a name of its own");
        }
        let rival = file.services.iter().find(|(other, rival)| {
            *other != name
                && rival.hosts.contains(host)
                && (rival.protocol != ServiceProtocol::Tls || *other < name)
        });
        if let Some((rival, _)) = rival {
            problems
                .error(
                    "fleet.contested_server_name",
                    place,
                    format!("`{rival}` and `{name}` both claim the name `{host}`"),
                )
                .why("TLS for one name can end in one place only")
                .help("give each service names of its own");
        }
    }
}
