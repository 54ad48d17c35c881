//! Preparation of MOT17 on a made-up copy of it, and on the real truth where it lies around.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use mtmc_models::testing::shared;
use mtmc_tools::dataset::DataError;
use mtmc_tools::dataset::manifest::Manifest;
use mtmc_tools::dataset::mot17::{Metadata, Options, prepare};
use serde_json::Value;
use tempfile::TempDir;

/// The training sequences and their lengths, as the benchmark's site lists them.
const SEQUENCES: [(&str, u64); 7] = [
    ("02", 600),
    ("04", 1050),
    ("05", 837),
    ("09", 525),
    ("10", 654),
    ("11", 900),
    ("13", 750),
];

/// Two people, one of them partly outside of 64×48 pixels, an ignored one, a car, one outside.
const TRUTH: &str = "\
    1,1,10,10,8,20,1,1,0.75\n\
    1,2,-4,30,10,30,1,1,0.5\n\
    2,1,11,10,8,20,1,1,1\n\
    2,3,5,5,4,4,0,1,0.25\n\
    2,4,20,20,9,9,0,3,1\n\
    3,2,70,10,8,20,1,1,0.1\n";

fn seqinfo(name: &str, frames: u64) -> String {
    format!(
        "[Sequence]\nname={name}\nimDir=img1\nframeRate=30\nseqLength={frames}\nimWidth=64\n\
         imHeight=48\nimExt=.jpg\n"
    )
}

/// A sequence whose images hold their number: preparation does not decode them.
fn make_sequence(train: &Path, name: &str, frames: u64) -> PathBuf {
    let folder = train.join(name);
    fs::create_dir_all(folder.join("gt")).unwrap();
    fs::create_dir_all(folder.join("img1")).unwrap();
    fs::write(folder.join("seqinfo.ini"), seqinfo(name, frames)).unwrap();
    fs::write(folder.join("gt/gt.txt"), TRUTH).unwrap();
    for frame in 1..=frames {
        let path = folder.join(format!("img1/{frame:06}.jpg"));
        fs::write(path, format!("{name} {frame}")).unwrap();
    }
    folder
}

fn incomplete() -> Options {
    Options {
        allow_incomplete: true,
        ..Options::default()
    }
}

fn run(source: &Path, options: Options) -> (Result<Metadata, DataError>, TempDir) {
    let out = TempDir::new().unwrap();
    let result = prepare(source, &out.path().join("mot17"), options, &());
    (result, out)
}

