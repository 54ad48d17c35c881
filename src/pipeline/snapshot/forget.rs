//! People who are erased go from snapshots, too.

use std::path::Path;

use super::{Fingerprint, Found, NAMES, SnapshotError, Snapshots, Stored, World, encode, read};
use crate::tracker::Tracker;

/// Erases people from the snapshots of a run that is not under way. The newest that is whole stays,
/// without them; older ones and what cannot be read go. Whether one is left.
///
/// # Errors
/// A file cannot be read or written.
pub fn forget_saved(folder: &Path, ids: &[u64]) -> Result<bool, SnapshotError> {
    let mut snapshots = Snapshots::new(folder, 0, Fingerprint::default(), |_| {});
    snapshots.rotate = false;
    for (index, name) in NAMES.iter().enumerate() {
        let path = folder.join(name);
        let stored = match read(&path) {
            Ok(Found::Whole(stored)) => stored,
            // Nobody can tell who is in what cannot be read.
            Ok(Found::Damaged(_) | Found::Nothing) | Err(SnapshotError::Version { .. }) => continue,
            Err(error) => return Err(error),
        };
        let Stored {
            fingerprint,
            mut snapshot,
        } = *stored;
        let mut trackers: Vec<_> = snapshot
            .cameras
            .iter()
            .map(|camera| camera.tracker.clone().restore())
            .collect();
        if let Some(world) = &mut snapshot.world {
            forget(world, ids, trackers.iter_mut());
        }
        for (camera, tracker) in snapshot.cameras.iter_mut().zip(&trackers) {
            camera.tracker = tracker.save();
        }
        let bytes = encode(&Stored {
            fingerprint,
            snapshot,
        });
        let stored = bytes.and_then(|bytes| snapshots.store(&bytes));
        stored.map_err(|source| SnapshotError::Io { path, source })?;
        // It lies in the newest one's place now, whichever it was.
        let rest = if index == 0 {
            &NAMES[1..]
        } else {
            &NAMES[index..]
        };
        snapshots.remove_files(rest);
        return Ok(true);
    }
    snapshots.remove();
    Ok(false)
}

/// Erases people from a world and from its cameras' trackers, which keep only the looks of those who
/// are still known.
pub(in super::super) fn forget<'a>(
    world: &mut World,
    ids: &[u64],
    trackers: impl Iterator<Item = &'a mut Box<dyn Tracker>>,
) {
    for id in ids {
        world.forget(*id);
    }
    for (camera, tracker) in trackers.enumerate() {
        tracker.forget_looks(&|track_id| world.knows(camera, track_id));
    }
}

#[cfg(test)]
mod tests {
    use mtmc_models::{BBox, Embedding};

    use super::super::super::ids::IdSet;
    use super::super::super::{CameraSnapshot, MetricsSnapshot, TrackedFrame};
    use super::super::{SavedCamera, Snapshot};
    use super::*;
    use crate::config::{Environment, Overrides};
    use crate::tracker::{BotSort, BotSortSettings, Detection, FrameDetections};

    /// Looks that means over time do not change by a bit.
    fn look(person: usize) -> Embedding {
        let mut vector = vec![0.0; 8];
        vector[3 * person + 1] = 1.0;
        Embedding::new(vector).unwrap()
    }

    /// The same as MessagePack has it.
    fn mark(person: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for number in look(person).as_slice() {
            bytes.push(0xca);
            bytes.extend(number.to_be_bytes());
        }
        bytes
    }

    /// How often a file holds a person's looks.
    fn count(path: &Path, person: usize) -> usize {
        let (bytes, mark) = (std::fs::read(path).unwrap(), mark(person));
        let windows = bytes.windows(mark.len());
        windows.filter(|window| *window == mark.as_slice()).count()
    }

