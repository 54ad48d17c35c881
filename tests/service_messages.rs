//! The messages of the sockets: field by field against results made by hand, and their names, order
//! and types against the requirement document's own examples.
//!
//! `tests/goldens/messages` holds one message of each kind; `MTMC_UPDATE_GOLDENS=1` writes them anew,
//! to be read before they are committed.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use image::RgbImage;
use jiff::Timestamp;
use mtmc::gallery::{AssociationType, GalleryType, IdentityEvent, TrackKey};
use mtmc::geometry::BBox;
use mtmc::handoff::{ExpiryReason, HandoffEvent};
use mtmc::homography::{MapPoint, NoMapPoint};
use mtmc::pipeline::{TrackIdentity, WorldEvent};
use mtmc::service::live::{
    CameraFacts, Feed, Hub, Images, PictureSettings, Subscription, TaskFacts, Wishes,
};
use mtmc::service::messages::{
    CalibrationPoints, CameraProgress, Gap, Heartbeat, HomographyData, Lagged, StatusUpdate,
    TaskStatus,
};
use mtmc::sink::{FrameResult, StepOutcome};
use mtmc::tracker::{AppearanceCounts, Detection, Track, TrackState};
use mtmc_models::Embedding;
use mtmc_models::testing::shared;
use serde_json::Value;
use uuid::Uuid;

const TASK: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001);

/// The environment's time 0; frame 145 at 10 frames a second is 14.4 s later.
const ORIGIN: &str = "2025-01-06T10:29:45.723Z";

/// What stands for a JPEG file.
const JPEG: [u8; 6] = [0xff, 0xd8, 0xff, 0xe0, 1, 2];

fn hub() -> Arc<Hub> {
    Arc::new(Hub::new(TASK, 1))
}

fn task() -> TaskFacts {
    TaskFacts {
        task_id: TASK,
        origin: ORIGIN.parse().unwrap(),
        feature_model: Some("clip_market1501".to_string()),
        embedding_dimension: Some(2),
        ema_alpha: 0.1,
        coordinate_system: TaskFacts::coordinate_system("m"),
        cameras: ["c09", "c12", "c13"].map(Arc::from).to_vec(),
    }
}

fn feed(hub: &Arc<Hub>) -> Arc<Feed> {
    let pictures = PictureSettings {
        originals: true,
        annotate: false,
        jpeg_quality: 85,
    };
    Feed::new(hub.clone(), task(), pictures)
}

fn camera(homography: Option<HomographyData>) -> CameraFacts {
    CameraFacts {
        id: "c09".into(),
        start_offset: 0.0,
        frame_rate: 10.0,
        homography,
    }
}

/// The document's calibration.
fn homography() -> HomographyData {
    HomographyData {
        matrix: [[1.2, 0.1, -45.6], [0.05, 1.1, -12.3], [0.0001, 0.0002, 1.0]],
        matrix_available: true,
        calibration_points: CalibrationPoints {
            image_points: vec![
                [100.0, 200.0],
                [300.0, 150.0],
                [250.0, 400.0],
                [450.0, 380.0],
            ],
            map_points: vec![[10.5, 20.2], [30.1, 18.7], [25.3, 40.8], [45.2, 38.5]],
        },
    }
}

/// The document's detection, moved by `x` pixels.
fn detection(x: f32) -> Detection {
    Detection {
        bbox: BBox {
            x1: 100.5 + x,
            y1: 150.2,
            x2: 200.8 + x,
            y2: 400.9,
        },
        score: 0.87,
        class: 0,
    }
}

fn track(track_id: u64, detection: &Detection, detection_index: usize, age: u64) -> Track {
    Track {
        track_id,
        bbox: detection.bbox,
        score: detection.score,
        class: 0,
        state: TrackState::Tracked,
        age,
        velocity: [2.3, -1.1],
        detection_index: Some(detection_index),
        appearance: AppearanceCounts {
            embeddings: 3,
            matches: 1,
        },
    }
}

