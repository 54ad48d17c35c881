//! A simulation as files: what the programs that track and evaluate read.
//!
//! | file | |
//! |---|---|
//! | `CAM/det/det.txt` | detections, MOT Challenge: `frame,-1,left,top,width,height,score,-1,-1,-1` |
//! | `CAM/det/embeddings.safetensors` | `embeddings`: `[rows, dim]`, f32, a row a line of `det.txt` |
//! | `CAM/gt/gt.txt` | the truth, MOT Challenge: `frame,identity,left,top,width,height,counts,1,visibility`; identities are the same in all cameras, boxes end at the picture's edges |
//! | `CAM/seqinfo.ini` | frame rate, frames, size |
//! | `CAM_homography.json` | the calibration, with the whole projection |
//! | `truth_map.txt` | `frame identity x y` in metres, of everyone, seen or not |
//! | `truth_map_seen.txt` | the same of those whom at least one camera shows well enough to count |
//! | `environment.toml` | cameras, zones, overlaps and travel times |
//! | `settings.toml` | what was simulated |
//! | `plan.svg` | the place from above |

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use mtmc_models::{Detection, Embedding};

use super::coverage::CameraLink;
use super::picture::Picture;
use super::settings::{Layout, SimSettings};
use super::{CameraStep, SimCamera, Simulation, Step, TruthBox};
use crate::homography::{
    Calibration, CalibrationError, ImagePoint, MapPoint, PointPair, calibration_path,
};
use crate::sink::SinkError;
use crate::sink::part::PartFile;

/// Bytes of a safetensors header; padded with blanks, so that it can be written when the number of
/// rows is known.
const HEADER: usize = 256;

/// Why a simulation cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A file cannot be written.
    #[error(transparent)]
    File(#[from] SinkError),
    /// A camera has no calibration that can be written.
    #[error("camera {camera}: {source}")]
    Calibration {
        /// Its name.
        camera: String,
        /// Why.
        source: CalibrationError,
    },
    /// The settings cannot be expressed as TOML.
    #[error("the settings cannot be written: {0}")]
    Settings(#[from] toml::ser::Error),
}

/// Writes a simulation into a folder, step by step.
#[derive(Debug)]
pub struct SimWriter {
    folder: PathBuf,
    cameras: Vec<CameraFiles>,
    map: PartFile,
    map_seen: PartFile,
    picture: Picture,
    /// Reused for each step.
    text: String,
}

/// One camera's files.
#[derive(Debug)]
struct CameraFiles {
    detections: PartFile,
    truth: PartFile,
    embeddings: Option<PartFile>,
    image_size: [f32; 2],
    rows: u64,
}

impl SimWriter {
    /// Begins all files in `folder`, which is made if need be, and writes those that say what is
    /// simulated.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn create(folder: &Path, simulation: &Simulation) -> Result<Self, WriteError> {
        let settings = &simulation.settings;
        make_folder(folder)?;
        write_whole(&folder.join("settings.toml"), &toml::to_string(settings)?)?;
        let environment = environment(simulation, &simulation.links());
        write_whole(&folder.join("environment.toml"), &environment)?;
        let mut cameras = Vec::with_capacity(simulation.cameras.len());
        for camera in &simulation.cameras {
            write_calibration(folder, camera)?;
            let of_camera = folder.join(&camera.id);
            let dim = settings.looks.dim;
            cameras.push(CameraFiles::create(&of_camera, camera, dim)?);
            write_whole(&of_camera.join("seqinfo.ini"), &seqinfo(camera, settings))?;
        }
        Ok(Self {
            folder: folder.to_path_buf(),
            cameras,
            map: PartFile::create(&folder.join("truth_map.txt"))?,
            map_seen: PartFile::create(&folder.join("truth_map_seen.txt"))?,
            picture: Picture::default(),
            text: String::new(),
        })
    }

    /// Writes one step.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(&mut self, step: &Step) -> Result<(), WriteError> {
        for (files, camera) in self.cameras.iter_mut().zip(&step.cameras) {
            files.write(step.frame, camera, &mut self.text)?;
        }
        let boxes = step.cameras.iter().flat_map(|camera| &camera.truth_boxes);
        let counting = boxes.filter(|truth| truth.counts);
        let seen: BTreeSet<u64> = counting.map(|truth| truth.id).collect();
        map_lines(&mut self.text, step, |_| true);
        self.map.write(self.text.as_bytes())?;
        map_lines(&mut self.text, step, |id| seen.contains(&id));
        self.map_seen.write(self.text.as_bytes())?;
        self.picture.add(step);
        Ok(())
    }

    /// Completes all files and draws the picture.
    ///
    /// # Errors
    /// A file cannot be completed.
    pub fn finish(self, simulation: &Simulation) -> Result<(), WriteError> {
        let dim = simulation.settings.looks.dim;
        for files in self.cameras {
            files.finish(dim)?;
        }
        self.map.finish()?;
        self.map_seen.finish()?;
        write_whole(&self.folder.join("plan.svg"), &self.picture.svg(simulation))
    }
}

