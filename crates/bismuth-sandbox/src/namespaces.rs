//! Creates, pins, opens and removes the user and network namespace of a container. They outlive every process.
//!
//! ```text
//!   bismuthd ──clone(NEWUSER|NEWNET)──► child        an idle child process (child.rs)
//!      │  write uid_map, gid_map         │
//!      │  open /proc/{child}/ns/{user,net}
//!      │  in the net ns: lo up, 169.254.169.254/32, ports from 0 unprivileged (loopback.rs)
//!      │  kill ────────────────────────► ✝            the descriptors keep both alive
//!      └─ bind both onto {dir}/user and {dir}/net      the mounts keep both alive, over restarts
//! ```
//!
//! The network namespace is made by a process that is in the user namespace already (one `clone`
//! makes the user namespace first), so that it is owned by it: with one owned by the host, the
//! runtime could not mount sysfs in the container. [`Namespaces::open`] checks that ownership, and
//! that the pins are namespaces at all: after a reboot they are empty files.

mod child;
mod loopback;

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::ids::IdRange;
use crate::teardown_errors::{ErrorCollector, TeardownErrors};
use crate::{PathError, mounts, netns, sys};

pub use loopback::SERVICE_ADDRESS;

use child::NamespaceChild;

/// Name of the pin of the user namespace in a container's directory.
const USER: &str = "user";
/// Name of the pin of the network namespace in a container's directory.
const NET: &str = "net";

/// What went wrong with a container's namespaces.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process that makes the namespaces could not be started or ended.
    #[error("{act} the process that makes namespaces")]
    Child {
        /// "start", "end", …
        act: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The id mapping was refused.
    #[error("write {map:?} to {}", path.display())]
    WriteMap {
        /// uid_map or gid_map.
        path: PathBuf,
        /// What was written.
        map: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A namespace could not be opened, pinned (`EEXIST` if there is a pin already), or its pin removed.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The network namespace could not be entered.
    #[error("configure network namespace")]
    Enter(#[from] netns::Error),
    /// The loopback interface could not be configured.
    #[error("{act} in network namespace")]
    Loopback {
        /// What was tried.
        act: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The file is not a pin of such a namespace (after a reboot it is an empty file).
    #[error("{} is not a pinned {kind} namespace", path.display())]
    NotPinned {
        /// The file.
        path: PathBuf,
        /// "user" or "net".
        kind: &'static str,
    },
    /// The network namespace belongs to another user namespace than the one beside it.
    #[error("the namespaces pinned in {} do not belong together", dir.display())]
    Mismatch {
        /// The directory.
        dir: PathBuf,
    },
}

/// A pinned pair of namespaces. Dropping it closes the descriptors and keeps the pins.
#[derive(Debug)]
pub struct Namespaces {
    user_path: PathBuf,
    net_path: PathBuf,
    user: OwnedFd,
    net: OwnedFd,
}

impl Namespaces {
    /// Makes a user namespace in which the ids `0..ids.size` are the host's from
    /// `ids.host_start`, and a network namespace owned by it with the loopback interface up,
    /// [`SERVICE_ADDRESS`] on it, and all ports free to unprivileged programs. Pins them at
    /// `dir/user` and `dir/net`; `dir` exists. Blocks for a millisecond or two.
    ///
    /// # Errors
    /// As [`Error`] says; what was made is undone.
    pub fn create(dir: &Path, ids: IdRange) -> Result<Self, Error> {
        let child = NamespaceChild::start(libc::CLONE_NEWUSER | libc::CLONE_NEWNET)?;
        child.write_maps(ids)?;
        let user = child.open(USER)?;
        let net = child.open(NET)?;
        loopback::configure(net.as_fd())?;
        child.end()?;

        let (user_path, net_path) = (dir.join(USER), dir.join(NET));
        pin(user.as_fd(), &user_path)?;
        if let Err(error) = pin(net.as_fd(), &net_path) {
            if let Err(undo) = unpin(&user_path) {
                tracing::error!(error = %undo, "a namespace pin stays behind");
            }
            return Err(error);
        }
        Ok(Self {
            user_path,
            net_path,
            user,
            net,
        })
    }

    /// Adopts the namespaces that an earlier process pinned in `dir`.
    ///
    /// # Errors
    /// [`Error::Path`] with `ENOENT` if there are none, [`Error::NotPinned`] after a reboot,
    /// [`Error::Mismatch`].
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let (user_path, net_path) = (dir.join(USER), dir.join(NET));
        let user = open_pin(&user_path, USER, libc::CLONE_NEWUSER)?;
        let net = open_pin(&net_path, NET, libc::CLONE_NEWNET)?;
        if !owns(&user, &net).map_err(PathError::at("open namespace", &net_path))? {
            return Err(Error::Mismatch {
                dir: dir.to_owned(),
            });
        }
        Ok(Self {
            user_path,
            net_path,
            user,
            net,
        })
    }

    /// Removes the pins in `dir`. The namespaces end with their last process and descriptor. What
    /// is gone already is fine, so this also clears what a crash or a reboot left.
    ///
    /// # Errors
    /// Every step that failed; all are tried.
    pub fn remove(dir: &Path) -> Result<(), TeardownErrors<Error>> {
        let mut errors = ErrorCollector::new();
        errors.push_err(unpin(&dir.join(NET)));
        errors.push_err(unpin(&dir.join(USER)));
        errors.finish()
    }

    /// Path of the user namespace, for the OCI specification.
    pub fn user_path(&self) -> &Path {
        &self.user_path
    }

    /// Path of the network namespace, for the OCI specification.
    pub fn net_path(&self) -> &Path {
        &self.net_path
    }

    /// The user namespace, for id-mapped mounts.
    pub fn user_fd(&self) -> BorrowedFd<'_> {
        self.user.as_fd()
    }

    /// The network namespace, for [`netns::tcp_socket`].
    pub fn net_fd(&self) -> BorrowedFd<'_> {
        self.net.as_fd()
    }
}

