//! Log throttle: a repeated message is logged every few seconds at most, since functions must not decide how much is logged.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::now_ms;

/// Short enough to tell when something ends, and long enough for a log that is read by people.
const PERIOD: Duration = Duration::from_secs(5);

/// One message that is logged at most every five seconds, with how many were suppressed.
#[derive(Debug)]
pub struct LogThrottle {
    logged_ms: AtomicU64,
    suppressed: AtomicU64,
}

impl Default for LogThrottle {
    fn default() -> Self {
        Self::new()
    }
}

impl LogThrottle {
    /// A throttle that has let nothing through.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            logged_ms: AtomicU64::new(0),
            suppressed: AtomicU64::new(0),
        }
    }

    /// How many messages were suppressed since the last one, if one is to be logged now.
    pub fn admit(&self) -> Option<u64> {
        self.at(now_ms())
    }

    fn at(&self, now_ms: u64) -> Option<u64> {
        let logged_ms = self.logged_ms.load(Ordering::Relaxed);
        // Either way, as the clock may be set back.
        let is_due = u128::from(now_ms.abs_diff(logged_ms)) >= PERIOD.as_millis();
        // Of several that find it due one logs.
        let logs = is_due
            && self
                .logged_ms
                .compare_exchange(logged_ms, now_ms, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if logs {
            return Some(self.suppressed.swap(0, Ordering::Relaxed));
        }
        self.suppressed.fetch_add(1, Ordering::Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_logged_at_once_and_then_one_every_five_seconds_with_the_count_of_the_suppressed()
     {
        let (throttle, noon) = (LogThrottle::new(), 1_700_000_000_000);
        assert_eq!(throttle.at(noon), Some(0));
        for ms in 0..4_999 {
            assert_eq!(throttle.at(noon + ms), None);
        }
        assert_eq!(throttle.at(noon + 5_000), Some(4_999));
        assert_eq!(throttle.at(noon + 5_001), None);
        // A clock that was set back does not suppress it.
        assert_eq!(throttle.at(noon - 60_000), Some(1));
    }
}
