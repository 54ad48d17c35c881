//! Layers of the backbone that a CPU computes together, row by row: whose maps are large for what is computed
//! in them.

use candle_core::Result;

use super::{Affine, HgNetV2Config, StageConfig, Stem, aggregating, halving};
use crate::layers::{Activation, Conv, Params, folded_convolution};
use crate::ops::{Cascade, CascadeLayer, CascadeStep, Precision, Window};

/// Most channels of dense 3×3 layers that minimal filtering makes no quicker, as transforms take too much of it.
const NARROW: usize = 16;

/// The stem and, of sizes whose first stage is narrow, that stage and what halves its output: the beginning of
/// the backbone, and how many stages it has. `None` where layers are computed one by one.
///
/// # Errors
/// A tensor is missing or has the wrong shape.
pub(super) fn beginning(
    config: &HgNetV2Config,
    params: &Params,
) -> Result<Option<(Cascade, usize)>> {
    if !params.has_cpu_kernels() {
        return Ok(None);
    }
    let mut recorder = Recorder::new(config);
    let top = recorder.stem(&params.pp("stem"))?;
    let mut done = 0;
    if let [first, _, ..] = config.stages.as_slice()
        && first.middle <= NARROW
        && first.blocks == 1
        && config.first_returned > 0
    {
        let params = params.pp("stages");
        let top = recorder.block(top, first, &params.pp(0).pp("blocks").pp(0))?;
        recorder.push(
            &[top],
            halving(first.output),
            &params.pp(1).pp("downsample"),
        )?;
        done = 1;
    }
    let cascade = Cascade::new(3, recorder.layers, params.precision_of_products());
    Ok(cascade.map(|cascade| (cascade, done)))
}

/// The aggregation `params` of a stage's only block, and what halves its output, `next`. `None` where layers are
/// computed one by one.
///
/// # Errors
/// A tensor is missing or has the wrong shape.
pub(super) fn aggregation(
    config: &HgNetV2Config,
    convs: [Conv; 2],
    params: &Params,
    next: &Params,
) -> Result<Option<Cascade>> {
    // In bfloat16 products are quicker one by one.
    if !params.has_cpu_kernels() || params.precision_of_products() != Precision::F32 {
        return Ok(None);
    }
    let mut recorder = Recorder::new(config);
    let top = recorder.aggregation(&[0], convs, params)?;
    recorder.push(&[top], halving(convs[1].output), next)?;
    Ok(Cascade::new(
        convs[0].input,
        recorder.layers,
        Precision::F32,
    ))
}

/// Layers for a [`Cascade`], by the names of their weights.
struct Recorder<'a> {
    config: &'a HgNetV2Config,
    layers: Vec<CascadeLayer>,
}

impl<'a> Recorder<'a> {
    fn new(config: &'a HgNetV2Config) -> Self {
        Self {
            config,
            layers: Vec::new(),
        }
    }

    /// A convolution of `inputs`, the image 0 and layers from 1 on; gives its own number.
    fn push(&mut self, inputs: &[usize], conv: Conv, params: &Params) -> Result<usize> {
        let folded = folded_convolution(&conv, &params.pp("conv"), &params.pp("bn"))?;
        let scale = match Affine::new(&conv, self.config.affine, params)? {
            Some(affine) => affine.numbers()?,
            None => [1.0, 0.0],
        };
        Ok(self.layer(inputs, CascadeStep::Conv(conv, folded, scale)))
    }

    fn layer(&mut self, inputs: &[usize], step: CascadeStep) -> usize {
        self.layers.push(CascadeLayer {
            inputs: inputs.to_vec(),
            step,
        });
        self.layers.len()
    }

    /// As [`Stem::forward`].
    fn stem(&mut self, params: &Params) -> Result<usize> {
        let [stem1, stem2a, stem2b, stem3, stem4] = Stem::convolutions(self.config);
        let mut push = |inputs: &[usize], (name, conv)| self.push(inputs, conv, &params.pp(name));
        let x = push(&[0], stem1)?;
        let branch = push(&[x], stem2a)?;
        let branch = push(&[branch], stem2b)?;
        let four = Window {
            kernel: 2,
            stride: 1,
            padding: 0,
        };
        let pooled = self.layer(&[x], CascadeStep::Largest(four, 1));
        let mut push = |inputs: &[usize], (name, conv)| self.push(inputs, conv, &params.pp(name));
        let x = push(&[pooled, branch], stem3)?;
        push(&[x], stem4)
    }

    /// As [`super::Block`]'s `forward` of a block without residual, on what `input` gives.
    fn block(&mut self, input: usize, stage: &StageConfig, params: &Params) -> Result<usize> {
        let mut outputs = vec![input];
        for index in 0..self.config.layers {
            let channels = if index == 0 {
                self.config.stem.1
            } else {
                stage.middle
            };
            let conv = Conv::new(channels, stage.middle, 3).activation(Activation::Relu);
            let last = outputs[index];
            outputs.push(self.push(&[last], conv, &params.pp("layers").pp(index))?);
        }
        let convs = aggregating(self.config, self.config.stem.1, stage);
        self.aggregation(&outputs, convs, &params.pp("aggregation"))
    }

    /// As [`super::Aggregation`].
    fn aggregation(
        &mut self,
        inputs: &[usize],
        [squeeze, excite]: [Conv; 2],
        params: &Params,
    ) -> Result<usize> {
        let y = self.push(inputs, squeeze, &params.pp(0))?;
        self.push(&[y], excite, &params.pp(1))
    }
}
