//! Whether handoffs were right: did the person really turn up at that camera next, and when?
//!
//! A person's *visit* to a camera is a run of its frames in which the truth has them, gaps of up to
//! [`GAP`] seconds included: whoever is hidden for a moment has not left. **True handoffs** are
//! visits that end before the recording does, of people who are in another camera's picture at
//! that moment or turn up in one before they come back: to each of the cameras that see them then,
//! or see them first.
//!
//! A handoff that was reported is **right** if its identity stood for one and the same person where
//! it left and where it arrived, and no third camera began to see that person in between. Who an
//! identity stood for, the matches of CLEAR tell. Precision is the share of reported handoffs that
//! are right, recall the share of true ones that some right one tells of.

use std::collections::{BTreeMap, HashMap};

use super::{Camera, Match, measure};
use crate::eval::clear::Rules;

/// Seconds out of sight within one visit.
pub const GAP: f64 = 2.0;

/// A handoff that was reported as completed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reported {
    /// When, in seconds of the environment.
    pub time: f64,
    /// Who, by the tracks' identities.
    pub global_id: i64,
    /// Index of the camera that was left.
    pub from: usize,
    /// Index of the camera of arrival.
    pub to: usize,
    /// Seconds on the way.
    pub seconds: f64,
    /// How sure it was, 0..=1.
    pub confidence: f64,
}

/// When a camera's frames were taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Clock {
    /// Frames a second.
    pub rate: f64,
    /// Time of the first frame, in seconds of the environment.
    pub start: f64,
}

impl Clock {
    fn time(&self, frame: usize) -> f64 {
        self.start + frame as f64 / self.rate
    }
}

/// How handoffs compare with the truth.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Handoffs {
    /// Those that were reported.
    pub reported: u64,
    /// Those of them that are right.
    pub right: u64,
    /// True ones.
    pub truths: u64,
    /// True ones that a right one tells of.
    pub found: u64,
    /// Of each right one, by how many seconds its way's time was wrong, rising.
    pub errors: Vec<f64>,
    /// Mean confidence of the right and of the wrong ones.
    pub confidence: [Option<f64>; 2],
}

impl Handoffs {
    /// Compares what was reported; `clocks` are the cameras' in their order.
    ///
    /// Reports of cameras that are not there count as wrong.
    pub fn of(cameras: &[Camera], clocks: &[Clock], reported: &[Reported]) -> Self {
        let truth = Truth::of(cameras, clocks);
        let sightings = Sightings::of(cameras, clocks);
        let mut outcome = Self {
            reported: reported.len() as u64,
            truths: truth.handoffs.len() as u64,
            ..Self::default()
        };
        let mut told = vec![false; truth.handoffs.len()];
        let mut sums = [(0.0, 0_u64); 2];
        for report in reported {
            let checked = check(report, &truth, &sightings);
            let sum = &mut sums[usize::from(checked.is_none())];
            sum.0 += report.confidence;
            sum.1 += 1;
            let Some(checked) = checked else { continue };
            outcome.right += 1;
            outcome
                .errors
                .push((report.seconds - checked.seconds).abs());
            for (told, handoff) in told.iter_mut().zip(&truth.handoffs) {
                *told |= handoff.is(&checked, report);
            }
        }
        outcome.found = told.into_iter().filter(|told| *told).count() as u64;
        outcome.errors.sort_by(f64::total_cmp);
        outcome.confidence = sums.map(|(sum, count)| (count > 0).then(|| sum / count as f64));
        outcome
    }

    /// Share of the reported ones that are right; 1 where there were none.
    pub fn precision(&self) -> f64 {
        share(self.right, self.reported)
    }

    /// Share of the true ones that were told of; 1 where there were none.
    pub fn recall(&self) -> f64 {
        share(self.found, self.truths)
    }

    /// Half of the right ones' times were wrong by no more than this, in seconds.
    pub fn median_error(&self) -> Option<f64> {
        self.errors.get(self.errors.len() / 2).copied()
    }
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        return 1.0;
    }
    part as f64 / whole as f64
}

/// A person before a camera, from the first frame to the last, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Visit {
    camera: usize,
    first: f64,
    last: f64,
}

/// A person who goes from one camera to another.
struct TrueHandoff {
    person: i64,
    visit: Visit,
    to: Vec<usize>,
}

impl TrueHandoff {
    fn is(&self, checked: &Checked, report: &Reported) -> bool {
        self.person == checked.person
            && self.visit.camera == report.from
            && self.to.contains(&report.to)
            && checked.left >= self.visit.first
            && checked.left <= self.visit.last
    }
}

/// Where everyone really was.
struct Truth {
    /// By person, in order of their beginning.
    visits: BTreeMap<i64, Vec<Visit>>,
    handoffs: Vec<TrueHandoff>,
}

