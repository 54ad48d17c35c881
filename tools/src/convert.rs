//! The conversion: read, rename, check, write.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use mtmc_models::{Description, weights};

use crate::map::{self, Dropped, Numbers, Options, Plan};
use crate::read::{Checkpoint, Format};
use crate::{Error, Result};

/// What a conversion did.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Format of the file that was read.
    pub format: Format,
    /// What the written file says of itself.
    pub description: Description,
    /// Tensors written.
    pub tensors: usize,
    /// Numbers written.
    pub parameters: usize,
    /// What was left out, and why.
    pub dropped: Vec<Dropped>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let description = &self.description;
        let gives = match description.feature_dim {
            Some(size) => format!("vectors of {size} numbers"),
            None => format!("{} classes", description.classes.len()),
        };
        writeln!(
            f,
            "{}: {} tensors, {} numbers, {gives}, from {} ({}); licence: {}",
            description.architecture,
            self.tensors,
            self.parameters,
            description.source,
            self.format.name(),
            description.licence
        )?;
        let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
        for dropped in &self.dropped {
            *reasons.entry(&dropped.reason).or_default() += 1;
        }
        write!(f, "left out: {}", self.dropped.len())?;
        for (reason, count) in reasons {
            write!(f, "\n  {count}: {reason}")?;
        }
        Ok(())
    }
}

/// Converts the weights in `input` to our safetensors file `output`, which appears whole or not
/// at all. Memory: one tensor at a time.
///
/// # Errors
/// `input` cannot be read, is damaged, or is no network that is known; a number in it is not
/// finite; `output` cannot be written.
pub fn convert(input: &Path, output: &Path, options: &Options) -> Result<Report> {
    let mut checkpoint = Checkpoint::open(input)?;
    convert_checkpoint(&mut checkpoint, output, options)
}

/// As [`convert`], from an open checkpoint.
///
/// # Errors
/// As [`convert`].
pub fn convert_checkpoint(
    checkpoint: &mut Checkpoint,
    output: &Path,
    options: &Options,
) -> Result<Report> {
    let plan = map::plan(checkpoint, options)?;
    let part = part_path(output);
    let written = write(checkpoint, &plan, &part)
        .and_then(|()| std::fs::rename(&part, output).map_err(Error::io(output)));
    if let Err(error) = written {
        // The reason counts, not whether the rest could be removed.
        let _ = std::fs::remove_file(&part);
        return Err(error);
    }
    let sizes = plan
        .tensors
        .values()
        .map(|t| t.shape.iter().product::<usize>());
    Ok(Report {
        format: checkpoint.format(),
        description: plan.description,
        tensors: plan.tensors.len(),
        parameters: sizes.sum(),
        dropped: plan.dropped,
    })
}

/// Where the file grows until it is complete: beside it, so that renaming is atomic.
fn part_path(output: &Path) -> PathBuf {
    let mut name = output.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".part-{}", std::process::id()));
    output.with_file_name(name)
}

/// Writes the safetensors format (<https://github.com/huggingface/safetensors#format>): header
/// length, JSON header padded with spaces to a multiple of 8, numbers.
fn write(checkpoint: &mut Checkpoint, plan: &Plan, path: &Path) -> Result<()> {
    let header = header(plan).map_err(|error| Error::Malformed {
        path: path.to_path_buf(),
        reason: format!("its header cannot be written: {error}"),
    })?;
    let file = File::create(path).map_err(Error::io(path))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let io = || Error::io(path);
    out.write_all(&(header.len() as u64).to_le_bytes())
        .map_err(io())?;
    out.write_all(&header).map_err(io())?;
    for (name, tensor) in &plan.tensors {
        match &tensor.numbers {
            Numbers::Made(values) => {
                check_finite(checkpoint.path(), name, values)?;
                write_numbers(&mut out, values).map_err(io())?;
            }
            Numbers::Changed(source, change) => {
                let values = checkpoint.read(source)?;
                check_finite(checkpoint.path(), source, &values)?;
                let changed = change.apply(&values).ok_or_else(|| {
                    let reason = format!("{} numbers are not what it should have", values.len());
                    Error::tensor(checkpoint.path(), source, reason)
                })?;
                write_numbers(&mut out, &changed).map_err(io())?;
            }
            Numbers::Stored(sources) => {
                for source in sources {
                    let values = checkpoint.read(source)?;
                    check_finite(checkpoint.path(), source, &values)?;
                    write_numbers(&mut out, &values).map_err(io())?;
                }
            }
        }
    }
    let file = out.into_inner().map_err(|error| io()(error.into_error()))?;
    file.sync_all().map_err(io())
}

fn header(plan: &Plan) -> serde_json::Result<Vec<u8>> {
    let description = serde_json::to_string(&plan.description)?;
    let metadata = HashMap::from([(weights::METADATA_KEY, description)]);
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".to_string(), serde_json::to_value(metadata)?);
    let mut offset = 0;
    for (name, tensor) in &plan.tensors {
        let end = offset + 4 * tensor.shape.iter().product::<usize>();
        header.insert(
            name.clone(),
            serde_json::json!({
                "dtype": "F32",
                "shape": tensor.shape,
                "data_offsets": [offset, end],
            }),
        );
        offset = end;
    }
    let mut bytes = serde_json::to_vec(&header)?;
    bytes.resize(bytes.len().next_multiple_of(8), b' ');
    Ok(bytes)
}

fn check_finite(path: &Path, tensor: &str, values: &[f32]) -> Result<()> {
    match values.iter().position(|value| !value.is_finite()) {
        Some(index) => Err(Error::tensor(
            path,
            tensor,
            format!(
                "number {index} is {}: damaged, or its training diverged",
                values[index]
            ),
        )),
        None => Ok(()),
    }
}

fn write_numbers(out: &mut impl Write, values: &[f32]) -> std::io::Result<()> {
    for value in values {
        out.write_all(&value.to_le_bytes())?;
    }
    Ok(())
}
