//! Between RGB and the planes that video codecs work on: Y′CbCr 4:2:0, 8 bits.
//!
//! The way to RGB is, bit for bit, what FFmpeg's scaler does on x86 without scaling, and with
//! it OpenCV's `VideoCapture`: 16-bit fixed point that rounds down after each product, each
//! chroma sample standing for its 2×2 pixels. Detectors saw such images in training, and their
//! figures are compared on such images. Matrices: ITU-R BT.601, BT.709 and BT.2020.

use image::RgbImage;

/// How Y′CbCr relates to RGB: the luma weights of red and blue, and the range of the values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Colours {
    /// Weight of red in luma, `Kr`.
    red: f64,
    /// Weight of blue in luma, `Kb`.
    blue: f64,
    /// Luma over 0..=255 instead of 16..=235.
    full_range: bool,
}

impl Colours {
    /// ITU-R BT.601, limited range: standard definition, and whatever does not say.
    pub(crate) const BT601: Self = Self::new(0.299, 0.114);
    /// ITU-R BT.709, limited range: high definition.
    pub(crate) const BT709: Self = Self::new(0.2126, 0.0722);
    /// ITU-R BT.2020 with non-constant luminance, limited range.
    pub(crate) const BT2020: Self = Self::new(0.2627, 0.0593);

    const fn new(red: f64, blue: f64) -> Self {
        Self {
            red,
            blue,
            full_range: false,
        }
    }

    /// From the `matrix_coefficients` of H.264 (ITU-T H.264, table E-5). Unspecified and rare
    /// ones are taken as BT.601, as FFmpeg does.
    pub(crate) fn from_h264(matrix: u8, full_range: bool) -> Self {
        let colours = match matrix {
            1 => Self::BT709,
            9 | 10 => Self::BT2020,
            _ => Self::BT601,
        };
        Self {
            full_range,
            ..colours
        }
    }
}

/// The planes of one 4:2:0 picture: `height` rows of luma, half as many of chroma.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Planes<'a> {
    pub(crate) y: &'a [u8],
    pub(crate) u: &'a [u8],
    pub(crate) v: &'a [u8],
    /// Bytes from one luma row to the next.
    pub(crate) y_stride: usize,
    /// Bytes from one chroma row to the next.
    pub(crate) uv_stride: usize,
    pub(crate) width: usize,
    pub(crate) height: usize,
}

/// Factors of the way to RGB, in units of 2⁻¹³, for values that were shifted left by three.
struct Factors {
    y_offset: i16,
    y: i16,
    v_to_r: i16,
    u_to_g: i16,
    v_to_g: i16,
    u_to_b: i16,
}

impl Factors {
    fn new(colours: Colours) -> Self {
        let green = 1.0 - colours.red - colours.blue;
        let (y_scale, c_scale, y_offset) = if colours.full_range {
            (1.0, 1.0, 0)
        } else {
            (255.0 / 219.0, 255.0 / 224.0, 16 << 3)
        };
        let fixed = |value: f64| (value * 8192.0).round() as i16;
        let blue_step = 2.0 * (1.0 - colours.blue);
        let red_step = 2.0 * (1.0 - colours.red);
        Self {
            y_offset,
            y: fixed(y_scale),
            v_to_r: fixed(red_step * c_scale),
            u_to_g: fixed(-blue_step * colours.blue / green * c_scale),
            v_to_g: fixed(-red_step * colours.red / green * c_scale),
            u_to_b: fixed(blue_step * c_scale),
        }
    }
}

/// What chroma adds to red, green and blue, for each pixel of two rows.
///
/// One vector a colour and 16-bit values throughout: in this form the loops over them become
/// vector instructions.
struct ChromaRow {
    r: Vec<i16>,
    g: Vec<i16>,
    b: Vec<i16>,
}

/// Converts a 4:2:0 picture to RGB.
///
/// `None` when the planes are shorter than the size says.
pub(crate) fn to_rgb(planes: &Planes<'_>, colours: Colours) -> Option<RgbImage> {
    let (width, height) = (planes.width, planes.height);
    let chroma_width = width.div_ceil(2);
    let factors = Factors::new(colours);
    let mut pixels = vec![0_u8; width * height * 3];
    let mut chroma = ChromaRow::new(chroma_width);
    if pixels.is_empty() {
        return None;
    }
    for (row, out) in pixels.chunks_exact_mut(width * 3).enumerate() {
        if row % 2 == 0 {
            let u = plane_row(planes.u, row / 2, planes.uv_stride, chroma_width)?;
            let v = plane_row(planes.v, row / 2, planes.uv_stride, chroma_width)?;
            chroma.fill(u, v, &factors);
        }
        let y = plane_row(planes.y, row, planes.y_stride, width)?;
        rgb_row(y, &chroma, &factors, out);
    }
    RgbImage::from_raw(width as u32, height as u32, pixels)
}

