//! ONNX graphs, and the mapping of those that look like DEIMv2.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mtmc_tools::map::deimv2;
use mtmc_tools::read::onnx::OnnxModel;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(model) = OnnxModel::parse(bytes) {
        let _ = deimv2::map_onnx(&model);
    }
});
