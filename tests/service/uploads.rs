//! Uploads over real sockets against the real binary: what comes of a video, and what becomes of
//! everything that is none.
//!
//! On a clone without the shared material a detector with made-up weights finds made-up people; what
//! is around it is the real thing.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use mtmc::sink::{FrameResult, Sink as _, VideoSink};
use mtmc_models::testing::{has_ffmpeg, made_up_image, shared_video};
use serde_json::Value;

use super::http::{self, Form, Response};
use super::place::{Place, mtmc, run};
use super::server::{Server, wait};

const UPLOAD: &str = "/api/inference/video";

/// 40 frames of 98x66 pixels (tests/oracle/source/make_goldens.py).
const VIDEO: &[u8] = include_bytes!("../oracle/source/bframes.mp4");

/// A video of so many frames, at 30 a second.
fn long_video(folder: &Path, frames: u32) -> Vec<u8> {
    let path = folder.join("long.mp4");
    let mut sink = VideoSink::create(&path, 30.0).unwrap();
    for number in 0..frames {
        let result = FrameResult {
            camera: 0,
            source: "long",
            frame_number: u64::from(number) + 1,
            timestamp: Duration::from_secs_f64(f64::from(number) / 30.0),
            image: &made_up_image(64, 48, number),
            jpeg: None,
            detections: &[],
            tracks: &[],
            identities: &[],
            classes: &[],
            processing_time_ms: 0.0,
        };
        sink.write(&result).unwrap();
    }
    Box::new(sink).finish().unwrap();
    std::fs::read(path).unwrap()
}

/// A service of its own, killed at the end.
struct Service {
    place: Place,
    server: Server,
}

impl Service {
    /// With made-up weights.
    fn start(more: &[&str]) -> Self {
        let mut place = Place::new();
        place.add_made_up("--weights", "deimv2-atto", [320, 320]);
        place.add(&["--classes", "all", "--confidence", "0.01"]);
        place.add(&["--outputs-keep-mib", "100"]);
        Self::at(place, more)
    }

    fn at(mut place: Place, more: &[&str]) -> Self {
        place.add(&["--upload-min-free", "1"]);
        let server = place.serve_with(more);
        Self { place, server }
    }

    /// Ends it as a power failure would, and starts it again on the same data.
    fn restart(&mut self, more: &[&str]) {
        self.server.kill();
        self.server = self.place.serve_with(more);
    }

    fn data(&self) -> PathBuf {
        self.place.data()
    }

    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
        self.server.send(method, path, headers, b"")
    }

    fn get(&self, path: &str) -> Response {
        self.send("GET", path, &[])
    }

    fn post(&self, path: &str, form: &Form, headers: &[(&str, &str)]) -> Response {
        http::post(&self.server.address, path, form, headers)
    }

    fn upload(&self, name: &str, content: &[u8]) -> Response {
        self.post(UPLOAD, &Form::of_video(name, content), &[])
    }

    /// Waits until an upload has ended.
    fn ended(&self, path: &str) -> Value {
        let mut state = Value::Null;
        wait("the end", || {
            let response = self.get(path);
            assert_eq!(response.status, 200, "{}", response.text());
            state = response.json();
            ["COMPLETED", "FAILED", "STOPPED"].contains(&state["status"].as_str().unwrap())
        });
        state
    }

    /// Names in the folder of files that come in.
    fn incoming(&self) -> Vec<String> {
        names(&self.data().join("uploads"))
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// A problem as RFC 9457 has it, of that status and kind.
fn expect_problem(response: &Response, status: u16, kind: &str) {
    assert_eq!(response.status, status, "{}", response.text());
    assert_eq!(
        response.header("content-type"),
        Some("application/problem+json")
    );
    let problem = response.json();
    assert_eq!(problem["type"], format!("/problems/{kind}"), "{problem}");
    assert_eq!(problem["status"], status);
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        !detail.contains("/uploads/"),
        "tells where files lie: {detail}"
    );
}

