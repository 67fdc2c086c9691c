//! Snapshots: unpacks layers on top of each other, and gives an image's view and its lower directories.
//!
//! ```text
//!   layer 0 ─ Prepare("") ─ Apply ─ Commit ─► chain id 0
//!   layer 1 ─ Prepare(chain id 0) ─ Apply ─ Commit ─► chain id 1        whiteouts become overlayfs whiteouts in Apply
//!                                                        └── View ──► lower directories, top first
//! ```
//!
//! Two who unpack the same layer at once both work; one of them commits, the other finds it done and throws its own away.

use std::collections::HashMap;
use std::path::PathBuf;

use containerd_client::services::v1::ApplyRequest;
use containerd_client::services::v1::diff_client::DiffClient;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::snapshots::{
    CommitSnapshotRequest, MountsRequest, PrepareSnapshotRequest, RemoveSnapshotRequest,
    StatSnapshotRequest, UsageRequest, ViewSnapshotRequest,
};
use containerd_client::types::{self, Mount};

use super::digest::Digest;
use super::error::{ImageError, Result};
use super::manifest::{Descriptor, layer_media_type};
use crate::client::CallClass::{Create, Pull, Quick};
use crate::client::{Containerd, NamespacedChannel};
use crate::error::{unless_exists, unless_missing};

/// The snapshots of one snapshotter, as seen through one handle (whose lease, if any, holds what is made).
#[derive(Clone)]
pub(crate) struct Snapshots {
    containerd: Containerd,
    snapshotter: String,
}

/// The key of the view through which the image with this digest is seen.
pub(crate) fn view_key(image: &Digest) -> String {
    format!("bismuth.view.{image}")
}

impl Snapshots {
    pub fn new(containerd: Containerd, snapshotter: String) -> Self {
        Self {
            containerd,
            snapshotter,
        }
    }

    pub fn snapshotter(&self) -> &str {
        &self.snapshotter
    }

    fn client(&self) -> SnapshotsClient<NamespacedChannel> {
        SnapshotsClient::new(self.containerd.channel())
    }

    /// Whether there is a snapshot of this name.
    pub async fn exists(&self, key: &str) -> Result<bool> {
        let mut client = self.client();
        let request = StatSnapshotRequest {
            snapshotter: self.snapshotter.clone(),
            key: key.to_owned(),
        };
        let stat = self
            .containerd
            .call(Quick, "look up snapshot", key, client.stat(request));
        Ok(unless_missing(stat.await)?.is_some())
    }

    /// Bytes on disk of one snapshot, without its parents. `None` if it is gone.
    pub async fn usage(&self, key: &str) -> Result<Option<u64>> {
        let mut client = self.client();
        let request = UsageRequest {
            snapshotter: self.snapshotter.clone(),
            key: key.to_owned(),
        };
        let usage = self
            .containerd
            .call(Create, "measure snapshot", key, client.usage(request));
        Ok(unless_missing(usage.await)?.and_then(|usage| u64::try_from(usage.size).ok()))
    }

    /// Unpacks one layer on top of `parent` ("" for none) and names the result `chain_id`.
    pub async fn unpack(
        &self,
        layer: &Descriptor,
        diff_id: &Digest,
        parent: &str,
        chain_id: &Digest,
    ) -> Result<()> {
        let media_type = layer_media_type(layer)?;
        // As containerd's own clients name it (containerd `unpacker.go`), so that tools recognise what it is.
        let key = format!("extract-{:016x} {chain_id}", fastrand::u64(..));
        let mounts = self.prepare(&key, parent, chain_id).await?;
        let unpacked = async {
            let actual = self.apply(layer, media_type, mounts).await?;
            if actual != diff_id.as_str() {
                let object = format!("unpacked layer {}", layer.digest);
                let origin = "the image's configuration";
                return Err(ImageError::mismatch(object, origin, diff_id, actual));
            }
            self.commit(&key, chain_id).await
        };
        match unpacked.await {
            Ok(true) => Ok(()),
            // Somebody else committed it first: ours is superfluous.
            Ok(false) => self.remove(&key).await,
            Err(error) => {
                if let Err(leftover) = self.remove(&key).await {
                    tracing::warn!(snapshot = %key, error = %leftover, "an unfinished snapshot is left to its lease");
                }
                Err(error)
            }
        }
    }

