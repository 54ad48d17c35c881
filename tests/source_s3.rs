//! Frames from an object store, against a real S3 server on loopback that misbehaves on demand.
//!
//! What frames must be is told by a folder of the same files, which the server serves.

#![allow(clippy::unwrap_used)]

#[path = "source_s3/server.rs"]
mod server;

use std::path::Path;
use std::time::{Duration, Instant};

use mtmc::source::s3::{S3Credentials, S3Secret, S3Settings, S3Source};
use mtmc::source::{
    FolderSource, Frame, FrameSource, Mp4Source, OpenOptions, SkipKind, SourceError,
};
use server::{Fault, Server};

/// A small video with B frames.
const VIDEO: &str = "bframes.mp4";

fn jpeg(grey: u8, width: u16, height: u16) -> Vec<u8> {
    let pixels = vec![grey; usize::from(width) * usize::from(height) * 3];
    let mut bytes = Vec::new();
    jpeg_encoder::Encoder::new(&mut bytes, 95)
        .encode(&pixels, width, height, jpeg_encoder::ColorType::Rgb)
        .unwrap();
    bytes
}

/// Frames 1 to `count` of a camera, named with leading zeros.
fn put_frames(server: &Server, count: u64) {
    for number in 1..=count {
        let bytes = jpeg((number % 250) as u8, 32, 24);
        server.put(&format!("cam/{number:06}.jpg"), &bytes);
    }
}

fn open(server: &Server, address: &str) -> Result<S3Source, SourceError> {
    open_with(&server.settings(), address, 1)
}

fn open_with(settings: &S3Settings, address: &str, first: u64) -> Result<S3Source, SourceError> {
    let options = OpenOptions {
        keep_jpeg: true,
        ..OpenOptions::default()
    };
    S3Source::open_from(address, &options, settings, first)
}

fn all(source: &mut dyn FrameSource) -> Vec<Frame> {
    let mut frames = Vec::new();
    while let Some(frame) = source.next_frame().unwrap() {
        frames.push(frame);
    }
    frames
}

fn numbers(frames: &[Frame]) -> Vec<u64> {
    frames.iter().map(|frame| frame.number).collect()
}

fn assert_same(frames: &[Frame], expected: &[Frame]) {
    assert_eq!(numbers(frames), numbers(expected));
    for (frame, expected) in frames.iter().zip(expected) {
        assert_eq!(frame.timestamp, expected.timestamp, "{}", frame.number);
        assert!(frame.image == expected.image, "{}", frame.number);
        assert!(frame.jpeg == expected.jpeg, "{}", frame.number);
    }
}

/// The frames of the served folder, read as a folder.
fn as_folder(path: &Path) -> (Vec<Frame>, FolderSource) {
    let options = OpenOptions {
        keep_jpeg: true,
        ..OpenOptions::default()
    };
    let mut folder = FolderSource::open(path, &options).unwrap();
    (all(&mut folder), folder)
}

#[test]
fn a_prefix_gives_what_the_folder_gives() {
    let server = Server::start();
    for number in 1..=30 {
        server.put(
            &format!("site/cam 1/f{number}.jpg"),
            &jpeg(number * 8, 64, 48),
        );
    }
    let png = image::RgbImage::from_pixel(20, 10, image::Rgb([1, 2, 3]));
    png.save(server.path("site/cam 1/f9b.png")).unwrap();
    server.put("site/cam 1/ü+&=?.jpg", &jpeg(7, 64, 48));
    server.put("site/cam 1/notes.txt", b"no image");
    server.put("site/cam 1/deeper/f1.jpg", &jpeg(1, 64, 48));
    server.put("site/cam 10/f1.jpg", &jpeg(1, 64, 48));
    let half = jpeg(100, 64, 48);
    server.put("site/cam 1/f5.jpg", &half[..half.len() / 2]);

    let (expected, folder) = as_folder(&server.path("site/cam 1"));
    assert_eq!(expected.len(), 31);
    for address in ["s3://cameras/site/cam 1", "s3://cameras/site/cam 1/"] {
        let mut source = open(&server, address).unwrap();
        assert_eq!(source.info(), folder.info());
        let frames = all(&mut source);
        assert_same(&frames, &expected);
        assert_eq!(source.skipped().count, 1);
        let skipped = &source.skipped().examples[0];
        assert_eq!(skipped.number, folder.skipped().examples[0].number);
        assert!(
            skipped.reason.contains("site/cam 1/f5.jpg: broken: "),
            "{skipped:?}"
        );
    }
}

