//! Who is near whom: people by cells of the floor.

use rayon::prelude::*;

use super::plan::Point;

/// Side of a cell, in metres: the largest distance that is asked for.
pub(super) const CELL: f64 = 1.5;

/// Metres between two people's middles that no two should come below.
const LEAST_DISTANCE: f64 = 0.46;

/// Rounds in which people who are too near make room.
const ROUNDS: usize = 3;

/// An index of points, made anew for each use.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    /// Cell and point, in order.
    entries: Vec<((i64, i64), usize)>,
}

fn cell(point: Point) -> (i64, i64) {
    (
        (point[1] / CELL).floor() as i64,
        (point[0] / CELL).floor() as i64,
    )
}

impl Neighbours {
    pub(super) fn new(points: &[Point]) -> Self {
        let mut entries: Vec<_> = points.iter().map(|&point| cell(point)).zip(0..).collect();
        entries.sort_unstable();
        Self { entries }
    }

    /// Calls `each` for every point that may be within [`CELL`] metres, in a fixed order.
    pub(super) fn near(&self, point: Point, mut each: impl FnMut(usize)) {
        let (row, column) = cell(point);
        for row in row - 1..=row + 1 {
            let start = self
                .entries
                .partition_point(|entry| entry.0 < (row, column - 1));
            for &(cell, index) in &self.entries[start..] {
                if cell > (row, column + 1) {
                    break;
                }
                each(index);
            }
        }
    }
}

/// Moves people apart who are too near; where nobody is, nobody moves.
///
/// Everyone makes half of the room that is missing, all at once, so the order of people does not
/// matter. `stay_inside` keeps the point of an index out of walls.
pub(super) fn separate(
    points: &mut Vec<Point>,
    stay_inside: impl Fn(usize, Point) -> Point + Sync,
) {
    for _ in 0..ROUNDS {
        let neighbours = Neighbours::new(points);
        let moved: Vec<Point> = (0..points.len())
            .into_par_iter()
            .map(|index| {
                let [dx, dy] = push(points, &neighbours, index);
                if dx == 0.0 && dy == 0.0 {
                    return points[index];
                }
                stay_inside(index, [points[index][0] + dx, points[index][1] + dy])
            })
            .collect();
        *points = moved;
    }
}

fn push(points: &[Point], neighbours: &Neighbours, index: usize) -> Point {
    let here = points[index];
    let mut sum = [0.0; 2];
    neighbours.near(here, |other| {
        if other == index {
            return;
        }
        let (away, distance) = direction(here, points[other], index < other);
        let missing = LEAST_DISTANCE - distance;
        if missing > 0.0 {
            sum[0] += away[0] * missing / 2.0;
            sum[1] += away[1] * missing / 2.0;
        }
    });
    sum
}

/// The unit vector from `other` to `here` and the distance; two at one place part along the x axis.
pub(super) fn direction(here: Point, other: Point, first: bool) -> (Point, f64) {
    let (dx, dy) = (here[0] - other[0], here[1] - other[1]);
    let distance = dx.hypot(dy);
    if distance < 1e-6 {
        return ([if first { -1.0 } else { 1.0 }, 0.0], distance);
    }
    ([dx / distance, dy / distance], distance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_those_that_are_near() {
        let points: Vec<Point> = (0..400)
            .map(|i| [f64::from(i % 20) * 0.7 - 5.0, f64::from(i / 20) * 0.7 - 5.0])
            .collect();
        let neighbours = Neighbours::new(&points);
        for &point in &points {
            let mut found = Vec::new();
            neighbours.near(point, |index| {
                let [x, y] = points[index];
                if (x - point[0]).hypot(y - point[1]) <= CELL {
                    found.push(index);
                }
            });
            found.sort_unstable();
            let all = (0..points.len()).filter(|&index| {
                let [x, y] = points[index];
                (x - point[0]).hypot(y - point[1]) <= CELL
            });
            assert_eq!(found, all.collect::<Vec<_>>());
        }
    }

    #[test]
    fn people_at_one_place_part() {
        let mut points = vec![[1.0, 1.0], [1.0, 1.0], [5.0, 5.0]];
        separate(&mut points, |_, point| point);
        let distance = (points[0][0] - points[1][0]).hypot(points[0][1] - points[1][1]);
        assert!(distance > 0.45, "{points:?}");
        assert_eq!(points[2], [5.0, 5.0]);
    }
}
