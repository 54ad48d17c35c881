//! Frames in: a folder of images, an object store, an MP4 with H.264, or anything that an installed
//! `ffmpeg` opens.
//!
//! [`open`] picks by what is there. A frame that cannot be decoded is skipped, counted and
//! reported with its number and the reason ([`SkipCounts`]); a file that cannot be read on ends
//! with a [`SourceError`] that names file and frame. Frames keep their numbers when others are
//! skipped, so that results still line up with a ground truth.
//!
//! ```no_run
//! use mtmc::source::{self, OpenOptions};
//!
//! # fn main() -> Result<(), mtmc::source::SourceError> {
//! let mut frames = source::open("street.mp4", &OpenOptions::default())?;
//! while let Some(frame) = frames.next_frame()? {
//!     println!("{} at {:?}: {}x{}", frame.number, frame.timestamp, frame.width(), frame.height());
//! }
//! println!("{} frames could not be read", frames.skipped().count);
//! # Ok(())
//! # }
//! ```

pub mod container;
mod error;
mod ffmpeg;
mod folder;
mod image_file;
mod mp4;
mod paced;
mod reconnect;
pub mod s3;
pub(crate) mod yuv;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use image::RgbImage;

use container::Container;
pub use error::SourceError;
pub(crate) use error::with_causes;
pub use ffmpeg::FfmpegSource;
pub use folder::FolderSource;
pub(crate) use image_file::decode_image;
pub use image_file::read_image;
pub use mp4::Mp4Source;
pub use paced::PacedSource;
pub(crate) use reconnect::Delays;
pub use reconnect::{AbsentSource, Backoff, Lasting, Reopen, open_lasting};

/// Longest side of a frame that is decoded, in pixels: a bound against hostile files.
pub const MAX_SIDE: u32 = 16_384;

/// Most pixels of a frame that is decoded (64 Mi, 192 MiB as RGB): twice 8K video.
pub const MAX_PIXELS: u64 = 64 << 20;

/// A source gives up after this many broken frames in a row.
const MAX_BROKEN_IN_A_ROW: u64 = 1000;

/// Where frames come from, one after the other.
pub trait FrameSource: Send {
    /// What is known before the first frame.
    fn info(&self) -> &SourceInfo;

    /// The next frame that could be decoded, in display order; `None` at the end.
    ///
    /// # Errors
    /// When the source cannot be read on; frames delivered before stay valid, and a further
    /// call gives `None`.
    fn next_frame(&mut self) -> Result<Option<Frame>, SourceError>;

    /// Frames that were there but could not be decoded, so far.
    fn skipped(&self) -> &SkipCounts;

    /// Goes on after a failure, behind the frame that was given or skipped last, with numbers and
    /// timestamps as if nothing had happened. False where a source cannot do that.
    ///
    /// # Errors
    /// It still fails; it may be tried again.
    fn reopen(&mut self) -> Result<bool, SourceError> {
        Ok(false)
    }

    /// Whether its frames are of now: their time is when they arrive, and an end is a failure.
    fn is_live(&self) -> bool {
        false
    }

    /// What makes a [`next_frame`](Self::next_frame) that waits on another thread return soon, with
    /// whatever outcome, and those after it not wait; `None` where it never waits for long.
    fn halt(&self) -> Option<Halt> {
        None
    }
}

/// Ends a source's waiting: see [`FrameSource::halt`].
pub type Halt = Box<dyn Fn() + Send>;

/// What is known of a source before its first frame.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceInfo {
    /// Name for people and for result files: the file's name without its ending, the folder's
    /// name, or the sequence's name.
    pub name: String,
    /// Frames a second, where the source tells.
    pub frame_rate: Option<f64>,
    /// Number of frames, where the source tells: a hint for progress bars, not a promise.
    pub frame_count: Option<u64>,
    /// Width and height of the first frame in pixels. The images of a folder may differ from
    /// it; the frames of a video do not.
    pub size: (u32, u32),
}

/// One decoded frame.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Number of the frame in its source, from 1; skipped frames keep theirs.
    pub number: u64,
    /// Time since the first frame.
    pub timestamp: Duration,
    /// The pixels: RGB, 8 bits, upright.
    pub image: RgbImage,
    /// The JPEG file that the pixels came from, if [`OpenOptions::keep_jpeg`] asked for it.
    pub jpeg: Option<Vec<u8>>,
}

impl Frame {
    /// Width in pixels.
    pub fn width(&self) -> u32 {
        self.image.width()
    }

    /// Height in pixels.
    pub fn height(&self) -> u32 {
        self.image.height()
    }
}

