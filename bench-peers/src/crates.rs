//! The trackers of other crates: `trackforge` (MIT) and `similari-trackers-rs` (Apache-2.0).

use std::mem;
use std::sync::Arc;

use mtmc::tracker::{Detection, FrameDetections};
use similari::prelude::{
    BoundingBox, PositionalMetricType, Sort, SortTrack, SpatioTemporalConstraints, Universal2DBox,
    VisualSort, VisualSortMetricType, VisualSortObservation, VisualSortOptions,
};
use similari::trackers::tracker_api::TrackerAPI as _;
use trackforge::trackers::botsort::{BotSort, BotTrack};
use trackforge::trackers::byte_track::{ByteTrack, STrack};
use trackforge::trackers::common::CameraMotion;

use crate::peer::{Peer, Row};

/// trackforge's form of a detection: left, top, width, height; score; class.
type Tlwh = ([f32; 4], f32, i64);

fn tlwh(detection: &Detection) -> [f32; 4] {
    let b = detection.bbox;
    [b.x1, b.y1, b.x2 - b.x1, b.y2 - b.y1]
}

fn corners([left, top, width, height]: [f32; 4]) -> [f32; 4] {
    [left, top, left + width, top + height]
}

fn trackforge_input(frame: &FrameDetections) -> Vec<Tlwh> {
    let each = |d: &Detection| (tlwh(d), d.score, 0);
    frame.detections.iter().map(each).collect()
}

fn vectors(frame: &FrameDetections) -> Vec<Vec<f32>> {
    let given = frame.embeddings.iter().flatten();
    given.map(|e| e.as_slice().to_vec()).collect()
}

/// trackforge's ByteTrack.
pub struct ForgeByteTrack(pub ByteTrack);

impl Peer for ForgeByteTrack {
    type Input = Vec<Tlwh>;
    type Output = Vec<STrack>;

    fn prepare(&self, frame: &FrameDetections) -> Self::Input {
        trackforge_input(frame)
    }

    fn update(&mut self, input: &mut Self::Input) -> Self::Output {
        self.0.update(mem::take(input))
    }

    fn rows(&self, _: &Self::Input, output: &Self::Output) -> Vec<Row> {
        let row = |track: &STrack| (track.track_id, corners(track.tlwh));
        output.iter().map(row).collect()
    }
}

/// trackforge's BoT-SORT, with the vectors and the camera motion of the frame if it has them.
pub struct ForgeBotSort(pub BotSort);

/// A frame as trackforge's BoT-SORT takes it.
#[derive(Clone)]
pub struct ForgeFrame {
    detections: Vec<Tlwh>,
    embeddings: Arc<Vec<Vec<f32>>>,
    motion: CameraMotion,
}

impl Peer for ForgeBotSort {
    type Input = ForgeFrame;
    type Output = Vec<BotTrack>;

    fn prepare(&self, frame: &FrameDetections) -> Self::Input {
        let motion = frame.camera_motion.map(|motion| {
            let [[a, b, tx], [c, d, ty]] = motion.rows.map(|row| row.map(|v| v as f32));
            CameraMotion::new(a, b, tx, c, d, ty)
        });
        ForgeFrame {
            detections: trackforge_input(frame),
            embeddings: Arc::new(vectors(frame)),
            motion: motion.unwrap_or_default(),
        }
    }

    fn update(&mut self, input: &mut Self::Input) -> Self::Output {
        let detections = mem::take(&mut input.detections);
        let (embeddings, motion) = (&input.embeddings, &input.motion);
        self.0
            .update_with_camera_motion(detections, embeddings, motion)
    }

    fn rows(&self, _: &Self::Input, output: &Self::Output) -> Vec<Row> {
        let row = |track: &BotTrack| (track.track_id, corners(track.tlwh));
        output.iter().map(row).collect()
    }
}

/// Scores above this are good: SORT knows no others.
const GOOD: f32 = 0.6;

