//! Harness: runs bismuthctl and checks its output.

use std::ops::Deref;
use std::process::{Output, Stdio};
use std::time::Duration;

use bismuth_testkit::ZooKeeper;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
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
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

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

    /// The second line of a table, as words.
    #[track_caller]
    pub fn row(&self) -> Vec<&str> {
        self.ok()
            .lines()
            .nth(1)
            .unwrap()
            .split_whitespace()
            .collect()
    }

    /// It failed with this code and one line that has these words in it, and answered nothing.
    #[track_caller]
    pub fn failed(&self, code: i32, words: &[&str]) {
        let line = &self.stderr;
        assert_eq!((self.code, &*self.stdout), (code, ""), "{line}");
        assert!(line.starts_with("bismuthctl: error: "), "{line}");
        assert_eq!(line.lines().count(), 1, "{line}");
        for word in words {
            assert!(line.contains(word), "{word:?} is not in {line}");
        }
    }

    /// The command line was wrong.
    #[track_caller]
    pub fn failed_usage(&self) {
        assert_eq!((self.code, &*self.stdout), (2, ""), "{}", self.stderr);
    }
}

/// The program with these environment variables, and no others of Bismuth's.
#[derive(Clone, Default)]
pub struct Ctl {
    env: Vec<(&'static str, String)>,
}

impl Ctl {
    /// The same with more variables, or others.
    pub fn with(&self, env: impl IntoIterator<Item = (&'static str, String)>) -> Self {
        let mut ctl = self.clone();
        ctl.env.extend(env);
        ctl
    }

    /// To be run with the words of `line`; a word that has spaces in it, or nothing, stands in single quotes.
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bismuthctl"));
        for (index, part) in line.split('\'').enumerate() {
            match index % 2 {
                0 => command.args(part.split_whitespace()),
                _ => command.arg(part),
            };
        }
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("BISMUTH_") {
                command.env_remove(name);
            }
        }
        command
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    pub async fn run(&self, line: &str) -> CommandOutput {
        run(&mut self.command(line)).await
    }

    /// Runs it, which has to work, and returns its answer.
    pub async fn ok(&self, line: &str) -> String {
        self.run(line).await.ok().to_owned()
    }

    pub async fn json(&self, line: &str) -> Value {
        self.run(&format!("{line} -o json")).await.json()
    }

    /// Runs it, which has to fail: see [`CommandOutput::failed`].
    pub async fn fails(&self, line: &str, code: i32, words: &[&str]) {
        self.run(line).await.failed(code, words);
    }

    /// With these bytes on standard input, through a pipe.
    pub async fn piped(&self, line: &str, input: &[u8]) -> CommandOutput {
        let mut child = self.command(line).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        // A program that refuses does not read to the end.
        let writing = tokio::spawn(async move { drop(stdin.write_all(&input).await) });
        let output = tokio::time::timeout(TIMEOUT, child.wait_with_output());
        let output = output.await.expect("it ends").unwrap();
        writing.await.unwrap();
        CommandOutput::of(output)
    }
}

pub async fn run(command: &mut Command) -> CommandOutput {
    let output = tokio::time::timeout(TIMEOUT, command.output()).await;
    CommandOutput::of(output.expect("it ends").unwrap())
}

/// The program without any environment.
pub async fn ctl(line: &str) -> CommandOutput {
    Ctl::default().run(line).await
}

/// The program with a ZooKeeper of its own.
pub struct CtlHarness {
    pub zookeeper: ZooKeeper,
    ctl: Ctl,
}

impl CtlHarness {
    pub async fn start() -> Self {
        let zookeeper = ZooKeeper::start().await.unwrap();
        let servers = zookeeper.connect_string();
        let ctl = Ctl::default().with([("BISMUTH_ZOOKEEPER", servers)]);
        Self { zookeeper, ctl }
    }

    /// With an environment in it.
    pub async fn bootstrapped() -> Self {
        let harness = Self::start().await;
        harness.ok("bootstrap").await;
        harness
    }
}

impl Deref for CtlHarness {
    type Target = Ctl;

    fn deref(&self) -> &Ctl {
        &self.ctl
    }
}
