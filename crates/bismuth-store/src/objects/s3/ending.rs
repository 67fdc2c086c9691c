//! Uploads that were dropped while a part was on its way: who deletes the object waits until it is known what became of that part, and the
//! upload is aborted. A part that arrives after the abort would stay in the bucket, paid for and not seen.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::failure::unavailable;
use crate::objects::ObjectId;
use crate::records::EngineError;

/// How an upload ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Nothing is on its way any more.
    Settled,
    /// A part may still arrive.
    Unsure,
}

/// What is ending, by its object.
#[derive(Clone, Default)]
pub(super) struct Endings(Arc<Mutex<HashMap<ObjectId, watch::Receiver<End>>>>);

/// It has ended when this is dropped.
pub(super) struct Ending {
    endings: Endings,
    object: ObjectId,
    end: watch::Sender<End>,
}

impl Endings {
    /// Says that an object's upload is ending. An object has one upload.
    pub(super) fn begin(&self, object: ObjectId) -> Ending {
        let (end, receiver) = watch::channel(End::Settled);
        self.with(|endings| endings.insert(object, receiver));
        Ending {
            endings: self.clone(),
            object,
            end,
        }
    }

    /// Waits until an object's upload has ended, if it is ending: at most for as long as a part may be on its way and two short requests take.
    ///
    /// # Errors
    /// When a part may still arrive: an object that is deleted minutes later is gone with it.
    pub(super) async fn ended(&self, object: ObjectId) -> Result<(), EngineError> {
        let Some(mut ending) = self.with(|endings| endings.get(&object).cloned()) else {
            return Ok(());
        };
        // An error is the end.
        while ending.changed().await.is_ok() {}
        match *ending.borrow() {
            End::Settled => Ok(()),
            End::Unsure => Err(unavailable("a part of the object may still arrive".into())),
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut HashMap<ObjectId, watch::Receiver<End>>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Ending {
    /// Ends it with a part of which nobody knows whether it will arrive.
    pub(super) fn leave_to_later(self) {
        self.end.send_replace(End::Unsure);
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.endings.with(|endings| endings.remove(&self.object));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_deletes_waits_for_the_end_and_for_no_other() {
        let endings = Endings::default();
        let ending = endings.begin(ObjectId(1));
        endings.ended(ObjectId(2)).await.unwrap();
        let early = timeout(Duration::from_mins(1), endings.ended(ObjectId(1)));
        assert!(early.await.is_err());
        let (waited, ()) = tokio::join!(
            timeout(Duration::from_mins(1), endings.ended(ObjectId(1))),
            async { drop(ending) }
        );
        waited.unwrap().unwrap();
        endings.ended(ObjectId(1)).await.unwrap();
        assert!(endings.with(|endings| endings.is_empty()));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waited_for_a_part_that_may_still_arrive_is_told_and_who_comes_later_is_not() {
        let endings = Endings::default();
        let ending = endings.begin(ObjectId(1));
        let (waited, ()) = tokio::join!(endings.ended(ObjectId(1)), async {
            ending.leave_to_later()
        });
        waited.unwrap_err();
        endings.ended(ObjectId(1)).await.unwrap();
    }
}
