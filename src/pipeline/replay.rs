//! Recorded detections instead of pictures: the trackers, and all that is behind them, without the
//! networks before them.
//!
//! Detections are read as MOT Challenge text, frame after frame, with vectors of how they look
//! beside them where there are any. Steps go by time as in [`run`](super::run). The same files give
//! the same results; memory does not grow with their length.

use std::fs::File;
use std::io::{BufReader, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mtmc_models::{Detection, Embedding};
use rayon::prelude::*;
use safetensors::Dtype;
use safetensors::tensor::Metadata;

use super::ids::IdSet;
use super::metrics::CameraMetrics;
use super::{CameraState, PipelineMetrics, Shared, Stage, Summary, TrackIdentity, TrackedFrame};
use crate::sink::{MotSink, Sink as _, SinkError, StepOutcome};
use crate::tracker::mot::{Lines, MotError, parse_line};
use crate::tracker::{FrameDetections, Track, Tracker};

/// Score of a detection that has none: MOT Challenge writes -1 there.
const UNKNOWN_SCORE: f32 = 1.0;

/// Most detections of one frame; more are no detector's.
const MAX_IN_FRAME: usize = 100_000;

/// Largest header of a file of vectors, in bytes.
const MAX_HEADER: u64 = 1 << 20;

/// Most numbers of one vector.
const MAX_DIM: usize = 1 << 16;

/// Why recorded detections could not be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A file of detections cannot be used.
    #[error(transparent)]
    Detections(#[from] MotError),
    /// A file of vectors cannot be used.
    #[error("{}: {reason}", path.display())]
    Vectors {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A network that was not asked for anything failed: a bug of this program.
    #[error("identities failed: {0}")]
    World(#[source] mtmc_models::Error),
    /// A result could not be written.
    #[error(transparent)]
    Sink(#[from] SinkError),
}

/// A camera's recorded detections, read frame by frame.
#[derive(Debug)]
pub struct Recording {
    lines: Lines<BufReader<File>>,
    vectors: Option<Vectors>,
    /// The first detection of a frame that was not asked for yet.
    next: Option<(u64, Detection)>,
    /// The latest frame that was given.
    frame: u64,
    /// Frames, if that is known.
    length: Option<u64>,
    refused_vectors: u64,
}

impl Recording {
    /// Opens a file of detections in order of frames, and the vectors that belong to its lines;
    /// `length` is the number of frames, if there may be empty ones at the end.
    ///
    /// # Errors
    /// A file cannot be read, or its first line is wrong.
    pub fn open(
        path: &Path,
        vectors: Option<&Path>,
        length: Option<u64>,
    ) -> Result<Self, ReplayError> {
        let file = File::open(path).map_err(|source| MotError::io(path, source))?;
        let mut recording = Self {
            lines: Lines::new(BufReader::new(file), path),
            vectors: vectors.map(Vectors::open).transpose()?,
            next: None,
            frame: 0,
            length,
            refused_vectors: 0,
        };
        recording.next = recording.read_line()?;
        Ok(recording)
    }

    /// Number of the next frame, from 1; `None` after the last.
    pub fn next_number(&self) -> Option<u64> {
        let number = self.frame + 1;
        let expected = self.length.is_some_and(|length| number <= length);
        (expected || self.next.is_some()).then_some(number)
    }

    /// The next frame, also an empty one.
    ///
    /// # Errors
    /// A line is wrong or out of order, or vectors are missing. The error names file and line.
    pub fn next_frame(&mut self) -> Result<FrameDetections, ReplayError> {
        self.frame += 1;
        let mut found = FrameDetections {
            frame: self.frame,
            ..FrameDetections::default()
        };
        while let Some((_, detection)) = self.next.filter(|(frame, _)| *frame == self.frame) {
            if found.detections.len() == MAX_IN_FRAME {
                let reason = format!("more than {MAX_IN_FRAME} detections in a frame");
                return Err(self.lines.error(reason).into());
            }
            found.detections.push(detection);
            if let Some(vectors) = &mut self.vectors {
                let vector = vectors.next_vector()?;
                self.refused_vectors += u64::from(vector.is_none());
                found.embeddings.push(vector);
            }
            self.next = self.read_line()?;
        }
        if self.next.is_none()
            && let Some(vectors) = &self.vectors
        {
            vectors.check_end()?;
        }
        Ok(found)
    }

    fn read_line(&mut self) -> Result<Option<(u64, Detection)>, MotError> {
        let Some(line) = self.lines.next_line()? else {
            return Ok(None);
        };
        let (frame, mut detection) = match parse_line(line) {
            Ok(parsed) => parsed,
            Err(reason) => return Err(self.lines.error(reason)),
        };
        let before = self.next.map_or(1, |(frame, _)| frame);
        if frame < before {
            let reason = format!("frame {frame} after frame {before}: sort the file by frames");
            return Err(self.lines.error(reason));
        }
        if let Some(length) = self.length.filter(|length| frame > *length) {
            let reason = format!("frame {frame}, but seqinfo.ini says {length} frames");
            return Err(self.lines.error(reason));
        }
        if detection.score == -1.0 {
            detection.score = UNKNOWN_SCORE;
        }
        Ok(Some((frame, detection)))
    }
}

/// Rows of the tensor `embeddings` of a safetensors file, one after the other.
#[derive(Debug)]
struct Vectors {
    file: BufReader<File>,
    path: PathBuf,
    rows: u64,
    read: u64,
    row: Vec<u8>,
}

impl Vectors {
    fn open(path: &Path) -> Result<Self, ReplayError> {
        let fault = |reason: String| ReplayError::Vectors {
            path: path.to_path_buf(),
            reason,
        };
        let io = |error: std::io::Error| fault(error.to_string());
        let mut file = BufReader::new(File::open(path).map_err(io)?);
        let bytes = file.get_ref().metadata().map_err(io)?.len();
        let mut length = [0; 8];
        file.read_exact(&mut length).map_err(io)?;
        let header = u64::from_le_bytes(length);
        if header > MAX_HEADER.min(bytes) {
            return Err(fault("not a safetensors file".to_string()));
        }
        let mut text = vec![0; header as usize];
        file.read_exact(&mut text).map_err(io)?;
        let metadata: Metadata = serde_json::from_slice(&text)
            .map_err(|error| fault(format!("not a safetensors file: {error}")))?;
        let Some(tensor) = metadata.info("embeddings") else {
            return Err(fault("has no tensor `embeddings`".to_string()));
        };
        let &[rows, dim] = &tensor.shape[..] else {
            return Err(fault(format!(
                "`embeddings`: expected [rows, dim], found {:?}",
                tensor.shape
            )));
        };
        if tensor.dtype != Dtype::F32 || !(1..=MAX_DIM).contains(&dim) {
            return Err(fault(format!(
                "`embeddings`: expected F32 and 1 to {MAX_DIM} numbers a row, found {:?} and {dim}",
                tensor.dtype
            )));
        }
        let (start, end) = tensor.data_offsets;
        let fits = rows.checked_mul(dim * 4) == end.checked_sub(start);
        if !fits || 8 + header + end as u64 > bytes {
            return Err(fault("cut off, or sizes that do not fit".to_string()));
        }
        file.seek(SeekFrom::Start(8 + header + start as u64))
            .map_err(io)?;
        Ok(Self {
            file,
            path: path.to_path_buf(),
            rows: rows as u64,
            read: 0,
            row: vec![0; dim * 4],
        })
    }

    fn fault(&self, reason: String) -> ReplayError {
        ReplayError::Vectors {
            path: self.path.clone(),
            reason,
        }
    }

    /// The next row; `None` if it is no vector (zero, or not finite).
    fn next_vector(&mut self) -> Result<Option<Embedding>, ReplayError> {
        if self.read == self.rows {
            let rows = self.rows;
            return Err(self.fault(format!("{rows} vectors, but more detections")));
        }
        self.read += 1;
        if let Err(error) = self.file.read_exact(&mut self.row) {
            return Err(self.fault(error.to_string()));
        }
        let mut values = Vec::with_capacity(self.row.len() / 4);
        for bytes in self.row.chunks_exact(4) {
            let mut number = [0; 4];
            number.copy_from_slice(bytes);
            values.push(f32::from_le_bytes(number));
        }
        Ok(Embedding::new(values).ok())
    }

    /// All detections are read: so must be all vectors.
    fn check_end(&self) -> Result<(), ReplayError> {
        if self.read == self.rows {
            return Ok(());
        }
        let (rows, read) = (self.rows, self.read);
        Err(self.fault(format!("{rows} vectors for {read} detections")))
    }
}

/// A camera whose detections were recorded.
pub struct RecordedCamera {
    /// Its name.
    pub name: String,
    /// Its detections.
    pub recording: Recording,
    /// Frames a second, above 0.
    pub frame_rate: f64,
    /// Width and height of its pictures in pixels.
    pub frame_size: [f64; 2],
    /// Seconds from the environment's time 0 to its first frame.
    pub start_offset: f64,
    /// Who follows its people.
    pub tracker: Box<dyn Tracker>,
    /// Where its results go.
    pub sinks: Vec<MotSink>,
}

/// How to replay.
#[derive(Debug, Clone, Copy)]
pub struct ReplayOptions {
    /// Time steps after which to stop.
    pub max_steps: Option<u64>,
    /// Frames of different cameras whose times differ by no more than this belong to one time step.
    pub tolerance: Duration,
}

/// One camera at work.
struct Line {
    index: usize,
    camera: RecordedCamera,
    ids: IdSet,
    metrics: Arc<PipelineMetrics>,
}

/// One camera's frame of a step, tracked.
struct Seen {
    camera: usize,
    found: FrameDetections,
    tracks: Vec<Track>,
    /// How long tracking took.
    seconds: f64,
}

/// Replays all cameras to their end, or until `stop` is raised; `progress` hears the number of
/// steps done so far. Cameras count in `shared` as they do here.
///
/// # Errors
/// A file is wrong, or a result cannot be written; what can be saved is saved.
pub fn replay(
    cameras: Vec<RecordedCamera>,
    mut shared: Shared,
    options: &ReplayOptions,
    stop: &AtomicBool,
    progress: impl Fn(u64),
) -> Result<Summary, ReplayError> {
    let started = Instant::now();
    let names = cameras.iter().map(|camera| camera.name.as_str());
    let metrics = Arc::new(PipelineMetrics::new(names));
    let mut lines = Vec::with_capacity(cameras.len());
    for (index, camera) in cameras.into_iter().enumerate() {
        lines.push(Line::new(index, camera, &metrics));
    }
    let mut outcome = steps(&mut lines, &mut shared, options, stop, progress);
    for sink in shared.sinks {
        if let Err(error) = sink.finish() {
            outcome = outcome.and(Err(error.into()));
        }
    }
    for line in lines {
        if let Err(error) = line.finish() {
            outcome = outcome.and(Err(error.into()));
        }
    }
    outcome?;
    let interrupted = stop.load(Ordering::Relaxed);
    Ok(Summary::new(
        &metrics.snapshot(),
        started.elapsed(),
        interrupted,
    ))
}

fn steps(
    lines: &mut [Line],
    shared: &mut Shared,
    options: &ReplayOptions,
    stop: &AtomicBool,
    progress: impl Fn(u64),
) -> Result<(), ReplayError> {
    let limit = options.max_steps.unwrap_or(u64::MAX);
    let mut number = 0;
    while number < limit && !stop.load(Ordering::Relaxed) {
        let times = lines.iter().filter_map(Line::next_time);
        let Some(time) = times.min_by(f64::total_cmp) else {
            break;
        };
        number += 1;
        let due = time + options.tolerance.as_secs_f64();
        // One at a time they may fail in any order; the first camera's error is told.
        let advanced: Vec<Result<Option<Seen>, ReplayError>> = lines
            .par_iter_mut()
            .enumerate()
            .map(|(camera, line)| line.advance(camera, due))
            .collect();
        let mut step = Vec::new();
        for seen in advanced {
            step.extend(seen?);
        }
        let identities = tell(shared, lines, number, time, &step)?;
        for (seen, identities) in step.iter().zip(&identities) {
            lines[seen.camera].write(seen, identities)?;
        }
        progress(number);
    }
    Ok(())
}

/// Tells the world what the cameras saw in a step.
fn tell(
    shared: &mut Shared,
    lines: &mut [Line],
    number: u64,
    time: f64,
    step: &[Seen],
) -> Result<Vec<Vec<TrackIdentity>>, ReplayError> {
    let started = Instant::now();
    let mut frames = Vec::with_capacity(step.len());
    for seen in step {
        frames.push(TrackedFrame {
            camera: seen.camera,
            number: seen.found.frame,
            image: None,
            frame_size: lines[seen.camera].camera.frame_size,
            detections: &seen.found.detections,
            embeddings: &seen.found.embeddings,
            tracks: &seen.tracks,
        });
    }
    let result = shared
        .world
        .step(time, &frames, None)
        .map_err(ReplayError::World)?;
    let outcome = StepOutcome {
        number,
        time,
        events: &result.events,
        people: &result.people,
    };
    for sink in &mut shared.sinks {
        sink.write(&outcome)?;
    }
    let share = started.elapsed().as_secs_f64() / step.len().max(1) as f64;
    if let Some(first) = step.first() {
        let metrics = &lines[first.camera].metrics;
        metrics.count_step(Some(shared.world.gallery()));
        metrics.count_world(&result, step.len());
        for seen in step {
            metrics.observe(Stage::World, share);
            metrics.frame_done(seen.seconds + share);
        }
    }
    Ok(result.identities)
}

impl Line {
    fn new(index: usize, camera: RecordedCamera, metrics: &Arc<PipelineMetrics>) -> Self {
        Self {
            index,
            camera,
            ids: IdSet::default(),
            metrics: metrics.clone(),
        }
    }

    fn counters(&self) -> Option<&CameraMetrics> {
        self.metrics.cameras().get(self.index)
    }

    /// Time of the next frame in the environment, in seconds; `None` after the last.
    fn next_time(&self) -> Option<f64> {
        let number = self.camera.recording.next_number()?;
        Some(self.camera.start_offset + (number - 1) as f64 / self.camera.frame_rate)
    }

    /// Tracks the next frame if it is due.
    fn advance(&mut self, camera: usize, due: f64) -> Result<Option<Seen>, ReplayError> {
        if self.next_time().is_none_or(|time| time > due) {
            return Ok(None);
        }
        let started = Instant::now();
        let found = self.camera.recording.next_frame()?;
        let read = started.elapsed().as_secs_f64();
        let tracks = self.camera.tracker.update(&found);
        let seconds = started.elapsed().as_secs_f64() - read;
        self.metrics.observe(Stage::Read, read);
        self.metrics.observe(Stage::Track, seconds);
        for track in &tracks {
            self.ids.insert(track.track_id);
        }
        if let Some(counters) = self.counters() {
            counters.set_state(CameraState::Running);
            counters.read.add(1);
            counters.frames.add(1);
            counters.last_frame.set(found.frame);
            counters.detections.add(found.detections.len() as u64);
            counters.reported.add(found.detections.len() as u64);
            counters
                .embeddings
                .add(found.embeddings.iter().flatten().count() as u64);
            counters.tracked.add(tracks.len() as u64);
        }
        Ok(Some(Seen {
            camera,
            found,
            tracks,
            seconds,
        }))
    }

    fn write(&mut self, seen: &Seen, identities: &[TrackIdentity]) -> Result<(), SinkError> {
        let started = Instant::now();
        for sink in &mut self.camera.sinks {
            sink.write_tracks(seen.found.frame, &seen.tracks, identities)?;
        }
        self.metrics
            .observe(Stage::Write, started.elapsed().as_secs_f64());
        Ok(())
    }

    fn finish(self) -> Result<(), SinkError> {
        if let Some(counters) = self.counters() {
            let dropped = self.camera.tracker.dropped_detections();
            counters.dropped_detections.set(dropped);
            let refused = self.camera.recording.refused_vectors;
            counters.refused_embeddings.set(refused);
            counters.tracks.set(self.ids.len());
            if self.next_time().is_none() {
                counters.set_state(CameraState::Ended);
            }
        }
        for sink in self.camera.sinks {
            Box::new(sink).finish()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of vectors as `mtmc sim` writes it, with a header of its own making.
    fn vectors(path: &Path, shape: &str, numbers: &[f32]) {
        let header = format!(
            "{{\"embeddings\":{{\"dtype\":\"F32\",\"shape\":{shape},\"data_offsets\":[0,{}]}}}}",
            numbers.len() * 4
        );
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.bytes());
        bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        std::fs::write(path, bytes).unwrap();
    }

    fn all(recording: &mut Recording) -> Result<Vec<FrameDetections>, ReplayError> {
        let mut frames = Vec::new();
        while recording.next_number().is_some() {
            frames.push(recording.next_frame()?);
        }
        Ok(frames)
    }

    #[test]
    fn frames_come_with_their_vectors_and_empty_ones_between() {
        let folder = tempfile::tempdir().unwrap();
        let (det, file) = (folder.path().join("det.txt"), folder.path().join("v"));
        std::fs::write(&det, "2 -1 1 2 3 4 -1\n2 -1 5 2 3 4 0.5\n4,-1,1,2,3,4,0\n").unwrap();
        vectors(&file, "[3,2]", &[3.0, 4.0, 0.0, 0.0, 0.0, 2.0]);
        let mut recording = Recording::open(&det, Some(&file), Some(5)).unwrap();
        let frames = all(&mut recording).unwrap();
        let counts: Vec<usize> = frames.iter().map(|frame| frame.detections.len()).collect();
        assert_eq!(counts, [0, 2, 0, 1, 0]);
        let scores = frames[1].detections.iter().map(|d| d.score);
        assert_eq!(scores.collect::<Vec<_>>(), [1.0, 0.5]);
        // 3, 4 of length 5; zero is no vector.
        let vector = frames[1].embeddings[0].as_ref().unwrap();
        assert!((vector.as_slice()[0] - 0.6).abs() < 1e-6);
        assert!(frames[1].embeddings[1].is_none() && recording.refused_vectors == 1);
        assert!(frames[3].embeddings[0].is_some());
    }

    #[test]
    fn what_is_wrong_with_a_file_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let (det, file) = (folder.path().join("det.txt"), folder.path().join("v"));
        let read = |text: &str, shape: &str, numbers: &[f32], length| {
            std::fs::write(&det, text).unwrap();
            vectors(&file, shape, numbers);
            Recording::open(&det, Some(&file), length)
                .and_then(|mut recording| all(&mut recording))
                .unwrap_err()
                .to_string()
        };
        let line = "1,-1,1,2,3,4,1\n";
        for (text, shape, numbers, length, expected) in [
            (
                line,
                "[2,1]",
                &[1.0, 1.0][..],
                None,
                "2 vectors for 1 detections",
            ),
            (
                &line.repeat(2),
                "[1,1]",
                &[1.0],
                None,
                "1 vectors, but more detections",
            ),
            (line, "[1,2]", &[1.0], None, "not a safetensors file"),
            (line, "[1]", &[1.0], None, "expected [rows, dim]"),
            (
                &format!("3{}{line}", &line[1..]),
                "[2,1]",
                &[1.0, 1.0],
                None,
                "line 2: frame 1 after frame 3",
            ),
            (
                &format!("3{}", &line[1..]),
                "[1,1]",
                &[1.0],
                Some(2),
                "line 1: frame 3, but seqinfo.ini says 2",
            ),
            ("1,-1,1,2\n", "[1,1]", &[1.0], None, "line 1: no width"),
        ] {
            let message = read(text, shape, numbers, length);
            assert!(message.contains(expected), "{message}");
        }
        std::fs::write(&file, b"\xff\xff\xff\xff\xff\xff\xff\xffrubbish").unwrap();
        let message = Recording::open(&det, Some(&file), None).unwrap_err();
        assert!(
            message.to_string().contains("not a safetensors"),
            "{message}"
        );
    }
}
