//! The cache layer that instances share: values, and short lists of a job's progress, in Redis.
//!
//! It may be away at any time. No call fails, none takes longer than the timeout, and the first that gets no answer
//! opens a breaker, after which calls return at once. After a pause of 1 s, twice as long whenever it was in vain and
//! 30 s at most, a probe in the background asks whether Redis is back; no caller waits for it.
//!
//! Not with redis's connection manager: it keeps a connection that does not answer, and one that was refused for its
//! password, for good. Here whatever fails is closed, and the next call or probe connects again.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, ErrorKind, Pipeline, RedisError, ServerErrorKind, Value};
use tokio::time::{Instant, timeout};
use url::Url;

use crate::service::breaker::{Breaker, BreakerOptions, BreakerState, Call};

/// When the layer is left alone, and for how long.
const BREAKER: BreakerOptions =
    BreakerOptions { window: 1, failures: 1, pause: Duration::from_secs(1), longest_pause: Duration::from_secs(30) };

/// How often it is logged, at most, that Redis answers with an error.
const REFUSAL_PAUSE: Duration = Duration::from_secs(60);

/// The longest that anything is kept: Redis refuses times that overflow its clock.
const LONGEST_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3_600);

/// What a stored value begins with; another format gets another one.
const MAGIC: [u8; 4] = *b"CWS1";

/// The magic, the CRC-32C of key and value, the value's length; the numbers as 4 bytes, the least first.
const HEADER: usize = 12;

/// Most bytes of a value, whatever the options say: Redis takes 512 MiB per string.
const MAX_VALUE_BYTES: usize = (512 << 20) - HEADER;

/// What the shared layer goes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedOptions {
    /// The longest that an operation may take, connecting included; at least 1 ms.
    pub timeout: Duration,
    /// How long values are kept; at least 1 ms.
    pub time_to_live: Duration,
    /// How long lists are kept after their last entry; at least 1 ms.
    pub list_time_to_live: Duration,
    /// Most bytes of a value or of an entry of a list; larger ones are not stored.
    pub max_value_bytes: usize,
    /// Most entries of a list, at least 1. When there are more, the oldest go, and the others move up.
    pub max_list_entries: usize,
    /// What all keys begin with, such as `concept:1`. Another version of what is stored needs another one.
    pub prefix: String,
}

/// What the shared layer has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedStats {
    /// Values found.
    pub hits: u64,
    /// Values not found, or damaged.
    pub misses: u64,
    /// Operations that failed or took too long.
    pub errors: u64,
    /// Operations not tried because the breaker was open.
    pub skipped: u64,
    /// Values stored.
    pub puts: u64,
    /// Values and entries that were too large to be stored.
    pub too_large: u64,
    /// How often the breaker has opened, failed probes included.
    pub breaker_opened: u64,
    /// What the breaker does with the next operation.
    pub state: BreakerState,
}

/// The shared layer. Clones are the same one.
#[derive(Clone)]
pub struct SharedCache {
    shared: Arc<Shared>,
}

struct Shared {
    options: SharedOptions,
    client: Client,
    /// Host and port, for people; the URL may hold a password.
    address: String,
    breaker: Breaker,
    connection: Mutex<Link>,
    /// Held while connecting, so that many calls at once make one connection.
    connecting: tokio::sync::Mutex<()>,
    /// Whether it has been logged that it is away.
    away: AtomicBool,
    /// When it was last logged that Redis answered with an error.
    refusal_logged: Mutex<Option<Instant>>,
    hits: AtomicU64,
    misses: AtomicU64,
    errors: AtomicU64,
    skipped: AtomicU64,
    puts: AtomicU64,
    too_large: AtomicU64,
}

#[derive(Default)]
struct Link {
    connection: Option<MultiplexedConnection>,
    /// Counts the connections: whoever finds one broken closes that one only.
    number: u64,
}

/// What Redis is asked.
enum Request {
    One(Cmd),
    Several(Pipeline),
}

/// What became of a request.
enum Outcome {
    Answer(Value),
    /// The key holds something of another kind.
    WrongType,
    /// There is no answer, for whatever reason.
    Nothing,
}

enum Problem {
    /// Redis works, but does not do this.
    Refused(RedisError),
    /// The connection or the whole server is of no use now.
    Failed(RedisError),
    /// There was no answer in time.
    TimedOut,
    /// Others have found meanwhile that there is no connection.
    Away,
}

impl std::fmt::Debug for SharedCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedCache").field("address", &self.shared.address).finish_non_exhaustive()
    }
}

