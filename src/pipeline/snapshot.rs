//! Snapshots: all that a run needs to go on after a crash as if nothing had happened.
//!
//! A snapshot is one file, `state.mtmc`, beside the results; the one before stays as
//! `state.mtmc.1`. It is written under another name, made safe and renamed, so that a crash at any
//! moment leaves a whole one. Its layout, numbers little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `mtmcSNAP` |
//! | 4 | version of the layout, [`VERSION`] |
//! | 8 | length of the content |
//! | … | the content: [`Stored`] as MessagePack with the fields' names, floating-point numbers exact |
//! | 32 | SHA-256 of all before |

mod forget;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mtmc_models::BBox;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub(super) use forget::forget;
pub use forget::forget_saved;

use super::ids::IdSet;
use super::{MetricsSnapshot, World};
use crate::sink::Written;
use crate::tracker::TrackerState;

/// Version of the layout and of what the content holds.
pub const VERSION: u32 = 2;

const MAGIC: &[u8; 8] = b"mtmcSNAP";
const HEADER: usize = 20;
const CHECKSUM: usize = 32;

/// Largest snapshot that is read, in bytes: a bound against foreign files.
const MAX_BYTES: u64 = 8 << 30;

/// Names of the newest snapshot and of the one before.
const NAMES: [&str; 2] = ["state.mtmc", "state.mtmc.1"];

/// Everything at the end of a time step.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Snapshot<W> {
    /// Time steps so far.
    pub(super) step: u64,
    /// How long they took.
    pub(super) elapsed: Duration,
    /// In the order of the run.
    pub(super) cameras: Vec<SavedCamera>,
    /// What was counted.
    pub(super) metrics: MetricsSnapshot,
    pub(super) world: Option<W>,
    /// How much of each file belongs to those steps; paths from the snapshot's folder.
    pub(super) files: Vec<Written>,
}

/// One camera at the end of a time step.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedCamera {
    /// Number of its last frame, 0 before the first.
    pub(super) last_frame: u64,
    pub(super) tracker: TrackerState,
    pub(super) ids: IdSet,
    /// Boxes of people in the last frame, for the estimator of the camera's motion.
    pub(super) people: Vec<BBox>,
}

/// The content of the file.
#[derive(Serialize, Deserialize)]
struct Stored<F, W> {
    fingerprint: F,
    snapshot: Snapshot<W>,
}

/// The settings that decide what a run finds: a snapshot is resumed with the same ones only.
///
/// Of each there is the SHA-256 digest of its value.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint(BTreeMap<String, [u8; 32]>);

impl Fingerprint {
    /// Adds a setting; `name` is told if it differs.
    pub fn add(&mut self, name: &str, value: &str) {
        let digest = Sha256::digest(value.as_bytes()).into();
        self.0.insert(name.to_string(), digest);
    }

    /// Names of the settings that differ, or that only one has.
    fn differences(&self, other: &Self) -> Vec<String> {
        let names = self.0.keys().chain(other.0.keys());
        let mut different: Vec<String> = names
            .filter(|name| self.0.get(*name) != other.0.get(*name))
            .cloned()
            .collect();
        different.sort_unstable();
        different.dedup();
        different
    }
}

/// Why a run cannot be resumed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// A snapshot cannot be read.
    #[error("cannot read {path}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// No snapshot is whole.
    #[error(
        "{reason}, and there is no older one that is whole: the run cannot be resumed; start it anew \
         without --resume"
    )]
    Damaged {
        /// The files, and what is wrong with them.
        reason: String,
    },
    /// It was written by a program that stores something else.
    #[error(
        "{path} is of version {found}, this program reads version {VERSION}: resume with the program \
         that wrote it, or start anew without --resume", path = path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// What it says.
        found: u32,
    },
    /// It belongs to a run with other settings.
    #[error(
        "{path} is of a run with other settings ({settings}): resume with those of that run, or start \
         anew without --resume", path = path.display()
    )]
    Different {
        /// The file.
        path: PathBuf,
        /// Their names.
        settings: String,
    },
}

/// The snapshots of one run.
#[derive(Debug)]
pub struct Snapshots {
    folder: PathBuf,
    every: u64,
    fingerprint: Fingerprint,
    warn: fn(&str),
    /// Frames at the latest one.
    latest: u64,
    resumed: Option<Snapshot<World>>,
    /// The newest file is whole and becomes the older one.
    rotate: bool,
    warned: bool,
}

impl Snapshots {
    /// Snapshots in `folder`, one after at least `every` frames of all cameras together, 0 for none
    /// but at an interruption of a run that was resumed; `warn` hears what goes wrong with them.
    pub fn new(folder: &Path, every: u64, fingerprint: Fingerprint, warn: fn(&str)) -> Self {
        Self {
            folder: folder.to_path_buf(),
            every,
            fingerprint,
            warn,
            latest: 0,
            resumed: None,
            rotate: true,
            warned: false,
        }
    }

