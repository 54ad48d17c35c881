//! The little of H.264 that reading an MP4 takes: the sequence parameter set, and NAL units in
//! the byte-stream form that the decoder wants. Clauses are those of ITU-T H.264 (08/2021).

use crate::source::check_size;
use crate::source::yuv::Colours;

/// NAL unit types (table 7-1) that matter to a decoder of whole pictures.
const NAL_SLICE: u8 = 1;
const NAL_IDR_SLICE: u8 = 5;
const NAL_SPS: u8 = 7;
const NAL_PPS: u8 = 8;

/// What a sequence parameter set says about the pictures (clause 7.3.2.1.1).
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sps {
    pub(super) profile: u8,
    pub(super) chroma_format: u32,
    pub(super) bit_depth_luma: u32,
    pub(super) bit_depth_chroma: u32,
    /// False when pictures may be coded as interlaced fields.
    pub(super) progressive: bool,
    /// Size in pixels, after cropping.
    pub(super) width: u64,
    pub(super) height: u64,
    pub(super) colours: Colours,
}

impl Sps {
    /// Parses a NAL unit of type 7; `None` if it isn't one or breaks off.
    pub(super) fn parse(nal: &[u8]) -> Option<Self> {
        if nal.first()? & 0x1F != NAL_SPS {
            return None;
        }
        let payload = without_emulation_prevention(nal.get(1..)?);
        let mut bits = Bits::new(&payload);
        let profile = bits.bits(8)? as u8;
        bits.bits(16)?; // constraint flags, level
        bits.unsigned()?; // id
        let mut sps = Self {
            profile,
            chroma_format: 1,
            bit_depth_luma: 8,
            bit_depth_chroma: 8,
            progressive: true,
            width: 0,
            height: 0,
            colours: Colours::BT601,
        };
        if matches!(
            profile,
            100 | 110 | 122 | 244 | 44 | 83 | 86 | 118 | 128 | 138 | 139 | 134 | 135
        ) {
            sps.parse_high_profile(&mut bits)?;
        }
        skip_picture_order(&mut bits)?;
        bits.unsigned()?; // reference frames
        bits.bit()?; // gaps in frame numbers
        sps.parse_size(&mut bits)?;
        if bits.bit()? {
            sps.colours = parse_colours(&mut bits)?;
        }
        Some(sps)
    }

    fn parse_high_profile(&mut self, bits: &mut Bits<'_>) -> Option<()> {
        self.chroma_format = bits.unsigned()?;
        if self.chroma_format == 3 {
            bits.bit()?; // separate colour planes
        }
        self.bit_depth_luma = bits.unsigned()?.checked_add(8)?;
        self.bit_depth_chroma = bits.unsigned()?.checked_add(8)?;
        bits.bit()?; // lossless bypass
        if bits.bit()? {
            let lists = if self.chroma_format == 3 { 12 } else { 8 };
            for list in 0..lists {
                if bits.bit()? {
                    skip_scaling_list(bits, if list < 6 { 16 } else { 64 })?;
                }
            }
        }
        Some(())
    }

    fn parse_size(&mut self, bits: &mut Bits<'_>) -> Option<()> {
        let columns = u64::from(bits.unsigned()?) + 1;
        let rows = u64::from(bits.unsigned()?) + 1;
        self.progressive = bits.bit()?;
        if !self.progressive {
            bits.bit()?; // adaptive frame/field coding
        }
        bits.bit()?; // direct 8×8 inference
        let field_factor = if self.progressive { 1 } else { 2 };
        let (mut width, mut height) = (columns * 16, rows * 16 * field_factor);
        if bits.bit()? {
            // Clause 7.4.2.1.1, equations 7-19 to 7-22.
            let unit_x = if matches!(self.chroma_format, 1 | 2) {
                2
            } else {
                1
            };
            let unit_y = if self.chroma_format == 1 { 2 } else { 1 } * field_factor;
            let [left, right, top, bottom] = [
                bits.unsigned()?,
                bits.unsigned()?,
                bits.unsigned()?,
                bits.unsigned()?,
            ]
            .map(u64::from);
            width = width.checked_sub((left + right) * unit_x)?;
            height = height.checked_sub((top + bottom) * unit_y)?;
        }
        self.width = width;
        self.height = height;
        Some(())
    }

