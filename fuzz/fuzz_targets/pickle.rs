//! Pickles, one after the other as the legacy format has them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mtmc_tools::read::pickle::Pickle;

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    while let Ok((pickle, used)) = Pickle::parse(rest) {
        assert!(pickle.len() <= used);
        rest = &rest[used..];
    }
});
