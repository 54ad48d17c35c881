//! Where the samples of an MP4's video track lie: the index in `moov`, or the fragments that
//! follow it (ISO/IEC 14496-12).
//!
//! Files are foreign data: every length is checked against the file's before it is believed,
//! nothing is held that is not bounded by the file's own size, and media data is never read
//! ahead.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::num::NonZeroU32;
use std::path::Path;

use shiguredo_mp4::Decode;
use shiguredo_mp4::aux::SampleTableAccessor;
use shiguredo_mp4::boxes::{
    AvccBox, HdlrBox, MoofBox, MoovBox, SampleEntry, StblBox, TrafBox, TrakBox, TrexBox, TrunBox,
};

/// Largest index that is read: some ten million frames.
const MAX_MOOV_BYTES: u64 = 256 << 20;
/// Largest index of one fragment.
const MAX_MOOF_BYTES: u64 = 16 << 20;
/// Most samples that one fragment may claim. A few bytes can claim millions that take no room
/// in the file, so this is checked before the fragment is unpacked.
const MAX_FRAGMENT_SAMPLES: u64 = 1 << 20;
/// Largest coded picture.
const MAX_SAMPLE_BYTES: u64 = 64 << 20;
/// Most boxes that are passed over in search of one.
const MAX_BOXES: usize = 1 << 20;
/// Fragments that are counted for the progress bar; files with more have an unknown length.
const MAX_COUNTED_FRAGMENTS: usize = 20_000;

/// One coded picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sample {
    /// First byte in the file.
    pub(super) offset: u64,
    /// Length in bytes.
    pub(super) size: u32,
    /// When it is shown, in units of the track's time scale.
    pub(super) composition: i64,
    /// Which of the track's sample entries describes it.
    pub(super) entry: usize,
}

/// Why a sample's bytes could not be had.
pub(super) enum ReadError {
    /// This sample is broken, the next may not be.
    Skip(String),
    /// The file ends before it.
    End(String),
}

/// The samples of a file's first video track, in the order of decoding.
#[derive(Debug)]
pub(super) struct Samples {
    file: File,
    length: u64,
    entries: Vec<SampleEntry>,
    layout: Layout,
    /// Units of time in a second.
    pub(super) timescale: u32,
    /// Number of samples, where it could be counted.
    pub(super) count: Option<u64>,
    /// Average number of samples a second.
    pub(super) rate: Option<f64>,
    /// Clockwise quarter turns that bring the picture upright.
    pub(super) quarter_turns: u8,
}

#[derive(Debug)]
enum Layout {
    /// All in one table.
    Table {
        table: Box<SampleTableAccessor<StblBox>>,
        next: u32,
    },
    /// Fragment by fragment.
    Fragments(Box<Fragments>),
}

#[derive(Debug)]
struct Fragments {
    track_id: u32,
    defaults: TrexBox,
    /// Where to look for the next fragment.
    position: u64,
    /// Samples of the fragments seen so far that were not given out yet.
    queue: VecDeque<Sample>,
    /// Where the next fragment starts in time if it doesn't say.
    decode_time: i64,
}

/// A box in the file: its four-letter type and where it lies.
#[derive(Debug, Clone, Copy)]
struct BoxAt {
    kind: [u8; 4],
    start: u64,
    end: u64,
}

