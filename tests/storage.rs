//! The three storages keep the same promises; Cloud Storage keeps them over a network that fails.

mod storage_server;

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use concept_worker::config::StorageSetting;
use concept_worker::pipeline::job::Format;
use concept_worker::service::storage::{
    Location, ObjectKey, ObjectKind, Precondition, Stat, Storage, StorageError, StorageOptions,
};
use storage_server::{Fault, Faults, Kind, StorageServer};

/// A storage under test, and what must outlive it.
struct Place {
    name: &'static str,
    storage: Storage,
    server: Option<StorageServer>,
    folder: Option<tempfile::TempDir>,
}

fn options(setting: StorageSetting, emulator: Option<String>) -> StorageOptions {
    let limit = Duration::from_secs(20);
    StorageOptions { setting, emulator, write_timeout: limit, read_timeout: limit }
}

async fn places() -> [Place; 3] {
    let folder = tempfile::tempdir().unwrap();
    let local = Storage::open(&options(StorageSetting::Local(folder.path().into()), None)).await.unwrap();
    let memory = Storage::open(&options(StorageSetting::Memory, None)).await.unwrap();
    let (server, gcs) = gcs(|_| {}).await;
    [
        Place { name: "memory", storage: memory, server: None, folder: None },
        Place { name: "local", storage: local, server: None, folder: Some(folder) },
        Place { name: "gcs", storage: gcs, server: Some(server), folder: None },
    ]
}

/// A server with the bucket `palettes`, and Cloud Storage on it.
async fn gcs(change: impl FnOnce(&mut StorageOptions)) -> (StorageServer, Storage) {
    let server = StorageServer::start().await;
    server.create_bucket("palettes");
    let mut options = options(StorageSetting::Gcs, Some(server.url()));
    change(&mut options);
    let storage = Storage::open(&options).await.unwrap();
    (server, storage)
}

fn at(name: &str) -> Location {
    Location::parse(&format!("gs://palettes/{name}")).unwrap()
}

fn key(name: &str, work_key: &str) -> ObjectKey {
    let kind = ObjectKind::Picture(Format::Png);
    ObjectKey { location: at(name), kind, content_addressed: false, work_key: work_key.into() }
}

/// Content that is not the same everywhere.
fn content(bytes: usize) -> Bytes {
    (0..bytes).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect()
}

async fn write(
    storage: &Storage,
    key: &ObjectKey,
    content: impl Into<Bytes>,
    precondition: &Precondition,
) -> Result<Stat, StorageError> {
    let content = content.into();
    let crc32c = crc32c::crc32c(&content);
    storage.write(key, content, crc32c, precondition).await
}

async fn read(storage: &Storage, location: &Location, generation: Option<&str>) -> Result<Vec<u8>, StorageError> {
    let mut download = storage.read(location, generation, 1 << 30).await?;
    let mut all = Vec::new();
    while let Some(piece) = download.chunk().await? {
        all.extend_from_slice(&piece);
    }
    // The end is the end.
    assert_eq!(download.chunk().await, Ok(None));
    Ok(all)
}

#[tokio::test]
async fn what_is_written_is_read_back_with_size_checksum_and_work_key() {
    for place in places().await {
        for bytes in [0, 1, 700_000] {
            let (key, content) = (key(&format!("u/j/{bytes}.png"), "work"), content(bytes));
            let written = write(&place.storage, &key, content.clone(), &Precondition::Absent).await.unwrap();
            let stat = place.storage.stat(&key.location).await.unwrap().unwrap();
            assert_eq!(stat, written, "{} {bytes}", place.name);
            assert_eq!(stat.bytes, bytes as u64);
            assert_eq!(stat.crc32c, Some(crc32c::crc32c(&content)));
            assert_eq!(stat.work_key.as_deref(), Some("work"));
            let download = place.storage.read(&key.location, None, 1 << 20).await.unwrap();
            assert_eq!(download.stat(), &stat);
            assert!(read(&place.storage, &key.location, None).await.unwrap() == content, "{} {bytes}", place.name);
        }
    }
}

