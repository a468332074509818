//! What the worker tells others: finished manifests and the records of failed jobs, published to topics.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use google_cloud_auth::credentials::anonymous;
use google_cloud_gax::error::rpc::Code;
use google_cloud_gax::retry_policy::RetryPolicyExt;
use google_cloud_pubsub::client::{BasePublisher, Publisher as TopicPublisher};
use google_cloud_pubsub::model::Message;
use google_cloud_pubsub::retry_policy::RetryableErrors;
use serde_json::{Map, Value};
use tokio::runtime::Handle;
use tokio::time::timeout;

/// Time that opening the client may take. It reads credentials, and on Google Cloud asks the metadata server.
const OPEN_TIME: Duration = Duration::from_secs(10);

/// Time that publishing one message may take, retries included.
const PUBLISH_TIME: Duration = Duration::from_secs(10);

/// Time that [`Publisher::flush`] may take.
const FLUSH_TIME: Duration = Duration::from_secs(2);

/// Most bytes of data that are published. Pub/Sub takes 10 MB per request; attributes and framing need some of it.
const MAX_DATA_BYTES: usize = 9_000_000;

/// Ordering keys that news of all jobs share.
const ORDERING_KEYS: u32 = 64;

/// Most bytes that Pub/Sub takes for the value of an attribute.
const MAX_ATTRIBUTE_BYTES: usize = 1_024;

/// The topics that the settings name, `projects/PROJECT/topics/NAME`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Topics<'a> {
    /// CONCEPT_RESULT_TOPIC.
    pub result: Option<&'a str>,
    /// CONCEPT_FAILED_TOPIC.
    pub failed: Option<&'a str>,
    /// CONCEPT_PROGRESS_TOPIC.
    pub progress: Option<&'a str>,
}

/// Publishes to the [`Topics`]. Where one is not set, publishing to it does nothing.
#[derive(Debug, Clone, Default)]
pub struct Publisher {
    result: Option<Channel>,
    failed: Option<Channel>,
    progress: Option<Channel>,
}

/// Why a message was not published. What it tells about is stored all the same.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// There is no such topic.
    #[error("the topic {topic} does not exist; create it, or correct {variable}")]
    Missing {
        /// The topic.
        topic: String,
        /// The variable that names it.
        variable: &'static str,
    },
    /// The credentials do not allow it.
    #[error(
        "publishing to {topic} is forbidden; grant the worker's service account roles/pubsub.publisher on the topic that \
         {variable} names"
    )]
    Forbidden {
        /// The topic.
        topic: String,
        /// The variable that names it.
        variable: &'static str,
    },
    /// It did not succeed within the limit. The message may have been published nevertheless.
    #[error("publishing to {topic} took longer than {seconds} s; check that Pub/Sub can be reached")]
    TimedOut {
        /// The topic.
        topic: String,
        /// The limit in seconds.
        seconds: u64,
    },
    /// Pub/Sub refused the message or could not be reached.
    #[error("publishing to {topic} failed: {problem}")]
    Failed {
        /// The topic.
        topic: String,
        /// What Pub/Sub or the connection said.
        problem: String,
    },
}

impl Publisher {
    /// Opens one client for all topics; without topics, none. `emulator` is the value of PUBSUB_EMULATOR_HOST, such as `127.0.0.1:8085`; with it no credentials are looked for.
    ///
    /// # Errors
    /// A text that says why the client cannot be made, such as credentials that cannot be read.
    pub async fn open(topics: Topics<'_>, emulator: Option<&str>) -> Result<Self, String> {
        let Topics { result, failed, progress } = topics;
        if topics == Topics::default() {
            return Ok(Self::default());
        }
        let retries = RetryableErrors.with_time_limit(PUBLISH_TIME);
        let mut builder = BasePublisher::builder().with_retry_policy(retries);
        if let Some(address) = emulator {
            builder = builder.with_endpoint(endpoint(address)).with_credentials(anonymous::Builder::new().build());
        }
        let base = match timeout(OPEN_TIME, builder.build()).await {
            Ok(Ok(base)) => base,
            Ok(Err(error)) => {
                return Err(format!("cannot publish to Pub/Sub: {error}; check the credentials of this machine"));
            }
            Err(_) => {
                let seconds = OPEN_TIME.as_secs();
                return Err(format!("cannot publish to Pub/Sub: no credentials within {seconds} s; check the network"));
            }
        };
        let channel = |topic: &str, variable| Channel {
            topic: topic.to_owned(),
            variable,
            limit: PUBLISH_TIME,
            // A message goes out at once: whoever publishes waits for it before acknowledging.
            client: base.publisher(topic).set_message_count_threshold(1).build(),
        };
        Ok(Self {
            result: result.map(|topic| channel(topic, "CONCEPT_RESULT_TOPIC")),
            failed: failed.map(|topic| channel(topic, "CONCEPT_FAILED_TOPIC")),
            progress: progress.map(|topic| channel(topic, "CONCEPT_PROGRESS_TOPIC")),
        })
    }

