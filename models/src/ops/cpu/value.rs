//! Deformable attention with its value projection, the other way round: samples of the features are
//! mixed first and projected afterwards.
//!
//! Both are linear, so a head's part of the projection may wait: `Σ w (V x + b) = V Σ w x + b Σ w`.
//! What was a linear layer over every cell, some thousand rows, becomes one over the queries, and
//! the values are never written; in turn a head mixes all features, not its own share of them.
//!
//! The features of cells are read some ten times each, from the last cache: in bfloat16 in half the time.

#![allow(unsafe_code)] // blocks of one output

use std::cell::RefCell;

use half::bf16;
use rayon::prelude::*;

use super::ahead::Ahead;
use super::aligned::Aligned;
use super::block::{COLUMNS, Precision, ROWS, Target, Unit, numbers_mut};
use super::conv::Shared;
use super::deformable::{Corner, Samples, mix, mix_halves};
use super::{linear, words};

/// Queries that one thread takes at a time: their mixes stay in the second-level cache.
const QUERIES: usize = 2 * ROWS;

/// The weights of a value projection, each head's by itself.
pub struct Projection {
    unit: Unit,
    input: usize,
    heads: usize,
    /// Numbers of a head.
    size: usize,
    /// `[heads, size / COLUMNS, steps, COLUMNS]`; a head's bias is in the last steps, see [`tail`].
    weight: Aligned,
}

