//! The messages of the sockets as an AsyncAPI 3.0 document, made of the types themselves.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use utoipa::openapi::{RefOr, Schema};

use super::{
    DetectionUpdate, Gap, GlobalIdMerged, GlobalIdSplit, HandoffMessage, Heartbeat, ImageHeader,
    Lagged, StatusUpdate, TrackEnded, TrackStarted,
};

/// A type by the name of its schema, and its schema with those that it refers to.
type Schemas = Vec<(String, RefOr<Schema>)>;

/// One kind of message: its `message_type`, the name of its schema and what it says.
struct Kind {
    message_type: &'static str,
    schema: String,
    summary: &'static str,
}

/// Collects what the document is made of.
#[derive(Default)]
struct Collected {
    kinds: Vec<Kind>,
    schemas: Schemas,
}

impl Collected {
    fn schema<T: ToSchema>(&mut self) -> String {
        let name = T::name().into_owned();
        self.schemas.push((name.clone(), T::schema()));
        T::schemas(&mut self.schemas);
        name
    }

    fn message<T: ToSchema>(&mut self, message_type: &'static str, summary: &'static str) {
        let schema = self.schema::<T>();
        self.kinds.push(Kind {
            message_type,
            schema,
            summary,
        });
    }
}

fn collect() -> (Collected, String) {
    let mut all = Collected::default();
    all.message::<DetectionUpdate>(DetectionUpdate::TYPE, "One frame of one camera");
    all.message::<StatusUpdate>(StatusUpdate::TYPE, "How the task does");
    all.message::<TrackStarted>(TrackStarted::TYPE, "A track began");
    all.message::<TrackEnded>(TrackEnded::TYPE, "A track ended");
    all.message::<HandoffMessage>(HandoffMessage::TYPE, "A person goes from camera to camera");
    all.message::<GlobalIdMerged>(GlobalIdMerged::TYPE, "Two identities are one person");
    all.message::<GlobalIdSplit>(GlobalIdSplit::TYPE, "A track shows another person");
    all.message::<Lagged>(Lagged::TYPE, "The client was too slow and lost something");
    all.message::<Gap>(Gap::TYPE, "What was asked for is not kept any more");
    all.message::<Heartbeat>(Heartbeat::TYPE, "Nothing has happened for a while");
    let header = all.schema::<ImageHeader>();
    (all, header)
}

/// The document.
pub fn document() -> Value {
    let (all, header) = collect();
    let mut schemas: BTreeMap<String, Value> = BTreeMap::new();
    for (name, schema) in &all.schemas {
        schemas.insert(name.clone(), json!(schema));
    }
    let mut messages = Map::new();
    let mut channel = Map::new();
    for kind in &all.kinds {
        if let Some(schema) = schemas.get_mut(&kind.schema) {
            // The type says text; what the text is, this says.
            schema["properties"]["message_type"]["const"] = kind.message_type.into();
        }
        let message = json!({
            "name": kind.message_type,
            "title": kind.schema,
            "summary": kind.summary,
            "contentType": "application/json",
            "payload": {"$ref": format!("#/components/schemas/{}", kind.schema)},
        });
        let name = kind.message_type;
        messages.insert(name.to_string(), message);
        let place = format!("#/components/messages/{name}");
        channel.insert(name.to_string(), json!({"$ref": place}));
    }
    let image = json!({
        "name": "image",
        "title": "Image",
        "summary": "A picture, in the subprotocol mtmc.binary.v1 alone",
        "description": "A binary frame: the header's length in bytes (4 bytes, big-endian), the \
            header (JSON, the payload described here), the JPEG. It follows the `detection_update` \
            of its `seq`.",
        "contentType": "application/octet-stream",
        "payload": {"$ref": format!("#/components/schemas/{header}")},
    });
    messages.insert("image".to_string(), image);
    channel.insert(
        "image".to_string(),
        json!({"$ref": "#/components/messages/image"}),
    );
    let sent: Vec<Value> = channel
        .keys()
        .map(|name| json!({"$ref": format!("#/channels/detectionTracking/messages/{name}")}))
        .collect();
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "mtmc",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Messages of tasks, live. Every message of a task has a number, `seq`, \
                that rises by one; `lagged`, `gap` and `heartbeat` are about one socket and repeat \
                the latest number.",
        },
        "defaultContentType": "application/json",
        "channels": {"detectionTracking": {
            "address": "/ws/detection-tracking/{task_id}",
            "parameters": {"task_id": {"description": "The task, as `start` gave it."}},
            "messages": channel,
            "bindings": {"ws": {"method": "GET", "query": query()}},
        }},
        "operations": {"listen": {
            "action": "send",
            "summary": "What the service sends to clients",
            "channel": {"$ref": "#/channels/detectionTracking"},
            "messages": sent,
        }},
        "components": {"messages": messages, "schemas": schemas},
    })
}

/// What a client may ask for.
fn query() -> Value {
    json!({
        "type": "object",
        "properties": {
            "since": {
                "type": "integer", "minimum": 0,
                "description": "Number of the last message that the client has; 0 for all.",
            },
            "cameras": {
                "type": "string",
                "description": "Only these cameras: IDs with commas between them.",
            },
            "images": {
                "type": "string", "enum": ["none", "annotated", "original", "both"],
                "default": "both",
                "description": "Which pictures come with frames.",
            },
            "max_fps": {
                "type": "number", "exclusiveMinimum": 0, "maximum": 1000,
                "description": "At most so many frames a second of each camera.",
            },
        },
    })
}
