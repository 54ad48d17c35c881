//! A simulation's memory does not grow with its length; alone in its process, whose memory is
//! measured.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use mtmc::sim::{Preset, SimSettings, Simulation};

/// Resident memory of this process in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.unwrap().split_whitespace().nth(1);
    number.unwrap().parse().unwrap()
}

#[test]
fn memory_does_not_grow() {
    let mut settings = SimSettings {
        seconds: 1e5,
        people: 30,
        ..SimSettings::preset(Preset::Hard)
    };
    settings.looks.dim = 64;
    settings.walk.absence = 5.0;
    let mut simulation = Simulation::new(settings).unwrap();
    let mut last = 0;
    let mut advance = |steps: usize| {
        for step in simulation.by_ref().take(steps) {
            last = step.people.last().map_or(0, |person| person.0);
        }
        last
    };
    let before_identities = advance(500);
    let before = resident();
    let identities = advance(3_000);
    let after = resident();
    assert!(identities > before_identities, "new people came");
    assert!(after < before + 4_096, "{before} KiB, then {after} KiB");
}
