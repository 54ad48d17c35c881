//! The transforms of [`super::winograd`]: sixteen tiles at a time by AVX-512, in plain loops for others.
//!
//! At stride 2 (polyphase decomposition) the even rows of the padded input meet two rows of the kernel, the odd
//! ones the third, and so do columns: sums of four filterings at stride 1 with 2×2, 2×1, 1×2 and 1×1 taps. All
//! four are transformed by F(4×4, 2×2), at the points 0, 1, −1, 2 and infinity; what has one tap along a side is
//! zero at infinity. The sums meet before they are transformed back.

#![allow(unsafe_code)] // vector instructions

use super::block::COLUMNS;
use super::simd::Level;

mod plain;
#[cfg(target_arch = "x86_64")]
mod x86;

/// Outputs of a tile along each side.
pub const TILE: usize = 4;

/// Products of a tile along each side, and inputs that it sees, at stride 1.
pub const SIDE: usize = 6;

/// Products of a tile along each side at stride 2.
pub const HALF_SIDE: usize = 5;

/// Inputs that a tile sees along each side at stride 2; as many lines are transformed.
const SEEN: usize = 2 * TILE + 1;

const LANES: usize = 16;

/// Numbers of a row of inputs: those of all tiles, at stride 2, what full vectors write beyond, and a line, lest
/// every second row lie at the same place of the first-level cache.
const ROW: usize = (COLUMNS + LANES) * 2 * TILE + LANES;

/// What is filtered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Stride 1, by F(4×4, 3×3).
    Single,
    /// Stride 2, rows and columns by halves; only for AVX-512.
    Halves,
}

/// One of the rows, or columns, that a tile is transformed to.
#[derive(Debug, Clone, Copy)]
pub struct Line {
    /// The row of products that it belongs to.
    pub position: usize,
    /// What the kernel's three rows count in it.
    pub factors: [f64; 3],
}

impl Form {
    /// The lines along a side, in the order in which [`input`] gives them.
    pub fn lines(self) -> &'static [Line] {
        const fn line(position: usize, factors: [f64; 3]) -> Line {
            Line { position, factors }
        }
        const SIXTH: f64 = 1.0 / 6.0;
        match self {
            Self::Single => {
                const {
                    &[
                        line(0, [0.25, 0.0, 0.0]),
                        line(1, [-SIXTH, -SIXTH, -SIXTH]),
                        line(2, [-SIXTH, SIXTH, -SIXTH]),
                        line(3, [1.0 / 24.0, 1.0 / 12.0, SIXTH]),
                        line(4, [1.0 / 24.0, -1.0 / 12.0, SIXTH]),
                        line(5, [0.0, 0.0, 1.0]),
                    ]
                }
            }
            // Of even rows, which meet the kernel's first and last row, and of odd ones in turn.
            Self::Halves => {
                const {
                    &[
                        line(0, [0.5, 0.0, 0.0]),
                        line(0, [0.0, 0.5, 0.0]),
                        line(1, [-0.5, 0.0, -0.5]),
                        line(1, [0.0, -0.5, 0.0]),
                        line(2, [-SIXTH, 0.0, SIXTH]),
                        line(2, [0.0, -SIXTH, 0.0]),
                        line(3, [SIXTH, 0.0, 1.0 / 3.0]),
                        line(3, [0.0, SIXTH, 0.0]),
                        line(4, [0.0, 0.0, 1.0]),
                    ]
                }
            }
        }
    }

    /// Products of a tile along each side.
    pub fn side(self) -> usize {
        match self {
            Self::Single => SIDE,
            Self::Halves => HALF_SIDE,
        }
    }
}

/// Neighbouring tiles of one row of tiles.
#[derive(Debug, Clone, Copy)]
pub struct Segment {
    /// Image of the batch.
    pub image: usize,
    /// Row of tiles.
    pub row: usize,
    /// First tile in it.
    pub first: usize,
    /// How many.
    pub count: usize,
    /// Place of the first one in the panel.
    pub lane: usize,
}

/// The tiles of a panel.
#[derive(Default)]
pub struct Tiles {
    segments: Vec<Segment>,
    /// Tiles that end a segment, by vector: what they see of the next tile lies elsewhere.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // for AVX-512 alone
    ends: [u16; COLUMNS / LANES],
    lanes: usize,
}