impl CameraFiles {
    fn create(folder: &Path, camera: &SimCamera, dim: usize) -> Result<Self, WriteError> {
        let [det, gt] = ["det", "gt"].map(|name| folder.join(name));
        make_folder(&det)?;
        make_folder(&gt)?;
        let mut embeddings = None;
        if dim > 0 {
            let mut file = PartFile::create(&det.join("embeddings.safetensors"))?;
            file.write(&[b' '; HEADER])?;
            embeddings = Some(file);
        }
        Ok(Self {
            detections: PartFile::create(&det.join("det.txt"))?,
            truth: PartFile::create(&gt.join("gt.txt"))?,
            embeddings,
            image_size: camera.image_size.map(|v| v as f32),
            rows: 0,
        })
    }

    fn write(&mut self, frame: u64, step: &CameraStep, text: &mut String) -> Result<(), SinkError> {
        text.clear();
        for detection in &step.detections {
            detection_line(text, frame, detection);
        }
        self.detections.write(text.as_bytes())?;
        text.clear();
        for truth in &step.truth_boxes {
            truth_line(text, frame, truth, self.image_size);
        }
        self.truth.write(text.as_bytes())?;
        self.rows += step.detections.len() as u64;
        if let Some(file) = &mut self.embeddings {
            for embedding in &step.embeddings {
                file.write(&bytes_of(embedding))?;
            }
        }
        Ok(())
    }

    fn finish(self, dim: usize) -> Result<(), SinkError> {
        self.detections.finish()?;
        self.truth.finish()?;
        if let Some(mut file) = self.embeddings {
            file.overwrite_start(&header(self.rows, dim))?;
            file.finish()?;
        }
        Ok(())
    }
}

/// Lines of the people of a step whose identity is wanted.
fn map_lines(text: &mut String, step: &Step, wanted: impl Fn(u64) -> bool) {
    text.clear();
    for (id, place) in step.people.iter().filter(|person| wanted(person.0)) {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "{} {id} {:.4} {:.4}", step.frame, place.x, place.y);
    }
}

fn detection_line(text: &mut String, frame: u64, detection: &Detection) {
    let bbox = &detection.bbox;
    let _ = writeln!(
        text,
        "{frame},-1,{:.2},{:.2},{:.2},{:.2},{:.4},-1,-1,-1",
        bbox.x1,
        bbox.y1,
        bbox.width(),
        bbox.height(),
        detection.score
    );
}

fn truth_line(text: &mut String, frame: u64, truth: &TruthBox, [width, height]: [f32; 2]) {
    // As detections: who is half in the picture would match none of them otherwise.
    let bbox = truth.bbox.clamp_to(width, height);
    let _ = writeln!(
        text,
        "{frame},{},{:.2},{:.2},{:.2},{:.2},{},1,{:.3}",
        truth.id,
        bbox.x1,
        bbox.y1,
        bbox.width(),
        bbox.height(),
        u8::from(truth.counts),
        truth.visibility
    );
}

fn bytes_of(embedding: &Embedding) -> Vec<u8> {
    let numbers = embedding.as_slice().iter();
    numbers.flat_map(|number| number.to_le_bytes()).collect()
}

/// The start of a safetensors file with one tensor: the header's length, then the header.
fn header(rows: u64, dim: usize) -> Vec<u8> {
    let length = HEADER - 8;
    let text = format!(
        "{{\"__metadata__\":{{\"rows\":\"lines of det.txt\"}},\"embeddings\":{{\"dtype\":\"F32\",\
         \"shape\":[{rows},{dim}],\"data_offsets\":[0,{}]}}}}",
        rows * dim as u64 * 4
    );
    let mut bytes = (length as u64).to_le_bytes().to_vec();
    bytes.extend(format!("{text:<length$}").bytes());
    bytes
}

fn make_folder(folder: &Path) -> Result<(), WriteError> {
    std::fs::create_dir_all(folder).map_err(|error| SinkError::io(folder, error))?;
    Ok(())
}

fn write_whole(path: &Path, text: &str) -> Result<(), WriteError> {
    let mut file = PartFile::create(path)?;
    file.write(text.as_bytes())?;
    file.finish()?;
    Ok(())
}

