//! Against candle, layer by layer.

use candle_core::{Device, Tensor};
use proptest::prelude::*;

use super::*;
use crate::ops::cpu::lanes::{levels, made_up_numbers};
use crate::ops::{max_of_four, max_pool2d, reference};

type Result<T> = candle_core::Result<T>;

/// Layers, and what the plain way gives for each of them.
struct Both {
    layers: Vec<Layer>,
    /// The image, and every layer's output.
    tensors: Vec<Tensor>,
    seed: u32,
}

impl Both {
    fn of(planes: usize, size: Size, seed: u32) -> Result<Self> {
        let count = size.batch * planes * size.cells();
        let shape = (size.batch, planes, size.height, size.width);
        let image = Tensor::from_vec(made_up_numbers(count, seed), shape, &Device::Cpu)?;
        Ok(Self {
            layers: Vec::new(),
            tensors: vec![image],
            seed,
        })
    }

    fn conv(&mut self, inputs: &[usize], conv: Conv, scale: [f32; 2]) -> Result<usize> {
        self.seed += 2;
        let (output, input, kernel, _) = conv.weight_shape();
        // Outputs about as large as inputs.
        let factor = 1.0 / ((input * kernel * kernel) as f32).sqrt();
        let weight = made_up_numbers(output * input * kernel * kernel, self.seed);
        let weight: Vec<f32> = weight.into_iter().map(|x| x * factor).collect();
        let bias = made_up_numbers(output, self.seed + 1);
        let parts: Vec<&Tensor> = inputs.iter().map(|input| &self.tensors[*input]).collect();
        let (x, plain) = conv.with_far_zeros(&Tensor::cat(&parts, 1)?)?;
        let tensor = Tensor::from_vec(weight.clone(), conv.weight_shape(), &Device::Cpu)?;
        let added = Tensor::new(bias.clone(), &Device::Cpu)?;
        let y = reference::conv2d(&x, &tensor, Some(&added), &plain)?;
        let y = conv.activation.apply(&y)?;
        let y = y.affine(scale[0].into(), scale[1].into())?;
        Ok(self.push(inputs, Step::Conv(conv, Folded { weight, bias }, scale), y))
    }

    fn push(&mut self, inputs: &[usize], step: Step, output: Tensor) -> usize {
        self.layers.push(Layer {
            inputs: inputs.to_vec(),
            step,
        });
        self.tensors.push(output);
        self.layers.len()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    // By candle, layer by layer: branches that meet, rows that see past the image's edges, more threads than
    // one to the last bit as one.
    #[test]
    fn layers_together_are_layers_one_by_one(
        planes in 1_usize..12, cut in 0_usize..11, eights in prop::array::uniform4(1_usize..6),
        kernel in 1_usize..8, strides in prop::array::uniform3(1_usize..3),
        batch in 1_usize..3, height in 1_usize..26, width in 1_usize..40, integers: bool,
        least in prop_oneof![Just(Activation::Relu), Just(Activation::Identity)],
        seed in 0_u32..1000,
    ) {
        let size = Size { batch, height, width };
        let [first, second, third, fourth] = eights.map(|eights| eights * EIGHT);
        let check = || -> Result<()> {
            let mut both = Both::of(planes, size, seed)?;
            let precision = if integers { Precision::Bf16 } else { Precision::F32 };
            let conv = Conv::new(planes, first, kernel).stride(strides[0]).activation(least);
            if conv.output_size(height, width).is_none() {
                return Ok(());
            }
            let x = both.conv(&[0], conv, [1.0, 0.0])?;
            if kernel * kernel.min(planes) > LINES {
                let none = Cascade::new(planes, both.layers, Level::Plain, precision);
                assert!(none.is_none());
                return Ok(());
            }
            let padded = both.tensors[x].pad_with_zeros(2, 1, 1)?.pad_with_zeros(3, 1, 1)?;
            let inside = Window { kernel: 3, stride: 2, padding: 0 };
            let pooled = max_pool2d(&padded, inside)?;
            let window = Window { padding: 1, ..inside };
            let x = both.push(&[x], Step::Largest(window, 0), pooled);
            let most = max_of_four(&both.tensors[x])?;
            let window = Window { kernel: 2, stride: 1, padding: 0 };
            let most = both.push(&[x], Step::Largest(window, 1), most);
            let two = Conv::new(first, second, 2).padding(0).far(1);
            let branch = both.conv(&[x], two.activation(Activation::Relu), [0.7, -0.2])?;
            let joined = Conv::new(first + second, third, 3).stride(strides[1]);
            let x = both.conv(&[most, branch], joined.activation(least), [1.0, 0.0])?;
            let side = Conv::depthwise(third, 3).stride(strides[2]);
            let x = both.conv(&[x], side, [1.3, 0.1])?;
            let y = both.conv(&[x], Conv::new(third, fourth, 3), [1.0, 0.0])?;
            let last = Conv::new(third + fourth, first, 1).activation(Activation::Relu);
            let y = both.conv(&[x, y], last, [1.0, 0.0])?;
            let expected = both.tensors[y].flatten_all()?.to_vec1::<f32>()?;
            // The image's planes in one tensor or in two.
            let cut = cut % planes;
            let image = &both.tensors[0];
            let parts = [image.narrow(1, 0, cut)?, image.narrow(1, cut, planes - cut)?];
            let numbers = |part: &Tensor| part.flatten_all()?.to_vec1::<f32>();
            let data = [numbers(&parts[0])?, numbers(&parts[1])?];
            let sources = [(0, cut), (1, planes - cut)].map(|(part, channels)| Source {
                data: &data[part],
                channels,
            });
            for level in levels() {
                let layers = both.layers.clone();
                let cascade = Cascade::new(planes, layers, level, precision).unwrap();
                let run = |threads: usize| {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
                    pool.build().unwrap().install(|| cascade.run(&sources, size)).unwrap()
                };
                let found = run(1);
                assert_eq!(found.len(), expected.len());
                // Inputs are off by half a unit at most, which is the largest number of their row by some 2000 and
                // more.
                let (most, mean) = if integers && fixed::available(level) {
                    (4e-3, 4e-4)
                } else {
                    (2e-5, 2e-5)
                };
                let mut sum = 0.0;
                for (found, expected) in found.iter().zip(&expected) {
                    let off = (found - expected).abs() / expected.abs().max(1.0);
                    assert!(off <= most, "{found} {expected}");
                    sum += off;
                }
                assert!(sum / found.len() as f32 <= mean, "{sum} of {}", found.len());
                assert_eq!(found, run(3));
            }
            Ok(())
        };
        check().unwrap();
    }
}
