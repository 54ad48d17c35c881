//! The images that are learnt from, labelled, and those that measure what was learnt.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mtmc_tools::dataset::draw::draw;
use mtmc_tools::dataset::market1501::Image;
use mtmc_tools::dataset::{DataError, Progress};
use rayon::prelude::*;

use super::folders::{self, Kind};
use crate::source::read_image;

/// One image to learn from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// The file.
    pub path: PathBuf,
    /// The person, counted from 0 through the people of the set.
    pub label: u32,
    /// The camera, counted from 0 through the cameras of the set.
    pub camera: u32,
}

/// Images that measure what was learnt: for each query, who of the gallery is it?
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Probe {
    /// Who is looked for.
    pub query: Vec<Image>,
    /// Where; without junk.
    pub gallery: Vec<Image>,
}

impl Probe {
    /// Reads names and lists of the data set in `root`; no image is opened, and none has to be there
    /// to learn from.
    ///
    /// # Errors
    /// The folder is laid out otherwise; images are misnamed or missing (all of them are told).
    pub fn open(root: &Path, kind: Kind) -> Result<Self, DataError> {
        let (query, gallery) = folders::read_probe(root, kind)?;
        Ok(Self { query, gallery })
    }
}

/// A re-ID data set to learn from.
#[derive(Debug, Clone)]
pub struct TrainSet {
    root: PathBuf,
    kind: Kind,
    images: Vec<Image>,
    /// Images that the data set itself sets apart for validation, of people of their own.
    set_apart: BTreeSet<i64>,
    samples: Arc<[Sample]>,
    people: Vec<i64>,
    cameras: Vec<u32>,
    validation: Option<Probe>,
    test: Option<Probe>,
    warnings: Vec<String>,
}

impl TrainSet {
    /// Reads names and lists of the data set in `root`; no image is opened ([`Self::verify`]).
    ///
    /// All training images are learnt from, as published figures are; [`Self::hold_out`] sets some
    /// people apart.
    ///
    /// # Errors
    /// The folder is laid out otherwise or without people; images are misnamed or missing (all of
    /// them are told).
    pub fn open(root: &Path, kind: Kind) -> Result<Self, DataError> {
        let found = folders::read(root, kind)?;
        let learnt = folders::people(&found.train);
        let set_apart = &folders::people(&found.val) - &learnt;
        let mut images = found.train;
        images.extend(found.val);
        let test = Probe {
            query: found.query,
            gallery: folders::without_junk(found.gallery),
        };
        let test = (!test.query.is_empty() && !test.gallery.is_empty()).then_some(test);
        let mut set = Self {
            root: root.to_path_buf(),
            kind: found.kind,
            images: Vec::new(),
            set_apart,
            samples: Arc::new([]),
            people: Vec::new(),
            cameras: Vec::new(),
            validation: None,
            test,
            warnings: found.warnings,
        };
        set.learn_from(images)?;
        Ok(set)
    }

    /// Sets people apart for choosing a checkpoint: those that `mtmc data prepare` set apart, else
    /// the share (0..1) of them that `seed` draws. None of them is learnt from any more; their
    /// first image in every camera becomes a query, the others the gallery.
    ///
    /// # Errors
    /// The share is out of range, or leaves fewer than two people on a side.
    pub fn hold_out(&self, share: f64, seed: u64) -> Result<Self, DataError> {
        if !(0.0..1.0).contains(&share) {
            let reason = format!("a validation share of {share} is not within 0..1");
            return Err(DataError::Setting(reason));
        }
        let people: BTreeSet<i64> = self.people.iter().copied().collect();
        let count = (people.len() as f64 * share).round() as usize;
        let chosen = if self.set_apart.is_empty() {
            draw(&people, count, seed)
        } else {
            self.set_apart.clone()
        };
        if chosen.len() < 2 || people.len() - chosen.len() < 2 {
            return Err(DataError::Setting(format!(
                "{} of {} people set apart for validation: at least 2 must be on either side",
                chosen.len(),
                people.len()
            )));
        }
        let all = self.images.iter().cloned();
        let (apart, learnt) = all.partition(|image: &Image| chosen.contains(&image.name.id));
        let mut set = self.clone();
        set.validation = Some(probe(apart));
        set.learn_from(learnt)?;
        Ok(set)
    }

    fn learn_from(&mut self, images: Vec<Image>) -> Result<(), DataError> {
        let labels: BTreeMap<i64, u32> = folders::people(&images).into_iter().zip(0..).collect();
        let cameras: BTreeSet<u32> = images.iter().map(|image| image.name.camera).collect();
        let camera_labels: BTreeMap<u32, u32> = cameras.iter().copied().zip(0..).collect();
        if labels.is_empty() {
            return Err(DataError::File {
                path: self.root.clone(),
                reason: "no images of people to learn from".to_string(),
            });
        }
        let samples = images.iter().filter_map(|image| {
            Some(Sample {
                path: image.path.clone(),
                label: *labels.get(&image.name.id)?,
                camera: *camera_labels.get(&image.name.camera)?,
            })
        });
        self.samples = samples.collect();
        self.people = labels.into_keys().collect();
        self.cameras = cameras.into_iter().collect();
        self.images = images;
        Ok(())
    }

    /// Opens every image, those of validation and test as well.
    ///
    /// # Errors
    /// All that cannot be read, at once.
    pub fn verify(&self, progress: &dyn Progress) -> Result<(), DataError> {
        let probes = [&self.validation, &self.test];
        let probes = probes.into_iter().flatten();
        let probed = probes.flat_map(|probe| probe.query.iter().chain(&probe.gallery));
        let images: Vec<&Image> = self.images.iter().chain(probed).collect();
        progress.begin("images checked", images.len() as u64);
        let broken: Vec<Option<String>> = images
            .par_iter()
            .map(|image| {
                let problem = read_image(&image.path).err().map(|error| chain(&error));
                progress.advance();
                problem
            })
            .collect();
        folders::many(
            &self.root,
            "broken images",
            broken.into_iter().flatten().collect(),
        )
    }

    /// The images to learn from.
    pub fn samples(&self) -> Arc<[Sample]> {
        self.samples.clone()
    }

    /// ID in the data set of every label.
    pub fn people(&self) -> &[i64] {
        &self.people
    }

    /// Number in the data set of every camera label.
    pub fn cameras(&self) -> &[u32] {
        &self.cameras
    }

    /// Which layout was found.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The people that were set apart, after [`Self::hold_out`].
    pub fn validation(&self) -> Option<&Probe> {
        self.validation.as_ref()
    }

    /// The data set's own queries and gallery.
    pub fn test(&self) -> Option<&Probe> {
        self.test.as_ref()
    }

    /// In what it differs from the published data set.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

/// An error with its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Queries and gallery of people whose images were in one folder.
///
/// An only image in a camera is worth more as an answer than as a query; one of them asks all the
/// same where nobody else would ask for that person.
fn probe(images: Vec<Image>) -> Probe {
    let mut people: BTreeMap<i64, BTreeMap<u32, Vec<Image>>> = BTreeMap::new();
    for image in images {
        let views = people.entry(image.name.id).or_default();
        views.entry(image.name.camera).or_default().push(image);
    }
    let mut probe = Probe::default();
    for views in people.into_values() {
        let mut needs_query = views.len() > 1 && views.values().all(|view| view.len() == 1);
        for mut view in views.into_values() {
            if view.len() > 1 || needs_query {
                needs_query = false;
                probe.query.push(view.remove(0));
            }
            probe.gallery.extend(view);
        }
    }
    probe
}
