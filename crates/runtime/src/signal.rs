//! How people and supervisors ask something of a process.

use std::{fmt, io};

/// What asked for the shutdown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShutdownSignal {
    /// Ctrl-C in a terminal (`SIGINT`).
    Interrupt,
    /// A supervisor (`SIGTERM`).
    Terminate,
}

/// What a process is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// To stop.
    Stop(ShutdownSignal),
    /// To let a new process of the same role take over (`SIGUSR2`, as nginx and haproxy have it).
    Upgrade,
    /// To get new certificates (`SIGHUP`).
    Refresh,
}

impl fmt::Display for ShutdownSignal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Interrupt => "interrupt",
            Self::Terminate => "terminate",
        })
    }
}

/// Signals, from the moment it is made: what comes before [`Signals::next`] is waiting there.
#[derive(Debug)]
pub struct Signals {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    upgrade: tokio::signal::unix::Signal,
    #[cfg(unix)]
    refresh: Option<tokio::signal::unix::Signal>,
}

#[cfg(unix)]
impl Signals {
    /// Catches the signals from now on; until then they end the process at once. `SIGHUP` only where it has a meaning:
    /// elsewhere it says that the terminal is gone, and `nohup` has it ignored.
    ///
    /// # Errors
    /// When the operating system refuses a signal handler.
    pub fn listen(has_certificates: bool) -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};

        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            upgrade: signal(SignalKind::user_defined2())?,
            refresh: has_certificates
                .then(|| signal(SignalKind::hangup()))
                .transpose()?,
        })
    }

    /// Waits until the process is asked for something. Cancel-safe.
    pub async fn next(&mut self) -> Asked {
        let refresh = async {
            match &mut self.refresh {
                Some(refresh) => refresh.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => Asked::Stop(ShutdownSignal::Interrupt),
            _ = self.terminate.recv() => Asked::Stop(ShutdownSignal::Terminate),
            _ = self.upgrade.recv() => Asked::Upgrade,
            _ = refresh => Asked::Refresh,
        }
    }
}

#[cfg(not(unix))]
impl Signals {
    /// Nothing to prepare here.
    ///
    /// # Errors
    /// None.
    pub fn listen(_: bool) -> io::Result<Self> {
        Ok(Self {})
    }

    /// Waits until the process is asked to stop with Ctrl-C.
    pub async fn next(&mut self) -> Asked {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        Asked::Stop(ShutdownSignal::Interrupt)
    }
}
