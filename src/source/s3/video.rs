//! A video in an object store: fetched into a temporary file, then read like any other.

use std::path::{Path, PathBuf};

use tokio::fs::File;
use tokio::io::{AsyncSeekExt, AsyncWriteExt};

use super::super::{
    Frame, FrameSource, OpenOptions, SkipCounts, SkipKind, SourceError, SourceInfo, open_video,
};
use super::address::Address;
use super::attempts::{Retry, Trouble, cut, too_large, within};
use super::runtime;
use super::settings::S3Settings;
use super::store::{Failure, Store, length};

/// A video that was fetched.
pub(super) struct Video {
    video: Box<dyn FrameSource>,
    info: SourceInfo,
    address: Address,
    /// Read at opening, when frames before it were passed over.
    first: Option<Frame>,
    /// Removed after the reader above is gone.
    file: TemporaryFile,
}

impl Video {
    /// Fetches the video at `address` and opens it at frame `first`.
    pub(super) fn open(
        address: Address,
        options: &OpenOptions,
        settings: &S3Settings,
        first: u64,
    ) -> Result<Self, SourceError> {
        let name = Path::new(address.name());
        let ending = name.extension().map(|ending| ending.to_string_lossy());
        let file = TemporaryFile::create(settings, ending.as_deref().unwrap_or("mp4"))?;
        let (from, to) = (address.clone(), file.path.clone());
        let asked = settings.clone();
        runtime::wait(async move {
            let store = Store::connect(&from.bucket, &asked).await?;
            let copied = download(&store, &from.key, &to).await;
            copied.map_err(|failure| not_fetched(&from, failure))
        })?;
        let video = open_video(&file.path, options.decoder)
            .map_err(|error| file.renamed(error, &address))?;
        let stem = name.file_stem().map(|stem| stem.to_string_lossy());
        let mut video = Self {
            info: SourceInfo {
                name: stem.as_deref().unwrap_or("video").to_string(),
                ..video.info().clone()
            },
            video,
            address,
            first: None,
            file,
        };
        video.pass_over(first.saturating_sub(1))?;
        Ok(video)
    }

    fn pass_over(&mut self, count: u64) -> Result<(), SourceError> {
        if count == 0 {
            return Ok(());
        }
        while let Some(frame) = self.next_frame()? {
            if frame.number > count {
                self.first = Some(frame);
                break;
            }
        }
        Ok(())
    }

    pub(super) fn info(&self) -> &SourceInfo {
        &self.info
    }

    pub(super) fn skipped(&self) -> &SkipCounts {
        self.video.skipped()
    }

    pub(super) fn next_frame(&mut self) -> Result<Option<Frame>, SourceError> {
        if let Some(frame) = self.first.take() {
            return Ok(Some(frame));
        }
        let next = self.video.next_frame();
        next.map_err(|error| self.file.renamed(error, &self.address))
    }
}

impl std::fmt::Debug for Video {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Video")
            .field("address", &self.address)
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}

fn not_fetched(address: &Address, failure: Failure) -> SourceError {
    match failure {
        Failure::Object(SkipKind::Missing, _) => SourceError::NotFound {
            path: address.to_string().into(),
        },
        Failure::Object(kind, reason) => SourceError::Refused {
            address: address.to_string(),
            reason: format!("{}: {reason}", kind.as_str()),
        },
        Failure::Bucket(error) => error,
    }
}

/// How far a download came.
#[derive(Default)]
struct Progress {
    have: u64,
    total: Option<u64>,
    /// Says which version of the object the bytes are from.
    tag: Option<String>,
}

