//! Preprocessing on a GPU: frames travel as bytes, a quarter of what they are as f32, and everything
//! else happens there, with the CPU's results to the last bit.

use candle_core::DType;
use image::RgbImage;

use super::{LETTERBOX_GREY, Placement, Preprocessor, Region, pil};
use crate::ops::cuda::resize::{self, Filter, Job, Resize, Target};
use crate::{Interpolation, Result};

/// What a GPU is to do with a batch.
struct Plan<'a> {
    /// Each frame once, in the order of their bytes.
    frames: Vec<&'a RgbImage>,
    resize: Resize,
    placements: Vec<Placement>,
}

impl Preprocessor {
    /// Parts of frames as jobs, those of one frame beside each other sharing its bytes.
    fn plan<'a>(&self, parts: &[(&'a RgbImage, [u32; 4])]) -> Result<Plan<'a>> {
        let mut frames: Vec<&RgbImage> = Vec::new();
        let (mut first, mut bytes) = (0, 0);
        let (mut jobs, mut placements) = (Vec::new(), Vec::new());
        for &(frame, [left, top, width, height]) in parts {
            if frames.last().is_none_or(|last| !std::ptr::eq(*last, frame)) {
                frames.push(frame);
                first = bytes;
                bytes += frame.as_raw().len();
            }
            let place = self.place((width, height))?;
            let size = |(a, b): (u32, u32)| (a as usize, b as usize);
            jobs.push(Job {
                frame: first,
                frame_width: frame.width() as usize,
                part_at: size((left, top)),
                part: size((width, height)),
                inner: size(place.inner),
                inner_at: size(place.inner_at),
                rows_first: pil::rows_first((width, height), place.inner),
            });
            placements.push(place.placement);
        }
        let target = Target {
            width: self.width as usize,
            height: self.height as usize,
            filter: match self.interpolation {
                Interpolation::PilBilinear => Filter::PilBilinear,
                Interpolation::PilBicubic => Filter::PilBicubic,
                Interpolation::OpencvBilinear => Filter::OpencvBilinear,
            },
            mean: self.mean,
            std: self.std,
            border: LETTERBOX_GREY,
            dtype: DType::F32,
        };
        let resize = resize::resize(&jobs, bytes, &target)?;
        Ok(Plan {
            frames,
            resize,
            placements,
        })
    }
}

#[cfg(feature = "cuda")]
mod gpu {
    use candle_core::{CudaDevice, Device, Tensor};

    use super::{Placement, Plan, Preprocessor, Region, Result, RgbImage};
    use crate::Error;
    use crate::ops::cuda::{device::run, upload};

    impl Preprocessor {
        /// As [`Preprocessor::batch`].
        pub(in crate::preprocess) fn batch_on_gpu(
            &self,
            images: &[&RgbImage],
            device: &CudaDevice,
        ) -> Result<(Tensor, Vec<Placement>)> {
            let whole = |image: &&'_ RgbImage| [0, 0, image.width(), image.height()];
            let parts: Vec<_> = images.iter().map(|image| (*image, whole(image))).collect();
            let plan = self.plan(&parts)?;
            let input = self.on_gpu(&plan, device)?;
            Ok((input, plan.placements))
        }

        /// As [`Preprocessor::crops`].
        pub(in crate::preprocess) fn crops_on_gpu(
            &self,
            crops: &[(&RgbImage, Region)],
            device: &CudaDevice,
        ) -> Result<Tensor> {
            let parts: Vec<_> = crops.iter().map(|(image, r)| (*image, r.sides())).collect();
            self.on_gpu(&self.plan(&parts)?, device)
        }

        fn on_gpu(&self, plan: &Plan<'_>, device: &CudaDevice) -> Result<Tensor> {
            let there = Device::Cuda(device.clone());
            let parts: Vec<&[u8]> = plan.frames.iter().map(|frame| &***frame).collect();
            let frames = upload::bytes(device, &parts)?;
            let jobs = Tensor::new(plan.resize.jobs.as_slice(), &there)?;
            let outputs = run(device, &plan.resize.program, &[&frames, &jobs])?;
            let shape = (
                plan.placements.len(),
                3,
                self.height as usize,
                self.width as usize,
            );
            match outputs.first() {
                Some(output) => Ok(output.reshape(shape)?),
                None => Err(Error::Input("a program without an output".to_string())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;
    use crate::ops::cuda::checks::Executor as _;
    use crate::ops::cuda::emulator::emulator;
    use crate::testing::{made_up_description, made_up_image};
    use crate::{BBox, ResizeMode};

    // Crops of two frames, stretched and in a letterbox, in the emulator and on the CPU.
    #[test]
    fn plans_give_what_the_cpu_gives() {
        let Some(emulator) = emulator() else {
            return;
        };
        let frames = [made_up_image(97, 61, 1), made_up_image(40, 120, 2)];
        let boxes = [[3.0, 4.0, 50.0, 60.0], [-5.0, 2.5, 20.0, 99.0]];
        let mut crops = Vec::new();
        for frame in &frames {
            for [x1, y1, x2, y2] in boxes {
                let region = Region::of(&BBox::from_xyxy(x1, y1, x2, y2), frame).unwrap();
                crops.push((frame, region));
            }
        }
        for (resize, interpolation) in [
            (ResizeMode::Stretch, Interpolation::PilBicubic),
            (ResizeMode::Letterbox, Interpolation::PilBilinear),
            (ResizeMode::Letterbox, Interpolation::OpencvBilinear),
        ] {
            let mut description = made_up_description("x");
            (description.input_width, description.input_height) = (32, 64);
            (description.resize, description.interpolation) = (resize, interpolation);
            let preprocessor = Preprocessor::new(&description);
            let expected = preprocessor.crops(&crops, &Device::Cpu).unwrap();
            let parts: Vec<_> = crops.iter().map(|(image, r)| (*image, r.sides())).collect();
            let plan = preprocessor.plan(&parts).unwrap();
            assert_eq!(plan.frames.len(), 2);
            let places = parts
                .iter()
                .map(|(_, [_, _, width, height])| (*width, *height));
            for (placement, size) in plan.placements.iter().zip(places) {
                assert_eq!(*placement, preprocessor.place(size).unwrap().placement);
            }
            let bytes: Vec<u8> = frames.iter().flat_map(|f| f.as_raw().clone()).collect();
            let inputs = [
                Tensor::new(bytes, &Device::Cpu).unwrap(),
                Tensor::new(plan.resize.jobs.as_slice(), &Device::Cpu).unwrap(),
            ];
            let found = emulator
                .run(&plan.resize.program, &inputs)
                .unwrap()
                .remove(0);
            let numbers = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert!(
                numbers(&found) == numbers(&expected),
                "{resize:?} {interpolation:?}"
            );
        }
    }
}
