//! A query's figures from its distances, without sorting the gallery.

/// What one query adds to the metrics.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct QueryFigures {
    /// Rank of the nearest true match, from 1.
    pub(super) first_rank: usize,
    pub(super) average_precision: f64,
    pub(super) inverse_negative_penalty: f64,
}

/// Orders by distance, then by place in the gallery. No distance is NaN.
pub(super) fn key(distance: f32, row: usize) -> u64 {
    // Adding zero makes -0 and 0 one. Turned like this, the bits of floats order as they do.
    let bits = (distance + 0.0).to_bits();
    let ordered = if bits >> 31 == 1 {
        !bits
    } else {
        bits | 1 << 31
    };
    u64::from(ordered) << 32 | row as u64
}

/// The figures of a query whose true matches stand in the rows `matches` of the gallery, or `None`
/// if there are none. Rows that must not count have infinite distance.
pub(super) fn figures(distances: &[f32], matches: &[usize]) -> Option<QueryFigures> {
    let mut keys: Vec<u64> = matches
        .iter()
        .map(|&row| key(distances[row], row))
        .collect();
    keys.sort_unstable();
    let farthest = *keys.last()?;
    // passed[i]: gallery images, true matches among them, between match i-1 and match i.
    let mut passed = vec![0_usize; keys.len()];
    for (row, &distance) in distances.iter().enumerate() {
        let key = key(distance, row);
        if key <= farthest {
            passed[keys.partition_point(|one| *one < key)] += 1;
        }
    }
    let mut rank = 0;
    let mut precision = 0.0;
    let first_rank = passed[0];
    for (index, between) in passed.iter().enumerate() {
        rank += between;
        precision += (index + 1) as f64 / rank as f64;
    }
    let count = keys.len() as f64;
    Some(QueryFigures {
        first_rank,
        average_precision: precision / count,
        inverse_negative_penalty: count / rank as f64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_order_as_distances_then_rows() {
        let ascending = [
            f32::NEG_INFINITY,
            -1.0,
            -1e-30,
            0.0,
            1e-30,
            1.0,
            f32::INFINITY,
        ];
        for pair in ascending.windows(2) {
            assert!(key(pair[0], 9) < key(pair[1], 0), "{pair:?}");
        }
        assert_eq!(key(-0.0, 3), key(0.0, 3));
        assert!(key(0.5, 2) < key(0.5, 3));
    }

    // By hand: ranked rows are 1, 0, 3, 2 (rows 0 and 3 tie), row 4 does not count; matches at
    // ranks 1 and 3: AP = (1/1 + 2/3) / 2, INP = 2/3.
    #[test]
    fn figures_of_one_query() {
        let distances = [0.5, 0.1, 0.9, 0.5, f32::INFINITY];
        let found = figures(&distances, &[1, 3]).unwrap();
        assert_eq!(found.first_rank, 1);
        assert!((found.average_precision - 5.0 / 6.0).abs() < 1e-12);
        assert!((found.inverse_negative_penalty - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(figures(&distances, &[]), None);
    }
}