    /// Two people in one camera, and whom they were taken for.
    fn run() -> (World, BotSort, Vec<u64>) {
        let environment =
            Environment::of_cameras(&["c09".to_string()], &Overrides::default()).unwrap();
        let size = [400.0, 300.0];
        let built = World::of_environment(&environment, &[size]).unwrap();
        let (mut world, mut ids) = (built.world, Vec::new());
        let mut tracker = BotSort::new(BotSortSettings::default()).unwrap();
        for number in 1..=40_u64 {
            let detection = |person: u16| Detection {
                bbox: BBox::from_tlwh(60.0 + 200.0 * f32::from(person), 80.0, 60.0, 160.0),
                score: 0.9,
                class: 0,
            };
            let found = FrameDetections {
                frame: number,
                detections: vec![detection(0), detection(1)],
                embeddings: vec![Some(look(0)), Some(look(1))],
                ..FrameDetections::default()
            };
            let tracks = tracker.update(&found);
            let frame = TrackedFrame {
                camera: 0,
                number,
                image: None,
                frame_size: size,
                detections: &found.detections,
                embeddings: &found.embeddings,
                tracks: &tracks,
            };
            let step = world.step(number as f64 / 10.0, &[frame], None).unwrap();
            let seen = step.identities[0].iter();
            ids = seen.filter_map(|identity| identity.global_id).collect();
        }
        (world, tracker, ids)
    }

    fn fingerprint() -> Fingerprint {
        let mut fingerprint = Fingerprint::default();
        fingerprint.add("sources", "a.mp4");
        fingerprint
    }

    fn snapshots(folder: &Path) -> Snapshots {
        Snapshots::new(folder, 10, fingerprint(), |_| {})
    }

    fn save(folder: &Path, world: &World, tracker: &BotSort) {
        let mut snapshots = snapshots(folder);
        for _ in 0..2 {
            snapshots.write(Snapshot {
                step: 40,
                elapsed: std::time::Duration::from_secs(4),
                cameras: vec![SavedCamera {
                    last_frame: 40,
                    tracker: tracker.save(),
                    ids: IdSet::default(),
                    people: Vec::new(),
                }],
                metrics: MetricsSnapshot {
                    cameras: vec![CameraSnapshot::default()],
                    ..MetricsSnapshot::default()
                },
                world: Some(world),
                files: Vec::new(),
            });
        }
    }

    #[test]
    fn saved_runs_lose_the_person_and_keep_the_rest() {
        let (world, tracker, ids) = run();
        let [erased, _] = ids[..] else {
            panic!("{ids:?}");
        };
        let folder = tempfile::tempdir().unwrap();
        let [newest, older] = NAMES.map(|name| folder.path().join(name));
        for damaged in [false, true] {
            save(folder.path(), &world, &tracker);
            // In the gallery and in the tracker.
            assert!(count(&newest, 0) >= 2 && count(&older, 0) >= 2);
            let others = count(&newest, 1);
            assert!(others >= 2);
            if damaged {
                std::fs::write(&newest, [mark(0), mark(1)].concat()).unwrap();
            }
            assert!(forget_saved(folder.path(), &[erased, 12_345]).unwrap());
            assert_eq!((count(&newest, 0), count(&newest, 1)), (0, others));
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
            // The run goes on from it, and the other person is who it was.
            let mut loaded = snapshots(folder.path());
            assert!(loaded.load().unwrap());
            assert_eq!(loaded.last_frame(0), 40);
            let restored = loaded.take().unwrap().world.unwrap();
            let known = restored
                .gallery()
                .people()
                .iter()
                .map(|person| person.global_id);
            assert_eq!(known.collect::<Vec<_>>(), [Some(ids[1])]);
        }
        std::fs::write(&newest, "no snapshot").unwrap();
        assert!(!forget_saved(folder.path(), &[erased]).unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(!forget_saved(&folder.path().join("missing"), &[1]).unwrap());
    }

    #[test]
    fn a_running_run_replaces_what_it_saved() {
        let (mut world, tracker, ids) = run();
        let folder = tempfile::tempdir().unwrap();
        save(folder.path(), &world, &tracker);
        let mut trackers: Vec<Box<dyn Tracker>> = vec![Box::new(tracker)];
        forget(&mut world, &[ids[1]], trackers.iter_mut());
        let mut snapshots = snapshots(folder.path());
        snapshots.replace(Snapshot {
            step: 41,
            elapsed: std::time::Duration::ZERO,
            cameras: vec![SavedCamera {
                last_frame: 41,
                tracker: trackers[0].save(),
                ids: IdSet::default(),
                people: Vec::new(),
            }],
            metrics: MetricsSnapshot::default(),
            world: Some(&world),
            files: Vec::new(),
        });
        let newest = folder.path().join(NAMES[0]);
        assert!(count(&newest, 0) >= 2 && count(&newest, 1) == 0);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
