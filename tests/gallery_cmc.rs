//! Identities on the map for real cameras: the CMC data's four overlapping views, detections in,
//! places with identities out, against its truth on the floor.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;

use mtmc::eval::clear::Rules;
use mtmc::eval::report::{Figures, Measured};
use mtmc::eval::{EvalFrame, EvalSequence};
use mtmc::gallery::{CameraInput, Gallery, GallerySettings, Observation, Topology};
use mtmc::homography::{CameraView, MapPoint};
use mtmc::tracker::{BotSortSettings, Detection, FrameDetections, Track, TrackerSettings};
use mtmc_models::BBox;
use mtmc_models::testing::shared;

/// Frames a second of the recording.
const FRAME_RATE: f64 = 4.0;

/// Corners of the recording's tracked area, in metres.
const AREA: [[f64; 2]; 4] = [[1.8, -0.3], [6.6, -0.3], [6.6, 3.7], [1.8, 3.7]];

/// Size of the pictures.
const SIZE: [f64; 2] = [1920.0, 1024.0];

fn numbers(path: &Path) -> Vec<Vec<f64>> {
    let text = std::fs::read_to_string(path).unwrap();
    let rows = text.lines().filter(|line| !line.trim().is_empty());
    rows.map(|line| {
        line.split_whitespace()
            .map(|v| v.parse().unwrap())
            .collect()
    })
    .collect()
}

fn views(folder: &Path) -> Vec<Option<CameraView>> {
    let text = std::fs::read_to_string(folder.join("projection_matrices.json")).unwrap();
    let matrices: BTreeMap<String, [[f64; 4]; 3]> = serde_json::from_str(&text).unwrap();
    let area: Vec<MapPoint> = AREA.iter().map(|&[x, y]| MapPoint { x, y }).collect();
    let view = |matrix| {
        CameraView::from_projection(matrix, SIZE)
            .unwrap()
            .with_area(area.clone())
    };
    matrices
        .into_values()
        .map(|matrix| Some(view(matrix)))
        .collect()
}

type Places = Vec<(u64, [f64; 2])>;

fn run(folder: &Path, sequence: &str, settings: GallerySettings) -> Vec<Places> {
    let mut detections: Vec<BTreeMap<u64, Vec<Detection>>> = Vec::new();
    let mut last = 0;
    for camera in 1..=4 {
        let mut frames: BTreeMap<u64, Vec<Detection>> = BTreeMap::new();
        for row in numbers(&folder.join(format!("{sequence}/DET_Cam{camera}.txt"))) {
            let [x, y, w, h] = [2, 3, 4, 5].map(|i| row[i] as f32);
            let detection = Detection {
                bbox: BBox::from_tlwh(x, y, w, h),
                score: 0.9,
                class: 0,
            };
            frames.entry(row[0] as u64).or_default().push(detection);
            last = last.max(row[0] as u64);
        }
        detections.push(frames);
    }
    let tracker = TrackerSettings::BotSort(BotSortSettings {
        frame_rate: FRAME_RATE,
        track_buffer: 60,
        ..BotSortSettings::default()
    });
    let mut trackers: Vec<_> = (0..4).map(|_| tracker.build().unwrap()).collect();
    let mut gallery = Gallery::new(settings, Topology::default(), views(folder)).unwrap();
    let mut places = Vec::new();
    for frame in 1..=last {
        let tracks: Vec<Vec<Track>> = (0..4)
            .map(|camera| {
                let found = FrameDetections {
                    frame,
                    detections: detections[camera].remove(&frame).unwrap_or_default(),
                    ..FrameDetections::default()
                };
                let mut tracks = trackers[camera].update(&found);
                // The box as it was seen: the filter's lags behind at four frames a second.
                for track in &mut tracks {
                    if let Some(index) = track.detection_index {
                        track.bbox = found.detections[index].bbox;
                    }
                }
                tracks
            })
            .collect();
        let observations: Vec<Vec<Observation<'_>>> = tracks
            .iter()
            .map(|tracks| {
                let observation = |track: &Track| Observation {
                    track_id: track.track_id,
                    bbox: track.bbox,
                    embedding: None,
                };
                tracks.iter().map(observation).collect()
            })
            .collect();
        let inputs: Vec<CameraInput<'_>> = observations
            .iter()
            .enumerate()
            .map(|(camera, observations)| CameraInput {
                camera,
                frame_size: SIZE,
                observations,
            })
            .collect();
        let result = gallery.step(frame as f64 / FRAME_RATE, &inputs);
        let place = |p: &mtmc::gallery::PlacedPerson| (p.global_id, [p.place.x, p.place.y]);
        places.push(result.people.iter().map(place).collect());
        if std::env::var("CMC_DUMP").is_ok() {
            for person in gallery.people() {
                if let (Some(id), Some(m)) = (person.global_id, &person.motion) {
                    eprintln!(
                        "D {sequence} {frame} {id} {:.2} {:.2} {} {:?} {:.2} {:.2}",
                        m.position().x,
                        m.position().y,
                        person.tracks.len(),
                        person.gallery,
                        m.uncertainty(),
                        m.height()
                    );
                }
            }
        }
    }
    places
}

fn truth(folder: &Path, sequence: &str, frames: usize) -> Vec<Places> {
    let mut places = vec![Vec::new(); frames];
    for row in numbers(&folder.join(format!("{sequence}/GT_WORLD_CENTROID.txt"))) {
        if let Some(frame) = places.get_mut(row[0] as usize - 1) {
            frame.push((row[1] as u64, [row[7], row[8]]));
        }
    }
    places
}

/// Similarity 1 at no distance, 0.5 at half a metre, 0 from a metre on.
fn measure(truth: &[Places], found: &[Places]) -> Figures {
    let mut sequence = EvalSequence::default();
    let mut truths = BTreeMap::new();
    let mut tracks = BTreeMap::new();
    for (truth, found) in truth.iter().zip(found) {
        let mut frame = EvalFrame::default();
        for (id, _) in truth {
            let next = truths.len();
            frame.truth.push(*truths.entry(*id).or_insert(next));
        }
        for (id, _) in found {
            let next = tracks.len();
            frame.track.push(*tracks.entry(*id).or_insert(next));
        }
        for (_, a) in truth {
            for (_, b) in found {
                let distance = (a[0] - b[0]).hypot(a[1] - b[1]);
                frame.similarity.push((1.0 - distance).max(0.0));
            }
        }
        sequence.frames.push(frame);
    }
    sequence.truths = truths.len();
    sequence.tracks = tracks.len();
    Measured::by(&sequence, Rules::TrackEval).figures()
}

#[test]
fn people_keep_their_identity_on_the_map() {
    let Some(folder) = shared("data/multicam-cmc") else {
        return;
    };
    for (sequence, least) in [("CMC1", 0.95), ("CMC2", 0.45)] {
        let mut settings = GallerySettings {
            least_views: 3,
            ..GallerySettings::default()
        };
        if let Ok(text) = std::env::var("CMC_SETTINGS") {
            settings = serde_json::from_str(&text).unwrap();
        }
        let found = run(&folder, sequence, settings);
        let truth = truth(&folder, sequence, found.len());
        let figures = measure(&truth, &found);
        eprintln!(
            "{sequence}: HOTA {:.3} MOTA {:.3} IDF1 {:.3} switches {} FP {} FN {}",
            figures.hota, figures.mota, figures.idf1, figures.idsw, figures.fp, figures.r#fn
        );
        assert!(figures.idf1 > least, "{sequence}: {figures:?}");
    }
}
