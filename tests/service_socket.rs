//! Sockets of tasks, over real connections to a service in this process: order, numbers, resuming,
//! filters, pictures, slow clients, ends.
//!
//! Most tests publish into the hub of a task that waits for its turn for ever, so that nothing
//! depends on how fast frames come; others run raw tasks over pictures that are made here.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::{SinkExt as _, StreamExt as _};
use mtmc::config::{Environment, Overrides};
use mtmc::service::catalog::Catalog;
use mtmc::service::live::{Draft, Hub, Kind};
use mtmc::service::networks::ServiceNetworks;
use mtmc::service::settings::ServiceSettings;
use mtmc::service::{self, App, SharedApp};
use mtmc_models::testing::made_up_image;
use serde::Serialize;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use uuid::Uuid;

/// Longest wait for anything that must come.
const PATIENCE: Duration = Duration::from_secs(60);

const RAW: &str = "/api/v1/raw-processing-tasks";

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A service with two cameras, c09 and c12, of pictures.
struct Service {
    app: SharedApp,
    address: SocketAddr,
    folder: TempDir,
    _stop: oneshot::Sender<()>,
}

impl Service {
    /// With so many JPEG pictures a camera.
    async fn start(frames: u32, settings: ServiceSettings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut text = "id = \"hall\"\n".to_string();
        for camera in ["c09", "c12"] {
            let pictures = folder.path().join(camera);
            std::fs::create_dir(&pictures).unwrap();
            for number in 1..=frames {
                let picture = made_up_image(320, 240, number);
                picture
                    .save_with_format(
                        pictures.join(format!("{number:06}.png")),
                        image::ImageFormat::Png,
                    )
                    .unwrap();
            }
            text += &format!(
                "[[cameras]]\nid = \"{camera}\"\nsource = '{}'\n",
                pictures.display()
            );
        }
        let file = folder.path().join("hall.toml");
        std::fs::write(&file, text).unwrap();
        let environment = Environment::load(&file, &Overrides::default()).unwrap();
        let mut settings = ServiceSettings {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            data_dir: folder.path().join("data"),
            ..settings
        };
        // Clients come as fast as they can here.
        settings.limits.rate = None;
        let catalog = Catalog::new([environment], None).unwrap();
        let app = App::new(settings, catalog, ServiceNetworks::default())
            .await
            .unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let (tell, told) = oneshot::channel();
        let served = app.clone();
        tokio::spawn(async move {
            let shutdown = async {
                let _ = stopped.await;
            };
            service::serve(served, shutdown, |address| tell.send(address).unwrap())
                .await
                .unwrap();
        });
        Self {
            app,
            address: told.await.unwrap(),
            folder,
            _stop: stop,
        }
    }

    /// One whose tasks never begin.
    async fn waiting() -> Self {
        Self::start(0, waiting()).await
    }

    /// A request; status and body.
    async fn request(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }

    async fn start_task(&self) -> Uuid {
        let body = json!({"environment_id": "hall"}).to_string();
        let (status, answer) = self.request("POST", &format!("{RAW}/start"), &body).await;
        assert_eq!(status, 202, "{answer}");
        answer["task_id"].as_str().unwrap().parse().unwrap()
    }

    fn hub(&self, task: Uuid) -> Arc<Hub> {
        self.app.tasks.get(task).unwrap().hub.clone()
    }

    async fn stop_task(&self, task: Uuid) {
        let (status, answer) = self
            .request("DELETE", &format!("{RAW}/{task}/stop"), "")
            .await;
        assert_eq!(status, 200, "{answer}");
    }

    async fn connect(&self, task: Uuid, query: &str) -> Result<Socket, Error> {
        self.connect_as(task, query, None).await
    }

    async fn connect_as(
        &self,
        task: Uuid,
        query: &str,
        protocol: Option<&'static str>,
    ) -> Result<Socket, Error> {
        let address = format!("ws://{}/ws/detection-tracking/{task}{query}", self.address);
        let mut request = address.into_client_request().unwrap();
        if let Some(protocol) = protocol {
            let headers = request.headers_mut();
            headers.insert("sec-websocket-protocol", protocol.parse().unwrap());
        }
        let config = WebSocketConfig::default().max_message_size(None);
        let connected =
            tokio_tungstenite::connect_async_with_config(request, Some(config), false).await;
        let (socket, response) = connected?;
        let chosen = response.headers().get("sec-websocket-protocol");
        assert_eq!(chosen.map(|name| name.to_str().unwrap()), protocol);
        Ok(socket)
    }

