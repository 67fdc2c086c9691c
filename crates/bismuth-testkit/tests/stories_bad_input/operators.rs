//! Wrong command lines, and daemons started twice: one line of error and an exit code that is not zero.

use std::process::Output;

use anyhow::{Result, ensure};
use bismuth_testkit::daemon::{flags, program, static_program};
use bismuth_testkit::{Cluster, Daemon, ports};

use crate::common::{SOON, exec, soon};

/// The one line on standard error of a command that failed.
fn complaint(output: &Output) -> Result<String> {
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stderr = stderr.trim_end();
    let failed = output.status.code().is_some_and(|code| code != 0);
    ensure!(failed, "it did not fail: {} {stdout}", output.status);
    ensure!(stderr.lines().count() == 1, "not one line: {stderr:?}");
    Ok(stderr.to_owned())
}

/// A command line that cannot be understood: its first line says why, and the exit code is the usual 2.
fn usage_complaint(output: &Output, words: &str) -> Result<()> {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let first = stderr.lines().next().unwrap_or_default();
    ensure!(
        output.status.code() == Some(2) && first.contains(words),
        "no {words:?}: {} {stderr}",
        output.status
    );
    Ok(())
}

async fn ctl(zookeeper: &str, args: &[&str]) -> Result<Output> {
    run("bismuthctl", zookeeper, args).await
}

async fn run(name: &str, zookeeper: &str, args: &[&str]) -> Result<Output> {
    let mut command = tokio::process::Command::new(program(name)?);
    command
        .args(["--zookeeper", zookeeper])
        .args(args)
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true);
    Ok(soon(&format!("{name} {args:?}"), command.output()).await??)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_line_is_answered_by_one_line_that_names_what_is_wrong() -> Result<()> {
    let cluster = Cluster::start().await?;
    let id = cluster.create_function(&exec(&["/bin/true"])).await?;
    let container = "0b0b0b0b-0b0b-0b0b-0b0b-0b0b0b0b0b0b";
    let wrong: &[(&[&str], &str)] = &[
        (
            &["add-backend", &id, "127.0.0.9"],
            "127.0.0.9 is not provisioned",
        ),
        (
            &["deprovision", "127.0.0.9"],
            "127.0.0.9 is not provisioned",
        ),
        (
            &["deprovision", "127.0.0.1"],
            "127.0.0.1 still has 1 container",
        ),
        (&["add-backend", container, "127.0.0.1"], container),
        (&["remove-backend", &id, "127.0.0.1", container], container),
        (&["get-function", container], container),
        (&["delete-function", container], container),
    ];
    for (args, words) in wrong {
        let line = complaint(&cluster.ctl(args).await?)?;
        ensure!(line.contains(words), "{args:?}: no {words:?} in {line:?}");
    }

    // What is no command line at all says so in its first line, and where help is after it.
    let image = "docker.io/library/alpine:latest";
    for (args, words) in [
        (
            ["create-function", image, "exec:'/bin/ls"],
            "a quote is not closed",
        ),
        (
            ["create-function", image, "server:99999:/bin/true"],
            "99999",
        ),
        (
            ["create-function", "not an image", "exec:/bin/ls"],
            "not an image",
        ),
        (["add-backend", "nobody", "127.0.0.1"], "nobody"),
        (["add-backend", &id, "localhost"], "localhost"),
    ] {
        usage_complaint(&cluster.ctl(&args).await?, words)?;
    }

    usage_complaint(
        &ctl("no server at all", &["list-nodes"]).await?,
        "no server at all",
    )?;

    let nobody = format!("127.0.0.1:{}", ports::reserve()?);
    let line = complaint(&ctl(&nobody, &["list-nodes"]).await?)?;
    ensure!(line.contains(&nobody), "{line}");
    let servers = cluster.zookeeper.connect_string();
    let line = complaint(&ctl(&servers, &["--zookeeper-env", "nosuch", "list-nodes"]).await?)?;
    ensure!(
        line.contains("/nosuch") && line.contains("bootstrap"),
        "{line}"
    );
    Ok(())
}

#[tokio::test]
async fn every_program_refuses_a_malformed_list_of_servers_and_names_the_fault() -> Result<()> {
    for name in [
        "bismuthfe",
        "bismuthd",
        "bismuth-api",
        "svcprovider",
        "bismuthctl",
    ] {
        let output = run(name, "zk-1:2181,zk-2:http", &[]).await?;
        usage_complaint(&output, r#""zk-2:http" has no port between 1 and 65535"#)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_bismuthd_on_a_node_and_one_on_an_unknown_node_end_at_once() -> Result<()> {
    let cluster = Cluster::start().await?;
    let id = cluster.deploy(&exec(&["/bin/true"])).await?;
    let before = cluster.function(&id).await?;
    let first = &cluster.nodes[0];
    let elsewhere = cluster.containerd.scratch("second")?;
    // Beside the first in all but the named way.
    let start = |ip: &str, state: &std::path::Path| -> Result<Daemon> {
        let (port, admin) = (ports::reserve()?, ports::reserve()?);
        let (containerd, init) = (cluster.containerd.socket(), static_program("bismuth-init")?);
        let args = flags([
            ("--zookeeper", cluster.zookeeper.connect_string()),
            ("--zookeeper-env", "testkit".into()),
            ("--node-ip", ip.into()),
            ("--listen", format!("127.0.0.1:{port}")),
            ("--admin-listen", format!("127.0.0.1:{admin}")),
            ("--containerd", containerd.display().to_string()),
            ("--containerd-namespace", "second".into()),
            ("--state-dir", state.display().to_string()),
            ("--init", init.display().to_string()),
        ]);
        Daemon::spawn("bismuthd", args)
    };
    let cases = [
        ("127.0.0.1", first.state_dir.as_path(), "another bismuthd"),
        (
            "127.0.0.1",
            elsewhere.as_path(),
            "127.0.0.1 is already served by another bismuthd",
        ),
        (
            "127.0.0.9",
            elsewhere.as_path(),
            "127.0.0.9 is not provisioned",
        ),
    ];
    for (ip, state, words) in cases {
        let second = start(ip, state)?;
        let process = second.process()?;
        let status = process.ended(SOON).await?;
        ensure!(
            status.code().is_some_and(|code| code != 0),
            "{ip} in {}: {status}",
            state.display()
        );
        let log = process.log_tail();
        let complaints = log
            .lines()
            .filter(|line| line.starts_with("bismuthd: error: "));
        let complaints: Vec<&str> = complaints.collect();
        ensure!(
            complaints.len() == 1 && complaints[0].contains(words),
            "no {words:?} in\n{log}"
        );
    }
    // The first was not disturbed, its records are as it wrote them, and no container was made beside its own.
    ensure!(cluster.function(&id).await? == before, "{before}");
    let inventory = cluster.containerd.inventory().await?;
    let all = inventory.values().flatten();
    let second: Vec<_> = all.filter(|name| name.starts_with("second/")).collect();
    ensure!(second.is_empty(), "{second:?}");
    first.ready().await?;
    first.daemon.process()?.check_alive()
}
