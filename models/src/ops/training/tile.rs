//! Tiles of matrix products: eight rows of factors by up to 48 columns of a panel, in AVX-512
//! registers. Factors are read where they lie, so that neither weights nor padded images have to be
//! rearranged for them.

#![allow(unsafe_code)] // vector instructions

pub(super) use crate::ops::cpu::block::{COLUMNS, ROWS};
use crate::ops::cpu::simd::{self, Level};
#[cfg(target_arch = "x86_64")]
use crate::ops::cpu::square;

/// Numbers of a vector.
pub(super) const LANES: usize = 16;

/// Whether the machine has the registers.
pub(super) fn available() -> bool {
    simd::level() == Level::Avx512
}

/// Where the factors of a tile's rows lie.
#[derive(Clone, Copy)]
pub(super) enum Factors<'a> {
    /// `[steps, ROWS]`.
    Packed(&'a [f32]),
    /// Each row of its own. A row's factors lie in `runs` runs of `length` neighbours, `jump`
    /// numbers from one run's start to the next one's.
    Rows {
        numbers: &'a [f32],
        /// Where each row begins; rows that are not wanted repeat another one.
        starts: [usize; ROWS],
        runs: usize,
        length: usize,
        jump: usize,
    },
}

/// What becomes of a tile's sums.
#[derive(Clone, Copy)]
pub(super) struct Target {
    /// The first row's first number.
    pub start: *mut f32,
    /// Numbers from one row to the next.
    pub pitch: usize,
    /// How many rows and columns are written.
    pub rows: usize,
    pub columns: usize,
    /// Whether they are added to what is there.
    pub add: bool,
}

