//! Streaming pull: the messages of a subscription, as many at once as there is room for.
//!
//! The client crate keeps the leases, gathers acknowledgements and reopens streams that Pub/Sub ends as a matter of course.
//! This module adds the limits on what runs at once, reconnecting after failures that the crate gives up on, and an orderly
//! end.

mod verdict;

use std::collections::HashMap;
use std::future::{Future, pending};
use std::pin::Pin;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use google_cloud_auth::credentials::anonymous;
use google_cloud_pubsub::client::Subscriber;
use google_cloud_pubsub::model::Message;
use google_cloud_pubsub::subscriber::handler::Handler;
use google_cloud_pubsub::subscriber::{MessageStream, ShutdownToken};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::envelope::{Delivery, from_pulled};
use super::failure::Disposition;
use super::publish::endpoint;
use verdict::{Failures, Verdict};

/// Time that making the client may take. It reads credentials, and on Google Cloud asks the metadata server.
const OPEN_TIME: Duration = Duration::from_secs(10);

/// At the end: time in which messages that are just arriving are given back instead of being left to their deadline.
const LAST_ARRIVALS_TIME: Duration = Duration::from_millis(100);

/// At the end: time for the last acknowledgements to reach Pub/Sub. The crate sends them every 100 ms.
const FLUSH_TIME: Duration = Duration::from_secs(1);

/// What to pull and how much of it at once.
#[derive(Debug, Clone)]
pub struct PullOptions {
    /// The subscription, `projects/PROJECT/subscriptions/NAME`.
    pub subscription: String,
    /// The value of PUBSUB_EMULATOR_HOST, such as `127.0.0.1:8085`. With it no credentials are looked for.
    pub emulator: Option<String>,
    /// Most messages held at once. All of them are being handled; none is fetched ahead. At least 1 counts.
    pub max_outstanding_messages: usize,
    /// Most bytes of messages held at once. One message is taken whatever its size.
    pub max_outstanding_bytes: u64,
    /// The deadline that leases are extended by, 10 to 600 s: after a crash the messages come back this much later.
    pub ack_deadline: Duration,
    /// How long a lease is extended at most. After it the message is delivered again, whether or not it is still being
    /// handled.
    pub max_lease: Duration,
    /// How long a message that is to be delivered again is kept first. A subscription without a retry policy would
    /// deliver it again at once.
    pub return_delay: Duration,
    /// After the shutdown: time that handlers have to finish.
    pub grace: Duration,
}

impl PullOptions {
    /// Options with these defaults: 4 messages of 64 MiB in all, a deadline of 60 s, leases of one hour, 1 s before a
    /// message is returned, 8 s of grace.
    pub fn new(subscription: impl Into<String>) -> Self {
        Self {
            subscription: subscription.into(),
            emulator: None,
            max_outstanding_messages: 4,
            max_outstanding_bytes: 64 << 20,
            ack_deadline: Duration::from_secs(60),
            max_lease: Duration::from_secs(3_600),
            return_delay: Duration::from_secs(1),
            grace: Duration::from_secs(8),
        }
    }
}

/// What a pull did, for the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PullSummary {
    /// Messages received, every delivery counted.
    pub received: u64,
    /// Those acknowledged.
    pub acknowledged: u64,
    /// Those given back to be delivered again: busy, unavailable, panicked, never started, unfinished.
    pub returned: u64,
    /// Those of `returned` whose handler had not finished when the grace was over.
    pub unfinished: u64,
    /// How often the stream had to be opened anew after a failure.
    pub reconnections: u64,
}

/// Why a pull ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// No client could be made.
    #[error("cannot pull from {subscription}: {problem}; check the credentials of this machine")]
    Client {
        /// The subscription.
        subscription: String,
        /// What failed.
        problem: String,
    },
    /// There is no such subscription.
    #[error("the subscription {subscription} does not exist; create it, or correct CONCEPT_SUBSCRIPTION")]
    Missing {
        /// The subscription.
        subscription: String,
    },
    /// The credentials do not allow it.
    #[error(
        "pulling from {subscription} is forbidden ({problem}); grant the worker's service account \
         roles/pubsub.subscriber on the subscription"
    )]
    Forbidden {
        /// The subscription.
        subscription: String,
        /// What Pub/Sub said.
        problem: String,
    },
    /// Pub/Sub refuses, and will again.
    #[error(
        "{subscription} cannot be pulled from: {problem}; check that CONCEPT_SUBSCRIPTION names a pull subscription, \
         with no push endpoint and no export"
    )]
    Refused {
        /// The subscription.
        subscription: String,
        /// What Pub/Sub said.
        problem: String,
    },
}

