//! Weights files: safetensors whose metadata describes the network they belong to.
//!
//! The description stands as JSON under the metadata key [`METADATA_KEY`]. Loading checks it, and
//! every tensor's shape, before anything runs.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::VarBuilder;
use candle_nn::var_builder::SimpleBackend;
use serde::{Deserialize, Serialize};

use crate::clip::ClipVitVariant;
use crate::resnet50::ResNet50Config;
use crate::{Error, Result};

/// Metadata key of the description.
pub const METADATA_KEY: &str = "mtmc";

/// Version of the description's format that this crate writes and reads.
pub const FORMAT_VERSION: u32 = 1;

/// How an image is brought to the network's input size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResizeMode {
    /// Both sides scaled independently.
    Stretch,
    /// Scaled evenly, centred, the rest filled with grey 114 (YOLO).
    Letterbox,
}

/// Which interpolation the weights were made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// OpenCV's `INTER_LINEAR`: two taps, half-pixel centres, no antialiasing.
    OpencvBilinear,
    /// Pillow's `BILINEAR`: a triangle filter that widens when shrinking.
    PilBilinear,
    /// Pillow's `BICUBIC`: a cubic filter (a = −0.5) that widens when shrinking.
    PilBicubic,
}

/// What the names of some architectures leave open.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Variant {
    /// Of `resnet50-reid`.
    Resnet50(ResNet50Config),
    /// Of `clip-reid-vit-b16`.
    ClipVit(ClipVitVariant),
}

/// What a weights file says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// [`FORMAT_VERSION`] of the writer.
    pub format: u32,
    /// Architecture and size, for example `rtdetr-l`, `deimv2-femto`, `yolov8n`.
    pub architecture: String,
    /// Class names by index; empty for encoders.
    pub classes: Vec<String>,
    /// Network input height in pixels.
    pub input_height: usize,
    /// Network input width in pixels.
    pub input_width: usize,
    /// How images reach that size.
    pub resize: ResizeMode,
    /// With which interpolation.
    pub interpolation: Interpolation,
    /// Per channel (RGB), subtracted after scaling pixels to 0..=1.
    pub mean: [f32; 3],
    /// Per channel (RGB), divided by after the mean.
    pub std: [f32; 3],
    /// Length of the feature vector; only for encoders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feature_dim: Option<usize>,
    /// What the architecture's name leaves open; only for encoders that come in variants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<Variant>,
    /// Epsilon of the batch norms where it differs from PyTorch's 1e-5 (Ultralytics: 1e-3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_norm_eps: Option<f64>,
    /// Where the weights came from: file name or repository.
    pub source: String,
    /// Licence of the weights, as their publisher states it; `unknown` if it does not.
    pub licence: String,
}

/// Name and shape of one tensor of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name in the weights file.
    pub name: String,
    /// Its dimensions.
    pub shape: Vec<usize>,
}

/// A weights file, checked and ready to build a network from.
pub struct Weights {
    path: PathBuf,
    description: Description,
    tensors: HashMap<String, Tensor>,
}

impl Description {
    /// Whether the network is known to find with products in bfloat16 what it finds in f32, by its published
    /// weights on photographs: an mAP of 0.99 at an IoU of 0.5, scores off by less than 0.01 in the mean
    /// (`cargo test -p mtmc-tools --test precision`).
    pub fn keeps_results_in_bf16(&self) -> bool {
        matches!(self.architecture.as_str(), "deimv2-atto" | "deimv2-femto")
    }
}

