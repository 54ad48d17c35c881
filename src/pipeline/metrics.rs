//! What a run does, counted once: for its summary, for a service's status and for monitoring.
//!
//! All stations count into one [`PipelineMetrics`], which any thread may look at while the run goes
//! on. Counters are atomics without order among them: a [`snapshot`](PipelineMetrics::snapshot)
//! taken in the middle of a step may have its detections and not yet its tracks.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::counts::{
    Associations, CameraSnapshot, CameraState, DroppedFrames, GallerySizes, Handoffs,
    MetricsSnapshot, Stage, Waiting,
};
use super::histogram::Histogram;
use super::summary::Skipped;
use super::{TrackIdentity, WorldEvent, WorldStep};
use crate::gallery::{AssociationType, Gallery, GalleryType};
use crate::handoff::{ExpiryReason, HandoffEvent};
use crate::source::SkipCounts;

/// Counts that only one thread raises and many read.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How much waits now, and at most so far.
#[derive(Debug, Default)]
pub(super) struct Gauge {
    now: AtomicU64,
    most: AtomicU64,
}

impl Gauge {
    pub(super) fn raise(&self) {
        let now = self.now.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(now, Ordering::Relaxed);
    }

    pub(super) fn lower(&self) {
        self.now.fetch_sub(1, Ordering::Relaxed);
    }

    fn snapshot(&self) -> Waiting {
        Waiting {
            now: self.now.load(Ordering::Relaxed),
            most: self.most.load(Ordering::Relaxed),
        }
    }
}

/// What is counted of one camera.
#[derive(Debug, Default)]
pub(super) struct CameraMetrics {
    name: String,
    state: AtomicU8,
    pub(super) read: Counter,
    pub(super) frames: Counter,
    pub(super) overrun: Counter,
    pub(super) late: Counter,
    pub(super) reconnects: Counter,
    pub(super) last_frame: Counter,
    pub(super) detections: Counter,
    pub(super) reported: Counter,
    pub(super) dropped_detections: Counter,
    pub(super) embeddings: Counter,
    pub(super) refused_embeddings: Counter,
    pub(super) tracked: Counter,
    pub(super) tracks: Counter,
    pub(super) frames_waiting: Gauge,
    pub(super) results_waiting: Gauge,
    skipped: Counter,
    notes: Mutex<Notes>,
}

/// What does not fit into a number and seldom changes.
#[derive(Debug, Default)]
struct Notes {
    error: Option<String>,
    skipped: Vec<Skipped>,
}

impl CameraMetrics {
    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_state(&self, state: CameraState) {
        self.state.store(state as u8, Ordering::Relaxed);
    }

    fn state(&self) -> CameraState {
        let index = usize::from(self.state.load(Ordering::Relaxed));
        CameraState::ALL.get(index).copied().unwrap_or_default()
    }

    /// Notes what is wrong with the source, or that nothing is.
    pub(super) fn set_error(&self, error: Option<String>) {
        self.notes().error = error;
    }

    /// Notes the frames that could not be decoded; cheap where they are as many as before.
    pub(super) fn set_skipped(&self, skipped: &SkipCounts) {
        if skipped.count == self.skipped.get() {
            return;
        }
        self.skipped.set(skipped.count);
        self.notes().skipped = skipped.examples.iter().map(Into::into).collect();
    }

    fn snapshot(&self) -> CameraSnapshot {
        let notes = self.notes();
        CameraSnapshot {
            name: self.name.clone(),
            state: self.state(),
            error: notes.error.clone(),
            read: self.read.get(),
            frames: self.frames.get(),
            skipped: self.skipped.get(),
            skipped_frames: notes.skipped.clone(),
            dropped: DroppedFrames {
                overrun: self.overrun.get(),
                late: self.late.get(),
            },
            reconnects: self.reconnects.get(),
            last_frame: self.last_frame.get(),
            detections: self.detections.get(),
            reported_detections: self.reported.get(),
            dropped_detections: self.dropped_detections.get(),
            embeddings: self.embeddings.get(),
            refused_embeddings: self.refused_embeddings.get(),
            tracked: self.tracked.get(),
            tracks: self.tracks.get(),
            frames_waiting: self.frames_waiting.snapshot(),
            results_waiting: self.results_waiting.snapshot(),
        }
    }

    /// Goes on counting where an earlier run stood. What its source told is not taken: the source
    /// is read from its beginning again and tells it anew.
    fn restore(&self, saved: &CameraSnapshot) {
        let counters = [
            (&self.frames, saved.frames),
            (&self.overrun, saved.dropped.overrun),
            (&self.late, saved.dropped.late),
            (&self.reconnects, saved.reconnects),
            (&self.last_frame, saved.last_frame),
            (&self.detections, saved.detections),
            (&self.reported, saved.reported_detections),
            (&self.dropped_detections, saved.dropped_detections),
            (&self.embeddings, saved.embeddings),
            (&self.refused_embeddings, saved.refused_embeddings),
            (&self.tracked, saved.tracked),
            (&self.tracks, saved.tracks),
        ];
        for (counter, value) in counters {
            counter.set(value);
        }
    }
}

