//! One measurement, and what many of them say.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::{
    Outcome, instructions,
    load::Tally,
    process::{
        Process, anonymous_kilobytes, core_seconds, cpu_micros, resident_kilobytes, waited_micros,
    },
};

/// Load before each measurement.
pub(crate) const WARM_UP_SECONDS: f64 = 1.0;
/// What was measured before may have work left: events to ship.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(20);
const SETTLE_LOOK: Duration = Duration::from_millis(250);
/// Share of a core below which processes count as idle.
const IDLE_SHARE: f64 = 0.04;

/// Where load goes.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// Proxy.
    pub(crate) address: SocketAddr,
    /// `Host`.
    pub(crate) host: &'static str,
    /// Path.
    pub(crate) path: &'static str,
    /// CA of the proxy; plain HTTP without.
    pub(crate) ca: Option<PathBuf>,
    /// What requests bring.
    pub(crate) brings: Brings,
}

/// What requests bring.
#[derive(Debug, Clone)]
pub(crate) enum Brings {
    /// Nothing.
    Nothing,
    /// The bearer token in this file.
    Token(PathBuf),
    /// Each another token of this file.
    Tokens(PathBuf),
    /// The form in this file: they are POST.
    Form(PathBuf),
}

/// How much load.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Amount {
    /// Connections.
    pub(crate) connections: usize,
    /// Seconds.
    pub(crate) seconds: u64,
    /// Requests a second; as many as are answered without.
    pub(crate) rate: Option<u32>,
    /// Whether each request has a connection of its own.
    pub(crate) fresh: bool,
    /// Addresses of this machine that connections come from in turn.
    pub(crate) addresses: u8,
    /// Core of the generator.
    pub(crate) core: Option<usize>,
}

/// A process whose cost is taken.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    /// Its name.
    pub(crate) name: &'static str,
    /// Its process id.
    pub(crate) process: u32,
    /// Where callgrind counts its instructions; they are its cost then, and else its time is.
    pub(crate) counts: Option<PathBuf>,
    /// Whether it counts as the proxy; the others are told for information.
    pub(crate) is_counted: bool,
}

/// Something that is compared.
pub(crate) struct Contender {
    /// Its name.
    pub(crate) name: String,
    /// Where its load goes.
    pub(crate) target: Target,
    /// Its processes.
    pub(crate) parts: Vec<Part>,
}

/// One measurement.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Sample {
    /// The generator's tally.
    pub(crate) tally: Tally,
    /// CPU microseconds per request of what counts.
    pub(crate) cpu: f64,
    /// The same of each part.
    pub(crate) parts: Vec<(String, f64)>,
    /// Microseconds per request that threads of each part could have run and had no core.
    pub(crate) waits: Vec<(String, f64)>,
    /// Share of each core that was in use.
    pub(crate) busy: Vec<f64>,
    /// Resident kilobytes of what counts, afterwards.
    pub(crate) resident: u64,
    /// What of that is no file's.
    pub(crate) anonymous: u64,
}

/// All measurements of one contender.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Series {
    /// Its name.
    pub(crate) name: String,
    /// One for each round.
    pub(crate) samples: Vec<Sample>,
}

/// Measures `contender` once.
pub(crate) fn measure(contender: &Contender, amount: Amount, log: &Path) -> Outcome<Sample> {
    let mut load = Process::start(&load_command(&contender.target, amount)?, amount.core, log)?;
    let mut lines = load.lines()?;
    let mut line = || -> Outcome<String> {
        match lines.next() {
            Some(line) => Ok(line?),
            None => Err(format!("no load: {}", fs::read_to_string(log)?).into()),
        }
    };
    line()?;
    let before = Look::take(contender)?;
    let tally: Tally = serde_json::from_str(&line()?)?;
    let after = Look::take(contender)?;
    load.wait()?;
    if tally.requests == 0 {
        return Err(format!(
            "{}: no request succeeded: {:?}",
            contender.name, tally.errors
        )
        .into());
    }
    let mut sample = Sample {
        cpu: 0.0,
        parts: Vec::new(),
        waits: Vec::new(),
        busy: after.busy_since(&before),
        resident: 0,
        anonymous: 0,
        tally,
    };
    let requests = sample.tally.requests as f64;
    for (index, part) in contender.parts.iter().enumerate() {
        let grown = |of: fn(&Look) -> &Vec<f64>| {
            let value = |look| of(look).get(index).copied().unwrap_or(f64::NAN);
            (value(&after) - value(&before)) / requests
        };
        let cost = grown(|look| &look.costs);
        sample.parts.push((part.name.to_owned(), cost));
        let waited = grown(|look| &look.waits);
        sample.waits.push((part.name.to_owned(), waited));
        if part.is_counted {
            sample.cpu += cost;
            sample.resident += resident_kilobytes(part.process)?;
            sample.anonymous += anonymous_kilobytes(part.process)?;
        }
    }
    Ok(sample)
}

