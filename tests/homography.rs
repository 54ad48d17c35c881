//! Calibration and projection on made-up cameras, whose geometry can be worked out by hand.

#![allow(clippy::unwrap_used)]

use std::fs;

use mtmc::homography::{
    Calibration, CalibrationError, CameraView, Homography, ImagePoint, MapPoint, NoMapPoint,
    PointPair, PointsError, Projection, calibration_path, find_by_least_squares, find_homography,
    read_folder,
};
use mtmc_models::BBox;
use proptest::prelude::*;

/// Width and height of the made-up cameras' pictures.
const SIZE: [f64; 2] = [1920.0, 1080.0];

/// A camera over the origin that looks along the map's y axis, down by `tilt`.
#[derive(Debug, Clone, Copy)]
struct Camera {
    focal: f64,
    height: f64,
    /// Radians below the horizontal.
    tilt: f64,
    /// Radians that it is turned on the map, counter-clockwise, and where it hangs.
    turn: f64,
    at: [f64; 2],
}

impl Camera {
    /// The textbook's K·[R | −R·C], by hand for these angles.
    fn projection(&self) -> Projection {
        let (st, ct) = self.tilt.sin_cos();
        let (sp, cp) = self.turn.sin_cos();
        let right = [cp, sp, 0.0];
        let forward = [-sp * ct, cp * ct, -st];
        let down = [sp * st, -cp * st, -ct];
        let row = |focal: f64, axis: [f64; 3], centre: f64| {
            let [a, b, c] = [0, 1, 2].map(|i| focal * axis[i] + centre * forward[i]);
            [
                a,
                b,
                c,
                -(a * self.at[0] + b * self.at[1] + c * self.height),
            ]
        };
        [
            row(self.focal, right, SIZE[0] / 2.0),
            row(self.focal, down, SIZE[1] / 2.0),
            row(0.0, right, 1.0),
        ]
    }

    fn view(&self) -> CameraView {
        CameraView::from_projection(self.projection(), SIZE).unwrap()
    }

    /// Pairs of what is seen at these shares of the picture's width and height.
    fn pairs(&self, shares: &[[f64; 2]]) -> Vec<PointPair> {
        let view = self.view();
        let pair = |[x, y]: &[f64; 2]| {
            let image = ImagePoint {
                x: x * SIZE[0],
                y: y * SIZE[1],
            };
            let map = view.to_map(image).ok()?;
            Some(PointPair { image, map })
        };
        shares.iter().filter_map(pair).collect()
    }
}

/// 20° down from 3 m.
const PLAIN: Camera = Camera {
    focal: 1000.0,
    height: 3.0,
    tilt: 0.349_065_850_398_865_9,
    turn: 0.0,
    at: [0.0, 0.0],
};

fn near(a: f64, b: f64, tolerance: f64) -> bool {
    (a - b).abs() <= tolerance
}

fn point(x: f64, y: f64) -> ImagePoint {
    ImagePoint { x, y }
}

fn place(x: f64, y: f64) -> MapPoint {
    MapPoint { x, y }
}

// The row v is seen tilt + atan((v − 540) / 1000) below the horizontal, so 3 m / tan of that away;
// the horizon is at 540 − 1000·tan 20° = 176.03.
#[test]
fn places_are_where_trigonometry_says() {
    let view = PLAIN.view();
    let centre = view.to_map(point(960.0, 540.0)).unwrap();
    assert!(near(centre.x, 0.0, 1e-9) && near(centre.y, 3.0 / 20_f64.to_radians().tan(), 1e-9));
    let lower = view.to_map(point(960.0, 1080.0)).unwrap();
    let angle = 20_f64.to_radians() + 0.54_f64.atan();
    assert!(near(lower.y, 3.0 / angle.tan(), 1e-9), "{lower:?}");
    assert_eq!(
        view.to_map(point(960.0, 176.0)),
        Err(NoMapPoint::BehindHorizon)
    );
    assert_eq!(
        view.to_map(point(0.0, -500.0)),
        Err(NoMapPoint::BehindHorizon)
    );
    assert!(view.to_map(point(960.0, 176.1)).unwrap().y > 10_000.0);
    for wild in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert_eq!(view.to_map(point(wild, 540.0)), Err(NoMapPoint::NotFinite));
        assert_eq!(view.to_image(place(0.0, wild)), None);
    }
    // Behind the camera.
    assert_eq!(view.to_image(place(0.0, -5.0)), None);
    assert!(!view.sees(place(0.0, -5.0)));
    assert!(view.sees(place(0.0, 8.0)));
    assert!(!view.sees(place(0.0, 2.0)), "below the lower edge");
    assert!(view.to_image(place(0.0, 2.0)).unwrap().y > 1080.0);
}

