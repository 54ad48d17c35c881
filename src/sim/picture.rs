//! A picture of the place: floor plan, what each camera sees, the ways of some people; SVG.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::homography::MapPoint;

use super::plan::{Opening, Point};
use super::sight::Eye;
use super::{Simulation, Step};

/// People whose ways are drawn.
const PEOPLE: usize = 10;

/// Points of a way that are drawn, one each [`INTERVAL`] seconds.
const POINTS: usize = 600;
const INTERVAL: f64 = 0.5;

/// Width of the drawing and of the margin around it, in pixels.
const WIDTH: f64 = 1_000.0;
const MARGIN: f64 = 40.0;

/// Colours that remain apart for colour-blind eyes (Okabe and Ito 2008).
const COLOURS: [&str; 7] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000",
];

/// Rays that a camera's field of view is drawn by.
const RAYS: usize = 32;

/// Step along them, in metres.
const RAY_STEP: f64 = 0.25;

/// Collects what is drawn while a simulation runs.
#[derive(Debug, Default)]
pub struct Picture {
    /// By identity: the parts of its way, a new one after each absence.
    ways: BTreeMap<u64, Vec<Vec<Point>>>,
    points: usize,
    last: Option<f64>,
}

impl Picture {
    /// Takes in where people are.
    pub fn add(&mut self, step: &Step) {
        let soon = self.last.is_some_and(|last| step.time - last < INTERVAL);
        if soon || self.points >= POINTS {
            return;
        }
        self.last = Some(step.time);
        self.points += 1;
        for &(id, place) in &step.people {
            if self.ways.len() < PEOPLE {
                self.ways.entry(id).or_default();
            }
            let Some(parts) = self.ways.get_mut(&id) else {
                continue;
            };
            let point = [place.x, place.y];
            match parts.last_mut() {
                Some(part) if part.last().is_some_and(|&last| is_near(last, point)) => {
                    part.push(point);
                }
                _ => parts.push(vec![point]),
            }
        }
    }

    /// The whole picture; y grows upwards, as seen from above.
    pub fn svg(&self, simulation: &Simulation) -> String {
        let scale = Scale::new(simulation);
        let mut svg = String::new();
        // Writing into a String cannot fail.
        let _ = writeln!(
            svg,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0}\" height=\"{1:.0}\" \
             viewBox=\"0 0 {0:.0} {1:.0}\" font-family=\"sans-serif\" font-size=\"13\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>",
            WIDTH + 2.0 * MARGIN,
            scale.height + 2.0 * MARGIN + 20.0,
        );
        floor(&mut svg, simulation, &scale);
        for index in 0..simulation.cameras.len() {
            field_of_view(&mut svg, &simulation.eye(index), index, &scale);
        }
        for (index, parts) in self.ways.values().enumerate() {
            for part in parts {
                way(&mut svg, part, COLOURS[index % COLOURS.len()], &scale);
            }
        }
        cameras(&mut svg, simulation, &scale);
        scale_bar(&mut svg, &scale);
        svg.push_str("</svg>\n");
        svg
    }
}

/// Whether someone can have walked from one point to the next.
fn is_near(a: Point, b: Point) -> bool {
    (a[0] - b[0]).hypot(a[1] - b[1]) < 8.0 * INTERVAL
}

/// From metres to the drawing.
struct Scale {
    origin: Point,
    pixels: f64,
    height: f64,
}

impl Scale {
    fn new(simulation: &Simulation) -> Self {
        let [least, most] = simulation.plan.bounds();
        let pixels = WIDTH / (most[0] - least[0]);
        Self {
            origin: least,
            pixels,
            height: (most[1] - least[1]) * pixels,
        }
    }

    fn at(&self, point: Point) -> Point {
        [
            MARGIN + (point[0] - self.origin[0]) * self.pixels,
            MARGIN + self.height - (point[1] - self.origin[1]) * self.pixels,
        ]
    }
}

fn floor(svg: &mut String, simulation: &Simulation, scale: &Scale) {
    let plan = &simulation.plan;
    for room in plan.rooms() {
        let [x, y] = scale.at([room.least[0], room.most[1]]);
        let _ = writeln!(
            svg,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"#f4f4f4\" \
             stroke=\"#444444\" stroke-width=\"2\"/>",
            (room.most[0] - room.least[0]) * scale.pixels,
            (room.most[1] - room.least[1]) * scale.pixels,
        );
    }
    for door in plan.doors() {
        line(svg, &door.opening, "#f4f4f4", scale);
    }
    for entrance in plan.entrances() {
        line(svg, &entrance.opening, "#009e73", scale);
    }
}

