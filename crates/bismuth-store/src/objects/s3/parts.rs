//! Room for the parts of large uploads, so that memory is bounded and one group's slow uploads leave room to the others.
//!
//! ```text
//!   part above 256 KiB ─► room of its group (8 parts) ─► room of the process (32) ─► given back when it has arrived
//!                            └── none within ten seconds: 429 ──────┴─ or 503
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::{ENGINE, IDLE_BOUND};
use crate::records::EngineError;

/// Parts that are in memory at a time, of all uploads: 160 MiB. More wait.
const OF_ALL: usize = 32;
/// Those of one group: 40 MiB.
const OF_A_GROUP: usize = 8;

/// Room for parts, of all groups.
#[derive(Debug)]
pub(super) struct Parts {
    all: Arc<Semaphore>,
    /// Of groups that upload.
    groups: Mutex<HashMap<String, Weak<Semaphore>>>,
}

/// What one group has of it.
#[derive(Clone, Debug)]
pub(super) struct GroupParts {
    group: Arc<Semaphore>,
    all: Arc<Semaphore>,
}

/// Room for one part; dropping gives it back.
#[derive(Debug)]
pub(super) struct Room {
    _group: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl Default for Parts {
    fn default() -> Self {
        Self {
            all: Arc::new(Semaphore::new(OF_ALL)),
            groups: Mutex::default(),
        }
    }
}

impl Parts {
    pub(super) fn of_group(&self, name: &str) -> GroupParts {
        let all = Arc::clone(&self.all);
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(group) = groups.get(name).and_then(Weak::upgrade) {
            return GroupParts { group, all };
        }
        groups.retain(|_, group| group.strong_count() > 0);
        let group = Arc::new(Semaphore::new(OF_A_GROUP));
        groups.insert(name.to_owned(), Arc::downgrade(&group));
        GroupParts { group, all }
    }
}

impl GroupParts {
    /// Waits until there is room for a whole part.
    ///
    /// # Errors
    /// [`EngineError::Busy`] when there is none for ten seconds.
    pub(super) async fn take(&self) -> Result<Room, EngineError> {
        let until = Instant::now() + IDLE_BOUND;
        // The group's first: who waits for it keeps nothing from others.
        let group = take_of(&self.group, true, until).await?;
        let all = take_of(&self.all, false, until).await?;
        Ok(Room {
            _group: group,
            _all: all,
        })
    }
}

async fn take_of(
    room: &Arc<Semaphore>,
    of_group: bool,
    until: Instant,
) -> Result<OwnedSemaphorePermit, EngineError> {
    let taken = Arc::clone(room).acquire_owned();
    let taken = tokio::time::timeout_at(until, taken).await;
    taken.ok().and_then(Result::ok).ok_or(EngineError::Busy {
        engine: ENGINE,
        of_group,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn take(parts: &GroupParts, count: usize) -> Vec<Room> {
        let mut rooms = Vec::new();
        for _ in 0..count {
            rooms.push(parts.take().await.unwrap());
        }
        rooms
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_that_has_its_share_waits_and_others_do_not() {
        let parts = Parts::default();
        let greedy = parts.of_group("greedy");
        let mut taken = take(&greedy, OF_A_GROUP).await;
        let error = parts.of_group("greedy").take().await.unwrap_err();
        assert!(
            matches!(error, EngineError::Busy { of_group: true, .. }),
            "{error:?}"
        );
        let _others = take(&parts.of_group("other"), OF_A_GROUP).await;
        taken.pop();
        greedy.take().await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn all_groups_together_take_no_more_than_there_is() {
        let parts = Parts::default();
        let mut taken = Vec::new();
        for name in ["a", "b", "c", "d"] {
            taken.extend(take(&parts.of_group(name), OF_A_GROUP).await);
        }
        let began = Instant::now();
        let error = parts.of_group("e").take().await.unwrap_err();
        assert_eq!(began.elapsed().as_secs(), IDLE_BOUND.as_secs());
        let of_all = matches!(
            error,
            EngineError::Busy {
                of_group: false,
                ..
            }
        );
        assert!(of_all, "{error:?}");
        drop(taken);
        parts.of_group("e").take().await.unwrap();
        let names = parts.groups.lock().unwrap().len();
        assert_eq!(names, 1, "groups that upload nothing are forgotten");
    }
}
