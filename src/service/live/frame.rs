//! From one frame's results to its `detection_update`.

use std::sync::Arc;

use jiff::Timestamp;
use uuid::Uuid;

use super::tracks::{TrackBook, TrackMemory};
use crate::homography::{Calibration, CameraView};
use crate::pipeline::TrackIdentity;
use crate::service::messages::{
    CalibrationPoints, DetectionUpdate, FootPoint, FrameData, GalleryMetadata, HomographyData,
    ImageDimensions, MappingCoordinates, PipelineData, ReidData, ReidState, TrackStarted,
    TrackingData, TrajectoryPoint, Velocity, moment,
};
use crate::sink::{BoxEntry, DetectionData, DetectionEntry, FrameResult, detection_data, rounded};
use crate::tracker::{Track, TrackState, TrackerSettings};

/// Most calibration points that a message has; the first of them are sent.
const MAX_POINTS: usize = 64;

/// What all messages of a task have in common.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskFacts {
    /// The task.
    pub task_id: Uuid,
    /// The moment that is 0 in the environment's time.
    pub origin: Timestamp,
    /// The network that makes vectors.
    pub feature_model: Option<String>,
    /// Numbers in its vectors.
    pub embedding_dimension: Option<usize>,
    /// Weight of a new vector in a person's mean.
    pub ema_alpha: f64,
    /// `bev_map_meters` for a map in metres.
    pub coordinate_system: String,
    /// The cameras' IDs, by index.
    pub cameras: Vec<Arc<str>>,
}

/// What the messages of one camera have in common.
#[derive(Debug, Clone, PartialEq)]
pub struct CameraFacts {
    /// Its ID.
    pub id: Arc<str>,
    /// Added to its frames' times to get the environment's, in seconds.
    pub start_offset: f64,
    /// Frames a second.
    pub frame_rate: f64,
    /// Its calibration, if it has one.
    pub homography: Option<HomographyData>,
}

impl TaskFacts {
    /// How the map's coordinates are called, by their unit.
    pub fn coordinate_system(unit: &str) -> String {
        match unit {
            "m" => "bev_map_meters".to_string(),
            other => format!("bev_map_{other}"),
        }
    }
}

/// Frames for which a tracker may find a lost track again.
pub fn patience(tracker: &TrackerSettings) -> u64 {
    let (rate, buffer) = match tracker {
        TrackerSettings::ByteTrack(settings) => (settings.frame_rate, settings.track_buffer),
        TrackerSettings::BotSort(settings) => (settings.frame_rate, settings.track_buffer),
    };
    (rate / 30.0 * f64::from(buffer)).max(0.0) as u64 + 1
}

/// A calibration as messages have it, for frames of the view's size.
pub fn homography_data(view: &CameraView, calibration: &Calibration) -> HomographyData {
    let frame = view.image_size();
    let size = calibration.image_size.unwrap_or(frame);
    let scale = [frame[0] / size[0], frame[1] / size[1]];
    let mut points = CalibrationPoints::default();
    for pair in calibration.points.iter().take(MAX_POINTS) {
        let [u, v, x, y] = pair.numbers();
        points.image_points.push([u * scale[0], v * scale[1]]);
        points.map_points.push([x, y]);
    }
    HomographyData {
        matrix: view.floor().matrix(),
        matrix_available: true,
        calibration_points: points,
    }
}

/// The message of a frame, without pictures and number, and those of tracks that begin in it.
pub fn detection_update(
    task: &TaskFacts,
    camera: &CameraFacts,
    tracks: &mut TrackBook,
    result: &FrameResult<'_>,
) -> (DetectionUpdate, Vec<TrackStarted>) {
    let time = camera.start_offset + result.timestamp.as_secs_f64();
    let timestamp = moment::after(task.origin, time);
    let found = boxes(result);
    let mut started = Vec::new();
    let mut pipeline = PipelineData {
        homography_data: camera.homography.clone(),
        ..PipelineData::default()
    };
    let mut tracking = Vec::new();
    let mut reid = Vec::new();
    let mut mapping = Vec::new();
    for (index, track) in result.tracks.iter().enumerate() {
        let of_track = |entry: &&DetectionEntry| entry.track_id == Some(track.track_id);
        let Some(entry) = found.detections.iter().find(of_track) else {
            continue;
        };
        let identity = result.identities.get(index);
        let point = TrajectoryPoint {
            x: entry.bbox.center_x,
            y: entry.bbox.center_y,
            timestamp,
        };
        let number = result.frame_number;
        let (memory, is_new) = tracks.see(track.track_id, number, time, point, identity);
        if is_new {
            started.push(TrackStarted {
                message_type: TrackStarted::TYPE,
                task_id: task.task_id,
                timestamp,
                camera_id: camera.id.to_string(),
                frame_number: number,
                track_id: track.track_id,
                global_id: memory.global_id,
                seq: 0,
            });
        }
        tracking.push(tracking_data(entry, track, memory));
        let Some(identity) = identity else { continue };
        let first_seen = identity
            .first_seen
            .map(|first| first_frame(camera, number, time - first));
        reid.push(reid_data(
            task, entry, track, identity, memory, first_seen, number,
        ));
        mapping.extend(mapping_coordinates(task, entry, track, identity));
    }
    pipeline.tracking_data = some(tracking);
    pipeline.reid_data = some(reid);
    pipeline.mapping_coordinates = some(mapping);
    let update = DetectionUpdate {
        message_type: DetectionUpdate::TYPE,
        task_id: task.task_id,
        timestamp,
        camera_id: camera.id.to_string(),
        frame_number: result.frame_number,
        frame_data: FrameData {
            original_image_b64: None,
            annotated_image_b64: None,
            image_dimensions: ImageDimensions {
                width: result.image.width(),
                height: result.image.height(),
            },
        },
        detection_data: found,
        future_pipeline_data: pipeline,
        seq: 0,
    };
    (update, started)
}

