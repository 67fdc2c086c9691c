//! Functions of one service group share keys and blobs; other groups see none of them.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::{ask, calls, cluster, python};

#[tokio::test(flavor = "multi_thread")]
async fn two_functions_of_a_group_share_and_one_of_another_sees_nothing_even_with_their_token()
-> Result<()> {
    let cluster = cluster().await?;
    let one = python(&cluster, "team", &json!({})).await?;
    let two = python(&cluster, "team", &json!({})).await?;
    let stranger = python(&cluster, "others", &json!({})).await?;
    cluster
        .ctl_ok_with(&["secret", "set", "team", "db/password", "-"], "s3cret")
        .await?;

    let results = calls(
        &cluster,
        &one,
        &json!([
            ["PUT", "/kv/v1/greeting", "hello", {"Content-Type": "text/plain"}],
            ["POST", "/kv/v1/visits/incr"],
            ["POST", "/blob/v1/picture", "bytes of it"],
            ["POST", "/blob/v1/picture", "again"],
            ["GET", "/secrets/v1/db/password"],
        ]),
    )
    .await?;
    results.have_statuses(&[201, 200, 201, 409, 200])?;
    ensure!(
        results.answers()[4].1 == "s3cret",
        "{:?}",
        results.answers()
    );

    let results = calls(
        &cluster,
        &two,
        &json!([
            ["GET", "/kv/v1/greeting"],
            ["POST", "/kv/v1/visits/incr"],
            ["GET", "/blob/v1/picture"],
            ["GET", "/blob/v1/"],
            ["GET", "/secrets/v1/db/password"],
        ]),
    )
    .await?;
    let expected = [
        (200, "hello"),
        (200, "2"),
        (200, "bytes of it"),
        (200, r#"["picture"]"#),
        (200, "s3cret"),
    ];
    results.are(&expected)?;

    let reads = json!([
        ["GET", "/kv/v1/greeting"],
        ["GET", "/blob/v1/picture"],
        ["GET", "/blob/v1/"],
        ["GET", "/secrets/v1/db/password"],
    ]);
    let results = calls(&cluster, &stranger, &reads).await?;
    results.have_statuses(&[404, 404, 200, 404])?;
    ensure!(results.answers()[2].1 == "[]", "{:?}", results.answers());
    // Their token opens their own socket and no other.
    let token = calls(&cluster, &one, &json!([])).await?.0["token"]
        .as_str()
        .context("no token")?
        .to_owned();
    let results = ask(
        &cluster,
        &stranger,
        &json!({ "token": token, "calls": reads }),
    )
    .await?;
    results.have_statuses(&[401, 401, 401, 401])?;

    // What operators see is the same data.
    let value = cluster
        .ctl_ok(&["kv", "get", "greeting", "--group", "team"])
        .await?;
    ensure!(value == "hello", "{value:?}");
    let groups = cluster.ctl_ok(&["group", "list"]).await?;
    ensure!(groups.contains("team"), "{groups}");
    cluster.ctl_ok(&["group", "purge", "team"]).await?;
    let results = calls(&cluster, &one, &reads).await?;
    results.have_statuses(&[404, 404, 200, 404])?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn quotas_and_bad_input_are_refused_and_change_nothing() -> Result<()> {
    let cluster = cluster().await?;
    let quotas = json!({ "svc_quotas": { "kv_keys": 1, "kv_bytes": 64 } });
    let id = python(&cluster, "small", &quotas).await?;
    let results = calls(
        &cluster,
        &id,
        &json!([
            ["PUT", "/kv/v1/a", "1"],
            ["PUT", "/kv/v1/b", "2"],
            ["PUT", "/kv/v1/a", "x".repeat(100)],
            ["GET", "/kv/v1/../a"],
            ["GET", "/kv/v1/%ff"],
            ["GET", format!("/kv/v1/{}", "k".repeat(513))],
            ["PATCH", "/kv/v1/a"],
            ["PUT", "/kv/v1/a", "3", {"If-Match": "\"0\""}],
            ["GET", "/kv/v1/a"],
        ]),
    )
    .await?;
    let expected = [201, 507, 413, 400, 400, 400, 405, 412, 200];
    results.have_statuses(&expected)?;
    ensure!(results.answers()[8].1 == "1", "{:?}", results.answers());
    Ok(())
}
