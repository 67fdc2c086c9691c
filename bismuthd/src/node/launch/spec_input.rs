//! Decides what goes into the OCI runtime spec of a container: program, user, namespaces, cgroup, mounts. Pure.

use std::path::{Path, PathBuf};

use bismuth_containerd::spec::{
    BindMount, DEFAULT_NOFILE_LIMIT, DEFAULT_OOM_SCORE_ADJ, DEFAULT_PIDS_LIMIT, DEFAULT_SHM_BYTES,
    IdMapping, SpecInput, TmpfsMount,
};

use super::cgroup;
use super::sandbox::Sandbox;
use crate::node::program::Program;
use crate::node::slot::Slot;

/// Thirty secrets of 64 KiB, which is as many and as large as they may be, in whole pages.
const SECRETS_BYTES: u64 = 2 << 20;

/// The directory of bismuth-init's socket inside an exec container.
fn run_dir_in_container() -> &'static Path {
    let parent = Path::new(bismuth_init::SOCKET_PATH).parent();
    parent.unwrap_or(Path::new("/"))
}

/// The spec of a server container, whose command is its first process.
pub(super) fn spec_input(
    slot: &Slot,
    sandbox: &Sandbox,
    program: &Program,
    limit_swap: bool,
    nofile: u64,
) -> SpecInput {
    let id = slot.container_id.to_string();
    let whole_range = vec![IdMapping {
        container: 0,
        host: sandbox.ids.host_start,
        size: sandbox.ids.size,
    }];
    SpecInput {
        // The first block of the id: short enough for a prompt, and what `ctr` lists begin with.
        hostname: id.chars().take(8).collect(),
        id,
        args: program.argv.clone(),
        env: program.env.clone(),
        cwd: PathBuf::from(&program.cwd),
        uid: sandbox.user.uid,
        gid: sandbox.user.gid,
        additional_gids: sandbox.user.groups.clone(),
        root_path: sandbox.root.clone(),
        uid_map: whole_range.clone(),
        gid_map: whole_range,
        userns_path: sandbox.namespaces.user_path().to_owned(),
        netns_path: sandbox.namespaces.net_path().to_owned(),
        cgroups_path: cgroup::path_in_spec(slot.container_id),
        cpu: slot.definition.cpu,
        memory: slot.definition.memory,
        limit_swap,
        nofile: DEFAULT_NOFILE_LIMIT.min(nofile),
        pids: DEFAULT_PIDS_LIMIT,
        oom_score_adj: DEFAULT_OOM_SCORE_ADJ,
        shm_bytes: DEFAULT_SHM_BYTES,
        mounts: Vec::new(),
        tmpfs_mounts: secrets_dir(slot, sandbox),
        seccomp: None,
    }
}

/// A tmpfs for the files that the definition asks for, if it does.
fn secrets_dir(slot: &Slot, sandbox: &Sandbox) -> Vec<TmpfsMount> {
    let asked = slot.definition.secrets.iter().any(|s| s.file.is_some());
    let dir = || TmpfsMount {
        destination: PathBuf::from(bismuth_init::SECRETS_DIR),
        bytes: SECRETS_BYTES,
        uid: sandbox.user.uid,
        gid: sandbox.user.gid,
    };
    asked.then(dir).into_iter().collect()
}

/// Makes bismuth-init the entrypoint: it spawns the command for each request, or takes the secrets and becomes it.
pub(super) fn set_init_as_entrypoint(input: &mut SpecInput, init: &Path, run_dir: &Path) {
    input.args = vec![bismuth_init::PROGRAM_PATH.to_owned()];
    // The directory may not exist in the image; each execution goes to its own.
    input.cwd = PathBuf::from("/");
    input.mounts.push(BindMount {
        source: init.to_owned(),
        destination: PathBuf::from(bismuth_init::PROGRAM_PATH),
        writable: false,
        executable: true,
    });
    input.mounts.push(BindMount {
        source: run_dir.to_owned(),
        destination: run_dir_in_container().to_owned(),
        writable: true,
        executable: false,
    });
}
