//! The API: what is asked, checked against the contract.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::stream;
use serde_json::{Map, Value, json};

use super::connection::Line;
use super::models::{Created, version_of};
use super::{Fault, On, Shared, TOKEN, files, hook};

/// Most bytes of a request.
const MAX_REQUEST_BYTES: usize = 128 << 20;

/// An answer, or one that ends the matter early.
pub(super) type Answer = Result<Response, Response>;

pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/predictions", post(create_version))
        .route("/v1/models/{owner}/{name}/predictions", post(create_official))
        .route("/v1/predictions/{id}", get(poll))
        .route("/v1/predictions/{id}/cancel", post(cancel))
        .route("/v1/files", post(files::upload))
        .route("/v1/files/{id}", get(files::uploaded))
        .route("/outputs/{name}", get(files::output))
        .fallback(unknown)
        .layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES))
        .with_state(shared)
}

/// An error as the API has them.
pub(super) fn error(status: u16, title: &str, detail: &str) -> Response {
    let body = axum::Json(json!({"title": title, "detail": detail, "status": status}));
    (StatusCode::from_u16(status).unwrap(), body).into_response()
}

impl Shared {
    /// An error for a request that the contract does not allow.
    pub(super) fn violation(&self, status: u16, problem: String) -> Response {
        let response = error(status, "Bad request", &problem);
        self.state().violations.push(problem);
        response
    }
}

async fn unknown(State(shared): State<Arc<Shared>>, request: axum::extract::Request) -> Response {
    shared.violation(404, format!("{} {} is not in the contract", request.method(), request.uri().path()))
}

/// Checks the token.
pub(super) fn admit(shared: &Shared, headers: &HeaderMap) -> Result<(), Response> {
    let given: Vec<_> = headers.get_all(AUTHORIZATION).iter().collect();
    let expected = format!("Bearer {TOKEN}");
    match given[..] {
        [] if shared.state().needs_no_token => Ok(()),
        [token] if token.as_bytes() == expected.as_bytes() => Ok(()),
        _ => Err(error(401, "Unauthenticated", "You did not pass a valid authentication token")),
    }
}

/// What a planned failure still does when the request has been served.
pub(super) enum After {
    Nothing,
    Close,
    Status(u16),
}

impl After {
    pub(super) fn apply(self, response: Response, line: &Line) -> Response {
        match self {
            Self::Nothing => response,
            Self::Close => {
                line.cut();
                response
            }
            Self::Status(status) => error(status, "Server error", "planned, after the work"),
        }
    }
}

/// Fails as planned, before anything is done.
pub(super) async fn faulty(shared: &Shared, line: &Line, is_meant: impl Fn(&On) -> bool) -> Result<After, Response> {
    let fault = {
        let mut state = shared.state();
        let found = state.faults.iter_mut().find(|(on, _, left)| *left > 0 && is_meant(on));
        found.map(|(_, fault, left)| {
            *left -= 1;
            fault.clone()
        })
    };
    match fault {
        None => Ok(After::Nothing),
        Some(Fault::RateLimited(after)) => {
            let mut response = error(429, "Too many requests", "Request was throttled. Your rate limit resets in ~1s.");
            if let Some(after) = after {
                response.headers_mut().insert(RETRY_AFTER, after.parse().unwrap());
            }
            Err(response)
        }
        Some(Fault::Status(status)) => Err(error(status, "Server error", "planned")),
        Some(Fault::StatusAfter(status)) => Ok(After::Status(status)),
        Some(Fault::Close) => {
            line.cut();
            Err(StatusCode::OK.into_response())
        }
        Some(Fault::CloseAfter) => Ok(After::Close),
        Some(Fault::Redirect(to)) => {
            Err(Response::builder().status(307).header(LOCATION, to).body(Body::empty()).unwrap())
        }
        Some(Fault::Says(body)) => Err(Response::builder().body(Body::from(body)).unwrap()),
        Some(Fault::Huge(bytes)) => {
            let piece = Bytes::from_static(&[b' '; 64 << 10]);
            let pieces = stream::unfold(0_u64, move |at| {
                let piece = piece.clone();
                async move { (at < bytes).then(|| (Ok::<_, io::Error>(piece.clone()), at + piece.len() as u64)) }
            });
            Err(Response::builder().header(CONTENT_TYPE, "application/json").body(Body::from_stream(pieces)).unwrap())
        }
        Some(Fault::Slow(time)) => {
            tokio::time::sleep(time).await;
            Ok(After::Nothing)
        }
        Some(Fault::Never) => std::future::pending().await,
    }
}

