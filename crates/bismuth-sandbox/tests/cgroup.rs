//! Cgroups on the real kernel: v1 where this machine has it, v2 beside it or alone.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bismuth_sandbox::cgroup::{self, Cgroup, Hierarchy, Version};

const BOUND: Duration = Duration::from_secs(10);

/// The hierarchies to test: the machine's, and in hybrid its v2 part as if it were alone.
fn hierarchies() -> Vec<Hierarchy> {
    let found = cgroup::detect().unwrap();
    let mut all = vec![found.clone()];
    if found.version() == Version::Hybrid {
        all.push(Hierarchy::unified(Path::new("/sys/fs/cgroup/unified")));
    }
    all
}

/// Groups as an OCI runtime makes them; removed at the end, whatever happens.
struct Group(Cgroup);

impl Group {
    fn new(hierarchy: &Hierarchy, name: &str) -> Self {
        let id = format!("test-{name}-{}", std::process::id());
        let group = hierarchy.container_cgroup(&id).unwrap();
        assert!(!group.exists());
        for path in group.directories() {
            fs::create_dir_all(&path).unwrap();
            for file in ["cpuset.cpus", "cpuset.mems"] {
                inherit(&path, file);
            }
        }
        Self(group)
    }

    fn add(&self, child: &Child) {
        for path in self.0.directories() {
            fs::write(path.join("cgroup.procs"), child.id().to_string()).unwrap();
        }
    }
}

/// v1's cpuset takes no process before it has processors and memory nodes.
fn inherit(group: &Path, file: &str) {
    let parent = group.parent().unwrap();
    let above = parent.parent().unwrap().join(file);
    let Ok(value) = fs::read_to_string(above) else {
        return;
    };
    for directory in [parent, group] {
        let file = directory.join(file);
        if file.exists() && fs::read_to_string(&file).unwrap().trim().is_empty() {
            fs::write(file, &value).unwrap();
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Err(error) = self.0.remove(BOUND) {
            eprintln!("{error}");
        }
    }
}

/// Answers each line with a line.
fn echo() -> Child {
    Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn a_frozen_process_answers_after_it_is_thawed() {
    for hierarchy in hierarchies() {
        let group = Group::new(&hierarchy, "freeze");
        let mut child = echo();
        group.add(&child);
        assert_eq!(group.0.pids().unwrap(), [child.id()]);
        let mut answers = BufReader::new(child.stdout.take().unwrap());

        group.0.freeze(BOUND).unwrap();
        assert!(group.0.is_frozen().unwrap());
        child
            .stdin
            .as_mut()
            .unwrap()
            .write_all(b"awake?\n")
            .unwrap();
        group.0.freeze(BOUND).unwrap();
        assert!(group.0.is_frozen().unwrap(), "frozen stays frozen");

        group.0.thaw(BOUND).unwrap();
        assert!(!group.0.is_frozen().unwrap());
        let mut answer = String::new();
        answers.read_line(&mut answer).unwrap();
        assert_eq!(answer, "awake?\n");
        group.0.thaw(BOUND).unwrap();
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}

#[test]
fn removal_ends_frozen_processes_and_nested_groups() {
    for hierarchy in hierarchies() {
        let group = Group::new(&hierarchy, "remove");
        let mut inner = echo();
        let mut outer = echo();
        group.add(&outer);
        let nested = group.0.path("freezer").unwrap().join("nested");
        fs::create_dir(&nested).unwrap();
        fs::write(nested.join("cgroup.procs"), inner.id().to_string()).unwrap();
        let mut expected = [inner.id(), outer.id()];
        expected.sort_unstable();
        assert_eq!(group.0.pids().unwrap(), expected);
        group.0.freeze(BOUND).unwrap();

        // Held open, as `wait` would close it and cat would end by itself.
        let _open = [inner.stdin.take(), outer.stdin.take()];
        // A zombie stays in its group until somebody reaps it.
        let reaper = std::thread::spawn(move || [inner.wait().unwrap(), outer.wait().unwrap()]);
        group.0.remove(BOUND).unwrap();
        assert!(!group.0.exists());
        for status in reaper.join().unwrap() {
            assert_eq!(status.signal(), Some(libc_sigkill()));
        }
        group.0.remove(BOUND).unwrap();
    }
}

fn libc_sigkill() -> i32 {
    rustix::process::Signal::KILL.as_raw()
}

#[test]
fn the_memory_of_a_cgroup_is_read() {
    let hierarchy = cgroup::detect().unwrap();
    let group = Group::new(&hierarchy, "usage");
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    group.add(&child);
    assert!(group.0.memory_bytes().unwrap() < 64 << 20);
    assert_eq!(group.0.oom_kills().unwrap(), 0);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_process_killed_for_its_memory_is_counted() {
    let hierarchy = cgroup::detect().unwrap();
    let group = Group::new(&hierarchy, "oom");
    let limit = match hierarchy.version() {
        Version::V2 => "memory.max",
        Version::V1 | Version::Hybrid => "memory.limit_in_bytes",
    };
    fs::write(group.0.path("memory").unwrap().join(limit), "16777216").unwrap();
    // Looks for a line end in an endless stream of zeros, keeping all of it.
    let mut child = Command::new("sh")
        .args(["-c", "read go; exec tail /dev/zero"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    group.add(&child);
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(libc_sigkill()));
    assert_eq!(group.0.oom_kills().unwrap(), 1);
}
