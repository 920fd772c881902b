//! Resident memory of a sidecar, idle and at work.

use std::time::Duration;

use crate::{
    Outcome,
    contender::{self, between_sidecars},
    declared::Extra,
    fleet::{Fleet, Placement},
    load::Tally,
    measure::{Amount, Contender, Part, Sample, Series},
    peers,
    process::{anonymous_kilobytes, resident_kilobytes},
    scenario::{Bench, Comparison, Detail},
};

/// Services a sidecar knows beside its own and the called one.
const SERVICES: usize = 1_000;
const RATE: u32 = 1_000;
/// Time without work before memory is looked at: what a start has freed goes back within seconds.
const IDLE: Duration = Duration::from_secs(6);

/// Each side of a pair of Envoys, which know one service, and of a pair of sidecars, which know a thousand. Processes are new
/// in each round, for allocators keep what they had.
pub(crate) fn compare(bench: &Bench) -> Outcome<Comparison> {
    let mut series: Vec<Series> = Vec::new();
    for round in 0..bench.rounds_of() {
        let folder = bench.subfolder(&format!("sidecar-memory-{round}"))?;
        let envoys = peers::envoy_pair(&folder, bench.certificates(), bench.upstream())?;
        let fleet = Fleet::start(&folder, bench.upstream(), Placement::SIDECARS)?;
        fleet.apply(Extra {
            services: SERVICES,
            ..Extra::START
        })?;
        let sides = [
            (contender::sidecars("envoy", &envoys), Vec::new()),
            (between_sidecars(&fleet), fleet.processes()),
        ];
        let mut place = 0;
        for (contender, processes) in &sides {
            for (name, sample) in looks(bench, contender, processes)? {
                match series.get_mut(place) {
                    Some(known) => known.samples.push(sample),
                    None => {
                        let mut new = Series::new(name);
                        new.samples.push(sample);
                        series.push(new);
                    }
                }
                place += 1;
            }
        }
    }
    Ok(Comparison {
        title: format!("resident memory of sidecars that know {SERVICES} services, Envoy one"),
        series,
        reference: 0,
        detail: Detail::Memory,
    })
}

/// Both sides idle, and then at work.
fn looks(bench: &Bench, pair: &Contender, processes: &[u32]) -> Outcome<Vec<(String, Sample)>> {
    std::thread::sleep(IDLE);
    let idle = Sample {
        tally: Tally::default(),
        cpu: 0.0,
        parts: Vec::new(),
        waits: Vec::new(),
        busy: Vec::new(),
        resident: 0,
        anonymous: 0,
    };
    let mut looks = sides(pair, "idle", &idle)?;
    let amount = Amount {
        rate: Some(RATE),
        ..bench.amount()
    };
    let at_work = bench.sample(pair, amount, processes)?;
    looks.extend(sides(pair, &format!("{RATE} requests/s"), &at_work)?);
    Ok(looks)
}

/// `sample` of each side of `pair` alone.
fn sides(pair: &Contender, when: &str, sample: &Sample) -> Outcome<Vec<(String, Sample)>> {
    let program = pair.name.split(' ').next().unwrap_or_default();
    let side = |part: &Part| {
        let mut own = sample.clone();
        own.parts.retain(|(name, _)| name == part.name);
        own.waits.retain(|(name, _)| name == part.name);
        own.cpu = own.parts.iter().map(|(_, cost)| cost).sum();
        own.resident = resident_kilobytes(part.process)?;
        own.anonymous = anonymous_kilobytes(part.process)?;
        Ok((format!("{program} {}: {when}", part.name), own))
    };
    pair.parts
        .iter()
        .filter(|part| part.is_counted)
        .map(side)
        .collect()
}
