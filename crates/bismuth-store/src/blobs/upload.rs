//! Uploads a blob: begin, receive the body, commit to the index.
//!
//! ```text
//!   refused already? ─► "writing" ─► bytes ─► digest ─► durable ─┬─► index ─► done
//!                          │           │         │               ├─ refused: the new object goes
//!                          │           └─────────┴─ broken off ──┘
//!                          │                                     └─ an engine gives no answer: what there is is seen by the collector
//!                          └ renewed on a timer
//! ```

use std::error::Error;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::index::ObjectState;
use super::pending_bytes::{ByteQuota, PendingUpload};
use super::{
    Blob, Blobs, NewBlob, PutError, RACES, StoredBlob, charge, contended, index, record_key,
};
use crate::objects::{ObjectId, ObjectWriter};
use crate::records::{Condition, EngineError, Refused, Revision, Write, decide, now_ms};

/// An object that is written, and what is known of it. Dropped before its end, because who sent it went away, its bytes are removed at once;
/// its record is left to the collector, since nobody knows what is still on its way to the store.
struct Upload {
    blobs: Blobs,
    object: ObjectId,
    /// The state of the record that says that it is written.
    revision: Revision,
    size: u64,
    digest: Sha256,
    renewal: Interval,
    pending: PendingUpload,
    /// Whether nothing is to be done about it any more, or nobody knows what.
    skip_cleanup: bool,
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        if !self.skip_cleanup {
            let (objects, object) = (Arc::clone(&self.blobs.objects), self.object);
            runtime.spawn(async move {
                if let Err(error) = objects.delete(object).await {
                    tracing::debug!(%error, %object, "an upload that was cut off is left to the collector");
                }
            });
        }
    }
}

