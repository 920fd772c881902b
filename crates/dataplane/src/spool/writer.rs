//! The writer thread: takes events off the ring, seals blocks, writes them.
//!
//! It polls. A thread that slept on the ring would have to be woken by the request path, and a wake-up costs
//! a request more than everything else `record` does.

use std::{
    collections::BTreeMap,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use testudo_model::{
    Clock, Entropy, EventId, TenantName,
    event::{Actor, Detail, Event, EventClass, Grounds, LegRecord, Outcome},
    limits::BLOCK_INTERVAL,
};
use testudo_trust::IdentitySource;

use super::{
    block::{Chain, Draft, SealedBlock},
    disk::{Disk, Fault},
    shared::Shared,
};

/// Pause between two looks at the ring: while there is work, and while there is none.
const BUSY_PAUSE: Duration = Duration::from_millis(20);
const IDLE_PAUSE: Duration = Duration::from_millis(100);
/// Pause before another try after a fault.
const FAULT_PAUSE: Duration = Duration::from_secs(1);
/// Tries left when the spool is to stop and the disk does not take its events.
const LAST_TRIES: u32 = 10;
/// Characters left of each text of an event that is too long, and legs of its decision: about 20 texts, so that they
/// fit together with two SPIFFE ids.
const MAX_CUT_CHARACTERS: usize = 100;
const MAX_LEGS: usize = 2;
/// Time between two looks whether the file is still in place.
const IN_PLACE_INTERVAL: Duration = Duration::from_secs(1);

/// State of the thread.
pub(super) struct Writer {
    pub(super) ring: mpsc::Receiver<Box<Event>>,
    pub(super) shared: Arc<Shared>,
    pub(super) disk: Disk,
    pub(super) chain: Chain,
    pub(super) identity: IdentitySource,
    pub(super) tenant: TenantName,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
    pub(super) pending: Pending,
}

/// Events that wait for their block, and the block that waits for the disk.
#[derive(Default)]
pub(super) struct Pending {
    draft: Draft,
    since_nanos: Option<u64>,
    unwritten: Option<SealedBlock>,
    in_place_nanos: u64,
}

impl Writer {
    /// Works until the spool stops or nobody can record any more, and everything is on disk.
    pub(super) fn run(mut self) {
        let mut last_tries = LAST_TRIES;
        loop {
            let (ticket, flush) = self.shared.flush_ticket();
            let stopping = self.shared.is_stopping();
            match self.turn(flush || stopping) {
                Ok(Turn::Disconnected) => break self.finish(),
                Ok(Turn::Empty) if stopping => break self.finish(),
                Ok(_) => {
                    // Before the flush is said to be done: whoever waited for it finds the sink open again.
                    if self.shared.heal() {
                        tracing::info!("the event spool works again");
                    }
                    if flush {
                        self.shared.complete_flush(ticket);
                    }
                }
                Err(fault) => {
                    self.refuse(&fault);
                    last_tries -= u32::from(stopping);
                    if last_tries == 0 {
                        tracing::error!(%fault, "stopped with events that could not be written");
                        break;
                    }
                }
            }
            thread::park_timeout(self.pause());
        }
    }

    /// Everything is on disk: says so to those who wait, and to the next start.
    fn finish(&self) {
        self.disk.mark_clean();
        let (ticket, _) = self.shared.flush_ticket();
        self.shared.complete_flush(ticket);
    }

    /// Empties the ring into blocks. `everything`: seal what there is, whatever its age.
    fn turn(&mut self, everything: bool) -> Result<Turn, Fault> {
        self.check_in_place()?;
        self.write_unwritten()?;
        let end = loop {
            if self.pending.draft.is_full() {
                self.seal()?;
            }
            match self.ring.try_recv() {
                Ok(event) => self.take(event),
                Err(mpsc::TryRecvError::Empty) => break Turn::Empty,
                Err(mpsc::TryRecvError::Disconnected) => break Turn::Disconnected,
            }
        };
        self.report_lost();
        if self.is_due()
            || ((everything || end == Turn::Disconnected) && !self.pending.draft.is_empty())
        {
            self.seal()?;
        }
        Ok(end)
    }

    fn take(&mut self, event: Box<Event>) {
        let draft = &mut self.pending.draft;
        match draft.push(event).or_else(|long| push_shorter(draft, *long)) {
            Ok(()) => {
                let clock = &self.clock;
                self.pending
                    .since_nanos
                    .get_or_insert_with(|| clock.monotonic_nanos());
            }
            Err(event) => {
                tracing::error!(event = %event.id, "an event is too large to be recorded");
                self.shared.count_lost();
            }
        }
    }

    fn seal(&mut self) -> Result<(), Fault> {
        let lost = self.shared.take_lost();
        let svid = self.identity.current();
        match self
            .chain
            .seal(&self.pending.draft, lost, &svid, self.clock.now())
        {
            Ok(block) => {
                self.pending.sealed(block);
                self.write_unwritten()
            }
            Err(error) => {
                self.shared.return_lost(lost);
                Err(error.into())
            }
        }
    }

    fn write_unwritten(&mut self) -> Result<(), Fault> {
        let Some(block) = &self.pending.unwritten else {
            return Ok(());
        };
        let held = self.shared.backlog().bytes();
        let stored = self.disk.write(block, held)?;
        self.shared.backlog().push(stored);
        self.pending.unwritten = None;
        self.shared.sealed.notify_one();
        Ok(())
    }

    /// A loss is evidence too: without other events it gets one of its own.
    fn report_lost(&mut self) {
        let lost = self.shared.lost();
        if lost == 0 || !self.pending.draft.is_empty() {
            return;
        }
        let event = self.own_event(
            "spool.lost",
            [("lost".to_owned(), Detail::from(lost))].into(),
        );
        self.take(event);
    }

    /// The last run did not end by itself: what it had not written is lost, and that is an event.
    pub(super) fn report_unclean_stop(&mut self) {
        let next = Detail::from(self.chain.next_sequence());
        let event = self.own_event(
            "spool.unclean_stop",
            [("next_sequence".to_owned(), next)].into(),
        );
        self.take(event);
    }

    fn own_event(&self, activity: &str, details: BTreeMap<String, Detail>) -> Box<Event> {
        Box::new(Event {
            id: EventId::generate(&*self.clock, &*self.entropy),
            time: self.clock.now(),
            tenant: self.tenant.clone(),
            class: EventClass::ApplicationLifecycle,
            activity: activity.to_owned(),
            outcome: Outcome::Failure,
            actor: Actor::default(),
            target: None,
            reporter: self.identity.current().id().clone(),
            source_ip: None,
            trace_id: None,
            transaction: None,
            decision: None,
            details,
        })
    }

    fn check_in_place(&mut self) -> Result<(), Fault> {
        let now = self.clock.monotonic_nanos();
        if u128::from(now.saturating_sub(self.pending.in_place_nanos))
            >= IN_PLACE_INTERVAL.as_nanos()
        {
            self.disk.check_in_place()?;
            self.pending.in_place_nanos = now;
        }
        Ok(())
    }

    fn is_due(&self) -> bool {
        let now = self.clock.monotonic_nanos();
        self.pending
            .since_nanos
            .is_some_and(|since| u128::from(now.saturating_sub(since)) >= BLOCK_INTERVAL.as_nanos())
    }

    fn refuse(&self, fault: &Fault) {
        if self.shared.refuse(&fault.to_string()) {
            tracing::error!(%fault, "events cannot be recorded: calls are refused");
        }
    }

    fn pause(&self) -> Duration {
        match (self.shared.is_refusing(), self.pending.draft.is_empty()) {
            (true, _) => FAULT_PAUSE,
            (false, false) => BUSY_PAUSE,
            (false, true) => IDLE_PAUSE,
        }
    }
}

/// How a turn ended: nobody can record any more, or there is nothing at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Empty,
    Disconnected,
}

