//! The filter over `x, y, a, h` (centre, aspect ratio width / height, height) and the velocity of
//! each.
//!
//! Noise grows with the box's height: DeepSORT (Wojke et al., 2017, arXiv:1703.07402), kept by
//! ByteTrack.
//!
//! Motion, measurement and noise mix no coordinate with another, so the 8×8 covariance always
//! consists of four 2×2 blocks (position, velocity) and zeros. Only the blocks are kept, which
//! gives what the full matrices give, up to rounding, at a tenth of the work.

use serde::{Deserialize, Serialize};

use super::{BoxFilter, POSITION_WEIGHT, VELOCITY_WEIGHT, Xywh};

/// Centre x, centre y, width / height, height; pixels.
type Xyah = [f64; 4];

/// Place of the height in [`Xyah`].
const HEIGHT: usize = 3;
/// Place of the aspect ratio in [`Xyah`].
const ASPECT: usize = 2;

/// Covariance of one coordinate and its velocity: a symmetric 2×2 matrix.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Covariance {
    /// Variance of the coordinate.
    position: f64,
    /// Covariance of the coordinate and its velocity.
    cross: f64,
    /// Variance of the velocity.
    velocity: f64,
}

/// What is believed of one box: mean and covariance.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct XyahFilter {
    /// Mean of the box.
    position: Xyah,
    /// Mean of its change a frame.
    velocity: Xyah,
    /// One block a coordinate.
    covariance: [Covariance; 4],
}

impl BoxFilter for XyahFilter {
    fn initiate(measurement: Xywh) -> Self {
        let measurement = xyah(measurement);
        let position = noise(2.0 * POSITION_WEIGHT * measurement[HEIGHT], 1e-2);
        let velocity = noise(10.0 * VELOCITY_WEIGHT * measurement[HEIGHT], 1e-5);
        let block = |i: usize| Covariance {
            position: position[i],
            cross: 0.0,
            velocity: velocity[i],
        };
        Self {
            position: measurement,
            velocity: [0.0; 4],
            covariance: [block(0), block(1), block(2), block(3)],
        }
    }

    fn predict(&mut self) {
        let height = self.position[HEIGHT];
        let position_noise = noise(POSITION_WEIGHT * height, 1e-2);
        let velocity_noise = noise(VELOCITY_WEIGHT * height, 1e-5);
        for i in 0..4 {
            self.position[i] += self.velocity[i];
            let block = &mut self.covariance[i];
            // F P Fᵀ + Q with F = [1 1; 0 1].
            let cross = block.cross + block.velocity;
            block.position = (block.position + block.cross) + cross + position_noise[i];
            block.cross = cross;
            block.velocity += velocity_noise[i];
        }
    }

    fn stop_size(&mut self) {
        // The aspect ratio goes on changing, as in ByteTrack's reference.
        self.velocity[HEIGHT] = 0.0;
    }

    fn update(&mut self, measurement: Xywh) {
        let measurement = xyah(measurement);
        let measurement_noise = noise(POSITION_WEIGHT * self.position[HEIGHT], 1e-1);
        for i in 0..4 {
            let block = &mut self.covariance[i];
            let innovation_variance = block.position + measurement_noise[i];
            let position_gain = block.position / innovation_variance;
            let velocity_gain = block.cross / innovation_variance;
            let innovation = measurement[i] - self.position[i];
            self.position[i] += innovation * position_gain;
            self.velocity[i] += innovation * velocity_gain;
            // P - K S Kᵀ
            block.position -= position_gain * innovation_variance * position_gain;
            block.cross -= position_gain * innovation_variance * velocity_gain;
            block.velocity -= velocity_gain * innovation_variance * velocity_gain;
        }
    }

    fn corners(&self) -> [f64; 4] {
        let [x, y, aspect, height] = self.position;
        let width = aspect * height;
        let (left, top) = (x - width / 2.0, y - height / 2.0);
        [left, top, left + width, top + height]
    }

    fn velocity(&self) -> [f64; 2] {
        [self.velocity[0], self.velocity[1]]
    }
}

fn xyah([x, y, width, height]: Xywh) -> Xyah {
    [x, y, width / height, height]
}

