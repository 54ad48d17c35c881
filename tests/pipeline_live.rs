//! Cameras that come late, fall silent, fail and come back: sources whose frames come when the test
//! says so, through a channel, and a detector that waits to be let on. No sleep decides anything.

#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use image::{Rgb, RgbImage};
use mtmc::annotate::privacy::Privacy;
use mtmc::pipeline::{
    self, Camera, CameraSnapshot, CameraState, Control, Networks, Options, PipelineMetrics,
    Summary, SyncMode,
};
use mtmc::sink::{FrameResult, Sink, SinkError};
use mtmc::source::{
    Backoff, Frame, FrameSource, PacedSource, Reopen, SkipCounts, SourceError, SourceInfo,
};
use mtmc::tracker::{ByteTrackSettings, TrackerSettings};
use mtmc_models::{BBox, DetectOptions, Detection, Detector};

/// What a source does next.
enum Event {
    /// Gives a frame of this number and time in milliseconds.
    Frame(u64, u64),
    Fail(&'static str),
    End,
    Panic,
}

/// A source that does what comes through the channel.
struct Wire {
    info: SourceInfo,
    events: Receiver<Event>,
    live: bool,
    skipped: SkipCounts,
}

impl Wire {
    fn open(events: Receiver<Event>, live: bool) -> Box<dyn FrameSource> {
        let info = SourceInfo {
            name: "wire".to_string(),
            frame_rate: None,
            frame_count: None,
            size: (64, 48),
        };
        Box::new(Self {
            info,
            events,
            live,
            skipped: SkipCounts::default(),
        })
    }

    /// One that does all this at once.
    fn of(events: Vec<Event>) -> Box<dyn FrameSource> {
        let (send, receive) = channel();
        for event in events {
            send.send(event).unwrap();
        }
        Self::open(receive, false)
    }
}

/// Frames of these numbers, ten a second.
fn frames(numbers: std::ops::RangeInclusive<u64>) -> Vec<Event> {
    numbers.map(|n| Event::Frame(n, (n - 1) * 100)).collect()
}

fn failure(reason: &str) -> SourceError {
    SourceError::Ffmpeg {
        input: "wire".to_string(),
        frames: 0,
        message: reason.to_string(),
    }
}

impl FrameSource for Wire {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn next_frame(&mut self) -> Result<Option<Frame>, SourceError> {
        match self.events.recv() {
            Ok(Event::Frame(number, milliseconds)) => Ok(Some(Frame {
                number,
                timestamp: Duration::from_millis(milliseconds),
                // The picture says where its person is.
                image: RgbImage::from_pixel(64, 48, Rgb([number as u8, 0, 0])),
                jpeg: Some(vec![number as u8, 0xD8]),
            })),
            Ok(Event::Fail(reason)) => Err(failure(reason)),
            Ok(Event::End) | Err(_) => Ok(None),
            Ok(Event::Panic) => panic!("a source of a test"),
        }
    }

    fn skipped(&self) -> &SkipCounts {
        &self.skipped
    }

    fn is_live(&self) -> bool {
        self.live
    }
}

/// Finds one person who moves a pixel a frame. With a gate each batch waits to be let on.
struct Finder {
    gate: Option<Gate>,
}

struct Gate {
    /// Hears that a batch is there.
    entered: Mutex<Sender<usize>>,
    on: Mutex<Receiver<()>>,
}

impl Detector for Finder {
    fn detect(
        &self,
        images: &[&RgbImage],
        _: &DetectOptions,
    ) -> mtmc_models::Result<Vec<Vec<Detection>>> {
        if let Some(gate) = &self.gate {
            gate.entered.lock().unwrap().send(images.len()).unwrap();
            gate.on.lock().unwrap().recv().unwrap();
        }
        let person = |image: &&RgbImage| Detection {
            bbox: BBox::from_tlwh(f32::from(image.get_pixel(0, 0)[0] % 32), 5.0, 20.0, 40.0),
            score: 0.9,
            class: 0,
        };
        Ok(images.iter().map(|image| vec![person(image)]).collect())
    }

    fn classes(&self) -> &[String] {
        &[]
    }
}

/// What a sink was given of one frame.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    camera: usize,
    number: u64,
    timestamp: Duration,
    jpeg: Option<Vec<u8>>,
    tracks: Vec<u64>,
}

