//! Launches of kernels as plain data, whatever runs them.

use candle_core::{DType, Result};

/// What a program does with a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Given, and not changed.
    Input,
    /// Wanted; what it holds before is undefined.
    Output,
    /// Only between launches.
    Scratch,
}

/// A buffer on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffer {
    /// Type of its numbers.
    pub dtype: DType,
    /// How many there are, at least.
    pub count: usize,
    /// What it is for.
    pub role: Role,
}

/// An argument of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arg {
    /// The address of a buffer, by its index in the program.
    Buffer(usize),
    /// The address of nothing.
    Null,
    /// A number of 32 bits, or a structure of such.
    Words(Vec<u32>),
}

impl Arg {
    /// A whole number.
    pub fn u32(value: u32) -> Self {
        Self::Words(vec![value])
    }

    /// A number.
    pub fn f32(value: f32) -> Self {
        Self::Words(vec![value.to_bits()])
    }
}

/// One launch of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// The file that holds it, without `.cu`.
    pub module: &'static str,
    /// Its exported name.
    pub kernel: String,
    /// Blocks along x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block along x, y, z.
    pub block: [u32; 3],
    /// What it is given, in order.
    pub args: Vec<Arg>,
}

/// Launches one after the other on common buffers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Program {
    /// Inputs first, in the order in which they are given.
    pub buffers: Vec<Buffer>,
    /// What runs.
    pub launches: Vec<Launch>,
}

impl Program {
    /// Adds a buffer and returns its index as an argument.
    pub fn buffer(&mut self, dtype: DType, count: usize, role: Role) -> Arg {
        self.buffers.push(Buffer { dtype, count, role });
        Arg::Buffer(self.buffers.len() - 1)
    }

    /// Adds an input.
    pub fn input(&mut self, dtype: DType, count: usize) -> Arg {
        self.buffer(dtype, count, Role::Input)
    }

    /// Adds an input that is not always there.
    pub fn optional(&mut self, there: bool, dtype: DType, count: usize) -> Arg {
        if there {
            self.input(dtype, count)
        } else {
            Arg::Null
        }
    }

    /// Adds an output.
    pub fn output(&mut self, dtype: DType, count: usize) -> Arg {
        self.buffer(dtype, count, Role::Output)
    }

    /// Indices of the buffers of a role.
    pub fn of_role(&self, role: Role) -> impl Iterator<Item = (usize, Buffer)> + '_ {
        let buffers = self.buffers.iter().copied().enumerate();
        buffers.filter(move |(_, buffer)| buffer.role == role)
    }
}

/// The ending of the names of a type's kernels.
///
/// # Errors
/// There are no kernels for the type.
pub fn suffix(dtype: DType) -> Result<&'static str> {
    match dtype {
        DType::F32 => Ok("f32"),
        DType::F16 => Ok("f16"),
        DType::BF16 => Ok("bf16"),
        _ => candle_core::bail!("no CUDA kernels for {dtype:?}"),
    }
}

/// A count as the kernels want it: with room for indices behind the end.
///
/// # Errors
/// It is 0 or too large.
pub fn count(value: usize) -> Result<u32> {
    match u32::try_from(value) {
        Ok(small) if small > 0 && small <= i32::MAX as u32 => Ok(small),
        _ => candle_core::bail!("{value} numbers are none or too many for a CUDA kernel"),
    }
}

/// Blocks of `size` that `total` numbers need, along y or z of a grid.
///
/// # Errors
/// More than a grid takes.
pub fn tiles(total: usize, size: u32) -> Result<u32> {
    let tiles = count(total)?.div_ceil(size);
    if tiles > 65_535 {
        candle_core::bail!("{total} numbers are too many along one side of a CUDA grid");
    }
    Ok(tiles)
}

#[cfg(test)]
mod tests {
    use super::*;

    // CUDA's limits: grids of 2³¹ − 1 by 65,535 by 65,535 blocks.
    #[test]
    fn counts_that_no_grid_takes_are_errors() {
        assert_eq!(count(7).unwrap(), 7);
        for wrong in [0, 1 << 31, 1 << 40] {
            assert!(count(wrong).is_err(), "{wrong}");
        }
        assert_eq!(tiles(65_535 * 256, 256).unwrap(), 65_535);
        assert!(tiles(65_535 * 256 + 1, 256).is_err());
        assert!(suffix(DType::F64).is_err());
    }
}
