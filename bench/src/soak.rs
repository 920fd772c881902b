//! A soak: load at a share of what the fleet can do, for a long time, while things break. Nothing may be allowed or denied
//! wrongly, and memory must not grow.

use std::{
    fmt,
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{JoinHandle, sleep},
    time::{Duration, Instant},
};

use clap::ValueEnum;
use serde::Serialize;
use serde_json::json;

use crate::{
    Outcome,
    fleet::{Fleet, Placement},
    process::{Process, build_own_program, resident_kilobytes},
    steady::{self, Mix, Steady, Verdicts},
};

/// Time for finding out what the fleet can do.
const CAPACITY: Duration = Duration::from_secs(5);
/// Tokens live five minutes; the control plane may be away when they are asked for.
const TOKEN_AGE: Duration = Duration::from_secs(100);
/// How long an upstream is gone, and until it can be reached by everybody again.
const GONE: Duration = Duration::from_secs(1);
const BACK: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(100);
const PROGRESS: Duration = Duration::from_secs(30);
const SAMPLE: Duration = Duration::from_secs(1);
/// Every so many are in the result.
const SAMPLES_SHOWN: usize = 10;
/// Share of a run after which memory is looked at: caches and pools are full by then.
const WARM_SHARE: f64 = 0.25;
/// Growth of memory, in hundredths of its mean over the time that is looked at, that is still called flat; looked at only
/// if that time is long enough to tell growth from noise.
const FLAT_PERCENT: f64 = 10.0;
const SHORTEST_TREND: Duration = Duration::from_secs(300);

/// What breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Fault {
    /// The upstream is killed and is away for a second
    Upstream,
    /// The control plane is stopped or killed, in turn, and started again
    Server,
    /// Every proxy gets a new certificate
    Certificates,
    /// A sidecar is replaced by a new process
    Upgrades,
}

impl Fault {
    const ALL: [Self; 4] = [
        Self::Upstream,
        Self::Server,
        Self::Certificates,
        Self::Upgrades,
    ];

    const fn period(self) -> Duration {
        Duration::from_secs(match self {
            Self::Upstream => 17,
            Self::Server => 31,
            Self::Certificates => 10,
            Self::Upgrades => 23,
        })
    }
}

/// How long and under what.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct SoakArguments {
    /// Minutes of load
    #[arg(long, default_value_t = 20.0)]
    minutes: f64,
    /// Load in hundredths of what the fleet answers at most
    #[arg(long, default_value_t = 70.0)]
    load: f64,
    /// Calls a second, instead of a share of what the fleet answers
    #[arg(long)]
    rate: Option<f64>,
    /// What breaks [default: everything]
    #[arg(long, value_delimiter = ',')]
    faults: Vec<Fault>,
    /// Write the result here
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Keep the folder with configurations, data and logs
    #[arg(long)]
    keep: bool,
}

/// Runs it; fails if a verdict was wrong or memory grew.
pub(crate) fn run(arguments: &SoakArguments) -> Outcome {
    build_own_program("testudo")?;
    let folder = tempfile::Builder::new()
        .prefix("testudo-soak-")
        .disable_cleanup(arguments.keep)
        .tempdir()?;
    let upstream = Upstream::start(folder.path())?;
    let fleet = Fleet::start(folder.path(), upstream.address, Placement::ANYWHERE)?;
    let mix = Mix::new(&fleet)?;
    let rate = match arguments.rate {
        Some(rate) => rate,
        None => steady::capacity(&mix, CAPACITY)? * arguments.load / 100.0,
    };
    let length = Duration::from_secs_f64(arguments.minutes * 60.0);
    let faults = match arguments.faults.as_slice() {
        [] => Fault::ALL.to_vec(),
        some => some.to_vec(),
    };
    writeln!(
        std::io::stdout(),
        "{rate:.0} calls a second for {:.1} minutes; files in {}",
        arguments.minutes,
        folder.path().display()
    )?;
    let memory = Memory::watch(&fleet);
    let load = Steady::start(&mix, rate)?;
    let mut breakage = Breakage {
        folder: folder.path().to_owned(),
        fleet,
        upstream,
        counts: faults.into_iter().map(|fault| (fault, 0)).collect(),
        gone_until: None,
        back_by: None,
    };
    breakage.run(&mix, &load, length)?;
    let verdicts = load.end();
    let trends = memory.end(length);
    report(arguments, rate, &breakage.counts, &verdicts, &trends)?;
    judge(&verdicts, &trends)
}

