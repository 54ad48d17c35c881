//! `Idempotency-Key`: a request that is sent again is not done again.
//!
//! The first request with a key is done, and its answer is kept for a day; a further one with the
//! same key and the same content gets that answer, one with other content is refused, and so is one
//! that comes while the first is being done. Keys belong to their caller and operation. Answers that
//! say "not now" (408, 429, 5xx) are not kept: trying again is what they ask for.
//! Follows draft-ietf-httpapi-idempotency-key-header.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use axum::body::{Body, to_bytes};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::problem::Problem;
use crate::store::{IdempotencyRecord, Store};

/// How long answers are kept.
pub const KEPT_FOR: Duration = Duration::from_secs(24 * 3600);

/// Most answers that are kept; the oldest go first.
pub const MAX_KEPT: usize = 10_000;

/// Longest key in bytes.
const MAX_KEY_BYTES: usize = 255;

/// Largest answer that is kept.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// The header's name.
pub const HEADER: &str = "idempotency-key";

/// Tells a repeated answer from a first one.
pub const REPLAYED: &str = "idempotency-replayed";

/// Who sends a request, as the one who checked it found: put into the request's extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallerId(pub String);

/// An answer that is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its `Location`.
    pub location: Option<String>,
    /// Its `Content-Type`.
    pub content_type: Option<String>,
    /// Its body.
    pub body: String,
}

impl Answer {
    /// Keeps a response, and gives it back as it was; `None` for one that is not to be kept.
    async fn of(response: Response) -> (Option<Self>, Response) {
        if !is_kept(response.status()) {
            return (None, response);
        }
        let (parts, body) = response.into_parts();
        let bytes = match to_bytes(body, MAX_ANSWER_BYTES).await {
            Ok(bytes) => bytes,
            Err(error) => return (None, Problem::internal(&error).into_response()),
        };
        let text = |name| {
            let value = parts.headers.get(name)?;
            Some(value.to_str().ok()?.to_string())
        };
        let answer = Self {
            status: parts.status.as_u16(),
            location: text(header::LOCATION),
            content_type: text(header::CONTENT_TYPE),
            body: String::from_utf8_lossy(&bytes).into_owned(),
        };
        let response = Response::from_parts(parts, Body::from(bytes));
        (Some(answer), response)
    }

    /// The answer once more.
    pub fn replay(&self) -> Response {
        let mut response = self.response();
        let headers = response.headers_mut();
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
        response
    }

    /// The answer.
    pub fn response(&self) -> Response {
        let mut response = Response::new(Body::from(self.body.clone()));
        *response.status_mut() =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        let known = [
            (header::LOCATION, &self.location),
            (header::CONTENT_TYPE, &self.content_type),
        ];
        for (name, value) in known {
            let value = value.as_ref().and_then(|v| HeaderValue::from_str(v).ok());
            if let Some(value) = value {
                headers.insert(name, value);
            }
        }
        response
    }
}

/// Whether trying again would give the same answer.
fn is_kept(status: StatusCode) -> bool {
    let later = [
        StatusCode::REQUEST_TIMEOUT,
        StatusCode::CONFLICT,
        StatusCode::TOO_EARLY,
        StatusCode::TOO_MANY_REQUESTS,
    ];
    !status.is_server_error() && !later.contains(&status)
}

/// Whose key it is, of which operation, and the key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// Caller and operation.
    pub scope: String,
    /// What the client sent.
    pub key: String,
}

impl Key {
    /// The key of a request for an operation such as `start/detection`, if it has one.
    ///
    /// # Errors
    /// It is sent twice, empty, too long, or not of visible ASCII characters.
    pub fn of(
        headers: &HeaderMap,
        caller: Option<&CallerId>,
        operation: &str,
    ) -> Result<Option<Self>, Problem> {
        let wrong = |what: &str| {
            let detail = format!("Idempotency-Key: {what}");
            Problem::new(StatusCode::BAD_REQUEST, "invalid-request", detail)
        };
        let mut values = headers.get_all(HEADER).iter();
        let Some(value) = values.next() else {
            return Ok(None);
        };
        if values.next().is_some() {
            return Err(wrong("must be sent once"));
        }
        let text = value.to_str().unwrap_or_default();
        // As the draft writes it, a string in quotes; most clients leave them out.
        let bare = text.strip_prefix('"').and_then(|t| t.strip_suffix('"'));
        let key = bare.unwrap_or(text);
        let visible = key.bytes().all(|byte| byte.is_ascii_graphic());
        if key.is_empty() || key.len() > MAX_KEY_BYTES || !visible {
            return Err(wrong("must be 1 to 255 visible ASCII characters"));
        }
        let caller = caller.map_or("", |caller| caller.0.as_str());
        Ok(Some(Self {
            scope: format!("{operation} {caller}"),
            key: key.to_string(),
        }))
    }

