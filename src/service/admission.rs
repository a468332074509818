//! Admission: a job waits for memory before anything large is read, and the queue is bounded.
//!
//! Every job takes a [`Permit`] of its estimated peak. Permits in force never add up to more than the capacity, which is the
//! limit less a reserve and less what the idle process uses; and none is given while what the process really holds leaves
//! too little room. The permit moves into the work on the processors, so that a caller who goes away cannot free it early.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};

use super::failure::{Class, Failure};
use super::log;

/// How often a head of the queue that waits for the system's memory looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// How long a job that holds memory waits for more.
const PATIENCE: Duration = Duration::from_secs(5);

/// What admission goes by. Bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// The most the process may hold.
    pub limit: u64,
    /// What no job may take.
    pub reserve: u64,
    /// Resident memory above which freed memory is given back before another job is admitted.
    pub cleanup_above: u64,
    /// Jobs that may wait.
    pub queue_limit: usize,
}

/// What the process holds, and how it lets go.
pub struct Meter {
    /// Resident bytes, now.
    pub resident: Box<dyn Fn() -> u64 + Send + Sync>,
    /// Bytes that caches hold and let go of when [`Self::give_back`] is called.
    pub cached: Box<dyn Fn() -> u64 + Send + Sync>,
    /// Drops caches and gives freed memory back to the system. May take milliseconds.
    pub give_back: Box<dyn Fn() + Send + Sync>,
}

/// Gives out permits. Clones share one budget.
#[derive(Clone)]
pub struct Admission {
    shared: Arc<Shared>,
}

struct Shared {
    budget: Budget,
    capacity: AtomicU64,
    meter: Meter,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// Permits in force.
    promised: u64,
    permits: usize,
    queue: VecDeque<Waiter>,
    /// Jobs that have a place but do not compute yet.
    places: usize,
    cleanups: u64,
}

struct Waiter {
    bytes: u64,
    given: oneshot::Sender<Result<Permit, Failure>>,
}

/// A place in the queue, from arrival until the work begins.
pub struct Place(Arc<Shared>);

/// Memory that a job may use.
pub struct Permit {
    shared: Arc<Shared>,
    bytes: u64,
}

/// What admission looks like from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Occupancy {
    /// Bytes that permits may add up to.
    pub capacity: u64,
    /// Bytes of permits in force.
    pub promised: u64,
    /// Permits in force.
    pub permits: usize,
    /// Jobs that have a place in the queue.
    pub waiting: usize,
    /// How often freed memory was given back before a job was admitted.
    pub cleanups: u64,
}

impl Admission {
    /// Starts to admit, on the runtime that this is called in.
    pub fn start(budget: Budget, meter: Meter) -> Self {
        let idle = (meter.resident)();
        let capacity = budget.limit.saturating_sub(budget.reserve).saturating_sub(idle);
        let capacity = AtomicU64::new(capacity);
        let shared = Arc::new(Shared { budget, capacity, meter, state: Mutex::default(), changed: Notify::new() });
        let weak = Arc::downgrade(&shared);
        tokio::spawn(async move {
            // Ends with the last admission, permit and place.
            while let Some(shared) = weak.upgrade() {
                let blocked = Shared::admit(&shared).await;
                let limit = if blocked { LOOK_AGAIN } else { Duration::from_secs(1) };
                let changed = shared.changed.notified();
                let _ = tokio::time::timeout(limit, changed).await;
            }
        });
        Self { shared }
    }

