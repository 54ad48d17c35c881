//! Detections in the text format of the MOT Challenge (`det.txt`).
//!
//! One detection a line: `frame, id, left, top, width, height, score` and whatever may follow,
//! separated by commas or blanks; frames count from 1, the ID is not read (it is -1). Lines may come
//! in any order. Source: MOT16, arXiv:1603.00831, table 6.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use mtmc_models::{BBox, Detection};

use super::FrameDetections;

/// The greatest frame number that is read: 11 hours at 25 frames a second.
pub const MAX_FRAME: u64 = 1_000_000;

/// Bytes of the longest line that is read.
const MAX_LINE: u64 = 1024;

/// Why a file of detections could not be read.
#[derive(Debug, thiserror::Error)]
pub enum MotError {
    /// The file could not be opened or read.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line does not hold a detection.
    #[error("{}, line {line}: {reason}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Number of the line, from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
}

impl MotError {
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io {
            path: path.to_path_buf(),
            source,
        }
    }
}

/// Reads a file of detections: frames 1 to the last that has one, also the empty ones between.
///
/// Within a frame the file's order is kept. All detections have class 0.
///
/// # Errors
/// The file cannot be read; a line has too few fields, a number that is none or not finite, or a
/// frame that is not in 1..=[`MAX_FRAME`]. The error names file and line.
pub fn read_detections(path: &Path) -> Result<Vec<FrameDetections>, MotError> {
    let file = File::open(path).map_err(|source| MotError::io(path, source))?;
    parse_detections(BufReader::new(file), path)
}

/// Like [`read_detections`], from text in memory or elsewhere; `path` is its name in errors.
///
/// # Errors
/// As [`read_detections`].
pub fn parse_detections(text: impl BufRead, path: &Path) -> Result<Vec<FrameDetections>, MotError> {
    let mut frames: Vec<FrameDetections> = Vec::new();
    read_lines(text, path, |content| {
        let (frame, detection) = parse_line(content)?;
        while (frames.len() as u64) < frame {
            frames.push(FrameDetections {
                frame: frames.len() as u64 + 1,
                ..FrameDetections::default()
            });
        }
        // `frame` is in 1..=frames.len() here.
        if let Some(entry) = frames.get_mut(frame as usize - 1) {
            entry.detections.push(detection);
        }
        Ok(())
    })?;
    Ok(frames)
}

/// Hands every line that is not blank to `each`; `path` is the text's name in errors.
///
/// # Errors
/// The text cannot be read, a line is longer than any of this format or no text, or `each` says
/// what is wrong with it. The error names file and line.
pub(crate) fn read_lines(
    text: impl BufRead,
    path: &Path,
    mut each: impl FnMut(&str) -> Result<(), String>,
) -> Result<(), MotError> {
    let mut lines = Lines::new(text, path);
    while let Some(content) = lines.next_line()? {
        each(content).map_err(|reason| MotError::Line {
            path: path.to_path_buf(),
            line: lines.number,
            reason,
        })?;
    }
    Ok(())
}

/// A text's lines that are not blank, one at a time.
#[derive(Debug)]
pub(crate) struct Lines<R> {
    text: R,
    path: PathBuf,
    /// Number of the latest line, from 1.
    number: u64,
    bytes: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    /// Of a text that is called `path` in errors.
    pub(crate) fn new(text: R, path: &Path) -> Self {
        Self {
            text,
            path: path.to_path_buf(),
            number: 0,
            bytes: Vec::new(),
        }
    }

    /// The next line without its end; `None` at the text's end.
    ///
    /// # Errors
    /// As [`read_lines`].
    pub(crate) fn next_line(&mut self) -> Result<Option<&str>, MotError> {
        loop {
            self.bytes.clear();
            self.number += 1;
            let mut limited = self.text.by_ref().take(MAX_LINE);
            let read = limited.read_until(b'\n', &mut self.bytes);
            let read = read.map_err(|source| MotError::io(&self.path, source))?;
            if read == 0 {
                return Ok(None);
            }
            if read as u64 == MAX_LINE && self.bytes.last() != Some(&b'\n') {
                return Err(self.error(format!("longer than {MAX_LINE} bytes")));
            }
            if !self.bytes.trim_ascii().is_empty() {
                break;
            }
        }
        match std::str::from_utf8(&self.bytes) {
            Ok(content) => Ok(Some(content.trim_end_matches(['\r', '\n']))),
            Err(_) => Err(self.error("not text".to_owned())),
        }
    }

    /// What is wrong with the latest line.
    pub(crate) fn error(&self, reason: String) -> MotError {
        MotError::Line {
            path: self.path.clone(),
            line: self.number,
            reason,
        }
    }
}

