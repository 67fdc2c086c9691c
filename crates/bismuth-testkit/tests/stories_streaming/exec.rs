//! Exec functions: a program per request.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bismuth_testkit::http::{self as client, full};
use bismuth_testkit::{Cluster, eventually};
use http::Request;
use serde_json::json;

use crate::common::{
    BodyReader, Deployed, RawConnection, SOON, channel_body, exec, header, ok, problem_with,
    processes_with, script, soon, text, with,
};

/// The variable by which a request's processes are found on the host.
fn mark(request_id: &str) -> String {
    format!("BISMUTH_REQUEST_ID={request_id}")
}

async fn are_gone(request_id: &str) {
    let what = "the program and its children are gone";
    eventually(what, SOON, async || {
        let alive = processes_with(&mark(request_id));
        ensure!(alive.is_empty(), "{alive:?} live on");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_reads_its_input_while_its_output_is_read_and_its_exit_code_is_a_trailer()
-> Result<()> {
    let lines = "while read -r line; do echo \"got $line\"; done; exit 3";
    let deployed = Deployed::start(&script(lines)).await?;
    // Several at once, so that one that waits for its input is seen to hold nobody up.
    let mut conversations = Vec::new();
    for _ in 0..8 {
        let (pieces, body) = channel_body();
        pieces.send("hello\n".into())?;
        let request = Request::post(deployed.url("")).header("te", "trailers");
        let request = request.body(body)?;
        let mut reader = BodyReader::new(client::send(request).await?);
        ensure!(reader.until("\n").await? == "got hello\n");
        conversations.push((pieces, reader));
    }
    for number in 0..5 {
        for (pieces, reader) in &mut conversations {
            pieces.send(format!("{number}\n").into())?;
            let line = reader.until("\n").await?;
            ensure!(line == format!("got {number}\n"), "{line:?}");
        }
    }
    for (pieces, mut reader) in conversations {
        drop(pieces);
        ensure!(reader.rest().await?.is_empty());
        ensure!(
            reader.trailers["x-bismuth-exit-code"] == "3",
            "{:?}",
            reader.trailers
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

    let mut raw = RawConnection::connect(&url(&talkative)).await?;
    raw.send(format!(
        "GET /invoke/{talkative} HTTP/1.1\r\nhost: a\r\nx-request-id: leaving-client\r\n\r\n"
    ))
    .await?;
    let head = raw.head().await?;
    ensure!(head.starts_with("http/1.1 200 "), "{head}");
    ensure!(
        raw.exactly(8).await?.ends_with(b"up\n\r\n"),
        "not the first line as one chunk"
    );
    let alive = processes_with(&mark("leaving-client"));
    ensure!(
        alive.len() >= 2,
        "a shell and what it started, not {alive:?}"
    );
    raw.reset()?;
    are_gone("leaving-client").await;

    let request = Request::get(url(&silent))
        .header("x-request-id", "too-slow")
        .body(full(""))?;
    let answer = client::send_whole(request).await?;
    problem_with(&answer, 504, "function_timeout", "500 ms")?;
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
        match status {
            200 => drop(ok(&answer).context(lines)?),
            _ => drop(problem_with(&answer, status, "program_failed", words).context(lines)?),
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
    let colour = json!({ "env": { "COLOUR": "green" } });
    let deployed = Deployed::start(&with(exec(&["/usr/bin/env"]), &colour)).await?;
    let request = Request::put(deployed.url("/a%20path/b?c=d&e=%20"))
        .header("content-type", "text/x-note")
        .header("content-length", "4")
        .header("x-request-id", "request-17")
        .header("x-fruit", "apple")
        .body(full("body"))?;
    let answer = client::send_whole(request).await?;
    let environment = ok(&answer)?;
    let container = header(&answer, "x-bismuth-container-id").to_owned();
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
        &format!("BISMUTH_FUNCTION_ID={}", deployed.id),
        &format!("BISMUTH_CONTAINER_ID={container}"),
    ] {
        environment
            .lines()
            .find(|line| *line == expected)
            .with_context(|| format!("no {expected} in\n{environment}"))?;
    }
    Ok(())
}

/// The lines that a function has printed to its log.
async fn logged(cluster: &Cluster, id: &str) -> Result<Vec<String>> {
    let log = client::get(&cluster.api_url(&format!("/function/{id}/logs"))).await?;
    let lines = text(&log);
    let lines = lines.lines().filter_map(|line| line.splitn(5, ' ').nth(4));
    Ok(lines.map(str::to_owned).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn half_an_upload_is_never_taken_for_a_whole_one() -> Result<()> {
    let count = "n=$(wc -c); echo \"took $n\" >&2; echo $n";
    let lines = format!("[ \"$QUERY_STRING\" = begin ] && echo begun; {count}");
    let definition = with(script(&lines), &json!({ "idle_timeout_ms": 1000 }));
    let deployed = Deployed::start(&definition).await?;
    let (cluster, url) = (&deployed.cluster, deployed.url(""));
    let whole = client::post(&url, "whole").await?;
    ensure!(text(&whole) == "5\n", "{} {}", whole.status(), text(&whole));
    let container = header(&whole, "x-bismuth-container-id").to_owned();
    // Without the frontend, which would notice all of this as well.
    let node = format!("{}:{}", cluster.nodes[0].ip, cluster.node_port());
    let direct = format!("/invoke/{container}");
    let head = |query: &str, id: &str, framing: &str| {
        format!(
            "POST {direct}{query} HTTP/1.1\r\nhost: a\r\nx-request-id: {id}\r\n{framing}\r\n\r\n"
        )
    };
    const CHUNKED: &str = "transfer-encoding: chunked";

    // It stalls. The frontend has the same bound, and which of the two says so first is chance.
    let near = format!("http://{node}{direct}");
    let (ours, frontends) = ("request_body_timeout", "request_timeout");
    for (base, id, codes) in [
        (near, "stalls", vec![ours]),
        (url.clone(), "stalls-far", vec![ours, frontends]),
    ] {
        let (pieces, body) = channel_body();
        pieces.send("half".into())?;
        let request = Request::post(base).header("x-request-id", id).body(body)?;
        let answer = client::send_whole(request).await?;
        let code = header(&answer, "x-bismuth-error");
        ensure!(codes.contains(&code), "{code}");
        let words = "the request body was silent for 1000 ms";
        problem_with(&answer, 408, code, words)?;
        are_gone(id).await;
    }

    // It is malformed, before and after the answer has begun.
    let mut raw = RawConnection::connect(&format!("http://{node}")).await?;
    raw.send(head("", "malformed", CHUNKED) + "4\r\nhalf\r\nno chunk\r\n")
        .await?;
    let answer = raw.head().await?;
    ensure!(
        answer.starts_with("http/1.1 400 ") && answer.contains("request_body_broken"),
        "{answer}"
    );
    are_gone("malformed").await;
    let mut raw = RawConnection::connect(&format!("http://{node}")).await?;
    raw.send(head("?begin", "begun", CHUNKED) + "4\r\nhalf\r\n")
        .await?;
    let answer = raw.head().await?;
    ensure!(answer.starts_with("http/1.1 200 "), "{answer}");
    ensure!(raw.exactly(11).await? == b"6\r\nbegun\n\r\n");
    raw.send("no chunk\r\n").await?;
    ensure!(!raw.rest().await?.contains("0\r\n"), "it looks whole");
    are_gone("begun").await;

    // It is cut off: the client resets the connection, or says that nothing more comes.
    for (id, resets) in [("reset", true), ("half-closed", false)] {
        let mut raw = RawConnection::connect(&format!("http://{node}")).await?;
        raw.send(head("", id, "content-length: 10") + "half")
            .await?;
        eventually("the program runs", SOON, async || {
            ensure!(!processes_with(&mark(id)).is_empty(), "not yet");
            Ok(())
        })
        .await;
        if resets {
            raw.reset()?;
        } else {
            raw.finish().await?;
            let answer = raw.rest().await?;
            ensure!(!answer.contains("200 OK"), "{answer}");
        }
        are_gone(id).await;
    }

    let again = client::post(&url, "again!").await?;
    ensure!(text(&again) == "6\n", "{} {}", again.status(), text(&again));
    eventually("both whole uploads are in the log", SOON, async || {
        let lines = logged(cluster, &deployed.id).await?;
        ensure!(
            lines.last().is_some_and(|last| last == "took 6"),
            "{lines:?}"
        );
        Ok(())
    })
    .await;
    let lines = logged(cluster, &deployed.id).await?;
    ensure!(lines == ["took 5", "took 6"], "{lines:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_need_not_read_all_that_is_sent() -> Result<()> {
    let cluster = Cluster::start().await?;
    for (lines, printed) in [
        ("head -c 4", "xxxx"),
        (
            "exec <&-; echo closed; sleep 1; echo still",
            "closed\nstill\n",
        ),
    ] {
        let id = cluster.deploy(&script(lines)).await?;
        let url = cluster.frontend_url(&format!("/invoke/{id}"));
        let answer = client::post(&url, vec![b'x'; 4 << 20]).await?;
        ensure!(ok(&answer)? == printed, "{lines}: {}", text(&answer));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_may_take_longer_than_the_program_may_after_it() -> Result<()> {
    const PIECES: usize = 10;
    let definition = with(script("wc -c"), &json!({ "timeout_ms": 1000 }));
    let deployed = Deployed::start(&definition).await?;
    let (pieces, body) = channel_body();
    let request = Request::post(deployed.url("")).body(body)?;
    let answer = tokio::spawn(client::send_whole(request));
    // Three times what is allowed for the output, each wait well below it.
    let mut pace = tokio::time::interval(Duration::from_millis(300));
    for _ in 0..PIECES {
        pace.tick().await;
        pieces.send("piece".into())?;
    }
    drop(pieces);
    let counted = ok(&answer.await??)?;
    ensure!(
        counted == format!("{}\n", PIECES * "piece".len()),
        "{counted}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_background_process_neither_delays_the_answer_nor_outlives_it_on_a_busy_container()
-> Result<()> {
    // The sixth number of a process is its session, proc_pid_stat(5): it is a daemon by then.
    let is_daemon = r#"until [ "$(cut -d' ' -f6 /proc/$!/stat)" = $! ]; do :; done;"#;
    let lines = format!(
        "case $QUERY_STRING in \
         busy) cat;; \
         ok) setsid sleep 10000 & {is_daemon} echo ok;; \
         fail) setsid sleep 10000 & {is_daemon} exit 7;; \
         noisy) setsid yes & {is_daemon} exit 0;; \
         esac"
    );
    let deployed = Deployed::start(&script(&lines)).await?;
    let url = |query: &str| deployed.url(&format!("?{query}"));
    let (pieces, body) = channel_body();
    pieces.send("busy\n".into())?;
    let busy = client::send(Request::post(url("busy")).body(body)?).await?;
    let container = header(&busy, "x-bismuth-container-id").to_owned();
    let mut busy = BodyReader::new(busy);
    ensure!(busy.until("\n").await? == "busy\n");
    for (query, status) in [("ok", 200), ("fail", 502), ("noisy", 200)] {
        let request = Request::get(url(query))
            .header("x-request-id", format!("left-over-{query}"))
            .body(full(""))?;
        let answer = soon("the answer", client::send_whole(request)).await??;
        ensure!(header(&answer, "x-bismuth-container-id") == container);
        if query == "ok" {
            ensure!(text(&answer) == "ok\n", "{}", text(&answer));
        }
        if status == 502 {
            problem_with(&answer, 502, "program_failed", "exit code 7")?;
        } else {
            ensure!(answer.status() == status, "{}", answer.status());
        }
        are_gone(&format!("left-over-{query}")).await;
    }
    drop(pieces);
    ensure!(busy.rest().await?.is_empty());
    Ok(())
}
