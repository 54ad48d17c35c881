//! Parts of a file: the `Range` header of RFC 9110, section 14.

use std::ops::Range;

/// Most parts of one request; more are for no good.
const MAX_RANGES: usize = 16;

/// What a `Range` header asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// All of it: no header, or one that means nothing to us.
    Whole,
    /// These parts: at least one, none empty, all within the file, none twice.
    Parts(Vec<Range<u64>>),
    /// Nothing that there is, or too much of it.
    Unsatisfiable,
}

impl Asked {
    /// Of a header, for a file of so many bytes.
    pub fn of(header: Option<&str>, bytes: u64) -> Self {
        let Some(set) = header.and_then(|text| text.trim().strip_prefix("bytes=")) else {
            return Self::Whole;
        };
        let mut parts: Vec<Range<u64>> = Vec::new();
        let mut total = 0;
        for (count, text) in set.split(',').enumerate() {
            if count >= MAX_RANGES {
                return Self::Unsatisfiable;
            }
            let Some(part) = parse(text.trim(), bytes) else {
                return Self::Whole;
            };
            if part.is_empty() {
                continue;
            }
            total += part.end - part.start;
            parts.push(part);
        }
        // More than the file holds: parts that overlap, which only wastes both sides' time.
        if parts.is_empty() || total > bytes {
            return Self::Unsatisfiable;
        }
        Self::Parts(parts)
    }
}

/// One part, empty if the file has none of it; `None` if it is not well-formed.
fn parse(text: &str, bytes: u64) -> Option<Range<u64>> {
    let (first, last) = text.split_once('-')?;
    if first.is_empty() {
        let count = number(last)?.min(bytes);
        return Some(bytes - count..bytes);
    }
    let first = number(first)?;
    let last = if last.is_empty() {
        u64::MAX
    } else {
        number(last)?
    };
    if last < first {
        return None;
    }
    Some(first.min(bytes)..last.saturating_add(1).min(bytes))
}

/// Digits only: `parse` would take a sign. Numbers beyond all files are as good as the largest.
fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
#[expect(
    clippy::single_range_in_vec_init,
    reason = "one part is a list of one range"
)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    // The examples of RFC 9110, section 14.1.2, for a representation of 10,000 bytes.
    #[test]
    fn examples_of_the_standard() {
        let of = |header| Asked::of(Some(header), 10_000);
        let parts = |parts: &[Range<u64>]| Asked::Parts(parts.to_vec());
        assert_eq!(of("bytes=0-499"), parts(&[0..500]));
        assert_eq!(of("bytes=500-999"), parts(&[500..1000]));
        assert_eq!(of("bytes=-500"), parts(&[9500..10_000]));
        assert_eq!(of("bytes=9500-"), parts(&[9500..10_000]));
        assert_eq!(of("bytes=0-0,-1"), parts(&[0..1, 9999..10_000]));
        assert_eq!(
            of("bytes= 0-999, 4500-5499, -1000"),
            parts(&[0..1000, 4500..5500, 9000..10_000])
        );
    }

    #[test]
    fn what_is_beyond_and_what_is_nonsense() {
        let of = |header| Asked::of(Some(header), 100);
        assert_eq!(of("bytes=100-"), Asked::Unsatisfiable);
        assert_eq!(of("bytes=-0"), Asked::Unsatisfiable);
        assert_eq!(of("bytes=99-1000"), Asked::Parts(vec![99..100]));
        assert_eq!(of("bytes=-1000"), Asked::Parts(vec![0..100]));
        assert_eq!(of("bytes=200-,1-2"), Asked::Parts(vec![1..3]));
        assert_eq!(
            of("bytes=0-99999999999999999999999"),
            Asked::Parts(vec![0..100])
        );
        for whole in [
            "bytes=",
            "bytes=a-b",
            "bytes=5-1",
            "items=0-1",
            "bytes=+1-2",
            "bytes=1",
            "",
        ] {
            assert_eq!(of(whole), Asked::Whole, "{whole}");
        }
        assert_eq!(Asked::of(None, 100), Asked::Whole);
        assert_eq!(Asked::of(Some("bytes=0-"), 0), Asked::Unsatisfiable);
        assert_eq!(
            of("bytes=0-99,0-99"),
            Asked::Unsatisfiable,
            "all of it twice"
        );
        let many = format!("bytes={}", vec!["0-0"; 17].join(","));
        assert_eq!(of(&many), Asked::Unsatisfiable);
    }

    proptest! {
        #[test]
        fn parts_lie_within_the_file(text in "bytes=[0-9,-]{0,40}", bytes in 0_u64..2000) {
            if let Asked::Parts(parts) = Asked::of(Some(&text), bytes) {
                prop_assert!(!parts.is_empty());
                for part in parts {
                    prop_assert!(part.start < part.end && part.end <= bytes);
                }
            }
        }
    }
}
