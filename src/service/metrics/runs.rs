//! Runs of the pipeline: those under way as they stand, those that ended as totals.
//!
//! A run ends in one step, under one lock: between two scrapes nothing is lost and nothing counted
//! twice. A run that goes on from a snapshot brings its counts along.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::family::{Families, Labels, Value};
use crate::pipeline::{
    Associations, BUCKETS_MS, CameraSnapshot, CameraState, Handoffs, HistogramSnapshot,
    MetricsSnapshot, PipelineMetrics, Stage,
};
use crate::service::catalog::Catalog;

/// What stands for environments and cameras that the catalog does not know, such as uploads.
const OTHER: &str = "other";

/// The runs of this process.
#[derive(Debug, Default)]
pub struct Runs {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    running: BTreeMap<u64, (String, Arc<PipelineMetrics>)>,
    ended: BTreeMap<String, Totals>,
}

/// A run under way; it has ended when this is dropped.
#[derive(Debug)]
pub struct RunGuard {
    number: u64,
    state: Arc<Mutex<State>>,
}

impl Drop for RunGuard {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        if let Some((environment, metrics)) = state.running.remove(&self.number) {
            let totals = state.ended.entry(environment).or_default();
            totals.add(&metrics.snapshot());
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // Counters are whole whatever panicked between two of them.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Runs {
    /// Collects from a run of this environment until what is returned is dropped.
    pub fn begin(&self, environment: &str, metrics: Arc<PipelineMetrics>) -> RunGuard {
        let mut state = lock(&self.state);
        let number = state.next;
        state.next += 1;
        let run = (environment.to_string(), metrics);
        state.running.insert(number, run);
        RunGuard {
            number,
            state: self.state.clone(),
        }
    }

    /// Adds the numbers of all runs. Environments and cameras that are not in the catalog are
    /// `other`.
    pub fn collect(&self, catalog: &Catalog, families: &mut Families) {
        let (mut totals, snapshots) = {
            let state = lock(&self.state);
            let running = state.running.values();
            let snapshots: Vec<(String, MetricsSnapshot)> = running
                .map(|(environment, metrics)| (environment.clone(), metrics.snapshot()))
                .collect();
            (state.ended.clone(), snapshots)
        };
        for (environment, snapshot) in &snapshots {
            totals.entry(environment.clone()).or_default().add(snapshot);
        }
        counters(&known(totals, catalog), families);
        gauges(&snapshots, catalog, families);
    }
}

/// Counts of an environment's runs together.
#[derive(Debug, Clone, Default)]
struct Totals {
    cameras: BTreeMap<String, CameraTotals>,
    steps: u64,
    frame_time: HistogramSnapshot,
    stages: BTreeMap<Stage, HistogramSnapshot>,
    associations: Associations,
    handoffs: Handoffs,
}

#[derive(Debug, Clone, Copy, Default)]
struct CameraTotals {
    read: u64,
    processed: u64,
    broken: u64,
    overrun: u64,
    late: u64,
    reconnects: u64,
    detections: u64,
    reported: u64,
    unusable: u64,
    embeddings: u64,
    refused_embeddings: u64,
    tracks: u64,
}

impl Totals {
    fn add(&mut self, run: &MetricsSnapshot) {
        for camera in &run.cameras {
            self.cameras
                .entry(camera.name.clone())
                .or_default()
                .add(&CameraTotals::of(camera));
        }
        self.steps += run.steps;
        add_histogram(&mut self.frame_time, &run.frame_time);
        for (stage, times) in &run.stages {
            add_histogram(self.stages.entry(*stage).or_default(), times);
        }
        let (all, one) = (&mut self.associations, run.associations);
        all.continued += one.continued;
        all.matched += one.matched;
        all.returned += one.returned;
        all.split += one.split;
        all.new += one.new;
        all.pending += one.pending;
        let (all, one) = (&mut self.handoffs, run.handoffs);
        all.triggered += one.triggered;
        all.completed += one.completed;
        all.timed_out += one.timed_out;
        all.returned += one.returned;
        all.crowded += one.crowded;
    }

    /// The same with other totals; cameras of one name count together.
    fn join(&mut self, other: Self) {
        for (name, camera) in other.cameras {
            self.cameras.entry(name).or_default().add(&camera);
        }
        let rest = MetricsSnapshot {
            steps: other.steps,
            frame_time: other.frame_time,
            stages: other.stages,
            associations: other.associations,
            handoffs: other.handoffs,
            ..MetricsSnapshot::default()
        };
        self.add(&rest);
    }
}

impl CameraTotals {
    fn of(camera: &CameraSnapshot) -> Self {
        Self {
            read: camera.read,
            processed: camera.frames,
            broken: camera.skipped,
            overrun: camera.dropped.overrun,
            late: camera.dropped.late,
            reconnects: camera.reconnects,
            detections: camera.detections,
            reported: camera.reported_detections,
            unusable: camera.dropped_detections,
            embeddings: camera.embeddings,
            refused_embeddings: camera.refused_embeddings,
            tracks: camera.tracks,
        }
    }

