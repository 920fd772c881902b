//! What the figures were measured on.

use std::{fs, process::Command};

use serde::Serialize;

use crate::peers::envoy_program;

/// The machine and the versions of everything measured.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    /// Name of the processor.
    pub(crate) processor: String,
    /// Cores.
    pub(crate) cores: usize,
    /// Kernel release.
    pub(crate) kernel: String,
    /// Load averages before the run: above 0.5 the figures are noisy.
    pub(crate) load: String,
    /// Versions of the peers.
    pub(crate) peers: Vec<String>,
}

/// Looks around.
pub(crate) fn describe() -> Machine {
    let processor = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map(|(_, name)| name.to_owned())
        .unwrap_or_default();
    let envoy = envoy_program().map(|path| first_line(Command::new(path).arg("--version")));
    Machine {
        processor,
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        load: read("/proc/loadavg").trim().to_owned(),
        peers: vec![
            first_line(Command::new("nginx").arg("-v")),
            first_line(Command::new("haproxy").arg("-v")),
            envoy.unwrap_or_default(),
        ],
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The first line a program prints, wherever it prints it.
fn first_line(command: &mut Command) -> String {
    let Ok(output) = command.output() else {
        return String::new();
    };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.next().unwrap_or_default().to_owned()
}