#[tokio::test]
async fn nothing_is_created_twice() {
    for place in places().await {
        let first = write(&place.storage, &key("a.png", "one"), "first", &Precondition::Absent).await.unwrap();
        for work_key in ["one", "two"] {
            let again = write(&place.storage, &key("a.png", work_key), "second", &Precondition::Absent).await;
            assert_eq!(again, Err(StorageError::Precondition(at("a.png"))), "{}", place.name);
        }
        assert_eq!(place.storage.stat(&at("a.png")).await.unwrap(), Some(first));
        assert_eq!(read(&place.storage, &at("a.png"), None).await.unwrap(), b"first");
    }
}

#[tokio::test]
async fn only_the_generation_that_was_read_is_replaced() {
    for place in places().await {
        let name = place.name;
        let nowhere = Precondition::Generation("1".into());
        let error = write(&place.storage, &key("m.json", "k"), "x", &nowhere).await.unwrap_err();
        assert_eq!(error, StorageError::Precondition(at("m.json")), "{name}: nothing is there");
        let first = write(&place.storage, &key("m.json", "one"), "failed", &Precondition::Absent).await.unwrap();
        let over_first = Precondition::Generation(first.generation.clone());
        let second = write(&place.storage, &key("m.json", "two"), "ready!", &over_first).await.unwrap();
        assert_ne!(first.generation, second.generation, "{name}");
        assert_eq!(place.storage.stat(&at("m.json")).await.unwrap(), Some(second), "{name}");
        for wrong in [&over_first, &Precondition::Generation("0".into()), &Precondition::Generation("?".into())] {
            let error = write(&place.storage, &key("m.json", "three"), "late", wrong).await.unwrap_err();
            assert_eq!(error, StorageError::Precondition(at("m.json")), "{name} {wrong:?}");
        }
        assert_eq!(read(&place.storage, &at("m.json"), None).await.unwrap(), b"ready!");
    }
}

#[tokio::test]
async fn a_generation_that_is_gone_is_not_found() {
    for place in places().await {
        let first = write(&place.storage, &key("a", "k"), "first", &Precondition::Absent).await.unwrap();
        let pinned = Some(first.generation.as_str());
        assert_eq!(read(&place.storage, &at("a"), pinned).await.unwrap(), b"first", "{}", place.name);
        let over = Precondition::Generation(first.generation.clone());
        write(&place.storage, &key("a", "k"), "other", &over).await.unwrap();
        for generation in [pinned, Some("0"), Some("x"), Some("99999999999999999999")] {
            let error = read(&place.storage, &at("a"), generation).await.unwrap_err();
            assert_eq!(error, StorageError::NotFound(at("a")), "{} {generation:?}", place.name);
        }
    }
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    for place in places().await {
        write(&place.storage, &key("a/b", "k"), "x", &Precondition::Absent).await.unwrap();
        for name in ["c", "a", "a/b/c", "a/c"] {
            assert_eq!(place.storage.stat(&at(name)).await.unwrap(), None, "{} {name}", place.name);
            let error = read(&place.storage, &at(name), None).await.unwrap_err();
            assert_eq!(error, StorageError::NotFound(at(name)), "{} {name}", place.name);
        }
        let elsewhere = Location::parse("gs://no-such-bucket/a").unwrap();
        assert_eq!(place.storage.stat(&elsewhere).await.unwrap(), None, "{}", place.name);
    }
}

#[tokio::test]
async fn content_of_another_checksum_is_refused_and_not_stored() {
    for place in places().await {
        let wrong = crc32c::crc32c(b"something else");
        let written = place.storage.write(&key("a", "k"), "content".into(), wrong, &Precondition::Absent).await;
        let error = written.unwrap_err();
        assert!(matches!(&error, StorageError::Refused { .. }), "{}: {error}", place.name);
        assert_eq!(place.storage.stat(&at("a")).await.unwrap(), None, "{}", place.name);
    }
}

#[tokio::test]
async fn an_object_over_the_limit_is_refused_before_its_content() {
    for place in places().await {
        write(&place.storage, &key("a", "k"), content(1000), &Precondition::Absent).await.unwrap();
        let limit = place.storage.read(&at("a"), None, 1000).await;
        assert!(limit.is_ok(), "{}", place.name);
        let error = place.storage.read(&at("a"), None, 999).await.unwrap_err();
        assert_eq!(error, StorageError::TooLarge { location: at("a"), limit: 999 }, "{}", place.name);
    }
}