/// Pulls until `shutdown` is ready, and hands every message to `handle`.
///
/// A message is acknowledged or given back as its handler says; one whose handler panics is given back. Failures that pass
/// are waited for (1 to 60 s between attempts) without end. On shutdown nothing more is taken, what has not been started is
/// given back at once, handlers have `options.grace` to finish, and what is unfinished then is given back.
///
/// # Errors
/// [`PullError`] when the subscription is missing, forbidden or of another kind, or there are no credentials. Running
/// handlers have had the same grace then. A subscription that messages have come from is given five more attempts, because
/// one that is being replaced is missing for a moment.
pub async fn run<H, F>(
    options: PullOptions,
    handle: H,
    shutdown: impl Future<Output = ()>,
) -> Result<PullSummary, PullError>
where
    H: Fn(Delivery) -> F + Send + 'static,
    F: Future<Output = Disposition> + Send + 'static,
{
    tokio::pin!(shutdown);
    let subscriber = tokio::select! {
        () = &mut shutdown => return Ok(PullSummary::default()),
        opened = open(&options) => opened?,
    };
    let mut streams = Streams::new(subscriber, &options);
    let mut held = Held::new(&options);
    let mut failures = Failures::default();

    let ending = loop {
        if held.has_room() {
            streams.ask();
        }
        tokio::select! {
            biased;
            () = &mut shutdown => break Ok(()),
            Some(outcome) = held.tasks.join_next_with_id() => held.settle(outcome),
            item = streams.arrival() => match item {
                Some(Ok((message, handler))) => {
                    failures.over();
                    let bytes = message.data.len() as u64;
                    let delivery = from_pulled(message, &options.subscription, handler.delivery_attempt());
                    held.start(handler, bytes, handle(delivery));
                }
                Some(Err(error)) => match failures.judge(&options.subscription, &error) {
                    Verdict::Retry(after) => streams.reopen(after),
                    Verdict::Give(up) => break Err(up),
                },
                // The crate ends a stream so only when it is told to.
                None => streams.reopen(failures.interrupted()),
            },
        }
    };

    held.summary.reconnections = streams.reconnections;
    for handler in streams.last_arrivals(options.max_outstanding_messages).await {
        held.summary.received += 1;
        held.give_back(handler);
    }
    held.finish(options.grace).await;
    streams.close().await;
    ending.map(|()| held.summary)
}

async fn open(options: &PullOptions) -> Result<Subscriber, PullError> {
    let mut builder = Subscriber::builder();
    if let Some(address) = &options.emulator {
        builder = builder.with_endpoint(endpoint(address)).with_credentials(anonymous::Builder::new().build());
    }
    let problem = match timeout(OPEN_TIME, builder.build()).await {
        Ok(Ok(subscriber)) => return Ok(subscriber),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no credentials within {} s", OPEN_TIME.as_secs()),
    };
    Err(PullError::Client { subscription: options.subscription.clone(), problem })
}

type Item = Option<google_cloud_pubsub::Result<(Message, Handler)>>;

/// A stream that is being asked for its next message; it comes back with it.
type Asked = Pin<Box<dyn Future<Output = (MessageStream, Item)> + Send>>;

/// The stream that messages come from, and those before it whose leases are still kept.
struct Streams {
    subscriber: Subscriber,
    options: PullOptions,
    /// The stream while nothing is asked of it.
    idle: Option<MessageStream>,
    /// The next message being waited for. It is a future of its own and not dropped when something else happens: opening a
    /// stream cannot be interrupted without starting over.
    asked: Option<Asked>,
    /// One for every stream with leases to keep.
    leases: Vec<ShutdownToken>,
    reconnections: u64,
}

impl Streams {
    fn new(subscriber: Subscriber, options: &PullOptions) -> Self {
        let options = options.clone();
        let mut streams = Self { subscriber, options, idle: None, asked: None, leases: Vec::new(), reconnections: 0 };
        streams.idle = Some(streams.stream());
        streams
    }

    /// A stream, which is opened when a message is first asked of it.
    fn stream(&mut self) -> MessageStream {
        let options = &self.options;
        let stream = self
            .subscriber
            .subscribe(&options.subscription)
            .set_max_outstanding_messages(i64::try_from(options.max_outstanding_messages.max(1)).unwrap_or(i64::MAX))
            .set_max_outstanding_bytes(i64::try_from(options.max_outstanding_bytes.max(1)).unwrap_or(i64::MAX))
            .set_max_lease_extension(options.ack_deadline)
            .set_max_lease(options.max_lease)
            .build();
        self.leases.push(stream.shutdown_token());
        stream
    }

