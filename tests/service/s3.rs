//! Tasks from an object store, end to end: JPEG objects of a real S3 server in, real networks, messages
//! over a real socket out; with objects that are missing or broken, and with the store away for a
//! while.
//!
//! The cameras of the default environment show the video of PETS09-S2L1, each beginning a little later
//! than the one before, so that it is known who is the same person: who stands in the same box of the
//! same picture.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mtmc_models::testing::{shared, shared_video};
use serde_json::{Value, json};

use super::place::{Place, mtmc, run};
use super::server::{Server, TASKS};

#[path = "../source_s3/server.rs"]
#[allow(dead_code)] // tests/source_s3.rs uses the rest
mod store;

use store::{ACCESS_KEY, Fault, SECRET_KEY};

const CAMERAS: [&str; 4] = ["c09", "c12", "c13", "c16"];

/// Pictures of each camera.
const FRAMES: usize = 12;

/// Pictures by which each camera begins later than the one before.
const LATER: usize = 2;

/// The video's first pictures as JPEG files. `None` without the shared data or without FFmpeg.
fn pictures(count: usize) -> Option<Vec<Vec<u8>>> {
    let video = shared_video("data/vtest-pets09-s2l1/vtest.avi")?;
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "error", "-i", video.to_str().unwrap()]);
    command.args(["-frames:v", &count.to_string(), "-q:v", "3"]);
    run(command.arg(folder.path().join("%03d.jpg")));
    let read = |number| std::fs::read(folder.path().join(format!("{number:03}.jpg"))).unwrap();
    Some((1..=count).map(read).collect())
}

/// A bucket, and a service whose cameras are in it.
struct World {
    bucket: store::Server,
    place: Place,
    pictures: Vec<Vec<u8>>,
}

impl World {
    /// With so many pictures a camera.
    fn new(frames: usize) -> Option<Self> {
        let pictures = pictures(frames + LATER * (CAMERAS.len() - 1))?;
        let bucket = store::Server::start();
        let mut place = Place::new();
        place.add_detector()?;
        place.add_encoder()?;
        place.calibrate(&CAMERAS)?;
        place.set("HOMOGRAPHY_DATA_DIR", &place.text("calibrations"));
        // For OSNet.
        place.set("REID_SIMILARITY_THRESHOLD", "0.65");
        place.add(&["--source-template", "s3://cameras/{environment}/{camera}/"]);
        let endpoint = bucket.settings().endpoint.unwrap();
        place.set("MTMC_S3_ENDPOINT", &endpoint);
        place.set("AWS_ACCESS_KEY_ID", ACCESS_KEY);
        place.set("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
        let world = Self {
            bucket,
            place,
            pictures,
        };
        for camera in CAMERAS {
            for number in 1..=frames {
                world
                    .bucket
                    .put(&key(camera, number), world.picture(camera, number));
            }
        }
        Some(world)
    }

    /// A camera's picture, numbered from 1.
    fn picture(&self, camera: &str, number: usize) -> &[u8] {
        &self.pictures[later(camera) + number - 1]
    }

    /// What `mtmc track` makes of the same pictures in folders: by camera, each frame's detections.
    fn tracked(&self) -> BTreeMap<&'static str, Vec<Value>> {
        let environment = environment();
        std::fs::write(self.place.at("default.toml"), environment).unwrap();
        let mut command = mtmc();
        command.args(["track", "--quiet", "--video", "none"]);
        command.args(["--environment", &self.place.text("default.toml")]);
        command.args(["--weights", &self.place.text("femto.safetensors")]);
        command.args(["--reid", &self.place.text("osnet.safetensors")]);
        command.args(["--out", &self.place.text("out")]);
        command.env("REID_SIMILARITY_THRESHOLD", "0.65");
        command.env("HOMOGRAPHY_DATA_DIR", self.place.at("calibrations"));
        for camera in CAMERAS {
            let folder = self.bucket.path(&key(camera, 1));
            let folder = folder.parent().unwrap().display();
            command.arg(format!("{camera}={folder}"));
        }
        run(&mut command);
        let mut found = BTreeMap::new();
        for camera in CAMERAS {
            let lines = std::fs::read_to_string(self.place.at(&format!("out/{camera}.jsonl")));
            let frame = |line: &str| -> Value {
                let frame: Value = serde_json::from_str(line).unwrap();
                frame["detection_data"]["detections"].clone()
            };
            found.insert(camera, lines.unwrap().lines().map(frame).collect());
        }
        found
    }
}

