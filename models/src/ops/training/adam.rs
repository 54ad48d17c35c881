//! A step of Adam in one pass over a parameter, its gradient and what is remembered of it.

use std::cell::RefCell;

use candle_core::{CpuStorage, InplaceOp1, InplaceOp2, Layout, Result, Tensor, Var};
use rayon::prelude::*;

use super::{PART, numbers, numbers_mut};
use crate::ops::cpu::simd::dispatch;

/// A step of Adam (Kingma and Ba, 2015) or `AdamW` (Loshchilov and Hutter, 2019).
#[derive(Debug, Clone, Copy)]
pub struct Adam {
    /// Of the gradient's mean and of its square's mean.
    pub betas: (f64, f64),
    /// The rate, over what corrects the first mean for having begun at zero.
    pub rate: f64,
    /// The root of what corrects the second one.
    pub root: f64,
    /// Added to the root.
    pub eps: f64,
    /// Weight decay that is added to the gradient.
    pub decay: f64,
    /// What the parameter is multiplied by before the step.
    pub kept: f64,
}

impl Adam {
    /// Moves `var` and with it `memory`, `[2, numbers]`: the means. All are contiguous f32 on the
    /// CPU.
    ///
    /// # Errors
    /// They are not, or their sizes differ.
    pub fn apply(&self, var: &Var, gradient: &Tensor, memory: &Tensor) -> Result<()> {
        let count = var.elem_count();
        if gradient.elem_count() != count || memory.elem_count() != 2 * count {
            candle_core::bail!(
                "{:?} moved by {:?} with {:?}",
                var.dims(),
                gradient.dims(),
                memory.dims()
            );
        }
        memory.inplace_op2(gradient, &Remember { step: *self, var })
    }
}

/// The means, the gradient.
struct Remember<'a> {
    step: Adam,
    var: &'a Var,
}

impl InplaceOp2 for Remember<'_> {
    fn name(&self) -> &'static str {
        "adam"
    }

    fn cpu_fwd(
        &self,
        memory: &mut CpuStorage,
        memory_layout: &Layout,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
    ) -> Result<()> {
        let memory = numbers_mut(memory, memory_layout)?;
        let gradient = numbers(gradient, gradient_layout)?;
        self.var.inplace_op1(&Move {
            step: self.step,
            memory: RefCell::new(memory),
            gradient,
        })
    }
}

/// The parameter.
struct Move<'a> {
    step: Adam,
    memory: RefCell<&'a mut [f32]>,
    gradient: &'a [f32],
}

impl InplaceOp1 for Move<'_> {
    fn name(&self) -> &'static str {
        "adam"
    }

    fn cpu_fwd(&self, parameter: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let parameter = numbers_mut(parameter, layout)?;
        let mut memory = self.memory.borrow_mut();
        let adam = self.step;
        let (mean, square) = memory.split_at_mut(parameter.len());
        let means = mean.par_chunks_mut(PART).zip(square.par_chunks_mut(PART));
        let numbers = parameter
            .par_chunks_mut(PART)
            .zip(self.gradient.par_chunks(PART));
        numbers
            .zip(means)
            .for_each(|((parameter, gradient), (mean, square))| {
                step(parameter, gradient, mean, square, &adam);
            });
        Ok(())
    }
}

#[inline(always)]
fn step_body(
    parameter: &mut [f32],
    gradient: &[f32],
    mean: &mut [f32],
    square: &mut [f32],
    step: &Adam,
) {
    let (beta1, beta2) = (step.betas.0 as f32, step.betas.1 as f32);
    let (rest1, rest2) = ((1.0 - step.betas.0) as f32, (1.0 - step.betas.1) as f32);
    let (rate, root, eps) = (step.rate as f32, step.root as f32, step.eps as f32);
    let (decay, kept) = (step.decay as f32, step.kept as f32);
    let means = mean.iter_mut().zip(square);
    for ((value, gradient), (mean, square)) in parameter.iter_mut().zip(gradient).zip(means) {
        let gradient = gradient + decay * *value;
        *mean = beta1 * *mean + rest1 * gradient;
        *square = beta2 * *square + rest2 * gradient * gradient;
        *value = kept * *value - rate * (*mean / (square.sqrt() / root + eps));
    }
}

dispatch! {
    fn step(
        parameter: &mut [f32],
        gradient: &[f32],
        mean: &mut [f32],
        square: &mut [f32],
        step: &Adam,
    ) = step_body
}
