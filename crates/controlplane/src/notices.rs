//! Carries the notices of all providers to whom they are for.

use std::{future::Future, sync::Arc, time::Duration};

use testudo_identity::{Delivery, DueNotice, Fault, Provider};
use testudo_runtime::{Drain, with_causes};
use tokio::task::{JoinError, JoinSet, spawn_blocking};
use tracing::error;

use crate::{outbound::Outbound, plane::Plane};

/// How often it is looked whether something is due. That costs nothing while there is nothing.
const LOOK: Duration = Duration::from_millis(250);

/// One way of carrying notices.
pub trait Carrier: Send + Sync + 'static {
    /// What is carried.
    type Due: Send + Sync + 'static;

    /// Whether there is something to carry, as far as is known without asking the store.
    fn has_due(provider: &Provider) -> bool;

    /// What is to be carried now.
    ///
    /// # Errors
    /// The store fails.
    fn due(provider: &Provider) -> Result<Vec<Self::Due>, Fault>;

    /// Carries one; it does not take forever.
    fn carry(&self, due: &Self::Due) -> impl Future<Output = Delivery> + Send;

    /// Takes note of what became of it.
    ///
    /// # Errors
    /// The store fails.
    fn settle(provider: &Provider, due: &Self::Due, delivery: &Delivery) -> Result<(), Fault>;
}

/// With requests.
impl Carrier for Outbound {
    type Due = DueNotice;

    fn has_due(provider: &Provider) -> bool {
        provider.has_due_notice()
    }

    fn due(provider: &Provider) -> Result<Vec<DueNotice>, Fault> {
        provider.due_notices()
    }

    async fn carry(&self, due: &DueNotice) -> Delivery {
        match self.post(&due.message).await {
            Ok((status, body)) => due.answered(status, &body),
            Err(error) => Delivery::Failed(error.to_string()),
        }
    }

    fn settle(provider: &Provider, due: &DueNotice, delivery: &Delivery) -> Result<(), Fault> {
        provider.settle_notice(due, delivery)
    }
}

/// Delivers until the process drains. What is under way then is waited for; what waits is in the store.
pub async fn deliver<C: Carrier>(plane: Arc<Plane>, carrier: Arc<C>, drain: Drain) {
    let mut watch = drain.watch();
    let mut under_way = JoinSet::new();
    loop {
        for provider in plane.tenants.providers() {
            for due in due::<C>(&provider).await {
                under_way.spawn(tell(Arc::clone(&provider), Arc::clone(&carrier), due));
            }
        }
        tokio::select! {
            () = watch.drained() => break,
            () = tokio::time::sleep(LOOK) => {}
            // The next for the same receiver need not wait.
            Some(_) = under_way.join_next() => {}
        }
    }
    while under_way.join_next().await.is_some() {}
}

async fn due<C: Carrier>(provider: &Arc<Provider>) -> Vec<C::Due> {
    if !C::has_due(provider) {
        return Vec::new();
    }
    let provider = Arc::clone(provider);
    match spawn_blocking(move || C::due(&provider)).await {
        Ok(Ok(due)) => due,
        failed => {
            report(failed.map(|due| due.map(|_| ())));
            Vec::new()
        }
    }
}

async fn tell<C: Carrier>(provider: Arc<Provider>, carrier: Arc<C>, due: C::Due) {
    let delivery = carrier.carry(&due).await;
    report(spawn_blocking(move || C::settle(&provider, &due, &delivery)).await);
}

fn report(done: Result<Result<(), Fault>, JoinError>) {
    match done {
        Ok(Ok(())) => {}
        Ok(Err(fault)) => error!(
            error = with_causes(&fault),
            "notices wait: the store cannot be read or written"
        ),
        Err(error) => error!(error = with_causes(&error), "a notice was not told"),
    }
}
