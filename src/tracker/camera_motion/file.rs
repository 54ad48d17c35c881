//! Motions computed beforehand, as BoT-SORT ships them for the MOT Challenge.
//!
//! One frame a line: its number, from 0, and the two rows of the map from the frame before,
//! `frame a b tx c d ty`, separated by blanks or tabs. The first frame's is the identity. A line
//! is read as what it says it is: numbers must follow each other.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use super::CameraMotion;
use crate::tracker::mot::{MAX_FRAME, MotError, read_lines};

/// Greatest absolute value of a number that is read: no frame is as large.
const MAX_VALUE: f64 = 1e6;

impl CameraMotion {
    /// Reads the motions of a sequence: entry 0 is of its first frame.
    ///
    /// # Errors
    /// The file cannot be read; a line has not seven numbers, one that is not finite or absurd, or
    /// is not of the frame that is its turn; there are more than [`MAX_FRAME`]. The error names
    /// file and line.
    pub fn read_file(path: &Path) -> Result<Vec<Self>, MotError> {
        let file = File::open(path).map_err(|source| MotError::io(path, source))?;
        Self::parse_file(BufReader::new(file), path)
    }

    /// Like [`CameraMotion::read_file`], from text in memory; `path` is its name in errors.
    ///
    /// # Errors
    /// As [`CameraMotion::read_file`].
    pub fn parse_file(text: impl BufRead, path: &Path) -> Result<Vec<Self>, MotError> {
        let mut motions = Vec::new();
        read_lines(text, path, |line| {
            if motions.len() as u64 >= MAX_FRAME {
                return Err(format!("more than {MAX_FRAME} frames"));
            }
            motions.push(parse_line(line, motions.len())?);
            Ok(())
        })?;
        Ok(motions)
    }
}

fn parse_line(line: &str, frame: usize) -> Result<CameraMotion, String> {
    let mut numbers = [0.0; 7];
    let mut count = 0;
    for field in line.split_whitespace() {
        let Some(number) = numbers.get_mut(count) else {
            return Err("more than 7 numbers".to_owned());
        };
        *number = match field.parse::<f64>() {
            Ok(value) if value.abs() <= MAX_VALUE => value,
            _ => return Err(format!("`{field}` is not a number in ±{MAX_VALUE}")),
        };
        count += 1;
    }
    if count < numbers.len() {
        return Err(format!("{count} numbers instead of 7"));
    }
    let [number, a, b, tx, c, d, ty] = numbers;
    if number != frame as f64 {
        return Err(format!("frame {number} instead of {frame}"));
    }
    Ok(CameraMotion {
        rows: [[a, b, tx], [c, d, ty]],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<CameraMotion>, MotError> {
        CameraMotion::parse_file(text.as_bytes(), Path::new("gmc.txt"))
    }

    #[test]
    fn lines_are_frames() {
        let text = "0\t1.0\t0.0\t0.0\t0.0\t1.0\t0.0\t\n1 1.004654 -0.003387 2.570496 0.003387 1.004654 -2.0065\r\n";
        let motions = parse(text).unwrap();
        assert_eq!(motions[0], CameraMotion::STILL);
        assert_eq!(
            motions[1].rows,
            [
                [1.004654, -0.003387, 2.570496],
                [0.003387, 1.004654, -2.0065]
            ]
        );
        assert!(parse("").unwrap().is_empty());
    }

    #[test]
    fn bad_lines_are_named() {
        let cases = [
            ("0 1 0 0 0 1", "gmc.txt, line 1: 6 numbers instead of 7"),
            ("0 1 0 0 0 1 0 0", "line 1: more than 7 numbers"),
            (
                "0 1 0 0 0 1 0\n1 1 0 nan 0 1 0",
                "line 2: `nan` is not a number",
            ),
            ("0 1 0 inf 0 1 0", "`inf` is not a number"),
            ("0 1 0 1e9 0 1 0", "`1e9` is not a number"),
            ("0 1 0 x 0 1 0", "`x` is not a number"),
            ("1 1 0 0 0 1 0", "line 1: frame 1 instead of 0"),
            (
                "0 1 0 0 0 1 0\n\n0 1 0 0 0 1 0",
                "line 3: frame 0 instead of 1",
            ),
        ];
        for (text, expected) in cases {
            let message = parse(text).unwrap_err().to_string();
            assert!(message.contains(expected), "{text:?}: {message}");
        }
        let missing = CameraMotion::read_file(Path::new("no/such.txt")).unwrap_err();
        assert!(missing.to_string().contains("no/such.txt"));
    }
}
