//! Environments from files, variables and flags.

#![allow(clippy::unwrap_used)]

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args as _, Command, FromArgMatches as _};
use mtmc::config::{EncoderType, Environment, Overrides, VARIABLES};
use mtmc::gallery::GallerySettings;
use mtmc::handoff::HandoffSettings;
use mtmc::tracker::{BotSortSettings, TrackerSettings};
use proptest::prelude::*;

const CAMPUS: &str = include_str!("goldens/environment/campus.toml");

fn parse(text: &str) -> Environment {
    Environment::parse(text, "site/campus.toml", &Overrides::default()).unwrap()
}

fn errors(text: &str, overrides: &Overrides) -> Vec<String> {
    let error = Environment::parse(text, "campus.toml", overrides).unwrap_err();
    error.problems().iter().map(ToString::to_string).collect()
}

fn variables(values: &[(&str, &str)]) -> Overrides {
    Overrides::from_variables(|name| {
        let found = values.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| OsString::from(value))
    })
}

fn flags(arguments: &[&str]) -> Overrides {
    let command = Overrides::augment_args(Command::new("test").no_binary_name(true));
    let matches = command.try_get_matches_from(arguments).unwrap();
    Overrides::from_arg_matches(&matches).unwrap()
}

#[test]
fn a_whole_file_is_read() {
    let environment = parse(CAMPUS);
    assert_eq!(environment.id, "campus");
    assert_eq!(environment.name, "North campus");
    assert_eq!(environment.map.unit, "m");
    assert_eq!(environment.map.valid_area[2], [40.0, 25.5]);
    assert_eq!(
        environment.map.background,
        Some(PathBuf::from("site/floor.png"))
    );
    assert_eq!(
        environment.map.background_bounds,
        Some([-1.0, -1.0, 41.0, 26.5])
    );
    assert_eq!(environment.homography.ransac_threshold, 4.0);
    assert_eq!(environment.reid.kind, Some(EncoderType::OsNet));
    assert_eq!(environment.reid.refresh_interval_frames, 15);

    let ids: Vec<&str> = environment
        .cameras
        .iter()
        .map(|camera| camera.id.as_str())
        .collect();
    assert_eq!(ids, ["door", "hall", "yard"]);
    let door = &environment.cameras[0];
    assert_eq!(door.name, "Front door");
    assert_eq!(door.source.as_deref(), Some("site/videos/door.mp4"));
    assert_eq!((door.frame_rate, door.start_offset), (Some(25.0), -0.5));
    assert_eq!(door.zones.len(), 2);
    assert_eq!((door.zones[0].x_min, door.zones[0].x_max), (0.7, 1.0));
    assert_eq!((door.zones[0].y_min, door.zones[0].y_max), (0.0, 1.0));
    assert_eq!(
        (door.zones[0].to.clone(), door.zones[1].to.clone()),
        (vec![1], vec![])
    );
    let yard = &environment.cameras[2];
    assert_eq!(yard.name, "yard");
    assert_eq!(yard.source.as_deref(), Some("rtsp://10.0.0.7/stream"));
    let files = [0, 1, 2].map(|camera| environment.homography_file(camera).unwrap());
    assert_eq!(files[0], Path::new("site/calibration/door_homography.json"));
    assert_eq!(files[2], Path::new("/etc/mtmc/yard.json"));
    assert_eq!(environment.homography_file(3), None);

    let links: Vec<_> = environment
        .links
        .iter()
        .map(|link| (link.from, link.to, link.link.overlap, link.link.seconds))
        .collect();
    let expected = [
        (0, 1, true, [0.0, 0.0]),
        (1, 0, true, [0.0, 0.0]),
        (1, 2, false, [5.0, 60.0]),
        (2, 1, false, [5.0, 60.0]),
        (2, 0, false, [10.0, 90.5]),
    ];
    let mut sorted = expected;
    sorted.sort_by_key(|link| (link.0, link.1));
    assert_eq!(links, sorted);

    let bot = BotSortSettings {
        match_thresh: 0.7,
        ..BotSortSettings::default()
    };
    assert_eq!(environment.tracker, TrackerSettings::BotSort(bot));
    let association = GallerySettings {
        similarity_threshold: 0.6,
        least_views: 1,
        ..GallerySettings::default()
    };
    assert_eq!(environment.association, association);
    let handoff = HandoffSettings {
        expire_seconds: 45.0,
        ..HandoffSettings::default()
    };
    assert_eq!(environment.handoff, handoff);
}

