//! Allowed dependencies between crates, and the crates that may use restricted libraries.
//!
//! ```text
//! binaries ──► registry ──► model
//!    │            └───────► coord
//!    └──► daemon  http  handover  operator  store  containerd  sandbox  init (each stands alone; model is vocabulary for all)
//! ```
//!
//! Below all of them is base, which any of them may use.
//!
//! `deny.toml` says the same about restricted libraries to those who use `cargo deny`.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::command::{cargo, output, report};

/// A crate of ours, and those of ours that it may depend on, without their `bismuth-`.
const ALLOWED: &[(&str, &str)] = &[
    ("bismuthfe", "model coord registry daemon http"),
    (
        "bismuthd",
        "model coord registry daemon http containerd sandbox init handover",
    ),
    ("bismuth-api", "model coord registry daemon http operator"),
    (
        "bismuthctl",
        "model coord registry http operator containerd",
    ),
    (
        "svcprovider",
        "model coord registry daemon http handover store",
    ),
    ("bismuth-base", ""),
    ("bismuth-model", ""),
    ("bismuth-coord", ""),
    ("bismuth-registry", "model coord"),
    ("bismuth-daemon", ""),
    ("bismuth-http", ""),
    ("bismuth-containerd", "model"),
    ("bismuth-sandbox", ""),
    ("bismuth-init", ""),
    ("bismuth-handover", "model"),
    ("bismuth-operator", "model"),
    ("bismuth-store", ""),
    ("bismuth-image", ""),
    ("bismuth-testkit", "model coord registry image"),
    ("echo-server", ""),
    ("s3-server", ""),
    ("bismuth-bench", "model handover testkit"),
    ("xtask", "image"),
];

/// Every other crate may use these.
const FOR_ALL: &[&str] = &["bismuth-base"];

/// Every crate's tests may use these as well: svcprovider's ask it in the way of its clients.
const FOR_TESTS: &[&str] = &["bismuth-testkit", "bismuth-operator"];

/// A library that reaches an outside system, and the only crates that may name it.
const RESTRICTED: &[(&str, &[&str])] = &[
    ("zookeeper-client", &["bismuth-coord"]),
    (
        "containerd-client",
        &["bismuth-containerd", "bismuth-testkit"],
    ),
    ("tonic", &["bismuth-containerd"]),
    ("oci-client", &["bismuth-containerd"]),
    ("bincode", &["bismuth-registry"]),
    ("libc", &["bismuth-sandbox", "bismuth-init"]),
    ("netlink-packet-core", &["bismuth-sandbox"]),
    ("netlink-packet-route", &["bismuth-sandbox"]),
    ("rtnetlink", &["bismuth-sandbox"]),
    ("nftables", &["bismuth-sandbox"]),
    ("axum", &["bismuth-api"]),
    ("redb", &["bismuth-store"]),
    ("tokio-postgres", &["bismuth-store"]),
    ("deadpool-postgres", &["bismuth-store"]),
    ("object_store", &["bismuth-store"]),
    ("s3s", &["s3-server"]),
    ("s3s-fs", &["s3-server"]),
];

/// Reads the workspace's metadata and reports every dependency that is not allowed.
pub(crate) fn check() -> Result<()> {
    let metadata =
        output(cargo().args(["metadata", "--locked", "--no-deps", "--format-version", "1"]))?;
    let metadata: Value =
        serde_json::from_str(&metadata).context("parse the output of cargo metadata")?;
    report(&violations(&dependencies(&metadata)?))
}

/// One line of a crate's manifest.
#[derive(Debug)]
struct Dependency {
    from: String,
    to: String,
    /// Only for tests, examples and benchmarks.
    dev: bool,
}

fn dependencies(metadata: &Value) -> Result<Vec<Dependency>> {
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata lists no packages")?;
    let mut found = Vec::new();
    for package in packages {
        let from = package["name"]
            .as_str()
            .context("a package without a name")?;
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let to = dependency["name"]
                .as_str()
                .context("a dependency without a name")?;
            let dev = dependency["kind"].as_str() == Some("dev");
            found.push(Dependency {
                from: from.into(),
                to: to.into(),
                dev,
            });
        }
        if !ALLOWED.iter().any(|(name, _)| *name == from) {
            bail!(
                "{from} is not in the table of crates/xtask/src/dependencies.rs: say what it may depend on"
            );
        }
    }
    Ok(found)
}

fn violations(dependencies: &[Dependency]) -> Vec<String> {
    let ours: BTreeSet<&str> = ALLOWED.iter().map(|(name, _)| *name).collect();
    let mut violations = Vec::new();
    for Dependency { from, to, dev } in dependencies {
        if ours.contains(to.as_str()) {
            let allowed = ALLOWED.iter().filter(|(name, _)| name == from);
            let mut allowed = allowed.flat_map(|(_, allowed)| allowed.split_whitespace());
            let short = to.trim_start_matches("bismuth-");
            let allowed = FOR_ALL.contains(&to.as_str()) || allowed.any(|name| name == short);
            // A crate may turn on features of its own fake for its tests.
            let for_tests = *dev && (FOR_TESTS.contains(&to.as_str()) || from == to);
            if !allowed && !for_tests {
                violations.push(format!("{from} may not depend on {to}"));
            }
        }
        let restriction = RESTRICTED.iter().find(|(name, _)| name == to);
        if let Some((_, inside)) =
            restriction.filter(|(_, inside)| !inside.contains(&from.as_str()) && !dev)
        {
            violations.push(format!(
                "{to} is restricted to {}; {from} names it",
                inside.join(" and ")
            ));
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dependency_may_only_be_one_that_the_tables_allow() {
        let (code, tests) = (false, true);
        for (from, to, dev, is_allowed) in [
            ("bismuth-registry", "bismuth-coord", code, true),
            ("bismuth-coord", "bismuth-registry", code, false),
            ("bismuthfe", "bismuth-sandbox", code, false),
            // Any crate may use base, and base uses none.
            ("bismuth-model", "bismuth-base", code, true),
            ("bismuth-base", "bismuth-model", code, false),
            // The testkit is for tests.
            ("bismuth-coord", "bismuth-testkit", tests, true),
            ("bismuth-coord", "bismuth-testkit", code, false),
            // A restricted library is named by its crate only.
            ("bismuth-coord", "zookeeper-client", code, true),
            ("bismuthd", "zookeeper-client", code, false),
        ] {
            let dependency = Dependency {
                from: from.into(),
                to: to.into(),
                dev,
            };
            let found = violations(&[dependency]);
            let expected = usize::from(!is_allowed);
            assert_eq!(found.len(), expected, "{from} -> {to}: {found:?}");
        }
    }
}
