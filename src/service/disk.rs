//! How much room a disk has.

use std::io;
use std::path::Path;

/// Bytes that this program may still write on the disk of `path`.
///
/// # Errors
/// There is no such path, its disk is gone, or ([`Unsupported`](io::ErrorKind::Unsupported)) the system
/// does not tell.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    #[cfg(unix)]
    {
        let facts = rustix::fs::statvfs(path)?;
        Ok(facts.f_bavail.saturating_mul(facts.f_frsize))
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        Err(io::ErrorKind::Unsupported.into())
    }
}
