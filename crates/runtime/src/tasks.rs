//! Long-lived tasks with a name and an owner. One that ends before its time is a fault, not a detail.

use std::{
    fmt::Display,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    task::{AbortHandle, JoinHandle},
    time::Instant,
};

use crate::{Drain, Readiness};

/// The supervised tasks of one process. Cheap to clone.
///
/// Each task has the readiness gate `task.<name>`: open while it runs, closed when it ends or panics before
/// the drain has started. Nothing is restarted: a supervisor outside restarts the whole process, which is the
/// state that is tested.
#[derive(Debug, Clone)]
pub struct Tasks {
    readiness: Readiness,
    drain: Drain,
    running: Arc<Mutex<Vec<Running>>>,
}

#[derive(Debug)]
struct Running {
    name: String,
    work: AbortHandle,
    watcher: JoinHandle<()>,
}

/// What a task may return: nothing, or a result whose error is logged.
pub trait TaskEnd: Send + 'static {
    /// Why the task failed, if it did.
    fn failure(self) -> Option<String>;
}

impl TaskEnd for () {
    fn failure(self) -> Option<String> {
        None
    }
}

impl<E: Display + Send + 'static> TaskEnd for Result<(), E> {
    fn failure(self) -> Option<String> {
        self.err().map(|error| error.to_string())
    }
}

impl Tasks {
    /// No tasks yet. Ends count as early until `drain` has started.
    pub fn new(readiness: Readiness, drain: Drain) -> Self {
        Self {
            readiness,
            drain,
            running: Arc::default(),
        }
    }

    /// Runs `future` on the current runtime under `name`.
    ///
    /// # Panics
    /// Outside a tokio runtime, as `tokio::spawn` does.
    pub fn spawn<F>(&self, name: impl Into<String>, future: F)
    where
        F: Future + Send + 'static,
        F::Output: TaskEnd,
    {
        let name = name.into();
        let gate = self.readiness.gate(format!("task.{name}"));
        gate.ready();
        let task = tokio::spawn(future);
        let work = task.abort_handle();
        let drain = self.drain.clone();
        let watched = name.clone();
        let watcher = tokio::spawn(async move {
            let end = match task.await {
                Ok(output) => output.failure(),
                Err(error) if error.is_panic() => Some(panic_text(error.into_panic().as_ref())),
                Err(_) => Some("aborted".to_owned()),
            };
            if drain.is_started() {
                if let Some(failure) = end {
                    tracing::warn!(task = watched, failure, "a task failed while stopping");
                }
                return;
            }
            let reason = end.unwrap_or_else(|| "ended before the shutdown".to_owned());
            tracing::error!(
                task = watched,
                reason,
                "a task ended early; the process is no longer ready"
            );
            gate.not_ready(reason);
        });
        let mut running = self.lock();
        running.retain(|task| !task.watcher.is_finished());
        running.push(Running {
            name,
            work,
            watcher,
        });
    }

    /// Waits for all tasks, at most until `deadline` from now; aborts the rest and returns their names.
    pub async fn join_all(&self, deadline: Duration) -> Vec<String> {
        let until = Instant::now() + deadline;
        let running = std::mem::take(&mut *self.lock());
        let mut late = Vec::new();
        for mut task in running {
            if tokio::time::timeout_at(until, &mut task.watcher)
                .await
                .is_err()
            {
                task.work.abort();
                late.push(task.name);
            }
        }
        late
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn panic_text(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    format!("panicked: {}", text.unwrap_or("without a message"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(50);
    const LATE: Duration = Duration::from_secs(20);

    fn reason(readiness: &Readiness, gate: &str) -> Option<String> {
        readiness
            .status()
            .into_iter()
            .find(|(name, _)| name == gate)
            .and_then(|(_, reason)| reason)
    }

    #[tokio::test]
    async fn a_task_that_panics_makes_the_process_not_ready() {
        let (readiness, (_signal, drain)) = (Readiness::new(), Drain::new());
        let tasks = Tasks::new(readiness.clone(), drain);
        tasks.spawn("renewal", async {
            let clocks: Vec<u64> = Vec::new();
            assert!(!clocks.is_empty(), "no clock");
        });
        assert_eq!(tasks.join_all(LATE).await, Vec::<String>::new());
        assert_eq!(
            reason(&readiness, "task.renewal").as_deref(),
            Some("panicked: no clock")
        );
    }

    #[tokio::test]
    async fn a_task_that_returns_early_makes_the_process_not_ready() {
        let (readiness, (_signal, drain)) = (Readiness::new(), Drain::new());
        let tasks = Tasks::new(readiness.clone(), drain);
        tasks.spawn("spool", async { Err::<(), _>("disk full") });
        tasks.join_all(LATE).await;
        assert_eq!(
            reason(&readiness, "task.spool").as_deref(),
            Some("disk full")
        );
        assert!(!readiness.is_ready());
    }

    #[tokio::test]
    async fn a_task_that_ends_after_the_drain_started_is_in_order() {
        let (readiness, (signal, drain)) = (Readiness::new(), Drain::new());
        let tasks = Tasks::new(readiness.clone(), drain.clone());
        let mut watch = drain.watch();
        tasks.spawn("listener", async move { watch.drained().await });
        assert_eq!(signal.start(LATE).await, crate::DrainOutcome::Complete);
        assert!(tasks.join_all(LATE).await.is_empty());
        assert!(readiness.is_ready());
    }

    #[tokio::test]
    async fn a_task_that_does_not_stop_is_aborted_and_named() {
        let (readiness, (signal, drain)) = (Readiness::new(), Drain::new());
        let tasks = Tasks::new(readiness, drain);
        tasks.spawn("stuck", std::future::pending::<()>());
        signal.start(SOON).await;
        assert_eq!(tasks.join_all(SOON).await, ["stuck"]);
    }
}