fn seqinfo(camera: &SimCamera, settings: &SimSettings) -> String {
    let [width, height] = camera.image_size;
    format!(
        "[Sequence]\nname={}\nimDir=img1\nframeRate={}\nseqLength={}\nimWidth={width}\n\
         imHeight={height}\nimExt=.jpg\n",
        camera.id,
        settings.frame_rate,
        settings.frames()
    )
}

fn write_calibration(folder: &Path, camera: &SimCamera) -> Result<(), WriteError> {
    let text = calibration(camera)
        .and_then(|calibration| calibration.to_json(&camera.id))
        .and_then(|text| Ok((calibration_path(folder, &camera.id)?, text)));
    let (path, text) = text.map_err(|source| WriteError::Calibration {
        camera: camera.id.clone(),
        source,
    })?;
    write_whole(&path, &text)
}

/// The camera's projection, and four points of its floor as someone would have measured them.
fn calibration(camera: &SimCamera) -> Result<Calibration, CalibrationError> {
    let mut calibration = Calibration::from_projection(camera.projection())?;
    let size = camera.image_size.map(f64::from);
    calibration.image_size = Some(size);
    let view = calibration.view(size)?;
    // The nearest corners, and points halfway to what is in the middle.
    for (x, y) in [(0.1, 0.95), (0.9, 0.95), (0.3, 0.6), (0.7, 0.6)] {
        let image = ImagePoint {
            x: x * size[0],
            y: y * size[1],
        };
        if let Ok(MapPoint { x, y }) = view.to_map(image) {
            calibration
                .points
                .push(PointPair::new(image.x, image.y, x, y));
            calibration.inliers.push(true);
        }
    }
    Ok(calibration)
}

/// Sides of pictures through which people leave: the shares of the first requirement's zones.
const SIDES: [&str; 2] = ["{ x_max = 0.3 }", "{ x_min = 0.7 }"];

/// The file that describes the environment to everything else.
fn environment(simulation: &Simulation, links: &[CameraLink]) -> String {
    let settings = &simulation.settings;
    let name = settings.layout.name();
    let [least, most] = simulation.plan.bounds();
    let mut text = format!(
        "id = \"sim-{name}\"\nname = \"Simulated {name}\"\n\n[map]\nunit = \"m\"\n\
         valid_area = [[{0:?}, {1:?}], [{2:?}, {1:?}], [{2:?}, {3:?}], [{0:?}, {3:?}]]\n\n\
         [homography]\ndata_dir = \".\"\n",
        least[0], least[1], most[0], most[1]
    );
    text.push_str(&association(settings));
    let last = simulation.cameras.len() - 1;
    for (index, camera) in simulation.cameras.iter().enumerate() {
        // The first and the last of a chain have nothing beside them.
        let zones = match (settings.layout, index) {
            (Layout::Campus, 0) => SIDES[1].to_owned(),
            (Layout::Campus, index) if index == last => SIDES[0].to_owned(),
            _ => SIDES.join(", "),
        };
        let _ = write!(
            text,
            "\n[[cameras]]\nid = \"{0}\"\nsource = \"{0}\"\nframe_rate = {1:?}\n\
             homography = \"{0}_homography.json\"\nzones = [{zones}]\n",
            camera.id, settings.frame_rate
        );
    }
    let id = |index: usize| &simulation.cameras[index].id;
    // Both directions are alike.
    for link in links.iter().filter(|link| link.from < link.to) {
        let _ = write!(
            text,
            "\n[[links]]\ncameras = [\"{}\", \"{}\"]\n",
            id(link.from),
            id(link.to)
        );
        if link.overlap {
            text.push_str("overlap = true\n");
        } else {
            let [least, most] = link.seconds;
            let _ = writeln!(text, "travel_seconds = [{least:.1}, {most:.1}]");
        }
    }
    text
}

/// Absences of the mean length that someone is remembered for: few people stay away longer.
const ABSENCES: f64 = 5.0;

/// Most steps that anyone is remembered for.
const MOST_STEPS: f64 = 1e6;

/// The threshold's way from strangers in one camera (0) to one person in two (1): missing someone
/// now costs less than taking him for another.
const NEARER: f64 = 2.0 / 3.0;

/// Settings of identities that suit the data: a threshold between the likeness of one person in two
/// cameras and that of two people in one, and a memory for those who will come back.
fn association(settings: &SimSettings) -> String {
    let looks = &settings.looks;
    let (same, other) = (looks.other_camera, looks.different_same_camera);
    let threshold = other + NEARER * (same - other);
    let steps = (ABSENCES * settings.walk.absence * settings.frame_rate).ceil();
    format!(
        "\n[association]\nsimilarity_threshold = {threshold:.2}\nlost_steps = {}\n",
        steps.clamp(100.0, MOST_STEPS)
    )
}
