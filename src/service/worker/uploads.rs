//! Files on their way into storage while the engine makes the next ones.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::pipeline::outlet::MadeFile;
use crate::pipeline::plan;
use crate::service::metrics::Metrics;
use crate::service::storage::{Location, ObjectKey, ObjectKind, Precondition, Stat, Storage, StorageError};

/// Memory that waiting files take is counted in these, bytes.
const UNIT: u64 = 4096;

/// What became of each file.
pub type Stored = BTreeMap<String, Result<Stat, StorageError>>;

/// Where and as what files are stored.
#[derive(Clone)]
pub struct Shelf {
    /// The storage.
    pub storage: Storage,
    /// The job's folder.
    pub folder: Location,
    /// The key of the work.
    pub work_key: String,
    /// Whether names are made from the content.
    pub content_addressed: bool,
}

impl Shelf {
    /// The key of one of the job's objects.
    pub fn key(&self, object: &str, kind: ObjectKind) -> ObjectKey {
        ObjectKey {
            location: self.folder.join(object),
            kind,
            content_addressed: self.content_addressed,
            work_key: self.work_key.clone(),
        }
    }
}

/// Takes files and stores them, several at once.
pub struct Uploads {
    files: mpsc::UnboundedSender<(MadeFile, OwnedSemaphorePermit)>,
    room: Arc<Semaphore>,
    units: u32,
    failed: Arc<AtomicBool>,
    task: JoinHandle<Stored>,
}

/// The end that files are given to, from any thread.
#[derive(Clone)]
pub struct Intake {
    files: mpsc::UnboundedSender<(MadeFile, OwnedSemaphorePermit)>,
    room: Arc<Semaphore>,
    units: u32,
    failed: Arc<AtomicBool>,
    runtime: Handle,
}

/// A preview on its way, counted as long as this lives.
struct PendingPreview(watch::Sender<usize>);

impl PendingPreview {
    fn new(waiting: &watch::Sender<usize>) -> Self {
        waiting.send_modify(|waiting| *waiting += 1);
        Self(waiting.clone())
    }
}

impl Drop for PendingPreview {
    fn drop(&mut self) {
        self.0.send_modify(|waiting| *waiting = waiting.saturating_sub(1));
    }
}

impl Uploads {
    /// Stores at most `at_once` files at a time, and lets files of `waiting_bytes` together wait or be under way.
    /// `on_stored` is told of each that is there.
    pub fn start<Told: Future<Output = ()> + Send>(
        shelf: Shelf,
        at_once: usize,
        waiting_bytes: u64,
        metrics: Metrics,
        on_stored: impl Fn(String) -> Told + Send + Sync + 'static,
    ) -> Self {
        let units = u32::try_from(waiting_bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).clamp(1, 1 << 28);
        let room = Arc::new(Semaphore::new(units as usize));
        let (files, mut incoming) = mpsc::unbounded_channel::<(MadeFile, OwnedSemaphorePermit)>();
        let failed = Arc::new(AtomicBool::new(false));
        let connections = Arc::new(Semaphore::new(at_once.max(1)));
        let on_stored = Arc::new(on_stored);
        // Small pictures that are on their way: nothing large is stored before them.
        let previews = watch::Sender::new(0_usize);
        let flag = failed.clone();
        let task = tokio::spawn(async move {
            let mut stored = Stored::new();
            let mut under_way = JoinSet::new();
            let mut open = true;
            while open || !under_way.is_empty() {
                tokio::select! {
                    next = incoming.recv(), if open => match next {
                        None => open = false,
                        Some((file, room)) => {
                            let (shelf, connections, metrics) = (shelf.clone(), connections.clone(), metrics.clone());
                            let (on_stored, failed, previews) = (on_stored.clone(), flag.clone(), previews.clone());
                            let is_preview = plan::is_preview_name(&file.object);
                            let pending = is_preview.then(|| PendingPreview::new(&previews));
                            under_way.spawn(async move {
                                if !is_preview {
                                    // Ends only with what it waits for: both ends are here.
                                    let _ = previews.subscribe().wait_for(|waiting| *waiting == 0).await;
                                }
                                let connection = connections.acquire().await;
                                let object = file.object.clone();
                                let started = Instant::now();
                                let bytes = file.content.len() as u64;
                                let result = store(&shelf, file).await;
                                drop((room, connection));
                                match &result {
                                    Ok(_) => {
                                        metrics.upload(bytes, started.elapsed().as_secs_f64());
                                        on_stored(object.clone()).await;
                                    }
                                    Err(_) => failed.store(true, Ordering::SeqCst),
                                }
                                drop(pending);
                                (object, result)
                            });
                        }
                    },
                    Some(done) = under_way.join_next() => match done {
                        Ok((object, result)) => {
                            stored.insert(object, result);
                        }
                        // An upload that panicked left its file without a result, which counts as not stored.
                        Err(_) => flag.store(true, Ordering::SeqCst),
                    },
                }
            }
            stored
        });
        Self { files, room, units, failed, task }
    }

    /// The end that files are given to.
    pub fn intake(&self) -> Intake {
        Intake {
            files: self.files.clone(),
            room: self.room.clone(),
            units: self.units,
            failed: self.failed.clone(),
            runtime: Handle::current(),
        }
    }

    /// Waits for everything that was given to be stored, once every [`Intake`] is gone.
    pub async fn finish(self) -> Stored {
        let Self { files, mut task, .. } = self;
        drop(files);
        // Ends with this future: files that nobody waits for are not stored half-heartedly.
        struct Abort<'a>(&'a mut JoinHandle<Stored>);
        impl Drop for Abort<'_> {
            fn drop(&mut self) {
                self.0.abort();
            }
        }
        let guard = Abort(&mut task);
        (&mut *guard.0).await.unwrap_or_default()
    }
}

impl Intake {
    /// Takes a file. Blocks while too many bytes wait; not for the runtime's own threads.
    ///
    /// # Errors
    /// When nobody stores files any more.
    pub fn take(&self, file: MadeFile) -> io::Result<()> {
        let units = u32::try_from((file.content.len() as u64).div_ceil(UNIT)).unwrap_or(u32::MAX).clamp(1, self.units);
        let gone = || io::Error::other("the upload was given up");
        let room = self.runtime.block_on(self.room.clone().acquire_many_owned(units)).map_err(|_| gone())?;
        self.files.send((file, room)).map_err(|_| gone())
    }

    /// Whether a file could not be stored: making more of them is in vain.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::SeqCst)
    }
}

/// Stores one file, or finds that it is there already.
async fn store(shelf: &Shelf, file: MadeFile) -> Result<Stat, StorageError> {
    let key = shelf.key(&file.object, ObjectKind::Picture(file.format));
    create_or_adopt(&shelf.storage, &key, file.content, file.crc32c).await
}

/// Creates an object; where one of the same work is there already, that one is it: a lost answer and another delivery look
/// just alike.
pub async fn create_or_adopt(
    storage: &Storage,
    key: &ObjectKey,
    content: Bytes,
    crc32c: u32,
) -> Result<Stat, StorageError> {
    // Somebody may remove the object between the two questions, hardly twice.
    for _ in 0..3 {
        match storage.write(key, content.clone(), crc32c, &Precondition::Absent).await {
            Err(StorageError::Precondition(location)) => match storage.stat(&key.location).await? {
                Some(stat) if stat.work_key.as_deref() == Some(&key.work_key) => return Ok(stat),
                Some(_) => return Err(StorageError::Precondition(location)),
                None => {}
            },
            other => return other,
        }
    }
    Err(StorageError::Unavailable { location: key.location.clone(), problem: "the object comes and goes".into() })
}
