//! Matrix products of bfloat16 by tiles, as Intel's AMX has them: 16 rows of factors by up to 48
//! columns of a panel, sums in f32.
//!
//! A tile is a register of 16 rows of 16 words. `TDPBF16PS` adds to one the products of two others:
//! factors `[row, step]` and a part of a panel, `[step, column]`, as panels lie anyway; 16 steps are
//! 32 numbers of a sum. Sums of a block stay in three tiles while its steps pass by, go through a
//! buffer in the first-level cache, and are finished by vectors on their way to the target.
//!
//! Every operand has whole tiles of steps, filled up with zeros. The order of a sum depends on its
//! length alone, so no bit of a result depends on batches, parts or threads. It is not the order of
//! [`super::block`], whose sums differ in their last bits.
//!
//! Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18, and
//! volume 2, `TDPBF16PS`.

#![allow(unsafe_code)]
// tile registers, and blocks of one output
// Where no machine has tiles, nothing of this is reached.
#![cfg_attr(not(target_arch = "x86_64"), allow(unused))]

mod direct;
#[cfg(test)]
mod emulated;
#[cfg(target_arch = "x86_64")]
mod hardware;
mod linear;
mod square;
mod weights;

pub use direct::Direct;
pub use linear::Linear;
pub use square::{FACTORS, SIDE};
pub use weights::{Blocks, Weights};

use super::block::{self, COLUMNS, Precision, Target, Unit};
use super::finish::{self, Bias, End};
use super::simd::{self, Level};

/// Rows of a block.
pub const ROWS: usize = 16;

/// Words of a row of a tile: steps of a sum that are taken at once, columns.
const WORDS: usize = 16;

/// Steps that a panel takes through its blocks at once: half of a first-level cache of 48 KiB, as panels
/// are read as fast as they are multiplied.
const STEPS: usize = 128;

/// Rows that are finished together: as many as registers hold of them.
const TOGETHER: usize = block::ROWS;

/// Where the tiles are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tiles {
    /// In the machine.
    #[cfg(target_arch = "x86_64")]
    Hardware,
    /// In memory, multiplied as the manual says: the same on every machine, and slow.
    #[cfg(test)]
    Emulated,
}

impl Tiles {
    /// The machine's, where it has them, may use them, and `unit` is for numbers that they hold.
    pub fn of(unit: Unit) -> Option<Self> {
        if unit.precision != Precision::Bf16 || unit.level != simd::level() || !simd::tiles() {
            return None;
        }
        #[cfg(target_arch = "x86_64")]
        return Some(Self::Hardware);
        #[cfg(not(target_arch = "x86_64"))]
        None
    }

    /// Words that `depth` numbers of a sum take: whole tiles.
    pub fn steps(self, depth: usize) -> usize {
        Precision::Bf16.steps(depth).next_multiple_of(WORDS)
    }

    /// Words from one row of `steps` words to the next, so that 16 rows one below the other lie in
    /// different sets of the caches.
    pub fn pitch(self, steps: usize) -> usize {
        ((steps / WORDS) | 1) * WORDS
    }

    /// Equal parts of whole tiles, each of at most [`STEPS`], that `steps` are taken in: their length.
    pub fn part_of(self, steps: usize) -> usize {
        let part = steps.div_ceil(steps.div_ceil(STEPS).max(1));
        part.max(1).next_multiple_of(WORDS)
    }

    /// Makes the tiles of this thread ready.
    pub fn session(self) -> Session {
        let registers = match self {
            #[cfg(target_arch = "x86_64")]
            Self::Hardware => Registers::Hardware(hardware::Tiles::new()),
            #[cfg(test)]
            Self::Emulated => Registers::Emulated(Box::default()),
        };
        Session {
            registers,
            level: simd::level(),
            sums: Box::new(Sums([[0.0; COLUMNS]; ROWS])),
        }
    }
}

