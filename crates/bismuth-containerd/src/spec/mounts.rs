//! The mounts of the spec, and the paths that are masked or read-only.

use std::path::{Path, PathBuf};

use oci_spec::OciSpecError;
use oci_spec::runtime::{Mount, MountBuilder};

use super::SpecInput;

/// Size of the tmpfs at `/dev`: device nodes and symbolic links, nothing else.
pub const DEFAULT_DEV_BYTES: u64 = 64 << 10;
/// Size of `/dev/shm`: what Docker and containerd give, so what programs are tested with.
pub const DEFAULT_SHM_BYTES: u64 = 64 << 20;

/// Hidden in the container: they tell about, or reach into, the host (containerd `oci/spec.go`, `populateDefaultUnixSpec`,
/// and moby's `oci/defaults.go`, which adds the last two).
pub(super) const MASKED_PATHS: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
    "/proc/interrupts",
];

/// Readable but not writable (containerd `oci/spec.go`).
pub(super) const READONLY_PATHS: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Mount options of file systems made by the kernel, which need no set-uid bits, programs or devices.
const RESTRICTED_OPTIONS: &[&str] = &["nosuid", "noexec", "nodev"];

/// A file or directory of the host that appears in the container. Never set-uid, never a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindMount {
    /// Path on the host.
    pub source: PathBuf,
    /// Path in the container; created by the runtime if it is missing.
    pub destination: PathBuf,
    /// Whether the container may write to it.
    pub writable: bool,
    /// Whether programs on it may be run.
    pub executable: bool,
}

/// A tmpfs, gone with the container, that one user of the container has to itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TmpfsMount {
    /// Path in the container; created by the runtime if it is missing.
    pub destination: PathBuf,
    /// What fits.
    pub bytes: u64,
    /// Its owner inside the container.
    pub uid: u32,
    /// Its owner's group inside the container.
    pub gid: u32,
}

/// The standard mounts in the order in which they must be made, then the caller's.
pub(super) fn all(input: &SpecInput) -> Result<Vec<Mount>, OciSpecError> {
    let dev_size = format!("size={DEFAULT_DEV_BYTES}");
    let shm_size = format!("size={}", input.shm_bytes);
    let mut mounts = vec![
        mount("/proc", "proc", "proc", RESTRICTED_OPTIONS)?,
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "noexec", "strictatime", "mode=755", &dev_size],
        )?,
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            // Group 5 is tty in every distribution's base image; the user namespace maps it.
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        )?,
        mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &restricted_and(&["mode=1777", &shm_size]),
        )?,
        mount("/dev/mqueue", "mqueue", "mqueue", RESTRICTED_OPTIONS)?,
        mount("/sys", "sysfs", "sysfs", &restricted_and(&["ro"]))?,
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &restricted_and(&["relatime", "ro"]),
        )?,
    ];
    for dir in &input.tmpfs_mounts {
        mounts.push(tmpfs_mount(dir)?);
    }
    for bind in &input.mounts {
        mounts.push(bind_mount(bind)?);
    }
    Ok(mounts)
}

fn restricted_and<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [RESTRICTED_OPTIONS, more].concat()
}

fn mount(
    destination: impl AsRef<Path>,
    typ: &str,
    source: impl AsRef<Path>,
    options: &[&str],
) -> Result<Mount, OciSpecError> {
    let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
    MountBuilder::default()
        .destination(destination.as_ref())
        .typ(typ)
        .source(source.as_ref())
        .options(options)
        .build()
}

fn tmpfs_mount(dir: &TmpfsMount) -> Result<Mount, OciSpecError> {
    let size = format!("size={}", dir.bytes);
    let (uid, gid) = (format!("uid={}", dir.uid), format!("gid={}", dir.gid));
    let options = restricted_and(&["mode=0700", &size, &uid, &gid]);
    mount(&dir.destination, "tmpfs", "tmpfs", &options)
}

fn bind_mount(bind: &BindMount) -> Result<Mount, OciSpecError> {
    // Private: what is mounted below the source later stays out of the container, and the other way round.
    let mut options = vec!["bind", "private", "nosuid", "nodev"];
    options.push(if bind.writable { "rw" } else { "ro" });
    options.push(if bind.executable { "exec" } else { "noexec" });
    mount(&bind.destination, "bind", &bind.source, &options)
}
