//! The node's state directory: what a new process needs to adopt the containers of the old one.
//!
//! ```text
//!  {state}/lock                     held while a bismuthd lives; its process id inside
//!          epoch                    who this node is, made once
//!          containers/{id}/slot.json    what the slot is and, once started, its process: all that a
//!                                       start with ZooKeeper down needs
//!                         /user /net    pinned namespaces        (bismuth-sandbox)
//!                         /root …       mounted root filesystem  (bismuth-sandbox)
//!                         /stdout /stderr   log FIFOs
//!                         /run/         socket of bismuth-init, exec containers only
//!          logs/{id}/0.log …        output, kept after the container until its retention ends
//! ```
//!
//! Files are replaced by rename after `fsync`, so a reader finds the old or the new one whole.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bismuth_model::{ContainerId, FunctionDefinition, FunctionId, Revision};
use bismuth_sandbox::ids::IdRange;
use bismuth_sandbox::process::ProcessIdentity;
use rustix::fs::{FlockOperation, Mode};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What went wrong with the state directory.
#[derive(Debug, Error)]
pub enum StateError {
    #[error("another bismuthd (process {pid}) already serves the state directory {}", path.display())]
    Locked {
        path: PathBuf,
        /// What the other process wrote into the lock file.
        pid: String,
    },
    #[error("{act} {}", path.display())]
    File {
        act: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("parse {}", path.display())]
    Malformed {
        path: PathBuf,
        source: serde_json::Error,
    },
}

type Result<T> = std::result::Result<T, StateError>;

/// A container as it is saved on disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedSlot {
    pub function_id: FunctionId,
    /// The revision it runs.
    pub revision: Revision,
    /// That revision's definition.
    pub definition: Arc<FunctionDefinition>,
    /// First host uid and gid of the function's range.
    pub id_range_start: u32,
    /// When the slot was assigned, milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// The process, once it was started.
    pub run: Option<SavedRun>,
}

/// A started container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedRun {
    /// Whether it has answered. One that has not is waited for by the process that goes on with it.
    #[serde(default = "default_proven")]
    pub proven: bool,
    /// Process id inside the machine.
    pub pid: u32,
    /// Start of that process in clock ticks since boot, against reuse of the process id.
    pub started_ticks: u64,
    /// The boot that the ticks count from.
    pub boot_id: String,
    /// When it was started, milliseconds since the Unix epoch.
    pub started_ms: u64,
    /// The image it was made of, so that the image is not collected under it.
    pub image_digest: String,
    /// User and group of the program inside the container.
    pub user: (u32, u32),
    /// Further groups of the program inside the container.
    pub groups: Vec<u32>,
    /// The program's arguments, environment and directory, for exec containers.
    pub program: crate::node::program::Program,
    /// Whether bismuth-init was given the secrets that belong into the environment of executions. Earlier versions kept them.
    #[serde(default)]
    pub init_has_variables: bool,
}

/// Earlier versions said nothing of it.
fn default_proven() -> bool {
    true
}

impl SavedSlot {
    /// The host ids of the function.
    pub fn id_range(&self) -> IdRange {
        IdRange {
            host_start: self.id_range_start,
            size: IdRange::SIZE,
        }
    }
}

impl SavedRun {
    /// The process, as the sandbox recognises it.
    pub fn identity(&self) -> ProcessIdentity {
        ProcessIdentity {
            pid: self.pid,
            started_ticks: self.started_ticks,
            boot_id: self.boot_id.clone(),
        }
    }
}

/// The node's directory, locked.
#[derive(Debug)]
pub struct StateDir {
    root: PathBuf,
    epoch: String,
    _lock: File,
}

/// 0711: whoever knows a name below may use it, subject to its own mode.
const DIR_MODE: Mode = Mode::RWXU.union(Mode::XGRP).union(Mode::XOTH);
/// 0710: the directory of one container.
const CONTAINER_DIR_MODE: Mode = Mode::RWXU.union(Mode::XGRP);
/// 0600: a lock that others may open is one that they may hold.
const LOCK_FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);

fn failed(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::File { act, path, source }
}

fn malformed(path: &Path) -> impl FnOnce(serde_json::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::Malformed { path, source }
}