fn json(out: &TempDir, file: &str) -> Value {
    let path = out.path().join("mot17/annotations").join(file);
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

// The counts are the published ones; those of the halves follow from ByteTrack's cut at n/2 + 1.
#[test]
fn the_whole_benchmark_is_split_as_published() {
    let source = TempDir::new().unwrap();
    for (number, frames) in SEQUENCES {
        make_sequence(
            &source.path().join("train"),
            &format!("MOT17-{number}-FRCNN"),
            frames,
        );
    }
    // Copies with other detections, and the test set, are passed over.
    make_sequence(&source.path().join("train"), "MOT17-02-DPM", 1);
    make_sequence(&source.path().join("test"), "MOT17-01-FRCNN", 1);
    let (result, out) = run(source.path(), Options::default());
    let metadata = result.unwrap();
    assert_eq!(metadata.warnings, [""; 0]);
    let images = |split: &str| metadata.splits[split].images;
    assert_eq!((images("train"), images("val")), (3666, 1650));
    let halves: u64 = SEQUENCES.iter().map(|(_, n)| n / 2 + 1).sum();
    assert_eq!(
        (images("train_half"), images("val_half")),
        (halves, 5316 - halves)
    );
    assert_eq!(
        metadata.splits["val"].sequences,
        ["MOT17-11-FRCNN", "MOT17-13-FRCNN"]
    );
    assert_eq!(metadata.splits["val_half"].boxes, 0);

    let val = json(&out, "val.json");
    let first = &val["images"][0];
    assert_eq!(first["file_name"], "val/MOT17-11-FRCNN/000001.jpg");
    // Behind sequences 02, 04, 05, 09 and 10.
    assert_eq!(first["id"], 600 + 1050 + 837 + 525 + 654 + 1);
    let image = out
        .path()
        .join("mot17/images/val/MOT17-11-FRCNN/000001.jpg");
    assert_eq!(fs::read_to_string(image).unwrap(), "MOT17-11-FRCNN 1");

    let folder = out.path().join("mot17");
    let manifest = Manifest::read(&folder).unwrap();
    assert_eq!(manifest.files.len(), 5316 + 5);
    assert!(manifest.verify(&folder, &()).unwrap().is_good());
}

// By hand from `TRUTH`.
#[test]
fn boxes_keep_flag_and_visibility_and_stay_inside() {
    let source = TempDir::new().unwrap();
    make_sequence(source.path(), "MOT17-02-FRCNN", 4);
    make_sequence(source.path(), "MOT17-13-FRCNN", 4);
    let (result, out) = run(source.path(), incomplete());
    let metadata = result.unwrap();
    assert_eq!(metadata.warnings.len(), 7, "{:?}", metadata.warnings);
    let counts = &metadata.sequences[0];
    assert_eq!(
        (counts.boxes, counts.tracks, counts.ignored_boxes),
        (4, 3, 1)
    );
    assert_eq!((counts.boxes_cut, counts.boxes_outside), (1, 1));
    assert_eq!(counts.other_classes[&3], 1);
    assert!((counts.mean_visibility - 0.625).abs() < 1e-12);

    let train = json(&out, "train.json");
    let annotations = train["annotations"].as_array().unwrap();
    assert_eq!(annotations.len(), 4);
    assert_eq!(
        annotations[1]["bbox"],
        serde_json::json!([0.0, 30.0, 6.0, 18.0])
    );
    assert_eq!(annotations[1]["area"], 108.0);
    assert_eq!(annotations[1]["visibility"], 0.5);
    assert_eq!(annotations[3]["consider"], false);
    assert_eq!(annotations[3]["iscrowd"], 1);
    assert_eq!(train["categories"][0]["name"], "pedestrian");
    // Identities of two sequences are told apart.
    let val = json(&out, "val.json");
    let tracks = |json: &Value| -> Vec<u64> {
        let list = json["annotations"].as_array().unwrap();
        list.iter()
            .map(|a| a["track_id"].as_u64().unwrap())
            .collect()
    };
    assert_eq!(tracks(&train), [1, 2, 1, 3]);
    assert_eq!(tracks(&val), [4, 5, 4, 6]);
    assert_eq!(val["annotations"][0]["mot_id"], 1);
    // Frames 1 to 3 are the first half of 4.
    assert_eq!(
        json(&out, "train_half.json")["images"]
            .as_array()
            .unwrap()
            .len(),
        6
    );
    assert_eq!(json(&out, "val_half.json")["images"][0]["frame_id"], 4);
}

#[test]
fn incomplete_sets_are_refused_with_what_was_expected() {
    let source = TempDir::new().unwrap();
    make_sequence(source.path(), "MOT17-02-FRCNN", 4);
    let (result, out) = run(source.path(), Options::default());
    let error = result.unwrap_err().to_string();
    assert!(
        error.contains("MOT17-02-FRCNN: 600 frames expected, 4 found"),
        "{error}"
    );
    assert!(
        error.contains("MOT17-13-FRCNN: missing (750 frames)"),
        "{error}"
    );
    // Nothing half done is left behind.
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0);

    let nothing = TempDir::new().unwrap();
    fs::write(nothing.path().join("MOT17.zip"), b"").unwrap();
    let error = run(nothing.path(), incomplete()).0.unwrap_err().to_string();
    assert!(
        error.contains("MOT17.zip") && error.contains("gt/gt.txt"),
        "{error}"
    );
}

#[test]
fn missing_files_are_told_all_at_once() {
    let source = TempDir::new().unwrap();
    let one = make_sequence(source.path(), "MOT17-02-FRCNN", 4);
    let two = make_sequence(source.path(), "MOT17-04-FRCNN", 4);
    for name in ["000002.jpg", "000004.jpg"] {
        fs::remove_file(one.join("img1").join(name)).unwrap();
    }
    fs::write(one.join("img1/000003.jpg"), b"").unwrap();
    fs::write(one.join("img1/000005.jpg"), b"x").unwrap();
    fs::remove_dir_all(two.join("img1")).unwrap();
    let error = run(source.path(), incomplete()).0.unwrap_err().to_string();
    for part in [
        "MOT17-02-FRCNN/img1/000002.jpg: missing",
        "MOT17-02-FRCNN/img1/000004.jpg: missing",
        "MOT17-02-FRCNN/img1/000003.jpg: empty",
        "MOT17-02-FRCNN/img1/000005.jpg: beyond seqLength=4",
        "MOT17-04-FRCNN/img1: no such folder",
    ] {
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }

    fs::remove_file(one.join("seqinfo.ini")).unwrap();
    fs::remove_file(two.join("gt/gt.txt")).unwrap();
    let error = run(source.path(), incomplete()).0.unwrap_err().to_string();
    assert!(
        error.contains("MOT17-02-FRCNN/seqinfo.ini, MOT17-04-FRCNN/gt/gt.txt"),
        "{error}"
    );
}

