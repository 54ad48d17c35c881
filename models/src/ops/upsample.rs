//! Nearest-neighbour up-sampling.

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
