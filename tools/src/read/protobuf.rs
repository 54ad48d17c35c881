//! The wire format of protocol buffers, read field by field out of a slice.
//!
//! Format: <https://protobuf.dev/programming-guides/encoding/>. Nothing is copied and nothing is
//! allocated here, so a hostile length costs an error and no memory.

use crate::Malformed;

/// The value of one field.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 1, little endian.
    Fixed64(u64),
    /// Wire type 2: a string, bytes, an embedded message or packed numbers.
    Bytes(&'a [u8]),
    /// Wire type 5, little endian.
    Fixed32(u32),
}

impl<'a> Value<'a> {
    /// The bytes of a length-delimited field.
    ///
    /// # Errors
    /// The field is a number.
    pub fn bytes(self) -> Result<&'a [u8], Malformed> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(Malformed::new(
                "a protobuf field is a number where bytes belong",
            )),
        }
    }

    /// A UTF-8 string.
    ///
    /// # Errors
    /// The field is a number, or its bytes are no UTF-8.
    pub fn text(self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?)
            .map_err(|_| Malformed::new("a protobuf string is not UTF-8"))
    }

    /// An integer (`int32`, `int64`, `enum`, `bool`).
    ///
    /// # Errors
    /// The field is not a varint.
    pub fn int(self) -> Result<i64, Malformed> {
        match self {
            Self::Varint(value) => Ok(value.cast_signed()),
            _ => Err(Malformed::new("a protobuf field is not an integer")),
        }
    }
}

/// The fields of one message, in the order in which they stand.
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// The fields of the message that `bytes` holds.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next field's number and value; `None` at the message's end.
    ///
    /// # Errors
    /// The bytes end inside a field, or are no protocol buffer.
    pub fn next_field(&mut self) -> Result<Option<(u32, Value<'a>)>, Malformed> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = varint(&mut self.rest)?;
        let number = u32::try_from(tag >> 3)
            .ok()
            .filter(|number| *number != 0)
            .ok_or_else(|| Malformed::new("a protobuf field number is out of range"))?;
        let value = match tag & 7 {
            0 => Value::Varint(varint(&mut self.rest)?),
            1 => Value::Fixed64(u64::from_le_bytes(array(take(&mut self.rest, 8)?))),
            2 => {
                let length = varint(&mut self.rest)?;
                Value::Bytes(take(&mut self.rest, length)?)
            }
            5 => Value::Fixed32(u32::from_le_bytes(array(take(&mut self.rest, 4)?))),
            other => {
                return Err(Malformed::new(format!(
                    "protobuf wire type {other} is not one that is in use"
                )));
            }
        };
        Ok(Some((number, value)))
    }
}

/// Reads one varint off the front of `rest`.
///
/// # Errors
/// The bytes end inside it, or it is longer than 64 bits.
pub fn varint(rest: &mut &[u8]) -> Result<u64, Malformed> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let [byte, tail @ ..] = *rest else {
            return Err(Malformed::new("the file ends inside a protobuf number"));
        };
        *rest = tail;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Malformed::new("a protobuf number is longer than 64 bits"))
}

fn take<'a>(rest: &mut &'a [u8], length: u64) -> Result<&'a [u8], Malformed> {
    let cut = usize::try_from(length)
        .ok()
        .and_then(|length| rest.split_at_checked(length));
    let Some((head, tail)) = cut else {
        return Err(Malformed::new(format!(
            "a protobuf field claims {length} bytes where {} are left: cut short or damaged",
            rest.len()
        )));
    };
    *rest = tail;
    Ok(head)
}

/// The first `N` bytes of a slice that [`take`] cut to that length.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(bytes);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Examples of the encoding guide: field 1 = 150 is `08 96 01`, field 2 = "testing" is
    /// `12 07 74 65 73 74 69 6e 67`.
    #[test]
    fn reads_the_guides_examples() {
        let bytes = b"\x08\x96\x01\x12\x07testing\x1d\x00\x00\x80\x3f";
        let mut fields = Fields::new(bytes);
        assert_eq!(fields.next_field(), Ok(Some((1, Value::Varint(150)))));
        let (number, value) = fields.next_field().unwrap().unwrap();
        assert_eq!((number, value.text().unwrap()), (2, "testing"));
        let one = 1.0_f32.to_bits();
        assert_eq!(fields.next_field(), Ok(Some((3, Value::Fixed32(one)))));
        assert_eq!(fields.next_field(), Ok(None));
    }

    #[test]
    fn refuses_what_is_cut_or_absurd() {
        for bytes in [
            b"\x08".as_slice(),
            b"\x12\x07test",
            b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01x",
            b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\x00\x01",
            b"\x0b",
            b"\x0d\x00\x00",
        ] {
            assert!(Fields::new(bytes).next_field().is_err(), "{bytes:?}");
        }
    }
}
