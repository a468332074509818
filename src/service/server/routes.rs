//! The routes, and what stands before them: trace, request id, token.

use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, MatchedPath, Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use serde::Deserialize;
use serde_json::json;
use tower_http::compression::CompressionLayer;
use tracing::Instrument as _;

use super::{Face, events, push, render, reply};
use crate::pipeline::job::Job;
use crate::pipeline::manifest::Manifest;
use crate::service::breaker::BreakerState;
use crate::service::jobs::{News, Status};
use crate::service::log::{self, RequestLine, TraceContext};
use crate::service::memory;
use crate::service::metrics::{Now, TEXT_CONTENT_TYPE};
use crate::service::remote::BreakerReport;
use crate::service::storage::Location;

/// The most bytes of a webhook: a prediction with its input and outputs. Larger ones are polled for.
const MAX_WEBHOOK_BYTES: usize = 4 << 20;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Every route.
pub fn router(face: Face) -> Router {
    // Probes and the front end's pings: never behind a token, never behind work.
    let open = Router::new()
        .route("/health", get(health))
        .route("/api/v2/health", get(health))
        .route("/ready", get(ready))
        // Signed by the server of remote models, which has no token of ours.
        .route("/v1/remote/webhook", post(webhook));
    let guarded = Router::new()
        .route("/", post(push::push))
        .route("/pubsub/push", post(push::push))
        .route("/v1/render", post(render::render))
        .route("/v1/jobs/{id}", get(job))
        .route("/v1/jobs/{id}/events", get(events::events))
        .route("/v1/jobs/{id}/ws", any(events::socket))
        .route("/v1/schema", get(schema))
        .route("/warmup", get(warm_up).post(warm_up))
        .route("/metrics", get(metrics))
        .route("/metrics.json", get(metrics_json))
        .route_layer(middleware::from_fn_with_state(face.clone(), authenticate));
    open.merge(guarded)
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        // Bodies are limited where they are read.
        .layer(DefaultBodyLimit::disable())
        .layer(CompressionLayer::new())
        .layer(middleware::from_fn_with_state(face.clone(), observe))
        .with_state(face)
}

/// Counts a request, gives it an id, and puts everything that is logged on the way into its trace.
async fn observe(State(face): State<Face>, path: Option<MatchedPath>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let trace = TraceContext::from_headers(request.headers()).unwrap_or_else(TraceContext::new_root);
    let given = request.headers().get(&REQUEST_ID).filter(|id| id.len() <= 128).cloned();
    let id = given.or_else(|| HeaderValue::from_str(&trace.trace_hex()).ok());
    let route = path.as_ref().map_or("other", |path| route_name(path.as_str()));
    let span = trace.span(route);
    let (method, uri) = (request.method().clone(), request.uri().path().to_owned());
    let request_bytes = reply::content_length(request.headers()).unwrap_or(0);
    let agent = request.headers().get(header::USER_AGENT).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let logged = span.clone();
    let mut response = next.run(request).instrument(span).await;
    if let Some(id) = id {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    let status = response.status().as_u16();
    face.worker.metrics().request(route, status);
    let quiet = matches!(route, "health" | "ready" | "metrics");
    if !quiet {
        let request = RequestLine {
            method: method.as_str(),
            path: &uri,
            status,
            took: started.elapsed(),
            request_bytes,
            response_bytes: axum::body::HttpBody::size_hint(response.body()).exact().unwrap_or(0),
            user_agent: agent.as_deref(),
            remote_ip: None,
        };
        logged.in_scope(|| log::request_line(&request));
    }
    response
}

/// Route names are a closed set: they are labels of metrics.
fn route_name(path: &str) -> &'static str {
    match path {
        "/" | "/pubsub/push" => "push",
        "/v1/render" => "render",
        "/v1/jobs/{id}" => "job",
        "/v1/jobs/{id}/events" | "/v1/jobs/{id}/ws" => "events",
        "/v1/remote/webhook" => "webhook",
        "/v1/schema" => "schema",
        "/warmup" => "warmup",
        "/metrics" | "/metrics.json" => "metrics",
        "/health" | "/api/v2/health" => "health",
        "/ready" => "ready",
        _ => "other",
    }
}

async fn authenticate(State(face): State<Face>, request: Request, next: Next) -> Response {
    match face.auth.check(request.headers()).await {
        Ok(()) => next.run(request).await,
        Err(error) => {
            face.worker.metrics().auth_refused(error.reason());
            log::auth_refused(error.reason(), route_name(request.uri().path()));
            reply::unauthorized(&error)
        }
    }
}

async fn health(State(face): State<Face>) -> Response {
    let body = json!({
        "status": "ok",
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": face.started.elapsed().as_secs(),
    });
    axum::Json(body).into_response()
}

async fn ready(State(face): State<Face>) -> Response {
    let occupancy = face.worker.occupancy();
    let draining = face.worker.is_draining();
    let loading = face.worker.models().holds_back();
    let ready = !draining && !loading;
    let mut body = json!({
        "ready": ready,
        "draining": draining,
        "running": face.worker.running(),
        "waiting": occupancy.waiting,
        "memory": {"capacity_bytes": occupancy.capacity, "promised_bytes": occupancy.promised},
    });
    if let Some(model) = face.worker.models().report() {
        body["model"] = model;
    }
    if let Some(steps) = face.worker.steps() {
        let of = |report: BreakerReport| (report.model, json!(format!("{:?}", report.state).to_lowercase()));
        let broken = steps.remote().breakers().into_iter().filter(|report| report.state != BreakerState::Closed);
        body["remote"] = json!({"left_alone": broken.map(of).collect::<serde_json::Map<_, _>>()});
    }
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, axum::Json(body)).into_response()
}

