//! The sources of `mtmc track`: named, opened, and how they are opened again.

use std::collections::{BTreeMap, HashSet};
use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::config::Environment;
use crate::source::{self, FrameSource, OpenOptions, PacedSource, Reopen, VideoDecoder};

/// A source, opened.
pub struct NamedSource {
    /// The camera's name, and that of its files.
    pub name: String,
    /// Where it is.
    pub spec: String,
    pub source: Box<dyn FrameSource>,
    /// How it is opened again, if it is live.
    pub reopen: Option<Reopen>,
}

/// How sources are opened.
#[derive(Debug, Clone, Copy)]
pub struct Opening {
    /// Frames a second of folders, over what they say.
    pub frame_rate: Option<f64>,
    /// Pace those that are not live.
    pub realtime: bool,
    /// They must be such that a run can be resumed.
    pub resumable: bool,
    /// There are others to go on with if a live one is not there yet.
    pub several: bool,
}

impl NamedSource {
    /// Frames a second; what is common where it does not tell.
    pub fn frame_rate(&self) -> f64 {
        self.source.info().frame_rate.unwrap_or(30.0)
    }

    /// Width and height in pixels.
    pub fn size(&self) -> [f64; 2] {
        let (width, height) = self.source.info().size;
        [f64::from(width), f64::from(height)]
    }
}

impl Opening {
    /// Opens one source whose frames come `start_offset` seconds later than the environment begins.
    fn open(
        &self,
        spec: &str,
        start_offset: f64,
    ) -> anyhow::Result<(Box<dyn FrameSource>, Option<Reopen>)> {
        if self.resumable {
            super::snapshots::check_source(spec)?;
        }
        let options = OpenOptions {
            frame_rate: self.frame_rate,
            keep_jpeg: false,
            decoder: VideoDecoder::Auto,
        };
        let opened = source::open_lasting(spec, options, self.several)?;
        if let Some(absence) = opened.absence {
            let told = format!("warning: {absence}; going on without it until it is there");
            writeln!(std::io::stderr(), "{told}")?;
        }
        if !self.realtime || opened.reopen.is_some() {
            return Ok((opened.source, opened.reopen));
        }
        let offset = Duration::try_from_secs_f64(start_offset).unwrap_or_default();
        Ok((Box::new(PacedSource::new(opened.source, offset)), None))
    }

    /// Opens sources that have no other names than their own.
    pub fn named_by_themselves(&self, specs: &[String]) -> anyhow::Result<Vec<NamedSource>> {
        let mut names = HashSet::new();
        let mut sources = Vec::new();
        for spec in specs {
            let (source, reopen) = self.open(spec, 0.0)?;
            // Two sources of one name must not write into the same files.
            let base = file_name(&source.info().name);
            let mut name = base.clone();
            let mut copy = 2;
            while !names.insert(name.clone()) {
                name = format!("{base}-{copy}");
                copy += 1;
            }
            sources.push(NamedSource {
                name,
                spec: spec.clone(),
                source,
                reopen,
            });
        }
        Ok(sources)
    }

    /// Opens the cameras of an environment, each with its source or the one `given` for it as
    /// `CAMERA=SOURCE`.
    pub fn of_environment(
        &self,
        environment: &Environment,
        given: &[String],
    ) -> anyhow::Result<Vec<NamedSource>> {
        let mut specs = BTreeMap::new();
        for text in given {
            let Some((id, source)) = text.split_once('=') else {
                bail!("{text}: with --environment a source is given as CAMERA=SOURCE");
            };
            if environment.camera_index(id).is_none() {
                bail!("{text}: the environment has no camera `{id}`");
            }
            specs.insert(id, source);
        }
        let mut sources = Vec::new();
        for camera in &environment.cameras {
            let spec = specs.get(camera.id.as_str()).copied();
            let Some(spec) = spec.or(camera.source.as_deref()) else {
                bail!(
                    "camera `{0}` has no source: name one in the file, or give {0}=SOURCE",
                    camera.id
                );
            };
            let opening = Self {
                frame_rate: self.frame_rate.or(camera.frame_rate),
                ..*self
            };
            let (source, reopen) = opening
                .open(spec, camera.start_offset)
                .with_context(|| format!("camera `{}`", camera.id))?;
            sources.push(NamedSource {
                name: camera.id.clone(),
                spec: spec.to_string(),
                source,
                reopen,
            });
        }
        Ok(sources)
    }
}

/// A source's name as a file name: what is no letter, digit, `-`, `_` or `.` becomes `_`.
fn file_name(name: &str) -> String {
    let safe: String = name
        .chars()
        .map(|c| {
            if c.is_alphanumeric() || "-_.".contains(c) {
                c
            } else {
                '_'
            }
        })
        .collect();
    match safe.trim_matches('.') {
        "" => "source".to_string(),
        safe => safe.to_string(),
    }
}

/// How many frames there will be, if all sources tell.
pub fn total_frames(sources: &[NamedSource], limit: Option<u64>) -> Option<u64> {
    let mut total = 0;
    for source in sources {
        let frames = match (source.source.info().frame_count, limit) {
            (Some(count), Some(limit)) => count.min(limit),
            (Some(count), None) => count,
            (None, Some(limit)) => limit,
            (None, None) => return None,
        };
        total += frames;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_sources_become_harmless_file_names() {
        assert_eq!(file_name("lobby cam/1"), "lobby_cam_1");
        assert_eq!(file_name("../.."), "_");
        assert_eq!(file_name(".."), "source");
    }
}
