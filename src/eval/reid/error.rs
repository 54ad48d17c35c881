//! What can be wrong with features and with what is asked of them.

use std::path::PathBuf;

/// Why re-identification cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum ReidError {
    /// A features file that cannot be used.
    #[error("{}: {reason}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Numbers, IDs and cameras that do not belong together.
    #[error("{values} numbers of {dim}-D features for {ids} IDs and {cameras} cameras")]
    Shape {
        /// Numbers in all features together.
        values: usize,
        /// Numbers a feature.
        dim: usize,
        /// IDs.
        ids: usize,
        /// Cameras.
        cameras: usize,
    },
    /// A feature that no distance can take.
    #[error("the feature in row {row} {reason}")]
    Row {
        /// Its row, from 0.
        row: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Features of two networks.
    #[error("the queries' features have {query} numbers, the gallery's {gallery}")]
    Dimensions {
        /// Numbers a feature of the queries.
        query: usize,
        /// Numbers a feature of the gallery.
        gallery: usize,
    },
    /// Nothing to measure.
    #[error("there is no query, or no gallery image but junk")]
    Empty,
    /// The protocol leaves nothing.
    #[error("none of {queries} queries has a gallery image of its ID from another camera")]
    NoMatch {
        /// Number of queries.
        queries: usize,
    },
    /// A query that is not there.
    #[error("there is no query {row}; {queries} queries count from 0")]
    NoSuchQuery {
        /// Which was asked for.
        row: usize,
        /// How many there are.
        queries: usize,
    },
    /// A setting out of range.
    #[error("{name} must be {range}, not {value}")]
    Setting {
        /// Which.
        name: &'static str,
        /// What is allowed.
        range: &'static str,
        /// What was given.
        value: String,
    },
    /// An image that cannot be read.
    #[error(transparent)]
    Image(#[from] crate::source::SourceError),
    /// A network that fails.
    #[error(transparent)]
    Network(#[from] mtmc_models::Error),
    /// A failure to compute.
    #[error(transparent)]
    Compute(#[from] candle_core::Error),
}
