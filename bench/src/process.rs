//! Processes under measurement: started on one core, asked for their time, stopped at the end.

use std::{
    fs,
    io::{BufRead, BufReader, Lines, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use crate::Outcome;

/// Where measured proxies run.
pub(crate) const PROXY_CORE: Option<usize> = Some(0);
/// Where everything else runs.
pub(crate) const LOAD_CORE: Option<usize> = Some(1);

/// `USER_HZ`: ticks a second in `/proc/<pid>/stat`. A constant of the Linux ABI on every architecture we build for.
const TICKS_PER_SECOND: f64 = 100.0;
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// A child process. Dropped, it is stopped.
pub(crate) struct Process {
    child: Child,
}

impl Process {
    /// Starts `command` on `core`, its error output into `log`.
    pub(crate) fn start(command: &Command, core: Option<usize>, log: &Path) -> Outcome<Self> {
        let mut pinned = on_core(command, core);
        let log = fs::OpenOptions::new().create(true).append(true).open(log)?;
        pinned
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log);
        let program = command.get_program().to_string_lossy().into_owned();
        let child = pinned
            .spawn()
            .map_err(|error| format!("cannot start {program}: {error}"))?;
        Ok(Self { child })
    }

    /// What it prints; can be taken once.
    pub(crate) fn lines(&mut self) -> Outcome<Lines<BufReader<ChildStdout>>> {
        let output = self.child.stdout.take().ok_or("the output is taken")?;
        Ok(BufReader::new(output).lines())
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end by itself.
    pub(crate) fn wait(&mut self) -> Outcome {
        self.child.wait()?;
        Ok(())
    }

    /// Waits for its end by itself, which must come soon.
    pub(crate) fn wait_in_time(&mut self) -> Outcome {
        let until = Instant::now() + STOP_TIMEOUT;
        while Instant::now() < until {
            if self.has_ended() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(format!("process {} does not end", self.id()).into())
    }

    /// Ends it at once.
    pub(crate) fn kill(&mut self) -> Outcome {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: &str) -> Outcome {
        let id = self.id().to_string();
        Command::new("kill").args([signal, &id]).status()?;
        Ok(())
    }

    /// Asks it to stop, and ends it if it does not.
    pub(crate) fn stop(&mut self) -> Outcome {
        if self.has_ended() {
            return Ok(());
        }
        self.signal("-TERM")?;
        if self.wait_in_time().is_err() {
            self.kill()?;
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            drop(writeln!(
                std::io::stderr(),
                "process {} did not stop: {error}",
                self.id()
            ));
        }
    }
}

/// Runs `command` to its end and returns what it printed.
pub(crate) fn output(command: &mut Command) -> Outcome<String> {
    let output = command.stderr(Stdio::piped()).output()?;
    if output.status.success() {
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    } else {
        let errors = String::from_utf8_lossy(&output.stderr);
        Err(format!("{command:?}: {errors}").into())
    }
}

/// A program of this workspace, beside the bench.
pub(crate) fn own_program(name: &str) -> Outcome<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    if path.exists() {
        Ok(path)
    } else {
        let path = path.display();
        Err(format!("{path} is missing: start the bench with `cargo run`, which builds it").into())
    }
}

/// Brings a program of this workspace up to date, with the bench's own profile, if cargo started the bench.
#[expect(
    clippy::disallowed_methods,
    reason = "cargo says in its environment which cargo it is"
)]
pub(crate) fn build_own_program(name: &str) -> Outcome {
    let Some(cargo) = std::env::var_os("CARGO") else {
        return Ok(());
    };
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--package", name]);
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    if command.status()?.success() {
        Ok(())
    } else {
        Err(format!("{name} does not build").into())
    }
}

/// User and system time of `process` with all threads and child processes, in microseconds.
pub(crate) fn cpu_micros(process: u32) -> Outcome<f64> {
    let mut ticks = 0.0;
    for process in tree(process)? {
        let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
        // The name in parentheses may hold spaces; utime and stime are the 12th and 13th field after it.
        let fields = stat
            .rsplit_once(')')
            .map(|(_, fields)| fields)
            .ok_or("odd /proc/<pid>/stat")?;
        for field in fields.split_whitespace().skip(11).take(2) {
            ticks += field.parse::<f64>()?;
        }
    }
    Ok(ticks / TICKS_PER_SECOND * 1e6)
}

