//! Parts of pictures through which people leave, and where they may turn up next.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::gallery::Link;
use crate::geometry::BBox;

/// Most zones of one camera.
pub const MAX_ZONES: usize = 64;

/// A rectangle of a camera's picture, in shares of its width and height from the upper left corner.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Zone {
    /// Left edge, 0..=1.
    pub x_min: f64,
    /// Right edge, 0..=1, above `x_min`.
    pub x_max: f64,
    /// Upper edge, 0..=1.
    pub y_min: f64,
    /// Lower edge, 0..=1, above `y_min`.
    pub y_max: f64,
    /// Indices of the cameras that it leads to; empty: to every camera that this one is linked to.
    pub to: Vec<usize>,
}

impl Zone {
    /// A zone that leads to every camera linked to its own.
    pub fn new(x: [f64; 2], y: [f64; 2]) -> Self {
        Self {
            x_min: x[0],
            x_max: x[1],
            y_min: y[0],
            y_max: y[1],
            to: Vec::new(),
        }
    }

    /// What is wrong with its edges, if anything is.
    pub fn fault(&self) -> Option<String> {
        let edges = [
            ("x_min", self.x_min),
            ("x_max", self.x_max),
            ("y_min", self.y_min),
            ("y_max", self.y_max),
        ];
        // NaN is in no range.
        for (name, value) in edges {
            if !(0.0..=1.0).contains(&value) {
                return Some(format!("{name} = {value}: must be in 0..=1"));
            }
        }
        for [(low, least), (high, most)] in [[edges[0], edges[1]], [edges[2], edges[3]]] {
            if least >= most {
                return Some(format!(
                    "the zone is empty: {low} = {least} is not below {high} = {most}"
                ));
            }
        }
        None
    }

    /// Share of a box that lies in the zone: area(box ∩ zone) / area(box), 0..=1.
    ///
    /// Of the box only what is inside the frame counts, as a tracker's box may reach beyond it just
    /// when someone leaves. `None` if nothing of the box is in the frame, and for numbers that are
    /// not finite. `frame_size` is width and height in pixels.
    pub fn share(&self, bbox: &BBox, frame_size: [f64; 2]) -> Option<f64> {
        let [width, height] = frame_size;
        let seen = visible(bbox, frame_size)?;
        let across = seen[2].min(self.x_max * width) - seen[0].max(self.x_min * width);
        let down = seen[3].min(self.y_max * height) - seen[1].max(self.y_min * height);
        let area = (seen[2] - seen[0]) * (seen[3] - seen[1]);
        Some((across.max(0.0) * down.max(0.0) / area).min(1.0))
    }
}

/// Left, top, right, bottom of the part of a box inside the frame; `None` if there is none.
fn visible(bbox: &BBox, [width, height]: [f64; 2]) -> Option<[f64; 4]> {
    let frame = width > 0.0 && height > 0.0 && width.is_finite() && height.is_finite();
    if !frame || !bbox.is_finite() {
        return None;
    }
    let [x1, y1, x2, y2] = [bbox.x1, bbox.y1, bbox.x2, bbox.y2].map(f64::from);
    let seen = [x1.max(0.0), y1.max(0.0), x2.min(width), y2.min(height)];
    (seen[2] > seen[0] && seen[3] > seen[1]).then_some(seen)
}

/// Every camera's zones, and how people get from camera to camera; cameras are indices.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct HandoffRules {
    zones: Vec<Vec<Zone>>,
    links: BTreeMap<usize, BTreeMap<usize, Link>>,
}

/// Zones or links that make no sense.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RuleError {
    /// A zone's edges are wrong.
    #[error("camera {camera}, zone {zone}: {fault}")]
    Zone {
        /// Index of the camera.
        camera: usize,
        /// Index of the zone.
        zone: usize,
        /// What is wrong.
        fault: String,
    },
    /// A camera has more zones than can be followed.
    #[error("camera {camera}: {count} zones are more than {MAX_ZONES}")]
    TooManyZones {
        /// Index of the camera.
        camera: usize,
        /// How many it has.
        count: usize,
    },
    /// A zone or a link leads to a camera that is not there.
    #[error("there is no camera {camera}: there are {count}")]
    UnknownCamera {
        /// The index that was given.
        camera: usize,
        /// How many cameras there are.
        count: usize,
    },
}

