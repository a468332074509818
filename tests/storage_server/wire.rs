//! Requests and answers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};

use super::connection::Line;
use super::faults::{Fault, Kind};
use super::objects::{Buckets, Refusal, StoredObject, Written, rfc3339};
use super::{Shared, upload};

/// Query parameters that are understood, or known to change nothing here.
const PARAMETERS: [&str; 22] = [
    "alt",
    "delimiter",
    "fields",
    "generation",
    "ifGenerationMatch",
    "ifGenerationNotMatch",
    "ifMetagenerationMatch",
    "ifMetagenerationNotMatch",
    "includeTrailingDelimiter",
    "maxResults",
    "name",
    "pageToken",
    "prefix",
    "prettyPrint",
    "project",
    "projection",
    "softDeleted",
    "uploadType",
    "upload_id",
    "userProject",
    "versions",
    "enableObjectRetention",
];

/// The most content that one request may have: 1 GiB.
const MOST_BYTES: usize = 1 << 30;

/// A request, read.
#[derive(Debug)]
pub struct Call {
    pub method: Method,
    /// The parts of the path, decoded.
    pub path: Vec<String>,
    pub query: HashMap<String, String>,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Whether the body came to its end.
    pub is_whole: bool,
}

impl Call {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    fn kind(&self) -> Kind {
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        let is_media = self.query.get("alt").is_some_and(|alt| alt == "media");
        match (self.method.as_str(), &path[..]) {
            ("GET", ["storage", "v1", "b", _, "o", _]) if is_media => Kind::Read,
            ("GET", ["download", "storage", "v1", "b", _, "o", _]) => Kind::Read,
            ("GET", ["storage", "v1", "b", _, "o", _]) => Kind::Metadata,
            ("DELETE", ["storage", "v1", "b", _, "o", _]) => Kind::Delete,
            ("GET", ["storage", "v1", "b", _, "o"]) => Kind::List,
            ("GET", ["storage", "v1", "b", _]) | ("POST", ["storage", "v1", "b"]) => Kind::Bucket,
            ("POST", ["upload", "storage", "v1", "b", _, "o"]) => {
                match self.query.get("uploadType").map(String::as_str) {
                    Some("resumable") => Kind::Session,
                    _ => Kind::Write,
                }
            }
            ("PUT", ["upload", "storage", "v1", "b", _, "o"]) => {
                if self.header("content-range").is_some_and(|range| range.starts_with("bytes */")) {
                    Kind::Session
                } else {
                    Kind::Write
                }
            }
            _ => Kind::Unknown,
        }
    }

    /// A number among the query parameters.
    pub fn number(&self, name: &str) -> Result<Option<i64>, Refusal> {
        let Some(text) = self.query.get(name) else { return Ok(None) };
        let invalid = || Refusal(StatusCode::BAD_REQUEST, "invalid", format!("Invalid value for {name}: {text}"));
        text.parse().map(Some).map_err(|_| invalid())
    }
}

/// Counts a request while it runs.
struct Running(Arc<Shared>);

