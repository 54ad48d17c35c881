//! Fetching against a small HTTP server on this machine: resuming, wrong digests, refusals,
//! broken connections, files put in place by hand.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mtmc_models::expected_tensors;
use mtmc_models::weights::read_description;
use mtmc_tools::Options;
use mtmc_tools::convert::convert_checkpoint;
use mtmc_tools::fetch::{Fetcher, Progress, sha256};
use mtmc_tools::map::{COCO_CLASSES, deimv2};
use mtmc_tools::read::Checkpoint;
use mtmc_tools::registry::parse;
use tempfile::TempDir;

/// What the server does with one request.
#[derive(Debug, Clone, Copy)]
enum Answer {
    /// The file or the part of it that is asked for.
    Serve,
    /// The same, but the connection is cut after so many bytes of the body.
    CutAfter(usize),
    /// The whole file, whatever part is asked for.
    Whole,
    /// This status and no file.
    Status(u16),
}

/// Path and `Range` of every request so far.
type Log = Arc<Mutex<Vec<(String, Option<String>)>>>;

/// Serves `file`; one answer a request, the last for all that follow.
fn serve(file: Vec<u8>, answers: Vec<Answer>) -> (String, Log) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let log = Log::default();
    let seen = log.clone();
    std::thread::spawn(move || {
        for (index, stream) in listener.incoming().enumerate() {
            let answer = answers[index.min(answers.len() - 1)];
            // A client that hangs up early is part of the test.
            let _ = respond(&stream.unwrap(), &file, answer, &seen);
        }
    });
    (address, log)
}

fn respond(mut stream: &TcpStream, file: &[u8], answer: Answer, log: &Log) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let path = lines
        .next()
        .unwrap()?
        .split(' ')
        .nth(1)
        .unwrap()
        .to_string();
    let mut range = None;
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.to_lowercase().strip_prefix("range: bytes=") {
            range = Some(value.to_string());
        }
    }
    log.lock().unwrap().push((path, range.clone()));
    let start = range.and_then(|r| r.trim_end_matches('-').parse::<usize>().ok());
    let end = "Connection: close\r\nETag: \"v1\"\r\n\r\n";
    let (head, body) = match (answer, start) {
        (Answer::Status(status), _) => (
            format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\n{end}"),
            &file[..0],
        ),
        (Answer::Whole, _) | (_, None) => (
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{end}", file.len()),
            file,
        ),
        (_, Some(start)) if start >= file.len() => {
            let range = format!("Content-Range: bytes */{}", file.len());
            (
                format!("HTTP/1.1 416 No\r\n{range}\r\nContent-Length: 0\r\n{end}"),
                &file[..0],
            )
        }
        (_, Some(start)) => {
            let (last, all) = (file.len() - 1, file.len());
            let range = format!("Content-Range: bytes {start}-{last}/{all}");
            let length = file.len() - start;
            let head = format!("HTTP/1.1 206 Part\r\n{range}\r\nContent-Length: {length}\r\n{end}");
            (head, &file[start..])
        }
    };
    let body = match answer {
        Answer::CutAfter(count) => &body[..count.min(body.len())],
        _ => body,
    };
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)
}

/// A published file: a tiny-sized real network (deimv2-atto) with made-up numbers.
fn published() -> Vec<u8> {
    let classes: Vec<String> = COCO_CLASSES.iter().map(ToString::to_string).collect();
    let description = deimv2::description("deimv2-atto", classes, "test", "test").unwrap();
    let mut tensors = HashMap::new();
    for (index, spec) in expected_tensors(&description)
        .unwrap()
        .into_iter()
        .enumerate()
    {
        let count = spec.shape.iter().product();
        tensors.insert(spec.name, (spec.shape, vec![index as f32 / 1000.0; count]));
    }
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.safetensors");
    let mut checkpoint = Checkpoint::from_memory(Path::new("made-up"), tensors);
    convert_checkpoint(&mut checkpoint, &path, &Options::default()).unwrap();
    std::fs::read(path).unwrap()
}