impl Samples {
    /// Finds the video track. Errors say what is wrong or missing, without the file's name.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let mut file = File::open(path).map_err(|error| error.to_string())?;
        let length = file.metadata().map_err(|error| error.to_string())?.len();
        let moov_at = find_moov(&mut file, length)?;
        let bytes = read_range(&mut file, moov_at.start, moov_at.end, MAX_MOOV_BYTES)?;
        let (moov, _) = MoovBox::decode(&bytes)
            .map_err(|error| format!("the MP4's index cannot be read: {}", error.reason))?;
        let is_video =
            |trak: &&TrakBox| trak.mdia_box.hdlr_box.handler_type == HdlrBox::HANDLER_TYPE_VIDE;
        let trak = moov
            .trak_boxes
            .iter()
            .find(is_video)
            .ok_or("an MP4 without a video track")?;
        let media = &trak.mdia_box;
        let stbl = &media.minf_box.stbl_box;
        let mut samples = Self {
            file,
            length,
            entries: stbl.stsd_box.entries.clone(),
            layout: Layout::Fragments(Box::new(Fragments {
                track_id: trak.tkhd_box.track_id,
                defaults: trex_of(&moov, trak.tkhd_box.track_id),
                position: moov_at.end,
                queue: VecDeque::new(),
                decode_time: 0,
            })),
            timescale: media.mdhd_box.timescale.get(),
            count: None,
            rate: None,
            quarter_turns: quarter_turns(&trak.tkhd_box.matrix)?,
        };
        let fragmented = moov.mvex_box.is_some() && stbl.stts_box.entries.is_empty();
        if fragmented {
            samples.count_fragments(moov_at.end, trak.tkhd_box.track_id);
        } else {
            samples.use_table(stbl.clone())?;
        }
        Ok(samples)
    }

    fn use_table(&mut self, stbl: StblBox) -> Result<(), String> {
        let table = SampleTableAccessor::new(stbl)
            .map_err(|error| format!("the MP4's index contradicts itself: {error}"))?;
        let count = table.sample_count();
        if let Some(last) = NonZeroU32::new(count).and_then(|index| table.get_sample(index)) {
            let ticks = last.timestamp() as f64 + f64::from(last.duration());
            if ticks > 0.0 {
                self.rate = Some(f64::from(count) * f64::from(self.timescale) / ticks);
            }
        }
        self.count = Some(u64::from(count));
        self.layout = Layout::Table {
            table: Box::new(table),
            next: 1,
        };
        Ok(())
    }

    /// The H.264 configuration of a sample entry, or the name of the codec that it is for.
    pub(super) fn avc_config(&self, entry: usize) -> Result<&AvccBox, String> {
        match self.entries.get(entry) {
            Some(SampleEntry::Avc1(avc1)) => Ok(&avc1.avcc_box),
            Some(other) => Err(format!("a video coded as {}", codec_name(other))),
            None => Err("a frame without a sample entry".to_string()),
        }
    }

    /// The next sample; `None` at the end.
    ///
    /// An error means that the file breaks off or contradicts itself here.
    pub(super) fn next(&mut self) -> Result<Option<Sample>, String> {
        match &mut self.layout {
            Layout::Table { table, next } => {
                let index = NonZeroU32::new(*next);
                let Some(sample) = index.and_then(|index| table.get_sample(index)) else {
                    return Ok(None);
                };
                // Wraps to 0 after the last possible one, which has no sample.
                *next = next.wrapping_add(1);
                let decode_time = i64::try_from(sample.timestamp()).unwrap_or(i64::MAX);
                let offset = sample.composition_time_offset().unwrap_or(0);
                Ok(Some(Sample {
                    offset: sample.data_offset(),
                    size: sample.data_size(),
                    composition: decode_time.saturating_add(offset),
                    entry: sample.chunk().sample_entry_index(),
                }))
            }
            Layout::Fragments(fragments) => {
                fragments.next(&mut self.file, self.length, &mut self.rate, self.timescale)
            }
        }
    }

    /// Reads a sample's bytes into `out`, replacing what it held.
    pub(super) fn read(&mut self, sample: &Sample, out: &mut Vec<u8>) -> Result<(), ReadError> {
        let size = u64::from(sample.size);
        if size == 0 {
            return Err(ReadError::Skip("the frame has no data".to_string()));
        }
        if size > MAX_SAMPLE_BYTES {
            return Err(ReadError::Skip(format!(
                "a coded frame of {size} bytes is too large"
            )));
        }
        if sample
            .offset
            .checked_add(size)
            .is_none_or(|end| end > self.length)
        {
            let reason = "the file ends before this frame's data: it is cut short".to_string();
            return Err(ReadError::End(reason));
        }
        out.resize(sample.size as usize, 0);
        self.file
            .seek(SeekFrom::Start(sample.offset))
            .and_then(|_| self.file.read_exact(out))
            .map_err(|error| ReadError::End(error.to_string()))
    }

    /// Counts the samples of all fragments, for the progress bar; leaves the count unknown
    /// when there are too many or one is broken.
    fn count_fragments(&mut self, start: u64, track_id: u32) {
        let mut position = start;
        let mut count = 0;
        for _ in 0..MAX_COUNTED_FRAGMENTS {
            let moof = match find_box(&mut self.file, position, self.length, *b"moof") {
                Ok(Some(found)) => found,
                Ok(None) => {
                    self.count = Some(count);
                    return;
                }
                Err(_) => return,
            };
            let Ok(bytes) = read_range(&mut self.file, moof.start, moof.end, MAX_MOOF_BYTES) else {
                return;
            };
            count += claimed_samples(&bytes, Some(track_id));
            position = moof.end;
        }
    }
}

