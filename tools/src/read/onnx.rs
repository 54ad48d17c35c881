//! ONNX files: the graph's nodes and initialisers.
//!
//! Field numbers are those of `onnx.proto` (<https://github.com/onnx/onnx>, IR version 8 to 12).
//! Exporters fold batch norms and rename initialisers (`onnx::Conv_123`), so that a mapping has to
//! follow the nodes: their names (`/model/backbone/stem/stem1/conv/Conv`) carry the module's path.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;

use half::{bf16, f16};

use super::protobuf::{Fields, Value, varint};
use crate::{Error, Malformed, Result};

/// Largest file that is read: protocol buffers end there.
const MAX_FILE_BYTES: u64 = 1 << 31;

/// Most nodes, names, attributes and attribute numbers in one file, together.
const MAX_ITEMS: usize = 1_000_000;

/// Most integers in one file's initialisers and constants: shapes and indices need few.
const MAX_INTEGERS: usize = 1 << 22;

/// Most dimensions of one tensor.
const MAX_RANK: usize = 16;

/// The numbers of a tensor.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// Stored as f32, f16, bf16 or f64.
    Float(Vec<f32>),
    /// Stored as any integer or as booleans.
    Int(Vec<i64>),
}

/// A tensor of an ONNX file, row-major.
#[derive(Clone, PartialEq)]
pub struct OnnxTensor {
    /// Its dimensions; empty for a single number.
    pub shape: Vec<usize>,
    /// As many numbers as the shape says.
    pub values: Values,
}

impl OnnxTensor {
    /// The numbers of a float tensor; `None` for one of integers.
    pub fn floats(&self) -> Option<&[f32]> {
        match &self.values {
            Values::Float(values) => Some(values),
            Values::Int(_) => None,
        }
    }

    /// The numbers of an integer tensor; `None` for one of floats.
    pub fn ints(&self) -> Option<&[i64]> {
        match &self.values {
            Values::Int(values) => Some(values),
            Values::Float(_) => None,
        }
    }
}

impl fmt::Debug for OnnxTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.values {
            Values::Float(_) => "float",
            Values::Int(_) => "int",
        };
        write!(f, "OnnxTensor({kind} {:?})", self.shape)
    }
}

/// The value of a node's attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum Attribute {
    /// One float.
    Float(f32),
    /// One integer.
    Int(i64),
    /// A string.
    Text(String),
    /// A tensor (the value of a `Constant`).
    Tensor(OnnxTensor),
    /// Floats.
    Floats(Vec<f32>),
    /// Integers (kernel shape, pads, strides).
    Ints(Vec<i64>),
    /// Something else: strings, tensors, subgraphs.
    Other,
}

/// One operation of the graph.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Its name, for example `/model/backbone/stem/stem1/conv/Conv`; may be empty.
    pub name: String,
    /// The operation, for example `Conv`.
    pub op_type: String,
    /// Names of the values it takes; an empty name stands for an optional one left out.
    pub inputs: Vec<String>,
    /// Names of the values it makes.
    pub outputs: Vec<String>,
    /// Attributes by name.
    pub attributes: BTreeMap<String, Attribute>,
}

impl Node {
    /// The integer attribute `name`.
    pub fn int(&self, name: &str) -> Option<i64> {
        match self.attributes.get(name) {
            Some(Attribute::Int(value)) => Some(*value),
            _ => None,
        }
    }
}

/// What an ONNX file holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct OnnxModel {
    /// Nodes in the file's (topological) order.
    pub nodes: Vec<Node>,
    /// Initialisers by name.
    pub initializers: BTreeMap<String, OnnxTensor>,
    /// Names of the graph's inputs.
    pub inputs: Vec<String>,
    /// Names of the graph's outputs.
    pub outputs: Vec<String>,
    /// What the exporter noted: key and value.
    pub metadata_props: BTreeMap<String, String>,
    /// Exporter's name and version.
    pub producer: String,
}

