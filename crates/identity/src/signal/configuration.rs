//! The configuration endpoint: receivers make, read, change and delete their streams (SSF 1.0 section 8.1.1).

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use testudo_model::{Redacted, StreamId, event::EventClass};
use testudo_store::{Expected, Versioned};

use super::{
    SignalDelivery, SignalEvent, SignalStream, StatusSetter, StreamStatus,
    receiver::{Receiver, SignalError, object, stream_id, text},
    stream::{PushAuthorization, StreamCensus},
};
use crate::{
    Caller, Fault, NotificationUri, Provider,
    change::{Report, until_settled},
    limits::{
        MAX_AUTHORIZATION_BYTES, MAX_EVENTS_REQUESTED, MAX_PAGE, MAX_REDIRECT_URI_BYTES,
        MAX_SIGNAL_STREAMS, MAX_SIGNAL_STREAMS_PER_RECEIVER, MAX_TEXT_BYTES,
        SIGNAL_VERIFICATION_INTERVAL,
    },
    paths,
    secret::StoredSecret,
};

/// What receivers say about a stream, as far as they say it.
#[derive(Default)]
pub(super) struct Wishes {
    description: Option<Option<String>>,
    events_requested: Option<Option<Vec<String>>>,
    delivery: Option<SignalDelivery>,
}

impl Wishes {
    pub(super) fn parse(
        object: &Map<String, Value>,
        allows_http: bool,
    ) -> Result<Self, SignalError> {
        let description = text(object, "description", MAX_TEXT_BYTES)?.map(str::to_owned);
        Ok(Self {
            description: object.contains_key("description").then_some(description),
            events_requested: match object.get("events_requested") {
                None => None,
                Some(Value::Null) => Some(None),
                Some(events) => Some(Some(event_types(events)?)),
            },
            delivery: match object.get("delivery") {
                None | Some(Value::Null) => None,
                Some(delivery) => Some(parse_delivery(delivery, allows_http)?),
            },
        })
    }

    /// `stream` with what is said, and without change otherwise.
    fn apply(self, stream: SignalStream) -> SignalStream {
        SignalStream {
            description: self.description.unwrap_or(stream.description),
            events_requested: self.events_requested.unwrap_or(stream.events_requested),
            delivery: self.delivery.unwrap_or(stream.delivery),
            ..stream
        }
    }

    /// What is not said is not wanted any more.
    fn replace(self, stream: SignalStream) -> SignalStream {
        Self {
            description: Some(self.description.flatten()),
            events_requested: Some(self.events_requested.flatten()),
            delivery: Some(self.delivery.unwrap_or(SignalDelivery::Poll)),
        }
        .apply(stream)
    }
}

fn event_types(events: &Value) -> Result<Vec<String>, SignalError> {
    let wrong = || {
        SignalError::invalid(format!(
            "`events_requested` must be a list of at most {MAX_EVENTS_REQUESTED} URIs of at most {MAX_TEXT_BYTES} bytes"
        ))
    };
    let events = events.as_array().ok_or_else(wrong)?;
    if events.len() > MAX_EVENTS_REQUESTED {
        return Err(wrong());
    }
    let uri = |event: &Value| {
        let uri = event.as_str().filter(|uri| uri.len() <= MAX_TEXT_BYTES);
        uri.map(str::to_owned).ok_or_else(wrong)
    };
    events.iter().map(uri).collect()
}

