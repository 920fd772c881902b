//! A hundred upgrades under load: the gateway and both sidecars are replaced in turn, and no request may fail.

use std::{
    io::Write,
    path::PathBuf,
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{
    Outcome,
    fleet::{Fleet, Placement},
    process::build_own_program,
    soak::Upstream,
    steady::{self, Mix, Steady},
};

/// Tokens live five minutes.
const TOKEN_AGE: Duration = Duration::from_secs(120);

/// How often and under how much load.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct UpgradeArguments {
    /// Upgrades, of the gateway and the sidecars in turn
    #[arg(long, default_value_t = 100)]
    times: usize,
    /// Calls a second
    #[arg(long, default_value_t = 1_000.0)]
    rate: f64,
    /// Write the result here
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Keep the folder with configurations, data and logs
    #[arg(long)]
    keep: bool,
}

/// Runs it; fails if a request did.
pub(crate) fn run(arguments: &UpgradeArguments) -> Outcome {
    build_own_program("testudo")?;
    let folder = tempfile::Builder::new()
        .prefix("testudo-upgrade-")
        .disable_cleanup(arguments.keep)
        .tempdir()?;
    let upstream = Upstream::start(folder.path())?;
    let mut fleet = Fleet::start(folder.path(), upstream.address, Placement::ANYWHERE)?;
    let mix = Mix::new(&fleet)?;
    // Connections are opened and caches filled.
    steady::capacity(&mix, Duration::from_secs(2))?;
    let load = Steady::start(&mix, arguments.rate)?;
    let (started, mut renewed) = (Instant::now(), Instant::now());
    let mut slowest = Duration::ZERO;
    for number in 0..arguments.times {
        sleep(Duration::from_millis(200));
        let proxy = match number % 3 {
            0 => &mut fleet.gateway,
            1 => &mut fleet.called,
            _ => &mut fleet.caller,
        };
        let began = Instant::now();
        Fleet::upgrade(folder.path(), proxy)?;
        slowest = slowest.max(began.elapsed());
        if renewed.elapsed() > TOKEN_AGE {
            mix.renew_tokens(&fleet)?;
            renewed = Instant::now();
        }
        if number % 10 == 9 {
            writeln!(
                std::io::stdout(),
                "{} upgrades: {}",
                number + 1,
                load.so_far()
            )?;
        }
    }
    let took = started.elapsed().as_secs_f64();
    let verdicts = load.end();
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "\n{} upgrades in {took:.0} s, the slowest in {:.1} s; {:.0} calls a second",
        arguments.times,
        slowest.as_secs_f64(),
        verdicts.right as f64 / took
    )?;
    steady::print(&mut out, &verdicts)?;
    let document = json!({ "upgrades": arguments.times, "seconds": took, "verdicts": verdicts });
    steady::write_json(arguments.json.as_deref(), &document)?;
    if verdicts.is_right() {
        Ok(())
    } else {
        Err("calls failed or were decided wrongly".into())
    }
}
