//! What a stranger's file is, told by its bytes and never by its name; and whether it is whole.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Bytes at a file's start that [`Container::of`] wants to see.
pub const HEAD_BYTES: usize = 64;

/// Most boxes or chunks of a file that are looked at.
const MAX_PARTS: usize = 200_000;

/// Kinds of files that are taken from strangers: containers of one file each, no playlists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Container {
    /// MP4 and QuickTime (ISO/IEC 14496-12).
    Mp4,
    /// Matroska and WebM (RFC 9559).
    Matroska,
    /// AVI.
    Avi,
    /// A single JPEG.
    Jpeg,
    /// A single PNG.
    Png,
}

impl Container {
    /// The kind of a file that starts with `head`, which holds [`HEAD_BYTES`] bytes or the whole
    /// file; `None` for everything else.
    pub fn of(head: &[u8]) -> Option<Self> {
        if head.starts_with(&[0xFF, 0xD8, 0xFF]) {
            return Some(Self::Jpeg);
        }
        if head.starts_with(b"\x89PNG\r\n\x1a\n") {
            return Some(Self::Png);
        }
        if head.starts_with(b"RIFF") && head.get(8..12) == Some(b"AVI ") {
            return Some(Self::Avi);
        }
        if head.starts_with(&[0x1A, 0x45, 0xDF, 0xA3]) {
            return is_matroska(head).then_some(Self::Matroska);
        }
        is_mp4(head).then_some(Self::Mp4)
    }

    /// The ending of a file of this kind, without the dot.
    pub fn ending(self) -> &'static str {
        match self {
            Self::Mp4 => "mp4",
            Self::Matroska => "mkv",
            Self::Avi => "avi",
            Self::Jpeg => "jpg",
            Self::Png => "png",
        }
    }

    /// The name of `ffmpeg`'s reader of this kind; `None` for images.
    pub fn demuxer(self) -> Option<&'static str> {
        match self {
            Self::Mp4 => Some("mov"),
            Self::Matroska => Some("matroska"),
            Self::Avi => Some("avi"),
            Self::Jpeg | Self::Png => None,
        }
    }

    /// Checks that a file is as long as its own headers say; what is inside is not looked at.
    ///
    /// # Errors
    /// What is missing.
    pub fn check_whole(self, path: &Path) -> Result<(), String> {
        let mut file = std::fs::File::open(path).map_err(|error| error.to_string())?;
        self.check_parts(&mut file)
    }

    /// [`check_whole`](Self::check_whole) on anything that can be read.
    ///
    /// # Errors
    /// What is missing.
    pub fn check_parts(self, file: &mut (impl Read + Seek)) -> Result<(), String> {
        let bytes = file
            .seek(SeekFrom::End(0))
            .map_err(|error| error.to_string())?;
        if bytes == 0 {
            return Err("the file is empty".to_string());
        }
        match self {
            Self::Mp4 => check_mp4(file, bytes),
            Self::Avi => check_avi(file, bytes),
            Self::Matroska => check_matroska(file, bytes),
            // Their decoders ask for the end marker.
            Self::Jpeg | Self::Png => Ok(()),
        }
    }
}

/// An EBML header whose document type is one of Matroska's.
fn is_matroska(head: &[u8]) -> bool {
    const DOC_TYPE: [u8; 2] = [0x42, 0x82];
    let Some(place) = head.windows(2).position(|pair| pair == DOC_TYPE) else {
        return false;
    };
    let Some(length) = head.get(place + 2) else {
        return false;
    };
    // One byte of length, marked by its highest bit.
    let length = usize::from(length & 0x7F);
    let name = head.get(place + 3..place + 3 + length).unwrap_or_default();
    let name = name.strip_suffix(&[0]).unwrap_or(name);
    name == b"matroska" || name == b"webm"
}

/// A first box of a video: a file type that is no still image's, or what old QuickTime files begin
/// with.
fn is_mp4(head: &[u8]) -> bool {
    match head.get(4..8) {
        Some(b"ftyp") => !matches!(
            head.get(8..12),
            Some(b"heic" | b"heix" | b"mif1" | b"msf1" | b"avif" | b"avis") | None
        ),
        Some(b"moov" | b"mdat" | b"wide" | b"free" | b"skip" | b"pnot") => true,
        _ => false,
    }
}

