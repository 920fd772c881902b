//! What the ledger knows of one spool, and where a block fits in. No IO.
//!
//! Blocks of a spool form a hash chain without gaps in block and sequence numbers. They may arrive late, twice
//! or never. A block that arrives early leaves a *gap*, which remembers both its edges; a late block must fit
//! the edges it touches. What fits nowhere is a fork.

use serde::{Deserialize, Serialize};
use testudo_model::{InstanceId, SpiffeId, event::BlockHead};
use testudo_store::Record;
use testudo_trust::{hex, sha256};

/// Open gaps of one spool. Beyond it, the proxy must send what is missing first.
pub(crate) const MAX_GAPS: usize = 64;
/// Forks of one spool that are kept as evidence. One is enough to convict.
pub(crate) const MAX_FORKS: usize = 8;
/// `previous` of a spool's first block.
const NO_BLOCK: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// One spool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Spool {
    pub(crate) instance: InstanceId,
    /// Whose it is: the reporter of its first block.
    pub(crate) reporter: SpiffeId,
    /// Where the next block joins.
    pub(crate) end: Edge,
    /// What is missing before `end`, in order.
    pub(crate) gaps: Vec<Gap>,
    /// Thumbprint of the certificate whose chain was written last.
    pub(crate) signer: Option<String>,
    /// Hashes of the heads that were kept as forks.
    pub(crate) forks: Vec<String>,
}

impl Record for Spool {
    const COLLECTION: &'static str = "audit.spools";

    fn key(&self) -> String {
        self.instance.to_string()
    }
}

/// The right edge of a run of known blocks: what the next one must look like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Edge {
    pub(crate) block: u64,
    pub(crate) sequence: u64,
    /// SHA-256 of the head before, hex.
    pub(crate) previous: String,
}

/// Missing blocks: from where a known run ends to where the next one starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Gap {
    pub(crate) from: Edge,
    pub(crate) to: Edge,
}

/// Where a block goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// It is the next one.
    Next,
    /// Blocks before it are missing.
    Ahead(Gap),
    /// It lies in a gap; what remains open on either side.
    Fills {
        /// Index of the gap.
        gap: usize,
        /// The gaps that remain of it.
        rest: Vec<Gap>,
    },
}

/// Why a block goes nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Misfit {
    /// It contradicts a block reported before.
    Fork,
    /// It would open one gap too many.
    TooManyGaps,
}

impl Spool {
    pub(crate) fn new(instance: InstanceId, reporter: SpiffeId) -> Self {
        let start = Edge {
            block: 0,
            sequence: 0,
            previous: NO_BLOCK.to_owned(),
        };
        Self {
            instance,
            reporter,
            end: start,
            gaps: Vec::new(),
            signer: None,
            forks: Vec::new(),
        }
    }

    /// Where a block that is not known yet goes. `after` is the edge it leaves: see [`edges`].
    pub(crate) fn place(&self, at: &Edge, after: &Edge) -> Result<Place, Misfit> {
        if at.block > self.end.block {
            let gap = Gap {
                from: self.end.clone(),
                to: at.clone(),
            };
            if !gap.is_possible() {
                return Err(Misfit::Fork);
            }
            if self.gaps.len() >= MAX_GAPS {
                return Err(Misfit::TooManyGaps);
            }
            return Ok(Place::Ahead(gap));
        }
        if at.block == self.end.block {
            return if *at == self.end {
                Ok(Place::Next)
            } else {
                Err(Misfit::Fork)
            };
        }
        let inside = |gap: &Gap| gap.from.block <= at.block && at.block < gap.to.block;
        let Some(gap) = self.gaps.iter().position(inside) else {
            return Err(Misfit::Fork);
        };
        let Some(Gap { from, to }) = self.gaps.get(gap) else {
            return Err(Misfit::Fork);
        };
        let mut rest = Vec::new();
        for side in [
            Gap {
                from: from.clone(),
                to: at.clone(),
            },
            Gap {
                from: after.clone(),
                to: to.clone(),
            },
        ] {
            if !side.is_possible() {
                return Err(Misfit::Fork);
            }
            if !side.is_closed() {
                rest.push(side);
            }
        }
        if self.gaps.len() + rest.len() > MAX_GAPS + 1 {
            return Err(Misfit::TooManyGaps);
        }
        Ok(Place::Fills { gap, rest })
    }

    /// Takes the block that was placed.
    pub(crate) fn take(&mut self, place: Place, after: Edge) {
        match place {
            Place::Next => self.end = after,
            Place::Ahead(gap) => {
                self.gaps.push(gap);
                self.end = after;
            }
            Place::Fills { gap, rest } => {
                self.gaps.splice(gap..=gap, rest);
            }
        }
    }
}

impl Gap {
    /// Nothing is missing: both sides touch and fit.
    fn is_closed(&self) -> bool {
        self.from == self.to
    }

    /// Whether blocks could exist that close it. Touching sides must fit exactly; otherwise numbers must not
    /// run backwards.
    fn is_possible(&self) -> bool {
        if self.from.block == self.to.block {
            self.is_closed()
        } else {
            self.from.block < self.to.block && self.from.sequence <= self.to.sequence
        }
    }
}

