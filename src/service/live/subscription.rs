//! What one client gets of a task's messages: its filter, where it stands, and what is left out when
//! it is slow.
//!
//! A client's queue is the part of the hub's messages behind its place: nothing is stored for it
//! alone, and it costs those who publish nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::hub::{End, Hub, Listener};
use super::message::{Images, Kind, Message};

/// What a client asked for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Wishes {
    /// Only messages behind this one, as far as they are kept; `None`: what comes from now on.
    pub since: Option<u64>,
    /// Only messages about these cameras, and those about the task; `None`: all.
    pub cameras: Option<BTreeSet<String>>,
    /// Which pictures.
    pub images: Images,
    /// At least so long between two frames of a camera.
    pub interval: Option<Duration>,
}

/// A client's place in a task's messages.
#[derive(Debug)]
pub struct Subscription {
    hub: Arc<Hub>,
    wishes: Wishes,
    tip: watch::Receiver<u64>,
    /// The next message that it has not been given.
    cursor: u64,
    /// Messages before this one were there before the client: they are history, and all of them
    /// are given, at the client's own speed.
    joined: u64,
    /// Nothing was taken yet.
    fresh: bool,
    pace: Pace,
    _listener: Listener,
}

/// When each camera's latest frame was given.
#[derive(Debug, Default)]
struct Pace(BTreeMap<Arc<str>, Instant>);

/// Numbers of messages, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The first.
    pub from: u64,
    /// The last.
    pub to: u64,
}

/// What was left out because the client is slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    /// From the first to the last message that is concerned.
    pub range: Range,
    /// Pictures.
    pub images: u64,
    /// Messages.
    pub messages: u64,
}

/// One message for one client.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// The message.
    pub message: Arc<Message>,
    /// The pictures that go with it.
    pub images: Images,
}

/// What a client gets next, in this order.
#[derive(Debug, Default)]
pub struct Batch {
    /// What it asked for is not kept any more.
    pub gap: Option<Range>,
    /// What is left out.
    pub loss: Option<Loss>,
    /// Messages by number.
    pub messages: Vec<Outgoing>,
    /// This is all: nothing more comes.
    pub ended: Option<End>,
}

impl Batch {
    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.gap.is_none() && self.loss.is_none() && self.messages.is_empty()
    }
}

/// Messages with pictures that a client takes at once: what it holds beyond the hub's own bounds.
const BATCH: usize = 8;

impl Subscription {
    /// A client that comes now; `None` if too many are there already.
    pub fn open(hub: &Arc<Hub>, wishes: Wishes) -> Option<Self> {
        let listener = hub.listen(wishes.images, hub.settings().max_clients_per_task)?;
        let extent = hub.extent();
        let cursor = match wishes.since {
            Some(since) => since.saturating_add(1).min(extent.next),
            // What a task that has ended said is all that can be told.
            None if extent.closed.is_some() => extent.first,
            None => extent.next,
        };
        Some(Self {
            tip: hub.tip(),
            hub: hub.clone(),
            wishes,
            cursor,
            joined: extent.next,
            fresh: true,
            pace: Pace::default(),
            _listener: listener,
        })
    }

    /// The task's messages.
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// The latest message that was given or passed over; 0 before the first.
    pub fn position(&self) -> u64 {
        self.cursor - 1
    }

    /// Completes when there may be something to [`take`](Self::take).
    pub async fn ready(&mut self) {
        // What was left for later is there already.
        if self.cursor < *self.tip.borrow() {
            return;
        }
        // The sender lives as long as the hub, which is held here.
        let _ = self.tip.changed().await;
    }

    /// What the client gets next; empty if there is nothing now.
    pub fn take(&mut self) -> Batch {
        self.tip.borrow_and_update();
        let mut batch = Batch::default();
        self.greet(&mut batch);
        let is_history = self.cursor < self.joined;
        let most = if is_history {
            BATCH.min((self.joined - self.cursor) as usize)
        } else {
            usize::MAX
        };
        let (extent, pending) = self.hub.since(self.cursor, most);
        self.note_missing(extent.first, &mut batch);
        let mut wanted = Vec::new();
        let mut pace = Pace(self.pace.0.clone());
        for message in &pending {
            if self.wishes.concern(message) && pace.allows(message, self.wishes.interval) {
                wanted.push(message.clone());
            }
        }
        let end = pending.last().map_or(self.cursor, |last| last.seq + 1);
        let settings = self.hub.settings();
        if is_history || wanted.len() <= settings.image_backlog {
            self.take_whole(wanted, end, is_history, &mut batch);
        } else if wanted.len() <= settings.message_backlog {
            self.take_without_images(wanted, end, &mut batch);
        } else {
            self.take_latest(wanted, end, &mut batch);
        }
        self.note_given(&mut batch);
        batch.ended = extent.closed.filter(|_| self.cursor >= extent.next);
        self.fresh = false;
        batch
    }

