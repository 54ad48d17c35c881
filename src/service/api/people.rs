//! People: who was seen, where they went, who looks like a picture, and how they are erased.

use axum::Json;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::service::SharedApp;
use crate::service::people::{erase, picture, search};
use crate::service::problem::{PathPart, Problem, QueryOf};
use crate::store::{Erased, JourneyBounds, PeopleFilter, PersonRecord, PersonSummary};

/// Most points of a way that one answer holds.
const MAX_POINTS: usize = 10_000;

/// Longest gap of a stay in seconds: a day.
const MAX_GAP: f64 = 86_400.0;

/// Routes of this area.
pub fn routes() -> OpenApiRouter<SharedApp> {
    // Pictures have a bound of their own.
    let search = OpenApiRouter::new()
        .routes(routes!(search_people))
        .layer(DefaultBodyLimit::disable());
    OpenApiRouter::new()
        .merge(search)
        .routes(routes!(people))
        .routes(routes!(person, erase_person))
        .routes(routes!(journey))
        .routes(routes!(crop))
}

/// A moment of the store; `None` where nothing is known.
pub(super) fn moment(ms: i64) -> Option<Timestamp> {
    Timestamp::from_millisecond(ms).ok()
}

/// A person, without vector and picture.
#[derive(Debug, Serialize, ToSchema)]
struct PersonEntry {
    /// The identity.
    #[schema(example = 10_000_017)]
    global_id: i64,
    /// The environment in which it was seen.
    environment_id: String,
    /// The task that saw it.
    task_id: Uuid,
    /// First seen; `null` while that is not stored yet.
    #[schema(value_type = Option<String>, format = DateTime)]
    first_seen: Option<Timestamp>,
    /// Last seen.
    #[schema(value_type = Option<String>, format = DateTime)]
    last_seen: Option<Timestamp>,
    /// Camera that saw it first.
    first_camera: String,
    /// Camera that saw it last.
    last_camera: String,
    /// The network of its vector; `null`: there is none, and search does not find it.
    feature_model: Option<String>,
    /// Whether there is a picture of it.
    has_crop: bool,
    /// The identity that it turned out to be.
    merged_into: Option<i64>,
}

impl From<PersonSummary> for PersonEntry {
    fn from(person: PersonSummary) -> Self {
        Self {
            global_id: person.global_id,
            environment_id: person.environment_id,
            task_id: person.task_id,
            first_seen: moment(person.first_ms),
            last_seen: moment(person.last_ms),
            first_camera: person.first_camera,
            last_camera: person.last_camera,
            feature_model: person.model,
            has_crop: person.has_crop,
            merged_into: person.merged_into,
        }
    }
}

impl From<PersonRecord> for PersonEntry {
    fn from(person: PersonRecord) -> Self {
        Self {
            global_id: person.global_id,
            environment_id: person.environment_id,
            task_id: person.task_id,
            first_seen: moment(person.first_ms),
            last_seen: moment(person.last_ms),
            first_camera: person.first_camera,
            last_camera: person.last_camera,
            feature_model: person.model,
            has_crop: person.crop.is_some(),
            merged_into: person.merged_into,
        }
    }
}

/// A page of people, newest identity first.
#[derive(Debug, Serialize, ToSchema)]
struct PeopleList {
    people: Vec<PersonEntry>,
    /// Number of `people`.
    count: usize,
    /// For the next page's `cursor`; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<i64>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct PeopleQuery {
    /// Only of this environment.
    environment_id: Option<String>,
    /// Only of this task.
    task_id: Option<Uuid>,
    /// Only who was last seen then or later (RFC 3339).
    #[param(value_type = Option<String>, format = DateTime)]
    from: Option<Timestamp>,
    /// Only who was first seen before (RFC 3339).
    #[param(value_type = Option<String>, format = DateTime)]
    to: Option<Timestamp>,
    /// Also identities that turned out to be another one; false if left out.
    #[serde(default)]
    merged: bool,
    /// Most people of the page, 1..=1000; 100 if left out.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<i64>,
}