fn digest(bytes: &[u8]) -> String {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, bytes).unwrap();
    sha256(&path).unwrap()
}

fn fetcher(cache: &TempDir, endpoint: &str, extra: &str) -> Fetcher {
    let entry = "[[model]]\nname = \"small\"\narchitecture = \"deimv2-atto\"\n\
                 repository = \"some/where\"\nfile = \"model.safetensors\"\n\
                 licence = \"Apache-2.0\"\n";
    Fetcher {
        cache: cache.path().to_path_buf(),
        endpoint: endpoint.to_string(),
        token: None,
        entries: parse(&format!("{entry}{extra}")).unwrap(),
        pause: Duration::from_millis(1),
    }
}

fn quiet(_: Progress) {}

#[test]
fn downloads_checks_converts_and_remembers() {
    let file = published();
    let (endpoint, log) = serve(file.clone(), vec![Answer::Serve]);
    let cache = TempDir::new().unwrap();
    let known = format!("size = {}\nsha256 = \"{}\"", file.len(), digest(&file));
    let fetcher = fetcher(&cache, &endpoint, &known);
    assert_eq!(fetcher.cached("small"), None);
    let mut steps = Vec::new();
    let path = fetcher
        .fetch("small", &mut |step| steps.push(step))
        .unwrap();
    assert_eq!(path, cache.path().join("small.safetensors"));
    let about = read_description(&path).unwrap();
    assert_eq!(about.architecture, "deimv2-atto");
    assert_eq!(about.licence, "Apache-2.0");
    assert_eq!(about.source, "huggingface.co/some/where model.safetensors");
    assert!(
        steps
            .iter()
            .any(|s| matches!(s, Progress::Digest { known: true, .. }))
    );
    let total = Some(file.len() as u64);
    assert!(steps.contains(&Progress::Download {
        done: file.len() as u64,
        total
    }));
    assert_eq!(fetcher.cached("small"), Some(path.clone()));
    assert_eq!(fetcher.fetch("small", &mut quiet).unwrap(), path);
    let log = log.lock().unwrap();
    let url = "/some/where/resolve/main/model.safetensors".to_string();
    assert_eq!(
        *log,
        vec![(url, None)],
        "the second time nothing is downloaded"
    );
}

#[test]
fn a_cut_connection_is_resumed() {
    let file = published();
    let cuts = vec![
        Answer::CutAfter(1000),
        Answer::CutAfter(2000),
        Answer::Serve,
    ];
    let (endpoint, log) = serve(file.clone(), cuts);
    let cache = TempDir::new().unwrap();
    let known = format!("sha256 = \"{}\"", digest(&file));
    fetcher(&cache, &endpoint, &known)
        .fetch("small", &mut quiet)
        .unwrap();
    let ranges: Vec<_> = log
        .lock()
        .unwrap()
        .iter()
        .map(|(_, range)| range.clone())
        .collect();
    assert_eq!(
        ranges,
        [None, Some("1000-".to_string()), Some("3000-".to_string())]
    );
}

#[test]
fn a_later_run_goes_on_where_the_first_gave_up() {
    let file = published();
    let cache = TempDir::new().unwrap();
    let (endpoint, _) = serve(
        file.clone(),
        vec![Answer::CutAfter(5000), Answer::Status(503)],
    );
    let known = format!("sha256 = \"{}\"", digest(&file));
    let error = fetcher(&cache, &endpoint, &known)
        .fetch("small", &mut quiet)
        .unwrap_err();
    let text = error.to_string();
    assert!(text.contains("503"), "{text}");
    let (endpoint, log) = serve(file, vec![Answer::Serve]);
    fetcher(&cache, &endpoint, &known)
        .fetch("small", &mut quiet)
        .unwrap();
    assert_eq!(log.lock().unwrap()[0].1.as_deref(), Some("5000-"));
}

