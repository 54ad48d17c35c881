//! From frames to camera motion: picks the method, remembers the frame before, and refuses what
//! cannot be.

use std::fmt;
use std::str::FromStr;

use image::RgbImage;
use mtmc_models::BBox;
use serde::{Deserialize, Serialize};

use super::CameraMotion;
use super::corners::{CornerFinder, CornerLimits};
use super::ecc::Alignment;
use super::flow;
use super::orb::{Features, Orb};
use super::plane::{Mask, Pyramid};
use super::similarity::{self, Pairs, Similarity};
use crate::tracker::{SettingError, check_ranges};

/// Least side of a reduced frame, in pixels.
const MIN_SIDE: usize = 32;
/// The least and the greatest scale from frame to frame that is believed.
const SCALES: std::ops::RangeInclusive<f64> = 0.5..=2.0;
/// The greatest standard error at the frame's corners, in pixels of the reduced frame: beyond it
/// the picture tells less than "still" does.
const MAX_CORNER_ERROR: f64 = 3.0;
/// Least share of pairs that must agree.
const MIN_SHARE: f64 = 0.2;

/// How the motion is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MotionMethod {
    /// The camera counts as still; pictures are not looked at.
    None,
    /// Corners followed by sparse optical flow: fast, exact to a fraction of a pixel.
    #[default]
    SparseFlow,
    /// Corners found anew in each frame and matched by their descriptors: for large jumps.
    Orb,
    /// All pixels aligned, shift and rotation alone: slow, for pictures with few corners.
    Ecc,
}

impl MotionMethod {
    /// All methods.
    pub const ALL: [Self; 4] = [Self::None, Self::SparseFlow, Self::Orb, Self::Ecc];

    /// Its name, as [`FromStr`] takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::SparseFlow => "sparse_flow",
            Self::Orb => "orb",
            Self::Ecc => "ecc",
        }
    }
}

impl fmt::Display for MotionMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for MotionMethod {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|method| method.name() == name);
        known.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("no camera motion method `{name}`; there are {names}")
        })
    }
}

/// How [`MotionEstimator`] works. The defaults are BoT-SORT's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MotionSettings {
    /// Frames are reduced by this factor first, 1..=8. Default 2.
    pub downscale: u32,
    /// Most corners that are followed or matched, 10..=10000. Default 1000.
    pub max_corners: usize,
    /// Least quality of a corner as a share of the best one's, 0..=1. Default 0.01. Not for ORB,
    /// which goes by contrast.
    pub quality: f64,
    /// Least distance between two corners, in pixels of the reduced frame, 0..=1000. Default 1.
    pub min_distance: f64,
    /// Levels of half the size each that are looked at before the reduced frame, 0..=6. Default 3.
    pub levels: usize,
    /// Pairs agree with a motion that errs by less than this, in pixels of the reduced frame,
    /// 0.1..=100. Default 3.
    pub ransac_threshold: f64,
    /// Fewer agreeing pairs are no evidence, 3..=10000. Default 10.
    pub min_inliers: usize,
}

impl Default for MotionSettings {
    fn default() -> Self {
        Self {
            downscale: 2,
            max_corners: 1000,
            quality: 0.01,
            min_distance: 1.0,
            levels: 3,
            ransac_threshold: 3.0,
            min_inliers: 10,
        }
    }
}

impl MotionSettings {
    /// Checks every setting.
    ///
    /// # Errors
    /// Names the first setting that is out of range, its value and the range.
    pub fn validate(&self) -> Result<(), SettingError> {
        let checks = [
            ("downscale", f64::from(self.downscale), 1.0, 8.0, "in 1..=8"),
            (
                "max_corners",
                self.max_corners as f64,
                10.0,
                1e4,
                "in 10..=10000",
            ),
            ("quality", self.quality, 0.0, 1.0, "in 0..=1"),
            ("min_distance", self.min_distance, 0.0, 1e3, "in 0..=1000"),
            ("levels", self.levels as f64, 0.0, 6.0, "in 0..=6"),
            (
                "ransac_threshold",
                self.ransac_threshold,
                0.1,
                100.0,
                "in 0.1..=100",
            ),
            (
                "min_inliers",
                self.min_inliers as f64,
                3.0,
                1e4,
                "in 3..=10000",
            ),
        ];
        check_ranges(&checks)
    }
}

/// Why a frame's motion is [`CameraMotion::STILL`] although it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StillReason {
    /// There is no frame before.
    FirstFrame,
    /// The frame before was of another size.
    SizeChanged,
    /// The reduced frame is below 32 pixels a side.
    FrameTooSmall,
    /// The background of the frame before has too few corners: it is flat, or people cover it.
    FewCorners,
    /// Too few corners were found again.
    FewMatches,
    /// What was found again does not agree on one motion.
    NoConsensus,
    /// A motion was found that is uncertain, or that no camera makes from frame to frame.
    Implausible,
}

/// How one frame's motion came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MotionOutcome {
    /// It was found in the pictures.
    Estimated,
    /// It was not: still.
    Still(StillReason),
}

