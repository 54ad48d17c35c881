//! The life of handoffs: who is in which zone, who left, who is waited for where.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::event::{ExpiryReason, HandoffEvent};
use super::settings::HandoffSettings;
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

/// A track and the zones it is in. Zones are bits, the first is the lowest.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Stay {
    first_seen: f64,
    last_seen: f64,
    global_id: Option<u64>,
    confidence: f64,
    /// Zones that it is in.
    inside: u64,
    /// Of those, the ones whose handoff was triggered.
    triggered: u64,
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
    /// By camera and track.
    stays: BTreeMap<usize, BTreeMap<u64, Stay>>,
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
            stays: BTreeMap::new(),
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
        self.follow_pending(&mut events);
        for (camera, track_id, zone) in entered {
            self.trigger(camera, track_id, zone, &mut events);
        }
        self.end_stays(&mut events);
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
        for stay in self.stays.values_mut().flat_map(BTreeMap::values_mut) {
            if stay.global_id == Some(from) {
                stay.global_id = Some(into);
            }
        }
        for pending in self.pending.values_mut() {
            if pending.global_id == Some(from) {
                pending.global_id = Some(into);
            }
        }
    }

    /// Handoffs that are waited for.
    pub fn pending_count(&self) -> usize {
        self.pending.len()
    }

    /// Tracks that are followed.
    pub fn track_count(&self) -> usize {
        self.stays.values().map(BTreeMap::len).sum()
    }

    /// Observations that were left out so far.
    pub fn ignored(&self) -> u64 {
        self.ignored
    }

    /// Takes in what is seen; returns camera, track and zone of those who came into a zone.
    fn update_stays(&mut self, observations: &[HandoffObservation]) -> Vec<(usize, u64, usize)> {
        let mut sorted: Vec<&HandoffObservation> = observations.iter().collect();
        sorted.sort_by_key(|seen| order(seen));
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
            for zone in self.update_stay(seen, &shares) {
                entered.push((seen.camera, seen.track_id, zone));
            }
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

    /// Takes in one sighting; returns the zones that the track came into from elsewhere.
    fn update_stay(&mut self, seen: &HandoffObservation, shares: &[f64]) -> Vec<usize> {
        let time = self.time;
        let confidence = if seen.confidence >= 0.0 {
            seen.confidence.min(1.0)
        } else {
            0.0
        };
        let stays = self.stays.entry(seen.camera).or_default();
        let known = stays.get(&seen.track_id).copied();
        let before = known.map_or(0, |stay| stay.inside);
        let ratio = self.settings.min_overlap_ratio;
        let mut inside = 0;
        let mut entered = Vec::new();
        for (zone, &share) in shares.iter().enumerate() {
            let bit = 1 << zone;
            let was_inside = before & bit != 0;
            if share >= ratio || (was_inside && share >= ratio * KEEP) {
                inside |= bit;
                if known.is_some() && !was_inside {
                    entered.push(zone);
                }
            }
        }
        let stay = Stay {
            first_seen: known.map_or(time, |stay| stay.first_seen),
            last_seen: time,
            global_id: seen.global_id.or(known.and_then(|stay| stay.global_id)),
            confidence,
            inside,
            triggered: known.map_or(0, |stay| stay.triggered) & inside,
        };
        stays.insert(seen.track_id, stay);
        entered
    }

    /// The track that shows a pending handoff's person at the camera left, in this step: the one it
    /// was triggered by or, if that broke off, another one of the same person.
    fn still_there(&self, pending: &Pending) -> Option<(u64, Stay)> {
        let stays = self.stays.get(&pending.from)?;
        let now = |stay: &Stay| stay.last_seen >= self.time;
        if let Some(stay) = stays.get(&pending.track_id).filter(|stay| now(stay)) {
            return Some((pending.track_id, *stay));
        }
        let person = pending.global_id?;
        stays
            .iter()
            .find(|(_, stay)| now(stay) && stay.global_id == Some(person))
            .map(|(&track_id, &stay)| (track_id, stay))
    }

    /// Keeps up with people who have not left yet; those who went back are not leaving.
    fn follow_pending(&mut self, events: &mut Vec<HandoffEvent>) {
        let mut returned = Vec::new();
        let mut there = Vec::new();
        for (&id, pending) in &self.pending {
            let Some((track_id, stay)) = self.still_there(pending) else {
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
            let stay = self.stays.get_mut(&pending.from);
            if let Some(stay) = stay.and_then(|stays| stays.get_mut(&track_id)) {
                stay.triggered |= 1 << pending.zone;
            }
        }
        for id in returned {
            self.give_up(id, ExpiryReason::Returned, events);
        }
    }

    /// Begins a handoff, unless this stay has begun one already or the zone leads nowhere.
    fn trigger(
        &mut self,
        camera: usize,
        track_id: u64,
        zone: usize,
        events: &mut Vec<HandoffEvent>,
    ) {
        let candidates = self.rules.candidates(camera, zone);
        let stay = self.stays.get_mut(&camera);
        let Some(stay) = stay.and_then(|stays| stays.get_mut(&track_id)) else {
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
    fn end_stays(&mut self, events: &mut Vec<HandoffEvent>) {
        let oldest = self.time - self.settings.track_end_seconds;
        let mut ended = Vec::new();
        for (&camera, stays) in &self.stays {
            for (&track_id, stay) in stays {
                if stay.last_seen < oldest {
                    ended.push((camera, track_id, *stay));
                }
            }
        }
        for (camera, track_id, stay) in ended {
            // A track that breaks off while another shows the person left nowhere.
            if !self.continues(camera, track_id, &stay) {
                let zones = self.rules.zones(camera).len();
                for zone in (0..zones).filter(|zone| stay.inside & (1 << zone) != 0) {
                    self.trigger(camera, track_id, zone, events);
                }
            }
            if let Some(stays) = self.stays.get_mut(&camera) {
                stays.remove(&track_id);
            }
        }
        self.stays.retain(|_, stays| !stays.is_empty());
    }

    /// Whether another track of the camera has shown the person since this one was last seen.
    fn continues(&self, camera: usize, track_id: u64, ended: &Stay) -> bool {
        let Some(person) = ended.global_id else {
            return false;
        };
        let Some(stays) = self.stays.get(&camera) else {
            return false;
        };
        stays.iter().any(|(&other, stay)| {
            other != track_id && stay.global_id == Some(person) && stay.last_seen > ended.last_seen
        })
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
        for (&camera, stays) in &self.stays {
            for (&track_id, stay) in stays {
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
        let surplus = self.track_count().saturating_sub(capacity);
        if surplus == 0 {
            return;
        }
        let mut ages = Vec::new();
        for (&camera, stays) in &self.stays {
            for (&track_id, stay) in stays {
                ages.push((stay.last_seen, camera, track_id));
            }
        }
        ages.sort_by(|a, b| a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        for &(_, camera, track_id) in ages.iter().take(surplus) {
            if let Some(stays) = self.stays.get_mut(&camera) {
                stays.remove(&track_id);
            }
        }
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

/// Who is in a zone stays in it as long as this share of the ratio needed to come in is inside.
const KEEP: f64 = 0.5;

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