/// Whether the machine has tiles of bfloat16 and the system lets this process use them; asks it for
/// that, so that the answer is to be kept.
pub fn permitted() -> bool {
    #[cfg(target_arch = "x86_64")]
    return hardware::permitted();
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// What is multiplied.
#[derive(Clone, Copy)]
pub struct Operands<'a> {
    /// `[steps, COLUMNS]`.
    pub panel: &'a [u32],
    /// The other side: tiles of [`ROWS`] rows.
    pub factors: Factors<'a>,
    /// Words of a sum, whole tiles.
    pub steps: usize,
}

/// The factors that a panel is multiplied by.
#[derive(Clone, Copy)]
pub enum Factors<'a> {
    /// `[steps / WORDS, ROWS, WORDS]`.
    Packed(&'a [u32]),
    /// [`ROWS`] rows as they lie, each `pitch` words after the one before.
    Rows {
        /// From the first row's first word on.
        words: &'a [u32],
        /// Words from one row to the next.
        pitch: usize,
    },
}

/// Eight tile registers of one thread: of 16 rows of 16 words, all of them.
trait Unit8 {
    /// Clears register `T`.
    fn zero<const T: usize>(&mut self);

    /// Fills register `T`.
    ///
    /// # Safety
    /// 16 rows of 16 words, `pitch` words apart, may be read.
    unsafe fn load<const T: usize>(&mut self, words: *const u32, pitch: usize);

    /// Adds to register `C` the products of registers `A` and `B`.
    fn multiply<const C: usize, const A: usize, const B: usize>(&mut self);

    /// Copies register `T` to memory.
    ///
    /// # Safety
    /// 16 rows of 16 words, `pitch` words apart, may be written.
    unsafe fn store<const T: usize>(&mut self, words: *mut u32, pitch: usize);
}

enum Registers {
    #[cfg(target_arch = "x86_64")]
    Hardware(hardware::Tiles),
    #[cfg(test)]
    Emulated(Box<emulated::Tiles>),
}

/// The sums of a block, in whole cache lines.
#[repr(align(64))]
struct Sums([[f32; COLUMNS]; ROWS]);

/// The tiles of a thread, from when they were made ready until they are given back. One at a time a
/// thread, around all blocks of a job: the system saves tiles only while there is something in them.
pub struct Session {
    registers: Registers,
    level: Level,
    sums: Box<Sums>,
}

impl Session {
    /// Sums of the products of a panel with 16 rows of factors, into `target`, at most that many
    /// rows, with `end` where these are the last steps.
    ///
    /// # Safety
    /// Rows and columns of `target` may be written by this thread alone, and hold numbers if sums
    /// go on; what `end` adds is as large.
    ///
    /// # Panics
    /// If an operand is too short or has parts of tiles, or the target is larger than a block.
    pub unsafe fn multiply(
        &mut self,
        operands: &Operands<'_>,
        target: Target,
        end: Option<&End<'_>>,
    ) {
        assert!(operands.steps.is_multiple_of(WORDS));
        assert!(operands.panel.len() >= operands.steps * COLUMNS);
        assert!(target.columns <= COLUMNS && target.rows <= ROWS);
        if target.columns == 0 || target.rows == 0 {
            return;
        }
        let factors = match operands.factors {
            Factors::Packed(words) => {
                assert!(words.len() >= operands.steps * ROWS);
                Places {
                    start: words.as_ptr(),
                    pitch: WORDS,
                    next: WORDS * ROWS,
                }
            }
            Factors::Rows { words, pitch } => {
                assert!(words.len() >= (ROWS - 1) * pitch + operands.steps);
                Places {
                    start: words.as_ptr(),
                    pitch,
                    next: WORDS,
                }
            }
        };
        let panel = Places {
            start: operands.panel.as_ptr(),
            pitch: COLUMNS,
            next: COLUMNS * WORDS,
        };
        #[cfg(target_arch = "x86_64")]
        target.prefetch_all();
        let buffer = Place {
            start: self.sums.0.as_mut_ptr().cast(),
            pitch: COLUMNS,
        };
        let whole = target.rows == ROWS && target.columns.is_multiple_of(WORDS);
        let there = Place {
            start: target.start.cast(),
            pitch: target.pitch,
        };
        let direct = if whole { there } else { buffer };
        let run = Run {
            factors,
            panel,
            tiles: operands.steps / WORDS,
            from: target.resumed.then_some(direct),
            to: if end.is_some() { buffer } else { direct },
        };
        // SAFETY: the operands hold all steps, as was just checked; the buffer has room for a whole
        // block, the target for one where it is used.
        unsafe {
            if target.resumed && !whole {
                target.load(&mut self.sums.0);
            }
            match self.registers {
                #[cfg(target_arch = "x86_64")]
                Registers::Hardware(ref mut tiles) => run.columns(tiles, target.columns),
                #[cfg(test)]
                Registers::Emulated(ref mut tiles) => run.columns(&mut **tiles, target.columns),
            }
            match end {
                Some(end) => {
                    let sums = self.sums.0.as_flattened();
                    finish_block(self.level, sums, COLUMNS, target, end);
                }
                None if !whole => target.store(&self.sums.0, None),
                None => {}
            }
        }
    }
}