impl Truth {
    fn of(cameras: &[Camera], clocks: &[Clock]) -> Self {
        let mut visits: BTreeMap<i64, Vec<Visit>> = BTreeMap::new();
        let mut end = f64::NEG_INFINITY;
        for (camera, (entry, clock)) in cameras.iter().zip(clocks).enumerate() {
            let frames = &entry.sequence.frames;
            end = end.max(clock.time(frames.len().saturating_sub(1)));
            let mut open: HashMap<usize, Visit> = HashMap::new();
            for (frame, seen) in frames.iter().enumerate() {
                let time = clock.time(frame);
                for &person in &seen.truth {
                    let new = Visit {
                        camera,
                        first: time,
                        last: time,
                    };
                    let visit = open.entry(person).or_insert(new);
                    if time - visit.last > GAP {
                        let name = entry.names.truth[person];
                        visits.entry(name).or_default().push(*visit);
                        *visit = new;
                    }
                    visit.last = time;
                }
            }
            for (person, visit) in open {
                let name = entry.names.truth[person];
                visits.entry(name).or_default().push(visit);
            }
        }
        let mut handoffs = Vec::new();
        for (&person, visits) in &mut visits {
            visits.sort_by(|a, b| a.first.total_cmp(&b.first).then(a.camera.cmp(&b.camera)));
            for &visit in visits.iter().filter(|visit| visit.last + GAP < end) {
                let to = next_cameras(visits, visit);
                if !to.is_empty() {
                    handoffs.push(TrueHandoff { person, visit, to });
                }
            }
        }
        Self { visits, handoffs }
    }
}

/// Who sees a person at the end of a visit or, if nobody does, first after it; nobody if that is
/// the same camera.
fn next_cameras(visits: &[Visit], left: Visit) -> Vec<usize> {
    let others = || visits.iter().filter(|other| other.camera != left.camera);
    let there = others().filter(|other| other.first <= left.last && other.last > left.last);
    let mut cameras: Vec<usize> = there.map(|other| other.camera).collect();
    if cameras.is_empty() {
        let after = visits.iter().filter(|other| other.first > left.last);
        let next = after
            .clone()
            .map(|other| other.first)
            .min_by(f64::total_cmp);
        let Some(next) = next else { return Vec::new() };
        cameras = after
            .filter(|other| other.first <= next)
            .map(|other| other.camera)
            .collect();
        if cameras.contains(&left.camera) {
            return Vec::new();
        }
    }
    cameras.sort_unstable();
    cameras.dedup();
    cameras
}

/// Who each identity stood for, by camera and identity: times and people, in order.
struct Sightings(BTreeMap<(usize, i64), Vec<(f64, i64)>>);

impl Sightings {
    fn of(cameras: &[Camera], clocks: &[Clock]) -> Self {
        let mut all: BTreeMap<(usize, i64), Vec<(f64, i64)>> = BTreeMap::new();
        for (camera, (entry, clock)) in cameras.iter().zip(clocks).enumerate() {
            let (_, matches) = measure(&entry.sequence, Rules::TrackEval);
            for Match {
                frame,
                truth,
                track,
            } in matches
            {
                let key = (camera, entry.names.track[track]);
                let sighting = (clock.time(frame), entry.names.truth[truth]);
                all.entry(key).or_default().push(sighting);
            }
        }
        Self(all)
    }

    /// The latest sighting of an identity by a camera up to `time`.
    fn until(&self, camera: usize, identity: i64, time: f64) -> Option<(f64, i64)> {
        let sightings = self.0.get(&(camera, identity))?;
        let count = sightings.partition_point(|sighting| sighting.0 <= time + SLACK);
        sightings.get(count.checked_sub(1)?).copied()
    }

    /// The sighting nearest to `time`, within [`GAP`].
    fn near(&self, camera: usize, identity: i64, time: f64) -> Option<(f64, i64)> {
        let sightings = self.0.get(&(camera, identity))?;
        let apart = |sighting: &&(f64, i64)| (sighting.0 - time).abs();
        let nearest = sightings
            .iter()
            .min_by(|a, b| apart(a).total_cmp(&apart(b)))?;
        (apart(&nearest) <= GAP).then_some(*nearest)
    }
}

/// Times of frames of one step differ by less, in seconds.
const SLACK: f64 = 1e-3;

/// A right handoff, as it really was.
struct Checked {
    person: i64,
    /// When the identity was last seen to leave.
    left: f64,
    /// Seconds on the way.
    seconds: f64,
}