fn identity(vector: Option<[f32; 2]>) -> TrackIdentity {
    TrackIdentity {
        global_id: Some(123),
        association: AssociationType::Matched,
        similarity: vector.map(|_| 0.87),
        confidence: 0.92,
        candidates: Vec::new(),
        place: Some(Ok(MapPoint {
            x: 15.2304,
            y: 35.8696,
        })),
        last_reid_frame: Some(144),
        reid_refresh_due: false,
        handoff_triggered: true,
        vector: vector.map(|vector| Embedding::new(vector.to_vec()).unwrap()),
        gallery: Some(GalleryType::Main),
        // 2.5 s before frame 145: frame 120.
        first_seen: Some(11.9),
        last_camera: Some(0),
    }
}

/// Somebody of whom nothing is known, above the horizon.
fn stranger() -> TrackIdentity {
    TrackIdentity {
        global_id: None,
        association: AssociationType::Pending,
        similarity: None,
        confidence: 0.0,
        candidates: Vec::new(),
        place: Some(Err(NoMapPoint::BehindHorizon)),
        last_reid_frame: None,
        reid_refresh_due: true,
        handoff_triggered: false,
        vector: None,
        gallery: None,
        first_seen: None,
        last_camera: None,
    }
}

/// Writes a frame of camera c09 with these detections, a track each.
fn write(
    sink: &mut dyn mtmc::sink::Sink,
    number: u64,
    detections: &[Detection],
    tracks: &[Track],
    identities: &[TrackIdentity],
) {
    let image = RgbImage::new(1920, 1080);
    let result = FrameResult {
        camera: 0,
        source: "c09",
        frame_number: number,
        timestamp: Duration::from_millis((number - 1) * 100),
        image: &image,
        jpeg: Some(&JPEG),
        detections,
        tracks,
        identities,
        classes: &["person".to_string()],
        processing_time_ms: 45.2,
    };
    sink.write(&result).unwrap();
}

/// Two frames: in the first track 15 is looked at, in the second track 16 begins.
fn two_frames(hub: &Arc<Hub>) {
    let mut sink = feed(hub).camera_sink(camera(Some(homography())), 30);
    let before = detection(-2.55);
    write(
        sink.as_mut(),
        144,
        &[before],
        &[track(15, &before, 0, 14)],
        &[identity(Some([3.0, 4.0]))],
    );
    let (now, other) = (detection(0.0), detection(500.0));
    write(
        sink.as_mut(),
        145,
        &[now, other],
        &[track(15, &now, 0, 15), track(16, &other, 1, 0)],
        &[identity(None), stranger()],
    );
    sink.finish().unwrap();
}

/// The texts of all messages, as a client with all pictures gets them.
fn texts(hub: &Arc<Hub>) -> Vec<String> {
    let wishes = Wishes {
        since: Some(0),
        ..Wishes::default()
    };
    let mut client = Subscription::open(hub, wishes).unwrap();
    let mut texts = Vec::new();
    loop {
        let batch = client.take();
        if batch.is_empty() {
            return texts;
        }
        for outgoing in batch.messages {
            texts.push(outgoing.message.text(Images::Both).to_string());
        }
    }
}

/// The one of that kind, the last if there are several.
fn last_of(texts: &[String], kind: &str) -> String {
    let start = format!("{{\"message_type\":\"{kind}\"");
    let mut found = texts.iter().filter(|text| text.starts_with(&start));
    found.next_back().unwrap().clone()
}

