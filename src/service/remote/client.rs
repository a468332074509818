//! The client: one pool of connections, every request bounded in time and bytes, and repeated only where nothing is
//! paid twice for it.

mod attempt;
mod error;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue};
use reqwest::multipart::{Form, Part};
use reqwest::{RequestBuilder, redirect};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::{Instant, sleep_until};
use url::{Host, Url};

use super::budget::{BudgetOptions, RetryBudget};
use super::output::{extension, media_type};
use super::prediction::{ModelRef, Prediction, PredictionStatus, Running, is_prediction_id, settle};
use super::webhook::{Waiters, Webhook, WebhookError, prediction_of, signed, verify};
use crate::service::breaker::{Breaker, BreakerOptions, BreakerState, Call};
use attempt::{Asked, jittered};

pub use error::RemoteError;

/// Most bytes of an answer with a prediction, its outputs and the echo of its input included.
pub const MAX_ANSWER_BYTES: usize = 24 << 20;
/// Most bytes of a prediction's input as JSON, data URIs included. Larger files are uploaded.
pub const MAX_INPUT_BYTES: usize = 12 << 20;
/// Most bytes of a file that is uploaded.
pub const MAX_UPLOAD_BYTES: usize = 100 << 20;

/// Most bytes of an answer that says where a file is.
const MAX_FILE_ANSWER_BYTES: usize = 64 << 10;
/// Connections are closed after so long without a request: when the server closes one while an order goes out, it is
/// not known what became of the order.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);
/// Limit of connecting to the server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Limit of one attempt to cancel a prediction. Whoever cancels is in a hurry.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause before the first poll; the next ones are longer, up to the longest.
const FIRST_POLL: Duration = Duration::from_millis(250);
/// The longest pause between two polls.
const LONGEST_POLL: Duration = Duration::from_secs(5);
/// So many polls in a row may fail.
const MOST_FAILED_POLLS: u32 = 10;
/// Most models that a breaker is kept for.
const MAX_BREAKERS: usize = 256;
/// The longest time that the server can be asked to hold an order's answer back.
const LONGEST_PREFER_WAIT: Duration = Duration::from_secs(60);
/// The shortest lifetime that the server takes.
const SHORTEST_LIFETIME: Duration = Duration::from_secs(5);

const PREFER: HeaderName = HeaderName::from_static("prefer");
const CANCEL_AFTER: HeaderName = HeaderName::from_static("cancel-after");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Where remote models are, and how they are asked.
#[derive(Clone)]
pub struct RemoteOptions {
    /// The server's API, such as [`Self::REPLICATE`].
    pub base_url: Url,
    /// What the server knows its customers by; none for a server that does not ask. Never shown.
    pub token: Option<String>,
    /// Limit of one request, uploads apart; ordering may take [`Self::prefer_wait`] longer.
    pub request_timeout: Duration,
    /// Limit of one attempt to upload a file.
    pub upload_timeout: Duration,
    /// How long the server may hold back the answer to an order, until the prediction has ended: whole seconds up to
    /// 60, or zero. Short is better: when the connection breaks in that time, the prediction's id is lost, and its
    /// price with it.
    pub prefer_wait: Duration,
    /// After this time the server cancels a prediction by itself: whole seconds from 5, or none for never.
    pub lifetime: Option<Duration>,
    /// Longest that is waited for a prediction, whatever the caller's limit.
    pub longest_wait: Duration,
    /// Where the server says that a prediction has ended; without, it is polled for.
    pub webhook: Option<Webhook>,
    /// When a model that keeps failing is left alone.
    pub breaker: BreakerOptions,
    /// How many requests may be repeated.
    pub retries: BudgetOptions,
}

impl RemoteOptions {
    /// The API of replicate.com.
    pub const REPLICATE: &'static str = "https://api.replicate.com/v1";

    /// The usual options for a server.
    pub fn new(base_url: Url, token: Option<String>) -> Self {
        Self {
            base_url,
            token,
            request_timeout: Duration::from_secs(30),
            upload_timeout: Duration::from_secs(120),
            prefer_wait: Duration::from_secs(2),
            lifetime: None,
            longest_wait: Duration::from_secs(3_600),
            webhook: None,
            breaker: BreakerOptions {
                window: 10,
                failures: 5,
                pause: Duration::from_secs(30),
                longest_pause: Duration::from_secs(600),
            },
            retries: BudgetOptions::default(),
        }
    }
}

impl fmt::Debug for RemoteOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = if self.token.is_some() { "set" } else { "none" };
        f.debug_struct("RemoteOptions")
            .field("base_url", &self.base_url.as_str())
            .field("token", &token)
            .finish_non_exhaustive()
    }
}

