//! Readers of foreign weights files. None executes anything; all memory is bounded by the file.
//!
//! [`Checkpoint::open`] recognises the format by its first bytes and gives the tensors' names,
//! shapes and types; numbers are read tensor by tensor when they are asked for.

pub mod onnx;
pub mod pickle;
pub mod protobuf;
pub mod safetensors;
pub mod torch;
pub mod torch_legacy;
pub mod torch_zip;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use half::{bf16, f16};

use crate::{Error, Malformed, Result};
use onnx::{OnnxModel, Values};

/// Most tensors in one file.
pub const MAX_TENSORS: usize = 100_000;

/// Most dimensions of one tensor.
pub const MAX_RANK: usize = 16;

/// Most numbers in one tensor: 8 GiB of f32.
pub const MAX_ELEMENTS: usize = 1 << 31;

/// How numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the names say it
pub enum Dtype {
    F64,
    F32,
    F16,
    Bf16,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
}

impl Dtype {
    /// Bytes of one number.
    pub fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::Bf16 | Self::I16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    /// Whether the numbers are floats: weights are, counters and indices are not.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::F16 | Self::Bf16)
    }

    /// The little-endian number in `bytes`, which has [`Self::size`] bytes.
    fn decode(self, bytes: &[u8]) -> f32 {
        match (self, bytes) {
            (Self::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
            (Self::F16, &[a, b]) => f16::from_le_bytes([a, b]).to_f32(),
            (Self::Bf16, &[a, b]) => bf16::from_le_bytes([a, b]).to_f32(),
            (Self::F64, &[a, b, c, d, e, f, g, h]) => {
                f64::from_le_bytes([a, b, c, d, e, f, g, h]) as f32
            }
            (Self::I64, &[a, b, c, d, e, f, g, h]) => {
                i64::from_le_bytes([a, b, c, d, e, f, g, h]) as f32
            }
            (Self::I32, &[a, b, c, d]) => i32::from_le_bytes([a, b, c, d]) as f32,
            (Self::I16, &[a, b]) => f32::from(i16::from_le_bytes([a, b])),
            (Self::I8, &[a]) => f32::from(a.cast_signed()),
            (Self::U8 | Self::Bool, &[a]) => f32::from(a),
            _ => f32::NAN, // not reached: callers cut pieces of `size` bytes
        }
    }
}

/// Name, shape and type of a stored tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// How its numbers are stored.
    pub dtype: Dtype,
}

/// Of which kind a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// PyTorch's zip archive.
    TorchZip,
    /// PyTorch's format before 1.6.
    TorchLegacy,
    /// Safetensors.
    Safetensors,
    /// ONNX.
    Onnx,
}

impl Format {
    /// The name for messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::TorchZip => "PyTorch (zip)",
            Self::TorchLegacy => "PyTorch (legacy)",
            Self::Safetensors => "safetensors",
            Self::Onnx => "ONNX",
        }
    }
}

/// What a file says besides its tensors.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// Class names by index.
    pub classes: Option<Vec<String>>,
    /// Epsilon of the batch norms, where modules are stored with their settings.
    pub batch_norm_eps: Option<f64>,
    /// Side of the square training image in pixels.
    pub image_size: Option<usize>,
    /// Class of the stored module, for example `RTDETRDetectionModel`.
    pub module: Option<String>,
    /// Licence of the weights.
    pub licence: Option<String>,
    /// The file's own text metadata (safetensors).
    pub metadata: HashMap<String, String>,
}

/// An open weights file.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    format: Format,
    tensors: BTreeMap<String, TensorInfo>,
    facts: Facts,
    graph: Option<OnnxModel>,
    data: Data,
}

/// Where the numbers are.
#[derive(Debug)]
enum Data {
    File {
        file: File,
        places: HashMap<String, Place>,
        /// Where the file holds checksums: of whole regions, checked once.
        checksums: HashMap<u64, (u64, u32)>,
    },
    Graph,
    Memory(HashMap<String, Vec<f32>>),
}

/// Where the numbers of a tensor stand in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// Byte offset of the storage in the file.
    pub start: u64,
    /// First number of the tensor within the storage.
    pub offset: u64,
    /// Step between neighbours of each dimension, in numbers.
    pub strides: Vec<u64>,
}

