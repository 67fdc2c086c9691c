//! Starts the svcprovider process, where no init system does.
//!
//! It gets a session of its own and is never killed from here: it goes on when this process ends, and the next one finds it by
//! its socket. A second one on the same socket refuses to start, so starting it once too often does no harm.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bismuth_base::{Backoff, Delays};
use bismuth_sandbox::process;
use tracing::{info, warn};

/// The first start after an end comes at once; one that does not stay is tried ever less often.
const RETRY_BACKOFF: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(30));
/// One that ran this long was stable.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// What to start, and with which settings.
#[derive(Clone, Debug)]
pub struct ProviderConfig {
    pub program: PathBuf,
    /// Variables of its flags, over those of this process, which it has too.
    pub env: Vec<(&'static str, OsString)>,
}

/// The program, and its process if we started one.
#[derive(Debug)]
pub(super) struct ProviderProcess {
    config: ProviderConfig,
    running: Option<(Child, Instant)>,
    not_before: Instant,
    delays: Delays,
}

impl ProviderProcess {
    pub(super) fn new(config: ProviderConfig) -> Self {
        Self {
            config,
            running: None,
            not_before: Instant::now(),
            delays: RETRY_BACKOFF.delays(),
        }
    }

    /// Nobody answers on the socket: starts the program, unless one of ours is on its way, or ended a moment ago.
    pub(super) fn start_if_gone(&mut self) {
        self.reap();
        if self.running.is_some() || Instant::now() < self.not_before {
            return;
        }
        let delay = self.delays.next_delay();
        self.not_before = Instant::now() + delay;
        let program = &self.config.program;
        let mut command = Command::new(program);
        command
            .envs(self.config.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        match process::spawn_in_session(&mut command) {
            Ok(child) => {
                info!(program = %program.display(), pid = child.id(), "started svcprovider");
                self.running = Some((child, Instant::now()));
            }
            Err(error) => {
                warn!(program = %program.display(), %error, again_in_ms = delay.as_millis() as u64, "cannot start svcprovider");
            }
        }
    }

    /// Takes the exit of a process of ours that has ended, so that it does not stay as a zombie.
    pub(super) fn reap(&mut self) {
        let Some((child, started)) = &mut self.running else {
            return;
        };
        match child.try_wait() {
            Ok(None) => return,
            Ok(Some(status)) => warn!(pid = child.id(), %status, "svcprovider ended"),
            Err(error) => warn!(pid = child.id(), %error, "cannot learn how svcprovider ended"),
        }
        if started.elapsed() >= STABLE_AFTER {
            self.delays.reset();
            self.not_before = Instant::now();
        }
        self.running = None;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[tokio::test]
    async fn svcprovider_is_started_in_its_own_session_with_its_settings_and_restarted_when_it_ends()
     {
        let dir = tempfile::tempdir().unwrap();
        let (program, said) = (dir.path().join("program"), dir.path().join("said"));
        // Fields 1 and 6 of proc_pid_stat(5): the process and its session.
        let script = format!(
            "#!/bin/sh\nread -r stat < /proc/$$/stat\nset -- $stat\necho \"$(($1 == $6)) $SETTING $PATH\" >> {}\n",
            said.display()
        );
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
        let env = vec![("SETTING", "a value".into())];
        let mut provider = ProviderProcess::new(ProviderConfig { program, env });
        let twice = async || {
            provider.start_if_gone();
            let said = std::fs::read_to_string(&said).unwrap_or_default();
            let twice = said.lines().count() >= 2;
            twice.then_some(said.clone()).ok_or(said)
        };
        let said = bismuth_testkit::eventually("it ran twice", STABLE_AFTER, twice).await;
        // What it is not told it has from us.
        let expected = format!("1 a value {}", std::env::var("PATH").unwrap());
        assert!(said.lines().all(|line| line == expected), "{said}");
    }
}
