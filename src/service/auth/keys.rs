//! The keys that tokens are signed with, fetched from a JSON Web Key Set (RFC 7517) and kept.
//!
//! A key that is known is never waited for: when the set has gone stale, one refresh runs beside the requests. Only a key
//! that is not known makes its request wait, and however many wait, they share one refresh. Names of keys come from
//! whoever sends a token, so names that nobody knows cause at most one refresh in a while.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderMap;
use http::header::CACHE_CONTROL;
use jsonwebtoken::DecodingKey;
use reqwest::redirect;
use serde::Deserialize;
use tokio::sync::watch;
use url::{Host, Url};

/// Most bytes of a key set. Google's has about 1,500.
const MAX_SET_BYTES: usize = 256 << 10;
/// Most keys that are kept. Google lists two or three.
const MAX_KEYS: usize = 64;
/// RSA moduli that can be verified with, bytes: 2048 to 8192 bits.
const MODULUS_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;

/// For how long keys are kept, and how often they are fetched.
#[derive(Debug, Clone)]
pub struct KeyPolicy {
    /// How long a set is fresh at least, whatever the server says.
    pub shortest_fresh: Duration,
    /// How long a set is fresh at most, whatever the server says.
    pub longest_fresh: Duration,
    /// How long a set is fresh when the server does not say.
    pub usual_fresh: Duration,
    /// How long a set is used after that, while refreshing it fails.
    pub longest_stale: Duration,
    /// Least time between two refreshes while a usable set is held.
    pub pause: Duration,
    /// Least time between two refreshes while none is held.
    pub pause_without_keys: Duration,
    /// Limit of connecting.
    pub connect_timeout: Duration,
    /// Limit of a refresh.
    pub timeout: Duration,
}

impl Default for KeyPolicy {
    fn default() -> Self {
        const MINUTE: Duration = Duration::from_secs(60);
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Self {
            shortest_fresh: MINUTE,
            longest_fresh: DAY,
            usual_fresh: Duration::from_secs(5 * 60),
            longest_stale: DAY,
            pause: Duration::from_secs(30),
            pause_without_keys: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(2),
            timeout: Duration::from_secs(5),
        }
    }
}

/// Why the keys are not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeysUnavailable {
    /// Nobody answers.
    #[error("the server of the signing keys cannot be reached")]
    Unreachable,
    /// It took too long.
    #[error("the server of the signing keys did not answer in time")]
    TimedOut,
    /// The answer is no success.
    #[error("the server of the signing keys answered {0}")]
    Status(u16),
    /// The answer is no key set.
    #[error("the server of the signing keys sent no usable keys")]
    Unusable,
}

/// Why there is no key of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyError {
    /// The set has none of this name.
    Unknown,
    /// The set cannot be fetched.
    Unavailable(KeysUnavailable),
}

/// The keys of one address. Cheap to clone; every clone is the same cache.
#[derive(Clone)]
pub struct Keys(Arc<Shared>);

struct Shared {
    client: reqwest::Client,
    url: Url,
    policy: KeyPolicy,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    cache: Cache,
    /// Closed when the refresh in flight is over.
    flight: Option<watch::Receiver<()>>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("url", &self.0.url.as_str()).finish_non_exhaustive()
    }
}

impl Keys {
    /// Keys of this address; none is fetched before one is asked for.
    ///
    /// # Errors
    /// A text, when the address could be answered by anyone (http:// to another machine), or the system has no root
    /// certificates.
    pub fn new(url: &str, policy: KeyPolicy) -> Result<Self, String> {
        let url = Url::parse(url).map_err(|error| format!("CONCEPT_OIDC_JWKS_URL is no address: {error}; unset it"))?;
        let loopback = match url.host() {
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            Some(Host::Domain(name)) => name == "localhost",
            None => false,
        };
        if url.scheme() != "https" && !loopback {
            return Err(
                "CONCEPT_OIDC_JWKS_URL is not https://, so anyone on the way could replace the keys; unset it or \
                        use https://"
                    .into(),
            );
        }
        let client = reqwest::Client::builder()
            .connect_timeout(policy.connect_timeout)
            .timeout(policy.timeout)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(|error| format!("no TLS client can be made: {error}; install the system's root certificates"))?;
        Ok(Self(Arc::new(Shared { client, url, policy, state: Mutex::default() })))
    }

