//! Keeps other sites' pages out while no key is asked for.
//!
//! A service that only this machine reaches still has one way in from outside: the browser of whoever
//! sits there. A page may send simple requests and open sockets anywhere, and a name of its own may
//! come to point at this machine (DNS rebinding). So the address that was called must be this
//! machine's, and requests that change something, or listen, must not come from another site.

use std::net::IpAddr;

use axum::extract::Request;
use axum::http::header::{HOST, ORIGIN};
use axum::http::{HeaderValue, Method, StatusCode};

use crate::service::problem::Problem;

/// Whether the request may come from where it comes from.
///
/// # Errors
/// It comes from another site's page, or calls this machine by a name that is not its own.
pub(super) fn check(request: &Request, allowed: &[HeaderValue]) -> Result<(), Problem> {
    let headers = request.headers();
    let host = match headers.get(HOST) {
        Some(host) => host.to_str().unwrap_or_default(),
        // HTTP/2 has it in the address.
        None => request.uri().authority().map_or("", |found| found.as_str()),
    };
    if !is_own_name(host) {
        let detail = "without keys, the service answers to localhost and loopback addresses alone; \
                      make a key with `mtmc keys create` to use another name";
        return Err(Problem::new(StatusCode::FORBIDDEN, "unknown-host", detail));
    }
    let Some(origin) = headers.get(ORIGIN) else {
        return Ok(());
    };
    let reads = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS
    );
    let listens = request.uri().path().starts_with("/ws/");
    if reads && !listens {
        return Ok(());
    }
    let every = HeaderValue::from_static("*");
    let own = origin
        .to_str()
        .ok()
        .and_then(|origin| origin.split_once("://"))
        .is_some_and(|(_, name)| name.eq_ignore_ascii_case(host));
    if own || allowed.contains(origin) || allowed.contains(&every) {
        return Ok(());
    }
    let detail = "pages of other sites may not do this: allow theirs with --cors-origin";
    Err(Problem::new(
        StatusCode::FORBIDDEN,
        "origin-not-allowed",
        detail,
    ))
}

/// Whether a host, with or without a port, is this machine.
fn is_own_name(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    // Names without a dot are of this network; nobody outside can make them point here.
    if !name.is_empty() && !name.contains(['.', ':']) {
        return true;
    }
    name.parse::<IpAddr>()
        .is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    #[test]
    fn names_of_this_machine_are_known() {
        for host in [
            "localhost",
            "camera-pc:80",
            "LOCALHOST:8000",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]:8000",
            "[::1]",
        ] {
            assert!(is_own_name(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "10.0.0.1",
            "0.0.0.0",
            "::1",
        ] {
            assert!(!is_own_name(host), "{host}");
        }
    }

    #[test]
    fn other_sites_may_neither_change_nor_listen() {
        let ask = |method: &str, path: &str, host: &str, origin: &str| {
            let request = Request::builder()
                .method(method)
                .uri(path)
                .header(HOST, host);
            let request = match origin {
                "" => request,
                origin => request.header(ORIGIN, origin),
            };
            let allowed = [HeaderValue::from_static("https://ui.example")];
            check(&request.body(Body::empty()).unwrap(), &allowed).is_ok()
        };
        let own = "localhost:8000";
        assert!(ask("POST", "/api", own, ""));
        assert!(ask("POST", "/api", own, "http://localhost:8000"));
        assert!(ask("POST", "/api", own, "https://ui.example"));
        assert!(ask("GET", "/api", own, "https://evil.example"));
        assert!(!ask("POST", "/api", own, "https://evil.example"));
        assert!(!ask("POST", "/api", own, "null"));
        assert!(!ask("POST", "/api", own, "http://localhost:9000"));
        assert!(!ask("GET", "/ws/x", own, "https://evil.example"));
        assert!(!ask("GET", "/api", "evil.example:8000", ""));
    }
}
