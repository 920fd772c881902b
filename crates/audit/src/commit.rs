//! Appending: many callers, one transaction.
//!
//! Whoever finds nobody committing commits for all who wait at that moment; a commit costs a disk flush however
//! many it serves. Leaves, tiles, index, spools and the signed tree head are one transaction of the store, so
//! that nothing of an append is ever seen without the rest.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
};

use serde::{Deserialize, Serialize};
use testudo_model::{
    EventId, InstanceId, Timestamp,
    event::{Actor, Detail, Event, EventClass, EventLine, Outcome as Ending},
};
use testudo_store::{Expected, Record};
use testudo_trust::merkle;

use crate::{
    Appended, IntakeError, Ledger, LedgerError,
    index::{IndexDraft, Moments, moments, moments_of},
    intake::VerifiedBlock,
    leaf,
    ledger::{StoredLeaf, sign},
    outbox::{self, Taken},
    spool::{Gap, MAX_FORKS, Misfit, Place, Spool},
    tile::{Growth, TreeHead, is_conflict},
};

/// Callers that may wait for the disk.
const MAX_WAITING: usize = 4_096;
/// Leaves after which a commit takes no further caller. One more block still fits a store transaction.
const FULL_COMMIT: usize = 4_096;
/// Attempts against other control planes.
const MAX_ATTEMPTS: usize = 64;

/// Something to append.
pub(crate) enum Work {
    Events(Vec<NewLeaf>),
    Outbox(outbox::Waiting),
    Block(Box<VerifiedBlock>),
}

/// Callers and who serves them.
#[derive(Default)]
pub(crate) struct Queue {
    state: Mutex<QueueState>,
    answered: Condvar,
}

#[derive(Default)]
struct QueueState {
    waiting: VecDeque<Waiting>,
    /// Somebody is committing.
    led: bool,
}

/// A caller in the queue.
struct Waiting {
    work: Work,
    answer: Arc<OnceLock<Answer>>,
}

type Answer = Result<Appended, IntakeError>;

/// A leaf to be.
pub(crate) struct NewLeaf {
    pub(crate) text: String,
    hash: merkle::Hash,
    /// When its ids were made: what it is found by.
    moments: Moments,
}

impl NewLeaf {
    /// An event of our own; `None` if it cannot be encoded.
    pub(crate) fn of(event: &Event) -> Option<Self> {
        let text = serde_json::to_string(event).ok()?;
        Some(Self {
            hash: merkle::leaf_hash(text.as_bytes()),
            text,
            moments: moments_of(event),
        })
    }

    /// An event as its reporter encoded it, with its leaf hash.
    pub(crate) fn verbatim(text: String, hash: merkle::Hash, line: &EventLine) -> Self {
        let moments = match line {
            EventLine::Whole(event) => moments_of(event),
            EventLine::Alike(alike) => moments(alike.event(), Some(alike.decision())),
        };
        Self {
            text,
            hash,
            moments,
        }
    }

    /// A leaf that is no event.
    fn evidence(text: Result<String, serde_json::Error>) -> Result<Self, LedgerError> {
        let text = text.map_err(|_| LedgerError::Damaged {
            what: "a block leaf cannot be encoded",
        })?;
        Ok(Self {
            hash: merkle::leaf_hash(text.as_bytes()),
            text,
            moments: Moments::default(),
        })
    }
}

impl Ledger {
    /// Appends `work` and returns when it is durable, or says why not.
    pub(crate) fn submit(&self, work: Work) -> Answer {
        let answer = Arc::new(OnceLock::new());
        let mut state = self.queue.lock();
        if state.waiting.len() >= MAX_WAITING {
            return Err(LedgerError::Busy.into());
        }
        state.waiting.push_back(Waiting {
            work,
            answer: Arc::clone(&answer),
        });
        loop {
            if let Some(answer) = answer.get() {
                return answer.clone();
            }
            if state.led {
                state = self.queue.wait(state);
                continue;
            }
            let batch = state.next_batch();
            if batch.is_empty() {
                // A leader that panicked took our work with it.
                return Err(LedgerError::Busy.into());
            }
            state.led = true;
            drop(state);
            let leader = Leader(&self.queue);
            let answers = self.commit(&batch);
            for (waiting, answer) in batch.iter().zip(answers) {
                let _ = waiting.answer.set(answer);
            }
            drop(leader);
            state = self.queue.lock();
        }
    }

