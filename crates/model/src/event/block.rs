//! Blocks: runs of events that one reporter signed, and the one form they have on disk and on the wire.
//!
//! A block is lines of text, each ended by a newline:
//!
//! ```text
//! testudo block 1
//! <head: JSON of a BlockHead>
//! <signature of the head: base64url>
//! <certificate chain, leaf first: base64, a space between two>
//! <event: JSON of an Event>
//! <event: JSON of an Event, or of an Alike>
//! ```
//!
//! What is signed (the head) and what is hashed (each event) stand in it verbatim, so nothing is escaped when
//! they are written and nothing needs decoding before they are verified. JSON as `serde_json` writes it holds
//! no raw newline: strings escape it (RFC 8259 section 7), and between tokens there is no white space.

use std::{collections::HashMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{Event, alike};
use crate::{
    InstanceId, SpiffeId, Timestamp,
    limits::{
        MAX_BLOCK_BYTES, MAX_BLOCK_CHAIN, MAX_BLOCK_CHAIN_BYTES, MAX_BLOCK_EVENTS,
        MAX_BLOCK_EVENTS_BYTES, MAX_BLOCK_HEAD_BYTES, MAX_EVENT_BYTES,
    },
};

/// First line of a block.
const FORMAT: &str = "testudo block 1";
/// Longest signature line. An ECDSA P-256 signature has 86 characters.
const MAX_SIGNATURE_BYTES: usize = 128;

/// Head of a spool block: a run of events one reporter signed. Its bytes are the JSON of this struct in field
/// order, and those bytes are what is hashed and signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockHead {
    /// The reporter's identity; must equal the signing certificate's.
    pub reporter: SpiffeId,
    /// The reporter's spool. A new data folder is a new instance.
    pub instance: InstanceId,
    /// Number of this block in the spool, from 0, without gaps.
    pub block: u64,
    /// Sequence number of the first event, from 0, without gaps.
    pub first_sequence: u64,
    /// Number of events.
    pub count: u32,
    /// SHA-256 of the previous block's head bytes, hex; 64 zeros for the first.
    pub previous: String,
    /// RFC 6962 Merkle root of the events' encoded bytes, hex.
    pub root: String,
    /// Events that could not be recorded since the previous block. Anything but 0 is an alert.
    pub lost: u64,
    /// When the block was sealed.
    pub sealed_at: Timestamp,
}

/// A block as spooled and shipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// JSON of a [`BlockHead`].
    pub head: String,
    /// ECDSA P-256 SHA-256 signature (fixed 64 bytes) over `head`, base64url.
    pub signature: String,
    /// The signer's certificate chain, leaf first, DER in standard base64.
    pub chain: Vec<String>,
    /// Encoded events, in sequence; [`EventLine::parse`](super::EventLine::parse) reads one.
    pub events: Vec<String>,
}

/// The ledger's answer to a block: from now on the control plane answers for its events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Instance the block came from.
    pub instance: InstanceId,
    /// Block number.
    pub block: u64,
    /// SHA-256 of the head bytes, hex.
    pub head_hash: String,
    /// Index of the block's first leaf in the ledger.
    pub first_leaf: u64,
    /// Size of the ledger that holds the block durably.
    pub tree_size: u64,
}

/// Why bytes are no block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// More bytes than any block of ours.
    #[error("it is longer than {MAX_BLOCK_BYTES} bytes")]
    TooLarge,
    /// Bytes that are no text.
    #[error("it is not UTF-8")]
    Encoding,
    /// Another kind of file, or a version that is not spoken here.
    #[error("it does not begin with the line `{FORMAT}`")]
    Format,
    /// A line without its end.
    #[error("it ends before the end of its {line} line")]
    Cut {
        /// Which line.
        line: &'static str,
    },
    /// A line that is longer than it may be.
    #[error("its {line} line is longer than {limit} bytes")]
    LongLine {
        /// Which line.
        line: &'static str,
        /// What is allowed.
        limit: usize,
    },
    /// A chain with an empty certificate, or with too many.
    #[error(
        "its certificate chain is not 0 to {MAX_BLOCK_CHAIN} certificates with a space between two"
    )]
    Chain,
    /// Too many events.
    #[error("it has more than {MAX_BLOCK_EVENTS} events")]
    TooManyEvents,
}

