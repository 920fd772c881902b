//! The unary calls: enrol, renew, web certificate, ship.

use std::{fmt::Display, sync::Arc};

use bytes::Bytes;
use testudo_audit::Ledger;
use testudo_model::{
    Clock, Redacted, SpiffeId,
    event::{Block, BlockHead, Receipt},
};
use testudo_runtime::DrainWatch;
use testudo_trust::TrustBundle;
use testudo_workload::{IssuedChain, WorkloadError, Workloads};
use tonic::{Request, Response, Status, Streaming};

use super::{distribution::Distribution, peer::Peer, status, watch};
use crate::{
    gatekeeper::{Gatekeeper, NotDone},
    wire::{
        EnrolReply, EnrolRequest, RenewReply, RenewRequest, ShipReply, ShipRequest, WatchRequest,
        enrolment_server::Enrolment, proxy_server::Proxy,
    },
};

/// Enrolments at the same time: each costs a signature and a commit, and anybody may ask.
const MAX_ENROLMENTS: usize = 16;
/// Blocks verified and committed at the same time, for all proxies together; the ledger groups commits.
const MAX_INTAKES: usize = 8;
/// Renewals at the same time.
const MAX_RENEWALS: usize = 32;
/// Renewals that may wait: as many as proxies may be connected.
const MAX_WAITING_RENEWALS: usize = 10_000;
/// Blocks that may wait, in memory; whose block may not tries again.
const MAX_WAITING_INTAKES: usize = 256;

/// The services behind the port.
pub(super) struct Services {
    workloads: Arc<Workloads>,
    ledger: Arc<Ledger>,
    distribution: Arc<Distribution>,
    clock: Arc<dyn Clock>,
    drain: DrainWatch,
    enrolments: Gatekeeper,
    renewals: Gatekeeper,
    intakes: Gatekeeper,
}

impl Services {
    pub(super) fn new(
        workloads: Arc<Workloads>,
        ledger: Arc<Ledger>,
        distribution: Arc<Distribution>,
        clock: Arc<dyn Clock>,
        drain: DrainWatch,
    ) -> Arc<Self> {
        Arc::new(Self {
            workloads,
            ledger,
            distribution,
            clock,
            drain,
            // Refused rather than queued: what waits there waits for strangers.
            enrolments: Gatekeeper::new(MAX_ENROLMENTS, 0),
            renewals: Gatekeeper::new(MAX_RENEWALS, MAX_WAITING_RENEWALS),
            intakes: Gatekeeper::new(MAX_INTAKES, MAX_WAITING_INTAKES),
        })
    }

    /// Runs what blocks on the workload room's disk aside, in its turn.
    async fn in_turn<T: Send + 'static>(
        &self,
        gatekeeper: &Gatekeeper,
        work: impl FnOnce(&Workloads) -> Result<T, WorkloadError> + Send + 'static,
    ) -> Result<T, Status> {
        let workloads = Arc::clone(&self.workloads);
        let done = gatekeeper.run(move || work(&workloads)).await;
        done.map_err(|error| not_done(&error))?
            .map_err(|error| status::of_workload(&error))
    }
}

#[tonic::async_trait]
impl Enrolment for Services {
    async fn enrol(&self, request: Request<EnrolRequest>) -> Result<Response<EnrolReply>, Status> {
        let caller = Peer::anonymous(&request)?;
        let EnrolRequest {
            join_token,
            certificate_request,
        } = request.into_inner();
        let credential = Redacted::new(join_token);
        let enrolment = self
            .in_turn(&self.enrolments, move |workloads| {
                workloads.enrol(&credential, &certificate_request, &caller)
            })
            .await?;
        tracing::info!(id = %enrolment.issued.id, "a proxy joined the fleet");
        let trust_bundle = bundle_bytes(&enrolment.bundle.bundle);
        Ok(Response::new(EnrolReply {
            chain: chain_bytes(enrolment.issued),
            trust_bundle,
        }))
    }
}

