//! The filter over `x, y, w, h` (centre, width, height) and the velocity of each, which can also
//! follow a camera that moves.
//!
//! Noise grows with the box's size, that of `x` and `w` with the width, that of `y` and `h` with
//! the height: BoT-SORT (Aharon et al., 2022, arXiv:2206.14651, section 3.1).
//!
//! Motion, measurement and noise mix no coordinate with another, but the camera's motion mixes
//! `x` with `y` and `w` with `h`. So the 8×8 covariance consists of two 4×4 blocks and zeros, and
//! only the blocks are kept.

use serde::{Deserialize, Serialize};

use super::super::camera_motion::CameraMotion;
use super::{BoxFilter, POSITION_WEIGHT, VELOCITY_WEIGHT, Xywh};

type Vector = [f64; 2];
type Matrix = [Vector; 2];

/// Two coordinates and their velocities: means, and the 4×4 covariance as four 2×2 matrices.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Pair {
    position: Vector,
    velocity: Vector,
    /// Covariance of the positions.
    position_covariance: Matrix,
    /// Covariance of positions (rows) and velocities (columns).
    cross: Matrix,
    /// Covariance of the velocities.
    velocity_covariance: Matrix,
}

/// What is believed of one box: mean and covariance.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct XywhFilter {
    centre: Pair,
    /// Width and height.
    size: Pair,
}

impl XywhFilter {
    /// The camera moved: brings the state from the frame before into this one.
    ///
    /// As in the reference, all four vectors (centre, size and their velocities) are turned and
    /// scaled by the linear part, and the centre moves on by the translation. A box under a
    /// rotation is not a box; for the small ones between two frames it hardly matters.
    pub fn follow_camera(&mut self, motion: &CameraMotion) {
        let [[a, b, x], [c, d, y]] = motion.rows;
        let linear = [[a, b], [c, d]];
        self.centre.turn(&linear);
        self.size.turn(&linear);
        self.centre.position[0] += x;
        self.centre.position[1] += y;
    }
}

impl BoxFilter for XywhFilter {
    fn initiate([x, y, width, height]: Xywh) -> Self {
        let size = [width, height];
        Self {
            centre: Pair::initiate([x, y], size),
            size: Pair::initiate(size, size),
        }
    }

    fn predict(&mut self) {
        let size = self.size.position;
        self.centre.predict(size);
        self.size.predict(size);
    }

    fn stop_size(&mut self) {
        self.size.velocity = [0.0; 2];
    }

    fn update(&mut self, measurement: Xywh) {
        let [x, y, width, height] = measurement;
        let size = self.size.position;
        let corrected = self.centre.update([x, y], size) && self.size.update([width, height], size);
        if !corrected {
            *self = Self::initiate(measurement);
        }
    }

    fn corners(&self) -> [f64; 4] {
        let ([x, y], [width, height]) = (self.centre.position, self.size.position);
        let (left, top) = (x - width / 2.0, y - height / 2.0);
        [left, top, left + width, top + height]
    }

    fn velocity(&self) -> [f64; 2] {
        self.centre.velocity
    }
}

impl Pair {
    fn initiate(position: Vector, size: Vector) -> Self {
        Self {
            position,
            velocity: [0.0; 2],
            position_covariance: diagonal(variances(2.0 * POSITION_WEIGHT, size)),
            cross: [[0.0; 2]; 2],
            velocity_covariance: diagonal(variances(10.0 * VELOCITY_WEIGHT, size)),
        }
    }

    /// F P Fᵀ + Q with F = [1 1; 0 1], in 2×2 blocks.
    fn predict(&mut self, size: Vector) {
        for (position, velocity) in self.position.iter_mut().zip(self.velocity) {
            *position += velocity;
        }
        let position_noise = diagonal(variances(POSITION_WEIGHT, size));
        let velocity_noise = diagonal(variances(VELOCITY_WEIGHT, size));
        let covariance = &mut self.position_covariance;
        add(covariance, &self.cross);
        add(covariance, &transposed(&self.cross));
        add(covariance, &self.velocity_covariance);
        add(covariance, &position_noise);
        add(&mut self.cross, &self.velocity_covariance);
        add(&mut self.velocity_covariance, &velocity_noise);
    }

