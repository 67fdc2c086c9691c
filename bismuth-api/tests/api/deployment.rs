//! Deployments: requests move to a new revision once it is proven, and the old slots stay until then.

use bismuth_model::{Backend, ContainerState, FunctionId};
use bismuth_testkit::eventually;
use http::Method;
use serde_json::{Value, json};

use crate::harness::{Harness, NODE, RunningApi, SOON, definition};

async fn put(harness: &Harness, id: FunctionId, body: impl ToString) -> Value {
    harness
        .api
        .call(Method::PUT, &format!("/function/{id}"), body.to_string())
        .await
        .ok()
}

async fn routed_to(harness: &Harness, id: FunctionId, wanted: &[Backend]) {
    eventually("requests go there", SOON, async || {
        let routed = harness.routed(id).await;
        if routed == wanted {
            Ok(())
        } else {
            Err(format!("{routed:?}"))
        }
    })
    .await;
}

async fn slots_are(harness: &Harness, id: FunctionId, wanted: &[Backend]) {
    eventually("these slots are left", SOON, async || {
        let slots = harness.all_slots(id).await;
        if slots == wanted {
            Ok(())
        } else {
            Err(format!("{slots:?}"))
        }
    })
    .await;
}

/// A function of one running slot.
async fn deployed(harness: &Harness) -> (FunctionId, Backend) {
    let id = harness.create(&definition()).await;
    let slot = harness.newest(id).await[0];
    harness
        .report_status(slot, ContainerState::Running, None)
        .await;
    (id, slot)
}

#[tokio::test]
async fn requests_move_when_the_new_revision_runs_and_the_old_slots_go() {
    let harness = Harness::with_nodes(&[NODE]).await;
    let (id, old) = deployed(&harness).await;
    let mut next = definition();
    next["env"] = json!({"COLOUR": "red"});
    let shown = put(&harness, id, next).await;
    assert_eq!(shown["definition"]["env"]["COLOUR"], "red");
    let new = harness.newest(id).await[0];
    assert_eq!(
        shown["backends"][0]["backend"]["container_id"],
        json!(new.container_id),
        "newest first"
    );
    assert_eq!(
        (
            &shown["backends"][0]["routed"],
            &shown["backends"][0]["status"]
        ),
        (&json!(false), &json!("Starting"))
    );
    assert_eq!(
        (
            &shown["backends"][1]["routed"],
            &shown["backends"][1]["status"]
        ),
        (&json!(true), &json!("Running"))
    );

    harness
        .report_status(new, ContainerState::Starting, None)
        .await;
    assert_eq!(harness.routed(id).await, [old]);
    harness
        .report_status(new, ContainerState::Running, None)
        .await;
    routed_to(&harness, id, &[new]).await;
    slots_are(&harness, id, &[new]).await;
}

#[tokio::test]
async fn an_empty_body_deploys_the_same_definition_again() {
    let harness = Harness::with_nodes(&[NODE]).await;
    let (id, _) = deployed(&harness).await;
    let before = harness.registry.function(id).await.unwrap().unwrap().record;
    put(&harness, id, "").await;
    let after = harness.registry.function(id).await.unwrap().unwrap().record;
    assert_eq!(after.definition, before.definition);
    assert_eq!(after.revision, before.revision.next());
}

#[tokio::test]
async fn a_revision_that_fails_is_shown_and_the_old_one_goes_on() {
    let harness = Harness::with_nodes(&[NODE]).await;
    let (id, old) = deployed(&harness).await;
    put(&harness, id, "").await;
    let bad = harness.newest(id).await[0];
    harness
        .report_status(bad, ContainerState::Failed, Some("exited with 1"))
        .await;
    let shown = harness.api.get(&format!("/function/{id}")).await.ok();
    assert_eq!(
        (
            &shown["backends"][0]["status"],
            &shown["backends"][0]["reason"]
        ),
        (&json!("Failed"), &json!("exited with 1"))
    );

    // Another revision supersedes it: its slot goes, and the first one is never without requests.
    put(&harness, id, "").await;
    let good = harness.newest(id).await[0];
    slots_are(&harness, id, &[good, old]).await;
    assert_eq!(harness.routed(id).await, [old]);
    harness
        .report_status(good, ContainerState::Running, None)
        .await;
    routed_to(&harness, id, &[good]).await;
    slots_are(&harness, id, &[good]).await;
}

