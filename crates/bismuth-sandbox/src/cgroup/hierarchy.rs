//! Detects which cgroup hierarchies are mounted: v1, v2 or hybrid.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::{Cgroup, Error, PARENT};
use crate::mounts::{self, MountPoint};

/// Where control groups belong (file-hierarchy of every distribution). Others are somebody's own:
/// some network plugins mount cgroup2 elsewhere.
const MOUNTED_UNDER: &str = "/sys/fs/cgroup";

/// The v1 controllers (cgroup-v1 documentation); other words among the options are mount flags.
const V1_CONTROLLERS: [&str; 14] = [
    "blkio",
    "cpu",
    "cpuacct",
    "cpuset",
    "debug",
    "devices",
    "freezer",
    "hugetlb",
    "memory",
    "misc",
    "net_cls",
    "net_prio",
    "perf_event",
    "pids",
];

/// The version of control groups that a machine uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Controllers in hierarchies of their own.
    V1,
    /// One hierarchy.
    V2,
    /// v1 controllers, and a v2 hierarchy beside them.
    Hybrid,
}

impl Version {
    /// Whether crun works here. It refuses hybrid ("cgroups in hybrid mode not supported").
    pub fn crun_usable(self) -> bool {
        self != Self::Hybrid
    }
}

/// The mounted hierarchies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Mount point of each v1 controller, and of each named hierarchy as `name=…`.
    v1: BTreeMap<String, PathBuf>,
    unified: Option<PathBuf>,
}

/// The hierarchies that the calling thread sees.
///
/// # Errors
/// [`Error::Mounts`], [`Error::NotMounted`].
pub fn detect() -> Result<Hierarchy, Error> {
    Hierarchy::from_mounts(&mounts::table()?)
}

/// The hierarchies that another process sees: containerd may have a mount namespace of its own,
/// and it is its view that the OCI runtime gets.
///
/// # Errors
/// [`Error::Mounts`], [`Error::NotMounted`].
pub fn detect_for(pid: u32) -> Result<Hierarchy, Error> {
    Hierarchy::from_mounts(&mounts::table_of(pid)?)
}

impl Hierarchy {
    /// A pure v2 hierarchy at a given mount point.
    pub fn unified(mount: &Path) -> Self {
        Self {
            v1: BTreeMap::new(),
            unified: Some(mount.to_owned()),
        }
    }

    /// # Errors
    /// [`Error::NotMounted`].
    fn from_mounts(mounts: &[MountPoint]) -> Result<Self, Error> {
        let mut found = Self {
            v1: BTreeMap::new(),
            unified: None,
        };
        for mount in mounts
            .iter()
            .filter(|mount| mount.path.starts_with(MOUNTED_UNDER))
        {
            match mount.fs_type.as_str() {
                "cgroup2" => found.unified = Some(mount.path.clone()),
                "cgroup" => {
                    for name in mount.super_options.split(',').filter(names_a_hierarchy) {
                        found.v1.insert(name.to_owned(), mount.path.clone());
                    }
                }
                _ => {}
            }
        }
        if found.v1.is_empty() && found.unified.is_none() {
            return Err(Error::NotMounted);
        }
        Ok(found)
    }

    /// Which version this is.
    pub fn version(&self) -> Version {
        match (self.v1.is_empty(), &self.unified) {
            (true, _) => Version::V2,
            (false, None) => Version::V1,
            (false, Some(_)) => Version::Hybrid,
        }
    }

    /// Whether memory limits can cover swap. Where the kernel does not account swap, writing such a
    /// limit fails.
    pub fn accounts_swap(&self) -> bool {
        match self.version() {
            Version::V1 | Version::Hybrid => {
                let memory = self.mount_of("memory");
                memory.is_some_and(|mount| mount.join("memory.memsw.limit_in_bytes").exists())
            }
            // The root group has no such file, so this asks what makes the kernel give it to all
            // others: swap is compiled in, and not left out at boot.
            Version::V2 => {
                let boot = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
                Path::new("/proc/swaps").exists() && !boot.contains("swapaccount=0")
            }
        }
    }

