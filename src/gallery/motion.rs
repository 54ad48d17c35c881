//! Where a person is on the map: a Kalman filter over position, velocity and height, corrected by
//! boxes in the cameras' images.
//!
//! Constant velocity with white-noise acceleration (Bar-Shalom, Li and Kirubarajan 2001, section
//! 6.3.2); an extended filter, since pictures are not linear in the map. Measurements are scalars
//! with independent noise and enter one after the other, which needs no matrix inverse and sums up
//! to the same likelihood.

use serde::{Deserialize, Serialize};

use crate::homography::MapPoint;

/// Position x, y; velocity x, y; height.
const STATES: usize = 5;

/// The states that a picture shows: x, y, height.
const SHOWN: [usize; 3] = [0, 1, 4];

/// What one edge of a box says.
#[derive(Debug, Clone, Copy, Default)]
pub struct Row {
    /// Measured minus predicted, in pixels.
    pub residual: f64,
    /// Change of the prediction with x, y and height, in pixels a map unit.
    pub slope: [f64; 3],
    /// Variance of the measurement, in square pixels.
    pub variance: f64,
}

/// What one box says of one person, linearised at one place.
#[derive(Debug, Clone, Copy)]
pub struct Measurement {
    rows: [Row; 3],
    count: usize,
    /// Where the rows were linearised: x, y, height.
    at: [f64; 3],
}

impl Measurement {
    /// Of up to three rows, linearised where `motion` is.
    pub fn new(motion: &Motion, rows: &[Row]) -> Self {
        let empty = Row {
            residual: 0.0,
            slope: [0.0; 3],
            variance: 1.0,
        };
        let mut kept = [empty; 3];
        let count = rows.len().min(3);
        kept[..count].copy_from_slice(&rows[..count]);
        Self {
            rows: kept,
            count,
            at: SHOWN.map(|state| motion.mean[state]),
        }
    }

    /// How many edges of the box were measured.
    pub fn rows(&self) -> usize {
        self.count
    }
}

/// How well a measurement fits.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fit {
    /// Squared Mahalanobis distance.
    pub distance: f64,
    /// Logarithm of how much wider the prediction makes the measurement: ln(det S / det R).
    pub spread: f64,
}

/// How motion is modelled; map units are metres if the map's are.
#[derive(Debug, Clone, Copy)]
pub struct MotionModel {
    /// Standard deviation of the acceleration, in map units a second squared.
    pub acceleration: f64,
    /// Height of a person before it is known, in map units.
    pub height: f64,
    /// Its standard deviation.
    pub height_spread: f64,
}

/// A person's place, with its uncertainty.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Motion {
    mean: [f64; STATES],
    covariance: [[f64; STATES]; STATES],
}

/// Standard deviation of a new person's position, in map units.
const NEW_POSITION: f64 = 0.22;
/// Standard deviation of a new person's velocity, in map units a second.
const NEW_VELOCITY: f64 = 0.7;
/// Largest standard deviation of a position that the filter keeps: beyond it nothing is known.
const LOST_POSITION: f64 = 100.0;
/// Standard deviation by which a height may drift, per square root of a second.
const HEIGHT_DRIFT: f64 = 0.01;

impl Motion {
    /// Someone who is first seen at `place`.
    pub fn at(place: MapPoint, model: &MotionModel) -> Self {
        let mut covariance = [[0.0; STATES]; STATES];
        let deviations = [
            NEW_POSITION,
            NEW_POSITION,
            NEW_VELOCITY,
            NEW_VELOCITY,
            model.height_spread,
        ];
        for (state, deviation) in deviations.into_iter().enumerate() {
            covariance[state][state] = deviation * deviation;
        }
        Self {
            mean: [place.x, place.y, 0.0, 0.0, model.height],
            covariance,
        }
    }

    /// The most likely position.
    pub fn position(&self) -> MapPoint {
        MapPoint {
            x: self.mean[0],
            y: self.mean[1],
        }
    }

    /// Velocity x, y in map units a second.
    pub fn velocity(&self) -> [f64; 2] {
        [self.mean[2], self.mean[3]]
    }

    /// Height in map units.
    pub fn height(&self) -> f64 {
        self.mean[4]
    }

    /// Standard deviation of the position, in its worse direction's bound (root of the trace).
    pub fn uncertainty(&self) -> f64 {
        (self.covariance[0][0] + self.covariance[1][1]).sqrt()
    }

    /// Variance of something that changes by `slope` with x, y and height.
    pub fn variance_along(&self, slope: [f64; 3]) -> f64 {
        let mut sum = 0.0;
        for a in 0..3 {
            for b in 0..3 {
                sum += slope[a] * self.covariance[SHOWN[a]][SHOWN[b]] * slope[b];
            }
        }
        sum
    }