impl OnnxModel {
    /// Reads a file.
    ///
    /// # Errors
    /// The file cannot be read, is larger than 2 GiB, or is no sound ONNX file; the error names
    /// the file and, where it is about one, the tensor.
    pub fn open(path: &Path) -> Result<Self> {
        let size = std::fs::metadata(path).map_err(Error::io(path))?.len();
        if size > MAX_FILE_BYTES {
            return Err(Malformed::new("an ONNX file cannot be larger than 2 GiB").at(path));
        }
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        Self::parse(&bytes).map_err(|fault| fault.at(path))
    }

    /// Reads the bytes of a file.
    ///
    /// # Errors
    /// The bytes are no sound ONNX file: cut short, damaged, without a graph, or larger in its
    /// parts than any network is.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut model = Self::default();
        let mut budget = Budget::default();
        let mut has_graph = false;
        let mut fields = Fields::new(bytes);
        while let Some((number, value)) = fields.next_field()? {
            match number {
                2 | 3 => {
                    if !model.producer.is_empty() {
                        model.producer.push(' ');
                    }
                    model.producer.push_str(&budget.text(value)?);
                }
                7 => {
                    has_graph = true;
                    parse_graph(value.bytes()?, &mut model, &mut budget)?;
                }
                14 => {
                    let (key, text) = parse_entry(value.bytes()?, &mut budget)?;
                    model.metadata_props.insert(key, text);
                }
                _ => {}
            }
        }
        if !has_graph {
            return Err(Malformed::new("not an ONNX file: it has no graph"));
        }
        Ok(model)
    }

    /// Which node makes a value: the value's name to the node's index.
    pub fn producers(&self) -> HashMap<&str, usize> {
        let mut producers = HashMap::new();
        for (index, node) in self.nodes.iter().enumerate() {
            for output in &node.outputs {
                producers.insert(output.as_str(), index);
            }
        }
        producers
    }

    /// The node called `name`.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == name)
    }
}

/// What may still be allocated for one file.
struct Budget {
    items: usize,
    integers: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            items: MAX_ITEMS,
            integers: MAX_INTEGERS,
        }
    }
}

impl Budget {
    fn items(&mut self, count: usize) -> Result<(), Malformed> {
        self.items = self
            .items
            .checked_sub(count)
            .ok_or_else(|| Malformed::new("the graph has more parts than any network needs"))?;
        Ok(())
    }

    fn integers(&mut self, count: usize) -> Result<(), Malformed> {
        self.integers = self.integers.checked_sub(count).ok_or_else(|| {
            Malformed::new("holds millions of integers; quantised weights are not supported")
        })?;
        Ok(())
    }

    fn text(&mut self, value: Value) -> Result<String, Malformed> {
        self.items(1)?;
        Ok(value.text()?.to_string())
    }
}

fn parse_entry(bytes: &[u8], budget: &mut Budget) -> Result<(String, String), Malformed> {
    let (mut key, mut text) = (String::new(), String::new());
    let mut fields = Fields::new(bytes);
    while let Some((number, value)) = fields.next_field()? {
        match number {
            1 => key = budget.text(value)?,
            2 => text = budget.text(value)?,
            _ => {}
        }
    }
    Ok((key, text))
}

fn parse_graph(bytes: &[u8], model: &mut OnnxModel, budget: &mut Budget) -> Result<(), Malformed> {
    let mut fields = Fields::new(bytes);
    while let Some((number, value)) = fields.next_field()? {
        match number {
            1 => model.nodes.push(parse_node(value.bytes()?, budget)?),
            5 => {
                let (name, tensor) = parse_tensor(value.bytes()?, budget)?;
                if model.initializers.insert(name.clone(), tensor).is_some() {
                    return Err(Malformed::new(format!("tensor `{name}` is there twice")));
                }
            }
            11 => model.inputs.push(parse_value_name(value, budget)?),
            12 => model.outputs.push(parse_value_name(value, budget)?),
            15 => return Err(Malformed::new("sparse initialisers are not supported")),
            _ => {}
        }
    }
    Ok(())
}

fn parse_value_name(value: Value, budget: &mut Budget) -> Result<String, Malformed> {
    let mut name = String::new();
    let mut fields = Fields::new(value.bytes()?);
    while let Some((number, value)) = fields.next_field()? {
        if number == 1 {
            name = budget.text(value)?;
        }
    }
    Ok(name)
}

