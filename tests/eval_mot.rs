//! The tracking metrics against the official tools' own figures, and `mtmc eval mot` from outside.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use mtmc::eval::clear::Rules;
use mtmc::eval::csv::columns;
use mtmc::eval::mot::{Benchmark, Boxes, prepare};
use mtmc::eval::report::Measured;
use mtmc_models::testing::shared;
use proptest::prelude::*;
use serde_json::Value;
use tempfile::TempDir;

const MOT17: [&str; 4] = ["MOT17-02", "MOT17-05", "MOT17-09", "MOT17-11"];

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/eval")
}

fn measure(truth: &Path, tracks: &Path, benchmark: Benchmark, length: Option<u64>) -> Measured {
    let truth = Boxes::read_truth(truth, benchmark).unwrap();
    let tracks = Boxes::read(tracks).unwrap();
    Measured::of(&prepare(&truth, &tracks, benchmark, length))
}

fn mot17(sequence: &str) -> Option<Measured> {
    let truth = shared(&format!("data/mot17/{sequence}/gt/gt.txt"))?;
    let tracks = truth.with_file_name("../tracker-output.txt");
    Some(measure(&truth, &tracks, Benchmark::Mot17, None))
}

/// Compares one row of TrackEval's detailed CSV, every column of it.
fn compare(header: &[&str], cells: &[&str], measured: &Measured) {
    let ours: HashMap<String, f64> = columns(measured).into_iter().collect();
    assert_eq!(ours.len() + 1, header.len(), "{}", cells[0]);
    for (name, cell) in header.iter().zip(cells).skip(1) {
        // The name that older versions of TrackEval used.
        let name = name.replace("RHOTA", "OWTA");
        let (ours, expected) = (ours[&name], cell.parse::<f64>().unwrap());
        let error = (ours - expected).abs() / expected.abs().max(1.0);
        assert!(
            error <= 1e-6,
            "{} {name}: {ours}, TrackEval {expected}",
            cells[0]
        );
    }
}

// ../shared/data/mot17/trackeval-expected.csv: TrackEval's detailed output for the same files;
// tests/goldens/eval/mot17-combined.csv: what it gives for the four together (tests/oracle/eval).
#[test]
fn mot17_equals_trackeval_alone_and_combined() {
    let Some(path) = shared("data/mot17/trackeval-expected.csv") else {
        return;
    };
    let mut text = std::fs::read_to_string(path).unwrap();
    let mut all = Vec::new();
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap().split(',').collect();
    for line in lines {
        let cells: Vec<&str> = line.split(',').collect();
        let measured = mot17(cells[0].trim_end_matches("-FRCNN")).unwrap();
        compare(&header, &cells, &measured);
        all.push(measured);
    }
    assert_eq!(all.len(), 4);
    text = std::fs::read_to_string(goldens().join("mot17-combined.csv")).unwrap();
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split(',').collect()).collect();
    compare(&rows[0], &rows[1], &Measured::combine(&all));
}

// tests/goldens/eval: TrackEval's figures for made-up sequences with everything in them that the
// preparation treats apart, by the rules of each benchmark (tests/oracle/eval/make_goldens.py).
#[test]
fn made_up_sequences_equal_trackeval_by_all_rules() {
    let text = std::fs::read_to_string(goldens().join("made-up.csv")).unwrap();
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split(',').collect()).collect();
    let benchmarks = [Benchmark::Mot15, Benchmark::Mot17, Benchmark::Mot20];
    assert_eq!(rows.len(), 1 + benchmarks.len());
    for (row, benchmark) in rows[1..].iter().zip(benchmarks) {
        let file = |kind: &str| goldens().join(format!("{}-{kind}.txt", row[0]));
        let measured = measure(&file("truth"), &file("tracks"), benchmark, Some(41));
        compare(&rows[0], row, &measured);
    }
}

