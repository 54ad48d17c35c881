//! One client's socket: from upgrade to close.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message as Frame, Utf8Bytes, WebSocket, close_code};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use uuid::Uuid;

use super::hub::End;
use super::subscription::{Batch, Outgoing, Subscription};
use crate::service::messages::{Gap, Heartbeat, ImageKind, Lagged, moment};
use crate::service::metrics::Metrics;

/// How messages are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// One JSON text a message, pictures in base64: `mtmc.json.v1`.
    Json,
    /// JSON texts without pictures, each picture as a binary frame behind it: `mtmc.binary.v1`.
    Binary,
}

impl Protocol {
    /// Names of the subprotocols, the preferred one first.
    pub const NAMES: [&'static str; 2] = ["mtmc.json.v1", "mtmc.binary.v1"];

    /// By the subprotocol that was agreed on; JSON without one.
    pub fn of(name: Option<&str>) -> Self {
        match name {
            Some("mtmc.binary.v1") => Self::Binary,
            _ => Self::Json,
        }
    }
}

/// Pings without an answer after which a client is given up.
const PATIENCE: u32 = 2;

/// How long a client may take to answer a close.
const FAREWELL: Duration = Duration::from_secs(3);

/// Why a socket is closed from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// Everything was sent, and nothing more comes.
    Done(End),
    /// A message could not be sent in time.
    TooSlow,
    /// Pings are not answered.
    Silent,
    /// The connection is gone.
    Gone,
}

impl Ending {
    fn frame(self) -> Option<CloseFrame> {
        let (code, reason) = match self {
            Self::Done(End::Ended) => (close_code::NORMAL, "the task has ended"),
            Self::Done(End::Suspended) => (
                close_code::AWAY,
                "the service is being stopped: come back with ?since=",
            ),
            Self::TooSlow => (close_code::AGAIN, "too slow: come back with ?since="),
            Self::Silent => (close_code::POLICY, "pings were not answered"),
            Self::Gone => return None,
        };
        let reason = Utf8Bytes::from_static(reason);
        Some(CloseFrame { code, reason })
    }
}

/// Sends what the subscription gives until the task has ended or the client is gone.
pub async fn serve(
    socket: WebSocket,
    subscription: Subscription,
    protocol: Protocol,
    heartbeat: Duration,
    metrics: Arc<Metrics>,
) {
    let (sink, mut stream) = socket.split();
    let unanswered = AtomicU32::new(0);
    let mut sender = Sender {
        sink,
        task_id: subscription.hub().task_id(),
        protocol,
        timeout: subscription.hub().settings().send_timeout,
        metrics,
    };
    let ending = tokio::select! {
        ending = write(&mut sender, subscription, heartbeat, &unanswered) => ending,
        () = read(&mut stream, &unanswered) => Ending::Gone,
    };
    let Some(frame) = ending.frame() else { return };
    let closing = sender.sink.send(Frame::Close(Some(frame)));
    if let Ok(Ok(())) = timeout(FAREWELL, closing).await {
        // Until the client closes too; what it says is of no matter.
        let _ = timeout(FAREWELL, read(&mut stream, &unanswered)).await;
    }
}

/// Takes what the client says, until it is gone. Nothing of it matters but that it is there; its
/// pings are answered by the library.
async fn read(stream: &mut SplitStream<WebSocket>, unanswered: &AtomicU32) {
    while let Some(Ok(_)) = stream.next().await {
        unanswered.store(0, Ordering::Relaxed);
    }
}

async fn write(
    sender: &mut Sender,
    mut subscription: Subscription,
    heartbeat: Duration,
    unanswered: &AtomicU32,
) -> Ending {
    let mut beat = interval_at(Instant::now() + heartbeat, heartbeat);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut idle = true;
    loop {
        let before = subscription.position();
        let batch = subscription.take();
        let ended = batch.ended;
        if !batch.is_empty() {
            idle = false;
            if let Err(ending) = sender.batch(before, batch).await {
                return ending;
            }
        }
        if let Some(end) = ended {
            return Ending::Done(end);
        }
        // Waits for more, but never beyond the next ping; both are looked at though much comes.
        tokio::select! {
            biased;
            _ = beat.tick() => {
                if unanswered.fetch_add(1, Ordering::Relaxed) >= PATIENCE {
                    return Ending::Silent;
                }
                let position = subscription.position();
                if let Err(ending) = sender.beat(position, idle).await {
                    return ending;
                }
                idle = true;
            }
            () = subscription.ready() => {}
        }
    }
}

/// The sending half of a socket.
struct Sender {
    sink: SplitSink<WebSocket, Frame>,
    task_id: Uuid,
    protocol: Protocol,
    timeout: Duration,
    metrics: Arc<Metrics>,
}

impl Sender {
    async fn send(&mut self, frame: Frame) -> Result<(), Ending> {
        match timeout(self.timeout, self.sink.send(frame)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Ending::Gone),
            Err(_) => Err(Ending::TooSlow),
        }
    }

    async fn own(&mut self, message: &impl Serialize) -> Result<(), Ending> {
        match serde_json::to_string(message) {
            Ok(text) => self.send(Frame::Text(text.into())).await,
            Err(error) => {
                tracing::error!(%error, "a message could not be written");
                Ok(())
            }
        }
    }

    /// A ping, and a heartbeat if nothing else was sent for so long.
    async fn beat(&mut self, position: u64, idle: bool) -> Result<(), Ending> {
        if idle {
            let message = Heartbeat {
                message_type: Heartbeat::TYPE,
                task_id: self.task_id,
                timestamp: moment::now(),
                seq: position,
            };
            self.own(&message).await?;
        }
        self.send(Frame::Ping(Vec::new().into())).await
    }

    /// What comes next, behind the message of number `before`.
    async fn batch(&mut self, before: u64, batch: Batch) -> Result<(), Ending> {
        if let Some(range) = batch.gap {
            let message = Gap {
                message_type: Gap::TYPE,
                task_id: self.task_id,
                timestamp: moment::now(),
                from_seq: range.from,
                to_seq: range.to,
                seq: range.to,
            };
            self.own(&message).await?;
        }
        if let Some(loss) = batch.loss {
            self.metrics.live.lost(loss.images, loss.messages);
            let message = Lagged {
                message_type: Lagged::TYPE,
                task_id: self.task_id,
                timestamp: moment::now(),
                from_seq: loss.range.from,
                to_seq: loss.range.to,
                dropped_images: loss.images,
                dropped_messages: loss.messages,
                seq: before,
            };
            self.own(&message).await?;
        }
        for outgoing in batch.messages {
            self.message(&outgoing).await?;
            self.metrics.live.sent();
        }
        Ok(())
    }

    async fn message(&mut self, outgoing: &Outgoing) -> Result<(), Ending> {
        let Outgoing { message, images } = outgoing;
        if self.protocol == Protocol::Json {
            return self.send(Frame::Text(message.text(*images))).await;
        }
        self.send(Frame::Text(message.plain_text())).await?;
        for kind in [ImageKind::Original, ImageKind::Annotated] {
            if let Some(picture) = message.binary(kind, *images) {
                self.send(Frame::Binary(picture)).await?;
            }
        }
        Ok(())
    }
}