#[test]
fn a_server_without_ranges_starts_anew() {
    let file = published();
    let (endpoint, _) = serve(file.clone(), vec![Answer::CutAfter(1000), Answer::Whole]);
    let cache = TempDir::new().unwrap();
    let known = format!("sha256 = \"{}\"", digest(&file));
    fetcher(&cache, &endpoint, &known)
        .fetch("small", &mut quiet)
        .unwrap();
}

#[test]
fn a_complete_part_needs_no_more_bytes() {
    let file = published();
    let (endpoint, log) = serve(file.clone(), vec![Answer::Serve]);
    let cache = TempDir::new().unwrap();
    let known = format!("sha256 = \"{}\"", digest(&file));
    let fetcher = fetcher(&cache, &endpoint, &known);
    let part = cache.path().join("downloads/small/model.safetensors.part");
    std::fs::create_dir_all(part.parent().unwrap()).unwrap();
    std::fs::write(&part, &file).unwrap();
    fetcher.fetch("small", &mut quiet).unwrap();
    assert_eq!(log.lock().unwrap().len(), 1);
}

#[test]
fn a_wrong_digest_is_an_error_and_the_file_goes() {
    let file = published();
    let (endpoint, _) = serve(file.clone(), vec![Answer::Serve]);
    let cache = TempDir::new().unwrap();
    let wrong = "0".repeat(64);
    let fetcher = fetcher(&cache, &endpoint, &format!("sha256 = \"{wrong}\""));
    let text = fetcher.fetch("small", &mut quiet).unwrap_err().to_string();
    assert!(
        text.contains(&wrong) && text.contains(&digest(&file)),
        "{text}"
    );
    assert_eq!(fetcher.cached("small"), None);
    assert!(
        !cache
            .path()
            .join("downloads/small/model.safetensors")
            .exists()
    );
}

#[test]
fn a_wrong_size_is_an_error_before_anything_is_downloaded() {
    let (endpoint, _) = serve(published(), vec![Answer::Serve]);
    let cache = TempDir::new().unwrap();
    let fetcher = fetcher(&cache, &endpoint, "size = 12345");
    let text = fetcher.fetch("small", &mut quiet).unwrap_err().to_string();
    assert!(text.contains("12345"), "{text}");
}

#[test]
fn a_missing_file_is_not_asked_for_again() {
    let (endpoint, log) = serve(Vec::new(), vec![Answer::Status(404)]);
    let cache = TempDir::new().unwrap();
    let text = fetcher(&cache, &endpoint, "")
        .fetch("small", &mut quiet)
        .unwrap_err()
        .to_string();
    assert!(text.contains("404"), "{text}");
    assert_eq!(log.lock().unwrap().len(), 1);
}

#[test]
fn without_a_network_it_says_what_to_do_and_takes_the_file_put_there() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener); // nobody listens any more
    let cache = TempDir::new().unwrap();
    let fetcher = fetcher(&cache, &endpoint, "");
    let text = fetcher.fetch("small", &mut quiet).unwrap_err().to_string();
    let place = cache.path().join("downloads/small/model.safetensors");
    assert!(
        text.contains(&format!("{endpoint}/some/where/resolve/main/")),
        "{text}"
    );
    assert!(text.contains(place.to_str().unwrap()), "{text}");
    std::fs::write(&place, published()).unwrap();
    fetcher.fetch("small", &mut quiet).unwrap();
    assert!(place.exists(), "what a person put there stays");
}

#[test]
fn an_unknown_name_lists_the_known_ones() {
    let cache = TempDir::new().unwrap();
    let fetcher = fetcher(&cache, "http://127.0.0.1:1", "");
    let text = fetcher.fetch("smal", &mut quiet).unwrap_err().to_string();
    assert!(text.contains("`smal`") && text.contains("small"), "{text}");
}
