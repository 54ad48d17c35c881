//! Bounds of what callers may ask for: how often, how much, how long, how many at once.
//!
//! Rates follow the generic cell rate algorithm: a burst, then a steady rate. Whoever is over gets 429
//! with `Retry-After`. No table grows without bound: beyond [`MAX_REMEMBERED`] callers, those who are
//! new share one rate.

use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use tokio::sync::Semaphore;
use tower_http::timeout::TimeoutBody;

use super::SharedApp;
use super::auth::access::{Access, OpenRoutes, needed};
use super::problem::Problem;

/// Most callers, and most addresses, whose rates are remembered.
pub const MAX_REMEMBERED: usize = 10_000;

/// Longest address of a request in bytes.
const MAX_URI_BYTES: usize = 8 << 10;

/// Most bytes of headers that are taken.
const MAX_HEADER_BYTES: usize = 32 << 10;

/// What callers may ask for.
#[derive(Debug, Clone)]
pub struct LimitSettings {
    /// Requests a second of one caller, or of one address where callers are not known; `None` for no
    /// limit. Default 100.
    pub rate: Option<NonZeroU32>,
    /// Requests of one caller that may come at once. Default 200.
    pub burst: NonZeroU32,
    /// Failed attempts to log in of one address, a minute. Default 20.
    pub failed_logins: NonZeroU32,
    /// Most requests that are worked on at once. Default 256.
    pub max_requests: usize,
    /// Most connections at once, sockets included. Default 1,024.
    pub max_connections: usize,
    /// Largest body of a request that is no upload, in bytes. Default 1 MiB.
    pub max_body: usize,
    /// How long the head of a request may take to come. Default 15 s.
    pub head_timeout: Duration,
    /// How long a request that is no upload may take, its body included. Default 30 s.
    pub request_timeout: Duration,
    /// How long an upload may pause. Default 30 s.
    pub upload_pause: Duration,
    /// Origins whose pages may use the service, such as `https://ui.example`, or `*`. Default none.
    pub cors_origins: Vec<HeaderValue>,
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self {
            rate: NonZeroU32::new(100),
            burst: NonZeroU32::MIN.saturating_add(199),
            failed_logins: NonZeroU32::MIN.saturating_add(19),
            max_requests: 256,
            max_connections: 1024,
            max_body: 1 << 20,
            head_timeout: Duration::from_secs(15),
            request_timeout: Duration::from_secs(30),
            upload_pause: Duration::from_secs(30),
            cors_origins: Vec::new(),
        }
    }
}

/// A rate for each of many.
struct Rates<K: Hash + Eq + Clone> {
    limiter: DefaultKeyedRateLimiter<Option<K>>,
    clock: DefaultClock,
}

impl<K: Hash + Eq + Clone> Rates<K> {
    fn new(quota: Quota) -> Self {
        Self {
            limiter: RateLimiter::keyed(quota),
            clock: DefaultClock::default(),
        }
    }

    /// Counts one; the time to wait if that is too many.
    fn count(&self, key: K) -> Result<(), Duration> {
        // `None` is the place that all share who find no place of their own.
        let mut place = Some(key);
        if self.limiter.len() >= MAX_REMEMBERED {
            self.limiter.retain_recent();
            if self.limiter.len() >= MAX_REMEMBERED {
                place = None;
            }
        }
        let now = |until: governor::NotUntil<_>| until.wait_time_from(self.clock.now());
        self.limiter.check_key(&place).map_err(now)
    }
}

/// Counts what callers ask for.
pub struct Limits {
    callers: Option<Rates<String>>,
    addresses: Option<Rates<IpAddr>>,
    failed_logins: Rates<IpAddr>,
    requests: Arc<Semaphore>,
    /// Permits of connections.
    pub(super) connections: Arc<Semaphore>,
}

impl Limits {
    /// By the settings.
    pub fn new(settings: &LimitSettings) -> Self {
        let quota = |rate| Quota::per_second(rate).allow_burst(settings.burst);
        let failed = Quota::per_minute(settings.failed_logins);
        let permits = |most: usize| Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
        Self {
            callers: settings.rate.map(|rate| Rates::new(quota(rate))),
            addresses: settings.rate.map(|rate| Rates::new(quota(rate))),
            failed_logins: Rates::new(failed),
            requests: permits(settings.max_requests),
            connections: permits(settings.max_connections),
        }
    }

    /// Counts a request of somebody who is known.
    ///
    /// # Errors
    /// Too many.
    pub fn check_caller(&self, id: &str) -> Result<(), Problem> {
        let Some(rates) = &self.callers else {
            return Ok(());
        };
        rates.count(id.to_string()).map_err(too_many)
    }

    /// Counts a request of somebody who is not known.
    ///
    /// # Errors
    /// Too many.
    pub fn check_address(&self, address: IpAddr) -> Result<(), Problem> {
        let Some(rates) = &self.addresses else {
            return Ok(());
        };
        rates.count(network(address)).map_err(too_many)
    }

    /// Counts a failed attempt to log in.
    ///
    /// # Errors
    /// Too many.
    pub fn check_failed_login(&self, address: IpAddr) -> Result<(), Problem> {
        self.failed_logins.count(network(address)).map_err(too_many)
    }
}

fn too_many(wait: Duration) -> Problem {
    let status = StatusCode::TOO_MANY_REQUESTS;
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    let detail = format!("too many requests: try again in {seconds} s");
    Problem::new(status, "too-many-requests", detail).retry_after(seconds)
}

