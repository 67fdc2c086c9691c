//! Records: small values under ordered keys, changed in transactions. Keys, secrets, and the index of blobs are records.
//!
//! ```text
//!   batch of writes ─► lock the group's usage ─► for each: decide(current, usage, write) ─► all or none ─► durable ─► answer
//!                                                     │ pure, in decide.rs, the same for every engine
//! ```
//!
//! - A record lives in a *keyspace* of a *group*. Keys are ordered by their bytes.
//! - Every change gives a record a new [`Revision`]. Within one keyspace of one group revisions only grow, also over deletions, so
//!   that a revision names one state of one key for ever: it is what the `ETag` is made of.
//! - A record whose time has come is absent for every reader and every condition at once, and is removed by
//!   [`Records::sweep`] later; until then it counts as used.
//! - What a group uses is counted in the transaction that changes it, so it is exact over processes and crashes.
//! - A write that was answered is durable.
//!
//! Engines: `embedded` (redb, one machine), `postgres`. One suite, `tests/conformance`, holds for each.

pub mod decide;
pub mod embedded;
pub mod pending_batch;
pub mod postgres;
mod range;

use std::io;
use std::num::NonZeroUsize;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use thiserror::Error;

pub use self::pending_batch::Owner;
pub use bismuth_base::now_ms;

/// What kind of thing a record is. Keyspaces of one group do not see each other. The numbers are never changed, because they are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Keyspace {
    /// Keys of functions.
    Kv = 1,
    /// The index of blobs: what a blob is and which object holds its bytes.
    Blob = 2,
    /// Objects that are being written or wait to be removed, in the group that nobody else has.
    Object = 3,
    /// Sealed secrets.
    Secret = 4,
    /// Wrapped data keys.
    DataKey = 5,
    /// Requests that were let in, by second.
    Rate = 6,
}

impl Keyspace {
    /// All there are.
    pub const ALL: [Self; 6] = [
        Self::Kv,
        Self::Blob,
        Self::Object,
        Self::Secret,
        Self::DataKey,
        Self::Rate,
    ];

    /// What stands for it in every engine.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// What a stored code stands for.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|keyspace| keyspace.code() == code)
    }
}

/// Names one state of one record; grows with every change in its keyspace and group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Revision(pub u64);

/// Names a record: what it is called in one keyspace of one group.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordKey {
    /// Whose it is.
    pub group: String,
    /// What it is.
    pub keyspace: Keyspace,
    /// Its key, validated by who takes it from outside.
    pub key: String,
}

impl RecordKey {
    /// The key of a record.
    pub fn new(group: impl Into<String>, keyspace: Keyspace, key: impl Into<String>) -> Self {
        let (group, key) = (group.into(), key.into());
        Self {
            group,
            keyspace,
            key,
        }
    }
}

/// A record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its bytes.
    pub value: Bytes,
    /// What it is without its bytes.
    pub meta: Meta,
}

/// A record without its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Which state this is.
    pub revision: Revision,
    /// Media type, as the writer said.
    pub content_type: Option<String>,
    /// When it was written, milliseconds since the Unix epoch.
    pub modified_ms: u64,
    /// When it ceases to be, milliseconds since the Unix epoch.
    pub expires_ms: Option<u64>,
    /// What it counts for in the group's usage, bytes.
    pub charge: u64,
}

impl Meta {
    /// Whether its time has not come.
    #[must_use]
    pub fn is_live(&self, now_ms: u64) -> bool {
        self.expires_ms.is_none_or(|expires_ms| expires_ms > now_ms)
    }
}

/// What must hold for a write to happen. RFC 9110 section 13.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    #[default]
    Always,
    /// There is no record: `If-None-Match: *`.
    Absent,
    /// There is a record: `If-Match: *`.
    Present,
    /// There is a record in one of these states: `If-Match: "…"`.
    OneOf(Vec<Revision>),
    /// There is none, or it is in none of these states: `If-None-Match: "…"`.
    NoneOf(Vec<Revision>),
}

