//! One image file: JPEG through a SIMD decoder, PNG; upright, RGB, bounded.

use std::io::Cursor;
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageFormat, ImageReader, Limits, RgbImage};
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::{MAX_PIXELS, MAX_SIDE, SourceError, check_size};

/// Largest image file that is read into memory.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// Most scans of a progressive JPEG: each costs a pass over the image, and files of a few
/// kilobytes can claim thousands.
const MAX_JPEG_SCANS: usize = 64;

/// Reads a JPEG or PNG file as RGB, turned upright as its EXIF orientation says.
///
/// The format is told by the content, not by the name. An alpha channel is dropped, grey
/// becomes RGB, 16 bits become 8.
///
/// # Errors
/// When the file cannot be read, is neither JPEG nor PNG, is damaged or cut short, or is larger
/// than [`MAX_SIDE`] a side or [`MAX_PIXELS`] in all.
pub fn read_image(path: &Path) -> Result<RgbImage, SourceError> {
    let bytes = read_bytes(path)?;
    decode_image(&bytes).map_err(|reason| SourceError::bad_image(path, reason))
}

/// True when the name ends like an image that [`read_image`] knows.
pub(super) fn has_image_ending(path: &Path) -> bool {
    let Some(ending) = path.extension() else {
        return false;
    };
    let ending = ending.to_string_lossy().to_ascii_lowercase();
    matches!(ending.as_str(), "jpg" | "jpeg" | "jpe" | "png")
}

/// The bytes of an image file, if it is not absurdly large.
pub(super) fn read_bytes(path: &Path) -> Result<Vec<u8>, SourceError> {
    let metadata = std::fs::metadata(path).map_err(|error| SourceError::io(path, error))?;
    if metadata.len() > MAX_FILE_BYTES {
        let reason = format!("an image file of {} bytes is too large", metadata.len());
        return Err(SourceError::bad_image(path, reason));
    }
    std::fs::read(path).map_err(|error| SourceError::io(path, error))
}

/// True when the bytes start like a JPEG.
pub(super) fn is_jpeg(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0xFF, 0xD8, 0xFF])
}

fn is_png(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x89PNG\r\n\x1a\n")
}

/// Decodes the bytes of a JPEG or PNG file, or says what is wrong with them.
pub(crate) fn decode_image(bytes: &[u8]) -> Result<RgbImage, String> {
    if is_jpeg(bytes) {
        return decode_jpeg(bytes);
    }
    if is_png(bytes) {
        return decode_png(bytes);
    }
    if bytes.is_empty() {
        return Err("the file is empty".to_string());
    }
    Err("neither a JPEG nor a PNG image".to_string())
}

/// Width and height that the header promises, after turning upright; without decoding pixels.
pub(super) fn image_size(bytes: &[u8]) -> Result<(u32, u32), String> {
    if is_jpeg(bytes) {
        let mut decoder = jpeg_decoder(bytes);
        let (width, height, orientation) = jpeg_header(&mut decoder)?;
        let turned = matches!(
            orientation,
            Orientation::Rotate90
                | Orientation::Rotate270
                | Orientation::Rotate90FlipH
                | Orientation::Rotate270FlipH
        );
        return Ok(if turned {
            (height, width)
        } else {
            (width, height)
        });
    }
    if is_png(bytes) {
        let (width, height) = png_reader(bytes)
            .into_dimensions()
            .map_err(|e| e.to_string())?;
        check_size(u64::from(width), u64::from(height))?;
        return Ok((width, height));
    }
    Err("neither a JPEG nor a PNG image".to_string())
}

fn jpeg_decoder(bytes: &[u8]) -> JpegDecoder<ZCursor<&[u8]>> {
    let options = DecoderOptions::default()
        .jpeg_set_out_colorspace(ColorSpace::RGB)
        .jpeg_set_max_scans(MAX_JPEG_SCANS)
        .set_max_width(MAX_SIDE as usize)
        .set_max_height(MAX_SIDE as usize)
        .set_strict_mode(false);
    JpegDecoder::new_with_options(ZCursor::new(bytes), options)
}

/// Width, height and orientation from a JPEG's headers.
fn jpeg_header(
    decoder: &mut JpegDecoder<ZCursor<&[u8]>>,
) -> Result<(u32, u32, Orientation), String> {
    decoder
        .decode_headers()
        .map_err(|error| error.to_string())?;
    let (width, height) = decoder.dimensions().ok_or("a JPEG without a size")?;
    check_size(width as u64, height as u64)?;
    let orientation = decoder
        .exif()
        .and_then(|exif| Orientation::from_exif_chunk(exif))
        .unwrap_or(Orientation::NoTransforms);
    Ok((width as u32, height as u32, orientation))
}

