//! A made-up re-ID set in Market-1501's format: figures with clothes, pose and bag, seen by cameras
//! with their own light, colours and focus; for tests and demonstrations.
//!
//! Nobody real is in it. It is far easier than real pictures, but not trivially so: people share
//! colours, cameras shift them, poses, backgrounds and things in between change.

mod camera;
mod canvas;
mod figure;
mod person;

use std::collections::BTreeMap;
use std::path::Path;

use image::RgbImage;
use mtmc_tools::dataset::folder::Staging;
use mtmc_tools::dataset::market1501::{DISTRACTOR, GALLERY, ImageName, JUNK, QUERY, TRAIN};
use mtmc_tools::dataset::pictures::write_jpeg;
use mtmc_tools::dataset::{DataError, Progress};
use rayon::prelude::*;
use serde::Serialize;

use self::camera::Camera;
use self::figure::Pose;
use self::person::Person;
use crate::random::SplitMix64;

/// Size of the pictures, as Market-1501's.
const WIDTH: usize = 64;
const HEIGHT: usize = 128;

/// Pixels a side that one of a picture is the mean of.
const FINER: usize = 2;

/// Streams of chance: of people, cameras, pictures; people who are distractors.
const PEOPLE: u64 = 1 << 40;
const CAMERAS: u64 = 2 << 40;
const PICTURES: u64 = 3 << 40;
const STRANGERS: u64 = 4 << 40;

/// What to draw.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Settings {
    /// People, 4..=9999.
    pub people: usize,
    /// How many of them are for training, 2..people - 1; the others are queries and gallery.
    pub train_people: usize,
    /// Pictures of each person, 2..=1000.
    pub images_per_person: usize,
    /// Cameras, 2..=99.
    pub cameras: usize,
    /// Gallery pictures of nobody who is looked for (person 0000).
    pub distractors: usize,
    /// Gallery pictures of bad boxes (person -1).
    pub junk: usize,
    /// Decides all that is left to chance.
    pub seed: u64,
}

/// Pictures of each folder that were drawn.
pub type Counts = BTreeMap<&'static str, usize>;

/// One picture to draw.
struct Planned {
    folder: &'static str,
    name: ImageName,
    person: u64,
    camera: usize,
    /// Tells the picture's chance from others'.
    number: u64,
}

/// Draws a data set as the new folder `out`.
///
/// # Errors
/// A setting is out of range; `out` holds something already or cannot be written.
pub fn write(
    out: &Path,
    settings: &Settings,
    progress: &dyn Progress,
) -> Result<Counts, DataError> {
    settings.check()?;
    let staging = Staging::begin(out)?;
    for folder in [TRAIN, QUERY, GALLERY] {
        let folder = staging.place(folder)?;
        std::fs::create_dir_all(&folder).map_err(|source| DataError::Io {
            path: folder.clone(),
            source,
        })?;
    }
    let plan = settings.plan();
    let cameras = settings.made_cameras();
    progress.begin("pictures drawn", plan.len() as u64);
    plan.par_iter().try_for_each(|planned| {
        let picture = draw(settings, &cameras[planned.camera], planned);
        let path = staging.place(format!("{}/{}.jpg", planned.folder, planned.name))?;
        progress.advance();
        write_jpeg(&path, &picture)
    })?;
    let mut counts = Counts::new();
    for planned in &plan {
        *counts.entry(planned.folder).or_default() += 1;
    }
    let metadata = serde_json::json!({
        "data_set": "synth-reid",
        "settings": settings,
        "pictures": counts,
    });
    staging.write_json("metadata.json", &metadata)?;
    staging.finish("synth-reid", progress)?;
    Ok(counts)
}

impl Settings {
    fn check(&self) -> Result<(), DataError> {
        let checks = [
            ("people", self.people, 4, 9999),
            (
                "training people",
                self.train_people,
                2,
                self.people.saturating_sub(2),
            ),
            ("pictures of a person", self.images_per_person, 2, 1000),
            ("cameras", self.cameras, 2, 99),
            ("distractors", self.distractors, 0, 99_999),
            ("junk pictures", self.junk, 0, 99_999),
        ];
        for (what, value, least, most) in checks {
            if value < least || value > most {
                let reason = format!("{what}: {value} is not within {least}..={most}");
                return Err(DataError::Setting(reason));
            }
        }
        Ok(())
    }

    fn made_cameras(&self) -> Vec<Camera> {
        let camera = |number| Camera::new(&mut SplitMix64::new(self.seed, CAMERAS + number));
        (0..self.cameras as u64).map(camera).collect()
    }