    /// Reads the latest snapshot that is whole; false if there is none at all.
    ///
    /// # Errors
    /// Each is damaged, or it is of another version or of a run with other settings.
    pub fn load(&mut self) -> Result<bool, SnapshotError> {
        let mut damage: Vec<String> = Vec::new();
        for name in NAMES {
            let path = self.folder.join(name);
            let stored = match read(&path)? {
                Found::Whole(stored) => stored,
                Found::Damaged(reason) => {
                    damage.push(format!("{} is damaged ({reason})", path.display()));
                    continue;
                }
                Found::Nothing => continue,
            };
            let different = self.fingerprint.differences(&stored.fingerprint);
            if !different.is_empty() {
                let settings = different.join(", ");
                return Err(SnapshotError::Different { path, settings });
            }
            if let Some(damage) = damage.first() {
                let older = path.display();
                (self.warn)(&format!("{damage}: going on from the one before, {older}"));
                self.rotate = false;
            }
            self.latest = stored.snapshot.metrics.frames();
            self.resumed = Some(stored.snapshot);
            return Ok(true);
        }
        if damage.is_empty() {
            return Ok(false);
        }
        let reason = damage.join("; ");
        Err(SnapshotError::Damaged { reason })
    }

    /// Frames that the earlier run did, all cameras together; 0 if none is resumed.
    pub fn frames_done(&self) -> u64 {
        if self.resumed.is_some() {
            self.latest
        } else {
            0
        }
    }

    /// Number of the last frame that the earlier run did of a camera; 0 if none.
    pub fn last_frame(&self, camera: usize) -> u64 {
        let cameras = self.resumed.as_ref().map(|snapshot| &snapshot.cameras);
        cameras
            .and_then(|cameras| cameras.get(camera))
            .map_or(0, |camera| camera.last_frame)
    }

    /// The files that the earlier run wrote, as far as they count.
    pub fn files(&self) -> Vec<Written> {
        let files = self.resumed.iter().flat_map(|snapshot| &snapshot.files);
        files
            .map(|file| Written {
                path: self.folder.join(&file.path),
                bytes: file.bytes,
            })
            .collect()
    }

    /// Removes what there is: the run is over, or another begins.
    pub fn remove(&self) {
        self.remove_files(&NAMES);
    }

    fn remove_files(&self, names: &[&str]) {
        for name in names {
            let path = self.folder.join(name);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    (self.warn)(&format!("cannot remove {}: {error}", path.display()));
                }
                _ => {}
            }
        }
    }

    /// Hands out what was read.
    pub(super) fn take(&mut self) -> Option<Snapshot<World>> {
        self.resumed.take()
    }

    /// Whether a snapshot is to be taken after so many frames; `last`: the run is being stopped.
    pub(super) fn is_due(&self, frames: u64, last: bool) -> bool {
        let new = frames - self.latest.min(frames);
        if last {
            return new > 0;
        }
        self.every > 0 && new >= self.every
    }

    /// Stores a snapshot. What goes wrong is told once; the run goes on without.
    pub(super) fn write(&mut self, mut snapshot: Snapshot<&World>) {
        self.latest = snapshot.metrics.frames();
        for file in &mut snapshot.files {
            if let Ok(inside) = file.path.strip_prefix(&self.folder) {
                file.path = inside.to_path_buf();
            }
        }
        let outcome = encode(&Stored {
            fingerprint: &self.fingerprint,
            snapshot,
        })
        .and_then(|bytes| self.store(&bytes));
        match outcome {
            Ok(()) => self.rotate = true,
            Err(error) if !self.warned => {
                self.warned = true;
                let path = self.folder.join(NAMES[0]);
                (self.warn)(&format!(
                    "no snapshot at {}: {error}; the run goes on",
                    path.display()
                ));
            }
            Err(_) => {}
        }
    }

    /// Stores a snapshot in the place of all before it, so that nothing is left of what they held; none
    /// if there is none. Where it cannot be stored, those before are removed all the same.
    pub(super) fn replace(&mut self, snapshot: Snapshot<&World>) {
        if !NAMES.iter().any(|name| self.folder.join(name).exists()) {
            return;
        }
        self.rotate = false;
        self.write(snapshot);
        if self.rotate {
            self.remove_files(&NAMES[1..]);
        } else {
            self.remove();
        }
    }

    fn store(&self, bytes: &[u8]) -> std::io::Result<()> {
        let [newest, older] = NAMES.map(|name| self.folder.join(name));
        let new = self.folder.join("state.mtmc.new");
        let written = File::create(&new).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        if let Err(error) = written {
            let _ = std::fs::remove_file(&new); // the disk may be full
            return Err(error);
        }
        if self.rotate && newest.exists() {
            std::fs::rename(&newest, &older)?;
        }
        std::fs::rename(&new, &newest)?;
        // The names are made safe too, where the system can.
        if let Ok(folder) = File::open(&self.folder) {
            let _ = folder.sync_all();
        }
        Ok(())
    }
}