// ../shared/data/mot15/results/eval_*.txt: the MOT15 devkit's (MATLAB) figures, in the order that
// its README prints: IDF1 IDP IDR Rcll Prcn FAR GT MT PT ML FP FN IDs FM MOTA MOTP MOTAL.
#[test]
fn mot15_equals_the_devkit() {
    let sequences = [
        ("TUD-Campus", "data/mot15/TUD-Campus"),
        ("TUD-Stadtmitte", "data/mot15/TUD-Stadtmitte"),
        ("KITTI-13", "data/mot15/KITTI-13"),
        ("KITTI-17", "data/mot15/KITTI-17"),
        ("PETS09-S2L1", "data/vtest-pets09-s2l1"),
    ];
    for (sequence, folder) in sequences {
        let Some(figures) = shared(&format!("data/mot15/results/eval_{sequence}.txt")) else {
            return;
        };
        let text = std::fs::read_to_string(&figures).unwrap();
        let devkit: Vec<f64> = text.trim().split(',').map(|v| v.parse().unwrap()).collect();
        let truth = shared(&format!("{folder}/gt/gt.txt")).unwrap();
        let truth = Boxes::read_truth(&truth, Benchmark::Mot15).unwrap();
        let tracks = figures.with_file_name(format!("{sequence}.txt"));
        let tracks = Boxes::read(&tracks).unwrap();
        let prepared = prepare(&truth, &tracks, Benchmark::Mot15, None);
        let measured = Measured::by(&prepared, Rules::Devkit);
        let f = measured.figures();
        let ours = [
            f.idf1 * 100.0,
            f.idp * 100.0,
            f.idr * 100.0,
            f.recall * 100.0,
            f.precision * 100.0,
            measured.clear.false_positives_per_frame(),
            f.gt_ids as f64,
            f.mt as f64,
            f.pt as f64,
            f.ml as f64,
            f.fp as f64,
            f.r#fn as f64,
            f.idsw as f64,
            f.frag as f64,
            f.mota * 100.0,
            f.motp * 100.0,
            f.motal * 100.0,
        ];
        assert_eq!(devkit.len(), ours.len());
        for (index, (ours, devkit)) in ours.iter().zip(&devkit).enumerate() {
            // The devkit prints five significant digits.
            let error = (ours - devkit).abs() / devkit.abs().max(1.0);
            assert!(
                error <= 1e-4,
                "{sequence}, figure {index}: {ours}, devkit {devkit}"
            );
        }
    }
}

// By hand: one person, 10 frames; the track changes while she is out of sight in frame 6. TrackEval
// counts the switch, the devkit does not: she was not there in the frame before.
#[test]
fn the_rules_differ_where_people_leave() {
    let mut truth = Boxes::default();
    let mut tracks = Boxes::default();
    for frame in (1..=10).filter(|frame| *frame != 6) {
        let tlwh = [10.0, 10.0, 20.0, 40.0];
        truth.push(frame, 1, tlwh);
        tracks.push(frame, if frame < 6 { 1 } else { 2 }, tlwh);
        // Someone else keeps the frames from being empty.
        truth.push(frame, 2, [100.0, 10.0, 20.0, 40.0]);
    }
    truth.push(6, 2, [100.0, 10.0, 20.0, 40.0]);
    tracks.push(6, 3, [100.0, 10.0, 20.0, 40.0]);
    let sequence = prepare(&truth, &tracks, Benchmark::Mot15, None);
    let by = |rules| Measured::by(&sequence, rules).figures();
    let (trackeval, devkit) = (by(Rules::TrackEval), by(Rules::Devkit));
    assert_eq!((trackeval.idsw, devkit.idsw), (1, 0));
    assert_eq!((trackeval.frag, devkit.frag), (1, 1));
    assert_eq!(trackeval.idtp, devkit.idtp);
}

/// Boxes of some identities in some frames, on a coarse grid so that many overlap.
fn boxes() -> impl Strategy<Value = Vec<(u64, i64, [f64; 4])>> {
    let row = (1..12_u64, 1..6_i64, 0..8_u32, 0..3_u32);
    prop::collection::btree_map(row.clone().prop_map(|r| (r.0, r.1)), row, 0..40).prop_map(|rows| {
        rows.into_iter()
            .map(|((frame, id), (_, _, x, y))| {
                let (x, y) = (f64::from(x) * 5.0, f64::from(y) * 10.0);
                (frame, id, [x, y, 20.0, 40.0])
            })
            .collect()
    })
}

