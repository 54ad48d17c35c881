//! Register blocks for 64-bit ARM, whose 32 registers hold four numbers each.
//!
//! Sums are taken in the same order as by the other vector units, with fused multiply-add, so they
//! are the same to the last bit; what follows them is compiled from plain loops.

#![allow(unsafe_code)] // vector instructions

use std::arch::aarch64::{
    float32x4_t, vdupq_n_f32, vfmaq_laneq_f32, vld1q_dup_f32, vld1q_f32, vst1q_f32,
};

use super::block::{self, Block, COLUMNS, ROWS};
use super::direct;

/// Numbers of a register.
const LANES: usize = 4;

/// Registers of columns beside all rows, where factors are packed: 24 of sums, three of the panel,
/// two of factors.
const WIDE: usize = 3;

/// The same where factors are rows as they lie: 16 of sums, two of the panel, eight of factors.
const NARROW: usize = 2;

/// Channels of a direct convolution that all parts take before the next ones: they stay in the
/// first-level cache.
const TOGETHER: usize = 8;

/// The sums of some columns of all rows.
type Part<const VECTORS: usize> = [[float32x4_t; VECTORS]; ROWS];

/// The factors of a row are `STEP` words apart.
///
/// # Safety
/// The panel holds `steps` times [`COLUMNS`] words, every row all its factors; the target as
/// [`block::multiply`] wants it.
#[target_feature(enable = "neon")]
pub unsafe fn block<const STEP: usize>(run: &block::Run<'_>) {
    let target = run.target;
    let mut sums: Block = [[0.0; COLUMNS]; ROWS];
    if target.resumed {
        // SAFETY: by this function's contract.
        unsafe { target.load(&mut sums) };
    }
    let width = if STEP == ROWS { WIDE } else { NARROW };
    for column in (0..target.columns).step_by(width * LANES) {
        let vectors = (target.columns - column).div_ceil(LANES);
        // SAFETY: by this function's contract; a block has room for whole parts of all columns.
        unsafe {
            match (STEP, vectors) {
                (ROWS, 1) => packed::<1>(run, &mut sums, column),
                (ROWS, 2) => packed::<2>(run, &mut sums, column),
                (ROWS, _) => packed::<WIDE>(run, &mut sums, column),
                (_, 1) => in_rows::<1>(run, &mut sums, column),
                _ => in_rows::<NARROW>(run, &mut sums, column),
            }
        }
    }
    // SAFETY: by this function's contract.
    unsafe { target.store(&sums, run.end) };
}

/// The sums from `column` on.
///
/// # Safety
/// A block has room for that many vectors from there on.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load_part<const VECTORS: usize>(sums: &Block, column: usize) -> Part<VECTORS> {
    let mut part = [[vdupq_n_f32(0.0); VECTORS]; ROWS];
    for (part, sums) in part.iter_mut().zip(sums) {
        for (vector, sum) in part.iter_mut().enumerate() {
            // SAFETY: by this function's contract.
            *sum = unsafe { vld1q_f32(sums.as_ptr().add(column + vector * LANES)) };
        }
    }
    part
}

/// # Safety
/// As [`load_part`].
#[inline]
#[target_feature(enable = "neon")]
unsafe fn store_part<const VECTORS: usize>(sums: &mut Block, column: usize, part: &Part<VECTORS>) {
    for (part, sums) in part.iter().zip(sums) {
        for (vector, sum) in part.iter().enumerate() {
            // SAFETY: by this function's contract.
            unsafe { vst1q_f32(sums.as_mut_ptr().add(column + vector * LANES), *sum) };
        }
    }
}

/// # Safety
/// That many vectors may be read.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load<const VECTORS: usize>(values: *const f32) -> [float32x4_t; VECTORS] {
    let mut vectors = [vdupq_n_f32(0.0); VECTORS];
    for (vector, value) in vectors.iter_mut().enumerate() {
        // SAFETY: by this function's contract.
        *value = unsafe { vld1q_f32(values.add(vector * LANES)) };
    }
    vectors
}

/// Adds the products of values with number `LANE` of the factors.
#[inline]
#[target_feature(enable = "neon")]
fn add<const LANE: i32, const VECTORS: usize>(
    sums: &mut [float32x4_t; VECTORS],
    values: &[float32x4_t; VECTORS],
    factors: float32x4_t,
) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum = vfmaq_laneq_f32::<LANE>(*sum, *value, factors);
    }
}

