//! Training data from outside: layouts, augmentation against torchvision, the loader's promises, the
//! made-up set.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use image::RgbImage;
use mtmc::train::data::synth::{self, Settings};
use mtmc::train::data::{
    Augment, Batch, Draws, JitterFactors, Kind, LoadError, Loader, PkSampler, Rect, TrainSet,
};
use mtmc_models::preprocess::Filter;
use mtmc_models::testing::made_up_image;
use mtmc_tools::dataset::manifest::Manifest;
use mtmc_tools::dataset::market1501::{self, Image};
use mtmc_tools::dataset::pictures::write_jpeg;
use serde::Deserialize;
use tempfile::TempDir;

const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const STD: [f32; 3] = [0.229, 0.224, 0.225];

fn put(root: &Path, name: &str, seed: u32) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    write_jpeg(&path, &made_up_image(16, 32, seed)).unwrap();
}

/// Six training people in two cameras, one of them with an only image in the second.
fn market() -> TempDir {
    let folder = TempDir::new().unwrap();
    for id in 1..=6_u32 {
        for camera in [1, 4] {
            for frame in 1..=3 {
                if id == 6 && camera == 4 && frame > 1 {
                    continue;
                }
                let name = format!(
                    "bounding_box_train/{:04}_c{camera}s1_{frame:06}_00.jpg",
                    id * 7
                );
                put(folder.path(), &name, id * 100 + camera * 10 + frame);
            }
        }
    }
    put(folder.path(), "query/0100_c1s1_000001_00.jpg", 1);
    put(
        folder.path(),
        "bounding_box_test/0100_c2s1_000001_00.jpg",
        2,
    );
    put(folder.path(), "bounding_box_test/-1_c2s1_000001_00.jpg", 3);
    put(
        folder.path(),
        "bounding_box_test/0000_c2s1_000001_00.jpg",
        4,
    );
    folder
}

#[derive(Deserialize)]
struct Goldens {
    every: usize,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    size: (u32, u32),
    seed: u32,
    filter: String,
    flip: bool,
    crop: [u32; 2],
    jitter: Option<[f32; 3]>,
    erase: Option<[u32; 4]>,
    sum: f64,
    every: Vec<f32>,
}

// Oracle: tests/oracle/train_data.py (torchvision on Pillow images, the same parameters).
#[test]
fn augmentation_is_torchvisions() {
    let text = include_str!("goldens/train/augment.json");
    let goldens: Goldens = serde_json::from_str(text).unwrap();
    for case in goldens.cases {
        let mut augment = Augment::strong(MEAN, STD);
        if case.filter == "bicubic" {
            augment.filter = Filter::Bicubic;
        }
        let draws = Draws {
            flip: case.flip,
            crop: case.crop,
            jitter: case
                .jitter
                .map(|[brightness, contrast, saturation]| JitterFactors {
                    brightness,
                    contrast,
                    saturation,
                }),
            erase: case.erase.map(|[left, top, width, height]| Rect {
                left,
                top,
                width,
                height,
            }),
            noise: 0,
        };
        let image = made_up_image(case.size.0, case.size.1, case.seed);
        let mut planes = vec![0.0; augment.len()];
        augment.apply(&image, &draws, &mut planes);
        for (index, expected) in case.every.iter().enumerate() {
            let found = planes[index * goldens.every];
            assert!(
                (found - expected).abs() < 2e-5,
                "seed {}, value {}: {found}, not {expected}",
                case.seed,
                index * goldens.every
            );
        }
        let sum: f64 = planes.iter().map(|value| f64::from(*value)).sum();
        assert!((sum - case.sum).abs() < 0.2, "seed {}: {sum}", case.seed);
    }
}

#[test]
fn a_set_is_labelled_and_says_in_what_it_differs() {
    let folder = market();
    let set = TrainSet::open(folder.path(), Kind::Detect).unwrap();
    assert_eq!(set.kind(), Kind::Market1501);
    assert_eq!(set.people(), [7, 14, 21, 28, 35, 42]);
    assert_eq!(set.cameras(), [1, 4]);
    assert_eq!(set.samples().len(), 34);
    let last = set.samples().last().unwrap().clone();
    assert_eq!((last.label, last.camera), (5, 1));
    let test = set.test().unwrap();
    assert_eq!(
        (test.query.len(), test.gallery.len()),
        (1, 2),
        "junk is left out"
    );
    let warnings = set.warnings().join("\n");
    assert!(
        warnings.contains("Market-1501 has 12936, found 34"),
        "{warnings}"
    );
    assert!(warnings.contains("15913, found 2"), "{warnings}");
}