impl StateDir {
    /// Opens the directory, making it if it is not there, and locks it for this process.
    pub fn open(root: &Path) -> Result<Self> {
        for path in [root.to_owned(), root.join("containers"), root.join("logs")] {
            std::fs::create_dir_all(&path).map_err(failed("make directory", &path))?;
        }
        // Every container's OCI runtime walks through these two as the container's own root: others may pass, and neither list
        // nor read.
        for (path, mode) in [
            (root.to_owned(), DIR_MODE),
            (root.join("containers"), DIR_MODE),
            (root.join("logs"), Mode::RWXU),
        ] {
            rustix::fs::chmod(&path, mode)
                .map_err(|e| failed("change the mode of directory", &path)(e.into()))?;
        }
        let lock = lock(root)?;
        let epoch = epoch(root)?;
        Ok(Self {
            root: root.to_owned(),
            epoch,
            _lock: lock,
        })
    }

    /// Who this node is: made once, kept as long as the directory.
    pub fn epoch(&self) -> &str {
        &self.epoch
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn container_dir(&self, id: ContainerId) -> PathBuf {
        self.root.join("containers").join(id.to_string())
    }

    pub fn log_dir(&self, id: ContainerId) -> PathBuf {
        self.root.join("logs").join(id.to_string())
    }

    /// The containers that have a directory.
    pub fn containers(&self) -> Result<BTreeSet<ContainerId>> {
        self.ids_below("containers")
    }

    /// The containers that have a log.
    pub fn logs(&self) -> Result<BTreeSet<ContainerId>> {
        self.ids_below("logs")
    }

    fn ids_below(&self, name: &str) -> Result<BTreeSet<ContainerId>> {
        let dir = self.root.join(name);
        let entries = std::fs::read_dir(&dir).map_err(failed("list", &dir))?;
        let mut ids = BTreeSet::new();
        for entry in entries {
            let name = entry.map_err(failed("list", &dir))?.file_name();
            match name.to_str().and_then(|n| n.parse().ok()) {
                Some(id) => drop(ids.insert(id)),
                None => {
                    tracing::warn!(?name, dir = %dir.display(), "not a container's directory, left alone")
                }
            }
        }
        Ok(ids)
    }

    pub fn save_slot(&self, id: ContainerId, slot: &SavedSlot) -> Result<()> {
        let dir = self.container_dir(id);
        make_container_dir(&dir, slot.id_range())?;
        let path = dir.join("slot.json");
        let json = serde_json::to_vec(slot).map_err(malformed(&path))?;
        replace_file(&path, &json)
    }

    /// What is saved of a container; `None` if nothing is.
    pub fn load_slot(&self, id: ContainerId) -> Result<Option<SavedSlot>> {
        let path = self.container_dir(id).join("slot.json");
        let json = match std::fs::read(&path) {
            Ok(json) => json,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed("read", &path)(e)),
        };
        let slot = serde_json::from_slice(&json).map_err(malformed(&path))?;
        Ok(Some(slot))
    }

    /// Removes a container's directory. What is mounted in it must be unmounted before.
    pub fn delete_slot(&self, id: ContainerId) -> Result<()> {
        remove_tree(&self.container_dir(id))
    }

    pub fn delete_log(&self, id: ContainerId) -> Result<()> {
        remove_tree(&self.log_dir(id))
    }
}

/// Makes the directory of one container if it is not there, and lets in root and the container's own root only: as which
/// the OCI runtime walks through it, on its way to the root filesystem and to bismuth-init's socket.
pub fn make_container_dir(dir: &Path, ids: IdRange) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            return Err(failed("make directory", dir)(e));
        }
        _ => {}
    }
    std::os::unix::fs::chown(dir, Some(0), Some(ids.host_start))
        .map_err(failed("change the owner of directory", dir))?;
    rustix::fs::chmod(dir, CONTAINER_DIR_MODE)
        .map_err(|e| failed("change the mode of directory", dir)(e.into()))
}

fn lock(root: &Path) -> Result<File> {
    let path = root.join("lock");
    let mut options = OpenOptions::new();
    options.create(true).read(true).write(true).truncate(false);
    options.mode(LOCK_FILE_MODE.as_raw_mode());
    let mut file = options.open(&path).map_err(failed("open", &path))?;
    // An earlier version may have made it.
    rustix::fs::fchmod(&file, LOCK_FILE_MODE)
        .map_err(|e| failed("change the mode of", &path)(e.into()))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            file.read_to_string(&mut pid)
                .map_err(failed("read", &path))?;
            return Err(StateError::Locked {
                path: root.to_owned(),
                pid: pid.trim().to_owned(),
            });
        }
        Err(e) => return Err(failed("lock", &path)(e.into())),
    }
    file.set_len(0).map_err(failed("write", &path))?;
    writeln!(file, "{}", std::process::id()).map_err(failed("write", &path))?;
    Ok(file)
}