impl Blobs {
    /// Stores the bytes of `body` under a key. When it returns, they are durable and the key has them; otherwise it has what it had.
    ///
    /// # Errors
    /// When the bytes do not come, are too many, or are not those announced; when the condition does not hold or the group has no room; when an engine
    /// has an error. After [`EngineError::Unavailable`] the key has the old blob or the new one.
    pub async fn put<E>(
        &self,
        blob: NewBlob,
        body: impl Stream<Item = Result<Bytes, E>> + Send,
    ) -> Result<StoredBlob, PutError>
    where
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let pending = self.check_before_upload(&blob).await?;
        let mut upload = self.begin_upload(pending).await?;
        let received = match self.objects.create(upload.object, &blob.group).await {
            Ok(writer) => self.receive_body(&mut upload, &blob, writer, body).await,
            Err(error) => Err(error.into()),
        };
        let sha256 = match received {
            Ok(sha256) => sha256,
            Err(error) => {
                // An object that may still come, because nobody knows what became of a request, is not to be forgotten.
                upload.skip_cleanup =
                    matches!(error, PutError::Engine(EngineError::Unavailable { .. }));
                upload.discard().await;
                return Err(error);
            }
        };
        // Cut off from here on, it is in the index or not: the collector sees which.
        upload.skip_cleanup = true;
        let stored = self.commit_upload(&mut upload, &blob, sha256).await;
        match &stored {
            Ok(stored) if stored.replaced => self.garbage.notify_one(),
            // It is in the index, or may be.
            Ok(_) | Err(PutError::Engine(_)) => {}
            Err(_) => {
                upload.skip_cleanup = false;
                upload.discard().await;
            }
        }
        stored
    }

    /// Asks whether the blob would be refused as far as is known of it, so that a gibibyte is not sent for nothing; and counts it among the
    /// group's uploads.
    async fn check_before_upload(&self, blob: &NewBlob) -> Result<PendingUpload, PutError> {
        let limit = self.settings.max_bytes;
        if blob.length.is_some_and(|length| length > limit) {
            return Err(PutError::TooLarge { limit });
        }
        let record_key = record_key(&blob.group, &blob.key);
        let current = self.records.get(&record_key).await?;
        let usage = self.usage(&blob.group).await?;
        let size = blob.length.unwrap_or_default();
        let write = Write {
            condition: blob.condition.clone(),
            change: index::put_entry(&blob.key, ObjectId(0), size, &[0; 32], None),
            limits: blob.limits,
            record_key,
        };
        decide::decide(current.as_ref(), usage, now_ms(), Revision(0), &write)?;
        let replaced = current.map_or(0, |record| record.meta.charge);
        let quota = blob.limits.bytes.map(|limit| ByteQuota {
            used: usage.bytes.saturating_sub(replaced),
            // What is smaller than what it replaces is allowed, also where a limit was lowered.
            limit: limit.max(usage.bytes),
        });
        let mut pending = self.pending.begin(&blob.group, quota);
        pending.grow(charge(&blob.key, size))?;
        Ok(pending)
    }

    async fn begin_upload(&self, pending: PendingUpload) -> Result<Upload, PutError> {
        let object = ObjectId::random();
        let write = index::mark_writing(object, Condition::Absent);
        let revision = self.write_one(write).await?;
        let mut renewal = interval(self.settings.renew_every);
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        renewal.reset();
        Ok(Upload {
            blobs: self.clone(),
            object,
            revision,
            size: 0,
            digest: Sha256::new(),
            renewal,
            pending,
            skip_cleanup: false,
        })
    }

    /// Takes the bytes into the object; returns their SHA-256.
    async fn receive_body<E>(
        &self,
        upload: &mut Upload,
        blob: &NewBlob,
        mut writer: Box<dyn ObjectWriter>,
        body: impl Stream<Item = Result<Bytes, E>> + Send,
    ) -> Result<[u8; 32], PutError>
    where
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let mut body = pin!(body);
        loop {
            // Both arms are safe to cancel: a stream keeps what it has not given, and an interval its tick.
            let bytes = tokio::select! {
                bytes = body.next() => bytes,
                _ = upload.renewal.tick() => {
                    self.renew_upload(upload).await?;
                    continue;
                }
            };
            let Some(bytes) = bytes else { break };
            let bytes = bytes.map_err(|error| PutError::Body(error.into()))?;
            upload.size += bytes.len() as u64;
            let limit = self.settings.max_bytes;
            if upload.size > limit {
                return Err(PutError::TooLarge { limit });
            }
            upload.pending.grow(charge(&blob.key, upload.size))?;
            upload.digest.update(&bytes);
            writer.write(bytes).await?;
        }
        let sha256 = upload.digest.clone().finalize().into();
        if blob.sha256.is_some_and(|expected| expected != sha256) {
            return Err(PutError::Digest);
        }
        writer.finish().await?;
        Ok(sha256)
    }

    /// Says that the upload goes on.
    async fn renew_upload(&self, upload: &mut Upload) -> Result<(), PutError> {
        let condition = Condition::OneOf(vec![upload.revision]);
        match self
            .write_one(index::mark_writing(upload.object, condition))
            .await
        {
            Ok(revision) => upload.revision = revision,
            Err(EngineError::Refused { .. }) => return self.reload_state(upload).await,
            // There is time for the next one.
            Err(error) => {
                tracing::warn!(%error, object = %upload.object, "cannot say that an upload goes on")
            }
        }
        Ok(())
    }

    /// The state of an upload is not the one that was left: an answer was lost, or it was given up.
    async fn reload_state(&self, upload: &mut Upload) -> Result<(), PutError> {
        let record = self.records.get(&index::state_key(upload.object)).await?;
        let record = record.filter(|it| ObjectState::decode(it) == Some(ObjectState::Writing));
        // Nobody else says that it is written.
        upload.revision = record.ok_or(PutError::Abandoned)?.meta.revision;
        Ok(())
    }

    /// Puts the new object into the index, and what was there among the garbage.
    async fn commit_upload(
        &self,
        upload: &mut Upload,
        blob: &NewBlob,
        sha256: [u8; 32],
    ) -> Result<StoredBlob, PutError> {
        let record_key = record_key(&blob.group, &blob.key);
        for _ in 0..RACES {
            let old = self.entry(&record_key).await?;
            let current = old.as_ref().map(|entry| entry.blob.revision);
            decide::check(&blob.condition, current)?;
            let content_type = blob.content_type.clone();
            // Exactly the state that was looked at: its object is the one that becomes garbage.
            let entry = Write {
                record_key: record_key.clone(),
                condition: current.map_or(Condition::Absent, |it| Condition::OneOf(vec![it])),
                change: index::put_entry(
                    &blob.key,
                    upload.object,
                    upload.size,
                    &sha256,
                    content_type,
                ),
                limits: blob.limits,
            };
            let mut batch = vec![entry, index::delete_state(upload.object, upload.revision)];
            batch.extend(old.as_ref().map(|old| index::mark_garbage(old.object)));
            match self.records.write(batch).await {
                Ok(written) => {
                    let written = written.first().ok_or_else(no_write_result)?;
                    let stored = Blob {
                        revision: written.revision,
                        size: upload.size,
                        sha256,
                        content_type: blob.content_type.clone(),
                        modified_ms: written.modified_ms,
                    };
                    return Ok(StoredBlob {
                        blob: stored,
                        replaced: old.is_some(),
                    });
                }
                Err(EngineError::Refused {
                    index: 0,
                    refused: Refused::Condition { .. },
                }) => {}
                Err(EngineError::Refused { index: 0, refused }) => return Err(refused.into()),
                Err(EngineError::Refused { .. }) => self.reload_state(upload).await?,
                Err(error) => return Err(error.into()),
            }
        }
        Err(contended(&blob.key).into())
    }

    pub(super) async fn write_one(&self, write: Write) -> Result<Revision, EngineError> {
        let written = self.records.write(vec![write]).await?;
        let revision = written.first().map(|written| written.revision);
        revision.ok_or_else(no_write_result)
    }
}

impl Upload {
    /// Removes what it has left, unless that is left to the collector, as is what fails here. Cut off, it is done by whoever drops it.
    async fn discard(&mut self) {
        if self.skip_cleanup {
            return;
        }
        let object = self.object;
        let discarded = async {
            self.blobs.objects.delete(object).await?;
            let deletion = index::delete_state(object, self.revision);
            self.blobs.write_one(deletion).await
        };
        if let Err(error) = discarded.await {
            tracing::debug!(%error, %object, "an upload that failed is left to the collector");
        }
        self.skip_cleanup = true;
    }
}

fn no_write_result() -> EngineError {
    EngineError::broken("the records", "a write was not answered")
}

impl From<EngineError> for PutError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Refused { refused, .. } => Self::Refused(refused),
            error => Self::Engine(error),
        }
    }
}
