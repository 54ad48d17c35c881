//! The life of handoffs: who is in which zone, who left, who is waited for where.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::event::{ExpiryReason, HandoffEvent};
use super::settings::HandoffSettings;
use super::stays::{Key, People, Stays};
use super::travel::TravelTimes;
use super::zone::{HandoffRules, RuleError, Zone};
use crate::gallery::Link;
use crate::geometry::BBox;
use crate::tracker::SettingError;

/// What a camera sees of one person in a time step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HandoffObservation {
    /// Index of the camera.
    pub camera: usize,
    /// The track's ID in its camera.
    pub track_id: u64,
    /// Whom it shows, if that is known.
    pub global_id: Option<u64>,
    /// Its box in pixels.
    pub bbox: BBox,
    /// Width and height of the frame in pixels.
    pub frame_size: [f64; 2],
    /// How sure it is whom it shows, 0..=1.
    pub confidence: f64,
}

/// Why a detector cannot be made.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum HandoffError {
    /// A setting is out of range.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// Zones or links make no sense.
    #[error(transparent)]
    Rule(#[from] RuleError),
}

/// A handoff that was triggered and is not over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Pending {
    global_id: Option<u64>,
    from: usize,
    track_id: u64,
    zone: usize,
    candidates: Vec<usize>,
    /// When the person was last seen by the camera left.
    left_at: f64,
    /// Seconds from then on until it expires.
    wait: f64,
}

/// A person at a camera in the current step.
#[derive(Debug, Clone, Copy)]
struct Sighting {
    camera: usize,
    track_id: u64,
    first_seen: f64,
    confidence: f64,
}

/// Looks for handoffs between the cameras of one environment.
///
/// **Triggered**: once per stay in a zone that leads somewhere, when a track comes into the zone
/// from elsewhere in the picture, or when it ends there. A track that begins in a zone is someone
/// who came through it: as long as it is seen, nothing is triggered.
///
/// **Completed**: the same person is seen at a candidate. Cameras that overlap may see the person
/// at once; at others only a track counts that began after the person was last seen where it left.
///
/// **Expired**: after the longest travel time of the candidates' links (or
/// [`HandoffSettings::expire_seconds`], if one of them overlaps and that is longer) without sighting
/// at either end; when the person went back into the picture; or when there are too many.
///
/// The whole state can be serialised and read back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HandoffDetector {
    settings: HandoffSettings,
    rules: HandoffRules,
    travel: TravelTimes,
    stays: Stays,
    /// By number.
    pending: BTreeMap<u64, Pending>,
    next_id: u64,
    time: f64,
    ignored: u64,
}

impl HandoffDetector {
    /// A detector that has seen nobody yet.
    ///
    /// # Errors
    /// A setting out of range.
    pub fn new(settings: HandoffSettings, rules: HandoffRules) -> Result<Self, HandoffError> {
        settings.validate()?;
        let links = rules.links().map(|(from, to, link)| {
            let seconds = window(link, &settings);
            (from, to, Link { seconds, ..link })
        });
        let travel = TravelTimes::new(links);
        Ok(Self {
            settings,
            rules,
            travel,
            stays: Stays::default(),
            pending: BTreeMap::new(),
            next_id: 1,
            time: BEFORE,
            ignored: 0,
        })
    }

    /// Advances to `time`, in seconds, and returns what happened, in a fixed order.
    ///
    /// Steps come in order of time; a time before the last one, or none at all, counts as the last
    /// one. The order of the observations does not matter. Those of which nothing is inside the
    /// frame, of cameras without rules, a second one of a track, and those beyond
    /// [`HandoffSettings::capacity`] are left out and counted ([`ignored`](Self::ignored)).
    pub fn step(&mut self, time: f64, observations: &[HandoffObservation]) -> Vec<HandoffEvent> {
        if !self.settings.enabled {
            return Vec::new();
        }
        if time.is_finite() && time > self.time {
            self.time = time;
        }
        if self.time == BEFORE {
            self.time = 0.0;
        }
        let mut events = Vec::new();
        let entered = self.update_stays(observations);
        let people = self.stays.people();
        self.follow_pending(&people, &mut events);
        for (track, zone) in entered {
            self.trigger(track, zone, &mut events);
        }
        self.end_stays(&people, &mut events);
        self.complete(&mut events);
        self.expire(&mut events);
        self.bound(&mut events);
        events
    }

