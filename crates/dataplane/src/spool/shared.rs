//! What the request path, the writer thread and the shipper share.

use std::{
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::backlog::Backlog;

/// See the module.
#[derive(Default)]
pub(super) struct Shared {
    refusing: AtomicBool,
    stopping: AtomicBool,
    lost: AtomicU64,
    fault: Mutex<Option<String>>,
    backlog: Mutex<Backlog>,
    /// Told when a block reached the disk.
    pub(super) sealed: Notify,
    flush: Mutex<Flush>,
    flushed: Condvar,
}

/// Tickets of callers that wait until everything recorded so far is on disk.
#[derive(Default, Clone, Copy)]
struct Flush {
    requested: u64,
    done: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Whether events are refused at the moment. One relaxed load: this is on the request path.
    pub(super) fn is_refusing(&self) -> bool {
        self.refusing.load(Ordering::Relaxed)
    }

    /// Refuses events from now on, because of `fault`. Returns whether that is news.
    pub(super) fn refuse(&self, fault: &str) -> bool {
        self.refusing.store(true, Ordering::Relaxed);
        lock(&self.fault).replace(fault.to_owned()).as_deref() != Some(fault)
    }

    /// Takes events again. Returns whether that is news.
    pub(super) fn heal(&self) -> bool {
        let healed = lock(&self.fault).take().is_some();
        if !self.is_stopping() {
            self.refusing.store(false, Ordering::Relaxed);
        }
        healed
    }

    /// Why events are refused.
    pub(super) fn fault(&self) -> Option<String> {
        lock(&self.fault).clone()
    }

    /// Takes no further events and ends the writer when it is done.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.refusing.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Counts an event that could not be taken.
    pub(super) fn count_lost(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }

    /// Lost events since the last call.
    pub(super) fn take_lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }

    /// Gives a number back that [`Shared::take_lost`] took and that could not be reported.
    pub(super) fn return_lost(&self, lost: u64) {
        self.lost.fetch_add(lost, Ordering::Relaxed);
    }

    /// Lost events that no block has reported yet.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    pub(super) fn backlog(&self) -> MutexGuard<'_, Backlog> {
        lock(&self.backlog)
    }

    /// Asks for everything recorded so far; the ticket goes to [`Shared::wait_flushed`].
    pub(super) fn request_flush(&self) -> u64 {
        let mut flush = lock(&self.flush);
        flush.requested += 1;
        flush.requested
    }

    /// Newest ticket, and whether it is still open.
    pub(super) fn flush_ticket(&self) -> (u64, bool) {
        let flush = *lock(&self.flush);
        (flush.requested, flush.requested > flush.done)
    }

    /// Everything recorded before `ticket` is on disk.
    pub(super) fn complete_flush(&self, ticket: u64) {
        let mut flush = lock(&self.flush);
        flush.done = flush.done.max(ticket);
        self.flushed.notify_all();
    }

    /// Waits until `ticket` is done; `false` after `timeout`.
    pub(super) fn wait_flushed(&self, ticket: u64, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut flush = lock(&self.flush);
        while flush.done < ticket {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            flush = self
                .flushed
                .wait_timeout(flush, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        true
    }
}
