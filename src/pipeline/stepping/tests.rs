//! Which frames make a step, with clocks that the tests set.

use std::sync::Arc;

use image::RgbImage;
use proptest::prelude::*;

use super::*;
use crate::pipeline::PipelineMetrics;

const LIVE: SyncMode = SyncMode::Live {
    max_wait: Duration::from_millis(100),
    queue: 4,
};

/// Cameras whose frames come when a test says so.
struct Place {
    began: Instant,
    metrics: Arc<PipelineMetrics>,
    queues: Vec<Queue>,
    stepping: Stepping,
}

impl Place {
    /// Cameras of 10 frames a second; `live` ones tell no rate.
    fn new(mode: SyncMode, live: &[bool]) -> Self {
        let metrics = Arc::new(PipelineMetrics::new(live.iter().map(|_| "camera")));
        let began = Instant::now();
        let member = |&live: &bool| Member::new(0.0, (!live).then_some(0.1), live);
        let members = live.iter().map(member).collect();
        Self {
            began,
            queues: (0..live.len())
                .map(|camera| Queue::new(metrics.clone(), camera))
                .collect(),
            metrics,
            stepping: Stepping::new(mode, Duration::from_millis(40), began, members),
        }
    }

    fn frame(&mut self, camera: usize, milliseconds: u64) {
        let frame = Frame {
            number: 1,
            timestamp: Duration::from_millis(milliseconds),
            image: RgbImage::new(1, 1),
            jpeg: None,
        };
        let seconds = 0.0;
        self.queues[camera].push(Read::Frame { frame, seconds });
    }

    /// What there is to do so many milliseconds after the beginning: a step as its time in
    /// milliseconds and its cameras.
    fn next(&mut self, clock: u64) -> Result<(u64, Vec<usize>), Option<u64>> {
        let now = self.began + Duration::from_millis(clock);
        match self.stepping.next(&mut self.queues, None, now) {
            Next::Step(step) => {
                let cameras = step.frames.iter().map(|(camera, ..)| *camera).collect();
                Ok(((step.time * 1e3).round() as u64, cameras))
            }
            Next::Wait(wait) if wait == UNTIL_NEWS => Err(Some(u64::MAX)),
            Next::Wait(wait) => Err(Some(wait.as_millis() as u64)),
            _ => Err(None),
        }
    }

    fn state(&self, camera: usize) -> CameraState {
        self.metrics.snapshot().cameras[camera].state
    }

    fn late(&self, camera: usize) -> u64 {
        self.metrics.snapshot().cameras[camera].dropped.late
    }
}

#[test]
fn lossless_waits_for_everyone_however_long() {
    let mut place = Place::new(SyncMode::Lossless, &[false, false]);
    place.frame(0, 0);
    assert_eq!(place.next(1_000_000), Err(Some(u64::MAX)));
    place.frame(1, 100);
    assert_eq!(place.next(1_000_000), Ok((0, vec![0])));
    place.queues[0].push(Read::End(None));
    assert_eq!(place.next(1_000_000), Ok((100, vec![1])));
    assert_eq!(place.state(0), CameraState::Ended);
    place.queues[1].push(Read::End(Some("cut".to_string())));
    assert_eq!(place.next(1_000_000), Err(None));
    assert_eq!(place.state(1), CameraState::Failed);
}

#[test]
fn lossless_waits_for_a_lost_camera_that_misses_nothing() {
    for live in [false, true] {
        let mut place = Place::new(SyncMode::Lossless, &[false, live]);
        place.frame(0, 0);
        place.queues[1].push(Read::Lost("gone".to_string()));
        let expected = if live {
            Ok((0, vec![0]))
        } else {
            Err(Some(u64::MAX))
        };
        assert_eq!(place.next(9), expected);
        assert_eq!(place.state(1), CameraState::Degraded);
    }
}

