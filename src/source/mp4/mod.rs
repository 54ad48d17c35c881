//! MP4 files with H.264, without any installed program: [`shiguredo_mp4`] reads the boxes,
//! OpenH264 decodes.
//!
//! Pictures come in display order, with the timestamps of the track counted from the first
//! picture shown. Edit lists are not followed: every picture of the track is a frame.
//! Interlaced, 4:2:2 or 10-bit streams are refused, so that `ffmpeg` can have them.
//!
//! Pixels are those of FFmpeg, but for blocks of B-frames with direct prediction, where
//! OpenH264 2.6 is off by a few grey levels: in a street scene coded by x264 with its defaults,
//! 283 of 300 frames are equal and four pixels in a million differ.

mod h264;
mod samples;

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::Duration;

use image::{RgbImage, imageops};
use openh264::OpenH264API;
use openh264::decoder::{DecodedYUV, Decoder, DecoderConfig, Flush};
use openh264::formats::YUVSource;

use self::samples::{ReadError, Sample, Samples};
use super::yuv::{self, Colours, Planes};
use super::{
    Frame, FrameSource, MAX_BROKEN_IN_A_ROW, SkipCounts, SourceError, SourceInfo, check_size, stem,
};

/// Most pictures that wait for their turn to be shown. H.264 allows 16; when more wait, the
/// decoder has lost some.
const MAX_REORDERED: usize = 32;

/// Samples that are looked at for the earliest picture, from which time is counted.
const MAX_LEAD_SAMPLES: usize = 64;

/// The frames of an MP4 file whose video is H.264.
pub struct Mp4Source {
    path: PathBuf,
    info: SourceInfo,
    skipped: SkipCounts,
    samples: Samples,
    /// Samples that were looked at before their turn.
    ahead: VecDeque<Sample>,
    decoder: Decoder,
    /// The sample entry whose parameter sets the decoder has.
    entry: Option<usize>,
    length_size: usize,
    colours: Colours,
    order: DisplayOrder,
    ready: VecDeque<Frame>,
    broken_in_a_row: u64,
    state: State,
    /// Reused for each sample: as read, and as the decoder takes it.
    sample_bytes: Vec<u8>,
    annex_b: Vec<u8>,
}

enum State {
    Reading,
    /// No more samples; the error, if there is one, follows the last frame.
    Ended(Option<SourceError>),
}

impl std::fmt::Debug for Mp4Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mp4Source")
            .field("path", &self.path)
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}