/// Who was seen, newest identity first.
#[utoipa::path(get, path = "/api/v1/people", tag = "people", params(PeopleQuery), responses(
    (status = 200, body = PeopleList),
    (status = 400, body = Problem, content_type = "application/problem+json"),
    (status = 422, body = Problem, content_type = "application/problem+json"),
    (status = 503, body = Problem, content_type = "application/problem+json"),
))]
async fn people(
    State(app): State<SharedApp>,
    QueryOf(query): QueryOf<PeopleQuery>,
) -> Result<Json<PeopleList>, Problem> {
    let limit = query.limit.unwrap_or(100);
    if !(1..=1000).contains(&limit) {
        return Err(Problem::invalid(format!(
            "limit = {limit}: must be in 1..=1000"
        )));
    }
    let filter = PeopleFilter {
        environment_id: query.environment_id,
        task_id: query.task_id,
        from_ms: query.from.map(jiff::Timestamp::as_millisecond),
        to_ms: query.to.map(jiff::Timestamp::as_millisecond),
        merged: query.merged,
        cursor: query.cursor,
        limit,
    };
    let page = app.store.people(&filter).await;
    let page = page.map_err(|error| Problem::store(&error))?;
    let people: Vec<PersonEntry> = page.items.into_iter().map(PersonEntry::from).collect();
    Ok(Json(PeopleList {
        count: people.len(),
        people,
        next_cursor: page.next,
    }))
}

/// A person under all of its identities.
#[derive(Debug, Serialize, ToSchema)]
struct PersonDetails {
    #[serde(flatten)]
    person: PersonEntry,
    /// The identity that was asked for: another one than `global_id` if it turned out to be that.
    requested_global_id: i64,
    /// Identities that turned out to be this one.
    merged: Vec<i64>,
    /// Where its way is.
    journey_url: String,
    /// Where its picture is.
    crop_url: Option<String>,
}

fn missing(global_id: i64) -> Problem {
    Problem::not_found(
        "person-not-found",
        format!("there is no person {global_id}"),
    )
}

/// The person that an identity turned out to be, and all of its identities, the one that stays first.
async fn found(app: &SharedApp, global_id: i64) -> Result<(PersonRecord, Vec<i64>), Problem> {
    let failed = |error| Problem::store(&error);
    let ids = app.store.identities(global_id).await.map_err(failed)?;
    // Of a person who is being merged right now, the identity that stays may have no row yet.
    for id in [ids.first().copied().unwrap_or(global_id), global_id] {
        if let Some(person) = app.store.person(id).await.map_err(failed)? {
            return Ok((person, ids));
        }
    }
    Err(missing(global_id))
}

/// One person. An identity that turned out to be another one gives that.
#[utoipa::path(get, path = "/api/v1/people/{global_id}", tag = "people",
    params(("global_id" = i64, Path)), responses(
    (status = 200, body = PersonDetails),
    (status = 400, body = Problem, content_type = "application/problem+json"),
    (status = 404, body = Problem, content_type = "application/problem+json"),
    (status = 503, body = Problem, content_type = "application/problem+json"),
))]
async fn person(
    State(app): State<SharedApp>,
    PathPart(requested): PathPart<i64>,
) -> Result<Json<PersonDetails>, Problem> {
    let (person, mut merged) = found(&app, requested).await?;
    let global_id = person.global_id;
    merged.retain(|id| *id != global_id);
    let has_crop = person.crop.is_some();
    Ok(Json(PersonDetails {
        person: person.into(),
        requested_global_id: requested,
        merged,
        journey_url: format!("/api/v1/people/{global_id}/journey"),
        crop_url: has_crop.then(|| format!("/api/v1/people/{global_id}/crop")),
    }))
}

/// Time in one camera.
#[derive(Debug, Serialize, ToSchema)]
struct StayEntry {
    camera_id: String,
    task_id: Uuid,
    #[schema(value_type = Option<String>, format = DateTime)]
    first_seen: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    last_seen: Option<Timestamp>,
    /// Tracks of it.
    tracks: u64,
}

/// A point of the way on the map.
#[derive(Debug, Serialize, ToSchema)]
struct WayPoint {
    #[schema(value_type = Option<String>, format = DateTime)]
    timestamp: Option<Timestamp>,
    /// The camera that saw it there.
    camera_id: String,
    /// In the map's unit.
    map_x: f64,
    /// In the map's unit.
    map_y: f64,
}