/// How many frames could not be decoded, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SkipCounts {
    /// Number of skipped frames.
    pub count: u64,
    /// The first [`SkipCounts::MAX_EXAMPLES`] of them.
    pub examples: Vec<SkippedFrame>,
    /// How many there are of each kind.
    pub kinds: BTreeMap<SkipKind, u64>,
}

/// Kinds of reasons for which a frame is skipped; their names do not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum SkipKind {
    /// It cannot be decoded.
    Broken,
    /// Nothing is there any more.
    Missing,
    /// It has no bytes.
    Empty,
    /// It is larger than what is fetched.
    TooLarge,
    /// It may not be read.
    Denied,
    /// It could not be fetched, though others of its store could.
    Unavailable,
}

impl SkipKind {
    /// The name in reasons and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Broken => "broken",
            Self::Missing => "missing",
            Self::Empty => "empty",
            Self::TooLarge => "too_large",
            Self::Denied => "denied",
            Self::Unavailable => "unavailable",
        }
    }
}

/// One frame that could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkippedFrame {
    /// Its number in the source, from 1.
    pub number: u64,
    /// What is wrong with it, with the file's name where each frame has its own.
    pub reason: String,
}

impl SkipCounts {
    /// How many skipped frames are kept with their reason; the rest is only counted.
    pub const MAX_EXAMPLES: usize = 100;

    fn add(&mut self, number: u64, reason: impl Into<String>) {
        self.add_kind(number, SkipKind::Broken, reason);
    }

    fn add_kind(&mut self, number: u64, kind: SkipKind, reason: impl Into<String>) {
        self.count += 1;
        *self.kinds.entry(kind).or_default() += 1;
        if self.examples.len() < Self::MAX_EXAMPLES {
            self.examples.push(SkippedFrame {
                number,
                reason: reason.into(),
            });
        }
    }
}

/// Which decoder reads a video file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum VideoDecoder {
    /// The built-in one where it can, `ffmpeg` for everything else.
    #[default]
    Auto,
    /// Only the built-in one.
    BuiltIn,
    /// Only `ffmpeg`.
    Ffmpeg,
}

/// How to open a source.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct OpenOptions {
    /// Frames a second of a folder of images, over what its `seqinfo.ini` says. Videos have
    /// their own rate and ignore it.
    pub frame_rate: Option<f64>,
    /// Keep each frame's JPEG file beside its pixels, where it has one.
    pub keep_jpeg: bool,
    /// Which decoder reads videos.
    pub decoder: VideoDecoder,
}

/// Opens a folder of images, a single image, a video file, an address such as
/// `rtsp://camera/stream`, or `-` (a video on standard input).
///
/// Addresses that start with `s3://` are read by [`s3::S3Source`], with what the environment says;
/// folders and images by [`FolderSource`], MP4 files with H.264 by [`Mp4Source`],
/// everything else by [`FfmpegSource`].
///
/// # Errors
/// When there is nothing at `spec`, when it holds no frame, or when it takes `ffmpeg` and that
/// is not installed.
pub fn open(spec: &str, options: &OpenOptions) -> Result<Box<dyn FrameSource>, SourceError> {
    if s3::S3Source::is_s3(spec) {
        return Ok(Box::new(s3::S3Source::open(spec, options)?));
    }
    if spec == "-" || is_address(spec) {
        return Ok(Box::new(FfmpegSource::open(spec, "a stream")?));
    }
    let path = Path::new(spec);
    let metadata = std::fs::metadata(path).map_err(|error| SourceError::io(path, error))?;
    if metadata.is_dir() || image_file::has_image_ending(path) {
        return Ok(Box::new(FolderSource::open(path, options)?));
    }
    open_video(path, options.decoder)
}

fn open_video(path: &Path, decoder: VideoDecoder) -> Result<Box<dyn FrameSource>, SourceError> {
    if decoder == VideoDecoder::Ffmpeg {
        return Ok(Box::new(FfmpegSource::open_file(
            path,
            "ffmpeg was asked for",
        )?));
    }
    let refused = match Mp4Source::open(path) {
        Ok(source) => return Ok(Box::new(source)),
        Err(error) => error,
    };
    if decoder == VideoDecoder::BuiltIn {
        return Err(refused);
    }
    // Whatever the built-in reader says about a file, ffmpeg may know better; what it said is
    // told only where there is no ffmpeg to ask.
    let reason = match &refused {
        SourceError::Unsupported { reason, .. } | SourceError::Broken { reason, .. } => reason,
        _ => return Err(refused),
    };
    Ok(Box::new(FfmpegSource::open_file(path, reason)?))
}

