//! What happened, as JSON lines: one object a line, told apart by `kind`.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::path::Path;

use serde_json::{Value, json};

use super::{Epoch, Step};

/// Longest line that is read back.
const MAX_LINE: usize = 1 << 20;

/// The file.
#[derive(Debug)]
pub struct Lines {
    file: BufWriter<File>,
}

impl Lines {
    /// Begins the file, or goes on with it: where a run is resumed, what was told of epoch `resumed`
    /// and later ones is void and goes, as does a line that was cut short.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn open(path: &Path, resumed: Option<u64>) -> std::io::Result<Self> {
        let kept = match resumed {
            Some(epoch) => before(path, epoch)?,
            None => String::new(),
        };
        let mut part = path.as_os_str().to_os_string();
        part.push(".part");
        std::fs::write(&part, kept)?;
        std::fs::rename(&part, path)?;
        let file = OpenOptions::new().append(true).open(path)?;
        Ok(Self {
            file: BufWriter::new(file),
        })
    }

    /// Writes one step.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn step(&mut self, time: f64, step: &Step) -> std::io::Result<()> {
        self.write(&json!({
            "kind": "step",
            "time": time,
            "epoch": step.epoch,
            "step": step.step,
            "losses": named(&step.losses),
            "accuracy": step.accuracy,
            "lr": step.lr,
            "images_per_second": step.images_per_second,
        }))
    }

    /// Writes one epoch.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn epoch(&mut self, time: f64, epoch: &Epoch) -> std::io::Result<()> {
        self.write(&json!({
            "kind": "epoch",
            "time": time,
            "epoch": epoch.epoch,
            "step": epoch.step,
            "losses": named(&epoch.losses),
            "accuracy": epoch.accuracy,
            "lr": epoch.lr,
            "images_per_second": epoch.images_per_second,
            "seconds": epoch.seconds,
            "rank1": epoch.rank1,
            "map": epoch.map,
        }))
    }

    fn write(&mut self, value: &Value) -> std::io::Result<()> {
        writeln!(self.file, "{value}")?;
        self.file.flush()
    }
}

fn named(values: &[(String, f64)]) -> Value {
    let pairs = values
        .iter()
        .map(|(name, value)| (name.clone(), json!(value)));
    Value::Object(pairs.collect())
}

/// The whole lines of epochs before `epoch`.
fn before(path: &Path, epoch: u64) -> std::io::Result<String> {
    let mut kept = String::new();
    for value in read(path)? {
        if value["epoch"].as_u64().is_some_and(|own| own < epoch) {
            kept.push_str(&value.to_string());
            kept.push('\n');
        }
    }
    Ok(kept)
}

/// All whole lines of a file; none if there is no file.
fn read(path: &Path) -> std::io::Result<Vec<Value>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut values = Vec::new();
    for line in BufReader::new(file).split(b'\n') {
        let line = line?;
        if line.len() > MAX_LINE {
            continue;
        }
        if let Ok(value) = serde_json::from_slice(&line) {
            values.push(value);
        }
    }
    Ok(values)
}

/// What a file tells of epochs before `epoch`, for those who draw the whole run's curves.
///
/// # Errors
/// The file cannot be read.
pub(super) fn history(path: &Path, epoch: u64) -> std::io::Result<Vec<Epoch>> {
    let told = read(path)?
        .into_iter()
        .filter(|value| value["kind"] == "epoch");
    let reports = told.filter_map(|value| epoch_of(&value));
    Ok(reports.filter(|report| report.epoch < epoch).collect())
}

fn epoch_of(value: &Value) -> Option<Epoch> {
    let losses = value["losses"].as_object()?.iter();
    Some(Epoch {
        epoch: value["epoch"].as_u64()?,
        step: value["step"].as_u64()?,
        losses: losses
            .filter_map(|(name, value)| Some((name.clone(), value.as_f64()?)))
            .collect(),
        accuracy: value["accuracy"].as_f64()?,
        lr: value["lr"].as_f64()?,
        images_per_second: value["images_per_second"].as_f64()?,
        seconds: value["seconds"].as_f64()?,
        rank1: value["rank1"].as_f64(),
        map: value["map"].as_f64(),
    })
}
