//! Root filesystems on the real kernel, by both overlay methods.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use bismuth_sandbox::mounts;
use bismuth_sandbox::namespaces::Namespaces;
use bismuth_sandbox::rootfs::{self, Error, OverlayMethod, RootfsSpec};
use common::{HostState, Scratch, ids, layer};
use rustix::fs::{CWD, FileType, Mode};
use rustix::mount::MountFlags;

const MIB: u64 = 1 << 20;
const METHODS: [OverlayMethod; 2] = [OverlayMethod::Detached, OverlayMethod::Attached];

struct Fixture {
    scratch: Scratch,
    namespaces: Namespaces,
    dir: PathBuf,
}

impl Fixture {
    fn new() -> Self {
        let scratch = Scratch::new();
        let namespaces = Namespaces::create(&scratch.dir("pins"), ids(0)).unwrap();
        let dir = scratch.dir("c");
        Self {
            scratch,
            namespaces,
            dir,
        }
    }

    fn spec(&self, lower_dirs: Vec<PathBuf>) -> RootfsSpec<'_> {
        RootfsSpec {
            lower_dirs,
            dir: self.dir.clone(),
            user_ns: self.namespaces.user_fd(),
            ids: ids(0),
            disk_bytes: 4 * MIB,
        }
    }

    fn layers(&self, count: usize) -> Vec<PathBuf> {
        (0..count)
            .map(|n| {
                let own = format!("only-{n}");
                let files = [("which", n.to_string()), (own.as_str(), String::new())];
                let files = files.each_ref().map(|(path, text)| (*path, text.as_str()));
                layer(&self.scratch, &format!("layer-{n}"), &files)
            })
            .collect()
    }

    fn host_state(&self) -> HostState {
        HostState::of(&self.dir, &[])
    }
}

fn text(root: &Path, name: &str) -> String {
    fs::read_to_string(root.join(name)).unwrap()
}

#[test]
fn this_kernel_takes_detached_layers() {
    // Not a requirement of the crate; but if it stops being so here, the other tests would test
    // one way twice without saying so.
    assert_eq!(OverlayMethod::of_this_kernel(), OverlayMethod::Detached);
}

#[test]
fn the_containers_root_owns_what_root_owns_in_the_image() {
    let fixture = Fixture::new();
    let lower = layer(&fixture.scratch, "layer", &[("etc/passwd", "root")]);
    std::os::unix::fs::chown(lower.join("etc"), Some(1000), Some(1001)).unwrap();
    fs::set_permissions(&lower, PermissionsExt::from_mode(0o751)).unwrap();
    let start = ids(0).host_start;
    for method in METHODS {
        let root = rootfs::mount_by(method, &fixture.spec(vec![lower.clone()])).unwrap();
        let file = fs::metadata(root.join("etc/passwd")).unwrap();
        assert_eq!((file.uid(), file.gid()), (start, start));
        let dir = fs::metadata(root.join("etc")).unwrap();
        assert_eq!((dir.uid(), dir.gid()), (start + 1000, start + 1001));
        let top = fs::metadata(&root).unwrap();
        assert_eq!((top.uid(), top.mode() & 0o7777), (start, 0o751));
        rootfs::unmount(&fixture.dir).unwrap();
    }
    assert_eq!(fs::metadata(lower.join("etc/passwd")).unwrap().uid(), 0);
}

#[test]
fn thirty_layers_are_joined_top_first_and_never_written() {
    let fixture = Fixture::new();
    let layers = fixture.layers(30);
    let before = fixture.host_state();
    for method in METHODS {
        let root = rootfs::mount_by(method, &fixture.spec(layers.clone())).unwrap();
        assert_eq!(text(&root, "which"), "0");
        assert!((0..30).all(|n| root.join(format!("only-{n}")).exists()));
        fs::write(root.join("which"), "changed").unwrap();
        fs::remove_file(root.join("only-29")).unwrap();
        assert!(!root.join("only-29").exists());
        // Nothing but the root is in the tree, whichever way it was made.
        let here = mounts::list_under(&fixture.dir).unwrap();
        assert_eq!(here.len(), 1, "{here:?}");
        assert_eq!(fs::read_dir(&fixture.dir).unwrap().count(), 1);
        rootfs::unmount(&fixture.dir).unwrap();
        assert_eq!(fixture.host_state(), before);
    }
    assert_eq!(text(&layers[0], "which"), "0");
    assert!(layers[29].join("only-29").exists());
}