#[tokio::test]
async fn all_instances_must_run_before_requests_move() {
    let harness = Harness::with_nodes(&[NODE]).await;
    let (id, old) = deployed(&harness).await;
    let mut more = definition();
    more["max_instances"] = json!(2);
    put(&harness, id, more).await;
    let new = harness.newest(id).await;
    harness
        .report_status(new[0], ContainerState::Running, None)
        .await;
    assert_eq!(harness.routed(id).await, [old]);
    harness
        .report_status(new[1], ContainerState::Running, None)
        .await;
    routed_to(&harness, id, &new).await;
}

#[tokio::test]
async fn an_api_that_was_killed_in_a_rollout_goes_on_with_it() {
    let mut harness = Harness::with_nodes(&[NODE]).await;
    let (id, _) = deployed(&harness).await;
    put(&harness, id, "").await;
    let new = harness.newest(id).await[0];
    std::mem::replace(&mut harness.api, RunningApi::start(&harness.tree, &[]))
        .stop()
        .await;
    harness
        .report_status(new, ContainerState::Running, None)
        .await;
    routed_to(&harness, id, &[new]).await;
    slots_are(&harness, id, &[new]).await;
}

#[tokio::test]
async fn a_rollout_that_became_ready_while_no_api_ran_is_finished_at_the_start() {
    let mut harness = Harness::with_nodes(&[NODE]).await;
    let (id, old) = deployed(&harness).await;
    put(&harness, id, "").await;
    let new = harness.newest(id).await[0];
    // One that knows another, empty environment takes the place of the first.
    let idle = RunningApi::start_on(bismuth_coord::MemoryTree::new(), &[]);
    std::mem::replace(&mut harness.api, idle).stop().await;
    harness
        .report_status(new, ContainerState::Running, None)
        .await;
    assert_eq!(harness.routed(id).await, [old]);
    let api = RunningApi::start(&harness.tree, &[]);
    routed_to(&harness, id, &[new]).await;
    slots_are(&harness, id, &[new]).await;
    api.stop().await;
}

#[tokio::test]
async fn a_revision_that_another_program_wrote_is_rolled_out_too() {
    let harness = Harness::with_nodes(&[NODE]).await;
    let (id, _) = deployed(&harness).await;
    let function = harness.registry.function(id).await.unwrap().unwrap();
    let slot = Backend {
        ip: NODE,
        container_id: bismuth_model::ContainerId::new_random(),
    };
    harness
        .registry
        .replace_definition(id, &function.record.definition, function.version, &[slot])
        .await
        .unwrap();
    harness
        .report_status(slot, ContainerState::Running, None)
        .await;
    routed_to(&harness, id, &[slot]).await;
    slots_are(&harness, id, &[slot]).await;
}

#[tokio::test]
async fn a_session_that_ends_in_a_rollout_does_not_end_the_rollout() {
    let mut harness = Harness::with_nodes(&[NODE]).await;
    let (id, _) = deployed(&harness).await;
    let tree = harness.tree.another_session();
    let api = RunningApi::start_on(tree.clone(), &[]);
    std::mem::replace(&mut harness.api, api).stop().await;
    put(&harness, id, "").await;
    let new = harness.newest(id).await[0];
    tree.disconnect();
    tree.expire();
    harness
        .report_status(new, ContainerState::Running, None)
        .await;
    tree.reconnect();
    routed_to(&harness, id, &[new]).await;
    slots_are(&harness, id, &[new]).await;
}

#[tokio::test]
async fn two_apis_roll_out_side_by_side() {
    let harness = Harness::with_nodes(&[NODE]).await;
    let second = RunningApi::start(&harness.tree, &[]);
    let (id, _) = deployed(&harness).await;
    for _ in 0..3 {
        put(&harness, id, "").await;
        let new = harness.newest(id).await[0];
        harness
            .report_status(new, ContainerState::Running, None)
            .await;
        routed_to(&harness, id, &[new]).await;
        slots_are(&harness, id, &[new]).await;
    }
    second.stop().await;
}
