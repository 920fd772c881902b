//! Shipping: the spool's blocks to the ledger, in order, each until there is a receipt.

use std::{sync::Arc, time::Duration};

use testudo_model::event::Receipt;
use testudo_runtime::with_causes;
use tonic::Code;

use super::{Link, LinkError, backoff::Backoff};
use crate::{
    spool::SpoolError,
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
            match self.ship_oldest().await {
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
        let all = async {
            loop {
                match self.ship_oldest().await {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(_) => tokio::time::sleep(FIRST_PAUSE).await,
                }
            }
        };
        tokio::time::timeout(deadline, all).await.is_ok()
    }

    /// Ships one block; `false` if there is none.
    async fn ship_oldest(&self) -> Result<bool, LinkError> {
        // One shipper at a time: receipts come in the order of the blocks.
        let _turn = self.shipping.lock().await;
        let spool = Arc::clone(&self.spool);
        let Some(block) = blocking(move || spool.oldest()).await? else {
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
                let spool = Arc::clone(&self.spool);
                blocking(move || spool.set_aside()).await?;
                return Ok(true);
            }
            Err(status) => return Err(LinkError::refused("take events")(status)),
        };
        let receipt: Receipt = serde_json::from_slice(&reply.receipt)
            .map_err(|_| LinkError::Malformed { what: "receipt" })?;
        self.spool
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
