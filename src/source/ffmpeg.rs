//! Everything else: an installed `ffmpeg` decodes, as a child process with raw frames on a pipe.
//!
//! The pipe carries binary PPM images: raw RGB behind a header with the size, so nothing about
//! the stream has to be guessed. The pipe is the only buffer; a reader that pauses makes
//! `ffmpeg` pause. The child is killed when the source is dropped.
//!
//! Pixels are those of OpenCV's `VideoCapture` with the same FFmpeg version (its scaler's
//! default flags; `accurate_rnd` would differ by one grey level on average).

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use image::RgbImage;
use serde::Deserialize;

use super::folder::DEFAULT_FRAME_RATE;
use super::{
    Frame, FrameSource, Halt, SkipCounts, SourceError, SourceInfo, check_size, is_address, is_live,
    stem,
};

/// [`MAX_PIXELS`](super::MAX_PIXELS), as `ffmpeg` takes it.
const MAX_PIXELS_TEXT: &str = "67108864";

/// How much of what `ffmpeg` prints is kept: its end.
const MAX_MESSAGE_BYTES: usize = 4096;

/// How long `ffprobe` may take before the source is opened without what it would tell.
const PROBE_TIMEOUT: Duration = Duration::from_secs(20);

/// Frames of a video, decoded by an installed `ffmpeg`.
///
/// Frame numbers count what `ffmpeg` delivers; a frame that it drops as broken shows in
/// `ffmpeg`'s own messages, not in [`SkipCounts`]. Timestamps are frame numbers over the
/// average frame rate (30 a second where the stream doesn't tell one).
#[derive(Debug)]
pub struct FfmpegSource {
    /// The file or address as it may be shown: without credentials.
    input: String,
    /// The same as `ffmpeg` knows it, and may print it.
    given: String,
    info: SourceInfo,
    skipped: SkipCounts,
    child: Arc<Mutex<Child>>,
    live: bool,
    frames: BufReader<ChildStdout>,
    /// Collects what `ffmpeg` prints.
    messages: Option<JoinHandle<Vec<u8>>>,
    /// The first frame, read at opening.
    first: Option<RgbImage>,
    delivered: u64,
    ended: bool,
}

impl FfmpegSource {
    /// Opens a local file; `reason` says why the built-in readers do not do.
    ///
    /// # Errors
    /// When `ffmpeg` is not installed, or cannot read a frame.
    pub fn open_file(path: &Path, reason: &str) -> Result<Self, SourceError> {
        // `file:` keeps names that start with `-` or look like an address from being options.
        let input = format!("file:{}", path.display());
        Self::start(
            &input,
            &path.display().to_string(),
            &stem(path, "video"),
            reason,
            None,
        )
    }

    /// Opens a stranger's file, which `ffmpeg` reads with `demuxer` and no other: no playlist, no
    /// script, no other file and no network can be reached from it, and frame size, memory and
    /// time are bounded.
    ///
    /// # Errors
    /// As [`open_file`](Self::open_file).
    pub fn open_untrusted(
        path: &Path,
        demuxer: &'static str,
        reason: &str,
    ) -> Result<Self, SourceError> {
        let input = format!("file:{}", path.display());
        let shown = path.display().to_string();
        Self::start(&input, &shown, &stem(path, "video"), reason, Some(demuxer))
    }

    /// Opens an address that `ffmpeg` understands (`rtsp://…`, `http://…`), or `-` for
    /// standard input; `reason` says why the built-in readers do not do.
    ///
    /// # Errors
    /// When `ffmpeg` is not installed, or cannot read a frame.
    pub fn open(address: &str, reason: &str) -> Result<Self, SourceError> {
        if address == "-" {
            return Self::start("pipe:0", "standard input", "stdin", reason, None);
        }
        let shown = without_credentials(address);
        Self::start(address, &shown, &name_of_address(address), reason, None)
    }

