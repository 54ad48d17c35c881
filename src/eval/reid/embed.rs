//! Features of image files: decoded in parallel, embedded in batches.

use std::fmt::Display;
use std::path::Path;

use image::RgbImage;
use mtmc_models::{BBox, Crop, Embedder};
use mtmc_tools::dataset::market1501::Image;
use rayon::prelude::*;

use super::{Features, ReidError};
use crate::source::read_image;

/// Embeds whole images, `batch` at a time, in their order; `done` hears after each batch how many
/// there are.
///
/// # Errors
/// The first image that cannot be read or embedded, by its path; a failure of the device.
pub fn embed_images(
    embedder: &dyn Embedder,
    images: &[Image],
    batch: usize,
    done: &mut dyn FnMut(usize),
) -> Result<Features, ReidError> {
    let mut values = Vec::with_capacity(images.len() * embedder.dim());
    for (index, images) in images.chunks(batch.max(1)).enumerate() {
        let pixels = decode(images)?;
        let crops: Vec<Crop<'_>> = pixels.iter().map(whole).collect();
        let embeddings = embedder.embed(&crops)?;
        for (embedding, image) in embeddings.into_iter().zip(images) {
            match embedding {
                Ok(embedding) => values.extend_from_slice(embedding.as_slice()),
                Err(reason) => return Err(fault(&image.path, &reason)),
            }
        }
        done(index * batch + images.len());
    }
    let ids = images.iter().map(|image| image.name.id).collect();
    let cameras = images
        .iter()
        .map(|image| i64::from(image.name.camera))
        .collect();
    Features::new(values, embedder.dim(), ids, cameras)
}

fn decode(images: &[Image]) -> Result<Vec<RgbImage>, ReidError> {
    // Gathered as results first: the first error in the images' order, not in time's.
    let decoded: Vec<_> = images
        .par_iter()
        .map(|image| read_image(&image.path))
        .collect();
    let decoded: Result<Vec<_>, _> = decoded.into_iter().collect();
    Ok(decoded?)
}

fn whole(image: &RgbImage) -> Crop<'_> {
    let (width, height) = (image.width() as f32, image.height() as f32);
    Crop {
        image,
        bbox: BBox::from_xyxy(0.0, 0.0, width, height),
    }
}

fn fault(path: &Path, reason: &dyn Display) -> ReidError {
    ReidError::File {
        path: path.to_path_buf(),
        reason: reason.to_string(),
    }
}
