//! Source checks: no shelling out to `ip`, `mount` and the like, `unsafe` in two crates only.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command::{output, report, root};

/// Programs that no source of ours may start: what they do is done by system call, netlink or gRPC.
const NOT_SHELLED_OUT_TO: [&str; 10] = [
    "ctr", "runc", "crun", "ip", "tc", "nft", "iptables", "nsenter", "mount", "umount",
];
/// Crates with `unsafe` code.
const UNSAFE: [&str; 2] = ["crates/bismuth-sandbox", "crates/bismuth-init"];
/// Crates that start other programs for a living.
const STARTERS: [&str; 3] = [
    "crates/bismuth-testkit",
    "crates/bismuth-bench",
    "crates/xtask",
];

/// Reads every source and reports every line that should not be.
pub(crate) fn check() -> Result<()> {
    let mut violations = Vec::new();
    for (path, text) in rust_sources()? {
        for (number, line) in text.lines().enumerate() {
            if let Some(violation) = violation(&path, line) {
                violations.push(format!("{}:{}: {violation}", path.display(), number + 1));
            }
        }
    }
    report(&violations)
}

fn violation(path: &Path, line: &str) -> Option<String> {
    let of_any = |crates: &[&str]| crates.iter().any(|name| path.starts_with(name));
    let unsafe_allowed = concat!("allow(", "unsafe_code)");
    if line.contains(unsafe_allowed) && !of_any(&UNSAFE) {
        return Some(format!("{unsafe_allowed} outside {}", UNSAFE.join(" and ")));
    }
    let in_source = path.components().any(|part| part.as_os_str() == "src");
    if !in_source || of_any(&STARTERS) {
        return None;
    }
    let started = NOT_SHELLED_OUT_TO
        .iter()
        .find(|program| line.contains(&format!("Command::new(\"{program}\")")));
    started.map(|program| format!("shells out to {program}"))
}

/// Path, relative to the root, and text of every `.rs` file that git knows.
pub(crate) fn rust_sources() -> Result<Vec<(PathBuf, String)>> {
    let mut list = Command::new("git");
    list.args(["ls-files", "*.rs"]).current_dir(root());
    let list = output(&mut list)?;
    let paths = list.lines().filter(|path| root().join(path).is_file());
    let read = |path: &str| {
        let text = fs::read_to_string(root().join(path)).with_context(|| format!("read {path}"))?;
        Ok((PathBuf::from(path), text))
    };
    paths.map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_starts_ip_is_found_out() {
        let line = "    Command::new(\"ip\").arg(\"link\")";
        assert!(violation(Path::new("bismuthd/src/net.rs"), line).is_some());
        assert!(violation(Path::new("crates/bismuth-testkit/src/net.rs"), line).is_none());
        assert!(violation(Path::new("bismuthd/tests/net.rs"), line).is_none());
    }

    #[test]
    fn unsafe_code_is_allowed_in_two_crates() {
        let line = concat!("#![allow(", "unsafe_code)]");
        assert!(violation(Path::new("bismuthd/src/lib.rs"), line).is_some());
        assert!(violation(Path::new("crates/bismuth-init/src/lib.rs"), line).is_none());
    }
}