/// How many frames had which outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MotionCounts {
    /// Motions found in the pictures.
    pub estimated: u64,
    /// [`StillReason::FirstFrame`].
    pub first_frame: u64,
    /// [`StillReason::SizeChanged`].
    pub size_changed: u64,
    /// [`StillReason::FrameTooSmall`].
    pub frame_too_small: u64,
    /// [`StillReason::FewCorners`].
    pub few_corners: u64,
    /// [`StillReason::FewMatches`].
    pub few_matches: u64,
    /// [`StillReason::NoConsensus`].
    pub no_consensus: u64,
    /// [`StillReason::Implausible`].
    pub implausible: u64,
}

impl MotionCounts {
    fn add(&mut self, outcome: MotionOutcome) {
        let count = match outcome {
            MotionOutcome::Estimated => &mut self.estimated,
            MotionOutcome::Still(reason) => match reason {
                StillReason::FirstFrame => &mut self.first_frame,
                StillReason::SizeChanged => &mut self.size_changed,
                StillReason::FrameTooSmall => &mut self.frame_too_small,
                StillReason::FewCorners => &mut self.few_corners,
                StillReason::FewMatches => &mut self.few_matches,
                StillReason::NoConsensus => &mut self.no_consensus,
                StillReason::Implausible => &mut self.implausible,
            },
        };
        *count += 1;
    }
}

/// One frame as the methods look at it.
#[derive(Debug, Clone, Default)]
struct View {
    /// Width and height of the frame in full; 0 before the first.
    size: (u32, u32),
    pyramid: Pyramid,
    people: Mask,
    corners: Vec<[f32; 2]>,
    features: Features,
}

/// Finds the motion of one camera from frame to frame.
///
/// The same frames give the same motions, on any number of threads. Memory is kept from frame to
/// frame: two reduced frames with their pyramids.
///
/// ```
/// use image::RgbImage;
/// use mtmc::tracker::camera_motion::{MotionEstimator, MotionMethod, MotionSettings};
///
/// let settings = MotionSettings::default();
/// let mut estimator = MotionEstimator::new(MotionMethod::SparseFlow, settings)?;
/// let motion = estimator.next(&RgbImage::new(640, 480), &[]);
/// assert!(motion.is_still());
/// # Ok::<(), mtmc::tracker::SettingError>(())
/// ```
#[derive(Debug, Clone)]
pub struct MotionEstimator {
    method: MotionMethod,
    settings: MotionSettings,
    previous: View,
    current: View,
    finder: CornerFinder,
    orb: Orb,
    found: Vec<Option<[f32; 2]>>,
    pairs: Pairs,
    counts: MotionCounts,
    last: Option<MotionOutcome>,
}

impl MotionEstimator {
    /// An estimator that has seen no frame.
    ///
    /// # Errors
    /// A setting is out of range.
    pub fn new(method: MotionMethod, settings: MotionSettings) -> Result<Self, SettingError> {
        settings.validate()?;
        Ok(Self {
            method,
            settings,
            previous: View::default(),
            current: View::default(),
            finder: CornerFinder::default(),
            orb: Orb::default(),
            found: Vec::new(),
            pairs: Pairs::default(),
            counts: MotionCounts::default(),
            last: None,
        })
    }

    /// The motion from the frame before to `frame`.
    ///
    /// `people` are boxes in pixels of `frame`: what they cover moves by itself and is left out.
    /// When the motion cannot be told it is [`CameraMotion::STILL`], and [`counts`] says why.
    ///
    /// [`counts`]: MotionEstimator::counts
    pub fn next(&mut self, frame: &RgbImage, people: &[BBox]) -> CameraMotion {
        if self.method == MotionMethod::None {
            return CameraMotion::STILL;
        }
        let (motion, outcome) = match self.look(frame, people) {
            Ok(motion) => (motion, MotionOutcome::Estimated),
            Err(reason) => (CameraMotion::STILL, MotionOutcome::Still(reason)),
        };
        self.counts.add(outcome);
        self.last = Some(outcome);
        std::mem::swap(&mut self.previous, &mut self.current);
        motion
    }

    /// How the latest frame's motion came about; `None` before the first, or without a method.
    pub fn last(&self) -> Option<MotionOutcome> {
        self.last
    }

    /// How the motions of all frames so far came about.
    pub fn counts(&self) -> MotionCounts {
        self.counts
    }

    /// Takes in the frame and compares it with the one before.
    fn look(&mut self, frame: &RgbImage, people: &[BBox]) -> Result<CameraMotion, StillReason> {
        self.prepare(frame, people)?;
        match self.previous.size {
            (0, 0) => return Err(StillReason::FirstFrame),
            size if size != self.current.size => return Err(StillReason::SizeChanged),
            _ => {}
        }
        let similarity = match self.method {
            MotionMethod::Ecc => self.align()?,
            MotionMethod::Orb => self.agree_on_matches()?,
            _ => self.agree_on_flow()?,
        };
        let motion = self.full_size(&similarity);
        let shift = (similarity.tx, similarity.ty);
        if !SCALES.contains(&similarity.scale()) || !shift.0.is_finite() || !shift.1.is_finite() {
            return Err(StillReason::Implausible);
        }
        // What was in the middle must still be in sight.
        let (width, height) = (f64::from(frame.width()), f64::from(frame.height()));
        let middle = motion.apply(width / 2.0, height / 2.0);
        if !(0.0..=width).contains(&middle.0) || !(0.0..=height).contains(&middle.1) {
            return Err(StillReason::Implausible);
        }
        Ok(motion)
    }