    /// The groups of a container.
    ///
    /// # Errors
    /// [`Error::BadId`] if the id is no single path segment.
    pub fn container_cgroup(&self, id: &str) -> Result<Cgroup, Error> {
        if id.is_empty() || id == "." || id == ".." || id.contains(['/', '\0']) {
            return Err(Error::BadId { id: id.to_owned() });
        }
        Ok(Cgroup {
            hierarchy: self.clone(),
            relative: Path::new(PARENT).join(id),
        })
    }

    /// Where a controller's groups are: its v1 mount if it has one, else v2.
    pub(super) fn mount_of(&self, controller: &str) -> Option<&Path> {
        match self.version() {
            Version::V2 => self.unified.as_deref(),
            // In hybrid the controllers are v1's; one that is not there is nowhere.
            Version::V1 | Version::Hybrid => self.v1.get(controller).map(PathBuf::as_path),
        }
    }

    /// Every mount point, each once (v1 controllers may share one).
    pub(super) fn mounts(&self) -> impl Iterator<Item = &PathBuf> {
        let distinct: BTreeSet<_> = self.v1.values().chain(&self.unified).collect();
        distinct.into_iter()
    }

    /// The v2 mount point, if there is one.
    pub(super) fn unified_mount(&self) -> Option<&Path> {
        self.unified.as_deref()
    }
}

fn names_a_hierarchy(option: &&str) -> bool {
    V1_CONTROLLERS.contains(option) || option.starts_with("name=")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(path: &str, fs_type: &str, options: &str) -> MountPoint {
        MountPoint {
            id: 1,
            parent: 0,
            device: "0:1".to_owned(),
            root: "/".into(),
            path: path.into(),
            shared: false,
            fs_type: fs_type.to_owned(),
            super_options: options.to_owned(),
        }
    }

    #[test]
    fn the_three_layouts_are_told_apart() {
        let v2 = [mount("/sys/fs/cgroup", "cgroup2", "rw,nsdelegate")];
        let v1 = [
            mount("/sys/fs/cgroup/cpu,cpuacct", "cgroup", "rw,cpu,cpuacct"),
            mount("/sys/fs/cgroup/memory", "cgroup", "rw,memory"),
            mount("/sys/fs/cgroup/systemd", "cgroup", "rw,xattr,name=systemd"),
            mount("/run/plugin/cgroupv2", "cgroup2", "rw"),
        ];
        let mut hybrid = v1.to_vec();
        hybrid.push(mount("/sys/fs/cgroup/unified", "cgroup2", "rw"));

        let versions = [&v2[..], &v1[..], &hybrid[..]].map(|mounts| {
            let found = Hierarchy::from_mounts(mounts).expect("mounted");
            (found.version(), found.version().crun_usable())
        });
        assert_eq!(
            versions,
            [
                (Version::V2, true),
                (Version::V1, true),
                (Version::Hybrid, false)
            ]
        );
        assert!(matches!(
            Hierarchy::from_mounts(&[mount("/", "ext4", "rw")]),
            Err(Error::NotMounted)
        ));
    }

    #[test]
    fn controllers_that_share_a_mount_share_a_directory() {
        let mounts = [
            mount("/sys/fs/cgroup/cpu,cpuacct", "cgroup", "rw,cpu,cpuacct"),
            mount("/sys/fs/cgroup/memory", "cgroup", "rw,memory"),
        ];
        let found = Hierarchy::from_mounts(&mounts).expect("mounted");
        let group = found.container_cgroup("c").expect("good id");
        assert_eq!(group.path("cpu"), group.path("cpuacct"));
        assert_eq!(group.path("pids"), None);
        assert_eq!(group.directories().len(), 2);
    }
}
