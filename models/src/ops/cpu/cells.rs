//! Products of images that lie channels last, `[cells, channels]`, with weights: pointwise
//! convolution where channels are so few that a register block of cells and all their channels
//! stays in registers, as in OSNet's blocks.
//!
//! Every sum is taken in one order, from the bias over the first channel to the last, whatever is
//! computed beside it.

#![allow(unsafe_code)] // vector instructions

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m256, __m512};

use super::aligned::Aligned;
#[cfg(target_arch = "x86_64")]
use super::lanes::{Integers256, Integers512};
use super::lanes::{Lanes, Portable, by_level};
use super::simd::Level;

/// Channels come in eights.
pub(super) const EIGHT: usize = 8;

/// Neighbouring output channels whose sums are in registers together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Group {
    /// The first one.
    pub first: usize,
    /// Vectors of them.
    pub vectors: usize,
    /// Whether vectors are the level's widest, or of eight numbers.
    pub wide: bool,
}

/// `channels`, a multiple of [`EIGHT`], in groups for `level`.
pub(super) fn groups(channels: usize, level: Level) -> Vec<Group> {
    let wide = if level == Level::Avx512 { 16 } else { EIGHT };
    let most = match level {
        Level::Avx512 => 4,
        Level::Avx2 => 3,
        _ => 1,
    };
    // An odd eight shares a group of narrow vectors with its neighbours: half of a wide vector
    // would be wasted otherwise.
    let narrow = match channels % wide {
        0 => 0,
        _ => (wide + EIGHT).min(channels),
    };
    let mut groups = Vec::new();
    let mut first = 0;
    while first < channels - narrow {
        let left = (channels - narrow - first) / wide;
        // Five are three and two, not four and one.
        let vectors = if left > most {
            left.div_ceil(left.div_ceil(most))
        } else {
            left
        };
        groups.push(Group {
            first,
            vectors,
            wide: true,
        });
        first += vectors * wide;
    }
    if narrow > 0 {
        groups.push(Group {
            first,
            vectors: narrow / EIGHT,
            wide: false,
        });
    }
    groups
}

/// Vector units, and the register blocks that suit them.
pub(super) trait Machine {
    /// The widest vectors.
    type Wide: Lanes;
    /// Vectors of eight numbers.
    type Narrow: Lanes;
    /// The same with products of integers, for work that asks for them, where there are instructions.
    type Integers: Machine;

    /// Does the `work` of one group, in blocks that fit the registers; `fixed`: where cells lie is
    /// known when the block is compiled, so that addresses need no registers.
    ///
    /// # Safety
    /// As the work says; the machine has the units.
    unsafe fn group<K: Work>(group: Group, fixed: bool, work: &K);
}

/// What is done in register blocks.
pub(super) trait Work {
    /// All of a group of `VECTORS` vectors, `CELLS` cells at a time, which lie `PITCH` numbers apart,
    /// or, if that is 0, where is known at run time alone.
    ///
    /// # Safety
    /// The machine has the vectors, and `group` as many of them.
    unsafe fn blocks<V: Lanes, const VECTORS: usize, const CELLS: usize, const PITCH: usize>(
        &self,
        group: Group,
    );
}

/// What is done for every vector of channels alone.
pub(super) trait Each {
    /// The vector of channels from `first` on.
    ///
    /// # Safety
    /// The machine has the vectors; its channels are there.
    unsafe fn channels<V: Lanes>(&self, first: usize);
}

/// Does the `work` of all vectors of the groups.
///
/// # Safety
/// As the work says; the machine has the units.
#[inline(always)]
pub(super) unsafe fn each<M: Machine>(groups: &[Group], work: &impl Each) {
    for group in groups {
        for vector in 0..group.vectors {
            // SAFETY: by this function's contract.
            unsafe {
                if group.wide {
                    work.channels::<M::Wide>(group.first + vector * M::Wide::COUNT);
                } else {
                    work.channels::<M::Narrow>(group.first + vector * M::Narrow::COUNT);
                }
            }
        }
    }
}

/// AVX-512: 32 registers.
#[cfg(target_arch = "x86_64")]
pub(super) struct Avx512;
/// AVX-512 with AVX512-VNNI.
#[cfg(target_arch = "x86_64")]
pub(super) struct Avx512Vnni;
/// Its products of integers.
#[cfg(target_arch = "x86_64")]
pub(super) struct Avx512Integers;
/// AVX2: 16 registers.
#[cfg(target_arch = "x86_64")]
pub(super) struct Avx2;
/// What every machine of the target has.
pub(super) struct Baseline;