#[test]
fn links_say_who_may_pass_when() {
    let environment = parse(CAMPUS);
    let topology = environment.topology();
    assert!(topology.overlap(0, 1) && topology.overlap(1, 0));
    assert!(!topology.overlap(1, 2) && topology.allows(2, 1, 5.0));
    assert!(!topology.allows(2, 0, 9.0) && topology.allows(2, 0, 90.5));
    let detector = environment.handoff_detector().unwrap();
    assert_eq!(detector.rules().candidates(0, 0), [1]);
    assert_eq!(detector.travel_times().gate(1, 2), Some([5.0, 60.0]));
}

// Cameras, zones, pairs and values of the requirement document, sections 7.2 and 8.5.2.
#[test]
fn the_standard_environment_is_the_documents() {
    let environment = Environment::standard();
    let mut seen = Vec::new();
    for camera in &environment.cameras {
        for zone in &camera.zones {
            assert_eq!((zone.y_min, zone.y_max), (0.0, 1.0));
            assert!(zone.to.is_empty());
            seen.push((camera.id.as_str(), zone.x_min, zone.x_max));
        }
    }
    let expected = [
        ("c09", 0.7, 1.0),
        ("c12", 0.0, 0.3),
        ("c12", 0.7, 1.0),
        ("c13", 0.0, 0.3),
        ("c13", 0.7, 1.0),
        ("c16", 0.0, 0.3),
    ];
    assert_eq!(seen, expected);
    let pairs: Vec<_> = environment.links.iter().map(|l| (l.from, l.to)).collect();
    assert_eq!(pairs, [(0, 1), (1, 0), (1, 2), (2, 1), (2, 3), (3, 2)]);
    assert!(environment.links.iter().all(|link| link.link.overlap));
    assert_eq!(environment.association.similarity_threshold, 0.75);
    assert_eq!(environment.association.ema_alpha, 0.1);
    assert_eq!(environment.association.lost_steps, 100);
    assert_eq!(environment.reid.refresh_interval_frames, 30);
    assert_eq!(environment.homography.ransac_threshold, 5.0);
    assert!(environment.homography.enabled && environment.handoff.enabled);
    assert_eq!(environment.handoff.min_overlap_ratio, 0.5);
    assert_eq!(
        environment.homography_file(0).unwrap(),
        Path::new("homography_data/c09_homography.json")
    );
    let detector = environment.handoff_detector().unwrap();
    assert_eq!(detector.rules().candidates(1, 0), [0, 2]);
}

// The golden file holds what is to be said of the wrong file beside it, one line each.
#[test]
fn all_errors_of_a_file_are_said_at_once() {
    let text = include_str!("goldens/environment/wrong.toml");
    let said = errors(text, &Overrides::default()).join("\n") + "\n";
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/environment/wrong.txt");
    if std::env::var_os("MTMC_WRITE_GOLDENS").is_some() {
        std::fs::write(&golden, &said).unwrap();
    }
    assert_eq!(said, std::fs::read_to_string(golden).unwrap());
}

// Their full text lists all settings there are, which grow; so only its beginning is compared.
#[test]
fn unknown_settings_of_a_table_are_named() {
    let text = "id = \"a\"\ncameras = [{ id = \"c\" }]\n[association]\nema = 1\n\
                [tracker]\nname = \"botsort\"\nmax_age = 30\n[handoff]\nratio = 1\n";
    let said = errors(text, &Overrides::default());
    let expected = [
        "campus.toml:4: association.ema: unknown field `ema`, expected one of ",
        "campus.toml:7: tracker.max_age: unknown field `max_age`, expected one of ",
        "campus.toml:9: handoff.ratio: unknown field `ratio`, expected one of ",
    ];
    assert_eq!(said.len(), expected.len());
    for (said, expected) in said.iter().zip(expected) {
        assert!(said.starts_with(expected), "{said}");
    }
    let said = errors(
        "id = \"a\"\ncameras = [{ id = \"c\" }]\n[tracker]\n",
        &Overrides::default(),
    );
    assert_eq!(said, ["campus.toml:3: tracker.name is missing"]);
}

