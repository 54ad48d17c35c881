//! What chance leaves out of a training step: numbers (Srivastava et al., "Dropout", 2014) and
//! whole branches of layers ("Deep Networks with Stochastic Depth", Huang et al., 2016).
//!
//! Chance itself is the caller's, so that a step can be repeated.

use candle_core::{Result, Tensor};

/// How much is left out, and by whose chance.
pub struct Drops<'a> {
    /// Chance of a number, 0..1.
    pub numbers: f64,
    /// Chance, 0..1, of an image's branch in the last layer; layers before it have less, the first
    /// none.
    pub path: f64,
    /// Draws uniformly from 0..1; without it nothing is left out.
    pub draw: Option<&'a mut dyn FnMut() -> f64>,
}

impl Drops<'_> {
    /// Nothing is left out.
    pub fn none() -> Drops<'static> {
        Drops {
            numbers: 0.0,
            path: 0.0,
            draw: None,
        }
    }

    /// The chance of a layer's branches.
    pub fn path_of(&self, layer: usize, layers: usize) -> f64 {
        match layers {
            0 | 1 => self.path,
            _ => self.path * layer as f64 / (layers - 1) as f64,
        }
    }

    /// Leaves out numbers; the others grow, so that the mean stays.
    ///
    /// # Errors
    /// The device fails.
    pub fn numbers(&mut self, x: Tensor) -> Result<Tensor> {
        let Some(mask) = self.mask(x.elem_count(), self.numbers) else {
            return Ok(x);
        };
        let mask = Tensor::from_vec(mask, x.shape(), x.device())?;
        x.mul(&mask.to_dtype(x.dtype())?)
    }

    /// Leaves out whole images (rows of the first dimension) with chance `rate`.
    ///
    /// # Errors
    /// The device fails.
    pub fn rows(&mut self, x: Tensor, rate: f64) -> Result<Tensor> {
        let mut shape = vec![1; x.rank()];
        shape[0] = x.dim(0)?;
        let Some(mask) = self.mask(shape[0], rate) else {
            return Ok(x);
        };
        let mask = Tensor::from_vec(mask, shape, x.device())?;
        x.broadcast_mul(&mask.to_dtype(x.dtype())?)
    }

    fn mask(&mut self, count: usize, rate: f64) -> Option<Vec<f32>> {
        let draw = self.draw.as_mut().filter(|_| rate > 0.0)?;
        let kept = (1.0 / (1.0 - rate)) as f32;
        let mut one = || if draw() < rate { 0.0 } else { kept };
        Some((0..count).map(|_| one()).collect())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    // By hand: draws 0.1, 0.6, 0.1, … under a chance of a half leave out every other.
    #[test]
    fn what_is_left_grows() {
        let mut next = false;
        let mut draw = || {
            next = !next;
            if next { 0.1 } else { 0.6 }
        };
        let mut drops = Drops {
            numbers: 0.5,
            path: 0.5,
            draw: Some(&mut draw),
        };
        let ones = Tensor::ones((4, 1, 2), DType::F32, &Device::Cpu).unwrap();
        let numbers = drops.numbers(ones.clone()).unwrap().flatten_all().unwrap();
        let expected = [0.0, 2.0, 0.0, 2.0, 0.0, 2.0, 0.0, 2.0];
        assert_eq!(numbers.to_vec1::<f32>().unwrap(), expected);
        let rows = drops.rows(ones.clone(), 0.5).unwrap();
        let rows = rows.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(rows, [0.0, 0.0, 2.0, 2.0, 0.0, 0.0, 2.0, 2.0]);
        assert_eq!(
            [
                drops.path_of(0, 3),
                drops.path_of(1, 3),
                drops.path_of(2, 3)
            ],
            [0.0, 0.25, 0.5]
        );
        let kept = Drops::none().numbers(ones).unwrap().sum_all().unwrap();
        assert_eq!(kept.to_scalar::<f32>().unwrap(), 8.0);
    }
}
