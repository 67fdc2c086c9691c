//! Who may enter a container: `concurrency` requests inside, a bounded queue before the door.
//!
//! ```text
//!  request ─► inside? ── room ──► Permit (dropped: the next one enters, first come first served)
//!                └ full ─► queue? ── room ──► waits, until its deadline
//!                             └ full ─► refused: 429
//! ```

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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
    closing: AtomicBool,
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
            closing: AtomicBool::new(false),
        }
    }

    /// Enters, waiting at most `bound`. Cancel safe: a dropped call has taken no place.
    pub async fn enter(&self, bound: Duration) -> Result<Permit, Refused> {
        use tokio::sync::TryAcquireError;
        match Arc::clone(&self.inside).try_acquire_owned() {
            Ok(place) => return Ok(Permit { _place: place }),
            Err(TryAcquireError::Closed) => return Err(Refused::Closed),
            // Whoever queued now would wait for the end of all who are inside, and then be refused.
            Err(TryAcquireError::NoPermits) if self.closing.load(Ordering::Relaxed) => {
                return Err(Refused::Closed);
            }
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

    /// Lets those finish who are inside, and those who queue already, for at most `bound`; refuses who comes
    /// later. Returns whether all had left in time; nobody enters any more either way.
    pub async fn close_when_empty(&self, bound: Duration) -> bool {
        self.closing.store(true, Ordering::Relaxed);
        let mut all = pin!(Arc::clone(&self.inside).acquire_many_owned(self.concurrency));
        let held = tokio::time::timeout(bound, &mut all).await;
        // While the places are still ours, all of them or those that were left in time: given back first, they
        // would let in who queues.
        self.inside.close();
        matches!(held, Ok(Ok(_)))
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

    #[tokio::test(start_paused = true)]
    async fn who_queued_before_the_closing_is_served_and_who_comes_later_is_refused_at_once() {
        let door = Admission::new(1, 9);
        let inside = door.enter(SOON).await.unwrap();
        let mut queued = Box::pin(door.enter(10 * SOON));
        assert!(futures_util::poll!(&mut queued).is_pending());
        let mut closing = Box::pin(door.close_when_empty(10 * SOON));
        assert!(futures_util::poll!(&mut closing).is_pending());
        let mut late = Box::pin(door.enter(10 * SOON));
        let refused = futures_util::poll!(&mut late).map(|entered| entered.unwrap_err());
        assert_eq!(refused, std::task::Poll::Ready(Refused::Closed));
        drop(inside);
        drop(queued.await.unwrap());
        assert!(closing.await);
    }

    /// Notes whether who queues is woken while the door is open.
    struct Woken {
        door: Arc<Admission>,
        let_in: AtomicBool,
    }

    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            let open = !self.door.inside.is_closed();
            self.let_in.fetch_or(open, Ordering::Relaxed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_enters_between_the_last_ones_leaving_and_the_closing() {
        for leaves_in_time in [true, false] {
            let door = Arc::new(Admission::new(2, 9));
            let inside = door.enter(SOON).await.unwrap();
            let mut closing = Box::pin(door.close_when_empty(SOON));
            assert!(futures_util::poll!(&mut closing).is_pending());
            // Not by `enter`: a request may have looked just before the closing began.
            let mut late = Box::pin(door.inside.acquire());
            let woken = Arc::new(Woken {
                door: Arc::clone(&door),
                let_in: AtomicBool::new(false),
            });
            let waker = std::task::Waker::from(Arc::clone(&woken));
            let mut context = std::task::Context::from_waker(&waker);
            assert!(Future::poll(late.as_mut(), &mut context).is_pending());
            let kept = if leaves_in_time {
                drop(inside);
                None
            } else {
                Some(inside)
            };
            assert_eq!(closing.await, leaves_in_time);
            assert!(!woken.let_in.load(Ordering::Relaxed));
            assert!(late.await.is_err());
            drop(kept);
        }
    }
}
