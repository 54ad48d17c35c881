//! Every kernel against its CPU twin, over random shapes and all types: what `mtmc doctor` shows of
//! a GPU, and what the tests run in the emulator.

use candle_core::{DType, Device, Result, Tensor};
use half::{bf16, f16};

use super::program::Program;
use super::{programs, resize};
use crate::layers::Conv;
use crate::testing::made_up;

mod gradients;
mod images;
mod lists;
mod networks;

/// Something that runs programs.
pub trait Executor {
    /// Runs `program` on flat tensors of the CPU; the outputs are flat and on the CPU too.
    ///
    /// # Errors
    /// Inputs that do not fit, or a failure of the device.
    fn run(&self, program: &Program, inputs: &[Tensor]) -> Result<Vec<Tensor>>;
}

/// How far a kernel is from its twin.
#[derive(Debug, Clone, PartialEq)]
pub struct Check {
    /// What was compared.
    pub kernel: &'static str,
    /// Type of the numbers.
    pub dtype: DType,
    /// Random cases that were compared.
    pub cases: usize,
    /// The largest difference, as a part of the largest number expected (of 1 if that is smaller).
    pub worst: f64,
    /// The largest that is accepted.
    pub limit: f64,
}

impl Check {
    /// Whether the kernel does what it is to do.
    pub fn passed(&self) -> bool {
        self.worst <= self.limit
    }
}

/// One case of a kernel: its difference from its twin.
type Case = fn(&mut Draw, DType, &dyn Executor) -> Result<f64>;

/// Name, types, whether equal to the last bit (in f32, where types matter), one case.
const KERNELS: [(&str, &[DType], bool, Case); 25] = [
    ("deformable", FLOATS, false, networks::deformable),
    ("depthwise", FLOATS, false, networks::depthwise),
    ("convolution", FLOATS, false, networks::convolution),
    (
        "implicit",
        &[DType::F16, DType::BF16],
        false,
        networks::implicit,
    ),
    ("epilogue", FLOATS, false, networks::epilogue),
    ("layer_norm", FLOATS, false, networks::layer_norm),
    ("softmax", FLOATS, false, networks::softmax),
    ("means", FLOATS, false, networks::means),
    ("max_pool", FLOATS, true, networks::max_pool),
    ("gated_sum", FLOATS, false, networks::gated_sum),
    ("attention", FLOATS, false, networks::attention),
    ("fold", FLOATS, false, gradients::fold),
    (
        "columns together",
        FLOATS,
        true,
        gradients::columns_together,
    ),
    ("depthwise gradients", FLOATS, false, gradients::depthwise),
    ("deformable gradients", FLOATS, false, gradients::deformable),
    ("deformable extremes", FLOATS, false, gradients::extremes),
    (
        "convolution gradients",
        &[DType::F32],
        false,
        gradients::convolution,
    ),
    ("top_k", FLOATS, true, lists::top_k),
    ("best", FLOATS, true, lists::best),
    ("suppression", &[DType::F32], true, lists::suppression),
    ("products", FLOATS, false, lists::products),
    ("nearest", &[DType::F32], true, lists::nearest),
    ("resize PIL bilinear", FLOATS, true, images::pil_bilinear),
    ("resize PIL bicubic", FLOATS, true, images::pil_bicubic),
    ("resize OpenCV", FLOATS, true, images::opencv),
];

const FLOATS: &[DType] = &[DType::F32, DType::F16, DType::BF16];

/// Compares all kernels with their twins in `cases` random cases a kernel and type.
///
/// # Errors
/// The device fails.
pub fn all(executor: &dyn Executor, cases: usize) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    for (kernel, dtypes, exact, case) in KERNELS {
        for &dtype in dtypes {
            let mut worst = 0.0_f64;
            for index in 0..cases {
                let name = format!("{kernel} {dtype:?} {index}");
                worst = worst.max(case(&mut Draw { name, draws: 0 }, dtype, executor)?);
            }
            checks.push(Check {
                kernel,
                dtype,
                cases,
                worst,
                limit: limit(dtype, exact),
            });
        }
    }
    Ok(checks)
}

/// Sums in another order cost some last places of f32; the shorter types are rounded once, to half
/// of their last place: 2⁻¹² of a number's size in f16 and 2⁻⁹ in bf16, and nearly twice that of the
/// smallest number of that exponent.
fn limit(dtype: DType, exact: bool) -> f64 {
    match (dtype, exact) {
        (DType::F16, false) => 1e-3,
        (DType::BF16, false) => 6e-3,
        (_, false) => 1e-5,
        (_, true) => 0.0,
    }
}

