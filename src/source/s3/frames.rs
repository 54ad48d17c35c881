//! The images below a prefix as frames: listed, fetched ahead, given in order.
//!
//! A task lists keys and starts one fetch a key. A fetch holds a place in the window, and room for
//! its bytes, from before it starts until its frame is taken, so a reader that pauses makes
//! listing and fetching pause.

use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{AbortHandle, JoinSet};

use super::super::folder::{frame_of, frame_rate};
use super::super::{
    Frame, Halt, MAX_BROKEN_IN_A_ROW, OpenOptions, SkipCounts, SkipKind, SourceError, SourceInfo,
};
use super::address::{Address, Named};
use super::attempts::too_large;
use super::keys::{Listed, Numbered, Position};
use super::listing::{Listing, open};
use super::runtime;
use super::settings::S3Settings;
use super::store::{Failure, Store};

/// Bytes that one permit of the byte window stands for.
const UNIT: u64 = 4096;

/// Objects refused one after the other until that is no matter of single objects any more.
const MAX_DENIED_IN_A_ROW: u32 = 32;

/// The images below a prefix, or a single one.
#[derive(Debug)]
pub(super) struct Frames {
    place: Arc<Place>,
    info: SourceInfo,
    skipped: SkipCounts,
    /// Behind what was given or skipped last.
    position: Position,
    /// Read at opening, for its size.
    first: Option<Frame>,
    denied: u32,
    fetching: Option<Fetching>,
    /// False after an error that would come again.
    can_reopen: bool,
    halt: Arc<HaltSwitch>,
}

/// Where the images are.
#[derive(Debug)]
struct Place {
    store: Store,
    address: Address,
    /// All keys start with it.
    prefix: String,
    keep_jpeg: bool,
}

/// Ends the task that is waited for, and every later one.
#[derive(Debug, Default)]
struct HaltSwitch {
    state: Mutex<(bool, Option<AbortHandle>)>,
}

impl HaltSwitch {
    fn lock(&self) -> MutexGuard<'_, (bool, Option<AbortHandle>)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This is the task that is waited for from now on.
    fn watch(&self, task: AbortHandle) {
        let mut state = self.lock();
        if state.0 {
            task.abort();
        }
        state.1 = Some(task);
    }

    fn halt(&self) {
        let mut state = self.lock();
        state.0 = true;
        if let Some(task) = &state.1 {
            task.abort();
        }
    }
}

/// The task that fetches ahead; it ends with this value.
#[derive(Debug)]
struct Fetching {
    slots: Receiver<Slot>,
    task: AbortHandle,
}

impl Drop for Fetching {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the fetching task sends, in the order of frames.
enum Slot {
    /// An object that is on its way.
    Object(Coming),
    /// The last message.
    End {
        total: Option<u64>,
        error: Option<SourceError>,
    },
}

struct Coming {
    numbered: Numbered,
    /// Number of all frames, where it is known.
    total: Option<u64>,
    bytes: Receiver<Result<Vec<u8>, Failure>>,
    /// Given back when the frame was taken.
    _room: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

impl Frames {
    /// Opens the images at `address`, from frame `first` on.
    pub(super) fn open(
        address: Address,
        options: &OpenOptions,
        settings: &S3Settings,
        first: u64,
    ) -> Result<Self, SourceError> {
        let place = address.clone();
        let asked = settings.clone();
        let opened = runtime::wait(async move { open(&place, &asked, first).await })?;
        let name = match address.named() {
            Named::Prefix => address.name(),
            _ => address
                .name()
                .rsplit_once('.')
                .map_or("image", |(stem, _)| stem),
        };
        let told = opened.seqinfo.as_ref();
        let info = SourceInfo {
            name: told
                .and_then(|told| told.name.clone())
                .unwrap_or_else(|| name.to_string()),
            frame_rate: Some(frame_rate(options, told.and_then(|told| told.frame_rate))),
            frame_count: opened.listing.keys.total(),
            size: (0, 0),
        };
        let mut frames = Self {
            place: Arc::new(Place {
                store: opened.store,
                prefix: opened.listing.prefix.clone(),
                keep_jpeg: options.keep_jpeg,
                address,
            }),
            info,
            skipped: SkipCounts::default(),
            position: opened.listing.keys.position(),
            first: None,
            denied: 0,
            fetching: None,
            can_reopen: true,
            halt: Arc::default(),
        };
        let at_end = first > 1 && opened.listing.keys.is_empty();
        frames.fetch(opened.listing)?;
        if !at_end {
            frames.find_first()?;
        }
        Ok(frames)
    }

