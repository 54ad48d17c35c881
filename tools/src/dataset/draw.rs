//! Drawing people by lot.

use std::collections::BTreeSet;

use sha2::{Digest as _, Sha256};

/// `count` of `people` (all, if there are fewer), as `seed` decides: the same ones everywhere,
/// whatever else is in the data set.
pub fn draw(people: &BTreeSet<i64>, count: usize, seed: u64) -> BTreeSet<i64> {
    let mut people: Vec<i64> = people.iter().copied().collect();
    // The order of digests is as good as a shuffle.
    people.sort_by_cached_key(|id| Sha256::digest(format!("{seed}:{id}")).to_vec());
    people.into_iter().take(count).collect()
}
