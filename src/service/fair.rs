//! A semaphore that is fair between users: whoever waits gets its turn within one round, however much others wait for.
//!
//! The users that wait stand in a ring. Whose turn it is gets slots for the job that waited longest and goes to the end
//! of the ring; a user who begins to wait joins at the end. When the one whose turn it is needs more slots than are
//! free, nobody passes it, so that small jobs cannot starve a large one. Only users that wait are remembered. Every
//! step takes time logarithmic in the number of waiters.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

/// What a fair semaphore goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FairOptions {
    /// Slots that may be in use at once; 0 counts as 1.
    pub slots: usize,
    /// Jobs that may wait, those of all users together.
    pub queue_limit: usize,
    /// The longest that a job waits; without one, as long as its caller does.
    pub patience: Option<Duration>,
}

/// Why there is no permit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FairError {
    /// As many jobs wait as may.
    #[error("{waiting} jobs are waiting, as many as are allowed; send it again later")]
    Full {
        /// Jobs that wait.
        waiting: usize,
    },
    /// Its turn did not come in time.
    #[error("the job waited {:.1} s and its turn did not come; send it again later", .waited.as_secs_f64())]
    TimedOut {
        /// How long it waited.
        waited: Duration,
    },
    /// There will never be as many slots.
    #[error("the job needs {wanted} slots at once and there are {slots}; ask for fewer, or allow more")]
    TooMany {
        /// Slots that the job needs.
        wanted: usize,
        /// Slots that there are.
        slots: usize,
    },
}

/// What a fair semaphore looks like from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FairOccupancy {
    /// Slots that may be in use at once.
    pub slots: usize,
    /// Slots in use.
    pub in_use: usize,
    /// Jobs that wait.
    pub waiting: usize,
    /// Users whose jobs wait.
    pub users_waiting: usize,
    /// Permits given so far, those for which nobody had to wait included.
    pub granted: u64,
    /// Jobs refused so far because too many waited.
    pub refused: u64,
    /// Jobs so far whose turn did not come in time.
    pub timed_out: u64,
    /// How long all jobs that were given a permit have waited for it so far.
    pub waited: Duration,
}

impl FairOccupancy {
    /// Whether the next job has to wait.
    pub const fn is_full(&self) -> bool {
        self.waiting > 0 || self.in_use >= self.slots
    }
}

/// Gives out slots, fairly between users. Clones share them.
#[derive(Debug, Clone)]
pub struct Fair {
    shared: Arc<Shared>,
}

/// Slots that a job may use until this is dropped, on whatever thread.
#[derive(Debug)]
#[must_use = "the slots are free again as soon as the permit is dropped"]
pub struct FairPermit {
    shared: Arc<Shared>,
    /// 0 once they have been taken back.
    slots: usize,
}

#[derive(Debug)]
struct Shared {
    slots: usize,
    queue_limit: usize,
    patience: Option<Duration>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    free: usize,
    /// Whoever waits, by name.
    users: HashMap<Arc<str>, User>,
    /// The same users by their turns; the lowest is next.
    ring: BTreeMap<u64, Arc<str>>,
    /// Counts up: the next turn and the next waiter.
    next: u64,
    waiting: usize,
    granted: u64,
    refused: u64,
    timed_out: u64,
    waited: Duration,
}

#[derive(Debug)]
struct User {
    turn: u64,
    /// By their numbers, the longest-waiting first; never empty.
    waiters: BTreeMap<u64, Waiter>,
}

#[derive(Debug)]
struct Waiter {
    slots: usize,
    since: Instant,
    given: oneshot::Sender<FairPermit>,
}

/// Takes a waiter out of the queue when its caller goes away.
struct Queued<'a> {
    shared: &'a Arc<Shared>,
    user: Arc<str>,
    number: u64,
}

impl Fair {
    /// Slots that are all free.
    pub fn new(options: FairOptions) -> Self {
        let slots = options.slots.max(1);
        let state = State {
            free: slots,
            users: HashMap::new(),
            ring: BTreeMap::new(),
            next: 0,
            waiting: 0,
            granted: 0,
            refused: 0,
            timed_out: 0,
            waited: Duration::ZERO,
        };
        let (queue_limit, patience) = (options.queue_limit, options.patience);
        Self { shared: Arc::new(Shared { slots, queue_limit, patience, state: Mutex::new(state) }) }
    }

