//! End to end: runc and crun start a container in what this crate makes.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bismuth_sandbox::IdRange;
use bismuth_sandbox::cgroup::{self, Version};
use bismuth_sandbox::namespaces::Namespaces;
use bismuth_sandbox::rootfs::{self, RootfsSpec};
use common::{HostState, Scratch, ids, layer};
use serde_json::json;

/// Says who it is, writes where only root may, and listens on port 80.
const PROGRAM: &str = "id -u; echo written > /etc/new; ls -ln /etc/new; stat -c %u /bin/busybox; \
     ip -4 addr show lo | grep -c 169.254.169.254/32; \
     httpd -p 127.0.0.1:80 && wget -q -O - http://127.0.0.1/etc/motd";

/// Two layers: busybox with the directories that a runtime wants, and a file.
fn image(scratch: &Scratch) -> Vec<PathBuf> {
    let base = layer(scratch, "base", &[("etc/motd", "covered")]);
    for dir in ["bin", "proc", "sys", "dev", "tmp"] {
        fs::create_dir(base.join(dir)).unwrap();
    }
    fs::copy("/bin/busybox", base.join("bin/busybox")).unwrap();
    fs::set_permissions(base.join("bin/busybox"), PermissionsExt::from_mode(0o755)).unwrap();
    vec![layer(scratch, "top", &[("etc/motd", "it works")]), base]
}

fn config(namespaces: &Namespaces, root: &Path, ids: IdRange, cgroup: &Path) -> serde_json::Value {
    let map = json!([{ "containerID": 0, "hostID": ids.host_start, "size": ids.size }]);
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": { "uid": 0, "gid": 0 },
            "args": ["/bin/busybox", "sh", "-c", PROGRAM],
            "env": ["PATH=/bin"],
            "cwd": "/",
        },
        "root": { "path": root },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro", "nosuid"] },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs" },
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "uidMappings": map,
            "gidMappings": map,
            "namespaces": [
                { "type": "user", "path": namespaces.user_path() },
                { "type": "network", "path": namespaces.net_path() },
                { "type": "mount" }, { "type": "pid" }, { "type": "ipc" }, { "type": "uts" },
            ],
        },
    })
}

/// Runs [`PROGRAM`] by `runtime` and returns what it printed; nothing may be left afterwards.
fn run(scratch: &Scratch, runtime: &str) -> Vec<String> {
    let ids = ids(0);
    let lower_dirs = image(scratch);
    let dir = scratch.dir("c");
    let bundle = scratch.dir("bundle");
    let state = scratch.dir("state");
    let before = HostState::of(&dir, &[ids]);

    let id = format!("test-{runtime}-{}", std::process::id());
    let group = cgroup::detect().unwrap().container_cgroup(&id).unwrap();
    let namespaces = Namespaces::create(&dir, ids).unwrap();
    let spec = RootfsSpec {
        lower_dirs,
        dir: dir.clone(),
        user_ns: namespaces.user_fd(),
        ids,
        disk_bytes: 16 << 20,
    };
    let root = rootfs::mount(&spec).unwrap();
    let config = config(&namespaces, &root, ids, &cgroup::cgroups_path(&id));
    fs::write(bundle.join("config.json"), config.to_string()).unwrap();
    let output = Command::new(runtime)
        .arg("--root")
        .arg(&state)
        .args(["run", "--bundle"])
        .arg(&bundle)
        .arg(&id)
        .output()
        .unwrap();

    drop(namespaces);
    group.remove(Duration::from_secs(10)).unwrap();
    rootfs::unmount(&dir).unwrap();
    Namespaces::remove(&dir).unwrap();
    assert_eq!(HostState::of(&dir, &[ids]), before);
    assert!(!group.exists());
    assert!(output.status.success(), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    printed.lines().map(str::to_owned).collect()
}

fn check(printed: &[String]) {
    assert_eq!(printed[0], "0", "root inside");
    let owner: Vec<_> = printed[1].split_whitespace().collect();
    assert_eq!(owner[2..4], ["0", "0"], "a new file belongs to root inside");
    assert_eq!(printed[2..], ["0", "1", "it works"]);
}

#[test]
fn runc_starts_a_container_in_our_namespaces_and_root_filesystem() {
    let scratch = Scratch::new();
    check(&run(&scratch, "runc"));
}

#[test]
fn crun_starts_a_container_where_it_can_be_used() {
    let scratch = Scratch::new();
    if cgroup::detect().unwrap().version() == Version::Hybrid {
        // As containerd is started on such a machine; this mount namespace is only ours.
        let flags = rustix::mount::UnmountFlags::empty();
        rustix::mount::unmount("/sys/fs/cgroup/unified", flags).unwrap();
    }
    assert!(cgroup::detect().unwrap().version().crun_usable());
    check(&run(&scratch, "crun"));
}