fn epoch(root: &Path) -> Result<String> {
    let path = root.join("epoch");
    match std::fs::read_to_string(&path) {
        Ok(epoch) if !epoch.trim().is_empty() => return Ok(epoch.trim().to_owned()),
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(failed("read", &path)(e)),
    }
    let epoch = uuid::Uuid::new_v4().to_string();
    replace_file(&path, epoch.as_bytes())?;
    Ok(epoch)
}

/// Without forcing the name to disk: what runs does not outlive a loss of power either.
fn replace_file(path: &Path, bytes: &[u8]) -> Result<()> {
    // Definitions hold environment variables, and those hold secrets.
    bismuth_base::file::replace(path, bytes, 0o600).map_err(failed("replace", path))
}

fn remove_tree(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use super::*;

    fn slot() -> SavedSlot {
        SavedSlot {
            function_id: FunctionId::new_random(),
            revision: Revision::FIRST,
            definition: crate::node::fakes::definition(),
            id_range_start: 1_000_000,
            created_ms: 1,
            run: None,
        }
    }

    #[test]
    fn a_second_process_is_refused_and_the_first_one_named() {
        let dir = tempfile::tempdir().unwrap();
        let first = StateDir::open(dir.path()).unwrap();
        let error = StateDir::open(dir.path()).unwrap_err().to_string();
        let first_one = format!("(process {})", std::process::id());
        assert!(error.contains(&first_one), "{error}");
        drop(first);
        assert!(StateDir::open(dir.path()).is_ok());
    }

    /// Mode, owner and group.
    fn access(path: &Path) -> (u32, u32, u32) {
        let found = std::fs::metadata(path).unwrap();
        (found.mode() & 0o7777, found.uid(), found.gid())
    }

    #[test]
    fn other_users_cannot_take_the_lock_even_one_made_by_an_earlier_version() {
        let dir = tempfile::tempdir().unwrap();
        let lock = dir.path().join("lock");
        for earlier in [false, true] {
            drop(StateDir::open(dir.path()).unwrap());
            assert_eq!(access(&lock).0, 0o600, "of an earlier version: {earlier}");
            std::fs::set_permissions(&lock, Permissions::from_mode(0o644)).unwrap();
        }
    }

    #[test]
    fn only_root_and_the_containers_own_root_may_enter_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let id = ContainerId::new_random();
        let container = state.container_dir(id);
        for earlier in [false, true] {
            state.save_slot(id, &slot()).unwrap();
            let (found, wanted) = (access(&container), (0o710, 0, 1_000_000));
            assert_eq!(found, wanted, "of an earlier version: {earlier}");
            std::os::unix::fs::chown(&container, Some(0), Some(0)).unwrap();
            std::fs::set_permissions(&container, Permissions::from_mode(0o711)).unwrap();
        }
    }

    #[test]
    fn the_epoch_outlives_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let epoch = StateDir::open(dir.path()).unwrap().epoch().to_owned();
        assert_eq!(StateDir::open(dir.path()).unwrap().epoch(), epoch);
    }

    #[test]
    fn slot_json_of_an_earlier_version_is_read() {
        let saved = r#"{"pid":1,"started_ticks":2,"boot_id":"b","started_ms":3,"image_digest":"d",
            "user":[1000,1000],"groups":[],"program":{"argv":["a"],"env":[],"cwd":"/"}}"#;
        let run: SavedRun = serde_json::from_str(saved).unwrap();
        assert!(run.proven, "it was saved when it had answered");
        assert!(!run.init_has_variables, "its bismuth-init has none");
    }

    #[test]
    fn a_half_written_file_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let id = ContainerId::new_random();
        assert_eq!(state.load_slot(id).unwrap(), None);
        let slot = slot();
        state.save_slot(id, &slot).unwrap();
        assert_eq!(state.load_slot(id).unwrap(), Some(slot));
        let path = state.container_dir(id).join("slot.json");
        std::fs::write(path, "{\"function_id\":").unwrap();
        let error = state.load_slot(id).unwrap_err().to_string();
        assert!(error.contains("slot.json"), "{error}");
    }
}
