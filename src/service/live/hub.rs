//! One task's messages, in order and without gaps.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use uuid::Uuid;

use super::message::{Draft, Images, Kind, Message};
use super::settings::LiveSettings;
use crate::service::messages::{ImageKind, StatusUpdate, TaskStatus};

/// One task's messages: numbers them, keeps the latest, and wakes those who listen. Whoever
/// publishes never waits for a listener.
#[derive(Debug)]
pub struct Hub {
    task_id: Uuid,
    settings: LiveSettings,
    state: Mutex<State>,
    /// The number that the next message gets; changes with every message and at the end.
    tip: watch::Sender<u64>,
    /// Listeners that want originals, and annotated pictures.
    wanting: [AtomicUsize; 2],
    listeners: AtomicUsize,
    made: Instant,
    /// Whether anybody ever listened.
    heard: std::sync::atomic::AtomicBool,
}

#[derive(Debug)]
struct State {
    /// The latest messages, by number.
    ring: VecDeque<Arc<Message>>,
    text_bytes: usize,
    picture_bytes: usize,
    /// So many of the oldest have no pictures any more.
    bare: usize,
    next_seq: u64,
    closed: Option<End>,
    /// The latest status, and what it said.
    status: Option<(Arc<Message>, TaskStatus)>,
}

/// What is kept of a task's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The oldest message that is kept; `next` if there is none.
    pub first: u64,
    /// The number that the next message gets.
    pub next: u64,
    /// Why nothing more comes.
    pub closed: Option<End>,
}

/// Why nothing more comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The task has ended.
    Ended,
    /// The service is being stopped; the task goes on when it starts again.
    Suspended,
}

/// Messages whose texts with pictures are kept, for those who listen live.
const FRESH: usize = 16;

/// Progress is not told more often, unless the status changes.
const STATUS_INTERVAL: Duration = Duration::from_millis(500);

/// How long pictures are made for those who are about to listen.
const EXPECTATION: Duration = Duration::from_secs(30);

impl Hub {
    /// Of a task whose next message has the number `first_seq`: 1 for a new task, and above
    /// everything that was ever sent for one that goes on after a restart.
    pub fn new(task_id: Uuid, first_seq: u64) -> Self {
        Self::with_settings(task_id, first_seq, LiveSettings::default())
    }

    /// The same with other bounds.
    pub fn with_settings(task_id: Uuid, first_seq: u64, settings: LiveSettings) -> Self {
        let next_seq = first_seq.max(1);
        Self {
            task_id,
            settings,
            state: Mutex::new(State {
                ring: VecDeque::new(),
                text_bytes: 0,
                picture_bytes: 0,
                bare: 0,
                next_seq,
                closed: None,
                status: None,
            }),
            tip: watch::Sender::new(next_seq),
            wanting: Default::default(),
            listeners: AtomicUsize::new(0),
            made: Instant::now(),
            heard: false.into(),
        }
    }

    /// The task.
    pub fn task_id(&self) -> Uuid {
        self.task_id
    }

    /// Bounds.
    pub fn settings(&self) -> &LiveSettings {
        &self.settings
    }

    /// The number that the next message gets.
    pub fn next_seq(&self) -> u64 {
        self.state().next_seq
    }

    /// How many listen.
    pub fn listeners(&self) -> usize {
        self.listeners.load(Ordering::Relaxed)
    }

    /// Numbers a message and passes it to all who listen. Its number; `None` once the task has
    /// ended.
    pub fn publish(&self, draft: Draft) -> Option<u64> {
        let mut state = self.state();
        if state.closed.is_some() {
            return None;
        }
        let message = Arc::new(draft.number(state.next_seq));
        Some(self.push(&mut state, message))
    }

    fn push(&self, state: &mut State, message: Arc<Message>) -> u64 {
        let seq = state.next_seq;
        state.next_seq += 1;
        state.text_bytes += message.text_weight();
        state.picture_bytes += message.picture_weight();
        state.ring.push_back(message);
        if state.ring.len() > FRESH {
            state.ring[state.ring.len() - 1 - FRESH].age();
        }
        state.trim(self.settings.history_messages, self.settings.history_bytes);
        self.tip.send_replace(state.next_seq);
        seq
    }

    /// Tells how the task does. Mere progress is told twice a second at most: each update says all
    /// that the ones before it did.
    pub fn status(&self, update: &StatusUpdate) {
        let draft = match Draft::new(Kind::Status, Vec::new(), update) {
            Ok(draft) => draft,
            Err(error) => {
                tracing::error!(task_id = %self.task_id, %error, "status could not be written");
                return;
            }
        };
        let mut state = self.state();
        if state.closed.is_some() {
            return;
        }
        if let Some((last, status)) = &state.status
            && *status == update.status
            && last.published.elapsed() < STATUS_INTERVAL
        {
            return;
        }
        let message = Arc::new(draft.number(state.next_seq));
        state.status = Some((message.clone(), update.status));
        self.push(&mut state, message);
    }