fn report(
    arguments: &SoakArguments,
    rate: f64,
    faults: &[(Fault, u32)],
    verdicts: &Verdicts,
    trends: &[Trend],
) -> Outcome {
    let mut out = std::io::stdout().lock();
    writeln!(out)?;
    let counts: Vec<String> = faults
        .iter()
        .map(|(fault, count)| format!("{fault:?} {count}").to_lowercase())
        .collect();
    writeln!(out, "faults: {}", counts.join(", "))?;
    steady::print(&mut out, verdicts)?;
    for trend in trends {
        writeln!(out, "{trend}")?;
    }
    let faults: Vec<_> = faults
        .iter()
        .map(|(fault, count)| json!({ "fault": format!("{fault:?}"), "times": count }))
        .collect();
    let document = json!({
        "minutes": arguments.minutes, "calls_per_second": rate, "faults": faults, "verdicts": verdicts,
        "p50_ms": verdicts.percentile(50), "p99_ms": verdicts.percentile(99), "memory": trends,
    });
    steady::write_json(arguments.json.as_deref(), &document)
}

fn judge(verdicts: &Verdicts, trends: &[Trend]) -> Outcome {
    if !verdicts.is_right() {
        return Err("calls failed or were decided wrongly".into());
    }
    match trends.iter().find(|trend| trend.has_grown) {
        Some(trend) => Err(format!("memory grows: {trend}").into()),
        None => Ok(()),
    }
}

/// The service behind the fleet, which can be killed and comes back at its port.
pub(crate) struct Upstream {
    folder: PathBuf,
    process: Process,
    /// Where it listens.
    pub(crate) address: SocketAddr,
}

impl Upstream {
    /// Starts it, its log in `folder`.
    pub(crate) fn start(folder: &Path) -> Outcome<Self> {
        let (process, port) = Self::begin(folder, 0)?;
        Ok(Self {
            folder: folder.to_owned(),
            process,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
        })
    }

    fn begin(folder: &Path, port: u16) -> Outcome<(Process, u16)> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["upstream", "--port", &port.to_string()]);
        let mut process = Process::start(&command, None, &folder.join("upstream.log"))?;
        let port = process.lines()?.next().ok_or("no port")??.parse()?;
        Ok((process, port))
    }

    fn come_back(&mut self) -> Outcome {
        (self.process, _) = Self::begin(&self.folder, self.address.port())?;
        Ok(())
    }
}

/// A fleet that is being broken.
struct Breakage {
    folder: PathBuf,
    fleet: Fleet,
    upstream: Upstream,
    counts: Vec<(Fault, u32)>,
    gone_until: Option<Instant>,
    /// When errors are no longer to be expected.
    back_by: Option<Instant>,
}

impl Breakage {
    /// Breaks things in turn until `length` has passed.
    fn run(&mut self, mix: &Mix, load: &Steady, length: Duration) -> Outcome {
        let started = Instant::now();
        let (mut renewed, mut told) = (started, started);
        while started.elapsed() < length {
            sleep(TICK);
            if self.gone_until.is_some_and(|until| until <= Instant::now()) {
                self.upstream.come_back()?;
                self.gone_until = None;
                self.back_by = Some(Instant::now() + BACK);
            }
            if self.back_by.is_some_and(|by| by <= Instant::now()) {
                load.expect_errors(false);
                self.back_by = None;
            }
            let due = self
                .counts
                .iter()
                .position(|(fault, count)| started.elapsed() >= fault.period() * (count + 1));
            if let Some(entry) = due.and_then(|due| self.counts.get_mut(due)) {
                let (fault, count) = *entry;
                entry.1 += 1;
                self.break_with(fault, count, load)?;
            }
            if renewed.elapsed() >= TOKEN_AGE && mix.renew_tokens(&self.fleet).is_ok() {
                renewed = Instant::now();
            }
            if told.elapsed() >= PROGRESS {
                told = Instant::now();
                let passed = started.elapsed().as_secs();
                writeln!(std::io::stdout(), "{passed:>5} s  {}", load.so_far())?;
            }
        }
        if self.gone_until.take().is_some() {
            self.upstream.come_back()?;
        }
        Ok(())
    }

    fn break_with(&mut self, fault: Fault, count: u32, load: &Steady) -> Outcome {
        match fault {
            Fault::Upstream => {
                load.expect_errors(true);
                self.back_by = None;
                self.upstream.process.kill()?;
                self.gone_until = Some(Instant::now() + GONE);
                Ok(())
            }
            Fault::Server => self.fleet.restart_server(count % 2 == 1),
            Fault::Certificates => {
                let fleet = &self.fleet;
                for proxy in [&fleet.gateway, &fleet.caller, &fleet.called] {
                    proxy.process.signal("-HUP")?;
                }
                Ok(())
            }
            // Always the same one, so that the memory of the others can be followed.
            Fault::Upgrades => Fleet::upgrade(&self.folder, &mut self.fleet.called),
        }
    }
}

