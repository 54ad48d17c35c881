//! What training makes small: cross-entropy over people, triplets of hardest examples, distances
//! to centres, contrast between images and texts.
//!
//! Losses are plain candle operations, so gradients come from candle; values and gradients are
//! compared with PyTorch's in `tests/train_losses.rs`.

use candle_core::{D, DType, Result, Tensor};
use serde::{Deserialize, Serialize};

/// Squared distances below this have no gradient: the root's would be infinite.
const SMALLEST_SQUARE: f64 = 1e-12;

/// Which distance triplets are compared by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TripletDistance {
    /// Length of the difference.
    Euclidean,
    /// 1 - cosine similarity.
    Cosine,
}

/// By how much negatives have to be farther away than positives.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Margin {
    /// `max(0, positive - negative + margin)`.
    Hard(f64),
    /// `log(1 + exp(positive - negative))`: pushes on, ever more weakly (Hermans et al., 2017).
    Soft,
}

/// Mean cross-entropy of `logits` (`[batch, classes]`) and class numbers `labels` (`[batch]`, u32),
/// of which `smoothing` (0..1) is shared out over all classes (Szegedy et al., 2016).
///
/// # Errors
/// The shapes do not fit, or a label is no class.
pub fn cross_entropy(logits: &Tensor, labels: &Tensor, smoothing: f64) -> Result<Tensor> {
    let log_probabilities = log_softmax(logits)?;
    let true_class = log_probabilities.gather(&labels.unsqueeze(1)?, 1)?;
    let loss = true_class.mean_all()?.affine(-(1.0 - smoothing), 0.0)?;
    if smoothing == 0.0 {
        return Ok(loss);
    }
    loss + log_probabilities.mean_all()?.affine(-smoothing, 0.0)?
}

/// Logarithm of the softmax over the last dimension.
pub(crate) fn log_softmax(x: &Tensor) -> Result<Tensor> {
    // What is subtracted cancels out: no gradient has to go through it.
    let shifted = x.broadcast_sub(&x.detach().max_keepdim(D::Minus1)?)?;
    let sum = shifted.exp()?.sum_keepdim(D::Minus1)?;
    shifted.broadcast_sub(&sum.log()?)
}

/// Share of rows whose largest logit is the label's.
///
/// # Errors
/// The shapes do not fit.
pub fn accuracy(logits: &Tensor, labels: &Tensor) -> Result<f64> {
    let right = logits.detach().argmax(D::Minus1)?.eq(labels)?;
    let right = right.to_dtype(DType::F32)?.mean_all()?;
    Ok(f64::from(right.to_scalar::<f32>()?))
}

/// Mean triplet loss over a batch, each anchor with its farthest positive and its nearest negative
/// (batch-hard mining, Hermans et al., "In Defense of the Triplet Loss", 2017).
///
/// `features`: `[batch, dim]`; `labels`: one person for each row. An anchor is among its own
/// positives, so a person with a single row costs what the margin asks of its negative.
///
/// # Errors
/// The shapes do not fit, or all rows show one person.
pub fn triplet(
    features: &Tensor,
    labels: &[u32],
    margin: Margin,
    distance: TripletDistance,
) -> Result<Tensor> {
    let features = match distance {
        TripletDistance::Euclidean => features.clone(),
        TripletDistance::Cosine => unit_length(features)?,
    };
    let (positives, negatives) = hardest(&features.detach(), labels)?;
    let positive = pair_distances(&features, positives, distance)?;
    let negative = pair_distances(&features, negatives, distance)?;
    let excess = (positive - negative)?;
    match margin {
        Margin::Hard(margin) => (excess + margin)?.relu()?.mean_all(),
        Margin::Soft => softplus(&excess)?.mean_all(),
    }
}

/// Rows at length 1.
fn unit_length(x: &Tensor) -> Result<Tensor> {
    let squares = x.sqr()?.sum_keepdim(1)?;
    x.broadcast_div(&squares.maximum(SMALLEST_SQUARE)?.sqrt()?)
}

/// `log(1 + exp(x))` without overflow.
fn softplus(x: &Tensor) -> Result<Tensor> {
    let small = x.abs()?.neg()?.exp()?;
    x.relu()? + (small + 1.0)?.log()?
}

/// For each row the farthest of its person and the nearest of another, by index; the first of
/// equals.
fn hardest(features: &Tensor, labels: &[u32]) -> Result<(Vec<u32>, Vec<u32>)> {
    let rows = features.dim(0)?;
    if labels.len() != rows {
        candle_core::bail!("{} labels for {rows} rows", labels.len());
    }
    let features = features.to_dtype(DType::F32)?;
    let squares = features.sqr()?.sum(1)?.to_vec1::<f32>()?;
    let products = features.matmul(&features.t()?)?.to_vec2::<f32>()?;
    let mut positives = Vec::with_capacity(rows);
    let mut negatives = Vec::with_capacity(rows);
    for (anchor, products) in products.iter().enumerate() {
        // The anchor's own square is the same for all.
        let far = |other: usize| squares[other] - 2.0 * products[other];
        let mut positive = anchor;
        let mut negative = None;
        for other in 0..rows {
            if labels[other] == labels[anchor] {
                if far(other) > far(positive) {
                    positive = other;
                }
            } else if negative.is_none_or(|best| far(other) < far(best)) {
                negative = Some(other);
            }
        }
        let Some(negative) = negative else {
            candle_core::bail!("triplets need at least two people in a batch");
        };
        positives.push(positive as u32);
        negatives.push(negative as u32);
    }
    Ok((positives, negatives))
}

