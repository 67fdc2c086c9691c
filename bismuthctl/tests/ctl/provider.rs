//! Harness: bismuthctl with a real svcprovider on embedded engines.

use std::path::Path;
use std::process::Stdio;

use bismuth_testkit::cluster::Services;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::harness::{CommandOutput, TIMEOUT, command, run};

pub struct Provider {
    pub services: Services,
    dir: TempDir,
}

impl Provider {
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let services = Services::start_alone(dir.path()).await.unwrap();
        Self { services, dir }
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = command(args);
        command.envs(self.services.operator());
        command
    }

    pub async fn ctl(&self, args: &[&str]) -> CommandOutput {
        run(&mut self.command(args)).await
    }

    /// Asks at `url`, where something is between the program and svcprovider.
    pub async fn ctl_at(&self, url: &str, args: &[&str]) -> CommandOutput {
        run(self.command(args).env("BISMUTH_SVCPROVIDER", url)).await
    }

    /// With these bytes on standard input, through a pipe.
    pub async fn piped(&self, args: &[&str], input: &[u8]) -> CommandOutput {
        piped(&mut self.command(args), input).await
    }

    /// As [`piped`](Self::piped), at `url`.
    pub async fn piped_at(&self, url: &str, args: &[&str], input: &[u8]) -> CommandOutput {
        piped(self.command(args).env("BISMUTH_SVCPROVIDER", url), input).await
    }

    /// A directory for files of the test's own.
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    /// A file with this content.
    pub fn file(&self, name: &str, content: &[u8]) -> String {
        let path = self.scratch().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// The groups that have something.
    pub async fn groups(&self) -> Vec<String> {
        let listed = self.ctl(&["group", "list", "-o", "json"]).await.json();
        let groups = listed.as_array().unwrap().iter();
        groups
            .map(|group| group["group"].as_str().unwrap().to_owned())
            .collect()
    }
}

async fn piped(command: &mut Command, input: &[u8]) -> CommandOutput {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // A program that refuses does not read to the end.
    let writing = tokio::spawn(async move { drop(stdin.write_all(&input).await) });
    let output = tokio::time::timeout(TIMEOUT, child.wait_with_output())
        .await
        .expect("it ends")
        .unwrap();
    writing.await.unwrap();
    CommandOutput {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}