fn encode<F: Serialize, W: Serialize>(stored: &Stored<F, W>) -> std::io::Result<Vec<u8>> {
    let content = rmp_serde::to_vec_named(stored).map_err(std::io::Error::other)?;
    let mut bytes = Vec::with_capacity(HEADER + content.len() + CHECKSUM);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&(content.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&content);
    let checksum = Sha256::digest(&bytes);
    bytes.extend_from_slice(&checksum);
    Ok(bytes)
}

/// What there is at a snapshot's place.
enum Found {
    Whole(Box<Stored<Fingerprint, World>>),
    Damaged(String),
    Nothing,
}

fn read(path: &Path) -> Result<Found, SnapshotError> {
    let failed = |source| SnapshotError::Io {
        path: path.to_path_buf(),
        source,
    };
    let size = match std::fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(failed(error)),
    };
    if size > MAX_BYTES {
        return Ok(Found::Damaged(format!("{size} bytes are too many")));
    }
    let bytes = std::fs::read(path).map_err(failed)?;
    let (version, content) = match open(&bytes) {
        Ok(opened) => opened,
        Err(reason) => return Ok(Found::Damaged(reason.to_string())),
    };
    if version != VERSION {
        return Err(SnapshotError::Version {
            path: path.to_path_buf(),
            found: version,
        });
    }
    Ok(match rmp_serde::from_slice(content) {
        Ok(stored) => Found::Whole(Box::new(stored)),
        Err(error) => Found::Damaged(format!("its content does not fit: {error}")),
    })
}