impl Fragments {
    fn next(
        &mut self,
        file: &mut File,
        length: u64,
        rate: &mut Option<f64>,
        timescale: u32,
    ) -> Result<Option<Sample>, String> {
        loop {
            if let Some(sample) = self.queue.pop_front() {
                return Ok(Some(sample));
            }
            let Some(moof) = find_box(file, self.position, length, *b"moof")? else {
                return Ok(None);
            };
            let bytes = read_range(file, moof.start, moof.end, MAX_MOOF_BYTES)?;
            if claimed_samples(&bytes, None) > MAX_FRAGMENT_SAMPLES {
                return Err("a fragment that claims too many frames".to_string());
            }
            let (fragment, _) = MoofBox::decode(&bytes)
                .map_err(|error| format!("a fragment's index cannot be read: {}", error.reason))?;
            let before = self.decode_time;
            self.queue_fragment(&fragment, moof.start)?;
            self.position = moof.end;
            let ticks = self.decode_time.saturating_sub(before);
            if rate.is_none() && ticks > 0 {
                *rate = Some(self.queue.len() as f64 * f64::from(timescale) / ticks as f64);
            }
        }
    }

    fn queue_fragment(&mut self, moof: &MoofBox, moof_start: u64) -> Result<(), String> {
        for (index, traf) in moof.traf_boxes.iter().enumerate() {
            if traf.tfhd_box.track_id != self.track_id {
                continue;
            }
            // Clause 8.8.7.1: the first track fragment and those that say so count from the
            // fragment's start; the others would count from the data of the one before.
            let base = match traf.tfhd_box.base_data_offset {
                Some(base) => base,
                None if traf.tfhd_box.default_base_is_moof || index == 0 => moof_start,
                None => return Err("a fragment whose data follows another track's".to_string()),
            };
            if let Some(tfdt) = &traf.tfdt_box {
                self.decode_time = i64::try_from(tfdt.base_media_decode_time)
                    .map_err(|_| "a fragment beyond all time")?;
            }
            let mut position = base;
            for run in &traf.trun_boxes {
                if let Some(offset) = run.data_offset {
                    position = base.saturating_add_signed(i64::from(offset));
                }
                position = self.queue_run(traf, run, position);
            }
        }
        Ok(())
    }

    /// Queues a run of samples that lie one after the other; returns where they end.
    fn queue_run(&mut self, traf: &TrafBox, run: &TrunBox, start: u64) -> u64 {
        let header = &traf.tfhd_box;
        let duration = header.default_sample_duration;
        let duration = duration.unwrap_or(self.defaults.default_sample_duration);
        let size = header
            .default_sample_size
            .unwrap_or(self.defaults.default_sample_size);
        let entry = header.sample_description_index;
        let entry = entry.unwrap_or(self.defaults.default_sample_description_index);
        let mut position = start;
        for sample in &run.samples {
            let sample_size = sample.size.unwrap_or(size);
            let shift = sample.composition_time_offset.unwrap_or(0);
            self.queue.push_back(Sample {
                offset: position,
                size: sample_size,
                composition: self.decode_time.saturating_add(shift),
                entry: (entry as usize).saturating_sub(1),
            });
            position = position.saturating_add(u64::from(sample_size));
            let ticks = i64::from(sample.duration.unwrap_or(duration));
            self.decode_time = self.decode_time.saturating_add(ticks);
        }
        position
    }
}

