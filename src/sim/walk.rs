//! People who walk: in by an entrance, from place to place, out again, and later back.
//!
//! Each goes straight for the next door or goal and is pushed away from others by forces that fall
//! off with distance, stronger from those ahead (Helbing and Molnár 1995, arXiv:cond-mat/9805244).
//! All move at once, from what was before, so that neither order nor threads matter.

use rayon::prelude::*;

use super::crowd::{CELL, Neighbours, direction, separate};
use super::noise::{Purpose, generator};
use super::plan::{BODY, Plan, Point};
use super::settings::{SPEEDS, WalkSettings};
use crate::random::SplitMix64;

/// Longest step of time in which people move, in seconds.
const LARGEST_STEP: f64 = 0.1;

/// Seconds in which people take on the speed that they want.
const REACTION: f64 = 0.4;

/// Acceleration away from someone who touches, in m/s²; it falls off over [`REACH`] metres.
const REPULSION: f64 = 4.0;
const REACH: f64 = 0.35;
const TOUCHING: f64 = 0.5;

/// How near a goal is reached, in metres.
const ARRIVED: f64 = 0.4;

/// Seconds without getting nearer after which people change their mind.
const PATIENCE: f64 = 6.0;

/// Someone who comes in needs this much free room, in metres.
const ENTERING: f64 = 0.7;

/// Where someone is heading.
#[derive(Debug, Clone, Copy)]
enum Goal {
    Stop { room: usize, point: Point },
    Exit { entrance: usize },
}

#[derive(Debug, Clone, Copy)]
enum Doing {
    Away { until: f64 },
    Walking(Goal),
    Standing { until: f64 },
}

/// Someone, there or away.
#[derive(Debug, Clone)]
pub(super) struct Walker {
    pub(super) id: u64,
    pub(super) place: Point,
    pub(super) room: usize,
    /// Metres.
    pub(super) height: f64,
    /// Metres from side to side.
    pub(super) width: f64,
    velocity: Point,
    speed: f64,
    doing: Doing,
    /// Stops before leaving.
    stops: u64,
    /// How far to the right of doors' middles, 0..=1.
    side: f64,
    /// Least distance to the current aim so far, and seconds since.
    progress: (f64, f64),
    chance: SplitMix64,
}

/// Everyone.
#[derive(Debug)]
pub(super) struct Crowd {
    settings: WalkSettings,
    seed: u64,
    time: f64,
    walkers: Vec<Walker>,
    next_id: u64,
}

impl Crowd {
    pub(super) fn new(settings: &WalkSettings, people: usize, seed: u64, plan: &Plan) -> Self {
        let mut crowd = Self {
            settings: settings.clone(),
            seed,
            time: 0.0,
            walkers: Vec::with_capacity(people),
            next_id: 1,
        };
        let present = (people as f64 * settings.present).round() as usize;
        for slot in 0..people {
            let mut walker = Walker {
                id: 0,
                place: [0.0; 2],
                room: 0,
                height: 0.0,
                width: 0.0,
                velocity: [0.0; 2],
                speed: 0.0,
                doing: Doing::Away { until: 0.0 },
                stops: 0,
                side: 0.5,
                progress: (f64::INFINITY, 0.0),
                chance: generator(seed, Purpose::Walker, &[slot as u64]),
            };
            if slot < present {
                crowd.next_id = walker.become_someone(crowd.next_id, seed, settings);
                walker.start_anywhere(plan, settings);
            } else {
                let until = exponential(&mut walker.chance, settings.absence);
                walker.doing = Doing::Away { until };
            }
            crowd.walkers.push(walker);
        }
        crowd.make_room(plan);
        crowd
    }

    /// Those who are there.
    pub(super) fn present(&self) -> impl Iterator<Item = &Walker> {
        self.walkers.iter().filter(|walker| walker.is_present())
    }

    /// Lets `seconds` go by.
    pub(super) fn advance(&mut self, seconds: f64, plan: &Plan) {
        let steps = (seconds / LARGEST_STEP).ceil().max(1.0);
        for _ in 0..steps as u64 {
            self.time += seconds / steps;
            self.let_in(plan);
            self.walk(seconds / steps, plan);
            self.make_room(plan);
        }
    }

