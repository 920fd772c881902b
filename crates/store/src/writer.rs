//! Group commit: one thread writes, and one commit serves all who wait.
//!
//! A sync to disk takes milliseconds, the writes themselves microseconds. So the writer takes whatever waits,
//! runs each transaction under a savepoint of its own, commits once and only then answers.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
};

use crate::{StoreError, core::Core, limits, unit::Unit};

/// The thread that writes. It ends with this value, after answering those who wait.
pub(crate) struct Writer {
    queue: Option<SyncSender<Box<dyn Job>>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(crate) fn start(core: Arc<Core>) -> Result<Self, StoreError> {
        let (queue, jobs) = sync_channel(limits::WRITE_QUEUE);
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || write_all(&core, &jobs))
            .map_err(|e| StoreError::io("start the writer", e))?;
        Ok(Self {
            queue: Some(queue),
            thread: Some(thread),
        })
    }

    /// Runs `work` in a transaction and answers when it is durable. `work` may run more than once; what it did
    /// before is undone then.
    pub(crate) fn submit<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Fn(&mut Unit<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let (reply, answer) = sync_channel(1);
        let queue = self.queue.as_ref().ok_or(StoreError::Stopped)?;
        queue
            .send(Box::new(Transaction {
                work,
                result: None,
                reply,
            }))
            .map_err(|_| StoreError::Stopped)?;
        answer.recv().unwrap_or(Err(StoreError::Stopped))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(thread) = self.thread.take() {
            // It has nobody left to tell about a panic.
            let _ = thread.join();
        }
    }
}

/// A transaction of any result type.
trait Job: Send {
    fn run(&mut self, unit: &mut Unit<'_>) -> Result<(), StoreError>;
    fn answer(self: Box<Self>, outcome: Result<(), StoreError>);
}

struct Transaction<T, F> {
    work: F,
    result: Option<T>,
    reply: SyncSender<Result<T, StoreError>>,
}

impl<T: Send, F: Fn(&mut Unit<'_>) -> Result<T, StoreError> + Send> Job for Transaction<T, F> {
    fn run(&mut self, unit: &mut Unit<'_>) -> Result<(), StoreError> {
        self.result = Some((self.work)(unit)?);
        Ok(())
    }

    fn answer(self: Box<Self>, outcome: Result<(), StoreError>) {
        let Self { result, reply, .. } = *self;
        // Whoever asked may be gone.
        let _ = reply.send(outcome.and_then(|()| result.ok_or(StoreError::Stopped)));
    }
}

/// Writes until the queue is closed, or until the disk fails. Those who still wait then learn that the writer
/// stopped.
fn write_all(core: &Core, jobs: &Receiver<Box<dyn Job>>) {
    while let Ok(first) = jobs.recv() {
        if write_group(core, gather(first, jobs)).is_err() {
            return;
        }
        // After the answers: nobody waits for it. What had no room or no lock has its turn next time.
        if core
            .backend
            .maintain()
            .is_err_and(|error| is_fatal(&error.into()))
        {
            return;
        }
    }
}

/// The first and all who wait behind it.
fn gather(first: Box<dyn Job>, jobs: &Receiver<Box<dyn Job>>) -> Vec<Box<dyn Job>> {
    std::iter::once(first)
        .chain(jobs.try_iter())
        .take(limits::MAX_GROUP)
        .collect()
}

/// Writes and answers. An error is fatal.
fn write_group(core: &Core, mut group: Vec<Box<dyn Job>>) -> Result<(), StoreError> {
    match attempt(core, &mut group) {
        Ok(outcomes) => {
            group
                .into_iter()
                .zip(outcomes)
                .for_each(|(job, outcome)| job.answer(outcome));
            Ok(())
        }
        // What is too much together may have room one by one.
        Err(StoreError::Full(_)) if group.len() > 1 => group
            .into_iter()
            .try_for_each(|job| write_group(core, vec![job])),
        Err(error) => {
            group
                .into_iter()
                .for_each(|job| job.answer(Err(error.clone())));
            if is_fatal(&error) { Err(error) } else { Ok(()) }
        }
    }
}

/// One commit. An error is the database's and means that nothing of the group happened.
fn attempt(
    core: &Core,
    group: &mut [Box<dyn Job>],
) -> Result<Vec<Result<(), StoreError>>, StoreError> {
    let mut unit = Unit::begin(core)?;
    let mut outcomes = Vec::with_capacity(group.len());
    for job in group {
        match unit.all_or_nothing(|unit| job.run(unit)) {
            Err(error) if error.is_of_the_database() => return Err(error),
            outcome => outcomes.push(outcome),
        }
    }
    unit.commit()?;
    Ok(outcomes)
}

/// After a failed write or sync nobody knows what is on the disk, and to try again would be to guess.
fn is_fatal(error: &StoreError) -> bool {
    matches!(error, StoreError::Io { .. })
}
