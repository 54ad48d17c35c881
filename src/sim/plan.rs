//! A floor plan: rooms side by side, doors between them, entrances from outside.
//!
//! Rooms are rectangles, so a straight line between two points of one never leaves it: that is all
//! that walking and seeing need.

use std::collections::VecDeque;

/// A point on the map, in metres.
pub(super) type Point = [f64; 2];

/// A room: the rectangle between two corners.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Room {
    /// Its corner with the least x and y.
    pub least: [f64; 2],
    /// Its corner with the largest x and y.
    pub most: [f64; 2],
}

impl Room {
    /// Whether a point is inside, at least `margin` from the walls.
    pub fn holds(&self, point: [f64; 2], margin: f64) -> bool {
        (0..2).all(|axis| {
            point[axis] >= self.least[axis] + margin && point[axis] <= self.most[axis] - margin
        })
    }

    /// The nearest point that is `margin` from the walls.
    pub fn nearest(&self, point: [f64; 2], margin: f64) -> [f64; 2] {
        std::array::from_fn(|axis| {
            let least = self.least[axis] + margin;
            // A room narrower than two margins has a middle line only.
            let most = (self.most[axis] - margin).max(least);
            point[axis].clamp(least, most)
        })
    }

    /// Width times depth, in square metres.
    pub fn area(&self) -> f64 {
        (self.most[0] - self.least[0]) * (self.most[1] - self.least[1])
    }

    /// Its middle.
    pub fn centre(&self) -> [f64; 2] {
        std::array::from_fn(|axis| f64::midpoint(self.least[axis], self.most[axis]))
    }
}

/// An opening in the wall between two rooms, or to the outside.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Opening {
    /// Its two ends.
    pub ends: [[f64; 2]; 2],
}

impl Opening {
    /// The point `share` (0..=1) of the way from one end to the other, kept off the ends.
    pub fn at(&self, share: f64) -> [f64; 2] {
        let [a, b] = self.ends;
        let length = (b[0] - a[0]).hypot(b[1] - a[1]);
        let margin = (DOOR_MARGIN / length.max(1e-9)).min(0.5);
        let share = margin + (1.0 - 2.0 * margin) * share;
        std::array::from_fn(|axis| a[axis] + share * (b[axis] - a[axis]))
    }

    /// Whether a point is in the opening, within `depth` of the wall.
    pub(super) fn holds(&self, point: Point, depth: f64) -> bool {
        let [a, b] = self.ends;
        let (dx, dy) = (b[0] - a[0], b[1] - a[1]);
        let length = dx.hypot(dy).max(1e-9);
        let (px, py) = (point[0] - a[0], point[1] - a[1]);
        let along = (px * dx + py * dy) / length;
        let across = (px * dy - py * dx) / length;
        (BODY..=length - BODY).contains(&along) && across.abs() <= depth
    }

    /// Whether the straight line between two points goes through.
    fn is_crossed(&self, from: Point, to: Point) -> bool {
        let side = |a: Point, b: Point, c: Point| {
            (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
        };
        let [a, b] = self.ends;
        side(from, to, a) * side(from, to, b) < 0.0 && side(a, b, from) * side(a, b, to) <= 0.0
    }
}

/// Two rooms and the opening between them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Door {
    /// Indices of the rooms.
    pub rooms: [usize; 2],
    /// The opening.
    pub opening: Opening,
}

impl Door {
    /// The room on the other side.
    fn beyond(&self, room: usize) -> Option<usize> {
        match self.rooms {
            [a, b] if a == room => Some(b),
            [a, b] if b == room => Some(a),
            _ => None,
        }
    }
}

/// Where people come in and go out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Entrance {
    /// Index of the room.
    pub room: usize,
    /// The opening in its wall.
    pub opening: Opening,
}

/// Metres that people keep from the sides of a door.
const DOOR_MARGIN: f64 = 0.5;

/// Metres between someone's middle and a wall, at least.
pub(super) const BODY: f64 = 0.25;

/// A floor plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    rooms: Vec<Room>,
    doors: Vec<Door>,
    entrances: Vec<Entrance>,
    /// Doors of each room.
    doors_of: Vec<Vec<usize>>,
    /// The door to take from one room (row) to get to another (column).
    next_door: Vec<Vec<Option<usize>>>,
}

impl Plan {
    /// A plan; every room must be reachable from every other, and there must be an entrance.
    pub(super) fn new(rooms: Vec<Room>, doors: Vec<Door>, entrances: Vec<Entrance>) -> Self {
        let mut doors_of = vec![Vec::new(); rooms.len()];
        for (index, door) in doors.iter().enumerate() {
            for room in door.rooms {
                doors_of[room].push(index);
            }
        }
        let mut plan = Self {
            rooms,
            doors,
            entrances,
            doors_of,
            next_door: Vec::new(),
        };
        plan.next_door = vec![vec![None; plan.rooms.len()]; plan.rooms.len()];
        for goal in 0..plan.rooms.len() {
            plan.find_ways_to(goal);
        }
        plan
    }

