//! A training laid down in a file, to go on from: weights, what the optimisers remember, where in
//! which epoch, the best figures so far.
//!
//! One safetensors file, written under another name first: whatever happens, a whole one is there.
//! Chance needs no state: what is drawn follows from seed and epoch.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write as _;
use std::path::Path;

use candle_core::{Device, Tensor};
use mtmc_models::Description;
use serde::{Deserialize, Serialize};

use super::TrainError;
use super::optim::Memory;

/// Metadata key of the [`State`], as JSON.
const KEY: &str = "mtmc-training";

/// Version of the format.
const FORMAT: u32 = 1;

/// Largest checkpoint that is read: ten times a ViT-L's.
const MAX_BYTES: u64 = 64 << 30;

/// What is being learnt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Texts of people, CLIP-ReID's first stage.
    Prompts,
    /// The encoder of images.
    #[default]
    Images,
}

/// Where a training is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Version of the format.
    pub format: u32,
    /// What is being learnt.
    #[serde(default)]
    pub stage: Stage,
    /// Epoch that comes next or is in work, from 0 through all stages.
    pub epoch: u32,
    /// Batches of it that are done.
    pub batch: usize,
    /// Steps of the whole run.
    pub step: u64,
    /// Best mAP so far, and after which epoch.
    pub best: Option<(f64, u32)>,
    /// Evaluations since.
    pub since_best: u32,
    /// Steps that each optimiser made with each parameter.
    pub steps: BTreeMap<String, u64>,
    /// The data set's people, whose labels the classifier knows.
    pub people: Vec<i64>,
    /// The resolved settings as TOML.
    pub config: String,
    /// What the weights will say of themselves; the starting weights have a part in it.
    #[serde(default)]
    pub description: Option<Description>,
    /// Parameters that the starting weights, if there were some, did not have.
    #[serde(default)]
    pub new: BTreeSet<String>,
}

impl State {
    /// The format of states that this program writes.
    pub fn format() -> u32 {
        FORMAT
    }
}

/// A training as it is laid down.
#[derive(Debug)]
pub struct Checkpoint {
    /// Where it is.
    pub state: State,
    /// All variables by name.
    pub variables: BTreeMap<String, Tensor>,
    /// What the optimisers remember by the parameters' names.
    pub memory: BTreeMap<String, Memory>,
}

impl Checkpoint {
    /// Writes the whole file or leaves the old one.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), TrainError> {
        let mut tensors: Vec<(String, Tensor)> = Vec::new();
        for (name, tensor) in &self.variables {
            tensors.push((format!("variable/{name}"), tensor.clone()));
        }
        let mut state = self.state.clone();
        for (name, memory) in &self.memory {
            state.steps.insert(name.clone(), memory.steps);
            if let Some(values) = &memory.values {
                tensors.push((format!("memory/{name}"), values.clone()));
            }
        }
        let text = serde_json::to_string(&state).map_err(|error| TrainError::file(path, error))?;
        write_tensors(path, tensors, HashMap::from([(KEY.to_string(), text)]))
    }

    /// Reads a file.
    ///
    /// # Errors
    /// It is missing, damaged, no checkpoint, or of a newer format.
    pub fn read(path: &Path, device: &Device) -> Result<Self, TrainError> {
        let fault = |reason: String| TrainError::file(path, reason);
        let size = std::fs::metadata(path).map_err(|error| fault(error.to_string()))?;
        if size.len() > MAX_BYTES {
            return Err(fault("too large for a checkpoint".to_string()));
        }
        let bytes = std::fs::read(path).map_err(|error| fault(error.to_string()))?;
        let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes)
            .map_err(|error| fault(format!("not a readable safetensors file: {error}")))?;
        let text = metadata.metadata().as_ref().and_then(|map| map.get(KEY));
        let text = text.ok_or_else(|| fault("no checkpoint of a training".to_string()))?;
        let state: State = serde_json::from_str(text)
            .map_err(|error| fault(format!("its state cannot be read: {error}")))?;
        if state.format > FORMAT {
            let reason = format!("format {}, this program reads up to {FORMAT}", state.format);
            return Err(fault(reason));
        }
        let tensors = candle_core::safetensors::load_buffer(&bytes, device)?;
        let mut variables = BTreeMap::new();
        let mut values = BTreeMap::new();
        for (name, tensor) in tensors {
            if let Some(name) = name.strip_prefix("variable/") {
                variables.insert(name.to_string(), tensor);
            } else if let Some(name) = name.strip_prefix("memory/") {
                values.insert(name.to_string(), tensor);
            }
        }
        let memory = state.steps.iter().map(|(name, &steps)| {
            let values = values.remove(name);
            (name.clone(), Memory { steps, values })
        });
        Ok(Self {
            memory: memory.collect(),
            variables,
            state,
        })
    }
}

/// Writes a safetensors file under its name only when it is whole and on the disk.
pub(super) fn write_tensors(
    path: &Path,
    tensors: Vec<(String, Tensor)>,
    metadata: HashMap<String, String>,
) -> Result<(), TrainError> {
    let bytes = safetensors::serialize(tensors, Some(metadata))
        .map_err(|error| TrainError::file(path, error))?;
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = Path::new(&part);
    let written = std::fs::File::create(part).and_then(|mut file| {
        file.write_all(&bytes)?;
        file.sync_all()?;
        std::fs::rename(part, path)
    });
    written.map_err(|error| TrainError::file(path, error))
}