fn collect(rows: &[(u64, i64, [f64; 4])]) -> Boxes {
    let mut boxes = Boxes::default();
    for &(frame, id, tlwh) in rows {
        boxes.push(frame, id, tlwh);
    }
    boxes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Every figure stays in its range, counts add up, and truth measured against itself is perfect.
    #[test]
    fn figures_are_within_their_ranges(truth in boxes(), tracks in boxes()) {
        let (truth, tracks) = (collect(&truth), collect(&tracks));
        for rules in [Rules::TrackEval, Rules::Devkit] {
            let sequence = prepare(&truth, &tracks, Benchmark::Mot15, Some(12));
            let f = Measured::by(&sequence, rules).figures();
            for ratio in [f.hota, f.deta, f.assa, f.loca, f.motp, f.recall, f.precision, f.idf1, f.idp, f.idr] {
                prop_assert!((0.0..=1.0 + 1e-12).contains(&ratio), "{f:?}");
            }
            prop_assert!(f.mota <= f.moda && f.moda <= f.recall);
            prop_assert_eq!(f.tp + f.r#fn, f.gt_boxes);
            prop_assert_eq!(f.tp + f.fp, f.boxes);
            prop_assert_eq!(f.idtp + f.idfn, f.gt_boxes);
            prop_assert_eq!(f.mt + f.pt + f.ml, f.gt_ids as u64);
            let own = prepare(&truth, &truth, Benchmark::Mot15, Some(12));
            let own = Measured::by(&own, rules).figures();
            if own.gt_boxes > 0 && !truth.is_empty() {
                prop_assert_eq!((own.fp, own.r#fn), (0, 0));
            }
        }
    }

    /// Names of identities mean nothing.
    #[test]
    fn renamed_identities_measure_the_same(truth in boxes(), tracks in boxes()) {
        let renamed: Vec<_> = tracks.iter().map(|&(frame, id, tlwh)| (frame, 1000 - 7 * id, tlwh)).collect();
        let of = |tracks: &[_]| Measured::of(&prepare(&collect(&truth), &collect(tracks), Benchmark::Mot15, Some(12)));
        let (a, b) = (of(&tracks), of(&renamed));
        prop_assert_eq!(a.clear, b.clear);
        prop_assert_eq!(a.identity, b.identity);
        prop_assert!((a.figures().hota - b.figures().hota).abs() < 1e-12);
    }
}

/// Runs `mtmc eval mot`.
fn eval(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mtmc"));
    command.args(["eval", "mot"]).args(arguments);
    command.output().unwrap()
}

fn error_of(arguments: &[&str]) -> String {
    let output = eval(arguments);
    assert!(!output.status.success());
    assert!(output.stdout.is_empty());
    String::from_utf8(output.stderr).unwrap()
}

const SEQINFO: &str = "[Sequence]\nname=A\nimDir=img1\nframeRate=30\nseqLength=3\nimWidth=640\n\
                       imHeight=480\nimExt=.jpg\n";

/// A benchmark of two sequences with tracks that are the truth.
fn benchmark() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("tracks")).unwrap();
    for name in ["A", "B"] {
        let gt = folder.path().join("gt").join(name).join("gt");
        std::fs::create_dir_all(&gt).unwrap();
        let lines = "1,1,10,10,20,40,1,1,1\n2,1,12,10,20,40,1,1,1\n2,2,90,10,20,40,1,1,0.1\n";
        std::fs::write(gt.join("gt.txt"), lines).unwrap();
        std::fs::write(gt.join("../seqinfo.ini"), SEQINFO).unwrap();
        let tracks = folder.path().join(format!("tracks/{name}.txt"));
        std::fs::write(
            tracks,
            "1,1,10,10,20,40,1\n2,1,12,10,20,40,1\n2,9,90,10,20,40,1\n",
        )
        .unwrap();
    }
    folder
}

#[test]
fn a_benchmark_is_printed_as_table_json_csv_and_picture() {
    let folder = benchmark();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let (gt, tracks) = (path("gt"), path("tracks"));
    let (csv, plot) = (path("all.csv"), path("all.svg"));
    let table = eval(&[
        "--gt", &gt, "--tracks", &tracks, "--csv", &csv, "--plot", &plot,
    ]);
    assert!(table.status.success());
    let table = String::from_utf8(table.stdout).unwrap();
    assert_eq!(table.lines().count(), 4, "{table}");
    assert!(table.contains("COMBINED 100.00"), "{table}");
    let csv = std::fs::read_to_string(csv).unwrap();
    let header = csv.lines().next().unwrap();
    assert!(
        header.starts_with("seq,HOTA(0),LocA(0),HOTALocA(0),HOTA___5,"),
        "{header}"
    );
    assert!(header.ends_with(",Dets,GT_Dets,IDs,GT_IDs"), "{header}");
    assert!(csv.lines().nth(3).unwrap().starts_with("COMBINED,1,1,1,"));
    let picture = std::fs::read_to_string(plot).unwrap();
    assert!(
        picture.contains(">COMBINED<") && picture.contains("HOTA 100.0"),
        "{picture}"
    );

    let json = eval(&[
        "--gt",
        &gt,
        "--tracks",
        &tracks,
        "--json",
        "--sequences",
        "B",
    ]);
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    for key in [
        "hota", "deta", "assa", "loca", "mota", "motp", "idf1", "idp", "idr",
    ] {
        assert_eq!(json[key], 1.0, "{key}");
    }
    assert_eq!(json["frames"], 3);
    assert_eq!(json["curves"]["hota"].as_array().unwrap().len(), 19);
    let json = eval(&["--gt", &gt, "--tracks", &tracks, "--json"]);
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["COMBINED"]["gt_ids"], 4);
}

