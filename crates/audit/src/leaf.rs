//! What a leaf is, byte by byte.
//!
//! * An event: its JSON, verbatim as its reporter encoded it. It starts with `{"id":"evt_`. Or what makes it another than
//!   an event before it in its block; that starts with `{"e":"`.
//! * A block: `{"block":{…}}`, followed by the events of the block. Head and signature are the reporter's, so
//!   whoever has the leaves can check them against the reporter's certificate, without trusting the ledger.
//! * A fork: `{"fork":{…}}`, the signed head of a block that contradicts one reported before.

use serde::{Deserialize, Serialize};
use testudo_model::{
    event::{Alike, Event, EventLine},
    limits::MAX_EVENT_BYTES,
};

/// Longest leaf: C2SP tlog-tiles puts its length in 16 bits.
pub(crate) const MAX_LEAF_BYTES: usize = 65_535;
const EVENT_START: &str = "{\"id\":\"evt_";

/// A leaf, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leaf {
    /// An event.
    Event(Box<Event>),
    /// What makes an event another than one before it. An [`Entry`](crate::Entry) has it whole.
    Alike(Alike),
    /// Head of a block; its events follow.
    Block(BlockEvidence),
    /// Head of a block that contradicts an earlier one. Its events are not in the ledger.
    Fork(BlockEvidence),
}

/// The signed head of a block, as its reporter sent it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockEvidence {
    /// JSON of a [`testudo_model::event::BlockHead`], the bytes that were signed.
    pub head: String,
    /// ECDSA P-256 SHA-256 signature (fixed 64 bytes) over `head`, base64url.
    pub signature: String,
    /// SHA-256 thumbprint of the signer's certificate, base64url (`x5t#S256`).
    pub signer: String,
    /// The signer's chain, leaf first, DER in standard base64. Empty where the signer is that of the leaf
    /// before it of the same spool.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<String>,
}

/// Why bytes are no leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LeafError {
    /// Longer than a leaf may be.
    #[error("it is too long")]
    TooLong,
    /// Not UTF-8.
    #[error("it is not UTF-8")]
    Encoding,
    /// Neither an event nor a block nor a fork.
    #[error("it is neither an event nor a block nor a fork")]
    Form,
}

impl Leaf {
    /// Reads a leaf.
    ///
    /// # Errors
    /// The bytes are too long or have none of the forms.
    pub fn parse(bytes: &[u8]) -> Result<Self, LeafError> {
        if bytes.len() > MAX_LEAF_BYTES {
            return Err(LeafError::TooLong);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| LeafError::Encoding)?;
        if text.starts_with(EVENT_START) || Alike::begins(text) {
            return parse_event(text).map(Self::from);
        }
        match serde_json::from_str(text).map_err(|_| LeafError::Form)? {
            Signed::Block(evidence) => Ok(Self::Block(evidence)),
            Signed::Fork(evidence) => Ok(Self::Fork(evidence)),
        }
    }

    /// The event, if it is a whole one.
    pub fn event(&self) -> Option<&Event> {
        match self {
            Self::Event(event) => Some(event),
            Self::Alike(_) | Self::Block(_) | Self::Fork(_) => None,
        }
    }
}

impl From<EventLine> for Leaf {
    fn from(line: EventLine) -> Self {
        match line {
            EventLine::Whole(event) => Self::Event(event),
            EventLine::Alike(alike) => Self::Alike(alike),
        }
    }
}

/// Reads an encoded event that shall become a leaf: it must be one, and look like nothing else.
pub(crate) fn parse_event(text: &str) -> Result<EventLine, LeafError> {
    if text.len() > MAX_EVENT_BYTES {
        return Err(LeafError::TooLong);
    }
    if !text.starts_with(EVENT_START) && !Alike::begins(text) {
        return Err(LeafError::Form);
    }
    EventLine::parse(text).map_err(|_| LeafError::Form)
}

/// The two kinds of leaf that are not events.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Signed {
    Block(BlockEvidence),
    Fork(BlockEvidence),
}

/// The bytes of a block leaf.
pub(crate) fn encode_block(evidence: BlockEvidence) -> Result<String, serde_json::Error> {
    serde_json::to_string(&Signed::Block(evidence))
}

/// The bytes of a fork leaf.
pub(crate) fn encode_fork(evidence: BlockEvidence) -> Result<String, serde_json::Error> {
    serde_json::to_string(&Signed::Fork(evidence))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence() -> BlockEvidence {
        BlockEvidence {
            head: "{}".to_owned(),
            signature: "c2ln".to_owned(),
            signer: "dGh1bWI".to_owned(),
            chain: Vec::new(),
        }
    }

    #[test]
    fn the_kinds_of_leaf_cannot_be_taken_for_each_other() {
        let block = encode_block(evidence()).unwrap();
        assert_eq!(
            block,
            r#"{"block":{"head":"{}","signature":"c2ln","signer":"dGh1bWI"}}"#
        );
        assert_eq!(Leaf::parse(block.as_bytes()), Ok(Leaf::Block(evidence())));
        let fork = encode_fork(evidence()).unwrap();
        assert_eq!(Leaf::parse(fork.as_bytes()), Ok(Leaf::Fork(evidence())));
        for bad in [
            "",
            "{}",
            "null",
            r#"{"id":"evt_x"}"#,
            r#"{"block":{},"id":"evt_x"}"#,
            r#"{"e":"01M81RGDQM7AD69PCSBH7H9W43"}"#,
        ] {
            assert_eq!(Leaf::parse(bad.as_bytes()), Err(LeafError::Form), "{bad}");
        }
        assert_eq!(parse_event(&block), Err(LeafError::Form));
        assert_eq!(Leaf::parse(&[0xff]), Err(LeafError::Encoding));
        assert_eq!(
            Leaf::parse(&vec![b'{'; MAX_LEAF_BYTES + 1]),
            Err(LeafError::TooLong)
        );
    }
}
