//! The service's log: one line an event on standard error, for people or as JSON, without secrets.
//!
//! Secrets are taken out of the finished lines, whoever wrote them: keys and tokens behind their
//! usual names, passwords in addresses, what looks like a key of this service, a JWT or a key of
//! S3, and the values of the variables that hold secrets.

use std::sync::OnceLock;

use anyhow::Context as _;
use clap::ValueEnum;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry};

/// What is logged if nothing else is asked for.
pub const DEFAULT_FILTER: &str = "info,sqlx=warn,aws_config=warn,aws_smithy_runtime=warn";

/// Form of the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

/// A part of the log that is more than lines, such as traces.
pub type Extra = Box<dyn Layer<Registry> + Send + Sync>;

/// Starts logging; to be called once. `filter` is a level, or parts such as
/// `info,mtmc::service=debug`.
///
/// # Errors
/// The filter makes no sense, or logging has begun already.
pub fn start(format: LogFormat, filter: &str, extra: Vec<Extra>) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter)
        .with_context(|| format!("`{filter}` is no filter of the log, such as `info`"))?;
    let lines: Extra = match format {
        LogFormat::Text => tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .with_writer(Redacted)
            .with_filter(filter)
            .boxed(),
        LogFormat::Json => tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .with_writer(Redacted)
            .with_filter(filter)
            .boxed(),
    };
    let mut layers = extra;
    layers.push(lines);
    tracing_subscriber::registry()
        .with(layers)
        .try_init()
        .context("the log has been started already")?;
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        let message = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(place, message, "internal error: panic");
    }));
    Ok(())
}

/// Standard error, for finished lines.
#[derive(Debug, Clone, Copy)]
struct Redacted;

impl MakeWriter<'_> for Redacted {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        *self
    }
}

impl std::io::Write for Redacted {
    /// Gets an event at a time.
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let text = redact(&String::from_utf8_lossy(line), secrets());
        std::io::stderr().lock().write_all(text.as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

/// What stands for a secret.
const HIDDEN: &str = "***";

/// Names that secrets stand behind; longer ones that end in them count too, such as
/// `aws_secret_access_key`.
const NAMES: &[&str] = &[
    "authorization",
    "api-key",
    "api_key",
    "apikey",
    "access_key",
    "access-key",
    "accesskey",
    "token",
    "ticket",
    "password",
    "passwd",
    "secret",
    "signature",
    "credential",
    "cookie",
];

/// Endings of the names of variables whose values are secrets.
const SECRET_VARIABLES: &[&str] = &["_KEY", "_SECRET", "_TOKEN", "_PASSWORD", "PGPASSWORD"];

/// Shortest value of such a variable that is looked for: shorter ones would hide ordinary words.
const SHORTEST_SECRET: usize = 8;

fn secrets() -> &'static [String] {
    static SECRETS: OnceLock<Vec<String>> = OnceLock::new();
    SECRETS.get_or_init(|| {
        let mut values: Vec<String> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| SECRET_VARIABLES.iter().any(|end| name.ends_with(end)))
            .map(|(_, value)| value)
            .filter(|value| value.len() >= SHORTEST_SECRET && !value.starts_with('/'))
            .collect();
        // A value that holds another one must go first.
        values.sort_by_key(|value| std::cmp::Reverse(value.len()));
        values
    })
}

/// The text without secrets; `known` are values that are some, wherever they stand.
pub fn redact(text: &str, known: &[String]) -> String {
    let mut text = text.to_string();
    for secret in known {
        if text.contains(secret.as_str()) {
            text = text.replace(secret.as_str(), HIDDEN);
        }
    }
    let text = without_passwords(&text);
    let text = without_named(&text);
    without_tokens(&text)
}

/// `scheme://user:password@host` without the password.
fn without_passwords(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(place) = rest.find("://") {
        let (before, after) = rest.split_at(place + 3);
        out.push_str(before);
        let end = after.find(|c: char| c.is_whitespace() || "/?#\"'`<>\\".contains(c));
        let authority = &after[..end.unwrap_or(after.len())];
        rest = &after[authority.len()..];
        let user = authority.rsplit_once('@').and_then(|(login, host)| {
            let (user, _) = login.split_once(':')?;
            Some((user, host))
        });
        match user {
            Some((user, host)) => out.push_str(&format!("{user}:{HIDDEN}@{host}")),
            None => out.push_str(authority),
        }
    }
    out.push_str(rest);
    out
}

/// `name=value` and `"name": "value"` without the value, for [`NAMES`].
fn without_named(text: &str) -> String {
    let lower = text.to_ascii_lowercase(); // as long as the text, byte by byte
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    while let Some(value) = next_value(&lower, done) {
        out.push_str(&text[done..value.start]);
        out.push_str(HIDDEN);
        done = value.end;
    }
    out.push_str(&text[done..]);
    out
}

/// Where the next secret behind a name stands.
fn next_value(lower: &str, from: usize) -> Option<std::ops::Range<usize>> {
    let mut first: Option<std::ops::Range<usize>> = None;
    for name in NAMES {
        let mut search = from;
        while let Some(found) = lower.get(search..).and_then(|rest| rest.find(name)) {
            search += found + name.len();
            if first.as_ref().is_some_and(|known| known.start <= search) {
                break;
            }
            if let Some(value) = value_behind(lower, search) {
                first = Some(value);
                break;
            }
        }
    }
    first
}

