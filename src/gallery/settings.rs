//! How identities across cameras are decided; checked before use.

use serde::{Deserialize, Serialize};

use super::measure::BoxModel;
use super::motion::MotionModel;
use crate::tracker::{SettingError, check_ranges};

/// How [`Gallery`](super::Gallery) decides.
///
/// Costs of place are squared Mahalanobis distances, in which those of appearance and habit are
/// expressed too; a track may become a person only below `gate`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GallerySettings {
    /// Cosine similarity above which two vectors speak for one person, -1..1. Default 0.75
    /// (`REID_SIMILARITY_THRESHOLD`); what fits depends on the encoder.
    pub similarity_threshold: f64,
    /// Cost of one whole unit of cosine similarity below the threshold (and gain above), at least
    /// 0. Default 40.
    pub appearance_weight: f64,
    /// Weight of the new vector in a person's mean vector, 0..=1. Default 0.1
    /// (`REID_GALLERY_EMA_ALPHA`).
    pub ema_alpha: f64,
    /// Vectors kept beside the mean, as different as possible, 0..=32. Default 4.
    pub exemplars: usize,
    /// Steps without a sighting after which a person moves to the lost gallery. Default 8.
    pub missing_steps: u32,
    /// Steps that the lost gallery keeps a person for. Default 100
    /// (`REID_LOST_TRACK_BUFFER_FRAMES`).
    pub lost_steps: u32,
    /// Most people in both galleries; of more, those lost longest go first. Default 20,000.
    pub capacity: usize,
    /// Cost limit: squared Mahalanobis distance. Default 14.
    pub gate: f64,
    /// Gain of staying with the person that a track was before; half of it is the cost of taking
    /// someone else's track. The less frames a second and the denser the crowd, the less a camera's
    /// own tracker is worth here. Default 1.
    pub continuity: f64,
    /// The same where there is no map, and so nothing but looks against the camera's tracker.
    /// Default 8.
    pub trust: f64,
    /// Cost of a box that shows a person only in part. Default 7.
    pub hidden_cost: f64,
    /// Steps in which a person must be seen, by `least_views` cameras, before it gets an identity.
    /// Default 3.
    pub confirm_steps: u32,
    /// Cameras that must see a new person on the map, if so many see its place. Default 2.
    pub least_views: usize,
    /// Steps for which fewer cameras than that may see a person that more should see. Default 20.
    pub weak_steps: u32,
    /// Largest distance on the map between boxes of two cameras that make one new person.
    /// Default 0.6.
    pub birth_distance: f64,
    /// Two people nearer than this on the map, in no common camera, are one. Default 0.3.
    pub merge_distance: f64,
    /// Steps for which that must hold. Default 8.
    pub merge_steps: u32,
    /// Fastest that anyone goes, in map units a second. Default 4.
    pub largest_speed: f64,
    /// Standard deviation of people's acceleration, in map units a second squared. Default 0.8.
    pub acceleration: f64,
    /// Height of a person, in map units. Default 1.65.
    pub height: f64,
    /// Standard deviation of people's heights, in map units. Default 0.1.
    pub height_spread: f64,
    /// Distance from a person's middle to the nearest foot, in map units. Default 0.15.
    pub foot_offset: f64,
    /// Standard deviation of a box's middle, as a share of the person's height in the picture.
    /// Default 0.08.
    pub middle_noise: f64,
    /// The same of a box's bottom. Default 0.07.
    pub bottom_noise: f64,
    /// The same of a box's top, which bends and steps move less. Default 0.04.
    pub top_noise: f64,
    /// A box that ends above a person's feet by more than this share of the height shows a person
    /// half hidden. Default 0.2.
    pub hidden_share: f64,
}

impl Default for GallerySettings {
    fn default() -> Self {
        Self {
            similarity_threshold: 0.75,
            appearance_weight: 40.0,
            ema_alpha: 0.1,
            exemplars: 4,
            missing_steps: 8,
            lost_steps: 100,
            capacity: 20_000,
            gate: 14.0,
            continuity: 1.0,
            trust: 8.0,
            hidden_cost: 7.0,
            confirm_steps: 3,
            least_views: 2,
            weak_steps: 20,
            birth_distance: 0.6,
            merge_distance: 0.3,
            merge_steps: 8,
            largest_speed: 4.0,
            acceleration: 0.8,
            height: 1.65,
            height_spread: 0.1,
            foot_offset: 0.15,
            middle_noise: 0.08,
            bottom_noise: 0.07,
            top_noise: 0.04,
            hidden_share: 0.2,
        }
    }
}