/// Samples of resident memory, taken beside.
struct Memory {
    watched: Arc<Vec<Watched>>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

struct Watched {
    name: &'static str,
    process: u32,
    samples: Mutex<Vec<(f64, f64)>>,
}

/// How the memory of a process went.
#[derive(Debug, Serialize)]
pub(crate) struct Trend {
    name: &'static str,
    /// Seconds since the start, and megabytes then.
    samples: Vec<(f64, f64)>,
    first_megabytes: f64,
    mean_megabytes: f64,
    most_megabytes: f64,
    kilobytes_per_minute: f64,
    has_grown: bool,
}

impl Memory {
    /// Watches those processes of `fleet` that are not replaced.
    fn watch(fleet: &Fleet) -> Self {
        let watched = [("gateway", &fleet.gateway), ("sidecar", &fleet.caller)];
        let watched = watched.map(|(name, proxy)| Watched {
            name,
            process: proxy.process.id(),
            samples: Mutex::default(),
        });
        let watched = Arc::new(Vec::from(watched));
        let stop = Arc::<AtomicBool>::default();
        let (seen, ended) = (Arc::clone(&watched), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let started = Instant::now();
            while !ended.load(Ordering::Relaxed) {
                for watched in seen.iter() {
                    if let Ok(kilobytes) = resident_kilobytes(watched.process) {
                        let sample = (started.elapsed().as_secs_f64(), kilobytes as f64);
                        watched.samples().push(sample);
                    }
                }
                sleep(SAMPLE);
            }
        });
        Self {
            watched,
            stop,
            thread,
        }
    }

    fn end(self, length: Duration) -> Vec<Trend> {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.thread.join());
        let trend = |watched: &Watched| Trend::of(watched.name, &watched.samples(), length);
        self.watched.iter().map(trend).collect()
    }
}

impl Watched {
    fn samples(&self) -> MutexGuard<'_, Vec<(f64, f64)>> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Trend {
    /// Least squares over what comes after the warm-up; samples are seconds and kilobytes.
    fn of(name: &'static str, samples: &[(f64, f64)], length: Duration) -> Self {
        let warm = length.as_secs_f64() * WARM_SHARE;
        let (times, sizes): (Vec<f64>, Vec<f64>) = samples
            .iter()
            .filter(|(time, _)| *time >= warm)
            .copied()
            .unzip();
        let (time, size) = (mean(&times), mean(&sizes));
        let pairs = times.iter().zip(&sizes);
        let (mut covariance, mut variance) = (0.0, 0.0);
        for (t, s) in pairs {
            covariance += (t - time) * (s - size);
            variance += (t - time) * (t - time);
        }
        let slope = if variance > 0.0 {
            covariance / variance
        } else {
            0.0
        };
        let looked_at = length.as_secs_f64() * (1.0 - WARM_SHARE);
        let grown_percent = slope * looked_at / size * 100.0;
        Self {
            name,
            samples: samples
                .iter()
                .step_by(SAMPLES_SHOWN)
                .map(|(time, size)| (time.round(), size / 1024.0))
                .collect(),
            first_megabytes: samples.first().map_or(f64::NAN, |(_, size)| size / 1024.0),
            mean_megabytes: size / 1024.0,
            most_megabytes: sizes.iter().copied().fold(0.0, f64::max) / 1024.0,
            kilobytes_per_minute: slope * 60.0,
            has_grown: looked_at >= SHORTEST_TREND.as_secs_f64() && grown_percent > FLAT_PERCENT,
        }
    }
}

impl fmt::Display for Trend {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "memory of the {:<10} {:>8.1} MB at first, {:.1} on average, {:.1} at most, {:+.1} KB a minute",
            self.name,
            self.first_megabytes,
            self.mean_megabytes,
            self.most_megabytes,
            self.kilobytes_per_minute
        )
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trend(kilobytes: impl Fn(f64) -> f64, minutes: u64) -> Trend {
        let seconds = (0..minutes * 60).map(|second| second as f64);
        let samples: Vec<_> = seconds.map(|second| (second, kilobytes(second))).collect();
        Trend::of("gateway", &samples, Duration::from_secs(minutes * 60))
    }

    #[test]
    fn growth_after_the_warm_up_is_found_and_noise_is_not() {
        let leak = trend(|second| 20_000.0 + second * 10.0, 20);
        assert!((leak.kilobytes_per_minute - 600.0).abs() < 1.0);
        assert!(leak.has_grown);
        let noise = trend(|second| 20_000.0 + (second % 60.0) * 20.0, 20);
        assert!(!noise.has_grown, "{noise}");
        let warm_up = trend(|second| 20_000.0 + second.min(200.0) * 50.0, 20);
        assert!(!warm_up.has_grown, "{warm_up}");
        assert!(
            !trend(|second| 20_000.0 + second * 10.0, 2).has_grown,
            "too short to tell"
        );
    }
}
