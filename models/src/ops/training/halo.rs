//! What the taps of a convolution see of an image: its planes with zeros around them, split by the
//! residues of a stride, so that every tap reads rows of neighbours.

/// Height and width of planes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plane {
    pub height: usize,
    pub width: usize,
}

impl Plane {
    pub(super) fn cells(self) -> usize {
        self.height * self.width
    }
}

/// Which places an output sees: row `stride · y + row`, column `stride · x + column` for every tap
/// `(row, column)`, zero where that is outside.
#[derive(Debug, Clone)]
pub(super) struct Taps {
    /// At least one.
    pub places: Vec<(isize, isize)>,
    pub stride: usize,
}

impl Taps {
    /// Those of a square kernel, row by row.
    pub(super) fn of_kernel(kernel: usize, stride: usize, padding: usize) -> Self {
        let at = |index: usize| index as isize - padding as isize;
        let places = (0..kernel * kernel).map(|tap| (at(tap / kernel), at(tap % kernel)));
        Self {
            places: places.collect(),
            stride,
        }
    }

    /// Whether outputs are inputs, so that nothing has to be copied.
    pub(super) fn is_plain(&self) -> bool {
        self.stride == 1 && self.places == [(0, 0)]
    }

    /// Smallest and largest row, smallest and largest column.
    fn reach(&self) -> [isize; 4] {
        let rows = self.places.iter().map(|place| place.0);
        let columns = self.places.iter().map(|place| place.1);
        [
            rows.clone().min().unwrap_or(0),
            rows.max().unwrap_or(0),
            columns.clone().min().unwrap_or(0),
            columns.max().unwrap_or(0),
        ]
    }
}

/// How padded, split planes lie in memory: `[channel, row residue, column residue, row, column]`.
#[derive(Debug, Clone)]
pub(super) struct Halo {
    /// Of the source.
    plane: Plane,
    stride: usize,
    /// Place that the first output's first row and column are seen at.
    origin: (isize, isize),
    /// Rows of one residue.
    rows: usize,
    /// Columns of one residue.
    pub pitch: usize,
    /// Where each tap finds what the first output sees.
    pub offsets: Vec<usize>,
    /// Residues that any tap looks at.
    used: Vec<bool>,
}

impl Halo {
    /// For outputs of `rows` rows from `first` on, `columns` columns each.
    pub(super) fn new(
        plane: Plane,
        taps: &Taps,
        first: usize,
        rows: usize,
        columns: usize,
    ) -> Self {
        let [top, bottom, left, right] = taps.reach();
        let stride = taps.stride;
        let rows = rows + (bottom - top) as usize / stride;
        let pitch = columns + (right - left) as usize / stride;
        let mut used = vec![false; stride * stride];
        let mut offsets = Vec::with_capacity(taps.places.len());
        for &(row, column) in &taps.places {
            let (row, column) = ((row - top) as usize, (column - left) as usize);
            let residue = row % stride * stride + column % stride;
            used[residue] = true;
            offsets.push((residue * rows + row / stride) * pitch + column / stride);
        }
        Self {
            plane,
            stride,
            origin: ((first * stride) as isize + top, left),
            rows,
            pitch,
            offsets,
            used,
        }
    }

    /// Numbers of a channel.
    pub(super) fn channel(&self) -> usize {
        self.stride * self.stride * self.rows * self.pitch
    }

    /// Copies `planes`, one for each channel of `padded`, with zeros around them.
    pub(super) fn fill(&self, padded: &mut [f32], planes: &[f32]) {
        padded.fill(0.0);
        self.fill_inside(padded, planes);
    }

    /// The same where `padded` holds zeros, or planes that were copied to the same places before.
    pub(super) fn fill_inside(&self, padded: &mut [f32], planes: &[f32]) {
        let channels = padded.chunks_exact_mut(self.channel());
        for (padded, plane) in channels.zip(planes.chunks_exact(self.plane.cells())) {
            let parts = padded.chunks_exact_mut(self.rows * self.pitch);
            for (residue, part) in parts.enumerate() {
                if self.used[residue] {
                    self.fill_part(part, plane, residue / self.stride, residue % self.stride);
                }
            }
        }
    }

    fn fill_part(&self, part: &mut [f32], plane: &[f32], row: usize, column: usize) {
        let Plane { height, width } = self.plane;
        let first = self.origin.1 + column as isize;
        // Columns before the image, and those that end inside it.
        let before = (-first).max(0) as usize;
        let before = before.div_ceil(self.stride).min(self.pitch);
        let start = (first + (before * self.stride) as isize) as usize;
        let inside = width.saturating_sub(start).div_ceil(self.stride);
        let end = (before + inside).min(self.pitch);
        for (index, line) in part.chunks_exact_mut(self.pitch).enumerate() {
            let y = self.origin.0 + (index * self.stride + row) as isize;
            if y < 0 || y as usize >= height || before == end {
                continue;
            }
            let source = &plane[y as usize * width + start..(y as usize + 1) * width];
            let line = &mut line[before..end];
            if self.stride == 1 {
                copy_row(line, &source[..line.len()]);
                continue;
            }
            for (value, source) in line.iter_mut().zip(source.iter().step_by(self.stride)) {
                *value = *source;
            }
        }
    }
}

/// Copies a row, mostly a short one, for which a call of the C library's function takes long.
#[inline(always)]
pub(super) fn copy_row(target: &mut [f32], source: &[f32]) {
    const GROUP: usize = 8;
    let (targets, rest) = target.as_chunks_mut::<GROUP>();
    let (sources, source_rest) = source.as_chunks::<GROUP>();
    for (target, source) in targets.iter_mut().zip(sources) {
        *target = *source;
    }
    for (target, source) in rest.iter_mut().zip(source_rest) {
        *target = *source;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        // By the definition of a tap, place by place.
        #[test]
        fn taps_see_the_image_or_zeros(
            height in 1_usize..9, width in 1_usize..9, kernel in 1_usize..5, stride in 1_usize..4,
            padding in 0_usize..4, first in 0_usize..3, rows in 1_usize..4, columns in 1_usize..6,
        ) {
            let plane = Plane { height, width };
            let numbers: Vec<f32> = (1..=2 * height * width).map(|value| value as f32).collect();
            let taps = Taps::of_kernel(kernel, stride, padding);
            let halo = Halo::new(plane, &taps, first, rows, columns);
            let mut padded = vec![f32::NAN; 2 * halo.channel()];
            halo.fill(&mut padded, &numbers);
            for channel in 0..2 {
                for (tap, offset) in halo.offsets.iter().enumerate() {
                    for (y, x) in (0..rows).flat_map(|y| (0..columns).map(move |x| (y, x))) {
                        let row = ((first + y) * stride + tap / kernel).wrapping_sub(padding);
                        let column = (x * stride + tap % kernel).wrapping_sub(padding);
                        let expected = if row < height && column < width {
                            numbers[(channel * height + row) * width + column]
                        } else {
                            0.0
                        };
                        let at = channel * halo.channel() + offset + y * halo.pitch + x;
                        prop_assert_eq!(padded[at], expected);
                    }
                }
            }
        }
    }
}
