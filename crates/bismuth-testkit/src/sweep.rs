//! Removes what ended test processes have left: processes, mounts, cgroups, files.
//!
//! Removal goes from what holds to what is held: processes first, then mounts from the deepest, cgroups,
//! and the files last. Every step is tried and every error is reported.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};

/// Environment variable that names the directory of the server that a process belongs to.
pub(crate) const OWNER_MARK: &str = "BISMUTH_TESTKIT_OWNER";
/// A killed process leaves within milliseconds; a container's init waits for all of its children.
const KILL_BOUND: Duration = Duration::from_secs(10);
/// There is nothing to wait on for other people's children, so they are looked at this often.
const POLL: Duration = Duration::from_millis(2);

/// Clears every run below `root` whose process is gone. The caller holds the root's lock.
pub(crate) fn abandoned_runs(root: &Path) -> Result<()> {
    for entry in fs::read_dir(root).with_context(|| format!("list {}", root.display()))? {
        let lock_path = entry?.path();
        if lock_path.extension() != Some(OsStr::new("lock")) {
            continue;
        }
        // The reaper of a run that ended tidily deletes the lock at any moment.
        let Ok(lock) = File::open(&lock_path) else {
            continue;
        };
        if lock.try_lock().is_err() {
            continue;
        }
        clear(&lock_path.with_extension(""))?;
        match fs::remove_file(&lock_path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {}", lock_path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Ends what runs below `dir`, unmounts what is mounted there, and deletes it.
pub(crate) fn clear(dir: &Path) -> Result<()> {
    let containers = container_ids(dir);
    let mut errors = Vec::new();
    errors.extend(kill_processes(dir).err());
    errors.extend(unmount_below(dir).err());
    for container in &containers {
        errors.extend(remove_cgroups(container).err());
    }
    errors.extend(remove_files(dir).err());
    if errors.is_empty() {
        return Ok(());
    }
    let errors: Vec<String> = errors.iter().map(|error| format!("{error:#}")).collect();
    Err(anyhow!("clear {}: {}", dir.display(), errors.join("; ")))
}

/// Ids of the containers that containerds below `dir` run: the names of their shims' state directories.
fn container_ids(dir: &Path) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    let mut pending = vec![(dir.to_path_buf(), 0)];
    while let Some((path, depth)) = pending.pop() {
        let tasks = path.file_name() == Some(OsStr::new("io.containerd.runtime.v2.task"));
        for child in fs::read_dir(&path).into_iter().flatten().flatten() {
            if tasks {
                let bundles = fs::read_dir(child.path()).into_iter().flatten().flatten();
                ids.extend(bundles.map(|bundle| bundle.file_name().to_string_lossy().into_owned()));
            } else if depth < 4 && child.file_type().is_ok_and(|kind| kind.is_dir()) {
                pending.push((child.path(), depth + 1));
            }
        }
    }
    ids
}

fn kill_processes(dir: &Path) -> Result<()> {
    let until = Instant::now() + KILL_BOUND;
    // Kept over the rounds: a container whose shim died first is no longer anybody's descendant.
    let mut seen = BTreeSet::new();
    loop {
        seen.extend(processes_below(dir));
        seen.retain(|&pid| !is_dead(pid));
        if seen.is_empty() {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(anyhow!("processes that do not die: {seen:?}"));
        }
        for &pid in &seen {
            thaw(pid);
            if let Some(pid) = Pid::from_raw(pid) {
                // Gone already is what we want.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        std::thread::sleep(POLL);
    }
}

/// Processes started for `dir` or below it, and all their descendants.
pub(crate) fn processes_below(dir: &Path) -> BTreeSet<i32> {
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let mut found = BTreeSet::new();
    let mut pending: Vec<i32> = pids.filter(|&pid| is_marked(pid, dir)).collect();
    while let Some(pid) = pending.pop() {
        if !is_dead(pid) && found.insert(pid) {
            pending.extend(children(pid));
        }
    }
    found
}

fn is_marked(pid: i32, dir: &Path) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|&byte| byte == 0).any(|variable| {
        let value = variable
            .strip_prefix(OWNER_MARK.as_bytes())
            .and_then(|rest| rest.strip_prefix(b"="));
        value.is_some_and(|owner| Path::new(OsStr::from_bytes(owner)).starts_with(dir))
    })
}

/// Gone, or a zombie, which whoever is its parent collects.
pub(crate) fn is_dead(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_none_or(|(_, rest)| matches!(rest.trim_start().chars().next(), Some('Z' | 'X')))
}

fn children(pid: i32) -> Vec<i32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| {
            list.split_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .collect::<Vec<_>>()
        })
        .collect()
}

