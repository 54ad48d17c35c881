//! The guard before every route: who it is, how often, and with which right.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::WWW_AUTHENTICATE;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::warn;

use super::access::{self, Access, Role};
use super::credential::{self, Credential};
use super::{Caller, Unknown, origin};
use crate::service::SharedApp;
use crate::service::idempotency::CallerId;
use crate::service::problem::Problem;

/// Lets a request pass, with its [`Caller`] among its extensions, or answers it.
pub async fn guard(State(app): State<SharedApp>, mut request: Request, next: Next) -> Response {
    let refused = match admit(&app, &mut request) {
        Ok(()) => return next.run(request).await,
        Err(refused) => refused,
    };
    let challenge = refused.challenge;
    let mut response = refused.problem.into_response();
    if let Some(challenge) = challenge {
        let value = HeaderValue::from_static(challenge);
        response.headers_mut().insert(WWW_AUTHENTICATE, value);
    }
    response
}

/// An answer, and what it asks for.
struct Refused {
    problem: Problem,
    challenge: Option<&'static str>,
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Self {
            problem,
            challenge: None,
        }
    }
}

fn admit(app: &SharedApp, request: &mut Request) -> Result<(), Refused> {
    let credential = credential::take(request);
    let auth = &app.auth;
    let needed = access::needed(request.method(), request.uri().path(), auth.open_routes());
    if needed == Access::Health {
        return Ok(());
    }
    let address = address(request);
    if !auth.is_required() {
        if auth.keeps_strangers_pages_out() {
            origin::check(request, &app.settings.limits.cors_origins)?;
        }
        app.limits.check_address(address)?;
        request.extensions_mut().insert(Caller::anonymous());
        return Ok(());
    }
    let Access::Needs(role) = needed else {
        app.limits.check_address(address)?;
        return Ok(());
    };
    let caller = match auth.identify(&credential) {
        Ok(caller) => caller,
        Err(unknown) => return Err(refuse(app, address, &credential, &unknown)),
    };
    app.limits.check_caller(&caller.id)?;
    allow(&caller, role)?;
    let extensions = request.extensions_mut();
    extensions.insert(CallerId(caller.id.clone()));
    extensions.insert(caller);
    Ok(())
}

fn refuse(app: &SharedApp, address: IpAddr, shown: &Credential, unknown: &Unknown) -> Refused {
    let failed = *shown != Credential::Missing;
    let limited = if failed {
        app.limits.check_failed_login(address)
    } else {
        app.limits.check_address(address)
    };
    if let Err(problem) = limited {
        return problem.into();
    }
    if failed {
        warn!(%address, reason = %unknown, "a caller was not recognised");
    }
    let (status, kind, challenge) = match unknown {
        Unknown::Missing => (
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            r#"Bearer realm="mtmc""#,
        ),
        Unknown::Invalid => (
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            r#"Bearer realm="mtmc", error="invalid_token""#,
        ),
        Unknown::NoRole => (
            StatusCode::FORBIDDEN,
            "forbidden",
            r#"Bearer realm="mtmc", error="insufficient_scope""#,
        ),
    };
    Refused {
        problem: Problem::new(status, kind, unknown.to_string()),
        challenge: Some(challenge),
    }
}

fn allow(caller: &Caller, role: Role) -> Result<(), Refused> {
    if caller.role >= role {
        return Ok(());
    }
    let detail = format!(
        "this takes the role {}; yours is {}",
        role.name(),
        caller.role.name()
    );
    Err(Refused {
        problem: Problem::new(StatusCode::FORBIDDEN, "forbidden", detail),
        challenge: Some(r#"Bearer realm="mtmc", error="insufficient_scope""#),
    })
}

/// Where the connection comes from. Behind a proxy that is the proxy.
fn address(request: &Request) -> IpAddr {
    let from = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let unknown = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    from.map_or(unknown, |ConnectInfo(address)| address.ip().to_canonical())
}
