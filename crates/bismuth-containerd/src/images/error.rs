//! Errors of image operations, and which of them can be retried.
//!
//! Clone, because one pull answers everybody who waits for the image; sources are shared.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::digest::Digest;

/// The result of an act on images.
pub type Result<T, E = ImageError> = std::result::Result<T, E>;

/// A failure to get, keep or remove an image. The text names the image or blob, and carries the registry's own words.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ImageError {
    /// The registry does not have it.
    #[error("unknown image {reference}: {registry} says: {message}")]
    UnknownImage {
        /// The image asked for.
        reference: String,
        /// The endpoint that answered.
        registry: String,
        /// What it said.
        message: String,
    },
    /// The registry does not give it to us.
    #[error("not authorized to pull {reference} from {registry}: {message}")]
    Unauthorized {
        /// The image asked for.
        reference: String,
        /// The endpoint that answered.
        registry: String,
        /// What it, or its token server, said.
        message: String,
    },
    /// The registry refused for another reason, or speaks something else than the distribution protocol.
    #[error("{act} of {reference} from {registry}: {message}")]
    Refused {
        /// "get manifest", "get blob sha256:…".
        act: String,
        /// The image asked for.
        reference: String,
        /// The endpoint that answered.
        registry: String,
        /// What it said.
        message: String,
    },
    /// The registry cannot be reached, breaks connections, or is overloaded; trying again later may help.
    #[error("{act} of {reference} from {registry}: {message}")]
    Unreachable {
        /// "get manifest", "get blob sha256:…".
        act: String,
        /// The image asked for.
        reference: String,
        /// The endpoint.
        registry: String,
        /// What happened, with its causes.
        message: String,
    },
    /// The registry answered, and broke the content off. A few times it may be the network; every time, it is what the
    /// registry holds.
    #[error("{act} of {reference} from {registry}: {message}")]
    IncompleteBody {
        /// "get blob sha256:…".
        act: String,
        /// The image asked for.
        reference: String,
        /// The endpoint.
        registry: String,
        /// What happened, with its causes.
        message: String,
    },
    /// Several endpoints are configured and all failed.
    #[error("{reference}: {}", failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    AllEndpointsFailed {
        /// The image asked for.
        reference: String,
        /// What each of them led to, in the order they were tried.
        failures: Vec<ImageError>,
    },
    /// The content is not what its name says.
    #[error("digest mismatch: {object} from {origin} should be {expected} but is {actual}")]
    DigestMismatch {
        /// "manifest", "blob", "unpacked layer …".
        object: String,
        /// Where the content came from.
        origin: String,
        /// The digest asked for.
        expected: String,
        /// The digest of what came.
        actual: String,
    },
    /// The content is longer or shorter than its descriptor says.
    #[error("size mismatch: {digest} from {origin} should have {expected} bytes but {actual} came")]
    SizeMismatch {
        /// The blob.
        digest: Digest,
        /// Where the content came from.
        origin: String,
        /// Bytes promised.
        expected: u64,
        /// Bytes that came.
        actual: u64,
    },
    /// The index has no image for this machine.
    #[error("{object} has no image for {wanted}; it has: {}", offered.join(", "))]
    NoPlatform {
        /// The image.
        object: String,
        /// This machine.
        wanted: String,
        /// What the index has.
        offered: Vec<String>,
    },
    /// A document of the image makes no sense.
    #[error("{what} {object}: {reason}")]
    Malformed {
        /// "manifest", "image configuration", "mounts of".
        what: &'static str,
        /// Which one.
        object: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The image uses something that Bismuth does not do.
    #[error("{object}: {what} is not supported")]
    Unsupported {
        /// The blob.
        object: String,
        /// What is not supported.
        what: String,
    },
    /// There is no room left on containerd's disk.
    #[error("no space left on the disk of containerd: {source}")]
    DiskFull {
        /// The call that failed.
        source: Arc<crate::Error>,
    },
    /// containerd failed.
    #[error(transparent)]
    Containerd(Arc<crate::Error>),
    /// The image was not there in time.
    #[error("{reference} was not ready within {after:?}{}", last.as_ref().map(|l| format!("; last problem: {l}")).unwrap_or_default())]
    DeadlineExceeded {
        /// The image.
        reference: String,
        /// The deadline that passed.
        after: Duration,
        /// The problem that was being retried when the time was up.
        last: Option<String>,
    },
    /// The registry client could not be set up.
    #[error("set up the client for registry {registry}: {reason}")]
    ClientSetup {
        /// The endpoint.
        registry: String,
        /// Why.
        reason: String,
    },
    /// The credentials for a registry cannot be had.
    #[error("credentials for {registry}: {reason}")]
    Credentials {
        /// The registry's host.
        registry: String,
        /// Why.
        reason: String,
    },
    /// The operating system failed us on a file or directory.
    #[error("{act} {}: {source}", path.display())]
    File {
        /// "read", "measure the disk of".
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: Arc<std::io::Error>,
    },
    /// An image file or directory is not what it should be.
    #[error("import {}: {reason}", path.display())]
    Archive {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The task that did the work is gone (shutdown, or a bug).
    #[error("the pull of {reference} was interrupted: {reason}")]
    Interrupted {
        /// The image.
        reference: String,
        /// What happened to the task.
        reason: String,
    },
}

impl From<crate::Error> for ImageError {
    fn from(error: crate::Error) -> Self {
        // containerd passes the operating system's error on as text under code Unknown.
        let full = error.to_string().contains("no space left on device");
        let source = Arc::new(error);
        if full {
            Self::DiskFull { source }
        } else {
            Self::Containerd(source)
        }
    }
}

impl ImageError {
    pub(crate) fn mismatch(
        object: impl Into<String>,
        origin: impl Into<String>,
        expected: &Digest,
        actual: impl Into<String>,
    ) -> Self {
        Self::DigestMismatch {
            object: object.into(),
            origin: origin.into(),
            expected: expected.to_string(),
            actual: actual.into(),
        }
    }

    /// For `map_err` of an act ("read") on a file.
    pub(crate) fn file(act: &'static str, path: &Path) -> impl Fn(std::io::Error) -> Self {
        move |source| Self::File {
            act,
            path: path.to_owned(),
            source: Arc::new(source),
        }
    }

    /// Trying the same again later may succeed, without anybody changing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::IncompleteBody { .. }
            | Self::SizeMismatch { .. }
            | Self::DeadlineExceeded { .. }
            | Self::Interrupted { .. } => true,
            Self::Containerd(error) => error.is_outcome_unknown(),
            Self::AllEndpointsFailed { failures, .. } => failures.iter().any(Self::is_retryable),
            _ => false,
        }
    }

    /// As what a whole pull came to, with its own retries behind it: it may pass by itself later. Content that came too
    /// short every time does not.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::IncompleteBody { .. } | Self::SizeMismatch { .. } => false,
            Self::DiskFull { .. } | Self::File { .. } => true,
            Self::AllEndpointsFailed { failures, .. } => failures.iter().any(Self::is_transient),
            other => other.is_retryable(),
        }
    }

    /// Another endpoint for the same image may do better: the fault is with this one.
    pub(crate) fn is_endpoints_fault(&self) -> bool {
        matches!(
            self,
            Self::UnknownImage { .. }
                | Self::Unauthorized { .. }
                | Self::Refused { .. }
                | Self::Unreachable { .. }
                | Self::IncompleteBody { .. }
                | Self::DigestMismatch { .. }
                | Self::SizeMismatch { .. }
                | Self::ClientSetup { .. }
                | Self::Credentials { .. }
        )
    }

    /// What to tell about several endpoints: one speaks for itself, of several each is named.
    pub(crate) fn of_endpoints(reference: &str, mut failures: Vec<Self>) -> Self {
        if failures.len() == 1 {
            failures.remove(0)
        } else {
            Self::AllEndpointsFailed {
                reference: reference.to_owned(),
                failures,
            }
        }
    }
}
