//! What is learnt, and how fast each part of it.

use std::collections::BTreeSet;

use candle_core::{DType, Device, Tensor, Var};
use mtmc_models::Description;

use super::network::metric_dim;
use super::{CENTRES, Variables, is_learnt};
use crate::train::TrainError;
use crate::train::config::Config;
use crate::train::optim::{Method, Optimizer, Parameter};

/// What is learnt, each with its rate and decay.
pub(super) fn parameters(
    config: &Config,
    variables: &Variables,
    new: &BTreeSet<String>,
) -> Vec<Parameter> {
    let settings = &config.optimizer;
    let mut found = Vec::new();
    for (name, var) in variables {
        if !is_learnt(name, variables) {
            continue;
        }
        let mut rate_factor = 1.0;
        if name.ends_with("bias") {
            rate_factor *= settings.bias_rate;
        }
        if new.contains(name) {
            rate_factor *= settings.new_rate;
        }
        found.push(Parameter {
            name: name.clone(),
            var: var.clone(),
            rate_factor,
            // Biases and the weights of norms have one dimension.
            decay: if var.rank() < 2 {
                settings.bias_decay
            } else {
                settings.decay
            },
        });
    }
    found
}

/// The centres of the centre loss and how they move, if it has a weight.
///
/// # Errors
/// The device fails.
pub(super) fn centres(
    config: &Config,
    description: &Description,
    people: usize,
    device: &Device,
) -> Result<Option<Optimizer>, TrainError> {
    if config.loss.centre == 0.0 {
        return Ok(None);
    }
    let dim = metric_dim(description)?;
    let zeros = Tensor::zeros((people, dim), DType::F32, device)?;
    let parameter = Parameter {
        name: CENTRES.to_string(),
        var: Var::from_tensor(&zeros)?,
        rate_factor: 1.0,
        decay: 0.0,
    };
    let optimizer = Optimizer::new(Method::plain_sgd(), vec![parameter])?;
    Ok(Some(optimizer))
}
