//! Prepares an image from content that containerd has already: unpacks its layers, and pins it by a lease, a read-only snapshot and an image record.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use oci_spec::distribution::Reference;

use super::PreparedImage;
use super::digest::Digest;
use super::error::{ImageError, Result};
use super::inner::StoreInner;
use super::manifest::{
    CONFIG_MAX_BYTES, ConfigFile, Descriptor, Document, MANIFEST_MAX_BYTES, Manifest, choose,
};
use super::progress::{Phase, ProgressReporter};
use super::single_flight::lock;
use super::snapshots::{Snapshots, view_key};

/// The documents of one image.
#[derive(Debug, Clone)]
pub(crate) struct ImageDocuments {
    /// The index, or the manifest if there is none.
    pub root: Descriptor,
    pub manifest_digest: Digest,
    pub manifest: Manifest,
    pub config: ConfigFile,
}

impl ImageDocuments {
    /// The name of the snapshot that holds all layers; empty if there is no layer, which is containerd's name for nothing.
    pub fn top(&self) -> String {
        self.config
            .chain_ids()
            .last()
            .map(ToString::to_string)
            .unwrap_or_default()
    }

    /// Bytes of all blobs in the content store.
    pub fn content_bytes(&self) -> u64 {
        let layers: u64 = self.manifest.layers.iter().map(|layer| layer.size).sum();
        self.root.size + self.manifest.config.size + layers
    }
}

impl StoreInner {
    /// The image, if it is unpacked and retained. `resolved` says that the digest comes from the name or from a registry, not
    /// from the record of the name: then the record may be missing or about an earlier image, and is set.
    pub async fn find_prepared_image(
        &self,
        reference: &Reference,
        digest: &Digest,
        resolved: bool,
    ) -> Result<Option<PreparedImage>> {
        let key = view_key(digest);
        let found = tokio::try_join!(
            self.snapshots.lower_dirs(&key),
            self.leases.has_image(digest),
            self.documents_of(digest)
        )?;
        let (Some(lower_dirs), true, Some(documents)) = found else {
            return Ok(None);
        };
        if resolved && self.records.get(&reference.whole()).await?.as_ref() != Some(digest) {
            self.records
                .put(&reference.whole(), &documents.root)
                .await?;
        }
        self.touch(digest).await;
        Ok(Some(prepared_image(reference, &documents, lower_dirs)))
    }

    /// Makes the image ready without a registry, or says `None` if some of it is missing. The caller holds the image's lock.
    pub async fn prepare_local(
        &self,
        reference: &Reference,
        digest: &Digest,
        progress: &ProgressReporter,
    ) -> Result<Option<PreparedImage>> {
        let Some(documents) = self.documents_of(digest).await? else {
            return Ok(None);
        };
        let top = documents.top();
        if !top.is_empty() && !self.snapshots.exists(&top).await? {
            for layer in &documents.manifest.layers {
                if self.content.info(&layer.digest).await?.is_none() {
                    return Ok(None);
                }
            }
        }
        let lease = self
            .leases
            .create_for_pull(digest, self.pull_lease_life())
            .await?;
        let retained = async {
            self.lease_content(&lease, &documents).await?;
            let layers = &documents.manifest.layers;
            progress.expect(layers);
            progress.update_bytes(0, layers.iter().map(|layer| layer.size).sum());
            progress.phase(Phase::Unpacking);
            let chain = documents.config.chain_ids();
            for position in 0..chain.len() {
                self.unpack_layer(&lease, &documents, &chain, position)
                    .await?;
                progress.layer_done();
            }
            self.retain(reference, &documents).await
        };
        let retained = retained.await;
        self.leases.delete_pulls(digest, false).await?;
        retained.map(Some)
    }

    /// Puts what is there of an image under a lease, so that it stays while it is being worked on.
    async fn lease_content(&self, lease: &str, documents: &ImageDocuments) -> Result<()> {
        let Manifest { config, layers } = &documents.manifest;
        let blobs = [
            &documents.root.digest,
            &documents.manifest_digest,
            &config.digest,
        ];
        for digest in blobs
            .into_iter()
            .chain(layers.iter().map(|layer| &layer.digest))
        {
            self.leases.add_content(lease, digest).await?;
        }
        Ok(())
    }

    /// Reads an image's documents from the content store, or says `None` if one is missing.
    pub async fn documents_of(&self, digest: &Digest) -> Result<Option<Arc<ImageDocuments>>> {
        let known = lock(&self.documents).get(digest).cloned();
        if let Some(known) = known {
            // The documents may have been collected since.
            return Ok(self.content.info(digest).await?.map(|_| known));
        }
        let Some(documents) = self.read_documents(digest).await? else {
            return Ok(None);
        };
        let documents = Arc::new(documents);
        lock(&self.documents).insert(digest.clone(), documents.clone());
        Ok(Some(documents))
    }

