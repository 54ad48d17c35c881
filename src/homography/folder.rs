//! The folder of calibrations: one file a camera.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::calibration::{Calibration, CalibrationError};
use super::file::Loaded;

/// What a file's name ends in, after the camera's.
const ENDING: &str = "_homography.json";

/// Longest name of a camera in bytes.
const MAX_NAME: usize = 128;

/// Most calibrations that are read from a folder.
pub const MAX_CAMERAS: usize = 10_000;

/// The file of a camera in a folder.
///
/// # Errors
/// The name cannot be a file's.
pub fn calibration_path(folder: &Path, camera: &str) -> Result<PathBuf, CalibrationError> {
    let allowed = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    let fine = (1..=MAX_NAME).contains(&camera.len())
        && !camera.starts_with('.')
        && camera.chars().all(allowed);
    if !fine {
        let camera = camera.to_string();
        return Err(CalibrationError::Name { camera });
    }
    Ok(folder.join(format!("{camera}{ENDING}")))
}

/// The camera that a file is named after.
pub(super) fn camera_of(path: &Path) -> Option<&str> {
    let name = path.file_name()?.to_str()?;
    name.strip_suffix(ENDING)
        .filter(|camera| !camera.is_empty())
}

/// Calibrations by camera; of each that has a file, or what is wrong with it.
pub type Calibrations = BTreeMap<String, Result<Loaded, CalibrationError>>;

/// Reads all `{camera}_homography.json` of a folder (`HOMOGRAPHY_DATA_DIR`); `threshold` in pixels
/// is for files with points and no matrix.
///
/// A file that cannot be used is an error of its camera alone: that camera runs on without map
/// coordinates.
///
/// # Errors
/// The folder itself cannot be read.
pub fn read_folder(folder: &Path, threshold: f64) -> Result<Calibrations, CalibrationError> {
    let io = |error| CalibrationError::io(folder, error);
    let mut found = Calibrations::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let Some(camera) = camera_of(&path) else {
            continue;
        };
        if found.len() >= MAX_CAMERAS {
            let reason = format!("more than {MAX_CAMERAS} calibrations");
            return Err(CalibrationError::io(folder, std::io::Error::other(reason)));
        }
        found.insert(camera.to_string(), Calibration::read(&path, threshold));
    }
    Ok(found)
}
