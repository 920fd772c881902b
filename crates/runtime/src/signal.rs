//! How people and supervisors ask a process to stop.

use std::{fmt, io};

/// What asked for the shutdown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShutdownSignal {
    /// Ctrl-C in a terminal (`SIGINT`).
    Interrupt,
    /// A supervisor (`SIGTERM`).
    Terminate,
}

impl fmt::Display for ShutdownSignal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Interrupt => "interrupt",
            Self::Terminate => "terminate",
        })
    }
}

/// Waits until the process is asked to stop. Call it once more after it returned to learn of a second Ctrl-C,
/// which by custom means: stop now.
///
/// # Errors
/// When the operating system refuses a signal handler.
#[cfg(unix)]
pub async fn shutdown_requested() -> io::Result<ShutdownSignal> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(tokio::select! {
        _ = interrupt.recv() => ShutdownSignal::Interrupt,
        _ = terminate.recv() => ShutdownSignal::Terminate,
    })
}

/// Waits until the process is asked to stop with Ctrl-C.
///
/// # Errors
/// When the operating system refuses a handler.
#[cfg(not(unix))]
pub async fn shutdown_requested() -> io::Result<ShutdownSignal> {
    tokio::signal::ctrl_c().await?;
    Ok(ShutdownSignal::Interrupt)
}
