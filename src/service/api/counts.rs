//! Counts: how many people, where on the map and in which camera, per window of time.

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::people::moment;
use crate::service::SharedApp;
use crate::service::messages::moment as moments;
use crate::service::problem::{Problem, QueryOf};
use crate::store::{CountFilter, StoreError};

/// Length of the time that is counted if none is said, in milliseconds: a day.
const DAY_MS: i64 = 86_400_000;

/// Length of a window if none is said, in seconds.
const BUCKET_SECONDS: i64 = 60;

/// Longest window in seconds: a year and a day.
const MAX_BUCKET_SECONDS: i64 = 366 * 86_400;

/// Most corners of a zone.
const MAX_CORNERS: usize = 100;

/// Name of the zone that is the environment's valid area.
const VALID_AREA: &str = "valid_area";

/// Routes of this area.
pub fn routes() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new()
        .routes(routes!(count_people))
        .routes(routes!(count_occupancy))
        .routes(routes!(count_cameras))
}

/// Times that were asked for, or their defaults, in milliseconds.
fn window(from: Option<Timestamp>, to: Option<Timestamp>) -> Result<(i64, i64), Problem> {
    let to_ms = to.unwrap_or_else(moments::now).as_millisecond();
    let from_ms = from.map_or(
        to_ms.saturating_sub(DAY_MS),
        jiff::Timestamp::as_millisecond,
    );
    if from_ms >= to_ms {
        return Err(Problem::invalid("from: must be before `to`"));
    }
    Ok((from_ms, to_ms))
}

fn bucket_ms(seconds: Option<i64>) -> Result<i64, Problem> {
    let seconds = seconds.unwrap_or(BUCKET_SECONDS);
    if !(1..=MAX_BUCKET_SECONDS).contains(&seconds) {
        return Err(Problem::invalid(format!(
            "bucket_seconds = {seconds}: must be in 1..={MAX_BUCKET_SECONDS}"
        )));
    }
    Ok(seconds * 1000)
}

