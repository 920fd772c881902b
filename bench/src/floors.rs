//! What of the cost comes from where: peers, the libraries alone, the second encrypted hop, and what Testudo does itself.

use std::{net::SocketAddr, path::Path};

use crate::{
    Outcome, contender,
    fleet::{Fleet, Placement},
    floor::{self, Gap, Wire},
    peers::{self, Peer},
    process::{LOAD_CORE, PROXY_CORE},
    scenario::{Bench, Comparison, Detail},
};

/// The gateway beside nginx and beside floors, each with and without a second proxy behind it.
pub(crate) fn at_gateway(bench: &Bench) -> Outcome<Comparison> {
    let folder = bench.subfolder("floor")?;
    let (certificates, web, upstream) = (bench.certificates(), bench.web(), bench.upstream());
    let fleet = Fleet::start(&folder, upstream, Placement::GATEWAY)?;
    let nginx = peers::nginx(&folder, web, upstream)?;
    let two_nginx = peers::nginx_pair(&folder, certificates, web, upstream)?;
    let floor = floor::alone(&folder, certificates, web, upstream)?;
    let mutual = two(bench, &folder, upstream, Wire::Mutual)?;
    let mesh = two(bench, &folder, upstream, Wire::Mesh)?;
    let path = "/open";
    let behind = |name, two| contender::behind_another(bench, name, two, path);
    let contenders = [
        contender::peer(bench, "nginx", &nginx, path),
        behind("nginx, mutual TLS to a second", &two_nginx),
        contender::peer(bench, "floor", &floor, path),
        behind("floor, HTTP/1.1 and mutual TLS to a second", &mutual),
        behind("floor, HTTP/2 and mutual TLS to a second", &mesh),
        contender::at_gateway(&fleet, "testudo gateway: no user".to_owned(), path)?,
        contender::at_gateway(&fleet, "testudo gateway: all checks".to_owned(), "/checked")?,
    ];
    Ok(Comparison {
        title: "gateway and the libraries alone, 100 bytes; ratio to nginx".to_owned(),
        series: bench.rounds(&contenders, bench.amount(), &fleet.processes())?,
        reference: 0,
        detail: Detail::Cost,
    })
}

/// A floor in the gateway's place and one behind it, in front of `upstream`.
pub(crate) fn two(
    bench: &Bench,
    folder: &Path,
    upstream: SocketAddr,
    between: Wire,
) -> Outcome<(Peer, Peer)> {
    let gap = Gap {
        from: Wire::Tls,
        between,
        cores: (PROXY_CORE, LOAD_CORE),
        is_counted: false,
    };
    floor::pair(folder, bench.certificates(), bench.web(), upstream, gap)
}

/// Two sidecars beside two Envoys and two floors.
pub(crate) fn between_sidecars(bench: &Bench) -> Outcome<Comparison> {
    let folder = bench.subfolder("pair")?;
    let (certificates, web, upstream) = (bench.certificates(), bench.web(), bench.upstream());
    let fleet = Fleet::start(&folder, upstream, Placement::SIDECARS)?;
    let envoys = peers::envoy_pair(&folder, certificates, upstream)?;
    let gap = Gap {
        from: Wire::Plain,
        between: Wire::Mesh,
        cores: (PROXY_CORE, PROXY_CORE),
        is_counted: false,
    };
    let floors = floor::pair(&folder, certificates, web, upstream, gap)?;
    let contenders = [
        contender::sidecars("envoy pair: mTLS, RBAC", &envoys),
        contender::sidecars("floor pair: mTLS, no checks", &floors),
        contender::between_sidecars(&fleet),
    ];
    Ok(Comparison {
        title: "sidecar pair over mTLS, 100 bytes; ratio to Envoy's pair".to_owned(),
        series: bench.rounds(&contenders, bench.amount(), &fleet.processes())?,
        reference: 0,
        detail: Detail::Cost,
    })
}
