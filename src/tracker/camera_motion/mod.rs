//! How the camera moved between two frames: what a tracker needs to tell its own motion from
//! people's.
//!
//! [`MotionEstimator`] finds it in the pictures, [`CameraMotion::read_file`] reads what was found
//! before. Which methods there are and their parameters follow BoT-SORT (N. Aharon et al.,
//! BoT-SORT: robust associations multi-pedestrian tracking, arXiv:2206.14651).

mod corners;
mod ecc;
mod estimator;
mod file;
mod flow;
mod orb;
mod plane;
mod simd;
mod similarity;

pub use estimator::{
    MotionCounts, MotionEstimator, MotionMethod, MotionOutcome, MotionSettings, StillReason,
};

use serde::{Deserialize, Serialize};

/// Where a point of the frame before lies in this frame, by an affine map.
///
/// Row by row `[a, b, tx]`, `[c, d, ty]`, in pixels of the full frame:
/// x' = a·x + b·y + tx, y' = c·x + d·y + ty. The centre of the frame's first pixel is (0, 0).
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

    /// Where the point (x, y) of the frame before lies in this one.
    pub fn apply(&self, x: f64, y: f64) -> (f64, f64) {
        let [[a, b, tx], [c, d, ty]] = self.rows;
        (a * x + b * y + tx, c * x + d * y + ty)
    }

    /// First this motion, then `next`.
    #[must_use]
    pub fn compose(&self, next: &Self) -> Self {
        let [[a, b, tx], [c, d, ty]] = self.rows;
        let rows = next
            .rows
            .map(|[p, q, shift]| [p * a + q * c, p * b + q * d, p * tx + q * ty + shift]);
        Self { rows }
    }

    /// The way back; `None` if the motion makes the plane a line, or is not finite.
    #[must_use]
    pub fn inverse(&self) -> Option<Self> {
        let [[a, b, tx], [c, d, ty]] = self.rows;
        let determinant = a * d - b * c;
        if determinant == 0.0 || !determinant.is_finite() {
            return None;
        }
        let (p, q) = (d / determinant, -b / determinant);
        let (r, s) = (-c / determinant, a / determinant);
        let inverse = Self {
            rows: [[p, q, -(p * tx + q * ty)], [r, s, -(r * tx + s * ty)]],
        };
        inverse
            .rows
            .as_flattened()
            .iter()
            .all(|v| v.is_finite())
            .then_some(inverse)
    }

    /// Whether nothing moves at all.
    pub fn is_still(&self) -> bool {
        *self == Self::STILL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // A quarter turn and a shift, by hand: (x, y) -> (5 - y, x + 2).
    const TURN: CameraMotion = CameraMotion {
        rows: [[0.0, -1.0, 5.0], [1.0, 0.0, 2.0]],
    };
    const GROW: CameraMotion = CameraMotion {
        rows: [[2.0, 0.0, 1.0], [0.0, 4.0, 0.0]],
    };

    #[test]
    fn motions_apply_one_after_the_other() {
        assert_eq!(TURN.apply(3.0, 1.0), (4.0, 5.0));
        assert_eq!(TURN.compose(&GROW).apply(3.0, 1.0), (9.0, 20.0));
        assert_eq!(GROW.compose(&TURN).apply(3.0, 1.0), (1.0, 9.0));
        assert_eq!(TURN.compose(&CameraMotion::STILL), TURN);
    }

    #[test]
    fn inverses_lead_back() {
        for motion in [TURN, GROW, CameraMotion::STILL] {
            let back = motion.inverse().unwrap();
            assert!(motion.compose(&back).is_still());
        }
        let line = CameraMotion {
            rows: [[1.0, 2.0, 0.0], [2.0, 4.0, 0.0]],
        };
        assert_eq!(line.inverse(), None);
        let absurd = CameraMotion {
            rows: [[f64::NAN, 0.0, 0.0], [0.0, 1.0, 0.0]],
        };
        assert_eq!(absurd.inverse(), None);
        assert!(!TURN.is_still());
    }
}