    async fn prepare(&self, key: &str, parent: &str, chain_id: &Digest) -> Result<Vec<Mount>> {
        let mut client = self.client();
        let request = PrepareSnapshotRequest {
            snapshotter: self.snapshotter.clone(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            labels: snapshot_labels(chain_id),
        };
        let prepare = client.prepare(request);
        Ok(self
            .containerd
            .call(Create, "prepare snapshot", key, prepare)
            .await?
            .mounts)
    }

    /// Has containerd unpack a layer; returns the digest of its uncompressed content.
    async fn apply(
        &self,
        layer: &Descriptor,
        media_type: &str,
        mounts: Vec<Mount>,
    ) -> Result<String> {
        let mut client = DiffClient::new(self.containerd.bulk_channel());
        let request = ApplyRequest {
            diff: Some(types::Descriptor {
                media_type: media_type.to_owned(),
                digest: layer.digest.to_string(),
                size: layer.size as i64,
                annotations: HashMap::new(),
            }),
            mounts,
            ..ApplyRequest::default()
        };
        let apply = client.apply(request);
        let answer = self
            .containerd
            .call(Pull, "unpack layer", layer.digest.as_str(), apply)
            .await?;
        Ok(answer
            .applied
            .map(|applied| applied.digest)
            .unwrap_or_default())
    }

    /// `false` if a snapshot of that name was there already.
    async fn commit(&self, key: &str, name: &Digest) -> Result<bool> {
        let mut client = self.client();
        let request = CommitSnapshotRequest {
            snapshotter: self.snapshotter.clone(),
            name: name.to_string(),
            key: key.to_owned(),
            labels: snapshot_labels(name),
        };
        // Measures the snapshot's size by walking it.
        let commit = self
            .containerd
            .call(Pull, "commit snapshot", key, client.commit(request));
        Ok(unless_exists(commit.await)?.is_some())
    }

    /// Removes a snapshot; one that is gone is fine.
    async fn remove(&self, key: &str) -> Result<()> {
        let mut client = self.client();
        let request = RemoveSnapshotRequest {
            snapshotter: self.snapshotter.clone(),
            key: key.to_owned(),
        };
        let remove = self
            .containerd
            .call(Create, "remove snapshot", key, client.remove(request));
        unless_missing(remove.await)?;
        Ok(())
    }

    /// Makes sure that there is a view of `parent` under `key`.
    pub async fn view(&self, key: &str, parent: &str) -> Result<()> {
        let mut client = self.client();
        let request = ViewSnapshotRequest {
            snapshotter: self.snapshotter.clone(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            labels: HashMap::new(),
        };
        let view = self
            .containerd
            .call(Create, "view snapshot", parent, client.view(request));
        unless_exists(view.await)?;
        Ok(())
    }

    /// The directories that make up a view, top first, or `None` if there is no such view.
    pub async fn lower_dirs(&self, key: &str) -> Result<Option<Vec<PathBuf>>> {
        let mut client = self.client();
        let request = MountsRequest {
            snapshotter: self.snapshotter.clone(),
            key: key.to_owned(),
        };
        let mounts = self
            .containerd
            .call(Quick, "look up mounts of", key, client.mounts(request));
        let found = unless_missing(mounts.await)?;
        found
            .map(|answer| lower_dirs(key, &answer.mounts))
            .transpose()
    }
}

fn snapshot_labels(chain_id: &Digest) -> HashMap<String, String> {
    HashMap::from([(
        "containerd.io/snapshot.ref".to_owned(),
        chain_id.to_string(),
    )])
}

/// Reads a view's mounts. overlayfs gives a bind of one directory for a single layer, and an overlay without upper
/// directory for several (containerd `snapshots/overlay/overlay.go`, `mounts`).
fn lower_dirs(key: &str, mounts: &[Mount]) -> Result<Vec<PathBuf>> {
    let malformed = |reason: String| ImageError::Malformed {
        what: "mounts of",
        object: key.to_owned(),
        reason,
    };
    let [mount] = mounts else {
        return Err(malformed(format!(
            "{} mounts where one was expected",
            mounts.len()
        )));
    };
    let dirs = match mount.r#type.as_str() {
        "bind" => vec![PathBuf::from(&mount.source)],
        "overlay" => {
            let option = mount
                .options
                .iter()
                .find_map(|option| option.strip_prefix("lowerdir="));
            split_lower_dirs(
                option.ok_or_else(|| malformed("an overlay without lowerdir".to_owned()))?,
            )
        }
        other => {
            return Err(malformed(format!(
                "a mount of type {other:?}; Bismuth needs the overlayfs or native snapshotter"
            )));
        }
    };
    match dirs.iter().find(|dir| !dir.is_absolute()) {
        Some(dir) => Err(malformed(format!(
            "{} is not an absolute path",
            dir.display()
        ))),
        None => Ok(dirs),
    }
}

/// Splits at colons that no backslash escapes (kernel `Documentation/filesystems/overlayfs.rst`).
fn split_lower_dirs(option: &str) -> Vec<PathBuf> {
    let mut dirs = vec![String::new()];
    let mut characters = option.chars();
    while let Some(character) = characters.next() {
        let last = dirs.len() - 1;
        match character {
            ':' => dirs.push(String::new()),
            '\\' => dirs[last].extend(characters.next()),
            other => dirs[last].push(other),
        }
    }
    dirs.into_iter().map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: &str, source: &str, options: &[&str]) -> Mount {
        Mount {
            r#type: kind.to_owned(),
            source: source.to_owned(),
            options: options.iter().map(|&option| option.to_owned()).collect(),
            ..Mount::default()
        }
    }

    #[test]
    fn one_layer_is_a_bind_and_several_are_an_overlay() {
        let one = lower_dirs("v", &[mount("bind", "/s/1/fs", &["ro", "rbind"])]).expect("bind");
        assert_eq!(one, [PathBuf::from("/s/1/fs")]);
        let two = lower_dirs(
            "v",
            &[mount(
                "overlay",
                "overlay",
                &["index=off", "lowerdir=/s/2/fs:/s/a\\:b/fs"],
            )],
        )
        .expect("overlay");
        assert_eq!(two, [PathBuf::from("/s/2/fs"), PathBuf::from("/s/a:b/fs")]);
    }

    #[test]
    fn mounts_that_we_could_not_use_are_refused() {
        for mounts in [
            vec![],
            vec![mount("erofs", "/x", &[])],
            vec![mount("overlay", "overlay", &["lowerdir=1:2"])],
        ] {
            assert!(lower_dirs("v", &mounts).is_err(), "{mounts:?}");
        }
    }
}
