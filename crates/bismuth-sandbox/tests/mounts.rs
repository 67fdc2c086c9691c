//! Propagation of mounts to another mount namespace, such as that of containerd.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::PathBuf;
use std::sync::mpsc;

use bismuth_sandbox::mounts;
use bismuth_sandbox::namespaces::Namespaces;
use bismuth_sandbox::rootfs::{self, RootfsSpec};
use common::{Scratch, enter_own_mount_namespace, ids, layer};

/// A thread in a mount namespace of its own that is a slave of its starter's. Answers each
/// question with the mounts that it sees under a directory.
fn observer() -> (mpsc::Sender<PathBuf>, mpsc::Receiver<Vec<PathBuf>>) {
    let (ask, questions) = mpsc::channel::<PathBuf>();
    let (answer, answers) = mpsc::channel();
    let (ready, is_ready) = mpsc::channel();
    std::thread::spawn(move || {
        enter_own_mount_namespace();
        ready.send(()).unwrap();
        for dir in questions {
            let seen = mounts::list_under(&dir).unwrap();
            let seen = seen.into_iter().map(|mount| mount.path).collect();
            if answer.send(seen).is_err() {
                break;
            }
        }
    });
    is_ready.recv().unwrap();
    (ask, answers)
}

#[test]
fn mounts_in_a_shared_directory_propagate_and_so_do_unmounts() {
    let scratch = Scratch::new();
    let lower = layer(&scratch, "layer", &[("file", "text")]);
    let state = scratch.dir("state");
    mounts::make_shared_dir(&state).unwrap();
    let container = state.join("c");
    std::fs::create_dir(&container).unwrap();
    let (ask, answers) = observer();
    let seen = || {
        ask.send(container.clone()).unwrap();
        let mut seen = answers.recv().unwrap();
        seen.sort();
        seen
    };
    assert_eq!(seen(), Vec::<PathBuf>::new());

    let namespaces = Namespaces::create(&container, ids(0)).unwrap();
    let spec = RootfsSpec {
        lower_dirs: vec![lower],
        dir: container.clone(),
        user_ns: namespaces.user_fd(),
        ids: ids(0),
        disk_bytes: 1 << 20,
    };
    rootfs::mount(&spec).unwrap();
    let all = ["net", "root", "user"].map(|name| container.join(name));
    assert_eq!(seen(), all);

    rootfs::unmount(&container).unwrap();
    Namespaces::remove(&container).unwrap();
    assert_eq!(seen(), Vec::<PathBuf>::new());
}

#[test]
fn sharing_a_directory_twice_changes_nothing() {
    let scratch = Scratch::new();
    let state = scratch.dir("state");
    mounts::make_shared_dir(&state).unwrap();
    mounts::make_shared_dir(&state).unwrap();
    let inner = state.join("inner");
    std::fs::create_dir(&inner).unwrap();
    // Lies on a shared mount already.
    mounts::make_shared_dir(&inner).unwrap();
    let bound = mounts::list_under(&state).unwrap();
    assert_eq!(bound.len(), 1, "{bound:?}");
    assert!(bound[0].shared);
}

#[test]
fn a_directory_that_is_a_mount_is_shared_without_another() {
    let scratch = Scratch::new();
    let disk = scratch.dir("disk");
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("none", &disk, "tmpfs", flags, None).unwrap();
    mounts::make_shared_dir(&disk).unwrap();
    let left = mounts::list_under(&disk).unwrap();
    assert_eq!(left.len(), 1);
    assert!(left[0].shared);
    mounts::unmount_under(&disk).unwrap();
}
