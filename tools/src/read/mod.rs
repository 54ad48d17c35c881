//! Readers of foreign weights files. None executes anything; all memory is bounded by the file.

pub mod onnx;
pub mod protobuf;
