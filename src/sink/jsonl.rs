//! Results as JSON lines: one object a frame, with the field names of the service's messages.

use std::path::Path;

use mtmc_models::{BBox, Detection};
use serde::Serialize;
use utoipa::ToSchema;

use super::part::PartFile;
use super::{FrameResult, Sink, SinkError, Written, class_name};
use crate::gallery::{AssociationType, Candidate};
use crate::homography::NoMapPoint;
use crate::pipeline::TrackIdentity;
use crate::tracker::{AppearanceCounts, Track};

/// Writes one line a frame:
/// `{"camera_id", "frame_number", "timestamp", "detection_data"}`; `timestamp` is in seconds
/// since the source's first frame, [`DetectionData`] as the service sends it.
#[derive(Debug)]
pub struct JsonLinesSink {
    file: PartFile,
}

/// The boxes of one frame.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct DetectionData {
    /// Detections in falling score, then tracks whose detection is not among them.
    pub detections: Vec<DetectionEntry>,
    /// Number of `detections`.
    pub detection_count: usize,
    /// How long detection and tracking took for this frame.
    pub processing_time_ms: f64,
}

/// One box.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct DetectionEntry {
    /// `det_001` and on, counted anew in each frame.
    pub detection_id: String,
    /// Name of the class, or its number if it has none.
    pub class_name: String,
    /// Index of the class.
    pub class_id: u32,
    /// Score, 0..=1.
    pub confidence: f64,
    /// Where, in pixels.
    pub bbox: BoxEntry,
    /// The track that it belongs to within its camera, if any.
    #[schema(required = true)]
    pub track_id: Option<u64>,
    /// What appearance did for the track so far; left out where it did nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(ignore)] // not sent by the service
    pub appearance: Option<AppearanceCounts>,
    /// The identity across cameras, if known.
    #[schema(required = true)]
    pub global_id: Option<u64>,
    /// The place on the map, if known.
    #[schema(required = true)]
    pub map_coords: Option<MapCoords>,
    /// Why there is no place, for a camera that is calibrated.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(ignore)] // not sent by the service
    pub no_map_coords: Option<NoMapPoint>,
    /// How the track came to its identity; left out where no identities are told.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(ignore)] // not sent by the service
    pub identity: Option<IdentityEntry>,
}

/// A box by its corners, size and centre, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
#[allow(missing_docs)] // the names say it
pub struct BoxEntry {
    pub x1: f64,
    pub y1: f64,
    pub x2: f64,
    pub y2: f64,
    pub width: f64,
    pub height: f64,
    pub center_x: f64,
    pub center_y: f64,
}

/// How a track came to its identity.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct IdentityEntry {
    /// In one word.
    pub association_type: AssociationType,
    /// Cosine similarity to the person, where both have vectors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub similarity_score: Option<f64>,
    /// Frame of the track's latest vector.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_reid_frame: Option<u64>,
    /// Whether a handoff of the track is waited for.
    pub handoff_triggered: bool,
    /// Where something was decided: who it might have been, by rising cost.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<Candidate>,
}

impl IdentityEntry {
    fn of(identity: &TrackIdentity) -> Self {
        let decided = identity.association != AssociationType::Continued;
        Self {
            association_type: identity.association,
            similarity_score: identity.similarity.map(|s| rounded(s, 1e4)),
            last_reid_frame: identity.last_reid_frame,
            handoff_triggered: identity.handoff_triggered,
            candidates: if decided {
                identity.candidates.clone()
            } else {
                Vec::new()
            },
        }
    }
}

/// A place on the map.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
#[allow(missing_docs)] // the names say it
pub struct MapCoords {
    pub map_x: f64,
    pub map_y: f64,
}

#[derive(Serialize)]
struct FrameLine<'a> {
    camera_id: &'a str,
    frame_number: u64,
    timestamp: f64,
    detection_data: DetectionData,
}