fn golden(name: &str, text: &str) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/messages");
    let path = folder.join(format!("{name}.json"));
    let found = ordered::Node::parse(text).pretty();
    if std::env::var_os("MTMC_UPDATE_GOLDENS").is_some() {
        std::fs::write(&path, &found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert!(
        found == expected,
        "{name} is not as {}:\n{found}",
        path.display()
    );
}

#[test]
fn a_frame_with_everything() {
    let hub = hub();
    two_frames(&hub);
    golden(
        "detection_update",
        &last_of(&texts(&hub), "detection_update"),
    );
}

/// By hand, from what [`two_frames`] says, beside the golden.
#[test]
fn a_frame_field_by_field() {
    let hub = hub();
    two_frames(&hub);
    let text = last_of(&texts(&hub), "detection_update");
    let message: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(message["task_id"], TASK.to_string());
    assert_eq!(message["timestamp"], "2025-01-06T10:30:00.123Z");
    assert_eq!(message["frame_number"], 145);
    // ff d8 ff e0 01 02 in base64.
    assert_eq!(message["frame_data"]["original_image_b64"], "/9j/4AEC");
    let dimensions = &message["frame_data"]["image_dimensions"];
    assert_eq!(
        (&dimensions["width"], &dimensions["height"]),
        (&1920.into(), &1080.into())
    );
    let boxes = &message["detection_data"]["detections"];
    assert_eq!(boxes[0]["bbox"]["center_x"], 150.65);
    assert_eq!(boxes[0]["bbox"]["height"], 250.7);
    assert_eq!(boxes[0]["global_id"], 123);
    assert_eq!(boxes[0]["map_coords"]["map_y"], 35.87);
    assert_eq!(boxes[1]["map_coords"], Value::Null);
    let data = &message["future_pipeline_data"];
    let tracking = &data["tracking_data"][0];
    assert_eq!(tracking["track_id"], "track_015");
    assert_eq!(tracking["trajectory"][0]["x"], 148.1);
    assert_eq!(tracking["trajectory"][1]["timestamp"], message["timestamp"]);
    let reid = &data["reid_data"][0];
    // 0.6 and 0.8 as f32: 3f19999a, 3f4ccccd, little-endian.
    assert_eq!(reid["feature_vector"], "mpkZP83MTD8=");
    assert_eq!(reid["similarity_score"], 0.87);
    assert_eq!(reid["reid_confidence"], 0.92);
    assert_eq!(reid["gallery_metadata"]["first_seen_frame"], 120);
    assert_eq!(reid["gallery_metadata"]["track_age"], 25);
    let map = &data["mapping_coordinates"];
    assert_eq!(map[0]["foot_point"]["image_x"], 150.65);
    assert_eq!(map[0]["foot_point"]["image_y"], 400.9);
    assert_eq!(map[1]["projection_successful"], false);
    assert_eq!(map[1]["map_x"], Value::Null);
    assert_eq!(map[1]["reason"], "behind_horizon");
}

#[test]
fn an_empty_frame_of_a_camera_without_calibration_has_all_keys() {
    let hub = hub();
    let mut sink = feed(&hub).camera_sink(camera(None), 30);
    write(sink.as_mut(), 1, &[], &[], &[]);
    let message: Value = serde_json::from_str(&texts(&hub)[0]).unwrap();
    let data = message["future_pipeline_data"].as_object().unwrap();
    assert_eq!(data.len(), 4);
    assert!(data.values().all(Value::is_null));
    assert_eq!(message["detection_data"]["detection_count"], 0);
}

#[test]
fn tracks_begin_and_end_once() {
    let hub = hub();
    let mut sink = feed(&hub).camera_sink(camera(None), 3);
    let seen = detection(0.0);
    for number in 1..=10 {
        // Out of sight in frames 3 and 4, and from 6 on.
        if [1, 2, 5].contains(&number) {
            write(
                sink.as_mut(),
                number,
                &[seen],
                &[track(15, &seen, 0, 0)],
                &[identity(None)],
            );
        } else {
            write(sink.as_mut(), number, &[], &[], &[]);
        }
    }
    sink.finish().unwrap();
    let texts = texts(&hub);
    let kinds: Vec<Value> = texts
        .iter()
        .map(|text| serde_json::from_str(text).unwrap())
        .collect();
    let of_tracks: Vec<&Value> = kinds
        .iter()
        .filter(|message| message["message_type"] != "detection_update")
        .collect();
    assert_eq!(of_tracks.len(), 2);
    assert_eq!(of_tracks[0]["seq"], 1);
    // The tracker finds it until frame 8: known in frame 9, which is message 10.
    assert_eq!(of_tracks[1]["seq"], 11);
    golden("track_started", &last_of(&texts, "track_started"));
    golden("track_ended", &last_of(&texts, "track_ended"));
}

#[test]
fn handoffs_and_identities() {
    let hub = hub();
    let mut sink = feed(&hub).world_sink();
    let track = TrackKey {
        camera: 1,
        track_id: 4,
    };
    let events = [
        WorldEvent::Identity(IdentityEvent::New { global_id: 9 }),
        WorldEvent::Identity(IdentityEvent::Merged { from: 9, into: 3 }),
        WorldEvent::Identity(IdentityEvent::Split {
            track,
            from: 3,
            to: 5,
        }),
        WorldEvent::Handoff(HandoffEvent::Triggered {
            handoff_id: 1,
            time: 14.4,
            global_id: None,
            from: 0,
            track_id: 15,
            zone: 1,
            candidates: vec![1, 2],
        }),
        WorldEvent::Handoff(HandoffEvent::Completed {
            handoff_id: 1,
            time: 16.0,
            global_id: 3,
            from: 0,
            to: 1,
            track_id: 4,
            seconds: 1.5,
            confidence: 0.75,
        }),
        WorldEvent::Handoff(HandoffEvent::Expired {
            handoff_id: 2,
            time: 20.0,
            global_id: Some(8),
            from: 2,
            seconds: 30.0,
            reason: ExpiryReason::Timeout,
        }),
    ];
    sink.write(&StepOutcome {
        number: 145,
        time: 14.4,
        events: &events,
        people: &[],
    })
    .unwrap();
    let texts = texts(&hub);
    assert_eq!(texts.len(), 5);
    golden("global_id_merged", &texts[0]);
    golden("global_id_split", &texts[1]);
    golden("handoff_triggered", &texts[2]);
    golden("handoff_completed", &texts[3]);
    golden("handoff_expired", &texts[4]);
}

fn status_update() -> StatusUpdate {
    let cameras = [("c09", 145), ("c12", 143), ("c13", 147), ("c16", 144)];
    let progress = |(id, frame): (&str, u64)| {
        let progress = CameraProgress {
            status: TaskStatus::Processing,
            frame,
            error: None,
        };
        (id.to_string(), progress)
    };
    StatusUpdate {
        message_type: StatusUpdate::TYPE,
        task_id: TASK,
        timestamp: "2025-01-06T10:30:00.123Z".parse().unwrap(),
        status: TaskStatus::Processing,
        progress: 45.2,
        current_step: "Running RT-DETR detection on frame 145/320".to_string(),
        camera_processing: cameras.map(progress).into(),
        seq: 0,
    }
}

#[test]
fn a_status() {
    let hub = hub();
    hub.status(&status_update());
    golden("status_update", &texts(&hub)[0]);
}

#[test]
fn messages_of_one_socket() {
    let timestamp: Timestamp = "2025-01-06T10:30:00Z".parse().unwrap();
    let lagged = Lagged {
        message_type: Lagged::TYPE,
        task_id: TASK,
        timestamp,
        from_seq: 100,
        to_seq: 180,
        dropped_images: 90,
        dropped_messages: 40,
        seq: 99,
    };
    let gap = Gap {
        message_type: Gap::TYPE,
        task_id: TASK,
        timestamp,
        from_seq: 11,
        to_seq: 50,
        seq: 50,
    };
    let heartbeat = Heartbeat {
        message_type: Heartbeat::TYPE,
        task_id: TASK,
        timestamp,
        seq: 180,
    };
    golden("lagged", &serde_json::to_string(&lagged).unwrap());
    golden("gap", &serde_json::to_string(&gap).unwrap());
    golden("heartbeat", &serde_json::to_string(&heartbeat).unwrap());
}

/// Every golden has just the fields that the AsyncAPI document says, and all that it requires.
#[test]
fn goldens_are_as_the_document_of_the_messages_says() {
    let document = mtmc::service::messages::asyncapi::document();
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/messages");
    let mut checked = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let message: Value = serde_json::from_str(&text).unwrap();
        let kind = message["message_type"].as_str().unwrap();
        let payload = &document["components"]["messages"][kind]["payload"];
        schema::check(&document, payload, &message, kind);
        checked += 1;
    }
    assert_eq!(checked, 12);
}

