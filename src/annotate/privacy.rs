//! Hides people in pictures that leave, so that nobody can bring them back.
//!
//! A head, or a whole body, is replaced by a few large blocks of its mean colours: what is left of a
//! face is at most some four by five numbers, coarsely rounded. A blur alone could be undone in part;
//! means over large blocks cannot, for most of what they were made of is gone. Where boxes overlap,
//! blocks are made of what is already hidden.

use std::collections::BTreeMap;

use image::RgbImage;
use mtmc_models::BBox;

/// What is hidden of people.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    serde::Serialize,
    serde::Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Privacy {
    /// Nothing
    #[default]
    None,
    /// Heads: the upper part of every person's box, and around it
    BlurHead,
    /// Whole bodies, and a margin around them
    BlurBody,
}

impl Privacy {
    /// Whether anything is hidden.
    pub fn hides(self) -> bool {
        self != Self::None
    }
}

/// Blocks across a hidden region; as many fit as are square.
const BLOCKS_ACROSS: u32 = 4;

/// Smallest side of a block in pixels: smaller regions become a single colour.
const MIN_BLOCK: u32 = 8;

/// Means are rounded to this many steps of 0..=255: what is left of small differences goes too.
const COLOUR_STEP: u32 = 8;

/// Height of the head's region in box heights, from above the box down; a head is 1/8 to 1/6 of a
/// person who stands, more of one whom the picture cuts off or who sits.
const HEAD_DOWN: f32 = 0.30;
/// How far the regions reach beyond the box, in its heights and widths: boxes are not exact, and a
/// predicted one lags behind.
const HEAD_ABOVE: f32 = 0.06;
const HEAD_BESIDE: f32 = 0.15;
const BODY_MARGIN: f32 = 0.08;

/// Hides people in these boxes, in pixels of the image. Boxes that are not finite hide nothing;
/// parts outside the image do not matter. All of a frame's boxes are to be given: detections down to
/// the detector's floor, and tracks, predicted ones too.
pub fn apply(image: &mut RgbImage, boxes: impl IntoIterator<Item = BBox>, privacy: Privacy) {
    for bbox in boxes {
        let Some(region) = region(&bbox, privacy, image.width(), image.height()) else {
            continue;
        };
        pixelate(image, region);
    }
}

/// Hides everybody in a picture of one person, such as a crop: its box is the picture.
pub fn apply_to_crop(image: &mut RgbImage, privacy: Privacy) {
    let (width, height) = (image.width() as f32, image.height() as f32);
    apply(image, [BBox::from_xyxy(0.0, 0.0, width, height)], privacy);
}

/// Frames for which somebody who was tracked and is not found any more is still hidden, where they
/// were and where they would be by now: a detector that misses a person shows them otherwise.
const REMEMBERED_FRAMES: u64 = 30;

/// Most people who are remembered; the longest unseen go first.
const MAX_REMEMBERED: usize = 1_000;

/// One track in one frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tracked {
    /// Its ID in the camera.
    pub track_id: u64,
    /// Its box in pixels.
    pub bbox: BBox,
    /// How fast the box's centre moves, in pixels a frame.
    pub velocity: [f32; 2],
}

/// Hides people in one camera's frames, one after the other, and remembers those just lost.
#[derive(Debug, Default)]
pub struct Hider {
    privacy: Privacy,
    /// By track: the frame it was in last, and what it was there.
    recent: BTreeMap<u64, (u64, Tracked)>,
}

impl Hider {
    /// For the frames of one camera.
    pub fn new(privacy: Privacy) -> Self {
        Self {
            privacy,
            recent: BTreeMap::new(),
        }
    }

    /// Whether anything is hidden.
    pub fn hides(&self) -> bool {
        self.privacy.hides()
    }

