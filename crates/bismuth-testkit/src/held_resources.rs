//! Counts the resources that a cluster has on the machine, to find leaks.
//!
//! ```text
//! before = HeldResources::count(&cluster) ─► 100 cycles ─► after = HeldResources::count(&cluster)
//! before.growth_to(&after, 8) is empty, or says "mount /tmp/…", "cgroup memory/bismuth/…", "descriptors of bismuthd-1: 20 -> 24"
//! ```
//!
//! Cgroups and network interfaces belong to the machine, not to a cluster: a test that counts them runs alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::Cluster;
use crate::sweep;

/// A snapshot of everything that could leak.
#[derive(Debug, Clone, Default)]
pub struct HeldResources {
    resources: BTreeMap<&'static str, BTreeSet<String>>,
    /// Daemon → kind of descriptor → how many. They have no lasting names, so they are only counted.
    descriptors: BTreeMap<String, BTreeMap<String, usize>>,
}

impl HeldResources {
    /// Takes a snapshot of a cluster and of the machine below it.
    /// Fails when containerd or `/proc` cannot be read.
    pub async fn count(cluster: &Cluster) -> Result<Self> {
        let mut resources = cluster.containerd.inventory().await?;
        let mut mounts = BTreeSet::new();
        let mut files = BTreeSet::new();
        for node in &cluster.nodes {
            mounts.extend(
                sweep::mount_points_below(&node.state_dir)?
                    .iter()
                    .map(|path| shown(path)),
            );
            walk(&node.state_dir, &mut files)?;
        }
        // What shims keep for each container: their sockets, bundles, the OCI runtime's state.
        for name in ["run", "state"] {
            walk(&cluster.containerd.dir().join(name), &mut files)?;
        }
        resources.insert("mount", mounts);
        resources.insert("file", files);
        resources.insert("cgroup", cgroups());
        resources.insert(
            "interface",
            names(Path::new("/sys/class/net")).into_iter().collect(),
        );
        resources.insert(
            "process",
            sweep::processes_below(cluster.containerd.dir())
                .iter()
                .map(ToString::to_string)
                .collect(),
        );
        let mut descriptors = BTreeMap::new();
        for (name, daemon) in cluster.daemons() {
            descriptors.insert(name, by_kind(&daemon.process()?.descriptors()?));
        }
        Ok(Self {
            resources,
            descriptors,
        })
    }

    /// Forgets resources whose kind and name `ignored` is true for, such as logs that are kept on purpose.
    pub fn without(mut self, ignored: impl Fn(&str, &str) -> bool) -> Self {
        for (kind, names) in &mut self.resources {
            names.retain(|name| !ignored(kind, name));
        }
        self
    }

    /// How many resources of a kind there are: `mount`, `file`, `cgroup`, `interface`, `process`, `container`,
    /// `task`, `snapshot`, `lease`, `image` or `content`.
    pub fn number_of(&self, kind: &str) -> usize {
        self.resources.get(kind).map_or(0, BTreeSet::len)
    }

    /// What `later` has and `self` has not, one line each; empty when nothing leaked. A daemon may have
    /// `kept` more descriptors: connections that its pools keep depend on which worker took which request.
    pub fn growth_to(&self, later: &Self, kept: usize) -> Vec<String> {
        let nothing = BTreeSet::new();
        let mut grown = Vec::new();
        for (kind, names) in &later.resources {
            let known = self.resources.get(kind).unwrap_or(&nothing);
            grown.extend(names.difference(known).map(|name| format!("{kind} {name}")));
        }
        for (daemon, later) in &later.descriptors {
            let before = self.descriptors.get(daemon).cloned().unwrap_or_default();
            let sum = |counts: &BTreeMap<String, usize>| counts.values().sum::<usize>();
            if sum(later) > sum(&before) + kept {
                let more = later.iter().filter_map(|(kind, count)| {
                    let before = before.get(kind).copied().unwrap_or_default();
                    (*count > before).then(|| format!("{kind} {before} -> {count}"))
                });
                let more: Vec<String> = more.collect();
                grown.push(format!("descriptors of {daemon}: {}", more.join(", ")));
            }
        }
        grown
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// `socket:[123]` is one of many sockets, a path is a file of its own.
fn by_kind(descriptors: &[String]) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for target in descriptors {
        let kind = match target.split_once(":[") {
            Some((kind, _)) if !kind.starts_with('/') && kind != "anon_inode" => kind,
            _ => target,
        };
        *kinds.entry(kind.to_owned()).or_insert(0) += 1;
    }
    kinds
}

/// Everything below `/bismuth` of every hierarchy.
fn cgroups() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for base in sweep::cgroup_dirs(Path::new("bismuth")) {
        found.extend(
            names(&base)
                .into_iter()
                .filter(|name| base.join(name).is_dir())
                .map(|name| shown(&base.join(name))),
        );
    }
    found
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Files, sockets, FIFOs and directories below `dir`, not looking into mounts.
fn walk(dir: &Path, found: &mut BTreeSet<String>) -> Result<()> {
    let mounts: BTreeSet<PathBuf> = sweep::mount_points_below(dir)?.into_iter().collect();
    let mut pending = vec![dir.to_path_buf()];
    while let Some(path) = pending.pop() {
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            // Removed since it was listed.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| format!("list {}", path.display())),
        };
        for entry in entries.flatten() {
            found.insert(shown(&entry.path()));
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) && !mounts.contains(&entry.path())
            {
                pending.push(entry.path());
            }
        }
    }
    Ok(())
}
