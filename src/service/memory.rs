//! The memory guard: how full the machine is, and what the service does about it.
//!
//! Above the soft limit running tasks are told to take smaller batches and to read less ahead, which
//! changes when their results come and never what they are; above the hard limit no new task is
//! taken. Each limit is left only when the use has fallen a few percent below it, so that the
//! service does not change its mind with every reading.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tracing::{info, warn};

use super::problem::Problem;
use crate::pipeline::Throttle;
use axum::http::StatusCode;

/// Percent below a limit at which it is left again.
const HYSTERESIS: f64 = 5.0;

/// Time between two readings.
const INTERVAL: Duration = Duration::from_secs(1);

/// Seconds after which a refused client may ask again.
const RETRY_AFTER: u64 = 10;

/// Where the guard acts, in percent of the machine's memory or of the control group's limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MemoryLimits {
    /// Above it tasks take less at once. Default 80, as `max_memory_percent` of the requirement
    /// document's MemoryManager.
    pub soft: f64,
    /// Above it no new task is taken. Default 90.
    pub hard: f64,
}

impl Default for MemoryLimits {
    fn default() -> Self {
        Self {
            soft: 80.0,
            hard: 90.0,
        }
    }
}

/// Memory at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Bytes that cannot be given back at once: caches of files are not counted.
    pub used: u64,
    /// Bytes that there may be at most.
    pub limit: u64,
}

impl Reading {
    /// Percent of the limit that is used.
    pub fn percent(self) -> f64 {
        self.used as f64 * 100.0 / self.limit.max(1) as f64
    }
}

/// How full memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// Below both limits.
    Normal,
    /// Above the soft limit.
    Soft,
    /// Above the hard limit.
    Hard,
}

/// Knows how full memory is, and tells those who can do something about it.
#[derive(Debug)]
pub struct MemoryGuard {
    limits: MemoryLimits,
    pressure: AtomicU8,
    used: AtomicU64,
    limit: AtomicU64,
    throttle: Arc<Throttle>,
}

impl MemoryGuard {
    /// A guard that has seen no reading yet.
    pub fn new(limits: MemoryLimits, throttle: Arc<Throttle>) -> Self {
        Self {
            limits,
            pressure: AtomicU8::new(Pressure::Normal as u8),
            used: AtomicU64::new(0),
            limit: AtomicU64::new(0),
            throttle,
        }
    }

    /// Where it acts.
    pub fn limits(&self) -> MemoryLimits {
        self.limits
    }

    /// What tasks look at to know how much to take at once.
    pub fn throttle(&self) -> Arc<Throttle> {
        self.throttle.clone()
    }

    /// How full memory was at the last reading.
    pub fn pressure(&self) -> Pressure {
        match self.pressure.load(Ordering::Relaxed) {
            0 => Pressure::Normal,
            1 => Pressure::Soft,
            _ => Pressure::Hard,
        }
    }

    /// The last reading.
    pub fn reading(&self) -> Option<Reading> {
        let limit = self.limit.load(Ordering::Relaxed);
        (limit > 0).then(|| Reading {
            used: self.used.load(Ordering::Relaxed),
            limit,
        })
    }

    /// Whether a new task may be taken.
    ///
    /// # Errors
    /// Memory is above the hard limit: `memory-exhausted`, 503.
    pub fn admit(&self) -> Result<(), Problem> {
        if self.pressure() < Pressure::Hard {
            return Ok(());
        }
        let detail = format!(
            "memory is more than {:.0} % full: no new work is taken until it has fallen",
            self.limits.hard
        );
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Err(Problem::new(status, "memory-exhausted", detail).retry_after(RETRY_AFTER))
    }

    /// Takes a reading in, and acts on it.
    pub fn observe(&self, reading: Reading) -> Pressure {
        self.used.store(reading.used, Ordering::Relaxed);
        self.limit.store(reading.limit, Ordering::Relaxed);
        let before = self.pressure();
        let now = self.next(before, reading.percent());
        if now == before {
            return now;
        }
        self.pressure.store(now as u8, Ordering::Relaxed);
        self.throttle.set(now >= Pressure::Soft);
        let percent = reading.percent().round();
        match now {
            Pressure::Normal => info!(percent, "memory is below its limits again"),
            Pressure::Soft => warn!(percent, "memory is above its soft limit: smaller batches"),
            Pressure::Hard => warn!(percent, "memory is above its hard limit: no new tasks"),
        }
        now
    }