fn check(report: &Reported, truth: &Truth, sightings: &Sightings) -> Option<Checked> {
    let (arrived, person) = sightings.near(report.to, report.global_id, report.time)?;
    let (left, leaver) = sightings.until(report.from, report.global_id, report.time)?;
    if leaver != person {
        return None;
    }
    let visits = truth.visits.get(&person)?;
    let during = |camera: usize, time: f64| {
        let mut there = visits.iter().filter(move |visit| visit.camera == camera);
        there.find(|visit| visit.first <= time + SLACK && time <= visit.last + SLACK)
    };
    let (source, target) = (during(report.from, left)?, during(report.to, arrived)?);
    let third = |visit: &&Visit| {
        let elsewhere = visit.camera != report.from && visit.camera != report.to;
        elsewhere && visit.first > source.last && visit.first < target.first
    };
    if visits.iter().any(|visit| third(&visit)) {
        return None;
    }
    Some(Checked {
        person,
        left,
        seconds: (target.first - source.last).max(0.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::mot::{Benchmark, Boxes};

    /// Truth and tracks of one camera: frames from ..= to, person, identity.
    fn camera(name: &str, rows: &[(u64, u64, i64, i64)]) -> Camera {
        let (mut truth, mut tracks) = (Boxes::default(), Boxes::default());
        for &(from, to, person, identity) in rows {
            for frame in from..=to {
                let place = [person as f64 * 100.0, 0.0, 20.0, 40.0];
                truth.push(frame, person, place);
                tracks.push(frame, identity, place);
            }
        }
        Camera::new(name, &truth, &tracks, Benchmark::Mot15, Some(200))
    }

    fn report(time: f64, global_id: i64, from: usize, to: usize, seconds: f64) -> Reported {
        Reported {
            time,
            global_id,
            from,
            to,
            seconds,
            confidence: 0.5,
        }
    }

    const CLOCK: Clock = Clock {
        rate: 10.0,
        start: 0.0,
    };

    // By hand, ten frames a second. Person 1: a until 2.0 s, b from 5.0 s: 3 seconds. Person 2: a
    // until 2.0 s, b from 4.0 s, but as identity 8 there. Person 3 leaves a for good.
    fn scene() -> [Camera; 3] {
        [
            camera("a", &[(1, 21, 1, 1), (1, 21, 2, 2), (1, 21, 3, 3)]),
            camera("b", &[(51, 80, 1, 1), (41, 80, 2, 8)]),
            camera("c", &[(120, 140, 1, 1), (150, 170, 2, 8)]),
        ]
    }

    #[test]
    fn right_handoffs_lead_the_same_person_to_the_next_camera() {
        // True ones: 1 and 2 from a to b, 1 and 2 from b to c.
        let reports = [report(5.2, 1, 0, 1, 2.5), report(12.0, 1, 1, 2, 4.0)];
        let found = Handoffs::of(&scene(), &[CLOCK; 3], &reports);
        assert_eq!((found.reported, found.right), (2, 2));
        assert_eq!((found.truths, found.found), (4, 2));
        assert_eq!((found.precision(), found.recall()), (1.0, 0.5));
        // 3.0 instead of 2.5; 11.9 - 7.9 = 4.0.
        let errors = [found.errors[0], found.errors[1]];
        assert!(errors[0].abs() < 1e-9 && (errors[1] - 0.5).abs() < 1e-9);
        assert_eq!(found.confidence, [Some(0.5), None]);
    }

    #[test]
    fn wrong_ones_mix_people_up_or_leave_a_camera_out() {
        for wrong in [
            // Identity 8 was never in a; 3 never in b; there is no camera 7.
            report(4.2, 8, 0, 1, 2.0),
            report(5.0, 3, 0, 1, 3.0),
            report(5.2, 1, 0, 7, 3.0),
            // Person 1 was in b before he came to c.
            report(12.0, 1, 0, 2, 9.9),
        ] {
            let found = Handoffs::of(&scene(), &[CLOCK; 3], &[wrong]);
            assert_eq!((found.right, found.found), (0, 0), "{wrong:?}");
            assert_eq!(found.confidence, [None, Some(0.5)]);
        }
        let nothing = Handoffs::of(&[], &[], &[]);
        assert_eq!((nothing.precision(), nothing.recall()), (1.0, 1.0));
    }

    // Overlap: both see the person from 1.0 to 2.0 s; hidden for a second is no leaving.
    #[test]
    fn overlapping_cameras_hand_over_at_once() {
        let cameras = [
            camera("a", &[(1, 5, 1, 1), (12, 21, 1, 1)]),
            camera("b", &[(11, 60, 1, 1)]),
        ];
        let reports = [report(1.0, 1, 0, 1, 0.0)];
        let found = Handoffs::of(&cameras, &[CLOCK; 2], &reports);
        assert_eq!((found.right, found.truths, found.found), (1, 1, 1));
        assert_eq!(found.median_error(), Some(0.0));
    }
}