    /// Starts fetching what `listing` gives.
    fn fetch(&mut self, listing: Listing) -> Result<(), SourceError> {
        let (sender, slots) = mpsc::channel();
        let work = fetch_all(Arc::clone(&self.place), listing, sender);
        let task = runtime::handle()?.spawn(work).abort_handle();
        self.halt.watch(task.clone());
        self.fetching = Some(Fetching { slots, task });
        Ok(())
    }

    /// Goes on behind the frame that was given or skipped last, under the same numbers even where
    /// objects vanished meanwhile.
    pub(super) fn reopen(&mut self) -> Result<bool, SourceError> {
        if !self.can_reopen {
            return Ok(false);
        }
        let place = Arc::clone(&self.place);
        let position = self.position.clone();
        let listing = runtime::start(async move {
            let mut listing = Listing::behind(&place.store, &place.prefix, &position);
            listing.fill(&place.store).await?;
            Ok(listing)
        })?;
        self.halt.watch(listing.task());
        self.fetch(listing.wait()?)?;
        Ok(true)
    }

    /// What ends a wait of [`Frames::next_frame`] and [`Frames::reopen`].
    pub(super) fn halt(&self) -> Halt {
        let switch = Arc::clone(&self.halt);
        Box::new(move || switch.halt())
    }

    /// Reads the first frame, for its size.
    fn find_first(&mut self) -> Result<(), SourceError> {
        let Some(frame) = self.next_frame()? else {
            let why = self.skipped.examples.first().map(|skipped| &skipped.reason);
            return Err(SourceError::NoImages {
                path: self.place.address.to_string().into(),
                reason: match why {
                    Some(why) => format!(
                        "none of {} images can be read; the first: {why}",
                        self.skipped.count
                    ),
                    None => "no images below this prefix (keys ending in .jpg, .jpeg or .png)"
                        .to_string(),
                },
            });
        };
        self.info.size = (frame.width(), frame.height());
        self.first = Some(frame);
        Ok(())
    }

    pub(super) fn info(&self) -> &SourceInfo {
        &self.info
    }

    pub(super) fn skipped(&self) -> &SkipCounts {
        &self.skipped
    }

    pub(super) fn next_frame(&mut self) -> Result<Option<Frame>, SourceError> {
        if let Some(frame) = self.first.take() {
            return Ok(Some(frame));
        }
        loop {
            let opening = self.info.size == (0, 0);
            if opening && self.skipped.count >= MAX_BROKEN_IN_A_ROW {
                self.fetching = None;
            }
            let Some(fetching) = &self.fetching else {
                return Ok(None);
            };
            let slot = fetching.slots.recv();
            let coming = match slot {
                Ok(Slot::Object(coming)) => coming,
                Ok(Slot::End { total, error }) => {
                    self.fetching = None;
                    self.info.frame_count = total.or(self.info.frame_count);
                    // Names in disorder are so the next time.
                    self.can_reopen = !matches!(error, Some(SourceError::Broken { .. }));
                    return error.map_or(Ok(None), Err);
                }
                Err(_) => return self.fail(runtime::stopped()),
            };
            if let Some(frame) = self.take(&coming)? {
                return Ok(Some(frame));
            }
        }
    }

