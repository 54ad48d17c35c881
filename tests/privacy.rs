//! Nothing of a hidden person comes through, and nothing else is changed.

#![allow(clippy::unwrap_used)]

use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use image::RgbImage;
use mtmc::annotate::privacy::{Hider, Privacy, Tracked, apply, apply_to_crop};
use mtmc::pipeline::{self, Camera, Control, Networks, Options, PipelineMetrics, SyncMode};
use mtmc::sink::{FrameResult, Sink, SinkError};
use mtmc::source::{Backoff, Frame, FrameSource, SkipCounts, SourceError, SourceInfo};
use mtmc::tracker::{ByteTrackSettings, TrackerSettings};
use mtmc_models::{BBox, DetectOptions, Detection, Detector};
use proptest::prelude::*;

/// A picture in which every pixel differs much from its neighbours.
fn noise(width: u32, height: u32, seed: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let mut state = (x * 7919 + y * 104_729 + seed * 31).wrapping_mul(2_654_435_761);
        state ^= state >> 15;
        state = state.wrapping_mul(2_246_822_519);
        image::Rgb([state as u8, (state >> 8) as u8, (state >> 16) as u8])
    })
}

/// Variance of the picture's detail within a rectangle: of differences between neighbours.
fn detail(image: &RgbImage, [left, top, right, bottom]: [u32; 4]) -> f64 {
    let mut sum = 0.0;
    let mut count = 0.0;
    for y in top..bottom {
        for x in left + 1..right {
            let (a, b) = (image.get_pixel(x - 1, y).0, image.get_pixel(x, y).0);
            for (a, b) in a.into_iter().zip(b) {
                sum += (f64::from(a) - f64::from(b)).powi(2);
                count += 1.0;
            }
        }
    }
    sum / count
}

#[test]
fn a_head_is_hidden_and_the_rest_is_not() {
    let before = noise(200, 300, 1);
    let mut after = before.clone();
    // 40 wide and 160 high: the head's region is 0.15 beside, 0.06 above and 0.30 down.
    let person = BBox::from_xyxy(80.0, 100.0, 120.0, 260.0);
    apply(&mut after, [person], Privacy::BlurHead);
    let region = [74, 90, 126, 148];
    let [left, top, right, bottom] = region;
    assert!(detail(&before, region) > 5_000.0);
    assert!(detail(&after, region) < 0.02 * detail(&before, region));
    let mut colours = std::collections::BTreeSet::new();
    for (x, y, pixel) in after.enumerate_pixels() {
        if (left..right).contains(&x) && (top..bottom).contains(&y) {
            colours.insert(pixel.0);
        } else {
            assert_eq!(pixel, before.get_pixel(x, y), "{x},{y} is outside");
        }
    }
    // Blocks of a quarter of the width, 13 pixels: 4 across and 5 down.
    assert!(colours.len() <= 20, "{} colours", colours.len());
}

#[test]
fn a_body_is_hidden_with_a_margin() {
    let before = noise(200, 300, 2);
    let mut after = before.clone();
    apply(
        &mut after,
        [BBox::from_xyxy(50.0, 50.0, 100.0, 250.0)],
        Privacy::BlurBody,
    );
    let region = [46, 34, 104, 266];
    assert!(detail(&after, region) < 0.02 * detail(&before, region));
    for (x, y, pixel) in after.enumerate_pixels() {
        let inside = (46..104).contains(&x) && (34..266).contains(&y);
        assert!(
            inside || pixel == before.get_pixel(x, y),
            "{x},{y} is outside"
        );
    }
}

#[test]
fn what_is_left_does_not_tell_two_faces_apart() {
    // Two faces of the same mean colours in each block, the second one mirrored within its blocks.
    let mut first = noise(64, 64, 3);
    let mut second = first.clone();
    for by in (0..64).step_by(16) {
        for bx in (0..64).step_by(16) {
            for y in 0..16 {
                for x in 0..16 {
                    let pixel = *first.get_pixel(bx + 15 - x, by + 15 - y);
                    second.put_pixel(bx + x, by + y, pixel);
                }
            }
        }
    }
    assert_ne!(first, second);
    apply_to_crop(&mut first, Privacy::BlurBody);
    apply_to_crop(&mut second, Privacy::BlurBody);
    assert_eq!(first, second);
}

#[test]
fn small_people_become_one_colour() {
    let mut picture = noise(64, 64, 4);
    apply(
        &mut picture,
        [BBox::from_xyxy(30.0, 30.0, 34.0, 42.0)],
        Privacy::BlurHead,
    );
    // 6 by 5 pixels.
    let colour = picture.get_pixel(30, 30);
    for (x, y) in [(29, 29), (34, 33), (32, 31)] {
        assert_eq!(picture.get_pixel(x, y), colour);
    }
}