    /// Who takes how long from camera to camera, by what was seen so far.
    pub fn travel_times(&self) -> &TravelTimes {
        &self.travel
    }

    /// Zones and links.
    pub fn rules(&self) -> &HandoffRules {
        &self.rules
    }

    /// Whether a handoff of this track is waited for.
    pub fn is_leaving(&self, camera: usize, track_id: u64) -> bool {
        self.pending
            .values()
            .any(|pending| pending.from == camera && pending.track_id == track_id)
    }

    /// Cameras that a box at this place may go to, whether or not it is new there: empty if it is in
    /// no zone, or handoffs are switched off.
    pub fn leads_to(&self, camera: usize, bbox: &BBox, frame_size: [f64; 2]) -> Vec<usize> {
        if !self.settings.enabled {
            return Vec::new();
        }
        let ratio = self.settings.min_overlap_ratio;
        self.rules.leads_to(camera, bbox, frame_size, ratio)
    }

    /// Two identities turned out to be one person: what is waited for goes on under `into`.
    pub fn merge(&mut self, from: u64, into: u64) {
        self.stays.rename(from, into);
        for pending in self.pending.values_mut() {
            if pending.global_id == Some(from) {
                pending.global_id = Some(into);
            }
        }
    }

    /// Erases an identity: its tracks and what is waited for go on as someone's who is not known.
    pub fn forget(&mut self, global_id: u64) {
        self.stays.forget_person(global_id);
        for pending in self.pending.values_mut() {
            if pending.global_id == Some(global_id) {
                pending.global_id = None;
            }
        }
    }

    /// Handoffs that are waited for.
    pub fn pending_count(&self) -> usize {
        self.pending.len()
    }

    /// Tracks that are followed.
    pub fn track_count(&self) -> usize {
        self.stays.len()
    }

    /// Observations that were left out so far.
    pub fn ignored(&self) -> u64 {
        self.ignored
    }

    /// Takes in what is seen; returns who came into which zone from elsewhere in the picture.
    fn update_stays(&mut self, observations: &[HandoffObservation]) -> Vec<(Key, usize)> {
        let mut sorted: Vec<&HandoffObservation> = observations.iter().collect();
        sorted.sort_by_key(|seen| order(seen));
        let people = self.stays.people();
        let ratio = self.settings.min_overlap_ratio;
        let mut entered = Vec::new();
        let mut before = None;
        let mut taken = 0;
        for seen in sorted {
            let key = (seen.camera, seen.track_id);
            let usable = before != Some(key) && taken < self.settings.capacity;
            let shares = self.shares(seen).filter(|_| usable);
            let Some(shares) = shares else {
                self.ignored += 1;
                continue;
            };
            before = Some(key);
            taken += 1;
            let zones = self.stays.update(seen, self.time, &shares, ratio, &people);
            entered.extend(zones.into_iter().map(|zone| (key, zone)));
        }
        entered
    }

    /// Share of the box in each zone of its camera; `None` if it cannot be used.
    fn shares(&self, seen: &HandoffObservation) -> Option<Vec<f64>> {
        if seen.camera >= self.rules.camera_count() {
            return None;
        }
        let whole = Zone::new([0.0, 1.0], [0.0, 1.0]);
        whole.share(&seen.bbox, seen.frame_size)?;
        let zones = self.rules.zones(seen.camera).iter();
        zones
            .map(|zone| zone.share(&seen.bbox, seen.frame_size))
            .collect()
    }

