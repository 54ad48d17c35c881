//! What a detector makes of a picture: boxes that are not quite right, people it misses, and
//! things that it takes for people.

use mtmc_models::{BBox, Detection, Embedding};

use super::looks::{Looks, Moment, Subject};
use super::noise::{Purpose, generator, happens, lasting, smooth_step};
use super::settings::DetectorSettings;
use super::sight::{Eye, Rectangle, Sight, clip};
use super::{CameraStep, TruthBox};
use crate::homography::{ImagePoint, MapPoint};
use crate::random::SplitMix64;

/// Visible shares below and above which being hidden is the whole reason for misses, or none.
const HIDDEN: [f64; 2] = [0.1, 0.7];

/// From so many times the least height on, size is no reason for misses.
const LARGE: f64 = 2.5;

/// Steps of one foot a second, of people walking.
const STRIDES: f64 = 0.9;

/// Seconds in which false alarms at fixed places come and go.
const SPOT_PERIOD: f64 = 6.0;

/// Mean and deviation of false alarms' scores.
const FALSE_SCORE: [f64; 2] = [0.35, 0.15];

/// One camera at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shot<'a> {
    pub(super) eye: Eye<'a>,
    pub(super) looks: &'a Looks,
    pub(super) camera: usize,
    pub(super) frame: u64,
    pub(super) time: f64,
}

/// A detection with where it comes from.
struct Found {
    detection: Detection,
    embedding: Option<Embedding>,
    truth: Option<u64>,
}

