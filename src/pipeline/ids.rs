//! Which track IDs a camera gave.

use serde::{Deserialize, Serialize};

/// A set of track IDs: one bit each, since IDs count up from 1.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct IdSet {
    words: Vec<u64>,
    count: u64,
}

impl IdSet {
    pub(super) fn insert(&mut self, id: u64) {
        let word = (id / 64) as usize;
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let bit = 1 << (id % 64);
        self.count += u64::from(self.words[word] & bit == 0);
        self.words[word] |= bit;
    }

    pub(super) fn len(&self) -> u64 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_id_counts_once() {
        let mut ids = IdSet::default();
        for id in [1, 63, 64, 1, 200, 64] {
            ids.insert(id);
        }
        assert_eq!(ids.len(), 4);
    }
}
