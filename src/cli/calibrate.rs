//! `mtmc calibrate`: where on the map a camera's pictures are.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{ArgGroup, Args};
use image::RgbImage;
use mtmc_tools::dataset::pictures::write_jpeg;
use serde_json::{Value, json};

use super::eval::output::{print_json, write_file};
use crate::homography::{
    Calibration, DEFAULT_THRESHOLD, MIN_PAIRS, MapPoint, Matrix3, PointPair, calibration_path,
    draw_check, numbers, parse_pair, read_matrix, read_pairs, read_projections,
};
use crate::source::{self, OpenOptions};

/// Arguments of `mtmc calibrate`.
///
/// From pairs of points (`--pairs`, `--pair`), a homography (`--matrix`), a projection
/// (`--projection`), or a calibration that is there (nothing of these): checked, printed, drawn.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("input").args(["pairs", "pair", "matrix", "projection"]).multiple(true))]
pub struct CalibrateArgs {
    /// The camera's name; with --projection, all cameras of the file if not given
    #[arg(short, long, env = "MTMC_CAMERA", value_name = "NAME")]
    camera: Option<String>,

    /// Point pairs: CSV lines u,v,x,y (pixels right and down, map x and y), or JSON with
    /// `image_points` and `map_points`
    #[arg(long, env = "MTMC_PAIRS", value_name = "FILE", conflicts_with_all = ["matrix", "projection"])]
    pairs: Option<PathBuf>,

    /// One point pair; to be repeated, at least four times
    #[arg(long, value_name = "U,V,X,Y", value_parser = parse_pair, allow_hyphen_values = true, conflicts_with_all = ["matrix", "projection"])]
    pair: Vec<PointPair>,

    /// A 3×3 matrix from image to map: nine numbers, or JSON rows
    #[arg(
        long,
        env = "MTMC_MATRIX",
        value_name = "FILE",
        conflicts_with = "projection"
    )]
    matrix: Option<PathBuf>,

    /// The matrix maps the map to the image
    #[arg(long, env = "MTMC_MATRIX_FROM_MAP", requires = "matrix")]
    from_map: bool,

    /// JSON with a 3×4 matrix a camera from the world (z up, the floor at z = 0) to the image
    #[arg(long, env = "MTMC_PROJECTION", value_name = "FILE")]
    projection: Option<PathBuf>,

    /// A picture or video of the camera; of a video the first frame is taken
    #[arg(long, env = "MTMC_IMAGE", value_name = "FRAME")]
    image: Option<PathBuf>,

    /// Size of the camera's pictures, if there is none at hand
    #[arg(long, env = "MTMC_IMAGE_SIZE", value_name = "WIDTHxHEIGHT", value_parser = image_size, conflicts_with = "image")]
    image_size: Option<[u32; 2]>,

    /// What one unit of the map is
    #[arg(long, env = "MTMC_MAP_UNITS", value_name = "UNIT")]
    units: Option<String>,

    /// Corners of the part of the map that the calibration is valid for, such as "0,0 12,0 12,8 0,8"
    #[arg(
        long,
        env = "MTMC_VALID_AREA",
        value_name = "X,Y X,Y X,Y…",
        allow_hyphen_values = true
    )]
    valid_area: Option<String>,

    /// Tell from the floor how tall people appear too: for cameras with square pixels whose optical
    /// axis meets the middle of the picture, on maps with one unit for both axes
    #[arg(long, env = "MTMC_HEIGHTS", conflicts_with = "projection")]
    heights: bool,

    /// How far off a point may be, in image pixels, and still be right
    #[arg(long, env = "HOMOGRAPHY_RANSAC_THRESHOLD", default_value_t = DEFAULT_THRESHOLD, value_name = "PIXELS")]
    ransac_threshold: f64,

    /// Folder of the calibrations; NAME_homography.json goes there
    #[arg(
        short,
        long,
        env = "HOMOGRAPHY_DATA_DIR",
        default_value = "homography_data",
        value_name = "DIR"
    )]
    out: PathBuf,

    /// Where the frame goes with the map's grid and the points drawn on it (.png or .jpg);
    /// NAME_homography.png in the folder of the calibrations if not given
    #[arg(long, env = "MTMC_PICTURE", value_name = "FILE", requires = "image")]
    picture: Option<PathBuf>,

    /// Distance of the grid's lines in map units; a round number that suits if not given
    #[arg(long, env = "MTMC_GRID", value_name = "STEP", value_parser = positive)]
    grid: Option<f64>,

    /// Print JSON instead of a table
    #[arg(long, env = "MTMC_JSON")]
    json: bool,
}

