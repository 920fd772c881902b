//! The search language: `class=authorize_session outcome=denied actor=usr_… since=2h "free text"`.
//!
//! Terms stand between spaces or commas and must all hold. `activity`, `target` and `path` may end in `*`. Text
//! without `=` (or in quotes) is looked for anywhere in the event, whatever its case.

use std::{net::IpAddr, time::Duration};

use serde::de::{DeserializeOwned, IntoDeserializer, value::StrDeserializer};
use testudo_model::{
    DecisionId, EventId, Timestamp, TransactionId, Ulid,
    event::{Event, EventClass, Outcome},
};

/// Longest filter.
const MAX_FILTER_BYTES: usize = 4 * 1024;
/// Terms in one filter.
const MAX_TERMS: usize = 32;
const KEYS: &str = "class, outcome, activity, actor, service, target, path, reason, reporter, ip, trace, \
                    transaction, decision, event, since, until";

/// Why a text is not a filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// Too long or too many terms.
    #[error("a filter has at most {MAX_TERMS} terms and {MAX_FILTER_BYTES} bytes")]
    TooLong,
    /// A quote without its partner.
    #[error("a quote is not closed")]
    Quote,
    /// No such key.
    #[error("`{key}` is not a key; keys are {KEYS}; put text with `=` in quotes")]
    Key {
        /// What was written.
        key: String,
    },
    /// The value is none of the key's.
    #[error("`{value}` is not a value of `{key}`: {expected}")]
    Value {
        /// The key.
        key: String,
        /// What was written.
        value: String,
        /// What can stand there.
        expected: &'static str,
    },
}

/// What to look for. The empty filter matches every event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    terms: Vec<Term>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Term {
    Class(EventClass),
    Outcome(Outcome),
    Activity(Pattern),
    Actor(String),
    Service(String),
    Target(Pattern),
    Path(Pattern),
    Reason(Pattern),
    Reporter(String),
    Ip(IpAddr),
    Trace(String),
    Transaction(TransactionId),
    Decision(DecisionId),
    Event(EventId),
    Since(Timestamp),
    Until(Timestamp),
    /// Lower case.
    Text(String),
}

/// Text that may end in `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern {
    text: String,
    open: bool,
}

impl Filter {
    /// Reads a filter. Relative times (`since=15m`, units s, m, h, d) count back from `now`.
    ///
    /// # Errors
    /// Says which term is wrong and what could stand there.
    pub fn parse(text: &str, now: Timestamp) -> Result<Self, FilterError> {
        if text.len() > MAX_FILTER_BYTES {
            return Err(FilterError::TooLong);
        }
        let words = split(text)?;
        if words.len() > MAX_TERMS {
            return Err(FilterError::TooLong);
        }
        let terms = words
            .into_iter()
            .map(|word| match word.key {
                Some(key) => Term::parse(&key, &word.value, now),
                None => Ok(Term::Text(word.value.to_lowercase())),
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { terms })
    }

    /// Whether `event` is what is looked for; `text` encodes it.
    pub fn matches<T: AsRef<str>>(&self, event: &Event, text: impl FnOnce() -> T) -> bool {
        if !self.terms.iter().all(|term| term.matches(event)) {
            return false;
        }
        let mut wanted = self.terms.iter().filter_map(Term::text).peekable();
        // What is dear comes last.
        wanted.peek().is_none() || {
            let text = text().as_ref().to_lowercase();
            wanted.all(|wanted| text.contains(wanted))
        }
    }

    /// The latest `since`: nothing recorded before it can match.
    pub(crate) fn since(&self) -> Option<Timestamp> {
        self.terms
            .iter()
            .filter_map(|term| {
                if let Term::Since(at) = term {
                    Some(*at)
                } else {
                    None
                }
            })
            .max()
    }

    /// A decision or event that is asked for by id.
    pub(crate) fn by_id(&self) -> Option<ById<'_>> {
        self.terms.iter().find_map(|term| match term {
            Term::Decision(id) => Some(ById::Decision(id)),
            Term::Event(id) => Some(ById::Event(id)),
            _ => None,
        })
    }
}

/// An id the index knows.
pub(crate) enum ById<'a> {
    Decision(&'a DecisionId),
    Event(&'a EventId),
}

impl ById<'_> {
    pub(crate) fn ulid(&self) -> Ulid {
        match self {
            Self::Decision(id) => id.ulid(),
            Self::Event(id) => id.ulid(),
        }
    }
}

