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
    /// Writes the rows of one tracker, the last of them being drawn; `heading` stands above the
    /// table.
    pub fn write(&self, heading: &str, rows: &[(String, Measured)]) -> anyhow::Result<()> {
        self.files(rows, heading)?;
        if self.json {
            return print_json(&json(rows)?);
        }
        let figures: Vec<(String, Figures)> = rows
            .iter()
            .map(|(name, measured)| (name.clone(), measured.figures()))
            .collect();
        let mut stdout = std::io::stdout().lock();
        write!(stdout, "{heading}{}", table(&figures))?;
        Ok(())
    }

    /// Writes CSV and picture, where they were asked for.
    pub fn files(&self, rows: &[(String, Measured)], heading: &str) -> anyhow::Result<()> {
        if let Some(path) = &self.csv {
            write_file(path, &csv::detailed(rows))?;
        }
        if let (Some(path), Some((name, measured))) = (&self.plot, rows.last()) {
            let title = format!("{} {name}", heading.trim());
            write_file(path, &plot::draw(title.trim(), &plot::curves(measured)))?;
        }
        Ok(())
    }
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
