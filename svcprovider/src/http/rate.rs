//! Rate limit per group: a token bucket that holds one second's worth.
//!
//! Kept as one number, the time at which the bucket will be full again (the "generic cell rate algorithm"), so that taking a
//! token is one atomic exchange: containers of one group may be served by different threads.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use bismuth_model::ServiceGroup;

use super::MemoryBudget;
use super::shared_rate::SharedRate;

const SECOND: u64 = 1_000_000_000;

/// The bucket of one group.
#[derive(Debug)]
pub struct Bucket {
    started: Instant,
    /// Nanoseconds since `started`.
    full_at: AtomicU64,
    /// What the group may have in memory, too.
    memory: MemoryBudget,
    /// What it has of the tokens that all nodes share, where they do.
    shared: SharedRate,
}

impl Default for Bucket {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            full_at: AtomicU64::new(0),
            memory: MemoryBudget::of_a_group(),
            shared: SharedRate::default(),
        }
    }
}

impl Bucket {
    /// The group's tokens where nodes share them.
    pub(super) fn shared(&self) -> &SharedRate {
        &self.shared
    }

    /// What the bytes of the group's requests and answers are taken out of.
    pub(super) fn memory(&self) -> &MemoryBudget {
        &self.memory
    }

    /// Takes a token out of a bucket that is filled with `rate` per second.
    ///
    /// # Errors
    /// When it is empty: how long until the next token.
    pub fn take(&self, rate: u64) -> Result<(), Duration> {
        let now = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.take_at(rate, now)
    }

    fn take_at(&self, rate: u64, now: u64) -> Result<(), Duration> {
        // No rate is as little as there can be: a token in a thousand years.
        let token = SECOND.checked_div(rate).map_or(u64::MAX / 2, |t| t.max(1));
        let burst = SECOND.max(token);
        let taken = |full_at: u64| {
            let after = full_at.max(now).saturating_add(token);
            (rate > 0 && after - now <= burst).then_some(after)
        };
        let updated = self
            .full_at
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken);
        match updated {
            Ok(_) => Ok(()),
            Err(full_at) => {
                let after = full_at.max(now).saturating_add(token);
                Err(Duration::from_nanos(after - now - burst.min(after - now)))
            }
        }
    }
}

/// The buckets of the groups that have a container here.
#[derive(Debug, Default)]
pub struct Buckets(Mutex<HashMap<ServiceGroup, Weak<Bucket>>>);

impl Buckets {
    /// The bucket of a group: one for all its containers.
    pub fn of(&self, group: &ServiceGroup) -> Arc<Bucket> {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = buckets.get(group).and_then(Weak::upgrade) {
            return bucket;
        }
        // A new group is rare enough to look for those that are gone.
        buckets.retain(|_, bucket| bucket.strong_count() > 0);
        let bucket = Arc::new(Bucket::default());
        buckets.insert(group.clone(), Arc::downgrade(&bucket));
        bucket
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_s_worth_at_once_and_then_one_by_one() {
        let bucket = Bucket::default();
        let start = 5 * SECOND;
        for _ in 0..10 {
            assert_eq!(bucket.take_at(10, start), Ok(()));
        }
        assert_eq!(bucket.take_at(10, start), Err(Duration::from_millis(100)));
        assert_eq!(bucket.take_at(10, start + SECOND / 10), Ok(()));
        assert!(bucket.take_at(10, start + SECOND / 10).is_err());
        let much_later = start + 100 * SECOND;
        let allowed = (0..100).filter(|_| bucket.take_at(10, much_later).is_ok());
        assert_eq!(allowed.count(), 10);
    }

    #[test]
    fn one_a_second_and_none_at_all() {
        let bucket = Bucket::default();
        assert_eq!(bucket.take_at(1, 0), Ok(()));
        assert_eq!(
            bucket.take_at(1, SECOND / 2),
            Err(Duration::from_millis(500))
        );
        assert_eq!(bucket.take_at(1, SECOND), Ok(()));
        assert!(Bucket::default().take_at(0, SECOND).is_err());
        assert!(Bucket::default().take_at(u64::MAX, SECOND).is_ok());
    }

    #[test]
    fn a_group_has_one_bucket_as_long_as_it_has_a_container() {
        let (buckets, group) = (Buckets::default(), "a".parse().unwrap());
        let one = buckets.of(&group);
        assert!(Arc::ptr_eq(&one, &buckets.of(&group)));
        drop(one);
        buckets.of(&"b".parse().unwrap());
        assert_eq!(buckets.0.lock().unwrap().len(), 1);
    }
}
