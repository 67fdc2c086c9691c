//! Building: the workspace as usual, and what runs inside containers linked statically.
//!
//! ```text
//! target/<profile>/bismuthd …            cargo build --workspace
//! target/<profile>/static/bismuth-init   the agent of exec containers
//! target/<profile>/static/echo-server    the function that tests deploy
//! ```
//!
//! A container's image may have no C library, so these two bring theirs. They have a directory of their own
//! because cargo puts the dynamic `bismuth-init` back into `target/<profile>` on every build.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command::{cargo, output, root, run};

const STATIC_PROGRAMS: [&str; 2] = ["bismuth-init", "echo-server"];

/// Builds everything.
pub(crate) fn all(release: bool) -> Result<()> {
    let mut workspace = cargo();
    workspace.args(["build", "--locked", "--workspace", "--bins"]);
    if release {
        workspace.arg("--release");
    }
    run(&mut workspace)?;
    static_programs(release)
}

/// Builds everything that the tests need. Tests and programs in one call, because tests turn on features of
/// libraries: apart, those would be compiled twice.
pub(crate) fn for_tests() -> Result<()> {
    run(cargo().args(["build", "--locked", "--workspace", "--bins", "--tests"]))?;
    static_programs(false)
}

/// Builds what runs inside containers. Always optimised: it is small, and every start of a container pays for it.
pub(crate) fn static_programs(release: bool) -> Result<()> {
    let target = host_triple()?;
    let flags = format!(
        "CARGO_TARGET_{}_RUSTFLAGS",
        target.to_uppercase().replace('-', "_")
    );
    let mut build = cargo();
    build
        .args(["build", "--locked", "--release", "--target", &target])
        .args(
            STATIC_PROGRAMS
                .iter()
                .flat_map(|program| ["--package", program, "--bin", program]),
        )
        .env(flags, "-C target-feature=+crt-static")
        .env_remove("RUSTFLAGS") // it would win over the variable above
        .env("CARGO_PROFILE_RELEASE_STRIP", "true");
    run(&mut build)?;
    let built = target_dir().join(&target).join("release");
    let kept = target_dir()
        .join(if release { "release" } else { "debug" })
        .join("static");
    fs::create_dir_all(&kept).with_context(|| format!("create {}", kept.display()))?;
    for program in STATIC_PROGRAMS {
        replace(&built.join(program), &kept.join(program))?;
    }
    Ok(())
}

/// Runs the benchmarks on optimised programs.
pub(crate) fn bench(args: &[String]) -> Result<()> {
    crate::packages::setup(true, false)?;
    all(true)?;
    run(Command::new(target_dir().join("release/bismuth-bench")).args(args))
}

/// Writes the demonstration's image; the testkit knows how images are made.
pub(crate) fn demo_image(output: &Path) -> Result<()> {
    let output =
        std::path::absolute(output).with_context(|| format!("resolve {}", output.display()))?;
    run(cargo()
        .args([
            "run",
            "--locked",
            "--quiet",
            "--package",
            "bismuth-testkit",
            "--bin",
            "demo-image",
            "--",
        ])
        .arg(output))
}

/// Where cargo builds.
pub(crate) fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// Copies beside and renames over, because the old program may be running in a container.
fn replace(from: &Path, to: &Path) -> Result<()> {
    let mut beside = OsString::from(to);
    beside.push(".new");
    let act = || format!("copy {} to {}", from.display(), to.display());
    fs::copy(from, &beside).with_context(act)?;
    fs::rename(&beside, to).with_context(act)
}

fn host_triple() -> Result<String> {
    let version = output(
        Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())).arg("-vV"),
    )?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("`rustc -vV` names no host")?.to_owned())
}
