//! [`ImageStore`]: concurrent calls for one image share the work, and prepared images are answered at once.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt as _;
use oci_spec::distribution::Reference;
use tokio::sync::watch;

use super::digest::Digest;
use super::error::{ImageError, Result};
use super::garbage::{GarbagePolicy, GarbageReport};
use super::inner::{ImageStoreConfig, PULLED_LABEL, StoreInner, image_lock};
use super::progress::{Phase, ProgressReporter, PullProgress};
use super::single_flight::SingleFlight;
use super::{ImageSummary, Images, PreparedImage, PullPolicy};
use crate::client::Containerd;

/// How long a deployment waits to learn whether a tag has moved, when there is an image to go on with.
const REFRESH_BOUND: Duration = Duration::from_secs(5);

type EnsureCalls = SingleFlight<(String, PullPolicy), Result<PreparedImage>, PullProgress>;

/// Images in one namespace of one containerd. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct ImageStore {
    inner: Arc<StoreInner>,
    single_flight: Arc<EnsureCalls>,
}

impl ImageStore {
    /// Prepares the store. Nothing is sent yet: neither containerd nor a registry need be up.
    pub fn new(containerd: Containerd, config: ImageStoreConfig) -> Self {
        Self {
            inner: Arc::new(StoreInner::new(containerd, config)),
            single_flight: Arc::new(SingleFlight::new()),
        }
    }
}

#[async_trait]
impl Images for ImageStore {
    async fn ensure(
        &self,
        reference: &Reference,
        policy: PullPolicy,
        progress: watch::Sender<PullProgress>,
    ) -> Result<PreparedImage> {
        let work = |sender| {
            let (inner, reference) = (self.inner.clone(), reference.clone());
            async move {
                inner
                    .ensure_in_time(&reference, policy, ProgressReporter::new(sender))
                    .await
            }
        };
        let name = reference.whole();
        let died = move |error: tokio::task::JoinError| {
            Err(ImageError::Interrupted {
                reference: name,
                reason: error.to_string(),
            })
        };
        let (work, mut shared) = self
            .single_flight
            .join((reference.whole(), policy), work, died);
        tokio::pin!(work);
        loop {
            progress.send_replace(shared.borrow_and_update().clone());
            tokio::select! {
                biased;
                result = &mut work => {
                    progress.send_replace(shared.borrow_and_update().clone());
                    return result;
                }
                // Cancel safe: a change that was not seen is seen by the next call. After the last one only the result is awaited.
                Ok(()) = shared.changed() => {}
            }
        }
    }

    async fn list(&self) -> Result<Vec<ImageSummary>> {
        self.inner.list().await
    }

    async fn import(&self, path: &Path, name: Option<&Reference>) -> Result<Vec<PreparedImage>> {
        self.inner.import(path, name).await
    }

    async fn collect_garbage(&self, policy: &GarbagePolicy) -> Result<GarbageReport> {
        self.inner.collect_garbage(policy).await
    }
}

impl StoreInner {
    async fn ensure_in_time(
        &self,
        reference: &Reference,
        policy: PullPolicy,
        progress: ProgressReporter,
    ) -> Result<PreparedImage> {
        let after = self.config.pull_deadline;
        // Boxed: the whole pull is inside.
        let work = self.ensure(reference, policy, &progress).boxed();
        let prepared = tokio::time::timeout(after, work)
            .await
            .unwrap_or_else(|_| {
                Err(ImageError::DeadlineExceeded {
                    reference: reference.whole(),
                    after,
                    last: progress.last_problem(),
                })
            })?;
        progress.phase(Phase::Ready);
        Ok(prepared)
    }

    async fn ensure(
        &self,
        reference: &Reference,
        policy: PullPolicy,
        progress: &ProgressReporter,
    ) -> Result<PreparedImage> {
        self.containerd.ensure_namespace().await?;
        if let Some(digest) = self.current_digest(reference, policy, progress).await? {
            let resolved = reference.digest().is_some() || policy != PullPolicy::IfMissing;
            if let Some(prepared) = self
                .find_prepared_image(reference, &digest, resolved)
                .await?
            {
                return Ok(prepared);
            }
            let _lock = self.locks.lock(&image_lock(&digest)).await;
            if let Some(prepared) = self.prepare_local(reference, &digest, progress).await? {
                return Ok(prepared);
            }
        }
        self.pull(reference, progress).await
    }

    /// The digest that `reference` stands for, as far as it can be told without getting anything.
    async fn current_digest(
        &self,
        reference: &Reference,
        policy: PullPolicy,
        progress: &ProgressReporter,
    ) -> Result<Option<Digest>> {
        if let Some(text) = reference.digest() {
            let digest = Digest::parse(text).map_err(|error| ImageError::Unsupported {
                object: reference.whole(),
                what: error.to_string(),
            })?;
            return Ok(Some(digest));
        }
        match policy {
            PullPolicy::IfMissing => self.records.get(&reference.whole()).await,
            PullPolicy::Always => self.resolve_digest(reference, progress).await.map(Some),
            PullPolicy::Refresh => self.refresh_digest(reference, progress).await,
        }
    }

    /// What the tag stands for now, as a registry says.
    async fn resolve_digest(
        &self,
        reference: &Reference,
        progress: &ProgressReporter,
    ) -> Result<Digest> {
        let fetcher = self.fetcher(reference, progress).await;
        fetcher
            .first_answer(|remote| async move { remote.head().await })
            .await
    }

    async fn refresh_digest(
        &self,
        reference: &Reference,
        progress: &ProgressReporter,
    ) -> Result<Option<Digest>> {
        let Some(here) = self.records.get(&reference.whole()).await? else {
            return Ok(None);
        };
        let labels = self.content.info(&here).await?.map(|info| info.labels);
        let pulled = labels.is_some_and(|labels| labels.contains_key(PULLED_LABEL));
        if !pulled {
            return Ok(Some(here));
        }
        let asked =
            tokio::time::timeout(REFRESH_BOUND, self.resolve_digest(reference, progress)).await;
        let reason = match asked {
            Ok(Ok(now)) => return Ok(Some(now)),
            Ok(Err(error)) => error.to_string(),
            Err(_elapsed) => format!("no answer within {} s", REFRESH_BOUND.as_secs()),
        };
        tracing::warn!(
            image = reference.whole(),
            reason,
            "cannot ask what the tag stands for now; the image that is here is used"
        );
        Ok(Some(here))
    }
}
