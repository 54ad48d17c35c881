//! Nothing is lost in silence, whatever the speeds of those who publish and those who listen.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;
use uuid::Uuid;

use super::*;
use crate::service::live::message::Draft;
use crate::service::live::settings::LiveSettings;

fn hub(settings: LiveSettings) -> Arc<Hub> {
    Arc::new(Hub::with_settings(Uuid::nil(), 1, settings))
}

/// A frame of a camera, with an original of so many bytes.
fn frame(hub: &Hub, camera: &str, bytes: usize) -> u64 {
    let message = json!({
        "camera_id": camera,
        "frame_data": {"original_image_b64": null, "annotated_image_b64": null},
    });
    // serde_json sorts keys: the number goes last by hand.
    let draft = Draft::new(Kind::Frame, vec![camera.into()], &Numbered::of(message)).unwrap();
    let picture = (bytes > 0).then(|| vec![7; bytes]);
    hub.publish(draft.with_pictures(picture, None)).unwrap()
}

fn event(hub: &Hub, camera: &str) -> u64 {
    let message = Numbered::of(json!({"camera_id": camera}));
    let draft = Draft::new(Kind::Event, vec![camera.into()], &message).unwrap();
    hub.publish(draft).unwrap()
}

/// Any message, with its number last.
#[derive(serde::Serialize)]
struct Numbered {
    message: serde_json::Value,
    original_image_b64: Option<()>,
    annotated_image_b64: Option<()>,
    seq: u64,
}

impl Numbered {
    fn of(message: serde_json::Value) -> Self {
        Self {
            message,
            original_image_b64: None,
            annotated_image_b64: None,
            seq: 0,
        }
    }
}

fn open(hub: &Arc<Hub>, wishes: Wishes) -> Subscription {
    Subscription::open(hub, wishes).unwrap()
}

fn numbers(batch: &Batch) -> Vec<u64> {
    let messages = batch.messages.iter();
    messages.map(|outgoing| outgoing.message.seq).collect()
}

fn since(seq: u64) -> Wishes {
    Wishes {
        since: Some(seq),
        ..Wishes::default()
    }
}

/// Takes until there is nothing more.
fn drain(subscription: &mut Subscription) -> Vec<Batch> {
    let mut batches = Vec::new();
    loop {
        let batch = subscription.take();
        let is_last = batch.is_empty();
        batches.push(batch);
        if is_last && subscription.cursor >= subscription.hub.next_seq() {
            return batches;
        }
    }
}

#[test]
fn history_is_whole_and_what_is_gone_is_a_gap() {
    let hub = hub(LiveSettings {
        history_messages: 50,
        ..LiveSettings::default()
    });
    for _ in 0..120 {
        frame(&hub, "a", 10);
    }
    let batches = drain(&mut open(&hub, since(60)));
    assert_eq!(batches[0].gap, Some(Range { from: 61, to: 70 }));
    let all: Vec<u64> = batches.iter().flat_map(numbers).collect();
    assert_eq!(all, (71..=120).collect::<Vec<_>>());
    assert!(batches.iter().all(|batch| batch.loss.is_none()));
    assert!(batches.iter().all(|batch| batch.messages.len() <= BATCH));
    let batches = drain(&mut open(&hub, since(100)));
    assert_eq!(batches[0].gap, None);
    assert_eq!(numbers(&batches[0])[0], 101);
    assert!(drain(&mut open(&hub, Wishes::default()))[0].is_empty());
    assert!(drain(&mut open(&hub, since(u64::MAX)))[0].is_empty());
}

