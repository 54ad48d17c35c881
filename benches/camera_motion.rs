//! How long the motion of a camera takes to find, beside the same steps of OpenCV in one run.
//!
//!     MTMC_OPENCV_PYTHON=python3 cargo bench --bench camera_motion
//!
//! Seven real frames of a moving camera (MOT17-11), at 1920×1080 as they are and at 768×576; both
//! programs get the same pixels and take turns, frame sequence by frame sequence, on one thread.
//! Without the variable, or where its Python has no OpenCV, there are only our figures. The steps
//! of OpenCV are in `tests/oracle/camera_motion/time_opencv.py`.
//!
//! Milliseconds a frame, ours and OpenCV 5.0.0's, medians on an AMD EPYC server with AVX-512 and
//! much other work beside it:
//!
//! | method      | 768×576     | 1920×1080   |
//! |-------------|-------------|-------------|
//! | sparse_flow | 3.3 / 10.4  | 4.8 / 16.0  |
//! | orb         | 3.2 / 5.8   | 5.5 / 29.6  |
//! | ecc         | 12.8 / 10.7 | 21.2 / 86.6 |

#![allow(clippy::print_stdout)] // Its results.

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use image::RgbImage;
use image::imageops::{FilterType, resize};
use mtmc::source::read_image;
use mtmc::tracker::camera_motion::{MotionEstimator, MotionMethod, MotionSettings};
use mtmc_models::testing::shared;

/// How often each program goes through the frames; the median counts.
const ROUNDS: usize = 15;
const FRAMES: usize = 7;
const METHODS: [MotionMethod; 3] = [
    MotionMethod::SparseFlow,
    MotionMethod::Orb,
    MotionMethod::Ecc,
];

fn main() -> Result<(), Box<dyn Error>> {
    // `cargo test` runs benches too: nothing to test here.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let mut large = Vec::new();
    for number in 1..=FRAMES {
        let name = format!("data/mot17/MOT17-11/img1-first/{number:06}.jpg");
        let Some(path) = shared(&name) else {
            return Ok(());
        };
        large.push(read_image(&path)?);
    }
    let small = large
        .iter()
        .map(|frame| resize(frame, 768, 576, FilterType::Triangle))
        .collect();
    println!(
        "{:<12} {:>11} {:>9} {:>9}",
        "method", "frame", "ours", "OpenCV"
    );
    for frames in [small, large] {
        for method in METHODS {
            let (ours, theirs) = compare(method, &frames)?;
            let theirs = theirs.map_or("-".to_owned(), |ms| format!("{ms:.2} ms"));
            let size = format!("{}x{}", frames[0].width(), frames[0].height());
            println!(
                "{:<12} {size:>11} {ours:>6.2} ms {theirs:>9}",
                method.name()
            );
        }
    }
    Ok(())
}

/// Median milliseconds a frame, ours and OpenCV's.
fn compare(
    method: MotionMethod,
    frames: &[RgbImage],
) -> Result<(f64, Option<f64>), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let mut opencv = OpenCv::start(method, frames, folder.path())?;
    let mut estimator = MotionEstimator::new(method, MotionSettings::default())?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        // From the first frame on, which is only prepared.
        estimator.next(&frames[0], &[]);
        let start = Instant::now();
        for frame in &frames[1..] {
            estimator.next(frame, &[]);
        }
        ours.push(start.elapsed().as_secs_f64() * 1e3 / (frames.len() - 1) as f64);
        if let Some(opencv) = &mut opencv {
            match opencv.round() {
                Ok(ms) => theirs.push(ms),
                Err(error) => return Err(format!("{method} with OpenCV: {error}").into()),
            }
        }
    }
    let median = |times: &mut Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times.get(times.len() / 2).copied()
    };
    let ours = median(&mut ours).ok_or("no rounds")?;
    Ok((ours, median(&mut theirs)))
}

/// A Python that goes through the frames once for each line that it gets.
struct OpenCv {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl OpenCv {
    fn start(
        method: MotionMethod,
        frames: &[RgbImage],
        folder: &Path,
    ) -> Result<Option<Self>, Box<dyn Error>> {
        let Some(python) = std::env::var_os("MTMC_OPENCV_PYTHON") else {
            return Ok(None);
        };
        let script = "tests/oracle/camera_motion/time_opencv.py";
        let mut command = Command::new(python);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(script));
        command.arg(method.name());
        command.args([frames[0].width(), frames[0].height()].map(|side| side.to_string()));
        for (index, frame) in frames.iter().enumerate() {
            let path = folder.join(format!("{index}.rgb"));
            std::fs::write(&path, frame.as_raw())?;
            command.arg(path);
        }
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let orders = child.stdin.take().ok_or("no input")?;
        let answers = BufReader::new(child.stdout.take().ok_or("no output")?);
        Ok(Some(Self {
            child,
            orders,
            answers,
        }))
    }

    /// Milliseconds a frame.
    fn round(&mut self) -> Result<f64, Box<dyn Error>> {
        self.orders.write_all(b"go\n")?;
        self.orders.flush()?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        Ok(answer.trim().parse()?)
    }
}

impl Drop for OpenCv {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