#[test]
fn the_result_is_that_of_the_command() {
    let Some(video) = shared_video("data/vtest-pets09-s2l1/vtest.avi") else {
        return;
    };
    let mut place = Place::new();
    if place.add_detector().is_none() {
        return;
    }
    // The first 40 frames as they are, without coding them anew.
    let cut = place.at("cut.avi");
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "error", "-i", video.to_str().unwrap()]);
    run(command.args(["-frames:v", "40", "-c", "copy"]).arg(&cut));
    let out = place.at("out");
    let mut command = mtmc();
    command.args(["track", "--quiet", "--video", "none"]);
    command.args(["--weights", &place.text("femto.safetensors")]);
    run(command.arg("--out").arg(&out).arg(&cut));
    let expected = std::fs::read_to_string(out.join("cut.txt")).unwrap();
    let summary = std::fs::read_to_string(out.join("summary.json")).unwrap();
    let summary: Value = serde_json::from_str(&summary).unwrap();

    let service = Service::at(place, &[]);
    let content = std::fs::read(&cut).unwrap();
    let response = service.upload("../../tmp/street.avi", &content);
    assert_eq!(response.status, 200, "{}", response.text());
    let result = response.json();
    assert_eq!(result["total_frames"], 40);
    assert_eq!(result["total_tracks"], summary["cameras"][0]["tracks"]);
    assert!(result["total_tracks"].as_u64().unwrap() >= 5, "{result}");
    assert!(result["avg_fps"].as_f64().unwrap() > 0.0);
    let statistics = result["statistics"].as_object().unwrap();
    assert!(statistics.values().all(Value::is_number));
    assert!(statistics["most_people_at_once"].as_f64().unwrap() >= 4.0);
    assert!(statistics["detect_ms"].as_f64().unwrap() > 0.0);

    let id = result["inference_id"].as_str().unwrap();
    let tracks = service.get(&format!("/outputs/{id}/tracks.txt"));
    assert_eq!(tracks.status, 200);
    assert_eq!(tracks.text(), expected);
    let path = result["output_video_path"].as_str().unwrap();
    assert_eq!(path, format!("/outputs/{id}/video.mp4"));
    let video = service.get(path);
    assert_eq!(video.header("content-type"), Some("video/mp4"));
    assert_eq!(&video.body[4..8], b"ftyp");
    assert_eq!(
        video.header("content-disposition"),
        Some("attachment; filename=\"street-video.mp4\"; filename*=UTF-8''street-video.mp4")
    );
    let state = service.get(response.header("content-location").unwrap());
    let state = state.json();
    assert_eq!(state["file_name"], "street.avi");
    assert_eq!(state["result"], result);
    assert!(service.incoming().is_empty(), "the upload itself is gone");
}

#[test]
fn a_client_may_wait_or_come_back() {
    let service = Service::start(&[]);
    let mut form = Form::of_video("a.mp4", VIDEO);
    form.field("visualize", None, b"false");
    let response = service.post(UPLOAD, &form, &[]);
    assert_eq!(response.status, 200, "{}", response.text());
    let waited = response.json();
    assert_eq!(waited["total_frames"], 40);
    assert_eq!(waited["output_video_path"], "");
    let id = waited["inference_id"].as_str().unwrap();
    assert_eq!(service.get(&format!("/outputs/{id}/video.mp4")).status, 404);
    let tracks = service.get(&format!("/outputs/{id}/tracks.txt"));
    assert!(tracks.text().lines().count() >= 40);

    let prefer = [("Prefer", "wait=1, respond-async")];
    for (path, headers) in [
        ("/api/inference/video?async=true&visualize=0", &[][..]),
        (UPLOAD, &prefer[..]),
    ] {
        let response = service.post(path, &Form::of_video("b.mp4", VIDEO), headers);
        assert_eq!(response.status, 202, "{}", response.text());
        let applied = response.header("preference-applied");
        assert_eq!(applied.is_some(), !headers.is_empty());
        let location = response.header("location").unwrap();
        let state = service.ended(location);
        assert_eq!(state["status"], "COMPLETED");
        assert_eq!(state["progress"], 100.0);
        assert_eq!(state["frames"], 40);
        let later = &state["result"];
        assert_eq!(later["total_tracks"], waited["total_tracks"]);
        let id = later["inference_id"].as_str().unwrap();
        let again = service.get(&format!("/outputs/{id}/tracks.txt"));
        assert_eq!(again.text(), tracks.text());
        assert_eq!(service.send("DELETE", location, &[]).status, 204);
        assert_eq!(service.send("DELETE", location, &[]).status, 404);
        assert_eq!(service.get(location).status, 404);
        assert_eq!(
            service.get(&format!("/outputs/{id}/tracks.txt")).status,
            404
        );
        let folder = service.data().join("outputs").join(id);
        wait("its files are gone", || !folder.exists());
    }
    let list = service.get(UPLOAD).json();
    assert_eq!(list["total_count"], 1);
    assert_eq!(list["inferences"][0]["inference_id"], id);
    let mut both = Form::of_video("a.mp4", VIDEO);
    both.field("visualize", None, b"false");
    let path = "/api/inference/video?visualize=true";
    expect_problem(&service.post(path, &both, &[]), 422, "invalid-request");
}

