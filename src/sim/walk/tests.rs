//! Walking people: distances, walls, speeds, coming back.

use super::*;
use crate::sim::layout;
use crate::sim::settings::{Layout, SimSettings};

fn crowd(layout: Layout, people: usize) -> (Plan, Crowd) {
    let settings = SimSettings {
        layout,
        people,
        ..SimSettings::default()
    };
    let (plan, _) = layout::build(&settings);
    let crowd = Crowd::new(&settings.walk, people, 1, &plan);
    (plan, crowd)
}

#[test]
fn people_keep_their_distance_and_stay_inside() {
    for (layout, people) in [
        (Layout::Ring, 60),
        (Layout::Corridor, 60),
        (Layout::Grid, 80),
    ] {
        let (plan, mut crowd) = crowd(layout, people);
        let (mut pairs, mut near) = (0_u32, 0_u32);
        for _ in 0..600 {
            crowd.advance(0.1, &plan);
            let places: Vec<Point> = crowd.present().map(|w| w.place).collect();
            for (index, a) in places.iter().enumerate() {
                assert!(plan.room_at(*a).is_some(), "{layout:?}: {a:?}");
                let nearest = places
                    .iter()
                    .enumerate()
                    .filter(|&(other, _)| other != index)
                    .map(|(_, b)| (a[0] - b[0]).hypot(a[1] - b[1]))
                    .fold(f64::INFINITY, f64::min);
                pairs += 1;
                near += u32::from(nearest < 0.4);
            }
        }
        let share = f64::from(near) / f64::from(pairs);
        assert!(share < 0.005, "{layout:?}: {share}");
    }
}

#[test]
fn people_walk_come_and_go_and_come_back() {
    let (plan, mut crowd) = crowd(Layout::Corridor, 30);
    let mut walked = 0.0;
    let mut walking = 0_u32;
    let mut fastest: f64 = 0.0;
    let mut seen: Vec<std::collections::BTreeSet<u64>> = Vec::new();
    for second in 0..3_000 {
        let before: Vec<(u64, Point, bool)> = crowd
            .walkers
            .iter()
            .map(|w| (w.id, w.place, matches!(w.doing, Doing::Walking(_))))
            .collect();
        crowd.advance(0.1, &plan);
        for (walker, &(id, place, was_walking)) in crowd.walkers.iter().zip(&before) {
            let still = matches!(walker.doing, Doing::Walking(_)) && was_walking;
            if still && walker.id == id {
                let [x, y] = walker.place;
                let speed = (x - place[0]).hypot(y - place[1]) / 0.1;
                walked += speed;
                walking += 1;
                fastest = fastest.max(speed);
            }
        }
        if second % 100 == 0 {
            seen.push(crowd.present().map(|w| w.id).collect());
        }
    }
    let mean = walked / f64::from(walking);
    assert!((0.9..1.5).contains(&mean), "mean speed {mean}");
    // Making room may add to walking.
    assert!(fastest < 6.0, "fastest {fastest}");
    let everyone: std::collections::BTreeSet<u64> = seen.iter().flatten().copied().collect();
    assert!(everyone.len() > 30, "new people came: {}", everyone.len());
    let came_back = everyone.iter().filter(|id| {
        let there: Vec<bool> = seen.iter().map(|ids| ids.contains(id)).collect();
        let entries = there.windows(2).filter(|w| !w[0] && w[1]).count();
        entries + usize::from(there[0]) >= 2
    });
    assert!(came_back.count() >= 5);
}