struct Tell(Sender<Seen>);

impl Sink for Tell {
    fn write(&mut self, result: &FrameResult<'_>) -> Result<(), SinkError> {
        let seen = Seen {
            camera: result.camera,
            number: result.frame_number,
            timestamp: result.timestamp,
            jpeg: result.jpeg.map(<[u8]>::to_vec),
            tracks: result.tracks.iter().map(|track| track.track_id).collect(),
        };
        self.0.send(seen).unwrap();
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), SinkError> {
        Ok(())
    }
}

/// Cameras and what is found in them.
struct Run {
    cameras: Vec<Camera>,
    seen: Receiver<Seen>,
    metrics: Arc<PipelineMetrics>,
    stop: Arc<AtomicBool>,
    options: Options,
    detector: Finder,
}

impl Run {
    fn new(sources: Vec<(Box<dyn FrameSource>, Option<Reopen>)>, sync: SyncMode) -> Self {
        let (tell, seen) = channel();
        let mut cameras = Vec::new();
        for (index, (source, reopen)) in sources.into_iter().enumerate() {
            cameras.push(Camera {
                name: format!("camera {index}"),
                source,
                reopen,
                tracker: TrackerSettings::ByteTrack(ByteTrackSettings::default())
                    .build()
                    .unwrap(),
                motion: None,
                sinks: vec![Box::new(Tell(tell.clone()))],
                classes: Vec::new(),
                start_offset: 0.0,
            });
        }
        let names = cameras.iter().map(|camera| camera.name.clone());
        Self {
            metrics: Arc::new(PipelineMetrics::new(names)),
            cameras,
            seen,
            stop: Arc::default(),
            options: Options {
                batch: 4,
                max_frames: None,
                detect: DetectOptions::default(),
                report_threshold: 0.5,
                tolerance: Duration::from_millis(40),
                sync,
                reconnect: Backoff {
                    first: Duration::from_millis(1),
                    longest: Duration::from_millis(4),
                    give_up: None,
                },
                privacy: Privacy::None,
            },
            detector: Finder { gate: None },
        }
    }

    /// Runs while `drive` does its part.
    fn go(self, drive: impl FnOnce(&Watch)) -> Summary {
        let Self {
            cameras,
            seen,
            metrics,
            stop,
            options,
            detector,
        } = self;
        let watch = Watch {
            seen,
            metrics: metrics.clone(),
            stop: stop.clone(),
        };
        std::thread::scope(|scope| {
            let run = scope.spawn(move || {
                let networks = Networks {
                    detector: &detector,
                    embedder: None,
                };
                let control = Control {
                    snapshots: None,
                    metrics,
                    throttle: Arc::default(),
                    erasures: Arc::default(),
                    stop: &stop,
                    progress: &|_| {},
                };
                pipeline::run(cameras, None, networks, &options, control)
            });
            drive(&watch);
            run.join().unwrap().unwrap()
        })
    }

    /// Runs to the end by itself.
    fn results(self) -> (Vec<Seen>, Summary) {
        let mut all = Vec::new();
        let summary = self.go(|watch| all.extend(watch.seen.iter()));
        all.sort_by_key(|seen| (seen.camera, seen.number));
        (all, summary)
    }
}

/// A run from outside.
struct Watch {
    seen: Receiver<Seen>,
    metrics: Arc<PipelineMetrics>,
    stop: Arc<AtomicBool>,
}

impl Watch {
    /// The next frame that was written: camera and number.
    fn next(&self) -> (usize, u64) {
        let seen = self.seen.recv_timeout(Duration::from_secs(60)).unwrap();
        (seen.camera, seen.number)
    }

    /// Waits until a camera's counters are so.
    fn until(&self, camera: usize, condition: impl Fn(&CameraSnapshot) -> bool) {
        let started = Instant::now();
        while !condition(&self.metrics.snapshot().cameras[camera]) {
            assert!(started.elapsed() < Duration::from_secs(60));
            std::thread::yield_now();
        }
    }

    fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn live(max_wait: Duration) -> SyncMode {
    SyncMode::Live { max_wait, queue: 2 }
}

const LONG: Duration = Duration::from_secs(3600);

#[test]
fn live_drops_the_oldest_while_the_detector_is_busy() {
    let (send, receive) = channel();
    let (entered, batches) = channel();
    let (let_on, on) = channel();
    let mut run = Run::new(vec![(Wire::open(receive, false), None)], live(LONG));
    run.detector.gate = Some(Gate {
        entered: Mutex::new(entered),
        on: Mutex::new(on),
    });
    let summary = run.go(|watch| {
        send.send(Event::Frame(1, 0)).unwrap();
        assert_eq!(batches.recv(), Ok(1));
        for number in 2..=6 {
            send.send(Event::Frame(number, number * 100)).unwrap();
        }
        watch.until(0, |camera| camera.dropped.overrun == 3);
        let camera = &watch.metrics.snapshot().cameras[0];
        assert_eq!((camera.read, camera.frames), (6, 0));
        assert_eq!(
            (camera.frames_waiting.now, camera.frames_waiting.most),
            (2, 2)
        );
        let_on.send(()).unwrap();
        assert_eq!(batches.recv(), Ok(2));
        let_on.send(()).unwrap();
        send.send(Event::End).unwrap();
        let numbers: Vec<u64> = watch.seen.iter().map(|seen| seen.number).collect();
        assert_eq!(numbers, [1, 5, 6]);
    });
    assert_eq!(summary.cameras[0].dropped.overrun, 3);
    assert_eq!(summary.cameras[0].frames, 3);
    assert_eq!(summary.cameras[0].state, CameraState::Ended);
}

#[test]
fn live_counts_what_comes_after_its_step() {
    let (first, first_out) = channel();
    let (second, second_out) = channel();
    let sources = vec![
        (Wire::open(first_out, false), None),
        (Wire::open(second_out, false), None),
    ];
    let summary = Run::new(sources, live(Duration::ZERO)).go(|watch| {
        first.send(Event::Frame(1, 0)).unwrap();
        assert_eq!(watch.next(), (0, 1));
        watch.until(1, |camera| camera.state == CameraState::Degraded);
        second.send(Event::Frame(1, 0)).unwrap();
        watch.until(1, |camera| camera.dropped.late == 1);
        // Back in time it is one of them again.
        second.send(Event::Frame(2, 1000)).unwrap();
        assert_eq!(watch.next(), (1, 2));
        watch.until(1, |camera| camera.state == CameraState::Running);
        first.send(Event::Frame(2, 2000)).unwrap();
        assert_eq!(watch.next(), (0, 2));
        first.send(Event::End).unwrap();
        second.send(Event::End).unwrap();
    });
    let late: Vec<u64> = summary.cameras.iter().map(|c| c.dropped.late).collect();
    assert_eq!(late, [0, 1]);
    assert_eq!(summary.frames, 3);
}

#[test]
fn live_goes_on_without_a_camera_that_never_answers() {
    let (send, receive) = channel();
    let (_silent, never) = channel();
    let sources = vec![
        (Wire::open(receive, false), None),
        (Wire::open(never, false), None),
    ];
    let summary = Run::new(sources, live(Duration::from_millis(5))).go(|watch| {
        for number in 1..=5 {
            send.send(Event::Frame(number, number * 100)).unwrap();
            assert_eq!(watch.next(), (0, number));
        }
        watch.stop();
    });
    assert!(summary.interrupted);
    assert_eq!(summary.cameras[0].frames, 5);
    assert_eq!(summary.cameras[1].state, CameraState::Degraded);
}

#[test]
fn a_run_that_waits_for_a_silent_source_can_be_stopped() {
    let (_silent, never) = channel();
    let sources = vec![
        (Wire::of(frames(1..=3)), None),
        (Wire::open(never, false), None),
    ];
    let summary = Run::new(sources, SyncMode::Lossless).go(|watch| {
        watch.until(0, |camera| camera.read == 3);
        watch.stop();
    });
    assert!(summary.interrupted);
    assert_eq!(summary.frames, 0);
}

/// A source behind which another goes on, or begins anew.
fn broken_after(first: u64, then: Vec<Event>) -> (Box<dyn FrameSource>, Option<Reopen>) {
    let mut events = frames(1..=first);
    events.push(Event::Fail("cable cut"));
    let mut attempts = 0;
    let mut then = Some(then);
    let reopen: Reopen = Box::new(move |last| {
        assert_eq!(last, first);
        attempts += 1;
        match then.take_if(|_| attempts > 2) {
            Some(events) => Ok(Wire::of(events)),
            None => Err(failure("still cut")),
        }
    });
    (Wire::of(events), Some(reopen))
}

#[test]
fn lossless_a_source_that_goes_on_changes_nothing() {
    let whole = || (Wire::of(frames(1..=20)), None);
    let (expected, summary) = Run::new(vec![whole(), whole()], SyncMode::Lossless).results();
    assert_eq!(summary.frames, 40);
    assert!(expected.iter().all(|seen| seen.tracks == [1]));
    for batch in [1, 5] {
        let broken = broken_after(7, frames(8..=20));
        let mut run = Run::new(vec![whole(), broken], SyncMode::Lossless);
        run.options.batch = batch;
        let (found, summary) = run.results();
        assert_eq!(found, expected);
        let camera = &summary.cameras[1];
        assert_eq!((camera.reconnects, camera.error.as_deref()), (1, None));
        assert_eq!(camera.state, CameraState::Ended);
    }
}

#[test]
fn numbers_and_times_go_on_behind_a_source_that_begins_anew() {
    let broken = broken_after(5, frames(1..=4));
    let (found, summary) = Run::new(vec![broken], SyncMode::Lossless).results();
    let numbers: Vec<u64> = found.iter().map(|seen| seen.number).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    for pair in found.windows(2) {
        assert!(pair[0].timestamp < pair[1].timestamp, "{pair:?}");
    }
    // Its tracker knows the person still, though it stands five pixels back.
    assert!(found.iter().all(|seen| seen.tracks == [1]), "{found:?}");
    assert_eq!(found[6].jpeg.as_deref(), Some(&[2, 0xD8][..]));
    assert_eq!(summary.cameras[0].tracks, 1);
    assert_eq!(summary.cameras[0].reconnects, 1);
}

#[test]
fn a_source_that_does_not_come_back_is_given_up() {
    let (source, _) = broken_after(2, Vec::new());
    let reopen: Reopen = Box::new(|_| Err(failure("no route")));
    let other = (Wire::of(frames(1..=9)), None);
    let mut run = Run::new(vec![(source, Some(reopen)), other], SyncMode::Lossless);
    run.options.reconnect.give_up = Some(Duration::from_millis(20));
    let (_, summary) = run.results();
    let camera = &summary.cameras[0];
    assert_eq!((camera.state, camera.frames), (CameraState::Failed, 2));
    let error = camera.error.as_deref().unwrap();
    assert!(
        error.contains("no route") && error.contains("given up"),
        "{error}"
    );
    assert_eq!(summary.cameras[1].frames, 9);
    assert_eq!(summary.cameras[1].state, CameraState::Ended);
}

#[test]
fn without_a_way_back_a_failure_is_the_end() {
    let broken = (broken_after(3, Vec::new()).0, None);
    let mut events = frames(1..=2);
    events.push(Event::Panic);
    let panicking = (Wire::of(events), None);
    let other = (Wire::of(frames(1..=6)), None);
    let run = Run::new(vec![broken, panicking, other], SyncMode::Lossless);
    let (found, summary) = run.results();
    assert_eq!(found.len(), 3 + 2 + 6);
    let errors: Vec<_> = summary.cameras.iter().map(|c| c.error.clone()).collect();
    assert!(errors[0].as_deref().unwrap().contains("cable cut"));
    assert!(errors[1].as_deref().unwrap().contains("unexpectedly"));
    assert_eq!(errors[2], None);
}

#[test]
fn a_live_source_that_ends_is_opened_again_and_its_time_is_when_it_arrives() {
    let (send, receive) = channel();
    let (again, again_out) = channel();
    let mut next = Some(again_out);
    let reopen: Reopen = Box::new(move |_| match next.take() {
        Some(events) => Ok(Wire::open(events, true)),
        None => Err(failure("gone")),
    });
    let mut all = Vec::new();
    let mut run = Run::new(vec![(Wire::open(receive, true), Some(reopen))], live(LONG));
    run.options.max_frames = Some(3);
    let summary = run.go(|watch| {
        // What the source says of its time does not count.
        send.send(Event::Frame(1, 900_000)).unwrap();
        all.push(watch.seen.recv().unwrap());
        send.send(Event::End).unwrap();
        watch.until(0, |camera| camera.reconnects == 1);
        for number in 1..=2 {
            again.send(Event::Frame(number, 0)).unwrap();
            all.push(watch.seen.recv().unwrap());
        }
    });
    let numbers: Vec<u64> = all.iter().map(|seen| seen.number).collect();
    assert_eq!(numbers, [1, 2, 3]);
    assert!(all[0].timestamp < all[1].timestamp && all[1].timestamp < all[2].timestamp);
    assert!(all[2].timestamp < Duration::from_secs(900));
    assert_eq!(summary.cameras[0].state, CameraState::Ended);
}

#[test]
fn a_live_source_that_ends_has_ended_where_nobody_may_try_again() {
    let (send, receive) = channel();
    send.send(Event::Frame(1, 0)).unwrap();
    send.send(Event::End).unwrap();
    let reopen: Reopen = Box::new(|_| Err(failure("never asked")));
    let mut run = Run::new(vec![(Wire::open(receive, true), Some(reopen))], live(LONG));
    run.options.reconnect.give_up = Some(Duration::ZERO);
    let (_, summary) = run.results();
    let camera = &summary.cameras[0];
    assert_eq!(
        (camera.state, camera.error.as_deref()),
        (CameraState::Ended, None)
    );
    assert_eq!(camera.frames, 1);
}

#[test]
fn counters_can_be_watched() {
    let (send, receive) = channel();
    let sources = vec![(Wire::open(receive, false), None)];
    let summary = Run::new(sources, SyncMode::Lossless).go(|watch| {
        let before = watch.metrics.snapshot();
        assert_eq!(before.cameras[0].state, CameraState::Waiting);
        for event in frames(1..=8) {
            send.send(event).unwrap();
        }
        watch.until(0, |camera| camera.frames >= 4);
        let states: Vec<_> = watch.metrics.states().collect();
        assert_eq!(states, [("camera 0", CameraState::Running)]);
        send.send(Event::End).unwrap();
    });
    let performance = summary.performance.unwrap();
    assert_eq!(performance.avg_detections_per_frame, 1.0);
    assert_eq!(performance.avg_tracks_per_frame, 1.0);
    assert!(performance.min_frame_time <= performance.avg_frame_time);
    assert!(performance.avg_frame_time <= performance.max_frame_time);
    assert!(performance.fps_estimate > 0.0);
}

#[test]
fn counters_of_other_cameras_are_refused() {
    let metrics = Arc::new(PipelineMetrics::new(["a", "b"]));
    let run = Run::new(vec![(Wire::of(Vec::new()), None)], SyncMode::Lossless);
    let networks = Networks {
        detector: &run.detector,
        embedder: None,
    };
    let control = Control {
        snapshots: None,
        metrics,
        throttle: Arc::default(),
        erasures: Arc::default(),
        stop: &run.stop,
        progress: &|_| {},
    };
    let error = pipeline::run(run.cameras, None, networks, &run.options, control).unwrap_err();
    assert!(
        error.to_string().contains("2 cameras in a run of 1"),
        "{error}"
    );
}

#[test]
fn a_paced_file_takes_its_time_unless_it_is_halted() {
    let mut paced = PacedSource::new(Wire::of(frames(1..=4)), Duration::from_millis(20));
    let started = Instant::now();
    let mut times = Vec::new();
    while let Some(frame) = paced.next_frame().unwrap() {
        assert!(started.elapsed() >= frame.timestamp + Duration::from_millis(20));
        times.push(frame.timestamp.as_millis());
    }
    assert_eq!(times, [0, 100, 200, 300]);

    let hours = vec![Event::Frame(1, 7_200_000)];
    let mut paced = PacedSource::new(Wire::of(hours), Duration::ZERO);
    let halt = paced.halt().unwrap();
    std::thread::scope(|scope| {
        let reading = scope.spawn(move || paced.next_frame().unwrap().unwrap().number);
        halt();
        assert_eq!(reading.join().unwrap(), 1);
    });
}

/// `mtmc track` with a folder and a live address whose `ffmpeg` is a script: nothing is there at
/// first, then three frames a connection.
#[cfg(unix)]
mod binary {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;
    use std::process::{Command, Output};

