//! `delete-function --purge`.

use serde_json::json;

use crate::harness::{CommandOutput, CtlHarness, run};
use crate::provider::Provider;

const CREATE: [&str; 3] = ["create-function", "alpine", "exec:/bin/ls"];

async fn delete(harness: &CtlHarness, provider: &Provider, id: &str) -> CommandOutput {
    let mut command = harness.command(&["delete-function", id, "--purge", "-o", "json"]);
    run(command.envs(provider.services.operator())).await
}

async fn fill(provider: &Provider, group: &str) {
    let put = ["kv", "put", "k", "x", "-g", group];
    provider.ctl(&put).await.ok();
    let put = ["blob", "put", "b", "-g", group];
    provider.piped(&put, b"x").await.ok();
}

#[tokio::test]
async fn purge_deletes_the_data_of_a_function_with_it() {
    let (harness, provider) = (CtlHarness::start().await, Provider::start().await);
    harness.ctl(&["bootstrap"]).await.ok();
    let keeps = harness.ctl(&CREATE).await.ok().to_owned();
    let goes = harness.ctl(&CREATE).await.ok().to_owned();
    fill(&provider, &keeps).await;
    fill(&provider, &goes).await;
    harness.ctl(&["delete-function", &keeps]).await.ok();
    let deleted = delete(&harness, &provider, &goes).await;
    assert_eq!(
        deleted.json(),
        json!({"id": goes, "group": goes, "purged": {"kv": 1, "blobs": 1, "secrets": 0}, "used_by": []})
    );
    assert_eq!(provider.groups().await, [keeps.as_str()]);
    delete(&harness, &provider, &goes)
        .await
        .failed(3, &["does not exist"]);
}

#[tokio::test]
async fn data_of_a_group_that_another_function_uses_stays() {
    let (harness, provider) = (CtlHarness::start().await, Provider::start().await);
    harness.ctl(&["bootstrap"]).await.ok();
    let create = [&CREATE[..], &["--svc-group-id", "shop"]].concat();
    let first = harness.ctl(&create).await.ok().to_owned();
    let second = harness.ctl(&create).await.ok().to_owned();
    fill(&provider, "shop").await;
    let deleted = delete(&harness, &provider, &first).await;
    assert_eq!(
        deleted.json(),
        json!({"id": first, "group": "shop", "purged": null, "used_by": [second]})
    );
    assert!(
        deleted
            .stderr
            .contains(&format!("group shop is used by {second}")),
        "{}",
        deleted.stderr
    );
    assert_eq!(provider.groups().await, ["shop"]);
    delete(&harness, &provider, &second).await.ok();
    assert!(provider.groups().await.is_empty());
}

#[tokio::test]
async fn a_function_whose_data_cannot_be_deleted_is_not_deleted() {
    let (harness, mut provider) = (CtlHarness::start().await, Provider::start().await);
    harness.ctl(&["bootstrap"]).await.ok();
    let id = harness.ctl(&CREATE).await.ok().to_owned();
    fill(&provider, &id).await;
    let file = provider.services.token_file();
    let token = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, "another").unwrap();
    delete(&harness, &provider, &id)
        .await
        .failed(1, &["does not accept the token"]);
    std::fs::write(&file, token).unwrap();
    provider.services.daemon_mut().kill().await.unwrap();
    delete(&harness, &provider, &id)
        .await
        .failed(1, &["connect to svcprovider"]);
    harness.ctl(&["get-function", &id]).await.ok();
}
