//! From crops to vectors: what all networks that recognise people share around their forward pass.

use candle_core::{DType, Device, Tensor};
use image::RgbImage;
use rayon::prelude::*;

use crate::layers::{Mode, Params, Precision};
use crate::memory::in_halves;
use crate::preprocess::{Preprocessor, Region};
use crate::{Crop, Description, EmbedError, Embedder, Embedding, Error, Result, Weights};
use crate::{expected_tensors, network};

/// Most crops that are in work at once, so that memory stays bounded: one more than this adds a
/// pass, not memory.
pub const MAX_BATCH: usize = 32;

/// Crops that a thread takes through the network together on the CPU: few, so that they stay in
/// its cache, and always as many, so that vectors do not depend on the number of threads.
const CPU_BATCH: usize = 4;

/// A network that gives a vector for every image.
pub trait EmbeddingNetwork: Send + Sync {
    /// `images`: `[batch, 3, height, width]`, preprocessed; the result: `[batch, dim]`, of any
    /// length.
    ///
    /// # Errors
    /// The shape does not fit, or the device fails.
    fn forward(&self, images: &Tensor) -> candle_core::Result<Tensor>;

    /// Length of the vectors.
    fn dim(&self) -> usize;
}

/// A loaded encoder: crops, preprocessing, network, normalisation.
pub struct LoadedEmbedder {
    network: Box<dyn EmbeddingNetwork>,
    description: Description,
    preprocessor: Preprocessor,
    device: Device,
    dtype: DType,
}

impl LoadedEmbedder {
    /// Builds the network that `weights` describes, for inference in `dtype` on `device`.
    ///
    /// # Errors
    /// The architecture is unknown or no encoder, a tensor is missing or has a wrong shape, or the
    /// vectors have not the size that the description says.
    pub fn new(weights: &Weights, device: &Device, dtype: DType) -> Result<Self> {
        let description = weights.description();
        network::check_is_embedder(description)?;
        weights.check(&expected_tensors(description)?)?;
        let (dtype, precision) = Precision::on(device, dtype)?;
        let params = Params::new(
            weights.var_builder(dtype, device),
            Mode::Inference,
            description.batch_norm_eps.unwrap_or(1e-5),
        )
        .precision(precision);
        let network = network::build_embedder(description, &params)?;
        if let Some(said) = description.feature_dim
            && said != network.dim()
        {
            let reason = format!(
                "its description says vectors of {said} numbers, {} gives {}",
                description.architecture,
                network.dim()
            );
            return Err(Error::Description {
                path: weights.path().to_path_buf(),
                reason,
            });
        }
        Ok(Self {
            network,
            description: description.clone(),
            preprocessor: Preprocessor::new(description),
            device: device.clone(),
            dtype,
        })
    }

    /// What the weights say of themselves.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// The network alone, for parity tests and benches.
    pub fn network(&self) -> &dyn EmbeddingNetwork {
        &*self.network
    }

    /// One vector a region, as the network gives it.
    fn vectors(&self, regions: &[(&RgbImage, Region)]) -> Result<Vec<Vec<f32>>> {
        let input = self.preprocessor.crops(regions, &self.device)?;
        let output = self.network.forward(&input.to_dtype(self.dtype)?)?;
        let expected = (regions.len(), self.network.dim());
        if output.dims2()? != expected {
            return Err(Error::Input(format!(
                "{} gave {:?} instead of {expected:?}",
                self.description.architecture,
                output.dims()
            )));
        }
        Ok(output.to_dtype(DType::F32)?.to_vec2::<f32>()?)
    }
}

impl Embedder for LoadedEmbedder {
    fn embed(&self, crops: &[Crop<'_>]) -> Result<Vec<Result<Embedding, EmbedError>>> {
        let mut results = vec![Err(EmbedError::EmptyCrop); crops.len()];
        let mut places = Vec::with_capacity(crops.len());
        let mut regions = Vec::with_capacity(crops.len());
        for (index, crop) in crops.iter().enumerate() {
            if let Some(region) = Region::of(&crop.bbox, crop.image) {
                places.push(index);
                regions.push((crop.image, region));
            }
        }
        let together = if self.device.is_cpu() {
            CPU_BATCH
        } else {
            MAX_BATCH
        };
        for (places, regions) in places.chunks(MAX_BATCH).zip(regions.chunks(MAX_BATCH)) {
            let vectors = regions
                .par_chunks(together)
                .map(|regions| in_halves(regions, &|regions| self.vectors(regions)))
                .collect::<Result<Vec<_>>>()?;
            for (&place, vector) in places.iter().zip(vectors.into_iter().flatten()) {
                results[place] = Embedding::new(vector);
            }
        }
        Ok(results)
    }

    fn dim(&self) -> usize {
        self.network.dim()
    }

    fn input_size(&self) -> (usize, usize) {
        (self.description.input_height, self.description.input_width)
    }
}
