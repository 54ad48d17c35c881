//! An environment: a place that several cameras watch.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::checks::Checked;
use super::problem::ConfigError;
use super::read;
use super::variables::Overrides;
use crate::gallery::{GallerySettings, Link, Topology};
use crate::handoff::{HandoffDetector, HandoffError, HandoffRules, HandoffSettings, Zone};
use crate::tracker::TrackerSettings;

/// Most cameras of an environment.
pub const MAX_CAMERAS: usize = 1_000;

/// Most links of an environment, each direction counted.
pub const MAX_LINKS: usize = 100_000;

/// Largest file that is read, in bytes.
pub const MAX_FILE_BYTES: u64 = 4 << 20;

/// Most corners of the map's valid area.
const MAX_CORNERS: usize = 1_000;

/// A place that several cameras watch, and how people are followed there; checked.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Environment {
    /// Letters, digits, `_`, `-` and `.`: it becomes part of addresses and file names.
    pub id: String,
    /// For people.
    pub name: String,
    /// The map that all cameras are projected to.
    pub map: MapSettings,
    /// Where calibrations are, and how they are used.
    pub homography: HomographySettings,
    /// How appearance is taken.
    pub reid: ReidSettings,
    /// The cameras; everything else refers to them by their place in this list.
    pub cameras: Vec<Camera>,
    /// How people get from camera to camera, each direction by itself.
    pub links: Vec<CameraLink>,
    /// Each camera's tracker.
    pub tracker: TrackerSettings,
    /// Identities across cameras.
    pub association: GallerySettings,
    /// Handoffs between cameras.
    pub handoff: HandoffSettings,
}

/// One camera of an environment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Camera {
    /// Letters, digits, `_`, `-` and `.`.
    pub id: String,
    /// For people; the ID if none is given.
    pub name: String,
    /// Folder, video file or address of the frames; paths are absolute or relative to the working
    /// directory.
    pub source: Option<String>,
    /// Frames a second, if not what the source says.
    pub frame_rate: Option<f64>,
    /// Seconds from the environment's time 0 to the camera's first frame.
    pub start_offset: f64,
    /// The calibration's file, if one is named; see [`Environment::homography_file`].
    pub homography: Option<PathBuf>,
    /// Parts of the picture through which people leave.
    pub zones: Vec<Zone>,
}

/// How people get from one camera to another.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CameraLink {
    /// Index of the camera that is left.
    pub from: usize,
    /// Index of the camera where people turn up.
    pub to: usize,
    /// Whether both may see a person at once, and how long the way takes.
    pub link: Link,
}

/// The map of an environment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MapSettings {
    /// Unit of its coordinates, for people. Default `m`.
    pub unit: String,
    /// Corners of the area in which people can be, in order; empty: everywhere.
    pub valid_area: Vec<[f64; 2]>,
    /// A picture of it.
    pub background: Option<PathBuf>,
    /// Where that picture lies on the map: least x, least y, most x, most y.
    pub background_bounds: Option<[f64; 4]>,
}

impl Default for MapSettings {
    fn default() -> Self {
        Self {
            unit: "m".to_string(),
            valid_area: Vec::new(),
            background: None,
            background_bounds: None,
        }
    }
}

impl Checked for MapSettings {
    fn check(&self) -> Result<(), String> {
        let wrong = |setting: &str, message: &str| Err(format!("{setting}: {message}"));
        if self.unit.is_empty() || self.unit.len() > 16 {
            return wrong("unit", "must have 1 to 16 bytes");
        }
        let corners = &self.valid_area;
        if corners.iter().flatten().any(|number| !number.is_finite()) {
            return wrong("valid_area", "every corner must be finite");
        }
        if !corners.is_empty() && (corners.len() > MAX_CORNERS || area(corners) == 0.0) {
            return wrong(
                "valid_area",
                "must be 3 to 1,000 corners [x, y] around an area",
            );
        }
        match self.background_bounds {
            Some([left, top, right, bottom]) if !(left < right && top < bottom) => wrong(
                "background_bounds",
                "must be [least x, least y, most x, most y]",
            ),
            Some(bounds) if bounds.iter().any(|number| !number.is_finite()) => {
                wrong("background_bounds", "every number must be finite")
            }
            _ => Ok(()),
        }
    }
}

/// Area of a polygon, without its sign (the shoelace formula).
fn area(corners: &[[f64; 2]]) -> f64 {
    let mut twice = 0.0;
    for (index, [x, y]) in corners.iter().enumerate() {
        let [next_x, next_y] = corners[(index + 1) % corners.len()];
        twice += x * next_y - next_x * y;
    }
    (twice / 2.0).abs()
}