/// Names, order and types of sections 5 and 6 of the requirement document. What is more, is told
/// here and in `docs/messages.md`.
#[test]
fn messages_are_as_the_requirement_document_shows() {
    let Some(path) = shared("spec/detection-pipeline-requirements.md") else {
        return;
    };
    let blocks = json_blocks(&std::fs::read_to_string(path).unwrap());
    let block = |start: &str| {
        let mut found = blocks.iter().filter(|text| text.contains(start));
        found.next().unwrap().clone()
    };
    let hub = hub();
    two_frames(&hub);
    hub.status(&status_update());
    let texts = texts(&hub);
    let mut additions = Vec::new();
    let found = ordered::Node::parse(&last_of(&texts, "detection_update"));
    let expected = ordered::Node::parse(&block("\"message_type\": \"detection_update\""));
    expected.compare(&found, "", &mut additions);
    let data = found.get("future_pipeline_data").unwrap();
    for (section, key) in [
        ("\"tracking_data\": {", "tracking_data"),
        ("\"reid_data\": {", "reid_data"),
        ("\"homography_data\": {", "homography_data"),
        ("\"homography_data\": {", "mapping_coordinates"),
    ] {
        let shown = ordered::Node::parse(&format!("{{{}}}", block(section)));
        let (shown, found) = (shown.get(key).unwrap(), data.get(key).unwrap());
        shown.compare(found.first(), key, &mut additions);
    }
    let found = ordered::Node::parse(&last_of(&texts, "status_update"));
    let expected = ordered::Node::parse(&block("\"message_type\": \"status_update\""));
    expected.compare(&found, "status", &mut additions);
    let expected = [
        "/seq",
        "tracking_data/detection_id",
        "reid_data/detection_id",
        "reid_data/track_id",
        "mapping_coordinates/detection_id",
        "mapping_coordinates/track_id",
        "status/seq",
    ];
    assert_eq!(additions, expected);
}

