//! Content on its way in: in one request, or in a session.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use serde_json::{Map, Value};

use super::Shared;
use super::objects::{Refusal, StoredObject};
use super::wire::{Call, check_conditions, store};

/// Pieces of a session must be multiples of this, but for the last.
const PIECE_BYTES: usize = 256 << 10;

/// A resumable upload.
#[derive(Debug)]
pub struct Session {
    bucket: String,
    name: String,
    resource: Value,
    /// The request that began it: its preconditions hold at the end, too.
    start: Call,
    received: Vec<u8>,
    done: Option<StoredObject>,
}

fn invalid(message: impl Into<String>) -> Refusal {
    Refusal(StatusCode::BAD_REQUEST, "invalid", message.into())
}

/// An upload in one request, or the start of a session.
pub fn post(shared: &Shared, call: &Call, bucket: &str) -> Result<Response, Refusal> {
    if !call.is_whole {
        return Err(invalid("The body broke off."));
    }
    match call.query.get("uploadType").map(String::as_str) {
        Some("media") => {
            let mut resource = Map::new();
            if let Some(kind) = call.header("content-type") {
                resource.insert("contentType".into(), kind.into());
            }
            let resource = Value::Object(resource);
            let name = name_of(call, &resource)?;
            let object = store(shared, call, bucket, &name, call.body.clone(), &resource)?;
            Ok(axum::Json(object.resource(&shared.url)).into_response())
        }
        Some("multipart") => {
            let (resource, content) = multipart(call)?;
            let name = name_of(call, &resource)?;
            let object = store(shared, call, bucket, &name, content, &resource)?;
            Ok(axum::Json(object.resource(&shared.url)).into_response())
        }
        Some("resumable") => start(shared, call, bucket),
        other => Err(invalid(format!("Unknown uploadType {other:?}"))),
    }
}

/// The object's name: in the query, in the metadata, or the same in both.
fn name_of(call: &Call, resource: &Value) -> Result<String, Refusal> {
    match (call.query.get("name").map(String::as_str), resource["name"].as_str()) {
        (Some(one), Some(other)) if one != other => Err(invalid("Two names were given.")),
        (Some(""), _) | (None, None | Some("")) => Err(invalid("No object name")),
        (Some(name), _) | (None, Some(name)) => Ok(name.to_owned()),
    }
}

/// Metadata and content of a multipart body. A third part may have the checksums, which come to the metadata.
fn multipart(call: &Call) -> Result<(Value, Bytes), Refusal> {
    let kind = call.header("content-type").unwrap_or_default();
    let boundary = kind
        .strip_prefix("multipart/related;")
        .and_then(|rest| rest.split(';').find_map(|part| part.trim().strip_prefix("boundary=")))
        .map(|boundary| boundary.trim_matches(['"', '\'']))
        .filter(|boundary| !boundary.is_empty())
        .ok_or_else(|| invalid("The content type is not multipart/related with a boundary."))?;
    let mut parts = Vec::new();
    let opening = format!("--{boundary}\r\n");
    let between = format!("\r\n--{boundary}");
    let body = &call.body;
    if !body.starts_with(opening.as_bytes()) {
        return Err(invalid("The body does not begin with the boundary."));
    }
    let mut start = opening.len();
    loop {
        let rest = &body[start..];
        let head = find(rest, b"\r\n\r\n").ok_or_else(|| invalid("A part has no headers."))?;
        let content = start + head + 4;
        let length = find(&body[content..], between.as_bytes()).ok_or_else(|| invalid("A part has no end."))?;
        let headers = String::from_utf8_lossy(&rest[..head]).to_lowercase();
        parts.push((headers, body.slice(content..content + length)));
        let after = &body[content + length + between.len()..];
        if after.starts_with(b"--") {
            break;
        }
        if !after.starts_with(b"\r\n") {
            return Err(invalid("After a boundary there is neither a line's end nor the end."));
        }
        start = content + length + between.len() + 2;
    }
    let (metadata, content, checksums) = match &parts[..] {
        [metadata, content] => (metadata, content, None),
        [metadata, content, checksums] => (metadata, content, Some(checksums)),
        _ => return Err(invalid(format!("{} parts instead of two or three", parts.len()))),
    };
    let mut resource = Value::Object(Map::new());
    for (headers, text) in std::iter::once(metadata).chain(checksums) {
        if !headers.contains("content-type: application/json") {
            return Err(invalid("The metadata is not application/json."));
        }
        let fields: Map<String, Value> =
            serde_json::from_slice(text).map_err(|error| invalid(format!("The metadata is no JSON: {error}")))?;
        for (field, value) in fields {
            resource[field] = value;
        }
    }
    // What the metadata does not say, the part's own header does.
    if resource["contentType"].is_null() {
        let kind = content.0.lines().find_map(|line| line.strip_prefix("content-type: "));
        match kind {
            Some(kind) => resource["contentType"] = kind.into(),
            None => drop(resource.as_object_mut().unwrap().remove("contentType")),
        }
    }
    Ok((resource, content.1.clone()))
}