impl Pending {
    /// The events are in `block` now.
    fn sealed(&mut self, block: SealedBlock) {
        self.draft.clear();
        self.since_nanos = None;
        self.unwritten = Some(block);
    }
}

/// Takes in what of an event is short enough.
fn push_shorter(draft: &mut Draft, long: Event) -> Result<(), Box<Event>> {
    let smaller = without_context(&long).map(Box::new);
    if smaller.is_some_and(|smaller| draft.push(smaller).is_ok()) {
        return Ok(());
    }
    draft.push(Box::new(cut(long)))
}

/// The event without the context of its decision, the one part without which a decision can still be explained.
fn without_context(event: &Event) -> Option<Event> {
    let mut smaller = event.clone();
    smaller.decision.as_mut()?.grounds.context = None;
    smaller
        .details
        .insert("context_omitted".to_owned(), Detail::from(true));
    Some(smaller)
}

/// The event with what was decided, about whom and what, and every text cut, so that it fits whatever it said.
fn cut(mut event: Event) -> Event {
    let cut_some = |text: &mut Option<String>| *text = text.take().as_deref().map(beginning);
    cut_some(&mut event.actor.subject);
    cut_some(&mut event.actor.client);
    cut_some(&mut event.target);
    cut_some(&mut event.trace_id);
    event.activity = beginning(&event.activity);
    event.details = [("cut".to_owned(), Detail::from(true))].into();
    if let Some(decision) = &mut event.decision {
        cut_some(&mut decision.operation);
        decision.method = beginning(&decision.method);
        decision.path = beginning(&decision.path);
        decision.reason = beginning(&decision.reason);
        let legs = decision.grounds.legs.iter().take(MAX_LEGS);
        decision.grounds = Grounds {
            legs: legs.map(outcome).collect(),
            context: None,
        };
    }
    event
}

/// What a leg was about and how it came out, without the policies that determined it.
fn outcome(leg: &LegRecord) -> LegRecord {
    LegRecord {
        leg: beginning(&leg.leg),
        principal: beginning(&leg.principal),
        action: beginning(&leg.action),
        resource: beginning(&leg.resource),
        allowed: leg.allowed,
        policies: Vec::new(),
        errors: Vec::new(),
    }
}

/// The first characters of `text`, without those that JSON writes with six.
fn beginning(text: &str) -> String {
    let printable = text.chars().filter(|character| !character.is_control());
    printable.take(MAX_CUT_CHARACTERS).collect()
}
