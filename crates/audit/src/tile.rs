//! The tree in the store: complete subtrees as C2SP tiles, and the head that signs for them.
//!
//! A tile holds up to 256 hashes of one tile level; level `L` has the roots of subtrees of height `8 * L`. Full
//! tiles never change. With them any proof needs O(log n) reads.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap},
};

use serde::{Deserialize, Serialize};
use testudo_model::Timestamp;
use testudo_store::{Record, StoreError, Tenant};
use testudo_trust::{
    base64url, hex,
    merkle::{self, Frontier, Hash},
};

use crate::LedgerError;

/// Hashes in a full tile.
pub(crate) const WIDTH: u64 = 256;
/// Tree levels in a tile.
pub(crate) const HEIGHT: u32 = 8;
/// Tile levels a tree of 2^64 leaves can have.
const MAX_LEVELS: u32 = 8;

/// A tile at rest.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Tile {
    level: u32,
    index: u64,
    /// The hashes one after the other, base64url.
    hashes: String,
}

impl Record for Tile {
    const COLLECTION: &'static str = "audit.tiles";

    fn key(&self) -> String {
        Self::key_of(self.level, self.index)
    }
}

impl Tile {
    pub(crate) fn new(level: u32, index: u64, hashes: &[Hash]) -> Self {
        Self {
            level,
            index,
            hashes: base64url::encode(hashes.as_flattened()),
        }
    }

    /// The tile's hashes; `None` if there is no such tile.
    pub(crate) fn load(
        tenant: &Tenant,
        level: u32,
        index: u64,
    ) -> Result<Option<Vec<Hash>>, LedgerError> {
        let Some(tile) = tenant.get::<Self>(&Self::key_of(level, index))? else {
            return Ok(None);
        };
        let bytes = base64url::decode(&tile.record.hashes).ok_or(LedgerError::Damaged {
            what: "a tile is no list of hashes",
        })?;
        Ok(Some(split_hashes(&bytes).ok_or(LedgerError::Damaged {
            what: "a tile is cut short",
        })?))
    }

    fn key_of(level: u32, index: u64) -> String {
        format!("{level}/{index}")
    }
}

/// Reads hashes one after the other; `None` if bytes are left over.
pub(crate) fn split_hashes(bytes: &[u8]) -> Option<Vec<Hash>> {
    let (hashes, rest) = bytes.as_chunks::<32>();
    rest.is_empty().then(|| hashes.to_vec())
}

/// The tiles of a tree of `size` leaves: level, index and width, lowest level first.
pub(crate) fn tiles_of(size: u64) -> impl Iterator<Item = (u32, u64, u64)> {
    (0..MAX_LEVELS)
        .map(move |level| (level, size >> (HEIGHT * level)))
        .take_while(|(_, hashes)| *hashes > 0)
        .flat_map(|(level, hashes)| {
            (0..hashes.div_ceil(WIDTH))
                .map(move |index| (level, index, WIDTH.min(hashes - index * WIDTH)))
        })
}

/// The newest state of the tree. Every append replaces it, expecting the version it read: so of two control
/// planes that append at once one starts over, and indexes in the log are indexes in the tree.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct TreeHead {
    pub(crate) size: u64,
    /// When the newest leaf was taken. Never goes back, whatever the clock does: searches rely on it.
    pub(crate) recorded_at: Timestamp,
    /// [`Frontier::parts`], hex.
    frontier: Vec<String>,
    /// Signed checkpoint of exactly this size.
    pub(crate) checkpoint: String,
}

impl Record for TreeHead {
    const COLLECTION: &'static str = "audit.head";

    fn key(&self) -> String {
        Self::KEY.to_owned()
    }
}

impl TreeHead {
    pub(crate) const KEY: &'static str = "ledger";

    pub(crate) fn new(frontier: &Frontier, recorded_at: Timestamp, checkpoint: String) -> Self {
        Self {
            size: frontier.size(),
            recorded_at,
            frontier: frontier
                .parts()
                .iter()
                .map(|hash| hex::encode(hash))
                .collect(),
            checkpoint,
        }
    }

    pub(crate) fn frontier(&self) -> Result<Frontier, LedgerError> {
        let hash = |text: &String| hex::decode(text).and_then(|bytes| bytes.try_into().ok());
        self.frontier
            .iter()
            .map(hash)
            .collect::<Option<Vec<Hash>>>()
            .and_then(|parts| Frontier::from_parts(self.size, parts))
            .ok_or(LedgerError::Damaged {
                what: "the tree head is malformed",
            })
    }
}

/// A tree that grows in memory and knows which tiles it changed.
pub(crate) struct Growth {
    frontier: Frontier,
    tiles: BTreeMap<(u32, u64), Vec<Hash>>,
    touched: BTreeSet<(u32, u64)>,
}

