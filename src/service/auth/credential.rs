//! What a request shows of itself, taken out of its headers and its address.

use axum::extract::Request;
use axum::http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use axum::http::{HeaderMap, HeaderValue, Uri};

use super::secret::Secret;

/// Where a socket's ticket stands in its address.
const TICKET_PARAMETER: &str = "token";

/// A subprotocol that is a key or token.
const BEARER_PROTOCOL: &str = "bearer.";

/// What a request shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Credential {
    /// Nothing.
    Missing,
    /// Something that cannot be one, or several.
    Malformed,
    /// A key or a token.
    Token(Secret),
    /// A ticket for a socket.
    Ticket(Secret),
}

/// Takes the credential of a request; it is not in the request any more then, so that nothing behind
/// can log it.
pub(super) fn take(request: &mut Request) -> Credential {
    let ticket = take_ticket(request);
    let socket = request.uri().path().starts_with("/ws/");
    let protocol = if socket {
        take_protocol(request.headers_mut())
    } else {
        Credential::Missing
    };
    let headers = request.headers_mut();
    let header = of_headers(headers);
    headers.remove(AUTHORIZATION);
    headers.remove("x-api-key");
    let ticket = match ticket {
        Some(ticket) if socket => Credential::Ticket(ticket),
        _ => Credential::Missing,
    };
    let mut shown = [header, protocol, ticket]
        .into_iter()
        .filter(|credential| *credential != Credential::Missing);
    match (shown.next(), shown.next()) {
        (None, _) => Credential::Missing,
        (Some(one), None) => one,
        (Some(_), Some(_)) => Credential::Malformed,
    }
}

fn of_headers(headers: &HeaderMap) -> Credential {
    let mut bearers = headers.get_all(AUTHORIZATION).iter();
    let mut keys = headers.get_all("x-api-key").iter();
    match (bearers.next(), keys.next()) {
        (None, None) => Credential::Missing,
        (Some(value), None) if bearers.next().is_none() => {
            let token = value.to_str().ok().and_then(bearer);
            token.map_or(Credential::Malformed, token_of)
        }
        (None, Some(value)) if keys.next().is_none() => {
            let token = value.to_str().ok().map(str::trim);
            token.map_or(Credential::Malformed, token_of)
        }
        _ => Credential::Malformed,
    }
}

/// What stands behind `Bearer`, whose case does not matter (RFC 9110, section 11.1).
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn token_of(text: &str) -> Credential {
    if text.is_empty() {
        return Credential::Malformed;
    }
    Credential::Token(Secret::new(text))
}

/// Takes `bearer.…` out of the subprotocols.
fn take_protocol(headers: &mut HeaderMap) -> Credential {
    let mut others: Vec<String> = Vec::new();
    let mut found = Credential::Missing;
    for value in headers.get_all(SEC_WEBSOCKET_PROTOCOL) {
        let Ok(text) = value.to_str() else {
            return Credential::Malformed;
        };
        for name in text.split(',').map(str::trim) {
            match name.strip_prefix(BEARER_PROTOCOL) {
                Some(token) if found == Credential::Missing => found = token_of(token),
                Some(_) => found = Credential::Malformed,
                None => others.push(name.to_string()),
            }
        }
    }
    if found == Credential::Missing {
        return found;
    }
    headers.remove(SEC_WEBSOCKET_PROTOCOL);
    if !others.is_empty()
        && let Ok(value) = HeaderValue::from_str(&others.join(", "))
    {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, value);
    }
    found
}

/// Takes `token=…` out of the address.
fn take_ticket(request: &mut Request) -> Option<Secret> {
    let query = request.uri().query()?;
    let mut ticket = None;
    let mut others: Vec<&str> = Vec::new();
    for part in query.split('&') {
        match part.split_once('=') {
            Some((TICKET_PARAMETER, value)) => ticket = Some(Secret::new(value)),
            _ => others.push(part),
        }
    }
    ticket.as_ref()?;
    let path = request.uri().path();
    let rest = if others.is_empty() {
        path.to_string()
    } else {
        format!("{path}?{}", others.join("&"))
    };
    let mut parts = request.uri().clone().into_parts();
    parts.path_and_query = rest.parse().ok();
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    ticket
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    fn request(uri: &str, headers: &[(&str, &str)]) -> Request {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(Body::empty()).unwrap()
    }

    fn token(text: &str) -> Credential {
        Credential::Token(Secret::new(text))
    }

    #[test]
    fn credentials_are_found_in_their_places() {
        let cases = [
            (vec![], Credential::Missing),
            (vec![("authorization", "Bearer abc")], token("abc")),
            (vec![("authorization", "bearer  abc ")], token("abc")),
            (vec![("x-api-key", "abc")], token("abc")),
            (vec![("authorization", "Basic abc")], Credential::Malformed),
            (vec![("authorization", "Bearer")], Credential::Malformed),
            (vec![("authorization", "Bearer ")], Credential::Malformed),
            (vec![("x-api-key", "")], Credential::Malformed),
            (
                vec![("x-api-key", "a"), ("x-api-key", "b")],
                Credential::Malformed,
            ),
            (
                vec![("x-api-key", "a"), ("authorization", "Bearer a")],
                Credential::Malformed,
            ),
            // Subprotocols and tickets are for sockets alone.
            (
                vec![("sec-websocket-protocol", "bearer.abc")],
                Credential::Missing,
            ),
        ];
        for (headers, expected) in cases {
            let mut request = request("/api?token=t&x=1", &headers);
            assert_eq!(take(&mut request), expected, "{headers:?}");
            assert_eq!(request.uri(), "/api?x=1");
            assert!(request.headers().get("authorization").is_none());
            assert!(request.headers().get("x-api-key").is_none());
        }
    }

    #[test]
    fn sockets_have_tickets_and_subprotocols() {
        let mut first = request("/ws/x?images=none&token=t", &[]);
        assert_eq!(take(&mut first), Credential::Ticket(Secret::new("t")));
        assert_eq!(first.uri(), "/ws/x?images=none");
        let mut second = request("/ws/x?token=t", &[]);
        take(&mut second);
        assert_eq!(second.uri(), "/ws/x");
        let name = "sec-websocket-protocol";
        let mut third = request("/ws/x", &[(name, "mtmc.json.v1, bearer.a.b-c")]);
        assert_eq!(take(&mut third), token("a.b-c"));
        assert_eq!(third.headers()[name], "mtmc.json.v1");
        let mut fourth = request("/ws/x", &[(name, "bearer.a"), (name, "bearer.b")]);
        assert_eq!(take(&mut fourth), Credential::Malformed);
        assert!(fourth.headers().get(name).is_none());
        let mut fifth = request("/ws/x?token=t", &[("x-api-key", "a")]);
        assert_eq!(take(&mut fifth), Credential::Malformed);
    }
}
