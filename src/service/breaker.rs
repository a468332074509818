//! A circuit breaker: what keeps failing is left alone for a while, and then asked once.
//!
//! Closed, every call goes through and its outcome is remembered; when too many of the last ones failed, the breaker opens and
//! calls are refused at once. After a pause one call goes through as a probe: it closes the breaker, or opens it again for
//! longer. (Nygard, Release It!, 2007.)

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// When a breaker opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerOptions {
    /// How many of the last outcomes count.
    pub window: usize,
    /// How many of them must be failures for it to open.
    pub failures: usize,
    /// How long it stays open the first time; doubled whenever a probe fails.
    pub pause: Duration,
    /// The longest that it stays open.
    pub longest_pause: Duration,
}

/// What a breaker does with the next call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// It goes through.
    Closed,
    /// A probe is under way or may begin.
    HalfOpen,
    /// It is refused.
    Open,
}

/// The call is refused: what it calls keeps failing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// When a probe may be worth its while.
    pub retry_in: Duration,
}

/// A breaker. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Breaker {
    options: BreakerOptions,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    /// The last outcomes, the newest last; true is a failure.
    outcomes: VecDeque<bool>,
    open: Option<Opened>,
    /// How often it has opened.
    opened: u64,
    /// Counts up when the breaker opens or closes: outcomes of calls that began before say nothing any more.
    era: u64,
}

#[derive(Debug)]
struct Opened {
    until: Instant,
    pause: Duration,
    /// Whether a probe is under way.
    probing: bool,
}

/// A call that went through. Dropped without an outcome, it says nothing: somebody broke it off.
#[derive(Debug)]
pub struct Call {
    breaker: Breaker,
    era: u64,
    probe: bool,
    settled: bool,
}

impl Breaker {
    /// A closed breaker.
    pub fn new(options: BreakerOptions) -> Self {
        let inner = Inner { outcomes: VecDeque::new(), open: None, opened: 0, era: 0 };
        Self { options, inner: Arc::new(Mutex::new(inner)) }
    }

    /// Asks whether a call may be made.
    ///
    /// # Errors
    /// [`Refused`] while the breaker is open, or half open with its probe under way.
    pub fn begin(&self) -> Result<Call, Refused> {
        let mut inner = self.inner();
        let era = inner.era;
        let probe = match &mut inner.open {
            None => false,
            Some(open) => {
                let now = Instant::now();
                if now < open.until {
                    return Err(Refused { retry_in: open.until - now });
                }
                if open.probing {
                    return Err(Refused { retry_in: open.pause });
                }
                open.probing = true;
                true
            }
        };
        Ok(Call { breaker: self.clone(), era, probe, settled: false })
    }

    /// What the next call would meet.
    pub fn state(&self) -> BreakerState {
        match &self.inner().open {
            None => BreakerState::Closed,
            Some(open) if Instant::now() < open.until => BreakerState::Open,
            Some(_) => BreakerState::HalfOpen,
        }
    }

    /// How often it has opened, failed probes included.
    pub fn opened(&self) -> u64 {
        self.inner().opened
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settle(&self, era: u64, probe: bool, failed: bool) {
        let mut inner = self.inner();
        if era != inner.era {
            return;
        }
        if probe {
            let pause = inner.open.as_ref().map_or(self.options.pause, |open| open.pause * 2);
            if failed {
                self.open(&mut inner, pause)
            } else {
                Self::close(&mut inner)
            }
            return;
        }
        inner.outcomes.push_back(failed);
        while inner.outcomes.len() > self.options.window {
            inner.outcomes.pop_front();
        }
        if inner.outcomes.iter().filter(|failed| **failed).count() >= self.options.failures.max(1) {
            self.open(&mut inner, self.options.pause);
        }
    }

    fn open(&self, inner: &mut Inner, pause: Duration) {
        let pause = pause.min(self.options.longest_pause);
        inner.open = Some(Opened { until: Instant::now() + pause, pause, probing: false });
        inner.outcomes.clear();
        inner.opened += 1;
        inner.era += 1;
    }

    fn close(inner: &mut Inner) {
        inner.open = None;
        inner.outcomes.clear();
        inner.era += 1;
    }
}

impl Call {
    /// It did what it should.
    pub fn succeeded(mut self) {
        self.settled = true;
        self.breaker.settle(self.era, self.probe, false);
    }

    /// It failed, for a reason that others would meet, too.
    pub fn failed(mut self) {
        self.settled = true;
        self.breaker.settle(self.era, self.probe, true);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.settled || !self.probe {
            return;
        }
        // The next call may probe.
        let mut inner = self.breaker.inner();
        if inner.era == self.era
            && let Some(open) = &mut inner.open
        {
            open.probing = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: BreakerOptions = BreakerOptions {
        window: 10,
        failures: 5,
        pause: Duration::from_secs(10),
        longest_pause: Duration::from_secs(30),
    };

    fn fail(breaker: &Breaker, times: usize) {
        for _ in 0..times {
            breaker.begin().unwrap().failed();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_when_half_of_the_last_ten_failed_and_not_before() {
        let breaker = Breaker::new(OPTIONS);
        let mut failures = 0;
        while breaker.state() == BreakerState::Closed {
            breaker.begin().unwrap().succeeded();
            breaker.begin().unwrap().failed();
            failures += 1;
        }
        assert_eq!(failures, 5);
        assert_eq!(breaker.begin().unwrap_err(), Refused { retry_in: Duration::from_secs(10) });
        // One in three never opens it.
        let breaker = Breaker::new(OPTIONS);
        for _ in 0..100 {
            breaker.begin().unwrap().succeeded();
            breaker.begin().unwrap().succeeded();
            breaker.begin().unwrap().failed();
        }
        assert_eq!((breaker.state(), breaker.opened()), (BreakerState::Closed, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn one_probe_closes_it_and_a_failed_probe_doubles_the_pause_up_to_the_longest() {
        let breaker = Breaker::new(OPTIONS);
        fail(&breaker, 5);
        for pause in [10, 20, 30, 30] {
            assert_eq!(breaker.begin().unwrap_err().retry_in, Duration::from_secs(pause));
            tokio::time::advance(Duration::from_secs(pause)).await;
            assert_eq!(breaker.state(), BreakerState::HalfOpen);
            let probe = breaker.begin().unwrap();
            assert!(breaker.begin().is_err(), "only one probe at a time");
            probe.failed();
        }
        tokio::time::advance(Duration::from_secs(30)).await;
        breaker.begin().unwrap().succeeded();
        assert_eq!(breaker.state(), BreakerState::Closed);
        // From the start again: four failures are not enough.
        fail(&breaker, 4);
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_is_broken_off_leaves_room_for_the_next_and_old_calls_say_nothing() {
        let breaker = Breaker::new(OPTIONS);
        let old: Vec<Call> = (0..10).map(|_| breaker.begin().unwrap()).collect();
        fail(&breaker, 5);
        tokio::time::advance(Duration::from_secs(10)).await;
        drop(breaker.begin().unwrap());
        let probe = breaker.begin().unwrap();
        // Calls from before it opened come back now.
        for (i, call) in old.into_iter().enumerate() {
            if i % 2 == 0 { call.failed() } else { call.succeeded() }
        }
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        probe.succeeded();
        assert_eq!(breaker.state(), BreakerState::Closed);
    }
}
