//! Pixels that are resized, and what becomes of them.

use image::RgbImage;

/// A rectangle of a frame's pixels, where they lie in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part<'a> {
    /// From its first byte to the frame's last.
    bytes: &'a [u8],
    /// Bytes from a row to the next one.
    stride: usize,
    width: u32,
    height: u32,
}

impl<'a> Part<'a> {
    /// All of `image`.
    pub(super) fn whole(image: &'a RgbImage) -> Self {
        Self::new(image, [0, 0, image.width(), image.height()])
    }

    /// Left and upper edge, width and height, which lie in `image`.
    pub(super) fn new(image: &'a RgbImage, [left, top, width, height]: [u32; 4]) -> Self {
        let stride = image.width() as usize * 3;
        let first = top as usize * stride + left as usize * 3;
        Self {
            bytes: image.as_raw().get(first..).unwrap_or_default(),
            stride,
            width,
            height,
        }
    }

    /// Width and height in pixels.
    pub(super) fn size(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    /// Bytes from a row to the next one.
    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    /// Bytes of a row.
    pub(super) fn row_bytes(&self) -> usize {
        self.width as usize * 3
    }

    /// A row and all that follows it in the frame.
    pub(super) fn row(&self, y: usize) -> &'a [u8] {
        &self.bytes[y * self.stride..]
    }

    /// Gives `line` each row's number and its bytes, in order.
    pub(super) fn lines(&self, line: &mut dyn FnMut(usize, &[u8])) {
        for y in 0..self.height as usize {
            line(y, &self.row(y)[..self.row_bytes()]);
        }
    }
}

/// An image of the rows that `resize` gives, which may be longer than the image is wide.
pub(super) fn collect(
    width: u32,
    height: u32,
    resize: impl FnOnce(&mut dyn FnMut(usize, &[u8])),
) -> RgbImage {
    let row = width as usize * 3;
    let mut bytes = Vec::with_capacity(row * height as usize);
    resize(&mut |_, line| bytes.extend_from_slice(&line[..row]));
    RgbImage::from_raw(width, height, bytes).unwrap_or_default()
}