#[test]
fn somebody_who_lies_is_hidden_along_the_whole_box() {
    let before = noise(300, 100, 5);
    let mut after = before.clone();
    apply(
        &mut after,
        [BBox::from_xyxy(50.0, 40.0, 250.0, 80.0)],
        Privacy::BlurHead,
    );
    let region = [50, 40, 250, 80];
    assert!(detail(&after, region) < 0.02 * detail(&before, region));
}

#[test]
fn nothing_is_hidden_if_nothing_is_asked_for() {
    let before = noise(50, 50, 6);
    let mut after = before.clone();
    apply(
        &mut after,
        [BBox::from_xyxy(0.0, 0.0, 50.0, 50.0)],
        Privacy::None,
    );
    assert_eq!(before, after);
    let wild = [
        BBox::from_xyxy(f32::NAN, 0.0, 10.0, 10.0),
        BBox::from_xyxy(0.0, 0.0, f32::INFINITY, 10.0),
        BBox::from_xyxy(100.0, 100.0, 200.0, 200.0),
        BBox::from_xyxy(-1e30, -1e30, -1e29, -1e29),
    ];
    apply(&mut after, wild, Privacy::BlurHead);
    assert_eq!(before, after);
    apply(&mut RgbImage::new(0, 0), wild, Privacy::BlurBody);
}

#[test]
fn somebody_just_lost_is_still_hidden_where_they_would_be() {
    let mut hider = Hider::new(Privacy::BlurBody);
    let track = Tracked {
        track_id: 1,
        bbox: BBox::from_tlwh(20.0, 20.0, 20.0, 40.0),
        velocity: [2.0, 0.0],
    };
    let mut hidden = |frame: u64, tracks: Vec<Tracked>| {
        let before = noise(200, 100, 8);
        let mut after = before.clone();
        hider.hide(&mut after, frame, [], tracks);
        [25, 105].map(|left| {
            let region = [left, 25, left + 10, 55];
            detail(&after, region) < 0.1 * detail(&before, region)
        })
    };
    assert_eq!(hidden(10, vec![track]), [true, false]);
    // 30 frames later they are hidden where they were and 60 pixels further; then no more.
    assert_eq!(hidden(40, Vec::new()), [true, false]);
    assert_eq!(hidden(41, Vec::new()), [false, false]);
    assert_eq!(
        hidden(
            50,
            vec![Tracked {
                velocity: [4.0, 0.0],
                ..track
            }]
        ),
        [true, false]
    );
    assert_eq!(hidden(70, Vec::new()), [true, true]);
}

/// Three frames of noise that came as files.
struct Pictures {
    info: SourceInfo,
    given: u32,
    skipped: SkipCounts,
}

impl FrameSource for Pictures {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn next_frame(&mut self) -> Result<Option<Frame>, SourceError> {
        self.given += 1;
        Ok((self.given <= 3).then(|| Frame {
            number: u64::from(self.given),
            timestamp: Duration::from_millis(u64::from(self.given) * 100),
            image: noise(200, 200, self.given),
            jpeg: Some(vec![0xFF, 0xD8]),
        }))
    }

    fn skipped(&self) -> &SkipCounts {
        &self.skipped
    }
}

/// Finds two people, one of them barely, and keeps what it was shown.
struct Finder(Mutex<Sender<RgbImage>>);

impl Detector for Finder {
    fn detect(
        &self,
        images: &[&RgbImage],
        _: &DetectOptions,
    ) -> mtmc_models::Result<Vec<Vec<Detection>>> {
        let mut found = Vec::new();
        for image in images {
            self.0.lock().unwrap().send((*image).clone()).unwrap();
            let person = |left: f32, score: f32| Detection {
                bbox: BBox::from_tlwh(left, 50.0, 40.0, 100.0),
                score,
                class: 0,
            };
            found.push(vec![person(20.0, 0.9), person(120.0, 0.12)]);
        }
        Ok(found)
    }

    fn classes(&self) -> &[String] {
        &[]
    }
}

/// Keeps pictures, whether there was a file, and how many people were reported.
struct Keep(Sender<(RgbImage, bool, usize)>);

impl Sink for Keep {
    fn write(&mut self, result: &FrameResult<'_>) -> Result<(), SinkError> {
        let kept = (
            result.image.clone(),
            result.jpeg.is_some(),
            result.detections.len(),
        );
        self.0.send(kept).unwrap();
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), SinkError> {
        Ok(())
    }
}

