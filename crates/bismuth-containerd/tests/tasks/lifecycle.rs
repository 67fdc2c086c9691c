//! The lifecycle of a container when nothing fails.

use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bismuth_containerd::tasks::{SIGTERM, Stdio, Tasks};
use bismuth_containerd::{Error, TaskEvent, TaskStatus};
use bismuth_testkit::eventually;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{Harness, TIMEOUT, next_event, next_exit, read_until};

/// The bound on noticing a crash.
const NOTICED_WITHIN: Duration = Duration::from_millis(100);

#[tokio::test]
async fn a_program_runs_and_its_exit_code_arrives_as_an_event() -> Result<()> {
    let harness = Harness::start().await?;
    let mut events = harness.events().await?;
    let (fifo, mut output) = harness.fifo("out")?;
    // Standard input is /dev/null, so `read` ends at once.
    let container = harness.container("read line; echo ${line}bye; exit 3")?;
    let (id, pid) = harness
        .run_with(container, Stdio::fifos(&fifo, &fifo))
        .await?;

    let exit = next_exit(&mut events).await?;
    assert_eq!(exit, (id.clone(), pid, 3));
    assert_eq!(read_until(&mut output, "bye\n").await?, "bye\n");
    let tasks = harness.client.list_tasks().await?;
    assert!(
        matches!(&tasks[..], [task] if matches!(task.status, TaskStatus::Stopped(exit) if exit.status == 3)),
        "{tasks:?}"
    );
    harness.remove(&id).await
}

#[tokio::test]
async fn a_death_is_known_within_100_ms() -> Result<()> {
    let harness = Harness::start().await?;
    let mut events = harness.events().await?;
    let mut delays = Vec::new();
    // The machine may be busy building; a bound on the median says what the code does, one on each sample would not.
    for _ in 0..5 {
        let (id, pid) = harness.run(harness.container("exec sleep 1000")?).await?;
        kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL)?;
        let killed = Instant::now();
        let exit = next_exit(&mut events).await?;
        delays.push(killed.elapsed());
        assert_eq!(exit, (id.clone(), pid, 137));
        harness.client.teardown(&id).await?;
    }
    delays.sort();
    assert!(delays[delays.len() / 2] < NOTICED_WITHIN, "{delays:?}");
    Ok(())
}

#[tokio::test]
async fn a_torn_down_container_leaves_nothing_whatever_state_it_was_in() -> Result<()> {
    let harness = Harness::start().await?;
    let client = &harness.client;
    for runtime in ["runc", "crun"] {
        let fresh = || {
            let mut container = harness.container("sleep 1000 & sleep 1000 & wait")?;
            container.runtime = runtime.to_owned();
            anyhow::Ok(container)
        };
        let recorded = fresh()?;
        let recorded_id = recorded.id.clone();
        client.create_container(recorded).await?;

        let created = fresh()?;
        let created_id = created.id.clone();
        client.create_container(created).await?;
        client.create_task(&created_id, Stdio::null()).await?;

        let (running_id, _) = harness.run(fresh()?).await?;
        assert!(
            !harness.leftover_dirs(&running_id)?.is_empty(),
            "a running container has a cgroup and a bundle"
        );

        for id in [recorded_id, created_id, running_id] {
            client.teardown(&id).await.context(runtime)?;
            // The shim answers the deletion and then exits.
            eventually("nothing is left", TIMEOUT, async || {
                harness.check_nothing_left(&id).await
            })
            .await;
            client.teardown(&id).await.context("a second time")?;
        }
    }
    client.teardown("never-was").await?;
    Ok(())
}

