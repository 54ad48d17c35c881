//! What all cameras together give: events as JSON lines, places as text, trajectories as a picture.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;

use serde::Serialize;

use super::part::{PartFile, part_path};
use super::{SinkError, Written};
use crate::annotate::color;
use crate::gallery::PlacedPerson;
use crate::homography::MapPoint;
use crate::pipeline::WorldEvent;

/// The outcome of one time step, lent to the sinks.
#[derive(Debug, Clone, Copy)]
pub struct StepOutcome<'a> {
    /// Number of the step, from 1.
    pub number: u64,
    /// Its time in seconds.
    pub time: f64,
    /// What happened.
    pub events: &'a [WorldEvent],
    /// Everyone on the map, by identity.
    pub people: &'a [PlacedPerson],
}

/// Where the results of an environment go, step after step.
pub trait WorldSink: Send {
    /// Takes the results of one step. Steps come in order.
    ///
    /// # Errors
    /// When they cannot be written.
    fn write(&mut self, outcome: &StepOutcome<'_>) -> Result<(), SinkError>;

    /// Puts what was written where it outlives a crash and says how much it is, so that a further
    /// run can go on from there; `None` where that run takes no heed of it.
    ///
    /// # Errors
    /// When it cannot be written.
    fn checkpoint(&mut self) -> Result<Option<Written>, SinkError> {
        Ok(None)
    }

    /// Completes the file and moves it to its place.
    ///
    /// # Errors
    /// When it cannot be completed.
    fn finish(self: Box<Self>) -> Result<(), SinkError>;
}

/// Writes one line an event: `{"step", "time", "kind", "event", …}`.
#[derive(Debug)]
pub struct EventSink {
    file: PartFile,
}

#[derive(Serialize)]
struct EventLine<'a> {
    step: u64,
    /// Not of events that tell their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<f64>,
    #[serde(flatten)]
    event: &'a WorldEvent,
}

impl EventSink {
    /// Begins the file at `path`.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn create(path: &Path) -> Result<Self, SinkError> {
        Ok(Self::to(PartFile::create(path)?))
    }

    /// Writes to a file that was begun.
    pub fn to(file: PartFile) -> Self {
        Self { file }
    }
}

impl WorldSink for EventSink {
    fn write(&mut self, outcome: &StepOutcome<'_>) -> Result<(), SinkError> {
        for event in outcome.events {
            let line = EventLine {
                step: outcome.number,
                time: event.time().is_none().then_some(outcome.time),
                event,
            };
            let mut text = serde_json::to_string(&line)
                .map_err(|error| SinkError::encode(self.file.path(), outcome.number, &error))?;
            text.push('\n');
            self.file.write(text.as_bytes())?;
        }
        Ok(())
    }

    fn checkpoint(&mut self) -> Result<Option<Written>, SinkError> {
        self.file.checkpoint().map(Some)
    }

    fn finish(self: Box<Self>) -> Result<(), SinkError> {
        self.file.finish()
    }
}

/// Writes one line a person and step: `step id x y`, in map units with three decimals.
#[derive(Debug)]
pub struct MapSink {
    file: PartFile,
}

impl MapSink {
    /// Begins the file at `path`.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn create(path: &Path) -> Result<Self, SinkError> {
        Ok(Self::to(PartFile::create(path)?))
    }

    /// Writes to a file that was begun.
    pub fn to(file: PartFile) -> Self {
        Self { file }
    }
}

impl WorldSink for MapSink {
    fn write(&mut self, outcome: &StepOutcome<'_>) -> Result<(), SinkError> {
        let mut text = String::new();
        for person in outcome.people {
            let MapPoint { x, y } = person.place;
            let _ = writeln!(
                text,
                "{} {} {x:.3} {y:.3}",
                outcome.number, person.global_id
            );
        }
        self.file.write(text.as_bytes())
    }

    fn checkpoint(&mut self) -> Result<Option<Written>, SinkError> {
        self.file.checkpoint().map(Some)
    }

