//! One file over HTTP: resumes where it broke off, appears whole or not at all.
//!
//! The file grows as `FILE.part`; `FILE.part.etag` keeps what the server called its version, so
//! that a file which has changed since is not continued but begun anew (RFC 9110, `If-Range`).

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body};

use super::Progress;

/// What to download.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// The address.
    pub url: &'a str,
    /// Access token, sent as a bearer.
    pub token: Option<&'a str>,
    /// Length in bytes, where it is known beforehand.
    pub size: Option<u64>,
    /// Pause before the first new try; grows with each.
    pub pause: Duration,
}

/// Tries in a row that bring no new bytes before it is given up.
const TRIES: u32 = 4;

/// Largest file that is downloaded.
const MAX_BYTES: u64 = 32 << 30;

/// Longest time for the body in one try: a connection that has died silently ends, and the next
/// try goes on from there.
const BODY_TIMEOUT: Duration = Duration::from_secs(600);

/// Why a try ended.
enum Stop {
    /// Another try may help.
    Again(String),
    /// It will not.
    For(String),
}

/// Downloads to `path`.
///
/// # Errors
/// In words: the server cannot be reached, refuses, or offers another file than expected.
pub fn download(
    request: &Request,
    path: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), String> {
    let agent = agent(request.url);
    let part = beside(path, ".part");
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .open(&part)
        .map_err(|error| format!("{}: {error}", part.display()))?;
    if file.try_lock().is_err() {
        return Err(format!(
            "{}: another download is writing it",
            part.display()
        ));
    }
    let mut failures = 0;
    loop {
        let before = length(&file)?;
        match attempt(&agent, request, &mut file, &part, progress) {
            Ok(()) => break,
            Err(Stop::For(reason)) => return Err(reason),
            Err(Stop::Again(reason)) => {
                failures = if length(&file)? > before {
                    1
                } else {
                    failures + 1
                };
                if failures >= TRIES {
                    return Err(reason);
                }
                progress(Progress::Retry(reason));
                std::thread::sleep(request.pause * failures);
            }
        }
    }
    file.sync_all()
        .map_err(|error| format!("{}: {error}", part.display()))?;
    std::fs::rename(&part, path).map_err(|error| format!("{}: {error}", path.display()))?;
    // Left behind, it would do no harm.
    let _ = std::fs::remove_file(beside(&part, ".etag"));
    Ok(())
}

fn agent(url: &str) -> Agent {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .user_agent(concat!("mtmc/", env!("CARGO_PKG_VERSION")))
        .timeout_connect(Some(Duration::from_secs(20)))
        .timeout_recv_response(Some(Duration::from_secs(60)))
        .timeout_recv_body(Some(BODY_TIMEOUT));
    // No proxy stands between this machine and itself.
    let config = if url.starts_with("http://127.0.0.1") {
        config.proxy(None)
    } else {
        config
    };
    config.build().into()
}

/// `path` with `suffix` after its whole name.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(suffix);
    path.with_file_name(name)
}

fn length(file: &File) -> Result<u64, String> {
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    Ok(metadata.len())
}

