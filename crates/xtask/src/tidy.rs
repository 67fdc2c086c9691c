//! `cargo xtask tidy`: runs the checks that a change must pass.

use std::process::Command;

use anyhow::{Result, bail};

use crate::command::{cargo, is_installed, root, run as start};
use crate::{cycles, dependencies, sources, words};

type Check = fn() -> Result<()>;

/// Runs the checks of these names, or every one, and reports all that failed.
pub(crate) fn run(only: &[String]) -> Result<()> {
    let checks: [(&str, Check); 9] = [
        ("format", || {
            start(cargo().args(["fmt", "--all", "--check"]))
        }),
        ("lints", lints),
        ("docs", docs),
        ("arrows", dependencies::check),
        ("sources", sources::check),
        ("circles", cycles::check),
        ("words", words::check),
        ("scripts", scripts),
        ("deny.toml", deny),
    ];
    let is_meant = |name: &str| only.is_empty() || only.iter().any(|one| one == name);
    let names = checks.map(|(name, _)| name);
    if let Some(unknown) = only.iter().find(|one| !names.contains(&one.as_str())) {
        bail!(
            "there is no check {unknown:?}; there are {}",
            names.join(", ")
        );
    }
    let mut failed = Vec::new();
    for (name, check) in checks.into_iter().filter(|(name, _)| is_meant(name)) {
        if let Err(error) = check() {
            eprintln!("tidy: {name}: {error:#}");
            failed.push(name);
        }
    }
    if failed.is_empty() {
        Ok(())
    } else {
        bail!("not tidy: {}", failed.join(", "))
    }
}

fn lints() -> Result<()> {
    let mut clippy = cargo();
    clippy.args(["clippy", "--locked", "--workspace", "--all-targets"]);
    start(clippy.args(["--", "--deny", "warnings"]))
}

fn docs() -> Result<()> {
    start(
        cargo()
            .args(["doc", "--locked", "--workspace", "--no-deps"])
            .env("RUSTDOCFLAGS", "--deny warnings"),
    )
}

fn scripts() -> Result<()> {
    for script in [
        "bootstrap.sh",
        "start_all.sh",
        "scripts/services.sh",
        ".ci/run",
    ] {
        let mut bash = Command::new("bash");
        start(bash.args(["-n", script]).current_dir(root()))?;
    }
    Ok(())
}

/// `cargo-deny` takes minutes to build, so it is used where it is installed (CI installs it); `arrows` restricts the same libraries.
fn deny() -> Result<()> {
    if !is_installed("cargo-deny") {
        eprintln!("tidy: cargo-deny is not installed: licences and sources are not checked");
        return Ok(());
    }
    start(
        cargo()
            .args(["deny", "--workspace", "check"])
            .args(["bans", "licenses", "sources"]),
    )
}
