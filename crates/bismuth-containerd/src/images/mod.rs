//! The image store: pulls, imports, prepares, lists and garbage-collects images.
//!
//! ```text
//!  ensure(name) ──► record in containerd? ──yes──► view and lease there? ──yes──► ready (three small calls)
//!                     │ no, or Always                  │ no
//!                     ▼                                ▼
//!                   resolve ─► manifest ─► layers ─► unpack ─► keep: lease + view + record ──► ready
//!                   registry   └───── content store ──┘ snapshots
//!                   └── under a pull lease that expires by itself ──┘
//! ```
//!
//! Who keeps what, so that containerd's garbage collector removes exactly the rest:
//!
//! ```text
//!  image record (name) ──target──► index ─► manifest ─► configuration, layers      labels containerd.io/gc.ref.content.*
//!  image lease ─┬──────────────────► index or manifest                             (so a moved tag leaves its old image retained)
//!               └─► view ─► snapshot of the top layer ─► … ─► of the lowest
//! ```
//!
//! One lease and one view per image, an image being what a name resolves to: the digest of its index or manifest. When it
//! was last used stands as a label on that document.
//!
//! [`ImageStore`] does it with containerd; `fake::FakeImages` is a scripted fake of it.

mod archive;
mod content;
mod digest;
mod error;
pub mod fake;
mod fetch;
pub mod garbage;
mod import;
mod inner;
mod leases;
mod list;
mod manifest;
mod platform;
mod prepare;
mod progress;
mod pull;
mod records;
mod registry;
mod single_flight;
mod snapshots;
mod store;

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use async_trait::async_trait;
use oci_spec::distribution::Reference;
use tokio::sync::watch;

pub use digest::{Digest, InvalidDigest};
pub use error::{ImageError, Result};
pub use garbage::{DiskPolicy, GarbagePolicy, GarbageReport};
pub use inner::ImageStoreConfig;
pub use manifest::ImageConfig;
pub use platform::Platform;
pub use progress::{Phase, PullProgress};
pub use registry::config::{InvalidEndpoint, RegistryConfig, RegistryMirror, RetryPolicy};
pub use store::ImageStore;

/// When to ask the registry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum PullPolicy {
    /// Only if the name is not known here. What a tag stood for then, it stands for now.
    #[default]
    IfMissing,
    /// Ask what the tag stands for now, and get it if it is another image.
    Always,
    /// For a deployment: as [`Always`](Self::Always) for an image that came from a registry, but if the registry does not
    /// answer, what is here will do. An imported image is taken as it is.
    Refresh,
}

/// An image that containers can be started from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreparedImage {
    /// The name as it was asked for.
    pub reference: Reference,
    /// What the name stands for: the digest of the index, or of the manifest if there is no index. `name@digest` gives
    /// this very image on any machine.
    pub digest: Digest,
    /// The digest of the manifest chosen for this machine.
    pub manifest_digest: Digest,
    /// How the image wants to be run.
    pub config: ImageConfig,
    /// The directories to stack, top first; what `lowerdir=` takes.
    pub lower_dirs: Vec<PathBuf>,
}

/// An image as listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSummary {
    /// The names that stand for it, sorted; none if its tag moved on to another.
    pub names: Vec<String>,
    /// The digest of its index or manifest.
    pub digest: Digest,
    /// Bytes of its compressed blobs for this machine's platform. Blobs shared between images count for each.
    pub content_bytes: u64,
    /// Bytes of its unpacked layers; 0 if not unpacked. Layers shared between images count for each.
    pub unpacked_bytes: u64,
    /// When it came here.
    pub created: Option<SystemTime>,
    /// When somebody last asked for it, to the minute.
    pub last_used: Option<SystemTime>,
    /// Unpacked and retained: [`Images::ensure`] answers at once.
    pub prepared: bool,
    /// It came from a registry, so it can be had again; only such images are collected as garbage.
    pub pulled: bool,
}

/// What bismuthd needs of images. Object safe.
#[async_trait]
pub trait Images: Send + Sync {
    /// Makes an image ready and says where its files are. Concurrent calls for one image share the work; it goes on while any
    /// of them is waited for. `progress` may be dropped by its readers.
    ///
    /// # Errors
    /// See [`ImageError`]; [`ImageError::is_retryable`] tells what may pass.
    async fn ensure(
        &self,
        reference: &Reference,
        policy: PullPolicy,
        progress: watch::Sender<PullProgress>,
    ) -> Result<PreparedImage>;

    /// Every image of this namespace, in the order of their first names.
    ///
    /// # Errors
    /// containerd fails.
    async fn list(&self) -> Result<Vec<ImageSummary>>;

    /// Imports an OCI layout (a directory, or a tar of one) or a `docker save` archive, and makes its images ready. `name`
    /// replaces the name that the archive gives; it is needed if the archive gives none.
    ///
    /// # Errors
    /// The file cannot be read or makes no sense, or containerd fails.
    async fn import(&self, path: &Path, name: Option<&Reference>) -> Result<Vec<PreparedImage>>;

    /// Removes images that were pulled and are not used, as `policy` says. One image that cannot be removed does not keep
    /// the others; the report has the errors.
    ///
    /// # Errors
    /// The images, or the disk's use, cannot be found out.
    async fn collect_garbage(&self, policy: &GarbagePolicy) -> Result<GarbageReport>;
}
