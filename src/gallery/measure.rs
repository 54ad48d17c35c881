//! What a box in a picture says of a person on the map.
//!
//! A person is a point on the floor with a height. The camera's calibration tells where feet and,
//! if it knows more than the floor, head must appear; a box then has three edges to compare: its
//! middle with the line between, its bottom with the feet, its top with the head. Boxes that end
//! above the feet are someone half hidden, and their bottom says nothing.

use mtmc_models::BBox;

use super::motion::{Measurement, Motion, Row};
use crate::homography::{CameraView, ImagePoint, MapPoint};

/// How boxes scatter around people.
#[derive(Debug, Clone, Copy)]
pub struct BoxModel {
    /// From a person's middle to the foot nearest the camera, in map units: a box ends there.
    pub foot_offset: f64,
    /// Standard deviation of a box's middle, as a share of the person's height in the picture.
    pub middle: f64,
    /// The same of its bottom.
    pub bottom: f64,
    /// The same of its top.
    pub top: f64,
    /// A box whose bottom is above the feet by more than this share of the height is of someone
    /// half hidden.
    pub hidden: f64,
}

/// A box that touches the frame's edge within this share of the frame's size is cut off there.
const EDGE: f64 = 0.009;

/// Step of the differences that slopes are taken by, in map units.
const STEP: f64 = 0.01;

/// So that rounding never rules out who would just be below the gate.
const GATE_SLACK: f64 = 1.0 + 1e-9;

/// Least height of a person in a picture that says anything, in pixels.
const LEAST_HEIGHT: f64 = 12.0;

/// A box and which of its edges are real.
#[derive(Debug, Clone, Copy)]
pub struct SeenBox {
    middle: f64,
    bottom: f64,
    top: f64,
    cut_side: bool,
    cut_bottom: bool,
    cut_top: bool,
    frame_bottom: f64,
}

impl SeenBox {
    /// A box in a frame of `width` × `height` pixels.
    pub fn new(bbox: &BBox, [width, height]: [f64; 2]) -> Self {
        let [x1, y1, x2, y2] = [bbox.x1, bbox.y1, bbox.x2, bbox.y2].map(f64::from);
        let frame_bottom = height * (1.0 - EDGE);
        Self {
            middle: f64::midpoint(x1, x2),
            bottom: y2,
            top: y1,
            cut_side: x1 < width * EDGE || x2 > width * (1.0 - EDGE),
            cut_bottom: y2 > frame_bottom,
            cut_top: y1 < height * EDGE,
            frame_bottom,
        }
    }

    /// Height in pixels.
    pub fn height(&self) -> f64 {
        self.bottom - self.top
    }

    /// Whether its bottom may be someone's feet.
    pub fn shows_feet(&self) -> bool {
        !self.cut_bottom
    }

    /// The middle of the bottom.
    pub fn foot(&self) -> ImagePoint {
        ImagePoint {
            x: self.middle,
            y: self.bottom,
        }
    }
}

/// How a person should look in a picture.
#[derive(Debug, Clone, Copy)]
pub struct Expected {
    /// Middle, bottom, top in pixels; the top only where the calibration knows heights.
    edges: [f64; 3],
    slopes: [[f64; 3]; 3],
    has_top: bool,
}

/// The first half of [`Expected`]: the box, without how it moves with the person.
#[derive(Debug, Clone, Copy)]
pub struct Outline {
    edges: [f64; 3],
    has_top: bool,
}

impl Outline {
    /// Of someone at `motion`; `None` where the camera cannot show that place.
    pub fn of(motion: &Motion, view: &CameraView, model: &BoxModel) -> Option<Self> {
        let (edges, has_top) = project(motion.position(), motion.height(), view, model)?;
        Some(Self { edges, has_top })
    }

    /// Adds the slopes; `None` where the camera cannot show the places around.
    pub fn expected(
        &self,
        motion: &Motion,
        view: &CameraView,
        model: &BoxModel,
    ) -> Option<Expected> {
        let (place, height) = (motion.position(), motion.height());
        let moved = |dx: f64, dy: f64, dh: f64| {
            let place = MapPoint {
                x: place.x + dx,
                y: place.y + dy,
            };
            project(place, height + dh, view, model).map(|(edges, _)| edges)
        };
        let differences = [
            moved(STEP, 0.0, 0.0)?,
            moved(0.0, STEP, 0.0)?,
            moved(0.0, 0.0, STEP)?,
        ];
        let edges = self.edges;
        let slopes = std::array::from_fn(|edge| {
            std::array::from_fn(|state| (differences[state][edge] - edges[edge]) / STEP)
        });
        Some(Expected {
            edges,
            slopes,
            has_top: self.has_top,
        })
    }

    /// Height of a person who is seen in `seen`, in pixels.
    fn height(&self, seen: &SeenBox) -> f64 {
        if self.has_top {
            self.edges[1] - self.edges[2]
        } else {
            seen.height()
        }
    }

