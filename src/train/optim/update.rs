//! One parameter's step.

use candle_core::{
    CpuStorage, CudaStorage, DType, InplaceOp2, InplaceOp3, Layout, Result, Tensor, Var,
};
use mtmc_models::ops::Adam;
use rayon::prelude::*;

use super::Method;

/// Numbers that a thread takes at once.
const PART: usize = 16 * 1024;

/// A step that is about to be made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Update {
    pub method: Method,
    /// The parameter's own rate.
    pub rate: f64,
    pub decay: f64,
    /// Number of this step, from 1.
    pub step: u64,
}

impl Update {
    /// Moves `var`, and `memory` with it.
    pub(super) fn apply(
        &self,
        var: &Var,
        gradient: &Tensor,
        memory: &mut Option<Tensor>,
    ) -> Result<()> {
        let in_place = var.device().is_cpu()
            && var.dtype() == DType::F32
            && gradient.dtype() == DType::F32
            && var.is_contiguous();
        if in_place {
            return self.apply_in_place(var, &gradient.contiguous()?, memory.as_ref());
        }
        self.apply_plain(var, gradient, memory)
    }

    /// How far Adam's means are corrected for having begun at zero: of the first, of the second.
    fn corrections(&self, beta1: f64, beta2: f64) -> (f64, f64) {
        let steps = self.step.min(i32::MAX as u64) as i32;
        (1.0 - beta1.powi(steps), 1.0 - beta2.powi(steps))
    }

    /// Plain candle operations: any device, any floating-point type.
    pub(super) fn apply_plain(
        &self,
        var: &Var,
        gradient: &Tensor,
        memory: &mut Option<Tensor>,
    ) -> Result<()> {
        let parameter = var.as_detached_tensor().flatten_all()?;
        let gradient = gradient.flatten_all()?.to_dtype(parameter.dtype())?;
        let penalised = |gradient: Tensor| -> Result<Tensor> {
            if self.decay == 0.0 {
                return Ok(gradient);
            }
            gradient + (&parameter * self.decay)?
        };
        let moved = match self.method {
            Method::Adam { beta1, beta2, eps } => {
                let step = self.adam(memory, &penalised(gradient)?, beta1, beta2, eps)?;
                (&parameter - step)?
            }
            Method::AdamW { beta1, beta2, eps } => {
                let step = self.adam(memory, &gradient, beta1, beta2, eps)?;
                ((&parameter * (1.0 - self.rate * self.decay))? - step)?
            }
            Method::Sgd { momentum, nesterov } => {
                let gradient = penalised(gradient)?;
                let step = match memory {
                    None => gradient,
                    Some(values) => {
                        let speed = ((values.get(0)? * momentum)? + &gradient)?;
                        *values = speed.unsqueeze(0)?;
                        if nesterov {
                            (gradient + (speed * momentum)?)?
                        } else {
                            speed
                        }
                    }
                };
                (&parameter - (step * self.rate)?)?
            }
        };
        var.set(&moved.reshape(var.shape())?)
    }

    fn adam(
        &self,
        memory: &mut Option<Tensor>,
        gradient: &Tensor,
        beta1: f64,
        beta2: f64,
        eps: f64,
    ) -> Result<Tensor> {
        let Some(values) = memory else {
            candle_core::bail!("Adam without its means");
        };
        let mean = ((values.get(0)? * beta1)? + (gradient * (1.0 - beta1))?)?;
        let square = ((values.get(1)? * beta2)? + (gradient.sqr()? * (1.0 - beta2))?)?;
        *values = Tensor::stack(&[&mean, &square], 0)?;
        let (first, second) = self.corrections(beta1, beta2);
        let root = ((square.sqrt()? / second.sqrt())? + eps)?;
        (mean / root)? * (self.rate / first)
    }

    /// Nothing is allocated. SGD with momentum takes two passes: first what is remembered, then the
    /// parameter.
    fn apply_in_place(&self, var: &Var, gradient: &Tensor, memory: Option<&Tensor>) -> Result<()> {
        let Some(memory) = memory else {
            return var.inplace_op2(gradient, &Descend(*self));
        };
        match self.method {
            Method::Adam { beta1, beta2, eps } => {
                let adam = self.adam_in_place((beta1, beta2), eps);
                let decay = self.decay;
                Adam { decay, ..adam }.apply(var, gradient, memory)
            }
            Method::AdamW { beta1, beta2, eps } => {
                let adam = self.adam_in_place((beta1, beta2), eps);
                let kept = 1.0 - self.rate * self.decay;
                Adam { kept, ..adam }.apply(var, gradient, memory)
            }
            Method::Sgd { momentum, nesterov } => {
                let speed = Speed {
                    rate: self.rate as f32,
                    decay: self.decay as f32,
                    momentum: momentum as f32,
                    nesterov,
                };
                memory.inplace_op3(gradient, var, &Remember(speed))?;
                var.inplace_op3(gradient, memory, &Move(speed))
            }
        }
    }

    /// Without decay.
    fn adam_in_place(&self, betas: (f64, f64), eps: f64) -> Adam {
        let (first, second) = self.corrections(betas.0, betas.1);
        Adam {
            betas,
            rate: self.rate / first,
            root: second.sqrt(),
            eps,
            decay: 0.0,
            kept: 1.0,
        }
    }
}

/// Plain SGD: the parameter, the gradient.
struct Descend(Update);

