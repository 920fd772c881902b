//! Merkle trees of RFC 6962 section 2.1 (the same in RFC 9162): hashing, growing, proving, verifying.
//!
//! The functions know no storage. Who keeps a tree keeps the hashes of its *complete subtrees*, named by
//! `(level, index)`: level 0 are leaves, and the node `(l, i)` covers the leaves `i·2^l .. (i+1)·2^l`.
//! [`Frontier::append_recording`] says which nodes a new leaf completes; proofs ask for them again.

use crate::{hash::sha256_of_parts, sha256};

/// A SHA-256 hash of a leaf, a node or a whole tree.
pub type Hash = [u8; 32];

/// Hash of a leaf: `SHA-256(0x00 || entry)`.
pub fn leaf_hash(entry: &[u8]) -> Hash {
    sha256_of_parts(&[&[0], entry])
}

/// Hash of an inner node: `SHA-256(0x01 || left || right)`.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    sha256_of_parts(&[&[1], left, right])
}

/// Root hash of the tree over `leaves`, which are leaf hashes.
pub fn root(leaves: &[Hash]) -> Hash {
    let mut frontier = Frontier::new();
    leaves.iter().for_each(|leaf| frontier.append(*leaf));
    frontier.root()
}

/// The right edge of a growing tree: the roots of its complete subtrees, largest first. At most 64 hashes,
/// and all that is needed to append leaves and to know the root.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Frontier {
    size: u64,
    parts: Vec<Hash>,
}

impl Frontier {
    /// The empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// A frontier as [`Frontier::parts`] gave it; `None` if `parts` cannot belong to a tree of `size` leaves.
    pub fn from_parts(size: u64, parts: Vec<Hash>) -> Option<Self> {
        let expected = usize::try_from(size.count_ones()).ok()?;
        (parts.len() == expected).then_some(Self { size, parts })
    }

    /// Number of leaves.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Roots of the complete subtrees, one for each bit set in the size, largest first.
    pub fn parts(&self) -> &[Hash] {
        &self.parts
    }

    /// Appends a leaf hash.
    pub fn append(&mut self, leaf: Hash) {
        self.append_recording(leaf, &mut |_, _, _| {});
    }

    /// Appends a leaf hash and tells `record(level, index, hash)` of each complete subtree this finishes,
    /// the leaf itself first.
    pub fn append_recording(&mut self, leaf: Hash, record: &mut dyn FnMut(u32, u64, &Hash)) {
        let mut hash = leaf;
        record(0, self.size, &hash);
        for level in 1..=self.size.trailing_ones() {
            if let Some(left) = self.parts.pop() {
                hash = node_hash(&left, &hash);
                record(level, self.size.checked_shr(level).unwrap_or(0), &hash);
            }
        }
        self.parts.push(hash);
        self.size += 1;
    }

    /// Root hash of the tree; of the empty tree, the hash of nothing.
    pub fn root(&self) -> Hash {
        let right_to_left = self.parts.iter().rev().copied();
        right_to_left
            .reduce(|right, left| node_hash(&left, &right))
            .unwrap_or_else(|| sha256(&[]))
    }
}

/// Proof that the leaf at `index` is in the tree of `size` leaves (RFC 6962 section 2.1.1), lowest node first.
///
/// `node(level, index)` gives the hash of a complete subtree. `None` if `index` is outside the tree or a
/// node is missing.
pub fn inclusion_proof(
    index: u64,
    size: u64,
    node: &dyn Fn(u32, u64) -> Option<Hash>,
) -> Option<Vec<Hash>> {
    if index >= size {
        return None;
    }
    let (mut begin, mut end) = (0, size);
    let mut path = Vec::new();
    while end - begin > 1 {
        let middle = begin + split(end - begin);
        if index < middle {
            path.push(range_root(middle, end, node)?);
            end = middle;
        } else {
            path.push(range_root(begin, middle, node)?);
            begin = middle;
        }
    }
    path.reverse();
    Some(path)
}

/// Proof that the tree of `new` leaves extends the tree of `old` leaves (RFC 6962 section 2.1.2).
///
/// Empty for `old` 0 (everything extends the empty tree) and for `old == new`. `None` if `old > new` or a
/// node is missing.
pub fn consistency_proof(
    old: u64,
    new: u64,
    node: &dyn Fn(u32, u64) -> Option<Hash>,
) -> Option<Vec<Hash>> {
    if old > new {
        return None;
    }
    if old == 0 {
        return Some(Vec::new());
    }
    let (mut begin, mut end) = (0, new);
    let mut path = Vec::new();
    while old != end {
        let middle = begin + split(end - begin);
        if old <= middle {
            path.push(range_root(middle, end, node)?);
            end = middle;
        } else {
            path.push(range_root(begin, middle, node)?);
            begin = middle;
        }
    }
    if begin != 0 {
        // The verifier knows the root of the old tree, but not of a subtree inside it.
        path.push(range_root(begin, end, node)?);
    }
    path.reverse();
    Some(path)
}

