//! A MOT Challenge sequence: what `seqinfo.ini` says of it and its true boxes (`gt/gt.txt`).
//!
//! Format: MOT16, arXiv:1603.00831, tables 5 and 6. The boxes' corners are taken as they stand, as
//! the trackers' published results are.

use std::collections::HashSet;
use std::path::Path;

use super::DataError;

/// Largest text file that is read; MOT20's longest truth has 30 MB.
const MAX_BYTES: u64 = 512 << 20;

/// The greatest frame number that is read.
pub const MAX_FRAME: u64 = 1_000_000;

/// Longest side of a frame, in pixels.
const MAX_SIDE: u32 = 1 << 16;

/// What `seqinfo.ini` says.
#[derive(Debug, Clone, PartialEq)]
pub struct SequenceInfo {
    /// `name`.
    pub name: String,
    /// `imDir`: the images' folder in the sequence's.
    pub image_folder: String,
    /// `frameRate`: frames a second.
    pub frame_rate: f64,
    /// `seqLength`: number of frames.
    pub frames: u64,
    /// `imWidth`, in pixels.
    pub width: u32,
    /// `imHeight`, in pixels.
    pub height: u32,
    /// `imExt`: the images' ending, with its dot.
    pub image_ending: String,
}

impl SequenceInfo {
    /// Reads a `seqinfo.ini`.
    ///
    /// # Errors
    /// The file cannot be read, an entry is missing or makes no sense (all of them are told).
    pub fn read(path: &Path) -> Result<Self, DataError> {
        let text = read_text(path)?;
        Self::parse(&text).map_err(|problems| DataError::Many {
            path: path.to_path_buf(),
            what: "wrong entries",
            problems,
        })
    }

    fn parse(text: &str) -> Result<Self, Vec<String>> {
        let mut entries = Entries {
            text,
            problems: Vec::new(),
        };
        let info = Self {
            name: entries.plain_name("name"),
            image_folder: entries.plain_name("imDir"),
            frame_rate: entries.number("frameRate", |&rate: &f64| rate > 0.0 && rate <= 1000.0),
            frames: entries.number("seqLength", |frames| (1..=MAX_FRAME).contains(frames)),
            width: entries.number("imWidth", |width| (1..=MAX_SIDE).contains(width)),
            height: entries.number("imHeight", |height| (1..=MAX_SIDE).contains(height)),
            image_ending: entries.plain_name("imExt"),
        };
        if entries.problems.is_empty() {
            Ok(info)
        } else {
            Err(entries.problems)
        }
    }

    /// The file name of frame `number`, from 1: six digits and the ending.
    pub fn image_name(&self, number: u64) -> String {
        format!("{number:06}{}", self.image_ending)
    }
}

/// `key=value` lines, and what was wrong with those that were asked for.
struct Entries<'a> {
    text: &'a str,
    problems: Vec<String>,
}

impl<'a> Entries<'a> {
    fn value(&mut self, key: &str) -> Option<&'a str> {
        let found = self.text.lines().find_map(|line| {
            let (name, value) = line.split_once('=')?;
            name.trim().eq_ignore_ascii_case(key).then(|| value.trim())
        });
        if found.is_none() {
            self.problems.push(format!("`{key}=…` is missing"));
        }
        found
    }

    /// A name that leads to no other folder.
    fn plain_name(&mut self, key: &str) -> String {
        let Some(value) = self.value(key) else {
            return String::new();
        };
        let wrong =
            value.is_empty() || value == "." || value == ".." || value.contains(['/', '\\']);
        if wrong {
            self.problems
                .push(format!("`{key}={value}` is not a plain name"));
        }
        value.to_string()
    }

    fn number<T>(&mut self, key: &str, fits: impl Fn(&T) -> bool) -> T
    where
        T: std::str::FromStr + Default,
    {
        let Some(value) = self.value(key) else {
            return T::default();
        };
        match value.parse() {
            Ok(number) if fits(&number) => number,
            _ => {
                self.problems
                    .push(format!("`{key}={value}` is no number that makes sense"));
                T::default()
            }
        }
    }
}