// Whatever is as high as the camera is seen on the horizon, however far away.
#[test]
fn heads_as_high_as_the_camera_are_on_the_horizon() {
    let view = PLAIN.view();
    let horizon = 540.0 - 1000.0 * 20_f64.to_radians().tan();
    for y in [4.0, 8.0, 20.0, 1000.0] {
        let head = view.head(place(1.0, y), 3.0).unwrap();
        assert!(near(head.y, horizon, 1e-6), "{head:?}");
        let foot = view.to_image(place(1.0, y)).unwrap();
        let sole = view.head(place(1.0, y), 0.0).unwrap();
        assert!(near(sole.x, foot.x, 1e-9) && near(sole.y, foot.y, 1e-9));
    }
    let without = CameraView::from_homography(view.floor().matrix(), SIZE).unwrap();
    assert_eq!(without.head(place(1.0, 8.0), 1.7), None);
    assert_eq!(view.head(place(1.0, -8.0), 1.7), None);
}

#[test]
fn feet_are_the_middle_of_the_lower_edge() {
    let foot = CameraView::foot_point(&BBox::from_tlwh(100.0, 50.0, 40.0, 120.0));
    assert_eq!(foot, point(120.0, 170.0));
}

// A matrix times any factor is the same homography, and a map drawn as its mirror image is one too.
#[test]
fn neither_sign_nor_handedness_matters() {
    let view = PLAIN.view();
    let matrix = view.floor().matrix();
    for factor in [-1.0, 1e-6, -1e6] {
        let scaled = CameraView::from_homography(matrix.map(|row| row.map(|v| v * factor)), SIZE);
        let scaled = scaled.unwrap();
        assert_eq!(
            scaled.to_map(point(500.0, 100.0)),
            Err(NoMapPoint::BehindHorizon)
        );
        let (a, b) = (
            view.to_map(point(500.0, 600.0)),
            scaled.to_map(point(500.0, 600.0)),
        );
        assert!(near(a.unwrap().x, b.unwrap().x, 1e-9));
        let [p, q, r] = PLAIN.projection().map(|row| row.map(|v| v * factor));
        let view = CameraView::from_projection([p, q, r], SIZE).unwrap();
        assert!(view.head(place(0.0, 8.0), 1.7).unwrap().y > 176.0);
    }
    let [x, y, w] = matrix;
    let mirrored = CameraView::from_homography([x.map(|v| -v), y, w], SIZE).unwrap();
    let (a, b) = (
        view.to_map(point(500.0, 600.0)),
        mirrored.to_map(point(500.0, 600.0)),
    );
    assert!(near(a.unwrap().x, -b.unwrap().x, 1e-9));
}

#[test]
fn directions_lead_to_the_camera_and_away() {
    let view = PLAIN.view();
    let without = CameraView::from_homography(view.floor().matrix(), SIZE).unwrap();
    for y in [3.5, 8.0, 30.0] {
        for view in [&view, &without] {
            let [dx, dy] = view.towards_camera(place(0.0, y)).unwrap();
            assert!(near(dx, 0.0, 1e-9) && near(dy, -1.0, 1e-9), "{dx}, {dy}");
        }
        let image = view.to_image(place(0.0, y)).unwrap();
        let [dx, dy] = view.ground_direction(image).unwrap();
        assert!(near(dx, 0.0, 1e-9) && near(dy, 1.0, 1e-9), "{dx}, {dy}");
    }
    let side = view.towards_camera(place(3.0, 4.0)).unwrap();
    assert!(
        near(side[0], -0.6, 1e-9) && near(side[1], -0.8, 1e-9),
        "{side:?}"
    );
    assert_eq!(view.ground_direction(point(960.0, 100.0)), None);
}

