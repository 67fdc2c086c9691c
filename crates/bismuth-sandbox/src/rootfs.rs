//! Mounts the root filesystem of a container: an overlay of the image's layers, without copying.
//!
//! ```text
//!   layer directories      id-mapped clone (layers.rs)      dir/root: overlay (overlay.rs)
//!   …/snapshots/3/fs  ──►  0:0 seen as host_start    ──┐
//!   …/snapshots/2/fs  ──►  …                         ──┼──►  lower
//!   …/snapshots/1/fs  ──►  …                         ──┘
//!   tmpfs of disk_bytes (upper.rs)                   ─────►  upper, work
//! ```
//!
//! A layer's files belong to root on disk and are shared by every container of the image. The
//! id-mapped clone shows them as belonging to this function's root; what the function writes goes
//! to the tmpfs, which belongs to it anyway. [`mount`]:
//!
//! 1. clones the mount that holds the layers and gives the clone the user namespace's mapping,
//! 2. makes a tmpfs that holds `disk_bytes` and no more,
//! 3. makes an overlay of them and mounts it at `dir/root`, the only mount that stays: overlayfs
//!    keeps its layers alive without their being anywhere in the tree ([`OverlayMethod`]).
//!
//! The overlay does not honour device files, which an image may carry, and does not follow the
//! redirect and metacopy marks that a hostile layer could bring.

mod layers;
mod overlay;
mod upper;

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};

use crate::ids::IdRange;
use crate::teardown_errors::{ErrorCollector, TeardownErrors};
use crate::{PathError, mounts, namespaces};

pub use overlay::OverlayMethod;

use layers::Layers;
use upper::Upper;

/// Where the merged filesystem is mounted, within a container's directory.
const ROOT: &str = "root";
/// Where [`OverlayMethod::Attached`] mounts the layers for a moment.
const LOWER: &str = "lower";
/// Where [`OverlayMethod::Attached`] mounts the tmpfs for a moment.
const UPPER: &str = "upper";