    async fn read_documents(&self, digest: &Digest) -> Result<Option<ImageDocuments>> {
        let Some(data) = self.content.read(digest, MANIFEST_MAX_BYTES).await? else {
            return Ok(None);
        };
        let (document, media_type) = Document::parse(digest, &data)?;
        let root = root_descriptor(digest, media_type, &data);
        let (manifest_digest, manifest) = match document {
            Document::Image(manifest) => (digest.clone(), manifest),
            Document::Index(manifests) => {
                let chosen = choose(digest.as_str(), &manifests, &self.config.platform)?;
                let Some(data) = self
                    .content
                    .read(&chosen.digest, MANIFEST_MAX_BYTES)
                    .await?
                else {
                    return Ok(None);
                };
                (
                    chosen.digest.clone(),
                    image_manifest(&chosen.digest, &data)?,
                )
            }
        };
        let Some(data) = self
            .content
            .read(&manifest.config.digest, CONFIG_MAX_BYTES)
            .await?
        else {
            return Ok(None);
        };
        let config = ConfigFile::parse(&manifest, &data)?;
        Ok(Some(ImageDocuments {
            root,
            manifest_digest,
            manifest,
            config,
        }))
    }

    /// Unpacks one layer under `lease`, unless it is unpacked already.
    pub async fn unpack_layer(
        &self,
        lease: &str,
        documents: &ImageDocuments,
        chain: &[Digest],
        position: usize,
    ) -> Result<()> {
        let chain_id = &chain[position];
        let parent = position
            .checked_sub(1)
            .map(|below| chain[below].to_string())
            .unwrap_or_default();
        let _lock = self.locks.lock(&format!("snapshot {chain_id}")).await;
        // Leased first, then looked for: what is there after that stays.
        self.leases
            .add_snapshot(lease, self.snapshots.snapshotter(), chain_id.as_str())
            .await?;
        if self.snapshots.exists(chain_id.as_str()).await? {
            return Ok(());
        }
        let leased = Snapshots::new(
            self.containerd.with_lease(lease)?,
            self.config.snapshotter.clone(),
        );
        let layer = &documents.manifest.layers[position];
        let started = std::time::Instant::now();
        leased
            .unpack(
                layer,
                &documents.config.diff_ids[position],
                &parent,
                chain_id,
            )
            .await?;
        tracing::debug!(layer = %layer.digest, bytes = layer.size, took = ?started.elapsed(), "unpacked");
        let uncompressed = (
            "containerd.io/uncompressed".to_owned(),
            documents.config.diff_ids[position].to_string(),
        );
        self.content
            .label(&layer.digest, HashMap::from([uncompressed]))
            .await
    }

    /// Retains an unpacked image: its lease, view and record.
    pub async fn retain(
        &self,
        reference: &Reference,
        documents: &ImageDocuments,
    ) -> Result<PreparedImage> {
        let digest = &documents.root.digest;
        let lease = self.leases.create_for_image(digest).await?;
        let key = view_key(digest);
        let snapshotter = self.snapshots.snapshotter();
        let leased = Snapshots::new(self.containerd.with_lease(&lease)?, snapshotter.to_owned());
        leased.view(&key, &documents.top()).await?;
        tokio::try_join!(
            self.leases.add_snapshot(&lease, snapshotter, &key),
            self.leases.add_content(&lease, digest)
        )?;
        if !documents.config.diff_ids.is_empty() {
            // By this label containerd's tools see that the image is unpacked.
            let label = (
                format!("containerd.io/gc.ref.snapshot.{snapshotter}"),
                documents.top(),
            );
            self.content
                .label(&documents.manifest.config.digest, HashMap::from([label]))
                .await?;
        }
        self.records
            .put(&reference.whole(), &documents.root)
            .await?;
        self.touch(digest).await;
        let lower_dirs = self.snapshots.lower_dirs(&key).await?;
        let gone = || ImageError::Interrupted {
            reference: reference.whole(),
            reason: "its view was removed meanwhile".to_owned(),
        };
        Ok(prepared_image(
            reference,
            documents,
            lower_dirs.ok_or_else(gone)?,
        ))
    }
}

fn prepared_image(
    reference: &Reference,
    documents: &ImageDocuments,
    lower_dirs: Vec<PathBuf>,
) -> PreparedImage {
    PreparedImage {
        reference: reference.clone(),
        digest: documents.root.digest.clone(),
        manifest_digest: documents.manifest_digest.clone(),
        config: documents.config.run.clone(),
        lower_dirs,
    }
}

pub(super) fn root_descriptor(digest: &Digest, media_type: String, data: &[u8]) -> Descriptor {
    Descriptor {
        media_type,
        digest: digest.clone(),
        size: data.len() as u64,
        platform: None,
        annotations: Default::default(),
    }
}

/// A manifest where an index is not allowed: no registry nests them.
pub(super) fn image_manifest(digest: &Digest, data: &[u8]) -> Result<Manifest> {
    match Document::parse(digest, data)?.0 {
        Document::Image(manifest) => Ok(manifest),
        Document::Index(_) => Err(ImageError::Unsupported {
            object: digest.to_string(),
            what: "an index within an index".to_owned(),
        }),
    }
}