/// `None` for a list without entries.
fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

/// The boxes, with the document's fields alone: the others stand under `future_pipeline_data`.
fn boxes(result: &FrameResult<'_>) -> DetectionData {
    let mut found = detection_data(
        result.detections,
        result.tracks,
        result.identities,
        result.classes,
        result.processing_time_ms,
    );
    for entry in &mut found.detections {
        entry.appearance = None;
        entry.no_map_coords = None;
        entry.identity = None;
    }
    found
}

/// The frame, as this camera counts, that was so many seconds before frame `number`.
fn first_frame(camera: &CameraFacts, number: u64, seconds: f64) -> u64 {
    let frames = (seconds * camera.frame_rate).round().max(0.0);
    number.saturating_sub(frames as u64)
}

fn tracking_data(entry: &DetectionEntry, track: &Track, memory: &TrackMemory) -> TrackingData {
    TrackingData {
        detection_id: entry.detection_id.clone(),
        track_id: format!("track_{:03}", track.track_id),
        track_age: track.age,
        track_status: match track.state {
            TrackState::Tentative => "tentative",
            TrackState::Tracked => "confirmed",
            TrackState::Lost => "lost",
            TrackState::Removed => "removed",
        },
        velocity: Velocity {
            x: rounded(f64::from(track.velocity[0]), 1e3),
            y: rounded(f64::from(track.velocity[1]), 1e3),
        },
        trajectory: memory.trajectory.iter().copied().collect(),
    }
}

fn reid_data(
    task: &TaskFacts,
    entry: &DetectionEntry,
    track: &Track,
    identity: &TrackIdentity,
    memory: &TrackMemory,
    first_seen: Option<u64>,
    frame_number: u64,
) -> ReidData {
    let name = |camera: usize| task.cameras.get(camera).map(ToString::to_string);
    ReidData {
        detection_id: entry.detection_id.clone(),
        track_id: track.track_id,
        global_id: identity.global_id,
        reid_confidence: identity
            .global_id
            .map(|_| rounded(identity.confidence, 1e4)),
        feature_vector: memory.vector.clone(),
        feature_model: task.feature_model.clone(),
        gallery_type: identity.gallery,
        similarity_score: memory.similarity.map(|value| rounded(value, 1e4)),
        reid_state: ReidState {
            last_reid_frame: identity.last_reid_frame,
            reid_refresh_due: identity.reid_refresh_due,
            handoff_triggered: identity.handoff_triggered,
            association_type: identity.association,
        },
        gallery_metadata: GalleryMetadata {
            ema_alpha: task.ema_alpha,
            last_seen_camera: identity.last_camera.and_then(name),
            first_seen_frame: first_seen,
            track_age: first_seen.map(|first| frame_number.saturating_sub(first)),
            embedding_dimension: task.embedding_dimension,
        },
    }
}

/// `None` for a camera that is not calibrated.
fn mapping_coordinates(
    task: &TaskFacts,
    entry: &DetectionEntry,
    track: &Track,
    identity: &TrackIdentity,
) -> Option<MappingCoordinates> {
    let place = identity.place?;
    let BoxEntry { center_x, y2, .. } = entry.bbox;
    let map = entry.map_coords;
    Some(MappingCoordinates {
        detection_id: entry.detection_id.clone(),
        track_id: track.track_id,
        map_x: map.map(|map| map.map_x),
        map_y: map.map(|map| map.map_y),
        projection_successful: place.is_ok(),
        foot_point: FootPoint {
            image_x: center_x,
            image_y: y2,
        },
        coordinate_system: task.coordinate_system.clone(),
        reason: place.err(),
    })
}