    /// Asks for the next message, unless that is being done.
    fn ask(&mut self) {
        if let Some(stream) = self.idle.take() {
            self.asked = Some(Box::pin(next(stream, Duration::ZERO)));
        }
    }

    /// The message asked for; never ready when none was.
    async fn arrival(&mut self) -> Item {
        let Some(asked) = &mut self.asked else { return pending().await };
        let (stream, item) = asked.await;
        self.asked = None;
        self.idle = Some(stream);
        item
    }

    /// Gives up the stream and asks a new one after a while. The leases of messages being handled are kept.
    fn reopen(&mut self, after: Duration) {
        self.reconnections += 1;
        self.idle = None;
        // A token is ready once nothing is left to keep.
        self.leases.retain(|token| token.shutdown().now_or_never().is_none());
        let stream = self.stream();
        self.asked = Some(Box::pin(next(stream, after)));
    }

    /// Takes what has already arrived, `most` messages or a tenth of a second, and ends the stream.
    async fn last_arrivals(&mut self, most: usize) -> Vec<Handler> {
        let mut handlers = Vec::new();
        let deadline = Instant::now() + LAST_ARRIVALS_TIME;
        while handlers.len() < most && Instant::now() < deadline {
            self.ask();
            match timeout_at(deadline, self.arrival()).await {
                Ok(Some(Ok((_, handler)))) => handlers.push(handler),
                _ => break,
            }
        }
        self.idle = None;
        self.asked = None;
        handlers
    }

    /// Waits until Pub/Sub knows of every acknowledgement.
    async fn close(self) {
        if timeout(FLUSH_TIME, join_all(self.leases.iter().map(ShutdownToken::shutdown))).await.is_err() {
            tracing::warn!("the last acknowledgements did not reach Pub/Sub; some messages will be delivered again");
        }
    }
}

async fn next(mut stream: MessageStream, after: Duration) -> (MessageStream, Item) {
    if !after.is_zero() {
        sleep(after).await;
    }
    let item = stream.next().await;
    (stream, item)
}

/// The messages held, each with its handler running.
struct Held {
    most: usize,
    most_bytes: u64,
    return_delay: Duration,
    tasks: JoinSet<Disposition>,
    /// How to answer each, by its task: an answer does not depend on the task letting go.
    answers: HashMap<Id, (Handler, u64)>,
    bytes: u64,
    summary: PullSummary,
}

impl Held {
    fn new(options: &PullOptions) -> Self {
        Self {
            most: options.max_outstanding_messages.max(1),
            most_bytes: options.max_outstanding_bytes,
            return_delay: options.return_delay,
            tasks: JoinSet::new(),
            answers: HashMap::new(),
            bytes: 0,
            summary: PullSummary::default(),
        }
    }

    fn has_room(&self) -> bool {
        self.answers.is_empty() || (self.answers.len() < self.most && self.bytes < self.most_bytes)
    }

    fn start(&mut self, handler: Handler, bytes: u64, work: impl Future<Output = Disposition> + Send + 'static) {
        let delay = self.return_delay;
        let task = self.tasks.spawn(async move {
            let disposition = work.await;
            if disposition != Disposition::Acknowledge {
                sleep(delay).await;
            }
            disposition
        });
        self.answers.insert(task.id(), (handler, bytes));
        self.bytes += bytes;
        self.summary.received += 1;
    }

    fn settle(&mut self, outcome: Result<(Id, Disposition), JoinError>) {
        let (id, acknowledged) = match outcome {
            Ok((id, disposition)) => (id, disposition == Disposition::Acknowledge),
            Err(error) => {
                tracing::error!(%error, "a handler ended without an answer; its message is delivered again");
                (error.id(), false)
            }
        };
        let Some((handler, bytes)) = self.answers.remove(&id) else { return };
        self.bytes = self.bytes.saturating_sub(bytes);
        if acknowledged {
            handler.ack();
            self.summary.acknowledged += 1;
        } else {
            self.give_back(handler);
        }
    }

    fn give_back(&mut self, handler: Handler) {
        handler.nack();
        self.summary.returned += 1;
    }

    /// Waits for what is running, and gives back what is not done by then.
    async fn finish(&mut self, grace: Duration) {
        let end = Instant::now() + grace;
        while let Ok(Some(outcome)) = timeout_at(end, self.tasks.join_next_with_id()).await {
            self.settle(outcome);
        }
        self.tasks.abort_all();
        for (_, (handler, _)) in std::mem::take(&mut self.answers) {
            self.summary.unfinished += 1;
            self.give_back(handler);
        }
    }
}
