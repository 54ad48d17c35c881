//! Reads an environment from TOML: every table of the file has its function here.

use std::collections::BTreeMap;
use std::path::Path;

use super::environment::{AT_ONCE, Camera, CameraLink, Environment, MAX_CAMERAS, MAX_LINKS};
use super::problem::Problem;
use super::section::{Item, Report, Section};
use crate::gallery::Link;
use crate::handoff::{MAX_SECONDS, MAX_ZONES, Zone};

/// Reads what can be read, and says all that is wrong; the environment is of use only if nothing is.
pub(super) fn read(text: &str, path: &Path) -> (Environment, Vec<Problem>) {
    let mut environment = Environment {
        cameras: Vec::new(),
        links: Vec::new(),
        ..Environment::standard()
    };
    let report = Report::new(path, text);
    let folder = path.parent().unwrap_or(Path::new(""));
    if let Some(table) = report.parse() {
        read_root(Section::root(&report, &table), folder, &mut environment);
    }
    (environment, report.finish())
}

fn read_root(mut root: Section<'_>, folder: &Path, environment: &mut Environment) {
    if let Some(id) = root.require("id").and_then(|item| identifier(&item)) {
        id.clone_into(&mut environment.id);
        id.clone_into(&mut environment.name);
    }
    if let Some(name) = root.take("name").and_then(|item| name(&item)) {
        environment.name = name;
    }
    read_settings(&mut root, folder, environment);
    let cameras = root.require("cameras");
    let zones = cameras.map(|item| read_cameras(&item, folder, environment));
    let links = root.take("links");
    // What links and zones say of cameras can only be checked where the cameras are known.
    if let (Some(zones), true) = (zones, environment.cameras.len() <= MAX_CAMERAS) {
        if let Some(item) = links {
            read_links(&item, environment);
        }
        for targets in &zones {
            resolve_targets(targets, environment);
        }
    }
    root.finish();
}

fn read_settings(root: &mut Section<'_>, folder: &Path, environment: &mut Environment) {
    if let Some(map) = root.take("map").and_then(|item| item.settings(None)) {
        environment.map = map;
    }
    let homography = root.take("homography");
    if let Some(settings) = homography.and_then(|item| item.settings(None)) {
        environment.homography = settings;
    }
    if let Some(reid) = root.take("reid").and_then(|item| item.settings(None)) {
        environment.reid = reid;
    }
    let tracker = root.take("tracker");
    if let Some(settings) = tracker.and_then(|item| item.settings(Some("name"))) {
        environment.tracker = settings;
    }
    let association = root.take("association");
    if let Some(settings) = association.and_then(|item| item.settings(None)) {
        environment.association = settings;
    }
    if let Some(handoff) = root.take("handoff").and_then(|item| item.settings(None)) {
        environment.handoff = handoff;
    }
    let homography = &mut environment.homography.data_dir;
    *homography = folder.join(&homography);
    let files = [&mut environment.map.background, &mut environment.reid.model];
    for file in files.into_iter().flatten() {
        *file = folder.join(&file);
    }
}

/// Cameras that a zone names, to be looked up when all cameras are known.
struct Targets<'a> {
    camera: usize,
    zone: usize,
    ids: Vec<Item<'a>>,
}

fn read_cameras<'a>(
    item: &Item<'a>,
    folder: &Path,
    environment: &mut Environment,
) -> Vec<Targets<'a>> {
    let mut targets = Vec::new();
    let Some(items) = item.array() else {
        return targets;
    };
    if items.is_empty() || items.len() > MAX_CAMERAS {
        let count = items.len();
        item.problem(format_args!(": {count} cameras: must be 1 to 1,000"));
        return targets;
    }
    let mut lines: BTreeMap<&str, usize> = BTreeMap::new();
    for item in &items {
        let index = environment.cameras.len();
        let mut camera = Camera::new("");
        if let Some(section) = item.section() {
            let id = read_camera(section, folder, &mut camera, index, &mut targets);
            if let Some(id) = id.as_ref().and_then(identifier) {
                camera_id(&mut camera, id);
                if let Some(line) = lines.insert(id, item.line()) {
                    item.problem(format_args!(
                        ".id = {id}: line {line} has a camera of that ID already"
                    ));
                }
            }
        }
        environment.cameras.push(camera);
    }
    targets
}

