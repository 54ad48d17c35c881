//! COCO's annotation file (<https://cocodataset.org/#format-data>), with what tracking adds:
//! videos, frame numbers, identities, visibility.

use serde::Serialize;

/// The whole file.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Coco {
    /// Where it comes from.
    pub info: Info,
    /// One a sequence.
    pub videos: Vec<Video>,
    /// One a frame.
    pub images: Vec<Image>,
    /// One a box.
    pub annotations: Vec<Annotation>,
    /// The classes.
    pub categories: Vec<Category>,
}

/// Where a file comes from.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Info {
    /// What is in it.
    pub description: String,
}

/// One sequence.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Video {
    /// From 1.
    pub id: u64,
    /// The sequence's name.
    pub file_name: String,
    /// Frames a second.
    pub frame_rate: f64,
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Image {
    /// From 1; a frame has the same in every split.
    pub id: u64,
    /// Path from the folder of images.
    pub file_name: String,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// The sequence.
    pub video_id: u64,
    /// Number in the sequence, from 1, also in its second half.
    pub frame_id: u64,
}

/// One box.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Annotation {
    /// From 1; a box has the same in every split.
    pub id: u64,
    /// The frame.
    pub image_id: u64,
    /// The class.
    pub category_id: u64,
    /// Left, top, width and height in pixels, inside the frame.
    pub bbox: [f64; 4],
    /// Square pixels.
    pub area: f64,
    /// 1 for what is neither to be found nor wrong when it is found.
    pub iscrowd: u8,
    /// Identity, told apart from those of other sequences.
    pub track_id: u64,
    /// Identity as the sequence's truth has it.
    pub mot_id: i64,
    /// The truth's flag: whether the box counts.
    pub consider: bool,
    /// How much of the person can be seen, 0..=1.
    pub visibility: f64,
}

/// One class.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Category {
    /// From 1.
    pub id: u64,
    /// Its name.
    pub name: &'static str,
}

/// The classes of a data set of people.
pub fn pedestrian() -> Vec<Category> {
    vec![Category {
        id: 1,
        name: "pedestrian",
    }]
}
