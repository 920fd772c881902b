//! The same request while there is more and more that it is not about.

use crate::{
    Outcome,
    contender::at_gateway,
    declared::Extra,
    fleet::{Fleet, Placement},
    scenario::{Bench, Comparison, Detail},
};

/// How much there is of what grows.
const GROWTH: [usize; 4] = [10, 100, 1_000, 10_000];

/// The gateway's checks with more and more of `what`.
pub(crate) fn compare(
    bench: &Bench,
    what: &str,
    growing: impl Fn(&mut Extra) -> &mut usize,
) -> Outcome<Comparison> {
    let folder = bench.subfolder(what)?;
    let fleet = Fleet::start(&folder, bench.upstream(), Placement::GATEWAY)?;
    let with = |count: &usize| {
        let mut extra = Extra::START;
        *growing(&mut extra) = *count;
        fleet.apply(extra)?;
        at_gateway(&fleet, format!("{count} {what}"), "/checked")
    };
    Ok(Comparison {
        title: format!("gateway with all checks by number of {what}; ratio to the fewest"),
        series: bench.in_turn(&GROWTH, bench.amount(), &fleet.processes(), with)?,
        reference: 0,
        detail: Detail::Cost,
    })
}
