//! From the names of a weights file's origin to the names of `mtmc`'s networks.

/// A tensor under the name that the network uses, with its numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedTensor {
    /// Name in our file.
    pub name: String,
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// Row-major.
    pub values: Vec<f32>,
}

/// A tensor of the origin's file that our file does not need, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// Name in the origin's file.
    pub name: String,
    /// The reason in a few words, for the conversion's report.
    pub reason: String,
}

/// What a mapping makes out of an ONNX graph.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MappedGraph {
    /// All tensors of the network.
    pub tensors: Vec<NamedTensor>,
    /// Float initialisers that were left out, each with its reason.
    pub dropped: Vec<Dropped>,
}
