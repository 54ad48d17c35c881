//! Register blocks of matrix products: eight rows of factors by up to 48 columns, in f32 or in
//! bfloat16 with f32 sums. Sums stay in registers while both operands pass by.
//!
//! Every sum is taken in one order, from the first step to the last, whatever is computed beside
//! it: no bit of a result depends on batches, tiles or threads.

#![allow(unsafe_code)] // vector instructions

/// Rows of a block: output channels of a convolution, rows of a linear layer.
pub const ROWS: usize = 8;

/// Columns of a panel: three AVX-512 vectors.
pub const COLUMNS: usize = 48;

const LANES: usize = 16;

/// The sums of a block.
pub type Block = [[f32; COLUMNS]; ROWS];

/// Numbers that products are taken of on the CPU; sums are f32 in either case.
///
/// A word of an operand is 32 bits: one number, or those of two neighbouring steps, the first in
/// the lower half.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// One f32 a word.
    #[default]
    F32,
    /// Two bfloat16 a word.
    Bf16,
}

impl Precision {
    /// Precision that `depth` numbers of a sum take.
    pub fn steps(self, depth: usize) -> usize {
        match self {
            Self::F32 => depth,
            Self::Bf16 => depth.div_ceil(2),
        }
    }

    /// Whether the machine has the registers, and the instructions, for blocks of these.
    pub fn available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            let vectors = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq");
            match self {
                Self::F32 => vectors,
                Self::Bf16 => vectors && is_x86_feature_detected!("avx512bf16"),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            false
        }
    }
}

/// The factors that a panel is multiplied by.
#[derive(Clone, Copy)]
pub enum Factors<'a> {
    /// `[steps, ROWS]`: packed.
    Packed(&'a [u32]),
    /// Rows as they lie, each `pitch` words after the one before; those beyond the last are left
    /// out by giving the last one again.
    Rows {
        /// From the first row's first word on.
        words: &'a [u32],
        /// Precision from one row to the next.
        pitch: usize,
        /// How many rows there are, at least one; at most [`ROWS`] are used.
        count: usize,
    },
}