/// A process frozen by cgroup v1 does not die of SIGKILL until it is thawed (v2 kills it frozen).
fn thaw(pid: i32) {
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let freezer = cgroups
        .lines()
        .find_map(|line| line.split_once(":freezer:").map(|(_, path)| path));
    if let Some(path) = freezer.filter(|path| *path != "/") {
        // Not frozen, or no longer there: both are fine.
        let _ = fs::write(
            format!("/sys/fs/cgroup/freezer{path}/freezer.state"),
            "THAWED",
        );
    }
}

fn unmount_below(dir: &Path) -> Result<()> {
    let mut points = mount_points_below(dir)?;
    // Later lines are mounted over or below earlier ones.
    points.reverse();
    let mut errors = Vec::new();
    for point in points {
        // Whoever else takes mounts away (a daemon that ends, a test) may have been quicker: EINVAL is "no mount".
        if let Err(error) = unmount(&point, UnmountFlags::DETACH)
            && !matches!(error, Errno::INVAL | Errno::NOENT)
        {
            errors.push(format!("unmount {}: {error}", point.display()));
        }
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(anyhow!(errors.join("; ")))
    }
}

/// Mount points at or below `dir` in this process's mount namespace, in the order they were mounted.
pub(crate) fn mount_points_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    let points = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(unescape(point)));
    Ok(points.filter(|point| point.starts_with(dir)).collect())
}

/// The kernel writes space, tab, newline and backslash in mount points as three octal digits (proc(5)).
fn unescape(point: &str) -> String {
    [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ]
    .iter()
    .fold(point.to_owned(), |text, (code, plain)| {
        text.replace(code, plain)
    })
}

/// Removes the cgroups `/bismuth/{container}` of every hierarchy.
fn remove_cgroups(container: &str) -> Result<()> {
    for path in cgroup_dirs(&Path::new("bismuth").join(container)) {
        remove_cgroup_tree(&path)?;
    }
    Ok(())
}

/// Where a cgroup path exists: below `/sys/fs/cgroup` (v2) and below each of its hierarchies (v1, hybrid).
pub(crate) fn cgroup_dirs(relative: &Path) -> Vec<PathBuf> {
    let base = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(base)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let candidates = hierarchies
        .map(|hierarchy| hierarchy.join(relative))
        .chain([base.join(relative)]);
    // `cpu` and `cpuacct` may be names of one hierarchy; a second removal finds nothing and is skipped.
    candidates.filter(|path| path.is_dir()).collect()
}

fn remove_cgroup_tree(path: &Path) -> Result<()> {
    for child in fs::read_dir(path).into_iter().flatten().flatten() {
        if child.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup_tree(&child.path())?;
        }
    }
    let until = Instant::now() + KILL_BOUND;
    loop {
        match fs::remove_dir(path) {
            // A process that has just died leaves its cgroups a moment later.
            Err(error)
                if error.kind() == std::io::ErrorKind::ResourceBusy && Instant::now() < until =>
            {
                std::thread::sleep(POLL);
            }
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove cgroup {}", path.display()));
            }
            _ => return Ok(()),
        }
    }
}

fn remove_files(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}
