//! Waits that do not meet: many programs that wait for the same thing must not all come back at once.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// `wait`, made longer or shorter by up to a quarter.
pub(crate) fn jittered(wait: Duration) -> Duration {
    // Each `RandomState` has other keys; that is all the randomness a wait needs.
    let random = RandomState::new().hash_one(0_u8) % 1024;
    wait.mul_f64(0.75 + random as f64 / 2048.0)
}

/// The wait before attempt `attempt` (from 1): doubles from `min` up to `max`, jittered.
pub(crate) fn backoff(attempt: u32, min: Duration, max: Duration) -> Duration {
    let doubled = min.saturating_mul(1 << attempt.saturating_sub(1).min(20));
    jittered(doubled.min(max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_stays_within_a_quarter_and_doubles_up_to_its_bound() {
        let (min, max) = (Duration::from_millis(1), Duration::from_millis(8));
        for (attempt, expected) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 8), (u32::MAX, 8)] {
            let wait = backoff(attempt, min, max);
            let expected = Duration::from_millis(expected);
            assert!(
                wait >= expected.mul_f64(0.75) && wait <= expected.mul_f64(1.25),
                "{attempt}: {wait:?}"
            );
        }
    }
}