impl Mp4Source {
    /// Opens a file and decodes its first picture.
    ///
    /// # Errors
    /// [`SourceError::Unsupported`] when it is not an MP4 with H.264 that can be decoded here,
    /// or when no picture comes out of it; [`SourceError::NotFound`] and [`SourceError::Io`]
    /// when the file cannot be read.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        // Told apart from a broken file, for the message.
        std::fs::File::open(path).map_err(|error| SourceError::io(path, error))?;
        let refused = |reason: String| SourceError::unsupported(path, reason);
        let samples = Samples::open(path).map_err(refused)?;
        let mut source = Self {
            path: path.to_path_buf(),
            info: SourceInfo {
                name: stem(path, "video"),
                frame_rate: samples.rate,
                frame_count: samples.count,
                size: (0, 0),
            },
            skipped: SkipCounts::default(),
            samples,
            ahead: VecDeque::new(),
            decoder: new_decoder().map_err(refused)?,
            entry: None,
            length_size: 4,
            colours: Colours::BT601,
            order: DisplayOrder::default(),
            ready: VecDeque::new(),
            broken_in_a_row: 0,
            state: State::Reading,
            sample_bytes: Vec::new(),
            annex_b: Vec::new(),
        };
        source.look_ahead().map_err(refused)?;
        source.decode_first()?;
        Ok(source)
    }

    /// Finds the time of the earliest picture, and refuses what cannot be decoded here.
    fn look_ahead(&mut self) -> Result<(), String> {
        let mut error = None;
        while self.ahead.len() < MAX_LEAD_SAMPLES {
            match self.samples.next() {
                Ok(Some(sample)) => self.ahead.push_back(sample),
                Ok(None) => break,
                Err(reason) => {
                    error = Some(reason);
                    break;
                }
            }
        }
        let Some(first) = self.ahead.front() else {
            return Err(error.unwrap_or_else(|| "a video track without frames".to_string()));
        };
        // A file that breaks off after some frames is told so when those are through.
        if let Some(reason) = error {
            self.state = State::Ended(Some(self.broken(self.ahead.len() as u64 + 1, reason)));
        }
        let config = self.samples.avc_config(first.entry)?;
        let sps = config
            .sps_list
            .first()
            .ok_or("H.264 without a sequence parameter set")?;
        let sps = h264::Sps::parse(sps).ok_or("H.264 whose sequence parameter set breaks off")?;
        sps.check_supported()?;
        self.order.start = self
            .ahead
            .iter()
            .map(|sample| sample.composition)
            .min()
            .unwrap_or(0);
        self.info.frame_rate = self.samples.rate;
        Ok(())
    }

    /// Decodes up to the first picture: only that proves that the decoder takes the stream.
    fn decode_first(&mut self) -> Result<(), SourceError> {
        while self.ready.is_empty() {
            if !self.advance() {
                break;
            }
        }
        if let Some(frame) = self.ready.front() {
            self.info.size = frame.image.dimensions();
            return Ok(());
        }
        let reason = match (&self.state, self.skipped.examples.first()) {
            (State::Ended(Some(SourceError::Broken { reason, .. })), _) => reason.clone(),
            (_, Some(skipped)) => format!("none of its frames can be decoded: {}", skipped.reason),
            _ => "no frame can be decoded".to_string(),
        };
        Err(SourceError::unsupported(&self.path, reason))
    }

    /// Takes the next sample through the decoder; false when there is none left.
    fn advance(&mut self) -> bool {
        let Some(sample) = self.next_sample() else {
            return false;
        };
        self.order.enter(sample.composition);
        match self.decode(&sample) {
            Ok(Some(image)) => {
                self.broken_in_a_row = 0;
                self.show(image);
            }
            Ok(None) => {}
            Err(ReadError::Skip(reason)) => {
                self.order.give_up(sample.composition, reason);
                self.broken_in_a_row += 1;
            }
            Err(ReadError::End(reason)) => {
                self.forget_from(&sample);
                self.end_broken(reason);
                return true;
            }
        }
        if self.order.waiting > MAX_REORDERED {
            self.order
                .give_up_first("the decoder gave no picture for it");
            self.broken_in_a_row += 1;
        }
        if self.broken_in_a_row >= MAX_BROKEN_IN_A_ROW {
            self.end_broken(format!(
                "{MAX_BROKEN_IN_A_ROW} frames in a row cannot be decoded"
            ));
        }
        true
    }

    /// The next sample to decode. At the end, what the decoder still holds is made ready.
    fn next_sample(&mut self) -> Option<Sample> {
        if let Some(sample) = self.ahead.pop_front() {
            return Some(sample);
        }
        if let State::Ended(_) = self.state {
            self.drain();
            return None;
        }
        match self.samples.next() {
            Ok(Some(sample)) => Some(sample),
            Ok(None) => {
                self.state = State::Ended(None);
                self.drain();
                None
            }
            Err(reason) => {
                self.end_broken(reason);
                None
            }
        }
    }

    /// The file breaks off at `sample`: forgets all that would be shown after a picture that is
    /// missing, so that what was handed out is whole up to the break.
    fn forget_from(&mut self, sample: &Sample) {
        self.order.withdraw(sample.composition);
        let mut missing = sample.composition;
        for _ in 0..MAX_REORDERED {
            let next = match self.ahead.pop_front() {
                Some(next) => next,
                None => match self.samples.next() {
                    Ok(Some(next)) => next,
                    Ok(None) | Err(_) => break,
                },
            };
            missing = missing.min(next.composition);
        }
        self.order.forget_from(missing);
    }

    /// Hands out what was decoded and ends with an error after it.
    fn end_broken(&mut self, reason: String) {
        self.drain();
        self.ahead.clear();
        let frame = self.order.number + 1;
        self.state = State::Ended(Some(self.broken(frame, reason)));
    }

    fn broken(&self, frame: u64, reason: String) -> SourceError {
        SourceError::Broken {
            path: self.path.clone(),
            frame,
            reason,
        }
    }

    fn decode(&mut self, sample: &Sample) -> Result<Option<RgbImage>, ReadError> {
        self.annex_b.clear();
        if self.entry != Some(sample.entry) {
            self.change_entry(sample.entry).map_err(ReadError::Skip)?;
        }
        let mut bytes = std::mem::take(&mut self.sample_bytes);
        let read = self.samples.read(sample, &mut bytes);
        self.sample_bytes = bytes;
        read?;
        h264::push_sample(
            &mut self.annex_b,
            &self.sample_bytes,
            self.length_size,
            &mut self.colours,
        )
        .map_err(ReadError::Skip)?;
        let decoded = self.decoder.decode(&self.annex_b);
        let picture = decoded.map_err(|error| ReadError::Skip(format!("H.264: {error}")))?;
        let turns = self.samples.quarter_turns;
        match picture {
            Some(picture) => to_image(&picture, self.colours, turns)
                .map(Some)
                .map_err(ReadError::Skip),
            None => Ok(None),
        }
    }

    /// Prepares the decoder for samples of another sample entry.
    fn change_entry(&mut self, entry: usize) -> Result<(), String> {
        let config = self.samples.avc_config(entry)?;
        let mut colours = self.colours;
        for nal in &config.sps_list {
            let sps = h264::Sps::parse(nal).ok_or("a sequence parameter set that breaks off")?;
            sps.check_supported()?;
            colours = sps.colours;
            h264::push_nal(&mut self.annex_b, nal);
        }
        for nal in &config.pps_list {
            h264::push_nal(&mut self.annex_b, nal);
        }
        self.colours = colours;
        self.length_size = usize::from(config.length_size_minus_one.get()) + 1;
        self.entry = Some(entry);
        Ok(())
    }

    /// Gives a picture the earliest time that waits for one.
    fn show(&mut self, image: RgbImage) {
        let Some((number, composition)) = self.order.next_shown(&mut self.skipped) else {
            // More pictures than samples: the stream repeats itself; there is no time for it.
            return;
        };
        // Sizes change within a file only when it was joined from several.
        if self.info.size != (0, 0) && image.dimensions() != self.info.size {
            let (width, height) = image.dimensions();
            self.skipped
                .add(number, format!("its size changes to {width}x{height}"));
            return;
        }
        let ticks = composition.saturating_sub(self.order.start).max(0);
        let seconds = ticks as f64 / f64::from(self.samples.timescale);
        self.ready.push_back(Frame {
            number,
            timestamp: Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX),
            image,
            jpeg: None,
        });
    }

    /// Takes out of the decoder what it still holds.
    fn drain(&mut self) {
        let colours = self.colours;
        let turns = self.samples.quarter_turns;
        let mut images = Vec::new();
        if let Ok(pictures) = self.decoder.flush_remaining() {
            for picture in &pictures {
                images.push(to_image(picture, colours, turns));
            }
        }
        for image in images.into_iter().flatten() {
            self.show(image);
        }
        self.order.give_up_rest(&mut self.skipped);
    }
}

