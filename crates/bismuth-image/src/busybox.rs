//! A small Linux made of one static busybox, and the demonstration image on top of it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{Builder, Image};

/// Where the programs of these images are.
pub const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A small Linux: the static busybox at `program` with every applet, the mount points a container needs, two users.
///
/// # Errors
///
/// When `program` cannot be read or lists no applets.
pub fn busybox(program: &Path) -> Result<Builder> {
    let content = fs::read(program).with_context(|| format!("read {}", program.display()))?;
    let list = Command::new(program)
        .arg("--list-full")
        .output()
        .context("list busybox's applets")?;
    ensure!(
        list.status.success(),
        "busybox --list-full: {}",
        list.status
    );
    let applets = String::from_utf8(list.stdout).context("the names of busybox's applets")?;
    let mut image = mount_points(Image::builder())
        .file("bin/busybox", 0o755, &content)
        .file(
            "etc/passwd",
            0o644,
            b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
        )
        .file("etc/group", 0o644, b"root:x:0:\nnogroup:x:65534:\n")
        .dir("root", 0o700)
        .env("PATH", SEARCH_PATH);
    for applet in applets.lines().filter(|applet| *applet != "bin/busybox") {
        image = image.symlink(applet, "/bin/busybox");
    }
    Ok(image)
}

/// The image of the demonstration: busybox, with a page for its web server to serve.
///
/// # Errors
///
/// As [`busybox`].
pub fn demo(program: &Path) -> Result<Image> {
    busybox(program)?
        .layer()
        .file("srv/index.html", 0o644, b"Hello from a server function.\n")
        .file(
            "bin/hello",
            0o755,
            b"#!/bin/sh\necho \"Hello from an exec function: $REQUEST_METHOD $PATH_INFO\"\n",
        )
        .build()
}

/// A root that is mounted read-only or with mapped ids can get no new directories, so these must be there.
#[must_use]
pub fn mount_points(image: Builder) -> Builder {
    ["proc", "sys", "dev", "etc", "run", "var"]
        .into_iter()
        .fold(image, |image, dir| image.dir(dir, 0o755))
        .dir("tmp", 0o1777)
}
