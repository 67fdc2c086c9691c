//! Limits the requests of a container: at most `concurrency` in flight, and a bounded queue.
//!
//! ```text
//!  request ─► in flight? ── below the limit ──► Permit (dropped: the next one is admitted, first come first served)
//!                └ at the limit ─► queue? ── not full ──► waits, until its deadline
//!                                     └ full ─► refused: 429
//! ```

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The concurrency limit and the queue of one container.
#[derive(Debug)]
pub struct Admission {
    permits: Arc<Semaphore>,
    concurrency: u32,
    waiting: AtomicUsize,
    queue: usize,
    closing: AtomicBool,
}

/// Why a request was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    #[error("the container handles {concurrency} requests at a time and {queue} more are waiting")]
    QueueFull { concurrency: u32, queue: usize },
    #[error("the container was busy for {} ms", .0.as_millis())]
    WaitedTooLong(Duration),
    #[error("the container is being taken down")]
    Closed,
}

/// Admits one request; dropping it admits the next.
#[derive(Debug)]
pub struct Permit {
    _permit: OwnedSemaphorePermit,
}

/// Counts one waiting request, also when it is cancelled while it waits.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Admission {
    /// Admits `concurrency` requests at a time, and lets `queue` more wait.
    pub fn new(concurrency: u32, queue: usize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(concurrency as usize)),
            concurrency,
            waiting: AtomicUsize::new(0),
            queue,
            closing: AtomicBool::new(false),
        }
    }

    /// Admits one request, waiting at most `bound`. Cancel safe: a dropped call holds no permit.
    pub async fn admit(&self, bound: Duration) -> Result<Permit, Refused> {
        use tokio::sync::TryAcquireError;
        match Arc::clone(&self.permits).try_acquire_owned() {
            Ok(permit) => return Ok(Permit { _permit: permit }),
            Err(TryAcquireError::Closed) => return Err(Refused::Closed),
            // A request that queued now would wait for the end of all in flight, and then be refused.
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
        match tokio::time::timeout(bound, Arc::clone(&self.permits).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(Permit { _permit: permit }),
            Ok(Err(_closed)) => Err(Refused::Closed),
            Err(_elapsed) => Err(Refused::WaitedTooLong(bound)),
        }
    }

    /// Requests in flight at this moment.
    pub fn in_flight(&self) -> usize {
        (self.concurrency as usize).saturating_sub(self.permits.available_permits())
    }

    /// Lets the requests in flight and those in the queue finish, for at most `bound`; refuses later ones.
    /// Returns whether all had ended in time; none is admitted any more either way.
    pub async fn close_when_empty(&self, bound: Duration) -> bool {
        self.closing.store(true, Ordering::Relaxed);
        let mut all = pin!(Arc::clone(&self.permits).acquire_many_owned(self.concurrency));
        let held = tokio::time::timeout(bound, &mut all).await;
        // While the permits are still ours, all of them or those that were released in time: given back first, they
        // would admit the requests in the queue.
        self.permits.close();
        matches!(held, Ok(Ok(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn the_queue_is_bounded_in_length_and_time() {
        let admission = Admission::new(1, 1);
        let inside = admission.admit(SOON).await.unwrap();
        let (second, third) = tokio::join!(admission.admit(SOON), admission.admit(SOON));
        assert_eq!(second.unwrap_err(), Refused::WaitedTooLong(SOON));
        let (concurrency, queue) = (1, 1);
        let full = Refused::QueueFull { concurrency, queue };
        assert_eq!(third.unwrap_err(), full);
        drop(inside);
        assert!(admission.admit(SOON).await.is_ok());
    }

    #[tokio::test]
    async fn a_request_that_is_cancelled_while_it_waits_leaves_the_queue() {
        let admission = Admission::new(1, 1);
        let inside = admission.admit(SOON).await.unwrap();
        for _ in 0..5 {
            let mut waiting = Box::pin(admission.admit(SOON));
            assert!(futures_util::poll!(&mut waiting).is_pending());
        }
        assert_eq!(admission.waiting.load(Ordering::Relaxed), 0);
        drop(inside);
    }

    #[tokio::test(start_paused = true)]
    async fn closing_waits_for_requests_in_flight() {
        let admission = Arc::new(Admission::new(3, 1));
        let inside = admission.admit(SOON).await.unwrap();
        assert_eq!(admission.in_flight(), 1);
        let closing = tokio::spawn({
            let admission = Arc::clone(&admission);
            async move { admission.close_when_empty(10 * SOON).await }
        });
        tokio::task::yield_now().await;
        drop(inside);
        assert!(closing.await.unwrap());
        assert_eq!(admission.admit(SOON).await.unwrap_err(), Refused::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn closing_serves_the_requests_in_the_queue_and_refuses_later_ones_at_once() {
        let admission = Admission::new(1, 9);
        let inside = admission.admit(SOON).await.unwrap();
        let mut queued = Box::pin(admission.admit(10 * SOON));
        assert!(futures_util::poll!(&mut queued).is_pending());
        let mut closing = Box::pin(admission.close_when_empty(10 * SOON));
        assert!(futures_util::poll!(&mut closing).is_pending());
        let mut late = Box::pin(admission.admit(10 * SOON));
        let refused = futures_util::poll!(&mut late).map(|entered| entered.unwrap_err());
        assert_eq!(refused, std::task::Poll::Ready(Refused::Closed));
        drop(inside);
        drop(queued.await.unwrap());
        assert!(closing.await);
    }

    /// Notes whether who queues is woken before the admission is closed.
    struct Woken {
        admission: Arc<Admission>,
        let_in: AtomicBool,
    }

    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            let open = !self.admission.permits.is_closed();
            self.let_in.fetch_or(open, Ordering::Relaxed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_request_is_admitted_between_the_end_of_the_last_one_and_the_closing() {
        for leaves_in_time in [true, false] {
            let admission = Arc::new(Admission::new(2, 9));
            let inside = admission.admit(SOON).await.unwrap();
            let mut closing = Box::pin(admission.close_when_empty(SOON));
            assert!(futures_util::poll!(&mut closing).is_pending());
            // Not by `admit`: a request may have looked just before the closing began.
            let mut late = Box::pin(admission.permits.acquire());
            let woken = Arc::new(Woken {
                admission: Arc::clone(&admission),
                let_in: AtomicBool::new(false),
            });
            let waker = std::task::Waker::from(Arc::clone(&woken));
            let mut context = std::task::Context::from_waker(&waker);
            assert!(Future::poll(late.as_mut(), &mut context).is_pending());
            let kept = Some(inside).filter(|_| !leaves_in_time);
            assert_eq!(closing.await, leaves_in_time);
            assert!(!woken.let_in.load(Ordering::Relaxed));
            assert!(late.await.is_err());
            drop(kept);
        }
    }
}
