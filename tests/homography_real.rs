//! Calibrations of real cameras: PETS09-S2L1 view 1, EPFL's sequences, the CMC recordings.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;

use mtmc::homography::{
    Calibration, CameraView, ImagePoint, MapPoint, Matrix3, PointPair, Projection, find_homography,
};
use mtmc_models::BBox;
use mtmc_models::testing::shared;
use serde::Deserialize;

/// Person, feet in the picture and place in metres, upper edge of the box.
fn pets() -> Option<Vec<(u32, PointPair, f64)>> {
    let text = fs::read_to_string(shared("data/vtest-pets09-s2l1/gt/gt.txt")?).unwrap();
    let row = |line: &str| {
        let values: Vec<f64> = line.split(',').map(|v| v.parse().unwrap()).collect();
        let [x, y, w, h] = [2, 3, 4, 5].map(|i| values[i]);
        let pair = PointPair::new(x + w / 2.0, y + h, values[7], values[8]);
        (values[1] as u32, pair, y)
    };
    Some(text.lines().map(row).collect())
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut count) = (0.0, 0.0);
    for value in values {
        sum += value;
        count += 1.0;
    }
    sum / count
}

// OpenCV 5.0's findHomography(map, image, RANSAC, 5.0) on the same 4650 pairs: 4649 inliers, over
// which the root of the mean squared error, which both minimise, is 0.88298 pixels.
#[test]
fn feet_of_pets_are_where_the_truth_puts_them() {
    let Some(rows) = pets() else { return };
    let all: Vec<PointPair> = rows.iter().map(|(_, pair, _)| *pair).collect();
    let found = find_homography(&all, 5.0).unwrap();
    let inliers = found.inlier_errors();
    let squares = mean(inliers.iter().map(|error| error.pixels.powi(2)));
    let metres = mean(found.errors.iter().map(|error| error.map));
    println!(
        "{} of {} inliers: {:.5} pixels, {metres:.5} m",
        inliers.len(),
        all.len(),
        squares.sqrt()
    );
    assert!(inliers.len() >= 4649, "{}", inliers.len());
    assert!(squares.sqrt() < 0.88298, "{squares}");
    assert!(metres < 0.0312, "{metres}");

    // Calibrated with some people, right for others.
    let side = |odd: u32| -> Vec<PointPair> {
        let chosen = rows.iter().filter(|(id, ..)| id % 2 == odd);
        chosen.map(|(_, pair, _)| *pair).collect()
    };
    let half = find_homography(&side(0), 5.0).unwrap();
    let others = half.homography.errors(&side(1));
    let metres = mean(others.iter().map(|error| error.map));
    println!("of other people: {metres:.5} m");
    assert!(metres < 0.05, "{metres}");
}

// No height is in the truth; that people's are those of people is what can be asked.
#[test]
fn people_of_pets_are_as_tall_as_people_are() {
    let Some(rows) = pets() else { return };
    let all: Vec<PointPair> = rows.iter().map(|(_, pair, _)| *pair).collect();
    let mut calibration = Calibration::from_points(&all, 5.0).unwrap();
    calibration.image_size = Some([768.0, 576.0]);
    calibration.estimate_heights().unwrap();
    let view = calibration.view([768.0, 576.0]).unwrap();
    let mut heights = Vec::new();
    for (_, pair, top) in rows.iter().step_by(10) {
        // The height whose head is at the box's upper edge: it rises with the height.
        let (mut low, mut high) = (0.5, 3.0);
        for _ in 0..30 {
            let middle = f64::midpoint(low, high);
            if view.head(pair.map, middle).unwrap().y > *top {
                low = middle;
            } else {
                high = middle;
            }
        }
        heights.push(low);
    }
    heights.sort_by(f64::total_cmp);
    let share = |share: f64| heights[(share * (heights.len() - 1) as f64) as usize];
    let camera = view.height().unwrap();
    println!(
        "camera at {camera:.2} m; people {:.2}, {:.2}, {:.2} m",
        share(0.05),
        share(0.5),
        share(0.95)
    );
    assert!((1.65..1.85).contains(&share(0.5)), "{}", share(0.5));
    assert!(share(0.05) > 1.5 && share(0.95) < 2.05);
}

#[derive(Deserialize)]
struct Sequence {
    frame_width: f64,
    frame_height: f64,
    homography: Vec<Matrix3>,
}

