//! Who listens where: automatic sidecar ports, and nobody on somebody else's port.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use testudo_model::ServiceName;

use super::{
    Listen, SidecarListen,
    document::{Cursor, Place},
    file::FleetFile,
    network::ListenAddress,
    problem::Problems,
};

/// Something that listens.
struct Listener<'a> {
    address: SocketAddr,
    what: String,
    place: &'a Place,
    /// The real service rather than one of ours.
    is_upstream: bool,
}

/// Gives every sidecar its addresses and reports who would listen on the same one.
pub(super) fn assign(
    file: &FleetFile,
    listen: &Listen,
    tree: Cursor<'_>,
    problems: &mut Problems<'_>,
) -> BTreeMap<ServiceName, SidecarListen> {
    let listeners = written(file, listen, tree);
    report_clashes(&listeners, problems);
    report_exposed_outbounds(file, tree, problems);

    let mut taken: BTreeSet<u16> = listeners
        .iter()
        .map(|listener| listener.address.port())
        .collect();
    let mut sidecars = BTreeMap::new();
    for name in in_file_order(file, tree) {
        let Some(service) = file.services.get(name) else {
            continue;
        };
        let mut automatic = |given: Option<ListenAddress>, first: ListenAddress| {
            let next = || next_free(&mut taken, first.address());
            given.map_or_else(next, ListenAddress::address)
        };
        let inbound = automatic(service.sidecar.inbound, file.listen.sidecar_inbound);
        let outbound = automatic(service.sidecar.outbound, file.listen.sidecar_outbound);
        let connections = service.sidecar.connections.iter();
        let listen = SidecarListen {
            inbound,
            outbound,
            connections: connections
                .map(|(called, address)| (called.clone(), address.address()))
                .collect(),
        };
        sidecars.insert(name.clone(), listen);
    }
    sidecars
}

/// A service added at the end of the file must not move the ports of the others.
fn in_file_order<'a>(file: &'a FleetFile, tree: Cursor<'_>) -> Vec<&'a ServiceName> {
    let position = |name: &ServiceName| match tree.key("services").key(name.as_str()).key_place() {
        Place::File(span) => span.start,
        Place::Environment(_) | Place::Flag(_) => usize::MAX,
    };
    let mut names: Vec<&ServiceName> = file.services.keys().collect();
    names.sort_by_cached_key(|name| position(name));
    names
}

/// The first port nobody has, from that of `first` on. Port 0 leaves the choice to the kernel.
fn next_free(taken: &mut BTreeSet<u16>, first: SocketAddr) -> SocketAddr {
    if first.port() == 0 {
        return first;
    }
    let port = (first.port()..=u16::MAX).find(|port| !taken.contains(port));
    let port = port.unwrap_or(0);
    taken.insert(port);
    SocketAddr::new(first.ip(), port)
}

/// All addresses that the file gives or that have a fixed default.
fn written<'a>(file: &FleetFile, listen: &Listen, tree: Cursor<'a>) -> Vec<Listener<'a>> {
    let roles = [
        ("gateway", listen.gateway),
        ("redirect", listen.redirect),
        ("server", listen.server),
        ("grpc", listen.grpc),
        ("ops", listen.ops),
    ];
    let mut listeners: Vec<Listener<'a>> = roles
        .into_iter()
        .map(|(role, address)| Listener {
            address,
            what: format!("listen.{role}"),
            place: tree.key("listen").key(role).place(),
            is_upstream: false,
        })
        .collect();
    for (name, service) in &file.services {
        let at = tree.key("services").key(name.as_str());
        listeners.push(Listener {
            address: service.upstream,
            what: format!("the service `{name}`"),
            place: at.key("upstream").place(),
            is_upstream: true,
        });
        listeners.extend(service.listen.map(|address| Listener {
            address: address.address(),
            what: format!("the gateway's port for `{name}`"),
            place: at.key("listen").place(),
            is_upstream: false,
        }));
        for (called, address) in &service.sidecar.connections {
            let at = at.key("sidecar").key("connections");
            listeners.push(Listener {
                address: address.address(),
                what: format!("the way from `{name}` to `{called}`"),
                place: at.key(called.as_str()).place(),
                is_upstream: false,
            });
        }
        for (side, address) in [
            ("inbound", service.sidecar.inbound),
            ("outbound", service.sidecar.outbound),
        ] {
            listeners.extend(address.map(|address| Listener {
                address: address.address(),
                what: format!("the {side} side of `{name}`'s sidecar"),
                place: at.key("sidecar").key(side).place(),
                is_upstream: false,
            }));
        }
    }
    listeners
}

fn report_clashes(listeners: &[Listener<'_>], problems: &mut Problems<'_>) {
    let mut by_port: BTreeMap<u16, Vec<&Listener<'_>>> = BTreeMap::new();
    for listener in listeners
        .iter()
        .filter(|listener| listener.address.port() != 0)
    {
        let on_port = by_port.entry(listener.address.port()).or_default();
        if let Some(other) = on_port
            .iter()
            .find(|other| clash(other.address.ip(), listener.address.ip()))
        {
            report_clash(other, listener, problems);
        }
        on_port.push(listener);
    }
}

fn report_clash(first: &Listener<'_>, second: &Listener<'_>, problems: &mut Problems<'_>) {
    // Point at the one that was written: the other may be a default.
    let (second, first) = if second.place == first.place {
        (first, second)
    } else {
        (second, first)
    };
    let (address, what, other) = (second.address, &second.what, &first.what);
    if first.is_upstream && second.is_upstream {
        problems
            .warn(
                "fleet.shared_upstream",
                second.place,
                format!("{what} is at {address}, as is {other}"),
            )
            .why("the two are one program: what is denied to the one can be had through the other");
    } else {
        problems
            .error(
                "fleet.port_clash",
                second.place,
                format!("{what} is at {address}, where {other} listens"),
            )
            .help("give one of them another port");
    }
}

fn clash(a: IpAddr, b: IpAddr) -> bool {
    a == b || a.is_unspecified() || b.is_unspecified()
}

/// Whoever reaches the outbound side acts as the service.
fn report_exposed_outbounds(file: &FleetFile, tree: Cursor<'_>, problems: &mut Problems<'_>) {
    let first = tree.key("listen").key("sidecar_outbound").place();
    let services = file.services.iter().filter_map(|(name, service)| {
        let at = tree.key("services").key(name.as_str()).key("sidecar");
        Some((service.sidecar.outbound?, at.key("outbound").place()))
    });
    let connections = file.services.iter().flat_map(|(name, service)| {
        let at = tree.key("services").key(name.as_str()).key("sidecar");
        let at = at.key("connections");
        let listeners = service.sidecar.connections.iter();
        listeners.map(move |(called, address)| (*address, at.key(called.as_str()).place()))
    });
    for (outbound, place) in services
        .chain(connections)
        .chain([(file.listen.sidecar_outbound, first)])
    {
        if !outbound.address().ip().is_loopback() {
            let outbound = outbound.address();
            problems
                .error(
                    "fleet.outbound_exposed",
                    place,
                    format!("the outbound side of a sidecar would listen on {outbound}"),
                )
                .why("whoever reaches it can call other services as this one")
                .help("use an address on loopback");
        }
    }
}
