//! Direct requests: a job in, its manifest or its one picture out.

use std::time::{Duration, Instant};

use axum::body::{Body, HttpBody};
use axum::extract::{FromRequest, Multipart, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use tokio::time::timeout;

use super::{BODY_TIMEOUT, Face, reply};
use crate::pipeline::job::{BackgroundAction, Job, MAX_JOB_BYTES};
use crate::pipeline::manifest::State as Outcome;
use crate::pipeline::run;
use crate::service::failure::{Class, Failure};
use crate::service::worker::{Finished, Given, Keep, escaped};

/// How long the picture in a form may stop arriving: memory waits for it.
const PAUSE: Duration = Duration::from_secs(10);

/// `POST /v1/render`.
pub async fn render(State(face): State<Face>, request: Request) -> Response {
    let due = face.worker.due(Instant::now());
    let wants_picture = wants_picture(request.headers());
    let multipart = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.to_ascii_lowercase().starts_with("multipart/form-data"));
    let read = if multipart { read_form(&face, request).await } else { read_job(&face, request.into_body()).await };
    let (job, given) = match read {
        Ok(read) => read,
        Err(response) => return response,
    };
    // A cut-out is one picture, though its matte is made beside it.
    let names = run::object_names(&job, face.worker.options());
    let files = names.len() - usize::from(job.background.action == BackgroundAction::Remove && !job.background.matte);
    let keep = match (wants_picture, files) {
        (false, _) => Keep::Stored,
        (true, 1) => Keep::Picture,
        (true, files) => {
            let message = format!(
                "Accept asks for a picture and the job makes {files} files; ask for one palette and one output, or for JSON"
            );
            return reply::error(StatusCode::NOT_ACCEPTABLE, Class::BadJob.name(), &message);
        }
    };
    let answer = face.worker.render(job, given, keep, Some(due)).await;
    let mut response = match answer.result {
        Ok(finished) => finished_response(finished),
        Err(failure) => reply::Refusal(failure).into_response(),
    };
    if let Some(timing) = reply::server_timing(&answer.line.timings) {
        response.headers_mut().insert("server-timing", timing);
    }
    response
}

fn finished_response(finished: Finished) -> Response {
    let Finished { manifest, folder, duplicate, picture } = finished;
    if let Some(picture) = picture {
        let headers = [(header::CONTENT_TYPE, picture.format.content_type()), (header::CACHE_CONTROL, "no-store")];
        return (headers, picture.content).into_response();
    }
    if let (Some(error), true) = (
        manifest.variations.iter().find_map(|entry| entry.error.as_ref()),
        manifest.state == Outcome::Failed || manifest.variations.is_empty(),
    ) {
        // Nothing was made; the manifest says why of each.
        let mut response = reply::pretty(StatusCode::UNPROCESSABLE_ENTITY, &*manifest);
        if let Ok(class) = HeaderValue::from_str(&error.class) {
            response.headers_mut().insert("x-concept-class", class);
        }
        return response;
    }
    let mut response = reply::pretty(StatusCode::OK, &*manifest);
    let place = format!("gs://{}/{}", folder.bucket(), escaped(folder.join("manifest.json").name()));
    if let Ok(place) = HeaderValue::from_str(&place) {
        response.headers_mut().insert("x-concept-manifest", place);
    }
    response
        .headers_mut()
        .insert("x-concept-cached", HeaderValue::from_static(if duplicate { "true" } else { "false" }));
    response
}

/// Whether the caller would rather have the picture than the manifest: `image/` stands before JSON in Accept.
fn wants_picture(headers: &HeaderMap) -> bool {
    let accepts = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match (accepts.find("image/"), accepts.find("application/json")) {
        (Some(image), Some(json)) => image < json,
        (image, _) => image.is_some(),
    }
}