/// Sums of the products of a panel, `[steps, COLUMNS]`, with rows of factors: the first `columns`
/// of each row of `output`, or a few more.
///
/// # Panics
/// If an operand is too short, `columns` is more than a panel has, or the machine has no such
/// blocks.
pub fn multiply(
    words: Precision,
    output: &mut Block,
    panel: &[u32],
    factors: Factors<'_>,
    steps: usize,
    columns: usize,
) {
    assert!(panel.len() >= steps * COLUMNS && columns <= COLUMNS);
    let (rows, step) = match factors {
        Factors::Packed(factors) => {
            assert!(factors.len() >= steps * ROWS);
            (
                std::array::from_fn(|row| factors[row.min(factors.len())..].as_ptr()),
                ROWS,
            )
        }
        Factors::Rows {
            words,
            pitch,
            count,
        } => {
            let last = count - 1;
            assert!(words.len() >= last.min(ROWS - 1) * pitch + steps);
            let row = |row: usize| words[row.min(last) * pitch..].as_ptr();
            (std::array::from_fn(row), 1)
        }
    };
    #[cfg(target_arch = "x86_64")]
    {
        let run = Run {
            panel: panel.as_ptr(),
            rows,
            step,
            steps,
        };
        let vectors = columns.div_ceil(LANES);
        // SAFETY: whoever has packed words for blocks has asked whether the machine can multiply
        // them; the operands hold all steps, as was just checked.
        unsafe {
            match (words, vectors, step) {
                (Precision::F32, 3, ROWS) => x86::f32_block::<3, ROWS>(output, &run),
                (Precision::F32, 2, ROWS) => x86::f32_block::<2, ROWS>(output, &run),
                (Precision::F32, _, ROWS) => x86::f32_block::<1, ROWS>(output, &run),
                (Precision::F32, 3, _) => x86::f32_block::<3, 1>(output, &run),
                (Precision::F32, 2, _) => x86::f32_block::<2, 1>(output, &run),
                (Precision::F32, ..) => x86::f32_block::<1, 1>(output, &run),
                (Precision::Bf16, 3, ROWS) => x86::bf16_block::<3, ROWS>(output, &run),
                (Precision::Bf16, 2, ROWS) => x86::bf16_block::<2, ROWS>(output, &run),
                (Precision::Bf16, _, ROWS) => x86::bf16_block::<1, ROWS>(output, &run),
                (Precision::Bf16, 3, _) => x86::bf16_block::<3, 1>(output, &run),
                (Precision::Bf16, 2, _) => x86::bf16_block::<2, 1>(output, &run),
                (Precision::Bf16, ..) => x86::bf16_block::<1, 1>(output, &run),
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    unreachable!("there are no blocks for this machine: {words:?} {output:?} {rows:?} {step}");
}

/// The bits of numbers.
pub fn bits(numbers: &[f32]) -> &[u32] {
    // SAFETY: both have the same size and alignment, and every pattern is a valid u32.
    unsafe { std::slice::from_raw_parts(numbers.as_ptr().cast(), numbers.len()) }
}

/// Operands of one block.
#[cfg(target_arch = "x86_64")]
struct Run {
    panel: *const u32,
    rows: [*const u32; ROWS],
    step: usize,
    steps: usize,
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m512, __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
        _mm512_set1_epi32, _mm512_setzero_ps, _mm512_storeu_ps,
    };

    use std::mem::transmute;

    use super::{Block, COLUMNS, LANES, ROWS, Run};

    /// One function for each kind of words: `$add` multiplies and adds.
    macro_rules! block {
        ($name:ident, $features:literal, $add:path) => {
            /// `VECTORS` vectors of columns; the factors of a row are `STEP` words apart.
            ///
            /// # Safety
            /// The panel holds `steps` times [`COLUMNS`] words, every row all its factors.
            #[target_feature(enable = $features)]
            pub unsafe fn $name<const VECTORS: usize, const STEP: usize>(
                output: &mut Block,
                run: &Run,
            ) {
                debug_assert_eq!(run.step, STEP);
                let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS];
                let mut panel = run.panel;
                let rows = run.rows;
                for at in 0..run.steps {
                    // SAFETY: by this function's contract; loads need no alignment.
                    unsafe {
                        let values: [__m512; VECTORS] = std::array::from_fn(|vector| {
                            _mm512_loadu_ps(panel.add(vector * LANES).cast())
                        });
                        panel = panel.add(COLUMNS);
                        for row in 0..ROWS {
                            // Packed factors are neighbours of the first row's.
                            let factor = if STEP == ROWS {
                                rows[0].add(at * ROWS + row)
                            } else {
                                rows[row].add(at)
                            };
                            let factor = _mm512_set1_epi32((*factor).cast_signed());
                            for vector in 0..VECTORS {
                                let sum = &mut sums[row][vector];
                                *sum = $add(*sum, values[vector], factor);
                            }
                        }
                    }
                }
                for (output, sums) in output.iter_mut().zip(&sums) {
                    for (output, sum) in output.chunks_exact_mut(LANES).zip(sums) {
                        // SAFETY: the chunk holds LANES numbers, stores need no alignment.
                        unsafe { _mm512_storeu_ps(output.as_mut_ptr(), *sum) };
                    }
                }
            }
        };
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn add_f32(sum: __m512, values: __m512, factor: __m512i) -> __m512 {
        let factor = std::arch::x86_64::_mm512_castsi512_ps(factor);
        _mm512_fmadd_ps(values, factor, sum)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn add_bf16(sum: __m512, values: __m512, factor: __m512i) -> __m512 {
        // SAFETY: 64 bytes each, for which every pattern is valid.
        let (values, factor) = unsafe {
            (
                transmute::<__m512, __m512bh>(values),
                transmute::<__m512i, __m512bh>(factor),
            )
        };
        _mm512_dpbf16_ps(sum, values, factor)
    }

    block!(f32_block, "avx512f", add_f32);
    block!(bf16_block, "avx512f,avx512bf16", add_bf16);
}
