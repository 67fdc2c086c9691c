//! Builds the OCI runtime spec of one container: a pure function of what bismuthd decided.
//!
//! ```text
//!  SpecInput ──► build ──┬── process    who runs what: ids, capabilities, rlimits, no new privileges
//!  (paths, ids,          ├── mounts     proc, sysfs, /dev …, then our bind mounts
//!   limits)              └── linux      namespaces, mappings, masked paths, cgroup and its limits, seccomp
//! ```
//!
//! Every field is set here. containerd's default spec and the `oci-spec` crate's defaults contain neither a seccomp
//! profile nor a pids limit, and the latter fills what is left out with values that nobody chose; the golden test pins
//! the whole document.
//!
//! Nothing that a tenant wrote becomes an annotation: shims and runtimes act on annotations.

mod cgroup_limits;
mod mounts;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Capabilities, Linux, LinuxBuilder, LinuxCapabilities, LinuxCapabilitiesBuilder, LinuxIdMapping,
    LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType, LinuxSeccomp,
    PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process, ProcessBuilder, RootBuilder, Spec,
    SpecBuilder, UserBuilder,
};

pub use cgroup_limits::{CPU_PERIOD_US, DEFAULT_PIDS_LIMIT};
pub use mounts::{BindMount, DEFAULT_DEV_BYTES, DEFAULT_SHM_BYTES, TmpfsMount};

/// The version of the runtime spec that runc 1.1 and crun 1.8 know all of.
const OCI_VERSION: &str = "1.0.2";
/// Enough for a busy server, small enough that programs which close every possible descriptor at start do it quickly.
pub const DEFAULT_NOFILE_LIMIT: u64 = 65_536;
/// Above every daemon's 0: under memory pressure of the node a function dies before what runs it.
pub const DEFAULT_OOM_SCORE_ADJ: i32 = 500;
/// `sethostname(2)`: `__NEW_UTS_LEN`.
const MAX_HOSTNAME: usize = 64;

/// What the spec is made from. All paths are the host's unless they say otherwise.
#[derive(Debug, Clone, PartialEq)]
pub struct SpecInput {
    /// The container's id; used in error messages only, the paths below carry it where it matters.
    pub id: String,
    /// The program and its arguments; the program is looked up in the container.
    pub args: Vec<String>,
    /// `KEY=value`, in order.
    pub env: Vec<String>,
    /// Working directory in the container, absolute.
    pub cwd: PathBuf,
    /// User id inside the user namespace.
    pub uid: u32,
    /// Group id inside the user namespace.
    pub gid: u32,
    /// Supplementary groups inside the user namespace.
    pub additional_gids: Vec<u32>,
    /// Name inside the UTS namespace.
    pub hostname: String,
    /// The mounted root file system, writable.
    pub root_path: PathBuf,
    /// User ids of the user namespace at `userns_path`. Must be its real mapping: runc refuses a path without one.
    pub uid_map: Vec<IdMapping>,
    /// Group ids of the user namespace at `userns_path`.
    pub gid_map: Vec<IdMapping>,
    /// The pinned user namespace.
    pub userns_path: PathBuf,
    /// The pinned network namespace, which must be owned by that user namespace or sysfs cannot be mounted.
    pub netns_path: PathBuf,
    /// Where the OCI runtime creates the cgroup: relative to the cgroup root, with a leading slash, `/bismuth/{id}`.
    pub cgroups_path: PathBuf,
    /// CPU limit in cores.
    pub cpu: f64,
    /// Memory limit in bytes.
    pub memory: u64,
    /// Whether memory and swap together are held to `memory`. Off only where the kernel does not account swap: there
    /// the runtime fails to write the limit.
    pub limit_swap: bool,
    /// Most processes and threads at a time; [`DEFAULT_PIDS_LIMIT`] unless there is a reason.
    pub pids: u32,
    /// Most open files of a process: [`DEFAULT_NOFILE_LIMIT`], or
    /// [`ServerProcess::nofile`](crate::ServerProcess::nofile) where that is less.
    pub nofile: u64,
    /// How early the kernel kills this container when the node runs out of memory.
    pub oom_score_adj: i32,
    /// Size of the tmpfs at `/dev/shm` in bytes.
    pub shm_bytes: u64,
    /// Bind mounts, in order, after the standard ones.
    pub mounts: Vec<BindMount>,
    /// Directories in memory, after the standard mounts and before the bind mounts.
    pub tmpfs_mounts: Vec<TmpfsMount>,
    /// The system call filter.
    pub seccomp: Option<LinuxSeccomp>,
}

/// A run of consecutive ids in a user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdMapping {
    /// First id inside.
    pub container: u32,
    /// First id on the host.
    pub host: u32,
    /// How many.
    pub size: u32,
}

