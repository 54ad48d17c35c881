//! Which cameras see one place, and how long it takes from one to another: what gates identities
//! where there is no map.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How two cameras lie to each other.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Link {
    /// Whether a person may be seen by both at once.
    pub overlap: bool,
    /// Least and most seconds from leaving one to appearing in the other.
    pub seconds: [f64; 2],
}

/// Which identities may pass from camera to camera, and when.
///
/// Without any link everything may: nothing is known. With some, cameras without a link between
/// them still may share people who were away for a while, but never at once; so may linked ones
/// after the longest time of their link. Both are [`Passage::Unexpected`].
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Topology {
    links: BTreeMap<(usize, usize), Link>,
}

/// What cameras' layout says of someone who left one and may be in another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// Nobody can be there so soon.
    Impossible,
    /// There is no way between the two that is known to take so long: a detour, a rest, a way that
    /// nobody described.
    Unexpected,
    /// As the layout says.
    Expected,
}

impl Topology {
    /// Whether someone who was last seen by `from`, `seconds` ago (0: now), may be in `to`, and is
    /// expected there.
    pub fn passage(&self, from: usize, to: usize, seconds: f64) -> Passage {
        if self.allows(from, to, seconds) {
            let known = from == to || self.links.is_empty() || self.links.contains_key(&(from, to));
            return if known {
                Passage::Expected
            } else {
                Passage::Unexpected
            };
        }
        match self.links.get(&(from, to)) {
            Some(link) if seconds > link.seconds[1] => Passage::Unexpected,
            _ => Passage::Impossible,
        }
    }

    /// Sets how people get from one camera to another; both directions are set apart.
    pub fn set(&mut self, from: usize, to: usize, link: Link) {
        self.links.insert((from, to), link);
    }

    /// Whether someone who was last seen by `from`, `seconds` ago (0: now), may be in `to`.
    pub fn allows(&self, from: usize, to: usize, seconds: f64) -> bool {
        if from == to || self.links.is_empty() {
            return true;
        }
        match self.links.get(&(from, to)) {
            Some(link) if link.overlap => true,
            Some(link) => seconds >= link.seconds[0] && seconds <= link.seconds[1],
            None => seconds > 0.0,
        }
    }

    /// Whether a person may be in both at once.
    pub fn overlap(&self, a: usize, b: usize) -> bool {
        self.allows(a, b, 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn travel_takes_its_time() {
        let mut topology = Topology::default();
        assert!(topology.allows(0, 1, 0.0));
        let link = Link {
            overlap: false,
            seconds: [5.0, 30.0],
        };
        topology.set(0, 1, link);
        assert!(!topology.allows(0, 1, 4.9) && topology.allows(0, 1, 5.0));
        assert!(!topology.allows(0, 1, 31.0));
        assert!(!topology.allows(1, 0, 0.0) && topology.allows(1, 0, 1.0));
        assert!(topology.allows(1, 1, 0.0));
    }

    #[test]
    fn late_is_unexpected_and_early_impossible() {
        let mut topology = Topology::default();
        assert_eq!(topology.passage(0, 1, 0.0), Passage::Expected);
        let link = Link {
            overlap: false,
            seconds: [5.0, 30.0],
        };
        topology.set(0, 1, link);
        for (to, seconds, expected) in [
            (1, 4.9, Passage::Impossible),
            (1, 5.0, Passage::Expected),
            (1, 31.0, Passage::Unexpected),
            // No link: not at once, and later by a way that nobody described.
            (2, 0.0, Passage::Impossible),
            (2, 1.0, Passage::Unexpected),
            (0, 99.0, Passage::Expected),
        ] {
            assert_eq!(topology.passage(0, to, seconds), expected, "{to} {seconds}");
        }
    }
}