/// The edge a block joins on and the one it leaves. `None` if its numbers are beyond all bounds.
pub(crate) fn edges(head: &BlockHead, head_bytes: &str) -> Option<(Edge, Edge)> {
    let at = Edge {
        block: head.block,
        sequence: head.first_sequence,
        previous: head.previous.clone(),
    };
    let after = Edge {
        block: head.block.checked_add(1)?,
        sequence: head.first_sequence.checked_add(u64::from(head.count))?,
        previous: hex::encode(&sha256(head_bytes.as_bytes())),
    };
    Some((at, after))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A chain of blocks with `counts` events each, as edges.
    fn chain(counts: &[u64], salt: &str) -> Vec<(Edge, Edge)> {
        let mut at = Edge {
            block: 0,
            sequence: 0,
            previous: NO_BLOCK.to_owned(),
        };
        counts
            .iter()
            .map(|count| {
                let after = Edge {
                    block: at.block + 1,
                    sequence: at.sequence + count,
                    previous: hex::encode(&sha256(format!("{salt}{at:?}{count}").as_bytes())),
                };
                let block = (at.clone(), after.clone());
                at = after;
                block
            })
            .collect()
    }

    fn spool() -> Spool {
        Spool::new(
            "ins_01JDA0000000000000000000AA".parse().unwrap(),
            "spiffe://bookshop.example/svc/orders".parse().unwrap(),
        )
    }

    fn take(spool: &mut Spool, (at, after): &(Edge, Edge)) -> Result<Place, Misfit> {
        let place = spool.place(at, after)?;
        spool.take(place.clone(), after.clone());
        Ok(place)
    }

    #[test]
    fn a_late_block_closes_the_gap_it_left() {
        let blocks = chain(&[3, 2, 5, 1], "");
        let mut spool = spool();
        assert_eq!(take(&mut spool, &blocks[0]), Ok(Place::Next));
        assert!(matches!(take(&mut spool, &blocks[3]), Ok(Place::Ahead(_))));
        assert!(matches!(
            take(&mut spool, &blocks[2]),
            Ok(Place::Fills { .. })
        ));
        assert_eq!(
            spool.gaps,
            [Gap {
                from: blocks[0].1.clone(),
                to: blocks[2].0.clone()
            }]
        );
        assert!(matches!(
            take(&mut spool, &blocks[1]),
            Ok(Place::Fills { .. })
        ));
        assert_eq!((spool.gaps.len(), &spool.end), (0, &blocks[3].1));
    }

    #[test]
    fn a_block_of_another_history_fits_nowhere_it_touches() {
        let (ours, other) = (chain(&[1; 6], "ours"), chain(&[1; 6], "other"));
        let mut spool = spool();
        for at in [0, 1, 5] {
            take(&mut spool, &ours[at]).unwrap();
        }
        assert_eq!(
            take(&mut spool, &other[2]),
            Err(Misfit::Fork),
            "its previous is not ours"
        );
        assert_eq!(
            take(&mut spool, &other[4]),
            Err(Misfit::Fork),
            "it is not what block 5 follows"
        );
        assert_eq!(take(&mut spool, &ours[4]).map(|_| ()), Ok(()));
        assert_eq!(
            take(&mut spool, &other[1]),
            Err(Misfit::Fork),
            "a known place"
        );
    }

    #[test]
    fn numbers_that_run_backwards_are_a_fork() {
        let blocks = chain(&[10; 4], "");
        let mut spool = spool();
        take(&mut spool, &blocks[0]).unwrap();
        let (mut at, after) = blocks[2].clone();
        at.sequence = 3;
        assert_eq!(spool.place(&at, &after), Err(Misfit::Fork));
    }

    #[test]
    fn gaps_are_bounded() {
        let blocks = chain(&[1; 200], "");
        let mut spool = spool();
        let outcomes: Vec<_> = (1..200)
            .step_by(2)
            .map(|at| take(&mut spool, &blocks[at]).is_ok())
            .collect();
        assert_eq!(outcomes.iter().filter(|taken| **taken).count(), MAX_GAPS);
        assert_eq!(take(&mut spool, &blocks[199]), Err(Misfit::TooManyGaps));
        take(&mut spool, &blocks[0]).unwrap();
        assert!(
            take(&mut spool, &blocks[199]).is_ok(),
            "room again after one gap closed"
        );
    }

    proptest! {
        #[test]
        fn any_order_of_arrival_ends_in_the_same_state(
            counts in prop::collection::vec(0u64..5, 1..40),
            order in any::<prop::sample::Index>(),
            seed in any::<u64>(),
        ) {
            let blocks = chain(&counts, "");
            let mut shuffled: Vec<usize> = (0..blocks.len()).collect();
            let mut state = seed;
            for at in (1..shuffled.len()).rev() {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                shuffled.swap(at, usize::try_from(state >> 33).unwrap() % (at + 1));
            }
            let dropped = order.index(blocks.len());
            let mut spool = spool();
            for at in shuffled.iter().filter(|at| **at != dropped) {
                take(&mut spool, &blocks[*at]).unwrap();
            }
            let is_last = dropped + 1 == blocks.len();
            prop_assert_eq!(spool.gaps.len(), usize::from(!is_last));
            take(&mut spool, &blocks[dropped]).unwrap();
            prop_assert_eq!(&spool.end, &blocks.last().unwrap().1);
            prop_assert!(spool.gaps.is_empty());
        }
    }
}
