//! Pending aborts of multipart uploads that were dropped while a part was on its way. Who deletes the object waits until it is known what became of that
//! part, and the upload is aborted. A part that arrives after the abort would stay in the bucket, paid for and not seen.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::failure::unavailable;
use crate::objects::ObjectId;
use crate::records::EngineError;

/// How an abort ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Nothing is on its way any more.
    Settled,
    /// A part may still arrive.
    Unknown,
}

/// Aborts that have not ended, by their objects.
#[derive(Clone, Default)]
pub(super) struct PendingAborts(Arc<Mutex<HashMap<ObjectId, watch::Receiver<Outcome>>>>);

/// One abort, which has ended when this is dropped.
pub(super) struct PendingAbort {
    all: PendingAborts,
    object: ObjectId,
    outcome: watch::Sender<Outcome>,
}

impl PendingAborts {
    /// Says that an object's upload is to be aborted. An object has one upload.
    pub(super) fn begin(&self, object: ObjectId) -> PendingAbort {
        let (outcome, receiver) = watch::channel(Outcome::Settled);
        self.with(|all| all.insert(object, receiver));
        PendingAbort {
            all: self.clone(),
            object,
            outcome,
        }
    }

    /// Waits until the abort of an object's upload has ended, if there is one: at most for as long as a part may be on its way and two short requests take.
    ///
    /// # Errors
    /// When a part may still arrive: an object that is deleted minutes later is gone with it.
    pub(super) async fn wait_for(&self, object: ObjectId) -> Result<(), EngineError> {
        let Some(mut abort) = self.with(|all| all.get(&object).cloned()) else {
            return Ok(());
        };
        // An error is the end.
        while abort.changed().await.is_ok() {}
        match *abort.borrow() {
            Outcome::Settled => Ok(()),
            Outcome::Unknown => Err(unavailable("a part of the object may still arrive".into())),
        }
    }

    fn with<T>(
        &self,
        act: impl FnOnce(&mut HashMap<ObjectId, watch::Receiver<Outcome>>) -> T,
    ) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl PendingAbort {
    /// Ends it with a part of which nobody knows whether it will arrive.
    pub(super) fn end_unknown(self) {
        self.outcome.send_replace(Outcome::Unknown);
    }
}

impl Drop for PendingAbort {
    fn drop(&mut self) {
        self.all.with(|all| all.remove(&self.object));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_deletion_waits_for_the_abort_of_its_own_object_only() {
        let all = PendingAborts::default();
        let abort = all.begin(ObjectId(1));
        all.wait_for(ObjectId(2)).await.unwrap();
        let early = timeout(Duration::from_mins(1), all.wait_for(ObjectId(1)));
        assert!(early.await.is_err());
        let (waited, ()) = tokio::join!(
            timeout(Duration::from_mins(1), all.wait_for(ObjectId(1))),
            async { drop(abort) }
        );
        waited.unwrap().unwrap();
        all.wait_for(ObjectId(1)).await.unwrap();
        assert!(all.with(|all| all.is_empty()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiting_deletion_fails_when_a_part_may_still_arrive_and_a_later_one_does_not() {
        let all = PendingAborts::default();
        let abort = all.begin(ObjectId(1));
        let (waited, ()) = tokio::join!(all.wait_for(ObjectId(1)), async { abort.end_unknown() });
        waited.unwrap_err();
        all.wait_for(ObjectId(1)).await.unwrap();
    }
}
