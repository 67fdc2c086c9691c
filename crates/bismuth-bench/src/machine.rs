//! Processor time, memory, and the load of the machine by others.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// Long enough to tell a busy neighbour from a timer tick.
const LOOK: Duration = Duration::from_secs(1);

/// Processor time of all cores since boot, from `/proc/stat`: proc_stat(5).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cpu {
    idle: u64,
    total: u64,
}

impl Cpu {
    fn now() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
        Self::parse(&text).context("/proc/stat does not begin with the sum of all cores")
    }

    fn parse(text: &str) -> Option<Self> {
        let line = text.lines().next()?.strip_prefix("cpu ")?;
        // user nice system idle iowait irq softirq steal; what follows is contained in these.
        let ticks: Vec<u64> = line
            .split_whitespace()
            .take(8)
            .map_while(|word| word.parse().ok())
            .collect();
        let idle = ticks.get(3)? + ticks.get(4)?;
        Some(Self {
            idle,
            total: ticks.iter().sum(),
        })
    }

    fn busy_since(self, earlier: Self) -> f64 {
        let total = self.total.saturating_sub(earlier.total).max(1);
        let idle = self.idle.saturating_sub(earlier.idle);
        1.0 - idle as f64 / total as f64
    }

    /// Kernel, cores and load averages.
    pub(crate) fn describe() -> Result<String> {
        let read = |path: &str| fs::read_to_string(path).with_context(|| format!("read {path}"));
        let kernel = read("/proc/sys/kernel/osrelease")?;
        let load = read("/proc/loadavg")?;
        let load: Vec<&str> = load.split_whitespace().take(3).collect();
        Ok(format!(
            "Linux {}, {} cores, load {}",
            kernel.trim(),
            cores(),
            load.join(" ")
        ))
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// How many cores others keep busy while we do nothing for a moment.
pub(crate) async fn busy_elsewhere() -> Result<f64> {
    let before = Cpu::now()?;
    tokio::time::sleep(LOOK).await;
    Ok(Cpu::now()?.busy_since(before) * cores() as f64)
}

/// Processor time that the threads which these processes have now have used since they began.
pub(crate) fn cpu_time(pids: &[u32]) -> Result<Duration> {
    let mut sum = Duration::ZERO;
    for pid in pids {
        let dir = format!("/proc/{pid}/task");
        for thread in fs::read_dir(&dir).with_context(|| format!("list {dir}"))? {
            let path = thread?.path().join("schedstat");
            // A thread may end between the listing and the look.
            let Ok(text) = fs::read_to_string(&path) else {
                continue;
            };
            let nanoseconds = text.split_whitespace().next().and_then(|n| n.parse().ok());
            sum += Duration::from_nanos(
                nanoseconds
                    .with_context(|| format!("{} does not begin with a number", path.display()))?,
            );
        }
    }
    Ok(sum)
}

/// What a process has in memory, in MiB: `VmRSS` of proc_pid_status(5).
pub(crate) fn resident(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    Ok(kib.with_context(|| format!("{path} has no VmRSS"))? / 1024.0)
}

/// The children of a process with one thread.
pub(crate) fn children(pid: u32) -> Result<Vec<u32>> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let pids = text.split_whitespace().map(str::parse);
    pids.collect::<Result<_, _>>()
        .with_context(|| format!("{path} lists no numbers"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iowait_is_not_counted_as_busy() {
        let at = |text| Cpu::parse(text).unwrap();
        let before = at("cpu  100 0 100 1000 50 0 0 0 7 7\ncpu0 1 1 1\n");
        let after = at("cpu  110 0 110 1030 100 0 0 0 9 9\n");
        assert!((after.busy_since(before) - 0.2).abs() < 1e-9);
        assert!(Cpu::parse("cpu0 1 2 3 4 5").is_none());
    }

    #[test]
    fn the_cpu_time_of_this_process_grows() {
        assert!(cpu_time(&[std::process::id()]).unwrap() > Duration::ZERO);
        assert!(resident(std::process::id()).unwrap() > 0.1);
    }
}
