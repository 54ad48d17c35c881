//! From frames to a network's input: resize as the weights' origin did it, scale, normalise.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use image::RgbImage;
use rayon::prelude::*;

use crate::ops::cpu::pixels::Spread;
use crate::{BBox, Description, Error, Interpolation, ResizeMode, Result};

mod crop;
#[cfg(any(feature = "cuda", test))]
mod device;
mod opencv;
mod part;
mod pil;

pub use crop::Region;
pub use opencv::resize_bilinear as resize_opencv_bilinear;
use part::Part;
pub use pil::{Filter, resize as resize_pil};

/// Grey that fills the borders of a letterboxed image (YOLO's convention).
const LETTERBOX_GREY: u8 = 114;

/// Brings images to the input of one network.
#[derive(Debug, Clone)]
pub struct Preprocessor {
    /// Of the input.
    width: u32,
    height: u32,
    /// What a letterboxed image has to fit into: the input, or what it was before it was trimmed.
    room: (u32, u32),
    resize: ResizeMode,
    interpolation: Interpolation,
    /// Each channel's, for a GPU.
    #[cfg(any(feature = "cuda", test))]
    mean: [f32; 3],
    #[cfg(any(feature = "cuda", test))]
    std: [f32; 3],
    /// By the same, for the CPU.
    spread: Arc<Spread>,
}

/// Where an image lies in the network's input.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Placement {
    input_width: f32,
    input_height: f32,
    scale_x: f32,
    scale_y: f32,
    left: f32,
    top: f32,
}

impl Placement {
    /// A box in pixels of the input, in pixels of the image.
    pub fn from_input(&self, bbox: &BBox) -> BBox {
        BBox {
            x1: (bbox.x1 - self.left) / self.scale_x,
            y1: (bbox.y1 - self.top) / self.scale_y,
            x2: (bbox.x2 - self.left) / self.scale_x,
            y2: (bbox.y2 - self.top) / self.scale_y,
        }
    }

    /// A box in 0..=1 of the input, in pixels of the image.
    pub fn from_unit(&self, bbox: &BBox) -> BBox {
        self.from_input(&BBox {
            x1: bbox.x1 * self.input_width,
            y1: bbox.y1 * self.input_height,
            x2: bbox.x2 * self.input_width,
            y2: bbox.y2 * self.input_height,
        })
    }
}

/// Where an image goes in the network's input, in pixels.
struct Place {
    /// Width and height that it is resized to.
    inner: (u32, u32),
    /// Left and upper edge of that.
    inner_at: (u32, u32),
    placement: Placement,
}

impl Preprocessor {
    /// As a weights file describes it.
    pub fn new(description: &Description) -> Self {
        Self {
            width: description.input_width as u32,
            height: description.input_height as u32,
            room: (
                description.input_width as u32,
                description.input_height as u32,
            ),
            resize: description.resize,
            interpolation: description.interpolation,
            #[cfg(any(feature = "cuda", test))]
            mean: description.mean,
            #[cfg(any(feature = "cuda", test))]
            std: description.std,
            spread: Arc::new(Spread::new(description.mean, description.std)),
        }
    }

    /// The same with an input as small as images of that width and height allow: of a letterbox no more
    /// border is kept than makes the sides multiples of `stride`. The image is as large in it as before.
    ///
    /// # Errors
    /// An image without pixels.
    pub fn trimmed(&self, image: (u32, u32), stride: u32) -> Result<Self> {
        let (width, height) = self.place(image)?.inner;
        Ok(Self {
            width: width.next_multiple_of(stride).min(self.width),
            height: height.next_multiple_of(stride).min(self.height),
            ..self.clone()
        })
    }

    /// Width and height of the input in pixels.
    pub fn input(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    /// A batch of images as `[batch, 3, height, width]`, f32, and where each of them lies.
    ///
    /// # Errors
    /// An image without pixels.
    pub fn batch(&self, images: &[&RgbImage], device: &Device) -> Result<(Tensor, Vec<Placement>)> {
        #[cfg(feature = "cuda")]
        if let Device::Cuda(device) = device {
            return self.batch_on_gpu(images, device);
        }
        let parts: Vec<Part<'_>> = images.iter().map(|image| Part::whole(image)).collect();
        self.batch_of(&parts, device)
    }

    /// A batch of parts of frames as `[batch, 3, height, width]`, f32.
    ///
    /// # Errors
    /// The device fails.
    pub fn crops(&self, crops: &[(&RgbImage, Region)], device: &Device) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if let Device::Cuda(device) = device {
            return self.crops_on_gpu(crops, device);
        }
        let mut parts = Vec::with_capacity(crops.len());
        for (image, region) in crops {
            parts.push(Part::new(image, region.sides()));
        }
        Ok(self.batch_of(&parts, device)?.0)
    }