/// Variances of the four coordinates, from the standard deviation of lengths and of the ratio.
fn noise(length: f64, aspect: f64) -> [f64; 4] {
    let mut variances = [length * length; 4];
    variances[ASPECT] = aspect * aspect;
    variances
}

#[cfg(test)]
mod tests {
    use super::*;

    type Matrix = [[f64; 8]; 8];

    fn product(a: &Matrix, b: &Matrix) -> Matrix {
        let mut result = [[0.0; 8]; 8];
        for i in 0..8 {
            for j in 0..8 {
                for (k, row) in b.iter().enumerate() {
                    result[i][j] += a[i][k] * row[j];
                }
            }
        }
        result
    }

    fn full(state: &XyahFilter) -> Matrix {
        let mut matrix = [[0.0; 8]; 8];
        for (i, block) in state.covariance.iter().enumerate() {
            matrix[i][i] = block.position;
            matrix[i][i + 4] = block.cross;
            matrix[i + 4][i] = block.cross;
            matrix[i + 4][i + 4] = block.velocity;
        }
        matrix
    }

    fn assert_close(found: &Matrix, expected: &Matrix) {
        for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
            assert!((found - expected).abs() <= 1e-12 * expected.abs().max(1.0));
        }
    }

    fn assert_near(found: f64, expected: f64) {
        assert!(
            (found - expected).abs() <= 1e-11 * expected.abs(),
            "{found} is not {expected}"
        );
    }

    /// The textbook's `F P Fᵀ + Q` with full matrices.
    #[test]
    fn blocks_predict_what_full_matrices_predict() {
        let mut state = XyahFilter::initiate([320.0, 240.0, 32.0, 80.0]);
        state.update([322.0, 239.0, 33.21, 81.0]);
        state.predict();
        state.velocity = [1.5, -0.5, 0.001, 0.25];
        let (before, height) = (full(&state), state.position[HEIGHT]);
        let mut motion = [[0.0; 8]; 8];
        let mut transposed = motion;
        for i in 0..8 {
            motion[i][i] = 1.0;
            transposed[i][i] = 1.0;
            if i < 4 {
                motion[i][i + 4] = 1.0;
                transposed[i + 4][i] = 1.0;
            }
        }
        let mut expected = product(&product(&motion, &before), &transposed);
        for i in 0..4 {
            let (position, velocity) = if i == ASPECT {
                (1e-2, 1e-5)
            } else {
                (height / 20.0, height / 160.0)
            };
            expected[i][i] += position * position;
            expected[i + 4][i + 4] += velocity * velocity;
        }
        state.predict();
        assert_close(&full(&state), &expected);
    }

    /// Numbers that the reference's `KalmanFilter` gives (NumPy 2.4.6, SciPy 1.17.1):
    /// `m, P = kf.initiate([100, 200, 0.5, 50]); m, P = kf.multi_predict(m[None], P[None])`,
    /// then `kf.update(m[0], P[0], [104, 198, 0.52, 52])`, twice.
    #[test]
    fn two_steps_are_the_references() {
        let mut state = XyahFilter::initiate([100.0, 200.0, 25.0, 50.0]);
        for measurement in [[104.0, 198.0, 27.04, 52.0], [107.0, 197.0, 27.03, 53.0]] {
            state.predict();
            state.update(measurement);
        }
        let position = [
            106.3738165238233,
            197.19723822032478,
            0.5006684449291173,
            52.80276177967523,
        ];
        let velocity = [
            1.6679830187896374,
            -0.6782943453679899,
            4.741953630843481e-10,
            0.6782943453679899,
        ];
        let length = [5.223418738943206, 2.1170868972777246, 5.104960773847905];
        let aspect = [
            0.00028756473776645814,
            2.8946865691025166e-10,
            2.999999903923068e-10,
        ];
        for i in 0..4 {
            let block = &state.covariance[i];
            let variances = if i == ASPECT { aspect } else { length };
            assert_near(state.position[i], position[i]);
            assert_near(state.velocity[i], velocity[i]);
            assert_near(block.position, variances[0]);
            assert_near(block.cross, variances[1]);
            assert_near(block.velocity, variances[2]);
        }
    }

    #[test]
    fn corners_are_around_the_centre() {
        let state = XyahFilter::initiate([100.0, 200.0, 25.0, 50.0]);
        assert_eq!(state.corners(), [87.5, 175.0, 112.5, 225.0]);
    }
}