    /// Publishes the manifest of a finished job, as JSON. More than 9 MB are cut down to a reference: the attributes as a
    /// JSON object, with `truncated` and the manifest's `bytes`. The attributes should therefore say where it lies; their
    /// values are cut at 1,024 bytes, which is Pub/Sub's limit.
    ///
    /// # Errors
    /// [`PublishError`] when Pub/Sub has not taken the message within 10 s.
    pub async fn result(&self, manifest_json: Bytes, attributes: &[(&str, &str)]) -> Result<(), PublishError> {
        match &self.result {
            Some(channel) => channel.publish(manifest_json, attributes).await,
            None => Ok(()),
        }
    }

    /// Publishes the record of a job that failed for good; otherwise as [`Self::result`].
    ///
    /// # Errors
    /// [`PublishError`] when Pub/Sub has not taken the message within 10 s.
    pub async fn failed(&self, manifest_json: Bytes, attributes: &[(&str, &str)]) -> Result<(), PublishError> {
        match &self.failed {
            Some(channel) => channel.publish(manifest_json, attributes).await,
            None => Ok(()),
        }
    }

    /// Whether there is a topic for news.
    pub fn tells_progress(&self) -> bool {
        self.progress.is_some()
    }

    /// Hands over one piece of news of the job in `folder`, to be published after all of the same job that were handed over
    /// before it. What does not succeed is logged.
    pub fn progress(&self, news: Bytes, folder: &str, attributes: &[(&str, &str)], runtime: &Handle) {
        let Some(channel) = &self.progress else { return };
        // The client keeps something for every key that it has ever seen, so that there must be few of them.
        let key = (crc32c::crc32c(folder.as_bytes()) % ORDERING_KEYS).to_string();
        let message = Message::new().set_data(news).set_ordering_key(&key).set_attributes(
            attributes.iter().map(|&(name, value)| (name, &value[..value.floor_char_boundary(MAX_ATTRIBUTE_BYTES)])),
        );
        let _context = runtime.enter();
        let published = channel.client.publish(message);
        let (client, topic) = (channel.client.clone(), channel.topic.clone());
        runtime.spawn(async move {
            if let Err(error) = published.await {
                tracing::warn!(%error, topic, "news of a job could not be published");
                // After a failure the client holds back everything of the same key.
                client.resume_publish(key);
            }
        });
    }

    /// Waits until all news handed over are sent or have failed, at most this long.
    pub async fn flush_progress(&self, limit: Duration) {
        if let Some(channel) = &self.progress
            && timeout(limit, channel.client.flush()).await.is_err()
        {
            tracing::warn!("news were still being published when the time for it was over");
        }
    }

    /// Waits until everything handed over is sent or has failed, at most 2 s.
    pub async fn flush(&self) {
        let channels =
            self.result.iter().chain(&self.failed).chain(&self.progress).map(|channel| channel.client.flush());
        if timeout(FLUSH_TIME, futures_util::future::join_all(channels)).await.is_err() {
            tracing::warn!("messages were still being published when the time for it was over");
        }
    }
}

/// One topic.
#[derive(Debug, Clone)]
struct Channel {
    topic: String,
    /// The variable that names the topic.
    variable: &'static str,
    /// Time that one message may take.
    limit: Duration,
    client: TopicPublisher,
}

