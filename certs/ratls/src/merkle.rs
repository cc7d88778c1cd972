//! One quote for many connections: a Merkle tree over binders, in the shape of
//! RFC 9162 section 2.1 with SHA-512 (3-attestation, section 4.2).

use countersign_evidence::{Finding, Reason};

use crate::binding::sha512;

/// The most leaves that a verifier accepts.
pub const MAX_LEAVES: u64 = 1 << 16;

/// A node of the tree.
pub type Node = [u8; 64];

/// The hash of a leaf.
#[must_use]
pub fn leaf(binder: &[u8; 64]) -> Node {
    let mut input = [0; 65];
    input[1..].copy_from_slice(binder);
    sha512(&input)
}

/// The hash of an inner node.
#[must_use]
pub fn node(left: &Node, right: &Node) -> Node {
    let mut input = [1; 129];
    let (_, children) = input.split_at_mut(1);
    children.iter_mut().zip(left.iter().chain(right)).for_each(|(to, from)| *to = *from);
    sha512(&input)
}

/// The root over these binders; `None` when there are none.
#[must_use]
pub fn root(binders: &[[u8; 64]]) -> Option<Node> {
    match binders {
        [] => None,
        [one] => Some(leaf(one)),
        many => {
            let (left, right) = many.split_at_checked(split(many.len()))?;
            Some(node(&root(left)?, &root(right)?))
        }
    }
}

/// The inclusion proof of the binder at `index`; `None` when there is none.
#[must_use]
pub fn proof(index: usize, binders: &[[u8; 64]]) -> Option<Vec<Node>> {
    match binders {
        [] => None,
        [_] => (index == 0).then(Vec::new),
        many => {
            let at = split(many.len());
            let (left, right) = many.split_at_checked(at)?;
            let (mut path, sibling) = match index.checked_sub(at) {
                None => (proof(index, left)?, root(right)?),
                Some(index) => (proof(index, right)?, root(left)?),
            };
            path.push(sibling);
            Some(path)
        }
    }
}

/// A tree with all of its nodes: the proofs of a large batch cost one pass over
/// its leaves, and not one pass each.
#[derive(Clone, Debug)]
pub struct Tree {
    /// The leaves first, the root alone in the last one. A node without a
    /// sibling moves up as it is, which gives the shape of RFC 9162.
    levels: Vec<Vec<Node>>,
}

impl Tree {
    /// Over these binders.
    #[must_use]
    pub fn new<'a>(binders: impl IntoIterator<Item = &'a [u8; 64]>) -> Self {
        let mut level: Vec<Node> = binders.into_iter().map(leaf).collect();
        let mut levels = Vec::new();
        while level.len() > 1 {
            let above = level
                .chunks(2)
                .filter_map(|pair| match pair {
                    [left, right] => Some(node(left, right)),
                    [alone] => Some(*alone),
                    _ => None,
                })
                .collect();
            levels.push(std::mem::replace(&mut level, above));
        }
        levels.push(level);
        Self { levels }
    }

    /// As [`root`].
    #[must_use]
    pub fn root(&self) -> Option<Node> {
        self.levels.last()?.first().copied()
    }

    /// As [`proof`].
    #[must_use]
    pub fn proof(&self, index: usize) -> Option<Vec<Node>> {
        self.levels.first()?.get(index)?;
        let mut at = index;
        let mut path = Vec::new();
        for level in &self.levels {
            path.extend(level.get(at ^ 1));
            at >>= 1;
        }
        Some(path)
    }
}

/// The root that follows from a proof (RFC 9162 section 2.1.3.2). The proof
/// must be consumed exactly.
///
/// # Errors
/// `binding-mismatch` when index, size and proof do not fit together.
pub fn root_from_proof(index: u64, size: u64, binder: &[u8; 64], proof: &[Node]) -> Result<Node, Finding> {
    let refused = || {
        let presented = format!("leaf {index} of {size} with {} nodes", proof.len());
        Finding::new(Reason::BindingMismatch, "Merkle proof", "a proof that fits its tree", presented)
    };
    if size > MAX_LEAVES || index >= size {
        return Err(refused());
    }
    let (mut at, mut last, mut hash) = (index, size - 1, leaf(binder));
    for sibling in proof {
        if last == 0 {
            return Err(refused());
        }
        if at & 1 == 1 || at == last {
            hash = node(sibling, &hash);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            hash = node(&hash, sibling);
        }
        at >>= 1;
        last >>= 1;
    }
    if last == 0 { Ok(hash) } else { Err(refused()) }
}

/// The largest power of two below `n`, for `n` of at least 2.
const fn split(n: usize) -> usize {
    1 << (usize::BITS - 1 - (n - 1).leading_zeros())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binders(n: u8) -> Vec<[u8; 64]> {
        (0..n).map(|i| [i; 64]).collect()
    }

    #[test]
    fn every_leaf_of_every_small_tree_proves_its_root_and_no_other_does() {
        for n in 1..40_u8 {
            let all = binders(n);
            let expected = root(&all).unwrap();
            for (i, binder) in all.iter().enumerate() {
                let path = proof(i, &all).unwrap();
                let verify =
                    |index: u64, size: u64, path: &[Node]| root_from_proof(index, size, binder, path);
                let (index, size) = (i as u64, u64::from(n));
                assert_eq!(verify(index, size, &path).unwrap(), expected);
                assert_ne!(root_from_proof(index, size, &[0xff; 64], &path).unwrap(), expected);
                assert!(verify(size, size, &path).is_err());
                let extended = [path.as_slice(), &[[0; 64]]].concat();
                assert!(verify(index, size, &extended).is_err());
                if let Some((_, truncated)) = path.split_last() {
                    assert!(verify(index, size, truncated).is_err());
                    let other = verify((index + 1) % size, size, &path);
                    assert!(other.is_err() || other.unwrap() != expected);
                }
            }
        }
    }

    #[test]
    fn a_whole_tree_has_the_roots_and_proofs_of_its_definition() {
        for n in (0..70).chain([255]) {
            let all = binders(n);
            let tree = Tree::new(&all);
            assert_eq!(tree.root(), root(&all));
            for index in 0..=all.len() {
                assert_eq!(tree.proof(index), proof(index, &all), "leaf {index} of {n}");
            }
        }
    }

    #[test]
    fn a_node_is_no_leaf() {
        let (left, right) = (leaf(&[1; 64]), leaf(&[2; 64]));
        assert_ne!(leaf(&left), node(&left, &right));
        assert!(root(&[]).is_none() && proof(0, &[]).is_none() && proof(1, &binders(1)).is_none());
        assert!(root_from_proof(0, MAX_LEAVES + 1, &[0; 64], &[]).is_err());
    }
}
