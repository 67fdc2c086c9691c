//! Fetches the documents and blobs of one image from its registry into the content store.
//!
//! ```text
//!   blob ──► there already? ──► done
//!        └─► open ingest at offset n ──► GET from n ──► 1 MiB at a time: hash, write ──► ours = promised? ──► commit
//!                  ▲                                        │ cut off                        │ no
//!                  └──────────────── pause ◄────────────────┘        drop it, next endpoint ◄┘
//! ```
//!
//! What arrived before a cut is kept, by containerd, also over the death of this process. Within the process the running
//! hash is kept with it, so our own check covers the whole blob; of a part that an earlier process left, only containerd's
//! check at the commit does. Memory: one chunk being filled and one being written, per blob in transfer.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use bismuth_base::{Delays, chain};
use futures_util::StreamExt as _;
use oci_client::errors::DigestError;
use oci_spec::distribution::Reference;
use tokio::sync::Semaphore;

use super::content::{CHUNK, ContentStore, Ingest, Opened};
use super::digest::{Digest, Hasher};
use super::error::{ImageError, Result};
use super::manifest::Descriptor;
use super::progress::ProgressReporter;
use super::registry::config::RetryPolicy;
use super::registry::{BlobStream, Remote};
use super::single_flight::{KeyedLocks, lock};

/// What it takes to get things for one image.
pub(crate) struct Fetcher {
    pub reference: Reference,
    pub remotes: Vec<Remote>,
    /// Why endpoints are missing from `remotes`.
    pub unusable: Vec<ImageError>,
    pub retry: RetryPolicy,
    pub progress: ProgressReporter,
    /// One writer per blob, whichever image it is for.
    pub locks: Arc<KeyedLocks>,
    /// Bounds the blobs in transfer, over all pulls.
    pub slots: Arc<Semaphore>,
    /// Blobs, with their sizes, of which containerd may hold a part.
    pub unfinished: Mutex<BTreeMap<Digest, u64>>,
}

/// Where the transfer of one blob is, over several attempts.
struct Transfer {
    /// The hash of the bytes in the ingest; `None` if some of them came before our time.
    hasher: Option<Hasher>,
    offset: u64,
    /// The farthest that any attempt came: going beyond is progress.
    farthest: u64,
    /// What was reported of it.
    reported: u64,
}

impl Fetcher {
    /// Makes a request at one endpoint after the other until one answers; passing failures are retried.
    pub async fn first_answer<T, F>(&self, request: impl Fn(Remote) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let mut failures = self.unusable.clone();
        for remote in &self.remotes {
            match self.retrying(|| request(remote.clone())).await {
                Err(error) if error.is_endpoints_fault() => failures.push(error),
                other => return other,
            }
        }
        Err(ImageError::of_endpoints(&self.reference.whole(), failures))
    }

    async fn retrying<T, F>(&self, request: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let mut delays = self.retry.backoff.delays();
        loop {
            match request().await {
                Err(error) if self.is_worth_retrying(&error, &delays) => {
                    self.pause(&mut delays, &error).await;
                }
                other => return other,
            }
        }
    }

    fn is_worth_retrying(&self, error: &ImageError, delays: &Delays) -> bool {
        error.is_retryable() && delays.attempts() + 1 < self.retry.attempts
    }

    async fn pause(&self, delays: &mut Delays, error: &ImageError) {
        let pause = delays.next_delay();
        tracing::warn!(image = %self.reference, failures = delays.attempts(), ?pause, %error, "trying again");
        self.progress.problem(error.to_string());
        tokio::time::sleep(pause).await;
    }

    /// Makes sure that a blob is in `content`.
    pub async fn blob(&self, content: &ContentStore, blob: &Descriptor) -> Result<()> {
        let _lock = self.locks.lock(&format!("blob {}", blob.digest)).await;
        if content.info(&blob.digest).await?.is_some() {
            self.progress.update_bytes(0, blob.size);
            return Ok(());
        }
        // The semaphore is never closed.
        let _slot = self.slots.acquire().await;
        let mut transfer = Transfer::new(&blob.digest);
        let mut failures = self.unusable.clone();
        for remote in &self.remotes {
            match self.blob_from(remote, content, blob, &mut transfer).await {
                Ok(()) => {
                    self.unfinished().remove(&blob.digest);
                    return Ok(());
                }
                Err(error) if error.is_endpoints_fault() => failures.push(error),
                Err(error) => return Err(error),
            }
        }
        Err(ImageError::of_endpoints(&self.reference.whole(), failures))
    }

    async fn blob_from(
        &self,
        remote: &Remote,
        content: &ContentStore,
        blob: &Descriptor,
        transfer: &mut Transfer,
    ) -> Result<()> {
        let mut delays = self.retry.backoff.delays();
        let mut began_anew = false;
        loop {
            let reached = transfer.farthest;
            let error = match self.attempt(remote, content, blob, transfer).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if transfer.farthest > reached {
                delays.reset();
            }
            match &error {
                // What an earlier process left may have been the bad part: once, without it.
                ImageError::DigestMismatch { .. } if transfer.hasher.is_none() && !began_anew => {
                    began_anew = true;
                    transfer.restart(&blob.digest, &self.progress);
                }
                error if self.is_worth_retrying(error, &delays) => {
                    self.pause(&mut delays, error).await;
                }
                _ => return Err(error),
            }
        }
    }

