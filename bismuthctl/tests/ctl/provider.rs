//! The program with a twin of svcprovider.

use std::process::Stdio;

use bismuth_operator::fake::Svcprovider;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::harness::{Ran, SOON, command, run};

pub struct Provider(pub Svcprovider);

impl Provider {
    pub async fn start() -> Self {
        Self(Svcprovider::start().await.unwrap())
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = command(args);
        self.told(&mut command);
        command
    }

    /// Tells a command where svcprovider is.
    pub fn told(&self, command: &mut Command) {
        command
            .env("BISMUTH_SVCPROVIDER", self.0.url())
            .env("BISMUTH_SVCPROVIDER_TOKEN_FILE", self.0.token_file());
    }

    pub async fn ctl(&self, args: &[&str]) -> Ran {
        run(&mut self.command(args)).await
    }

    /// With these bytes on standard input, through a pipe.
    pub async fn piped(&self, args: &[&str], input: &[u8]) -> Ran {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        // A program that refuses does not read to the end.
        let writing = tokio::spawn(async move { drop(stdin.write_all(&input).await) });
        let output = tokio::time::timeout(SOON, child.wait_with_output())
            .await
            .expect("it ends")
            .unwrap();
        writing.await.unwrap();
        Ran {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// A file with this content, beside the twin's own.
    pub fn file(&self, name: &str, content: &[u8]) -> String {
        let path = self.0.scratch().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }
}