/// Where a person was.
#[derive(Debug, Serialize, ToSchema)]
struct JourneyAnswer {
    /// The identity that stays.
    global_id: i64,
    /// The identity that was asked for.
    requested_global_id: i64,
    /// Identities that turned out to be this one.
    merged: Vec<i64>,
    /// In the order of their begin; stays in cameras that overlap do so too.
    cameras: Vec<StayEntry>,
    /// Older stays that were left out.
    left_out: usize,
    /// The way on the map in the order of time, thinned evenly to `max_points`.
    path: Vec<WayPoint>,
    /// Points of the way before it was thinned.
    points: u64,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct JourneyQuery {
    /// Sightings in one camera that are no further apart are one stay, in seconds; 10 if left out.
    #[param(minimum = 0, maximum = 86400)]
    gap_seconds: Option<f64>,
    /// Most points of the way, 2..=10000; 500 if left out.
    #[param(minimum = 2, maximum = 10000)]
    max_points: Option<usize>,
}

impl JourneyQuery {
    fn bounds(&self) -> Result<JourneyBounds, Problem> {
        let mut bounds = JourneyBounds::default();
        if let Some(gap) = self.gap_seconds {
            if !(0.0..=MAX_GAP).contains(&gap) {
                let detail = format!("gap_seconds = {gap}: must be in 0..={MAX_GAP}");
                return Err(Problem::invalid(detail));
            }
            bounds.gap_ms = (gap * 1e3).round() as i64;
        }
        if let Some(points) = self.max_points {
            if !(2..=MAX_POINTS).contains(&points) {
                let detail = format!("max_points = {points}: must be in 2..={MAX_POINTS}");
                return Err(Problem::invalid(detail));
            }
            bounds.max_points = points;
        }
        Ok(bounds)
    }
}

/// Where a person was: cameras in the order of time, and the way on the map.
#[utoipa::path(get, path = "/api/v1/people/{global_id}/journey", tag = "people",
    params(("global_id" = i64, Path), JourneyQuery), responses(
    (status = 200, body = JourneyAnswer),
    (status = 400, body = Problem, content_type = "application/problem+json"),
    (status = 404, body = Problem, content_type = "application/problem+json"),
    (status = 422, body = Problem, content_type = "application/problem+json"),
    (status = 503, body = Problem, content_type = "application/problem+json"),
))]
async fn journey(
    State(app): State<SharedApp>,
    PathPart(requested): PathPart<i64>,
    QueryOf(query): QueryOf<JourneyQuery>,
) -> Result<Json<JourneyAnswer>, Problem> {
    let found = app.store.journey(requested, query.bounds()?).await;
    let journey = found.map_err(|error| Problem::store(&error))?;
    let journey = journey.ok_or_else(|| missing(requested))?;
    let mut cameras = Vec::with_capacity(journey.stays.len());
    for stay in journey.stays {
        cameras.push(StayEntry {
            camera_id: stay.camera_id,
            task_id: stay.task_id,
            first_seen: moment(stay.first_ms),
            last_seen: moment(stay.last_ms),
            tracks: stay.tracks,
        });
    }
    let mut path = Vec::with_capacity(journey.path.len());
    for point in journey.path {
        path.push(WayPoint {
            timestamp: moment(point.time_ms),
            camera_id: point.camera_id,
            map_x: point.map[0],
            map_y: point.map[1],
        });
    }
    Ok(Json(JourneyAnswer {
        global_id: journey.global_id,
        requested_global_id: requested,
        merged: journey.merged,
        cameras,
        left_out: journey.left_out,
        path,
        points: journey.points,
    }))
}

