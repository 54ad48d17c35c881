//! What is simulated and how hard it is: named parameters, checked before use.

use serde::{Deserialize, Serialize};

use crate::tracker::{SettingError, check_ranges};

/// A place and its cameras.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// One hall, cameras around it, all of which see its middle
    #[default]
    Ring,
    /// A chain of rooms with one camera each and passages between them that none sees
    Corridor,
    /// The cameras c09, c12, c13 and c16 along a way; neighbours overlap at its far side
    Campus,
    /// A building of rooms side by side, one camera each, which sees into neighbouring rooms
    Grid,
}

/// How hard it is to tell people apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Preset {
    /// Boxes nearly right, few misses, looks that differ
    Easy,
    /// As with a good detector and encoder in good light
    Medium,
    /// Many misses and false alarms, looks that resemble each other
    Hard,
}

/// Everything that decides a simulation; equal settings give equal results.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SimSettings {
    /// The place. Default `ring`.
    pub layout: Layout,
    /// Number of cameras, 1..=1,000; 4 in `campus`. Default 4.
    pub cameras: usize,
    /// People who are there or will come back, 0..=100,000. Default 20.
    pub people: usize,
    /// How long it lasts, in seconds, above 0, at most 1,000,000. Default 60.
    pub seconds: f64,
    /// Frames a second, 0.5..=120. Default 10.
    pub frame_rate: f64,
    /// Decides all that is left to chance. Default 0.
    pub seed: u64,
    /// Width and height of the pictures in pixels, 64..=16,384. Default 1920×1080.
    pub image_size: [u32; 2],
    /// How far cameras see people, in metres, 1..=1,000. Default 40.
    pub range: f64,
    /// How people walk.
    pub walk: WalkSettings,
    /// How they are detected.
    pub detector: DetectorSettings,
    /// How they look.
    pub looks: LookSettings,
}

/// How people walk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WalkSettings {
    /// Share of the people who are there at the beginning, 0..=1. Default 0.5.
    pub present: f64,
    /// Mean seconds that someone stays away, 0..=1,000,000. Default 60.
    pub absence: f64,
    /// Share of those entering who have been there before, 0..=1; others are new people. Default
    /// 0.7.
    pub returning: f64,
    /// Mean number of places that someone goes to between entering and leaving, 0..=1,000.
    /// Default 3.
    pub stops: f64,
    /// Mean seconds that someone stands at such a place, 0..=1,000,000. Default 4.
    pub pause: f64,
    /// Mean walking speed in metres a second, 0.8..=1.8: nobody is beyond these limits when walking
    /// freely. Default 1.34 (Weidmann 1993).
    pub speed: f64,
    /// Its standard deviation among people, 0..=1. Default 0.26 (Weidmann 1993).
    pub speed_spread: f64,
}

/// How people are detected.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DetectorSettings {
    /// Standard deviation of each edge of a box: of left and right as a share of the width, of top
    /// and bottom of the height, 0..=0.5.
    pub box_noise: f64,
    /// How much larger it is for someone hidden than in full view, as a factor beyond 1, 0..=10.
    pub hidden_box_noise: f64,
    /// Metres from someone's middle to where a box ends in mid-stride, towards the camera, 0..=1.
    pub stride: f64,
    /// How much boxes widen to hold people who lean in the picture because the camera looks down:
    /// 0 (the middle of a box's bottom is where the person stands) ..=1 (as real ones). Concerns
    /// the truth, too.
    pub lean: f64,
    /// Seconds in which the noise of boxes changes, 0.05..=60.
    pub noise_period: f64,
    /// Share of the people in full view, large enough, who are missed in a frame, 0..=1.
    pub miss_rate: f64,
    /// Share of misses that come in a row, 0..=1; others are independent from frame to frame.
    pub miss_lasting: f64,
    /// Share of the people almost hidden who are missed for that, 0..=1; none of those more than
    /// 0.7 visible are.
    pub hidden_miss_rate: f64,
    /// Share of the smallest people who are missed for that, 0..=1; none of those more than 2.5
    /// times as tall as `least_height` are.
    pub small_miss_rate: f64,
    /// Height of the smallest people that can be seen, in pixels, 4..=1,000.
    pub least_height: f64,
    /// Share of the people half hidden whose box ends where they are hidden, 0..=1; other boxes go
    /// on to where the feet must be.
    pub cut_share: f64,
    /// Mean false alarms a frame and camera, 0..=20.
    pub false_alarms: f64,
    /// Share of them that come again and again at the same few places, 0..=1.
    pub sticky_share: f64,
    /// Mean score of someone in full view, 0.3..=0.99.
    pub score: f64,
    /// Standard deviation of scores, 0..=0.3.
    pub score_spread: f64,
    /// The least score that is reported, 0..=0.5.
    pub score_floor: f64,
    /// Share of someone that must be visible to be in the truth, 0..=1. Those below still are
    /// listed, as not counting.
    pub truth_visibility: f64,
}