/// The value behind a name that ends at `end`: after `=` or `:` and quotes around them.
fn value_behind(lower: &str, end: usize) -> Option<std::ops::Range<usize>> {
    let rest = lower.get(end..)?;
    let start = rest.find(|c: char| !"=:\"'\\ ".contains(c))?;
    if !rest[..start].contains(['=', ':']) {
        return None;
    }
    let mut value = &rest[start..];
    for scheme in ["bearer ", "basic "] {
        value = value.strip_prefix(scheme).unwrap_or(value);
    }
    let start = end + rest.len() - value.len();
    let length = value.find(|c: char| c.is_whitespace() || "&\"'\\,;)}]<>`".contains(c));
    let length = length.unwrap_or(value.len());
    (length > 0).then_some(start..start + length)
}

/// Without words that are a secret by their looks.
fn without_tokens(text: &str) -> String {
    let part_of_word = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut bearer = false;
    while let Some(first) = rest.chars().next() {
        let end = if part_of_word(first) {
            rest.find(|c: char| !part_of_word(c)).unwrap_or(rest.len())
        } else {
            rest.find(part_of_word).unwrap_or(rest.len())
        };
        let (word, after) = rest.split_at(end);
        rest = after;
        if !part_of_word(first) {
            out.push_str(word);
            bearer &= word.trim().is_empty();
            continue;
        }
        let hidden = bearer && word.len() > 3 || is_token(word);
        out.push_str(if hidden { HIDDEN } else { word });
        bearer = word.eq_ignore_ascii_case("bearer");
    }
    out
}

/// Whether a word is a key of this service, a JWT, a key of S3 or a WebSocket's bearer protocol.
fn is_token(word: &str) -> bool {
    let own = |word: &str| {
        word.strip_prefix("mtmc_")
            .is_some_and(|key| key.len() >= 32)
    };
    let jwt = |word: &str| word.starts_with("eyJ") && word.matches('.').count() == 2;
    let s3 = |word: &str| {
        let known = word.starts_with("AKIA") || word.starts_with("ASIA");
        known
            && word.len() == 20
            && word
                .chars()
                .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit())
    };
    own(word) || jwt(word) || s3(word) || word.strip_prefix("bearer.").is_some_and(|t| t.len() > 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_taken_out() {
        let key = format!("mtmc_{}", "Ab3-_".repeat(9));
        let jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl";
        let cases = [
            (
                "GET /ws/x?token=abc123&images=none",
                "GET /ws/x?token=***&images=none",
            ),
            (
                "Authorization: Bearer abcdef123",
                "Authorization: Bearer ***",
            ),
            ("got Bearer abcdef123, no", "got Bearer ***, no"),
            (
                r#"{"x-api-key":"k1k2k3","a":1}"#,
                r#"{"x-api-key":"***","a":1}"#,
            ),
            (
                r#"body {\"password\":\"hunter2\"}"#,
                r#"body {\"password\":\"***\"}"#,
            ),
            (
                "postgres://mtmc:s3cr3t@db:5432/mtmc is gone",
                "postgres://mtmc:***@db:5432/mtmc is gone",
            ),
            (
                "rtsp://admin:p@ss@10.0.0.1/live",
                "rtsp://admin:***@10.0.0.1/live",
            ),
            (
                "aws_secret_access_key=wJalrXUtnFEMI region=x",
                "aws_secret_access_key=*** region=x",
            ),
            (
                "https://h/b/k?X-Amz-Credential=AK%2F1&X-Amz-Signature=0a1b&x=1",
                "https://h/b/k?X-Amz-Credential=***&X-Amz-Signature=***&x=1",
            ),
            ("id AKIAIOSFODNN7EXAMPLE end", "id *** end"),
            (
                "protocol bearer.abcdefgh, mtmc.json.v1",
                "protocol ***, mtmc.json.v1",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(redact(text, &[]), expected);
        }
        assert_eq!(redact(&format!("key {key}."), &[]), "key ***");
        assert_eq!(redact(&format!("sent {jwt} again"), &[]), "sent *** again");
    }

    #[test]
    fn known_values_are_taken_out_wherever_they_stand() {
        let known = ["correct horse battery".to_string()];
        assert_eq!(redact("no, correct horse battery!", &known), "no, ***!");
    }

    #[test]
    fn ordinary_lines_stay_as_they_are() {
        let lines = [
            "2026-01-02T03:04:05Z  INFO request{request_id=0192 method=GET}: status=200 ms=1.5",
            "listening on http://127.0.0.1:8000",
            "s3://bucket/c09/000001.jpg: no such object",
            "camera `c09`: the token of the server is missing",
            "path mtmc_data and bearer of news",
            "Straße → 東京",
            "",
        ];
        for line in lines {
            assert_eq!(redact(line, &[]), line);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_can_be_redacted(text in ".{0,80}", key in "[A-Za-z0-9_-]{32,48}") {
            redact(&text, &[]);
            let with_key = redact(&format!("{text} mtmc_{key} {text}"), &[]);
            proptest::prop_assert!(!with_key.contains(&key));
        }
    }
}
