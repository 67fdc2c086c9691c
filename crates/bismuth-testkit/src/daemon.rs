//! Our own programs, as tests run them.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

/// Overrides where our programs are looked for.
const BIN_DIR: &str = "BISMUTH_TESTKIT_BIN_DIR";

/// `target/<profile>`: the directory of the test executable's own profile.
///
/// # Errors
///
/// When the running executable is not below a target directory.
pub fn bin_dir() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os(BIN_DIR) {
        return Ok(dir.into());
    }
    let test = std::env::current_exe().context("find the running executable")?;
    // target/<profile>/deps/<test>-<hash>, or target/<profile>/<program>.
    let dir = test
        .parent()
        .context("the running executable has no directory")?;
    let dir = if dir.ends_with("deps") {
        dir.parent().context("deps has no parent")?
    } else {
        dir
    };
    Ok(dir.into())
}

/// `target`.
///
/// # Errors
///
/// As [`bin_dir`].
pub fn target_dir() -> Result<PathBuf> {
    Ok(bin_dir()?
        .parent()
        .context("the profile's directory has no parent")?
        .into())
}

/// One of our dynamically linked programs.
///
/// # Errors
///
/// When it has not been built.
pub fn program(name: &str) -> Result<PathBuf> {
    built(bin_dir()?.join(name))
}

/// One of the programs that run inside containers, linked statically.
///
/// # Errors
///
/// When it has not been built.
pub fn static_program(name: &str) -> Result<PathBuf> {
    built(bin_dir()?.join("static").join(name))
}

fn built(path: PathBuf) -> Result<PathBuf> {
    ensure!(
        path.is_file(),
        "{} is not there; `cargo xtask build` makes it",
        path.display()
    );
    Ok(path)
}