/// One step of all rows: values times each of eight factors that follow each other.
///
/// # Safety
/// Factors and values may be read.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn add_step<const VECTORS: usize>(
    sums: &mut Part<VECTORS>,
    values: *const f32,
    factors: *const f32,
) {
    // SAFETY: by this function's contract.
    let (values, first, second) = unsafe {
        (
            load::<VECTORS>(values),
            vld1q_f32(factors),
            vld1q_f32(factors.add(LANES)),
        )
    };
    add::<0, VECTORS>(&mut sums[0], &values, first);
    add::<1, VECTORS>(&mut sums[1], &values, first);
    add::<2, VECTORS>(&mut sums[2], &values, first);
    add::<3, VECTORS>(&mut sums[3], &values, first);
    add::<0, VECTORS>(&mut sums[4], &values, second);
    add::<1, VECTORS>(&mut sums[5], &values, second);
    add::<2, VECTORS>(&mut sums[6], &values, second);
    add::<3, VECTORS>(&mut sums[7], &values, second);
}

/// # Safety
/// As [`block`].
#[target_feature(enable = "neon")]
unsafe fn packed<const VECTORS: usize>(run: &block::Run<'_>, sums: &mut Block, column: usize) {
    // SAFETY: by this function's contract.
    unsafe {
        let mut part = load_part::<VECTORS>(sums, column);
        let mut panel = run.panel.add(column).cast::<f32>();
        let mut factors = run.rows[0].cast::<f32>();
        for _ in 0..run.steps {
            add_step(&mut part, panel, factors);
            panel = panel.wrapping_add(COLUMNS);
            factors = factors.wrapping_add(ROWS);
        }
        store_part(sums, column, &part);
    }
}

/// Four steps of all rows at a time.
///
/// # Safety
/// As [`block`].
#[target_feature(enable = "neon")]
unsafe fn in_rows<const VECTORS: usize>(run: &block::Run<'_>, sums: &mut Block, column: usize) {
    // SAFETY: by this function's contract.
    unsafe {
        let mut part = load_part::<VECTORS>(sums, column);
        let panel = run.panel.add(column).cast::<f32>();
        let whole = run.steps - run.steps % LANES;
        for step in (0..whole).step_by(LANES) {
            let panel = panel.add(step * COLUMNS);
            let values = [
                load::<VECTORS>(panel),
                load::<VECTORS>(panel.add(COLUMNS)),
                load::<VECTORS>(panel.add(2 * COLUMNS)),
                load::<VECTORS>(panel.add(3 * COLUMNS)),
            ];
            for (sums, row) in part.iter_mut().zip(&run.rows) {
                let factors = vld1q_f32(row.add(step).cast());
                add::<0, VECTORS>(sums, &values[0], factors);
                add::<1, VECTORS>(sums, &values[1], factors);
                add::<2, VECTORS>(sums, &values[2], factors);
                add::<3, VECTORS>(sums, &values[3], factors);
            }
        }
        for step in whole..run.steps {
            let values = load::<VECTORS>(panel.add(step * COLUMNS));
            for (sums, row) in part.iter_mut().zip(&run.rows) {
                let factor = vld1q_dup_f32(row.add(step).cast());
                add::<0, VECTORS>(sums, &values, factor);
            }
        }
        store_part(sums, column, &part);
    }
}

/// A block of a direct convolution.
///
/// # Safety
/// The operands reach far enough, rows and columns of the target may be written.
#[target_feature(enable = "neon")]
pub unsafe fn direct(run: &direct::Run<'_>) {
    let mut sums: Block = [[0.0; COLUMNS]; ROWS];
    for start in (0..run.steps).step_by(TOGETHER) {
        let channels = start..(start + TOGETHER).min(run.steps);
        for column in (0..run.target.columns).step_by(WIDE * LANES) {
            let vectors = (run.target.columns - column).div_ceil(LANES);
            // SAFETY: by this function's contract; a block has room for whole parts.
            unsafe {
                match vectors {
                    1 => direct_part::<1>(run, &mut sums, channels.clone(), column),
                    2 => direct_part::<2>(run, &mut sums, channels.clone(), column),
                    _ => direct_part::<WIDE>(run, &mut sums, channels.clone(), column),
                }
            }
        }
    }
    // SAFETY: by this function's contract.
    unsafe { run.target.store(&sums, Some(run.end)) };
}

/// # Safety
/// As [`direct`].
#[target_feature(enable = "neon")]
unsafe fn direct_part<const VECTORS: usize>(
    run: &direct::Run<'_>,
    sums: &mut Block,
    channels: std::ops::Range<usize>,
    column: usize,
) {
    // SAFETY: by this function's contract.
    unsafe {
        let mut part = load_part::<VECTORS>(sums, column);
        let before = channels.start * run.offsets.len() * ROWS;
        let mut weight = run.weight.cast::<f32>().add(before);
        for channel in channels {
            let values = run
                .values
                .cast::<f32>()
                .add(channel * run.step_size + column);
            for offset in run.offsets {
                add_step(&mut part, values.add(*offset), weight);
                weight = weight.wrapping_add(ROWS);
            }
        }
        store_part(sums, column, &part);
    }
}
