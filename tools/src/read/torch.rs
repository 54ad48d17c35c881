//! What PyTorch checkpoints mean: storages, tensors, state dicts and whole pickled modules, out of
//! the inert values of [`super::pickle`].
//!
//! Only a few names get a meaning: `torch._utils._rebuild_tensor`, `_rebuild_tensor_v2`,
//! `_rebuild_parameter`, `OrderedDict` and PyTorch's storage classes. A module is any object whose
//! attributes hold `_modules`, `_parameters` and `_buffers`, whatever its class.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::path::Path;

use super::pickle::{Id, Node, Pickle};
use super::{
    Checkpoint, Dtype, Facts, Format, MAX_RANK, MAX_TENSORS, Place, TensorInfo, count_elements,
    extent,
};
use crate::{Error, Malformed, Result};

/// Deepest nesting of modules.
const MAX_DEPTH: usize = 64;

/// Most modules that are visited.
const MAX_MODULES: usize = 200_000;

/// Most dictionary entries that are looked at: shared ones may come up again and again.
const MAX_WORK: usize = 20_000_000;

/// Most numbers of a tensor that has more of them than its storage.
const MAX_EXPANDED: u64 = 1 << 16;

/// Most class names.
const MAX_CLASSES: i64 = 100_000;

/// Where a storage stands in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Region {
    pub start: u64,
    pub length: u64,
    pub checksum: Option<u32>,
}

/// A storage as a tensor refers to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StorageRef {
    pub key: String,
    pub dtype: Dtype,
}

/// A tensor as the pickle describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TensorRef {
    pub storage: StorageRef,
    pub offset: u64,
    pub shape: Vec<usize>,
    pub strides: Vec<u64>,
}

/// The tensors of a checkpoint by name, and what else it says.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub tensors: BTreeMap<String, TensorRef>,
    /// All storages that the pickle mentions, also those of no weight (an optimiser's).
    pub storages: HashMap<String, Dtype>,
    pub facts: Facts,
}

/// Finds the weights in a checkpoint: an exponential moving average where there is one, else the
/// model; a whole module or a state dict.
pub(crate) fn contents(pickle: &Pickle) -> Result<Contents, Malformed> {
    let root = pickle.root();
    let mut found = Contents::default();
    let weights = weights_of(pickle, root, 0);
    let mut reader = Walker {
        pickle,
        found: &mut found,
        modules: 0,
        work: 0,
    };
    if is_module(pickle, weights) {
        reader.module(weights, "", 0)?;
        reader.module_facts(weights, root);
    } else if is_script(pickle, weights) {
        reader.script(weights, "", 0)?;
    } else {
        reader.state_dict(weights)?;
    }
    if found.tensors.is_empty() {
        return Err(Malformed::new(
            "holds no tensors where weights are usually kept",
        ));
    }
    strip_prefix(&mut found.tensors, "module.");
    for id in 0..pickle.len() as Id {
        if let Ok(storage) = storage_ref(pickle, id) {
            found.storages.insert(storage.key, storage.dtype);
        }
    }
    Ok(found)
}

/// Follows the usual wrappers from a checkpoint's root to the weights.
fn weights_of(pickle: &Pickle, id: Id, depth: usize) -> Id {
    if depth > 4 || is_module(pickle, id) {
        return id;
    }
    for key in ["ema", "module", "model", "state_dict", "model_state_dict"] {
        let Some(inner) = pickle.get(id, key) else {
            continue;
        };
        if is_module(pickle, inner) || pickle.entries(inner).is_some_and(|e| !e.is_empty()) {
            return weights_of(pickle, inner, depth + 1);
        }
    }
    id
}

fn attributes(pickle: &Pickle, id: Id) -> Option<Id> {
    match pickle.node(id) {
        Node::Object(object) => object.state,
        _ => None,
    }
}

fn is_module(pickle: &Pickle, id: Id) -> bool {
    attributes(pickle, id).is_some_and(|state| {
        pickle.get(state, "_modules").is_some() && pickle.get(state, "_parameters").is_some()
    })
}

/// Whether it is a module that TorchScript saved: its class is one of the archive's own programs,
/// and its attributes are parameters, buffers, settings and modules side by side.
fn is_script(pickle: &Pickle, id: Id) -> bool {
    let class = pickle.object(id);
    class.is_some_and(|(module, _, _)| module.split('.').next() == Some("__torch__"))
}