/// What the breaker of one model does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakerReport {
    /// The model without its version.
    pub model: String,
    /// What the next order would meet.
    pub state: BreakerState,
    /// How often it has opened.
    pub opened: u64,
}

/// A client of remote models. Clones share its connections, breakers and budget.
#[derive(Clone)]
pub struct Remote {
    shared: Arc<Shared>,
}

struct Shared {
    client: reqwest::Client,
    options: RemoteOptions,
    authorization: Option<HeaderValue>,
    budget: RetryBudget,
    waiters: Waiters,
    breakers: Mutex<HashMap<String, Breaker>>,
    retries: AtomicU64,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("options", &self.shared.options).finish_non_exhaustive()
    }
}

/// The body of an order.
#[derive(Serialize)]
struct Order<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    input: &'a Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook_events_filter: Option<[&'static str; 1]>,
}

impl Remote {
    /// Makes a client. Nothing is asked of the network yet.
    ///
    /// # Errors
    /// A text that says which option does not work, without secrets.
    pub fn new(options: RemoteOptions) -> Result<Self, String> {
        check(&options)?;
        let authorization = match &options.token {
            None => None,
            Some(token) => {
                let unusable = |_| "the token holds characters that no token has; copy it again".to_owned();
                let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(unusable)?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        let client = reqwest::Client::builder()
            // A redirect would take an order, which is paid for, and its token to another place.
            .redirect(redirect::Policy::none())
            .no_proxy()
            .referer(false)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| format!("no TLS client can be made: {error}; install the system's root certificates"))?;
        let shared = Shared {
            client,
            authorization,
            budget: RetryBudget::new(options.retries),
            waiters: Waiters::default(),
            breakers: Mutex::default(),
            retries: AtomicU64::new(0),
            options,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Orders a prediction. `input` is an object with what the model takes, `key` goes along as Idempotency-Key for
    /// servers that know it. An order goes out again only after an answer or a lack of connection that shows that
    /// nothing was made, and not after `until`; one that is under way then is not broken off, as its answer holds the
    /// id of what is paid for.
    ///
    /// # Errors
    /// [`RemoteError`]; [`RemoteError::may_have_created`] tells whether something may have been made all the same.
    pub async fn create(
        &self,
        model: &ModelRef,
        input: &Value,
        key: Option<&str>,
        until: Option<Instant>,
    ) -> Result<Running, RemoteError> {
        let options = &self.shared.options;
        if !input.is_object() {
            return Err(RemoteError::BadInput { detail: "it is no JSON object".to_owned() });
        }
        let webhook = options.webhook.as_ref().map(|webhook| webhook.url.as_str());
        let order =
            Order { version: model.version(), input, webhook, webhook_events_filter: webhook.map(|_| ["completed"]) };
        let body = serde_json::to_vec(&order)
            .map_err(|_| RemoteError::BadInput { detail: "it cannot be written as JSON".to_owned() })?;
        if body.len() > MAX_INPUT_BYTES {
            return Err(RemoteError::InputTooLarge { bytes: body.len() as u64, limit: MAX_INPUT_BYTES as u64 });
        }
        let body = Bytes::from(body);
        let mut headers = self.order_headers();
        if let Some(key) = key {
            let unusable = |_| RemoteError::BadInput { detail: "its idempotency key is no header".to_owned() };
            headers.insert(IDEMPOTENCY_KEY, HeaderValue::from_str(key).map_err(unusable)?);
        }
        let url = match model.official() {
            Some((owner, name)) => self.url(&["models", owner, name, "predictions"]),
            None => self.url(&["predictions"]),
        };
        let request =
            || self.shared.client.post(url.clone()).headers(headers.clone()).body(reqwest::Body::from(body.clone()));
        let limit = options.request_timeout + options.prefer_wait;

        let call = self.begin(&model.model())?;
        let asked = Asked::Create { model };
        let made = self.send(&asked, limit, until, request).await.and_then(|body| self.read(&body, &asked));
        match made {
            Ok(prediction) => Ok(Running { model: model.model(), prediction, call: Some(call) }),
            Err(error) => {
                settle(call, Err(&error));
                Err(error)
            }
        }
    }

    /// Goes on with a prediction that was ordered before, by its id. Works while the model's breaker is open, too: the
    /// prediction is under way already.
    ///
    /// # Errors
    /// [`RemoteError`]; [`RemoteError::NoSuchPrediction`] when the server has forgotten it.
    pub async fn resume(&self, model: &ModelRef, id: &str) -> Result<Running, RemoteError> {
        let call = self.breaker(&model.model()).begin().ok();
        let found = self.get(id).await;
        match (found, call) {
            (Ok(prediction), call) => Ok(Running { model: model.model(), prediction, call }),
            (Err(error), call) => {
                if let Some(call) = call {
                    settle(call, Err(&error));
                }
                Err(error)
            }
        }
    }

    /// Asks for a prediction, again when the server cannot answer.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub async fn get(&self, id: &str) -> Result<Prediction, RemoteError> {
        let asked = Asked::Get { id };
        let request = self.get_request(id)?;
        let body = self.send(&asked, self.shared.options.request_timeout, None, request).await?;
        self.read(&body, &asked)
    }

    /// Waits until a prediction has succeeded, and returns it. It is polled for, with pauses that grow from 250 ms to 5
    /// s, and at once when a webhook about it comes in. The model's breaker learns the outcome. After
    /// [`RemoteError::TimedOut`] the prediction may still be running: cancel it, or wait again.
    ///
    /// # Errors
    /// [`RemoteError`]; [`RemoteError::Failed`] and [`RemoteError::Cancelled`] for a prediction that ended so.
    pub async fn wait(&self, running: &mut Running, until: Option<Instant>) -> Result<Prediction, RemoteError> {
        let ended = self.ended(&mut running.prediction, until).await;
        running.settle(ended.as_ref().map(|_| ()));
        ended?;
        Ok(running.prediction.clone())
    }

    /// Polls until the prediction has succeeded.
    async fn ended(&self, prediction: &mut Prediction, until: Option<Instant>) -> Result<(), RemoteError> {
        let begun = Instant::now();
        let longest = begun + self.shared.options.longest_wait;
        let until = until.map_or(longest, |until| until.min(longest));
        let mut waiter = self.shared.waiters.register(&prediction.id);
        let (mut pause, mut least, mut failed) = (FIRST_POLL, Duration::ZERO, 0);
        loop {
            if let Some(outcome) = self.outcome(prediction) {
                return outcome;
            }
            let next = Instant::now() + jittered(pause).max(least);
            let was_woken = tokio::select! {
                biased;
                () = waiter.woken() => true,
                () = sleep_until(next.min(until)) => false,
            };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(RemoteError::TimedOut { seconds: begun.elapsed().as_secs(), unsure: false });
            }
            // What the server says in a webhook may be ahead of what it answers.
            pause = if was_woken { FIRST_POLL } else { (pause * 3 / 2).min(LONGEST_POLL) };
            match self.poll(&prediction.id, left).await {
                Ok(newer) => {
                    (*prediction, failed, least) = (newer, 0, Duration::ZERO);
                }
                Err(error) if error.is_transient() => {
                    failed += 1;
                    if failed >= MOST_FAILED_POLLS {
                        return Err(error);
                    }
                    tracing::debug!(id = prediction.id, failed, %error, "a prediction is polled for again");
                    least = error.retry_after().unwrap_or_default();
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Asks once. A poll is repeated after the usual pause, which costs the server no more than a poll that succeeds;
    /// so it takes nothing from the budget of retries.
    async fn poll(&self, id: &str, left: Duration) -> Result<Prediction, RemoteError> {
        let asked = Asked::Get { id };
        let request = self.get_request(id)?;
        let limit = self.shared.options.request_timeout.min(left);
        let body = self.once(&asked, limit, request()).await.map_err(|failure| failure.error)?;
        self.read(&body, &asked)
    }

    /// How a prediction ended; none while it runs.
    fn outcome(&self, prediction: &Prediction) -> Option<Result<(), RemoteError>> {
        Some(match prediction.status {
            PredictionStatus::Starting | PredictionStatus::Processing => return None,
            PredictionStatus::Succeeded if prediction.data_removed && prediction.output.is_null() => {
                Err(RemoteError::NoSuchPrediction { id: prediction.id.clone() })
            }
            PredictionStatus::Succeeded => Ok(()),
            PredictionStatus::Failed => {
                let said = prediction.error.as_deref().filter(|text| !text.is_empty());
                let interrupted = said.is_some_and(is_interruption);
                let problem = said.map_or_else(|| "the server does not say why".to_owned(), |said| self.clean(said));
                Err(RemoteError::Failed { problem, interrupted })
            }
            PredictionStatus::Cancelled => Err(RemoteError::Cancelled { id: prediction.id.clone() }),
        })
    }

    /// Cancels a prediction, so that no more is paid for it, in two attempts of 5 s at most. One that has ended stays
    /// as it is.
    ///
    /// # Errors
    /// [`RemoteError`]; the prediction then runs on, up to [`RemoteOptions::lifetime`].
    pub async fn cancel(&self, id: &str) -> Result<(), RemoteError> {
        let url = self.prediction_url(id, &["cancel"])?;
        let request = || self.shared.client.post(url.clone()).header(CONTENT_TYPE, "application/json").body("");
        let limit = CANCEL_TIMEOUT.min(self.shared.options.request_timeout);
        self.send(&Asked::Cancel { id }, limit, None, request).await.map(drop)
    }

    /// Uploads a file and returns an address of it that can be the input of a prediction. The server keeps it for a
    /// while.
    ///
    /// # Errors
    /// [`RemoteError::NoFiles`] from a server that takes no files: put the file into the input with
    /// [`super::data_uri`].
    pub async fn upload(&self, bytes: &Bytes, content_type: &str) -> Result<Url, RemoteError> {
        #[derive(Deserialize)]
        struct File {
            urls: Urls,
        }
        #[derive(Deserialize)]
        struct Urls {
            get: String,
        }

        if bytes.len() > MAX_UPLOAD_BYTES {
            return Err(RemoteError::InputTooLarge { bytes: bytes.len() as u64, limit: MAX_UPLOAD_BYTES as u64 });
        }
        let bad_type = || RemoteError::BadInput { detail: "the media type of its file is none".to_owned() };
        let content_type = media_type(content_type).ok_or_else(bad_type)?;
        let part = || {
            let body = reqwest::Body::from(bytes.clone());
            let name = format!("file.{}", extension(&content_type).unwrap_or("bin"));
            Part::stream_with_length(body, bytes.len() as u64).file_name(name).mime_str(&content_type)
        };
        part().map_err(|_| bad_type())?;
        let url = self.url(&["files"]);
        let request = || {
            let request = self.shared.client.post(url.clone());
            match part() {
                Ok(part) => request.multipart(Form::new().part("content", part)),
                // Cannot be: the same part was made above.
                Err(_) => request,
            }
        };
        let body = self.send(&Asked::Upload, self.shared.options.upload_timeout, None, request).await?;
        let not_understood = |problem| RemoteError::NotUnderstood { problem, unsure: false };
        let file: File =
            serde_json::from_slice(&body).map_err(|_| not_understood("the answer to an upload names no file"))?;
        Url::parse(&file.urls.get)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https"))
            .ok_or_else(|| not_understood("the address of an uploaded file is neither http nor https"))
    }

    /// Whether a webhook with these headers may be one of the server's, before its body is read.
    ///
    /// # Errors
    /// [`WebhookError`].
    pub fn webhook_is_expected(&self, headers: &HeaderMap) -> Result<(), WebhookError> {
        if self.shared.options.webhook.is_none() {
            return Err(WebhookError::NotInUse);
        }
        signed(headers, SystemTime::now()).map(drop)
    }

    /// Takes in a webhook: checks its signature, and wakes those who wait for its prediction. Whether anybody did;
    /// another worker may.
    ///
    /// # Errors
    /// [`WebhookError`].
    pub fn webhook(&self, headers: &HeaderMap, body: &[u8]) -> Result<bool, WebhookError> {
        let Some(webhook) = &self.shared.options.webhook else { return Err(WebhookError::NotInUse) };
        verify(&webhook.secret, headers, body, SystemTime::now())?;
        Ok(self.shared.waiters.notify(&prediction_of(body)?))
    }

    /// Those who wait for webhooks.
    pub fn waiters(&self) -> &Waiters {
        &self.shared.waiters
    }

    /// How often a request was repeated.
    pub fn retries(&self) -> u64 {
        self.shared.retries.load(Ordering::Relaxed)
    }

    /// The retries that all calls share.
    pub fn budget(&self) -> &RetryBudget {
        &self.shared.budget
    }

    /// The breakers of all models that were asked for, by name.
    pub fn breakers(&self) -> Vec<BreakerReport> {
        let breakers = self.shared.breakers.lock().unwrap_or_else(PoisonError::into_inner);
        let report = |(model, breaker): (&String, &Breaker)| BreakerReport {
            model: model.clone(),
            state: breaker.state(),
            opened: breaker.opened(),
        };
        let mut reports: Vec<BreakerReport> = breakers.iter().map(report).collect();
        reports.sort_by(|a, b| a.model.cmp(&b.model));
        reports
    }

    fn begin(&self, model: &str) -> Result<Call, RemoteError> {
        self.breaker(model)
            .begin()
            .map_err(|refused| RemoteError::BreakerOpen { model: model.to_owned(), retry_in: refused.retry_in })
    }

    fn breaker(&self, model: &str) -> Breaker {
        let mut breakers = self.shared.breakers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(breaker) = breakers.get(model) {
            return breaker.clone();
        }
        // Names come from jobs. Those that work are forgotten first.
        if breakers.len() >= MAX_BREAKERS {
            breakers.retain(|_, breaker| breaker.state() != BreakerState::Closed);
        }
        if breakers.len() >= MAX_BREAKERS {
            breakers.clear();
        }
        let breaker = Breaker::new(self.shared.options.breaker);
        breakers.insert(model.to_owned(), breaker.clone());
        breaker
    }

    fn order_headers(&self) -> HeaderMap {
        let options = &self.shared.options;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let mut insert = |name: HeaderName, text: String| {
            // Digits and letters only.
            if let Ok(value) = HeaderValue::from_str(&text) {
                headers.insert(name, value);
            }
        };
        if options.prefer_wait.as_secs() > 0 {
            insert(PREFER, format!("wait={}", options.prefer_wait.as_secs()));
        }
        if let Some(lifetime) = options.lifetime {
            insert(CANCEL_AFTER, format!("{}s", lifetime.as_secs()));
        }
        headers
    }

    fn get_request(&self, id: &str) -> Result<impl Fn() -> RequestBuilder, RemoteError> {
        let url = self.prediction_url(id, &[])?;
        Ok(move || self.shared.client.get(url.clone()))
    }

    fn prediction_url(&self, id: &str, below: &[&str]) -> Result<Url, RemoteError> {
        if !is_prediction_id(id) {
            return Err(RemoteError::NoSuchPrediction { id: "that was given, which is none,".to_owned() });
        }
        let segments: Vec<&str> = ["predictions", id].iter().chain(below).copied().collect();
        Ok(self.url(&segments))
    }

    /// An address of the API. Those that the server names are not used: the token goes nowhere else.
    fn url(&self, segments: &[&str]) -> Url {
        let mut url = self.shared.options.base_url.clone();
        // It was checked that there is a path.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    fn read(&self, body: &[u8], asked: &Asked<'_>) -> Result<Prediction, RemoteError> {
        let not_understood = |problem| RemoteError::NotUnderstood { problem, unsure: asked.creates() };
        let prediction = Prediction::read(body).map_err(not_understood)?;
        match asked {
            Asked::Get { id } if prediction.id != **id => Err(not_understood("it answers with another prediction")),
            _ => Ok(prediction),
        }
    }

    /// Sets what every request carries, its limit among it.
    fn prepared(&self, request: RequestBuilder, limit: Duration) -> RequestBuilder {
        let request = request.timeout(limit);
        match &self.shared.authorization {
            Some(value) => request.header(AUTHORIZATION, value.clone()),
            None => request,
        }
    }
}

/// Every rule for the options.
fn check(options: &RemoteOptions) -> Result<(), String> {
    let url = &options.base_url;
    let refused = |problem: &str| Err(format!("the address of the server of remote models {problem}"));
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return refused("is neither http:// nor https://; write https://host/path");
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return refused("holds a user name, a password, a query or a fragment; leave them out");
    }
    let is_local = match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        None => false,
    };
    if url.scheme() == "http" && options.token.is_some() && !is_local {
        return refused("is http://, where anyone on the way can read the token; use https://");
    }
    if options.token.as_ref().is_some_and(String::is_empty) {
        return Err("the token is empty; set it, or leave it out".to_owned());
    }
    let seconds = |time: Duration| time.subsec_nanos() == 0;
    if options.prefer_wait > LONGEST_PREFER_WAIT || !seconds(options.prefer_wait) {
        return Err("the time to hold an order's answer back is not 0 to 60 whole seconds".to_owned());
    }
    if options.lifetime.is_some_and(|lifetime| lifetime < SHORTEST_LIFETIME || !seconds(lifetime)) {
        return Err("the lifetime of predictions is not at least 5 whole seconds".to_owned());
    }
    if options.request_timeout.is_zero() || options.upload_timeout.is_zero() {
        return Err("the time of a request is zero; give it some".to_owned());
    }
    Ok(())
}

/// Whether the server, and not the model, ended a prediction: it moved it off a machine, and says that another try
/// helps.
fn is_interruption(text: &str) -> bool {
    text.contains("(code: PA)") || text.to_ascii_lowercase().contains("prediction interrupted")
}
