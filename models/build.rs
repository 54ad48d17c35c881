//! With the feature `cuda`: compiles the kernels of `src/ops/cuda` with nvcc, each file to one fat
//! binary with machine code for the named GPUs and PTX for all later ones.
//!
//! - `NVCC`, or else `CUDA_HOME`, `CUDA_PATH`, `/usr/local/cuda` or `PATH`: where nvcc is.
//! - `MTMC_CUDA_ARCHITECTURES`: for which GPUs, such as `80,90`; by default A100 (80), RTX 30 (86),
//!   RTX 40 and L4 (89), H100 and H200 (90). The first is that of the PTX.

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, thread};

const SOURCES: &str = "src/ops/cuda";
const ARCHITECTURES: &str = "80,86,89,90";

/// Files whose results equal the CPU's to the last bit: multiplications and additions stay apart.
const EXACT: [&str; 2] = ["preprocess", "suppression"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return Ok(());
    }
    println!("cargo:rerun-if-changed={SOURCES}");
    for variable in ["NVCC", "CUDA_HOME", "CUDA_PATH", "MTMC_CUDA_ARCHITECTURES"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let nvcc = nvcc()?;
    let wanted = env::var("MTMC_CUDA_ARCHITECTURES");
    let architectures = wanted.unwrap_or_else(|_| ARCHITECTURES.to_string());
    let mut names = Vec::new();
    for entry in fs::read_dir(SOURCES)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "cu") {
            names.extend(path.file_stem().map(|stem| stem.display().to_string()));
        }
    }
    names.sort();
    let jobs = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok());
    for some in names.chunks(jobs.unwrap_or(1_usize).max(1)) {
        thread::scope(|scope| {
            let mut running = Vec::new();
            for name in some {
                running.push(scope.spawn(|| compile(&nvcc, &architectures, name, &out)));
            }
            for one in running {
                one.join().map_err(|_| "a compiling thread panicked")??;
            }
            Ok::<(), String>(())
        })?;
    }
    let mut list = String::from("&[");
    for name in &names {
        let binary = out.join(name).with_extension("fatbin");
        write!(list, "({name:?}, include_bytes!({binary:?}).as_slice()),")?;
    }
    fs::write(out.join("cuda_modules.rs"), list + "]")?;
    Ok(())
}

/// The first nvcc that runs.
fn nvcc() -> Result<PathBuf, String> {
    let mut tried = Vec::new();
    if let Some(named) = env::var_os("NVCC").filter(|named| !named.is_empty()) {
        tried.push(PathBuf::from(named));
    } else {
        for variable in ["CUDA_HOME", "CUDA_PATH"] {
            let folder = env::var_os(variable).map(PathBuf::from);
            tried.extend(folder.map(|folder| folder.join("bin/nvcc")));
        }
        tried.push(PathBuf::from("/usr/local/cuda/bin/nvcc"));
        tried.push(PathBuf::from("nvcc"));
    }
    for nvcc in &tried {
        let output = Command::new(nvcc).arg("--version").output();
        if output.is_ok_and(|output| output.status.success()) {
            return Ok(nvcc.clone());
        }
    }
    Err(format!(
        "the feature `cuda` needs nvcc of the CUDA toolkit 12 or 13; tried {tried:?}. \
         Set NVCC or CUDA_HOME, or build without the feature"
    ))
}

fn compile(nvcc: &Path, architectures: &str, name: &str, out: &Path) -> Result<(), String> {
    let mut command = Command::new(nvcc);
    command.args(["--fatbin", "-O3", "-std=c++17", "-Xfatbin=-compress-all"]);
    for (index, architecture) in architectures.split(',').map(str::trim).enumerate() {
        let virtual_one = format!("arch=compute_{architecture}");
        if index == 0 {
            command.arg(format!(
                "-gencode={virtual_one},code=compute_{architecture}"
            ));
        }
        command.arg(format!("-gencode={virtual_one},code=sm_{architecture}"));
    }
    if EXACT.contains(&name) {
        command.arg("-fmad=false");
    }
    command
        .arg("-o")
        .arg(out.join(name).with_extension("fatbin"));
    command.arg(Path::new(SOURCES).join(name).with_extension("cu"));
    let output = command.output();
    let output = output.map_err(|error| format!("{}: {error}", nvcc.display()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{} failed on {name}.cu:\n{said}", nvcc.display()))
}