fn plane_row(plane: &[u8], row: usize, stride: usize, length: usize) -> Option<&[u8]> {
    let start = row.checked_mul(stride)?;
    plane.get(start..start.checked_add(length)?)
}

impl ChromaRow {
    fn new(chroma_width: usize) -> Self {
        Self {
            r: vec![0; 2 * chroma_width],
            g: vec![0; 2 * chroma_width],
            b: vec![0; 2 * chroma_width],
        }
    }

    fn fill(&mut self, u: &[u8], v: &[u8], factors: &Factors) {
        let red = self.r.chunks_exact_mut(2);
        let green = self.g.chunks_exact_mut(2);
        let blue = self.b.chunks_exact_mut(2);
        for ((&u, &v), ((r, g), b)) in u.iter().zip(v).zip(red.zip(green).zip(blue)) {
            let u = (i16::from(u) - 128) << 3;
            let v = (i16::from(v) - 128) << 3;
            r.fill(upper_half(v, factors.v_to_r));
            g.fill(upper_half(u, factors.u_to_g) + upper_half(v, factors.v_to_g));
            b.fill(upper_half(u, factors.u_to_b));
        }
    }
}

fn rgb_row(y: &[u8], chroma: &ChromaRow, factors: &Factors, out: &mut [u8]) {
    let chroma = chroma.r.iter().zip(&chroma.g).zip(&chroma.b);
    for ((&y, out), ((&r, &g), &b)) in y.iter().zip(out.chunks_exact_mut(3)).zip(chroma) {
        let y = upper_half((i16::from(y) << 3) - factors.y_offset, factors.y);
        out[0] = (y + r).clamp(0, 255) as u8;
        out[1] = (y + g).clamp(0, 255) as u8;
        out[2] = (y + b).clamp(0, 255) as u8;
    }
}

/// The upper 16 bits of a product.
fn upper_half(a: i16, b: i16) -> i16 {
    ((i32::from(a) * i32::from(b)) >> 16) as i16
}

/// A 4:2:0 picture of its own memory, with even width and height.
#[derive(Debug, Clone)]
pub(crate) struct Picture {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) y: Vec<u8>,
    pub(crate) u: Vec<u8>,
    pub(crate) v: Vec<u8>,
}

impl Picture {
    /// A black picture. Width and height are rounded up to even.
    pub(crate) fn new(width: usize, height: usize) -> Self {
        let (width, height) = (width.next_multiple_of(2), height.next_multiple_of(2));
        Self {
            width,
            height,
            y: vec![16; width * height],
            u: vec![128; width * height / 4],
            v: vec![128; width * height / 4],
        }
    }

    /// Fills the picture from an image, limited range. Where the image is smaller, its last
    /// column and row go on; where it is larger, it is cut.
    pub(crate) fn fill(&mut self, image: &RgbImage, colours: Colours) {
        let weights = Weights::new(colours);
        let (columns, rows) = (image.width() as usize, image.height() as usize);
        if columns == 0 || rows == 0 {
            return;
        }
        let pixels = image.as_raw();
        let row_at = |y: usize| {
            let start = y.min(rows - 1) * columns * 3;
            &pixels[start..start + columns * 3]
        };
        let width = self.width;
        let luma_rows = self.y.chunks_exact_mut(2 * width);
        let chroma_rows = self
            .u
            .chunks_exact_mut(width / 2)
            .zip(self.v.chunks_exact_mut(width / 2));
        for (pair, (luma, (u, v))) in luma_rows.zip(chroma_rows).enumerate() {
            let (upper, lower) = luma.split_at_mut(width);
            weights.fill_pair(row_at(2 * pair), row_at(2 * pair + 1), upper, lower, u, v);
        }
    }
}

/// Factors of the way from RGB to limited range, in units of 2⁻¹⁶.
struct Weights {
    y: [i32; 3],
    u: [i32; 3],
    v: [i32; 3],
}

impl Weights {
    fn new(colours: Colours) -> Self {
        let (red, blue) = (colours.red, colours.blue);
        let green = 1.0 - red - blue;
        let fixed = |value: f64| (value * 65536.0).round() as i32;
        let y_scale = 219.0 / 255.0;
        let u_scale = 224.0 / 255.0 / (2.0 * (1.0 - blue));
        let v_scale = 224.0 / 255.0 / (2.0 * (1.0 - red));
        Self {
            y: [red, green, blue].map(|w| fixed(w * y_scale)),
            u: [-red, -green, 1.0 - blue].map(|w| fixed(w * u_scale)),
            v: [1.0 - red, -green, -blue].map(|w| fixed(w * v_scale)),
        }
    }