/// A prediction has ended: whoever waits for it looks. What the caller says about it is not believed.
async fn webhook(State(face): State<Face>, headers: HeaderMap, body: Body) -> Response {
    let Some(steps) = face.worker.steps() else {
        return reply::error(StatusCode::NOT_FOUND, "not-found", "no remote models are set up here");
    };
    if let Err(error) = steps.remote().webhook_is_expected(&headers) {
        return reply::error(StatusCode::UNAUTHORIZED, "bad-signature", &error.to_string());
    }
    // Room of its own: anyone may knock here, and pushes must not wait for that.
    let Ok(_room) = face.webhooks.try_acquire() else {
        return reply::error(
            StatusCode::TOO_MANY_REQUESTS,
            "busy",
            "there is no room for it now; it is looked for anyway",
        );
    };
    let body = match reply::read_body(body, MAX_WEBHOOK_BYTES).await {
        Ok(body) => body,
        Err(response) => return response,
    };
    match steps.remote().webhook(&headers, &body) {
        Ok(_) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => reply::error(StatusCode::UNAUTHORIZED, "bad-signature", &error.to_string()),
    }
}

/// Runs one tiny job and opens a connection to storage, and says so.
async fn warm_up(State(face): State<Face>) -> Response {
    let job = match face.worker.warm_up().await {
        Ok(time) => time,
        Err(failure) => return reply::Refusal(failure).into_response(),
    };
    let start = Instant::now();
    let storage = match face.worker.touch_storage().await {
        Ok(()) => json!({"ms": start.elapsed().as_secs_f64() * 1e3}),
        Err(failure) => return reply::Refusal(failure).into_response(),
    };
    axum::Json(json!({"warm": true, "job": {"ms": job.as_secs_f64() * 1e3}, "storage": storage})).into_response()
}

#[derive(Deserialize)]
struct JobQuery {
    user_id: Option<String>,
    #[serde(default)]
    sign: bool,
}

/// A job's progress or manifest; with `sign`, the links in it are signed again.
async fn job(State(face): State<Face>, Path(id): Path<String>, Query(query): Query<JobQuery>) -> Response {
    let user = query.user_id.as_deref();
    for name in user.into_iter().chain([id.as_str()]) {
        if let Err(problem) = crate::pipeline::job::check_id(name) {
            return reply::error(StatusCode::BAD_REQUEST, "bad-request", &format!("the id {problem}"));
        }
    }
    let mut status: Status = match face.worker.status(user, &id).await {
        Ok(Some(status)) => status,
        Ok(None) => {
            let hint = if user.is_some() { "" } else { "; add ?user_id= to look for jobs of other instances, too" };
            return reply::error(StatusCode::NOT_FOUND, "not-found", &format!("there is no job {id:?}{hint}"));
        }
        Err(failure) => return reply::Refusal(failure).into_response(),
    };
    if query.sign
        && let (Some(manifest), Ok(folder)) = (&status.manifest, Location::parse(&status.folder))
    {
        let mut manifest = (**manifest).clone();
        if let Err(failure) = face.worker.link(&mut manifest, &folder).await {
            return reply::Refusal(failure).into_response();
        }
        status.manifest = Some(manifest.into());
    }
    reply::pretty(StatusCode::OK, &status)
}

/// JSON Schemas of what goes in and what comes out.
async fn schema() -> Response {
    let schemas = json!({
        "job": schemars::schema_for!(Job),
        "manifest": schemars::schema_for!(Manifest),
        "status": schemars::schema_for!(Status),
        "news": schemars::schema_for!(News),
    });
    reply::pretty(StatusCode::OK, &schemas)
}

fn snapshot(face: &Face) {
    let occupancy = face.worker.occupancy();
    if let Some((provider, refused)) = face.worker.models().in_use() {
        face.worker.metrics().model_provider(provider, &refused);
    }
    face.worker.metrics().observe_results(face.worker.cache());
    for (class, now) in face.worker.classes() {
        face.worker.metrics().observe_class(class, &now);
    }
    if let Some(steps) = face.worker.steps() {
        // Names of models come from callers: the one that stands worst speaks for all.
        let states = steps.remote().breakers().into_iter().map(|report| report.state);
        let worst = states.max_by_key(|state| *state as u8).unwrap_or(BreakerState::Closed);
        face.worker.metrics().breaker("remote", worst);
    }
    face.worker.metrics().observe(&Now {
        queue_depth: occupancy.waiting as u64,
        jobs_running: face.worker.running() as u64,
        budget_bytes: occupancy.capacity,
        in_use_bytes: occupancy.promised,
        resident_bytes: memory::resident_bytes(),
        cache_size: face.worker.jobs().size(),
        cache_max_size: face.worker.jobs().max_size(),
        cache_ttl_ms: u64::try_from(face.worker.jobs().time_to_live().as_millis()).unwrap_or(u64::MAX),
        storage_retries: face.worker.storage().retries(),
    });
}

async fn metrics(State(face): State<Face>) -> Response {
    snapshot(&face);
    ([(header::CONTENT_TYPE, TEXT_CONTENT_TYPE)], face.worker.metrics().render_text()).into_response()
}

async fn metrics_json(State(face): State<Face>) -> Response {
    snapshot(&face);
    axum::Json(face.worker.metrics().render_json()).into_response()
}

async fn unknown(request: Request) -> Response {
    let message = format!("there is nothing at {}; see /v1/schema and the documentation", request.uri().path());
    reply::error(StatusCode::NOT_FOUND, "not-found", &message)
}

async fn wrong_method(request: Request) -> Response {
    let message = format!("{} does not take {}", request.uri().path(), request.method());
    reply::error(StatusCode::METHOD_NOT_ALLOWED, "wrong-method", &message)
}