/// Takes `prefix` off all names if every one of them has it (data-parallel training adds it).
fn strip_prefix(tensors: &mut BTreeMap<String, TensorRef>, prefix: &str) {
    if tensors.keys().all(|name| name.starts_with(prefix)) {
        let old = std::mem::take(tensors);
        tensors.extend(old.into_iter().map(|(name, tensor)| {
            let short = name.strip_prefix(prefix).map(str::to_string);
            (short.unwrap_or(name), tensor)
        }));
    }
}

struct Walker<'a> {
    pickle: &'a Pickle,
    found: &'a mut Contents,
    modules: usize,
    /// Dictionary entries that have been looked at.
    work: usize,
}

impl Walker<'_> {
    fn add(&mut self, name: String, id: Id) -> Result<(), Malformed> {
        let tensor = tensor(self.pickle, id)
            .map_err(|fault| Malformed(format!("tensor `{name}`: {fault}")))?;
        let Some(tensor) = tensor else {
            return Ok(());
        };
        if self.found.tensors.len() >= MAX_TENSORS {
            return Err(Malformed(format!("holds more than {MAX_TENSORS} tensors")));
        }
        self.found.tensors.insert(name, tensor);
        Ok(())
    }

    fn state_dict(&mut self, id: Id) -> Result<(), Malformed> {
        let pickle = self.pickle;
        let entries = pickle
            .entries(id)
            .ok_or_else(|| Malformed::new("holds neither a state dict nor a module"))?;
        for (key, value) in entries {
            if let Some(name) = pickle.text(*key) {
                self.add(name.to_string(), *value)?;
            }
        }
        Ok(())
    }

    fn module(&mut self, id: Id, path: &str, depth: usize) -> Result<(), Malformed> {
        self.modules += 1;
        let pickle = self.pickle;
        let state = attributes(pickle, id);
        self.work += state
            .and_then(|id| pickle.entries(id))
            .map_or(0, <[_]>::len);
        self.check_bounds(path, depth)?;
        let Some(state) = state else {
            return Ok(());
        };
        self.norm_epsilon(id, state);
        let transient: HashSet<&str> = pickle
            .get(state, "_non_persistent_buffers_set")
            .map(|set| set_members(pickle, set))
            .unwrap_or_default();
        for group in ["_parameters", "_buffers", "_modules"] {
            let Some(entries) = pickle.get(state, group).and_then(|id| pickle.entries(id)) else {
                continue;
            };
            self.work += entries.len();
            for (key, value) in entries {
                let Some(key) = pickle.text(*key) else {
                    continue;
                };
                let name = join(path, key);
                if group == "_modules" {
                    self.module(*value, &name, depth + 1)?;
                } else if group == "_parameters" || !transient.contains(key) {
                    self.add(name, *value)?;
                }
            }
        }
        Ok(())
    }

    fn script(&mut self, id: Id, path: &str, depth: usize) -> Result<(), Malformed> {
        self.modules += 1;
        let pickle = self.pickle;
        let state = attributes(pickle, id);
        let entries = state.and_then(|id| pickle.entries(id)).unwrap_or_default();
        self.work += entries.len();
        self.check_bounds(path, depth)?;
        for (key, value) in entries {
            let Some(key) = pickle.text(*key) else {
                continue;
            };
            let name = join(path, key);
            if is_script(pickle, *value) {
                self.script(*value, &name, depth + 1)?;
            } else {
                self.add(name, *value)?;
            }
        }
        Ok(())
    }

    fn check_bounds(&self, path: &str, depth: usize) -> Result<(), Malformed> {
        if depth > MAX_DEPTH || self.modules > MAX_MODULES || self.work > MAX_WORK {
            return Err(Malformed(format!(
                "module `{path}`: nested deeper or repeated more often than any network is"
            )));
        }
        Ok(())
    }

    fn norm_epsilon(&mut self, id: Id, state: Id) {
        let pickle = self.pickle;
        let is_norm = pickle.object(id).is_some_and(|(_, _, object)| {
            [object.callable, object.args]
                .iter()
                .any(|part| class_name(pickle, *part) == Some("BatchNorm2d"))
        });
        if !is_norm || self.found.facts.batch_norm_eps.is_some() {
            return;
        }
        if let Some(Node::Float(eps)) = pickle.get(state, "eps").map(|id| pickle.node(id))
            && (0.0..1.0).contains(eps)
        {
            self.found.facts.batch_norm_eps = Some(*eps);
        }
    }

    fn module_facts(&mut self, module: Id, root: Id) {
        let pickle = self.pickle;
        let facts = &mut self.found.facts;
        facts.module = pickle.object(module).map(|(_, name, _)| name.to_string());
        let Some(state) = attributes(pickle, module) else {
            return;
        };
        facts.licence = pickle
            .get(root, "license")
            .and_then(|id| pickle.text(id))
            .map(str::to_string);
        facts.classes = pickle
            .get(state, "names")
            .and_then(|id| class_names(pickle, id));
        let settings = ["train_args", "args"]
            .map(|key| pickle.get(root, key).or_else(|| pickle.get(state, key)));
        for settings in settings.into_iter().flatten() {
            let size = pickle.get(settings, "imgsz").and_then(|id| pickle.int(id));
            if let Some(size) = size.filter(|size| (32..=8192).contains(size)) {
                facts.image_size.get_or_insert(size as usize);
            }
        }
    }
}