impl Block {
    /// The block as it is spooled and shipped. No field may hold a newline and no certificate a space or
    /// nothing, or [`Block::decode`] reads another block; none that it made does.
    pub fn encode(&self) -> Vec<u8> {
        let mut events = Vec::with_capacity(self.events.iter().map(|event| event.len() + 1).sum());
        for event in &self.events {
            events.extend_from_slice(event.as_bytes());
            events.push(b'\n');
        }
        encode(&self.head, &self.signature, &self.chain, &events)
    }

    /// Reads a block from bytes that anybody may have sent. Only its form is known then: who signed it, and
    /// whether these are the events that were signed, is for the ledger to verify.
    ///
    /// Each block has one form: what is read here is encoded to the same bytes again.
    ///
    /// # Errors
    /// The bytes have another form, or are beyond a limit.
    pub fn decode(bytes: &[u8]) -> Result<Self, BlockError> {
        if bytes.len() > MAX_BLOCK_BYTES {
            return Err(BlockError::TooLarge);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| BlockError::Encoding)?;
        let mut rest = text
            .strip_prefix(FORMAT)
            .and_then(|rest| rest.strip_prefix('\n'))
            .ok_or(BlockError::Format)?;
        let head = line(&mut rest, "head", MAX_BLOCK_HEAD_BYTES)?.to_owned();
        let signature = line(&mut rest, "signature", MAX_SIGNATURE_BYTES)?.to_owned();
        let chain = read_chain(line(&mut rest, "certificate chain", MAX_BLOCK_CHAIN_BYTES)?)?;
        let mut events = Vec::new();
        while !rest.is_empty() {
            if events.len() == MAX_BLOCK_EVENTS {
                return Err(BlockError::TooManyEvents);
            }
            events.push(line(&mut rest, "event", MAX_EVENT_BYTES)?.to_owned());
        }
        Ok(Self {
            head,
            signature,
            chain,
            events,
        })
    }
}

/// The events of a block that is being filled, encoded as the lines they will be in it.
#[derive(Debug, Default)]
pub struct EventLines {
    text: Vec<u8>,
    count: usize,
    templates: Templates,
}

impl EventLines {
    /// Appends an event; of one that is like an earlier one, only what makes it another. Gives the encoded bytes, which
    /// are the leaf it will be.
    ///
    /// # Errors
    /// The event, with nothing appended, if they are more than [`MAX_EVENT_BYTES`].
    pub fn push(&mut self, event: Box<Event>) -> Result<&[u8], Box<Event>> {
        let start = self.text.len();
        let place = Place::of(&event);
        let template = place.and_then(|place| self.templates.0.get(&place));
        let is_alike = template.is_some_and(|(number, template)| {
            alike::write(&mut self.text, &event, template, self.count - number)
        });
        let is_written = is_alike || serde_json::to_writer(&mut self.text, &event).is_ok();
        let end = self.text.len();
        if !is_written || end - start > MAX_EVENT_BYTES {
            self.text.truncate(start);
            return Err(event);
        }
        if let (false, Some(place)) = (is_alike, place) {
            self.templates.0.insert(place, (self.count, event));
        }
        self.text.push(b'\n');
        self.count += 1;
        Ok(self.text.get(start..end).unwrap_or_default())
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether another event might be too much for one block.
    pub const fn is_full(&self) -> bool {
        self.count >= MAX_BLOCK_EVENTS
            || self.text.len() + MAX_EVENT_BYTES + 1 > MAX_BLOCK_EVENTS_BYTES
    }

    /// Forgets all events and keeps the memory for the next ones.
    pub fn clear(&mut self) {
        self.text.clear();
        self.count = 0;
        self.templates.0.clear();
    }

    /// The block of these events, as [`Block::encode`] would write it.
    pub fn encode(&self, head: &str, signature: &str, chain: &[String]) -> Vec<u8> {
        encode(head, signature, chain, &self.text)
    }
}

/// The newest decision of the block that says all of itself, with its number, for each [`Place`]. Nobody chooses places, so
/// they need no hashing against collisions.
#[derive(Debug, Default)]
struct Templates(HashMap<Place, (usize, Box<Event>), foldhash::fast::RandomState>);

/// Where the grounds of a decision are in memory: a proxy that remembers a decision shares its grounds between the events
/// about it. While an event is held that has them, nothing else takes their place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Place {
    legs: usize,
    context: usize,
}

impl Place {
    fn of(event: &Event) -> Option<Self> {
        let grounds = &event.decision.as_ref()?.grounds;
        let context = grounds.context.as_ref();
        // Empty slices may share an address.
        (!grounds.legs.is_empty()).then(|| Self {
            legs: Arc::as_ptr(&grounds.legs).addr(),
            context: context.map_or(0, |context| Arc::as_ptr(context).addr()),
        })
    }
}

