//! Files that models put out, and files that were uploaded.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{ConnectInfo, Multipart, Path, State};
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use bytes::Bytes;
use futures_util::stream;
use serde_json::{Value, json};

use super::api::{Answer, admit, error, faulty};
use super::connection::Line;
use super::{On, Shared};

/// How much of a made-up file is sent at a time.
const PIECE: usize = 64 << 10;

/// A file below `/outputs/`.
#[derive(Debug, Clone)]
pub struct File {
    content_type: String,
    head: Bytes,
    /// The whole size; what is beyond the head is repeated bytes that are never held.
    bytes: u64,
    /// After so many bytes the connection is closed.
    cut: Option<u64>,
    has_length: bool,
    redirect: Option<String>,
    pause: Duration,
}

impl File {
    /// A file of these bytes.
    pub fn bytes(content_type: &str, bytes: impl Into<Bytes>) -> Self {
        let head = bytes.into();
        Self {
            content_type: content_type.to_owned(),
            bytes: head.len() as u64,
            head,
            cut: None,
            has_length: true,
            redirect: None,
            pause: Duration::ZERO,
        }
    }

    /// A video of so many bytes, which is made while it is sent. It begins like an MP4 file: a box `ftyp`, then `mdat`.
    pub fn video(bytes: u64) -> Self {
        let mut head = Vec::new();
        head.extend_from_slice(&24_u32.to_be_bytes());
        head.extend_from_slice(b"ftypisom\0\0\x02\0isommp42");
        // A size of 1 says that the size comes after the name, in 64 bits.
        head.extend_from_slice(&1_u32.to_be_bytes());
        head.extend_from_slice(b"mdat");
        head.extend_from_slice(&bytes.saturating_sub(24).to_be_bytes());
        assert!(bytes >= head.len() as u64, "a video has {} bytes at least", head.len());
        Self { bytes, ..Self::bytes("video/mp4", head) }
    }

    /// It is said to have another media type.
    pub fn said_to_be(self, content_type: &str) -> Self {
        Self { content_type: content_type.to_owned(), ..self }
    }

    /// The connection is closed after so many bytes.
    pub fn cut_after(self, bytes: u64) -> Self {
        Self { cut: Some(bytes), ..self }
    }

    /// Its size is not said beforehand.
    pub fn without_length(self) -> Self {
        Self { has_length: false, ..self }
    }

    /// Every 64 KiB come this much later.
    pub fn slow(self, pause: Duration) -> Self {
        Self { pause, ..self }
    }

    /// It is somewhere else.
    pub fn redirect(to: &str) -> Self {
        Self { redirect: Some(to.to_owned()), ..Self::bytes("text/plain", Bytes::new()) }
    }

    fn response(self) -> Response {
        if let Some(to) = self.redirect {
            return Response::builder().status(302).header(LOCATION, to).body(Body::empty()).unwrap();
        }
        let mut response = Response::builder().header(CONTENT_TYPE, &self.content_type);
        if self.has_length {
            response = response.header(CONTENT_LENGTH, self.bytes);
        }
        let filler = Bytes::from(vec![b'v'; PIECE]);
        let end = self.cut.unwrap_or(self.bytes).min(self.bytes);
        let pieces = stream::unfold(0_u64, move |at| {
            let (head, filler, pause) = (self.head.clone(), filler.clone(), self.pause);
            let is_cut = self.cut.is_some();
            async move {
                if at >= end {
                    if is_cut {
                        // What was sent before goes out first.
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    let broken = (at == end && is_cut).then(|| Err(io::Error::from(io::ErrorKind::ConnectionReset)));
                    return broken.map(|error| (error, at + 1));
                }
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
                let most = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
                let piece = match usize::try_from(at) {
                    Ok(at) if at < head.len() => head.slice(at..head.len().min(at + most)),
                    _ => filler.slice(..most),
                };
                let next = at + piece.len() as u64;
                Some((Ok(piece), next))
            }
        });
        response.body(Body::from_stream(pieces)).unwrap()
    }
}

/// A file that was uploaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its media type.
    pub content_type: String,
    /// What is in it.
    pub bytes: Bytes,
}

