//! What every request and answer has around it: an ID, headers that tell browsers what not to do, the
//! rules for pages of other sites, and an answer even where a handler panics.

use std::any::Any;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, COOKIE, RANGE,
    REFERRER_POLICY, STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};
use tower_http::sensitive_headers::SetSensitiveRequestHeadersLayer;
use uuid::Uuid;

use super::SharedApp;
use super::problem::Problem;

/// The request's ID, taken from the client or made.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Longest ID that is taken from a client.
const MAX_ID_BYTES: usize = 128;

/// How long a browser may keep what it was told about other sites, in seconds.
const CORS_AGE: std::time::Duration = std::time::Duration::from_secs(600);

/// Nothing may be loaded by, or around, what is no page.
const NO_PAGE: HeaderValue = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");

/// The pages below `/docs`: all of it from this service; styles are also written into the page.
const DOCS_PAGE: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
     img-src 'self' data:; font-src 'self' data:; connect-src 'self'; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'none'",
);

/// Puts it around all routes.
pub fn around(router: Router, app: SharedApp) -> Router {
    let secret = [AUTHORIZATION, COOKIE, API_KEY];
    router
        .layer(CatchPanicLayer::custom(panicked))
        .layer(cors(&app.settings.limits.cors_origins))
        .layer(middleware::from_fn_with_state(app, headers))
        .layer(SetSensitiveRequestHeadersLayer::new(secret))
        .layer(middleware::from_fn(identify))
}

/// Pages of these origins may use the service. No cookies are taken from anybody, so that a page can
/// do no more than its own key may.
fn cors(origins: &[HeaderValue]) -> CorsLayer {
    let every = HeaderValue::from_static("*");
    let allowed = if origins.contains(&every) {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().cloned())
    };
    let name = HeaderName::from_static;
    CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::DELETE])
        .allow_headers([
            AUTHORIZATION,
            API_KEY,
            CONTENT_TYPE,
            RANGE,
            REQUEST_ID,
            name("idempotency-key"),
            name("if-range"),
            name("prefer"),
        ])
        .expose_headers([
            REQUEST_ID,
            name("accept-ranges"),
            name("content-disposition"),
            name("content-range"),
            name("etag"),
            name("idempotency-replayed"),
            name("location"),
            name("retry-after"),
        ])
        .max_age(CORS_AGE)
}

/// Gives the request an ID if it has none that can be one, and the answer the same.
async fn identify(mut request: Request, next: Next) -> Response {
    let given = request.headers().get(REQUEST_ID).filter(|id| is_id(id));
    let id = match given {
        Some(id) => id.clone(),
        None => HeaderValue::from_str(&Uuid::now_v7().to_string())
            .unwrap_or(HeaderValue::from_static("unknown")),
    };
    request.headers_mut().insert(REQUEST_ID, id.clone());
    let mut response = next.run(request).await;
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

fn is_id(id: &HeaderValue) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    !id.is_empty() && id.len() <= MAX_ID_BYTES && id.as_bytes().iter().all(plain)
}

/// Headers of every answer.
async fn headers(State(app): State<SharedApp>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let docs = path == "/docs" || path.starts_with("/docs/");
    let file = docs || path.starts_with("/outputs/");
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let set = |headers: &mut HeaderMap, name, value: &'static str| {
        headers.insert(name, HeaderValue::from_static(value));
    };
    set(headers, X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(headers, X_FRAME_OPTIONS, "DENY");
    set(headers, REFERRER_POLICY, "no-referrer");
    let policy = if docs { DOCS_PAGE } else { NO_PAGE };
    headers.insert(CONTENT_SECURITY_POLICY, policy);
    if !file && !headers.contains_key(CACHE_CONTROL) {
        set(headers, CACHE_CONTROL, "no-store");
    }
    if app.settings.tls.is_some() {
        set(headers, STRICT_TRANSPORT_SECURITY, "max-age=31536000");
    }
    response
}

/// What is answered where a handler panicked. The panic's own words are in the log.
fn panicked(_panic: Box<dyn Any + Send>) -> Response {
    Problem::internal(&"a handler panicked").into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use tower::ServiceExt as _;

    #[tokio::test]
    async fn a_panic_is_an_answer() {
        async fn panics() -> Response {
            panic!("the secret of this test")
        }
        let router: Router = Router::new().route("/", axum::routing::get(panics));
        let router = router.layer(CatchPanicLayer::custom(panicked));
        let response = router.oneshot(Request::new(Body::empty())).await.unwrap();
        assert_eq!(response.status(), 500);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        let body = axum::body::to_bytes(response.into_body(), 4096).await;
        let text = String::from_utf8(body.unwrap().to_vec()).unwrap();
        assert!(text.contains("internal-error") && !text.contains("secret"));
    }

    #[test]
    fn ids_are_plain() {
        let id = |text: &'static str| is_id(&HeaderValue::from_static(text));
        assert!(id("0192-aB_c.9"));
        assert!(!id(""));
        assert!(!id("a b"));
        assert!(!id("a\"b"));
        assert!(is_id(&HeaderValue::from_str(&"x".repeat(128)).unwrap()));
        assert!(!is_id(&HeaderValue::from_str(&"x".repeat(129)).unwrap()));
    }
}