impl Weights {
    /// Reads a file and its description; tensors go to `device` in their stored type.
    ///
    /// # Errors
    /// A missing, truncated or damaged file; metadata without a description or with one from a
    /// newer format. The error names the file.
    pub fn load(path: &Path, device: &Device) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|source| Error::Io {
            path: path.to_path_buf(),
            source,
        })?;
        let format = |reason: String| Error::Format {
            path: path.to_path_buf(),
            reason,
        };
        let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes)
            .map_err(|error| format(error.to_string()))?;
        let description = parse_description(path, metadata.metadata().as_ref())?;
        let tensors = candle_core::safetensors::load_buffer(&bytes, device)
            .map_err(|error| format(error.to_string()))?;
        Ok(Self {
            path: path.to_path_buf(),
            description,
            tensors,
        })
    }

    /// Weights from memory, for tests and for training from scratch.
    pub fn from_tensors(description: Description, tensors: HashMap<String, Tensor>) -> Self {
        Self {
            path: PathBuf::from("<memory>"),
            description,
            tensors,
        }
    }

    /// What the file says of itself.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// Has images brought to `side` × `side` pixels instead of the size that the weights name.
    pub fn set_input_side(&mut self, side: usize) {
        self.description.input_height = side;
        self.description.input_width = side;
    }

    /// The file it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tensors by name.
    pub fn tensors(&self) -> &HashMap<String, Tensor> {
        &self.tensors
    }

    /// Checks that every tensor in `expected` is there with its shape and holds finite numbers.
    ///
    /// # Errors
    /// The first tensor that is missing, has another shape or holds NaN or infinity, by name.
    pub fn check(&self, expected: &[TensorSpec]) -> Result<()> {
        for spec in expected {
            let wrong = |expected: String, found: String| Error::Tensor {
                path: self.path.clone(),
                tensor: spec.name.clone(),
                expected,
                found,
            };
            let shape = format!("{:?}", spec.shape);
            let Some(tensor) = self.tensors.get(&spec.name) else {
                return Err(wrong(shape, "nothing".to_string()));
            };
            if tensor.dims() != spec.shape {
                return Err(wrong(shape, format!("{:?}", tensor.dims())));
            }
            let numbers = tensor
                .to_dtype(DType::F32)?
                .flatten_all()?
                .to_vec1::<f32>()?;
            if let Some(number) = numbers.iter().find(|number| !number.is_finite()) {
                return Err(wrong("finite numbers".to_string(), number.to_string()));
            }
        }
        Ok(())
    }

    /// A view of the tensors for building a network in `dtype`.
    pub fn var_builder(&self, dtype: DType, device: &Device) -> VarBuilder<'static> {
        VarBuilder::from_tensors(self.tensors.clone(), dtype, device)
    }
}

/// Reads the description of a weights file without its tensors.
///
/// # Errors
/// As [`Weights::load`].
pub fn read_description(path: &Path) -> Result<Description> {
    use std::io::Read as _;
    let io = |source| Error::Io {
        path: path.to_path_buf(),
        source,
    };
    let format = |reason: &str| Error::Format {
        path: path.to_path_buf(),
        reason: reason.to_string(),
    };
    let mut file = std::fs::File::open(path).map_err(io)?;
    let mut length = [0_u8; 8];
    file.read_exact(&mut length)
        .map_err(|_| format("shorter than its own header"))?;
    let length = u64::from_le_bytes(length);
    if length > 100_000_000 {
        return Err(format("header length is absurd"));
    }
    let mut header = Vec::new();
    file.take(length).read_to_end(&mut header).map_err(io)?;
    if (header.len() as u64) < length {
        return Err(format("cut short inside its header"));
    }
    let header: serde_json::Value =
        serde_json::from_slice(&header).map_err(|_| format("header is not JSON"))?;
    let metadata = header
        .get("__metadata__")
        .and_then(|value| serde_json::from_value::<HashMap<String, String>>(value.clone()).ok());
    parse_description(path, metadata.as_ref())
}