fn failed(error: StoreError) -> Problem {
    match error {
        StoreError::TooMuch(reason) => Problem::invalid(reason),
        error => Problem::store(&error),
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct PeopleQuery {
    /// Only in this environment.
    environment_id: Option<String>,
    /// Only in this task.
    task_id: Option<Uuid>,
    /// Only in this camera.
    camera_id: Option<String>,
    /// From then on (RFC 3339); a day before `to` if left out.
    #[param(value_type = Option<String>, format = DateTime)]
    from: Option<Timestamp>,
    /// Before then (RFC 3339); now if left out.
    #[param(value_type = Option<String>, format = DateTime)]
    to: Option<Timestamp>,
}

/// How many people were seen.
#[derive(Debug, Serialize, ToSchema)]
struct PeopleCount {
    /// From then on.
    #[schema(value_type = Option<String>, format = DateTime)]
    from: Option<Timestamp>,
    /// Before then.
    #[schema(value_type = Option<String>, format = DateTime)]
    to: Option<Timestamp>,
    /// People, each counted once.
    people: u64,
}

/// How many different people were seen.
#[utoipa::path(get, path = "/api/v1/counts/people", tag = "counts", params(PeopleQuery), responses(
    (status = 200, body = PeopleCount),
    (status = 400, body = Problem, content_type = "application/problem+json"),
    (status = 422, body = Problem, content_type = "application/problem+json"),
    (status = 503, body = Problem, content_type = "application/problem+json"),
))]
async fn count_people(
    State(app): State<SharedApp>,
    QueryOf(query): QueryOf<PeopleQuery>,
) -> Result<Json<PeopleCount>, Problem> {
    let (from_ms, to_ms) = window(query.from, query.to)?;
    let filter = CountFilter {
        environment_id: query.environment_id,
        task_id: query.task_id,
        camera_id: query.camera_id,
        from_ms,
        to_ms,
    };
    let people = app.store.unique_people(&filter).await.map_err(failed)?;
    Ok(Json(PeopleCount {
        from: moment(from_ms),
        to: moment(to_ms),
        people,
    }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct CamerasQuery {
    /// Only in this environment.
    environment_id: Option<String>,
    /// Only in this task.
    task_id: Option<Uuid>,
    /// Only in this camera.
    camera_id: Option<String>,
    /// From then on (RFC 3339); a day before `to` if left out.
    #[param(value_type = Option<String>, format = DateTime)]
    from: Option<Timestamp>,
    /// Before then (RFC 3339); now if left out.
    #[param(value_type = Option<String>, format = DateTime)]
    to: Option<Timestamp>,
    /// Length of a window in seconds; 60 if left out. At most 10,000 windows are counted.
    #[param(minimum = 1, maximum = 31622400)]
    bucket_seconds: Option<i64>,
}

/// How many people a camera saw in one window.
#[derive(Debug, Serialize, ToSchema)]
struct CameraBucket {
    camera_id: String,
    /// Begin of the window.
    #[schema(value_type = Option<String>, format = DateTime)]
    from: Option<Timestamp>,
    /// Different people whom it saw.
    people: u64,
    /// Boxes of known and unknown people.
    positions: u64,
}

/// How many people each camera saw.
#[derive(Debug, Serialize, ToSchema)]
struct CameraCounts {
    /// From then on.
    #[schema(value_type = Option<String>, format = DateTime)]
    from: Option<Timestamp>,
    /// Before then.
    #[schema(value_type = Option<String>, format = DateTime)]
    to: Option<Timestamp>,
    /// Length of a window in seconds.
    bucket_seconds: i64,
    /// Windows in the order of time and camera; those without anybody are left out.
    buckets: Vec<CameraBucket>,
}

/// How many people each camera saw, per window of time.
#[utoipa::path(get, path = "/api/v1/counts/cameras", tag = "counts", params(CamerasQuery), responses(
    (status = 200, body = CameraCounts),
    (status = 400, body = Problem, content_type = "application/problem+json"),
    (status = 422, body = Problem, content_type = "application/problem+json"),
    (status = 503, body = Problem, content_type = "application/problem+json"),
))]
async fn count_cameras(
    State(app): State<SharedApp>,
    QueryOf(query): QueryOf<CamerasQuery>,
) -> Result<Json<CameraCounts>, Problem> {
    let (from_ms, to_ms) = window(query.from, query.to)?;
    let bucket_ms = bucket_ms(query.bucket_seconds)?;
    let filter = CountFilter {
        environment_id: query.environment_id,
        task_id: query.task_id,
        camera_id: query.camera_id,
        from_ms,
        to_ms,
    };
    let counts = app.store.camera_counts(&filter, bucket_ms).await;
    let mut buckets = Vec::new();
    for count in counts.map_err(failed)? {
        buckets.push(CameraBucket {
            camera_id: count.camera_id,
            from: moment(count.from_ms),
            people: count.people,
            positions: count.positions,
        });
    }
    Ok(Json(CameraCounts {
        from: moment(from_ms),
        to: moment(to_ms),
        bucket_seconds: bucket_ms / 1000,
        buckets,
    }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct OccupancyQuery {
    /// The environment whose map it is.
    environment_id: String,
    /// Only in this task.
    task_id: Option<Uuid>,
    /// Only what this camera saw.
    camera_id: Option<String>,
    /// Corners of a polygon on the map, `x,y;x,y;…` in its unit, 3 to 100; or `valid_area`, the
    /// environment's own, which it is if left out.
    #[param(example = "0,0;4,0;4,3;0,3")]
    zone: Option<String>,
    /// From then on (RFC 3339); a day before `to` if left out.
    #[param(value_type = Option<String>, format = DateTime)]
    from: Option<Timestamp>,
    /// Before then (RFC 3339); now if left out.
    #[param(value_type = Option<String>, format = DateTime)]
    to: Option<Timestamp>,
    /// Length of a window in seconds; 60 if left out. At most 10,000 windows are counted.
    #[param(minimum = 1, maximum = 31622400)]
    bucket_seconds: Option<i64>,
}

/// How full a zone was in one window.
#[derive(Debug, Serialize, ToSchema)]
struct OccupancyBucket {
    /// Begin of the window.
    #[schema(value_type = Option<String>, format = DateTime)]
    from: Option<Timestamp>,
    /// Different people who were in the zone.
    people: u64,
    /// Most people who were in it at once.
    peak: u64,
}

/// How full a zone of the map was.
#[derive(Debug, Serialize, ToSchema)]
struct OccupancyCounts {
    /// The environment.
    environment_id: String,
    /// Corners of the zone.
    zone: Vec<[f64; 2]>,
    /// From then on.
    #[schema(value_type = Option<String>, format = DateTime)]
    from: Option<Timestamp>,
    /// Before then.
    #[schema(value_type = Option<String>, format = DateTime)]
    to: Option<Timestamp>,
    /// Length of a window in seconds.
    bucket_seconds: i64,
    /// Windows in the order of time; those without anybody are left out.
    buckets: Vec<OccupancyBucket>,
}

/// How many people were in a zone of the map, per window of time.
#[utoipa::path(get, path = "/api/v1/counts/occupancy", tag = "counts", params(OccupancyQuery), responses(
    (status = 200, body = OccupancyCounts),
    (status = 400, body = Problem, content_type = "application/problem+json"),
    (status = 404, body = Problem, content_type = "application/problem+json"),
    (status = 422, body = Problem, content_type = "application/problem+json"),
    (status = 503, body = Problem, content_type = "application/problem+json"),
))]
async fn count_occupancy(
    State(app): State<SharedApp>,
    QueryOf(query): QueryOf<OccupancyQuery>,
) -> Result<Json<OccupancyCounts>, Problem> {
    let (from_ms, to_ms) = window(query.from, query.to)?;
    let bucket_ms = bucket_ms(query.bucket_seconds)?;
    let zone = match query.zone.as_deref() {
        None | Some(VALID_AREA) => valid_area(&app, &query.environment_id)?,
        Some(text) => {
            polygon(text).map_err(|reason| Problem::invalid(format!("zone: {reason}")))?
        }
    };
    let filter = CountFilter {
        environment_id: Some(query.environment_id.clone()),
        task_id: query.task_id,
        camera_id: query.camera_id,
        from_ms,
        to_ms,
    };
    let counts = app.store.occupancy(&filter, &zone, bucket_ms).await;
    let mut buckets = Vec::new();
    for count in counts.map_err(failed)? {
        buckets.push(OccupancyBucket {
            from: moment(count.from_ms),
            people: count.people,
            peak: count.peak,
        });
    }
    Ok(Json(OccupancyCounts {
        environment_id: query.environment_id,
        zone,
        from: moment(from_ms),
        to: moment(to_ms),
        bucket_seconds: bucket_ms / 1000,
        buckets,
    }))
}