fn attempt(
    agent: &Agent,
    request: &Request,
    file: &mut File,
    part: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), Stop> {
    let etag_path = beside(part, ".etag");
    let have = length(file).map_err(Stop::For)?;
    let etag = std::fs::read_to_string(&etag_path).ok();
    let mut call = agent.get(request.url);
    if let Some(token) = request.token {
        call = call.header("Authorization", format!("Bearer {token}"));
    }
    if have > 0 {
        call = call.header("Range", format!("bytes={have}-"));
        if let Some(etag) = &etag {
            call = call.header("If-Range", etag);
        }
    }
    let mut response = call
        .call()
        .map_err(|error| Stop::Again(format!("{}: {error}", request.url)))?;
    let restart = |file: &mut File| {
        file.set_len(0)
            .map_err(|error| Stop::For(format!("{}: {error}", part.display())))
    };
    let (start, total) = match response.status() {
        StatusCode::OK => {
            restart(file)?;
            (0, number(&response, "content-length"))
        }
        StatusCode::PARTIAL_CONTENT => match content_range(&response) {
            Some((start, total)) if start == have => (start, total),
            _ => {
                restart(file)?;
                return Err(Stop::Again(
                    "the server continued at another place".to_string(),
                ));
            }
        },
        StatusCode::RANGE_NOT_SATISFIABLE => {
            if have > 0 && complete_length(&response) == Some(have) {
                return expected_size(request, have);
            }
            restart(file)?;
            return Err(Stop::Again("the server has a shorter file now".to_string()));
        }
        status => return Err(refused(request.url, status)),
    };
    if let Some(total) = total {
        expected_size(request, total)?;
    }
    if start == 0 {
        remember_etag(&response, &etag_path);
    }
    receive(&mut response, file, part, start, total, progress)?;
    let now = length(file).map_err(Stop::For)?;
    match total {
        Some(total) if now < total => Err(Stop::Again(format!(
            "the connection broke off at {now} of {total} bytes"
        ))),
        _ => expected_size(request, now),
    }
}

fn expected_size(request: &Request, size: u64) -> Result<(), Stop> {
    if size > MAX_BYTES {
        return Err(Stop::For(format!(
            "{}: {size} bytes is absurd",
            request.url
        )));
    }
    match request.size {
        Some(expected) if expected != size => Err(Stop::For(format!(
            "{}: the server offers {size} bytes, the registry says {expected}",
            request.url
        ))),
        _ => Ok(()),
    }
}

fn refused(url: &str, status: StatusCode) -> Stop {
    let reason = format!("{url}: the server says {status}");
    let later = status.is_server_error()
        || matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
        );
    if later {
        return Stop::Again(reason);
    }
    if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        return Stop::For(format!("{reason}; a token in HF_TOKEN may be needed"));
    }
    Stop::For(reason)
}

fn remember_etag(response: &Response<Body>, path: &Path) {
    let etag = header(response, "etag").filter(|etag| !etag.starts_with("W/"));
    // Without it the file is continued unconditionally; its digest still decides.
    let _ = match etag {
        Some(etag) => std::fs::write(path, etag),
        None => std::fs::remove_file(path),
    };
}

fn receive(
    response: &mut Response<Body>,
    file: &mut File,
    part: &Path,
    start: u64,
    total: Option<u64>,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), Stop> {
    let disk = |error: std::io::Error| Stop::For(format!("{}: {error}", part.display()));
    file.seek(SeekFrom::End(0)).map_err(disk)?;
    let mut reader = response.body_mut().as_reader();
    let mut buffer = vec![0_u8; 1 << 16];
    let mut done = start;
    loop {
        progress(Progress::Download { done, total });
        let count = reader.read(&mut buffer).map_err(|error| {
            Stop::Again(format!("the connection broke off at {done} bytes: {error}"))
        })?;
        if count == 0 {
            return Ok(());
        }
        done += count as u64;
        if done > total.unwrap_or(MAX_BYTES) {
            return Err(Stop::For(
                "the server sends more than it announced".to_string(),
            ));
        }
        file.write_all(&buffer[..count]).map_err(disk)?;
    }
}

fn header<'a>(response: &'a Response<Body>, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

fn number(response: &Response<Body>, name: &str) -> Option<u64> {
    header(response, name)?.trim().parse().ok()
}

/// Start and complete length out of `Content-Range: bytes 5-9/10` (`*` where it is not known).
fn content_range(response: &Response<Body>) -> Option<(u64, Option<u64>)> {
    let range = header(response, "content-range")?.strip_prefix("bytes ")?;
    let (span, total) = range.split_once('/')?;
    let (start, _) = span.split_once('-')?;
    Some((start.trim().parse().ok()?, total.trim().parse().ok()))
}

/// Complete length out of `Content-Range: bytes */10`.
fn complete_length(response: &Response<Body>) -> Option<u64> {
    let range = header(response, "content-range")?;
    range.strip_prefix("bytes */")?.trim().parse().ok()
}
