//! Floors as processes of their own, as the peers are.

use std::{net::SocketAddr, path::Path, process::Command};

use clap::ValueEnum;

use super::Wire;
use crate::{
    Outcome,
    certificates::{Certificates, Identity},
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
    /// Core of the second.
    pub(crate) inner_core: Option<usize>,
}

/// A floor: HTTP/1.1 over TLS in, HTTP/1.1 to `upstream`.
pub(crate) fn alone(
    folder: &Path,
    certificates: &Certificates,
    web: &Identity,
    upstream: SocketAddr,
) -> Outcome<Peer> {
    let wires = (Wire::Tls, Wire::Plain);
    start(
        folder,
        "floor",
        PROXY_CORE,
        wires,
        certificates,
        web,
        upstream,
    )
}

/// Two floors, the outer one first, which is on the core of what is measured. The second speaks HTTP/1.1 to `upstream`.
pub(crate) fn pair(
    folder: &Path,
    certificates: &Certificates,
    web: &Identity,
    upstream: SocketAddr,
    gap: Gap,
) -> Outcome<(Peer, Peer)> {
    let name = |place: &str| format!("floor-{:?}-{:?}-{place}", gap.from, gap.between);
    let inner = start(
        folder,
        &name("inner"),
        gap.inner_core,
        (gap.between, Wire::Plain),
        certificates,
        web,
        upstream,
    )?;
    let outer = start(
        folder,
        &name("outer"),
        PROXY_CORE,
        (gap.from, gap.between),
        certificates,
        web,
        inner.address,
    )?;
    Ok((outer, inner))
}

fn start(
    folder: &Path,
    name: &str,
    core: Option<usize>,
    (from, over): (Wire, Wire),
    certificates: &Certificates,
    web: &Identity,
    to: SocketAddr,
) -> Outcome<Peer> {
    let address = free_address()?;
    let client = certificates.workload("caller")?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("floor-proxy");
    command.args(["--listen", &address.to_string(), "--from", &word(from)]);
    command.args(["--to", &to.to_string(), "--over", &word(over)]);
    command.arg("--root").arg(certificates.root());
    command.arg("--chain").arg(&web.chain);
    command.arg("--key").arg(&web.key);
    command.arg("--client-chain").arg(&client.chain);
    command.arg("--client-key").arg(&client.key);
    Peer::start_on(&command, core, address, &folder.join(format!("{name}.err")))
}

/// As the command line has it.
fn word(wire: Wire) -> String {
    let value = wire.to_possible_value();
    value.map_or_else(String::new, |value| value.get_name().to_owned())
}