/// What sinks get, and what the detector is shown.
fn run(privacy: Privacy) -> (Vec<(RgbImage, bool, usize)>, Vec<RgbImage>) {
    let (tell, told) = channel();
    let (show, shown) = channel();
    let tracker = TrackerSettings::ByteTrack(ByteTrackSettings::default());
    let camera = Camera {
        name: "hall".to_string(),
        source: Box::new(Pictures {
            info: SourceInfo {
                name: "hall".to_string(),
                frame_rate: Some(10.0),
                frame_count: Some(3),
                size: (200, 200),
            },
            given: 0,
            skipped: SkipCounts::default(),
        }),
        reopen: None,
        tracker: tracker.build().unwrap(),
        motion: None,
        sinks: vec![Box::new(Keep(tell))],
        classes: Vec::new(),
        start_offset: 0.0,
    };
    let options = Options {
        batch: 1,
        max_frames: None,
        detect: DetectOptions::default(),
        report_threshold: 0.5,
        tolerance: pipeline::tolerance([10.0]),
        sync: SyncMode::Lossless,
        reconnect: Backoff::default(),
        privacy,
    };
    let control = Control {
        snapshots: None,
        metrics: Arc::new(PipelineMetrics::new(["hall"])),
        throttle: Arc::default(),
        erasures: Arc::default(),
        stop: &AtomicBool::new(false),
        progress: &|_| {},
    };
    let finder = Finder(Mutex::new(show));
    let networks = Networks {
        detector: &finder,
        embedder: None,
    };
    pipeline::run(vec![camera], None, networks, &options, control).unwrap();
    drop(finder);
    (told.iter().collect(), shown.iter().collect())
}

#[test]
fn sinks_never_see_people_and_networks_do() {
    let (clear, _) = run(Privacy::None);
    assert!(
        clear.iter().all(|(_, file, _)| *file),
        "files are passed on"
    );
    let (kept, shown) = run(Privacy::BlurBody);
    assert_eq!((kept.len(), shown.len()), (3, 3));
    for (index, (image, file, reported)) in kept.iter().enumerate() {
        let before = noise(200, 200, index as u32 + 1);
        assert_eq!(clear[index].0, before);
        assert_eq!(shown[index], before, "networks see frames as they came");
        assert!(!file, "the file shows everybody");
        assert_eq!(*reported, 1);
        // Also whom nobody reports.
        for region in [[20, 50, 60, 150], [120, 50, 160, 150]] {
            assert!(detail(image, region) < 0.05 * detail(&before, region));
        }
        assert_eq!(image.get_pixel(90, 100), before.get_pixel(90, 100));
    }
}

proptest! {
    /// Whatever the boxes: the upper third of each is flat in blocks, and what no region reaches is
    /// as it was.
    #[test]
    fn every_box_is_hidden(
        boxes in prop::collection::vec((-20.0f32..120.0, -20.0f32..120.0, 0.5f32..90.0, 0.5f32..90.0), 1..5),
        body in any::<bool>(),
    ) {
        let privacy = if body { Privacy::BlurBody } else { Privacy::BlurHead };
        let before = noise(120, 120, 7);
        let mut after = before.clone();
        let people: Vec<BBox> =
            boxes.iter().map(|&(x, y, w, h)| BBox::from_xyxy(x, y, x + w, y + h)).collect();
        apply(&mut after, people.iter().copied(), privacy);
        let reaches = |person: &BBox, x: u32, y: u32, share: f32, margin: f32| {
            let (x, y) = (x as f32, y as f32);
            let (w, h) = (person.width(), person.height());
            x + 1.0 > person.x1 - margin * w - margin
                && x < person.x2 + margin * w + margin
                && y + 1.0 > person.y1 - margin * h - margin
                && y < person.y1 + share * h + margin
        };
        let mut untouched = 0;
        for (x, y, pixel) in after.enumerate_pixels() {
            let near = people.iter().any(|person| reaches(person, x, y, 1.2, 1.0));
            if !near {
                prop_assert_eq!(pixel, before.get_pixel(x, y));
            }
            // The original's own colour is left only by chance.
            let hidden = people.iter().any(|person| {
                let inside = (x as f32) > person.x1 + 1.0 && ((x + 1) as f32) < person.x2 - 1.0;
                inside && (y as f32) > person.y1 + 1.0
                    && ((y + 1) as f32) < person.y1 + 0.3 * person.height() - 1.0
            });
            untouched += u32::from(hidden && pixel == before.get_pixel(x, y));
        }
        prop_assert!(untouched < 5, "{} pixels came through", untouched);
    }
}