#[test]
fn a_picture_is_a_video_of_one_frame() {
    let service = Service::start(&[]);
    let picture = service.place.folder().join("p.png");
    made_up_image(96, 64, 1).save(&picture).unwrap();
    let response = service.upload("p.mp4", &std::fs::read(&picture).unwrap());
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(response.json()["total_frames"], 1);
}

#[test]
fn parts_of_a_result_and_what_the_client_has() {
    let service = Service::start(&[]);
    let result = service.upload("a.mp4", VIDEO).json();
    let path = result["output_video_path"].as_str().unwrap();
    let whole = service.get(path);
    let bytes = whole.body.len();
    let etag = whole.header("etag").unwrap();
    let modified = whole.header("last-modified").unwrap();
    assert_eq!(whole.header("accept-ranges"), Some("bytes"));
    assert_eq!(whole.header("x-content-type-options"), Some("nosniff"));
    let get = |headers: &[(&str, &str)]| service.send("GET", path, headers);

    let part = get(&[("Range", "bytes=100-199")]);
    assert_eq!(part.status, 206);
    assert_eq!(part.body, whole.body[100..200]);
    let expected = format!("bytes 100-199/{bytes}");
    assert_eq!(part.header("content-range"), Some(expected.as_str()));
    let tail = get(&[("Range", "bytes=-10")]);
    assert_eq!(tail.body, whole.body[bytes - 10..]);
    let rest = get(&[("Range", "bytes=500-")]);
    assert_eq!(rest.body, whole.body[500..]);

    let several = get(&[("Range", "bytes=0-9,20-29,-5")]);
    assert_eq!(several.status, 206);
    let kind = several.header("content-type").unwrap();
    let boundary = kind
        .strip_prefix("multipart/byteranges; boundary=")
        .unwrap();
    let mut expected = Vec::new();
    for (from, to) in [(0, 10), (20, 30), (bytes - 5, bytes)] {
        let head = format!(
            "\r\n--{boundary}\r\nContent-Type: video/mp4\r\nContent-Range: bytes {from}-{}/{bytes}\r\n\r\n",
            to - 1
        );
        expected.extend_from_slice(head.as_bytes());
        expected.extend_from_slice(&whole.body[from..to]);
    }
    expected.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    assert_eq!(several.body, expected);

    let beyond = get(&[("Range", &format!("bytes={bytes}-"))]);
    expect_problem(&beyond, 416, "range-not-satisfiable");
    let expected = format!("bytes */{bytes}");
    assert_eq!(beyond.header("content-range"), Some(expected.as_str()));
    assert_eq!(get(&[("Range", "bytes=x")]).body, whole.body);

    let range = ("Range", "bytes=0-0");
    assert_eq!(get(&[range, ("If-Range", etag)]).status, 206);
    assert_eq!(get(&[range, ("If-Range", modified)]).status, 206);
    assert_eq!(get(&[range, ("If-Range", "\"other\"")]).status, 200);
    let old = "Thu, 01 Jan 1998 00:00:00 GMT";
    assert_eq!(get(&[range, ("If-Range", old)]).status, 200);
    let known = get(&[("If-None-Match", &format!("\"x\", W/{etag}"))]);
    assert_eq!((known.status, known.body.len()), (304, 0));
    assert_eq!(get(&[("If-None-Match", "\"x\"")]).status, 200);
    assert_eq!(get(&[("If-Modified-Since", modified)]).status, 304);
    assert_eq!(get(&[("If-Modified-Since", old)]).status, 200);

    let head = service.send("HEAD", path, &[]);
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), Some(&*bytes.to_string()));
}