/// Time that threads of `process` and its child processes could have run and had no core, in microseconds.
pub(crate) fn waited_micros(process: u32) -> Outcome<f64> {
    let mut nanos = 0.0;
    for process in tree(process)? {
        for task in fs::read_dir(format!("/proc/{process}/task"))? {
            // A thread may end meanwhile.
            let Ok(stat) = fs::read_to_string(task?.path().join("schedstat")) else {
                continue;
            };
            let waited = stat.split_whitespace().nth(1).ok_or("odd schedstat")?;
            nanos += waited.parse::<f64>()?;
        }
    }
    Ok(nanos / 1e3)
}

/// Seconds that each core was busy and was there, since the start of the machine.
pub(crate) fn core_seconds() -> Outcome<Vec<(f64, f64)>> {
    let stat = fs::read_to_string("/proc/stat")?;
    let cores = stat.lines().filter(|line| {
        let name = line.strip_prefix("cpu").unwrap_or_default();
        name.starts_with(|first: char| first.is_ascii_digit())
    });
    cores
        .map(|line| {
            // user, nice, system, idle, iowait, irq, softirq, steal; what follows is in these already.
            let ticks: Vec<f64> = line
                .split_whitespace()
                .skip(1)
                .take(8)
                .map(str::parse)
                .collect::<Result<_, _>>()?;
            let total: f64 = ticks.iter().sum();
            let idle: f64 = ticks.iter().skip(3).take(2).sum();
            Ok(((total - idle) / TICKS_PER_SECOND, total / TICKS_PER_SECOND))
        })
        .collect()
}

/// Resident memory of `process` and its child processes, in kilobytes.
pub(crate) fn resident_kilobytes(process: u32) -> Outcome<u64> {
    kilobytes(process, "VmRSS:")
}

/// What of that is no file's: pages of the program itself go when somebody else needs the memory.
pub(crate) fn anonymous_kilobytes(process: u32) -> Outcome<u64> {
    kilobytes(process, "RssAnon:")
}

fn kilobytes(process: u32, of: &str) -> Outcome<u64> {
    let mut kilobytes = 0;
    for process in tree(process)? {
        let status = fs::read_to_string(format!("/proc/{process}/status"))?;
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix(of))
            .and_then(|value| value.split_whitespace().next())
            .ok_or_else(|| format!("no {of} in /proc/{process}/status"))?;
        kilobytes += resident.parse::<u64>()?;
    }
    Ok(kilobytes)
}

/// `process` and its child processes: nginx works in a child.
fn tree(process: u32) -> Outcome<Vec<u32>> {
    let mut all = vec![process];
    let mut next = 0;
    while let Some(parent) = all.get(next).copied() {
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
        for child in children.split_whitespace() {
            all.push(child.parse()?);
        }
        next += 1;
    }
    Ok(all)
}

/// The same command once more.
pub(crate) fn again(command: &Command) -> Command {
    let mut same = Command::new(command.get_program());
    copy_settings(command, same.args(command.get_args()));
    same
}

/// The same command, which gets a core when nobody else wants it.
pub(crate) fn last_in_line(command: &Command) -> Command {
    let mut nice = Command::new("nice");
    nice.args(["-n", "19"]).arg(command.get_program());
    copy_settings(command, nice.args(command.get_args()));
    nice
}

fn on_core(command: &Command, core: Option<usize>) -> Command {
    let Some(core) = core else {
        return again(command);
    };
    let mut pinned = Command::new("taskset");
    pinned
        .arg("-c")
        .arg(core.to_string())
        .arg(command.get_program());
    copy_settings(command, pinned.args(command.get_args()));
    pinned
}

/// Gives `to` the environment and the folder of `from`.
pub(crate) fn copy_settings(from: &Command, to: &mut Command) {
    for (name, value) in from.get_envs() {
        match value {
            Some(value) => to.env(name, value),
            None => to.env_remove(name),
        };
    }
    if let Some(directory) = from.get_current_dir() {
        to.current_dir(directory);
    }
}
