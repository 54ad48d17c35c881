//! Options that several commands share: weights, device, what counts as a detection.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, Once, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use candle_core::{DType, Device, DeviceLocation};
use clap::{Args, ValueEnum};
use mtmc_models::layers::{Mode, Precision as CpuPrecision};
use mtmc_models::{
    Description, DetectOptions, Detector as _, LoadedDetector, LoadedEmbedder, Weights,
};

use crate::pipeline::SyncMode;
use crate::source::Backoff;

/// On what to compute, and how.
#[derive(Debug, Args)]
pub struct ComputeArgs {
    /// Where to compute: cpu, cuda, cuda:N, or auto (CUDA if there is one)
    #[arg(long, env = "MTMC_DEVICE", default_value = "auto")]
    pub device: String,

    /// Numbers to compute with. On CPUs with AVX512-BF16, bf16 takes a quarter to two fifths less time and
    /// changes results a little; `auto` takes it for networks that are known to find the same with it
    #[arg(long, env = "MTMC_PRECISION", default_value = "f32")]
    pub precision: Precision,

    /// CPU threads; all cores if not given
    #[arg(long, env = "MTMC_THREADS", value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
}

/// Which detector, on what.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// Detector weights: a .safetensors file, or a name of `mtmc models list`, fetched if absent
    #[arg(short, long, env = "RTDETR_MODEL_PATH", default_value = "deimv2-femto")]
    pub weights: String,

    /// Side in pixels of the detector's square input, a multiple of 32; by default what the weights
    /// were made for
    #[arg(long, env = "RTDETR_INPUT_SIZE", value_parser = input_size)]
    pub input_size: Option<usize>,

    #[command(flatten)]
    pub compute: ComputeArgs,
}

/// Floating-point types of the networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Precision {
    /// On CPUs that have it bf16, for networks that are known to find the same with it; f32 otherwise
    Auto,
    /// 32 bits
    F32,
    /// bfloat16: on CUDA for everything, on CPUs that have it for matrix products
    Bf16,
    /// 16 bits; CUDA only
    F16,
}

/// What counts as a detection.
#[derive(Debug, Args)]
pub struct DetectionArgs {
    /// Lowest score that counts as a detection (0..1)
    #[arg(long, env = "RTDETR_CONFIDENCE_THRESHOLD", default_value_t = 0.5, value_parser = unit)]
    pub confidence: f32,

    /// IoU above which the weaker of two boxes is dropped (0..1). DETR-like networks need no
    /// suppression and do none unless this is given; YOLOv8 uses 0.45
    #[arg(long, env = "RTDETR_NMS_THRESHOLD", value_parser = unit)]
    pub nms: Option<f32>,

    /// Classes to report, by name or index, separated by commas; `all` for every class
    #[arg(long, env = "MTMC_CLASSES", default_value = "person")]
    pub classes: String,
}

/// How cameras are kept in step, and what becomes of those that fail.
#[derive(Debug, Args)]
pub struct SyncArgs {
    /// `lossless` tracks every frame and waits for every camera: the same input gives the same
    /// results. `live` waits for nobody for long and drops what it has no time for. By default live
    /// if a source is a live address, such as rtsp://…
    #[arg(long, env = "MTMC_SYNC")]
    pub sync: Option<Sync>,

    /// Live: seconds that a time step waits for a camera without a frame, before the others go on
    #[arg(long, env = "MTMC_MAX_WAIT", default_value_t = SyncMode::MAX_WAIT.as_secs_f64(), value_parser = seconds)]
    pub max_wait: f64,

    /// Take frames of files no sooner than their time has come, as if they were cameras
    #[arg(long, env = "MTMC_REALTIME")]
    pub realtime: bool,

    /// Seconds for which a live source that failed is tried again; 0 for not at all, `inf` for ever
    #[arg(long, env = "MTMC_RECONNECT", default_value_t = 300.0, value_parser = seconds)]
    pub reconnect: f64,
}

/// How cameras are kept in step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Sync {
    /// Every frame, however long it takes
    Lossless,
    /// What there is time for
    Live,
}

impl SyncArgs {
    /// What was asked for, or what suits sources of which one is live, or none.
    pub fn mode(&self, live: bool) -> SyncMode {
        let suits = if live { Sync::Live } else { Sync::Lossless };
        match self.sync.unwrap_or(suits) {
            Sync::Lossless => SyncMode::Lossless,
            Sync::Live => SyncMode::live(duration(self.max_wait).unwrap_or(Duration::MAX)),
        }
    }

    /// When sources that failed are tried again.
    pub fn backoff(&self) -> Backoff {
        Backoff {
            give_up: duration(self.reconnect),
            ..Backoff::default()
        }
    }
}

/// A time that passes some day; `None` for others.
fn duration(seconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds).ok()
}

/// Parses a time in seconds.
fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds >= 0.0 => Ok(seconds),
        _ => Err("must be a number of seconds, not below 0".to_string()),
    }
}

