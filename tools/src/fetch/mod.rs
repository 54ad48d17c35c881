//! Fetching published weights by name: download, check, convert, keep in a cache folder.
//!
//! The cache is `$MTMC_CACHE`, else `$XDG_CACHE_HOME/mtmc`, else `~/.cache/mtmc`:
//! `NAME.safetensors` are converted weights, `downloads/NAME/FILE` published files. A file put
//! there by hand is taken as if it had been downloaded.

mod download;

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mtmc_models::weights::read_description;
use sha2::{Digest as _, Sha256};

use crate::convert::convert;
use crate::map::Options;
use crate::registry::{Entry, entries};
use crate::{Error, Result};

pub use download::Request;

/// What is going on, for a progress display.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// A download begins or goes on.
    Download {
        /// Bytes that are there.
        done: u64,
        /// Bytes in all, if the server says so.
        total: Option<u64>,
    },
    /// The download broke off and is tried again.
    Retry(String),
    /// The file is there and its digest computed.
    Digest {
        /// Lower-case hexadecimal SHA-256.
        sha256: String,
        /// Whether there was a known digest to compare with.
        known: bool,
    },
    /// The conversion begins.
    Convert,
}

/// Fetches weights into a cache folder.
#[derive(Debug, Clone)]
pub struct Fetcher {
    /// The cache folder.
    pub cache: PathBuf,
    /// Hugging Face's address or a mirror's.
    pub endpoint: String,
    /// Access token for Hugging Face.
    pub token: Option<String>,
    /// The weights that are known.
    pub entries: Vec<Entry>,
    /// Pause before a download that broke off is tried again; grows with each try.
    pub pause: Duration,
}

impl Fetcher {
    /// With the built-in registry and the environment's folders: `$MTMC_CACHE`, `$HF_ENDPOINT`,
    /// `$HF_TOKEN`.
    ///
    /// # Errors
    /// There is neither a cache folder nor a home in the environment.
    pub fn from_env() -> Result<Self> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let cache = if let Some(folder) = variable("MTMC_CACHE") {
            PathBuf::from(folder)
        } else if let Some(folder) = variable("XDG_CACHE_HOME") {
            Path::new(&folder).join("mtmc")
        } else if let Some(home) = variable("HOME") {
            Path::new(&home).join(".cache/mtmc")
        } else {
            return Err(Error::Fetch(
                "no cache folder: set MTMC_CACHE to a folder for weights".to_string(),
            ));
        };
        Ok(Self {
            cache,
            endpoint: variable("HF_ENDPOINT")
                .unwrap_or_else(|| "https://huggingface.co".to_string()),
            token: variable("HF_TOKEN"),
            entries: entries(),
            pause: Duration::from_secs(1),
        })
    }

    /// The entry called `name`.
    ///
    /// # Errors
    /// There is none; the message lists those that are there.
    pub fn entry(&self, name: &str) -> Result<&Entry> {
        let entry = self.entries.iter().find(|entry| entry.name == name);
        entry.ok_or_else(|| {
            let names: Vec<_> = self.entries.iter().map(|e| e.name.as_str()).collect();
            Error::Fetch(format!(
                "no weights are known as `{name}`; known are {}",
                names.join(", ")
            ))
        })
    }

    /// Where the converted weights `name` are or will be.
    fn target(&self, name: &str) -> PathBuf {
        self.cache.join(format!("{name}.safetensors"))
    }

    /// Where the published file of `entry` goes, also by hand.
    pub fn download_path(&self, entry: &Entry) -> PathBuf {
        let folder = self.cache.join("downloads").join(&entry.name);
        folder.join(entry.file_name())
    }

    /// The converted weights of a known name, if they are in the cache and readable.
    pub fn cached(&self, name: &str) -> Option<PathBuf> {
        let entry = self.entry(name).ok()?;
        let path = self.target(name);
        let description = read_description(&path).ok()?;
        (description.architecture == entry.architecture).then_some(path)
    }

    /// The converted weights of a known name: from the cache, else downloaded, checked and
    /// converted.
    ///
    /// # Errors
    /// The name is not known; the download fails (the message says what to download by hand and
    /// where to put it); the file has not the digest it should have; it cannot be converted.
    pub fn fetch(&self, name: &str, progress: &mut dyn FnMut(Progress)) -> Result<PathBuf> {
        let entry = self.entry(name)?;
        if let Some(path) = self.cached(name) {
            return Ok(path);
        }
        let download = self.download_path(entry);
        let (file, ours) = if download.is_file() {
            (download, false)
        } else if let Some(path) = entry.in_hugging_face_cache() {
            (path, false)
        } else {
            self.download(entry, &download, progress)?;
            (download, true)
        };
        self.verify(entry, &file, ours, progress)?;
        progress(Progress::Convert);
        let options = Options {
            architecture: Some(entry.architecture.clone()),
            licence: Some(entry.licence.clone()),
            source: Some(entry.origin()),
            ..Options::default()
        };
        std::fs::create_dir_all(&self.cache).map_err(Error::io(&self.cache))?;
        let target = self.target(name);
        convert(&file, &target, &options)?;
        if ours {
            // Only space is at stake.
            let _ = std::fs::remove_file(&file);
        }
        Ok(target)
    }

    fn download(
        &self,
        entry: &Entry,
        path: &Path,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        }
        let url = entry.url(&self.endpoint);
        let on_hub = url.starts_with(&self.endpoint);
        let request = Request {
            url: &url,
            token: self.token.as_deref().filter(|_| on_hub),
            size: entry.size,
            pause: self.pause,
        };
        download::download(&request, path, progress)
            .map_err(|reason| Error::Fetch(self.by_hand(entry, &url, &reason)))
    }

    fn by_hand(&self, entry: &Entry, url: &str, reason: &str) -> String {
        let mut facts = Vec::new();
        facts.extend(entry.size.map(|size| format!("{size} bytes")));
        facts.extend(
            entry
                .sha256
                .as_ref()
                .map(|digest| format!("sha256 {digest}")),
        );
        let facts = if facts.is_empty() {
            String::new()
        } else {
            format!(" ({})", facts.join(", "))
        };
        format!(
            "could not download {name}: {reason}\n\
             What is there so far is kept, and the next try goes on from it.\n\
             Without a network, download by hand\n  {url}{facts}\nput it at\n  {path}\n\
             and run `mtmc models fetch {name}` again",
            name = entry.name,
            path = self.download_path(entry).display()
        )
    }

    fn verify(
        &self,
        entry: &Entry,
        file: &Path,
        ours: bool,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<()> {
        let found = sha256(file)?;
        let wrong = entry.sha256.as_ref().filter(|known| **known != found);
        if let Some(known) = wrong {
            let next = if ours {
                // Going on from wrong bytes would never end well.
                let _ = std::fs::remove_file(file);
                "it was removed; try again"
            } else {
                "remove it or replace it"
            };
            return Err(Error::Fetch(format!(
                "{}: its sha256 is {found}, that of {} is {known}: damaged or another file; {next}",
                file.display(),
                entry.name
            )));
        }
        progress(Progress::Digest {
            sha256: found,
            known: entry.sha256.is_some(),
        });
        Ok(())
    }
}

/// SHA-256 of a file in lower-case hexadecimal.
///
/// # Errors
/// The file cannot be read.
pub fn sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0_u8; 1 << 20];
    loop {
        let count = file.read(&mut buffer).map_err(Error::io(path))?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
    }
    let mut text = String::new();
    for byte in hasher.finalize() {
        // Writing into a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}