fn parse_node(bytes: &[u8], budget: &mut Budget) -> Result<Node, Malformed> {
    budget.items(1)?;
    let mut node = Node {
        name: String::new(),
        op_type: String::new(),
        inputs: Vec::new(),
        outputs: Vec::new(),
        attributes: BTreeMap::new(),
    };
    let mut fields = Fields::new(bytes);
    while let Some((number, value)) = fields.next_field()? {
        match number {
            1 => node.inputs.push(budget.text(value)?),
            2 => node.outputs.push(budget.text(value)?),
            3 => node.name = budget.text(value)?,
            4 => node.op_type = budget.text(value)?,
            5 => {
                let (name, attribute) = parse_attribute(value.bytes()?, budget)
                    .map_err(|fault| Malformed(format!("node `{}`: {fault}", node.name)))?;
                node.attributes.insert(name, attribute);
            }
            _ => {}
        }
    }
    Ok(node)
}

fn parse_attribute(bytes: &[u8], budget: &mut Budget) -> Result<(String, Attribute), Malformed> {
    let mut name = String::new();
    let mut attribute = Attribute::Other;
    let (mut floats, mut ints) = (Vec::new(), Vec::new());
    let mut fields = Fields::new(bytes);
    while let Some((number, value)) = fields.next_field()? {
        match number {
            1 => name = budget.text(value)?,
            2 => {
                let Value::Fixed32(bits) = value else {
                    return Err(Malformed::new("a float attribute has another type"));
                };
                attribute = Attribute::Float(f32::from_bits(bits));
            }
            3 => attribute = Attribute::Int(value.int()?),
            4 => {
                budget.items(1)?;
                let text = String::from_utf8_lossy(value.bytes()?);
                attribute = Attribute::Text(text.into_owned());
            }
            5 => attribute = Attribute::Tensor(parse_tensor(value.bytes()?, budget)?.1),
            7 => push_floats(value, &mut floats, MAX_ITEMS)?,
            8 => push_ints(value, &mut ints, MAX_ITEMS)?,
            _ => {}
        }
    }
    budget.items(1 + floats.len() + ints.len())?;
    if !floats.is_empty() {
        attribute = Attribute::Floats(floats);
    } else if !ints.is_empty() {
        attribute = Attribute::Ints(ints);
    }
    Ok((name, attribute))
}

/// Appends the numbers of a repeated float field, packed or single.
fn push_floats(value: Value, out: &mut Vec<f32>, limit: usize) -> Result<(), Malformed> {
    match value {
        Value::Fixed32(bits) => out.push(f32::from_bits(bits)),
        Value::Bytes(bytes) => {
            if bytes.len() % 4 != 0 {
                return Err(Malformed::new("packed floats end inside a number"));
            }
            if bytes.len() / 4 > limit.saturating_sub(out.len()) {
                return Err(Malformed::new("holds more floats than its place needs"));
            }
            out.extend(bytes.chunks_exact(4).map(f32_le));
        }
        _ => return Err(Malformed::new("a list of floats has another type")),
    }
    Ok(())
}

/// Appends the numbers of a repeated integer field, packed or single.
fn push_ints(value: Value, out: &mut Vec<i64>, limit: usize) -> Result<(), Malformed> {
    let too_many = || Malformed::new("holds more integers than its place needs");
    match value {
        Value::Varint(_) if out.len() >= limit => return Err(too_many()),
        Value::Varint(number) => out.push(number.cast_signed()),
        Value::Bytes(mut rest) => {
            while !rest.is_empty() {
                if out.len() >= limit {
                    return Err(too_many());
                }
                out.push(varint(&mut rest)?.cast_signed());
            }
        }
        _ => return Err(Malformed::new("a list of integers has another type")),
    }
    Ok(())
}

