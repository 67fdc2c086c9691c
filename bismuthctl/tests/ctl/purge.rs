//! Deleting a function with its data.

use bismuth_operator::fake::write_token;
use serde_json::json;

use crate::harness::{Ran, World, run};
use crate::provider::Provider;

const CREATE: [&str; 3] = ["create-function", "alpine", "exec:/bin/ls"];

async fn delete(world: &World, provider: &Provider, id: &str) -> Ran {
    let mut command = world.command(&["delete-function", id, "--purge", "-o", "json"]);
    provider.told(&mut command);
    run(&mut command).await
}

fn fill(provider: &Provider, group: &str) {
    let mut state = provider.0.state();
    let entry = state.entry("x");
    let group = state.group(group);
    group.kv.insert("k".to_owned(), entry.clone());
    group.blobs.insert("b".to_owned(), entry);
}

#[tokio::test]
async fn the_data_of_a_function_goes_with_it_if_it_is_asked_for() {
    let (world, provider) = (World::start().await, Provider::start().await);
    world.ctl(&["bootstrap"]).await.ok();
    let keeps = world.ctl(&CREATE).await.ok().to_owned();
    let goes = world.ctl(&CREATE).await.ok().to_owned();
    fill(&provider, &keeps);
    fill(&provider, &goes);
    world.ctl(&["delete-function", &keeps]).await.ok();
    let deleted = delete(&world, &provider, &goes).await;
    assert_eq!(
        deleted.json(),
        json!({"id": goes, "group": goes, "purged": {"kv": 1, "blobs": 1, "secrets": 0}, "used_by": []})
    );
    let groups: Vec<String> = provider.0.state().groups.keys().cloned().collect();
    assert_eq!(groups, [keeps.as_str()]);
    delete(&world, &provider, &goes)
        .await
        .failed(3, &["does not exist"]);
}

#[tokio::test]
async fn data_that_another_function_works_on_stays() {
    let (world, provider) = (World::start().await, Provider::start().await);
    world.ctl(&["bootstrap"]).await.ok();
    let create = [&CREATE[..], &["--svc-group-id", "shop"]].concat();
    let first = world.ctl(&create).await.ok().to_owned();
    let second = world.ctl(&create).await.ok().to_owned();
    fill(&provider, "shop");
    let deleted = delete(&world, &provider, &first).await;
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
    assert!(provider.0.state().groups.contains_key("shop"));
    delete(&world, &provider, &second).await.ok();
    assert!(provider.0.state().groups.is_empty());
}

#[tokio::test]
async fn a_function_whose_data_cannot_be_deleted_stays_too() {
    let (world, mut provider) = (World::start().await, Provider::start().await);
    world.ctl(&["bootstrap"]).await.ok();
    let id = world.ctl(&CREATE).await.ok().to_owned();
    fill(&provider, &id);
    let token = std::fs::read_to_string(provider.0.token_file()).unwrap();
    write_token(&provider.0.token_file(), "another").unwrap();
    delete(&world, &provider, &id)
        .await
        .failed(1, &["does not accept the token"]);
    write_token(&provider.0.token_file(), token.trim()).unwrap();
    provider.0.stop().await;
    delete(&world, &provider, &id)
        .await
        .failed(1, &["connect to svcprovider"]);
    world.ctl(&["get-function", &id]).await.ok();
}
