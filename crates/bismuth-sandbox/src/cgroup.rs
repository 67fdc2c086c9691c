//! The cgroups of a container. The OCI runtime creates them at the path named here; they are measured, frozen and removed here.
//!
//! ```text
//!   v1      /sys/fs/cgroup/{memory,pids,freezer,…}/bismuth/{id}     one directory per controller
//!   v2      /sys/fs/cgroup/bismuth/{id}                             one for all
//!   hybrid  v1, and v2 without controllers at /sys/fs/cgroup/unified
//! ```
//!
//! 1. [`detect`] finds out which of them this machine has: a [`Hierarchy`].
//! 2. [`Hierarchy::container_cgroup`] names a container's groups; [`cgroups_path`] goes into the OCI
//!    specification, and the runtime makes the directories.
//! 3. [`Cgroup::memory_bytes`] and its neighbours read; [`Cgroup::freeze`] stops every process in
//!    it, [`Cgroup::thaw`] lets them run on (freezer.rs).
//! 4. [`Cgroup::remove`] kills what is left and removes the directories (removal.rs).
//!
//! Formats: the kernel's Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst.

mod freezer;
mod hierarchy;
mod removal;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bismuth_base::Delays;

pub use hierarchy::{Hierarchy, Version, detect, detect_for};

use crate::{PathError, mounts, process};

/// The group in which all containers' groups are.
const PARENT: &str = "bismuth";

/// The path of a container's cgroup from the root of each hierarchy: what the OCI runtime is given as `linux.cgroupsPath`.
pub fn cgroups_path(id: &str) -> PathBuf {
    Path::new("/").join(PARENT).join(id)
}

/// What went wrong with a control group.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The mount table could not be read.
    #[error("find the control group mounts")]
    Mounts(#[from] mounts::Error),
    /// Nothing of the kind is mounted.
    #[error("no control group filesystem is mounted under /sys/fs/cgroup")]
    NotMounted,
    /// An id that is no single path segment.
    #[error("{id:?} cannot name a control group")]
    BadId {
        /// The id.
        id: String,
    },
    /// The machine lacks a controller.
    #[error("control group controller {controller} is not there")]
    NoController {
        /// Its name, as `memory`.
        controller: &'static str,
    },
    /// A file could not be read.
    #[error(transparent)]
    Read(#[from] PathError),
    /// A file could not be written.
    #[error("write {value:?} to {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What was written.
        value: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A file does not hold what the kernel's documentation says.
    #[error("{} holds {text:?}, which is not as documented", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What it holds.
        text: String,
    },
    /// The group did not reach the state within the bound.
    #[error("{} is not {wanted} after {} ms", path.display(), after.as_millis())]
    StateTimeout {
        /// The group's directory.
        path: PathBuf,
        /// "frozen" or "thawed".
        wanted: &'static str,
        /// The bound.
        after: Duration,
    },
    /// A process of the group could not be watched or killed.
    #[error("end a process of the control group")]
    Process(#[from] process::Error),
    /// A directory could not be removed within the bound.
    #[error("remove control group {} (processes in it: {pids:?})", path.display())]
    Remove {
        /// The directory.
        path: PathBuf,
        /// Who is in it.
        pids: Vec<u32>,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// The groups of one container, whether or not they exist.
#[derive(Debug, Clone)]
pub struct Cgroup {
    hierarchy: Hierarchy,
    /// Below each mount point, without a leading slash.
    relative: PathBuf,
}

impl Cgroup {
    /// The directory that a v1 controller has for this container, or the one of v2.
    pub fn path(&self, controller: &str) -> Option<PathBuf> {
        self.hierarchy
            .mount_of(controller)
            .map(|mount| mount.join(&self.relative))
    }

    /// Every directory that the container can have, one per mounted hierarchy.
    pub fn directories(&self) -> Vec<PathBuf> {
        self.hierarchy
            .mounts()
            .map(|mount| mount.join(&self.relative))
            .collect()
    }

    /// Whether any of the directories is there.
    pub fn exists(&self) -> bool {
        self.directories().iter().any(|path| path.exists())
    }

    /// The processes in the groups and the groups in them, ascending. Empty if there are none.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Malformed`].
    pub fn pids(&self) -> Result<Vec<u32>, Error> {
        let mut pids = BTreeSet::new();
        for directory in self.directories() {
            for group in removal::with_descendants(&directory)? {
                pids.extend(pids_in(&group)?);
            }
        }
        Ok(pids.into_iter().collect())
    }

    /// Memory in use, in bytes: `memory.usage_in_bytes` or `memory.current`, page cache included.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub fn memory_bytes(&self) -> Result<u64, Error> {
        let file = match self.version() {
            Version::V2 => "memory.current",
            Version::V1 | Version::Hybrid => "memory.usage_in_bytes",
        };
        self.number("memory", file)
    }

    /// How many processes the kernel killed because the memory limit was reached: `oom_kill` of
    /// `memory.oom_control` or `memory.events`.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub fn oom_kills(&self) -> Result<u64, Error> {
        let file = match self.version() {
            Version::V2 => "memory.events",
            Version::V1 | Version::Hybrid => "memory.oom_control",
        };
        self.read_key("memory", file, "oom_kill")
    }

    fn version(&self) -> Version {
        self.hierarchy.version()
    }

    fn file(&self, controller: &'static str, name: &str) -> Result<PathBuf, Error> {
        self.path(controller)
            .map(|path| path.join(name))
            .ok_or(Error::NoController { controller })
    }

    fn number(&self, controller: &'static str, name: &str) -> Result<u64, Error> {
        let path = self.file(controller, name)?;
        let text = read(&path)?;
        text.trim()
            .parse()
            .map_err(|_| Error::Malformed { path, text })
    }

    fn read_key(&self, controller: &'static str, name: &str, key: &str) -> Result<u64, Error> {
        let path = self.file(controller, name)?;
        let text = read(&path)?;
        value_of(&text, key).ok_or(Error::Malformed { path, text })
    }
}

/// The number behind a key in a file of lines `key number`.
fn value_of(text: &str, key: &str) -> Option<u64> {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(found, _)| *found == key)
        .and_then(|(_, value)| value.trim().parse().ok())
}

