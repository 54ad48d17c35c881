//! Batches of pixels, decoded and augmented on threads ahead of whoever takes them.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use candle_core::{Device, Tensor};

use super::{Augment, Sample};
use crate::random::SplitMix64;
use crate::source::{SourceError, read_image};

/// Keeps the chance of augmentation apart from a sampler's under the same seed.
const STREAM: u64 = 0xC4F1_0B72_6E9D_A835;

/// Images that a network learns from in one step.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Images × 3 × height × width, normalised.
    pub pixels: Vec<f32>,
    /// Height and width of the images.
    pub size: (usize, usize),
    /// The person in each image.
    pub labels: Vec<u32>,
    /// The camera of each image.
    pub cameras: Vec<u32>,
    /// Which samples they are.
    pub indices: Vec<usize>,
}

impl Batch {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The pixels as `[images, 3, height, width]`.
    ///
    /// # Errors
    /// The device fails.
    pub fn tensor(&self, device: &Device) -> candle_core::Result<Tensor> {
        let (height, width) = self.size;
        Tensor::from_slice(&self.pixels, (self.len(), 3, height, width), device)
    }
}

/// Why a batch cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// An image cannot be read; its file is named.
    #[error(transparent)]
    Image(#[from] SourceError),
    /// A batch asks for a sample that is not there.
    #[error("batch {batch} asks for sample {index}; there are {samples}")]
    Index {
        /// The batch, from 0.
        batch: usize,
        /// What it asks for.
        index: usize,
        /// How many there are.
        samples: usize,
    },
    /// A fault of this program.
    #[error("loading batch {batch} failed: {reason}")]
    Fault {
        /// The batch, from 0.
        batch: usize,
        /// What is known of it.
        reason: String,
    },
}

/// Loads batches.
#[derive(Debug, Clone)]
pub struct Loader {
    samples: Arc<[Sample]>,
    augment: Augment,
    threads: usize,
    prefetch: usize,
}

impl Loader {
    /// On `threads` threads (at least one), at most `prefetch` batches (at least one) ahead.
    pub fn new(samples: Arc<[Sample]>, augment: Augment, threads: usize, prefetch: usize) -> Self {
        Self {
            samples,
            augment,
            threads: threads.max(1),
            prefetch: prefetch.max(1),
        }
    }

    /// Begins to load the batches of an epoch. What chance decides for an image follows from `seed`,
    /// `epoch` and the image's position in the epoch alone.
    ///
    /// Dropping what is given back ends the threads.
    pub fn epoch(&self, batches: Vec<Vec<usize>>, seed: u64, epoch: u64) -> Batches {
        let mut starts = Vec::with_capacity(batches.len());
        let mut position = 0;
        for batch in &batches {
            starts.push(position);
            position += batch.len() as u64;
        }
        let count = batches.len();
        let shared = Arc::new(Shared {
            work: Work {
                samples: self.samples.clone(),
                augment: self.augment.clone(),
                batches,
                starts,
                seed,
                epoch,
            },
            prefetch: self.prefetch,
            state: Mutex::new(State::default()),
            changed: Condvar::new(),
        });
        let threads = self.threads.min(count.max(1));
        let spawn = |_| {
            let shared = shared.clone();
            std::thread::spawn(move || shared.run())
        };
        let threads = (0..threads).map(spawn).collect();
        Batches { shared, threads }
    }
}

/// What is to be loaded.
struct Work {
    samples: Arc<[Sample]>,
    augment: Augment,
    batches: Vec<Vec<usize>>,
    /// Position in the epoch of each batch's first image.
    starts: Vec<u64>,
    seed: u64,
    epoch: u64,
}

impl Work {
    fn load(&self, number: usize) -> Result<Batch, LoadError> {
        let indices = &self.batches[number];
        let each = self.augment.len();
        let mut batch = Batch {
            pixels: vec![0.0; indices.len() * each],
            size: (self.augment.height as usize, self.augment.width as usize),
            labels: Vec::with_capacity(indices.len()),
            cameras: Vec::with_capacity(indices.len()),
            indices: indices.clone(),
        };
        let places = batch.pixels.chunks_exact_mut(each.max(1));
        for ((&index, planes), offset) in indices.iter().zip(places).zip(0_u64..) {
            let sample = self.samples.get(index).ok_or(LoadError::Index {
                batch: number,
                index,
                samples: self.samples.len(),
            })?;
            let image = read_image(&sample.path)?;
            let draws = self
                .augment
                .draw(self.seed_of(self.starts[number] + offset));
            self.augment.apply(&image, &draws, planes);
            batch.labels.push(sample.label);
            batch.cameras.push(sample.camera);
        }
        Ok(batch)
    }

    /// What decides the chance of one image of the epoch.
    fn seed_of(&self, position: u64) -> u64 {
        let epoch = SplitMix64::new(self.seed ^ STREAM, self.epoch).draw();
        SplitMix64::new(epoch, position).draw()
    }
}

#[derive(Default)]
struct State {
    /// Batches that some thread has begun.
    begun: usize,
    /// Batches that were given out.
    given: usize,
    ready: BTreeMap<usize, Result<Batch, LoadError>>,
    stopped: bool,
}

struct Shared {
    work: Work,
    prefetch: usize,
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No lock is held where a batch is loaded, so a panic leaves the state whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let waited = self.changed.wait(state);
        waited.unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread's life.
    fn run(&self) {
        while let Some(number) = self.next_to_load() {
            let loaded = catch_unwind(AssertUnwindSafe(|| self.work.load(number)));
            let result = loaded.unwrap_or_else(|panic| {
                Err(LoadError::Fault {
                    batch: number,
                    reason: reason(panic.as_ref()),
                })
            });
            self.lock().ready.insert(number, result);
            self.changed.notify_all();
        }
    }

    /// The next batch, once there is room for it; `None` at the end.
    fn next_to_load(&self) -> Option<usize> {
        let mut state = self.lock();
        loop {
            if state.stopped || state.begun == self.work.batches.len() {
                return None;
            }
            if state.begun < state.given + self.prefetch {
                state.begun += 1;
                return Some(state.begun - 1);
            }
            state = self.wait(state);
        }
    }
}

/// What a thread said before it gave up.
fn reason(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a thread panicked".to_string())
}

/// The batches of an epoch, in order; ends after the first error.
pub struct Batches {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Batches {
    fn stop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            // Its panics have been caught already.
            let _ = thread.join();
        }
    }
}

impl Iterator for Batches {
    type Item = Result<Batch, LoadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut state = self.shared.lock();
        if state.stopped || state.given == self.shared.work.batches.len() {
            return None;
        }
        let number = state.given;
        let result = loop {
            if let Some(result) = state.ready.remove(&number) {
                break result;
            }
            state = self.shared.wait(state);
        };
        state.given += 1;
        drop(state);
        self.shared.changed.notify_all();
        if result.is_err() {
            self.stop();
        }
        Some(result)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.shared.work.batches.len() - self.shared.lock().given;
        (0, Some(left))
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        self.stop();
    }
}
