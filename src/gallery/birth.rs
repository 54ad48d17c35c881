//! New people: boxes that nobody known explains, put together across cameras.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use mtmc_models::Embedding;

use super::associate::CameraWork;
use super::{Gallery, GalleryType, Person};
use crate::homography::MapPoint;

/// A box of nobody: camera (index of the work) and index of the box.
pub type Unexplained = (usize, usize);

/// A box of someone new is as high as a person there, within this share.
const HEIGHT_TOLERANCE: f64 = 0.25;

/// A new person nearer than this to one that is known is that one, in map units.
const TOO_NEAR: f64 = 0.3;

/// Someone new: the boxes that show it, and its place.
pub struct Newcomer {
    /// At most one box a camera.
    pub boxes: Vec<Unexplained>,
    /// The mean of where they stand; `None` where there is no map.
    pub place: Option<MapPoint>,
}

/// Puts unexplained boxes together: each group is one person.
pub fn groups(gallery: &Gallery, work: &[CameraWork<'_>]) -> Vec<Vec<Unexplained>> {
    let mut groups: Vec<Vec<Unexplained>> = Vec::new();
    for (camera, entry) in work.iter().enumerate() {
        for index in 0..entry.boxes.len() {
            if entry.now[index].is_none() && may_begin(gallery, entry, index) {
                groups.push(vec![(camera, index)]);
            }
        }
    }
    join(gallery, work, &mut groups);
    groups
}

/// Which groups of unexplained boxes are new people.
pub fn newcomers(
    gallery: &Gallery,
    work: &[CameraWork<'_>],
    groups: Vec<Vec<Unexplained>>,
) -> Vec<Newcomer> {
    let mut found = Vec::new();
    for boxes in groups {
        let place = mean_place(work, &boxes);
        if boxes.len() >= gallery.views_needed(work, place)
            && !crowded(gallery, place)
            && !may_be_known(gallery, work, &boxes)
        {
            found.push(Newcomer { boxes, place });
        }
    }
    found
}

/// Whether boxes may yet turn out to be someone who is out of sight: nobody has looked at them, but
/// somebody will.
fn may_be_known(gallery: &Gallery, work: &[CameraWork<'_>], boxes: &[Unexplained]) -> bool {
    let looked = |&(camera, index): &Unexplained| {
        let entry = &work[camera];
        let observed = gallery.unbound_look(entry.track(index)).is_some();
        observed || gallery.waited(entry.track(index)) >= gallery.settings.missing_steps
    };
    gallery.people.iter().any(Person::is_adrift) && !boxes.iter().any(looked)
}

/// Whether a box alone could be someone new.
fn may_begin(gallery: &Gallery, camera: &CameraWork<'_>, index: usize) -> bool {
    let waited = gallery.waited(camera.track(index));
    let Some(view) = camera.view else {
        // Without a vector nobody could be known again: it is waited for a while, if there are
        // vectors at all.
        let has_vector = gallery.unbound_look(camera.track(index)).is_some();
        return has_vector || !gallery.uses_looks || waited >= gallery.settings.missing_steps;
    };
    let Some(place) = camera.places[index] else {
        // Feet that stay hidden: looks have to do.
        let has_vector = gallery.unbound_look(camera.track(index)).is_some();
        return has_vector && waited >= gallery.settings.missing_steps;
    };
    if !view.in_area(place) {
        return false;
    }
    match view.head(place, gallery.settings.height) {
        Some(head) => {
            let Some(foot) = view.to_image(place) else {
                return false;
            };
            let expected = foot.y - head.y;
            let found = camera.boxes[index].height();
            (found - expected).abs() <= HEIGHT_TOLERANCE * expected
        }
        None => true,
    }
}

/// Joins groups of different cameras, the nearest first, while they are near enough.
fn join(gallery: &Gallery, work: &[CameraWork<'_>], groups: &mut Vec<Vec<Unexplained>>) {
    // A group that was joined to another one is empty.
    let mut pairs = BinaryHeap::new();
    for a in 0..groups.len() {
        for b in a + 1..groups.len() {
            pairs.extend(NearPair::of(gallery, work, groups, a, b));
        }
    }
    while let Some(Reverse(pair)) = pairs.pop() {
        let NearPair { a, b, sizes, .. } = pair;
        if sizes != [groups[a].len(), groups[b].len()] {
            continue; // Boxes came or went since.
        }
        let joined = std::mem::take(&mut groups[b]);
        groups[a].extend(joined);
        for other in 0..groups.len() {
            if other != a && !groups[other].is_empty() {
                pairs.extend(NearPair::of(
                    gallery,
                    work,
                    groups,
                    a.min(other),
                    a.max(other),
                ));
            }
        }
    }
    groups.retain(|group| !group.is_empty());
}

/// Two groups that may be one person; the nearest are the least, of equally near ones those with
/// the lowest indices.
struct NearPair {
    distance: f64,
    a: usize,
    b: usize,
    /// How many boxes each had.
    sizes: [usize; 2],
}

impl NearPair {
    fn of(
        gallery: &Gallery,
        work: &[CameraWork<'_>],
        groups: &[Vec<Unexplained>],
        a: usize,
        b: usize,
    ) -> Option<Reverse<Self>> {
        let distance = distance(gallery, work, &groups[a], &groups[b])?;
        let sizes = [groups[a].len(), groups[b].len()];
        Some(Reverse(Self {
            distance,
            a,
            b,
            sizes,
        }))
    }
}

impl Ord for NearPair {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_distance = self.distance.total_cmp(&other.distance);
        by_distance.then_with(|| (self.a, self.b).cmp(&(other.a, other.b)))
    }
}

impl PartialOrd for NearPair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for NearPair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for NearPair {}

/// How far two groups are apart, 1 being the limit; `None` if they cannot be one person.
fn distance(
    gallery: &Gallery,
    work: &[CameraWork<'_>],
    a: &[Unexplained],
    b: &[Unexplained],
) -> Option<f64> {
    let shared = |box_a: &Unexplained| b.iter().any(|box_b| box_a.0 == box_b.0);
    if a.iter().any(shared) {
        return None;
    }
    let settings = &gallery.settings;
    let alike = similarity(work, a, b);
    match (mean_place(work, a), mean_place(work, b)) {
        (Some(at), Some(bt)) => {
            let way = (at.x - bt.x).hypot(at.y - bt.y);
            // Unlike clothes on one spot are two people.
            let unlike = alike.map_or(0.0, |alike| {
                (settings.similarity_threshold - alike).max(0.0)
            });
            let distance =
                way / settings.birth_distance + unlike * settings.appearance_weight / settings.gate;
            (distance <= 1.0).then_some(distance)
        }
        (None, None) => {
            let overlap = |x: &Unexplained, y: &Unexplained| {
                gallery.topology.overlap(work[x.0].camera, work[y.0].camera)
            };
            if !a.iter().all(|x| b.iter().all(|y| overlap(x, y))) {
                return None;
            }
            let alike = alike?;
            let threshold = settings.similarity_threshold;
            (alike > threshold).then(|| (1.0 - alike) / (1.0 - threshold).max(1e-9))
        }
        _ => None,
    }
}

/// The best cosine between the groups' vectors.
fn similarity(work: &[CameraWork<'_>], a: &[Unexplained], b: &[Unexplained]) -> Option<f64> {
    let vector = |&(camera, index): &Unexplained| -> Option<&Embedding> {
        work[camera].observations[index].embedding
    };
    let mut best: Option<f64> = None;
    for x in a.iter().filter_map(vector) {
        for y in b.iter().filter_map(vector) {
            if x.dim() == y.dim() {
                let cosine = f64::from(x.cosine(y));
                best = Some(best.map_or(cosine, |best| best.max(cosine)));
            }
        }
    }
    best
}

fn mean_place(work: &[CameraWork<'_>], boxes: &[Unexplained]) -> Option<MapPoint> {
    let mut sum = MapPoint { x: 0.0, y: 0.0 };
    let mut count = 0.0;
    for &(camera, index) in boxes {
        if let Some(place) = work[camera].places[index] {
            sum.x += place.x;
            sum.y += place.y;
            count += 1.0;
        }
    }
    (count > 0.0).then(|| MapPoint {
        x: sum.x / count,
        y: sum.y / count,
    })
}

/// Whether someone known is already there.
fn crowded(gallery: &Gallery, place: Option<MapPoint>) -> bool {
    let Some(place) = place else { return false };
    gallery.people.iter().any(|person| {
        let near = |other: MapPoint| (other.x - place.x).hypot(other.y - place.y) < TOO_NEAR;
        person.gallery == GalleryType::Main
            && person.motion.is_some_and(|motion| near(motion.position()))
    })
}