    /// Makes the current view.
    fn prepare(&mut self, frame: &RgbImage, people: &[BBox]) -> Result<(), StillReason> {
        let view = &mut self.current;
        let factor = self.settings.downscale as usize;
        view.size = (0, 0);
        if (frame.width().min(frame.height()) as usize) / factor < MIN_SIDE {
            return Err(StillReason::FrameTooSmall);
        }
        let levels = match self.method {
            MotionMethod::Orb => 0,
            _ => self.settings.levels,
        };
        view.pyramid.set(frame, factor, levels);
        let Some(plane) = view.pyramid.finest() else {
            return Err(StillReason::FrameTooSmall);
        };
        view.people.set(plane, people, factor);
        match self.method {
            MotionMethod::SparseFlow => {
                let limits = CornerLimits {
                    count: self.settings.max_corners,
                    quality: self.settings.quality as f32,
                    distance: self.settings.min_distance as f32,
                };
                self.finder
                    .find(plane, &view.people, limits, &mut view.corners);
            }
            MotionMethod::Orb => {
                let count = self.settings.max_corners;
                self.orb
                    .describe(plane, &view.people, count, &mut view.features);
            }
            MotionMethod::None | MotionMethod::Ecc => {}
        }
        view.size = frame.dimensions();
        Ok(())
    }

    /// Follows the corners of the frame before.
    fn agree_on_flow(&mut self) -> Result<Similarity, StillReason> {
        let (previous, current) = (&self.previous, &self.current);
        if previous.corners.len() < self.settings.min_inliers {
            return Err(StillReason::FewCorners);
        }
        flow::follow(
            &previous.pyramid,
            &current.pyramid,
            &previous.corners,
            &mut self.found,
        );
        self.pairs.clear();
        for (from, to) in previous.corners.iter().zip(&self.found) {
            let Some(to) = *to else { continue };
            // People may have stepped before it.
            if !current.people.covers(to[0] as usize, to[1] as usize) {
                self.pairs.push(*from, to);
            }
        }
        self.agree()
    }

    /// Matches the features of both frames, then looks closer where each went: corners are at whole
    /// pixels.
    fn agree_on_matches(&mut self) -> Result<Similarity, StillReason> {
        let (previous, current) = (&self.previous, &self.current);
        if previous.features.len() < self.settings.min_inliers {
            return Err(StillReason::FewCorners);
        }
        let planes = (previous.pyramid.finest(), current.pyramid.finest());
        let (Some(before), Some(plane)) = planes else {
            return Err(StillReason::FewMatches);
        };
        let pairs = &mut self.pairs;
        Orb::match_features(&previous.features, &current.features, plane, pairs);
        flow::polish(before, plane, pairs);
        self.agree()
    }

    /// The similarity that the pairs agree on, if there is enough evidence for it.
    fn agree(&self) -> Result<Similarity, StillReason> {
        if self.pairs.len() < self.settings.min_inliers {
            return Err(StillReason::FewMatches);
        }
        let consensus = similarity::fit(&self.pairs, self.settings.ransac_threshold)
            .ok_or(StillReason::NoConsensus)?;
        let share = consensus.inliers as f64 / self.pairs.len() as f64;
        if consensus.inliers < self.settings.min_inliers || share < MIN_SHARE {
            return Err(StillReason::NoConsensus);
        }
        let factor = f64::from(self.settings.downscale);
        let width = f64::from(self.current.size.0) / factor;
        let height = f64::from(self.current.size.1) / factor;
        let corners = [(0.0, 0.0), (width, 0.0), (0.0, height), (width, height)];
        let errors = corners.map(|(x, y)| consensus.error_at(x, y));
        if !errors.iter().all(|error| *error <= MAX_CORNER_ERROR) {
            return Err(StillReason::Implausible);
        }
        Ok(consensus.similarity)
    }

    /// Aligns all pixels.
    fn align(&self) -> Result<Similarity, StillReason> {
        let (previous, current) = (&self.previous, &self.current);
        let alignment = Alignment {
            template: &previous.pyramid,
            template_people: &previous.people,
            picture: &current.pyramid,
            picture_people: &current.people,
        };
        alignment.find().ok_or(StillReason::NoConsensus)
    }

    /// A similarity of the reduced frames as one of the full frames.
    fn full_size(&self, similarity: &Similarity) -> CameraMotion {
        let factor = f64::from(self.settings.downscale);
        let Similarity { a, b, tx, ty } = *similarity;
        // The first reduced pixel's centre is in the middle of its block.
        let middle = (factor - 1.0) / 2.0;
        CameraMotion {
            rows: [
                [a, -b, factor * tx + middle * (1.0 - a + b)],
                [b, a, factor * ty + middle * (1.0 - b - a)],
            ],
        }
    }
}