#[test]
fn more_layers_than_the_kernel_joins_are_refused_without_a_trace() {
    let fixture = Fixture::new();
    let layers = fixture.layers(501);
    let before = fixture.host_state();
    let root = rootfs::mount_by(
        OverlayMethod::Detached,
        &fixture.spec(layers[..400].to_vec()),
    )
    .unwrap();
    assert!(root.join("only-399").exists());
    rootfs::unmount(&fixture.dir).unwrap();
    for method in METHODS {
        let refused = rootfs::mount_by(method, &fixture.spec(layers.clone())).unwrap_err();
        assert!(matches!(refused, Error::TooManyLayers { .. }), "{refused}");
        assert_eq!(fixture.host_state(), before);
    }
}

#[test]
fn a_container_writes_as_much_as_its_disk_and_no_more() {
    let fixture = Fixture::new();
    let lower = fixture.layers(1);
    for method in METHODS {
        let root = rootfs::mount_by(method, &fixture.spec(lower.clone())).unwrap();
        let mut file = File::create(root.join("big")).unwrap();
        let block = vec![7; 64 * 1024];
        let mut written = 0;
        let error = loop {
            match file.write(&block) {
                Ok(length) => written += length as u64,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::StorageFull);
        assert!((3 * MIB..=4 * MIB).contains(&written), "{written}");
        drop(file);
        rootfs::unmount(&fixture.dir).unwrap();
    }
}

#[test]
fn device_files_of_an_image_cannot_be_opened() {
    let fixture = Fixture::new();
    let lower = layer(&fixture.scratch, "layer", &[("file", "")]);
    let null = rustix::fs::makedev(1, 3);
    let mode = Mode::from_raw_mode(0o666);
    rustix::fs::mknodat(
        CWD,
        lower.join("null"),
        FileType::CharacterDevice,
        mode,
        null,
    )
    .unwrap();
    for method in METHODS {
        let root = rootfs::mount_by(method, &fixture.spec(vec![lower.clone()])).unwrap();
        let error = File::open(root.join("null")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        rootfs::unmount(&fixture.dir).unwrap();
    }
}

#[test]
fn fifty_root_filesystems_leave_nothing_behind() {
    let fixture = Fixture::new();
    let layers = fixture.layers(3);
    // Finding out the method opens nothing that stays.
    OverlayMethod::of_this_kernel();
    let before = fixture.host_state();
    for n in 0..50 {
        let root = rootfs::mount_by(METHODS[n % 2], &fixture.spec(layers.clone())).unwrap();
        assert!(rootfs::is_mounted(&fixture.dir).unwrap());
        fs::write(root.join("file"), "text").unwrap();
        rootfs::unmount(&fixture.dir).unwrap();
        assert!(!rootfs::is_mounted(&fixture.dir).unwrap());
    }
    assert_eq!(fixture.host_state(), before);
}

#[test]
fn a_failed_mount_leaves_nothing() {
    let fixture = Fixture::new();
    let mut layers = fixture.layers(2);
    let before = fixture.host_state();
    let none = rootfs::mount(&fixture.spec(Vec::new())).unwrap_err();
    assert!(matches!(none, Error::NoLayers { .. }), "{none}");
    layers.push(fixture.scratch.path().join("missing"));
    let missing = rootfs::mount(&fixture.spec(layers.clone())).unwrap_err();
    assert!(missing.to_string().contains("missing"), "{missing}");
    layers[2] = layers[0].join("which");
    let file = rootfs::mount(&fixture.spec(layers.clone())).unwrap_err();
    assert!(file.to_string().starts_with("open layer "), "{file}");
    assert_eq!(fixture.host_state(), before);
    // Where the root filesystem cannot be mounted, all the rest was made before.
    layers.pop();
    fs::write(fixture.dir.join("root"), "a file").unwrap();
    let before = fixture.host_state();
    for method in METHODS {
        let refused = rootfs::mount_by(method, &fixture.spec(layers.clone())).unwrap_err();
        assert!(
            refused.to_string().contains(" the overlay of "),
            "{refused}"
        );
        assert_eq!(fixture.host_state(), before);
    }
}

#[test]
fn layers_may_lie_on_several_mounts() {
    let fixture = Fixture::new();
    let mut layers = fixture.layers(4);
    let disk = fixture.scratch.dir("disk");
    rustix::mount::mount("none", &disk, "tmpfs", MountFlags::empty(), None).unwrap();
    fs::create_dir_all(disk.join("a/fs")).unwrap();
    fs::write(disk.join("a/fs/which"), "disk").unwrap();
    layers.insert(0, disk.join("a/fs"));
    // A layer that is a mount point, and one reached by a symbolic link.
    let bound = layer(&fixture.scratch, "bound", &[("bound", "")]);
    rustix::mount::mount_bind(&bound, &layers[1]).unwrap();
    let link = fixture.scratch.path().join("link");
    std::os::unix::fs::symlink(&layers[4], &link).unwrap();
    layers[4] = link;
    for method in METHODS {
        let root = rootfs::mount_by(method, &fixture.spec(layers.clone())).unwrap();
        assert_eq!(text(&root, "which"), "disk");
        let there = ["bound", "only-1", "only-2", "only-3"].map(|name| root.join(name).exists());
        assert_eq!(there, [true; 4]);
        assert!(!root.join("only-0").exists(), "the mount covers it");
        let owner = fs::metadata(root.join("only-3")).unwrap().uid();
        assert_eq!(owner, ids(0).host_start);
        rootfs::unmount(&fixture.dir).unwrap();
    }
    mounts::unmount_under(&layers[1]).unwrap();
    mounts::unmount_under(&disk).unwrap();
}

#[test]
fn a_second_mount_is_refused_and_the_first_stays() {
    let fixture = Fixture::new();
    let spec = fixture.spec(fixture.layers(1));
    let root = rootfs::mount(&spec).unwrap();
    let twice = rootfs::mount(&spec).unwrap_err();
    assert!(matches!(twice, Error::AlreadyMounted { .. }), "{twice}");
    assert_eq!(text(&root, "which"), "0");
    rootfs::unmount(&fixture.dir).unwrap();
}

#[test]
fn a_half_mounted_directory_is_unmounted() {
    let fixture = Fixture::new();
    let layers = fixture.layers(2);
    let before = fixture.host_state();
    // As a crash in the middle of `OverlayMethod::Attached` leaves it, with a stranger on top.
    for (source, point) in [(0, "lower/0"), (1, "lower/1"), (1, "lower/1"), (0, "upper")] {
        let point = fixture.dir.join(point);
        fs::create_dir_all(&point).unwrap();
        rustix::mount::mount_bind(&layers[source], &point).unwrap();
    }
    fs::create_dir(fixture.dir.join("root")).unwrap();
    assert!(!rootfs::is_mounted(&fixture.dir).unwrap());
    rootfs::unmount(&fixture.dir).unwrap();
    assert_eq!(fixture.host_state(), before);
    rootfs::unmount(&fixture.dir).unwrap();
    // The layers themselves are untouched.
    assert_eq!(text(&layers[1], "which"), "1");
}

#[test]
fn a_root_filesystem_in_use_is_taken_out_of_the_tree() {
    let fixture = Fixture::new();
    let root = rootfs::mount(&fixture.spec(fixture.layers(1))).unwrap();
    let mut open = File::create(root.join("open")).unwrap();
    rootfs::unmount(&fixture.dir).unwrap();
    assert!(!root.exists());
    open.write_all(b"still a file").unwrap();
}

#[test]
fn a_filesystem_without_id_mapping_is_named() {
    let fixture = Fixture::new();
    rootfs::probe(fixture.scratch.path()).unwrap();
    let refused = rootfs::probe(Path::new("/proc")).unwrap_err();
    let said = refused.to_string();
    assert!(said.contains("filesystem proc of /proc"), "{said}");
}