/// The fenced JSON of a Markdown file.
fn json_blocks(text: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once("```json\n") {
        let (block, after) = after.split_once("```").unwrap();
        blocks.push(block.to_string());
        rest = after;
    }
    blocks
}

/// JSON that remembers the order of its keys.
mod ordered {
    use std::fmt;

    use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

    /// A JSON value.
    #[derive(Debug, Clone, PartialEq)]
    pub enum Node {
        Null,
        Bool(bool),
        Integer(i64),
        Float(f64),
        Text(String),
        List(Vec<Node>),
        Object(Vec<(String, Node)>),
    }

    impl Node {
        pub fn parse(text: &str) -> Self {
            serde_json::from_str(text).unwrap()
        }

        pub fn get(&self, key: &str) -> Option<&Self> {
            let Self::Object(entries) = self else {
                return None;
            };
            let entry = entries.iter().find(|(name, _)| name == key);
            entry.map(|(_, value)| value)
        }

        /// The first of a list; anything else itself.
        pub fn first(&self) -> &Self {
            match self {
                Self::List(list) => &list[0],
                other => other,
            }
        }

        fn kind(&self) -> &'static str {
            match self {
                Self::Null => "null",
                Self::Bool(_) => "boolean",
                Self::Integer(_) => "integer",
                Self::Float(_) => "float",
                Self::Text(_) => "string",
                Self::List(_) => "array",
                Self::Object(_) => "object",
            }
        }

        /// Checks that `found` has everything that is shown here, in this order and of these types;
        /// what it has more is noted.
        pub fn compare(&self, found: &Self, path: &str, additions: &mut Vec<String>) {
            match (self, found) {
                // Shown empty, filled here; the placeholders of section 5, and what may be null.
                (Self::Null, _) => {}
                (Self::Object(shown), Self::Object(entries)) => {
                    let mut next = 0;
                    for (name, value) in entries {
                        let place = format!("{path}/{name}");
                        if shown.get(next).is_some_and(|(wanted, _)| wanted == name) {
                            shown[next].1.compare(value, &place, additions);
                            next += 1;
                        } else {
                            additions.push(place);
                        }
                    }
                    let missing = shown.get(next).map(|(name, _)| name);
                    assert_eq!(missing, None, "{path}: missing or out of order");
                }
                (Self::List(shown), Self::List(list)) => {
                    assert!(!list.is_empty(), "{path}: empty");
                    for value in list {
                        shown[0].compare(value, path, additions);
                    }
                }
                // A place may be shown as a whole number, and a picture may not be asked for.
                (Self::Integer(_), Self::Float(_)) if path.contains("_points") => {}
                (Self::Text(_), Self::Null) if path.ends_with("annotated_image_b64") => {}
                // The second person of the frame is not known.
                (_, Self::Null) if path.contains("/detections/") => {}
                _ => assert_eq!(self.kind(), found.kind(), "{path}"),
            }
        }

        pub fn pretty(&self) -> String {
            let mut text = String::new();
            self.write(&mut text, 0);
            text.push('\n');
            text
        }

