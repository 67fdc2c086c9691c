//! Without an init system bismuthd starts svcprovider, and restarts it when it dies.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bismuth_testkit::{Cluster, daemon, image, ports};
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketType};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::{calls, python};

/// A start of svcprovider and of Python on a busy machine.
const BOUND: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread")]
async fn a_svcprovider_that_was_killed_is_started_again_and_has_the_function_s_key() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let loopback = |port: u16| format!("127.0.0.1:{port}");
    let path = |name: &str| dir.path().join(name).display().to_string();
    let program = daemon::program("svcprovider")?.display().to_string();
    let cluster = Cluster::builder()
        .image("library/python:3.11", image::python()?)
        .bismuthd_args(&["--svcprovider-exec", &program])
        // What bismuthd does not know of.
        .bismuthd_env("BISMUTH_SERVICES_DIR", &path("services"))
        .bismuthd_env("BISMUTH_MASTER_KEY_FILE", &path("keys/master.keys"))
        .bismuthd_env("BISMUTH_CREATE_MASTER_KEY", "true")
        .bismuthd_env(
            "BISMUTH_SVCPROVIDER_ADMIN_LISTEN",
            &loopback(ports::reserve()?),
        )
        .bismuthd_env("BISMUTH_OPERATOR_LISTEN", &loopback(ports::reserve()?))
        .start()
        .await?;
    let node = &cluster.nodes[0];
    let socket = node.state_dir.join("svcprovider.sock");

    let id = python(&cluster, "g", &json!({})).await?;
    let results = calls(&cluster, &id, &json!([["PUT", "/kv/v1/a", "1"]])).await?;
    results.have_statuses(&[201])?;
    // It asked the ZooKeeper and the environment that bismuthd was told of by its flags.
    let claim = cluster.ctl_ok(&["store", "show"]).await?;
    ensure!(claim.starts_with(&node.ip.to_string()), "{claim}");

    let first = server(&socket)?;
    kill_process(first, Signal::KILL)?;
    let read = json!([["GET", "/kv/v1/a"]]);
    let results = tokio::time::timeout(BOUND, calls(&cluster, &id, &read)).await;
    let results = results.with_context(|| format!("no answer within {BOUND:?}"))??;
    results.are(&[(200, "1")])?;
    let second = server(&socket)?;
    ensure!(second != first, "it was not killed");
    Ok(())
}

/// The process that listens at a socket.
fn server(path: &Path) -> Result<Pid> {
    let socket = net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None)?;
    net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(net::sockopt::socket_peercred(&socket)?.pid)
}
