//! How an object store is reached, and the bounds on what it may send.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::super::SourceError;

/// How an object store is reached, and how much of it is held at once.
#[derive(Debug, Clone, PartialEq)]
pub struct S3Settings {
    /// Address of the store, such as `http://localhost:9000`. `None` for Amazon's, or what the
    /// AWS profile says.
    pub endpoint: Option<String>,
    /// Region. `None` for what the AWS profile or the machine says, and `us-east-1` where an
    /// endpoint is given or nothing says.
    pub region: Option<String>,
    /// Bucket in the path (`endpoint/bucket/key`) instead of the host's name. `None` for: where
    /// an endpoint is given.
    pub path_style: Option<bool>,
    /// Who asks.
    pub credentials: S3Credentials,
    /// Objects that are fetched or wait to be taken, at most (1..=256).
    pub prefetch: usize,
    /// Bytes of those objects, by the sizes that the listing told. One object alone may be larger.
    pub prefetch_bytes: u64,
    /// Largest image that is fetched, in bytes; larger ones are skipped.
    pub max_object_bytes: u64,
    /// Largest video that is fetched, in bytes.
    pub max_video_bytes: u64,
    /// Keys that are looked at before the first frame where numbers in names have no leading
    /// zeros, so that the store's order is not the natural one (1000..=10,000,000).
    pub sort_window: usize,
    /// Longest time of one request, its answer included.
    pub timeout: Duration,
    /// Attempts for one object or one page of the listing (1..=100).
    pub attempts: u32,
    /// Longest time of all attempts together.
    pub deadline: Duration,
    /// Where videos are kept while they are read; `None` for the system's folder.
    pub temp_dir: Option<PathBuf>,
}

/// Who asks an object store.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum S3Credentials {
    /// The AWS chain: environment, profile, web identity, container, instance.
    #[default]
    Chain,
    /// These keys.
    Keys {
        /// The key's public name.
        access_key_id: String,
        /// The key itself.
        secret_access_key: S3Secret,
        /// For keys that expire.
        session_token: Option<S3Secret>,
    },
    /// Nobody: requests are not signed. For public buckets.
    Anonymous,
}

/// A text that is never shown: not in logs, not in errors, not by `{:?}`.
#[derive(Clone, PartialEq, Eq)]
pub struct S3Secret(String);

impl S3Secret {
    /// Hides a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for S3Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Default for S3Settings {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: None,
            path_style: None,
            credentials: S3Credentials::Chain,
            prefetch: 8,
            prefetch_bytes: 64 << 20,
            max_object_bytes: 64 << 20,
            max_video_bytes: 16 << 30,
            sort_window: 100_000,
            timeout: Duration::from_secs(30),
            attempts: 5,
            deadline: Duration::from_secs(60),
            temp_dir: None,
        }
    }
}

impl S3Settings {
    /// What the environment variables of this process say, over the defaults; see `docs/s3.md`.
    ///
    /// # Errors
    /// When a variable cannot be read or is out of its range.
    pub fn from_env() -> Result<Self, SourceError> {
        Self::from_variables(|name| std::env::var_os(name))
    }