/// Finishes the first rows and columns of `sums`, rows of `pitch` numbers, into `target`.
///
/// # Safety
/// As for [`Session::multiply`]; the target may have any number of columns.
unsafe fn finish_block(level: Level, sums: &[f32], pitch: usize, target: Target, end: &End<'_>) {
    for first in (0..target.rows).step_by(TOGETHER) {
        let rows = TOGETHER.min(target.rows - first);
        let bias = match end.bias {
            Bias::Rows(bias) => Bias::Rows(&bias[first..]),
            Bias::Columns(bias) => Bias::Columns(bias),
        };
        let place =
            |(added, pitch): (*const f32, usize)| (added.wrapping_add(first * pitch), pitch);
        let part = Target {
            start: target.start.wrapping_add(first * target.pitch),
            rows,
            ..target
        };
        let end = End {
            bias,
            added: end.added.map(place),
            ..*end
        };
        let sums = &sums[first * pitch..];
        // SAFETY: rows of the target, and of what is added.
        unsafe { finish_rows(level, sums, pitch, part, &end) };
    }
}

/// At most [`TOGETHER`] rows.
///
/// # Safety
/// As [`finish_block`].
unsafe fn finish_rows(level: Level, sums: &[f32], pitch: usize, target: Target, end: &End<'_>) {
    #[cfg(target_arch = "x86_64")]
    if level == Level::Avx512 {
        // SAFETY: the machine has the instructions; by this function's contract.
        return unsafe { avx512::finish_columns(sums, pitch, target, end) };
    }
    for row in 0..target.rows {
        let sums = &sums[row * pitch..][..target.columns];
        // SAFETY: a row of the target, and of what is added.
        unsafe { finish::row(target.start.add(row * target.pitch), sums, end, row) };
    }
}

/// Rows of a tile, and of those after it.
#[derive(Clone, Copy)]
struct Places {
    start: *const u32,
    /// Words from one row to the next.
    pitch: usize,
    /// Words from one tile to the next.
    next: usize,
}

/// Rows of sums.
#[derive(Clone, Copy)]
struct Place {
    start: *mut u32,
    /// Words from one row to the next.
    pitch: usize,
}

/// Operands of a block, and where its sums come from and go to.
struct Run {
    factors: Places,
    panel: Places,
    /// Tiles of factors.
    tiles: usize,
    from: Option<Place>,
    to: Place,
}

impl Run {
    /// # Safety
    /// Both operands hold `tiles` tiles, sums that come and go as many whole tiles as `columns`
    /// take.
    unsafe fn columns<U: Unit8>(&self, unit: &mut U, columns: usize) {
        // SAFETY: by this function's contract.
        unsafe {
            match columns.div_ceil(WORDS) {
                3 => self.run::<U, 3>(unit),
                2 => self.run::<U, 2>(unit),
                _ => self.run::<U, 1>(unit),
            }
        }
    }