    /// Corrects the state; `false` if its covariance has no inverse, which only motions of a
    /// camera that press a box to nothing can bring about.
    fn update(&mut self, measurement: Vector, size: Vector) -> bool {
        let noise = variances(POSITION_WEIGHT, size);
        let mut innovation_covariance = self.position_covariance;
        innovation_covariance[0][0] += noise[0];
        innovation_covariance[1][1] += noise[1];
        let Some(inverse) = inverted(&innovation_covariance) else {
            return false;
        };
        let position_gain = product(&self.position_covariance, &inverse);
        let velocity_gain = product(&transposed(&self.cross), &inverse);
        let innovation = [
            measurement[0] - self.position[0],
            measurement[1] - self.position[1],
        ];
        for i in 0..2 {
            for j in 0..2 {
                self.position[i] += position_gain[i][j] * innovation[j];
                self.velocity[i] += velocity_gain[i][j] * innovation[j];
            }
        }
        // P - K S Kᵀ
        let position_part = product(&position_gain, &innovation_covariance);
        let velocity_part = product(&velocity_gain, &innovation_covariance);
        let (position_gain, velocity_gain) =
            (transposed(&position_gain), transposed(&velocity_gain));
        subtract(
            &mut self.position_covariance,
            &product(&position_part, &position_gain),
        );
        subtract(&mut self.cross, &product(&position_part, &velocity_gain));
        subtract(
            &mut self.velocity_covariance,
            &product(&velocity_part, &velocity_gain),
        );
        true
    }

    /// Applies a linear map to both vectors, and to the covariance from both sides.
    fn turn(&mut self, map: &Matrix) {
        self.position = applied(map, self.position);
        self.velocity = applied(map, self.velocity);
        let back = transposed(map);
        for block in [
            &mut self.position_covariance,
            &mut self.cross,
            &mut self.velocity_covariance,
        ] {
            *block = product(&product(map, block), &back);
        }
    }
}

/// Variances of two coordinates whose standard deviations are a share of the box's size.
fn variances(share: f64, size: Vector) -> Vector {
    let deviations = [share * size[0], share * size[1]];
    [deviations[0] * deviations[0], deviations[1] * deviations[1]]
}

fn diagonal([a, d]: Vector) -> Matrix {
    [[a, 0.0], [0.0, d]]
}

fn transposed(m: &Matrix) -> Matrix {
    [[m[0][0], m[1][0]], [m[0][1], m[1][1]]]
}

fn applied(m: &Matrix, v: Vector) -> Vector {
    [
        m[0][0] * v[0] + m[0][1] * v[1],
        m[1][0] * v[0] + m[1][1] * v[1],
    ]
}

fn product(a: &Matrix, b: &Matrix) -> Matrix {
    let entry = |i: usize, j: usize| a[i][0] * b[0][j] + a[i][1] * b[1][j];
    [[entry(0, 0), entry(0, 1)], [entry(1, 0), entry(1, 1)]]
}

fn add(m: &mut Matrix, part: &Matrix) {
    for i in 0..2 {
        for j in 0..2 {
            m[i][j] += part[i][j];
        }
    }
}

fn subtract(m: &mut Matrix, part: &Matrix) {
    for i in 0..2 {
        for j in 0..2 {
            m[i][j] -= part[i][j];
        }
    }
}