impl Checkpoint {
    /// Opens a file; its format is recognised by its first bytes.
    ///
    /// # Errors
    /// The file cannot be read, is of no known format, is cut short or damaged.
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(Error::io(path))?;
        let mut head = [0_u8; 16];
        let mut length = 0;
        while length < head.len() {
            match file.read(&mut head[length..]).map_err(Error::io(path))? {
                0 => break,
                count => length += count,
            }
        }
        file.seek(SeekFrom::Start(0)).map_err(Error::io(path))?;
        let head = &head[..length];
        let onnx = path
            .extension()
            .is_some_and(|e| e.eq_ignore_ascii_case("onnx"));
        if head.is_empty() {
            Err(Malformed::new("the file is empty").at(path))
        } else if head.starts_with(b"PK\x03\x04") {
            torch_zip::open(path, file)
        } else if torch_legacy::recognise(head) {
            torch_legacy::open(path, file)
        } else if onnx || head[0] == 0x08 {
            let graph = OnnxModel::open(path)?;
            Self::from_graph(path, graph)
        } else if head.get(8) == Some(&b'{') {
            safetensors::open(path, file)
        } else {
            Err(Malformed::new(
                "none of the formats that can be read: PyTorch (.pt, .pth), safetensors, ONNX",
            )
            .at(path))
        }
    }

    /// A checkpoint from memory, for tests.
    pub fn from_memory(path: &Path, tensors: HashMap<String, (Vec<usize>, Vec<f32>)>) -> Self {
        let mut infos = BTreeMap::new();
        let mut values = HashMap::new();
        for (name, (shape, numbers)) in tensors {
            let dtype = Dtype::F32;
            infos.insert(name.clone(), TensorInfo { shape, dtype });
            values.insert(name, numbers);
        }
        Self {
            path: path.to_path_buf(),
            format: Format::Safetensors,
            tensors: infos,
            facts: Facts::default(),
            graph: None,
            data: Data::Memory(values),
        }
    }

    fn from_graph(path: &Path, graph: OnnxModel) -> Result<Self> {
        let mut tensors = BTreeMap::new();
        for (name, tensor) in &graph.initializers {
            let dtype = match tensor.values {
                Values::Float(_) => Dtype::F32,
                Values::Int(_) => Dtype::I64,
            };
            let shape = tensor.shape.clone();
            tensors.insert(name.clone(), TensorInfo { shape, dtype });
        }
        Ok(Self {
            path: path.to_path_buf(),
            format: Format::Onnx,
            tensors,
            facts: Facts::default(),
            graph: Some(graph),
            data: Data::Graph,
        })
    }

    /// A checkpoint whose numbers stand in `file`; tensors and their places are already checked
    /// to lie within it. `checksums`: start of a region to its length and CRC-32.
    pub(crate) fn from_file(
        path: &Path,
        format: Format,
        file: File,
        tensors: Vec<(String, TensorInfo, Place)>,
        checksums: HashMap<u64, (u64, u32)>,
        facts: Facts,
    ) -> Result<Self> {
        let mut infos = BTreeMap::new();
        let mut places = HashMap::new();
        for (name, info, place) in tensors {
            if infos.insert(name.clone(), info).is_some() {
                return Err(Error::tensor(path, &name, "is in the file twice"));
            }
            places.insert(name, place);
        }
        Ok(Self {
            path: path.to_path_buf(),
            format,
            tensors: infos,
            facts,
            graph: None,
            data: Data::File {
                file,
                places,
                checksums,
            },
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The tensors by name.
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    /// What the file says besides.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The graph of an ONNX file.
    pub fn graph(&self) -> Option<&OnnxModel> {
        self.graph.as_ref()
    }

    /// The numbers of a tensor, row-major, as f32.
    ///
    /// # Errors
    /// There is no such tensor, the file cannot be read, or its checksum is wrong.
    pub fn read(&mut self, name: &str) -> Result<Vec<f32>> {
        let missing = |path: &Path| Error::tensor(path, name, "is not in the file");
        let Some(info) = self.tensors.get(name) else {
            return Err(missing(&self.path));
        };
        match &mut self.data {
            Data::Memory(values) => {
                let values = values.get(name).cloned();
                values.ok_or_else(|| missing(&self.path))
            }
            Data::Graph => {
                let tensor = self.graph.as_ref().and_then(|g| g.initializers.get(name));
                match tensor.map(|tensor| &tensor.values) {
                    Some(Values::Float(values)) => Ok(values.clone()),
                    Some(Values::Int(values)) => Ok(values.iter().map(|v| *v as f32).collect()),
                    None => Err(missing(&self.path)),
                }
            }
            Data::File {
                file,
                places,
                checksums,
            } => {
                let place = places.get(name).ok_or_else(|| missing(&self.path))?;
                let checksum = checksums.remove(&place.start);
                read_place(file, info, place, checksum)
                    .map_err(|fault| Error::tensor(&self.path, name, fault.to_string()))
            }
        }
    }
}

/// How many numbers a shape stands for.
///
/// # Errors
/// Too many dimensions, or more numbers than any network has in one tensor.
pub fn count_elements(shape: &[usize]) -> Result<usize, Malformed> {
    let absurd = || Malformed(format!("its shape {shape:?} is absurd"));
    if shape.len() > MAX_RANK {
        return Err(Malformed(format!("has {} dimensions", shape.len())));
    }
    let mut count = 1_usize;
    for dim in shape {
        // A later zero must not hide an absurd product.
        count = count.checked_mul((*dim).max(1)).ok_or_else(absurd)?;
    }
    if count > MAX_ELEMENTS {
        return Err(absurd());
    }
    Ok(if shape.contains(&0) { 0 } else { count })
}

/// One past the last number of its storage that a tensor touches.
///
/// # Errors
/// As [`count_elements`]; or strides whose sum overflows.
pub(crate) fn extent(shape: &[usize], offset: u64, strides: &[u64]) -> Result<u64, Malformed> {
    if shape.len() != strides.len() {
        return Err(Malformed(format!(
            "has {} dimensions and {} strides",
            shape.len(),
            strides.len()
        )));
    }
    if count_elements(shape)? == 0 {
        return Ok(offset);
    }
    let mut last = offset;
    for (dim, stride) in shape.iter().zip(strides) {
        let step = (*dim as u64 - 1).checked_mul(*stride);
        last = step
            .and_then(|step| last.checked_add(step))
            .ok_or_else(|| Malformed::new("its strides are absurd"))?;
    }
    last.checked_add(1)
        .ok_or_else(|| Malformed::new("its strides are absurd"))
}

/// Strides of a row-major tensor.
pub(crate) fn row_major(shape: &[usize]) -> Vec<u64> {
    let mut strides = vec![1_u64; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis].saturating_mul(shape[axis] as u64);
    }
    strides
}

/// Bytes that are read at a time.
const CHUNK: usize = 1 << 20;

fn read_place(
    file: &mut File,
    info: &TensorInfo,
    place: &Place,
    checksum: Option<(u64, u32)>,
) -> std::io::Result<Vec<f32>> {
    let invalid = |fault: Malformed| std::io::Error::new(std::io::ErrorKind::InvalidData, fault);
    if let Some((length, expected)) = checksum {
        check_sum(file, place.start, length, expected)?;
    }
    let count = count_elements(&info.shape).map_err(invalid)?;
    if count == 0 {
        return Ok(Vec::new());
    }
    let size = info.dtype.size();
    let start = place.start + place.offset * size as u64;
    if place.strides == row_major(&info.shape) {
        return read_numbers(file, start, count, info.dtype);
    }
    // Transposed or otherwise strided: the span is read, then gathered. Expanded tensors (stride
    // 0) have a short span, all others one that lies within the file.
    let end = extent(&info.shape, 0, &place.strides).map_err(invalid)?;
    let span = read_numbers(file, start, end as usize, info.dtype)?;
    let mut values = Vec::with_capacity(count);
    let mut index = vec![0_usize; info.shape.len()];
    for _ in 0..count {
        let at: u64 = index
            .iter()
            .zip(&place.strides)
            .map(|(i, s)| *i as u64 * s)
            .sum();
        values.push(span.get(at as usize).copied().unwrap_or(f32::NAN));
        for axis in (0..index.len()).rev() {
            index[axis] += 1;
            if index[axis] < info.shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    Ok(values)
}

/// `count` numbers from byte `start` on. Memory grows with what is really read.
fn read_numbers(
    file: &mut File,
    start: u64,
    count: usize,
    dtype: Dtype,
) -> std::io::Result<Vec<f32>> {
    file.seek(SeekFrom::Start(start))?;
    let size = dtype.size();
    let mut values = Vec::new();
    let mut buffer = vec![0_u8; CHUNK.min(count * size)];
    while values.len() < count {
        let wanted = (count - values.len()).min(CHUNK / size) * size;
        file.read_exact(&mut buffer[..wanted])?;
        values.extend(buffer[..wanted].chunks_exact(size).map(|b| dtype.decode(b)));
    }
    Ok(values)
}

fn check_sum(file: &mut File, start: u64, length: u64, expected: u32) -> std::io::Result<()> {
    file.seek(SeekFrom::Start(start))?;
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0_u8; CHUNK];
    let mut left = length;
    while left > 0 {
        let wanted = left.min(CHUNK as u64) as usize;
        file.read_exact(&mut buffer[..wanted])?;
        hasher.update(&buffer[..wanted]);
        left -= wanted as u64;
    }
    let found = hasher.finalize();
    if found != expected {
        return Err(std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            format!("its checksum is {found:08x}, the file says {expected:08x}: damaged"),
        ));
    }
    Ok(())
}