    /// Takes a slot, if need be when `user`'s turn has come. Dropping the future gives up the place in the queue.
    ///
    /// # Errors
    /// [`FairError::Full`] when too many wait, [`FairError::TimedOut`] when the turn did not come in time.
    pub async fn acquire(&self, user: &str) -> Result<FairPermit, FairError> {
        self.acquire_many(user, 1).await
    }

    /// Takes `slots` at once, 0 counting as 1; otherwise as [`Self::acquire`]. It is one turn, however many they are.
    ///
    /// # Errors
    /// [`FairError::TooMany`] when there are not as many at all; otherwise as [`Self::acquire`].
    pub async fn acquire_many(&self, user: &str, slots: usize) -> Result<FairPermit, FairError> {
        let (shared, slots) = (&self.shared, slots.max(1));
        if slots > shared.slots {
            return Err(FairError::TooMany { wanted: slots, slots: shared.slots });
        }
        let since = Instant::now();
        let (queued, mut wait) = {
            let mut state = shared.state();
            if state.waiting == 0 && state.free >= slots {
                state.free -= slots;
                state.granted += 1;
                return Ok(FairPermit { shared: shared.clone(), slots });
            }
            if state.waiting >= shared.queue_limit {
                state.refused += 1;
                return Err(FairError::Full { waiting: state.waiting });
            }
            let (given, wait) = oneshot::channel();
            let (user, number) = state.join(user, Waiter { slots, since, given });
            (Queued { shared, user, number }, wait)
        };
        let in_time = match shared.patience {
            Some(patience) => timeout(patience, &mut wait).await.ok(),
            None => Some((&mut wait).await),
        };
        let given = match in_time {
            Some(given) => given,
            None if queued.leave(true) => return Err(FairError::TimedOut { waited: since.elapsed() }),
            // Its turn came at the last moment: another thread has the permit in its hands.
            None => wait.await,
        };
        // The sender lives in the queue until it is served.
        given.map_err(|_| FairError::TimedOut { waited: since.elapsed() })
    }

