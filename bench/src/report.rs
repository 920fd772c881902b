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
    scenario::{Comparison, Detail},
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
    if comparison.detail == Detail::Memory {
        return memory(&mut out, comparison);
    }
    writeln!(
        out,
        "{:<46} {:>8} {:>6} {:>8} {:>8} {:>8} {:>7} {:>7}",
        "", "CPU us/r", "ratio", "req/s", "p50 ms", "p99 ms", "RSS MB", "errors"
    )?;
    let reference = comparison.series.get(comparison.reference);
    let mut before = None;
    for series in &comparison.series {
        let reference = reference.unwrap_or(series);
        row(&mut out, series, reference)?;
        match comparison.detail {
            Detail::Cost | Detail::Memory => {}
            Detail::Steps => step(&mut out, series, before)?,
            Detail::Waiting => waiting(&mut out, series, reference)?,
        }
        before = Some(series);
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
        writeln!(out, "    {}", of_parts(series, |sample| &sample.parts))?;
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

/// Memory in place of costs.
fn memory(out: &mut impl Write, comparison: &Comparison) -> io::Result<()> {
    writeln!(
        out,
        "{:<46} {:>8} {:>12} {:>7}",
        "", "RSS MB", "anonymous MB", "errors"
    )?;
    for series in &comparison.series {
        writeln!(
            out,
            "{:<46} {:>8.1} {:>12.1} {:>7}",
            series.name,
            series.median(|sample| sample.resident as f64 / 1024.0),
            series.median(|sample| sample.anonymous as f64 / 1024.0),
            series.errors(),
        )?;
    }
    out.flush()
}

/// What `series` costs more than `before`, which it is with something added.
fn step(out: &mut impl Write, series: &Series, before: Option<&Series>) -> io::Result<()> {
    match before {
        Some(before) => writeln!(out, "    adds {:.1} us", series.added_to(before)),
        None => Ok(()),
    }
}

/// What latency is made of beside work: full cores, and waiting for one.
fn waiting(out: &mut impl Write, series: &Series, reference: &Series) -> io::Result<()> {
    let p99 = |sample: &Sample| f64::from(sample.tally.p99);
    let cores = series.samples.first().map_or(0, |sample| sample.busy.len());
    let busy = (0..cores).map(|core| {
        let share = |sample: &Sample| sample.busy.get(core).copied().unwrap_or(f64::NAN);
        format!("{:.0} %", series.median(share) * 100.0)
    });
    writeln!(
        out,
        "    p99 {:.2} of the first; cores {} busy; us a request waited for one: {}",
        series.median(p99) / reference.median(p99),
        busy.collect::<Vec<_>>().join(" and "),
        of_parts(series, |sample| &sample.waits),
    )
}

/// Medians of a figure of each part.
fn of_parts(series: &Series, figures: fn(&Sample) -> &Vec<(String, f64)>) -> String {
    let Some(first) = series.samples.first() else {
        return String::new();
    };
    let parts = figures(first).iter().enumerate().map(|(index, (name, _))| {
        let figure = |sample: &Sample| figures(sample).get(index).map_or(f64::NAN, |part| part.1);
        format!("{name} {:.1}", series.median(figure))
    });
    parts.collect::<Vec<_>>().join(", ")
}