#[test]
fn people_who_are_held_out_are_not_learnt_from() {
    let folder = market();
    let whole = TrainSet::open(folder.path(), Kind::Detect).unwrap();
    let set = whole.hold_out(0.5, 3).unwrap();
    let probe = set.validation().unwrap();
    let ids = |images: &[Image]| {
        images
            .iter()
            .map(|image| image.name.id)
            .collect::<BTreeSet<_>>()
    };
    let apart = ids(&probe.gallery);
    assert_eq!(apart.len(), 3);
    assert_eq!(set.people().len(), 3);
    assert!(set.people().iter().all(|id| !apart.contains(id)));
    assert_eq!(
        set.samples().iter().map(|sample| sample.label).max(),
        Some(2)
    );
    // A query for each camera with more than one image.
    let lonely = usize::from(apart.contains(&42));
    assert_eq!(probe.query.len(), 6 - lonely);
    let images = probe.query.len() + probe.gallery.len() + set.samples().len();
    assert_eq!(images, 34);
    assert!(whole.hold_out(0.1, 0).is_err() && whole.hold_out(1.0, 0).is_err());
    assert!(whole.hold_out(f64::NAN, 0).is_err());
}

#[test]
fn what_was_prepared_is_read_with_its_own_validation() {
    let folder = market();
    let out = folder.path().join("prepared");
    let options = market1501::Options {
        val_share: 0.34,
        allow_incomplete: true,
        ..market1501::Options::default()
    };
    let decode = |path: &Path| mtmc::source::read_image(path).map_err(|error| error.to_string());
    market1501::prepare(folder.path(), &out, &options, &decode, &()).unwrap();
    let set = TrainSet::open(&out, Kind::Detect).unwrap();
    assert_eq!(set.kind(), Kind::Prepared);
    assert_eq!(set.people().len(), 6, "all are learnt from, as published");
    let held = set.hold_out(0.9, 99).unwrap();
    let own: BTreeSet<i64> = market1501::list_split(&out.join("val"))
        .unwrap()
        .iter()
        .map(|image| image.name.id)
        .collect();
    let found: BTreeSet<i64> = held
        .validation()
        .unwrap()
        .gallery
        .iter()
        .map(|i| i.name.id)
        .collect();
    assert_eq!(found, own);

    let victim = set.samples()[0].path.clone();
    fs::remove_file(&victim).unwrap();
    let error = TrainSet::open(&out, Kind::Detect).unwrap_err().to_string();
    let name = victim.file_name().unwrap().to_string_lossy();
    assert!(
        error.contains(&*name) && error.contains("trainval_labels.csv"),
        "{error}"
    );
}

#[test]
fn duke_is_told_by_its_names() {
    let folder = TempDir::new().unwrap();
    for name in [
        "bounding_box_train/0001_c2_f0046182.jpg",
        "bounding_box_train/0001_c5_f0051341.jpg",
        "bounding_box_train/0020_c1_f0000001.jpg",
        "query/0005_c2_f0046985.jpg",
        "bounding_box_test/0005_c6_f0046985.jpg",
    ] {
        put(folder.path(), name, 1);
    }
    let set = TrainSet::open(folder.path(), Kind::Detect).unwrap();
    assert_eq!(set.kind(), Kind::DukeMtmc);
    assert_eq!(
        (set.people(), set.cameras()),
        (&[1, 20][..], &[1, 2, 5][..])
    );
    assert_eq!(set.test().unwrap().query[0].name.id, 5);
    put(folder.path(), "query/0005_c2s1_000001_00.jpg", 1);
    let error = TrainSet::open(folder.path(), Kind::Detect)
        .unwrap_err()
        .to_string();
    assert!(error.contains("0005_c2s1_000001_00.jpg"), "{error}");
}

