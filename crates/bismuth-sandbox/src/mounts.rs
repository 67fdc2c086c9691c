//! Lists, undoes and shares mounts under a directory.
//!
//! ```text
//!   our mount namespace                 containerd's (a slave of ours, made later)
//!   /var/lib/bismuth   shared:7   ────►  /var/lib/bismuth   master:7
//!     └─ …/root        shared:8   ────►    └─ …/root        master:8     runc finds the rootfs here
//! ```
//!
//! bismuthd and containerd may live in different mount namespaces. [`make_shared_dir`] is called
//! once for the state directory, before the other namespace is made; what is mounted or unmounted
//! under it then reaches the other side as well. Without it, containerd would see empty
//! directories.

mod table;

use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::{MountPropagationFlags, UnmountFlags};

pub use table::{MountPoint, table, table_of};

use crate::PathError;
use crate::teardown_errors::{ErrorCollector, TeardownErrors};

/// What went wrong with a mount.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A line of a mount table is not as proc_pid_mountinfo(5) says.
    #[error("mount table line {line:?} is not as proc_pid_mountinfo(5) describes it")]
    MalformedTable {
        /// The line.
        line: String,
    },
    /// A system call failed.
    #[error(transparent)]
    Path(#[from] PathError),
}

/// The mounts at and under `dir` in the calling thread's mount namespace, deepest first: the
/// order in which they can be undone. Empty if `dir` does not exist.
///
/// # Errors
/// As [`Error`] says.
pub fn list_under(dir: &Path) -> Result<Vec<MountPoint>, Error> {
    match dir.canonicalize() {
        Ok(dir) => Ok(table::deepest_first(table()?, &dir)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(PathError::at("resolve", dir)(source).into()),
    }
}

/// The type of the filesystem that a path lies on.
pub(crate) fn fs_type_of(path: &Path) -> Result<Option<String>, Error> {
    let path = resolve(path)?;
    Ok(table::mount_containing(&table()?, &path).map(|mount| mount.fs_type.clone()))
}

/// Undoes every mount at and under `dir`, deepest first. A mount that is busy is detached: it
/// disappears from the tree now, and from the kernel when its last user is gone.
///
/// # Errors
/// Every mount that could not be undone; all are tried.
pub fn unmount_under(dir: &Path) -> Result<(), TeardownErrors<Error>> {
    let mut errors = ErrorCollector::new();
    for mount in errors.push_err(list_under(dir)).into_iter().flatten() {
        errors.push_err(unmount(&mount.path));
    }
    errors.finish()
}

/// Undoes the topmost mount at `path`; detaches it if it is busy. Nothing there is fine.
pub(crate) fn unmount(path: &Path) -> Result<(), Error> {
    let plain = rustix::mount::unmount(path, UnmountFlags::NOFOLLOW);
    let result = match plain {
        Err(rustix::io::Errno::BUSY) => {
            tracing::warn!(path = %path.display(), "mount is busy, detaching it");
            detach(path)
        }
        other => other,
    };
    match result {
        // EINVAL: not a mount point (any more). ENOENT: the directory is gone, and a directory
        // that is a mount point of our namespace cannot go.
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(()),
        Err(source) => Err(PathError::at("unmount", path)(source).into()),
    }
}

/// Takes a mount out of the tree whether or not it is in use.
pub(crate) fn detach(path: &Path) -> rustix::io::Result<()> {
    rustix::mount::unmount(path, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)
}

/// Makes sure that what is mounted under `dir` from now on reaches the mount namespaces that are
/// copied from ours (as slaves or peers) from now on. Repeatable.
///
/// If `dir` lies on a shared mount already (systemd makes `/` shared) nothing is done. A mount
/// point that is not shared becomes so. Any other directory is bound onto itself first, because
/// only mounts have a propagation type, and the mount that holds `dir` is not ours to change.
///
/// # Errors
/// As [`Error`] says; nothing is changed then.
pub fn make_shared_dir(dir: &Path) -> Result<(), Error> {
    let dir = resolve(dir)?;
    let mounts = table()?;
    let holder = table::mount_containing(&mounts, &dir);
    if holder.is_some_and(|mount| mount.shared) {
        return Ok(());
    }
    let bound = holder.is_none_or(|mount| mount.path != dir);
    if bound {
        rustix::mount::mount_bind(&dir, &dir)
            .map_err(PathError::at("bind-mount onto itself", &dir))?;
    }
    let shared = rustix::mount::mount_change(&dir, MountPropagationFlags::SHARED);
    shared.map_err(|source| {
        if bound && let Err(error) = unmount(&dir) {
            tracing::error!(%error, "the bind of a directory onto itself stays behind");
        }
        PathError::at("make a shared mount of", &dir)(source).into()
    })
}

fn resolve(path: &Path) -> Result<PathBuf, Error> {
    Ok(path
        .canonicalize()
        .map_err(PathError::at("resolve", path))?)
}
