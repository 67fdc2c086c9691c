//! The README's commands as an operator types them, in the default environment.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use bismuth_testkit::daemon::{flags, program, static_program};
use bismuth_testkit::http as client;
use bismuth_testkit::{Containerd, Daemon, Registry, ZooKeeper, eventually, image, ports};

use crate::common::{SOON, ok, soon};

/// Runs `bismuthctl --zookeeper 127.0.0.1:2181 WORDS` as a shell would, with ZooKeeper's address put in place of the usual one.
async fn line(words: &[&str], zookeeper: &str) -> Result<String> {
    let run = tokio::process::Command::new(program("bismuthctl")?)
        .args(["--zookeeper", zookeeper])
        .args(words)
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = soon(&format!("{words:?} ends"), run).await??;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "{words:?}: {} {stdout}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(stdout)
}

/// The id that `create-function` prints.
fn id_in(printed: &str) -> Result<String> {
    let mut words = printed.split(|c: char| !(c.is_ascii_hexdigit() || c == '-'));
    let id = words.find(|word| word.len() == 36 && word.matches('-').count() == 4);
    Ok(id
        .with_context(|| format!("no id in {printed:?}"))?
        .to_owned())
}

struct Daemons {
    _frontend: Daemon,
    _node: Daemon,
    url: String,
}

/// A node and a frontend with their defaults, but for ports and places.
async fn daemons(
    zookeeper: &str,
    containerd: &Containerd,
    registry: &Registry,
    state: &Path,
) -> Result<Daemons> {
    let (node, node_admin) = (ports::reserve()?, ports::reserve()?);
    let (frontend_port, frontend_admin) = (ports::reserve()?, ports::reserve()?);
    let at = |port: u16| format!("127.0.0.1:{port}");
    let init = static_program("bismuth-init")?;
    let args = flags([
        ("--zookeeper", zookeeper.into()),
        ("--listen", at(node)),
        ("--admin-listen", at(node_admin)),
        ("--containerd", containerd.socket().display().to_string()),
        ("--state-dir", state.display().to_string()),
        ("--init", init.display().to_string()),
        ("--registry-mirror", format!("docker.io={}", registry.url())),
    ]);
    let daemon = Daemon::spawn("bismuthd", args)?;
    let args = flags([
        ("--zookeeper", zookeeper.into()),
        ("--listen", at(frontend_port)),
        ("--admin-listen", at(frontend_admin)),
        ("--node-port", node.to_string()),
    ]);
    let frontend = Daemon::spawn("bismuthfe", args)?;
    for (daemon, admin) in [(&daemon, node_admin), (&frontend, frontend_admin)] {
        let url = format!("http://{}/readyz", at(admin));
        daemon.ready(&url, SOON).await?;
    }
    Ok(Daemons {
        _frontend: frontend,
        _node: daemon,
        url: format!("http://{}", at(frontend_port)),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_five_lines_end_in_two_answered_invocations() -> Result<()> {
    let (zookeeper, containerd, registry) =
        tokio::try_join!(ZooKeeper::start(), Containerd::start(), Registry::start())?;
    registry
        .push("library/alpine:latest", &image::alpine()?)
        .await?;
    let python = tokio::task::spawn_blocking(image::python).await??;
    registry.push("library/python:3.11", &python).await?;
    let servers = zookeeper.connect_string();
    let run = async |words: &[&str]| line(words, &servers).await;

    run(&["bootstrap"]).await?;
    run(&["provision", "127.0.0.1"]).await?;
    let state = containerd.scratch("n")?;
    let daemons = daemons(&servers, &containerd, &registry, &state).await?;
    let alpine = [
        "create-function",
        "docker.io/library/alpine:latest",
        "exec:/bin/ls",
    ];
    let lister = id_in(&run(&alpine).await?)?;
    let python = [
        "create-function",
        "docker.io/library/python:3.11",
        "server:8000:/usr/local/bin/python3 -m http.server",
    ];
    let files = id_in(&run(&python).await?)?;
    for id in [&lister, &files] {
        run(&["add-backend", id, "127.0.0.1"]).await?;
    }

    for (id, expected) in [(&lister, "etc\n"), (&files, "Directory listing for /")] {
        let url = format!("{}/invoke/{id}", daemons.url);
        // The image is being pulled and unpacked meanwhile; until then the answer says so.
        let what = format!("{expected:?} is in the answer");
        eventually(&what, SOON, async || {
            let answer = ok(&client::get(&url).await?)?;
            ensure!(answer.contains(expected), "{answer}");
            Ok(())
        })
        .await;
    }
    Ok(())
}
