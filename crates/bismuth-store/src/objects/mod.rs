//! Objects: the bytes of blobs. An object is written once, under a name that nobody had before, and never changed; which object is a
//! blob's is a record (`blobs/index.rs`), so that replacing a blob is one transaction on any store.
//!
//! Engines: `files.rs` (a directory of one machine), `s3` (whatever speaks S3). One suite, `tests/conformance`, holds for each.

pub mod files;
pub mod s3;

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

use crate::records::EngineError;

/// An object's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectId(pub u128);

impl ObjectId {
    /// A name that nobody had before.
    #[must_use]
    pub fn random() -> Self {
        Self(uuid::Uuid::new_v4().as_u128())
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for ObjectId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u128::from_str_radix(text, 16).map(Self)
    }
}

/// A store of objects. No call waits for ever: an engine that is away is [`EngineError::Unavailable`] within a second or, in the middle of a
/// stream, within its idle bound.
#[async_trait]
pub trait Objects: Send + Sync + 'static {
    /// Begins an object of a group, whose name says only whose share of the engine's room it takes.
    async fn create(&self, id: ObjectId, group: &str)
    -> Result<Box<dyn ObjectWriter>, EngineError>;

    /// The bytes in `range`, which lies within the object, in chunks. `None` if there is no such object.
    async fn read(
        &self,
        id: ObjectId,
        range: Range<u64>,
    ) -> Result<Option<BoxStream<'static, Result<Bytes, EngineError>>>, EngineError>;

    /// Removes an object, finished or half written, also one that is not there. What a writer that was dropped has on its way is waited for
    /// first, for ten seconds at most.
    async fn delete(&self, id: ObjectId) -> Result<(), EngineError>;

    /// Whether the engine answers.
    async fn check(&self) -> Result<(), EngineError>;
}

/// An object on its way. Dropping it leaves what [`Objects::delete`] removes.
#[async_trait]
pub trait ObjectWriter: Send {
    /// Takes the next bytes; waits while the store is slower than the writer.
    async fn write(&mut self, bytes: Bytes) -> Result<(), EngineError>;

    /// Ends the object. It is durable and readable afterwards, and not before.
    async fn finish(self: Box<Self>) -> Result<(), EngineError>;
}