impl HandoffRules {
    /// From every camera's zones and the links from camera to camera, each with its direction.
    ///
    /// # Errors
    /// A zone is empty or outside the picture, there are too many, or a camera is not there.
    pub fn new(
        zones: Vec<Vec<Zone>>,
        links: impl IntoIterator<Item = (usize, usize, Link)>,
    ) -> Result<Self, RuleError> {
        let count = zones.len();
        let known = |camera: usize| {
            if camera < count {
                return Ok(());
            }
            Err(RuleError::UnknownCamera { camera, count })
        };
        for (camera, zones) in zones.iter().enumerate() {
            if zones.len() > MAX_ZONES {
                let count = zones.len();
                return Err(RuleError::TooManyZones { camera, count });
            }
            for (zone, edges) in zones.iter().enumerate() {
                if let Some(fault) = edges.fault() {
                    return Err(RuleError::Zone {
                        camera,
                        zone,
                        fault,
                    });
                }
                for &to in &edges.to {
                    known(to)?;
                }
            }
        }
        let mut rules = Self {
            zones,
            links: BTreeMap::new(),
        };
        for (from, to, link) in links {
            known(from)?;
            known(to)?;
            rules.links.entry(from).or_default().insert(to, link);
        }
        Ok(rules)
    }

    /// How many cameras there are.
    pub fn camera_count(&self) -> usize {
        self.zones.len()
    }

    /// A camera's zones; none for a camera that is not there.
    pub fn zones(&self, camera: usize) -> &[Zone] {
        self.zones.get(camera).map_or(&[], Vec::as_slice)
    }

    /// How people get from one camera to another, if they do.
    pub fn link(&self, from: usize, to: usize) -> Option<Link> {
        self.links.get(&from)?.get(&to).copied()
    }