#[tonic::async_trait]
impl Proxy for Services {
    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewReply>, Status> {
        // The one call for a certificate that may have ended: the room decides whether it renews late.
        let (shown, caller) = Peer::shown(&request)?;
        let csr = request.into_inner().certificate_request;
        let (issued, bundle) = self
            .in_turn(&self.renewals, move |workloads| {
                Ok((workloads.renew(&shown, &csr, &caller)?, workloads.bundle()?))
            })
            .await?;
        let trust_bundle = bundle_bytes(&bundle.bundle);
        Ok(Response::new(RenewReply {
            chain: chain_bytes(issued),
            trust_bundle,
        }))
    }

    async fn issue_web_certificate(
        &self,
        request: Request<RenewRequest>,
    ) -> Result<Response<RenewReply>, Status> {
        let peer = Peer::certified(&request, &*self.clock)?;
        let csr = request.into_inner().certificate_request;
        let (issued, bundle) = self
            .in_turn(&self.renewals, move |workloads| {
                let names = workloads.registration(&peer.id)?.web_names;
                Ok((
                    workloads.issue_web(&peer.id, &csr, &names, &peer.caller)?,
                    workloads.bundle()?,
                ))
            })
            .await?;
        let trust_bundle = bundle_bytes(&bundle.bundle);
        Ok(Response::new(RenewReply {
            chain: chain_bytes(issued),
            trust_bundle,
        }))
    }

    type WatchStream = watch::Replies;

    async fn watch(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<watch::Replies>, Status> {
        let peer = Peer::certified(&request, &*self.clock)?;
        let stream = watch::open(
            peer,
            request.into_inner(),
            Arc::clone(&self.workloads),
            Arc::clone(&self.distribution),
            Arc::clone(&self.clock),
            self.drain.clone(),
        )
        .await?;
        Ok(Response::new(stream))
    }

    async fn ship(&self, request: Request<ShipRequest>) -> Result<Response<ShipReply>, Status> {
        let peer = Peer::certified(&request, &*self.clock)?;
        let block = request.into_inner().block;
        let (workloads, ledger) = (Arc::clone(&self.workloads), Arc::clone(&self.ledger));
        let receipt = self
            .intakes
            .run(move || take_block(&peer.id, &block, &workloads, &ledger))
            .await
            .map_err(|error| not_done(&error))??;
        let receipt =
            serde_json::to_vec(&receipt).map_err(|_| Status::internal("encoding failed"))?;
        Ok(Response::new(ShipReply {
            receipt: receipt.into(),
        }))
    }
}

/// Verifies that the peer ships its own events, and gives them to the ledger. The block may have been signed
/// under a root that has left the published bundle since.
fn take_block(
    peer: &SpiffeId,
    block: &[u8],
    workloads: &Workloads,
    ledger: &Ledger,
) -> Result<Receipt, Status> {
    let malformed =
        |why: &dyn Display| Status::failed_precondition(format!("the block is malformed: {why}"));
    let block = Block::decode(block).map_err(|error| malformed(&error))?;
    let head: BlockHead = serde_json::from_str(&block.head).map_err(|error| malformed(&error))?;
    if head.reporter != *peer {
        return Err(Status::permission_denied(
            "a proxy ships its own events only",
        ));
    }
    let roots = workloads
        .historic_bundle()
        .map_err(|error| status::of_workload(&error))?;
    ledger
        .intake(block, &roots)
        .map_err(|error| status::of_intake(&error))
}

fn not_done(error: &NotDone) -> Status {
    match error {
        NotDone::Busy => Status::resource_exhausted(error.to_string()),
        NotDone::Ended(_) => Status::internal(error.to_string()),
    }
}

/// Runs storey 2, which blocks on the disk, aside.
pub(super) async fn blocking<T: Send + 'static>(
    workloads: &Arc<Workloads>,
    work: impl FnOnce(&Workloads) -> Result<T, WorkloadError> + Send + 'static,
) -> Result<T, Status> {
    let workloads = Arc::clone(workloads);
    tokio::task::spawn_blocking(move || work(&workloads))
        .await
        .map_err(|_| Status::internal("the operation failed"))?
        .map_err(|error| status::of_workload(&error))
}

fn chain_bytes(issued: IssuedChain) -> Vec<Bytes> {
    issued.chain.into_iter().map(Bytes::from).collect()
}

fn bundle_bytes(bundle: &TrustBundle) -> Bytes {
    Bytes::from(bundle.to_json())
}