    /// Whether the built-in decoder takes such a stream; if not, why.
    pub(super) fn check_supported(&self) -> Result<(), String> {
        check_size(self.width, self.height)?;
        if !matches!(self.profile, 66 | 77 | 100) {
            return Err(format!(
                "H.264 of profile {} (built in: 66, 77, 100)",
                self.profile
            ));
        }
        if self.chroma_format != 1 || self.bit_depth_luma != 8 || self.bit_depth_chroma != 8 {
            return Err("H.264 that isn't 4:2:0 with 8 bits".to_string());
        }
        if !self.progressive {
            return Err("interlaced H.264".to_string());
        }
        Ok(())
    }
}

/// Picture order count fields of the sequence parameter set.
fn skip_picture_order(bits: &mut Bits<'_>) -> Option<()> {
    bits.unsigned()?; // log2_max_frame_num
    match bits.unsigned()? {
        0 => {
            bits.unsigned()?;
        }
        1 => {
            bits.bit()?;
            bits.unsigned()?; // two signed ones, skipped by the same code
            bits.unsigned()?;
            let cycle = bits.unsigned()?;
            if cycle > 255 {
                return None;
            }
            for _ in 0..cycle {
                bits.unsigned()?;
            }
        }
        _ => {}
    }
    Some(())
}

/// Clause 7.3.2.1.1.1.
fn skip_scaling_list(bits: &mut Bits<'_>, size: usize) -> Option<()> {
    let mut last: i64 = 8;
    let mut next: i64 = 8;
    for _ in 0..size {
        if next != 0 {
            next = (last + bits.signed()?).rem_euclid(256);
        }
        if next != 0 {
            last = next;
        }
    }
    Some(())
}

/// The start of the video usability information (annex E.1.1), up to the colours.
fn parse_colours(bits: &mut Bits<'_>) -> Option<Colours> {
    const EXTENDED_ASPECT: u32 = 255;
    if bits.bit()? && bits.bits(8)? == EXTENDED_ASPECT {
        bits.bits(32)?;
    }
    if bits.bit()? {
        bits.bit()?; // overscan
    }
    if !bits.bit()? {
        return Some(Colours::BT601);
    }
    bits.bits(3)?; // video format
    let full_range = bits.bit()?;
    let mut matrix = 2; // unspecified
    if bits.bit()? {
        bits.bits(16)?; // primaries, transfer
        matrix = bits.bits(8)? as u8;
    }
    Some(Colours::from_h264(matrix, full_range))
}

/// Removes the bytes that keep start codes out of NAL units (clause 7.4.1.1).
fn without_emulation_prevention(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut zeros = 0;
    for &byte in bytes {
        if zeros >= 2 && byte == 3 {
            zeros = 0;
            continue;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        out.push(byte);
    }
    out
}

/// Reads bits, most significant first.
struct Bits<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Bits<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    fn bit(&mut self) -> Option<bool> {
        let byte = *self.bytes.get(self.position / 8)?;
        let bit = byte >> (7 - self.position % 8) & 1;
        self.position += 1;
        Some(bit == 1)
    }

    /// Up to 32 bits.
    fn bits(&mut self, count: u32) -> Option<u32> {
        let mut value = 0_u32;
        for _ in 0..count {
            value = value << 1 | u32::from(self.bit()?);
        }
        Some(value)
    }

    /// Exp-Golomb code, `ue(v)` (clause 9.1).
    fn unsigned(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while !self.bit()? {
            zeros += 1;
            if zeros > 31 {
                return None;
            }
        }
        let rest = u64::from(self.bits(zeros)?);
        u32::try_from((1_u64 << zeros) - 1 + rest).ok()
    }

    /// Signed Exp-Golomb code, `se(v)` (clause 9.1.1).
    fn signed(&mut self) -> Option<i64> {
        let code = i64::from(self.unsigned()?);
        Some(if code % 2 == 1 {
            code / 2 + 1
        } else {
            -(code / 2)
        })
    }
}

/// Appends a NAL unit with a start code in front (annex B).
pub(super) fn push_nal(out: &mut Vec<u8>, nal: &[u8]) {
    out.extend_from_slice(&[0, 0, 0, 1]);
    out.extend_from_slice(nal);
}

