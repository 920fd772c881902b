//! One watch stream: a proxy's hello, then everything it has to know, for as long as it may.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::Stream;
use testudo_model::{
    Clock, InstanceId, Timestamp,
    event::CleanText,
    snapshot::{Endpoints, Revocation, Revoked, SnapshotVersion},
};
use testudo_runtime::DrainWatch;
use testudo_workload::{InstanceReport, Workloads};
use tokio::sync::{mpsc, watch};
use tonic::{Status, Streaming};

use super::{
    distribution::{Connected, Distribution, Published},
    peer::Certified,
    service::blocking,
};
use crate::wire::{
    Acknowledgement, Heartbeat, Hello, WatchReply, WatchRequest, watch_reply, watch_request,
};

/// How often a proxy hears from us; it takes three times that for the end of the connection.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Heartbeats between two writes of "still alive": a third of an instance's lease.
const BEATS_PER_REPORT: u32 = 2;
/// Time a proxy has to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// Messages on their way to one proxy; more wait in `Distribution`, where only the newest waits.
const OUTGOING: usize = 8;
/// Time a message may wait for a proxy that does not read.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_VERSION_CHARS: usize = 64;
/// Longest revocation in a hello: an id of at most 2 KiB and a few numbers.
const MAX_REVOCATION_BYTES: usize = 4 * 1024;

static STREAMS: AtomicU64 = AtomicU64::new(0);

/// The reply stream.
pub(super) struct Replies(mpsc::Receiver<Result<WatchReply, Status>>);

impl Stream for Replies {
    type Item = Result<WatchReply, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context)
    }
}

/// Takes the hello and starts the stream's task.
pub(super) async fn open(
    peer: Certified,
    mut incoming: Streaming<WatchRequest>,
    workloads: Arc<Workloads>,
    distribution: Arc<Distribution>,
    clock: Arc<dyn Clock>,
    drain: DrainWatch,
) -> Result<Replies, Status> {
    let hello = tokio::time::timeout(HELLO_TIMEOUT, incoming.message())
        .await
        .map_err(|_| Status::deadline_exceeded("no hello came"))??
        .and_then(|request| request.message);
    let Some(watch_request::Message::Hello(hello)) = hello else {
        return Err(Status::invalid_argument(
            "the first message of a watch is a hello",
        ));
    };
    let revocation = parse_place(&hello.revocation, &distribution);
    let proxy = Connected {
        revocation,
        ..parse_hello(&hello, &peer, clock.now())?
    };
    let inbound = parse_inbound(&hello.inbound_address)?;
    let (outgoing, replies) = mpsc::channel(OUTGOING);
    let session = Session {
        stream: STREAMS.fetch_add(1, Ordering::Relaxed),
        certified_until: peer.until,
        build: hello.version,
        revocation,
        snapshot: hello.snapshot_digest,
        proxy,
        inbound,
        workloads,
        distribution,
        clock,
        drain,
        outgoing,
    };
    session.report().await?;
    tokio::spawn(session.run(incoming));
    Ok(Replies(replies))
}

fn parse_hello(hello: &Hello, peer: &Certified, now: Timestamp) -> Result<Connected, Status> {
    let instance: InstanceId = hello
        .instance
        .parse()
        .map_err(|_| Status::invalid_argument("the instance id is malformed"))?;
    if hello.version.chars().count() > MAX_VERSION_CHARS {
        return Err(Status::invalid_argument("the version is too long"));
    }
    let enforces = (hello.snapshot != 0).then_some(SnapshotVersion(hello.snapshot));
    Ok(Connected {
        instance,
        id: peer.id.clone(),
        since: now,
        enforces,
        refused: None,
        revocation: 0,
    })
}

/// How far the proxy is in the revocation log; what is not of our log is no place in it.
fn parse_place(known: &[u8], distribution: &Distribution) -> u64 {
    let known = (known.len() <= MAX_REVOCATION_BYTES)
        .then(|| serde_json::from_slice::<Revocation>(known).ok())
        .flatten();
    known.map_or(0, |known| distribution.place_of(&known))
}

/// Whose address it is, the certificate says; others will verify it when they connect.
fn parse_inbound(text: &str) -> Result<Option<SocketAddr>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    let usable = |address: &SocketAddr| {
        !address.ip().is_unspecified() && !address.ip().is_multicast() && address.port() != 0
    };
    match text.parse::<SocketAddr>() {
        Ok(address) if usable(&address) => Ok(Some(address)),
        _ => Err(Status::invalid_argument(
            "the inbound address must be an address and port that other sidecars can connect to",
        )),
    }
}

