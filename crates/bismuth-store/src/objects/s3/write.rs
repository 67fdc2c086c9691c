//! Writes an object: in one request if it is small, as a multipart upload if it is not.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use object_store::ObjectStoreExt as _;

use super::failure::with_timeout;
use super::multipart::MultipartUpload;
use super::part_budget::{GroupPartBudget, PartPermit};
use super::{BOUND, Bucket};
use crate::objects::{ObjectId, ObjectWriter};
use crate::records::EngineError;

/// The least that S3 allows for every part but the last. Two of them are in memory at most: one that fills, one on its way. With 10,000 parts, which is
/// the most it allows, the largest object has 48 GiB.
const PART: usize = 5 << 20;
/// From so many bytes on, room for a whole part is made at once: doubling would take up to twice as much.
const LARGE: usize = 256 << 10;
/// Who takes longer over a part keeps room from others: 43 KiB a second.
const FILL_BOUND: Duration = Duration::from_secs(120);
/// A store that takes less in a second is as good as away.
const SLOWEST: u64 = 1 << 20;

/// The longest that it takes to send so much.
pub(super) fn transfer_bound(bytes: usize) -> Duration {
    BOUND + Duration::from_millis(bytes as u64 * 1000 / SLOWEST)
}

pub(super) struct Writer {
    bucket: Arc<Bucket>,
    id: ObjectId,
    /// Where its group has room.
    part_budget: GroupPartBudget,
    /// Up to a part.
    waiting: BytesMut,
    /// The room for what waits, once it is much, and since when.
    permit: Option<(PartPermit, Instant)>,
    /// What the parts before it belong to.
    upload: Option<MultipartUpload>,
}

impl Writer {
    pub(super) fn new(bucket: Arc<Bucket>, id: ObjectId, group: &str) -> Self {
        Self {
            part_budget: bucket.part_budget.of_group(group),
            bucket,
            id,
            waiting: BytesMut::new(),
            permit: None,
            upload: None,
        }
    }

    /// Waits until there is room for a whole part.
    async fn acquire_permit(&mut self) -> Result<(), EngineError> {
        if self.permit.is_none() {
            self.permit = Some((self.part_budget.acquire().await?, Instant::now()));
        }
        match &self.permit {
            Some((_, since)) if since.elapsed() > FILL_BOUND => {
                Err(EngineError::Slow { bound: FILL_BOUND })
            }
            _ => Ok(()),
        }
    }

    /// Sends the part that waits, when the one before it has arrived.
    async fn send_part(&mut self) -> Result<(), EngineError> {
        let upload = match &mut self.upload {
            Some(upload) => upload,
            none => none.insert(MultipartUpload::begin(Arc::clone(&self.bucket), self.id).await?),
        };
        upload.wait_for_part().await?;
        let permit = self.permit.take().map(|(permit, _)| permit);
        upload.send_part(self.waiting.split().freeze(), permit);
        Ok(())
    }
}

#[async_trait]
impl ObjectWriter for Writer {
    async fn write(&mut self, mut bytes: Bytes) -> Result<(), EngineError> {
        while !bytes.is_empty() {
            if self.waiting.len() == PART {
                self.send_part().await?;
            }
            let free = PART - self.waiting.len();
            let taken = bytes.split_to(free.min(bytes.len()));
            if self.waiting.len() + taken.len() > LARGE {
                self.acquire_permit().await?;
                self.waiting.reserve(free);
            }
            self.waiting.extend_from_slice(&taken);
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<(), EngineError> {
        if self.upload.is_some() && !self.waiting.is_empty() {
            self.send_part().await?;
        }
        if let Some(upload) = self.upload.take() {
            return upload.complete().await;
        }
        let bytes = self.waiting.split().freeze();
        let bound = transfer_bound(bytes.len());
        let path = self.bucket.object(self.id);
        with_timeout(bound, self.bucket.client.put(&path, bytes.into())).await?;
        Ok(())
    }
}