#[tokio::test]
async fn odd_names_are_names() {
    let names = [
        "two words.png",
        "Été/北京/🎨.png",
        "a#b?c=d&e%2Ff%.png",
        "plus+tilde~'quote\"(1)*.png",
        "..a/b../...",
        "-rf",
        "a:b|c<d>.png",
        "..%2f..%2fetc",
    ];
    for place in places().await {
        for name in names {
            write(&place.storage, &key(name, name.len().to_string().as_str()), name, &Precondition::Absent)
                .await
                .unwrap();
        }
        for name in names {
            let stat = place.storage.stat(&at(name)).await.unwrap().unwrap();
            assert_eq!(stat.work_key, Some(name.len().to_string()), "{} {name}", place.name);
            assert_eq!(read(&place.storage, &at(name), None).await.unwrap(), name.as_bytes(), "{} {name}", place.name);
        }
        if let Some(server) = &place.server {
            let mut stored: Vec<_> = server.objects("palettes", "").into_iter().map(|object| object.name).collect();
            let mut expected = names.map(str::to_owned).to_vec();
            stored.sort();
            expected.sort();
            assert_eq!(stored, expected);
        }
    }
}

#[tokio::test]
async fn of_many_creators_one_wins_and_the_object_is_wholly_its_own() {
    for place in places().await {
        let writers = (0..16).map(|i| {
            let storage = place.storage.clone();
            tokio::spawn(async move {
                let text = format!("content of {i:02}");
                write(&storage, &key("a", &i.to_string()), text, &Precondition::Absent).await
            })
        });
        let mut winner = None;
        for (i, writer) in writers.collect::<Vec<_>>().into_iter().enumerate() {
            match writer.await.unwrap() {
                Ok(stat) => assert!(winner.replace((i, stat)).is_none(), "{}: two winners", place.name),
                Err(error) => assert_eq!(error, StorageError::Precondition(at("a")), "{}", place.name),
            }
        }
        let (i, stat) = winner.unwrap();
        assert_eq!(stat.work_key, Some(i.to_string()));
        assert_eq!(place.storage.stat(&at("a")).await.unwrap(), Some(stat), "{}", place.name);
        assert_eq!(read(&place.storage, &at("a"), None).await.unwrap(), format!("content of {i:02}").into_bytes());
        if let Some(server) = &place.server {
            assert_eq!((server.writes().len(), server.overwrites().len()), (1, 0));
        }
    }
}

#[tokio::test]
async fn of_many_replacers_one_wins() {
    for place in places().await {
        // Another opening of the same folder, as another process would have it.
        let other = match &place.folder {
            Some(folder) => Storage::open(&options(StorageSetting::Local(folder.path().into()), None)).await.unwrap(),
            None => place.storage.clone(),
        };
        let first = write(&place.storage, &key("a", "first"), "first", &Precondition::Absent).await.unwrap();
        let writers = (0..16).map(|i| {
            let storage = if i % 2 == 0 { place.storage.clone() } else { other.clone() };
            let over = Precondition::Generation(first.generation.clone());
            tokio::spawn(async move { write(&storage, &key("a", &i.to_string()), i.to_string(), &over).await })
        });
        let mut winners = Vec::new();
        for writer in writers.collect::<Vec<_>>() {
            winners.extend(writer.await.unwrap().ok());
        }
        assert_eq!(winners.len(), 1, "{}", place.name);
        assert_eq!(other.stat(&at("a")).await.unwrap(), winners.pop(), "{}", place.name);
    }
}

#[tokio::test]
async fn only_cloud_storage_has_links_and_an_emulator_cannot_sign_them() {
    for place in places().await {
        let link = place.storage.signed_link(&at("a"), Duration::from_secs(60)).await;
        match place.server {
            None => assert_eq!(link, Ok(None)),
            Some(_) => assert!(matches!(link, Err(StorageError::Refused { .. }))),
        }
    }
}

// Cloud Storage.

