//! The `Tree` trait: reads, writes, transactions and watches on versioned nodes.
//!
//! A node has a path, a few bytes, a version that counts its changes, and children. An ephemeral node goes
//! when the session that made it ends. Several changes can be committed as one, with version checks. A watch
//! tells *that* something changed below a path; what it is now must be read.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch::Receiver;

use crate::error::{Error, Result};
use crate::path;
use crate::watch::Watch;

/// The most bytes one node may hold. ZooKeeper's own limit is 1 MiB for a whole request; at a sixteenth of it a
/// transaction over a dozen full nodes still fits, and a record that grows past it is a mistake to report.
pub const MAX_DATA_BYTES: usize = 64 * 1024;

/// The most bytes one transaction may need on the wire, estimated from above. ZooKeeper closes the connection
/// on a request above 1 MiB (`jute.maxbuffer`, 0xfffff), which would look like a network failure.
pub const MAX_TRANSACTION_BYTES: usize = 1_000_000;

/// How often a node's data was changed since it was created (which is version 0).
/// A deleted and re-created node starts again at 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub i32);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A node as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// What it holds.
    pub data: Bytes,
    /// The version to expect in a change that builds on this data.
    pub version: Version,
    /// When it was created: milliseconds since 1970 by the service's clock.
    pub created_ms: u64,
    /// When its data was last changed: milliseconds since 1970 by the service's clock.
    pub modified_ms: u64,
    /// Whether it goes with the session that made it.
    pub ephemeral: bool,
    /// Whether it is ephemeral and was made by the session that this tree is using now. An ephemeral node of
    /// an earlier session of this very process is not: it is about to vanish.
    pub mine: bool,
}

/// How long a new node lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateMode {
    /// Until it is deleted.
    Persistent,
    /// Until it is deleted, or the session that made it ends. It cannot have children.
    Ephemeral,
}

/// One step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Creates a node; its parent must exist, or be created by an earlier step.
    Create {
        /// The new node.
        path: String,
        /// What it holds.
        data: Bytes,
        /// How long it lives.
        mode: CreateMode,
    },
    /// Replaces the data of a node.
    Set {
        /// The node.
        path: String,
        /// What it holds then.
        data: Bytes,
        /// The version it must have; `None` for any.
        expected: Option<Version>,
    },
    /// Deletes a node without children.
    Delete {
        /// The node.
        path: String,
        /// The version it must have; `None` for any.
        expected: Option<Version>,
    },
    /// Changes nothing, but fails the transaction if the node has another version or is missing.
    Check {
        /// The node.
        path: String,
        /// The version it must have.
        expected: Version,
    },
}

impl Op {
    /// The node the step is about.
    #[must_use]
    pub fn path(&self) -> &str {
        match self {
            Self::Create { path, .. }
            | Self::Set { path, .. }
            | Self::Delete { path, .. }
            | Self::Check { path, .. } => path,
        }
    }

    /// What the step does, for an error message.
    #[must_use]
    pub fn act(&self) -> &'static str {
        match self {
            Self::Create { .. } => "create",
            Self::Set { .. } => "set",
            Self::Delete { .. } => "delete",
            Self::Check { .. } => "check",
        }
    }

    fn data(&self) -> &[u8] {
        match self {
            Self::Create { data, .. } | Self::Set { data, .. } => data,
            Self::Delete { .. } | Self::Check { .. } => &[],
        }
    }
}

/// How this process stands with the coordination service.
///
/// A receiver of these may skip states that follow each other quickly, [`Expired`](Self::Expired) among them.
/// So on every change to [`Connected`](Self::Connected), whoever owns ephemeral nodes checks that they are
/// still there and [`mine`](Versioned::mine).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionState {
    /// There is a session and a server answers.
    Connected,
    /// No server answers at the moment (or none ever did). The session may live on.
    Disconnected,
    /// The session ended and its ephemeral nodes are gone. A fresh session follows by itself.
    Expired,
}

