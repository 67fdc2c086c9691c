//! The memory budget: how much of requests and answers is in memory at a time.
//!
//! ```text
//!   body or answer above 16 KiB ─► budget of the group (32 MiB) ─► budget of the process (256 MiB) ─► given back with its last byte
//!                                     └ none for a second: 429         └ none for a second: 503
//! ```
//!
//! One process serves all containers of a node, so that one of them must not be able to have it killed for its memory. What is streamed
//! needs no room: it has a buffer for each connection, and connections are counted.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::problems::{self, Refusal};

/// What is below needs no room: 256 connections of a container have 4 MiB of them.
const SMALL: usize = 16 << 10;
const KIB: usize = 1 << 10;
/// Two of the largest batches.
const OF_A_GROUP_KIB: usize = 32 << 10;
/// Eight groups that take all they can get leave a ninth nothing; one does not.
const OF_THE_PROCESS_KIB: usize = 256 << 10;
/// Who had room gives it back when its connection has taken the bytes: some milliseconds, for those who take them.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(1);

/// Memory for a group's bytes, or for those of all.
#[derive(Clone, Debug)]
pub struct MemoryBudget(Arc<Semaphore>);

impl MemoryBudget {
    /// What all groups have together.
    #[must_use]
    pub fn of_the_process() -> Self {
        Self(Arc::new(Semaphore::new(OF_THE_PROCESS_KIB)))
    }

    /// What one group has of it.
    #[must_use]
    pub fn of_a_group() -> Self {
        Self(Arc::new(Semaphore::new(OF_A_GROUP_KIB)))
    }

    fn try_acquire(&self, kib: u32) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0).try_acquire_many_owned(kib).ok()
    }

    async fn acquire(&self, kib: u32) -> Option<OwnedSemaphorePermit> {
        let taken = Arc::clone(&self.0).acquire_many_owned(kib);
        tokio::time::timeout(ACQUIRE_TIMEOUT, taken)
            .await
            .ok()?
            .ok()
    }
}

/// Memory that was taken out of the budgets; dropping gives it back.
#[derive(Debug, Default)]
pub(crate) struct MemoryPermit(Option<(Option<OwnedSemaphorePermit>, OwnedSemaphorePermit)>);

impl MemoryPermit {
    /// The bytes, whose end gives the permit back.
    pub(crate) fn keep(self, bytes: Bytes) -> Bytes {
        match self.0 {
            None => bytes,
            permit => keep(permit, bytes),
        }
    }
}

/// The bytes, whose end drops the guard.
pub(super) fn keep<G, B>(guard: G, bytes: B) -> Bytes
where
    G: Send + 'static,
    B: AsRef<[u8]> + Send + 'static,
{
    struct Kept<G, B> {
        bytes: B,
        _guard: G,
    }
    impl<G, B: AsRef<[u8]>> AsRef<[u8]> for Kept<G, B> {
        fn as_ref(&self) -> &[u8] {
            self.bytes.as_ref()
        }
    }
    let _guard = guard;
    Bytes::from_owner(Kept { bytes, _guard })
}

/// The budgets that a request's bytes are taken out of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestBudget<'a> {
    /// An operator's requests are of no group's account.
    pub(crate) group: Option<&'a MemoryBudget>,
    pub(crate) process: &'a MemoryBudget,
}

impl RequestBudget<'_> {
    /// A permit for so many bytes, if there is one at once.
    pub(crate) fn try_acquire(&self, bytes: usize) -> Option<MemoryPermit> {
        let Some(kib) = kib(bytes) else {
            return Some(MemoryPermit::default());
        };
        let group = match self.group {
            Some(group) => Some(group.try_acquire(kib)?),
            None => None,
        };
        Some(MemoryPermit(Some((group, self.process.try_acquire(kib)?))))
    }

    /// A permit for so many bytes.
    ///
    /// # Errors
    /// When there is none for a second.
    pub(crate) async fn acquire(&self, bytes: usize) -> Result<MemoryPermit, Refusal> {
        let Some(kib) = kib(bytes) else {
            return Ok(MemoryPermit::default());
        };
        let group = match self.group {
            Some(group) => {
                let taken = group.acquire(kib).await;
                Some(taken.ok_or_else(problems::group_takes_too_much)?)
            }
            None => None,
        };
        let process = self.process.acquire(kib).await;
        let process = process.ok_or_else(problems::all_take_too_much)?;
        Ok(MemoryPermit(Some((group, process))))
    }
}

/// What is to be taken for so many bytes, if anything.
fn kib(bytes: usize) -> Option<u32> {
    (bytes > SMALL).then(|| u32::try_from(bytes.div_ceil(KIB)).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_group_that_has_used_its_memory_waits_and_is_refused_and_others_are_not() {
        let (process, greedy, other) = (
            MemoryBudget::of_the_process(),
            MemoryBudget::of_a_group(),
            MemoryBudget::of_a_group(),
        );
        let budget = |group| RequestBudget {
            group: Some(group),
            process: &process,
        };
        let all = budget(&greedy).acquire(OF_A_GROUP_KIB * KIB).await.unwrap();
        assert!(budget(&greedy).try_acquire(SMALL).is_some());
        assert!(budget(&greedy).try_acquire(SMALL + 1).is_none());
        assert!(budget(&greedy).acquire(1 << 20).await.is_err());
        assert!(budget(&other).acquire(1 << 20).await.is_ok());

        let bytes = all.keep(Bytes::from_static(b"sent"));
        let half = bytes.slice(..2);
        drop(bytes);
        assert!(budget(&greedy).try_acquire(1 << 20).is_none());
        drop(half);
        assert!(budget(&greedy).try_acquire(1 << 20).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn all_groups_together_stay_within_the_memory_of_the_process() {
        let process = MemoryBudget::of_the_process();
        let groups: Vec<_> = (0..9).map(|_| MemoryBudget::of_a_group()).collect();
        let mut taken = Vec::new();
        for (index, group) in groups.iter().enumerate() {
            let budget = RequestBudget {
                group: Some(group),
                process: &process,
            };
            let permit = budget.acquire(OF_A_GROUP_KIB * KIB).await;
            assert_eq!(permit.is_ok(), index < 8, "{index}");
            taken.push(permit);
        }
    }
}
