//! Emulated tiles, and the machine's where it has them.

mod direct;

use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;

use super::super::conv::{Added, Joined, Size};
use super::super::finish::{self, Finish};
use super::super::product::{Grid, Product, Source};
use super::super::{linear, words};
use super::*;
use crate::layers::{Activation, Conv};
use crate::ops::reference;

/// Kinds of tiles that there are here.
fn kinds() -> Vec<Tiles> {
    let machine = Tiles::of(unit());
    [Some(Tiles::Emulated), machine]
        .into_iter()
        .flatten()
        .collect()
}

/// bfloat16 for a pair of numbers between -1 and 1.
fn pairs(count: usize, seed: u32) -> Vec<u32> {
    let number = |i: u32| {
        let hashed = i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 8;
        words::bf16(hashed as f32 / 8_388_608.0 - 1.0)
    };
    (0..count as u32)
        .map(|i| number(2 * i) | number(2 * i + 1) << 16)
        .collect()
}

/// The two numbers of a word.
fn halves(word: u32) -> [f64; 2] {
    [word << 16, word & 0xFFFF_0000].map(|bits| f64::from(f32::from_bits(bits)))
}

fn numbers(count: usize, seed: u32) -> Vec<f32> {
    pairs(count, seed)
        .into_iter()
        .map(|word| halves(word)[0] as f32)
        .collect()
}

/// A block in `cut` tiles of steps and the rest, into an output of `7.0` with rows `pitch` apart.
struct Case {
    rows: usize,
    columns: usize,
    tiles: usize,
    cut: usize,
    packed: bool,
    pitch: usize,
}

impl Case {
    fn steps(&self) -> usize {
        self.tiles * WORDS
    }

    /// Word `step` of row `row`, of factors as they are packed here.
    fn place(&self, row: usize, step: usize) -> usize {
        if self.packed {
            (step / WORDS * ROWS + row) * WORDS + step % WORDS
        } else {
            row * self.steps() + step
        }
    }

    fn run(&self, kind: Tiles, panel: &[u32], factors: &[u32], end: Option<&End>) -> Vec<f32> {
        let mut output = vec![7.0; ROWS * self.pitch];
        let mut session = kind.session();
        let steps = self.steps();
        let cut = self.cut.min(self.tiles) * WORDS;
        for (from, to) in [(0, cut), (cut, steps)] {
            if from == to {
                continue;
            }
            let operands = Operands {
                panel: &panel[from * COLUMNS..to * COLUMNS],
                factors: if self.packed {
                    Factors::Packed(&factors[from * ROWS..to * ROWS])
                } else {
                    Factors::Rows {
                        words: &factors[from..],
                        pitch: steps,
                    }
                },
                steps: to - from,
            };
            let target = Target {
                start: output.as_mut_ptr(),
                pitch: self.pitch,
                rows: self.rows,
                columns: self.columns,
                resumed: from > 0,
            };
            // SAFETY: the output has room for a block, and so has what is added.
            unsafe { session.multiply(&operands, target, end.filter(|_| to == steps)) };
        }
        output
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    // By the definition, in double precision; in one go and in two.
    #[test]
    fn blocks_are_sums_of_products(
        rows in 1..=ROWS, columns in prop_oneof![1..=COLUMNS, Just(COLUMNS)], tiles in 1_usize..6,
        cut in 0_usize..6, packed: bool, across: bool, relu: bool, adds: bool, ends: bool,
    ) {
        let case = Case { rows, columns, tiles, cut, packed, pitch: COLUMNS + 5 };
        let steps = case.steps();
        let panel = pairs(steps * COLUMNS, 1);
        let factors = pairs(steps * ROWS, 2);
        let bias = numbers(COLUMNS, 3);
        let added = numbers(ROWS * case.pitch, 4);
        let added = adds.then_some((&added[..], case.pitch));
        let finished = finish::testing::Case { bias: &bias, across, relu, added };
        let end = finished.end();
        let end = ends.then_some(&end);
        for kind in kinds() {
            let output = case.run(kind, &panel, &factors, end);
            for (at, found) in output.into_iter().enumerate() {
                let (row, column) = (at / case.pitch, at % case.pitch);
                if row >= rows || column >= columns {
                    prop_assert_eq!(found, 7.0);
                    continue;
                }
                let mut sum = 0.0;
                for step in 0..steps {
                    let [a, b] = halves(factors[case.place(row, step)]);
                    let [c, d] = halves(panel[step * COLUMNS + column]);
                    sum += a * c + b * d;
                }
                if ends {
                    sum = finished.expected(sum, row, column);
                }
                prop_assert!((f64::from(found) - sum).abs() < 2e-5, "{kind:?}: {found} {sum}");
            }
        }
    }

    // To the last bit, whatever else is in the block and however many parts it comes in.
    #[test]
    fn parts_and_neighbours_change_nothing(
        rows in 1..=ROWS, columns in 1..=COLUMNS, tiles in 2_usize..5, cut in 1_usize..4, packed: bool,
    ) {
        let whole = Case { rows: ROWS, columns: COLUMNS, tiles, cut: 0, packed, pitch: COLUMNS };
        let part = Case { rows, columns, tiles, cut, packed, pitch: COLUMNS };
        let (panel, factors) = (pairs(whole.steps() * COLUMNS, 5), pairs(whole.steps() * ROWS, 6));
        for kind in kinds() {
            let expected = whole.run(kind, &panel, &factors, None);
            let found = part.run(kind, &panel, &factors, None);
            for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
                if at / COLUMNS < rows && at % COLUMNS < columns {
                    prop_assert_eq!(found.to_bits(), expected.to_bits());
                }
            }
        }
    }

