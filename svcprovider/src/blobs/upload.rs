//! Storing a blob.
//!
//! ```text
//!   refused already? ─► "writing" ─► bytes ─► digest ─► durable ─┬─► index ─► done
//!                          │           │         │               ├─ refused: the new object goes
//!                          │           └─────────┴─ broken off ──┘
//!                          │                                     └─ no answer: whether it is in the index is seen by the collector
//!                          └ renewed on a timer
//! ```

use std::error::Error;
use std::pin::pin;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use sha2::{Digest as _, Sha256};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::{Blob, Blobs, NewBlob, PutError, RACES, Stored, contended, index, place};
use crate::objects::{ObjectId, ObjectWriter};
use crate::records::{Condition, EngineError, Refused, Revision, Write, decide, now_ms};

/// An object that is written, and what is known of it.
struct Upload {
    object: ObjectId,
    /// The state of the record that says that it is written.
    revision: Revision,
    size: u64,
    digest: Sha256,
    renewal: Interval,
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
    ) -> Result<Stored, PutError>
    where
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        self.refuse_early(&blob).await?;
        let mut upload = self.begin().await?;
        let received = match self.objects.create(upload.object).await {
            Ok(writer) => self.receive(&mut upload, &blob, writer, body).await,
            Err(error) => Err(error.into()),
        };
        let stored = match received {
            Ok(sha256) => self.publish(&upload, &blob, sha256).await,
            Err(error) => {
                self.discard(&upload).await;
                return Err(error);
            }
        };
        match &stored {
            Ok(stored) if stored.replaced => self.garbage.notify_one(),
            // It is in the index, or may be.
            Ok(_) | Err(PutError::Engine(_)) => {}
            Err(_) => self.discard(&upload).await,
        }
        stored
    }

    /// Asks whether the blob would be refused as far as is known of it, so that a gibibyte is not sent for nothing.
    async fn refuse_early(&self, blob: &NewBlob) -> Result<(), PutError> {
        let limit = self.settings.max_bytes;
        if blob.length.is_some_and(|length| length > limit) {
            return Err(PutError::TooLarge { limit });
        }
        let place = place(&blob.group, &blob.key);
        let current = self.records.get(&place).await?;
        let usage = self.usage(&blob.group).await?;
        let size = blob.length.unwrap_or_default();
        let write = Write {
            condition: blob.condition.clone(),
            change: index::put(&blob.key, ObjectId(0), size, &[0; 32], None),
            limits: blob.limits,
            place,
        };
        decide::decide(current.as_ref(), usage, now_ms(), Revision(0), &write)?;
        Ok(())
    }

    async fn begin(&self) -> Result<Upload, PutError> {
        let object = ObjectId::random();
        let write = index::writing(object, Condition::Absent);
        let revision = self.write_one(write).await?;
        let mut renewal = interval(self.settings.renew_every);
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        renewal.reset();
        Ok(Upload {
            object,
            revision,
            size: 0,
            digest: Sha256::new(),
            renewal,
        })
    }

    /// Takes the bytes into the object; returns their SHA-256.
    async fn receive<E>(
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
                    self.renew(upload).await?;
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
    async fn renew(&self, upload: &mut Upload) -> Result<(), PutError> {
        let condition = Condition::OneOf(vec![upload.revision]);
        match self
            .write_one(index::writing(upload.object, condition))
            .await
        {
            Ok(revision) => upload.revision = revision,
            Err(EngineError::Refused { .. }) => return Err(PutError::Abandoned),
            // There is time for the next one, and in the end it is asked whether the upload was given up.
            Err(error) => {
                tracing::warn!(%error, object = %upload.object, "cannot say that an upload goes on")
            }
        }
        Ok(())
    }

    /// Puts the new object into the index, and what was there among the garbage.
    async fn publish(
        &self,
        upload: &Upload,
        blob: &NewBlob,
        sha256: [u8; 32],
    ) -> Result<Stored, PutError> {
        let place = place(&blob.group, &blob.key);
        for _ in 0..RACES {
            let old = self.entry(&place).await?;
            let current = old.as_ref().map(|entry| entry.blob.revision);
            decide::check(&blob.condition, current)?;
            let content_type = blob.content_type.clone();
            // Exactly the state that was looked at: its object is the one that becomes garbage.
            let entry = Write {
                place: place.clone(),
                condition: current.map_or(Condition::Absent, |it| Condition::OneOf(vec![it])),
                change: index::put(&blob.key, upload.object, upload.size, &sha256, content_type),
                limits: blob.limits,
            };
            let mut batch = vec![entry, index::forget(upload.object, upload.revision)];
            batch.extend(old.as_ref().map(|old| index::garbage(old.object)));
            match self.records.write(batch).await {
                Ok(written) => {
                    let written = written.first().ok_or_else(unanswered)?;
                    let stored = Blob {
                        revision: written.revision,
                        size: upload.size,
                        sha256,
                        content_type: blob.content_type.clone(),
                        modified_ms: written.modified_ms,
                    };
                    return Ok(Stored {
                        blob: stored,
                        replaced: old.is_some(),
                    });
                }
                Err(EngineError::Refused {
                    index: 0,
                    refused: Refused::Condition { .. },
                }) => {}
                Err(EngineError::Refused { index: 0, refused }) => return Err(refused.into()),
                Err(EngineError::Refused { .. }) => return Err(PutError::Abandoned),
                Err(error) => return Err(error.into()),
            }
        }
        Err(contended(&blob.key).into())
    }

    /// Removes what an upload has left. What fails here is left to the collector.
    async fn discard(&self, upload: &Upload) {
        let forget = index::forget(upload.object, upload.revision);
        let discarded = async {
            self.objects.delete(upload.object).await?;
            self.write_one(forget).await
        };
        if let Err(error) = discarded.await {
            tracing::debug!(%error, object = %upload.object, "an upload that failed is left to the collector");
        }
    }

    pub(super) async fn write_one(&self, write: Write) -> Result<Revision, EngineError> {
        let written = self.records.write(vec![write]).await?;
        let revision = written.first().map(|written| written.revision);
        revision.ok_or_else(unanswered)
    }
}

fn unanswered() -> EngineError {
    EngineError::Broken {
        engine: "the records",
        reason: "a write was not answered".into(),
    }
}

impl From<EngineError> for PutError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Refused { refused, .. } => Self::Refused(refused),
            error => Self::Engine(error),
        }
    }
}