    fn plan(&self) -> Vec<Planned> {
        let mut plan = Vec::new();
        for person in 1..=self.people {
            let is_trained = person <= self.train_people;
            let mut seen = vec![0; self.cameras];
            for image in 0..self.images_per_person {
                // Everybody begins at another camera, and goes through all of them.
                let camera = (person + image) % self.cameras;
                let asks = self.asks(person, camera, seen[camera]);
                let folder = match is_trained {
                    true => TRAIN,
                    false if asks => QUERY,
                    false => GALLERY,
                };
                plan.push(planned(folder, person as i64, camera, seen[camera], image));
                seen[camera] += 1;
            }
        }
        for number in 0..self.distractors {
            let mut one = planned(GALLERY, DISTRACTOR, number % self.cameras, number, number);
            one.person = STRANGERS + number as u64;
            plan.push(one);
        }
        for number in 0..self.junk {
            let mut one = planned(GALLERY, JUNK, number % self.cameras, number, number);
            let shown = self.train_people + 1 + number % (self.people - self.train_people);
            one.person = shown as u64;
            plan.push(one);
        }
        for (number, one) in (0..).zip(&mut plan) {
            one.number = number;
        }
        plan
    }

    /// Whether a test person's picture is a query: the first one in each camera that has more, or the
    /// very first one where no camera has more.
    fn asks(&self, person: usize, camera: usize, seen_before: usize) -> bool {
        let first = person % self.cameras;
        let place = (camera + self.cameras - first) % self.cameras;
        let more = place + self.cameras < self.images_per_person;
        let none_has_more = self.images_per_person <= self.cameras;
        seen_before == 0 && (more || (none_has_more && place == 0))
    }
}

fn planned(folder: &'static str, id: i64, camera: usize, frame: usize, bbox: usize) -> Planned {
    Planned {
        folder,
        name: ImageName {
            id,
            camera: camera as u32 + 1,
            sequence: 1,
            frame: frame as u32 * 25 + 1,
            bbox: bbox as u32,
        },
        person: id as u64,
        camera,
        number: 0,
    }
}

fn draw(settings: &Settings, camera: &Camera, planned: &Planned) -> RgbImage {
    let person = Person::new(&mut SplitMix64::new(settings.seed, PEOPLE + planned.person));
    let mut random = SplitMix64::new(settings.seed, PICTURES + planned.number);
    let (width, height) = (WIDTH * FINER, HEIGHT * FINER);
    let mut canvas = camera.background(width, height, &mut random);
    let mut pose = Pose::new(width as f32, height as f32, &mut random);
    if planned.name.id == JUNK {
        pose.miss(width as f32, &mut random);
    }
    figure::paint(&mut canvas, &person, pose);
    if random.unit() < 0.12 {
        camera.occlude(&mut canvas, &mut random);
    }
    camera.expose(&mut canvas.reduced(FINER), &mut random)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            people: 6,
            train_people: 2,
            images_per_person: 5,
            cameras: 3,
            distractors: 2,
            junk: 3,
            seed: 1,
        }
    }

    // By hand: 2 × 5 for training; 4 people whose 5 pictures lie in 3 cameras as 2, 2, 1: two
    // queries and three answers each; 5 more in the gallery.
    #[test]
    fn pictures_are_planned_as_market1501() {
        let plan = settings().plan();
        let count = |folder| plan.iter().filter(|one| one.folder == folder).count();
        assert_eq!((count(TRAIN), count(QUERY), count(GALLERY)), (10, 8, 17));
        let mut names: Vec<String> = plan.iter().map(|one| one.name.to_string()).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), plan.len(), "names are unique");
        // As many cameras as pictures: one query a person all the same.
        let few = Settings {
            images_per_person: 2,
            ..settings()
        };
        let queries = few.plan().into_iter().filter(|one| one.folder == QUERY);
        assert_eq!(queries.count(), 4);
    }

    #[test]
    fn a_picture_is_the_same_each_time_and_no_other() {
        let settings = settings();
        let (cameras, plan) = (settings.made_cameras(), settings.plan());
        let first = draw(&settings, &cameras[0], &plan[0]);
        assert_eq!(first, draw(&settings, &cameras[0], &plan[0]));
        assert_ne!(first, draw(&settings, &cameras[0], &plan[1]));
        assert_eq!(first.dimensions(), (64, 128));
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        let broken = Settings {
            train_people: 5,
            ..settings()
        };
        let error = broken.check().unwrap_err().to_string();
        assert!(error.contains("training people: 5"), "{error}");
    }
}