fn cut_short(needs: u64, has: u64) -> String {
    format!("the file is cut short: its headers speak of {needs} bytes, it has {has}")
}

/// Reads `N` bytes at `place`.
fn bytes_at<const N: usize>(file: &mut (impl Read + Seek), place: u64) -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    file.seek(SeekFrom::Start(place))
        .and_then(|_| file.read_exact(&mut bytes))
        .map_err(|error| error.to_string())?;
    Ok(bytes)
}

/// Walks over the outermost boxes: all within the file, one of them `moov`.
fn check_mp4(file: &mut (impl Read + Seek), bytes: u64) -> Result<(), String> {
    let mut place = 0;
    let mut has_index = false;
    for _ in 0..MAX_PARTS {
        if place + 8 > bytes {
            break;
        }
        let header: [u8; 8] = bytes_at(file, place)?;
        let [a, b, c, d, kind @ ..] = header;
        has_index |= kind == *b"moov";
        let size = match u32::from_be_bytes([a, b, c, d]) {
            // To the end of the file.
            0 => bytes - place,
            1 if place + 16 > bytes => return Err(cut_short(place + 16, bytes)),
            1 => u64::from_be_bytes(bytes_at(file, place + 8)?),
            size => u64::from(size),
        };
        if size < 8 {
            return Err(format!(
                "a box of {size} bytes at byte {place} makes no sense"
            ));
        }
        let end = place.saturating_add(size);
        if end > bytes {
            return Err(cut_short(end, bytes));
        }
        place = end;
    }
    if has_index {
        return Ok(());
    }
    Err("the file has no index (`moov`): it is cut short or was never finished".to_string())
}

/// Walks over the outermost chunks; a size of 0 or the largest is what unfinished recordings hold.
fn check_avi(file: &mut (impl Read + Seek), bytes: u64) -> Result<(), String> {
    let mut place = 0;
    for _ in 0..MAX_PARTS {
        if place + 8 > bytes {
            break;
        }
        let header: [u8; 8] = bytes_at(file, place)?;
        let [r, i, f, x, a, b, c, d] = header;
        let size = u32::from_le_bytes([a, b, c, d]);
        if [r, i, f, x] != *b"RIFF" || size == 0 || size == u32::MAX {
            break;
        }
        let end = place + 8 + u64::from(size);
        if end > bytes {
            return Err(cut_short(end, bytes));
        }
        place = end + end % 2;
    }
    Ok(())
}

/// The header and the segment behind it; a live recording's segment has no size.
fn check_matroska(file: &mut (impl Read + Seek), bytes: u64) -> Result<(), String> {
    const SEGMENT: [u8; 4] = [0x18, 0x53, 0x80, 0x67];
    let (header, length) = ebml_size(file, 4, bytes)?;
    let Some(header) = header else {
        return Err("a Matroska header without a size".to_string());
    };
    let place = (4 + length).saturating_add(header);
    if place.saturating_add(5) > bytes {
        return Err(cut_short(place.saturating_add(5), bytes));
    }
    if bytes_at::<4>(file, place)? != SEGMENT {
        return Err("a Matroska file without a segment".to_string());
    }
    let (segment, length) = ebml_size(file, place + 4, bytes)?;
    let Some(segment) = segment else {
        return Ok(());
    };
    let end = (place + 4 + length).saturating_add(segment);
    if end > bytes {
        return Err(cut_short(end, bytes));
    }
    Ok(())
}

