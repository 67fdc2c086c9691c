//! Single flight: callers that ask for the same thing share one task and its result. And locks by key.
//!
//! ```text
//!   ensure(alpine) ─┐
//!   ensure(alpine) ─┼─► SingleFlight ──► one task ──► result and progress to all
//!   ensure(alpine) ─┘               (aborted when the last one stops waiting)
//!
//!   pull of alpine:3 ─┐
//!   pull of alpine:3.1┴─► KeyedLocks("sha256:…") ──► one after the other; the second finds everything there
//! ```

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use futures_util::future::{BoxFuture, FutureExt as _, Shared, WeakShared};
use tokio::sync::{OwnedMutexGuard, watch};
use tokio_util::task::AbortOnDropHandle;

type Work<T> = Shared<BoxFuture<'static, T>>;

/// Work that lives as long as somebody waits for it, and its progress.
type InFlight<T, P> = (WeakShared<BoxFuture<'static, T>>, watch::Receiver<P>);

/// Work in progress by key, with the progress `P` it reports.
pub(crate) struct SingleFlight<K, T: Clone, P> {
    in_flight: Mutex<HashMap<K, InFlight<T, P>>>,
}

impl<K: Eq + Hash, T: Clone + Send + Sync + 'static, P: Clone + Default> SingleFlight<K, T, P> {
    pub fn new() -> Self {
        Self {
            in_flight: Mutex::default(),
        }
    }

    /// Joins the work for `key`, or begins it as a task of its own: it goes on while anybody waits, whoever asked first. The
    /// task's own death is told by `died`.
    pub fn join<F>(
        &self,
        key: K,
        work: impl FnOnce(watch::Sender<P>) -> F,
        died: impl FnOnce(tokio::task::JoinError) -> T + Send + 'static,
    ) -> (Work<T>, watch::Receiver<P>)
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut in_flight = lock(&self.in_flight);
        in_flight.retain(|_, (work, _)| work.upgrade().is_some_and(|work| work.peek().is_none()));
        if let Some((work, progress)) = in_flight.get(&key)
            && let Some(work) = work.upgrade()
        {
            return (work, progress.clone());
        }
        let (sender, progress) = watch::channel(P::default());
        let task = AbortOnDropHandle::new(tokio::spawn(work(sender)));
        let work = async move { task.await.unwrap_or_else(died) }
            .boxed()
            .shared();
        if let Some(weak) = work.downgrade() {
            in_flight.insert(key, (weak, progress.clone()));
        }
        (work, progress)
    }
}

/// A lock for every name. Names that nobody holds or waits for take no memory for long.
#[derive(Default)]
pub(crate) struct KeyedLocks {
    locks: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

impl KeyedLocks {
    /// Waits for the lock of `key`. Held until the guard is dropped; waiters come in order.
    pub async fn lock(&self, key: &str) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = lock(&self.locks);
            match locks.get(key).and_then(Weak::upgrade) {
                Some(lock) => lock,
                None => {
                    locks.retain(|_, lock| lock.strong_count() > 0);
                    let lock = Arc::new(tokio::sync::Mutex::new(()));
                    locks.insert(key.to_owned(), Arc::downgrade(&lock));
                    lock
                }
            }
        };
        lock.lock_owned().await
    }
}

/// Each change under these locks is one call, so a panic cannot leave it half made.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn died(error: tokio::task::JoinError) -> u32 {
        panic!("the work died: {error}")
    }

    #[tokio::test]
    async fn all_waiters_get_the_one_result_and_the_next_call_starts_anew() {
        let single_flight: SingleFlight<&str, u32, u32> = SingleFlight::new();
        let runs = Arc::new(AtomicUsize::new(0));
        let begin = || {
            let runs = runs.clone();
            single_flight
                .join(
                    "a",
                    |_| async move { runs.fetch_add(1, Ordering::SeqCst) as u32 },
                    died,
                )
                .0
        };
        let (first, second) = (begin(), begin());
        assert_eq!(tokio::join!(first, second), (0, 0));
        assert_eq!(begin().await, 1);
    }

    #[tokio::test]
    async fn the_work_outlives_its_first_caller_but_not_its_last() {
        let single_flight: SingleFlight<&str, u32, u32> = SingleFlight::new();
        let (gate, mut ended) = (Arc::new(tokio::sync::Notify::new()), watch::channel(()));
        let begin = |sender: watch::Sender<()>, gate: Arc<tokio::sync::Notify>| {
            let work = |_| async move {
                gate.notified().await;
                drop(sender);
                7
            };
            single_flight.join("a", work, died).0
        };
        let first = begin(ended.0.clone(), gate.clone());
        let second = begin(watch::channel(()).0, gate.clone());
        drop(first);
        gate.notify_one();
        assert_eq!(second.await, 7);

        let abandoned = begin(ended.0, Arc::new(tokio::sync::Notify::new()));
        drop(abandoned);
        assert!(
            ended.1.changed().await.is_err(),
            "the abandoned task and its sender are gone"
        );
    }

    #[tokio::test]
    async fn a_keyed_lock_has_one_owner_and_is_removed_when_free() {
        let locks = KeyedLocks::default();
        let held = locks.lock("a").await;
        assert!(locks.lock("a").now_or_never().is_none());
        assert!(locks.lock("b").now_or_never().is_some());
        drop(held);
        assert!(locks.lock("a").now_or_never().is_some());
        assert!(locks.lock("c").now_or_never().is_some());
        assert!(locks.locks.lock().expect("lock").len() <= 2);
    }
}