/// What a truth's columns mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TruthFormat {
    /// `frame, id, left, top, width, height, flag` and world coordinates, which are not read: all
    /// boxes are people.
    Mot15,
    /// `frame, id, left, top, width, height, flag, class, visibility` (MOT16, MOT17, MOT20).
    Mot17,
}

/// One true box.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TruthBox {
    /// Frame, from 1.
    pub frame: u64,
    /// Identity.
    pub id: i64,
    /// Left, top, width and height in pixels; it may reach beyond the frame.
    pub tlwh: [f64; 4],
    /// Whether the box counts (column 7); those that do not are to be ignored.
    pub consider: bool,
    /// Class; 1 is a pedestrian.
    pub class: i64,
    /// How much of the person can be seen, 0..=1; `None` where the format does not say.
    pub visibility: Option<f64>,
}

/// The class of pedestrians.
pub const PEDESTRIAN: i64 = 1;

/// Reads a truth file, in its own order.
///
/// # Errors
/// The file cannot be read; a line has too few columns, one that is no finite number or out of
/// its range, or gives an identity twice in a frame. The error names file and line.
pub fn read_truth(path: &Path, format: TruthFormat) -> Result<Vec<TruthBox>, DataError> {
    let text = read_text(path)?;
    let mut boxes = Vec::new();
    let mut seen = HashSet::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() {
            continue;
        }
        let parsed = parse_line(line, format).and_then(|found: TruthBox| {
            if seen.insert((found.frame, found.id)) {
                return Ok(found);
            }
            let (id, frame) = (found.id, found.frame);
            Err(format!("identity {id} stands twice in frame {frame}"))
        });
        let found = parsed.map_err(|reason| DataError::Line {
            path: path.to_path_buf(),
            line: number,
            reason,
        })?;
        boxes.push(found);
    }
    Ok(boxes)
}

fn parse_line(line: &str, format: TruthFormat) -> Result<TruthBox, String> {
    let wanted = match format {
        TruthFormat::Mot15 => 7,
        TruthFormat::Mot17 => 9,
    };
    let mut numbers = [0.0; 9];
    let mut count = 0;
    for (slot, text) in numbers[..wanted].iter_mut().zip(line.split(',')) {
        count += 1;
        *slot = finite(text).map_err(|reason| format!("column {count}: {reason}"))?;
    }
    if count < wanted {
        return Err(format!("{count} columns, at least {wanted} are needed"));
    }
    let [frame, id, left, top, width, height, flag, class, visibility] = numbers;
    if width <= 0.0 || height <= 0.0 {
        return Err(format!("a box of {width}×{height} pixels"));
    }
    let of_mot17 = format == TruthFormat::Mot17;
    if of_mot17 && !(0.0..=1.0).contains(&visibility) {
        return Err(format!("a visibility of {visibility} is not within 0..=1"));
    }
    Ok(TruthBox {
        frame: whole(frame, "frame", 1.0, MAX_FRAME as f64)? as u64,
        id: whole(id, "identity", 0.0, f64::from(u32::MAX))?,
        tlwh: [left, top, width, height],
        consider: flag != 0.0,
        class: if of_mot17 {
            whole(class, "class", 1.0, 1000.0)?
        } else {
            PEDESTRIAN
        },
        visibility: of_mot17.then_some(visibility),
    })
}

fn finite(text: &str) -> Result<f64, String> {
    let text = text.trim();
    let number: f64 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    if number.is_finite() {
        Ok(number)
    } else {
        Err(format!("`{text}` is not finite"))
    }
}

fn whole(number: f64, what: &str, least: f64, most: f64) -> Result<i64, String> {
    if number.fract() != 0.0 || !(least..=most).contains(&number) {
        return Err(format!(
            "{what} {number} is no whole number within {least}..={most}"
        ));
    }
    Ok(number as i64)
}

