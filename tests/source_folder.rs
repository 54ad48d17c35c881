//! A folder of images in: order, numbers, broken files, MOT Challenge sequences.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use image::{Rgb, RgbImage};
use mtmc::source::{self, FolderSource, Frame, FrameSource, OpenOptions};
use mtmc_models::testing::shared;

fn write_jpeg(path: &Path, grey: u8, width: u16, height: u16) {
    let pixels = vec![grey; usize::from(width) * usize::from(height) * 3];
    jpeg_encoder::Encoder::new_file(path, 95)
        .unwrap()
        .encode(&pixels, width, height, jpeg_encoder::ColorType::Rgb)
        .unwrap();
}

fn all(source: &mut dyn FrameSource) -> Vec<Frame> {
    let mut frames = Vec::new();
    while let Some(frame) = source.next_frame().unwrap() {
        frames.push(frame);
    }
    frames
}

fn open(path: &Path) -> Result<FolderSource, source::SourceError> {
    FolderSource::open(path, &OpenOptions::default())
}

#[test]
fn images_come_in_natural_order_and_the_rest_is_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for (name, grey) in [("f10.jpg", 100), ("f9.JPG", 90), ("f100.jpeg", 200)] {
        write_jpeg(&root.join(name), grey, 32, 24);
    }
    RgbImage::from_pixel(32, 24, Rgb([95, 95, 95]))
        .save(root.join("f9b.png"))
        .unwrap();
    std::fs::write(root.join("notes.txt"), "no image").unwrap();
    std::fs::create_dir(root.join("f1.jpg")).unwrap();

    let mut source = open(root).unwrap();
    assert_eq!(source.info().frame_count, Some(4));
    assert_eq!(source.info().frame_rate, Some(30.0));
    assert_eq!(source.info().size, (32, 24));
    let frames = all(&mut source);
    let greys: Vec<u8> = frames
        .iter()
        .map(|frame| frame.image.get_pixel(5, 5)[1])
        .collect();
    assert_eq!(greys, [90, 95, 100, 200]);
    let numbers: Vec<u64> = frames.iter().map(|frame| frame.number).collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
    assert!((frames[3].timestamp.as_secs_f64() - 0.1).abs() < 1e-9);
    assert_eq!(source.skipped().count, 0);
}

#[test]
fn a_broken_image_is_skipped_and_keeps_its_number() {
    let folder = tempfile::tempdir().unwrap();
    for number in 1..=5_u8 {
        write_jpeg(
            &folder.path().join(format!("{number}.jpg")),
            number * 20,
            64,
            48,
        );
    }
    let third = folder.path().join("3.jpg");
    let bytes = std::fs::read(&third).unwrap();
    std::fs::write(&third, &bytes[..bytes.len() / 2]).unwrap();
    std::fs::write(folder.path().join("1.jpg"), b"").unwrap();

    let mut source = open(folder.path()).unwrap();
    assert_eq!(source.info().size, (64, 48));
    let numbers: Vec<u64> = all(&mut source).iter().map(|frame| frame.number).collect();
    assert_eq!(numbers, [2, 4, 5]);
    let skipped = source.skipped();
    assert_eq!(skipped.count, 2);
    assert_eq!(skipped.examples[0].number, 1);
    assert!(skipped.examples[0].reason.contains("1.jpg"), "{skipped:?}");
    assert_eq!(skipped.examples[1].number, 3);
    assert!(
        skipped.examples[1].reason.contains("cut short"),
        "{skipped:?}"
    );
}

#[test]
fn nothing_to_read_is_an_error_that_names_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().display().to_string();
    let error = open(folder.path()).unwrap_err().to_string();
    assert!(
        error.contains(&name) && error.contains("no images"),
        "{error}"
    );
    std::fs::write(folder.path().join("a.jpg"), b"not an image").unwrap();
    std::fs::write(folder.path().join("b.jpg"), b"nor this").unwrap();
    let error = open(folder.path()).unwrap_err().to_string();
    assert!(
        error.contains(&name) && error.contains("none of the 2 images"),
        "{error}"
    );
    let missing = folder.path().join("missing");
    assert!(open(&missing).is_err());
}

#[test]
fn images_of_different_sizes_are_frames_of_different_sizes() {
    let folder = tempfile::tempdir().unwrap();
    write_jpeg(&folder.path().join("1.jpg"), 50, 64, 48);
    write_jpeg(&folder.path().join("2.jpg"), 50, 30, 90);
    let mut source = open(folder.path()).unwrap();
    assert_eq!(source.info().size, (64, 48));
    let sizes: Vec<_> = all(&mut source)
        .iter()
        .map(|frame| frame.image.dimensions())
        .collect();
    assert_eq!(sizes, [(64, 48), (30, 90)]);
}

#[test]
fn mot_challenge_sequences_are_known() {
    let folder = tempfile::tempdir().unwrap();
    let sequence = folder.path().join("here");
    std::fs::create_dir_all(sequence.join("img1")).unwrap();
    let seqinfo = "[Sequence]\nname=PETS09-S2L1\nimDir=img1\nframeRate=7\nimExt=.jpg\n";
    std::fs::write(sequence.join("seqinfo.ini"), seqinfo).unwrap();
    write_jpeg(&sequence.join("img1/000001.jpg"), 50, 64, 48);
    for path in [sequence.clone(), sequence.join("img1")] {
        let source = open(&path).unwrap();
        assert_eq!(source.info().name, "PETS09-S2L1");
        assert_eq!(source.info().frame_rate, Some(7.0));
        assert_eq!(source.info().frame_count, Some(1));
    }
    // What is asked for wins; an unusable rate is not taken.
    let options = |rate| OpenOptions {
        frame_rate: Some(rate),
        ..OpenOptions::default()
    };
    let rate = |rate| {
        FolderSource::open(&sequence, &options(rate))
            .unwrap()
            .info()
            .frame_rate
    };
    assert_eq!(rate(12.5), Some(12.5));
    assert_eq!(rate(f64::NAN), Some(30.0));
}

#[test]
fn the_jpeg_is_kept_when_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("only.jpg");
    write_jpeg(&path, 50, 64, 48);
    let options = OpenOptions {
        keep_jpeg: true,
        ..OpenOptions::default()
    };
    // A single image is a source of one frame.
    let mut source = source::open(path.to_str().unwrap(), &options).unwrap();
    assert_eq!(source.info().name, "only");
    let frame = source.next_frame().unwrap().unwrap();
    assert_eq!(frame.jpeg.unwrap(), std::fs::read(&path).unwrap());
    assert!(source.next_frame().unwrap().is_none());
}

/// Real photographs; the mean absolute differences to OpenCV 4 (libjpeg-turbo) stay below
/// half a grey level. Checksums would differ: the two decoders round differently.
#[test]
fn real_photographs_are_read() {
    let Some(folder) = shared("data/detect-images/ultralytics") else {
        return;
    };
    let mut source = open(&folder).unwrap();
    let frames = all(&mut source);
    assert_eq!(source.skipped().count, 0);
    let sizes: Vec<_> = frames
        .iter()
        .map(|frame| frame.image.dimensions())
        .collect();
    assert!(
        sizes.contains(&(810, 1080)),
        "bus.jpg is 810x1080; got {sizes:?}"
    );
}
