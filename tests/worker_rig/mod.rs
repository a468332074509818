//! The real program as a worker on a port of its own, and a client for it.
#![allow(dead_code, reason = "every test uses its own part")]

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// How long anything may take before the test gives up.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A running worker; killed when it is dropped.
pub struct Rig {
    child: Child,
    pub address: SocketAddr,
    pub client: reqwest::Client,
    /// Everything it has logged.
    pub log: Arc<Mutex<Vec<String>>>,
}

/// A worker to be: a folder of storage and variables.
pub struct Setup {
    pub folder: Arc<tempfile::TempDir>,
    vars: Vec<(String, String)>,
}

impl Setup {
    /// Local storage in a folder of its own.
    pub fn local() -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let storage = format!("local:{}", folder.path().join("data").display());
        Self { folder, vars: Vec::new() }.with("CONCEPT_STORAGE", &storage)
    }

    /// The same folder, and nothing else that was set.
    pub fn beside(&self) -> Self {
        let storage = format!("local:{}", self.folder.path().join("data").display());
        Self { folder: self.folder.clone(), vars: Vec::new() }.with("CONCEPT_STORAGE", &storage)
    }

    /// Cloud Storage as the server at `url` gives it, with the buckets `bases` and `palettes`.
    pub fn cloud(url: &str) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        Self { folder, vars: Vec::new() }
            .with("CONCEPT_STORAGE", "gcs")
            .with("STORAGE_EMULATOR_HOST", url)
            .with("CONCEPT_STORAGE_BUCKET_CONCEPT", "bases")
            .with("CONCEPT_STORAGE_BUCKET_PALETTE", "palettes")
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.vars.push((name.into(), value.into()));
        self
    }

    /// The program with these variables and no others of ours.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_concept-worker"));
        command.args(args).current_dir(self.folder.path()).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            let foreign = ["CONCEPT_", "OTEL_", "K_SERVICE", "PORT", "STORAGE_EMULATOR", "PUBSUB_EMULATOR"];
            if foreign.iter().any(|prefix| name.starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        // Lines that a test can read, whatever the defaults.
        command.env("CONCEPT_LOG_FORMAT", "json").envs(self.vars.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts `serve` and waits until it is ready.
    pub async fn serve(&self) -> Rig {
        let mut command = self.command(&["serve", "--listen", "127.0.0.1:0"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (tell, told) = std::sync::mpsc::channel();
        let (lines, kept) = (BufReader::new(child.stdout.take().unwrap()), log.clone());
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                if let Some((_, rest)) = line.split_once("listening on http://") {
                    let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == ':')).unwrap_or(rest.len());
                    let _ = tell.send(rest[..end].parse::<SocketAddr>().unwrap());
                }
                kept.lock().unwrap().push(line);
            }
        });
        let address = told.recv_timeout(PATIENCE).expect("the worker did not start");
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        let rig = Rig { child, address, client, log };
        rig.wait_until_ready().await;
        rig
    }

    /// The file of an object under local storage.
    pub fn file(&self, bucket: &str, name: &str) -> PathBuf {
        self.folder.path().join("data").join(bucket).join(name)
    }

    /// Puts an object into local storage.
    pub fn put(&self, bucket: &str, name: &str, bytes: &[u8]) {
        let path = self.file(bucket, name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    /// A manifest in local storage.
    pub fn manifest(&self, name: &str) -> Option<Value> {
        let bytes = std::fs::read(self.file("palettes", name).join("manifest.json")).ok()?;
        Some(serde_json::from_slice(&bytes).unwrap())
    }
}

impl Rig {
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    async fn wait_until_ready(&self) {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if self.client.get(self.url("/ready")).send().await.is_ok_and(|answer| answer.status() == 200) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("the worker is not ready");
    }

    /// Pushes a job as Pub/Sub wraps it; returns the status.
    pub async fn push(&self, job: &Value, id: &str) -> u16 {
        self.post("/pubsub/push", &wrapped(job.to_string().as_bytes(), id)).await.0
    }

    /// Posts JSON; returns status and JSON.
    pub async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let answer = self.client.post(self.url(path)).json(body).send().await.unwrap();
        let status = answer.status().as_u16();
        (status, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or(Value::Null))
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        let answer = self.client.get(self.url(path)).send().await.unwrap();
        let status = answer.status().as_u16();
        (status, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or(Value::Null))
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and the way it ended.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.ask_to_stop();
        self.ended().await
    }

    pub fn ask_to_stop(&self) {
        Command::new("kill").args(["-TERM", &self.pid().to_string()]).status().unwrap();
    }

    pub async fn ended(&mut self) -> ExitStatus {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the worker does not stop");
    }

    /// The lines of the first jobs, once there are so many: the log is written behind the answers.
    pub async fn job_lines(&self, count: usize) -> Vec<Value> {
        let start = Instant::now();
        loop {
            let lines: Vec<Value> = {
                let log = self.log.lock().unwrap();
                let values = log.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
                values.filter(|value| value.get("outcome").is_some()).collect()
            };
            if lines.len() >= count {
                return lines;
            }
            assert!(start.elapsed() < PATIENCE, "{} of {count} jobs were logged", lines.len());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A message as Pub/Sub pushes it.
pub fn wrapped(data: &[u8], id: &str) -> Value {
    json!({
        "message": {
            "data": STANDARD.encode(data),
            "attributes": {},
            "messageId": id,
            "publishTime": "2026-01-02T03:04:05.678Z",
        },
        "subscription": "projects/p/subscriptions/s",
    })
}

pub fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/images").join(name)).unwrap()
}

/// A job for gs://bases/photo.jpg with this many palettes.
pub fn job(id: &str, palettes: usize) -> Value {
    let colors = [
        ["#264653", "#2A9D8F", "#E9C46A", "#F4A261", "#E76F51"],
        ["#0B132B", "#1C2541", "#3A506B", "#5BC0BE", "#FFFFFF"],
        ["#2D00F7", "#6A00F4", "#BC00DD", "#F20089", "#FFB600"],
    ];
    let palettes: Vec<Value> =
        (0..palettes).map(|i| json!({"name": format!("P{i}"), "colors": colors[i % colors.len()]})).collect();
    json!({
        "job_id": id,
        "user_id": "u_1",
        "source": "gs://bases/photo.jpg",
        "palettes": palettes,
        "outputs": [{"format": "jpeg", "max_dimension": 128}],
        "destination": "gs://palettes",
    })
}

/// Every file that a manifest lists as made, with the CRC-32C it says.
pub fn listed(manifest: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut files = Vec::new();
    for entry in manifest["variations"].as_array().unwrap() {
        assert!(entry["error"].is_null(), "{entry}");
        files.push((text(&entry["object"]), text(&entry["crc32c"])));
        if let Some(copy) = entry.get("upload") {
            files.push((text(&copy["object"]), text(&copy["crc32c"])));
        }
    }
    files
}

pub fn crc32c(bytes: &[u8]) -> String {
    STANDARD.encode(crc32c::crc32c(bytes).to_be_bytes())
}