#[test]
fn epfls_homographies_lead_there_and_back() {
    let Some(path) = shared("data/epfl-homographies/metainfo.json") else {
        return;
    };
    let text = fs::read_to_string(path).unwrap();
    let sequences: BTreeMap<String, Sequence> = serde_json::from_str(&text).unwrap();
    let mut cameras = 0;
    for (name, sequence) in sequences {
        let size = [sequence.frame_width, sequence.frame_height];
        for matrix in sequence.homography {
            let view = CameraView::from_homography(matrix, size).unwrap();
            let mut floor = 0;
            for cell in 0..400 {
                let share = [f64::from(cell % 20) / 19.0, f64::from(cell / 20) / 19.0];
                let point = ImagePoint {
                    x: share[0] * size[0],
                    y: share[1] * size[1],
                };
                let Ok(place) = view.to_map(point) else {
                    continue;
                };
                floor += 1;
                let back = view.to_image(place).unwrap();
                let off = (back.x - point.x).hypot(back.y - point.y);
                assert!(off < 1e-5, "{name}: {off} pixels off at {point:?}");
            }
            println!("{name}: floor in {floor} of 400 points");
            assert!(floor >= 100, "{name}: floor in {floor} of 400 points");
            cameras += 1;
        }
    }
    assert_eq!(cameras, 16);
}

fn numbers(path: &str) -> Option<Vec<Vec<f64>>> {
    let text = fs::read_to_string(shared(path)?).unwrap();
    let row = |line: &str| {
        line.split_whitespace()
            .map(|v| v.parse().unwrap())
            .collect()
    };
    Some(
        text.lines()
            .filter(|line| !line.trim().is_empty())
            .map(row)
            .collect(),
    )
}

// CMC1: three people in a room of 7.67 m × 3.41 m × 2.7 m, hardly ever hidden.
#[test]
fn cmcs_cameras_see_people_where_the_truth_puts_them() {
    let Some(path) = shared("data/multicam-cmc/projection_matrices.json") else {
        return;
    };
    let text = fs::read_to_string(path).unwrap();
    let matrices: BTreeMap<String, Projection> = serde_json::from_str(&text).unwrap();
    let Some(truth) = numbers("data/multicam-cmc/CMC1/GT_WORLD_CENTROID.txt") else {
        return;
    };
    assert_eq!(matrices.len(), 4);
    for (camera, matrix) in (1..).zip(matrices.values()) {
        let view = CameraView::from_projection(*matrix, [1920.0, 1024.0]).unwrap();
        let centre = view.centre().unwrap();
        assert!(
            (-0.5..8.2).contains(&centre.x) && (-0.5..3.9).contains(&centre.y),
            "{centre:?}"
        );
        let boxes = numbers(&format!("data/multicam-cmc/CMC1/DET_Cam{camera}.txt")).unwrap();
        let (mut feet, mut heads) = (Vec::new(), Vec::new());
        // Of each person the nearest box: some boxes are of no one.
        for person in &truth {
            let at = MapPoint {
                x: person[7],
                y: person[8],
            };
            let mut nearest: Option<(f64, BBox)> = None;
            for row in boxes.iter().filter(|row| row[0] == person[0]) {
                let [x, y, w, h] = [2, 3, 4, 5].map(|i| row[i] as f32);
                let bbox = BBox::from_tlwh(x, y, w, h);
                let Ok(place) = view.to_map(CameraView::foot_point(&bbox)) else {
                    continue;
                };
                let distance = (at.x - place.x).hypot(at.y - place.y);
                // Feet that are cut off are not to be seen.
                if bbox.y2 < 1010.0 && nearest.is_none_or(|(least, _)| distance < least) {
                    nearest = Some((distance, bbox));
                }
            }
            let Some((distance, bbox)) = nearest else {
                continue;
            };
            feet.push(distance);
            let head = view.head(at, 2.0 * person[12]).unwrap();
            let height = f64::from(bbox.y2 - bbox.y1);
            heads.push((head.y - f64::from(bbox.y1)).abs() / height);
        }
        let median = |values: &mut Vec<f64>| {
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let count = feet.len();
        let (foot, head) = (median(&mut feet), median(&mut heads));
        println!("camera {camera}: {count} boxes, feet {foot:.3} m off, heads {head:.3} heights");
        assert!(count > 100 && foot < 0.35, "{count} boxes, {foot} m");
        assert!(head < 0.15, "{head} of the height");
    }
}
