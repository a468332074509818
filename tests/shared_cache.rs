//! The shared cache layer against a real Redis that is killed, stopped, and started again.

mod redis_server;

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use concept_worker::service::breaker::BreakerState;
use concept_worker::service::cache::shared::{SharedCache, SharedOptions};
use redis_server::RedisServer;

const TIMEOUT: Duration = Duration::from_millis(250);

/// What a call may take that does not wait for Redis.
const AT_ONCE: Duration = Duration::from_millis(5);

/// What a busy machine may add now and then.
const HICCUP: Duration = Duration::from_millis(200);

/// Some more than the first pause of the breaker.
const PAUSE: Duration = Duration::from_millis(1_050);

fn options() -> SharedOptions {
    SharedOptions {
        // Where time is not what is tested, a busy machine may take it.
        timeout: Duration::from_secs(5),
        time_to_live: Duration::from_secs(60),
        list_time_to_live: Duration::from_secs(60),
        max_value_bytes: 1 << 20,
        max_list_entries: 10,
        prefix: "concept:1".to_owned(),
    }
}

fn open(server: &RedisServer) -> SharedCache {
    SharedCache::open(&server.url(), options()).unwrap()
}

fn open_impatient(server: &RedisServer) -> SharedCache {
    SharedCache::open(&server.url(), SharedOptions { timeout: TIMEOUT, ..options() }).unwrap()
}

/// A connection of the test's own, to look at what is stored.
async fn look(server: &RedisServer) -> redis::aio::MultiplexedConnection {
    redis::Client::open(server.url()).unwrap().get_multiplexed_async_connection().await.unwrap()
}

/// How many connections the server has taken so far.
async fn connections(direct: &mut redis::aio::MultiplexedConnection) -> u64 {
    let info: String = redis::cmd("INFO").arg("stats").query_async(direct).await.unwrap();
    let count = info.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
    count.unwrap().trim().parse().unwrap()
}

/// How long it takes, and what it gives.
async fn timed<T>(call: impl Future<Output = T>) -> (Duration, T) {
    let began = Instant::now();
    let result = call.await;
    (began.elapsed(), result)
}

/// Asserts that nothing is waited for in any of 20 rounds of all operations, but for a hiccup of the machine in a few.
async fn assert_at_once(cache: &SharedCache) {
    let mut took = Vec::new();
    for _ in 0..20 {
        let (get, value) = timed(cache.get("layer", "key")).await;
        assert_eq!(value, None);
        took.push(get);
        took.push(timed(cache.put("layer", "key", b"value")).await.0);
        took.push(timed(cache.append("list", b"entry")).await.0);
        took.push(timed(cache.entries("list", 0, 9)).await.0);
    }
    took.sort_unstable();
    assert!(took[75] < AT_ONCE && took[79] < HICCUP, "{took:?}");
}

