//! Re-ID metrics against torchreid's, their properties, and the command.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use mtmc::eval::reid::{
    Distance, Evaluation, Features, Metrics, Options, Ranked, ReidError, RerankOptions,
};
use mtmc_models::testing::{made_up_description, made_up_image, made_up_weights};
use mtmc_models::{Description, expected_tensors};
use proptest::prelude::*;
use serde_json::Value;
use tempfile::TempDir;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/goldens/reid")
        .join(name)
}

fn evaluate(query: &Features, gallery: &Features, options: Options) -> Result<Metrics, ReidError> {
    Evaluation::new(query, gallery, options, &mut |_, _, _| ())?.metrics(&mut |_, _, _| ())
}

fn options(golden: &Value) -> Options {
    let rerank = golden["rerank"].as_array().map(|values| RerankOptions {
        k1: values[0].as_u64().unwrap() as usize,
        k2: values[1].as_u64().unwrap() as usize,
        lambda: values[2].as_f64().unwrap(),
    });
    let distance = match golden["distance"].as_str().unwrap() {
        "cosine" => Distance::Cosine,
        _ => Distance::Euclidean,
    };
    Options { distance, rerank }
}

fn close(ours: f64, expected: &Value, what: &str) {
    let expected = expected.as_f64().unwrap();
    // Distances of torchreid are f32 and up to about 100.
    let bound = 1e-6 * expected.abs().max(1.0);
    assert!(
        (ours - expected).abs() <= bound,
        "{what}: {ours}, torchreid {expected}"
    );
}

// tests/oracle/reid/make_goldens.py: torchreid's ranking and re-ranking of the same features.
// `clusters` has junk and distractors, `signs` is full of equal distances, `few` has a gallery
// smaller than the ranks, a query that is only in its own camera and one that is nowhere.
#[test]
fn figures_equal_torchreids() {
    let text = std::fs::read_to_string(golden("expected.json")).unwrap();
    let expected: Value = serde_json::from_str(&text).unwrap();
    for (case, results) in expected.as_object().unwrap() {
        let side =
            |name: &str| Features::read(&golden(&format!("{case}-{name}.safetensors"))).unwrap();
        let (query, gallery) = (side("query"), side("gallery"));
        for golden in results.as_array().unwrap() {
            let options = options(golden);
            let what = format!("{case} {options:?}");
            let evaluation = Evaluation::new(&query, &gallery, options, &mut |_, _, _| ()).unwrap();
            let metrics = evaluation.metrics(&mut |_, _, _| ()).unwrap();
            for (rank, value) in (1..).zip(golden["cmc"].as_array().unwrap()) {
                close(metrics.rank(rank), value, &format!("{what} rank {rank}"));
            }
            close(metrics.map, &golden["map"], &format!("{what} mAP"));
            close(metrics.minp, &golden["minp"], &format!("{what} mINP"));
            assert_eq!(metrics.queries as u64, golden["queries"], "{what}");
            assert_eq!(metrics.queries + metrics.unmatched, query.len(), "{what}");
            compare_distances(&evaluation, &gallery, golden, &what);
        }
    }
}

/// The distances of the first query, in the gallery's order without junk.
fn compare_distances(evaluation: &Evaluation<'_>, gallery: &Features, golden: &Value, what: &str) {
    let rows = golden["first_row"].as_array().unwrap();
    let kept: Vec<usize> = (0..gallery.len())
        .filter(|row| gallery.ids()[*row] != -1)
        .collect();
    assert_eq!(kept.len(), rows.len());
    let ranked = evaluation.nearest(0, gallery.len()).unwrap();
    assert!(ranked.len() > 3, "{what}");
    for Ranked {
        gallery, distance, ..
    } in ranked
    {
        let place = kept.binary_search(&gallery).unwrap();
        let what = format!("{what}: distance to gallery image {gallery}");
        close(f64::from(distance), &rows[place], &what);
    }
}

fn features(values: &[[f32; 2]], ids: &[i64], cameras: &[i64]) -> Features {
    Features::new(values.concat(), 2, ids.to_vec(), cameras.to_vec()).unwrap()
}