#[test]
fn only_results_are_served() {
    let service = Service::start(&[]);
    let result = service.upload("a.mp4", VIDEO).json();
    let id = result["inference_id"].as_str().unwrap();
    let outputs = service.data().join("outputs");
    std::fs::write(outputs.join("secret.txt"), "secret").unwrap();
    let tracks = outputs.join(id).join("tracks.txt");
    std::fs::remove_file(&tracks).unwrap();
    std::os::unix::fs::symlink(outputs.join("secret.txt"), &tracks).unwrap();
    let paths = [
        format!("/outputs/{id}/tracks.txt"),
        format!("/outputs/{id}/record.json"),
        format!("/outputs/{id}/"),
        format!("/outputs/{id}"),
        format!("/outputs/{id}/video.mp4/"),
        format!("/outputs/{id}/..%2fsecret.txt"),
        format!("/outputs/{id}/%2e%2e/secret.txt"),
        format!("/outputs/{id}/../secret.txt"),
        format!("/outputs/{id}/video.mp4%00"),
        format!("/outputs/{id}/%2fetc%2fpasswd"),
        "/outputs/secret.txt".to_string(),
        "/outputs/../outputs/secret.txt".to_string(),
        "/outputs/".to_string(),
        "/outputs//etc/passwd".to_string(),
        "/outputs/%2e%2e/%2e%2e/etc/passwd".to_string(),
        "/outputs/00000000-0000-0000-0000-000000000000/tracks.txt".to_string(),
    ];
    for path in paths {
        let response = service.get(&path);
        assert!([400, 404].contains(&response.status), "{path}");
        assert!(!response.text().contains("secret\n"), "{path}");
        assert_ne!(response.text(), "secret", "{path}");
    }
}

#[test]
fn names_of_files_are_text_and_nothing_else() {
    let service = Service::start(&[]);
    let long = "x".repeat(4096);
    let cases = [
        ("../../../../etc/passwd", "passwd"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("/absolute/a.mp4", "a.mp4"),
        ("nul\0byte.mp4", "nulbyte.mp4"),
        ("监控 ünï.mp4", "监控 ünï.mp4"),
        ("..", "upload"),
        (&long, &long[..120]),
        ("-rf; $(touch x) `y`.mp4", "-rf; $(touch x) `y`.mp4"),
    ];
    let before = names(service.place.folder());
    for (name, shown) in cases {
        let response = service.upload(name, VIDEO);
        // A name that is no header at all may be refused.
        if name.contains('\0') && response.status == 400 {
            continue;
        }
        assert_eq!(response.status, 200, "{name}: {}", response.text());
        let state = service.get(response.header("content-location").unwrap());
        assert_eq!(state.json()["file_name"], shown, "{name}");
        let path = response.json()["output_video_path"].clone();
        let video = service.get(path.as_str().unwrap());
        let disposition = video.header("content-disposition").unwrap();
        assert!(disposition.is_ascii() && disposition.len() < 2000);
    }
    assert_eq!(names(service.place.folder()), before);
    assert!(service.incoming().is_empty());
    for folder in names(&service.data().join("outputs")) {
        assert!(uuid::Uuid::parse_str(&folder).is_ok(), "{folder}");
    }
}

/// A PNG of 30,000 x 30,000 white pixels would be a few kilobytes; its header alone is enough.
fn huge_png() -> Vec<u8> {
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
    png.extend_from_slice(&30_000_u32.to_be_bytes());
    png.extend_from_slice(&30_000_u32.to_be_bytes());
    png.extend_from_slice(b"\x08\x02\0\0\0");
    let crc = crc32(&png[12..29]);
    png.extend_from_slice(&crc.to_be_bytes());
    png.extend_from_slice(b"\0\0\0\0IEND\xae\x42\x60\x82");
    png
}

/// CRC-32 as PNG has it (annex D of its standard).
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xEDB8_8320 * (crc & 1));
        }
    }
    !crc
}