fn trex_of(moov: &MoovBox, track_id: u32) -> TrexBox {
    let boxes = moov.mvex_box.iter().flat_map(|mvex| &mvex.trex_boxes);
    let none = TrexBox {
        track_id,
        default_sample_description_index: 1,
        default_sample_duration: 0,
        default_sample_size: 0,
        default_sample_flags: shiguredo_mp4::SampleFlags::empty(),
    };
    boxes
        .into_iter()
        .find(|trex| trex.track_id == track_id)
        .cloned()
        .unwrap_or(none)
}

/// Quarter turns of a track's matrix (clause 8.3.2.3); anything but a turn is refused.
fn quarter_turns(matrix: &[i32; 9]) -> Result<u8, String> {
    let sign = |value: i32| value.signum();
    match [matrix[0], matrix[1], matrix[3], matrix[4]].map(sign) {
        // A matrix of zeros is what some writers leave where they mean none.
        [1, 0, 0, 1] | [0, 0, 0, 0] => Ok(0),
        [0, 1, -1, 0] => Ok(1),
        [-1, 0, 0, -1] => Ok(2),
        [0, -1, 1, 0] => Ok(3),
        _ => Err("a video that is shown mirrored or skewed".to_string()),
    }
}

fn codec_name(entry: &SampleEntry) -> String {
    match entry {
        SampleEntry::Avc1(_) => "H.264".to_string(),
        SampleEntry::Hev1(_) | SampleEntry::Hvc1(_) => "HEVC (H.265)".to_string(),
        SampleEntry::Vp08(_) => "VP8".to_string(),
        SampleEntry::Vp09(_) => "VP9".to_string(),
        SampleEntry::Av01(_) => "AV1".to_string(),
        SampleEntry::Unknown(unknown) => {
            let kind = unknown.box_type.as_bytes();
            format!("'{}'", String::from_utf8_lossy(kind).escape_default())
        }
        _ => "something that is not video".to_string(),
    }
}

fn find_moov(file: &mut File, length: u64) -> Result<BoxAt, String> {
    let first = box_at(file, 0, length)?.ok_or("the file is empty")?;
    // The kinds of box that the files of this family start with.
    let starts = [
        *b"ftyp", *b"moov", *b"mdat", *b"free", *b"skip", *b"wide", *b"styp",
    ];
    if !starts.contains(&first.kind) {
        return Err("not an MP4 file".to_string());
    }
    match find_box(file, 0, length, *b"moov")? {
        Some(moov) => Ok(moov),
        None => Err("an MP4 without an index (moov): it was not finished, or is cut short".into()),
    }
}

/// The first box of a kind at the file's top level, from `position` on.
fn find_box(
    file: &mut File,
    mut position: u64,
    length: u64,
    kind: [u8; 4],
) -> Result<Option<BoxAt>, String> {
    for _ in 0..MAX_BOXES {
        let Some(found) = box_at(file, position, length)? else {
            return Ok(None);
        };
        if found.kind == kind {
            if found.end > length {
                return Err("the file breaks off within its index".to_string());
            }
            return Ok(Some(found));
        }
        position = found.end;
    }
    Err("an MP4 of too many parts".to_string())
}

/// The header of the box at `position` (clause 4.2); `None` at the end of the file.
fn box_at(file: &mut File, position: u64, length: u64) -> Result<Option<BoxAt>, String> {
    if position >= length {
        return Ok(None);
    }
    let mut header = [0_u8; 16];
    let available = (length - position).min(16) as usize;
    if available < 8 {
        return Err("the file breaks off within a box".to_string());
    }
    file.seek(SeekFrom::Start(position))
        .map_err(|error| error.to_string())?;
    file.read_exact(&mut header[..available])
        .map_err(|error| error.to_string())?;
    let [s0, s1, s2, s3, k0, k1, k2, k3, large @ ..] = header;
    let (size, smallest) = match u32::from_be_bytes([s0, s1, s2, s3]) {
        0 => (length - position, 8),
        1 if available == 16 => (u64::from_be_bytes(large), 16),
        1 => return Err("the file breaks off within a box".to_string()),
        size => (u64::from(size), 8),
    };
    let end = position.checked_add(size).filter(|_| size >= smallest);
    let Some(end) = end else {
        return Err("a box of impossible size: the file is damaged".to_string());
    };
    Ok(Some(BoxAt {
        kind: [k0, k1, k2, k3],
        start: position,
        end,
    }))
}

