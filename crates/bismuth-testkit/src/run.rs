//! The run directory: everything a test process makes on disk is below it.
//!
//! ```text
//! /tmp/bismuth-test/
//!    lock            held while a run is created or leftovers are swept
//!    <run>.lock      held by the test process, and after it by its reaper until that is done
//!    <run>/          a shared mount: what is mounted below it in the host's mount namespace
//!                    appears in containerd's private one as well
//! ```
//!
//! A run whose lock nobody holds belonged to a process that is gone; it is swept before a new one begins.
//! The path is kept short because Unix socket paths end at 107 bytes, and a node's state directory at 40.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, anyhow};
use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};

use crate::{process, sweep};

static RUN: OnceLock<std::result::Result<Run, String>> = OnceLock::new();
static NEXT: AtomicU32 = AtomicU32::new(0);

struct Run {
    dir: PathBuf,
    /// Held for the life of the process, however it ends, and of its reaper.
    _lock: File,
}

/// Where all runs of this machine live; `BISMUTH_TESTKIT_ROOT` moves it to a path as short.
pub fn root() -> PathBuf {
    std::env::var_os("BISMUTH_TESTKIT_ROOT")
        .map_or_else(|| "/tmp/bismuth-test".into(), PathBuf::from)
}

/// This process's run directory; the first call sweeps what killed processes left and makes it.
/// Fails when the directory cannot be made or made a shared mount (which needs root).
pub fn dir() -> Result<&'static Path> {
    match RUN.get_or_init(|| begin().map_err(|error| format!("{error:#}"))) {
        Ok(run) => Ok(&run.dir),
        Err(reason) => Err(anyhow!("begin a test run: {reason}")),
    }
}

/// A new directory for one server, below [`dir`]. Its owner deletes it with [`remove`].
/// Fails when it cannot be created.
pub fn subdir(name: &str) -> Result<PathBuf> {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = dir()?.join(format!("{name}-{number}"));
    fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
    Ok(path)
}

/// Ends every marked process below `dir`, unmounts what is mounted below it, and deletes it.
/// Every step is tried; the errors of all that failed, joined.
pub fn remove(dir: &Path) -> Result<()> {
    sweep::clear(dir)
}

fn begin() -> Result<Run> {
    let root = root();
    fs::create_dir_all(&root).with_context(|| format!("create {}", root.display()))?;
    let gate = root.join("lock");
    let gate_file = File::create(&gate).with_context(|| format!("create {}", gate.display()))?;
    gate_file
        .lock()
        .with_context(|| format!("lock {}", gate.display()))?;
    sweep::abandoned_runs(&root)?;

    let name = &uuid::Uuid::new_v4().simple().to_string()[..6];
    let lock_path = root.join(format!("{name}.lock"));
    let lock =
        File::create_new(&lock_path).with_context(|| format!("create {}", lock_path.display()))?;
    lock.lock()
        .with_context(|| format!("lock {}", lock_path.display()))?;
    let dir = root.join(name);
    fs::create_dir(&dir).with_context(|| format!("create {}", dir.display()))?;
    make_shared(&dir)?;
    process::start_reaper(&dir, &lock)?;
    Ok(Run { dir, _lock: lock })
}

/// Mounts below a shared mount propagate into mount namespaces that were made as its slaves.
fn make_shared(dir: &Path) -> Result<()> {
    mount_bind(dir, dir).with_context(|| format!("bind {} onto itself", dir.display()))?;
    mount_change(dir, MountPropagationFlags::SHARED)
        .with_context(|| format!("make {} a shared mount", dir.display()))
}
