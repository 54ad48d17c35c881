//! People who are erased are gone for good, and galleries share out identities.
#![allow(clippy::unwrap_used)]

use mtmc::gallery::{
    CameraInput, Gallery, GallerySettings, IdentityEvent, Observation, StepResult, Topology,
};
use mtmc::homography::CameraView;
use mtmc_models::{BBox, Embedding};
use proptest::prelude::*;

/// A camera straight above: one pixel is a centimetre.
fn above() -> CameraView {
    let matrix = [[0.01, 0.0, 0.0], [0.0, 0.01, 0.0], [0.0, 0.0, 1.0]];
    CameraView::from_homography(matrix, [1000.0, 1000.0]).unwrap()
}

fn gallery(mapped: bool) -> Gallery {
    let settings = GallerySettings {
        least_views: 1,
        ..GallerySettings::default()
    };
    Gallery::new(settings, Topology::default(), vec![mapped.then(above)]).unwrap()
}

/// A vector whose numbers no other has.
fn look(person: usize) -> Embedding {
    let mut values = vec![0.0; 8];
    values[person] = 1.0;
    values[7] = 0.123_456_7 * (person + 1) as f32;
    Embedding::new(values).unwrap()
}

/// One camera sees some people, each as the track of its own number.
fn see(gallery: &mut Gallery, time: f64, people: &[usize]) -> StepResult {
    let looks: Vec<Embedding> = people.iter().map(|&person| look(person)).collect();
    let seen: Vec<Observation<'_>> = people
        .iter()
        .zip(&looks)
        .map(|(&person, look)| Observation {
            track_id: person as u64,
            bbox: BBox::from_tlwh(100.0 + 150.0 * person as f32, 300.0, 60.0, 170.0),
            embedding: Some(look),
        })
        .collect();
    let input = CameraInput {
        camera: 0,
        frame_size: [1000.0, 1000.0],
        observations: &seen,
    };
    gallery.step(time, &[input])
}

fn ids(result: &StepResult) -> Vec<Option<u64>> {
    result.identities[0].iter().map(|i| i.global_id).collect()
}

#[test]
fn whoever_is_erased_comes_back_as_someone_new() {
    for mapped in [true, false] {
        let mut gallery = gallery(mapped);
        for step in 0..10 {
            see(&mut gallery, f64::from(step) / 10.0, &[0, 1, 2]);
        }
        assert_eq!(gallery.people().len(), 3);
        assert_eq!(gallery.tracks_of(2).len(), 1);
        assert!(gallery.forget(2));
        assert!(!gallery.forget(2), "nobody is called 2 any more");
        assert!(gallery.tracks_of(2).is_empty());
        // The others stay who they are, from the next step on and for good.
        let mut last = Vec::new();
        for step in 10..30 {
            let result = see(&mut gallery, f64::from(step) / 10.0, &[0, 1, 2]);
            last = ids(&result);
            assert_eq!((last[0], last[2]), (Some(1), Some(3)));
            let candidates = result.identities[0].iter().flat_map(|i| &i.candidates);
            assert!(candidates.into_iter().all(|c| c.global_id != Some(2)));
        }
        assert_eq!(last[1], Some(4), "mapped: {mapped}");
    }
}

// The gallery's whole state is what is written: nothing of the vector is in it, nor of the place.
#[test]
fn nothing_of_the_erased_is_left() {
    let mut gallery = gallery(true);
    for step in 0..10 {
        see(&mut gallery, f64::from(step) / 10.0, &[0, 1]);
    }
    let number = format!("{:?}", look(1).as_slice()[7]);
    let state = |gallery: &Gallery| serde_json::to_string(gallery).unwrap();
    let inside = format!("{gallery:?}");
    assert!(inside.contains(&number) && state(&gallery).contains(&number));
    // Out of sight and lost, he is still there to be erased.
    for step in 10..40 {
        see(&mut gallery, f64::from(step) / 10.0, &[0]);
    }
    assert!(gallery.forget(2));
    let inside = format!("{gallery:?}");
    assert!(!inside.contains(&number), "{inside}");
    assert!(!state(&gallery).contains(&number));
    assert_eq!(gallery.people().len(), 1);
}

#[test]
fn identities_begin_where_they_are_told_to_and_never_go_back() {
    let mut gallery = gallery(true);
    gallery.begin_ids_at(1_000_000);
    for step in 0..5 {
        see(&mut gallery, f64::from(step) / 10.0, &[0]);
    }
    gallery.begin_ids_at(7);
    assert_eq!(gallery.next_global_id(), 1_000_001);
    gallery.begin_ids_at(2_000_000);
    for step in 5..10 {
        see(&mut gallery, f64::from(step) / 10.0, &[0, 1]);
    }
    let found: Vec<_> = gallery.people().iter().map(|p| p.global_id).collect();
    assert_eq!(found, [Some(1_000_000), Some(2_000_000)]);
    // As read back from disk, too.
    let text = serde_json::to_string(&gallery).unwrap();
    let read: Gallery = serde_json::from_str(&text).unwrap();
    assert_eq!(read.next_global_id(), 2_000_001);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    // Whatever comes, goes and is erased: every identity is given once, the later the higher.
    #[test]
    fn identities_rise_and_are_given_once(
        steps in prop::collection::vec((0_u8..64, 0_u64..12), 1..80), mapped in any::<bool>(),
    ) {
        let mut gallery = gallery(mapped);
        let mut given = Vec::new();
        let mut erased = Vec::new();
        for (number, (seen, erase)) in steps.into_iter().enumerate() {
            let people: Vec<usize> = (0..6).filter(|person| seen & (1 << person) != 0).collect();
            let result = see(&mut gallery, number as f64 / 5.0, &people);
            for event in &result.events {
                if let IdentityEvent::New { global_id } = event {
                    prop_assert!(given.last().is_none_or(|last| last < global_id));
                    given.push(*global_id);
                }
            }
            for id in ids(&result).into_iter().flatten() {
                prop_assert!(given.contains(&id) && !erased.contains(&id));
            }
            if gallery.forget(erase) {
                erased.push(erase);
            }
        }
    }
}
