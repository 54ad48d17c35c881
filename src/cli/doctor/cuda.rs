//! The GPU: its name and memory, every kernel against its CPU twin, and the detector on both.

use candle_core::cuda_backend::cudarc::driver::sys::CUdevice_attribute;
use candle_core::{CudaDevice, DType, Device};
use mtmc_models::ops::cuda::checks::{self, Check};
use mtmc_models::testing::{made_up_description, made_up_image, made_up_weights};
use mtmc_models::{
    Crop, DetectOptions, Detector as _, Embedder as _, LoadedDetector, LoadedEmbedder,
    expected_tensors,
};

use super::{DoctorArgs, Findings};

/// Largest difference of a network's numbers between GPU and CPU, in f32: sums in another order,
/// through many layers.
const NETWORK_LIMIT: f32 = 2e-3;

const FAULT: &str = "this is a fault of the program, the driver or the GPU: report it";

pub(super) fn look(args: &DoctorArgs, findings: &mut Findings) {
    // Where the device cannot be had, the line about it says so.
    let Ok((Device::Cuda(device), _)) = args.model.compute.device() else {
        return;
    };
    match describe(&device) {
        Ok(what) => findings.ok("GPU", what),
        Err(error) => findings.fail("GPU", format!("{error:#}"), FAULT),
    }
    match checks::all(&device, usize::from(args.kernel_cases)) {
        Ok(checks) => kernels(&checks, findings),
        Err(error) => findings.fail("kernels", format!("{error:#}"), FAULT),
    }
    network(findings, "detector", "rtdetr-r18", &device, detected);
    network(findings, "encoder", "osnet-x0.25", &device, embedded);
}

/// Name, compute capability, multiprocessors, memory.
fn describe(device: &CudaDevice) -> anyhow::Result<String> {
    let stream = device.cuda_stream();
    let context = stream.context();
    let (major, minor) = context.compute_capability()?;
    let count = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
    let (free, all) = context.mem_get_info()?;
    let gib = |bytes: usize| bytes as f64 / f64::from(1 << 30);
    Ok(format!(
        "{}, compute capability {major}.{minor}, {} multiprocessors, {:.1} of {:.1} GiB free",
        context.name()?,
        context.attribute(count)?,
        gib(free),
        gib(all)
    ))
}

/// One line a kernel and type: a table of errors.
fn kernels(checks: &[Check], findings: &mut Findings) {
    for check in checks {
        let what = format!(
            "{:<20} {:<4}  largest difference {:.1e}, limit {:.0e}, {} cases",
            check.kernel,
            check.dtype.as_str(),
            check.worst,
            check.limit,
            check.cases
        );
        if check.passed() {
            findings.ok("kernel", what);
        } else {
            findings.fail("kernel", what, FAULT);
        }
    }
}

/// What a network of made-up weights gives on one device.
type Numbers = fn(&str, &Device) -> anyhow::Result<Vec<f32>>;

fn network(
    findings: &mut Findings,
    check: &str,
    name: &str,
    device: &CudaDevice,
    numbers: Numbers,
) {
    let gpu = Device::Cuda(device.clone());
    let both = numbers(name, &gpu).and_then(|there| Ok((there, numbers(name, &Device::Cpu)?)));
    match both {
        Ok((there, here)) => {
            let off = largest(&there, &here);
            let what = format!("{name} on GPU and CPU, f32: largest difference {off:.1e}");
            if off <= NETWORK_LIMIT {
                findings.ok(check, what);
            } else {
                findings.fail(check, what, FAULT);
            }
        }
        Err(error) => findings.fail(check, format!("{name}: {error:#}"), FAULT),
    }
}

/// The largest difference; infinity where there are not as many, or NaN.
fn largest(there: &[f32], here: &[f32]) -> f32 {
    if there.len() != here.len() {
        return f32::INFINITY;
    }
    let mut off = 0.0_f32;
    for (there, here) in there.iter().zip(here) {
        let apart = (there - here).abs();
        off = if apart.is_nan() {
            f32::INFINITY
        } else {
            off.max(apart)
        };
    }
    off
}

/// The scores of what is found in a made-up image, best first.
fn detected(name: &str, device: &Device) -> anyhow::Result<Vec<f32>> {
    let description = made_up_description(name);
    let weights = made_up_weights(&description, &expected_tensors(&description)?);
    let detector = LoadedDetector::new(&weights, device, DType::F32)?;
    let image = made_up_image(320, 256, 3);
    let options = DetectOptions {
        score_floor: 0.0,
        classes: Vec::new(),
        nms_iou: None,
    };
    let found = detector.detect(&[&image, &image], &options)?;
    // The weakest ones of many alike may change places.
    let best = found.iter().flat_map(|list| list.iter().take(50));
    Ok(best.map(|detection| detection.score).collect())
}

/// The vectors of two made-up people.
fn embedded(name: &str, device: &Device) -> anyhow::Result<Vec<f32>> {
    let mut description = made_up_description(name);
    (description.input_height, description.input_width) = (256, 128);
    let weights = made_up_weights(&description, &expected_tensors(&description)?);
    let embedder = LoadedEmbedder::new(&weights, device, DType::F32)?;
    let images = [made_up_image(60, 140, 1), made_up_image(90, 200, 2)];
    let crops: Vec<Crop<'_>> = images.iter().map(Crop::whole).collect();
    let mut numbers = Vec::new();
    for vector in embedder.embed(&crops)? {
        numbers.extend_from_slice(vector?.as_slice());
    }
    Ok(numbers)
}
