//! What all operations of the image store share: configuration, clients of containerd and registries, locks, caches.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tokio::sync::Semaphore;

use super::content::ContentStore;
use super::digest::Digest;
use super::leases::Leases;
use super::platform::Platform;
use super::prepare::ImageDocuments;
use super::records::Records;
use super::registry::RegistryClient;
use super::registry::config::{RegistryConfig, RetryPolicy};
use super::single_flight::{KeyedLocks, lock};
use super::snapshots::Snapshots;
use crate::client::Containerd;

/// Label on an image's document: milliseconds since 1970 at which the image was last asked for.
pub(super) const LAST_USED_LABEL: &str = "bismuth.image/last-used-ms";
/// Label on an image's document: it came from a registry.
pub(super) const PULLED_LABEL: &str = "bismuth.image/pulled";
/// Last use is written down at most this often: garbage collection thinks in hours, and a write costs a disk flush.
const LAST_USED_WRITE_INTERVAL: Duration = Duration::from_secs(60);

/// How an [`ImageStore`](super::ImageStore) works.
#[derive(Debug, Clone)]
pub struct ImageStoreConfig {
    /// Mirrors, plain-HTTP registries.
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

/// The shared inside of an [`ImageStore`](super::ImageStore).
pub(super) struct StoreInner {
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
    pub documents: Mutex<HashMap<Digest, Arc<ImageDocuments>>>,
    last_used: Mutex<HashMap<Digest, LastUsed>>,
}

#[derive(Clone, Copy)]
struct LastUsed {
    at: SystemTime,
    written: SystemTime,
}

impl StoreInner {
    pub fn new(containerd: Containerd, config: ImageStoreConfig) -> Self {
        StoreInner {
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
            documents: Mutex::default(),
            last_used: Mutex::default(),
            containerd,
            config,
        }
    }

    /// Notes that an image is used now. Failing to write it down is no reason to fail whoever uses it.
    pub async fn touch(&self, digest: &Digest) {
        let now = SystemTime::now();
        let due = {
            let mut last_used = lock(&self.last_used);
            let entry = last_used.entry(digest.clone()).or_insert(LastUsed {
                at: now,
                written: SystemTime::UNIX_EPOCH,
            });
            entry.at = now;
            let due = now
                .duration_since(entry.written)
                .is_ok_and(|age| age >= LAST_USED_WRITE_INTERVAL);
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
    pub fn last_use(&self, digest: &Digest) -> Option<SystemTime> {
        lock(&self.last_used).get(digest).map(|used| used.at)
    }

    /// Drops what is cached of an image that was removed.
    pub fn evict(&self, digest: &Digest) {
        lock(&self.last_used).remove(digest);
        lock(&self.documents).remove(digest);
    }
}

/// The name of the lock under which an image is made ready or removed.
pub(super) fn image_lock(digest: &Digest) -> String {
    format!("image {digest}")
}