    fn finish(self: Box<Self>) -> Result<(), SinkError> {
        self.file.finish()
    }
}

/// Draws everyone's way on the map as seen from above, as SVG.
///
/// What is kept is bounded: a way with too many points loses every second one, and of too many
/// people those who came first go.
#[derive(Debug)]
pub struct TrajectorySink {
    file: PartFile,
    ways: BTreeMap<u64, Way>,
    unit: String,
}

/// One person's way.
#[derive(Debug, Default)]
struct Way {
    points: Vec<MapPoint>,
    /// Every which step is kept.
    stride: u64,
    steps: u64,
}

/// Points kept of one way.
const MAX_POINTS: usize = 4_096;

/// Ways kept.
const MAX_WAYS: usize = 2_000;

/// Longer side of the picture.
const PICTURE: f64 = 1_000.0;

impl TrajectorySink {
    /// Begins the file at `path`; `unit` names the map's, such as `m`.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn create(path: &Path, unit: &str) -> Result<Self, SinkError> {
        Ok(Self {
            file: PartFile::create(path)?,
            ways: BTreeMap::new(),
            unit: unit.to_string(),
        })
    }

    /// Takes in the ways that a [`MapSink`] wrote into the file `places`, as far as its first
    /// `bytes` bytes.
    ///
    /// # Errors
    /// When the file cannot be read or holds something else.
    pub fn take_in(&mut self, places: &Path, bytes: u64) -> Result<(), SinkError> {
        let failed = |error| SinkError::io(places, error);
        let part = part_path(places);
        let path = if part.exists() { &part } else { places };
        let file = File::open(path).map_err(failed)?;
        let mut step = (0, Vec::new());
        for line in BufReader::new(file.take(bytes)).lines() {
            let line = line.map_err(failed)?;
            let Some((number, person, place)) = parse_place(&line) else {
                let wrong = std::io::Error::other(format!("`{line}` is no place on the map"));
                return Err(failed(wrong));
            };
            if number != step.0 {
                self.follow(&step.1);
                step = (number, Vec::new());
            }
            step.1.push((person, place));
        }
        self.follow(&step.1);
        Ok(())
    }

    /// Takes in one step.
    fn follow(&mut self, people: &[(u64, MapPoint)]) {
        for (id, place) in people {
            let way = self.ways.entry(*id).or_default();
            let stride = way.stride.max(1);
            if way.steps.is_multiple_of(stride) {
                way.points.push(*place);
            }
            way.steps += 1;
            if way.points.len() > MAX_POINTS {
                let mut index = 0;
                way.points.retain(|_| {
                    index += 1;
                    index % 2 == 1
                });
                way.stride = stride * 2;
            }
        }
        while self.ways.len() > MAX_WAYS {
            self.ways.pop_first();
        }
    }

    fn picture(&self) -> String {
        let mut least = [f64::INFINITY; 2];
        let mut most = [f64::NEG_INFINITY; 2];
        for point in self.ways.values().flat_map(|way| &way.points) {
            for (axis, value) in [point.x, point.y].into_iter().enumerate() {
                least[axis] = least[axis].min(value);
                most[axis] = most[axis].max(value);
            }
        }
        if least[0] > most[0] {
            (least, most) = ([0.0; 2], [1.0; 2]);
        }
        let grid = grid_step((most[0] - least[0]).max(most[1] - least[1]));
        for axis in 0..2 {
            least[axis] = (least[axis] / grid).floor() * grid;
            most[axis] = ((most[axis] / grid).ceil() * grid).max(least[axis] + grid);
        }
        let scale = PICTURE / (most[0] - least[0]).max(most[1] - least[1]);
        let (width, height) = (
            (most[0] - least[0]) * scale + 80.0,
            (most[1] - least[1]) * scale + 80.0,
        );
        // The map's second axis goes up, the picture's down.
        let at = |point: &MapPoint| {
            (
                40.0 + (point.x - least[0]) * scale,
                height - 40.0 - (point.y - least[1]) * scale,
            )
        };
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" \
             font-family=\"sans-serif\" font-size=\"14\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
        );
        self.draw_grid(&mut svg, least, most, grid, at);
        for (id, way) in &self.ways {
            draw_way(&mut svg, *id, way, at);
        }
        svg.push_str("</svg>\n");
        svg
    }

    fn draw_grid(
        &self,
        svg: &mut String,
        least: [f64; 2],
        most: [f64; 2],
        grid: f64,
        at: impl Fn(&MapPoint) -> (f64, f64),
    ) {
        let mut line = |a: MapPoint, b: MapPoint, label: f64, shift: (f64, f64)| {
            let ((x1, y1), (x2, y2)) = (at(&a), at(&b));
            let _ = writeln!(
                svg,
                "<path d=\"M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}\" stroke=\"#ddd\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" fill=\"#666\" text-anchor=\"middle\">{label}</text>",
                x1 + shift.0,
                y1 + shift.1
            );
        };
        let count = |axis: usize| ((most[axis] - least[axis]) / grid).round() as usize;
        for index in 0..=count(0) {
            let x = least[0] + index as f64 * grid;
            let (a, b) = (MapPoint { x, y: least[1] }, MapPoint { x, y: most[1] });
            line(a, b, x, (0.0, 18.0));
        }
        for index in 0..=count(1) {
            let y = least[1] + index as f64 * grid;
            let (a, b) = (MapPoint { x: least[0], y }, MapPoint { x: most[0], y });
            line(a, b, y, (-20.0, 5.0));
        }
        let (x, y) = at(&MapPoint {
            x: most[0],
            y: least[1],
        });
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"#666\">{}</text>",
            x + 12.0,
            y + 18.0,
            self.unit
        );
    }
}

