//! How much room a disk has.

use std::path::Path;

/// Bytes that this program may still write on the disk of `path`; `None` where the system does not
/// tell.
pub fn free_bytes(path: &Path) -> Option<u64> {
    #[cfg(unix)]
    {
        let facts = rustix::fs::statvfs(path).ok()?;
        Some(facts.f_bavail.saturating_mul(facts.f_frsize))
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        None
    }
}
