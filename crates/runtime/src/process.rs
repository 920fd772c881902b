//! What Prometheus expects to know of any process (the `process_` metrics of its client libraries).

use std::fs;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};
use testudo_model::Timestamp;

/// Kernel clock ticks a second as user space sees them (`USER_HZ`); 100 on every Linux platform we build for.
const TICKS_PER_SECOND: f64 = 100.0;

/// Reads `/proc/self` at each scrape. Elsewhere than on Linux only the start time is reported.
#[derive(Debug)]
pub(crate) struct ProcessCollector {
    started: Timestamp,
}

impl ProcessCollector {
    pub(crate) const fn new(started: Timestamp) -> Self {
        Self { started }
    }
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let mut gauge = |name: &str, help: &str, value: Option<f64>| {
            let Some(value) = value else { return Ok(()) };
            let metric = ConstGauge::new(value);
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
        };
        #[expect(
            clippy::cast_precision_loss,
            reason = "milliseconds of this era fit a double exactly"
        )]
        let started = self.started.unix_millis() as f64 / 1000.0;
        gauge(
            "process_start_time_seconds",
            "Start of the process since the Unix epoch",
            Some(started),
        )?;
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        gauge(
            "process_resident_memory_bytes",
            "Resident memory",
            status_field(&status, "VmRSS:").map(|kibibytes| kibibytes * 1024.0),
        )?;
        gauge(
            "process_virtual_memory_bytes",
            "Virtual memory",
            status_field(&status, "VmSize:").map(|kibibytes| kibibytes * 1024.0),
        )?;
        gauge(
            "process_threads",
            "Threads",
            status_field(&status, "Threads:"),
        )?;
        gauge(
            "process_open_fds",
            "Open file descriptors",
            open_descriptors(),
        )?;
        gauge(
            "process_max_fds",
            "Most file descriptors the process may open",
            max_descriptors(),
        )?;
        if let Some(seconds) = cpu_seconds() {
            let metric = ConstCounter::new(seconds);
            let help = "User and system CPU time";
            let name = "process_cpu_seconds";
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)?;
        }
        Ok(())
    }
}

fn status_field(status: &str, field: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}

fn open_descriptors() -> Option<f64> {
    // One of them is the directory that is being read.
    let open = fs::read_dir("/proc/self/fd")
        .ok()?
        .count()
        .saturating_sub(1);
    u32::try_from(open).ok().map(f64::from)
}

fn max_descriptors() -> Option<f64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// `utime + stime` of `/proc/self/stat`: fields 14 and 15 of proc_pid_stat(5), counted after the command name,
/// which is in parentheses and may hold spaces.
fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut times = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(str::parse::<f64>);
    let (user, system) = (times.next()?.ok()?, times.next()?.ok()?);
    Some((user + system) / TICKS_PER_SECOND)
}