    // Convolutions: any number of channels, several parts of sums, all that may follow them; on
    // one thread and on three, alone and in a batch.
    #[test]
    fn convolutions_equal_plain(
        input in prop_oneof![1_usize..40, 250_usize..330], output in 1_usize..70,
        stride in 1_usize..3, batch in 1_usize..3, height in 3_usize..8, width in 3_usize..20,
        adds: bool,
    ) {
        let conv = Conv::new(input, output, 1).stride(stride).activation(Activation::Silu);
        let size = Size { batch, height, width };
        for kind in kinds() {
            let off = convolution_off(kind, conv, size, adds).unwrap();
            prop_assert!(off < 2e-5, "{kind:?}: off by {off}");
        }
    }

    #[test]
    fn linear_layers_give_the_products(
        rows in 1_usize..120, input in prop_oneof![1_usize..70, 250_usize..330], output in 1_usize..110,
    ) {
        for kind in kinds() {
            let off = linear_off(kind, rows, input, output).unwrap();
            prop_assert!(off < 2e-4, "{kind:?}: off by {off}");
        }
    }
}

// What is left in a thread's buffers does not reach sums that end within a tile.
#[test]
fn what_came_before_changes_nothing() {
    for kind in kinds() {
        on_threads(1, || {
            let mut layers = Vec::new();
            for input in [64, 11] {
                let conv = Conv::new(input, 20, 1);
                let weight = vec![1.0; 20 * input];
                let product = Product::by(unit(), Some(kind), &weight, &conv);
                let linear = linear::Packed::by_tiles(unit(), kind, &weight, vec![0.0; 20]);
                layers.push((input, product, linear));
            }
            for (input, product, linear) in layers {
                let value = if input == 64 { f32::NAN } else { 1.0 };
                let x = vec![value; input * 48];
                let mut output = vec![0.0; 20 * 48];
                let size = Size {
                    batch: 1,
                    height: 6,
                    width: 8,
                };
                let grid = Grid {
                    size,
                    output: (6, 8),
                };
                let source = Source {
                    data: &x,
                    channels: input,
                };
                let finish = Finish::new(Activation::Identity);
                // SAFETY: the output has 20 channels of 48 cells.
                unsafe {
                    product.run(
                        &[source],
                        &[0.0; 24],
                        finish,
                        grid,
                        Joined::default(),
                        output.as_mut_ptr(),
                    );
                }
                output.extend(linear.run(&x, Activation::Identity));
                let expected = value * input as f32;
                let right = |found: &f32| *found == expected || found.is_nan() && expected.is_nan();
                assert!(output.iter().all(right), "{kind:?}, {input} channels");
            }
        });
    }
}

