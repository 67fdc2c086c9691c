//! Builds an image file by file.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;
use serde_json::{Map, Value, json};

use crate::blob::Blob;
use crate::layer::{Changes, Compression, Entry, Kind};
use crate::{CONFIG, Image, MANIFEST, architecture};

/// An image in the making. Entries go to the current layer; [`layer`](Self::layer) begins the next.
#[derive(Debug, Clone)]
pub struct Builder {
    /// Ready layers with the digests of their tars, below those made here.
    bases: Vec<(Blob, String)>,
    layers: Vec<Changes>,
    owner: (u64, u64),
    config: Map<String, Value>,
    architecture: String,
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self {
            bases: Vec::new(),
            layers: vec![Changes::default()],
            owner: (0, 0),
            config: Map::new(),
            architecture: architecture().into(),
        }
    }

    /// Puts a ready, uncompressed layer below all layers made here.
    #[must_use]
    pub fn base(mut self, tar: Blob) -> Self {
        let diff_id = tar.digest().to_owned();
        self.bases.push((tar, diff_id));
        self
    }

    /// A base layer from a plain tar file.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn base_file(self, tar: &Path) -> Result<Self> {
        Ok(self.base(Blob::from_file(
            "application/vnd.oci.image.layer.v1.tar",
            tar,
        )?))
    }

    /// Begins a new layer.
    #[must_use]
    pub fn layer(mut self) -> Self {
        self.layers.push(Changes::default());
        self
    }

    /// How the current layer is compressed; not at all by default.
    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.current().compression = compression;
        self
    }

    /// Who owns the entries that follow; root by default.
    #[must_use]
    pub fn owner(mut self, uid: u64, gid: u64) -> Self {
        self.owner = (uid, gid);
        self
    }

    /// A directory.
    #[must_use]
    pub fn dir(self, path: &str, mode: u32) -> Self {
        self.entry(path, mode, Kind::Directory)
    }

    /// A file. Its parents are made with mode 755 if the image has none.
    #[must_use]
    pub fn file(self, path: &str, mode: u32, content: &[u8]) -> Self {
        self.entry(path, mode, Kind::File(content.into()))
    }

    /// A symbolic link at `path` to `target`.
    #[must_use]
    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(path, 0o777, Kind::Symlink(target.into()))
    }

    /// Removes `path` of a lower layer.
    #[must_use]
    pub fn whiteout(self, path: &str) -> Self {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        self.entry(
            &format!("{parent}/.wh.{name}"),
            0o644,
            Kind::File(Vec::new()),
        )
    }

    /// Hides all that lower layers have in the directory `path`.
    #[must_use]
    pub fn opaque(self, path: &str) -> Self {
        self.entry(
            &format!("{}/.wh..wh..opq", path.trim_end_matches('/')),
            0o644,
            Kind::File(Vec::new()),
        )
    }

    /// Adds `NAME=value` to the image's environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        let list = self.config.entry("Env").or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut() {
            list.push(json!(format!("{name}={value}")));
        }
        self
    }

    /// Sets the image's entrypoint.
    #[must_use]
    pub fn entrypoint(mut self, argv: &[&str]) -> Self {
        self.config.insert("Entrypoint".into(), json!(argv));
        self
    }

    /// Sets the image's command.
    #[must_use]
    pub fn cmd(mut self, argv: &[&str]) -> Self {
        self.config.insert("Cmd".into(), json!(argv));
        self
    }

    /// Sets the image's working directory.
    #[must_use]
    pub fn working_dir(mut self, path: &str) -> Self {
        self.config.insert("WorkingDir".into(), json!(path));
        self
    }

    /// Sets the image's user: `uid`, `uid:gid` or a name in its `/etc/passwd`.
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        self.config.insert("User".into(), json!(user));
        self
    }

    /// The architecture the config claims; this machine's by default.
    #[must_use]
    pub fn architecture(mut self, architecture: &str) -> Self {
        self.architecture = architecture.into();
        self
    }

    /// The finished image. The same steps give the same digest.
    ///
    /// # Errors
    ///
    /// When an entry does not fit into a tar, naming it.
    pub fn build(self) -> Result<Image> {
        let mut layers = self.bases;
        for changes in self
            .layers
            .iter()
            .filter(|changes| !changes.entries.is_empty())
        {
            layers.push(changes.pack()?);
        }
        let diff_ids: Vec<&str> = layers.iter().map(|(_, diff_id)| diff_id.as_str()).collect();
        let config = json!({
            "architecture": self.architecture,
            "os": "linux",
            "config": self.config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = Blob::from_bytes(CONFIG, serde_json::to_vec(&config)?);
        let descriptors: Vec<Value> = layers.iter().map(|(blob, _)| blob.descriptor()).collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.descriptor(),
            "layers": descriptors,
        });
        let top = Blob::from_bytes(MANIFEST, serde_json::to_vec(&manifest)?);
        let blobs = std::iter::once(config)
            .chain(layers.into_iter().map(|(blob, _)| blob))
            .collect();
        Ok(Image {
            manifests: vec![top.clone()],
            blobs,
            top,
        })
    }

    fn entry(mut self, path: &str, mode: u32, kind: Kind) -> Self {
        let path = path.trim_matches('/').to_owned();
        let owner = self.owner;
        self.add_parents(&path);
        self.current().entries.push(Entry {
            path,
            mode,
            owner,
            kind,
        });
        self
    }

    /// A layer names each directory it goes through, as `tar` does, so that unpacking sets their modes.
    fn add_parents(&mut self, path: &str) {
        let known: BTreeSet<String> = self
            .layers
            .iter()
            .flat_map(|layer| &layer.entries)
            .map(|entry| entry.path.clone())
            .collect();
        let ends = path.match_indices('/').map(|(end, _)| &path[..end]);
        for parent in ends.filter(|parent| !parent.is_empty() && !known.contains(*parent)) {
            self.current().entries.push(Entry {
                path: parent.into(),
                mode: 0o755,
                owner: (0, 0),
                kind: Kind::Directory,
            });
        }
    }

    fn current(&mut self) -> &mut Changes {
        let last = self.layers.last_mut();
        last.expect("`new` made one, and none is removed")
    }
}
