//! Everyone's looks, packed to be searched, kept from step to step and brought up to date where
//! they changed.
//!
//! It holds no more vectors than the people do, and says nothing that they do not: a gallery that
//! was read back from disk packs them anew.

use std::collections::BTreeMap;

use mtmc_models::Embedding;

use super::index_of;
use super::person::{Look, Person};
use super::search::ExactSearch;

/// Beyond this many more than half of the entries without an owner, all are packed anew.
const SLACK: usize = 4096;

/// Packed products and those of pairs differ by rounding; who is this much less alike than asked
/// for is found too.
const ROUNDING: f64 = 1e-5;

/// The owner of an entry that has none; keys of people begin at 1.
const NOBODY: u64 = 0;

/// Means and exemplars of all people.
#[derive(Debug, Clone, Default)]
pub struct PackedLooks {
    search: Option<ExactSearch>,
    /// The key of the person that each entry is of.
    owners: Vec<u64>,
    /// Entries of nobody.
    free: Vec<usize>,
    packed: BTreeMap<u64, Packed>,
}

/// What is packed of one person.
#[derive(Debug, Clone)]
struct Packed {
    /// Vectors that its look had taken in: with each one it changes.
    vectors: u64,
    entries: Vec<usize>,
}

impl PackedLooks {
    /// Takes over what changed since the last time; `people` are in order of their keys.
    pub fn update(&mut self, people: &[Person]) {
        self.forget(people);
        if self.packed.is_empty() || self.free.len() > self.owners.len() / 2 + SLACK {
            *self = Self::default();
        }
        for person in people {
            let Some(look) = &person.look else { continue };
            let packed = self.packed.get(&person.key);
            if packed.is_none_or(|packed| packed.vectors != look.vectors) {
                self.pack(person.key, look);
            }
        }
    }

    /// Frees the entries of people who are gone.
    fn forget(&mut self, people: &[Person]) {
        let (owners, free) = (&mut self.owners, &mut self.free);
        self.packed.retain(|key, packed| {
            let there = people
                .binary_search_by_key(key, |person| person.key)
                .is_ok();
            if !there {
                for &entry in &packed.entries {
                    owners[entry] = NOBODY;
                    free.push(entry);
                }
            }
            there
        });
    }

    /// Writes one person's vectors, where its old ones were as far as there are some.
    fn pack(&mut self, key: u64, look: &Look) {
        let dim = look.mean().dim();
        let search = self.search.get_or_insert_with(|| ExactSearch::new(dim));
        // Of another network: found by comparing pairs.
        if search.dim() != dim {
            return;
        }
        let mut old = self.packed.remove(&key).map(|packed| packed.entries);
        let mut entries = Vec::with_capacity(1 + look.exemplars().len());
        for vector in std::iter::once(look.mean()).chain(look.exemplars()) {
            let place = old.as_mut().and_then(Vec::pop).or_else(|| self.free.pop());
            let written = match place {
                Some(entry) => search.set(entry, vector).map(|()| entry),
                None => search.push(vector),
            };
            // An exemplar of another size than its mean: there is none.
            let Ok(entry) = written else { continue };
            if entry == self.owners.len() {
                self.owners.push(key);
            }
            self.owners[entry] = key;
            entries.push(entry);
        }
        for entry in old.unwrap_or_default() {
            self.owners[entry] = NOBODY;
            self.free.push(entry);
        }
        let vectors = look.vectors;
        self.packed.insert(key, Packed { vectors, entries });
    }

    /// For each vector the people, by index, whose similarity ([`Look::similarity`]) is above
    /// `threshold`, and perhaps some that miss it by rounding.
    pub fn alike(
        &self,
        people: &[Person],
        vectors: &[&Embedding],
        threshold: f64,
    ) -> Vec<Vec<usize>> {
        let mut all = vec![Vec::new(); vectors.len()];
        let dim = self.search.as_ref().map(ExactSearch::dim);
        let (packed, others): (Vec<usize>, Vec<usize>) =
            (0..vectors.len()).partition(|&index| Some(vectors[index].dim()) == dim);
        let queries: Vec<&Embedding> = packed.iter().map(|&index| vectors[index]).collect();
        let found = self.search.as_ref().and_then(|search| {
            search
                .at_least(&queries, (threshold - ROUNDING) as f32)
                .ok()
        });
        for (&index, hits) in packed.iter().zip(found.unwrap_or_default()) {
            let owners = hits.iter().map(|hit| self.owners[hit.index]);
            all[index].extend(owners.filter_map(|key| index_of(people, key)));
            all[index].sort_unstable();
            all[index].dedup();
        }
        for index in others {
            for (at, person) in people.iter().enumerate() {
                let alike = person
                    .look
                    .as_ref()
                    .and_then(|l| l.similarity(vectors[index]));
                if alike.is_some_and(|alike| alike > threshold) {
                    all[index].push(at);
                }
            }
        }
        all
    }
}