impl Channel {
    async fn publish(&self, data: Bytes, attributes: &[(&str, &str)]) -> Result<(), PublishError> {
        use google_cloud_pubsub::error::PublishError as Refusal;

        let data = if data.len() > MAX_DATA_BYTES { reference(data.len(), attributes) } else { data };
        let message = Message::new().set_data(data).set_attributes(attributes.iter().map(|&(name, value)| {
            // Pub/Sub would refuse the whole message.
            (name, &value[..value.floor_char_boundary(MAX_ATTRIBUTE_BYTES)])
        }));
        let topic = self.topic.clone();
        match timeout(self.limit, self.client.publish(message)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(Refusal::Rpc(error))) => Err(self.refused(&error)),
            Ok(Err(other)) => Err(PublishError::Failed { topic, problem: other.to_string() }),
            Err(_) => Err(PublishError::TimedOut { topic, seconds: self.limit.as_secs() }),
        }
    }

    fn refused(&self, error: &Arc<google_cloud_pubsub::Error>) -> PublishError {
        let (topic, variable) = (self.topic.clone(), self.variable);
        match error.status().map(|status| status.code) {
            Some(Code::NotFound) => PublishError::Missing { topic, variable },
            Some(Code::PermissionDenied | Code::Unauthenticated) => PublishError::Forbidden { topic, variable },
            _ if error.is_exhausted() || error.is_timeout() => {
                PublishError::TimedOut { topic, seconds: self.limit.as_secs() }
            }
            _ => PublishError::Failed { topic, problem: error.to_string() },
        }
    }
}

/// What stands for a manifest that is too large to publish.
fn reference(bytes: usize, attributes: &[(&str, &str)]) -> Bytes {
    let mut fields: Map<String, Value> =
        attributes.iter().map(|&(name, value)| (name.to_owned(), value.into())).collect();
    fields.insert("truncated".to_owned(), true.into());
    fields.insert("bytes".to_owned(), bytes.into());
    Value::Object(fields).to_string().into()
}

/// The endpoint of an emulator, from the value of PUBSUB_EMULATOR_HOST, with or without a scheme.
pub(super) fn endpoint(emulator: &str) -> String {
    match emulator.split_once("://") {
        Some(_) => emulator.to_owned(),
        None => format!("http://{emulator}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_topics_nothing_is_opened_and_publishing_succeeds() {
        // The address cannot be connected to, and is not.
        let publisher = Publisher::open(Topics::default(), Some("127.0.0.1:1")).await.unwrap();
        publisher.result(Bytes::from_static(b"{}"), &[]).await.unwrap();
        publisher.failed(Bytes::from_static(b"{}"), &[]).await.unwrap();
        publisher.flush().await;
    }

    #[tokio::test]
    async fn only_the_topic_that_is_set_is_published_to() {
        let topic = "projects/p/topics/results";
        let publisher =
            Publisher::open(Topics { result: Some(topic), ..Topics::default() }, Some("127.0.0.1:1")).await.unwrap();
        assert_eq!(publisher.result.as_ref().unwrap().topic, topic);
        publisher.failed(Bytes::from_static(b"{}"), &[]).await.unwrap();
    }

    #[tokio::test]
    async fn a_publish_that_is_never_answered_ends_at_the_limit() {
        // Accepts connections and says nothing.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let mut silent = Vec::new();
            while let Ok((connection, _)) = listener.accept().await {
                silent.push(connection);
            }
        });
        let topics = Topics { failed: Some("projects/p/topics/failures"), ..Topics::default() };
        let mut publisher = Publisher::open(topics, Some(&address)).await.unwrap();
        publisher.failed.as_mut().unwrap().limit = Duration::from_millis(100);
        let error = publisher.failed(Bytes::from_static(b"{}"), &[]).await.unwrap_err();
        assert!(matches!(error, PublishError::TimedOut { .. }), "{error}");
        // The message is still on its way, and flushing gives up on it.
        publisher.flush().await;
    }

    #[test]
    fn a_reference_says_where_the_manifest_is_and_how_large() {
        let data = reference(9_500_000, &[("job_id", "j"), ("manifest", "gs://b/u/j/manifest.json")]);
        let fields: Value = serde_json::from_slice(&data).unwrap();
        assert_eq!(fields["job_id"], "j");
        assert_eq!(fields["manifest"], "gs://b/u/j/manifest.json");
        assert_eq!(fields["truncated"], true);
        assert_eq!(fields["bytes"], 9_500_000);
    }

    #[test]
    fn an_emulator_is_named_with_or_without_a_scheme() {
        assert_eq!(endpoint("127.0.0.1:8085"), "http://127.0.0.1:8085");
        assert_eq!(endpoint("http://127.0.0.1:8085"), "http://127.0.0.1:8085");
    }
}
