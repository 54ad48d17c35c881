//! Annotated video: H.264 by OpenH264 in a fragmented MP4.
//!
//! Fragments are written as they fill, each with its own index, so memory does not grow with
//! the length of the video and a file that was never finished plays up to its last fragment.

use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use image::{RgbImage, imageops};
use openh264::OpenH264API;
use openh264::encoder::{
    EncodedBitStream, Encoder, EncoderConfig, FrameRate, FrameType, IntraFramePeriod, QpRange,
    RateControlMode, VuiConfig,
};
use openh264::formats::YUVSlices;
use shiguredo_mp4::boxes::{Avc1Box, AvccBox, MoovBox, SampleEntry, VisualSampleEntryFields};
use shiguredo_mp4::mux::{Fmp4SegmentMuxer, Sample};
use shiguredo_mp4::{Decode, Encode, TrackKind, Uint};

use super::part::PartFile;
use super::{FrameResult, Sink, SinkError, Written, track_labels};
use crate::annotate::Annotator;
use crate::source::yuv::{Colours, Picture};

/// Units of time in a second: divides all common frame rates.
const TIMESCALE: u32 = 90_000;

/// Longest time that one frame is shown, in seconds; gaps in a stream beyond it are closed.
const MAX_FRAME_SECONDS: f64 = 60.0;

/// Seconds from one key frame, and fragment, to the next.
const FRAGMENT_SECONDS: f64 = 2.0;

/// Quantiser of all frames: visually clean, about one bit in ten pixels for street scenes.
const QUANTISER: u8 = 26;

/// Largest frame that OpenH264 encodes; larger ones are halved until they fit.
const MAX_LONG_SIDE: u32 = 3840;
const MAX_SHORT_SIDE: u32 = 2160;

/// Smallest side that OpenH264 encodes.
const MIN_SIDE: usize = 16;

/// Writes frames with their tracks drawn on them as an MP4.
///
/// The size is that of the first frame. H.264 needs even sides of at least 16 pixels: an odd
/// frame grows by one column or row that repeats its last, smaller ones likewise; frames larger
/// than 3840×2160 are halved. A later frame of another size is put at the upper left, cut or
/// carried on in the same way. Each frame is shown until the next one's timestamp; the last as
/// long as the frame rate says. A video without frames leaves no file.
pub struct VideoSink {
    file: PartFile,
    annotator: Annotator,
    frame_rate: f64,
    /// Made for the size of the first frame.
    encoder: Option<Encoder>,
    muxer: Option<Fmp4SegmentMuxer>,
    /// What was written at the file's start.
    header: Vec<u8>,
    /// Parameter sets, once the first key frame has brought them.
    entry: Option<SampleEntry>,
    /// The frames of the fragment being filled.
    fragment: Vec<Coded>,
    canvas: RgbImage,
    picture: Picture,
    /// Total time written, in units of [`TIMESCALE`].
    written: u64,
}

/// One coded frame.
struct Coded {
    data: Vec<u8>,
    key: bool,
    timestamp: Duration,
}

impl std::fmt::Debug for VideoSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VideoSink")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