    fn commit(&self, batch: &[Waiting]) -> Vec<Answer> {
        for _ in 0..MAX_ATTEMPTS {
            match self.try_commit(batch) {
                Ok(answers) => return answers,
                Err(error) if is_conflict(&error) => {}
                Err(error) => return vec![Err(error.into()); batch.len()],
            }
        }
        vec![Err(LedgerError::Contended.into()); batch.len()]
    }

    fn try_commit(&self, batch: &[Waiting]) -> Result<Vec<Answer>, LedgerError> {
        let head = self.head()?;
        let mut draft = Draft::new(self, &head.record)?;
        let planned = batch
            .iter()
            .map(|waiting| match &waiting.work {
                Work::Events(events) => Ok(draft.add_events(events)),
                Work::Outbox(waiting) => draft.add_waiting(waiting),
                Work::Block(block) => draft.add_block(block),
            })
            .collect::<Result<Vec<_>, LedgerError>>()?;
        let tree_size = draft.commit(head.version)?;
        Ok(planned
            .into_iter()
            .map(|planned| match planned {
                Planned::At(first_leaf) => Ok(Appended {
                    first_leaf,
                    tree_size,
                }),
                Planned::Known(appended) => Ok(appended),
                Planned::Refused(error) => Err(error),
            })
            .collect())
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, QueueState>) -> MutexGuard<'a, QueueState> {
        self.answered
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl QueueState {
    fn next_batch(&mut self) -> Vec<Waiting> {
        let mut leaves = 0;
        let mut batch = Vec::new();
        while leaves < FULL_COMMIT
            && let Some(waiting) = self.waiting.pop_front()
        {
            leaves += waiting.work.leaves();
            batch.push(waiting);
        }
        batch
    }
}

/// Leads until dropped, also by a panic: nobody waits for a leader that is gone.
struct Leader<'a>(&'a Queue);

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        self.0.lock().led = false;
        self.0.answered.notify_all();
    }
}

impl Work {
    fn leaves(&self) -> usize {
        match self {
            Self::Events(events) => events.len(),
            Self::Outbox(waiting) => waiting.leaves.len(),
            Self::Block(block) => block.events.len() + 1,
        }
    }
}

/// What becomes of one caller's work if the draft is committed.
enum Planned {
    At(u64),
    Known(Appended),
    Refused(IntakeError),
}

/// A transaction in the making.
struct Draft<'a> {
    ledger: &'a Ledger,
    now: Timestamp,
    tree: Growth,
    leaves: Vec<StoredLeaf>,
    index: IndexDraft,
    spools: BTreeMap<InstanceId, Spool>,
    blocks: BTreeMap<(InstanceId, u64), KnownBlock>,
    taken: BTreeMap<&'static str, u64>,
}

impl<'a> Draft<'a> {
    fn new(ledger: &'a Ledger, head: &TreeHead) -> Result<Self, LedgerError> {
        Ok(Self {
            ledger,
            now: ledger.clock.now().max(head.recorded_at),
            tree: Growth::load(&ledger.tenant, head)?,
            leaves: Vec::new(),
            index: IndexDraft::default(),
            spools: BTreeMap::new(),
            blocks: BTreeMap::new(),
            taken: BTreeMap::new(),
        })
    }

    fn add_events(&mut self, events: &[NewLeaf]) -> Planned {
        let first = self.tree.size();
        events.iter().for_each(|event| self.add(event));
        Planned::At(first)
    }

    /// Adds what of `waiting` nobody took since it was read.
    fn add_waiting(&mut self, waiting: &outbox::Waiting) -> Result<Planned, LedgerError> {
        let next = match self.taken.get(waiting.outbox) {
            Some(drafted) => *drafted,
            None => self.ledger.taken(waiting.outbox)?,
        };
        let first_leaf = self.tree.size();
        for (place, leaf) in (waiting.first..).zip(&waiting.leaves) {
            if place >= next {
                self.add(leaf);
                self.taken.insert(waiting.outbox, place + 1);
            }
        }
        Ok(Planned::At(first_leaf))
    }

