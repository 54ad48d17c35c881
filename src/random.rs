//! A small generator of random numbers whose sequence is fixed by its seed, here and in every later
//! version: results that depend on chance can be repeated.

/// The generator splitmix64 (Steele, Lea, Flood 2014, doi:10.1145/2660193.2660195).
#[derive(Debug, Clone)]
pub(crate) struct SplitMix64(u64);

impl SplitMix64 {
    /// The `stream`-th of many sequences that one seed stands for.
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        let mut generator = Self(seed);
        let first = generator.draw();
        Self(first ^ stream.wrapping_mul(0xD1B5_4A32_D192_ED03))
    }

    /// The sequence of the published code from this state on.
    pub(crate) fn from_state(state: u64) -> Self {
        Self(state)
    }

    /// Uniform in 0..`bound`, up to a bias below 2⁻³².
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.draw()) * bound as u128) >> 64) as usize
    }

    /// 64 uniform bits.
    pub(crate) fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in 0..1.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.draw() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Normal with mean 0 and deviation 1 (Box and Muller 1958).
    pub(crate) fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // First numbers for the state 0 as in the reference's C code (prng.di.unimi.it/splitmix64.c).
    #[test]
    fn the_sequence_is_the_published_one() {
        let mut generator = SplitMix64(0);
        assert_eq!(generator.draw(), 0xE220_A839_7B1D_CDAF);
        assert_eq!(generator.draw(), 0x6E78_9E6A_A1B9_65F4);
    }

    #[test]
    fn numbers_are_spread_as_they_should() {
        let mut generator = SplitMix64::new(1, 2);
        let count = 20_000;
        let (mut mean, mut normal, mut squares) = (0.0, 0.0, 0.0);
        for _ in 0..count {
            mean += generator.unit();
            let value = generator.normal();
            normal += value;
            squares += value * value;
        }
        let count = f64::from(count);
        assert!((mean / count - 0.5).abs() < 0.01);
        assert!((normal / count).abs() < 0.03);
        assert!((squares / count - 1.0).abs() < 0.05);
    }
}