/// Made-up sizes and numbers of one case.
struct Draw {
    name: String,
    draws: usize,
}

impl Draw {
    /// Numbers in ±1.
    fn numbers(&mut self, count: usize) -> Vec<f32> {
        self.draws += 1;
        let name = format!("{} {} bias", self.name, self.draws);
        let tenths = made_up(&name, &[count]);
        tenths.into_iter().map(|number| number * 10.0).collect()
    }

    /// A number from `low` to `high`, both included.
    fn size(&mut self, low: usize, high: usize) -> usize {
        let part = f64::midpoint(f64::from(self.numbers(1)[0]), 1.0).clamp(0.0, 1.0);
        (low + (part * (high - low + 1) as f64) as usize).min(high)
    }

    fn coin(&mut self) -> bool {
        self.numbers(1)[0] > 0.0
    }

    /// Numbers in ±1 as the kernel gets them, rounded to its type.
    fn given(&mut self, count: usize, dtype: DType) -> Result<Given> {
        let numbers = self.numbers(count);
        Given::new(numbers, dtype)
    }
}

/// Numbers as a kernel gets them, and the same as its twin does.
struct Given {
    /// Flat, in the kernel's type.
    narrow: Tensor,
    /// Flat, in f32.
    wide: Tensor,
}

impl Given {
    fn new(numbers: Vec<f32>, dtype: DType) -> Result<Self> {
        let count = numbers.len();
        let narrow = Tensor::from_vec(numbers, count, &Device::Cpu)?.to_dtype(dtype)?;
        let wide = narrow.to_dtype(DType::F32)?;
        Ok(Self { narrow, wide })
    }

    /// For the twin.
    fn shaped(&self, shape: &[usize]) -> Result<Tensor> {
        self.wide.reshape(shape)
    }
}

/// The only output of a program with these inputs.
fn run_one(executor: &dyn Executor, program: &Program, inputs: &[&Given]) -> Result<Tensor> {
    let inputs: Vec<Tensor> = inputs.iter().map(|given| given.narrow.clone()).collect();
    one(executor.run(program, &inputs)?)
}

fn one(outputs: Vec<Tensor>) -> Result<Tensor> {
    match outputs.into_iter().next() {
        Some(output) => Ok(output),
        None => candle_core::bail!("a program without an output"),
    }
}

/// The largest difference, as [`Check::worst`] has it; infinity if one is NaN and the other not.
fn difference(found: &Tensor, expected: &Tensor) -> Result<f64> {
    let found = found.to_dtype(DType::F32)?.to_vec1::<f32>()?;
    let expected = expected.flatten_all()?.to_dtype(DType::F32)?;
    let expected = expected.to_vec1::<f32>()?;
    if found.len() != expected.len() {
        return Ok(f64::INFINITY);
    }
    let mut scale = 1.0_f64;
    let mut worst = 0.0_f64;
    for (found, expected) in found.into_iter().zip(expected) {
        if expected.is_finite() {
            scale = scale.max(f64::from(expected.abs()));
        }
        let off = f64::from(found) - f64::from(expected);
        if found.to_bits() == expected.to_bits() || found == expected {
            continue;
        }
        if off.is_nan() {
            return Ok(f64::INFINITY);
        }
        worst = worst.max(off.abs());
    }
    Ok(worst / scale)
}

/// Numbers as bytes, in the order of little-endian machines.
///
/// # Errors
/// The type is not one that kernels take.
pub fn bytes_of(tensor: &Tensor) -> Result<Vec<u8>> {
    let flat = tensor.flatten_all()?;
    let mut bytes = Vec::new();
    match flat.dtype() {
        DType::U8 => bytes = flat.to_vec1::<u8>()?,
        DType::U32 => each(&flat.to_vec1::<u32>()?, &mut bytes, u32::to_le_bytes),
        DType::F32 => each(&flat.to_vec1::<f32>()?, &mut bytes, f32::to_le_bytes),
        DType::F16 => each(&flat.to_vec1::<f16>()?, &mut bytes, f16::to_le_bytes),
        DType::BF16 => each(&flat.to_vec1::<bf16>()?, &mut bytes, bf16::to_le_bytes),
        dtype => candle_core::bail!("no kernel takes {dtype:?}"),
    }
    Ok(bytes)
}

fn each<T: Copy, const N: usize>(numbers: &[T], bytes: &mut Vec<u8>, of: impl Fn(T) -> [u8; N]) {
    for &number in numbers {
        bytes.extend(of(number));
    }
}
