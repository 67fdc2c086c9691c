//! The `process_*` metrics, read from procfs when they are scraped.
//!
//! Names and meanings are those of the Prometheus client libraries ("Writing client libraries",
//! "Process metrics"); formats are from proc(5).

use std::{
    fmt::Error,
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{TypedMetric, counter::ConstCounter, gauge::ConstGauge},
};

/// `utime` and `stime` count in USER_HZ, which is 100 on every architecture Bismuth runs on.
const TICKS_PER_SECOND: f64 = 100.0;

#[derive(Debug)]
pub(super) struct ProcessMetrics {
    started_s: f64,
}

impl ProcessMetrics {
    /// Counts from now, which is a moment after the process started.
    pub(super) fn now() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            started_s: since_epoch.map_or(0.0, |elapsed| elapsed.as_secs_f64()),
        }
    }
}

impl Collector for ProcessMetrics {
    /// What cannot be read is left out: an absent series says so better than a zero.
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut gauge = |name, help, value: Option<f64>| match value {
            Some(value) => put(&mut encoder, name, help, &ConstGauge::new(value)),
            None => Ok(()),
        };
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        gauge(
            "process_resident_memory_bytes",
            "Resident memory size in bytes",
            field(&status, "VmRSS:").map(|kib| kib * 1024.0),
        )?;
        gauge(
            "process_threads",
            "Number of threads",
            field(&status, "Threads:"),
        )?;
        gauge(
            "process_open_fds",
            "Number of open file descriptors",
            open_fds(),
        )?;
        gauge(
            "process_max_fds",
            "Maximum number of open file descriptors",
            max_fds(),
        )?;
        gauge(
            "process_start_time_seconds",
            "Start time of the process since the epoch in seconds",
            Some(self.started_s),
        )?;
        if let Some(seconds) = cpu_seconds() {
            let help = "User and system CPU time spent in seconds";
            let counter = ConstCounter::new(seconds);
            put(&mut encoder, "process_cpu_seconds", help, &counter)?;
        }
        Ok(())
    }
}

fn put<M: EncodeMetric + TypedMetric>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    metric: &M,
) -> Result<(), Error> {
    metric.encode(encoder.encode_descriptor(name, help, None, M::TYPE)?)
}

/// The number after `name` in `/proc/self/status`.
fn field(status: &str, name: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

fn open_fds() -> Option<f64> {
    // One of them is the descriptor that lists them.
    Some(
        fs::read_dir("/proc/self/fd")
            .ok()?
            .count()
            .saturating_sub(1) as f64,
    )
}

fn max_fds() -> Option<f64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    // "Max open files            1024                 524288               files"
    field(&limits, "Max open files")
}

fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the name in parentheses and may contain anything; utime and stime are
    // fields 14 and 15, so 11 and 12 after it.
    let after_name = stat.rsplit_once(')')?.1;
    let mut ticks = after_name.split_whitespace().skip(11).take(2);
    let user: f64 = ticks.next()?.parse().ok()?;
    let system: f64 = ticks.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_procfs_files_of_this_process_are_parsed() {
        let status = fs::read_to_string("/proc/self/status").expect("proc is mounted");
        assert!(field(&status, "VmRSS:").expect("it has memory") > 100.0);
        assert!(field(&status, "Threads:").expect("it has threads") >= 1.0);
        assert!(open_fds().expect("it has descriptors") >= 3.0);
        assert!(max_fds().expect("they are limited") >= 3.0);
        assert!(cpu_seconds().expect("it was on a core") >= 0.0);
    }
}
