//! Chance that is looked up, not drawn in turn: each value is a function of the seed, what it is
//! for, and the time.
//!
//! So no value depends on the order of work, nothing is remembered between steps, and noise that
//! lasts is the same at any frame rate.

use crate::random::SplitMix64;

/// What a value of chance is for; values for different purposes are independent.
#[derive(Debug, Clone, Copy)]
#[repr(u64)]
pub(super) enum Purpose {
    Walker = 1,
    Body,
    Identity,
    CommonLook,
    Subspace,
    CameraLook,
    View,
    Pose,
    White,
    Left,
    Right,
    Top,
    Bottom,
    Stride,
    Miss,
    MissNow,
    Cut,
    Score,
    Clutter,
    Spot,
    SpotLook,
}

/// A generator for one purpose and the things that `parts` name.
pub(super) fn generator(seed: u64, purpose: Purpose, parts: &[u64]) -> SplitMix64 {
    SplitMix64::new(key(seed, purpose, parts), 0)
}

fn key(seed: u64, purpose: Purpose, parts: &[u64]) -> u64 {
    let mut key = SplitMix64::new(seed, purpose as u64).draw();
    for &part in parts {
        key = SplitMix64::new(key, part).draw();
    }
    key
}

/// A normal number that lasts: mean 0 and deviation 1 at any time, nearly the same a moment later,
/// independent after twice the period.
///
/// Between numbers at whole periods it goes along a circle, which keeps the deviation.
pub(super) fn lasting(seed: u64, purpose: Purpose, parts: &[u64], time: f64, period: f64) -> f64 {
    let key = key(seed, purpose, parts);
    let [before, after] = neighbours(key, time, period);
    before.1 * SplitMix64::new(key, before.0).normal()
        + after.1 * SplitMix64::new(key, after.0).normal()
}

/// Numbers of the two whole periods around `time`, with the weight that each has there; where
/// periods begin differs from key to key.
pub(super) fn neighbours(key: u64, time: f64, period: f64) -> [(u64, f64); 2] {
    let offset = SplitMix64::new(key, u64::MAX).unit();
    let at = time / period + offset;
    let number = at.floor();
    let angle = (at - number) * std::f64::consts::FRAC_PI_2;
    [
        (number as u64, angle.cos()),
        (number as u64 + 1, angle.sin()),
    ]
}

/// The key under which [`neighbours`] finds the periods of something.
pub(super) fn period_key(seed: u64, purpose: Purpose, parts: &[u64]) -> u64 {
    key(seed, purpose, parts)
}

/// Whether something happens now that happens in a share `chance` of the time.
///
/// `value` is a normal number: if it lasts, so does what happens.
pub(super) fn happens(value: f64, chance: f64) -> bool {
    normal_share_below(value) < chance
}

/// Nearly normal with deviation 1, from one draw: the sum of four uniform numbers of 16 bits, for
/// vectors of hundreds of numbers. None is beyond ±3.47.
pub(super) fn rough_normal(generator: &mut SplitMix64) -> f64 {
    let bits = generator.draw();
    let sum = (bits & 0xFFFF) + ((bits >> 16) & 0xFFFF) + ((bits >> 32) & 0xFFFF) + (bits >> 48);
    // Mean and deviation of the sum: 4 · 65,535 / 2 and √(4 · (65,536² - 1) / 12).
    (sum as f64 - 131_070.0) / 37_837.227
}

/// The share of normal numbers below `value`, to 1e-7 (Abramowitz and Stegun 1964, 26.2.17).
fn normal_share_below(value: f64) -> f64 {
    const FACTORS: [f64; 5] = [
        0.319_381_530,
        -0.356_563_782,
        1.781_477_937,
        -1.821_255_978,
        1.330_274_429,
    ];
    let t = 1.0 / (1.0 + 0.231_641_9 * value.abs());
    let mut sum = 0.0;
    for factor in FACTORS.iter().rev() {
        sum = (sum + factor) * t;
    }
    let density = (-0.5 * value * value).exp() / std::f64::consts::TAU.sqrt();
    let above = density * sum;
    if value < 0.0 { above } else { 1.0 - above }
}

/// 0 below `low`, 1 above `high`, and smooth between.
pub(super) fn smooth_step(low: f64, high: f64, value: f64) -> f64 {
    let t = ((value - low) / (high - low)).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Abramowitz and Stegun 1964, table 26.1.
    #[test]
    fn shares_are_those_of_the_tables() {
        for (value, share) in [
            (0.0, 0.5),
            (1.0, 0.841_344_746),
            (2.0, 0.977_249_868),
            (-3.0, 0.001_349_898),
        ] {
            let found = normal_share_below(value);
            assert!((found - share).abs() < 1e-7, "{value}: {found}");
        }
    }

    #[test]
    fn lasting_noise_is_normal_and_lasts() {
        let (mut squares, mut near, mut far) = (0.0, 0.0, 0.0);
        let count = 4_000_u32;
        for index in 0..count {
            let parts = [u64::from(index)];
            let at = |time| lasting(7, Purpose::Miss, &parts, time, 2.0);
            let now = at(10.3);
            squares += now * now;
            near += now * at(10.4);
            far += now * at(14.4);
        }
        let count = f64::from(count);
        assert!((squares / count - 1.0).abs() < 0.06, "{}", squares / count);
        assert!(near / count > 0.95, "{}", near / count);
        assert!((far / count).abs() < 0.06, "{}", far / count);
    }

    #[test]
    fn rough_numbers_have_deviation_one() {
        let mut generator = generator(3, Purpose::White, &[1]);
        let (mut sum, mut squares) = (0.0, 0.0);
        for _ in 0..20_000 {
            let value = rough_normal(&mut generator);
            sum += value;
            squares += value * value;
        }
        assert!((sum / 20_000.0).abs() < 0.03);
        assert!((squares / 20_000.0 - 1.0).abs() < 0.03);
    }
}
