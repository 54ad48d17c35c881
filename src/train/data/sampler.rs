//! Which images come together in the batches of an epoch.

use mtmc_tools::dataset::DataError;

use super::TrainSet;
use crate::random::SplitMix64;

/// Keeps a sampler's chance apart from that of augmentation under the same seed.
const STREAM: u64 = 0x5A3D_17E0_91B4_C2F8;

/// Batches of P people with K images each (Hermans, Beyer and Leibe, "In Defense of the Triplet
/// Loss", 2017), by the rules of reid-strong-baseline's sampler: every person's images are shuffled
/// and cut into groups of K, what is left over waits for another epoch, and whoever has fewer than K
/// images is drawn with repetition; each batch takes one group of P people drawn by lot, until
/// fewer than P have one left.
#[derive(Debug, Clone)]
pub struct PkSampler {
    /// Indices of every person's images.
    by_person: Vec<Vec<usize>>,
    people: usize,
    images: usize,
    seed: u64,
}

impl PkSampler {
    /// Batches of `people` × `images`.
    ///
    /// # Errors
    /// One of them is 0, or the set has fewer people.
    pub fn new(set: &TrainSet, people: usize, images: usize, seed: u64) -> Result<Self, DataError> {
        let labels: Vec<u32> = set.samples().iter().map(|sample| sample.label).collect();
        Self::of_labels(&labels, people, images, seed)
    }

    /// The same for images whose people are `labels`.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn of_labels(
        labels: &[u32],
        people: usize,
        images: usize,
        seed: u64,
    ) -> Result<Self, DataError> {
        let count = labels.iter().max().map_or(0, |last| *last as usize + 1);
        let mut by_person = vec![Vec::new(); count];
        for (index, label) in labels.iter().enumerate() {
            by_person[*label as usize].push(index);
        }
        by_person.retain(|own: &Vec<usize>| !own.is_empty());
        if people == 0 || images == 0 {
            let reason = format!("a batch of {people} people with {images} images each is empty");
            return Err(DataError::Setting(reason));
        }
        if by_person.len() < people {
            return Err(DataError::Setting(format!(
                "a batch of {people} people cannot be drawn: the training set has {}",
                by_person.len()
            )));
        }
        Ok(Self {
            by_person,
            people,
            images,
            seed,
        })
    }

    /// Images a batch.
    pub fn batch_size(&self) -> usize {
        self.people * self.images
    }

    /// Indices into the set's samples, a batch after the other; images of a person are neighbours.
    /// The number of batches may differ by a few between epochs.
    pub fn epoch(&self, epoch: u64) -> Vec<Vec<usize>> {
        let mut random = SplitMix64::new(self.seed ^ STREAM, epoch);
        let mut groups: Vec<Vec<Vec<usize>>> = Vec::with_capacity(self.by_person.len());
        for own in &self.by_person {
            groups.push(self.groups_of(own, &mut random));
        }
        let mut available: Vec<usize> = (0..groups.len()).collect();
        let mut batches = Vec::new();
        while available.len() >= self.people {
            let mut batch = Vec::with_capacity(self.batch_size());
            // The first steps of a shuffle put a draw without repetition in front.
            for place in 0..self.people {
                let other = place + random.below(available.len() - place);
                available.swap(place, other);
                batch.extend(groups[available[place]].pop().unwrap_or_default());
            }
            available.retain(|person| !groups[*person].is_empty());
            batches.push(batch);
        }
        batches
    }

    fn groups_of(&self, own: &[usize], random: &mut SplitMix64) -> Vec<Vec<usize>> {
        let mut images = own.to_vec();
        if images.len() < self.images {
            let drawn = (0..self.images).map(|_| own[random.below(own.len())]);
            images = drawn.collect();
        }
        shuffle(&mut images, random);
        let groups = images.chunks_exact(self.images);
        groups.map(<[usize]>::to_vec).collect()
    }
}

/// All of `count` images in an order that (`seed`, `epoch`) decides, `batch` at a time; the last may
/// be smaller.
pub fn shuffled(count: usize, batch: usize, seed: u64, epoch: u64) -> Vec<Vec<usize>> {
    let mut random = SplitMix64::new(seed ^ STREAM, epoch);
    let mut order: Vec<usize> = (0..count).collect();
    shuffle(&mut order, &mut random);
    order.chunks(batch.max(1)).map(<[usize]>::to_vec).collect()
}

/// Fisher and Yates' shuffle.
fn shuffle(items: &mut [usize], random: &mut SplitMix64) {
    for last in (1..items.len()).rev() {
        items.swap(last, random.below(last + 1));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        // What the rules promise, of any data set.
        #[test]
        fn batches_are_people_times_images(
            sizes in prop::collection::vec(1_usize..12, 1..20),
            people in 1_usize..6,
            images in 1_usize..5,
            seed in any::<u64>(),
        ) {
            let labels: Vec<u32> = (0_u32..).zip(&sizes)
                .flat_map(|(label, size)| std::iter::repeat_n(label, *size)).collect();
            let sampler = PkSampler::of_labels(&labels, people, images, seed);
            prop_assume!(sizes.len() >= people);
            let sampler = sampler.unwrap();
            let batches = sampler.epoch(3);
            prop_assert_eq!(&batches, &sampler.epoch(3));
            let mut used: BTreeMap<usize, usize> = BTreeMap::new();
            for batch in &batches {
                prop_assert_eq!(batch.len(), people * images);
                let mut seen = BTreeSet::new();
                for group in batch.chunks(images) {
                    let own: BTreeSet<u32> = group.iter().map(|index| labels[*index]).collect();
                    prop_assert_eq!(own.len(), 1, "a group shows one person");
                    prop_assert!(seen.insert(own), "a person comes once in a batch");
                }
                for index in batch {
                    *used.entry(*index).or_default() += 1;
                }
            }
            for (index, count) in used {
                let enough = sizes[labels[index] as usize] >= images;
                prop_assert!(count == 1 || !enough, "image {} came {} times", index, count);
            }
            // Fewer people than a batch needs have groups left.
            let groups: usize = sizes.iter().map(|size| (size / images).max(1)).sum();
            let largest = sizes.iter().map(|size| (size / images).max(1)).max().unwrap();
            prop_assert!(groups - batches.len() * people <= (people - 1) * largest);
        }
    }

    #[test]
    fn epochs_and_seeds_differ() {
        let labels: Vec<u32> = (0..40).map(|index| index / 4).collect();
        let sampler = PkSampler::of_labels(&labels, 4, 2, 1).unwrap();
        assert_ne!(sampler.epoch(0), sampler.epoch(1));
        let other = PkSampler::of_labels(&labels, 4, 2, 2).unwrap();
        assert_ne!(sampler.epoch(0), other.epoch(0));
        assert!(PkSampler::of_labels(&labels, 11, 2, 1).is_err());
        assert!(PkSampler::of_labels(&labels, 0, 2, 1).is_err());
    }

    #[test]
    fn shuffled_batches_hold_every_image_once() {
        let batches = shuffled(11, 4, 7, 0);
        let sizes: Vec<usize> = batches.iter().map(Vec::len).collect();
        assert_eq!(sizes, [4, 4, 3]);
        let all: BTreeSet<usize> = batches.iter().flatten().copied().collect();
        assert_eq!(all.len(), 11);
        assert_ne!(batches, shuffled(11, 4, 7, 1));
        assert_eq!(shuffled(3, 8, 7, 0)[0].len(), 3);
        assert!(shuffled(0, 8, 7, 0).is_empty());
    }
}