impl super::State {
    /// The bytes of a data URI or of a file that was uploaded to this server.
    pub(super) fn content(&self, url: &str, at: &str) -> Option<Bytes> {
        if let Some((_, data)) = at.strip_prefix("data:").and_then(|rest| rest.split_once(";base64,")) {
            return base64::engine::general_purpose::STANDARD.decode(data).ok().map(Bytes::from);
        }
        let id = at.strip_prefix(url)?.strip_prefix("/v1/files/")?;
        self.uploads.iter().find(|upload| upload.id == id).map(|upload| upload.bytes.clone())
    }
}

/// `GET /outputs/{name}`
pub(super) async fn output(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(line): ConnectInfo<Line>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Answer {
    {
        let mut state = shared.state();
        state.counts.outputs += 1;
        state.counts.leaked_tokens += u64::from(headers.contains_key(AUTHORIZATION));
    }
    let after = faulty(&shared, &line, |on| *on == On::Output(name.clone())).await?;
    let found = shared.state().files.get(&name).cloned();
    let response = found.map_or_else(|| StatusCode::NOT_FOUND.into_response(), File::response);
    Ok(after.apply(response, &line))
}

fn file_json(url: &str, upload: &Upload) -> Value {
    json!({
        "id": upload.id,
        "name": upload.name,
        "content_type": upload.content_type,
        "size": upload.bytes.len(),
        "etag": "an etag",
        "checksums": {},
        "metadata": {},
        "created_at": "2026-01-01T00:00:00.000Z",
        "expires_at": "2026-01-02T00:00:00.000Z",
        "urls": {"get": format!("{url}/v1/files/{}", upload.id)},
    })
}

/// `POST /v1/files`
pub(super) async fn upload(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(line): ConnectInfo<Line>,
    headers: HeaderMap,
    multipart: Result<Multipart, axum::extract::multipart::MultipartRejection>,
) -> Answer {
    shared.state().counts.uploads += 1;
    if shared.state().takes_no_files {
        return Err(error(404, "Not Found", "there are no files here"));
    }
    admit(&shared, &headers)?;
    let after = faulty(&shared, &line, |on| *on == On::Upload).await?;
    let mut multipart =
        multipart.map_err(|_| shared.violation(415, "an upload is not multipart/form-data".to_owned()))?;
    let broken = || shared.violation(400, "an upload's parts cannot be read".to_owned());
    let mut content = None;
    while let Some(field) = multipart.next_field().await.map_err(|_| broken())? {
        match field.name() {
            Some("content") if content.is_none() => {
                let (name, kind) = (field.file_name().map(str::to_owned), field.content_type().map(str::to_owned));
                let bytes = field.bytes().await.map_err(|_| broken())?;
                let (Some(name), Some(content_type)) = (name, kind) else {
                    return Err(shared.violation(422, "an upload has no name or no media type".to_owned()));
                };
                content = Some((name, content_type, bytes));
            }
            Some("metadata") => {}
            other => return Err(shared.violation(422, format!("an upload has a part {other:?}"))),
        }
    }
    let Some((name, content_type, bytes)) = content else {
        return Err(shared.violation(422, "an upload has no part content".to_owned()));
    };
    let mut state = shared.state();
    let upload = Upload { id: format!("file{}", state.uploads.len()), name, content_type, bytes };
    let json = file_json(&shared.url, &upload);
    state.uploads.push(upload);
    drop(state);
    Ok(after.apply((StatusCode::CREATED, axum::Json(json)).into_response(), &line))
}

/// `GET /v1/files/{id}`
pub(super) async fn uploaded(State(shared): State<Arc<Shared>>, Path(id): Path<String>, headers: HeaderMap) -> Answer {
    admit(&shared, &headers)?;
    let state = shared.state();
    let found = state.uploads.iter().find(|upload| upload.id == id);
    let found = found.ok_or_else(|| error(404, "Not Found", "there is no such file"))?;
    Ok(axum::Json(file_json(&shared.url, found)).into_response())
}