/// `1920x1080`.
fn image_size(text: &str) -> Result<[u32; 2], String> {
    let side = |text: &str| text.parse().ok().filter(|side| (1..=65_536).contains(side));
    let sides = text.split_once('x');
    let parsed = sides.and_then(|(width, height)| Some([side(width)?, side(height)?]));
    parsed.ok_or_else(|| "not WIDTHxHEIGHT, such as 1920x1080".to_string())
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value > 0.0 => Ok(value),
        _ => Err("must be a number above 0".to_string()),
    }
}

/// Calibrates, writes, prints.
///
/// # Errors
/// The input is not usable, or does not fix a homography; a file cannot be read or written.
pub fn run(args: &CalibrateArgs) -> anyhow::Result<()> {
    let frame = args.image.as_deref().map(first_frame).transpose()?;
    let given = args.given()?;
    if given.len() > 1 && (frame.is_some() || args.picture.is_some()) {
        bail!("--image is of one camera: say which with --camera");
    }
    let mut reports = Vec::new();
    for (camera, mut calibration) in given {
        args.complete(&mut calibration, frame.as_ref())?;
        let path = calibration_path(&args.out, &camera)?;
        // A calibration that its frames cannot use is found out now, not when the cameras run.
        if let Some(size) = calibration.image_size {
            calibration.view(size).with_context(|| camera.clone())?;
        } else {
            warn("the pictures' size is not known: give --image or --image-size");
        }
        let text = calibration.to_json(&camera)?;
        std::fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
        write_file(&path, &text)?;
        let picture = match &frame {
            Some(frame) => Some(args.draw(&camera, &calibration, frame)?),
            None => None,
        };
        if args.json {
            reports.push(report_json(
                &camera,
                &calibration,
                &path,
                picture.as_deref(),
            ));
        } else {
            print(&camera, &calibration, &path, picture.as_deref())?;
        }
    }
    if args.json {
        print_json(&Value::Array(reports))?;
    }
    Ok(())
}

impl CalibrateArgs {
    /// Cameras and what was given for them.
    fn given(&self) -> anyhow::Result<Vec<(String, Calibration)>> {
        if let Some(path) = &self.projection {
            return self.projections(path);
        }
        let Some(camera) = &self.camera else {
            bail!("--camera is missing: the name that the calibration is kept under");
        };
        let calibration = if let Some(path) = &self.matrix {
            self.read_matrix(path)?
        } else if self.pairs.is_some() || !self.pair.is_empty() {
            let mut pairs = match &self.pairs {
                Some(path) => read_pairs(path)?,
                None => Vec::new(),
            };
            pairs.extend(&self.pair);
            Calibration::from_points(&pairs, self.ransac_threshold)?
        } else {
            self.existing(camera)?
        };
        Ok(vec![(camera.clone(), calibration)])
    }

