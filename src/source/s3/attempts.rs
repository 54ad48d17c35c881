//! Attempts: what an error means for the next one, how many there are, and when.

use std::error::Error;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use tokio::time::Instant;

use super::super::SkipKind;
use super::super::error::with_causes;
use super::settings::S3Settings;
use crate::random::SplitMix64;

/// First and longest pause before another attempt, before chance shortens it.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// What went wrong with one request.
#[derive(Debug)]
pub(super) enum Trouble {
    /// May go better next time; the store may have said when.
    Passing(String, Option<Duration>),
    /// Something about this object alone.
    Object(SkipKind, String),
    /// Nothing of this bucket can be read.
    Refused(String),
}

/// What is wrong with an object that is larger than what is fetched.
pub(super) fn too_large(length: Option<u64>, limit: u64) -> String {
    let size = match length {
        Some(length) => format!("{length} bytes"),
        None => "its size".to_string(),
    };
    format!("{size} is more than the {limit} bytes that are fetched at most")
}

/// An answer that broke off.
pub(super) fn cut(error: &dyn Error) -> Trouble {
    Trouble::Passing(format!("the answer broke off: {}", causes(error)), None)
}

/// Bounds an attempt in time.
pub(super) async fn within<T>(
    longest: Duration,
    attempt: impl Future<Output = Result<T, Trouble>>,
) -> Result<T, Trouble> {
    match tokio::time::timeout(longest, attempt).await {
        Ok(result) => result,
        Err(_) => Err(Trouble::Passing(
            format!("no complete answer within {:.1} s", longest.as_secs_f64()),
            None,
        )),
    }
}

/// Counts attempts and spaces them out.
///
/// Pauses double, and chance shortens each to anything down to nothing ("full jitter", Brooker,
/// Exponential Backoff And Jitter, AWS Architecture Blog 2015), so that many readers that a store
/// turned away together don't come back together.
pub(super) struct Retry {
    attempts_left: u32,
    timeout: Duration,
    deadline: Instant,
    pause: Duration,
    chance: SplitMix64,
}

impl Retry {
    pub(super) fn new(settings: &S3Settings) -> Self {
        Self {
            attempts_left: settings.attempts,
            timeout: settings.timeout,
            deadline: Instant::now() + settings.deadline,
            pause: FIRST_PAUSE,
            // Only pauses depend on it, no result.
            chance: SplitMix64::from_state(RandomState::new().hash_one(0)),
        }
    }

    /// How long the next attempt may take.
    pub(super) fn time_left(&self) -> Duration {
        let left = self.deadline.saturating_duration_since(Instant::now());
        left.min(self.timeout)
    }

    /// Waits before another attempt; false when there is none left. `asked` is how long the store
    /// wants to be left alone.
    pub(super) async fn pause(&mut self, asked: Option<Duration>, reason: &str) -> bool {
        let now = Instant::now();
        let Some(until) = self.next(now, asked) else {
            return false;
        };
        let pause_ms = (until - now).as_millis() as u64;
        tracing::debug!(reason, pause_ms, "trying again");
        tokio::time::sleep_until(until).await;
        true
    }

    /// When the next attempt is due, after one that failed by `now`.
    fn next(&mut self, now: Instant, asked: Option<Duration>) -> Option<Instant> {
        self.attempts_left = self.attempts_left.saturating_sub(1);
        let pause = self.pause.mul_f64(self.chance.unit());
        let until = now + pause.max(asked.unwrap_or_default());
        if self.attempts_left == 0 || until >= self.deadline {
            return None;
        }
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Some(until)
    }
}

/// Sorts an error by what can be done about it.
pub(super) fn trouble<E>(error: &SdkError<E, HttpResponse>) -> Trouble
where
    E: ProvideErrorMetadata + Error + 'static,
{
    match error {
        SdkError::ServiceError(answer) => {
            let code = answer.err().code().unwrap_or_default();
            let message = answer.err().message().unwrap_or_default();
            let status = answer.raw().status().as_u16();
            let wait = retry_after(answer.raw());
            answered(status, code, message, wait)
        }
        SdkError::ConstructionFailure(_) => Trouble::Refused(causes(error)),
        // No connection, a connection that was cut, no answer in time, an answer that is none.
        _ => Trouble::Passing(causes(error), None),
    }
}