/// How people look: mean cosine similarities of the vectors of people in full view.
///
/// A vector is made of parts at right angles: what is common to all people, what a camera does to
/// all, who it is, what this person looks like to this camera, posture, and white noise. The
/// similarities below are the sums of the parts that two vectors share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LookSettings {
    /// Length of the vectors, 8..=8,192; 0: no vectors.
    pub dim: usize,
    /// One person seen twice by one camera, some seconds apart.
    pub same_camera: f64,
    /// One person seen by two cameras.
    pub other_camera: f64,
    /// Two people seen by one camera.
    pub different_same_camera: f64,
    /// Two people seen by two cameras.
    pub different: f64,
    /// In how many independent ways people differ, 4..=`dim` / 2: similarities of different people
    /// scatter with 1/√ of it, times what makes identities.
    pub variety: usize,
    /// Share of what one camera sees change of a person that changes slowly, with posture; the
    /// rest is noise of each frame. 0..=1.
    pub posture_share: f64,
    /// Seconds in which posture changes, 0.05..=600.
    pub posture_period: f64,
    /// Share of a vector that shows what hides a person, for someone hidden entirely, 0..=1.
    pub hidden_share: f64,
}

impl Default for SimSettings {
    fn default() -> Self {
        Self::preset(Preset::Medium)
    }
}

impl Default for WalkSettings {
    fn default() -> Self {
        Self {
            present: 0.5,
            absence: 60.0,
            returning: 0.7,
            stops: 3.0,
            pause: 4.0,
            speed: 1.34,
            speed_spread: 0.26,
        }
    }
}

impl Default for DetectorSettings {
    fn default() -> Self {
        Self::preset(Preset::Medium)
    }
}

impl Default for LookSettings {
    fn default() -> Self {
        Self::preset(Preset::Medium)
    }
}

impl SimSettings {
    /// Four cameras around a hall with 20 people, as hard as the preset says.
    pub fn preset(preset: Preset) -> Self {
        Self {
            layout: Layout::Ring,
            cameras: 4,
            people: 20,
            seconds: 60.0,
            frame_rate: 10.0,
            seed: 0,
            image_size: [1920, 1080],
            range: 40.0,
            walk: WalkSettings::default(),
            detector: DetectorSettings::preset(preset),
            looks: LookSettings::preset(preset),
        }
    }

    /// Detections and looks without any error: every person in sight, to the pixel.
    #[must_use]
    pub fn without_noise(mut self) -> Self {
        self.detector = DetectorSettings::exact();
        self.looks.same_camera = 1.0;
        self.looks.other_camera = 1.0;
        self.looks.different_same_camera = self.looks.different;
        self.looks.hidden_share = 0.0;
        self
    }

