//! Defaults and limits of the fields of a definition.

use std::ops::RangeInclusive;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;

/// A definition larger than this as JSON is refused: with its revision and the encoding it must
/// fit a 64 KiB znode.
pub const MAX_DEFINITION_BYTES: usize = 60 * 1024;

/// Values of fields that a definition leaves out.
#[derive(Clone, Copy, Debug)]
pub struct Defaults {
    /// Cores.
    pub cpu: f64,
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes the container may write to its root filesystem.
    pub disk: u64,
    /// Requests one container handles at a time.
    pub concurrency: u32,
    /// Milliseconds to the response head: the minute that nginx and most clients wait.
    pub timeout_ms: u64,
    /// Milliseconds of silence in a stream: long enough for a quiet WebSocket or event stream.
    pub idle_timeout_ms: u64,
    /// Milliseconds from start to answering, pulling not counted.
    pub startup_timeout_ms: u64,
    /// Milliseconds without requests until a container is frozen.
    pub idle_pause_ms: u64,
    /// Milliseconds without requests until a container is stopped.
    pub idle_stop_ms: u64,
}

/// What every function gets unless its definition says otherwise.
pub const DEFAULTS: Defaults = Defaults {
    cpu: 1.0,
    memory: 128 * MIB,
    disk: 64 * MIB,
    concurrency: 100,
    timeout_ms: 60_000,
    idle_timeout_ms: 300_000,
    startup_timeout_ms: 30_000,
    idle_pause_ms: 30_000,
    idle_stop_ms: 600_000,
};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// A hundredth of a core is the least that the kernel's default 100 ms CPU period divides well.
pub(crate) const CPU: RangeInclusive<f64> = 0.01..=1024.0;
/// Less than 6 MiB and runc itself is killed while it starts the container.
pub(crate) const MEMORY: RangeInclusive<u64> = 6 * MIB..=16 * 1024 * GIB;
pub(crate) const DISK: RangeInclusive<u64> = 64 * KIB..=1024 * GIB;
/// A packed list of 1000 backends is 20 KB, well within one znode.
pub(crate) const INSTANCES: RangeInclusive<u64> = 1..=1000;
pub(crate) const CONCURRENCY: RangeInclusive<u64> = 1..=10_000;
pub(crate) const TIMEOUT_MS: RangeInclusive<u64> = 1..=DAY_MS;
pub(crate) const STARTUP_TIMEOUT_MS: RangeInclusive<u64> = 1..=600_000;
/// 0 means never.
pub(crate) const IDLE_MS: RangeInclusive<u64> = 0..=30 * DAY_MS;
/// Each route is a znode of the same transaction as the function.
pub(crate) const ROUTES: usize = 64;
pub(crate) const ENV_ENTRIES: usize = 512;
/// All of them travel to the container in one message of at most 2 MiB.
pub(crate) const SECRETS: usize = 30;
pub(crate) const TEXT: usize = 1024;
