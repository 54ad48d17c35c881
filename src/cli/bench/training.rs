//! A training step of an encoder with made-up weights: forwards, backwards and AdamW, in f32.

use std::cell::RefCell;
use std::collections::HashMap;

use crate::train::optim::{Gradients, Method, Optimizer, Parameter};
use candle_core::{DType, Device, Tensor, Var};
use mtmc_models::embed::EmbeddingNetwork;
use mtmc_models::layers::{Mode, Params};
use mtmc_models::testing::{made_up_description, made_up_weights};
use mtmc_models::{Weights, expected_tensors, network};

/// What a step needs.
pub(super) struct Training {
    network: Box<dyn EmbeddingNetwork>,
    /// Changed by each step.
    optimizer: RefCell<Optimizer>,
    /// `[batch, 3, 256, 128]`.
    images: Tensor,
}

impl Training {
    /// The network `name` in training mode, and a made-up batch.
    pub(super) fn new(name: &str, batch: usize, device: &Device) -> anyhow::Result<Self> {
        let mut description = made_up_description(name);
        (description.input_height, description.input_width) = (256, 128);
        let weights = made_up_weights(&description, &expected_tensors(&description)?);
        let mut tensors = HashMap::new();
        let mut parameters = Vec::new();
        for (name, values) in weights.tensors() {
            let var = Var::from_tensor(&values.to_device(device)?)?;
            tensors.insert(name.clone(), var.as_tensor().clone());
            if !name.contains("running_") {
                parameters.push(Parameter {
                    name: name.clone(),
                    var,
                    rate_factor: 1.0,
                    decay: 1e-2,
                });
            }
        }
        let weights = Weights::from_tensors(description.clone(), tensors);
        let builder = weights.var_builder(DType::F32, device);
        let params = Params::new(builder, Mode::Training, 1e-5);
        let method = Method::AdamW {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
        };
        let shape = (batch, 3, 256, 128);
        Ok(Self {
            network: network::build_embedder(&description, &params)?,
            optimizer: RefCell::new(Optimizer::new(method, parameters)?),
            images: Tensor::rand(0.0_f32, 1.0, shape, &Device::Cpu)?.to_device(device)?,
        })
    }

    /// One step towards vectors of zeros.
    pub(super) fn step(&self) -> anyhow::Result<()> {
        let loss = self.network.forward(&self.images)?.sqr()?.mean_all()?;
        let mut optimizer = self.optimizer.borrow_mut();
        let gradients = Gradients::take(&mut loss.backward()?, optimizer.parameters());
        Ok(optimizer.step(&gradients, 1e-4)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Vectors come nearer to zeros, as they are asked to; of two images alone the last batch norm would
    // make the same whatever the weights.
    #[test]
    fn steps_lower_the_loss() {
        let training = Training::new("osnet-x0.25", 8, &Device::Cpu).unwrap();
        let loss = || {
            let vectors = training.network.forward(&training.images).unwrap();
            let loss = vectors.sqr().unwrap().mean_all().unwrap();
            loss.to_scalar::<f32>().unwrap()
        };
        let before = loss();
        for _ in 0..3 {
            training.step().unwrap();
        }
        assert!(loss() < before, "{} is not below {before}", loss());
    }
}