fn key(camera: &str, number: usize) -> String {
    format!("default/{camera}/{number:03}.jpg")
}

fn later(camera: &str) -> usize {
    LATER * CAMERAS.iter().position(|known| *known == camera).unwrap()
}

/// The default environment as a file: four cameras in a row, each overlapping with the next, left
/// through the sides of their pictures.
fn environment() -> String {
    let (left, right) = ("{ x_max = 0.3 }", "{ x_min = 0.7 }");
    let zones = [
        right.to_string(),
        format!("{left}, {right}"),
        format!("{left}, {right}"),
        left.to_string(),
    ];
    let mut text = "id = \"default\"\nname = \"Default\"\n".to_string();
    for (camera, zones) in CAMERAS.iter().zip(zones) {
        text += &format!("[[cameras]]\nid = \"{camera}\"\nzones = [{zones}]\n");
    }
    for pair in CAMERAS.windows(2) {
        text += &format!("[[links]]\ncameras = {pair:?}\noverlap = true\n");
    }
    text
}

/// The messages of a kind.
fn of_kind<'a>(messages: &'a [Value], kind: &str) -> Vec<&'a Value> {
    let mine = |message: &&Value| message["message_type"] == kind;
    messages.iter().filter(mine).collect()
}

/// Each camera's frames in the order in which they came.
fn by_camera(messages: &[Value]) -> BTreeMap<String, Vec<&Value>> {
    let mut frames: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
    for message in of_kind(messages, "detection_update") {
        let camera = message["camera_id"].as_str().unwrap();
        frames.entry(camera.to_string()).or_default().push(message);
    }
    frames
}

fn numbers(frames: &[&Value]) -> Vec<u64> {
    let number = |frame: &&Value| frame["frame_number"].as_u64().unwrap();
    frames.iter().map(number).collect()
}

#[test]
fn four_cameras_from_a_bucket_end_to_end() {
    let Some(world) = World::new(FRAMES) else {
        return;
    };
    let server = world.place.serve();
    let known = server.json(&format!("{TASKS}/environments"));
    let cameras = known["environments"][0]["cameras"].as_array().unwrap();
    assert_eq!(cameras.len(), CAMERAS.len(), "{known}");
    let task = server.start_task(&json!({"environment_id": "default"}));
    let (messages, code) = server.listen(&task, "?since=0");
    assert_eq!(code, Some(1000), "{}", server.log());
    let seqs: Vec<u64> = messages
        .iter()
        .map(|m| m["seq"].as_u64().unwrap())
        .collect();
    assert!(
        seqs.iter().copied().eq(1..=messages.len() as u64),
        "{seqs:?}"
    );

    statuses(&messages);
    every_frame_once_with_its_pictures(&world, &messages);
    as_the_document_shows(&messages);
    as_tracked_from_folders(&world, &messages);
    who_is_the_same(&messages);
    nothing_left_after_cleanup(&world, &server, &task);
}

/// From the first state to the last, none twice; progress never falls.
fn statuses(messages: &[Value]) {
    let updates = of_kind(messages, "status_update");
    let mut states: Vec<&str> = Vec::new();
    let mut progress = 0.0;
    for update in &updates {
        let state = update["status"].as_str().unwrap();
        if states.last() != Some(&state) {
            states.push(state);
        }
        let now = update["progress"].as_f64().unwrap();
        assert!(now >= progress, "{update}");
        progress = now;
    }
    let expected = ["INITIALIZING", "DOWNLOADING", "PROCESSING", "COMPLETED"];
    assert_eq!(states, expected);
    assert!((progress - 100.0).abs() < 1e-9, "{progress}");
    let last = updates.last().unwrap();
    for camera in CAMERAS {
        let state = json!({"status": "COMPLETED", "frame": FRAMES});
        assert_eq!(last["camera_processing"][camera], state, "{last}");
    }
}