#[test]
fn pictures_go_first_then_frames_and_events_never() {
    let hub = hub(LiveSettings {
        image_backlog: 10,
        message_backlog: 30,
        ..LiveSettings::default()
    });
    let mut slow = open(&hub, Wishes::default());
    for number in 0..20 {
        frame(&hub, if number % 2 == 0 { "a" } else { "b" }, 10);
    }
    let batch = slow.take();
    assert_eq!(numbers(&batch), (1..=20).collect::<Vec<_>>());
    let loss = batch.loss.unwrap();
    // All but the latest of each camera.
    assert_eq!((loss.images, loss.messages), (18, 0));
    assert_eq!(loss.range, Range { from: 1, to: 18 });
    for _ in 0..20 {
        frame(&hub, "a", 10);
        event(&hub, "a");
    }
    let batch = slow.take();
    let loss = batch.loss.unwrap();
    assert_eq!((loss.images, loss.messages), (19, 19));
    // Events 22, 24, … 60 and the latest frame, 59.
    let mut expected: Vec<u64> = (22..=60).step_by(2).collect();
    expected.insert(19, 59);
    assert_eq!(numbers(&batch), expected);
    assert!(slow.take().is_empty());
}

#[test]
fn what_the_ring_lost_is_told_as_lagged() {
    let hub = hub(LiveSettings {
        history_messages: 8,
        ..LiveSettings::default()
    });
    let mut slow = open(&hub, Wishes::default());
    frame(&hub, "a", 0);
    assert_eq!(numbers(&slow.take()), [1]);
    for _ in 0..20 {
        frame(&hub, "a", 0);
    }
    let batch = slow.take();
    let loss = batch.loss.unwrap();
    assert_eq!((loss.range, loss.messages), (Range { from: 2, to: 13 }, 12));
    assert_eq!(numbers(&batch)[0], 14);
}

#[test]
fn old_pictures_make_room_for_messages() {
    let hub = hub(LiveSettings {
        history_bytes: 100_000,
        ..LiveSettings::default()
    });
    for _ in 0..100 {
        frame(&hub, "a", 10_000);
    }
    let batches = drain(&mut open(&hub, since(0)));
    let given: Vec<u64> = batches.iter().flat_map(numbers).collect();
    assert_eq!(given, (1..=100).collect::<Vec<_>>());
    let lost: u64 = batches
        .iter()
        .filter_map(|b| b.loss)
        .map(|l| l.images)
        .sum();
    let outgoing = batches.iter().flat_map(|batch| &batch.messages);
    let there: u64 = outgoing.map(|o| o.message.picture_count(o.images)).sum();
    assert!((1..10).contains(&there), "{there}");
    assert_eq!(lost + there, 100);
    // Who wants no pictures loses none.
    let wishes = Wishes {
        images: Images::None,
        ..since(0)
    };
    let batches = drain(&mut open(&hub, wishes));
    assert!(batches.iter().all(|batch| batch.loss.is_none()));
}

#[test]
fn filters_leave_out_in_silence() {
    let hub = hub(LiveSettings::default());
    let wishes = Wishes {
        cameras: Some(BTreeSet::from(["b".to_string()])),
        ..since(0)
    };
    let mut one = open(&hub, wishes);
    let wishes = Wishes {
        interval: Some(Duration::from_secs(3600)),
        ..since(0)
    };
    let mut rare = open(&hub, wishes);
    for _ in 0..5 {
        frame(&hub, "a", 0);
        frame(&hub, "b", 0);
        event(&hub, "a");
    }
    let batch = one.take();
    assert_eq!(numbers(&batch), [2, 5, 8, 11, 14]);
    assert_eq!(batch.loss, None);
    // Of frames each camera's first; events are not paced.
    assert_eq!(numbers(&rare.take()), [1, 2, 3, 6, 9, 12, 15]);
}

