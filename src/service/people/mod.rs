//! People as the service handles them: found by a picture, and erased wherever they are kept.

pub mod erase;
pub mod picture;
pub mod search;
