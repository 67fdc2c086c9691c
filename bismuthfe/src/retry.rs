//! How much trying again is allowed: a bounded share of the requests, so that retries cannot double the load of a
//! system that fails because of its load.

use std::cell::Cell;
use std::time::Duration;

use bismuth_daemon::{Backoff, Delays};
use tokio::time::Instant;

/// In thousandths of a retry. One retry per five requests (DESIGN section 8: a budget of 20 %).
const EARNED_PER_REQUEST: u64 = 200;
/// In thousandths of a retry: ten per second, so that a quiet frontend can retry too.
const EARNED_PER_MS: u64 = 10;
/// What one retry costs, in its own thousandths.
const RETRY: u64 = 1000;
/// No more than a hundred retries are saved up: the longest burst of them.
const MOST: u64 = 100 * RETRY;

/// One worker's budget: a bucket of retries.
#[derive(Debug)]
pub struct RetryBudget {
    saved: Cell<u64>,
    at: Cell<Instant>,
}

impl Default for RetryBudget {
    /// Full.
    fn default() -> Self {
        RetryBudget {
            saved: Cell::new(MOST),
            at: Cell::new(Instant::now()),
        }
    }
}

impl RetryBudget {
    /// A request came in.
    pub fn earn(&self) {
        self.saved
            .set((self.saved.get() + EARNED_PER_REQUEST).min(MOST));
    }

    /// Takes one retry, if there is one.
    pub fn spend(&self) -> bool {
        let elapsed = self.at.get().elapsed();
        // More than a bucket's worth of time makes no difference.
        let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(MOST).min(MOST);
        self.at
            .set(self.at.get() + Duration::from_millis(elapsed_ms));
        let saved = (self.saved.get() + elapsed_ms * EARNED_PER_MS).min(MOST);
        let granted = saved >= RETRY;
        self.saved.set(if granted { saved - RETRY } else { saved });
        granted
    }
}

/// Between asking a node again for a slot it does not know yet. A node learns of a slot within a few ms; if it does not, something
/// is wrong and hurry does not help.
const NEW_SLOT_BACKOFF: Backoff =
    Backoff::new(Duration::from_millis(10), Duration::from_millis(400));

/// How long one request waits for its slots to be known: bounded by its patience.
#[derive(Debug)]
pub struct NewSlotWait {
    delays: Delays,
    until: Instant,
}

impl NewSlotWait {
    /// Begins now.
    pub fn new(patience: Duration) -> Self {
        NewSlotWait {
            delays: NEW_SLOT_BACKOFF.delays(),
            until: Instant::now() + patience,
        }
    }

    /// The next delay, or `None` when the patience is over.
    pub fn next_delay(&mut self) -> Option<Duration> {
        let delay = self.delays.next_delay();
        (Instant::now() + delay < self.until).then_some(delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn retries_are_a_fifth_of_the_requests_and_a_few_more() {
        let budget = RetryBudget::default();
        while budget.spend() {}
        for _ in 0..50 {
            budget.earn();
        }
        let granted = (0..50).filter(|_| budget.spend()).count();
        assert_eq!(granted, 10);
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!((0..50).filter(|_| budget.spend()).count(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_a_new_slot_is_bounded() {
        let start = Instant::now();
        let mut wait = NewSlotWait::new(Duration::from_secs(2));
        let mut tries = 0;
        while let Some(delay) = wait.next_delay() {
            tokio::time::advance(delay).await;
            tries += 1;
        }
        assert!(start.elapsed() <= Duration::from_secs(2));
        assert!((4..100).contains(&tries), "{tries}");
    }
}
