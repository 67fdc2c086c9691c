//! A real S3 server: our program around `s3s-fs`.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, mount};
use tokio::net::TcpStream;

use crate::daemon;
use crate::process::Program;
use crate::server::{Kind, Server};

/// The one who may do anything.
pub const KEY_ID: &str = "bismuth";
/// What proves it.
pub const SECRET_KEY: &str = "not a secret";

/// One server on a loopback port, with its own data directory.
pub type S3Server = Server<S3Kind>;

/// See [`S3Server`].
#[derive(Debug)]
pub struct S3Kind;

impl Kind for S3Kind {
    const NAME: &'static str = "s3";
    // It listens within some milliseconds; a loaded machine may take longer.
    const START_BOUND: Duration = Duration::from_secs(30);

    fn program(server: &S3Server) -> Result<Program> {
        let port = server.address().port().to_string();
        let program = Program::new("s3", daemon::program("s3-server")?, server.dir());
        Ok(program.args([&port, "data", KEY_ID, SECRET_KEY]))
    }

    async fn probe(server: &S3Server) -> Result<()> {
        TcpStream::connect(server.address()).await?;
        Ok(())
    }
}

impl S3Server {
    /// Starts an empty server and waits until it serves. Fails when `s3-server` has not been built.
    pub async fn start() -> Result<Self> {
        Self::new(S3Kind)?.started_empty().await
    }

    /// Starts an empty server whose disk has room for so many bytes.
    pub async fn start_with_disk_of(bytes: u64) -> Result<Self> {
        let server = Self::new(S3Kind)?;
        let (dir, size) = (server.dir(), CString::new(format!("size={bytes}"))?);
        // `run::remove` unmounts it.
        mount("tmpfs", dir, "tmpfs", MountFlags::empty(), size.as_c_str())
            .with_context(|| format!("mount a tmpfs on {}", dir.display()))?;
        server.started_empty().await
    }

    async fn started_empty(self) -> Result<Self> {
        let data = self.data();
        fs::create_dir(&data).with_context(|| format!("create {}", data.display()))?;
        self.started().await
    }

    /// The URL of a bucket in it, as `svcprovider` has it.
    pub fn url(&self, bucket: &str) -> String {
        format!("s3://{bucket}/below?endpoint=http://{}", self.address())
    }

    /// Makes an empty bucket.
    /// Fails when it is there already.
    pub fn create_bucket(&self, name: &str) -> Result<()> {
        let bucket = self.data().join(name);
        fs::create_dir(&bucket).with_context(|| format!("create {}", bucket.display()))
    }

    /// What is in its buckets, and what uploads it has that are neither complete nor aborted, with their parts: files.
    /// Fails when its directory cannot be read.
    pub fn contents(&self) -> Result<Vec<PathBuf>> {
        let mut contents = Vec::new();
        for entry in fs::read_dir(self.data())? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                files_below(&entry.path(), &mut contents)?;
            } else if entry.file_name().to_string_lossy().starts_with(".upload") {
                contents.push(entry.path());
            }
        }
        Ok(contents)
    }

    /// Fills its disk, which must be one [of its own](Self::start_with_disk_of), until what is returned is removed.
    /// Fails when the disk fails otherwise.
    pub fn fill_disk(&self) -> Result<PathBuf> {
        let path = self.dir().join("filler");
        let mut file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
        loop {
            match file.write_all(&[0; 4096]) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(path),
                Err(error) => return Err(error).context("fill a disk"),
            }
        }
    }

    fn data(&self) -> PathBuf {
        self.dir().join("data")
    }
}

fn files_below(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files_below(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}
