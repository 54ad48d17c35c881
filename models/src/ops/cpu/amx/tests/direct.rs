//! Direct convolution by tiles.

use super::super::Direct;
use super::*;
use crate::ops::cpu::conv::tests::activation;

/// A convolution of images whose channels lie in several tensors.
struct Layer {
    conv: Conv,
    size: Size,
    parts: Vec<(usize, Vec<f32>)>,
    direct: Direct,
    bias: Vec<f32>,
    finish: Finish,
    added: Option<Vec<f32>>,
}

impl Layer {
    /// The output of some images, on so many threads.
    fn run(&self, threads: usize, images: std::ops::Range<usize>) -> Vec<f32> {
        on_threads(threads, || self.run_here(images))
    }

    /// The same on this thread's pool.
    fn run_here(&self, images: std::ops::Range<usize>) -> Vec<f32> {
        let output = self.conv.output_size(self.size.height, self.size.width);
        let output = output.unwrap();
        let batch = images.len();
        let sources = self.parts.iter().map(|(channels, data)| {
            let image = channels * self.size.cells();
            Source {
                data: &data[images.start * image..images.end * image],
                channels: *channels,
            }
        });
        let sources: Vec<_> = sources.collect();
        let size = Size { batch, ..self.size };
        let mut found = vec![7.0; batch * self.conv.output * output.0 * output.1];
        let grid = Grid { size, output };
        let image = self.conv.output * output.0 * output.1;
        let added = self.added.as_ref().map(|added| Added {
            data: &added[images.start * image..images.end * image],
            relu: true,
        });
        let target = found.as_mut_ptr();
        // SAFETY: the output has its size, and this alone writes it.
        unsafe {
            self.direct
                .run(&sources, &self.bias, self.finish, grid, added, target);
        }
        found
    }
}

/// The plain version of numbers rounded to bfloat16, and the same by tiles.
fn layers(
    kind: Tiles,
    conv: Conv,
    size: Size,
    parts: &[usize],
    adds: bool,
) -> candle_core::Result<(Vec<f32>, Layer)> {
    let device = &Device::Cpu;
    let shape = |channels: usize| (size.batch, channels, size.height, size.width);
    let tensors = parts
        .iter()
        .map(|part| Tensor::randn(0_f32, 1.0, shape(*part), device));
    let tensors = tensors.collect::<candle_core::Result<Vec<_>>>()?;
    let weight = Tensor::randn(0_f32, 1.0, conv.weight_shape(), device)?;
    let bias = Tensor::randn(0_f32, 1.0, conv.output, device)?;
    let (x, plain) = conv.with_far_zeros(&rounded(&Tensor::cat(&tensors, 1)?)?)?;
    let expected = reference::conv2d(&x, &rounded(&weight)?, Some(&bias), &plain)?;
    let expected = conv.activation.apply(&expected)?.affine(0.75, -0.5)?;
    let added = expected.randn_like(0.0, 1.0)?;
    let expected = if adds {
        (expected + &added)?.relu()?
    } else {
        expected
    };
    let mut finish = Finish::new(conv.activation);
    (finish.scale, finish.shift) = (0.75, -0.5);
    let mut bias = flat(&bias)?;
    bias.resize(conv.output.next_multiple_of(block::ROWS), 0.0);
    let mut numbers = Vec::new();
    for (part, tensor) in parts.iter().zip(&tensors) {
        numbers.push((*part, flat(tensor)?));
    }
    let layer = Layer {
        conv,
        size,
        parts: numbers,
        direct: Direct::new(kind, &conv, &flat(&weight)?),
        bias,
        finish,
        added: if adds { Some(flat(&added)?) } else { None },
    };
    Ok((flat(&expected)?, layer))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    // Sums are of exact products, so that only they are rounded. To the last bit the same alone and
    // in a batch, on one thread and on three.
    #[test]
    fn convolutions_equal_plain(
        parts in prop::collection::vec(1_usize..40, 1..4), output in 1_usize..80,
        kernel in 1_usize..4, stride in 1_usize..3, padding in 0_usize..3, far in 0_usize..2,
        batch in 1_usize..4, height in 3_usize..12, width in 3_usize..40, act in activation(),
        adds: bool,
    ) {
        let conv = Conv::new(parts.iter().sum(), output, kernel).stride(stride);
        let conv = conv.padding(padding).far(far).activation(act);
        let size = Size { batch, height, width };
        for kind in kinds() {
            let (expected, layer) = layers(kind, conv, size, &parts, adds).unwrap();
            let found = layer.run(1, 0..batch);
            let off = largest_difference(&found, &expected);
            prop_assert!(off < 2e-5, "{kind:?}: off by {off}");
            let bits = |numbers: &[f32]| numbers.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(&layer.run(3, 0..batch)), bits(&found));
            let alone = (0..batch).flat_map(|image| layer.run(2, image..image + 1));
            prop_assert_eq!(bits(&alone.collect::<Vec<_>>()), bits(&found));
        }
    }
}

