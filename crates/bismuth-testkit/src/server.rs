//! A server that is not ours (ZooKeeper, containerd, …), in a directory of its own.
//!
//! ```text
//! start ─► serving ─┬─ pause ──► silent ──── resume ─► serving     connections stay, nothing answers
//!                   └─ kill ───► gone ────── restart ► serving     same port, same data
//! ```

use std::fmt::Debug;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process::{Process, Program};
use crate::{ports, run};

/// What tells one kind of server from the others.
#[expect(async_fn_in_trait, reason = "every kind is in this crate")]
pub trait Kind: Debug + Sized {
    /// Its name in messages, and that of its directory.
    const NAME: &'static str;
    /// Until then it serves, also on a loaded machine.
    const START_BOUND: Duration;

    /// What is started, in its directory.
    fn program(server: &Server<Self>) -> Result<Program>;

    /// Asks it once, to see whether it serves.
    async fn probe(server: &Server<Self>) -> Result<()>;

    /// See [`Server::kill`]; a server of several processes has its own way.
    async fn kill(server: &mut Server<Self>) -> Result<()> {
        match server.process.take() {
            Some(process) => process.kill().await.map(drop),
            None => Ok(()),
        }
    }

    /// See [`Server::pause`].
    fn pause(server: &Server<Self>) -> Result<()> {
        server.process()?.pause()
    }

    /// See [`Server::resume`].
    fn resume(server: &Server<Self>) -> Result<()> {
        server.process()?.resume()
    }
}

/// One server on loopback. Dropping it ends its processes and deletes its directory.
#[derive(Debug)]
pub struct Server<K: Kind> {
    dir: PathBuf,
    port: u16,
    pub(crate) process: Option<Process>,
    pub(crate) kind: K,
}

impl<K: Kind> Server<K> {
    /// One that is not started yet, in a new directory.
    pub(crate) fn new(kind: K) -> Result<Self> {
        Ok(Self {
            dir: run::subdir(K::NAME)?,
            port: ports::reserve()?,
            process: None,
            kind,
        })
    }

    /// Starts it, and waits until it serves.
    pub(crate) async fn started(mut self) -> Result<Self> {
        self.launch()?;
        self.serving().await?;
        Ok(self)
    }

    pub(crate) fn launch(&mut self) -> Result<()> {
        self.process = Some(K::program(self)?.spawn()?);
        Ok(())
    }

    pub(crate) async fn serving(&self) -> Result<()> {
        let probe = async || K::probe(self).await;
        self.process()?.serves(K::START_BOUND, probe).await
    }

    /// Its directory: configuration, data, log.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where it listens, unless that is a socket in its directory.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Its first process. Fails when it is down.
    pub fn process(&self) -> Result<&Process> {
        self.process
            .as_ref()
            .with_context(|| format!("this {} is down", K::NAME))
    }

    /// Kills it (`SIGKILL`); containerd alone, without shims and containers. Harmless when it is down.
    pub async fn kill(&mut self) -> Result<()> {
        K::kill(self).await
    }

    /// Starts it again with the same port and data, killing it first if it runs, and waits until it serves.
    pub async fn restart(&mut self) -> Result<()> {
        self.kill().await?;
        self.launch()?;
        self.serving().await
    }

    /// Freezes it: connections stay open, nothing is answered. Fails when it is down.
    pub fn pause(&self) -> Result<()> {
        K::pause(self)
    }

    /// Undoes [`pause`](Self::pause).
    pub fn resume(&self) -> Result<()> {
        K::resume(self)
    }
}

impl<K: Kind> Drop for Server<K> {
    fn drop(&mut self) {
        self.process = None;
        if let Err(error) = run::remove(&self.dir) {
            eprintln!("the directory of {}: {error:#}", K::NAME);
        }
    }
}
