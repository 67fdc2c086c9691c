//! Builds the programs, and statically linked what runs inside containers.
//!
//! ```text
//! target/<profile>/bismuthd …            the five programs
//! target/<profile>/static/bismuth-init   process 1 of exec containers
//! target/<profile>/static/echo-server    the function that tests deploy
//! ```
//!
//! A container's image may have no C library, so the last two are linked statically. They have a directory of their own
//! because cargo puts the dynamic `bismuth-init` back into `target/<profile>` on every build.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command::{cargo, find, output, root, run};
use crate::packages::{Purpose, setup};

const PROGRAMS: [&str; 5] = [
    "bismuthfe",
    "bismuthd",
    "bismuth-api",
    "bismuthctl",
    "svcprovider",
];
/// Runs inside containers.
const INIT: &str = "bismuth-init";
/// Runs inside the containers of tests and benchmarks.
const ECHO_SERVER: &str = "echo-server";

/// Builds what `start_all.sh` runs and nothing else. A later build of the whole workspace compiles none of it again.
pub(crate) fn programs(release: bool) -> Result<()> {
    let mut programs = cargo();
    programs.args(["build", "--locked", "--bins"]);
    programs.args(PROGRAMS.iter().flat_map(|name| ["--package", name]));
    if release {
        programs.arg("--release");
    }
    run(&mut programs)?;
    static_programs(&[INIT], release)
}

/// Builds everything that the tests need.
pub(crate) fn for_tests() -> Result<()> {
    run(cargo().args(["build", "--locked", "--workspace", "--bins", "--tests"]))?;
    in_containers(false)
}

/// Builds what runs inside the containers of tests and benchmarks.
pub(crate) fn in_containers(release: bool) -> Result<()> {
    static_programs(&[INIT, ECHO_SERVER], release)
}

/// Links these programs statically. Always optimised: they are small, and every start of a container pays for them.
fn static_programs(programs: &[&str], release: bool) -> Result<()> {
    let target = host_triple()?;
    let flags = format!(
        "CARGO_TARGET_{}_RUSTFLAGS",
        target.to_uppercase().replace('-', "_")
    );
    let mut build = cargo();
    build
        .args(["build", "--locked", "--release", "--target", &target])
        .args(
            programs
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
    for program in programs {
        replace(&built.join(program), &kept.join(program))?;
    }
    Ok(())
}

/// Runs the benchmarks on optimised programs.
pub(crate) fn bench(args: &[String]) -> Result<()> {
    setup(Purpose::Bench, false)?;
    run(cargo().args(["build", "--locked", "--release", "--workspace", "--bins"]))?;
    in_containers(true)?;
    run(Command::new(target_dir().join("release/bismuth-bench")).args(args))
}

/// Writes the demonstration's image as an OCI archive.
pub(crate) fn demo_image(output: &Path) -> Result<()> {
    let busybox =
        find("busybox").context("busybox is not installed; `cargo xtask setup` installs it")?;
    bismuth_image::demo(&busybox)?.write_archive(output, "docker.io/library/bismuth-demo:latest")
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
