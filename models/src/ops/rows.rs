//! Steps between layers, each in one pass over rows: gates, largest numbers, cells to rows and back.

use candle_core::{D, Result, Tensor};
use rayon::prelude::*;

use super::cpu::{self, square};
use super::planes::{fused, with_numbers};

/// Numbers that a thread takes at least.
const MIN_PER_THREAD: usize = 16 * 1024;

/// SiLU of the first half of every row times its second half: `[.., 2 * size]` to `[.., size]`.
///
/// # Errors
/// The last dimension is odd, or the device fails.
pub fn silu_gated(x: &Tensor) -> Result<Tensor> {
    let both = x.dim(D::Minus1)?;
    if !both.is_multiple_of(2) {
        candle_core::bail!("{both} numbers have no halves");
    }
    let size = both / 2;
    if !fused(&[x]) || size == 0 {
        let gate = x.narrow(D::Minus1, 0, size)?.silu()?;
        return gate * x.narrow(D::Minus1, size, size)?;
    }
    let mut output = vec![0.0_f32; x.elem_count() / 2];
    let together = (MIN_PER_THREAD / size).max(1);
    with_numbers(&[x], |numbers| {
        output
            .par_chunks_mut(together * size)
            .zip(numbers[0].par_chunks(together * both))
            .for_each(|(output, rows)| {
                for (output, row) in output.chunks_exact_mut(size).zip(rows.chunks_exact(both)) {
                    cpu::math::silu_product(output, &row[..size], &row[size..]);
                }
            });
    })?;
    let mut shape = x.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = size;
    }
    Tensor::from_vec(output, shape, x.device())
}

/// The `count` largest numbers of every row, falling: `[.., size]` to `[.., count]`.
///
/// # Errors
/// Rows have fewer numbers, or the device fails.
pub fn largest(x: &Tensor, count: usize) -> Result<Tensor> {
    let size = x.dim(D::Minus1)?;
    if count > size {
        candle_core::bail!("the {count} largest of {size}");
    }
    if count == 1 && size > 0 {
        return largest_of_rows(x);
    }
    if !fused(&[x]) || count == 0 {
        let (sorted, _) = x.contiguous()?.sort_last_dim(false)?;
        return sorted.narrow(D::Minus1, 0, count);
    }
    let mut output = vec![f32::NEG_INFINITY; x.elem_count() / size * count];
    with_numbers(&[x], |numbers| {
        let rows = numbers[0].chunks_exact(size);
        for (most, row) in output.chunks_exact_mut(count).zip(rows) {
            for &number in row {
                if number <= most[count - 1] {
                    continue;
                }
                let place = most.partition_point(|other| *other >= number);
                most[place..].rotate_right(1);
                most[place] = number;
            }
        }
    })?;
    let mut shape = x.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = count;
    }
    Tensor::from_vec(output, shape, x.device())
}

/// The largest number of every row: `[.., size]` to `[.., 1]`.
fn largest_of_rows(x: &Tensor) -> Result<Tensor> {
    if !fused(&[x]) {
        return x.max_keepdim(D::Minus1);
    }
    let size = x.dim(D::Minus1)?;
    let mut output = vec![0.0; x.elem_count() / size];
    let together = (MIN_PER_THREAD / size).max(1);
    with_numbers(&[x], |numbers| {
        output
            .par_chunks_mut(together)
            .zip(numbers[0].par_chunks(together * size))
            .for_each(|(output, rows)| cpu::math::largest_of_rows(output, rows, size));
    })?;
    let mut shape = x.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = 1;
    }
    Tensor::from_vec(output, shape, x.device())
}

/// The cells of all `levels`, `[batch, channels, height, width]` each, one level after the other:
/// `[batch, cells, channels]`.
///
/// # Errors
/// The shapes do not fit, or the device fails.
pub fn cells_to_rows(levels: &[&Tensor]) -> Result<Tensor> {
    let Some(first) = levels.first() else {
        candle_core::bail!("no levels to make rows of");
    };
    let (batch, channels, _, _) = first.dims4()?;
    let mut sizes = Vec::with_capacity(levels.len());
    for level in levels {
        let (other_batch, other_channels, height, width) = level.dims4()?;
        if (other_batch, other_channels) != (batch, channels) {
            candle_core::bail!(
                "levels {:?} and {:?} do not fit",
                first.dims(),
                level.dims()
            );
        }
        sizes.push(height * width);
    }
    let cells: usize = sizes.iter().sum();
    if !fused(levels) || cells * channels == 0 {
        let mut flat = Vec::with_capacity(levels.len());
        for level in levels {
            flat.push(level.flatten_from(2)?.transpose(1, 2)?);
        }
        return Tensor::cat(&flat, 1)?.contiguous();
    }
    let mut output = vec![0.0_f32; batch * cells * channels];
    with_numbers(levels, |numbers| {
        for (image, mut rest) in output.chunks_exact_mut(cells * channels).enumerate() {
            for (level, &size) in numbers.iter().zip(&sizes) {
                let (rows, more) = rest.split_at_mut(size * channels);
                rest = more;
                let planes = &level[image * channels * size..(image + 1) * channels * size];
                transpose(planes, rows, size);
            }
        }
    })?;
    Tensor::from_vec(output, (batch, cells, channels), first.device())
}

