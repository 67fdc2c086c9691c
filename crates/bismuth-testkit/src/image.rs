//! The images that tests run. None needs a container registry to exist.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use bismuth_image::{SEARCH_PATH, mount_points};

use crate::process::find;

pub use bismuth_image::{Blob, Builder, Compression, Image, architecture};

/// A small Linux from the machine's static busybox, see [`bismuth_image::busybox`].
/// Fails when `busybox-static` is not installed.
pub fn busybox() -> Result<Image> {
    small_linux()?.build()
}

/// [`busybox`] with the settings that Alpine's image has: a `PATH`, and a shell as the command.
pub fn alpine() -> Result<Image> {
    let id = b"NAME=\"Alpine Linux\"\nID=alpine\n";
    small_linux()?
        .file("etc/os-release", 0o644, id)
        .cmd(&["/bin/sh"])
        .build()
}

/// [`busybox`] with one of the machine's own programs at `/usr/bin`, and the shared libraries that it needs.
/// Fails when it is not installed, is static, or `ldd` cannot tell its libraries.
pub fn with_program(name: &str) -> Result<Builder> {
    let program = find(Path::new(name))?;
    let listed = Command::new("ldd").arg(&program).output();
    let listed = listed.with_context(|| format!("ldd {}", program.display()))?;
    ensure!(
        listed.status.success(),
        "ldd {}: {}",
        program.display(),
        listed.status
    );
    let content = |path: &Path| fs::read(path).with_context(|| format!("read {}", path.display()));
    let listed = String::from_utf8(listed.stdout).context("the output of ldd")?;
    let image = small_linux()?
        .layer()
        .file(&format!("usr/bin/{name}"), 0o755, &content(&program)?);
    libraries(&listed).try_fold(image, |image, path| {
        let library = content(Path::new(path))?;
        Ok(image.file(path.trim_start_matches('/'), 0o755, &library))
    })
}

/// The paths in lines like `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)` and `/lib64/ld-linux-x86-64.so.2 (0x…)`.
fn libraries(ldd: &str) -> impl Iterator<Item = &str> {
    let words = ldd.lines().map(str::split_whitespace);
    words.filter_map(|mut words| words.find(|word| word.starts_with('/')))
}

/// Our static test server alone, at `/echo-server`, as the entrypoint.
/// Fails when it has not been built (`cargo xtask build`).
pub fn static_server() -> Result<Image> {
    let program = crate::daemon::static_program("echo-server")?;
    let program = fs::read(&program).with_context(|| format!("read {}", program.display()))?;
    mount_points(Image::builder())
        .file("echo-server", 0o755, &program)
        .entrypoint(&["/echo-server"])
        .build()
}

/// Debian's Python, also at `/usr/local/bin/python3` where the official images have it.
///
/// Made once with `mmdebstrap` (about 20 s, 170 MB), then kept below the target directory; concurrent test
/// processes wait for the one that makes it.
/// Fails when `mmdebstrap` is not installed or fails.
pub fn python() -> Result<Image> {
    let dir = cache_dir()?;
    let tar = dir.join("python.tar");
    let lock_path = dir.join("python.lock");
    let lock =
        File::create(&lock_path).with_context(|| format!("create {}", lock_path.display()))?;
    lock.lock()
        .with_context(|| format!("lock {}", lock_path.display()))?;
    if !tar.is_file() {
        debian_with_python(&tar)?;
    }
    drop(lock);
    Image::builder()
        .base_file(&tar)?
        .symlink("usr/local/bin/python3", "/usr/bin/python3")
        .env("PATH", SEARCH_PATH)
        .cmd(&["python3"])
        .build()
}

fn small_linux() -> Result<Builder> {
    bismuth_image::busybox(&find(Path::new("busybox"))?)
}

/// `target/testkit/images`, beside the profile's directory.
fn cache_dir() -> Result<PathBuf> {
    let dir = crate::daemon::target_dir()?.join("testkit/images");
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    Ok(dir)
}

fn debian_with_python(tar: &Path) -> Result<()> {
    let release = fs::read_to_string("/etc/os-release").context("read /etc/os-release")?;
    let suite = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let partial = tar.with_extension("partial.tar");
    let made = Command::new(find(Path::new("mmdebstrap"))?)
        .args(["--variant=minbase", "--include=python3", "--quiet"])
        .args([
            "--dpkgopt=path-exclude=/usr/share/doc/*",
            "--dpkgopt=path-exclude=/usr/share/man/*",
        ])
        .arg(suite.context("/etc/os-release has no VERSION_CODENAME")?)
        .arg(&partial)
        .args(apt_sources())
        .output()
        .context("run mmdebstrap")?;
    if !made.status.success() {
        bail!(
            "mmdebstrap: {}\n{}",
            made.status,
            String::from_utf8_lossy(&made.stderr)
        );
    }
    fs::rename(&partial, tar)
        .with_context(|| format!("rename {} to {}", partial.display(), tar.display()))
}

/// The machine's own package sources, so that its mirror is used.
fn apt_sources() -> Vec<PathBuf> {
    let listed = fs::read_dir("/etc/apt/sources.list.d")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let candidates = std::iter::once(PathBuf::from("/etc/apt/sources.list")).chain(listed);
    let has_sources = |path: &PathBuf| {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines()
            .any(|line| line.starts_with("deb ") || line.starts_with("Types:"))
    };
    candidates.filter(has_sources).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_the_paths_that_ldd_names() {
        let ldd = "\tlinux-vdso.so.1 (0x00007f)\n\tlibc.so.6 => /lib/libc.so.6 (0x7f)\n\t/lib64/ld.so.2 (0x7f)\n";
        let found: Vec<&str> = libraries(ldd).collect();
        assert_eq!(found, ["/lib/libc.so.6", "/lib64/ld.so.2"]);
    }
}
