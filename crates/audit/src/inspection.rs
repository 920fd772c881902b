//! Recomputing a whole ledger from its leaves, wherever they are kept.

use std::{collections::HashMap, fmt};

use testudo_model::{SpiffeId, TrustDomain};
use testudo_trust::{
    Checkpoint, TrustBundle,
    merkle::{Frontier, Hash, leaf_hash},
};

use crate::{
    evidence::Evidence,
    tile::{HEIGHT, WIDTH},
};

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The checkpoint that was verified against.
    pub checkpoint: Checkpoint,
    /// Leaves that were recomputed: all of them, unless there is a defect.
    pub leaves: u64,
    /// Events among them.
    pub events: u64,
    /// Blocks whose signature and events were checked.
    pub blocks: u64,
    /// Evidence of forked spools.
    pub forks: u64,
    /// Blocks that proxies made and the ledger never got.
    pub missing_blocks: u64,
    /// Events that proxies said they lost.
    pub lost_events: u64,
    /// The first thing that is wrong.
    pub defect: Option<Defect>,
}

impl Report {
    /// Whether every leaf is what the checkpoint commits to. Gaps and losses are reported by whoever made them
    /// and do not count against the ledger.
    pub const fn is_intact(&self) -> bool {
        self.defect.is_none()
    }

    /// Nothing could be verified, because of `what` about the checkpoint.
    pub(crate) fn of_nothing(what: impl Into<String>) -> Self {
        Self {
            checkpoint: Checkpoint {
                origin: String::new(),
                size: 0,
                root: [0; 32],
            },
            leaves: 0,
            events: 0,
            blocks: 0,
            forks: 0,
            missing_blocks: 0,
            lost_events: 0,
            defect: Some(Defect {
                leaf: None,
                place: "checkpoint".to_owned(),
                what: what.into(),
            }),
        }
    }
}

/// Something that is not as the checkpoint commits to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defect {
    /// The first leaf it concerns, if that can be said.
    pub leaf: Option<u64>,
    /// Where: a file, or a part of the ledger.
    pub place: String,
    /// What.
    pub what: String,
}

impl fmt::Display for Defect {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.leaf {
            Some(leaf) => write!(formatter, "leaf {leaf} ({}): {}", self.place, self.what),
            None => write!(formatter, "{}: {}", self.place, self.what),
        }
    }
}

/// Where leaves and tiles are kept.
pub(crate) trait Source {
    /// Why reading fails for reasons that say nothing about the ledger.
    type Error;

    /// `width` leaves from `256 * index` on.
    fn leaves(&self, index: u64, width: u64) -> Result<Leaves, Self::Error>;

    /// A tile, or what is wrong with it.
    fn tile(
        &self,
        level: u32,
        index: u64,
        width: u64,
    ) -> Result<Result<Vec<Hash>, Defect>, Self::Error>;

    /// Name of a tile.
    fn tile_name(&self, level: u32, index: u64, width: u64) -> String;

    /// Name of the place of 256 leaves.
    fn leaves_name(&self, index: u64, width: u64) -> String;
}

/// Leaves as far as they can be read.
pub(crate) struct Leaves {
    pub(crate) leaves: Vec<Vec<u8>>,
    /// Why there are no more.
    pub(crate) defect: Option<String>,
}

/// Recomputes the tree of `checkpoint` from `source` and compares every tile; checks every block's signature,
/// certificate (against `roots`, if given) and events. `kept` is an older checkpoint from elsewhere that must
/// be on the way.
pub(crate) fn inspect<S: Source>(
    checkpoint: &Checkpoint,
    source: &S,
    roots: Option<&TrustBundle>,
    kept: Option<&Checkpoint>,
) -> Result<Report, S::Error> {
    let Some(operator) = operator_of(&checkpoint.origin) else {
        return Ok(Report::of_nothing("it is of no ledger of a trust domain"));
    };
    let mut walk = Walk {
        size: checkpoint.size,
        source,
        tree: Frontier::new(),
        tiles: HashMap::new(),
        evidence: Evidence::new(roots, operator),
        kept,
    };
    let defect = walk.run(checkpoint)?;
    let evidence = walk.evidence;
    Ok(Report {
        checkpoint: checkpoint.clone(),
        leaves: walk.tree.size(),
        events: evidence.events,
        blocks: evidence.blocks,
        forks: evidence.forks,
        missing_blocks: evidence.missing_blocks(),
        lost_events: evidence.lost_events,
        defect,
    })
}

