//! Squares of sums in four tiles: up to 32 rows of factors by up to 32 columns, whose tiles lie where
//! offsets say.
//!
//! Four products of 16 cycles each take two tiles of factors and two of columns, which are loaded in 8
//! cycles each, in 16 where every row lies in two lines of the cache: 64 cycles of products to at most 48
//! of loads. Four sums also hide the 52 cycles that a product takes to arrive, as three do not.

#![allow(unsafe_code)] // operands by their places in memory

use super::{ROWS, Registers, Session, Unit8, WORDS};

/// Rows and columns of a square.
pub const SIDE: usize = 2 * WORDS;

/// Words of the factors of one step of a square: two tiles.
pub const FACTORS: usize = SIDE * WORDS;

/// Operands of a square, and its sums.
pub struct Square<'a> {
    /// `[offsets, SIDE, WORDS]`.
    pub factors: *const u32,
    /// What offsets count from: 16 rows of up to [`SIDE`] columns at each of them.
    pub columns: *const u32,
    /// Words from one of these rows to the next.
    pub pitch: usize,
    /// Where tiles of columns lie, in the order in which their products are added.
    pub offsets: &'a [usize],
    /// Sums, whole tiles.
    pub sums: *mut u32,
    /// Words from one row of sums to the next.
    pub sums_pitch: usize,
    /// Sums go on from what is there.
    pub resumed: bool,
}

impl Session {
    /// Adds the products of as many tiles of a square as `rows` and `columns` take, at least one.
    ///
    /// # Safety
    /// Whole tiles of all operands may be read, those of sums written by this thread alone.
    pub unsafe fn square(&mut self, square: &Square<'_>, rows: usize, columns: usize) {
        // SAFETY: by this function's contract.
        unsafe {
            match self.registers {
                #[cfg(target_arch = "x86_64")]
                Registers::Hardware(ref mut tiles) => square.part(tiles, rows, columns),
                #[cfg(test)]
                Registers::Emulated(ref mut tiles) => square.part(&mut **tiles, rows, columns),
            }
        }
    }

    /// A square's sums alone, which nobody reads: what tiles can do, for comparisons. `factors` and
    /// `columns`: `[steps, SIDE, WORDS]` and `[steps, WORDS, SIDE]`, step `index` of the columns at
    /// `offsets[index]`.
    ///
    /// # Panics
    /// If an operand is too short.
    pub fn square_alone(&mut self, factors: &[u32], columns: &[u32], offsets: &[usize]) {
        let mut sums = [[0_u32; SIDE]; SIDE];
        assert!(factors.len() >= offsets.len() * FACTORS);
        let last = offsets.iter().max().copied().unwrap_or(0);
        assert!(columns.len() >= last + WORDS * SIDE);
        let square = Square {
            factors: factors.as_ptr(),
            columns: columns.as_ptr(),
            pitch: SIDE,
            offsets,
            sums: sums.as_mut_ptr().cast(),
            sums_pitch: SIDE,
            resumed: false,
        };
        // SAFETY: operands reach far enough, as was asserted.
        unsafe { self.square(&square, SIDE, SIDE) };
        std::hint::black_box(&sums);
    }
}

impl Square<'_> {
    /// # Safety
    /// As [`Session::square`].
    unsafe fn part<U: Unit8>(&self, unit: &mut U, rows: usize, columns: usize) {
        // SAFETY: by this function's contract.
        unsafe {
            match (rows > ROWS, columns > WORDS) {
                (true, true) => self.run::<U, true, true>(unit),
                (true, false) => self.run::<U, true, false>(unit),
                (false, true) => self.run::<U, false, true>(unit),
                (false, false) => self.run::<U, false, false>(unit),
            }
        }
    }

    /// Where two rows or columns of tiles are wanted: registers 0 to 3 are sums, 4 and 5 factors, 6
    /// and 7 columns.
    ///
    /// # Safety
    /// As [`Session::square`].
    #[inline(always)]
    unsafe fn run<U: Unit8, const HIGH: bool, const WIDE: bool>(&self, unit: &mut U) {
        let below = self.sums.wrapping_add(ROWS * self.sums_pitch);
        // SAFETY: by this function's contract.
        unsafe {
            if self.resumed {
                unit.load::<0>(self.sums, self.sums_pitch);
                if WIDE {
                    unit.load::<1>(self.sums.add(WORDS), self.sums_pitch);
                }
                if HIGH {
                    unit.load::<2>(below, self.sums_pitch);
                }
                if HIGH && WIDE {
                    unit.load::<3>(below.add(WORDS), self.sums_pitch);
                }
            } else {
                unit.zero::<0>();
                unit.zero::<1>();
                unit.zero::<2>();
                unit.zero::<3>();
            }
            let mut factors = self.factors;
            for offset in self.offsets {
                let columns = self.columns.add(*offset);
                unit.load::<4>(factors, WORDS);
                unit.load::<6>(columns, self.pitch);
                unit.multiply::<0, 4, 6>();
                if WIDE {
                    unit.load::<7>(columns.add(WORDS), self.pitch);
                    unit.multiply::<1, 4, 7>();
                }
                if HIGH {
                    unit.load::<5>(factors.add(ROWS * WORDS), WORDS);
                    unit.multiply::<2, 5, 6>();
                }
                if HIGH && WIDE {
                    unit.multiply::<3, 5, 7>();
                }
                factors = factors.wrapping_add(FACTORS);
            }
            unit.store::<0>(self.sums, self.sums_pitch);
            if WIDE {
                unit.store::<1>(self.sums.add(WORDS), self.sums_pitch);
            }
            if HIGH {
                unit.store::<2>(below, self.sums_pitch);
            }
            if HIGH && WIDE {
                unit.store::<3>(below.add(WORDS), self.sums_pitch);
            }
        }
    }
}
