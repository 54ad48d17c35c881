//! Weights for use: the encoder alone with its description, as `--reid` takes them.

use std::collections::HashMap;
use std::path::Path;

use candle_core::Tensor;
use mtmc_models::weights::METADATA_KEY;
use mtmc_models::{Description, Weights, network};

use super::TrainError;
use super::checkpoint::write_tensors;
use super::trainer::Variables;

/// The encoder in the variables, as weights in memory: what the description asks for, of what may be
/// more.
///
/// # Errors
/// The architecture is unknown.
pub fn weights(description: &Description, variables: &Variables) -> Result<Weights, TrainError> {
    let mut tensors = HashMap::new();
    for spec in mtmc_models::expected_tensors(description)? {
        if let Some(var) = variables.get(&spec.name) {
            tensors.insert(spec.name, var.as_detached_tensor());
        }
    }
    Ok(Weights::from_tensors(description.clone(), tensors))
}

/// Writes the encoder as a weights file.
///
/// # Errors
/// The file cannot be written, or a number is NaN or infinite.
pub fn write(
    path: &Path,
    description: &Description,
    variables: &Variables,
) -> Result<(), TrainError> {
    let mut description = description.clone();
    description.feature_dim = Some(network::embedding_dim(&description)?);
    let weights = weights(&description, variables)?;
    weights.check(&mtmc_models::expected_tensors(&description)?)?;
    let text =
        serde_json::to_string(&description).map_err(|error| TrainError::file(path, error))?;
    let mut tensors: Vec<(String, Tensor)> = weights
        .tensors()
        .iter()
        .map(|(name, tensor)| (name.clone(), tensor.clone()))
        .collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    write_tensors(
        path,
        tensors,
        HashMap::from([(METADATA_KEY.to_string(), text)]),
    )
}
