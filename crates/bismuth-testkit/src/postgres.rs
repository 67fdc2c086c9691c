//! A real PostgreSQL, from Debian's `postgresql` package.
//!
//! It refuses to run as root, so it runs as an unprivileged user who owns its data directory and nothing else.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::process::Program;
use crate::server::{Kind, Server};
use crate::{Certificate, eventually, sweep};

/// How long processes of a killed server may take to notice.
const END_BOUND: Duration = Duration::from_secs(20);
/// Where Debian has the programs of each version.
const VERSIONS: &str = "/usr/lib/postgresql";
/// `nobody`, on every Linux: no name has to be in `/etc/passwd` for it.
const USER: u32 = 65_534;
/// The database's user, who may do anything.
const ROLE: &str = "bismuth";

/// What one that is secured wants to hear.
pub const PASSWORD: &str = "not a secret";

/// One server on a loopback port, with its own data directory.
pub type PostgreSql = Server<PostgreSqlKind>;

/// See [`PostgreSql`].
#[derive(Debug)]
pub struct PostgreSqlKind {
    programs: PathBuf,
    /// Whether it takes nobody without TLS and a password.
    secured: bool,
}

impl Kind for PostgreSqlKind {
    const NAME: &'static str = "postgres";
    // It serves within some hundred milliseconds; a loaded machine may take longer.
    const START_BOUND: Duration = Duration::from_secs(60);

    fn program(server: &PostgreSql) -> Result<Program> {
        // Data outlives a killed process in the page cache, so forcing it to disk would only cost time.
        let mut settings = vec![
            format!("port={}", server.address().port()),
            "listen_addresses=127.0.0.1".into(),
            "unix_socket_directories=".into(),
            "fsync=off".into(),
            "shared_buffers=16MB".into(),
            "max_connections=80".into(),
        ];
        if server.kind.secured {
            settings.push("ssl=on".into());
            let Certificate { certificate, key } = Certificate::in_dir(server.dir());
            settings.push(format!("ssl_cert_file={}", certificate.display()));
            settings.push(format!("ssl_key_file={}", key.display()));
        }
        Ok(Program::new("postgres", "setpriv", server.dir())
            .args(unprivileged())
            .arg(server.kind.programs.join("postgres"))
            .arg("-D")
            .arg(server.data())
            .args(settings.iter().flat_map(|setting| ["-c", setting])))
    }

    async fn probe(server: &PostgreSql) -> Result<()> {
        let mut command = Command::new(server.kind.programs.join("pg_isready"));
        let port = server.address().port().to_string();
        command.args(["--quiet", "--host", "127.0.0.1", "--port", &port]);
        output(&mut command).map(drop)
    }

    async fn kill(server: &mut PostgreSql) -> Result<()> {
        if server.process.is_none() {
            return Ok(());
        }
        // Listed while their parent is there: they write their titles over the environment by which orphans would be found. Frozen, so that
        // none is forked meanwhile. One that were left would answer whoever is connected, and keep the shared memory from a new server.
        server.freeze()?;
        let pids = sweep::processes_below(server.dir());
        if let Some(process) = server.process.take() {
            process.kill().await?;
        }
        let gone = eventually::within(END_BOUND, async || {
            send(Signal::KILL, &pids);
            match pids.iter().filter(|pid| !sweep::is_dead(**pid)).count() {
                0 => Ok(()),
                left => Err(format!("{left} processes are left")),
            }
        });
        gone.await
            .map_err(|reason| anyhow!("kill PostgreSQL: {reason}"))
    }

    fn pause(server: &PostgreSql) -> Result<()> {
        server.process()?.check_alive()?;
        server.freeze()
    }

    fn resume(server: &PostgreSql) -> Result<()> {
        server.process()?.check_alive()?;
        send(Signal::CONT, &sweep::processes_below(server.dir()));
        Ok(())
    }
}

impl PostgreSql {
    /// Starts an empty server and waits until it serves.
    /// Fails when PostgreSQL is not installed or does not serve within a minute.
    pub async fn start() -> Result<Self> {
        Self::start_as(false).await
    }

    /// Starts one that takes nobody without TLS and [`PASSWORD`]. Its certificate is for 127.0.0.1, and its own authority.
    pub async fn start_secured() -> Result<Self> {
        Self::start_as(true).await
    }

    async fn start_as(secured: bool) -> Result<Self> {
        let programs = programs()?;
        let server = Self::new(PostgreSqlKind { programs, secured })?;
        server.initialize()?;
        server.started().await
    }

    /// The URL of a database in one that is [secured](Self::start_secured), with a password.
    pub fn secured_url(&self, database: &str, password: &str) -> String {
        format!(
            "postgres://{ROLE}:{password}@{}/{database}?sslmode=verify-full&sslrootcert={}",
            self.address(),
            Certificate::in_dir(self.dir()).certificate.display()
        )
    }

    /// The URL of a database in it. Everybody is let in, without a password and without TLS.
    pub fn url(&self, database: &str) -> String {
        format!(
            "postgres://{ROLE}@{}/{database}?sslmode=disable",
            self.address()
        )
    }