/// The features of cells, `[batch, cells, input]`.
#[derive(Clone, Copy)]
pub enum Cells<'a> {
    /// For a projection in f32.
    Numbers(&'a [f32]),
    /// For one in bfloat16.
    Halves(&'a [bf16]),
}

/// What follows a head's weights of the features: its bias, to be multiplied with what the factors of a mix add
/// up to. In bfloat16 both are sums of two numbers, lest the bias be rounded: their product but for that
/// of the smaller ones.
fn tail(precision: Precision, bias: f32) -> Vec<f32> {
    match precision {
        Precision::F32 => vec![bias],
        Precision::Bf16 => vec![bias, bias, less(bias)],
    }
}

/// What is left of a number beyond its bfloat16.
fn less(x: f32) -> f32 {
    x - bf16::from_f32(x).to_f32()
}

/// What a thread keeps.
#[derive(Default)]
struct Room {
    mixes: Aligned, // [heads, QUERIES, pitch]
    corners: Vec<Corner>,
}

thread_local! {
    static ROOM: RefCell<Room> = RefCell::default();
}

impl Projection {
    /// `weight`: `[heads * size, input]`, none of them 0; `bias`: `[heads * size]`. `None` where the
    /// machine has no kernel for it. In f32 where it has none for the precision, or features are not
    /// pairs.
    pub fn new(weight: &[f32], bias: &[f32], heads: usize, precision: Precision) -> Option<Self> {
        let (input, size) = (weight.len() / bias.len(), bias.len() / heads);
        let asked = Some(precision).filter(|_| input.is_multiple_of(2));
        let unit = asked.and_then(Unit::of);
        let unit = unit.or_else(|| Unit::of(Precision::F32))?;
        let depth = input + tail(unit.precision, 0.0).len();
        let steps = unit.precision.steps(depth);
        let panels = size.div_ceil(COLUMNS) * steps * COLUMNS;
        let mut rows = Vec::with_capacity(size * depth);
        let mut packed = Aligned::new(heads * panels);
        for (head, packed) in packed.chunks_exact_mut(panels).take(heads).enumerate() {
            rows.clear();
            for output in head * size..(head + 1) * size {
                rows.extend_from_slice(&weight[output * input..(output + 1) * input]);
                rows.extend(tail(unit.precision, bias[output]));
            }
            let panels = linear::panels(unit.precision, &rows, depth, steps);
            packed.copy_from_slice(&panels[..packed.len()]);
        }
        Some(Self {
            unit,
            input,
            heads,
            size,
            weight: packed,
        })
    }

    /// Numbers of a cell, heads, and numbers of a head.
    pub fn sizes(&self) -> [usize; 3] {
        [self.input, self.heads, self.size]
    }

    /// What products are computed in.
    pub fn precision(&self) -> Precision {
        self.unit.precision
    }

    /// Words of a mix: its features, and what its factors add up to.
    fn steps(&self) -> usize {
        let precision = self.unit.precision;
        precision.steps(self.input + tail(precision, 0.0).len())
    }

    /// Words from one mix to the next.
    fn pitch(&self) -> usize {
        self.steps().next_multiple_of(16)
    }

    /// The result: `[batch, queries, heads * size]`.
    ///
    /// # Panics
    /// If the cells are in another precision.
    pub fn run(
        &self,
        memory: Cells<'_>,
        samples: &Samples<'_>,
        batch: usize,
        queries: usize,
    ) -> Vec<f32> {
        let row = self.heads * self.size;
        let mut output = Vec::with_capacity(batch * queries * row);
        let shared = Shared(output.as_mut_ptr());
        let chunks = queries.div_ceil(QUERIES);
        let cells = samples.shape.total_cells() * self.input;
        (0..batch * chunks)
            .into_par_iter()
            .with_max_len(1)
            .for_each(|index| {
                let (image, first) = (index / chunks, index % chunks * QUERIES);
                let of_image = image * cells..(image + 1) * cells;
                let memory = match memory {
                    Cells::Numbers(numbers) => Cells::Numbers(&numbers[of_image]),
                    Cells::Halves(halves) => Cells::Halves(&halves[of_image]),
                };
                let first_of_all = image * queries + first;
                let count = QUERIES.min(queries - first);
                ROOM.with_borrow_mut(|room| {
                    self.mix(memory, samples, first_of_all, count, room);
                    // SAFETY: queries of the output that exist, and no other job has.
                    unsafe {
                        let output = shared.at(first_of_all * row);
                        self.project(&room.mixes, count, output);
                    }
                });
            });
        // SAFETY: the jobs have written all queries.
        unsafe { output.set_len(batch * queries * row) };
        output
    }

    /// Mixes what `count` queries from `first` on look at.
    fn mix(
        &self,
        memory: Cells<'_>,
        samples: &Samples<'_>,
        first: usize,
        count: usize,
        room: &mut Room,
    ) {
        let (pitch, steps) = (self.pitch(), self.steps());
        room.mixes.grow(self.heads * QUERIES * pitch);
        for query in 0..count {
            for head in 0..self.heads {
                let index = (first + query) * self.heads + head;
                samples.corners(index, self.input, &mut room.corners);
                let factors: f32 = room.corners.iter().map(|corner| corner.1).sum();
                let sums = &mut room.mixes[(head * QUERIES + query) * pitch..][..steps];
                match (memory, self.unit.precision) {
                    (Cells::Numbers(memory), Precision::F32) => {
                        let (sums, last) = numbers_mut(sums).split_at_mut(self.input);
                        mix(memory, &room.corners, sums);
                        last[0] = factors;
                    }
                    (Cells::Halves(memory), Precision::Bf16) => {
                        let (sums, last) = sums.split_at_mut(self.input / 2);
                        mix_halves(memory, &room.corners, sums);
                        words::neighbours(last, &[factors, less(factors), factors]);
                    }
                    (_, precision) => unreachable!("cells are not in {precision:?}"),
                }
            }
        }
    }

    /// Projects the mixes of `count` queries.
    ///
    /// # Safety
    /// So many rows of the output may be written.
    unsafe fn project(&self, mixes: &[u32], count: usize, output: *mut f32) {
        let (steps, pitch, row) = (self.steps(), self.pitch(), self.heads * self.size);
        let panels = self.weight.chunks_exact(steps * COLUMNS);
        let starts = (0..self.heads)
            .flat_map(|head| (0..self.size).step_by(COLUMNS).map(move |at| (head, at)));
        let mut ahead = Ahead::default();
        for ((head, start), panel) in starts.zip(panels) {
            let rows = linear::Rows {
                words: &mixes[head * QUERIES * pitch..],
                pitch,
                steps,
                next: &[],
            };
            // SAFETY: rows of this job, and columns of one head.
            unsafe {
                let target = Target {
                    start: output.add(head * self.size + start),
                    pitch: row,
                    rows: count,
                    columns: COLUMNS.min(self.size - start),
                    resumed: false,
                };
                linear::multiply_panel(self.unit, panel, rows, target, None, &mut ahead);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Result, Tensor};
    use proptest::prelude::*;

    use crate::ops::{Precision, SampleShape, ValueProjection, reference};

    // The yardstick: candle's linear layer of all cells, and the plain samples of what it gives.
    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn equals_samples_of_the_projected_cells(
            batch in 1_usize..3, queries in 1_usize..40, heads in 1_usize..5, size in 1_usize..60,
            input in 1_usize..560, halves in any::<bool>(),
        ) {
            let run = || -> Result<()> {
                let device = &Device::Cpu;
                let shape = SampleShape {
                    levels: vec![(7, 5), (4, 3), (1, 2)],
                    points: vec![4, 3, 2],
                };
                let scale = 1.0 / (input as f32).sqrt();
                let weight = Tensor::randn(0_f32, scale, (heads * size, input), device)?;
                let bias = Tensor::randn(0_f32, 1.0, heads * size, device)?;
                let memory = Tensor::randn(0_f32, 1.0, (batch, shape.total_cells(), input), device)?;
                // A third of the samples lie outside, where the bias counts for nothing either.
                let locations = (batch, queries, heads, 9, 2);
                let locations = Tensor::rand(-0.3_f32, 1.3, locations, device)?;
                let weights = Tensor::rand(0_f32, 1.0, (batch, queries, heads, 9), device)?;
                let precision = if halves { Precision::Bf16 } else { Precision::F32 };
                let Some(projection) = ValueProjection::new(&weight, &bias, heads, precision)? else {
                    return Ok(());
                };
                let sampled = projection.sampled(&memory)?;
                let rounded = sampled.dtype() == DType::BF16;
                assert_eq!(rounded, halves && precision.available() && input % 2 == 0);
                // The yardstick's numbers are rounded too; what is left is that mixes are, each by 2⁻⁸ of it at
                // most, and a mix is no more than that of the features without their signs. Of a bias' product
                // what two sums of two leave out: three parts of 2⁻¹⁶.
                let (memory, weight, share) = if rounded {
                    let weight = weight.to_dtype(DType::BF16)?.to_dtype(DType::F32)?;
                    (sampled.to_dtype(DType::F32)?, weight, 1.0 / 256.0)
                } else {
                    (memory, weight, 0.0)
                };
                let largest = memory.abs()?.broadcast_matmul(&weight.abs()?.t()?)?;
                let of_bias = bias.abs()?.affine(3.0 / 256.0, 0.0)?;
                let largest = largest.broadcast_add(&of_bias)?.reshape((batch, (), heads, size))?;
                let most = reference::deformable_attention(&largest, &locations, &weights, &shape)?;
                let most = most.affine(1.01 * share, 2e-5)?;
                let value = memory.broadcast_matmul(&weight.t()?)?.broadcast_add(&bias)?;
                let value = value.reshape((batch, (), heads, size))?;
                let expected = reference::deformable_attention(&value, &locations, &weights, &shape)?;
                let attend = || projection.attend(&sampled, &locations, &weights, &shape);
                let found = attend()?;
                assert_eq!(found.dims(), expected.dims());
                let off = (&found - expected)?.abs()?;
                let beyond = (&off - most)?.max_all()?.to_scalar::<f32>()?;
                assert!(beyond < 0.0, "off by {beyond} more than it may be");
                // Errors of many features average out.
                let mean = off.mean_all()?.to_scalar::<f32>()?;
                assert!(mean < 1e-2, "off by {mean} in the mean");
                let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build();
                let again = pool.map_err(candle_core::Error::wrap)?.install(attend)?;
                let bits = |x: &Tensor| x.flatten_all()?.to_vec1::<f32>();
                assert_eq!(bits(&found)?, bits(&again)?);
                Ok(())
            };
            run().unwrap();
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() -> Result<()> {
        let device = &Device::Cpu;
        let weight = Tensor::zeros((6, 4), DType::F32, device)?;
        let bias = weight.narrow(1, 0, 1)?.flatten_all()?;
        assert!(ValueProjection::new(&weight, &bias, 4, Precision::F32).is_err());
        let short = bias.narrow(0, 0, 5)?;
        assert!(ValueProjection::new(&weight, &short, 1, Precision::F32).is_err());
        let Some(projection) = ValueProjection::new(&weight, &bias, 2, Precision::F32)? else {
            return Ok(());
        };
        let shape = SampleShape {
            levels: vec![(2, 2)],
            points: vec![1],
        };
        let locations = Tensor::zeros((1, 3, 2, 1, 2), DType::F32, device)?;
        let weights = Tensor::zeros((1, 3, 2, 1), DType::F32, device)?;
        let attend = |cells, numbers| {
            let memory = Tensor::zeros((1, cells, numbers), DType::F32, device)?;
            projection.attend(&memory, &locations, &weights, &shape)
        };
        assert!(attend(4, 4).is_ok());
        assert!(attend(5, 4).is_err());
        assert!(attend(4, 5).is_err());
        let halves = Tensor::zeros((1, 4, 4), DType::BF16, device)?;
        assert!(
            projection
                .attend(&halves, &locations, &weights, &shape)
                .is_err()
        );
        Ok(())
    }
}
