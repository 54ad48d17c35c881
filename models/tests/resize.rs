//! The resizes against OpenCV's and Pillow's own output (`tests/oracle/resize/make_goldens.py`).

#![allow(clippy::unwrap_used)]

use image::RgbImage;
use mtmc_models::preprocess::{Filter, resize_opencv_bilinear, resize_pil};
use serde_json::Value;

/// The oracle's made-up picture.
fn picture(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let value =
            |c: u32| ((x * 7 + y * 13 + c * 29 + (x * y) % 31 * (c + 1) + x * x / 5) % 256) as u8;
        image::Rgb([value(0), value(1), value(2)])
    })
}

/// Largest difference from the golden's values.
fn worst(found: &RgbImage, golden: &Value) -> i64 {
    let expected = golden["every_7th"].as_array().unwrap();
    let found: Vec<i64> = found.as_raw().iter().map(|v| i64::from(*v)).collect();
    let sampled = found.iter().step_by(7);
    assert_eq!(expected.len(), sampled.len());
    let pairs = expected.iter().zip(sampled);
    pairs
        .map(|(e, f)| (e.as_i64().unwrap() - f).abs())
        .max()
        .unwrap()
}

fn sum(image: &RgbImage) -> i64 {
    image.as_raw().iter().map(|v| i64::from(*v)).sum()
}

#[test]
fn resizes_equal_their_origins() {
    let text = include_str!("../../tests/goldens/resize.json");
    let goldens: Value = serde_json::from_str(text).unwrap();
    for case in goldens["cases"].as_array().unwrap() {
        let side = |key: &str, index: usize| case[key][index].as_u64().unwrap() as u32;
        let image = picture(side("source", 0), side("source", 1));
        let (width, height) = (side("target", 0), side("target", 1));
        let context = format!("{:?} -> {width}x{height}", image.dimensions());

        let found = resize_opencv_bilinear(&image, width, height);
        assert!(worst(&found, &case["opencv"]) <= 1, "opencv {context}");

        for (filter, key) in [
            (Filter::Bilinear, "pil_bilinear"),
            (Filter::Bicubic, "pil_bicubic"),
        ] {
            let found = resize_pil(&image, width, height, filter);
            assert_eq!(worst(&found, &case[key]), 0, "{key} {context}");
            assert_eq!(
                sum(&found),
                case[key]["sum"].as_i64().unwrap(),
                "{key} {context}"
            );
        }
        println!(
            "{context}: opencv off by {}, sum by {}",
            worst(
                &resize_opencv_bilinear(&image, width, height),
                &case["opencv"]
            ),
            sum(&resize_opencv_bilinear(&image, width, height))
                - case["opencv"]["sum"].as_i64().unwrap()
        );
    }
}
