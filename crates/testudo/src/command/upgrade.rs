//! One process of a proxy takes over from another: `--upgrade`, and SIGUSR2, which starts a process with it.

use std::{env, io, num::NonZeroUsize, path::Path, process::Stdio, sync::Arc, time::Duration};

use testudo_dataplane::{Delivered, Member};
use testudo_runtime::{
    Readiness, Sockets,
    handover::{FolderLock, HandoverError, Inheritance, Offer, Predecessor},
};
use tokio::{task::JoinHandle, time::Instant};
use tracing::{error, info, warn};

use crate::failure::{Exit, Failure};

/// The flag of the new process.
const FLAG: &str = "--upgrade";
/// How long a process that takes over may need for its snapshot, and how often that is looked at.
const FIT: Duration = Duration::from_secs(60);
/// How much of it it waits for the control plane. Heard after the old process has said goodbye, its address would be
/// unknown in between.
const HEARD: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(20);
/// Time for the process before to say that it shares what it knows.
const SHARE: Duration = Duration::from_secs(2);

/// A process's place: a data folder that is its own, and the process that had it before, which still serves.
pub struct Place {
    lock: FolderLock,
    predecessor: Option<Predecessor>,
    least_workers: usize,
}

impl Place {
    /// The place in the data folder `data`, with the sockets that are handed over there. `upgrade`: another process
    /// may have it.
    pub fn take(data: &Path, upgrade: bool) -> Result<(Self, Sockets), Failure> {
        let (lock, predecessor, sockets) = match FolderLock::take(data) {
            Ok(lock) => (lock, None, Sockets::default()),
            Err(HandoverError::Locked { .. }) if upgrade => {
                let Inheritance {
                    predecessor,
                    lock,
                    sockets,
                } = Predecessor::reach(data)?;
                (lock, Some(predecessor), sockets)
            }
            Err(error) => return Err(error.into()),
        };
        let place = Self {
            lock,
            predecessor,
            least_workers: sockets.most_inherited(),
        };
        Ok((place, sockets))
    }

    /// Whether another process serves until this one does.
    pub const fn has_predecessor(&self) -> bool {
        self.predecessor.is_some()
    }

    /// Shares with the process before, if there is one, what either hands to the service. To be done before this one
    /// serves: a call that comes here may be for a request that went there.
    pub async fn share(&mut self, delivered: &Arc<Delivered>) {
        let Some(stream) = self.predecessor.as_mut().and_then(Predecessor::companion) else {
            return;
        };
        let shared = tokio::time::timeout(SHARE, delivered.share(stream)).await;
        if !matches!(shared, Ok(Ok(()))) {
            warn!(
                "the process before does not share what it knows: calls that its requests make may be refused"
            );
        }
    }

    /// The worker threads, of which `asked` were asked for. A socket that is handed over has connections in its queue
    /// and needs a worker.
    pub fn workers(&self, asked: NonZeroUsize) -> NonZeroUsize {
        let least = NonZeroUsize::new(self.least_workers).unwrap_or(asked);
        asked.max(least)
    }

    /// Waits, while another process serves, until this one could: it enforces a snapshot and has its place in the
    /// fleet. Without such a process this one is better than none from the first moment.
    pub async fn until_fit(&self, readiness: &Readiness, member: &Member) -> Result<(), Failure> {
        if !self.has_predecessor() {
            return Ok(());
        }
        let started = Instant::now();
        loop {
            let was_heard = member.was_heard() || started.elapsed() > HEARD;
            if readiness.is_ready() && was_heard {
                return Ok(());
            }
            if started.elapsed() > FIT {
                let closed = readiness
                    .status()
                    .into_iter()
                    .filter_map(|(gate, reason)| Some(format!("{gate}: {}", reason?)));
                let closed: Vec<String> = closed.collect();
                return Err(Failure::new(
                    Exit::Failed,
                    format!(
                        "this process does not get ready, the one before goes on: {}",
                        closed.join(", ")
                    ),
                ));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Lets the process before end, and offers the place to the next one, if that is possible.
    pub fn settle(self) -> (FolderLock, Option<Offer>) {
        // First, or the next process could ask the one that ends.
        let offer = self
            .lock
            .offer()
            .inspect_err(|error| warn!(%error, "this process cannot be upgraded without a stop"))
            .ok();
        if let Some(predecessor) = self.predecessor {
            match predecessor.relieve() {
                Ok(()) => info!("took over; the process before ends"),
                Err(error) => warn!(%error, "the process before has ended already"),
            }
        }
        (self.lock, offer)
    }
}

/// Starts a process like this one, from the file that is there now, to take over. Its end is only told if it comes too
/// soon: afterwards this process is gone.
pub fn start_next() -> io::Result<JoinHandle<()>> {
    let mut arguments: Vec<_> = env::args_os().collect();
    if !arguments.iter().any(|argument| argument == FLAG) {
        arguments.push(FLAG.into());
    }
    // As it was called: a link that leads to another release by now is followed there.
    let (program, arguments) = arguments
        .split_first()
        .ok_or_else(|| io::Error::other("this process does not know how it was called"))?;
    let mut next = tokio::process::Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .spawn()?;
    info!(pid = next.id(), "started the process that is to take over");
    Ok(tokio::spawn(async move {
        match next.wait().await {
            Ok(status) => {
                error!(%status, "the process that was to take over has ended; this one goes on")
            }
            Err(error) => error!(%error, "the process that was to take over cannot be watched"),
        }
    }))
}
