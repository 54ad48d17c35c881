//! The same transforms for any vector units: loops that the compiler makes vectors of. They round as those
//! for AVX-512 do, and give the same numbers.

use super::{COLUMNS, Images, LANES, SIDE, Scratch, TILE, Tiles};
use crate::ops::cpu::simd::dispatch;

/// Tiles whose outputs are in registers together.
const TOGETHER: usize = 8;

dispatch! {
    /// As [`super::input`].
    pub fn input(
        scratch: &mut Scratch, tiles: &Tiles, images: Images<'_>, channel: usize,
        target: &mut [f32], places: &[usize],
    ) = input_body
}

dispatch! {
    /// As [`super::output`].
    pub fn output(
        products: &[&[f32]], lanes: usize, lines: &mut [[f32; COLUMNS * TILE]; TILE],
    ) = output_body
}

/// Bᵀ · d.
#[inline(always)]
fn six(d: [f32; SIDE]) -> [f32; SIDE] {
    // 4 d0 − 5 d2 + d4 and its like for the odd ones.
    let even = d[2].mul_add(-5.0, d[0].mul_add(4.0, d[4]));
    let odd = d[3].mul_add(-5.0, d[1].mul_add(4.0, d[5]));
    // d4 − 4 d2 ± (d3 − 4 d1)
    let a = d[2].mul_add(-4.0, d[4]);
    let b = d[1].mul_add(-4.0, d[3]);
    // d4 − d2 ± 2 (d3 − d1)
    let e = d[4] - d[2];
    let f = d[3] - d[1];
    [
        even,
        a + b,
        a - b,
        f.mul_add(2.0, e),
        f.mul_add(-2.0, e),
        odd,
    ]
}

/// Numbers of neighbouring tiles.
type Vector = [f32; TOGETHER];

/// `a · factor + b`, rounded once.
#[inline(always)]
fn fma(a: Vector, factor: f32, b: Vector) -> Vector {
    let mut sum = b;
    for (sum, a) in sum.iter_mut().zip(a) {
        *sum = a.mul_add(factor, *sum);
    }
    sum
}

#[inline(always)]
fn plus(a: Vector, b: Vector) -> Vector {
    let mut sum = a;
    for (sum, b) in sum.iter_mut().zip(b) {
        *sum += b;
    }
    sum
}

#[inline(always)]
fn minus(a: Vector, b: Vector) -> Vector {
    let mut difference = a;
    for (difference, b) in difference.iter_mut().zip(b) {
        *difference -= b;
    }
    difference
}

/// Aᵀ · m.
#[inline(always)]
fn four(m: [Vector; SIDE]) -> [Vector; TILE] {
    let (a, b) = (plus(m[1], m[2]), minus(m[1], m[2]));
    let (c, d) = (plus(m[3], m[4]), minus(m[3], m[4]));
    [
        plus(plus(m[0], a), c),
        fma(d, 2.0, b),
        fma(c, 4.0, a),
        plus(fma(d, 8.0, b), m[5]),
    ]
}

#[inline(always)]
fn input_body(
    scratch: &mut Scratch,
    tiles: &Tiles,
    images: Images<'_>,
    channel: usize,
    target: &mut [f32],
    places: &[usize],
) {
    let (height, width) = (images.height, images.width);
    for segment in &tiles.segments {
        let start = (segment.image * images.channels + channel) * height * width;
        let plane = &images.data[start..][..height * width];
        let count = segment.count * TILE + SIDE - TILE;
        let rows = &mut scratch.rows[..SIDE];
        for (row, line) in rows.iter_mut().enumerate() {
            let y = (segment.row * TILE + row).wrapping_sub(images.padding);
            let source = plane.get(y.wrapping_mul(width)..).unwrap_or_default();
            let source = if y < height { &source[..width] } else { &[] };
            let line = &mut line[..count];
            read(line, source, segment.first * TILE, images.padding);
        }
        let [a, b, c, d, e, f, ..] = scratch.rows.each_mut().map(|line| &mut line[..count]);
        for x in 0..count {
            [a[x], b[x], c[x], d[x], e[x], f[x]] = six([a[x], b[x], c[x], d[x], e[x], f[x]]);
        }
        for (line, places) in scratch.rows.iter().zip(places.chunks_exact(SIDE)) {
            // Every fourth number, from the first four on; of the next tile two are seen.
            let mut every = [[0.0; COLUMNS + LANES]; TILE];
            let [a, b, c, d] = &mut every;
            for (at, tile) in line.as_chunks::<TILE>().0[..=segment.count]
                .iter()
                .enumerate()
            {
                [a[at], b[at], c[at], d[at]] = *tile;
            }
            // The places ascend.
            let (mut rest, mut done) = (&mut *target, 0);
            let [u, v, w, x, y, z] = std::array::from_fn(|column| {
                let start = places[column] + segment.lane;
                let behind = &mut std::mem::take(&mut rest)[start - done..];
                let (row, behind) = behind.split_at_mut(segment.count);
                (rest, done) = (behind, start + segment.count);
                row
            });
            for t in 0..segment.count {
                let tile = [a[t], b[t], c[t], d[t], a[t + 1], b[t + 1]];
                [u[t], v[t], w[t], x[t], y[t], z[t]] = six(tile);
            }
        }
    }
}

