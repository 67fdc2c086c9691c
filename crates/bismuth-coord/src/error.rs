//! Errors of the coordination tree. Each names the operation and the path.

/// The cause under an [`Error`], kept for the log.
pub type Cause = Box<dyn std::error::Error + Send + Sync + 'static>;

/// The result of an operation on a [`Tree`](crate::Tree).
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation on the tree did not answer with what was asked for.
///
/// Three families matter to a caller:
///
/// * **answers** ([`NotFound`](Self::NotFound), [`AlreadyExists`](Self::AlreadyExists),
///   [`BadVersion`](Self::BadVersion), [`NotEmpty`](Self::NotEmpty), [`EphemeralParent`](Self::EphemeralParent)):
///   the tree was asked and this is what it said; nothing was changed;
/// * **refusals** ([`InvalidPath`](Self::InvalidPath), [`TooLarge`](Self::TooLarge),
///   [`TransactionTooLarge`](Self::TransactionTooLarge), [`Refused`](Self::Refused)): repeating it will not help;
/// * **doubts** ([`Unavailable`](Self::Unavailable): nothing was changed, try later;
///   [`UnknownOutcome`](Self::UnknownOutcome): the change was made or was not, re-read and decide).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no node at this path (for a create: the parent is missing).
    #[error("{act} {path}: there is no such node")]
    NotFound {
        /// What was attempted.
        act: &'static str,
        /// The node that is missing, or whose parent is missing.
        path: String,
    },
    /// A create found the path taken.
    #[error("create {path}: it already exists")]
    AlreadyExists {
        /// The path that is taken.
        path: String,
    },
    /// The node has another version than the caller expected.
    #[error("{act} {path}: it was changed by another client (the version differs)")]
    BadVersion {
        /// What was attempted.
        act: &'static str,
        /// The node that changed.
        path: String,
    },
    /// A delete found children.
    #[error("delete {path}: it has children")]
    NotEmpty {
        /// The node with children.
        path: String,
    },
    /// A create below an ephemeral node.
    #[error("create {path}: its parent is ephemeral and cannot have children")]
    EphemeralParent {
        /// The node that was to be created.
        path: String,
    },
    /// The path is not one the tree accepts.
    #[error("{path:?} is not a valid path: {reason}")]
    InvalidPath {
        /// The text as given.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The data of one node is above [`MAX_DATA_BYTES`](crate::MAX_DATA_BYTES); it was not sent.
    #[error("{act} {path}: {bytes} bytes are more than the {limit} bytes a node may hold")]
    TooLarge {
        /// What was attempted.
        act: &'static str,
        /// The node.
        path: String,
        /// Size of the refused data.
        bytes: usize,
        /// The most that is sent.
        limit: usize,
    },
    /// The operations of one transaction do not fit into one request; it was not sent.
    #[error(
        "commit {operations} operations: {bytes} bytes do not fit into one request of {limit} bytes"
    )]
    TransactionTooLarge {
        /// How many operations it had.
        operations: usize,
        /// Its size on the wire, estimated from above.
        bytes: usize,
        /// The most that is sent.
        limit: usize,
    },
    /// There is no connection, or no answer in time. Nothing was changed.
    #[error("{act} {path}: the coordination service is unavailable")]
    Unavailable {
        /// What was attempted.
        act: &'static str,
        /// On which node.
        path: String,
        /// What was seen of the connection.
        source: Cause,
    },
    /// The connection ended after a change was sent and before the answer came.
    /// The change was made or was not: re-read, then decide.
    #[error("{act} {path}: the connection was lost before the answer; the outcome is unknown")]
    UnknownOutcome {
        /// What was attempted.
        act: &'static str,
        /// On which node (of a transaction: its first operation).
        path: String,
        /// What was seen of the connection.
        source: Cause,
    },
    /// The service refused for a reason that trying again does not mend (access, quota, protocol).
    #[error("{act} {path}: refused by the coordination service")]
    Refused {
        /// What was attempted.
        act: &'static str,
        /// On which node.
        path: String,
        /// The service's own words.
        source: Cause,
    },
    /// The list of servers cannot be used.
    #[error(
        "{servers:?} is not a list of coordination servers (host:port, separated by commas): {fault}"
    )]
    InvalidServers {
        /// The text as given.
        servers: String,
        /// What is wrong with it.
        fault: String,
    },
    /// No session could be opened in time.
    #[error("connect to {servers}")]
    Connect {
        /// The servers that were tried.
        servers: String,
        /// What the last attempt saw.
        source: Cause,
    },
}

impl Error {
    /// Whether the service could not be asked at all: nothing was changed and it is worth trying later.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Connect { .. })
    }

    /// Whether the caller must re-read to learn what happened.
    #[must_use]
    pub fn is_unknown_outcome(&self) -> bool {
        matches!(self, Self::UnknownOutcome { .. })
    }

    /// Whether somebody else got there first: what was read before is stale, so read again and decide again.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(
            self,
            Self::AlreadyExists { .. } | Self::BadVersion { .. } | Self::NotEmpty { .. }
        )
    }

    /// Whether the node (or the parent of the node to create) is missing.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// The node the error is about, where there is one.
    #[must_use]
    pub fn path(&self) -> Option<&str> {
        match self {
            Self::NotFound { path, .. }
            | Self::AlreadyExists { path }
            | Self::BadVersion { path, .. }
            | Self::NotEmpty { path }
            | Self::EphemeralParent { path }
            | Self::InvalidPath { path, .. }
            | Self::TooLarge { path, .. }
            | Self::Unavailable { path, .. }
            | Self::UnknownOutcome { path, .. }
            | Self::Refused { path, .. } => Some(path),
            Self::TransactionTooLarge { .. }
            | Self::InvalidServers { .. }
            | Self::Connect { .. } => None,
        }
    }
}