fn every_frame_once_with_its_pictures(world: &World, messages: &[Value]) {
    let cameras = by_camera(messages);
    assert_eq!(cameras.len(), CAMERAS.len());
    for (camera, frames) in &cameras {
        let all: Vec<u64> = (1..=FRAMES as u64).collect();
        assert_eq!(numbers(frames), all, "{camera}");
        for (index, frame) in frames.iter().enumerate() {
            let picture = |name: &str| {
                let text = frame["frame_data"][name].as_str().unwrap();
                STANDARD.decode(text).unwrap()
            };
            let original = picture("original_image_b64");
            assert!(original == world.picture(camera, index + 1), "{camera}");
            let annotated = picture("annotated_image_b64");
            assert!(annotated.starts_with(&[0xff, 0xd8]) && annotated != original);
            let size = json!({"width": 768, "height": 576});
            assert_eq!(frame["frame_data"]["image_dimensions"], size);
        }
    }
}

/// All that sections 5 and 6 of the requirement document show, with the same types; `null` where
/// something is not known.
fn as_the_document_shows(messages: &[Value]) {
    let path = shared("spec/detection-pipeline-requirements.md").unwrap();
    let text = std::fs::read_to_string(path).unwrap();
    let block = |start: &str| -> &str {
        let blocks = text.split("```json\n").skip(1);
        let mut blocks = blocks.filter_map(|block| block.split("```").next());
        blocks.find(|block| block.contains(start)).unwrap()
    };
    let update: Value = serde_json::from_str(block("\"detection_update\"")).unwrap();
    let status: Value = serde_json::from_str(block("\"status_update\"")).unwrap();
    let part =
        |start: &str| -> Value { serde_json::from_str(&format!("{{{}}}", block(start))).unwrap() };
    let tracking = part("\"tracking_data\": {");
    let reid = part("\"reid_data\": {");
    let places = part("\"homography_data\": {");
    for message in of_kind(messages, "status_update") {
        like(&status, message, "status_update");
    }
    let mut filled = [0; 3];
    for message in of_kind(messages, "detection_update") {
        like(&update, message, "detection_update");
        let data = &message["future_pipeline_data"];
        let calibration = &data["homography_data"];
        like(&places["homography_data"], calibration, "homography_data");
        assert_eq!(calibration["matrix_available"], true);
        let lists = [
            ("tracking_data", &tracking),
            ("reid_data", &reid),
            ("mapping_coordinates", &places),
        ];
        for (count, (name, shown)) in filled.iter_mut().zip(lists) {
            for entry in data[name].as_array().into_iter().flatten() {
                like(&shown[name], entry, name);
                *count += 1;
            }
        }
        vectors(&data["reid_data"]);
    }
    // Of each at least as many as there are frames: somebody is always there.
    let frames = CAMERAS.len() * FRAMES;
    assert!(filled.iter().all(|count| *count > frames), "{filled:?}");
}

/// `found` has every key that `shown` has, of its type, or nothing known.
fn like(shown: &Value, found: &Value, path: &str) {
    match (shown, found) {
        (Value::Object(shown), Value::Object(found)) => {
            for (key, shown) in shown {
                let path = format!("{path}.{key}");
                // Cameras are named in the keys.
                let found = found.get(key);
                like(shown, found.unwrap_or_else(|| panic!("no {path}")), &path);
            }
        }
        (Value::Array(shown), Value::Array(found)) => {
            let shown = &shown[0];
            for (index, found) in found.iter().enumerate() {
                like(shown, found, &format!("{path}[{index}]"));
            }
        }
        (Value::Null, _) | (_, Value::Null) => {}
        _ => {
            let same = std::mem::discriminant(shown) == std::mem::discriminant(found);
            assert!(same, "{path} is {found}, but is shown as {shown}");
        }
    }
}