/// Where calibrations are, and how they are used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HomographySettings {
    /// Whether people are projected to the map. Default true (`ENABLE_BEV_MAP_PROJECTION`).
    pub enabled: bool,
    /// Folder of `{camera}_homography.json`. Default `homography_data` (`HOMOGRAPHY_DATA_DIR`).
    pub data_dir: PathBuf,
    /// Error in pixels up to which a calibration point counts. Default 5
    /// (`HOMOGRAPHY_RANSAC_THRESHOLD`).
    pub ransac_threshold: f64,
}

impl Default for HomographySettings {
    fn default() -> Self {
        Self {
            enabled: true,
            data_dir: PathBuf::from("homography_data"),
            ransac_threshold: 5.0,
        }
    }
}

impl Checked for HomographySettings {
    fn check(&self) -> Result<(), String> {
        let value = self.ransac_threshold;
        if value > 0.0 && value <= 10_000.0 {
            return Ok(());
        }
        Err(format!(
            "ransac_threshold = {value}: must be above 0 and at most 10,000"
        ))
    }
}

/// How appearance is taken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReidSettings {
    /// Weights of the encoder; none: identities go by place alone (`REID_MODEL_PATH`).
    pub model: Option<PathBuf>,
    /// What the weights must be (`REID_MODEL_TYPE`); they say themselves what they are. Default any.
    #[serde(rename = "type")]
    pub kind: Option<EncoderType>,
    /// Frames after which a track is looked at anew. Default 30 (`REID_REFRESH_INTERVAL_FRAMES`).
    pub refresh_interval_frames: u32,
}

impl Default for ReidSettings {
    fn default() -> Self {
        Self {
            model: None,
            kind: None,
            refresh_interval_frames: 30,
        }
    }
}

impl Checked for ReidSettings {
    fn check(&self) -> Result<(), String> {
        let frames = self.refresh_interval_frames;
        if (1..=1_000_000).contains(&frames) {
            return Ok(());
        }
        Err(format!(
            "refresh_interval_frames = {frames}: must be in 1..=1,000,000"
        ))
    }
}

/// Families of encoders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EncoderType {
    /// CLIP-ReID.
    Clip,
    /// ResNet50 with the heads of re-identification.
    ResNet50,
    /// OSNet.
    OsNet,
}

impl Environment {
    /// The environment that the service has without any file: cameras c09, c12, c13 and c16 in a
    /// row, each overlapping with the next, left through the sides of their pictures.
    pub fn standard() -> Self {
        let left = Zone::new([0.0, 0.3], [0.0, 1.0]);
        let right = Zone::new([0.7, 1.0], [0.0, 1.0]);
        let cameras = [
            ("c09", vec![right.clone()]),
            ("c12", vec![left.clone(), right.clone()]),
            ("c13", vec![left.clone(), right]),
            ("c16", vec![left]),
        ];
        let mut environment = Self {
            id: "default".to_string(),
            name: "Default".to_string(),
            map: MapSettings::default(),
            homography: HomographySettings::default(),
            reid: ReidSettings::default(),
            cameras: Vec::new(),
            links: Vec::new(),
            tracker: TrackerSettings::default(),
            association: GallerySettings::default(),
            handoff: HandoffSettings::default(),
        };
        for (id, zones) in cameras {
            environment.cameras.push(Camera {
                zones,
                ..Camera::new(id)
            });
        }
        environment.set_overlaps(&[(0, 1), (1, 2), (2, 3)]);
        environment
    }

    /// The standard environment with variables and flags over it.
    ///
    /// # Errors
    /// A variable or flag is wrong.
    pub fn standard_with(overrides: &Overrides) -> Result<Self, ConfigError> {
        Self::standard().under(overrides)
    }

    /// Cameras of which only the IDs are known, without zones and links, with variables and flags
    /// over it. The IDs are not checked.
    ///
    /// # Errors
    /// A variable or flag is wrong.
    pub fn of_cameras(ids: &[String], overrides: &Overrides) -> Result<Self, ConfigError> {
        let environment = Self {
            cameras: ids.iter().map(|id| Camera::new(id)).collect(),
            links: Vec::new(),
            ..Self::standard()
        };
        environment.under(overrides)
    }

    fn under(mut self, overrides: &Overrides) -> Result<Self, ConfigError> {
        let problems = overrides.apply(&mut self);
        if problems.is_empty() {
            return Ok(self);
        }
        Err(ConfigError::Invalid(problems))
    }