/// Looks until a value is found, for at most this long.
async fn found_within(cache: &SharedCache, key: &str, limit: Duration) -> Option<Bytes> {
    let began = Instant::now();
    while began.elapsed() < limit {
        cache.put("layer", key, b"value").await;
        if let Some(value) = cache.get("layer", key).await {
            return Some(value);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    None
}

/// The log of the thread, as text.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }

    fn count(&self, part: &str) -> usize {
        self.text().matches(part).count()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn log() -> (Log, tracing::subscriber::DefaultGuard) {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    (log, tracing::subscriber::set_default(subscriber))
}

#[tokio::test]
async fn what_one_instance_stores_another_finds() {
    let Some(server) = RedisServer::start() else { return };
    let (one, other) = (open(&server), open(&server));
    assert_eq!(one.get("masks", "key").await, None);
    let value: Vec<u8> = (0..1_usize << 20).map(|i| (i % 251) as u8).collect();
    one.put("masks", "key", &value).await;
    one.put("masks", "empty", b"").await;
    assert_eq!(other.get("masks", "key").await.as_deref(), Some(&value[..]));
    assert_eq!(other.get("masks", "empty").await.as_deref(), Some(&b""[..]));
    assert_eq!(other.get("models", "key").await, None);
    let (one, other) = (one.stats(), other.stats());
    assert_eq!((one.puts, one.misses, one.hits, one.errors), (2, 1, 0, 0));
    assert_eq!((other.puts, other.misses, other.hits, other.state), (0, 1, 2, BreakerState::Closed));
}

#[tokio::test]
async fn a_value_is_gone_after_its_time_to_live() {
    let Some(server) = RedisServer::start() else { return };
    let time_to_live = Duration::from_millis(300);
    let cache =
        SharedCache::open(&server.url(), SharedOptions { time_to_live, list_time_to_live: time_to_live, ..options() })
            .unwrap();
    cache.put("layer", "key", b"value").await;
    assert_eq!(cache.append("list", b"entry").await, Some(1));
    assert!(cache.get("layer", "key").await.is_some());
    tokio::time::sleep(time_to_live + Duration::from_millis(50)).await;
    assert_eq!(cache.get("layer", "key").await, None);
    assert_eq!(cache.entries("list", 0, 10).await, Some(Vec::new()));
}

#[tokio::test]
async fn a_value_that_is_too_large_is_not_stored_and_one_of_the_largest_size_is() {
    let Some(server) = RedisServer::start() else { return };
    let cache = open(&server);
    cache.put("layer", "too large", &vec![1; (1 << 20) + 1]).await;
    cache.put("layer", "largest", &vec![1; 1 << 20]).await;
    assert_eq!(cache.get("layer", "too large").await, None);
    assert_eq!(cache.get("layer", "largest").await.map(|value| value.len()), Some(1 << 20));
    // Another instance that allows less reads no more than that.
    let small = SharedCache::open(&server.url(), SharedOptions { max_value_bytes: 1 << 10, ..options() }).unwrap();
    assert_eq!(small.get("layer", "largest").await, None);
    assert_eq!((cache.stats().too_large, small.stats().misses, small.stats().errors), (1, 1, 0));
}

#[tokio::test]
async fn a_damaged_or_foreign_value_is_a_miss_and_no_error() {
    let Some(server) = RedisServer::start() else { return };
    let cache = open(&server);
    let mut direct = look(&server).await;
    cache.put("layer", "key", b"value").await;
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut direct).await.unwrap();
    let [key] = keys.as_slice() else { panic!("{keys:?}") };
    let life: i64 = redis::cmd("PTTL").arg(key).query_async(&mut direct).await.unwrap();
    assert!((1..=60_000).contains(&life), "{life}");
    // One byte is another.
    let _: usize = redis::cmd("SETRANGE").arg(key).arg(14).arg("x").query_async(&mut direct).await.unwrap();
    assert_eq!(cache.get("layer", "key").await, None);
    // Something else altogether, of another type, too.
    let _: () = redis::cmd("SET").arg(key).arg("foreign").query_async(&mut direct).await.unwrap();
    assert_eq!(cache.get("layer", "key").await, None);
    let _: () = redis::cmd("DEL").arg(key).query_async(&mut direct).await.unwrap();
    let _: usize = redis::cmd("RPUSH").arg(key).arg("foreign").query_async(&mut direct).await.unwrap();
    assert_eq!(cache.get("layer", "key").await, None);
    // A value under another's key.
    cache.put("layer", "other", b"value").await;
    let other = key.replace(":key", ":other");
    let _: () = redis::cmd("RENAME").arg(other).arg(key).query_async(&mut direct).await.unwrap();
    assert_eq!(cache.get("layer", "key").await, None);
    let stats = cache.stats();
    assert_eq!((stats.misses, stats.errors, stats.state), (4, 0, BreakerState::Closed));
}

#[tokio::test]
async fn a_list_grows_at_its_end_is_read_in_parts_and_has_a_bound() {
    let Some(server) = RedisServer::start() else { return };
    let (writer, reader) = (open(&server), open(&server));
    assert_eq!(reader.entries("job", 0, 5).await, Some(Vec::new()));
    for i in 0..5 {
        assert_eq!(writer.append("job", format!("entry {i}").as_bytes()).await, Some(i + 1));
    }
    let texts = |entries: Option<Vec<Bytes>>| -> Vec<String> {
        entries.unwrap().iter().map(|entry| String::from_utf8_lossy(entry).into_owned()).collect()
    };
    assert_eq!(texts(reader.entries("job", 0, 2).await), ["entry 0", "entry 1"]);
    assert_eq!(texts(reader.entries("job", 3, 100).await), ["entry 3", "entry 4"]);
    assert_eq!(reader.entries("job", 5, 100).await, Some(Vec::new()));
    assert_eq!(reader.entries("job", 0, 0).await, Some(Vec::new()));
    assert_eq!(reader.entries("job", usize::MAX, usize::MAX).await, Some(Vec::new()));
    assert_eq!(reader.entries("another", 0, 5).await, Some(Vec::new()));
    for i in 5..15 {
        assert_eq!(writer.append("job", format!("entry {i}").as_bytes()).await, Some((i + 1).min(11)));
    }
    let all = texts(reader.entries("job", 0, 100).await);
    assert_eq!((all.len(), all[0].as_str(), all[9].as_str()), (10, "entry 5", "entry 14"));
    let mut direct = look(&server).await;
    let life: i64 = redis::cmd("PTTL").arg("concept:1:list:job").query_async(&mut direct).await.unwrap();
    assert!((1..=60_000).contains(&life), "{life}");
}

#[tokio::test]
async fn killed_in_the_middle_it_costs_one_call_and_is_used_again_once_it_is_back() {
    let Some(mut server) = RedisServer::start() else { return };
    let (log, _guard) = log();
    let cache = open_impatient(&server);
    assert!(found_within(&cache, "key", Duration::from_secs(5)).await.is_some());
    server.kill();
    let (took, value) = timed(cache.get("layer", "key")).await;
    assert!(value.is_none() && took < TIMEOUT, "{took:?}");
    assert_eq!(cache.stats().state, BreakerState::Open);
    assert_at_once(&cache).await;
    let stats = cache.stats();
    assert_eq!((stats.errors, stats.skipped, stats.breaker_opened), (1, 80, 1));
    // A probe in vain costs no caller anything, and doubles the pause.
    tokio::time::sleep(PAUSE).await;
    assert_at_once(&cache).await;
    tokio::time::sleep(TIMEOUT).await;
    assert_eq!((cache.stats().breaker_opened, cache.stats().state), (2, BreakerState::Open));
    server.restart();
    assert!(found_within(&cache, "key", Duration::from_secs(4)).await.is_some());
    assert_eq!(cache.stats().state, BreakerState::Closed);
    assert_eq!((log.count("is away"), log.count("is back")), (1, 1), "{}", log.text());
    assert!(log.text().contains(&format!("127.0.0.1:{}", server.port())), "{}", log.text());
}

#[tokio::test]
async fn one_that_hangs_costs_one_timeout_and_is_used_again_when_it_goes_on() {
    let Some(server) = RedisServer::start() else { return };
    let (log, _guard) = log();
    let cache = open_impatient(&server);
    assert!(found_within(&cache, "key", Duration::from_secs(5)).await.is_some());
    let mut direct = look(&server).await;
    let before = connections(&mut direct).await;
    server.hang();
    let (took, value) = timed(cache.get("layer", "key")).await;
    assert!(value.is_none() && (TIMEOUT..TIMEOUT + HICCUP).contains(&took), "{took:?}");
    assert_at_once(&cache).await;
    // Also while a probe waits for its answer.
    tokio::time::sleep(PAUSE).await;
    assert_at_once(&cache).await;
    tokio::time::sleep(TIMEOUT + HICCUP).await;
    assert_eq!((cache.stats().errors, cache.stats().breaker_opened), (2, 2));
    server.go_on();
    let value = found_within(&cache, "key", Duration::from_secs(4)).await;
    assert_eq!(value.as_deref(), Some(&b"value"[..]));
    // One that does not answer is not used again: nobody would ever notice that its other end is gone.
    assert!(connections(&mut direct).await > before);
    assert_eq!((log.count("is away"), log.count("is back")), (1, 1), "{}", log.text());
}

#[tokio::test]
async fn one_that_hangs_before_the_first_call_costs_many_calls_at_once_one_timeout() {
    let Some(server) = RedisServer::start() else { return };
    server.hang();
    let cache = open_impatient(&server);
    let calls = (0..30).map(|i| {
        let cache = cache.clone();
        tokio::spawn(async move { cache.get("layer", &i.to_string()).await })
    });
    let began = Instant::now();
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.unwrap(), None);
    }
    assert!(began.elapsed() < TIMEOUT + HICCUP, "{:?}", began.elapsed());
    assert_at_once(&cache).await;
    assert_eq!(cache.stats().breaker_opened, 1);
    server.go_on();
}