/// Frame number and detection of one line.
pub(crate) fn parse_line(line: &str) -> Result<(u64, Detection), String> {
    // Some write blanks instead of commas; fields are never empty then.
    let blanks = !line.contains(',');
    let separator = |c: char| {
        if blanks {
            c.is_ascii_whitespace()
        } else {
            c == ','
        }
    };
    let fields = line.split(separator).map(str::trim);
    let mut fields = fields.filter(|field| !(blanks && field.is_empty()));
    let frame = number(fields.next(), "frame")?;
    if frame.fract() != 0.0 || !(1.0..=MAX_FRAME as f64).contains(&frame) {
        return Err(format!(
            "frame {frame} is not a whole number in 1..={MAX_FRAME}"
        ));
    }
    if fields.next().is_none() {
        return Err("no id".to_owned());
    }
    let left = number(fields.next(), "left")? as f32;
    let top = number(fields.next(), "top")? as f32;
    let width = number(fields.next(), "width")? as f32;
    let height = number(fields.next(), "height")? as f32;
    let score = number(fields.next(), "score")? as f32;
    let detection = Detection {
        bbox: BBox::from_tlwh(left, top, width, height),
        score,
        class: 0,
    };
    Ok((frame as u64, detection))
}

fn number(field: Option<&str>, name: &str) -> Result<f64, String> {
    let Some(text) = field else {
        return Err(format!("no {name}"));
    };
    match text.parse::<f64>() {
        Ok(value) if (value as f32).is_finite() => Ok(value),
        _ => Err(format!("{name} `{text}` is not a number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<FrameDetections>, MotError> {
        parse_detections(text.as_bytes(), Path::new("det.txt"))
    }

    #[test]
    fn frames_without_detections_are_there() {
        let frames =
            parse("3,-1,10,20.5,30,40,0.9,-1,-1,-1\r\n\n1, -1, 1, 2, 3, 4, -0.5\n").unwrap();
        assert_eq!(frames.len(), 3);
        assert_eq!(
            [1, 2, 3],
            [frames[0].frame, frames[1].frame, frames[2].frame]
        );
        assert!(frames[1].detections.is_empty());
        assert_eq!(frames[0].detections[0].score, -0.5);
        let expected = BBox::from_xyxy(10.0, 20.5, 40.0, 60.5);
        assert_eq!(frames[2].detections[0].bbox, expected);
        assert!(parse("").unwrap().is_empty());
    }

    // A line of the CMC data, which has blanks; 264.2873 wide from 1494.107 on.
    #[test]
    fn blanks_separate_as_commas_do() {
        let frames =
            parse("1 -1 1.494107e+03  2.184673e+02 2.642873e+02 6.383836e+02 -1 -1 -1\n").unwrap();
        let found = &frames[0].detections[0];
        assert_eq!((found.bbox.x1, found.score), (1494.107, -1.0));
        assert!((found.bbox.x2 - 1758.3943).abs() < 1e-3);
    }

    #[test]
    fn bad_lines_are_named() {
        let cases = [
            ("1,-1,1,2,3,4", "line 1: no score"),
            (
                "1,-1,1,2,3,4,1\nx,-1,1,2,3,4,1",
                "line 2: frame `x` is not a number",
            ),
            ("1,-1,1,2,3,nan,1", "height `nan` is not a number"),
            ("1,-1,1,2,3,1e300,1", "height `1e300` is not a number"),
            ("0,-1,1,2,3,4,1", "frame 0 is not a whole number"),
            ("1.5,-1,1,2,3,4,1", "frame 1.5 is not a whole number"),
            ("99999999999,-1,1,2,3,4,1", "frame 99999999999 is not"),
            ("1", "no id"),
        ];
        for (text, expected) in cases {
            let message = parse(text).unwrap_err().to_string();
            assert!(message.starts_with("det.txt, line "), "{message}");
            assert!(message.contains(expected), "{message}");
        }
        let long = format!("1,-1,1,2,3,4,1{}", " ".repeat(2000));
        assert!(
            parse(&long)
                .unwrap_err()
                .to_string()
                .contains("longer than")
        );
        let binary = parse_detections(&[0xff_u8, 0xfe][..], Path::new("det.txt"));
        assert!(binary.unwrap_err().to_string().contains("not text"));
    }

    #[test]
    fn a_missing_file_is_named() {
        let message = read_detections(Path::new("no/such.txt"))
            .unwrap_err()
            .to_string();
        assert_eq!(message, "cannot read no/such.txt");
    }
}