fn parse_description(
    path: &Path,
    metadata: Option<&HashMap<String, String>>,
) -> Result<Description> {
    let error = |reason: String| Error::Description {
        path: path.to_path_buf(),
        reason,
    };
    let text = metadata
        .and_then(|map| map.get(METADATA_KEY))
        .ok_or_else(|| {
            error(
                "has no description of its network; convert it with `mtmc models convert`"
                    .to_string(),
            )
        })?;
    let description: Description = serde_json::from_str(text)
        .map_err(|reason| error(format!("its description cannot be read: {reason}")))?;
    if description.format > FORMAT_VERSION {
        return Err(error(format!(
            "its description has format {}, this program reads up to {FORMAT_VERSION}",
            description.format
        )));
    }
    let sizes = 1..=8192;
    if !sizes.contains(&description.input_width) || !sizes.contains(&description.input_height) {
        return Err(error(format!(
            "its input size {}×{} is not within 1..=8192",
            description.input_width, description.input_height
        )));
    }
    if description.std.iter().any(|s| !s.is_finite() || *s <= 0.0)
        || description.mean.iter().any(|m| !m.is_finite())
    {
        return Err(error("its mean or std is not usable".to_string()));
    }
    Ok(description)
}

/// A source of zeros that notes what was asked of it: how a network's tensor list is found.
pub(crate) struct Recorder(pub std::sync::Arc<std::sync::Mutex<Vec<TensorSpec>>>);

impl SimpleBackend for Recorder {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: candle_nn::Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        if let Ok(mut specs) = self.0.lock() {
            specs.push(TensorSpec {
                name: name.to_string(),
                shape: shape.dims().to_vec(),
            });
        }
        // Broadcast from one number: no memory for weights that nobody will use.
        Tensor::zeros((), dtype, device)?.broadcast_as(shape)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        candle_core::bail!("tensor `{name}` was asked for without its shape")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{made_up_description, made_up_weights};
    use crate::{LoadedDetector, expected_tensors};

    fn load(change: impl FnOnce(&mut HashMap<String, Tensor>)) -> String {
        let description = made_up_description("deimv2-atto");
        let specs = expected_tensors(&description).unwrap();
        let mut weights = made_up_weights(&description, &specs);
        change(&mut weights.tensors);
        match LoadedDetector::new(&weights, &Device::Cpu, DType::F32) {
            Ok(_) => "loaded".to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn what_is_wrong_with_a_tensor_is_told_by_name() {
        assert_eq!(load(|_| ()), "loaded");
        let name = "decoder.enc_score_head.bias";
        let missing = load(|tensors| {
            tensors.remove(name);
        });
        assert!(
            missing.contains(name) && missing.contains("found nothing"),
            "{missing}"
        );
        let shape = load(|tensors| {
            let wrong = Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap();
            tensors.insert(name.to_string(), wrong);
        });
        assert!(
            shape.contains(name) && shape.contains("found [3]"),
            "{shape}"
        );
        let not_finite = load(|tensors| {
            let wrong = (tensors[name].clone() * f64::NAN).unwrap();
            tensors.insert(name.to_string(), wrong);
        });
        assert!(not_finite.contains("found NaN"), "{not_finite}");
    }

    #[test]
    fn files_that_are_no_weights_are_told_apart() {
        let folder = std::env::temp_dir().join(format!("mtmc-weights-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("some.safetensors");
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            let whole = Weights::load(&path, &Device::Cpu)
                .err()
                .unwrap()
                .to_string();
            let header = read_description(&path).err().unwrap().to_string();
            assert!(whole.contains("some.safetensors") && header.contains("some.safetensors"));
            (whole, header)
        };
        for bytes in [&b""[..], b"abc", &[0xff; 64], b"\x20\0\0\0\0\0\0\0{\"a\":"] {
            let (whole, header) = read(bytes);
            assert!(whole.contains("not a readable safetensors file"), "{whole}");
            assert!(
                header.contains("not a readable safetensors file"),
                "{header}"
            );
        }
        let (whole, header) = read(b"\x02\0\0\0\0\0\0\0{}");
        assert!(whole.contains("no description") && header.contains("no description"));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
