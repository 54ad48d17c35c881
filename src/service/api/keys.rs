//! API keys, for admins; and tickets for sockets.

use axum::Json;
use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::service::SharedApp;
use crate::service::auth::access::Role;
use crate::service::auth::keys::{KeyError, MAX_KEYS, NewKey};
use crate::service::auth::{Caller, tickets};
use crate::service::problem::{Body, PathPart, Problem};
use crate::store::{ApiKeyRecord, Store};

/// Routes of this area.
pub fn routes() -> OpenApiRouter<SharedApp> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(revoke))
        .routes(routes!(ticket))
}

/// A key to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct KeyRequest {
    /// Whose it is.
    #[schema(example = "front desk", min_length = 1, max_length = 100)]
    name: String,
    /// What it may do.
    role: Role,
}

/// A key without its secret.
#[derive(Debug, Serialize, ToSchema)]
struct KeyEntry {
    /// For revoking it.
    id: String,
    /// Whose it is.
    name: String,
    /// What it may do: `viewer`, `operator` or `admin`.
    role: String,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    created: Option<Timestamp>,
    /// When it was revoked; null while it can be used.
    #[schema(value_type = Option<String>, format = DateTime)]
    revoked: Option<Timestamp>,
}

impl From<ApiKeyRecord> for KeyEntry {
    fn from(record: ApiKeyRecord) -> Self {
        let time = |ms| Timestamp::from_millisecond(ms).ok();
        Self {
            id: record.id,
            name: record.name,
            role: record.role,
            created: time(record.created_ms),
            revoked: record.revoked_ms.and_then(time),
        }
    }
}

/// All keys, oldest first.
#[derive(Debug, Serialize, ToSchema)]
struct KeyList {
    keys: Vec<KeyEntry>,
}

/// A key that was just made.
#[derive(Serialize, ToSchema)]
struct KeyCreated {
    /// About it.
    #[serde(flatten)]
    entry: KeyEntry,
    /// The key itself: it is shown this once.
    key: String,
}

/// A ticket for one socket.
#[derive(Serialize, ToSchema)]
struct TicketCreated {
    /// For `?token=` in the socket's address.
    ticket: String,
    /// How long it can be used, in seconds.
    expires_in: u64,
}

fn store(app: &SharedApp) -> Result<&Store, Problem> {
    app.auth.store().ok_or_else(|| {
        let detail = "the service runs without a store, and keeps no keys";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "no-store", detail)
    })
}

/// The keys, without their secrets.
#[utoipa::path(get, path = "/api/v1/keys", tag = "keys", responses((status = 200, body = KeyList)))]
async fn list(State(app): State<SharedApp>) -> Result<Json<KeyList>, Problem> {
    let records = store(&app)?.api_keys().await;
    let records = records.map_err(|error| Problem::store(&error))?;
    let keys = records.into_iter().map(KeyEntry::from).collect();
    Ok(Json(KeyList { keys }))
}

/// Make a key. The answer is the only place where it can be read.
#[utoipa::path(post, path = "/api/v1/keys", tag = "keys", request_body = KeyRequest, responses(
    (status = 201, body = KeyCreated),
    (status = 409, body = Problem, content_type = "application/problem+json"),
    (status = 422, body = Problem, content_type = "application/problem+json"),
    (status = 503, body = Problem, content_type = "application/problem+json"),
))]
async fn create(
    State(app): State<SharedApp>,
    Body(request): Body<KeyRequest>,
) -> Result<Response, Problem> {
    let store = store(&app)?;
    let now = Timestamp::now().as_millisecond();
    let new = NewKey::make(&request.name, request.role, now).map_err(|error| match error {
        KeyError::Name => Problem::invalid(error.to_string()),
        KeyError::Random(_) => Problem::internal(&error),
    })?;
    let known = store
        .api_keys()
        .await
        .map_err(|error| Problem::store(&error))?;
    if known.len() >= MAX_KEYS {
        let detail = format!("there are {MAX_KEYS} keys already");
        return Err(Problem::conflict("too-many-keys", detail));
    }
    let added = store.add_api_key(&new.record).await;
    added.map_err(|error| Problem::store(&error))?;
    app.auth
        .refresh()
        .await
        .map_err(|error| Problem::store(&error))?;
    tracing::info!(
        key = new.record.id,
        role = new.record.role,
        "a key was made"
    );
    let created = KeyCreated {
        key: new.secret.expose().to_string(),
        entry: new.record.into(),
    };
    Ok((StatusCode::CREATED, Json(created)).into_response())
}

/// Revoke a key. It cannot be used from then on; sockets that it opened stay open.
#[utoipa::path(delete, path = "/api/v1/keys/{key_id}", tag = "keys",
    params(("key_id" = String, Path)), responses(
    (status = 204, description = "It cannot be used any more"),
    (status = 404, body = Problem, content_type = "application/problem+json"),
    (status = 503, body = Problem, content_type = "application/problem+json"),
))]
async fn revoke(
    State(app): State<SharedApp>,
    PathPart(id): PathPart<String>,
) -> Result<StatusCode, Problem> {
    let store = store(&app)?;
    let now = Timestamp::now().as_millisecond();
    let known = store
        .api_key(&id)
        .await
        .map_err(|error| Problem::store(&error))?;
    if known.is_none() {
        return Err(Problem::not_found(
            "key-not-found",
            "there is no key of this id",
        ));
    }
    // One that was revoked before stays so: sending this twice does no harm.
    let revoked = store.revoke_api_key(&id, now).await;
    revoked.map_err(|error| Problem::store(&error))?;
    app.auth
        .refresh()
        .await
        .map_err(|error| Problem::store(&error))?;
    tracing::info!(key = id, "a key was revoked");
    Ok(StatusCode::NO_CONTENT)
}

/// A ticket that opens one socket: for browsers, which cannot send a key there.
#[utoipa::path(post, path = "/api/v1/tickets", tag = "keys", responses(
    (status = 201, body = TicketCreated),
    (status = 503, body = Problem, content_type = "application/problem+json"),
))]
async fn ticket(
    State(app): State<SharedApp>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Problem> {
    let ticket = app
        .auth
        .tickets()
        .issue(&caller)
        .map_err(|error| match error {
            tickets::TicketError::TooMany => {
                let status = StatusCode::SERVICE_UNAVAILABLE;
                Problem::new(status, "too-many-tickets", error.to_string()).retry_after(60)
            }
            tickets::TicketError::Key(_) => Problem::internal(&error),
        })?;
    let created = TicketCreated {
        ticket: ticket.expose().to_string(),
        expires_in: tickets::VALID_FOR.as_secs(),
    };
    Ok((StatusCode::CREATED, Json(created)).into_response())
}
