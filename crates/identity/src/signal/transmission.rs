//! From what happens to the token that tells it.

use serde::Serialize;
use serde_json::{Value, json};
use testudo_model::{NoticeId, Redacted, StreamId, TransactionId, event::EventClass};
use testudo_store::Expected;

use super::{Signal, SignalDelivery, SignalEvent, SignalStream, StreamStatus, receiver::Receiver};
use crate::{
    Caller, Fault, Provider,
    change::{Change, Report, until_settled},
    limits::{MAX_ACKNOWLEDGED, MAX_PAGE, MAX_TEXT_BYTES},
    notice::{Delivery, Message, Notice, NoticeContent, Prepared},
};
/// `typ` of a security event token (RFC 8417 section 2.3).
const SECURITY_EVENT_TOKEN_TYPE: &str = "secevent+jwt";

/// Whom the signals of one change go to.
#[derive(Default)]
pub(crate) struct Streams {
    transaction: Option<TransactionId>,
    known: Option<Vec<SignalStream>>,
}

/// Claims of a security event token. There is no `sub` and no `exp`, so that nobody takes it for another token (SSF 1.0
/// sections 4.1.3 and 4.1.7).
#[derive(Serialize)]
struct SecurityEventClaims<'a> {
    iss: &'a str,
    aud: &'a str,
    iat: i64,
    /// Each attempt has the same: receivers know by it what they had.
    jti: &'a NoticeId,
    txn: &'a TransactionId,
    sub_id: Value,
    events: Value,
}

impl Change<'_> {
    /// Tells `event` to all receivers that want to know it, once the change is made.
    pub(crate) fn signal(mut self, event: &SignalEvent) -> Result<Self, Fault> {
        if self.streams().known.is_none() {
            let streams = self.provider().live_streams()?;
            self.streams().known = Some(streams);
        }
        let known = self.streams().known.take().unwrap_or_default();
        let wanting = known.iter().filter(|stream| stream.wants(event));
        let mut change = wanting.fold(self, |change, stream| {
            change.signal_stream(stream, event.clone())
        });
        change.streams().known = Some(known);
        Ok(change)
    }

    /// Tells `event` over one stream.
    pub(crate) fn signal_stream(mut self, stream: &SignalStream, event: SignalEvent) -> Self {
        let provider = self.provider();
        let txn = self
            .streams()
            .transaction
            .get_or_insert_with(|| TransactionId::generate(&*provider.clock, &*provider.entropy));
        let txn = txn.clone();
        self.tell(NoticeContent::Signal {
            stream: stream.id.clone(),
            signal: Signal { txn, event },
        })
    }
}

impl Provider {
    /// Streams whose receivers may receive.
    fn live_streams(&self) -> Result<Vec<SignalStream>, Fault> {
        let mut live = Vec::new();
        for stored in self.tenant.list::<SignalStream>(None, MAX_PAGE)?.items {
            if self.entitled(&stored.record.receiver)?.is_some() {
                live.push(stored.record);
            }
        }
        Ok(live)
    }

    /// The request that pushes a signal, if one is to be sent now.
    pub(crate) fn signal_message(
        &self,
        notice: &Notice,
        stream: &StreamId,
        signal: &Signal,
    ) -> Result<Prepared<Message>, Fault> {
        let Some(stored) = self.tenant.get::<SignalStream>(stream.as_str())? else {
            return Ok(Prepared::Closed("there is no such stream any more"));
        };
        let stream = stored.record;
        let Some(receiver) = self.entitled(&stream.receiver)? else {
            return Ok(Prepared::Closed("the receiver may not receive any more"));
        };
        match allowed(&stream, &signal.event) {
            Passage::Open => {}
            Passage::Waits => return Ok(Prepared::Held),
            Passage::Closed => return Ok(Prepared::Closed("the stream is disabled")),
        }
        let SignalDelivery::Push {
            endpoint,
            authorization,
        } = &stream.delivery
        else {
            // Its receiver comes for it.
            return Ok(Prepared::Held);
        };
        let token = self.security_event_token(&receiver, &stream.id, notice, signal)?;
        Ok(Prepared::Ready(Message {
            url: endpoint.as_str().to_owned(),
            media_type: "application/secevent+jwt",
            authorization: authorization.as_ref().map(|secret| secret.expose()),
            body: Redacted::new(token),
        }))
    }