#[test]
fn syntax_errors_name_their_line() {
    let said = errors("id = \"a\"\n[[cameras]\nid = \n", &Overrides::default());
    assert!(said[0].starts_with("campus.toml:2: "), "{said:?}");
    assert!(
        said.iter().any(|line| line.starts_with("campus.toml:3: ")),
        "{said:?}"
    );
    let said = errors("id = \"a\"\nid = \"b\"\n", &Overrides::default());
    assert!(
        said[0].starts_with("campus.toml:2: duplicate key"),
        "{said:?}"
    );
    let said = errors("", &Overrides::default());
    assert_eq!(
        said,
        [
            "campus.toml:1: cameras is missing",
            "campus.toml:1: id is missing"
        ]
    );
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("none.toml");
    let error = Environment::load(&path, &Overrides::default()).unwrap_err();
    assert!(error.to_string().contains("none.toml"), "{error}");
    std::fs::write(&path, vec![b'#'; 5 << 20]).unwrap();
    let error = Environment::load(&path, &Overrides::default()).unwrap_err();
    assert!(error.to_string().contains("5242880 bytes"), "{error}");
    std::fs::write(&path, CAMPUS).unwrap();
    let environment = Environment::load(&path, &Overrides::default()).unwrap();
    let source = folder.path().join("videos/door.mp4");
    assert_eq!(environment.cameras[0].source.as_deref(), source.to_str());
}

