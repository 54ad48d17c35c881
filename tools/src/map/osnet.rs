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