    /// Notes which frames were given, and which of their pictures were lost before.
    fn note_given(&mut self, batch: &mut Batch) {
        let images = self.wishes.images;
        let mut lost = Vec::new();
        for Outgoing { message, .. } in &batch.messages {
            self.pace.note(message);
            if message.lost_count(images) > 0 {
                lost.push((only(message.seq), message.lost_count(images)));
            }
        }
        for (range, count) in lost {
            add_loss(batch, range, count, 0);
        }
    }

    /// Where the task stands, for those who come in the middle.
    fn greet(&self, batch: &mut Batch) {
        if !self.fresh || self.wishes.since.is_some() || self.cursor < self.joined {
            return;
        }
        if let Some(message) = self.hub.last_status() {
            batch.messages.push(Outgoing {
                message,
                images: Images::None,
            });
        }
    }

    /// Passes over messages that are not kept any more.
    fn note_missing(&mut self, first: u64, batch: &mut Batch) {
        if self.cursor >= first {
            return;
        }
        let range = Range {
            from: self.cursor,
            to: first - 1,
        };
        if self.fresh {
            batch.gap = Some(range);
        } else {
            let messages = range.to - range.from + 1;
            add_loss(batch, range, 0, messages);
        }
        self.cursor = first;
    }

    /// The next few messages, as they are.
    fn take_whole(&mut self, wanted: Vec<Arc<Message>>, end: u64, all: bool, batch: &mut Batch) {
        self.cursor = end;
        for message in wanted {
            if !all && batch.messages.len() >= BATCH {
                self.cursor = message.seq;
                return;
            }
            batch.messages.push(Outgoing {
                message,
                images: self.wishes.images,
            });
        }
    }

    /// All messages, with pictures only for each camera's latest frame.
    fn take_without_images(&mut self, wanted: Vec<Arc<Message>>, end: u64, batch: &mut Batch) {
        let latest = latest_frames(&wanted);
        for message in wanted {
            let mut images = self.wishes.images;
            if message.kind == Kind::Frame && !latest.contains(&message.seq) {
                let count = message.picture_count(images);
                if count > 0 {
                    add_loss(batch, only(message.seq), count, 0);
                }
                images = Images::None;
            }
            batch.messages.push(Outgoing { message, images });
        }
        self.cursor = end;
    }

    /// Of the frames each camera's latest alone.
    fn take_latest(&mut self, wanted: Vec<Arc<Message>>, end: u64, batch: &mut Batch) {
        let latest = latest_frames(&wanted);
        let images = self.wishes.images;
        for message in wanted {
            if message.kind == Kind::Frame && !latest.contains(&message.seq) {
                let count = message.picture_count(images) + message.lost_count(images);
                add_loss(batch, only(message.seq), count, 1);
            } else {
                batch.messages.push(Outgoing { message, images });
            }
        }
        self.cursor = end;
    }
}

impl Wishes {
    /// Whether a message is among what was asked for, but for its frame rate.
    fn concern(&self, message: &Message) -> bool {
        let Some(cameras) = &self.cameras else {
            return true;
        };
        let named = |camera: &Arc<str>| cameras.contains::<str>(camera);
        message.cameras.is_empty() || message.cameras.iter().any(named)
    }
}

impl Pace {
    /// Whether enough time has passed since the camera's last frame; notes the message if so.
    fn allows(&mut self, message: &Message, interval: Option<Duration>) -> bool {
        let (Some(interval), Kind::Frame) = (interval, message.kind) else {
            return true;
        };
        let camera = message.cameras.first();
        let last = camera.and_then(|camera| self.0.get(camera));
        if last.is_some_and(|last| message.published.duration_since(*last) < interval) {
            return false;
        }
        self.note(message);
        true
    }

    fn note(&mut self, message: &Message) {
        if let (Kind::Frame, Some(camera)) = (message.kind, message.cameras.first()) {
            self.0.insert(camera.clone(), message.published);
        }
    }
}

/// The number of each camera's latest frame.
fn latest_frames(messages: &[Arc<Message>]) -> BTreeSet<u64> {
    let mut latest = BTreeMap::new();
    for message in messages {
        if let (Kind::Frame, Some(camera)) = (message.kind, message.cameras.first()) {
            latest.insert(camera.clone(), message.seq);
        }
    }
    latest.into_values().collect()
}

fn only(seq: u64) -> Range {
    Range { from: seq, to: seq }
}

fn add_loss(batch: &mut Batch, range: Range, images: u64, messages: u64) {
    let loss = batch.loss.get_or_insert(Loss {
        range,
        images: 0,
        messages: 0,
    });
    loss.range.from = loss.range.from.min(range.from);
    loss.range.to = loss.range.to.max(range.to);
    loss.images += images;
    loss.messages += messages;
}

#[cfg(test)]
mod tests;
