//! Grey pictures with a border, their pyramids, and what of them people cover.

use image::RgbImage;
use mtmc_models::BBox;

use super::simd::vectorised;

/// Pixels around a plane that repeat its edge, so that windows may reach beyond it.
pub(super) const BORDER: usize = 16;

/// Smallest side of a plane that another pyramid level is made from, in pixels.
const MIN_LEVEL_SIDE: usize = 48;

/// A grey picture of 8 bits, row by row, with [`BORDER`] pixels on all sides.
#[derive(Debug, Clone, Default)]
pub(super) struct Plane {
    width: usize,
    height: usize,
    stride: usize,
    data: Vec<u8>,
}

impl Plane {
    pub(super) fn width(&self) -> usize {
        self.width
    }

    pub(super) fn height(&self) -> usize {
        self.height
    }

    /// Bytes from one row to the next.
    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    /// All rows, borders included; the pixel (x, y) is at [`Plane::offset`].
    pub(super) fn data(&self) -> &[u8] {
        &self.data
    }

    /// Where in [`Plane::data`] the pixel (x, y) is; both may lie up to [`BORDER`] outside.
    #[inline(always)]
    pub(super) fn offset(&self, x: isize, y: isize) -> usize {
        let border = BORDER as isize;
        ((y + border) * self.stride as isize + x + border) as usize
    }

    /// Pixels of row `y` from `x` on, `count` of them; all may lie up to [`BORDER`] outside.
    #[inline(always)]
    pub(super) fn row(&self, x: isize, y: isize, count: usize) -> &[u8] {
        let start = self.offset(x, y);
        &self.data[start..start + count]
    }

    /// Gives the plane a size; its pixels are to be written afterwards.
    fn set_size(&mut self, width: usize, height: usize) {
        self.width = width;
        self.height = height;
        self.stride = width + 2 * BORDER;
        self.data.resize(self.stride * (height + 2 * BORDER), 0);
    }

    /// Pixels of row `y`, without borders.
    fn inner_row_mut(&mut self, y: usize) -> &mut [u8] {
        let start = self.offset(0, y as isize);
        &mut self.data[start..start + self.width]
    }

    /// Repeats the edge pixels into the border.
    fn fill_border(&mut self) {
        let (width, height, stride) = (self.width, self.height, self.stride);
        for y in 0..height {
            let start = (y + BORDER) * stride;
            let row = &mut self.data[start..start + stride];
            let (first, last) = (row[BORDER], row[BORDER + width - 1]);
            row[..BORDER].fill(first);
            row[BORDER + width..].fill(last);
        }
        let (first, last) = (BORDER * stride, (BORDER + height - 1) * stride);
        for y in 0..BORDER {
            self.data.copy_within(first..first + stride, y * stride);
            let below = (BORDER + height + y) * stride;
            self.data.copy_within(last..last + stride, below);
        }
    }

    /// The grey of `frame` (ITU-R BT.601), each pixel the mean of `factor` × `factor` of its
    /// pixels; what does not fill a whole block at the right and at the bottom is left out.
    ///
    /// The frame must have a whole block at least.
    pub(super) fn set_grey(&mut self, frame: &RgbImage, factor: usize) {
        let frame_width = frame.width() as usize;
        let (width, height) = (frame_width / factor, frame.height() as usize / factor);
        self.set_size(width, height);
        fill_grey(self, frame.as_raw(), frame_width * 3, factor);
        self.fill_border();
    }

    /// `finer`, smoothed with the binomial kernel 1 4 6 4 1 and of half the size: pixel (x, y) is
    /// its (2x, 2y). P. J. Burt, E. H. Adelson, The Laplacian pyramid as a compact image code,
    /// 1983.
    fn set_half(&mut self, finer: &Plane, sums: &mut Vec<u16>) {
        let (width, height) = (finer.width.div_ceil(2), finer.height.div_ceil(2));
        self.set_size(width, height);
        sums.resize(2 * width + 4, 0);
        fill_half(self, finer, sums);
        self.fill_border();
    }
}

impl Plane {
    /// `sharp`, smoothed with the binomial kernel 1 4 6 4 1 both ways.
    pub(super) fn set_smooth(&mut self, sharp: &Plane, sums: &mut Vec<u16>) {
        self.set_size(sharp.width, sharp.height);
        sums.resize(sharp.width + 4, 0);
        fill_smooth(self, sharp, sums);
        self.fill_border();
    }
}

vectorised! {
    fn fill_grey<'a>(plane: &'a mut Plane, pixels: &'a [u8], row_bytes: usize, factor: usize) -> ()
        = grey_rows
}
vectorised! {
    fn fill_half<'a>(plane: &'a mut Plane, finer: &'a Plane, sums: &'a mut [u16]) -> ()
        = half_rows
}
vectorised! {
    fn fill_smooth<'a>(plane: &'a mut Plane, sharp: &'a Plane, sums: &'a mut [u16]) -> ()
        = smooth_rows
}

