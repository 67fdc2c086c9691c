//! Builds container images file by file: layers, manifests, OCI layouts; and the demonstration image.
//!
//! ```text
//! Builder ── build() ──► Image ─┬─ manifests(), blobs()   what a push sends
//!   files, links, whiteouts     ├─ write_layout(dir)      oci-layout, index.json, blobs/sha256/…
//!   several layers              └─ write_archive(file)    the same as one tar
//! ```
//!
//! Formats: the OCI image specification 1.0 (layer, config, manifest, index, layout).

mod blob;
mod builder;
mod busybox;
mod layer;
mod layout;

pub use blob::Blob;
pub use builder::Builder;
pub use busybox::{SEARCH_PATH, busybox, demo, mount_points};
pub use layer::Compression;

use anyhow::Result;
use serde_json::json;

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// An image: a manifest (or an index of several) with everything it refers to.
#[derive(Debug, Clone)]
pub struct Image {
    /// Manifests, each after those it refers to; the last is the image itself.
    manifests: Vec<Blob>,
    /// Configs and layers.
    blobs: Vec<Blob>,
    top: Blob,
}

impl Image {
    /// An image to be filled.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// One image for several architectures, as (architecture, image) pairs.
    ///
    /// # Errors
    ///
    /// When the index cannot be encoded.
    pub fn index(images: &[(&str, Self)]) -> Result<Self> {
        let entries: Vec<_> = images
            .iter()
            .map(|(architecture, image)| {
                let mut entry = image.top.descriptor();
                entry["platform"] = json!({ "architecture": architecture, "os": "linux" });
                entry
            })
            .collect();
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries });
        let top = Blob::from_bytes(INDEX, serde_json::to_vec(&index)?);
        let mut manifests: Vec<Blob> = images
            .iter()
            .flat_map(|(_, image)| image.manifests.clone())
            .collect();
        manifests.push(top.clone());
        let blobs = images
            .iter()
            .flat_map(|(_, image)| image.blobs.clone())
            .collect();
        Ok(Self {
            manifests,
            blobs,
            top,
        })
    }

    /// Digest of its manifest or index.
    #[must_use]
    pub fn digest(&self) -> &str {
        self.top.digest()
    }

    /// Its manifests, each after those it refers to.
    #[must_use]
    pub fn manifests(&self) -> &[Blob] {
        &self.manifests
    }

    /// Its configs and layers.
    #[must_use]
    pub fn blobs(&self) -> &[Blob] {
        &self.blobs
    }
}

/// The architecture of this machine in OCI's words.
#[must_use]
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
