//! Weights conversion and data preparation for `mtmc`.