    fn next(&self, before: Pressure, percent: f64) -> Pressure {
        let MemoryLimits { soft, hard } = self.limits;
        let left = |limit: f64, held: bool| if held { limit - HYSTERESIS } else { limit };
        if percent > left(hard, before == Pressure::Hard) {
            Pressure::Hard
        } else if percent > left(soft, before >= Pressure::Soft) {
            Pressure::Soft
        } else {
            Pressure::Normal
        }
    }

    /// Reads again and again until the guard is gone. Where there is nothing to read, as beyond
    /// Linux, it stays at rest.
    pub async fn watch(guard: Weak<Self>, probe: Probe) {
        let mut timer = tokio::time::interval(INTERVAL);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            timer.tick().await;
            let Some(guard) = guard.upgrade() else { return };
            if let Some(reading) = probe.read() {
                guard.observe(reading);
            }
        }
    }
}

/// Reads the machine's memory and the control group's limit from the files of the kernel.
#[derive(Debug, Clone)]
pub struct Probe {
    proc: PathBuf,
    cgroups: PathBuf,
}

impl Probe {
    /// Of this machine.
    pub fn system() -> Self {
        Self::under("/proc", "/sys/fs/cgroup")
    }

    /// With the kernel's files elsewhere.
    pub fn under(proc: impl Into<PathBuf>, cgroups: impl Into<PathBuf>) -> Self {
        Self {
            proc: proc.into(),
            cgroups: cgroups.into(),
        }
    }

    /// The fuller one of the machine and of the control groups that this process is in.
    pub fn read(&self) -> Option<Reading> {
        let mut fullest = self.machine();
        let mut group = self.group();
        while let Some(folder) = group {
            if let Some(reading) = group_reading(&folder)
                && fullest.is_none_or(|known| known.percent() < reading.percent())
            {
                fullest = Some(reading);
            }
            let parent = folder.parent().filter(|_| folder != self.cgroups);
            group = parent.map(Path::to_path_buf);
        }
        fullest
    }

    fn machine(&self) -> Option<Reading> {
        let text = std::fs::read_to_string(self.proc.join("meminfo")).ok()?;
        let limit = kibibytes(&text, "MemTotal:")?;
        let available = kibibytes(&text, "MemAvailable:")?;
        Some(Reading {
            used: limit.saturating_sub(available),
            limit,
        })
    }

    /// Folder of the control group (version 2) that this process is in.
    fn group(&self) -> Option<PathBuf> {
        let text = std::fs::read_to_string(self.proc.join("self/cgroup")).ok()?;
        let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
        // Within a namespace of its own a process may be told `/../..`.
        let plain = !path.split('/').any(|part| part == "..");
        Some(self.cgroups.join(if plain { path } else { "" }))
    }
}

/// What a control group uses, if it has a limit.
fn group_reading(folder: &Path) -> Option<Reading> {
    let number = |name: &str| -> Option<u64> {
        let text = std::fs::read_to_string(folder.join(name)).ok()?;
        text.trim().parse().ok() // `max`: no limit
    };
    let limit = number("memory.max").filter(|limit| *limit > 0)?;
    let current = number("memory.current")?;
    let stat = std::fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    // Files that nobody looks at are given back as soon as memory is wanted.
    let cached = field(&stat, "inactive_file").unwrap_or(0);
    Some(Reading {
        used: current.saturating_sub(cached),
        limit,
    })
}

/// The number behind a name at the beginning of a line.
pub(super) fn field(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().map(str::split_whitespace);
    lines.find_map(|mut words| (words.next() == Some(name)).then(|| words.next()?.parse().ok())?)
}