    /// The same from a request's head.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub fn of_parts(parts: &Parts, operation: &str) -> Result<Option<Self>, Problem> {
        Self::of(&parts.headers, parts.extensions.get(), operation)
    }
}

/// Hash of what a request asks for; parts are kept apart.
pub fn request_hash(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hex(&hash.finalize())
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A request that is done once, for work that stores its answer together with what it did, so that
/// no crash comes between.
#[derive(Debug, Clone)]
pub struct Once {
    key: Key,
    request: String,
}

impl Once {
    /// What is to be stored.
    pub fn record(&self, answer: &Answer) -> IdempotencyRecord {
        IdempotencyRecord {
            scope: self.key.scope.clone(),
            key: self.key.key.clone(),
            request_hash: self.request.clone(),
            status: answer.status,
            // None of its fields can fail.
            response: serde_json::to_string(answer).unwrap_or_default(),
            created_ms: Timestamp::now().as_millisecond(),
        }
    }
}

/// Tells in a response's extensions that its answer is in the store.
#[derive(Debug, Clone, Copy)]
pub struct Stored;

#[derive(Debug)]
enum Entry {
    /// Being done.
    Running,
    /// Done.
    Done {
        request: String,
        answer: Answer,
        since: Instant,
    },
}

/// All keys: those of this process, and with a [`Store`] those of earlier ones.
#[derive(Clone, Default)]
pub struct Idempotency {
    entries: Arc<Mutex<HashMap<Key, Entry>>>,
    store: Arc<OnceLock<Store>>,
}

impl std::fmt::Debug for Idempotency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Idempotency").finish_non_exhaustive()
    }
}

/// What a key stands for.
#[derive(Debug)]
pub enum Claim {
    /// Nothing yet: the request is to be done.
    Fresh(Pending),
    /// A request that was done.
    Known(Known),
}

/// A request that was done.
#[derive(Debug, Clone)]
pub struct Known {
    request: String,
    answer: Answer,
}

impl Known {
    /// As the store has it; `None` where this program cannot read it.
    pub fn stored(record: IdempotencyRecord) -> Option<Self> {
        let answer = serde_json::from_str(&record.response).ok()?;
        Some(Self {
            request: record.request_hash,
            answer,
        })
    }

    /// The answer, if this request is the one that was done.
    ///
    /// # Errors
    /// It is another one.
    pub fn answer(&self, request: &str) -> Result<Response, Problem> {
        if self.request == request {
            return Ok(self.answer.replay());
        }
        Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency-key-reused",
            "this Idempotency-Key was used for another request: take a new one",
        ))
    }
}

/// A key whose request is being done. Dropped, it is free again.
#[derive(Debug)]
pub struct Pending {
    owner: Idempotency,
    key: Key,
    settled: bool,
}

impl Pending {
    /// The key.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Keeps the response to the request of that hash, unless it says "not now", and gives it back.
    pub async fn settle(mut self, request: &str, response: Response) -> Response {
        let stored = response.extensions().get::<Stored>().is_some();
        let (answer, response) = Answer::of(response).await;
        if let Some(answer) = answer {
            if !stored {
                self.owner.write(&self.key, request, &answer).await;
            }
            self.settled = true;
            self.owner.keep(self.key.clone(), request, answer);
        }
        response
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.settled {
            self.owner.entries().remove(&self.key);
        }
    }
}

impl Idempotency {
    /// From now on keeps answers in the store too, where they outlive the service. Only the first
    /// store counts.
    pub fn attach(&self, store: Store) {
        let _ = self.store.set(store);
    }

    /// Looks a key up, and takes it if it is free.
    ///
    /// # Errors
    /// The key's first request is still being done, or the store cannot tell whether it was.
    pub async fn claim(&self, key: Key) -> Result<Claim, Problem> {
        let mut pending = match self.claim_here(key)? {
            Claim::Fresh(pending) => pending,
            known => return Ok(known),
        };
        let Some(known) = self.read(&pending.key).await? else {
            return Ok(Claim::Fresh(pending));
        };
        pending.settled = true;
        let key = pending.key.clone();
        self.keep(key, &known.request, known.answer.clone());
        Ok(Claim::Known(known))
    }

