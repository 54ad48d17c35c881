//! Non-maximum suppression: of boxes that overlap too much, the best stays.

use crate::Detection;

/// Keeps, within each class, the detections that no better one overlaps by more than `iou`.
///
/// Order of the result: falling score, ties by their order in the input. Greedy, as in
/// torchvision's `nms`.
pub fn non_maximum_suppression(mut detections: Vec<Detection>, iou: f32) -> Vec<Detection> {
    detections.sort_by(|a, b| b.score.total_cmp(&a.score));
    let mut kept: Vec<Detection> = Vec::new();
    for detection in detections {
        let covered = kept
            .iter()
            .any(|other| other.class == detection.class && other.bbox.iou(&detection.bbox) > iou);
        if !covered {
            kept.push(detection);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BBox;

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
        );
        let scores: Vec<f32> = found.iter().map(|d| d.score).collect();
        assert_eq!(scores, [0.9, 0.7, 0.6]);
    }

    #[test]
    fn an_overlap_equal_to_the_limit_stays() {
        let boxes = vec![detection(0.0, 0.9, 0), detection(2.0, 0.8, 0)];
        let iou = boxes[0].bbox.iou(&boxes[1].bbox);
        assert_eq!(non_maximum_suppression(boxes.clone(), iou).len(), 2);
        assert_eq!(non_maximum_suppression(boxes, iou - 1e-4).len(), 1);
    }
}
