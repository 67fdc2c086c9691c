//! The failure of a system call on a file or directory.

use std::io;
use std::path::{Path, PathBuf};

/// A system call on a file or directory failed.
#[derive(Debug, thiserror::Error)]
#[error("{act} {}", path.display())]
pub struct PathError {
    act: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl PathError {
    /// Names the act ("read mount table") and its object, for `map_err`.
    pub(crate) fn at<E: Into<io::Error>>(act: &'static str, path: &Path) -> impl Fn(E) -> Self {
        move |source| Self {
            act,
            path: path.to_owned(),
            source: source.into(),
        }
    }
}
