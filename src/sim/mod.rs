//! People who walk through a place seen by several cameras, with the whole truth.
//!
//! A [`Simulation`] gives, step by step, what a detector and an encoder would report of each camera
//! — boxes that are not quite right, misses, false alarms, vectors of how people look — and who and
//! where everyone is. How hard that is, [`SimSettings`] say with named parameters.
//!
//! ```
//! use mtmc::sim::{Preset, SimSettings, Simulation};
//!
//! let settings = SimSettings { people: 5, seconds: 1.0, ..SimSettings::preset(Preset::Easy) };
//! for step in Simulation::new(settings)? {
//!     for camera in &step.cameras {
//!         assert_eq!(camera.detections.len(), camera.truth.len());
//!     }
//! }
//! # Ok::<(), mtmc::sim::SimError>(())
//! ```
//!
//! Equal settings give equal results on any number of threads. Nothing is kept from step to step
//! but where the people are, so memory does not grow with time.

mod camera;
mod coverage;
mod crowd;
mod detect;
mod layout;
mod looks;
mod noise;
mod picture;
mod plan;
mod settings;
mod sight;
mod walk;
mod write;

use mtmc_models::{BBox, Detection, Embedding};
use rayon::prelude::*;

use crate::homography::{CameraView, MapPoint};
use crate::tracker::SettingError;

pub use camera::SimCamera;
pub use coverage::CameraLink;
pub use picture::Picture;
pub use plan::{Door, Entrance, Opening, Plan, Room};
pub use settings::{DetectorSettings, Layout, LookSettings, Preset, SimSettings, WalkSettings};
pub use write::SimWriter;

use detect::Shot;
use looks::Looks;
use sight::Eye;
use walk::Crowd;

/// Why nothing can be simulated.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SimError {
    /// A setting is out of range.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// A camera of the layout has no usable projection.
    #[error("camera {camera}: its projection has no inverse")]
    Camera {
        /// Its name.
        camera: String,
    },
}

/// Someone in a camera's picture, as it really is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TruthBox {
    /// Who it is, in all cameras and whenever he comes back; from 1.
    pub id: u64,
    /// The whole person in pixels, also what is hidden or beyond the picture's edges. With
    /// [`DetectorSettings::lean`] 0 the middle of its bottom is where the person stands.
    pub bbox: BBox,
    /// Share that is in the picture and not hidden by others, 0..=1.
    pub visibility: f32,
    /// Whether enough is visible to expect anyone to find the person
    /// ([`DetectorSettings::truth_visibility`]).
    pub counts: bool,
}

/// One camera at one moment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CameraStep {
    /// What the detector reports, by falling score; boxes in pixels, within the picture.
    pub detections: Vec<Detection>,
    /// How each detection looks, in the same order; empty without vectors.
    pub embeddings: Vec<Embedding>,
    /// Who each detection is, in the same order; `None`: nobody.
    pub truth: Vec<Option<u64>>,
    /// Everyone who is really there, by identity.
    pub truth_boxes: Vec<TruthBox>,
}

/// One moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Number of the frame, from 1, the same in all cameras.
    pub frame: u64,
    /// Seconds since the first frame.
    pub time: f64,
    /// What each camera sees, by index.
    pub cameras: Vec<CameraStep>,
    /// Where everyone is, seen or not, by identity; metres.
    pub people: Vec<(u64, MapPoint)>,
}

/// A simulation: an iterator over its [`Step`]s.
#[derive(Debug)]
pub struct Simulation {
    settings: SimSettings,
    plan: Plan,
    cameras: Vec<SimCamera>,
    views: Vec<CameraView>,
    crowd: Crowd,
    looks: Looks,
    frame: u64,
}

impl Simulation {
    /// Before its first step.
    ///
    /// # Errors
    /// A setting is out of range.
    pub fn new(settings: SimSettings) -> Result<Self, SimError> {
        settings.validate()?;
        let (plan, cameras) = layout::build(&settings);
        let mut views = Vec::with_capacity(cameras.len());
        for camera in &cameras {
            let view = camera.view().ok_or_else(|| SimError::Camera {
                camera: camera.id.clone(),
            })?;
            views.push(view);
        }
        let crowd = Crowd::new(&settings.walk, settings.people, settings.seed, &plan);
        let looks = Looks::new(&settings.looks, cameras.len(), settings.seed);
        Ok(Self {
            settings,
            plan,
            cameras,
            views,
            crowd,
            looks,
            frame: 0,
        })
    }

    /// What is simulated.
    pub fn settings(&self) -> &SimSettings {
        &self.settings
    }

    /// The floor plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The cameras, in the order of [`Step::cameras`].
    pub fn cameras(&self) -> &[SimCamera] {
        &self.cameras
    }

    /// Their calibrations.
    pub fn views(&self) -> &[CameraView] {
        &self.views
    }

    /// Which cameras see one place, and how long it takes from one to the next.
    pub fn links(&self) -> Vec<CameraLink> {
        let eyes: Vec<Eye<'_>> = (0..self.cameras.len()).map(|i| self.eye(i)).collect();
        coverage::links(&self.plan, &eyes)
    }

    fn eye(&self, camera: usize) -> Eye<'_> {
        Eye {
            camera: &self.cameras[camera],
            view: &self.views[camera],
            plan: &self.plan,
            settings: &self.settings,
        }
    }

    fn observe(&self, time: f64) -> Step {
        let cameras = (0..self.cameras.len())
            .into_par_iter()
            .map(|camera| {
                let eye = self.eye(camera);
                let shot = Shot {
                    eye,
                    looks: &self.looks,
                    camera,
                    frame: self.frame,
                    time,
                };
                shot.detect(&eye.sights(self.crowd.present()))
            })
            .collect();
        let place = |[x, y]: [f64; 2]| MapPoint { x, y };
        let mut people: Vec<(u64, MapPoint)> = self
            .crowd
            .present()
            .map(|walker| (walker.id, place(walker.place)))
            .collect();
        people.sort_by_key(|person| person.0);
        Step {
            frame: self.frame,
            time,
            cameras,
            people,
        }
    }
}

impl Iterator for Simulation {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        if self.frame >= self.settings.frames() {
            return None;
        }
        if self.frame > 0 {
            self.crowd
                .advance(1.0 / self.settings.frame_rate, &self.plan);
        }
        self.frame += 1;
        let time = (self.frame - 1) as f64 / self.settings.frame_rate;
        Some(self.observe(time))
    }
}