impl InplaceOp2 for Descend {
    fn name(&self) -> &'static str {
        "optimizer-descend"
    }

    fn cpu_fwd(
        &self,
        parameter: &mut CpuStorage,
        parameter_layout: &Layout,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
    ) -> Result<()> {
        let (rate, decay) = (self.0.rate as f32, self.0.decay as f32);
        let gradient = numbers(gradient, gradient_layout)?;
        let parameter = numbers_mut(parameter, parameter_layout)?;
        let parts = parameter
            .par_chunks_mut(PART)
            .zip(gradient.par_chunks(PART));
        parts.for_each(|(parameter, gradient)| {
            for (value, gradient) in parameter.iter_mut().zip(gradient) {
                *value -= rate * (gradient + decay * *value);
            }
        });
        Ok(())
    }

    fn cuda_fwd(&self, _: &mut CudaStorage, _: &Layout, _: &CudaStorage, _: &Layout) -> Result<()> {
        candle_core::bail!("steps in place run on the CPU alone")
    }
}

/// SGD with momentum.
#[derive(Debug, Clone, Copy)]
struct Speed {
    rate: f32,
    decay: f32,
    momentum: f32,
    nesterov: bool,
}

/// What is remembered: itself, the gradient, the parameter.
struct Remember(Speed);

impl InplaceOp3 for Remember {
    fn name(&self) -> &'static str {
        "optimizer-remember"
    }

    fn cpu_fwd(
        &self,
        memory: &mut CpuStorage,
        memory_layout: &Layout,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
        parameter: &CpuStorage,
        parameter_layout: &Layout,
    ) -> Result<()> {
        let Speed {
            decay, momentum, ..
        } = self.0;
        let speed = numbers_mut(memory, memory_layout)?;
        let gradient = numbers(gradient, gradient_layout)?;
        let parameter = numbers(parameter, parameter_layout)?;
        let inputs = gradient.par_chunks(PART).zip(parameter.par_chunks(PART));
        let parts = speed.par_chunks_mut(PART).zip(inputs);
        parts.for_each(|(speed, (gradient, parameter))| {
            for ((speed, gradient), parameter) in speed.iter_mut().zip(gradient).zip(parameter) {
                *speed = momentum * *speed + (gradient + decay * parameter);
            }
        });
        Ok(())
    }

    fn cuda_fwd(
        &self,
        _: &mut CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<()> {
        candle_core::bail!("steps in place run on the CPU alone")
    }
}

/// The parameter: itself, the gradient, what is remembered.
struct Move(Speed);

impl InplaceOp3 for Move {
    fn name(&self) -> &'static str {
        "optimizer-move"
    }

    fn cpu_fwd(
        &self,
        parameter: &mut CpuStorage,
        parameter_layout: &Layout,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
        memory: &CpuStorage,
        memory_layout: &Layout,
    ) -> Result<()> {
        let Speed {
            rate,
            decay,
            momentum,
            nesterov,
        } = self.0;
        let parameter = numbers_mut(parameter, parameter_layout)?;
        let gradient = numbers(gradient, gradient_layout)?;
        let speed = numbers(memory, memory_layout)?;
        let inputs = gradient.par_chunks(PART).zip(speed.par_chunks(PART));
        let parts = parameter.par_chunks_mut(PART).zip(inputs);
        parts.for_each(|(parameter, (gradient, speed))| {
            for ((value, gradient), speed) in parameter.iter_mut().zip(gradient).zip(speed) {
                let step = if nesterov {
                    gradient + decay * *value + momentum * speed
                } else {
                    *speed
                };
                *value -= rate * step;
            }
        });
        Ok(())
    }

    fn cuda_fwd(
        &self,
        _: &mut CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<()> {
        candle_core::bail!("steps in place run on the CPU alone")
    }
}

fn numbers<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(numbers), Some((start, end))) => Ok(&numbers[start..end]),
        _ => candle_core::bail!("a step in place needs contiguous f32"),
    }
}

fn numbers_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(numbers), Some((start, end))) => Ok(&mut numbers[start..end]),
        _ => candle_core::bail!("a step in place needs contiguous f32"),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    // The plain way is the yardstick of the one in place.
    #[test]
    fn both_ways_are_one() {
        let numbers = |seed: usize| -> Vec<f32> {
            let one = |index: usize| ((index * 7919 + seed * 104_729) % 2003) as f32 / 1000.0 - 1.0;
            (0..35).map(one).collect()
        };
        let sgd = |momentum, nesterov| Method::Sgd { momentum, nesterov };
        let Method::Adam { beta1, beta2, eps } = Method::adam() else {
            unreachable!()
        };
        let adamw = Method::AdamW { beta1, beta2, eps };
        for method in [
            Method::adam(),
            adamw,
            sgd(0.0, false),
            sgd(0.9, false),
            sgd(0.9, true),
        ] {
            let start = Tensor::from_vec(numbers(0), (7, 5), &Device::Cpu).unwrap();
            let rows = method.memory();
            let mut found = Vec::new();
            for plain in [true, false] {
                let var = Var::from_tensor(&start).unwrap();
                let fresh = || Tensor::zeros((rows, 35), DType::F32, &Device::Cpu).unwrap();
                let mut memory = (rows > 0).then(fresh);
                for step in 1..5 {
                    let gradient = numbers(step as usize);
                    let gradient = Tensor::from_vec(gradient, (7, 5), &Device::Cpu).unwrap();
                    let update = Update {
                        method,
                        rate: 0.03,
                        decay: 0.1,
                        step,
                    };
                    if plain {
                        update.apply_plain(&var, &gradient, &mut memory).unwrap();
                    } else {
                        update.apply(&var, &gradient, &mut memory).unwrap();
                    }
                }
                found.push(var.flatten_all().unwrap().to_vec1::<f32>().unwrap());
            }
            for (plain, in_place) in found[0].iter().zip(&found[1]) {
                assert!((plain - in_place).abs() < 1e-6, "{method:?}");
            }
        }
    }
}