    /// Waits for an object and decodes it; `None` when it is skipped.
    fn take(&mut self, coming: &Coming) -> Result<Option<Frame>, SourceError> {
        let Numbered { number, listed, .. } = &coming.numbered;
        self.info.frame_count = coming.total.or(self.info.frame_count);
        let (kind, reason) = match coming.bytes.recv() {
            Ok(Ok(bytes)) if bytes.is_empty() => (SkipKind::Empty, "no bytes".to_string()),
            Ok(Ok(bytes)) => match self.decode(*number, bytes) {
                Ok(frame) => {
                    self.denied = 0;
                    self.position = coming.numbered.position();
                    return Ok(Some(frame));
                }
                Err(reason) => (SkipKind::Broken, reason),
            },
            Ok(Err(Failure::Object(kind, reason))) => (kind, reason),
            Ok(Err(Failure::Bucket(error))) => return self.fail(error),
            Err(_) => return self.fail(runtime::stopped()),
        };
        self.denied = if kind == SkipKind::Denied {
            self.denied + 1
        } else {
            0
        };
        if self.denied >= MAX_DENIED_IN_A_ROW {
            self.denied = 0;
            let error = self
                .place
                .store
                .refused(format!("{}: {reason}", listed.key));
            return self.fail(error);
        }
        let reason = format!("{}: {}: {reason}", listed.key, kind.as_str());
        self.skipped.add_kind(*number, kind, reason);
        self.position = coming.numbered.position();
        Ok(None)
    }

    fn decode(&self, number: u64, bytes: Vec<u8>) -> Result<Frame, String> {
        let rate = self.info.frame_rate.unwrap_or(1.0);
        frame_of(number, rate, bytes, self.place.keep_jpeg)
    }

    /// Ends reading; [`Frames::reopen`] may go on.
    fn fail<T>(&mut self, error: SourceError) -> Result<T, SourceError> {
        self.fetching = None;
        Err(error)
    }
}

async fn fetch_all(place: Arc<Place>, mut listing: Listing, slots: Sender<Slot>) {
    let store = &place.store;
    let places = Arc::new(Semaphore::new(store.settings.prefetch));
    let all_room = units(store.settings.prefetch_bytes);
    let room = Arc::new(Semaphore::new(all_room as usize));
    // Fetches end with this task, and it with the source.
    let mut fetches = JoinSet::new();
    let error = loop {
        while fetches.try_join_next().is_some() {}
        let Ok(taken) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let numbered = match listing.next(store).await {
            Ok(Some(numbered)) => numbered,
            Ok(None) => break None,
            Err(error) => break Some(error),
        };
        let size = numbered
            .listed
            .size
            .unwrap_or(store.settings.max_object_bytes);
        let needed = units(size).min(all_room);
        let Ok(room) = Arc::clone(&room).acquire_many_owned(needed).await else {
            return;
        };
        let (answer, bytes) = mpsc::sync_channel(1);
        let listed = numbered.listed.clone();
        let coming = Coming {
            numbered,
            total: listing.keys.total(),
            bytes,
            _room: (taken, room),
        };
        if slots.send(Slot::Object(coming)).is_err() {
            return;
        }
        fetches.spawn(fetch_one(Arc::clone(&place), listed, answer));
    };
    let total = listing.keys.total();
    // Nobody listens any more only if the source was dropped.
    let _ = slots.send(Slot::End { total, error });
    while fetches.join_next().await.is_some() {}
}

async fn fetch_one(
    place: Arc<Place>,
    listed: Listed,
    answer: SyncSender<Result<Vec<u8>, Failure>>,
) {
    let store = &place.store;
    let limit = store.settings.max_object_bytes;
    let bytes = match listed.size {
        Some(0) => Err(Failure::Object(SkipKind::Empty, "no bytes".to_string())),
        Some(size) if size > limit => {
            let reason = too_large(Some(size), limit);
            Err(Failure::Object(SkipKind::TooLarge, reason))
        }
        _ => store.get(&listed.key, limit).await,
    };
    let _ = answer.send(bytes);
}

/// Permits for so many bytes.
fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT))
        .unwrap_or(u32::MAX)
        .max(1)
}
