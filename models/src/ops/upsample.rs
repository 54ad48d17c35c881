//! Nearest-neighbour up-sampling, and levels of several sizes joined by it.

use candle_core::{Result, Tensor};

/// Up-samples `[batch, channels, h, w]` to `height` × `width`.
///
/// # Errors
/// The shape does not fit, or the device fails.
pub fn upsample_nearest(x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    if !x.track_op() {
        return x.upsample_nearest2d(height, width);
    }
    // A node of its own: candle 0.11 lets this operation's gradient replace, not join, what its
    // argument gets from elsewhere.
    x.affine(1.0, 0.0)?.upsample_nearest2d(height, width)
}

/// One tensor of the channels of all `parts`, `[batch, channels, height, width]`, up-sampled where they
/// are smaller than the last one.
///
/// # Errors
/// There are none, the shapes do not fit, or the device fails.
pub fn joined(parts: &[&Tensor]) -> Result<Tensor> {
    let Some(last) = parts.last() else {
        candle_core::bail!("no tensors to join");
    };
    if let [part] = parts {
        return Ok((*part).clone());
    }
    let (_, _, height, width) = last.dims4()?;
    let mut levels = Vec::with_capacity(parts.len());
    for part in parts {
        let (_, _, rows, columns) = part.dims4()?;
        levels.push(if (rows, columns) == (height, width) {
            (*part).clone()
        } else {
            upsample_nearest(part, height, width)?
        });
    }
    Tensor::cat(&levels, 1)
}
