//! One layer of an image, seen through a container's id mapping.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, open_tree};

use super::Error;
use crate::{mounts, sys};

/// A clone of the mount of a layer's directory: id-mapped, attached nowhere, gone when dropped
/// unless an overlay keeps it.
#[derive(Debug)]
pub(super) struct Layer(OwnedFd);

impl Layer {
    pub(super) fn open(dir: &Path, user_ns: BorrowedFd<'_>) -> Result<Self, Error> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let mount = open_tree(CWD, dir, flags).map_err(|source| Error::CloneLayer {
            layer: dir.to_owned(),
            source: source.into(),
        })?;
        sys::set_id_map(mount.as_fd(), user_ns).map_err(|source| refusal(dir, source))?;
        Ok(Self(mount))
    }
}

impl AsFd for Layer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// `EINVAL` for a fresh clone means that its filesystem does not do it (mount_setattr(2)).
fn refusal(dir: &Path, source: io::Error) -> Error {
    let layer = dir.to_owned();
    match source.raw_os_error() {
        Some(libc::EINVAL | libc::EOPNOTSUPP) => Error::IdMapUnsupported {
            fs_type: fs_type(dir).unwrap_or_else(|| "of unknown type".to_owned()),
            layer,
            source,
        },
        _ => Error::IdMap { layer, source },
    }
}

/// For an error message only, so that failing to find it out must not hide the error.
fn fs_type(dir: &Path) -> Option<String> {
    mounts::fs_type_of(dir).ok().flatten()
}