/// The text of a header that is there once.
fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok().map(str::to_owned),
        _ => None,
    }
}

async fn create_official(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(line): ConnectInfo<Line>,
    Path((owner, name)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    shared.state().counts.orders += 1;
    admit(&shared, &headers)?;
    let model = format!("{owner}/{name}");
    let is_there = shared.state().models.get(&model).is_some_and(super::Model::is_official);
    if !is_there {
        return Err(error(404, "Not found", "The requested resource could not be found."));
    }
    let fields = fields(&shared, &headers, &body, &["input", "webhook", "webhook_events_filter", "stream"])?;
    create(&shared, &line, &headers, model, None, fields).await
}

async fn create_version(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(line): ConnectInfo<Line>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    shared.state().counts.orders += 1;
    admit(&shared, &headers)?;
    let known = ["version", "input", "webhook", "webhook_events_filter", "stream"];
    let fields = fields(&shared, &headers, &body, &known)?;
    let Some(version) = fields.get("version").and_then(Value::as_str).map(str::to_owned) else {
        return Err(shared.violation(422, "version is required".to_owned()));
    };
    let (named, hash) = match version.split_once(':') {
        Some((model, hash)) => (Some(model), hash),
        None => (None, version.as_str()),
    };
    let model = {
        let state = shared.state();
        if named.is_some_and(|model| !state.models.contains_key(model)) {
            return Err(error(404, "Not found", "The requested resource could not be found."));
        }
        let is_meant = |model: &&String| version_of(model) == hash && named.is_none_or(|named| named == model.as_str());
        state.models.keys().find(is_meant).cloned()
    };
    let Some(model) = model else {
        let detail = "The specified version does not exist (or perhaps you don't have permission to use it?)";
        return Err(error(422, "Invalid version or not permitted", detail));
    };
    create(&shared, &line, &headers, model, Some(version), fields).await
}

/// The fields of a body, all of which have to be known.
fn fields(shared: &Shared, headers: &HeaderMap, body: &Bytes, known: &[&str]) -> Result<Map<String, Value>, Response> {
    if text(headers, "content-type").as_deref() != Some("application/json") {
        return Err(shared.violation(415, "an order is not application/json".to_owned()));
    }
    let Ok(Value::Object(fields)) = serde_json::from_slice(body) else {
        return Err(shared.violation(400, "an order is no JSON object".to_owned()));
    };
    match fields.keys().find(|name| !known.contains(&name.as_str())) {
        Some(unknown) => Err(shared.violation(422, format!("Additional property {unknown} is not allowed"))),
        None => Ok(fields),
    }
}

async fn create(
    shared: &Arc<Shared>,
    line: &Line,
    headers: &HeaderMap,
    model: String,
    version: Option<String>,
    fields: Map<String, Value>,
) -> Answer {
    let is_meant = |on: &On| *on == On::AnyCreate || matches!(on, On::Create(name) if *name == model);
    let after = faulty(shared, line, is_meant).await?;
    let input = fields.get("input").cloned().unwrap_or_default();
    if !input.is_object() {
        return Err(shared.violation(422, "input is required, and has to be an object".to_owned()));
    }
    let missing = shared.state().models.get(&model).and_then(|model| model.missing(&input).map(str::to_owned));
    if let Some(field) = missing {
        return Err(error(422, "Input validation failed", &format!("- input: {field} is required")));
    }
    let webhook = fields.get("webhook").map(|url| url.as_str().unwrap_or_default().to_owned());
    if webhook.as_ref().is_some_and(|url| !url.starts_with("http://") && !url.starts_with("https://")) {
        return Err(shared.violation(422, "webhook is no address".to_owned()));
    }
    let events = fields.get("webhook_events_filter").cloned().unwrap_or_else(|| json!(["completed"]));
    let names = ["start", "output", "logs", "completed"];
    let is_filter = |events: &Vec<Value>| events.iter().all(|event| names.iter().any(|name| event == name));
    let Some(events) = events.as_array().filter(|events| is_filter(events)) else {
        return Err(shared.violation(422, "webhook_events_filter names an event that is none".to_owned()));
    };
    let prefer = text(headers, "prefer");
    let wait = match prefer.as_deref().map(waited) {
        None => Duration::ZERO,
        Some(Some(wait)) => wait,
        Some(None) => return Err(shared.violation(400, format!("Prefer is {prefer:?}"))),
    };
    let cancel_after = text(headers, "cancel-after");
    let lifetime = match cancel_after.as_deref().map(lifetime) {
        Some(None) => return Err(shared.violation(400, format!("Cancel-After is {cancel_after:?}"))),
        other => other.flatten(),
    };
    let key = text(headers, "idempotency-key");
    let created =
        Created { id: String::new(), model: model.clone(), version, input, key, prefer, cancel_after, webhook };
    let id = {
        let mut state = shared.state();
        let (hook, webhook) = (state.models[&model].hook, created.webhook.clone());
        let id = state.make(&shared.url, created, lifetime);
        if let Some(url) = webhook.filter(|_| events.iter().any(|event| event == "completed")) {
            tokio::spawn(hook::deliver(shared.clone(), id.clone(), url, hook));
        }
        id
    };
    let until = tokio::time::Instant::now() + wait;
    let (json, is_final) = loop {
        let now = shared.state().find(&id).map(|made| (made.json(&shared.url), made.is_final()));
        let (json, is_final) = now.unwrap();
        if is_final || tokio::time::Instant::now() >= until {
            break (json, is_final);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let status = if is_final || wait.is_zero() { StatusCode::CREATED } else { StatusCode::ACCEPTED };
    Ok(after.apply((status, axum::Json(json)).into_response(), line))
}

/// `wait` or `wait=N` with 1 to 60 seconds.
fn waited(prefer: &str) -> Option<Duration> {
    let seconds = match prefer.strip_prefix("wait")?.strip_prefix('=') {
        None if prefer == "wait" => 60,
        None => return None,
        Some(number) => number.parse().ok().filter(|seconds| (1..=60).contains(seconds))?,
    };
    Some(Duration::from_secs(seconds))
}

/// Hours, minutes and seconds, such as `90s` or `1m30s`; 5 s at least.
fn lifetime(text: &str) -> Option<Duration> {
    let (mut seconds, mut number) = (0, String::new());
    for c in text.chars() {
        let unit = match c {
            '0'..='9' => {
                number.push(c);
                continue;
            }
            'h' => 3600,
            'm' => 60,
            's' => 1,
            _ => return None,
        };
        seconds += number.parse::<u64>().ok()? * unit;
        number.clear();
    }
    (number.is_empty() && seconds >= 5).then(|| Duration::from_secs(seconds))
}

async fn poll(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(line): ConnectInfo<Line>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Answer {
    shared.state().counts.gets += 1;
    admit(&shared, &headers)?;
    let after = faulty(&shared, &line, |on| *on == On::Get).await?;
    let found = shared.state().find(&id).map(|made| made.json(&shared.url));
    let json = found.ok_or_else(|| error(404, "Not found", "The requested resource could not be found."))?;
    Ok(after.apply(axum::Json(json).into_response(), &line))
}

async fn cancel(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(line): ConnectInfo<Line>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Answer {
    shared.state().counts.cancels += 1;
    admit(&shared, &headers)?;
    let after = faulty(&shared, &line, |on| *on == On::Cancel).await?;
    let found = shared.state().find(&id).map(|made| {
        made.cancel();
        made.json(&shared.url)
    });
    let json = found.ok_or_else(|| error(404, "Not found", "The requested resource could not be found."))?;
    Ok(after.apply(axum::Json(json).into_response(), &line))
}