    /// The problem that a client gets instead of a socket.
    async fn refused(&self, task: Uuid, query: &str) -> (u16, Value) {
        match self.connect(task, query).await {
            Err(Error::Http(response)) => {
                let kind = &response.headers()["content-type"];
                assert_eq!(kind, "application/problem+json");
                let body = response.body().as_ref().unwrap();
                (
                    response.status().as_u16(),
                    serde_json::from_slice(body).unwrap(),
                )
            }
            other => panic!("{other:?}"),
        }
    }
}

fn waiting() -> ServiceSettings {
    ServiceSettings {
        max_running: 0,
        ..ServiceSettings::default()
    }
}

/// A frame as the hub takes it.
#[derive(Serialize)]
struct Frame {
    message_type: &'static str,
    camera_id: &'static str,
    number: usize,
    frame_data: Pictures,
    seq: u64,
}

#[derive(Serialize)]
struct Pictures {
    original_image_b64: Option<()>,
    annotated_image_b64: Option<()>,
}

/// Publishes a frame of a camera with two pictures of so many bytes.
fn publish(hub: &Hub, camera_id: &'static str, number: usize, bytes: usize) -> u64 {
    let frame = Frame {
        message_type: "detection_update",
        camera_id,
        number,
        frame_data: Pictures {
            original_image_b64: None,
            annotated_image_b64: None,
        },
        seq: 0,
    };
    let draft = Draft::new(Kind::Frame, vec![camera_id.into()], &frame).unwrap();
    let draft = draft.with_pictures(Some(vec![1; bytes]), Some(vec![2; bytes]));
    hub.publish(draft).unwrap()
}

/// The next message, but for pings; `None` once the socket is closed, with the close's code.
async fn next(socket: &mut Socket) -> Result<Message, u16> {
    loop {
        let message = tokio::time::timeout(PATIENCE, socket.next()).await.unwrap();
        match message.unwrap().unwrap() {
            Message::Ping(_) | Message::Pong(_) => {}
            Message::Close(frame) => return Err(frame.unwrap().code.into()),
            message => return Ok(message),
        }
    }
}

async fn next_json(socket: &mut Socket) -> Result<Value, u16> {
    let message = next(socket).await?;
    Ok(serde_json::from_str(message.to_text().unwrap()).unwrap())
}

/// All messages until the close, and its code.
async fn rest(socket: &mut Socket) -> (Vec<Value>, u16) {
    let mut messages = Vec::new();
    loop {
        match next_json(socket).await {
            Ok(message) => messages.push(message),
            Err(code) => return (messages, code),
        }
    }
}

fn numbers(messages: &[Value]) -> Vec<u64> {
    let seq = |message: &Value| message["seq"].as_u64().unwrap();
    messages.iter().map(seq).collect()
}