fn find(text: &[u8], pattern: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = text[from..].iter().position(|byte| *byte == pattern[0]) {
        if text[from + at..].starts_with(pattern) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

fn start(shared: &Shared, call: &Call, bucket: &str) -> Result<Response, Refusal> {
    let mut resource: Value = match &call.body[..] {
        [] => Value::Object(Map::new()),
        text => serde_json::from_slice(text).map_err(|error| invalid(format!("The metadata is no JSON: {error}")))?,
    };
    if resource.get("contentType").is_none()
        && let Some(kind) = call.header("x-upload-content-type")
    {
        resource["contentType"] = kind.into();
    }
    let name = name_of(call, &resource)?;
    let mut state = shared.state();
    if !state.buckets.has(bucket) {
        let message = "The specified bucket does not exist.".to_owned();
        return Err(Refusal(StatusCode::NOT_FOUND, "notFound", message));
    }
    let found = state.buckets.newest(bucket, &name).map(|object| object.generation);
    check_conditions(call, found, StatusCode::PRECONDITION_FAILED)?;
    state.sessions_begun += 1;
    let id = format!("{:08x}", state.sessions_begun);
    let start = Call {
        method: call.method.clone(),
        path: call.path.clone(),
        query: call.query.clone(),
        headers: call.headers.clone(),
        body: Bytes::new(),
        is_whole: true,
    };
    let session = Session { bucket: bucket.to_owned(), name, resource, start, received: Vec::new(), done: None };
    state.sessions.insert(id.clone(), session);
    let place = format!("{}/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={id}", shared.url);
    Ok(([(header::LOCATION, place)], ()).into_response())
}

/// A piece of a session, or the question how far it has come.
pub fn put(shared: &Shared, call: &Call) -> Result<Response, Refusal> {
    let id = call.query.get("upload_id").cloned().unwrap_or_default();
    let mut state = shared.state();
    let Some(session) = state.sessions.get_mut(&id) else {
        return Err(Refusal(StatusCode::NOT_FOUND, "notFound", "There is no such session.".to_owned()));
    };
    if let Some(done) = &session.done {
        return Ok(axum::Json(done.resource(&shared.url)).into_response());
    }
    let range = call.header("content-range").map(str::to_owned);
    let (first, total) = match range.as_deref().map(|range| parse(range).ok_or_else(|| invalid(range))).transpose()? {
        None => (0, Some(call.body.len())),
        Some((None, total)) => (session.received.len(), total),
        Some((Some((first, end)), total)) => {
            if call.is_whole && call.body.len() != end - first {
                return Err(invalid("The body is not as long as its range."));
            }
            if call.is_whole && total != Some(end) && !call.body.len().is_multiple_of(PIECE_BYTES) {
                return Err(invalid("A piece that is not the last must be a multiple of 256 KiB."));
            }
            (first, total)
        }
    };
    // What is there already is ignored when it comes again; a gap is none of it.
    let Some(known) = session.received.len().checked_sub(first) else {
        return Err(invalid(format!("The piece begins at {first}, after {}.", session.received.len())));
    };
    // Of a body that broke off, whole pieces stay.
    let kept = if call.is_whole { call.body.len() } else { call.body.len() / PIECE_BYTES * PIECE_BYTES };
    session.received.extend_from_slice(call.body.get(known..kept).unwrap_or_default());
    if total != Some(session.received.len()) {
        let mut response = StatusCode::PERMANENT_REDIRECT.into_response();
        if let Some(last) = session.received.len().checked_sub(1) {
            let range = format!("bytes=0-{last}").parse().unwrap();
            response.headers_mut().insert(header::RANGE, range);
        }
        return Ok(response);
    }
    let mut resource = session.resource.clone();
    for hash in call.header("x-goog-hash").unwrap_or_default().split(',') {
        match hash.trim().split_once('=') {
            Some(("crc32c", value)) => resource["crc32c"] = value.into(),
            Some(("md5", value)) => resource["md5Hash"] = value.into(),
            _ => {}
        }
    }
    // Out and in again: storing needs the state.
    let mut session = state.sessions.remove(&id).unwrap();
    drop(state);
    let content = Bytes::from(std::mem::take(&mut session.received));
    let stored = store(shared, &session.start, &session.bucket, &session.name, content, &resource)?;
    let response = axum::Json(stored.resource(&shared.url)).into_response();
    session.done = Some(stored);
    shared.state().sessions.insert(id, session);
    Ok(response)
}

type Range = (Option<(usize, usize)>, Option<usize>);

/// First byte, end and total of a Content-Range; `*` is none.
fn parse(range: &str) -> Option<Range> {
    let (range, total) = range.strip_prefix("bytes ")?.split_once('/')?;
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    if range == "*" {
        return Some((None, total));
    }
    let (first, last) = range.split_once('-')?;
    let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((Some((first, last + 1)), total))
}
