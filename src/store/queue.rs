//! The bounded queue between those who write and the database.
//!
//! Rows leave in the order in which they came; each has a number, so that "everything up to here is
//! durable" is one number too. Both threads and asynchronous tasks may push.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::records::Record;

/// What became of rows, counted since the store was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WriterCounts {
    /// Rows that were taken.
    pub queued: u64,
    /// Rows that wait now.
    pub waiting: u64,
    /// Rows whose write is settled: durable, or among those of the next two counts.
    pub settled: u64,
    /// Rows that the database refused, such as those of a task that is not there.
    pub rejected: u64,
    /// Rows left out because they name a person who was erased.
    pub erased: u64,
    /// Positions not taken because the queue stayed full.
    pub dropped_rows: u64,
    /// Other rows not taken because the queue stayed full.
    pub dropped_others: u64,
}

/// What became of pushed rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pushed {
    /// Rows in the queue.
    pub queued: usize,
    /// Rows that found no room in time.
    pub dropped: usize,
}

#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// Most positions; other rows may use a quarter more.
    capacity: usize,
    /// How long a push waits for room.
    patience: Duration,
    /// For threads that wait for room.
    room: Condvar,
    /// For tasks that wait for room.
    room_async: Notify,
    /// For the writer: rows, a flush, the end.
    work: Notify,
    /// For those who wait until their rows are durable.
    settled: Notify,
}

#[derive(Debug, Default)]
struct State {
    rows: VecDeque<Record>,
    /// Rows that the writer holds.
    taken: usize,
    /// Whether someone waits for all of it to be written.
    hurry: bool,
    closed: bool,
    counts: WriterCounts,
}

impl State {
    fn room(&self, record: &Record, capacity: usize) -> bool {
        let limit = match record {
            Record::Position(_) => capacity,
            _ => capacity + capacity / 4,
        };
        !self.closed && self.rows.len() + self.taken < limit
    }

    /// Moves as many of `records` as there is room for.
    fn take_in(&mut self, records: &mut VecDeque<Record>, capacity: usize) -> usize {
        let mut queued = 0;
        while let Some(record) = records.pop_front() {
            if !self.room(&record, capacity) {
                records.push_front(record);
                break;
            }
            self.rows.push_back(record);
            queued += 1;
        }
        self.counts.queued += queued as u64;
        queued
    }

    /// Gives up what found no room, but for rows that still find some.
    fn give_up(&mut self, records: VecDeque<Record>, capacity: usize) -> Pushed {
        let mut pushed = Pushed::default();
        for record in records {
            if self.room(&record, capacity) {
                self.rows.push_back(record);
                pushed.queued += 1;
                continue;
            }
            pushed.dropped += 1;
            match record {
                Record::Position(_) => self.counts.dropped_rows += 1,
                _ => self.counts.dropped_others += 1,
            }
        }
        self.counts.queued += pushed.queued as u64;
        pushed
    }
}

impl Queue {
    pub(super) fn new(capacity: usize, patience: Duration) -> Self {
        Self {
            state: Mutex::default(),
            capacity: capacity.max(1),
            patience,
            room: Condvar::new(),
            room_async: Notify::new(),
            work: Notify::new(),
            settled: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues rows; waits a bounded time for room.
    pub(super) async fn push(&self, records: Vec<Record>) -> Pushed {
        let mut left = VecDeque::from(records);
        let deadline = tokio::time::Instant::now() + self.patience;
        let mut queued = 0;
        loop {
            // Listening begins before looking: room that comes in between is not missed.
            let room = self.room_async.notified();
            queued += self.state().take_in(&mut left, self.capacity);
            self.work.notify_one();
            if left.is_empty() {
                return Pushed { queued, dropped: 0 };
            }
            let waited = tokio::time::timeout_at(deadline, room).await;
            if waited.is_err() || self.state().closed {
                let mut pushed = self.state().give_up(left, self.capacity);
                pushed.queued += queued;
                return pushed;
            }
        }
    }

    /// The same for a thread outside the asynchronous runtime.
    pub(super) fn push_blocking(&self, records: Vec<Record>) -> Pushed {
        let mut left = VecDeque::from(records);
        let deadline = Instant::now() + self.patience;
        let mut state = self.state();
        let mut queued = state.take_in(&mut left, self.capacity);
        self.work.notify_one();
        while !left.is_empty() {
            let patience = deadline.saturating_duration_since(Instant::now());
            if patience.is_zero() || state.closed {
                let mut pushed = state.give_up(left, self.capacity);
                pushed.queued += queued;
                return pushed;
            }
            let waited = self.room.wait_timeout(state, patience);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            queued += state.take_in(&mut left, self.capacity);
            self.work.notify_one();
        }
        Pushed { queued, dropped: 0 }
    }

    /// For the writer: up to `most` rows, once there are so many, someone hurries, or `patience` has
    /// passed since there is one. Nothing if there is none for `idle`; `None` once closed and empty.
    pub(super) async fn take(
        &self,
        most: usize,
        patience: Duration,
        idle: Duration,
    ) -> Option<Vec<Record>> {
        let mut deadline = tokio::time::Instant::now() + idle;
        let mut started = false;
        loop {
            {
                let mut state = self.state();
                let ready = state.hurry || state.closed || state.rows.len() >= most;
                if state.rows.is_empty() {
                    if state.closed {
                        return None;
                    }
                    state.hurry = false;
                } else if ready {
                    return Some(take_out(&mut state, most));
                } else if !started {
                    started = true;
                    deadline = tokio::time::Instant::now() + patience;
                }
            }
            let woken = tokio::time::timeout_at(deadline, self.work.notified()).await;
            if woken.is_err() {
                return Some(take_out(&mut self.state(), most));
            }
        }
    }

    /// Notes what became of `rows` that were taken.
    pub(super) fn settle(&self, rows: usize, rejected: u64, erased: u64) {
        let mut state = self.state();
        state.taken -= rows;
        state.counts.settled += rows as u64;
        state.counts.rejected += rejected;
        state.counts.erased += erased;
        drop(state);
        self.settled.notify_waiters();
        self.room_async.notify_waiters();
        self.room.notify_all();
    }

    /// Waits until every row that was queued before is settled; the rows that still wait if that
    /// takes longer than `patience`.
    pub(super) async fn flush(&self, patience: Duration) -> Result<(), u64> {
        let target = {
            let mut state = self.state();
            state.hurry = true;
            state.counts.queued
        };
        self.work.notify_one();
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            let settled = self.settled.notified();
            let missing = target.saturating_sub(self.state().counts.settled);
            if missing == 0 {
                return Ok(());
            }
            if tokio::time::timeout_at(deadline, settled).await.is_err() {
                return Err(target.saturating_sub(self.state().counts.settled).max(1));
            }
        }
    }

    pub(super) fn counts(&self) -> WriterCounts {
        let state = self.state();
        WriterCounts {
            waiting: (state.rows.len() + state.taken) as u64,
            ..state.counts
        }
    }

    /// Takes no more rows; what is queued is still written.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.work.notify_one();
        self.room_async.notify_waiters();
        self.room.notify_all();
    }
}

fn take_out(state: &mut State, most: usize) -> Vec<Record> {
    let count = state.rows.len().min(most);
    state.taken += count;
    state.rows.drain(..count).collect()
}
