//! The connection limit of a listener, and which connection ends when a new one needs its permit.
//!
//! ```text
//!  acquire ─► a permit is left? ── yes ─► permit
//!                  │ no
//!                  └─► the oldest connection is told to finish, and every 5 ms the next one, until a permit comes back
//! ```
//!
//! An idle connection ends at once, a busy one after its answer. So thousands of connections that say nothing delay those
//! who want an answer by a moment, and do not keep them out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;

/// An idle connection is gone within a turn of the loop; one that was signalled and is not gone takes some time.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(5);

/// Bounds the connections of one listener.
#[derive(Debug)]
pub(super) struct ConnectionLimiter {
    permits: Arc<Semaphore>,
    max: usize,
    /// In the order in which they came; those that ended are among them for a while.
    holders: VecDeque<oneshot::Sender<()>>,
}

/// Lets one connection be served, until it is dropped.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    permit: OwnedSemaphorePermit,
    make_room: oneshot::Receiver<()>,
}

impl ConnectionLimiter {
    /// At most `max` permits at a time.
    pub(super) fn new(max: usize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(max)),
            max,
            holders: VecDeque::new(),
        }
    }

    /// Waits for a permit, and has others make room for it. Cancel safe.
    pub(super) async fn acquire(&mut self) -> ConnectionPermit {
        let permit = match Arc::clone(&self.permits).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_none_left) => self.make_room().await,
        };
        self.issue(permit)
    }

    /// Waits for a permit until one comes back by itself. Cancel safe.
    pub(super) async fn wait(&mut self) -> ConnectionPermit {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        self.issue(permit.expect("nobody closes the semaphore"))
    }

    fn issue(&mut self, permit: OwnedSemaphorePermit) -> ConnectionPermit {
        let (holder, make_room) = oneshot::channel();
        if self.holders.len() >= 2 * self.max {
            self.holders.retain(|holder| !holder.is_closed());
        }
        self.holders.push_back(holder);
        ConnectionPermit { permit, make_room }
    }

    async fn make_room(&mut self) -> OwnedSemaphorePermit {
        let mut acquire = std::pin::pin!(Arc::clone(&self.permits).acquire_owned());
        loop {
            self.signal_oldest();
            if let Ok(Ok(permit)) = timeout(SIGNAL_INTERVAL, &mut acquire).await {
                return permit;
            }
        }
    }

    fn signal_oldest(&mut self) {
        // One that has ended already cannot receive it.
        while let Some(holder) = self.holders.pop_front() {
            if holder.send(()).is_ok() {
                return;
            }
        }
    }
}

impl ConnectionPermit {
    /// What is to be held, and what says that the permit is wanted for another connection.
    pub(super) fn into_parts(self) -> (OwnedSemaphorePermit, oneshot::Receiver<()>) {
        (self.permit, self.make_room)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn when_no_permit_is_left_the_oldest_holder_is_signalled_and_then_the_next() {
        let mut limiter = ConnectionLimiter::new(2);
        let (first, told_first) = limiter.acquire().await.into_parts();
        let (second, told_second) = limiter.acquire().await.into_parts();
        let told = async {
            told_first.await.expect("it is told");
            // It is busy and stays.
            told_second.await.expect("it is told");
            drop(second);
            first
        };
        let (_newcomer, _first) = tokio::join!(limiter.acquire(), told);
    }

    #[tokio::test(start_paused = true)]
    async fn no_holder_is_signalled_while_permits_are_left_and_those_that_ended_are_dropped() {
        let mut limiter = ConnectionLimiter::new(2);
        let (_stays, told) = limiter.acquire().await.into_parts();
        for _ in 0..100 {
            drop(limiter.acquire().await);
        }
        assert!(limiter.holders.len() <= 2 * limiter.max + 1);
        assert!(timeout(Duration::from_secs(1), told).await.is_err());
    }
}