#[test]
fn places_outside_the_valid_area_are_none() {
    // An L: the square 0..10 without its upper right quarter.
    let corners = [
        [0.0, 0.0],
        [10.0, 0.0],
        [10.0, 5.0],
        [5.0, 5.0],
        [5.0, 10.0],
        [0.0, 10.0],
    ];
    let view = PLAIN
        .view()
        .with_area(corners.map(|[x, y]| place(x, y)).to_vec());
    assert!(view.in_area(place(1.0, 9.0)) && view.in_area(place(9.0, 1.0)));
    assert!(!view.in_area(place(9.0, 9.0)) && !view.in_area(place(-1.0, 1.0)));
    let hidden = view.to_image(place(6.0, 9.0)).unwrap();
    assert_eq!(view.to_map(hidden), Err(NoMapPoint::OutsideArea));
    assert!(!view.sees(place(6.0, 9.0)) && view.sees(place(2.0, 9.0)));
    assert!(!view.in_area(place(f64::NAN, 1.0)));
}

fn shares() -> impl Strategy<Value = Vec<[f64; 2]>> {
    // One in each quarter of the lower picture, so that four are never on a line, and any others.
    let quarter =
        |x: f64, y: f64| ((x + 0.02)..(x + 0.35), (y + 0.02)..(y + 0.2)).prop_map(|(x, y)| [x, y]);
    let fixed = (
        quarter(0.0, 0.4),
        quarter(0.6, 0.4),
        quarter(0.0, 0.7),
        quarter(0.6, 0.7),
    );
    let more = prop::collection::vec((0.0..1.0, 0.4..1.0).prop_map(|(x, y)| [x, y]), 0..30);
    (fixed, more).prop_map(|((a, b, c, d), more)| [vec![a, b, c, d], more].concat())
}