    /// Keeps up with people who have not left yet; those who went back are not leaving.
    fn follow_pending(&mut self, people: &People, events: &mut Vec<HandoffEvent>) {
        let mut returned = Vec::new();
        let mut there = Vec::new();
        for (&id, pending) in &self.pending {
            let key = (pending.from, pending.track_id);
            let (person, time) = (pending.global_id, self.time);
            let showing = self.stays.showing(key, person, time, people);
            let Some((track_id, stay)) = showing else {
                continue;
            };
            if stay.inside & (1 << pending.zone) == 0 {
                returned.push(id);
            } else {
                there.push((id, track_id, stay.global_id));
            }
        }
        for (id, track_id, global_id) in there {
            let Some(pending) = self.pending.get_mut(&id) else {
                continue;
            };
            pending.left_at = self.time;
            pending.track_id = track_id;
            pending.global_id = global_id.or(pending.global_id);
            if let Some(stay) = self.stays.get_mut((pending.from, track_id)) {
                stay.triggered |= 1 << pending.zone;
            }
        }
        for id in returned {
            if let Some(pending) = self.pending.get_mut(&id) {
                pending.left_at = self.time;
            }
            self.give_up(id, ExpiryReason::Returned, events);
        }
    }

    /// Begins a handoff, unless this stay has begun one already or the zone leads nowhere.
    fn trigger(&mut self, track: Key, zone: usize, events: &mut Vec<HandoffEvent>) {
        let (camera, track_id) = track;
        let candidates = self.rules.candidates(camera, zone);
        let Some(stay) = self.stays.get_mut(track) else {
            return;
        };
        if candidates.is_empty() || stay.triggered & (1 << zone) != 0 {
            return;
        }
        stay.triggered |= 1 << zone;
        let mut wait = 0.0_f64;
        for &to in &candidates {
            if let Some(link) = self.rules.link(camera, to) {
                wait = wait.max(window(link, &self.settings)[1]);
            }
        }
        let handoff_id = self.next_id;
        self.next_id += 1;
        events.push(HandoffEvent::Triggered {
            handoff_id,
            time: self.time,
            global_id: stay.global_id,
            from: camera,
            track_id,
            zone,
            candidates: candidates.clone(),
        });
        let pending = Pending {
            global_id: stay.global_id,
            from: camera,
            track_id,
            zone,
            candidates,
            left_at: stay.last_seen,
            wait,
        };
        self.pending.insert(handoff_id, pending);
    }

    /// Forgets tracks that ended; those that ended in a zone left through it.
    fn end_stays(&mut self, people: &People, events: &mut Vec<HandoffEvent>) {
        let oldest = self.time - self.settings.track_end_seconds;
        for (track, stay) in self.stays.ended(oldest) {
            // A track that breaks off while another shows the person left nowhere.
            if !self.stays.continues(track, &stay, people) {
                let zones = self.rules.zones(track.0).len();
                for zone in (0..zones).filter(|zone| stay.inside & (1 << zone) != 0) {
                    self.trigger(track, zone, events);
                }
            }
            self.stays.remove(track);
        }
    }

    /// Completes the handoffs of people who are at a candidate.
    fn complete(&mut self, events: &mut Vec<HandoffEvent>) {
        let sightings = self.sightings();
        let mut completed = Vec::new();
        for (&id, pending) in &self.pending {
            let Some(person) = pending.global_id else {
                continue;
            };
            let Some(sightings) = sightings.get(&person) else {
                continue;
            };
            let mut best: Option<(Sighting, f64, f64)> = None;
            for &sighting in sightings {
                let Some((seconds, confidence)) = self.arrival(pending, &sighting) else {
                    continue;
                };
                if best.is_none_or(|(_, _, most)| confidence > most) {
                    best = Some((sighting, seconds, confidence));
                }
            }
            if let Some((sighting, seconds, confidence)) = best {
                completed.push((id, person, sighting, seconds, confidence));
            }
        }
        for (handoff_id, global_id, sighting, seconds, confidence) in completed {
            let Some(pending) = self.pending.remove(&handoff_id) else {
                continue;
            };
            let to = sighting.camera;
            // Who is seen by both cameras at once tells nothing of the way between them.
            if seconds > 0.0 && sighting.confidence >= self.settings.learn_above {
                self.travel.record(pending.from, to, seconds);
            }
            events.push(HandoffEvent::Completed {
                handoff_id,
                time: self.time,
                global_id,
                from: pending.from,
                to,
                track_id: sighting.track_id,
                seconds,
                confidence,
            });
        }
    }

