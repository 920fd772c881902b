//! Stopping without losing work: everybody learns that it is time, and the process waits for them.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

/// Starts the drain. Dropped without [`DrainSignal::start`], it starts all the same: an owner that is gone
/// cannot keep a process alive.
#[derive(Debug)]
pub struct DrainSignal(Arc<State>);

/// Hands out [`DrainWatch`]es. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Drain(Arc<State>);

/// Held by whoever has work to finish. The process waits until it is dropped.
#[derive(Debug)]
pub struct DrainWatch {
    state: Arc<State>,
    started: watch::Receiver<bool>,
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrainOutcome {
    /// All work was finished in time.
    Complete,
    /// The deadline passed while this many watches were still held.
    TimedOut {
        /// Watches still held.
        remaining: usize,
    },
}

#[derive(Debug)]
struct State {
    started: watch::Sender<bool>,
    held: watch::Sender<usize>,
}

impl Drain {
    /// The two ends of a drain.
    pub fn new() -> (DrainSignal, Self) {
        let state = Arc::new(State {
            started: watch::Sender::new(false),
            held: watch::Sender::new(0),
        });
        (DrainSignal(Arc::clone(&state)), Self(state))
    }

    /// A watch for one piece of work: a listener, a connection, a writer.
    pub fn watch(&self) -> DrainWatch {
        self.0.held.send_modify(|held| *held += 1);
        DrainWatch {
            state: Arc::clone(&self.0),
            started: self.0.started.subscribe(),
        }
    }

    /// Whether the drain has started.
    pub fn is_started(&self) -> bool {
        *self.0.started.borrow()
    }
}

impl DrainSignal {
    /// Tells all watches, then waits until they are dropped or `deadline` has passed.
    pub async fn start(self, deadline: Duration) -> DrainOutcome {
        self.0.started.send_replace(true);
        let mut held = self.0.held.subscribe();
        match tokio::time::timeout(deadline, held.wait_for(|held| *held == 0)).await {
            Ok(_) => DrainOutcome::Complete,
            Err(_) => DrainOutcome::TimedOut {
                remaining: *self.0.held.borrow(),
            },
        }
    }
}

impl Drop for DrainSignal {
    fn drop(&mut self) {
        self.0.started.send_replace(true);
    }
}

impl DrainWatch {
    /// Resolves when the drain starts; at once if it has. Cancel-safe.
    pub async fn drained(&mut self) {
        // An error means that the sender is gone, which `self.state` rules out; stopping is right even then.
        drop(self.started.wait_for(|started| *started).await);
    }

    /// Whether the drain has started.
    pub fn is_started(&self) -> bool {
        *self.started.borrow()
    }
}

impl Clone for DrainWatch {
    fn clone(&self) -> Self {
        Drain(Arc::clone(&self.state)).watch()
    }
}

impl Drop for DrainWatch {
    fn drop(&mut self) {
        self.state
            .held
            .send_modify(|held| *held = held.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(50);
    const LATE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_drain_waits_for_everyone_who_watches() {
        let (signal, drain) = Drain::new();
        let mut watch = drain.watch();
        let work = tokio::spawn(async move {
            watch.drained().await;
            tokio::time::sleep(SOON).await;
            "finished"
        });
        assert_eq!(signal.start(LATE).await, DrainOutcome::Complete);
        assert_eq!(work.await.unwrap(), "finished");
    }

    #[tokio::test]
    async fn a_drain_gives_up_at_the_deadline_and_says_how_many_are_left() {
        let (signal, drain) = Drain::new();
        let stubborn = drain.watch();
        let also = stubborn.clone();
        assert_eq!(
            signal.start(SOON).await,
            DrainOutcome::TimedOut { remaining: 2 }
        );
        drop((stubborn, also));
    }

    #[tokio::test]
    async fn a_lost_signal_starts_the_drain() {
        let (signal, drain) = Drain::new();
        let mut watch = drain.watch();
        drop(signal);
        tokio::time::timeout(LATE, watch.drained()).await.unwrap();
        assert!(drain.is_started());
    }
}
