//! An event said by what makes it another than one before it in its block.
//!
//! Calls that are alike are decided alike, and little of an event about one of them is its own:
//!
//! ```text
//! {"e":"01M81RGDQM7AD69PCSBH7H9W43","as":3,"tr":"4bf92f3577b34da6a3ce929d0e0e4736","tx":"01M81RGDQM5S8A8XTGEZ2C7R3V"}
//! ```
//!
//! The rest is what the third event before it says, which says all of itself. Places in a block are places in the trees over
//! it, the reporter's and the ledger's: whoever changes what stands there, or where, changes the root.

use std::{net::IpAddr, num::NonZeroU32};

use serde::{Deserialize, Serialize};

use super::{Actor, DecisionRecord, Event, Grounds};
use crate::{DecisionId, EventId, Timestamp, TransactionId, Ulid};

/// Beginning of the line, which no other line has.
const START: &str = "{\"e\":\"";

/// An event as it stands in a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventLine {
    /// All of it.
    Whole(Box<Event>),
    /// What makes it another than one before it.
    Alike(Alike),
}

/// What makes an event another than a decision before it in its block. What is missing is the same.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alike {
    /// ULID of the event, and of its decision unless `decision` tells another.
    #[serde(rename = "e")]
    event: Ulid,
    /// How many events before it the other one stands.
    #[serde(rename = "as")]
    back: NonZeroU32,
    /// When it happened, if that is not when `event` was made.
    #[serde(rename = "at")]
    time: Option<Timestamp>,
    #[serde(rename = "d")]
    decision: Option<Ulid>,
    #[serde(rename = "tr")]
    trace_id: Option<String>,
    #[serde(rename = "tx")]
    transaction: Option<Ulid>,
    #[serde(rename = "ip")]
    source_ip: Option<IpAddr>,
    #[serde(rename = "m")]
    method: Option<String>,
    #[serde(rename = "p")]
    path: Option<String>,
    #[serde(rename = "who")]
    actor: Option<Box<Actor>>,
}

impl EventLine {
    /// Reads a line of a block.
    ///
    /// # Errors
    /// It is neither form of an event.
    pub fn parse(line: &str) -> Result<Self, serde_json::Error> {
        if line.starts_with(START) {
            serde_json::from_str(line).map(Self::Alike)
        } else {
            serde_json::from_str(line).map(Self::Whole)
        }
    }
}

impl Alike {
    /// Whether a line has the form of one, by its beginning.
    pub fn begins(line: &str) -> bool {
        line.starts_with(START)
    }

    /// How many events before it the one stands that says the rest; at least 1.
    pub fn back(&self) -> usize {
        usize::try_from(self.back.get()).unwrap_or(usize::MAX)
    }

    /// ULID of the event.
    pub const fn event(&self) -> Ulid {
        self.event
    }

    /// ULID of its decision.
    pub fn decision(&self) -> Ulid {
        self.decision.unwrap_or(self.event)
    }

    /// The whole event; `None` if `template`, the one it is like, is no decision.
    pub fn restore(&self, template: &Event) -> Option<Event> {
        let mut event = template.clone();
        let decision = event.decision.as_mut()?;
        decision.id = DecisionId::from(self.decision());
        put(&mut decision.method, self.method.as_ref());
        put(&mut decision.path, self.path.as_ref());
        put(&mut event.actor, self.actor.as_deref());
        event.id = EventId::from(self.event);
        event.time = self.time.unwrap_or_else(|| self.event.made_at());
        if let Some(trace_id) = &self.trace_id {
            event.trace_id = Some(trace_id.clone());
        }
        if let Some(transaction) = self.transaction {
            event.transaction = Some(TransactionId::from(transaction));
        }
        event.source_ip = self.source_ip.or(event.source_ip);
        Some(event)
    }
}

fn put<T: Clone>(place: &mut T, own: Option<&T>) {
    if let Some(own) = own {
        place.clone_from(own);
    }
}

