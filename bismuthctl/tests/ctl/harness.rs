//! Harness: runs bismuthctl and checks its output.

use std::process::Stdio;
use std::time::Duration;

use bismuth_testkit::ZooKeeper;
use serde_json::Value;
use tokio::process::Command;

/// Longer than anything takes on a busy machine.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// What became of a run.
pub struct CommandOutput {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl CommandOutput {
    /// It worked, and this is the answer without the last line feed.
    #[track_caller]
    pub fn ok(&self) -> &str {
        assert_eq!(self.code, 0, "{}", self.stderr);
        self.stdout.trim_end_matches('\n')
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(self.ok()).unwrap()
    }

    /// It failed with this code and one line that has these words in it, and answered nothing.
    #[track_caller]
    pub fn failed(&self, code: i32, words: &[&str]) {
        assert_eq!(
            (self.code, self.stdout.as_str()),
            (code, ""),
            "{}",
            self.stderr
        );
        assert!(
            self.stderr.starts_with("bismuthctl: error: "),
            "{}",
            self.stderr
        );
        assert_eq!(self.stderr.lines().count(), 1, "{}", self.stderr);
        for word in words {
            assert!(
                self.stderr.contains(word),
                "{word:?} is not in {}",
                self.stderr
            );
        }
    }

    /// The command line was wrong.
    #[track_caller]
    pub fn failed_usage(&self) {
        assert_eq!(
            (self.code, self.stdout.as_str()),
            (2, ""),
            "{}",
            self.stderr
        );
    }
}

pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bismuthctl"));
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    for (name, _) in
        std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("BISMUTH_"))
    {
        command.env_remove(name);
    }
    command
}

pub async fn run(command: &mut Command) -> CommandOutput {
    let output = tokio::time::timeout(TIMEOUT, command.output())
        .await
        .expect("it ends")
        .unwrap();
    CommandOutput {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

pub async fn ctl(args: &[&str]) -> CommandOutput {
    run(&mut command(args)).await
}

/// The program with a ZooKeeper of its own.
pub struct CtlHarness {
    pub zookeeper: ZooKeeper,
    servers: String,
}

impl CtlHarness {
    pub async fn start() -> Self {
        let zookeeper = ZooKeeper::start().await.unwrap();
        let servers = zookeeper.connect_string();
        Self { zookeeper, servers }
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut all = vec!["--zookeeper", &self.servers];
        all.extend(args);
        command(&all)
    }

    pub async fn ctl(&self, args: &[&str]) -> CommandOutput {
        run(&mut self.command(args)).await
    }
}
