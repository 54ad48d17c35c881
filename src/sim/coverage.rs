//! Which cameras see one place, and how long people take from one camera to the next.
//!
//! The floor is looked at in cells. Two cameras overlap if they see a square metre in common. From
//! other cameras' cells, the way to a camera leads over cells that no camera sees.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use crate::homography::MapPoint;

use super::plan::{Plan, Point};
use super::settings::SPEEDS;
use super::sight::Eye;

/// Side of a cell, in metres.
const CELL: f64 = 0.5;

/// Cells in common from which on cameras overlap: a square metre.
const OVERLAP: usize = 4;

/// Most cells; larger places are looked at in larger cells.
const MOST_CELLS: f64 = 1e6;

/// What ways over cells are longer than straight ones, at most: 8 directions, `1 / cos(22.5°)`.
const DETOUR: f64 = 1.082_4;

/// How two cameras lie to each other, from one of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CameraLink {
    /// Index of the camera that people come from.
    pub from: usize,
    /// Index of the camera that they get to.
    pub to: usize,
    /// Whether both see one place.
    pub overlap: bool,
    /// Least and most seconds on the way that neither sees; 0 and 0 where they overlap. Someone
    /// who leaves the place and comes back may take longer.
    pub seconds: [f64; 2],
}

/// The floor in cells.
struct Floor<'a> {
    plan: &'a Plan,
    origin: Point,
    columns: usize,
    side: f64,
    /// The room of each cell's middle, and which cameras see it.
    cells: Vec<Option<(usize, Vec<u32>)>>,
}

/// All pairs of cameras that see one place or between which there is a way that none sees, in both
/// directions, in order.
pub(super) fn links(plan: &Plan, eyes: &[Eye<'_>]) -> Vec<CameraLink> {
    let floor = Floor::new(plan, eyes);
    let mut shared: BTreeMap<(u32, u32), usize> = BTreeMap::new();
    for (_, cameras) in floor.cells.iter().flatten() {
        for &from in cameras {
            for &to in cameras {
                *shared.entry((from, to)).or_default() += 1;
            }
        }
    }
    let overlap = |from: usize, to: usize| {
        let count = shared.get(&(from as u32, to as u32));
        count.is_some_and(|&count| count >= OVERLAP)
    };
    let mut links = Vec::new();
    for (from, eye) in eyes.iter().enumerate() {
        let ways = floor.ways_from(from, eyes.len());
        for (to, way) in ways.into_iter().enumerate() {
            let walk = &eye.settings.walk;
            let seconds = if overlap(from, to) {
                [0.0, 0.0]
            } else if let Some(metres) = way {
                let stops = 4.0 * walk.pause;
                // Cells are seen or not as a whole, and people may be seen a little later.
                let least = ((metres - 2.0 * floor.side) / DETOUR / SPEEDS[1]).max(0.0);
                [least, 2.0 * metres / SPEEDS[0] + stops]
            } else {
                continue;
            };
            if from != to {
                links.push(CameraLink {
                    from,
                    to,
                    overlap: overlap(from, to),
                    seconds,
                });
            }
        }
    }
    links
}

impl<'a> Floor<'a> {
    fn new(plan: &'a Plan, eyes: &[Eye<'_>]) -> Self {
        let [least, most] = plan.bounds();
        let (width, depth) = (most[0] - least[0], most[1] - least[1]);
        let side = CELL.max((width * depth / MOST_CELLS).sqrt());
        let columns = (width / side).ceil().max(1.0) as usize;
        let rows = (depth / side).ceil().max(1.0) as usize;
        let mut floor = Self {
            plan,
            origin: least,
            columns,
            side,
            cells: Vec::with_capacity(columns * rows),
        };
        for index in 0..columns * rows {
            let point = floor.middle(index);
            // Nobody's middle is nearer to a wall, but in doors.
            let room = plan.room_at(point);
            let room = room.filter(|&room| plan.keep_inside(room, point) == point);
            let cell = room.map(|room| (room, cameras_at(point, room, eyes)));
            floor.cells.push(cell);
        }
        floor
    }

    fn middle(&self, index: usize) -> Point {
        let (row, column) = (index / self.columns, index % self.columns);
        [
            self.origin[0] + (column as f64 + 0.5) * self.side,
            self.origin[1] + (row as f64 + 0.5) * self.side,
        ]
    }

    fn sees(&self, camera: usize, index: usize) -> bool {
        let cell = self.cells[index].as_ref();
        cell.is_some_and(|(_, cameras)| cameras.contains(&(camera as u32)))
    }

    /// Metres from what a camera sees to what each other one sees, over cells that none sees
    /// (Dijkstra 1959).
    fn ways_from(&self, camera: usize, cameras: usize) -> Vec<Option<f64>> {
        let mut ways = vec![None; cameras];
        let mut least = vec![u32::MAX; self.cells.len()];
        let mut queue = BinaryHeap::new();
        for (index, way) in least.iter_mut().enumerate() {
            if self.sees(camera, index) {
                *way = 0;
                queue.push((Reverse(0), index));
            }
        }
        while let Some((Reverse(way), index)) = queue.pop() {
            let Some((_, seeing)) = &self.cells[index] else {
                continue;
            };
            if way > least[index] {
                continue;
            }
            let others = seeing.iter().filter(|&&other| other as usize != camera);
            for &other in others {
                let found = &mut ways[other as usize];
                let metres = f64::from(way) / 1000.0 * self.side;
                if found.is_none_or(|before| metres < before) {
                    *found = Some(metres);
                }
            }
            if !seeing.is_empty() && way > 0 {
                continue;
            }
            self.each_neighbour(index, |next, length| {
                let longer = way.saturating_add(length);
                if longer < least[next] {
                    least[next] = longer;
                    queue.push((Reverse(longer), next));
                }
            });
        }
        ways
    }

    /// Calls `each` with the cells beside, and the way there in thousandths of a cell.
    fn each_neighbour(&self, index: usize, mut each: impl FnMut(usize, u32)) {
        let rows = self.cells.len() / self.columns;
        let (row, column) = (index / self.columns, index % self.columns);
        let Some((room, _)) = self.cells[index] else {
            return;
        };
        for next_row in row.saturating_sub(1)..=(row + 1).min(rows - 1) {
            for next_column in column.saturating_sub(1)..=(column + 1).min(self.columns - 1) {
                let next = next_row * self.columns + next_column;
                let Some((next_room, _)) = self.cells[next] else {
                    continue;
                };
                let from = (room, self.middle(index));
                // As sight, ways lead through doors.
                if next != index && self.plan.in_sight(from, (next_room, self.middle(next))) {
                    let straight = next_row == row || next_column == column;
                    each(next, if straight { 1_000 } else { 1_414 });
                }
            }
        }
    }
}

fn cameras_at(point: Point, room: usize, eyes: &[Eye<'_>]) -> Vec<u32> {
    let place = MapPoint {
        x: point[0],
        y: point[1],
    };
    let seeing = eyes
        .iter()
        .enumerate()
        .filter(|(_, eye)| eye.sees(place, room));
    seeing.map(|(index, _)| index as u32).collect()
}
