//! `mtmc doctor`: whether everything that the service needs is there and works, and what to do where
//! it does not.

#[cfg(feature = "cuda")]
mod cuda;
mod effect;
mod machine;
mod networks;
mod places;

use std::fmt::Display;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use mtmc_models::layers::Mode;
use serde::Serialize;

use super::options::ModelArgs;
use super::world;
use crate::config::{Environment, Overrides};
use crate::service::catalog::Catalog;

/// Arguments of `mtmc doctor`; those that `mtmc serve` has too mean the same.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Address that the service is to listen on
    #[arg(long, env = "MTMC_LISTEN", default_value = "127.0.0.1:8000")]
    listen: SocketAddr,

    /// Folder of all that the service keeps
    #[arg(
        long,
        env = "MTMC_DATA_DIR",
        value_name = "DIR",
        default_value = "mtmc-data"
    )]
    data_dir: PathBuf,

    /// Database of the service: a SQLite file, or postgres://…; a file in the data folder if not given
    #[arg(long, env = "MTMC_DATABASE", value_name = "ADDRESS")]
    database: Option<String>,

    /// Environments (TOML)
    #[arg(
        long = "environment",
        env = "MTMC_ENVIRONMENTS",
        value_name = "FILE",
        value_delimiter = ','
    )]
    environments: Vec<PathBuf>,

    #[command(flatten)]
    overrides: Overrides,

    /// Source of cameras that name none, such as `s3://bucket/{environment}/{camera}/`
    #[arg(long, env = "MTMC_SOURCE_TEMPLATE", value_name = "TEMPLATE")]
    source_template: Option<String>,

    #[command(flatten)]
    model: ModelArgs,

    /// Re-ID weights: a .safetensors file, or a name of `mtmc models list`; by default the
    /// environments' `reid.model`
    #[arg(long, env = "REID_MODEL_PATH", value_name = "WEIGHTS")]
    reid: Option<String>,

    /// A video or folder of images that is tracked with and without re-ID, for what differs
    #[arg(long, value_name = "VIDEO")]
    sample: Option<String>,

    /// Frames of the sample that are looked at
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(2..))]
    sample_frames: u64,

    /// Random cases in which each CUDA kernel is compared with the CPU, for each type of numbers;
    /// only where the device is a CUDA one
    #[arg(long, value_name = "COUNT", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1000))]
    kernel_cases: u16,

    /// Look at the device alone: processor, GPU, kernels
    #[arg(long)]
    device_only: bool,

    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    /// The service works, with something less.
    Warn,
    /// The service does not work, or not as asked for.
    Fail,
}

/// What was found of one thing.
#[derive(Debug, Clone, Serialize)]
struct Finding {
    verdict: Verdict,
    /// What was looked at.
    check: String,
    /// How it is.
    what: String,
    /// What to do; empty if nothing is.
    advice: String,
}

/// What was found so far.
#[derive(Debug, Default, Serialize)]
struct Findings {
    checks: Vec<Finding>,
}

impl Findings {
    fn ok(&mut self, check: &str, what: impl Display) {
        self.add(Verdict::Ok, check, &what, &"");
    }

    fn warn(&mut self, check: &str, what: impl Display, advice: impl Display) {
        self.add(Verdict::Warn, check, &what, &advice);
    }

    fn fail(&mut self, check: &str, what: impl Display, advice: impl Display) {
        self.add(Verdict::Fail, check, &what, &advice);
    }

    fn add(&mut self, verdict: Verdict, check: &str, what: &dyn Display, advice: &dyn Display) {
        self.checks.push(Finding {
            verdict,
            check: check.to_string(),
            // A password in an address or a token in an error stays where it is.
            what: crate::service::logs::redact(&what.to_string(), &[]),
            advice: advice.to_string(),
        });
    }

    fn count(&self, verdict: Verdict) -> usize {
        let of = |finding: &&Finding| finding.verdict == verdict;
        self.checks.iter().filter(of).count()
    }
}

/// Looks at everything, and says what it found.
///
/// # Errors
/// Something that the service needs is not there or does not work.
pub fn run(args: &DoctorArgs) -> anyhow::Result<()> {
    args.model.compute.start_threads(Mode::Inference)?;
    let mut findings = Findings::default();
    machine::compute(args, &mut findings);
    #[cfg(feature = "cuda")]
    cuda::look(args, &mut findings);
    if args.device_only {
        return finish(&findings, args.json);
    }
    machine::look(args, &mut findings);
    // Environments may name the encoder, so they are read first; they are told of after it.
    let mut read = Findings::default();
    let environments = environments(args, &mut read);
    let loaded = networks::look(args, &environments, &mut findings);
    findings.checks.append(&mut read.checks);
    let catalog = catalog(args, environments, &mut findings);
    places::look(args, &catalog, &mut findings);
    effect::made_up(&mut findings);
    if let Some(sample) = &args.sample {
        effect::sample(sample, args.sample_frames, &loaded, &mut findings);
    }
    finish(&findings, args.json)
}

/// Says what was found.
fn finish(findings: &Findings, json: bool) -> anyhow::Result<()> {
    write(findings, json)?;
    match findings.count(Verdict::Fail) {
        0 => Ok(()),
        1 => bail!("1 check failed"),
        failed => bail!("{failed} checks failed"),
    }
}

/// The environments that can be read.
fn environments(args: &DoctorArgs, findings: &mut Findings) -> Vec<Environment> {
    let mut environments: Vec<Environment> = Vec::new();
    if args.environments.is_empty() {
        match Environment::standard_with(&args.overrides) {
            Ok(standard) => environments.push(standard),
            Err(error) => findings.fail("environment", error, "correct the variables named"),
        }
    }
    for file in &args.environments {
        match world::load(file, &args.overrides) {
            Ok(environment) => environments.push(environment),
            Err(error) => findings.fail(
                "environment",
                format!("{error:#}"),
                "correct the file; docs/environment.md says what may stand in it",
            ),
        }
    }
    for environment in &environments {
        let cameras = environment.cameras.len();
        let what = format!("`{}` with {cameras} cameras can be read", environment.id);
        findings.ok("environment", what);
    }
    environments
}

/// All of them together.
fn catalog(args: &DoctorArgs, environments: Vec<Environment>, findings: &mut Findings) -> Catalog {
    match Catalog::new(environments, args.source_template.as_deref()) {
        Ok(catalog) => catalog,
        Err(error) => {
            findings.fail(
                "environment",
                error,
                "give each environment an id of its own",
            );
            Catalog::default()
        }
    }
}

fn write(findings: &Findings, json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, findings)?;
        writeln!(out)?;
        return Ok(());
    }
    for finding in &findings.checks {
        let verdict = match finding.verdict {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
        };
        writeln!(out, "{verdict:<5} {:<12} {}", finding.check, finding.what)?;
        if !finding.advice.is_empty() {
            writeln!(out, "{:<18} → {}", "", finding.advice)?;
        }
    }
    let [ok, warn, fail] =
        [Verdict::Ok, Verdict::Warn, Verdict::Fail].map(|verdict| findings.count(verdict));
    writeln!(out, "{ok} ok, {warn} to look at, {fail} failed")?;
    Ok(())
}
