//! Damaged and hostile files: a clear error that names the file, bounded memory, no panic.
//!
//! `corpus/` holds tiny files of every format (`tests/oracle/weights/make_corpus.py`); the same
//! files are the fuzzers' seeds.

#![allow(clippy::unwrap_used)]

use std::io::{Cursor, Write as _};
use std::path::{Path, PathBuf};

use mtmc_tools::read::Checkpoint;
use mtmc_tools::read::onnx::OnnxModel;
use mtmc_tools::read::pickle::Pickle;
use tempfile::TempDir;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

fn corpus(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/corpus")
        .join(name)
}

fn open(bytes: &[u8], name: &str) -> mtmc_tools::Result<Checkpoint> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    let result = Checkpoint::open(&path);
    if let Err(error) = &result {
        let text = error.to_string();
        assert!(text.contains(name), "does not name the file: {text}");
    }
    result
}

fn error_of(bytes: &[u8], name: &str) -> String {
    open(bytes, name).unwrap_err().to_string()
}

#[test]
fn all_formats_hold_the_same_tensors() {
    let w = [0.0, 0.5, 1.0, 1.5, 2.0, 2.5];
    let t = [0.0, 1.5, 0.5, 2.0, 1.0, 2.5];
    for name in [
        "plain.pt",
        "half.pt",
        "legacy.pth",
        "plain.safetensors",
        "plain.onnx",
    ] {
        let mut file = Checkpoint::open(&corpus(name)).unwrap();
        let names: Vec<_> = file.tensors().keys().cloned().collect();
        assert_eq!(names, ["n", "t", "w"], "{name}");
        assert_eq!(file.tensors()["w"].shape, [2, 3], "{name}");
        assert_eq!(file.tensors()["t"].shape, [3, 2], "{name}");
        assert_eq!(file.read("w").unwrap(), w, "{name}");
        assert_eq!(file.read("t").unwrap(), t, "{name}");
        assert_eq!(file.read("n").unwrap(), [7.0], "{name}");
    }
}

#[test]
fn a_module_without_an_average_is_read_itself() {
    let file = Checkpoint::open(&corpus("module.pt")).unwrap();
    let names: Vec<_> = file.tensors().keys().map(String::as_str).collect();
    let expected = [
        "norm.bias",
        "norm.num_batches_tracked",
        "norm.running_mean",
        "norm.running_var",
        "norm.weight",
    ];
    assert_eq!(names, expected);
    assert_eq!(file.facts().batch_norm_eps, Some(1e-3));
    let classes = file.facts().classes.as_ref().unwrap();
    assert_eq!(*classes, ["person", "bag"]);
}

#[test]
fn code_in_a_pickle_stays_data() {
    let trace = Path::new("/tmp/mtmc-was-here");
    assert!(!trace.exists(), "left by something else: remove it");
    let mut file = Checkpoint::open(&corpus("calls.pt")).unwrap();
    assert_eq!(file.read("w").unwrap().len(), 6);
    assert!(!trace.exists());
}

#[test]
fn an_expanded_tensor_does_not_blow_up() {
    let text = Checkpoint::open(&corpus("expanded.pt"))
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("`w`") && text.contains("1073741824"),
        "{text}"
    );
}

#[test]
fn a_flipped_bit_in_a_tensor_is_noticed() {
    let mut bytes = std::fs::read(corpus("plain.pt")).unwrap();
    let half = 0.5_f32.to_le_bytes();
    let at = bytes.windows(4).position(|window| window == half).unwrap();
    bytes[at] ^= 1;
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("flipped.pt");
    std::fs::write(&path, &bytes).unwrap();
    let text = Checkpoint::open(&path)
        .unwrap()
        .read("w")
        .unwrap_err()
        .to_string();
    assert!(text.contains("`w`") && text.contains("checksum"), "{text}");
}

fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in entries {
        writer.start_file(*name, stored).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

#[test]
fn zip_tricks_are_refused() {
    let empty = b"\x80\x02}.".as_slice();
    for (entries, words) in [
        (
            vec![("x/data.pkl", empty), ("../../evil", b"x")],
            "leads out",
        ),
        (
            vec![("x/data.pkl", empty), ("/etc/evil", b"x")],
            "leads out",
        ),
        (
            vec![("x/data.pkl", empty), ("y/data.pkl", empty)],
            "more than one",
        ),
        (vec![("x/model.txt", empty)], "no data.pkl"),
        (vec![("x/data.pkl", empty)], "no tensors"),
        (vec![("x/data.pkl", b"\x80\x02}")], "cut short"),
        (
            vec![("x/data.pkl", empty), ("x/byteorder", b"big")],
            "little endian",
        ),
    ] {
        let text = error_of(&archive(&entries), "tricky.pt");
        assert!(text.contains(words), "`{words}` is not in: {text}");
    }
}

#[test]
fn a_compressed_entry_is_refused() {
    let mut bytes = archive(&[("x/data.pkl", b"\x80\x02}.")]);
    // The method stands 8 bytes into the local header and 10 into the central one.
    for (signature, offset) in [(b"PK\x03\x04", 8), (b"PK\x01\x02", 10)] {
        let at = bytes
            .windows(4)
            .position(|window| window == signature)
            .unwrap();
        bytes[at + offset] = 8;
    }
    let text = error_of(&bytes, "bomb.pt");
    assert!(text.contains("compressed"), "{text}");
}

#[test]
fn absurd_lengths_are_refused() {
    let mut safetensors = std::fs::read(corpus("plain.safetensors")).unwrap();
    safetensors[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let text = error_of(&safetensors, "long.safetensors");
    assert!(text.contains("header claims"), "{text}");

    let mut legacy = std::fs::read(corpus("legacy.pth")).unwrap();
    let count = 6_u64.to_le_bytes();
    let at = legacy
        .windows(8)
        .rposition(|window| window == count)
        .unwrap();
    legacy[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
    let text = error_of(&legacy, "long.pth");
    assert!(
        text.contains("storage") && text.contains("cut short"),
        "{text}"
    );
}

#[test]
fn files_of_other_kinds_are_named_as_such() {
    for bytes in [
        b"".as_slice(),
        b"x",
        b"<html>not found</html>",
        &[0; 64],
        &[0xff; 64],
    ] {
        error_of(bytes, "other.pt");
    }
    let text = error_of(b"<html>not found</html>", "page.pt");
    assert!(text.contains("PyTorch") && text.contains("ONNX"), "{text}");
}

#[test]
fn every_cut_is_an_error_or_harmless() {
    let folder = TempDir::new().unwrap();
    for name in [
        "plain.pt",
        "legacy.pth",
        "module.pt",
        "plain.safetensors",
        "plain.onnx",
    ] {
        let bytes = std::fs::read(corpus(name)).unwrap();
        // One file, shortened byte by byte.
        let path = folder.path().join(name);
        std::fs::write(&path, &bytes).unwrap();
        let shrinking = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        for length in (0..bytes.len()).rev() {
            shrinking.set_len(length as u64).unwrap();
            let Ok(mut file) = Checkpoint::open(&path) else {
                continue;
            };
            // ONNX may be cut between two fields; nothing else may go unnoticed.
            assert_eq!(name, "plain.onnx", "cut at {length}");
            read_all(&mut file);
        }
    }
}

/// Reads every tensor; gives how many numbers there were.
fn read_all(file: &mut Checkpoint) -> usize {
    let names: Vec<_> = file.tensors().keys().cloned().collect();
    let mut numbers = 0;
    for name in names {
        numbers += file.read(&name).map_or(0, |values| values.len());
    }
    numbers
}

/// A small generator (splitmix64), so that a failure can be had again.
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % below.max(1) as u64) as usize
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.next(4) {
            let at = self.next(bytes.len());
            match self.next(6) {
                0 => bytes[at] ^= 1 << self.next(8),
                1 => bytes[at] = self.next(256) as u8,
                2 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][self.next(5)],
                3 => bytes.truncate(at.max(1)),
                4 => {
                    let end = (at + self.next(16)).min(bytes.len());
                    let piece = bytes[at..end].to_vec();
                    let place = self.next(bytes.len());
                    bytes.splice(place..place, piece);
                }
                _ => {
                    let end = (at + 1 + self.next(8)).min(bytes.len());
                    if end - at < bytes.len() {
                        bytes.drain(at..end);
                    }
                }
            }
        }
    }
}

/// Rounds of mutation; MTMC_MUTATIONS multiplies them for a long run by hand.
fn rounds(usual: usize) -> usize {
    let factor = std::env::var("MTMC_MUTATIONS")
        .ok()
        .and_then(|text| text.parse::<usize>().ok());
    usual * factor.unwrap_or(1)
}

#[test]
fn mutated_files_neither_panic_nor_grow() {
    let names = [
        "plain.pt",
        "half.pt",
        "legacy.pth",
        "module.pt",
        "calls.pt",
        "plain.safetensors",
        "plain.onnx",
    ];
    let folder = TempDir::new().unwrap();
    for (seed, name) in names.into_iter().enumerate() {
        let original = std::fs::read(corpus(name)).unwrap();
        let path = folder.path().join(name);
        let mut random = Random(seed as u64);
        for round in 0..rounds(800) {
            let mut bytes = original.clone();
            random.mutate(&mut bytes);
            std::fs::write(&path, &bytes).unwrap();
            if let Ok(mut file) = Checkpoint::open(&path) {
                let tensors = file.tensors().len();
                // A tensor has no more numbers than its file has bytes, but for the few that an
                // expanded one may repeat.
                let limit = tensors * bytes.len().max(1 << 16);
                assert!(read_all(&mut file) <= limit, "{name}, round {round}");
            }
        }
    }
}

/// Checksums stop most mutations of an archive at its door; these go to the parsers directly.
#[test]
fn mutated_pickles_and_graphs_do_not_panic() {
    let legacy = std::fs::read(corpus("legacy.pth")).unwrap();
    let graph = std::fs::read(corpus("plain.onnx")).unwrap();
    let mut random = Random(99);
    for _ in 0..rounds(20_000) {
        let mut bytes = legacy.clone();
        random.mutate(&mut bytes);
        let mut rest = bytes.as_slice();
        while let Ok((pickle, used)) = Pickle::parse(rest) {
            assert!(pickle.len() <= rest.len());
            rest = &rest[used..];
        }
        let mut bytes = graph.clone();
        random.mutate(&mut bytes);
        let _ = OnnxModel::parse(&bytes);
    }
}