    fn let_in(&mut self, plan: &Plan) {
        let mut places: Vec<Point> = self.present().map(|walker| walker.place).collect();
        let before = Neighbours::new(&places);
        let known = places.len();
        for walker in &mut self.walkers {
            let Doing::Away { until } = walker.doing else {
                continue;
            };
            if until > self.time {
                continue;
            }
            let entrances = plan.entrances();
            let index = pick(&mut walker.chance, entrances.len());
            let entrance = &entrances[index];
            let point = entrance.opening.at(walker.chance.unit());
            let point = plan.rooms()[entrance.room].nearest(point, BODY);
            let near = |other: &Point| (other[0] - point[0]).hypot(other[1] - point[1]) < ENTERING;
            let mut taken = places[known..].iter().any(near);
            before.near(point, |index| taken |= near(&places[index]));
            if taken {
                let until = self.time + 0.5 + walker.chance.unit();
                walker.doing = Doing::Away { until };
                continue;
            }
            places.push(point);
            let new = walker.id == 0 || walker.chance.unit() >= self.settings.returning;
            if new {
                self.next_id = walker.become_someone(self.next_id, self.seed, &self.settings);
            }
            walker.enter(entrance.room, point, plan, &self.settings);
        }
    }

    fn walk(&mut self, seconds: f64, plan: &Plan) {
        let before: Vec<(Point, Point)> = self
            .present()
            .map(|walker| (walker.place, walker.velocity))
            .collect();
        let places: Vec<Point> = before.iter().map(|&(place, _)| place).collect();
        let neighbours = Neighbours::new(&places);
        let (settings, time) = (&self.settings, self.time);
        let mut present: Vec<&mut Walker> = self
            .walkers
            .iter_mut()
            .filter(|walker| walker.is_present())
            .collect();
        present
            .par_iter_mut()
            .enumerate()
            .for_each(|(index, walker)| {
                walker.decide(seconds, time, plan, settings);
                if walker.is_present() {
                    let push = pushes(index, walker.heading(plan), &before, &neighbours);
                    walker.step(seconds, push, plan);
                }
            });
    }

    /// Moves those apart who came too near.
    fn make_room(&mut self, plan: &Plan) {
        let mut present: Vec<&mut Walker> = self
            .walkers
            .iter_mut()
            .filter(|walker| walker.is_present())
            .collect();
        let mut places: Vec<Point> = present.iter().map(|walker| walker.place).collect();
        let rooms: Vec<usize> = present.iter().map(|walker| walker.room).collect();
        separate(&mut places, |index, wanted| {
            plan.keep_inside(rooms[index], wanted)
        });
        for (walker, place) in present.iter_mut().zip(places) {
            walker.move_to(place, plan);
        }
    }
}

impl Walker {
    fn is_present(&self) -> bool {
        !matches!(self.doing, Doing::Away { .. })
    }

    /// Takes on a new identity and a body for it; returns the next free identity.
    fn become_someone(&mut self, id: u64, seed: u64, settings: &WalkSettings) -> u64 {
        self.id = id;
        let mut chance = generator(seed, Purpose::Body, &[id]);
        self.height = within(&mut chance, 1.70, 0.09, [1.45, 2.0]);
        self.width = self.height * (0.26 + 0.06 * chance.unit());
        self.speed = within(&mut chance, settings.speed, settings.speed_spread, SPEEDS);
        id + 1
    }

    fn start_anywhere(&mut self, plan: &Plan, settings: &WalkSettings) {
        self.room = room_by_area(&mut self.chance, plan);
        self.place = point_in(&mut self.chance, plan, self.room);
        self.plan_visit(plan, settings);
    }

    fn enter(&mut self, room: usize, point: Point, plan: &Plan, settings: &WalkSettings) {
        self.room = room;
        self.place = point;
        self.velocity = [0.0; 2];
        self.plan_visit(plan, settings);
    }

    fn plan_visit(&mut self, plan: &Plan, settings: &WalkSettings) {
        // Geometric: after each stop there is another one with the same chance.
        let more = settings.stops / (1.0 + settings.stops);
        self.stops = 0;
        while self.stops < 10_000 && self.chance.unit() < more {
            self.stops += 1;
        }
        self.next_goal(plan);
    }