// By hand: equal distances rank in the gallery's order; junk and the query's own camera are passed
// over. The list is [ID 2, ID 1, ID 1], so AP = (1/2 + 2/3) / 2 and INP = 2/3.
#[test]
fn ties_junk_and_the_same_camera() {
    let query = features(&[[1.0, 0.0]], &[1], &[1]);
    let gallery = features(
        &[[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [2.0, 0.0], [0.0, 1.0]],
        &[-1, 1, 2, 1, 1],
        &[3, 1, 1, 2, 2],
    );
    let metrics = evaluate(&query, &gallery, Options::default()).unwrap();
    assert_eq!((metrics.gallery, metrics.junk), (4, 1));
    assert_eq!((metrics.rank(1), metrics.rank(2)), (0.0, 1.0));
    assert!((metrics.map - 7.0 / 12.0).abs() < 1e-12);
    assert!((metrics.minp - 2.0 / 3.0).abs() < 1e-12);
    let evaluation =
        Evaluation::new(&query, &gallery, Options::default(), &mut |_, _, _| ()).unwrap();
    let rows: Vec<usize> = evaluation
        .nearest(0, 10)
        .unwrap()
        .iter()
        .map(|one| one.gallery)
        .collect();
    assert_eq!(rows, [2, 3, 4]);
}

#[test]
fn what_cannot_be_measured_is_an_error() {
    let query = features(&[[1.0, 0.0]], &[1], &[1]);
    // ID 1 is in camera 1 alone.
    let gallery = features(&[[1.0, 0.0], [0.0, 1.0]], &[1, 2], &[1, 2]);
    let error = evaluate(&query, &gallery, Options::default()).unwrap_err();
    assert!(
        matches!(error, ReidError::NoMatch { queries: 1 }),
        "{error}"
    );
    let wide = Features::new(vec![1.0; 3], 3, vec![1], vec![2]).unwrap();
    let error = evaluate(&query, &wide, Options::default()).unwrap_err();
    assert!(matches!(error, ReidError::Dimensions { .. }), "{error}");
    let junk = features(&[[1.0, 0.0]], &[-1], &[2]);
    let error = evaluate(&query, &junk, Options::default()).unwrap_err();
    assert!(matches!(error, ReidError::Empty), "{error}");
    for (row, what) in [
        ([0.0, 0.0], "row 1 is zero"),
        ([f32::NAN, 0.0], "row 1 holds NaN"),
        ([f32::INFINITY, 0.0], "row 1 holds NaN or infinity"),
        ([1e20, 0.0], "row 1 has a length"),
    ] {
        let values = [[1.0, 0.0], row].concat();
        let error = Features::new(values, 2, vec![1, 2], vec![1, 2]).unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
    }
    assert!(Features::new(vec![1.0; 5], 2, vec![1, 2], vec![1, 2]).is_err());
}

/// Images of `people` in two cameras; what is drawn is not equal to anything else.
fn images(count: usize, people: i64) -> impl Strategy<Value = Features> {
    let values = prop::collection::vec(-1.0_f32..1.0, count * 5);
    let ids = prop::collection::vec(1..=people, count);
    let cameras = prop::collection::vec(1..=2_i64, count);
    (values, ids, cameras).prop_filter_map("no zero features", |(values, ids, cameras)| {
        Features::new(values, 5, ids, cameras).ok()
    })
}

fn any_options() -> impl Strategy<Value = Options> {
    let distance = prop_oneof![Just(Distance::Cosine), Just(Distance::Euclidean)];
    let rerank = prop::option::of((1..8_usize, 1..5_usize, 0.0..=1.0_f64));
    (distance, rerank).prop_map(|(distance, rerank)| Options {
        distance,
        rerank: rerank.map(|(k1, k2, lambda)| RerankOptions { k1, k2, lambda }),
    })
}

/// Rows in another order.
fn permuted(features: &Features, values: &[f32], order: &[usize]) -> Features {
    let dim = features.dim();
    let rows = order.iter().flat_map(|row| &values[row * dim..][..dim]);
    Features::new(
        rows.copied().collect(),
        dim,
        order.iter().map(|row| features.ids()[*row]).collect(),
        order.iter().map(|row| features.cameras()[*row]).collect(),
    )
    .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn figures_are_fractions_and_the_curve_rises(
        query in images(9, 4),
        gallery in images(30, 5),
        options in any_options(),
    ) {
        let Ok(metrics) = evaluate(&query, &gallery, options) else { return Ok(()) };
        prop_assert!(metrics.cmc.windows(2).all(|pair| pair[0] <= pair[1]));
        prop_assert_eq!(metrics.cmc.len(), 30);
        prop_assert!((metrics.cmc[29] - 1.0).abs() < 1e-12);
        for value in [metrics.map, metrics.minp, metrics.rank(1)] {
            prop_assert!((0.0..=1.0).contains(&value));
        }
    }

    #[test]
    fn the_gallerys_order_does_not_matter(
        query in images(6, 4),
        values in prop::collection::vec(-1.0_f32..1.0, 25 * 5),
        ids in prop::collection::vec(-1..=5_i64, 25),
        cameras in prop::collection::vec(1..=3_i64, 25),
        order in Just((0..25).collect::<Vec<usize>>()).prop_shuffle(),
        distance in prop_oneof![Just(Distance::Cosine), Just(Distance::Euclidean)],
    ) {
        let options = Options { distance, rerank: None };
        let gallery = Features::new(values.clone(), 5, ids, cameras);
        prop_assume!(gallery.is_ok());
        let gallery = gallery.unwrap();
        let shuffled = permuted(&gallery, &values, &order);
        let one = evaluate(&query, &gallery, options);
        let other = evaluate(&query, &shuffled, options);
        match (one, other) {
            (Ok(one), Ok(other)) => prop_assert_eq!(one, other),
            (one, other) => prop_assert!(one.is_err() && other.is_err()),
        }
    }

    #[test]
    fn reranking_by_the_original_distance_alone_changes_nothing(
        query in images(6, 4),
        gallery in images(25, 5),
        distance in prop_oneof![Just(Distance::Cosine), Just(Distance::Euclidean)],
        k1 in 1..30_usize,
        k2 in 1..30_usize,
    ) {
        let plain = Options { distance, rerank: None };
        let rerank = Some(RerankOptions { k1, k2, lambda: 1.0 });
        let (one, other) = (
            evaluate(&query, &gallery, plain),
            evaluate(&query, &gallery, Options { distance, rerank }),
        );
        match (one, other) {
            (Ok(one), Ok(other)) => prop_assert_eq!(one, other),
            (one, other) => prop_assert!(one.is_err() && other.is_err()),
        }
    }

    #[test]
    fn perfect_features_are_measured_as_such(
        ids in prop::collection::vec(0..8_usize, 20),
        options in any_options(),
    ) {
        // Each person is one direction; every person of the gallery is asked for from camera 1.
        let one_hot = |ids: &[usize], camera| {
            let mut values = vec![0.0; ids.len() * 8];
            for (row, id) in ids.iter().enumerate() {
                values[row * 8 + id] = 1.0;
            }
            let people = ids.iter().map(|id| *id as i64).collect();
            Features::new(values, 8, people, vec![camera; ids.len()]).unwrap()
        };
        let metrics = evaluate(&one_hot(&ids, 1), &one_hot(&ids, 2), options).unwrap();
        prop_assert_eq!(metrics.rank(1), 1.0);
        prop_assert!((metrics.map - 1.0).abs() < 1e-12);
        prop_assert!((metrics.minp - 1.0).abs() < 1e-12);
    }
}

fn mtmc(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mtmc"));
    // What the caller's environment sets must not reach the tests.
    for (name, _) in std::env::vars() {
        if name.starts_with("MTMC_") || name == "REID_MODEL_PATH" {
            command.env_remove(name);
        }
    }
    command.args(["eval", "reid"]).args(arguments);
    command.output().unwrap()
}

fn json(arguments: &[&str]) -> Value {
    let output = mtmc(arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn error(arguments: &[&str]) -> String {
    let output = mtmc(arguments);
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_command_measures_files_alike_on_any_number_of_threads() {
    let query = golden("clusters-query.safetensors").display().to_string();
    let gallery = golden("clusters-gallery.safetensors").display().to_string();
    let files = ["--query", &query, "--gallery", &gallery];
    for more in [
        &["--json"][..],
        &["--json", "--rerank", "--distance", "euclidean"],
    ] {
        let one = json(&[&files, more, &["--threads", "1"]].concat());
        let three = json(&[&files, more, &["--threads", "3"]].concat());
        assert_eq!(one, three);
        assert_eq!(one["queries"], 20);
        assert_eq!(one["dim"], 12);
        assert_eq!(one["rank5"], one["cmc"][4]);
    }
    let reranked = json(&[&files[..], &["--json", "--rerank"]].concat());
    // The golden of `clusters`, cosine, re-ranked with the defaults.
    close(
        reranked["map"].as_f64().unwrap(),
        &0.604_271_337.into(),
        "mAP",
    );
    let output = mtmc(&files);
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(
        table.contains("rank-1") && table.contains("52.73"),
        "{table}"
    );
    assert!(table.contains("as junk"), "{table}");
}

#[test]
fn the_command_says_what_is_wrong() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let good = golden("few-query.safetensors").display().to_string();
    std::fs::write(path("text.safetensors"), "no features").unwrap();
    let message = error(&["--query", &path("text.safetensors"), "--gallery", &good]);
    assert!(
        message.contains("text.safetensors") && message.contains("not a readable"),
        "{message}"
    );
    let message = error(&["--query", &good, "--gallery", &path("none.safetensors")]);
    assert!(message.contains("none.safetensors"), "{message}");
    let message = error(&[]);
    assert!(
        message.contains("--data") && message.contains("--query"),
        "{message}"
    );
    let message = error(&[
        "--query",
        &good,
        "--gallery",
        &good,
        "--rerank",
        "--k1",
        "0",
    ]);
    assert!(message.contains("k1 must be 1 to 500"), "{message}");

    use candle_core::{Device, Tensor};
    let save = |features: Tensor, ids: &[i64]| {
        let ids = Tensor::new(ids, &Device::Cpu).unwrap();
        let tensors = std::collections::HashMap::from([
            ("features", features),
            ("ids", ids.clone()),
            ("cameras", ids),
        ]);
        candle_core::safetensors::save(&tensors, path("bad.safetensors")).unwrap();
        error(&["--query", &path("bad.safetensors"), "--gallery", &good])
    };
    let rows = |values: &[[f32; 2]]| {
        Tensor::from_vec(values.concat(), (values.len(), 2), &Device::Cpu).unwrap()
    };
    let message = save(rows(&[[1.0, 0.0], [0.0, f32::NAN]]), &[1, 2]);
    assert!(
        message.contains("bad.safetensors") && message.contains("row 1 holds NaN"),
        "{message}"
    );
    let message = save(rows(&[[0.0, 0.0]]), &[1]);
    assert!(message.contains("row 0 is zero"), "{message}");
    let message = save(rows(&[[1.0, 0.0]]), &[1, 2]);
    assert!(message.contains("do not belong together"), "{message}");
    let message = save(Tensor::new(&[1.0_f64, 2.0], &Device::Cpu).unwrap(), &[1]);
    assert!(
        message.contains("`features`") && message.contains("[2] of f64"),
        "{message}"
    );
}

/// Two made-up people in two cameras, somebody else and junk, in Market-1501's layout.
fn data_set(folder: &Path) {
    save_images(
        folder,
        &[
            ("query/0001_c1s1_000001_00.png", 1, false),
            ("query/0002_c1s1_000002_00.png", 2, false),
            ("bounding_box_test/-1_c2s1_000003_00.png", 2, false),
            ("bounding_box_test/0000_c2s1_000004_00.png", 3, false),
            ("bounding_box_test/0001_c2s1_000005_00.png", 1, true),
            ("bounding_box_test/0002_c2s1_000006_00.png", 2, true),
            ("bounding_box_test/0001_c1s1_000007_00.png", 1, false),
        ],
    );
}

/// Made-up images by name and seed; those marked as another camera's are a little brighter.
fn save_images(folder: &Path, images: &[(&str, u32, bool)]) {
    for (name, seed, other) in images {
        let mut image = made_up_image(64, 128, *seed);
        if *other {
            for value in image.iter_mut() {
                *value = value.saturating_add(5);
            }
        }
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        image.save(path).unwrap();
    }
}

/// A small OSNet with made-up weights.
fn save_weights(path: &str) {
    let description = Description {
        input_height: 128,
        input_width: 64,
        classes: vec![],
        ..made_up_description("osnet-x0.25")
    };
    let made_up = made_up_weights(&description, &expected_tensors(&description).unwrap());
    let metadata = serde_json::to_string(&description).unwrap();
    let metadata = [("mtmc".to_string(), metadata)].into_iter().collect();
    safetensors::serialize_to_file(made_up.tensors(), Some(metadata), Path::new(path)).unwrap();
}

// The same images under DukeMTMC-reID's and MSMT17's names give the same figures; nobody is there to
// learn from.
#[test]
fn other_data_sets_are_measured_alike() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let weights = path("weights.safetensors");
    save_weights(&weights);
    data_set(&folder.path().join("market"));
    let (duke, msmt17) = (folder.path().join("duke"), folder.path().join("msmt17"));
    save_images(
        &duke,
        &[
            ("query/0001_c1_f0000001.png", 1, false),
            ("query/0002_c1_f0000002.png", 2, false),
            ("bounding_box_test/0003_c2_f0000004.png", 3, false),
            ("bounding_box_test/0001_c2_f0000005.png", 1, true),
            ("bounding_box_test/0002_c2_f0000006.png", 2, true),
            ("bounding_box_test/0001_c1_f0000007.png", 1, false),
        ],
    );
    save_images(
        &msmt17.join("test"),
        &[
            ("0000/0000_000_01_0303morning_0001_0.png", 1, false),
            ("0001/0001_000_01_0303morning_0002_0.png", 2, false),
            ("0002/0002_000_02_0303morning_0004_0.png", 3, false),
            ("0000/0000_001_02_0303morning_0005_0.png", 1, true),
            ("0001/0001_001_02_0303morning_0006_0.png", 2, true),
            ("0000/0000_002_01_0303morning_0007_0.png", 1, false),
        ],
    );
    let queries = "0000/0000_000_01_0303morning_0001_0.png 0\n\
                   0001/0001_000_01_0303morning_0002_0.png 1\n";
    let gallery = "0002/0002_000_02_0303morning_0004_0.png 2\n\
                   0000/0000_001_02_0303morning_0005_0.png 0\n\
                   0001/0001_001_02_0303morning_0006_0.png 1\n\
                   0000/0000_002_01_0303morning_0007_0.png 0\n";
    std::fs::write(msmt17.join("list_query.txt"), queries).unwrap();
    std::fs::write(msmt17.join("list_gallery.txt"), gallery).unwrap();
    let measure = |name: &str, more: &[&str]| {
        let arguments = ["--reid", &weights, "--json", "--device", "cpu", "--data"];
        json(&[&arguments[..], &[&path(name)], more].concat())
    };
    let market = measure("market", &[]);
    assert_eq!(market["gallery"], 4);
    assert_eq!(measure("duke", &[]), market);
    assert_eq!(measure("msmt17", &[]), market);
    assert_eq!(measure("msmt17", &["--kind", "msmt17"]), market);
    // What is asked for is not there.
    let told = error(&[
        "--reid",
        &weights,
        "--data",
        &path("market"),
        "--kind",
        "duke",
    ]);
    assert!(told.contains("0001_c2_f0046182.jpg"), "{told}");
    let told = error(&[
        "--reid",
        &weights,
        "--data",
        &path("duke"),
        "--kind",
        "msmt17",
    ]);
    assert!(told.contains("list_query.txt"), "{told}");
}

#[test]
fn the_command_embeds_a_folder_and_draws_a_ranked_list() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    data_set(folder.path());
    let (data, weights) = (path("."), path("weights.safetensors"));
    save_weights(&weights);
    let (saved, picture) = (path("saved"), path("list.png"));
    let mut arguments = vec![
        "--data", &data, "--reid", &weights, "--json", "--device", "cpu",
    ];
    let plain = json(&[&arguments[..], &["--batch", "2"]].concat());
    // The brightened images are nearer to their own than to others, whatever the weights.
    assert_eq!((&plain["rank1"], &plain["map"]), (&1.0.into(), &1.0.into()));
    assert_eq!(
        (&plain["queries"], &plain["gallery"]),
        (&2.into(), &4.into())
    );
    assert_eq!(plain["dim"], 512);

    arguments.extend(["--save-features", &saved]);
    arguments.extend([
        "--ranked-list",
        "0002_c1s1_000002_00",
        "--picture",
        &picture,
    ]);
    assert_eq!(json(&arguments), plain);
    let list = image::open(&picture).unwrap().into_rgb8();
    // The query and its four: nothing of ID 2 is in its own camera.
    assert!(
        list.width() > 5 * 128 && list.width() < 6 * 150,
        "{}",
        list.width()
    );

    let (query, gallery) = (
        path("saved/query.safetensors"),
        path("saved/gallery.safetensors"),
    );
    let files = [
        "--query",
        &query,
        "--gallery",
        &gallery,
        "--data",
        &data,
        "--json",
    ];
    assert_eq!(json(&files), plain);
    let draw = ["--data", &data, "--ranked-list", "0", "--picture", &picture];
    let message = error(&[&["--query", &gallery, "--gallery", &query][..], &draw].concat());
    assert!(
        message.contains("not the features of the images"),
        "{message}"
    );
    let message = error(&[&files[..], &["--ranked-list", "2", "--picture", &picture]].concat());
    assert!(message.contains("there are 2 queries"), "{message}");
}
