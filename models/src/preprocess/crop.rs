//! The part of a frame inside a box.

use image::{GenericImageView, RgbImage};

use crate::BBox;

/// Whole pixels of a frame, at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    left: u32,
    top: u32,
    width: u32,
    height: u32,
}

impl Region {
    /// The pixels of `image` in `bbox`; `None` if there are none or a corner is NaN or infinite.
    ///
    /// Corners are cut to whole numbers and clamped to the frame; the right and lower ones are
    /// exclusive. DeepSORT and BoT-SORT cut corners so, but never reach the frame's last column
    /// and row, which belong to the person here.
    pub fn of(bbox: &BBox, image: &RgbImage) -> Option<Self> {
        if !bbox.is_finite() {
            return None;
        }
        // `as` saturates, so that neither negative nor huge corners wrap.
        let left = (bbox.x1 as u32).min(image.width());
        let top = (bbox.y1 as u32).min(image.height());
        let right = (bbox.x2 as u32).min(image.width());
        let bottom = (bbox.y2 as u32).min(image.height());
        if left >= right || top >= bottom {
            return None;
        }
        Some(Self {
            left,
            top,
            width: right - left,
            height: bottom - top,
        })
    }

    /// Left and upper edge, width and height.
    pub(super) fn sides(&self) -> [u32; 4] {
        [self.left, self.top, self.width, self.height]
    }

    /// A copy of these pixels of `image`, the frame that the region was made for.
    pub fn cut(&self, image: &RgbImage) -> RgbImage {
        image
            .view(self.left, self.top, self.width, self.height)
            .to_image()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn region(x1: f32, y1: f32, x2: f32, y2: f32) -> Option<[u32; 4]> {
        let image = RgbImage::new(10, 8);
        let region = Region::of(&BBox::from_xyxy(x1, y1, x2, y2), &image)?;
        Some([region.left, region.top, region.width, region.height])
    }

    // By hand.
    #[test]
    fn corners_are_cut_and_clamped() {
        assert_eq!(region(1.9, 2.9, 4.9, 5.1), Some([1, 2, 3, 3]));
        assert_eq!(region(-3.5, -1.0, 99.0, 1e30), Some([0, 0, 10, 8]));
        assert_eq!(region(9.0, 7.0, 10.0, 8.0), Some([9, 7, 1, 1]));
    }

    #[test]
    fn boxes_without_pixels_have_no_region() {
        for (x1, y1, x2, y2) in [
            (3.0, 3.0, 3.0, 5.0),
            (3.2, 3.0, 3.9, 5.0),
            (5.0, 3.0, 3.0, 5.0),
            (10.0, 0.0, 12.0, 5.0),
            (-5.0, 0.0, -1.0, 5.0),
            (f32::NAN, 0.0, 5.0, 5.0),
            (0.0, 0.0, f32::INFINITY, 5.0),
        ] {
            assert_eq!(region(x1, y1, x2, y2), None, "{x1} {y1} {x2} {y2}");
        }
    }

    proptest! {
        #[test]
        fn regions_lie_inside_the_frame(corners in prop::array::uniform4(-20.0_f32..20.0)) {
            let [x1, y1, x2, y2] = corners;
            if let Some([left, top, width, height]) = region(x1, y1, x2, y2) {
                prop_assert!(width > 0 && height > 0);
                prop_assert!(left + width <= 10 && top + height <= 8);
            }
        }
    }
}
