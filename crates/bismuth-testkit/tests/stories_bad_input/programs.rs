//! Functions that cannot be started or that die: the reason is reported to deployer and client.

use anyhow::{Context, Result, ensure};
use bismuth_testkit::http as client;
use bismuth_testkit::{Cluster, Image, eventually, image};
use serde_json::{Value, json};

use crate::common::{SOON, echo_server, exec, header, problem, server, text, with};

/// A definition that fails, what its status says, and how a request is answered.
struct FailingFunction {
    definition: Value,
    reason: Vec<&'static str>,
    answer: (u16, &'static str),
}

/// Deploys it, waits until it has failed, and checks both what its deployer and what its client is told.
async fn check(cluster: &Cluster, failing: &FailingFunction) -> Result<()> {
    let id = cluster.create_function(&failing.definition).await?;
    let what = format!("{} has failed", failing.definition);
    let reason = eventually(&what, SOON, async || {
        let function = cluster
            .function(&id)
            .await
            .map_err(|error| format!("{error:#}"))?;
        let slot = &function["backends"][0];
        match slot["reason"].as_str() {
            Some(reason) if slot["status"] == "Failed" => Ok(reason.to_owned()),
            _ => Err(slot.to_string()),
        }
    })
    .await;
    for words in &failing.reason {
        ensure!(
            reason.contains(*words),
            "{}: no {words:?} in {reason:?}",
            failing.definition
        );
    }
    let answer = cluster.invoke(&id).await?;
    let told = problem(&answer, failing.answer.0, failing.answer.1)
        .with_context(|| failing.definition.to_string())?;
    ensure!(
        header(&answer, "retry-after").parse::<u32>().is_ok(),
        "{answer:?}"
    );
    for words in &failing.reason {
        ensure!(
            told["detail"]
                .as_str()
                .is_some_and(|detail| detail.contains(*words)),
            "{}: {told}",
            failing.definition
        );
    }
    Ok(())
}

fn of_image(reference: &str) -> Value {
    with(exec(&["/bin/true"]), &json!({ "image": reference }))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_cannot_be_pulled_fails_with_the_error_of_the_registry() -> Result<()> {
    let broken = Image::builder()
        .file("bin/true", 0o755, b"not long for this world")
        .build()?;
    let cluster = Cluster::builder()
        .image("library/broken:1", broken.clone())
        .start()
        .await?;
    let layer = broken
        .blobs()
        .iter()
        .find(|blob| blob.media_type().contains("layer"))
        .context("no layer")?;
    cluster
        .registry()
        .damage_blob(layer.digest(), b"something else")?;
    let unavailable = (502, "image_unavailable");
    let cases = [
        FailingFunction {
            definition: of_image("docker.io/library/nosuch:1"),
            reason: vec!["library/nosuch:1", "unknown"],
            answer: unavailable,
        },
        FailingFunction {
            definition: of_image("docker.io/library/alpine:nosuch"),
            reason: vec!["library/alpine:nosuch", "manifest unknown"],
            answer: unavailable,
        },
        FailingFunction {
            definition: of_image(
                "docker.io/library/alpine@sha256:0000000000000000000000000000000000000000000000000000000000000000",
            ),
            reason: vec!["sha256:0000", "manifest unknown"],
            answer: unavailable,
        },
        FailingFunction {
            definition: of_image("docker.io/library/broken:1"),
            reason: vec!["sha256:"],
            answer: unavailable,
        },
    ];
    for failing in &cases {
        check(&cluster, failing).await?;
    }
    // A repaired image is taken at the next redeploy, without anything else being touched.
    cluster
        .registry()
        .push("library/nosuch:1", &image::alpine()?)
        .await?;
    cluster
        .deploy(&of_image("docker.io/library/nosuch:1"))
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_cannot_be_run_is_named_whichever_runtime_says_so() -> Result<()> {
    let odd = Image::builder()
        .file("bin/odd", 0o755, b"no program at all")
        .file("bin/plain", 0o644, b"text")
        .build()?;
    for runtime in ["crun", "runc"] {
        let cluster = Cluster::builder()
            .image("library/odd:1", odd.clone())
            .runtime(runtime)
            .start()
            .await?;
        // A file that is no program is found out only when it is executed, after the runtime said that all is well.
        for (program, code) in [
            ("/bin/nosuch", "program_not_runnable"),
            ("/bin/plain", "program_not_runnable"),
            ("/bin/odd", "program_ended"),
        ] {
            let server = json!({ "image": "docker.io/library/odd:1", "invoke_mode": { "Server": [[program], 8000] } });
            let failing = FailingFunction {
                definition: server,
                reason: vec![program],
                answer: (502, code),
            };
            check(&cluster, &failing).await.with_context(|| runtime)?;
        }
    }

    // An exec function is only an agent until a request comes; the request learns that its program is missing.
    let cluster = Cluster::start().await?;
    let id = cluster.deploy(&exec(&["/bin/nosuch"])).await?;
    let refused = problem(&cluster.invoke(&id).await?, 502, "program_not_runnable")?;
    ensure!(
        refused["detail"]
            .as_str()
            .is_some_and(|detail| detail.contains("/bin/nosuch")),
        "{refused}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_ends_or_does_not_answer_fails_with_what_it_did() -> Result<()> {
    let cluster = Cluster::start().await?;
    let quick = json!({ "startup_timeout_ms": 1000 });
    let alpine = |argv: &[&str], port: u16| {
        with(
            exec(&[]),
            &json!({ "invoke_mode": { "Server": [argv, port] }, "startup_timeout_ms": 5000 }),
        )
    };
    let cases = [
        FailingFunction {
            definition: with(
                echo_server(),
                &json!({ "invoke_mode": { "Server": [["/echo-server"], 9999] }, "startup_timeout_ms": 1000 }),
            ),
            reason: vec!["port 9999", "8000"],
            answer: (504, "startup_timeout"),
        },
        FailingFunction {
            definition: with(server(&["--never-listen"]), &quick),
            reason: vec!["nothing listens on port 8000"],
            answer: (504, "startup_timeout"),
        },
        FailingFunction {
            definition: server(&["--exit-at-start", "3"]),
            reason: vec!["exit code 3", "told to exit with 3"],
            answer: (502, "program_ended"),
        },
        FailingFunction {
            definition: alpine(
                &["/bin/sh", "-c", "echo last words; kill -TERM $$; sleep 1"],
                8000,
            ),
            reason: vec!["last words"],
            answer: (502, "program_ended"),
        },
        FailingFunction {
            definition: with(echo_server(), &json!({ "user": "nosuchuser" })),
            reason: vec!["nosuchuser"],
            answer: (502, "user_unknown"),
        },
    ];
    for failing in &cases {
        check(&cluster, failing).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_dies_or_is_too_slow_is_told_apart_from_one_that_answers_500() -> Result<()>
{
    let cluster = Cluster::start().await?;
    let id = cluster
        .deploy(&with(echo_server(), &json!({ "timeout_ms": 1000 })))
        .await?;
    let ask =
        async |rest: &str| client::get(&cluster.frontend_url(&format!("/invoke/{id}{rest}"))).await;

    let own = ask("/status?code=500").await?;
    ensure!(
        own.status() == 500 && header(&own, "x-bismuth-error").is_empty(),
        "{own:?}"
    );
    let slow = problem(&ask("/sleep?ms=600000").await?, 504, "function_timeout")?;
    ensure!(
        slow["detail"]
            .as_str()
            .is_some_and(|detail| detail.contains("1000 ms")),
        "{slow}"
    );
    let part = ask("/bytes?n=100000&abort=1").await;
    ensure!(part.is_err(), "a part was taken for the whole: {part:?}");

    let died = problem(&ask("/abort").await?, 502, "program_ended")?;
    ensure!(
        died["detail"]
            .as_str()
            .is_some_and(|detail| detail.contains("killed by signal")),
        "{died}"
    );
    let function = eventually("its deployer sees that it died", SOON, async || {
        let function = cluster
            .function(&id)
            .await
            .map_err(|error| format!("{error:#}"))?;
        if function["backends"][0]["status"] == "Failed" {
            Ok(function)
        } else {
            Err(function["backends"].to_string())
        }
    })
    .await;
    ensure!(
        function["backends"][0]["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("killed by signal")),
        "{function}"
    );
    eventually(
        "a later request starts it again",
        SOON,
        async || match ask("/").await {
            Ok(answer) if answer.status() == 200 => Ok(()),
            Ok(answer) => Err(text(&answer)),
            Err(error) => Err(format!("{error:#}")),
        },
    )
    .await;
    Ok(())
}
