//! Pulls an image from a registry: manifest, configuration, layers.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use futures_util::stream::{self, TryStreamExt as _};
use oci_spec::distribution::Reference;
use tokio::sync::oneshot;

use super::PreparedImage;
use super::content::ContentStore;
use super::digest::Digest;
use super::error::{ImageError, Result};
use super::fetch::Fetcher;
use super::inner::{PULLED_LABEL, StoreInner, image_lock};
use super::manifest::{
    CONFIG_MAX_BYTES, ConfigFile, Descriptor, Document, MANIFEST_MAX_BYTES, choose,
};
use super::prepare::{ImageDocuments, image_manifest, root_descriptor};
use super::progress::{Phase, ProgressReporter};

/// How much longer than the longest pull a pull's lease lives: time to come back after a crash and go on from where it was.
const RESUME_WINDOW: Duration = Duration::from_secs(3600);

impl StoreInner {
    pub(super) fn pull_lease_life(&self) -> Duration {
        self.config.pull_deadline + RESUME_WINDOW
    }

    pub(super) async fn fetcher(
        &self,
        reference: &Reference,
        progress: &ProgressReporter,
    ) -> Fetcher {
        let (remotes, unusable) = self.registry.remotes(reference).await;
        Fetcher {
            reference: reference.clone(),
            remotes,
            unusable,
            retry: self.config.retry,
            progress: progress.clone(),
            locks: self.locks.clone(),
            slots: self.slots.clone(),
            unfinished: Mutex::default(),
        }
    }

    /// Gets an image and makes it ready.
    pub(super) async fn pull(
        &self,
        reference: &Reference,
        progress: &ProgressReporter,
    ) -> Result<PreparedImage> {
        let started = std::time::Instant::now();
        let fetcher = self.fetcher(reference, progress).await;
        let (body, digest) = fetcher
            .first_answer(|remote| async move { remote.manifest(None).await })
            .await?;
        let _lock = self.locks.lock(&image_lock(&digest)).await;
        // Another name of the same image may have been pulled while we waited.
        if let Some(prepared) = self.prepare_local(reference, &digest, progress).await? {
            return Ok(prepared);
        }
        let lease = self
            .leases
            .create_for_pull(&digest, self.pull_lease_life())
            .await?;
        let pulled = async {
            let documents = self.pull_content(&fetcher, &lease, &body, &digest).await?;
            self.retain(reference, &documents).await
        };
        let pulled = pulled.await;
        match &pulled {
            Ok(_) => {
                self.leases.delete_pulls(&digest, false).await?;
                tracing::info!(image = %reference, %digest, took = ?started.elapsed(), "pulled");
            }
            // What came so far waits, under the lease, for the next attempt.
            Err(error) if error.is_retryable() => {}
            Err(_) => {
                let content = ContentStore::new(self.containerd.with_lease(&lease)?);
                fetcher.discard_unfinished(&content).await;
                if let Err(leftover) = self.leases.delete_pulls(&digest, true).await {
                    tracing::warn!(image = %reference, error = %leftover, "what was pulled in vain is left to its lease's end");
                }
            }
        }
        pulled
    }

    async fn pull_content(
        &self,
        fetcher: &Fetcher,
        lease: &str,
        body: &[u8],
        digest: &Digest,
    ) -> Result<ImageDocuments> {
        let content = ContentStore::new(self.containerd.with_lease(lease)?);
        let (document, media_type) = Document::parse(digest, body)?;
        let root = root_descriptor(digest, media_type, body);
        let mut labels = document.gc_labels();
        labels.insert(PULLED_LABEL.to_owned(), "true".to_owned());
        content.put(digest, body, labels).await?;
        let (manifest_digest, manifest) = match document {
            Document::Image(manifest) => (digest.clone(), manifest),
            Document::Index(manifests) => {
                let chosen = choose(
                    &fetcher.reference.whole(),
                    &manifests,
                    &self.config.platform,
                )?;
                let data = self.pull_manifest(fetcher, &content, chosen).await?;
                (
                    chosen.digest.clone(),
                    image_manifest(&chosen.digest, &data)?,
                )
            }
        };
        let documents = {
            let data = self
                .pull_config(fetcher, &content, &manifest.config)
                .await?;
            let config = ConfigFile::parse(&manifest, &data)?;
            ImageDocuments {
                root,
                manifest_digest,
                manifest,
                config,
            }
        };
        for layer in &documents.manifest.layers {
            super::manifest::layer_media_type(layer)?;
        }
        self.pull_layers(fetcher, lease, &content, &documents)
            .await?;
        Ok(documents)
    }