/// The area of an environment in which people can be.
fn valid_area(app: &SharedApp, environment_id: &str) -> Result<Vec<[f64; 2]>, Problem> {
    let Some(environment) = app.catalog.get(environment_id) else {
        let detail = format!("there is no environment `{environment_id}`");
        return Err(Problem::not_found("environment-not-found", detail));
    };
    let area = &environment.map.valid_area;
    if area.is_empty() {
        let detail = format!(
            "zone: `{environment_id}` has no valid area: give the corners of a zone, x,y;x,y;x,y"
        );
        return Err(Problem::invalid(detail));
    }
    Ok(area.clone())
}

/// Reads `x,y;x,y;…`; what is wrong with it if it is none.
fn polygon(text: &str) -> Result<Vec<[f64; 2]>, String> {
    let mut corners = Vec::new();
    for corner in text.split(';') {
        if corners.len() == MAX_CORNERS {
            return Err(format!("more than {MAX_CORNERS} corners"));
        }
        let number = |text: &str| {
            let number = text.trim().parse::<f64>().ok();
            number.filter(|number| number.is_finite())
        };
        let place = corner.split_once(',');
        let place = place.and_then(|(x, y)| Some([number(x)?, number(y)?]));
        corners.push(place.ok_or_else(|| {
            format!("`{corner}` is no corner: x,y;x,y;… or {VALID_AREA} is taken")
        })?);
    }
    if corners.len() < 3 {
        return Err("at least three corners are needed".to_string());
    }
    Ok(corners)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_read_or_refused() {
        let square = polygon("0,0; 4,0;4,3.5;-1e1,3").unwrap();
        assert_eq!(square, [[0.0, 0.0], [4.0, 0.0], [4.0, 3.5], [-10.0, 3.0]]);
        let many = vec!["1,2"; MAX_CORNERS + 1].join(";");
        for wrong in [
            "",
            "0,0;1,1",
            "0,0;1,1;",
            "0,0;1;2,2",
            "0,0;1,1;2,NaN",
            "0,0;1,1;inf,2",
            "hall",
            "0,0;1,1;2,2,2",
            many.as_str(),
        ] {
            assert!(polygon(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_are_bounded() {
        let at = |ms| Timestamp::from_millisecond(ms).ok();
        assert_eq!(window(at(1_000), at(2_000)).unwrap(), (1_000, 2_000));
        assert_eq!(window(None, at(DAY_MS)).unwrap(), (0, DAY_MS));
        assert!(window(at(2_000), at(2_000)).is_err());
        assert_eq!(bucket_ms(None).unwrap(), 60_000);
        assert!(bucket_ms(Some(0)).is_err() && bucket_ms(Some(i64::MAX)).is_err());
    }
}
