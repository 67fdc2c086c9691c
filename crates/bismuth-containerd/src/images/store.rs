//! The image store: what holds the parts together, and the short path for images that are there.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures_util::FutureExt as _;
use oci_spec::distribution::Reference;
use tokio::sync::{Semaphore, watch};

use super::content::ContentStore;
use super::digest::Digest;
use super::error::{ImageError, Result};
use super::garbage::{GarbagePolicy, GarbageReport};
use super::keep::Described;
use super::leases::Leases;
use super::platform::Platform;
use super::progress::{Meter, Phase, PullProgress};
use super::records::Records;
use super::registry::RegistryClient;
use super::registry::config::{InvalidEndpoint, RegistryConfig, RetryPolicy};
use super::single_flight::{Flights, KeyedLocks};
use super::snapshots::Snapshots;
use super::{ImageSummary, Images, PreparedImage, PullPolicy};
use crate::client::Containerd;

/// Label on an image's document: milliseconds since 1970 at which the image was last asked for.
pub(super) const LAST_USED_LABEL: &str = "bismuth.image/last-used-ms";
/// Label on an image's document: it came from a registry.
pub(super) const PULLED_LABEL: &str = "bismuth.image/pulled";
/// Last use is written down at most this often: garbage collection thinks in hours, and a write costs a disk flush.
const LAST_USED_GRAIN: Duration = Duration::from_secs(60);

/// How an [`ImageStore`] works.
#[derive(Debug, Clone)]
pub struct ImageStoreConfig {
    /// Mirrors, plain-HTTP registries, proxies.
    pub registries: RegistryConfig,
    /// Docker's `config.json` with credentials. Read anew for every pull; may not exist.
    pub credentials_file: Option<PathBuf>,
    /// containerd's snapshotter: one whose mounts are overlays or binds.
    pub snapshotter: String,
    /// Blobs in transfer at a time, over all pulls.
    pub parallel_blobs: usize,
    /// How failures that may pass are met.
    pub retry: RetryPolicy,
    /// The longest that one image may take, retries included.
    pub pull_deadline: Duration,
    /// The machine that images are chosen for.
    pub platform: Platform,
}

impl Default for ImageStoreConfig {
    fn default() -> Self {
        Self {
            registries: RegistryConfig::default(),
            credentials_file: None,
            snapshotter: "overlayfs".to_owned(),
            // Enough to fill a link over several connections; more only lengthens each. Docker takes 3, containerd 3 to 5.
            parallel_blobs: 4,
            retry: RetryPolicy::default(),
            // 10 GB at 50 Mbit/s.
            pull_deadline: Duration::from_secs(30 * 60),
            platform: Platform::host(),
        }
    }
}

/// How long a deployment waits to learn whether a tag has moved, when there is an image to go on with.
const REFRESH_BOUND: Duration = Duration::from_secs(5);

type Ensured = Flights<(String, PullPolicy), Result<PreparedImage>, PullProgress>;

/// Images in one namespace of one containerd. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct ImageStore {
    parts: Arc<Parts>,
    flights: Arc<Ensured>,
}

/// What the work on images is done with.
pub(super) struct Parts {
    pub containerd: Containerd,
    pub config: ImageStoreConfig,
    pub registry: RegistryClient,
    pub content: ContentStore,
    pub leases: Leases,
    pub records: Records,
    pub snapshots: Snapshots,
    pub locks: Arc<KeyedLocks>,
    pub slots: Arc<Semaphore>,
    /// Documents never change under their digest, so they are read once.
    pub described: Mutex<HashMap<Digest, Arc<Described>>>,
    last_used: Mutex<HashMap<Digest, LastUsed>>,
}

#[derive(Clone, Copy)]
struct LastUsed {
    at: SystemTime,
    written: SystemTime,
}

