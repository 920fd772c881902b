//! Poll delivery (RFC 8936): a receiver fetches what waits for it, and says what it has.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use testudo_model::{NoticeId, StreamId, event::EventClass};
use testudo_store::Expected;

use super::{
    Signal, SignalDelivery, SignalStream,
    receiver::{Receiver, SignalError, object, text},
    transmission::{Passage, allowed, signal_report},
};
use crate::{
    Caller, Fault, Provider,
    change::{Report, until_settled},
    limits::{MAX_ACKNOWLEDGED, MAX_POLLED, MAX_TEXT_BYTES},
    notice::{Notice, NoticeContent},
};

/// What a receiver asks and says (RFC 8936 section 2.2).
pub(super) struct PollRequest {
    max_events: usize,
    return_immediately: bool,
    acknowledged: Vec<String>,
    /// By `jti`: why it does not take it.
    refused: Vec<(String, String)>,
}

/// A request whose acknowledgements are done, and which waits for signals.
#[derive(Debug)]
pub struct Poll {
    receiver: Receiver,
    stream: StreamId,
    max_events: usize,
    /// Whether it may wait for the first one.
    pub may_wait: bool,
}

/// The answer (RFC 8936 section 2.3).
#[derive(Default, Serialize)]
pub struct PolledSets {
    /// Security event tokens by `jti`.
    sets: BTreeMap<NoticeId, String>,
    /// Whether there are more than these.
    #[serde(rename = "moreAvailable")]
    more_available: bool,
}

impl PolledSets {
    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }
}

impl PollRequest {
    pub(super) fn parse(body: &[u8]) -> Result<Self, SignalError> {
        let request = object(body)?;
        let max_events = match request.get("maxEvents") {
            None | Some(Value::Null) => MAX_POLLED,
            Some(number) => {
                let number = number.as_u64();
                let number =
                    number.ok_or_else(|| SignalError::invalid("`maxEvents` is no number"))?;
                usize::try_from(number)
                    .unwrap_or(MAX_POLLED)
                    .min(MAX_POLLED)
            }
        };
        let return_immediately = match request.get("returnImmediately") {
            None | Some(Value::Null) => false,
            Some(flag) => {
                let flag = flag.as_bool();
                flag.ok_or_else(|| SignalError::invalid("`returnImmediately` is no boolean"))?
            }
        };
        let acknowledged = match request.get("ack") {
            None | Some(Value::Null) => Vec::new(),
            Some(list) => {
                let list = list.as_array().map(Vec::as_slice);
                let list = list.ok_or_else(|| SignalError::invalid("`ack` is no list"))?;
                let text = |id: &Value| id.as_str().map(str::to_owned);
                let ids: Option<Vec<String>> = list.iter().map(text).collect();
                ids.ok_or_else(|| SignalError::invalid("`ack` is no list of strings"))?
            }
        };
        let refused = match request.get("setErrs") {
            None | Some(Value::Null) => Vec::new(),
            Some(errors) => refusals(errors)?,
        };
        if acknowledged.len() + refused.len() > MAX_ACKNOWLEDGED {
            return Err(SignalError::invalid(format!(
                "at most {MAX_ACKNOWLEDGED} tokens are acknowledged at once"
            )));
        }
        Ok(Self {
            max_events,
            return_immediately,
            acknowledged,
            refused,
        })
    }
}

fn refusals(errors: &Value) -> Result<Vec<(String, String)>, SignalError> {
    let wrong = || SignalError::invalid("`setErrs` is no object of errors");
    let errors = errors.as_object().ok_or_else(wrong)?;
    let refusal = |(id, error): (&String, &Value)| {
        let error = error.as_object().ok_or_else(wrong)?;
        let code = text(error, "err", MAX_TEXT_BYTES)?.unwrap_or("no reason");
        Ok((id.clone(), code.to_owned()))
    };
    errors.iter().map(refusal).collect()
}

impl Provider {
    /// Takes what a receiver acknowledges off its queue. What it gets for that, [`Provider::polled_signals`] says.
    ///
    /// # Errors
    /// See [`SignalError`].
    pub fn poll_signals(
        &self,
        receiver: &Receiver,
        stream: &str,
        body: &[u8],
        caller: &Caller,
    ) -> Result<Poll, SignalError> {
        let request = PollRequest::parse(body)?;
        let stream = self.polled_stream(receiver, stream)?.id;
        self.take_acknowledged(&stream, &request, receiver, caller)?;
        Ok(Poll {
            receiver: receiver.clone(),
            stream,
            max_events: request.max_events,
            may_wait: !request.return_immediately && request.max_events > 0,
        })
    }