    fn batch_of(&self, parts: &[Part<'_>], device: &Device) -> Result<(Tensor, Vec<Placement>)> {
        let plane = (self.width * self.height) as usize;
        let mut data = vec![0.0_f32; parts.len() * 3 * plane];
        let placements = data
            .par_chunks_mut(3 * plane)
            .zip(parts)
            .map(|(data, part)| self.fit(part, data))
            .collect::<Result<Vec<_>>>()?;
        let shape = (parts.len(), 3, self.height as usize, self.width as usize);
        Ok((Tensor::from_vec(data, shape, device)?, placements))
    }

    /// Writes a part of a frame into the planes of the input.
    fn fit(&self, part: &Part<'_>, data: &mut [f32]) -> Result<Placement> {
        let place = self.place(part.size())?;
        let (width, height) = place.inner;
        let mut planes = Planes::new(data, self, &place);
        planes.fill_border(self.spread.of(LETTERBOX_GREY));
        let mut line = |y: usize, bytes: &[u8]| self.spread.run(planes.row(y), bytes);
        match self.interpolation {
            Interpolation::OpencvBilinear => opencv::lines(part, width, height, &mut line),
            Interpolation::PilBilinear => {
                pil::lines(part, (width, height), Filter::Bilinear, &mut line);
            }
            Interpolation::PilBicubic => {
                pil::lines(part, (width, height), Filter::Bicubic, &mut line);
            }
        }
        Ok(place.placement)
    }

    /// Where an image of `width` × `height` pixels goes.
    fn place(&self, (width, height): (u32, u32)) -> Result<Place> {
        if width == 0 || height == 0 {
            return Err(Error::Input(format!("an image of {width}×{height} pixels")));
        }
        let (input_width, input_height) = (self.width as f32, self.height as f32);
        if self.resize == ResizeMode::Stretch {
            let placement = Placement {
                input_width,
                input_height,
                scale_x: input_width / width as f32,
                scale_y: input_height / height as f32,
                left: 0.0,
                top: 0.0,
            };
            return Ok(Place {
                inner: (self.width, self.height),
                inner_at: (0, 0),
                placement,
            });
        }
        let (room_width, room_height) = self.room;
        let scale = (f64::from(room_width) / f64::from(width))
            .min(f64::from(room_height) / f64::from(height));
        let size = |side: u32, limit: u32| {
            ((f64::from(side) * scale).round_ties_even() as u32).clamp(1, limit)
        };
        let (inner_width, inner_height) = (size(width, self.width), size(height, self.height));
        let left = (self.width - inner_width) / 2;
        let top = (self.height - inner_height) / 2;
        let placement = Placement {
            input_width,
            input_height,
            scale_x: scale as f32,
            scale_y: scale as f32,
            left: left as f32,
            top: top as f32,
        };
        Ok(Place {
            inner: (inner_width, inner_height),
            inner_at: (left, top),
            placement,
        })
    }
}

/// The planes of one image's input.
struct Planes<'a> {
    planes: [&'a mut [f32]; 3],
    /// Of the input.
    width: usize,
    /// Columns and rows that the image is in.
    columns: Range<usize>,
    rows: Range<usize>,
}

impl<'a> Planes<'a> {
    fn new(data: &'a mut [f32], input: &Preprocessor, place: &Place) -> Self {
        let (red, rest) = data.split_at_mut((input.width * input.height) as usize);
        let (green, blue) = rest.split_at_mut(red.len());
        let range = |from: u32, length: u32| from as usize..(from + length) as usize;
        Self {
            planes: [red, green, blue],
            width: input.width as usize,
            columns: range(place.inner_at.0, place.inner.0),
            rows: range(place.inner_at.1, place.inner.1),
        }
    }

    /// Fills all around the image with a value for each plane.
    fn fill_border(&mut self, values: [f32; 3]) {
        for (plane, value) in self.planes.iter_mut().zip(values) {
            for (row, y) in plane.chunks_exact_mut(self.width).zip(0..) {
                if self.rows.contains(&y) {
                    row[..self.columns.start].fill(value);
                    row[self.columns.end..].fill(value);
                } else {
                    row.fill(value);
                }
            }
        }
    }