struct Session {
    stream: u64,
    certified_until: Timestamp,
    build: String,
    inbound: Option<SocketAddr>,
    /// Newest revocation sent.
    revocation: u64,
    /// Digest of the snapshot that was sent last or that the proxy came with.
    snapshot: Bytes,
    proxy: Connected,
    workloads: Arc<Workloads>,
    distribution: Arc<Distribution>,
    clock: Arc<dyn Clock>,
    /// A watch has no end of its own: without this the process would wait for it in vain when it stops.
    drain: DrainWatch,
    outgoing: mpsc::Sender<Result<WatchReply, Status>>,
}

/// Why a session ends.
enum End {
    /// The proxy said goodbye.
    Goodbye,
    /// The connection is gone.
    Gone,
    /// We end it, and say why.
    Refused(Status),
}

impl Session {
    async fn run(mut self, incoming: Streaming<WatchRequest>) {
        self.distribution.note(self.stream, self.proxy.clone());
        let end = self.serve(incoming).await;
        self.distribution.forget(self.stream);
        match end {
            Err(End::Goodbye) => self.depart().await,
            Err(End::Refused(status)) => {
                tracing::info!(instance = %self.proxy.instance, id = %self.proxy.id, %status, "watch ended");
                drop(self.outgoing.try_send(Err(status)));
            }
            Err(End::Gone) | Ok(()) => {}
        }
    }

    /// Bundle, revocations, endpoints, snapshot, then whatever changes. The order matters: a snapshot is never
    /// in force without the revocations.
    async fn serve(&mut self, mut incoming: Streaming<WatchRequest>) -> Result<(), End> {
        let mut bundle = self.distribution.bundle.subscribe();
        let mut revocations = self.distribution.newest_revocation.subscribe();
        let mut endpoints = self.distribution.endpoints.subscribe();
        let mut snapshot = self.distribution.snapshot.subscribe();
        self.send_published(&mut bundle, watch_reply::Message::TrustBundle)
            .await?;
        self.send_revocations(&mut revocations).await?;
        self.send_published(&mut endpoints, watch_reply::Message::Endpoints)
            .await?;
        self.send_snapshot(&mut snapshot).await?;
        let mut beat = tokio::time::interval(HEARTBEAT);
        let mut beats = 0u32;
        loop {
            tokio::select! {
                request = incoming.message() => self.take(request).await?,
                () = self.drain.drained() => {
                    return Err(End::Refused(Status::unavailable("the control plane is stopping")));
                }
                Ok(()) = bundle.changed() => {
                    self.send_published(&mut bundle, watch_reply::Message::TrustBundle).await?;
                }
                Ok(()) = revocations.changed() => self.send_revocations(&mut revocations).await?,
                Ok(()) = endpoints.changed() => {
                    self.send_published(&mut endpoints, watch_reply::Message::Endpoints).await?;
                }
                Ok(()) = snapshot.changed() => self.send_snapshot(&mut snapshot).await?,
                _ = beat.tick() => {
                    self.check_certificate()?;
                    self.send_heartbeat().await?;
                    beats = beats.wrapping_add(1);
                    if beats.is_multiple_of(BEATS_PER_REPORT) {
                        self.report().await.map_err(End::Refused)?;
                    }
                }
            }
        }
    }

    async fn take(&mut self, request: Result<Option<WatchRequest>, Status>) -> Result<(), End> {
        let Ok(Some(WatchRequest {
            message: Some(message),
        })) = request
        else {
            return Err(End::Gone);
        };
        match message {
            watch_request::Message::Acknowledgement(acknowledgement) => {
                self.take_acknowledgement(&acknowledgement).await
            }
            watch_request::Message::Goodbye(_) => Err(End::Goodbye),
            watch_request::Message::Hello(_) => Err(End::Refused(Status::invalid_argument(
                "a second hello came",
            ))),
        }
    }