    /// Whether a box is too small to say anything of the person, or so far beside that it is not
    /// his, if his place is known well enough (`sure`).
    pub fn rules_out(&self, seen: &SeenBox, sure: bool) -> bool {
        let height = self.height(seen);
        let far = 1.5 * height.max(seen.height());
        height < LEAST_HEIGHT || (sure && (seen.middle - self.edges[0]).abs() > far)
    }
}

impl Expected {
    /// Of someone at `motion`; `None` where the camera cannot show that place.
    pub fn of(motion: &Motion, view: &CameraView, model: &BoxModel) -> Option<Self> {
        Outline::of(motion, view, model)?.expected(motion, view, model)
    }

    /// The box alone.
    pub fn outline(&self) -> Outline {
        Outline {
            edges: self.edges,
            has_top: self.has_top,
        }
    }

    /// Variance of each edge that comes from not knowing the person's place and height, in square
    /// pixels.
    pub fn variances(&self, motion: &Motion) -> [f64; 3] {
        self.slopes.map(|slope| motion.variance_along(slope))
    }

    /// Goes through the edges that `seen` measures: number of the edge, residual in pixels, and
    /// standard deviation of its noise in pixels. Tells whether the box shows the person only in
    /// part; `None` if it says nothing.
    fn measured(
        &self,
        seen: &SeenBox,
        model: &BoxModel,
        mut take: impl FnMut(usize, f64, f64),
    ) -> Option<bool> {
        let height = self.outline().height(seen);
        if height < LEAST_HEIGHT {
            return None;
        }
        // A box cut at the side still tells on which side the person is, roughly.
        let middle = if seen.cut_side {
            4.0 * model.middle
        } else {
            model.middle
        };
        take(0, seen.middle - self.edges[0], middle * height);
        let below = seen.bottom - self.edges[1];
        let mut hidden = false;
        if seen.cut_bottom {
            // The feet should be out of sight; if they should not, the box contradicts that.
            let missing = seen.frame_bottom - self.edges[1];
            if missing > model.hidden * height {
                take(1, missing, model.bottom * height);
            }
        } else if self.has_top && below < -model.hidden * height {
            hidden = true;
        } else {
            take(1, below, model.bottom * height);
        }
        if self.has_top && !seen.cut_top {
            take(2, seen.top - self.edges[2], model.top * height);
        }
        Some(hidden)
    }

    /// Whether the squared Mahalanobis distance of `seen` may be below `gate`: it is none of its
    /// edges' alone that reaches it. `variances` are [`variances`](Self::variances).
    pub fn may_fit(
        &self,
        seen: &SeenBox,
        variances: &[f64; 3],
        model: &BoxModel,
        gate: f64,
    ) -> bool {
        let mut fits = true;
        let says = self.measured(seen, model, |edge, residual, noise| {
            fits &= residual * residual < GATE_SLACK * gate * (variances[edge] + noise * noise);
        });
        says.is_some() && fits
    }

    /// What `seen` says of the person, and whether it shows only a part of him; `None` if it says
    /// nothing.
    pub fn measure(
        &self,
        seen: &SeenBox,
        motion: &Motion,
        model: &BoxModel,
    ) -> Option<(Measurement, bool)> {
        let mut rows = [Row::default(); 3];
        let mut count = 0;
        let hidden = self.measured(seen, model, |edge, residual, noise| {
            rows[count] = Row {
                residual,
                slope: self.slopes[edge],
                variance: noise * noise,
            };
            count += 1;
        })?;
        Some((Measurement::new(motion, &rows[..count]), hidden))
    }
}

/// Middle, bottom and top of the box of someone at `place`, in pixels.
fn project(
    place: MapPoint,
    height: f64,
    view: &CameraView,
    model: &BoxModel,
) -> Option<([f64; 3], bool)> {
    let [dx, dy] = view.towards_camera(place)?;
    let nearest = MapPoint {
        x: place.x + model.foot_offset * dx,
        y: place.y + model.foot_offset * dy,
    };
    let foot = view.to_image(nearest)?;
    match view.head(place, height) {
        Some(head) => Some(([f64::midpoint(foot.x, head.x), foot.y, head.y], true)),
        None => Some(([foot.x, foot.y, foot.y], false)),
    }
}

/// Where on the map a box stands by its feet, with the offset of the nearest foot taken off;
/// `None` if the feet are not to be seen or not on the map.
pub fn place_of(seen: &SeenBox, view: &CameraView, model: &BoxModel) -> Option<MapPoint> {
    if !seen.shows_feet() {
        return None;
    }
    let near = view.to_map(seen.foot()).ok()?;
    let [dx, dy] = view.towards_camera(near)?;
    Some(MapPoint {
        x: near.x - model.foot_offset * dx,
        y: near.y - model.foot_offset * dy,
    })
}