    /// What it looks like now.
    pub fn occupancy(&self) -> FairOccupancy {
        let state = self.shared.state();
        FairOccupancy {
            slots: self.shared.slots,
            in_use: self.shared.slots.saturating_sub(state.free),
            waiting: state.waiting,
            users_waiting: state.users.len(),
            granted: state.granted,
            refused: state.refused,
            timed_out: state.timed_out,
            waited: state.waited,
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes slots back and serves whoever is next.
    fn release(self: &Arc<Self>, slots: usize) {
        let mut back = slots;
        loop {
            let served = {
                let mut state = self.state();
                state.free += back;
                state.serve()
            };
            back = 0;
            // Not under the lock: waking a task may run code of others.
            for Waiter { slots, given, .. } in served {
                // Who goes away just now takes nothing. Dropping the permit would come back here, deeper each time.
                if let Err(mut permit) = given.send(FairPermit { shared: self.clone(), slots }) {
                    back += std::mem::take(&mut permit.slots);
                }
            }
            if back == 0 {
                return;
            }
        }
    }
}

impl State {
    fn count(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Puts a waiter behind the others of its user, and a user who has none at the end of the ring.
    fn join(&mut self, user: &str, waiter: Waiter) -> (Arc<str>, u64) {
        let number = self.count();
        self.waiting += 1;
        let name = match self.users.get_key_value(user) {
            Some((name, _)) => name.clone(),
            None => {
                let (name, turn) = (Arc::<str>::from(user), self.count());
                self.ring.insert(turn, name.clone());
                self.users.insert(name.clone(), User { turn, waiters: BTreeMap::new() });
                name
            }
        };
        if let Some(user) = self.users.get_mut(&name) {
            user.waiters.insert(number, waiter);
        }
        (name, number)
    }

    /// Takes a waiter out of the queue, unless it has been served.
    fn leave(&mut self, name: &str, number: u64) -> Option<Waiter> {
        let user = self.users.get_mut(name)?;
        let waiter = user.waiters.remove(&number)?;
        self.waiting -= 1;
        if user.waiters.is_empty() {
            self.ring.remove(&user.turn);
            self.users.remove(name);
        }
        Some(waiter)
    }

    /// Takes out of the queue whoever is next, as long as there are slots for them, and takes those slots.
    fn serve(&mut self) -> Vec<Waiter> {
        let mut served = Vec::new();
        while self.free > 0 {
            let Some((turn, name)) = self.ring.first_key_value().map(|(turn, name)| (*turn, name.clone())) else {
                break;
            };
            let first = self.users.get(&name).and_then(|user| user.waiters.first_key_value());
            let Some((number, slots)) = first.map(|(number, waiter)| (*number, waiter.slots)) else { break };
            if slots > self.free {
                break;
            }
            let Some(waiter) = self.leave(&name, number) else { break };
            self.free -= slots;
            self.granted += 1;
            self.waited = self.waited.saturating_add(waiter.since.elapsed());
            served.push(waiter);
            // The next of the same user waits for the next round.
            let next = self.count();
            if let Some(user) = self.users.get_mut(&name) {
                user.turn = next;
                self.ring.remove(&turn);
                self.ring.insert(next, name);
            }
        }
        served
    }
}

impl Queued<'_> {
    /// Gives up the place; returns whether there was one.
    fn leave(&self, timed_out: bool) -> bool {
        let serves = {
            let mut state = self.shared.state();
            if state.leave(&self.user, self.number).is_none() {
                return false;
            }
            state.timed_out += u64::from(timed_out);
            state.free > 0
        };
        // It may have held up those behind it.
        if serves {
            self.shared.release(0);
        }
        true
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.leave(false);
    }
}

impl FairPermit {
    /// How many slots it is for.
    pub const fn slots(&self) -> usize {
        self.slots
    }
}

impl Drop for FairPermit {
    fn drop(&mut self) {
        let slots = std::mem::take(&mut self.slots);
        if slots > 0 {
            self.shared.release(slots);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::mpsc;
    use tokio::task::{JoinHandle, yield_now};

    use super::*;

    fn fair(slots: usize, queue_limit: usize) -> Fair {
        Fair::new(FairOptions { slots, queue_limit, patience: None })
    }

    /// Waits in a task of its own; returns once it stands in the queue.
    async fn queue(fair: &Fair, user: &str, slots: usize) -> JoinHandle<Result<FairPermit, FairError>> {
        let (fair, user) = (fair.clone(), user.to_owned());
        let task = tokio::spawn(async move { fair.acquire_many(&user, slots).await });
        yield_now().await;
        task
    }

    /// Jobs that wait and say in which order they were served. The slot is free when the test lets go of the permit.
    struct Line {
        fair: Fair,
        served: mpsc::UnboundedReceiver<(String, FairPermit)>,
        serve: mpsc::UnboundedSender<(String, FairPermit)>,
    }

    impl Line {
        fn new(fair: &Fair) -> Self {
            let (serve, served) = mpsc::unbounded_channel();
            Self { fair: fair.clone(), served, serve }
        }

        async fn join(&self, user: &str, name: &str) {
            self.join_many(user, name, 1).await;
        }

        async fn join_many(&self, user: &str, name: &str, slots: usize) {
            let (fair, serve) = (self.fair.clone(), self.serve.clone());
            let (user, name) = (user.to_owned(), name.to_owned());
            tokio::spawn(async move {
                let permit = fair.acquire_many(&user, slots).await.unwrap();
                let _ = serve.send((name, permit));
            });
            yield_now().await;
        }

        /// Serves everyone, one release at a time.
        async fn order(&mut self, running: FairPermit) -> Vec<String> {
            let mut order = Vec::new();
            let mut running = Some(running);
            while self.fair.occupancy().waiting > 0 {
                running.take();
                let (name, permit) = self.served.recv().await.unwrap();
                order.push(name);
                running = Some(permit);
            }
            order
        }
    }

    async fn settle() {
        for _ in 0..20 {
            yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_user_with_one_job_waits_for_at_most_one_round_of_a_user_with_hundreds() {
        let fair = fair(2, 1_000);
        let mut running = vec![fair.acquire("many").await.unwrap(), fair.acquire("many").await.unwrap()];
        let mut many = Line::new(&fair);
        for i in 0..500 {
            many.join("many", &i.to_string()).await;
        }
        let one = queue(&fair, "one", 1).await;
        assert_eq!((fair.occupancy().waiting, fair.occupancy().users_waiting), (501, 2));
        let mut releases = 0;
        while !one.is_finished() {
            drop(running.remove(0));
            releases += 1;
            settle().await;
            while let Ok((_, permit)) = many.served.try_recv() {
                running.push(permit);
            }
        }
        assert!(releases <= 2, "{releases}");
    }

    #[tokio::test]
    async fn users_take_turns_and_the_jobs_of_each_keep_their_order() {
        let fair = fair(1, 100);
        let running = fair.acquire("a").await.unwrap();
        let mut line = Line::new(&fair);
        for name in ["a1", "a2", "a3", "b1", "b2", "c1", "a4"] {
            line.join(&name[..1], name).await;
        }
        assert_eq!(line.order(running).await, ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]);
        assert_eq!((fair.occupancy().in_use, fair.occupancy().users_waiting), (0, 0));
    }

    #[tokio::test]
    async fn jobs_of_one_user_are_served_in_the_order_of_their_arrival() {
        let fair = fair(1, 1_000);
        let running = fair.acquire("a").await.unwrap();
        let mut line = Line::new(&fair);
        let names: Vec<String> = (0..300).map(|i| i.to_string()).collect();
        for name in &names {
            line.join("a", name).await;
        }
        assert_eq!(line.order(running).await, names);
    }

    #[tokio::test]
    async fn a_full_queue_refuses_at_once_and_only_then() {
        let fair = fair(1, 2);
        let running = fair.acquire("a").await.unwrap();
        let waiting = [queue(&fair, "a", 1).await, queue(&fair, "b", 1).await];
        assert_eq!(fair.acquire("c").await.err(), Some(FairError::Full { waiting: 2 }));
        assert_eq!(fair.occupancy().refused, 1);
        drop(running);
        for task in waiting {
            drop(task.await.unwrap().unwrap());
        }
        assert_eq!(fair.acquire("c").await.unwrap().slots(), 1);
    }

    #[tokio::test]
    async fn without_a_queue_only_a_free_slot_is_given() {
        let fair = fair(1, 0);
        let running = fair.acquire("a").await.unwrap();
        assert_eq!(fair.acquire("a").await.err(), Some(FairError::Full { waiting: 0 }));
        drop(running);
        assert!(fair.acquire("a").await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn patience_ends_the_wait_and_leaves_nothing_behind() {
        let patience = Duration::from_secs(30);
        let fair = Fair::new(FairOptions { slots: 1, queue_limit: 9, patience: Some(patience) });
        let running = fair.acquire("a").await.unwrap();
        let error = fair.acquire("b").await.err().unwrap();
        assert!(matches!(error, FairError::TimedOut { waited } if waited >= patience), "{error:?}");
        assert!(error.to_string().contains("30.0 s"), "{error}");
        let occupancy = fair.occupancy();
        assert_eq!((occupancy.waiting, occupancy.users_waiting, occupancy.timed_out), (0, 0, 1));
        drop(running);
        assert!(fair.acquire("b").await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_patience_there_is_does_not_overflow() {
        let fair = Fair::new(FairOptions { slots: 1, queue_limit: 9, patience: Some(Duration::MAX) });
        let running = fair.acquire("a").await.unwrap();
        let waiting = queue(&fair, "b", 1).await;
        tokio::time::sleep(Duration::from_secs(3_600)).await;
        drop(running);
        drop(waiting.await.unwrap().unwrap());
        assert!(fair.occupancy().waited >= Duration::from_secs(3_600));
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_job_whose_patience_ends_lets_those_behind_it_pass() {
        let fair = Fair::new(FairOptions { slots: 2, queue_limit: 9, patience: Some(Duration::from_secs(30)) });
        let _running = fair.acquire("a").await.unwrap();
        let large = queue(&fair, "large", 2).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        let small = queue(&fair, "small", 1).await;
        tokio::time::sleep(Duration::from_secs(19)).await;
        assert!(!small.is_finished());
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(matches!(large.await.unwrap(), Err(FairError::TimedOut { .. })));
        assert!(small.is_finished());
        drop(small.await.unwrap().unwrap());
    }

    #[tokio::test]
    async fn a_caller_who_goes_away_while_it_waits_leaves_no_waiter() {
        let fair = fair(1, 9);
        let running = fair.acquire("a").await.unwrap();
        let gone = queue(&fair, "b", 1).await;
        let stays = queue(&fair, "c", 1).await;
        gone.abort();
        assert!(gone.await.unwrap_err().is_cancelled());
        assert_eq!((fair.occupancy().waiting, fair.occupancy().users_waiting), (1, 1));
        drop(running);
        drop(stays.await.unwrap().unwrap());
        assert_eq!((fair.occupancy().in_use, fair.occupancy().users_waiting), (0, 0));
    }

    #[tokio::test]
    async fn a_caller_who_goes_away_before_it_takes_its_permit_passes_it_on() {
        let fair = fair(1, 9);
        let running = fair.acquire("a").await.unwrap();
        let mut gone = Box::pin(fair.acquire("b"));
        assert!(poll_once(gone.as_mut()).await.is_none());
        let next = queue(&fair, "c", 1).await;
        // Given, and never looked at.
        drop(running);
        assert_eq!((fair.occupancy().in_use, fair.occupancy().waiting), (1, 1));
        settle().await;
        assert!(!next.is_finished());
        drop(gone);
        drop(next.await.unwrap().unwrap());
        assert_eq!((fair.occupancy().in_use, fair.occupancy().waiting), (0, 0));
    }

    /// Polls once.
    async fn poll_once<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
        std::future::poll_fn(|context| match std::pin::Pin::new(&mut future).poll(context) {
            std::task::Poll::Ready(output) => std::task::Poll::Ready(Some(output)),
            std::task::Poll::Pending => std::task::Poll::Ready(None),
        })
        .await
    }

    #[tokio::test]
    async fn a_large_job_at_the_head_that_goes_away_lets_those_behind_it_pass() {
        let fair = fair(3, 9);
        let _running = fair.acquire("a").await.unwrap();
        let large = queue(&fair, "large", 3).await;
        let small = [queue(&fair, "b", 1).await, queue(&fair, "c", 1).await];
        settle().await;
        assert!(!small[0].is_finished());
        large.abort();
        for task in small {
            drop(task.await.unwrap().unwrap());
        }
    }

    #[tokio::test]
    async fn a_job_that_needs_every_slot_is_not_starved_by_small_ones() {
        let fair = fair(4, 1_000);
        let mut running = Vec::new();
        for _ in 0..4 {
            running.push(fair.acquire("small").await.unwrap());
        }
        let mut line = Line::new(&fair);
        for i in 0..50 {
            line.join("small", &i.to_string()).await;
        }
        line.join_many("large", "large", 4).await;
        let mut served = Vec::new();
        // Small ones keep arriving, from users that have never been seen, too.
        for i in 0..10 {
            line.join("small", "late").await;
            line.join(&format!("new-{i}"), "new").await;
            running.pop();
            settle().await;
            while let Ok((name, permit)) = line.served.try_recv() {
                served.push(name);
                running.push(permit);
            }
            if served.last().is_some_and(|name| name == "large") {
                break;
            }
        }
        // One small one of the first round, then all four slots are kept for it.
        assert_eq!(served, ["0", "large"]);
        assert_eq!(fair.occupancy().in_use, 4);
    }

    #[tokio::test]
    async fn what_can_never_be_had_is_refused_and_nothing_counts_as_one() {
        let fair = fair(2, 9);
        assert_eq!(fair.acquire_many("a", 3).await.err(), Some(FairError::TooMany { wanted: 3, slots: 2 }));
        assert_eq!(fair.acquire_many("a", 0).await.unwrap().slots(), 1);
        assert_eq!(Fair::new(FairOptions { slots: 0, queue_limit: 0, patience: None }).occupancy().slots, 1);
    }

    #[tokio::test]
    async fn a_permit_may_be_dropped_on_a_thread_without_a_runtime() {
        let fair = fair(1, 9);
        let running = fair.acquire("a").await.unwrap();
        let waiting = queue(&fair, "b", 1).await;
        std::thread::spawn(move || drop(running)).join().unwrap();
        drop(waiting.await.unwrap().unwrap());
    }

    #[tokio::test]
    async fn thousands_of_waiters_who_go_away_or_are_served_cost_little() {
        let fair = fair(1, 20_000);
        let running = fair.acquire("a").await.unwrap();
        let mut waiting = Vec::new();
        for i in 0..20_000 {
            let fair = fair.clone();
            waiting.push(tokio::spawn(async move { fair.acquire(&format!("user-{}", i % 100)).await.map(drop) }));
        }
        while fair.occupancy().waiting < 20_000 {
            yield_now().await;
        }
        assert_eq!(fair.occupancy().users_waiting, 100);
        let began = std::time::Instant::now();
        for task in waiting.iter().skip(1).step_by(2) {
            task.abort();
        }
        drop(running);
        for task in waiting {
            let _ = task.await;
        }
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        let occupancy = fair.occupancy();
        assert_eq!((occupancy.in_use, occupancy.waiting, occupancy.users_waiting), (0, 0, 0));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 8)]
    async fn under_stress_no_wake_up_is_lost_and_never_more_slots_are_in_use_than_there_are() {
        const SLOTS: usize = 4;
        let fair =
            Fair::new(FairOptions { slots: SLOTS, queue_limit: 10_000, patience: Some(Duration::from_secs(60)) });
        let (now, most, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
        let tasks: Vec<_> = (0..3_000_usize)
            .map(|i| {
                let (fair, now, most) = (fair.clone(), now.clone(), most.clone());
                tokio::spawn(async move {
                    let (user, slots) = (format!("user-{}", i % 37), 1 + i % SLOTS);
                    let acquire = fair.acquire_many(&user, slots);
                    // Some lose patience at every moment there is, also while they are being given a permit.
                    let limit = if i % 3 == 0 { Duration::from_micros(i as u64 * 50) } else { Duration::from_secs(60) };
                    let Ok(permit) = timeout(limit, acquire).await else { return 0 };
                    let permit = permit.unwrap();
                    let busy = now.fetch_add(permit.slots(), Ordering::SeqCst) + permit.slots();
                    most.fetch_max(busy, Ordering::SeqCst);
                    yield_now().await;
                    now.fetch_sub(permit.slots(), Ordering::SeqCst);
                    if i % 5 == 0 {
                        std::thread::spawn(move || drop(permit)).join().unwrap();
                    }
                    1
                })
            })
            .collect();
        for task in tasks {
            done.fetch_add(task.await.unwrap(), Ordering::SeqCst);
        }
        assert!(done.load(Ordering::SeqCst) >= 2_000);
        assert!(most.load(Ordering::SeqCst) <= SLOTS);
        let occupancy = fair.occupancy();
        assert_eq!((occupancy.in_use, occupancy.waiting, occupancy.users_waiting), (0, 0, 0));
        assert_eq!(occupancy.timed_out, 0);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn when_all_waiters_go_away_at_once_while_slots_come_free_the_slots_are_all_there_afterwards() {
        for _ in 0..20 {
            let fair = fair(2, 5_000);
            let running = (fair.acquire("a").await.unwrap(), fair.acquire("a").await.unwrap());
            let mut waiting = Vec::new();
            for i in 0..500 {
                let fair = fair.clone();
                waiting.push(tokio::spawn(async move { fair.acquire(&format!("user-{}", i % 5)).await }));
            }
            let release = tokio::task::spawn_blocking(move || drop(running));
            for task in &waiting {
                task.abort();
            }
            release.await.unwrap();
            for task in waiting {
                let _ = task.await;
            }
            let occupancy = fair.occupancy();
            assert_eq!((occupancy.in_use, occupancy.waiting, occupancy.users_waiting), (0, 0, 0));
        }
    }

    #[tokio::test]
    async fn no_error_says_who_waits() {
        let errors = [
            FairError::Full { waiting: 7 },
            FairError::TimedOut { waited: Duration::from_millis(1_250) },
            FairError::TooMany { wanted: 8, slots: 4 },
        ];
        let texts = errors.map(|error| error.to_string());
        assert!(texts[0].contains("7 jobs") && texts[1].contains("1.2 s") && texts[2].contains("8 slots"), "{texts:?}");
    }
}
