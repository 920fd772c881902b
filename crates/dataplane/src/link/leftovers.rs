//! Events that processes before this one left in the state folder: the one that this process takes over from writes
//! its last ones while this one serves, and one that was killed could not ship its own.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use testudo_runtime::{DrainWatch, with_causes};

use super::{Link, StateFolder};
use crate::spool::{Spool, SpoolError, SpoolOptions};

/// Pause before another look at a spool that is still written.
const LOOK: Duration = Duration::from_millis(500);
/// Time for the writer of a spool without work to end.
const CLOSE: Duration = Duration::from_secs(5);

/// The spools of a state folder but for the one in use.
#[derive(Clone)]
pub struct Leftovers {
    spools: Vec<PathBuf>,
    options: SpoolOptions,
}

impl Leftovers {
    /// Those of `folder`, opened with `options`; `own` is in use.
    pub fn new(folder: &StateFolder, options: SpoolOptions, own: &Path) -> Self {
        let is_left = |spool: &PathBuf| spool != own && spool.exists();
        Self {
            spools: folder.spools().filter(is_left).collect(),
            options,
        }
    }

    /// Ships them, each as soon as nobody writes it any more, then waits for `drain`. What is not shipped by then is
    /// there for the next process.
    pub async fn ship(mut self, link: Arc<Link>, mut drain: DrainWatch) {
        let all = async {
            while let Some(folder) = self.spools.pop() {
                match self.open(&folder).await {
                    Ok(spool) => {
                        link.ship_all(&spool).await;
                        tracing::info!(spool = %folder.display(), "shipped what an earlier process left");
                    }
                    Err(SpoolError::Locked { .. }) => {
                        self.spools.insert(0, folder);
                        tokio::time::sleep(LOOK).await;
                    }
                    Err(error) => tracing::error!(
                        error = with_causes(&error),
                        "events of an earlier process stay where they are"
                    ),
                }
            }
        };
        tokio::select! {
            () = all => drain.drained().await,
            () = drain.drained() => {}
        }
    }

    /// Opened, which may add that it was not closed; and closed again, since nothing else is to be added.
    async fn open(&self, folder: &Path) -> Result<Arc<Spool>, SpoolError> {
        let options = SpoolOptions {
            folder: folder.to_owned(),
            ..self.options.clone()
        };
        let open = move || {
            let (spool, _sink) = Spool::open(options)?;
            spool.close(CLOSE);
            Ok(spool)
        };
        match tokio::task::spawn_blocking(open).await {
            Ok(opened) => opened,
            // It is cancelled when the runtime ends, and so are we.
            Err(_) => std::future::pending().await,
        }
    }
}