    /// What the store knows of a key.
    async fn read(&self, key: &Key) -> Result<Option<Known>, Problem> {
        let Some(store) = self.store.get() else {
            return Ok(None);
        };
        let record = store.idempotent(&key.scope, &key.key).await;
        let record = record.map_err(|error| {
            tracing::warn!(%error, "cannot look up an Idempotency-Key");
            let detail = "the store cannot tell whether this was done: try again";
            let status = StatusCode::SERVICE_UNAVAILABLE;
            Problem::new(status, "store-unavailable", detail).retry_after(10)
        })?;
        let kept_for = KEPT_FOR.as_millis() as i64;
        let since = Timestamp::now().as_millisecond() - kept_for;
        let Some(record) = record.filter(|record| record.created_ms > since) else {
            return Ok(None);
        };
        Ok(Known::stored(record))
    }

    /// Notes an answer in the store, if there is one; a store that fails costs the answer's life
    /// after a restart, not the answer.
    async fn write(&self, key: &Key, request: &str, answer: &Answer) {
        let Some(store) = self.store.get() else {
            return;
        };
        let once = Once {
            key: key.clone(),
            request: request.to_string(),
        };
        if let Err(error) = store.put_idempotent(&once.record(answer)).await {
            tracing::warn!(%error, "cannot keep the answer of an Idempotency-Key");
        }
    }

    fn claim_here(&self, key: Key) -> Result<Claim, Problem> {
        let mut entries = self.entries();
        match entries.get(&key) {
            Some(Entry::Running) => {
                let detail = "the first request with this Idempotency-Key is still being done";
                return Err(Problem::conflict("request-in-progress", detail).retry_after(5));
            }
            Some(Entry::Done {
                request,
                answer,
                since,
            }) if since.elapsed() < KEPT_FOR => {
                return Ok(Claim::Known(Known {
                    request: request.clone(),
                    answer: answer.clone(),
                }));
            }
            Some(Entry::Done { .. }) | None => {}
        }
        entries.insert(key.clone(), Entry::Running);
        Ok(Claim::Fresh(Pending {
            owner: self.clone(),
            key,
            settled: false,
        }))
    }

    /// Does `work` unless a request with that key and hash was done; whoever asked may go away in
    /// between. Work that stores its answer by itself gets what it needs for that, and gives the
    /// response [`Stored`] along.
    ///
    /// # Errors
    /// Those of the work, and of [`claim`](Self::claim).
    pub async fn once<W>(
        &self,
        key: Option<Key>,
        request: &str,
        work: impl FnOnce(Option<Once>) -> W,
    ) -> Result<Response, Problem>
    where
        W: Future<Output = Result<Response, Problem>> + Send + 'static,
    {
        let Some(key) = key else {
            // Half done would be worse than undone: a task that is stored, but that nobody runs.
            let done = tokio::spawn(work(None)).await;
            return done.map_err(|error| Problem::internal(&error))?;
        };
        let once = Once {
            key: key.clone(),
            request: request.to_string(),
        };
        let pending = match self.claim(key).await? {
            Claim::Known(known) => return known.answer(request),
            Claim::Fresh(pending) => pending,
        };
        let request = request.to_string();
        let work = work(Some(once));
        let done = tokio::spawn(async move {
            let response = work.await.into_response();
            pending.settle(&request, response).await
        });
        done.await.map_err(|error| Problem::internal(&error))
    }

