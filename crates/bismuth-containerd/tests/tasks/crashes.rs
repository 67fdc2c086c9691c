//! Containers and tasks when containerd, a shim or a runtime crashes, hangs or is missing.

use std::time::Duration;
use std::{fs, io};

use anyhow::{Context, Result, bail};
use bismuth_containerd::tasks::{Stdio, TaskInfo, Tasks};
use bismuth_containerd::{Error, TaskEvent, TaskStatus};
use bismuth_testkit::eventually;
use futures_util::StreamExt;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::Instant;

use crate::harness::{Harness, TIMEOUT, next_exit, shims_of};

#[tokio::test]
async fn calls_to_a_hanging_containerd_end_at_the_deadline_and_work_afterwards() -> Result<()> {
    let quick = Duration::from_millis(500);
    let harness = Harness::with_deadlines(|deadlines| deadlines.quick = quick).await?;
    let (id, _) = harness.run(harness.container("sleep 1000")?).await?;

    assert_bounded_while_frozen(&harness, quick).await?;
    Ok(harness.client.teardown(&id).await?)
}

/// While containerd is frozen a call ends at the deadline; afterwards it answers.
async fn assert_bounded_while_frozen(harness: &Harness, quick: Duration) -> Result<()> {
    freeze(harness.server.process()?.pid()).await?;
    let asked = Instant::now();
    let answer = harness.client.version().await;
    let took = asked.elapsed();
    harness.server.process()?.resume()?;

    assert!(
        matches!(answer, Err(Error::DeadlineExceeded { after, .. }) if after == quick),
        "{answer:?}"
    );
    assert!(took >= quick && took < quick * 3, "{took:?}");
    eventually("containerd answers again", TIMEOUT, async || {
        harness.client.version().await
    })
    .await;
    Ok(())
}

#[tokio::test]
async fn connecting_while_containerd_hangs_ends_at_the_deadline() -> Result<()> {
    let quick = Duration::from_millis(500);
    let harness = Harness::with_deadlines(|deadlines| deadlines.quick = quick).await?;
    assert_bounded_while_frozen(&harness, quick).await
}

#[tokio::test]
async fn after_a_crash_of_containerd_calls_work_and_event_readers_list_again() -> Result<()> {
    let mut harness = Harness::start().await?;
    let mut events = harness.events().await?;
    let (id, pid) = harness.run(harness.container("sleep 1000")?).await?;

    harness.server.kill().await?;
    let down = harness.client.version().await;
    assert!(matches!(down, Err(Error::Unavailable(_))), "{down:?}");
    harness.server.restart().await?;

    let lost = tokio::time::timeout(TIMEOUT, events.next())
        .await
        .context("no event")?;
    assert_eq!(lost, Some(TaskEvent::Lost));
    let tasks = harness.client.list_tasks().await?;
    let survivor = TaskInfo {
        id: id.clone(),
        pid,
        status: TaskStatus::Running,
    };
    assert_eq!(tasks, [survivor], "the container lived on");

    harness.client.kill(&id, 9, true).await?;
    assert_eq!(next_exit(&mut events).await?.0, id);
    harness.remove(&id).await
}

#[tokio::test]
async fn a_program_that_ended_while_containerd_was_down_is_found_stopped() -> Result<()> {
    let mut harness = Harness::start().await?;
    let mut events = harness.events().await?;
    let (id, pid) = harness.run(harness.container("sleep 1000")?).await?;
    harness.server.kill().await?;
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL)?;
    harness.server.restart().await?;

    let stopped = async {
        loop {
            match events.next().await {
                // The shim tells a containerd that comes back in time; otherwise listing does.
                Some(TaskEvent::Exit { id: of, status, .. }) if of == id => return Ok(status),
                Some(TaskEvent::Lost) => {
                    for task in harness.client.list_tasks().await? {
                        if let TaskStatus::Stopped(exit) = task.status {
                            return Ok(exit.status);
                        }
                    }
                }
                Some(_) => {}
                None => bail!("the event stream ended"),
            }
        }
    };
    let status = tokio::time::timeout(TIMEOUT, stopped)
        .await
        .context("nobody told us")??;
    assert_eq!(status, 137);
    harness.remove(&id).await
}

