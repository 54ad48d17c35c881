//! An OSNet's weights for the pass that takes all convolutions at once.

use candle_core::Result;

use crate::layers::{Conv, Params, folded_convolution};
use crate::ops::{BlockWeights, Folded, OmniScale, OmniScaleWeights};

use super::block::{BlockConfig, GATE_REDUCTION, light_conv_name};
use super::{BLOCKS, OsNetConfig};

/// The convolutions of a network without instance norms, if there are kernels for its sizes.
///
/// # Errors
/// A tensor is missing or has the wrong shape.
pub(super) fn convolutions(config: &OsNetConfig, params: &Params) -> Result<Option<OmniScale>> {
    let channels = config.channels;
    let mut stages = Vec::new();
    let mut transitions = Vec::new();
    for stage in 0..3 {
        let own = params.pp(format!("conv{}", stage + 2));
        let mut blocks = Vec::new();
        for index in 0..BLOCKS {
            blocks.push(block(&config.block(stage, index), &own.pp(index))?);
        }
        stages.push(blocks);
        if stage < 2 {
            let width = channels[stage + 1];
            let part = own.pp(format!("{BLOCKS}.0"));
            transitions.push(folded(Conv::new(width, width, 1), &part)?);
        }
    }
    let weights = OmniScaleWeights {
        stem: folded(Conv::new(3, channels[0], 7), &params.pp("conv1"))?,
        stages,
        transitions,
        last: folded(Conv::new(channels[3], channels[3], 1), &params.pp("conv5"))?,
    };
    Ok(OmniScale::new(&weights))
}

/// A convolution, its batch norm as `bn`.
fn folded(conv: Conv, params: &Params) -> Result<Folded> {
    folded_convolution(&conv, &params.pp("conv"), &params.pp("bn"))
}

/// A 1×1 convolution with bias.
fn biased(input: usize, output: usize, params: &Params) -> Result<Folded> {
    let weight = params.get((output, input, 1, 1), "weight")?;
    Ok(Folded {
        weight: weight.flatten_all()?.to_vec1()?,
        bias: params.get(output, "bias")?.to_vec1()?,
    })
}

fn block(config: &BlockConfig, params: &Params) -> Result<BlockWeights> {
    let (input, output, middle) = (config.input, config.output, config.middle());
    let mut streams: [Vec<_>; crate::ops::STREAMS] = Default::default();
    for (stream, lights) in streams.iter_mut().enumerate() {
        for index in 0..=stream {
            let own = params.pp(light_conv_name(config.ain, stream, index));
            let pointwise = own.pp("conv1").get((middle, middle, 1, 1), "weight")?;
            let pointwise = pointwise.flatten_all()?.to_vec1()?;
            let depthwise = Conv::depthwise(middle, 3);
            let depthwise = folded_convolution(&depthwise, &own.pp("conv2"), &own.pp("bn"))?;
            lights.push((pointwise, depthwise));
        }
    }
    let inner = middle / GATE_REDUCTION;
    let gate = params.pp("gate");
    let shortcut = if input == output {
        None
    } else {
        Some(folded(
            Conv::new(input, output, 1),
            &params.pp("downsample"),
        )?)
    };
    Ok(BlockWeights {
        narrow: folded(Conv::new(input, middle, 1), &params.pp("conv1"))?,
        streams,
        gate: [
            biased(middle, inner, &gate.pp("fc1"))?,
            biased(inner, middle, &gate.pp("fc2"))?,
        ],
        widen: folded(Conv::new(middle, output, 1), &params.pp("conv3"))?,
        shortcut,
    })
}
