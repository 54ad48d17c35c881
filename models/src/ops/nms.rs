//! Non-maximum suppression: of boxes that overlap too much, the best stays.

use super::cpu::simd::dispatch;
use crate::{BBox, Detection};

/// Keeps, within each class, the detections that no better one overlaps by more than `iou`; of those
/// the `most` best.
///
/// Order of the result: falling score, ties by their order in the input. Greedy, as in
/// torchvision's `nms`.
pub fn non_maximum_suppression(
    mut detections: Vec<Detection>,
    iou: f32,
    most: usize,
) -> Vec<Detection> {
    detections.sort_by(|a, b| b.score.total_cmp(&a.score));
    let mut kept: Vec<Detection> = Vec::new();
    let mut groups: Vec<Group> = Vec::new();
    for detection in detections {
        if kept.len() >= most {
            break;
        }
        let mut covered = false;
        is_covered(&mut covered, &groups, &detection, iou);
        if !covered {
            match groups.last_mut() {
                Some(group) if group.count < GROUP => group.push(&detection),
                _ => groups.push(Group::of(&detection)),
            }
            kept.push(detection);
        }
    }
    kept
}

/// Boxes that are compared at once.
const GROUP: usize = 16;

/// Boxes that are kept, side by side.
struct Group {
    x1: [f32; GROUP],
    y1: [f32; GROUP],
    x2: [f32; GROUP],
    y2: [f32; GROUP],
    class: [u32; GROUP],
    /// Of them; the others are the first one again.
    count: usize,
}

impl Group {
    fn of(first: &Detection) -> Self {
        let BBox { x1, y1, x2, y2 } = first.bbox;
        Self {
            x1: [x1; GROUP],
            y1: [y1; GROUP],
            x2: [x2; GROUP],
            y2: [y2; GROUP],
            class: [first.class; GROUP],
            count: 1,
        }
    }

    fn push(&mut self, detection: &Detection) {
        let BBox { x1, y1, x2, y2 } = detection.bbox;
        self.x1[self.count] = x1;
        self.y1[self.count] = y1;
        self.x2[self.count] = x2;
        self.y2[self.count] = y2;
        self.class[self.count] = detection.class;
        self.count += 1;
    }
}

dispatch! {
    /// Whether one of the boxes overlaps a detection of its class by more than `iou`.
    fn is_covered(covered: &mut bool, groups: &[Group], detection: &Detection, iou: f32) =
        is_covered_body
}

#[inline(always)]
fn is_covered_body(covered: &mut bool, groups: &[Group], detection: &Detection, iou: f32) {
    for group in groups {
        let mut any = 0;
        for at in 0..GROUP {
            let kept = BBox {
                x1: group.x1[at],
                y1: group.y1[at],
                x2: group.x2[at],
                y2: group.y2[at],
            };
            let same = group.class[at] == detection.class;
            any |= u32::from(same & (kept.iou(&detection.bbox) > iou));
        }
        if any != 0 {
            *covered = true;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn detection(x1: f32, score: f32, class: u32) -> Detection {
        Detection {
            bbox: BBox::from_tlwh(x1, 0.0, 10.0, 10.0),
            score,
            class,
        }
    }

    // By hand: boxes shifted by 2 of 10 pixels share 80 of 120, IoU 2/3; by 6, 40 of 160, IoU 1/4.
    #[test]
    fn keeps_the_best_of_a_cluster_and_other_classes() {
        let found = non_maximum_suppression(
            vec![
                detection(2.0, 0.8, 0),
                detection(0.0, 0.9, 0),
                detection(2.0, 0.7, 1),
                detection(6.0, 0.6, 0),
            ],
            0.5,
            9,
        );
        let scores: Vec<f32> = found.iter().map(|d| d.score).collect();
        assert_eq!(scores, [0.9, 0.7, 0.6]);
    }

    #[test]
    fn an_overlap_equal_to_the_limit_stays() {
        let boxes = vec![detection(0.0, 0.9, 0), detection(2.0, 0.8, 0)];
        let iou = boxes[0].bbox.iou(&boxes[1].bbox);
        assert_eq!(non_maximum_suppression(boxes.clone(), iou, 1), boxes[..1]);
        assert_eq!(non_maximum_suppression(boxes.clone(), iou, 2).len(), 2);
        assert_eq!(non_maximum_suppression(boxes, iou - 1e-4, 2).len(), 1);
    }

    proptest! {
        // By the definition: one after the other, each against all that are kept.
        #[test]
        fn the_kept_are_those_of_the_definition(
            boxes in prop::collection::vec((0_u8..40, 0_u8..40, 0_u8..30, 0_u8..30, 0_u8..9, 0_u32..3), 0..120),
            most in 0_usize..60,
        ) {
            let mut detections = Vec::new();
            for (x, y, width, height, score, class) in boxes {
                let [x, y, width, height] = [x, y, width, height].map(f32::from);
                let bbox = BBox::from_tlwh(x, y, width, height);
                detections.push(Detection { bbox, score: f32::from(score), class });
            }
            let found = non_maximum_suppression(detections.clone(), 0.4, most);
            detections.sort_by(|a, b| b.score.total_cmp(&a.score));
            let mut kept: Vec<Detection> = Vec::new();
            for one in detections {
                let covers = |k: &Detection| k.class == one.class && k.bbox.iou(&one.bbox) > 0.4;
                if !kept.iter().any(covers) {
                    kept.push(one);
                }
            }
            kept.truncate(most);
            prop_assert_eq!(found, kept);
        }
    }
}