/// A line of a [`MapSink`]: step, identity and place.
fn parse_place(line: &str) -> Option<(u64, u64, MapPoint)> {
    let mut fields = line.split(' ');
    let (step, id) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    let (x, y) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    fields
        .next()
        .is_none()
        .then_some((step, id, MapPoint { x, y }))
}

/// A step of 1, 2 or 5 times a power of ten that gives about eight lines.
fn grid_step(extent: f64) -> f64 {
    let rough = (extent / 8.0).max(1e-6);
    let power = 10.0_f64.powf(rough.log10().floor());
    for factor in [1.0, 2.0, 5.0] {
        if rough <= factor * power {
            return factor * power;
        }
    }
    10.0 * power
}

fn draw_way(svg: &mut String, id: u64, way: &Way, at: impl Fn(&MapPoint) -> (f64, f64)) {
    let Some(last) = way.points.last() else {
        return;
    };
    let [r, g, b] = color(id).0;
    let ink = format!("#{r:02x}{g:02x}{b:02x}");
    let mut path = String::new();
    for (index, point) in way.points.iter().enumerate() {
        let (x, y) = at(point);
        let _ = write!(path, "{}{x:.1} {y:.1}", if index == 0 { "M" } else { "L" });
    }
    let (x, y) = at(last);
    let _ = writeln!(
        svg,
        "<path d=\"{path}\" fill=\"none\" stroke=\"{ink}\" stroke-width=\"2.5\" \
         stroke-linejoin=\"round\"/><circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\" fill=\"{ink}\"/>\
         <text x=\"{:.1}\" y=\"{:.1}\" fill=\"#222\">{id}</text>",
        x + 7.0,
        y + 5.0
    );
}