fn decode_jpeg(bytes: &[u8]) -> Result<RgbImage, String> {
    // The decoder fills what is missing with grey, as viewers do. A tracker is better off
    // without a frame than with half of one.
    if !has_end_marker(bytes) {
        return Err("the JPEG is cut short: its end marker is missing".to_string());
    }
    let mut decoder = jpeg_decoder(bytes);
    let (width, height, orientation) = jpeg_header(&mut decoder)?;
    let pixels = decoder.decode().map_err(|error| error.to_string())?;
    let image = RgbImage::from_raw(width, height, pixels)
        .ok_or("the JPEG decoder gave another size than its header")?;
    Ok(turn_upright(image, orientation))
}

/// True when an end-of-image marker stands within the last kilobytes (some cameras append a
/// few bytes of their own).
fn has_end_marker(bytes: &[u8]) -> bool {
    const TAIL: usize = 4096;
    let tail = &bytes[bytes.len().saturating_sub(TAIL)..];
    tail.windows(2).any(|pair| pair == [0xFF, 0xD9])
}

fn png_reader(bytes: &[u8]) -> ImageReader<Cursor<&[u8]>> {
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    // 16-bit RGBA takes eight bytes a pixel.
    limits.max_alloc = Some(MAX_PIXELS * 8);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), ImageFormat::Png);
    reader.limits(limits);
    reader
}

fn decode_png(bytes: &[u8]) -> Result<RgbImage, String> {
    image_size(bytes)?;
    let image = png_reader(bytes)
        .decode()
        .map_err(|error| error.to_string())?;
    Ok(image.into_rgb8())
}

fn turn_upright(image: RgbImage, orientation: Orientation) -> RgbImage {
    if orientation == Orientation::NoTransforms {
        return image;
    }
    let mut image = DynamicImage::ImageRgb8(image);
    image.apply_orientation(orientation);
    image.into_rgb8()
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    fn jpeg(width: u16, height: u16) -> Vec<u8> {
        let mut pixels = Vec::new();
        for y in 0..height {
            for x in 0..width {
                pixels.extend([(x * 4) as u8, (y * 4) as u8, 128]);
            }
        }
        let mut bytes = Vec::new();
        let encoder = jpeg_encoder::Encoder::new(&mut bytes, 95);
        encoder
            .encode(&pixels, width, height, jpeg_encoder::ColorType::Rgb)
            .unwrap();
        bytes
    }

    #[test]
    fn jpeg_keeps_its_colours() {
        let image = decode_image(&jpeg(48, 32)).unwrap();
        assert_eq!(image.dimensions(), (48, 32));
        for (x, y, pixel) in image.enumerate_pixels() {
            let expected = Rgb([(x * 4) as u8, (y * 4) as u8, 128]);
            for channel in 0..3 {
                let difference = pixel[channel].abs_diff(expected[channel]);
                assert!(
                    difference <= 12,
                    "pixel {x},{y}: {pixel:?}, expected {expected:?}"
                );
            }
        }
    }

    #[test]
    fn a_cut_jpeg_is_refused_wherever_it_is_cut() {
        let bytes = jpeg(64, 64);
        for length in 0..bytes.len() - 1 {
            assert!(
                decode_image(&bytes[..length]).is_err(),
                "accepted {length} bytes"
            );
        }
    }

    #[test]
    fn exif_orientation_turns_the_image() {
        // APP1 with one little-endian TIFF entry: tag 0x112, SHORT, count 1, value 6 (rotate 90).
        let mut exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0".to_vec();
        exif.extend([0x12, 0x01, 3, 0, 1, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0]);
        let length = (exif.len() + 2) as u16;
        let plain = jpeg(48, 32);
        let mut bytes = plain[..2].to_vec();
        bytes.extend([0xFF, 0xE1]);
        bytes.extend(length.to_be_bytes());
        bytes.extend(&exif);
        bytes.extend(&plain[2..]);

        assert_eq!(image_size(&bytes).unwrap(), (32, 48));
        let turned = decode_image(&bytes).unwrap();
        let expected = image::imageops::rotate90(&decode_image(&plain).unwrap());
        assert!(turned == expected);
    }

    #[test]
    fn png_with_alpha_becomes_rgb() {
        let image = image::RgbaImage::from_fn(5, 3, |x, y| image::Rgba([x as u8, y as u8, 7, 0]));
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, ImageFormat::Png).unwrap();
        let bytes = bytes.into_inner();
        assert_eq!(image_size(&bytes).unwrap(), (5, 3));
        assert_eq!(
            decode_image(&bytes).unwrap().get_pixel(4, 2),
            &Rgb([4, 2, 7])
        );
    }

    #[test]
    fn other_bytes_are_refused() {
        assert!(decode_image(b"").unwrap_err().contains("empty"));
        assert!(decode_image(b"GIF89a").unwrap_err().contains("neither"));
    }
}