    /// The same, by a function that gives the variables' values. Empty ones count as none.
    ///
    /// # Errors
    /// When a variable cannot be read or is out of its range.
    pub fn from_variables(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Self, SourceError> {
        let variables = Variables { lookup };
        let mut settings = Self {
            endpoint: variables.first(&[
                "MTMC_S3_ENDPOINT",
                "AWS_ENDPOINT_URL_S3",
                "AWS_ENDPOINT_URL",
            ]),
            region: variables.first(&["AWS_REGION", "AWS_DEFAULT_REGION"]),
            temp_dir: variables.first(&["MTMC_S3_TEMP_DIR"]).map(PathBuf::from),
            ..Self::default()
        };
        variables.put("MTMC_S3_PREFETCH", &mut settings.prefetch)?;
        variables.put("MTMC_S3_SORT_WINDOW", &mut settings.sort_window)?;
        variables.put("MTMC_S3_ATTEMPTS", &mut settings.attempts)?;
        variables.mib("MTMC_S3_PREFETCH_MIB", &mut settings.prefetch_bytes)?;
        variables.mib("MTMC_S3_OBJECT_MIB", &mut settings.max_object_bytes)?;
        variables.mib("MTMC_S3_VIDEO_MIB", &mut settings.max_video_bytes)?;
        variables.seconds("MTMC_S3_TIMEOUT", &mut settings.timeout)?;
        variables.seconds("MTMC_S3_DEADLINE", &mut settings.deadline)?;
        settings.path_style = variables.yes_or_no("MTMC_S3_PATH_STYLE")?;
        if variables.yes_or_no("MTMC_S3_ANONYMOUS")? == Some(true) {
            settings.credentials = S3Credentials::Anonymous;
        }
        settings.check()?;
        Ok(settings)
    }

    /// Refuses what makes no sense.
    ///
    /// # Errors
    /// With the setting's variable and its range.
    pub fn check(&self) -> Result<(), SourceError> {
        if let Some(endpoint) = &self.endpoint {
            check_endpoint(endpoint)?;
        }
        let longest = Duration::from_secs(24 * 3600);
        let shortest = Duration::from_millis(1);
        let checks = [
            (
                "MTMC_S3_PREFETCH",
                (1..=256).contains(&self.prefetch),
                "1 to 256",
            ),
            (
                "MTMC_S3_SORT_WINDOW",
                (1000..=10_000_000).contains(&self.sort_window),
                "1000 to 10000000 keys",
            ),
            (
                "MTMC_S3_ATTEMPTS",
                (1..=100).contains(&self.attempts),
                "1 to 100",
            ),
            ("MTMC_S3_PREFETCH_MIB", self.prefetch_bytes > 0, "above 0"),
            ("MTMC_S3_OBJECT_MIB", self.max_object_bytes > 0, "above 0"),
            ("MTMC_S3_VIDEO_MIB", self.max_video_bytes > 0, "above 0"),
            (
                "MTMC_S3_TIMEOUT",
                (shortest..=longest).contains(&self.timeout),
                "above 0 seconds and at most a day",
            ),
            (
                "MTMC_S3_DEADLINE",
                (shortest..=longest).contains(&self.deadline),
                "above 0 seconds and at most a day",
            ),
        ];
        for (name, right, range) in checks {
            if !right {
                return Err(wrong(name, &format!("must be {range}")));
            }
        }
        Ok(())
    }
}

/// Plain or encrypted HTTP, without a name and password, which would show in errors.
fn check_endpoint(endpoint: &str) -> Result<(), SourceError> {
    let name = "MTMC_S3_ENDPOINT";
    let rest = endpoint
        .strip_prefix("http://")
        .or_else(|| endpoint.strip_prefix("https://"));
    let Some(rest) = rest.filter(|rest| !rest.is_empty()) else {
        return Err(wrong(name, "must start with http:// or https://"));
    };
    if rest
        .split('/')
        .next()
        .is_some_and(|host| host.contains('@'))
    {
        return Err(wrong(name, "must not hold a name and password"));
    }
    Ok(())
}

fn wrong(name: &str, reason: &str) -> SourceError {
    SourceError::Setting {
        name: name.to_string(),
        reason: reason.to_string(),
    }
}

/// Environment variables, by a function that gives their values.
struct Variables<F> {
    lookup: F,
}

impl<F: Fn(&str) -> Option<OsString>> Variables<F> {
    fn first(&self, names: &[&str]) -> Option<String> {
        for name in names {
            let value = (self.lookup)(name).filter(|value| !value.is_empty());
            if let Some(value) = value {
                return Some(value.to_string_lossy().trim().to_string());
            }
        }
        None
    }

    fn put<T: FromStr>(&self, name: &str, setting: &mut T) -> Result<(), SourceError> {
        if let Some(text) = self.first(&[name]) {
            *setting = text
                .parse()
                .map_err(|_| wrong(name, "is not a whole number"))?;
        }
        Ok(())
    }