    fn add_block(&mut self, block: &VerifiedBlock) -> Result<Planned, LedgerError> {
        let key = (block.head.instance.clone(), block.head.block);
        let mut spool = self.spool(block)?;
        if spool.reporter != block.head.reporter {
            return Ok(Planned::Refused(IntakeError::ForeignSpool {
                instance: spool.instance,
                owner: spool.reporter,
            }));
        }
        if let Some(drafted) = self.blocks.get(&key) {
            return if drafted.head_hash == block.after.previous {
                Ok(Planned::At(drafted.first_leaf))
            } else {
                self.add_fork(block)
            };
        }
        if let Some(known) = self.known_block(&key)? {
            return if known.head_hash == block.after.previous {
                Ok(Planned::Known(known.appended()))
            } else {
                self.add_fork(block)
            };
        }
        let place = match spool.place(&block.at, &block.after) {
            Ok(place) => place,
            Err(Misfit::Fork) => return self.add_fork(block),
            Err(Misfit::TooManyGaps) => {
                let wanted = spool
                    .gaps
                    .first()
                    .map_or(spool.end.block, |gap| gap.from.block);
                return Ok(Planned::Refused(IntakeError::TooManyGaps {
                    instance: key.0,
                    wanted,
                }));
            }
        };
        self.note_irregularities(block, &place)?;
        let mut evidence = block.evidence.clone();
        if spool.signer.as_ref() == Some(&evidence.signer) {
            evidence.chain.clear();
        }
        spool.signer = Some(evidence.signer.clone());
        spool.take(place, block.after.clone());
        let first_leaf = self.tree.size();
        self.add(&NewLeaf::evidence(leaf::encode_block(evidence))?);
        block.events.iter().for_each(|event| self.add(event));
        let known = KnownBlock {
            instance: key.0.clone(),
            block: key.1,
            head_hash: block.after.previous.clone(),
            first_leaf,
            // Known when the draft is complete.
            tree_size: 0,
        };
        self.spools.insert(key.0.clone(), spool);
        self.blocks.insert(key, known);
        Ok(Planned::At(first_leaf))
    }

    /// Keeps the head of a contradicting block, once, and raises an alert.
    fn add_fork(&mut self, block: &VerifiedBlock) -> Result<Planned, LedgerError> {
        let mut spool = self.spool(block)?;
        let (instance, number) = (block.head.instance.clone(), block.head.block);
        let hash = &block.after.previous;
        if spool.forks.len() < MAX_FORKS && !spool.forks.contains(hash) {
            spool.forks.push(hash.clone());
            self.spools.insert(instance.clone(), spool);
            let details = [
                ("block", Detail::from(number)),
                ("head_sha256", hash.as_str().into()),
            ];
            self.note(EventClass::DetectionFinding, "audit.fork", block, details)?;
            let fork = leaf::encode_fork(block.evidence.clone());
            self.add(&NewLeaf::evidence(fork)?);
        }
        Ok(Planned::Refused(IntakeError::Forked {
            instance,
            block: number,
        }))
    }

    /// Events about what a block reveals: a gap, the end of one, lost events.
    fn note_irregularities(
        &mut self,
        block: &VerifiedBlock,
        place: &Place,
    ) -> Result<(), LedgerError> {
        match place {
            Place::Ahead(Gap { from, to }) => {
                let details = [
                    ("first_block", Detail::from(from.block)),
                    ("last_block", Detail::from(to.block.saturating_sub(1))),
                    (
                        "events",
                        Detail::from(to.sequence.saturating_sub(from.sequence)),
                    ),
                ];
                self.note(
                    EventClass::ApplicationLifecycle,
                    "audit.gap",
                    block,
                    details,
                )?;
            }
            Place::Fills { rest, .. } if rest.is_empty() => {
                let details = [("last_block", Detail::from(block.head.block))];
                self.note(
                    EventClass::ApplicationLifecycle,
                    "audit.gap_closed",
                    block,
                    details,
                )?;
            }
            Place::Fills { .. } | Place::Next => {}
        }
        if block.head.lost > 0 {
            let details = [
                ("block", Detail::from(block.head.block)),
                ("events", Detail::from(block.head.lost)),
            ];
            self.note(
                EventClass::ApplicationLifecycle,
                "audit.lost",
                block,
                details,
            )?;
        }
        Ok(())
    }

