//! Intersection over union of boxes in f64, and an index that finds the overlapping ones.
//!
//! Corners are inclusive, as in the PASCAL VOC kit and in the `cython_bbox` package that the
//! reference ByteTrack uses: a box from 10 to 19 is 10 pixels wide, and boxes whose edges are
//! less than a pixel apart still overlap.

/// A box: left, top, right, bottom, in pixels.
pub type Corners = [f64; 4];

/// Intersection over union with inclusive corners, or `None` if there is no intersection.
///
/// Multiplied and divided in the order of `cython_bbox`, so that the results are the same bits.
pub fn inclusive_iou(a: &Corners, b: &Corners) -> Option<f64> {
    let width = a[2].min(b[2]) - a[0].max(b[0]) + 1.0;
    if width <= 0.0 {
        return None;
    }
    let height = a[3].min(b[3]) - a[1].max(b[1]) + 1.0;
    if height <= 0.0 {
        return None;
    }
    let area_a = (a[2] - a[0] + 1.0) * (a[3] - a[1] + 1.0);
    let area_b = (b[2] - b[0] + 1.0) * (b[3] - b[1] + 1.0);
    let intersection = width * height;
    Some(intersection / (area_a + area_b - intersection))
}

/// Boxes sorted by their left edge, so that a query looks at its neighbours alone.
#[derive(Debug, Clone, Default)]
pub struct OverlapIndex {
    /// Boxes and their places in the caller's order, by rising left edge.
    boxes: Vec<(Corners, usize)>,
    /// Width of the widest box.
    max_width: f64,
}

impl OverlapIndex {
    /// Takes the boxes to be found, in place of those of before.
    pub fn fill(&mut self, boxes: impl Iterator<Item = Corners>) {
        self.boxes.clear();
        self.boxes.extend(boxes.enumerate().map(|(i, b)| (b, i)));
        self.boxes
            .sort_unstable_by(|a, b| a.0[0].total_cmp(&b.0[0]).then(a.1.cmp(&b.1)));
        self.max_width = 0.0;
        for (corners, _) in &self.boxes {
            self.max_width = self.max_width.max(corners[2] - corners[0]);
        }
    }

    /// Calls `found` with place and IoU of every box that `query` overlaps.
    pub fn query(&self, query: &Corners, mut found: impl FnMut(usize, f64)) {
        // Two pixels of slack: one for inclusive corners, one for rounding.
        let leftmost = query[0] - self.max_width - 2.0;
        let rightmost = query[2] + 2.0;
        let first = self.boxes.partition_point(|(b, _)| b[0] < leftmost);
        for (corners, place) in self.boxes.iter().skip(first) {
            if corners[0] > rightmost {
                break;
            }
            if let Some(iou) = inclusive_iou(query, corners) {
                found(*place, iou);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// By hand: 10×10 and 10×10 boxes sharing 5×10 pixels: 50 / 150.
    #[test]
    fn corners_are_inclusive() {
        let iou = inclusive_iou(&[0.0, 0.0, 9.0, 9.0], &[5.0, 0.0, 14.0, 9.0]).unwrap();
        assert!((iou - 1.0 / 3.0).abs() < 1e-15);
        assert_eq!(
            inclusive_iou(&[0.0, 0.0, 9.0, 9.0], &[10.0, 0.0, 19.0, 9.0]),
            None
        );
        assert!(inclusive_iou(&[0.0, 0.0, 9.0, 9.0], &[9.5, 0.0, 19.0, 9.0]).is_some());
    }

    fn corners() -> impl Strategy<Value = Corners> {
        (0.0..200.0, 0.0..200.0, -2.0..90.0, -2.0..90.0)
            .prop_map(|(x, y, w, h): (f64, f64, f64, f64)| [x, y, x + w, y + h])
    }

    proptest! {
        #[test]
        fn the_index_finds_what_looking_at_all_finds(
            boxes in prop::collection::vec(corners(), 0..40),
            query in corners(),
        ) {
            let mut index = OverlapIndex::default();
            index.fill(boxes.iter().copied());
            let mut found = Vec::new();
            index.query(&query, |place, iou| found.push((place, iou)));
            found.sort_by_key(|(place, _)| *place);
            let mut expected = Vec::new();
            for (place, corners) in boxes.iter().enumerate() {
                if let Some(iou) = inclusive_iou(&query, corners) {
                    expected.push((place, iou));
                }
            }
            prop_assert_eq!(found, expected);
        }
    }
}
