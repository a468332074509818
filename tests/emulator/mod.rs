//! The official Pub/Sub emulator, started for a test and ended with it, and what an administrator does over its REST API.
//!
//! It comes with the Google Cloud SDK (`gcloud components install pubsub-emulator`, or Debian's package
//! google-cloud-cli-pubsub-emulator) and needs Java. Where it is missing, [`emulator`] says so on stderr and returns nothing;
//! the test then returns, too.

// Every test file that includes this module uses its own part of it.
#![allow(dead_code)]

use std::collections::HashMap;
use std::env;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// The project that everything is made in.
pub const PROJECT: &str = "concept-test";

/// A folder with the emulator, or its jar.
pub const LOCATION: &str = "CONCEPT_TEST_PUBSUB_EMULATOR";

/// Time that the emulator has to start. It takes two seconds on an idle machine.
const START_TIME: Duration = Duration::from_secs(90);

/// Runs the emulator until its own standard input ends, which it does even when the test is killed. The emulator's port says
/// nothing until the shell is told to go on, so it inherits no input itself.
const KEEPER: &str = "\
exec 3<&0
java -Xmx256m -jar \"$1\" --host=127.0.0.1 --port=\"$2\" </dev/null 3<&- &
emulator=$!
cat <&3 >/dev/null
kill -9 $emulator
wait $emulator 2>/dev/null";

/// A running emulator. Tests that run at the same time share one; names therefore belong to one test each, see [`name`].
pub struct Emulator {
    jar: PathBuf,
    port: u16,
    keeper: Mutex<Option<Child>>,
    log: tempfile::NamedTempFile,
}

/// The emulator that running tests share, or nothing where it is not installed, which has then been said on stderr.
pub async fn emulator() -> Option<Arc<Emulator>> {
    static SHARED: tokio::sync::Mutex<Weak<Emulator>> = tokio::sync::Mutex::const_new(Weak::new());
    let mut shared = SHARED.lock().await;
    if let Some(running) = shared.upgrade() {
        return Some(running);
    }
    let started = Arc::new(emulator_of_my_own().await?);
    *shared = Arc::downgrade(&started);
    Some(started)
}

/// An emulator that no other test uses, for those that stop it.
pub async fn emulator_of_my_own() -> Option<Emulator> {
    match installed() {
        Ok(jar) => Some(Emulator::start(jar.clone()).await),
        Err(lack) => {
            // Written, not printed: what a passing test prints is not shown.
            let _ = writeln!(io::stderr(), "SKIPPED: the Pub/Sub emulator is not installed ({lack})");
            None
        }
    }
}

/// A name that no other test has, even in an emulator that several test binaries share.
pub fn name(what: &str) -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{what}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// The jar, or what is lacking. Looked for once.
fn installed() -> &'static Result<PathBuf, String> {
    static JAR: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    JAR.get_or_init(|| {
        let jar = match env::var_os(LOCATION) {
            // Whoever names a place wants the tests to run.
            Some(place) => jar_in(Path::new(&place)).unwrap_or_else(|| panic!("{LOCATION}: no emulator in {place:?}")),
            None => jar_of_the_sdk()?,
        };
        match Command::new("java").arg("-version").stdout(Stdio::null()).stderr(Stdio::null()).status() {
            Ok(status) if status.success() => Ok(jar),
            _ => Err("java does not run".to_owned()),
        }
    })
}

fn jar_of_the_sdk() -> Result<PathBuf, String> {
    let asked = Command::new("gcloud").args(["info", "--format=value(installation.sdk_root)"]).output();
    let asked = asked.map_err(|error| format!("set {LOCATION} to its folder; gcloud: {error}"))?;
    let root = String::from_utf8_lossy(&asked.stdout).trim().to_owned();
    let folder = Path::new(&root).join("platform/pubsub-emulator");
    jar_in(&folder).ok_or_else(|| "run gcloud components install pubsub-emulator".to_owned())
}