    /// The image's row `y`.
    fn row(&mut self, y: usize) -> [&mut [f32]; 3] {
        let start = (self.rows.start + y) * self.width;
        let range = start + self.columns.start..start + self.columns.end;
        self.planes
            .each_mut()
            .map(|plane| &mut plane[range.clone()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description(resize: ResizeMode) -> Description {
        Description {
            format: 1,
            architecture: "x".to_string(),
            classes: vec![],
            input_height: 64,
            input_width: 64,
            resize,
            interpolation: Interpolation::OpencvBilinear,
            mean: [0.5, 0.0, 0.0],
            std: [0.5, 1.0, 1.0],
            feature_dim: None,
            variant: None,
            batch_norm_eps: None,
            source: String::new(),
            licence: String::new(),
        }
    }

    // By hand: 128×64 into 64×64 evenly is 64×32, 16 rows of grey above and below.
    #[test]
    fn letterbox_centres_and_maps_back() {
        let image = RgbImage::from_pixel(128, 64, image::Rgb([255, 0, 51]));
        let preprocessor = Preprocessor::new(&description(ResizeMode::Letterbox));
        let (input, placements) = preprocessor.batch(&[&image], &Device::Cpu).unwrap();
        let data = input.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!((data[0] - (114.0 / 255.0 - 0.5) / 0.5).abs() < 1e-6);
        assert!((data[32 * 64] - 1.0).abs() < 1e-6);
        assert!((data[2 * 64 * 64 + 32 * 64] - 0.2).abs() < 1e-6);
        let bbox = placements[0].from_input(&BBox::from_xyxy(0.0, 16.0, 64.0, 48.0));
        assert_eq!(bbox, BBox::from_xyxy(0.0, 0.0, 128.0, 64.0));
    }

    // By hand: 100×60 into 64×64 is 64×38 (38.4 rounded); rows come in eights, so 40, one above.
    #[test]
    fn trimming_takes_border_away_and_nothing_else() {
        let image = RgbImage::from_fn(100, 60, |x, y| image::Rgb([x as u8, y as u8, 7]));
        let whole = Preprocessor::new(&description(ResizeMode::Letterbox));
        let trimmed = whole.trimmed((100, 60), 8).unwrap();
        assert_eq!(trimmed.input(), (64, 40));
        let (large, at_large) = whole.batch(&[&image], &Device::Cpu).unwrap();
        let (small, at_small) = trimmed.batch(&[&image], &Device::Cpu).unwrap();
        let inside = large.narrow(2, 13, 38).unwrap();
        let same = small.narrow(2, 1, 38).unwrap();
        let numbers = |tensor: Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(numbers(inside), numbers(same));
        let bbox = BBox::from_xyxy(3.0, 14.0, 20.0, 30.0);
        let lower = BBox::from_xyxy(3.0, 2.0, 20.0, 18.0);
        assert_eq!(
            at_large[0].from_input(&bbox),
            at_small[0].from_input(&lower)
        );
        // What is stretched has no border.
        let stretched = Preprocessor::new(&description(ResizeMode::Stretch));
        let trimmed = stretched.trimmed((100, 60), 8).unwrap();
        assert_eq!(trimmed.input(), (64, 64));
    }

    // Resized and normalised each for itself; parts of frames as copies of them. Wider, narrower and as
    // large as the input, so that either pass comes first or none.
    #[test]
    fn input_is_resized_and_normalised() {
        use crate::testing::made_up_image;
        let frame = made_up_image(150, 131, 1);
        for interpolation in [
            Interpolation::OpencvBilinear,
            Interpolation::PilBilinear,
            Interpolation::PilBicubic,
        ] {
            let description = Description {
                interpolation,
                ..description(ResizeMode::Stretch)
            };
            let preprocessor = Preprocessor::new(&description);
            for (width, height) in [(150, 131), (64, 64), (64, 99), (30, 64), (20, 120), (9, 11)] {
                let bbox = BBox::from_xyxy(0.0, 2.0, width as f32, 2.0 + height as f32);
                let region = Region::of(&bbox, &frame).unwrap();
                let input = preprocessor
                    .crops(&[(&frame, region)], &Device::Cpu)
                    .unwrap();
                let image = region.cut(&frame);
                let resized = match interpolation {
                    Interpolation::OpencvBilinear => resize_opencv_bilinear(&image, 64, 64),
                    Interpolation::PilBilinear => resize_pil(&image, 64, 64, Filter::Bilinear),
                    Interpolation::PilBicubic => resize_pil(&image, 64, 64, Filter::Bicubic),
                };
                let found = input.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                for (at, (x, y, pixel)) in resized.enumerate_pixels().enumerate() {
                    let expected = (f32::from(pixel[0]) / 255.0 - 0.5) / 0.5;
                    assert_eq!(found[at], expected, "{width}×{height} {x} {y}");
                    assert_eq!(found[2 * 64 * 64 + at], f32::from(pixel[2]) / 255.0);
                }
            }
        }
    }

    #[test]
    fn an_image_without_pixels_is_an_error() {
        let image = RgbImage::new(0, 5);
        let preprocessor = Preprocessor::new(&description(ResizeMode::Stretch));
        assert!(preprocessor.batch(&[&image], &Device::Cpu).is_err());
    }
}
