//! What people see.

use std::{
    error::Error,
    io::{self, Write},
    path::Path,
};

use testudo_runtime::with_causes;

use crate::{
    machine::Machine,
    measure::{Sample, Series},
    scenario::Comparison,
};

/// Says where and on what.
pub(crate) fn heading(machine: &Machine, folder: &Path) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let Machine {
        processor,
        cores,
        kernel,
        load,
        peers,
    } = machine;
    writeln!(
        out,
        "{processor}, {cores} cores, Linux {kernel}, load {load}"
    )?;
    for peer in peers.iter().filter(|peer| !peer.is_empty()) {
        writeln!(out, "{peer}")?;
    }
    writeln!(out, "files in {}", folder.display())
}

/// Prints medians over the rounds.
pub(crate) fn table(comparison: &Comparison) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "\n{}", comparison.title)?;
    writeln!(
        out,
        "{:<46} {:>8} {:>6} {:>8} {:>8} {:>8} {:>7} {:>7}",
        "", "CPU us/r", "ratio", "req/s", "p50 ms", "p99 ms", "RSS MB", "errors"
    )?;
    let reference = comparison.series.get(comparison.reference);
    for series in &comparison.series {
        row(&mut out, series, reference.unwrap_or(series))?;
    }
    out.flush()
}

/// Prints an error with its causes.
pub(crate) fn complain(error: &(dyn Error + 'static)) {
    let mut out = io::stderr().lock();
    drop(writeln!(out, "testudo-bench: {}", with_causes(error)));
}

fn row(out: &mut impl Write, series: &Series, reference: &Series) -> io::Result<()> {
    let throughput = |sample: &Sample| sample.tally.requests as f64 / sample.tally.seconds;
    writeln!(
        out,
        "{:<46} {:>8.1} {:>6.2} {:>8.0} {:>8.2} {:>8.2} {:>7.1} {:>7}",
        series.name,
        series.median(|sample| sample.cpu),
        series.ratio(reference),
        series.median(throughput),
        series.median(|sample| f64::from(sample.tally.p50) / 1e3),
        series.median(|sample| f64::from(sample.tally.p99) / 1e3),
        series.median(|sample| sample.resident as f64 / 1024.0),
        series.errors(),
    )?;
    let Some(first) = series.samples.first() else {
        return Ok(());
    };
    if first.parts.len() > 1 {
        let parts = first.parts.iter().enumerate().map(|(index, (name, _))| {
            let figure = |sample: &Sample| sample.parts.get(index).map_or(f64::NAN, |part| part.1);
            format!("{name} {:.1}", series.median(figure))
        });
        writeln!(out, "    {}", parts.collect::<Vec<_>>().join(", "))?;
    }
    for (what, count) in series
        .samples
        .iter()
        .flat_map(|sample| &sample.tally.errors)
    {
        writeln!(out, "    {count} times {what}")?;
    }
    Ok(())
}
