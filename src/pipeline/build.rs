//! From an environment's description to the stations that its cameras share.

use super::World;
use crate::config::Environment;
use crate::gallery::Gallery;
use crate::handoff::HandoffError;
use crate::homography::{Calibration, CameraView, MapPoint};
use crate::reid::{Schedule, ScheduleSettings};
use crate::tracker::SettingError;

/// The stations of an environment.
#[derive(Debug)]
pub struct BuiltWorld {
    /// Gallery, map and handoffs.
    pub world: World,
    /// The calibration of each camera that has one.
    pub calibrations: Vec<Option<Calibration>>,
    /// What is not as the description says, such as a calibration that is broken: its camera goes on
    /// without a map.
    pub warnings: Vec<String>,
}

/// Why there can be no stations.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A setting of the association makes no sense.
    #[error(transparent)]
    Association(#[from] SettingError),
    /// Zones or settings of handoffs make no sense.
    #[error(transparent)]
    Handoff(#[from] HandoffError),
}

impl World {
    /// Gallery, map and handoffs of an environment; `sizes` are width and height of its cameras'
    /// frames in pixels.
    ///
    /// # Errors
    /// Settings that make no sense; none in an environment that was read by
    /// [`Environment::load`].
    pub fn of_environment(
        environment: &Environment,
        sizes: &[[f64; 2]],
    ) -> Result<BuiltWorld, BuildError> {
        let mut warnings = Vec::new();
        let mut views = Vec::with_capacity(sizes.len());
        let mut calibrations = Vec::with_capacity(sizes.len());
        for (camera, size) in sizes.iter().enumerate() {
            let (view, calibration) = match calibration(environment, camera, *size, &mut warnings) {
                Some((view, calibration)) => (Some(view), Some(calibration)),
                None => (None, None),
            };
            views.push(view);
            calibrations.push(calibration);
        }
        let gallery = Gallery::new(
            environment.association.clone(),
            environment.topology(),
            views,
        )?;
        let handoff = environment.handoff_detector()?;
        let schedule = Schedule::new(ScheduleSettings {
            refresh_interval_frames: environment.reid.refresh_interval_frames,
            ..ScheduleSettings::default()
        });
        Ok(BuiltWorld {
            world: Self::new(gallery, handoff, schedule),
            calibrations,
            warnings,
        })
    }
}

/// A camera's calibration, if it has one that can be used.
fn calibration(
    environment: &Environment,
    camera: usize,
    size: [f64; 2],
    warnings: &mut Vec<String>,
) -> Option<(CameraView, Calibration)> {
    let named = environment.cameras.get(camera)?.homography.is_some();
    let path = environment.homography_file(camera)?;
    if !environment.homography.enabled || (!named && !path.exists()) {
        return None;
    }
    let threshold = environment.homography.ransac_threshold;
    let loaded = Calibration::read(&path, threshold).and_then(|loaded| {
        let view = loaded.calibration.view(size)?;
        Ok((view, loaded))
    });
    let (view, loaded) = match loaded {
        Ok(loaded) => loaded,
        Err(error) => {
            warnings.push(format!("no map for this camera: {error}"));
            return None;
        }
    };
    for warning in loaded.warnings {
        warnings.push(format!("{}: {warning}", path.display()));
    }
    let corners = &environment.map.valid_area;
    if corners.is_empty() {
        return Some((view, loaded.calibration));
    }
    let area = corners.iter().map(|&[x, y]| MapPoint { x, y }).collect();
    Some((view.with_area(area), loaded.calibration))
}
