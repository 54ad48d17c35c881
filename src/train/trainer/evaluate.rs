//! How well what was learnt tells people apart, by the project's own encoder and protocol.

use candle_core::{DType, Device};
use mtmc_models::{Description, LoadedEmbedder};

use super::Variables;
use crate::eval::reid::{Evaluation, Metrics, Options, embed_images};
use crate::train::TrainError;
use crate::train::data::Probe;
use crate::train::export;

/// Images that are embedded at once.
const BATCH: usize = 64;

/// Builds the encoder for inference from the variables and ranks the probe's gallery by cosine.
///
/// # Errors
/// An image cannot be read, or nobody is seen by two cameras.
pub fn evaluate(
    description: &Description,
    variables: &Variables,
    probe: &Probe,
    device: &Device,
) -> Result<Metrics, TrainError> {
    let weights = export::weights(description, variables)?;
    let embedder = LoadedEmbedder::new(&weights, device, DType::F32)?;
    let query = embed_images(&embedder, &probe.query, BATCH, &mut |_| ())?;
    let gallery = embed_images(&embedder, &probe.gallery, BATCH, &mut |_| ())?;
    let evaluation = Evaluation::new(&query, &gallery, Options::default(), &mut |_, _, _| ())?;
    Ok(evaluation.metrics(&mut |_, _, _| ())?)
}
