//! Who appears where in a camera's picture, and how much of him is hidden.

use crate::homography::{CameraView, ImagePoint, MapPoint};

use super::camera::SimCamera;
use super::plan::Plan;
use super::settings::SimSettings;
use super::walk::Walker;

/// A body's visibility is counted on so many points, across and down.
const COLUMNS: usize = 5;
const ROWS: usize = 14;

/// Of someone's box, the body takes this share of the width, in the middle: beside it one sees what
/// is behind.
const BODY_SHARE: f64 = 0.8;

/// Share of someone's box that must be in the picture for him to be there.
const LEAST_IN_PICTURE: f64 = 0.25;

/// Nearest that anything is seen, in metres ahead.
const NEAREST: f64 = 0.3;

/// A rectangle of a picture in pixels: left, top, right, bottom.
pub(super) type Rectangle = [f64; 4];

/// Someone in a picture.
#[derive(Debug, Clone)]
pub(super) struct Sight {
    pub(super) id: u64,
    pub(super) place: MapPoint,
    /// Where the feet are.
    pub(super) foot: ImagePoint,
    /// The whole person; may reach beyond the picture.
    pub(super) bbox: Rectangle,
    /// The part of the box that others do not hide.
    pub(super) shown: Rectangle,
    /// Metres on the map to the camera.
    distance: f64,
    /// Share of the person that is in the picture and not hidden, 0..=1.
    pub(super) visibility: f64,
    /// Share of what is in the picture that is not hidden.
    pub(super) unhidden: f64,
    /// Who hides most of the person.
    pub(super) behind: Option<u64>,
    /// Whether enough of the box is in the picture, large enough to be seen.
    pub(super) is_there: bool,
}

impl Sight {
    pub(super) fn width(&self) -> f64 {
        self.bbox[2] - self.bbox[0]
    }

    pub(super) fn height(&self) -> f64 {
        self.bbox[3] - self.bbox[1]
    }
}

/// One camera with all that is needed to see.
#[derive(Debug, Clone, Copy)]
pub(super) struct Eye<'a> {
    pub(super) camera: &'a SimCamera,
    pub(super) view: &'a CameraView,
    pub(super) plan: &'a Plan,
    pub(super) settings: &'a SimSettings,
}

impl Eye<'_> {
    /// Whether the camera sees the floor at a place in a room: near enough, ahead, in the picture
    /// and not behind a wall.
    pub(super) fn sees(&self, place: MapPoint, room: usize) -> bool {
        self.is_in_sight(place, room) && self.view.sees(place)
    }

    fn is_in_sight(&self, place: MapPoint, room: usize) -> bool {
        let [x, y, _] = self.camera.position;
        self.camera.distance(place) <= self.settings.range
            && self.camera.depth(place, 0.0) > NEAREST
            && (self.plan).in_sight((self.camera.room, [x, y]), (room, [place.x, place.y]))
    }

    /// Everyone with a part of him in the picture, the nearest first.
    pub(super) fn sights<'w>(&self, people: impl Iterator<Item = &'w Walker>) -> Vec<Sight> {
        let mut sights: Vec<Sight> = people.filter_map(|walker| self.sight(walker)).collect();
        sights.sort_by(|a, b| a.distance.total_cmp(&b.distance).then(a.id.cmp(&b.id)));
        for index in 0..sights.len() {
            let (nearer, rest) = sights.split_at_mut(index);
            if let Some(sight) = rest.first_mut() {
                self.hide(sight, nearer);
            }
        }
        sights
    }

    /// Someone as if nobody else were there.
    fn sight(&self, walker: &Walker) -> Option<Sight> {
        let [x, y] = walker.place;
        let place = MapPoint { x, y };
        if !self.is_in_sight(place, walker.room) {
            return None;
        }
        let depth = self.camera.depth(place, walker.height / 2.0);
        if self.camera.depth(place, walker.height) < NEAREST {
            return None;
        }
        let foot = self.view.to_image(place)?;
        let head = self.view.head(place, walker.height)?;
        let half = walker.width / 2.0 * self.camera.focal / depth;
        let leaning = self.settings.detector.lean * (head.x - foot.x);
        let bbox = [
            foot.x + leaning.min(0.0) - half,
            head.y.min(foot.y),
            foot.x + leaning.max(0.0) + half,
            foot.y.max(head.y),
        ];
        let [width, height] = self.camera.image_size.map(f64::from);
        let inside = clip(&bbox, width, height);
        let share = area(&inside) / area(&bbox);
        if !share.is_finite() || share <= 0.0 {
            return None;
        }
        let tall = bbox[3] - bbox[1] >= self.settings.detector.least_height;
        Some(Sight {
            id: walker.id,
            place,
            foot,
            bbox,
            shown: bbox,
            distance: self.camera.distance(place),
            visibility: share,
            unhidden: 1.0,
            behind: None,
            is_there: tall && share >= LEAST_IN_PICTURE,
        })
    }

    /// Takes away what those nearer to the camera hide.
    fn hide(&self, sight: &mut Sight, nearer: &[Sight]) {
        let bodies: Vec<(Rectangle, u64)> = nearer
            .iter()
            .map(|other| (body(&other.bbox), other.id))
            .filter(|(body, _)| overlap(body, &sight.bbox))
            .collect();
        if bodies.is_empty() {
            return;
        }
        let mut hiders = vec![0_u32; bodies.len()];
        let [width, height] = self.camera.image_size.map(f64::from);
        let [left, top, _, _] = sight.bbox;
        let (across, down) = (sight.width() / COLUMNS as f64, sight.height() / ROWS as f64);
        let (mut seen, mut inside) = (0_u32, 0_u32);
        let mut rows = [0; ROWS];
        let mut columns = [0; COLUMNS];
        for (row, in_row) in rows.iter_mut().enumerate() {
            for (column, in_column) in columns.iter_mut().enumerate() {
                let x = left + (column as f64 + 0.5) * across;
                let y = top + (row as f64 + 0.5) * down;
                let hider = bodies.iter().position(|(body, _)| holds(body, x, y));
                let in_picture = (0.0..width).contains(&x) && (0.0..height).contains(&y);
                inside += u32::from(in_picture);
                if let Some(hider) = hider {
                    hiders[hider] += 1;
                    continue;
                }
                seen += u32::from(in_picture);
                *in_row += 1;
                *in_column += 1;
            }
        }
        sight.unhidden = f64::from(seen) / f64::from(inside.max(1));
        sight.visibility *= sight.unhidden;
        sight.shown = shown(&sight.bbox, &rows, &columns);
        let most = hiders.iter().copied().max().unwrap_or(0);
        let hider = hiders.iter().position(|&count| count == most && count > 0);
        sight.behind = hider.map(|index| bodies[index].1);
    }
}