    fn mib(&self, name: &str, setting: &mut u64) -> Result<(), SourceError> {
        let mut mebibytes = *setting >> 20;
        self.put(name, &mut mebibytes)?;
        *setting = mebibytes
            .checked_mul(1 << 20)
            .ok_or_else(|| wrong(name, "is too large"))?;
        Ok(())
    }

    fn seconds(&self, name: &str, setting: &mut Duration) -> Result<(), SourceError> {
        if let Some(text) = self.first(&[name]) {
            let seconds = text.parse().map_err(|_| wrong(name, "is not a number"))?;
            *setting = Duration::try_from_secs_f64(seconds)
                .map_err(|_| wrong(name, "is not a length of time"))?;
        }
        Ok(())
    }

    fn yes_or_no(&self, name: &str) -> Result<Option<bool>, SourceError> {
        let Some(text) = self.first(&[name]) else {
            return Ok(None);
        };
        match text.to_ascii_lowercase().as_str() {
            "1" | "true" | "yes" | "on" => Ok(Some(true)),
            "0" | "false" | "no" | "off" => Ok(Some(false)),
            _ => Err(wrong(name, "must be true or false")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(pairs: &[(&str, &str)]) -> Result<S3Settings, SourceError> {
        S3Settings::from_variables(|name| {
            let pair = pairs.iter().find(|(key, _)| *key == name)?;
            Some(OsString::from(pair.1))
        })
    }

    #[test]
    fn nothing_said_gives_the_defaults() {
        assert_eq!(from(&[]).unwrap(), S3Settings::default());
        assert_eq!(
            from(&[("MTMC_S3_PREFETCH", "")]).unwrap(),
            S3Settings::default()
        );
    }

    #[test]
    fn variables_are_read() {
        let settings = from(&[
            ("MTMC_S3_ENDPOINT", "http://localhost:9000"),
            ("AWS_ENDPOINT_URL", "http://elsewhere"),
            ("AWS_REGION", "eu-north-1"),
            ("MTMC_S3_PATH_STYLE", "no"),
            ("MTMC_S3_PREFETCH", "3"),
            ("MTMC_S3_PREFETCH_MIB", "5"),
            ("MTMC_S3_TIMEOUT", "0.5"),
            ("MTMC_S3_ANONYMOUS", "1"),
        ])
        .unwrap();
        assert_eq!(settings.endpoint.as_deref(), Some("http://localhost:9000"));
        assert_eq!(settings.region.as_deref(), Some("eu-north-1"));
        assert_eq!(settings.path_style, Some(false));
        assert_eq!(settings.prefetch, 3);
        assert_eq!(settings.prefetch_bytes, 5 << 20);
        assert_eq!(settings.timeout, Duration::from_millis(500));
        assert_eq!(settings.credentials, S3Credentials::Anonymous);
    }

    #[test]
    fn wrong_variables_are_named() {
        let cases = [
            ("MTMC_S3_PREFETCH", "0"),
            ("MTMC_S3_PREFETCH", "many"),
            ("MTMC_S3_TIMEOUT", "-1"),
            ("MTMC_S3_TIMEOUT", "NaN"),
            ("MTMC_S3_DEADLINE", "0"),
            ("MTMC_S3_OBJECT_MIB", "99999999999999999"),
            ("MTMC_S3_PATH_STYLE", "perhaps"),
            ("MTMC_S3_ENDPOINT", "localhost:9000"),
            ("MTMC_S3_ENDPOINT", "http://me:pass@localhost"),
        ];
        for (name, value) in cases {
            let message = from(&[(name, value)]).unwrap_err().to_string();
            assert!(message.starts_with(name), "{name}={value}: {message}");
            assert!(!message.contains("pass@"), "{message}");
        }
    }

    #[test]
    fn secrets_do_not_show() {
        let settings = S3Settings {
            credentials: S3Credentials::Keys {
                access_key_id: "AKIA".to_string(),
                secret_access_key: S3Secret::new("hunter2"),
                session_token: Some(S3Secret::new("hunter2")),
            },
            ..S3Settings::default()
        };
        assert!(!format!("{settings:?}").contains("hunter2"));
    }
}
