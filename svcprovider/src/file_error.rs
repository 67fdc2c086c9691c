//! The error of a file operation.

use std::io;
use std::path::{Path, PathBuf};

/// What was tried with which file, and why it failed.
#[derive(Debug, thiserror::Error)]
#[error("{act} {}", path.display())]
#[allow(missing_docs, reason = "the message says it")]
pub struct FileError {
    pub act: &'static str,
    pub path: PathBuf,
    pub source: io::Error,
}

/// Names what failed.
pub(crate) fn failed(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError { act, path, source }
}
