//! From the pipeline to a task's [`Hub`]: the sinks that turn results into messages.
//!
//! They do not fail: what cannot be written as a message is logged and left out.

use std::sync::Arc;

use serde::Serialize;
use tracing::{trace, warn};

use super::frame::{CameraFacts, TaskFacts, detection_update};
use super::hub::Hub;
use super::message::{Draft, Kind};
use super::tracks::{TrackBook, TrackMemory};
use crate::annotate::Annotator;
use crate::gallery::IdentityEvent;
use crate::handoff::HandoffEvent;
use crate::pipeline::WorldEvent;
use crate::service::messages::{
    GlobalIdMerged, GlobalIdSplit, HandoffMessage, HandoffState, ImageKind, TrackEnded, moment,
};
use crate::sink::{
    FrameResult, Sink, SinkError, StepOutcome, WorldSink, jpeg_bytes, rounded, track_labels,
};

/// Which pictures are made of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PictureSettings {
    /// Pass the frames on.
    pub originals: bool,
    /// Draw boxes and identities.
    pub annotate: bool,
    /// Quality of JPEGs that are made, 1..=100.
    pub jpeg_quality: u8,
}

/// What a task's sinks share.
#[derive(Debug)]
pub struct Feed {
    hub: Arc<Hub>,
    task: TaskFacts,
    pictures: PictureSettings,
    annotator: Annotator,
}

impl Feed {
    /// Into `hub`.
    pub fn new(hub: Arc<Hub>, task: TaskFacts, pictures: PictureSettings) -> Arc<Self> {
        Arc::new(Self {
            hub,
            task,
            pictures,
            annotator: Annotator::new(),
        })
    }

    /// The sink of one camera, whose tracker finds a lost track again after `patience` frames at
    /// most.
    pub fn camera_sink(self: &Arc<Self>, camera: CameraFacts, patience: u64) -> Box<dyn Sink> {
        Box::new(CameraFeed {
            feed: self.clone(),
            camera,
            tracks: TrackBook::new(patience),
        })
    }

    /// The sink of what the cameras share.
    pub fn world_sink(self: &Arc<Self>) -> Box<dyn WorldSink> {
        Box::new(WorldFeed { feed: self.clone() })
    }

    fn publish(&self, draft: Result<Draft, serde_json::Error>) {
        match draft {
            Ok(draft) => {
                self.hub.publish(draft);
            }
            Err(error) => warn!(task_id = %self.task.task_id, %error, "a message was left out"),
        }
    }

    fn event(&self, cameras: Vec<Arc<str>>, message: &impl Serialize) {
        self.publish(Draft::new(Kind::Event, cameras, message));
    }

    /// The frame as it came: the source's own file, byte for byte, or encoded once if it has none
    /// and somebody wants it.
    fn original(&self, result: &FrameResult<'_>) -> Option<Vec<u8>> {
        if !self.pictures.originals {
            return None;
        }
        if let Some(jpeg) = result.jpeg {
            return Some(jpeg.to_vec());
        }
        if !self.hub.wants(ImageKind::Original) {
            return None;
        }
        self.encode(result, result.image)
    }

    fn annotated(&self, result: &FrameResult<'_>) -> Option<Vec<u8>> {
        if !self.pictures.annotate || !self.hub.wants(ImageKind::Annotated) {
            return None;
        }
        let mut image = result.image.clone();
        self.annotator.annotate(&mut image, &track_labels(result));
        self.encode(result, &image)
    }

    fn encode(&self, result: &FrameResult<'_>, image: &image::RgbImage) -> Option<Vec<u8>> {
        match jpeg_bytes(image, self.pictures.jpeg_quality) {
            Ok(jpeg) => Some(jpeg),
            Err(reason) => {
                let task_id = self.task.task_id;
                let (camera, frame) = (result.source, result.frame_number);
                warn!(%task_id, camera, frame, reason, "a picture could not be encoded");
                None
            }
        }
    }

    fn camera_id(&self, index: usize) -> Arc<str> {
        match self.task.cameras.get(index) {
            Some(id) => id.clone(),
            None => index.to_string().into(),
        }
    }
}

/// One camera's frames on their way to the hub.
struct CameraFeed {
    feed: Arc<Feed>,
    camera: CameraFacts,
    tracks: TrackBook,
}

impl CameraFeed {
    fn tell_ended(&self, ended: Vec<(u64, TrackMemory)>) {
        for (track_id, memory) in ended {
            let message = TrackEnded {
                message_type: TrackEnded::TYPE,
                task_id: self.feed.task.task_id,
                timestamp: moment::after(self.feed.task.origin, memory.last_time),
                camera_id: self.camera.id.to_string(),
                frame_number: memory.last_frame,
                track_id,
                global_id: memory.global_id,
                first_frame: memory.first_frame,
                seq: 0,
            };
            self.feed.event(vec![self.camera.id.clone()], &message);
        }
    }
}