fn parse_delivery(delivery: &Value, allows_http: bool) -> Result<SignalDelivery, SignalError> {
    let wrong = |why: &str| SignalError::invalid(format!("`delivery` {why}"));
    let object = delivery.as_object();
    let object = object.ok_or_else(|| wrong("must be an object"))?;
    let method = text(object, "method", MAX_TEXT_BYTES)?;
    match method.ok_or_else(|| wrong("names no `method`"))? {
        // Where it polls is ours to say.
        SignalDelivery::POLL => Ok(SignalDelivery::Poll),
        SignalDelivery::PUSH => {
            let endpoint = text(object, "endpoint_url", MAX_REDIRECT_URI_BYTES)?;
            let endpoint = endpoint.ok_or_else(|| wrong("needs an `endpoint_url` to push to"))?;
            let endpoint: NotificationUri = endpoint
                .parse()
                .map_err(|_| wrong("has an `endpoint_url` that is no absolute https URL"))?;
            if !allows_http && !endpoint.as_str().starts_with("https:") {
                return Err(wrong("has an `endpoint_url` that is not https"));
            }
            let authorization = text(object, "authorization_header", MAX_AUTHORIZATION_BYTES)?;
            Ok(SignalDelivery::Push {
                endpoint,
                authorization: authorization.map(PushAuthorization::parse).transpose()?,
            })
        }
        _ => Err(wrong(
            "has a `method` that is not supported: use urn:ietf:rfc:8935 or urn:ietf:rfc:8936",
        )),
    }
}

impl PushAuthorization {
    fn parse(text: &str) -> Result<Self, SignalError> {
        let is_field = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        if !is_field || text.trim() != text || text.is_empty() {
            let why = "`authorization_header` is no value of a header field";
            return Err(SignalError::invalid(why));
        }
        Ok(Self(StoredSecret::new(text.to_owned())))
    }

    pub(super) fn expose(&self) -> Redacted<String> {
        Redacted::new(self.0.expose().to_owned())
    }
}

impl Provider {
    /// Makes a stream; its configuration. `allows_http`: endpoints without TLS may be pushed to.
    ///
    /// # Errors
    /// See [`SignalError`].
    pub fn create_signal_stream(
        &self,
        receiver: &Receiver,
        body: &[u8],
        allows_http: bool,
        caller: &Caller,
    ) -> Result<Value, SignalError> {
        // Nothing at all is said without a word.
        let said = if body.is_empty() {
            Map::new()
        } else {
            object(body)?
        };
        let wishes = Wishes::parse(&said, allows_http)?;
        // Receivers look at the keys before the first token comes.
        self.prepare_to_sign_with(receiver.settings.signed_response_alg)?;
        let now = self.clock.now();
        let stream = wishes.replace(SignalStream {
            id: StreamId::generate(&*self.clock, &*self.entropy),
            receiver: receiver.account.clone(),
            description: None,
            events_requested: None,
            delivery: SignalDelivery::Poll,
            status: StreamStatus::Enabled,
            status_reason: None,
            status_set_by: StatusSetter::Receiver,
            removed_subjects: BTreeSet::new(),
            verified_at: None,
            created_at: now,
            updated_at: now,
        });
        until_settled(|| {
            let census = self.tenant.get::<StreamCensus>(StreamCensus::KEY);
            let census = census.map_err(Fault::from)?;
            if self.has_enough_streams(receiver)? {
                return Err(SignalError::TooManyStreams);
            }
            let (expected, before) = match census {
                Some(stored) => (Expected::Version(stored.version), stored.record),
                None => (Expected::Absent, StreamCensus::default()),
            };
            let report = stream_report("signal_stream.create", receiver, &stream);
            let change = self
                .change()
                .put(expected, &before.next())
                .put(Expected::Absent, &stream)
                .report(report, caller);
            Ok::<_, SignalError>(change.commit()?.then_some(()))
        })?;
        Ok(self.stream_configuration(receiver, &stream))
    }

    fn has_enough_streams(&self, receiver: &Receiver) -> Result<bool, Fault> {
        let all = self.tenant.list::<SignalStream>(None, MAX_PAGE)?.items;
        let is_own = |stored: &&Versioned<SignalStream>| stored.record.receiver == receiver.account;
        let own = all.iter().filter(is_own).count();
        Ok(own >= MAX_SIGNAL_STREAMS_PER_RECEIVER || all.len() >= MAX_SIGNAL_STREAMS)
    }