    /// Adds an event of the ledger's own about the spool of `block`.
    fn note<const N: usize>(
        &mut self,
        class: EventClass,
        activity: &str,
        block: &VerifiedBlock,
        details: [(&str, Detail); N],
    ) -> Result<(), LedgerError> {
        let ledger = self.ledger;
        let good = activity == "audit.gap_closed";
        let event = Event {
            id: EventId::generate(&*ledger.clock, &*ledger.entropy),
            time: self.now,
            tenant: ledger.tenant_name.clone(),
            class,
            activity: activity.to_owned(),
            outcome: if good {
                Ending::Success
            } else {
                Ending::Failure
            },
            actor: Actor {
                workload: Some(block.head.reporter.clone()),
                ..Actor::default()
            },
            target: Some(block.head.instance.to_string()),
            reporter: ledger.reporter.clone(),
            source_ip: None,
            trace_id: None,
            transaction: None,
            decision: None,
            details: details
                .map(|(name, detail)| (name.to_owned(), detail))
                .into(),
        };
        let unencodable = LedgerError::Damaged {
            what: "an event of the ledger's own is too long",
        };
        self.add(&NewLeaf::of(&event).ok_or(unencodable)?);
        Ok(())
    }

    fn add(&mut self, leaf: &NewLeaf) {
        self.index.add(self.tree.size(), &leaf.moments);
        self.tree.append(leaf.hash);
        self.leaves.push(StoredLeaf {
            at: self.now,
            leaf: leaf.text.clone(),
        });
    }

    fn known_block(&self, key: &(InstanceId, u64)) -> Result<Option<KnownBlock>, LedgerError> {
        let stored = self
            .ledger
            .tenant
            .get::<KnownBlock>(&KnownBlock::key_of(&key.0, key.1))?;
        Ok(stored.map(|stored| stored.record))
    }

    fn spool(&self, block: &VerifiedBlock) -> Result<Spool, LedgerError> {
        let instance = &block.head.instance;
        if let Some(drafted) = self.spools.get(instance) {
            return Ok(drafted.clone());
        }
        let stored = self.ledger.tenant.get::<Spool>(instance.as_str())?;
        Ok(stored.map_or_else(
            || Spool::new(instance.clone(), block.head.reporter.clone()),
            |stored| stored.record,
        ))
    }

    /// Commits if nobody else has appended since `version` of the head. Returns the size of the tree.
    fn commit(self, version: u64) -> Result<u64, LedgerError> {
        let size = self.tree.size();
        if self.leaves.is_empty() {
            return Ok(size);
        }
        let (ledger, frontier) = (self.ledger, self.tree.frontier());
        let head = TreeHead::new(
            frontier,
            self.now,
            sign(&ledger.signer, &ledger.origin, frontier),
        );
        let mut transaction = ledger
            .tenant
            .transaction()
            .put(Expected::Version(version), &head)
            .append_all(&self.leaves);
        for tile in self.tree.changed() {
            transaction = transaction.put(Expected::Any, &tile);
        }
        transaction = self.index.write(transaction);
        for spool in self.spools.values() {
            transaction = transaction.put(Expected::Any, spool);
        }
        for (outbox, next) in self.taken {
            let taken = Taken {
                outbox: outbox.to_owned(),
                next,
            };
            transaction = transaction.put(Expected::Any, &taken);
        }
        for block in self.blocks.into_values() {
            transaction = transaction.put(
                Expected::Absent,
                &KnownBlock {
                    tree_size: size,
                    ..block
                },
            );
        }
        transaction.commit()?;
        Ok(size)
    }
}

/// A block that has its receipt.
#[derive(Clone, Serialize, Deserialize)]
struct KnownBlock {
    instance: InstanceId,
    block: u64,
    head_hash: String,
    first_leaf: u64,
    tree_size: u64,
}

impl Record for KnownBlock {
    const COLLECTION: &'static str = "audit.blocks";

    fn key(&self) -> String {
        Self::key_of(&self.instance, self.block)
    }
}

impl KnownBlock {
    fn key_of(instance: &InstanceId, block: u64) -> String {
        format!("{instance}/{block}")
    }

    fn appended(&self) -> Appended {
        Appended {
            first_leaf: self.first_leaf,
            tree_size: self.tree_size,
        }
    }
}