fn camera_id(camera: &mut Camera, id: &str) {
    id.clone_into(&mut camera.id);
    if camera.name.is_empty() {
        id.clone_into(&mut camera.name);
    }
}

/// Reads all of a camera but its ID, which is returned.
fn read_camera<'a>(
    mut section: Section<'a>,
    folder: &Path,
    camera: &mut Camera,
    index: usize,
    targets: &mut Vec<Targets<'a>>,
) -> Option<Item<'a>> {
    let id = section.require("id");
    if let Some(name) = section.take("name").and_then(|item| name(&item)) {
        camera.name = name;
    }
    if let Some(source) = section.take("source").and_then(|item| text(&item)) {
        camera.source = Some(located(folder, source));
    }
    if let Some(item) = section.take("frame_rate") {
        let holds = |rate| rate > 0.0 && rate <= 1000.0;
        camera.frame_rate = item.number_if(holds, "above 0 and at most 1000");
    }
    if let Some(item) = section.take("start_offset") {
        let holds = |seconds: f64| seconds.abs() <= MAX_SECONDS;
        let expected = "between -1,000,000 and 1,000,000 seconds";
        camera.start_offset = item.number_if(holds, expected).unwrap_or(0.0);
    }
    if let Some(file) = section.take("homography").and_then(|item| text(&item)) {
        camera.homography = Some(folder.join(file));
    }
    let zones = section.take("zones");
    let zones = zones.as_ref().map_or(Vec::new(), |item| zone_list(item));
    for (zone, item) in zones.iter().enumerate() {
        let (edges, ids) = read_zone(item);
        camera.zones.push(edges);
        targets.push(Targets {
            camera: index,
            zone,
            ids,
        });
    }
    section.finish();
    id
}

fn zone_list<'a>(item: &Item<'a>) -> Vec<Item<'a>> {
    let zones = item.array().unwrap_or_default();
    if zones.len() <= MAX_ZONES {
        return zones;
    }
    let count = zones.len();
    item.problem(format_args!(": {count} zones: must be at most {MAX_ZONES}"));
    Vec::new()
}

/// A zone's edges and the cameras it names.
fn read_zone<'a>(item: &Item<'a>) -> (Zone, Vec<Item<'a>>) {
    let whole = Zone::new([0.0, 1.0], [0.0, 1.0]);
    let Some(mut section) = item.section() else {
        return (whole, Vec::new());
    };
    let mut complete = true;
    let mut edge = |key, otherwise| {
        let Some(item) = section.take(key) else {
            return otherwise;
        };
        let share = item.number_if(|share| (0.0..=1.0).contains(&share), "in 0..=1");
        complete &= share.is_some();
        share.unwrap_or(otherwise)
    };
    let x = [edge("x_min", 0.0), edge("x_max", 1.0)];
    let y = [edge("y_min", 0.0), edge("y_max", 1.0)];
    let zone = Zone::new(x, y);
    if let Some(fault) = zone.fault().filter(|_| complete) {
        item.problem(format_args!(": {fault}"));
    }
    let to = section.take("to").and_then(|item| item.array());
    section.finish();
    (zone, to.unwrap_or_default())
}

fn resolve_targets(targets: &Targets<'_>, environment: &mut Environment) {
    let mut cameras = Vec::new();
    for item in &targets.ids {
        let Some(to) = known_camera(item, environment) else {
            continue;
        };
        let from = targets.camera;
        let linked = |link: &CameraLink| link.from == from && link.to == to;
        if !environment.links.iter().any(linked) {
            let (from, to) = (&environment.cameras[from].id, &environment.cameras[to].id);
            item.problem(format_args!(
                " = {to}: no link leads from {from} to {to}; links say how people get there"
            ));
        }
        cameras.push(to);
    }
    let camera = environment.cameras.get_mut(targets.camera);
    if let Some(zone) = camera.and_then(|camera| camera.zones.get_mut(targets.zone)) {
        zone.to = cameras;
    }
}

fn read_links(item: &Item<'_>, environment: &mut Environment) {
    let items = item.array().unwrap_or_default();
    if items.len() > MAX_LINKS / 2 {
        let count = items.len();
        item.problem(format_args!(": {count} links: must be at most 50,000"));
        return;
    }
    let mut lines: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    for item in &items {
        let Some((cameras, link, one_way)) = read_link(item, environment) else {
            continue;
        };
        let (a, b) = cameras;
        let ways = if one_way {
            &[(a, b)][..]
        } else {
            &[(a, b), (b, a)]
        };
        let earlier = ways.iter().find_map(|way| lines.get(way).copied());
        if let Some(line) = earlier {
            item.problem(format_args!(": line {line} links these cameras already"));
            continue;
        }
        for &(from, to) in ways {
            lines.insert((from, to), item.line());
            environment.links.push(CameraLink { from, to, link });
        }
    }
    environment.links.sort_by_key(|link| (link.from, link.to));
}