#[inline(always)]
fn grey_rows(plane: &mut Plane, pixels: &[u8], row_bytes: usize, factor: usize) {
    for y in 0..plane.height {
        let start = y * factor * row_bytes;
        let rows = &pixels[start..start + factor * row_bytes];
        let out = plane.inner_row_mut(y);
        match factor {
            1 => grey_row(rows, out),
            2 => grey_half_row(rows, row_bytes, out),
            _ => grey_blocks_row(rows, row_bytes, factor, out),
        }
    }
}

#[inline(always)]
fn half_rows(plane: &mut Plane, finer: &Plane, sums: &mut [u16]) {
    for y in 0..plane.height {
        let row = |dy: isize| finer.row(-2, 2 * y as isize + dy, sums.len());
        sum_rows([row(-2), row(-1), row(0), row(1), row(2)], sums);
        halve_row(sums, plane.inner_row_mut(y));
    }
}

#[inline(always)]
fn smooth_rows(plane: &mut Plane, sharp: &Plane, sums: &mut [u16]) {
    for y in 0..plane.height {
        let row = |dy: isize| sharp.row(-2, y as isize + dy, sums.len());
        sum_rows([row(-2), row(-1), row(0), row(1), row(2)], sums);
        for (value, five) in plane.inner_row_mut(y).iter_mut().zip(sums.windows(5)) {
            *value = binomial(five);
        }
    }
}

/// Five sums weighed and rounded.
#[inline(always)]
fn binomial(five: &[u16]) -> u8 {
    let sum = five[0] + five[4] + 4 * (five[1] + five[3]) + 6 * five[2];
    ((sum + 128) >> 8) as u8
}

/// Weights of red, green and blue in grey, of 2¹⁴.
const GREY: [u32; 3] = [4899, 9617, 1868];

#[inline(always)]
fn grey_row(rgb: &[u8], out: &mut [u8]) {
    for (grey, pixel) in out.iter_mut().zip(rgb.chunks_exact(3)) {
        let sum = GREY[0] * u32::from(pixel[0])
            + GREY[1] * u32::from(pixel[1])
            + GREY[2] * u32::from(pixel[2]);
        *grey = ((sum + (1 << 13)) >> 14) as u8;
    }
}

#[inline(always)]
fn grey_half_row(rows: &[u8], row_bytes: usize, out: &mut [u8]) {
    let (upper, lower) = rows.split_at(row_bytes);
    let pairs = upper.chunks_exact(6).zip(lower.chunks_exact(6));
    for (grey, (a, b)) in out.iter_mut().zip(pairs) {
        let sum = |c: usize| {
            u32::from(a[c]) + u32::from(a[c + 3]) + u32::from(b[c]) + u32::from(b[c + 3])
        };
        let sum = GREY[0] * sum(0) + GREY[1] * sum(1) + GREY[2] * sum(2);
        *grey = ((sum + (1 << 15)) >> 16) as u8;
    }
}

#[inline(always)]
fn grey_blocks_row(rows: &[u8], row_bytes: usize, factor: usize, out: &mut [u8]) {
    let area = (factor * factor) as u32;
    for (x, grey) in out.iter_mut().enumerate() {
        let mut sum = 0;
        for row in rows.chunks_exact(row_bytes) {
            for pixel in row[x * factor * 3..(x + 1) * factor * 3].chunks_exact(3) {
                for (value, weight) in pixel.iter().zip(GREY) {
                    sum += u32::from(*value) * weight;
                }
            }
        }
        *grey = ((sum / area + (1 << 13)) >> 14) as u8;
    }
}

#[inline(always)]
fn sum_rows(rows: [&[u8]; 5], sums: &mut [u16]) {
    let [a, b, c, d, e] = rows.map(|row| &row[..sums.len()]);
    for x in 0..sums.len() {
        let (far, near) = (
            u16::from(a[x]) + u16::from(e[x]),
            u16::from(b[x]) + u16::from(d[x]),
        );
        sums[x] = far + 4 * near + 6 * u16::from(c[x]);
    }
}

#[inline(always)]
fn halve_row(sums: &[u16], out: &mut [u8]) {
    for (x, value) in out.iter_mut().enumerate() {
        *value = binomial(&sums[2 * x..2 * x + 5]);
    }
}

/// A plane and its halves, the finest first.
#[derive(Debug, Clone, Default)]
pub(super) struct Pyramid {
    /// As many as were ever needed; the first `count` are of the current picture.
    levels: Vec<Plane>,
    count: usize,
    sums: Vec<u16>,
}

impl Pyramid {
    /// The planes of the current picture, the finest first; empty before the first.
    pub(super) fn levels(&self) -> &[Plane] {
        &self.levels[..self.count]
    }

