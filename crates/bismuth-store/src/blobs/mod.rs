//! Blobs: bytes of any size under a key, replaced whole or not at all.
//!
//! ```text
//!   put:  record "writing" ─► stream to a new object ─► durable ─► one batch: index → new object
//!                │ renewed meanwhile                                          old object is garbage
//!                │                                                            "writing" is gone
//!                └─ broken off, killed ─► past its time ─► garbage ─► collector removes object and record
//!   get:  index ─► object ─► stream, checked against the digest in the index
//! ```
//!
//! The index is a record of [`Keyspace::Blob`], so that conditions, quotas and listing are those of records. What objects there are besides
//! those in the index is in [`Keyspace::Object`]: every object that was ever written has a record in one of the two.

mod collect;
mod details;
mod index;
mod pending_bytes;
mod read;
mod upload;

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use thiserror::Error;
use tokio::sync::Notify;

pub use collect::Collected;
pub use details::{BlobDetails, BlobDetailsPage};

use self::index::Entry;
use self::pending_bytes::PendingBytes;
use crate::objects::Objects;
use crate::records::{
    Change, Condition, EngineError, Keyspace, Limits, Page, Query, RecordKey, Records, Refused,
    Revision, Usage, Write, decide,
};

/// Who speaks where an engine would.
const ENGINE: &str = "the store of blobs";
/// So often a change of the index is tried against others who change the same key; each time one of them has succeeded.
const RACES: u32 = 64;

/// What the store of blobs allows and waits for.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The largest blob, bytes.
    pub max_bytes: u64,
    /// How often an upload says that it goes on.
    pub renew_every: Duration,
    /// An upload that has not said so for this long is given up. Several times `renew_every`, and more than clocks of nodes differ.
    pub abandoned_after: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_bytes: 1 << 30,
            renew_every: Duration::from_secs(20),
            abandoned_after: Duration::from_secs(300),
        }
    }
}

/// The store of blobs. Clones are the same store.
#[derive(Clone)]
pub struct Blobs {
    records: Arc<dyn Records>,
    objects: Arc<dyn Objects>,
    settings: Settings,
    /// Told when there is something to collect.
    garbage: Arc<Notify>,
    pending: Arc<PendingBytes>,
}

/// What a blob is, without its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// Which state this is.
    pub revision: Revision,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of its bytes.
    pub sha256: [u8; 32],
    /// Media type, as the writer said.
    pub content_type: Option<String>,
    /// When it was written, milliseconds since the Unix epoch.
    pub modified_ms: u64,
}

/// Everything about a blob to be, but its bytes.
#[derive(Clone, Debug, Default)]
pub struct NewBlob {
    /// Whose.
    pub group: String,
    /// Its key, validated.
    pub key: String,
    /// Media type.
    pub content_type: Option<String>,
    /// If what. [`Condition::Absent`] creates only, [`Condition::Present`] replaces only.
    pub condition: Condition,
    /// What the group may use of blobs.
    pub limits: Limits,
    /// How many bytes will come, if that was said: what is too much is refused before it comes.
    pub length: Option<u64>,
    /// SHA-256 of the bytes, if that was said.
    pub sha256: Option<[u8; 32]>,
}

/// What [`Blobs::put`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredBlob {
    /// The blob that is there now.
    pub blob: Blob,
    /// Whether there was one before.
    pub replaced: bool,
}

/// Why a blob was not stored. The old one is as it was.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum PutError {
    /// The bytes did not come whole.
    #[error("read the blob's bytes")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the blob is larger than {limit} bytes")]
    TooLarge { limit: u64 },
    #[error("the digest of the bytes is not the one that was given")]
    Digest,
    /// The condition does not hold, or the group has no room.
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("the upload paused for too long")]
    Abandoned,
    #[error(transparent)]
    Engine(EngineError),
}

/// Bytes of a blob, on their way.
pub type Body = BoxStream<'static, Result<Bytes, EngineError>>;

/// A blob that was found, and what was wanted of it.
pub struct FoundBlob {
    /// The blob.
    pub blob: Blob,
    /// The bytes of the range that was selected. They end with an error before the last of them if they are not those that were stored.
    pub body: Option<Body>,
}