async fn read_job(face: &Face, body: Body) -> Result<(Job, Option<Given>), Response> {
    let length = HttpBody::size_hint(&body).upper().unwrap_or(u64::MAX).min(MAX_JOB_BYTES as u64);
    let Some(_room) = reply::room_for(&face.bodies, length).await else {
        let failure = Failure::new(Class::Busy, "too many jobs arrive at once; send it again later");
        return Err(reply::Refusal(failure).into_response());
    };
    let bytes = reply::read_body(body, MAX_JOB_BYTES).await?;
    Job::from_json(&bytes).map(|job| (job, None)).map_err(|error| bad_job(error.to_string()))
}

fn bad_job(problem: String) -> Response {
    reply::Refusal(Failure::new(Class::BadJob, problem)).into_response()
}

/// A form with `job` (JSON, its source left out) and `image` (the picture).
async fn read_form(face: &Face, request: Request) -> Result<(Job, Option<Given>), Response> {
    let limit = face.worker.max_source_bytes().saturating_add(MAX_JOB_BYTES as u64);
    let Some(length) = reply::content_length(request.headers()) else {
        return Err(reply::error(
            StatusCode::LENGTH_REQUIRED,
            Class::BadMessage.name(),
            "a form needs a Content-Length, so that there is memory for it before it is read",
        ));
    };
    if length > limit {
        let message =
            format!("the form has {length} bytes, more than the limit of {limit}; raise CONCEPT_MAX_SOURCE_BYTES");
        return Err(reply::error(StatusCode::PAYLOAD_TOO_LARGE, Class::PictureTooLarge.name(), &message));
    }
    let room = face.worker.make_room(length).await;
    let (place, permit) = room.map_err(|failure| reply::Refusal(failure).into_response())?;
    let mut form = Multipart::from_request(request, &()).await.map_err(|error| {
        reply::error(StatusCode::BAD_REQUEST, Class::BadMessage.name(), &format!("the form cannot be read: {error}"))
    })?;
    let broken = |problem: &str| {
        let message =
            format!("the form cannot be read: {problem}; send the fields `job` (JSON) and `image` (the picture)");
        reply::error(StatusCode::BAD_REQUEST, Class::BadMessage.name(), &message)
    };
    let (mut job, mut picture, mut name) = (None, None, None);
    let read = async {
        while let Some(mut field) = form.next_field().await.map_err(|error| broken(&error.to_string()))? {
            let field_name = field.name().unwrap_or_default().to_owned();
            let file_name = field.file_name().map(str::to_owned);
            let mut bytes = Vec::new();
            let late = |_| broken("it stopped arriving");
            while let Some(chunk) =
                timeout(PAUSE, field.chunk()).await.map_err(late)?.map_err(|error| broken(&error.to_string()))?
            {
                bytes.extend_from_slice(&chunk);
                if field_name == "job" && bytes.len() > MAX_JOB_BYTES {
                    return Err(broken("the job is too long"));
                }
            }
            match field_name.as_str() {
                "job" => job = Some(bytes),
                "image" => {
                    picture = Some(bytes);
                    name = file_name;
                }
                other => return Err(broken(&format!("there is no field {other:?}"))),
            }
        }
        Ok(())
    };
    match timeout(BODY_TIMEOUT, read).await {
        Ok(read) => read?,
        Err(_) => return Err(broken("it did not arrive in time")),
    }
    let (Some(job), Some(bytes)) = (job, picture) else { return Err(broken("a field is missing")) };
    let mut value: serde_json::Value = serde_json::from_slice(&job).map_err(|error| bad_job(error.to_string()))?;
    if let Some(object) = value.as_object_mut() {
        let name: String = name.unwrap_or_default().chars().filter(|c| !c.is_control()).take(200).collect();
        object.insert("source".into(), format!("upload:{name}").into());
    }
    let job = Job::from_json(value.to_string().as_bytes()).map_err(|error| bad_job(error.to_string()))?;
    Ok((job, Some(Given { bytes, permit: Some(permit), place: Some(place) })))
}