/// The processes of one group; none if it is gone.
fn pids_in(group: &Path) -> Result<Vec<u32>, Error> {
    let path = group.join("cgroup.procs");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if is_gone(&error) => return Ok(Vec::new()),
        Err(source) => return Err(PathError::at("read", &path)(source).into()),
    };
    text.lines()
        .map(|line| {
            line.parse().map_err(|_| Error::Malformed {
                path: path.clone(),
                text: line.to_owned(),
            })
        })
        .collect()
}

fn read(path: &Path) -> Result<String, Error> {
    Ok(fs::read_to_string(path).map_err(PathError::at("read", path))?)
}

fn write(path: &Path, value: &'static str) -> Result<(), Error> {
    fs::write(path, value).map_err(|source| Error::Write {
        path: path.to_owned(),
        value,
        source,
    })
}

/// `ENODEV`: a file of the group was open when the group was removed.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

/// Waits for the next poll of a file that announces no change, but not past `end`.
fn wait_to_poll(delays: &mut Delays, end: Instant) {
    let left = end.saturating_duration_since(Instant::now());
    std::thread::sleep(delays.next_delay().min(left));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that holds what the kernel would show for `/bismuth/c`.
    fn v2_fixture(files: &[(&str, &str)]) -> (tempfile::TempDir, Cgroup) {
        let dir = tempfile::tempdir().expect("make a directory");
        let group = dir.path().join(PARENT).join("c");
        fs::create_dir_all(&group).expect("make a directory");
        for (name, text) in files {
            fs::write(group.join(name), text).expect("write");
        }
        let cgroup = Hierarchy::unified(dir.path())
            .container_cgroup("c")
            .expect("good id");
        (dir, cgroup)
    }

    #[test]
    fn v2_files_are_read() {
        let (_dir, cgroup) = v2_fixture(&[
            ("memory.current", "1048576\n"),
            (
                "memory.events",
                "low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\noom_group_kill 0\n",
            ),
        ]);
        assert_eq!(cgroup.memory_bytes().expect("read"), 1 << 20);
        assert_eq!(cgroup.oom_kills().expect("read"), 2);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let (_dir, cgroup) = v2_fixture(&[("memory.current", "much\n")]);
        let error = cgroup.memory_bytes().expect_err("no number");
        assert!(error.to_string().contains("memory.current"), "{error}");
        let error = cgroup.oom_kills().expect_err("no file");
        assert!(error.to_string().contains("memory.events"), "{error}");
    }

    #[test]
    fn an_id_is_one_path_segment() {
        let hierarchy = Hierarchy::unified(Path::new("/nowhere"));
        for bad in ["", ".", "..", "a/b", "/a"] {
            assert!(
                hierarchy.container_cgroup(bad).is_err(),
                "{bad:?} was accepted"
            );
        }
    }
}
