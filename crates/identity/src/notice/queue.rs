//! What waits for each receiver, in memory: a view of the stored notices.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use testudo_model::NoticeId;
use testudo_store::Tenant;

use super::{Lane, Notice, Receiver, pause_after};
use crate::{
    Fault,
    limits::{HELD_NOTICE_PAUSE, MAX_MAILS_WAITING, MAX_PAGE, NOTICE_REREAD},
};

/// The queues of all receivers.
#[derive(Default)]
pub(crate) struct Queues(Mutex<State>);

#[derive(Default)]
struct State {
    queues: BTreeMap<Receiver, Queue>,
    /// When the store was read last.
    read_at_nanos: Option<u64>,
}

#[derive(Default)]
struct Queue {
    /// By id, and so by time.
    waiting: BTreeMap<NoticeId, Notice>,
    /// The first of them is being sent.
    under_way: bool,
    failures: u32,
    not_before_nanos: u64,
}

impl Queue {
    fn is_ready(&self, now_nanos: u64) -> bool {
        !self.under_way && self.not_before_nanos <= now_nanos && !self.waiting.is_empty()
    }
}

impl State {
    fn of(&self, lane: Lane) -> impl Iterator<Item = &Queue> {
        let queues = self.queues.iter();
        queues
            .filter(move |(receiver, _)| receiver.lane() == lane)
            .map(|(_, queue)| queue)
    }

    fn waiting(&self, lane: Lane) -> usize {
        self.of(lane).map(|queue| queue.waiting.len()).sum()
    }
}

fn is_fresh(state: &State, now_nanos: u64) -> bool {
    let age = |read_at: u64| u128::from(now_nanos.saturating_sub(read_at));
    state
        .read_at_nanos
        .is_some_and(|read_at| age(read_at) < NOTICE_REREAD.as_nanos())
}

