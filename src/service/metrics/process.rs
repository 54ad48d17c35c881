//! The process itself: memory, processor, files.

use std::path::PathBuf;

use super::family::{Families, Value};
use crate::service::memory::{field, kibibytes};

/// Reads what the kernel knows of this process. Elsewhere than on Linux there is nothing to read,
/// and nothing is told.
#[derive(Debug, Clone)]
pub struct ProcessProbe {
    folder: PathBuf,
    ticks: u64,
}

impl Default for ProcessProbe {
    fn default() -> Self {
        Self {
            folder: PathBuf::from("/proc/self"),
            ticks: rustix::param::clock_ticks_per_second(),
        }
    }
}

impl ProcessProbe {
    fn read(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.folder.join(name)).ok()
    }

    /// Bytes in memory (resident set).
    pub fn resident(&self) -> Option<u64> {
        kibibytes(&self.read("status")?, "VmRSS:")
    }

    /// Seconds of processor time, of all threads together.
    pub fn cpu_seconds(&self) -> Option<f64> {
        let stat = self.read("stat")?;
        // The second field is the program's name in brackets, in which anything may stand (proc(5)).
        let (_, fields) = stat.rsplit_once(')')?;
        let mut fields = fields.split_whitespace().skip(11);
        let user: u64 = fields.next()?.parse().ok()?;
        let system: u64 = fields.next()?.parse().ok()?;
        Some((user + system) as f64 / self.ticks.max(1) as f64)
    }

    fn open_files(&self) -> Option<usize> {
        Some(std::fs::read_dir(self.folder.join("fd")).ok()?.count())
    }

    /// Adds the process' numbers under the names that all clients of Prometheus use.
    pub fn collect(&self, families: &mut Families) {
        if let Some(bytes) = self.resident() {
            let help = "Resident memory size in bytes";
            families.one(
                "process_resident_memory_bytes",
                help,
                Value::Gauge(bytes as f64),
            );
        }
        if let Some(seconds) = self.cpu_seconds() {
            let help = "Total user and system CPU time spent in seconds";
            families.one("process_cpu_seconds", help, Value::Counter(seconds));
        }
        if let Some(files) = self.open_files() {
            let help = "Number of open file descriptors";
            families.one("process_open_fds", help, Value::Gauge(files as f64));
        }
        let threads = self
            .read("status")
            .and_then(|text| field(&text, "Threads:"));
        if let Some(threads) = threads {
            let help = "Number of threads";
            families.one("process_threads", help, Value::Gauge(threads as f64));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_from_where_proc_5_says() {
        let folder = tempfile::tempdir().unwrap();
        let stat = "42 (a ) b (c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 7 0 100 0 0";
        std::fs::write(folder.path().join("stat"), stat).unwrap();
        let status = "Name:\tmtmc\nVmRSS:\t    2048 kB\nThreads:\t7\n";
        std::fs::write(folder.path().join("status"), status).unwrap();
        let probe = ProcessProbe {
            folder: folder.path().to_path_buf(),
            ticks: 100,
        };
        assert_eq!(probe.cpu_seconds(), Some(3.0));
        assert_eq!(probe.resident(), Some(2 << 20));
    }
}
