//! Deformable attention with its value projection, the other way round: samples of the features are
//! mixed first and projected afterwards.
//!
//! Both are linear, so a head's part of the projection may wait: `Σ w (V x + b) = V Σ w x + b Σ w`.
//! What was a linear layer over every cell, some thousand rows, becomes one over the queries, and
//! the values are never written; in turn a head mixes all features, not its own share of them.

#![allow(unsafe_code)] // blocks of one output

use std::cell::RefCell;

use rayon::prelude::*;

use super::ahead::Ahead;
use super::aligned::Aligned;
use super::block::{COLUMNS, Precision, ROWS, Target, Unit};
use super::conv::Shared;
use super::deformable::{Corner, Samples, mix};
use super::linear;

/// Queries that one thread takes at a time: their mixes stay in the second-level cache.
const QUERIES: usize = 2 * ROWS;

/// The weights of a value projection, each head's by itself.
pub struct Projection {
    unit: Unit,
    input: usize,
    heads: usize,
    /// Numbers of a head.
    size: usize,
    /// `[heads, size / COLUMNS, steps, COLUMNS]`; a head's bias is its last step.
    weight: Aligned,
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
    /// machine has no kernel for it.
    pub fn new(weight: &[f32], bias: &[f32], heads: usize) -> Option<Self> {
        let unit = Unit::of(Precision::F32)?;
        let (input, size) = (weight.len() / bias.len(), bias.len() / heads);
        let mut rows = Vec::with_capacity(size * (input + 1));
        let mut packed = Aligned::new(heads * size.div_ceil(COLUMNS) * (input + 1) * COLUMNS);
        let panels = size.div_ceil(COLUMNS) * (input + 1) * COLUMNS;
        for (head, packed) in packed.chunks_exact_mut(panels).take(heads).enumerate() {
            rows.clear();
            for output in head * size..(head + 1) * size {
                rows.extend_from_slice(&weight[output * input..(output + 1) * input]);
                rows.push(bias[output]);
            }
            let panels = linear::panels(unit.precision, &rows, input + 1, input + 1);
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

    /// Numbers from one mix to the next: its features, what its factors add up to, and a gap.
    fn pitch(&self) -> usize {
        (self.input + 1).next_multiple_of(16)
    }

    /// `memory`: `[batch, cells, input]`; the result: `[batch, queries, heads * size]`.
    pub fn run(
        &self,
        memory: &[f32],
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
                let memory = &memory[image * cells..(image + 1) * cells];
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
        memory: &[f32],
        samples: &Samples<'_>,
        first: usize,
        count: usize,
        room: &mut Room,
    ) {
        let pitch = self.pitch();
        let mixes = room.mixes.room(self.heads * QUERIES * pitch);
        for query in 0..count {
            for head in 0..self.heads {
                let index = (first + query) * self.heads + head;
                samples.corners(index, self.input, &mut room.corners);
                let sums = &mut mixes[(head * QUERIES + query) * pitch..][..=self.input];
                mix(memory, &room.corners, &mut sums[..self.input]);
                sums[self.input] = room.corners.iter().map(|corner| corner.1).sum();
            }
        }
    }

    /// Projects the mixes of `count` queries.
    ///
    /// # Safety
    /// So many rows of the output may be written.
    unsafe fn project(&self, mixes: &[u32], count: usize, output: *mut f32) {
        let (steps, pitch, row) = (self.input + 1, self.pitch(), self.heads * self.size);
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
    use candle_core::{Device, Result, Tensor};
    use proptest::prelude::*;

    use crate::ops::{SampleShape, ValueProjection, reference};

    // The yardstick: candle's linear layer of all cells, and the plain samples of what it gives.
    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn equals_samples_of_the_projected_cells(
            batch in 1_usize..3, queries in 1_usize..40, heads in 1_usize..5, size in 1_usize..60,
            input in 1_usize..560,
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
                let Some(projection) = ValueProjection::new(&weight, &bias, heads)? else {
                    return Ok(());
                };
                let value = memory.broadcast_matmul(&weight.t()?)?.broadcast_add(&bias)?;
                let value = value.reshape((batch, (), heads, size))?;
                let expected = reference::deformable_attention(&value, &locations, &weights, &shape)?;
                let attend = || projection.attend(&memory, &locations, &weights, &shape);
                let found = attend()?;
                assert_eq!(found.dims(), expected.dims());
                let off = (&found - expected)?.abs()?.max_all()?.to_scalar::<f32>()?;
                assert!(off < 2e-5, "off by {off}");
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
        let weight = Tensor::zeros((6, 4), candle_core::DType::F32, device)?;
        let bias = weight.narrow(1, 0, 1)?.flatten_all()?;
        assert!(ValueProjection::new(&weight, &bias, 4).is_err());
        assert!(ValueProjection::new(&weight, &bias.narrow(0, 0, 5)?, 1).is_err());
        let Some(projection) = ValueProjection::new(&weight, &bias, 2)? else {
            return Ok(());
        };
        let shape = SampleShape {
            levels: vec![(2, 2)],
            points: vec![1],
        };
        let locations = Tensor::zeros((1, 3, 2, 1, 2), candle_core::DType::F32, device)?;
        let weights = Tensor::zeros((1, 3, 2, 1), candle_core::DType::F32, device)?;
        let attend = |cells, numbers| {
            let memory = Tensor::zeros((1, cells, numbers), candle_core::DType::F32, device)?;
            projection.attend(&memory, &locations, &weights, &shape)
        };
        assert!(attend(4, 4).is_ok());
        assert!(attend(5, 4).is_err());
        assert!(attend(4, 5).is_err());
        Ok(())
    }
}
