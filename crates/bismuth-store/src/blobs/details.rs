//! Lists blobs with what is stored of each: size, type, digest, time.

use std::num::NonZeroUsize;

use super::index::Entry;
use super::{Blobs, record_key};
use crate::records::{EngineError, Meta, NO_BOUND};

/// A part of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlobDetailsPage {
    /// In the order of their keys.
    pub blobs: Vec<BlobDetails>,
    /// After which key there are more.
    pub next: Option<String>,
}

/// A blob in a listing, and its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobDetails {
    /// Its key.
    pub key: String,
    /// What is known without the index's entry.
    pub meta: Meta,
    /// SHA-256 of its bytes. `None` if its entry cannot be read: one that is broken must not hide the others.
    pub sha256: Option<[u8; 32]>,
}

impl Blobs {
    /// As [`Blobs::list`], with digests. These are in the entries themselves, which are read together after the page is known: one that was
    /// written in between is listed as it is then, one that was removed is left out.
    ///
    /// # Errors
    /// When the engine has one.
    pub async fn list_details(
        &self,
        group: &str,
        prefix: &str,
        after: Option<String>,
        limit: NonZeroUsize,
    ) -> Result<BlobDetailsPage, EngineError> {
        let page = self.list(group, prefix, after, limit).await?;
        let last = page.entries.last().filter(|_| page.more);
        let next = last.map(|(key, _)| key.clone());
        let keys = page.entries.into_iter();
        let record_keys: Vec<_> = keys.map(|(key, _)| record_key(group, &key)).collect();
        let records = self.records.get_many(&record_keys, NO_BOUND).await?;
        let found = record_keys.into_iter().zip(records);
        let blobs = found.filter_map(|(record_key, record)| {
            let record = record?;
            let meta = record.meta.clone();
            let entry = Entry::decode(&record_key, record);
            Some(BlobDetails {
                key: record_key.key,
                meta,
                sha256: entry.ok().map(|entry| entry.blob.sha256),
            })
        });
        Ok(BlobDetailsPage {
            blobs: blobs.collect(),
            next,
        })
    }
}
