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
/// them still may share people who were away for a while, but never at once.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Topology {
    links: BTreeMap<(usize, usize), Link>,
}

impl Topology {
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
}
