//! Watching a training from outside: event files against TensorBoard's writer, the log of a resumed
//! run, a made-up MLflow server that answers, refuses, or goes away, the report.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mtmc::eval::reid::{Evaluation, Features, Options};
use mtmc::train::data::Probe;
use mtmc::train::watch::mlflow::{Credentials, MlflowSettings, Outcome};
use mtmc::train::watch::tensorboard::EventFile;
use mtmc::train::watch::{
    Epoch, LINES, REPORT, RunInfo, Step, TENSORBOARD, WatchSettings, Watcher, hardest,
};
use mtmc_models::testing::made_up_image;
use mtmc_tools::dataset::market1501::{Image, ImageName};
use mtmc_tools::dataset::pictures::write_jpeg;
use serde_json::{Value, json};
use tempfile::TempDir;

// Oracle: tests/oracle/train_watch.py (TensorBoard's own messages and record writer).
#[test]
fn event_files_are_tensorboards_own() {
    let folder = TempDir::new().unwrap();
    let mut file = EventFile::create(folder.path(), 1_700_000_000.25, Some(3)).unwrap();
    let values = [("loss/id".to_string(), 6.25), ("lr".to_string(), 3.5e-4)];
    file.write(1_700_000_001.5, 300, &values).unwrap();
    file.write(1_700_000_002.0, 1 << 33, &[("val/map".to_string(), 0.0)])
        .unwrap();
    let bytes = fs::read(file.path()).unwrap();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let golden = include_str!("goldens/train/events.hex").trim();
    assert_eq!(hex, golden);
    let name = file.path().file_name().unwrap().to_string_lossy();
    assert!(name.contains("tfevents"), "{name}");
    // A second file in the same second has a name of its own.
    EventFile::create(folder.path(), 1_700_000_000.25, None).unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

fn run() -> RunInfo {
    RunInfo {
        name: "a <small> run".to_string(),
        parameters: vec![
            ("optimiser.lr".to_string(), "0.00035".to_string()),
            ("data:root".to_string(), "x".repeat(9000)),
        ],
        epochs: 4,
        steps_per_epoch: 3,
    }
}

fn step(step: u64) -> Step {
    Step {
        epoch: step / 3,
        step,
        losses: vec![
            ("id".to_string(), 6.0 - step as f64),
            ("triplet".to_string(), f64::NAN),
        ],
        accuracy: 0.25,
        lr: 1e-3,
        images_per_second: 50.0,
    }
}

fn epoch(epoch: u64) -> Epoch {
    Epoch {
        epoch,
        step: 3 * epoch + 3,
        losses: vec![("id".to_string(), 5.0 - epoch as f64)],
        accuracy: 0.5,
        lr: 1e-3,
        images_per_second: 50.0,
        seconds: 1.0,
        rank1: (epoch % 2 == 1).then_some(0.5),
        map: (epoch % 2 == 1).then_some(0.25 + epoch as f64 / 100.0),
    }
}

fn train(watcher: &mut Watcher, epochs: std::ops::Range<u64>) {
    for number in epochs {
        for index in 0..3 {
            watcher.step(&step(3 * number + index));
        }
        watcher.epoch(&epoch(number));
    }
}

fn lines(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join(LINES)).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn a_resumed_run_tells_each_step_once() {
    let folder = TempDir::new().unwrap();
    let mut settings = WatchSettings::new(folder.path());
    settings.every = 1;
    let mut watcher = Watcher::new(&settings, run(), None);
    train(&mut watcher, 0..2);
    watcher.step(&step(6));
    drop(watcher);
    // Killed while it wrote a line.
    let mut file = fs::OpenOptions::new()
        .append(true)
        .open(folder.path().join(LINES))
        .unwrap();
    file.write_all(b"{\"kind\":\"step\",\"epo").unwrap();
    drop(file);

    let mut watcher = Watcher::new(&settings, run(), Some(1));
    assert_eq!(watcher.epochs(), [epoch(0)]);
    train(&mut watcher, 1..4);
    watcher.finish(None);
    let lines = lines(folder.path());
    let told = |kind: &str, key: &str| -> Vec<u64> {
        let own = lines.iter().filter(|line| line["kind"] == kind);
        own.map(|line| line[key].as_u64().unwrap()).collect()
    };
    assert_eq!(told("step", "step"), (0..12).collect::<Vec<u64>>());
    assert_eq!(told("epoch", "epoch"), [0, 1, 2, 3]);
    assert_eq!(lines[0]["losses"], json!({"id": 6.0, "triplet": null}));
    assert_eq!(
        fs::read_dir(folder.path().join(TENSORBOARD))
            .unwrap()
            .count(),
        2
    );
    let report = fs::read_to_string(folder.path().join(REPORT)).unwrap();
    assert!(report.contains("Finished after 4 of 4 epochs"), "{report}");
    assert!(
        report.contains("Best by mAP: epoch 4, mAP 28.00 %, rank-1 50.00 %"),
        "{report}"
    );
    assert!(report.contains("a &lt;small&gt; run") && !report.contains("<small>"));
    assert_eq!(report.matches("<svg").count(), 4);
}

#[test]
fn steps_are_shown_and_thinned_out_where_they_are_written() {
    let folder = TempDir::new().unwrap();
    let mut settings = WatchSettings::new(folder.path().join("made/on/the/way"));
    settings.every = 5;
    let mut watcher = Watcher::new(&settings, run(), None);
    let shown = Arc::new(Mutex::new(Vec::new()));
    let seen = shown.clone();
    watcher.on_show(Box::new(move |line| {
        seen.lock().unwrap().push(line.clone());
    }));
    train(&mut watcher, 0..4);
    let steps = lines(&settings.folder)
        .iter()
        .filter(|line| line["kind"] == "step")
        .count();
    assert_eq!(steps, 3, "0, 5 and 10");
    let shown = shown.lock().unwrap();
    assert_eq!((shown.len(), shown[11].done, shown[11].total), (12, 12, 12));
    assert!(
        shown[4].text.starts_with("epoch 2/4  id 2.000"),
        "{}",
        shown[4].text
    );
}

/// What a made-up server was asked: method, path, body.
type Asked = Arc<Mutex<Vec<(String, String, Vec<u8>)>>>;

/// Answers like MLflow's server, `status` to log-batch.
fn serve(status: u16) -> (String, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let asked = Asked::default();
    let kept = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let kept = kept.clone();
            std::thread::spawn(move || answer_all(&stream.unwrap(), status, &kept));
        }
    });
    (address, asked)
}

