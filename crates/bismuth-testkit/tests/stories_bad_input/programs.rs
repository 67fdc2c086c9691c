//! Functions that cannot be started or that die: the reason is reported to deployer and client.

use anyhow::{Context, Result, bail, ensure};
use bismuth_testkit::http as client;
use bismuth_testkit::{Cluster, Image, eventually, image};
use serde_json::{Value, json};

use crate::common::{Deployed, SOON, echo_server, exec, header, ok, problem_with, server, with};

/// How a request to a function that failed is answered.
type Answer = (u16, &'static str);

/// Deploys what fails, and checks that both its deployer and its client are told with these words.
async fn check(cluster: &Cluster, failing: &Value, reason: &[&str], answer: Answer) -> Result<()> {
    let id = cluster.create_function(failing).await?;
    let shown = has_failed(cluster, &id).await;
    for words in reason {
        ensure!(
            shown.contains(words),
            "{failing}: no {words:?} in {shown:?}"
        );
    }
    let (status, code) = answer;
    let answer = cluster.invoke(&id).await?;
    for words in reason {
        problem_with(&answer, status, code, words).with_context(|| failing.to_string())?;
    }
    let retry = header(&answer, "retry-after");
    ensure!(retry.parse::<u32>().is_ok(), "{answer:?}");
    Ok(())
}

/// Waits until a function has failed; the reason that its deployer is told.
async fn has_failed(cluster: &Cluster, id: &str) -> String {
    eventually(&format!("{id} has failed"), SOON, async || {
        let function = cluster.function(id).await?;
        let slot = &function["backends"][0];
        match slot["reason"].as_str() {
            Some(reason) if slot["status"] == "Failed" => Ok(reason.to_owned()),
            _ => bail!("{function}"),
        }
    })
    .await
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
    let mut blobs = broken.blobs().iter();
    let layer = blobs.find(|blob| blob.media_type().contains("layer"));
    let layer = layer.context("no layer")?;
    cluster
        .registry
        .damage_blob(layer.digest(), b"something else")?;
    let unavailable = (502, "image_unavailable");
    let by_digest = format!("alpine@sha256:{}", "0".repeat(64));
    for (image, reason) in [
        ("nosuch:1", &["library/nosuch:1", "unknown"][..]),
        ("alpine:nosuch", &["alpine:nosuch", "manifest unknown"]),
        (&by_digest, &["sha256:0000", "manifest unknown"]),
        ("broken:1", &["sha256:"]),
    ] {
        let failing = of_image(&format!("docker.io/library/{image}"));
        check(&cluster, &failing, reason, unavailable).await?;
    }
    // A repaired image is taken at the next redeploy, without anything else being touched.
    cluster
        .registry
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
            let checked = check(&cluster, &server, &[program], (502, code)).await;
            checked.context(runtime)?;
        }
    }

    // An exec function is only an agent until a request comes; the request learns that its program is missing.
    let cluster = Cluster::start().await?;
    let id = cluster.deploy(&exec(&["/bin/nosuch"])).await?;
    let refused = cluster.invoke(&id).await?;
    problem_with(&refused, 502, "program_not_runnable", "/bin/nosuch").map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_ends_or_does_not_answer_fails_with_what_it_did() -> Result<()> {
    let cluster = Cluster::start().await?;
    let quick = json!({ "startup_timeout_ms": 1000 });
    let other_port = json!({ "invoke_mode": { "Server": [["/echo-server"], 9999] } });
    let dying = ["/bin/sh", "-c", "echo last words; kill -TERM $$; sleep 1"];
    let dying = json!({ "invoke_mode": { "Server": [dying, 8000] }, "startup_timeout_ms": 5000 });
    let (late, ended) = ((504, "startup_timeout"), (502, "program_ended"));
    let cases = [
        (
            with(with(echo_server(), &other_port), &quick),
            &["port 9999", "8000"][..],
            late,
        ),
        (
            with(server(&["--never-listen"]), &quick),
            &["nothing listens on port 8000"],
            late,
        ),
        (
            server(&["--exit-at-start", "3"]),
            &["exit code 3", "told to exit with 3"],
            ended,
        ),
        (with(exec(&[]), &dying), &["last words"], ended),
        (
            with(echo_server(), &json!({ "user": "nosuchuser" })),
            &["nosuchuser"],
            (502, "user_unknown"),
        ),
    ];
    for (failing, reason, answer) in cases {
        check(&cluster, &failing, reason, answer).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_dies_or_is_too_slow_is_told_apart_from_one_that_answers_500() -> Result<()>
{
    let definition = with(echo_server(), &json!({ "timeout_ms": 1000 }));
    let deployed = Deployed::start(&definition).await?;
    let ask = async |rest: &str| client::get(&deployed.url(rest)).await;

    let own = ask("/status?code=500").await?;
    ensure!(
        own.status() == 500 && header(&own, "x-bismuth-error").is_empty(),
        "{own:?}"
    );
    let slow = ask("/sleep?ms=600000").await?;
    problem_with(&slow, 504, "function_timeout", "1000 ms")?;
    let part = ask("/bytes?n=100000&abort=1").await;
    ensure!(part.is_err(), "a part was taken for the whole: {part:?}");

    let died = ask("/abort").await?;
    problem_with(&died, 502, "program_ended", "killed by signal")?;
    let reason = has_failed(&deployed.cluster, &deployed.id).await;
    ensure!(reason.contains("killed by signal"), "{reason}");
    eventually("a later request starts it again", SOON, async || {
        ok(&ask("/").await?)
    })
    .await;
    Ok(())
}
