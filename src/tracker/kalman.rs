//! Kalman filters of a box that moves at constant velocity, as SORT's successors use them.
//!
//! [`BoxFilter`] is what an association sees of them. [`XyahFilter`] is ByteTrack's, over centre,
//! aspect ratio and height; [`XywhFilter`] BoT-SORT's, over centre, width and height.

mod xyah;
mod xywh;

pub use xyah::XyahFilter;
pub use xywh::XywhFilter;

use super::overlap::Corners;

/// A box as a detector measures it: centre x, centre y, width, height; pixels, sizes above 0.
pub type Xywh = [f64; 4];

/// Standard deviation of positions, as a share of the box's size.
const POSITION_WEIGHT: f64 = 1.0 / 20.0;
/// Standard deviation of velocities, as a share of the box's size.
const VELOCITY_WEIGHT: f64 = 1.0 / 160.0;

/// What is believed of one box and its motion.
pub trait BoxFilter {
    /// A box seen for the first time, with unknown velocity.
    fn initiate(measurement: Xywh) -> Self;

    /// One frame passes.
    fn predict(&mut self);

    /// Lets the size stand still: a box that is out of sight must not grow or shrink.
    fn stop_size(&mut self);

    /// A detection corrects the state.
    fn update(&mut self, measurement: Xywh);

    /// The mean box's corners: left, top, right, bottom.
    fn corners(&self) -> Corners;

    /// Mean velocity of the centre, x and y, in pixels a frame.
    fn velocity(&self) -> [f64; 2];
}