/// The good detections' places. similari multiplies IoU with the score, so that poor ones would
/// match nothing and leave a track behind each; good ones are given the score 1, its default.
fn good(frame: &FrameDetections) -> impl Iterator<Item = (usize, Universal2DBox)> {
    let all = frame.detections.iter().enumerate();
    all.filter(|(_, d)| d.score > GOOD).map(|(place, d)| {
        let [left, top, width, height] = tlwh(d);
        (place, BoundingBox::new(left, top, width, height).into())
    })
}

/// As in its own benchmarks: from one frame to the next nobody moves by more than their size.
fn constraints() -> SpatioTemporalConstraints {
    SpatioTemporalConstraints::default().constraints(&[(1, 1.0)])
}

fn similari_rows(tracks: &[SortTrack]) -> Vec<Row> {
    let row = |track: &SortTrack| {
        let b = BoundingBox::try_from(&track.predicted_bbox).ok()?;
        Some((track.id, corners([b.left, b.top, b.width, b.height])))
    };
    tracks.iter().filter_map(row).collect()
}

/// similari's SORT with IoU.
pub struct SimilariSort(Sort);

impl SimilariSort {
    /// As its own benchmark sets it: IoU 0.3; `shards` are its threads.
    pub fn new(shards: usize) -> Self {
        let (metric, near) = (PositionalMetricType::IoU(0.3), Some(constraints()));
        let (position, velocity) = (1.0 / 20.0, 1.0 / 160.0);
        Self(Sort::new(
            shards, 1, 30, metric, 0.1, near, position, velocity,
        ))
    }
}

impl Peer for SimilariSort {
    type Input = Arc<Vec<(Universal2DBox, Option<i64>)>>;
    type Output = Vec<SortTrack>;

    fn prepare(&self, frame: &FrameDetections) -> Self::Input {
        Arc::new(good(frame).map(|(_, bbox)| (bbox, None)).collect())
    }

    fn update(&mut self, input: &mut Self::Input) -> Self::Output {
        self.0.predict(input)
    }

    fn rows(&self, _: &Self::Input, output: &Self::Output) -> Vec<Row> {
        similari_rows(output)
    }

    fn clean_up(&mut self) {
        self.0.clear_wasted();
    }
}

/// similari's visual SORT: cosine first, IoU for what is left.
pub struct SimilariVisual(VisualSort);

impl SimilariVisual {
    /// As its own benchmark sets it, with the cosine that mtmc measures appearance by.
    pub fn new(shards: usize) -> Self {
        let options = VisualSortOptions::default()
            .max_idle_epochs(30)
            .kept_history_length(1)
            .positional_metric(PositionalMetricType::IoU(0.3))
            .spatio_temporal_constraints(constraints())
            .visual_metric(VisualSortMetricType::Cosine(0.75))
            .visual_max_observations(3)
            .visual_min_votes(2);
        Self(VisualSort::new(shards, &options))
    }
}

impl Peer for SimilariVisual {
    type Input = Arc<Vec<(Universal2DBox, Vec<f32>)>>;
    type Output = Vec<SortTrack>;

    fn prepare(&self, frame: &FrameDetections) -> Self::Input {
        let vectors = vectors(frame);
        let with_vector = |(place, bbox): (usize, _)| Some((bbox, vectors.get(place)?.clone()));
        Arc::new(good(frame).filter_map(with_vector).collect())
    }

    fn update(&mut self, input: &mut Self::Input) -> Self::Output {
        // Its form of an observation borrows the vector: nothing is copied here.
        let mut observations = Vec::with_capacity(input.len());
        for (bbox, vector) in input.iter() {
            let vector = Some(vector.as_slice());
            observations.push(VisualSortObservation::new(
                vector,
                Some(1.0),
                bbox.clone(),
                None,
            ));
        }
        self.0.predict(&observations)
    }

    fn rows(&self, _: &Self::Input, output: &Self::Output) -> Vec<Row> {
        similari_rows(output)
    }

    fn clean_up(&mut self) {
        self.0.clear_wasted();
    }
}