    /// Number of frames of each camera.
    pub fn frames(&self) -> u64 {
        (self.seconds * self.frame_rate).round().max(1.0) as u64
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// Names the first setting that is out of range, its value and the range.
    pub fn validate(&self) -> Result<(), SettingError> {
        let [width, height] = self.image_size.map(f64::from);
        check_ranges(&[
            ("cameras", self.cameras as f64, 1.0, 1e3, "in 1..=1,000"),
            ("people", self.people as f64, 0.0, 1e5, "in 0..=100,000"),
            (
                "seconds",
                self.seconds,
                1e-3,
                1e6,
                "above 0, at most 1,000,000",
            ),
            ("frame_rate", self.frame_rate, 0.5, 120.0, "in 0.5..=120"),
            ("image_size", width, 64.0, 16_384.0, "in 64..=16,384"),
            ("image_size", height, 64.0, 16_384.0, "in 64..=16,384"),
            ("range", self.range, 1.0, 1e3, "in 1..=1,000"),
        ])?;
        if self.layout == Layout::Campus && self.cameras != 4 {
            return Err(SettingError {
                setting: "cameras",
                value: self.cameras as f64,
                expected: "4 in the layout campus",
            });
        }
        self.walk.validate()?;
        self.detector.validate()?;
        self.looks.validate()
    }
}

impl WalkSettings {
    fn validate(&self) -> Result<(), SettingError> {
        check_ranges(&[
            ("walk.present", self.present, 0.0, 1.0, SHARE),
            ("walk.absence", self.absence, 0.0, 1e6, SECONDS),
            ("walk.returning", self.returning, 0.0, 1.0, SHARE),
            ("walk.stops", self.stops, 0.0, 1e3, "in 0..=1,000"),
            ("walk.pause", self.pause, 0.0, 1e6, SECONDS),
            (
                "walk.speed",
                self.speed,
                SPEEDS[0],
                SPEEDS[1],
                "in 0.8..=1.8",
            ),
            ("walk.speed_spread", self.speed_spread, 0.0, 1.0, SHARE),
        ])
    }
}

impl DetectorSettings {
    /// As hard as the preset says.
    pub fn preset(preset: Preset) -> Self {
        // Of easy, medium, hard.
        let of = |values: [f64; 3]| values[preset as usize];
        Self {
            box_noise: of([0.01, 0.025, 0.05]),
            hidden_box_noise: of([0.5, 1.5, 2.0]),
            stride: of([0.1, 0.15, 0.2]),
            lean: 1.0,
            noise_period: of([0.5, 0.5, 0.7]),
            miss_rate: of([0.005, 0.03, 0.1]),
            miss_lasting: of([0.0, 0.5, 0.7]),
            hidden_miss_rate: of([0.8, 0.95, 1.0]),
            small_miss_rate: of([0.1, 0.4, 0.7]),
            least_height: 24.0,
            cut_share: of([0.2, 0.5, 0.7]),
            false_alarms: of([0.02, 0.2, 1.0]),
            sticky_share: 0.5,
            score: of([0.9, 0.82, 0.7]),
            score_spread: of([0.04, 0.07, 0.1]),
            score_floor: 0.1,
            truth_visibility: 0.1,
        }
    }

    /// Without any error.
    pub fn exact() -> Self {
        Self {
            box_noise: 0.0,
            hidden_box_noise: 0.0,
            stride: 0.0,
            lean: 0.0,
            miss_rate: 0.0,
            miss_lasting: 0.0,
            hidden_miss_rate: 0.0,
            small_miss_rate: 0.0,
            cut_share: 0.0,
            false_alarms: 0.0,
            score_spread: 0.0,
            truth_visibility: 0.0,
            ..Self::preset(Preset::Easy)
        }
    }

