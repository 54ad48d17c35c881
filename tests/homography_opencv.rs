//! Homographies beside OpenCV's `findHomography`, on the same made-up points.
//!
//! OpenCV's are in `tests/goldens/homography.json`, written by
//! `tests/oracle/homography/make_goldens.py`, which describes them.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use mtmc::homography::{
    Calibration, Estimate, Homography, MapPoint, Matrix3, PointPair, find_by_least_squares,
    find_homography,
};
use serde::Deserialize;

#[derive(Deserialize)]
struct Goldens {
    clean: Vec<Case>,
    noisy: Vec<Case>,
    outliers: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    /// Image x, y, map x, y.
    pairs: Vec<[f64; 4]>,
    /// Map to image.
    truth: Matrix3,
    /// Map to image.
    opencv: Matrix3,
    /// Mean distance of OpenCV's from the truth, in pixels.
    opencv_error: f64,
    /// Indices of points that are anywhere.
    #[serde(default)]
    wrong: Vec<usize>,
}

impl Case {
    fn pairs(&self) -> Vec<PointPair> {
        let pair = |&[u, v, x, y]: &[f64; 4]| PointPair::new(u, v, x, y);
        self.pairs.iter().map(pair).collect()
    }

    /// The points' places and a 9×9 grid over them, as far as it is in front of the camera.
    fn places(&self) -> Vec<MapPoint> {
        let mut places: Vec<[f64; 2]> = self.pairs.iter().map(|p| [p[2], p[3]]).collect();
        let low = |axis: usize| places.iter().map(|p| p[axis]).fold(f64::MAX, f64::min);
        let high = |axis: usize| places.iter().map(|p| p[axis]).fold(f64::MIN, f64::max);
        let (low, high) = ([low(0), low(1)], [high(0), high(1)]);
        for i in 0..81 {
            let at = [f64::from(i / 9) / 8.0, f64::from(i % 9) / 8.0];
            places.push([0, 1].map(|axis| low[axis] + at[axis] * (high[axis] - low[axis])));
        }
        let depth = |p: &[f64; 2]| {
            let [a, b, c] = self.truth[2];
            (a * p[0] + b * p[1] + c).signum()
        };
        let front = depth(&places[0]);
        places.retain(|place| depth(place) == front);
        places.iter().map(|&[x, y]| MapPoint { x, y }).collect()
    }

    /// Mean distance of an estimate from a homography, in pixels.
    fn distance(&self, found: &Estimate, other: &Matrix3) -> f64 {
        let places = self.places();
        let distance = |place: &MapPoint| {
            let a = found.homography.to_image(*place).unwrap();
            let b = other.map(|[x, y, z]| x * place.x + y * place.y + z);
            (a.x - b[0] / b[2]).hypot(a.y - b[1] / b[2])
        };
        places.iter().map(distance).sum::<f64>() / places.len() as f64
    }
}

/// Largest distance on the map, in metres, between what two homographies make of image points.
fn farthest_on_map(case: &Case, found: &Estimate) -> f64 {
    let opencv = Calibration::from_map_matrix(case.opencv).unwrap().matrix;
    let opencv = Homography::at_pairs(&opencv, &case.pairs()).unwrap();
    let distance = |pair: &PointPair| {
        let (a, b) = (
            found.homography.to_map(pair.image),
            opencv.to_map(pair.image),
        );
        let (a, b) = (a.unwrap(), b.unwrap());
        (a.x - b.x).hypot(a.y - b.y)
    };
    case.pairs().iter().map(distance).fold(0.0, f64::max)
}

fn goldens() -> Goldens {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/homography.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn clean_points_give_opencvs_homography() {
    for case in goldens().clean {
        let count = case.pairs.len();
        for found in [
            find_by_least_squares(&case.pairs()).unwrap(),
            find_homography(&case.pairs(), 5.0).unwrap(),
        ] {
            let apart = case.distance(&found, &case.opencv);
            let metres = farthest_on_map(&case, &found);
            println!("{count} points: {apart:.1e} pixels, {metres:.1e} m from OpenCV");
            // Rounded to single precision, even these have noise; OpenCV stops before the end.
            assert!(apart < 1e-5, "{count} points: {apart} pixels");
            assert!(metres < 1e-6, "{count} points: {metres} m");
            assert!(found.inliers.iter().all(|&inlier| inlier));
        }
    }
}

#[test]
fn noisy_points_are_fitted_as_opencv_does() {
    for case in goldens().noisy {
        let found = find_by_least_squares(&case.pairs()).unwrap();
        let (apart, count) = (case.distance(&found, &case.opencv), case.pairs.len());
        let error = case.distance(&found, &case.truth);
        println!(
            "{count} points: {apart:.1e} pixels from OpenCV; error {error:.4}, OpenCV's {:.4}",
            case.opencv_error
        );
        // Both minimise the same sum; OpenCV stops a little before the end.
        assert!(apart < 1e-3, "{count} points: {apart} pixels apart");
        assert!(error < case.opencv_error + 1e-3);
    }
}

#[test]
fn outliers_do_no_more_harm_than_in_opencv() {
    let (mut ours, mut theirs) = (0.0, 0.0);
    for case in goldens().outliers {
        let found = find_homography(&case.pairs(), 5.0).unwrap();
        let error = case.distance(&found, &case.truth);
        println!(
            "{} points, {} wrong: error {error:.3} pixels, OpenCV's {:.3}",
            case.pairs.len(),
            case.wrong.len(),
            case.opencv_error
        );
        ours += error;
        theirs += case.opencv_error;
        // The threshold is five standard deviations: an odd case may differ by a point.
        assert!(error < 1.25 * case.opencv_error + 0.05, "{error}");
        for &wrong in &case.wrong {
            let off = found.errors[wrong].pixels;
            assert_eq!(found.inliers[wrong], off <= 5.0, "point {wrong}");
        }
    }
    assert!(ours <= theirs * 1.001, "{ours} against {theirs}");
}