#[tokio::test]
async fn an_object_carries_its_type_its_caching_and_its_work_key() {
    let (server, storage) = gcs(|_| {}).await;
    for (name, kind, content_addressed, content_type, cache_control) in [
        ("a.png", ObjectKind::Picture(Format::Png), true, "image/png", "public, max-age=31536000, immutable"),
        ("b.jpg", ObjectKind::Picture(Format::Jpeg), false, "image/jpeg", "public, max-age=3600"),
        ("c.json", ObjectKind::Manifest, false, "application/json", "no-cache"),
    ] {
        let key = ObjectKey { location: at(name), kind, content_addressed, work_key: "the key".into() };
        write(&storage, &key, "x", &Precondition::Absent).await.unwrap();
        let stored = server.get("palettes", name).unwrap();
        assert_eq!(stored.content_type, content_type);
        assert_eq!(stored.cache_control.as_deref(), Some(cache_control));
        assert_eq!(stored.metadata.get("concept-key").map(String::as_str), Some("the key"));
    }
}

#[tokio::test]
async fn what_may_pass_is_tried_again_and_counted() {
    for (number, fault) in [
        Fault::Status(408),
        Fault::Status(429),
        Fault::Status(500),
        Fault::Status(502),
        Fault::Status(503),
        Fault::Drop,
    ]
    .into_iter()
    .enumerate()
    {
        let (server, storage) = gcs(|_| {}).await;
        let name = format!("{number}.png");
        for kind in [Kind::Write, Kind::Read, Kind::Read] {
            server.fail_next(kind, fault.clone());
        }
        write(&storage, &key(&name, "k"), "content", &Precondition::Absent).await.unwrap();
        storage.stat(&at(&name)).await.unwrap().unwrap();
        server.fail_next(Kind::Read, fault.clone());
        assert_eq!(read(&storage, &at(&name), None).await.unwrap(), b"content");
        assert_eq!(storage.retries(), 4, "{fault:?}");
        assert_eq!((server.writes().len(), server.overwrites().len()), (1, 0), "{fault:?}");
    }
}

#[tokio::test]
async fn after_five_attempts_it_is_enough() {
    let (server, storage) = gcs(|_| {}).await;
    server.faults(Faults { fail_percent: 100.0, ..Faults::default() });
    let error = write(&storage, &key("a", "k"), "x", &Precondition::Absent).await.unwrap_err();
    assert!(matches!(error, StorageError::Unavailable { .. }), "{error}");
    assert_eq!(server.counts().of(Kind::Write), 5);
    let error = storage.read(&at("a"), None, 10).await.unwrap_err();
    assert!(matches!(error, StorageError::Unavailable { .. }), "{error}");
    assert_eq!(server.counts().of(Kind::Read), 5);
}

