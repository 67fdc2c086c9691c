//! Retry delays: exponential, bounded, fully jittered. Pure.
//!
//! ```text
//!   attempt   0          1          2          3   …
//!   delay   [min, 2min] [min, 4min] [min, 8min] …   never above max
//! ```
//!
//! Each delay is uniform over its whole range ("full jitter", from Amazon's Builders' Library:
//! "Timeouts, retries and backoff with jitter"), so that many who failed together do not come
//! back together.

use std::time::Duration;

use fastrand::Rng;

/// The bounds of a backoff.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// No delay is shorter.
    pub min: Duration,
    /// No delay is longer.
    pub max: Duration,
}

impl Backoff {
    /// A backoff between `min` and `max`; a `max` below `min` counts as `min`.
    #[must_use]
    pub const fn new(min: Duration, max: Duration) -> Self {
        Self { min, max }
    }

    /// The delays of one series of attempts, different in every process and every series.
    #[must_use]
    pub fn delays(self) -> Delays {
        Delays {
            backoff: self,
            attempt: 0,
            random: Rng::new(),
        }
    }

    /// The longest delay that `attempt` (from 0) may get.
    fn ceiling(self, attempt: u32) -> Duration {
        let doubled = 1_u32
            .checked_shl(attempt.saturating_add(1))
            .and_then(|factor| self.min.checked_mul(factor))
            .unwrap_or(Duration::MAX);
        doubled.min(self.max).max(self.min)
    }
}

/// One series of attempts. An endless iterator; how often to try is the caller's business.
#[derive(Clone, Debug)]
pub struct Delays {
    backoff: Backoff,
    attempt: u32,
    random: Rng,
}

impl Delays {
    /// How long to wait before the next attempt.
    pub fn next_delay(&mut self) -> Duration {
        let min = self.backoff.min;
        let span = self.backoff.ceiling(self.attempt).saturating_sub(min);
        self.attempt = self.attempt.saturating_add(1);
        min + span.mul_f64(self.random.f64())
    }

    /// It worked: the next failure starts from the shortest delays again.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }

    /// How many delays were given out since the start or the last reset.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempt
    }
}

impl Iterator for Delays {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.next_delay())
    }
}

/// `wait`, made longer or shorter by up to a quarter: for what many repeat at one interval, and shall not do all at once.
#[must_use]
pub fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(0.75 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_delay_is_within_the_bounds(
            min in 0_u64..10_000_000, more in 0_u64..u64::MAX / 4,
        ) {
            let backoff = Backoff::new(
                Duration::from_nanos(min),
                Duration::from_nanos(min.saturating_add(more)),
            );
            for delay in backoff.delays().take(100) {
                prop_assert!(backoff.min <= delay && delay <= backoff.max);
            }
        }
    }

    #[test]
    fn two_series_differ() {
        let backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
        let of = || backoff.delays().take(8).collect::<Vec<Duration>>();
        assert_ne!(of(), of());
    }

    #[test]
    fn an_interval_is_jittered_by_a_quarter_at_most() {
        let waits = (0..100).map(|_| jittered(Duration::from_millis(400)));
        for wait in waits {
            assert!((300..=500).contains(&wait.as_millis()), "{wait:?}");
        }
    }

    #[test]
    fn delays_grow_until_the_maximum_and_shrink_after_a_reset() {
        let backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(60));
        let mut delays = backoff.delays();
        let first = delays.next_delay();
        assert!(first <= Duration::from_millis(20));
        let longest = delays.by_ref().take(60).max().expect("sixty delays");
        assert!(longest > Duration::from_secs(30), "{longest:?}");
        delays.reset();
        assert!(delays.next_delay() <= Duration::from_millis(20));
    }

    #[test]
    fn a_maximum_below_the_minimum_counts_as_the_minimum() {
        let backoff = Backoff::new(Duration::from_secs(2), Duration::from_secs(1));
        assert!(backoff.delays().take(40).all(|delay| delay == backoff.min));
    }
}
