//! What the vector kernels of [`super::x86`] read where, laid out once for all rows of an image.
//!
//! Sixteen target bytes at a time, red, green and blue in turn, are made from a window of the source
//! row: one permutation brings each of them its source bytes, one product weighs them.

use super::{STEP, Span, Tap, x86};

/// Bytes of a vector.
const VECTOR: usize = 64;

/// Bytes that one permutation can reach: of one vector and of two.
const REACHES: [usize; 2] = [VECTOR, 2 * VECTOR];

/// A vector's bytes in one line of the cache.
#[derive(Clone)]
#[repr(align(64))]
pub struct Line<T, const N: usize>(pub [T; N]);

/// Source bytes of sixteen target ones.
pub struct Pairs {
    /// First byte of the window in the row.
    pub at: usize,
    /// Where in the window the two bytes of each target byte are, each followed by one that does not
    /// count.
    pub index: Line<u8, VECTOR>,
    /// The weights of the two.
    pub weights: Line<i16, { VECTOR / 2 }>,
}

/// [`super::MixColumns`] by vectors.
pub struct Mix {
    pub groups: Vec<Pairs>,
    /// Whether windows are two vectors wide.
    pub wide: bool,
}

impl Mix {
    /// `None` if the machine lacks instructions, or windows are too wide.
    pub fn new(taps: &[Tap]) -> Option<Self> {
        if !x86::available() {
            return None;
        }
        let mut groups = Vec::with_capacity((3 * taps.len()).div_ceil(STEP));
        let mut reach = 0;
        for first in (0..3 * taps.len()).step_by(STEP) {
            let lanes = || (first..(first + STEP).min(3 * taps.len())).zip(0..);
            let source = |lane: usize, tap: usize| taps[lane / 3].at[tap] + lane % 3;
            let sources = || lanes().flat_map(|(l, _)| [source(l, 0), source(l, 1)]);
            let at = sources().min()?;
            reach = reach.max(sources().max()? + 1 - at);
            if reach > REACHES[1] {
                return None;
            }
            let mut index = Line([0; VECTOR]);
            let mut weights = Line([0; VECTOR / 2]);
            for (lane, place) in lanes() {
                for tap in 0..2 {
                    index.0[4 * place + 2 * tap] = (source(lane, tap) - at) as u8;
                    weights.0[2 * place + tap] = taps[lane / 3].weights[tap] as i16;
                }
            }
            groups.push(Pairs { at, index, weights });
        }
        let wide = reach > REACHES[0];
        Some(Self { groups, wide })
    }
}

/// Four neighbours, a channel's values of four source pixels, of each of sixteen target bytes.
pub struct Fours {
    /// First byte of the window in the row.
    pub at: usize,
    /// Where in the window they are.
    pub index: Line<u8, VECTOR>,
    /// Digits of their weights to the base 256, from -128 to 127, the lowest first.
    pub digits: [Line<i8, VECTOR>; DIGITS],
}

/// Digits of a weight.
pub const DIGITS: usize = 3;

/// [`super::SumColumns`] by vectors.
pub struct Sum {
    /// Of each sixteen target bytes as many as the longest span has fours.
    pub groups: Vec<Fours>,
    /// How many that are.
    pub fours: usize,
    /// Whether windows are two vectors wide.
    pub wide: bool,
    /// Bits behind the point of a weight.
    pub bits: u32,
}

/// A weight's digits, if they are enough.
fn digits(weight: i32) -> Option<[i8; DIGITS]> {
    let low = weight as i8;
    let rest = (weight - i32::from(low)) >> 8;
    let middle = rest as i8;
    let high = i8::try_from((rest - i32::from(middle)) >> 8).ok()?;
    Some([low, middle, high])
}

impl Sum {
    /// `None` if the machine lacks instructions, windows are too wide or weights too large.
    pub fn new(spans: &[Span], bits: u32) -> Option<Self> {
        if !x86::available() {
            return None;
        }
        let weights: Vec<Vec<[i8; DIGITS]>> = spans
            .iter()
            .map(|span| span.weights.iter().map(|&weight| digits(weight)).collect())
            .collect::<Option<_>>()?;
        // A filter ends in a weight of zero now and then.
        let used = |span: &Span| span.weights.iter().rposition(|&weight| weight != 0);
        let fours = spans.iter().filter_map(used).max()? / 4 + 1;
        let mut groups = Vec::with_capacity((3 * spans.len()).div_ceil(STEP) * fours);
        let mut reach = 0;
        for first in (0..3 * spans.len()).step_by(STEP) {
            let lanes = first..(first + STEP).min(3 * spans.len());
            for four in 0..fours {
                let group = Fours::new(spans, &weights, lanes.clone(), 4 * four);
                reach = reach.max(group.1);
                groups.push(group.0);
            }
            if reach > REACHES[1] {
                return None;
            }
        }
        Some(Self {
            groups,
            fours,
            wide: reach > REACHES[0],
            bits,
        })
    }
}

impl Fours {
    /// Of target bytes `lanes`, the pixels of their spans from `first` on, and the bytes that the
    /// window reaches over.
    fn new(
        spans: &[Span],
        weights: &[Vec<[i8; DIGITS]>],
        lanes: std::ops::Range<usize>,
        first: usize,
    ) -> (Self, usize) {
        let taps = |lane: usize| first..(first + 4).min(weights[lane / 3].len());
        let source = |lane: usize, tap: usize| spans[lane / 3].at + 3 * tap + lane % 3;
        let sources = || {
            let of = |lane| taps(lane).map(move |tap| source(lane, tap));
            lanes.clone().flat_map(of)
        };
        let at = sources().min().unwrap_or(0);
        let end = sources().max().map_or(0, |last| last + 1);
        let mut group = Self {
            at,
            index: Line([0; VECTOR]),
            digits: [const { Line([0; VECTOR]) }; DIGITS],
        };
        for (lane, place) in lanes.clone().zip(0..) {
            for (tap, byte) in taps(lane).zip(4 * place..) {
                group.index.0[byte] = (source(lane, tap) - at) as u8;
                for (line, digit) in group.digits.iter_mut().zip(weights[lane / 3][tap]) {
                    line.0[byte] = digit;
                }
            }
        }
        (group, end - at)
    }
}
