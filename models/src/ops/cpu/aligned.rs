//! Room whose vectors lie each in one line of the cache.

#![allow(unsafe_code)] // lines seen as their words

use std::ops::{Deref, DerefMut};

use super::block::{numbers, numbers_mut};

/// Words of a line.
const WORDS: usize = 16;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u32; WORDS]);

/// Words that begin where a line of the cache does; a vector load of AVX-512 from a multiple of
/// sixteen words touches one line, not two.
#[derive(Default)]
pub struct Aligned(Vec<Line>);

impl Aligned {
    /// At least so many zeros.
    pub fn new(words: usize) -> Self {
        Self(vec![Line([0; WORDS]); words.div_ceil(WORDS)])
    }

    /// Makes it at least so long.
    pub fn grow(&mut self, words: usize) {
        let lines = words.div_ceil(WORDS);
        if self.0.len() < lines {
            self.0.resize(lines, Line([0; WORDS]));
        }
    }

    /// A copy of `numbers`.
    pub fn of(numbers: &[f32]) -> Self {
        let mut aligned = Self::default();
        aligned.room(numbers.len()).copy_from_slice(numbers);
        aligned
    }

    /// Room for `count` numbers; what is in it is what it held before, or zeros.
    pub fn room(&mut self, count: usize) -> &mut [f32] {
        self.grow(count);
        &mut self.numbers_mut()[..count]
    }

    /// The words as numbers.
    pub fn numbers(&self) -> &[f32] {
        numbers(self)
    }

    /// The same to write.
    pub fn numbers_mut(&mut self) -> &mut [f32] {
        numbers_mut(self)
    }
}

impl Deref for Aligned {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        // SAFETY: a line is its words, without a gap.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * WORDS) }
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [u32] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len() * WORDS) }
    }
}
