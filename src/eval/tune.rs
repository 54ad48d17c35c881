//! Searching a tracker's settings for a metric.
//!
//! First the space is looked over at random, then the best settings are varied in steps that grow
//! smaller: an evolution strategy with one parent (Rechenberg 1973), whose generations are of fixed
//! size. Every trial draws from a sequence of its own, so that the seed alone decides the result,
//! however many threads work.
//!
//! The best of many trials owes a part of its value to luck, and lies on a peak that other frames
//! do not have. So what a search gives is not that trial but the middle of the best few, as long as
//! it keeps half of their gain.

use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;
use serde::Serialize;
use serde_json::{Map, Value};

use super::clear::{Clear, Rules};
use super::folder::Split;
use super::hota::{Hota, mean};
use super::identity::Identity;
use super::mot::Benchmark;
use super::track::{SequenceInput, TrackError};
use crate::random::SplitMix64;
use crate::tracker::TrackerSettings;

/// What is to be as large as possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// Detection and association in balance
    Hota,
    /// Detection above all
    Mota,
    /// Identities above all
    Idf1,
}

/// How a setting may vary.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Range {
    /// Real numbers, all alike.
    Linear(f64, f64),
    /// Whole numbers, ratios alike.
    Whole(f64, f64),
    /// On or off.
    Switch,
}

/// A setting that is searched, and how it may vary.
pub type Parameter = (&'static str, Range);

/// Settings of ByteTrack that are searched.
pub const BYTETRACK: [Parameter; 9] = [
    ("track_thresh", Range::Linear(0.2, 0.85)),
    ("low_thresh", Range::Linear(0.02, 0.4)),
    ("new_track_margin", Range::Linear(0.0, 0.4)),
    ("match_thresh", Range::Linear(0.5, 0.99)),
    ("second_match_thresh", Range::Linear(0.2, 0.9)),
    ("unconfirmed_match_thresh", Range::Linear(0.4, 0.95)),
    ("duplicate_thresh", Range::Linear(0.05, 0.5)),
    ("track_buffer", Range::Whole(5.0, 200.0)),
    ("fuse_score", Range::Switch),
];

/// Settings of BoT-SORT that are searched.
pub const BOTSORT: [Parameter; 12] = [
    ("track_high_thresh", Range::Linear(0.2, 0.85)),
    ("track_low_thresh", Range::Linear(0.02, 0.4)),
    ("new_track_thresh", Range::Linear(0.2, 0.95)),
    ("match_thresh", Range::Linear(0.5, 0.99)),
    ("second_match_thresh", Range::Linear(0.2, 0.9)),
    ("unconfirmed_match_thresh", Range::Linear(0.4, 0.95)),
    ("duplicate_thresh", Range::Linear(0.05, 0.5)),
    ("track_buffer", Range::Whole(5.0, 200.0)),
    ("fuse_score", Range::Switch),
    ("proximity_thresh", Range::Linear(0.2, 0.95)),
    ("appearance_thresh", Range::Linear(0.05, 0.6)),
    ("appearance_keep", Range::Linear(0.5, 0.98)),
];

/// Trials of a generation: as many can run side by side.
const GENERATION: usize = 16;

/// Share of the trials that look over the whole space.
const EXPLORED: f64 = 0.4;

/// Largest and smallest deviation of a step, as a part of a setting's range.
const STEPS: (f64, f64) = (0.2, 0.02);

/// How many of the best trials the result is the middle of.
const ELITE: usize = 12;

/// Share of the best trial's gain that the middle of the best must keep.
const KEPT: f64 = 0.5;

/// What to search, and how long.
#[derive(Debug, Clone, Copy)]
pub struct Search {
    /// The metric.
    pub metric: Metric,
    /// The benchmark's rules.
    pub benchmark: Benchmark,
    /// The frames that settings are tried on.
    pub split: Split,
    /// Number of trials, the start included.
    pub trials: usize,
    /// Decides every draw.
    pub seed: u64,
}

/// One set of settings and what it reached.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Trial {
    /// Number of the trial; 0 is the start. `None`: the middle of the best ones.
    pub number: Option<usize>,
    /// The settings.
    pub settings: TrackerSettings,
    /// The metric, as a fraction.
    pub value: f64,
}

