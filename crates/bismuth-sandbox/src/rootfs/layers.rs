//! Opens the layers of an image through id-mapped clones of their mounts.
//!
//! ```text
//!   …/snapshots            ──clone, id map──►  one detached mount
//!      ├─ 1/fs                                    ├─ 1/fs   descriptor
//!      └─ 2/fs                                    └─ 2/fs   descriptor
//! ```
//!
//! A clone costs some 80 µs, most of it when it goes away, so layers on one mount share one: that
//! of the deepest directory above them all. It is attached nowhere and nobody else can reach it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::mount::{OpenTreeFlags, open_tree};

use super::Error;
use crate::{PathError, mounts, sys};

/// What fails for a layer that is not there, or no directory.
const OPEN: &str = "open layer";

/// Id-mapped clones and the layers' directories in them. Gone when dropped, but for what an
/// overlay keeps.
#[derive(Debug)]
pub(super) struct Layers {
    /// The clones, each attached nowhere.
    pub(super) mounts: Vec<OwnedFd>,
    /// The layers' directories, in the given order.
    pub(super) dirs: Vec<OwnedFd>,
}

/// Layers on one mount.
struct SharedMount {
    mount_id: u64,
    /// The deepest directory above them all, on the same mount: two resolved paths on one mount
    /// have its mount point as a common prefix.
    above: PathBuf,
}

impl Layers {
    pub(super) fn open(dirs: &[PathBuf], user_ns: BorrowedFd<'_>) -> Result<Self, Error> {
        let mut groups: Vec<SharedMount> = Vec::new();
        let mut members = Vec::with_capacity(dirs.len());
        for dir in dirs {
            let (path, mount_id) = resolve(dir)?;
            let group = match groups.iter().position(|group| group.mount_id == mount_id) {
                Some(group) => group,
                None => {
                    let above = path.clone();
                    groups.push(SharedMount { mount_id, above });
                    groups.len() - 1
                }
            };
            groups[group].above = common_ancestor(&groups[group].above, &path);
            members.push((group, path));
        }
        let mounts = groups
            .iter()
            .map(|group| clone_mapped(&group.above, user_ns))
            .collect::<Result<Vec<_>, _>>()?;
        let dirs = members
            .iter()
            .map(|(group, path)| open_in(&mounts[*group], &groups[*group].above, path))
            .collect::<Result<_, _>>()?;
        Ok(Self { mounts, dirs })
    }
}

/// The path without symbolic links, and the id of the mount that it lies on.
fn resolve(dir: &Path) -> Result<(PathBuf, u64), Error> {
    let path = dir.canonicalize().map_err(PathError::at(OPEN, dir))?;
    let found = rustix::fs::statx(CWD, &path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::MNT_ID)
        .map_err(PathError::at(OPEN, dir))?;
    Ok((path, found.stx_mnt_id))
}

fn common_ancestor(a: &Path, b: &Path) -> PathBuf {
    let same = |(a, b): &(Component<'_>, Component<'_>)| a == b;
    let common = a.components().zip(b.components()).take_while(same);
    common.map(|(component, _)| component).collect()
}

fn clone_mapped(dir: &Path, user_ns: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let clone = PathError::at("clone the mount of the layers in", dir);
    let mount = open_tree(CWD, dir, flags).map_err(clone)?;
    sys::set_id_map(mount.as_fd(), user_ns).map_err(|source| refusal(dir, source))?;
    Ok(mount)
}

/// Opens a layer in the clone of a directory above it. A real descriptor: overlayfs takes path
/// descriptors later (6.15) than these (6.13).
fn open_in(mount: &OwnedFd, above: &Path, layer: &Path) -> Result<OwnedFd, Error> {
    let within = match layer.strip_prefix(above) {
        Ok(within) if within != Path::new("") => within,
        _ => Path::new("."),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // The path is resolved already: whatever makes it lead elsewhere now is no layer.
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let opened = rustix::fs::openat2(mount, within, flags, Mode::empty(), resolve);
    Ok(opened.map_err(PathError::at(OPEN, layer))?)
}

/// `EINVAL` for a fresh clone means that its filesystem does not do it (mount_setattr(2)).
fn refusal(dir: &Path, source: io::Error) -> Error {
    let fs_type = || fs_type(dir).unwrap_or_else(|| "of unknown type".to_owned());
    match source.raw_os_error() {
        Some(libc::EINVAL | libc::EOPNOTSUPP) => Error::IdMapUnsupported {
            fs_type: fs_type(),
            dir: dir.to_owned(),
            source,
        },
        _ => PathError::at("give an id mapping to the clone of", dir)(source).into(),
    }
}

/// For an error message only, so that failing to find it out must not hide the error.
fn fs_type(dir: &Path) -> Option<String> {
    mounts::fs_type_of(dir).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_common_directory_is_found() {
        let ancestor = |a, b| common_ancestor(Path::new(a), Path::new(b));
        assert_eq!(ancestor("/s/1/fs", "/s/2/fs"), Path::new("/s"));
        assert_eq!(ancestor("/s/1/fs", "/s/1/fs"), Path::new("/s/1/fs"));
        assert_eq!(ancestor("/s/10", "/s/1"), Path::new("/s"));
        assert_eq!(ancestor("/a", "/b"), Path::new("/"));
    }
}
