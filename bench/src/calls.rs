//! Many calls at once, nothing pinned, the load beside the proxies.

use crate::{
    Outcome,
    contender::{at_gateway, between_sidecars},
    fleet::{Fleet, Placement},
    measure::Amount,
    scenario::{Bench, Comparison, Detail},
};

/// `callers` connections with a request under way on each.
pub(crate) fn compare(bench: &Bench, callers: usize) -> Outcome<Comparison> {
    let folder = bench.subfolder(&format!("calls-{callers}"))?;
    let fleet = Fleet::start(&folder, bench.upstream(), Placement::ANYWHERE)?;
    let amount = Amount {
        connections: callers,
        core: None,
        ..bench.amount()
    };
    let gateway = at_gateway(&fleet, "gateway, sidecar, service".to_owned(), "/checked")?;
    let mut pair = between_sidecars(&fleet);
    pair.name = "sidecar, sidecar, service".to_owned();
    Ok(Comparison {
        title: format!("{callers} calls at once, nothing pinned"),
        series: bench.rounds(&[pair, gateway], amount, &fleet.processes())?,
        reference: 0,
        detail: Detail::Cost,
    })
}