    /// Hides everybody in frame number `frame`: all `detections` down to the detector's floor, all
    /// `tracks`, and tracks that were seen in the last 30 frames.
    pub fn hide(
        &mut self,
        image: &mut RgbImage,
        frame: u64,
        detections: impl IntoIterator<Item = BBox>,
        tracks: impl IntoIterator<Item = Tracked>,
    ) {
        if !self.hides() {
            return;
        }
        for track in tracks {
            self.recent.insert(track.track_id, (frame, track));
        }
        self.recent
            .retain(|_, (last, _)| frame.saturating_sub(*last) <= REMEMBERED_FRAMES);
        while self.recent.len() > MAX_REMEMBERED {
            let oldest = self.recent.iter().min_by_key(|(_, (last, _))| *last);
            let Some(oldest) = oldest.map(|(id, _)| *id) else {
                break;
            };
            self.recent.remove(&oldest);
        }
        let mut boxes: Vec<BBox> = detections.into_iter().collect();
        for (last, track) in self.recent.values() {
            boxes.push(track.bbox);
            let missed = frame.saturating_sub(*last) as f32;
            if missed > 0.0 {
                let [dx, dy] = track.velocity.map(|speed| speed * missed);
                let bbox = track.bbox;
                boxes.push(BBox::from_xyxy(
                    bbox.x1 + dx,
                    bbox.y1 + dy,
                    bbox.x2 + dx,
                    bbox.y2 + dy,
                ));
            }
        }
        apply(image, boxes, self.privacy);
    }
}

/// A rectangle of whole pixels within an image; right and bottom are exclusive, and no side is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Region {
    left: u32,
    top: u32,
    right: u32,
    bottom: u32,
}

fn region(bbox: &BBox, privacy: Privacy, width: u32, height: u32) -> Option<Region> {
    if !bbox.is_finite() || !privacy.hides() {
        return None;
    }
    let (x1, x2) = (bbox.x1.min(bbox.x2), bbox.x1.max(bbox.x2));
    let (y1, y2) = (bbox.y1.min(bbox.y2), bbox.y1.max(bbox.y2));
    let (across, down) = (x2 - x1, y2 - y1);
    let (left, top, right, bottom) = match privacy {
        Privacy::None => return None,
        Privacy::BlurBody => (
            x1 - BODY_MARGIN * across,
            y1 - BODY_MARGIN * down,
            x2 + BODY_MARGIN * across,
            y2 + BODY_MARGIN * down,
        ),
        Privacy::BlurHead => {
            // Of somebody who lies or is cut off by the picture's edge, the box is wide: the head
            // may be anywhere along it, and takes more of its height.
            let wide = (across / down.max(1.0)).max(1.0);
            let reach = (HEAD_DOWN * wide).min(1.0);
            (
                x1 - HEAD_BESIDE * across,
                y1 - HEAD_ABOVE * down,
                x2 + HEAD_BESIDE * across,
                y1 + reach * down,
            )
        }
    };
    let limit = |value: f32, most: u32| f64::from(value).clamp(0.0, f64::from(most));
    let region = Region {
        left: limit(left.floor(), width) as u32,
        top: limit(top.floor(), height) as u32,
        right: limit(right.ceil(), width) as u32,
        bottom: limit(bottom.ceil(), height) as u32,
    };
    (region.left < region.right && region.top < region.bottom).then_some(region)
}

/// Replaces a region by blocks of their mean colours.
fn pixelate(image: &mut RgbImage, region: Region) {
    let across = region.right - region.left;
    let block = across.div_ceil(BLOCKS_ACROSS).max(MIN_BLOCK);
    let mut top = region.top;
    while top < region.bottom {
        let bottom = (top + block).min(region.bottom);
        let mut left = region.left;
        while left < region.right {
            let right = (left + block).min(region.right);
            let part = Region {
                left,
                top,
                right,
                bottom,
            };
            flatten(image, part);
            left = right;
        }
        top = bottom;
    }
}

/// Gives a block its mean colour, rounded.
fn flatten(image: &mut RgbImage, block: Region) {
    let width = image.width() as usize;
    let pixels: &mut [u8] = image;
    let row = |y: u32| {
        let start = y as usize * width;
        (start + block.left as usize) * 3..(start + block.right as usize) * 3
    };
    let mut sums = [0_u64; 3];
    for y in block.top..block.bottom {
        for pixel in pixels[row(y)].chunks_exact(3) {
            for (sum, value) in sums.iter_mut().zip(pixel) {
                *sum += u64::from(*value);
            }
        }
    }
    let count = u64::from(block.right - block.left) * u64::from(block.bottom - block.top);
    let colour = sums.map(|sum| {
        let mean = (sum / count.max(1)) as u32;
        (mean / COLOUR_STEP * COLOUR_STEP + COLOUR_STEP / 2) as u8
    });
    for y in block.top..block.bottom {
        for pixel in pixels[row(y)].chunks_exact_mut(3) {
            pixel.copy_from_slice(&colour);
        }
    }
}