/// Everything that is counted in a run. One object belongs to one run.
#[derive(Debug, Default)]
pub struct PipelineMetrics {
    cameras: Vec<CameraMetrics>,
    stages: [Histogram; Stage::ALL.len()],
    /// Time of a frame in the networks, its tracker and the world.
    frame_time: Histogram,
    steps: Counter,
    associations: [Counter; 6],
    handoffs: [Counter; 5],
    gallery: [Counter; 2],
}

impl PipelineMetrics {
    /// Counters of a run with these cameras, in its order.
    pub fn new<N: Into<String>>(cameras: impl IntoIterator<Item = N>) -> Self {
        let camera = |name: N| CameraMetrics {
            name: name.into(),
            ..CameraMetrics::default()
        };
        Self {
            cameras: cameras.into_iter().map(camera).collect(),
            ..Self::default()
        }
    }

    pub(super) fn cameras(&self) -> &[CameraMetrics] {
        &self.cameras
    }

    /// Notes that a station was busy for one frame.
    pub(super) fn observe(&self, stage: Stage, seconds: f64) {
        self.stages[stage as usize].observe(seconds);
    }

    /// Notes that a frame went through networks, tracker and world.
    pub(super) fn frame_done(&self, seconds: f64) {
        self.frame_time.observe(seconds);
    }

    /// Frames tracked, all cameras together.
    pub fn frames(&self) -> u64 {
        self.cameras.iter().map(|camera| camera.frames.get()).sum()
    }

    /// How each camera fares, in the order of the run.
    pub fn states(&self) -> impl Iterator<Item = (&str, CameraState)> {
        let cameras = self.cameras.iter();
        cameras.map(|camera| (camera.name.as_str(), camera.state()))
    }

    /// Notes a time step, and who is known after it.
    pub(super) fn count_step(&self, gallery: Option<&Gallery>) {
        self.steps.add(1);
        let Some(gallery) = gallery else { return };
        let mut sizes = [0, 0];
        for person in gallery.people() {
            match person.gallery {
                GalleryType::Main => sizes[0] += 1,
                GalleryType::Lost => sizes[1] += 1,
            }
        }
        for (counter, size) in self.gallery.iter().zip(sizes) {
            counter.set(size);
        }
    }

    /// Notes what the world did in a step with so many frames.
    pub(super) fn count_world(&self, result: &WorldStep, frames: usize) {
        for identities in &result.identities {
            self.count_identities(identities);
        }
        self.count_events(&result.events);
        for (stage, seconds) in result.seconds.stages() {
            for _ in 0..frames {
                self.observe(stage, seconds / frames as f64);
            }
        }
    }

    /// Notes how tracks came to their identities.
    fn count_identities(&self, identities: &[TrackIdentity]) {
        for identity in identities {
            let index = match identity.association {
                AssociationType::Continued => 0,
                AssociationType::Matched => 1,
                AssociationType::Returned => 2,
                AssociationType::Split => 3,
                AssociationType::New => 4,
                AssociationType::Pending => 5,
            };
            self.associations[index].add(1);
        }
    }

    /// Notes what became of handoffs.
    fn count_events(&self, events: &[WorldEvent]) {
        for event in events {
            let WorldEvent::Handoff(event) = event else {
                continue;
            };
            let index = match event {
                HandoffEvent::Triggered { .. } => 0,
                HandoffEvent::Completed { .. } => 1,
                HandoffEvent::Expired { reason, .. } => match reason {
                    ExpiryReason::Timeout => 2,
                    ExpiryReason::Returned => 3,
                    ExpiryReason::Crowded => 4,
                },
            };
            self.handoffs[index].add(1);
        }
    }

    /// All numbers as they stand.
    pub fn snapshot(&self) -> MetricsSnapshot {
        let stages = Stage::ALL.map(|stage| (stage, self.stages[stage as usize].snapshot()));
        let [continued, matched, returned, split, new, pending] =
            self.associations.each_ref().map(Counter::get);
        let associations = Associations {
            continued,
            matched,
            returned,
            split,
            new,
            pending,
        };
        let [triggered, completed, timed_out, came_back, crowded] =
            self.handoffs.each_ref().map(Counter::get);
        let handoffs = Handoffs {
            triggered,
            completed,
            timed_out,
            returned: came_back,
            crowded,
        };
        let [main, lost] = self.gallery.each_ref().map(Counter::get);
        MetricsSnapshot {
            cameras: self.cameras.iter().map(CameraMetrics::snapshot).collect(),
            steps: self.steps.get(),
            frame_time: self.frame_time.snapshot(),
            stages: stages.into_iter().collect(),
            associations,
            handoffs,
            gallery: GallerySizes { main, lost },
        }
    }

