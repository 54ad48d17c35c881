//! Results out: text formats to the letter, videos that play, files that are whole or `.part`.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use image::{Rgb, RgbImage};
use mtmc::sink::{FrameResult, JpegSink, JsonLinesSink, MotSink, Sink, VideoSink};
use mtmc::source::{self, FrameSource, Mp4Source, OpenOptions};
use mtmc::tracker::{AppearanceCounts, Track, TrackState};
use mtmc_models::{BBox, Detection};
use serde_json::{Value, json};

fn track(track_id: u64, left: f32, detection_index: Option<usize>) -> Track {
    Track {
        track_id,
        bbox: BBox::from_tlwh(left, 10.0, 20.5, 40.0),
        score: 0.875,
        class: 0,
        state: TrackState::Tracked,
        age: 3,
        velocity: [0.5, 0.0],
        detection_index,
        appearance: AppearanceCounts::default(),
    }
}

fn detection(left: f32, score: f32) -> Detection {
    Detection {
        bbox: BBox::from_tlwh(left, 10.0, 20.5, 40.0),
        score,
        class: 0,
    }
}

/// One colour for each frame, far enough apart to be told after coding.
fn plain_frame(number: u64, width: u32, height: u32) -> RgbImage {
    RgbImage::from_pixel(
        width,
        height,
        Rgb([(40 + number * 37 % 180) as u8, 120, 60]),
    )
}

/// Writes frames without tracks, `rate` a second.
fn write_frames(sink: &mut dyn Sink, frames: u64, size: (u32, u32), rate: f64) {
    for number in 1..=frames {
        let image = plain_frame(number, size.0, size.1);
        write_one(sink, number, &image, rate, &[], &[]);
    }
}

fn write_one(
    sink: &mut dyn Sink,
    number: u64,
    image: &RgbImage,
    rate: f64,
    detections: &[Detection],
    tracks: &[Track],
) {
    sink.write(&FrameResult {
        camera: 0,
        source: "lobby",
        frame_number: number,
        timestamp: Duration::from_secs_f64((number - 1) as f64 / rate),
        image,
        jpeg: None,
        detections,
        tracks,
        identities: &[],
        classes: &["person".to_string()],
        processing_time_ms: 45.2,
    })
    .unwrap();
}

fn part(path: &Path) -> std::path::PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

#[test]
fn mot_text_to_the_letter() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lobby.txt");
    let mut sink = Box::new(MotSink::create(&path).unwrap());
    let image = plain_frame(1, 64, 64);
    write_one(
        sink.as_mut(),
        1,
        &image,
        10.0,
        &[],
        &[track(7, 3.25, None), track(8, 30.0, None)],
    );
    write_one(sink.as_mut(), 2, &image, 10.0, &[], &[]);
    write_one(
        sink.as_mut(),
        3,
        &image,
        10.0,
        &[],
        &[track(7, -1.004, None)],
    );
    assert!(!path.exists() && part(&path).exists());
    sink.finish().unwrap();
    assert!(path.exists() && !part(&path).exists());
    // The columns of the MOT Challenge submission format.
    let expected = "1,7,3.25,10.00,20.50,40.00,0.88,-1,-1,-1\n\
                    1,8,30.00,10.00,20.50,40.00,0.88,-1,-1,-1\n\
                    3,7,-1.00,10.00,20.50,40.00,0.88,-1,-1,-1\n";
    assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
}