/// The name of a part.
fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_string()
    } else {
        format!("{path}.{key}")
    }
}

fn class_name(pickle: &Pickle, id: Id) -> Option<&str> {
    match pickle.node(id) {
        Node::Global { name, .. } => Some(name),
        _ => None,
    }
}

/// The strings in a set: `set([...])` as protocol 2 writes it, or a set's own opcodes.
fn set_members(pickle: &Pickle, id: Id) -> HashSet<&str> {
    let mut members = HashSet::new();
    let list = match pickle.node(id) {
        Node::Object(object) => {
            let args = pickle.sequence(object.args).unwrap_or_default();
            args.first().and_then(|list| pickle.sequence(*list))
        }
        _ => pickle.sequence(id),
    };
    for item in list.unwrap_or_default() {
        members.extend(pickle.text(*item));
    }
    members
}

/// Class names from `{0: "person", …}` or a list.
fn class_names(pickle: &Pickle, id: Id) -> Option<Vec<String>> {
    let text = |id: &Id| pickle.text(*id).map(str::to_string);
    if let Some(items) = pickle.sequence(id) {
        return items.iter().map(text).collect();
    }
    let entries = pickle.entries(id)?;
    let mut names = BTreeMap::new();
    for (key, value) in entries {
        let index = pickle.int(*key)?;
        if !(0..MAX_CLASSES).contains(&index) {
            return None;
        }
        names.insert(index, text(value)?);
    }
    // Gaps would shift the names.
    let last = names.keys().next_back().copied()?;
    (last + 1 == names.len() as i64).then(|| names.into_values().collect())
}

/// The tensor that `id` stands for; `None` for anything else.
fn tensor(pickle: &Pickle, id: Id) -> Result<Option<TensorRef>, Malformed> {
    let mut id = id;
    // A parameter wraps a tensor; nobody wraps parameters in parameters more than once.
    for _ in 0..4 {
        let Some((module, name, object)) = pickle.object(id) else {
            return Ok(None);
        };
        let args = pickle.sequence(object.args).unwrap_or_default();
        match (module, name, args) {
            (
                "torch._utils",
                "_rebuild_parameter" | "_rebuild_parameter_with_state",
                [inner, ..],
            ) => id = *inner,
            (
                "torch._utils",
                "_rebuild_tensor" | "_rebuild_tensor_v2",
                [storage, offset, shape, strides, ..],
            ) => return rebuild(pickle, *storage, *offset, *shape, *strides).map(Some),
            ("torch._utils", _, _) if name.starts_with("_rebuild_") => {
                return Err(Malformed(format!(
                    "is made by `{name}`, which is not supported"
                )));
            }
            _ => return Ok(None),
        }
    }
    Err(Malformed::new("parameters are wrapped in parameters"))
}

