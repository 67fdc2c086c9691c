//! A child process that cannot outlive the test.
//!
//! Three things see to it, from the gentlest to the last:
//!
//! 1. dropping a [`Process`] kills its process group;
//! 2. each child is started with a parent-death signal (through `setpriv`, which needs no unsafe code here).
//!    The signal fires when the *thread* that made the child ends, so all children are made by one thread that never does;
//! 3. the reaper, a shell whose standard input is a pipe from the test process, reads its end and kills
//!    everything whose environment carries this run's mark, with descendants: containerd's shims and their
//!    containers, which have left every process group.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::run;
use crate::sweep::OWNER_MARK;

/// Environment variable that marks a process as ours; its value is the run directory.
pub(crate) const RUN_MARK: &str = "BISMUTH_TESTKIT_RUN";
/// How much of a log is shown when a server fails: enough for a Java stack trace.
const LOG_TAIL_LINES: usize = 60;
/// A killed process is gone within milliseconds unless the disk hangs; this bounds the wait for that.
const KILL_BOUND: Duration = Duration::from_secs(10);

/// What to run, and where its output goes.
#[derive(Debug, Clone)]
pub struct Program {
    name: String,
    path: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    dir: PathBuf,
}

impl Program {
    /// `path` is a file, or a name looked up in `PATH`; `dir` is the working directory, below the run directory.
    /// Output is appended to `dir/name.log`.
    pub fn new(name: &str, path: impl Into<PathBuf>, dir: &Path) -> Self {
        Self {
            name: name.into(),
            path: path.into(),
            args: Vec::new(),
            env: Vec::new(),
            dir: dir.into(),
        }
    }

    /// Adds one argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().into());
        self
    }

    /// Adds arguments.
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args
            .extend(args.into_iter().map(|arg| arg.as_ref().into()));
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().into(), value.as_ref().into()));
        self
    }

    /// Starts it.
    /// Fails when the program is not there or cannot be executed.
    pub fn spawn(&self) -> Result<Process> {
        let path = find(&self.path).with_context(|| format!("start {}", self.name))?;
        let log = self.dir.join(format!("{}.log", self.name));
        let output = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("open {}", log.display()))?;
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(&path)
            .args(&self.args)
            .env(RUN_MARK, run::dir()?)
            .env(OWNER_MARK, &self.dir)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(
                output
                    .try_clone()
                    .context("duplicate the log's descriptor")?,
            )
            .stderr(output)
            .process_group(0);
        let child = spawn_on_lasting_thread(command)
            .with_context(|| format!("start {}", path.display()))?;
        let pid = Pid::from_child(&child);
        Ok(Process {
            name: self.name.clone(),
            pid,
            child: Mutex::new(child),
            log,
        })
    }
}

/// A running child; killed with its process group when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: Pid,
    child: Mutex<Child>,
    log: PathBuf,
}