    /// `untrusted` names the only demuxer that may be used.
    fn start(
        input: &str,
        shown: &str,
        name: &str,
        reason: &str,
        untrusted: Option<&'static str>,
    ) -> Result<Self, SourceError> {
        let missing = |error: &std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => SourceError::FfmpegMissing {
                input: shown.to_string(),
                reason: reason.to_string(),
            },
            _ => SourceError::Ffmpeg {
                input: shown.to_string(),
                frames: 0,
                message: format!("cannot be started: {error}"),
            },
        };
        let version = Command::new("ffmpeg")
            .arg("-version")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| missing(&error))?;
        let version = String::from_utf8_lossy(&version.stdout).into_owned();
        let facts = if is_local_file(input) {
            probe(input, untrusted)
        } else {
            StreamFacts::default()
        };
        let mut child = decode_command(input, &version, untrusted)
            .spawn()
            .map_err(|error| missing(&error))?;
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(missing(&std::io::Error::other("no pipe")));
        };
        let mut source = Self {
            input: shown.to_string(),
            given: input.to_string(),
            info: SourceInfo {
                name: name.to_string(),
                frame_rate: facts.frame_rate,
                frame_count: facts.frame_count,
                size: (0, 0),
            },
            skipped: SkipCounts::default(),
            child: Arc::new(Mutex::new(child)),
            live: is_live(input),
            frames: BufReader::with_capacity(1 << 16, stdout),
            messages: Some(std::thread::spawn(move || {
                last_bytes(stderr, MAX_MESSAGE_BYTES)
            })),
            first: None,
            delivered: 0,
            ended: false,
        };
        source.first = source.read_image()?;
        match &source.first {
            Some(image) => source.info.size = image.dimensions(),
            None => return Err(source.failure("there is no frame in it")),
        }
        Ok(source)
    }

    /// Reads one image from the pipe; `None` when `ffmpeg` has ended well.
    fn read_image(&mut self) -> Result<Option<RgbImage>, SourceError> {
        let (width, height) = match read_ppm_header(&mut self.frames) {
            Ok(Some(size)) => size,
            Ok(None) => return self.finish(),
            Err(reason) => return Err(self.failure(&reason)),
        };
        if let Err(reason) = check_size(u64::from(width), u64::from(height)) {
            return Err(self.failure(&reason));
        }
        let mut image = RgbImage::new(width, height);
        match self.frames.read_exact(&mut image) {
            Ok(()) => Ok(Some(image)),
            Err(_) => Err(self.failure("its output breaks off within a frame")),
        }
    }

    /// The pipe has ended: tells a good end from a bad one.
    fn finish(&mut self) -> Result<Option<RgbImage>, SourceError> {
        let status = lock(&self.child).wait();
        match status {
            Ok(status) if status.success() => {
                self.ended = true;
                Ok(None)
            }
            Ok(status) => Err(self.failure(&status.to_string())),
            Err(error) => Err(self.failure(&error.to_string())),
        }
    }

    /// Ends the child and makes an error of what it printed, or of `reason` if it was silent.
    fn failure(&mut self, reason: &str) -> SourceError {
        self.stop();
        let printed = self.messages.take().and_then(|thread| thread.join().ok());
        let printed = String::from_utf8_lossy(&printed.unwrap_or_default())
            .trim()
            .replace(&self.given, &self.input);
        SourceError::Ffmpeg {
            input: self.input.clone(),
            frames: self.delivered,
            message: if printed.is_empty() {
                reason.to_string()
            } else {
                printed
            },
        }
    }

    fn stop(&mut self) {
        self.ended = true;
        // It may have ended by itself already: both calls are then without effect.
        let mut child = lock(&self.child);
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl FrameSource for FfmpegSource {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn next_frame(&mut self) -> Result<Option<Frame>, SourceError> {
        let image = match self.first.take() {
            Some(image) => image,
            None if self.ended => return Ok(None),
            None => match self.read_image()? {
                Some(image) => image,
                None => return Ok(None),
            },
        };
        let rate = self.info.frame_rate.unwrap_or(DEFAULT_FRAME_RATE);
        let seconds = self.delivered as f64 / rate;
        self.delivered += 1;
        Ok(Some(Frame {
            number: self.delivered,
            timestamp: Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX),
            image,
            jpeg: None,
        }))
    }

    fn skipped(&self) -> &SkipCounts {
        &self.skipped
    }

    fn is_live(&self) -> bool {
        self.live
    }

    fn halt(&self) -> Option<Halt> {
        let child = self.child.clone();
        Some(Box::new(move || {
            // Without it the pipe ends, and so does whoever reads from it.
            let _ = lock(&child).kill();
        }))
    }
}

/// The child; whoever panicked with it left it as good as it was.
fn lock(child: &Mutex<Child>) -> MutexGuard<'_, Child> {
    child.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for FfmpegSource {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.messages.take() {
            let _ = thread.join();
        }
    }
}

