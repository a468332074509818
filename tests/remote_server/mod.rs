//! A server of remote models on loopback: the contract of Replicate's HTTP API, kept strictly, with models that do as
//! they are told and failures on demand.
//!
//! What the contract does not know, it refuses and remembers as a violation. It remembers every prediction it made, so
//! that a test can prove that nothing is paid twice.
// Every test uses a part of it. Answers are returned as errors to end a request early; a test server may copy them.
#![allow(dead_code, unused_imports, clippy::result_large_err)]

mod api;
// The same connections that can be cut as those of the server of storage.
#[path = "../storage_server/connection.rs"]
mod connection;
mod files;
mod hook;
mod models;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub use files::{File, Upload};
pub use hook::{Delivered, Hook, SECRET, signature};
pub use models::{Created, Model, version_of};

use connection::Breakable;
use models::Made;

/// The token that the server takes.
pub const TOKEN: &str = "r8_tokenOfTheTestServer";

/// What a request is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum On {
    /// An order of this model, `owner/name`.
    Create(String),
    /// An order of any model.
    AnyCreate,
    /// A poll.
    Get,
    /// A cancellation.
    Cancel,
    /// An upload.
    Upload,
    /// A file of this name below `/outputs/`.
    Output(String),
}

/// How a request fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// 429, with this Retry-After.
    RateLimited(Option<String>),
    /// This status, and nothing is done.
    Status(u16),
    /// What was asked is done, and the answer is this status.
    StatusAfter(u16),
    /// The connection is closed, and nothing is done.
    Close,
    /// What was asked is done, and the connection is closed without an answer.
    CloseAfter,
    /// 307 to this address, and nothing is done.
    Redirect(String),
    /// 200 with this body, and nothing is done.
    Says(String),
    /// 200 with JSON of so many bytes, and nothing is done.
    Huge(u64),
    /// The answer comes this much later.
    Slow(Duration),
    /// No answer ever, and nothing is done.
    Never,
}

/// What was asked of the server so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Orders, those that failed too.
    pub orders: u64,
    /// Polls.
    pub gets: u64,
    /// Cancellations.
    pub cancels: u64,
    /// Uploads.
    pub uploads: u64,
    /// Requests for outputs.
    pub outputs: u64,
    /// Requests for outputs that carried a token, which belongs to the API alone.
    pub leaked_tokens: u64,
    /// Connections that were accepted.
    pub connections: u64,
}

/// A running server; it ends when this is dropped.
#[derive(Debug)]
pub struct RemoteServer {
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
    models: HashMap<String, Model>,
    made: Vec<Made>,
    faults: Vec<(On, Fault, usize)>,
    files: HashMap<String, File>,
    uploads: Vec<Upload>,
    takes_no_files: bool,
    needs_no_token: bool,
    violations: Vec<String>,
    delivered: Vec<Delivered>,
    counts: Counts,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RemoteServer {
    /// Starts on a free port of 127.0.0.1, without any model.
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
        let service = api::router(shared.clone()).into_make_service_with_connect_info::<connection::Line>();
        let task = tokio::spawn(async move { axum::serve(listener, service).await.unwrap() });
        Ok(Self { addr, shared, task })
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        self.shared.url.clone()
    }

    /// The address of the API, `http://127.0.0.1:PORT/v1`.
    pub fn api(&self) -> String {
        format!("{}/v1", self.shared.url)
    }

    /// Has a model, `owner/name`, from now on.
    pub fn model(&self, name: &str, model: Model) {
        self.shared.state().models.insert(name.to_owned(), model);
    }

    /// The next `times` requests of a kind fail in this way; several calls queue up.
    pub fn fault(&self, on: On, fault: Fault, times: usize) {
        self.shared.state().faults.push((on, fault, times));
    }

    /// Forgets failures that have not happened.
    pub fn forget_faults(&self) {
        self.shared.state().faults.clear();
    }

    /// Has a file at `/outputs/NAME`; returns its address.
    pub fn file(&self, name: &str, file: File) -> String {
        self.shared.state().files.insert(name.to_owned(), file);
        format!("{}/outputs/{name}", self.shared.url)
    }

    /// Has no `/files` from now on, like a server that runs one model.
    pub fn take_no_files(&self) {
        self.shared.state().takes_no_files = true;
    }

    /// Asks for no token from now on.
    pub fn need_no_token(&self) {
        self.shared.state().needs_no_token = true;
    }

    /// Every prediction that was made, in order. Each is paid for.
    pub fn created(&self) -> Vec<Created> {
        self.shared.state().made.iter().map(|made| made.created.clone()).collect()
    }

    /// How many predictions of a model were made.
    pub fn created_of(&self, model: &str) -> usize {
        self.created().iter().filter(|created| created.model == model).count()
    }

    /// How often each input of each model was paid for.
    pub fn paid(&self) -> HashMap<(String, String), usize> {
        let mut paid = HashMap::new();
        for created in self.created() {
            *paid.entry((created.model, created.input.to_string())).or_default() += 1;
        }
        paid
    }

    /// Those inputs that were paid for more than once.
    pub fn paid_twice(&self) -> Vec<(String, String)> {
        self.paid().into_iter().filter(|(_, times)| *times > 1).map(|(input, _)| input).collect()
    }

    /// The ids of predictions that were cancelled by request.
    pub fn cancelled(&self) -> Vec<String> {
        let state = self.shared.state();
        state.made.iter().filter(|made| made.cancelled.is_some()).map(|made| made.created.id.clone()).collect()
    }

    /// The status of a prediction now.
    pub fn status(&self, id: &str) -> Option<&'static str> {
        let state = self.shared.state();
        state.made.iter().find(|made| made.created.id == id).map(Made::status)
    }

    /// A prediction that hangs or runs ends now as its model ends, and its webhook goes out.
    pub fn finish(&self, id: &str) {
        let found = self.shared.state().find(id).map(Made::finish_now);
        assert!(found.is_some(), "there is no prediction {id}");
    }

    /// Deletes what a prediction put out, as Replicate does after an hour.
    pub fn remove_data(&self, id: &str) {
        let found = self.shared.state().find(id).map(|made| made.is_removed = true);
        assert!(found.is_some(), "there is no prediction {id}");
    }

    /// Files that were uploaded, in order.
    pub fn uploads(&self) -> Vec<Upload> {
        self.shared.state().uploads.clone()
    }

    /// Requests that broke the contract, and how.
    pub fn violations(&self) -> Vec<String> {
        self.shared.state().violations.clone()
    }

    /// Webhooks that went out.
    pub fn delivered(&self) -> Vec<Delivered> {
        self.shared.state().delivered.clone()
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

impl Drop for RemoteServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