    /// Moves on by `seconds`.
    pub fn predict(&mut self, seconds: f64, model: &MotionModel) {
        // Beyond that nothing is known of the place, and numbers must stay numbers.
        let known = self.uncertainty() < LOST_POSITION;
        for axis in 0..2 {
            let velocity = axis + 2;
            if known {
                self.mean[axis] += seconds * self.mean[velocity];
            } else {
                self.mean[velocity] = 0.0;
                continue;
            }
            for state in 0..STATES {
                self.covariance[axis][state] += seconds * self.covariance[velocity][state];
            }
            for state in 0..STATES {
                self.covariance[state][axis] += seconds * self.covariance[state][velocity];
            }
            let power = model.acceleration * model.acceleration;
            self.covariance[axis][axis] += power * seconds.powi(4) / 4.0;
            self.covariance[axis][velocity] += power * seconds.powi(3) / 2.0;
            self.covariance[velocity][axis] += power * seconds.powi(3) / 2.0;
            self.covariance[velocity][velocity] += power * seconds.powi(2);
        }
        self.covariance[4][4] += HEIGHT_DRIFT * HEIGHT_DRIFT * seconds;
    }

    /// Takes in a measurement and tells how well it fitted.
    pub fn correct(&mut self, measurement: &Measurement) -> Fit {
        let mut fit = Fit::default();
        // The rows were linearised elsewhere if others were taken in since.
        let moved: [f64; 3] = std::array::from_fn(|i| self.mean[SHOWN[i]] - measurement.at[i]);
        let mut shift = moved;
        for row in &measurement.rows[..measurement.count] {
            let predicted: f64 = (0..3).map(|i| row.slope[i] * shift[i]).sum();
            let innovation = row.residual - predicted;
            // P·Jᵀ, then S = J·P·Jᵀ + R.
            let gain: [f64; STATES] = std::array::from_fn(|state| {
                (0..3)
                    .map(|i| self.covariance[state][SHOWN[i]] * row.slope[i])
                    .sum()
            });
            let inner: f64 = (0..3).map(|i| row.slope[i] * gain[SHOWN[i]]).sum();
            let variance = inner + row.variance;
            fit.distance += innovation * innovation / variance;
            fit.spread += (variance / row.variance).ln();
            for (mean, gain) in self.mean.iter_mut().zip(gain) {
                *mean += gain * innovation / variance;
            }
            for a in 0..STATES {
                for b in 0..STATES {
                    self.covariance[a][b] -= gain[a] * gain[b] / variance;
                }
            }
            shift = std::array::from_fn(|i| self.mean[SHOWN[i]] - measurement.at[i]);
        }
        fit
    }

    /// How well a measurement would fit.
    pub fn fit(&self, measurement: &Measurement) -> Fit {
        let mut copy = *self;
        copy.correct(measurement)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: MotionModel = MotionModel {
        acceleration: 1.0,
        height: 1.6,
        height_spread: 0.1,
    };

    fn look(motion: &Motion, x: f64, y: f64) -> Measurement {
        // A camera straight above: one pixel a centimetre.
        let row = |residual: f64, slope| Row {
            residual: residual * 100.0,
            slope,
            variance: 25.0,
        };
        let place = motion.position();
        Measurement::new(
            motion,
            &[
                row(x - place.x, [100.0, 0.0, 0.0]),
                row(y - place.y, [0.0, 100.0, 0.0]),
            ],
        )
    }

    #[test]
    fn a_walker_is_followed_and_his_speed_learned() {
        let mut motion = Motion::at(MapPoint { x: 0.0, y: 0.0 }, &MODEL);
        for step in 1..=40 {
            motion.predict(0.25, &MODEL);
            let measurement = look(&motion, 0.3 * f64::from(step), 0.0);
            motion.correct(&measurement);
        }
        assert!((motion.position().x - 12.0).abs() < 0.02, "{motion:?}");
        assert!((motion.velocity()[0] - 1.2).abs() < 0.05, "{motion:?}");
        assert!((motion.height() - 1.6).abs() < 1e-9);
    }

    // By hand: variance of the position 0.22² m² = 484 px², and 25 px² of noise; 30 px off.
    #[test]
    fn fit_is_the_mahalanobis_distance() {
        let motion = Motion::at(MapPoint { x: 0.0, y: 0.0 }, &MODEL);
        let fit = motion.fit(&look(&motion, 0.3, 0.0));
        assert!((fit.distance - 900.0 / 509.0).abs() < 1e-9, "{fit:?}");
        assert!((fit.spread - 2.0 * (509.0_f64 / 25.0).ln()).abs() < 1e-9);
    }

    #[test]
    fn order_of_measurements_does_not_matter() {
        let mut a = Motion::at(MapPoint { x: 1.0, y: 2.0 }, &MODEL);
        let mut b = a;
        let (first, second) = (look(&a, 1.1, 2.0), look(&a, 0.9, 2.2));
        a.correct(&first);
        a.correct(&second);
        b.correct(&second);
        b.correct(&first);
        for state in 0..STATES {
            assert!((a.mean[state] - b.mean[state]).abs() < 1e-9);
        }
    }

    #[test]
    fn whoever_is_lost_for_long_stays_a_number() {
        let mut motion = Motion::at(MapPoint { x: 0.0, y: 0.0 }, &MODEL);
        for _ in 0..1_000 {
            motion.predict(60.0, &MODEL);
        }
        assert!(motion.uncertainty().is_finite() && motion.position().x.is_finite());
    }
}
