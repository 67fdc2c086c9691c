//! Lists images with their names, sizes and last use.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::ImageSummary;
use super::digest::Digest;
use super::error::Result;
use super::inner::{LAST_USED_LABEL, PULLED_LABEL, StoreInner};

/// What names and leases say about an image.
#[derive(Default)]
struct ImageEntry {
    names: Vec<String>,
    created: Option<SystemTime>,
    retained: bool,
}

impl StoreInner {
    pub(super) async fn list(&self) -> Result<Vec<ImageSummary>> {
        self.containerd.ensure_namespace().await?;
        let (records, retained) = tokio::try_join!(self.records.list(), self.leases.images())?;
        let mut images: BTreeMap<Digest, ImageEntry> = BTreeMap::new();
        for record in records {
            let entry = images.entry(record.digest).or_default();
            entry.created = earlier(entry.created, record.created);
            entry.names.push(record.name);
        }
        for (digest, created) in retained {
            let entry = images.entry(digest).or_default();
            entry.created = earlier(entry.created, created);
            entry.retained = true;
        }
        let mut summaries = Vec::with_capacity(images.len());
        for (digest, entry) in images {
            summaries.push(self.summary(digest, entry).await?);
        }
        summaries.sort_by(|a, b| (a.names.first(), &a.digest).cmp(&(b.names.first(), &b.digest)));
        Ok(summaries)
    }

    async fn summary(&self, digest: Digest, entry: ImageEntry) -> Result<ImageSummary> {
        let labels = self
            .content
            .info(&digest)
            .await?
            .map(|info| info.labels)
            .unwrap_or_default();
        let written = labels
            .get(LAST_USED_LABEL)
            .and_then(|text| text.parse().ok());
        let written = written
            .and_then(|millis| SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis)));
        // An image for other machines, or half of one, is still listed.
        let documents = match self.documents_of(&digest).await {
            Ok(documents) => documents,
            Err(error) => {
                tracing::debug!(image = %digest, %error, "cannot read its documents");
                None
            }
        };
        let mut unpacked_bytes = 0;
        for chain_id in documents
            .iter()
            .flat_map(|documents| documents.config.chain_ids())
        {
            unpacked_bytes += self.snapshots.usage(chain_id.as_str()).await?.unwrap_or(0);
        }
        let mut names = entry.names;
        names.sort();
        Ok(ImageSummary {
            names,
            content_bytes: documents
                .as_ref()
                .map_or(0, |documents| documents.content_bytes()),
            unpacked_bytes,
            created: entry.created,
            last_used: self.last_use(&digest).max(written),
            prepared: entry.retained,
            pulled: labels.contains_key(PULLED_LABEL),
            digest,
        })
    }
}

fn earlier(a: Option<SystemTime>, b: Option<SystemTime>) -> Option<SystemTime> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