#[tokio::test]
async fn a_shim_that_crashes_is_an_exit_and_tears_down() -> Result<()> {
    let harness = Harness::start().await?;
    let mut events = harness.events().await?;
    let (id, _) = harness.run(harness.container("sleep 1000")?).await?;
    for shim in shims_of(&id)? {
        kill(Pid::from_raw(shim.cast_signed()), Signal::SIGKILL)?;
    }
    assert_eq!(next_exit(&mut events).await?.0, id);
    harness.remove(&id).await
}

#[tokio::test]
async fn a_shim_that_hangs_costs_its_own_container_only() -> Result<()> {
    // Longer than the two seconds that containerd gives a shim when it lists.
    let create = Duration::from_secs(3);
    let harness = Harness::with_deadlines(|deadlines| deadlines.create = create).await?;
    let (hung, _) = harness.run(harness.container("sleep 1000")?).await?;
    let (healthy, _) = harness.run(harness.container("sleep 1000")?).await?;
    let shims = shims_of(&hung)?;
    for shim in &shims {
        freeze(*shim).await?;
    }
    let signalled = harness.client.kill(&hung, 9, true).await;
    let listed = harness.client.list_tasks().await;
    let torn_down = harness.client.teardown(&healthy).await;
    for shim in &shims {
        kill(Pid::from_raw(shim.cast_signed()), Signal::SIGCONT)?;
    }
    assert!(
        matches!(&signalled, Err(error) if error.is_outcome_unknown()),
        "{signalled:?}"
    );
    let listed = listed?;
    let status = |id: &str| {
        listed
            .iter()
            .find(|task| task.id == id)
            .map(|task| task.status)
    };
    assert_eq!(status(&hung), Some(TaskStatus::Unknown));
    assert_eq!(status(&healthy), Some(TaskStatus::Running));
    torn_down?;
    harness.remove(&hung).await
}

#[tokio::test]
async fn a_runtime_that_is_not_installed_is_named_and_leaves_nothing() -> Result<()> {
    let harness = Harness::start().await?;
    let mut container = harness.container("true")?;
    container.runtime = "no-such-runtime".to_owned();
    let id = container.id.clone();
    harness.client.create_container(container).await?;
    let error = harness
        .client
        .create_task(&id, Stdio::null())
        .await
        .expect_err("it is missing");
    let text = error.to_string();
    assert!(
        text.starts_with(&format!("create task {id}: "))
            && text.contains("no-such-runtime")
            && text.contains("not found"),
        "{text}"
    );
    assert!(
        matches!(error, Error::Failed(_)),
        "a missing program is not a missing object: {error:?}"
    );
    harness.remove(&id).await
}

#[tokio::test]
async fn a_program_that_is_not_in_the_image_is_named() -> Result<()> {
    let harness = Harness::start().await?;
    for runtime in ["runc", "crun"] {
        let mut container = harness.container("true")?;
        container.runtime = runtime.to_owned();
        let mut process = container
            .spec
            .process()
            .clone()
            .context("a spec has a process")?;
        process.set_args(Some(vec!["/no/such/program".to_owned()]));
        container.spec.set_process(Some(process));
        let id = container.id.clone();
        let error = harness
            .run(container)
            .await
            .expect_err("it is missing")
            .to_string();
        assert!(
            error.contains("/no/such/program") || error.contains("No such file"),
            "{runtime}: {error}"
        );
        harness.remove(&id).await?;
    }
    Ok(())
}

/// Stops a process, and returns when every thread of it has stopped: the signal alone only asks for that.
async fn freeze(pid: u32) -> Result<()> {
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGSTOP)?;
    eventually("every thread is stopped", TIMEOUT, async || {
        for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
            let stat = fs::read_to_string(thread?.path().join("stat"))?;
            // The state follows the name, which is in parentheses (proc_pid_stat(5)).
            if !stat.contains(") T ") {
                return Err(io::Error::other(stat));
            }
        }
        Ok(())
    })
    .await;
    Ok(())
}
