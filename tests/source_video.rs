//! Videos in: pixels and times against FFmpeg's, damaged and hostile files, the way to `ffmpeg`.
//!
//! Expected checksums come from `tests/oracle/source/make_goldens.py`.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use image::RgbImage;
use mtmc::source::{self, Frame, FrameSource, Mp4Source, OpenOptions, SourceError, VideoDecoder};
use mtmc_models::testing::{has_ffmpeg, shared};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    size: (u32, u32),
    count: Option<usize>,
    times: Option<Vec<f64>>,
    checksums: BTreeMap<usize, (u64, u64)>,
}

fn oracle(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/oracle/source")
        .join(name)
}

fn golden(name: &str) -> Golden {
    let text = std::fs::read_to_string(oracle("goldens.json")).unwrap();
    let mut all: BTreeMap<String, Golden> = serde_json::from_str(&text).unwrap();
    all.remove(name).unwrap()
}

/// Sum of bytes, and sum of byte × (position mod 65521), as the oracle makes it.
fn checksum(image: &RgbImage) -> (u64, u64) {
    let mut sums = (0, 0);
    for (position, &byte) in image.as_raw().iter().enumerate() {
        sums.0 += u64::from(byte);
        sums.1 += u64::from(byte) * (position as u64 % 65521);
    }
    sums
}

fn collect(source: &mut dyn FrameSource) -> (Vec<Frame>, Option<SourceError>) {
    let mut frames = Vec::new();
    loop {
        match source.next_frame() {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) => return (frames, None),
            Err(error) => {
                assert!(source.next_frame().unwrap().is_none(), "the error repeats");
                return (frames, Some(error));
            }
        }
    }
}

fn with_decoder(decoder: VideoDecoder) -> OpenOptions {
    OpenOptions {
        decoder,
        ..OpenOptions::default()
    }
}

/// Every frame of a small clip has the pixels and the time that FFmpeg gives it.
fn assert_equals_golden(name: &str, decoder: VideoDecoder) {
    let golden = golden(name);
    let mut source = source::open(oracle(name).to_str().unwrap(), &with_decoder(decoder)).unwrap();
    assert_eq!(source.info().size, golden.size);
    assert_eq!(source.info().name, name.trim_end_matches(".mp4"));
    assert!(
        (source.info().frame_rate.unwrap() - 25.0).abs() < 0.3,
        "{:?}",
        source.info()
    );
    let (frames, error) = collect(source.as_mut());
    assert!(error.is_none(), "{error:?}");
    assert_eq!(source.skipped().count, 0, "{:?}", source.skipped());
    assert_eq!(frames.len(), golden.checksums.len());
    let times = golden.times.unwrap();
    for (index, frame) in frames.iter().enumerate() {
        assert_eq!(frame.number, index as u64 + 1);
        assert_eq!(
            checksum(&frame.image),
            golden.checksums[&index],
            "{name}, frame {index}"
        );
        let time = frame.timestamp.as_secs_f64();
        assert!(
            (time - times[index]).abs() < 1e-4,
            "frame {index} at {time}"
        );
    }
}

#[test]
fn b_frames_come_in_display_order() {
    assert_equals_golden("bframes.mp4", VideoDecoder::BuiltIn);
}

#[test]
fn fragmented_files_are_read() {
    assert_equals_golden("fragments.mp4", VideoDecoder::BuiltIn);
}

#[test]
fn colours_follow_the_stream() {
    assert_equals_golden("bt709_full.mp4", VideoDecoder::BuiltIn);
}

#[test]
fn ffmpeg_gives_the_same() {
    if has_ffmpeg() {
        assert_equals_golden("bframes.mp4", VideoDecoder::Ffmpeg);
    }
}

#[test]
fn lengths_are_known_before() {
    for (name, count) in [
        ("bframes.mp4", 40),
        ("fragments.mp4", 40),
        ("bt709_full.mp4", 5),
    ] {
        let source = Mp4Source::open(&oracle(name)).unwrap();
        assert_eq!(source.info().frame_count, Some(count), "{name}");
    }
}