/// Turns a sample of an MP4 (NAL units, each behind its length in `length_size` bytes) into
/// annex B, appended to `out`. Units that are neither slices nor parameter sets are left out:
/// no decoded pixel depends on them.
///
/// `colours` follows a sequence parameter set that comes within the sample.
pub(super) fn push_sample(
    out: &mut Vec<u8>,
    sample: &[u8],
    length_size: usize,
    colours: &mut Colours,
) -> Result<(), String> {
    let mut rest = sample;
    let mut slices = 0;
    while !rest.is_empty() {
        let (nal, after) = split_nal(rest, length_size)
            .ok_or("the frame's data does not divide into H.264 units")?;
        rest = after;
        let Some(&header) = nal.first() else {
            continue;
        };
        match header & 0x1F {
            NAL_SLICE | NAL_IDR_SLICE => slices += 1,
            NAL_SPS => {
                let sps = Sps::parse(nal).ok_or("a sequence parameter set that breaks off")?;
                sps.check_supported()?;
                *colours = sps.colours;
            }
            NAL_PPS => {}
            _ => continue,
        }
        push_nal(out, nal);
    }
    if slices == 0 {
        return Err("no picture in the frame's data".to_string());
    }
    Ok(())
}

fn split_nal(bytes: &[u8], length_size: usize) -> Option<(&[u8], &[u8])> {
    let (length_bytes, rest) = bytes.split_at_checked(length_size)?;
    let mut length = 0_usize;
    for &byte in length_bytes {
        length = length << 8 | usize::from(byte);
    }
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SPS of a 1920×1080 High-profile stream (1088 coded rows, 8 cropped), as x264 writes it.
    const HD: &[u8] = &[
        0x67, 0x64, 0x00, 0x28, 0xAC, 0xD9, 0x40, 0x78, 0x02, 0x27, 0xE5, 0xC0, 0x44, 0x00, 0x00,
        0x03, 0x00, 0x04, 0x00, 0x00, 0x03, 0x00, 0xF0, 0x3C, 0x60, 0xC6, 0x58,
    ];

    #[test]
    fn sps_gives_the_cropped_size() {
        let sps = Sps::parse(HD).unwrap();
        assert_eq!((sps.profile, sps.width, sps.height), (100, 1920, 1080));
        assert!(sps.progressive);
        assert!(sps.check_supported().is_ok());
    }

    #[test]
    fn a_cut_sps_is_refused_or_plain() {
        for length in 0..HD.len() {
            if let Some(sps) = Sps::parse(&HD[..length]) {
                assert_eq!((sps.width, sps.height), (1920, 1080));
            }
        }
    }

    #[test]
    fn exp_golomb_codes() {
        // Table 9-2: 1 → 0, 010 → 1, 011 → 2, 00100 → 3, 00101 → 4.
        let mut bits = Bits::new(&[0b1010_0110, 0b0100_0010, 0b1000_0000]);
        let codes: Vec<_> = (0..5).map(|_| bits.unsigned().unwrap()).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4]);
        let mut bits = Bits::new(&[0b1010_0110, 0b0100_0010, 0b1000_0000]);
        let codes: Vec<_> = (0..5).map(|_| bits.signed().unwrap()).collect();
        assert_eq!(codes, [0, 1, -1, 2, -2]);
    }

    #[test]
    fn emulation_prevention_is_removed() {
        assert_eq!(
            without_emulation_prevention(&[1, 0, 0, 3, 1, 0, 0, 3]),
            [1, 0, 0, 1, 0, 0]
        );
    }

    #[test]
    fn samples_become_annex_b() {
        let sample = [0, 0, 0, 2, 0x65, 7, 0, 0, 0, 1, 0x06, 0, 0, 0, 1, 0x41];
        let mut out = Vec::new();
        let mut colours = Colours::BT601;
        push_sample(&mut out, &sample, 4, &mut colours).unwrap();
        assert_eq!(out, [0, 0, 0, 1, 0x65, 7, 0, 0, 0, 1, 0x41]);
        for length in 1..sample.len() {
            let mut out = Vec::new();
            let cut = push_sample(&mut out, &sample[..length], 4, &mut colours);
            // Cuts between units leave a shorter but whole sample.
            assert_eq!(cut.is_ok(), matches!(length, 6 | 11), "at {length}");
        }
    }
}