    /// Makes an empty database.
    /// Fails when the server refuses, with its words.
    pub fn create_database(&self, name: &str) -> Result<()> {
        self.execute("postgres", &format!("CREATE DATABASE {name}"))
            .map(drop)
    }

    /// Runs statements in a database; returns what they print, one row a line, columns apart by `|`.
    /// Fails when the server refuses, with its words.
    pub fn execute(&self, database: &str, sql: &str) -> Result<String> {
        let mut command = Command::new(self.kind.programs.join("psql"));
        command
            .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align"])
            .args(["--set", "ON_ERROR_STOP=1", "--command", sql, "--dbname"])
            .arg(self.url(database));
        let output = output(&mut command)?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// A signal takes effect when its process runs next, and one that was being forked was not listed: all are listed once more when all
    /// that were known had stopped, of which one is the only one that forks.
    fn freeze(&self) -> Result<()> {
        let all_stopped = || {
            let pids = sweep::processes_below(self.dir());
            pids.iter().all(|pid| is_stopped(*pid))
        };
        let end = Instant::now() + END_BOUND;
        loop {
            send(Signal::STOP, &sweep::processes_below(self.dir()));
            if all_stopped() && all_stopped() {
                return Ok(());
            }
            ensure!(Instant::now() < end, "PostgreSQL does not freeze");
            std::thread::yield_now();
        }
    }

    fn data(&self) -> PathBuf {
        self.dir().join("data")
    }

    fn initialize(&self) -> Result<()> {
        let data = self.data();
        fs::create_dir(&data).with_context(|| format!("create {}", data.display()))?;
        chown(&data, Some(USER), Some(USER))
            .with_context(|| format!("give away {}", data.display()))?;
        let auth = match self.kind.secured {
            true => "--auth=scram-sha-256",
            false => "--auth=trust",
        };
        let password = self.dir().join("password");
        fs::write(&password, PASSWORD).with_context(|| format!("write {}", password.display()))?;
        let mut command = Command::new("setpriv");
        command
            .args(unprivileged())
            .arg(self.kind.programs.join("initdb"))
            .arg("--pwfile")
            .arg(&password)
            .args([
                auth,
                "--no-sync",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                "--username",
                ROLE,
                "--pgdata",
            ])
            .arg(&data)
            .current_dir(&data);
        output(&mut command)?;
        if self.kind.secured {
            self.secure()?;
        }
        Ok(())
    }

    /// Makes a certificate, and lets nobody in without TLS.
    fn secure(&self) -> Result<()> {
        let key = Certificate::make(self.dir())?.key;
        chown(&key, Some(USER), Some(USER))
            .with_context(|| format!("give away {}", key.display()))?;
        let rules = self.data().join("pg_hba.conf");
        fs::write(&rules, "hostssl all all 127.0.0.1/32 scram-sha-256\n")
            .with_context(|| format!("write {}", rules.display()))
    }
}

/// The newest version that is installed.
fn programs() -> Result<PathBuf> {
    let versions = fs::read_dir(VERSIONS).into_iter().flatten().flatten();
    let installed = versions.filter_map(|version| {
        let number: u32 = version.file_name().to_str()?.parse().ok()?;
        let programs = version.path().join("bin");
        programs
            .join("initdb")
            .is_file()
            .then_some((number, programs))
    });
    let newest = installed.max().map(|(_, programs)| programs);
    newest.context("PostgreSQL is not installed; `cargo xtask setup test` installs it")
}

/// Arguments of `setpriv` that make the next program an unprivileged one, which ends with us: a change of user forgets the signal that
/// was asked for before.
fn unprivileged() -> [String; 5] {
    [
        format!("--reuid={USER}"),
        format!("--regid={USER}"),
        "--clear-groups".into(),
        "--pdeathsig=KILL".into(),
        "--".into(),
    ]
}

fn output(command: &mut Command) -> Result<Output> {
    let program = Path::new(command.get_program()).to_path_buf();
    let output = command
        .output()
        .with_context(|| format!("run {}", program.display()))?;
    ensure!(
        output.status.success(),
        "{}: {}: {}",
        program.display(),
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(output)
}

fn send(signal: Signal, pids: &BTreeSet<i32>) {
    for pid in pids.iter().filter_map(|&pid| Pid::from_raw(pid)) {
        // Gone already is as well.
        let _ = kill_process(pid, signal);
    }
}

/// Whether a process is stopped, or gone: field 3 of proc_pid_stat(5).
fn is_stopped(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    match stat.rsplit_once(") ") {
        Some((_, fields)) => fields.starts_with(['T', 'Z']),
        None => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_committed_survives_a_kill() {
        let mut server = PostgreSql::start().await.unwrap();
        server.create_database("kept").unwrap();
        server
            .execute("kept", "CREATE TABLE t (n int); INSERT INTO t VALUES (42)")
            .unwrap();
        server.restart().await.unwrap();
        assert_eq!(server.execute("kept", "SELECT n FROM t").unwrap(), "42");
    }
}
