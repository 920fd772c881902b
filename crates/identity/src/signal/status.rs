//! Whether a stream flows, and whether it works (SSF 1.0 sections 8.1.2, 8.1.4 and 8.1.5).

use serde_json::{Value, json};
use testudo_model::{StreamId, event::EventClass};
use testudo_store::{Expected, Versioned};

use super::{
    SignalEvent, SignalStream, StatusSetter, StreamStatus,
    configuration::stream_report,
    receiver::{Receiver, SignalError, object, stream_id, text},
};
use crate::{
    AdminError, Caller, Provider,
    change::{Report, until_settled},
    limits::{MAX_STATE_BYTES, MAX_TEXT_BYTES, SIGNAL_VERIFICATION_INTERVAL},
};

impl Provider {
    /// The status of a stream.
    ///
    /// # Errors
    /// There is no such stream of this receiver.
    pub fn signal_stream_status(
        &self,
        receiver: &Receiver,
        id: &str,
    ) -> Result<Value, SignalError> {
        Ok(status_of(&self.stream_of(receiver, id)?.record))
    }

    /// Sets the status of a stream; the status afterwards.
    ///
    /// # Errors
    /// See [`SignalError`].
    pub fn set_signal_stream_status(
        &self,
        receiver: &Receiver,
        body: &[u8],
        caller: &Caller,
    ) -> Result<Value, SignalError> {
        let request = object(body)?;
        let id = stream_id(&request)?;
        let status = text(&request, "status", MAX_TEXT_BYTES)?.and_then(StreamStatus::parse);
        let status = status.ok_or_else(|| {
            SignalError::invalid("`status` must be `enabled`, `paused` or `disabled`")
        })?;
        let reason = text(&request, "reason", MAX_TEXT_BYTES)?;
        until_settled(|| {
            let Versioned { record, version } = self.stream_of(receiver, id)?;
            if record.status_set_by == StatusSetter::Administrator
                && record.status == StreamStatus::Disabled
            {
                return Err(SignalError::DisabledByAdministrator);
            }
            let stream = SignalStream {
                status,
                status_reason: reason.map(str::to_owned),
                status_set_by: StatusSetter::Receiver,
                updated_at: self.clock.now(),
                ..record
            };
            let change = self
                .change()
                .put(Expected::Version(version), &stream)
                .report(
                    stream_report("signal_stream.status", receiver, &stream),
                    caller,
                );
            if !change.commit()? {
                return Ok(None);
            }
            self.wake_stream(&stream.id);
            Ok(Some(status_of(&stream)))
        })
    }

    /// Disables a stream, or enables it again, as an administrator: the receiver is told, and cannot undo it.
    ///
    /// # Errors
    /// There is no such stream.
    pub fn administer_signal_stream(
        &self,
        id: &StreamId,
        status: StreamStatus,
        caller: &Caller,
    ) -> Result<(), AdminError> {
        until_settled(|| {
            let Versioned { record, version } = self.signal_stream(id)?;
            if record.status == status {
                return Ok(Some(()));
            }
            let reason = "an administrator has decided it".to_owned();
            let stream = SignalStream {
                status,
                status_reason: Some(reason.clone()),
                status_set_by: StatusSetter::Administrator,
                updated_at: self.clock.now(),
                ..record
            };
            let told = SignalEvent::StreamUpdated {
                status,
                reason: Some(reason),
            };
            let change = self
                .change()
                .put(Expected::Version(version), &stream)
                .signal_stream(&stream, told)
                .report(administered("signal_stream.status", &stream), caller);
            if !change.commit()? {
                return Ok(None);
            }
            self.wake_stream(id);
            Ok::<_, AdminError>(Some(()))
        })
    }

    /// Deletes a stream as an administrator.
    ///
    /// # Errors
    /// There is no such stream.
    pub fn remove_signal_stream(&self, id: &StreamId, caller: &Caller) -> Result<(), AdminError> {
        until_settled(|| {
            let Versioned { record, version } = self.signal_stream(id)?;
            let change = self
                .change()
                .delete::<SignalStream>(Expected::Version(version), id.as_str())
                .report(administered("signal_stream.delete", &record), caller);
            if !change.commit()? {
                return Ok(None);
            }
            self.wake_stream(id);
            self.deliveries.forget(id);
            Ok::<_, AdminError>(Some(()))
        })
    }

    /// Sends a verification event over a stream.
    ///
    /// # Errors
    /// See [`SignalError`].
    pub fn verify_signal_stream(
        &self,
        receiver: &Receiver,
        body: &[u8],
        caller: &Caller,
    ) -> Result<(), SignalError> {
        let request = object(body)?;
        let id = stream_id(&request)?;
        let state = text(&request, "state", MAX_STATE_BYTES)?;
        until_settled(|| {
            let Versioned { record, version } = self.stream_of(receiver, id)?;
            if record.status == StreamStatus::Disabled {
                return Err(SignalError::invalid("the stream is disabled"));
            }
            let now = self.clock.now();
            let is_early = |at| now.since(at) < SIGNAL_VERIFICATION_INTERVAL;
            if record.verified_at.is_some_and(is_early) {
                return Err(SignalError::TooSoon);
            }
            let stream = SignalStream {
                verified_at: Some(now),
                ..record
            };
            let asked = SignalEvent::Verification {
                state: state.map(str::to_owned),
            };
            let change = self
                .change()
                .put(Expected::Version(version), &stream)
                .signal_stream(&stream, asked)
                .report(
                    stream_report("signal_stream.verify", receiver, &stream),
                    caller,
                );
            Ok::<_, SignalError>(change.commit()?.then_some(()))
        })
    }

    /// It is looked at once more whether what waits for it can go.
    pub(super) fn wake_stream(&self, id: &StreamId) {
        self.notices.wake(&crate::Receiver::Stream(id.clone()));
    }
}

fn status_of(stream: &SignalStream) -> Value {
    let mut status = json!({ "stream_id": stream.id, "status": stream.status });
    if let Some(members) = status.as_object_mut()
        && let Some(reason) = &stream.status_reason
    {
        members.insert("reason".to_owned(), json!(reason));
    }
    status
}

/// The event of what an administrator does to a stream.
fn administered(activity: &str, stream: &SignalStream) -> Report {
    Report::new(EventClass::EntityManagement, activity)
        .target(stream.id.as_str())
        .detail("method", stream.delivery.method())
        .detail("status", stream.status.as_str())
}