/// The numbers of a row of an image from column `first` of it on, where `padding` zeros come before it and
/// zeros behind it.
#[inline(always)]
fn read(line: &mut [f32], source: &[f32], first: usize, padding: usize) {
    let before = padding.saturating_sub(first).min(line.len());
    let source = source.get((first + before - padding)..).unwrap_or_default();
    let inside = source.len().min(line.len() - before);
    line[..before].fill(0.0);
    line[before..before + inside].copy_from_slice(&source[..inside]);
    line[before + inside..].fill(0.0);
}

#[inline(always)]
fn output_body(products: &[&[f32]], lanes: usize, lines: &mut [[f32; COLUMNS * TILE]; TILE]) {
    let products = &products[..SIDE * SIDE];
    for at in (0..lanes).step_by(TOGETHER) {
        let mut halves = [[[0.0; TOGETHER]; SIDE]; TILE];
        for column in 0..SIDE {
            let mut m = [[0.0; TOGETHER]; SIDE];
            for (row, m) in m.iter_mut().enumerate() {
                m.copy_from_slice(&products[row * SIDE + column][at..at + TOGETHER]);
            }
            let values = four(m);
            for (half, value) in halves.iter_mut().zip(values) {
                half[column] = value;
            }
        }
        for (line, half) in lines.iter_mut().zip(halves) {
            let [a, b, c, d] = four(half);
            let line = line.as_chunks_mut::<TILE>().0[at..][..TOGETHER].iter_mut();
            for (t, tile) in line.enumerate() {
                *tile = [a[t], b[t], c[t], d[t]];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Form, HALF_SIDE, Lines, SEEN, input, output};
    use super::*;
    use crate::ops::cpu::lanes::made_up_numbers;
    use crate::ops::cpu::simd::{Level, machine};

    // Lavin and Gray, section 4.2 (F(4×4, 3×3)).
    const B: [[f64; SIDE]; SIDE] = [
        [4.0, 0.0, -5.0, 0.0, 1.0, 0.0],
        [0.0, -4.0, -4.0, 1.0, 1.0, 0.0],
        [0.0, 4.0, -4.0, -1.0, 1.0, 0.0],
        [0.0, -2.0, -1.0, 2.0, 1.0, 0.0],
        [0.0, 2.0, -1.0, -2.0, 1.0, 0.0],
        [0.0, 4.0, 0.0, -5.0, 0.0, 1.0],
    ];
    const A: [[f64; SIDE]; TILE] = [
        [1.0, 1.0, 1.0, 1.0, 1.0, 0.0],
        [0.0, 1.0, -1.0, 2.0, -2.0, 0.0],
        [0.0, 1.0, 1.0, 4.0, 4.0, 0.0],
        [0.0, 1.0, -1.0, 8.0, -8.0, 1.0],
    ];

    // Cook and Toom's F(4, 2) transposed, for the points 0, 1, −1, 2 and infinity: of each point the
    // coefficients of the product of all others, and of infinity that of all (see Blahut, "Fast Algorithms
    // for Signal Processing", 2010, section 5.2); at stride 2 of even inputs and odd ones in turn.
    const HALVES: [[f64; SEEN]; SEEN] = [
        [2.0, 0.0, -1.0, 0.0, -2.0, 0.0, 1.0, 0.0, 0.0],
        [0.0, 2.0, 0.0, -1.0, 0.0, -2.0, 0.0, 1.0, 0.0],
        [0.0, 0.0, -2.0, 0.0, -1.0, 0.0, 1.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, -2.0, 0.0, -1.0, 0.0, 1.0, 0.0],
        [0.0, 0.0, 2.0, 0.0, -3.0, 0.0, 1.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 2.0, 0.0, -3.0, 0.0, 1.0, 0.0],
        [0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
        [0.0, 0.0, 2.0, 0.0, -1.0, 0.0, -2.0, 0.0, 1.0],
    ];
    const HALF_A: [[f64; HALF_SIDE]; TILE] = [
        [1.0, 1.0, 1.0, 1.0, 0.0],
        [0.0, 1.0, -1.0, 2.0, 0.0],
        [0.0, 1.0, 1.0, 4.0, 0.0],
        [0.0, 1.0, -1.0, 8.0, 1.0],
    ];

    /// `left · tile · rightᵀ` at one place.
    fn entry(left: &[f64], tile: &[Vec<f64>], right: &[f64]) -> f64 {
        let row = |row: &Vec<f64>| -> f64 { row.iter().zip(right).map(|(d, b)| d * b).sum() };
        tile.iter().zip(left).map(|(d, b)| row(d) * b).sum()
    }

    /// The levels that are to be compared: the plain one, unless at stride 2, and AVX-512 if there is.
    fn levels(form: Form) -> Vec<Level> {
        let plain = form == Form::Single;
        let wide = machine() == Level::Avx512;
        let levels = [plain.then_some(Level::Plain), wide.then_some(Level::Avx512)];
        levels.into_iter().flatten().collect()
    }

    /// Bᵀ, and the inputs from a tile to the next.
    fn input_matrix(form: Form) -> (Vec<Vec<f64>>, usize) {
        match form {
            Form::Single => (B.map(|row| row.to_vec()).to_vec(), TILE),
            Form::Halves => (HALVES.map(|row| row.to_vec()).to_vec(), 2 * TILE),
        }
    }

    /// Aᵀ.
    fn output_matrix(form: Form) -> Vec<Vec<f64>> {
        match form {
            Form::Single => A.map(|row| row.to_vec()).to_vec(),
            Form::Halves => HALF_A.map(|row| row.to_vec()).to_vec(),
        }
    }

    fn form() -> impl Strategy<Value = Form> {
        prop_oneof![Just(Form::Single), Just(Form::Halves)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(120))]

        #[test]
        fn inputs_are_transformed(
            form in form(), height in 1_usize..40, width in 1_usize..70, padding in 0_usize..3,
            batch in 1_usize..3, first in 0_usize..50, count in 1..=COLUMNS,
        ) {
            prop_assume!(height + 2 * padding > 2 && width + 2 * padding > 2);
            let (matrix, step) = input_matrix(form);
            let tiles_of = |size: usize| ((size + 2 * padding - 3) * TILE / step + 1).div_ceil(TILE);
            let (rows, columns) = (tiles_of(height), tiles_of(width));
            let all = batch * rows * columns;
            prop_assume!(first < all);
            let count = count.min(all - first);
            let mut tiles = Tiles::default();
            tiles.set(first, count, rows, columns);
            let data = made_up_numbers(batch * 2 * height * width, 1);
            let images = Images { data: &data, channels: 2, height, width, padding };
            let (lines, pitch) = (matrix.len(), COLUMNS + LANES);
            let places: Vec<usize> = (0..lines * lines).map(|at| at * pitch).collect();
            let results: Vec<Vec<f32>> = levels(form).into_iter().map(|level| {
                let mut target = vec![0.0; lines * lines * pitch];
                let way = (form, level);
                input(&mut Scratch::default(), &tiles, images, 1, &mut target, &places, way);
                target
            }).collect();
            for tile in 0..count {
                let index = first + tile;
                let (image, row) = (index / columns / rows, index / columns % rows);
                let number = |y: usize, x: usize| {
                    let y = (row * step + y).wrapping_sub(padding);
                    let x = (index % columns * step + x).wrapping_sub(padding);
                    let inside = y < height && x < width;
                    if inside { data[((image * 2 + 1) * height + y) * width + x].into() } else { 0.0 }
                };
                let seen: Vec<Vec<f64>> =
                    (0..lines).map(|y| (0..lines).map(|x| number(y, x)).collect()).collect();
                for place in 0..lines * lines {
                    let expected = entry(&matrix[place / lines], &seen, &matrix[place % lines]);
                    for result in &results {
                        let found = result[place * pitch + tile];
                        prop_assert!((f64::from(found) - expected).abs() < 2e-5, "{found} {expected}");
                        prop_assert_eq!(found.to_bits(), results[0][place * pitch + tile].to_bits());
                    }
                }
            }
        }

        #[test]
        fn outputs_are_transformed(form in form(), lanes in 1..=COLUMNS) {
            let side = form.side();
            let numbers = made_up_numbers(side * side * COLUMNS, 2);
            let products: Vec<&[f32]> = numbers.chunks_exact(COLUMNS).collect();
            let results: Vec<_> = levels(form).into_iter().map(|level| {
                let mut lines = Lines::default();
                output(&products, lanes, &mut lines, (form, level));
                lines.0
            }).collect();
            let matrix = output_matrix(form);
            for lane in 0..lanes {
                let row = |row: &[&[f32]]| row.iter().map(|row| row[lane].into()).collect();
                let tile: Vec<Vec<f64>> = products.chunks_exact(side).map(row).collect();
                for (y, left) in matrix.iter().enumerate() {
                    for (x, right) in matrix.iter().enumerate() {
                        let expected = entry(left, &tile, right);
                        for result in &results {
                            let found = result[y][lane * TILE + x];
                            prop_assert!((f64::from(found) - expected).abs() < 5e-5, "{found} {expected}");
                            prop_assert_eq!(found.to_bits(), results[0][y][lane * TILE + x].to_bits());
                        }
                    }
                }
            }
        }
    }
}