/// What a search found.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The settings to use: the middle of the best trials, or the best of them.
    pub best: Trial,
    /// The largest value of a trial.
    pub largest: f64,
    /// How many trials were run: fewer than asked for if the search was stopped.
    pub trials: usize,
}

/// The settings of `tracker` that are searched.
pub fn parameters(tracker: &TrackerSettings) -> &'static [Parameter] {
    match tracker {
        TrackerSettings::ByteTrack(_) => &BYTETRACK,
        TrackerSettings::BotSort(_) => &BOTSORT,
    }
}

/// Searches from `start` on until the trials are used up or `stop` is raised; `progress` is told
/// the number of trials run and the best value so far.
///
/// # Errors
/// The start has a setting out of range, or a tracker's output cannot be measured.
pub fn search(
    start: &TrackerSettings,
    inputs: &[SequenceInput],
    search: &Search,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(usize, f64),
) -> Result<Outcome, TrackError> {
    let value = measure(start, inputs, search)?;
    let start = Trial {
        number: Some(0),
        settings: *start,
        value,
    };
    // By falling value, of equal ones the first first; never empty.
    let mut elite = vec![start.clone()];
    let mut trials = 1;
    progress(1, value);
    while trials < search.trials && !stop.load(Ordering::Relaxed) {
        let last = (trials + GENERATION).min(search.trials);
        let best = elite.first().map_or(start.settings, |best| best.settings);
        let proposals: Vec<(usize, TrackerSettings)> = (trials..last)
            .map(|number| (number, propose(&best, search, number)))
            .collect();
        let values: Vec<Option<Result<f64, TrackError>>> = proposals
            .par_iter()
            .map(|(_, settings)| {
                let stopped = stop.load(Ordering::Relaxed);
                (!stopped).then(|| measure(settings, inputs, search))
            })
            .collect();
        for ((number, settings), value) in proposals.into_iter().zip(values) {
            let Some(value) = value.transpose()? else {
                continue;
            };
            trials += 1;
            let place = elite.partition_point(|trial| trial.value >= value);
            let number = Some(number);
            elite.insert(
                place,
                Trial {
                    number,
                    settings,
                    value,
                },
            );
            elite.truncate(ELITE);
        }
        progress(trials, elite.first().map_or(value, |best| best.value));
    }
    let best = elite.first().cloned().unwrap_or_else(|| start.clone());
    let largest = best.value;
    elite.retain(|trial| trial.value > start.value);
    let best = match middle(&elite, inputs, search)? {
        Some(middle) if middle.value >= start.value + KEPT * (largest - start.value) => middle,
        _ => best,
    };
    Ok(Outcome {
        best,
        largest,
        trials,
    })
}

/// The middle of some trials, each setting taken by itself; nothing of no trials.
fn middle(
    elite: &[Trial],
    inputs: &[SequenceInput],
    search: &Search,
) -> Result<Option<Trial>, TrackError> {
    let Some(first) = elite.first() else {
        return Ok(None);
    };
    let mut all = Vec::new();
    for trial in elite {
        if let Ok(Value::Object(values)) = serde_json::to_value(trial.settings) {
            all.push(values);
        }
    }
    let Some(mut values) = all.first().cloned() else {
        return Ok(None);
    };
    for &(name, range) in parameters(&first.settings) {
        let places = all
            .iter()
            .filter_map(|values| place(values.get(name)?, range));
        let sum: f64 = places.sum();
        set(&mut values, name, range, sum / all.len() as f64);
    }
    let settings: Option<TrackerSettings> = serde_json::from_value(Value::Object(values)).ok();
    let Some(settings) = settings.filter(|settings| settings.validate().is_ok()) else {
        return Ok(None);
    };
    let value = measure(&settings, inputs, search)?;
    let number = None;
    Ok(Some(Trial {
        number,
        settings,
        value,
    }))
}

