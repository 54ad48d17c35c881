//! Tracks and the zones they are in.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::detector::HandoffObservation;

/// Who is in a zone stays in it as long as this share of the ratio needed to come in is inside.
const KEEP: f64 = 0.5;

/// A track of a camera: index and ID.
pub(super) type Key = (usize, u64);

/// A track and the zones it is in. Zones are bits, the first is the lowest.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Stay {
    pub(super) first_seen: f64,
    pub(super) last_seen: f64,
    pub(super) global_id: Option<u64>,
    /// How sure the identity is, 0..=1.
    pub(super) confidence: f64,
    /// Zones that it is in.
    pub(super) inside: u64,
    /// Of those, the ones whose handoff was triggered.
    pub(super) triggered: u64,
}

/// Tracks of each person in each camera, by the camera's index and the identity, in order of IDs.
pub(super) type People = BTreeMap<(usize, u64), Vec<u64>>;

/// The tracks of all cameras.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Stays {
    /// By camera and track.
    tracks: BTreeMap<usize, BTreeMap<u64, Stay>>,
}

impl Stays {
    /// Takes in one sighting at `time`; `shares` is the part of the box in each zone, `people` who
    /// was there before. Returns the zones that the track came into from elsewhere in the picture.
    pub(super) fn update(
        &mut self,
        seen: &HandoffObservation,
        time: f64,
        shares: &[f64],
        ratio: f64,
        people: &People,
    ) -> Vec<usize> {
        let tracks = self.tracks.get(&seen.camera);
        let known = tracks.and_then(|tracks| tracks.get(&seen.track_id).copied());
        let before = known.map_or(0, |stay| stay.inside);
        let mut inside = 0;
        let mut entered = Vec::new();
        for (zone, &share) in shares.iter().enumerate() {
            let bit = 1 << zone;
            let was_inside = before & bit != 0;
            if share < ratio && !(was_inside && share >= ratio * KEEP) {
                continue;
            }
            inside |= bit;
            if known.is_some() && !was_inside {
                entered.push(zone);
            }
        }
        let global_id = seen.global_id.or(known.and_then(|stay| stay.global_id));
        let mut triggered = known.map_or(0, |stay| stay.triggered);
        if known.and_then(|stay| stay.global_id) != global_id {
            triggered |= self.triggered_for(seen, global_id, people);
        }
        // NaN is no confidence.
        let sure = seen.confidence >= 0.0;
        let stay = Stay {
            first_seen: known.map_or(time, |stay| stay.first_seen),
            last_seen: time,
            global_id,
            confidence: if sure { seen.confidence.min(1.0) } else { 0.0 },
            inside,
            triggered: triggered & inside,
        };
        let tracks = self.tracks.entry(seen.camera).or_default();
        tracks.insert(seen.track_id, stay);
        entered
    }

    /// Zones whose handoff was triggered by another track of the person: one that broke off, of
    /// which this one is the rest.
    fn triggered_for(
        &self,
        seen: &HandoffObservation,
        person: Option<u64>,
        people: &People,
    ) -> u64 {
        let mut triggered = 0;
        for (track_id, stay) in self.of_person(seen.camera, person, people) {
            if track_id != seen.track_id {
                triggered |= stay.triggered;
            }
        }
        triggered
    }

    /// Who is there.
    pub(super) fn people(&self) -> People {
        let mut people = People::new();
        for ((camera, track_id), stay) in self.iter() {
            if let Some(person) = stay.global_id {
                people.entry((camera, person)).or_default().push(track_id);
            }
        }
        people
    }

    /// A person's tracks in one camera, of those that are left of `people`.
    fn of_person<'a>(
        &'a self,
        camera: usize,
        person: Option<u64>,
        people: &'a People,
    ) -> impl Iterator<Item = (u64, &'a Stay)> {
        let ids = person.and_then(|person| people.get(&(camera, person)));
        let tracks = self.tracks.get(&camera);
        let ids = ids.into_iter().flatten();
        ids.filter_map(move |&track_id| Some((track_id, tracks?.get(&track_id)?)))
    }

    pub(super) fn get_mut(&mut self, (camera, track_id): Key) -> Option<&mut Stay> {
        self.tracks.get_mut(&camera)?.get_mut(&track_id)
    }

    pub(super) fn remove(&mut self, (camera, track_id): Key) {
        let Some(tracks) = self.tracks.get_mut(&camera) else {
            return;
        };
        tracks.remove(&track_id);
        if tracks.is_empty() {
            self.tracks.remove(&camera);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.tracks.values().map(BTreeMap::len).sum()
    }

    /// All tracks in order of cameras and IDs.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &Stay)> {
        self.tracks.iter().flat_map(|(&camera, tracks)| {
            tracks
                .iter()
                .map(move |(&track_id, stay)| ((camera, track_id), stay))
        })
    }

    /// The track that shows a person in a camera at `time`: `track_id` or, if that broke off,
    /// another one of the same person.
    pub(super) fn showing(
        &self,
        (camera, track_id): Key,
        person: Option<u64>,
        time: f64,
        people: &People,
    ) -> Option<(u64, Stay)> {
        let tracks = self.tracks.get(&camera)?;
        let same = tracks.get(&track_id).filter(|stay| stay.last_seen >= time);
        if let Some(stay) = same {
            return Some((track_id, *stay));
        }
        self.of_person(camera, person, people)
            .find(|(_, stay)| stay.last_seen >= time)
            .map(|(track_id, stay)| (track_id, *stay))
    }

    /// Tracks that were last seen before `oldest`.
    pub(super) fn ended(&self, oldest: f64) -> Vec<(Key, Stay)> {
        let ended = self.iter().filter(|(_, stay)| stay.last_seen < oldest);
        ended.map(|(key, stay)| (key, *stay)).collect()
    }

    /// Whether another track of the camera has shown the person since this one was last seen.
    pub(super) fn continues(&self, (camera, track_id): Key, ended: &Stay, people: &People) -> bool {
        self.of_person(camera, ended.global_id, people)
            .any(|(other, stay)| other != track_id && stay.last_seen > ended.last_seen)
    }

    /// One person goes by another identity from now on.
    pub(super) fn rename(&mut self, from: u64, into: u64) {
        for stay in self.tracks.values_mut().flat_map(BTreeMap::values_mut) {
            if stay.global_id == Some(from) {
                stay.global_id = Some(into);
            }
        }
    }

    /// Nobody knows any more whom a person's tracks show.
    pub(super) fn forget_person(&mut self, global_id: u64) {
        for stay in self.tracks.values_mut().flat_map(BTreeMap::values_mut) {
            if stay.global_id == Some(global_id) {
                stay.global_id = None;
            }
        }
    }

    /// Forgets those not seen for longest until at most `capacity` are left.
    pub(super) fn bound(&mut self, capacity: usize) {
        let surplus = self.len().saturating_sub(capacity);
        if surplus == 0 {
            return;
        }
        let mut ages: Vec<(f64, Key)> = self.iter().map(|(key, s)| (s.last_seen, key)).collect();
        ages.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        for &(_, key) in ages.iter().take(surplus) {
            self.remove(key);
        }
    }
}
