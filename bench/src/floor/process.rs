//! Floors as processes of their own, as the peers are.

use std::{net::SocketAddr, path::Path, process::Command};

use clap::ValueEnum;

use super::Wire;
use crate::{
    Outcome,
    certificates::{Certificates, Identity},
    instructions,
    peers::{Peer, free_address},
    process::PROXY_CORE,
};

/// What lies between the outside and the upstream when there are two floors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gap {
    /// How requests come to the first.
    pub(crate) from: Wire,
    /// How they go from it to the second.
    pub(crate) between: Wire,
    /// Cores of the first and the second.
    pub(crate) cores: (Option<usize>, Option<usize>),
    /// Whether callgrind counts their instructions, in files of their names in the folder.
    pub(crate) is_counted: bool,
}

/// A floor's place in the machine and between others.
struct Place<'a> {
    name: &'a str,
    core: Option<usize>,
    from: Wire,
    to: SocketAddr,
    over: Wire,
    is_counted: bool,
}

/// A floor: HTTP/1.1 over TLS in, HTTP/1.1 to `upstream`.
pub(crate) fn alone(
    folder: &Path,
    certificates: &Certificates,
    web: &Identity,
    upstream: SocketAddr,
) -> Outcome<Peer> {
    let place = Place {
        name: "floor",
        core: PROXY_CORE,
        from: Wire::Tls,
        to: upstream,
        over: Wire::Plain,
        is_counted: false,
    };
    start(folder, certificates, web, &place)
}

/// Two floors, the outer one first. The second speaks HTTP/1.1 to `upstream`.
pub(crate) fn pair(
    folder: &Path,
    certificates: &Certificates,
    web: &Identity,
    upstream: SocketAddr,
    gap: Gap,
) -> Outcome<(Peer, Peer)> {
    let name = |place: &str| format!("floor-{:?}-{:?}-{place}", gap.from, gap.between);
    let inner = Place {
        name: &name("inner"),
        core: gap.cores.1,
        from: gap.between,
        to: upstream,
        over: Wire::Plain,
        is_counted: gap.is_counted,
    };
    let inner = start(folder, certificates, web, &inner)?;
    let outer = Place {
        name: &name("outer"),
        core: gap.cores.0,
        from: gap.from,
        to: inner.address,
        over: gap.between,
        is_counted: gap.is_counted,
    };
    Ok((start(folder, certificates, web, &outer)?, inner))
}

fn start(
    folder: &Path,
    certificates: &Certificates,
    web: &Identity,
    place: &Place<'_>,
) -> Outcome<Peer> {
    let address = free_address()?;
    let client = certificates.workload("caller")?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("floor-proxy");
    command.args([
        "--listen",
        &address.to_string(),
        "--from",
        &word(place.from),
    ]);
    command.args(["--to", &place.to.to_string(), "--over", &word(place.over)]);
    command.arg("--root").arg(certificates.root());
    command.arg("--chain").arg(&web.chain);
    command.arg("--key").arg(&web.key);
    command.arg("--client-chain").arg(&client.chain);
    command.arg("--client-key").arg(&client.key);
    if place.is_counted {
        let counts = folder.join(format!("{}.callgrind", place.name));
        command = instructions::counted(&command, &counts);
    }
    let log = folder.join(format!("{}.err", place.name));
    Peer::start_on(&command, place.core, address, &log)
}

/// As the command line has it.
fn word(wire: Wire) -> String {
    let value = wire.to_possible_value();
    value.map_or_else(String::new, |value| value.get_name().to_owned())
}