impl Queues {
    /// Adds what the store has and the queues have not: at the start, and now and then, because other processes add too.
    pub(crate) fn read(&self, tenant: &Tenant, now_nanos: u64) -> Result<(), Fault> {
        if is_fresh(&self.lock(), now_nanos) {
            return Ok(());
        }
        let mut after = None;
        loop {
            let page = tenant.list::<Notice>(after, MAX_PAGE)?;
            self.add(page.items.into_iter().map(|stored| stored.record));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        self.lock().read_at_nanos = Some(now_nanos);
        Ok(())
    }

    /// Adds notices that have been stored.
    pub(crate) fn add(&self, notices: impl IntoIterator<Item = Notice>) {
        let mut state = self.lock();
        for notice in notices {
            let queue = state.queues.entry(notice.receiver()).or_default();
            queue.waiting.insert(notice.id.clone(), notice);
        }
    }

    /// Whether one more may wait for `receiver`, with those that are about to be stored.
    pub(crate) fn has_room(&self, receiver: &Receiver, about_to_be_stored: usize) -> bool {
        let state = self.lock();
        let waiting = state.queues.get(receiver);
        let waiting = waiting.map_or(0, |queue| queue.waiting.len());
        let is_mailbox = |receiver: &Receiver| matches!(receiver, Receiver::Mailbox(_));
        // There may be as many mailboxes as there are users.
        let queues = state.queues.iter();
        let letters = queues.filter(|(receiver, _)| is_mailbox(receiver));
        let letters: usize = letters.map(|(_, queue)| queue.waiting.len()).sum();
        let is_full = is_mailbox(receiver) && letters + about_to_be_stored >= MAX_MAILS_WAITING;
        waiting + about_to_be_stored < receiver.patience() && !is_full
    }

    /// How many wait, those that are being sent among them.
    pub(crate) fn waiting(&self, lane: Lane) -> usize {
        self.lock().waiting(lane)
    }

    /// How many wait for one receiver.
    pub(crate) fn waiting_for(&self, receiver: &Receiver) -> usize {
        let state = self.lock();
        let queue = state.queues.get(receiver);
        queue.map_or(0, |queue| queue.waiting.len())
    }

    /// How many wait for all streams of signals.
    pub(crate) fn waiting_signals(&self) -> usize {
        let state = self.lock();
        let queues = state.queues.iter();
        let streams = queues.filter(|(receiver, _)| matches!(receiver, Receiver::Stream(_)));
        streams.map(|(_, queue)| queue.waiting.len()).sum()
    }

    /// The oldest that wait for one receiver.
    pub(crate) fn first(&self, receiver: &Receiver, count: usize) -> Vec<Notice> {
        let state = self.lock();
        let queue = state.queues.get(receiver);
        let waiting = queue.into_iter().flat_map(|queue| queue.waiting.values());
        waiting.take(count).cloned().collect()
    }

    /// How many are being sent.
    pub(super) fn under_way(&self, lane: Lane) -> usize {
        let state = self.lock();
        state.of(lane).filter(|queue| queue.under_way).count()
    }

    /// Whether [`Queues::take`] has one, or the store should be read.
    pub(super) fn has_ready(&self, lane: Lane, now_nanos: u64) -> bool {
        let state = self.lock();
        !is_fresh(&state, now_nanos) || state.of(lane).any(|queue| queue.is_ready(now_nanos))
    }

    /// The oldest notice of the receivers of whom none is being sent and who have no pause; from now on it is being sent.
    pub(super) fn take(&self, lane: Lane, now_nanos: u64) -> Option<Notice> {
        let mut state = self.lock();
        let ready = state
            .queues
            .iter_mut()
            .filter(|(receiver, queue)| receiver.lane() == lane && queue.is_ready(now_nanos));
        let oldest = ready
            .map(|(_, queue)| queue)
            .filter_map(|queue| Some((queue.waiting.first_key_value()?.0.clone(), queue)))
            .min_by(|(one, _), (other, _)| one.cmp(other));
        let (id, queue) = oldest?;
        queue.under_way = true;
        queue.waiting.get(&id).cloned()
    }

    /// It needs not be sent again.
    pub(crate) fn done(&self, notice: &Notice) {
        let mut state = self.lock();
        let receiver = notice.receiver();
        if let Some(queue) = state.queues.get_mut(&receiver) {
            queue.waiting.remove(&notice.id);
            queue.under_way = false;
            queue.failures = 0;
            if queue.waiting.is_empty() {
                state.queues.remove(&receiver);
            }
        }
    }

    /// It was not sent after all.
    pub(super) fn give_back(&self, notice: &Notice) {
        if let Some(queue) = self.lock().queues.get_mut(&notice.receiver()) {
            queue.under_way = false;
        }
    }

    /// Its receiver is not to be sent anything now. It is asked again after a while, whoever changes that meanwhile.
    pub(super) fn hold(&self, notice: &Notice, now_nanos: u64) {
        if let Some(queue) = self.lock().queues.get_mut(&notice.receiver()) {
            queue.under_way = false;
            let pause = u64::try_from(HELD_NOTICE_PAUSE.as_nanos()).unwrap_or(u64::MAX);
            queue.not_before_nanos = now_nanos.saturating_add(pause);
        }
    }

    /// Something about the receiver has changed: its pause ends.
    pub(crate) fn wake(&self, receiver: &Receiver) {
        if let Some(queue) = self.lock().queues.get_mut(receiver) {
            queue.not_before_nanos = 0;
        }
    }

    /// It comes again, and nothing comes to its receiver before a pause.
    pub(super) fn postpone(&self, notice: &Notice, now_nanos: u64) {
        if let Some(queue) = self.lock().queues.get_mut(&notice.receiver()) {
            queue.under_way = false;
            queue.failures = queue.failures.saturating_add(1);
            let pause = u64::try_from(pause_after(queue.failures).as_nanos()).unwrap_or(u64::MAX);
            queue.not_before_nanos = now_nanos.saturating_add(pause);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
