//! What is compared: a target for load, and the processes whose cost it is.

use crate::{
    Outcome,
    fleet::{Fleet, Proxy},
    measure::{Brings, Contender, Part, Target},
    peers::Peer,
    process::Process,
    scenario::Bench,
};

/// Load on a peer with TLS.
pub(crate) fn peer(
    bench: &Bench,
    name: &'static str,
    peer: &Peer,
    path: &'static str,
) -> Contender {
    Contender {
        name: name.to_owned(),
        target: target(bench, peer, path),
        parts: vec![part(name, &peer.process, true)],
    }
}

/// Load on the outer one of two peers with TLS. What the inner one uses is told beside it.
pub(crate) fn behind_another(
    bench: &Bench,
    name: &str,
    (outer, inner): &(Peer, Peer),
    path: &'static str,
) -> Contender {
    Contender {
        name: name.to_owned(),
        target: target(bench, outer, path),
        parts: vec![
            part("outer", &outer.process, true),
            part("inner", &inner.process, false),
        ],
    }
}

/// Load on the first of two sidecars, which takes plain HTTP for the service `echo`; both count.
pub(crate) fn sidecars(name: &str, (outbound, inbound): &(Peer, Peer)) -> Contender {
    Contender {
        name: name.to_owned(),
        target: Target {
            address: outbound.address,
            host: "echo",
            path: "/open",
            ca: None,
            brings: Brings::Nothing,
        },
        parts: vec![
            part("outbound", &outbound.process, true),
            part("inbound", &inbound.process, true),
        ],
    }
}

/// `path` behind a peer.
pub(crate) fn target(bench: &Bench, peer: &Peer, path: &'static str) -> Target {
    Target {
        address: peer.address,
        host: "localhost",
        path,
        ca: Some(bench.certificates().root()),
        brings: Brings::Nothing,
    }
}

/// Load on the gateway. What the sidecar and the control plane use is told beside it.
pub(crate) fn at_gateway(fleet: &Fleet, name: String, path: &'static str) -> Outcome<Contender> {
    let brings = if path == "/checked" {
        Brings::Token(fleet.token()?)
    } else {
        Brings::Nothing
    };
    Ok(Contender {
        name,
        target: Target {
            address: fleet.gateway.address,
            host: "localhost",
            path,
            ca: Some(fleet.ca.clone()),
            brings,
        },
        parts: vec![
            proxy("gateway", &fleet.gateway, true),
            proxy("sidecar", &fleet.called, false),
            part("control plane", &fleet.server, false),
        ],
    })
}

/// Load on the outbound side of the calling service's sidecar.
pub(crate) fn between_sidecars(fleet: &Fleet) -> Contender {
    Contender {
        name: "testudo pair: mTLS, both decide and record".to_owned(),
        target: Target {
            address: fleet.caller.address,
            host: "echo",
            path: "/open",
            ca: None,
            brings: Brings::Nothing,
        },
        parts: vec![
            proxy("outbound", &fleet.caller, true),
            proxy("inbound", &fleet.called, true),
            part("control plane", &fleet.server, false),
        ],
    }
}

fn part(name: &'static str, process: &Process, is_counted: bool) -> Part {
    Part {
        name,
        process: process.id(),
        counts: None,
        is_counted,
    }
}

fn proxy(name: &'static str, proxy: &Proxy, is_counted: bool) -> Part {
    Part {
        counts: proxy.counts.clone(),
        ..part(name, &proxy.process, is_counted)
    }
}
