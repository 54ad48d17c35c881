//! Gradients of a list of parameters: added up over several batches, measured, clipped.

use candle_core::backprop::GradStore;
use candle_core::{DType, Result, Tensor};

use super::Parameter;

/// One gradient for each parameter, in their order; none where no loss depends on it.
#[derive(Debug, Clone)]
pub struct Gradients(Vec<Option<Tensor>>);

impl Gradients {
    /// Takes the parameters' gradients out of what `backward` left.
    pub fn take(store: &mut GradStore, parameters: &[Parameter]) -> Self {
        let gradients = parameters.iter().map(|one| {
            store
                .remove(one.var.as_tensor())
                .map(|found| found.detach())
        });
        Self(gradients.collect())
    }

    /// From tensors of the parameters' shapes.
    pub fn from_tensors(gradients: Vec<Option<Tensor>>) -> Self {
        Self(gradients)
    }

    /// The gradient of the parameter at `index`.
    pub fn get(&self, index: usize) -> Option<&Tensor> {
        self.0.get(index)?.as_ref()
    }

    /// Adds those of another batch.
    ///
    /// # Errors
    /// The shapes differ.
    pub fn add(&mut self, other: Self) -> Result<()> {
        for (mine, other) in self.0.iter_mut().zip(other.0) {
            *mine = match (mine.take(), other) {
                (Some(mine), Some(other)) => Some((mine + other)?),
                (one, None) | (None, one) => one,
            };
        }
        Ok(())
    }

    /// Multiplies all.
    ///
    /// # Errors
    /// The device fails.
    pub fn scale(&mut self, factor: f64) -> Result<()> {
        for gradient in self.0.iter_mut().flatten() {
            *gradient = (&*gradient * factor)?;
        }
        Ok(())
    }

    /// Length of all gradients as one vector (L2).
    ///
    /// # Errors
    /// The device fails.
    pub fn norm(&self) -> Result<f64> {
        let mut squares = 0.0;
        for gradient in self.0.iter().flatten() {
            let sum = gradient.sqr()?.sum_all()?.to_dtype(DType::F64)?;
            squares += sum.to_scalar::<f64>()?;
        }
        Ok(squares.sqrt())
    }

    /// Brings them to length `most` where they are longer; tells how long they were (PyTorch's
    /// `clip_grad_norm_`).
    ///
    /// # Errors
    /// The device fails.
    pub fn clip(&mut self, most: f64) -> Result<f64> {
        let norm = self.norm()?;
        let factor = most / (norm + 1e-6);
        if factor < 1.0 {
            self.scale(factor)?;
        }
        Ok(norm)
    }
}
