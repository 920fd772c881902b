//! Waiting for changes without a queue: what is kept is the newest number, and who is behind reads on.

use std::{
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Duration,
};

/// The newest change, as far as heard of.
#[derive(Default)]
pub(crate) struct Watch {
    newest: Mutex<u64>,
    moved: Condvar,
}

impl Watch {
    pub(crate) fn hear(&self, newest: u64) {
        let mut known = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        // Listeners of two commits may overtake each other.
        *known = newest.max(*known);
        self.moved.notify_all();
    }
}

/// Tells when there are new changes. Many changes between two calls of [`wait`](Self::wait) are told once.
pub struct Subscription {
    watch: Arc<Watch>,
    told: u64,
}

impl Subscription {
    pub(crate) fn new(watch: Arc<Watch>) -> Self {
        let told = *watch.newest.lock().unwrap_or_else(PoisonError::into_inner);
        Self { watch, told }
    }

    /// The newest change told so far: at first, the newest at the time of subscribing.
    pub fn told(&self) -> u64 {
        self.told
    }

    /// Waits for changes past those told before, at most `timeout`. Answers the number of the newest;
    /// [`changes_since`](crate::Store::changes_since) tells what they are.
    pub fn wait(&mut self, timeout: Duration) -> Option<u64> {
        let known = self
            .watch
            .newest
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (known, _) = self
            .watch
            .moved
            .wait_timeout_while(known, timeout, |newest| *newest <= self.told)
            .unwrap_or_else(PoisonError::into_inner);
        if *known <= self.told {
            return None;
        }
        self.told = *known;
        Some(self.told)
    }
}