    fn keep(&self, key: Key, request: &str, answer: Answer) {
        let mut entries = self.entries();
        if entries.len() >= MAX_KEPT {
            make_room(&mut entries);
        }
        let entry = Entry::Done {
            request: request.to_string(),
            answer,
            since: Instant::now(),
        };
        entries.insert(key, entry);
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Key, Entry>> {
        // Every change is whole, whatever panicked after it.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Drops what is too old, and a tenth of the rest, oldest first, if that is nothing.
fn make_room(entries: &mut HashMap<Key, Entry>) {
    let mut ages: Vec<Instant> = Vec::new();
    for entry in entries.values() {
        if let Entry::Done { since, .. } = entry {
            ages.push(*since);
        }
    }
    ages.sort();
    let Some(limit) = ages.get(ages.len() / 10).copied() else {
        return;
    };
    entries.retain(|_, entry| match entry {
        Entry::Running => true,
        Entry::Done { since, .. } => *since > limit && since.elapsed() < KEPT_FOR,
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreSettings;

    fn key(name: &str) -> Key {
        Key {
            scope: "start/detection ".to_string(),
            key: name.to_string(),
        }
    }

    fn created() -> Response {
        (
            StatusCode::ACCEPTED,
            [(header::LOCATION, "/there")],
            "{\"a\":1}",
        )
            .into_response()
    }

    async fn body(response: Response) -> (StatusCode, String) {
        let status = response.status();
        let bytes = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[test]
    fn keys_are_checked_and_belong_to_a_caller() {
        let of = |value: &str, caller: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(HEADER, HeaderValue::from_str(value).unwrap());
            let caller = caller.map(|id| CallerId(id.to_string()));
            Key::of(&headers, caller.as_ref(), "start")
        };
        assert_eq!(of("\"abc\"", None), of("abc", None));
        assert_ne!(of("abc", None).unwrap(), of("abc", Some("x")).unwrap());
        assert!(of("", None).is_err());
        assert!(of("a b", None).is_err());
        assert!(of(&"x".repeat(256), None).is_err());
        assert!(of(&"x".repeat(255), None).is_ok());
        assert_eq!(Key::of(&HeaderMap::new(), None, "start"), Ok(None));
        assert_ne!(request_hash(&[b"ab", b"c"]), request_hash(&[b"a", b"bc"]));
    }

    #[tokio::test]
    async fn a_request_is_done_once() {
        let keys = Idempotency::default();
        let first = keys.once(Some(key("k")), "h", |_| async { Ok(created()) });
        assert_eq!(first.await.unwrap().headers().get(REPLAYED), None);
        let again = keys.once(Some(key("k")), "h", |_| async { panic!("done twice") });
        let again = again.await.unwrap();
        assert_eq!(again.headers()[REPLAYED], "true");
        assert_eq!(again.headers()[header::LOCATION], "/there");
        let expected = (StatusCode::ACCEPTED, "{\"a\":1}".to_string());
        assert_eq!(body(again).await, expected);
        let other = keys.once(Some(key("k")), "other", |_| async { Ok(created()) });
        assert_eq!(other.await.unwrap_err().status, 422);
        let elsewhere = Key {
            scope: "start/raw ".to_string(),
            ..key("k")
        };
        let elsewhere = keys.once(Some(elsewhere), "other", |_| async { Ok(created()) });
        assert!(elsewhere.await.is_ok());
    }

    #[tokio::test]
    async fn a_request_being_done_is_not_begun_again_and_one_given_up_is_forgotten() {
        let keys = Idempotency::default();
        let Ok(Claim::Fresh(pending)) = keys.claim(key("k")).await else {
            panic!("the key is new");
        };
        assert_eq!(keys.claim(key("k")).await.unwrap_err().status, 409);
        drop(pending);
        assert!(matches!(keys.claim(key("k")).await, Ok(Claim::Fresh(_))));
    }

    #[tokio::test]
    async fn not_now_is_not_kept_but_never_is() {
        let keys = Idempotency::default();
        let refused = |status| move |_| async move { Err(Problem::new(status, "x", "")) };
        for status in [
            StatusCode::TOO_MANY_REQUESTS,
            StatusCode::INSUFFICIENT_STORAGE,
        ] {
            let response = keys.once(Some(key("k")), "h", refused(status)).await;
            assert_eq!(response.unwrap().status(), status);
        }
        let response = keys.once(Some(key("k")), "h", refused(StatusCode::NOT_FOUND));
        assert_eq!(response.await.unwrap().status(), StatusCode::NOT_FOUND);
        let again = keys.once(Some(key("k")), "h", |_| async { Ok(created()) });
        assert_eq!(again.await.unwrap().status(), StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn answers_outlive_the_service_in_the_store() {
        let folder = tempfile::tempdir().unwrap();
        let keys = || async {
            let settings =
                StoreSettings::new(format!("sqlite://{}/keys.db", folder.path().display()));
            let keys = Idempotency::default();
            keys.attach(Store::open(settings).await.unwrap());
            keys
        };
        let first = keys().await;
        let done = first.once(Some(key("k")), "h", |_| async { Ok(created()) });
        let expected = body(done.await.unwrap()).await;
        drop(first);
        let later = keys().await;
        let again = later.once(Some(key("k")), "h", |_| async { panic!("done twice") });
        assert_eq!(body(again.await.unwrap()).await, expected);
        let other = later.once(Some(key("k")), "other", |_| async { Ok(created()) });
        assert_eq!(other.await.unwrap_err().status, 422);
    }

    #[test]
    fn the_number_of_answers_is_bounded() {
        let keys = Idempotency::default();
        let answer = Answer {
            status: 200,
            location: None,
            content_type: None,
            body: String::new(),
        };
        for number in 0..MAX_KEPT + 100 {
            keys.keep(key(&number.to_string()), "h", answer.clone());
        }
        let entries = keys.entries();
        assert!(entries.len() <= MAX_KEPT);
        assert!(entries.contains_key(&key(&(MAX_KEPT + 99).to_string())));
        assert!(!entries.contains_key(&key("0")));
    }
}
