//! One message, serialised once and shared by all who get it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::body::Bytes;
use axum::extract::ws::Utf8Bytes;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use crate::service::messages::ImageKind;

/// Which of a frame's pictures a client gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Images {
    /// Neither.
    None,
    /// With boxes and identities.
    Annotated,
    /// As it came.
    Original,
    /// Both, as the document's message shows.
    #[default]
    Both,
}

impl Images {
    /// Whether a picture is among them.
    pub fn has(self, kind: ImageKind) -> bool {
        match kind {
            ImageKind::Original => matches!(self, Self::Original | Self::Both),
            ImageKind::Annotated => matches!(self, Self::Annotated | Self::Both),
        }
    }
}

/// What a message is about, as far as sending it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A frame: a later one of the same camera makes it stale.
    Frame,
    /// Where the task stands.
    Status,
    /// What happens once and is told once.
    Event,
}

/// A message that has no number yet.
#[derive(Debug)]
pub struct Draft {
    kind: Kind,
    cameras: Vec<Arc<str>>,
    text: String,
    original: Option<Picture>,
    annotated: Option<Picture>,
}

/// The end of every message's text before it is numbered.
const UNNUMBERED: &str = "\"seq\":0}";

/// Where the pictures go in the text of a frame.
const NO_PICTURES: &str = "\"original_image_b64\":null,\"annotated_image_b64\":null";

impl Draft {
    /// A message of `kind` about these cameras (none: about the task), whose last field is `seq`, 0.
    ///
    /// # Errors
    /// It cannot be written as JSON.
    pub fn new(
        kind: Kind,
        cameras: Vec<Arc<str>>,
        message: &impl Serialize,
    ) -> Result<Self, serde_json::Error> {
        let text = serde_json::to_string(message)?;
        debug_assert!(text.ends_with(UNNUMBERED), "{text}");
        Ok(Self {
            kind,
            cameras,
            text,
            original: None,
            annotated: None,
        })
    }

    /// Adds a frame's pictures, as JPEG files.
    #[must_use]
    pub fn with_pictures(mut self, original: Option<Vec<u8>>, annotated: Option<Vec<u8>>) -> Self {
        let camera: &str = self.cameras.first().map_or("", |camera| camera);
        self.original = original.map(|jpeg| Picture::new(ImageKind::Original, camera, &jpeg));
        self.annotated = annotated.map(|jpeg| Picture::new(ImageKind::Annotated, camera, &jpeg));
        self
    }

    /// The message with its number.
    pub fn number(self, seq: u64) -> Message {
        let mut text = self.text;
        text.truncate(text.len().saturating_sub(2));
        text.push_str(&seq.to_string());
        text.push('}');
        let images_at = match self.kind {
            // Only IDs stand before it, which have no quotes in them.
            Kind::Frame => text.find(NO_PICTURES),
            Kind::Status | Kind::Event => None,
        };
        Message {
            seq,
            published: Instant::now(),
            kind: self.kind,
            cameras: self.cameras,
            text: text.into(),
            images_at,
            original: self.original.map(|picture| picture.number(seq)),
            annotated: self.annotated.map(|picture| picture.number(seq)),
            lost: [false; 2],
            composed: Mutex::new(Composed {
                texts: Default::default(),
                keep: true,
            }),
        }
    }
}

/// A JPEG with its header before it, as the binary subprotocol sends it.
#[derive(Debug)]
struct Picture {
    frame: Vec<u8>,
    /// Where the number goes: so many digits, blanks before them.
    seq_at: usize,
    jpeg_at: usize,
}

/// Digits of the largest u64.
const DIGITS: usize = 20;

impl Picture {
    fn new(kind: ImageKind, camera: &str, jpeg: &[u8]) -> Self {
        let kind = match kind {
            ImageKind::Original => "original",
            ImageKind::Annotated => "annotated",
        };
        // Blanks between a name and its number are nothing to JSON. The number is filled in later,
        // without copying the picture again.
        let start = "{\"seq\":";
        let blanks = " ".repeat(DIGITS);
        let camera = serde_json::Value::from(camera);
        let header = format!("{start}{blanks},\"camera_id\":{camera},\"kind\":\"{kind}\"}}");
        let mut frame = Vec::with_capacity(4 + header.len() + jpeg.len());
        frame.extend_from_slice(&(header.len() as u32).to_be_bytes());
        frame.extend_from_slice(header.as_bytes());
        let jpeg_at = frame.len();
        frame.extend_from_slice(jpeg);
        Self {
            frame,
            seq_at: 4 + start.len(),
            jpeg_at,
        }
    }