    /// The configuration of one stream, or of all of the receiver.
    ///
    /// # Errors
    /// There is no such stream of this receiver.
    pub fn signal_stream_configuration(
        &self,
        receiver: &Receiver,
        id: Option<&str>,
    ) -> Result<Value, SignalError> {
        if let Some(id) = id {
            let stream = self.stream_of(receiver, id)?.record;
            return Ok(self.stream_configuration(receiver, &stream));
        }
        let streams = self
            .tenant
            .find::<SignalStream>("receiver", receiver.account.as_str());
        let streams = streams.map_err(Fault::from)?;
        let all = streams
            .iter()
            .map(|stream| self.stream_configuration(receiver, &stream.record));
        Ok(all.collect())
    }

    /// Changes what a receiver says about its stream (`PATCH`); its configuration afterwards.
    ///
    /// # Errors
    /// See [`SignalError`].
    pub fn update_signal_stream(
        &self,
        receiver: &Receiver,
        body: &[u8],
        allows_http: bool,
        caller: &Caller,
    ) -> Result<Value, SignalError> {
        self.change_stream(receiver, body, allows_http, Wishes::apply, caller)
    }

    /// Replaces all that a receiver says about its stream (`PUT`); its configuration afterwards.
    ///
    /// # Errors
    /// See [`SignalError`].
    pub fn replace_signal_stream(
        &self,
        receiver: &Receiver,
        body: &[u8],
        allows_http: bool,
        caller: &Caller,
    ) -> Result<Value, SignalError> {
        self.change_stream(receiver, body, allows_http, Wishes::replace, caller)
    }

    fn change_stream(
        &self,
        receiver: &Receiver,
        body: &[u8],
        allows_http: bool,
        change: fn(Wishes, SignalStream) -> SignalStream,
        caller: &Caller,
    ) -> Result<Value, SignalError> {
        let object = object(body)?;
        let id = stream_id(&object)?;
        until_settled(|| {
            let Versioned { record, version } = self.stream_of(receiver, id)?;
            self.check_supplied(receiver, &record, &object)?;
            let wishes = Wishes::parse(&object, allows_http)?;
            let stream = SignalStream {
                updated_at: self.clock.now(),
                ..change(wishes, record)
            };
            let change = self
                .change()
                .put(Expected::Version(version), &stream)
                .report(
                    stream_report("signal_stream.update", receiver, &stream),
                    caller,
                );
            if !change.commit()? {
                return Ok(None);
            }
            self.wake_stream(&stream.id);
            Ok(Some(self.stream_configuration(receiver, &stream)))
        })
    }

    /// What is ours to say may come along, but only as it is.
    fn check_supplied(
        &self,
        receiver: &Receiver,
        stream: &SignalStream,
        object: &Map<String, Value>,
    ) -> Result<(), SignalError> {
        const SUPPLIED: [&str; 5] = [
            "iss",
            "aud",
            "events_supported",
            "events_delivered",
            "min_verification_interval",
        ];
        let known = self.stream_configuration(receiver, stream);
        for name in SUPPLIED {
            if object.contains_key(name) && object.get(name) != known.get(name) {
                let why = format!("`{name}` is not for receivers to say, and not what it is");
                return Err(SignalError::invalid(why));
            }
        }
        Ok(())
    }

    /// Deletes a stream with all that waits for its receiver.
    ///
    /// # Errors
    /// There is no such stream of this receiver.
    pub fn delete_signal_stream(
        &self,
        receiver: &Receiver,
        id: &str,
        caller: &Caller,
    ) -> Result<(), SignalError> {
        until_settled(|| {
            let Versioned { record, version } = self.stream_of(receiver, id)?;
            let change = self
                .change()
                .delete::<SignalStream>(Expected::Version(version), record.id.as_str())
                .report(
                    stream_report("signal_stream.delete", receiver, &record),
                    caller,
                );
            if !change.commit()? {
                return Ok(None);
            }
            // What waits is found to have no stream, and goes.
            self.wake_stream(&record.id);
            self.deliveries.forget(&record.id);
            Ok(Some(()))
        })
    }