    fn projections(&self, path: &Path) -> anyhow::Result<Vec<(String, Calibration)>> {
        let found = read_projections(path)?;
        let known: Vec<String> = found.iter().filter_map(|(name, _)| name.clone()).collect();
        let mut chosen = Vec::new();
        for (name, projection) in found {
            let camera = match (&self.camera, name) {
                (Some(camera), Some(name)) if *camera != name => continue,
                (Some(camera), _) => camera.clone(),
                (None, Some(name)) => name,
                (None, None) => bail!("--camera is missing: {} names none", path.display()),
            };
            let calibration = Calibration::from_projection(projection);
            let context = || format!("{}: {camera}", path.display());
            chosen.push((camera.clone(), calibration.with_context(context)?));
        }
        if chosen.is_empty() {
            bail!(
                "{}: no such camera, only {}",
                path.display(),
                known.join(", ")
            );
        }
        Ok(chosen)
    }

    fn read_matrix(&self, path: &Path) -> anyhow::Result<Calibration> {
        let matrix = read_matrix(path)?;
        let made = if self.from_map {
            Calibration::from_map_matrix(matrix)
        } else {
            Calibration::from_matrix(matrix)
        };
        made.with_context(|| path.display().to_string())
    }

    /// The calibration that the folder has of the camera.
    fn existing(&self, camera: &str) -> anyhow::Result<Calibration> {
        let path = calibration_path(&self.out, camera)?;
        if !path.exists() {
            bail!(
                "nothing to calibrate from: give --pairs, --pair, --matrix or --projection \
                 ({} does not exist)",
                path.display()
            );
        }
        let loaded = Calibration::read(&path, self.ransac_threshold)?;
        for warning in &loaded.warnings {
            warn(&format!("{}: {warning}", path.display()));
        }
        Ok(loaded.calibration)
    }

    /// Adds what else is known of the camera.
    fn complete(
        &self,
        calibration: &mut Calibration,
        frame: Option<&RgbImage>,
    ) -> anyhow::Result<()> {
        // A smaller picture of a camera that has a size already is fine to draw on.
        if let (Some(frame), None) = (frame, calibration.image_size) {
            calibration.image_size = Some([frame.width(), frame.height()].map(f64::from));
        }
        if let Some(size) = self.image_size {
            calibration.image_size = Some(size.map(f64::from));
        }
        if let Some(units) = &self.units {
            calibration.map_units.clone_from(units);
        }
        if let Some(text) = &self.valid_area {
            let values =
                numbers(text).map_err(|reason| anyhow::anyhow!("--valid-area: {reason}"))?;
            let (corners, rest) = values.as_chunks::<2>();
            if !rest.is_empty() {
                bail!("--valid-area: an odd count of numbers");
            }
            calibration.valid_area = corners.iter().map(|&[x, y]| MapPoint { x, y }).collect();
        }
        if self.heights {
            calibration.estimate_heights()?;
        }
        calibration.check()?;
        Ok(())
    }

    /// Draws the check picture and writes it; where.
    fn draw(
        &self,
        camera: &str,
        calibration: &Calibration,
        frame: &RgbImage,
    ) -> anyhow::Result<PathBuf> {
        let size = [frame.width(), frame.height()].map(f64::from);
        let view = calibration.view(size)?;
        let mut image = frame.clone();
        if draw_check(&mut image, calibration, &view, self.grid).is_none() {
            warn("the picture shows no floor: nothing but the points is drawn");
        }
        let path = match &self.picture {
            Some(path) => path.clone(),
            None => calibration_path(&self.out, camera)?.with_extension("png"),
        };
        let ending = path.extension().unwrap_or_default().to_ascii_lowercase();
        if ending == "jpg" || ending == "jpeg" {
            write_jpeg(&path, &image)?;
        } else {
            image
                .save(&path)
                .with_context(|| path.display().to_string())?;
        }
        Ok(path)
    }
}

fn first_frame(path: &Path) -> anyhow::Result<RgbImage> {
    let Some(spec) = path.to_str() else {
        bail!("{}: not a name that can be read", path.display());
    };
    let mut source = source::open(spec, &OpenOptions::default())?;
    let frame = source.next_frame()?;
    Ok(frame
        .with_context(|| format!("{}: no frame in it", path.display()))?
        .image)
}