impl Running {
    fn new(shared: &Arc<Shared>) -> Self {
        let mut state = shared.state();
        state.at_once += 1;
        state.counts.most_at_once = state.counts.most_at_once.max(state.at_once);
        Self(shared.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.state().at_once -= 1;
    }
}

/// Answers a request, or lets it go wrong.
pub async fn handle(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(line): ConnectInfo<Line>,
    request: Request,
) -> Response {
    let _running = Running::new(&shared);
    let (parts, body) = request.into_parts();
    let (body, is_whole) = collect(body).await;
    let path = parts.uri.path().trim_start_matches('/').split('/').map(decode).collect();
    let query = parts.uri.query().unwrap_or_default();
    let query = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let call = Call { method: parts.method, path, query, headers: parts.headers, body, is_whole };
    let kind = call.kind();
    let (fault, delay) = {
        let mut state = shared.state();
        *state.counts.requests.entry(kind).or_default() += 1;
        let fault = state.plan.next(kind);
        state.counts.failed += u64::from(fault.is_some());
        (fault, state.plan.delay())
    };
    let late = if let Some(Fault::Late(late)) = fault { late } else { delay };
    match fault {
        Some(Fault::Status(status)) => {
            tokio::time::sleep(late).await;
            let status = StatusCode::from_u16(status).unwrap();
            return error(&call, &Refusal(status, "backendError", "This was asked for.".to_owned()));
        }
        Some(Fault::Drop) => {
            line.cut();
            return StatusCode::OK.into_response();
        }
        _ => {}
    }
    let response = answer(&shared, &call).unwrap_or_else(|refusal| error(&call, &refusal));
    tokio::time::sleep(late).await;
    let is_content = kind == Kind::Read && response.status().is_success();
    match fault {
        Some(Fault::LoseAnswer) => {
            line.cut();
            StatusCode::OK.into_response()
        }
        Some(fault @ (Fault::Cut | Fault::Stall(_) | Fault::Corrupt)) if is_content => spoil(response, fault).await,
        _ => response,
    }
}

async fn collect(body: Body) -> (Bytes, bool) {
    let mut all = Vec::with_capacity(body.size_hint().lower() as usize);
    let mut pieces = body.into_data_stream();
    while let Some(piece) = pieces.next().await {
        match piece {
            Ok(piece) if all.len() + piece.len() <= MOST_BYTES => all.extend_from_slice(&piece),
            _ => return (all.into(), false),
        }
    }
    (all.into(), true)
}

/// Lets the content of an answer go wrong in its middle.
async fn spoil(response: Response, fault: Fault) -> Response {
    let (mut parts, body) = response.into_parts();
    let mut first = axum::body::to_bytes(body, MOST_BYTES).await.unwrap().to_vec();
    parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(first.len()));
    let rest = first.split_off(first.len() / 2);
    // The pause lets the first piece out.
    let (pause, rest) = match fault {
        Fault::Cut => (Duration::from_millis(5), Err(std::io::Error::other("cut"))),
        Fault::Stall(pause) => (pause, Ok(Bytes::from(rest))),
        _ => {
            let mut rest = rest;
            rest.iter_mut().take(1).for_each(|byte| *byte ^= 1);
            (Duration::ZERO, Ok(Bytes::from(rest)))
        }
    };
    let rest = stream::once(async move {
        tokio::time::sleep(pause).await;
        rest
    });
    Response::from_parts(parts, Body::from_stream(stream::iter([Ok(Bytes::from(first))]).chain(rest)))
}

fn answer(shared: &Arc<Shared>, call: &Call) -> Result<Response, Refusal> {
    let known = |name: &&String| !PARAMETERS.contains(&name.as_str());
    if let Some(name) = call.query.keys().find(known) {
        return Err(Refusal(StatusCode::BAD_REQUEST, "invalidParameter", format!("Unknown query parameter {name}")));
    }
    let path: Vec<&str> = call.path.iter().map(String::as_str).collect();
    match (call.kind(), &path[..]) {
        (Kind::Read, [.., "b", bucket, "o", name]) => read(shared, call, bucket, name),
        (Kind::Metadata, [.., bucket, _, name]) => {
            let state = shared.state();
            let object = find(&state.buckets, call, bucket, name)?;
            Ok(axum::Json(object.resource(&shared.url)).into_response())
        }
        (Kind::Delete, [.., bucket, _, name]) => {
            let mut state = shared.state();
            find(&state.buckets, call, bucket, name)?;
            state.buckets.remove(bucket, name);
            Ok(StatusCode::NO_CONTENT.into_response())
        }
        (Kind::List, [.., bucket, _]) => list(shared, call, bucket),
        (Kind::Bucket, [.., bucket]) => {
            let mut state = shared.state();
            let name = if call.method == Method::POST {
                let body: Value = serde_json::from_slice(&call.body).unwrap_or_default();
                let name = body["name"].as_str().unwrap_or_default().to_owned();
                state.buckets.create(&name);
                name
            } else {
                check_bucket(&state.buckets, bucket)?;
                (*bucket).to_owned()
            };
            let created = rfc3339(0);
            Ok(axum::Json(json!({
                "kind": "storage#bucket", "id": name, "name": name, "projectNumber": "1", "metageneration": "1",
                "location": "US", "storageClass": "STANDARD", "timeCreated": created, "updated": created, "etag": "CAE=",
            }))
            .into_response())
        }
        (Kind::Write | Kind::Session, [.., bucket, _]) if call.method == Method::POST => {
            upload::post(shared, call, bucket)
        }
        (Kind::Write | Kind::Session, _) => upload::put(shared, call),
        _ => Err(Refusal(StatusCode::NOT_FOUND, "notFound", format!("{} {:?} is not known", call.method, call.path))),
    }
}