impl ImageStore {
    /// Prepares the store. Nothing is sent yet: neither containerd nor a registry need be up.
    ///
    /// # Errors
    /// A registry setting makes no sense.
    pub fn new(containerd: Containerd, config: ImageStoreConfig) -> Result<Self, InvalidEndpoint> {
        config.registries.validate()?;
        let parts = Parts {
            registry: RegistryClient::new(
                config.registries.clone(),
                config.credentials_file.clone(),
            ),
            content: ContentStore::new(containerd.clone()),
            leases: Leases::new(containerd.clone()),
            records: Records::new(containerd.clone()),
            snapshots: Snapshots::new(containerd.clone(), config.snapshotter.clone()),
            locks: Arc::default(),
            slots: Arc::new(Semaphore::new(config.parallel_blobs.max(1))),
            described: Mutex::default(),
            last_used: Mutex::default(),
            containerd,
            config,
        };
        Ok(Self {
            parts: Arc::new(parts),
            flights: Arc::new(Flights::new()),
        })
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
            let (parts, reference) = (self.parts.clone(), reference.clone());
            async move {
                parts
                    .ensure_in_time(&reference, policy, Meter::new(sender))
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
        let (work, mut shared) = self.flights.join((reference.whole(), policy), work, died);
        tokio::pin!(work);
        loop {
            progress.send_replace(shared.borrow_and_update().clone());
            tokio::select! {
                biased;
                result = &mut work => {
                    progress.send_replace(shared.borrow_and_update().clone());
                    return result;
                }
                // Cancel safe: a change that was not seen is seen by the next call.
                changed = shared.changed() => if changed.is_err() {
                    let result = (&mut work).await;
                    progress.send_replace(shared.borrow().clone());
                    return result;
                }
            }
        }
    }

    async fn list(&self) -> Result<Vec<ImageSummary>> {
        self.parts.list().await
    }

    async fn import(&self, path: &Path, name: Option<&Reference>) -> Result<Vec<PreparedImage>> {
        self.parts.import(path, name).await
    }

    async fn collect_garbage(&self, policy: &GarbagePolicy) -> Result<GarbageReport> {
        self.parts.collect_garbage(policy).await
    }
}

impl Parts {
    async fn ensure_in_time(
        &self,
        reference: &Reference,
        policy: PullPolicy,
        meter: Meter,
    ) -> Result<PreparedImage> {
        let after = self.config.pull_deadline;
        // Boxed: the whole pull is inside.
        let work = self.ensure(reference, policy, &meter).boxed();
        let prepared = tokio::time::timeout(after, work)
            .await
            .unwrap_or_else(|_| {
                Err(ImageError::DeadlineExceeded {
                    reference: reference.whole(),
                    after,
                    last: meter.last_problem(),
                })
            })?;
        meter.phase(Phase::Ready);
        Ok(prepared)
    }

    async fn ensure(
        &self,
        reference: &Reference,
        policy: PullPolicy,
        meter: &Meter,
    ) -> Result<PreparedImage> {
        self.containerd.ensure_namespace().await?;
        if let Some(digest) = self.known(reference, policy, meter).await? {
            let resolved = reference.digest().is_some() || policy != PullPolicy::IfMissing;
            if let Some(prepared) = self.ready(reference, &digest, resolved).await? {
                return Ok(prepared);
            }
            let _turn = self.locks.lock(&image_lock(&digest)).await;
            if let Some(prepared) = self.prepare_local(reference, &digest, meter).await? {
                return Ok(prepared);
            }
        }
        self.pull(reference, meter).await
    }

    /// The digest that `reference` stands for, as far as it can be told without getting anything.
    async fn known(
        &self,
        reference: &Reference,
        policy: PullPolicy,
        meter: &Meter,
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
            PullPolicy::Always => self.resolved(reference, meter).await.map(Some),
            PullPolicy::Refresh => self.refreshed(reference, meter).await,
        }
    }

    /// What the tag stands for now, as a registry says.
    async fn resolved(&self, reference: &Reference, meter: &Meter) -> Result<Digest> {
        let fetcher = self.fetcher(reference, meter).await?;
        fetcher
            .first_of(|remote| async move { remote.head().await })
            .await
    }

    async fn refreshed(&self, reference: &Reference, meter: &Meter) -> Result<Option<Digest>> {
        let Some(here) = self.records.get(&reference.whole()).await? else {
            return Ok(None);
        };
        let labels = self.content.info(&here).await?.map(|info| info.labels);
        let pulled = labels.is_some_and(|labels| labels.contains_key(PULLED_LABEL));
        if !pulled {
            return Ok(Some(here));
        }
        let asked = tokio::time::timeout(REFRESH_BOUND, self.resolved(reference, meter)).await;
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

    /// Notes that an image is used now. Failing to write it down is no reason to fail whoever uses it.
    pub async fn touch(&self, digest: &Digest) {
        let now = SystemTime::now();
        let due = {
            let mut last_used = self
                .last_used
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let entry = last_used.entry(digest.clone()).or_insert(LastUsed {
                at: now,
                written: SystemTime::UNIX_EPOCH,
            });
            entry.at = now;
            let due = now
                .duration_since(entry.written)
                .is_ok_and(|age| age >= LAST_USED_GRAIN);
            if due {
                entry.written = now;
            }
            due
        };
        if due {
            let millis = now
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default()
                .as_millis();
            let label = HashMap::from([(LAST_USED_LABEL.to_owned(), millis.to_string())]);
            if let Err(error) = self.content.label(digest, label).await {
                tracing::warn!(image = %digest, %error, "could not write down when the image was used");
            }
        }
    }

    /// When an image was last used, as far as this process knows.
    pub fn used_here(&self, digest: &Digest) -> Option<SystemTime> {
        let last_used = self
            .last_used
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        last_used.get(digest).map(|used| used.at)
    }

    /// Forgets an image that was removed.
    pub fn forget(&self, digest: &Digest) {
        self.last_used
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(digest);
        self.described
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(digest);
    }
}

/// The name of the lock under which an image is made ready or removed.
pub(super) fn image_lock(digest: &Digest) -> String {
    format!("image {digest}")
}