        fn write(&self, text: &mut String, depth: usize) {
            let lines = |text: &mut String, depth: usize| {
                text.push('\n');
                text.push_str(&"  ".repeat(depth));
            };
            match self {
                Self::List(list)
                    if list
                        .iter()
                        .any(|v| matches!(v, Self::Object(_) | Self::List(_))) =>
                {
                    text.push('[');
                    for (index, value) in list.iter().enumerate() {
                        text.push_str(if index > 0 { "," } else { "" });
                        lines(text, depth + 1);
                        value.write(text, depth + 1);
                    }
                    lines(text, depth);
                    text.push(']');
                }
                Self::List(list) => {
                    text.push('[');
                    for (index, value) in list.iter().enumerate() {
                        text.push_str(if index > 0 { ", " } else { "" });
                        value.write(text, depth);
                    }
                    text.push(']');
                }
                Self::Object(entries) => {
                    text.push('{');
                    for (index, (name, value)) in entries.iter().enumerate() {
                        text.push_str(if index > 0 { "," } else { "" });
                        lines(text, depth + 1);
                        text.push_str(&format!("\"{name}\": "));
                        value.write(text, depth + 1);
                    }
                    lines(text, depth);
                    text.push('}');
                }
                Self::Null => text.push_str("null"),
                Self::Bool(value) => text.push_str(&value.to_string()),
                Self::Integer(value) => text.push_str(&value.to_string()),
                Self::Float(value) => text.push_str(&format!("{value:?}")),
                Self::Text(value) => text.push_str(&serde_json::to_string(value).unwrap()),
            }
        }
    }

    struct AnyNode;

    impl<'de> Visitor<'de> for AnyNode {
        type Value = Node;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("JSON")
        }

        fn visit_unit<E>(self) -> Result<Node, E> {
            Ok(Node::Null)
        }

        fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
            Ok(Node::Bool(value))
        }

        fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
            Ok(Node::Integer(value))
        }

        fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
            Ok(Node::Integer(value.try_into().unwrap()))
        }

        fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
            Ok(Node::Float(value))
        }

        fn visit_str<E>(self, value: &str) -> Result<Node, E> {
            Ok(Node::Text(value.to_string()))
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
            let mut list = Vec::new();
            while let Some(value) = access.next_element()? {
                list.push(value);
            }
            Ok(Node::List(list))
        }

        fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
            let mut entries = Vec::new();
            while let Some(entry) = access.next_entry()? {
                entries.push(entry);
            }
            Ok(Node::Object(entries))
        }
    }

    impl<'de> Deserialize<'de> for Node {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_any(AnyNode)
        }
    }
}

/// As much of JSON Schema as the messages' types need.
mod schema {
    use serde_json::Value;

    /// Panics where `value` is not as `schema` says.
    pub fn check(document: &Value, schema: &Value, value: &Value, path: &str) {
        if let Some(place) = schema["$ref"].as_str() {
            let target = document.pointer(place.trim_start_matches('#')).unwrap();
            return check(document, target, value, path);
        }
        if let Some(choices) = schema["oneOf"].as_array() {
            let choice = choices
                .iter()
                .find(|c| (c["type"] == "null") == value.is_null());
            return check(document, choice.unwrap(), value, path);
        }
        let names = match &schema["type"] {
            Value::Array(names) => names.clone(),
            Value::Null => return,
            name => vec![name.clone()],
        };
        let fits = names.iter().any(|name| match name.as_str().unwrap() {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "integer" => value.is_u64() || value.is_i64(),
            "number" => value.is_number(),
            "boolean" => value.is_boolean(),
            other => other == "null" && value.is_null(),
        });
        assert!(fits, "{path}: {value} is not {names:?}");
        if let Some(constant) = schema.get("const") {
            assert_eq!(constant, value, "{path}");
        }
        if let Some(choices) = schema["enum"].as_array() {
            assert!(choices.contains(value), "{path}: {value}");
        }
        if let Value::Array(list) = value {
            for entry in list {
                check(document, &schema["items"], entry, path);
            }
        }
        if let Value::Object(entries) = value {
            for (name, entry) in entries {
                let place = format!("{path}/{name}");
                let named = schema["properties"].get(name);
                let any = schema.get("additionalProperties");
                let schema = named.or(any);
                check(document, schema.expect(&place), entry, &place);
            }
            for name in schema["required"].as_array().into_iter().flatten() {
                assert!(
                    entries.contains_key(name.as_str().unwrap()),
                    "{path}/{name}"
                );
            }
        }
    }
}