/// 1,394 real frames in H.264 Main profile, decoded without an installed program.
#[test]
fn a_real_mp4_equals_ffmpeg() {
    let name = "data/intel-samples/one-by-one-person-detection.mp4";
    let Some(path) = shared(name) else { return };
    assert_real_video(&path, &golden(name), VideoDecoder::BuiltIn);
}

/// 795 real frames in AVI, through `ffmpeg`.
#[test]
fn a_real_avi_goes_through_ffmpeg() {
    let name = "data/vtest-pets09-s2l1/vtest.avi";
    let Some(path) = shared(name) else { return };
    if has_ffmpeg() {
        assert_real_video(&path, &golden(name), VideoDecoder::Auto);
    }
}

/// An MP4 whose video isn't H.264 (MPEG-4 part 2): refused by the built-in reader, by name of
/// the codec, and read through `ffmpeg`.
#[test]
fn other_codecs_go_through_ffmpeg() {
    let folder = "data/detect-images/mmpose/posetrack18/videos/000001_mpiinew_test";
    let Some(folder) = shared(folder) else { return };
    let path = folder.join("000001_mpiinew_test.mp4");
    let error = Mp4Source::open(&path).unwrap_err().to_string();
    assert!(error.contains("'mp4v'"), "{error}");
    if has_ffmpeg() {
        let mut source = source::open(path.to_str().unwrap(), &OpenOptions::default()).unwrap();
        assert_eq!(source.info().size, (1280, 720));
        let (frames, error) = collect(source.as_mut());
        assert!(error.is_none(), "{error:?}");
        assert_eq!(frames.len(), 5);
    }
}

fn assert_real_video(path: &Path, golden: &Golden, decoder: VideoDecoder) {
    let mut source = source::open(path.to_str().unwrap(), &with_decoder(decoder)).unwrap();
    assert_eq!(source.info().size, golden.size);
    assert_eq!(
        source.info().frame_count,
        golden.count.map(|count| count as u64)
    );
    assert_eq!(source.info().frame_rate, Some(10.0));
    let mut count = 0;
    while let Some(frame) = source.next_frame().unwrap() {
        if let Some(expected) = golden.checksums.get(&count) {
            assert_eq!(checksum(&frame.image), *expected, "frame {count}");
        }
        assert!((frame.timestamp.as_secs_f64() - count as f64 / 10.0).abs() < 1e-4);
        count += 1;
    }
    assert_eq!(Some(count), golden.count);
    assert_eq!(source.skipped().count, 0);
}

fn write(folder: &tempfile::TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// Wherever a fragmented file breaks off, what comes before is read and the end is told.
#[test]
fn a_cut_fragmented_file_gives_what_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let whole = std::fs::read(oracle("fragments.mp4")).unwrap();
    let expected = golden("fragments.mp4").checksums;
    let mut most = 0;
    for length in (0..whole.len()).step_by(97) {
        let path = write(&folder, "cut.mp4", &whole[..length]);
        let mut source = match Mp4Source::open(&path) {
            Ok(source) => source,
            Err(error) => {
                assert!(error.to_string().contains("cut.mp4"), "{error}");
                continue;
            }
        };
        let (frames, error) = collect(&mut source);
        for frame in &frames {
            let index = frame.number as usize - 1;
            assert_eq!(checksum(&frame.image), expected[&index], "cut at {length}");
        }
        // Cuts between fragments leave a whole file; all others are told.
        if let Some(error) = error {
            let text = error.to_string();
            assert!(
                text.contains("cut.mp4") && text.contains("frame "),
                "{text}"
            );
        } else {
            assert_eq!(
                frames.len() % 10,
                0,
                "cut at {length} gives {}",
                frames.len()
            );
        }
        most = most.max(frames.len());
    }
    assert!(most >= 38, "at most {most} frames of 40");
}