fn warn(text: &str) {
    // Nothing is left to tell if standard error is closed.
    let _ = writeln!(std::io::stderr(), "warning: {text}");
}

fn report_json(
    camera: &str,
    calibration: &Calibration,
    path: &Path,
    picture: Option<&Path>,
) -> Value {
    let each = calibration.points_with_errors().into_iter();
    let points: Vec<Value> = each
        .map(|(pair, inlier, error)| {
            json!({
                "image": [pair.image.x, pair.image.y],
                "map": [pair.map.x, pair.map.y],
                "inlier": inlier,
                "error_pixels": error.pixels,
                "error_map": error.map,
            })
        })
        .collect();
    json!({
        "camera": camera,
        "matrix": calibration.matrix,
        "projection": calibration.projection,
        "camera_height": camera_height(calibration),
        "map_units": calibration.map_units,
        "error": calibration.error_summary(),
        "points": points,
        "file": path,
        "picture": picture,
    })
}

/// Most points that are printed one by one.
const MOST_ROWS: usize = 50;

fn print(
    camera: &str,
    calibration: &Calibration,
    path: &Path,
    picture: Option<&Path>,
) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{camera}")?;
    print_matrix(&mut stdout, &calibration.matrix)?;
    if let Some(summary) = calibration.error_summary() {
        let units = &calibration.map_units;
        print_points(&mut stdout, calibration)?;
        writeln!(
            stdout,
            "  {} of {} points agree: mean {:.3} px, max {:.3} px; mean {:.4} {units}, max {:.4} {units}",
            summary.inliers,
            summary.points,
            summary.mean_pixels,
            summary.max_pixels,
            summary.mean_map,
            summary.max_map
        )?;
        if summary.points == MIN_PAIRS {
            writeln!(
                stdout,
                "  four points are always met: only more of them show errors"
            )?;
        }
    }
    if let Some(height) = camera_height(calibration) {
        let units = &calibration.map_units;
        writeln!(
            stdout,
            "  the camera is {height:.2} {units} above the floor"
        )?;
    }
    writeln!(stdout, "  written to {}", path.display())?;
    if let Some(picture) = picture {
        writeln!(stdout, "  drawn on {}", picture.display())?;
    }
    Ok(())
}

/// Where the projection puts the camera, if there is one.
fn camera_height(calibration: &Calibration) -> Option<f64> {
    let size = calibration.image_size?;
    calibration.view(size).ok()?.height()
}

fn print_matrix(out: &mut impl std::io::Write, matrix: &Matrix3) -> std::io::Result<()> {
    for row in matrix {
        let [a, b, c] = row;
        writeln!(out, "  {a:>14.6e} {b:>14.6e} {c:>14.6e}")?;
    }
    Ok(())
}

fn print_points(out: &mut impl std::io::Write, calibration: &Calibration) -> std::io::Result<()> {
    let units = &calibration.map_units;
    writeln!(
        out,
        "  {:>6} {:>9} {:>9} {:>11} {:>11} {:>9} {:>9}",
        "point",
        "u",
        "v",
        "x",
        "y",
        "px off",
        format!("{units} off")
    )?;
    let each = calibration.points_with_errors().into_iter();
    for (index, (pair, inlier, error)) in each.enumerate().take(MOST_ROWS) {
        let [u, v, x, y] = pair.numbers();
        let note = if inlier { "" } else { "  left out" };
        writeln!(
            out,
            "  {:>6} {u:>9.1} {v:>9.1} {x:>11.3} {y:>11.3} {:>9.3} {:>9.4}{note}",
            index + 1,
            error.pixels,
            error.map
        )?;
    }
    let rest = calibration.points.len().saturating_sub(MOST_ROWS);
    if rest > 0 {
        writeln!(out, "  {rest} more, with --json")?;
    }
    Ok(())
}
