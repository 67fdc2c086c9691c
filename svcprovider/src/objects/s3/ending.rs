//! Uploads that were dropped while a part was on its way: who deletes the object waits until that part has arrived or failed and the upload is
//! aborted. A part that arrives after the abort would stay in the bucket, paid for and not seen.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::objects::ObjectId;

/// What is ending, by its object.
#[derive(Clone, Default)]
pub(super) struct Endings(Arc<Mutex<HashMap<ObjectId, watch::Receiver<()>>>>);

/// It has ended when this is dropped.
pub(super) struct Ending {
    endings: Endings,
    object: ObjectId,
    /// Its end is what others wait for.
    _ended: watch::Sender<()>,
}

impl Endings {
    /// Says that an object's upload is ending. An object has one upload.
    pub(super) fn begin(&self, object: ObjectId) -> Ending {
        let (sender, receiver) = watch::channel(());
        self.with(|endings| endings.insert(object, receiver));
        Ending {
            endings: self.clone(),
            object,
            _ended: sender,
        }
    }

    /// Waits until an object's upload has ended, if it is ending: at most for as long as a part may be on its way and two short requests take.
    pub(super) async fn ended(&self, object: ObjectId) {
        let ending = self.with(|endings| endings.get(&object).cloned());
        if let Some(mut ending) = ending {
            // Nothing is sent: an error is the end.
            let _ = ending.changed().await;
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut HashMap<ObjectId, watch::Receiver<()>>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
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
        endings.ended(ObjectId(2)).await;
        let early = timeout(Duration::from_mins(1), endings.ended(ObjectId(1)));
        assert!(early.await.is_err());
        let (waited, ()) = tokio::join!(
            timeout(Duration::from_mins(1), endings.ended(ObjectId(1))),
            async { drop(ending) }
        );
        waited.unwrap();
        endings.ended(ObjectId(1)).await;
        assert!(endings.with(|endings| endings.is_empty()));
    }
}
