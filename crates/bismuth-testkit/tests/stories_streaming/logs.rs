//! Functions' logs, read through the API.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bismuth_testkit::http::{self as client, full};
use bismuth_testkit::{Cluster, eventually};
use http::Request;
use serde_json::{Value, json};

use crate::bulk::check_resident;
use crate::common::{BodyReader, Deployed, SOON, echo_server, header, ok, script, text, with};

/// The message of each line, after time, container, stream and tag.
fn messages(log: &str) -> Vec<&str> {
    log.lines()
        .filter_map(|line| line.splitn(5, ' ').nth(4))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_read_by_its_end_by_its_time_and_as_it_is_written() -> Result<()> {
    let deployed = Deployed::start(&script("cat >&2")).await?;
    let print = async |line: &str| {
        let answer = client::post(&deployed.url(""), format!("{line}\n")).await?;
        ok(&answer).map(drop)
    };
    let log = format!("/function/{}/logs", deployed.id);
    let log = deployed.cluster.api_url(&log);
    let read = async |query: &str| ok(&client::get(&format!("{log}{query}")).await?);
    let lines: Vec<String> = (1..=6).map(|number| format!("line {number}")).collect();
    for line in &lines {
        print(line).await?;
    }
    let whole = eventually("all lines are in the log", SOON, async || {
        let log = read("").await?;
        ensure!(messages(&log) == lines, "{log}");
        Ok(log)
    })
    .await;
    ensure!(
        whole.lines().all(|line| line.contains(" stderr F ")),
        "{whole}"
    );
    let times: Vec<&str> = whole
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    ensure!(times.is_sorted(), "{whole}");

    ensure!(messages(&read("?tail=2").await?) == lines[4..]);
    ensure!(messages(&read(&format!("?since={}", times[3])).await?) == lines[3..]);
    ensure!(read("?since=2099-01-01T00:00:00Z").await?.is_empty());

    let following = Request::get(format!("{log}?follow=true&tail=1")).body(full(""))?;
    let answer = client::send(following).await?;
    ensure!(
        header(&answer, "content-type") == "text/event-stream",
        "{answer:?}"
    );
    let mut reader = BodyReader::new(answer);
    let mut next = async || -> Result<Value> {
        let event = reader.event().await?;
        let data = event
            .lines()
            .find_map(|line| line.strip_prefix("data:"))
            .with_context(|| event.clone())?;
        Ok(serde_json::from_str(data)?)
    };
    ensure!(next().await?["line"] == "line 6");
    for number in 7..10 {
        let line = format!("line {number}");
        print(&line).await?;
        let record = next().await?;
        ensure!(
            record["line"] == line.as_str()
                && record["stream"] == "stderr"
                && record["full"] == true,
            "{record}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_logs_a_gibibyte_neither_grows_its_node_nor_stalls() -> Result<()> {
    const GIB: u64 = 1 << 30;
    /// Three files of 10 MiB, each one record more at most.
    const KEPT: u64 = 3 * ((10 << 20) + (32 << 10));
    /// It takes 13 s unoptimised on an idle machine with two cores; many times that is standing still.
    const STALLED: Duration = Duration::from_secs(240);
    let definition = with(echo_server(), &json!({ "timeout_ms": 600_000 }));
    let deployed = Deployed::start(&definition).await?;
    let Deployed { cluster, id } = &deployed;
    let began = Instant::now();
    // In quarters, so that none of the answers takes as long as the test's client waits.
    for quarter in 1..=4 {
        let url = deployed.url(&format!("/log?bytes={}&line=1000", GIB / 4));
        ok(&client::get(&url).await?)?;
        println!("{quarter}/4 GiB after {:?}", began.elapsed());
    }

    // What it prints afterwards is there soon, and it still answers.
    client::get(&deployed.url("/log?bytes=8&line=8")).await?;
    eventually("the last line is in the log", SOON, async || {
        let tail = cluster.api_url(&format!("/function/{id}/logs?tail=1"));
        let tail = text(&client::get(&tail).await?);
        ensure!(messages(&tail) == ["xxxxxxx"], "{tail}");
        Ok(())
    })
    .await;
    check_resident(cluster, "after a gibibyte of log")?;
    let kept = bytes_below(&cluster.nodes[0].state_dir.join("logs"))?;
    ensure!(kept <= KEPT, "{kept} bytes of log are kept");
    ensure!(began.elapsed() < STALLED, "it took {:?}", began.elapsed());
    Ok(())
}

/// Waits until `wanted` is the log of the function.
async fn log_becomes(cluster: &Cluster, id: &str, wanted: impl Fn(&[&str]) -> bool) {
    let url = cluster.api_url(&format!("/function/{id}/logs"));
    eventually("the log is complete", SOON, async || {
        let log = text(&client::get(&url).await?);
        let messages = messages(&log);
        let end: Vec<_> = messages.iter().rev().take(3).collect();
        ensure!(
            wanted(&messages),
            "{} lines, the last {end:?}",
            messages.len()
        );
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_prints_ten_mebibytes_of_errors_loses_none_of_them() -> Result<()> {
    /// With their numbers and line feeds a thousand bytes each; the log keeps 30 MiB.
    const LINES: usize = (10 << 20) / 1000;
    let lines = format!(
        "awk 'BEGIN {{ for (i = 0; i < {LINES}; i++) printf \"%0999d\\n\", i }}' | cat >&2"
    );
    // `cat` tells by its exit code that a write failed; it is the last of the pipeline.
    let Deployed { cluster, id } = Deployed::start(&script(&lines)).await?;
    ok(&cluster.invoke(&id).await?)?;
    log_becomes(&cluster, &id, |messages| {
        messages.len() == LINES
            && (messages.iter().enumerate()).all(|(number, line)| line.parse() == Ok(number))
    })
    .await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_makes_its_standard_error_wait_holds_up_no_other_log() -> Result<()> {
    let cluster = Cluster::start().await?;
    let argv = ["/echo-server", "--block-stderr", "hostile"];
    let hostile = cluster
        .deploy(&with(
            echo_server(),
            &json!({ "invoke_mode": { "Executable": argv } }),
        ))
        .await?;
    let innocent = cluster.deploy(&script("echo innocent >&2")).await?;
    for number in 1..=3 {
        for (id, word) in [(&hostile, "hostile"), (&innocent, "innocent")] {
            ok(&cluster.invoke(id).await?)?;
            log_becomes(&cluster, id, |messages| messages == vec![word; number]).await;
        }
    }
    Ok(())
}

fn bytes_below(dir: &std::path::Path) -> Result<u64> {
    let mut total = 0;
    for entry in std::fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        total += if metadata.is_dir() {
            bytes_below(&entry.path())?
        } else {
            metadata.len()
        };
    }
    Ok(total)
}