/// A box without the rows and columns at its edges of which less than a third is to be seen.
fn shown(bbox: &Rectangle, rows: &[usize; ROWS], columns: &[usize; COLUMNS]) -> Rectangle {
    let [left, top, right, bottom] = *bbox;
    let edges = |counts: &[usize], full: usize, from: f64, to: f64| {
        let visible = |&count: &usize| 3 * count >= full;
        let Some(first) = counts.iter().position(visible) else {
            return [from, to];
        };
        let last = counts.iter().rposition(visible).unwrap_or(first);
        let step = (to - from) / counts.len() as f64;
        [from + first as f64 * step, from + (last + 1) as f64 * step]
    };
    let [left, right] = edges(columns, ROWS, left, right);
    let [top, bottom] = edges(rows, COLUMNS, top, bottom);
    [left, top, right, bottom]
}

fn body(bbox: &Rectangle) -> Rectangle {
    let [left, top, right, bottom] = *bbox;
    let beside = (right - left) * (1.0 - BODY_SHARE) / 2.0;
    [left + beside, top, right - beside, bottom]
}

fn holds([left, top, right, bottom]: &Rectangle, x: f64, y: f64) -> bool {
    (*left..*right).contains(&x) && (*top..*bottom).contains(&y)
}

fn overlap(a: &Rectangle, b: &Rectangle) -> bool {
    a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3]
}

/// The part of a rectangle within a picture.
pub(super) fn clip(bbox: &Rectangle, width: f64, height: f64) -> Rectangle {
    [
        bbox[0].clamp(0.0, width),
        bbox[1].clamp(0.0, height),
        bbox[2].clamp(0.0, width),
        bbox[3].clamp(0.0, height),
    ]
}

fn area(bbox: &Rectangle) -> f64 {
    (bbox[2] - bbox[0]) * (bbox[3] - bbox[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    // By hand: the lower 5 of 14 rows hidden.
    #[test]
    fn a_box_ends_where_it_is_hidden() {
        let mut rows = [COLUMNS; ROWS];
        rows[9..].fill(0);
        let columns = [9; COLUMNS];
        let shown = shown(&[10.0, 0.0, 60.0, 140.0], &rows, &columns);
        assert_eq!(shown, [10.0, 0.0, 60.0, 90.0]);
    }
}
