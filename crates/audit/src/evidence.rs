//! What the leaves themselves prove: each block is signed by its reporter, holds the events it was signed over
//! and continues its spool. For this the ledger is not trusted at all.

use std::collections::BTreeMap;

use testudo_model::{
    SpiffeId,
    event::{BlockHead, EventLine},
};
use testudo_trust::{
    TrustBundle, base64url, certificate_thumbprint, hex,
    merkle::{Frontier, leaf_hash},
    spiffe_id_of, verify_signature,
};

use crate::{
    BlockEvidence, Defect, Leaf,
    alike::Templates,
    intake::decode_chain,
    spool::{Spool, edges},
};

/// Certificates in DER, leaf first.
type Chain = Vec<Vec<u8>>;

/// What was seen so far.
pub(crate) struct Evidence<'a> {
    pub(crate) events: u64,
    pub(crate) blocks: u64,
    pub(crate) forks: u64,
    pub(crate) lost_events: u64,
    roots: Option<&'a TrustBundle>,
    /// Who alone may report outside a block: the ledger's own control plane.
    operator: SpiffeId,
    spools: BTreeMap<String, Spool>,
    /// The chain of the newest block that carries one, by spool.
    chains: BTreeMap<String, Chain>,
    open: Option<OpenBlock>,
}

/// A block whose events are being read.
struct OpenBlock {
    leaf: u64,
    head: BlockHead,
    events: Frontier,
    templates: Templates,
}

impl<'a> Evidence<'a> {
    pub(crate) const fn new(roots: Option<&'a TrustBundle>, operator: SpiffeId) -> Self {
        Self {
            operator,
            events: 0,
            blocks: 0,
            forks: 0,
            lost_events: 0,
            roots,
            spools: BTreeMap::new(),
            chains: BTreeMap::new(),
            open: None,
        }
    }

    /// Looks at the next leaf.
    pub(crate) fn leaf(&mut self, index: u64, bytes: &[u8]) -> Option<Defect> {
        self.judge(index, bytes).err().map(|what| Defect {
            leaf: Some(index),
            place: "leaves".to_owned(),
            what: what.to_owned(),
        })
    }

    /// Looks whether anything is left open.
    pub(crate) fn finish(&self) -> Option<Defect> {
        self.open.as_ref().map(|open| Defect {
            leaf: Some(open.leaf),
            place: "leaves".to_owned(),
            what: "the last block lacks events".to_owned(),
        })
    }

    /// Blocks missing in the gaps that are open.
    pub(crate) fn missing_blocks(&self) -> u64 {
        let gaps = self.spools.values().flat_map(|spool| &spool.gaps);
        // Reporters choose their numbers.
        gaps.map(|gap| gap.to.block.saturating_sub(gap.from.block))
            .fold(0, u64::saturating_add)
    }

    fn judge(&mut self, index: u64, bytes: &[u8]) -> Result<(), &'static str> {
        let leaf = Leaf::parse(bytes).map_err(|_| "it is no leaf")?;
        match (self.open.take(), leaf) {
            (Some(mut open), Leaf::Event(event)) => {
                if event.reporter != open.head.reporter {
                    return Err("an event in a block names another reporter");
                }
                open.templates.admit(&EventLine::Whole(event));
                self.event(open, bytes)
            }
            (Some(mut open), Leaf::Alike(alike)) => {
                if !open.templates.admit(&EventLine::Alike(alike)) {
                    return Err("an event is like none that stands before it in its block");
                }
                self.event(open, bytes)
            }
            (Some(_), Leaf::Block(_) | Leaf::Fork(_)) => Err("the block before it lacks events"),
            (None, Leaf::Event(event)) => {
                if event.reporter != self.operator {
                    return Err("an event outside any block is not the control plane's own");
                }
                self.events += 1;
                Ok(())
            }
            (None, Leaf::Alike(_)) => Err("an event outside any block is said by another"),
            (None, Leaf::Fork(evidence)) => {
                self.signed(&evidence)?;
                self.forks += 1;
                Ok(())
            }
            (None, Leaf::Block(evidence)) => self.block(index, &evidence),
        }
    }

    fn event(&mut self, mut open: OpenBlock, bytes: &[u8]) -> Result<(), &'static str> {
        self.events += 1;
        open.events.append(leaf_hash(bytes));
        self.proceed(open)
    }

    fn block(&mut self, index: u64, evidence: &BlockEvidence) -> Result<(), &'static str> {
        let (head, chain) = self.signed(evidence)?;
        self.chains.insert(head.instance.to_string(), chain);
        let (at, after) =
            edges(&head, &evidence.head).ok_or("its numbers are beyond all bounds")?;
        let spool = self
            .spools
            .entry(head.instance.to_string())
            .or_insert_with(|| Spool::new(head.instance.clone(), head.reporter.clone()));
        let place = spool
            .place(&at, &after)
            .map_err(|_| "the block contradicts an earlier one")?;
        spool.take(place, after);
        self.blocks += 1;
        self.lost_events = self.lost_events.saturating_add(head.lost);
        self.proceed(OpenBlock {
            leaf: index,
            head,
            events: Frontier::new(),
            templates: Templates::default(),
        })
    }

    /// Keeps the block open until it has all its events, then compares them with what was signed.
    fn proceed(&mut self, open: OpenBlock) -> Result<(), &'static str> {
        if open.events.size() < u64::from(open.head.count) {
            self.open = Some(open);
            return Ok(());
        }
        if hex::encode(&open.events.root()) != open.head.root {
            return Err("the events of the block are not those its reporter signed");
        }
        Ok(())
    }

    /// The head and the chain it was signed with, if its reporter's certificate signed it.
    fn signed(&self, evidence: &BlockEvidence) -> Result<(BlockHead, Chain), &'static str> {
        let head: BlockHead =
            serde_json::from_str(&evidence.head).map_err(|_| "the block's head is not one")?;
        let chain = match evidence.chain.as_slice() {
            [] => self.chains.get(head.instance.as_str()).cloned(),
            own => Some(decode_chain(own).map_err(|_| "the block's chain is malformed")?),
        };
        let chain = chain.ok_or("the block has no certificate")?;
        let certificate = chain.first().ok_or("the block has no certificate")?;
        if certificate_thumbprint(certificate) != evidence.signer {
            return Err("the block's certificate is not the one it names");
        }
        let certified = match self.roots {
            Some(roots) => roots.verify_svid(&chain, head.sealed_at),
            None => spiffe_id_of(certificate),
        }
        .map_err(|_| "the block's certificate does not verify")?;
        if certified != head.reporter {
            return Err("the block's certificate is another workload's");
        }
        let signature =
            base64url::decode(&evidence.signature).ok_or("the block's signature is malformed")?;
        if !verify_signature(certificate, evidence.head.as_bytes(), &signature) {
            return Err("the block's signature does not verify");
        }
        Ok((head, chain))
    }
}