impl WorldSink for TrajectorySink {
    fn write(&mut self, outcome: &StepOutcome<'_>) -> Result<(), SinkError> {
        // With the decimals of the text file: its places make the same picture.
        let rounded = |value: f64| format!("{value:.3}").parse().unwrap_or(value);
        let mut people = Vec::with_capacity(outcome.people.len());
        for person in outcome.people {
            let (x, y) = (rounded(person.place.x), rounded(person.place.y));
            people.push((person.global_id, MapPoint { x, y }));
        }
        self.follow(&people);
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<(), SinkError> {
        let picture = self.picture();
        self.file.write(picture.as_bytes())?;
        self.file.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gallery::IdentityEvent;
    use crate::handoff::{ExpiryReason, HandoffEvent};

    #[test]
    fn grids_have_round_steps() {
        for (extent, step) in [
            (8.0, 1.0),
            (10.0, 2.0),
            (37.0, 5.0),
            (0.9, 0.2),
            (80.0, 10.0),
        ] {
            assert!((grid_step(extent) - step).abs() < 1e-12, "{extent}");
        }
    }

    #[test]
    fn every_key_of_an_event_is_there_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let mut sink = EventSink::create(&path).unwrap();
        let events = [
            WorldEvent::Identity(IdentityEvent::Lost { global_id: 7 }),
            WorldEvent::Handoff(HandoffEvent::Expired {
                handoff_id: 3,
                time: 1.5,
                global_id: None,
                from: 2,
                seconds: 0.5,
                reason: ExpiryReason::Returned,
            }),
        ];
        let outcome = StepOutcome {
            number: 4,
            time: 2.5,
            events: &events,
            people: &[],
        };
        sink.write(&outcome).unwrap();
        Box::new(sink).finish().unwrap();
        assert_eq!(
            std::fs::read_to_string(path).unwrap(),
            "{\"step\":4,\"time\":2.5,\"kind\":\"identity\",\"event\":\"lost\",\"global_id\":7}\n\
             {\"step\":4,\"kind\":\"handoff\",\"event\":\"expired\",\"handoff_id\":3,\"time\":1.5,\
             \"global_id\":null,\"from\":2,\"seconds\":0.5,\"reason\":\"returned\"}\n"
        );
    }

    #[test]
    fn long_ways_are_thinned_out_and_people_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("map.svg");
        let mut sink = TrajectorySink::create(&path, "m").unwrap();
        let person = |global_id, x| PlacedPerson {
            global_id,
            place: MapPoint { x, y: 0.0 },
            velocity: [0.0; 2],
            uncertainty: 0.1,
            missed: 0,
        };
        for number in 0..10_000_u64 {
            let people = [
                person(1 + number / 3, number as f64),
                person(1_000_000, 5.0),
            ];
            let outcome = StepOutcome {
                number,
                time: number as f64,
                events: &[],
                people: &people,
            };
            sink.write(&outcome).unwrap();
        }
        assert_eq!(sink.ways.len(), MAX_WAYS);
        assert!(sink.ways.values().all(|way| way.points.len() <= MAX_POINTS));
        Box::new(sink).finish().unwrap();
        let svg = std::fs::read_to_string(path).unwrap();
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
    }

    #[test]
    fn ways_come_back_from_the_text_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let mut text = MapSink::create(&path("map.txt")).unwrap();
        let mut whole = TrajectorySink::create(&path("whole.svg"), "m").unwrap();
        let mut resumed = TrajectorySink::create(&path("resumed.svg"), "m").unwrap();
        let mut bytes = 0;
        for number in 1..=9_u64 {
            let place = |shift: f64| MapPoint {
                x: number as f64 / 3.0 + shift,
                y: -(number as f64).sqrt(),
            };
            let person = |global_id, place| PlacedPerson {
                global_id,
                place,
                velocity: [0.0; 2],
                uncertainty: 0.1,
                missed: 0,
            };
            let people = [person(1, place(0.0)), person(1 + number, place(0.123_456))];
            let outcome = StepOutcome {
                number,
                time: number as f64,
                events: &[],
                people: &people,
            };
            text.write(&outcome).unwrap();
            whole.write(&outcome).unwrap();
            if number == 5 {
                bytes = text.checkpoint().unwrap().unwrap().bytes;
                resumed.take_in(&path("map.txt"), bytes).unwrap();
            } else if number > 5 {
                resumed.write(&outcome).unwrap();
            }
        }
        assert!(bytes > 0);
        assert_eq!(whole.picture(), resumed.picture());
    }
}
