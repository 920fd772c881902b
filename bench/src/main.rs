//! Testudo beside nginx, haproxy and Envoy: one run, the same upstream, the same TLS, the same load.
//!
//! `cargo run --release -p testudo-bench -- [SCENARIO]…`; method and figures are in `docs/performance.md`.

mod caller;
mod calls;
mod certificates;
mod checks;
mod contender;
mod declared;
mod fleet;
mod floor;
mod floors;
mod gateway;
mod growth;
mod identity;
mod instructions;
mod latency;
mod load;
mod machine;
mod measure;
mod memory;
mod peers;
mod process;
mod report;
mod resident;
mod revocations;
mod scenario;
mod soak;
mod steady;
mod tokens;
mod uncached;
mod upgrade;
mod upstream;

use std::{error::Error, fs, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use mimalloc::MiMalloc;

use crate::{
    floor::FloorArguments,
    load::{LoadArguments, TargetArguments},
    scenario::{Bench, Scenario},
    soak::SoakArguments,
    upgrade::UpgradeArguments,
    upstream::UpstreamArguments,
};

/// Testudo's own: the floor differs from it in what it does, not in what it is built of.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// A bench stops at the first surprise and says what it was.
pub(crate) type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// Measures Testudo beside its peers.
#[derive(Debug, Parser)]
#[command(name = "testudo-bench", args_conflicts_with_subcommands = true)]
struct Arguments {
    /// What to measure [default: everything]
    scenarios: Vec<Scenario>,
    #[command(flatten)]
    plan: Plan,
    #[command(subcommand)]
    part: Option<Part>,
}

/// How long and how often.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Plan {
    /// Seconds of each measurement
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Rounds; in each, every contender is measured once
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Connections, each with one request under way
    #[arg(long, default_value_t = 50)]
    connections: usize,
    /// Requests a second of everybody, where a scenario does not say how many [default: as many as are answered]
    #[arg(long)]
    rate: Option<u32>,
    /// Write all samples here
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Keep the folder with configurations, data and logs
    #[arg(long)]
    keep: bool,
}

/// What else the program does; upstream and load are processes of their own.
#[derive(Debug, Subcommand)]
enum Part {
    /// Answer every request with the same bytes; prints the port
    Upstream(UpstreamArguments),
    /// Pass requests on with the libraries under Testudo and nothing else
    FloorProxy(FloorArguments),
    /// Make requests; prints `started` after the warm-up and the tally at the end
    Load(LoadArguments),
    /// Make one request on each connection, print `held`, and keep them
    Hold(TargetArguments),
    /// Measure the memory of connections that wait, beside nginx
    Memory {
        /// Connections
        #[arg(long, default_value_t = 2_000)]
        connections: usize,
        /// Rounds, each with new processes
        #[arg(long, default_value_t = 3)]
        rounds: usize,
    },
    /// Count the instructions of a request with callgrind, beside the counts that were kept
    Instructions {
        /// Keep these counts
        #[arg(long)]
        keep_counts: bool,
    },
    /// Load for a long time, with faults: nothing may be decided wrongly, and memory must not grow
    Soak(SoakArguments),
    /// Take tokens back while many proxies are connected: how long until each enforces it
    Revocations {
        /// Proxies
        #[arg(long, default_value_t = 50)]
        proxies: usize,
        /// Revocations
        #[arg(long, default_value_t = 200)]
        times: usize,
    },
    /// Replace proxies again and again under load: no request may fail
    Upgrade(UpgradeArguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    testudo_runtime::raise_descriptor_limit();
    let outcome = match arguments.part {
        Some(Part::Upstream(arguments)) => upstream::run(&arguments),
        Some(Part::FloorProxy(arguments)) => floor::run(&arguments),
        Some(Part::Load(arguments)) => load::run(arguments),
        Some(Part::Hold(arguments)) => load::hold(arguments),
        Some(Part::Memory {
            connections,
            rounds,
        }) => in_folder(&arguments.plan, |bench| {
            memory::run(bench, rounds, connections)
        }),
        Some(Part::Instructions { keep_counts }) => in_folder(&arguments.plan, |bench| {
            instructions::run(bench, keep_counts)
        }),
        Some(Part::Revocations { proxies, times }) => in_folder(&arguments.plan, |bench| {
            revocations::run(bench, proxies, times)
        }),
        Some(Part::Soak(arguments)) => soak::run(&arguments),
        Some(Part::Upgrade(arguments)) => upgrade::run(&arguments),
        None => bench(&arguments.scenarios, &arguments.plan),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::complain(&*error);
            ExitCode::FAILURE
        }
    }
}

/// Measures something else than a scenario.
fn in_folder(plan: &Plan, measure: impl FnOnce(&Bench) -> Outcome) -> Outcome {
    process::build_own_program("testudo")?;
    let folder = tempfile::Builder::new()
        .prefix("testudo-bench-")
        .disable_cleanup(plan.keep)
        .tempdir()?;
    measure(&Bench::start(folder.path(), plan)?)
}

fn bench(scenarios: &[Scenario], plan: &Plan) -> Outcome {
    let scenarios = if scenarios.is_empty() {
        Scenario::ALL
    } else {
        scenarios
    };
    process::build_own_program("testudo")?;
    let folder = tempfile::Builder::new()
        .prefix("testudo-bench-")
        .disable_cleanup(plan.keep)
        .tempdir()?;
    let machine = machine::describe();
    report::heading(&machine, folder.path())?;
    let bench = Bench::start(folder.path(), plan)?;
    let mut results = Vec::new();
    for scenario in scenarios {
        for result in bench.run(*scenario)? {
            report::table(&result)?;
            results.push(result);
        }
    }
    if let Some(path) = &plan.json {
        let document = serde_json::json!({ "machine": machine, "results": results });
        fs::write(path, serde_json::to_vec_pretty(&document)?)?;
    }
    Ok(())
}
