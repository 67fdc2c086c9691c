//! Garbage collection: removes objects that no blob refers to.
//!
//! ```text
//!   garbage ──────────────────────────────► object removed ─► record removed
//!   writing, not renewed for too long ─► garbage, if nobody renewed it or finished meanwhile
//! ```
//!
//! An object goes before its record, so that one of which nothing is known is not left behind. Several may collect at once.

use std::num::NonZeroUsize;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};

use super::Blobs;
use super::index::{self, ObjectState};
use crate::objects::ObjectId;
use crate::records::{
    EngineError, Keyspace, NO_BOUND, Query, Record, RecordKey, Revision, Write, now_ms,
};

/// Records that are looked at together.
const PAGE: NonZeroUsize = NonZeroUsize::new(256).expect("it is not zero");
/// Objects that are removed at the same time: an S3 server takes some tens of milliseconds over each.
const AT_ONCE: usize = 8;
/// Uploads that died are looked for this often; garbage is told at once.
const PERIOD: Duration = Duration::from_secs(30);

/// What [`Blobs::collect`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Objects that were removed.
    pub removed: usize,
    /// Objects that are to be removed and were not, and why the last of them was not.
    pub failed: Option<(usize, EngineError)>,
}

impl Blobs {
    /// Collects, now and then, for ever, and tells `counted` what it did. Drop it to end it: it may be cut off anywhere.
    pub async fn keep_collecting(&self, counted: impl Fn(&Collected)) {
        loop {
            let collected = self.collect().await;
            if let Ok(collected) = &collected {
                counted(collected);
            }
            match collected {
                Ok(Collected {
                    removed,
                    failed: None,
                }) => {
                    tracing::debug!(removed, "objects without a blob were removed");
                }
                Ok(Collected {
                    removed,
                    failed: Some((left, error)),
                }) => {
                    tracing::warn!(removed, left, %error, "objects without a blob were not all removed");
                }
                Err(error) => tracing::warn!(%error, "cannot look for objects without a blob"),
            }
            // Either is only a hint to look.
            let _ = tokio::time::timeout(PERIOD, self.garbage.notified()).await;
        }
    }

    /// Removes every object that is garbage or whose upload was given up. Tries all of them.
    ///
    /// # Errors
    /// When the records cannot be read.
    pub async fn collect(&self) -> Result<Collected, EngineError> {
        let mut collected = Collected::default();
        for group in self.records.groups(Keyspace::Object).await? {
            self.collect_group(group, &mut collected).await?;
        }
        Ok(collected)
    }

    async fn collect_group(
        &self,
        group: String,
        collected: &mut Collected,
    ) -> Result<(), EngineError> {
        let mut query = Query::all(group, Keyspace::Object, PAGE);
        loop {
            let page = self.records.list(&query).await?;
            let keys = page.entries.iter().map(|(key, _)| key.parse());
            let objects: Vec<ObjectId> = keys.filter_map(Result::ok).collect();
            // In the group where it was found: earlier versions had all in one.
            let record_key = |&object: &ObjectId| RecordKey {
                group: query.group.clone(),
                ..index::state_key(object)
            };
            let record_keys: Vec<RecordKey> = objects.iter().map(record_key).collect();
            let records = self.records.get_many(&record_keys, NO_BOUND).await?;
            let due = objects.into_iter().zip(record_keys).zip(records);
            let due = due.filter_map(|((object, record_key), record)| {
                self.due(object, record_key, &record?)
            });
            let mut removals =
                stream::iter(due.map(|due| self.remove(due))).buffer_unordered(AT_ONCE);
            while let Some(removed) = removals.next().await {
                match removed {
                    Ok(removed) => collected.removed += usize::from(removed),
                    Err(error) => {
                        let before = collected.failed.take().map_or(0, |(before, _)| before);
                        collected.failed = Some((before + 1, error));
                    }
                }
            }
            query.after = page.entries.into_iter().next_back().map(|(key, _)| key);
            if !page.more {
                return Ok(());
            }
        }
    }

    fn due(&self, object: ObjectId, record_key: RecordKey, record: &Record) -> Option<Due> {
        let state = ObjectState::decode(record)?;
        let silent = now_ms().saturating_sub(record.meta.modified_ms);
        let abandoned = u128::from(silent) >= self.settings.abandoned_after.as_millis();
        (state == ObjectState::Garbage || abandoned).then_some(Due {
            object,
            record_key,
            state,
            revision: record.meta.revision,
        })
    }

    /// Whether it was us who removed it.
    async fn remove(&self, due: Due) -> Result<bool, EngineError> {
        let mut revision = due.revision;
        if due.state == ObjectState::Writing {
            // From here on it cannot get into the index.
            let garbage = Write {
                record_key: due.record_key.clone(),
                ..index::mark_garbage_if(due.object, revision)
            };
            match self.write_one(garbage).await {
                Ok(garbage) => revision = garbage,
                Err(EngineError::Refused { .. }) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        self.objects.delete(due.object).await?;
        let delete = Write {
            record_key: due.record_key,
            ..index::delete_state(due.object, revision)
        };
        match self.write_one(delete).await {
            Ok(_) => Ok(true),
            // Somebody else has.
            Err(EngineError::Refused { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// An object that is to be removed.
struct Due {
    object: ObjectId,
    /// Where its state is.
    record_key: RecordKey,
    state: ObjectState,
    revision: Revision,
}
