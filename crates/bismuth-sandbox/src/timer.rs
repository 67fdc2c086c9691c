//! An asynchronous timer with microsecond resolution, on a timerfd.
//!
//! tokio's own timers tell milliseconds apart. A timerfd(2) is exact to microseconds, and becomes readable like a socket.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::Timespec;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A timer that is used for one wait after the other.
#[derive(Debug)]
pub struct FineTimer {
    timerfd: AsyncFd<OwnedFd>,
}

impl FineTimer {
    /// Registers a timer with the tokio runtime this is called in.
    ///
    /// # Errors
    /// As timerfd_create(2) says, and what the runtime's poller says.
    pub fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timerfd = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        // SAFETY: the descriptor is owned and moved in, so it stays open and the same until the
        // `AsyncFd` is dropped, and `OwnedFd` gives the same number every time.
        let timerfd = unsafe { AsyncFd::register_with_interest(timerfd, Interest::READABLE) };
        Ok(Self {
            timerfd: timerfd.map_err(io::Error::from)?,
        })
    }

    /// Returns after `delay`. Cancel safe: the next wait begins anew.
    ///
    /// # Errors
    /// As timerfd_settime(2) says; when the runtime ends.
    pub async fn sleep(&mut self, delay: Duration) -> io::Result<()> {
        // Zero would disarm it.
        let delay = delay.max(Duration::from_nanos(1));
        let once = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec::try_from(delay).map_err(io::Error::other)?,
        };
        timerfd_settime(&self.timerfd, TimerfdTimerFlags::empty(), &once)?;
        let mut expirations = [0; size_of::<u64>()];
        loop {
            let mut ready = self.timerfd.readable().await?;
            // Setting it took back what was ready before, and then there is nothing to read yet.
            let read = |timerfd: &AsyncFd<OwnedFd>| {
                rustix::io::read(timerfd, &mut expirations[..]).map_err(io::Error::from)
            };
            if let Ok(read) = ready.try_io(read) {
                return read.map(drop);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[tokio::test]
    async fn waits_below_a_millisecond_are_told_apart() {
        let mut timer = FineTimer::new().expect("timer");
        let given_up = tokio::time::timeout(Duration::ZERO, timer.sleep(Duration::from_secs(60)));
        given_up.await.expect_err("it is not over yet");
        let (delay, mut shortest) = (Duration::from_micros(200), Duration::MAX);
        for _ in 0..50 {
            let began = Instant::now();
            timer.sleep(delay).await.expect("sleep");
            assert!(began.elapsed() >= delay);
            shortest = shortest.min(began.elapsed());
        }
        assert!(shortest < Duration::from_millis(1), "{shortest:?}");
    }
}