/// Names and nesting of section 5.1 of the service's requirement document.
#[test]
fn json_lines_have_the_services_fields() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lobby.jsonl");
    let mut sink = Box::new(JsonLinesSink::create(&path).unwrap());
    let image = plain_frame(1, 64, 64);
    let detections = [detection(100.5, 0.87), detection(50.0, 0.5)];
    // Track 15 follows the first detection, track 16 one that is not reported.
    let tracks = [track(15, 101.0, Some(0)), track(16, 5.0, Some(9))];
    write_one(sink.as_mut(), 145, &image, 10.0, &detections, &tracks);
    write_one(sink.as_mut(), 146, &image, 10.0, &[], &[]);
    sink.finish().unwrap();

    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let entry = |id: &str, confidence: f64, x1: f64, track_id: Value| {
        json!({
            "detection_id": id,
            "class_name": "person",
            "class_id": 0,
            "confidence": confidence,
            "bbox": {
                "x1": x1, "y1": 10.0, "x2": x1 + 20.5, "y2": 50.0,
                "width": 20.5, "height": 40.0, "center_x": x1 + 10.25, "center_y": 30.0
            },
            "track_id": track_id,
            "global_id": null,
            "map_coords": null
        })
    };
    let expected = json!({
        "camera_id": "lobby",
        "frame_number": 145,
        "timestamp": 14.4,
        "detection_data": {
            "detections": [
                entry("det_001", 0.87, 100.5, json!(15)),
                entry("det_002", 0.5, 50.0, Value::Null),
                entry("det_003", 0.875, 5.0, json!(16)),
            ],
            "detection_count": 3,
            "processing_time_ms": 45.2
        }
    });
    assert_eq!(lines[0], expected);
    assert_eq!(lines[1]["detection_data"]["detections"], json!([]));
    assert_eq!(lines.len(), 2);
}

#[test]
fn a_video_comes_back_as_it_went_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lobby.mp4");
    let mut sink = Box::new(VideoSink::create(&path, 10.0).unwrap());
    write_frames(sink.as_mut(), 45, (160, 96), 10.0);
    assert!(!path.exists());
    sink.finish().unwrap();

    let mut source = Mp4Source::open(&path).unwrap();
    assert_eq!(source.info().size, (160, 96));
    assert_eq!(source.info().frame_count, Some(45));
    assert!((source.info().frame_rate.unwrap() - 10.0).abs() < 1e-6);
    let mut count = 0;
    while let Some(frame) = source.next_frame().unwrap() {
        count += 1;
        assert_eq!(frame.number, count);
        assert!((frame.timestamp.as_secs_f64() - (count - 1) as f64 / 10.0).abs() < 1e-6);
        let expected = plain_frame(count, 160, 96).get_pixel(0, 0).0;
        for pixel in frame.image.pixels() {
            for channel in 0..3 {
                let difference = pixel[channel].abs_diff(expected[channel]);
                assert!(
                    difference <= 6,
                    "frame {count}: {pixel:?}, expected {expected:?}"
                );
            }
        }
    }
    assert_eq!(count, 45);
    assert_eq!(source.skipped().count, 0);
}

#[test]
fn tracks_are_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lobby.mp4");
    let mut sink = Box::new(VideoSink::create(&path, 10.0).unwrap());
    let image = RgbImage::from_pixel(320, 240, Rgb([90, 90, 90]));
    write_one(
        sink.as_mut(),
        1,
        &image,
        10.0,
        &[],
        &[track(3, 100.0, None)],
    );
    sink.finish().unwrap();
    let frame = Mp4Source::open(&path)
        .unwrap()
        .next_frame()
        .unwrap()
        .unwrap();
    let colourful = |pixel: &&Rgb<u8>| {
        let [low, high] = [pixel.0.iter().min().unwrap(), pixel.0.iter().max().unwrap()];
        high - low > 60
    };
    let drawn = frame.image.pixels().filter(colourful).count();
    assert!(drawn > 100, "{drawn} colourful pixels");
}

/// H.264 halves the resolution of colour, so sides are even; the rule is in `VideoSink`'s docs.
#[test]
fn odd_tiny_and_changing_sizes() {
    let folder = tempfile::tempdir().unwrap();
    for (size, expected) in [
        ((101, 75), (102, 76)),
        ((1, 1), (16, 16)),
        ((33, 16), (34, 16)),
    ] {
        let path = folder.path().join(format!("{}.mp4", size.0));
        let mut sink = Box::new(VideoSink::create(&path, 25.0).unwrap());
        write_frames(sink.as_mut(), 3, size, 25.0);
        // Later frames of another size: smaller, larger.
        write_one(sink.as_mut(), 4, &plain_frame(4, 8, 200), 25.0, &[], &[]);
        write_one(sink.as_mut(), 5, &plain_frame(5, 200, 8), 25.0, &[], &[]);
        sink.finish().unwrap();
        let mut source = Mp4Source::open(&path).unwrap();
        assert_eq!(source.info().size, expected);
        let mut count = 0;
        while source.next_frame().unwrap().is_some() {
            count += 1;
        }
        assert_eq!(count, 5, "{size:?}");
    }
}