/// Multiplies a panel, `[steps, COLUMNS]`, by rows of factors. Every sum goes from the first step
/// to the last, whatever is computed beside it.
///
/// # Safety
/// `target` is room for its rows and columns, which nobody else uses meanwhile.
///
/// # Panics
/// If an operand is too short, or the machine has no such registers (checked where it is cheap).
pub(super) unsafe fn multiply(panel: &[f32], steps: usize, factors: Factors<'_>, target: Target) {
    assert!(panel.len() >= steps * COLUMNS);
    assert!((1..=COLUMNS).contains(&target.columns) && target.rows <= ROWS);
    let run = match factors {
        Factors::Packed(numbers) => {
            assert!(numbers.len() >= steps * ROWS);
            Run {
                panel: panel.as_ptr(),
                rows: [numbers.as_ptr(); ROWS],
                runs: 1,
                length: steps,
                jump: 0,
            }
        }
        Factors::Rows {
            numbers,
            starts,
            runs,
            length,
            jump,
        } => {
            let reach = runs.max(1) * jump - jump + length;
            let farthest = starts.iter().max().copied().unwrap_or(0);
            assert!(runs * length == steps && farthest + reach <= numbers.len());
            Run {
                panel: panel.as_ptr(),
                // SAFETY: all starts are within the numbers, as was just asserted.
                rows: starts.map(|start| unsafe { numbers.as_ptr().add(start) }),
                runs,
                length,
                jump,
            }
        }
    };
    let packed = matches!(factors, Factors::Packed(_));
    #[cfg(target_arch = "x86_64")]
    // SAFETY: `available` was asked before anything was packed for tiles; the operands reach as
    // far as asserted, the target as promised.
    unsafe {
        match (target.columns.div_ceil(LANES), packed) {
            (3, true) => x86::tile::<3, true>(&run, target),
            (2, true) => x86::tile::<2, true>(&run, target),
            (_, true) => x86::tile::<1, true>(&run, target),
            (3, false) => x86::tile::<3, false>(&run, target),
            (2, false) => x86::tile::<2, false>(&run, target),
            (_, false) => x86::tile::<1, false>(&run, target),
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    unreachable!(
        "no tiles on this machine: {packed} {:?} {:?} {} {} {} {:?} {} {}",
        run.panel, run.rows, run.runs, run.length, run.jump, target.start, target.pitch, target.add
    );
}

/// Operands of a tile.
struct Run {
    panel: *const f32,
    rows: [*const f32; ROWS],
    runs: usize,
    length: usize,
    jump: usize,
}

/// Writes `[cells, COLUMNS]` from `[rows, pitch]`: what lies in columns `first..first + cells` of the
/// first [`COLUMNS`] rows, or of as many as there are, side by side.
///
/// # Panics
/// If `panel` or `rows` is too short, or there are no rows.
pub(super) fn transpose(
    panel: &mut [f32],
    rows: &[f32],
    (count, pitch): (usize, usize),
    first: usize,
    cells: usize,
) {
    let count = count.min(COLUMNS);
    assert!(count > 0 && panel.len() >= cells * COLUMNS);
    assert!(rows.len() >= (count - 1) * pitch + first + cells);
    let blocks = if cfg!(target_arch = "x86_64") {
        cells / LANES
    } else {
        0
    };
    #[cfg(target_arch = "x86_64")]
    {
        for block in 0..blocks {
            for group in 0..COLUMNS / LANES {
                let from = group * LANES;
                let Some(here) = count.checked_sub(from).filter(|here| *here > 0) else {
                    break;
                };
                // SAFETY: as `multiply`; rows and panel reach as far as asserted.
                unsafe {
                    let source = rows.as_ptr().add(from * pitch + first + block * LANES);
                    let target = panel.as_mut_ptr().add(block * LANES * COLUMNS + from);
                    square::x86::transpose(source, pitch, here.min(LANES), target, COLUMNS);
                }
            }
        }
    }
    for cell in blocks * LANES..cells {
        for row in 0..count {
            panel[cell * COLUMNS + row] = rows[row * pitch + first + cell];
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m512, _MM_HINT_T0, _mm_prefetch, _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
        _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps,
    };

    use super::{COLUMNS, LANES, ROWS, Run, Target};

    /// # Safety
    /// The panel holds all steps, every row all its factors, the target all sums.
    #[target_feature(enable = "avx512f")]
    #[allow(clippy::needless_range_loop)]
    pub unsafe fn tile<const VECTORS: usize, const PACKED: bool>(run: &Run, target: Target) {
        let last = u16::MAX >> (VECTORS * LANES - target.columns);
        if target.add {
            for row in 0..target.rows {
                for vector in 0..VECTORS {
                    // SAFETY: within the target.
                    unsafe {
                        let at = target.start.add(row * target.pitch + vector * LANES);
                        _mm_prefetch::<_MM_HINT_T0>(at.cast());
                    }
                }
            }
        }
        let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS];
        let mut panel = run.panel;
        let rows = run.rows;
        for part in 0..run.runs {
            let first = part * run.jump;
            for at in first..first + run.length {
                // SAFETY: by this function's contract; loads need no alignment.
                unsafe {
                    let values: [__m512; VECTORS] =
                        std::array::from_fn(|vector| _mm512_loadu_ps(panel.add(vector * LANES)));
                    panel = panel.add(COLUMNS);
                    for row in 0..ROWS {
                        // Packed factors are neighbours of the first row's.
                        let factor = if PACKED {
                            rows[0].add(at * ROWS + row)
                        } else {
                            rows[row].add(at)
                        };
                        let factor = _mm512_set1_ps(*factor);
                        for vector in 0..VECTORS {
                            let sum = &mut sums[row][vector];
                            *sum = _mm512_fmadd_ps(values[vector], factor, *sum);
                        }
                    }
                }
            }
        }
        // By index: an iterator over the sums would put them into memory, all the time.
        for row in 0..ROWS {
            if row >= target.rows {
                continue;
            }
            for vector in 0..VECTORS {
                let mask = if vector + 1 == VECTORS {
                    last
                } else {
                    u16::MAX
                };
                // SAFETY: the mask leaves out what is beyond the target.
                unsafe {
                    let at = target.start.add(row * target.pitch + vector * LANES);
                    let mut sum = sums[row][vector];
                    if target.add {
                        sum = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, at), sum);
                    }
                    _mm512_mask_storeu_ps(at, mask, sum);
                }
            }
        }
    }
}
