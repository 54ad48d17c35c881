//! How people come into the galleries, get an identity, and go.

use std::collections::BTreeSet;

use super::associate::CameraWork;
use super::birth::Newcomer;
use super::looks::PackedLooks;
use super::{Gallery, GalleryType, IdentityEvent, Look, Motion, Person, TrackKey, index_of};

impl Gallery {
    /// Takes in someone new.
    pub(super) fn admit(&mut self, time: f64, work: &[CameraWork<'_>], newcomer: &Newcomer) {
        let key = self.next_key;
        self.next_key += 1;
        let mut tracks = Vec::new();
        let mut look: Option<Look> = None;
        for &(camera, index) in &newcomer.boxes {
            let track = work[camera].track(index);
            tracks.push(track);
            if let Some(seen) = self.show(track, key, 1.0) {
                match &mut look {
                    Some(look) => look.absorb(&seen, self.settings.exemplars),
                    None => look = Some(seen),
                }
            }
        }
        tracks.sort_unstable();
        let model = self.settings.motion();
        self.people.push(Person {
            key,
            global_id: None,
            gallery: GalleryType::Main,
            look,
            motion: newcomer.place.map(|place| Motion::at(place, &model)),
            cameras: tracks.iter().map(|track| track.camera).collect(),
            first_seen: time,
            last_seen: time,
            last_camera: newcomer
                .boxes
                .first()
                .map_or(0, |&(camera, _)| work[camera].camera),
            tracks,
            hits: 1,
            missed: 0,
            weak: 0,
        });
    }

    /// Gives identities to those who were seen often enough.
    pub(super) fn confirm(&mut self, events: &mut Vec<IdentityEvent>) {
        for person in &mut self.people {
            if person.global_id.is_none() && person.hits >= self.settings.confirm_steps {
                let global_id = self.next_global_id;
                self.next_global_id += 1;
                person.global_id = Some(global_id);
                events.push(IdentityEvent::New { global_id });
            }
        }
    }

    /// The tracks that show a person or did so a moment ago, by camera and ID.
    pub fn tracks_of(&self, global_id: u64) -> Vec<TrackKey> {
        let mut tracks = Vec::new();
        for (track, binding) in &self.bindings {
            let person = self.index_of(binding.person).map(|i| &self.people[i]);
            if person.is_some_and(|person| person.global_id == Some(global_id)) {
                tracks.push(*track);
            }
        }
        tracks
    }

    /// Erases a person: vectors, place and which tracks show it. `false` if nobody has this
    /// identity.
    ///
    /// The identity is never given again: tracks that showed the person are nobody's, and whoever
    /// they show next is new. Snapshots and results that were written before are not touched.
    pub fn forget(&mut self, global_id: u64) -> bool {
        let Some(index) = self
            .people
            .iter()
            .position(|p| p.global_id == Some(global_id))
        else {
            return false;
        };
        let gone = self.people.remove(index);
        self.bindings
            .retain(|_, binding| binding.person != gone.key);
        self.meetings
            .retain(|&(a, b), _| a != gone.key && b != gone.key);
        // Free entries of the packed vectors still hold numbers; all are packed anew.
        self.looks = PackedLooks::default();
        true
    }

    /// Moves people between the galleries and forgets those lost for too long.
    pub(super) fn retire(&mut self, events: &mut Vec<IdentityEvent>) {
        let settings = &self.settings;
        let mut freed = BTreeSet::new();
        self.people.retain_mut(|person| {
            let Some(global_id) = person.global_id else {
                return person.missed <= 1;
            };
            if person.gallery == GalleryType::Main {
                let doubtful = person.weak > settings.weak_steps;
                if doubtful || person.missed > settings.missing_steps {
                    person.gallery = GalleryType::Lost;
                    person.tracks.clear();
                    person.missed = person.missed.max(1);
                    // Tracks that its own tracker finds again still show the person, unless it is
                    // doubtful that they do.
                    if doubtful {
                        freed.insert(person.key);
                    }
                    events.push(IdentityEvent::Lost { global_id });
                }
                return true;
            }
            let steps = person.missed.saturating_sub(settings.missing_steps);
            if steps <= settings.lost_steps {
                return true;
            }
            events.push(IdentityEvent::Removed { global_id });
            false
        });
        self.make_room(events);
        let people = &self.people;
        self.bindings.retain(|_, binding| {
            !freed.contains(&binding.person) && index_of(people, binding.person).is_some()
        });
    }

    /// Keeps to the capacity: those lost longest go, then those not seen for longest.
    fn make_room(&mut self, events: &mut Vec<IdentityEvent>) {
        while self.people.len() > self.settings.capacity {
            let mut longest = (0, 0);
            for (index, person) in self.people.iter().enumerate() {
                if person.missed > longest.1 {
                    longest = (index, person.missed);
                }
            }
            let person = self.people.remove(longest.0);
            if let Some(global_id) = person.global_id {
                events.push(IdentityEvent::Removed { global_id });
            }
        }
    }
}
