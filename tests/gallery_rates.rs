//! Cameras of different frame rates: whoever is not in a step's frames is not missed in them.
#![allow(clippy::unwrap_used)]

use mtmc::gallery::{CameraInput, Gallery, GallerySettings, Observation, Topology};
use mtmc::homography::CameraView;
use mtmc_models::BBox;

/// A camera straight above: one pixel is a centimetre, the map's origin is the upper left corner.
fn above() -> CameraView {
    let matrix = [[0.01, 0.0, 0.0], [0.0, 0.01, 0.0], [0.0, 0.0, 1.0]];
    CameraView::from_homography(matrix, [1000.0, 1000.0]).unwrap()
}

fn input<'a>(camera: usize, observations: &'a [Observation<'a>]) -> CameraInput<'a> {
    CameraInput {
        camera,
        frame_size: [1000.0, 1000.0],
        observations,
    }
}

#[test]
fn someone_only_a_slow_camera_sees_gets_and_keeps_an_identity() {
    let settings = GallerySettings {
        least_views: 1,
        ..GallerySettings::default()
    };
    let views = vec![Some(above()), Some(above())];
    let mut gallery = Gallery::new(settings, Topology::default(), views).unwrap();
    let mut identities = Vec::new();
    for step in 0..60_u32 {
        let left = 100.0 + step as f32;
        let seen = [Observation {
            track_id: 7,
            bbox: BBox::from_tlwh(left, 300.0, 60.0, 170.0),
            embedding: None,
        }];
        // Ten steps a second; the second camera has a frame in every third.
        let mut inputs = vec![input(0, &[])];
        if step % 3 == 0 {
            inputs.push(input(1, &seen));
        }
        let result = gallery.step(f64::from(step) / 10.0, &inputs);
        if let Some(row) = result.identities.get(1) {
            identities.push(row[0].global_id);
        }
    }
    assert_eq!(identities[..2], [None, None]);
    assert!(
        identities[3..].iter().all(|id| *id == Some(1)),
        "{identities:?}"
    );

    // The camera is gone: after two seconds the person counts as missing, and is lost in the end.
    let mut people = usize::MAX;
    for step in 60..120_u32 {
        let result = gallery.step(f64::from(step) / 10.0, &[input(0, &[])]);
        people = result.people.len();
    }
    assert_eq!(people, 0);
}