impl Term {
    fn parse(key: &str, value: &str, now: Timestamp) -> Result<Self, FilterError> {
        let wrong = |expected| FilterError::Value {
            key: key.to_owned(),
            value: value.chars().take(80).collect(),
            expected,
        };
        let text = || value.to_owned();
        Ok(match key {
            "class" => Self::Class(named(value).ok_or_else(|| {
                wrong(
                    "account_change, authentication, authorize_session, entity_management, \
                     http_activity, application_lifecycle, api_activity or detection_finding",
                )
            })?),
            "outcome" => {
                Self::Outcome(named(value).ok_or_else(|| wrong("success, denied or failure"))?)
            }
            "activity" => Self::Activity(Pattern::new(value)),
            "actor" => Self::Actor(text()),
            "service" => Self::Service(text()),
            "target" => Self::Target(Pattern::new(value)),
            "path" => Self::Path(Pattern::new(value)),
            "reason" => Self::Reason(Pattern::new(value)),
            "reporter" => Self::Reporter(text()),
            "ip" => Self::Ip(value.parse().map_err(|_| wrong("an IP address"))?),
            "trace" => Self::Trace(text()),
            "transaction" => Self::Transaction(value.parse().map_err(|_| wrong("`txn_…`"))?),
            "decision" => Self::Decision(value.parse().map_err(|_| wrong("`dec_…`"))?),
            "event" => Self::Event(value.parse().map_err(|_| wrong("`evt_…`"))?),
            "since" | "until" => {
                let expected = "`2026-11-22T10:00:00Z`, or `15m`, `2h`, `7d` ago";
                let at = parse_time(value, now).ok_or_else(|| wrong(expected))?;
                if key == "since" {
                    Self::Since(at)
                } else {
                    Self::Until(at)
                }
            }
            _ => {
                return Err(FilterError::Key {
                    key: key.chars().take(80).collect(),
                });
            }
        })
    }

    /// What it looks for anywhere in an event, in lower case.
    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(wanted) => Some(wanted),
            _ => None,
        }
    }

    /// Whether its field has what it looks for.
    fn matches(&self, event: &Event) -> bool {
        let actor = &event.actor;
        let decision = event.decision.as_ref();
        match self {
            Self::Class(class) => event.class == *class,
            Self::Outcome(outcome) => event.outcome == *outcome,
            Self::Activity(pattern) => pattern.matches(&event.activity),
            Self::Actor(who) => {
                actor.subject.as_ref() == Some(who)
                    || actor.client.as_ref() == Some(who)
                    || actor.workload.as_ref().is_some_and(|id| id.as_str() == who)
                    || actor.session.as_ref().is_some_and(|id| id.as_str() == who)
            }
            Self::Service(name) => {
                let called = decision.is_some_and(|decision| decision.service.as_str() == name);
                let is = |id: &testudo_model::SpiffeId| {
                    id.service().is_some_and(|service| service.as_str() == name)
                };
                called || is(&event.reporter) || actor.workload.as_ref().is_some_and(is)
            }
            Self::Target(pattern) => event
                .target
                .as_ref()
                .is_some_and(|target| pattern.matches(target)),
            Self::Path(pattern) => decision.is_some_and(|decision| pattern.matches(&decision.path)),
            Self::Reason(pattern) => {
                decision.is_some_and(|decision| pattern.matches(&decision.reason))
            }
            Self::Reporter(id) => event.reporter.as_str() == id,
            Self::Ip(ip) => event.source_ip == Some(*ip),
            Self::Trace(id) => event.trace_id.as_ref() == Some(id),
            Self::Transaction(id) => event.transaction.as_ref() == Some(id),
            Self::Decision(id) => decision.is_some_and(|decision| decision.id == *id),
            Self::Event(id) => event.id == *id,
            Self::Since(at) => event.time >= *at,
            Self::Until(at) => event.time <= *at,
            Self::Text(_) => true,
        }
    }
}

impl Pattern {
    fn new(text: &str) -> Self {
        match text.strip_suffix('*') {
            Some(start) => Self {
                text: start.to_owned(),
                open: true,
            },
            None => Self {
                text: text.to_owned(),
                open: false,
            },
        }
    }

    fn matches(&self, text: &str) -> bool {
        if self.open {
            text.starts_with(&self.text)
        } else {
            text == self.text
        }
    }
}

/// A value by the name it has in an encoded event.
fn named<T: DeserializeOwned>(name: &str) -> Option<T> {
    let name: StrDeserializer<'_, serde::de::value::Error> = name.into_deserializer();
    T::deserialize(name).ok()
}

fn parse_time(text: &str, now: Timestamp) -> Option<Timestamp> {
    let unit = match text.chars().last()? {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 24 * 3600,
        _ => return Timestamp::parse_rfc3339(text),
    };
    let number: u32 = text.get(..text.len() - 1)?.parse().ok()?;
    Some(now - Duration::from_secs(u64::from(number) * unit))
}

