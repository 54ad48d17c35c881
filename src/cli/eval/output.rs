//! How measured sequences leave the program: a table or JSON, CSV, a picture.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;

use crate::eval::report::{Figures, Measured, Report, table};
use crate::eval::{csv, plot};

/// What is written, and where.
#[derive(Debug, Args)]
pub struct Output {
    /// Print JSON with HOTA's curves, ratios as fractions, instead of a table
    #[arg(long, env = "MTMC_JSON")]
    pub json: bool,

    /// Write all figures as CSV too, in the columns of TrackEval's detailed results
    #[arg(long, env = "MTMC_EVAL_CSV", value_name = "FILE.csv")]
    csv: Option<PathBuf>,

    /// Draw HOTA, DetA, AssA and LocA over the threshold of localisation, as SVG
    #[arg(long, env = "MTMC_EVAL_PLOT", value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

impl Output {
    /// Writes the rows; the last of them is the one that is drawn.
    pub fn write(&self, rows: &[(String, Measured)]) -> anyhow::Result<()> {
        self.files(rows, "", None)?;
        if self.json {
            return print_json(&json(rows)?);
        }
        write!(std::io::stdout().lock(), "{}", figures_table(rows))?;
        Ok(())
    }

    /// Writes CSV and picture, where they were asked for; `heading` stands in the picture's title,
    /// and `part` in the files' names if there are several of each.
    pub fn files(
        &self,
        rows: &[(String, Measured)],
        heading: &str,
        part: Option<&str>,
    ) -> anyhow::Result<()> {
        if let Some(path) = &self.csv {
            write_file(&part_path(path, part), &csv::detailed(rows))?;
        }
        if let (Some(path), Some((name, measured))) = (&self.plot, rows.last()) {
            let title = format!("{heading} {name}");
            let picture = plot::draw(title.trim(), &plot::curves(measured));
            write_file(&part_path(path, part), &picture)?;
        }
        Ok(())
    }
}

/// `FILE-PART.csv` for `FILE.csv`.
fn part_path(path: &Path, part: Option<&str>) -> PathBuf {
    let Some(part) = part else {
        return path.to_path_buf();
    };
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let ending = path.extension().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{stem}-{part}.{ending}"))
}

/// The table that people read.
pub fn figures_table(rows: &[(String, Measured)]) -> String {
    let figures: Vec<(String, Figures)> = rows
        .iter()
        .map(|(name, measured)| (name.clone(), measured.figures()))
        .collect();
    table(&figures)
}

/// One sequence's report alone, several by name.
pub fn json(rows: &[(String, Measured)]) -> anyhow::Result<serde_json::Value> {
    if let [(_, measured)] = rows {
        return Ok(serde_json::to_value(measured.report())?);
    }
    let reports: BTreeMap<&str, Report> = rows
        .iter()
        .map(|(name, measured)| (name.as_str(), measured.report()))
        .collect();
    Ok(serde_json::to_value(reports)?)
}

/// Prints on stdout.
pub fn print_json(value: &serde_json::Value) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{}", serde_json::to_string_pretty(value)?)?;
    Ok(())
}

/// Writes a whole file, under its name only when it is whole.
pub fn write_file(path: &Path, text: &str) -> anyhow::Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    std::fs::write(&part, text)
        .and_then(|()| std::fs::rename(&part, path))
        .with_context(|| path.display().to_string())
}
