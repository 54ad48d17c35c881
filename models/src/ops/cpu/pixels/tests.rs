//! The vector kernels against the plain ones and against division.

use proptest::prelude::*;

use super::*;

/// A row whose slice goes on for `more` bytes after its pixels.
fn row(pixels: usize, more: usize, seed: usize) -> Vec<u8> {
    let bytes = 0..3 * pixels + more;
    bytes
        .map(|at| (at * 167 + seed * 59 + at * at / 7) as u8)
        .collect()
}

/// Where target pixel `position` of `target` begins in `source`, so that `length` pixels follow.
fn start(source: usize, target: usize, position: usize, length: usize) -> usize {
    (position * source / target).min(source - length)
}

proptest! {
    // Factors from 1/4 to 30: windows of one vector, of two, and too wide ones.
    #[test]
    fn mixed_columns_are_the_plain_kernels(
        source in 2_usize..600,
        target in 1_usize..150,
        more in 0_usize..70,
        seed in 0_usize..1000,
    ) {
        let row = row(source, more, seed);
        let tap = |position: usize| {
            let at = start(source, target, position, 2);
            let weight = (seed * 31 + position * 97) as i32 % 2049;
            Tap { at: [3 * at, 3 * at + 3], weights: [2048 - weight, weight] }
        };
        let taps: Vec<Tap> = (0..target).map(tap).collect();
        let mut plain = vec![0; 3 * target + 1];
        mix_columns_body(&mut plain, &at_least(&row, 3 * source + 1), &taps);
        let columns = MixColumns::new(taps);
        let mut found = vec![0; columns.room()];
        columns.run(&mut found, &row);
        prop_assert_eq!(&found[..3 * target], &plain[..3 * target]);
    }

    // Weights as filters have them: of both signs, 1 at most in sum, with 22 bits behind the point.
    #[test]
    fn summed_columns_are_the_plain_kernels(
        source in 40_usize..600,
        target in 1_usize..150,
        length in 1_usize..40,
        more in 0_usize..70,
        rows in 1_usize..10,
        seed in 0_usize..1000,
    ) {
        let span = |position: usize| {
            let weight = |tap: usize| {
                let part = (seed * 7919 + position * 104_729 + tap * 1_299_709) % (5 << 20);
                (part as i32 - (1 << 20)) / length as i32
            };
            Span {
                at: 3 * start(source, target, position, length),
                weights: (0..length).map(weight).collect(),
            }
        };
        let spans: Vec<Span> = (0..target).map(span).collect();
        let rows: Vec<Vec<u8>> = (0..rows).map(|at| row(source, more, seed + at)).collect();
        let columns = SumColumns::new(spans.clone(), 22);
        let mut found = vec![0; rows.len() * columns.room()];
        let slices: Vec<&[u8]> = rows.iter().map(Vec::as_slice).collect();
        columns.run(&mut found, &slices);
        for (row, found) in rows.iter().zip(found.chunks(columns.room())) {
            let mut plain = vec![0; 3 * target + 1];
            sum_columns_body(&mut plain, &at_least(row, 3 * source + 1), &spans, 22);
            prop_assert_eq!(&found[..3 * target], &plain[..3 * target]);
        }
    }

    // By division, for whatever mean and deviation; often the quick way is not exact and not used.
    #[test]
    fn spread_values_are_quotients(
        pixels in 0_usize..100,
        more in 0_usize..70,
        mean in prop::array::uniform3(-2.0_f32..2.0),
        std in prop::array::uniform3(prop_oneof![0.01_f32..3.0, Just(1.0)]),
    ) {
        let bytes = row(pixels, more, 3);
        let spread = Spread::new(mean, std);
        let mut planes = [(); 3].map(|()| vec![0.0; pixels]);
        spread.run(planes.each_mut().map(Vec::as_mut_slice), &bytes);
        for (channel, plane) in planes.iter().enumerate() {
            for (pixel, found) in plane.iter().enumerate() {
                let value = f32::from(bytes[3 * pixel + channel]);
                let expected = (value / 255.0 - mean[channel]) / std[channel];
                prop_assert_eq!(found.to_bits(), expected.to_bits());
            }
        }
    }
}

// What networks are trained with: PyTorch's means and deviations of ImageNet and CLIP, none, a half.
#[test]
#[cfg(target_arch = "x86_64")]
#[allow(clippy::excessive_precision)] // as they are published
fn usual_values_need_no_table() {
    if !x86::available() {
        return;
    }
    for (mean, std) in [
        ([0.0; 3], [1.0; 3]),
        ([0.5; 3], [0.5; 3]),
        ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        (
            [0.48145466, 0.4578275, 0.40821073],
            [0.26862954, 0.26130258, 0.27577711],
        ),
    ] {
        assert!(Spread::new(mean, std).quick.is_some(), "{mean:?} {std:?}");
    }
}

// A deviation of zero gives no numbers; neither way may turn that into something else.
#[test]
fn a_deviation_of_zero_stays_without_numbers() {
    let spread = Spread::new([0.0; 3], [0.0, 1.0, 1.0]);
    let mut planes = [[0.0_f32; 2]; 3];
    spread.run(
        planes.each_mut().map(<[f32; 2]>::as_mut_slice),
        &[0, 0, 0, 9, 255, 0],
    );
    assert!(planes[0][0].is_nan() && planes[0][1].is_infinite());
    assert_eq!([planes[1], planes[2]], [[0.0, 1.0], [0.0, 0.0]]);
}