impl FrameSource for Mp4Source {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn next_frame(&mut self) -> Result<Option<Frame>, SourceError> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Ok(Some(frame));
            }
            if self.advance() {
                continue;
            }
            if self.ready.is_empty() {
                return match &mut self.state {
                    State::Ended(error) => error.take().map_or(Ok(None), Err),
                    State::Reading => Ok(None),
                };
            }
        }
    }

    fn skipped(&self) -> &SkipCounts {
        &self.skipped
    }
}

fn new_decoder() -> Result<Decoder, String> {
    // Flushing after each sample would hand out pictures before their turn.
    let config = DecoderConfig::new().flush_after_decode(Flush::NoFlush);
    Decoder::with_api_config(OpenH264API::from_source(), config).map_err(|error| error.to_string())
}

fn to_image(picture: &DecodedYUV<'_>, colours: Colours, turns: u8) -> Result<RgbImage, String> {
    let (width, height) = picture.dimensions();
    check_size(width as u64, height as u64)?;
    let (y_stride, uv_stride, _) = picture.strides();
    let planes = Planes {
        y: picture.y(),
        u: picture.u(),
        v: picture.v(),
        y_stride,
        uv_stride,
        width,
        height,
    };
    let image = yuv::to_rgb(&planes, colours).ok_or("the decoder gave less than a picture")?;
    Ok(match turns {
        1 => imageops::rotate90(&image),
        2 => imageops::rotate180(&image),
        3 => imageops::rotate270(&image),
        _ => image,
    })
}

