//! Frames from an object store: `s3://bucket/prefix` with JPEG or PNG objects, `s3://bucket/a.mp4`.
//!
//! Objects are fetched ahead of their use, within bounds ([`S3Settings`]), and come in natural
//! order of their keys with the numbers that the same images have in a folder
//! ([`FolderSource`](super::FolderSource)). What fails in passing is tried again, with pauses that
//! grow and are cut by chance, until a deadline. An object that is missing, empty, broken, too
//! large or refused is skipped and counted with its key and its [`SkipKind`](crate::source::SkipKind); a store that cannot
//! be reached is an error, after which [`FrameSource::reopen`] goes on with the frame that was due.
//!
//! ```no_run
//! use mtmc::source::{FrameSource, OpenOptions};
//! use mtmc::source::s3::S3Source;
//!
//! # fn main() -> Result<(), mtmc::source::SourceError> {
//! let mut frames = S3Source::open("s3://cameras/entrance", &OpenOptions::default())?;
//! while let Some(frame) = frames.next_frame()? {
//!     println!("{} at {:?}: {}x{}", frame.number, frame.timestamp, frame.width(), frame.height());
//! }
//! # Ok(())
//! # }
//! ```

mod address;
mod attempts;
mod frames;
mod keys;
mod listing;
mod runtime;
mod settings;
mod store;
mod video;

pub use settings::{S3Credentials, S3Secret, S3Settings};

use super::{Frame, FrameSource, Halt, OpenOptions, SkipCounts, SourceError, SourceInfo};
use address::{Address, Named};
use frames::Frames;
use video::Video;

/// The images below a prefix, one image, or one video of an object store.
///
/// - Images are the objects whose keys end in `.jpg`, `.jpeg`, `.jpe` or `.png` directly below
///   the prefix, taken as a folder; deeper ones are not entered. Where there is no such folder,
///   keys that begin with the text are taken (`s3://bucket/cam1/night-`).
/// - A key with an image's ending is a source of one frame; one with a video's ending is fetched
///   into a temporary file and opened like a local one.
/// - MOT Challenge sequences are known by their `seqinfo.ini`, as in folders.
///
/// [`SourceInfo::frame_count`] is told when the listing has come to its end, which may be long
/// after the first frame. [`Frame::jpeg`] has the bytes of the object, untouched.
#[derive(Debug)]
pub struct S3Source {
    inner: Inner,
}

#[derive(Debug)]
enum Inner {
    Frames(Box<Frames>),
    Video(Box<Video>),
}

impl S3Source {
    /// True for `s3://…`.
    pub fn is_s3(spec: &str) -> bool {
        let scheme = spec.split_once("://").map(|(scheme, _)| scheme);
        scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case("s3"))
    }

    /// Opens `address` with what the environment says ([`S3Settings::from_env`]).
    ///
    /// # Errors
    /// As [`S3Source::open_from`], and when a variable is wrong.
    pub fn open(address: &str, options: &OpenOptions) -> Result<Self, SourceError> {
        Self::open_from(address, options, &S3Settings::from_env()?, 1)
    }

    /// Opens `address` so that the first frame given is number `first` (from 1).
    ///
    /// Images before it are listed, a thousand a request, but not fetched; a video is decoded from
    /// its start. At or behind the end this is a source without frames, of size (0, 0).
    ///
    /// # Errors
    /// [`SourceError::Unreachable`] when the store does not answer, which may pass;
    /// [`SourceError::Refused`] for a wrong address, credentials that are missing or wrong, or a
    /// bucket that does not exist; [`SourceError::NoImages`] when none of the images can be read;
    /// for a video what opening a local one can give.
    pub fn open_from(
        address: &str,
        options: &OpenOptions,
        settings: &S3Settings,
        first: u64,
    ) -> Result<Self, SourceError> {
        settings.check()?;
        let Some(place) = Address::parse(address) else {
            return Err(SourceError::Refused {
                address: address.to_string(),
                reason: "not an address of the form s3://bucket/key".to_string(),
            });
        };
        let inner = match place.named() {
            Named::Video => Inner::Video(Box::new(Video::open(place, options, settings, first)?)),
            Named::Prefix | Named::Image => {
                Inner::Frames(Box::new(Frames::open(place, options, settings, first)?))
            }
        };
        Ok(Self { inner })
    }
}

impl FrameSource for S3Source {
    fn info(&self) -> &SourceInfo {
        match &self.inner {
            Inner::Frames(frames) => frames.info(),
            Inner::Video(video) => video.info(),
        }
    }

    fn next_frame(&mut self) -> Result<Option<Frame>, SourceError> {
        match &mut self.inner {
            Inner::Frames(frames) => frames.next_frame(),
            Inner::Video(video) => video.next_frame(),
        }
    }

    fn skipped(&self) -> &SkipCounts {
        match &self.inner {
            Inner::Frames(frames) => frames.skipped(),
            Inner::Video(video) => video.skipped(),
        }
    }

    /// Nothing that came before is fetched again, nor listed where the numbers in names have
    /// leading zeros. A video was fetched as a whole and cannot be lost on the way.
    fn reopen(&mut self) -> Result<bool, SourceError> {
        match &mut self.inner {
            Inner::Frames(frames) => frames.reopen(),
            Inner::Video(_) => Ok(false),
        }
    }

    fn halt(&self) -> Option<Halt> {
        match &self.inner {
            Inner::Frames(frames) => Some(frames.halt()),
            Inner::Video(_) => None,
        }
    }
}