    fn next_goal(&mut self, plan: &Plan) {
        self.side = self.chance.unit();
        self.progress = (f64::INFINITY, 0.0);
        let goal = if self.stops > 0 {
            self.stops -= 1;
            let room = room_by_area(&mut self.chance, plan);
            let point = point_in(&mut self.chance, plan, room);
            Goal::Stop { room, point }
        } else {
            let entrance = pick(&mut self.chance, plan.entrances().len());
            Goal::Exit { entrance }
        };
        self.doing = Doing::Walking(goal);
    }

    /// Arrives, waits, leaves, changes its mind.
    fn decide(&mut self, seconds: f64, time: f64, plan: &Plan, settings: &WalkSettings) {
        match self.doing {
            Doing::Away { .. } => {}
            Doing::Standing { until } if until > time => {}
            Doing::Standing { .. } => self.next_goal(plan),
            Doing::Walking(goal) => {
                let (room, point) = self.target(goal, plan);
                let distance = (point[0] - self.place[0]).hypot(point[1] - self.place[1]);
                let arrived = self.room == room && distance < ARRIVED;
                match goal {
                    Goal::Stop { .. } if arrived => self.stand(time, settings),
                    Goal::Exit { .. } if arrived => {
                        let until = time + exponential(&mut self.chance, settings.absence);
                        self.doing = Doing::Away { until };
                    }
                    _ => self.watch_progress(seconds, time, plan, settings),
                }
            }
        }
    }

    fn stand(&mut self, time: f64, settings: &WalkSettings) {
        let until = time + exponential(&mut self.chance, settings.pause);
        self.doing = Doing::Standing { until };
    }

    /// Someone else stands where this one wants to go, or a door is full.
    fn watch_progress(&mut self, seconds: f64, time: f64, plan: &Plan, settings: &WalkSettings) {
        let Some(aim) = self.aim(plan) else { return };
        let distance = (aim[0] - self.place[0]).hypot(aim[1] - self.place[1]);
        let (least, stalled) = self.progress;
        // A new aim, behind a door, is farther off.
        if distance < least - 0.2 || distance > least + 2.0 {
            self.progress = (distance, 0.0);
            return;
        }
        self.progress.1 = stalled + seconds;
        if stalled < PATIENCE {
            return;
        }
        self.progress = (f64::INFINITY, 0.0);
        self.side = self.chance.unit();
        if let Doing::Walking(Goal::Stop { .. }) = self.doing {
            self.stand(time, settings);
        }
    }

    /// Room and place of a goal.
    fn target(&self, goal: Goal, plan: &Plan) -> (usize, Point) {
        match goal {
            Goal::Stop { room, point } => (room, point),
            Goal::Exit { entrance } => {
                let entrance = &plan.entrances()[entrance];
                let point = entrance.opening.at(self.side);
                (
                    entrance.room,
                    plan.rooms()[entrance.room].nearest(point, BODY),
                )
            }
        }
    }

    /// The point to go to now: the goal, or the next door on the way.
    fn aim(&self, plan: &Plan) -> Option<Point> {
        let Doing::Walking(goal) = self.doing else {
            return None;
        };
        let (room, point) = self.target(goal, plan);
        let Some(door) = plan.next_door(self.room, room) else {
            return Some(point);
        };
        let beyond = if door.rooms[0] == self.room {
            door.rooms[1]
        } else {
            door.rooms[0]
        };
        // People keep to the right.
        let [a, b] = door.opening.ends;
        let inside = plan.rooms()[beyond].nearest(a, 0.5);
        let ahead = [inside[0] - a[0], inside[1] - a[1]];
        let to_the_right = (b[0] - a[0]) * ahead[1] - (b[1] - a[1]) * ahead[0] > 0.0;
        let share = if to_the_right {
            0.5 + self.side / 2.0
        } else {
            0.5 - self.side / 2.0
        };
        let threshold = door.opening.at(share);
        let distance = (threshold[0] - self.place[0]).hypot(threshold[1] - self.place[1]);
        if distance > 0.8 {
            return Some(threshold);
        }
        Some(plan.rooms()[beyond].nearest(threshold, 0.8))
    }