#[test]
fn what_is_no_video_is_refused_with_the_reason_and_leaves_nothing() {
    let service = Service::start(&["--upload-max-mib", "1", "--upload-max-frames", "39"]);
    let unsupported = "unsupported-media-type";
    let unreadable = "unreadable-video";
    let mut noise = b"\0\0\0\x18ftypisom\0\0\0\0isommp42".to_vec();
    noise.extend((0..5000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8));
    let playlist = format!(
        "#EXTM3U\n#EXTINF:1,\nhttp://{}/health\n#EXT-X-ENDLIST\n",
        service.server.address
    );
    let mut flipped = VIDEO.to_vec();
    let half = flipped.len() / 2;
    for byte in &mut flipped[half..] {
        *byte ^= 0x5A;
    }
    let too_large = vec![0; (1 << 20) + 1];
    let mut too_large_video = VIDEO[..64].to_vec();
    too_large_video.extend_from_slice(&too_large);
    let cases: [(&str, &[u8], u16, &str); 12] = [
        ("empty.mp4", b"", 422, unreadable),
        ("one.mp4", b"x", 415, unsupported),
        (
            "page.mp4",
            b"<html><script>alert(1)</script>",
            415,
            unsupported,
        ),
        ("list.m3u8", playlist.as_bytes(), 415, unsupported),
        (
            "list.mp4",
            b"ffconcat version 1.0\nfile /etc/passwd\n",
            415,
            unsupported,
        ),
        (
            "bomb.zip",
            b"PK\x03\x04aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            415,
            unsupported,
        ),
        ("noise.mp4", &noise, 422, unreadable),
        ("cut.mp4", &VIDEO[..VIDEO.len() / 2], 422, unreadable),
        ("flipped.mp4", &flipped, 422, unreadable),
        ("huge.png", &huge_png(), 422, unreadable),
        ("long.mp4", VIDEO, 422, unreadable),
        ("large.mp4", &too_large_video, 413, "payload-too-large"),
    ];
    for (name, content, status, kind) in cases {
        let response = service.upload(name, content);
        assert_eq!(response.status, status, "{name}: {}", response.text());
        expect_problem(&response, status, kind);
        assert!(service.incoming().is_empty(), "{name}");
    }
    assert!(names(&service.data().join("outputs")).is_empty());
    assert_eq!(service.get("/health").status, 200);
    let told = service.upload("huge.png", &huge_png()).text();
    assert!(told.contains("size exceeds limit"), "{told}");
    let told = service.upload("long.mp4", VIDEO).text();
    assert!(told.contains("at most 39"), "{told}");

    // Forms that are none, or others.
    let invalid = "invalid-request";
    let post = |form: &Form| service.post(UPLOAD, form, &[]);
    let mut none = Form::default();
    none.field("visualize", None, b"true");
    expect_problem(&post(&none), 422, invalid);
    let mut two = Form::of_video("a.mp4", VIDEO);
    two.field("video", Some("b.mp4"), VIDEO);
    expect_problem(&post(&two), 422, invalid);
    let mut unknown = Form::of_video("a.mp4", VIDEO);
    unknown.field("path", None, b"/etc/passwd");
    expect_problem(&post(&unknown), 422, invalid);
    let mut maybe = Form::of_video("a.mp4", VIDEO);
    maybe.field("visualize", None, b"perhaps");
    expect_problem(&post(&maybe), 422, invalid);
    let json = [("Content-Type", "application/json")];
    let response = http::request(&service.server.address, "POST", UPLOAD, &json, b"{}");
    assert!([400, 415].contains(&response.status), "{}", response.text());
    // Headers of a part without end must not fill the memory.
    let mut endless = b"--x\r\nContent-Disposition: form-data; name=\"".to_vec();
    endless.resize(900 << 10, b'a');
    let form = [("Content-Type", "multipart/form-data; boundary=x")];
    let response = http::request(&service.server.address, "POST", UPLOAD, &form, &endless);
    expect_problem(&response, 400, invalid);
    assert!(response.text().contains("too long"), "{}", response.text());
    assert!(service.incoming().is_empty());
}