fn line(svg: &mut String, opening: &Opening, colour: &str, scale: &Scale) {
    let [[x1, y1], [x2, y2]] = opening.ends.map(|end| scale.at(end));
    let _ = writeln!(
        svg,
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\" \
         stroke-width=\"5\"/>"
    );
}

/// The floor that a camera sees, walls taken into account.
fn field_of_view(svg: &mut String, eye: &Eye<'_>, index: usize, scale: &Scale) {
    let camera = eye.camera;
    let half = (f64::from(camera.image_size[0]) / 2.0 / camera.focal).atan();
    let (mut near, mut far) = (Vec::new(), Vec::new());
    for ray in 0..=RAYS {
        // On the floor, a pitched camera sees more to the sides nearby; what it sees is tested.
        let angle = camera.yaw + (2.0 * ray as f64 / RAYS as f64 - 1.0) * half * 1.4;
        if let Some([from, to]) = seen_along(eye, angle) {
            near.push(from);
            far.push(to);
        }
    }
    far.reverse();
    near.extend(far);
    let points: Vec<String> = near
        .iter()
        .map(|&point| {
            let [x, y] = scale.at(point);
            format!("{x:.1},{y:.1}")
        })
        .collect();
    let colour = COLOURS[index % COLOURS.len()];
    let _ = writeln!(
        svg,
        "<polygon points=\"{}\" fill=\"{colour}\" fill-opacity=\"0.12\" stroke=\"{colour}\" \
         stroke-opacity=\"0.5\"/>",
        points.join(" ")
    );
}

/// First and last point that a camera sees in one direction.
fn seen_along(eye: &Eye<'_>, angle: f64) -> Option<[Point; 2]> {
    let (sin, cos) = angle.sin_cos();
    let [x, y, _] = eye.camera.position;
    let mut seen: Option<[Point; 2]> = None;
    for step in 1..(eye.settings.range / RAY_STEP) as usize {
        let distance = step as f64 * RAY_STEP;
        let point = [x + distance * cos, y + distance * sin];
        let place = MapPoint {
            x: point[0],
            y: point[1],
        };
        let room = eye.plan.room_at(point);
        let sees = room.is_some_and(|room| eye.sees(place, room));
        match (&mut seen, sees) {
            (None, true) => seen = Some([point, point]),
            (Some([_, last]), true) => *last = point,
            (Some(_), false) => break,
            (None, false) => {}
        }
    }
    seen
}

fn way(svg: &mut String, part: &[Point], colour: &str, scale: &Scale) {
    let points: Vec<String> = part
        .iter()
        .map(|&point| {
            let [x, y] = scale.at(point);
            format!("{x:.1},{y:.1}")
        })
        .collect();
    let _ = writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>",
        points.join(" ")
    );
    if let Some(&last) = part.last() {
        let [x, y] = scale.at(last);
        let _ = writeln!(
            svg,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{colour}\"/>"
        );
    }
}

fn cameras(svg: &mut String, simulation: &Simulation, scale: &Scale) {
    for (index, camera) in simulation.cameras.iter().enumerate() {
        let [x, y] = scale.at([camera.position[0], camera.position[1]]);
        let colour = COLOURS[index % COLOURS.len()];
        let (sin, cos) = camera.yaw.sin_cos();
        let _ = writeln!(
            svg,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"6\" fill=\"{colour}\"/>\n\
             <line x1=\"{x:.1}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\" \
             stroke-width=\"3\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" stroke=\"white\" \
             stroke-width=\"3\" paint-order=\"stroke\">{}</text>",
            x + 16.0 * cos,
            y - 16.0 * sin,
            x - 18.0 * cos,
            y + 18.0 * sin + 4.0,
            camera.id
        );
    }
}

/// A bar of a round number of metres, about a tenth of the width.
fn scale_bar(svg: &mut String, scale: &Scale) {
    let mut metres = 1.0;
    for step in [2.0, 2.5, 2.0].into_iter().cycle().take(12) {
        if metres * scale.pixels >= WIDTH / 12.0 {
            break;
        }
        metres *= step;
    }
    let (x, y) = (MARGIN, scale.height + 2.0 * MARGIN);
    let _ = writeln!(
        svg,
        "<line x1=\"{x:.1}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{y:.1}\" stroke=\"black\" \
         stroke-width=\"2\"/>\n<text x=\"{:.1}\" y=\"{:.1}\">{metres} m</text>",
        x + metres * scale.pixels,
        x + metres * scale.pixels + 8.0,
        y + 4.0,
    );
}