/// Copies an object into a file; goes on where the connection was cut, as long as it gets on.
async fn download(store: &Store, key: &str, path: &Path) -> Result<(), Failure> {
    let disk = |error| Failure::Bucket(SourceError::io(path, error));
    let mut file = File::create(path).await.map_err(disk)?;
    let mut progress = Progress::default();
    let mut retry = Retry::new(&store.settings);
    let mut restarts = store.settings.attempts;
    loop {
        let before = progress.have;
        let trouble = match continue_download(store, key, &mut file, &mut progress).await {
            Ok(()) => break,
            Err(Stop::Disk(error)) => return Err(disk(error)),
            Err(Stop::Store(trouble)) => trouble,
        };
        let (reason, wait) = match trouble {
            Trouble::Passing(reason, wait) => (reason, wait),
            Trouble::Refused(reason) => return Err(Failure::Bucket(store.refused(reason))),
            // Another version may have taken its place meanwhile; that one counts from its start.
            Trouble::Object(_, reason) if before > 0 && restarts > 0 => {
                restarts -= 1;
                progress = Progress::default();
                (reason, None)
            }
            Trouble::Object(kind, reason) => return Err(Failure::Object(kind, reason)),
        };
        if progress.have > before {
            retry = Retry::new(&store.settings);
        }
        if !retry.pause(wait, &reason).await {
            return Err(store.lost(reason).await);
        }
    }
    file.flush().await.map_err(disk)
}

/// Why a download stopped.
enum Stop {
    Store(Trouble),
    Disk(std::io::Error),
}

fn too_much(length: Option<u64>, limit: u64) -> Stop {
    Stop::Store(Trouble::Object(
        SkipKind::TooLarge,
        too_large(length, limit),
    ))
}

/// One request: from the first byte that is missing to the end.
async fn continue_download(
    store: &Store,
    key: &str,
    file: &mut File,
    progress: &mut Progress,
) -> Result<(), Stop> {
    let from = (progress.have > 0).then_some((progress.have, progress.tag.as_deref()));
    let timeout = store.settings.timeout;
    let answer = within(timeout, store.request(key, from)).await;
    let mut object = answer.map_err(Stop::Store)?;
    let rest = length(&object);
    let expected = format!("bytes {}-", progress.have);
    let goes_on = object
        .content_range()
        .is_some_and(|range| range.starts_with(&expected));
    if from.is_none() || !goes_on {
        // The beginning, wanted or not: some servers know no ranges.
        *progress = Progress {
            have: 0,
            total: rest,
            tag: object.e_tag().map(str::to_string),
        };
        file.set_len(0).await.map_err(Stop::Disk)?;
    }
    let seek = file.seek(std::io::SeekFrom::Start(progress.have)).await;
    seek.map_err(Stop::Disk)?;
    let limit = store.settings.max_video_bytes;
    if let Some(total) = progress.total.filter(|total| *total > limit) {
        return Err(too_much(Some(total), limit));
    }
    loop {
        let next = within(timeout, async {
            object.body.try_next().await.map_err(|error| cut(&error))
        });
        let Some(part) = next.await.map_err(Stop::Store)? else {
            break;
        };
        if progress.have + part.len() as u64 > limit {
            return Err(too_much(None, limit));
        }
        file.write_all(&part).await.map_err(Stop::Disk)?;
        progress.have += part.len() as u64;
    }
    match progress.total {
        Some(total) if progress.have != total => Err(Stop::Store(Trouble::Passing(
            format!("{} of {total} bytes came", progress.have),
            None,
        ))),
        _ => Ok(()),
    }
}

/// A file that goes with this value.
#[derive(Debug)]
struct TemporaryFile {
    path: PathBuf,
}

impl TemporaryFile {
    /// An empty file that only this user can read.
    fn create(settings: &S3Settings, ending: &str) -> Result<Self, SourceError> {
        let folder = settings.temp_dir.clone().unwrap_or_else(std::env::temp_dir);
        let name = format!("mtmc-s3-{}.{ending}", uuid::Uuid::new_v4());
        let path = folder.join(name);
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options
            .open(&path)
            .map_err(|error| SourceError::io(&path, error))?;
        Ok(Self { path })
    }

    /// Errors name what people asked for.
    fn renamed(&self, mut error: SourceError, address: &Address) -> SourceError {
        match &mut error {
            SourceError::NotFound { path }
            | SourceError::Io { path, .. }
            | SourceError::Unsupported { path, .. }
            | SourceError::Broken { path, .. } => *path = address.to_string().into(),
            SourceError::FfmpegMissing { input, .. } | SourceError::Ffmpeg { input, .. } => {
                *input = address.to_string();
            }
            _ => {}
        }
        error
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        // If it cannot be removed now, the system's cleaning of its folder will.
        let _ = std::fs::remove_file(&self.path);
    }
}