fn base64(bytes: &[u8]) -> Value {
    STANDARD.encode(bytes).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_in_order_then_the_final_status_and_the_close() {
    let service = Service::waiting().await;
    let task = service.start_task().await;
    let hub = service.hub(task);
    let mut early = service.connect(task, "?since=0").await.unwrap();
    for number in 1..=20 {
        publish(&hub, "c09", number, 3);
    }
    let mut late = service.connect(task, "?since=5").await.unwrap();
    for number in 21..=30 {
        publish(&hub, "c12", number, 3);
    }
    service.stop_task(task).await;
    for (socket, first) in [(&mut early, 1), (&mut late, 6)] {
        let (messages, code) = rest(socket).await;
        assert_eq!(code, 1000);
        assert_eq!(numbers(&messages), (first..=31).collect::<Vec<_>>());
        let last = messages.last().unwrap();
        assert_eq!(last["message_type"], "status_update");
        assert_eq!(last["status"], "STOPPED");
        let data = &messages[0]["frame_data"];
        assert_eq!(data["original_image_b64"], base64(&[1; 3]));
        assert_eq!(data["annotated_image_b64"], base64(&[2; 3]));
    }
    // A task that has ended tells what is kept of it.
    let mut after = service.connect(task, "").await.unwrap();
    let (messages, code) = rest(&mut after).await;
    assert_eq!((messages.len(), code), (31, 1000));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_in_the_middle_gets_what_comes() {
    let service = Service::waiting().await;
    let task = service.start_task().await;
    let hub = service.hub(task);
    publish(&hub, "c09", 1, 3);
    hub.status(&service.app.tasks.get(task).unwrap().status_update());
    publish(&hub, "c09", 2, 3);
    let mut socket = service.connect(task, "").await.unwrap();
    publish(&hub, "c09", 3, 3);
    // The latest status first, with its own number.
    assert_eq!(
        next_json(&mut socket).await.unwrap()["message_type"],
        "status_update"
    );
    assert_eq!(next_json(&mut socket).await.unwrap()["number"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_gone_is_told_as_a_gap() {
    let service = Service::waiting().await;
    let task = service.start_task().await;
    let hub = service.hub(task);
    let kept = hub.settings().history_messages;
    for number in 1..=kept + 100 {
        publish(&hub, "c09", number, 0);
    }
    let mut socket = service.connect(task, "?since=40").await.unwrap();
    let gap = next_json(&mut socket).await.unwrap();
    assert_eq!(gap["message_type"], "gap");
    assert_eq!(
        (&gap["from_seq"], &gap["to_seq"]),
        (&41.into(), &100.into())
    );
    assert_eq!(next_json(&mut socket).await.unwrap()["seq"], 101);
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_of_cameras_pictures_and_frame_rate() {
    let service = Service::waiting().await;
    let task = service.start_task().await;
    let hub = service.hub(task);
    let query = "?since=0&cameras=c12&images=annotated";
    let mut one = service.connect(task, query).await.unwrap();
    let mut bare = service.connect(task, "?since=0&images=none").await.unwrap();
    let mut rare = service
        .connect(task, "?since=0&max_fps=0.001")
        .await
        .unwrap();
    for number in 1..=5 {
        publish(&hub, "c09", number, 3);
        publish(&hub, "c12", number, 3);
    }
    service.stop_task(task).await;
    let (messages, _) = rest(&mut one).await;
    assert_eq!(numbers(&messages), [2, 4, 6, 8, 10, 11]);
    let data = &messages[0]["frame_data"];
    assert_eq!(data["original_image_b64"], Value::Null);
    assert_eq!(data["annotated_image_b64"], base64(&[2; 3]));
    let (messages, _) = rest(&mut bare).await;
    assert_eq!(messages.len(), 11);
    assert_eq!(
        messages[0]["frame_data"]["annotated_image_b64"],
        Value::Null
    );
    let (messages, _) = rest(&mut rare).await;
    assert_eq!(numbers(&messages), [1, 2, 11]);
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_as_binary_frames() {
    let service = Service::waiting().await;
    let task = service.start_task().await;
    let hub = service.hub(task);
    let protocol = Some("mtmc.binary.v1");
    let mut socket = service
        .connect_as(task, "?since=0", protocol)
        .await
        .unwrap();
    publish(&hub, "c12", 1, 5);
    let message = next_json(&mut socket).await.unwrap();
    assert_eq!(message["frame_data"]["original_image_b64"], Value::Null);
    for (kind, byte) in [("original", 1), ("annotated", 2)] {
        let Message::Binary(frame) = next(&mut socket).await.unwrap() else {
            panic!("a text");
        };
        let length = u32::from_be_bytes(frame[..4].try_into().unwrap()) as usize;
        let header: Value = serde_json::from_slice(&frame[4..4 + length]).unwrap();
        assert_eq!(header, json!({"seq": 1, "camera_id": "c12", "kind": kind}));
        assert_eq!(&frame[4 + length..], [byte; 5]);
    }
    let protocol = Some("mtmc.json.v1");
    let mut socket = service
        .connect_as(task, "?since=0", protocol)
        .await
        .unwrap();
    let message = next_json(&mut socket).await.unwrap();
    assert_eq!(message["frame_data"]["original_image_b64"], base64(&[1; 5]));
}

/// The slow one reads nothing while 60 MB are published; nobody waits for it, the fast one gets
/// everything, and the slow one's losses add up.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_client_is_told_what_it_lost_and_holds_nobody_back() {
    const FRAMES: u64 = 600;
    let service = Service::waiting().await;
    let task = service.start_task().await;
    let hub = service.hub(task);
    let mut slow = service.connect(task, "?since=0").await.unwrap();
    let mut fast = service.connect(task, "?since=0").await.unwrap();
    for number in 1..=FRAMES {
        let seq = publish(&hub, "c09", number as usize, 50_000);
        let message = next_json(&mut fast).await.unwrap();
        assert_eq!(message["seq"], seq);
        assert_ne!(message["frame_data"]["original_image_b64"], Value::Null);
    }
    service.stop_task(task).await;
    let (messages, code) = rest(&mut fast).await;
    assert_eq!((messages.len(), code), (1, 1000));
    let (messages, code) = rest(&mut slow).await;
    assert_eq!(code, 1000);
    let (mut frames, mut images, mut dropped, mut dropped_images) = (0, 0, 0, 0);
    for message in &messages {
        match message["message_type"].as_str().unwrap() {
            "lagged" => {
                dropped += message["dropped_messages"].as_u64().unwrap();
                dropped_images += message["dropped_images"].as_u64().unwrap();
            }
            "detection_update" => {
                frames += 1;
                let pictures = message["frame_data"].as_object().unwrap().values();
                images += pictures.filter(|picture| !picture.is_null()).count() as u64;
            }
            other => assert_eq!(other, "status_update"),
        }
    }
    assert!(
        dropped > 0 && dropped_images > dropped,
        "{dropped} {dropped_images}"
    );
    assert_eq!(frames + dropped, FRAMES);
    assert_eq!(images + dropped_images, 2 * FRAMES);
    assert!(numbers(&messages).is_sorted());
    assert_eq!(messages.last().unwrap()["status"], "STOPPED");
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_sockets_hear_a_heartbeat_and_silent_clients_are_closed() {
    let settings = ServiceSettings {
        heartbeat: Duration::from_millis(100),
        ..waiting()
    };
    let service = Service::start(0, settings).await;
    let task = service.start_task().await;
    publish(&service.hub(task), "c09", 1, 3);
    let mut socket = service.connect(task, "?since=0").await.unwrap();
    let mut silent = service.connect(task, "").await.unwrap();
    assert_eq!(next_json(&mut socket).await.unwrap()["number"], 1);
    // Reading answers pings: more of them than a silent client may leave out.
    for _ in 0..5 {
        let message = next_json(&mut socket).await.unwrap();
        assert_eq!(message["message_type"], "heartbeat");
        assert_eq!(message["seq"], 1);
    }
    // The other one has not read since, so that no ping of its was answered.
    let (messages, code) = rest(&mut silent).await;
    assert_eq!(code, 1008);
    assert!(
        messages
            .iter()
            .all(|message| message["message_type"] == "heartbeat")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_say_is_of_no_matter_unless_it_is_too_much() {
    let service = Service::waiting().await;
    let task = service.start_task().await;
    let hub = service.hub(task);
    let mut socket = service.connect(task, "?since=0").await.unwrap();
    socket
        .send(Message::text("{\"type\": \"hello\"}"))
        .await
        .unwrap();
    socket.send(Message::binary(vec![0; 60_000])).await.unwrap();
    publish(&hub, "c09", 1, 3);
    assert_eq!(next_json(&mut socket).await.unwrap()["number"], 1);
    socket.send(Message::binary(vec![0; 70_000])).await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, async {
        while let Some(Ok(message)) = socket.next().await {
            if message.is_close() {
                break;
            }
        }
    });
    ended.await.unwrap();
    // Whoever leaves is forgotten.
    drop(socket);
    for _ in 0..600 {
        if hub.listeners() == 0 && service.app.sockets.count() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{} listeners", hub.listeners());
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_are_problems_before_any_upgrade() {
    let service = Service::waiting().await;
    let task = service.start_task().await;
    let (status, problem) = service.refused(Uuid::nil(), "").await;
    assert_eq!(
        (status, &problem["type"]),
        (404, &"/problems/task-not-found".into())
    );
    for query in [
        "?cameras=c99",
        "?cameras=",
        "?max_fps=0",
        "?max_fps=NaN",
        "?max_fps=-1",
    ] {
        let (status, _) = service.refused(task, query).await;
        assert_eq!(status, 422, "{query}");
    }
    for query in ["?since=-1", "?images=some", "?max_fps=fast"] {
        let (status, _) = service.refused(task, query).await;
        assert_eq!(status, 400, "{query}");
    }
    let path = format!("/ws/detection-tracking/{task}");
    let (status, problem) = service.request("GET", &path, "").await;
    assert_eq!((status, &problem["status"]), (426, &426.into()));
    let (status, _) = service
        .request("GET", "/ws/detection-tracking/nobody", "")
        .await;
    assert_eq!(status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_bounded_of_a_task_and_in_all() {
    let mut settings = waiting();
    settings.live.max_clients_per_task = 20;
    settings.live.max_clients = 30;
    let service = Service::start(0, settings).await;
    let (task, other) = (service.start_task().await, service.start_task().await);
    let mut sockets = Vec::new();
    for _ in 0..20 {
        sockets.push(service.connect(task, "").await.unwrap());
    }
    let (status, _) = service.refused(task, "").await;
    assert_eq!(status, 429);
    for _ in 0..10 {
        sockets.push(service.connect(other, "").await.unwrap());
    }
    let (status, _) = service.refused(other, "").await;
    assert_eq!(status, 503);
    assert_eq!(service.app.sockets.count(), 30);
}

/// A raw task from its first frame to its end: all frames of both cameras, in order, and the pictures
/// of the camera that has JPEG files byte for byte theirs.
#[tokio::test(flavor = "multi_thread")]
async fn originals_are_the_files_themselves() {
    const FRAMES: u64 = 12;
    let service = Service::start(FRAMES as u32, ServiceSettings::default()).await;
    jpegs(&service.folder.path().join("c12"), FRAMES);
    let task = service.start_task().await;
    let mut socket = service.connect(task, "?since=0").await.unwrap();
    let (messages, code) = rest(&mut socket).await;
    assert_eq!(code, 1000);
    let last = messages.last().unwrap();
    assert_eq!(last["status"], "COMPLETED", "{last}");
    assert_eq!(last["camera_processing"]["c12"]["frame"], FRAMES);
    assert_eq!(
        numbers(&messages),
        (1..=messages.len() as u64).collect::<Vec<_>>()
    );
    let mut frames: BTreeMap<&str, u64> = BTreeMap::new();
    for message in &messages {
        if message["message_type"] != "detection_update" {
            continue;
        }
        let camera = message["camera_id"].as_str().unwrap();
        let number = frames.entry(camera).or_default();
        *number += 1;
        assert_eq!(message["frame_number"], *number);
        assert_eq!(message["detection_data"]["detection_count"], 0);
        let data = &message["frame_data"];
        let original = STANDARD.decode(data["original_image_b64"].as_str().unwrap());
        let annotated = STANDARD.decode(data["annotated_image_b64"].as_str().unwrap());
        let (original, annotated) = (original.unwrap(), annotated.unwrap());
        assert!(annotated.starts_with(&[0xff, 0xd8]));
        if camera == "c12" {
            let file = format!("{camera}/{number:06}.jpg");
            let file = service.folder.path().join(file);
            assert!(original == std::fs::read(file).unwrap());
        } else {
            // Of PNG files there is no JPEG: one is made.
            assert!(original.starts_with(&[0xff, 0xd8]));
        }
    }
    assert_eq!(frames, BTreeMap::from([("c09", FRAMES), ("c12", FRAMES)]));
}

/// Turns a folder's PNG files into JPEG files.
fn jpegs(folder: &Path, frames: u64) {
    for number in 1..=frames {
        let png = folder.join(format!("{number:06}.png"));
        let image = image::open(&png).unwrap().to_rgb8();
        let mut bytes = Vec::new();
        jpeg_encoder::Encoder::new(&mut bytes, 90)
            .encode(&image, 320, 240, jpeg_encoder::ColorType::Rgb)
            .unwrap();
        std::fs::write(png.with_extension("jpg"), bytes).unwrap();
        std::fs::remove_file(png).unwrap();
    }
}