/// Vectors are of OSNet's 512 numbers, and of length 1.
fn vectors(reid: &Value) {
    for entry in reid.as_array().into_iter().flatten() {
        let Some(text) = entry["feature_vector"].as_str() else {
            continue;
        };
        let bytes = STANDARD.decode(text).unwrap();
        let mut square = 0.0;
        for number in bytes.chunks_exact(4) {
            square += f32::from_le_bytes(number.try_into().unwrap()).powi(2);
        }
        assert_eq!(bytes.len(), 4 * 512);
        assert!((square - 1.0).abs() < 1e-3, "{square}");
        assert_eq!(entry["gallery_metadata"]["embedding_dimension"], 512);
    }
}

/// What the socket tells of a frame is what `mtmc track` writes of it: boxes, tracks, identities,
/// places.
fn as_tracked_from_folders(world: &World, messages: &[Value]) {
    let expected = world.tracked();
    let mut boxes = 0;
    for (camera, frames) in by_camera(messages) {
        let expected = &expected[camera.as_str()];
        assert_eq!(frames.len(), expected.len(), "{camera}");
        for (frame, expected) in frames.iter().zip(expected) {
            let found = frame["detection_data"]["detections"].as_array().unwrap();
            let expected = expected.as_array().unwrap();
            assert_eq!(found.len(), expected.len(), "{frame}");
            for (found, expected) in found.iter().zip(expected) {
                for (name, value) in found.as_object().unwrap() {
                    assert_eq!(value, &expected[name], "{name} of {found} and {expected}");
                }
                boxes += 1;
            }
        }
    }
    assert!(boxes > 150, "{boxes}");
}

/// One person has one identity in all cameras, and no two people share one.
fn who_is_the_same(messages: &[Value]) {
    // By picture of the video: camera, box and identity of everybody in it.
    let mut pictures: BTreeMap<usize, Vec<(String, [f64; 4], u64)>> = BTreeMap::new();
    let mut cameras_of: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
    let mut tracked = [0, 0];
    for (camera, frames) in by_camera(messages) {
        for frame in frames {
            let number = frame["frame_number"].as_u64().unwrap() as usize;
            for found in frame["detection_data"]["detections"].as_array().unwrap() {
                if found["track_id"].is_null() {
                    continue;
                }
                tracked[0] += 1;
                let Some(id) = found["global_id"].as_u64() else {
                    continue;
                };
                tracked[1] += 1;
                let side = |name: &str| found["bbox"][name].as_f64().unwrap();
                let bbox = ["x1", "y1", "x2", "y2"].map(side);
                let picture = later(&camera) + number;
                let seen = pictures.entry(picture).or_default();
                seen.push((camera.clone(), bbox, id));
                cameras_of.entry(id).or_default().insert(camera.clone());
            }
        }
    }
    // A track's first frames are not enough to say who it is.
    assert!(tracked[1] * 2 > tracked[0], "{tracked:?}");
    let (mut same, mut one, mut shared_by_others) = (0, 0, 0);
    for seen in pictures.values() {
        for (index, (camera, bbox, id)) in seen.iter().enumerate() {
            for (other_camera, other_box, other) in &seen[index + 1..] {
                let moved = bbox.iter().zip(other_box).map(|(a, b)| (a - b).abs());
                let here = moved.fold(0.0, f64::max) < 3.0;
                if here && camera != other_camera {
                    same += 1;
                    one += usize::from(id == other);
                }
                shared_by_others += usize::from(!here && id == other);
            }
        }
    }
    let everywhere = cameras_of.values().filter(|cameras| cameras.len() == 4);
    let everywhere = everywhere.count();
    assert!(same > 50 && one * 10 >= same * 9, "{one} of {same}");
    assert_eq!(shared_by_others, 0);
    assert!(everywhere > 2, "{cameras_of:?}");
}

