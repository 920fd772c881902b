//! Verifying in place: everything recomputed from the leaves in the store.

use testudo_store::StoreError;
use testudo_trust::{TrustBundle, merkle::Hash};

use crate::{
    Defect, Ledger, LedgerError, Report,
    inspection::{Leaves, Source, inspect},
    ledger::StoredLeaf,
    proof::open_checkpoint,
    tile::{Tile, WIDTH},
};

impl Ledger {
    /// Recomputes all leaves and compares them with every tile and the newest signed checkpoint; checks every
    /// block's signature, events and place in its spool, and its certificate if `roots` (with the roots of all
    /// times) are given.
    ///
    /// `kept` is a signed checkpoint from earlier that was kept elsewhere. Only with one can this show that the
    /// end was cut off or the whole rewritten by somebody with all keys.
    ///
    /// # Errors
    /// The store cannot be read for reasons other than damage, or `kept` is not a checkpoint of this ledger.
    pub fn verify(
        &self,
        roots: Option<&TrustBundle>,
        kept: Option<&str>,
    ) -> Result<Report, LedgerError> {
        let head = self.head()?.record;
        let (verifier, key) = (self.verifier()?, self.verifier_key());
        let open = |note: &str, what| {
            open_checkpoint(&verifier, &key, note).map_err(|_| LedgerError::Damaged { what })
        };
        let checkpoint = open(
            &head.checkpoint,
            "the newest checkpoint is not signed by its key",
        )?;
        if checkpoint.size != head.size {
            return Err(LedgerError::Damaged {
                what: "the newest checkpoint is of another size",
            });
        }
        let kept = kept
            .map(|note| {
                open(
                    note,
                    "the checkpoint that was kept is not signed by this ledger",
                )
            })
            .transpose()?;
        inspect(&checkpoint, self, roots, kept.as_ref())
    }
}

impl Source for Ledger {
    type Error = LedgerError;

    fn leaves(&self, index: u64, width: u64) -> Result<Leaves, LedgerError> {
        let first = index * WIDTH;
        let count = usize::try_from(width).unwrap_or(0);
        match self.tenant.read_log::<StoredLeaf>(first, count) {
            Ok(read) => Ok(Leaves {
                leaves: texts(read),
                defect: None,
            }),
            Err(StoreError::Corrupt { .. } | StoreError::Decode { .. }) => {
                self.one_by_one(first, width)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn tile(
        &self,
        level: u32,
        index: u64,
        width: u64,
    ) -> Result<Result<Vec<Hash>, Defect>, LedgerError> {
        let defect = |what: &str| Defect {
            leaf: None,
            place: self.tile_name(level, index, width),
            what: what.to_owned(),
        };
        match Tile::load(&self.tenant, level, index) {
            Ok(Some(hashes)) if hashes.len() as u64 >= width => Ok(Ok(hashes)),
            Ok(Some(_)) => Ok(Err(defect("it is cut short"))),
            Ok(None) => Ok(Err(defect("it is missing"))),
            Err(
                LedgerError::Damaged { .. }
                | LedgerError::Store(StoreError::Corrupt { .. } | StoreError::Decode { .. }),
            ) => Ok(Err(defect("it cannot be read"))),
            Err(error) => Err(error),
        }
    }

    fn tile_name(&self, level: u32, index: u64, _width: u64) -> String {
        format!("tile {index} of level {level}")
    }

    fn leaves_name(&self, index: u64, width: u64) -> String {
        format!("leaves {} to {}", index * WIDTH, index * WIDTH + width - 1)
    }
}

impl Ledger {
    /// Reads up to the leaf that cannot be read, so that the report can name it.
    fn one_by_one(&self, first: u64, width: u64) -> Result<Leaves, LedgerError> {
        let mut leaves = Vec::new();
        for index in first..first + width {
            match self.tenant.read_log::<StoredLeaf>(index, 1) {
                Ok(read) => leaves.extend(texts(read)),
                Err(error @ (StoreError::Corrupt { .. } | StoreError::Decode { .. })) => {
                    return Ok(Leaves {
                        leaves,
                        defect: Some(error.to_string()),
                    });
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Leaves {
            leaves,
            defect: None,
        })
    }
}

fn texts(read: Vec<(u64, StoredLeaf)>) -> Vec<Vec<u8>> {
    read.into_iter()
        .map(|(_, stored)| stored.leaf.into_bytes())
        .collect()
}
