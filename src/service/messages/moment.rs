//! Moments as the messages write them: RFC 3339 in UTC with milliseconds and `Z`, such as
//! `2025-01-06T10:30:00.123Z`.

use jiff::Timestamp;
use serde::Serializer;

/// Now, in whole milliseconds.
pub fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
}

/// So many seconds behind `origin`, in whole milliseconds; `origin` itself where the sum is beyond
/// all calendars.
pub fn after(origin: Timestamp, seconds: f64) -> Timestamp {
    let milliseconds = (seconds * 1e3).round() as i64;
    let sum = origin.as_millisecond().saturating_add(milliseconds);
    Timestamp::from_millisecond(sum).unwrap_or(origin)
}

/// For `#[serde(serialize_with)]`.
pub fn serialize<S: Serializer>(moment: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{moment:.3}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Serialize)]
    struct Holder(#[serde(serialize_with = "serialize")] Timestamp);

    #[test]
    fn milliseconds_are_always_written() {
        for (millisecond, text) in [
            (0, "\"1970-01-01T00:00:00.000Z\""),
            (1_736_159_400_123, "\"2025-01-06T10:30:00.123Z\""),
            (1_736_159_400_120, "\"2025-01-06T10:30:00.120Z\""),
        ] {
            let moment = Timestamp::from_millisecond(millisecond).unwrap();
            assert_eq!(serde_json::to_string(&Holder(moment)).unwrap(), text);
        }
    }

    #[test]
    fn seconds_are_added_and_never_overflow() {
        let origin = Timestamp::from_millisecond(1_000).unwrap();
        assert_eq!(after(origin, 0.0335).as_millisecond(), 1_034);
        assert_eq!(after(origin, -0.5).as_millisecond(), 500);
        assert_eq!(after(origin, f64::MAX), origin);
        assert_eq!(after(origin, f64::NAN), origin);
    }
}