    /// Reads an environment's file, with variables and flags over it.
    ///
    /// # Errors
    /// The file cannot be read, or all that is wrong in it, in variables and flags.
    pub fn load(path: impl AsRef<Path>, overrides: &Overrides) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        let failed = |source| ConfigError::Read {
            path: path.to_path_buf(),
            source,
        };
        let bytes = std::fs::metadata(path).map_err(failed)?.len();
        if bytes > MAX_FILE_BYTES {
            return Err(ConfigError::TooLarge {
                path: path.to_path_buf(),
                bytes,
            });
        }
        let text = std::fs::read_to_string(path).map_err(failed)?;
        Self::parse(&text, path, overrides)
    }

    /// Reads an environment from the text of a file; paths in it are relative to the file's folder.
    ///
    /// # Errors
    /// All that is wrong in the text, in variables and flags.
    pub fn parse(
        text: &str,
        path: impl AsRef<Path>,
        overrides: &Overrides,
    ) -> Result<Self, ConfigError> {
        let (mut environment, mut problems) = read::read(text, path.as_ref());
        // Without any camera, pairs of cameras would only be wrong once more.
        if problems.is_empty() || !environment.cameras.is_empty() {
            problems.extend(overrides.apply(&mut environment));
        }
        if problems.is_empty() {
            return Ok(environment);
        }
        Err(ConfigError::Invalid(problems))
    }

    /// Index of a camera.
    pub fn camera_index(&self, id: &str) -> Option<usize> {
        self.cameras.iter().position(|camera| camera.id == id)
    }

    /// The same place with only these of its cameras, in its own order; all of them if none is
    /// named.
    ///
    /// # Errors
    /// The first of the IDs that is no camera's.
    pub fn only(&self, ids: &[String]) -> Result<Self, String> {
        if ids.is_empty() {
            return Ok(self.clone());
        }
        if let Some(unknown) = ids.iter().find(|id| self.camera_index(id).is_none()) {
            return Err(unknown.clone());
        }
        let kept: Vec<usize> = (0..self.cameras.len())
            .filter(|&index| ids.contains(&self.cameras[index].id))
            .collect();
        let place = |camera: usize| kept.iter().position(|&index| index == camera);
        let mut only = self.clone();
        only.cameras = kept
            .iter()
            .map(|&index| self.cameras[index].clone())
            .collect();
        only.links.clear();
        for link in &self.links {
            if let (Some(from), Some(to)) = (place(link.from), place(link.to)) {
                only.links.push(CameraLink { from, to, ..*link });
            }
        }
        for camera in &mut only.cameras {
            // A zone that leads nowhere any more must not become one that leads everywhere.
            camera.zones.retain_mut(|zone| {
                let everywhere = zone.to.is_empty();
                zone.to = zone.to.iter().filter_map(|&to| place(to)).collect();
                everywhere || !zone.to.is_empty()
            });
        }
        Ok(only)
    }

    /// Where a camera's calibration is looked for: the file it names, else
    /// `{data_dir}/{id}_homography.json`. `None` without a camera of that index.
    pub fn homography_file(&self, camera: usize) -> Option<PathBuf> {
        let camera = self.cameras.get(camera)?;
        let usual = || {
            let name = format!("{}_homography.json", camera.id);
            self.homography.data_dir.join(name)
        };
        Some(camera.homography.clone().unwrap_or_else(usual))
    }

    /// Who may pass from camera to camera, and when.
    pub fn topology(&self) -> Topology {
        let mut topology = Topology::default();
        for &CameraLink { from, to, link } in &self.links {
            topology.set(from, to, link);
        }
        topology
    }

    /// The detector of this environment's handoffs.
    ///
    /// # Errors
    /// Zones or settings that make no sense; none in an environment that was read by
    /// [`Environment::load`].
    pub fn handoff_detector(&self) -> Result<HandoffDetector, HandoffError> {
        let zones = self.cameras.iter().map(|camera| camera.zones.clone());
        let links = self
            .links
            .iter()
            .map(|link| (link.from, link.to, link.link));
        let rules = HandoffRules::new(zones.collect(), links)?;
        HandoffDetector::new(self.handoff, rules)
    }

    /// Makes these pairs of cameras, and no others, overlap. Travel times of other pairs stay.
    pub(super) fn set_overlaps(&mut self, pairs: &[(usize, usize)]) {
        self.links.retain(|link| !link.link.overlap);
        for &(a, b) in pairs {
            for (from, to) in [(a, b), (b, a)] {
                self.links.retain(|link| (link.from, link.to) != (from, to));
                self.links.push(CameraLink {
                    from,
                    to,
                    link: AT_ONCE,
                });
            }
        }
        self.links.sort_by_key(|link| (link.from, link.to));
    }
}

/// The link of cameras that overlap, of which nothing else is said.
pub(super) const AT_ONCE: Link = Link {
    overlap: true,
    seconds: [0.0, 0.0],
};

impl Camera {
    /// A camera of which nothing but the ID is known.
    pub fn new(id: &str) -> Self {
        Self {
            id: id.to_string(),
            name: id.to_string(),
            source: None,
            frame_rate: None,
            start_offset: 0.0,
            homography: None,
            zones: Vec::new(),
        }
    }
}