/// The parts of a `TensorProto` before they are understood.
#[derive(Default)]
struct RawTensor<'a> {
    name: String,
    dims: Vec<i64>,
    data_type: i64,
    raw: Option<&'a [u8]>,
    floats: Vec<f32>,
    ints: Vec<i64>,
    doubles: Vec<f32>,
    external: bool,
}

fn parse_tensor(bytes: &[u8], budget: &mut Budget) -> Result<(String, OnnxTensor), Malformed> {
    budget.items(1)?;
    let mut raw = RawTensor::default();
    let mut fields = Fields::new(bytes);
    while let Some((number, value)) = fields.next_field()? {
        match number {
            1 => push_ints(value, &mut raw.dims, MAX_RANK)?,
            2 => raw.data_type = value.int()?,
            4 => push_floats(value, &mut raw.floats, usize::MAX)?,
            5 | 7 | 11 => push_ints(value, &mut raw.ints, budget.integers)?,
            8 => raw.name = budget.text(value)?,
            9 => raw.raw = Some(value.bytes()?),
            10 => push_doubles(value, &mut raw.doubles)?,
            13 => raw.external = true,
            14 => raw.external = value.int()? != 0,
            _ => {}
        }
    }
    let name = std::mem::take(&mut raw.name);
    let tensor = finish_tensor(raw, budget)
        .map_err(|fault| Malformed(format!("tensor `{name}`: {fault}")))?;
    Ok((name, tensor))
}

fn push_doubles(value: Value, out: &mut Vec<f32>) -> Result<(), Malformed> {
    match value {
        Value::Fixed64(bits) => out.push(f64::from_bits(bits) as f32),
        Value::Bytes(bytes) if bytes.len() % 8 == 0 => {
            out.extend(bytes.chunks_exact(8).map(f64_le));
        }
        _ => return Err(Malformed::new("a list of doubles has another type")),
    }
    Ok(())
}

fn finish_tensor(raw: RawTensor, budget: &mut Budget) -> Result<OnnxTensor, Malformed> {
    if raw.external {
        return Err(Malformed::new(
            "its numbers lie in another file; save the model as one file",
        ));
    }
    let mut shape = Vec::with_capacity(raw.dims.len());
    let mut count = 1_usize;
    for dim in &raw.dims {
        let dim =
            usize::try_from(*dim).map_err(|_| Malformed(format!("dimension {dim} is negative")))?;
        count = count
            .checked_mul(dim)
            .ok_or_else(|| Malformed(format!("its shape {:?} is absurd", raw.dims)))?;
        shape.push(dim);
    }
    let values = match raw.data_type {
        1 => Values::Float(pick(raw.raw, 4, f32_le, raw.floats)?),
        11 => Values::Float(pick(raw.raw, 8, f64_le, raw.doubles)?),
        10 => Values::Float(pick(
            raw.raw,
            2,
            f16_le,
            halves(&raw.ints, |b| f16::from_bits(b).to_f32()),
        )?),
        16 => Values::Float(pick(
            raw.raw,
            2,
            bf16_le,
            halves(&raw.ints, |b| bf16::from_bits(b).to_f32()),
        )?),
        2 | 9 => int_values(&raw, 1, |b| i64::from(b[0]), budget)?,
        3 => int_values(&raw, 1, |b| i64::from(b[0].cast_signed()), budget)?,
        4 => int_values(
            &raw,
            2,
            |b| i64::from(u16::from_le_bytes([b[0], b[1]])),
            budget,
        )?,
        5 => int_values(
            &raw,
            2,
            |b| i64::from(i16::from_le_bytes([b[0], b[1]])),
            budget,
        )?,
        6 => int_values(&raw, 4, |b| i64::from(i32::from_le_bytes(first(b))), budget)?,
        12 => int_values(&raw, 4, |b| i64::from(u32::from_le_bytes(first(b))), budget)?,
        7 | 13 => int_values(&raw, 8, |b| i64::from_le_bytes(first(b)), budget)?,
        other => {
            return Err(Malformed(format!("its data type {other} is not supported")));
        }
    };
    let found = match &values {
        Values::Float(values) => values.len(),
        Values::Int(values) => values.len(),
    };
    if found != count {
        return Err(Malformed(format!(
            "its shape {shape:?} needs {count} numbers, the file holds {found}"
        )));
    }
    Ok(OnnxTensor { shape, values })
}

