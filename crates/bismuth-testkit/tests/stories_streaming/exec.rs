//! Functions that are a program run once per request.

use anyhow::{Context, Result, ensure};
use bismuth_testkit::http::{self as client, full};
use bismuth_testkit::{Cluster, eventually};
use http::Request;
use serde_json::json;

use crate::common::{
    Reading, SOON, Wire, channel_body, exec, header, problem, processes_with, script, text, with,
};

/// The variable by which a request's processes are found on the host.
fn mark(request_id: &str) -> String {
    format!("BISMUTH_REQUEST_ID={request_id}")
}

async fn are_gone(request_id: &str) {
    eventually(
        "the program and its children are gone",
        SOON,
        async || match processes_with(&mark(request_id)) {
            alive if alive.is_empty() => Ok(()),
            alive => Err(format!("{alive:?} live on")),
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_reads_its_input_while_its_output_is_read_and_its_exit_code_is_a_trailer()
-> Result<()> {
    let cluster = Cluster::start().await?;
    let id = cluster
        .deploy(&script(
            "while read -r line; do echo \"got $line\"; done; exit 3",
        ))
        .await?;
    let url = cluster.frontend_url(&format!("/invoke/{id}"));
    // Several at once, so that one that waits for its input is seen to hold nobody up.
    let mut conversations = Vec::new();
    for _ in 0..8 {
        let (pieces, body) = channel_body();
        pieces.send("hello\n".into())?;
        let request = Request::post(&url).header("te", "trailers").body(body)?;
        let mut reading = Reading::new(client::send(request).await?);
        ensure!(reading.until("\n").await? == "got hello\n");
        conversations.push((pieces, reading));
    }
    for number in 0..5 {
        for (pieces, reading) in &mut conversations {
            pieces.send(format!("{number}\n").into())?;
            let line = reading.until("\n").await?;
            ensure!(line == format!("got {number}\n"), "{line:?}");
        }
    }
    for (pieces, mut reading) in conversations {
        drop(pieces);
        ensure!(reading.rest().await?.is_empty());
        ensure!(
            reading.trailers["x-bismuth-exit-code"] == "3",
            "{:?}",
            reading.trailers
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_and_a_timeout_kill_the_program_with_its_children() -> Result<()> {
    let cluster = Cluster::start().await?;
    let talkative = cluster
        .deploy(&script("sleep 10000 & echo up; sleep 10000"))
        .await?;
    let silent = script("sleep 10000 & sleep 10000");
    let silent = cluster
        .deploy(&with(silent, &json!({ "timeout_ms": 500 })))
        .await?;
    let url = |id: &str| cluster.frontend_url(&format!("/invoke/{id}"));

    let mut wire = Wire::connect(&url(&talkative)).await?;
    wire.send(format!(
        "GET /invoke/{talkative} HTTP/1.1\r\nhost: a\r\nx-request-id: leaving-client\r\n\r\n"
    ))
    .await?;
    let head = wire.head().await?;
    ensure!(head.starts_with("http/1.1 200 "), "{head}");
    ensure!(
        wire.exactly(8).await?.ends_with(b"up\n\r\n"),
        "not the first line as one chunk"
    );
    let alive = processes_with(&mark("leaving-client"));
    ensure!(
        alive.len() >= 2,
        "a shell and what it started, not {alive:?}"
    );
    wire.leave()?;
    are_gone("leaving-client").await;

    let request = Request::get(url(&silent))
        .header("x-request-id", "too-slow")
        .body(full(""))?;
    let answer = client::send_whole(request).await?;
    let refused = problem(&answer, 504, "function_timeout")?;
    ensure!(
        refused["detail"]
            .as_str()
            .is_some_and(|detail| detail.contains("500 ms")),
        "{refused}"
    );
    are_gone("too-slow").await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn how_a_program_ended_is_known_before_and_after_its_first_byte() -> Result<()> {
    let cluster = Cluster::start().await?;
    let programs = [
        ("exit 7", 502, "exit code 7"),
        ("kill -9 $$", 502, "signal 9"),
        ("exit 0", 200, ""),
    ];
    for (lines, status, words) in programs {
        let id = cluster.deploy(&script(lines)).await?;
        let answer = cluster.invoke(&id).await?;
        ensure!(
            answer.status() == status,
            "{lines}: {} {}",
            answer.status(),
            text(&answer)
        );
        if status != 200 {
            let problem = problem(&answer, status, "program_failed")?;
            ensure!(
                problem["detail"]
                    .as_str()
                    .is_some_and(|detail| detail.contains(words)),
                "{lines}: {problem}"
            );
        }
    }
    // Killed in the middle: nobody may take the part for the whole.
    let id = cluster.deploy(&script("echo part; kill -9 $$")).await?;
    let broken = cluster.invoke(&id).await;
    ensure!(broken.is_err(), "a broken answer looks whole: {broken:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_learns_the_request_from_its_environment() -> Result<()> {
    let cluster = Cluster::start().await?;
    let definition = with(
        exec(&["/usr/bin/env"]),
        &json!({ "env": { "COLOUR": "green" } }),
    );
    let id = cluster.deploy(&definition).await?;
    let request = Request::put(cluster.frontend_url(&format!("/invoke/{id}/a%20path/b?c=d&e=%20")))
        .header("content-type", "text/x-note")
        .header("content-length", "4")
        .header("x-request-id", "request-17")
        .header("x-fruit", "apple")
        .body(full("body"))?;
    let answer = client::send_whole(request).await?;
    ensure!(
        answer.status() == 200,
        "{} {}",
        answer.status(),
        text(&answer)
    );
    let container = header(&answer, "x-bismuth-container-id").to_owned();
    let environment = text(&answer);
    for expected in [
        "REQUEST_METHOD=PUT",
        "PATH_INFO=/a path/b",
        "QUERY_STRING=c=d&e=%20",
        "CONTENT_TYPE=text/x-note",
        "CONTENT_LENGTH=4",
        "HTTP_X_FRUIT=apple",
        "COLOUR=green",
        "REMOTE_ADDR=127.0.0.1",
        "BISMUTH_REQUEST_ID=request-17",
        &format!("BISMUTH_FUNCTION_ID={id}"),
        &format!("BISMUTH_CONTAINER_ID={container}"),
    ] {
        environment
            .lines()
            .find(|line| *line == expected)
            .with_context(|| format!("no {expected} in\n{environment}"))?;
    }
    Ok(())
}