    async fn pull_manifest(
        &self,
        fetcher: &Fetcher,
        content: &ContentStore,
        chosen: &Descriptor,
    ) -> Result<Vec<u8>> {
        if let Some(data) = content.read(&chosen.digest, MANIFEST_MAX_BYTES).await? {
            content.put(&chosen.digest, &data, HashMap::new()).await?;
            return Ok(data);
        }
        let digest = &chosen.digest;
        let (data, _) = fetcher
            .first_answer(|remote| async move { remote.manifest(Some(digest)).await })
            .await?;
        let (document, _) = Document::parse(digest, &data)?;
        content.put(digest, &data, document.gc_labels()).await?;
        Ok(data.into())
    }

    async fn pull_config(
        &self,
        fetcher: &Fetcher,
        content: &ContentStore,
        config: &Descriptor,
    ) -> Result<Vec<u8>> {
        let malformed = |reason: String| ImageError::Malformed {
            what: "image configuration",
            object: config.digest.to_string(),
            reason,
        };
        if config.size > CONFIG_MAX_BYTES {
            return Err(malformed(format!(
                "{} bytes; at most {CONFIG_MAX_BYTES} are read",
                config.size
            )));
        }
        fetcher.blob(content, config).await?;
        let data = content.read(&config.digest, CONFIG_MAX_BYTES).await?;
        data.ok_or_else(|| malformed("gone as soon as it was there".to_owned()))
    }

    /// Gets all layers, several at a time, and unpacks each as soon as it and those below are there.
    async fn pull_layers(
        &self,
        fetcher: &Fetcher,
        lease: &str,
        content: &ContentStore,
        documents: &ImageDocuments,
    ) -> Result<()> {
        let layers = &documents.manifest.layers;
        let chain = documents.config.chain_ids();
        fetcher.progress.expect(layers);
        // An image may name one blob twice; the second time it is there already.
        let (arrived, arrivals): (Vec<_>, Vec<_>) =
            layers.iter().map(|_| oneshot::channel::<()>()).unzip();
        let download = async {
            let jobs = stream::iter(arrived.into_iter().enumerate().map(Ok::<_, ImageError>));
            let job = |(position, arrived): (usize, oneshot::Sender<()>)| async move {
                let layer = &layers[position];
                // Leased first, then looked for: what is there after that stays.
                self.leases.add_content(lease, &layer.digest).await?;
                fetcher.blob(content, layer).await?;
                // Nobody listens only if unpacking failed, which ends all this anyway.
                let _ = arrived.send(());
                Ok(())
            };
            jobs.try_for_each_concurrent(self.config.parallel_blobs.max(1), job)
                .await?;
            fetcher.progress.phase(Phase::Unpacking);
            Ok(())
        };
        let unpack = async {
            for (position, arrival) in arrivals.into_iter().enumerate() {
                if arrival.await.is_err() {
                    // The download failed and says why.
                    return Ok(());
                }
                self.unpack_layer(lease, documents, &chain, position)
                    .await?;
                fetcher.progress.layer_done();
            }
            Ok(())
        };
        tokio::try_join!(download, unpack).map(|((), ())| ())
    }
}
