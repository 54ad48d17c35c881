//! The places that can be simulated: plans with cameras in them.
//!
//! Each grows with the number of people, so that it is never so full that nobody can walk.

use std::f64::consts::{FRAC_PI_2, TAU};

use super::camera::SimCamera;
use super::plan::{Door, Entrance, Opening, Plan, Point, Room};
use super::settings::{Layout, SimSettings};

/// Square metres for each person who is there, at least.
const ROOM_FOR_ONE: f64 = 5.0;

/// Plan and cameras of the settings' layout.
pub(super) fn build(settings: &SimSettings) -> (Plan, Vec<SimCamera>) {
    match settings.layout {
        Layout::Ring => ring(settings),
        Layout::Corridor => corridor(settings),
        Layout::Campus => campus(settings),
        Layout::Grid => grid(settings),
    }
}

/// Square metres that the people need.
fn needed_area(settings: &SimSettings) -> f64 {
    settings.people as f64 * settings.walk.present.max(0.2) * ROOM_FOR_ONE
}

/// How much larger than `area` a place of the same shape must be, at least 1, along each side.
fn growth(settings: &SimSettings, area: f64) -> f64 {
    (needed_area(settings) / area).sqrt().max(1.0)
}

fn opening(a: Point, b: Point) -> Opening {
    Opening { ends: [a, b] }
}

/// `c01`, `c02` and so on, as many digits as the last one needs.
fn name(index: usize, count: usize) -> String {
    let digits = count.to_string().len().max(2);
    format!("c{:0digits$}", index + 1)
}

/// A hall of 16 m × 12 m or larger, an entrance in the middle of each wall, cameras along the walls
/// at equal angles around the middle, all looking there.
fn ring(settings: &SimSettings) -> (Plan, Vec<SimCamera>) {
    let scale = growth(settings, 16.0 * 12.0);
    let (width, depth) = (16.0 * scale, 12.0 * scale);
    let hall = Room {
        least: [0.0, 0.0],
        most: [width, depth],
    };
    let [x, y] = hall.centre();
    let openings = [
        opening([0.0, y - 1.5], [0.0, y + 1.5]),
        opening([width, y - 1.5], [width, y + 1.5]),
        opening([x - 1.5, 0.0], [x + 1.5, 0.0]),
        opening([x - 1.5, depth], [x + 1.5, depth]),
    ];
    let entrances = openings.map(|opening| Entrance { room: 0, opening });
    let mut cameras = Vec::with_capacity(settings.cameras);
    for index in 0..settings.cameras {
        let angle = TAU * (index as f64 + 0.5) / settings.cameras as f64;
        let (sin, cos) = angle.sin_cos();
        // From the middle to the wall, whichever wall is met first.
        let reach = ((x - 0.1) / cos.abs().max(1e-9)).min((y - 0.1) / sin.abs().max(1e-9));
        cameras.push(SimCamera::looking_at(
            name(index, settings.cameras),
            0,
            [x + reach * cos, y + reach * sin, 4.0],
            [x, y, 0.5],
            75.0_f64.to_radians(),
            settings.image_size,
        ));
    }
    (
        Plan::new(vec![hall], Vec::new(), entrances.to_vec()),
        cameras,
    )
}

/// Rooms of 12 m × 8 m or larger in a row, with passages of 8, 12 and 16 m between them, 3 m wide;
/// a camera at the near wall of each room, which looks across and into no passage: people leave it to
/// the sides. An entrance at both ends.
fn corridor(settings: &SimSettings) -> (Plan, Vec<SimCamera>) {
    let count = settings.cameras;
    let scale = growth(settings, count as f64 * 12.0 * 8.0);
    let (width, depth) = (12.0 * scale, 8.0 * scale);
    let middle = depth / 2.0;
    let gap = |x: f64| opening([x, middle - 1.5], [x, middle + 1.5]);
    let (mut rooms, mut doors, mut cameras) = (Vec::new(), Vec::new(), Vec::new());
    let mut x = 0.0;
    for index in 0..count {
        let room = rooms.len();
        if index > 0 {
            doors.push(Door {
                rooms: [room - 1, room],
                opening: gap(x),
            });
        }
        rooms.push(Room {
            least: [x, 0.0],
            most: [x + width, depth],
        });
        cameras.push(SimCamera::looking_at(
            name(index, count),
            room,
            [x + width / 2.0, 0.2, 3.2],
            [x + width / 2.0, 0.56 * depth, 0.3],
            80.0_f64.to_radians(),
            settings.image_size,
        ));
        x += width;
        if index + 1 < count {
            doors.push(Door {
                rooms: [room, room + 1],
                opening: gap(x),
            });
            let length = 8.0 + 4.0 * (index % 3) as f64;
            rooms.push(Room {
                least: [x, middle - 1.5],
                most: [x + length, middle + 1.5],
            });
            x += length;
        }
    }
    let entrances = vec![
        Entrance {
            room: 0,
            opening: gap(0.0),
        },
        Entrance {
            room: rooms.len() - 1,
            opening: gap(x),
        },
    ];
    (Plan::new(rooms, doors, entrances), cameras)
}

