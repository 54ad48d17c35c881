//! A whole file of any format: opened, every tensor read, its conversion planned.

#![no_main]

use std::io::Write as _;

use libfuzzer_sys::fuzz_target;
use mtmc_tools::Options;
use mtmc_tools::map::plan;
use mtmc_tools::read::Checkpoint;

fuzz_target!(|bytes: &[u8]| {
    let Ok(mut file) = tempfile::NamedTempFile::new() else {
        return;
    };
    if file.write_all(bytes).is_err() {
        return;
    }
    let Ok(mut checkpoint) = Checkpoint::open(file.path()) else {
        return;
    };
    let names: Vec<_> = checkpoint.tensors().keys().cloned().collect();
    for name in names {
        let _ = checkpoint.read(&name);
    }
    let _ = plan(&checkpoint, &Options::default());
});
