//! google-cloud-storage of Python, a client no one here wrote, judges what the worker stores and the test server keeps.
//!
//! The client is installed once into the target folder; CONCEPT_TEST_PYTHON names a Python that has it already. Without
//! either the tests say so and pass.

mod python;
mod storage_server;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use concept_worker::config::StorageSetting;
use concept_worker::pipeline::job::Format;
use concept_worker::service::storage::{
    Location, ObjectKey, ObjectKind, Precondition, Storage, StorageError, StorageOptions,
};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use storage_server::StorageServer;

const CLIENT: &str = "google-cloud-storage==3.17.1";

/// A Python that has the client; none, visibly, where there is none.
fn python() -> Option<&'static Path> {
    static PYTHON: OnceLock<Option<PathBuf>> = OnceLock::new();
    let find = || match std::env::var_os("CONCEPT_TEST_PYTHON") {
        Some(python) => Some(python.into()),
        None => python::with_packages("storage-python", &[CLIENT], "import google.cloud.storage"),
    };
    PYTHON.get_or_init(find).as_deref()
}

/// Runs the script, away from the threads that serve it.
async fn client(python: &Path, arguments: &[&str]) -> Value {
    let mut command = Command::new(python);
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/storage_client.py")).args(arguments);
    command.env_remove("STORAGE_EMULATOR_HOST").env_remove("GOOGLE_APPLICATION_CREDENTIALS");
    let text = tokio::task::spawn_blocking(move || python::run(&mut command)).await.unwrap().unwrap();
    serde_json::from_str(&text).unwrap()
}

fn options(emulator: Option<String>) -> StorageOptions {
    let limit = Duration::from_secs(30);
    StorageOptions { setting: StorageSetting::Gcs, emulator, write_timeout: limit, read_timeout: limit }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_python_client_sees_what_was_stored_and_writes_what_is_read() {
    let Some(python) = python() else { return };
    let server = StorageServer::start().await;
    server.create_bucket("palettes");
    let storage = Storage::open(&options(Some(server.url()))).await.unwrap();
    let at = |name: &str| Location::parse(&format!("gs://palettes/{name}")).unwrap();
    let picture = ObjectKind::Picture(Format::Png);
    let objects = [
        ("u/j/palette_Warm.png", picture, true, Bytes::from(vec![7; 300_000])),
        ("u/j/manifest.json", ObjectKind::Manifest, false, Bytes::from("{}")),
        ("Été 北京/100% #1?.png", picture, false, Bytes::from("odd")),
        ("empty.png", picture, false, Bytes::new()),
    ];
    let mut generations = HashMap::new();
    for (name, kind, content_addressed, content) in &objects {
        let location = at(name);
        let (kind, content_addressed) = (*kind, *content_addressed);
        let key = ObjectKey { location, kind, content_addressed, work_key: format!("work {name}") };
        // Header values are ASCII.
        let key = ObjectKey { work_key: key.work_key.replace(|c: char| !c.is_ascii(), "_"), ..key };
        let crc32c = crc32c::crc32c(content);
        let stat = storage.write(&key, content.clone(), crc32c, &Precondition::Absent).await.unwrap();
        generations.insert(*name, (stat.generation, key));
    }

    let seen = client(python, &["look", &server.url(), "palettes"]).await;
    assert_eq!(seen["objects"].as_array().unwrap().len(), objects.len());
    assert_eq!(seen["first_below_u"], serde_json::json!(["u/j/manifest.json"]));
    for (name, _, _, content) in &objects {
        let object = seen["objects"].as_array().unwrap().iter().find(|object| object["name"] == *name).unwrap();
        let (generation, key) = &generations[name];
        let sha256: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
        for (field, expected) in [
            ("generation", Value::from(generation.as_str())),
            ("bytes", content.len().into()),
            ("md5", STANDARD.encode(md5::compute(content).0).into()),
            ("crc32c", STANDARD.encode(crc32c::crc32c(content).to_be_bytes()).into()),
            ("sha256", sha256.into()),
            ("content_type", key.content_type().into()),
            ("cache_control", key.cache_control().into()),
            ("metadata", serde_json::json!({ "concept-key": key.work_key })),
            ("is_dated", true.into()),
        ] {
            assert_eq!(object[field], expected, "{name}: {field}");
        }
    }

    let written = client(python, &["write", &server.url(), "palettes"]).await;
    for (name, generation, bytes) in
        [("python/small.bin", &written["small"], 17), ("python/large.bin", &written["large"], 10_040_000)]
    {
        let mut download = storage.read(&at(name), generation.as_str(), 1 << 30).await.unwrap();
        assert_eq!(download.stat().work_key.as_deref(), Some("of python"));
        let mut all = Vec::new();
        while let Some(piece) = download.chunk().await.unwrap() {
            all.extend_from_slice(&piece);
        }
        assert_eq!(all.len(), bytes);
        assert!(all == server.get("palettes", name).unwrap().bytes);
    }
    assert_eq!(server.get("palettes", "python/small.bin").unwrap().content_type, "text/x-python");
    assert_eq!(storage.stat(&at("python/gone.bin")).await.unwrap(), None);
    assert_eq!(server.overwrites(), []);
}

/// What the child of the test below is to sign.
const LINK: &str = "gs://palettes/u/Été 1%.png";

#[tokio::test]
async fn a_signed_link_is_the_one_that_the_python_client_signs() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let account = folder.path().join("account.json");
    let account = account.to_str().unwrap();
    client(python, &["key", account]).await;
    // Credentials are found through the environment, which only a process of its own may change.
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "signs_a_link_for_the_test_above", "--ignored", "--nocapture"]);
    child.env("GOOGLE_APPLICATION_CREDENTIALS", account).env("CONCEPT_TEST_SIGN", "yes");
    let output = python::run(&mut child).unwrap();
    let link = output.split_whitespace().find(|word| word.starts_with("https://")).unwrap();
    let link = url::Url::parse(link).unwrap();
    let query: HashMap<_, _> = link.query_pairs().collect();
    assert_eq!(query["X-Goog-Expires"], "604800");
    let location = Location::parse(LINK).unwrap();
    let arguments = ["sign", account, &query["X-Goog-Date"], "604800", location.bucket(), location.name()];
    let theirs = client(python, &arguments).await;
    let theirs = url::Url::parse(theirs["link"].as_str().unwrap()).unwrap();
    assert_eq!((link.host(), link.path()), (theirs.host(), theirs.path()));
    let their_query: HashMap<_, _> = theirs.query_pairs().collect();
    assert_eq!(query, their_query);
}

#[tokio::test]
#[ignore = "run by the test above, with credentials"]
async fn signs_a_link_for_the_test_above() {
    if std::env::var_os("CONCEPT_TEST_SIGN").is_none() {
        eprintln!("SKIPPED: only the test above can run this");
        return;
    }
    let storage = Storage::open(&options(None)).await.unwrap();
    let location = Location::parse(LINK).unwrap();
    let week = Duration::from_secs(7 * 24 * 3600);
    let link = storage.signed_link(&location, week).await.unwrap().unwrap();
    println!("\n{link}\n");
    for expires in [week + Duration::from_secs(1), Duration::ZERO] {
        let refused = storage.signed_link(&location, expires).await;
        assert!(matches!(refused, Err(StorageError::Refused { .. })));
    }
}
