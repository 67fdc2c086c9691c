//! Mounts the overlay, in the two ways that kernels offer: layers as descriptors, or attached and by name.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags,
    fsconfig_create, fsconfig_set_fd, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use super::layers::Layers;
use super::upper::{self, Upper};
use super::{Error, LOWER, UPPER, make_dir, remove_dir};
use crate::{PathError, mounts};

/// Overlay marks that a layer may carry and that are not followed: a hostile image could set them.
const UNTRUSTED_LAYER_OPTIONS: [(&str, &str); 2] =
    [("redirect_dir", "nofollow"), ("metacopy", "off")];

/// overlayfs takes no more (`OVL_MAX_STACK` in the kernel's fs/overlayfs/params.h).
const MAX_LAYERS: usize = 500;

/// mount(2) copies one page of options, and the last byte of it is NUL.
const MAX_OPTION_BYTES: usize = 4095;

/// How layers reach overlayfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverlayMethod {
    /// As descriptors of mounts that are attached nowhere (Linux 6.15): up to 500 layers, one
    /// mount in the tree.
    Detached,
    /// By name, before that. overlayfs wants its layers' mounts attached while it is mounted, and
    /// takes one page of options. So the clones are attached under `dir/lower`, the layers
    /// named as `/proc/self/fd/N` (room for some 200), and the clones detached again: overlayfs
    /// has its own by then.
    Attached,
}

impl OverlayMethod {
    /// The better way that this kernel has; found out once, by trying.
    pub fn of_this_kernel() -> Self {
        static FOUND: OnceLock<OverlayMethod> = OnceLock::new();
        *FOUND.get_or_init(|| match try_detached() {
            Ok(()) => OverlayMethod::Detached,
            Err(error) => {
                tracing::info!(%error, "overlay layers are attached to be mounted: older kernel");
                OverlayMethod::Attached
            }
        })
    }
}

/// An overlay of nothing over a tmpfs, attached nowhere.
fn try_detached() -> rustix::io::Result<()> {
    /// One page: it holds three directories.
    const PROBE_BYTES: u64 = 4096;
    let tmpfs = upper::tmpfs(PROBE_BYTES)?;
    let lower = upper::directory(tmpfs.as_fd(), "lower")?;
    let upper_dir = upper::directory(tmpfs.as_fd(), "upper")?;
    let work = upper::directory(tmpfs.as_fd(), "work")?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let clone = open_tree(&lower, c".", flags)?;
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let lower = rustix::fs::openat(&clone, c".", flags, Mode::empty())?;
    create(&[lower], upper_dir.as_fd(), work.as_fd()).map(drop)
}

/// Makes an overlay, attached nowhere.
fn create(
    lower: &[OwnedFd],
    upper: BorrowedFd<'_>,
    work: BorrowedFd<'_>,
) -> rustix::io::Result<OwnedFd> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in UNTRUSTED_LAYER_OPTIONS {
        fsconfig_set_string(&context, key, value)?;
    }
    for layer in lower {
        fsconfig_set_fd(&context, "lowerdir+", layer)?;
    }
    fsconfig_set_fd(&context, "upperdir", upper)?;
    fsconfig_set_fd(&context, "workdir", work)?;
    fsconfig_create(&context)?;
    fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_NODEV,
    )
}

/// [`OverlayMethod::Detached`].
pub(super) fn mount_detached(
    dir: &Path,
    root: &Path,
    layers: &Layers,
    upper: &Upper,
) -> Result<(), Error> {
    check_count(layers.dirs.len(), MAX_LAYERS)?;
    let overlay = create(&layers.dirs, upper.upper.as_fd(), upper.work.as_fd())
        .map_err(PathError::at("make the overlay of", dir))?;
    Ok(attach(overlay.as_fd(), root).map_err(PathError::at("attach the overlay of", dir))?)
}

/// [`OverlayMethod::Attached`]. A failure leaves what `unmount` undoes.
pub(super) fn mount_attached(
    dir: &Path,
    root: &Path,
    layers: &Layers,
    upper: &Upper,
) -> Result<(), Error> {
    let options = options_by_name(layers, upper)?;
    let (upper_point, lower_point) = (dir.join(UPPER), dir.join(LOWER));
    make_dir(&upper_point)?;
    attach(upper.as_fd(), &upper_point)
        .map_err(PathError::at("attach the upper directory of", dir))?;
    make_dir(&lower_point)?;
    let mut points = Vec::with_capacity(layers.mounts.len() + 1);
    for (number, mount) in layers.mounts.iter().enumerate() {
        let point = lower_point.join(number.to_string());
        make_dir(&point)?;
        attach(mount.as_fd(), &point).map_err(PathError::at("attach the layers of", dir))?;
        points.push(point);
    }
    let options =
        std::ffi::CString::new(options).map_err(PathError::at("name the layers of", dir))?;
    rustix::mount::mount(
        "overlay",
        root,
        "overlay",
        MountFlags::NODEV,
        options.as_c_str(),
    )
    .map_err(PathError::at("mount the overlay of", dir))?;

    // Descriptors keep these busy, so they are detached; overlayfs has its own clones.
    points.push(upper_point);
    for point in &points {
        mounts::detach(point).map_err(PathError::at("detach the layers of", dir))?;
        remove_dir(point)?;
    }
    remove_dir(&lower_point)
}

fn options_by_name(layers: &Layers, upper: &Upper) -> Result<String, Error> {
    let name = |fd: BorrowedFd<'_>| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let lower: Vec<_> = layers.dirs.iter().map(|dir| name(dir.as_fd())).collect();
    let mut options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.join(":"),
        name(upper.upper.as_fd()),
        name(upper.work.as_fd()),
    );
    for (key, value) in UNTRUSTED_LAYER_OPTIONS {
        options.push_str(&format!(",{key}={value}"));
    }
    if options.len() > MAX_OPTION_BYTES {
        // What each layer took on average tells how many would have fitted.
        let most = layers.dirs.len() * MAX_OPTION_BYTES / options.len();
        check_count(layers.dirs.len(), most)?;
    }
    Ok(options)
}

fn check_count(count: usize, most: usize) -> Result<(), Error> {
    if count > most {
        return Err(Error::TooManyLayers { count, most });
    }
    Ok(())
}

fn attach(mount: BorrowedFd<'_>, point: &Path) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(mount, c"", CWD, point, flags)
}
