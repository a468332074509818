//! Outputs of remote models on their way into storage: piece by piece, whatever their size.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, StreamExt};
use serde_json::Value;
use tokio::sync::mpsc;

use super::{Errand, Unstored};
use crate::pipeline::job::StepRequest;
use crate::pipeline::manifest::StepOutput;
use crate::pipeline::output::crc32c_text;
use crate::service::failure::{Class, Failure};
use crate::service::remote::{Content, Output, agrees, extension, sniff};
use crate::service::source::web::{WebDownload, WebError};
use crate::service::storage::{ObjectKind, Pieces, Stat, StorageError};
use crate::service::worker::Worker;

/// Memory that an output on its way takes at most: the storage client's piece, and what waits for it. Bytes.
const STREAM_BYTES: u64 = 16 << 20;

/// Bytes at the beginning that tell what a file is.
const HEAD_BYTES: usize = 64;

/// Pieces that wait to be stored.
const PIECES_WAITING: usize = 8;

/// Attempts to fetch and store one output, and the pause before the second; it doubles.
const ATTEMPTS: (u32, Duration) = (3, Duration::from_millis(500));

/// Up to this size a text or value stands in the manifest, bytes of JSON.
const MAX_VALUE_BYTES: usize = 64 << 10;

/// Why an output was not stored.
enum Trouble {
    /// Trying again may help.
    Passing(Failure),
    /// It will not.
    Lasting(Failure),
    /// It is not there any more.
    Gone(Failure),
}

impl From<Trouble> for Unstored {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Gone(failure) => Self::Gone(failure),
            Trouble::Passing(failure) | Trouble::Lasting(failure) => Self::Failed(failure),
        }
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        if failure.class.is_permanent() { Self::Lasting(failure) } else { Self::Passing(failure) }
    }
}

impl Worker {
    /// Stores everything that a model put out, several outputs at once, in its order.
    ///
    /// # Errors
    /// [`Failure`] of the first that cannot be stored.
    pub(super) async fn store_outputs(
        &self,
        errand: &Errand,
        step: &StepRequest,
        stem: &str,
        outputs: Vec<Output>,
    ) -> Result<Vec<StepOutput>, Unstored> {
        let many = outputs.len() > 1;
        let store = |(i, output): (usize, Output)| {
            // No name of a step holds a dot.
            let stem = if many { format!("{stem}.{}", i + 1) } else { stem.to_owned() };
            async move { self.store_output(errand, step, &stem, output).await }
        };
        let at_once = self.shared.settings.connection_pool_size.max(1);
        let mut results =
            stream::iter(outputs.into_iter().enumerate().map(store).collect::<Vec<_>>()).buffered(at_once);
        let mut stored = Vec::new();
        while let Some(result) = results.next().await {
            stored.push(result?);
        }
        Ok(stored)
    }

