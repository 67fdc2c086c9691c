//! Child processes and directories of a test that is killed are removed.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use bismuth_testkit::process::Program;
use bismuth_testkit::{eventually, run};

const SOON: Duration = Duration::from_secs(20);

/// Not a test of its own: it is started, and killed, by the one below.
#[test]
#[ignore = "started by a_killed_test_leaves_no_process_and_the_next_run_no_directory"]
fn killed_run() {
    let dir = run::subdir("killed_run").unwrap();
    // A child, and a grandchild that has left its process group and session as containerd's shims do.
    let script = "setsid sleep 1000 & echo $! > grandchild; exec sleep 1000";
    let child = Program::new("child", "sh", &dir)
        .args(["-c", script])
        .spawn()
        .unwrap();
    while std::fs::read_to_string(dir.join("grandchild"))
        .is_ok_and(|pid| pid.ends_with('\n'))
        .eq(&false)
    {
        std::thread::yield_now();
    }
    let grandchild = std::fs::read_to_string(dir.join("grandchild")).unwrap();
    println!(
        "killed_run {} {} {}",
        child.pid(),
        grandchild.trim(),
        dir.display()
    );
    loop {
        std::thread::park();
    }
}

#[tokio::test]
async fn a_killed_test_leaves_no_process_and_the_next_run_no_directory() {
    let mut killed = Command::new(std::env::current_exe().unwrap())
        .args(["killed_run", "--exact", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(killed.stdout.take().unwrap()).lines();
    let told = lines.map_while(Result::ok).find_map(|line| {
        line.split_once("killed_run ")
            .map(|(_, rest)| rest.to_owned())
    });
    let told = told.expect("the process ended before it was killed");
    let words: Vec<&str> = told.split(' ').collect();
    let dir = PathBuf::from(words[2]);
    assert!(words[..2].iter().all(|pid| is_alive(pid)) && dir.is_dir());

    killed.kill().unwrap();
    killed.wait().unwrap();
    eventually("the children of the killed process die", SOON, async || {
        let alive: Vec<_> = words[..2].iter().filter(|pid| is_alive(pid)).collect();
        ensure!(alive.is_empty(), "{alive:?} live");
        Ok(())
    })
    .await;

    // The next process that starts anything sweeps, once the reaper has let go of the run.
    let run = dir.parent().unwrap();
    eventually("the run is swept", SOON, async || {
        let next = Command::new(std::env::current_exe().unwrap())
            .args(["next_run", "--exact", "--ignored"])
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(next.success());
        let left = run.exists() || mounted(run);
        ensure!(!left, "{} is still there", run.display());
        Ok(())
    })
    .await;
}

/// Not a test of its own: a run that begins after the killed one.
#[test]
#[ignore = "started by a_killed_test_leaves_no_process_and_the_next_run_no_directory"]
fn next_run() {
    run::dir().unwrap();
}

#[tokio::test]
async fn a_dropped_process_takes_its_group_with_it() {
    let dir = run::subdir("group").unwrap();
    let script = "sleep 1000 & echo $! > grandchild; wait";
    let child = Program::new("child", "sh", &dir)
        .args(["-c", script])
        .spawn()
        .unwrap();
    let grandchild = eventually("the grandchild is there", SOON, async || {
        let text = std::fs::read_to_string(dir.join("grandchild"))?;
        let line = text.strip_suffix('\n').context("half a line")?;
        anyhow::Ok(line.to_owned())
    })
    .await;
    assert!(is_alive(&grandchild));
    assert!(child.peak_resident_bytes().unwrap() > 0);
    drop(child);
    eventually("the grandchild dies", SOON, async || {
        ensure!(!is_alive(&grandchild), "it lives");
        Ok(())
    })
    .await;
    run::remove(&dir).unwrap();
    assert!(!dir.exists());
}

#[tokio::test]
async fn a_missing_program_is_named_with_what_installs_it() {
    let dir = run::subdir("missing").unwrap();
    let error = Program::new("x", "no-such-program", &dir)
        .spawn()
        .unwrap_err();
    assert!(
        format!("{error:#}").contains("no-such-program is not installed"),
        "{error:#}"
    );
    run::remove(&dir).unwrap();
}

fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

fn mounted(path: &Path) -> bool {
    std::fs::read_to_string("/proc/self/mountinfo")
        .unwrap()
        .contains(&format!(" {} ", path.display()))
}
