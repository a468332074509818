//! The bridge between the async world and the processors.
//!
//! A job computes in a pool of threads of its own, so that no job waits inside another's parts. How many threads depends on
//! how many jobs are ready: one alone gets every processor, many get one each, which wastes least.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rayon::{ThreadPool, ThreadPoolBuilder};
use tokio::sync::oneshot;

use super::failure::{Class, Failure};
use super::fair::{Fair, FairOccupancy, FairOptions};

/// The processors. Clones share them.
#[derive(Clone)]
pub struct Lanes {
    shared: Arc<Shared>,
}

struct Shared {
    processors: usize,
    /// Processors, given out fairly between users.
    free: Fair,
    /// Jobs that compute or wait to.
    ready: AtomicUsize,
    /// Pools that nobody uses, with their widths.
    idle: Mutex<Vec<(usize, ThreadPool)>>,
}

/// Counts a job as ready as long as it lives.
struct Ready(Arc<Shared>);

impl Drop for Ready {
    fn drop(&mut self) {
        self.0.ready.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Lanes {
    /// Lanes over this many processors, at least one.
    pub fn new(processors: usize) -> Self {
        let processors = processors.max(1);
        let shared = Shared {
            processors,
            free: Fair::new(FairOptions { slots: processors, queue_limit: usize::MAX, patience: None }),
            ready: AtomicUsize::new(0),
            idle: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The most threads that one job gets.
    pub fn width(&self) -> usize {
        self.shared.processors
    }

    /// How busy the processors are.
    pub fn occupancy(&self) -> FairOccupancy {
        self.shared.free.occupancy()
    }

    /// Ends the threads of pools that nobody uses, when there is nothing to do at all: only then does the allocator let go of
    /// what it keeps for them. Starting them again takes a fraction of a millisecond.
    pub fn rest(&self) {
        if self.shared.ready.load(Ordering::SeqCst) == 0 {
            self.shared.idle().clear();
        }
    }

    /// Runs `work` of `user` as soon as there are processors for it, and waits for it. `began` is called when it is about to begin.
    ///
    /// Dropping the future does not stop work that has begun; whatever `work` owns lives until it ends.
    ///
    /// # Errors
    /// [`Class::Internal`] when the work panicked or no thread could be started.
    pub async fn run<T: Send + 'static>(
        &self,
        user: &str,
        began: impl FnOnce(),
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let shared = self.shared.clone();
        let others = shared.ready.fetch_add(1, Ordering::SeqCst);
        let ready = Ready(shared.clone());
        let width = (shared.processors / (others + 1)).max(1);
        let internal =
            |problem: &str| Failure::new(Class::Internal, format!("the engine failed: {problem}; report it"));
        let processors = shared.free.acquire_many(user, width).await.map_err(|_| internal("its threads are gone"))?;
        let pool = shared.pool(width).ok_or_else(|| internal("no threads could be started"))?;
        began();
        let (done, wait) = oneshot::channel();
        pool.spawn(move || {
            let result = catch_unwind(AssertUnwindSafe(work));
            drop((processors, ready));
            // The caller may have gone away.
            let _ = done.send(result);
        });
        // A caller who goes away here drops the pool, whose threads end after the work.
        let result = wait.await;
        shared.idle().push((width, pool));
        match result {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(_)) | Err(_) => Err(internal("it panicked on this job")),
        }
    }
}

impl Shared {
    fn idle(&self) -> MutexGuard<'_, Vec<(usize, ThreadPool)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pool(&self, width: usize) -> Option<ThreadPool> {
        {
            let mut idle = self.idle();
            if let Some(at) = idle.iter().position(|(w, _)| *w == width) {
                return Some(idle.swap_remove(at).1);
            }
        }
        let name = move |i| format!("lane-{width}-{i}");
        let step_back = |_| step_back();
        ThreadPoolBuilder::new().num_threads(width).thread_name(name).start_handler(step_back).build().ok()
    }
}

/// How much less a computing thread is worth to the system than one that answers callers: nice values, 0 to 19.
#[cfg(target_os = "linux")]
const NICE: i32 = 10;

/// Lets the threads that answer callers go before this one: what is done already is to be said at once, whatever is computed.
fn step_back() {
    #[cfg(target_os = "linux")]
    {
        // Of a thread, though the call is named after processes. Refused, all threads stay as they are.
        let this = rustix::thread::gettid();
        let _ = rustix::process::setpriority_process(Some(this), NICE);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_job_alone_gets_every_processor_and_many_get_one_each() {
        let lanes = Lanes::new(4);
        assert_eq!(lanes.run("u", || (), rayon::current_num_threads).await.unwrap(), 4);
        let slow = || {
            std::thread::sleep(Duration::from_millis(100));
            rayon::current_num_threads()
        };
        let jobs: Vec<_> = (0..8)
            .map(|_| {
                let lanes = lanes.clone();
                tokio::spawn(async move { lanes.run("u", || (), slow).await.unwrap() })
            })
            .collect();
        let mut widths = Vec::new();
        for job in jobs {
            widths.push(job.await.unwrap());
        }
        widths.sort_unstable();
        assert_eq!(widths[..5], [1; 5], "{widths:?}");
    }

    #[tokio::test]
    async fn never_more_threads_work_than_there_are_processors() {
        let lanes = Lanes::new(2);
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let jobs: Vec<_> = (0..10)
            .map(|_| {
                let (lanes, now, most) = (lanes.clone(), now.clone(), most.clone());
                tokio::spawn(async move {
                    lanes
                        .run(
                            "u",
                            || (),
                            move || {
                                let width = rayon::current_num_threads();
                                let busy = now.fetch_add(width, Ordering::SeqCst) + width;
                                most.fetch_max(busy, Ordering::SeqCst);
                                std::thread::sleep(Duration::from_millis(10));
                                now.fetch_sub(width, Ordering::SeqCst);
                            },
                        )
                        .await
                        .unwrap();
                })
            })
            .collect();
        for job in jobs {
            job.await.unwrap();
        }
        assert_eq!(most.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_panic_costs_one_job_and_leaves_the_lanes_whole() {
        let lanes = Lanes::new(2);
        let error = lanes.run("u", || (), || panic!("on purpose")).await.map(|(): ()| ()).unwrap_err();
        assert_eq!(error.class, Class::Internal);
        assert_eq!(lanes.run("u", || (), || 7).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn work_that_has_begun_keeps_what_it_owns_when_its_caller_goes_away() {
        struct Owned(Arc<AtomicUsize>);
        impl Drop for Owned {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let dropped = Arc::new(AtomicUsize::new(0));
        let (lanes, owned) = (Lanes::new(1), Owned(dropped.clone()));
        let (tell, told) = oneshot::channel();
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let task = tokio::spawn(async move {
            let work = move || {
                let _ = wait.recv();
                drop(owned);
            };
            lanes.run("u", || tell.send(()).unwrap_or_default(), work).await
        });
        told.await.unwrap();
        task.abort();
        let _ = task.await;
        assert_eq!(dropped.load(Ordering::SeqCst), 0);
        release.send(()).unwrap();
        while dropped.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