/// The best picture of a person, or of another of its identities.
#[utoipa::path(get, path = "/api/v1/people/{global_id}/crop", tag = "people",
    params(("global_id" = i64, Path)), responses(
    (status = 200, content_type = "image/jpeg", body = [u8]),
    (status = 400, body = Problem, content_type = "application/problem+json"),
    (status = 404, body = Problem, content_type = "application/problem+json"),
    (status = 503, body = Problem, content_type = "application/problem+json"),
))]
async fn crop(
    State(app): State<SharedApp>,
    PathPart(requested): PathPart<i64>,
) -> Result<Response, Problem> {
    let (person, ids) = found(&app, requested).await?;
    let mut crop = person.crop;
    for id in ids.iter().take(search::MAX_TOP_K) {
        if crop.is_none() {
            let other = app.store.person(*id).await;
            crop = other
                .map_err(|error| Problem::store(&error))?
                .and_then(|other| other.crop);
        }
    }
    let Some(crop) = crop else {
        let detail = format!("there is no picture of person {requested}");
        return Err(Problem::not_found("crop-not-found", detail));
    };
    // Whoever is erased must not live on in somebody's cache.
    let headers = [
        (header::CONTENT_TYPE, "image/jpeg"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    Ok((headers, crop).into_response())
}

/// The form of a search.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes the form; it is read piece by piece")]
struct SearchForm {
    /// A JPEG or PNG picture.
    #[schema(value_type = String, format = Binary)]
    image: Vec<u8>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct SearchQuery {
    /// Most people of the answer, 1..=100; 10 if left out.
    #[param(minimum = 1, maximum = 100)]
    top_k: Option<usize>,
    /// Only of this environment.
    environment_id: Option<String>,
}

/// A person who looks like the one of a picture.
#[derive(Debug, Serialize, ToSchema)]
struct SearchMatch {
    /// Cosine similarity, -1..=1.
    similarity: f32,
    #[serde(flatten)]
    person: PersonEntry,
}

/// Who looks like the person of a picture.
#[derive(Debug, Serialize, ToSchema)]
struct SearchResult {
    /// The likeliest first.
    matches: Vec<SearchMatch>,
    /// Where the largest person of the picture is, in pixels: left, top, right, bottom; `null` if
    /// nobody was found in it, so that the whole picture was taken.
    bbox: Option<[f32; 4]>,
    /// People whose vectors were compared.
    searched: u64,
    /// The network whose vectors were compared.
    feature_model: String,
}

/// Find the people who look most like the one of a picture.
///
/// The largest person in the picture counts; if nobody is found in it, the whole picture does. Every
/// stored vector of the loaded network is compared.
#[utoipa::path(post, path = "/api/v1/people/search", tag = "people", params(SearchQuery),
    request_body(content(
        (SearchForm = "multipart/form-data"),
        ([u8] = "image/jpeg"),
        ([u8] = "image/png"),
    )), responses(
    (status = 200, body = SearchResult),
    (status = 400, body = Problem, content_type = "application/problem+json"),
    (status = 408, body = Problem, content_type = "application/problem+json"),
    (status = 409, body = Problem, content_type = "application/problem+json"),
    (status = 413, body = Problem, content_type = "application/problem+json"),
    (status = 415, body = Problem, content_type = "application/problem+json"),
    (status = 422, body = Problem, content_type = "application/problem+json"),
    (status = 429, body = Problem, content_type = "application/problem+json"),
    (status = 503, body = Problem, content_type = "application/problem+json"),
))]
async fn search_people(
    State(app): State<SharedApp>,
    QueryOf(query): QueryOf<SearchQuery>,
    request: Request,
) -> Result<Json<SearchResult>, Problem> {
    let top_k = query.top_k.unwrap_or(10);
    if !(1..=search::MAX_TOP_K).contains(&top_k) {
        let most = search::MAX_TOP_K;
        return Err(Problem::invalid(format!(
            "top_k = {top_k}: must be in 1..={most}"
        )));
    }
    if app.networks.embedder.is_none() {
        let detail = "the service has no re-ID network to tell looks: start it with --reid";
        return Err(Problem::conflict("no-reid", detail));
    }
    app.memory.admit()?;
    let permit = search::admit()?;
    let bytes = picture::receive(request).await?;
    let found = search::run(app.clone(), bytes, query.environment_id, top_k, permit).await?;
    let mut matches = Vec::with_capacity(found.hits.len());
    for (global_id, similarity) in found.hits {
        let person = app.store.person(global_id).await;
        // Who was erased in the meantime is left out.
        if let Some(person) = person.map_err(|error| Problem::store(&error))? {
            matches.push(SearchMatch {
                similarity,
                person: person.into(),
            });
        }
    }
    Ok(Json(SearchResult {
        matches,
        bbox: found.bbox,
        searched: found.searched,
        feature_model: app.networks.embedder_name.clone(),
    }))
}

/// What was erased with a person.
#[derive(Debug, Serialize, ToSchema)]
struct ErasedAnswer {
    /// All identities of the person.
    global_ids: Vec<i64>,
    /// People's rows, with vectors and pictures.
    people: u64,
    /// Positions.
    positions: u64,
    /// Tracks that do not say any more whose they were.
    tracks: u64,
    /// Handoffs.
    handoffs: u64,
    /// Messages that named the person.
    events: u64,
    /// Tasks whose memory, snapshots and latest messages were cleared of the person.
    tasks: u64,
}

/// Erase a person: vectors, pictures and ways, in the store, in running tasks and in their snapshots.
///
/// When the answer comes, no byte of them is left in any file of the service. Whoever is seen on is
/// somebody new.
#[utoipa::path(delete, path = "/api/v1/people/{global_id}", tag = "people",
    params(("global_id" = i64, Path)), responses(
    (status = 200, body = ErasedAnswer),
    (status = 400, body = Problem, content_type = "application/problem+json"),
    (status = 404, body = Problem, content_type = "application/problem+json"),
    (status = 503, body = Problem, content_type = "application/problem+json"),
))]
async fn erase_person(
    State(app): State<SharedApp>,
    PathPart(global_id): PathPart<i64>,
) -> Result<Response, Problem> {
    // A client that goes away does not leave a person half erased.
    let work = tokio::spawn(async move { erase::erase(&app, global_id).await });
    let erased = work.await.map_err(|error| Problem::internal(&error))??;
    let Some((erased, tasks)) = erased else {
        return Err(missing(global_id));
    };
    let Erased {
        global_ids,
        people,
        positions,
        tracks,
        handoffs,
        events,
    } = erased;
    let answer = ErasedAnswer {
        global_ids,
        people,
        positions,
        tracks,
        handoffs,
        events,
        tasks,
    };
    Ok((StatusCode::OK, Json(answer)).into_response())
}
