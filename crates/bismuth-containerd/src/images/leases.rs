//! Leases: protect content and snapshots from containerd's garbage collector.
//!
//! ```text
//!   pull lease   "bismuth.pull.…"     holds all that a pull writes; expires by itself should we die; deleted at the end
//!   image lease  "bismuth.image.…"    holds the image's document and its view, hence the chain of snapshots under it
//! ```
//!
//! A lease is held by nothing but its own existence; deleting it with `sync` runs a collection before the call returns.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::{
    AddResourceRequest, CreateRequest, DeleteRequest, Lease, ListRequest, Resource,
};

use super::digest::Digest;
use super::error::Result;
use crate::client::CallClass::{Pull, Quick};
use crate::client::Containerd;
use crate::error::{unless_exists, unless_missing};

/// On an image lease: the digest of the image it keeps.
const IMAGE_LABEL: &str = "bismuth.image";
/// On a pull lease: the digest of the image that is pulled.
const PULL_LABEL: &str = "bismuth.pull";
/// After this time containerd ignores the lease (containerd `metadata/gc.go`, `labelGCExpire`).
const EXPIRE_LABEL: &str = "containerd.io/gc.expire";

/// The leases of one containerd namespace.
#[derive(Clone)]
pub(crate) struct Leases {
    containerd: Containerd,
}

/// The id of the lease that keeps the image with this digest.
pub(crate) fn image_lease(digest: &Digest) -> String {
    format!("bismuth.image.{digest}")
}

impl Leases {
    pub fn new(containerd: Containerd) -> Self {
        Self { containerd }
    }

    /// Begins a lease for a pull and returns its id; what a pull that died wrote is found and kept on by this one.
    pub async fn create_for_pull(&self, digest: &Digest, expires_in: Duration) -> Result<String> {
        let id = format!("bismuth.pull.{digest}.{:016x}", fastrand::u64(..));
        let expires = prost_types::Timestamp::from(SystemTime::now() + expires_in);
        let labels = HashMap::from([
            (PULL_LABEL.to_owned(), digest.to_string()),
            // RFC 3339, as containerd parses it.
            (EXPIRE_LABEL.to_owned(), expires.to_string()),
        ]);
        self.create(&id, labels).await?;
        Ok(id)
    }

    /// Makes sure that the image's lease exists.
    pub async fn create_for_image(&self, digest: &Digest) -> Result<String> {
        let id = image_lease(digest);
        let labels = HashMap::from([(IMAGE_LABEL.to_owned(), digest.to_string())]);
        self.create(&id, labels).await?;
        Ok(id)
    }

    async fn create(&self, id: &str, labels: HashMap<String, String>) -> Result<()> {
        let mut client = LeasesClient::new(self.containerd.channel());
        let request = CreateRequest {
            id: id.to_owned(),
            labels,
        };
        let create = self
            .containerd
            .call(Quick, "create lease", id, client.create(request));
        unless_exists(create.await)?;
        Ok(())
    }

    /// Puts a blob under a lease.
    pub async fn add_content(&self, lease: &str, digest: &Digest) -> Result<()> {
        self.add_resource(lease, digest.to_string(), "content".to_owned())
            .await
    }

    /// Puts a snapshot, and so all its parents, under a lease.
    pub async fn add_snapshot(&self, lease: &str, snapshotter: &str, key: &str) -> Result<()> {
        self.add_resource(lease, key.to_owned(), format!("snapshots/{snapshotter}"))
            .await
    }

    async fn add_resource(&self, lease: &str, id: String, r#type: String) -> Result<()> {
        let mut client = LeasesClient::new(self.containerd.channel());
        let object = format!("{type} {id} to lease {lease}");
        let request = AddResourceRequest {
            id: lease.to_owned(),
            resource: Some(Resource { id, r#type }),
        };
        self.containerd
            .call(Quick, "add", &object, client.add_resource(request))
            .await?;
        Ok(())
    }

    /// Deletes a lease; one that is gone is fine. With `collect`, what it alone held is gone when this returns.
    pub async fn delete(&self, id: &str, collect: bool) -> Result<()> {
        let mut client = LeasesClient::new(self.containerd.channel());
        let request = DeleteRequest {
            id: id.to_owned(),
            sync: collect,
        };
        // A collection deletes snapshots' directories: as long as the disk needs for it.
        let class = if collect { Pull } else { Quick };
        let delete = self
            .containerd
            .call(class, "delete lease", id, client.delete(request));
        unless_missing(delete.await)?;
        Ok(())
    }

    /// Deletes every pull lease of an image, of this pull and of those that died.
    pub async fn delete_pulls(&self, digest: &Digest, collect: bool) -> Result<()> {
        let pulls = format!("labels.{PULL_LABEL:?}=={digest}");
        for lease in self.list(&pulls).await? {
            self.delete(&lease.id, collect).await?;
        }
        Ok(())
    }

    /// Whether the image's lease exists.
    pub async fn has_image(&self, digest: &Digest) -> Result<bool> {
        let filter = format!("id=={}", image_lease(digest));
        Ok(!self.list(&filter).await?.is_empty())
    }

    /// The digests of all retained images, with the time each was first retained.
    pub async fn images(&self) -> Result<Vec<(Digest, Option<SystemTime>)>> {
        let leases = self.list(&format!("labels.{IMAGE_LABEL:?}")).await?;
        let image = |lease: &Lease| {
            let digest = Digest::parse(lease.labels.get(IMAGE_LABEL)?).ok()?;
            Some((digest, created(lease.created_at)))
        };
        Ok(leases.iter().filter_map(image).collect())
    }

    /// Every lease that a filter (containerd `filters`) selects.
    async fn list(&self, filter: &str) -> Result<Vec<Lease>> {
        let mut client = LeasesClient::new(self.containerd.channel());
        let request = ListRequest {
            filters: vec![filter.to_owned()],
        };
        let list = self
            .containerd
            .call(Quick, "list leases", filter, client.list(request));
        Ok(list.await?.leases)
    }
}

/// When containerd says something was made, if it does.
pub(super) fn created(at: Option<prost_types::Timestamp>) -> Option<SystemTime> {
    at.and_then(|at| SystemTime::try_from(at).ok())
}