/// Opens a stranger's file, of which [`Container::of`] told the kind: it is read as that and nothing
/// else, whatever it is called, and nothing else can be reached from it. Images are told by their
/// ending: `path` must have [`Container::ending`].
///
/// # Errors
/// When it holds no frame that can be decoded, is cut short, or takes an `ffmpeg` that is not
/// installed.
pub fn open_untrusted(
    path: &Path,
    container: Container,
) -> Result<Box<dyn FrameSource>, SourceError> {
    let Some(demuxer) = container.demuxer() else {
        let options = OpenOptions::default();
        return Ok(Box::new(FolderSource::open(path, &options)?));
    };
    container
        .check_whole(path)
        .map_err(|reason| SourceError::unsupported(path, reason))?;
    let reason = match container {
        Container::Mp4 => match Mp4Source::open(path) {
            Ok(source) => return Ok(Box::new(source)),
            Err(SourceError::Unsupported { reason, .. } | SourceError::Broken { reason, .. }) => {
                reason
            }
            Err(error) => return Err(error),
        },
        _ => "not an MP4 file with H.264".to_string(),
    };
    Ok(Box::new(FfmpegSource::open_untrusted(
        path, demuxer, &reason,
    )?))
}

/// Whether `spec` is the address of something that goes on whether or not anyone looks, and cannot be
/// read again: any that is no file's. What comes over HTTP is one if its name ends as a video's does.
pub fn is_live(spec: &str) -> bool {
    if !is_address(spec) {
        return false;
    }
    let (scheme, rest) = spec.split_once("://").unwrap_or(("", spec));
    match scheme {
        "file" | "s3" => false,
        "http" | "https" => {
            let path = rest.split(['?', '#']).next().unwrap_or(rest);
            let file = path.split_once('/').map_or("", |(_, path)| path);
            let ending = Path::new(file).extension().unwrap_or_default();
            !VIDEO_ENDINGS
                .iter()
                .any(|known| ending.eq_ignore_ascii_case(known))
        }
        _ => true,
    }
}

/// Endings of video files.
const VIDEO_ENDINGS: [&str; 10] = [
    "mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "mpeg", "ts", "flv",
];

/// True for `scheme://…`, with a scheme of at least two letters (so not `C:\…`).
fn is_address(spec: &str) -> bool {
    let Some((scheme, _)) = spec.split_once("://") else {
        return false;
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    scheme.len() >= 2 && scheme.chars().all(plain)
}

/// Refuses frames beyond [`MAX_SIDE`] and [`MAX_PIXELS`], and empty ones.
fn check_size(width: u64, height: u64) -> Result<(), String> {
    if width == 0 || height == 0 {
        return Err("a frame without pixels".to_string());
    }
    let side = u64::from(MAX_SIDE);
    if width > side || height > side || width * height > MAX_PIXELS {
        return Err(format!(
            "a frame of {width}x{height} pixels is larger than this program decodes \
             (at most {MAX_SIDE} a side and {MAX_PIXELS} in all)"
        ));
    }
    Ok(())
}

/// The last part of a path without its ending, for result files; `fallback` if there is none.
fn stem(path: &Path, fallback: &str) -> String {
    match path.file_stem() {
        Some(name) => name.to_string_lossy().into_owned(),
        None => fallback.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_from_paths() {
        assert!(is_address("rtsp://camera/stream"));
        assert!(is_address("https://example.org/a.mp4"));
        assert!(!is_address("C://videos/a.mp4"));
        assert!(!is_address("/videos/a.mp4"));
        assert!(!is_address("odd name ://x"));
    }

    #[test]
    fn what_goes_on_by_itself_is_live() {
        for spec in [
            "rtsp://camera/stream",
            "udp://@:1234",
            "http://camera/mjpeg?fps=5",
            "https://host/live.m3u8",
            "http://camera.mp4",
        ] {
            assert!(is_live(spec), "{spec}");
        }
        for spec in [
            "a.mp4",
            "-",
            "folder",
            "file:///a",
            "s3://bucket/camera",
            "https://host/a.MP4?x=y.z",
        ] {
            assert!(!is_live(spec), "{spec}");
        }
    }

    #[test]
    fn sizes_are_bounded() {
        assert!(check_size(1920, 1080).is_ok());
        assert!(check_size(7680, 4320).is_ok());
        assert!(check_size(0, 10).is_err());
        assert!(check_size(16_385, 1).is_err());
        assert!(check_size(16_384, 16_384).is_err());
    }

    #[test]
    fn skipped_frames_are_counted_without_growing() {
        let mut skipped = SkipCounts::default();
        for number in 1..=1000 {
            skipped.add(number, "broken");
        }
        assert_eq!(skipped.count, 1000);
        assert_eq!(skipped.examples.len(), SkipCounts::MAX_EXAMPLES);
    }
}
