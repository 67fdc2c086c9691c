//! Requests for no function, and ambiguous requests (smuggling).

use anyhow::{Context, Result, ensure};
use bismuth_testkit::http as client;
use bismuth_testkit::{Cluster, eventually};
use serde_json::Value;

use crate::common::{RawConnection, SOON, echo_server, get_with, header, problem, problem_with};

const NOBODY: &str = "0b0b0b0b-0b0b-0b0b-0b0b-0b0b0b0b0b0b";

#[tokio::test(flavor = "multi_thread")]
async fn a_request_for_no_function_is_not_found_and_one_for_a_function_without_backends_is_unavailable()
-> Result<()> {
    let cluster = Cluster::start().await?;
    let ask = async |path: &str| client::get(&cluster.frontend_url(path)).await;

    let refused = ask(&format!("/invoke/{NOBODY}/a")).await?;
    problem(&refused, 404, "unknown_function")?;
    for malformed in ["1", "", "..", &NOBODY[1..], &NOBODY.replace("0b", "0G")] {
        let refused = ask(&format!("/invoke/{malformed}/a")).await?;
        let words = format!("{malformed:?}");
        problem_with(&refused, 404, "malformed_function_id", &words)?;
    }
    problem(&ask("/").await?, 404, "no_route")?;
    let refused = get_with(&cluster.frontend_url("/"), &[("host", "nobody.example")]).await?;
    problem_with(&refused, 404, "no_route", "nobody.example")?;

    let id = cluster.deploy(&echo_server()).await?;
    let function = cluster.function(&id).await?;
    let backend = &function["backends"][0]["backend"];
    let (ip, container) = (
        backend["ip"].as_str().context("no ip")?,
        backend["container_id"].as_str().context("no id")?,
    );
    cluster
        .ctl_ok(&["remove-backend", &id, ip, container])
        .await?;
    let refused = eventually("the frontend knows of no backend", SOON, async || {
        let answer = cluster.invoke(&id).await?;
        let is_meant = header(&answer, "x-bismuth-error") == "no_backend";
        ensure!(is_meant, "{answer:?}");
        Ok(answer)
    })
    .await;
    let words = problem(&refused, 503, "no_backend")?;
    ensure!(
        words["retryable"] == true && header(&refused, "retry-after").parse::<u32>().is_ok(),
        "{refused:?}"
    );
    Ok(())
}

/// Each is one head that some parser reads otherwise than we do.
const AMBIGUOUS: &[&str] = &[
    "Content-Length: 4\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\r\nContent-Length: 4",
    "Content-Length: 4\r\nContent-Length: 5",
    "Content-Length: 4, 5",
    "Content-Length: +4",
    "Content-Length: -1",
    "Transfer-Encoding: chunked, identity",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: gzip",
    "Transfer-Encoding : chunked",
    "X: a\r\n Transfer-Encoding: chunked",
    "X: a\nTransfer-Encoding: chunked",
    "X: a\rTransfer-Encoding: chunked",
    "Host: elsewhere",
];

#[tokio::test(flavor = "multi_thread")]
async fn an_ambiguous_request_is_refused_its_connection_closed_and_nothing_reaches_the_function()
-> Result<()> {
    let cluster = Cluster::start().await?;
    let id = cluster.deploy(&echo_server()).await?;
    let served = async || -> Result<u64> {
        let answer = client::get(&cluster.frontend_url(&format!("/invoke/{id}/self"))).await?;
        serde_json::from_slice::<Value>(answer.body())?["requests"]
            .as_u64()
            .context("no number")
    };
    let before = served().await?;
    for shape in AMBIGUOUS {
        let mut raw = RawConnection::connect(&cluster.frontend_url("/")).await?;
        // What follows the head is a request to one reader and a body to the other.
        let smuggled = format!("0\r\n\r\nGET /invoke/{id}/smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
        raw.send(format!(
            "POST /invoke/{id}/echo HTTP/1.1\r\nHost: a\r\n{shape}\r\n\r\n{smuggled}"
        ))
        .await?;
        let answer = raw.rest().await?;
        ensure!(answer.starts_with("HTTP/1.1 400 "), "{shape:?}: {answer}");
        let answers = answer.matches("HTTP/1.1 ").count();
        ensure!(answers == 1, "{shape:?}: {answers} answers: {answer}");
        let is_closed = answer.to_lowercase().contains("connection: close");
        ensure!(
            is_closed && answer.contains("application/problem+json"),
            "{shape:?}: {answer}"
        );
    }
    // This question is one itself.
    let after = served().await?;
    ensure!(
        after == before + 1,
        "the function served {} requests meanwhile",
        after - before - 1
    );

    let mut raw = RawConnection::connect(&cluster.frontend_url("/")).await?;
    let large = "a".repeat(80 << 10);
    raw.send(format!(
        "GET /invoke/{id}/ HTTP/1.1\r\nHost: a\r\nX: {large}\r\n\r\n"
    ))
    .await?;
    let answer = raw.rest().await?;
    ensure!(
        answer.starts_with("HTTP/1.1 431 ") && answer.contains("head_too_large"),
        "{answer}"
    );
    Ok(())
}