/// What a write does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Sets the whole record.
    Put {
        /// The bytes.
        value: Bytes,
        /// Media type.
        content_type: Option<String>,
        /// How long it shall be, milliseconds from when it is written by the clock of the engine: nodes' clocks differ.
        ttl_ms: Option<u64>,
        /// What it counts for, bytes.
        charge: u64,
    },
    /// Removes the record; [`Refused::NotFound`] if there is none.
    Delete,
    /// Adds to a value that is a decimal number in ASCII; an absent record is 0. Content type and expiry stay; a record that is made
    /// anew has neither, unless `ttl_ms` says how long it shall be. The charge is that of a key of a function: key and value.
    Add {
        /// How much.
        delta: i64,
        /// Replaces the expiry, if given: milliseconds from when it is written.
        ttl_ms: Option<u64>,
    },
}

impl Change {
    /// Puts a value without a media type and an expiry.
    pub fn put(value: impl Into<Bytes>, charge: u64) -> Self {
        Self::Put {
            value: value.into(),
            content_type: None,
            ttl_ms: None,
            charge,
        }
    }
}

/// One change of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Where.
    pub record_key: RecordKey,
    /// If what.
    pub condition: Condition,
    /// What.
    pub change: Change,
    /// What the group may use of this keyspace after it. A write that makes usage smaller is never refused for it.
    pub limits: Limits,
}

impl Write {
    /// A write without limits.
    pub fn new(record_key: RecordKey, condition: Condition, change: Change) -> Self {
        let limits = Limits::default();
        Self {
            record_key,
            condition,
            change,
            limits,
        }
    }
}

/// What a group may use of a keyspace; `None` is unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Sum of charges.
    pub bytes: Option<u64>,
    /// Number of records.
    pub count: Option<u64>,
}

/// What a group uses of a keyspace. Records that are past their time count until they are swept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Sum of charges.
    pub bytes: u64,
    /// Number of records.
    pub count: u64,
}

/// What a write did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The new state; of a deletion, the revision that the deletion was given.
    pub revision: Revision,
    /// When it was written, by the clock of the engine, milliseconds since the Unix epoch.
    pub modified_ms: u64,
    /// What was there before and had not ceased to be.
    pub before: Option<Meta>,
    /// The value after [`Change::Add`].
    pub sum: Option<i64>,
}

/// Why a write was not made. Nothing of its batch was.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum Refused {
    /// `current` is the state that is there.
    #[error("the condition does not hold")]
    Condition { current: Option<Revision> },
    #[error("there is no such key")]
    NotFound,
    /// The value is no decimal number of 64 bits, so nothing can be added to it.
    #[error("the value is not a number")]
    NotANumber,
    #[error("the sum is out of range")]
    OutOfRange,
    #[error("{needed} bytes would be used, {limit} are allowed")]
    Bytes { needed: u64, limit: u64 },
    #[error("{limit} keys are allowed, and used")]
    Count { limit: u64 },
}

/// Why an engine did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum EngineError {
    /// The write at this place of the batch was refused, and so was the whole batch.
    #[error("write {index} was refused: {refused}")]
    Refused { index: usize, refused: Refused },
    /// The engine cannot be reached or did not answer in time. The outcome of a write is unknown: it may have been made.
    #[error("{engine} does not answer: {reason}")]
    Unavailable {
        engine: &'static str,
        reason: String,
    },
    /// The disk is full; nothing was changed.
    #[error("the disk of {engine} is full")]
    Full { engine: &'static str },
    /// Too much is on its way to the engine at the moment; nothing was changed.
    #[error("too many bytes are in flight to {engine}")]
    Busy {
        engine: &'static str,
        /// Whether that is of the group that asked alone, and not of all.
        of_group: bool,
    },
    /// What was to be written came too slowly; nothing was changed.
    #[error("a part of the body must arrive within {} s", bound.as_secs())]
    Slow { bound: Duration },
    /// What was asked for has more bytes than whoever asked can take.
    #[error("more than {limit} bytes were asked for")]
    TooLarge { limit: u64 },
    /// What is stored is not what was written, or a bug.
    #[error("{engine} is broken: {reason}")]
    Broken {
        engine: &'static str,
        reason: String,
    },
}