/// The way back from [`cells_to_rows`] for one level of `height` × `width`.
///
/// # Errors
/// The shape does not fit, or the device fails.
pub fn rows_to_cells(x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    let (batch, cells, channels) = x.dims3()?;
    if cells != height * width {
        candle_core::bail!("{cells} rows are no {height}×{width} cells");
    }
    let shape = (batch, channels, height, width);
    if !fused(&[x]) || cells * channels == 0 {
        return x.transpose(1, 2)?.contiguous()?.reshape(shape);
    }
    let mut output = vec![0.0_f32; batch * cells * channels];
    with_numbers(&[x], |numbers| {
        let images = numbers[0].chunks_exact(cells * channels);
        for (output, rows) in output.chunks_exact_mut(cells * channels).zip(images) {
            transpose(rows, output, channels);
        }
    })?;
    Tensor::from_vec(output, shape, x.device())
}

/// From rows of `columns` numbers to columns of them.
fn transpose(from: &[f32], to: &mut [f32], columns: usize) {
    /// Columns that a thread takes at a time: lines of both are read and written whole.
    const TOGETHER: usize = 4 * square::SIDE;
    let rows = from.len() / columns;
    let bands = to.par_chunks_mut(TOGETHER * rows).enumerate();
    bands.for_each(|(band, to)| {
        let first = band * TOGETHER;
        square::transpose(&from[first..], columns, (rows, to.len() / rows), to, rows);
    });
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::testing::made_up;

    fn tensor(shape: &[usize]) -> Tensor {
        let numbers = made_up("rows.weight", shape);
        let x = Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap();
        (x * 3.0).unwrap()
    }

    /// The same, but with gradients, so that candle's operations run: the yardstick.
    fn tracked(x: &Tensor) -> Tensor {
        Var::from_tensor(x).unwrap().as_tensor().clone()
    }

    fn assert_same(found: &Tensor, expected: &Tensor) {
        assert_eq!(found.dims(), expected.dims());
        let off = (found - expected).unwrap().abs().unwrap();
        let off = off.flatten_all().unwrap().max(0).unwrap();
        let off = off.to_scalar::<f32>().unwrap();
        assert!(off < 1e-6, "{off}");
    }

    #[test]
    fn one_pass_gives_what_candle_gives() {
        for shape in [[1, 1, 2], [2, 7, 34], [3, 150, 256]] {
            let x = tensor(&shape);
            let expected = silu_gated(&tracked(&x)).unwrap();
            assert_same(&silu_gated(&x).unwrap(), &expected);
            for count in 1..=4.min(shape[2]) {
                let expected = largest(&tracked(&x), count).unwrap();
                assert_same(&largest(&x, count).unwrap(), &expected);
            }
        }
        for (height, width) in [(1, 1), (3, 5), (17, 16), (20, 33)] {
            let (a, b) = (tensor(&[2, 19, height, width]), tensor(&[2, 19, 2, 3]));
            let expected = cells_to_rows(&[&tracked(&a), &tracked(&b)]).unwrap();
            assert_same(&cells_to_rows(&[&a, &b]).unwrap(), &expected);
            let rows = cells_to_rows(&[&a]).unwrap();
            assert_same(&rows_to_cells(&rows, height, width).unwrap(), &a);
            let expected = rows_to_cells(&tracked(&rows), height, width).unwrap();
            assert_same(&expected, &a);
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_errors() {
        assert!(silu_gated(&tensor(&[2, 3])).is_err());
        assert!(largest(&tensor(&[2, 3]), 4).is_err());
        assert!(cells_to_rows(&[]).is_err());
        let (a, b) = (tensor(&[1, 2, 2, 2]), tensor(&[1, 3, 2, 2]));
        assert!(cells_to_rows(&[&a, &b]).is_err());
        assert!(rows_to_cells(&tensor(&[1, 5, 2]), 2, 2).is_err());
    }
}
