//! Checks of settings, one way for all tables of a file.

use crate::gallery::GallerySettings;
use crate::handoff::HandoffSettings;
use crate::tracker::TrackerSettings;

/// Settings that can be checked as a whole.
pub(super) trait Checked {
    /// The first setting that is out of range: name, value and what it must be.
    fn check(&self) -> Result<(), String>;
}

impl Checked for TrackerSettings {
    fn check(&self) -> Result<(), String> {
        self.validate().map_err(|error| error.to_string())
    }
}

impl Checked for GallerySettings {
    fn check(&self) -> Result<(), String> {
        self.validate().map_err(|error| error.to_string())
    }
}

impl Checked for HandoffSettings {
    fn check(&self) -> Result<(), String> {
        self.validate().map_err(|error| error.to_string())
    }
}