/// A term before it is read: `key=value`, or text.
#[derive(Default)]
struct Word {
    key: Option<String>,
    value: String,
}

/// Splits at spaces and commas outside quotes. The first `=` outside quotes ends the key.
fn split(text: &str) -> Result<Vec<Word>, FilterError> {
    let mut words = Vec::new();
    let mut word = Word::default();
    let mut quoted = false;
    let mut present = false;
    for character in text.chars() {
        match character {
            '"' => {
                quoted = !quoted;
                present = true;
            }
            ',' | ' ' | '\t' | '\n' if !quoted => {
                if std::mem::take(&mut present) {
                    words.push(std::mem::take(&mut word));
                }
            }
            '=' if !quoted && word.key.is_none() => {
                word.key = Some(std::mem::take(&mut word.value));
                present = true;
            }
            _ => {
                word.value.push(character);
                present = true;
            }
        }
    }
    if quoted {
        return Err(FilterError::Quote);
    }
    if present {
        words.push(word);
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        Timestamp::parse_rfc3339("2026-11-22T10:00:00Z").unwrap()
    }

    fn event() -> (Event, String) {
        let text = r#"{"id":"evt_01JDA0000000000000000000AA","time":1795341600000,"tenant":"default",
            "class":"authorize_session","activity":"decision.enforce","outcome":"denied",
            "actor":{"subject":"usr_01JDA0000000000000000000AA","workload":"spiffe://b.example/svc/cart"},
            "reporter":"spiffe://b.example/svc/orders","source_ip":"10.1.2.3",
            "decision":{"id":"dec_01JDA0000000000000000000AA","snapshot":3,"service":"orders",
            "operation":"orders.list","method":"GET","path":"/orders/7","reason":"policy.user_leg_denied",
            "grounds":{"legs":[]},"status":403},"details":{"note":"Straße"}}"#;
        (serde_json::from_str(text).unwrap(), text.to_owned())
    }

    fn matches(filter: &str) -> bool {
        let (event, text) = event();
        Filter::parse(filter, now())
            .unwrap()
            .matches(&event, || &text)
    }

    #[test]
    fn every_term_must_hold() {
        for yes in [
            "",
            "class=authorize_session, outcome=denied",
            "activity=decision.*",
            "activity=decision.enforce actor=usr_01JDA0000000000000000000AA",
            "actor=spiffe://b.example/svc/cart",
            "service=orders",
            "service=cart",
            "path=/orders/* reason=policy.user*",
            "ip=10.1.2.3",
            "since=2026-11-22T09:00:00Z until=2026-11-22T10:00:00Z",
            "since=1h",
            "decision=dec_01JDA0000000000000000000AA",
            "STRAßE \"orders.list\"",
            "reporter=spiffe://b.example/svc/orders",
        ] {
            assert!(matches(yes), "{yes}");
        }
        for no in [
            "class=authentication",
            "outcome=success outcome=denied",
            "activity=decision",
            "actor=usr",
            "service=books",
            "path=/orders",
            "ip=10.1.2.4",
            "until=1h",
            "since=2026-11-22T10:00:00.001Z",
            "nowhere",
            "target=*",
        ] {
            assert!(!matches(no), "{no}");
        }
    }

    #[test]
    fn a_wrong_term_says_what_could_stand_there() {
        let error = |text: &str| Filter::parse(text, now()).unwrap_err().to_string();
        insta::assert_snapshot!(error("outcome=maybe"), @"`maybe` is not a value of `outcome`: success, denied or failure");
        insta::assert_snapshot!(error("user=eve"), @"`user` is not a key; keys are class, outcome, activity, actor, service, target, path, reason, reporter, ip, trace, transaction, decision, event, since, until; put text with `=` in quotes");
        insta::assert_snapshot!(error("since=yesterday"), @"`yesterday` is not a value of `since`: `2026-11-22T10:00:00Z`, or `15m`, `2h`, `7d` ago");
        insta::assert_snapshot!(error("\"open"), @"a quote is not closed");
        assert_eq!(
            Filter::parse(&"a ".repeat(40), now()),
            Err(FilterError::TooLong)
        );
        assert_eq!(
            Filter::parse(&"a".repeat(5000), now()),
            Err(FilterError::TooLong)
        );
    }

    #[test]
    fn quoted_text_may_hold_everything() {
        let words: Vec<_> = split(r#"target="a b,c" "x=y" z"#)
            .unwrap()
            .into_iter()
            .map(|word| (word.key, word.value))
            .collect();
        let expected = [(Some("target"), "a b,c"), (None, "x=y"), (None, "z")]
            .map(|(key, value)| (key.map(str::to_owned), value.to_owned()));
        assert_eq!(words, expected);
    }
}