fn rebuild(
    pickle: &Pickle,
    storage: Id,
    offset: Id,
    shape: Id,
    strides: Id,
) -> Result<TensorRef, Malformed> {
    let number = |id: Id, what: &str| {
        let value = pickle.int(id).and_then(|value| u64::try_from(value).ok());
        value.ok_or_else(|| Malformed(format!("its {what} is no natural number")))
    };
    let list = |id: Id, what: &str| {
        let items = pickle
            .sequence(id)
            .filter(|items| items.len() <= MAX_RANK)
            .ok_or_else(|| Malformed(format!("its {what} is no short tuple")))?;
        items
            .iter()
            .map(|id| number(*id, what))
            .collect::<Result<Vec<u64>, _>>()
    };
    let mut sizes = Vec::new();
    for dim in list(shape, "shape")? {
        let dim = usize::try_from(dim).map_err(|_| Malformed::new("its shape is absurd"))?;
        sizes.push(dim);
    }
    Ok(TensorRef {
        storage: storage_ref(pickle, storage)?,
        offset: number(offset, "offset")?,
        shape: sizes,
        strides: list(strides, "strides")?,
    })
}

/// `("storage", torch.FloatStorage, key, location, count[, view])`.
fn storage_ref(pickle: &Pickle, id: Id) -> Result<StorageRef, Malformed> {
    let fault = || Malformed::new("its storage is not described as PyTorch does it");
    let Node::Persistent(tuple) = pickle.node(id) else {
        return Err(fault());
    };
    let parts = pickle.sequence(*tuple).ok_or_else(fault)?;
    let [tag, class, key, _, _, view @ ..] = parts else {
        return Err(fault());
    };
    if pickle.text(*tag) != Some("storage") {
        return Err(fault());
    }
    if view.iter().any(|id| *pickle.node(*id) != Node::None) {
        return Err(Malformed::new(
            "its storage is a view, as only PyTorch before 0.4 wrote",
        ));
    }
    let key = pickle.text(*key).ok_or_else(fault)?.to_string();
    let dtype = match class_name(pickle, *class).ok_or_else(fault)? {
        "FloatStorage" => Dtype::F32,
        "HalfStorage" => Dtype::F16,
        "BFloat16Storage" => Dtype::Bf16,
        "DoubleStorage" => Dtype::F64,
        "LongStorage" => Dtype::I64,
        "IntStorage" => Dtype::I32,
        "ShortStorage" => Dtype::I16,
        "CharStorage" => Dtype::I8,
        "ByteStorage" => Dtype::U8,
        "BoolStorage" => Dtype::Bool,
        other => return Err(Malformed(format!("its storage `{other}` is not supported"))),
    };
    Ok(StorageRef { key, dtype })
}

/// Puts tensors and storages together, each tensor checked to lie within its storage.
pub(crate) fn assemble(
    path: &Path,
    format: Format,
    file: File,
    contents: Contents,
    regions: &HashMap<String, Region>,
) -> Result<Checkpoint> {
    let mut tensors = Vec::with_capacity(contents.tensors.len());
    let mut checksums = HashMap::new();
    for (name, tensor) in contents.tensors {
        let fail = |reason: String| Error::tensor(path, &name, reason);
        let key = &tensor.storage.key;
        let Some(region) = regions.get(key) else {
            return Err(fail(format!("its storage `{key}` is not in the file")));
        };
        let end = extent(&tensor.shape, tensor.offset, &tensor.strides)
            .map_err(|fault| fail(fault.to_string()))?;
        let needed = end.checked_mul(tensor.storage.dtype.size() as u64);
        if needed.is_none_or(|needed| needed > region.length) {
            return Err(fail(format!(
                "shape {:?}, strides {:?} at {} need {end} numbers, its storage `{key}` has {} \
                 bytes",
                tensor.shape, tensor.strides, tensor.offset, region.length
            )));
        }
        if let Some(sum) = region.checksum {
            checksums.insert(region.start, (region.length, sum));
        }
        let count = count_elements(&tensor.shape).map_err(|fault| fail(fault.to_string()))?;
        // An expanded tensor repeats its numbers; it must not blow up a small file.
        let stored = region.length / tensor.storage.dtype.size() as u64;
        if count as u64 > stored.max(MAX_EXPANDED) {
            return Err(fail(format!(
                "shape {:?} repeats the {stored} numbers of its storage too often",
                tensor.shape
            )));
        }
        let info = TensorInfo {
            shape: tensor.shape,
            dtype: tensor.storage.dtype,
        };
        let place = Place {
            start: region.start,
            offset: tensor.offset,
            strides: tensor.strides,
        };
        tensors.push((name, info, place));
    }
    Checkpoint::from_file(path, format, file, tensors, checksums, contents.facts)
}