#[tokio::test]
async fn a_program_sees_the_container_that_the_spec_describes() -> Result<()> {
    let harness = Harness::start().await?;
    let script = "id -u; id -g; cat /proc/sys/kernel/hostname; ulimit -c; cat /proc/self/oom_score_adj; \
                  busybox grep -c : /proc/net/dev; set -- /proc/[0-9]*; echo $#; \
                  busybox grep -E '^(CapEff|CapBnd|NoNewPrivs):' /proc/self/status; \
                  (echo x > /proc/sys/kernel/hostname) 2>/dev/null || echo read-only; \
                  busybox wc -c < /proc/timer_list; busybox ls /sys/firmware; echo end";
    // uid, gid, hostname, core limit, oom_score_adj, interfaces (lo), processes (sh), capabilities …
    let expected = "1000\n1000\nfunction\n0\n500\n1\n1\nCapEff: 0000000000000000\nCapBnd: 0000000000000000\n\
                    NoNewPrivs: 1\nread-only\n0\nend\n";
    for runtime in ["runc", "crun"] {
        let (fifo, mut output) = harness.fifo(&format!("out-{runtime}"))?;
        let mut container = harness.container(script)?;
        container.runtime = runtime.to_owned();
        let (id, _) = harness
            .run_with(container, Stdio::fifos(&fifo, &fifo))
            .await?;
        let text = read_until(&mut output, "end\n").await?.replace('\t', " ");
        assert_eq!(text, expected, "{runtime}");
        harness.client.teardown(&id).await?;
    }
    Ok(())
}

#[tokio::test]
async fn labels_are_listed_and_an_id_can_be_used_once() -> Result<()> {
    let harness = Harness::start().await?;
    let container = harness.container("true")?;
    harness.client.create_container(container.clone()).await?;
    let listed = harness.client.list_containers().await?;
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (&listed[0].id, &listed[0].labels),
        (&container.id, &container.labels)
    );
    let again = harness.client.create_container(container.clone()).await;
    assert!(matches!(again, Err(Error::AlreadyExists(_))), "{again:?}");
    Ok(harness.client.teardown(&container.id).await?)
}

#[tokio::test]
async fn a_signal_reaches_the_program() -> Result<()> {
    let harness = Harness::start().await?;
    let (fifo, mut output) = harness.fifo("out")?;
    let container =
        harness.container("trap 'exit 7' TERM; echo ready; while true; do sleep 0.01; done")?;
    let (id, _) = harness
        .run_with(container, Stdio::fifos(&fifo, "/dev/null"))
        .await?;
    read_until(&mut output, "ready\n").await?;
    harness.client.kill(&id, SIGTERM, false).await?;
    assert_eq!(harness.client.wait(&id).await?.to_string(), "exit code 7");
    Ok(harness.client.teardown(&id).await?)
}

#[tokio::test]
async fn a_program_that_takes_too_much_memory_is_reported() -> Result<()> {
    let harness = Harness::start().await?;
    let mut events = harness.events().await?;
    let (id, _) = harness
        .run(harness.container("exec tail /dev/zero")?)
        .await?;
    let (mut oom, mut exited) = (false, false);
    while !(oom && exited) {
        match next_event(&mut events).await? {
            TaskEvent::Oom { id: of } => oom |= of == id,
            TaskEvent::Exit { status, .. } => {
                assert_eq!(status, 137);
                exited = true;
            }
            TaskEvent::Lost => {}
        }
    }
    Ok(harness.client.teardown(&id).await?)
}

#[tokio::test]
async fn the_socket_of_an_orphaned_shim_is_removed_with_the_container() -> Result<()> {
    let harness = Harness::start().await?;
    let sockets = harness.server.dir().join("run/s");
    let (id, _pid) = harness.run(harness.container("exec sleep 1000")?).await?;
    let [live] = &std::fs::read_dir(&sockets)?.collect::<Result<Vec<_>, _>>()?[..] else {
        bail!("not one socket");
    };
    let live = live.path();
    harness.client.teardown(&id).await?;
    eventually("its shim is gone", TIMEOUT, async || {
        if live.exists() {
            Err(format!("{}", live.display()))
        } else {
            Ok(())
        }
    })
    .await;
    // As containerd leaves it when the call that starts a shim is cut off.
    let dir = std::fs::File::open(&sockets)?;
    let name = live.file_name().context("no name")?;
    // A socket's path must be short.
    let short = Path::new("/proc/self/fd")
        .join(dir.as_raw_fd().to_string())
        .join(name);
    drop(std::os::unix::net::UnixListener::bind(short)?);
    ensure!(live.exists(), "the socket was not made");
    harness.client.teardown(&id).await?;
    ensure!(!live.exists(), "{} is left", live.display());
    Ok(())
}