    /// The doors to take towards `goal` from everywhere: the fewest doors.
    fn find_ways_to(&mut self, goal: usize) {
        let mut queue = VecDeque::from([goal]);
        while let Some(room) = queue.pop_front() {
            for &index in &self.doors_of[room] {
                let Some(beyond) = self.doors[index].beyond(room) else {
                    continue;
                };
                if beyond != goal && self.next_door[beyond][goal].is_none() {
                    self.next_door[beyond][goal] = Some(index);
                    queue.push_back(beyond);
                }
            }
        }
    }

    /// The rooms.
    pub fn rooms(&self) -> &[Room] {
        &self.rooms
    }

    /// The doors between them.
    pub fn doors(&self) -> &[Door] {
        &self.doors
    }

    /// Where people come in and go out.
    pub fn entrances(&self) -> &[Entrance] {
        &self.entrances
    }

    /// The doors of one room.
    pub(super) fn doors_of(&self, room: usize) -> impl Iterator<Item = &Door> {
        self.doors_of[room].iter().map(|&index| &self.doors[index])
    }

    /// The door to go through on the way from one room to another.
    pub(super) fn next_door(&self, from: usize, to: usize) -> Option<&Door> {
        self.next_door[from][to].map(|index| &self.doors[index])
    }

    /// Least and largest x and y of the whole plan.
    pub fn bounds(&self) -> [[f64; 2]; 2] {
        let (mut least, mut most) = ([f64::INFINITY; 2], [f64::NEG_INFINITY; 2]);
        for room in &self.rooms {
            least = std::array::from_fn(|axis| least[axis].min(room.least[axis]));
            most = std::array::from_fn(|axis| most[axis].max(room.most[axis]));
        }
        [least, most]
    }

    /// The room that a point is in.
    pub fn room_at(&self, point: [f64; 2]) -> Option<usize> {
        self.rooms.iter().position(|room| room.holds(point, 0.0))
    }

    /// Whether one sees from a point in one room to a point in another: within a room, and through
    /// one door; further, nothing is seen.
    pub(super) fn in_sight(&self, from: (usize, Point), to: (usize, Point)) -> bool {
        from.0 == to.0
            || self.doors_of(from.0).any(|door| {
                door.beyond(from.0) == Some(to.0) && door.opening.is_crossed(from.1, to.1)
            })
    }

    /// Where someone in `room` who wants to be at `wanted` gets: not through walls.
    pub(super) fn keep_inside(&self, room: usize, wanted: Point) -> Point {
        let rectangle = &self.rooms[room];
        let in_door = |door: &Door| door.opening.holds(wanted, DOOR_DEPTH);
        if rectangle.holds(wanted, BODY) || self.doors_of(room).any(in_door) {
            return wanted;
        }
        let outside = |entrance: &Entrance| {
            entrance.room == room && entrance.opening.holds(wanted, DOOR_DEPTH)
        };
        if rectangle.holds(wanted, 0.0) && self.entrances.iter().any(outside) {
            return wanted;
        }
        rectangle.nearest(wanted, BODY)
    }
}

/// How far from a wall its door still frees from the wall, in metres.
const DOOR_DEPTH: f64 = 0.6;

#[cfg(test)]
mod tests {
    use super::*;

    /// Three rooms of 4 m × 4 m in a row, doors 2 m wide in the middle.
    fn row() -> Plan {
        let room = |x: f64| Room {
            least: [x, 0.0],
            most: [x + 4.0, 4.0],
        };
        let opening = |x: f64| Opening {
            ends: [[x, 1.0], [x, 3.0]],
        };
        let door = |a: usize| Door {
            rooms: [a, a + 1],
            opening: opening(4.0 * (a + 1) as f64),
        };
        let entrance = Entrance {
            room: 0,
            opening: opening(0.0),
        };
        Plan::new(
            vec![room(0.0), room(4.0), room(8.0)],
            vec![door(0), door(1)],
            vec![entrance],
        )
    }

    #[test]
    fn ways_lead_through_doors() {
        let plan = row();
        assert_eq!(plan.next_door(0, 2).unwrap().rooms, [0, 1]);
        assert_eq!(plan.next_door(1, 2).unwrap().rooms, [1, 2]);
        assert_eq!(plan.next_door(2, 0).unwrap().rooms, [1, 2]);
        assert!(plan.next_door(1, 1).is_none());
    }

    #[test]
    fn walls_hide_and_doors_show() {
        let plan = row();
        let from = (0, [2.0, 2.0]);
        assert!(plan.in_sight(from, (0, [3.9, 3.9])));
        assert!(plan.in_sight(from, (1, [6.0, 2.5])));
        assert!(!plan.in_sight(from, (1, [4.5, 3.9])), "behind the wall");
        assert!(!plan.in_sight(from, (2, [10.0, 2.0])), "two doors away");
    }

    #[test]
    fn nobody_goes_through_walls() {
        let plan = row();
        assert_eq!(plan.keep_inside(0, [2.0, 2.0]), [2.0, 2.0]);
        assert_eq!(plan.keep_inside(0, [4.2, 2.0]), [4.2, 2.0], "in the door");
        assert_eq!(plan.keep_inside(0, [4.2, 3.5]), [3.75, 3.5]);
        assert_eq!(plan.keep_inside(0, [-1.0, 5.0]), [0.25, 3.75]);
    }
}
