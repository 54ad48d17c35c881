//! The way back through a max pooling.

use rayon::prelude::*;

use crate::ops::Window;

/// What every window's output receives goes to the first of the window's largest numbers, row by
/// row, as in PyTorch.
pub(super) fn backward(
    x: &[f32],
    gradient: &[f32],
    (height, width): (usize, usize),
    window: Window,
) -> Vec<f32> {
    let (rows, columns) = (window.count(height), window.count(width));
    let mut to_x = vec![0.0_f32; x.len()];
    let planes = to_x
        .par_chunks_exact_mut(height * width)
        .zip(x.par_chunks_exact(height * width))
        .zip(gradient.par_chunks_exact(rows * columns));
    planes.for_each(|((to_x, x), gradient)| {
        for (index, gradient) in gradient.iter().enumerate() {
            let inside = |at: usize, size: usize| {
                let first = at * window.stride;
                let end = (first + window.kernel).saturating_sub(window.padding);
                first.saturating_sub(window.padding)..end.min(size)
            };
            let mut best = None;
            for row in inside(index / columns, height) {
                for column in inside(index % columns, width) {
                    let at = row * width + column;
                    if best.is_none_or(|best: usize| x[at] > x[best]) {
                        best = Some(at);
                    }
                }
            }
            if let Some(best) = best {
                to_x[best] += gradient;
            }
        }
    });
    to_x
}
