//! A made-up crowd, its looks and a camera that shakes: the twins of the generators in
//! `tests/oracle/tracking.py` and `tests/oracle/botsort/make_goldens.py`.
//!
//! All is made of integers, so that every language makes the same.

use mtmc::tracker::camera_motion::CameraMotion;
use mtmc::tracker::{Detection, FrameDetections};
use mtmc_models::{BBox, Embedding};
use serde::Deserialize;

/// Arguments of the generators.
#[derive(Deserialize)]
pub struct MadeUp {
    seed: u64,
    targets: u64,
    /// Length of the embeddings; 0 if the golden knows neither looks nor a shaking camera.
    #[serde(default)]
    dim: u64,
}

/// Detections of a frame with those whom they belong to, `None` for nobody.
type Owned = Vec<(Detection, Option<usize>)>;

/// Knuth's MMIX linear congruential generator, as in the oracle.
struct Lcg(u64);

impl Lcg {
    fn below(&mut self, limit: i64) -> i64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as i64 % limit
    }
}

/// A person of the made-up crowd; lengths in 1/64 pixel.
struct Person {
    x: i64,
    y: i64,
    vx: i64,
    vy: i64,
    width: i64,
    height: i64,
    /// Frames that it stays out of sight.
    hidden: i64,
}

fn detection(x: i64, y: i64, width: i64, height: i64, score: i64) -> Detection {
    let pixels = |v: i64| v as f32 / 64.0;
    Detection {
        bbox: BBox::from_xyxy(pixels(x), pixels(y), pixels(x + width), pixels(y + height)),
        score: score as f32 / 1024.0,
        class: 0,
    }
}

fn crowd(rng: &mut Lcg, targets: u64) -> Vec<Person> {
    let mut people = Vec::new();
    for _ in 0..targets {
        let (x, y) = (rng.below(600 * 64), rng.below(400 * 64));
        let (vx, vy) = (rng.below(512) - 256, rng.below(256) - 128);
        let width = 20 * 64 + rng.below(30 * 64);
        people.push(Person {
            x,
            y,
            vx,
            vy,
            width,
            height: width * 5 / 2,
            hidden: 0,
        });
    }
    people
}

/// One step of a person; its detection, unless it hides.
fn step(rng: &mut Lcg, p: &mut Person) -> Option<Detection> {
    p.x += p.vx;
    p.y += p.vy;
    if p.x < 0 || p.x > 640 * 64 {
        p.vx = -p.vx;
    }
    if p.y < 0 || p.y > 480 * 64 {
        p.vy = -p.vy;
    }
    if p.hidden > 0 {
        p.hidden -= 1;
        return None;
    }
    if rng.below(40) == 0 {
        p.hidden = 1 + rng.below(40);
    }
    let (x, y) = (p.x + rng.below(128) - 64, p.y + rng.below(128) - 64);
    let (width, height) = (
        p.width + rng.below(128) - 64,
        p.height + rng.below(256) - 128,
    );
    let score = if rng.below(4) == 0 {
        50 + rng.below(700)
    } else {
        600 + rng.below(424)
    };
    Some(detection(x, y, width, height, score))
}

/// The twin of `made_up`.
fn boxes(arguments: &MadeUp, frames: u64) -> Vec<Owned> {
    let mut rng = Lcg(arguments.seed);
    let mut people = crowd(&mut rng, arguments.targets);
    let mut result = Vec::new();
    for _ in 0..frames {
        let mut detections = Vec::new();
        for (owner, person) in people.iter_mut().enumerate() {
            detections.extend(step(&mut rng, person).map(|d| (d, Some(owner))));
        }
        for _ in 0..rng.below(3) {
            let (x, y) = (rng.below(640 * 64), rng.below(480 * 64));
            let width = 10 * 64 + rng.below(60 * 64);
            let clutter = detection(x, y, width, 2 * width, rng.below(1024));
            detections.push((clutter, None));
        }
        result.push(detections);
    }
    result
}

/// The twin of `made_up_camera`: moves the boxes, and returns what the camera claims to have done.
fn shake(seed: u64, frames: &mut [Owned]) -> Vec<CameraMotion> {
    let mut rng = Lcg(seed);
    let (mut x, mut y) = (0, 0);
    let mut motions = Vec::new();
    for frame in frames {
        let (dx, dy) = (rng.below(1281) - 640, rng.below(641) - 320);
        let (zoom, turn) = (rng.below(257) - 128, rng.below(129) - 64);
        (x, y) = (x + dx, y + dy);
        for (detection, _) in frame {
            let bbox = &mut detection.bbox;
            let (right, down) = (x as f32 / 64.0, y as f32 / 64.0);
            (bbox.x1, bbox.x2) = (bbox.x1 + right, bbox.x2 + right);
            (bbox.y1, bbox.y2) = (bbox.y1 + down, bbox.y2 + down);
        }
        let (scale, sine) = (1.0 + zoom as f64 / 65536.0, turn as f64 / 65536.0);
        motions.push(CameraMotion {
            rows: [
                [scale, -sine, dx as f64 / 64.0],
                [sine, scale, dy as f64 / 64.0],
            ],
        });
    }
    motions
}

fn vector(rng: &mut Lcg, dim: u64, spread: i64) -> Vec<i64> {
    (0..dim)
        .map(|_| rng.below(2 * spread + 1) - spread)
        .collect()
}

fn sum(a: &[i64], b: &[i64]) -> Vec<i64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

/// The twin of `made_up_looks`: three people each wear the same, nearly.
fn looks(seed: u64, arguments: &MadeUp, frames: &[Owned]) -> Vec<Vec<Option<Embedding>>> {
    let mut rng = Lcg(seed);
    let (targets, dim) = (arguments.targets, arguments.dim);
    let mut groups = Vec::new();
    for _ in 0..targets.div_ceil(3) {
        groups.push(vector(&mut rng, dim, 1000));
    }
    let mut people = Vec::new();
    for person in 0..targets as usize {
        people.push(sum(&groups[person / 3], &vector(&mut rng, dim, 700)));
    }
    let mut result = Vec::new();
    for frame in frames {
        let mut embeddings = Vec::new();
        for (_, owner) in frame {
            let vector = match owner {
                Some(owner) => sum(&people[*owner], &vector(&mut rng, dim, 300)),
                None => vector(&mut rng, dim, 1000),
            };
            let vector = vector.iter().map(|&v| v as f32).collect();
            embeddings.push(Some(Embedding::new(vector).unwrap()));
        }
        result.push(embeddings);
    }
    result
}

/// Frames from 1 on. Embeddings are made only if they are asked for, as the oracle does.
pub fn made_up(arguments: &MadeUp, frames: u64, with_looks: bool) -> Vec<FrameDetections> {
    let mut owned = boxes(arguments, frames);
    let shaking = arguments.dim > 0;
    let mut motions = Vec::new();
    let mut embeddings = vec![Vec::new(); owned.len()];
    if shaking {
        motions = shake(arguments.seed + 1, &mut owned);
    }
    if with_looks {
        embeddings = looks(arguments.seed + 2, arguments, &owned);
    }
    let mut result = Vec::new();
    for (i, (detections, embeddings)) in owned.into_iter().zip(embeddings).enumerate() {
        result.push(FrameDetections {
            frame: i as u64 + 1,
            detections: detections.into_iter().map(|(d, _)| d).collect(),
            embeddings,
            camera_motion: motions.get(i).copied(),
        });
    }
    result
}