/// The numbers from raw bytes if there are some, else those of the typed field.
fn pick(
    raw: Option<&[u8]>,
    width: usize,
    decode: fn(&[u8]) -> f32,
    typed: Vec<f32>,
) -> Result<Vec<f32>, Malformed> {
    let Some(bytes) = raw else {
        return Ok(typed);
    };
    if bytes.len() % width != 0 {
        return Err(Malformed::new("its bytes end inside a number"));
    }
    Ok(bytes.chunks_exact(width).map(decode).collect())
}

/// Half-precision numbers that stand as integers in `int32_data`.
fn halves(bits: &[i64], decode: fn(u16) -> f32) -> Vec<f32> {
    bits.iter().map(|bits| decode(*bits as u16)).collect()
}

fn int_values(
    raw: &RawTensor,
    width: usize,
    decode: fn(&[u8]) -> i64,
    budget: &mut Budget,
) -> Result<Values, Malformed> {
    let Some(bytes) = raw.raw else {
        budget.integers(raw.ints.len())?;
        return Ok(Values::Int(raw.ints.clone()));
    };
    if bytes.len() % width != 0 {
        return Err(Malformed::new("its bytes end inside a number"));
    }
    budget.integers(bytes.len() / width)?;
    Ok(Values::Int(bytes.chunks_exact(width).map(decode).collect()))
}

/// The first `N` bytes; callers cut their chunks to at least that.
fn first<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[..N]);
    out
}

fn f32_le(bytes: &[u8]) -> f32 {
    f32::from_le_bytes(first(bytes))
}

fn f64_le(bytes: &[u8]) -> f32 {
    f64::from_le_bytes(first(bytes)) as f32
}

fn f16_le(bytes: &[u8]) -> f32 {
    f16::from_le_bytes(first(bytes)).to_f32()
}

fn bf16_le(bytes: &[u8]) -> f32 {
    bf16::from_le_bytes(first(bytes)).to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected values printed by the `onnx` package (1.23) from the same file: 867 nodes, 280
    /// initialisers, the first node and the shape of its weight.
    #[test]
    fn reads_deimv2_atto() {
        let file = "weights/deimv2/deimv2_hgnetv2_atto_coco.onnx";
        let Some(path) = mtmc_models::testing::shared(file) else {
            return;
        };
        let model = OnnxModel::open(&path).unwrap();
        assert_eq!((model.nodes.len(), model.initializers.len()), (867, 280));
        let node = &model.nodes[0];
        assert_eq!(node.name, "/model/backbone/stem/stem1/conv/Conv");
        assert_eq!(node.op_type, "Conv");
        assert_eq!(
            node.inputs,
            ["images", "onnx::Conv_2273", "onnx::Conv_2274"]
        );
        assert_eq!(node.int("group"), Some(1));
        assert_eq!(node.attributes["strides"], Attribute::Ints(vec![2, 2]));
        let weight = &model.initializers["onnx::Conv_2273"];
        assert_eq!(weight.shape, ONNX_STEM_SHAPE);
        assert!(weight.floats().unwrap().iter().all(|v| v.is_finite()));
        assert_eq!(model.inputs, ["images", "orig_target_sizes"]);
        assert_eq!(model.producers()[node.outputs[0].as_str()], 0);
    }

    const ONNX_STEM_SHAPE: [usize; 4] = [16, 3, 3, 3];

    #[test]
    fn says_which_tensor_is_wrong() {
        // graph { initializer { dims: 2 data_type: FLOAT name: "w" raw_data: 4 bytes } }
        let bytes = b"\x3a\x0f\x2a\x0d\x08\x02\x10\x01\x42\x01w\x4a\x04\x00\x00\x80\x3f";
        let fault = OnnxModel::parse(bytes).unwrap_err();
        assert!(
            fault.0.contains("`w`") && fault.0.contains("2 numbers"),
            "{fault}"
        );
        assert!(OnnxModel::parse(b"").is_err());
    }
}