    async fn attempt(
        &self,
        remote: &Remote,
        content: &ContentStore,
        blob: &Descriptor,
        transfer: &mut Transfer,
    ) -> Result<()> {
        let mut ingest = match content.open(&blob.digest, blob.size).await? {
            Opened::Present => {
                transfer.report(blob.size, &self.progress);
                return Ok(());
            }
            Opened::Ingest(ingest) => ingest,
        };
        self.unfinished().insert(blob.digest.clone(), blob.size);
        if ingest.offset() > blob.size {
            ingest.restart();
        }
        transfer.align(&blob.digest, ingest.offset(), &self.progress);
        if ingest.offset() < blob.size {
            let body = remote.blob(&blob.digest, ingest.offset()).await?;
            if body.offset != ingest.offset() {
                ingest.restart();
                transfer.align(&blob.digest, 0, &self.progress);
            }
            self.copy(remote, body, blob, &mut ingest, transfer).await?;
        }
        self.finish(remote, blob, ingest, transfer).await
    }

    async fn copy(
        &self,
        remote: &Remote,
        body: BlobStream,
        blob: &Descriptor,
        ingest: &mut Ingest,
        transfer: &mut Transfer,
    ) -> Result<()> {
        let act = format!("get blob {}", blob.digest);
        let mut stream = body.stream;
        let mut chunk = Vec::with_capacity(CHUNK);
        let mut broken = None;
        while let Some(part) = stream.next().await {
            let part = match part {
                Ok(part) => part,
                // `oci-client`'s own verdict at the end of a whole body; ours follows and knows more.
                Err(error)
                    if error
                        .get_ref()
                        .is_some_and(|inner| inner.is::<DigestError>()) =>
                {
                    break;
                }
                Err(error) => {
                    broken = Some(remote.incomplete_body(&act, chain(&error)));
                    break;
                }
            };
            if ingest.offset() + (chunk.len() + part.len()) as u64 > blob.size {
                let message = format!(
                    "sent more than the {} bytes that the manifest promises",
                    blob.size
                );
                return Err(remote.refused(&act, message));
            }
            let mut rest = part.as_ref();
            while !rest.is_empty() {
                let (now, later) = rest.split_at(rest.len().min(CHUNK - chunk.len()));
                chunk.extend_from_slice(now);
                rest = later;
                if chunk.len() == CHUNK {
                    let full = std::mem::replace(&mut chunk, Vec::with_capacity(CHUNK));
                    transfer.append(ingest, full, &self.progress).await?;
                }
            }
        }
        if !chunk.is_empty() {
            transfer.append(ingest, chunk, &self.progress).await?;
        }
        match broken {
            Some(error) => Err(error),
            None if ingest.offset() < blob.size => Err(ImageError::SizeMismatch {
                digest: blob.digest.clone(),
                origin: remote.name().to_owned(),
                expected: blob.size,
                actual: ingest.offset(),
            }),
            None => Ok(()),
        }
    }

    async fn finish(
        &self,
        remote: &Remote,
        blob: &Descriptor,
        ingest: Ingest,
        transfer: &Transfer,
    ) -> Result<()> {
        let actual = transfer.hasher.clone().map(Hasher::finish);
        match actual {
            Some(actual) if actual != blob.digest => {
                ingest.discard().await?;
                blob.digest.check(remote.name(), actual)
            }
            _ => ingest.commit(self.source_label()).await.map(drop),
        }
    }

    fn unfinished(&self) -> MutexGuard<'_, BTreeMap<Digest, u64>> {
        lock(&self.unfinished)
    }

    /// Drops what was begun and not finished, when it is of no use any more.
    pub async fn discard_unfinished(&self, content: &ContentStore) {
        let unfinished = std::mem::take(&mut *self.unfinished());
        for (digest, size) in unfinished {
            let _lock = self.locks.lock(&format!("blob {digest}")).await;
            // Opening waits until containerd has noticed that the last writer is gone.
            let discarded = match content.open(&digest, size).await {
                Ok(Opened::Ingest(ingest)) => ingest.discard().await,
                Ok(Opened::Present) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = discarded {
                tracing::warn!(blob = %digest, %error, "an unfinished blob is left to its lease's end");
            }
        }
    }

    /// Where the blob can be had again: what containerd's own pushes and lazy pulls look at (containerd
    /// `remotes/docker/handler.go`, `AppendDistributionSourceLabel`).
    fn source_label(&self) -> HashMap<String, String> {
        let key = format!(
            "containerd.io/distribution.source.{}",
            self.reference.registry()
        );
        HashMap::from([(key, self.reference.repository().to_owned())])
    }
}

impl Transfer {
    fn new(digest: &Digest) -> Self {
        Self {
            hasher: Some(Hasher::like(digest)),
            offset: 0,
            farthest: 0,
            reported: 0,
        }
    }

    /// Takes in where the ingest really is.
    fn align(&mut self, digest: &Digest, offset: u64, progress: &ProgressReporter) {
        if offset != self.offset {
            self.hasher = (offset == 0).then(|| Hasher::like(digest));
            self.offset = offset;
        }
        self.farthest = self.farthest.max(offset);
        self.report(offset, progress);
    }

    fn restart(&mut self, digest: &Digest, progress: &ProgressReporter) {
        self.hasher = Some(Hasher::like(digest));
        self.offset = 0;
        self.report(0, progress);
    }

    async fn append(
        &mut self,
        ingest: &mut Ingest,
        chunk: Vec<u8>,
        progress: &ProgressReporter,
    ) -> Result<()> {
        // The hash may only move when containerd has the bytes, or a retry would count them twice.
        let mut hasher = self.hasher.clone();
        if let Some(hasher) = &mut hasher {
            hasher.update(&chunk);
        }
        ingest.write(chunk).await?;
        self.hasher = hasher;
        self.offset = ingest.offset();
        self.farthest = self.farthest.max(self.offset);
        self.report(self.offset, progress);
        Ok(())
    }

    fn report(&mut self, bytes: u64, progress: &ProgressReporter) {
        progress.update_bytes(self.reported, bytes);
        self.reported = bytes;
    }
}