impl Blobs {
    /// A store on two engines.
    #[must_use]
    pub fn new(records: Arc<dyn Records>, objects: Arc<dyn Objects>, settings: Settings) -> Self {
        Self {
            records,
            objects,
            settings,
            garbage: Arc::new(Notify::new()),
            pending: Arc::default(),
        }
    }

    /// What a blob is.
    ///
    /// # Errors
    /// When the engine has one.
    pub async fn head(&self, group: &str, key: &str) -> Result<Option<Blob>, EngineError> {
        let entry = self.entry(&record_key(group, key)).await?;
        Ok(entry.map(|entry| entry.blob))
    }

    /// A blob and the bytes of the range that `select` selects of it, which must be within it; `None` selects nothing.
    ///
    /// # Errors
    /// When an engine has one.
    pub async fn get(
        &self,
        group: &str,
        key: &str,
        select: impl Fn(&Blob) -> Option<Range<u64>> + Send,
    ) -> Result<Option<FoundBlob>, EngineError> {
        let record_key = record_key(group, key);
        for _ in 0..RACES {
            let Some(Entry { blob, object }) = self.entry(&record_key).await? else {
                return Ok(None);
            };
            let Some(range) = select(&blob) else {
                return Ok(Some(FoundBlob { blob, body: None }));
            };
            if let Some(bytes) = self.objects.read(object, range.clone()).await? {
                let body = Some(read::checked(bytes, &blob, &range));
                return Ok(Some(FoundBlob { blob, body }));
            }
            // It was replaced between the two, or it is lost.
            if self.entry(&record_key).await?.map(|entry| entry.object) == Some(object) {
                let reason = format!("the object {object} of {key:?} is not there");
                return Err(EngineError::broken(ENGINE, reason));
            }
        }
        Err(contended(key))
    }

    /// Removes a blob; [`Refused::NotFound`] if there is none.
    ///
    /// # Errors
    /// When it is refused, or an engine has an error.
    pub async fn delete(
        &self,
        group: &str,
        key: &str,
        condition: &Condition,
    ) -> Result<(), EngineError> {
        let record_key = record_key(group, key);
        for _ in 0..RACES {
            let current = self.entry(&record_key).await?;
            let revision = current.as_ref().map(|entry| entry.blob.revision);
            let refuse = |refused| EngineError::Refused { index: 0, refused };
            decide::check(condition, revision).map_err(refuse)?;
            let Some(current) = current else {
                return Err(refuse(Refused::NotFound));
            };
            let unchanged = Condition::OneOf(vec![current.blob.revision]);
            let delete = Write::new(record_key.clone(), unchanged, Change::Delete);
            let batch = vec![delete, index::mark_garbage(current.object)];
            match self.records.write(batch).await {
                Ok(_) => {
                    self.garbage.notify_one();
                    return Ok(());
                }
                Err(EngineError::Refused { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Err(contended(key))
    }

    /// Blobs in the order of their keys. A blob is charged its bytes and those of its key.
    ///
    /// # Errors
    /// When the engine has one.
    pub async fn list(
        &self,
        group: &str,
        prefix: &str,
        after: Option<String>,
        limit: NonZeroUsize,
    ) -> Result<Page, EngineError> {
        let query = Query {
            prefix: prefix.to_owned(),
            after,
            ..Query::all(group, Keyspace::Blob, limit)
        };
        self.records.list(&query).await
    }

    /// What a group uses of blobs.
    ///
    /// # Errors
    /// When the engine has one.
    pub async fn usage(&self, group: &str) -> Result<Usage, EngineError> {
        self.records.usage(group, Keyspace::Blob).await
    }

    /// Whether the engine of objects answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn check(&self) -> Result<(), EngineError> {
        self.objects.check().await
    }

    async fn entry(&self, record_key: &RecordKey) -> Result<Option<Entry>, EngineError> {
        let record = self.records.get(record_key).await?;
        record
            .map(|record| Entry::decode(record_key, record))
            .transpose()
    }
}

fn record_key(group: &str, key: &str) -> RecordKey {
    RecordKey::new(group, Keyspace::Blob, key)
}

/// What a blob counts for.
fn charge(key: &str, size: u64) -> u64 {
    size.saturating_add(key.len() as u64)
}

fn contended(key: &str) -> EngineError {
    EngineError::unavailable(ENGINE, format!("too many change {key:?} at once"))
}
