//! A multipart upload: sends parts, completes, or aborts in the background when it is dropped.
//!
//! ```text
//!   begin ─► send_part, wait_for_part ─► … ─► complete
//!     └─────────────┴─ dropped ─► the part on its way ends ─► aborted in the background; if that fails, by whoever deletes the object
//!                                 └─ nobody knows whether it arrived ─► left to who deletes the object later, when it has or never will
//! ```

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::ObjectStoreExt as _;
use object_store::multipart::{MultipartStore as _, PartId};
use tokio::runtime::Handle;
use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;

use super::failure::{Failure, unavailable, with_timeout};
use super::part_budget::PartPermit;
use super::write::transfer_bound;
use super::{BOUND, Bucket, ENGINE};
use crate::objects::ObjectId;
use crate::records::EngineError;

/// Putting parts together takes S3 some seconds for a gibibyte, and it may be asked again in between.
const COMPLETE_BOUND: Duration = Duration::from_secs(30);

pub(super) struct MultipartUpload {
    bucket: Arc<Bucket>,
    object: ObjectId,
    /// What S3 calls it.
    id: String,
    sent_parts: usize,
    in_flight: Option<AbortOnDropHandle<Result<PartId, Failure>>>,
    parts: Vec<PartId>,
    /// Whether a part was sent of which nobody knows whether it arrived or still will.
    outcome_unknown: bool,
    /// Whether there is anything to abort.
    open: bool,
}

impl MultipartUpload {
    pub(super) async fn begin(bucket: Arc<Bucket>, object: ObjectId) -> Result<Self, EngineError> {
        let path = bucket.object(object);
        let id = with_timeout(BOUND, bucket.client.create_multipart(&path)).await?;
        // From here on, to drop it is to abort it.
        let upload = Self {
            bucket,
            object,
            id,
            sent_parts: 0,
            in_flight: None,
            parts: Vec::new(),
            outcome_unknown: false,
            open: true,
        };
        let upload_marker = upload.bucket.upload_marker(object);
        let marked = upload
            .bucket
            .client
            .put(&upload_marker, upload.id.clone().into());
        with_timeout(BOUND, marked).await?;
        Ok(upload)
    }

    /// Sends the next part in the background, and gives its room back then. The one before it has arrived ([`wait_for_part`](Self::wait_for_part)).
    pub(super) fn send_part(&mut self, bytes: Bytes, permit: Option<PartPermit>) {
        let bucket = Arc::clone(&self.bucket);
        let (path, id, number) = (bucket.object(self.object), self.id.clone(), self.sent_parts);
        self.sent_parts += 1;
        let sent = async move {
            let bound = transfer_bound(bytes.len());
            let part = bucket.client.put_part(&path, &id, number, bytes.into());
            let part = with_timeout(bound, part).await;
            drop(permit);
            part
        };
        self.in_flight = Some(AbortOnDropHandle::new(tokio::spawn(sent)));
    }

    /// Waits until nothing is on its way. Cut off, what is on its way is still what `drop` waits for.
    pub(super) async fn wait_for_part(&mut self) -> Result<(), EngineError> {
        if let Some(part) = &mut self.in_flight {
            let outcome = part.await;
            self.in_flight = None;
            let part =
                part_of(outcome).inspect_err(|error| self.outcome_unknown |= may_arrive(error))?;
            self.parts.push(part);
        }
        Ok(())
    }

    /// Makes an object of the parts.
    pub(super) async fn complete(mut self) -> Result<(), EngineError> {
        self.wait_for_part().await?;
        if self.parts.len() != self.sent_parts {
            let reason = "an object is written on after an error";
            return Err(EngineError::broken(ENGINE, reason));
        }
        let path = self.bucket.object(self.object);
        let parts = std::mem::take(&mut self.parts);
        let client = &self.bucket.client;
        let completed = client.complete_multipart(&path, &self.id, parts);
        with_timeout(COMPLETE_BOUND, completed).await?;
        self.open = false;
        // It does no harm, and whoever deletes the object removes it.
        if let Err(error) = self
            .bucket
            .remove(&self.bucket.upload_marker(self.object))
            .await
        {
            tracing::debug!(?error, object = %self.object, "the marker of an upload that is complete stays");
        }
        Ok(())
    }
}

fn part_of(outcome: Result<Result<PartId, Failure>, JoinError>) -> Result<PartId, EngineError> {
    Ok(outcome.map_err(|error| unavailable(error.to_string()))??)
}

/// Whether the server may have what was sent, or still get it.
fn may_arrive(error: &EngineError) -> bool {
    matches!(error, EngineError::Unavailable { .. })
}

impl Drop for MultipartUpload {
    fn drop(&mut self) {
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        if !self.open {
            return;
        }
        let (bucket, object) = (Arc::clone(&self.bucket), self.object);
        let id = std::mem::take(&mut self.id);
        let in_flight = self.in_flight.take();
        let mut outcome_unknown = self.outcome_unknown;
        let pending_abort = self.bucket.pending_aborts.begin(object);
        runtime.spawn(async move {
            // A part that arrives after the abort stays ("it might be necessary to abort a given multipart upload multiple times", S3's
            // AbortMultipartUpload).
            if let Some(part) = in_flight {
                outcome_unknown |= part_of(part.await).is_err_and(|error| may_arrive(&error));
            }
            if outcome_unknown {
                return pending_abort.end_unknown();
            }
            let aborted = async {
                bucket.abort(object, &id).await?;
                bucket.remove(&bucket.upload_marker(object)).await
            };
            if let Err(error) = aborted.await {
                tracing::debug!(?error, %object, "an upload is left to whoever deletes its object");
            }
            drop(pending_abort);
        });
    }
}