/// Whether `proof` shows that `leaf` is at `index` in the tree of `size` leaves with `root`
/// (RFC 9162 section 2.1.3.2).
pub fn verify_inclusion(leaf: &Hash, index: u64, size: u64, proof: &[Hash], root: &Hash) -> bool {
    if index >= size {
        return false;
    }
    let (mut position, mut last) = (index, size - 1);
    let mut hash = *leaf;
    for sibling in proof {
        if last == 0 {
            return false;
        }
        if position & 1 == 1 || position == last {
            hash = node_hash(sibling, &hash);
            skip_levels_without_sibling(&mut position, &mut last);
        } else {
            hash = node_hash(&hash, sibling);
        }
        position >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *root
}

/// Whether `proof` shows that the tree of `new` leaves with `new_root` begins with the tree of `old` leaves
/// with `old_root` (RFC 9162 section 2.1.4.2).
pub fn verify_consistency(
    old: u64,
    new: u64,
    proof: &[Hash],
    old_root: &Hash,
    new_root: &Hash,
) -> bool {
    if old > new {
        return false;
    }
    if old == new {
        return proof.is_empty() && old_root == new_root;
    }
    if old == 0 {
        return proof.is_empty() && *old_root == sha256(&[]);
    }
    // An old tree that is a complete subtree of the new one is where the proof starts, unsaid.
    let (start, rest) = match proof.split_first() {
        Some(_) if old.is_power_of_two() => (old_root, proof),
        Some((first, rest)) => (first, rest),
        None => return false,
    };
    let levels = (old - 1).trailing_ones();
    let (mut position, mut last) = ((old - 1) >> levels, (new - 1) >> levels);
    let (mut from_old, mut from_new) = (*start, *start);
    for sibling in rest {
        if last == 0 {
            return false;
        }
        if position & 1 == 1 || position == last {
            from_old = node_hash(sibling, &from_old);
            from_new = node_hash(sibling, &from_new);
            skip_levels_without_sibling(&mut position, &mut last);
        } else {
            from_new = node_hash(&from_new, sibling);
        }
        position >>= 1;
        last >>= 1;
    }
    last == 0 && from_old == *old_root && from_new == *new_root
}

/// A node at the right edge moves up unchanged until it is a right child.
fn skip_levels_without_sibling(position: &mut u64, last: &mut u64) {
    while *position & 1 == 0 && *position != 0 {
        *position >>= 1;
        *last >>= 1;
    }
}

/// The largest power of two below `size`; `size` is at least 2.
const fn split(size: u64) -> u64 {
    1 << (63 - (size - 1).leading_zeros())
}

/// Root over the leaves `begin..end`, where `begin` is where a split put it: aligned to the next power of two.
fn range_root(begin: u64, end: u64, node: &dyn Fn(u32, u64) -> Option<Hash>) -> Option<Hash> {
    let size = end - begin;
    if size.is_power_of_two() {
        let level = size.trailing_zeros();
        return node(level, begin >> level);
    }
    let middle = begin + split(size);
    Some(node_hash(
        &range_root(begin, middle, node)?,
        &range_root(middle, end, node)?,
    ))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::hex;

    /// The definition in RFC 6962 section 2.1, word for word.
    fn root_by_definition(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => sha256(&[]),
            [leaf] => *leaf,
            _ => {
                let mut k = 1;
                while k * 2 < leaves.len() {
                    k *= 2;
                }
                node_hash(
                    &root_by_definition(&leaves[..k]),
                    &root_by_definition(&leaves[k..]),
                )
            }
        }
    }

    struct Tree {
        leaves: Vec<Hash>,
        nodes: HashMap<(u32, u64), Hash>,
    }

    impl Tree {
        fn of(size: u64) -> Self {
            let mut frontier = Frontier::new();
            let mut nodes = HashMap::new();
            let leaves: Vec<Hash> = (0..size).map(|i| leaf_hash(&i.to_be_bytes())).collect();
            for leaf in &leaves {
                frontier.append_recording(*leaf, &mut |level, index, hash| {
                    assert_eq!(nodes.insert((level, index), *hash), None);
                });
            }
            Self { leaves, nodes }
        }

        fn root_at(&self, size: u64) -> Hash {
            root(&self.leaves[..usize::try_from(size).unwrap()])
        }

        fn inclusion(&self, index: u64, size: u64) -> Vec<Hash> {
            inclusion_proof(index, size, &|l, i| self.nodes.get(&(l, i)).copied()).unwrap()
        }

        fn consistency(&self, old: u64, new: u64) -> Vec<Hash> {
            consistency_proof(old, new, &|l, i| self.nodes.get(&(l, i)).copied()).unwrap()
        }
    }

    #[test]
    fn roots_match_the_certificate_transparency_vectors() {
        let entries = [
            "",
            "00",
            "10",
            "2021",
            "3031",
            "40414243",
            "5051525354555657",
            "606162636465666768696a6b6c6d6e6f",
        ];
        let roots = [
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        let leaves: Vec<Hash> = entries
            .iter()
            .map(|entry| leaf_hash(&hex::decode(entry).unwrap()))
            .collect();
        for (size, expected) in roots.iter().enumerate() {
            assert_eq!(
                hex::encode(&root(&leaves[..size])),
                *expected,
                "size {size}"
            );
        }
    }

    #[test]
    fn every_leaf_of_every_tree_up_to_130_can_be_proven_and_only_with_its_own_proof() {
        let tree = Tree::of(130);
        for size in 1..=130 {
            let root = tree.root_at(size);
            assert_eq!(
                root,
                root_by_definition(&tree.leaves[..usize::try_from(size).unwrap()])
            );
            for index in 0..size {
                let leaf = &tree.leaves[usize::try_from(index).unwrap()];
                let proof = tree.inclusion(index, size);
                assert!(
                    verify_inclusion(leaf, index, size, &proof, &root),
                    "{index} of {size}"
                );
                assert!(!verify_inclusion(&[7; 32], index, size, &proof, &root));
                assert!(!verify_inclusion(leaf, index + 1, size, &proof, &root));
                let longer = [proof.clone(), vec![[0; 32]]].concat();
                assert!(!verify_inclusion(leaf, index, size, &longer, &root));
                if let Some((_, shorter)) = proof.split_last() {
                    assert!(!verify_inclusion(leaf, index, size, shorter, &root));
                }
            }
        }
    }

    #[test]
    fn every_tree_up_to_130_is_proven_to_extend_every_smaller_one() {
        let tree = Tree::of(130);
        let roots: Vec<Hash> = (0..=130).map(|size| tree.root_at(size)).collect();
        let root_at = |size: u64| &roots[usize::try_from(size).unwrap()];
        for new in 0..=130 {
            for old in 0..=new {
                let proof = tree.consistency(old, new);
                let verify = |proof: &[Hash], old_root: &Hash| {
                    verify_consistency(old, new, proof, old_root, root_at(new))
                };
                assert!(verify(&proof, root_at(old)), "{old} to {new}");
                assert!(
                    !verify(&proof, &[7; 32]),
                    "{old} to {new} with another past"
                );
                assert!(!verify(
                    &[proof.clone(), vec![[0; 32]]].concat(),
                    root_at(old)
                ));
                if let Some((_, shorter)) = proof.split_last() {
                    assert!(!verify(shorter, root_at(old)));
                }
            }
        }
    }

    #[test]
    fn a_frontier_survives_storage() {
        let mut frontier = Frontier::new();
        for number in 0..100u64 {
            frontier.append(leaf_hash(&number.to_be_bytes()));
            let parts = frontier.parts().to_vec();
            assert_eq!(
                Frontier::from_parts(frontier.size(), parts).as_ref(),
                Some(&frontier)
            );
        }
        assert_eq!(Frontier::from_parts(3, vec![[0; 32]]), None);
    }

    #[test]
    fn proofs_outside_the_tree_do_not_exist() {
        let nodes = |_: u32, _: u64| Some([0; 32]);
        assert_eq!(inclusion_proof(3, 3, &nodes), None);
        assert_eq!(consistency_proof(4, 3, &nodes), None);
        assert_eq!(inclusion_proof(0, 3, &|_, _| None), None);
        assert!(!verify_inclusion(
            &[0; 32],
            u64::MAX,
            u64::MAX,
            &[],
            &[0; 32]
        ));
        assert!(!verify_consistency(
            1,
            u64::MAX,
            &[[0; 32]; 64],
            &[0; 32],
            &[0; 32]
        ));
    }

    proptest! {
        #[test]
        fn a_flipped_bit_anywhere_breaks_an_inclusion_proof(
            (size, index) in (2u64..130).prop_flat_map(|size| (Just(size), 0..size)),
            byte in any::<proptest::sample::Index>(),
            bit in 0u8..8,
        ) {
            let tree = Tree::of(size);
            let mut proof = tree.inclusion(index, size);
            let at = byte.index(proof.len() * 32);
            proof[at / 32][at % 32] ^= 1 << bit;
            let leaf = &tree.leaves[usize::try_from(index).unwrap()];
            prop_assert!(!verify_inclusion(leaf, index, size, &proof, &tree.root_at(size)));
        }

        #[test]
        fn a_flipped_bit_anywhere_breaks_a_consistency_proof(
            (new, old) in (2u64..130).prop_flat_map(|new| (Just(new), 1..new)),
            byte in any::<proptest::sample::Index>(),
            bit in 0u8..8,
        ) {
            let tree = Tree::of(new);
            let mut proof = tree.consistency(old, new);
            let at = byte.index(proof.len() * 32);
            proof[at / 32][at % 32] ^= 1 << bit;
            let (old_root, new_root) = (tree.root_at(old), tree.root_at(new));
            prop_assert!(!verify_consistency(old, new, &proof, &old_root, &new_root));
        }
    }
}
