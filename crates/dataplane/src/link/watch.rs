//! The watch stream: what to enforce, from the control plane to the proxy, and what became of it, back.

use std::{sync::Arc, time::Duration};

use futures_util::stream;
use testudo_model::snapshot::{Endpoints, KNOWN_FEATURES, Revocation, Snapshot, SnapshotVersion};
use testudo_runtime::with_causes;
use testudo_trust::sha256;
use tokio::sync::mpsc;
use tonic::Streaming;

use super::{Link, LinkError, MAX_SNAPSHOT_MESSAGE_BYTES, channel::answer, enrol::parse_bundle};
use crate::wire::{
    Acknowledgement, Goodbye, Hello, WatchReply, WatchRequest, proxy_client::ProxyClient,
    watch_reply, watch_request,
};

/// The control plane sends a heartbeat every 5 s. Silence of three of them, and some, is a dead connection.
const SILENCE: Duration = Duration::from_secs(17);
/// Our side of the stream: a hello, few acknowledgements, a goodbye.
const OUTGOING: usize = 16;

/// An open stream.
struct Session {
    outgoing: mpsc::Sender<WatchRequest>,
    incoming: Streaming<WatchReply>,
    /// What was said last.
    acknowledged: Option<Acknowledgement>,
}

impl Link {
    /// Watches once, until the stream ends. What is in force stays in force.
    pub(super) async fn watch(&self) -> Result<(), LinkError> {
        let mut session = self.open_session().await?;
        loop {
            let next = tokio::time::timeout(SILENCE, session.incoming.message());
            let reply = tokio::select! {
                reply = next => reply.map_err(|_| LinkError::Silence)?,
                () = self.draining() => {
                    return session.say_goodbye().await;
                }
            };
            match reply
                .map_err(LinkError::refused("watch"))?
                .and_then(|reply| reply.message)
            {
                Some(message) => self.take(message, &mut session).await?,
                None => return Ok(()),
            }
        }
    }

    async fn open_session(&self) -> Result<Session, LinkError> {
        let (outgoing, mut requests) = mpsc::channel(OUTGOING);
        let session_requests = stream::poll_fn(move |context| requests.poll_recv(context));
        let hello = Hello {
            instance: self.spool.instance().to_string(),
            version: self.version.to_owned(),
            features: KNOWN_FEATURES
                .iter()
                .map(|feature| (*feature).to_owned())
                .collect(),
            inbound_address: self
                .inbound
                .map(|address| address.to_string())
                .unwrap_or_default(),
            snapshot: self.state.snapshot_version().map_or(0, |version| version.0),
            snapshot_digest: self
                .lock_snapshot()
                .map(|digest| digest.to_vec())
                .unwrap_or_default()
                .into(),
            revocation: self
                .newest_revocation()
                .and_then(|entry| serde_json::to_vec(&entry).ok())
                .unwrap_or_default()
                .into(),
        };
        let hello = WatchRequest {
            message: Some(watch_request::Message::Hello(hello)),
        };
        outgoing.send(hello).await.map_err(|_| LinkError::Silence)?;
        let mut client =
            ProxyClient::new(self.channel()).max_decoding_message_size(MAX_SNAPSHOT_MESSAGE_BYTES);
        let incoming = answer("watch", client.watch(session_requests)).await?;
        Ok(Session {
            outgoing,
            incoming,
            acknowledged: None,
        })
    }

    /// What was said last, or would have been if the snapshot had come on this stream and not on one before.
    fn last_acknowledgement(&self, session: &Session) -> Option<Acknowledgement> {
        session.acknowledged.clone().or_else(|| {
            let version = self.state.snapshot_version()?;
            Some(Acknowledgement {
                snapshot: version.0,
                ..Acknowledgement::default()
            })
        })
    }

    async fn take(
        &self,
        message: watch_reply::Message,
        session: &mut Session,
    ) -> Result<(), LinkError> {
        self.note_contact();
        match message {
            watch_reply::Message::Snapshot(json) => {
                let acknowledgement = self.take_snapshot(&json).await?;
                session.acknowledge(acknowledgement).await?;
            }
            watch_reply::Message::Endpoints(json) => {
                self.take_endpoints(parse("endpoints", &json)?).await
            }
            watch_reply::Message::Revocations(json) => {
                let enforced = self.take_revocations(parse("revocations", &json)?).await?;
                if let Some((revocation, last)) = enforced.zip(self.last_acknowledgement(session)) {
                    session
                        .acknowledge(Acknowledgement { revocation, ..last })
                        .await?;
                }
            }
            watch_reply::Message::TrustBundle(json) => self.take_bundle(&json).await?,
            watch_reply::Message::Heartbeat(heartbeat) => {
                self.state
                    .note_newest(SnapshotVersion(heartbeat.snapshot), heartbeat.revocation);
            }
        }
        Ok(())
    }

