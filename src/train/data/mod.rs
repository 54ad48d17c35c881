//! Images to learn from: re-ID data sets as they are published, batches of augmented pixels.
//!
//! A [`TrainSet`] reads a folder, a [`PkSampler`] (or [`shuffled`]) says which images come together
//! in the batches of an epoch, a [`Loader`] decodes and augments them on threads of its own, ahead
//! of whoever learns. All chance is a function of (seed, epoch, position), so batches are the same
//! for any number of threads, and a run goes on where it stopped by asking for the next epoch.
//!
//! ```no_run
//! use mtmc::train::data::{Augment, Kind, Loader, PkSampler, TrainSet};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let set = TrainSet::open("Market-1501-v15.09.15".as_ref(), Kind::Detect)?;
//! let sampler = PkSampler::new(&set, 16, 4, 0)?;
//! let loader = Loader::new(set.samples(), Augment::strong([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]), 4, 4);
//! for epoch in 0..120 {
//!     for batch in loader.epoch(sampler.epoch(epoch), 0, epoch) {
//!         let batch = batch?;
//!         let pixels = batch.tensor(&candle_core::Device::Cpu)?; // [64, 3, 256, 128]
//!     }
//! }
//! # Ok(())
//! # }
//! ```

mod augment;
mod counts;
mod folders;
mod loader;
mod names;
mod sampler;
mod set;
pub mod synth;

pub use self::augment::{Augment, Draws, Erase, Fill, Jitter, JitterFactors, Rect};
pub use self::folders::Kind;
pub use self::loader::{Batch, Batches, LoadError, Loader};
pub use self::sampler::{PkSampler, shuffled};
pub use self::set::{Probe, Sample, TrainSet};