    /// Discards what waits for the stream of `notice`, as much of it as is done at once: one by one it would hold up others
    /// for minutes. That an administrator has closed the stream stays.
    pub(crate) fn discard_signals(&self, notice: &Notice, why: &str) -> Result<(), Fault> {
        let is_update = |notice: &Notice| {
            matches!(
                &notice.content,
                NoticeContent::Signal { signal, .. }
                    if matches!(signal.event, SignalEvent::StreamUpdated { .. })
            )
        };
        let waiting = self.notices.first(&notice.receiver(), MAX_ACKNOWLEDGED);
        let discarded = || {
            let waiting = waiting.iter();
            waiting.filter(|other| other.id == notice.id || !is_update(other))
        };
        let count = i64::try_from(discarded().count()).unwrap_or(i64::MAX);
        let report = notice.report().failed(why).detail("count", count);
        until_settled(|| {
            let change = discarded().fold(self.change(), |change, notice| {
                change.delete::<Notice>(Expected::Any, notice.id.as_str())
            });
            let change = change.report_ref(&report, &Caller::default());
            Ok::<_, Fault>(change.commit()?.then_some(()))
        })?;
        discarded().for_each(|notice| self.notices.done(notice));
        Ok(())
    }

    /// The token that tells a signal.
    pub(super) fn security_event_token(
        &self,
        receiver: &Receiver,
        stream: &StreamId,
        notice: &Notice,
        signal: &Signal,
    ) -> Result<String, Fault> {
        let issuer = &self.settings.issuer;
        let claims = SecurityEventClaims {
            iss: issuer,
            aud: receiver.audience(),
            iat: notice.created_at.unix_seconds(),
            jti: &notice.id,
            txn: &signal.txn,
            sub_id: signal.event.subject(issuer, stream),
            events: json!({ signal.event.type_uri(): signal.event.claims(notice.created_at) }),
        };
        let algorithm = receiver.settings.signed_response_alg;
        self.sign_told(algorithm, SECURITY_EVENT_TOKEN_TYPE, &claims)
    }
}

/// Whether something goes over a stream now.
pub(super) enum Passage {
    /// It does.
    Open,
    /// Not yet.
    Waits,
    /// Nor later.
    Closed,
}

/// That an administrator has closed a stream still goes over it (SSF 1.0 section 8.1.5).
pub(super) const fn allowed(stream: &SignalStream, event: &SignalEvent) -> Passage {
    match (stream.status, event) {
        (StreamStatus::Enabled, _) | (_, SignalEvent::StreamUpdated { .. }) => Passage::Open,
        (StreamStatus::Paused, _) => Passage::Waits,
        (StreamStatus::Disabled, _) => Passage::Closed,
    }
}

/// What a receiver means that refuses a pushed token with status 400 (RFC 8935 section 2.4). That it does not know us, or our
/// key, is something that somebody sets right; the token is as good then as it is now.
pub(crate) fn push_refusal(body: &[u8]) -> Delivery {
    const SET_RIGHT_LATER: [&str; 3] = ["access_denied", "authentication_failed", "invalid_key"];
    let said: Option<Value> = serde_json::from_slice(body).ok();
    let error = said.as_ref().and_then(|said| said.get("err")?.as_str());
    match error {
        Some(error) if SET_RIGHT_LATER.contains(&error) => {
            Delivery::Failed(format!("the receiver refuses it for now: {error}"))
        }
        Some(error) => {
            let error: String = error.chars().take(MAX_TEXT_BYTES).collect();
            Delivery::Refused(format!("the receiver refuses it: {error}"))
        }
        None => Delivery::Answered(400),
    }
}

/// The event of telling a signal.
pub(crate) fn signal_report(notice: &NoticeId, stream: &StreamId, signal: &Signal) -> Report {
    let report = Report::new(EventClass::Authentication, "signal.deliver")
        .target(stream.as_str())
        .detail("notice", notice.as_str())
        .detail("event", signal.event.type_name());
    let report = match signal.event.user() {
        Some(user) => report.subject(user.as_str()),
        None => report,
    };
    match &signal.event {
        SignalEvent::SessionRevoked {
            session: Some(session),
            ..
        } => report.session(session),
        _ => report,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_sets_right_comes_again() {
        let refusal = |error: &str| push_refusal(json!({ "err": error }).to_string().as_bytes());
        for error in ["access_denied", "authentication_failed", "invalid_key"] {
            assert!(matches!(refusal(error), Delivery::Failed(why) if why.contains(error)));
        }
        for error in ["invalid_request", "invalid_issuer", "invalid_state", "x"] {
            assert!(matches!(refusal(error), Delivery::Refused(why) if why.contains(error)));
        }
        for body in [&b""[..], b"no", b"[]", br#"{"err":1}"#] {
            assert_eq!(push_refusal(body), Delivery::Answered(400));
        }
    }
}