/// Parses the side of a network's input.
fn input_size(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(side) if (32..=4096).contains(&side) && side % 32 == 0 => Ok(side),
        _ => Err("must be a multiple of 32 from 32 to 4096".to_string()),
    }
}

/// Parses a number in 0..=1.
pub fn unit(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if (0.0..=1.0).contains(&value) => Ok(value),
        _ => Err("must be a number from 0 to 1".to_string()),
    }
}

impl ComputeArgs {
    /// Starts the compute threads, for what is mostly computed; to be called before any other thread is started.
    pub fn start_threads(&self, mode: Mode) -> anyhow::Result<()> {
        let threads = match self.threads {
            Some(threads) => usize::from(threads),
            None => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        };
        mtmc_models::ops::set_threads(threads, mode).context("could not start the compute threads")
    }

    /// The device and the type of numbers, which must go together; `auto`, of no certain network, is f32.
    pub fn device(&self) -> anyhow::Result<(Device, DType)> {
        let device = device(&self.device)?;
        let quick = CpuPrecision::Bf16.available();
        let dtype = match self.precision {
            Precision::Auto | Precision::F32 => DType::F32,
            Precision::Bf16 => DType::BF16,
            Precision::F16 => DType::F16,
        };
        if device.is_cpu() && dtype == DType::BF16 && !quick {
            bail!("--precision bf16: this CPU has no AVX512-BF16");
        }
        if device.is_cpu() && dtype == DType::F16 {
            bail!("--precision f16 needs a CUDA device; CPUs compute in f32 or bf16");
        }
        Ok((device, dtype))
    }

    /// Whether networks may be computed in bf16 that were not asked for so.
    fn may_choose_bf16(&self, device: &Device) -> bool {
        self.precision == Precision::Auto && device.is_cpu() && CpuPrecision::Bf16.available()
    }

    /// The type of numbers for a network, out of what [`ComputeArgs::device`] gives.
    pub fn dtype(&self, (device, dtype): (&Device, DType), network: &Description) -> DType {
        if self.may_choose_bf16(device) && network.keeps_results_in_bf16() {
            DType::BF16
        } else {
            dtype
        }
    }

    /// What numbers depend on, beside the weights.
    pub fn numbers(&self) -> anyhow::Result<String> {
        let (device, dtype) = self.device()?;
        let choice = if self.may_choose_bf16(&device) {
            " or BF16"
        } else {
            ""
        };
        let device = if device.is_cpu() { "CPU" } else { "CUDA" };
        Ok(format!("{dtype:?}{choice}, {device}"))
    }

    /// Loads re-ID weights, fetching them if they are only named.
    pub fn embedder(&self, weights: &str) -> anyhow::Result<LoadedEmbedder> {
        let (device, dtype) = self.device()?;
        let path = weights_path(weights)?;
        let weights = Weights::load(&path, &device)?;
        let dtype = self.dtype((&device, dtype), weights.description());
        LoadedEmbedder::new(&weights, &device, dtype)
            .with_context(|| format!("{} does not hold a usable re-ID encoder", path.display()))
    }
}

impl ModelArgs {
    /// Loads the detector, fetching its weights if they are only named.
    pub fn load(&self) -> anyhow::Result<LoadedDetector> {
        let (device, dtype) = self.compute.device()?;
        let path = weights_path(&self.weights)?;
        let mut weights = Weights::load(&path, &device)?;
        let dtype = self.compute.dtype((&device, dtype), weights.description());
        if let Some(side) = self.input_size {
            weights.set_input_side(side);
        }
        let detector = LoadedDetector::new(&weights, &device, dtype)
            .with_context(|| format!("{} does not hold a usable detector", path.display()))?;
        Ok(detector)
    }
}

/// Names of a device and of its numbers, such as `cuda:0` and `bf16`.
pub fn names((device, dtype): (&Device, DType)) -> (String, String) {
    let device = match device.location() {
        DeviceLocation::Cpu => "cpu".to_string(),
        DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    };
    (device, dtype.as_str().to_string())
}

/// The file that `weights` stands for: itself, or what is fetched under that name.
pub fn weights_path(weights: &str) -> anyhow::Result<PathBuf> {
    let path = Path::new(weights);
    let foreign = ["pt", "pth", "onnx"]
        .iter()
        .any(|e| path.extension().is_some_and(|p| p == *e));
    if foreign && path.exists() {
        bail!(
            "{0}: weights of another program; make them ours first: \
             `mtmc models convert {0} --out {1}`",
            path.display(),
            path.with_extension("safetensors").display()
        );
    }
    if path.exists() {
        return Ok(path.to_path_buf());
    }
    // Names hold dots too (`osnet-x0.25-market1501`); files have a folder or an ending.
    if weights.contains(['/', '\\']) || weights.ends_with(".safetensors") || foreign {
        bail!(
            "{weights}: no such file; `mtmc models list` shows weights that can be fetched by name"
        );
    }
    super::models::fetch(weights)
}