impl SharedCache {
    /// Prepares the layer for a Redis at `redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE]`, or `rediss://` for TLS
    /// with the system's certificates (or those that SSL_CERT_FILE names). Connects with the first operation.
    ///
    /// # Errors
    /// A text that says what is wrong with the URL, and does not show it.
    pub fn open(url: &str, options: SharedOptions) -> Result<Self, String> {
        let form = "give it as redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE], or rediss:// for TLS";
        let wrong = |problem: &str| format!("the URL of the shared cache is wrong: {problem}; {form}");
        let parsed = Url::parse(url).map_err(|error| wrong(&error.to_string()))?;
        if !matches!(parsed.scheme(), "redis" | "rediss") {
            return Err(wrong("its scheme is neither redis nor rediss"));
        }
        let Some(host) = parsed.host_str().filter(|host| !host.is_empty()) else {
            return Err(wrong("it names no host"));
        };
        if parsed.fragment().is_some() {
            return Err(wrong("it has a fragment, and in a password # is written as %23"));
        }
        let address = format!("{host}:{}", parsed.port().unwrap_or(6379));
        if parsed.scheme() == "rediss" {
            // redis would panic where several are compiled in and none is chosen. One that is chosen already stays.
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        }
        // The library's texts name no part of the URL, but nothing promises that.
        let client = Client::open(parsed).map_err(|error| wrong(problem_of(error.category(), &error)))?;
        let shared = Shared {
            options: SharedOptions {
                timeout: options.timeout.max(Duration::from_millis(1)),
                time_to_live: options.time_to_live.clamp(Duration::from_millis(1), LONGEST_LIFE),
                list_time_to_live: options.list_time_to_live.clamp(Duration::from_millis(1), LONGEST_LIFE),
                max_value_bytes: options.max_value_bytes.min(MAX_VALUE_BYTES),
                max_list_entries: options.max_list_entries.max(1),
                prefix: options.prefix,
            },
            client,
            address,
            breaker: Breaker::new(BREAKER),
            connection: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
            away: AtomicBool::new(false),
            refusal_logged: Mutex::default(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            puts: AtomicU64::new(0),
            too_large: AtomicU64::new(0),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The value under a key of a layer. `None` as well when it is damaged, larger than allowed, or when Redis does not
    /// answer in time.
    pub async fn get(&self, layer: &'static str, key: &str) -> Option<Bytes> {
        let shared = &self.shared;
        let key = shared.value_key(layer, key);
        // Of something foreign, never more is read than a value may have.
        let last = HEADER + shared.options.max_value_bytes - 1;
        let mut get = redis::cmd("GETRANGE");
        get.arg(&key).arg(0).arg(last);
        let stored = match self.ask(Request::One(get)).await {
            Outcome::Answer(Value::BulkString(stored)) => stored,
            Outcome::Answer(_) | Outcome::WrongType => Vec::new(),
            Outcome::Nothing => return None,
        };
        let value = unframe(&key, stored.into());
        let counter = if value.is_some() { &shared.hits } else { &shared.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        value
    }

    /// Stores a value under a key of a layer for the time to live, unless it is too large or Redis does not answer in
    /// time.
    pub async fn put(&self, layer: &'static str, key: &str, value: &[u8]) {
        let shared = &self.shared;
        let key = shared.value_key(layer, key);
        let Some(framed) = shared.fits(value).then(|| frame(&key, value)).flatten() else { return };
        let mut set = redis::cmd("SET");
        set.arg(&key).arg(framed).arg("PX").arg(milliseconds(shared.options.time_to_live));
        if let Outcome::Answer(_) = self.ask(Request::One(set)).await {
            shared.puts.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Adds an entry to the end of a list, whose time to live begins anew. Returns how many entries the list would have
    /// without a bound; `None` when the entry is too large or Redis did not answer in time, in which case it may be
    /// there all the same. When the connection breaks just then, the entry may be there twice.
    pub async fn append(&self, list: &str, entry: &[u8]) -> Option<usize> {
        let shared = &self.shared;
        if !shared.fits(entry) {
            return None;
        }
        let key = shared.list_key(list);
        let first = -i64::try_from(shared.options.max_list_entries).unwrap_or(i64::MAX);
        let mut pipeline = redis::pipe();
        // All or nothing: a list without an end of life would stay for good.
        pipeline.atomic();
        pipeline.cmd("RPUSH").arg(&key).arg(entry);
        pipeline.cmd("LTRIM").arg(&key).arg(first).arg(-1).ignore();
        pipeline.cmd("PEXPIRE").arg(&key).arg(milliseconds(shared.options.list_time_to_live)).ignore();
        match self.ask(Request::Several(pipeline)).await {
            Outcome::Answer(Value::Array(counts)) => match counts.as_slice() {
                [Value::Int(count)] => usize::try_from(*count).ok(),
                _ => None,
            },
            _ => None,
        }
    }

    /// At most `limit` entries of a list, from number `from` on, the oldest being 0; none when there is no such list.
    /// `None` when Redis did not answer in time. The entries are as they were appended, without a check. Once a list
    /// has had more entries than the bound, the numbers of the rest are no longer what they were.
    pub async fn entries(&self, list: &str, from: usize, limit: usize) -> Option<Vec<Bytes>> {
        let shared = &self.shared;
        let limit = limit.min(shared.options.max_list_entries);
        if limit == 0 {
            return Some(Vec::new());
        }
        let number = |at: usize| i64::try_from(at).unwrap_or(i64::MAX);
        let mut range = redis::cmd("LRANGE");
        range.arg(shared.list_key(list)).arg(number(from)).arg(number(from.saturating_add(limit - 1)));
        match self.ask(Request::One(range)).await {
            Outcome::Answer(Value::Array(entries)) => entries.into_iter().map(bulk).collect(),
            _ => None,
        }
    }

    /// What it has done so far.
    pub fn stats(&self) -> SharedStats {
        let shared = &self.shared;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SharedStats {
            hits: count(&shared.hits),
            misses: count(&shared.misses),
            errors: count(&shared.errors),
            skipped: count(&shared.skipped),
            puts: count(&shared.puts),
            too_large: count(&shared.too_large),
            breaker_opened: shared.breaker.opened(),
            state: shared.breaker.state(),
        }
    }

    async fn ask(&self, request: Request) -> Outcome {
        let shared = &self.shared;
        match self.begin() {
            Some(call) => shared.settle(call, shared.attempt(&request).await),
            None => {
                shared.skipped.fetch_add(1, Ordering::Relaxed);
                Outcome::Nothing
            }
        }
    }

    /// Whether Redis may be asked. When it is time for a probe, it begins, and the caller goes on without Redis.
    fn begin(&self) -> Option<Call> {
        match self.shared.breaker.state() {
            BreakerState::Closed => self.shared.breaker.begin().ok(),
            BreakerState::Open => None,
            BreakerState::HalfOpen => {
                // One at a time: the breaker refuses another.
                if let Ok(call) = self.shared.breaker.begin() {
                    let shared = self.shared.clone();
                    tokio::spawn(async move {
                        let answer = shared.attempt(&Request::One(redis::cmd("PING"))).await;
                        shared.settle(call, answer);
                    });
                }
                None
            }
        }
    }
}

impl Shared {
    fn value_key(&self, layer: &str, key: &str) -> String {
        format!("{}:value:{layer}:{key}", self.options.prefix)
    }

    fn list_key(&self, list: &str) -> String {
        format!("{}:list:{list}", self.options.prefix)
    }

    fn fits(&self, value: &[u8]) -> bool {
        let fits = value.len() <= self.options.max_value_bytes;
        if !fits {
            self.too_large.fetch_add(1, Ordering::Relaxed);
        }
        fits
    }

    fn link(&self) -> MutexGuard<'_, Link> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks Redis, for no longer than the timeout.
    async fn attempt(&self, request: &Request) -> Result<Value, Problem> {
        let mut used = None;
        match timeout(self.options.timeout, self.converse(request, &mut used)).await {
            Ok(result) => result,
            Err(_) => {
                self.close(used);
                Err(Problem::TimedOut)
            }
        }
    }

    /// Asks Redis, once more when a connection turns out to be closed that others have used before: Redis may have been
    /// started again, or have closed it because it was idle.
    async fn converse(&self, request: &Request, used: &mut Option<u64>) -> Result<Value, Problem> {
        let mut again = true;
        loop {
            let (mut connection, number, new) = self.connect().await?;
            *used = Some(number);
            match request.send(&mut connection).await {
                Ok(value) => return Ok(value),
                Err(error) if is_refusal(&error) => return Err(Problem::Refused(error)),
                Err(error) => {
                    self.close(Some(number));
                    if new || !again || !error.is_io_error() {
                        return Err(Problem::Failed(error));
                    }
                }
            }
            again = false;
        }
    }

    /// The connection, its number, and whether it is new.
    async fn connect(&self) -> Result<(MultiplexedConnection, u64, bool), Problem> {
        let current = || {
            let link = self.link();
            link.connection.clone().map(|connection| (connection, link.number, false))
        };
        if let Some(current) = current() {
            return Ok(current);
        }
        let _connecting = self.connecting.lock().await;
        if let Some(current) = current() {
            return Ok(current);
        }
        if self.breaker.state() == BreakerState::Open {
            return Err(Problem::Away);
        }
        // The time is taken by the caller, for connecting and asking together.
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let connection =
            self.client.get_multiplexed_async_connection_with_config(&config).await.map_err(Problem::Failed)?;
        let mut link = self.link();
        link.number += 1;
        link.connection = Some(connection.clone());
        Ok((connection, link.number, true))
    }

    /// Closes a connection, unless it has been replaced already.
    fn close(&self, number: Option<u64>) {
        let mut link = self.link();
        if number == Some(link.number) {
            link.connection = None;
        }
    }

    /// Tells the breaker and whoever reads the log.
    fn settle(&self, call: Call, result: Result<Value, Problem>) -> Outcome {
        let reason = match result {
            Ok(value) => {
                self.works(call);
                return Outcome::Answer(value);
            }
            Err(Problem::Refused(error)) => {
                self.works(call);
                if error.code() == Some("WRONGTYPE") {
                    return Outcome::WrongType;
                }
                self.errors.fetch_add(1, Ordering::Relaxed);
                self.log_refusal(&error);
                return Outcome::Nothing;
            }
            Err(Problem::TimedOut) => format!("there was no answer within {} ms", self.options.timeout.as_millis()),
            Err(Problem::Failed(error)) => reason_of(&error),
            Err(Problem::Away) => "there is no connection".to_owned(),
        };
        self.errors.fetch_add(1, Ordering::Relaxed);
        call.failed();
        // A call that began before it was back says nothing any more.
        if self.breaker.state() != BreakerState::Closed && !self.away.swap(true, Ordering::SeqCst) {
            tracing::warn!(
                address = self.address,
                "the shared cache is away, and the worker goes on without it: {reason}; check the Redis at {}",
                self.address
            );
        }
        Outcome::Nothing
    }

    fn works(&self, call: Call) {
        call.succeeded();
        // A call that began before it went away says nothing any more.
        if self.breaker.state() == BreakerState::Closed && self.away.swap(false, Ordering::SeqCst) {
            tracing::info!(address = self.address, "the shared cache is back");
        }
    }

    fn log_refusal(&self, error: &RedisError) {
        let mut logged = self.refusal_logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.is_some_and(|at| at.elapsed() < REFUSAL_PAUSE) {
            return;
        }
        *logged = Some(Instant::now());
        let reason = reason_of(error);
        tracing::warn!(
            address = self.address,
            "the shared cache does not do what it should: {reason}; check memory and permissions of the Redis at {}",
            self.address
        );
    }
}

impl Request {
    async fn send(&self, connection: &mut MultiplexedConnection) -> Result<Value, RedisError> {
        match self {
            Self::One(command) => command.query_async(connection).await,
            Self::Several(pipeline) => pipeline.query_async(connection).await,
        }
    }
}

/// Whether Redis works and refused this one operation, rather than all of them.
fn is_refusal(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Extension => !matches!(error.code(), Some("NOAUTH" | "WRONGPASS" | "BUSY" | "UNKILLABLE")),
        ErrorKind::Server(kind) => matches!(
            kind,
            // READONLY is none: after a failover, it takes another connection to come to the one that is not.
            ServerErrorKind::ResponseError | ServerErrorKind::ExecAbort | ServerErrorKind::NoPerm
        ),
        _ => false,
    }
}

/// What went wrong, for the log. Of what Redis says only the code: the rest may show what was asked.
fn reason_of(error: &RedisError) -> String {
    if error.is_io_error() {
        return error.to_string();
    }
    match error.code() {
        Some(code) => format!("it answers {code}"),
        None => problem_of(error.category(), error).to_owned(),
    }
}

fn problem_of<'a>(category: &'a str, error: &RedisError) -> &'a str {
    match error.kind() {
        ErrorKind::AuthenticationFailed => "it does not accept the user or the password",
        ErrorKind::InvalidClientConfig => "a part of it is not valid",
        _ => category,
    }
}

fn bulk(value: Value) -> Option<Bytes> {
    match value {
        Value::BulkString(bytes) => Some(bytes.into()),
        _ => None,
    }
}

fn checksum(key: &str, value: &[u8]) -> [u8; 4] {
    crc32c::crc32c_append(crc32c::crc32c(key.as_bytes()), value).to_le_bytes()
}

/// A value as it is stored; `None` when its length cannot be told.
fn frame(key: &str, value: &[u8]) -> Option<Vec<u8>> {
    let length = u32::try_from(value.len()).ok()?;
    let mut framed = Vec::with_capacity(HEADER + value.len());
    framed.extend_from_slice(&MAGIC);
    framed.extend_from_slice(&checksum(key, value));
    framed.extend_from_slice(&length.to_le_bytes());
    framed.extend_from_slice(value);
    Some(framed)
}

/// The value of what was stored under this key; `None` when it is damaged, cut off, or something else.
fn unframe(key: &str, mut stored: Bytes) -> Option<Bytes> {
    if stored.len() < HEADER {
        return None;
    }
    let value = stored.split_off(HEADER);
    let rest = stored.strip_prefix(&MAGIC)?;
    let (sum, length) = rest.split_at_checked(4)?;
    let length = u32::from_le_bytes(length.try_into().ok()?);
    (usize::try_from(length).ok()? == value.len() && sum == checksum(key, &value)).then_some(value)
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> SharedOptions {
        SharedOptions {
            timeout: Duration::from_millis(250),
            time_to_live: Duration::from_secs(60),
            list_time_to_live: Duration::from_secs(60),
            max_value_bytes: 1 << 20,
            max_list_entries: 100,
            prefix: "concept:1".to_owned(),
        }
    }

    #[test]
    fn what_was_framed_comes_out_and_anything_else_does_not() {
        for value in [&b""[..], b"value", &[0; 5_000]] {
            let framed = frame("key", value).unwrap();
            assert_eq!(unframe("key", framed.clone().into()).as_deref(), Some(value));
            assert_eq!(unframe("another", framed.clone().into()), None);
            for at in 0..framed.len().min(40) {
                let mut damaged = framed.clone();
                damaged[at] ^= 1;
                assert_eq!(unframe("key", damaged.into()), None);
                assert_eq!(unframe("key", framed[..at].to_vec().into()), None);
            }
            let longer: Vec<u8> = framed.iter().copied().chain([0]).collect();
            assert_eq!(unframe("key", longer.into()), None);
        }
    }

    #[test]
    fn a_wrong_url_is_refused_with_its_reason_and_never_shown() {
        for (url, reason) in [
            ("hunter2", "relative URL without a base"),
            ("http://user:hunter2@host", "neither redis nor rediss"),
            ("redis://user:hunter2@host/first", "a part of it is not valid"),
            ("redis://user:hunter2@host:99999", "invalid port number"),
            ("redis:///0", "names no host"),
            ("rediss://user:hunter2@host/#insecure", "fragment"),
            ("redis://0.0.0.0", "a part of it is not valid"),
            ("", "relative URL without a base"),
        ] {
            let error = SharedCache::open(url, options()).err().unwrap();
            assert!(error.contains(reason) && !error.contains("hunter2"), "{url}: {error}");
            assert!(error.contains("give it as redis://"), "{error}");
        }
    }

    #[test]
    fn opening_connects_to_nothing_and_shows_no_password() {
        for url in ["redis://user:hunter2@127.0.0.1:1/2", "rediss://:hunter2@cache.example:6380", "redis://[::1]"] {
            let cache = SharedCache::open(url, options()).unwrap();
            let shown = format!("{cache:?}");
            assert!(shown.contains(&cache.shared.address) && !shown.contains("hunter2"), "{shown}");
            assert_eq!(cache.stats().state, BreakerState::Closed);
        }
    }

    #[tokio::test]
    async fn what_is_too_large_is_not_even_tried() {
        let cache = SharedCache::open("redis://127.0.0.1:1", options()).unwrap();
        let value = vec![0; (1 << 20) + 1];
        cache.put("layer", "key", &value).await;
        assert_eq!(cache.append("list", &value).await, None);
        let stats = cache.stats();
        assert_eq!((stats.too_large, stats.errors, stats.state), (2, 0, BreakerState::Closed));
    }

    #[tokio::test]
    async fn many_calls_at_once_to_nobody_cost_one_failure_each_at_most_and_the_next_nothing() {
        let cache = SharedCache::open("redis://127.0.0.1:1", options()).unwrap();
        let calls: Vec<_> = (0..50)
            .map(|i| {
                let cache = cache.clone();
                tokio::spawn(async move { cache.get("layer", &i.to_string()).await })
            })
            .collect();
        for call in calls {
            assert_eq!(call.await.unwrap(), None);
        }
        let stats = cache.stats();
        assert_eq!((stats.errors + stats.skipped, stats.breaker_opened), (50, 1), "{stats:?}");
        assert_eq!(stats.state, BreakerState::Open);
    }
}