fn read_range(file: &mut File, start: u64, end: u64, limit: u64) -> Result<Vec<u8>, String> {
    let size = end.saturating_sub(start);
    if size > limit {
        return Err(format!("an index of {size} bytes is too large"));
    }
    let mut bytes = vec![0; size as usize];
    file.seek(SeekFrom::Start(start))
        .map_err(|error| error.to_string())?;
    file.read_exact(&mut bytes)
        .map_err(|error| error.to_string())?;
    Ok(bytes)
}

/// How many samples a `moof` box claims, of one track or of all, told from the raw bytes.
fn claimed_samples(moof: &[u8], track_id: Option<u32>) -> u64 {
    let mut total = 0_u64;
    for (_, traf) in children(moof, 8).filter(|(kind, _)| kind == b"traf") {
        let header = children(traf, 0).find(|(kind, _)| kind == b"tfhd");
        let id = header.and_then(|(_, payload)| u32_at(payload, 4));
        if track_id.is_some() && track_id != id {
            continue;
        }
        for (_, run) in children(traf, 0).filter(|(kind, _)| kind == b"trun") {
            total = total.saturating_add(u64::from(u32_at(run, 4).unwrap_or(0)));
        }
    }
    total
}

/// The boxes within a box's bytes from `offset` on: kind and payload.
fn children(bytes: &[u8], offset: usize) -> impl Iterator<Item = ([u8; 4], &[u8])> {
    let mut rest = bytes.get(offset..).unwrap_or(&[]);
    std::iter::from_fn(move || {
        let kind: [u8; 4] = rest.get(4..8)?.try_into().ok()?;
        let (size, header) = match u32_at(rest, 0)? {
            0 => (rest.len(), 8),
            1 => (usize::try_from(u64_at(rest, 8)?).ok()?, 16),
            size => (size as usize, 8),
        };
        let (this, after) = rest.split_at_checked(size)?;
        rest = after;
        Some((kind, this.get(header..)?))
    })
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let bytes = bytes.get(offset..offset + 4)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    let bytes = bytes.get(offset..offset + 8)?;
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boxed(kind: &[u8; 4], payload: &[u8]) -> Vec<u8> {
        let mut bytes = (payload.len() as u32 + 8).to_be_bytes().to_vec();
        bytes.extend(kind);
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn claims_of_a_fragment_are_added_up_per_track() {
        let tfhd = boxed(b"tfhd", &[0, 0, 0, 0, 0, 0, 0, 7]);
        let trun = boxed(b"trun", &[0, 0, 0, 0, 0, 1, 0, 0]);
        let traf = boxed(b"traf", &[tfhd, trun.clone(), trun].concat());
        let moof = boxed(b"moof", &[traf.clone(), traf].concat());
        assert_eq!(claimed_samples(&moof, None), 4 * 65536);
        assert_eq!(claimed_samples(&moof, Some(7)), 4 * 65536);
        assert_eq!(claimed_samples(&moof, Some(8)), 0);
        for length in 0..moof.len() {
            claimed_samples(&moof[..length], None);
        }
    }

    #[test]
    fn turns_are_read_from_the_matrix() {
        let one = 0x10000;
        let turned = |a, b, c, d| quarter_turns(&[a, b, 0, c, d, 0, 0, 0, 0x4000_0000]);
        assert_eq!(turned(one, 0, 0, one), Ok(0));
        assert_eq!(turned(0, one, -one, 0), Ok(1));
        assert_eq!(turned(-one, 0, 0, -one), Ok(2));
        assert_eq!(turned(0, -one, one, 0), Ok(3));
        assert!(turned(-one, 0, 0, one).is_err());
    }
}
