//! HTTP/1.1 over plain sockets: what is sent is what is written here, however odd.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

/// A response.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// A multipart form.
#[derive(Debug, Default)]
pub struct Form {
    parts: Vec<u8>,
}

const BOUNDARY: &str = "----boundary-of-the-tests";

impl Form {
    pub fn of_video(name: &str, content: &[u8]) -> Self {
        let mut form = Self::default();
        form.field("video", Some(name), content);
        form
    }

    pub fn field(&mut self, name: &str, file: Option<&str>, content: &[u8]) {
        let mut head = format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"");
        if let Some(file) = file {
            head += &format!("; filename=\"{file}\"\r\nContent-Type: video/mp4");
        }
        self.parts.extend_from_slice(head.as_bytes());
        self.parts.extend_from_slice(b"\r\n\r\n");
        self.parts.extend_from_slice(content);
        self.parts.extend_from_slice(b"\r\n");
    }

    fn body(&self) -> Vec<u8> {
        [&self.parts, format!("--{BOUNDARY}--\r\n").as_bytes()].concat()
    }
}

fn head(method: &str, path: &str, headers: &[(&str, &str)], length: usize) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += &format!("Content-Length: {length}\r\n\r\n");
    head.into_bytes()
}

/// Sends a request and reads the response.
pub fn request(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Response {
    let mut socket = TcpStream::connect(address).unwrap();
    socket
        .write_all(&head(method, path, headers, body.len()))
        .unwrap();
    // A server may refuse before it has read all.
    let _ = socket.write_all(body);
    read(socket)
}

/// Sends a form and reads the response.
pub fn post(address: &str, path: &str, form: &Form, headers: &[(&str, &str)]) -> Response {
    read(begin_with(address, path, form, usize::MAX, headers))
}

/// Sends the first bytes of a form, and no more.
pub fn begin(address: &str, path: &str, form: &Form, bytes: usize) -> TcpStream {
    begin_with(address, path, form, bytes, &[])
}

/// The same with more headers.
pub fn begin_with(
    address: &str,
    path: &str,
    form: &Form,
    bytes: usize,
    headers: &[(&str, &str)],
) -> TcpStream {
    let kind = format!("multipart/form-data; boundary={BOUNDARY}");
    let headers: Vec<(&str, &str)> = [("Content-Type", kind.as_str())]
        .into_iter()
        .chain(headers.iter().copied())
        .collect();
    let body = form.body();
    let mut socket = TcpStream::connect(address).unwrap();
    socket
        .write_all(&head("POST", path, &headers, body.len()))
        .unwrap();
    let _ = socket.write_all(&body[..body.len().min(bytes)]);
    socket
}

/// Reads a response to the end of the connection.
pub fn read(mut socket: TcpStream) -> Response {
    socket
        .set_read_timeout(Some(Duration::from_secs(120)))
        .unwrap();
    let mut bytes = Vec::new();
    let _ = socket.read_to_end(&mut bytes);
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("no response: {:?}", String::from_utf8_lossy(&bytes)));
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap();
    let headers: Vec<(String, String)> = lines
        .map(|line| {
            let (name, value) = line.split_once(':').unwrap();
            (name.to_ascii_lowercase(), value.trim().to_string())
        })
        .collect();
    let chunked = headers.iter().any(|(name, _)| name == "transfer-encoding");
    assert!(!chunked, "responses tell their length");
    Response {
        status: status.parse().unwrap(),
        headers,
        body: bytes[end + 4..].to_vec(),
    }
}
