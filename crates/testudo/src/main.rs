//! `testudo`: security in every service of a fleet, from one binary.

mod cli;
mod collector;
mod command;
mod context;
mod failure;
mod memory;
mod ops;
mod output;

use std::{process::ExitCode, time::Duration};

use clap::Parser;
use mimalloc::MiMalloc;
use testudo_runtime::raise_descriptor_limit;

use crate::{cli::Cli, output::say};

/// 6 % less CPU per proxied request than glibc's allocator (docs/performance.md).
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Time for tasks and threads to end before the process does.
const END_DEADLINE: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    memory::in_small_pages();
    raise_descriptor_limit();
    let cli = Cli::parse();
    // Administration has its own runtime; each proxy worker brings a single-threaded one of its own.
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            say(format!("error: the runtime does not start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(command::run(cli));
    // Ends what a failed start left running. Blocking threads may wait for input or a lock for ever; what must be
    // durable already is.
    runtime.shutdown_timeout(END_DEADLINE);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if failure.is_broken_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            say(failure.to_string());
            ExitCode::from(failure.exit as u8)
        }
    }
}
