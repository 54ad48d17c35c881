//! torchreid's OSNets: their names are ours, but for the prefix that parallel training leaves.

use super::encoder::{family, needless};
use super::{Renamed, Shapes};

/// Tensors under our names and the architectures they may be; `None` if it is something else.
pub fn rename(shapes: &Shapes) -> Option<(Renamed, Vec<&'static str>)> {
    let has =
        |name: &str| shapes.contains_key(name) || shapes.contains_key(&format!("module.{name}"));
    // What torchreid calls the first stream of the first block tells the networks apart.
    let candidates = if has("conv2.0.conv2.0.layers.0.conv1.weight") {
        family("osnet-ain-")
    } else if !has("conv2.0.conv2a.conv1.weight") {
        return None;
    } else if has("conv2.0.IN.weight") {
        family("osnet-ibn-")
    } else {
        family("osnet-x")
    };
    let mut renamed = Renamed::default();
    for name in shapes.keys() {
        let own = name.strip_prefix("module.").unwrap_or(name);
        match needless(own) {
            Some(reason) => renamed.drop(name, reason),
            None => renamed.keep(name, own),
        }
    }
    Some((renamed, candidates))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::path::Path;

    use mtmc_models::expected_tensors;

    use super::super::{Numbers, Options, Plan, encoder, plan};
    use crate::read::Checkpoint;

    /// A checkpoint of `architecture` as torchreid saves it, each name after `prefix`.
    fn checkpoint(architecture: &str, prefix: &str) -> Checkpoint {
        let description = encoder::description(architecture, "", "").unwrap();
        let mut tensors = HashMap::new();
        for spec in expected_tensors(&description).unwrap() {
            if let Some(norm) = spec.name.strip_suffix("running_mean") {
                let counter = format!("{prefix}{norm}num_batches_tracked");
                tensors.insert(counter, (Vec::new(), Vec::new()));
            }
            tensors.insert(format!("{prefix}{}", spec.name), (spec.shape, Vec::new()));
        }
        for (name, shape) in [("weight", vec![751, 512]), ("bias", vec![751])] {
            tensors.insert(format!("{prefix}classifier.{name}"), (shape, Vec::new()));
        }
        Checkpoint::from_memory(Path::new("made-up.pth.tar"), tensors)
    }

    fn planned(architecture: &str, prefix: &str) -> Plan {
        plan(&checkpoint(architecture, prefix), &Options::default()).unwrap()
    }

    #[test]
    fn every_size_is_recognised() {
        for name in super::family("osnet-") {
            for prefix in ["", "module."] {
                let plan = planned(name, prefix);
                assert_eq!(plan.description.architecture, name);
                assert_eq!(plan.description.feature_dim, Some(512));
                assert!(plan.description.classes.is_empty());
                let tensor = &plan.tensors["conv5.bn.bias"].numbers;
                let source = format!("{prefix}conv5.bn.bias");
                assert_eq!(tensor, &Numbers::Stored(vec![source]));
                let dropped = plan.dropped.iter().map(|d| d.name.as_str());
                let heads = dropped.filter(|name| name.contains("classifier."));
                assert_eq!(heads.count(), 2, "{name}");
            }
        }
    }

    #[test]
    fn another_size_than_asked_for_is_an_error() {
        for (asked, words) in [
            ("osnet-x0.5", "expects [32, 32, 1, 1]"),
            ("osnet-ain-x0.25", "osnet-ain-x0.25 expects"),
            ("rtdetr-l", "known are osnet-x0.25"),
        ] {
            let options = Options {
                architecture: Some(asked.to_string()),
                ..Options::default()
            };
            let error = plan(&checkpoint("osnet-x0.25", ""), &options);
            let error = error.unwrap_err().to_string();
            assert!(error.contains(words) && error.contains(asked), "{error}");
        }
    }
}