/// The metric over all sequences together.
///
/// # Errors
/// A setting out of range, or output that cannot be measured.
pub fn measure(
    settings: &TrackerSettings,
    inputs: &[SequenceInput],
    search: &Search,
) -> Result<f64, TrackError> {
    let mut clear = Clear::default();
    let mut identity = Identity::default();
    let mut hotas = Vec::new();
    for input in inputs {
        let text = input.track_text(settings, search.split)?;
        let sequence = input.prepare(&text, search.benchmark, search.split)?;
        match search.metric {
            Metric::Hota => hotas.push(Hota::of(&sequence)),
            Metric::Mota => clear.add(&Clear::of(&sequence, Rules::TrackEval)),
            Metric::Idf1 => identity.add(&Identity::of(&sequence)),
        }
    }
    Ok(match search.metric {
        Metric::Hota => mean(&Hota::combine(&hotas).hota()),
        Metric::Mota => clear.mota(),
        Metric::Idf1 => identity.idf1(),
    })
}

/// The settings that a trial tries, derived from the best so far.
fn propose(best: &TrackerSettings, search: &Search, number: usize) -> TrackerSettings {
    let mut random = SplitMix64::new(search.seed, number as u64);
    let explored = EXPLORED * search.trials as f64;
    let Ok(Value::Object(mut values)) = serde_json::to_value(best) else {
        return *best;
    };
    if (number as f64) < explored {
        for &(name, range) in parameters(best) {
            let at = random.unit();
            set(&mut values, name, range, at);
        }
    } else {
        let left = search.trials as f64 - explored;
        let passed = (number as f64 - explored) / left.max(1.0);
        let step = STEPS.0 * (STEPS.1 / STEPS.0).powf(passed);
        vary(&mut values, parameters(best), step, &mut random);
    }
    // Ranges are narrower than what trackers take, so this does not fail.
    let settings: Option<TrackerSettings> = serde_json::from_value(Value::Object(values)).ok();
    let valid = settings.filter(|settings| settings.validate().is_ok());
    valid.unwrap_or(*best)
}

/// Moves about a third of the settings, at least one, by steps of deviation `step`.
fn vary(
    values: &mut Map<String, Value>,
    parameters: &[Parameter],
    step: f64,
    random: &mut SplitMix64,
) {
    let count = parameters.len() as f64;
    let always = (random.unit() * count) as usize;
    for (index, &(name, range)) in parameters.iter().enumerate() {
        let chosen = random.unit() < 1.0 / 3.0;
        let (move_by, flip) = (random.normal() * step, random.unit() < 0.5);
        if !chosen && index != always {
            continue;
        }
        let Some(at) = values.get(name).and_then(|value| place(value, range)) else {
            continue;
        };
        let moved = match range {
            Range::Switch if flip => 1.0 - at,
            Range::Switch => at,
            Range::Linear(..) | Range::Whole(..) => (at + move_by).clamp(0.0, 1.0),
        };
        set(values, name, range, moved);
    }
}

/// Where in its range a value lies, 0..=1.
fn place(value: &Value, range: Range) -> Option<f64> {
    Some(match range {
        Range::Switch => f64::from(u8::from(value.as_bool()?)),
        Range::Linear(low, high) => ((value.as_f64()? - low) / (high - low)).clamp(0.0, 1.0),
        Range::Whole(low, high) => {
            let value = value.as_f64()?.clamp(low, high);
            (value / low).ln() / (high / low).ln()
        }
    })
}