#[test]
fn damaged_truth_is_named_by_file_and_line() {
    let source = TempDir::new().unwrap();
    let folder = make_sequence(source.path(), "MOT17-02-FRCNN", 4);
    let truth = folder.join("gt/gt.txt");
    for (text, part) in [
        ("1,1,NaN,10,8,20,1,1,1\n", "line 1: column 3"),
        ("1,1,10,10,8,20,1,1,1\n1,2,10,10\n", "line 2: 4 columns"),
        ("5,1,10,10,8,20,1,1,1\n", "seqLength=4"),
    ] {
        fs::write(&truth, text).unwrap();
        let error = run(source.path(), incomplete()).0.unwrap_err().to_string();
        assert!(error.contains("gt.txt") && error.contains(part), "{error}");
    }
    fs::write(&truth, TRUTH).unwrap();
    fs::write(folder.join("seqinfo.ini"), seqinfo("MOT17-04-FRCNN", 4)).unwrap();
    let error = run(source.path(), incomplete()).0.unwrap_err().to_string();
    assert!(error.contains("in the folder MOT17-02-FRCNN"), "{error}");
}

#[test]
fn a_filled_folder_is_not_overwritten() {
    let source = TempDir::new().unwrap();
    make_sequence(source.path(), "MOT17-02-FRCNN", 4);
    let out = TempDir::new().unwrap();
    fs::write(out.path().join("mine"), b"").unwrap();
    let error = prepare(source.path(), out.path(), incomplete(), &()).unwrap_err();
    assert!(error.to_string().contains("already"), "{error}");
    assert!(out.path().join("mine").exists());
}

/// The real truth, under the names that the benchmark gives its folders.
fn real() -> Option<TempDir> {
    let source = TempDir::new().unwrap();
    for number in ["02", "05", "09", "11"] {
        let from = shared(&format!("data/mot17/MOT17-{number}"))?;
        let to = source.path().join(format!("MOT17-{number}-FRCNN"));
        fs::create_dir_all(to.join("gt")).unwrap();
        fs::copy(from.join("seqinfo.ini"), to.join("seqinfo.ini")).unwrap();
        fs::copy(from.join("gt/gt.txt"), to.join("gt/gt.txt")).unwrap();
    }
    Some(source)
}

// Boxes and identities are TrackEval's GT_Dets and GT_IDs of trackeval-expected.csv, which counts
// the same boxes: pedestrians with flag 1.
#[test]
fn the_real_truth_gives_the_official_counts() {
    let Some(source) = real() else { return };
    let options = Options {
        allow_incomplete: true,
        without_images: true,
    };
    let (result, out) = run(source.path(), options);
    let metadata = result.unwrap();
    let expected = shared("data/mot17/trackeval-expected.csv").unwrap();
    let text = fs::read_to_string(expected).unwrap();
    let mut lines = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let header = lines.next().unwrap();
    let column = |name: &str| header.iter().position(|h| *h == name).unwrap();
    let (boxes, ids) = (column("GT_Dets"), column("GT_IDs"));
    let mut compared = 0;
    for line in lines {
        let Some(found) = metadata
            .sequences
            .iter()
            .find(|s| s.name.starts_with(line[0]))
        else {
            continue;
        };
        assert_eq!(
            found.boxes - found.ignored_boxes,
            line[boxes].parse::<u64>().unwrap(),
            "{line:?}"
        );
        assert_eq!(found.tracks, line[ids].parse::<u64>().unwrap(), "{line:?}");
        compared += 1;
    }
    assert_eq!(compared, 4);

    let mut annotations = 0;
    for split in ["train.json", "val.json"] {
        let coco = json(&out, split);
        for annotation in coco["annotations"].as_array().unwrap() {
            let image = annotation["image_id"].as_u64().unwrap();
            let images = coco["images"].as_array().unwrap();
            let image = &images[(image - images[0]["id"].as_u64().unwrap()) as usize];
            assert_eq!(image["id"], annotation["image_id"]);
            let bbox: Vec<f64> = serde_json::from_value(annotation["bbox"].clone()).unwrap();
            let (width, height) = (
                image["width"].as_f64().unwrap(),
                image["height"].as_f64().unwrap(),
            );
            assert!(bbox[0] >= 0.0 && bbox[0] + bbox[2] <= width, "{annotation}");
            assert!(
                bbox[1] >= 0.0 && bbox[1] + bbox[3] <= height,
                "{annotation}"
            );
            annotations += 1;
        }
    }
    assert_eq!(
        annotations,
        metadata.sequences.iter().map(|s| s.boxes).sum::<u64>()
    );
}