/// A way of 70 m × 14 m or larger with cameras along its near side, which look across: people
/// leave c09 to the right and appear in c12 at the left, and so on. c09 and c12 overlap from the
/// middle of the way on, c13 and c16 too; between c12 and c13 there is a gap, narrow at the far side.
fn campus(settings: &SimSettings) -> (Plan, Vec<SimCamera>) {
    let scale = growth(settings, 70.0 * 14.0);
    let (width, depth) = (70.0 * scale, 14.0 * scale);
    let way = Room {
        least: [0.0, 0.0],
        most: [width, depth],
    };
    let entrance = |a: Point, b: Point| Entrance {
        room: 0,
        opening: opening(a, b),
    };
    let entrances = vec![
        entrance([0.0, 0.2 * depth], [0.0, 0.8 * depth]),
        entrance([width, 0.2 * depth], [width, 0.8 * depth]),
        entrance([0.2 * width - 2.0, depth], [0.2 * width + 2.0, depth]),
        entrance([0.5 * width - 2.0, depth], [0.5 * width + 2.0, depth]),
    ];
    let places = [("c09", 8.0), ("c12", 20.0), ("c13", 50.0), ("c16", 62.0)];
    let cameras = places.map(|(id, x)| SimCamera {
        id: id.to_owned(),
        room: 0,
        position: [x * scale, 0.1, 5.0 * scale],
        yaw: FRAC_PI_2,
        pitch: 35.0_f64.to_radians(),
        // A picture 90° wide.
        focal: f64::from(settings.image_size[0]) / 2.0,
        image_size: settings.image_size,
    });
    (
        Plan::new(vec![way], Vec::new(), entrances),
        cameras.to_vec(),
    )
}

/// Square rooms of 14 m or larger, as many a row as rows, doors 4 m wide between all neighbours,
/// entrances from outside in the first and last row; a camera in a corner of each room.
fn grid(settings: &SimSettings) -> (Plan, Vec<SimCamera>) {
    let count = settings.cameras;
    let columns = (count as f64).sqrt().ceil() as usize;
    let side = 14.0 * growth(settings, count as f64 * 14.0 * 14.0);
    let (mut rooms, mut doors, mut cameras) = (Vec::new(), Vec::new(), Vec::new());
    let mut entrances = Vec::new();
    for index in 0..count {
        let (row, column) = (index / columns, index % columns);
        let least = [column as f64 * side, row as f64 * side];
        let room = Room {
            least,
            most: least.map(|v| v + side),
        };
        let [x, y] = room.centre();
        if column > 0 {
            doors.push(Door {
                rooms: [index - 1, index],
                opening: opening([least[0], y - 2.0], [least[0], y + 2.0]),
            });
        }
        let below = opening([x - 2.0, least[1]], [x + 2.0, least[1]]);
        if row > 0 {
            doors.push(Door {
                rooms: [index - columns, index],
                opening: below,
            });
        } else {
            entrances.push(Entrance {
                room: index,
                opening: below,
            });
        }
        if index + columns >= count {
            entrances.push(Entrance {
                room: index,
                opening: opening([x - 2.0, room.most[1]], [x + 2.0, room.most[1]]),
            });
        }
        cameras.push(corner_camera(settings, index, &room));
        rooms.push(room);
    }
    (Plan::new(rooms, doors, entrances), cameras)
}

/// A camera in one of a room's corners, another one from room to room.
fn corner_camera(settings: &SimSettings, index: usize, room: &Room) -> SimCamera {
    let corner: Point = match index % 4 {
        0 => [room.least[0] + 0.2, room.least[1] + 0.2],
        1 => [room.most[0] - 0.2, room.least[1] + 0.2],
        2 => [room.most[0] - 0.2, room.most[1] - 0.2],
        _ => [room.least[0] + 0.2, room.most[1] - 0.2],
    };
    let [x, y] = room.centre();
    SimCamera::looking_at(
        name(index, settings.cameras),
        index,
        [corner[0], corner[1], 4.0],
        [x, y, 0.5],
        85.0_f64.to_radians(),
        settings.image_size,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_room_can_be_reached_and_cameras_are_in_their_rooms() {
        for (layout, cameras) in [
            (Layout::Ring, 5),
            (Layout::Corridor, 4),
            (Layout::Campus, 4),
            (Layout::Grid, 11),
            (Layout::Grid, 1),
        ] {
            let settings = SimSettings {
                layout,
                cameras,
                people: 300,
                ..SimSettings::default()
            };
            let (plan, built) = build(&settings);
            assert_eq!(built.len(), cameras);
            for camera in &built {
                let [x, y, _] = camera.position;
                assert!(plan.rooms()[camera.room].holds([x, y], 0.0), "{camera:?}");
                assert!(camera.view().is_some());
            }
            for from in 0..plan.rooms().len() {
                for to in 0..plan.rooms().len() {
                    assert_eq!(plan.next_door(from, to).is_some(), from != to);
                }
            }
            let area: f64 = plan.rooms().iter().map(Room::area).sum();
            assert!(
                area >= 0.99 * 300.0 * 0.5 * ROOM_FOR_ONE,
                "{layout:?}: {area}"
            );
        }
    }
}