/// Sets a value by where it lies in its range, 0..=1, rounded to what people would write.
fn set(values: &mut Map<String, Value>, name: &str, range: Range, at: f64) {
    let value = match range {
        Range::Switch => Value::from(at >= 0.5),
        Range::Linear(low, high) => {
            let value = low + at * (high - low);
            Value::from((value * 1000.0).round() / 1000.0)
        }
        Range::Whole(low, high) => {
            let value = low * (high / low).powf(at);
            Value::from(value.round() as u64)
        }
    };
    values.insert(name.to_string(), value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tracker::{Detection, FrameDetections};
    use mtmc_models::BBox;

    /// Two people walk past each other; detections miss some frames and carry middling scores.
    fn inputs() -> Vec<SequenceInput> {
        let mut random = SplitMix64::new(5, 0);
        let mut truth = super::super::mot::Boxes::default();
        let mut frames = Vec::new();
        for number in 1..=60_u64 {
            let mut detections = Vec::new();
            for person in 0..3 {
                let x = 20.0 + 60.0 * person as f64 + 2.0 * number as f64 * (1.0 - person as f64);
                let tlwh = [x, 50.0, 30.0, 80.0];
                truth.push(number, person + 1, tlwh);
                if random.unit() < 0.8 {
                    let jitter = 3.0 * random.normal();
                    detections.push(Detection {
                        bbox: BBox::from_tlwh((x + jitter) as f32, 50.0, 30.0, 80.0),
                        score: (0.35 + 0.3 * random.unit()) as f32,
                        class: 0,
                    });
                }
            }
            frames.push(FrameDetections {
                frame: number,
                detections,
                ..FrameDetections::default()
            });
        }
        vec![SequenceInput {
            name: "made-up".to_string(),
            frame_rate: 30.0,
            frames,
            truth,
        }]
    }

    fn run(tracker: &str, threads: usize, seed: u64) -> Outcome {
        let start: TrackerSettings = tracker.parse().unwrap();
        let wanted = Search {
            metric: Metric::Idf1,
            benchmark: Benchmark::Mot15,
            split: Split::FirstHalf,
            trials: 70,
            seed,
        };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        let stop = AtomicBool::new(false);
        let inputs = inputs();
        let searched = || search(&start, &inputs, &wanted, &stop, &mut |_, _| {});
        pool.build().unwrap().install(searched).unwrap()
    }

    #[test]
    fn the_seed_alone_decides_and_the_start_is_beaten() {
        for tracker in TrackerSettings::NAMES {
            let one = run(tracker, 1, 3);
            assert_eq!(one, run(tracker, 4, 3));
            assert_ne!(one.best.settings, run(tracker, 2, 4).best.settings);
            assert_eq!(one.trials, 70);
            // Scores lie about the default thresholds: half of the boxes begin no track there.
            assert!(
                one.best.value > 0.8 && one.best.number != Some(0),
                "{one:?}"
            );
            assert!(one.largest >= one.best.value);
        }
    }

    #[test]
    fn a_stopped_search_gives_its_best_so_far() {
        let stop = AtomicBool::new(true);
        let start = TrackerSettings::default();
        let wanted = Search {
            metric: Metric::Hota,
            benchmark: Benchmark::Mot15,
            split: Split::All,
            trials: 1000,
            seed: 0,
        };
        let outcome = search(&start, &inputs(), &wanted, &stop, &mut |_, _| {}).unwrap();
        assert_eq!((outcome.trials, outcome.best.settings), (1, start));
    }

    #[test]
    fn every_proposal_is_valid_and_varies_settings_that_exist() {
        for tracker in TrackerSettings::NAMES {
            let start: TrackerSettings = tracker.parse().unwrap();
            let Value::Object(values) = serde_json::to_value(start).unwrap() else {
                panic!("no object");
            };
            for (name, range) in parameters(&start) {
                assert!(values.contains_key(*name), "{tracker}: {name}");
                let at = place(&values[*name], *range).unwrap();
                let mut again = values.clone();
                set(&mut again, name, *range, at);
                assert_eq!(
                    again[*name], values[*name],
                    "{tracker}: the default of {name}"
                );
            }
            let wanted = Search {
                metric: Metric::Hota,
                benchmark: Benchmark::Mot17,
                split: Split::All,
                trials: 500,
                seed: 9,
            };
            let mut different = 0;
            for number in 1..500 {
                let proposal = propose(&start, &wanted, number);
                proposal.validate().unwrap();
                different += usize::from(proposal != start);
            }
            assert!(different > 480, "{tracker}: {different}");
        }
    }
}