/// Whose address it is: with IPv6, one household has a whole /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let bits = address.to_bits() & (u128::MAX << 64);
            IpAddr::V6(Ipv6Addr::from_bits(bits))
        }
    }
}

/// Whether a route takes large bodies, which it bounds itself.
fn is_upload(method: &Method, path: &str) -> bool {
    let paths = ["/api/inference/video", "/api/v1/people/search"];
    *method == Method::POST && paths.contains(&path)
}

/// Bounds size, time and number of the requests behind.
pub async fn bound(State(app): State<SharedApp>, request: Request, next: Next) -> Response {
    let settings = &app.settings.limits;
    if let Err(problem) = check_head(&request, settings) {
        return problem.into_response();
    }
    let (method, path) = (request.method(), request.uri().path());
    if needed(method, path, OpenRoutes::default()) == Access::Health {
        return next.run(request).await;
    }
    let upload = is_upload(method, path);
    let Ok(permit) = app.limits.requests.clone().try_acquire_owned() else {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let detail = "the service works on too many requests already";
        return Problem::new(status, "overloaded", detail)
            .retry_after(1)
            .into_response();
    };
    let response = if upload {
        let pause = settings.upload_pause;
        let bounded = request.map(|body| Body::new(TimeoutBody::new(pause, body)));
        next.run(bounded).await
    } else {
        let has_body = has_body(request.headers());
        let answer = tokio::time::timeout(settings.request_timeout, next.run(request)).await;
        answer.unwrap_or_else(|_| too_late(has_body).into_response())
    };
    drop(permit);
    response
}

fn check_head(request: &Request, settings: &LimitSettings) -> Result<(), Problem> {
    let uri = request.uri();
    let length = uri
        .path_and_query()
        .map_or(0, |address| address.as_str().len());
    if length > MAX_URI_BYTES {
        let detail = format!("the address has {length} bytes; {MAX_URI_BYTES} are taken");
        return Err(Problem::new(
            StatusCode::URI_TOO_LONG,
            "uri-too-long",
            detail,
        ));
    }
    let headers = request.headers();
    let size =
        |(name, value): (&axum::http::HeaderName, &HeaderValue)| name.as_str().len() + value.len();
    let total: usize = headers.iter().map(size).sum();
    if total > MAX_HEADER_BYTES {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        let detail = format!("the headers have {total} bytes; {MAX_HEADER_BYTES} are taken");
        return Err(Problem::new(status, "headers-too-large", detail));
    }
    let length = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok());
    let length: Option<u64> = length.and_then(|text| text.parse().ok());
    let most = settings.max_body as u64;
    if length.is_some_and(|length| length > most) && !is_upload(request.method(), uri.path()) {
        let detail = format!("the body may have {most} bytes at most");
        return Err(Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "payload-too-large",
            detail,
        ));
    }
    Ok(())
}

fn has_body(headers: &HeaderMap) -> bool {
    headers.contains_key(TRANSFER_ENCODING)
        || headers
            .get(CONTENT_LENGTH)
            .is_some_and(|length| length != "0")
}

fn too_late(has_body: bool) -> Problem {
    if has_body {
        let detail = "the request took too long to come or to be done";
        return Problem::new(StatusCode::REQUEST_TIMEOUT, "request-timeout", detail);
    }
    let detail = "the service took too long for this";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "timeout", detail).retry_after(5)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(value: u32) -> NonZeroU32 {
        NonZeroU32::new(value).unwrap()
    }

    #[test]
    fn rates_are_each_callers_own() {
        let limits = Limits::new(&LimitSettings {
            // One a second is as good as none for as long as this test runs.
            rate: Some(number(1)),
            burst: number(3),
            failed_logins: number(2),
            ..LimitSettings::default()
        });
        for _ in 0..3 {
            limits.check_caller("a").unwrap();
        }
        let refused = limits.check_caller("a").unwrap_err();
        assert_eq!((refused.status, refused.retry_after), (429, Some(1)));
        limits.check_caller("b").unwrap();
        let address: IpAddr = "10.0.0.1".parse().unwrap();
        for _ in 0..2 {
            limits.check_failed_login(address).unwrap();
        }
        let refused = limits.check_failed_login(address).unwrap_err();
        // Two a minute: one every 30 s.
        assert!((29..=30).contains(&refused.retry_after.unwrap()));
        limits.check_address(address).unwrap();
        limits
            .check_failed_login("10.0.0.2".parse().unwrap())
            .unwrap();
    }

    #[test]
    fn no_rate_is_no_limit() {
        let limits = Limits::new(&LimitSettings {
            rate: None,
            ..LimitSettings::default()
        });
        for _ in 0..10_000 {
            limits.check_caller("a").unwrap();
        }
    }

    #[test]
    fn a_household_of_ipv6_is_one() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2:3::4"), of("2001:db8:1:2:ffff::1"));
        assert_ne!(of("2001:db8:1:2::"), of("2001:db8:1:3::"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    }

    #[test]
    fn strangers_without_number_do_not_fill_memory() {
        let quota = Quota::per_hour(number(100)).allow_burst(number(100));
        let rates = Rates::new(quota);
        let mut refused = 0;
        for index in 0..MAX_REMEMBERED as u32 + 1_000 {
            let address = IpAddr::V4((0x0a00_0000 + index).into());
            refused += u32::from(rates.count(address).is_err());
        }
        assert!(rates.limiter.len() <= MAX_REMEMBERED + 1);
        // All who came too late share one burst of 100.
        assert_eq!(refused, 900);
    }
}