impl Growth {
    /// The right edge of the stored tree.
    pub(crate) fn load(tenant: &Tenant, head: &TreeHead) -> Result<Self, LedgerError> {
        let mut tiles = BTreeMap::new();
        for level in 0..MAX_LEVELS {
            let hashes = head.size >> (HEIGHT * level);
            let (index, width) = (hashes / WIDTH, hashes % WIDTH);
            if width > 0 {
                let width = usize::try_from(width).unwrap_or(0);
                let mut tile = Tile::load(tenant, level, index)?
                    .filter(|tile| tile.len() >= width)
                    .ok_or(LedgerError::Damaged {
                        what: "a tile at the right edge is missing",
                    })?;
                // Another control plane may have appended since the head was read; the commit will notice.
                tile.truncate(width);
                tiles.insert((level, index), tile);
            }
        }
        Ok(Self {
            frontier: head.frontier()?,
            tiles,
            touched: BTreeSet::new(),
        })
    }

    pub(crate) fn size(&self) -> u64 {
        self.frontier.size()
    }

    pub(crate) fn frontier(&self) -> &Frontier {
        &self.frontier
    }

    pub(crate) fn append(&mut self, leaf: Hash) {
        let Self {
            frontier,
            tiles,
            touched,
        } = self;
        frontier.append_recording(leaf, &mut |level, index, hash| {
            if level % HEIGHT == 0 {
                let tile = (level / HEIGHT, index / WIDTH);
                tiles.entry(tile).or_default().push(*hash);
                touched.insert(tile);
            }
        });
    }

    /// The tiles that must be written.
    pub(crate) fn changed(&self) -> impl Iterator<Item = Tile> {
        self.touched.iter().filter_map(|(level, index)| {
            Some(Tile::new(
                *level,
                *index,
                self.tiles.get(&(*level, *index))?,
            ))
        })
    }
}

/// Tiles by level and index; `None` for one that is not there.
type SeenTiles = HashMap<(u32, u64), Option<Vec<Hash>>>;

/// Hashes of complete subtrees, from stored tiles.
pub(crate) struct Nodes<'a> {
    tenant: &'a Tenant,
    seen: RefCell<SeenTiles>,
    failure: RefCell<Option<LedgerError>>,
}

impl<'a> Nodes<'a> {
    pub(crate) fn new(tenant: &'a Tenant) -> Self {
        Self {
            tenant,
            seen: RefCell::default(),
            failure: RefCell::default(),
        }
    }

    /// Runs a proof builder over the stored tree.
    pub(crate) fn prove(
        self,
        build: impl FnOnce(&dyn Fn(u32, u64) -> Option<Hash>) -> Option<Vec<Hash>>,
    ) -> Result<Vec<Hash>, LedgerError> {
        let proof = build(&|level, index| self.node(level, index));
        match (self.failure.into_inner(), proof) {
            (Some(failure), _) => Err(failure),
            (None, Some(proof)) => Ok(proof),
            (None, None) => Err(LedgerError::Damaged {
                what: "a tile is missing",
            }),
        }
    }

    /// Root of the complete subtree of height `level` that is the `index`-th of its height.
    fn node(&self, level: u32, index: u64) -> Option<Hash> {
        let (tile_level, height) = (level / HEIGHT, level % HEIGHT);
        let first = index << height;
        let key = (tile_level, first / WIDTH);
        let mut seen = self.seen.borrow_mut();
        let tile = seen.entry(key).or_insert_with(|| {
            Tile::load(self.tenant, key.0, key.1).unwrap_or_else(|error| {
                self.failure.replace(Some(error));
                None
            })
        });
        let from = usize::try_from(first % WIDTH).ok()?;
        Some(merkle::root(
            tile.as_ref()?.get(from..from + (1 << height))?,
        ))
    }
}

/// Whether a failed commit may be tried again on what others committed meanwhile.
pub(crate) fn is_conflict(error: &LedgerError) -> bool {
    matches!(error, LedgerError::Store(StoreError::Conflict { .. }))
}

#[cfg(test)]
mod tests {
    use super::tiles_of;

    #[test]
    fn the_tiles_of_a_tree_are_those_of_the_specification() {
        let of = |size| {
            let mut levels = vec![(0u64, 0u64); 3];
            for (level, _, width) in tiles_of(size) {
                let (full, partial) = &mut levels[level as usize];
                if width == 256 {
                    *full += 1
                } else {
                    *partial = width
                }
            }
            levels
        };
        // The examples of c2sp.org/tlog-tiles, "Partial Tiles".
        assert_eq!(of(70_000), [(273, 112), (1, 17), (0, 1)]);
        assert_eq!(of(256), [(1, 0), (0, 1), (0, 0)]);
        assert_eq!(of(0), [(0, 0); 3]);
        assert_eq!(tiles_of(u64::MAX).next(), Some((0, 0, 256)));
    }
}