impl Tiles {
    /// `count` tiles from `first` on, at most [`COLUMNS`], counted through images of `rows` times
    /// `columns` tiles.
    pub fn set(&mut self, first: usize, count: usize, rows: usize, columns: usize) {
        assert!(count <= COLUMNS);
        self.segments.clear();
        let mut done = 0;
        while done < count {
            let (row, column) = ((first + done) / columns, (first + done) % columns);
            let here = (columns - column).min(count - done);
            self.segments.push(Segment {
                image: row / rows,
                row: row % rows,
                first: column,
                count: here,
                lane: done,
            });
            done += here;
        }
        self.lanes = count;
        self.ends = Default::default();
        for segment in &self.segments {
            let last = segment.lane + segment.count - 1;
            self.ends[last / LANES] |= 1 << (last % LANES);
        }
    }

    /// In the panel's order.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// How many tiles.
    pub fn lanes(&self) -> usize {
        self.lanes
    }
}

/// Channels of a batch of images.
#[derive(Clone, Copy)]
pub struct Images<'a> {
    /// `[batch, channels, height, width]`.
    pub data: &'a [f32],
    /// How many an image has.
    pub channels: usize,
    /// Rows and columns.
    pub height: usize,
    pub width: usize,
    /// Zeros around them.
    pub padding: usize,
}

/// Room for the transform of one channel: the numbers of all tiles, transformed along columns. Rows begin with a
/// line of the cache, as vectors that lie in two take twice as long.
#[repr(align(64))]
pub struct Scratch {
    /// The columns of each tile up to the next one's, a tile after the other.
    rows: [[f32; ROW]; SEEN],
    /// The columns, one or two, of the tiles that end segments, which those share with the next one.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // for AVX-512 alone
    last: [[[f32; COLUMNS + LANES]; SIDE - TILE]; SEEN],
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            rows: [[0.0; ROW]; SEEN],
            last: [[[0.0; COLUMNS + LANES]; SIDE - TILE]; SEEN],
        }
    }
}

/// The four rows of all tiles' outputs in one channel.
#[repr(align(64))]
pub struct Lines(pub [[f32; COLUMNS * TILE]; TILE]);

impl Default for Lines {
    fn default() -> Self {
        Self([[0.0; COLUMNS * TILE]; TILE])
    }
}

/// Bᵀ · tile · B of all tiles in one channel: the numbers of the lines `row` and `column` of all tiles go to
/// `target` from `places[row * lines + column]` on; at stride 1 up to a vector beyond the last tile is
/// overwritten. The machine has the units of `level`.
///
/// # Panics
/// If `target` or `places` is too short or `images` do not have these tiles.
pub fn input(
    scratch: &mut Scratch,
    tiles: &Tiles,
    images: Images<'_>,
    channel: usize,
    target: &mut [f32],
    places: &[usize],
    (form, level): (Form, Level),
) {
    assert_eq!(places.len(), form.lines().len().pow(2));
    let most = places.iter().max().copied().unwrap_or(0);
    assert!(target.len() >= most + tiles.lanes + LANES);
    let last = tiles.segments.iter().map(|segment| segment.image).max();
    let planes = last.map_or(0, |last| last * images.channels + channel + 1);
    assert!(channel < images.channels && images.padding <= 2);
    assert!(images.data.len() >= planes * images.height * images.width);
    #[cfg(target_arch = "x86_64")]
    if level == Level::Avx512 {
        // SAFETY: the machine has AVX-512; lengths as asserted.
        return unsafe {
            match form {
                Form::Single => x86::input(scratch, tiles, images, channel, target, places),
                Form::Halves => x86::halves(scratch, tiles, images, channel, target, places),
            }
        };
    }
    assert_eq!(form, Form::Single, "stride 2 on {level:?}");
    plain::input(scratch, tiles, images, channel, target, places);
}

/// Aᵀ · tile · A of the first `lanes` tiles of a panel: `products` by position, `lines` the four rows
/// of all tiles.
///
/// # Panics
/// If products are too few or too short, as vectors are read, or lanes are more than [`COLUMNS`].
pub fn output(products: &[&[f32]], lanes: usize, lines: &mut Lines, (form, level): (Form, Level)) {
    assert_eq!(products.len(), form.side().pow(2));
    let read = lanes.next_multiple_of(LANES);
    assert!(lanes <= COLUMNS && products.iter().all(|row| row.len() >= read));
    #[cfg(target_arch = "x86_64")]
    if level == Level::Avx512 {
        // SAFETY: as above.
        return unsafe {
            match form {
                Form::Single => x86::output::<SIDE>(products, lanes, &mut lines.0),
                Form::Halves => x86::output::<HALF_SIDE>(products, lanes, &mut lines.0),
            }
        };
    }
    assert_eq!(form, Form::Single, "stride 2 on {level:?}");
    plain::output(products, lanes, &mut lines.0);
}
