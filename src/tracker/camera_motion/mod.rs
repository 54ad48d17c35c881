//! How the camera moved between two frames: what a tracker needs to tell its own motion from
//! people's.

use serde::{Deserialize, Serialize};

/// Where a point of the frame before lies in this frame, by an affine map.
///
/// Row by row `[a, b, tx]`, `[c, d, ty]`, in pixels of the full frame:
/// x' = a·x + b·y + tx, y' = c·x + d·y + ty.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CameraMotion {
    /// The two rows.
    pub rows: [[f64; 3]; 2],
}

impl CameraMotion {
    /// A camera that stood still.
    pub const STILL: Self = Self {
        rows: [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]],
    };
}