/// Sorts a store's answer by its HTTP status and its code
/// (<https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>).
fn answered(status: u16, code: &str, message: &str, wait: Option<Duration>) -> Trouble {
    let mut reason = format!("HTTP {status}");
    for text in [code, message] {
        if !text.is_empty() {
            reason = format!("{reason}, {}", shortened(text));
        }
    }
    match code {
        "NoSuchBucket"
        | "InvalidBucketName"
        | "PermanentRedirect"
        | "AllAccessDisabled"
        | "AccountProblem"
        | "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "ExpiredToken"
        | "InvalidToken"
        | "NotSignedUp"
        | "RequestTimeTooSkewed"
        | "AuthorizationHeaderMalformed" => Trouble::Refused(reason),
        "SlowDown"
        | "RequestTimeout"
        | "InternalError"
        | "ServiceUnavailable"
        | "Throttling"
        | "ThrottlingException"
        | "RequestLimitExceeded" => Trouble::Passing(reason, wait),
        _ => match status {
            404 | 410 => Trouble::Object(SkipKind::Missing, reason),
            408 | 425 | 429 | 500..=599 => Trouble::Passing(reason, wait),
            301 | 401 => Trouble::Refused(reason),
            _ => Trouble::Object(SkipKind::Denied, reason),
        },
    }
}

/// The seconds of `Retry-After`; its other form, a date, is not used by stores.
fn retry_after(answer: &HttpResponse) -> Option<Duration> {
    let seconds: u64 = answer.headers().get("retry-after")?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.min(24 * 3600)))
}

/// What a store says, without line breaks and not endlessly.
fn shortened(text: &str) -> String {
    const MOST: usize = 200;
    text.chars()
        .take(MOST)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// An error with its causes, not endlessly.
pub(super) fn causes(error: &dyn Error) -> String {
    shortened(&with_causes(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_sorted_by_what_can_be_done() {
        let sort = |status, code| answered(status, code, "", None);
        assert!(matches!(sort(503, "SlowDown"), Trouble::Passing(..)));
        assert!(matches!(sort(500, "InternalError"), Trouble::Passing(..)));
        assert!(matches!(sort(400, "RequestTimeout"), Trouble::Passing(..)));
        assert!(matches!(sort(429, ""), Trouble::Passing(..)));
        assert!(matches!(
            sort(404, "NoSuchKey"),
            Trouble::Object(SkipKind::Missing, _)
        ));
        assert!(matches!(sort(404, "NoSuchBucket"), Trouble::Refused(_)));
        assert!(matches!(
            sort(403, "AccessDenied"),
            Trouble::Object(SkipKind::Denied, _)
        ));
        assert!(matches!(
            sort(403, "InvalidObjectState"),
            Trouble::Object(SkipKind::Denied, _)
        ));
        assert!(matches!(
            sort(403, "SignatureDoesNotMatch"),
            Trouble::Refused(_)
        ));
    }

    #[test]
    fn what_a_store_says_is_bounded() {
        let Trouble::Refused(reason) = answered(401, "", &"a\nb".repeat(10_000), None) else {
            panic!("not refused");
        };
        assert!(reason.len() < 300, "{}", reason.len());
        assert!(!reason.contains('\n'));
    }

    #[test]
    fn attempts_are_bounded_and_spaced() {
        let settings = S3Settings {
            attempts: 8,
            ..S3Settings::default()
        };
        let mut retry = Retry::new(&settings);
        let now = Instant::now();
        let mut longest = FIRST_PAUSE;
        for _ in 1..8 {
            let pause = retry.next(now, None).unwrap() - now;
            assert!(pause <= longest, "{pause:?} of {longest:?}");
            longest = (longest * 2).min(LONGEST_PAUSE);
        }
        assert_eq!(retry.next(now, None), None);
    }

    #[test]
    fn what_the_store_asks_for_is_kept_within_the_deadline() {
        let settings = S3Settings::default();
        let now = Instant::now();
        let asked = Duration::from_secs(7);
        let mut retry = Retry::new(&settings);
        assert!(retry.next(now, Some(asked)).unwrap() >= now + asked);
        let asked = settings.deadline + Duration::from_secs(1);
        assert_eq!(Retry::new(&settings).next(now, Some(asked)), None);
    }
}