fn answer_all(stream: &TcpStream, status: u16, asked: &Asked) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let mut length = 0;
        let mut chunked = false;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).unwrap();
            let header = header.trim().to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            chunked |= header.starts_with("transfer-encoding:");
        }
        let body = if chunked {
            read_chunks(&mut reader)
        } else {
            read_body(&mut reader, length)
        };
        let mut parts = line.split(' ');
        let method = parts.next().unwrap().to_string();
        let path = parts.next().unwrap().to_string();
        let (code, text) = answer(&path, status);
        asked.lock().unwrap().push((method, path, body));
        let head = format!("HTTP/1.1 {code} x\r\ncontent-type: application/json\r\n");
        let mut stream = stream;
        write!(stream, "{head}content-length: {}\r\n\r\n{text}", text.len()).unwrap();
    }
}

fn read_body(reader: &mut BufReader<&TcpStream>, length: usize) -> Vec<u8> {
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    body
}

fn read_chunks(reader: &mut BufReader<&TcpStream>) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let mut size = String::new();
        reader.read_line(&mut size).unwrap();
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        body.extend(read_body(reader, size));
        read_body(reader, 2);
        if size == 0 {
            return body;
        }
    }
}

fn answer(path: &str, status: u16) -> (u16, String) {
    let path = path.strip_prefix("/api/2.0/").unwrap();
    if path.starts_with("mlflow/experiments/get-by-name") {
        return (
            404,
            json!({"error_code": "RESOURCE_DOES_NOT_EXIST"}).to_string(),
        );
    }
    let info = json!({"run_id": "r1", "artifact_uri": "mlflow-artifacts:/7/r1/artifacts"});
    match path {
        "mlflow/experiments/create" => (200, json!({"experiment_id": "7"}).to_string()),
        "mlflow/runs/create" => (200, json!({"run": {"info": info}}).to_string()),
        "mlflow/runs/log-batch" => (status, json!({"message": "so it is"}).to_string()),
        _ => (200, "{}".to_string()),
    }
}

fn watched(folder: &Path, uri: &str, resumed: Option<u64>) -> (Watcher, Arc<Mutex<Vec<String>>>) {
    let mut settings = WatchSettings::new(folder);
    settings.every = 1;
    let mut mlflow = MlflowSettings::new(uri, "re-ID & more");
    mlflow.credentials = Credentials::Token("secret".to_string());
    mlflow.patience = Duration::from_secs(20);
    settings.mlflow = Some(mlflow);
    let mut watcher = Watcher::new(&settings, run(), resumed);
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let heard = warnings.clone();
    watcher.on_warn(Box::new(move |text| {
        heard.lock().unwrap().push(text.to_string());
    }));
    (watcher, warnings)
}