/// Which picture is shown when. The decoder gives pictures in display order without saying
/// which is which; samples come in decoding order with the time they are shown. So the next
/// picture belongs to the earliest sample that has none, and samples that gave no picture
/// keep their place and number.
#[derive(Debug, Default)]
struct DisplayOrder {
    /// Time of the first picture, in ticks.
    start: i64,
    /// Number of the last frame that was shown or skipped.
    number: u64,
    /// Samples by time of display and order of arrival; a reason means broken.
    pending: BTreeMap<(i64, u64), Option<String>>,
    /// Pending samples that are not broken.
    waiting: usize,
    entered: u64,
}

impl DisplayOrder {
    fn enter(&mut self, composition: i64) {
        self.entered += 1;
        self.pending.insert((composition, self.entered), None);
        self.waiting += 1;
    }

    /// Marks the sample that entered last as broken.
    fn give_up(&mut self, composition: i64, reason: String) {
        if let Some(entry) = self.pending.get_mut(&(composition, self.entered)) {
            *entry = Some(reason);
            self.waiting -= 1;
        }
    }

    /// Forgets the sample that entered last.
    fn withdraw(&mut self, composition: i64) {
        if let Some(None) = self.pending.remove(&(composition, self.entered)) {
            self.waiting -= 1;
        }
    }

    /// Forgets all samples that are shown at `composition` or later.
    fn forget_from(&mut self, composition: i64) {
        let forgotten = self.pending.split_off(&(composition, 0));
        self.waiting -= forgotten.values().filter(|broken| broken.is_none()).count();
    }

    /// Marks the earliest waiting sample as broken.
    fn give_up_first(&mut self, reason: &str) {
        if let Some(entry) = self.pending.values_mut().find(|entry| entry.is_none()) {
            *entry = Some(reason.to_string());
            self.waiting -= 1;
        }
    }

    /// Number and time of the next picture; broken samples before it are counted.
    fn next_shown(&mut self, skipped: &mut SkipCounts) -> Option<(u64, i64)> {
        while let Some(((composition, _), broken)) = self.pending.pop_first() {
            self.number += 1;
            match broken {
                Some(reason) => skipped.add(self.number, reason),
                None => {
                    self.waiting -= 1;
                    return Some((self.number, composition));
                }
            }
        }
        None
    }

    /// Counts everything that is left as skipped.
    fn give_up_rest(&mut self, skipped: &mut SkipCounts) {
        while let Some((_, broken)) = self.pending.pop_first() {
            self.number += 1;
            let reason = broken.unwrap_or_else(|| "the decoder gave no picture for it".to_string());
            skipped.add(self.number, reason);
        }
        self.waiting = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_get_their_times_in_display_order() {
        // Decoding order I P B B, shown I B B P; the second B is broken.
        let mut order = DisplayOrder::default();
        let mut skipped = SkipCounts::default();
        order.enter(0);
        assert_eq!(order.next_shown(&mut skipped), Some((1, 0)));
        order.enter(3);
        order.enter(1);
        assert_eq!(order.next_shown(&mut skipped), Some((2, 1)));
        order.enter(2);
        order.give_up(2, "torn".to_string());
        assert_eq!(order.next_shown(&mut skipped), Some((4, 3)));
        assert_eq!(skipped.count, 1);
        assert_eq!(skipped.examples[0].number, 3);
        assert_eq!(order.waiting, 0);
    }
}
