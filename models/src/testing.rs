//! Helpers of this project's tests: where the shared test material lies, made-up weights.

use std::path::{Path, PathBuf};

/// Path of `relative` inside the shared test material beside the repository (`../shared`).
///
/// Without that material a test is skipped: `None`, and a line on standard error that says so.
///
/// # Panics
/// If `CI=true` and the file is missing: there, a silent skip would hide a broken check.
pub fn shared(relative: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let path = root.join(relative);
    if path.exists() {
        return Some(path);
    }
    let ci = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(
        !ci,
        "CI needs the shared test material: ../shared/{relative} is missing"
    );
    #[allow(clippy::print_stderr)]
    {
        eprintln!("skipped: needs ../shared/{relative}");
    }
    None
}
