//! Bounds on blocking work.

use std::sync::Arc;

use tokio::{sync::Semaphore, task::JoinError};

/// Lets so much work run on blocking threads at the same time, and so much wait for it.
pub struct Gatekeeper {
    permits: Arc<Semaphore>,
    places: Arc<Semaphore>,
}

/// Why the work has no answer.
#[derive(Debug, thiserror::Error)]
pub enum NotDone {
    /// As much as may wait does. The work was not begun.
    #[error("too much is asked of the control plane at the moment")]
    Busy,
    /// The work panicked, or the process ends.
    #[error("the work was not finished")]
    Ended(#[from] JoinError),
}

impl Gatekeeper {
    /// At most `running` at the same time; `waiting` more may wait for their turn.
    pub fn new(running: usize, waiting: usize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(running)),
            places: Arc::new(Semaphore::new(running.saturating_add(waiting))),
        }
    }

    /// Runs `work`. Work that has begun keeps its turn until it ends, also when nobody waits for it any more: who hangs
    /// up makes no room.
    ///
    /// # Errors
    /// See [`NotDone`].
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NotDone> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_| NotDone::Busy)?;
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.map_err(|_| NotDone::Busy)?;
        let done = tokio::task::spawn_blocking(move || {
            let _turn = (place, permit);
            work()
        });
        Ok(done.await?)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::mpsc,
        time::{Duration, Instant},
    };

    use super::*;

    async fn until(what: &str, mut holds: impl FnMut() -> bool) {
        let patience = Instant::now() + Duration::from_secs(10);
        while !holds() {
            assert!(Instant::now() < patience, "{what}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn who_hangs_up_makes_no_room_before_the_work_is_done() {
        let gatekeeper = Arc::new(Gatekeeper::new(1, 1));
        let (finish, finished) = mpsc::sync_channel::<()>(1);
        let (began, beginning) = mpsc::sync_channel(1);
        let work = move || {
            began.send(()).unwrap();
            let _ = finished.recv();
        };
        let first = Arc::clone(&gatekeeper);
        let first = tokio::spawn(async move { first.run(work).await });
        until("the work begins", || beginning.try_recv().is_ok()).await;
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());

        let (began, beginning) = mpsc::sync_channel(1);
        let second = Arc::clone(&gatekeeper);
        let second = tokio::spawn(async move { second.run(move || began.send(()).unwrap()).await });
        until("the second one waits", || {
            gatekeeper.places.available_permits() == 0
        })
        .await;
        let third = gatekeeper.run(|| ()).await;
        assert!(matches!(third, Err(NotDone::Busy)));
        assert!(beginning.try_recv().is_err(), "one at a time");

        finish.send(()).unwrap();
        second.await.unwrap().unwrap();
        assert!(beginning.try_recv().is_ok());
        gatekeeper.run(|| ()).await.unwrap();
    }
}
