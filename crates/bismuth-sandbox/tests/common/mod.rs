//! What the tests of this crate share: a scratch directory, and the state of the host to compare before and after.
#![allow(clippy::unwrap_used, dead_code)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bismuth_sandbox::{IdRange, mounts};
use nix::sched::{CloneFlags, unshare};
use rustix::mount::{MountPropagationFlags, mount_change};
use tempfile::TempDir;

/// A range of ids for a test. Another for each test that runs at the same time, so that a test can
/// find its own user namespaces among all of the machine's.
pub fn ids(number: u32) -> IdRange {
    IdRange {
        host_start: 3_000_000_000 + std::process::id() % 4096 * 196_608 + number * 65_536,
        size: 65_536,
    }
}

/// A directory in a mount namespace that only the calling thread and what it starts are in, so
/// that a test that fails leaves no mount on the machine.
pub struct Scratch {
    dir: TempDir,
}

impl Scratch {
    pub fn new() -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests make namespaces and mounts: run them as root"
        );
        enter_own_mount_namespace();
        let dir = tempfile::Builder::new()
            .prefix("bm-sandbox-")
            .tempdir()
            .unwrap();
        Self { dir }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A new directory.
    pub fn dir(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir(&path).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Only after a failed test is there anything to do.
        if let Err(error) = mounts::unmount_under(self.dir.path()) {
            eprintln!("{error}");
        }
    }
}

pub fn enter_own_mount_namespace() {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", slave).unwrap();
}

/// What a test could leave on the host: mounts, descriptors, processes, namespaces, files.
#[derive(Debug, PartialEq, Eq)]
pub struct HostState {
    mounts: Vec<PathBuf>,
    descriptors: usize,
    children: Vec<String>,
    /// Processes of the whole machine in a user namespace with one of our id ranges.
    user_namespace_processes: Vec<PathBuf>,
    /// Network namespaces of our threads.
    net_namespaces: BTreeSet<PathBuf>,
    entries: BTreeSet<PathBuf>,
}

impl HostState {
    pub fn of(dir: &Path, ids: &[IdRange]) -> Self {
        let tasks: Vec<_> = list("/proc/self/task".as_ref());
        Self {
            mounts: mounts::list_under(dir)
                .unwrap()
                .into_iter()
                .map(|mount| mount.path)
                .collect(),
            descriptors: list("/proc/self/fd".as_ref()).len(),
            children: tasks
                .iter()
                .filter_map(|task| fs::read_to_string(task.join("children")).ok())
                .filter(|children| !children.is_empty())
                .collect(),
            user_namespace_processes: list("/proc".as_ref())
                .into_iter()
                .filter(|process| has_map(process, ids))
                .collect(),
            net_namespaces: tasks
                .iter()
                .filter_map(|task| fs::read_link(task.join("ns/net")).ok())
                .collect(),
            entries: list(dir).into_iter().collect(),
        }
    }
}

fn list(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect()
}

fn has_map(process: &Path, ids: &[IdRange]) -> bool {
    let map = fs::read_to_string(process.join("uid_map")).unwrap_or_default();
    ids.iter()
        .any(|ids| map.split_ascii_whitespace().nth(1) == Some(ids.host_start.to_string().as_str()))
}

/// Waits for a condition that nothing announces; says what is missing if it never comes.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < end, "still missing: {what}");
        std::thread::yield_now();
    }
}

/// A layer's directory with the given files.
pub fn layer(scratch: &Scratch, name: &str, files: &[(&str, &str)]) -> PathBuf {
    let dir = scratch.dir(name);
    for (path, text) in files {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}