/// `place` itself, or the emulator's jar in it or in its `lib`.
fn jar_in(place: &Path) -> Option<PathBuf> {
    if place.is_file() {
        return Some(place.to_owned());
    }
    let jars = [place.to_owned(), place.join("lib"), place.join("platform/pubsub-emulator/lib")];
    let mut found: Vec<PathBuf> = jars
        .iter()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flat_map(|entries| entries.filter_map(Result::ok).map(|entry| entry.path()))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("cloud-pubsub-emulator-") && name.ends_with("-all.jar")
        })
        .collect();
    found.sort();
    found.pop()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Emulator {
    async fn start(jar: PathBuf) -> Self {
        let log = tempfile::NamedTempFile::new().unwrap();
        let emulator = Self { jar, port: free_port(), keeper: Mutex::new(None), log };
        emulator.run().await;
        emulator
    }

    /// Starts the process and waits until it answers.
    async fn run(&self) {
        let log = File::create(self.log.path()).unwrap();
        let keeper = Command::new("sh")
            .args(["-c", KEEPER, "pubsub-emulator"])
            .arg(&self.jar)
            .arg(self.port.to_string())
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        *self.keeper.lock().unwrap() = Some(keeper);
        let (began, client) = (Instant::now(), reqwest::Client::new());
        while !client.get(format!("http://{}/", self.address())).send().await.is_ok_and(|answer| answer.status() == 200)
        {
            if began.elapsed() > START_TIME {
                panic!("the Pub/Sub emulator did not start:\n{}", fs::read_to_string(self.log.path()).unwrap());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The value for PUBSUB_EMULATOR_HOST: `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Kills the emulator, which forgets everything.
    pub fn kill(&self) {
        let keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut keeper) = keeper {
            // The end of its input is what the keeper waits for; it then ends the emulator it started, and no other.
            drop(keeper.stdin.take());
            let _ = keeper.wait();
        }
    }

    /// Starts it again on the same port, empty.
    pub async fn restart(&self) {
        self.kill();
        self.run().await;
    }

    /// One request to the REST API below the project, and its answer. Fails the test on any status but 200.
    pub async fn call(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, answer) = self.attempt(method, path, body).await;
        assert_eq!(status, 200, "{method} {path}: {answer}");
        answer
    }

    /// One request to the REST API below the project; its status and answer.
    pub async fn attempt(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let url = format!("http://{}/v1/projects/{PROJECT}/{path}", self.address());
        let mut request = reqwest::Client::new().request(method, &url).timeout(Duration::from_secs(30));
        if !body.is_null() {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap_or_else(|error| panic!("{path}: {error}"));
        let status = answer.status().as_u16();
        let text = answer.text().await.unwrap();
        let json = serde_json::from_str(&text).unwrap_or(Value::String(text));
        (status, json)
    }

    /// Creates a topic; its full name.
    pub async fn create_topic(&self, name: &str) -> String {
        self.call("PUT", &format!("topics/{name}"), json!({})).await;
        format!("projects/{PROJECT}/topics/{name}")
    }

    /// Creates a subscription of a topic (its full name), with further fields of the REST resource, such as
    /// `ackDeadlineSeconds`, `retryPolicy` or those made by [`push`], [`push_unwrapped`] and [`dead_letters`]; its full name.
    pub async fn create_subscription(&self, name: &str, topic: &str, fields: Value) -> String {
        let mut body = json!({ "topic": topic, "ackDeadlineSeconds": 10 });
        if let (Value::Object(body), Value::Object(fields)) = (&mut body, fields) {
            body.extend(fields);
        }
        self.call("PUT", &format!("subscriptions/{name}"), body).await;
        format!("projects/{PROJECT}/subscriptions/{name}")
    }

    /// Deletes a topic or a subscription by its full name.
    pub async fn delete(&self, full_name: &str) {
        self.call("DELETE", below_project(full_name), Value::Null).await;
    }

    /// Publishes one message to a topic (its full name); the message's id.
    pub async fn publish(&self, topic: &str, data: &[u8], attributes: Value) -> String {
        let ids = self.publish_all(topic, &[data], attributes).await;
        ids.into_iter().next().unwrap()
    }

    /// Publishes messages with the same attributes in one request; their ids.
    pub async fn publish_all<D: AsRef<[u8]>>(&self, topic: &str, data: &[D], attributes: Value) -> Vec<String> {
        let messages: Vec<Value> =
            data.iter().map(|data| json!({ "data": STANDARD.encode(data), "attributes": attributes })).collect();
        let path = format!("{}:publish", below_project(topic));
        let answer = self.call("POST", &path, json!({ "messages": messages })).await;
        answer["messageIds"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect()
    }

    /// What waits in a pull subscription (its full name), at most `most` messages; empty when there is nothing now.
    pub async fn pull(&self, subscription: &str, most: usize) -> Vec<Pulled> {
        let path = format!("{}:pull", below_project(subscription));
        let answer = self.call("POST", &path, json!({ "maxMessages": most, "returnImmediately": true })).await;
        let received = answer["receivedMessages"].as_array().cloned().unwrap_or_default();
        received.iter().map(Pulled::read).collect()
    }

    /// Pulls and acknowledges until `count` messages have come; fails the test when that takes longer than `limit`.
    pub async fn take(&self, subscription: &str, count: usize, limit: Duration) -> Vec<Pulled> {
        let (began, mut taken) = (Instant::now(), Vec::new());
        while taken.len() < count {
            let pulled = self.pull(subscription, count - taken.len()).await;
            self.acknowledge(subscription, &pulled).await;
            taken.extend(pulled);
            assert!(began.elapsed() < limit, "{} of {count} messages came to {subscription}", taken.len());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        taken
    }

    /// Acknowledges pulled messages.
    pub async fn acknowledge(&self, subscription: &str, messages: &[Pulled]) {
        if !messages.is_empty() {
            let ids: Vec<&str> = messages.iter().map(|message| message.ack_id.as_str()).collect();
            let path = format!("{}:acknowledge", below_project(subscription));
            self.call("POST", &path, json!({ "ackIds": ids })).await;
        }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A message pulled over REST.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// What acknowledges it.
    pub ack_id: String,
    /// Its data.
    pub data: Vec<u8>,
    /// Its attributes.
    pub attributes: HashMap<String, String>,
    /// Its id.
    pub message_id: String,
    /// How often it has been delivered, where a dead-letter policy counts.
    pub delivery_attempt: Option<u64>,
}

impl Pulled {
    fn read(received: &Value) -> Self {
        let message = &received["message"];
        Self {
            ack_id: received["ackId"].as_str().unwrap().to_owned(),
            data: STANDARD.decode(message["data"].as_str().unwrap_or_default()).unwrap(),
            attributes: serde_json::from_value(message["attributes"].clone()).unwrap_or_default(),
            message_id: message["messageId"].as_str().unwrap().to_owned(),
            delivery_attempt: received["deliveryAttempt"].as_u64(),
        }
    }
}

/// Fields of a subscription that pushes to an address, wrapped.
pub fn push(endpoint: &str) -> Value {
    json!({ "pushConfig": { "pushEndpoint": endpoint } })
}

/// Fields of a subscription that pushes to an address, unwrapped, with the metadata in headers.
pub fn push_unwrapped(endpoint: &str) -> Value {
    json!({ "pushConfig": { "pushEndpoint": endpoint, "noWrapper": { "writeMetadata": true } } })
}

/// Fields of a subscription that gives up after five deliveries, with hardly a pause between them.
pub fn dead_letters(topic: &str) -> Value {
    json!({
        "deadLetterPolicy": { "deadLetterTopic": topic, "maxDeliveryAttempts": 5 },
        "retryPolicy": { "minimumBackoff": "0.1s", "maximumBackoff": "0.2s" },
    })
}

/// Two objects of fields as one.
pub fn both(mut first: Value, second: Value) -> Value {
    if let (Value::Object(first), Value::Object(second)) = (&mut first, second) {
        first.extend(second);
    }
    first
}

fn below_project(full_name: &str) -> &str {
    full_name.strip_prefix(&format!("projects/{PROJECT}/")).unwrap_or_else(|| panic!("{full_name} is no full name"))
}