impl Shot<'_> {
    /// Detections of those in the picture (the nearest first) and false ones, with the truth.
    pub(super) fn detect(&self, sights: &[Sight]) -> CameraStep {
        let mut found: Vec<Found> = sights
            .iter()
            .filter(|sight| sight.is_there && !self.misses(sight))
            .filter_map(|sight| self.find(sight))
            .collect();
        self.false_alarms(&mut found);
        // As detectors report them; and so that the order tells nothing of who it is.
        found.sort_by(|a, b| {
            let left = |f: &Found| f.detection.bbox.x1;
            let by_score = b.detection.score.total_cmp(&a.detection.score);
            by_score.then(left(a).total_cmp(&left(b)))
        });
        let mut step = CameraStep::default();
        for found in found {
            step.detections.push(found.detection);
            step.embeddings.extend(found.embedding);
            step.truth.push(found.truth);
        }
        let there = sights.iter().filter(|sight| sight.is_there);
        step.truth_boxes = there.map(|sight| self.truth(sight)).collect();
        step.truth_boxes.sort_by_key(|truth| truth.id);
        step
    }

    fn settings(&self) -> &DetectorSettings {
        &self.eye.settings.detector
    }

    fn seed(&self) -> u64 {
        self.eye.settings.seed
    }

    /// A lasting normal number for someone in this camera.
    fn lasting(&self, purpose: Purpose, id: u64) -> f64 {
        let parts = [id, self.camera as u64];
        lasting(
            self.seed(),
            purpose,
            &parts,
            self.time,
            self.settings().noise_period,
        )
    }

    /// A generator for someone in this frame alone.
    fn momentary(&self, purpose: Purpose, id: u64) -> SplitMix64 {
        generator(self.seed(), purpose, &[id, self.camera as u64, self.frame])
    }

    fn truth(&self, sight: &Sight) -> TruthBox {
        TruthBox {
            id: sight.id,
            bbox: to_bbox(&sight.bbox),
            visibility: sight.visibility as f32,
            counts: sight.visibility >= self.settings().truth_visibility,
        }
    }

    /// How near to the smallest people that can be seen: 0, and 1 for large ones.
    fn size(&self, sight: &Sight) -> f64 {
        let least = self.settings().least_height;
        smooth_step(least, LARGE * least, sight.height())
    }

    fn misses(&self, sight: &Sight) -> bool {
        if sight.unhidden <= 0.0 {
            return true;
        }
        let settings = self.settings();
        let hidden = 1.0 - smooth_step(HIDDEN[0], HIDDEN[1], sight.unhidden);
        let seen = (1.0 - settings.miss_rate)
            * (1.0 - settings.hidden_miss_rate * hidden)
            * (1.0 - settings.small_miss_rate * (1.0 - self.size(sight)));
        let value = settings.miss_lasting.sqrt() * self.lasting(Purpose::Miss, sight.id)
            + (1.0 - settings.miss_lasting).sqrt()
                * self.momentary(Purpose::MissNow, sight.id).normal();
        happens(value, 1.0 - seen)
    }

    fn find(&self, sight: &Sight) -> Option<Found> {
        let bbox = self.noisy_box(sight)?;
        let moment = Moment {
            camera: self.camera,
            frame: self.frame,
            time: self.time,
            visibility: sight.unhidden,
            behind: sight.behind,
        };
        Some(Found {
            detection: Detection {
                bbox,
                score: self.score(sight),
                class: 0,
            },
            embedding: self.embed(Subject::Person(sight.id), &moment),
            truth: Some(sight.id),
        })
    }

    fn embed(&self, subject: Subject, moment: &Moment) -> Option<Embedding> {
        let looks = self.looks;
        looks.are_asked_for().then(|| looks.embed(subject, moment))
    }

    fn score(&self, sight: &Sight) -> f32 {
        let settings = self.settings();
        let chance = (self.lasting(Purpose::Score, sight.id)
            + self.momentary(Purpose::Score, sight.id).normal())
            / std::f64::consts::SQRT_2;
        let reasons = 1.0 - 0.5 * (1.0 - sight.unhidden) - 0.3 * (1.0 - self.size(sight));
        let score = settings.score * reasons + settings.score_spread * chance;
        score.clamp(settings.score_floor, 0.99) as f32
    }

    /// The box that the detector gives; `None` if nothing of it is in the picture.
    fn noisy_box(&self, sight: &Sight) -> Option<BBox> {
        let settings = self.settings();
        let cut = happens(self.lasting(Purpose::Cut, sight.id), settings.cut_share);
        let [mut left, mut top, mut right, mut bottom] = if cut { sight.shown } else { sight.bbox };
        if sight.shown[3] >= sight.bbox[3] || !cut {
            bottom += self.stride(sight);
        }
        let noise = settings.box_noise * (1.0 + settings.hidden_box_noise * (1.0 - sight.unhidden));
        let (across, down) = (noise * sight.width(), noise * sight.height());
        left += across * self.lasting(Purpose::Left, sight.id);
        right += across * self.lasting(Purpose::Right, sight.id);
        top += down * self.lasting(Purpose::Top, sight.id);
        bottom += down * self.lasting(Purpose::Bottom, sight.id);
        self.in_picture(&[left, top, right, bottom])
    }

    /// How many pixels the foremost foot is below the middle of the two.
    fn stride(&self, sight: &Sight) -> f64 {
        let settings = self.settings();
        let Some([x, y]) = self.eye.view.towards_camera(sight.place) else {
            return 0.0;
        };
        let start = generator(self.seed(), Purpose::Stride, &[sight.id]).unit();
        let phase = std::f64::consts::PI * (STRIDES * self.time + start);
        let metres = settings.stride * phase.sin().abs();
        let foot = MapPoint {
            x: sight.place.x + metres * x,
            y: sight.place.y + metres * y,
        };
        let image = self.eye.view.to_image(foot);
        image.map_or(0.0, |image| (image.y - sight.foot.y).max(0.0))
    }

    fn in_picture(&self, bbox: &Rectangle) -> Option<BBox> {
        let [width, height] = self.eye.camera.image_size.map(f64::from);
        let clipped = clip(bbox, width, height);
        let large = clipped[2] - clipped[0] >= 2.0 && clipped[3] - clipped[1] >= 2.0;
        large.then(|| to_bbox(&clipped))
    }

    fn false_alarms(&self, found: &mut Vec<Found>) {
        let settings = self.settings();
        let sticky = settings.false_alarms * settings.sticky_share;
        let camera = self.camera as u64;
        // At least three places, and none of them active for more than half of the time.
        let spots = (2.0 * sticky).ceil().max(3.0);
        for spot in 0..spots as u64 {
            let parts = [camera, spot];
            let value = lasting(self.seed(), Purpose::Spot, &parts, self.time, SPOT_PERIOD);
            if happens(value, sticky / spots) {
                let mut place = generator(self.seed(), Purpose::SpotLook, &parts);
                let bbox = self.clutter(&mut place);
                self.report(&bbox, Subject::Spot(spot), found);
            }
        }
        let parts = [camera, self.frame];
        let mut chance = generator(self.seed(), Purpose::Clutter, &parts);
        let count = poisson(&mut chance, settings.false_alarms - sticky);
        for number in 0..count {
            let bbox = self.clutter(&mut chance);
            let subject = Subject::Clutter((self.frame << 8) + number);
            self.report(&bbox, subject, found);
        }
    }

    /// A box as tall as something between a child and a large person at its place.
    fn clutter(&self, chance: &mut SplitMix64) -> Rectangle {
        let [width, height] = self.eye.camera.image_size.map(f64::from);
        let foot = ImagePoint {
            x: width * chance.unit(),
            y: height * (0.3 + 0.65 * chance.unit()),
        };
        let metres = 1.7 * (0.5 + 0.7 * chance.unit());
        let place = self.eye.view.to_map(foot).ok();
        let place = place.filter(|p| self.eye.camera.distance(*p) <= self.eye.settings.range);
        let head = place.and_then(|place| self.eye.view.head(place, metres));
        let tall = head.map_or(height * 0.2 * metres, |head| (foot.y - head.y).abs());
        let half = tall * (0.15 + 0.1 * chance.unit());
        [foot.x - half, foot.y - tall, foot.x + half, foot.y]
    }

    fn report(&self, bbox: &Rectangle, subject: Subject, found: &mut Vec<Found>) {
        let settings = self.settings();
        let number = match subject {
            // Away from people's numbers.
            Subject::Spot(number) | Subject::Clutter(number) | Subject::Person(number) => !number,
        };
        let mut chance = self.momentary(Purpose::Score, number);
        let score = FALSE_SCORE[0] + FALSE_SCORE[1] * chance.normal();
        let (across, down) = (bbox[2] - bbox[0], bbox[3] - bbox[1]);
        let mut noise = |size: f64| 0.5 * settings.box_noise * size * chance.normal();
        let noisy = [
            bbox[0] + noise(across),
            bbox[1] + noise(down),
            bbox[2] + noise(across),
            bbox[3] + noise(down),
        ];
        let Some(bbox) = self.in_picture(&noisy) else {
            return;
        };
        let moment = Moment {
            camera: self.camera,
            frame: self.frame,
            time: self.time,
            visibility: 1.0,
            behind: None,
        };
        found.push(Found {
            detection: Detection {
                bbox,
                score: score.clamp(settings.score_floor, 0.99) as f32,
                class: 0,
            },
            embedding: self.embed(subject, &moment),
            truth: None,
        });
    }
}

fn to_bbox(bbox: &Rectangle) -> BBox {
    let [x1, y1, x2, y2] = bbox.map(|v| v as f32);
    BBox::from_xyxy(x1, y1, x2, y2)
}

/// A whole number with that mean (Knuth 1969).
fn poisson(chance: &mut SplitMix64, mean: f64) -> u64 {
    let least = (-mean).exp();
    let mut product = chance.unit();
    let mut count = 0;
    while product > least && count < 255 {
        product *= chance.unit();
        count += 1;
    }
    count
}