/// A user namespace with the mapping of `ids` that lives as long as the descriptor: for probes.
pub(crate) fn unpinned_user_namespace(ids: IdRange) -> Result<OwnedFd, Error> {
    let child = NamespaceChild::start(libc::CLONE_NEWUSER)?;
    child.write_maps(ids)?;
    let user = child.open(USER)?;
    child.end()?;
    Ok(user)
}

/// Binds a namespace onto a new file.
fn pin(namespace: BorrowedFd<'_>, path: &Path) -> Result<(), Error> {
    let failed = PathError::at("pin namespace at", path);
    fs::File::create_new(path).map_err(&failed)?;
    let source = format!("/proc/thread-self/fd/{}", namespace.as_raw_fd());
    rustix::mount::mount_bind(&source, path).map_err(|error| {
        if let Err(undo) = fs::remove_file(path) {
            tracing::error!(path = %path.display(), error = %undo, "a file stays behind");
        }
        failed(error.into()).into()
    })
}

/// Undoes [`pin`]. Detaches, because a descriptor that came through the pin keeps it busy, and
/// repeats until nothing is mounted there.
fn unpin(path: &Path) -> Result<(), Error> {
    let failed = PathError::at::<io::Error>("remove namespace pin", path);
    loop {
        match mounts::detach(path) {
            Ok(()) => {}
            // Not a mount point (any more).
            Err(rustix::io::Errno::INVAL) => break,
            Err(rustix::io::Errno::NOENT) => return Ok(()),
            Err(error) => return Err(failed(error.into()).into()),
        }
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error).into()),
        _ => Ok(()),
    }
}

fn open_pin(path: &Path, kind: &'static str, expected: libc::c_int) -> Result<OwnedFd, Error> {
    let file = fs::File::open(path).map_err(PathError::at("open namespace", path))?;
    // ENOTTY: no namespace at all.
    match sys::namespace_kind(file.as_fd()) {
        Ok(found) if found == expected => Ok(file.into()),
        _ => Err(Error::NotPinned {
            path: path.to_owned(),
            kind,
        }),
    }
}

fn owns(user: &OwnedFd, net: &OwnedFd) -> io::Result<bool> {
    let owner = rustix::fs::fstat(sys::owning_user_namespace(net)?)?;
    let user = rustix::fs::fstat(user)?;
    Ok((owner.st_dev, owner.st_ino) == (user.st_dev, user.st_ino))
}