    /// What waits for a receiver now.
    ///
    /// # Errors
    /// See [`SignalError`].
    pub fn polled_signals(&self, poll: &Poll) -> Result<PolledSets, SignalError> {
        let receiver = self.entitled(&poll.receiver.account)?;
        let receiver = receiver.ok_or(SignalError::NoReceiver)?;
        let stream = self.polled_stream(&receiver, poll.stream.as_str())?;
        self.notices
            .read(&self.tenant, self.clock.monotonic_nanos())?;
        let queue = crate::Receiver::Stream(stream.id.clone());
        let mut polled = PolledSets::default();
        // One more than wanted says whether there are more.
        for notice in self
            .notices
            .first(&queue, poll.max_events.saturating_add(1))
        {
            let NoticeContent::Signal { signal, .. } = &notice.content else {
                continue;
            };
            if !matches!(allowed(&stream, &signal.event), Passage::Open) {
                continue;
            }
            if polled.sets.len() >= poll.max_events {
                polled.more_available = true;
                break;
            }
            let token = self.security_event_token(&receiver, &stream.id, &notice, signal)?;
            polled.sets.insert(notice.id, token);
        }
        Ok(polled)
    }

    /// Whether something waits that a poll would get, as far as is known without asking the store.
    pub fn has_signals_for(&self, poll: &Poll) -> bool {
        let queue = crate::Receiver::Stream(poll.stream.clone());
        self.notices.waiting_for(&queue) > 0
    }

    fn polled_stream(&self, receiver: &Receiver, id: &str) -> Result<SignalStream, SignalError> {
        let stream = self.stream_of(receiver, id)?.record;
        match stream.delivery {
            SignalDelivery::Poll => Ok(stream),
            SignalDelivery::Push { .. } => Err(SignalError::invalid(
                "the signals of this stream are pushed",
            )),
        }
    }

    /// Of what is acknowledged, what waits for this stream goes. Other ids are nothing, or somebody else's.
    fn take_acknowledged(
        &self,
        stream: &StreamId,
        request: &PollRequest,
        receiver: &Receiver,
        caller: &Caller,
    ) -> Result<(), Fault> {
        let mut taken = Vec::new();
        for id in &request.acknowledged {
            taken.extend(self.waiting_signal(stream, id)?.map(|(notice, _)| notice));
        }
        let mut refused = Vec::new();
        for (id, error) in &request.refused {
            let waiting = self.waiting_signal(stream, id)?;
            refused.extend(waiting.map(|(notice, signal)| (notice, signal, error)));
        }
        if taken.is_empty() && refused.is_empty() {
            return Ok(());
        }
        let all = || {
            taken
                .iter()
                .chain(refused.iter().map(|(notice, ..)| notice))
        };
        until_settled(|| {
            let mut change = all().fold(self.change(), |change, notice| {
                change.delete::<Notice>(Expected::Any, notice.id.as_str())
            });
            if !taken.is_empty() {
                let report = Report::new(EventClass::Authentication, "signal.acknowledge")
                    .subject(receiver.account.as_str())
                    .client(&receiver.client_id)
                    .target(stream.as_str())
                    .detail("count", i64::try_from(taken.len()).unwrap_or(i64::MAX));
                change = change.report(report, caller);
            }
            for (notice, signal, error) in &refused {
                let report = signal_report(&notice.id, stream, signal)
                    .failed(&format!("the receiver refuses it: {error}"));
                change = change.report(report, caller);
            }
            Ok::<_, Fault>(change.commit()?.then_some(()))
        })?;
        for notice in all() {
            self.notices.done(notice);
        }
        let failure = refused.last().map(|(_, _, error)| (*error).clone());
        self.deliveries.note(stream, self.clock.now(), failure);
        Ok(())
    }

    fn waiting_signal(
        &self,
        stream: &StreamId,
        id: &str,
    ) -> Result<Option<(Notice, Signal)>, Fault> {
        let Ok(id) = id.parse::<NoticeId>() else {
            return Ok(None);
        };
        let stored = self.tenant.get::<Notice>(id.as_str())?;
        Ok(stored.and_then(|stored| match &stored.record.content {
            NoticeContent::Signal { stream: of, signal } if of == stream => {
                let signal = signal.clone();
                Some((stored.record, signal))
            }
            _ => None,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poll_is_read_in_bounds() {
        let poll = PollRequest::parse(b"{}").unwrap();
        assert_eq!(poll.max_events, MAX_POLLED);
        assert!(!poll.return_immediately);
        let poll = br#"{"maxEvents":1,"returnImmediately":true,"ack":["a"],"setErrs":{"b":{"err":"invalid_key","description":"?"}}}"#;
        let poll = PollRequest::parse(poll).unwrap();
        assert_eq!(poll.max_events, 1);
        assert!(poll.return_immediately);
        assert_eq!(poll.acknowledged, ["a"]);
        assert_eq!(poll.refused, [("b".to_owned(), "invalid_key".to_owned())]);
        let huge = PollRequest::parse(br#"{"maxEvents":18446744073709551615}"#).unwrap();
        assert_eq!(huge.max_events, MAX_POLLED);
        let many = format!(r#"{{"ack":[{}"x"]}}"#, r#""x","#.repeat(MAX_ACKNOWLEDGED));
        for wrong in [
            "",
            "[]",
            r#"{"maxEvents":-1}"#,
            r#"{"maxEvents":"1"}"#,
            r#"{"returnImmediately":1}"#,
            r#"{"ack":"a"}"#,
            r#"{"ack":[1]}"#,
            r#"{"setErrs":[]}"#,
            r#"{"setErrs":{"a":"b"}}"#,
            &many,
        ] {
            assert!(PollRequest::parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