#[test]
fn large_frames_are_halved() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.mp4");
    let mut sink = Box::new(VideoSink::create(&path, 25.0).unwrap());
    write_frames(sink.as_mut(), 1, (4002, 400), 25.0);
    sink.finish().unwrap();
    assert_eq!(Mp4Source::open(&path).unwrap().info().size, (2002, 200));
}

#[test]
fn timestamps_are_kept_when_frames_are_missing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gap.mp4");
    let mut sink = Box::new(VideoSink::create(&path, 29.97).unwrap());
    let numbers = [1, 2, 3, 10, 11, 100];
    for number in numbers {
        write_one(
            sink.as_mut(),
            number,
            &plain_frame(number, 64, 48),
            29.97,
            &[],
            &[],
        );
    }
    sink.finish().unwrap();
    let mut source = Mp4Source::open(&path).unwrap();
    for number in numbers {
        let frame = source.next_frame().unwrap().unwrap();
        let expected = (number - 1) as f64 / 29.97;
        assert!((frame.timestamp.as_secs_f64() - expected).abs() < 1e-4);
    }
}

/// What a killed run leaves behind plays up to its last whole fragment.
#[test]
fn an_unfinished_video_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lobby.mp4");
    let mut sink = VideoSink::create(&path, 10.0).unwrap();
    write_frames(&mut sink, 65, (160, 96), 10.0);
    drop(sink);
    assert!(!path.exists());
    let mut source = Mp4Source::open(&part(&path)).unwrap();
    let mut count = 0;
    while let Some(frame) = source.next_frame().unwrap() {
        count += 1;
        assert_eq!(frame.number, count);
    }
    assert_eq!(count, 60, "three whole fragments of two seconds");
}

#[test]
fn a_video_without_frames_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("empty.mp4");
    Box::new(VideoSink::create(&path, 10.0).unwrap())
        .finish()
        .unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn other_programs_play_the_video() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lobby.mp4");
    let mut sink = Box::new(VideoSink::create(&path, 25.0).unwrap());
    write_frames(sink.as_mut(), 110, (322, 182), 25.0);
    sink.finish().unwrap();
    let entries = "stream=codec_name,width,height,avg_frame_rate,nb_read_frames,color_space\
                   :format=duration";
    let output = Command::new("ffprobe")
        .args([
            "-v",
            "error",
            "-count_frames",
            "-show_entries",
            entries,
            "-of",
            "json",
        ])
        .arg(&path)
        .output();
    let Ok(output) = output else {
        eprintln!("skipped: needs ffprobe");
        return;
    };
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let stream = &report["streams"][0];
    assert_eq!(stream["codec_name"], "h264");
    assert_eq!(
        (&stream["width"], &stream["height"]),
        (&json!(322), &json!(182))
    );
    assert_eq!(stream["avg_frame_rate"], "25/1");
    assert_eq!(stream["nb_read_frames"], "110");
    assert_eq!(stream["color_space"], "smpte170m");
    let duration: f64 = report["format"]["duration"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((duration - 4.4).abs() < 0.01, "{duration}");
}

#[test]
fn jpegs_are_named_after_their_frames_and_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lobby");
    let mut sink = Box::new(JpegSink::create(&path).unwrap());
    write_frames(sink.as_mut(), 12, (50, 40), 10.0);
    sink.finish().unwrap();
    assert!(path.join("000012.jpg").exists());
    let mut source = source::open(path.to_str().unwrap(), &OpenOptions::default()).unwrap();
    assert_eq!(source.info().frame_count, Some(12));
    for number in 1..=12 {
        let frame = source.next_frame().unwrap().unwrap();
        let expected = plain_frame(number, 1, 1).get_pixel(0, 0).0;
        let got = frame.image.get_pixel(25, 20).0;
        for channel in 0..3 {
            assert!(
                got[channel].abs_diff(expected[channel]) <= 3,
                "{got:?}, not {expected:?}"
            );
        }
    }
}

#[test]
fn a_place_that_cannot_be_written_is_named() {
    let path = Path::new("/nowhere/at/all.txt");
    let error = MotSink::create(path).err().unwrap();
    assert!(error.to_string().contains("/nowhere/at/all.txt"), "{error}");
    assert!(VideoSink::create(path, 10.0).is_err());
}