/// Writes `event` as one that is like `template`, `back` events before it; `false`, with nothing written, if that cannot
/// say it.
pub(super) fn write(out: &mut Vec<u8>, event: &Event, template: &Event, back: usize) -> bool {
    let Some(own) = Own::of(event, template) else {
        return false;
    };
    let start = out.len();
    let is_written = own.write(out, event, back).is_ok();
    if !is_written {
        out.truncate(start);
    }
    is_written
}

/// What is to be written of an event.
struct Own<'e> {
    time: Option<Timestamp>,
    decision: Option<Ulid>,
    trace_id: Option<&'e str>,
    transaction: Option<Ulid>,
    source_ip: Option<IpAddr>,
    method: Option<&'e str>,
    path: Option<&'e str>,
    actor: Option<&'e Actor>,
}

impl<'e> Own<'e> {
    /// What `event` has of its own; `None` if that is more than can be said. The grounds are known to be the same.
    fn of(event: &'e Event, template: &Event) -> Option<Self> {
        let Event {
            id,
            time,
            tenant,
            class,
            activity,
            outcome,
            actor,
            target,
            reporter,
            source_ip,
            trace_id,
            transaction,
            decision,
            details,
        } = event;
        let (decision, like) = (decision.as_ref()?, template.decision.as_ref()?);
        let DecisionRecord {
            id: decision_id,
            snapshot,
            service,
            operation,
            method,
            path,
            reason,
            grounds: Grounds { .. },
            status,
        } = decision;
        let is_same = *class == template.class
            && *outcome == template.outcome
            && *activity == template.activity
            && *target == template.target
            && *tenant == template.tenant
            && *reporter == template.reporter
            && *details == template.details
            && *snapshot == like.snapshot
            && *status == like.status
            && *service == like.service
            && *operation == like.operation
            && *reason == like.reason;
        if !is_same {
            return None;
        }
        let (event, decision) = (id.ulid(), decision_id.ulid());
        Some(Self {
            time: (*time != event.made_at()).then_some(*time),
            decision: (decision != event).then_some(decision),
            trace_id: another(trace_id, &template.trace_id)?.map(String::as_str),
            transaction: another(transaction, &template.transaction)?.map(TransactionId::ulid),
            source_ip: another(source_ip, &template.source_ip)?.copied(),
            method: (*method != like.method).then_some(method),
            path: (*path != like.path).then_some(path),
            actor: (*actor != template.actor).then_some(actor),
        })
    }

    fn write(
        &self,
        out: &mut Vec<u8>,
        event: &Event,
        back: usize,
    ) -> Result<(), serde_json::Error> {
        plain(out, START, event.id.ulid().as_str());
        json(out, ",\"as\":", &back)?;
        if let Some(time) = &self.time {
            json(out, ",\"at\":", time)?;
        }
        if let Some(decision) = &self.decision {
            plain(out, ",\"d\":\"", decision.as_str());
        }
        if let Some(trace_id) = self.trace_id {
            text(out, ",\"tr\":", trace_id)?;
        }
        if let Some(transaction) = &self.transaction {
            plain(out, ",\"tx\":\"", transaction.as_str());
        }
        if let Some(source_ip) = &self.source_ip {
            json(out, ",\"ip\":", source_ip)?;
        }
        if let Some(method) = self.method {
            text(out, ",\"m\":", method)?;
        }
        if let Some(path) = self.path {
            text(out, ",\"p\":", path)?;
        }
        if let Some(actor) = self.actor {
            json(out, ",\"who\":", actor)?;
        }
        out.push(b'}');
        Ok(())
    }
}

/// `Some(None)` if both are the same. `None` if only the other has a value: that this one has none is not said.
fn another<'v, T: PartialEq>(value: &'v Option<T>, other: &Option<T>) -> Option<Option<&'v T>> {
    if value == other {
        return Some(None);
    }
    value.as_ref().map(Some)
}

/// A string that needs no escapes, after `key`, which ends with a quote.
fn plain(out: &mut Vec<u8>, key: &str, value: &str) {
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(value.as_bytes());
    out.push(b'"');
}