/// The inverse of a covariance, or `None` if it is not one.
fn inverted(m: &Matrix) -> Option<Matrix> {
    let determinant = m[0][0] * m[1][1] - m[0][1] * m[1][0];
    if !(determinant > 0.0 && determinant.is_finite()) {
        return None;
    }
    let scale = 1.0 / determinant;
    Some([
        [m[1][1] * scale, -m[0][1] * scale],
        [-m[1][0] * scale, m[0][0] * scale],
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_near(found: f64, expected: f64) {
        assert!(
            (found - expected).abs() <= 1e-11 * expected.abs().max(1.0),
            "{found} is not {expected}"
        );
    }

    /// Numbers that the reference's `KalmanFilter` and `STrack.multi_gmc` give (NumPy 2.4.6, SciPy
    /// 1.17.1): `m, P = kf.initiate([100, 200, 25, 50])`, then twice `kf.multi_predict`,
    /// `R = np.kron(np.eye(4), [[1.01, -.02], [.03, .98]]); m = R @ m; m[:2] += [5, -3];
    /// P = R @ P @ R.T` and `kf.update` with the measurements below. The covariance is 0 where
    /// nothing is compared, and the same for centre and size.
    #[test]
    fn two_steps_with_a_moving_camera_are_the_references() {
        let motion = CameraMotion {
            rows: [[1.01, -0.02, 5.0], [0.03, 0.98, -3.0]],
        };
        let mut state = XywhFilter::initiate([100.0, 200.0, 25.0, 50.0]);
        for measurement in [[104.0, 198.0, 27.0, 52.0], [107.0, 197.0, 26.0, 53.0]] {
            state.predict();
            state.follow_camera(&motion);
            state.update(measurement);
        }
        let means = [
            (
                &state.centre.position,
                [106.81731506478684, 196.33788256665545],
            ),
            (
                &state.size.position,
                [26.103691047885718, 52.74329839795326],
            ),
            (
                &state.centre.velocity,
                [0.6399483330516597, 1.2247552910080433],
            ),
            (
                &state.size.velocity,
                [0.4228148748240589, 0.8014031959965966],
            ),
        ];
        for (found, expected) in means {
            assert_near(found[0], expected[0]);
            assert_near(found[1], expected[1]);
        }
        for pair in [&state.centre, &state.size] {
            let blocks = [
                (
                    &pair.position_covariance,
                    [
                        1.3447113313459624,
                        -0.020297578188074428,
                        -0.020297578188074428,
                        5.113750082244838,
                    ],
                ),
                (
                    &pair.cross,
                    [
                        0.5462951498249586,
                        -0.01971162436350246,
                        -0.01964655389055381,
                        2.037629932561244,
                    ],
                ),
                (
                    &pair.velocity_covariance,
                    [
                        1.3369567228735963,
                        -0.09309668729386213,
                        -0.09309668729386213,
                        4.7799761375925875,
                    ],
                ),
            ];
            for (block, expected) in blocks {
                for (found, expected) in block.iter().flatten().zip(expected) {
                    assert_near(*found, expected);
                }
            }
        }
    }

    /// By hand: a camera that stands still changes nothing, one that zooms by 2 doubles lengths
    /// and quadruples variances.
    #[test]
    fn the_cameras_zoom_scales_everything() {
        let mut state = XywhFilter::initiate([100.0, 200.0, 25.0, 50.0]);
        state.predict();
        state.update([103.0, 201.0, 26.0, 50.0]);
        let before = state;
        state.follow_camera(&CameraMotion::STILL);
        assert_eq!(state, before);
        state.follow_camera(&CameraMotion {
            rows: [[2.0, 0.0, 7.0], [0.0, 2.0, 0.0]],
        });
        let corners = before.corners().map(|v| 2.0 * v);
        assert_eq!(
            state.corners(),
            [corners[0] + 7.0, corners[1], corners[2] + 7.0, corners[3]]
        );
        assert_eq!(state.velocity()[0], 2.0 * before.velocity()[0]);
        let variance = |s: &XywhFilter| s.size.position_covariance[1][1];
        assert_eq!(variance(&state), 4.0 * variance(&before));
    }

    /// A box pressed to a point has no size to take noise from: it starts anew.
    #[test]
    fn a_state_without_inverse_starts_anew() {
        let mut state = XywhFilter::initiate([100.0, 200.0, 25.0, 50.0]);
        state.follow_camera(&CameraMotion {
            rows: [[0.0; 3]; 2],
        });
        let measurement = [10.0, 20.0, 5.0, 9.0];
        state.update(measurement);
        assert_eq!(state, XywhFilter::initiate(measurement));
    }
}