    /// A stream as its receiver sees it.
    fn stream_configuration(&self, receiver: &Receiver, stream: &SignalStream) -> Value {
        let endpoint = match &stream.delivery {
            SignalDelivery::Push { endpoint, .. } => endpoint.to_string(),
            SignalDelivery::Poll => self.at(&format!("{}/{}", paths::SSF_POLL, stream.id)),
        };
        let mut configuration = json!({
            "stream_id": stream.id,
            "iss": self.settings.issuer,
            "aud": receiver.audience(),
            "events_supported": SignalEvent::SUPPORTED,
            "events_delivered": stream.events_delivered(),
            "delivery": { "method": stream.delivery.method(), "endpoint_url": endpoint },
            "min_verification_interval": SIGNAL_VERIFICATION_INTERVAL.as_secs(),
        });
        if let Some(members) = configuration.as_object_mut() {
            if let Some(requested) = &stream.events_requested {
                members.insert("events_requested".to_owned(), json!(requested));
            }
            if let Some(description) = &stream.description {
                members.insert("description".to_owned(), json!(description));
            }
        }
        configuration
    }
}

/// The event of what a receiver does to its stream.
pub(super) fn stream_report(activity: &str, receiver: &Receiver, stream: &SignalStream) -> Report {
    let report = Report::new(EventClass::EntityManagement, activity)
        .subject(receiver.account.as_str())
        .client(&receiver.client_id)
        .target(stream.id.as_str())
        .detail("method", stream.delivery.method())
        .detail("status", stream.status.as_str());
    match &stream.delivery {
        SignalDelivery::Push { endpoint, .. } => report.detail("uri", endpoint.as_str()),
        SignalDelivery::Poll => report,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(delivery: &Value) -> Result<SignalDelivery, SignalError> {
        parse_delivery(delivery, false)
    }

    #[test]
    fn a_delivery_says_how_and_where_to() {
        let push = json!({
            "method": SignalDelivery::PUSH,
            "endpoint_url": "https://receiver.example/events",
            "authorization_header": "Bearer secret",
        });
        assert!(matches!(
            parsed(&push),
            Ok(SignalDelivery::Push { authorization: Some(secret), .. }) if secret.expose().expose() == "Bearer secret"
        ));
        let poll = json!({ "method": SignalDelivery::POLL, "endpoint_url": "https://anything" });
        assert!(matches!(parsed(&poll), Ok(SignalDelivery::Poll)));
        for (key, wrong) in [
            ("method", json!("urn:ietf:rfc:0")),
            ("method", Value::Null),
            ("method", json!(8935)),
            ("endpoint_url", json!("http://receiver.example/")),
            ("endpoint_url", json!("ftp://receiver.example/")),
            ("endpoint_url", json!("https://user:pass@receiver.example/")),
            ("endpoint_url", Value::Null),
            ("authorization_header", json!("Bearer x\r\nHost: evil")),
            ("authorization_header", json!("ü")),
            ("authorization_header", json!(" ")),
            ("authorization_header", json!("")),
        ] {
            let mut push = push.clone();
            push[key] = wrong.clone();
            assert!(
                matches!(parsed(&push), Err(SignalError::Invalid(_))),
                "{key}: {wrong}"
            );
        }
        assert!(parsed(&json!("push")).is_err());
    }

    #[test]
    fn events_are_a_list_of_texts() {
        assert_eq!(event_types(&json!(["urn:x"])).unwrap(), ["urn:x"]);
        let many = vec!["urn:x"; MAX_EVENTS_REQUESTED + 1];
        for wrong in [json!("urn:x"), json!([1]), json!({}), json!(many)] {
            assert!(event_types(&wrong).is_err(), "{wrong}");
        }
    }
}