// Files with every header in place that break off, or that name others: each is read as what it is
// and nothing else.
#[test]
fn foreign_containers_are_read_and_cut_ones_refused() {
    if !has_ffmpeg() {
        return;
    }
    let service = Service::start(&[]);
    let folder = service.place.folder();
    let source = folder.join("source.mp4");
    std::fs::write(&source, VIDEO).unwrap();
    for (ending, codec) in [("avi", "mpeg4"), ("mkv", "copy"), ("mov", "copy")] {
        let path = folder.join(format!("made.{ending}"));
        let status = Command::new("ffmpeg")
            .args(["-v", "error", "-i", source.to_str().unwrap()])
            .args(["-c:v", codec, path.to_str().unwrap()])
            .status();
        assert!(status.unwrap().success());
        let content = std::fs::read(&path).unwrap();
        let response = service.upload("video", &content);
        assert_eq!(response.status, 200, "{ending}: {}", response.text());
        assert_eq!(response.json()["total_frames"], 40, "{ending}");
        let cut = service.upload("video", &content[..content.len() * 2 / 3]);
        expect_problem(&cut, 422, "unreadable-video");
        assert!(cut.text().contains("cut short"), "{ending}: {}", cut.text());
    }
    // An AVI outside, a playlist inside.
    let mut playlist = b"RIFF\0\0\0\0AVI LIST\0\0\0\0hdrl".to_vec();
    playlist.extend_from_slice(b"\n#EXTM3U\nfile:///etc/passwd\n");
    playlist.resize(2000, b'\n');
    let response = service.upload("a.avi", &playlist);
    expect_problem(&response, 422, "unreadable-video");
    assert!(!response.text().contains("root:"));
    assert!(service.incoming().is_empty());
}