    /// Takes bytes away from all jobs for good: what the process holds beside them as long as it lives.
    ///
    /// # Errors
    /// [`Class::PictureTooLarge`] when that leaves no room for jobs.
    pub fn set_aside(&self, bytes: u64) -> Result<(), Failure> {
        let less = |capacity: u64| capacity.checked_sub(bytes);
        match self.shared.capacity.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less) {
            Ok(_) => {
                // Who waits for more than there is now must hear of it.
                self.shared.changed.notify_one();
                Ok(())
            }
            Err(capacity) => Err(too_large(bytes, capacity)),
        }
    }

    /// Gives jobs back what [`Self::set_aside`] took from them.
    pub fn give_back(&self, bytes: u64) {
        self.shared.capacity.fetch_add(bytes, Ordering::SeqCst);
        self.shared.changed.notify_one();
    }

    /// Takes a place in the queue.
    ///
    /// # Errors
    /// [`Class::Busy`] when it is full.
    pub fn enter(&self) -> Result<Place, Failure> {
        let mut state = self.shared.state();
        if state.places >= self.shared.budget.queue_limit {
            let message = format!(
                "{} jobs are waiting, as many as CONCEPT_QUEUE_LIMIT allows; send it again later, or allow more instances",
                state.places
            );
            return Err(Failure::new(Class::Busy, message));
        }
        state.places += 1;
        Ok(Place(self.shared.clone()))
    }

    /// Changes a permit to `bytes`, if need be once others have freed some, but not for long: jobs that hold memory while
    /// they wait for more could wait for each other.
    ///
    /// # Errors
    /// [`Class::PictureTooLarge`] when there will never be as much, [`Class::Busy`] when there is not now.
    pub async fn grow(&self, permit: &mut Permit, bytes: u64) -> Result<(), Failure> {
        self.check(bytes)?;
        let patience = Instant::now() + PATIENCE;
        let others = self.shared.state().promised.saturating_sub(permit.bytes);
        if others + bytes + (self.shared.meter.cached)() > self.shared.capacity() {
            // What caches hold counts, but never keeps a job waiting.
            let lets_go = self.shared.clone();
            let _ = tokio::task::spawn_blocking(move || (lets_go.meter.give_back)()).await;
        }
        while !permit.try_resize(bytes) {
            if Instant::now() > patience {
                log::memory_refused(bytes, self.shared.capacity(), false);
                return Err(Failure::new(Class::Busy, "there is no memory for the job now; send it again later"));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    fn check(&self, bytes: u64) -> Result<(), Failure> {
        match self.shared.capacity() {
            capacity if bytes > capacity => Err(too_large(bytes, capacity)),
            _ => Ok(()),
        }
    }

    /// Waits for `bytes`, behind everyone who came before.
    ///
    /// # Errors
    /// [`Class::PictureTooLarge`] when there will never be as much, [`Class::Busy`] when a model took it meanwhile.
    pub async fn acquire(&self, bytes: u64) -> Result<Permit, Failure> {
        self.check(bytes)?;
        let (given, wait) = oneshot::channel();
        self.shared.state().queue.push_back(Waiter { bytes, given });
        self.shared.changed.notify_one();
        // The sender lives in the queue until it is served.
        wait.await
            .unwrap_or_else(|_| Err(Failure::new(Class::Draining, "the worker is shutting down; send the job again")))
    }

    /// What it looks like now.
    pub fn occupancy(&self) -> Occupancy {
        let state = self.shared.state();
        Occupancy {
            capacity: self.shared.capacity(),
            promised: state.promised,
            permits: state.permits,
            waiting: state.places,
            cleanups: state.cleanups,
        }
    }
}

fn too_large(bytes: u64, capacity: u64) -> Failure {
    log::memory_refused(bytes, capacity, true);
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let message = format!(
        "the job needs up to {} MiB of memory and this worker has {} MiB for jobs; set \
         CONCEPT_IMAGE_MAX_DIMENSION, ask for fewer formats, or give the worker more memory",
        mib(bytes),
        mib(capacity)
    );
    Failure::new(Class::PictureTooLarge, message)
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves the queue's head as long as there is room; returns whether it waits for the system's memory.
    async fn admit(shared: &Arc<Self>) -> bool {
        loop {
            let (bytes, alone) = {
                let mut state = shared.state();
                while state.queue.front().is_some_and(|waiter| waiter.given.is_closed()) {
                    state.queue.pop_front();
                }
                let capacity = shared.capacity();
                // A model is taking what they would have had: they must not hold up all others. Whether it stays is not known
                // yet, so that they come again rather than be refused for good.
                while let Some(waiter) = state.queue.pop_front_if(|waiter| waiter.bytes > capacity) {
                    log::memory_refused(waiter.bytes, capacity, false);
                    let message = "a model has taken the memory that the job was waiting for; send it again later";
                    let _ = waiter.given.send(Err(Failure::new(Class::Busy, message)));
                }
                let Some(head) = state.queue.front() else { return false };
                if state.promised + head.bytes > shared.capacity() {
                    return false;
                }
                (head.bytes, state.permits == 0)
            };
            // What caches hold counts, but never keeps a job waiting.
            let promised = shared.state().promised;
            let crowded = promised + bytes + (shared.meter.cached)() > shared.capacity();
            if crowded || !shared.has_room(bytes) {
                shared.state().cleanups += 1;
                let lets_go = shared.clone();
                let _ = tokio::task::spawn_blocking(move || (lets_go.meter.give_back)()).await;
                // Alone, nothing that runs will free anything: what is still resident is all the room there will be.
                if !alone && !shared.has_room(bytes) {
                    return true;
                }
            }
            let mut state = shared.state();
            // Meanwhile a permit may have grown, or the head may have gone.
            let still = state.queue.front().is_some_and(|head| state.promised + head.bytes <= shared.capacity());
            let Some(waiter) = state.queue.pop_front_if(|_| still) else { continue };
            state.promised += waiter.bytes;
            state.permits += 1;
            drop(state);
            // Dropped unused, the permit gives its bytes back.
            let _ = waiter.given.send(Ok(Permit { shared: shared.clone(), bytes: waiter.bytes }));
        }
    }

    fn capacity(&self) -> u64 {
        self.capacity.load(Ordering::SeqCst)
    }

    fn has_room(&self, bytes: u64) -> bool {
        let resident = (self.meter.resident)();
        resident <= self.budget.cleanup_above
            && resident.saturating_add(bytes) <= self.budget.limit.saturating_sub(self.budget.reserve / 2)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.places = state.places.saturating_sub(1);
    }
}

impl Permit {
    /// How much it is for, bytes.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes `bytes` instead, if that can be had at once.
    pub fn try_resize(&mut self, bytes: u64) -> bool {
        let mut state = self.shared.state();
        let others = state.promised.saturating_sub(self.bytes);
        if bytes > self.bytes && others + bytes > self.shared.capacity() {
            return false;
        }
        state.promised = others + bytes;
        drop(state);
        self.bytes = bytes;
        self.shared.changed.notify_one();
        true
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.promised = state.promised.saturating_sub(self.bytes);
        state.permits = state.permits.saturating_sub(1);
        drop(state);
        self.shared.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn admission(resident: &Arc<AtomicU64>, queue_limit: usize) -> Admission {
        let budget = Budget { limit: 100 * MIB, reserve: 10 * MIB, cleanup_above: 80 * MIB, queue_limit };
        let (now, then) = (resident.clone(), resident.clone());
        let meter = Meter {
            resident: Box::new(move || now.load(Ordering::SeqCst)),
            cached: Box::new(|| 0),
            give_back: Box::new(move || then.store(20 * MIB, Ordering::SeqCst)),
        };
        Admission::start(budget, meter)
    }

    fn idle() -> Arc<AtomicU64> {
        Arc::new(AtomicU64::new(10 * MIB))
    }

    #[tokio::test]
    async fn permits_never_add_up_to_more_than_the_capacity_and_are_given_in_order() {
        let admission = admission(&idle(), 10);
        assert_eq!(admission.occupancy().capacity, 80 * MIB);
        let first = admission.acquire(50 * MIB).await.unwrap();
        let (second, third) = (admission.clone(), admission.clone());
        let second = tokio::spawn(async move { second.acquire(60 * MIB).await.unwrap() });
        tokio::time::sleep(Duration::from_millis(20)).await;
        // It would fit, but not past the one that waits.
        let third = tokio::spawn(async move { third.acquire(MIB).await.unwrap() });
        tokio::time::sleep(Duration::from_millis(120)).await;
        assert!(!second.is_finished() && !third.is_finished());
        assert_eq!(admission.occupancy().promised, 50 * MIB);
        drop(first);
        let (second, third) = (second.await.unwrap(), third.await.unwrap());
        assert_eq!(admission.occupancy().promised, 61 * MIB);
        drop((second, third));
        assert_eq!((admission.occupancy().promised, admission.occupancy().permits), (0, 0));
    }

    #[tokio::test]
    async fn what_will_never_fit_is_refused_for_good() {
        let error = admission(&idle(), 10).acquire(81 * MIB).await.err().unwrap();
        assert_eq!(error.class, Class::PictureTooLarge);
        assert!(error.message.contains("81 MiB") && error.message.contains("80 MiB"), "{error}");
    }

    #[tokio::test]
    async fn what_is_set_aside_is_not_there_for_jobs_and_what_does_not_fit_beside_it_is_refused() {
        let admission = admission(&idle(), 10);
        admission.set_aside(30 * MIB).unwrap();
        assert_eq!(admission.acquire(51 * MIB).await.err().unwrap().class, Class::PictureTooLarge);
        let permit = admission.acquire(50 * MIB).await.unwrap();
        assert_eq!((permit.bytes(), admission.occupancy().permits), (50 * MIB, 1));
        assert!(admission.set_aside(60 * MIB).is_err());
    }

    #[tokio::test]
    async fn a_full_queue_refuses_at_once_and_a_place_is_free_again_when_it_is_left() {
        let admission = admission(&idle(), 2);
        let places = [admission.enter().unwrap(), admission.enter().unwrap()];
        assert_eq!(admission.enter().err().unwrap().class, Class::Busy);
        drop(places);
        assert!(admission.enter().is_ok());
    }

    #[tokio::test]
    async fn a_caller_who_goes_away_leaves_nothing_behind() {
        let admission = admission(&idle(), 10);
        let first = admission.acquire(80 * MIB).await.unwrap();
        let gone = admission.clone();
        let waiting = tokio::spawn(async move { gone.acquire(80 * MIB).await.map(drop) });
        tokio::time::sleep(Duration::from_millis(20)).await;
        waiting.abort();
        let _ = waiting.await;
        drop(first);
        tokio::time::timeout(Duration::from_secs(5), admission.acquire(80 * MIB)).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn above_the_threshold_memory_is_given_back_before_anything_is_admitted() {
        let resident = idle();
        let admission = admission(&resident, 10);
        resident.store(85 * MIB, Ordering::SeqCst);
        let _permit = admission.acquire(MIB).await.unwrap();
        assert_eq!((admission.occupancy().cleanups, resident.load(Ordering::SeqCst)), (1, 20 * MIB));
    }

    #[tokio::test]
    async fn while_the_process_really_holds_too_much_nothing_joins_those_that_run() {
        let resident = Arc::new(AtomicU64::new(10 * MIB));
        let stuck = resident.clone();
        let budget = Budget { limit: 100 * MIB, reserve: 10 * MIB, cleanup_above: 80 * MIB, queue_limit: 9 };
        let meter = Meter {
            resident: Box::new(move || stuck.load(Ordering::SeqCst)),
            cached: Box::new(|| 0),
            give_back: Box::new(|| ()),
        };
        let admission = Admission::start(budget, meter);
        let running = admission.acquire(10 * MIB).await.unwrap();
        resident.store(90 * MIB, Ordering::SeqCst);
        let waits = admission.clone();
        let waits = tokio::spawn(async move { waits.acquire(10 * MIB).await.map(drop) });
        tokio::time::sleep(Duration::from_millis(150)).await;
        assert!(!waits.is_finished());
        drop(running);
        // Alone it is let in: nothing else would ever free anything.
        tokio::time::timeout(Duration::from_secs(5), waits).await.unwrap().unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_permit_grows_only_where_there_is_room() {
        let admission = admission(&idle(), 10);
        let mut permit = admission.acquire(10 * MIB).await.unwrap();
        assert!(permit.try_resize(70 * MIB));
        let _other = admission.acquire(10 * MIB).await.unwrap();
        assert!(!permit.try_resize(71 * MIB));
        assert!(permit.try_resize(5 * MIB));
        assert_eq!((permit.bytes(), admission.occupancy().promised), (5 * MIB, 15 * MIB));
    }

    #[tokio::test]
    async fn a_waiter_who_no_longer_fits_hears_of_it_and_does_not_hold_up_the_next() {
        let admission = admission(&idle(), 10);
        let first = admission.acquire(30 * MIB).await.unwrap();
        let wait = |bytes: u64| {
            let admission = admission.clone();
            tokio::spawn(async move { admission.acquire(bytes).await })
        };
        let large = wait(70 * MIB);
        tokio::time::sleep(Duration::from_millis(20)).await;
        let small = wait(10 * MIB);
        admission.set_aside(30 * MIB).unwrap();
        let limit = Duration::from_secs(5);
        let error = tokio::time::timeout(limit, large).await.unwrap().unwrap().err().unwrap();
        // Again later: should the model not stay, it fits.
        assert_eq!(error.class, Class::Busy);
        let small = tokio::time::timeout(limit, small).await.unwrap().unwrap().unwrap();
        assert_eq!(admission.occupancy().promised, 40 * MIB);
        drop((first, small));
    }

    #[tokio::test]
    async fn two_who_set_aside_at_once_never_take_more_than_there_is() {
        let admission = admission(&idle(), 10);
        let took: usize = std::thread::scope(|scope| {
            let each: Vec<_> =
                (0..8).map(|_| scope.spawn(|| usize::from(admission.set_aside(30 * MIB).is_ok()))).collect();
            each.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!((took, admission.occupancy().capacity), (2, 20 * MIB));
    }
}