fn nothing_left_after_cleanup(world: &World, server: &Server, task: &str) {
    let people = |server: &Server| server.json("/api/v1/people")["count"].as_u64().unwrap();
    assert!(people(server) > 2);
    let path = format!("{TASKS}/environment/default/cleanup");
    let cleaned = server.send("DELETE", &path, &[], b"");
    assert_eq!(cleaned.status, 200, "{}", cleaned.text());
    let removed = &cleaned.json()["removed"];
    assert_eq!(removed["tasks"], 1, "{removed}");
    for what in ["people", "positions", "tracks"] {
        assert!(removed[what].as_u64().unwrap() > 2, "{removed}");
    }
    assert_eq!(server.get(&format!("{TASKS}/{task}")).status, 404);
    assert_eq!(server.json(TASKS)["count"], 0);
    assert_eq!(people(server), 0);
    let left = std::fs::read_dir(world.place.data().join("tasks")).unwrap();
    assert_eq!(left.count(), 0);
}

#[test]
fn missing_and_broken_objects_are_skipped_and_counted() {
    let Some(world) = World::new(8) else { return };
    world.bucket.fault("c09/003.jpg", 1, Fault::Remove);
    world.bucket.put(&key("c12", 5), b"no picture");
    let server = world.place.serve();
    let task = server.start_task(&json!({
        "environment_id": "default", "cameras": ["c09", "c12"]
    }));
    let (messages, _) = server.listen(&task, "?since=0&images=none");
    let last = messages.last().unwrap();
    assert_eq!(last["status"], "COMPLETED", "{last}");
    assert_eq!(last["progress"], 100.0, "{last}");
    let frames = by_camera(&messages);
    // Those that are skipped keep their numbers.
    assert_eq!(numbers(&frames["c09"]), [1, 2, 4, 5, 6, 7, 8]);
    assert_eq!(numbers(&frames["c12"]), [1, 2, 3, 4, 6, 7, 8]);
    let told = server.get("/metrics").text();
    for camera in ["c09", "c12"] {
        let labels = format!("{{environment=\"default\",camera=\"{camera}\",reason=\"broken\"}}");
        let line = format!("mtmc_frames_skipped_total{labels} 1.0\n");
        assert!(told.contains(&line), "no {line} in {told}");
    }
}

#[test]
fn a_task_outlives_its_store_for_a_while() {
    let Some(mut world) = World::new(FRAMES) else {
        return;
    };
    // So that the outage is noticed soon, and in the middle.
    for (name, value) in [
        ("MTMC_S3_ATTEMPTS", "2"),
        ("MTMC_S3_TIMEOUT", "2"),
        ("MTMC_S3_PREFETCH", "1"),
    ] {
        world.place.set(name, value);
    }
    let server = world.place.serve();
    let task = server.start_task(&json!({"environment_id": "default"}));
    let (messages, code) = std::thread::scope(|scope| {
        let heard = scope.spawn(|| server.listen(&task, "?since=0&images=none"));
        world.bucket.wait_for_gets(4 * CAMERAS.len());
        world.bucket.kill();
        server.wait_for_log("camera lost");
        server.wait(&task, |state| {
            let cameras = state["camera_processing"].as_object().unwrap();
            cameras.values().any(|camera| camera["error"].is_string())
        });
        let degraded = server.get("/metrics").text();
        assert!(degraded.contains("state=\"degraded\"} "), "{degraded}");
        world.bucket.revive();
        heard.join().unwrap()
    });
    assert_eq!(code, Some(1000));
    let last = messages.last().unwrap();
    assert_eq!(last["status"], "COMPLETED", "{last} {}", server.log());
    let frames = by_camera(&messages);
    let all: Vec<u64> = (1..=FRAMES as u64).collect();
    for camera in CAMERAS {
        assert_eq!(numbers(&frames[camera]), all, "{camera}");
        // Nothing is wrong with it any more.
        assert!(
            last["camera_processing"][camera]["error"].is_null(),
            "{last}"
        );
    }
    assert!(server.log().contains("camera back"), "{}", server.log());
}
