//! Boxes of several cameras in one file, a box a line: `camera, identity, frame, left, top, width,
//! height` in pixels, and the person's place on the ground `x, y` after them or not. Separated by
//! spaces, tabs or commas; frames count from 0 or from 1. This is how the AI City Challenge takes
//! results of its multi-camera track (2024).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use super::super::mot::{Boxes, read_numbers};
use super::map::{Places, check_frame, whole};
use crate::tracker::mot::{MotError, read_lines};

/// Columns of a line with a place.
pub(super) const WITH_PLACE: usize = 9;

/// Columns of a line without.
const WITHOUT_PLACE: usize = 7;

/// Frames of all cameras together, a bound against hostile numbers of frames and cameras: 20
/// minutes of 100 cameras at 25 frames a second, with room.
const MAX_FRAMES: u64 = 5_000_000;

/// What a file holds.
#[derive(Debug, Clone, Default)]
pub struct CameraLines {
    /// Boxes by camera. Frame n of the file is frame n + 1 here, since it may count from 0.
    pub cameras: BTreeMap<i64, Boxes>,
    /// Where everyone was, if the lines say so: the mean of what the cameras say of an identity in
    /// a frame. Frames as in `cameras`.
    pub places: Option<Places>,
}

/// One line's numbers.
pub(super) struct Line {
    camera: i64,
    id: i64,
    /// As the file has it.
    frame: f64,
    tlwh: [f64; 4],
    place: Option<[f64; 2]>,
}

impl Line {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut numbers = [0.0; WITH_PLACE];
        let columns = read_numbers(text, &mut numbers)?;
        if columns != WITH_PLACE && columns != WITHOUT_PLACE {
            return Err(format!(
                "{columns} columns; a box has {WITHOUT_PLACE} (camera, identity, frame, left, top, \
                 width, height) or {WITH_PLACE} (and its place x, y)"
            ));
        }
        let [camera, id, frame, left, top, width, height, x, y] = numbers;
        check_frame(frame, 0.0)?;
        Ok(Self {
            camera: whole(camera, "camera")?,
            id: whole(id, "identity")?,
            frame,
            tlwh: [left, top, width, height],
            place: (columns == WITH_PLACE).then_some([x, y]),
        })
    }
}

impl CameraLines {
    /// Reads a file.
    ///
    /// # Errors
    /// The file cannot be read; a line has another number of columns than 7 or 9, or than the first
    /// line; a number is none or not finite; a camera has an identity twice in a frame, or more than
    /// 2,000 boxes; all cameras together have more than 5 million frames. The error names file and
    /// line.
    pub fn read(path: &Path) -> Result<Self, MotError> {
        let file = File::open(path).map_err(|source| MotError::io(path, source))?;
        Self::parse(BufReader::new(file), path)
    }

    /// As [`CameraLines::read`], from text in memory or elsewhere; `path` is its name in errors.
    ///
    /// # Errors
    /// As [`CameraLines::read`].
    pub fn parse(text: impl BufRead, path: &Path) -> Result<Self, MotError> {
        let mut lines = Self::default();
        let mut means = Means::default();
        let mut total = 0;
        let mut placed = None;
        read_lines(text, path, |text| {
            let line = Line::parse(text)?;
            if *placed.get_or_insert(line.place.is_some()) != line.place.is_some() {
                return Err("a place in some lines and not in others".to_string());
            }
            lines.add(&line, &mut total)?;
            means.add(&line);
            Ok(())
        })?;
        if placed == Some(true) {
            lines.places = Some(means.places());
        }
        Ok(lines)
    }

    fn add(&mut self, line: &Line, total: &mut u64) -> Result<(), String> {
        let boxes = self.cameras.entry(line.camera).or_default();
        let frame = line.frame as u64 + 1;
        *total += frame.saturating_sub(boxes.last_frame());
        if *total > MAX_FRAMES {
            return Err(format!(
                "frames of all cameras together are more than {MAX_FRAMES}"
            ));
        }
        boxes.try_push(frame, line.frame, line.id, line.tlwh)
    }
}

/// Mean places of identities in frames.
#[derive(Debug, Default)]
pub(super) struct Means {
    /// By frame and identity: sums and how many.
    sums: BTreeMap<(u64, i64), ([f64; 2], f64)>,
}

impl Means {
    pub(super) fn add(&mut self, line: &Line) {
        if let Some([x, y]) = line.place {
            let key = (line.frame as u64 + 1, line.id);
            let (sum, count) = self.sums.entry(key).or_default();
            sum[0] += x;
            sum[1] += y;
            *count += 1.0;
        }
    }

    pub(super) fn places(self) -> Places {
        let mut places = Places::default();
        for ((frame, id), (sum, count)) in self.sums {
            places.push(frame, id, sum.map(|value| value / count));
        }
        places
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<CameraLines, String> {
        CameraLines::parse(text.as_bytes(), Path::new("x.txt")).map_err(|error| error.to_string())
    }

    #[test]
    fn lines_are_sorted_by_camera_and_places_are_means() {
        let text = "2 7 0 1 2 3 4 1.0 5.0\n\n1 7 0 1 2 3 4 3.0 6.0\n1 8 4 1 2 3 4 0 0\n";
        let lines = parse(text).unwrap();
        let cameras: Vec<i64> = lines.cameras.keys().copied().collect();
        assert_eq!(cameras, [1, 2]);
        assert_eq!(lines.cameras[&1].last_frame(), 5);
        let mut places = Places::default();
        places.push(1, 7, [2.0, 5.5]);
        places.push(5, 8, [0.0, 0.0]);
        assert_eq!(lines.places, Some(places));
        assert_eq!(parse("1,7,0,1,2,3,4\n").unwrap().places, None);
        assert!(parse("").unwrap().cameras.is_empty());
    }

    #[test]
    fn errors_name_the_line_and_what_is_wrong() {
        let good = "1 7 0 1 2 3 4 3.0 6.0\n";
        for (line, expected) in [
            ("1 7 0 1 2 3", "6 columns"),
            ("1 7 0 1 2 3 4", "some lines"),
            ("1 7 0 1 2 3 4 nan 0", "column 8: `nan` is not finite"),
            ("1 7 0.5 1 2 3 4 0 0", "frame 0.5"),
            ("1 7 -1 1 2 3 4 0 0", "frame -1"),
            ("1 7.5 1 1 2 3 4 0 0", "identity 7.5"),
            ("1e300 7 1 1 2 3 4 0 0", "camera 1"),
            ("1 7 0 1 2 3 4 0 0", "identity 7 stands twice in frame 0"),
        ] {
            let error = parse(&format!("{good}{line}\n")).unwrap_err();
            assert!(error.starts_with("x.txt, line 2: "), "{error}");
            assert!(error.contains(expected), "{line}: {error}");
        }
        let many: String = (0..7)
            .map(|camera| format!("{camera} 1 900000 0 0 1 1\n"))
            .collect();
        let error = parse(&many).unwrap_err();
        assert!(
            error.contains("line 6") && error.contains("5000000"),
            "{error}"
        );
    }
}