#[test]
fn what_is_wrong_is_named() {
    let folder = benchmark();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let (gt, tracks) = (path("gt"), path("tracks"));
    let all = ["--gt", &gt, "--tracks", &tracks];

    let unknown = error_of(&[&all[..], &["--sequences", "C"]].concat());
    assert!(
        unknown.contains("no sequence `C`; there are A, B"),
        "{unknown}"
    );

    std::fs::write(
        path("tracks/B.txt"),
        "1,1,10,10,20,40,1\n2,1,12,ten,20,40,1\n",
    )
    .unwrap();
    let broken = error_of(&all);
    assert!(
        broken.contains("B.txt, line 2: column 4: `ten` is no number"),
        "{broken}"
    );
    std::fs::write(path("tracks/B.txt"), "1,1,1,1,9,9,1\n1,1,5,5,9,9,1\n").unwrap();
    let twice = error_of(&all);
    assert!(
        twice.contains("B.txt, line 2: identity 1 stands twice in frame 1"),
        "{twice}"
    );
    std::fs::write(path("tracks/B.txt"), "4,1,1,1,9,9,1\n").unwrap();
    let beyond = error_of(&all);
    assert!(
        beyond.contains("B.txt: a box in frame 4") && beyond.contains("3 frames"),
        "{beyond}"
    );

    std::fs::write(path("tracks/B.txt"), "").unwrap();
    let empty = eval(&all);
    assert!(empty.status.success());
    let notice = String::from_utf8(empty.stderr).unwrap();
    assert!(notice.contains("B.txt: no boxes"), "{notice}");

    std::fs::remove_file(path("tracks/B.txt")).unwrap();
    let missing = error_of(&all);
    assert!(
        missing.contains("no tracks of 1 of 2 sequences: B.txt"),
        "{missing}"
    );

    std::fs::copy(path("tracks/A.txt"), path("tracks/B.txt")).unwrap();
    std::fs::write(path("gt/A/gt/gt.txt"), "1,1,10,10,20,40,1,-1,-1,-1\n").unwrap();
    let classes = error_of(&all);
    assert!(
        classes.contains("gt.txt, line 1: class -1") && classes.contains("mot15"),
        "{classes}"
    );
    std::fs::write(path("gt/A/gt/gt.txt"), "").unwrap();
    let nothing = error_of(&[&all[..], &["--sequences", "A"]].concat());
    assert!(nothing.contains("gt.txt: no boxes"), "{nothing}");

    let file = error_of(&["--gt", &gt, "--tracks", &path("tracks/A.txt")]);
    assert!(
        file.contains("one file of tracks for 2 sequences"),
        "{file}"
    );
    let absent = error_of(&["--gt", &path("gone"), "--tracks", &tracks]);
    assert!(absent.contains("gone: "), "{absent}");
}

// TrackEval's summary prints the same digits: tests/goldens/eval/mot17-combined.csv.
#[test]
fn mot17_as_a_folder() {
    let Some(gt) = shared("data/mot17") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    for name in MOT17 {
        let from = gt.join(name).join("tracker-output.txt");
        std::fs::copy(from, folder.path().join(format!("{name}.txt"))).unwrap();
    }
    let (gt, tracks) = (gt.to_str().unwrap(), folder.path().to_str().unwrap());
    let output = eval(&["--gt", gt, "--tracks", tracks, "--json"]);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let combined = &json["COMBINED"];
    assert_eq!(combined["idsw"], 283);
    assert_eq!(combined["frag"], 277);
    assert_eq!(combined["frames"], 2862);
    assert!((combined["hota"].as_f64().unwrap() - 0.638_046_502_326_425_7).abs() < 1e-6);
    assert!((combined["idf1"].as_f64().unwrap() - 0.697_456_801_517_715_3).abs() < 1e-6);
}
