//! The writable upper directory of the overlay: a tmpfs that holds what the container may write, and no more.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};

use super::{Error, RootfsSpec};
use crate::PathError;

/// Names of the two directories that an overlay needs on one filesystem.
const UPPER: &str = "upper";
const WORK: &str = "work";

/// One inode per 16 KiB, the ratio of ext4 (mke2fs.conf(5)): a tmpfs inode costs about 1 KiB of
/// kernel memory, so that empty files cannot take much more than `disk_bytes` allows.
const BYTES_PER_INODE: u64 = 16 * 1024;
/// Enough for an unpacked source tree on a small disk.
const MIN_INODES: u64 = 4096;

/// A tmpfs with `upper` and `work`, attached nowhere.
#[derive(Debug)]
pub(super) struct Upper {
    mount: OwnedFd,
    pub(super) upper: OwnedFd,
    pub(super) work: OwnedFd,
}

impl Upper {
    /// `top` is the image's topmost layer: the root directory of the container has its mode.
    pub(super) fn create(spec: &RootfsSpec<'_>, top: &Path) -> Result<Self, Error> {
        let failed = |act| PathError::at(act, &spec.dir);
        let mount =
            tmpfs(spec.disk_bytes).map_err(failed("make a tmpfs for the upper directory of"))?;
        let top = rustix::fs::stat(top).map_err(PathError::at("examine", top))?;
        let mode = Mode::from_raw_mode(top.st_mode & 0o7777);
        let upper =
            directory(mount.as_fd(), UPPER).map_err(failed("make the upper directory of"))?;
        let owner = spec.ids.host_start;
        rustix::fs::fchown(
            &upper,
            Some(Uid::from_raw(owner)),
            Some(Gid::from_raw(owner)),
        )
        .map_err(failed("set the owner for the upper directory of"))?;
        rustix::fs::fchmod(&upper, mode)
            .map_err(failed("set the mode for the upper directory of"))?;
        // Only the kernel uses it, with the rights of whoever mounts the overlay.
        let work = directory(mount.as_fd(), WORK)
            .map_err(failed("make a work directory for the upper directory of"))?;
        Ok(Self { mount, upper, work })
    }
}

impl AsFd for Upper {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.mount.as_fd()
    }
}

pub(super) fn tmpfs(bytes: u64) -> rustix::io::Result<OwnedFd> {
    let inodes = (bytes / BYTES_PER_INODE).max(MIN_INODES);
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "size", bytes.to_string())?;
    fsconfig_set_string(&context, "nr_inodes", inodes.to_string())?;
    // Nobody but root enters it other than through the overlay.
    fsconfig_set_string(&context, "mode", "0700")?;
    fsconfig_create(&context)?;
    fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_NODEV,
    )
}

/// Makes a directory that only root can use, and opens it as what overlayfs can be given.
pub(super) fn directory(parent: BorrowedFd<'_>, name: &str) -> rustix::io::Result<OwnedFd> {
    rustix::fs::mkdirat(parent, name, Mode::RWXU)?;
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}
