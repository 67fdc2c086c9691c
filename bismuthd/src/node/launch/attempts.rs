//! Paces the connection attempts to a program that is starting: close together at first, then further apart.

use std::io;
use std::time::{Duration, Instant};

use bismuth_sandbox::timer::FineTimer;

/// A start that takes long is seen this part of its time late at most, so that a thousand programs
/// that never answer cost less the longer they do not.
const DELAY_FRACTION: u32 = 100;

/// Attempts that began with the making of this.
#[derive(Debug)]
pub(super) struct Attempts {
    began: Instant,
    timer: FineTimer,
    delay: Duration,
    longest: Duration,
}

impl Attempts {
    /// `first` is the first wait, which grows to `longest`, and further once a hundred times that has passed.
    ///
    /// # Errors
    /// When there are no descriptors left for the timer.
    pub(super) fn begin(first: Duration, longest: Duration) -> io::Result<Self> {
        Ok(Self {
            began: Instant::now(),
            timer: FineTimer::new()?,
            delay: first,
            longest,
        })
    }

    /// How long it has been tried.
    pub(super) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Returns when it is time for the next attempt.
    ///
    /// # Errors
    /// When the runtime ends.
    pub(super) async fn next(&mut self) -> io::Result<()> {
        self.timer.sleep(self.delay).await?;
        let longest = self.longest.max(self.elapsed() / DELAY_FRACTION);
        self.delay = (self.delay * 3 / 2).min(longest);
        Ok(())
    }
}