/// Blocks for 32 registers of sixteen numbers.
#[cfg(target_arch = "x86_64")]
macro_rules! avx512 {
    ($machine:ident, $integers:ty) => {
        #[cfg(target_arch = "x86_64")]
        impl Machine for $machine {
            type Wide = __m512;
            type Narrow = __m256;
            type Integers = $integers;

            #[inline(always)]
            unsafe fn group<K: Work>(group: Group, fixed: bool, work: &K) {
                // SAFETY: by the trait's contract.
                unsafe {
                    match (group.wide, group.vectors, fixed) {
                        (true, 1, true) => work.blocks::<__m512, 1, 16, 16>(group),
                        (true, 2, true) => work.blocks::<__m512, 2, 8, 32>(group),
                        (false, 3, true) => work.blocks::<__m256, 3, 8, 24>(group),
                        (true, 4, _) => work.blocks::<__m512, 4, 6, 0>(group),
                        (true, 3, _) => work.blocks::<__m512, 3, 8, 0>(group),
                        (true, 2, _) => work.blocks::<__m512, 2, 8, 0>(group),
                        (true, ..) => work.blocks::<__m512, 1, 8, 0>(group),
                        (false, 3, _) => work.blocks::<__m256, 3, 8, 0>(group),
                        (false, 2, _) => work.blocks::<__m256, 2, 8, 0>(group),
                        (false, ..) => work.blocks::<__m256, 1, 8, 0>(group),
                    }
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
avx512!(Avx512, Self);
#[cfg(target_arch = "x86_64")]
avx512!(Avx512Vnni, Avx512Integers);

#[cfg(target_arch = "x86_64")]
impl Machine for Avx512Integers {
    type Wide = Integers512;
    type Narrow = Integers256;
    type Integers = Self;

    // Sums of a line and of all lines are in registers.
    #[inline(always)]
    unsafe fn group<K: Work>(group: Group, fixed: bool, work: &K) {
        // SAFETY: by the trait's contract.
        unsafe {
            let _ = fixed;
            match (group.wide, group.vectors) {
                (true, 4) => work.blocks::<Integers512, 4, 3, 0>(group),
                (true, 3) => work.blocks::<Integers512, 3, 4, 0>(group),
                (true, 2) => work.blocks::<Integers512, 2, 6, 0>(group),
                (true, _) => work.blocks::<Integers512, 1, 8, 0>(group),
                (false, 3) => work.blocks::<Integers256, 3, 4, 0>(group),
                (false, 2) => work.blocks::<Integers256, 2, 6, 0>(group),
                (false, _) => work.blocks::<Integers256, 1, 8, 0>(group),
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Machine for Avx2 {
    type Wide = __m256;
    type Narrow = __m256;
    type Integers = Self;

    #[inline(always)]
    unsafe fn group<K: Work>(group: Group, fixed: bool, work: &K) {
        // SAFETY: by the trait's contract.
        unsafe {
            let _ = fixed;
            match group.vectors {
                3 => work.blocks::<__m256, 3, 4, 0>(group),
                2 => work.blocks::<__m256, 2, 6, 0>(group),
                _ => work.blocks::<__m256, 1, 8, 0>(group),
            }
        }
    }
}

impl Machine for Baseline {
    type Wide = Portable;
    type Narrow = Portable;
    type Integers = Self;

    #[inline(always)]
    unsafe fn group<K: Work>(group: Group, fixed: bool, work: &K) {
        let _ = fixed;
        // SAFETY: by the trait's contract.
        unsafe { work.blocks::<Portable, 1, 4, 0>(group) }
    }
}

/// Weights of a product: those of one or two inputs, whose products add up.
pub(super) struct Product {
    depths: [usize; 2],
    output: usize,
    groups: Vec<Group>,
    weight: Aligned, // group by group, [depth of both, channels of the group]
    bias: Aligned,   // [output]
    level: Level,
}

/// Cells of images, and what becomes of their products.
pub(super) struct Cells {
    /// How many.
    pub count: usize,
    /// `[count, depth]` of the first input and, where there is one, the second.
    pub inputs: [*const f32; 2],
    /// `[count, output]`, added to the products; or null.
    pub added: *const f32,
    /// Negative sums become zero.
    pub relu: bool,
    /// `[count, output]`.
    pub output: *mut f32,
}

/// The products of a group.
struct Run<'a> {
    cells: &'a Cells,
    depths: [usize; 2],
    /// Numbers of an output cell.
    pitch: usize,
    weight: *const f32,
    bias: *const f32,
}

impl Product {
    /// `weights`: `[output, depth]` for one input or two, `bias`: `[output]`, a multiple of
    /// [`EIGHT`]. The machine has `level`.
    pub fn new(weights: &[&[f32]], bias: &[f32], level: Level) -> Self {
        let output = bias.len();
        assert!(output.is_multiple_of(EIGHT) && output > 0 && !weights.is_empty());
        let mut depths = [0; 2];
        for (depth, weight) in depths.iter_mut().zip(weights) {
            assert!(weight.len().is_multiple_of(output));
            *depth = weight.len() / output;
        }
        let groups = groups(output, level);
        let mut packed = Vec::with_capacity(output * (depths[0] + depths[1]));
        for (index, group) in groups.iter().enumerate() {
            let end = groups.get(index + 1).map_or(output, |next| next.first);
            for (weight, depth) in weights.iter().zip(depths) {
                for step in 0..depth {
                    for channel in group.first..end {
                        packed.push(weight[channel * depth + step]);
                    }
                }
            }
        }
        Self {
            depths,
            output,
            groups,
            weight: Aligned::of(&packed),
            bias: Aligned::of(bias),
            level,
        }
    }

    /// Output channels.
    pub fn output(&self) -> usize {
        self.output
    }

    /// Channels of the first input.
    pub fn depth(&self) -> usize {
        self.depths[0]
    }

    /// Output channels in groups.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Multiplies cells.
    ///
    /// # Safety
    /// Inputs and what is added may be read and the output written, by nobody else, as far as
    /// [`Cells`] says; the output overlaps with none of the others.
    pub unsafe fn run(&self, cells: &Cells) {
        // SAFETY: by this function's contract, and the machine has the level.
        unsafe { run(self.level, self, cells) };
    }

    /// The same for code that is compiled for `M` already, which is the product's level.
    ///
    /// # Safety
    /// As [`Product::run`].
    #[inline(always)]
    pub unsafe fn run_on<M: Machine>(&self, cells: &Cells) {
        // SAFETY: by this function's contract.
        unsafe { body::<M>(self, cells) };
    }
}

by_level! {
    fn run(product: &Product, cells: &Cells) = body
}

#[inline(always)]
unsafe fn body<M: Machine>(product: &Product, cells: &Cells) {
    let depth = product.depths[0] + product.depths[1];
    for group in &product.groups {
        let run = Run {
            cells,
            depths: product.depths,
            pitch: product.output,
            weight: product
                .weight
                .numbers()
                .as_ptr()
                .wrapping_add(group.first * depth),
            bias: product.bias.numbers().as_ptr().wrapping_add(group.first),
        };
        let square = product.depths == [product.output, 0] && product.groups.len() == 1;
        // SAFETY: by the contract of `Product::run`.
        unsafe { M::group(*group, square, &run) };
    }
}

impl Work for Run<'_> {
    // The last cells are computed once more where blocks of `CELLS` do not divide them.
    #[inline(always)]
    unsafe fn blocks<V: Lanes, const VECTORS: usize, const CELLS: usize, const PITCH: usize>(
        &self,
        group: Group,
    ) {
        let count = self.cells.count;
        let mut cell = 0;
        // SAFETY: by the contract of `Product::run`.
        unsafe {
            while cell < count {
                if count >= CELLS {
                    let at = cell.min(count - CELLS);
                    block::<V, VECTORS, CELLS, PITCH>(group, self, at);
                    cell = at + CELLS;
                } else if count - cell >= 4 {
                    block::<V, VECTORS, 4, PITCH>(group, self, cell);
                    cell += 4;
                } else {
                    block::<V, VECTORS, 1, PITCH>(group, self, cell);
                    cell += 1;
                }
            }
        }
    }
}

/// What cells see: so many numbers each, so far apart, and those of the next cell so far from them.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    pub count: usize,
    pub step: usize,
    pub pitch: usize,
}

/// Adds to the sums of `CELLS` cells the products of what they see from `input` on with as many weights, and
/// gives the weights after these.
///
/// # Safety
/// All may be read; the machine has the vectors.
#[inline(always)]
pub(super) unsafe fn add_products<V: Lanes, const VECTORS: usize, const CELLS: usize>(
    sums: &mut [[V; VECTORS]; CELLS],
    mut weight: *const f32,
    input: *const f32,
    seen: Seen,
) -> *const f32 {
    // SAFETY: by this function's contract.
    unsafe {
        let rows: [*const f32; CELLS] = std::array::from_fn(|cell| input.add(cell * seen.pitch));
        for number in 0..seen.count {
            let weights: [V; VECTORS] = std::array::from_fn(|v| V::load(weight.add(v * V::COUNT)));
            weight = weight.add(VECTORS * V::COUNT);
            for cell in 0..CELLS {
                let number = V::splat(*rows[cell].add(number * seen.step));
                for v in 0..VECTORS {
                    sums[cell][v] = sums[cell][v].dot(weights[v], number);
                }
            }
        }
        weight
    }
}

/// `CELLS` cells from `first` on. `PITCH` is the depth of the only input, or 0.
///
/// # Safety
/// As [`Work::blocks`].
#[inline(always)]
unsafe fn block<V: Lanes, const VECTORS: usize, const CELLS: usize, const PITCH: usize>(
    group: Group,
    run: &Run<'_>,
    first: usize,
) {
    // SAFETY: by this function's contract.
    unsafe {
        let bias: [V; VECTORS] = std::array::from_fn(|v| V::load(run.bias.add(v * V::COUNT)));
        let mut sums = [bias; CELLS];
        let mut weight = run.weight;
        for (input, depth) in run.cells.inputs.iter().zip(run.depths) {
            let depth = if PITCH > 0 && depth > 0 { PITCH } else { depth };
            if depth == 0 {
                break;
            }
            let seen = Seen {
                count: depth,
                step: 1,
                pitch: depth,
            };
            weight = add_products(&mut sums, weight, input.add(first * depth), seen);
        }
        let start = first * run.pitch + group.first;
        let least = V::splat(if run.cells.relu {
            0.0
        } else {
            f32::NEG_INFINITY
        });
        for (cell, sums) in sums.into_iter().enumerate() {
            for (v, mut sum) in sums.into_iter().enumerate() {
                let at = start + cell * run.pitch + v * V::COUNT;
                if !run.cells.added.is_null() {
                    sum = sum.plus(V::load(run.cells.added.add(at)));
                }
                // NaN stays NaN.
                sum.or_more(least).store(run.cells.output.add(at));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::lanes::{levels, made_up_numbers};
    use super::*;

    #[test]
    fn groups_cover_all_channels() {
        for level in [Level::Plain, Level::Avx2, Level::Avx512] {
            for channels in (EIGHT..=520).step_by(EIGHT) {
                let mut next = 0;
                for group in groups(channels, level) {
                    assert_eq!(group.first, next);
                    let wide = group.wide && level == Level::Avx512;
                    next += group.vectors * if wide { 16 } else { EIGHT };
                }
                assert_eq!(next, channels);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(150))]

        // By the definition, in double precision; square ones have blocks of their own.
        #[test]
        fn products_are_sums_of_products(
            eights in 1_usize..18, depth in 1_usize..40, more in 0_usize..30, square: bool,
            count in 1_usize..70, relu: bool, adds: bool, seed in 0_u32..1000,
        ) {
            let output = eights * EIGHT;
            let depth = if square { output } else { depth };
            let weights = [depth, more].map(|depth| made_up_numbers(output * depth, seed));
            let bias = made_up_numbers(output, seed + 1);
            let inputs = [depth, more].map(|depth| made_up_numbers(count * depth, seed + 2));
            let added = made_up_numbers(count * output, seed + 3);
            for level in levels() {
                let parts = [weights[0].as_slice(), &weights[1]];
                let parts = if more > 0 { &parts[..] } else { &parts[..1] };
                let product = Product::new(parts, &bias, level);
                let mut found = vec![7.0; count * output + 16];
                // SAFETY: all are as large as said.
                unsafe {
                    product.run(&Cells {
                        count,
                        inputs: [inputs[0].as_ptr(), inputs[1].as_ptr()],
                        added: if adds { added.as_ptr() } else { std::ptr::null() },
                        relu,
                        output: found.as_mut_ptr(),
                    });
                }
                prop_assert!(found[count * output..].iter().all(|x| *x == 7.0));
                for at in 0..count * output {
                    let (cell, channel) = (at / output, at % output);
                    let mut sum = f64::from(bias[channel]);
                    for (input, weight) in inputs.iter().zip(&weights) {
                        let depth = weight.len() / output;
                        for step in 0..depth {
                            sum += f64::from(input[cell * depth + step])
                                * f64::from(weight[channel * depth + step]);
                        }
                    }
                    sum += if adds { f64::from(added[at]) } else { 0.0 };
                    let expected = if relu { sum.max(0.0) } else { sum };
                    let off = (f64::from(found[at]) - expected).abs();
                    prop_assert!(off < 5e-5, "{level:?}: {} {expected}", found[at]);
                }
            }
        }
    }
}
