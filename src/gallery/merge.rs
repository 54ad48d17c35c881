//! Two identities that turn out to be one person.

use std::collections::{BTreeMap, BTreeSet};

use super::{Gallery, IdentityEvent};

impl Gallery {
    /// Makes one of two people who have been in one place for long, never in one camera.
    pub(super) fn merge(&mut self, events: &mut Vec<IdentityEvent>) {
        let mut meetings = BTreeMap::new();
        let mut same = Vec::new();
        for (older, younger) in self.meeting_pairs() {
            let keys = (self.people[older].key, self.people[younger].key);
            let steps = self.meetings.get(&keys).copied().unwrap_or(0) + 1;
            if steps >= self.settings.merge_steps {
                same.push((older, younger));
            }
            meetings.insert(keys, steps);
        }
        self.meetings = meetings;
        // From behind, so that indices before stay what they are.
        same.sort_by_key(|&(_, younger)| std::cmp::Reverse(younger));
        let mut gone = BTreeSet::new();
        for (older, younger) in same {
            if gone.insert(younger) {
                self.join(older, younger, events);
            }
        }
    }

    /// Pairs of people, by index, who are seen in one place but not by one camera.
    fn meeting_pairs(&self) -> Vec<(usize, usize)> {
        let mut placed: Vec<(f64, usize)> = Vec::new();
        for (index, person) in self.people.iter().enumerate() {
            if let (true, Some(motion)) = (person.is_seen(), &person.motion) {
                placed.push((motion.position().x, index));
            }
        }
        placed.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let reach = self.settings.merge_distance;
        let mut pairs = Vec::new();
        for (position, &(x, a)) in placed.iter().enumerate() {
            for &(other_x, b) in &placed[position + 1..] {
                if other_x - x > reach {
                    break;
                }
                let (older, younger) = (a.min(b), a.max(b));
                if self.may_be_one(older, younger) {
                    pairs.push((older, younger));
                }
            }
        }
        pairs.sort_unstable();
        pairs
    }

    fn may_be_one(&self, a: usize, b: usize) -> bool {
        let (a, b) = (&self.people[a], &self.people[b]);
        let (Some(at), Some(bt)) = (&a.motion, &b.motion) else {
            return false;
        };
        let (at, bt) = (at.position(), bt.position());
        let near = (at.x - bt.x).hypot(at.y - bt.y) <= self.settings.merge_distance;
        let apart = a
            .tracks
            .iter()
            .all(|track| b.track_in(track.camera).is_none());
        let alike = match (&a.look, &b.look) {
            (Some(a), Some(b)) => a
                .similarity(b.mean())
                .is_none_or(|alike| alike >= self.settings.similarity_threshold),
            _ => true,
        };
        near && apart && alike
    }

    /// The younger person's tracks and looks go to the older one.
    fn join(&mut self, older: usize, younger: usize, events: &mut Vec<IdentityEvent>) {
        let gone = self.people.remove(younger);
        let person = &mut self.people[older];
        for binding in self.bindings.values_mut() {
            if binding.person == gone.key {
                binding.person = person.key;
            }
        }
        match (&mut person.look, &gone.look) {
            (Some(look), Some(other)) => look.absorb(other, self.settings.exemplars),
            (look @ None, Some(other)) => *look = Some(other.clone()),
            _ => {}
        }
        person.cameras.extend(&gone.cameras);
        person.tracks.extend(&gone.tracks);
        person.tracks.sort_unstable();
        person.hits = person.hits.max(gone.hits);
        person.weak = person.weak.min(gone.weak);
        match (person.global_id, gone.global_id) {
            (Some(into), Some(from)) => events.push(IdentityEvent::Merged { from, into }),
            (None, Some(global_id)) => person.global_id = Some(global_id),
            _ => {}
        }
    }
}
