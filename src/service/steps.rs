//! Remote models for steps: which there are, how many may be under way at once, and from where their outputs are fetched.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use url::Url;

use super::breaker::{BreakerOptions, BreakerState};
use super::failure::{Class, Failure};
use super::fair::{Fair, FairError, FairOccupancy, FairOptions, FairPermit};
use super::remote::{BreakerReport, ModelRef, Remote, RemoteError, RemoteOptions, Webhook, WebhookSecret};
use super::source::web::WebSources;
use crate::config::Config;
use crate::pipeline::job::{StepClass, StepRequest};

/// Limits of what goes to remote models and comes from them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepLimits {
    /// Longest side of pictures that are sent, pixels.
    pub max_dimension: u32,
    /// Most pixels of pictures that are sent.
    pub max_pixels: u64,
    /// Most bytes of one output.
    pub max_output_bytes: u64,
    /// How long a prediction may take.
    pub timeout: Duration,
}

/// Remote models. Clones share them.
#[derive(Clone)]
pub struct Steps {
    inner: Arc<Inner>,
}

struct Inner {
    remote: Remote,
    /// Models of steps that name none.
    models: BTreeMap<String, ModelRef>,
    classes: [(StepClass, Fair); 3],
    web: WebSources,
    limits: StepLimits,
}

impl Steps {
    /// The remote models of the settings; none where no API is set up.
    ///
    /// # Errors
    /// A text that names the variable that is wrong.
    pub fn open(config: &Config) -> Result<Option<Self>, String> {
        let token = config.remote_token.get().map(str::to_owned);
        let address = match (config.remote_url.get(), &token) {
            (Some(address), _) => address,
            (None, Some(_)) => RemoteOptions::REPLICATE,
            (None, None) => return Ok(None),
        };
        let url = Url::parse(address).map_err(|error| format!("CONCEPT_REMOTE_URL: {error}"))?;
        let limits = StepLimits {
            max_dimension: config.remote_max_dimension,
            max_pixels: config.remote_max_pixels,
            max_output_bytes: config.remote_max_output_mb << 20,
            timeout: Duration::from_secs(config.remote_timeout_seconds),
        };
        let webhook = match (config.remote_webhook_url.get(), config.remote_webhook_secret.get()) {
            (None, _) => None,
            (Some(_), None) => {
                return Err(
                    "CONCEPT_REMOTE_WEBHOOK_URL is set and CONCEPT_REMOTE_WEBHOOK_SECRET is not; set both".into()
                );
            }
            (Some(url), Some(secret)) => Some(Webhook {
                url: Url::parse(url).map_err(|error| format!("CONCEPT_REMOTE_WEBHOOK_URL: {error}"))?,
                secret: WebhookSecret::parse(secret)
                    .map_err(|error| format!("CONCEPT_REMOTE_WEBHOOK_SECRET: {error}"))?,
            }),
        };
        let web = WebSources::trusting(&config.remote_output_hosts, limits.timeout, &url)?;
        let usual = RemoteOptions::new(url, token);
        let pause = Duration::from_secs(config.remote_breaker_seconds);
        let breaker = BreakerOptions { pause, longest_pause: 20 * pause, ..usual.breaker };
        let (lifetime, longest_wait) = (Some(limits.timeout), limits.timeout);
        let remote = Remote::new(RemoteOptions { webhook, lifetime, longest_wait, breaker, ..usual })
            .map_err(|error| format!("CONCEPT_REMOTE_URL and CONCEPT_REMOTE_TOKEN: {error}"))?;
        let models = config.remote_models.get().map(models).transpose()?.unwrap_or_default();
        let class = |slots| {
            let patience = Some(Duration::from_secs(config.remote_wait_seconds));
            Fair::new(FairOptions { slots, queue_limit: config.remote_queue_limit, patience })
        };
        let classes = [
            (StepClass::Light, class(config.remote_light_concurrency)),
            (StepClass::Heavy, class(config.remote_heavy_concurrency)),
            (StepClass::Comic, class(config.remote_comic_concurrency)),
        ];
        Ok(Some(Self { inner: Arc::new(Inner { remote, models, classes, web, limits }) }))
    }