    /// The finest plane.
    pub(super) fn finest(&self) -> Option<&Plane> {
        self.levels().first()
    }

    /// Makes the pyramid of `frame`'s grey reduced by `factor`, with up to `halvings` further
    /// levels; fewer of a small frame.
    pub(super) fn set(&mut self, frame: &RgbImage, factor: usize, halvings: usize) {
        self.levels.resize_with(halvings + 1, Plane::default);
        self.count = 0;
        let (finest, mut coarser) = match self.levels.split_first_mut() {
            Some(split) => split,
            None => return,
        };
        finest.set_grey(frame, factor);
        self.count = 1;
        let mut finer = &*finest;
        while let Some((level, rest)) = coarser.split_first_mut() {
            if finer.width.min(finer.height) < MIN_LEVEL_SIDE {
                break;
            }
            level.set_half(finer, &mut self.sums);
            self.count += 1;
            finer = level;
            coarser = rest;
        }
    }
}

/// Which pixels of a plane are not background.
#[derive(Debug, Clone, Default)]
pub(super) struct Mask {
    width: usize,
    height: usize,
    /// True: covered.
    covered: Vec<bool>,
}

impl Mask {
    /// Covers the `boxes`, given in pixels of a frame `factor` times as large.
    pub(super) fn set(&mut self, plane: &Plane, boxes: &[BBox], factor: usize) {
        (self.width, self.height) = (plane.width, plane.height);
        self.covered.clear();
        self.covered.resize(self.width * self.height, false);
        let factor = factor as f32;
        for bbox in boxes.iter().filter(|bbox| bbox.is_finite()) {
            // Casts saturate: what lies outside is cut off.
            let clamp = |value: f32, side: usize| (value.max(0.0) as usize).min(side);
            let left = clamp((bbox.x1 / factor).floor(), self.width);
            let right = clamp((bbox.x2 / factor).ceil(), self.width);
            let top = clamp((bbox.y1 / factor).floor(), self.height);
            let bottom = clamp((bbox.y2 / factor).ceil(), self.height);
            if left >= right {
                continue;
            }
            for y in top..bottom {
                self.covered[y * self.width + left..y * self.width + right].fill(true);
            }
        }
    }

    /// Whether the pixel (x, y) is covered; nothing outside the plane is.
    pub(super) fn covers(&self, x: usize, y: usize) -> bool {
        x < self.width && y < self.height && self.covered[y * self.width + x]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grey_is_the_mean_of_blocks() {
        let frame = RgbImage::from_fn(5, 5, |x, y| image::Rgb([(x * 10 + y) as u8; 3]));
        for factor in [1_usize, 2, 3] {
            let mut plane = Plane::default();
            plane.set_grey(&frame, factor);
            assert_eq!(plane.width(), 5 / factor);
            // The mean of the first block of 10x + y, halves up.
            let expected = [0, 6, 11][factor - 1];
            assert_eq!(plane.row(0, 0, 1), [expected], "factor {factor}");
            assert_eq!(plane.row(-1, -1, 2), [expected; 2]);
        }
        let red = RgbImage::from_pixel(4, 4, image::Rgb([255, 0, 0]));
        let mut plane = Plane::default();
        plane.set_grey(&red, 2);
        // 0.299 · 255, BT.601.
        assert_eq!(plane.row(0, 0, 2), [76, 76]);
    }

    #[test]
    fn halves_keep_slopes() {
        let frame = RgbImage::from_fn(100, 80, |x, y| image::Rgb([(x + y) as u8; 3]));
        let mut pyramid = Pyramid::default();
        pyramid.set(&frame, 1, 3);
        // 100×80, 50×40; the next would be made from a side below 48.
        assert_eq!(pyramid.levels().len(), 2);
        let half = &pyramid.levels()[1];
        assert_eq!((half.width(), half.height()), (50, 40));
        // A binomial kernel leaves a slope as it is, away from the edges.
        assert_eq!(half.row(10, 7, 2), [34, 36]);
    }

    #[test]
    fn masks_cover_what_a_box_touches() {
        let mut plane = Plane::default();
        plane.set_size(10, 10);
        let mut mask = Mask::default();
        let boxes = [
            BBox::from_xyxy(3.0, 4.0, 6.5, 8.0),
            BBox::from_xyxy(-50.0, 18.0, 1.0, 5000.0),
            BBox::from_xyxy(f32::NAN, 0.0, 20.0, 20.0),
            BBox::from_xyxy(8.0, 8.0, 2.0, 2.0),
        ];
        mask.set(&plane, &boxes, 2);
        let covered: Vec<_> = (0..100).filter(|i| mask.covers(i % 10, i / 10)).collect();
        assert_eq!(covered, [21, 22, 23, 31, 32, 33, 90]);
        assert!(!mask.covers(10, 2));
    }
}