/// Numbers that bfloat16 holds.
fn rounded(x: &Tensor) -> candle_core::Result<Tensor> {
    x.to_dtype(DType::BF16)?.to_dtype(DType::F32)
}

fn flat(x: &Tensor) -> candle_core::Result<Vec<f32>> {
    x.flatten_all()?.to_vec1::<f32>()
}

fn on_threads<T: Send>(threads: usize, run: impl FnOnce() -> T + Send) -> T {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    pool.build().unwrap().install(run)
}

/// bfloat16 by the widest vectors there are; tiles ask for no more of it.
fn unit() -> Unit {
    Unit {
        precision: Precision::Bf16,
        level: simd::level(),
    }
}

/// The largest difference from the plain version, relative to the largest number.
fn convolution_off(kind: Tiles, conv: Conv, size: Size, adds: bool) -> candle_core::Result<f32> {
    let device = &Device::Cpu;
    let x = Tensor::randn(
        0_f32,
        1.0,
        (size.batch, conv.input, size.height, size.width),
        device,
    )?;
    let weight = Tensor::randn(0_f32, 1.0, conv.weight_shape(), device)?;
    let bias = Tensor::randn(0_f32, 1.0, conv.output, device)?;
    let expected = reference::conv2d(&rounded(&x)?, &rounded(&weight)?, Some(&bias), &conv)?;
    let expected = conv.activation.apply(&expected)?;
    let added = expected.randn_like(0.0, 1.0)?;
    let expected = if adds { (expected + &added)? } else { expected };
    let (_, _, height, width) = expected.dims4()?;
    let product = Product::by(unit(), Some(kind), &flat(&weight)?, &conv);
    let (x, added, mut bias) = (flat(&x)?, flat(&added)?, flat(&bias)?);
    bias.resize(conv.output.next_multiple_of(block::ROWS), 0.0);
    let run = |threads: usize, images: std::ops::Range<usize>| {
        let part = |all: &[f32]| {
            let image = all.len() / size.batch;
            all[images.start * image..images.end * image].to_vec()
        };
        let (x, added) = (part(&x), part(&added));
        let mut output = vec![0.0; added.len()];
        let target = super::super::conv::Shared(output.as_mut_ptr());
        let batch = images.len();
        let grid = Grid {
            size: Size { batch, ..size },
            output: (height, width),
        };
        let source = Source {
            data: &x,
            channels: conv.input,
        };
        let finish = Finish::new(conv.activation);
        let joined = Joined {
            begun: None,
            added: adds.then_some(Added {
                data: &added,
                relu: false,
            }),
        };
        // SAFETY: the output is as large as what is added.
        on_threads(threads, || unsafe {
            product.run(&[source], &bias, finish, grid, joined, target.at(0));
        });
        output
    };
    let found = run(1, 0..size.batch);
    assert_eq!(found, run(3, 0..size.batch));
    let alone: Vec<f32> = (0..size.batch)
        .flat_map(|image| run(1, image..image + 1))
        .collect();
    assert_eq!(found, alone);
    Ok(largest_difference(&found, &flat(&expected)?))
}

fn largest_difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(1.0_f32, |most, x| most.max(x.abs()));
    let off = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    // NaN is as far off as can be.
    off.fold(0.0, |most, off| if off <= most { most } else { off }) / scale
}

fn linear_off(kind: Tiles, rows: usize, input: usize, output: usize) -> candle_core::Result<f32> {
    let device = &Device::Cpu;
    let x = Tensor::randn(0_f32, 1.0, (rows, input), device)?;
    let weight = Tensor::randn(0_f32, 1.0, (output, input), device)?;
    let bias = Tensor::randn(0_f32, 1.0, output, device)?;
    let product = rounded(&x)?.matmul(&rounded(&weight)?.t()?)?;
    let expected = product.broadcast_add(&bias)?.relu()?;
    let layer = linear::Packed::by_tiles(unit(), kind, &flat(&weight)?, flat(&bias)?);
    let x = flat(&x)?;
    let found = on_threads(1, || layer.run(&x, Activation::Relu));
    assert_eq!(found, on_threads(3, || layer.run(&x, Activation::Relu)));
    let last = layer.run(&x[(rows - 1) * input..], Activation::Relu);
    assert_eq!(found[(rows - 1) * output..], last);
    Ok(largest_difference(&found, &flat(&expected)?))
}

