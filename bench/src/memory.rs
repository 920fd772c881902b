//! Memory of connections that wait: what one takes, and what stays when all have gone.

use std::{
    fs,
    io::{self, Write},
    path::Path,
    time::Duration,
};

use crate::{
    Outcome,
    contender::{self, at_gateway},
    fleet::{Fleet, Placement},
    load::HELD,
    measure::{self, Target, median},
    peers,
    process::{LOAD_CORE, Process, resident_kilobytes},
    scenario::Bench,
};

/// Connections before the first look: what is made once is there then.
const WARM_UP: usize = 100;
/// Pause between the last answer and the look at what connections take.
const BEFORE_LOOK: Duration = Duration::from_secs(3);
/// Pause between their end and the look at what stays.
const AFTER_END: Duration = Duration::from_secs(5);

/// What was seen of one process, in kilobytes.
#[derive(Debug, Clone, Copy)]
struct Sight {
    before: u64,
    during: u64,
    after: u64,
}

/// Prints what `connections` to nginx and to the gateway take, each kept after one answer.
pub(crate) fn run(bench: &Bench, rounds: usize, connections: usize) -> Outcome {
    let mut sights = [("nginx", Vec::new()), ("testudo gateway", Vec::new())];
    for round in 0..rounds {
        // Allocators keep what they had: each round needs new processes.
        let folder = bench.subfolder(&format!("memory-{round}"))?;
        let nginx = peers::nginx(&folder, bench.web(), bench.upstream())?;
        let fleet = Fleet::start(&folder, bench.upstream(), Placement::GATEWAY)?;
        let gateway = at_gateway(&fleet, String::new(), "/open")?.target;
        let targets = [
            (
                nginx.process.id(),
                contender::target(bench, &nginx, "/open"),
            ),
            (fleet.gateway.process.id(), gateway),
        ];
        for ((process, target), (_, sights)) in targets.iter().zip(&mut sights) {
            measure::settle(&fleet.processes())?;
            sights.push(look(*process, target, connections, &folder)?);
        }
    }
    Ok(table(&sights, connections)?)
}

fn look(process: u32, target: &Target, connections: usize, folder: &Path) -> Outcome<Sight> {
    drop(hold(target, WARM_UP, folder)?);
    std::thread::sleep(AFTER_END);
    let before = resident_kilobytes(process)?;
    let held = hold(target, connections, folder)?;
    std::thread::sleep(BEFORE_LOOK);
    let during = resident_kilobytes(process)?;
    drop(held);
    std::thread::sleep(AFTER_END);
    Ok(Sight {
        before,
        during,
        after: resident_kilobytes(process)?,
    })
}

/// Connections that stay open until the process is dropped.
fn hold(target: &Target, connections: usize, folder: &Path) -> Outcome<Process> {
    let log = folder.join("hold.log");
    let command = measure::generator("hold", target, connections)?;
    let mut process = Process::start(&command, LOAD_CORE, &log)?;
    match process.lines()?.next() {
        Some(Ok(line)) if line == HELD => Ok(process),
        _ => Err(format!("connections were not held: {}", fs::read_to_string(log)?).into()),
    }
}

/// Prints medians over the rounds; the first row is what the others are compared with.
fn table(rows: &[(&str, Vec<Sight>)], connections: usize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "\n{connections} connections over TLS that wait after one answer; ratio to the first"
    )?;
    writeln!(
        out,
        "{:<20} {:>12} {:>12} {:>12} {:>12} {:>6}",
        "", "before MB", "with MB", "5 s after MB", "KB each", "ratio"
    )?;
    let each = |sight: &Sight| (sight.during as f64 - sight.before as f64) / connections as f64;
    let reference = rows.first().map_or(f64::NAN, |(_, sights)| {
        median(sights.iter().map(each).collect())
    });
    for (name, sights) in rows {
        let figure = |of: fn(&Sight) -> u64| {
            let megabytes = sights.iter().map(|sight| of(sight) as f64 / 1024.0);
            median(megabytes.collect())
        };
        let each = median(sights.iter().map(each).collect());
        writeln!(
            out,
            "{name:<20} {:>12.1} {:>12.1} {:>12.1} {each:>12.1} {:>6.2}",
            figure(|sight| sight.before),
            figure(|sight| sight.during),
            figure(|sight| sight.after),
            each / reference,
        )?;
    }
    out.flush()
}