fn check_bucket(buckets: &Buckets, bucket: &str) -> Result<(), Refusal> {
    if buckets.has(bucket) {
        return Ok(());
    }
    Err(Refusal(StatusCode::NOT_FOUND, "notFound", "The specified bucket does not exist.".to_owned()))
}

/// The generation that is asked for, when the preconditions hold.
fn find<'a>(buckets: &'a Buckets, call: &Call, bucket: &str, name: &str) -> Result<&'a StoredObject, Refusal> {
    check_bucket(buckets, bucket)?;
    let found = match call.number("generation")? {
        Some(generation) => buckets.of_generation(bucket, name, generation),
        None => buckets.newest(bucket, name),
    };
    check_conditions(call, found.map(|object| object.generation), StatusCode::NOT_MODIFIED)?;
    found.ok_or_else(|| Refusal(StatusCode::NOT_FOUND, "notFound", format!("No such object: {bucket}/{name}")))
}

/// Whether the preconditions of a request hold for the generation that is there.
pub fn check_conditions(call: &Call, found: Option<i64>, not_match: StatusCode) -> Result<(), Refusal> {
    let failed = |status| {
        let message = "At least one of the pre-conditions you specified did not hold.".to_owned();
        Refusal(status, "conditionNotMet", message)
    };
    // 0 stands for no object; every object has metageneration 1.
    let there = found.unwrap_or(0);
    let meta = i64::from(found.is_some());
    for (name, value) in [("ifGenerationMatch", there), ("ifMetagenerationMatch", meta)] {
        if call.number(name)?.is_some_and(|wanted| wanted != value) {
            return Err(failed(StatusCode::PRECONDITION_FAILED));
        }
    }
    for (name, value) in [("ifGenerationNotMatch", there), ("ifMetagenerationNotMatch", meta)] {
        if call.number(name)?.is_some_and(|unwanted| unwanted == value) {
            return Err(failed(not_match));
        }
    }
    Ok(())
}