    async fn take_acknowledgement(&mut self, said: &Acknowledgement) -> Result<(), End> {
        let before = self.proxy.clone();
        let version = SnapshotVersion(said.snapshot);
        if said.refused.is_empty() {
            self.proxy.enforces = Some(version);
            self.proxy.refused = None;
        } else {
            let why = CleanText::new(&said.refused).as_str().to_owned();
            self.proxy.refused = Some((version, why));
        }
        // It cannot enforce what was not sent.
        let revocation = said.revocation.min(self.revocation);
        if revocation > before.revocation {
            self.distribution
                .note_delivery(&before, revocation, self.clock.now());
            self.proxy.revocation = revocation;
        }
        self.distribution.note(self.stream, self.proxy.clone());
        if (&before.enforces, &before.refused) == (&self.proxy.enforces, &self.proxy.refused) {
            return Ok(());
        }
        if let Some((version, why)) = &self.proxy.refused {
            tracing::warn!(id = %self.proxy.id, %version, why, "a proxy refused a snapshot");
        }
        self.report().await.map_err(End::Refused)
    }

    async fn send_published(
        &self,
        channel: &mut watch::Receiver<Published>,
        message: impl Fn(Bytes) -> watch_reply::Message,
    ) -> Result<(), End> {
        let json = channel.borrow_and_update().json.clone();
        if json.is_empty() {
            Ok(())
        } else {
            self.send(message(json)).await
        }
    }

    /// By content, not by number: a proxy may know a higher number from before a backup was restored.
    async fn send_snapshot(&mut self, channel: &mut watch::Receiver<Published>) -> Result<(), End> {
        let published = channel.borrow_and_update().clone();
        if published.json.is_empty() || self.snapshot[..] == published.digest {
            return Ok(());
        }
        self.snapshot = Bytes::copy_from_slice(&published.digest);
        if self.proxy.enforces >= Some(SnapshotVersion(published.version)) {
            self.proxy.enforces = None;
            self.distribution.note(self.stream, self.proxy.clone());
        }
        self.send(watch_reply::Message::Snapshot(published.json))
            .await
    }

    /// Sends what the proxy does not know yet, and ends the session of a proxy that was itself revoked.
    async fn send_revocations(&mut self, channel: &mut watch::Receiver<u64>) -> Result<(), End> {
        let _ = channel.borrow_and_update();
        let entries = self.distribution.revocations_since(self.revocation);
        let Some(newest) = entries.last().map(|entry| entry.sequence) else {
            return Ok(());
        };
        let json = serde_json::to_vec(&entries)
            .map_err(|_| End::Refused(Status::internal("encoding failed")))?;
        self.send(watch_reply::Message::Revocations(json.into()))
            .await?;
        self.revocation = newest;
        if entries
            .iter()
            .any(|entry| entry.what == Revoked::Workload(self.proxy.id.clone()))
        {
            // The room knows whether it was reinstated since.
            self.report().await.map_err(End::Refused)?;
        }
        Ok(())
    }

    async fn send_heartbeat(&self) -> Result<(), End> {
        let heartbeat = Heartbeat {
            revocation: self.revocation,
            snapshot: self.distribution.newest_snapshot().0,
        };
        self.send(watch_reply::Message::Heartbeat(heartbeat)).await
    }

    async fn send(&self, message: watch_reply::Message) -> Result<(), End> {
        let reply = Ok(WatchReply {
            message: Some(message),
        });
        match tokio::time::timeout(SEND_TIMEOUT, self.outgoing.send(reply)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(End::Gone),
        }
    }

    fn check_certificate(&self) -> Result<(), End> {
        if self.clock.now() < self.certified_until {
            Ok(())
        } else {
            Err(End::Refused(Status::unauthenticated(
                "the connection's certificate expired: connect again",
            )))
        }
    }

    /// Tells the workload room that the proxy lives, and everybody else if addresses changed by it.
    async fn report(&self) -> Result<(), Status> {
        let report = InstanceReport {
            instance: self.proxy.instance.clone(),
            id: self.proxy.id.clone(),
            inbound: self.inbound,
            acknowledged: self.proxy.enforces,
            refused: self.proxy.refused.as_ref().map(|(_, why)| why.clone()),
            build: self.build.clone(),
        };
        let moved = blocking(&self.workloads, move |workloads| workloads.report(&report)).await?;
        self.publish(moved);
        Ok(())
    }

    async fn depart(&self) {
        let (instance, id) = (self.proxy.instance.clone(), self.proxy.id.clone());
        match blocking(&self.workloads, move |workloads| {
            workloads.depart(&instance, &id)
        })
        .await
        {
            Ok(moved) => self.publish(moved),
            Err(status) => tracing::warn!(%status, "a goodbye could not be noted"),
        }
    }

    fn publish(&self, moved: Option<Endpoints>) {
        if let Some(endpoints) = moved
            && let Err(error) = self.distribution.publish_endpoints(&endpoints)
        {
            tracing::error!(%error, "endpoints could not be published");
        }
    }
}
