//! The command lines in docs/services.md work as written.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::harness::CtlHarness;
use crate::provider::Provider;

const DOCS: &str = include_str!("../../../docs/services.md");
/// Some thirty commands, on a busy machine.
const BOUND: Duration = Duration::from_secs(120);

/// The commands for this program, in the order of the page.
fn lines() -> String {
    let operators = DOCS.split("## For functions").next().unwrap();
    let blocks = operators
        .split("```")
        .filter_map(|b| b.strip_prefix("sh\n"));
    blocks.filter(|block| !block.contains("curl")).collect()
}

#[tokio::test]
async fn the_operators_commands_work_as_written() {
    let (harness, provider) = (CtlHarness::bootstrapped().await, Provider::start().await);
    let id = harness.ok("create-function alpine exec:/bin/ls").await;
    let program = Path::new(env!("CARGO_BIN_EXE_bismuthctl"));
    let path = [
        program.parent().unwrap().to_str().unwrap(),
        &std::env::var("PATH").unwrap(),
    ]
    .join(":");
    let mut shell = Command::new("bash");
    shell
        .args(["-e", "-u", "-o", "pipefail", "-c", &lines()])
        .current_dir(provider.scratch())
        .env("PATH", path)
        .env("id", id)
        .env("BISMUTH_ZOOKEEPER", harness.zookeeper.connect_string())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    shell.envs(provider.services.operator());
    let output = tokio::time::timeout(BOUND, shell.output())
        .await
        .expect("they end")
        .unwrap();
    let (said, wrong) = (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    );
    assert!(output.status.success(), "{said}\n{wrong}");
    assert!(said.contains("red") && said.contains("<svg/>"), "{said}");
    assert!(said.contains("\n11\n"), "1 and 10 visits: {said}");
    assert!(provider.groups().await.is_empty());
}
