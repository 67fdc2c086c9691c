//! Runs wrk, the load generator, and parses its output.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

/// What `wrk` says of one path.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct WrkResult {
    pub(crate) requests: u64,
    pub(crate) per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

/// One run of it, and what the measured processes used of the processor meanwhile.
pub(crate) struct Turn {
    pub(crate) load: WrkResult,
    pub(crate) cpu: Duration,
}

impl Turn {
    pub(crate) fn cpu_us(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.load.requests.max(1) as f64
    }
}

/// Asks for `url` over and over on that many connections.
pub(crate) async fn load(url: &str, connections: u32, each: Duration) -> Result<WrkResult> {
    let output = Command::new("wrk")
        .args(["--threads", "1", "--latency"])
        .args(["--connections", &connections.to_string()])
        .args(["--duration", &format!("{}s", each.as_secs()), url])
        .kill_on_drop(true)
        .output()
        .await
        .context("run wrk")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "wrk: {}\n{text}", output.status);
    read(&text).with_context(|| format!("load {url}"))
}

/// What wrk has written, of a run in which every request was answered well.
pub(crate) fn read(text: &str) -> Result<WrkResult> {
    let failed = text.contains("Non-2xx") || text.contains("Socket errors");
    ensure!(!failed, "not every request is answered well:\n{text}");
    parse(text).with_context(|| format!("the output of wrk:\n{text}"))
}

/// The lines `    50%   70.00us`, `  123 requests in 2.00s, 1.1MB read` and `Requests/sec:  12345.67`.
fn parse(text: &str) -> Option<WrkResult> {
    let after = |start: &str| {
        let mut lines = text.lines().map(str::trim);
        lines.find_map(|line| Some(line.strip_prefix(start)?.trim()))
    };
    let mut lines = text.lines().map(str::trim);
    let requests = lines.find_map(|line| line.split_once(" requests in "))?.0;
    Some(WrkResult {
        requests: requests.parse().ok()?,
        per_second: after("Requests/sec:")?.parse().ok()?,
        p50_us: microseconds(after("50%")?)?,
        p99_us: microseconds(after("99%")?)?,
    })
}

fn microseconds(text: &str) -> Option<f64> {
    let (digits, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic())?);
    let scale = match unit {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        _ => return None,
    };
    Some(digits.parse::<f64>().ok()? * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_of_wrk_is_parsed() {
        let text = "  Latency Distribution\n     50%  254.00us\n     75%    1.1ms\n     99%    1.50ms\n\
            \x20 100247 requests in 2.00s, 1.1MB read\nRequests/sec:  50123.45\n";
        let load = WrkResult {
            requests: 100_247,
            per_second: 50123.45,
            p50_us: 254.0,
            p99_us: 1500.0,
        };
        assert_eq!(parse(text), Some(load));
        assert_eq!(parse("no numbers"), None);
    }
}
