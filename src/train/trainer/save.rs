//! A training laid down, and gone on from.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use candle_core::Tensor;
use mtmc_models::Description;

use super::prompts::Prompts;
use super::{CENTRES, RunFolder, TEXTS, Trainer};
use crate::train::TrainError;
use crate::train::checkpoint::{Checkpoint, Stage, State};
use crate::train::optim::Memory;

impl Trainer {
    /// Goes on from a checkpoint of the same settings and people.
    ///
    /// # Errors
    /// It is of another training.
    pub fn resume(&mut self, path: &Path) -> Result<(), TrainError> {
        let saved = Checkpoint::read(path, &self.device)?;
        let fault = |reason: String| TrainError::file(path, reason);
        if saved.state.people != self.state.people {
            return Err(fault("a training of other people".to_string()));
        }
        if let Some(description) = saved.state.description.clone() {
            self.become_as(description, saved.state.new.clone())?;
        }
        for (name, var) in &self.variables {
            let tensor = saved.variables.get(name);
            let tensor = tensor.filter(|tensor| tensor.dims() == var.dims());
            let tensor = tensor.ok_or_else(|| fault(format!("`{name}` is of another network")))?;
            var.set(tensor)?;
        }
        match (saved.state.stage, &mut self.prompts) {
            (Stage::Prompts, Some(prompts)) => {
                let resumed = prompts.resume(&saved.variables, saved.memory);
                resumed.map_err(|error| fault(error.to_string()))?;
            }
            (Stage::Prompts, None) => {
                return Err(fault("its prompts are still being learnt".to_string()));
            }
            (Stage::Images, _) => {
                let resumed = self.resume_images(&saved.variables, saved.memory);
                resumed.map_err(|error| fault(error.to_string()))?;
            }
        }
        let config = std::mem::take(&mut self.state.config);
        self.state = State {
            config,
            steps: BTreeMap::new(),
            ..saved.state
        };
        Ok(())
    }

    /// What the second stage, mostly the only one, needs beside the variables.
    fn resume_images(
        &mut self,
        saved: &BTreeMap<String, Tensor>,
        mut memory: BTreeMap<String, Memory>,
    ) -> Result<(), TrainError> {
        let missing = |what: &str| TrainError::Setting(format!("no {what} in it"));
        if self.prompts.is_some() {
            let texts = saved.get(TEXTS).ok_or_else(|| missing("texts"))?;
            self.begin_images(texts.clone());
        }
        if let Some(centres) = &mut self.centres {
            let own = memory.remove(CENTRES).ok_or_else(|| missing("centres"))?;
            let tensor = saved.get(CENTRES).ok_or_else(|| missing("centres"))?;
            centres.parameters()[0].var.set(tensor)?;
            centres.remember([(CENTRES.to_string(), own)].into())?;
        }
        Ok(self.optimizer.remember(memory)?)
    }

    /// Prepares images and treats parameters as a training does that began from other weights.
    fn become_as(
        &mut self,
        description: Description,
        new: BTreeSet<String>,
    ) -> Result<(), TrainError> {
        if description == self.description && new == self.state.new {
            return Ok(());
        }
        let (config, set) = (self.config.clone(), self.set.clone());
        let (device, threads) = (self.device.clone(), self.threads);
        let new = Some(new);
        (*self, _) = Self::build(config, set, description, None, new, &device, threads)?;
        Ok(())
    }

    /// Lays the training down.
    ///
    /// # Errors
    /// The file cannot be written, or a number is NaN or infinite: the old file stays.
    pub fn save(&self, folder: &RunFolder) -> Result<(), TrainError> {
        self.save_with(folder, self.prompts.as_ref())
    }

    pub(super) fn save_with(
        &self,
        folder: &RunFolder,
        prompts: Option<&Prompts>,
    ) -> Result<(), TrainError> {
        self.check_finite()?;
        let mut variables = BTreeMap::new();
        for (name, var) in &self.variables {
            variables.insert(name.clone(), var.as_detached_tensor());
        }
        // In the first stage no step has been made by the others.
        let memory = if let Some(prompts) = prompts {
            prompts.save(&mut variables)
        } else {
            let mut memory = self.optimizer.memory();
            if let Some(centres) = &self.centres {
                memory.extend(centres.memory());
                let tensor = centres.parameters()[0].var.as_detached_tensor();
                variables.insert(CENTRES.to_string(), tensor);
            }
            if let Some(texts) = &self.texts {
                variables.insert(TEXTS.to_string(), texts.clone());
            }
            memory
        };
        let checkpoint = Checkpoint {
            state: self.state.clone(),
            variables,
            memory,
        };
        checkpoint.write(&folder.checkpoint())
    }
}
