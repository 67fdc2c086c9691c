//! Who may enter a container: `concurrency` requests inside, a bounded queue before the door.
//!
//! ```text
//!  request ─► inside? ── room ──► Permit (dropped: the next one enters, first come first served)
//!                └ full ─► queue? ── room ──► waits, until its deadline
//!                             └ full ─► refused: 429
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The door of one container.
#[derive(Debug)]
pub struct Admission {
    inside: Arc<Semaphore>,
    concurrency: u32,
    waiting: AtomicUsize,
    queue: usize,
}

/// Why a request was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// Inside and before the door all places are taken.
    #[error("the container handles {concurrency} requests at a time and {queue} more are waiting")]
    QueueFull {
        /// Places inside.
        concurrency: u32,
        /// Places before the door.
        queue: usize,
    },
    /// It waited as long as it may.
    #[error("the container was busy for {} ms", .0.as_millis())]
    WaitedTooLong(Duration),
    /// The container is being taken down.
    #[error("the container is being taken down")]
    Closed,
}

/// A place inside; leaving is dropping it.
#[derive(Debug)]
pub struct Permit {
    _place: OwnedSemaphorePermit,
}

/// Counts one request before the door, also when it is given up while it waits.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Admission {
    /// A door with `concurrency` places inside and `queue` before it.
    pub fn new(concurrency: u32, queue: usize) -> Self {
        Self {
            inside: Arc::new(Semaphore::new(concurrency as usize)),
            concurrency,
            waiting: AtomicUsize::new(0),
            queue,
        }
    }

    /// Enters, waiting at most `bound`. Cancel safe: a dropped call has taken no place.
    pub async fn enter(&self, bound: Duration) -> Result<Permit, Refused> {
        use tokio::sync::TryAcquireError;
        match Arc::clone(&self.inside).try_acquire_owned() {
            Ok(place) => return Ok(Permit { _place: place }),
            Err(TryAcquireError::Closed) => return Err(Refused::Closed),
            Err(TryAcquireError::NoPermits) => {}
        }
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        if before >= self.queue {
            return Err(Refused::QueueFull {
                concurrency: self.concurrency,
                queue: self.queue,
            });
        }
        match tokio::time::timeout(bound, Arc::clone(&self.inside).acquire_owned()).await {
            Ok(Ok(place)) => Ok(Permit { _place: place }),
            Ok(Err(_closed)) => Err(Refused::Closed),
            Err(_elapsed) => Err(Refused::WaitedTooLong(bound)),
        }
    }

    /// Requests inside at this moment.
    pub fn in_flight(&self) -> usize {
        (self.concurrency as usize).saturating_sub(self.inside.available_permits())
    }

    /// Waits at most `bound` until nobody is inside, and then lets nobody in any more.
    /// Returns whether it became empty in time; the door is closed either way.
    pub async fn close_when_empty(&self, bound: Duration) -> bool {
        let all = Arc::clone(&self.inside).acquire_many_owned(self.concurrency);
        let empty = matches!(tokio::time::timeout(bound, all).await, Ok(Ok(_)));
        self.inside.close();
        empty
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn the_queue_is_bounded_and_a_wait_too() {
        let door = Admission::new(1, 1);
        let inside = door.enter(SOON).await.unwrap();
        let (second, third) = tokio::join!(door.enter(SOON), door.enter(SOON));
        assert_eq!(second.unwrap_err(), Refused::WaitedTooLong(SOON));
        assert_eq!(
            third.unwrap_err(),
            Refused::QueueFull {
                concurrency: 1,
                queue: 1
            }
        );
        drop(inside);
        assert!(door.enter(SOON).await.is_ok());
    }

    #[tokio::test]
    async fn who_gives_up_waiting_frees_the_place_in_the_queue() {
        let door = Admission::new(1, 1);
        let inside = door.enter(SOON).await.unwrap();
        for _ in 0..5 {
            let mut waiting = Box::pin(door.enter(SOON));
            assert!(futures_util::poll!(&mut waiting).is_pending());
        }
        assert_eq!(door.waiting.load(Ordering::Relaxed), 0);
        drop(inside);
    }

    #[tokio::test(start_paused = true)]
    async fn closing_waits_for_who_is_inside() {
        let door = Arc::new(Admission::new(3, 1));
        let inside = door.enter(SOON).await.unwrap();
        assert_eq!(door.in_flight(), 1);
        let closing = tokio::spawn({
            let door = Arc::clone(&door);
            async move { door.close_when_empty(10 * SOON).await }
        });
        tokio::task::yield_now().await;
        drop(inside);
        assert!(closing.await.unwrap());
        assert_eq!(door.enter(SOON).await.unwrap_err(), Refused::Closed);
    }
}
