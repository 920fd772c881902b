//! Judging a block by itself: form, certificate, signature, events. No IO.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use testudo_model::{
    TenantName, Timestamp,
    event::{Block, BlockHead, EventLine},
    limits::{
        CLOCK_SKEW, MAX_BLOCK_CHAIN, MAX_BLOCK_CHAIN_BYTES, MAX_BLOCK_EVENTS, MAX_BLOCK_HEAD_BYTES,
    },
};
use testudo_trust::{TrustBundle, base64url, certificate_thumbprint, hex, merkle};

use crate::{
    IntakeError,
    alike::Templates,
    commit::NewLeaf,
    leaf::{BlockEvidence, LeafError, parse_event},
    spool::{Edge, edges},
};

/// A block whose every event is what a certified reporter signed. Only [`VerifiedBlock::verify`] makes one.
pub(crate) struct VerifiedBlock {
    pub(crate) head: BlockHead,
    /// What it joins on.
    pub(crate) at: Edge,
    /// What it leaves; its `previous` is the hash of this head.
    pub(crate) after: Edge,
    /// Signed head and chain.
    pub(crate) evidence: BlockEvidence,
    pub(crate) events: Vec<NewLeaf>,
}

impl VerifiedBlock {
    pub(crate) fn verify(
        block: Block,
        roots: &TrustBundle,
        tenant: &TenantName,
        now: Timestamp,
    ) -> Result<Self, IntakeError> {
        let head = parse_head(&block)?;
        if head.sealed_at > now + CLOCK_SKEW {
            return Err(IntakeError::Future {
                sealed_at: head.sealed_at,
            });
        }
        let chain = decode_chain(&block.chain)?;
        let leaf = chain.first().ok_or(IntakeError::Malformed {
            what: "it has no certificate",
        })?;
        let certified =
            roots
                .verify_svid(&chain, head.sealed_at)
                .map_err(|error| IntakeError::Chain {
                    sealed_at: head.sealed_at,
                    source: Arc::new(error),
                })?;
        if certified != head.reporter {
            return Err(IntakeError::Reporter {
                claimed: head.reporter,
                certified,
            });
        }
        let signature = base64url::decode(&block.signature).ok_or(IntakeError::Malformed {
            what: "its signature is not base64url",
        })?;
        if !testudo_trust::verify_signature(leaf, block.head.as_bytes(), &signature) {
            return Err(IntakeError::Signature);
        }
        let events = read_events(block.events, &head, tenant)?;
        let (at, after) = edges(&head, &block.head).ok_or(IntakeError::Malformed {
            what: "its numbers are beyond all bounds",
        })?;
        Ok(Self {
            at,
            after,
            evidence: BlockEvidence {
                head: block.head,
                signature: block.signature,
                signer: certificate_thumbprint(leaf),
                chain: block.chain,
            },
            head,
            events,
        })
    }
}

fn parse_head(block: &Block) -> Result<BlockHead, IntakeError> {
    if block.head.len() > MAX_BLOCK_HEAD_BYTES {
        return Err(IntakeError::Malformed {
            what: "its head is too long",
        });
    }
    let head: BlockHead =
        serde_json::from_str(&block.head).map_err(|_| IntakeError::Malformed {
            what: "its head is not one",
        })?;
    if block.events.len() > MAX_BLOCK_EVENTS {
        return Err(IntakeError::Malformed {
            what: "it has too many events",
        });
    }
    if usize::try_from(head.count) != Ok(block.events.len()) {
        return Err(IntakeError::Malformed {
            what: "it has not as many events as its head says",
        });
    }
    Ok(head)
}

/// Reads a chain of certificates from standard base64.
pub(crate) fn decode_chain(chain: &[String]) -> Result<Vec<Vec<u8>>, IntakeError> {
    let bytes: usize = chain.iter().map(String::len).sum();
    if chain.len() > MAX_BLOCK_CHAIN || bytes > MAX_BLOCK_CHAIN_BYTES {
        return Err(IntakeError::Malformed {
            what: "its certificate chain is too long",
        });
    }
    chain
        .iter()
        .map(|certificate| STANDARD.decode(certificate))
        .collect::<Result<_, _>>()
        .map_err(|_| IntakeError::Malformed {
            what: "its certificate chain is not base64",
        })
}

/// The block's events as leaves, if they are the reporter's own and those the head commits to.
fn read_events(
    events: Vec<String>,
    head: &BlockHead,
    tenant: &TenantName,
) -> Result<Vec<NewLeaf>, IntakeError> {
    let hashes: Vec<merkle::Hash> = events
        .iter()
        .map(|event| merkle::leaf_hash(event.as_bytes()))
        .collect();
    if hex::encode(&merkle::root(&hashes)) != head.root {
        return Err(IntakeError::Root);
    }
    let mut templates = Templates::default();
    let read = |(index, (text, hash)): (usize, (String, merkle::Hash))| {
        let refused = |why| IntakeError::Event { index, why };
        let line = parse_event(&text).map_err(|error| match error {
            LeafError::TooLong => refused("it is too long"),
            LeafError::Encoding | LeafError::Form => refused("it is not an event"),
        })?;
        if !templates.admit(&line) {
            return Err(refused(
                "it is like no decision that stands before it in the block",
            ));
        }
        // One that is like another has its reporter and its tenant.
        if let EventLine::Whole(event) = &line {
            if event.reporter != head.reporter {
                return Err(refused("it names another reporter"));
            }
            if event.tenant != *tenant {
                return Err(refused("it is of another tenant"));
            }
        }
        Ok(NewLeaf::verbatim(text, hash, &line))
    };
    events
        .into_iter()
        .zip(hashes)
        .enumerate()
        .map(read)
        .collect()
}
