//! Features of images with the IDs and cameras that they show, and their files.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::{ReidError, with_values};

/// Largest file of features that is read: 50 times the gallery of Market-1501 in 2048-D.
const MAX_FILE_BYTES: u64 = 8 << 30;

/// Features of images, one a row, finite and none of them zero, with ID and camera of each.
#[derive(Debug, Clone)]
pub struct Features {
    vectors: Tensor, // [images, dim], f32, on the CPU
    ids: Vec<i64>,
    cameras: Vec<i64>,
}

impl Features {
    /// `values` are the features one after the other, `dim` numbers each.
    ///
    /// # Errors
    /// Sizes that do not fit together; the first feature that is zero, not finite, or whose length
    /// lies outside 1e-9..=1e9, for squares of squared distances are taken in f32.
    pub fn new(
        values: Vec<f32>,
        dim: usize,
        ids: Vec<i64>,
        cameras: Vec<i64>,
    ) -> Result<Self, ReidError> {
        let fits = ids.len().checked_mul(dim) == Some(values.len());
        if dim == 0 || !fits || cameras.len() != ids.len() {
            return Err(ReidError::Shape {
                values: values.len(),
                dim,
                ids: ids.len(),
                cameras: cameras.len(),
            });
        }
        let vectors = Tensor::from_vec(values, (ids.len(), dim), &Device::Cpu)?;
        Self::checked(vectors, ids, cameras)
    }

    fn checked(vectors: Tensor, ids: Vec<i64>, cameras: Vec<i64>) -> Result<Self, ReidError> {
        let dim = vectors.dim(1)?;
        with_values(&vectors, |values| {
            for (row, feature) in values.chunks_exact(dim).enumerate() {
                check_row(row, feature)?;
            }
            Ok(())
        })?;
        Ok(Self {
            vectors,
            ids,
            cameras,
        })
    }

    /// Reads a safetensors file with the tensors `features` (F32, `[images, dim]`), `ids` and
    /// `cameras` (I64, `[images]` each).
    ///
    /// # Errors
    /// [`ReidError::File`] with the tensor or the row that is wrong.
    pub fn read(path: &Path) -> Result<Self, ReidError> {
        let fault = |reason: String| ReidError::File {
            path: path.to_path_buf(),
            reason,
        };
        let size = std::fs::metadata(path)
            .map_err(|error| fault(error.to_string()))?
            .len();
        if size > MAX_FILE_BYTES {
            return Err(fault(format!("{size} bytes are too many for features")));
        }
        let mut tensors = candle_core::safetensors::load(path, &Device::Cpu)
            .map_err(|error| fault(format!("not a readable safetensors file: {error}")))?;
        let mut take = |name: &str, dtype: DType, rank: usize| {
            let tensor = tensors
                .remove(name)
                .ok_or_else(|| fault(format!("has no tensor `{name}`")))?;
            if tensor.dtype() != dtype || tensor.rank() != rank {
                return Err(fault(format!(
                    "tensor `{name}`: expected {rank} dimension{} of {}, found {:?} of {}",
                    if rank == 1 { "" } else { "s" },
                    dtype.as_str(),
                    tensor.dims(),
                    tensor.dtype().as_str(),
                )));
            }
            Ok(tensor)
        };
        let vectors = take("features", DType::F32, 2)?;
        let ids = take("ids", DType::I64, 1)?.to_vec1::<i64>()?;
        let cameras = take("cameras", DType::I64, 1)?.to_vec1::<i64>()?;
        let (images, dim) = vectors.dims2()?;
        if dim == 0 || ids.len() != images || cameras.len() != images {
            return Err(fault(format!(
                "features {:?}, ids [{}] and cameras [{}] do not belong together",
                vectors.dims(),
                ids.len(),
                cameras.len()
            )));
        }
        Self::checked(vectors, ids, cameras).map_err(|error| fault(error.to_string()))
    }

    /// Writes a file that [`Features::read`] reads.
    ///
    /// # Errors
    /// [`ReidError::File`] if it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), ReidError> {
        let tensors = HashMap::from([
            ("features", self.vectors.clone()),
            ("ids", Tensor::new(self.ids.as_slice(), &Device::Cpu)?),
            (
                "cameras",
                Tensor::new(self.cameras.as_slice(), &Device::Cpu)?,
            ),
        ]);
        candle_core::safetensors::save(&tensors, path).map_err(|error| ReidError::File {
            path: path.to_path_buf(),
            reason: error.to_string(),
        })
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Numbers a feature.
    pub fn dim(&self) -> usize {
        self.vectors.dims()[1]
    }

    /// The ID that each image shows; -1 is junk, which the protocol ignores.
    pub fn ids(&self) -> &[i64] {
        &self.ids
    }

    /// The camera of each image.
    pub fn cameras(&self) -> &[i64] {
        &self.cameras
    }

    /// `[images, dim]`.
    pub(super) fn vectors(&self) -> &Tensor {
        &self.vectors
    }

    /// The images in `rows`, ascending; shares memory when these are all.
    pub(super) fn select(&self, rows: &[usize]) -> Result<Self, ReidError> {
        if rows.len() == self.len() {
            return Ok(self.clone());
        }
        let index: Vec<u32> = rows.iter().map(|row| *row as u32).collect();
        let index = Tensor::from_vec(index, rows.len(), &Device::Cpu)?;
        Ok(Self {
            vectors: self.vectors.index_select(&index, 0)?,
            ids: rows.iter().map(|row| self.ids[*row]).collect(),
            cameras: rows.iter().map(|row| self.cameras[*row]).collect(),
        })
    }
}

fn check_row(row: usize, feature: &[f32]) -> Result<(), ReidError> {
    let squares: f64 = feature.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
    let reason = if !squares.is_finite() {
        "holds NaN or infinity"
    } else if squares == 0.0 {
        "is zero"
    } else if !(1e-18..=1e18).contains(&squares) {
        "has a length outside 1e-9..=1e9"
    } else {
        return Ok(());
    };
    Err(ReidError::Row { row, reason })
}