/// What the counters of a contender's processes and of the machine say at a moment.
struct Look {
    costs: Vec<f64>,
    waits: Vec<f64>,
    cores: Vec<(f64, f64)>,
}

impl Look {
    fn take(contender: &Contender) -> Outcome<Self> {
        let cost = |part: &Part| match &part.counts {
            Some(counts) => instructions::executed(part.process, counts),
            None => cpu_micros(part.process),
        };
        let parts = || contender.parts.iter();
        Ok(Self {
            costs: parts().map(cost).collect::<Outcome<_>>()?,
            waits: parts()
                .map(|part| waited_micros(part.process))
                .collect::<Outcome<_>>()?,
            cores: core_seconds()?,
        })
    }

    fn busy_since(&self, before: &Self) -> Vec<f64> {
        let cores = self.cores.iter().zip(&before.cores);
        let share = |(after, before): (&(f64, f64), &(f64, f64))| {
            (after.0 - before.0) / (after.1 - before.1)
        };
        cores.map(share).collect()
    }
}

/// Waits until `processes` have nothing left to do.
pub(crate) fn settle(processes: &[u32]) -> Outcome {
    let until = Instant::now() + SETTLE_TIMEOUT;
    let total = || -> Outcome<f64> { processes.iter().map(|process| cpu_micros(*process)).sum() };
    let mut before = total()?;
    while Instant::now() < until {
        std::thread::sleep(SETTLE_LOOK);
        let now = total()?;
        if now - before < IDLE_SHARE * SETTLE_LOOK.as_micros() as f64 {
            break;
        }
        before = now;
    }
    Ok(())
}

impl Series {
    /// Without measurements yet.
    pub(crate) const fn new(name: String) -> Self {
        Self {
            name,
            samples: Vec::new(),
        }
    }

    /// Median of a figure over the rounds.
    pub(crate) fn median(&self, figure: impl Fn(&Sample) -> f64) -> f64 {
        median(self.samples.iter().map(figure).collect())
    }

    /// Median of the rounds' ratios of CPU time to `reference`: what disturbs a whole round cancels out.
    pub(crate) fn ratio(&self, reference: &Self) -> f64 {
        let pairs = self.samples.iter().zip(&reference.samples);
        median(pairs.map(|(own, other)| own.cpu / other.cpu).collect())
    }

    /// Median of the rounds' differences of CPU time to `before`.
    pub(crate) fn added_to(&self, before: &Self) -> f64 {
        let pairs = self.samples.iter().zip(&before.samples);
        median(pairs.map(|(own, other)| own.cpu - other.cpu).collect())
    }

    /// Errors of all rounds.
    pub(crate) fn errors(&self) -> u64 {
        let errors = self.samples.iter().map(|sample| &sample.tally.errors);
        errors.flat_map(|errors| errors.values()).sum()
    }
}

fn load_command(target: &Target, amount: Amount) -> Outcome<Command> {
    let mut command = generator("load", target, amount.connections)?;
    for (name, value) in [
        ("--seconds", amount.seconds.to_string()),
        ("--warm-up", WARM_UP_SECONDS.to_string()),
        ("--addresses", amount.addresses.to_string()),
    ] {
        command.args([name, &value]);
    }
    if let Some(rate) = amount.rate {
        command.arg("--rate").arg(rate.to_string());
    }
    if amount.fresh {
        command.arg("--fresh");
    }
    Ok(command)
}

/// The generator, as the subcommand `part`.
pub(crate) fn generator(part: &str, target: &Target, connections: usize) -> Outcome<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(part);
    command.arg("--target").arg(target.address.to_string());
    command.args(["--host", target.host, "--path", target.path]);
    command.arg("--connections").arg(connections.to_string());
    if let Some(ca) = &target.ca {
        command.arg("--ca").arg(ca);
    }
    match &target.brings {
        Brings::Nothing => {}
        Brings::Token(file) => _ = command.arg("--token").arg(file),
        Brings::Tokens(file) => _ = command.arg("--tokens").arg(file),
        Brings::Form(file) => _ = command.arg("--form").arg(file),
    }
    Ok(command)
}

/// The value in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = values.get(middle).copied().unwrap_or(f64::NAN);
    if values.len() % 2 == 1 {
        return upper;
    }
    let lower = middle.checked_sub(1).and_then(|index| values.get(index));
    lower.map_or(f64::NAN, |lower| f64::midpoint(*lower, upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(Vec::new()).is_nan());
    }
}
