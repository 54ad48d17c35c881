//! Point pairs and matrices as people write them down: CSV or JSON.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::calibration::CalibrationError;
use super::file::read_text;
use super::matrix::{Matrix3, Projection};
use super::points::{PointPair, pairs};

/// JSON with pairs: a calibration's file, its `calibration_points` alone, or rows of four numbers.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum PairsFile {
    Calibration { calibration_points: Lists },
    Lists(Lists),
    Rows(Vec<[f64; 4]>),
}

#[derive(Debug, Deserialize)]
struct Lists {
    image_points: Vec<[f64; 2]>,
    map_points: Vec<[f64; 2]>,
}

/// Reads pairs from a file.
///
/// JSON: an object with `image_points` and `map_points`, one that has such a
/// `calibration_points`, or a list of `[u, v, x, y]`. Any other text: a pair a line, `u v x y`, with
/// commas, semicolons or blanks between; a first line of column names and what follows `#` are left
/// out. `u` and `v` are pixels, `x` and `y` map units.
///
/// # Errors
/// The file cannot be read, or a line is not a pair.
pub fn read_pairs(path: &Path) -> Result<Vec<PointPair>, CalibrationError> {
    let text = read_text(path)?;
    let parsed = if text.trim_start().starts_with(['{', '[']) {
        let reason = "not `image_points` and `map_points`, nor rows of four numbers";
        match serde_json::from_str(&text) {
            Ok(PairsFile::Calibration { calibration_points }) => from_lists(&calibration_points),
            Ok(PairsFile::Lists(lists)) => from_lists(&lists),
            Ok(PairsFile::Rows(rows)) => Ok(rows
                .iter()
                .map(|&[u, v, x, y]| PointPair::new(u, v, x, y))
                .collect()),
            Err(error) if error.is_data() => Err(CalibrationError::field("pairs", reason)),
            Err(error) => Err(CalibrationError::json(path, error)),
        }
    } else {
        from_lines(&text)
    };
    parsed.map_err(|error| error.in_file(path))
}

fn from_lists(lists: &Lists) -> Result<Vec<PointPair>, CalibrationError> {
    Ok(pairs(&lists.image_points, &lists.map_points)?)
}

fn from_lines(text: &str) -> Result<Vec<PointPair>, CalibrationError> {
    let mut found = Vec::new();
    let mut first = true;
    for (number, line) in (1..).zip(text.lines()) {
        let content = line.split('#').next().unwrap_or_default().trim();
        if content.is_empty() {
            continue;
        }
        match parse_pair(content) {
            Ok(pair) => found.push(pair),
            // Column names: no number in them.
            Err(_) if first && !content.contains(|c: char| c.is_ascii_digit()) => {}
            Err(reason) => {
                let reason = format!("line {number}: {reason}");
                return Err(CalibrationError::field("pairs", &reason));
            }
        }
        first = false;
    }
    Ok(found)
}

/// A pair from `u v x y`, with commas, semicolons or blanks between.
///
/// # Errors
/// What is wrong with it, for people.
pub fn parse_pair(text: &str) -> Result<PointPair, String> {
    match numbers(text)?.as_slice() {
        &[u, v, x, y] => Ok(PointPair::new(u, v, x, y)),
        other => Err(format!(
            "{} numbers instead of four: pixels right and down, map x and y",
            other.len()
        )),
    }
}

/// Finite numbers with commas, semicolons or blanks between.
///
/// # Errors
/// Which word is none.
pub fn numbers(text: &str) -> Result<Vec<f64>, String> {
    let words = text.split(|c: char| c.is_whitespace() || matches!(c, ',' | ';'));
    let number = |word: &str| match word.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err(format!("`{word}` is not a number")),
    };
    words.filter(|word| !word.is_empty()).map(number).collect()
}

/// JSON with a 3×3 matrix.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum MatrixFile {
    Named { matrix: Matrix3 },
    Rows(Matrix3),
}

/// Reads a 3×3 matrix: JSON, the rows alone or as `matrix`; or text with nine numbers.
///
/// # Errors
/// The file cannot be read, or is none of these.
pub fn read_matrix(path: &Path) -> Result<Matrix3, CalibrationError> {
    let text = read_text(path)?;
    let wrong = |reason: &str| CalibrationError::field("matrix", reason).in_file(path);
    if text.trim_start().starts_with(['{', '[']) {
        return match serde_json::from_str(&text) {
            Ok(MatrixFile::Named { matrix } | MatrixFile::Rows(matrix)) => Ok(matrix),
            Err(error) if error.is_data() => Err(wrong("not three rows of three numbers")),
            Err(error) => Err(CalibrationError::json(path, error)),
        };
    }
    let values = numbers(&text).map_err(|reason| wrong(&reason))?;
    let rows: Vec<[f64; 3]> = values.as_chunks::<3>().0.to_vec();
    match (values.len(), <Matrix3>::try_from(rows)) {
        (9, Ok(matrix)) => Ok(matrix),
        (count, _) => Err(wrong(&format!("{count} numbers instead of nine"))),
    }
}

