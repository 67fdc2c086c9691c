//! How long to wait before the next attempt: exponential, bounded, fully jittered. Pure.
//!
//! ```text
//!   attempt   0          1          2          3   …
//!   delay   [min, 2min] [min, 4min] [min, 8min] …   never above max
//! ```
//!
//! Each delay is uniform over its whole range ("full jitter", from Amazon's Builders' Library:
//! "Timeouts, retries and backoff with jitter"), so that many who failed together do not come
//! back together.

use std::{
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};

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
        self.delays_seeded(RandomState::new().hash_one(0_u8))
    }

    /// The delays of one series of attempts; equal seeds give equal delays.
    #[must_use]
    pub fn delays_seeded(self, seed: u64) -> Delays {
        Delays {
            backoff: self,
            attempt: 0,
            random: seed,
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
    random: u64,
}

impl Delays {
    /// How long to wait before the next attempt.
    pub fn next_delay(&mut self) -> Duration {
        let min = self.backoff.min;
        let span = self.backoff.ceiling(self.attempt).saturating_sub(min);
        self.attempt = self.attempt.saturating_add(1);
        min + span.mul_f64(self.next_fraction())
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

    /// Uniform in [0, 1). SplitMix64 (Steele, Lea, Flood 2014): enough for jitter, four lines.
    fn next_fraction(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // The upper 53 bits are what an f64 holds exactly.
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

impl Iterator for Delays {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.next_delay())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_delay_is_within_the_bounds(
            min in 0_u64..10_000_000, more in 0_u64..u64::MAX / 4, seed: u64,
        ) {
            let backoff = Backoff::new(
                Duration::from_nanos(min),
                Duration::from_nanos(min.saturating_add(more)),
            );
            for delay in backoff.delays_seeded(seed).take(100) {
                prop_assert!(backoff.min <= delay && delay <= backoff.max);
            }
        }
    }

    #[test]
    fn equal_seeds_give_equal_delays_and_others_differ() {
        let backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
        let of = |seed| {
            backoff
                .delays_seeded(seed)
                .take(8)
                .collect::<Vec<Duration>>()
        };
        assert_eq!(of(7), of(7));
        assert_ne!(of(7), of(8));
    }

    #[test]
    fn delays_grow_until_the_maximum_and_shrink_after_a_reset() {
        let backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(60));
        let mut delays = backoff.delays_seeded(1);
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
        assert!(
            backoff
                .delays_seeded(3)
                .take(40)
                .all(|delay| delay == backoff.min)
        );
    }
}