impl DetectionEntry {
    /// Notes the track that the entry belongs to.
    fn follow(&mut self, track: &Track, identity: Option<&TrackIdentity>) {
        self.track_id = Some(track.track_id);
        let counts = track.appearance;
        self.appearance = (counts != AppearanceCounts::default()).then_some(counts);
        let Some(identity) = identity else { return };
        self.global_id = identity.global_id;
        if let Some(place) = identity.place {
            self.map_coords = place.ok().map(|place| MapCoords {
                map_x: rounded(place.x, 1e3),
                map_y: rounded(place.y, 1e3),
            });
            self.no_map_coords = place.err();
        }
        self.identity = Some(IdentityEntry::of(identity));
    }
}

/// The boxes of one frame in the service's form.
///
/// A detection that a track was updated with carries the track's ID (and keeps its own box, not
/// the filtered one); a track whose detection is not in the list follows as an entry of its own.
pub fn detection_data(
    detections: &[Detection],
    tracks: &[Track],
    identities: &[TrackIdentity],
    classes: &[String],
    processing_time_ms: f64,
) -> DetectionData {
    let mut entries: Vec<DetectionEntry> = Vec::with_capacity(detections.len());
    for detection in detections {
        let Detection { bbox, score, class } = detection;
        entries.push(entry(entries.len(), bbox, *score, *class, classes));
    }
    for (position, track) in tracks.iter().enumerate() {
        let identity = identities.get(position);
        let known = track.detection_index.and_then(|index| {
            let detected = index < detections.len();
            detected.then_some(index)
        });
        if let Some(index) = known {
            entries[index].follow(track, identity);
            continue;
        }
        let mut own = entry(
            entries.len(),
            &track.bbox,
            track.score,
            track.class,
            classes,
        );
        own.follow(track, identity);
        entries.push(own);
    }
    DetectionData {
        detection_count: entries.len(),
        detections: entries,
        processing_time_ms: rounded(processing_time_ms, 1e3),
    }
}

fn entry(index: usize, bbox: &BBox, score: f32, class: u32, classes: &[String]) -> DetectionEntry {
    let pixels = |value: f32| rounded(f64::from(value), 1e2);
    let (center_x, center_y) = bbox.center();
    DetectionEntry {
        detection_id: format!("det_{:03}", index + 1),
        class_name: class_name(classes, class),
        class_id: class,
        confidence: rounded(f64::from(score), 1e4),
        bbox: BoxEntry {
            x1: pixels(bbox.x1),
            y1: pixels(bbox.y1),
            x2: pixels(bbox.x2),
            y2: pixels(bbox.y2),
            width: pixels(bbox.width()),
            height: pixels(bbox.height()),
            center_x: pixels(center_x),
            center_y: pixels(center_y),
        },
        track_id: None,
        appearance: None,
        global_id: None,
        map_coords: None,
        no_map_coords: None,
        identity: None,
    }
}

/// Rounded to 1/`steps`: more digits would say what no detector knows.
pub(crate) fn rounded(value: f64, steps: f64) -> f64 {
    (value * steps).round() / steps
}

impl JsonLinesSink {
    /// Begins the file at `path`.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn create(path: &Path) -> Result<Self, SinkError> {
        Ok(Self::to(PartFile::create(path)?))
    }

    /// Writes to a file that was begun.
    pub fn to(file: PartFile) -> Self {
        Self { file }
    }
}

impl Sink for JsonLinesSink {
    fn write(&mut self, result: &FrameResult<'_>) -> Result<(), SinkError> {
        let FrameResult {
            detections,
            tracks,
            identities,
            classes,
            ..
        } = *result;
        let line = FrameLine {
            camera_id: result.source,
            frame_number: result.frame_number,
            timestamp: rounded(result.timestamp.as_secs_f64(), 1e6),
            detection_data: detection_data(
                detections,
                tracks,
                identities,
                classes,
                result.processing_time_ms,
            ),
        };
        let mut text = serde_json::to_string(&line)
            .map_err(|error| SinkError::encode(self.file.path(), result.frame_number, &error))?;
        text.push('\n');
        self.file.write(text.as_bytes())
    }

    fn checkpoint(&mut self) -> Result<Option<Written>, SinkError> {
        self.file.checkpoint().map(Some)
    }

    fn finish(self: Box<Self>) -> Result<(), SinkError> {
        self.file.finish()
    }
}