    /// Registers 0 to 2 are sums, 3 to 5 columns of the panel, 6 factors.
    ///
    /// # Safety
    /// As [`Run::columns`].
    #[inline(always)]
    unsafe fn run<U: Unit8, const COUNT: usize>(&self, unit: &mut U) {
        // SAFETY: by this function's contract.
        unsafe {
            if let Some(Place { start, pitch }) = self.from {
                unit.load::<0>(start, pitch);
                if COUNT > 1 {
                    unit.load::<1>(start.add(WORDS), pitch);
                }
                if COUNT > 2 {
                    unit.load::<2>(start.add(2 * WORDS), pitch);
                }
            } else {
                unit.zero::<0>();
                unit.zero::<1>();
                unit.zero::<2>();
            }
            let (mut factors, mut panel) = (self.factors.start, self.panel.start);
            for _ in 0..self.tiles {
                unit.load::<6>(factors, self.factors.pitch);
                unit.load::<3>(panel, self.panel.pitch);
                unit.multiply::<0, 6, 3>();
                if COUNT > 1 {
                    unit.load::<4>(panel.add(WORDS), self.panel.pitch);
                    unit.multiply::<1, 6, 4>();
                }
                if COUNT > 2 {
                    unit.load::<5>(panel.add(2 * WORDS), self.panel.pitch);
                    unit.multiply::<2, 6, 5>();
                }
                factors = factors.wrapping_add(self.factors.next);
                panel = panel.wrapping_add(self.panel.next);
            }
            let Place { start, pitch } = self.to;
            unit.store::<0>(start, pitch);
            if COUNT > 1 {
                unit.store::<1>(start.add(WORDS), pitch);
            }
            if COUNT > 2 {
                unit.store::<2>(start.add(2 * WORDS), pitch);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::{_mm512_maskz_loadu_ps, _mm512_setzero_ps};

    use super::{COLUMNS, TOGETHER, WORDS};
    use crate::ops::cpu::block::{ROWS, Target};
    use crate::ops::cpu::finish::{self, Bias, End};

    /// Finishes up to [`TOGETHER`] rows, as many columns at once as registers hold.
    ///
    /// # Safety
    /// As for [`super::finish_block`]; the machine has the instructions.
    pub unsafe fn finish_columns(sums: &[f32], pitch: usize, target: Target, end: &End<'_>) {
        assert!(
            target.rows <= TOGETHER && sums.len() >= (target.rows - 1) * pitch + target.columns
        );
        for first in (0..target.columns).step_by(COLUMNS) {
            let part = Target {
                start: target.start.wrapping_add(first),
                columns: COLUMNS.min(target.columns - first),
                ..target
            };
            let end = End {
                bias: match end.bias {
                    Bias::Rows(bias) => Bias::Rows(bias),
                    Bias::Columns(bias) => Bias::Columns(&bias[first..]),
                },
                added: end
                    .added
                    .map(|(added, pitch)| (added.wrapping_add(first), pitch)),
                ..*end
            };
            let sums = sums[first..].as_ptr();
            // SAFETY: by this function's contract; sums reach far enough, as was asserted.
            unsafe {
                match part.columns.div_ceil(WORDS) {
                    3 => finish::<3>(sums, pitch, part, &end),
                    2 => finish::<2>(sums, pitch, part, &end),
                    _ => finish::<1>(sums, pitch, part, &end),
                }
            }
        }
    }

    /// Finishes the columns of `VECTORS` vectors of some rows.
    ///
    /// # Safety
    /// As for [`super::finish_block`]; the target has as many vectors of columns, and [`TOGETHER`] rows
    /// or fewer, and so have sums.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn finish<const VECTORS: usize>(
        numbers: *const f32,
        pitch: usize,
        target: Target,
        end: &End<'_>,
    ) {
        let mask = u16::MAX >> (VECTORS * WORDS - target.columns);
        let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS];
        for (row, sums) in sums.iter_mut().enumerate().take(target.rows) {
            for (vector, sum) in sums.iter_mut().enumerate() {
                let lanes = if vector + 1 == VECTORS {
                    mask
                } else {
                    u16::MAX
                };
                // SAFETY: what the mask leaves out is not read.
                *sum = unsafe {
                    let at = numbers.add(row * pitch + vector * WORDS);
                    _mm512_maskz_loadu_ps(lanes, at)
                };
            }
        }
        finish::store!(sums, Some(end), target, mask, VECTORS);
    }
}

#[cfg(test)]
mod tests;
