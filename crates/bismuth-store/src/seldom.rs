//! Saying in the log what happens again and again, without saying it each time: functions must not decide how much is logged.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::records::now_ms;

/// Short enough to tell when something ends, and long enough for a log that is read by people.
const PERIOD: Duration = Duration::from_secs(5);

/// One thing that is said at most every few seconds, with how often it was left out.
#[derive(Debug)]
pub struct Seldom {
    said_ms: AtomicU64,
    left_out: AtomicU64,
}

impl Seldom {
    pub const fn new() -> Self {
        Self {
            said_ms: AtomicU64::new(0),
            left_out: AtomicU64::new(0),
        }
    }

    /// How often it was left out, if it is to be said now.
    pub fn now(&self) -> Option<u64> {
        self.at(now_ms())
    }

    fn at(&self, now_ms: u64) -> Option<u64> {
        let said_ms = self.said_ms.load(Ordering::Relaxed);
        // Either way, as the clock may be set back.
        let is_due = u128::from(now_ms.abs_diff(said_ms)) >= PERIOD.as_millis();
        // Of several that find it due one says it.
        let says = is_due
            && self
                .said_ms
                .compare_exchange(said_ms, now_ms, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if says {
            return Some(self.left_out.swap(0, Ordering::Relaxed));
        }
        self.left_out.fetch_add(1, Ordering::Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_at_once_and_then_seldom_with_what_was_left_out() {
        let (seldom, noon) = (Seldom::new(), 1_700_000_000_000);
        assert_eq!(seldom.at(noon), Some(0));
        for ms in 0..4_999 {
            assert_eq!(seldom.at(noon + ms), None);
        }
        assert_eq!(seldom.at(noon + 5_000), Some(4_999));
        assert_eq!(seldom.at(noon + 5_001), None);
        // A clock that was set back does not silence it.
        assert_eq!(seldom.at(noon - 60_000), Some(1));
    }
}
