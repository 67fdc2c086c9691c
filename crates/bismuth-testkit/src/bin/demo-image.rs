//! Writes the demonstration's image as an OCI archive: `demo-image FILE`.

use std::path::Path;

use anyhow::{Context, Result};

/// The name that `start_all.sh` creates its functions from.
const NAME: &str = "docker.io/library/bismuth-demo:latest";

fn main() -> Result<()> {
    let output = std::env::args_os()
        .nth(1)
        .context("usage: demo-image FILE")?;
    bismuth_testkit::image::demo()?.write_archive(Path::new(&output), NAME)?;
    println!("{NAME}");
    Ok(())
}
