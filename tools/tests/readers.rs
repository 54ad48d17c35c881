//! The readers on real files: PyTorch's two formats against what PyTorch itself says of them.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;

use mtmc_models::testing::shared;
use mtmc_tools::read::{Checkpoint, Dtype, Format};

/// `state-dict.txt` was printed by PyTorch: name, shape, type (after loading: `float`), by tabs.
#[test]
fn an_ultralytics_module_has_the_tensors_that_pytorch_lists() {
    let Some(path) = shared("reference/rtdetr-l/rtdetr-l-random.pt") else {
        return;
    };
    let list = path.with_file_name("state-dict.txt");
    let mut expected = BTreeMap::new();
    for line in std::fs::read_to_string(list).unwrap().lines() {
        let mut columns = line.split('\t');
        let name = columns.next().unwrap().to_string();
        let shape = columns.next().unwrap().trim_matches(['(', ')']);
        let dims = shape
            .split(',')
            .map(str::trim)
            .filter(|dim| !dim.is_empty());
        let shape: Vec<usize> = dims.map(|dim| dim.parse().unwrap()).collect();
        expected.insert(name, shape);
    }
    let mut checkpoint = Checkpoint::open(&path).unwrap();
    assert_eq!(checkpoint.format(), Format::TorchZip);
    let found = checkpoint.tensors().iter();
    let found: BTreeMap<_, _> = found.map(|(k, v)| (k.clone(), v.shape.clone())).collect();
    assert_eq!(found, expected);
    let weight = "model.0.stem1.conv.weight";
    assert_eq!(checkpoint.tensors()[weight].dtype, Dtype::F16);
    let values = checkpoint.read(weight).unwrap();
    assert_eq!(values.len(), 32 * 3 * 3 * 3);
    assert!(values.iter().all(|value| value.is_finite()));
    let facts = checkpoint.facts();
    assert_eq!(facts.batch_norm_eps, Some(1e-3)); // structure.txt
    let classes = facts.classes.as_ref().unwrap();
    assert_eq!((classes.len(), classes[0].as_str()), (80, "person"));
}

/// The safetensors beside the legacy files hold the same tensors, written by PyTorch.
#[test]
fn legacy_files_hold_what_their_safetensors_hold() {
    for name in ["osnet_x0_25_market1501", "osnet_x0_25_msmt17"] {
        let Some(path) = shared(&format!("weights/reid-osnet/{name}.pth")) else {
            return;
        };
        let mut legacy = Checkpoint::open(&path).unwrap();
        let mut twin = Checkpoint::open(&path.with_extension("safetensors")).unwrap();
        assert_eq!(legacy.format(), Format::TorchLegacy);
        assert_eq!(twin.format(), Format::Safetensors);
        let names: Vec<String> = twin.tensors().keys().cloned().collect();
        assert_eq!(names.len(), 567);
        assert_eq!(legacy.tensors().len(), names.len());
        for name in names {
            let shape = &twin.tensors()[&name].shape;
            assert_eq!(legacy.tensors()[&name].shape, *shape, "{name}");
            assert_eq!(
                legacy.read(&name).unwrap(),
                twin.read(&name).unwrap(),
                "{name}"
            );
        }
    }
}

/// `tests/oracle/weights/make_corpus.py` wrote it, with the compressed programs that PyTorch adds.
#[test]
fn a_torchscript_archive_gives_its_tensors_alone() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/script.pt");
    let mut checkpoint = Checkpoint::open(&path).unwrap();
    let names: Vec<&String> = checkpoint.tensors().keys().collect();
    assert_eq!(names, ["parts.0.n", "parts.0.w", "parts.1.n", "parts.1.w"]);
    assert_eq!(checkpoint.tensors()["parts.1.w"].dtype, Dtype::F16);
    assert_eq!(checkpoint.tensors()["parts.1.w"].shape, [2, 3]);
    let first = [0.0, 0.5, 1.0, 1.5, 2.0, 2.5];
    assert_eq!(checkpoint.read("parts.0.w").unwrap(), first);
    let second = first.map(|value| 2.0 * value);
    assert_eq!(checkpoint.read("parts.1.w").unwrap(), second);
}