#[test]
fn there_is_room_for_so_many_and_no_more() {
    let service = Service::start(&["--upload-running", "1", "--upload-waiting", "1"]);
    let form = Form::of_video("a.mp4", VIDEO);
    // Two that have begun and do not go on.
    let mut stalled = Vec::new();
    for _ in 0..2 {
        stalled.push(http::begin(&service.server.address, UPLOAD, &form, 2000));
    }
    wait("both are received", || service.incoming().len() == 2);
    let refused = service.upload("b.mp4", VIDEO);
    expect_problem(&refused, 429, "too-many-uploads");
    assert_eq!(refused.header("retry-after"), Some("10"));
    // They go away in the middle: their files go, and there is room again.
    stalled.clear();
    wait("nothing stays", || service.incoming().is_empty());
    let mut response = service.upload("b.mp4", VIDEO);
    for _ in 0..100 {
        if response.status != 429 {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
        response = service.upload("b.mp4", VIDEO);
    }
    assert_eq!(response.status, 200, "{}", response.text());
}

#[test]
fn an_upload_that_stops_coming_is_given_up() {
    let service = Service::start(&["--upload-idle", "1"]);
    let form = Form::of_video("a.mp4", VIDEO);
    let socket = http::begin(&service.server.address, UPLOAD, &form, 2000);
    let response = http::read(socket);
    expect_problem(&response, 408, "upload-timeout");
    assert!(service.incoming().is_empty());
}

#[test]
fn two_at_once_are_two() {
    let service = Service::start(&[]);
    let alone = service.upload("a.mp4", VIDEO).json();
    let both: Vec<Value> = std::thread::scope(|scope| {
        let one = || scope.spawn(|| service.upload("a.mp4", VIDEO).json());
        let both = [one(), one()];
        both.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let tracks = |result: &Value| {
        let id = result["inference_id"].as_str().unwrap();
        service.get(&format!("/outputs/{id}/tracks.txt")).text()
    };
    assert_ne!(both[0]["inference_id"], both[1]["inference_id"]);
    for result in &both {
        assert_eq!(tracks(result), tracks(&alone));
    }
}

#[test]
fn a_client_that_goes_away_and_a_service_that_is_killed_lose_nothing() {
    let mut service = Service::start(&["--upload-running", "1"]);
    let video = long_video(service.place.folder(), 400);
    let form = Form::of_video("long.mp4", &video);
    // All of it is sent, and nobody waits.
    let socket = http::begin(&service.server.address, UPLOAD, &form, usize::MAX);
    wait("it is accepted", || {
        service.get(UPLOAD).json()["total_count"] == 1
    });
    drop(socket);
    let list = service.get(UPLOAD).json();
    let first = list["inferences"][0]["inference_id"].as_str().unwrap();
    let first = format!("{UPLOAD}/{first}");
    let second = service.post("/api/inference/video?async=1", &form, &[]);
    let second = second.header("location").unwrap().to_string();
    wait("work has begun", || {
        service.get(&first).json()["frames"].as_u64() > Some(0)
    });
    let state = service.get(&first).json();
    assert_eq!(state["status"], "PROCESSING");
    assert_eq!(service.get(&second).json()["status"], "QUEUED");
    // What it was in the middle of receiving.
    let leftover = format!("{}.part", uuid::Uuid::now_v7());
    std::fs::write(service.data().join("uploads").join(leftover), "x").unwrap();

    service.restart(&["--upload-running", "1"]);
    for path in [&first, &second] {
        let state = service.ended(path);
        assert_eq!(state["status"], "COMPLETED", "{state}");
        assert_eq!(state["result"]["total_frames"], 400);
    }
    // The uploaded file goes a moment after its result is told.
    wait("nothing stays", || service.incoming().is_empty());

    // Results are still there after another one.
    service.restart(&[]);
    let state = service.get(&first).json();
    let video = state["result"]["output_video_path"].as_str().unwrap();
    assert_eq!(service.get(video).status, 200);
}

#[test]
fn work_can_be_called_off() {
    let service = Service::start(&["--upload-running", "1"]);
    let video = long_video(service.place.folder(), 3000);
    let form = Form::of_video("long.mp4", &video);
    let mut places = Vec::new();
    for _ in 0..2 {
        let response = service.post("/api/inference/video?async=true", &form, &[]);
        places.push(response.header("location").unwrap().to_string());
    }
    wait("work has begun", || {
        service.get(&places[0]).json()["frames"].as_u64() > Some(0)
    });
    for place in &places {
        assert_eq!(service.send("DELETE", place, &[]).status, 204);
    }
    wait("nothing stays", || {
        service.incoming().is_empty() && names(&service.data().join("outputs")).is_empty()
    });
    assert_eq!(service.upload("a.mp4", VIDEO).status, 200);
}

#[test]
fn an_upload_is_done_once_for_each_key() {
    let service = Service::start(&[]);
    let key = [("Idempotency-Key", "\"7c4a\"")];
    let form = Form::of_video("a.mp4", VIDEO);
    let first = service.post(UPLOAD, &form, &key);
    assert_eq!(first.status, 200, "{}", first.text());
    let again = service.post(UPLOAD, &Form::of_video("other-name.mp4", VIDEO), &key);
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(again.json(), first.json());
    let path = "/api/inference/video?visualize=false";
    let other = service.post(path, &form, &key);
    expect_problem(&other, 422, "idempotency-key-reused");
    let wrong = [("Idempotency-Key", "a b")];
    expect_problem(&service.post(UPLOAD, &form, &wrong), 400, "invalid-request");
    let total = service.get(UPLOAD).json()["total_count"].clone();
    assert_eq!(total, 1);

    // While the first is being done.
    let video = long_video(service.place.folder(), 300);
    let slow = Form::of_video("long.mp4", &video);
    let key = [("Idempotency-Key", "slow")];
    let socket = http::begin_with(&service.server.address, UPLOAD, &slow, usize::MAX, &key);
    wait("it is accepted", || {
        service.get(UPLOAD).json()["total_count"] == 2
    });
    let early = service.post(UPLOAD, &slow, &key);
    expect_problem(&early, 409, "request-in-progress");
    // The client goes away; its answer stays.
    drop(socket);
    wait("the first is done", || {
        service.post(UPLOAD, &slow, &key).status == 200
    });
    assert_eq!(service.get(UPLOAD).json()["total_count"], 2);

    let key = [("Idempotency-Key", "later")];
    let path = "/api/inference/video?async=true";
    let first = service.post(path, &form, &key);
    let again = service.post(path, &form, &key);
    assert_eq!((first.status, again.status), (202, 202));
    assert_eq!(first.header("location"), again.header("location"));
}

#[test]
fn a_task_is_started_once_for_each_key() {
    let service = Service::start(&["--source-template", "/nowhere/{camera}"]);
    let start = |body: &str, key: &str| {
        let headers = [
            ("Content-Type", "application/json"),
            ("Idempotency-Key", key),
        ];
        let path = "/api/v1/detection-processing-tasks/start";
        http::request(
            &service.server.address,
            "POST",
            path,
            &headers,
            body.as_bytes(),
        )
    };
    let first = start(r#"{"environment_id": "default"}"#, "k");
    assert_eq!(first.status, 202, "{}", first.text());
    let again = start(r#"{ "environment_id" : "default" }"#, "k");
    assert_eq!(again.json(), first.json());
    assert_eq!(again.header("location"), first.header("location"));
    let other = start(r#"{"environment_id": "default", "max_frames": 1}"#, "k");
    expect_problem(&other, 422, "idempotency-key-reused");
    let new = start(r#"{"environment_id": "default"}"#, "l");
    assert_ne!(new.json()["task_id"], first.json()["task_id"]);
}