    fn number(mut self, seq: u64) -> Numbered {
        let digits = format!("{seq:>DIGITS$}");
        self.frame[self.seq_at..self.seq_at + DIGITS].copy_from_slice(digits.as_bytes());
        Numbered {
            frame: self.frame.into(),
            jpeg_at: self.jpeg_at,
        }
    }
}

/// A picture of a message that has its number.
#[derive(Debug)]
struct Numbered {
    frame: Bytes,
    jpeg_at: usize,
}

impl Numbered {
    fn jpeg(&self) -> &[u8] {
        &self.frame[self.jpeg_at..]
    }
}

/// A message.
#[derive(Debug)]
pub struct Message {
    /// Its number in the task.
    pub seq: u64,
    /// When it was published.
    pub published: Instant,
    /// What it is about.
    pub kind: Kind,
    /// Its cameras; none: it is about the task.
    pub cameras: Vec<Arc<str>>,
    /// Without pictures.
    text: Utf8Bytes,
    images_at: Option<usize>,
    original: Option<Numbered>,
    annotated: Option<Numbered>,
    /// Originals and annotated pictures that it had and that are not kept any more.
    lost: [bool; 2],
    composed: Mutex<Composed>,
}

/// Texts with pictures, by which they have.
#[derive(Debug)]
struct Composed {
    texts: [Option<Utf8Bytes>; 3],
    keep: bool,
}

impl Message {
    fn picture(&self, kind: ImageKind) -> Option<&Numbered> {
        match kind {
            ImageKind::Original => self.original.as_ref(),
            ImageKind::Annotated => self.annotated.as_ref(),
        }
    }

    fn chosen(&self, kind: ImageKind, images: Images) -> Option<&Numbered> {
        self.picture(kind).filter(|_| images.has(kind))
    }

    /// The same message without its pictures, which are noted as lost.
    pub fn without_pictures(&self) -> Self {
        Self {
            seq: self.seq,
            published: self.published,
            kind: self.kind,
            cameras: self.cameras.clone(),
            text: self.text.clone(),
            images_at: self.images_at,
            original: None,
            annotated: None,
            lost: [
                self.lost[0] || self.original.is_some(),
                self.lost[1] || self.annotated.is_some(),
            ],
            composed: Mutex::new(Composed {
                texts: Default::default(),
                keep: false,
            }),
        }
    }

    /// How many pictures of those it had that are not kept any more.
    pub fn lost_count(&self, images: Images) -> u64 {
        let original = self.lost[0] && images.has(ImageKind::Original);
        let annotated = self.lost[1] && images.has(ImageKind::Annotated);
        u64::from(original) + u64::from(annotated)
    }

    /// How many pictures there are of those.
    pub fn picture_count(&self, images: Images) -> u64 {
        let kinds = [ImageKind::Original, ImageKind::Annotated];
        let there = |kind: &ImageKind| self.chosen(*kind, images).is_some();
        kinds.iter().filter(|kind| there(kind)).count() as u64
    }

    /// The message as JSON with those pictures in base64. All who ask for the same get the same
    /// bytes, as long as the message is new.
    pub fn text(&self, images: Images) -> Utf8Bytes {
        let slot = match images {
            _ if self.picture_count(images) == 0 => return self.text.clone(),
            Images::None => return self.text.clone(),
            Images::Annotated => 0,
            Images::Original => 1,
            Images::Both => 2,
        };
        let mut composed = self.composed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(text) = &composed.texts[slot] {
            return text.clone();
        }
        let text = self.compose(images);
        if composed.keep {
            composed.texts[slot] = Some(text.clone());
        }
        text
    }

    /// The message as JSON without pictures.
    pub fn plain_text(&self) -> Utf8Bytes {
        self.text.clone()
    }

    /// Texts with pictures are no longer kept: who still asks for one gets it made anew.
    pub fn age(&self) {
        let mut composed = self.composed.lock().unwrap_or_else(PoisonError::into_inner);
        composed.texts = Default::default();
        composed.keep = false;
    }