    /// The task has ended: nothing more comes. Less is kept from now on.
    pub fn close(&self) {
        self.end(End::Ended);
    }

    /// The service is being stopped, and the task goes on when it starts again.
    pub fn suspend(&self) {
        self.end(End::Suspended);
    }

    /// Drops all messages that may name people; states at the end stay. Whoever would go on from before
    /// is told that they are gone.
    pub fn forget(&self) {
        let mut state = self.state();
        let stay = state.ring.iter().rev();
        let stay = stay
            .take_while(|message| message.kind == Kind::Status)
            .count();
        while state.ring.len() > stay {
            state.drop_oldest();
        }
    }

    fn end(&self, end: End) {
        let mut state = self.state();
        state.closed.get_or_insert(end);
        for message in state.ring.iter().rev().take(FRESH) {
            message.age();
        }
        let settings = &self.settings;
        state.trim(settings.history_messages, settings.ended_history_bytes);
        self.tip.send_replace(state.next_seq);
    }

    /// Whether somebody wants this picture, or is about to: in the first half minute nobody may
    /// have found the way yet.
    pub fn wants(&self, kind: ImageKind) -> bool {
        let wanting = self.wanting[place(kind)].load(Ordering::Relaxed) > 0;
        wanting || !self.heard.load(Ordering::Relaxed) && self.made.elapsed() < EXPECTATION
    }

    /// Notes one more who listens, until the guard is dropped; `None` if `most` listen already.
    pub(super) fn listen(self: &Arc<Self>, images: Images, most: usize) -> Option<Listener> {
        let add = |count| (count < most).then_some(count + 1);
        let counted = self
            .listeners
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, add);
        counted.ok()?;
        self.heard.store(true, Ordering::Relaxed);
        for kind in [ImageKind::Original, ImageKind::Annotated] {
            if images.has(kind) {
                self.wanting[place(kind)].fetch_add(1, Ordering::Relaxed);
            }
        }
        Some(Listener {
            hub: self.clone(),
            images,
        })
    }

    /// Changes whenever there is something new.
    pub(super) fn tip(&self) -> watch::Receiver<u64> {
        self.tip.subscribe()
    }

    /// What is kept.
    pub fn extent(&self) -> Extent {
        self.state().extent()
    }

    /// The latest status, if one was told.
    pub(super) fn last_status(&self) -> Option<Arc<Message>> {
        let state = self.state();
        state.status.as_ref().map(|(message, _)| message.clone())
    }

    /// What is kept, and of it the messages from `from` on, so many at most.
    pub(super) fn since(&self, from: u64, most: usize) -> (Extent, Vec<Arc<Message>>) {
        let state = self.state();
        let extent = state.extent();
        let start = from.saturating_sub(extent.first) as usize;
        let messages = state.ring.iter().skip(start).take(most);
        (extent, messages.cloned().collect())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the state is whole, whatever panicked after it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn place(kind: ImageKind) -> usize {
    match kind {
        ImageKind::Original => 0,
        ImageKind::Annotated => 1,
    }
}

impl State {
    fn extent(&self) -> Extent {
        Extent {
            first: self.next_seq - self.ring.len() as u64,
            next: self.next_seq,
            closed: self.closed,
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(oldest) = self.ring.pop_front() {
            self.text_bytes -= oldest.text_weight();
            self.picture_bytes -= oldest.picture_weight();
            self.bare = self.bare.saturating_sub(1);
        }
    }

    /// Lets the oldest go, and pictures of the oldest; the latest stays, however large.
    fn trim(&mut self, messages: usize, bytes: usize) {
        while self.ring.len() > 1 && (self.ring.len() > messages || self.text_bytes > bytes / 2) {
            self.drop_oldest();
        }
        while self.text_bytes + self.picture_bytes > bytes && self.bare + 1 < self.ring.len() {
            let oldest = &mut self.ring[self.bare];
            self.picture_bytes -= oldest.picture_weight();
            *oldest = Arc::new(oldest.without_pictures());
            self.bare += 1;
        }
    }
}

/// One who listens.
#[derive(Debug)]
pub(super) struct Listener {
    hub: Arc<Hub>,
    images: Images,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.hub.listeners.fetch_sub(1, Ordering::AcqRel);
        for kind in [ImageKind::Original, ImageKind::Annotated] {
            if self.images.has(kind) {
                self.hub.wanting[place(kind)].fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}