#[test]
fn the_end_is_told_once_everything_was_given() {
    let hub = hub(LiveSettings::default());
    let mut early = open(&hub, Wishes::default());
    for _ in 0..20 {
        frame(&hub, "a", 0);
    }
    hub.close();
    let batches = drain(&mut early);
    let last = batches
        .iter()
        .position(|batch| batch.ended.is_some())
        .unwrap();
    let given: usize = batches[..=last].iter().map(|b| b.messages.len()).sum();
    assert_eq!(given, 20);
    // Whoever comes later gets what is kept.
    let batches = drain(&mut open(&hub, Wishes::default()));
    let given: Vec<u64> = batches.iter().flat_map(numbers).collect();
    assert_eq!(given, (1..=20).collect::<Vec<_>>());
    assert!(batches.last().unwrap().ended.is_some());
    let message = Numbered::of(json!({}));
    let late = Draft::new(Kind::Event, Vec::new(), &message).unwrap();
    assert_eq!(hub.publish(late), None);
}

#[test]
fn listeners_are_counted_and_bounded() {
    let hub = hub(LiveSettings {
        max_clients_per_task: 2,
        ..LiveSettings::default()
    });
    let first = open(&hub, Wishes::default());
    let second = open(&hub, since(0));
    assert!(Subscription::open(&hub, Wishes::default()).is_none());
    drop(first);
    assert_eq!(hub.listeners(), 1);
    drop(second);
    assert!(Subscription::open(&hub, Wishes::default()).is_some());
}

#[test]
fn numbers_go_on_after_a_restart() {
    let hub = Arc::new(Hub::new(Uuid::nil(), 5_001));
    let mut back = open(&hub, since(4_000));
    assert_eq!(event(&hub, "a"), 5_001);
    let batch = back.take();
    let gap = Range {
        from: 4_001,
        to: 5_000,
    };
    assert_eq!(batch.gap, Some(gap));
    assert_eq!(numbers(&batch), [5_001]);
}

proptest! {
    /// Every message is given, or within a loss; pictures and messages add up; numbers rise.
    #[test]
    fn everything_is_accounted_for(
        // Per turn: messages published (some of them events), and whether the client then takes.
        turns in prop::collection::vec((0_usize..40, any::<bool>()), 1..40),
        image_backlog in 1_usize..20,
        more in 1_usize..40,
        history in 5_usize..200,
    ) {
        let hub = hub(LiveSettings {
            image_backlog,
            message_backlog: image_backlog + more,
            history_messages: history,
            ..LiveSettings::default()
        });
        let mut client = open(&hub, since(0));
        let mut published = BTreeMap::new();
        let mut batches = Vec::new();
        for (count, takes) in turns {
            for index in 0..count {
                let is_frame = index % 3 != 0;
                let seq = if is_frame {
                    frame(&hub, if index % 2 == 0 { "a" } else { "b" }, 5)
                } else {
                    event(&hub, "a")
                };
                published.insert(seq, is_frame);
            }
            if takes {
                batches.push(client.take());
            }
        }
        batches.extend(drain(&mut client));
        let (mut last, mut given, mut dropped) = (0, 0, 0);
        let (mut given_images, mut dropped_images, mut evicted) = (0, 0, 0);
        for batch in &batches {
            if let Some(gap) = batch.gap {
                prop_assert_eq!(gap.from, 1);
                evicted += gap.to;
                last = gap.to;
            }
            if let Some(loss) = batch.loss {
                prop_assert!(loss.range.from > last && loss.range.from <= loss.range.to);
                dropped += loss.messages;
                dropped_images += loss.images;
            }
            for outgoing in &batch.messages {
                prop_assert!(outgoing.message.seq > last);
                last = outgoing.message.seq;
                given += 1;
                given_images += outgoing.message.picture_count(outgoing.images);
            }
            if let Some(loss) = batch.loss {
                last = last.max(loss.range.to);
            }
        }
        let total = published.len() as u64;
        prop_assert_eq!(given + dropped + evicted, total);
        let frames = published.values().filter(|is_frame| **is_frame).count() as u64;
        // Pictures of messages that were evicted before they were looked at cannot be counted.
        prop_assert!(given_images + dropped_images <= frames);
        if total <= history as u64 {
            prop_assert_eq!(given_images + dropped_images, frames);
        }
    }
}