#[test]
fn a_text_that_keys_begin_with_is_a_prefix_too() {
    let server = Server::start();
    server.put("cam/day-1.jpg", &jpeg(10, 32, 24));
    server.put("cam/night-1.jpg", &jpeg(20, 32, 24));
    server.put("cam/night-2.jpg", &jpeg(30, 32, 24));
    let mut source = open(&server, "s3://cameras/cam/night-").unwrap();
    assert_eq!(all(&mut source).len(), 2);
    let mut source = open(&server, "s3://cameras/cam/day-1.jpg").unwrap();
    assert_eq!(source.info().name, "day-1");
    assert_eq!(source.info().size, (32, 24));
    assert_eq!(all(&mut source).len(), 1);
}

#[test]
fn a_sequence_is_known_as_in_a_folder() {
    let server = Server::start();
    for number in 1..=3 {
        server.put(&format!("MOT/img1/{number:06}.jpg"), &jpeg(number, 32, 24));
    }
    server.put(
        "MOT/seqinfo.ini",
        b"[Sequence]\nname=MOT17-02\nimDir=img1\nframeRate=25\n",
    );
    for (address, path) in [
        ("s3://cameras/MOT", "MOT"),
        ("s3://cameras/MOT/img1", "MOT/img1"),
    ] {
        let (expected, folder) = as_folder(&server.path(path));
        let mut source = open(&server, address).unwrap();
        assert_eq!(source.info(), folder.info());
        assert_eq!(source.info().name, "MOT17-02");
        assert_same(&all(&mut source), &expected);
    }
}

#[test]
fn pages_are_listed_as_they_are_needed() {
    let server = Server::start();
    put_frames(&server, 2300);
    let mut source = open(&server, "s3://cameras/cam").unwrap();
    // Pages have 1000 keys.
    assert_eq!(server.lists(), 1);
    assert_eq!(source.info().frame_count, None);
    let frames = all(&mut source);
    assert_eq!(numbers(&frames), (1..=2300).collect::<Vec<u64>>());
    for frame in &frames {
        let grey = frame.image.get_pixel(3, 3)[0];
        assert!(
            grey.abs_diff((frame.number % 250) as u8) <= 1,
            "{}",
            frame.number
        );
    }
    assert_eq!(server.lists(), 3);
    assert_eq!(source.info().frame_count, Some(2300));
}

#[test]
fn what_fails_in_passing_is_tried_again() {
    let server = Server::start();
    put_frames(&server, 12);
    server.fault("/000002.jpg", 2, Fault::Status(503, "SlowDown", Some(1)));
    server.fault("/000003.jpg", 1, Fault::Cut(100));
    server.fault("/000004.jpg", 1, Fault::Cut(0));
    server.fault("/000005.jpg", 1, Fault::Status(500, "InternalError", None));
    server.fault("/cameras/", 2, Fault::Status(503, "SlowDown", None));
    let started = Instant::now();
    let mut source = open(&server, "s3://cameras/cam").unwrap();
    let frames = all(&mut source);
    assert_eq!(numbers(&frames), (1..=12).collect::<Vec<u64>>());
    assert_eq!(source.skipped().count, 0);
    // Twice it was asked to wait for a second.
    assert!(started.elapsed() >= Duration::from_secs(2));
    // 000012.jpg, which also ends so, needed one.
    let tries = |key: &str| {
        server
            .gets()
            .iter()
            .filter(|get| get.ends_with(key))
            .count()
    };
    assert_eq!([tries("2.jpg"), tries("3.jpg"), tries("4.jpg")], [4, 2, 2]);
}

#[test]
fn what_cannot_be_had_is_skipped_with_its_key_and_kind() {
    let server = Server::start();
    put_frames(&server, 10);
    let settings = S3Settings {
        max_object_bytes: 4096,
        ..server.settings()
    };
    server.fault("/000002.jpg", 1, Fault::Remove);
    server.put("cam/000003.jpg", b"");
    server.put("cam/000004.jpg", b"no image at all");
    server.put("cam/000005.jpg", &[0; 5000]);
    server.fault("/000006.jpg", 1, Fault::Status(403, "AccessDenied", None));
    server.fault("/000007.jpg", usize::MAX, Fault::Cut(50));
    server.fault(
        "/000008.jpg",
        usize::MAX,
        Fault::Status(500, "InternalError", None),
    );

    let mut source = open_with(&settings, "s3://cameras/cam", 1).unwrap();
    assert_eq!(numbers(&all(&mut source)), [1, 9, 10]);
    let expected = [
        (2, "missing"),
        (3, "empty"),
        (4, "broken"),
        (5, "too_large"),
        (6, "denied"),
        (7, "unavailable"),
        (8, "unavailable"),
    ];
    let skipped = source.skipped();
    assert_eq!(skipped.count, expected.len() as u64);
    for (example, (number, kind)) in skipped.examples.iter().zip(expected) {
        assert_eq!(example.number, number);
        let beginning = format!("cam/{number:06}.jpg: {kind}: ");
        assert!(example.reason.starts_with(&beginning), "{}", example.reason);
    }
    assert_eq!(skipped.kinds[&SkipKind::Unavailable], 2);
    assert_eq!(skipped.kinds[&SkipKind::Missing], 1);
}

