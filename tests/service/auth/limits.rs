//! How often, how much, how long; other sites' pages; what every answer has.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::num::NonZeroU32;
use std::time::Duration;

use axum::http::HeaderValue;
use mtmc::service::settings::ServiceSettings;

use super::server::{assert_problem, guarded, open};
use crate::http;

const TASKS: &str = "/api/v1/processing-tasks";

#[test]
fn callers_have_rates_of_their_own() {
    let mut settings = ServiceSettings::default();
    // One an hour would do as well: whatever time the test takes, it is too short for many more.
    settings.limits.rate = NonZeroU32::new(1);
    settings.limits.burst = NonZeroU32::new(20).unwrap();
    let server = guarded(settings);
    let mut refused = 0;
    for _ in 0..60 {
        let response = server.ask(&server.viewer, "GET", TASKS, "");
        if response.status == 429 {
            refused += 1;
            assert_problem(&response, 429, "too-many-requests");
            let wait: u64 = response.header("retry-after").unwrap().parse().unwrap();
            assert!((1..=2).contains(&wait));
        }
    }
    assert!((1..=40).contains(&refused), "{refused} of 60 were refused");
    assert_eq!(server.ask(&server.operator, "GET", TASKS, "").status, 200);
    for _ in 0..60 {
        assert_eq!(
            server.get("/health", &[]).status,
            200,
            "probes are not limited"
        );
    }
}

#[test]
fn failed_logins_are_limited_and_lock_nobody_out() {
    let mut settings = ServiceSettings::default();
    settings.limits.failed_logins = NonZeroU32::new(5).unwrap();
    let server = guarded(settings);
    let statuses: Vec<u16> = (0..20)
        .map(|index| {
            server
                .ask(&format!("mtmc_{index}"), "GET", TASKS, "")
                .status
        })
        .collect();
    assert_eq!(statuses[..5], [401; 5]);
    assert!(statuses[5..].contains(&429), "{statuses:?}");
    assert_eq!(server.ask(&server.viewer, "GET", TASKS, "").status, 200);
}

#[test]
fn large_requests_are_refused() {
    let server = guarded(ServiceSettings::default());
    let body = format!(r#"{{"name":"{}","role":"viewer"}}"#, "x".repeat(2 << 20));
    let response = server.ask(&server.admin, "POST", "/api/v1/keys", &body);
    assert_problem(&response, 413, "payload-too-large");
    // Without a length that tells it beforehand.
    let mut socket = TcpStream::connect(&server.address).unwrap();
    let head = format!(
        "POST /api/v1/keys HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Authorization: Bearer {}\r\nContent-Type: application/json\r\n\
         Transfer-Encoding: chunked\r\n\r\n",
        server.admin
    );
    socket.write_all(head.as_bytes()).unwrap();
    let chunk = format!("{:x}\r\n{}\r\n", 64 << 10, " ".repeat(64 << 10));
    for _ in 0..20 {
        let _ = socket.write_all(chunk.as_bytes());
    }
    let _ = socket.write_all(b"0\r\n\r\n");
    assert_problem(&http::read(socket), 413, "payload-too-large");
    let long = format!("{TASKS}?{}", "x".repeat(9 << 10));
    assert_problem(
        &server.ask(&server.viewer, "GET", &long, ""),
        414,
        "uri-too-long",
    );
    let large = "x".repeat(10 << 10);
    let bearer = format!("Bearer {}", server.viewer);
    let headers = [
        ("A", large.as_str()),
        ("B", &large),
        ("C", &large),
        ("D", &large),
    ];
    let headers = [&headers[..], &[("Authorization", bearer.as_str())]].concat();
    assert_problem(&server.get(TASKS, &headers), 431, "headers-too-large");
}

/// Whatever the server sends until it closes the connection.
fn rest(mut socket: TcpStream) -> String {
    socket
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let mut bytes = Vec::new();
    match socket.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) => assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "still open"),
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn slow_clients_are_given_up() {
    let mut settings = ServiceSettings::default();
    settings.limits.head_timeout = Duration::from_millis(200);
    settings.limits.request_timeout = Duration::from_millis(400);
    let server = open(settings);
    for start in [
        "",
        "P",
        "PRI * HTTP/2.0\r\n",
        "GET / HTT",
        "GET / HTTP/1.1\r\nHost: localhost\r\nA: b",
    ] {
        let mut socket = TcpStream::connect(&server.address).unwrap();
        socket.write_all(start.as_bytes()).unwrap();
        let answer = rest(socket);
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 408"),
            "{start:?}: {answer}"
        );
    }
    let mut socket = TcpStream::connect(&server.address).unwrap();
    let head = "POST /api/v1/keys HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                Content-Type: application/json\r\nContent-Length: 10\r\n\r\n{";
    socket.write_all(head.as_bytes()).unwrap();
    assert_problem(&http::read(socket), 408, "request-timeout");
    // A client that takes its time between requests, within the limit, is fine.
    assert_eq!(server.get("/health", &[]).status, 200);
}