#[test]
fn live_leaves_a_silent_camera_out_until_it_is_in_time() {
    let mut place = Place::new(LIVE, &[false, false]);
    place.frame(0, 0);
    assert_eq!(place.next(10), Err(Some(100)));
    assert_eq!(place.next(70), Err(Some(40)));
    assert_eq!(place.next(110), Ok((0, vec![0])));
    assert_eq!(place.state(1), CameraState::Degraded);
    // From now on nobody waits for it.
    place.frame(0, 100);
    assert_eq!(place.next(111), Ok((100, vec![0])));
    // Two that are late, and one that belongs to the next step.
    for time in [0, 100, 200] {
        place.frame(1, time);
    }
    place.frame(0, 200);
    assert_eq!(place.next(210), Ok((200, vec![0, 1])));
    assert_eq!((place.late(1), place.late(0)), (2, 0));
    assert_eq!(place.state(1), CameraState::Running);
    place.frame(0, 300);
    assert_eq!(place.next(310), Err(Some(100)));
}

#[test]
fn live_does_not_wait_for_a_frame_that_cannot_come_yet() {
    let mut place = Place::new(LIVE, &[false, false]);
    place.frame(0, 0);
    place.frame(1, 0);
    assert_eq!(place.next(0), Ok((0, vec![0, 1])));
    // A second one of the first camera at once, as bursts are; the other's is due at 100.
    place.frame(0, 10);
    assert_eq!(place.next(10), Ok((10, vec![0])));
    place.frame(1, 100);
    assert_eq!(place.next(101), Err(Some(100)));
    place.frame(0, 110);
    assert_eq!(place.next(111), Ok((100, vec![0, 1])));
    assert_eq!((place.late(0), place.late(1)), (0, 0));
}

#[test]
fn what_arrives_is_waited_for_until_the_step_is_over() {
    let mut place = Place::new(LIVE, &[true, true]);
    place.frame(0, 50);
    assert_eq!(place.next(60), Err(Some(30)));
    assert_eq!(place.next(91), Ok((50, vec![0])));
    assert_eq!(place.state(1), CameraState::Waiting);
    // Silent for longer than the wait.
    place.frame(0, 150);
    assert_eq!(place.next(191), Ok((150, vec![0])));
    assert_eq!(place.state(1), CameraState::Degraded);
    place.frame(1, 195);
    assert_eq!(place.next(196), Err(Some(39)));
    assert_eq!(place.next(236), Ok((195, vec![1])));
    assert_eq!(place.state(1), CameraState::Running);
}

#[test]
fn a_lost_camera_holds_nobody_up() {
    let mut place = Place::new(LIVE, &[true, true]);
    place.queues[1].push(Read::Lost("no route".to_string()));
    place.frame(0, 5);
    assert_eq!(place.next(5), Ok((5, vec![0])));
    let error = place.metrics.snapshot().cameras[1].error.clone();
    assert_eq!(error.as_deref(), Some("no route"));
    place.frame(1, 100);
    place.frame(0, 101);
    assert_eq!(place.next(101), Ok((100, vec![0, 1])));
    assert_eq!(place.metrics.snapshot().cameras[1].error, None);
}

#[test]
fn steps_fit_the_room() {
    let mut place = Place::new(SyncMode::Lossless, &[false, false]);
    place.frame(0, 0);
    place.frame(1, 0);
    let now = place.began;
    let full = place.stepping.next(&mut place.queues, Some(1), now);
    assert!(matches!(full, Next::Full));
    assert_eq!(place.next(0), Ok((0, vec![0, 1])));
}

proptest! {
    /// Live: whatever comes when, time does not go back, and each frame is in one step or
    /// dropped as late.
    #[test]
    fn live_loses_nothing_unseen(
        arrivals in prop::collection::vec((0_usize..3, 0_u64..60, 0_u64..30), 1..60),
    ) {
        let mut place = Place::new(LIVE, &[false; 3]);
        let mut times = [0; 3];
        let (mut clock, mut latest, mut done) = (0, 0, 0);
        for (camera, step, pause) in &arrivals {
            clock += pause;
            times[*camera] += step;
            place.frame(*camera, times[*camera]);
            while let Ok((time, cameras)) = place.next(clock) {
                prop_assert!(time >= latest);
                latest = time;
                done += cameras.len();
            }
        }
        // Every second call at the latest a wait is over and a step is formed.
        for round in 1..=2 * arrivals.len() as u64 + 2 {
            if let Ok((_, cameras)) = place.next(clock + 200 * round) {
                done += cameras.len();
            }
        }
        let late: u64 = (0..3).map(|camera| place.late(camera)).sum();
        prop_assert_eq!(done as u64 + late, arrivals.len() as u64);
    }
}