    /// Compiling takes long enough to need a thread of its own.
    async fn take_snapshot(&self, json: &[u8]) -> Result<Acknowledgement, LinkError> {
        let snapshot: Snapshot = parse("snapshot", json)?;
        let digest = sha256(json);
        let version = snapshot.version;
        let state = Arc::clone(&self.state);
        let activation = {
            let snapshot = snapshot.clone();
            tokio::task::spawn_blocking(move || state.activate(snapshot)).await
        };
        let refused = match activation {
            Ok(Ok(_)) => {
                tracing::info!(%version, "enforcing");
                self.note_snapshot(Some(digest));
                self.gates.snapshot.ready();
                self.keep("snapshot", move |folder| folder.keep_snapshot(&snapshot))
                    .await;
                String::new()
            }
            Ok(Err(refusal)) => with_causes(&refusal),
            Err(_) => "compiling the snapshot failed unexpectedly".to_owned(),
        };
        if !refused.is_empty() {
            tracing::error!(%version, refused, "snapshot refused; the one before stays in force");
        }
        Ok(Acknowledgement {
            snapshot: version.0,
            refused,
            revocation: self.newest_revocation().map_or(0, |entry| entry.sequence),
        })
    }

    async fn take_endpoints(&self, endpoints: Endpoints) {
        self.state.set_endpoints(endpoints.clone());
        self.keep("endpoints", move |folder| folder.keep_endpoints(&endpoints))
            .await;
    }

    /// Answers the newest of them, if they are in force now.
    async fn take_revocations(&self, entries: Vec<Revocation>) -> Result<Option<u64>, LinkError> {
        let ordered = entries
            .windows(2)
            .all(|pair| matches!(pair, [a, b] if a.sequence < b.sequence));
        if !ordered {
            return Err(LinkError::Malformed {
                what: "revocations",
            });
        }
        let applied = self.state.apply_revocations(&entries);
        if let Err(error) = &applied {
            tracing::error!(%error, "revocations do not fit");
        }
        let newest = entries.last().map(|entry| entry.sequence);
        let kept = self.remember_revocations(entries);
        self.keep("revocations", move |folder| folder.keep_revocations(&kept))
            .await;
        Ok(newest.filter(|_| applied.is_ok()))
    }

    /// A bundle under which our own certificate would not hold is not taken alone: the renewal brings both.
    async fn take_bundle(&self, json: &[u8]) -> Result<(), LinkError> {
        let svid = self.identity.current();
        let bundle = parse_bundle(svid.id().trust_domain(), json)?;
        if bundle.roots() == self.identity.bundle().roots() {
            return Ok(());
        }
        if bundle.verify_svid(svid.chain(), self.clock.now()).is_err() {
            tracing::warn!("the new trust bundle does not hold our certificate: renewing it");
            self.renew_now.notify_one();
            return Ok(());
        }
        tracing::info!(roots = bundle.roots().len(), "trust bundle changed");
        self.identity.swap_bundle(bundle);
        let identity = self.identity.clone();
        self.keep("identity", move |folder| folder.keep_identity(&identity))
            .await;
        Ok(())
    }
}

impl Session {
    /// The control plane ends the stream when it has heard it.
    async fn say_goodbye(mut self) -> Result<(), LinkError> {
        self.send(watch_request::Message::Goodbye(Goodbye {}))
            .await?;
        while let Ok(Some(_)) = self.incoming.message().await {}
        Ok(())
    }

    async fn acknowledge(&mut self, acknowledgement: Acknowledgement) -> Result<(), LinkError> {
        self.acknowledged = Some(acknowledgement.clone());
        self.send(watch_request::Message::Acknowledgement(acknowledgement))
            .await
    }

    async fn send(&self, message: watch_request::Message) -> Result<(), LinkError> {
        self.outgoing
            .send(WatchRequest {
                message: Some(message),
            })
            .await
            .map_err(|_| LinkError::Silence)
    }
}

fn parse<T: serde::de::DeserializeOwned>(what: &'static str, json: &[u8]) -> Result<T, LinkError> {
    serde_json::from_slice(json).map_err(|_| LinkError::Malformed { what })
}
