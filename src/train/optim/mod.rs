//! Optimisers, as PyTorch has them: Adam (weight decay as L2 penalty), AdamW (decoupled decay) and
//! SGD with momentum.
//!
//! Each parameter has its own rate factor and weight decay, so that biases, batch norms or a new
//! head can be treated differently. On the CPU a step is one pass in place over each parameter, two
//! for SGD with momentum; elsewhere plain candle operations.

mod gradients;
mod update;

use std::collections::BTreeMap;

use candle_core::{DType, Result, Tensor, Var};
use serde::{Deserialize, Serialize};

pub use self::gradients::Gradients;

use self::update::Update;

/// The rule of an optimiser.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Method {
    /// Adam (Kingma and Ba, 2015); decay is added to the gradient.
    Adam {
        /// Of the gradient's mean.
        #[serde(default = "beta1")]
        beta1: f64,
        /// Of its square's mean.
        #[serde(default = "beta2")]
        beta2: f64,
        /// Added to the root.
        #[serde(default = "eps")]
        eps: f64,
    },
    /// `AdamW` (Loshchilov and Hutter, 2019); decay shrinks the parameter itself.
    #[serde(rename = "adamw")]
    AdamW {
        /// Of the gradient's mean.
        #[serde(default = "beta1")]
        beta1: f64,
        /// Of its square's mean.
        #[serde(default = "beta2")]
        beta2: f64,
        /// Added to the root.
        #[serde(default = "eps")]
        eps: f64,
    },
    /// Stochastic gradient descent.
    Sgd {
        /// 0 for none.
        #[serde(default)]
        momentum: f64,
        /// Looks ahead along the momentum (Sutskever et al., 2013).
        #[serde(default)]
        nesterov: bool,
    },
}

fn beta1() -> f64 {
    0.9
}

fn beta2() -> f64 {
    0.999
}

fn eps() -> f64 {
    1e-8
}

impl Method {
    /// Adam with PyTorch's defaults.
    pub fn adam() -> Self {
        Self::Adam {
            beta1: beta1(),
            beta2: beta2(),
            eps: eps(),
        }
    }

    /// Plain gradient descent.
    pub fn plain_sgd() -> Self {
        Self::Sgd {
            momentum: 0.0,
            nesterov: false,
        }
    }

    /// Numbers that it remembers for each number of a parameter.
    fn memory(&self) -> usize {
        match self {
            Self::Adam { .. } | Self::AdamW { .. } => 2,
            Self::Sgd { momentum: 0.0, .. } => 0,
            Self::Sgd { .. } => 1,
        }
    }

    /// What about it makes no sense, if anything does.
    pub fn fault(&self) -> Option<String> {
        let below_one = |value: f64| (0.0..1.0).contains(&value);
        match *self {
            Self::Adam { beta1, beta2, eps } | Self::AdamW { beta1, beta2, eps } => {
                let sensible = below_one(beta1) && below_one(beta2) && eps > 0.0;
                (!sensible).then(|| format!("optimizer: {self:?} needs betas in 0..1 and eps > 0"))
            }
            Self::Sgd { momentum, nesterov } => {
                let sensible = below_one(momentum) && (momentum > 0.0 || !nesterov);
                (!sensible).then(|| {
                    "optimizer: momentum is in 0..1, and nesterov needs momentum".to_string()
                })
            }
        }
    }
}

/// A tensor that is learnt.
#[derive(Debug, Clone)]
pub struct Parameter {
    /// Its name in the weights.
    pub name: String,
    /// Its numbers.
    pub var: Var,
    /// What the rate is multiplied by.
    pub rate_factor: f64,
    /// Weight decay.
    pub decay: f64,
}

/// What an optimiser remembers of one parameter.
#[derive(Debug, Clone)]
pub struct Memory {
    /// Steps so far.
    pub steps: u64,
    /// `[memory, numbers]`; none for plain SGD.
    pub values: Option<Tensor>,
}

/// An optimiser and what it remembers.
#[derive(Debug)]
pub struct Optimizer {
    method: Method,
    parameters: Vec<Parameter>,
    memory: Vec<Memory>,
}

impl Optimizer {
    /// An optimiser that has made no step yet.
    ///
    /// # Errors
    /// A parameter is not of floating-point type f32 or f64, or the device fails.
    pub fn new(method: Method, parameters: Vec<Parameter>) -> Result<Self> {
        let mut memory = Vec::with_capacity(parameters.len());
        for parameter in &parameters {
            memory.push(Memory {
                steps: 0,
                values: fresh_memory(method, parameter)?,
            });
        }
        Ok(Self {
            method,
            parameters,
            memory,
        })
    }

    /// What is learnt.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// One step at `rate`. Parameters that `gradients` has nothing for stay as they are.
    ///
    /// # Errors
    /// The device fails.
    pub fn step(&mut self, gradients: &Gradients, rate: f64) -> Result<()> {
        for (index, parameter) in self.parameters.iter().enumerate() {
            let Some(gradient) = gradients.get(index) else {
                continue;
            };
            let memory = &mut self.memory[index];
            memory.steps += 1;
            let update = Update {
                method: self.method,
                rate: rate * parameter.rate_factor,
                decay: parameter.decay,
                step: memory.steps,
            };
            update.apply(&parameter.var, gradient, &mut memory.values)?;
        }
        Ok(())
    }

    /// What it remembers, by the parameters' names.
    pub fn memory(&self) -> BTreeMap<String, Memory> {
        let names = self.parameters.iter().map(|one| one.name.clone());
        names.zip(self.memory.iter().cloned()).collect()
    }

    /// Goes on from what another run of it remembered.
    ///
    /// # Errors
    /// A parameter is missing or has another size.
    pub fn remember(&mut self, mut saved: BTreeMap<String, Memory>) -> Result<()> {
        for (parameter, memory) in self.parameters.iter().zip(&mut self.memory) {
            let Some(found) = saved.remove(&parameter.name) else {
                candle_core::bail!("nothing is remembered of `{}`", parameter.name);
            };
            let shape = |memory: &Memory| memory.values.as_ref().map(|v| v.dims().to_vec());
            if shape(&found) != shape(memory) {
                candle_core::bail!(
                    "what is remembered of `{}` has another size",
                    parameter.name
                );
            }
            memory.steps = found.steps;
            // Its own copy, for it is changed in place.
            memory.values = match found.values {
                Some(values) => Some(values.to_device(parameter.var.device())?.copy()?),
                None => None,
            };
        }
        Ok(())
    }
}

fn fresh_memory(method: Method, parameter: &Parameter) -> Result<Option<Tensor>> {
    let var = &parameter.var;
    if !matches!(var.dtype(), DType::F32 | DType::F64) {
        candle_core::bail!("`{}` is learnt in {:?}", parameter.name, var.dtype());
    }
    let rows = method.memory();
    if rows == 0 {
        return Ok(None);
    }
    let shape = (rows, var.elem_count());
    Ok(Some(Tensor::zeros(shape, var.dtype(), var.device())?))
}