#[tokio::test]
async fn one_that_was_started_again_between_two_calls_is_not_even_missed() {
    let Some(mut server) = RedisServer::start() else { return };
    let cache = open(&server);
    cache.put("layer", "key", b"value").await;
    server.restart();
    assert_eq!(cache.get("layer", "key").await, None);
    cache.put("layer", "key", b"value").await;
    assert!(cache.get("layer", "key").await.is_some());
    server.restart();
    assert_eq!(cache.append("list", b"entry").await, Some(1));
    let stats = cache.stats();
    assert_eq!((stats.errors, stats.misses, stats.breaker_opened), (0, 1, 0));
}

#[tokio::test]
async fn one_that_closes_a_connection_is_connected_to_again() {
    let Some(server) = RedisServer::start() else { return };
    let cache = open(&server);
    cache.put("layer", "key", b"value").await;
    let mut direct = look(&server).await;
    for _ in 0..3 {
        let _: usize =
            redis::cmd("CLIENT").arg(&["KILL", "TYPE", "normal"][..]).query_async(&mut direct).await.unwrap();
        assert!(cache.get("layer", "key").await.is_some());
    }
    assert_eq!((cache.stats().errors, cache.stats().breaker_opened), (0, 0));
}

#[tokio::test]
async fn with_a_wrong_password_the_worker_goes_on_without_it_and_shows_no_password() {
    let Some(server) = RedisServer::start_with(&["--requirepass", "open sesame"]) else { return };
    let (log, _guard) = log();
    for url in ["redis://:hunter2@127.0.0.1:PORT", "redis://bob:hunter2@127.0.0.1:PORT", "redis://127.0.0.1:PORT"] {
        let url = url.replace("PORT", &server.port().to_string());
        let cache = SharedCache::open(&url, options()).unwrap();
        let (took, value) = timed(cache.get("layer", "key")).await;
        assert!(value.is_none() && took < Duration::from_secs(5), "{took:?}");
        assert_at_once(&cache).await;
        assert_eq!((cache.stats().errors, cache.stats().skipped, cache.stats().state), (1, 80, BreakerState::Open));
    }
    assert_eq!(log.count("is away"), 3, "{}", log.text());
    assert!(log.text().contains("does not accept the user or the password"), "{}", log.text());
    assert!(!log.text().contains("hunter2"), "{}", log.text());
    let right = format!("redis://:open%20sesame@127.0.0.1:{}", server.port());
    let cache = SharedCache::open(&right, options()).unwrap();
    assert!(found_within(&cache, "key", Duration::from_secs(5)).await.is_some());
}