impl Sink for CameraFeed {
    fn write(&mut self, result: &FrameResult<'_>) -> Result<(), SinkError> {
        let feed = self.feed.clone();
        // From here on a message's latency is measured: docs/proof.md.
        trace!(camera = %self.camera.id, frame = result.frame_number, "frame done");
        let (update, started) =
            detection_update(&feed.task, &self.camera, &mut self.tracks, result);
        let cameras = vec![self.camera.id.clone()];
        for message in &started {
            feed.event(cameras.clone(), message);
        }
        let original = feed.original(result);
        let annotated = feed.annotated(result);
        let draft = Draft::new(Kind::Frame, cameras, &update);
        feed.publish(draft.map(|draft| draft.with_pictures(original, annotated)));
        let ended = self.tracks.ended(result.frame_number);
        self.tell_ended(ended);
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<(), SinkError> {
        let ended = self.tracks.end_all();
        self.tell_ended(ended);
        Ok(())
    }
}

/// What happens across cameras on its way to the hub.
struct WorldFeed {
    feed: Arc<Feed>,
}

impl WorldFeed {
    fn identity(&self, time: f64, event: &IdentityEvent) {
        let feed = &self.feed;
        let timestamp = moment::after(feed.task.origin, time);
        let task_id = feed.task.task_id;
        match *event {
            IdentityEvent::Merged { from, into } => {
                let message = GlobalIdMerged {
                    message_type: GlobalIdMerged::TYPE,
                    task_id,
                    timestamp,
                    from_global_id: from,
                    into_global_id: into,
                    seq: 0,
                };
                feed.event(Vec::new(), &message);
            }
            IdentityEvent::Split { track, from, to } => {
                let camera = feed.camera_id(track.camera);
                let message = GlobalIdSplit {
                    message_type: GlobalIdSplit::TYPE,
                    task_id,
                    timestamp,
                    camera_id: camera.to_string(),
                    track_id: track.track_id,
                    from_global_id: from,
                    to_global_id: to,
                    seq: 0,
                };
                feed.event(vec![camera], &message);
            }
            // Every frame's message says whom its tracks show.
            _ => {}
        }
    }

    fn handoff(&self, event: &HandoffEvent) {
        let feed = &self.feed;
        let mut cameras = Vec::new();
        let mut name = |index: usize| {
            let id = feed.camera_id(index);
            cameras.push(id.clone());
            id.to_string()
        };
        let mut message = HandoffMessage {
            message_type: HandoffMessage::TYPE,
            task_id: feed.task.task_id,
            timestamp: feed.task.origin,
            event: HandoffState::Triggered,
            handoff_id: event.handoff_id(),
            global_id: None,
            from_camera: String::new(),
            to_camera: None,
            candidate_cameras: Vec::new(),
            track_id: None,
            zone: None,
            seconds: None,
            confidence: None,
            reason: None,
            seq: 0,
        };
        let when = match event {
            HandoffEvent::Triggered {
                time,
                global_id,
                from,
                track_id,
                zone,
                candidates,
                ..
            } => {
                message.global_id = *global_id;
                message.from_camera = name(*from);
                message.track_id = Some(*track_id);
                message.zone = Some(*zone);
                message.candidate_cameras = candidates.iter().map(|&camera| name(camera)).collect();
                *time
            }
            HandoffEvent::Completed {
                time,
                global_id,
                from,
                to,
                track_id,
                seconds,
                confidence,
                ..
            } => {
                message.event = HandoffState::Completed;
                message.global_id = Some(*global_id);
                message.from_camera = name(*from);
                message.to_camera = Some(name(*to));
                message.track_id = Some(*track_id);
                message.seconds = Some(rounded(*seconds, 1e3));
                message.confidence = Some(rounded(*confidence, 1e4));
                *time
            }
            HandoffEvent::Expired {
                time,
                global_id,
                from,
                seconds,
                reason,
                ..
            } => {
                message.event = HandoffState::Expired;
                message.global_id = *global_id;
                message.from_camera = name(*from);
                message.seconds = Some(rounded(*seconds, 1e3));
                message.reason = Some(*reason);
                *time
            }
        };
        message.timestamp = moment::after(feed.task.origin, when);
        feed.event(cameras, &message);
    }
}

impl WorldSink for WorldFeed {
    fn write(&mut self, outcome: &StepOutcome<'_>) -> Result<(), SinkError> {
        for event in outcome.events {
            match event {
                WorldEvent::Identity(event) => self.identity(outcome.time, event),
                WorldEvent::Handoff(event) => self.handoff(event),
            }
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), SinkError> {
        Ok(())
    }
}