    /// Two rows of pixels to two rows of luma and one of chroma.
    fn fill_pair(
        &self,
        upper: &[u8],
        lower: &[u8],
        y_upper: &mut [u8],
        y_lower: &mut [u8],
        u: &mut [u8],
        v: &mut [u8],
    ) {
        let last = upper.len() - 3;
        for (x, (u, v)) in u.iter_mut().zip(v).enumerate() {
            let mut sum = [0_i32; 3];
            for side in 0..2 {
                let at = ((2 * x + side) * 3).min(last);
                for (pixels, luma) in [(upper, &mut *y_upper), (lower, &mut *y_lower)] {
                    let rgb = [pixels[at], pixels[at + 1], pixels[at + 2]].map(i32::from);
                    for channel in 0..3 {
                        sum[channel] += rgb[channel];
                    }
                    luma[2 * x + side] = (16 + ((dot(rgb, self.y) + (1 << 15)) >> 16)) as u8;
                }
            }
            *u = (128 + ((dot(sum, self.u) + (1 << 17)) >> 18)) as u8;
            *v = (128 + ((dot(sum, self.v) + (1 << 17)) >> 18)) as u8;
        }
    }
}

fn dot(a: [i32; 3], b: [i32; 3]) -> i32 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    fn one_colour(y: u8, u: u8, v: u8, colours: Colours) -> [u8; 3] {
        let planes = Planes {
            y: &[y; 4],
            u: &[u],
            v: &[v],
            y_stride: 2,
            uv_stride: 1,
            width: 2,
            height: 2,
        };
        to_rgb(&planes, colours).unwrap().get_pixel(1, 1).0
    }

    /// The factors that FFmpeg's tables give for BT.601 and BT.709, computed by hand from the
    /// standards: 255/219, 255/224 · 2(1−Kr), … in units of 2⁻¹³.
    #[test]
    fn factors_follow_the_standards() {
        let factors = Factors::new(Colours::BT601);
        assert_eq!(
            (factors.y, factors.v_to_r, factors.u_to_b),
            (9539, 13075, 16525)
        );
        assert_eq!((factors.u_to_g, factors.v_to_g), (-3209, -6660));
        let factors = Factors::new(Colours::BT709);
        assert_eq!((factors.v_to_r, factors.u_to_b), (14686, 17305));
    }

    #[test]
    fn black_white_and_grey_have_no_tint() {
        for colours in [Colours::BT601, Colours::BT709, Colours::BT2020] {
            assert_eq!(one_colour(16, 128, 128, colours), [0, 0, 0]);
            assert_eq!(one_colour(235, 128, 128, colours), [255, 255, 255]);
            assert_eq!(one_colour(255, 128, 128, colours), [255, 255, 255]);
            assert_eq!(one_colour(0, 128, 128, colours), [0, 0, 0]);
        }
        let full = Colours::from_h264(6, true);
        assert_eq!(one_colour(200, 128, 128, full), [200, 200, 200]);
    }

    /// 75 % colour bars of ITU-R BT.601 in 8 bits: yellow is (162, 44, 142), red (65, 100, 212).
    #[test]
    fn colour_bars_of_bt601() {
        let near = |got: [u8; 3], want: [u8; 3]| {
            for channel in 0..3 {
                assert!(
                    got[channel].abs_diff(want[channel]) <= 3,
                    "{got:?}, expected {want:?}"
                );
            }
        };
        near(one_colour(162, 44, 142, Colours::BT601), [191, 191, 0]);
        near(one_colour(65, 100, 212, Colours::BT601), [191, 0, 0]);
    }

    #[test]
    fn there_and_back_keeps_colours() {
        let colours = [
            [250, 10, 30],
            [20, 200, 40],
            [15, 30, 220],
            [255, 255, 255],
            [0, 0, 0],
        ];
        for matrix in [Colours::BT601, Colours::BT709] {
            for rgb in colours {
                let image = RgbImage::from_pixel(5, 3, Rgb(rgb));
                let mut picture = Picture::new(5, 3);
                picture.fill(&image, matrix);
                assert_eq!((picture.width, picture.height), (6, 4));
                let planes = Planes {
                    y: &picture.y,
                    u: &picture.u,
                    v: &picture.v,
                    y_stride: 6,
                    uv_stride: 3,
                    width: 6,
                    height: 4,
                };
                let back = to_rgb(&planes, matrix).unwrap();
                for pixel in back.pixels() {
                    for channel in 0..3 {
                        let difference = pixel[channel].abs_diff(rgb[channel]);
                        assert!(difference <= 3, "{rgb:?} came back as {pixel:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn short_planes_are_refused() {
        let planes = Planes {
            y: &[16; 8],
            u: &[128; 1],
            v: &[128; 2],
            y_stride: 4,
            uv_stride: 2,
            width: 4,
            height: 2,
        };
        assert!(to_rgb(&planes, Colours::BT601).is_none());
    }
}