fn read_text(path: &Path) -> Result<String, DataError> {
    let metadata = std::fs::metadata(path).map_err(DataError::io(path))?;
    if metadata.len() > MAX_BYTES {
        let reason = format!("{} bytes are too many for such a file", metadata.len());
        return Err(DataError::file(path, reason));
    }
    let bytes = std::fs::read(path).map_err(DataError::io(path))?;
    String::from_utf8(bytes).map_err(|_| DataError::file(path, "not text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEQINFO: &str = "[Sequence]\r\nname=MOT17-02-FRCNN\r\nimDir=img1\r\nframeRate=30\r\n\
        seqLength=600\r\nimWidth=1920\r\nimHeight=1080\r\nimExt=.jpg\r\n\r\n";

    #[test]
    fn seqinfo_is_read() {
        let info = SequenceInfo::parse(SEQINFO).unwrap();
        assert_eq!(info.name, "MOT17-02-FRCNN");
        assert_eq!((info.frames, info.width, info.height), (600, 1920, 1080));
        assert_eq!(info.image_name(7), "000007.jpg");
    }

    #[test]
    fn wrong_and_missing_entries_are_told_together() {
        let text = SEQINFO
            .replace("imDir=img1", "imDir=../../etc")
            .replace("seqLength=600", "seqLength=NaN")
            .replace("imExt=.jpg", "");
        let problems = SequenceInfo::parse(&text).unwrap_err();
        assert_eq!(problems.len(), 3, "{problems:?}");
        for word in ["imDir=../../etc", "seqLength=NaN", "imExt"] {
            assert!(problems.iter().any(|p| p.contains(word)), "{problems:?}");
        }
    }

    #[test]
    fn lines_mean_what_their_format_says() {
        let line = "3,9,-4.5,10,30,80,0,7,0.25";
        let found = parse_line(line, TruthFormat::Mot17).unwrap();
        assert_eq!((found.frame, found.id, found.class), (3, 9, 7));
        assert_eq!(found.tlwh, [-4.5, 10.0, 30.0, 80.0]);
        assert!(!found.consider);
        assert_eq!(found.visibility, Some(0.25));

        let line = "1,15,258,219,32.913,88.702,1,-11.306,-5.5995,0";
        let found = parse_line(line, TruthFormat::Mot15).unwrap();
        assert_eq!((found.class, found.visibility), (PEDESTRIAN, None));
    }

    #[test]
    fn lines_that_make_no_sense_are_refused() {
        let refused = [
            ("1,1,10,10,5,5,1,1", "8 columns"),
            ("1,1,NaN,10,5,5,1,1,1", "column 3"),
            ("1,1,10,inf,5,5,1,1,1", "not finite"),
            ("1,1,10,x,5,5,1,1,1", "`x`"),
            ("0,1,10,10,5,5,1,1,1", "frame 0"),
            ("1.5,1,10,10,5,5,1,1,1", "frame 1.5"),
            ("1,1,10,10,0,5,1,1,1", "0×5"),
            ("1,1,10,10,5,-5,1,1,1", "5×-5"),
            ("1,1,10,10,5,5,1,1,1.2", "visibility"),
            ("1e9,1,10,10,5,5,1,1,1", "frame 1000000000"),
            ("1,-1,10,10,5,5,1,1,1", "identity"),
        ];
        for (line, word) in refused {
            let reason = parse_line(line, TruthFormat::Mot17).unwrap_err();
            assert!(reason.contains(word), "{line}: {reason}");
        }
    }

    #[test]
    fn errors_name_file_and_line() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("gt.txt");
        std::fs::write(&path, "1,1,1,1,2,2,1,1,1\n\n1,1,5,5,2,2,1,1,1\n").unwrap();
        let error = read_truth(&path, TruthFormat::Mot17)
            .unwrap_err()
            .to_string();
        assert!(error.contains("gt.txt, line 3: identity 1"), "{error}");
    }
}