fn read(shared: &Shared, call: &Call, bucket: &str, name: &str) -> Result<Response, Refusal> {
    let state = shared.state();
    let object = find(&state.buckets, call, bucket, name)?;
    let size = object.bytes.len();
    let range = match call.header("range") {
        None => None,
        Some(text) => Some(range(text, size).ok_or_else(|| {
            let message = "The requested range cannot be satisfied.".to_owned();
            Refusal(StatusCode::RANGE_NOT_SATISFIABLE, "requestedRangeNotSatisfiable", message)
        })?),
    };
    let (first, end) = range.unwrap_or((0, size));
    let mut response = Response::new(Body::from(object.bytes.slice(first..end)));
    let headers = response.headers_mut();
    let mut set = |name: &'static str, value: String| {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_str(&value).unwrap());
    };
    set("x-goog-generation", object.generation.to_string());
    set("x-goog-metageneration", "1".into());
    set("x-goog-stored-content-length", size.to_string());
    set("x-goog-stored-content-encoding", object.content_encoding.clone().unwrap_or_else(|| "identity".into()));
    set("x-goog-storage-class", "STANDARD".into());
    set("x-goog-hash", format!("crc32c={},md5={}", object.crc32c(), object.md5()));
    set("etag", object.etag());
    set("accept-ranges", "bytes".into());
    set("content-type", object.content_type.clone());
    set("cache-control", object.cache_control.clone().unwrap_or_else(|| "private, max-age=0".into()));
    if let Some(encoding) = &object.content_encoding {
        set("content-encoding", encoding.clone());
    }
    if range.is_some() {
        set("content-range", format!("bytes {first}-{}/{size}", end - 1));
    }
    for (key, value) in &object.metadata {
        let name = HeaderName::from_bytes(format!("x-goog-meta-{key}").as_bytes()).unwrap();
        headers.insert(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    if range.is_some() {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}

/// First byte and end of a range of `size` bytes; none when no byte lies in it.
fn range(text: &str, size: usize) -> Option<(usize, usize)> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let (first, end) = match (first, last) {
        ("", last) => (size.saturating_sub(last.parse().ok()?), size),
        (first, "") => (first.parse().ok()?, size),
        (first, last) => (first.parse().ok()?, last.parse::<usize>().ok()?.saturating_add(1).min(size)),
    };
    (first < end).then_some((first, end))
}

fn list(shared: &Shared, call: &Call, bucket: &str) -> Result<Response, Refusal> {
    let state = shared.state();
    check_bucket(&state.buckets, bucket)?;
    let text = |name: &str| call.query.get(name).map(String::as_str).unwrap_or_default();
    let (prefix, delimiter, after) = (text("prefix"), text("delimiter"), text("pageToken"));
    let most = call.number("maxResults")?.unwrap_or(1000).clamp(1, 1000) as usize;
    let (mut items, mut prefixes, mut next) = (Vec::new(), Vec::<String>::new(), None);
    for object in state.buckets.all(bucket) {
        if !object.name.starts_with(prefix) || (!after.is_empty() && object.name.as_str() <= after) {
            continue;
        }
        if items.len() + prefixes.len() == most {
            break;
        }
        next = Some(object.name.clone());
        let rest = &object.name[prefix.len()..];
        match rest.split_once(delimiter).filter(|_| !delimiter.is_empty()) {
            Some((folder, _)) => {
                let folder = format!("{prefix}{folder}{delimiter}");
                if prefixes.last() != Some(&folder) {
                    prefixes.push(folder);
                }
            }
            None => items.push(object.resource(&shared.url)),
        }
    }
    let last = state.buckets.all(bucket).filter(|object| object.name.starts_with(prefix)).last();
    let is_last = last.map(|object| &object.name) == next.as_ref() || next.is_none();
    let mut page = json!({ "kind": "storage#objects", "items": items, "prefixes": prefixes });
    if !is_last {
        page["nextPageToken"] = json!(next);
    }
    Ok(axum::Json(page).into_response())
}

/// Stores content when the preconditions hold, and remembers that.
pub fn store(
    shared: &Shared,
    conditions: &Call,
    bucket: &str,
    name: &str,
    bytes: Bytes,
    resource: &Value,
) -> Result<StoredObject, Refusal> {
    let mut state = shared.state();
    check_bucket(&state.buckets, bucket)?;
    let before = state.buckets.newest(bucket, name).map(|object| object.generation);
    check_conditions(conditions, before, StatusCode::PRECONDITION_FAILED)?;
    let object = state.buckets.store(bucket, name, bytes, resource)?;
    state.buckets.writes.push(Written {
        bucket: bucket.to_owned(),
        name: name.to_owned(),
        generation: object.generation,
        replaced: before,
    });
    Ok(object)
}

/// An error as Google words it: JSON, but plain text where content was asked for.
fn error(call: &Call, Refusal(status, reason, message): &Refusal) -> Response {
    if call.kind() == Kind::Read {
        return (*status, message.clone()).into_response();
    }
    let body = json!({ "error": {
        "code": status.as_u16(),
        "message": message,
        "errors": [{ "message": message, "domain": "global", "reason": reason }],
    }});
    (*status, axum::Json(body)).into_response()
}

/// Undoes percent-encoding.
fn decode(part: &str) -> String {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let code = (byte == b'%').then(|| after.get(..2)).flatten();
        let code = code.and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok());
        bytes.push(code.unwrap_or(byte));
        rest = if code.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