#[test]
fn a_refusal_of_everything_is_an_error() {
    let server = Server::start();
    put_frames(&server, 60);
    server.fault(".jpg", usize::MAX, Fault::Status(403, "AccessDenied", None));
    let error = open(&server, "s3://cameras/cam").unwrap_err();
    assert!(matches!(error, SourceError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("AccessDenied"), "{error}");
}

#[test]
fn wrong_addresses_and_credentials_are_told() {
    let server = Server::start();
    put_frames(&server, 1);
    server.put("empty/notes.txt", b"no image");

    let error = open(&server, "s3://elsewhere/cam").unwrap_err();
    assert!(matches!(error, SourceError::Refused { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains("s3://elsewhere: HTTP 404, NoSuchBucket"),
        "{error}"
    );

    for address in ["s3://cameras/empty", "s3://cameras/nothing/here"] {
        let error = open(&server, address).unwrap_err();
        assert!(matches!(error, SourceError::NoImages { .. }), "{error}");
    }
    assert!(matches!(
        open(&server, "s3://cameras/no.mp4").unwrap_err(),
        SourceError::NotFound { .. }
    ));
    assert!(matches!(
        open(&server, "s3:///cam").unwrap_err(),
        SourceError::Refused { .. }
    ));

    for (id, secret) in [("reader", "guessed-in-vain"), ("nobody", "guessed-in-vain")] {
        let settings = S3Settings {
            credentials: S3Credentials::Keys {
                access_key_id: id.to_string(),
                secret_access_key: S3Secret::new(secret),
                session_token: None,
            },
            ..server.settings()
        };
        let error = open_with(&settings, "s3://cameras/cam", 1).unwrap_err();
        assert!(matches!(error, SourceError::Refused { .. }), "{error}");
        assert!(
            !format!("{error:?} {error} {settings:?}").contains("guessed"),
            "{error:?}"
        );
    }
}

#[test]
fn all_objects_broken_is_an_error_that_says_so() {
    let server = Server::start();
    for number in 1..=3 {
        server.put(&format!("cam/{number}.jpg"), b"no image");
    }
    let error = open(&server, "s3://cameras/cam").unwrap_err().to_string();
    assert!(error.contains("none of 3 images can be read"), "{error}");
    assert!(
        error.contains("cam/1.jpg: broken: neither a JPEG nor a PNG"),
        "{error}"
    );
}

#[test]
fn no_more_is_fetched_ahead_than_allowed() {
    let server = Server::start();
    put_frames(&server, 40);
    let settings = S3Settings {
        prefetch: 4,
        ..server.settings()
    };
    let mut source = open_with(&settings, "s3://cameras/cam", 1).unwrap();
    for taken in 1..=10 {
        // One frame is held since opening, for its size.
        server.wait_for_gets(taken + 4);
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(server.gets().len(), taken + 4);
        // The first is that one, and makes no room.
        source.next_frame().unwrap().unwrap();
        if taken == 1 {
            source.next_frame().unwrap().unwrap();
        }
    }
}

#[test]
fn no_more_bytes_are_fetched_ahead_than_allowed() {
    let server = Server::start();
    let frame = jpeg(100, 640, 480);
    for number in 1..=20 {
        server.put(&format!("cam/{number:02}.jpg"), &frame);
    }
    let two = 2 * (frame.len() as u64).next_multiple_of(4096);
    for (bytes, ahead) in [(two, 2), (1, 1)] {
        let before = server.gets().len();
        let settings = S3Settings {
            prefetch_bytes: bytes,
            ..server.settings()
        };
        let mut source = open_with(&settings, "s3://cameras/cam", 1).unwrap();
        server.wait_for_gets(before + 1 + ahead);
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(server.gets().len() - before, 1 + ahead);
        assert_eq!(all(&mut source).len(), 20);
    }
}

#[test]
fn late_objects_keep_their_place() {
    let server = Server::start();
    put_frames(&server, 24);
    for number in 1..=24_u64 {
        // 1, 9, 17 come last of their eight.
        let delay = Duration::from_millis((8 - (number - 1) % 8) * 30);
        server.fault(&format!("/{number:06}.jpg"), 1, Fault::Delay(delay));
    }
    let mut source = open(&server, "s3://cameras/cam").unwrap();
    assert_same(&all(&mut source), &as_folder(&server.path("cam")).0);
}

#[test]
fn reading_begins_at_any_frame() {
    let server = Server::start();
    put_frames(&server, 1200);
    for number in 1..=25 {
        server.put(&format!("plain/{number}.jpg"), &jpeg(number, 32, 24));
    }
    let mut source = open_with(&server.settings(), "s3://cameras/cam", 1100).unwrap();
    let frames = all(&mut source);
    assert_eq!(numbers(&frames), (1100..=1200).collect::<Vec<u64>>());
    assert_eq!(frames[0].timestamp, Duration::from_secs_f64(1099.0 / 30.0));
    assert_eq!(server.gets().len(), 101, "nothing before it is fetched");

    let mut source = open_with(&server.settings(), "s3://cameras/plain", 9).unwrap();
    let (expected, _) = as_folder(&server.path("plain"));
    assert_same(&all(&mut source), &expected[8..]);

    let mut source = open_with(&server.settings(), "s3://cameras/plain", 26).unwrap();
    assert_eq!(source.info().frame_count, Some(25));
    assert!(source.next_frame().unwrap().is_none());
}

#[test]
fn a_lost_store_is_an_error_and_reading_goes_on_when_it_is_back() {
    for format in [
        |n: u64| format!("cam/{n:06}.jpg"),
        |n: u64| format!("cam/{n}.jpg"),
    ] {
        let mut server = Server::start();
        for number in 1..=40 {
            server.put(&format(number), &jpeg(number as u8, 32, 24));
        }
        let (expected, _) = as_folder(&server.path("cam"));
        let settings = S3Settings {
            prefetch: 2,
            attempts: 2,
            ..server.settings()
        };
        // Skipped, and not listed the next time: numbers must not move up.
        std::fs::write(server.path(&format(3)), b"").unwrap();
        let mut source = open_with(&settings, "s3://cameras/cam", 1).unwrap();
        let mut frames = Vec::new();
        for _ in 0..10 {
            frames.extend(source.next_frame().unwrap());
        }
        server.kill();
        let error = loop {
            match source.next_frame() {
                Ok(frame) => frames.push(frame.unwrap()),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, SourceError::Unreachable { .. }), "{error}");
        assert!(source.next_frame().unwrap().is_none(), "the error repeats");
        let last = frames.last().unwrap().number;
        assert!((11..=14).contains(&last), "{last}");
        assert!(matches!(
            source.reopen(),
            Err(SourceError::Unreachable { .. })
        ));

        std::fs::remove_file(server.path(&format(3))).unwrap();
        server.revive();
        assert!(source.reopen().unwrap());
        frames.extend(all(&mut source));
        assert_eq!(source.skipped().count, 1);
        assert_same(&frames[..2], &expected[..2]);
        assert_same(&frames[2..], &expected[3..]);
    }
}

#[test]
fn nobody_there_is_told_in_bounded_time() {
    let mut server = Server::start();
    server.kill();
    let started = Instant::now();
    let error = open(&server, "s3://cameras/cam").unwrap_err();
    assert!(matches!(error, SourceError::Unreachable { .. }), "{error}");
    assert!(
        error
            .to_string()
            .starts_with("s3://cameras: cannot be reached: "),
        "{error}"
    );
    assert!(started.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_store_that_never_answers_is_given_up() {
    let server = Server::start();
    put_frames(&server, 3);
    server.fault("/000002.jpg", usize::MAX, Fault::Stall);
    let settings = S3Settings {
        timeout: Duration::from_millis(300),
        attempts: 2,
        ..server.settings()
    };
    let mut source = open_with(&settings, "s3://cameras/cam", 1).unwrap();
    assert_eq!(numbers(&all(&mut source)), [1, 3]);
    let reason = &source.skipped().examples[0].reason;
    assert!(
        reason.contains("unavailable: no complete answer within 0.3 s"),
        "{reason}"
    );
}

#[test]
fn a_wait_can_be_halted() {
    let server = Server::start();
    put_frames(&server, 3);
    server.fault("/000002.jpg", usize::MAX, Fault::Stall);
    let mut source = open(&server, "s3://cameras/cam").unwrap();
    source.next_frame().unwrap().unwrap();
    let halt = source.halt().unwrap();
    let reader = std::thread::spawn(move || {
        let started = Instant::now();
        let _ = source.next_frame();
        (started.elapsed(), source.next_frame().unwrap().is_none())
    });
    server.wait_for_gets(2);
    halt();
    let (waited, ended) = reader.join().unwrap();
    // Otherwise it would take ten seconds an attempt.
    assert!(waited < Duration::from_secs(8), "{waited:?}");
    assert!(ended);
}

#[tokio::test]
async fn a_program_with_its_own_runtime_can_read() {
    let server = Server::start();
    put_frames(&server, 5);
    let mut source = open(&server, "s3://cameras/cam").unwrap();
    assert_eq!(all(&mut source).len(), 5);
    drop(source);
}

#[test]
fn a_video_is_fetched_in_pieces_where_it_must() {
    let server = Server::start();
    let oracle = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle/source");
    let local = oracle.join(VIDEO);
    let bytes = std::fs::read(&local).unwrap();
    server.put("site/street.mp4", &bytes);
    let folder = tempfile::tempdir().unwrap();
    let settings = S3Settings {
        temp_dir: Some(folder.path().to_path_buf()),
        ..server.settings()
    };
    // Six cuts are more than the attempts, but each time some bytes come.
    let piece = bytes.len() / 8;
    server.fault("/street.mp4", 6, Fault::Cut(piece));
    server.fault("/street.mp4", 1, Fault::Status(503, "SlowDown", None));

    let address = "s3://cameras/site/street.mp4";
    let mut source = open_with(&settings, address, 1).unwrap();
    let mut expected = Mp4Source::open(&local).unwrap();
    assert_eq!(source.info().name, "street");
    assert_eq!(source.info().size, expected.info().size);
    let expected = all(&mut expected);
    assert_same(&all(&mut source), &expected);
    let ranges = server.ranges();
    assert_eq!(ranges.len(), 7, "{ranges:?}");
    assert_eq!(ranges[0], format!("bytes={piece}-"));
    assert!(!source.reopen().unwrap());

    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    drop(source);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);

    let mut source = open_with(&settings, address, 4).unwrap();
    assert_same(&all(&mut source), &expected[3..]);
}

#[test]
fn a_video_beyond_the_limit_is_refused_and_leaves_nothing() {
    let server = Server::start();
    server.put("big.mp4", &[0; 5000]);
    server.put("broken.mp4", &[0; 50]);
    let folder = tempfile::tempdir().unwrap();
    let settings = S3Settings {
        temp_dir: Some(folder.path().to_path_buf()),
        max_video_bytes: 4096,
        ..server.settings()
    };
    let error = open_with(&settings, "s3://cameras/big.mp4", 1).unwrap_err();
    assert!(
        error.to_string().contains("too_large: 5000 bytes"),
        "{error}"
    );
    let error = open_with(&settings, "s3://cameras/broken.mp4", 1).unwrap_err();
    assert!(
        error.to_string().contains("s3://cameras/broken.mp4"),
        "{error}"
    );
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// Another server than s3s: `tests/oracle/s3/moto_server.py` starts it and runs this.
#[test]
#[ignore = "needs a server: tests/oracle/s3/moto_server.py"]
fn another_server_gives_the_same() {
    let folder = std::env::var("MTMC_TEST_S3_FOLDER").unwrap();
    let folder = Path::new(&folder);
    let settings = S3Settings::from_env().unwrap();
    for name in ["site/many", "site/odd names"] {
        let (expected, local) = as_folder(&folder.join(name));
        let mut source = open_with(&settings, &format!("s3://cameras/{name}"), 1).unwrap();
        assert_same(&all(&mut source), &expected);
        assert_eq!(source.info(), local.info());
        assert_eq!(source.skipped().count, local.skipped().count);
    }
    let (expected, _) = as_folder(&folder.join("site/many"));
    let mut source = open_with(&settings, "s3://cameras/site/many", 2000).unwrap();
    assert_same(&all(&mut source), &expected[1999..]);

    let mut source = open_with(&settings, "s3://cameras/site/street.mp4", 1).unwrap();
    let mut local = Mp4Source::open(&folder.join("site/street.mp4")).unwrap();
    assert_same(&all(&mut source), &all(&mut local));

    let error = open_with(&settings, "s3://elsewhere/site", 1).unwrap_err();
    assert!(error.to_string().contains("NoSuchBucket"), "{error}");
    let error = open_with(&settings, "s3://cameras/nothing", 1).unwrap_err();
    assert!(matches!(error, SourceError::NoImages { .. }), "{error}");
}