#[tokio::test]
async fn what_will_not_pass_is_not_tried_again() {
    let (server, storage) = gcs(|_| {}).await;
    for status in [401, 403] {
        server.fail_next(Kind::Write, Fault::Status(status));
        server.fail_next(Kind::Read, Fault::Status(status));
        let error = write(&storage, &key("a", "k"), "x", &Precondition::Absent).await.unwrap_err();
        assert_eq!(error, StorageError::Forbidden(at("a")));
        assert_eq!(storage.stat(&at("a")).await, Err(StorageError::Forbidden(at("a"))));
    }
    server.fail_next(Kind::Write, Fault::Status(400));
    let error = write(&storage, &key("a", "k"), "x", &Precondition::Absent).await.unwrap_err();
    assert!(matches!(error, StorageError::Refused { .. }), "{error}");
    let elsewhere = ObjectKey { location: Location::parse("gs://no-such-bucket/a").unwrap(), ..key("a", "k") };
    let error = write(&storage, &elsewhere, "x", &Precondition::Absent).await.unwrap_err();
    assert_eq!(error, StorageError::NotFound(elsewhere.location));
    assert_eq!((storage.retries(), server.writes().len()), (0, 0));
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_meets_its_own_work() {
    let (server, storage) = gcs(|_| {}).await;
    server.fail_next(Kind::Write, Fault::LoseAnswer);
    let error = write(&storage, &key("a", "my work"), "content", &Precondition::Absent).await.unwrap_err();
    assert_eq!(error, StorageError::Precondition(at("a")));
    let stat = storage.stat(&at("a")).await.unwrap().unwrap();
    assert_eq!(stat.work_key.as_deref(), Some("my work"));
    assert_eq!(stat.crc32c, Some(crc32c::crc32c(b"content")));
    // The same for a replacement.
    let over = Precondition::Generation(stat.generation);
    server.fail_next(Kind::Write, Fault::LoseAnswer);
    let error = write(&storage, &key("a", "my next work"), "more", &over).await.unwrap_err();
    assert_eq!(error, StorageError::Precondition(at("a")));
    assert_eq!(storage.stat(&at("a")).await.unwrap().unwrap().work_key.as_deref(), Some("my next work"));
    assert_eq!(server.writes().len(), 2);
}

#[tokio::test]
async fn every_attempt_has_its_limit() {
    let (server, storage) = gcs(|options| {
        options.write_timeout = Duration::from_millis(150);
        options.read_timeout = Duration::from_millis(150);
    })
    .await;
    let hour = Duration::from_secs(3600);
    let started = Instant::now();
    for _ in 0..5 {
        server.fail_next(Kind::Write, Fault::Late(hour));
        server.fail_next(Kind::Read, Fault::Late(hour));
    }
    let error = write(&storage, &key("a", "k"), "x", &Precondition::Absent).await.unwrap_err();
    assert_eq!(error, StorageError::TimedOut { location: at("a"), seconds: 0 });
    assert_eq!(server.counts().of(Kind::Write), 5);
    let error = storage.stat(&at("a")).await.unwrap_err();
    assert_eq!(error, StorageError::TimedOut { location: at("a"), seconds: 0 });
    assert!(started.elapsed() < hour / 2);
    // The first attempt got through.
    assert_eq!(storage.stat(&at("a")).await.unwrap().unwrap().work_key.as_deref(), Some("k"));
    assert_eq!((server.writes().len(), server.overwrites().len()), (1, 0));
}

#[tokio::test]
async fn a_read_that_breaks_is_resumed_and_still_verified() {
    let (server, storage) = gcs(|options| options.read_timeout = Duration::from_millis(500)).await;
    let bytes = content(3_000_000);
    server.put("palettes", "a", bytes.clone());
    for faults in
        [vec![Fault::Cut], vec![Fault::Cut, Fault::Cut, Fault::Drop], vec![Fault::Stall(Duration::from_secs(60))]]
    {
        let (before, expected) = (storage.retries(), faults.len() as u64);
        for fault in faults {
            server.fail_next(Kind::Read, fault);
        }
        assert!(read(&storage, &at("a"), None).await.unwrap() == bytes);
        assert_eq!(storage.retries() - before, expected);
    }
    server.fail_next(Kind::Read, Fault::Cut);
    server.fail_next(Kind::Read, Fault::Corrupt);
    let error = read(&storage, &at("a"), None).await.unwrap_err();
    assert_eq!(error, StorageError::Corrupt(at("a")), "the second half is damaged");
}

#[tokio::test]
async fn a_resumed_read_never_mixes_generations() {
    let (server, storage) = gcs(|_| {}).await;
    let bytes = content(1_000_000);
    for keeps in [false, true] {
        if keeps {
            server.keep_generations("palettes");
        }
        server.put("palettes", "a", bytes.clone());
        server.fail_next(Kind::Read, Fault::Cut);
        let mut download = storage.read(&at("a"), None, 1 << 30).await.unwrap();
        let mut all = download.chunk().await.unwrap().unwrap().to_vec();
        server.put("palettes", "a", vec![0; bytes.len()]);
        let end = loop {
            match download.chunk().await {
                Ok(Some(piece)) => all.extend_from_slice(&piece),
                end => break end,
            }
        };
        if keeps {
            assert!(end == Ok(None) && all == bytes, "{end:?}");
        } else {
            assert_eq!(end, Err(StorageError::NotFound(at("a"))));
            assert_eq!(download.chunk().await, end, "an error stays");
        }
    }
}

#[tokio::test]
async fn damage_on_the_way_is_found() {
    let (server, storage) = gcs(|_| {}).await;
    server.put("palettes", "a", content(100_000));
    server.fail_next(Kind::Read, Fault::Corrupt);
    assert_eq!(read(&storage, &at("a"), None).await, Err(StorageError::Corrupt(at("a"))));
}

#[tokio::test]
async fn content_that_is_stored_compressed_is_refused() {
    let (server, storage) = gcs(|_| {}).await;
    server.put_with("palettes", "a", "x", &serde_json::json!({ "contentEncoding": "gzip" }));
    let error = storage.read(&at("a"), None, 10).await.unwrap_err();
    assert!(error.to_string().contains("Content-Encoding gzip"), "{error}");
}

#[tokio::test]
async fn a_large_object_goes_up_in_a_session() {
    let (server, storage) = gcs(|_| {}).await;
    let bytes = content(65 << 20);
    server.fail_next(Kind::Session, Fault::Status(503));
    write(&storage, &key("large", "k"), bytes.clone(), &Precondition::Absent).await.unwrap();
    let stored = server.get("palettes", "large").unwrap();
    assert!(stored.bytes == bytes);
    assert_eq!(stored.metadata.get("concept-key").map(String::as_str), Some("k"));
    assert_eq!(server.counts().of(Kind::Session), 2);
    let again = write(&storage, &key("large", "k"), bytes, &Precondition::Absent).await;
    assert_eq!(again, Err(StorageError::Precondition(at("large"))));
    assert_eq!(server.overwrites(), []);
}

#[tokio::test]
async fn one_connection_serves_one_request_after_another() {
    let (server, storage) = gcs(|_| {}).await;
    for i in 0..10 {
        let name = format!("{i}");
        write(&storage, &key(&name, "k"), content(5000 * i), &Precondition::Absent).await.unwrap();
        storage.stat(&at(&name)).await.unwrap().unwrap();
        read(&storage, &at(&name), None).await.unwrap();
    }
    assert_eq!(server.counts().connections, 1);
}

#[tokio::test]
async fn over_a_bad_network_everything_arrives_once() {
    let (server, storage) = gcs(|_| {}).await;
    server.faults(Faults::mixed(7, 20.0));
    for i in 0..60 {
        let (name, bytes) = (format!("{i}"), content(i * 1000));
        match write(&storage, &key(&name, &name), bytes.clone(), &Precondition::Absent).await {
            Ok(_) => {}
            Err(StorageError::Precondition(_)) => {
                assert_eq!(storage.stat(&at(&name)).await.unwrap().unwrap().work_key, Some(name.clone()));
            }
            Err(error) => panic!("{error}"),
        }
        assert!(read(&storage, &at(&name), None).await.unwrap() == bytes);
    }
    assert!(server.counts().failed > 10 && storage.retries() > 10);
    assert_eq!((server.objects("palettes", "").len(), server.overwrites().len()), (60, 0));
}

#[tokio::test]
async fn an_emulators_address_needs_no_scheme() {
    let server = StorageServer::start().await;
    server.put("palettes", "a", "x");
    let storage = Storage::open(&options(StorageSetting::Gcs, Some(server.addr.to_string()))).await.unwrap();
    assert_eq!(read(&storage, &at("a"), None).await.unwrap(), b"x");
}

// The server, asked by the client of Google alone: forms that the worker does not use, and their answers.

async fn plain_client(server: &StorageServer) -> google_cloud_storage::client::Storage {
    google_cloud_storage::client::Storage::builder()
        .with_endpoint(server.url())
        .with_credentials(google_cloud_auth::credentials::anonymous::Builder::new().build())
        .build()
        .await
        .unwrap()
}

const BUCKET: &str = "projects/_/buckets/palettes";

#[tokio::test]
async fn the_server_takes_checksums_that_come_last_and_sessions_in_pieces() {
    let (server, _) = gcs(|_| {}).await;
    let client = plain_client(&server).await;
    let bytes = content(1_000_000);
    client.write_object(BUCKET, "three parts", bytes.clone()).send_unbuffered().await.unwrap();
    assert!(server.get("palettes", "three parts").unwrap().bytes == bytes);
    let session = |name: &str| {
        client
            .write_object(BUCKET, name, bytes.clone())
            .with_resumable_upload_threshold(0_usize)
            .with_resumable_upload_buffer_size(256_usize << 10)
            .set_if_generation_match(0)
            .with_backoff_policy(google_cloud_gax::exponential_backoff::ExponentialBackoff::default())
    };
    // In four pieces. The client asks how far it has come after a status; after a broken connection it would go on with
    // the wrong piece, which is why the worker does not send in pieces.
    server.fail_next(Kind::Write, Fault::Status(503));
    session("pieces").send_buffered().await.unwrap();
    assert!(server.get("palettes", "pieces").unwrap().bytes == bytes);
    assert_eq!((server.counts().of(Kind::Session), server.counts().of(Kind::Write)), (2, 1 + 5));
    // In one: the start, a question after the drop, and one after the lost answer.
    server.fail_next(Kind::Write, Fault::Drop);
    server.fail_next(Kind::Write, Fault::LoseAnswer);
    session("one piece").send_unbuffered().await.unwrap();
    assert!(server.get("palettes", "one piece").unwrap().bytes == bytes);
    assert_eq!((server.counts().of(Kind::Session), server.counts().of(Kind::Write)), (2 + 3, 6 + 2));
    assert_eq!(server.overwrites(), []);
}

#[tokio::test]
async fn the_server_refuses_what_the_real_one_refuses() {
    let (server, _) = gcs(|_| {}).await;
    let generation = server.put("palettes", "a", "content");
    let http = reqwest::Client::new();
    let object = format!("{}/storage/v1/b/palettes/o/a", server.url());
    let upload = format!("{}/upload/storage/v1/b", server.url());
    for (path, status) in [
        (format!("{object}?alt=media&generation={}", generation - 1), 404),
        (format!("{object}?alt=media&generation={generation}"), 200),
        (format!("{object}?alt=media&ifGenerationMatch=1"), 412),
        (format!("{object}?ifGenerationNotMatch={generation}"), 304),
        (format!("{object}?ifGenerationMatch=zero"), 400),
        (format!("{object}?noSuchParameter=1"), 400),
        (format!("{}/storage/v1/b/nowhere", server.url()), 404),
        (format!("{}/storage/v1/b/nowhere/o/a", server.url()), 404),
    ] {
        assert_eq!(http.get(&path).send().await.unwrap().status(), status, "{path}");
    }
    for (range, status) in [("bytes=0-0", 206), ("bytes=6-99", 206), ("bytes=7-", 416), ("bytes=-2", 206)] {
        let answer = http.get(format!("{object}?alt=media")).header("range", range).send().await.unwrap();
        assert_eq!(answer.status(), status, "{range}");
    }
    for (path, body, status) in [
        ("palettes/o?uploadType=media&name=b", "x", 200),
        ("palettes/o?uploadType=media&name=b&ifGenerationMatch=0", "x", 412),
        ("palettes/o?uploadType=media", "x", 400),
        ("palettes/o?uploadType=multipart&name=c", "x", 400),
        ("nowhere/o?uploadType=media&name=b", "x", 404),
        ("palettes/o?uploadType=resumable&name=b&ifGenerationMatch=0", "", 412),
    ] {
        let answer = http.post(format!("{upload}/{path}")).body(body).send().await.unwrap();
        assert_eq!(answer.status(), status, "{path}");
        if status == 412 {
            let error: serde_json::Value = answer.json().await.unwrap();
            assert_eq!(error["error"]["errors"][0]["reason"], "conditionNotMet");
        }
    }
    assert_eq!(server.writes().len(), 1);
}

// Files.

fn local(place: &[Place; 3]) -> (&Storage, &Path) {
    let place = place.iter().find(|place| place.name == "local").unwrap();
    (&place.storage, place.folder.as_ref().unwrap().path())
}

fn names_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn an_object_is_the_file_of_its_name_and_nothing_else_to_the_eye() {
    let places = places().await;
    let (storage, folder) = local(&places);
    let first = write(storage, &key("u/j/manifest.json", "k"), "failed", &Precondition::Absent).await.unwrap();
    let over = Precondition::Generation(first.generation);
    write(storage, &key("u/j/manifest.json", "k"), "ready", &over).await.unwrap();
    let lost = write(storage, &key("u/j/manifest.json", "k"), "again", &Precondition::Absent).await;
    assert!(lost.is_err());
    let path = folder.join("palettes/u/j/manifest.json");
    assert_eq!(std::fs::read(&path).unwrap(), b"ready");
    let names = names_in(path.parent().unwrap());
    assert!(matches!(&names[..], [record, object] if record.starts_with(".concept-key-") && object == "manifest.json"));
    let Storage::Local(storage) = storage else { panic!() };
    assert_eq!(storage.path_of(&at("u/j/manifest.json")), path.canonicalize().unwrap());
}

#[tokio::test]
async fn a_file_of_another_program_is_nobodys_work() {
    let places = places().await;
    let (storage, folder) = local(&places);
    let path = folder.join("palettes/a.png");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, "by hand").unwrap();
    let stat = storage.stat(&at("a.png")).await.unwrap().unwrap();
    assert_eq!((stat.bytes, stat.crc32c, stat.work_key), (7, None, None));
    assert!(write(storage, &key("a.png", "k"), "x", &Precondition::Absent).await.is_err());
    // Ours, then edited.
    let ours = write(storage, &key("b.png", "k"), "x", &Precondition::Absent).await.unwrap();
    std::fs::write(folder.join("palettes/b.png"), "edited").unwrap();
    let edited = storage.stat(&at("b.png")).await.unwrap().unwrap();
    assert_ne!(edited.generation, ours.generation);
    assert_eq!((edited.work_key, edited.crc32c), (None, None));
    let over = Precondition::Generation(ours.generation);
    assert!(write(storage, &key("b.png", "k"), "y", &over).await.is_err());
}

