//! From the backbone's last map to the vector: pooling, neck, reduction.

use candle_core::{Module, Result, Tensor};

use super::{Pooling, ResNet50Config};
use crate::layers::{Activation, BatchNorm, LinearNormAct, Params};
use crate::ops::plane_means;

/// Smallest number that a generalised mean looks at: fastreid's.
const GEM_EPS: f32 = 1e-6;

/// The head.
pub struct Head {
    /// Exponent of the generalised mean, `[1]`; without it the mean is the plain one.
    exponent: Option<Tensor>,
    neck: Option<BatchNorm>,
    reduction: Option<LinearNormAct>,
}

impl Head {
    /// Builds it for maps of `channels` from weights: `pool.p`, `bn`, `fc` and `bn_feat` under `params`.
    ///
    /// # Errors
    /// A tensor is missing or has the wrong shape.
    pub fn new(channels: usize, config: &ResNet50Config, params: &Params) -> Result<Self> {
        let exponent = match config.pooling {
            Pooling::Average => None,
            Pooling::GeneralizedMean => Some(params.pp("pool").get(1, "p")?),
        };
        let neck = if config.neck {
            Some(BatchNorm::new(channels, &params.pp("bn"))?)
        } else {
            None
        };
        let activation = if config.relu {
            Activation::Relu
        } else {
            Activation::Identity
        };
        let reduction = match config.reduced {
            Some(dim) => Some(LinearNormAct::new(
                channels,
                dim,
                activation,
                &params.pp("fc"),
                &params.pp("bn_feat"),
            )?),
            None => None,
        };
        Ok(Self {
            exponent,
            neck,
            reduction,
        })
    }

    /// `[batch, channels, height, width]` to `[batch, channels]`.
    ///
    /// # Errors
    /// The shape does not fit, or the device fails.
    pub fn pool(&self, map: &Tensor) -> Result<Tensor> {
        let Some(exponent) = &self.exponent else {
            return plane_means(map);
        };
        // Powers by logarithm, because gradients reach the exponent too.
        let map = map.maximum(GEM_EPS)?;
        let powers = map.log()?.broadcast_mul(exponent)?.exp()?;
        plane_means(&powers)?.log()?.broadcast_div(exponent)?.exp()
    }

    /// `[batch, channels]` to `[batch, dim]`.
    ///
    /// # Errors
    /// The shape does not fit, or the device fails.
    pub fn finish(&self, pooled: &Tensor) -> Result<Tensor> {
        let mut x = pooled.clone();
        if let Some(neck) = &self.neck {
            x = neck.forward(&x)?;
        }
        if let Some(reduction) = &self.reduction {
            x = reduction.forward(&x)?;
        }
        Ok(x)
    }
}
