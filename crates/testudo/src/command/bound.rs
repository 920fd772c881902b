//! A program that ends with the process that started it, however that one ends. After a crash of `testudo up`
//! the services' ports are free again and the next start finds its own programs behind them, not old ones.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::process::CommandExt,
    process::Command,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    failure::{Exit, Failure},
    memory,
};

/// How to start `program` bound to this process: through this binary, which then becomes it.
pub fn bound(program: &OsStr) -> io::Result<tokio::process::Command> {
    let mut command = tokio::process::Command::new(std::env::current_exe()?);
    command
        .arg("run-bound")
        .arg(std::process::id().to_string())
        .arg("--")
        .arg(program);
    Ok(command)
}

/// SIGTERM for a program that still runs.
pub fn ask_to_stop(program: &tokio::process::Child) {
    let pid = program.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    if let Some(pid) = pid {
        // It may have ended meanwhile; it is waited for in either case.
        let _ = kill_process(pid, Signal::TERM);
    }
}

/// Becomes the program; returns only if that fails.
pub fn become_program(parent: u32, command: &[OsString]) -> Failure {
    let Some((program, arguments)) = command.split_first() else {
        return Failure::new(Exit::Failed, "there is no program to run");
    };
    if let Err(error) = end_with(parent) {
        return error.into();
    }
    memory::in_any_pages();
    let error = Command::new(program).args(arguments).exec();
    Failure::new(
        Exit::Failed,
        format!("cannot run `{}`: {error}", program.to_string_lossy()),
    )
}

/// The kernel sends SIGTERM to this process when its parent ends; a program run in its place inherits that.
#[cfg(target_os = "linux")]
fn end_with(parent: u32) -> io::Result<()> {
    use rustix::process::{getppid, set_parent_process_death_signal};

    set_parent_process_death_signal(Some(Signal::TERM))?;
    // It may have ended before the kernel was asked.
    match getppid().is_some_and(|found| found.as_raw_nonzero().get().cast_unsigned() == parent) {
        true => Ok(()),
        false => Err(io::Error::other(
            "the process that started this one has ended",
        )),
    }
}

/// Elsewhere nothing like it is to be had safely: the program outlives a crash.
#[cfg(not(target_os = "linux"))]
fn end_with(_parent: u32) -> io::Result<()> {
    Ok(())
}
