//! Camera motion found in pictures, against motions that are known.

#![allow(clippy::unwrap_used)]

use image::{Rgb, RgbImage};
use mtmc::tracker::camera_motion::{
    CameraMotion, MotionEstimator, MotionMethod, MotionOutcome, MotionSettings, StillReason,
};
use mtmc_models::BBox;
use proptest::prelude::*;

const WIDTH: u32 = 480;
const HEIGHT: u32 = 360;

/// A number in 0..1 for each point of a lattice.
fn lattice(x: i64, y: i64, seed: u64) -> f64 {
    let mut z = seed
        .wrapping_add((x as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15))
        .wrapping_add((y as u64).wrapping_mul(0xC2B2_AE3D_27D4_EB4F));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

/// Smooth noise in 0..1 with a lattice of `side` pixels; defined between the pixels too, so that a
/// scene can be seen under any motion without interpolating a picture.
fn noise(x: f64, y: f64, side: f64, seed: u64) -> f64 {
    let (x, y) = (x / side, y / side);
    let (left, top) = (x.floor(), y.floor());
    let ease = |t: f64| t * t * (3.0 - 2.0 * t);
    let (right, down) = (ease(x - left), ease(y - top));
    let (left, top) = (left as i64, top as i64);
    let at = |dx, dy| lattice(left + dx, top + dy, seed);
    let upper = at(0, 0) + right * (at(1, 0) - at(0, 0));
    let lower = at(0, 1) + right * (at(1, 1) - at(0, 1));
    upper + down * (lower - upper)
}

/// The scene of `seed` as seen after `motion`.
fn scene(motion: &CameraMotion, seed: u64) -> RgbImage {
    let back = motion.inverse().unwrap();
    RgbImage::from_fn(WIDTH, HEIGHT, |x, y| {
        let (x, y) = back.apply(f64::from(x), f64::from(y));
        let value = 0.5 * noise(x, y, 37.0, seed)
            + 0.3 * noise(x, y, 13.0, seed + 1)
            + 0.2 * noise(x, y, 7.0, seed + 2);
        Rgb([(value * 255.0) as u8; 3])
    })
}

/// Rotation (degrees) and scale about the middle of the frame, then a shift.
fn similarity(angle: f64, scale: f64, shift: (f64, f64)) -> CameraMotion {
    let (sin, cos) = angle.to_radians().sin_cos();
    let (a, b) = (scale * cos, scale * sin);
    let (x, y) = (f64::from(WIDTH) / 2.0, f64::from(HEIGHT) / 2.0);
    CameraMotion {
        rows: [
            [a, -b, x - a * x + b * y + shift.0],
            [b, a, y - b * x - a * y + shift.1],
        ],
    }
}

/// How far apart two motions put the corners of a frame, on average, in pixels.
fn corner_distance(a: &CameraMotion, b: &CameraMotion) -> f64 {
    let (width, height) = (f64::from(WIDTH), f64::from(HEIGHT));
    let corners = [(0.0, 0.0), (width, 0.0), (0.0, height), (width, height)];
    let distance = |(x, y): (f64, f64)| {
        let (p, q) = (a.apply(x, y), b.apply(x, y));
        (p.0 - q.0).hypot(p.1 - q.1)
    };
    corners.map(distance).iter().sum::<f64>() / 4.0
}

fn estimator(method: MotionMethod) -> MotionEstimator {
    MotionEstimator::new(method, MotionSettings::default()).unwrap()
}

/// The motion that is found from the scene as it is to the scene after `motion`.
fn found(method: MotionMethod, motion: &CameraMotion, seed: u64) -> (CameraMotion, MotionOutcome) {
    let mut estimator = estimator(method);
    estimator.next(&scene(&CameraMotion::STILL, seed), &[]);
    let found = estimator.next(&scene(motion, seed), &[]);
    (found, estimator.last().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Motions as of a camera in the hand.
    #[test]
    fn similarities_are_found(
        (angle, scale) in (-2.0..2.0_f64, 0.97..1.03_f64),
        shift in (-15.0..15.0_f64, -15.0..15.0_f64),
        seed in 0..1000_u64,
    ) {
        let truth = similarity(angle, scale, shift);
        let (flow, outcome) = found(MotionMethod::SparseFlow, &truth, seed);
        prop_assert_eq!(outcome, MotionOutcome::Estimated);
        prop_assert!(corner_distance(&flow, &truth) < 0.1, "{:?}", flow);
        let (orb, outcome) = found(MotionMethod::Orb, &truth, seed);
        prop_assert_eq!(outcome, MotionOutcome::Estimated);
        prop_assert!(corner_distance(&orb, &truth) < 0.15, "{:?}", orb);
    }

    /// Aligning all pixels knows no scale.
    #[test]
    fn rotations_and_shifts_are_aligned(
        angle in -2.0..2.0_f64,
        shift in (-15.0..15.0_f64, -15.0..15.0_f64),
        seed in 0..1000_u64,
    ) {
        let truth = similarity(angle, 1.0, shift);
        let (ecc, outcome) = found(MotionMethod::Ecc, &truth, seed);
        prop_assert_eq!(outcome, MotionOutcome::Estimated);
        prop_assert!(corner_distance(&ecc, &truth) < 0.1, "{:?}", ecc);
    }
}

const METHODS: [MotionMethod; 3] = [
    MotionMethod::SparseFlow,
    MotionMethod::Orb,
    MotionMethod::Ecc,
];

#[test]
fn the_same_frames_give_the_same_motions() {
    let truth = similarity(1.0, 1.0, (4.0, -3.0));
    for method in METHODS {
        let first = found(method, &truth, 5).0;
        assert_eq!(first, found(method, &truth, 5).0);
        // Also in an estimator that has seen other frames.
        let mut used = estimator(method);
        for seed in [7, 8, 9] {
            used.next(&scene(&CameraMotion::STILL, seed), &[]);
        }
        used.next(&scene(&CameraMotion::STILL, 5), &[]);
        assert_eq!(first, used.next(&scene(&truth, 5), &[]));
    }
}

/// Two thirds of the picture go their own way, under masks.
#[test]
fn people_do_not_move_the_camera() {
    let crowd = |shift: f64| {
        let mut frame = scene(&CameraMotion::STILL, 1);
        let other = scene(&similarity(0.0, 1.0, (shift, shift)), 99);
        for (x, y, pixel) in frame.enumerate_pixels_mut() {
            if x >= WIDTH / 3 {
                *pixel = *other.get_pixel(x, y);
            }
        }
        frame
    };
    let people = [BBox::from_xyxy(
        WIDTH as f32 / 3.0 - 12.0,
        0.0,
        WIDTH as f32,
        HEIGHT as f32,
    )];
    for method in METHODS {
        let mut masked = estimator(method);
        masked.next(&crowd(0.0), &people);
        let motion = masked.next(&crowd(6.0), &people);
        assert_eq!(masked.last(), Some(MotionOutcome::Estimated), "{method}");
        let distance = corner_distance(&motion, &CameraMotion::STILL);
        assert!(distance < 0.3, "{method}: {distance} {motion:?}");
        // Unmasked, the crowd decides: the test would notice masks that do nothing.
        let mut bare = estimator(method);
        bare.next(&crowd(0.0), &[]);
        let motion = bare.next(&crowd(6.0), &[]);
        assert!(
            corner_distance(&motion, &CameraMotion::STILL) > 1.0,
            "{method}"
        );
    }
}

#[test]
fn what_cannot_be_told_is_still_and_counted() {
    let textured = scene(&CameraMotion::STILL, 3);
    let flat = RgbImage::from_pixel(WIDTH, HEIGHT, Rgb([90; 3]));
    let small = RgbImage::new(WIDTH / 2, HEIGHT);
    let tiny = RgbImage::new(9, 500);
    let all = [BBox::from_xyxy(-1.0, -1.0, 1e9, 1e9)];
    for method in METHODS {
        let mut estimator = estimator(method);
        let mut outcomes = Vec::new();
        let frames: [(&RgbImage, &[BBox]); 8] = [
            (&textured, &[]),
            (&small, &[]),
            (&flat, &[]),
            (&flat, &[]),
            (&textured, &all),
            (&textured, &[]),
            (&tiny, &[]),
            (&textured, &[]),
        ];
        for (frame, people) in frames {
            assert!(estimator.next(frame, people).is_still(), "{method}");
            let Some(MotionOutcome::Still(reason)) = estimator.last() else {
                panic!("{method}: {:?}", estimator.last());
            };
            outcomes.push(reason);
        }
        let nothing_found = match method {
            MotionMethod::Ecc => StillReason::NoConsensus,
            _ => StillReason::FewCorners,
        };
        let expected = [
            StillReason::FirstFrame,
            StillReason::SizeChanged,
            StillReason::SizeChanged,
            nothing_found,
            nothing_found,
            nothing_found,
            StillReason::FrameTooSmall,
            StillReason::FirstFrame,
        ];
        assert_eq!(outcomes, expected, "{method}");
        let counts = estimator.counts();
        assert_eq!((counts.estimated, counts.first_frame), (0, 2));
        assert_eq!((counts.size_changed, counts.frame_too_small), (2, 1));
        assert_eq!(counts.few_corners + counts.no_consensus, 3);
    }
}

/// A cut to another scene is no motion.
#[test]
fn other_scenes_are_no_motion() {
    for method in METHODS {
        let mut estimator = estimator(method);
        estimator.next(&scene(&CameraMotion::STILL, 3), &[]);
        for seed in 10..14 {
            let motion = estimator.next(&scene(&CameraMotion::STILL, seed), &[]);
            assert!(motion.is_still(), "{method}: {motion:?}");
        }
    }
}

#[test]
fn without_a_method_nothing_moves() {
    let mut estimator = estimator(MotionMethod::None);
    estimator.next(&scene(&CameraMotion::STILL, 3), &[]);
    let moved = scene(&similarity(0.0, 1.0, (5.0, 5.0)), 3);
    assert!(estimator.next(&moved, &[]).is_still());
    assert_eq!(estimator.last(), None);
}

#[test]
fn methods_have_names() {
    for method in MotionMethod::ALL {
        assert_eq!(method.name().parse(), Ok(method));
    }
    let message = "sift".parse::<MotionMethod>().unwrap_err();
    assert!(message.contains("sparse_flow"), "{message}");
}

#[test]
fn settings_out_of_range_are_named() {
    let bad = MotionSettings {
        ransac_threshold: f64::NAN,
        ..MotionSettings::default()
    };
    let error = MotionEstimator::new(MotionMethod::Orb, bad).unwrap_err();
    assert_eq!(error.setting, "ransac_threshold");
    let bad = MotionSettings {
        downscale: 0,
        ..MotionSettings::default()
    };
    assert_eq!(bad.validate().unwrap_err().setting, "downscale");
}
