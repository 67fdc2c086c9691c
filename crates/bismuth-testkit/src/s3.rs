//! A real S3 server: our program around `s3s-fs`.
//!
//! ```text
//! start ─► serving ─┬─ pause ──► silent ──── resume ─► serving     connections stay, nothing answers
//!                   └─ kill ───► gone ────── restart ► serving     same port, same data
//! ```

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::mount::{MountFlags, mount};
use tokio::net::TcpStream;

use crate::{Daemon, Process, eventually, ports, run};

/// It listens within some milliseconds; a loaded machine may take longer.
const START_BOUND: Duration = Duration::from_secs(30);
/// The one who may do anything.
pub const KEY_ID: &str = "bismuth";
/// What proves it.
pub const SECRET_KEY: &str = "not a secret";

/// One server on a loopback port, with its own data directory.
#[derive(Debug)]
pub struct S3Server {
    dir: PathBuf,
    port: u16,
    daemon: Daemon,
}

impl S3Server {
    /// Starts an empty server and waits until it serves.
    ///
    /// # Errors
    ///
    /// When `s3-server` has not been built or does not serve.
    pub async fn start() -> Result<Self> {
        let dir = run::subdir("s3")?;
        Self::start_in(dir).await
    }

    /// Starts an empty server whose disk has room for so many bytes.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start), and when nothing can be mounted.
    pub async fn start_with_disk_of(bytes: u64) -> Result<Self> {
        let dir = run::subdir("s3")?;
        let size = CString::new(format!("size={bytes}"))?;
        // `run::remove` unmounts it.
        mount("tmpfs", &dir, "tmpfs", MountFlags::empty(), size.as_c_str())
            .with_context(|| format!("mount a tmpfs on {}", dir.display()))?;
        Self::start_in(dir).await
    }

    async fn start_in(dir: PathBuf) -> Result<Self> {
        let port = ports::reserve()?;
        let data = dir.join("data");
        fs::create_dir(&data).with_context(|| format!("create {}", data.display()))?;
        let args = [&port.to_string(), "data", KEY_ID, SECRET_KEY];
        let daemon = Daemon::spawn_in(&dir, "s3", "s3-server", args)?;
        let server = Self { dir, port, daemon };
        server.serves().await?;
        Ok(server)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// The URL of a bucket in it, as `svcprovider` has it.
    #[must_use]
    pub fn url(&self, bucket: &str) -> String {
        format!("s3://{bucket}/below?endpoint=http://{}", self.address())
    }

    /// Makes an empty bucket.
    ///
    /// # Errors
    ///
    /// When it is there already.
    pub fn create_bucket(&self, name: &str) -> Result<()> {
        let bucket = self.data().join(name);
        fs::create_dir(&bucket).with_context(|| format!("create {}", bucket.display()))
    }

    /// What is in its buckets, and what uploads it has that are neither complete nor aborted, with their parts: files.
    ///
    /// # Errors
    ///
    /// When its directory cannot be read.
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
    ///
    /// # Errors
    ///
    /// When the disk fails otherwise.
    pub fn fill_disk(&self) -> Result<PathBuf> {
        let path = self.dir.join("filler");
        let mut file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
        loop {
            match file.write_all(&[0; 4096]) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(path),
                Err(error) => return Err(error).context("fill a disk"),
            }
        }
    }

    /// Kills the server (`SIGKILL`). Harmless when it is down.
    ///
    /// # Errors
    ///
    /// When it does not die.
    pub async fn kill(&mut self) -> Result<()> {
        self.daemon.kill().await
    }

    /// Starts it again on the same port with the same data, killing it first if it runs.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub async fn restart(&mut self) -> Result<()> {
        self.daemon.restart().await?;
        self.serves().await
    }

    /// The process, to freeze it and let it go on.
    ///
    /// # Errors
    ///
    /// When it is down.
    pub fn process(&self) -> Result<&Process> {
        self.daemon.process()
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    async fn serves(&self) -> Result<()> {
        let process = self.daemon.process()?;
        let serves = eventually::within(START_BOUND, async || {
            if let Err(error) = process.check_alive() {
                return Ok(Err(error));
            }
            let connected = TcpStream::connect(self.address()).await;
            connected.map(|_| Ok(()))
        });
        match serves.await {
            Ok(answer) => answer,
            Err(reason) => bail!("the S3 server does not serve: {reason}"),
        }
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        if let Err(error) = run::remove(&self.dir) {
            eprintln!("the S3 server's directory: {error:#}");
        }
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