impl EngineError {
    /// [`Self::Unavailable`].
    pub fn unavailable(engine: &'static str, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self::Unavailable { engine, reason }
    }

    /// [`Self::Broken`].
    pub fn broken(engine: &'static str, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self::Broken { engine, reason }
    }

    /// Why a write was refused, if that is the error.
    pub fn refusal(&self) -> Option<&Refused> {
        match self {
            Self::Refused { refused, .. } => Some(refused),
            _ => None,
        }
    }
}

/// Whether an error means that there is no room, for us or for anybody.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// A part of an ordered listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Keys in the order of their bytes, without their values.
    pub entries: Vec<(String, Meta)>,
    /// Whether there are more after the last.
    pub more: bool,
}

/// Which part of a listing is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// Whose.
    pub group: String,
    /// What.
    pub keyspace: Keyspace,
    /// Only keys that begin with it.
    pub prefix: String,
    /// Only keys after this one.
    pub after: Option<String>,
    /// At most so many.
    pub limit: NonZeroUsize,
}

impl Query {
    /// All that a group has in a keyspace, the first `limit` of it.
    pub fn all(group: impl Into<String>, keyspace: Keyspace, limit: NonZeroUsize) -> Self {
        Self {
            group: group.into(),
            keyspace,
            prefix: String::new(),
            after: None,
            limit,
        }
    }
}

/// What bounds itself otherwise, for [`Records::get_many`].
pub const NO_BOUND: u64 = u64::MAX;

/// An engine for records. Every call has a bound of its own, a second at most when the engine is away.
#[async_trait]
pub trait Records: Send + Sync + 'static {
    /// The record at a key, if there is one that has not ceased to be.
    async fn get(&self, record_key: &RecordKey) -> Result<Option<Record>, EngineError>;

    /// The records at several keys of one state of the store, in the order asked; [`EngineError::TooLarge`] if their values together have
    /// more than `most_bytes`, which are then not read.
    async fn get_many(
        &self,
        record_keys: &[RecordKey],
        most_bytes: u64,
    ) -> Result<Vec<Option<Record>>, EngineError>;

    /// Keys in order.
    async fn list(&self, query: &Query) -> Result<Page, EngineError>;

    /// Makes all of the writes, in their order, or none. What was answered is durable. A later write of a batch sees what an earlier
    /// one did.
    async fn write(&self, batch: Vec<Write>) -> Result<Vec<Written>, EngineError>;

    /// What a group uses.
    async fn usage(&self, group: &str, keyspace: Keyspace) -> Result<Usage, EngineError>;

    /// The groups that have anything in a keyspace, in order.
    async fn groups(&self, keyspace: Keyspace) -> Result<Vec<String>, EngineError>;

    /// Removes up to `limit` records whose time has come, of one owner or of all; returns how many.
    async fn sweep(&self, of: Option<&Owner>, limit: NonZeroUsize) -> Result<usize, EngineError>;

    /// Whether the engine answers.
    async fn check(&self) -> Result<(), EngineError>;
}

/// How many records are swept for a write that found no room: one transaction of some milliseconds.
const SWEPT_FOR_ROOM: NonZeroUsize = NonZeroUsize::new(1000).expect("it is not zero");

/// [`Records::write`], which tries once more without the group's records whose time has come if a limit refuses.
///
/// # Errors
/// As [`Records::write`]; the refusal also if no room could be made.
pub async fn write_with_room(
    records: &dyn Records,
    batch: Vec<Write>,
) -> Result<Vec<Written>, EngineError> {
    let again = batch.clone();
    let refused = match records.write(batch).await {
        Err(error) => error,
        written => return written,
    };
    let EngineError::Refused {
        index,
        refused: Refused::Bytes { .. } | Refused::Count { .. },
    } = &refused
    else {
        return Err(refused);
    };
    let Some(write) = again.get(*index) else {
        return Err(refused);
    };
    let owner = Owner::of(&write.record_key);
    match records.sweep(Some(&owner), SWEPT_FOR_ROOM).await {
        Ok(1..) => records.write(again).await,
        Ok(0) => Err(refused),
        Err(error) => {
            tracing::debug!(%error, "no room could be made for a write");
            Err(refused)
        }
    }
}
