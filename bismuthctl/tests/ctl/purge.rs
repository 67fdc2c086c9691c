//! `delete-function --purge`.

use serde_json::json;

use crate::harness::{CommandOutput, CtlHarness};
use crate::provider::Provider;

const CREATE: &str = "create-function alpine exec:/bin/ls";

async fn start() -> (CtlHarness, Provider) {
    (CtlHarness::bootstrapped().await, Provider::start().await)
}

async fn delete(harness: &CtlHarness, provider: &Provider, id: &str) -> CommandOutput {
    let ctl = harness.with(provider.services.operator());
    ctl.run(&format!("delete-function {id} --purge -o json"))
        .await
}

async fn fill(provider: &Provider, group: &str) {
    provider.ok(&format!("kv put k x -g {group}")).await;
    let put = format!("blob put b -g {group}");
    provider.piped(&put, b"x").await.ok();
}

#[tokio::test]
async fn purge_deletes_the_data_of_a_function_with_it() {
    let (harness, provider) = start().await;
    let keeps = harness.ok(CREATE).await;
    let goes = harness.ok(CREATE).await;
    fill(&provider, &keeps).await;
    fill(&provider, &goes).await;
    harness.ok(&format!("delete-function {keeps}")).await;
    let deleted = delete(&harness, &provider, &goes).await;
    assert_eq!(
        deleted.json(),
        json!({"id": goes, "group": goes, "purged": {"kv": 1, "blobs": 1, "secrets": 0}, "used_by": []})
    );
    assert_eq!(provider.groups().await, [keeps.as_str()]);
    let again = delete(&harness, &provider, &goes).await;
    again.failed(3, &["does not exist"]);
}

#[tokio::test]
async fn data_of_a_group_that_another_function_uses_stays() {
    let (harness, provider) = start().await;
    let create = format!("{CREATE} --svc-group-id shop");
    let first = harness.ok(&create).await;
    let second = harness.ok(&create).await;
    fill(&provider, "shop").await;
    let deleted = delete(&harness, &provider, &first).await;
    assert_eq!(
        deleted.json(),
        json!({"id": first, "group": "shop", "purged": null, "used_by": [second]})
    );
    let (said, used) = (&deleted.stderr, format!("group shop is used by {second}"));
    assert!(said.contains(&used), "{said}");
    assert_eq!(provider.groups().await, ["shop"]);
    delete(&harness, &provider, &second).await.ok();
    assert!(provider.groups().await.is_empty());
}

#[tokio::test]
async fn a_function_whose_data_cannot_be_deleted_is_not_deleted() {
    let (harness, mut provider) = start().await;
    let id = harness.ok(CREATE).await;
    fill(&provider, &id).await;
    let file = provider.services.token_file();
    let token = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, "another").unwrap();
    let refused = delete(&harness, &provider, &id).await;
    refused.failed(1, &["does not accept the token"]);
    std::fs::write(&file, token).unwrap();
    provider.services.daemon_mut().kill().await.unwrap();
    let refused = delete(&harness, &provider, &id).await;
    refused.failed(1, &["connect to svcprovider"]);
    harness.ok(&format!("get-function {id}")).await;
}
