//! Retry budget: retries are a bounded share of the requests.
//!
//! Without it they would double the load of a system that fails because of its load.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bismuth_base::{Backoff, Delays};
use tokio::time::Instant;

/// What one retry costs, in requests: one in five is 20 %.
const RETRY: u64 = 5;
/// No more than ten retries are saved up, in requests: the longest burst of them. Enough for what a node leaves unanswered that
/// ends at a quiet moment, and nothing to a node that is overloaded.
const MOST: u64 = 10 * RETRY;

/// A frontend's budget: a bucket of retries that only requests fill, so that of any `n` requests at most `n / 5 + 10` are tried again.
///
/// - All workers share it: with one each, what may be saved would grow with the cores. While nothing fails it is full, and a request
///   costs no more than reading it.
/// - Time alone fills nothing. A floor per second, as tower's `TpsBudget` and Finagle have, lets a frontend with little traffic try every
///   request again, which is no fifth; and `TpsBudget` saves a fifth of what came within its window, not ten. A quiet frontend does
///   without: a node that cannot be reached is not picked for a while after the first retry.
#[derive(Debug)]
pub struct RetryBudget {
    saved: AtomicU64,
}

impl Default for RetryBudget {
    /// Full.
    fn default() -> Self {
        RetryBudget {
            saved: AtomicU64::new(MOST),
        }
    }
}

impl RetryBudget {
    /// A request came in.
    pub fn earn(&self) {
        let one_more = |saved: u64| (saved < MOST).then_some(saved + 1);
        // Refused when the bucket is full.
        let _ = self
            .saved
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
    }

    /// Takes one retry, if there is one.
    pub fn spend(&self) -> bool {
        let one_less = |saved: u64| saved.checked_sub(RETRY);
        self.saved
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
            .is_ok()
    }
}

/// Between asking a node again for a slot it does not know yet. A node learns of a slot within a few ms; if it does not, something
/// is wrong and hurry does not help.
const NEW_SLOT_BACKOFF: Backoff =
    Backoff::new(Duration::from_millis(10), Duration::from_millis(400));

/// How long one request waits for its slots to be known: bounded by `timeout`.
#[derive(Debug)]
pub struct NewSlotWait {
    delays: Delays,
    until: Instant,
}

impl NewSlotWait {
    pub fn new(timeout: Duration) -> Self {
        NewSlotWait {
            delays: NEW_SLOT_BACKOFF.delays(),
            until: Instant::now() + timeout,
        }
    }

    /// The next delay, or `None` when the timeout has passed.
    pub fn next_delay(&mut self) -> Option<Duration> {
        let delay = self.delays.next_delay();
        (Instant::now() + delay < self.until).then_some(delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn after_an_hour_without_requests_ten_retries_are_saved() {
        let budget = RetryBudget::default();
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!((0..200).filter(|_| budget.spend()).count(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn when_every_request_fails_a_fifth_is_retried_at_any_rate_of_traffic() {
        for between in [Duration::from_micros(100), Duration::from_secs(1)] {
            let budget = RetryBudget::default();
            while budget.spend() {}
            let mut retried = 0;
            for _ in 0..1000 {
                tokio::time::advance(between).await;
                budget.earn();
                retried += u32::from(budget.spend());
            }
            assert_eq!(retried, 200, "with {between:?} between requests");
        }
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