/// Version and content of a snapshot that is whole.
fn open(bytes: &[u8]) -> Result<(u32, &[u8]), &'static str> {
    if !bytes.starts_with(MAGIC) {
        return Err("it does not begin as a snapshot");
    }
    let Some((body, checksum)) = bytes.split_last_chunk::<CHECKSUM>() else {
        return Err("it is cut off");
    };
    let Some((header, content)) = body.split_first_chunk::<HEADER>() else {
        return Err("it is cut off");
    };
    let [.., v0, v1, v2, v3, l0, l1, l2, l3, l4, l5, l6, l7] = *header;
    if u64::from_le_bytes([l0, l1, l2, l3, l4, l5, l6, l7]) != content.len() as u64 {
        return Err("it is cut off");
    }
    if Sha256::digest(body).as_slice() != checksum {
        return Err("its checksum is wrong");
    }
    Ok((u32::from_le_bytes([v0, v1, v2, v3]), content))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use proptest::prelude::*;

    use super::super::CameraSnapshot;
    use super::*;
    use crate::tracker::{BotSort, BotSortSettings, Detection, FrameDetections, Tracker as _};

    fn fingerprint(confidence: &str) -> Fingerprint {
        let mut fingerprint = Fingerprint::default();
        fingerprint.add("sources", "a.mp4");
        fingerprint.add("--confidence", confidence);
        fingerprint
    }

    fn snapshots(folder: &Path, warn: fn(&str)) -> Snapshots {
        Snapshots::new(folder, 10, fingerprint("0.5"), warn)
    }

    fn frame(number: u64) -> FrameDetections {
        let detections = (0..3)
            .map(|person| Detection {
                bbox: BBox::from_tlwh(
                    (person * 70) as f32 + number as f32 * 1.1,
                    10.0 / 3.0,
                    20.7,
                    51.3,
                ),
                score: 0.9,
                class: 0,
            })
            .collect();
        FrameDetections {
            frame: number,
            detections,
            ..FrameDetections::default()
        }
    }

    fn tracker(frames: u64) -> BotSort {
        let mut tracker = BotSort::new(BotSortSettings::default()).unwrap();
        for number in 1..=frames {
            tracker.update(&frame(number));
        }
        tracker
    }

    fn metrics(frames: u64) -> MetricsSnapshot {
        let camera = CameraSnapshot {
            frames,
            ..CameraSnapshot::default()
        };
        MetricsSnapshot {
            cameras: vec![camera],
            ..MetricsSnapshot::default()
        }
    }

    /// A snapshot after `frames` frames of one camera.
    fn snapshot(frames: u64) -> Snapshot<&'static World> {
        Snapshot {
            step: frames,
            elapsed: Duration::from_millis(frames),
            cameras: vec![SavedCamera {
                last_frame: frames,
                tracker: tracker(frames).save(),
                ids: IdSet::default(),
                people: vec![BBox::from_tlwh(0.1, 0.2, 0.3, 0.4)],
            }],
            metrics: metrics(frames),
            world: None,
            files: Vec::new(),
        }
    }

    fn silent(_: &str) {}

    #[test]
    fn a_tracker_goes_on_as_if_nothing_had_happened() {
        let folder = tempfile::tempdir().unwrap();
        snapshots(folder.path(), silent).write(snapshot(20));
        let mut read = snapshots(folder.path(), silent);
        assert!(read.load().unwrap());
        assert_eq!((read.frames_done(), read.last_frame(0)), (20, 20));
        let state = read.take().unwrap().cameras.remove(0);
        assert_eq!(state.people, snapshot(20).cameras[0].people);
        let mut resumed = state.tracker.restore();
        let mut whole = tracker(20);
        for number in 21..=40 {
            assert_eq!(resumed.update(&frame(number)), whole.update(&frame(number)));
        }
    }

    #[test]
    fn the_one_before_stands_in_for_a_damaged_one() {
        static WARNINGS: AtomicUsize = AtomicUsize::new(0);
        let count: fn(&str) = |_| {
            WARNINGS.fetch_add(1, Ordering::SeqCst);
        };
        let folder = tempfile::tempdir().unwrap();
        let [newest, older] = NAMES.map(|name| folder.path().join(name));
        let mut written = snapshots(folder.path(), silent);
        written.write(snapshot(10));
        written.write(snapshot(20));
        let mut bytes = std::fs::read(&newest).unwrap();
        bytes[60] ^= 1;
        std::fs::write(&newest, &bytes).unwrap();

        let mut read = snapshots(folder.path(), count);
        assert!(read.load().unwrap());
        assert_eq!(
            (read.last_frame(0), WARNINGS.load(Ordering::SeqCst)),
            (10, 1)
        );
        // The next one takes the place of the damaged one, not of the good one.
        read.write(snapshot(20));
        std::fs::write(&newest, &bytes).unwrap();
        let mut read = snapshots(folder.path(), silent);
        assert!(read.load().unwrap());
        assert_eq!(read.last_frame(0), 10);

        std::fs::write(&older, "").unwrap();
        let error = snapshots(folder.path(), silent).load().unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("checksum") && text.contains("--resume"),
            "{text}"
        );
        // A crash between the two renames leaves the older one alone.
        written.write(snapshot(30));
        std::fs::rename(&newest, &older).unwrap();
        let mut read = snapshots(folder.path(), silent);
        assert!(read.load().unwrap());
        assert_eq!(read.last_frame(0), 30);
        read.remove();
        assert!(!snapshots(folder.path(), silent).load().unwrap());
    }

    #[test]
    fn other_settings_are_named() {
        let folder = tempfile::tempdir().unwrap();
        snapshots(folder.path(), silent).write(snapshot(10));
        let mut other = Snapshots::new(folder.path(), 10, fingerprint("0.6"), silent);
        let text = other.load().unwrap_err().to_string();
        assert!(text.contains("(--confidence)"), "{text}");
    }

    #[test]
    fn another_version_is_told() {
        let folder = tempfile::tempdir().unwrap();
        snapshots(folder.path(), silent).write(snapshot(10));
        let path = folder.path().join(NAMES[0]);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.truncate(bytes.len() - CHECKSUM);
        bytes[8] = 77;
        let checksum = Sha256::digest(&bytes);
        bytes.extend_from_slice(&checksum);
        std::fs::write(&path, bytes).unwrap();
        let error = snapshots(folder.path(), silent).load().unwrap_err();
        assert!(error.to_string().contains("version 77"), "{error}");
    }

    #[test]
    fn what_cannot_be_written_is_told_once() {
        static WARNINGS: AtomicUsize = AtomicUsize::new(0);
        let count: fn(&str) = |_| {
            WARNINGS.fetch_add(1, Ordering::SeqCst);
        };
        let folder = tempfile::tempdir().unwrap();
        let mut broken = snapshots(&folder.path().join("missing"), count);
        assert!(broken.is_due(10, false) && !broken.is_due(9, false));
        broken.write(snapshot(10));
        broken.write(snapshot(20));
        assert_eq!(WARNINGS.load(Ordering::SeqCst), 1);
        assert!(!broken.is_due(29, false) && broken.is_due(29, true));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// No byte changes unnoticed, and no beginning passes for the whole.
        #[test]
        fn every_damage_is_noticed(at in 0.0..1.0_f64, flip in 1_u8.., cut in any::<bool>()) {
            let content = "content".repeat(9);
            let stored = Stored { fingerprint: &content, snapshot: snapshot(1) };
            let mut bytes = encode(&stored).unwrap();
            prop_assert!(open(&bytes).is_ok());
            let at = (at * bytes.len() as f64) as usize;
            if cut {
                bytes.truncate(at);
            } else {
                bytes[at] ^= flip;
            }
            prop_assert!(open(&bytes).is_err());
        }
    }
}