/// Why there is no spec for this input.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// A field has a value that no runtime would accept, or that would not mean what it says.
    #[error("runtime spec of {id}: {field}: {reason}")]
    Invalid {
        /// The container.
        id: String,
        /// The field of [`SpecInput`].
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A part was refused by the types of the runtime spec.
    #[error("build the runtime spec of a container")]
    Build(#[from] OciSpecError),
}

/// Makes the complete runtime spec.
///
/// # Errors
/// A field of the input cannot be used; the error names it.
pub fn build(input: &SpecInput) -> Result<Spec, SpecError> {
    validate(input)?;
    let root = RootBuilder::default()
        .path(input.root_path.clone())
        .readonly(false)
        .build()?;
    let spec = SpecBuilder::default()
        .version(OCI_VERSION)
        .root(root)
        .hostname(input.hostname.clone())
        .process(process(input)?)
        .mounts(mounts::all(input)?)
        .linux(linux(input)?)
        .annotations(HashMap::new())
        .build()?;
    Ok(spec)
}

fn process(input: &SpecInput) -> Result<Process, SpecError> {
    let user = UserBuilder::default()
        .uid(input.uid)
        .gid(input.gid)
        .umask(0o022_u32)
        .additional_gids(input.additional_gids.clone())
        .build()?;
    let rlimits = vec![
        rlimit(PosixRlimitType::RlimitNofile, input.nofile)?,
        // A core dump would land in the function's sized disk, or on the host through core_pattern.
        rlimit(PosixRlimitType::RlimitCore, 0)?,
    ];
    let process = ProcessBuilder::default()
        .terminal(false)
        .user(user)
        .args(input.args.clone())
        .env(input.env.clone())
        .cwd(input.cwd.clone())
        .capabilities(no_capabilities()?)
        .rlimits(rlimits)
        .no_new_privileges(true)
        .oom_score_adj(input.oom_score_adj)
        .build()?;
    Ok(process)
}

fn rlimit(typ: PosixRlimitType, limit: u64) -> Result<PosixRlimit, OciSpecError> {
    PosixRlimitBuilder::default()
        .typ(typ)
        .hard(limit)
        .soft(limit)
        .build()
}

fn no_capabilities() -> Result<LinuxCapabilities, OciSpecError> {
    LinuxCapabilitiesBuilder::default()
        .bounding(Capabilities::new())
        .effective(Capabilities::new())
        .permitted(Capabilities::new())
        .inheritable(Capabilities::new())
        .ambient(Capabilities::new())
        .build()
}

fn linux(input: &SpecInput) -> Result<Linux, SpecError> {
    let mut linux = LinuxBuilder::default()
        .uid_mappings(mappings(&input.uid_map)?)
        .gid_mappings(mappings(&input.gid_map)?)
        .namespaces(namespaces(input)?)
        .cgroups_path(input.cgroups_path.clone())
        .resources(cgroup_limits::resources(input)?)
        .masked_paths(owned(mounts::MASKED_PATHS))
        .readonly_paths(owned(mounts::READONLY_PATHS))
        .build()?;
    linux.set_seccomp(input.seccomp.clone());
    Ok(linux)
}

fn mappings(map: &[IdMapping]) -> Result<Vec<LinuxIdMapping>, OciSpecError> {
    let mapping = |m: &IdMapping| {
        LinuxIdMappingBuilder::default()
            .container_id(m.container)
            .host_id(m.host)
            .size(m.size)
            .build()
    };
    map.iter().map(mapping).collect()
}

/// User and network namespaces are ours, made before and outliving the task; the others are new with every task.
fn namespaces(input: &SpecInput) -> Result<Vec<LinuxNamespace>, OciSpecError> {
    let joined = |typ, path: &Path| LinuxNamespaceBuilder::default().typ(typ).path(path).build();
    let fresh = |typ| LinuxNamespaceBuilder::default().typ(typ).build();
    Ok(vec![
        joined(LinuxNamespaceType::User, &input.userns_path)?,
        joined(LinuxNamespaceType::Network, &input.netns_path)?,
        fresh(LinuxNamespaceType::Pid)?,
        fresh(LinuxNamespaceType::Ipc)?,
        fresh(LinuxNamespaceType::Uts)?,
        fresh(LinuxNamespaceType::Mount)?,
        fresh(LinuxNamespaceType::Cgroup)?,
    ])
}

fn owned(paths: &[&str]) -> Vec<String> {
    paths.iter().map(|path| (*path).to_owned()).collect()
}

fn validate(input: &SpecInput) -> Result<(), SpecError> {
    let refuse = |field, reason: &str| {
        Err(SpecError::Invalid {
            id: input.id.clone(),
            field,
            reason: reason.to_owned(),
        })
    };
    if input.args.first().is_none_or(String::is_empty) {
        return refuse("args", "there is no program to run");
    }
    if input
        .args
        .iter()
        .chain(&input.env)
        .any(|text| text.contains('\0'))
    {
        return refuse("args", "arguments and environment cannot contain NUL");
    }
    if !input
        .env
        .iter()
        .all(|entry| entry.find('=').is_some_and(|at| at > 0))
    {
        return refuse("env", "every entry must be KEY=value");
    }
    for (field, path) in absolute_paths(input) {
        if !path.is_absolute() {
            return refuse(field, "must be an absolute path");
        }
    }
    if input.hostname.is_empty() || input.hostname.len() > MAX_HOSTNAME {
        return refuse("hostname", "must have 1 to 64 bytes");
    }
    if input.uid_map.is_empty() || input.gid_map.is_empty() {
        return refuse(
            "uid_map",
            "a user namespace by path needs its mappings beside it",
        );
    }
    cgroup_limits::validate(input)
}

fn absolute_paths(input: &SpecInput) -> impl Iterator<Item = (&'static str, &Path)> {
    let fixed = [
        ("cwd", input.cwd.as_path()),
        ("root_path", &input.root_path),
        ("userns_path", &input.userns_path),
        ("netns_path", &input.netns_path),
        ("cgroups_path", &input.cgroups_path),
    ];
    let binds = input.mounts.iter().flat_map(|bind| {
        [
            ("mounts", bind.source.as_path()),
            ("mounts", &bind.destination),
        ]
    });
    let dirs = input.tmpfs_mounts.iter();
    let dirs = dirs.map(|dir| ("tmpfs_mounts", dir.destination.as_path()));
    fixed.into_iter().chain(dirs).chain(binds)
}

#[cfg(test)]
mod tests;