impl Process {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// The file that its standard output and standard error are appended to.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        // A log that cannot be read has nothing to add to the error that it would explain.
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
    }

    /// How it ended, or `None` while it runs.
    /// Fails when the kernel cannot be asked.
    pub fn exit_status(&self) -> Result<Option<ExitStatus>> {
        let mut child = self
            .child
            .lock()
            .map_err(|_| anyhow!("{}: poisoned", self.name))?;
        child
            .try_wait()
            .with_context(|| format!("wait for {}", self.name))
    }

    /// Fails with the log's tail if it has ended.
    pub fn check_alive(&self) -> Result<()> {
        match self.exit_status()? {
            None => Ok(()),
            Some(status) => bail!(
                "{} ended with {status}; its log ends:\n{}",
                self.name,
                self.log_tail()
            ),
        }
    }

    /// Waits until `probe` succeeds. Fails, with the log's tail, if the process ends instead or `within` has passed.
    pub async fn serves(
        &self,
        within: Duration,
        mut probe: impl AsyncFnMut() -> Result<()>,
    ) -> Result<()> {
        let serves = crate::eventually::within(within, async || match self.check_alive() {
            Ok(()) => probe().await.map(Ok),
            Err(error) => Ok(Err(error)),
        });
        serves.await.map_err(|reason| {
            anyhow!(
                "{} does not serve within {within:?}: {reason}; its log ends:\n{}",
                self.name,
                self.log_tail()
            )
        })?
    }

    /// Sends `signal` to the process alone.
    /// Fails when it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.check_alive()?;
        kill_process(self.pid, signal).with_context(|| format!("send {signal:?} to {}", self.name))
    }

    /// Freezes it (`SIGSTOP`): its sockets stay open and answer nothing.
    /// Fails when it has ended.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Undoes [`pause`](Self::pause).
    /// Fails when it has ended.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Asks it to end (`SIGTERM`) and waits until it has.
    /// Fails when it still runs after `within`.
    pub async fn terminate(&self, within: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.ended(within).await
    }

    /// Kills it (`SIGKILL`), alone, and waits until it is gone.
    /// Fails when it is not gone within ten seconds.
    pub async fn kill(&self) -> Result<ExitStatus> {
        if let Some(status) = self.exit_status()? {
            return Ok(status);
        }
        kill_process(self.pid, Signal::KILL).with_context(|| format!("kill {}", self.name))?;
        self.ended(KILL_BOUND).await
    }

    /// Waits until it has ended.
    /// Fails when it still runs after `within`.
    pub async fn ended(&self, within: Duration) -> Result<ExitStatus> {
        let waited = crate::eventually::within(within, async || match self.exit_status() {
            Ok(Some(status)) => Ok(Ok(status)),
            Ok(None) => Err(format!("{} (pid {}) still runs", self.name, self.pid())),
            Err(error) => Ok(Err(error)),
        });
        waited.await.map_err(|reason| {
            anyhow!(
                "{reason} after {within:?}; its log ends:\n{}",
                self.log_tail()
            )
        })?
    }

    /// The most memory that was ever resident, in bytes (`VmHWM`).
    /// Fails when it has ended.
    pub fn peak_resident_bytes(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.pid());
        let status = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let mut lines = status.lines();
        let line = lines.find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|rest| rest.split_whitespace().next());
        let kib: u64 = kib
            .with_context(|| format!("{path} has no VmHWM"))?
            .parse()?;
        Ok(kib * 1024)
    }

    /// What its open descriptors are (`socket:[…]`, paths, …), sorted.
    /// Fails when it has ended.
    pub fn descriptors(&self) -> Result<Vec<String>> {
        let dir = format!("/proc/{}/fd", self.pid());
        let mut targets = Vec::new();
        for entry in fs::read_dir(&dir).with_context(|| format!("list {dir}"))? {
            // A descriptor may be closed between the listing and the look.
            if let Ok(target) = fs::read_link(entry?.path()) {
                targets.push(target.to_string_lossy().into_owned());
            }
        }
        targets.sort();
        Ok(targets)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "--- {} (pid {}) log ends:\n{}",
                self.name,
                self.pid,
                self.log_tail()
            );
        }
        let Ok(child) = self.child.get_mut() else {
            return;
        };
        // The group outlives its leader when the leader has left children, so it is killed in any case.
        let group = kill_process_group(self.pid, Signal::KILL);
        let until = Instant::now() + KILL_BOUND;
        while matches!(child.try_wait(), Ok(None)) {
            if Instant::now() > until {
                eprintln!("{} (pid {}) does not die: {group:?}", self.name, self.pid);
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The file that `program` names: itself if it has a slash, else the first in `PATH` and the system directories.
/// Fails when there is none, naming the command that installs what is missing.
pub(crate) fn find(program: &Path) -> Result<PathBuf> {
    if program.components().count() > 1 {
        return if program.is_file() {
            Ok(program.into())
        } else {
            Err(anyhow!(
                "{} is not there; `cargo xtask build` makes it",
                program.display()
            ))
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(system)
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
        .with_context(|| {
            format!(
                "{} is not installed; `cargo xtask setup test` installs it",
                program.display()
            )
        })
}

type SpawnRequest = (Command, mpsc::SyncSender<std::io::Result<Child>>);

/// Spawns from a thread that lives as long as the process, because the parent-death signal of a child
/// is sent when the thread that made it ends.
fn spawn_on_lasting_thread(command: Command) -> Result<Child> {
    static SPAWNER: OnceLock<mpsc::Sender<SpawnRequest>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (requests, inbox) = mpsc::channel::<SpawnRequest>();
        std::thread::spawn(move || {
            for (mut command, answer) in inbox {
                // Nobody listens any more only if the asking thread panicked.
                let _ = answer.send(command.spawn());
            }
        });
        requests
    });
    let (answer, child) = mpsc::sync_channel(1);
    spawner
        .send((command, answer))
        .map_err(|_| anyhow!("the spawning thread is gone"))?;
    Ok(child.recv().context("the spawning thread is gone")??)
}

/// Waits for the test process to end, then kills every process that carries the mark, with its descendants.
/// Several rounds, because a process may fork while it is being looked for. What lies on disk is left to the
/// next run's sweep, but a run that ended tidily leaves only its own empty mount point, which goes here.
const REAPER: &str = r#"
read -r _
descend() {
    echo "$1"
    for child in $(cat /proc/"$1"/task/*/children 2>/dev/null); do descend "$child"; done
}
for round in 1 2 3 4 5; do
    marked=$(grep -lzsxF "$2=$1" /proc/[0-9]*/environ | cut -d/ -f3)
    [ -n "$marked" ] || break
    kill -KILL $(for pid in $marked; do descend "$pid"; done) 2>/dev/null
done
umount "$1" 2>/dev/null
rmdir "$1" 2>/dev/null && rm -f "$1.lock"
"#;

/// Starts the reaper of this process; `run` is the run directory. The reaper gets `lock` as its standard output,
/// which it does not use, so that nobody sweeps the run before it is done.
pub(crate) fn start_reaper(run: &Path, lock: &File) -> Result<()> {
    static PIPE: OnceLock<ChildStdin> = OnceLock::new();
    let mut command = Command::new("sh");
    command
        .args(["-c", REAPER, "bismuth-testkit-reaper"])
        .arg(run)
        .arg(RUN_MARK)
        .stdin(Stdio::piped())
        .stdout(lock.try_clone().context("duplicate the run's lock")?)
        .stderr(Stdio::null())
        .current_dir("/")
        .process_group(0);
    let mut reaper = command.spawn().context("start the reaper")?;
    let pipe = reaper
        .stdin
        .take()
        .context("the reaper has no standard input")?;
    // Held until the process ends: that is what the reaper waits for.
    PIPE.set(pipe)
        .map_err(|_| anyhow!("a second reaper was started"))
}