/// An EBML size (RFC 8794, section 4) and the number of its bytes; `None` is the unknown size.
fn ebml_size(
    file: &mut (impl Read + Seek),
    place: u64,
    bytes: u64,
) -> Result<(Option<u64>, u64), String> {
    if place >= bytes {
        return Err(cut_short(place + 1, bytes));
    }
    let [first] = bytes_at::<1>(file, place)?;
    let length = u64::from(first.leading_zeros()) + 1;
    if length > 8 {
        return Err("a Matroska size of more than 8 bytes".to_string());
    }
    if place + length > bytes {
        return Err(cut_short(place + length, bytes));
    }
    let mut value = u64::from(first) & ((1 << (8 - length)) - 1);
    for offset in 1..length {
        let [byte] = bytes_at::<1>(file, place + offset)?;
        value = value << 8 | u64::from(byte);
    }
    let unknown = (1 << (7 * length)) - 1;
    Ok(((value != unknown).then_some(value), length))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    fn boxes(parts: &[(&[u8; 4], usize)]) -> Vec<u8> {
        let mut file = Vec::new();
        for (kind, payload) in parts {
            file.extend_from_slice(&(*payload as u32 + 8).to_be_bytes());
            file.extend_from_slice(*kind);
            file.resize(file.len() + payload, 0);
        }
        file
    }

    // The first bytes are those of files written by FFmpeg 5.1.9.
    #[test]
    fn kinds_are_told_by_the_first_bytes() {
        let webm =
            b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\x01\x42\xf7\x81\x01\x42\xf2\x81\x04\x42\xf3\x81\
            \x08\x42\x82\x84webm\x42\x87\x81\x04";
        let cases: [(&[u8], Option<Container>); 15] = [
            (
                b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2",
                Some(Container::Mp4),
            ),
            (b"\0\0\0\x14ftypqt  \0\0\x02\0qt  ", Some(Container::Mp4)),
            (b"\0\0\x10\0moov", Some(Container::Mp4)),
            (webm, Some(Container::Matroska)),
            (b"RIFF\x9a\xa8\x06\0AVI LIST", Some(Container::Avi)),
            (b"\xff\xd8\xff\xe0\0\x10JFIF", Some(Container::Jpeg)),
            (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", Some(Container::Png)),
            (b"", None),
            (b"RIFF\x9a\xa8\x06\0WAVEfmt ", None),
            (b"\0\0\0\x18ftypheic\0\0\0\0", None),
            (b"\x1a\x45\xdf\xa3\x84\x42\x82\x81x", None),
            (b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1/a.ts", None),
            (b"ffconcat version 1.0\nfile /etc/passwd\n", None),
            (b"PK\x03\x04", None),
            (b"<svg xmlns='http://www.w3.org/2000/svg'>", None),
        ];
        for (head, expected) in cases {
            assert_eq!(Container::of(head), expected, "{head:?}");
        }
    }

    #[test]
    fn a_cut_mp4_is_told() {
        let whole = boxes(&[(b"ftyp", 8), (b"mdat", 100), (b"moov", 50)]);
        let check = |bytes: &[u8]| Container::Mp4.check_parts(&mut Cursor::new(bytes));
        assert_eq!(check(&whole), Ok(()));
        let reason = check(&whole[..100]).unwrap_err();
        // 16 bytes and a box of 108.
        assert!(reason.contains("124 bytes, it has 100"), "{reason}");
        let reason = check(&boxes(&[(b"ftyp", 8), (b"mdat", 100)])).unwrap_err();
        assert!(reason.contains("moov"), "{reason}");
        assert!(check(&[0, 0, 0, 3, b'f', b't', b'y', b'p']).is_err());
        // A 64-bit size beyond all numbers.
        let mut endless = vec![0, 0, 0, 1, b'm', b'd', b'a', b't'];
        endless.extend_from_slice(&u64::MAX.to_be_bytes());
        assert!(check(&endless).is_err());
    }

    #[test]
    fn a_cut_avi_or_matroska_is_told() {
        let mut avi = b"RIFF\x10\0\0\0AVI ".to_vec();
        avi.resize(24, 0);
        let check = |bytes: &[u8]| Container::Avi.check_parts(&mut Cursor::new(bytes));
        assert_eq!(check(&avi), Ok(()));
        assert!(
            check(&avi[..20])
                .unwrap_err()
                .contains("24 bytes, it has 20")
        );
        avi[4..8].fill(0);
        assert_eq!(check(&avi[..20]), Ok(()), "a recording that never ended");

        // A header of no content, a segment of 4 bytes.
        let matroska = b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67\x84\0\0\0\0";
        let check = |bytes: &[u8]| Container::Matroska.check_parts(&mut Cursor::new(bytes));
        assert_eq!(check(matroska), Ok(()));
        assert!(check(&matroska[..12]).is_err());
        assert!(check(&matroska[..6]).is_err());
        let live = b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67\xff\0";
        assert_eq!(check(live), Ok(()), "a segment of unknown size");
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Container::of(&bytes);
            for kind in [Container::Mp4, Container::Avi, Container::Matroska] {
                let _ = kind.check_parts(&mut Cursor::new(&bytes));
            }
        }
    }
}
