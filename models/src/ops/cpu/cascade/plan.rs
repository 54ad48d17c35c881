//! Which rows of which layer are computed when, and where they lie.

use std::ops::Range;

use super::{Cascade, LINE, Size};
use crate::layers::Conv;

/// How a node's rows lie in the room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub height: usize,
    pub width: usize,
    /// Cells of zeros before a row.
    pub left: usize,
    /// Numbers of a row of a plane, with the zeros on both sides.
    pub pitch: usize,
    /// Planes of a row.
    pub planes: usize,
    /// How many rows are kept.
    pub kept: usize,
    /// Where they begin.
    pub start: usize,
    /// Words of a row of integers, 0 where there is none, and where these begin: with a line for their unit.
    pub words: [usize; 2],
}

impl Shape {
    /// Where a row of a plane begins, with its zeros.
    pub fn row(&self, row: usize, plane: usize) -> usize {
        self.start + (row % self.kept * self.planes + plane) * self.pitch
    }

    /// Where a row of integers begins, with its zeros.
    pub fn words(&self, row: usize) -> usize {
        self.unit(row) + LINE
    }

    /// Where the unit of a row of integers is.
    pub fn unit(&self, row: usize) -> usize {
        let [pitch, start] = self.words;
        start + row % self.kept * pitch
    }
}

/// What is to be done for some rows of the output.
pub(super) struct Plan {
    pub shapes: Vec<Shape>,
    /// Nodes and their rows, in the order in which they are computed.
    pub order: Vec<(usize, usize)>,
    /// Numbers and words of the room: a row of zeros, then all nodes' rows.
    pub room: usize,
}

impl Cascade {
    /// What the `rows` of the output take; `None` where a layer has no output.
    pub(super) fn plan(&self, size: Size, rows: Range<usize>) -> Option<Plan> {
        let sizes = self.sizes(size)?;
        // The first row of each that is seen.
        let mut first = vec![usize::MAX; self.nodes.len()];
        *first.last_mut()? = rows.start;
        for (index, node) in self.nodes.iter().enumerate().rev() {
            let seen = first[index]
                .saturating_mul(node.window.stride)
                .saturating_sub(node.window.padding);
            for input in &node.inputs {
                first[*input] = first[*input].min(seen);
            }
        }
        let mut order = Vec::new();
        let last = self.nodes.len() - 1;
        for row in rows {
            self.demand(&sizes, (last, row), &mut first, &mut order);
        }
        // As many rows are kept as lie between the oldest that is still seen and the newest.
        let mut kept = vec![1; self.nodes.len()];
        let mut newest = vec![0; self.nodes.len()];
        for (index, row) in &order {
            newest[*index] = *row;
            let node = &self.nodes[*index];
            let oldest = (row * node.window.stride).saturating_sub(node.window.padding);
            for input in &node.inputs {
                kept[*input] = kept[*input].max((newest[*input] + 1).saturating_sub(oldest));
            }
        }
        let mut shapes = Vec::with_capacity(self.nodes.len());
        let mut room = 0;
        for (index, (height, width)) in sizes.iter().enumerate() {
            let (mut left, mut right) = (0, 0);
            for (node, (_, columns)) in self.nodes.iter().zip(&sizes) {
                if node.inputs.contains(&index) {
                    let Conv {
                        kernel,
                        stride,
                        padding,
                        ..
                    } = node.window;
                    left = left.max(padding);
                    let reach = (columns - 1) * stride + kernel;
                    right = right.max(reach.saturating_sub(padding + width));
                }
            }
            let node = &self.nodes[index];
            // An odd number of lines: the same place of neighbouring rows lies in different sets of the caches.
            let odd = |words: usize| (words.div_ceil(LINE) | 1) * LINE;
            let numbers = (left + width + right) * node.channels;
            let pitch = odd(numbers);
            let words = match node.seen_as_integers {
                0 => 0,
                _ => odd(LINE + numbers / 2),
            };
            shapes.push(Shape {
                height: *height,
                width: *width,
                left,
                pitch,
                planes: node.planes(),
                kept: kept[index],
                start: 0,
                words: [words, 0],
            });
            room = room.max(pitch * node.planes());
        }
        for shape in &mut shapes {
            shape.start = room;
            room += shape.kept * shape.planes * shape.pitch;
            shape.words[1] = room;
            room += shape.kept * shape.words[0];
        }
        Some(Plan {
            shapes,
            order,
            room,
        })
    }

    /// Adds to `order` what leads to a node's rows up to `last`; `next`: the first rows that are not in it.
    fn demand(
        &self,
        sizes: &[(usize, usize)],
        (index, last): (usize, usize),
        next: &mut [usize],
        order: &mut Vec<(usize, usize)>,
    ) {
        let node = &self.nodes[index];
        while next[index] <= last {
            let row = next[index];
            next[index] += 1;
            let beyond = row * node.window.stride + node.window.kernel;
            for input in &node.inputs {
                // What lies beyond the image is zeros.
                let beyond = beyond
                    .saturating_sub(node.window.padding)
                    .min(sizes[*input].0);
                if let Some(seen) = beyond.checked_sub(1) {
                    self.demand(sizes, (*input, seen), next, order);
                }
            }
            order.push((index, row));
        }
    }
}
