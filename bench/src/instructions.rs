//! Instructions a request costs a proxy, counted by callgrind.
//!
//! Not a time: what the kernel does is not in it, nor what the processor makes of it. But it is nearly the same number in
//! every run and under any load, so it shows a growth of a few percent where times would not. The counts of the last
//! change are kept in `instructions.json`.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    Outcome,
    contender::{self, at_gateway, between_sidecars},
    fleet::{Fleet, Placement},
    floor::{self, Gap, Wire},
    measure::{self, Amount, Contender},
    peers::Peer,
    process::output,
    scenario::Bench,
};

/// Requests under callgrind are some fifty times slower.
const AMOUNT: Amount = Amount {
    connections: 10,
    seconds: 15,
    rate: None,
    fresh: false,
    addresses: 1,
    core: None,
};
/// Growth that is refused, of what was kept.
const TOLERATED: f64 = 1.05;
/// The counts that were kept, by `--keep-counts`.
const KEPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/instructions.json");

/// Instructions a request, by what and where.
type Counts = BTreeMap<String, u64>;

/// Counts, prints, and compares with what was kept; or keeps the new counts.
///
/// # Errors
/// A count has grown by more than five percent.
pub(crate) fn run(bench: &Bench, keeps: bool) -> Outcome {
    let counts = count(bench)?;
    let kept: Counts = serde_json::from_str(&fs::read_to_string(KEPT)?)?;
    table(&counts, &kept)?;
    if keeps {
        let mut text = serde_json::to_string_pretty(&counts)?;
        text.push('\n');
        return Ok(fs::write(KEPT, text)?);
    }
    let grown = |(name, count): &(&String, &u64)| {
        let before = kept.get(*name).copied().unwrap_or(u64::MAX);
        **count as f64 > before as f64 * TOLERATED
    };
    let grown: Vec<&str> = counts
        .iter()
        .filter(grown)
        .map(|(name, _)| name.as_str())
        .collect();
    if grown.is_empty() {
        return Ok(());
    }
    let grown = grown.join(", ");
    Err(format!(
        "more than {TOLERATED} of what was kept: {grown}; mend it, or keep it with --keep-counts"
    )
    .into())
}

fn count(bench: &Bench) -> Outcome<Counts> {
    let folder = bench.subfolder("instructions")?;
    let fleet = Fleet::start(&folder, bench.upstream(), Placement::COUNTED)?;
    let mut counts = Counts::new();
    let floors = two_floors(bench, &folder)?;
    for (what, contender) in [
        ("floor", counted_floors(bench, &folder, &floors)),
        ("no user", at_gateway(&fleet, String::new(), "/open")?),
        ("all checks", at_gateway(&fleet, String::new(), "/checked")?),
        ("pair", between_sidecars(&fleet)),
    ] {
        measure::settle(&fleet.processes())?;
        let log = folder.join("load.log");
        let sample = measure::measure(&contender, AMOUNT, &log)?;
        for (part, count) in sample.parts {
            if part != "control plane" {
                counts.insert(format!("{what}: {part}"), count.round() as u64);
            }
        }
    }
    Ok(counts)
}

/// The libraries alone, as a gateway and a sidecar behind it.
fn two_floors(bench: &Bench, folder: &Path) -> Outcome<(Peer, Peer)> {
    let gap = Gap {
        from: Wire::Tls,
        between: Wire::Mesh,
        cores: (None, None),
        is_counted: true,
    };
    let (certificates, web) = (bench.certificates(), bench.web());
    floor::pair(folder, certificates, web, bench.upstream(), gap)
}

fn counted_floors(bench: &Bench, folder: &Path, floors: &(Peer, Peer)) -> Contender {
    let mut contender = contender::behind_another(bench, "floor", floors, "/open");
    for part in &mut contender.parts {
        part.counts = Some(folder.join(format!("floor-Tls-Mesh-{}.callgrind", part.name)));
    }
    contender
}

fn table(counts: &Counts, kept: &Counts) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "\n{:<46} {:>12} {:>12}", "", "Ir/request", "to kept")?;
    for (name, count) in counts {
        let ratio = kept
            .get(name)
            .map_or(f64::NAN, |before| *count as f64 / *before as f64);
        writeln!(out, "{name:<46} {count:>12} {ratio:>12.3}")?;
    }
    out.flush()
}

/// `command` under callgrind, which writes its counts to files that begin with `counts`.
pub(crate) fn counted(command: &Command, counts: &Path) -> Command {
    let mut counted = Command::new("valgrind");
    counted
        .args(["--quiet", "--tool=callgrind"])
        .arg(format!("--callgrind-out-file={}", counts.display()))
        .arg(command.get_program())
        .args(command.get_args());
    crate::process::copy_settings(command, &mut counted);
    counted
}

/// Instructions that `process` has executed so far, under callgrind with its counts in `counts`.
pub(crate) fn executed(process: u32, counts: &Path) -> Outcome<f64> {
    output(
        Command::new("callgrind_control")
            .arg("--dump")
            .arg(process.to_string()),
    )?;
    let mut total = 0;
    for file in dumps(counts)? {
        let text = fs::read_to_string(&file)?;
        let count = text
            .lines()
            .find_map(|line| line.strip_prefix("totals: "))
            .ok_or_else(|| format!("no totals in {}", file.display()))?;
        total += count.trim().parse::<u64>()?;
    }
    Ok(total as f64)
}

/// Each dump is a file of its own, numbered, with what was executed since the one before.
fn dumps(counts: &Path) -> Outcome<Vec<PathBuf>> {
    let (folder, name) = (counts.parent(), counts.file_name());
    let (folder, name) = folder.zip(name).ok_or("no place for the counts")?;
    let prefix = format!("{}.", name.to_string_lossy());
    let mut dumps = Vec::new();
    for file in fs::read_dir(folder)? {
        let file = file?;
        if file.file_name().to_string_lossy().starts_with(&prefix) {
            dumps.push(file.path());
        }
    }
    Ok(dumps)
}