/// The same in bytes, of a number in KiB.
pub(super) fn kibibytes(text: &str, name: &str) -> Option<u64> {
    field(text, name).map(|number| number.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(percent: u64) -> Reading {
        Reading {
            used: percent,
            limit: 100,
        }
    }

    #[test]
    fn limits_are_left_well_below_where_they_were_reached() {
        let guard = MemoryGuard::new(MemoryLimits::default(), Arc::default());
        let steps = [
            (50, Pressure::Normal),
            (80, Pressure::Normal), // above, not at
            (81, Pressure::Soft),
            (76, Pressure::Soft), // 80 - 5 is not passed yet
            (91, Pressure::Hard),
            (86, Pressure::Hard),
            (85, Pressure::Soft),
            (89, Pressure::Soft), // hard is reached above 90 alone
            (75, Pressure::Normal),
            (79, Pressure::Normal),
            (95, Pressure::Hard),
            (10, Pressure::Normal),
        ];
        for (percent, expected) in steps {
            assert_eq!(guard.observe(reading(percent)), expected, "{percent} %");
            assert_eq!(guard.pressure(), expected);
            assert_eq!(guard.throttle().is_on(), expected >= Pressure::Soft);
            assert_eq!(guard.admit().is_ok(), expected < Pressure::Hard);
        }
    }

    #[test]
    fn refusal_says_when_to_come_again() {
        let guard = MemoryGuard::new(MemoryLimits::default(), Arc::default());
        guard.observe(reading(99));
        let problem = guard.admit().unwrap_err();
        assert_eq!(problem.status, 503);
        assert_eq!(problem.kind, "/problems/memory-exhausted");
        assert_eq!(problem.retry_after, Some(RETRY_AFTER));
    }

    /// Files as Linux writes them (proc(5), and cgroup-v2.rst of the kernel's documentation).
    fn files(group: &str, max: &str, current: u64, cached: u64) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let proc = folder.path().join("proc");
        std::fs::create_dir_all(proc.join("self")).unwrap();
        let meminfo = "MemTotal:        1000 kB\nMemFree:  100 kB\nMemAvailable:     600 kB\n";
        std::fs::write(proc.join("meminfo"), meminfo).unwrap();
        std::fs::write(proc.join("self/cgroup"), format!("0::/{group}\n")).unwrap();
        let place = folder.path().join("cgroup").join(group);
        std::fs::create_dir_all(&place).unwrap();
        std::fs::write(place.join("memory.max"), format!("{max}\n")).unwrap();
        std::fs::write(place.join("memory.current"), format!("{current}\n")).unwrap();
        let stat = format!("anon 5\ninactive_file {cached}\nactive_file 7\n");
        std::fs::write(place.join("memory.stat"), stat).unwrap();
        folder
    }

    fn read(folder: &tempfile::TempDir) -> Option<Reading> {
        Probe::under(folder.path().join("proc"), folder.path().join("cgroup")).read()
    }

    #[test]
    fn the_machine_counts_where_no_group_has_a_limit() {
        let folder = files("system.slice/mtmc.service", "max", 999_999, 0);
        let expected = Reading {
            used: 400 * 1024,
            limit: 1000 * 1024,
        };
        assert_eq!(read(&folder), Some(expected));
    }

    #[test]
    fn the_fuller_one_counts_and_files_that_nobody_looks_at_do_not() {
        let folder = files("a/b", "1000", 900, 200);
        let expected = Reading {
            used: 700,
            limit: 1000,
        };
        assert_eq!(read(&folder), Some(expected));
        let folder = files("a/b", "100000", 900, 200);
        assert_eq!(read(&folder).unwrap().limit, 1000 * 1024);
    }

    #[test]
    fn a_group_above_may_have_the_limit() {
        let folder = files("a", "1000", 950, 0);
        let proc = folder.path().join("proc");
        std::fs::write(proc.join("self/cgroup"), "0::/a/b/c\n").unwrap();
        std::fs::create_dir_all(folder.path().join("cgroup/a/b/c")).unwrap();
        assert_eq!(read(&folder).unwrap().limit, 1000);
    }

    #[test]
    fn nothing_to_read_is_no_reading() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(&folder), None);
    }
}
