//! Event files that TensorBoard reads: scalars over steps.
//!
//! A file is a row of `TFRecord`s, each the length (u64), its checksum, the bytes, and their
//! checksum; checksums are CRC-32C, rotated and shifted ("masked"), all numbers little-endian. The
//! bytes are protobuf's `tensorflow.Event` (tensorflow/core/util/event.proto), of which four fields
//! are written here by hand.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

/// Polynomial of Castagnoli, bits reversed (RFC 3720, appendix B.4).
const POLYNOMIAL: u32 = 0x82F6_3B78;

/// Checksums of all single bytes.
const TABLE: [u32; 256] = table();

/// Added to rotated checksums, as `TFRecord` wants it.
const MASK: u32 = 0xA282_EAD8;

/// `Event.wall_time`, `.step`, `.file_version`, `.summary` and `.session_log`.
const WALL_TIME: u32 = 1;
const STEP: u32 = 2;
const FILE_VERSION: u32 = 3;
const SUMMARY: u32 = 5;
const SESSION_LOG: u32 = 7;

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut value = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 {
                (value >> 1) ^ POLYNOMIAL
            } else {
                value >> 1
            };
            bit += 1;
        }
        table[byte] = value;
        byte += 1;
    }
    table
}

/// CRC-32C of `bytes`.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |value: u32, byte: &u8| {
        let index = (value ^ u32::from(*byte)) & 0xFF;
        (value >> 8) ^ TABLE[index as usize]
    };
    !bytes.iter().fold(u32::MAX, step)
}

fn masked(bytes: &[u8]) -> [u8; 4] {
    crc32c(bytes)
        .rotate_right(15)
        .wrapping_add(MASK)
        .to_le_bytes()
}

/// `bytes` as one record.
fn record(bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u64).to_le_bytes();
    let mut framed = Vec::with_capacity(bytes.len() + 16);
    framed.extend(length);
    framed.extend(masked(&length));
    framed.extend(bytes);
    framed.extend(masked(bytes));
    framed
}

/// A message of protobuf in the making.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn key(&mut self, field: u32, wire: u32) {
        self.varint(u64::from(field << 3 | wire));
    }

    fn integer(mut self, field: u32, value: u64) -> Self {
        self.key(field, 0);
        self.varint(value);
        self
    }

    fn double(mut self, field: u32, value: f64) -> Self {
        self.key(field, 1);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn float(mut self, field: u32, value: f32) -> Self {
        self.key(field, 5);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn bytes(mut self, field: u32, bytes: &[u8]) -> Self {
        self.key(field, 2);
        self.varint(bytes.len() as u64);
        self.0.extend(bytes);
        self
    }
}

/// Time and step; as protobuf's third version does it, a step of 0 is told by saying nothing.
fn event(time: f64, step: u64) -> Message {
    let event = Message::default().double(WALL_TIME, time);
    if step == 0 {
        return event;
    }
    event.integer(STEP, step)
}

/// The first event of a file.
fn version(time: f64) -> Vec<u8> {
    event(time, 0).bytes(FILE_VERSION, b"brain.Event:2").0
}

/// A session begins at `step`: what other files say of it and later steps is void.
fn session_start(time: f64, step: u64) -> Vec<u8> {
    let start = Message::default().integer(1, 1);
    event(time, step).bytes(SESSION_LOG, &start.0).0
}

/// `Summary { value { tag, simple_value } … }`.
fn scalars(time: f64, step: u64, values: &[(String, f64)]) -> Vec<u8> {
    let mut summary = Message::default();
    for (tag, value) in values {
        let one = Message::default()
            .bytes(1, tag.as_bytes())
            .float(2, *value as f32);
        summary = summary.bytes(1, &one.0);
    }
    event(time, step).bytes(SUMMARY, &summary.0).0
}

/// One event file, written as training goes.
#[derive(Debug)]
pub struct EventFile {
    path: PathBuf,
    file: BufWriter<File>,
}

impl EventFile {
    /// Begins a file in the folder `folder`, which is made. `time` is in seconds since 1970; in a
    /// run that goes on, `resumed` is the first step that will be told again.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn create(folder: &Path, time: f64, resumed: Option<u64>) -> std::io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        // TensorBoard knows files by `tfevents`, and reads them in the order of their names.
        let mut number = 0;
        let (path, file) = loop {
            let name = format!("events.out.tfevents.{:010}.{number:04}.mtmc", time as u64);
            let path = folder.join(name);
            match File::create_new(&path) {
                Ok(file) => break (path, file),
                Err(error)
                    if error.kind() == std::io::ErrorKind::AlreadyExists && number < 9999 =>
                {
                    number += 1;
                }
                Err(error) => return Err(error),
            }
        };
        let mut file = BufWriter::new(file);
        file.write_all(&record(&version(time)))?;
        if let Some(step) = resumed {
            file.write_all(&record(&session_start(time, step)))?;
        }
        file.flush()?;
        Ok(Self { path, file })
    }

    /// Writes values of one step and hands them to the system.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&mut self, time: f64, step: u64, values: &[(String, f64)]) -> std::io::Result<()> {
        self.file.write_all(&record(&scalars(time, step, values)))?;
        self.file.flush()
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 3720, appendix B.4: 32 bytes of zeros, of ones, ascending; and CRC's check value.
    #[test]
    fn checksums_are_the_published_ones() {
        assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA);
        assert_eq!(crc32c(&[0xFF; 32]), 0x62A8_AB43);
        let ascending: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(&ascending), 0x46DD_794E);
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
    }

    // By hand, from the encoding's description: 300 is AC 02; field 2 as a varint has the key 10.
    #[test]
    fn messages_are_protobufs() {
        assert_eq!(Message::default().integer(2, 300).0, [0x10, 0xAC, 0x02]);
        assert_eq!(Message::default().bytes(3, b"ab").0, [0x1A, 2, b'a', b'b']);
        assert_eq!(Message::default().float(2, 1.0).0, [0x15, 0, 0, 0x80, 0x3F]);
    }
}