/// A file whose index is at its end, cut short: told by name, with nothing made up.
#[test]
fn a_cut_plain_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let whole = std::fs::read(oracle("bframes.mp4")).unwrap();
    for length in (0..whole.len()).step_by(61) {
        let path = write(&folder, "cut.mp4", &whole[..length]);
        let error = Mp4Source::open(&path).unwrap_err().to_string();
        assert!(error.contains("cut.mp4"), "{error}");
    }
}

/// Damage in the middle of the pictures: some are skipped, with their number and the reason,
/// the rest is read, and no number is given twice.
#[test]
fn damaged_pictures_are_skipped_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = std::fs::read(oracle("bframes.mp4")).unwrap();
    let media = bytes.windows(4).position(|four| four == b"mdat").unwrap();
    // Overwrites the lengths of some units in the second half of the media data, where the
    // second group of pictures lies.
    let middle = media + (bytes.len() - media) / 3;
    bytes[middle..middle + 200].fill(0xFF);
    let path = write(&folder, "damaged.mp4", &bytes);
    let mut source = Mp4Source::open(&path).unwrap();
    let (frames, error) = collect(&mut source);
    assert!(error.is_none(), "{error:?}");
    let skipped = source.skipped();
    assert!(skipped.count > 0);
    assert_eq!(frames.len() as u64 + skipped.count, 40);
    let mut numbers: Vec<u64> = frames.iter().map(|frame| frame.number).collect();
    numbers.extend(skipped.examples.iter().map(|skipped| skipped.number));
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=40).collect::<Vec<_>>());
    let expected = golden("bframes.mp4").checksums;
    assert_eq!(checksum(&frames[0].image), expected[&0]);
}

#[test]
fn nothing_there_is_told_plainly() {
    let error = source::open("/nowhere/at/all.mp4", &OpenOptions::default())
        .err()
        .unwrap();
    assert_eq!(
        error.to_string(),
        "/nowhere/at/all.mp4: no such file or folder"
    );
}

#[test]
fn garbage_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let garbage: Vec<u8> = (0..5000_u32)
        .map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()[0])
        .collect();
    for (name, bytes) in [
        ("empty.mp4", &[][..]),
        ("noise.mp4", &garbage),
        ("a.avi", &garbage),
    ] {
        let path = write(&folder, name, bytes);
        let error = source::open(path.to_str().unwrap(), &OpenOptions::default())
            .err()
            .unwrap();
        assert!(error.to_string().contains(name), "{error}");
    }
}

/// Small random steps, the same in every run (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % bound
    }
}

/// Thousands of damaged files: no panic, no endless loop, never more frames than a file of
/// this size can hold. Half of the damage hits the index, where the lengths and counts are.
#[test]
fn mutated_files_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mutated.mp4");
    let mut random = Random(0x5EED);
    for name in ["bframes.mp4", "fragments.mp4"] {
        let original = std::fs::read(oracle(name)).unwrap();
        let index = original
            .windows(4)
            .position(|four| four == b"moov")
            .unwrap();
        let index_length = (original.len() - index).min(1500);
        for _ in 0..rounds() {
            let mut bytes = original.clone();
            for _ in 0..=random.below(4) {
                let at = if random.below(2) == 0 {
                    index + random.below(index_length)
                } else {
                    random.below(bytes.len())
                };
                match random.below(4) {
                    0 => bytes[at] = random.below(256) as u8,
                    1 => bytes[at] ^= 1 << random.below(8),
                    2 => bytes[at..].iter_mut().take(4).for_each(|byte| *byte = 0xFF),
                    _ => bytes.truncate(at.max(1)),
                }
                if bytes.len() < original.len() {
                    break;
                }
            }
            std::fs::write(&path, &bytes).unwrap();
            if let Ok(mut source) = Mp4Source::open(&path) {
                let (frames, _) = collect(&mut source);
                let seen = frames.len() as u64 + source.skipped().count;
                assert!(seen <= 3000, "{seen} frames");
            }
        }
    }
}

/// Enough to find a slip, few enough for every run; `MTMC_MUTATIONS` asks for more.
fn rounds() -> usize {
    let asked = std::env::var("MTMC_MUTATIONS").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(300)
}
