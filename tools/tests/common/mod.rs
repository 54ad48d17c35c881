//! Tensor lists of other programs (`tests/goldens/weights/`) as checkpoints.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use mtmc_tools::map::{Numbers, Plan};
use mtmc_tools::read::Checkpoint;

pub type Shapes = BTreeMap<String, Vec<usize>>;

/// Names and shapes of a list; a line whose name ends with `.*` or `.**` is a batch norm's.
pub fn shapes(golden: &str) -> Shapes {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens/weights");
    let text = std::fs::read_to_string(folder.join(golden)).unwrap();
    let mut shapes = Shapes::new();
    for line in text.lines() {
        let (name, dims) = line.split_once('\t').unwrap();
        let dims: Vec<usize> = dims
            .split_whitespace()
            .map(|dim| dim.parse().unwrap())
            .collect();
        let Some(norm) = name.strip_suffix(".*").or(name.strip_suffix(".**")) else {
            shapes.insert(name.to_string(), dims);
            continue;
        };
        for part in ["weight", "bias", "running_mean", "running_var"] {
            shapes.insert(format!("{norm}.{part}"), dims.clone());
        }
        if name.ends_with(".**") {
            shapes.insert(format!("{norm}.num_batches_tracked"), Vec::new());
        }
    }
    shapes
}

/// A checkpoint of tensors without numbers.
pub fn checkpoint(shapes: Shapes) -> Checkpoint {
    let tensors = shapes
        .into_iter()
        .map(|(name, shape)| (name, (shape, Vec::new())));
    let tensors: HashMap<_, _> = tensors.collect();
    Checkpoint::from_memory(Path::new("made-up.pt"), tensors)
}

/// Where the numbers of one of our tensors come from.
pub fn sources<'a>(plan: &'a Plan, name: &str) -> Vec<&'a str> {
    match &plan.tensors[name].numbers {
        Numbers::Stored(sources) => sources.iter().map(String::as_str).collect(),
        Numbers::Changed(source, _) => vec![source],
        Numbers::Made(_) => Vec::new(),
    }
}
