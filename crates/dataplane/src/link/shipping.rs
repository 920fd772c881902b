//! Shipping: the spool's blocks to the ledger, in order, each until there is a receipt.

use std::{sync::Arc, time::Duration};

use testudo_model::event::Receipt;
use testudo_runtime::with_causes;
use tonic::Code;

use super::{Link, LinkError, backoff::Backoff};
use crate::{
    spool::{Spool, SpoolError},
    wire::{ShipRequest, proxy_client::ProxyClient},
};

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// A ledger that has not answered by then has not taken the block, or takes it again without harm.
const DEADLINE: Duration = Duration::from_secs(20);

impl Link {
    /// Ships for ever.
    pub(super) async fn keep_shipping(&self) {
        let mut backoff = Backoff::new(Arc::clone(&self.entropy), FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            match self.ship_oldest(&self.spool).await {
                Ok(true) => backoff.reset(),
                Ok(false) => self.spool.sealed().await,
                Err(error) => {
                    tracing::warn!(
                        error = with_causes(&error),
                        "events stay in the spool for now"
                    );
                    tokio::time::sleep(backoff.pause()).await;
                }
            }
        }
    }

    /// Ships everything that is on disk; `false` if that was not possible within `deadline`. For the end of
    /// the process, after [`crate::spool::Spool::close`].
    pub async fn ship_rest(&self, deadline: Duration) -> bool {
        tokio::time::timeout(deadline, self.ship_all(&self.spool))
            .await
            .is_ok()
    }

    /// Ships what is on disk in `spool`, which may be that of a process before. Tries until it is done.
    pub(super) async fn ship_all(&self, spool: &Arc<Spool>) {
        let mut backoff = Backoff::new(Arc::clone(&self.entropy), FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            match self.ship_oldest(spool).await {
                Ok(true) => backoff.reset(),
                Ok(false) => return,
                Err(_) => tokio::time::sleep(backoff.pause()).await,
            }
        }
    }

    /// Ships one block of `spool`; `false` if there is none.
    async fn ship_oldest(&self, spool: &Arc<Spool>) -> Result<bool, LinkError> {
        // One shipper at a time: receipts come in the order of the blocks.
        let _turn = self.shipping.lock().await;
        let oldest = Arc::clone(spool);
        let Some(block) = blocking(move || oldest.oldest()).await? else {
            return Ok(false);
        };
        let mut request = tonic::Request::new(ShipRequest {
            block: block.encoded,
        });
        request.set_timeout(DEADLINE);
        let shipped = ProxyClient::new(self.channel()).ship(request).await;
        let reply = match shipped {
            Ok(reply) => reply.into_inner(),
            // The one code for: this block, never.
            Err(status) if status.code() == Code::FailedPrecondition => {
                tracing::error!(
                    block = block.number,
                    why = status.message(),
                    "the ledger refused events"
                );
                let spool = Arc::clone(spool);
                blocking(move || spool.set_aside()).await?;
                return Ok(true);
            }
            Err(status) => return Err(LinkError::refused("take events")(status)),
        };
        let receipt: Receipt = serde_json::from_slice(&reply.receipt)
            .map_err(|_| LinkError::Malformed { what: "receipt" })?;
        spool
            .acknowledge(&receipt)
            .map_err(|_| LinkError::Malformed { what: "receipt" })?;
        self.note_contact();
        Ok(true)
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SpoolError> + Send + 'static,
) -> Result<T, LinkError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result?),
        // It is cancelled when the runtime ends, and so are we.
        Err(_) => Err(LinkError::Silence),
    }
}