/// The control plane that keeps the ledger of this origin, `<trust domain>/ledger`.
fn operator_of(origin: &str) -> Option<SpiffeId> {
    let domain: TrustDomain = origin.strip_suffix("/ledger")?.parse().ok()?;
    Some(domain.server())
}

struct Walk<'a, S> {
    size: u64,
    source: &'a S,
    tree: Frontier,
    /// The tile being compared, by level.
    tiles: HashMap<u32, (u64, Vec<Hash>)>,
    evidence: Evidence<'a>,
    kept: Option<&'a Checkpoint>,
}

impl<S: Source> Walk<'_, S> {
    /// Walks all leaves; the first defect ends it.
    fn run(&mut self, checkpoint: &Checkpoint) -> Result<Option<Defect>, S::Error> {
        if let Some(defect) = self.compare_kept() {
            return Ok(Some(defect));
        }
        while self.tree.size() < self.size {
            let index = self.tree.size() / WIDTH;
            let width = WIDTH.min(self.size - self.tree.size());
            let Leaves { leaves, defect } = self.source.leaves(index, width)?;
            for leaf in &leaves {
                if let Some(defect) = self.leaf(leaf)? {
                    return Ok(Some(defect));
                }
            }
            let cut = (leaves.len() as u64) < width;
            if let Some(what) = defect.or_else(|| cut.then(|| "leaves are missing".to_owned())) {
                let place = self.source.leaves_name(index, width);
                return Ok(Some(Defect {
                    leaf: Some(self.tree.size()),
                    place,
                    what,
                }));
            }
        }
        if self.tree.root() != checkpoint.root {
            let what = "the leaves do not lead to the root in the checkpoint".to_owned();
            return Ok(Some(Defect {
                leaf: None,
                place: "checkpoint".to_owned(),
                what,
            }));
        }
        Ok(self.evidence.finish())
    }

    fn leaf(&mut self, leaf: &[u8]) -> Result<Option<Defect>, S::Error> {
        let at = self.tree.size();
        let mut complete = Vec::new();
        self.tree
            .append_recording(leaf_hash(leaf), &mut |level, index, hash| {
                if level % HEIGHT == 0 {
                    complete.push((level / HEIGHT, index, *hash));
                }
            });
        for (level, index, hash) in complete {
            if let Some(defect) = self.compare_tile(level, index, &hash)? {
                return Ok(Some(Defect {
                    leaf: Some(at),
                    ..defect
                }));
            }
        }
        Ok(self.evidence.leaf(at, leaf).or_else(|| self.compare_kept()))
    }

    /// Whether the stored hash of a complete subtree is the recomputed one.
    fn compare_tile(
        &mut self,
        level: u32,
        index: u64,
        hash: &Hash,
    ) -> Result<Option<Defect>, S::Error> {
        let (tile, position) = (index / WIDTH, index % WIDTH);
        let width = WIDTH.min((self.size >> (HEIGHT * level)) - tile * WIDTH);
        if self
            .tiles
            .get(&level)
            .is_none_or(|(loaded, _)| *loaded != tile)
        {
            match self.source.tile(level, tile, width)? {
                Ok(hashes) => self.tiles.insert(level, (tile, hashes)),
                Err(defect) => return Ok(Some(defect)),
            };
        }
        let stored = self
            .tiles
            .get(&level)
            .and_then(|(_, hashes)| hashes.get(usize::try_from(position).ok()?));
        if stored == Some(hash) {
            return Ok(None);
        }
        let tile_name = self.source.tile_name(level, tile, width);
        Ok(Some(if level == 0 {
            let leaves = self.source.leaves_name(tile, width);
            let what = format!("its hash is not the one in {tile_name}");
            Defect {
                leaf: None,
                place: leaves,
                what,
            }
        } else {
            let what = format!("hash {position} is not that of the leaves below it");
            Defect {
                leaf: None,
                place: tile_name,
                what,
            }
        }))
    }

    /// Whether the tree passed through the checkpoint kept elsewhere, where it is as large.
    fn compare_kept(&self) -> Option<Defect> {
        let kept = self.kept?;
        let defect = |what: String| {
            Some(Defect {
                leaf: None,
                place: "the checkpoint that was kept".to_owned(),
                what,
            })
        };
        if kept.size > self.size {
            return defect(format!(
                "the ledger had {} leaves then and has {} now: its end was cut off",
                kept.size, self.size
            ));
        }
        if kept.size == self.tree.size() && kept.root != self.tree.root() {
            return defect(format!(
                "the first {} leaves are not what they were",
                kept.size
            ));
        }
        None
    }
}
