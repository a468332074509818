//! Cloud Storage's data plane on loopback, as strict as the real one and failing on demand.
//!
//! Speaks the JSON API as far as google-cloud-storage of Rust and of Python use it: uploads (media, multipart of two or
//! three parts, resumable), media reads with ranges, generations and preconditions, metadata, list and delete. What it
//! does not know, it refuses. It remembers every write.
#![allow(dead_code)]

mod connection;
mod faults;
mod objects;
mod upload;
mod wire;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub use faults::{Fault, Faults, Kind};
pub use objects::{StoredObject, Written};

use connection::{Breakable, Line};
use faults::Plan;
use objects::Buckets;
use upload::Session;

/// What was asked of the server so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests by kind, the failed ones too.
    pub requests: HashMap<Kind, u64>,
    /// The most requests at one time.
    pub most_at_once: usize,
    /// Requests that were made to fail.
    pub failed: u64,
    /// Connections that were accepted.
    pub connections: u64,
}

impl Counts {
    /// The requests of one kind.
    pub fn of(&self, kind: Kind) -> u64 {
        self.requests.get(&kind).copied().unwrap_or_default()
    }

    /// All requests.
    pub fn total(&self) -> u64 {
        self.requests.values().sum()
    }
}

/// A running server; it ends when this is dropped.
#[derive(Debug)]
pub struct StorageServer {
    /// Where it listens.
    pub addr: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    url: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    buckets: Buckets,
    sessions: HashMap<String, Session>,
    sessions_begun: u64,
    plan: Plan,
    counts: Counts,
    at_once: usize,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl StorageServer {
    /// Starts on a free port of 127.0.0.1, without any bucket.
    pub async fn start() -> Self {
        Self::listen("127.0.0.1:0").await.unwrap()
    }

    /// Starts on an address.
    pub async fn listen(address: &str) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared { url: format!("http://{addr}"), state: Mutex::default() });
        let counted = shared.clone();
        let listener = Breakable::new(listener, move || counted.state().counts.connections += 1);
        let service = Router::new()
            .fallback(wire::handle)
            .with_state(shared.clone())
            .into_make_service_with_connect_info::<Line>();
        let task = tokio::spawn(async move { axum::serve(listener, service).await.unwrap() });
        Ok(Self { addr, shared, task })
    }

    /// `http://127.0.0.1:PORT`, for STORAGE_EMULATOR_HOST.
    pub fn url(&self) -> String {
        self.shared.url.clone()
    }

    /// Makes a bucket; one that is there stays as it is.
    pub fn create_bucket(&self, bucket: &str) {
        self.shared.state().buckets.create(bucket);
    }

    /// Makes a bucket keep every generation.
    pub fn keep_generations(&self, bucket: &str) {
        self.shared.state().buckets.create(bucket).keeps_generations = true;
    }

    /// Puts an object there, over whatever was there, and makes its bucket; returns its generation. Not among
    /// [`Self::writes`].
    pub fn put(&self, bucket: &str, name: &str, bytes: impl Into<bytes::Bytes>) -> i64 {
        self.put_with(bucket, name, bytes, &serde_json::json!({}))
    }

    /// The same with fields of the object resource, such as `contentType` and `metadata`.
    pub fn put_with(
        &self,
        bucket: &str,
        name: &str,
        bytes: impl Into<bytes::Bytes>,
        resource: &serde_json::Value,
    ) -> i64 {
        let mut state = self.shared.state();
        state.buckets.create(bucket);
        state.buckets.store(bucket, name, bytes.into(), resource).unwrap().generation
    }

    /// Takes an object away; whether it was there.
    pub fn remove(&self, bucket: &str, name: &str) -> bool {
        self.shared.state().buckets.remove(bucket, name)
    }

    /// The newest generation of an object.
    pub fn get(&self, bucket: &str, name: &str) -> Option<StoredObject> {
        self.shared.state().buckets.newest(bucket, name).cloned()
    }

    /// The objects of a bucket whose names begin with `prefix`, by name.
    pub fn objects(&self, bucket: &str, prefix: &str) -> Vec<StoredObject> {
        let state = self.shared.state();
        state.buckets.all(bucket).filter(|object| object.name.starts_with(prefix)).cloned().collect()
    }

    /// Every write that came over the wire and was applied, in order.
    pub fn writes(&self) -> Vec<Written> {
        self.shared.state().buckets.writes.clone()
    }

    /// The writes among them that replaced something.
    pub fn overwrites(&self) -> Vec<Written> {
        self.writes().into_iter().filter(|written| written.replaced.is_some()).collect()
    }

    /// Makes requests fail at random from now on.
    pub fn faults(&self, faults: Faults) {
        self.shared.state().plan.set(faults);
    }

    /// Makes the next request of a kind fail in a given way; several calls queue up.
    pub fn fail_next(&self, kind: Kind, fault: Fault) {
        self.shared.state().plan.queue(kind, fault);
    }

    /// Forgets failures that were queued and have not happened.
    pub fn forget_queued(&self) {
        self.shared.state().plan.forget();
    }

    /// What was asked so far.
    pub fn counts(&self) -> Counts {
        self.shared.state().counts.clone()
    }

    /// Runs until it is stopped from outside.
    pub async fn run(mut self) {
        let _ = (&mut self.task).await;
    }
}

impl Drop for StorageServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