impl DetectionArgs {
    /// As a detector wants it, with the given floor for scores.
    pub fn options(
        &self,
        detector: &LoadedDetector,
        score_floor: f32,
    ) -> anyhow::Result<DetectOptions> {
        Ok(DetectOptions {
            score_floor,
            classes: class_indices(&self.classes, detector.classes())?,
            nms_iou: self.nms,
        })
    }
}

fn class_indices(wanted: &str, known: &[String]) -> anyhow::Result<Vec<u32>> {
    if wanted.trim() == "all" {
        return Ok(Vec::new());
    }
    let mut indices = Vec::new();
    for name in wanted.split(',').map(str::trim) {
        let by_name = known.iter().position(|class| class == name);
        let by_index = name
            .parse()
            .ok()
            .filter(|index: &usize| *index < known.len());
        match by_name.or(by_index) {
            Some(index) => indices.push(index as u32),
            None => bail!(
                "--classes: `{name}` is no class of these weights; they know {}",
                known.join(", ")
            ),
        }
    }
    Ok(indices)
}

/// The device that a name stands for.
fn device(name: &str) -> anyhow::Result<Device> {
    let ordinal = match name {
        "cpu" => return Ok(Device::Cpu),
        "auto" => return Ok(automatic()),
        "cuda" => 0,
        _ => match name.strip_prefix("cuda:").map(str::parse) {
            Some(Ok(ordinal)) => ordinal,
            _ => bail!("--device: `{name}` is none of cpu, cuda, cuda:N, auto"),
        },
    };
    if !cfg!(feature = "cuda") {
        bail!("--device {name}: this program was built without CUDA (`--features cuda`)");
    }
    cuda(ordinal).with_context(|| format!("--device {name}: no usable CUDA device"))
}

/// CUDA if this program was built with it and the machine has a device, else the CPU; says so once
/// where CUDA was to be expected.
fn automatic() -> Device {
    static SAID: Once = Once::new();
    if !cfg!(feature = "cuda") {
        return Device::Cpu;
    }
    match cuda(0) {
        Ok(device) => device,
        Err(error) => {
            SAID.call_once(|| {
                // Commands without a log say it too.
                let _ = writeln!(
                    std::io::stderr(),
                    "warning: no usable CUDA device, computing on the CPU: {error}"
                );
            });
            Device::Cpu
        }
    }
}

/// The CUDA device `ordinal`, opened once: all networks share its stream and its memory.
fn cuda(ordinal: usize) -> anyhow::Result<Device> {
    static OPEN: Mutex<BTreeMap<usize, Device>> = Mutex::new(BTreeMap::new());
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(device) = open.get(&ordinal) {
        return Ok(device.clone());
    }
    // Libraries of CUDA that are too old, or only in part there, end in a panic.
    let device = match std::panic::catch_unwind(|| open_cuda(ordinal)) {
        Ok(Ok(device)) => device,
        Ok(Err(error)) => {
            // The first line says what it is; what follows is a backtrace, if any.
            let text = error.to_string();
            bail!("{}", text.lines().next().unwrap_or("unknown reason"));
        }
        Err(_) => bail!("the CUDA libraries are not usable: is the driver of CUDA 12 or 13?"),
    };
    open.insert(ordinal, device.clone());
    Ok(device)
}

fn open_cuda(ordinal: usize) -> candle_core::Result<Device> {
    #[cfg(feature = "cuda")]
    return mtmc_models::ops::cuda::device::open(ordinal);
    // Says that the program was built without.
    #[cfg(not(feature = "cuda"))]
    Device::new_cuda(ordinal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_go_by_name_index_and_all() {
        let known = ["person", "bicycle"].map(str::to_string);
        assert_eq!(class_indices("person", &known).unwrap(), [0]);
        assert_eq!(class_indices("1, person", &known).unwrap(), [1, 0]);
        assert!(class_indices("all", &known).unwrap().is_empty());
        let error = class_indices("cat", &known).unwrap_err().to_string();
        assert!(
            error.contains("`cat`") && error.contains("bicycle"),
            "{error}"
        );
    }

    #[test]
    fn thresholds_are_within_zero_and_one() {
        assert_eq!(unit("0.5"), Ok(0.5));
        for wrong in ["-0.1", "1.1", "NaN", "x"] {
            assert!(unit(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_are_not_negative() {
        assert_eq!(seconds("0.25"), Ok(0.25));
        assert_eq!(duration(seconds("inf").unwrap()), None);
        for wrong in ["-1", "NaN", "x"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn input_sizes_are_multiples_of_the_stride() {
        assert_eq!(input_size("640"), Ok(640));
        for wrong in ["0", "650", "8192", "-32", "x"] {
            assert!(input_size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn devices_are_told_apart() {
        assert!(device("cpu").unwrap().is_cpu());
        assert!(device("gpu").unwrap_err().to_string().contains("cuda:N"));
        if cfg!(feature = "cuda") {
            return; // whether there is one, depends on the machine
        }
        assert!(device("auto").unwrap().is_cpu());
        for name in ["cuda", "cuda:1"] {
            let error = device(name).unwrap_err().to_string();
            assert!(error.contains("without CUDA"), "{error}");
        }
    }
}