    /// Where people who are waited for are in this step, by identity, each in order of the cameras.
    fn sightings(&self) -> BTreeMap<u64, Vec<Sighting>> {
        let mut sightings: BTreeMap<u64, Vec<Sighting>> = BTreeMap::new();
        for person in self
            .pending
            .values()
            .filter_map(|pending| pending.global_id)
        {
            sightings.insert(person, Vec::new());
        }
        for ((camera, track_id), stay) in self.stays.iter() {
            let person = stay.global_id.and_then(|person| sightings.get_mut(&person));
            let Some(found) = person.filter(|_| stay.last_seen >= self.time) else {
                continue;
            };
            found.push(Sighting {
                camera,
                track_id,
                first_seen: stay.first_seen,
                confidence: stay.confidence,
            });
        }
        sightings
    }

    /// Seconds and confidence of a person's arrival, if the sighting is one.
    fn arrival(&self, pending: &Pending, sighting: &Sighting) -> Option<(f64, f64)> {
        if !pending.candidates.contains(&sighting.camera) {
            return None;
        }
        let link = self.rules.link(pending.from, sighting.camera)?;
        let seconds = sighting.first_seen - pending.left_at;
        if !link.overlap && seconds <= 0.0 {
            return None;
        }
        let seconds = seconds.max(0.0);
        let fits = self
            .travel
            .plausibility(pending.from, sighting.camera, seconds);
        Some((seconds, sighting.confidence * fits))
    }

    fn expire(&mut self, events: &mut Vec<HandoffEvent>) {
        let over = |pending: &Pending| self.time - pending.left_at > pending.wait;
        let expired: Vec<u64> = self
            .pending
            .iter()
            .filter(|(_, pending)| over(pending))
            .map(|(&id, _)| id)
            .collect();
        for id in expired {
            self.give_up(id, ExpiryReason::Timeout, events);
        }
    }

    /// Keeps within the capacity: who was not seen for longest is forgotten first.
    fn bound(&mut self, events: &mut Vec<HandoffEvent>) {
        let capacity = self.settings.capacity;
        while self.pending.len() > capacity {
            let Some((&oldest, _)) = self.pending.first_key_value() else {
                break;
            };
            self.give_up(oldest, ExpiryReason::Crowded, events);
        }
        self.stays.bound(capacity);
    }

    fn give_up(&mut self, handoff_id: u64, reason: ExpiryReason, events: &mut Vec<HandoffEvent>) {
        let Some(pending) = self.pending.remove(&handoff_id) else {
            return;
        };
        events.push(HandoffEvent::Expired {
            handoff_id,
            time: self.time,
            global_id: pending.global_id,
            from: pending.from,
            seconds: (self.time - pending.left_at).max(0.0),
            reason,
        });
    }
}

/// The time before the first step; unlike minus infinity it can be written as JSON.
const BEFORE: f64 = f64::MIN;

/// Least and most seconds from camera to camera.
fn window(link: Link, settings: &HandoffSettings) -> [f64; 2] {
    if link.overlap {
        return [0.0, link.seconds[1].max(settings.expire_seconds)];
    }
    link.seconds
}

/// An order of observations that depends on nothing but what they say.
fn order(seen: &HandoffObservation) -> (usize, u64, Option<u64>, u64, [u32; 4]) {
    let BBox { x1, y1, x2, y2 } = seen.bbox;
    (
        seen.camera,
        seen.track_id,
        seen.global_id,
        seen.confidence.to_bits(),
        [x1, y1, x2, y2].map(f32::to_bits),
    )
}