// Large enough to be cut: into bands of some rows, into jobs of several bands, into blocks of channels.
#[test]
fn cuts_change_nothing() -> candle_core::Result<()> {
    for (kernel, input, output, [batch, height, width]) in [
        (2, 96, 16, [1, 60, 100]),
        (3, 96, 40, [3, 12, 20]),
        (3, 96, 160, [2, 7, 9]),
    ] {
        let conv = Conv::new(input, output, kernel);
        let size = Size {
            batch,
            height,
            width,
        };
        for kind in kinds() {
            let (expected, layer) = layers(kind, conv, size, &[input], true)?;
            let found = layer.run(1, 0..batch);
            let off = largest_difference(&found, &expected);
            assert!(off < 2e-5, "{kind:?}: off by {off}");
            assert!(layer.run(5, 0..batch) == found, "{kind:?}");
        }
    }
    Ok(())
}

// What a larger layer has left in a thread's room does not reach sums of channels that fill no tile.
#[test]
fn what_came_before_changes_nothing() {
    for kind in kinds() {
        let size = Size {
            batch: 1,
            height: 6,
            width: 8,
        };
        let layer = |input: usize, value: f32| {
            let conv = Conv::new(input, 20, 3).padding(0);
            Layer {
                conv,
                size,
                parts: vec![(input, vec![value; input * 48])],
                direct: Direct::new(kind, &conv, &vec![1.0; 20 * input * 9]),
                bias: vec![0.0; 24],
                finish: Finish::new(Activation::Identity),
                added: None,
            }
        };
        let layers = [layer(64, f32::NAN), layer(11, 1.0)];
        let [large, small] = on_threads(1, || layers.map(|layer| layer.run_here(0..1)));
        assert!(large.iter().all(|x| x.is_nan()), "{kind:?}");
        assert!(small.iter().all(|x| *x == 99.0), "{kind:?}");
    }
}

// To the last bit, of whole layers.
#[cfg(target_arch = "x86_64")]
#[test]
fn layers_of_the_machine_are_as_emulated() -> candle_core::Result<()> {
    if !simd::tiles() {
        println!("no tiles of bfloat16 here: no layers were compared");
        return Ok(());
    }
    for (kernel, stride, input, output) in [
        (3, 1, 96, 96),
        (3, 2, 75, 41),
        (2, 1, 40, 16),
        (1, 2, 128, 70),
    ] {
        let conv = Conv::new(input, output, kernel).stride(stride);
        let size = Size {
            batch: 2,
            height: 13,
            width: 21,
        };
        let (_, mut layer) = layers(Tiles::Hardware, conv, size, &[input], false)?;
        let weight = numbers(output * input * kernel * kernel, 8);
        layer.direct = Direct::new(Tiles::Hardware, &conv, &weight);
        let found = layer.run(2, 0..2);
        layer.direct = Direct::new(Tiles::Emulated, &conv, &weight);
        let expected = layer.run(2, 0..2);
        let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits();
        assert!(found.iter().zip(&expected).all(same), "{conv:?}");
    }
    println!("layers of the machine's tiles are those of emulated ones");
    Ok(())
}
