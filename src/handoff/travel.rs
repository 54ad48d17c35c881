//! How long people take from camera to camera, learnt from handoffs that were completed.
//!
//! Travel times are taken to be log-normal, with 1 second added so that 0 is possible. What the
//! settings say of a link (its least and most seconds) is taken as three standard deviations to
//! either side and weighs as much as [`PRIOR_COUNT`] handoffs; the last [`MEMORY`] handoffs or so
//! weigh with it (normal-inverse-gamma, Murphy 2007, with exponential forgetting).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::gallery::{Link, Topology};

/// Handoffs that the settings of a link weigh as much as.
pub const PRIOR_COUNT: f64 = 10.0;

/// Handoffs after which old ones begin to be forgotten.
pub const MEMORY: f64 = 200.0;

/// Standard deviations to either side of the mean that a gate lets pass.
const WIDTH: f64 = 3.0;

/// Least standard deviation of the logarithm of seconds.
const LEAST_DEVIATION: f64 = 0.05;

/// What is known of one direction between two cameras.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Pair {
    overlap: bool,
    /// Least and most seconds by the settings.
    window: [f64; 2],
    /// Handoffs that count, at most [`MEMORY`].
    weight: f64,
    /// Mean of ln(1 + seconds) over them.
    mean: f64,
    /// Sum of squared deviations from the mean.
    squares: f64,
    /// All handoffs that ever counted.
    count: u64,
}

impl Pair {
    fn new(link: Link) -> Self {
        Self {
            overlap: link.overlap,
            window: link.seconds,
            weight: 0.0,
            mean: 0.0,
            squares: 0.0,
            count: 0,
        }
    }

    fn record(&mut self, seconds: f64) {
        let value = seconds.ln_1p();
        if self.weight >= MEMORY {
            let kept = (MEMORY - 1.0) / self.weight;
            self.weight *= kept;
            self.squares *= kept;
        }
        self.weight += 1.0;
        let before = value - self.mean;
        self.mean += before / self.weight;
        self.squares += before * (value - self.mean);
        self.count += 1;
    }

    /// Mean and standard deviation of ln(1 + seconds), settings and handoffs together.
    fn belief(&self) -> (f64, f64) {
        let [least, most] = self.window.map(f64::ln_1p);
        let middle = f64::midpoint(least, most);
        let deviation = (most - least) / (2.0 * WIDTH);
        let total = PRIOR_COUNT + self.weight;
        let mean = (PRIOR_COUNT * middle + self.weight * self.mean) / total;
        let apart = self.mean - middle;
        let squares = PRIOR_COUNT * deviation * deviation
            + self.squares
            + PRIOR_COUNT * self.weight / total * apart * apart;
        (mean, (squares / total).sqrt().max(LEAST_DEVIATION))
    }

    fn gate(&self) -> [f64; 2] {
        if self.count == 0 {
            return self.window;
        }
        let (mean, deviation) = self.belief();
        let least = (mean - WIDTH * deviation).exp_m1().max(0.0);
        let most = (mean + WIDTH * deviation).exp_m1();
        [if self.overlap { 0.0 } else { least }, most]
    }

    fn plausibility(&self, seconds: f64) -> f64 {
        let (mean, deviation) = self.belief();
        let apart = (seconds.ln_1p() - mean) / deviation;
        // Where cameras overlap, sooner than usual is no wonder.
        if self.overlap && apart <= 0.0 {
            return 1.0;
        }
        (-0.5 * apart * apart).exp()
    }
}

/// Travel times of every ordered pair of cameras that are linked. Its size is that of the links.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct TravelTimes {
    pairs: BTreeMap<usize, BTreeMap<usize, Pair>>,
}

impl TravelTimes {
    /// As the settings say; of links their seconds count, also of those that overlap.
    pub fn new(links: impl IntoIterator<Item = (usize, usize, Link)>) -> Self {
        let mut pairs: BTreeMap<usize, BTreeMap<usize, Pair>> = BTreeMap::new();
        for (from, to, link) in links {
            pairs.entry(from).or_default().insert(to, Pair::new(link));
        }
        Self { pairs }
    }

    fn pair(&self, from: usize, to: usize) -> Option<&Pair> {
        self.pairs.get(&from)?.get(&to)
    }

    /// Counts a handoff that took `seconds`. Cameras without a link and times that are none are left
    /// out.
    pub fn record(&mut self, from: usize, to: usize, seconds: f64) {
        let pair = self
            .pairs
            .get_mut(&from)
            .and_then(|to_all| to_all.get_mut(&to));
        let Some(pair) = pair else { return };
        if seconds >= 0.0 && seconds.is_finite() {
            pair.record(seconds);
        }
    }

    /// Handoffs that were counted.
    pub fn count(&self, from: usize, to: usize) -> u64 {
        self.pair(from, to).map_or(0, |pair| pair.count)
    }

    /// Seconds that half of the people take less than; `None` without a link.
    pub fn median(&self, from: usize, to: usize) -> Option<f64> {
        self.pair(from, to).map(|pair| pair.belief().0.exp_m1())
    }

    /// Least and most seconds to expect; `None` without a link. As the settings say until a handoff
    /// was counted; the least is 0 where the cameras overlap.
    pub fn gate(&self, from: usize, to: usize) -> Option<[f64; 2]> {
        self.pair(from, to).map(Pair::gate)
    }