    fn validate(&self) -> Result<(), SettingError> {
        check_ranges(&[
            ("detector.box_noise", self.box_noise, 0.0, 0.5, "in 0..=0.5"),
            (
                "detector.hidden_box_noise",
                self.hidden_box_noise,
                0.0,
                10.0,
                "in 0..=10",
            ),
            ("detector.stride", self.stride, 0.0, 1.0, SHARE),
            ("detector.lean", self.lean, 0.0, 1.0, SHARE),
            (
                "detector.noise_period",
                self.noise_period,
                0.05,
                60.0,
                "in 0.05..=60",
            ),
            ("detector.miss_rate", self.miss_rate, 0.0, 1.0, SHARE),
            ("detector.miss_lasting", self.miss_lasting, 0.0, 1.0, SHARE),
            (
                "detector.hidden_miss_rate",
                self.hidden_miss_rate,
                0.0,
                1.0,
                SHARE,
            ),
            (
                "detector.small_miss_rate",
                self.small_miss_rate,
                0.0,
                1.0,
                SHARE,
            ),
            (
                "detector.least_height",
                self.least_height,
                4.0,
                1e3,
                "in 4..=1,000",
            ),
            ("detector.cut_share", self.cut_share, 0.0, 1.0, SHARE),
            (
                "detector.false_alarms",
                self.false_alarms,
                0.0,
                20.0,
                "in 0..=20",
            ),
            ("detector.sticky_share", self.sticky_share, 0.0, 1.0, SHARE),
            ("detector.score", self.score, 0.3, 0.99, "in 0.3..=0.99"),
            (
                "detector.score_spread",
                self.score_spread,
                0.0,
                0.3,
                "in 0..=0.3",
            ),
            (
                "detector.score_floor",
                self.score_floor,
                0.0,
                0.5,
                "in 0..=0.5",
            ),
            (
                "detector.truth_visibility",
                self.truth_visibility,
                0.0,
                1.0,
                SHARE,
            ),
        ])
    }
}

impl LookSettings {
    /// As hard as the preset says.
    pub fn preset(preset: Preset) -> Self {
        let of = |values: [f64; 3]| values[preset as usize];
        Self {
            dim: 512,
            same_camera: of([0.93, 0.87, 0.78]),
            other_camera: of([0.88, 0.76, 0.62]),
            different_same_camera: of([0.3, 0.42, 0.5]),
            different: of([0.28, 0.36, 0.4]),
            variety: [64, 32, 16][preset as usize],
            posture_share: of([0.5, 0.6, 0.7]),
            posture_period: 2.0,
            hidden_share: of([0.2, 0.5, 0.8]),
        }
    }

    fn validate(&self) -> Result<(), SettingError> {
        if self.dim == 0 {
            return Ok(());
        }
        let dim = self.dim as f64;
        check_ranges(&[
            ("looks.dim", dim, 8.0, 8_192.0, "0 or in 8..=8,192"),
            (
                "looks.variety",
                self.variety as f64,
                4.0,
                dim / 2.0,
                "in 4..=looks.dim / 2",
            ),
            ("looks.posture_share", self.posture_share, 0.0, 1.0, SHARE),
            (
                "looks.posture_period",
                self.posture_period,
                0.05,
                600.0,
                "in 0.05..=600",
            ),
            ("looks.hidden_share", self.hidden_share, 0.0, 1.0, SHARE),
            ("looks.same_camera", self.same_camera, 0.0, 1.0, SHARE),
            ("looks.different", self.different, 0.0, 1.0, SHARE),
        ])?;
        // Each part of a vector, from the similarities, must not be negative.
        let least = self.different;
        let camera = self.different_same_camera - self.different;
        check_ranges(&[
            (
                "looks.different_same_camera",
                self.different_same_camera,
                least,
                1.0,
                "at least looks.different, at most 1",
            ),
            (
                "looks.other_camera",
                self.other_camera,
                least,
                self.same_camera - camera + ROUNDING,
                "at least looks.different, and below looks.same_camera by at least \
                 looks.different_same_camera - looks.different",
            ),
        ])
    }
}

/// Speeds of people walking freely, in metres a second.
pub(super) const SPEEDS: [f64; 2] = [0.8, 1.8];

/// What is lost where decimal numbers are subtracted.
const ROUNDING: f64 = 1e-9;

const SHARE: &str = "in 0..=1";
const SECONDS: &str = "in 0..=1,000,000";

impl Layout {
    /// The layout's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ring => "ring",
            Self::Corridor => "corridor",
            Self::Campus => "campus",
            Self::Grid => "grid",
        }
    }
}

#[cfg(test)]
mod tests;
