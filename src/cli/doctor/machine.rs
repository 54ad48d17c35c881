//! The machine: processor, device, memory, disk, clock, port, ffmpeg.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::super::options::names;
use super::{DoctorArgs, Findings};
use crate::service::disk::free_bytes;
use crate::service::memory::{MemoryLimits, Probe};

/// Bytes written to see how fast the disk is.
const TRIAL: usize = 32 << 20;

/// Bytes a second below which the disk may hold the service back: positions, pictures, snapshots.
const SLOW_DISK: f64 = 20e6;

/// Free bytes below which there is soon no room.
const LITTLE_DISK: u64 = 2 << 30;

/// 2025-01-01 in seconds since 1970: before that, the clock has never been set.
const OLDEST_NOW: u64 = 1_735_689_600;

/// What networks are computed on.
pub(super) fn compute(args: &DoctorArgs, findings: &mut Findings) {
    processor(findings);
    device(args, findings);
}

pub(super) fn look(args: &DoctorArgs, findings: &mut Findings) {
    memory(findings);
    disk(args, findings);
    port(args, findings);
    ffmpeg(findings);
}

fn processor(findings: &mut Findings) {
    let threads = rayon::current_num_threads();
    #[cfg(target_arch = "x86_64")]
    {
        let has = [
            ("avx2", std::is_x86_feature_detected!("avx2")),
            ("fma", std::is_x86_feature_detected!("fma")),
            ("avx512f", std::is_x86_feature_detected!("avx512f")),
        ];
        let names: Vec<&str> = has.iter().filter(|h| h.1).map(|h| h.0).collect();
        let what = format!("{threads} threads, {}", names.join(", "));
        if has[0].1 && has[1].1 {
            findings.ok("processor", what);
        } else {
            let what = format!("{threads} threads, without AVX2 and FMA");
            let advice = "networks run, but several times slower than on a processor with them";
            findings.warn("processor", what, advice);
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    findings.ok("processor", format!("{threads} threads"));
}

fn device(args: &DoctorArgs, findings: &mut Findings) {
    match args.model.compute.device() {
        Ok((device, dtype)) => {
            let (device, precision) = names((&device, dtype));
            let built = if cfg!(feature = "cuda") {
                "with"
            } else {
                "without"
            };
            let what = format!("{device} in {precision}; built {built} CUDA");
            findings.ok("device", what);
        }
        Err(error) => findings.fail("device", format!("{error:#}"), "use --device cpu, or auto"),
    }
}

fn memory(findings: &mut Findings) {
    let Some(reading) = Probe::system().read() else {
        let advice = "the memory guard is at rest; watch memory by other means";
        findings.warn("memory", "cannot be read on this system", advice);
        return;
    };
    let percent = reading.percent();
    let gib = reading.limit as f64 / f64::from(1 << 30);
    let what = format!("{percent:.0} % of {gib:.1} GiB in use");
    if percent > MemoryLimits::default().soft {
        let advice = "the service would start with small batches, or refuse tasks: free some";
        findings.warn("memory", what, advice);
    } else {
        findings.ok("memory", what);
    }
}

fn disk(args: &DoctorArgs, findings: &mut Findings) {
    let folder = &args.data_dir;
    let advice = "give --data-dir a folder that this user may write to";
    if let Err(error) = std::fs::create_dir_all(folder) {
        findings.fail("disk", format!("{}: {error}", folder.display()), advice);
        return;
    }
    match free_bytes(folder) {
        Ok(free) if free < LITTLE_DISK => {
            let what = format!("{} MiB are free for {}", free >> 20, folder.display());
            findings.warn("disk", what, "make room, or set limits of retention");
        }
        Ok(free) => {
            let what = format!("{} GiB are free for {}", free >> 30, folder.display());
            findings.ok("disk", what);
        }
        Err(error) => findings.fail("disk", format!("{}: {error}", folder.display()), advice),
    }
    let file = folder.join(format!("doctor-{}.tmp", std::process::id()));
    let outcome = trial(&file);
    // Whatever was written is not wanted any more.
    let _ = std::fs::remove_file(&file);
    match outcome {
        Ok((speed, ahead)) => {
            let what = format!("writes {:.0} MB/s, safely", speed / 1e6);
            if speed < SLOW_DISK {
                let advice = "use a faster disk for --data-dir, or expect frames to wait for it";
                findings.warn("disk", what, advice);
            } else {
                findings.ok("disk", what);
            }
            clock(ahead, findings);
        }
        Err(error) => findings.fail("disk", format!("{}: {error}", folder.display()), advice),
    }
}

/// Bytes a second, and how far the disk's clock is from ours.
fn trial(file: &std::path::Path) -> std::io::Result<(f64, Duration)> {
    let block = vec![0xa5_u8; 1 << 20];
    let started = Instant::now();
    let mut out = std::fs::File::create(file)?;
    for _ in 0..TRIAL >> 20 {
        out.write_all(&block)?;
    }
    out.sync_all()?;
    let speed = TRIAL as f64 / started.elapsed().as_secs_f64().max(1e-6);
    let modified = out.metadata()?.modified()?;
    let now = SystemTime::now();
    let apart = now
        .duration_since(modified)
        .unwrap_or_else(|e| e.duration());
    Ok((speed, apart))
}

fn clock(disk: Duration, findings: &mut Findings) {
    let advice = "set the clock, for example with NTP: times of messages and tokens depend on it";
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = now.map_or(0, |since| since.as_secs());
    if seconds < OLDEST_NOW {
        findings.fail("clock", format!("says {}", jiff::Timestamp::now()), advice);
    } else if disk > Duration::from_secs(60) {
        let what = format!("differs by {} s from the disk's", disk.as_secs());
        findings.warn("clock", what, advice);
    } else {
        let now = jiff::Timestamp::now();
        findings.ok("clock", format!("{now:.0}, as the disk's"));
    }
}

fn port(args: &DoctorArgs, findings: &mut Findings) {
    match std::net::TcpListener::bind(args.listen) {
        Ok(_) => findings.ok("port", format!("{} can be listened on", args.listen)),
        Err(error) => findings.fail(
            "port",
            format!("{}: {error}", args.listen),
            "stop what listens there, or choose another --listen",
        ),
    }
}

fn ffmpeg(findings: &mut Findings) {
    let output = Command::new("ffmpeg")
        .arg("-version")
        .stdin(Stdio::null())
        .output();
    let version = match &output {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout)
            .lines()
            .next()
            .map(str::to_string),
        _ => None,
    };
    match version {
        Some(version) => findings.ok("ffmpeg", version),
        None => findings.warn(
            "ffmpeg",
            "not found: RTSP and videos other than H.264 in MP4 cannot be read",
            "install ffmpeg if you have such sources",
        ),
    }
}
