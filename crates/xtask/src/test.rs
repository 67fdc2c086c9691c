//! `cargo xtask test`: builds, then runs the tests with nextest.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::build;
use crate::command::{self, cargo, is_installed, output};
use crate::packages::{Purpose, setup};

/// Installs what is missing, builds, and runs every test of the workspace.
pub(crate) fn run(filter: &[String]) -> Result<()> {
    ensure!(
        output(Command::new("id").arg("-u"))?.trim() == "0",
        "the tests make namespaces, mounts and cgroups: run them as root"
    );
    setup(Purpose::Test, false)?;
    build::for_tests()?;
    let tools = nextest()?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(
        std::iter::once(tools.join("bin")).chain(std::env::split_paths(&path)),
    )?;
    let mut nextest = cargo();
    nextest.args(["nextest", "run", "--locked", "--workspace"]);
    nextest.args(["--profile", "ci"]).args(filter);
    command::run(nextest.env("PATH", path))
}

/// Where `cargo-nextest` was installed if the machine has none.
fn nextest() -> Result<PathBuf> {
    let tools = build::target_dir().join("tools");
    if !is_installed("cargo-nextest") && !tools.join("bin/cargo-nextest").is_file() {
        eprintln!(
            "cargo-nextest is not installed; it goes into {} (some minutes, once)",
            tools.display()
        );
        command::run(
            cargo()
                .args(["install", "--locked", "cargo-nextest", "--root"])
                .arg(&tools),
        )?;
    }
    Ok(tools)
}