/// A string, after `key`.
fn text(out: &mut Vec<u8>, key: &str, value: &str) -> Result<(), serde_json::Error> {
    // One pass without a branch, which nearly always is the only one.
    let is_plain = value.bytes().fold(true, |is_plain, byte| {
        is_plain & (byte >= b' ') & (byte != b'"') & (byte != b'\\')
    });
    if is_plain {
        out.extend_from_slice(key.as_bytes());
        plain(out, "\"", value);
        Ok(())
    } else {
        json(out, key, &value)
    }
}

fn json<T: Serialize>(out: &mut Vec<u8>, key: &str, value: &T) -> Result<(), serde_json::Error> {
    out.extend_from_slice(key.as_bytes());
    serde_json::to_writer(out, value)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::{option, prelude::*};

    use super::*;
    use crate::event::{Detail, EventClass, LegRecord, Outcome};

    const ULIDS: [&str; 3] = [
        "01M81RGDQM7AD69PCSBH7H9W43",
        "01M81RGDQME5X8HVJ1XZHXHP72",
        "00000000000000000000000000",
    ];

    fn template() -> Event {
        let event: Ulid = ULIDS[0].parse().unwrap();
        Event {
            id: event.into(),
            time: event.made_at(),
            tenant: "default".parse().unwrap(),
            class: EventClass::AuthorizeSession,
            activity: "decision.gateway".to_owned(),
            outcome: Outcome::Success,
            actor: Actor::default(),
            target: Some("orders:orders.list".to_owned()),
            reporter: "spiffe://fleet.example/testudo/gateway".parse().unwrap(),
            source_ip: None,
            trace_id: None,
            transaction: None,
            decision: Some(DecisionRecord {
                id: event.into(),
                snapshot: 1,
                service: "orders".parse().unwrap(),
                operation: Some("orders.list".to_owned()),
                method: "GET".to_owned(),
                path: "/orders".to_owned(),
                reason: "allowed".to_owned(),
                grounds: Grounds {
                    legs: Arc::from([LegRecord {
                        leg: "service".to_owned(),
                        principal: "p".to_owned(),
                        action: "a".to_owned(),
                        resource: "r".to_owned(),
                        allowed: true,
                        policies: Vec::new(),
                        errors: Vec::new(),
                    }]),
                    context: None,
                },
                status: 0,
            }),
            details: std::collections::BTreeMap::new(),
        }
    }

    fn written(event: &Event, template: &Event) -> Option<String> {
        let mut out = b"before".to_vec();
        let is_written = write(&mut out, event, template, 7);
        let line = String::from_utf8(out.split_off(6)).unwrap();
        assert_eq!(out, b"before");
        assert_eq!(is_written, !line.is_empty());
        is_written.then_some(line)
    }

    fn restored(line: &str, template: &Event) -> Event {
        match EventLine::parse(line).unwrap() {
            EventLine::Alike(alike) => {
                assert_eq!(alike.back(), 7);
                alike.restore(template).unwrap()
            }
            EventLine::Whole(_) => panic!("{line}"),
        }
    }

    #[test]
    fn a_call_like_one_before_is_said_by_its_ids() {
        let mut first = template();
        let ulid = |number: usize| ULIDS[number].parse::<Ulid>().unwrap();
        first.trace_id = Some("0af7651916cd43dd8448eb211c80319c".to_owned());
        first.transaction = Some(ulid(0).into());
        let mut event = first.clone();
        event.id = ulid(1).into();
        event.time = ulid(1).made_at();
        event.trace_id = Some("4bf92f3577b34da6a3ce929d0e0e4736".to_owned());
        event.transaction = Some(ulid(2).into());
        event.decision.as_mut().unwrap().id = ulid(1).into();
        let line = written(&event, &first).unwrap();
        assert_eq!(
            line,
            "{\"e\":\"01M81RGDQME5X8HVJ1XZHXHP72\",\"as\":7,\"tr\":\"4bf92f3577b34da6a3ce929d0e0e4736\",\
             \"tx\":\"00000000000000000000000000\"}"
        );
        assert_eq!(restored(&line, &first), event);
    }

    #[test]
    fn what_cannot_be_said_is_not() {
        let template = template();
        type Change = fn(&mut Event, &mut DecisionRecord);
        let changes: [Change; 12] = [
            |event, _| event.class = EventClass::HttpActivity,
            |event, _| event.outcome = Outcome::Denied,
            |event, _| event.activity.push('x'),
            |event, _| event.target = None,
            |event, _| event.tenant = "other".parse().unwrap(),
            |event, _| event.reporter = "spiffe://fleet.example/svc/other".parse().unwrap(),
            |event, _| drop(event.details.insert("a".to_owned(), Detail::from(true))),
            |_, decision| decision.snapshot = 2,
            |_, decision| decision.status = 403,
            |_, decision| decision.service = "other".parse().unwrap(),
            |_, decision| decision.operation = None,
            |_, decision| decision.reason.push('x'),
        ];
        for (number, change) in changes.iter().enumerate() {
            let mut event = template.clone();
            let mut decision = event.decision.take().unwrap();
            change(&mut event, &mut decision);
            event.decision = Some(decision);
            assert_eq!(written(&event, &template), None, "{number}");
        }
        let mut traced = template.clone();
        traced.trace_id = Some("0af7651916cd43dd8448eb211c80319c".to_owned());
        assert_eq!(written(&template, &traced), None, "that there is no trace");
    }

    #[test]
    fn other_lines_are_none() {
        let good = r#"{"e":"01M81RGDQM7AD69PCSBH7H9W43","as":1}"#;
        assert!(EventLine::parse(good).is_ok());
        for bad in [
            r#"{"e":"01M81RGDQM7AD69PCSBH7H9W43"}"#,
            r#"{"e":"01M81RGDQM7AD69PCSBH7H9W43","as":0}"#,
            r#"{"e":"01M81RGDQM7AD69PCSBH7H9W43","as":-1}"#,
            r#"{"e":"01M81RGDQM7AD69PCSBH7H9W43","as":1,"reporter":"x"}"#,
            r#"{"e":"01M81RGDQM7AD69PCSBH7H9W43","as":1,"as":2}"#,
            r#"{"e":"evt_01M81RGDQM7AD69PCSBH7H9W43","as":1}"#,
            r#"{"as":1,"e":"01M81RGDQM7AD69PCSBH7H9W43"}"#,
        ] {
            assert!(EventLine::parse(bad).is_err(), "{bad}");
        }
        let mut undecided = template();
        undecided.decision = None;
        let EventLine::Alike(alike) = EventLine::parse(good).unwrap() else {
            panic!("{good}");
        };
        assert_eq!(alike.restore(&undecided), None);
    }

    fn any_text() -> impl Strategy<Value = String> {
        "[a-z\"\\\\\n\0\u{85}\u{2028}\u{1f512}]{0,12}"
    }

    prop_compose! {
        /// An event about the same decision as the template, whatever else it says.
        fn any_event()(
            ids in prop::array::uniform3(0..ULIDS.len()),
            time in option::of(any::<i64>()),
            ip in option::of(any::<IpAddr>()),
            trace_id in option::of(any_text()),
            transaction in any::<bool>(),
            subject in option::of(any_text()),
            method in any_text(),
            path in any_text(),
        ) -> Event {
            let [event_id, decision_id, transaction_id] = ids.map(|id| ULIDS[id].parse::<Ulid>().unwrap());
            let mut event = template();
            event.id = event_id.into();
            event.time = time.map_or(event_id.made_at(), Timestamp::from_unix_millis);
            event.source_ip = ip;
            event.trace_id = trace_id;
            event.transaction = transaction.then(|| transaction_id.into());
            event.actor.subject = subject;
            let decision = event.decision.as_mut().unwrap();
            decision.id = decision_id.into();
            (decision.method, decision.path) = (method, path);
            event
        }
    }

    proptest! {
        /// No fact is lost: what is written says the same event, or is not written.
        #[test]
        fn what_is_written_is_the_event(event in any_event(), template in any_event()) {
            match written(&event, &template) {
                Some(line) => {
                    prop_assert!(!line.contains('\n'));
                    prop_assert_eq!(restored(&line, &template), event);
                }
                None => prop_assert!(
                    (event.source_ip.is_none() && template.source_ip.is_some())
                        || (event.trace_id.is_none() && template.trace_id.is_some())
                        || (event.transaction.is_none() && template.transaction.is_some())
                ),
            }
        }
    }
}
