//! From boxes to appearance: which people of which frames are embedded, all cameras in one batch.

mod schedule;

pub use schedule::{FORGET_FRAMES, Schedule, ScheduleSettings, Sight, crop_quality};

use mtmc_models::{Crop, Detection, EmbedError, Embedder, Embedding};

use image::RgbImage;

/// One frame whose people may need embeddings.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The frame.
    pub image: &'a RgbImage,
    /// What was found in it.
    pub detections: &'a [Detection],
    /// Detections above this score are embedded; `None`: none is.
    pub above: Option<f32>,
}

/// What was made of one request.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Embedded {
    /// One entry a detection, `None` where no embedding was wanted or could be made; empty if none
    /// was wanted.
    pub embeddings: Vec<Option<Embedding>>,
    /// How many were made.
    pub made: u64,
    /// How many could not be made: a box without pixels inside the frame, a network that gave NaN.
    pub refused: u64,
}

/// Embeds what the requests want in one batch; one result a request, in their order.
///
/// # Errors
/// The network fails as a whole.
pub fn embed(
    embedder: &dyn Embedder,
    requests: &[Request<'_>],
) -> mtmc_models::Result<Vec<Embedded>> {
    let mut crops = Vec::new();
    let mut places = Vec::new();
    let mut results: Vec<Embedded> = Vec::with_capacity(requests.len());
    for (index, request) in requests.iter().enumerate() {
        let mut result = Embedded::default();
        if let Some(above) = request.above {
            result.embeddings = vec![None; request.detections.len()];
            for (position, detection) in request.detections.iter().enumerate() {
                if detection.score > above {
                    crops.push(Crop {
                        image: request.image,
                        bbox: detection.bbox,
                    });
                    places.push((index, position));
                }
            }
        }
        results.push(result);
    }
    if crops.is_empty() {
        return Ok(results);
    }
    for ((index, position), embedding) in places.into_iter().zip(embedder.embed(&crops)?) {
        let result = &mut results[index];
        match embedding {
            Ok(embedding) => {
                result.embeddings[position] = Some(embedding);
                result.made += 1;
            }
            Err(EmbedError::EmptyCrop | EmbedError::NotFinite | EmbedError::Zero) => {
                result.refused += 1;
            }
        }
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mtmc_models::BBox;

    /// Gives each crop its left edge and width, and refuses boxes left of the frame.
    struct Edges;

    impl Embedder for Edges {
        fn embed(
            &self,
            crops: &[Crop<'_>],
        ) -> mtmc_models::Result<Vec<Result<Embedding, EmbedError>>> {
            let vector = |crop: &Crop<'_>| {
                if crop.bbox.x2 <= 0.0 {
                    return Err(EmbedError::EmptyCrop);
                }
                Embedding::new(vec![crop.bbox.x1, crop.image.width() as f32])
            };
            Ok(crops.iter().map(vector).collect())
        }

        fn dim(&self) -> usize {
            2
        }

        fn input_size(&self) -> (usize, usize) {
            (256, 128)
        }
    }

    fn detection(left: f32, score: f32) -> Detection {
        Detection {
            bbox: BBox::from_xyxy(left, 0.0, left + 5.0, 10.0),
            score,
            class: 0,
        }
    }

    #[test]
    fn embeddings_come_back_to_their_detections() {
        let (small, large) = (RgbImage::new(30, 20), RgbImage::new(40, 20));
        let first = [
            detection(30.0, 0.9),
            detection(1.0, 0.3),
            detection(-9.0, 0.8),
        ];
        let third = [detection(40.0, 0.5), detection(3.0, 0.51)];
        let request = |image, detections, above| Request {
            image,
            detections,
            above,
        };
        let results = embed(
            &Edges,
            &[
                request(&small, &first, Some(0.5)),
                request(&small, &first, None),
                request(&large, &third, Some(0.5)),
            ],
        )
        .unwrap();
        let vector = |x, y| Some(Embedding::new(vec![x, y]).unwrap());
        assert_eq!(results[0].embeddings, [vector(30.0, 30.0), None, None]);
        assert_eq!((results[0].made, results[0].refused), (1, 1));
        assert_eq!(results[1], Embedded::default());
        assert_eq!(results[2].embeddings, [None, vector(3.0, 40.0)]);
    }
}