    /// The model of a step.
    ///
    /// # Errors
    /// [`Class::BadJob`] when neither the job nor the settings name one.
    pub fn model(&self, step: &StepRequest) -> Result<ModelRef, Failure> {
        let wrong = |problem: String| Failure::new(Class::BadJob, format!("steps: {}: {problem}", step.name));
        match (&step.model, self.inner.models.get(&step.name)) {
            (Some(model), _) => ModelRef::parse(model).map_err(wrong),
            (None, Some(model)) => Ok(model.clone()),
            (None, None) => Err(wrong("no model is known for it; name one, or add it to CONCEPT_REMOTE_MODELS".into())),
        }
    }

    /// Waits for `user`'s turn among the steps of a class.
    ///
    /// # Errors
    /// [`Class::Busy`] when too many wait or the turn does not come in time.
    pub async fn turn(&self, class: StepClass, user: &str) -> Result<FairPermit, Failure> {
        let [(_, light), (_, heavy), (_, comic)] = &self.inner.classes;
        let fair = match class {
            StepClass::Light => light,
            StepClass::Heavy => heavy,
            StepClass::Comic => comic,
        };
        fair.acquire(user)
            .await
            .map_err(|error: FairError| Failure::new(Class::Busy, format!("steps of class {}: {error}", class.name())))
    }

    /// Steps of a class that are under way at once.
    pub fn slots(&self, class: StepClass) -> usize {
        let of = |(known, fair): &(StepClass, Fair)| (*known == class).then(|| fair.occupancy().slots);
        self.inner.classes.iter().find_map(of).unwrap_or(1)
    }

    /// Whether a model is left alone now.
    ///
    /// # Errors
    /// [`Class::Busy`] while its breaker is open.
    pub fn check(&self, step: &str, model: &ModelRef) -> Result<(), Failure> {
        let model = model.model();
        let broken = |report: &BreakerReport| report.model == model && report.state == BreakerState::Open;
        match self.inner.remote.breakers().iter().any(broken) {
            true => {
                let message =
                    format!("steps: {step}: the remote model {model} keeps failing and is left alone for now");
                Err(Failure::new(Class::Busy, message))
            }
            false => Ok(()),
        }
    }

    /// The client of the API.
    pub fn remote(&self) -> &Remote {
        &self.inner.remote
    }

    /// Where outputs are fetched from.
    pub fn web(&self) -> &WebSources {
        &self.inner.web
    }

    /// The limits.
    pub fn limits(&self) -> &StepLimits {
        &self.inner.limits
    }

    /// How busy each class is.
    pub fn occupancy(&self) -> impl Iterator<Item = (&'static str, FairOccupancy)> {
        self.inner.classes.iter().map(|(class, fair)| (class.name(), fair.occupancy()))
    }
}

/// What to tell about a step that failed.
pub fn failure(step: &str, error: &RemoteError) -> Failure {
    let class = match error {
        RemoteError::BadInput { .. }
        | RemoteError::NoSuchModel { .. }
        | RemoteError::InputTooLarge { .. }
        | RemoteError::Refused { .. } => Class::RemoteRefused,
        RemoteError::Failed { .. } | RemoteError::Cancelled { .. } | RemoteError::NoSuchPrediction { .. } => {
            Class::RemoteFailed
        }
        // Nothing was asked: that is no attempt.
        RemoteError::BreakerOpen { .. } | RemoteError::RateLimited { .. } => Class::Busy,
        // What passes, and what whoever runs the worker can mend before the next delivery.
        _ => Class::RemoteUnavailable,
    };
    Failure::new(class, format!("steps: {step}: {error}"))
}

/// Reads CONCEPT_REMOTE_MODELS.
fn models(setting: &str) -> Result<BTreeMap<String, ModelRef>, String> {
    let wrong = |problem: String| format!("CONCEPT_REMOTE_MODELS: {problem}");
    let text = if setting.trim_start().starts_with('{') {
        setting.to_owned()
    } else {
        std::fs::read_to_string(setting).map_err(|error| wrong(format!("cannot read {setting}: {error}")))?
    };
    let named: BTreeMap<String, String> = serde_json::from_str(&text).map_err(|error| {
        wrong(format!("{error}; write an object of names and models, such as {{\"upscale\": \"owner/name\"}}"))
    })?;
    named
        .into_iter()
        .map(|(name, model)| Ok((name.clone(), ModelRef::parse(&model).map_err(|e| wrong(format!("{name}: {e}")))?)))
        .collect()
}