/// A link's cameras, what it says of them and whether it leads one way only.
fn read_link(item: &Item<'_>, environment: &Environment) -> Option<((usize, usize), Link, bool)> {
    let mut section = item.section()?;
    let cameras = section.require("cameras");
    let cameras = cameras.and_then(|item| camera_pair(&item, environment));
    let overlap = section.take("overlap");
    let travel = section.take("travel_seconds");
    let one_way = section.take("one_way").and_then(|item| item.boolean());
    let overlap = overlap.is_some_and(|item| item.boolean().unwrap_or(true));
    let link = match travel {
        Some(item) => travel_seconds(&item).map(|seconds| Link { overlap, seconds }),
        None if overlap => Some(AT_ONCE),
        None => None,
    };
    if link.is_none() && !section.has("travel_seconds") {
        section.problem(format!(
            "{}: must say overlap = true, or travel_seconds = [least, most]",
            section.name()
        ));
    }
    section.finish();
    Some((cameras?, link?, one_way.unwrap_or(false)))
}

fn camera_pair(item: &Item<'_>, environment: &Environment) -> Option<(usize, usize)> {
    let items = item.array()?;
    let [first, second] = items.as_slice() else {
        item.problem(": must be two cameras");
        return None;
    };
    let pair = (
        known_camera(first, environment),
        known_camera(second, environment),
    );
    let pair = (pair.0?, pair.1?);
    if pair.0 == pair.1 {
        item.problem(": a camera cannot be linked to itself");
        return None;
    }
    Some(pair)
}

fn travel_seconds(item: &Item<'_>) -> Option<[f64; 2]> {
    let items = item.array()?;
    let [least, most] = items.as_slice() else {
        item.problem(": must be [least, most] seconds");
        return None;
    };
    let holds = |seconds| (0.0..=MAX_SECONDS).contains(&seconds);
    let expected = "in 0..=1,000,000 seconds";
    let seconds = [
        least.number_if(holds, expected),
        most.number_if(holds, expected),
    ];
    let seconds = [seconds[0]?, seconds[1]?];
    if seconds[0] > seconds[1] || seconds[1] == 0.0 {
        let [least, most] = seconds;
        item.problem(format_args!(
            " = [{least}, {most}]: must be [least, most] seconds, the most above 0"
        ));
        return None;
    }
    Some(seconds)
}

/// Index of the camera that a value names.
fn known_camera(item: &Item<'_>, environment: &Environment) -> Option<usize> {
    let id = item.string()?;
    let index = environment.camera_index(id);
    if index.is_none() {
        let ids = environment.cameras.iter().map(|camera| camera.id.as_str());
        let ids: Vec<&str> = ids.filter(|id| !id.is_empty()).take(20).collect();
        item.problem(format_args!(
            " = {id}: there is no such camera; there are {}",
            ids.join(", ")
        ));
    }
    index
}

/// Something that becomes part of file names and addresses.
fn identifier<'a>(item: &Item<'a>) -> Option<&'a str> {
    let id = item.string()?;
    let fits = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if !id.is_empty() && id.len() <= 64 && !id.starts_with('.') && id.chars().all(fits) {
        return Some(id);
    }
    item.problem(format_args!(
        " = {id:?}: must be 1 to 64 letters, digits, `_`, `-` and `.`, not beginning with `.`"
    ));
    None
}

fn name(item: &Item<'_>) -> Option<String> {
    let name = text(item)?;
    if name.len() <= 200 {
        return Some(name.to_string());
    }
    item.problem(": must have at most 200 bytes");
    None
}

fn text<'a>(item: &Item<'a>) -> Option<&'a str> {
    let text = item.string()?;
    if text.is_empty() {
        item.problem(": must not be empty");
        return None;
    }
    Some(text)
}

/// Addresses stay as they are, paths are relative to the file.
fn located(folder: &Path, source: &str) -> String {
    if source.contains("://") {
        return source.to_string();
    }
    folder.join(source).to_string_lossy().into_owned()
}