#[test]
fn msmt17_is_read_by_its_lists() {
    let folder = TempDir::new().unwrap();
    let root = folder.path().join("MSMT17_V1");
    let list = |name: &str, images: &str, lines: &[&str]| {
        for (line, seed) in lines.iter().zip(0..) {
            put(&root.join(images), line.split(' ').next().unwrap(), seed);
        }
        fs::write(root.join(name), lines.join("\n")).unwrap();
    };
    list(
        "list_train.txt",
        "train",
        &[
            "0000/0000_000_01_0303morning_0008_0.jpg 0",
            "0003/0003_001_14_0303noon_0100_1.jpg 3",
        ],
    );
    list(
        "list_val.txt",
        "train",
        &["0000/0000_005_02_0303morning_0009_0.jpg 0"],
    );
    list(
        "list_query.txt",
        "test",
        &["0000/0000_000_01_0303morning_0008_0.jpg 0"],
    );
    list(
        "list_gallery.txt",
        "test",
        &["0000/0000_009_15_0303morning_0008_0.jpg 0"],
    );
    let set = TrainSet::open(folder.path(), Kind::Detect).unwrap();
    assert_eq!(set.kind(), Kind::Msmt17);
    // Counted from 1 here, so that nobody is a distractor.
    assert_eq!(
        (set.people(), set.cameras()),
        (&[1, 4][..], &[1, 2, 14][..])
    );
    assert_eq!(set.samples().len(), 3);
    assert_eq!(set.test().unwrap().gallery[0].name.camera, 15);

    let lines = "0009/0009_000_01_x_0008_0.jpg 9\n0008/0008_000_01_x_0008_0.jpg 8\n";
    fs::write(root.join("list_gallery.txt"), lines).unwrap();
    let error = TrainSet::open(folder.path(), Kind::Detect)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("0009_000") && error.contains("0008_000"),
        "{error}"
    );
    fs::write(
        root.join("list_query.txt"),
        "../../etc/0000_000_01_x_0008_0.jpg 0\n",
    )
    .unwrap();
    let error = TrainSet::open(folder.path(), Kind::Detect)
        .unwrap_err()
        .to_string();
    assert!(error.contains("list_query.txt, line 1"), "{error}");
}

#[test]
fn other_folders_and_broken_images_are_told() {
    let folder = TempDir::new().unwrap();
    let error = TrainSet::open(folder.path(), Kind::Detect)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("bounding_box_train/") && error.contains("list_train.txt"),
        "{error}"
    );
    let folder = market();
    let set = TrainSet::open(folder.path(), Kind::Detect).unwrap();
    set.verify(&()).unwrap();
    let victims = [
        set.samples()[3].path.clone(),
        set.test().unwrap().query[0].path.clone(),
    ];
    for victim in &victims {
        fs::write(victim, b"no image").unwrap();
    }
    let error = set.verify(&()).unwrap_err().to_string();
    for victim in &victims {
        let name = victim.file_name().unwrap().to_string_lossy();
        assert!(error.contains(&*name), "{error}");
    }
}

fn batches(set: &TrainSet, threads: usize, prefetch: usize, epoch: u64) -> Vec<Batch> {
    let sampler = PkSampler::new(set, 3, 2, 5).unwrap();
    let augment = Augment {
        height: 32,
        width: 16,
        ..Augment::strong(MEAN, STD)
    };
    let loader = Loader::new(set.samples(), augment, threads, prefetch);
    let all: Result<Vec<Batch>, LoadError> = loader.epoch(sampler.epoch(epoch), 5, epoch).collect();
    all.unwrap()
}

#[test]
fn batches_do_not_depend_on_threads_or_on_what_came_before() {
    let folder = market();
    let set = TrainSet::open(folder.path(), Kind::Detect).unwrap();
    let one = batches(&set, 1, 1, 2);
    assert!(one.len() >= 4);
    for (threads, prefetch) in [(2, 1), (3, 2), (8, 50)] {
        assert_eq!(
            batches(&set, threads, prefetch, 2),
            one,
            "{threads} threads"
        );
    }
    assert_ne!(batches(&set, 1, 1, 3), one);
    for batch in &one {
        assert_eq!(batch.len(), 6);
        let tensor = batch.tensor(&candle_core::Device::Cpu).unwrap();
        assert_eq!(tensor.dims(), [6, 3, 32, 16]);
        for (index, (label, camera)) in batch
            .indices
            .iter()
            .zip(batch.labels.iter().zip(&batch.cameras))
        {
            let sample = &set.samples()[*index];
            assert_eq!((sample.label, sample.camera), (*label, *camera));
        }
    }
}