    /// How well a time fits, 0..=1: 1 at the median, `exp(-z²/2)` at z standard deviations from it.
    /// Where cameras overlap, all that is sooner is 1. 0 without a link.
    pub fn plausibility(&self, from: usize, to: usize, seconds: f64) -> f64 {
        self.pair(from, to)
            .map_or(0.0, |pair| pair.plausibility(seconds.max(0.0)))
    }

    /// Who may pass from camera to camera when, by all that was learnt: for a gallery.
    pub fn topology(&self) -> Topology {
        let mut topology = Topology::default();
        for (&from, targets) in &self.pairs {
            for (&to, pair) in targets {
                let link = Link {
                    overlap: pair.overlap,
                    seconds: pair.gate(),
                };
                topology.set(from, to, link);
            }
        }
        topology
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SplitMix64;

    fn times(overlap: bool, seconds: [f64; 2]) -> TravelTimes {
        TravelTimes::new([(0, 1, Link { overlap, seconds })])
    }

    #[test]
    fn before_any_handoff_the_settings_hold() {
        let times = times(false, [5.0, 30.0]);
        assert_eq!(times.gate(0, 1), Some([5.0, 30.0]));
        // sqrt(6 · 31) - 1: the middle between the logarithms of 1 + 5 and 1 + 30.
        assert!((times.median(0, 1).unwrap() - (186_f64.sqrt() - 1.0)).abs() < 1e-9);
        // Three standard deviations at either end.
        for seconds in [5.0, 30.0] {
            let end = times.plausibility(0, 1, seconds);
            assert!((end - (-4.5_f64).exp()).abs() < 1e-9, "{end}");
        }
        assert_eq!(times.gate(1, 0), None);
        assert_eq!(times.plausibility(1, 0, 10.0), 0.0);
        assert!(times.topology().allows(0, 1, 5.0) && !times.topology().allows(0, 1, 31.0));
    }

    // By hand: window 0..e²-1 has logarithms 0 and 2, so mean 1 and deviation 1/3. Ten handoffs
    // whose logarithm is 2 weigh as much: mean 1.5; squares 10/9 + 0 + 10·10/20·1² = 55/9 over 20.
    #[test]
    fn handoffs_and_settings_weigh_together() {
        let seconds = 1_f64.exp() * 1_f64.exp() - 1.0;
        let mut times = times(false, [0.0, seconds]);
        for _ in 0..10 {
            times.record(0, 1, seconds);
        }
        let deviation = (55.0_f64 / 9.0 / 20.0).sqrt();
        let [least, most] = times.gate(0, 1).unwrap();
        assert!((times.median(0, 1).unwrap() - 1.5_f64.exp_m1()).abs() < 1e-9);
        assert!((most - (1.5 + 3.0 * deviation).exp_m1()).abs() < 1e-6);
        assert_eq!(least, 0.0);
        assert_eq!(times.count(0, 1), 10);
    }

    #[test]
    fn gates_close_in_on_what_happens_and_follow_changes() {
        let mut times = times(false, [1.0, 300.0]);
        let mut random = SplitMix64::new(1, 0);
        for _ in 0..500 {
            times.record(0, 1, 20.0 + 2.0 * random.normal());
        }
        let [least, most] = times.gate(0, 1).unwrap();
        assert!(least > 5.0 && least < 14.0, "{least}");
        assert!(most > 26.0 && most < 60.0, "{most}");
        // A door is closed and the way becomes longer.
        for _ in 0..1_000 {
            times.record(0, 1, 60.0 + 2.0 * random.normal());
        }
        let median = times.median(0, 1).unwrap();
        assert!((median - 58.0).abs() < 3.0, "{median}");
    }

    // Handoffs outside of the gate are never seen: what is left must not narrow it for ever.
    #[test]
    fn a_gate_that_filters_its_own_lessons_stays_open() {
        let mut times = times(false, [5.0, 60.0]);
        let mut random = SplitMix64::new(7, 0);
        let draw = |random: &mut SplitMix64| (3.0 + 0.25 * random.normal()).exp_m1();
        for _ in 0..100_000 {
            let seconds = draw(&mut random);
            let [least, most] = times.gate(0, 1).unwrap();
            if seconds >= least && seconds <= most {
                times.record(0, 1, seconds);
            }
        }
        let [least, most] = times.gate(0, 1).unwrap();
        let mut passed = 0;
        for _ in 0..10_000 {
            let seconds = draw(&mut random);
            passed += u32::from(seconds >= least && seconds <= most);
        }
        assert!(passed > 9_900, "{passed}");
    }

    #[test]
    fn what_is_no_time_teaches_nothing() {
        let mut times = times(true, [0.0, 30.0]);
        for seconds in [f64::NAN, f64::INFINITY, -1.0] {
            times.record(0, 1, seconds);
        }
        times.record(1, 0, 3.0);
        assert_eq!(times.count(0, 1) + times.count(1, 0), 0);
        times.record(0, 1, 4.0);
        assert_eq!(times.gate(0, 1).unwrap()[0], 0.0);
        assert_eq!(times.plausibility(0, 1, 0.0), 1.0);
        assert!(times.topology().overlap(0, 1));
    }
}
