//! Shipping: the spool's blocks to the ledger, in order, each until there is a receipt.

use std::{sync::Arc, time::Duration};

use testudo_model::event::Receipt;

use super::{Link, LinkError, backoff::Backoff};
use crate::wire::{ShipRequest, proxy_client::ProxyClient};

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
                    tracing::warn!(error = error.chain(), "events stay in the spool for now");
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
        let oldest = tokio::task::spawn_blocking(move || spool.oldest()).await;
        let Some(block) = oldest.map_err(|_| LinkError::Silence)?? else { return Ok(false) };
        let mut request = tonic::Request::new(ShipRequest { block: block.json.into() });
        request.set_timeout(DEADLINE);
        let reply = ProxyClient::new(self.channel())
            .ship(request)
            .await
            .map_err(LinkError::refused("ship events"))?
            .into_inner();
        let receipt: Receipt = serde_json::from_slice(&reply.receipt)
            .map_err(|_| LinkError::Malformed { what: "receipt" })?;
        self.spool.acknowledge(&receipt).map_err(|_| LinkError::Malformed { what: "receipt" })?;
        self.note_contact();
        Ok(true)
    }
}
