//! Handoffs: a person leaves one camera and turns up in the next.
//!
//! Each camera has zones ([`Zone`]) through which people leave it, and links to the cameras where
//! they turn up ([`HandoffRules`]). A [`HandoffDetector`] belongs to an environment; each time step
//! it gets what all cameras see and says what happened to handoffs ([`HandoffEvent`]): one is
//! triggered, then completed or expired. Completed ones teach how long people take
//! ([`TravelTimes`]), which gates identities.
//!
//! The same input gives the same events, in whatever order a step's cameras come. All that is kept
//! is bounded.
//!
//! ```
//! use mtmc::gallery::Link;
//! use mtmc::geometry::BBox;
//! use mtmc::handoff::{HandoffDetector, HandoffEvent, HandoffObservation, HandoffRules, Zone};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Camera 0 is left through the right third of its picture, and camera 1 sees the same place.
//! let zones = vec![vec![Zone::new([0.7, 1.0], [0.0, 1.0])], Vec::new()];
//! let link = Link { overlap: true, seconds: [0.0, 10.0] };
//! let rules = HandoffRules::new(zones, [(0, 1, link)])?;
//! let mut detector = HandoffDetector::new(Default::default(), rules)?;
//!
//! let seen = |camera, left: f32| HandoffObservation {
//!     camera,
//!     track_id: 1,
//!     global_id: Some(7),
//!     bbox: BBox::from_tlwh(left, 200.0, 80.0, 240.0),
//!     frame_size: [1000.0, 600.0],
//!     confidence: 0.9,
//! };
//! assert!(detector.step(0.0, &[seen(0, 500.0)]).is_empty());
//! let events = detector.step(0.5, &[seen(0, 800.0)]);
//! assert!(matches!(events[0], HandoffEvent::Triggered { from: 0, .. }));
//! let events = detector.step(1.0, &[seen(0, 900.0), seen(1, 20.0)]);
//! assert!(matches!(events[0], HandoffEvent::Completed { to: 1, seconds: 0.0, .. }));
//! # Ok(())
//! # }
//! ```

mod detector;
mod event;
mod settings;
mod stays;
mod travel;
mod zone;

pub use detector::{HandoffDetector, HandoffError, HandoffObservation};
pub use event::{ExpiryReason, HandoffEvent};
pub use settings::{HandoffSettings, MAX_SECONDS};
pub use travel::{MEMORY, PRIOR_COUNT, TravelTimes};
pub use zone::{HandoffRules, MAX_ZONES, RuleError, Zone};