    /// The key of this name.
    ///
    /// # Errors
    /// [`KeyError`]: the set has none, or cannot be had. Waits for at most one refresh.
    pub async fn key(&self, kid: &str) -> Result<Arc<DecodingKey>, KeyError> {
        let mut refresh = {
            let mut state = self.state();
            match state.cache.look(kid, Instant::now(), &self.0.policy) {
                Look::Known { key, refresh } => {
                    if refresh && !state.in_flight() {
                        self.refresh(&mut state);
                    }
                    return Ok(key);
                }
                Look::Unknown { refresh } => match state.flight.clone().filter(still_open) {
                    Some(flight) => flight,
                    None if refresh => self.refresh(&mut state),
                    None => return Err(state.cache.why_not()),
                },
            }
        };
        // Nothing is ever sent; an error means that the refresh is over.
        while refresh.changed().await.is_ok() {}
        let state = self.state();
        match state.cache.look(kid, Instant::now(), &self.0.policy) {
            Look::Known { key, .. } => Ok(key),
            Look::Unknown { .. } => Err(state.cache.why_not()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a refresh that goes on when the request that caused it is dropped.
    fn refresh(&self, state: &mut State) -> watch::Receiver<()> {
        let (over, flight) = watch::channel(());
        state.flight = Some(flight.clone());
        state.cache.attempted = Some(Instant::now());
        let keys = self.clone();
        tokio::spawn(async move {
            let fetched = keys.fetch().await;
            if let Err(error) = &fetched {
                tracing::warn!(%error, "the keys that tokens are checked with could not be refreshed");
            }
            keys.state().cache.store(fetched, Instant::now());
            drop(over);
        });
        flight
    }

    async fn fetch(&self) -> Result<Set, KeysUnavailable> {
        let failed = |error: reqwest::Error| {
            if error.is_timeout() { KeysUnavailable::TimedOut } else { KeysUnavailable::Unreachable }
        };
        let mut response = self.0.client.get(self.0.url.clone()).send().await.map_err(failed)?;
        if response.status() != http::StatusCode::OK {
            return Err(KeysUnavailable::Status(response.status().as_u16()));
        }
        let policy = &self.0.policy;
        let fresh = max_age(response.headers())
            .map_or(policy.usual_fresh, |age| age.clamp(policy.shortest_fresh, policy.longest_fresh));
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > MAX_SET_BYTES {
                return Err(KeysUnavailable::Unusable);
            }
            body.extend_from_slice(&chunk);
        }
        let keys = read_set(&body);
        // Google never has none; keeping the old ones is better than refusing everyone.
        if keys.is_empty() { Err(KeysUnavailable::Unusable) } else { Ok(Set { keys, fresh }) }
    }
}

impl State {
    fn in_flight(&self) -> bool {
        self.flight.as_ref().is_some_and(still_open)
    }
}

/// A refresh whose task ended, in whatever way, has closed its channel.
fn still_open(flight: &watch::Receiver<()>) -> bool {
    flight.has_changed().is_ok()
}

type Known = HashMap<String, Arc<DecodingKey>>;

/// A set that was fetched.
struct Set {
    keys: Known,
    fresh: Duration,
}

/// What is held, and when it was last asked for. Knows no clock.
#[derive(Default)]
struct Cache {
    keys: Known,
    fresh_until: Option<Instant>,
    attempted: Option<Instant>,
    failure: Option<KeysUnavailable>,
}

enum Look {
    Known {
        key: Arc<DecodingKey>,
        /// Whether a refresh is due.
        refresh: bool,
    },
    Unknown {
        /// Whether a refresh may be made for it.
        refresh: bool,
    },
}

impl Cache {
    fn look(&self, kid: &str, now: Instant, policy: &KeyPolicy) -> Look {
        let fresh = self.fresh_until.is_some_and(|end| now < end);
        let usable = self.fresh_until.is_some_and(|end| now < end + policy.longest_stale);
        let pause = if usable { policy.pause } else { policy.pause_without_keys };
        let due = self.attempted.is_none_or(|at| now.duration_since(at) >= pause);
        match self.keys.get(kid).filter(|_| usable) {
            Some(key) => Look::Known { key: key.clone(), refresh: !fresh && due },
            None => Look::Unknown { refresh: due },
        }
    }

    fn store(&mut self, fetched: Result<Set, KeysUnavailable>, now: Instant) {
        match fetched {
            Ok(set) => {
                // Keys that are no longer listed are gone: that is how they are revoked.
                self.keys = set.keys;
                self.fresh_until = Some(now + set.fresh);
                self.failure = None;
            }
            Err(failure) => self.failure = Some(failure),
        }
    }

    /// Why a name is not known: while the set cannot be refreshed, it may only be too new.
    fn why_not(&self) -> KeyError {
        self.failure.clone().map_or(KeyError::Unknown, KeyError::Unavailable)
    }
}

#[derive(Deserialize)]
struct JsonKeySet {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct JsonKey {
    kty: String,
    kid: String,
    #[serde(default, rename = "use")]
    purpose: Option<String>,
    #[serde(default)]
    alg: Option<String>,
    n: String,
    e: String,
}

/// The keys of a set that RS256 can be verified with; others are left out.
fn read_set(body: &[u8]) -> Known {
    let Ok(set) = serde_json::from_slice::<JsonKeySet>(body) else { return Known::new() };
    set.keys.into_iter().filter_map(read_key).take(MAX_KEYS).collect()
}

fn read_key(value: serde_json::Value) -> Option<(String, Arc<DecodingKey>)> {
    let key: JsonKey = serde_json::from_value(value).ok()?;
    let fits = key.kty == "RSA"
        && key.purpose.is_none_or(|purpose| purpose == "sig")
        && key.alg.is_none_or(|alg| alg == "RS256");
    let number = |text: &str| {
        let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok()?;
        let zeros = bytes.iter().take_while(|&&byte| byte == 0).count();
        Some(bytes[zeros..].to_vec())
    };
    let (modulus, exponent) = (number(&key.n)?, number(&key.e)?);
    let sound = fits && MODULUS_BYTES.contains(&modulus.len()) && !exponent.is_empty();
    sound.then(|| (key.kid, Arc::new(DecodingKey::from_rsa_raw_components(&modulus, &exponent))))
}

/// For how long an answer may be kept, by its Cache-Control (RFC 9111). Zero where it must not be kept.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let directives: Vec<String> = headers
        .get_all(CACHE_CONTROL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|directive| directive.trim().to_ascii_lowercase())
        .collect();
    if directives.iter().any(|directive| directive == "no-store" || directive == "no-cache") {
        return Some(Duration::ZERO);
    }
    let seconds = directives.iter().find_map(|directive| directive.strip_prefix("max-age="))?;
    seconds.trim_matches('"').parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn set(fresh: Duration) -> Set {
        let key = Arc::new(DecodingKey::from_rsa_raw_components(&[1; 256], &[1, 0, 1]));
        Set { keys: Known::from([("a".to_owned(), key)]), fresh }
    }

    /// `known`, `known, refresh`, `unknown` or `unknown, refresh`.
    fn look(cache: &Cache, kid: &str, at: Instant) -> &'static str {
        match cache.look(kid, at, &KeyPolicy::default()) {
            Look::Known { refresh: false, .. } => "known",
            Look::Known { refresh: true, .. } => "known, refresh",
            Look::Unknown { refresh: false } => "unknown",
            Look::Unknown { refresh: true } => "unknown, refresh",
        }
    }

    #[test]
    fn a_set_is_fresh_then_stale_then_gone() {
        let start = Instant::now();
        let mut cache = Cache::default();
        assert_eq!(look(&cache, "a", start), "unknown, refresh");
        cache.attempted = Some(start);
        cache.store(Ok(set(10 * MINUTE)), start);
        assert_eq!(look(&cache, "a", start), "known");
        assert_eq!(look(&cache, "a", start + 9 * MINUTE), "known");
        assert_eq!(look(&cache, "a", start + 10 * MINUTE), "known, refresh");
        assert_eq!(look(&cache, "a", start + 24 * 60 * MINUTE), "known, refresh");
        assert_eq!(look(&cache, "a", start + (24 * 60 + 10) * MINUTE), "unknown, refresh");
    }

    #[test]
    fn refreshes_keep_their_distance_a_short_one_while_there_are_no_keys() {
        let start = Instant::now();
        let seconds = |seconds| start + Duration::from_secs(seconds);
        let mut cache = Cache { attempted: Some(start), ..Cache::default() };
        cache.store(Err(KeysUnavailable::TimedOut), start);
        assert_eq!(look(&cache, "a", seconds(1)), "unknown");
        assert_eq!(look(&cache, "a", seconds(2)), "unknown, refresh");
        assert_eq!(cache.why_not(), KeyError::Unavailable(KeysUnavailable::TimedOut));
        cache.store(Ok(set(MINUTE)), start);
        assert_eq!(cache.why_not(), KeyError::Unknown);
        assert_eq!(look(&cache, "b", seconds(29)), "unknown");
        assert_eq!(look(&cache, "b", seconds(30)), "unknown, refresh");
        // A refresh that failed does not make a stale set be asked for with every request.
        cache.attempted = Some(seconds(61));
        cache.store(Err(KeysUnavailable::Unreachable), seconds(61));
        assert_eq!(look(&cache, "a", seconds(62)), "known");
        assert_eq!(look(&cache, "a", seconds(91)), "known, refresh");
    }

    #[test]
    fn how_long_an_answer_may_be_kept_is_read_from_its_cache_control() {
        for (value, seconds) in [
            ("public, max-age=20000, must-revalidate, no-transform", Some(20_000)),
            ("MAX-AGE=5", Some(5)),
            ("max-age=\"7\"", Some(7)),
            ("no-store, max-age=100", Some(0)),
            ("no-cache", Some(0)),
            ("public", None),
            ("max-age=soon", None),
            ("max-age=-1", None),
            ("s-maxage=9", None),
            ("", None),
        ] {
            let headers = HeaderMap::from_iter([(CACHE_CONTROL, HeaderValue::from_static(value))]);
            assert_eq!(max_age(&headers), seconds.map(Duration::from_secs), "{value}");
        }
        assert_eq!(max_age(&HeaderMap::new()), None);
    }
}
