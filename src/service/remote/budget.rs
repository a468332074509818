//! A budget of retries: when much fails, most of it is not tried again, so that retries do not multiply an outage.
//!
//! Every first attempt earns a fraction of a retry, and every retry costs a whole one (Finagle's RetryBudget, gRPC's
//! retry throttling). A few failures are all retried; in an outage, retries are limited to that fraction of the first
//! attempts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A retry, in the unit that the budget is kept in.
const ONE: u32 = 1_000;

/// How many retries there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BudgetOptions {
    /// What a first attempt earns, in thousandths of a retry.
    pub earned_millis: u32,
    /// The most retries that are saved up. A budget begins with as many.
    pub most: u32,
}

impl Default for BudgetOptions {
    /// One retry for ten first attempts, and ten saved up.
    fn default() -> Self {
        Self { earned_millis: 100, most: 10 }
    }
}

/// A budget of retries. Clones are the same one.
#[derive(Debug, Clone)]
pub struct RetryBudget {
    options: BudgetOptions,
    /// What is left, in thousandths of a retry.
    left: Arc<AtomicU32>,
}

impl RetryBudget {
    /// A full budget.
    pub fn new(options: BudgetOptions) -> Self {
        Self { options, left: Arc::new(AtomicU32::new(options.most.saturating_mul(ONE))) }
    }

    /// A first attempt is made.
    pub fn first(&self) {
        let most = self.options.most.saturating_mul(ONE);
        let earned = self.options.earned_millis;
        let more = |left: u32| Some(left.saturating_add(earned).min(most));
        // It cannot fail: there is always a next value.
        let _ = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    /// Asks for a retry; whether there may be one.
    pub fn retry(&self) -> bool {
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(ONE)).is_ok()
    }

    /// Whole retries that are left.
    pub fn left(&self) -> u32 {
        self.left.load(Ordering::Relaxed) / ONE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_budget_allows_its_retries_and_then_one_for_every_ten_first_attempts() {
        let budget = RetryBudget::new(BudgetOptions { earned_millis: 100, most: 3 });
        assert_eq!([budget.retry(), budget.retry(), budget.retry(), budget.retry()], [true, true, true, false]);
        let mut retried = 0;
        for _ in 0..100 {
            budget.clone().first();
            retried += u32::from(budget.retry());
        }
        assert_eq!((retried, budget.left()), (10, 0));
    }

    #[test]
    fn no_more_is_saved_up_than_the_most_and_numbers_out_of_range_do_no_harm() {
        let budget = RetryBudget::new(BudgetOptions { earned_millis: 200, most: 2 });
        (0..1000).for_each(|_| budget.first());
        assert_eq!(budget.left(), 2);
        let none = RetryBudget::new(BudgetOptions { earned_millis: u32::MAX, most: 0 });
        none.first();
        assert!(!none.retry());
        let endless = RetryBudget::new(BudgetOptions { earned_millis: u32::MAX, most: u32::MAX });
        endless.first();
        assert!(endless.retry());
    }
}