impl VideoSink {
    /// Begins the file at `path`; `frame_rate` is in frames a second.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn create(path: &Path, frame_rate: f64) -> Result<Self, SinkError> {
        let usable = frame_rate.is_finite() && frame_rate > 0.0;
        let frame_rate = if usable {
            frame_rate.clamp(0.1, 1000.0)
        } else {
            30.0
        };
        Ok(Self {
            file: PartFile::create(path)?,
            annotator: Annotator::new(),
            frame_rate,
            encoder: None,
            muxer: None,
            header: Vec::new(),
            entry: None,
            fragment: Vec::new(),
            canvas: RgbImage::new(0, 0),
            picture: Picture::new(0, 0),
            written: 0,
        })
    }

    /// Draws the frame and converts it to what the encoder takes.
    fn draw(&mut self, result: &FrameResult<'_>) {
        self.canvas.clone_from(result.image);
        self.annotator
            .annotate(&mut self.canvas, &track_labels(result));
        while too_large(self.canvas.dimensions()) {
            let (width, height) = self.canvas.dimensions();
            self.canvas = imageops::thumbnail(&self.canvas, width.div_ceil(2), height.div_ceil(2));
        }
        if self.encoder.is_none() {
            let side = |side: u32| (side as usize).next_multiple_of(2).max(MIN_SIDE);
            self.picture = Picture::new(side(self.canvas.width()), side(self.canvas.height()));
        }
        let colours = if is_high_definition(&self.picture) {
            Colours::BT709
        } else {
            Colours::BT601
        };
        self.picture.fill(&self.canvas, colours);
    }

    /// Encodes the drawn frame; `None` if the encoder left it out.
    fn encode(&mut self, result: &FrameResult<'_>) -> Result<Option<Coded>, String> {
        let Picture {
            width,
            height,
            y,
            u,
            v,
        } = &self.picture;
        let slices = YUVSlices::new((y, u, v), (*width, *height), (*width, width / 2, width / 2));
        let encoder = match &mut self.encoder {
            Some(encoder) => encoder,
            none => none.insert(new_encoder(
                self.frame_rate,
                is_high_definition(&self.picture),
            )?),
        };
        let coded = encoder.encode(&slices).map_err(|error| error.to_string())?;
        let units = Units::of(&coded);
        if units.data.is_empty() {
            return Ok(None);
        }
        let key = coded.frame_type() == FrameType::IDR;
        if self.entry.is_none() {
            self.entry = Some(units.sample_entry(*width, *height)?);
        }
        Ok(Some(Coded {
            data: units.data,
            key,
            timestamp: result.timestamp,
        }))
    }

    /// Writes the collected frames; `next` is when the frame after them is shown.
    fn write_fragment(&mut self, next: Option<Duration>) -> Result<(), SinkError> {
        if self.fragment.is_empty() {
            return Ok(());
        }
        let fragment = std::mem::take(&mut self.fragment);
        let mut samples = Vec::with_capacity(fragment.len());
        let mut offset = 0;
        for (index, coded) in fragment.iter().enumerate() {
            let next = fragment
                .get(index + 1)
                .map(|after| after.timestamp)
                .or(next);
            let duration = self.ticks_until(coded.timestamp, next);
            self.written += u64::from(duration);
            samples.push(Sample {
                track_kind: TrackKind::Video,
                sample_entry: self.entry.clone(),
                keyframe: coded.key,
                timescale: TIMESCALE_NON_ZERO,
                duration,
                composition_time_offset: None,
                data_offset: offset,
                data_size: coded.data.len(),
            });
            offset += coded.data.len() as u64;
        }
        self.mux(&samples)
            .map_err(|reason| SinkError::encode(self.file.path(), samples.len() as u64, &reason))
            .and_then(|index| self.file.write(&index))?;
        for coded in &fragment {
            self.file.write(&coded.data)?;
        }
        self.file.flush()
    }

    /// The bytes that go before the fragment's data; with the file's header, the first time.
    fn mux(&mut self, samples: &[Sample]) -> Result<Vec<u8>, String> {
        let muxer = match &mut self.muxer {
            Some(muxer) => muxer,
            none => none.insert(Fmp4SegmentMuxer::new().map_err(|error| error.to_string())?),
        };
        let index = muxer
            .create_media_segment_metadata(samples)
            .map_err(|error| error.to_string())?;
        if !self.header.is_empty() {
            return Ok(index);
        }
        self.header = muxer
            .init_segment_bytes()
            .map_err(|error| error.to_string())?;
        Ok([self.header.as_slice(), &index].concat())
    }

    /// How long a frame is shown, in units of [`TIMESCALE`]. Counted from time zero, so that
    /// rounding does not add up.
    fn ticks_until(&self, shown: Duration, next: Option<Duration>) -> u32 {
        let ticks = |seconds: f64| (seconds * f64::from(TIMESCALE)).round();
        let start = shown.as_secs_f64();
        let end = next.map_or(start + 1.0 / self.frame_rate, |next| next.as_secs_f64());
        let longest = f64::from(TIMESCALE) * MAX_FRAME_SECONDS;
        (ticks(end) - ticks(start)).clamp(1.0, longest) as u32
    }

    /// Puts the length of the video, now known, into the file's header.
    fn write_length(&mut self) -> Result<(), SinkError> {
        if let Some(header) = header_with_length(&self.header, self.written) {
            self.file.overwrite_start(&header)?;
        }
        Ok(())
    }
}

impl Sink for VideoSink {
    fn write(&mut self, result: &FrameResult<'_>) -> Result<(), SinkError> {
        self.draw(result);
        let number = result.frame_number;
        let coded = match self.encode(result) {
            Ok(Some(coded)) => coded,
            Ok(None) => return Ok(()),
            Err(reason) => return Err(SinkError::encode(self.file.path(), number, &reason)),
        };
        if coded.key {
            self.write_fragment(Some(coded.timestamp))?;
        }
        self.fragment.push(coded);
        Ok(())
    }

    /// The file plays up to here then. Its next frame is a key frame; at rates that vary, the
    /// latest one is shown for as long as the frame rate says.
    fn checkpoint(&mut self) -> Result<Option<Written>, SinkError> {
        self.write_fragment(None)?;
        if let Some(encoder) = &mut self.encoder {
            encoder.force_intra_frame();
        }
        self.file.checkpoint().map(Some)
    }

    fn finish(mut self: Box<Self>) -> Result<(), SinkError> {
        self.write_fragment(None)?;
        if self.header.is_empty() {
            return self.file.discard();
        }
        self.write_length()?;
        self.file.finish()
    }
}

const TIMESCALE_NON_ZERO: NonZeroU32 = match NonZeroU32::new(TIMESCALE) {
    Some(timescale) => timescale,
    None => NonZeroU32::MIN,
};