#[test]
fn a_broken_image_ends_the_epoch_with_its_name() {
    let folder = market();
    let set = TrainSet::open(folder.path(), Kind::Detect).unwrap();
    let victim = &set.samples()[4].path;
    fs::write(victim, b"\xFF\xD8\xFF broken").unwrap();
    let loader = Loader::new(set.samples(), Augment::none(MEAN, STD), 2, 3);
    let order = vec![vec![0, 1], vec![2, 3], vec![4, 5], vec![6, 7]];
    let mut found = loader.epoch(order, 0, 0);
    assert_eq!(found.next().unwrap().unwrap().indices, [0, 1]);
    assert!(found.next().unwrap().is_ok());
    let error = found.next().unwrap().unwrap_err().to_string();
    let name = victim.file_name().unwrap().to_string_lossy();
    assert!(error.contains(&*name), "{error}");
    assert!(found.next().is_none());

    let mut found = loader.epoch(vec![vec![0, 9999]], 0, 0);
    assert!(matches!(
        found.next(),
        Some(Err(LoadError::Index { index: 9999, .. }))
    ));
    // Dropped in the middle: threads end, which the test would wait for.
    let mut many = loader.epoch(vec![vec![0, 1, 2, 3]; 500], 0, 0);
    assert!(many.next().unwrap().is_ok());
}

fn settings(seed: u64) -> Settings {
    Settings {
        people: 8,
        train_people: 4,
        images_per_person: 6,
        cameras: 3,
        distractors: 3,
        junk: 2,
        seed,
    }
}

#[test]
fn a_made_up_set_is_one_of_market1501s_and_the_same_again() {
    let folder = TempDir::new().unwrap();
    let files = |name: &str, seed: u64| {
        let out = folder.path().join(name);
        synth::write(&out, &settings(seed), &()).unwrap();
        let manifest = Manifest::read(&out).unwrap();
        serde_json::to_string(&manifest).unwrap()
    };
    let first = files("a", 1);
    assert_eq!(first, files("b", 1));
    assert_ne!(first, files("c", 2));
    let set = TrainSet::open(&folder.path().join("a"), Kind::Detect).unwrap();
    set.verify(&()).unwrap();
    assert_eq!(set.warnings(), &[] as &[String]);
    assert_eq!((set.people().len(), set.samples().len()), (4, 24));
    let test = set.test().unwrap();
    // Four people, three cameras of two pictures each: one asks, one answers.
    assert_eq!((test.query.len(), test.gallery.len()), (12, 12 + 3));
}

/// Mean distance of two pictures' pixels, as far as a network sees them before it has learnt.
fn distance(a: &RgbImage, b: &RgbImage) -> f64 {
    let pairs = a.as_raw().iter().zip(b.as_raw());
    let sum: f64 = pairs
        .map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs())
        .sum();
    sum / a.as_raw().len() as f64
}

// What makes the set worth learning from: pixels alone find the right person in another camera much
// more rarely than not, but more often than chance.
#[test]
fn a_made_up_set_is_neither_trivial_nor_hopeless() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("set");
    let many = Settings {
        people: 34,
        train_people: 4,
        images_per_person: 8,
        cameras: 4,
        distractors: 0,
        junk: 0,
        seed: 3,
    };
    synth::write(&out, &many, &()).unwrap();
    let set = TrainSet::open(&out, Kind::Detect).unwrap();
    let read = |images: &[Image]| -> Vec<RgbImage> {
        let read = images
            .iter()
            .map(|image| mtmc::source::read_image(&image.path).unwrap());
        read.collect()
    };
    let test = set.test().unwrap();
    let (queries, gallery) = (read(&test.query), read(&test.gallery));
    let mut right = 0;
    for (query, image) in test.query.iter().zip(&queries) {
        let others = test.gallery.iter().zip(&gallery);
        let others = others.filter(|(other, _)| other.name.camera != query.name.camera);
        let nearest =
            others.min_by(|(_, a), (_, b)| distance(a, image).total_cmp(&distance(b, image)));
        right += usize::from(nearest.unwrap().0.name.id == query.name.id);
    }
    let share = right as f64 / queries.len() as f64;
    assert!((0.05..0.7).contains(&share), "{share}");
}