/// What went wrong with a root filesystem.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An overlay needs at least one lower directory.
    #[error("root filesystem {} has no layers", dir.display())]
    NoLayers {
        /// The container's directory.
        dir: PathBuf,
    },
    /// More layers than the kernel takes in this way.
    #[error("{count} layers are more than the {most} that this kernel can join")]
    TooManyLayers {
        /// How many there are.
        count: usize,
        /// How many can be.
        most: usize,
    },
    /// There is a root filesystem already.
    #[error("root filesystem {} is mounted already", root.display())]
    AlreadyMounted {
        /// The mount point.
        root: PathBuf,
    },
    /// The filesystem cannot show files under other ids.
    #[error("filesystem {fs_type} of {} does not support id-mapped mounts (ext4, xfs, btrfs, f2fs and, from Linux 6.3, tmpfs do)", dir.display())]
    IdMapUnsupported {
        /// A directory on it.
        dir: PathBuf,
        /// Its type, as in the mount table.
        fs_type: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Another system call failed.
    #[error(transparent)]
    Path(#[from] PathError),
    /// A mount could not be found or undone.
    #[error(transparent)]
    Mounts(#[from] mounts::Error),
    /// The user namespace for a probe could not be made.
    #[error("make a user namespace to probe id-mapped mounts with")]
    ProbeNamespace(#[from] namespaces::Error),
}

/// What a root filesystem is made of.
#[derive(Debug, Clone)]
pub struct RootfsSpec<'a> {
    /// The image's layer directories, top first; at least one, and none of them changes while the
    /// container exists.
    pub lower_dirs: Vec<PathBuf>,
    /// The container's directory. Exists; `root`, and for a moment `lower` and `upper`, in it are
    /// this module's.
    pub dir: PathBuf,
    /// The container's user namespace, whose mapping the layers are shown in.
    pub user_ns: BorrowedFd<'a>,
    /// The host ids that `user_ns` maps: the upper directory belongs to the first of them.
    pub ids: IdRange,
    /// How much the container may write, in bytes; rounded up to pages.
    pub disk_bytes: u64,
}

/// Mounts the root filesystem at `dir/root` and returns that path, in the way that this kernel
/// offers.
///
/// # Errors
/// As [`Error`] says; what was made is undone.
pub fn mount(spec: &RootfsSpec<'_>) -> Result<PathBuf, Error> {
    mount_by(OverlayMethod::of_this_kernel(), spec)
}

/// [`mount`] in a given way, for tests and measurements.
///
/// # Errors
/// As [`Error`] says; what was made is undone.
pub fn mount_by(method: OverlayMethod, spec: &RootfsSpec<'_>) -> Result<PathBuf, Error> {
    let top = spec.lower_dirs.first().ok_or_else(|| Error::NoLayers {
        dir: spec.dir.clone(),
    })?;
    let root = spec.dir.join(ROOT);
    if is_mounted(&spec.dir)? {
        return Err(Error::AlreadyMounted { root });
    }
    let layers = Layers::open(&spec.lower_dirs, spec.user_ns)?;
    let upper = Upper::create(spec, top)?;
    make_dir(&root)?;
    let mounted = match method {
        OverlayMethod::Detached => overlay::mount_detached(&spec.dir, &root, &layers, &upper),
        OverlayMethod::Attached => overlay::mount_attached(&spec.dir, &root, &layers, &upper),
    };
    if let Err(error) = mounted {
        if let Err(undo) = unmount(&spec.dir) {
            tracing::error!(error = %undo, "a part of a root filesystem stays behind");
        }
        return Err(error);
    }
    Ok(root)
}

/// Undoes [`mount`], whether it was complete or not, in this process or an earlier one: every
/// mount under `dir/root`, `dir/upper` and `dir/lower`, deepest first, then the directories. What
/// the container wrote is gone with the last process that uses it. Nothing there is fine.
///
/// # Errors
/// Every step that failed; all are tried.
pub fn unmount(dir: &Path) -> Result<(), TeardownErrors<Error>> {
    let mut errors = ErrorCollector::new();
    for name in [ROOT, UPPER, LOWER] {
        errors.push_all(mounts::unmount_under(&dir.join(name)));
    }
    let lower = dir.join(LOWER);
    for path in errors.push_err(numbered(&lower)).into_iter().flatten() {
        errors.push_err(remove_dir(&path));
    }
    for path in [lower, dir.join(UPPER), dir.join(ROOT)] {
        errors.push_err(remove_dir(&path));
    }
    errors.finish()
}

/// Whether there is a root filesystem at `dir/root`. Costs one system call.
///
/// # Errors
/// [`Error::Path`]; a missing directory is none.
pub fn is_mounted(dir: &Path) -> Result<bool, Error> {
    let root = dir.join(ROOT);
    match rustix::fs::statx(CWD, &root, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE) {
        Ok(found) => Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
        Err(rustix::io::Errno::NOENT) => Ok(false),
        Err(source) => Err(PathError::at("examine", &root)(source).into()),
    }
}

/// Finds out whether layers in `dir` can be id-mapped, by doing it once. To be called when the
/// node starts, with the directory that holds the snapshots.
///
/// # Errors
/// [`Error::IdMapUnsupported`] naming the filesystem, and as [`Error`] says.
pub fn probe(dir: &Path) -> Result<(), Error> {
    // The mapping is never used, so any will do.
    let ids = IdRange {
        host_start: IdRange::SIZE,
        size: 1,
    };
    let user_ns = namespaces::unpinned_user_namespace(ids)?;
    Layers::open(&[dir.to_owned()], user_ns.as_fd()).map(drop)
}

fn make_dir(path: &Path) -> Result<(), Error> {
    match fs::create_dir(path) {
        // A crash may have left it, and then it is as good as a new one.
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(PathError::at("make directory", path)(error).into())
        }
        _ => Ok(()),
    }
}

fn remove_dir(path: &Path) -> Result<(), Error> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(PathError::at("remove directory", path)(error).into())
        }
        _ => Ok(()),
    }
}

/// The mount points that [`OverlayMethod::Attached`] made in `dir/lower`.
fn numbered(lower: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = match fs::read_dir(lower) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect()),
    };
    Ok(entries.map_err(PathError::at("examine", lower))?)
}