/// JSON with 3×4 matrices.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum ProjectionFile {
    One { projection: Projection },
    Rows(Projection),
    Cameras(BTreeMap<String, Projection>),
}

/// Projections by camera; the name is `None` where the file has a matrix alone.
pub type Projections = Vec<(Option<String>, Projection)>;

/// Reads 3×4 matrices from JSON: one camera's rows, alone or as `projection`, or an object with a
/// matrix a camera.
///
/// # Errors
/// The file cannot be read, or is none of these.
pub fn read_projections(path: &Path) -> Result<Projections, CalibrationError> {
    let text = read_text(path)?;
    let reason = "not three rows of four numbers, nor an object with such a matrix a camera";
    match serde_json::from_str(&text) {
        Ok(ProjectionFile::One { projection } | ProjectionFile::Rows(projection)) => {
            Ok(vec![(None, projection)])
        }
        Ok(ProjectionFile::Cameras(cameras)) => Ok(cameras
            .into_iter()
            .map(|(name, m)| (Some(name), m))
            .collect()),
        Err(error) if error.is_data() => {
            Err(CalibrationError::field("projection", reason).in_file(path))
        }
        Err(error) => Err(CalibrationError::json(path, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn pairs_are_read_however_they_are_written() {
        let expected = vec![
            PointPair::new(1.0, 2.0, 3.5, -4.0),
            PointPair::new(5.0, 6.0, 7.0, 8.0),
        ];
        let texts = [
            "u,v,x,y\n1,2,3.5,-4\n\n5;6;7;8\n",
            "# by hand\n1 2\t3.5 -4 # the kerb\r\n5 6 7 8",
            "[[1,2,3.5,-4],[5,6,7,8]]",
            r#"{"image_points": [[1,2],[5,6]], "map_points": [[3.5,-4],[7,8]], "by": "hand"}"#,
            r#" {"calibration_points": {"image_points": [[1,2],[5,6]], "map_points": [[3.5,-4],[7,8]]}}"#,
        ];
        for text in texts {
            assert_eq!(read_pairs(file(text).path()).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_pair_is_named() {
        let cases = [
            ("1,2,3,4\nu,v,x,y\n", "line 2: `u` is not a number"),
            ("1,2,3\n", "line 1: 3 numbers instead of four"),
            ("1,2,3,NaN\n", "line 1: `NaN` is not a number"),
            ("[[1,2,3,4,5]]", "nor rows of four numbers"),
            ("[[1,2,3,4", "EOF while parsing"),
            (
                r#"{"image_points": [[1,2]], "map_points": []}"#,
                "1 image points, but 0 map points",
            ),
        ];
        for (text, expected) in cases {
            let error = read_pairs(file(text).path()).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let missing = read_pairs(Path::new("no/such.csv"))
            .unwrap_err()
            .to_string();
        assert!(missing.starts_with("no/such.csv: "), "{missing}");
    }

    #[test]
    fn matrices_are_read_however_they_are_written() {
        let expected = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 10.0]];
        let texts = [
            "1 2 3\n4 5 6\n7 8 10\n",
            "[[1,2,3],[4,5,6],[7,8,10]]",
            r#"{"matrix": [[1,2,3],[4,5,6],[7,8,10]], "camera_id": "c09"}"#,
        ];
        for text in texts {
            assert_eq!(read_matrix(file(text).path()).unwrap(), expected, "{text}");
        }
        for text in ["1 2 3 4 5 6 7 8", "[[1,2,3],[4,5,6]]", "1 2 3 4 5 6 7 8 x"] {
            let error = read_matrix(file(text).path()).unwrap_err().to_string();
            assert!(error.contains("`matrix`: "), "{error}");
        }
        let rows = "[[1,0,0,1],[0,1,0,1],[0,0,1,1]]";
        let named = format!(r#"{{"b": {rows}, "a": {rows}}}"#);
        let found = read_projections(file(&named).path()).unwrap();
        let names: Vec<_> = found.iter().map(|(name, _)| name.as_deref()).collect();
        assert_eq!(names, [Some("a"), Some("b")]);
        let alone = read_projections(file(rows).path()).unwrap();
        assert_eq!(
            alone[0],
            (
                None,
                [
                    [1.0, 0.0, 0.0, 1.0],
                    [0.0, 1.0, 0.0, 1.0],
                    [0.0, 0.0, 1.0, 1.0]
                ]
            )
        );
    }
}
