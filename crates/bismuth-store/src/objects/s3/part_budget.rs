//! Memory budget for parts of multipart uploads: one group's slow uploads leave some to the others.
//!
//! ```text
//!   part above 256 KiB ─► budget of its group (8 parts) ─► budget of the process (32) ─► given back when it has arrived
//!                            └── none within ten seconds: 429 ────────┴─ or 503
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

/// The budget of all groups.
#[derive(Debug)]
pub(super) struct PartBudget {
    all: Arc<Semaphore>,
    /// Of groups that upload.
    groups: Mutex<HashMap<String, Weak<Semaphore>>>,
}

/// What one group may have of it.
#[derive(Clone, Debug)]
pub(super) struct GroupPartBudget {
    group: Arc<Semaphore>,
    all: Arc<Semaphore>,
}

/// Leave to have one part in memory; dropping gives it back.
#[derive(Debug)]
pub(super) struct PartPermit {
    _group: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl Default for PartBudget {
    fn default() -> Self {
        Self {
            all: Arc::new(Semaphore::new(OF_ALL)),
            groups: Mutex::default(),
        }
    }
}

impl PartBudget {
    pub(super) fn of_group(&self, name: &str) -> GroupPartBudget {
        let all = Arc::clone(&self.all);
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(group) = groups.get(name).and_then(Weak::upgrade) {
            return GroupPartBudget { group, all };
        }
        groups.retain(|_, group| group.strong_count() > 0);
        let group = Arc::new(Semaphore::new(OF_A_GROUP));
        groups.insert(name.to_owned(), Arc::downgrade(&group));
        GroupPartBudget { group, all }
    }
}

impl GroupPartBudget {
    /// Waits until the budgets allow a whole part.
    ///
    /// # Errors
    /// [`EngineError::Busy`] when there is none for ten seconds.
    pub(super) async fn acquire(&self) -> Result<PartPermit, EngineError> {
        let until = Instant::now() + IDLE_BOUND;
        // The group's first: who waits for it keeps nothing from others.
        let group = acquire_of(&self.group, true, until).await?;
        let all = acquire_of(&self.all, false, until).await?;
        Ok(PartPermit {
            _group: group,
            _all: all,
        })
    }
}

async fn acquire_of(
    budget: &Arc<Semaphore>,
    of_group: bool,
    until: Instant,
) -> Result<OwnedSemaphorePermit, EngineError> {
    let taken = Arc::clone(budget).acquire_owned();
    let taken = tokio::time::timeout_at(until, taken).await;
    taken.ok().and_then(Result::ok).ok_or(EngineError::Busy {
        engine: ENGINE,
        of_group,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn acquire(part_budget: &GroupPartBudget, count: usize) -> Vec<PartPermit> {
        let mut permits = Vec::new();
        for _ in 0..count {
            permits.push(part_budget.acquire().await.unwrap());
        }
        permits
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_that_has_its_share_waits_and_others_do_not() {
        let part_budget = PartBudget::default();
        let greedy = part_budget.of_group("greedy");
        let mut taken = acquire(&greedy, OF_A_GROUP).await;
        let error = part_budget.of_group("greedy").acquire().await.unwrap_err();
        assert!(
            matches!(error, EngineError::Busy { of_group: true, .. }),
            "{error:?}"
        );
        let _others = acquire(&part_budget.of_group("other"), OF_A_GROUP).await;
        taken.pop();
        greedy.acquire().await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn all_groups_together_take_no_more_than_there_is() {
        let part_budget = PartBudget::default();
        let mut taken = Vec::new();
        for name in ["a", "b", "c", "d"] {
            taken.extend(acquire(&part_budget.of_group(name), OF_A_GROUP).await);
        }
        let began = Instant::now();
        let error = part_budget.of_group("e").acquire().await.unwrap_err();
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
        part_budget.of_group("e").acquire().await.unwrap();
        let names = part_budget.groups.lock().unwrap().len();
        assert_eq!(names, 1, "groups that upload nothing are forgotten");
    }
}