fn body_of(asked: &[(String, String, Vec<u8>)], path: &str) -> Vec<Value> {
    let own = asked.iter().filter(|(_, own, _)| own.ends_with(path));
    own.map(|(_, _, body)| serde_json::from_slice(body).unwrap())
        .collect()
}

#[test]
fn mlflow_hears_of_everything() {
    let folder = TempDir::new().unwrap();
    let (uri, asked) = serve(200);
    let (mut watcher, warnings) = watched(folder.path(), &uri, None);
    train(&mut watcher, 0..2);
    watcher.finish(None);
    assert_eq!(*warnings.lock().unwrap(), Vec::<String>::new());
    let first = asked.lock().unwrap().clone();
    assert!(
        first[0].1.ends_with("experiment_name=re-ID%20%26%20more"),
        "{}",
        first[0].1
    );
    assert_eq!(
        body_of(&first, "experiments/create")[0],
        json!({"name": "re-ID & more"})
    );
    assert_eq!(body_of(&first, "runs/create")[0]["experiment_id"], "7");
    let batches = body_of(&first, "runs/log-batch");
    let parameters = batches[0]["params"].as_array().unwrap();
    assert_eq!(
        parameters[0],
        json!({"key": "optimiser.lr", "value": "0.00035"})
    );
    assert_eq!(parameters[1]["key"], "data_root");
    assert_eq!(parameters[1]["value"].as_str().unwrap().len(), 500);
    let metrics: Vec<&Value> = batches
        .iter()
        .filter_map(|batch| batch["metrics"].as_array())
        .flatten()
        .collect();
    let of = |key: &str| -> Vec<(u64, f64)> {
        let own = metrics.iter().filter(|metric| metric["key"] == key);
        own.map(|m| (m["step"].as_u64().unwrap(), m["value"].as_f64().unwrap()))
            .collect()
    };
    assert_eq!(
        of("loss/id"),
        [(0, 6.0), (1, 5.0), (2, 4.0), (3, 3.0), (4, 2.0), (5, 1.0)]
    );
    assert_eq!(of("val/map"), [(5, 0.26)]);
    assert_eq!(of("loss/triplet"), [], "NaN is no JSON");
    let put = first.iter().filter(|(method, ..)| method == "PUT");
    let put: Vec<&str> = put.map(|(_, path, _)| path.as_str()).collect();
    let place = "/api/2.0/mlflow-artifacts/artifacts/7/r1/artifacts";
    assert_eq!(
        put,
        [format!("{place}/{REPORT}"), format!("{place}/{LINES}")]
    );
    assert_eq!(body_of(&first, "runs/update")[0]["status"], "FINISHED");

    // A run that goes on is the same run.
    let (mut watcher, _) = watched(folder.path(), &uri, Some(2));
    train(&mut watcher, 2..3);
    watcher.fail(Outcome::Interrupted);
    let asked = asked.lock().unwrap();
    assert_eq!(body_of(&asked, "runs/create").len(), 1);
    let updates = body_of(&asked, "runs/update");
    let states: Vec<&str> = updates
        .iter()
        .map(|body| body["status"].as_str().unwrap())
        .collect();
    assert_eq!(states, ["FINISHED", "RUNNING", "KILLED"]);
}

// Longer than any buffer on its way; nothing is read before it is sent.
#[test]
fn mlflow_gets_weights_whole() {
    let folder = TempDir::new().unwrap();
    let (uri, asked) = serve(200);
    let (mut watcher, warnings) = watched(folder.path(), &uri, None);
    let weights = folder.path().join("best.safetensors");
    let bytes: Vec<u8> = (0..5_000_011_u32)
        .map(|index| (index % 251) as u8)
        .collect();
    std::fs::write(&weights, &bytes).unwrap();
    watcher.artifact(&weights);
    watcher.finish(None);
    assert_eq!(*warnings.lock().unwrap(), Vec::<String>::new());
    let asked = asked.lock().unwrap();
    let put = |(method, path, _): &&(String, String, Vec<u8>)| {
        method == "PUT" && path.ends_with("/7/r1/artifacts/best.safetensors")
    };
    let found: Vec<_> = asked.iter().filter(put).collect();
    assert_eq!(found.len(), 1);
    assert!(found[0].2 == bytes, "{} bytes", found[0].2.len());
}

