//! Runs Bismuth's own programs in tests.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::process::{Process, Program};
use crate::{http, run};

/// Overrides where our programs are looked for.
const BIN_DIR: &str = "BISMUTH_TESTKIT_BIN_DIR";
/// A daemon drains for less than this when it is asked to end.
const STOP_BOUND: Duration = Duration::from_secs(60);

/// One of our programs, running or not; what it was started with is kept for a restart.
#[derive(Debug)]
pub struct Daemon {
    process: Option<Process>,
    program: Program,
    name: String,
    own_dir: Option<PathBuf>,
}

impl Daemon {
    /// Starts `target/<profile>/{name}` in a directory of its own. Its output goes to `{name}.log` there.
    /// Fails when it has not been built.
    pub fn spawn<A: Into<OsString>>(name: &str, args: impl IntoIterator<Item = A>) -> Result<Self> {
        let dir = run::subdir(name)?;
        let mut daemon = Self::spawn_in(&dir, name, name, args)?;
        daemon.own_dir = Some(dir);
        Ok(daemon)
    }

    /// Starts `target/<profile>/{program}` in `dir`; `name` tells it from others of its kind.
    /// Fails when it has not been built.
    pub fn spawn_in<A: Into<OsString>>(
        dir: &Path,
        name: &str,
        program: &str,
        args: impl IntoIterator<Item = A>,
    ) -> Result<Self> {
        Self::spawn_with(dir, name, program, args, &[])
    }

    /// Like [`spawn_in`](Self::spawn_in), with these variables in its environment.
    /// Fails when it has not been built.
    pub fn spawn_with<A: Into<OsString>>(
        dir: &Path,
        name: &str,
        program: &str,
        args: impl IntoIterator<Item = A>,
        env: &[(String, String)],
    ) -> Result<Self> {
        let program =
            Program::new(name, self::program(program)?, dir).args(args.into_iter().map(Into::into));
        let program = env
            .iter()
            .fold(program, |program, (name, value)| program.env(name, value));
        let process = Some(program.spawn()?);
        Ok(Self {
            process,
            program,
            name: name.into(),
            own_dir: None,
        })
    }

    /// The running process.
    /// Fails when it was killed or has been stopped.
    pub fn process(&self) -> Result<&Process> {
        self.process
            .as_ref()
            .with_context(|| format!("{} is down", self.name))
    }

    /// Kills it (`SIGKILL`). Harmless when it is down.
    /// Fails when it does not die.
    pub async fn kill(&mut self) -> Result<()> {
        match self.process.take() {
            Some(process) => process.kill().await.map(drop),
            None => Ok(()),
        }
    }

    /// Asks it to end (`SIGTERM`) and waits for that.
    /// Fails when it is down, or has not ended within a minute.
    pub async fn terminate(&mut self) -> Result<ExitStatus> {
        let process = self
            .process
            .take()
            .with_context(|| format!("{} is down", self.name))?;
        process.terminate(STOP_BOUND).await
    }

    /// Starts it again with the same arguments, killing it first if it runs.
    /// Fails when it cannot be started.
    pub async fn restart(&mut self) -> Result<()> {
        self.kill().await?;
        self.start()
    }

    /// Starts it again with the same arguments after it was killed or has been stopped.
    /// Fails when it cannot be started.
    pub fn start(&mut self) -> Result<()> {
        self.process = Some(self.program.spawn()?);
        Ok(())
    }

    /// Waits until `url` (its `/readyz`) answers 200.
    /// Fails when it ends instead, or has not become ready after `within`; with the end of its log.
    pub async fn ready(&self, url: &str, within: Duration) -> Result<()> {
        let probe = async || {
            let answer = http::get(url).await?;
            let body = String::from_utf8_lossy(answer.body());
            ensure!(
                answer.status().is_success(),
                "{url}: {} {body}",
                answer.status()
            );
            Ok(())
        };
        self.process()?.serves(within, probe).await
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.process = None;
        if let Some(dir) = &self.own_dir
            && let Err(error) = run::remove(dir)
        {
            eprintln!("{}'s directory: {error:#}", self.name);
        }
    }
}

/// Flags with their values, as arguments.
pub fn flags<const N: usize>(flags: [(&str, String); N]) -> Vec<String> {
    let pairs = flags.map(|(flag, value)| [flag.to_owned(), value]);
    pairs.concat()
}

/// `target/<profile>`: the directory of the test executable's own profile.
/// Fails when the running executable is not below a target directory.
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
pub fn target_dir() -> Result<PathBuf> {
    Ok(bin_dir()?
        .parent()
        .context("the profile's directory has no parent")?
        .into())
}

/// One of our dynamically linked programs.
/// Fails when it has not been built.
pub fn program(name: &str) -> Result<PathBuf> {
    built(bin_dir()?.join(name), "cargo xtask build")
}

/// One of the programs that run inside containers, linked statically.
/// Fails when it has not been built.
pub fn static_program(name: &str) -> Result<PathBuf> {
    built(
        bin_dir()?.join("static").join(name),
        "cargo xtask build --static-only",
    )
}

fn built(path: PathBuf, by: &str) -> Result<PathBuf> {
    ensure!(
        path.is_file(),
        "{} is not there; `{by}` makes it",
        path.display()
    );
    Ok(path)
}
