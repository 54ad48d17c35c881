//! Runs programs on the CPU, for the tests: `emulator/main.cpp` with the kernels' own sources,
//! compiled once a test run by the system's C++ compiler, with the address and undefined-behaviour
//! sanitizers.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use candle_core::{DType, Device, Error, Result, Tensor};

use super::checks::{self, Executor, bytes_of};
use super::program::{Arg, Launch, Program, Role};

/// The compiled emulator; `None` where there is no compiler that can make it.
fn binary() -> Option<&'static Path> {
    static BINARY: OnceLock<Option<PathBuf>> = OnceLock::new();
    BINARY.get_or_init(compile).as_deref()
}

fn compile() -> Option<PathBuf> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ops/cuda");
    // Replaced by each run: one place for each checkout, however often its tests run.
    let checkout = env!("CARGO_MANIFEST_DIR").replace(['/', '\\'], "-");
    let binary = std::env::temp_dir().join(format!("mtmc-cuda-emulator{checkout}"));
    let unfinished = binary.with_extension(std::process::id().to_string());
    let output = Command::new(std::env::var("CXX").unwrap_or_else(|_| "c++".to_string()))
        .args(["-std=c++17", "-O1", "-g", "-Wall", "-Wextra", "-Werror"])
        .args(["-Wno-unknown-pragmas", "-DMTMC_EMULATED"])
        .args(["-fsanitize=address,undefined", "-fno-sanitize-recover=all"])
        .arg("-I")
        .arg(&sources)
        .arg("-o")
        .arg(&unfinished)
        .arg(sources.join("emulator/main.cpp"))
        .output();
    let reason = match output {
        Ok(output) if output.status.success() => {
            std::fs::rename(&unfinished, &binary).unwrap();
            return Some(binary);
        }
        // A compiler that is there must compile it.
        Ok(output) => panic!("{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => error,
    };
    // Not by `eprintln!`, which the test harness hides when a test passes.
    let _ = writeln!(
        std::io::stderr(),
        "skipped: CUDA kernels in the emulator: no C++ compiler ({reason})"
    );
    None
}

/// Runs each program in another of the orders of turns that `emulator/main.cpp` knows.
pub(crate) struct Emulator {
    binary: &'static Path,
    order: AtomicU32,
}

impl Executor for Emulator {
    fn run(&self, program: &Program, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        let order = self.order.fetch_add(1, Ordering::Relaxed) % 5;
        let mut child = Command::new(self.binary)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let request = request(program, inputs, order)?;
        // It may end before it has read everything; then what it says on its way tells why.
        let sent = child.stdin.take().map(|mut to| to.write_all(&request));
        let output = child.wait_with_output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(Error::Msg(format!("{:?}: {said}", program.launches)));
        }
        sent.transpose()?;
        outputs(program, &output.stdout)
    }
}

fn word(to: &mut Vec<u8>, value: usize) {
    to.extend((value as u32).to_le_bytes());
}

/// The input of `emulator/main.cpp`, whose head describes it.
fn request(program: &Program, inputs: &[Tensor], order: u32) -> Result<Vec<u8>> {
    let mut to = Vec::new();
    word(&mut to, order as usize);
    word(&mut to, program.buffers.len());
    let mut inputs = inputs.iter();
    for buffer in &program.buffers {
        let size = buffer.count * buffer.dtype.size_in_bytes();
        // Outputs hold what no kernel writes, so that gaps show.
        let mut bytes = vec![0xa5; size];
        if buffer.role == Role::Input {
            let given = inputs.next();
            let given = given.ok_or_else(|| Error::Msg("too few inputs".to_string()))?;
            assert_eq!(given.dtype(), buffer.dtype, "{:?}", program.launches);
            bytes = bytes_of(given)?;
            assert_eq!(bytes.len(), size, "{:?}", program.launches);
        }
        to.extend((size as u64).to_le_bytes());
        to.extend(bytes);
    }
    assert!(inputs.next().is_none(), "too many inputs");
    word(&mut to, program.launches.len());
    for launch in &program.launches {
        word(&mut to, launch.kernel.len());
        to.extend(launch.kernel.as_bytes());
        for number in launch.grid.iter().chain(&launch.block) {
            word(&mut to, *number as usize);
        }
        word(&mut to, launch.args.len());
        for arg in &launch.args {
            match arg {
                Arg::Buffer(index) => {
                    word(&mut to, 0);
                    word(&mut to, *index);
                }
                Arg::Null => word(&mut to, 1),
                Arg::Words(words) => {
                    word(&mut to, 2);
                    word(&mut to, words.len() * 4);
                    to.extend(words.iter().flat_map(|word| word.to_le_bytes()));
                }
            }
        }
    }
    Ok(to)
}