    fn add(&mut self, other: &Self) {
        self.read += other.read;
        self.processed += other.processed;
        self.broken += other.broken;
        self.overrun += other.overrun;
        self.late += other.late;
        self.reconnects += other.reconnects;
        self.detections += other.detections;
        self.reported += other.reported;
        self.unusable += other.unusable;
        self.embeddings += other.embeddings;
        self.refused_embeddings += other.refused_embeddings;
        self.tracks += other.tracks;
    }
}

fn add_histogram(all: &mut HistogramSnapshot, one: &HistogramSnapshot) {
    if all.counts.len() < one.counts.len() {
        all.counts.resize(one.counts.len(), 0);
    }
    for (sum, count) in all.counts.iter_mut().zip(&one.counts) {
        *sum += count;
    }
    all.count += one.count;
    all.sum_ms += one.sum_ms;
}

/// The totals under names that are known in advance.
fn known(totals: BTreeMap<String, Totals>, catalog: &Catalog) -> BTreeMap<String, Totals> {
    let mut known: BTreeMap<String, Totals> = BTreeMap::new();
    for (environment, mut all) in totals {
        let mut cameras: BTreeMap<String, CameraTotals> = BTreeMap::new();
        for (name, camera) in std::mem::take(&mut all.cameras) {
            let name = camera_label(catalog, &environment, &name);
            cameras.entry(name).or_default().add(&camera);
        }
        all.cameras = cameras;
        let label = environment_label(catalog, &environment);
        known.entry(label).or_default().join(all);
    }
    known
}

fn environment_label(catalog: &Catalog, environment: &str) -> String {
    let known = catalog.get(environment).is_some();
    if known { environment } else { OTHER }.to_string()
}

fn camera_label(catalog: &Catalog, environment: &str, camera: &str) -> String {
    let environment = catalog.get(environment);
    let known = environment.is_some_and(|known| known.cameras.iter().any(|c| c.id == camera));
    if known { camera } else { OTHER }.to_string()
}

/// One of a camera's counts.
type Count = fn(&CameraTotals) -> u64;

fn counters(totals: &BTreeMap<String, Totals>, families: &mut Families) {
    let mut add = |name, help, kinds: &[(&str, Count)], kind_label| {
        let mut samples = Vec::new();
        for (environment, all) in totals {
            for (camera, counts) in &all.cameras {
                for (kind, count) in kinds {
                    let mut labels = of_camera(environment, camera);
                    if !kind.is_empty() {
                        labels.push((kind_label, (*kind).to_string()));
                    }
                    samples.push((labels, Value::Counter(count(counts) as f64)));
                }
            }
        }
        families.many(name, help, samples);
    };
    let help = "Frames that cameras' sources gave";
    add("mtmc_frames_read", help, &[("", |c| c.read)], "");
    let help = "Frames that were tracked";
    add("mtmc_frames_processed", help, &[("", |c| c.processed)], "");
    let help = "Frames that were not tracked: broken or missing, older than one that waits, or late for their time step";
    let reasons: [(&str, Count); 3] = [
        ("broken", |c| c.broken),
        ("overrun", |c| c.overrun),
        ("late", |c| c.late),
    ];
    add("mtmc_frames_skipped", help, &reasons, "reason");
    let help =
        "Detections: all above the detector's floor, those reported, those no tracker can use";
    let kinds: [(&str, Count); 3] = [
        ("all", |c| c.detections),
        ("reported", |c| c.reported),
        ("unusable", |c| c.unusable),
    ];
    add("mtmc_detections", help, &kinds, "kind");
    let outcomes: [(&str, Count); 2] = [
        ("made", |c| c.embeddings),
        ("refused", |c| c.refused_embeddings),
    ];
    add(
        "mtmc_embeddings",
        "Vectors of how people look",
        &outcomes,
        "outcome",
    );
    let help = "Different tracks";
    add("mtmc_tracks", help, &[("", |c| c.tracks)], "");
    let help = "How often a source was opened again";
    add(
        "mtmc_source_reconnects",
        help,
        &[("", |c| c.reconnects)],
        "",
    );
    world(totals, families);
    times(totals, families);
}

/// What cameras share.
fn world(totals: &BTreeMap<String, Totals>, families: &mut Families) {
    let mut steps = Vec::new();
    let mut associations = Vec::new();
    let mut handoffs = Vec::new();
    for (environment, all) in totals {
        let label = || ("environment", environment.clone());
        steps.push((vec![label()], Value::Counter(all.steps as f64)));
        let Associations {
            continued,
            matched,
            returned,
            split,
            new,
            pending,
        } = all.associations;
        for (kind, count) in [
            ("continued", continued),
            ("matched", matched),
            ("returned", returned),
            ("split", split),
            ("new", new),
            ("pending", pending),
        ] {
            let labels = vec![label(), ("type", kind.to_string())];
            associations.push((labels, Value::Counter(count as f64)));
        }
        let Handoffs {
            triggered,
            completed,
            timed_out,
            returned,
            crowded,
        } = all.handoffs;
        for (outcome, count) in [
            ("triggered", triggered),
            ("completed", completed),
            ("timed_out", timed_out),
            ("returned", returned),
            ("crowded", crowded),
        ] {
            let labels = vec![label(), ("outcome", outcome.to_string())];
            handoffs.push((labels, Value::Counter(count as f64)));
        }
    }
    families.many(
        "mtmc_time_steps",
        "Time steps of all cameras together",
        steps,
    );
    let help = "How tracks came to their identities, each track counted in each frame";
    families.many("mtmc_associations", help, associations);
    families.many("mtmc_handoffs", "What became of handoffs", handoffs);
}

/// Durations, of all environments together.
fn times(totals: &BTreeMap<String, Totals>, families: &mut Families) {
    let mut frame = HistogramSnapshot::default();
    let mut stages: BTreeMap<Stage, HistogramSnapshot> = BTreeMap::new();
    for all in totals.values() {
        add_histogram(&mut frame, &all.frame_time);
        for (stage, times) in &all.stages {
            add_histogram(stages.entry(*stage).or_default(), times);
        }
    }
    if totals.is_empty() {
        return;
    }
    let help = "Time of a frame in the networks, its tracker and the world; of a batch, its share";
    families.one("mtmc_frame_seconds", help, histogram(&frame));
    let samples = stages.iter().map(|(stage, times)| {
        let name = serde_json::to_value(stage).unwrap_or_default();
        let name = name.as_str().unwrap_or(OTHER).to_string();
        (vec![("stage", name)], histogram(times))
    });
    let help = "Time of a frame in each station; of a batch, its share";
    families.many("mtmc_stage_seconds", help, samples);
}

fn histogram(times: &HistogramSnapshot) -> Value {
    let bounds = BUCKETS_MS.iter().map(|bound| bound / 1e3);
    let counts = times.counts.iter().copied().chain(std::iter::repeat(0));
    Value::Histogram {
        sum: times.sum_ms / 1e3,
        buckets: bounds.chain([f64::INFINITY]).zip(counts).collect(),
    }
}

fn of_camera(environment: &str, camera: &str) -> Labels {
    vec![
        ("environment", environment.to_string()),
        ("camera", camera.to_string()),
    ]
}

/// What goes up and down: of runs under way alone.
fn gauges(runs: &[(String, MetricsSnapshot)], catalog: &Catalog, families: &mut Families) {
    let mut waiting: BTreeMap<Labels, u64> = BTreeMap::new();
    let mut people: BTreeMap<Labels, u64> = BTreeMap::new();
    let mut cameras: BTreeMap<Labels, u64> = BTreeMap::new();
    for (environment, run) in runs {
        let label = environment_label(catalog, environment);
        for camera in &run.cameras {
            let name = camera_label(catalog, environment, &camera.name);
            let queues = [
                ("frames", camera.frames_waiting.now),
                ("results", camera.results_waiting.now),
            ];
            for (queue, length) in queues {
                let mut labels = of_camera(&label, &name);
                labels.push(("queue", queue.to_string()));
                *waiting.entry(labels).or_default() += length;
            }
            let state = match camera.state {
                CameraState::Waiting => "waiting",
                CameraState::Running => "running",
                CameraState::Degraded => "degraded",
                CameraState::Ended => "ended",
                CameraState::Failed => "failed",
            };
            let labels = vec![("environment", label.clone()), ("state", state.to_string())];
            *cameras.entry(labels).or_default() += 1;
        }
        for (gallery, size) in [("main", run.gallery.main), ("lost", run.gallery.lost)] {
            let labels = vec![
                ("environment", label.clone()),
                ("gallery", gallery.to_string()),
            ];
            *people.entry(labels).or_default() += size;
        }
    }
    let mut add = |name, help, counts: BTreeMap<Labels, u64>| {
        let samples = counts.into_iter();
        families.many(
            name,
            help,
            samples.map(|(labels, count)| (labels, Value::Gauge(count as f64))),
        );
    };
    let help = "Frames that wait for the networks, and results that wait to be written";
    add("mtmc_queue_length", help, waiting);
    let help = "People whom the galleries of running tasks hold";
    add("mtmc_gallery_people", help, people);
    let help = "Cameras of running tasks, by how they fare";
    add("mtmc_cameras", help, cameras);
}
