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

use crate::command::{cargo, output};

/// A crate of ours and those of ours that it may depend on.
const ALLOWED: &[(&str, &[&str])] = &[
    (
        "bismuthfe",
        &[
            "bismuth-model",
            "bismuth-coord",
            "bismuth-registry",
            "bismuth-daemon",
            "bismuth-http",
        ],
    ),
    (
        "bismuthd",
        &[
            "bismuth-model",
            "bismuth-coord",
            "bismuth-registry",
            "bismuth-daemon",
            "bismuth-http",
            "bismuth-containerd",
            "bismuth-sandbox",
            "bismuth-init",
            "bismuth-handover",
        ],
    ),
    (
        "bismuth-api",
        &[
            "bismuth-model",
            "bismuth-coord",
            "bismuth-registry",
            "bismuth-daemon",
            "bismuth-http",
            "bismuth-operator",
        ],
    ),
    (
        "bismuthctl",
        &[
            "bismuth-model",
            "bismuth-coord",
            "bismuth-registry",
            "bismuth-http",
            "bismuth-operator",
            "bismuth-containerd",
        ],
    ),
    (
        "svcprovider",
        &[
            "bismuth-model",
            "bismuth-coord",
            "bismuth-registry",
            "bismuth-daemon",
            "bismuth-http",
            "bismuth-handover",
            "bismuth-store",
        ],
    ),
    ("bismuth-base", &[]),
    ("bismuth-model", &[]),
    ("bismuth-coord", &[]),
    ("bismuth-registry", &["bismuth-model", "bismuth-coord"]),
    ("bismuth-daemon", &[]),
    ("bismuth-http", &[]),
    ("bismuth-containerd", &["bismuth-model"]),
    ("bismuth-sandbox", &[]),
    ("bismuth-init", &[]),
    ("bismuth-handover", &["bismuth-model"]),
    ("bismuth-operator", &["bismuth-model"]),
    ("bismuth-store", &[]),
    ("bismuth-image", &[]),
    (
        "bismuth-testkit",
        &[
            "bismuth-model",
            "bismuth-coord",
            "bismuth-registry",
            "bismuth-image",
        ],
    ),
    ("echo-server", &[]),
    ("s3-server", &[]),
    (
        "bismuth-bench",
        &[
            "bismuth-model",
            "bismuth-coord",
            "bismuth-registry",
            "bismuth-handover",
            "bismuth-testkit",
        ],
    ),
    ("xtask", &["bismuth-image"]),
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
    let violations = violations(&dependencies(&metadata)?);
    if violations.is_empty() {
        Ok(())
    } else {
        bail!("{}", violations.join("\n"))
    }
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
            let allowed = FOR_ALL.contains(&to.as_str())
                || ALLOWED
                    .iter()
                    .find(|(name, _)| name == from)
                    .is_some_and(|(_, allowed)| allowed.contains(&to.as_str()));
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

    fn dependency(from: &str, to: &str, dev: bool) -> Vec<Dependency> {
        vec![Dependency {
            from: from.into(),
            to: to.into(),
            dev,
        }]
    }

    #[test]
    fn a_dependency_may_only_be_one_that_the_table_allows() {
        assert!(violations(&dependency("bismuth-registry", "bismuth-coord", false)).is_empty());
        assert_eq!(
            violations(&dependency("bismuth-coord", "bismuth-registry", false)).len(),
            1
        );
        assert_eq!(
            violations(&dependency("bismuthfe", "bismuth-sandbox", false)).len(),
            1
        );
    }

    #[test]
    fn any_crate_may_use_base_and_base_uses_none() {
        assert!(violations(&dependency("bismuth-model", "bismuth-base", false)).is_empty());
        assert_eq!(
            violations(&dependency("bismuth-base", "bismuth-model", false)).len(),
            1
        );
    }

    #[test]
    fn the_testkit_is_for_tests_only() {
        assert!(violations(&dependency("bismuth-coord", "bismuth-testkit", true)).is_empty());
        assert_eq!(
            violations(&dependency("bismuth-coord", "bismuth-testkit", false)).len(),
            1
        );
    }

    #[test]
    fn a_restricted_library_is_named_by_its_crate_only() {
        assert!(violations(&dependency("bismuth-coord", "zookeeper-client", false)).is_empty());
        assert_eq!(
            violations(&dependency("bismuthd", "zookeeper-client", false)).len(),
            1
        );
    }
}
