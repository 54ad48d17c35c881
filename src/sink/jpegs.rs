//! Annotated frames as JPEG files in a folder.

use std::path::{Path, PathBuf};

use image::RgbImage;
use jpeg_encoder::{ColorType, Encoder};

use super::part::PartFile;
use super::{FrameResult, Sink, SinkError, track_labels};
use crate::annotate::Annotator;

/// JPEG quality, of 100.
const QUALITY: u8 = 90;

/// Writes each frame with its tracks drawn on it as `000001.jpg`, `000002.jpg`, … after the
/// frame's number.
#[derive(Debug)]
pub struct JpegSink {
    folder: PathBuf,
    annotator: Annotator,
}

/// An image as a JPEG file, of quality 1..=100; or why it cannot be one.
pub(crate) fn jpeg_bytes(image: &RgbImage, quality: u8) -> Result<Vec<u8>, String> {
    let (Ok(width), Ok(height)) = (image.width().try_into(), image.height().try_into()) else {
        return Err("a JPEG has at most 65535 pixels a side".to_string());
    };
    let mut bytes = Vec::new();
    Encoder::new(&mut bytes, quality)
        .encode(image, width, height, ColorType::Rgb)
        .map_err(|error| error.to_string())?;
    Ok(bytes)
}

impl JpegSink {
    /// Makes the folder, if it is not there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(folder: &Path) -> Result<Self, SinkError> {
        std::fs::create_dir_all(folder).map_err(|error| SinkError::io(folder, error))?;
        Ok(Self {
            folder: folder.to_path_buf(),
            annotator: Annotator::new(),
        })
    }
}

impl Sink for JpegSink {
    fn write(&mut self, result: &FrameResult<'_>) -> Result<(), SinkError> {
        let mut image = result.image.clone();
        self.annotator.annotate(&mut image, &track_labels(result));
        let path = self.folder.join(format!("{:06}.jpg", result.frame_number));
        let bytes = jpeg_bytes(&image, QUALITY)
            .map_err(|reason| SinkError::encode(&path, result.frame_number, &reason))?;
        let mut file = PartFile::create(&path)?;
        file.write(&bytes)?;
        file.finish()
    }

    fn finish(self: Box<Self>) -> Result<(), SinkError> {
        Ok(())
    }
}
