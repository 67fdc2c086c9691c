//! System calls that neither rustix nor nix wrap.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Gives a detached mount the id mapping of a user namespace (mount_setattr(2), Linux 5.12).
///
/// The kernel answers `EINVAL` when the filesystem does not allow id-mapped mounts, or when the
/// mount is already attached, mapped or in use.
pub(crate) fn set_id_map(mount: BorrowedFd<'_>, user_ns: BorrowedFd<'_>) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::try_from(user_ns.as_raw_fd())
            .map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?,
    };
    // SAFETY: the path is a NUL-terminated string, `attributes` lives across the call and its
    // true size is passed; both descriptors are borrowed and therefore open.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            std::ptr::from_ref(&attributes),
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The `CLONE_NEW…` constant of the kind of namespace that a descriptor refers to
/// (ioctl_ns(2)); `ENOTTY` when it is not a namespace.
pub(crate) fn namespace_kind(namespace: BorrowedFd<'_>) -> io::Result<libc::c_int> {
    // SAFETY: NS_GET_NSTYPE takes no argument; the descriptor is borrowed and therefore open.
    let kind = unsafe { libc::ioctl(namespace.as_raw_fd(), libc::NS_GET_NSTYPE) };
    if kind < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(kind)
    }
}

/// The user namespace that owns a namespace (ioctl_ns(2)).
pub(crate) fn owning_user_namespace(namespace: impl AsFd) -> io::Result<OwnedFd> {
    // SAFETY: NS_GET_USERNS takes no argument; the descriptor is borrowed and therefore open.
    let owner = unsafe { libc::ioctl(namespace.as_fd().as_raw_fd(), libc::NS_GET_USERNS) };
    if owner < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so this is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(owner) })
}
