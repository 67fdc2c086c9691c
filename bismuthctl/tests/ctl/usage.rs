//! Usage errors, exit codes, completions.

use bismuthctl::Args;
use clap::CommandFactory as _;

use crate::harness::{command, ctl, run};

#[test]
fn the_command_line_definition_is_valid() {
    Args::command().debug_assert();
}

#[tokio::test]
async fn a_usage_error_exits_with_2() {
    let id = "67e55044-10b1-426f-9247-bb680e5fe0c8";
    for args in [
        &[][..],
        &["explode"],
        &["provision", "localhost"],
        &["get-function", "17"],
        &["get-function", &id.to_uppercase()],
        &["create-function", "alpine"],
        &["create-function", "UPPER CASE", "exec:/bin/ls"],
        &["create-function", "alpine", "ls"],
        &["create-function", "alpine", "server:70000:ls"],
        &[
            "create-function",
            "alpine",
            "exec:/bin/ls",
            "--memory",
            "128M",
        ],
        &["create-function", "alpine", "exec:/bin/ls", "--route", "-"],
        &["--zookeeper", "nonsense:port", "list-nodes"],
        &["--zookeeper-env", "a/b", "list-nodes"],
        &["-o", "yaml", "list-nodes"],
        &["image", "pull", "alpine", "--registry-mirror", "nonsense"],
    ] {
        let output = ctl(args).await;
        assert_eq!(
            (output.code, output.stdout.as_str()),
            (2, ""),
            "{args:?}: {}",
            output.stderr
        );
    }
}

#[tokio::test]
async fn the_exit_codes_are_documented() {
    let help = ctl(&["--help"]).await.ok().to_owned();
    assert!(
        help.contains("Exit codes:") && help.contains("3  "),
        "{help}"
    );
}

#[tokio::test]
async fn shells_get_completions() {
    for shell in ["bash", "zsh", "fish"] {
        let script = ctl(&["completions", shell]).await.ok().to_owned();
        assert!(script.contains("create-function"), "{shell}: {script}");
    }
}

#[tokio::test]
async fn a_closed_pipe_on_standard_output_is_no_error() {
    let mut child = command(&["completions", "bash"]).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().await.unwrap();
    assert_eq!(
        (output.status.code(), output.stderr.as_slice()),
        (Some(0), &b""[..])
    );
    // Environment variables stand for flags.
    let output = run(command(&["list-nodes"]).env("BISMUTH_ZOOKEEPER", "nonsense:port")).await;
    assert_eq!(output.code, 2);
}