/// A tree of versioned nodes, shared by everybody who speaks to the same service.
///
/// Paths are absolute; a malformed one is [`Error::InvalidPath`]. Every call ends within a bound that the
/// implementation is configured with. A call made while there is no connection fails fast with
/// [`Error::Unavailable`]. A read is retried over a lost connection within its bound; a change is not, and
/// says [`Error::UnknownOutcome`] if it may have been made.
#[async_trait]
pub trait Tree: Send + Sync + 'static {
    /// Reads a node.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Unavailable`].
    async fn get(&self, path: &str) -> Result<Versioned>;

    /// The version of a node, if there is one.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    async fn exists(&self, path: &str) -> Result<Option<Version>>;

    /// The names of a node's children, sorted.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Unavailable`].
    async fn children(&self, path: &str) -> Result<Vec<String>>;

    /// Reads many nodes, pipelined: the cost is that of the bytes and not of the round trips. One result per
    /// path, in their order. The nodes are not read at one instant; the order of reads is that of the paths.
    async fn get_many(&self, paths: &[String]) -> Vec<Result<Versioned>>;

    /// Creates a node. Its parent must exist. The version is that of a new node, 0.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`], [`Error::NotFound`] (the parent), [`Error::EphemeralParent`],
    /// [`Error::TooLarge`], [`Error::Unavailable`], [`Error::UnknownOutcome`].
    async fn create(&self, path: &str, data: &[u8], mode: CreateMode) -> Result<Version>;

    /// Replaces the data of a node that has the expected version (`None`: any), and answers the new version.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::BadVersion`], [`Error::TooLarge`], [`Error::Unavailable`],
    /// [`Error::UnknownOutcome`].
    async fn set(&self, path: &str, data: &[u8], expected: Option<Version>) -> Result<Version>;

    /// Deletes a node without children that has the expected version (`None`: any).
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::BadVersion`], [`Error::NotEmpty`], [`Error::Unavailable`],
    /// [`Error::UnknownOutcome`].
    async fn delete(&self, path: &str, expected: Option<Version>) -> Result<()>;

    /// Makes all these changes, in order, or none of them. The error names the step that failed.
    /// An empty list does nothing.
    ///
    /// # Errors
    /// What the single steps may answer, and [`Error::TransactionTooLarge`].
    async fn commit(&self, ops: Vec<Op>) -> Result<()>;

    /// Watches a node and everything below it, whether it exists or not, until the [`Watch`] is dropped.
    /// Changes made after this returns are seen; so watch first, then list.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    async fn watch(&self, path: &str) -> Result<Watch>;

    /// How this process stands with the service, now and from now on.
    fn session(&self) -> Receiver<SessionState>;

    /// Creates the missing ancestors of `path` (not `path` itself) as persistent nodes without data.
    ///
    /// # Errors
    /// As [`create`](Self::create), but for those that say an ancestor is there already.
    async fn create_parents(&self, path: &str) -> Result<()> {
        path::validate(path)?;
        let Some(parent) = path::parent(path) else {
            return Ok(());
        };
        // Mostly they are all there: one round trip then.
        if self.exists(parent).await?.is_some() {
            return Ok(());
        }
        for ancestor in path::ancestors(path) {
            create_if_missing(self, ancestor).await?;
        }
        Ok(())
    }

    /// Creates `path` and its missing ancestors as persistent nodes without data; nothing happens to those
    /// that are there.
    ///
    /// # Errors
    /// As [`create_parents`](Self::create_parents).
    async fn ensure(&self, path: &str) -> Result<()> {
        self.create_parents(path).await?;
        create_if_missing(self, path).await
    }
}

async fn create_if_missing<T: Tree + ?Sized>(tree: &T, path: &str) -> Result<()> {
    if path == path::ROOT {
        return Ok(());
    }
    match tree.create(path, &[], CreateMode::Persistent).await {
        Ok(_) | Err(Error::AlreadyExists { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Refuses creating what is always there.
pub(crate) fn validate_create(path: &str, data: &[u8]) -> Result<()> {
    path::validate(path)?;
    if path == path::ROOT {
        return Err(Error::AlreadyExists {
            path: path.to_owned(),
        });
    }
    validate_data("create", path, data)
}

/// Refuses setting what a node may not hold.
pub(crate) fn validate_set(path: &str, data: &[u8]) -> Result<()> {
    path::validate(path)?;
    validate_data("set", path, data)
}

fn validate_data(act: &'static str, path: &str, data: &[u8]) -> Result<()> {
    if data.len() > MAX_DATA_BYTES {
        return Err(Error::TooLarge {
            act,
            path: path.to_owned(),
            bytes: data.len(),
            limit: MAX_DATA_BYTES,
        });
    }
    Ok(())
}

/// Refuses deleting what must always be there.
pub(crate) fn validate_delete(path: &str) -> Result<()> {
    path::validate(path)?;
    if path == path::ROOT {
        return Err(Error::InvalidPath {
            path: path.to_owned(),
            reason: "the root cannot be deleted",
        });
    }
    Ok(())
}

/// Refuses a transaction that could not be sent, before any of it is.
pub(crate) fn validate_ops(ops: &[Op]) -> Result<()> {
    // Per step: header, path and data lengths, version, flags and the access list (world, anyone).
    const STEP_OVERHEAD_BYTES: usize = 64;
    let mut bytes = 0;
    for op in ops {
        match op {
            Op::Create { path, data, .. } => validate_create(path, data)?,
            Op::Set { path, data, .. } => validate_set(path, data)?,
            Op::Delete { path, .. } => validate_delete(path)?,
            Op::Check { path, .. } => path::validate(path)?,
        }
        bytes += STEP_OVERHEAD_BYTES + op.path().len() + op.data().len();
    }
    if bytes > MAX_TRANSACTION_BYTES {
        return Err(Error::TransactionTooLarge {
            operations: ops.len(),
            bytes,
            limit: MAX_TRANSACTION_BYTES,
        });
    }
    Ok(())
}