fn cameras() -> impl Strategy<Value = Camera> {
    let angles = (0.2..1.2, -3.1..3.1);
    (700.0..2500.0, 2.0..12.0, angles, -50.0..50.0, -50.0..50.0).prop_map(
        |(focal, height, (tilt, turn), x, y)| Camera {
            focal,
            height,
            tilt,
            turn,
            at: [x, y],
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn exact_points_give_the_camera_back(camera in cameras(), shares in shares()) {
        let pairs = camera.pairs(&shares);
        prop_assume!(pairs.len() == shares.len());
        for found in [find_homography(&pairs, 5.0), find_by_least_squares(&pairs)] {
            let found = found.unwrap();
            prop_assert!(found.inliers.iter().all(|&inlier| inlier));
            for error in &found.errors {
                prop_assert!(error.pixels < 1e-6, "{:?}", error);
            }
        }
    }

    #[test]
    fn four_in_ten_wrong_points_are_left_out(
        camera in cameras(),
        noise in prop::collection::vec((-1.0..1.0, -1.0..1.0), 30),
        wrong in prop::collection::vec((0.0..1920.0, 0.0..1080.0), 12),
    ) {
        // Spread evenly over the lower part of the picture.
        let shares: Vec<[f64; 2]> = (0..30)
            .map(|i| [f64::from(i % 6) / 6.0 + 0.08, 0.45 + f64::from(i / 6) * 0.12])
            .collect();
        let right = camera.pairs(&shares);
        prop_assume!(right.len() == 30);
        let mut pairs = right.clone();
        for (pair, (dx, dy)) in pairs.iter_mut().zip(noise) {
            pair.image.x += dx;
            pair.image.y += dy;
        }
        for (pair, (x, y)) in pairs.iter_mut().skip(1).step_by(2).zip(wrong) {
            pair.image = ImagePoint { x, y };
        }
        let found = find_homography(&pairs, 5.0).unwrap();
        for (index, error) in found.homography.errors(&right).iter().enumerate() {
            prop_assert!(error.pixels < 8.0, "point {} is {} off", index + 1, error.pixels);
        }
        let inliers = found.inliers.iter().filter(|&&inlier| inlier).count();
        prop_assert!((18..=22).contains(&inliers), "{} inliers", inliers);
    }

    #[test]
    fn heights_are_told_from_the_floor(camera in cameras()) {
        let view = camera.view();
        let alone = CameraView::from_homography(view.floor().matrix(), SIZE).unwrap();
        let told = alone.floor().estimate_projection(SIZE).unwrap();
        let told = alone.with_projection(told).unwrap();
        prop_assert!(near(told.height().unwrap(), camera.height, 1e-6));
        let centre = told.centre().unwrap();
        prop_assert!(near(centre.x, camera.at[0], 1e-6) && near(centre.y, camera.at[1], 1e-6));
        let at = view.to_map(point(1200.0, 800.0)).unwrap();
        let (a, b) = (view.head(at, 1.7).unwrap(), told.head(at, 1.7).unwrap());
        prop_assert!(near(a.x, b.x, 1e-5) && near(a.y, b.y, 1e-5), "{:?} {:?}", a, b);
    }

    #[test]
    fn the_order_of_points_does_not_matter(
        camera in cameras(),
        noise in prop::collection::vec((-4.0..4.0, -4.0..4.0), 34),
        shares in shares(),
        order in Just((0..34_usize).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let mut pairs = camera.pairs(&shares);
        prop_assume!(pairs.len() > 4);
        for (pair, (dx, dy)) in pairs.iter_mut().zip(noise) {
            pair.image.x += dx;
            pair.image.y += dy;
        }
        let order: Vec<usize> = order.into_iter().filter(|&i| i < pairs.len()).collect();
        let shuffled: Vec<PointPair> = order.iter().map(|&i| pairs[i]).collect();
        match (find_homography(&pairs, 5.0), find_homography(&shuffled, 5.0)) {
            (Ok(a), Ok(b)) => {
                prop_assert_eq!(a.homography, b.homography);
                let inliers: Vec<bool> = order.iter().map(|&i| a.inliers[i]).collect();
                prop_assert_eq!(inliers, b.inliers);
            }
            (a, b) => prop_assert_eq!(a.is_ok(), b.is_ok()),
        }
    }

    #[test]
    fn there_and_back_is_where_it_began(
        camera in cameras(),
        x in -500.0..2500.0_f64,
        y in -500.0..2000.0_f64,
    ) {
        let view = camera.view();
        if let Ok(place) = view.to_map(point(x, y)) {
            // Near the horizon places are far away and digits few.
            let far = 1.0 + place.x.hypot(place.y) * 1e-3;
            let back = view.to_image(place).unwrap();
            prop_assert!((back.x - x).hypot(back.y - y) < 1e-6 * far, "{:?}", back);
        }
    }

    #[test]
    fn slopes_are_those_of_small_steps(camera in cameras(), x in 0.0..1920.0, y in 600.0..1080.0) {
        let view = camera.view();
        let at = view.to_map(point(x, y)).unwrap();
        let slopes = view.jacobian(at).unwrap();
        let step = 1e-5;
        let moved = [place(at.x + step, at.y), place(at.x, at.y + step)].map(|p| view.to_image(p).unwrap());
        for (axis, seen) in moved.iter().enumerate() {
            let along = [(seen.x - x) / step, (seen.y - y) / step];
            for row in 0..2 {
                prop_assert!(near(slopes[row][axis], along[row], 1e-2 * (1.0 + along[row].abs())));
            }
        }
        // What a pixel is on the map, is the inverse of what a map unit is in pixels: the product
        // of both determinants is 1.
        let covariance = view.covariance(point(x, y), 2.0).unwrap();
        let spread = covariance[0][0] * covariance[1][1] - covariance[0][1] * covariance[1][0];
        let determinant = slopes[0][0] * slopes[1][1] - slopes[0][1] * slopes[1][0];
        prop_assert!(near(spread * determinant * determinant, 16.0, 1e-6));
        prop_assert_eq!(covariance[0][1], covariance[1][0]);
    }
}

fn pairs(rows: &[[f64; 4]]) -> Vec<PointPair> {
    rows.iter()
        .map(|&[u, v, x, y]| PointPair::new(u, v, x, y))
        .collect()
}

#[test]
fn points_that_fix_nothing_are_refused_with_the_reason() {
    let square = [
        [0.0, 0.0, 0.0, 0.0],
        [100.0, 0.0, 1.0, 0.0],
        [100.0, 100.0, 1.0, 1.0],
    ];
    let with = |more: &[[f64; 4]]| pairs(&[&square, more].concat());
    let line: Vec<PointPair> = (0..6)
        .map(|i| {
            let t = f64::from(i);
            PointPair::new(100.0 * t, 50.0 * t, t, t * t)
        })
        .collect();
    let mut straight_but_one = line.clone();
    straight_but_one[3].image.y += 40.0;
    let cases = [
        (
            pairs(&square),
            "3 point pairs; a homography needs at least 4",
        ),
        (
            with(&[square[1], square[1]]),
            "only 3 different points in the image in 5 pairs",
        ),
        (
            with(&[[0.0, 100.0, 1.0, 1.0]]),
            "only 3 different points on the map in 4 pairs",
        ),
        (line, "all points in the image lie on one line"),
        (
            straight_but_one,
            "all points in the image but number 4 lie on one line",
        ),
        (
            with(&[[0.0, 100.0, 0.5, 0.5]]),
            "all points on the map but number 2 lie on one line",
        ),
        (
            with(&[[50.0, 50.01, 0.0, 1.0]]),
            "all points in the image but number 2 lie on one line",
        ),
        (
            with(&[[0.0, f64::NAN, 0.0, 1.0]]),
            "point pair 4: NaN is not a coordinate",
        ),
        (with(&[[0.0, 100.0, 1e300, 1.0]]), "is not a coordinate"),
        // The corners of a square in another order: a camera would have to see through itself.
        (with(&[[0.0, 100.0, 0.5, -1.0]]), "are two of them swapped?"),
    ];
    for (points, expected) in cases {
        let error = find_homography(&points, 5.0).unwrap_err().to_string();
        assert!(error.contains(expected), "{points:?}: {error}");
    }
    assert!(matches!(
        find_homography(&PLAIN.pairs(&[]), 0.0),
        Err(PointsError::Threshold { .. })
    ));
}

#[test]
fn points_that_do_not_agree_are_refused_with_the_worst_named() {
    let shares = [[0.1, 0.5], [0.9, 0.5], [0.1, 0.9], [0.9, 0.9], [0.5, 0.7]];
    let mut points = PLAIN.pairs(&shares);
    points[4].image.x += 60.0;
    let error = find_homography(&points, 5.0).unwrap_err();
    let PointsError::NoConsensus { count: 5, most, .. } = error else {
        panic!("{error}");
    };
    assert!(most > 5.0);
    // With one more right point there is a majority.
    points.extend(PLAIN.pairs(&[[0.3, 0.8]]));
    let found = find_homography(&points, 5.0).unwrap();
    assert_eq!(found.inliers, [true, true, true, true, false, true]);
    assert!(near(found.errors[4].pixels, 60.0, 1e-6));
}

#[test]
fn matrices_without_inverse_are_no_homographies() {
    let floor = point(0.0, 0.0);
    let flat = [[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [0.0, 0.0, 1.0]];
    assert_eq!(Homography::new(&flat, floor), None);
    assert_eq!(Homography::new(&[[f64::NAN; 3]; 3], floor), None);
    // The horizon runs through the floor.
    let crossed = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 0.0]];
    assert_eq!(Homography::new(&crossed, floor), None);
    let error = Calibration::from_matrix(flat).unwrap_err().to_string();
    assert!(error.contains("`matrix` has no inverse"), "{error}");
    assert!(Calibration::from_projection([[1.0; 4]; 3]).is_err());
}

// Straight down, every focal length shows the same.
#[test]
fn heights_that_the_floor_does_not_tell_are_not_invented() {
    let down = [[0.01, 0.0, 0.0], [0.0, -0.01, 10.0], [0.0, 0.0, 1.0]];
    let mut calibration = Calibration::from_matrix(down).unwrap();
    let error = calibration.estimate_heights().unwrap_err().to_string();
    assert!(error.contains("`image_size`"), "{error}");
    calibration.image_size = Some(SIZE);
    let error = calibration.estimate_heights().unwrap_err();
    assert!(matches!(error, CalibrationError::NoHeights), "{error}");
    assert_eq!(calibration.projection, None);
    let mut told = calibrated();
    told.estimate_heights().unwrap();
    assert!(near(told.view(SIZE).unwrap().height().unwrap(), 3.0, 1e-6));
    // Mirrored maps have a floor below the camera too.
    let [x, y, w] = told.matrix;
    let mut mirrored = Calibration::from_matrix([x.map(|v| -v), y, w]).unwrap();
    mirrored.image_size = Some(SIZE);
    mirrored.estimate_heights().unwrap();
    let view = mirrored.view(SIZE).unwrap();
    assert!(near(view.height().unwrap(), 3.0, 1e-6));
    let head = view.head(place(0.0, 8.0), 1.7).unwrap();
    assert!(head.y < view.to_image(place(0.0, 8.0)).unwrap().y);
}

fn calibrated() -> Calibration {
    let shares = [
        [0.1, 0.5],
        [0.9, 0.5],
        [0.1, 0.9],
        [0.9, 0.9],
        [0.5, 0.7],
        [0.3, 0.6],
    ];
    let mut calibration = Calibration::from_points(&PLAIN.pairs(&shares), 5.0).unwrap();
    calibration.image_size = Some(SIZE);
    calibration
}

fn same_matrix(a: &Calibration, b: &Calibration) -> bool {
    let pairs = a.matrix.iter().flatten().zip(b.matrix.iter().flatten());
    pairs
        .into_iter()
        .all(|(a, b)| near(*a, *b, 1e-12 * (1.0 + a.abs())))
}

#[test]
fn files_are_read_as_they_were_written() {
    let mut written = calibrated();
    written.valid_area = vec![place(-5.0, 0.0), place(5.0, 0.0), place(0.0, 20.0)];
    written.projection = Some(PLAIN.projection());
    written
        .other
        .insert("surveyed_by".to_string(), serde_json::json!(["A", 2]));
    let text = written.to_json("c09").unwrap();
    let read = Calibration::parse(&text, 5.0).unwrap();
    assert_eq!(read.warnings, Vec::<String>::new());
    assert!(same_matrix(&read.calibration, &written));
    assert_eq!(read.calibration.points.len(), 6);
    assert_eq!(read.calibration.valid_area, written.valid_area);
    assert_eq!(read.calibration.other, written.other);
    assert!(
        read.calibration
            .view(SIZE)
            .unwrap()
            .head(place(0.0, 8.0), 1.7)
            .is_some()
    );
}

// As the requirement document prints it: its matrix and its points are not of one camera.
#[test]
fn a_matrix_that_contradicts_its_points_is_used_with_a_warning() {
    let text = r#"{
        "matrix": [[1.2, 0.1, -45.6], [0.05, 1.1, -12.3], [0.0001, 0.0002, 1.0]],
        "matrix_available": true,
        "calibration_points": {
            "image_points": [[100, 200], [300, 150], [250, 400], [450, 380]],
            "map_points": [[10.5, 20.2], [30.1, 18.7], [25.3, 40.8], [45.2, 38.5]]
        }
    }"#;
    let read = Calibration::parse(text, 5.0).unwrap();
    assert!(
        read.warnings[0].contains("disagree: 4 of 4 points"),
        "{:?}",
        read.warnings
    );
    assert!(
        read.warnings[1].contains("no `image_size`"),
        "{:?}",
        read.warnings
    );
    assert_eq!(read.calibration.matrix[0], [1.2, 0.1, -45.6]);
    // The points alone fix another.
    for text in [
        text.replace(
            "\"matrix\": [[1.2, 0.1, -45.6], [0.05, 1.1, -12.3], [0.0001, 0.0002, 1.0]],",
            "",
        ),
        text.replace(
            "[[1.2, 0.1, -45.6], [0.05, 1.1, -12.3], [0.0001, 0.0002, 1.0]]",
            "null",
        ),
    ] {
        let alone = Calibration::parse(&text, 5.0).unwrap();
        assert!(alone.calibration.error_summary().unwrap().max_pixels < 1e-9);
        assert!(alone.calibration.other.contains_key("matrix_available"));
    }
}

#[test]
fn smaller_frames_of_the_same_camera_show_the_same_places() {
    let mut calibration = calibrated();
    calibration.projection = Some(PLAIN.projection());
    let (full, half) = (
        calibration.view(SIZE).unwrap(),
        calibration.view([960.0, 540.0]).unwrap(),
    );
    let a = full.to_map(point(700.0, 800.0)).unwrap();
    let b = half.to_map(point(350.0, 400.0)).unwrap();
    assert!(near(a.x, b.x, 1e-9) && near(a.y, b.y, 1e-9));
    let (a, b) = (full.head(a, 1.7).unwrap(), half.head(a, 1.7).unwrap());
    assert!(near(a.x, 2.0 * b.x, 1e-9) && near(a.y, 2.0 * b.y, 1e-9));
    let error = calibration.view([640.0, 480.0]).unwrap_err();
    assert!(
        matches!(error, CalibrationError::Proportions { .. }),
        "{error}"
    );
    calibration.image_size = None;
    assert!(calibration.view([640.0, 480.0]).is_ok());
}

#[test]
fn files_that_make_no_sense_say_where() {
    let good = calibrated().to_json("c09").unwrap();
    let cases = [
        ("{}".to_string(), "neither `matrix` nor"),
        ("{\n\"matrix\": [[1,2,3],[4,5,6]]}".to_string(), "at line 2"),
        (
            r#"{"matrix": [[1,2,3],[2,4,6],[0,0,1]]}"#.to_string(),
            "`matrix` has no inverse",
        ),
        (
            r#"{"matrix": [[1,0,0],[0,1,0],[0,0,1]], "image_size": [0, 5]}"#.to_string(),
            "`image_size`",
        ),
        (
            r#"{"matrix": [[1,0,0],[0,1,0],[0,0,1]], "valid_area": [[0,0],[1,1]]}"#.to_string(),
            "`valid_area`",
        ),
        (
            r#"{"matrix": [[1,0,0],[0,1,0],[0,0,1]], "valid_area": [[0,0],[1,1],[2,2]]}"#
                .to_string(),
            "no area",
        ),
        (
            r#"{"calibration_points": {"image_points": [[1,2]], "map_points": []}}"#.to_string(),
            "1 image points, but 0 map points",
        ),
        (
            r#"{"calibration_points": {"image_points": [[1,2]], "map_points": [[1,2]]}}"#
                .to_string(),
            "1 point pairs",
        ),
        (
            good.replacen("true", "false,\ntrue", 1),
            "7 entries for 6 points",
        ),
        (good[..good.len() / 2].to_string(), "EOF"),
    ];
    for (text, expected) in cases {
        let error = Calibration::parse(&text, 5.0).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
    let bounds = r#"{"matrix": [[1,0,0],[0,1,0],[0,0,1]],
        "valid_area": {"x_min": 0, "x_max": 2, "y_min": 1, "y_max": 3}}"#;
    let area = Calibration::parse(bounds, 5.0)
        .unwrap()
        .calibration
        .valid_area;
    assert_eq!(
        area,
        [[0.0, 1.0], [2.0, 1.0], [2.0, 3.0], [0.0, 3.0]].map(|[x, y]| place(x, y))
    );
}

#[test]
fn a_camera_whose_file_is_bad_does_not_stop_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let write = |camera: &str, text: &str| {
        fs::write(calibration_path(folder.path(), camera).unwrap(), text).unwrap();
    };
    write("c09", &calibrated().to_json("c09").unwrap());
    write("c12", "{ not JSON");
    write("c13", &calibrated().to_json("c16").unwrap());
    fs::write(folder.path().join("README.md"), "not a camera").unwrap();
    fs::write(folder.path().join("_homography.json"), "no name").unwrap();
    let found = read_folder(folder.path(), 5.0).unwrap();
    let names: Vec<&str> = found.keys().map(String::as_str).collect();
    assert_eq!(names, ["c09", "c12", "c13"]);
    assert!(found["c09"].as_ref().unwrap().warnings.is_empty());
    let error = found["c12"].as_ref().unwrap_err().to_string();
    assert!(
        error.contains("c12_homography.json") && error.contains("line 1"),
        "{error}"
    );
    let warnings = &found["c13"].as_ref().unwrap().warnings;
    assert!(warnings[0].contains("`c16`"), "{warnings:?}");
    let missing = read_folder(&folder.path().join("none"), 5.0).unwrap_err();
    assert!(matches!(missing, CalibrationError::Io { .. }));
    for name in ["", "../c09", "a/b", ".hidden", "a\nb"] {
        assert!(calibration_path(folder.path(), name).is_err(), "{name}");
    }
}