    /// The velocity that this one wants, and whether it walks.
    fn heading(&self, plan: &Plan) -> Point {
        let Some(aim) = self.aim(plan) else {
            return [0.0; 2];
        };
        let (dx, dy) = (aim[0] - self.place[0], aim[1] - self.place[1]);
        let distance = dx.hypot(dy).max(1e-9);
        [dx / distance * self.speed, dy / distance * self.speed]
    }

    fn step(&mut self, seconds: f64, push: Point, plan: &Plan) {
        let wanted = self.heading(plan);
        let standing = matches!(self.doing, Doing::Standing { .. });
        for axis in 0..2 {
            let pull = (wanted[axis] - self.velocity[axis]) / REACTION;
            self.velocity[axis] += seconds * (pull + push[axis]);
        }
        let fastest = if standing { 0.3 } else { 1.05 * self.speed };
        let speed = self.velocity[0].hypot(self.velocity[1]);
        if speed > fastest {
            self.velocity = self.velocity.map(|v| v * fastest / speed);
        }
        let moved = std::array::from_fn(|axis| self.place[axis] + seconds * self.velocity[axis]);
        let place = plan.keep_inside(self.room, moved);
        self.move_to(place, plan);
    }

    fn move_to(&mut self, place: Point, plan: &Plan) {
        self.place = place;
        if plan.rooms()[self.room].holds(place, 0.0) {
            return;
        }
        let rooms = plan.doors_of(self.room).flat_map(|door| door.rooms);
        for room in rooms {
            if plan.rooms()[room].holds(place, 0.0) {
                self.room = room;
                return;
            }
        }
    }
}

/// The acceleration that others cause, for someone who wants to go along `heading`.
fn pushes(
    index: usize,
    heading: Point,
    people: &[(Point, Point)],
    neighbours: &Neighbours,
) -> Point {
    let (here, _) = people[index];
    let speed = heading[0].hypot(heading[1]);
    let mut sum = [0.0; 2];
    neighbours.near(here, |other| {
        if other == index {
            return;
        }
        let (place, velocity) = people[other];
        let (away, distance) = direction(here, place, index < other);
        if distance > CELL {
            return;
        }
        let mut strength = REPULSION * ((TOUCHING - distance) / REACH).exp();
        let mut aside = 0.0;
        if speed > 0.0 {
            let ahead = -(away[0] * heading[0] + away[1] * heading[1]) / speed;
            strength *= 0.2 + 0.8 * f64::midpoint(1.0, ahead);
            let against = velocity[0] * heading[0] + velocity[1] * heading[1] <= 0.0;
            // Those who come towards each other, or meet someone standing, go round to the right.
            if ahead > 0.7 && against {
                aside = 0.8 * strength;
            }
        }
        for axis in 0..2 {
            sum[axis] += strength * away[axis];
        }
        if aside > 0.0 {
            sum[0] += aside * heading[1] / speed;
            sum[1] -= aside * heading[0] / speed;
        }
    });
    sum
}

fn pick(chance: &mut SplitMix64, count: usize) -> usize {
    ((chance.unit() * count as f64) as usize).min(count.saturating_sub(1))
}

fn exponential(chance: &mut SplitMix64, mean: f64) -> f64 {
    -mean * (1.0 - chance.unit()).ln()
}

/// Normal, drawn again until it is within limits.
fn within(chance: &mut SplitMix64, mean: f64, spread: f64, limits: [f64; 2]) -> f64 {
    for _ in 0..100 {
        let value = mean + spread * chance.normal();
        if (limits[0]..=limits[1]).contains(&value) {
            return value;
        }
    }
    mean.clamp(limits[0], limits[1])
}

fn room_by_area(chance: &mut SplitMix64, plan: &Plan) -> usize {
    let areas = plan.rooms().iter().map(super::plan::Room::area);
    let mut left = chance.unit() * areas.sum::<f64>();
    for (index, room) in plan.rooms().iter().enumerate() {
        left -= room.area();
        if left < 0.0 {
            return index;
        }
    }
    plan.rooms().len() - 1
}

fn point_in(chance: &mut SplitMix64, plan: &Plan, room: usize) -> Point {
    let room = &plan.rooms()[room];
    let point = std::array::from_fn(|axis| {
        room.least[axis] + chance.unit() * (room.most[axis] - room.least[axis])
    });
    room.nearest(point, 0.8)
}

#[cfg(test)]
mod tests;