/// Distance of each row to the row that `others` names: `[batch]`.
fn pair_distances(
    features: &Tensor,
    others: Vec<u32>,
    distance: TripletDistance,
) -> Result<Tensor> {
    let rows = others.len();
    let others = Tensor::from_vec(others, rows, features.device())?;
    let others = features.index_select(&others, 0)?;
    match distance {
        // Of the difference itself: squares minus products lose digits where rows are close.
        TripletDistance::Euclidean => (features - others)?
            .sqr()?
            .sum(1)?
            .maximum(SMALLEST_SQUARE)?
            .sqrt(),
        TripletDistance::Cosine => (features * others)?.sum(1)?.affine(-1.0, 1.0),
    }
}

/// Mean squared distance of `features` (`[batch, dim]`) to the centres (`[classes, dim]`) of their
/// `labels` (`[batch]`, u32) (Wen et al., "A Discriminative Feature Learning Approach for Deep Face
/// Recognition", ECCV 2016).
///
/// # Errors
/// The shapes do not fit, or a label is no class.
pub fn centre(features: &Tensor, labels: &Tensor, centres: &Tensor) -> Result<Tensor> {
    let own = centres.index_select(labels, 0)?;
    (features - own)?.sqr()?.sum(1)?.mean_all()
}

/// Mean supervised contrastive loss of `anchors` (`[rows, dim]`) among `others` (`[columns, dim]`):
/// each row's softmax over its products with all columns shall lie on those of its own person, in
/// equal shares (Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, as CLIP-ReID
/// takes it between images and texts: without temperature, vectors at their own length).
///
/// # Errors
/// The shapes do not fit, or nobody among the others is a row's person.
pub fn contrastive(
    anchors: &Tensor,
    others: &Tensor,
    anchor_people: &[u32],
    other_people: &[u32],
) -> Result<Tensor> {
    let (rows, columns) = (anchors.dim(0)?, others.dim(0)?);
    if (anchor_people.len(), other_people.len()) != (rows, columns) {
        candle_core::bail!(
            "{} and {} people for {rows} rows and {columns} columns",
            anchor_people.len(),
            other_people.len()
        );
    }
    let mut shares = vec![0.0_f32; rows * columns];
    for (row, person) in shares.chunks_exact_mut(columns.max(1)).zip(anchor_people) {
        let own = other_people.iter().filter(|other| *other == person).count();
        if own == 0 {
            candle_core::bail!("person {person} is not among the others");
        }
        for (share, other) in row.iter_mut().zip(other_people) {
            if other == person {
                *share = 1.0 / own as f32;
            }
        }
    }
    let shares = Tensor::from_vec(shares, (rows, columns), anchors.device())?;
    let log_probabilities = log_softmax(&anchors.matmul(&others.t()?)?)?;
    let shares = shares.to_dtype(log_probabilities.dtype())?;
    (log_probabilities * shares)?.sum(1)?.mean_all()?.neg()
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn matrix(rows: &[[f32; 2]]) -> Tensor {
        let values = rows.concat();
        Tensor::from_vec(values, (rows.len(), 2), &Device::Cpu).unwrap()
    }

    fn value(loss: Result<Tensor>) -> f32 {
        loss.unwrap().to_scalar::<f32>().unwrap()
    }

    // By hand: two people on a line at 0, 1 and 3, 10. Hardest positives are 1 and 7 away,
    // negatives 3, 2, 2 and 9: max(0, 1-3+.3) + max(0, 1-2+.3) + (7-2+.3) + max(0, 7-9+.3) = 5.3.
    #[test]
    fn the_hardest_of_both_kinds_are_compared() {
        let features = matrix(&[[0.0, 0.0], [1.0, 0.0], [3.0, 0.0], [10.0, 0.0]]);
        let margin = Margin::Hard(0.3);
        let loss = triplet(&features, &[5, 5, 9, 9], margin, TripletDistance::Euclidean);
        assert!((value(loss) - 5.3 / 4.0).abs() < 1e-6);
        let alone = triplet(&features, &[5; 4], margin, TripletDistance::Euclidean);
        assert!(alone.unwrap_err().to_string().contains("two people"));
    }

    // By hand: two classes of equal logits cost log 2, however labels are smoothed.
    #[test]
    fn equal_logits_cost_the_logarithm_of_their_number() {
        let logits = matrix(&[[4.0, 4.0]]);
        let labels = Tensor::new(&[1_u32], &Device::Cpu).unwrap();
        for smoothing in [0.0, 0.1] {
            let loss = value(cross_entropy(&logits, &labels, smoothing));
            assert!((loss - std::f32::consts::LN_2).abs() < 1e-6);
        }
    }

    // By hand: products of the first row are 2, 0, 2, so its two texts have e²/(2e² + 1) each.
    #[test]
    fn texts_of_a_person_share_an_image() {
        let images = matrix(&[[2.0, 0.0]]);
        let texts = matrix(&[[1.0, 0.0], [0.0, 1.0], [1.0, 5.0]]);
        let loss = value(contrastive(&images, &texts, &[7], &[7, 3, 7]));
        let square = 2.0_f32.exp();
        assert!((loss + (square / (2.0 * square + 1.0)).ln()).abs() < 1e-6);
        let error = contrastive(&images, &texts, &[1], &[7, 3, 7]).unwrap_err();
        assert!(error.to_string().contains("person 1"));
    }

    #[test]
    fn large_differences_do_not_overflow() {
        let x = Tensor::new(&[-1000.0_f32, 0.0, 1000.0], &Device::Cpu).unwrap();
        let y = softplus(&x).unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(y, [0.0, std::f32::consts::LN_2, 1000.0]);
    }
}