fn outputs(program: &Program, mut bytes: &[u8]) -> Result<Vec<Tensor>> {
    let mut outputs = Vec::new();
    for buffer in &program.buffers {
        let (own, rest) = bytes.split_at(buffer.count * buffer.dtype.size_in_bytes());
        bytes = rest;
        if buffer.role == Role::Output {
            let shape = [buffer.count];
            outputs.push(Tensor::from_raw_buffer(
                own,
                buffer.dtype,
                &shape,
                &Device::Cpu,
            )?);
        }
    }
    Ok(outputs)
}

pub(crate) fn emulator() -> Option<Emulator> {
    Some(Emulator {
        binary: binary()?,
        order: AtomicU32::new(0),
    })
}

#[test]
fn kernels_do_what_the_cpu_does() {
    let Some(emulator) = emulator() else {
        return;
    };
    let checks = checks::all(&emulator, 3).unwrap();
    let failed: Vec<_> = checks.iter().filter(|check| !check.passed()).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

// What the emulator is for: one number less than the kernel reads must not go unnoticed.
#[test]
fn reading_beyond_a_buffer_is_noticed() {
    let Some(emulator) = emulator() else {
        return;
    };
    let mut program = super::programs::softmax(DType::F32, 3, 5).unwrap();
    program.buffers[0].count = 14;
    let short = Tensor::zeros(14, DType::F32, &Device::Cpu).unwrap();
    let error = emulator.run(&program, &[short]).unwrap_err().to_string();
    assert!(error.contains("heap-buffer-overflow"), "{error}");
}

// Two faults of barriers, in kernels made for that (`emulator/main.cpp`).
#[test]
fn missing_and_uneven_barriers_are_noticed() {
    let Some(emulator) = emulator() else {
        return;
    };
    let program = |kernel: &str| {
        let mut program = Program::default();
        let args = vec![
            program.input(DType::F32, 64),
            program.output(DType::F32, 64),
        ];
        program.launches.push(Launch {
            module: "",
            kernel: kernel.to_string(),
            grid: [1, 1, 1],
            block: [64, 1, 1],
            args,
        });
        program
    };
    let numbers: Vec<f32> = (0..64).map(|number| number as f32).collect();
    let given = [Tensor::new(numbers.clone(), &Device::Cpu).unwrap()];
    let reversed: Vec<f32> = numbers.into_iter().rev().collect();
    let mut wrong = 0;
    for _ in 0..5 {
        let found = emulator.run(&program("without_barrier"), &given).unwrap();
        wrong += usize::from(found[0].to_vec1::<f32>().unwrap() != reversed);
    }
    assert!(wrong > 0, "no order showed it");
    let error = emulator
        .run(&program("uneven_barrier"), &given)
        .unwrap_err();
    assert!(error.to_string().contains("wait at a barrier"), "{error}");
}

// The emulator's own f16 and bf16 against the crate `half`'s, over all bits and between them.
#[test]
fn short_types_are_rounded_as_half_rounds_them() {
    let Some(emulator) = emulator() else {
        return;
    };
    for dtype in [DType::F16, DType::BF16] {
        let mut values: Vec<f32> = (0..=u16::MAX)
            .map(|bits| match dtype {
                DType::F16 => half::f16::from_bits(bits).to_f32(),
                _ => half::bf16::from_bits(bits).to_f32(),
            })
            .filter(|value| !value.is_nan())
            .collect();
        values.sort_by(f32::total_cmp);
        let count = values.len();
        let given = Tensor::from_vec(values.clone(), count, &Device::Cpu).unwrap();
        let given = given.to_dtype(dtype).unwrap();
        // Sums with a neighbour fall between numbers, and on ties.
        let next = Tensor::cat(
            &[
                given.narrow(0, 1, count - 1).unwrap(),
                given.narrow(0, 0, 1).unwrap(),
            ],
            0,
        );
        let next = next.unwrap();
        let wide = |x: &Tensor| x.to_dtype(DType::F32).unwrap();
        let expected = (wide(&given) + wide(&next))
            .unwrap()
            .to_dtype(dtype)
            .unwrap();
        let activation = crate::ops::Activation::Identity;
        let parts = (false, true);
        let program = super::programs::epilogue(dtype, count, 1, 1, parts, activation).unwrap();
        let found = emulator.run(&program, &[given, next]).unwrap().remove(0);
        let bits = |x: &Tensor| {
            let values = wide(x).to_vec1::<f32>().unwrap();
            values
                .into_iter()
                .map(|v| if v.is_nan() { 0 } else { v.to_bits() })
                .collect::<Vec<_>>()
        };
        assert!(bits(&found) == bits(&expected), "{dtype:?}");
    }
}
