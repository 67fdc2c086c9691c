//! The Debian packages that building, running, tests and benchmarks need.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail, ensure};

use crate::command::{is_installed, output, run};

/// A thing that must be there, and the Debian package it comes in.
struct Need {
    /// A program's name, or an absolute path.
    what: &'static str,
    package: &'static str,
    purpose: &'static str,
}

const fn need(what: &'static str, package: &'static str, purpose: &'static str) -> Need {
    Need {
        what,
        package,
        purpose,
    }
}

/// For `build` and the scripts.
const RUN_NEEDS: &[Need] = &[
    need("cc", "build-essential", "links Rust programs"),
    need("protoc", "protobuf-compiler", "compiles containerd's API"),
    need(
        "/usr/include/google/protobuf/any.proto",
        "libprotobuf-dev",
        "is imported by containerd's API",
    ),
    need("containerd", "containerd", "runs containers"),
    need("runc", "runc", "starts containers"),
    need("crun", "crun", "starts containers faster"),
    need("java", "default-jre-headless", "runs ZooKeeper"),
    need(
        "/usr/share/java/zookeeper.jar",
        "libzookeeper-java",
        "is ZooKeeper",
    ),
    need(
        "busybox",
        "busybox-static",
        "fills the images of tests and the demonstration",
    ),
    need("curl", "curl", "shows what the scripts have started"),
];

/// For `test`, on top.
const TEST_NEEDS: &[Need] = &[
    need("setpriv", "util-linux", "ties test processes to the test"),
    need(
        "docker-registry",
        "docker-registry",
        "serves images to tests",
    ),
    need("skopeo", "skopeo", "writes images as others do, for tests"),
    need("openssl", "openssl", "makes certificates for tests"),
    need("strace", "strace", "tells tests what was forced to disk"),
    need(
        "/usr/lib/postgresql/15/bin/initdb",
        "postgresql",
        "keeps records in tests",
    ),
    need("mmdebstrap", "mmdebstrap", "makes a Python image for tests"),
    need("git", "git", "lists the sources that tidy reads"),
];

/// For `bench`, on top of those.
const BENCH_NEEDS: &[Need] = &[
    need("wrk", "wrk", "makes load"),
    need("nginx", "nginx-light", "is what we compare with"),
];

/// What the machine is made ready for. Each includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Purpose {
    /// Building, and running the scripts.
    Run,
    /// The tests and tidy.
    Test,
    /// The benchmarks.
    Bench,
}

impl Purpose {
    fn needs(self) -> impl Iterator<Item = &'static Need> {
        let all = [
            (Self::Run, RUN_NEEDS),
            (Self::Test, TEST_NEEDS),
            (Self::Bench, BENCH_NEEDS),
        ];
        all.into_iter()
            .filter(move |(purpose, _)| *purpose <= self)
            .flat_map(|(_, needs)| needs)
    }
}

/// Installs what is missing, or says what is.
pub(crate) fn setup(purpose: Purpose, check: bool) -> Result<()> {
    let missing = missing(purpose);
    if missing.is_empty() {
        eprintln!("Everything needed is installed.");
        return Ok(());
    }
    for need in &missing {
        eprintln!(
            "missing: {} ({}; Debian package {})",
            need.what, need.purpose, need.package
        );
    }
    ensure!(
        !check,
        "{} things are missing; `cargo xtask setup` installs them on Debian",
        missing.len()
    );
    if !is_installed("apt-get") {
        bail!("this is not Debian or Ubuntu: install the above with your own package manager");
    }
    let packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
    install(&packages)?;
    if let Some(Need { what, package, .. }) = self::missing(purpose).first() {
        bail!("{what} is still missing after installing {package}");
    }
    Ok(())
}

fn missing(purpose: Purpose) -> Vec<&'static Need> {
    let is_missing = |need: &&Need| match need.what.starts_with('/') {
        true => !Path::new(need.what).exists(),
        false => !is_installed(need.what),
    };
    purpose.needs().filter(is_missing).collect()
}

fn install(packages: &[&str]) -> Result<()> {
    let no_lists = || fs::read_dir("/var/lib/apt/lists").map_or(0, Iterator::count) <= 2; // `lock`, `partial`
    if no_lists() {
        run(apt()?.arg("update"))?;
    }
    run(apt()?
        .args(["install", "--yes", "--no-install-recommends"])
        .args(packages))
}

/// `apt-get`, through `sudo` when we are not root; it asks nothing.
fn apt() -> Result<Command> {
    let root = output(Command::new("id").arg("-u"))?.trim() == "0";
    let mut command = Command::new(if root { "env" } else { "sudo" });
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet"]);
    Ok(command)
}
