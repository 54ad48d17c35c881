//! The weights that can be fetched by name: `registry.toml`, built into the program.

use hf_hub::{Cache, Repo, RepoType};
use serde::Deserialize;
use std::path::PathBuf;

const REGISTRY: &str = include_str!("../registry.toml");

/// Where a published file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file of a Hugging Face repository.
    HuggingFace {
        /// `owner/name`.
        repository: String,
        /// Branch, tag or commit.
        revision: String,
        /// Path within it.
        file: String,
    },
    /// Anywhere else.
    Url(String),
}

/// One entry of the registry.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawEntry")]
pub struct Entry {
    /// What the user calls it.
    pub name: String,
    /// The network.
    pub architecture: String,
    /// Where it is published.
    pub source: Source,
    /// SHA-256 of the published file, lower-case hexadecimal; `None` where it is not known.
    pub sha256: Option<String>,
    /// Bytes of the published file; `None` where it is not known.
    pub size: Option<u64>,
    /// Licence of the weights, as their publisher states it.
    pub licence: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    name: String,
    architecture: String,
    repository: Option<String>,
    revision: Option<String>,
    file: Option<String>,
    url: Option<String>,
    sha256: Option<String>,
    size: Option<u64>,
    licence: String,
}

impl TryFrom<RawEntry> for Entry {
    type Error = String;

    fn try_from(raw: RawEntry) -> Result<Self, String> {
        let name = raw.name;
        let source = match (raw.repository, raw.file, raw.url) {
            (Some(repository), Some(file), None) => Source::HuggingFace {
                repository,
                revision: raw.revision.unwrap_or_else(|| "main".to_string()),
                file,
            },
            (None, None, Some(url)) => Source::Url(url),
            _ => return Err(format!("{name}: needs repository and file, or url")),
        };
        let hexadecimal = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        if let Some(digest) = &raw.sha256
            && (digest.len() != 64 || !digest.chars().all(hexadecimal))
        {
            return Err(format!(
                "{name}: sha256 is no lower-case hexadecimal digest"
            ));
        }
        Ok(Self {
            name,
            architecture: raw.architecture,
            source,
            sha256: raw.sha256,
            size: raw.size,
            licence: raw.licence,
        })
    }
}

#[derive(Deserialize)]
struct Registry {
    model: Vec<Entry>,
}

/// Reads a registry file's text.
///
/// # Errors
/// The text is no registry; the message says where.
pub fn parse(text: &str) -> Result<Vec<Entry>, String> {
    let registry: Registry = toml::from_str(text).map_err(|error| error.to_string())?;
    Ok(registry.model)
}

/// All weights that are known, in the registry's order.
pub fn entries() -> Vec<Entry> {
    // A test reads the built-in text; it cannot be wrong in a built program.
    parse(REGISTRY).unwrap_or_default()
}

impl Entry {
    /// The address to download from; `endpoint` is Hugging Face's or a mirror's.
    pub fn url(&self, endpoint: &str) -> String {
        match &self.source {
            Source::HuggingFace {
                repository,
                revision,
                file,
            } => {
                // A revision may hold slashes (`refs/pr/1`), which the address must not.
                let revision = revision.replace('/', "%2F");
                let endpoint = endpoint.trim_end_matches('/');
                format!("{endpoint}/{repository}/resolve/{revision}/{file}")
            }
            Source::Url(url) => url.clone(),
        }
    }

    /// Name of the published file, without its folder.
    pub fn file_name(&self) -> &str {
        let path = match &self.source {
            Source::HuggingFace { file, .. } => file,
            Source::Url(url) => url,
        };
        path.rsplit('/').next().unwrap_or(path)
    }

    /// Where it is published, in one line.
    pub fn origin(&self) -> String {
        match &self.source {
            Source::HuggingFace {
                repository, file, ..
            } => format!("huggingface.co/{repository} {file}"),
            Source::Url(url) => url.clone(),
        }
    }

    /// The file in Hugging Face's own cache (`$HF_HOME`), where its tools put what they download.
    pub fn in_hugging_face_cache(&self) -> Option<PathBuf> {
        match &self.source {
            Source::HuggingFace {
                repository,
                revision,
                file,
            } => Cache::from_env().repo(repo(repository, revision)).get(file),
            Source::Url(_) => None,
        }
    }
}

fn repo(repository: &str, revision: &str) -> Repo {
    Repo::with_revision(
        repository.to_string(),
        RepoType::Model,
        revision.to_string(),
    )
}

#[cfg(test)]
mod tests {
    use mtmc_models::network::{DETECTORS, is_embedder};

    use super::*;

    #[test]
    fn the_registry_is_sound() {
        let entries = parse(REGISTRY).unwrap();
        assert!(entries.len() >= 15);
        for (index, entry) in entries.iter().enumerate() {
            let architecture = entry.architecture.as_str();
            assert!(
                DETECTORS.contains(&architecture) || is_embedder(architecture),
                "{}",
                entry.name
            );
            let twice = entries[..index]
                .iter()
                .any(|other| other.name == entry.name);
            assert!(!twice, "{} is there twice", entry.name);
            // A name is also a file's name.
            let plain = |c: char| c.is_ascii_alphanumeric() || "-.".contains(c);
            assert!(entry.name.chars().all(plain), "{}", entry.name);
        }
    }

    #[test]
    fn addresses_are_as_hugging_face_has_them() {
        let entries = parse(REGISTRY).unwrap();
        let entry = entries.iter().find(|e| e.name == "rtdetr-r18").unwrap();
        assert_eq!(
            entry.url("https://huggingface.co/"),
            "https://huggingface.co/PekingU/rtdetr_r18vd/resolve/main/model.safetensors"
        );
        assert_eq!(entry.file_name(), "model.safetensors");
    }

    #[test]
    fn wrong_entries_are_refused() {
        let start = "[[model]]\nname = \"x\"\narchitecture = \"y\"\nlicence = \"z\"\n";
        for rest in [
            "",
            "file = \"f\"",
            "url = \"u\"\nsha256 = \"123\"",
            "url = \"u\"\nextra = 1",
        ] {
            assert!(parse(&format!("{start}{rest}")).is_err(), "{rest}");
        }
        assert!(parse(&format!("{start}url = \"u\"")).is_ok());
    }
}