#[tokio::test]
async fn one_that_is_full_is_still_read_from() {
    let Some(server) = RedisServer::start() else { return };
    let (log, _guard) = log();
    let cache = open(&server);
    cache.put("layer", "key", b"value").await;
    let mut direct = look(&server).await;
    let full = ["SET", "maxmemory", "1"];
    let _: () = redis::cmd("CONFIG").arg(&full[..]).query_async(&mut direct).await.unwrap();
    for _ in 0..3 {
        cache.put("layer", "other", b"value").await;
        assert_eq!(cache.append("list", b"entry").await, None);
        assert!(cache.get("layer", "key").await.is_some());
    }
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.puts, stats.errors, stats.breaker_opened), (3, 1, 6, 0));
    assert_eq!(log.count("does not do what it should"), 1, "{}", log.text());
    assert!(log.text().contains("it answers OOM"), "{}", log.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_tasks_share_one_connection_and_get_their_own_values() {
    let Some(server) = RedisServer::start() else { return };
    let cache = open(&server);
    let mut direct = look(&server).await;
    let before = connections(&mut direct).await;
    let tasks: Vec<_> = (0..200)
        .map(|i| {
            let cache = cache.clone();
            tokio::spawn(async move {
                let (key, value) = (format!("key {i}"), vec![i as u8; i * 100]);
                cache.put("layer", &key, &value).await;
                // Some callers go away in the middle.
                if i % 7 == 0 {
                    let _ = tokio::time::timeout(Duration::from_micros(i as u64), cache.get("layer", &key)).await;
                }
                assert_eq!(cache.get("layer", &key).await.as_deref(), Some(&value[..]));
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert!(cache.stats().hits >= 200 && cache.stats().errors == 0, "{:?}", cache.stats());
    assert_eq!(connections(&mut direct).await, before + 1);
}

#[tokio::test]
async fn a_worker_starts_without_redis_and_uses_it_once_it_is_there() {
    let Some(mut server) = RedisServer::start() else { return };
    server.kill();
    let cache = open_impatient(&server);
    assert_eq!(timed(cache.get("layer", "key")).await.1, None);
    server.restart();
    assert!(found_within(&cache, "key", Duration::from_secs(4)).await.is_some());
}