    /// Goes on counting where an earlier run stood.
    pub(super) fn restore(&self, saved: &MetricsSnapshot) {
        for (camera, saved) in self.cameras.iter().zip(&saved.cameras) {
            camera.restore(saved);
        }
        for stage in Stage::ALL {
            if let Some(saved) = saved.stages.get(&stage) {
                self.stages[stage as usize].restore(saved);
            }
        }
        self.frame_time.restore(&saved.frame_time);
        self.steps.set(saved.steps);
        let Associations {
            continued,
            matched,
            returned,
            split,
            new,
            pending,
        } = saved.associations;
        let associations = [continued, matched, returned, split, new, pending];
        for (counter, value) in self.associations.iter().zip(associations) {
            counter.set(value);
        }
        let Handoffs {
            triggered,
            completed,
            timed_out,
            returned: came_back,
            crowded,
        } = saved.handoffs;
        let handoffs = [triggered, completed, timed_out, came_back, crowded];
        for (counter, value) in self.handoffs.iter().zip(handoffs) {
            counter.set(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // By hand: frames of 10 and 30 ms are 20 ms on average, 50 a second.
    #[test]
    fn the_documents_numbers() {
        let metrics = PipelineMetrics::new(["a", "b"]);
        assert_eq!(metrics.snapshot().performance(), None);
        for (camera, seconds) in metrics.cameras().iter().zip([0.010, 0.030]) {
            camera.frames.add(1);
            camera.reported.add(3);
            camera.tracked.add(1);
            metrics.observe(Stage::Detect, seconds / 2.0);
            metrics.observe(Stage::Embed, 0.002);
            metrics.frame_done(seconds);
        }
        metrics.observe(Stage::Association, 0.004);
        let found = metrics.snapshot().performance().unwrap();
        let expected = [
            (found.avg_frame_time, 0.020),
            (found.max_frame_time, 0.030),
            (found.min_frame_time, 0.010),
            (found.fps_estimate, 50.0),
            (found.avg_detections_per_frame, 3.0),
            (found.avg_tracks_per_frame, 1.0),
            (found.detection_time_avg, 0.010),
            (found.tracking_time_avg, 0.0),
            (found.reid_time_avg, 0.004),
            (found.homography_time_avg, 0.0),
        ];
        for (index, (found, expected)) in expected.into_iter().enumerate() {
            assert!((found - expected).abs() < 1e-9, "{index}: {found}");
        }
    }

    #[test]
    fn a_resumed_run_goes_on_counting() {
        let before = PipelineMetrics::new(["a"]);
        let camera = &before.cameras()[0];
        camera.read.add(9);
        camera.frames.add(7);
        camera.tracks.set(2);
        before.observe(Stage::Track, 0.5);
        before.frame_done(0.5);
        before.associations[5].add(4);
        before.handoffs[2].add(6);
        before.count_step(None);
        let saved = before.snapshot();

        let after = PipelineMetrics::new(["a"]);
        after.restore(&saved);
        after.cameras()[0].frames.add(1);
        after.frame_done(0.25);
        let snapshot = after.snapshot();
        assert_eq!(
            (snapshot.cameras[0].frames, snapshot.cameras[0].read),
            (8, 0)
        );
        assert_eq!(snapshot.cameras[0].tracks, 2);
        assert_eq!((snapshot.steps, snapshot.associations.pending), (1, 4));
        assert_eq!(snapshot.handoffs.timed_out, 6);
        let (min, max) = (snapshot.frame_time.min_ms, snapshot.frame_time.max_ms);
        assert_eq!((min, max, snapshot.frame_time.count), (250.0, 500.0, 2));
        assert_eq!(snapshot.stages[&Stage::Track], saved.stages[&Stage::Track]);
    }

    #[test]
    fn snapshots_are_plain_data() {
        let metrics = PipelineMetrics::new(["a"]);
        metrics.cameras()[0].set_state(CameraState::Degraded);
        metrics.cameras()[0].set_error(Some("no route".to_string()));
        let text = serde_json::to_string(&metrics.snapshot()).unwrap();
        assert!(
            text.contains(r#""state":"degraded","error":"no route""#),
            "{text}"
        );
        assert!(text.contains(r#""gallery_embed":{"#), "{text}");
        let read: MetricsSnapshot = serde_json::from_str(&text).unwrap();
        assert_eq!(read, metrics.snapshot());
    }
}