    fn compose(&self, images: Images) -> Utf8Bytes {
        let Some(at) = self.images_at else {
            return self.text.clone();
        };
        let original = self.chosen(ImageKind::Original, images);
        let annotated = self.chosen(ImageKind::Annotated, images);
        let room = |picture: Option<&Numbered>| picture.map_or(4, |p| p.jpeg().len() * 4 / 3 + 6);
        let plain = self.text.as_str();
        let mut text = String::with_capacity(plain.len() + room(original) + room(annotated));
        text.push_str(&plain[..at]);
        text.push_str("\"original_image_b64\":");
        push_base64(&mut text, original);
        text.push_str(",\"annotated_image_b64\":");
        push_base64(&mut text, annotated);
        text.push_str(&plain[at + NO_PICTURES.len()..]);
        text.into()
    }

    /// The picture as a binary frame, if there is one and it is among `images`.
    pub fn binary(&self, kind: ImageKind, images: Images) -> Option<Bytes> {
        Some(self.chosen(kind, images)?.frame.clone())
    }

    /// Bytes that its text takes while it is kept.
    pub fn text_weight(&self) -> usize {
        self.text.len() + size_of::<Self>()
    }

    /// Bytes that its pictures take.
    pub fn picture_weight(&self) -> usize {
        let pictures = [&self.original, &self.annotated];
        let bytes = pictures.into_iter().flatten().map(|p| p.frame.len());
        bytes.sum()
    }
}

fn push_base64(text: &mut String, picture: Option<&Numbered>) {
    let Some(picture) = picture else {
        text.push_str("null");
        return;
    };
    text.push('"');
    STANDARD.encode_string(picture.jpeg(), text);
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Sample {
        camera_id: &'static str,
        original_image_b64: Option<()>,
        annotated_image_b64: Option<()>,
        rest: &'static str,
        seq: u64,
    }

    fn message() -> Message {
        let sample = Sample {
            camera_id: "c09",
            original_image_b64: None,
            annotated_image_b64: None,
            rest: "\"seq\":0}",
            seq: 0,
        };
        let draft = Draft::new(Kind::Frame, vec!["c09".into()], &sample).unwrap();
        let (original, annotated) = (vec![0xff, 0xd8, 0xff], vec![1, 2]);
        draft
            .with_pictures(Some(original), Some(annotated))
            .number(145)
    }

    // Base64 by hand: ff d8 ff = 111111 111101 100011 111111 = "/9j/", 01 02 = "AQI=".
    #[test]
    fn pictures_are_put_in_as_asked_for() {
        let end = r#","rest":"\"seq\":0}","seq":145}"#;
        for (images, original, annotated) in [
            (Images::None, "null", "null"),
            (Images::Original, r#""/9j/""#, "null"),
            (Images::Annotated, "null", r#""AQI=""#),
            (Images::Both, r#""/9j/""#, r#""AQI=""#),
        ] {
            let expected = format!(
                r#"{{"camera_id":"c09","original_image_b64":{original},"annotated_image_b64":{annotated}{end}"#
            );
            let message = message();
            assert_eq!(message.text(images).as_str(), expected);
            // Kept, and made anew once it is old.
            assert_eq!(message.text(images).as_str(), expected);
            message.age();
            assert_eq!(message.text(images).as_str(), expected);
        }
    }

    #[test]
    fn binary_frames_have_a_header_with_the_number() {
        let message = message();
        let frame = message.binary(ImageKind::Annotated, Images::Both).unwrap();
        let length = u32::from_be_bytes(frame[..4].try_into().unwrap()) as usize;
        let header: serde_json::Value = serde_json::from_slice(&frame[4..4 + length]).unwrap();
        let expected = serde_json::json!({"seq": 145, "camera_id": "c09", "kind": "annotated"});
        assert_eq!(header, expected);
        assert_eq!(&frame[4 + length..], [1, 2]);
        assert_eq!(message.binary(ImageKind::Annotated, Images::Original), None);
    }

    #[test]
    fn lost_pictures_are_remembered() {
        let bare = message().without_pictures().without_pictures();
        assert_eq!(bare.picture_weight(), 0);
        assert_eq!(bare.lost_count(Images::Both), 2);
        assert_eq!(bare.lost_count(Images::Annotated), 1);
        assert_eq!(bare.lost_count(Images::None), 0);
        assert!(
            bare.text(Images::Both)
                .as_str()
                .contains("\"original_image_b64\":null")
        );
    }
}
