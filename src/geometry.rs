//! Boxes and points: the words every room speaks.

pub use mtmc_models::BBox;