    /// Every link with its direction, in order.
    pub fn links(&self) -> impl Iterator<Item = (usize, usize, Link)> + '_ {
        self.links
            .iter()
            .flat_map(|(&from, targets)| targets.iter().map(move |(&to, &link)| (from, to, link)))
    }

    /// Cameras that a zone leads to, in order: those it names, or all that its camera is linked to.
    pub fn candidates(&self, camera: usize, zone: usize) -> Vec<usize> {
        let Some(links) = self.links.get(&camera) else {
            return Vec::new();
        };
        let Some(zone) = self.zones(camera).get(zone) else {
            return Vec::new();
        };
        let named = |to: &usize| zone.to.is_empty() || zone.to.contains(to);
        links.keys().copied().filter(named).collect()
    }

    /// Cameras that a person with this box may go to next, in order: those of all zones that hold at
    /// least `min_overlap_ratio` of the box. Empty: no handoff is at hand.
    ///
    /// `frame_size` is width and height in pixels.
    pub fn leads_to(
        &self,
        camera: usize,
        bbox: &BBox,
        frame_size: [f64; 2],
        min_overlap_ratio: f64,
    ) -> Vec<usize> {
        let mut cameras = Vec::new();
        for (index, zone) in self.zones(camera).iter().enumerate() {
            let share = zone.share(bbox, frame_size);
            if share.is_some_and(|share| share >= min_overlap_ratio) {
                cameras.extend(self.candidates(camera, index));
            }
        }
        cameras.sort_unstable();
        cameras.dedup();
        cameras
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HD: [f64; 2] = [1920.0, 1080.0];

    fn share(zone: &Zone, x1: f32, y1: f32, x2: f32, y2: f32) -> f64 {
        zone.share(&BBox::from_xyxy(x1, y1, x2, y2), HD).unwrap()
    }

    // The right zone of an HD frame begins at 0.7 · 1920 = 1344. All shares worked out by hand.
    #[test]
    fn a_share_is_a_true_intersection() {
        let right = Zone::new([0.7, 1.0], [0.0, 1.0]);
        assert_eq!(share(&right, 1244.0, 100.0, 1444.0, 500.0), 0.5);
        assert_eq!(share(&right, 1294.0, 100.0, 1494.0, 500.0), 0.75);
        assert_eq!(share(&right, 1000.0, 0.0, 1344.0, 100.0), 0.0);
        assert_eq!(share(&right, 1500.0, 0.0, 1600.0, 100.0), 1.0);
        // A box wider than the zone, centred in it: a third of it lies inside, though its centre
        // does too and though it covers the zone from side to side.
        let narrow = Zone::new([0.5, 0.6], [0.0, 1.0]);
        let third = share(&narrow, 768.0, 0.0, 1344.0, 100.0);
        assert!((third - 192.0 / 576.0).abs() < 1e-12, "{third}");
        // Left of the centre, and still more than half inside.
        let lower = Zone::new([0.0, 0.5], [0.5, 1.0]);
        assert_eq!(share(&lower, 860.0, 440.0, 1060.0, 840.0), 0.5 * 0.75);
    }

    #[test]
    fn only_what_the_frame_shows_counts() {
        let right = Zone::new([0.7, 1.0], [0.0, 1.0]);
        // Half out of the frame: the half that is seen is all in the zone.
        assert_eq!(share(&right, 1820.0, 100.0, 2020.0, 500.0), 1.0);
        for (x1, x2) in [(1920.0, 2000.0), (f32::NAN, 10.0), (30.0, 20.0)] {
            assert_eq!(
                right.share(&BBox::from_xyxy(x1, 0.0, x2, 9.0), HD),
                None,
                "{x1}"
            );
        }
        let bbox = BBox::from_xyxy(0.0, 0.0, 1.0, 1.0);
        assert_eq!(right.share(&bbox, [0.0, 10.0]), None);
        assert_eq!(right.share(&bbox, [f64::NAN, 10.0]), None);
    }

    #[test]
    fn wrong_zones_say_why() {
        for (zone, expected) in [
            (Zone::new([0.7, 1.2], [0.0, 1.0]), "x_max = 1.2"),
            (Zone::new([0.0, 1.0], [-0.1, 1.0]), "y_min = -0.1"),
            (Zone::new([f64::NAN, 1.0], [0.0, 1.0]), "x_min = NaN"),
            (
                Zone::new([0.0, 1.0], [0.5, 0.5]),
                "y_min = 0.5 is not below y_max = 0.5",
            ),
        ] {
            let error = HandoffRules::new(vec![vec![zone]], []).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
        let many = vec![Zone::new([0.0, 1.0], [0.0, 1.0]); MAX_ZONES + 1];
        let error = HandoffRules::new(vec![Vec::new(), many], []).unwrap_err();
        assert_eq!(error.to_string(), "camera 1: 65 zones are more than 64");
        let away = Zone {
            to: vec![3],
            ..Zone::new([0.0, 1.0], [0.0, 1.0])
        };
        let error = HandoffRules::new(vec![vec![away]], []).unwrap_err();
        assert_eq!(error.to_string(), "there is no camera 3: there are 1");
    }

    #[test]
    fn zones_lead_where_their_cameras_are_linked() {
        let overlap = Link {
            overlap: true,
            seconds: [0.0, 0.0],
        };
        let named = Zone {
            to: vec![2],
            ..Zone::new([0.7, 1.0], [0.0, 1.0])
        };
        let zones = vec![
            Vec::new(),
            vec![Zone::new([0.0, 0.3], [0.0, 1.0]), named],
            Vec::new(),
        ];
        let links = [
            (0, 1, overlap),
            (1, 0, overlap),
            (1, 2, overlap),
            (2, 1, overlap),
        ];
        let rules = HandoffRules::new(zones, links).unwrap();
        assert_eq!(rules.candidates(1, 0), [0, 2]);
        assert_eq!(rules.candidates(1, 1), [2]);
        assert!(rules.candidates(0, 0).is_empty() && rules.candidates(9, 0).is_empty());
        let leads =
            |x1: f32, x2: f32| rules.leads_to(1, &BBox::from_xyxy(x1, 0.0, x2, 500.0), HD, 0.5);
        assert_eq!(leads(0.0, 100.0), [0, 2]);
        assert_eq!(leads(1500.0, 1600.0), [2]);
        assert!(leads(900.0, 1000.0).is_empty());
    }
}