    async fn store_output(
        &self,
        errand: &Errand,
        step: &StepRequest,
        stem: &str,
        output: Output,
    ) -> Result<StepOutput, Trouble> {
        let Output { name, content_type, content } = output;
        let entry = StepOutput { name, ..StepOutput::default() };
        let url = match content {
            Content::Text(text) => return Ok(value(step, entry, "text/plain", text.into())?),
            Content::Json(json) => return Ok(value(step, entry, "application/json", json)?),
            Content::Inline(bytes) => {
                let put = self.put(errand, step, stem, content_type.as_deref(), Feed::Whole(bytes)).await;
                return put.map(|put| put.into_output(entry));
            }
            Content::Url(url) => url,
        };
        let limit = errand.steps.limits().max_output_bytes;
        let (attempts, mut pause) = ATTEMPTS;
        for attempt in 1.. {
            let fetched = async {
                let download =
                    errand.steps.web().open(url.as_str(), limit).await.map_err(|error| trouble(step, &error))?;
                let declared = content_type.clone().or_else(|| download.content_type());
                self.put(errand, step, stem, declared.as_deref(), Feed::Download(Box::new(download))).await
            };
            match fetched.await {
                Ok(put) => return Ok(put.into_output(entry)),
                Err(Trouble::Passing(failure)) if attempt < attempts => {
                    tracing::debug!(%failure, attempt, "an output is fetched again");
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                Err(trouble) => return Err(trouble),
            }
        }
        Err(Failure::new(Class::Internal, "an output was neither stored nor refused; report it").into())
    }

    /// Finds out what a file is, and stores it.
    async fn put(
        &self,
        errand: &Errand,
        step: &StepRequest,
        stem: &str,
        declared: Option<&str>,
        mut feed: Feed,
    ) -> Result<Put, Trouble> {
        let wrong = |problem: String| {
            Trouble::Lasting(Failure::new(Class::RemoteRefused, format!("steps: {}: {problem}", step.name)))
        };
        let mut head = BytesMut::new();
        while head.len() < HEAD_BYTES {
            match feed.next().await.map_err(|error| trouble(step, &error))? {
                Some(piece) => head.extend_from_slice(&piece),
                None => break,
            }
        }
        let head = head.freeze();
        let Some(found) = sniff(&head) else {
            let declared = declared.unwrap_or("nothing");
            return Err(wrong(format!(
                "an output is no picture, video or sound that is known; it is said to be {declared}"
            )));
        };
        if let Some(declared) = declared.filter(|declared| !agrees(declared, found)) {
            return Err(wrong(format!("an output is said to be {declared} and is {found}")));
        }
        let known = ["image/", "video/", "audio/"].iter().any(|kind| found.starts_with(kind));
        let Some(extension) = extension(found).filter(|_| known) else {
            return Err(wrong(format!("an output is {found}, and no picture, video or sound")));
        };
        let object = format!("{stem}.{extension}");
        let key = errand.shelf.key(&object, ObjectKind::Media(found));
        let _memory = self.shared.admission.acquire(STREAM_BYTES).await?;
        let (give, pieces) = mpsc::channel(PIECES_WAITING);
        let pump = async move {
            let mut piece = Some(head);
            loop {
                // Nobody takes it any more when storing failed, which that will tell.
                let ended = piece.is_none();
                if give.send(Ok(piece)).await.is_err() || ended {
                    return Ok(());
                }
                piece = match feed.next().await {
                    Ok(piece) => piece,
                    Err(error) => {
                        let _ = give.send(Err("the output stopped arriving".into())).await;
                        return Err(trouble(step, &error));
                    }
                };
            }
        };
        // Neither the server nor storage may hold up everything behind it for ever.
        let limit = errand.steps.limits().timeout;
        let both = tokio::time::timeout(limit, async { tokio::join!(pump, self.create_or_find(&key, pieces)) });
        let (pumped, stored) = both.await.map_err(|_| {
            let message = format!("steps: {}: an output was not stored within {} s", step.name, limit.as_secs());
            Trouble::Passing(Failure::new(Class::RemoteUnavailable, message))
        })?;
        pumped?;
        let stat = stored.map_err(|error| Trouble::from(Failure::of_destination(&error)))?;
        Ok(Put { object, content_type: found, stat })
    }

    /// Stores an object, or finds that an earlier attempt has.
    async fn create_or_find(
        &self,
        key: &crate::service::storage::ObjectKey,
        pieces: Pieces,
    ) -> Result<Stat, StorageError> {
        match self.shared.storage.write_pieces(key, pieces).await {
            Err(StorageError::Precondition(location)) => match self.shared.storage.stat(&location).await? {
                Some(stat) if stat.work_key.as_deref() == Some(&key.work_key) => Ok(stat),
                _ => Err(StorageError::Precondition(location)),
            },
            other => other,
        }
    }
}

/// Where an output's bytes come from.
enum Feed {
    Whole(Bytes),
    Download(Box<WebDownload>),
}

impl Feed {
    async fn next(&mut self) -> Result<Option<Bytes>, WebError> {
        match self {
            Self::Whole(bytes) => Ok(Some(std::mem::take(bytes)).filter(|bytes| !bytes.is_empty())),
            Self::Download(download) => download.chunk().await,
        }
    }
}

/// A file that is stored.
struct Put {
    object: String,
    content_type: &'static str,
    stat: Stat,
}

impl Put {
    fn into_output(self, entry: StepOutput) -> StepOutput {
        StepOutput {
            object: self.object,
            generation: self.stat.generation,
            crc32c: self.stat.crc32c.map(crc32c_text).unwrap_or_default(),
            bytes: self.stat.bytes,
            content_type: self.content_type.into(),
            ..entry
        }
    }
}

/// A text or a value in its place in the manifest.
fn value(step: &StepRequest, entry: StepOutput, content_type: &str, value: Value) -> Result<StepOutput, Failure> {
    let bytes = serde_json::to_vec(&value).map_or(0, |json| json.len());
    if bytes > MAX_VALUE_BYTES {
        let message =
            format!("steps: {}: an output is a value of {bytes} bytes; {MAX_VALUE_BYTES} are kept", step.name);
        return Err(Failure::new(Class::RemoteRefused, message));
    }
    Ok(StepOutput { content_type: content_type.into(), value: Some(value), ..entry })
}

/// What to tell about an output that could not be fetched.
fn trouble(step: &StepRequest, error: &WebError) -> Trouble {
    let passing =
        matches!(error, WebError::Unavailable { .. } | WebError::Unreachable { .. } | WebError::TimedOut { .. });
    let problem = match error {
        WebError::HostNotAllowed { host } => {
            format!("an output lies at {host}, from where none are fetched; add it to CONCEPT_REMOTE_OUTPUT_HOSTS")
        }
        WebError::NotPublic { host } => format!("an output lies at {host}, which has no public address"),
        WebError::TooLarge { place, limit } => {
            format!("the output at {place} has more than {limit} bytes; raise CONCEPT_REMOTE_MAX_OUTPUT_MB")
        }
        WebError::NotFound { place } => format!("there is nothing at {place} where an output should be"),
        WebError::Forbidden { place } => format!("the output at {place} may not be read"),
        WebError::Refused { place, status } => format!("{place} answered {status} when an output was asked for"),
        WebError::Url(problem) => format!("an output lies at an address that {problem}"),
        other => format!("an output could not be fetched: {other}"),
    };
    let class = if passing { Class::RemoteUnavailable } else { Class::RemoteRefused };
    let failure = Failure::new(class, format!("steps: {}: {problem}", step.name));
    match error {
        WebError::NotFound { .. } | WebError::Forbidden { .. } => Trouble::Gone(failure),
        _ if passing => Trouble::Passing(failure),
        _ => Trouble::Lasting(failure),
    }
}