#[test]
fn connections_are_counted() {
    let mut settings = ServiceSettings::default();
    settings.limits.max_connections = 2;
    let server = open(settings);
    let ask = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut socket = TcpStream::connect(&server.address).unwrap();
        socket.write_all(ask).unwrap();
        let mut first = [0; 12];
        socket.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        held.push(socket);
    }
    let mut third = TcpStream::connect(&server.address).unwrap();
    let _ = third.write_all(ask);
    assert_eq!(rest(third), "");
    drop(held);
    // Their places are free as soon as the server has noticed.
    for attempt in 0.. {
        let mut socket = TcpStream::connect(&server.address).unwrap();
        let _ = socket
            .write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        if rest(socket).starts_with("HTTP/1.1 200") {
            break;
        }
        assert!(attempt < 100);
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn pages_of_allowed_sites_may_use_the_service() {
    let mut settings = ServiceSettings::default();
    settings.limits.cors_origins = vec![HeaderValue::from_static("https://ui.example")];
    let server = guarded(settings);
    let preflight = |origin: &str| {
        let headers = [
            ("Origin", origin),
            ("Access-Control-Request-Method", "DELETE"),
            ("Access-Control-Request-Headers", "authorization,x-api-key"),
        ];
        http::request(&server.address, "OPTIONS", TASKS, &headers, b"")
    };
    let allowed = preflight("https://ui.example");
    assert_eq!(allowed.status, 200);
    let header = |name: &str| allowed.header(name).unwrap().to_ascii_lowercase();
    assert_eq!(header("access-control-allow-origin"), "https://ui.example");
    assert!(header("access-control-allow-methods").contains("delete"));
    assert!(header("access-control-allow-headers").contains("x-api-key"));
    assert_eq!(allowed.header("access-control-allow-credentials"), None);
    for origin in [
        "https://evil.example",
        "https://ui.example.evil.example",
        "http://ui.example",
        "null",
    ] {
        let refused = preflight(origin);
        assert_eq!(
            refused.header("access-control-allow-origin"),
            None,
            "{origin}"
        );
    }
    // Errors can be read by the page, too.
    let refused = server.get(TASKS, &[("Origin", "https://ui.example")]);
    assert_problem(&refused, 401, "unauthorized");
    assert_eq!(
        refused.header("access-control-allow-origin"),
        Some("https://ui.example")
    );
}

#[test]
fn every_answer_has_an_id_and_tells_browsers_what_not_to_do() {
    let server = guarded(ServiceSettings::default());
    for path in ["/health", TASKS, "/nowhere", "/docs/"] {
        let response = server.get(path, &[("X-Request-Id", "my-id.7")]);
        assert_eq!(response.header("x-request-id"), Some("my-id.7"), "{path}");
        assert_eq!(response.header("x-content-type-options"), Some("nosniff"));
        let policy = response.header("content-security-policy").unwrap();
        assert!(policy.contains("frame-ancestors 'none'"));
        assert_eq!(policy.contains("script-src 'self'"), path == "/docs/");
        assert_eq!(response.header("strict-transport-security"), None);
        let other = server.get(path, &[("X-Request-Id", "not an id\"")]);
        let id = other.header("x-request-id").unwrap();
        assert_eq!(id.len(), 36, "{id}");
    }
    assert_eq!(
        server.get(TASKS, &[]).header("cache-control"),
        Some("no-store")
    );
}