fn is_local_file(input: &str) -> bool {
    input.starts_with("file:")
}

/// Most bytes that `ffmpeg` takes at once for a stranger's file: four planes of 16 bits of the
/// largest frame.
const UNTRUSTED_ALLOCATION: &str = "536870912";

/// Seconds of computing that `ffmpeg` spends on a stranger's file.
const UNTRUSTED_SECONDS: &str = "7200";

/// Options that come before `-i`.
fn input_options(input: &str, untrusted: Option<&'static str>) -> Vec<&'static str> {
    if let Some(demuxer) = untrusted {
        return vec![
            "-protocol_whitelist",
            "file",
            // Demuxers may open others for what they find inside.
            "-format_whitelist",
            demuxer_names(demuxer),
            "-f",
            demuxer,
            "-max_pixels",
            MAX_PIXELS_TEXT,
            "-max_alloc",
            UNTRUSTED_ALLOCATION,
        ];
    }
    if is_local_file(input) {
        // A file may name others (playlists do): let none of them lead to the network.
        return vec!["-protocol_whitelist", "file,crypto,data"];
    }
    if input.starts_with("rtsp://") || input.starts_with("rtsps://") {
        // Over UDP, lost packets smear the picture.
        return vec!["-rtsp_transport", "tcp"];
    }
    Vec::new()
}

/// All names of a demuxer, as a list of those that are allowed wants them.
fn demuxer_names(demuxer: &'static str) -> &'static str {
    match demuxer {
        "mov" => "mov,mp4,m4a,3gp,3g2,mj2",
        "matroska" => "matroska,webm",
        other => other,
    }
}

fn decode_command(input: &str, version: &str, untrusted: Option<&'static str>) -> Command {
    let mut command = Command::new("ffmpeg");
    command.args(["-hide_banner", "-loglevel", "error"]);
    if untrusted.is_some() {
        command.args(["-timelimit", UNTRUSTED_SECONDS]);
    }
    if input == "pipe:0" {
        command.stdin(Stdio::inherit());
    } else {
        command.arg("-nostdin").stdin(Stdio::null());
    }
    command.args(input_options(input, untrusted));
    command.args(timeout_options(input, version));
    command.args(["-i", input]);
    command
        .args(["-map", "0:v:0"])
        .args(passthrough_option(version));
    command.args([
        "-f",
        "image2pipe",
        "-c:v",
        "ppm",
        "-pix_fmt",
        "rgb24",
        "pipe:1",
    ]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Microseconds that a network may be silent before `ffmpeg` gives up.
const NETWORK_TIMEOUT: &str = "10000000";

/// Options that keep `ffmpeg` from waiting for a silent network for ever. FFmpeg 5.0 renamed that of
/// RTSP.
fn timeout_options(input: &str, version: &str) -> Vec<&'static str> {
    let option = match input.split_once("://") {
        Some(("rtsp" | "rtsps", _)) if is_older(version, (5, 0)) => "-stimeout",
        Some(("rtsp" | "rtsps", _)) => "-timeout",
        Some(("http" | "https" | "tcp" | "rtmp", _)) => "-rw_timeout",
        _ => return Vec::new(),
    };
    vec![option, NETWORK_TIMEOUT]
}

/// The option that hands out each decoded frame once, whatever its time. FFmpeg 5.1 renamed it.
fn passthrough_option(version: &str) -> [&'static str; 2] {
    if is_older(version, (5, 1)) {
        ["-vsync", "passthrough"]
    } else {
        ["-fps_mode", "passthrough"]
    }
}

/// Whether what `ffmpeg -version` says is before a release. Builds from the repository are named
/// after a commit: taken as new.
fn is_older(version: &str, release: (u32, u32)) -> bool {
    let number = version.strip_prefix("ffmpeg version ").unwrap_or("");
    let number = number.strip_prefix('n').unwrap_or(number);
    let mut parts = number
        .split(|c: char| !c.is_ascii_digit())
        .map(str::parse::<u32>);
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < release,
        _ => false,
    }
}

/// Width and height of a binary PPM with 8 bits (`P6`, size, `255`); `None` at the end.
fn read_ppm_header(reader: &mut impl BufRead) -> Result<Option<(u32, u32)>, String> {
    const MAX_LINE: u64 = 64;
    let mut lines = Vec::new();
    for _ in 0..3 {
        let mut line = String::new();
        reader
            .take(MAX_LINE)
            .read_line(&mut line)
            .map_err(|error| error.to_string())?;
        if line.is_empty() && lines.is_empty() {
            return Ok(None);
        }
        lines.push(line.trim_end().to_string());
    }
    let size = lines[1].split_once(' ');
    let size = size.and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
    match (lines[0].as_str(), size, lines[2].as_str()) {
        ("P6", Some(size), "255") => Ok(Some(size)),
        _ => Err("its output is not what was asked for".to_string()),
    }
}

/// What `ffprobe` knows of a stream.
#[derive(Debug, Default, PartialEq)]
struct StreamFacts {
    frame_rate: Option<f64>,
    frame_count: Option<u64>,
}

/// Asks `ffprobe`; where it is missing, slow or at a loss, nothing is known.
fn probe(input: &str, untrusted: Option<&'static str>) -> StreamFacts {
    let entries = "stream=avg_frame_rate,r_frame_rate,nb_frames,duration:format=duration";
    let child = Command::new("ffprobe")
        .args(["-v", "error"])
        .args(input_options(input, untrusted))
        .args([
            "-select_streams",
            "v:0",
            "-show_entries",
            entries,
            "-of",
            "json",
            "-i",
            input,
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = child else {
        return StreamFacts::default();
    };
    let Some(stdout) = child.stdout.take() else {
        return StreamFacts::default();
    };
    let reader = std::thread::spawn(move || last_bytes(stdout, 1 << 16));
    let deadline = Instant::now() + PROBE_TIMEOUT;
    while let Ok(None) = child.try_wait() {
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    parse_probe(&reader.join().unwrap_or_default())
}

fn parse_probe(json: &[u8]) -> StreamFacts {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Report {
        streams: Vec<Stream>,
        format: Format,
    }
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Stream {
        avg_frame_rate: String,
        r_frame_rate: String,
        nb_frames: Option<String>,
        duration: Option<String>,
    }
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Format {
        duration: Option<String>,
    }
    let report: Report = serde_json::from_slice(json).unwrap_or_default();
    let Some(stream) = report.streams.first() else {
        return StreamFacts::default();
    };
    let frame_rate = ratio(&stream.avg_frame_rate).or_else(|| ratio(&stream.r_frame_rate));
    let duration = stream.duration.as_ref().or(report.format.duration.as_ref());
    let counted = stream
        .nb_frames
        .as_ref()
        .and_then(|count| count.parse().ok());
    let estimated = || {
        let frames = duration?.parse::<f64>().ok()? * frame_rate?;
        (frames.is_finite() && frames >= 1.0).then_some(frames.round() as u64)
    };
    StreamFacts {
        frame_rate,
        frame_count: counted.or_else(estimated),
    }
}

/// `30000/1001` as a number; `None` for `0/0` and other nonsense.
fn ratio(text: &str) -> Option<f64> {
    let (numerator, denominator) = text.split_once('/')?;
    let value = numerator.parse::<f64>().ok()? / denominator.parse::<f64>().ok()?;
    (value.is_finite() && value > 0.0).then_some(value)
}

/// Reads to the end, keeping the last `limit` bytes.
fn last_bytes(mut reader: impl Read, limit: usize) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut chunk = [0_u8; 1024];
    loop {
        match reader.read(&mut chunk) {
            Ok(0) => return kept,
            Ok(count) => kept.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return kept,
        }
        if kept.len() > limit {
            kept.drain(..kept.len() - limit);
        }
    }
}

/// An address without user and password, for messages.
fn without_credentials(address: &str) -> String {
    let Some((scheme, rest)) = address.split_once("://") else {
        return address.to_string();
    };
    let authority = rest.split('/').next().unwrap_or(rest);
    match authority.rsplit_once('@') {
        Some((credentials, _)) => format!("{scheme}://{}", &rest[credentials.len() + 1..]),
        None => address.to_string(),
    }
}

/// A plain file name from an address: its last part, without password, query or ending.
pub(super) fn name_of_address(address: &str) -> String {
    let path = if is_address(address) {
        address.split_once("://").map_or(address, |(_, rest)| rest)
    } else {
        address
    };
    let path = path.split(['?', '#']).next().unwrap_or(path);
    let path = path.rsplit_once('@').map_or(path, |(_, host)| host);
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    // A host's name has no ending to take off.
    let last = match parts.as_slice() {
        [] => "stream".to_string(),
        [host] => (*host).to_string(),
        [.., last] => stem(Path::new(last), "stream"),
    };
    let plain = |c: char| {
        if c.is_alphanumeric() || "._-".contains(c) {
            c
        } else {
            '_'
        }
    };
    let name: String = last.chars().map(plain).collect();
    if name.trim_matches('.').is_empty() {
        "stream".to_string()
    } else {
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_get_one_demuxer_and_one_file() {
        assert_eq!(MAX_PIXELS_TEXT, crate::source::MAX_PIXELS.to_string());
        let options = input_options("file:/x.mkv", Some("matroska"));
        let value = |name: &str| {
            let place = options.iter().position(|option| *option == name).unwrap();
            options[place + 1]
        };
        assert_eq!(value("-protocol_whitelist"), "file");
        assert_eq!(value("-f"), "matroska");
        assert_eq!(value("-format_whitelist"), "matroska,webm");
    }

    #[test]
    fn ppm_headers() {
        let mut reader = &b"P6\n768 576\n255\nrest"[..];
        assert_eq!(read_ppm_header(&mut reader), Ok(Some((768, 576))));
        assert_eq!(reader, b"rest");
        assert_eq!(read_ppm_header(&mut &b""[..]), Ok(None));
        for bad in [
            &b"P6\n768"[..],
            b"P5\n1 1\n255\n",
            b"P6\n1 1\n65535\n",
            &[b'P'; 500],
        ] {
            assert!(read_ppm_header(&mut &bad[..]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_option_follows_the_version() {
        let option = |version| passthrough_option(version)[0];
        assert_eq!(
            option("ffmpeg version 5.1.9-0+deb12u1 Copyright"),
            "-fps_mode"
        );
        assert_eq!(option("ffmpeg version n7.1 Copyright"), "-fps_mode");
        assert_eq!(option("ffmpeg version N-109876-gdeadbeef"), "-fps_mode");
        assert_eq!(option("ffmpeg version 4.4.2-0ubuntu0.22.04.1"), "-vsync");
        assert_eq!(option("ffmpeg version 5.0.1"), "-vsync");
        assert_eq!(option(""), "-fps_mode");
    }

    #[test]
    fn silent_networks_are_given_up() {
        let option = |input, version| timeout_options(input, version).first().copied();
        let version = "ffmpeg version 4.4.2-0ubuntu0.22.04.1";
        assert_eq!(option("rtsp://camera/1", version), Some("-stimeout"));
        let version = "ffmpeg version 5.1.9-0+deb12u1 Copyright";
        assert_eq!(option("rtsp://camera/1", version), Some("-timeout"));
        assert_eq!(option("http://camera/1", version), Some("-rw_timeout"));
        assert_eq!(option("file:a.mp4", version), None);
    }

    #[test]
    fn probe_reports() {
        let json = br#"{"streams":[{"r_frame_rate":"10/1","avg_frame_rate":"30000/1001",
            "duration":"2.0"}],"format":{"duration":"2.5"}}"#;
        let facts = parse_probe(json);
        assert!((facts.frame_rate.unwrap() - 29.97).abs() < 0.001);
        assert_eq!(facts.frame_count, Some(60));
        let json = br#"{"streams":[{"avg_frame_rate":"0/0","nb_frames":"795"}]}"#;
        assert_eq!(parse_probe(json).frame_count, Some(795));
        assert_eq!(parse_probe(b"nonsense"), StreamFacts::default());
    }

    #[test]
    fn credentials_are_not_shown() {
        let shown = without_credentials("rtsp://user:p@ss@camera:554/live@1?x=y");
        assert_eq!(shown, "rtsp://camera:554/live@1?x=y");
        assert_eq!(without_credentials("http://host/a@b"), "http://host/a@b");
    }

    #[test]
    fn names_of_addresses_are_plain() {
        assert_eq!(
            name_of_address("rtsp://user:pass@camera:554/live/main?token=1"),
            "main"
        );
        assert_eq!(name_of_address("rtsp://user:pass@10.0.0.7"), "10.0.0.7");
        assert_eq!(name_of_address("https://example.org/a%20b.mp4"), "a_20b");
        assert_eq!(name_of_address("rtsp://x/.."), "stream");
    }
}