#[test]
fn variables_override_the_file() {
    let overrides = variables(&[
        ("REID_MODEL_PATH", "weights/clip_market1501.pt"),
        ("REID_MODEL_TYPE", "clip"),
        ("REID_SIMILARITY_THRESHOLD", "0.8"),
        ("REID_REFRESH_INTERVAL_FRAMES", "20"),
        ("REID_GALLERY_EMA_ALPHA", "0.2"),
        ("REID_LOST_TRACK_BUFFER_FRAMES", "50"),
        ("HOMOGRAPHY_DATA_DIR", "elsewhere/"),
        ("ENABLE_BEV_MAP_PROJECTION", "False"),
        ("HOMOGRAPHY_RANSAC_THRESHOLD", "3"),
        ("MIN_BBOX_OVERLAP_RATIO_IN_QUADRANT", "0.25"),
        ("CAMERA_HANDOFF_RULES_ENABLED", "False"),
        ("POSSIBLE_CAMERA_OVERLAPS", r#"[("door", "yard")]"#),
    ]);
    let environment = Environment::parse(CAMPUS, "site/campus.toml", &overrides).unwrap();
    let reid = &environment.reid;
    assert_eq!(
        reid.model,
        Some(PathBuf::from("weights/clip_market1501.pt"))
    );
    assert_eq!(reid.kind, Some(EncoderType::Clip));
    assert_eq!(reid.refresh_interval_frames, 20);
    let association = &environment.association;
    assert_eq!(association.similarity_threshold, 0.8);
    assert_eq!(association.ema_alpha, 0.2);
    assert_eq!(association.lost_steps, 50);
    assert_eq!(association.least_views, 1, "the file's other settings stay");
    assert!(!environment.homography.enabled && !environment.handoff.enabled);
    assert_eq!(environment.homography.ransac_threshold, 3.0);
    assert_eq!(environment.handoff.min_overlap_ratio, 0.25);
    assert_eq!(
        environment.homography_file(1).unwrap(),
        Path::new("elsewhere/hall_homography.json")
    );
    // The file's overlap of door and hall is gone, its travel times of other pairs stay.
    let links: Vec<_> = environment
        .links
        .iter()
        .map(|link| (link.from, link.to, link.link.overlap))
        .collect();
    let expected = [(0, 2, true), (1, 2, false), (2, 0, true), (2, 1, false)];
    assert_eq!(links, expected);
}

#[test]
fn a_flag_beats_a_variable_which_beats_the_file_which_beats_the_default() {
    let threshold = |overrides: &Overrides, text: &str| {
        let environment = Environment::parse(text, "a.toml", overrides).unwrap();
        environment.association.similarity_threshold
    };
    let least = "id = \"a\"\n[[cameras]]\nid = \"c\"\n";
    let file = format!("{least}[association]\nsimilarity_threshold = 0.6\n");
    let variable = variables(&[("REID_SIMILARITY_THRESHOLD", "0.7")]);
    let flag = flags(&["--reid-similarity-threshold", "0.8"]);
    let both = variable.clone().overridden_by(&flag);
    assert_eq!(threshold(&Overrides::default(), least), 0.75);
    assert_eq!(threshold(&Overrides::default(), &file), 0.6);
    assert_eq!(threshold(&variable, &file), 0.7);
    assert_eq!(threshold(&both, &file), 0.8);
    let empty = variables(&[("REID_SIMILARITY_THRESHOLD", "")]);
    assert_eq!(threshold(&empty, &file), 0.6);
}

#[test]
fn cameras_without_a_file_are_under_the_variables_too() {
    let ids = ["left", "right", "far"].map(str::to_string);
    let overrides = variables(&[
        ("POSSIBLE_CAMERA_OVERLAPS", "left-right"),
        ("HOMOGRAPHY_DATA_DIR", "maps"),
    ]);
    let environment = Environment::of_cameras(&ids, &overrides).unwrap();
    assert_eq!(environment.camera_index("far"), Some(2));
    let pairs: Vec<_> = environment.links.iter().map(|l| (l.from, l.to)).collect();
    assert_eq!(pairs, [(0, 1), (1, 0)]);
    let file = environment.homography_file(2).unwrap();
    assert_eq!(file, Path::new("maps/far_homography.json"));
    let wrong = variables(&[("POSSIBLE_CAMERA_OVERLAPS", "c09-c12")]);
    let error = Environment::of_cameras(&ids, &wrong).unwrap_err();
    assert!(error.to_string().contains("no camera c09"), "{error}");
}

#[test]
fn what_is_wrong_in_a_variable_or_flag_is_said_with_its_name() {
    let overrides = variables(&[
        ("REID_SIMILARITY_THRESHOLD", "1.5"),
        ("REID_REFRESH_INTERVAL_FRAMES", "2.5"),
        ("REID_MODEL_TYPE", "vgg"),
        ("ENABLE_BEV_MAP_PROJECTION", "maybe"),
        ("HOMOGRAPHY_RANSAC_THRESHOLD", "nan"),
        ("POSSIBLE_CAMERA_OVERLAPS", "door-c99"),
    ]);
    let flag = flags(&["--min-bbox-overlap-ratio-in-quadrant", "0"]);
    let said = errors(CAMPUS, &overrides.overridden_by(&flag));
    let expected = [
        "REID_MODEL_TYPE: unknown variant `vgg`, expected one of `clip`, `resnet50`, `osnet`",
        "REID_SIMILARITY_THRESHOLD: similarity_threshold = 1.5: must be in -1..=1",
        "REID_REFRESH_INTERVAL_FRAMES: \"2.5\": must be a whole number",
        "ENABLE_BEV_MAP_PROJECTION: \"maybe\": must be true or false",
        "HOMOGRAPHY_RANSAC_THRESHOLD: ransac_threshold = NaN: must be above 0 and at most 10,000",
        "--min-bbox-overlap-ratio-in-quadrant: min_overlap_ratio = 0: must be above 0 and at most 1",
        "POSSIBLE_CAMERA_OVERLAPS: there is no camera c99; there are door, hall, yard",
    ];
    assert_eq!(said, expected);
}

#[test]
fn every_table_key_and_variable_is_documented() {
    let docs = include_str!("../docs/environment.md");
    for variable in &VARIABLES {
        for word in [variable.name, variable.flag, variable.setting] {
            assert!(
                docs.contains(&format!("`{word}`")) || docs.contains(&format!("`--{word}`")),
                "{word}"
            );
        }
    }
    // The example in the documentation is one that can be read.
    let example = docs.split("```toml\n").nth(1).unwrap();
    parse(example.split("```").next().unwrap());
}

proptest! {
    // Whatever is in a file, reading ends with an environment or with errors that have lines in it.
    #[test]
    fn any_text_is_an_environment_or_errors(lines in prop::collection::vec(0..40_usize, 0..40)) {
        let known: Vec<&str> = CAMPUS.lines().collect();
        let text: Vec<&str> = lines.iter().map(|line| known[line % known.len()]).collect();
        let text = text.join("\n");
        if let Err(error) = Environment::parse(&text, "a.toml", &Overrides::default()) {
            prop_assert!(!error.problems().is_empty());
            for problem in error.problems() {
                let said = problem.to_string();
                let line: usize = said.split(':').nth(1).unwrap().parse().unwrap();
                prop_assert!(line >= 1 && line <= text.lines().count() + 1, "{}", said);
            }
        }
    }
}