    use mtmc_models::testing::{made_up_description, made_up_image, made_up_weights};
    use mtmc_models::{Description, expected_tensors};
    use serde_json::Value;

    const FFMPEG: &str = r#"#!/bin/sh
case "$*" in *-version*) echo "ffmpeg version 7.1"; exit 0;; esac
echo x >> calls
if [ "$(wc -l < calls)" -lt 3 ]; then echo "$*: no route to camera" >&2; exit 1; fi
cat picture.ppm picture.ppm picture.ppm
"#;

    fn make(folder: &Path) {
        let description = Description {
            classes: vec!["person".to_string()],
            input_height: 320,
            input_width: 320,
            ..made_up_description("deimv2-atto")
        };
        let made_up = made_up_weights(&description, &expected_tensors(&description).unwrap());
        let metadata = serde_json::to_string(&description).unwrap();
        let metadata = [("mtmc".to_string(), metadata)].into_iter().collect();
        let weights = folder.join("atto.safetensors");
        safetensors::serialize_to_file(made_up.tensors(), Some(metadata), &weights).unwrap();
        std::fs::create_dir_all(folder.join("hall")).unwrap();
        let picture = made_up_image(96, 64, 1);
        for number in 1..=5 {
            let file = folder.join(format!("hall/{number:06}.png"));
            picture.save(file).unwrap();
        }
        let mut ppm = b"P6\n96 64\n255\n".to_vec();
        ppm.extend_from_slice(&picture);
        std::fs::write(folder.join("picture.ppm"), ppm).unwrap();
        let script = folder.join("ffmpeg");
        std::fs::write(&script, FFMPEG).unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn track(folder: &Path, more: &[&str]) -> Output {
        let path = std::env::var("PATH").unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_mtmc"));
        command.current_dir(folder).args(["track", "hall"]);
        command.args(["rtsp://user:secret@camera.example/yard"]);
        command.args([
            "--weights",
            "atto.safetensors",
            "--video",
            "none",
            "--quiet",
        ]);
        command.env("PATH", format!("{}:{path}", folder.display()));
        command.args(more).output().unwrap()
    }

    fn summary(folder: &Path) -> Value {
        let text = std::fs::read_to_string(folder.join("out/summary.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    fn told(output: &Output) -> String {
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    #[test]
    fn a_camera_that_is_not_there_comes_when_it_can() {
        let folder = tempfile::tempdir().unwrap();
        make(folder.path());
        let output = track(folder.path(), &["--sync", "lossless", "--max-frames", "5"]);
        assert!(output.status.success(), "{}", told(&output));
        assert!(told(&output).contains("no route to camera"));
        assert!(!told(&output).contains("secret"), "{}", told(&output));
        let cameras = &summary(folder.path())["cameras"];
        assert_eq!(
            (&cameras[0]["frames"], &cameras[1]["frames"]),
            (&5.into(), &5.into())
        );
        // There after one more attempt in vain, and again behind its third frame.
        assert_eq!(cameras[1]["reconnects"], 2);
        assert_eq!(cameras[1]["state"], "ended");
        let lines = std::fs::read_to_string(folder.path().join("out/yard.jsonl")).unwrap();
        let number = |line| serde_json::from_str::<Value>(line).unwrap()["frame_number"].clone();
        let numbers: Vec<Value> = lines.lines().map(number).collect();
        assert_eq!(numbers, [1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_camera_that_never_comes_does_not_keep_the_others() {
        let folder = tempfile::tempdir().unwrap();
        make(folder.path());
        // A live run of a file that takes its time loses nothing, unless the machine is too slow.
        let more = ["--realtime", "--frame-rate", "2", "--reconnect", "0"];
        let output = track(folder.path(), &more);
        assert!(output.status.success(), "{}", told(&output));
        let cameras = &summary(folder.path())["cameras"];
        let count = |name: &str| cameras[0][name].as_u64().unwrap();
        let dropped = cameras[0]["dropped"]["overrun"].as_u64().unwrap();
        assert_eq!(count("frames") + dropped, 5);
        assert_eq!(
            (&cameras[1]["frames"], &cameras[1]["state"]),
            (&0.into(), &"failed".into())
        );
        let error = cameras[1]["error"].as_str().unwrap();
        assert!(error.contains("no route to camera"), "{error}");

        let output = track(folder.path(), &["--sync", "live", "--snapshot-every", "1"]);
        assert_eq!(output.status.code(), Some(1));
        assert!(
            told(&output).contains("cannot be read again"),
            "{}",
            told(&output)
        );
    }
}
