//! The harness: a containerd of its own with an image store, and what containerd contains.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bismuth_base::Backoff;
use bismuth_containerd::images::{
    ImageError, ImageStore, ImageStoreConfig, Images as _, PreparedImage, PullPolicy, PullProgress,
    RetryPolicy,
};
use bismuth_containerd::{Containerd, Deadlines};
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::snapshots::ListSnapshotsRequest;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::{
    ListContentRequest, ListImagesRequest, ListRequest, ListStatusesRequest,
};
use oci_spec::distribution::Reference;
use tokio::sync::watch;

/// No act on images in these tests takes longer on a busy machine.
pub const BOUND: Duration = Duration::from_secs(60);

pub struct Harness {
    pub server: bismuth_testkit::Containerd,
    pub containerd: Containerd,
    pub store: ImageStore,
}

/// What containerd holds in our namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerdContents {
    pub images: BTreeSet<String>,
    pub content: BTreeSet<String>,
    pub ingests: BTreeSet<String>,
    pub snapshots: BTreeSet<String>,
    pub leases: BTreeSet<String>,
}

impl ContainerdContents {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Harness {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(configure: impl FnOnce(&mut ImageStoreConfig)) -> Self {
        let server = bismuth_testkit::Containerd::start()
            .await
            .expect("containerd");
        let containerd =
            Containerd::connect(&server.socket(), "bismuth", Deadlines::default()).expect("socket");
        let store = store(&containerd, configure);
        Self {
            server,
            containerd,
            store,
        }
    }

    /// As after a restart of bismuthd: nothing is remembered.
    pub fn restart_store(&mut self) {
        self.store = store(&self.containerd, |_| {});
    }

    pub async fn ensure(&self, name: &str) -> Result<PreparedImage, ImageError> {
        ensure(&self.store, name, PullPolicy::IfMissing).await
    }

    pub async fn contents(&self) -> ContainerdContents {
        let channel = self.containerd.channel();
        let mut content = ContentClient::new(channel.clone())
            .list(ListContentRequest::default())
            .await
            .expect("content")
            .into_inner();
        let mut digests = BTreeSet::new();
        while let Some(page) = content.message().await.expect("content") {
            digests.extend(page.info.into_iter().map(|info| info.digest));
        }
        let request = ListSnapshotsRequest {
            snapshotter: "overlayfs".into(),
            filters: Vec::new(),
        };
        let mut pages = SnapshotsClient::new(channel.clone())
            .list(request)
            .await
            .expect("snapshots")
            .into_inner();
        let mut snapshots = BTreeSet::new();
        while let Some(page) = pages.message().await.expect("snapshots") {
            snapshots.extend(page.info.into_iter().map(|info| info.name));
        }
        let images = ImagesClient::new(channel.clone())
            .list(ListImagesRequest::default())
            .await
            .expect("images")
            .into_inner();
        let leases = LeasesClient::new(channel.clone())
            .list(ListRequest::default())
            .await
            .expect("leases")
            .into_inner();
        let ingests = ContentClient::new(channel)
            .list_statuses(ListStatusesRequest::default())
            .await
            .expect("ingests")
            .into_inner();
        ContainerdContents {
            images: images.images.into_iter().map(|image| image.name).collect(),
            content: digests,
            ingests: ingests
                .statuses
                .into_iter()
                .map(|status| status.r#ref)
                .collect(),
            snapshots,
            leases: leases.leases.into_iter().map(|lease| lease.id).collect(),
        }
    }

    /// What containerd's own tool prints.
    pub fn ctr(&self, arguments: &[&str]) -> String {
        let mut ctr = Command::new("ctr");
        ctr.arg("--address").arg(self.server.socket());
        run(ctr.args(["--namespace", "bismuth"]).args(arguments))
    }

    /// The image's files, as a container would see them.
    pub fn mounted(&self, image: &PreparedImage) -> Mounted {
        Mounted::new(self.server.dir(), &image.lower_dirs)
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().expect("it starts");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Copies an image, with these options of `skopeo copy`.
pub fn skopeo(arguments: &[&str]) {
    let mut skopeo = Command::new("skopeo");
    run(skopeo
        .args(["--insecure-policy", "copy", "--quiet"])
        .args(arguments));
}

pub fn store(containerd: &Containerd, configure: impl FnOnce(&mut ImageStoreConfig)) -> ImageStore {
    let mut config = ImageStoreConfig {
        retry: RetryPolicy {
            attempts: 4,
            backoff: Backoff::new(Duration::from_millis(5), Duration::from_millis(50)),
        },
        ..ImageStoreConfig::default()
    };
    configure(&mut config);
    ImageStore::new(containerd.clone(), config)
}

pub fn name(text: &str) -> Reference {
    text.parse()
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}

pub async fn ensure(
    store: &ImageStore,
    text: &str,
    policy: PullPolicy,
) -> Result<PreparedImage, ImageError> {
    let (progress, _) = watch::channel(PullProgress::default());
    let reference = name(text);
    let ensured = store.ensure(&reference, policy, progress);
    tokio::time::timeout(BOUND, ensured)
        .await
        .expect("an answer in time")
}

/// Unmounted when dropped.
pub struct Mounted {
    dir: PathBuf,
}

impl Mounted {
    fn new(scratch: &Path, lower_dirs: &[PathBuf]) -> Self {
        use nix::mount::{MsFlags, mount};
        let dir = scratch.join(format!("mounted-{:x}", fastrand::u64(..)));
        let empty = scratch.join(format!("empty-{:x}", fastrand::u64(..)));
        std::fs::create_dir(&dir).expect("directory");
        // overlayfs wants two lower directories at least.
        std::fs::create_dir(&empty).expect("directory");
        let lower: Vec<_> = lower_dirs
            .iter()
            .chain([&empty])
            .map(|dir| dir.display().to_string())
            .collect();
        let options = format!("lowerdir={}", lower.join(":"));
        mount(
            Some("overlay"),
            &dir,
            Some("overlay"),
            MsFlags::MS_RDONLY,
            Some(options.as_str()),
        )
        .expect("mount the image");
        Self { dir }
    }

    pub fn read(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.dir.join(path)).ok()
    }

    pub fn names(&self, path: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.join(path)).expect("directory");
        let mut names: Vec<_> = entries
            .map(|entry| {
                entry
                    .expect("entry")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        names.sort();
        names
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = nix::mount::umount(&self.dir) {
            eprintln!("unmount {}: {error}", self.dir.display());
        }
    }
}