fn new_encoder(frame_rate: f64, high_definition: bool) -> Result<Encoder, String> {
    let period = (frame_rate * FRAGMENT_SECONDS).round().clamp(1.0, 300.0) as u32;
    let config = EncoderConfig::new()
        .rate_control_mode(RateControlMode::Off)
        .qp(QpRange::new(QUANTISER, QUANTISER))
        .skip_frames(false)
        .max_frame_rate(FrameRate::from_hz(frame_rate as f32))
        .intra_frame_period(IntraFramePeriod::from_num_frames(period))
        .scene_change_detect(false)
        .vui(if high_definition {
            VuiConfig::bt709()
        } else {
            VuiConfig::bt601()
        })
        .num_threads(1);
    Encoder::with_api_config(OpenH264API::from_source(), config).map_err(|error| error.to_string())
}

fn too_large((width, height): (u32, u32)) -> bool {
    width.max(height) > MAX_LONG_SIDE || width.min(height) > MAX_SHORT_SIDE
}

/// BT.709 from 720 rows on, BT.601 below: the file says so, and players that do not look
/// assume it.
fn is_high_definition(picture: &Picture) -> bool {
    picture.height >= 720
}

/// The NAL units of one coded frame.
struct Units {
    sps: Vec<u8>,
    pps: Vec<u8>,
    /// The others, each behind its length in four bytes, as an MP4 holds them.
    data: Vec<u8>,
}

impl Units {
    fn of(coded: &EncodedBitStream<'_>) -> Self {
        let mut units = Self {
            sps: Vec::new(),
            pps: Vec::new(),
            data: Vec::new(),
        };
        for index in 0..coded.num_layers() {
            let Some(layer) = coded.layer(index) else {
                continue;
            };
            for unit in 0..layer.nal_count() {
                units.add(without_start_code(layer.nal_unit(unit).unwrap_or(&[])));
            }
        }
        units
    }

    fn add(&mut self, nal: &[u8]) {
        const SPS: u8 = 7;
        const PPS: u8 = 8;
        match nal.first().map(|header| header & 0x1F) {
            None => {}
            Some(SPS) => self.sps = nal.to_vec(),
            Some(PPS) => self.pps = nal.to_vec(),
            Some(_) => {
                self.data
                    .extend_from_slice(&(nal.len() as u32).to_be_bytes());
                self.data.extend_from_slice(nal);
            }
        }
    }

    /// The description of the stream: size and parameter sets.
    fn sample_entry(&self, width: usize, height: usize) -> Result<SampleEntry, String> {
        let &[_, profile, compatibility, level, ..] = self.sps.as_slice() else {
            return Err("the encoder began without a sequence parameter set".to_string());
        };
        let high = profile == 100;
        Ok(SampleEntry::Avc1(Avc1Box {
            visual: VisualSampleEntryFields {
                data_reference_index: VisualSampleEntryFields::DEFAULT_DATA_REFERENCE_INDEX,
                width: width as u16,
                height: height as u16,
                horizresolution: VisualSampleEntryFields::DEFAULT_HORIZRESOLUTION,
                vertresolution: VisualSampleEntryFields::DEFAULT_VERTRESOLUTION,
                frame_count: VisualSampleEntryFields::DEFAULT_FRAME_COUNT,
                compressorname: VisualSampleEntryFields::NULL_COMPRESSORNAME,
                depth: VisualSampleEntryFields::DEFAULT_DEPTH,
            },
            avcc_box: AvccBox {
                avc_profile_indication: profile,
                profile_compatibility: compatibility,
                avc_level_indication: level,
                length_size_minus_one: Uint::new(3),
                sps_list: vec![self.sps.clone()],
                pps_list: vec![self.pps.clone()],
                chroma_format: high.then_some(Uint::new(1)),
                bit_depth_luma_minus8: high.then_some(Uint::new(0)),
                bit_depth_chroma_minus8: high.then_some(Uint::new(0)),
                sps_ext_list: Vec::new(),
            },
            unknown_boxes: Vec::new(),
        }))
    }
}

fn without_start_code(nal: &[u8]) -> &[u8] {
    let nal = nal.strip_prefix(&[0, 0, 0, 1]).unwrap_or(nal);
    nal.strip_prefix(&[0, 0, 1]).unwrap_or(nal)
}

/// The file's header (`ftyp`, `moov`) with the video's length filled in, if that leaves its size.
fn header_with_length(header: &[u8], ticks: u64) -> Option<Vec<u8>> {
    let moov_at = u32::from_be_bytes(header.get(..4)?.try_into().ok()?) as usize;
    let (mut moov, _) = MoovBox::decode(header.get(moov_at..)?).ok()?;
    let movie_timescale = u64::from(moov.mvhd_box.timescale.get());
    let duration = ticks * movie_timescale / u64::from(TIMESCALE);
    let mehd = moov.mvex_box.as_mut()?.mehd_box.as_mut()?;
    mehd.fragment_duration = duration;
    let mut filled = header.get(..moov_at)?.to_vec();
    filled.extend(moov.encode_to_vec().ok()?);
    (filled.len() == header.len()).then_some(filled)
}