/// Puts a block together; `events` are lines already.
fn encode(head: &str, signature: &str, chain: &[String], events: &[u8]) -> Vec<u8> {
    let chain = chain.join(" ");
    let lines = [FORMAT, head, signature, &chain];
    let length = lines.iter().map(|line| line.len() + 1).sum::<usize>() + events.len();
    let mut block = Vec::with_capacity(length);
    for line in lines {
        block.extend_from_slice(line.as_bytes());
        block.push(b'\n');
    }
    block.extend_from_slice(events);
    block
}

/// Takes the next line off `rest`; `name` is for the error.
fn line<'t>(rest: &mut &'t str, name: &'static str, limit: usize) -> Result<&'t str, BlockError> {
    let (line, behind) = rest
        .split_once('\n')
        .ok_or(BlockError::Cut { line: name })?;
    if line.len() > limit {
        return Err(BlockError::LongLine { line: name, limit });
    }
    *rest = behind;
    Ok(line)
}

fn read_chain(line: &str) -> Result<Vec<String>, BlockError> {
    if line.is_empty() {
        return Ok(Vec::new());
    }
    let chain: Vec<&str> = line.split(' ').take(MAX_BLOCK_CHAIN + 1).collect();
    if chain.len() > MAX_BLOCK_CHAIN || chain.contains(&"") {
        return Err(BlockError::Chain);
    }
    Ok(chain.into_iter().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::event::{
        Actor, DecisionRecord, Detail, EventClass, EventLine, Grounds, LegRecord, Outcome,
    };

    fn block(events: Vec<String>) -> Block {
        Block {
            head: r#"{"block":7}"#.to_owned(),
            signature: "c2lnbmF0dXJl".to_owned(),
            chain: vec!["bGVhZg==".to_owned(), "cm9vdA==".to_owned()],
            events,
        }
    }

    fn event(text: &str) -> Box<Event> {
        Box::new(Event {
            id: "evt_01M81RGDQM7AD69PCSBH7H9W43".parse().unwrap(),
            time: Timestamp::from_unix_millis(1_795_355_588_340),
            tenant: "default".parse().unwrap(),
            class: EventClass::AuthorizeSession,
            activity: text.to_owned(),
            outcome: Outcome::Success,
            actor: Actor {
                subject: Some(text.to_owned()),
                ..Actor::default()
            },
            target: Some(text.to_owned()),
            reporter: "spiffe://fleet.example/svc/orders".parse().unwrap(),
            source_ip: None,
            trace_id: Some(text.to_owned()),
            transaction: None,
            decision: Some(DecisionRecord {
                id: "dec_01M81RGDQME5X8HVJ1XZHXHP72".parse().unwrap(),
                snapshot: 1,
                service: "orders".parse().unwrap(),
                operation: Some(text.to_owned()),
                method: text.to_owned(),
                path: text.to_owned(),
                reason: text.to_owned(),
                grounds: Grounds {
                    legs: Arc::from([LegRecord {
                        leg: text.to_owned(),
                        principal: text.to_owned(),
                        action: text.to_owned(),
                        resource: text.to_owned(),
                        allowed: true,
                        policies: Vec::new(),
                        errors: vec![text.to_owned()],
                    }]),
                    context: Some(text.into()),
                },
                status: 0,
            }),
            details: BTreeMap::from([(text.to_owned(), Detail::from(text))]),
        })
    }

    /// Another event about the same decision.
    fn alike(event: &Event, number: u32) -> Box<Event> {
        let mut alike = Box::new(event.clone());
        alike.id = format!("evt_01M81RGDQM7AD69PCSBH{number:06}")
            .parse()
            .unwrap();
        alike
    }

    /// The events of `lines`, as a reader has them.
    fn read(lines: &[String]) -> Vec<Event> {
        let mut whole: Vec<Event> = Vec::new();
        for line in lines {
            let event = match EventLine::parse(line).unwrap() {
                EventLine::Whole(event) => *event,
                EventLine::Alike(alike) => {
                    let template = &whole[whole.len() - alike.back()];
                    alike.restore(template).unwrap()
                }
            };
            whole.push(event);
        }
        whole
    }

    #[test]
    fn a_block_is_lines_in_which_head_and_events_stand_verbatim() {
        let encoded = block(vec![r#"{"id":1}"#.to_owned(), r#"{"id":2}"#.to_owned()]).encode();
        assert_eq!(
            std::str::from_utf8(&encoded).unwrap(),
            "testudo block 1\n{\"block\":7}\nc2lnbmF0dXJl\nbGVhZg== cm9vdA==\n{\"id\":1}\n{\"id\":2}\n"
        );
    }

    #[test]
    fn what_is_cut_or_of_another_form_is_refused() {
        let encoded = block(vec!["{}".to_owned(), "{}".to_owned()]).encode();
        let whole_lines: Vec<usize> = (0..encoded.len())
            .filter(|end| encoded[..*end].ends_with(b"\n"))
            .collect();
        for end in 0..encoded.len() {
            // After the chain, a line less is a block with an event less: that is for the head's count to tell.
            let is_block = whole_lines.get(3..).unwrap().contains(&end);
            assert_eq!(Block::decode(&encoded[..end]).is_ok(), is_block, "{end}");
        }
        for (bytes, expected) in [
            ("", BlockError::Format),
            ("testudo block 2\n\n\n\n", BlockError::Format),
            ("testudo block 1\r\n\n\n\n", BlockError::Format),
            ("{\"head\":\"\"}", BlockError::Format),
            ("testudo block 1\n", BlockError::Cut { line: "head" }),
            ("testudo block 1\n\n", BlockError::Cut { line: "signature" }),
            ("testudo block 1\n\n\n \n", BlockError::Chain),
            ("testudo block 1\n\n\na  b\n", BlockError::Chain),
            ("testudo block 1\n\n\na b c d e\n", BlockError::Chain),
            (
                "testudo block 1\n\n\n\nevent",
                BlockError::Cut { line: "event" },
            ),
        ] {
            assert_eq!(Block::decode(bytes.as_bytes()), Err(expected), "{bytes:?}");
        }
        let not_text = [encoded.as_slice(), b"\xff\n"].concat();
        assert_eq!(Block::decode(&not_text), Err(BlockError::Encoding));
    }

    #[test]
    fn each_part_has_its_limit() {
        let decoded = |change: &dyn Fn(&mut Block)| {
            let mut block = block(Vec::new());
            change(&mut block);
            Block::decode(&block.encode()).map(|decoded| assert_eq!(decoded, block))
        };
        type Set = fn(&mut Block, usize);
        let cases: [(&str, usize, Set); 4] = [
            ("head", MAX_BLOCK_HEAD_BYTES, |block, bytes| {
                block.head = "x".repeat(bytes);
            }),
            ("signature", MAX_SIGNATURE_BYTES, |block, bytes| {
                block.signature = "x".repeat(bytes);
            }),
            (
                "certificate chain",
                MAX_BLOCK_CHAIN_BYTES,
                |block, bytes| {
                    block.chain = vec!["x".repeat(bytes)];
                },
            ),
            ("event", MAX_EVENT_BYTES, |block, bytes| {
                block.events = vec!["x".repeat(bytes)];
            }),
        ];
        for (line, limit, set) in cases {
            assert_eq!(decoded(&|block| set(block, limit)), Ok(()));
            let beyond = decoded(&|block| set(block, limit + 1));
            assert_eq!(beyond, Err(BlockError::LongLine { line, limit }));
        }
        let count = |events| decoded(&|block| block.events = vec!["x".to_owned(); events]);
        assert_eq!(count(MAX_BLOCK_EVENTS), Ok(()));
        assert_eq!(count(MAX_BLOCK_EVENTS + 1), Err(BlockError::TooManyEvents));
        assert_eq!(
            Block::decode(&vec![b'\n'; MAX_BLOCK_BYTES + 1]),
            Err(BlockError::TooLarge)
        );
    }

    #[test]
    fn an_event_that_is_too_long_leaves_no_trace() {
        let mut lines = EventLines::default();
        let leaf = lines.push(event("a")).unwrap().to_vec();
        let long = event(&"x".repeat(MAX_EVENT_BYTES));
        assert_eq!(lines.push(long.clone()), Err(long));
        let decoded = Block::decode(&lines.encode("head", "", &[])).unwrap();
        assert_eq!(decoded.events, [String::from_utf8(leaf).unwrap()]);
        lines.clear();
        assert!(lines.is_empty());
    }

    #[test]
    fn what_decisions_have_in_common_is_said_once_a_block() {
        let mut lines = EventLines::default();
        let first = event("a");
        let mut written = |event: &Event| {
            let line = lines.push(Box::new(event.clone())).unwrap();
            String::from_utf8(line.to_vec()).unwrap()
        };
        let whole = |event: &Event| serde_json::to_string(event).unwrap();
        assert_eq!(written(&first), whole(&first));
        for (number, line) in [
            (
                1,
                r#"{"e":"01M81RGDQM7AD69PCSBH000001","as":1,"d":"01M81RGDQME5X8HVJ1XZHXHP72"}"#,
            ),
            (
                2,
                r#"{"e":"01M81RGDQM7AD69PCSBH000002","as":2,"d":"01M81RGDQME5X8HVJ1XZHXHP72"}"#,
            ),
        ] {
            assert_eq!(written(&alike(&first, number)), line);
        }
        // Equal, but not known to be.
        assert_eq!(written(&event("a")), whole(&event("a")));
        lines.clear();
        let third = alike(&first, 3);
        let line = lines.push(third.clone()).unwrap();
        assert_eq!(line, whole(&third).as_bytes(), "no block refers to another");
    }

    #[test]
    fn nothing_refers_to_an_event_that_was_too_long() {
        let mut lines = EventLines::default();
        let long = event(&"x".repeat(MAX_EVENT_BYTES));
        lines.push(long.clone()).unwrap_err();
        let mut shorter = event("a");
        let grounds = long.decision.unwrap().grounds;
        shorter.decision.as_mut().unwrap().grounds = grounds;
        assert_eq!(lines.push(shorter.clone()), Err(shorter));
    }

    #[test]
    fn a_full_block_is_within_the_limits() {
        let mut lines = EventLines::default();
        // Sixteen texts, which together come close to the longest event.
        while !lines.is_full() {
            let large = event(&"x".repeat(MAX_EVENT_BYTES / 16 - 80));
            lines.push(large).unwrap();
        }
        assert!(lines.text.len() > MAX_BLOCK_EVENTS_BYTES - 2 * MAX_EVENT_BYTES);
        let head = "x".repeat(MAX_BLOCK_HEAD_BYTES);
        let signature = "x".repeat(MAX_SIGNATURE_BYTES);
        let chain = vec!["x".repeat(MAX_BLOCK_CHAIN_BYTES / 2 - 1); 2];
        assert!(Block::decode(&lines.encode(&head, &signature, &chain)).is_ok());
        let mut lines = EventLines::default();
        while !lines.is_full() {
            lines.push(event("")).unwrap();
        }
        assert!(Block::decode(&lines.encode(&head, &signature, &chain)).is_ok());
    }

    proptest! {
        /// Whatever an event holds, newlines of all alphabets included, it is one line and comes back.
        #[test]
        fn any_event_is_one_line(texts in vec("[a-z\"\\\\\n\r\t\0\u{85}\u{2028}\u{1f512}]{0,20}", 0..5)) {
            let mut lines = EventLines::default();
            let mut leaves = Vec::new();
            let events: Vec<Box<Event>> = texts
                .iter()
                .zip(1..)
                .flat_map(|(text, number)| {
                    let first = event(text);
                    let second = alike(&first, number);
                    [first, second]
                })
                .collect();
            for event in &events {
                let leaf = lines.push(event.clone()).unwrap();
                leaves.push(String::from_utf8(leaf.to_vec()).unwrap());
            }
            let expected = block(leaves);
            let encoded = lines.encode(&expected.head, &expected.signature, &expected.chain);
            prop_assert_eq!(&encoded, &expected.encode());
            let decoded = Block::decode(&encoded).unwrap();
            prop_assert_eq!(&decoded, &expected);
            let read = read(&decoded.events).into_iter().map(Box::new).collect::<Vec<_>>();
            prop_assert_eq!(read, events);
        }

        #[test]
        fn any_block_of_lines_comes_back(
            head in "[^\n]{0,40}",
            signature in "[A-Za-z0-9_-]{0,90}",
            chain in vec("[A-Za-z0-9+/=]{1,20}", 0..=MAX_BLOCK_CHAIN),
            events in vec("[^\n]{0,40}", 0..6),
        ) {
            let block = Block { head, signature, chain, events };
            prop_assert_eq!(Block::decode(&block.encode()), Ok(block));
        }

        /// One block, one form; and no bytes make it panic.
        #[test]
        fn what_is_accepted_has_no_other_form(
            start in prop_oneof![Just("testudo block 1\n"), Just("")],
            rest in vec(prop_oneof![Just(b'\n'), Just(b' '), Just(b'{'), any::<u8>()], 0..60),
        ) {
            let bytes = [start.as_bytes(), &rest].concat();
            if let Ok(block) = Block::decode(&bytes) {
                prop_assert_eq!(block.encode(), bytes);
            }
        }
    }
}
