//! Usage errors, exit codes, completions.

use bismuthctl::Args;
use clap::CommandFactory as _;

use crate::harness::{Ctl, ctl};

#[test]
fn the_command_line_definition_is_valid() {
    Args::command().debug_assert();
}

#[tokio::test]
async fn a_usage_error_exits_with_2() {
    for line in [
        "",
        "explode",
        "provision localhost",
        "get-function 17",
        "get-function 67E55044-10B1-426F-9247-BB680E5FE0C8",
        "create-function alpine",
        "create-function 'UPPER CASE' exec:/bin/ls",
        "create-function alpine ls",
        "create-function alpine server:70000:ls",
        "create-function alpine exec:/bin/ls --memory 128M",
        "create-function alpine exec:/bin/ls --route -",
        "--zookeeper nonsense:port list-nodes",
        "--zookeeper-env a/b list-nodes",
        "-o yaml list-nodes",
        "image pull alpine --registry-mirror nonsense",
    ] {
        let output = ctl(line).await;
        let (code, answer) = (output.code, &*output.stdout);
        assert_eq!((code, answer), (2, ""), "{line}: {}", output.stderr);
    }
}

#[tokio::test]
async fn the_exit_codes_are_documented() {
    let help = ctl("--help").await.ok().to_owned();
    assert!(
        help.contains("Exit codes:") && help.contains("3  "),
        "{help}"
    );
}

#[tokio::test]
async fn shells_get_completions() {
    for shell in ["bash", "zsh", "fish"] {
        let script = ctl(&format!("completions {shell}")).await.ok().to_owned();
        assert!(script.contains("create-function"), "{shell}: {script}");
    }
}

#[tokio::test]
async fn a_closed_pipe_on_standard_output_is_no_error() {
    let completions = Ctl::default().command("completions bash").spawn();
    let mut child = completions.unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().await.unwrap();
    assert_eq!(
        (output.status.code(), output.stderr.as_slice()),
        (Some(0), &b""[..])
    );
}

#[tokio::test]
async fn environment_variables_stand_for_flags() {
    let ctl = Ctl::default().with([("BISMUTH_ZOOKEEPER", "nonsense:port".to_owned())]);
    assert_eq!(ctl.run("list-nodes").await.code, 2);
}
