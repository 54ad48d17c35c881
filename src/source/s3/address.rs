//! `s3://bucket/key`, taken apart.

use std::path::Path;

use super::super::image_file::has_image_ending;

/// Endings of keys that are opened as videos.
const VIDEO_ENDINGS: [&str; 15] = [
    "mp4", "m4v", "mov", "mkv", "webm", "avi", "ts", "mts", "m2ts", "mpg", "mpeg", "flv", "wmv",
    "3gp", "h264",
];

/// A place in an object store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) bucket: String,
    /// Key or prefix; may be empty.
    pub(super) key: String,
}

/// What an address names, told by its ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    /// Keys with a common beginning.
    Prefix,
    /// One image.
    Image,
    /// One video.
    Video,
}

impl Address {
    /// Takes `s3://bucket` or `s3://bucket/key` apart; `None` for anything else.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        if !scheme.eq_ignore_ascii_case("s3") {
            return None;
        }
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if bucket.is_empty() || bucket.len() > 255 || !bucket.chars().all(plain) {
            return None;
        }
        Some(Self {
            bucket: bucket.to_string(),
            key: key.to_string(),
        })
    }

    pub(super) fn named(&self) -> Named {
        let path = Path::new(&self.key);
        if self.key.ends_with('/') {
            return Named::Prefix;
        }
        if has_image_ending(path) {
            return Named::Image;
        }
        let Some(ending) = path.extension() else {
            return Named::Prefix;
        };
        let ending = ending.to_string_lossy().to_ascii_lowercase();
        if VIDEO_ENDINGS.contains(&ending.as_str()) {
            return Named::Video;
        }
        Named::Prefix
    }

    /// The key as a folder: ending in `/`, or empty for the whole bucket.
    pub(super) fn folder(&self) -> String {
        let key = self.key.trim_end_matches('/');
        if key.is_empty() {
            return String::new();
        }
        format!("{key}/")
    }

    /// The folder around it, ending in `/`; empty at the top.
    pub(super) fn parent(&self) -> String {
        match self.key.trim_end_matches('/').rsplit_once('/') {
            Some((parent, _)) => format!("{parent}/"),
            None => String::new(),
        }
    }

    /// The last part of the key; the bucket's name where there is none.
    pub(super) fn name(&self) -> &str {
        match self.key.trim_end_matches('/').rsplit('/').next() {
            None | Some("") => &self.bucket,
            Some(name) => name,
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        Address::parse(text).unwrap()
    }

    #[test]
    fn addresses_are_taken_apart() {
        let frames = address("s3://cameras/site-1/cam 2/");
        assert_eq!(frames.bucket, "cameras");
        assert_eq!(frames.key, "site-1/cam 2/");
        assert_eq!(frames.folder(), "site-1/cam 2/");
        assert_eq!(frames.parent(), "site-1/");
        assert_eq!(frames.name(), "cam 2");
        assert_eq!(frames.to_string(), "s3://cameras/site-1/cam 2/");

        for whole in ["s3://cameras", "S3://cameras/"] {
            assert_eq!(address(whole).folder(), "");
            assert_eq!(address(whole).parent(), "");
            assert_eq!(address(whole).name(), "cameras");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "s3://",
            "s3:///key",
            "https://b/k",
            "bucket/key",
            "s3://a b/k",
            "s3://a@b/k",
        ] {
            assert_eq!(Address::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_ending_says_what_is_named() {
        assert_eq!(address("s3://b/a/f.JPG").named(), Named::Image);
        assert_eq!(address("s3://b/a/v.mp4").named(), Named::Video);
        assert_eq!(address("s3://b/a/v.mp4/").named(), Named::Prefix);
        assert_eq!(address("s3://b/a.b/cam1").named(), Named::Prefix);
        assert_eq!(address("s3://b/2024.05").named(), Named::Prefix);
        assert_eq!(address("s3://b").named(), Named::Prefix);
    }
}
