//! Writes OCI image layouts: a directory, or one tar of it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result};
use bytes::Bytes;
use serde_json::json;

use crate::{INDEX, Image};

impl Image {
    /// Writes an OCI layout into `dir` (made if missing), under the reference `name`.
    ///
    /// # Errors
    ///
    /// When a file cannot be written.
    pub fn write_layout(&self, dir: &Path, name: &str) -> Result<()> {
        for (path, content) in self.layout(name)? {
            let path = dir.join(path);
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)
                    .with_context(|| format!("create {}", parent.display()))?;
            }
            fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
        }
        Ok(())
    }

    /// Writes the layout as one tar.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn write_archive(&self, path: &Path, name: &str) -> Result<()> {
        let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
        let mut tar = tar::Builder::new(file);
        for (entry, content) in self.layout(name)? {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_mtime(0);
            header.set_size(content.len() as u64);
            tar.append_data(&mut header, &entry, content.as_ref())
                .with_context(|| format!("add {entry} to {}", path.display()))?;
        }
        tar.into_inner()
            .and_then(|file| file.sync_all())
            .with_context(|| format!("write {}", path.display()))
    }

    fn layout(&self, name: &str) -> Result<BTreeMap<String, Bytes>> {
        let mut top = self.top.descriptor();
        // `ctr image import` and containerd read the full name from the first, other tools the tag from the second.
        top["annotations"] = json!({
            "io.containerd.image.name": name,
            "org.opencontainers.image.ref.name": name,
        });
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [top] });
        let mut files = BTreeMap::from([
            (
                "oci-layout".to_owned(),
                Bytes::from_static(br#"{"imageLayoutVersion":"1.0.0"}"#),
            ),
            ("index.json".to_owned(), serde_json::to_vec(&index)?.into()),
        ]);
        for blob in self.blobs.iter().chain(&self.manifests) {
            files.insert(format!("blobs/sha256/{}", blob.hex()), blob.read()?);
        }
        Ok(files)
    }
}