#[tokio::test]
async fn what_cannot_be_a_file_is_refused() {
    let places = places().await;
    let (storage, _) = local(&places);
    write(storage, &key("folder/a", "k"), "x", &Precondition::Absent).await.unwrap();
    let long = "x".repeat(300);
    for name in ["folder", "folder/a/b", ".concept-key-1", "x/.concept-part-1", &long] {
        let error = write(storage, &key(name, "k"), "x", &Precondition::Absent).await.unwrap_err();
        assert!(matches!(error, StorageError::Refused { .. }), "{name}: {error}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn no_link_leads_out_of_the_folder() {
    use std::os::unix::fs::symlink;
    let places = places().await;
    let (storage, folder) = local(&places);
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "secret").unwrap();
    std::fs::create_dir(folder.join("palettes")).unwrap();
    symlink(outside.path(), folder.join("palettes/out")).unwrap();
    symlink(outside.path().join("secret"), folder.join("palettes/file")).unwrap();
    symlink(outside.path().join("nothing"), folder.join("palettes/dangling")).unwrap();
    for name in ["out/secret", "file"] {
        assert!(matches!(storage.stat(&at(name)).await, Err(StorageError::Refused { .. })), "{name}");
        assert!(matches!(storage.read(&at(name), None, 9).await, Err(StorageError::Refused { .. })), "{name}");
    }
    for name in ["out/new", "out/deep/er", "file", "dangling", "dangling/deep/er"] {
        let written = write(storage, &key(name, "k"), "x", &Precondition::Absent).await;
        assert!(written.is_err(), "{name}");
    }
    assert_eq!(names_in(outside.path()), ["secret"]);
    assert_eq!(std::fs::read(outside.path().join("secret")).unwrap(), b"secret");
}

#[tokio::test]
async fn a_file_that_is_replaced_while_it_is_read_is_read_to_its_end() {
    let places = places().await;
    let (storage, folder) = local(&places);
    let bytes = content(1_000_000);
    let first = write(storage, &key("a", "k"), bytes.clone(), &Precondition::Absent).await.unwrap();
    let mut download = storage.read(&at("a"), None, 1 << 30).await.unwrap();
    let mut all = download.chunk().await.unwrap().unwrap().to_vec();
    let over = Precondition::Generation(first.generation);
    write(storage, &key("a", "k"), vec![0; 1_000_000], &over).await.unwrap();
    while let Some(piece) = download.chunk().await.unwrap() {
        all.extend_from_slice(&piece);
    }
    assert!(all == bytes);
    // Changed in place, though, it is no content of anyone's.
    let mut download = storage.read(&at("a"), None, 1 << 30).await.unwrap();
    std::fs::write(folder.join("palettes/a"), "short").unwrap();
    let end = loop {
        match download.chunk().await {
            Ok(Some(_)) => {}
            end => break end,
        }
    };
    assert_eq!(end, Err(StorageError::Corrupt(at("a"))));
}