// What the manual says, by hand: sums of first and of second numbers apart, then together, then with
// what there was; subnormal numbers are zeros.
#[test]
fn emulated_tiles_round_as_the_manual_says() {
    let bf16 = |x: f32| words::bf16(x);
    let one = |factors: &[(f32, f32)], column: &[(f32, f32)], before: f32| {
        let mut tiles = emulated::Tiles::default();
        let fill = |row: usize, at: usize, (low, high): (f32, f32), tile: &mut [u32]| {
            tile[row * WORDS + at] = bf16(low) | bf16(high) << 16;
        };
        let (mut a, mut b, mut c) = ([0; 256], [0; 256], [0; 256]);
        for (step, (&factor, &value)) in factors.iter().zip(column).enumerate() {
            fill(0, step, factor, &mut a);
            fill(step, 0, value, &mut b);
        }
        c[0] = before.to_bits();
        // SAFETY: whole tiles.
        unsafe {
            tiles.load::<0>(c.as_ptr(), WORDS);
            tiles.load::<1>(a.as_ptr(), WORDS);
            tiles.load::<2>(b.as_ptr(), WORDS);
            tiles.multiply::<0, 1, 2>();
            tiles.store::<0>(c.as_mut_ptr(), WORDS);
        }
        f32::from_bits(c[0])
    };
    assert_eq!(one(&[(2.0, 3.0)], &[(5.0, 7.0)], 0.5), 31.5);
    // 2^24 + 1 is lost among the first numbers, but not where 1 is a second one and -2^24 follows.
    let large = 16_777_216.0;
    assert_eq!(
        one(
            &[(large, 0.0), (1.0, 0.0), (-large, 0.0)],
            &[(1.0, 0.0); 3],
            0.0
        ),
        0.0
    );
    assert_eq!(
        one(&[(large, 1.0), (-large, 0.0)], &[(1.0, 1.0); 2], 0.0),
        1.0
    );
    // With 1 before them all, the sum of the pairs comes first.
    assert_eq!(one(&[(large, -large)], &[(1.0, 1.0)], 1.0), 1.0);
    let tiny = f32::from_bits(0x0040_0000);
    assert_eq!(one(&[(tiny, 0.0)], &[(large, 0.0)], 0.0), 0.0);
    assert_eq!(one(&[(1e-20, 0.0)], &[(1e-20, 0.0)], 0.0), 0.0);
    assert_eq!(one(&[], &[], tiny), 0.0);
}

// To the last bit, of numbers of all sizes.
#[cfg(target_arch = "x86_64")]
#[test]
fn tiles_of_the_machine_are_as_emulated() {
    if !simd::tiles() {
        println!("no tiles of bfloat16 here: nothing was compared");
        return;
    }
    let mut state = 1_u32;
    // From 2^-100 to 2^27, and now and then a subnormal number.
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let exponent = if state >> 27 == 0 {
            0
        } else {
            27 + (state >> 9) % 128
        };
        (state >> 31) << 15 | exponent << 7 | (state >> 20) & 0x7F
    };
    let case = Case {
        rows: ROWS,
        columns: COLUMNS,
        tiles: 3,
        cut: 1,
        packed: true,
        pitch: COLUMNS,
    };
    for _ in 0..20 {
        let mut words =
            |count: usize| -> Vec<u32> { (0..count).map(|_| next() | next() << 16).collect() };
        let panel = words(case.steps() * COLUMNS);
        let factors = words(case.steps() * ROWS);
        let found = case.run(Tiles::Hardware, &panel, &factors, None);
        let expected = case.run(Tiles::Emulated, &panel, &factors, None);
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found.to_bits(), expected.to_bits(), "{found} {expected}");
        }
    }
    println!("tiles of the machine gave the sums of emulated ones");
}
