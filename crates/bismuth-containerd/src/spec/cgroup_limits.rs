//! The cgroup limits of the spec: processor, memory, processes, devices. Written in the terms of cgroup v1, as the runtime spec wants
//! it; on v2 runc and crun translate (`shares` to `cpu.weight`, `quota`/`period` to `cpu.max`, memory + swap to
//! `memory.max` and `memory.swap.max`).

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    LinuxCpu, LinuxCpuBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
    LinuxMemory, LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResources, LinuxResourcesBuilder,
};

use super::{SpecError, SpecInput};

/// The kernel's default period, in microseconds.
pub const CPU_PERIOD_US: u64 = 100_000;
/// Most processes and threads of a container: room for a thread pool on a big machine, far below a fork bomb.
pub const DEFAULT_PIDS_LIMIT: u32 = 512;
/// The kernel refuses a quota below a millisecond (`min_cfs_quota_period`).
const MIN_QUOTA_US: u64 = 1_000;
/// `cpu.shares` of one core, and the kernel's bounds (`MIN_SHARES`, `MAX_SHARES` in `kernel/sched/sched.h`).
const SHARES_PER_CORE: f64 = 1024.0;
const SHARES_BOUNDS: (u64, u64) = (2, 262_144);
/// More cores than any machine has; keeps the arithmetic below exact.
const MAX_CORES: f64 = 4096.0;
/// runc needs about this much inside the cgroup before the program runs; below it every start dies with an obscure error.
const MIN_MEMORY: u64 = 6 << 20;

/// What every container may open: the memory devices without `mem`, the terminals. Everything else is denied; nothing can
/// be created anyway, as `mknod` needs a capability in the initial user namespace.
const DEVICES: &[(i64, Option<i64>)] = &[
    (1, Some(3)), // null
    (1, Some(5)), // zero
    (1, Some(7)), // full
    (1, Some(8)), // random
    (1, Some(9)), // urandom
    (5, Some(0)), // tty
    (5, Some(2)), // ptmx
    (136, None),  // pts/*
];

pub(super) fn validate(input: &SpecInput) -> Result<(), SpecError> {
    let refuse = |field, reason: String| {
        Err(SpecError::Invalid {
            id: input.id.clone(),
            field,
            reason,
        })
    };
    if !(input.cpu > 0.0 && input.cpu <= MAX_CORES) {
        return refuse("cpu", format!("{} is not a number of cores", input.cpu));
    }
    if input.memory < MIN_MEMORY || i64::try_from(input.memory).is_err() {
        return refuse(
            "memory",
            format!("{} bytes is not between 6 MiB and 8 EiB", input.memory),
        );
    }
    if input.pids == 0 {
        return refuse("pids", "0 would let nothing run".to_owned());
    }
    if input.nofile == 0 {
        return refuse("nofile", "0 would let nothing run".to_owned());
    }
    if !(-1000..=1000).contains(&input.oom_score_adj) {
        return refuse(
            "oom_score_adj",
            format!("{} is not in -1000..=1000", input.oom_score_adj),
        );
    }
    Ok(())
}

pub(super) fn resources(input: &SpecInput) -> Result<LinuxResources, OciSpecError> {
    let pids = LinuxPidsBuilder::default()
        .limit(i64::from(input.pids))
        .build()?;
    LinuxResourcesBuilder::default()
        .devices(devices()?)
        .memory(memory(input)?)
        .cpu(cpu(input.cpu)?)
        .pids(pids)
        .build()
}

fn cpu(cores: f64) -> Result<LinuxCpu, OciSpecError> {
    // Both products are positive and below 2^53 (`validate`), so the casts cut a fraction and nothing else.
    let quota = ((cores * CPU_PERIOD_US as f64).round() as u64).max(MIN_QUOTA_US);
    let shares = ((cores * SHARES_PER_CORE).round() as u64).clamp(SHARES_BOUNDS.0, SHARES_BOUNDS.1);
    LinuxCpuBuilder::default()
        .shares(shares)
        .quota(quota as i64)
        .period(CPU_PERIOD_US)
        .build()
}

fn memory(input: &SpecInput) -> Result<LinuxMemory, OciSpecError> {
    // `validate` proved that it fits.
    let limit = input.memory as i64;
    let memory = LinuxMemoryBuilder::default().limit(limit);
    if input.limit_swap {
        // Memory and swap together: equal means no swap at all.
        memory.swap(limit).build()
    } else {
        memory.build()
    }
}

fn devices() -> Result<Vec<LinuxDeviceCgroup>, OciSpecError> {
    let deny_all = LinuxDeviceCgroupBuilder::default()
        .allow(false)
        .access("rwm")
        .build()?;
    let mut rules = vec![deny_all];
    for (major, minor) in DEVICES {
        let rule = LinuxDeviceCgroupBuilder::default()
            .allow(true)
            .typ(LinuxDeviceType::C)
            .major(*major)
            .access("rwm");
        rules.push(match minor {
            Some(minor) => rule.minor(*minor).build()?,
            None => rule.build()?,
        });
    }
    Ok(rules)
}