#[test]
fn what_mlflow_refuses_is_told_once() {
    let folder = TempDir::new().unwrap();
    let (uri, _) = serve(400);
    let (mut watcher, warnings) = watched(folder.path(), &uri, None);
    train(&mut watcher, 0..4);
    watcher.finish(None);
    let warnings = warnings.lock().unwrap();
    let told = warnings.join("\n");
    assert!(told.contains("refuses parameters: 400: so it is"), "{told}");
    assert!(warnings.len() <= 2, "{told}");
}

#[test]
fn a_server_that_is_not_there_costs_nothing() {
    let folder = TempDir::new().unwrap();
    // A port that was free a moment ago.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let (mut watcher, warnings) = watched(folder.path(), &uri, None);
    let begun = Instant::now();
    for number in 0..5000 {
        watcher.step(&step(number));
    }
    watcher.finish(None);
    assert!(begun.elapsed() < Duration::from_secs(20));
    let warnings = warnings.lock().unwrap();
    assert!((1..=3).contains(&warnings.len()), "{warnings:?}");
    assert!(
        warnings.iter().all(|text| text.contains("MLflow")),
        "{warnings:?}"
    );
    assert_eq!(lines(folder.path()).len(), 5000);
}

#[test]
fn a_server_that_never_answers_is_not_waited_for() {
    let folder = TempDir::new().unwrap();
    // Connections are made by the system; nobody takes them.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    let mut settings = WatchSettings::new(folder.path());
    let mut mlflow = MlflowSettings::new(uri, "silent");
    mlflow.patience = Duration::from_millis(300);
    settings.mlflow = Some(mlflow);
    let mut watcher = Watcher::new(&settings, run(), None);
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let heard = warnings.clone();
    watcher.on_warn(Box::new(move |text| {
        heard.lock().unwrap().push(text.to_string());
    }));
    train(&mut watcher, 0..4);
    let begun = Instant::now();
    watcher.finish(None);
    assert!(begun.elapsed() < Duration::from_secs(10));
    let warnings = warnings.lock().unwrap();
    assert!(
        warnings
            .iter()
            .any(|text| text.contains("did not hear all")),
        "{warnings:?}"
    );
}

#[test]
fn a_folder_that_cannot_be_written_costs_nothing() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("file");
    fs::write(&path, b"in the way").unwrap();
    let mut watcher = Watcher::new(&WatchSettings::new(&path), run(), None);
    train(&mut watcher, 0..2);
    watcher.finish(None);
    assert_eq!(watcher.epochs().len(), 2);
}

// By hand: person 1 is found first in the other camera; person 2's query lies nearest to person 3's
// image.
#[test]
fn the_hardest_person_is_told_with_whom_it_is_taken_for() {
    let folder = TempDir::new().unwrap();
    let image = |id: i64, camera: u32, frame: u32| {
        let name = ImageName {
            id,
            camera,
            sequence: 1,
            frame,
            bbox: 0,
        };
        let path = folder.path().join(format!("{name}.jpg"));
        write_jpeg(&path, &made_up_image(16, 32, frame)).unwrap();
        Image { path, name }
    };
    let probe = Probe {
        query: vec![image(1, 1, 1), image(2, 1, 2)],
        gallery: vec![image(1, 2, 3), image(2, 2, 4), image(3, 2, 5)],
    };
    let features = |values: &[[f32; 2]], images: &[Image]| {
        let ids = images.iter().map(|image| image.name.id).collect();
        let cameras = images
            .iter()
            .map(|image| i64::from(image.name.camera))
            .collect();
        Features::new(values.concat(), 2, ids, cameras).unwrap()
    };
    let query = features(&[[1.0, 0.0], [0.0, 1.0]], &probe.query);
    let gallery = features(&[[0.9, 0.1], [1.0, 0.3], [0.1, 1.0]], &probe.gallery);
    let evaluation =
        Evaluation::new(&query, &gallery, Options::default(), &mut |_, _, _| ()).unwrap();
    let hard = hardest(&evaluation, &probe, 1).unwrap();
    let told: Vec<(i64, f64)> = hard.people.iter().map(|one| (one.id, one.rank1)).collect();
    assert_eq!(told, [(2, 0.0), (1, 1.0)]);
    assert_eq!(hard.people[0].taken_for, [(3, 1)]);
    assert_eq!(hard.lists.len(), 1);

    let mut watcher = Watcher::new(&WatchSettings::new(folder.path()), run(), None);
    watcher.finish(Some(&hard));
    let report = fs::read_to_string(folder.path().join(REPORT)).unwrap();
    assert!(
        report.contains("<td>2</td><td class=\"n\">1</td><td class=\"n\">0.0</td>"),
        "{report}"
    );
    assert!(report.contains("3 (1)") && report.contains("data:image/png;base64,"));
}