impl GallerySettings {
    /// Checks every setting.
    ///
    /// # Errors
    /// Names the first setting that is out of range, its value and the range.
    pub fn validate(&self) -> Result<(), SettingError> {
        let ranges = [
            (
                "similarity_threshold",
                self.similarity_threshold,
                -1.0,
                1.0,
                "in -1..=1",
            ),
            (
                "appearance_weight",
                self.appearance_weight,
                0.0,
                1e4,
                "in 0..=10,000",
            ),
            ("ema_alpha", self.ema_alpha, 0.0, 1.0, "in 0..=1"),
            ("exemplars", self.exemplars as f64, 0.0, 32.0, "in 0..=32"),
            (
                "missing_steps",
                f64::from(self.missing_steps),
                1.0,
                1e6,
                "in 1..=1,000,000",
            ),
            (
                "lost_steps",
                f64::from(self.lost_steps),
                0.0,
                1e8,
                "in 0..=100,000,000",
            ),
            (
                "capacity",
                self.capacity as f64,
                1.0,
                1e7,
                "in 1..=10,000,000",
            ),
            ("gate", self.gate, 0.1, 1e3, "in 0.1..=1000"),
            ("continuity", self.continuity, 0.0, 1e3, "in 0..=1000"),
            ("trust", self.trust, 0.0, 1e3, "in 0..=1000"),
            ("hidden_cost", self.hidden_cost, 0.0, 1e3, "in 0..=1000"),
            (
                "confirm_steps",
                f64::from(self.confirm_steps),
                1.0,
                1e6,
                "in 1..=1,000,000",
            ),
            (
                "least_views",
                self.least_views as f64,
                1.0,
                1e3,
                "in 1..=1000",
            ),
            (
                "weak_steps",
                f64::from(self.weak_steps),
                1.0,
                1e6,
                "in 1..=1,000,000",
            ),
            (
                "birth_distance",
                self.birth_distance,
                0.0,
                1e3,
                "in 0..=1000",
            ),
            (
                "merge_distance",
                self.merge_distance,
                0.0,
                1e3,
                "in 0..=1000",
            ),
            (
                "merge_steps",
                f64::from(self.merge_steps),
                1.0,
                1e6,
                "in 1..=1,000,000",
            ),
            (
                "largest_speed",
                self.largest_speed,
                0.01,
                1e4,
                "in 0.01..=10,000",
            ),
            (
                "acceleration",
                self.acceleration,
                0.001,
                1e4,
                "in 0.001..=10,000",
            ),
            ("height", self.height, 0.01, 1e4, "in 0.01..=10,000"),
            (
                "height_spread",
                self.height_spread,
                1e-4,
                1e4,
                "in 0.0001..=10,000",
            ),
            ("foot_offset", self.foot_offset, 0.0, 1e3, "in 0..=1000"),
            (
                "middle_noise",
                self.middle_noise,
                1e-3,
                10.0,
                "in 0.001..=10",
            ),
            (
                "bottom_noise",
                self.bottom_noise,
                1e-3,
                10.0,
                "in 0.001..=10",
            ),
            ("top_noise", self.top_noise, 1e-3, 10.0, "in 0.001..=10"),
            ("hidden_share", self.hidden_share, 0.01, 1.0, "in 0.01..=1"),
        ];
        check_ranges(&ranges)
    }

    pub(super) fn motion(&self) -> MotionModel {
        MotionModel {
            acceleration: self.acceleration,
            height: self.height,
            height_spread: self.height_spread,
        }
    }

    pub(super) fn boxes(&self) -> BoxModel {
        BoxModel {
            foot_offset: self.foot_offset,
            middle: self.middle_noise,
            bottom: self.bottom_noise,
            top: self.top_noise,
            hidden: self.hidden_share,
        }
    }
}
