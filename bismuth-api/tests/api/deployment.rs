//! Deployments: requests move to a new revision once it is proven, and the old slots stay until then.

use bismuth_model::{Backend, ContainerState, FunctionId};
use bismuth_testkit::eventually;
use http::Method;
use serde_json::{Value, json};

use crate::harness::{Harness, NODE, RunningApi, SOON, assert_has, definition};

async fn put(harness: &Harness, id: FunctionId, body: impl ToString) -> Value {
    let (path, body) = (format!("/function/{id}"), body.to_string());
    harness.api.call(Method::PUT, &path, body).await.ok()
}

/// Deploys the definition that it has again, and returns the slot of the new revision.
async fn redeploy(harness: &Harness, id: FunctionId) -> Backend {
    put(harness, id, "").await;
    harness.newest(id).await[0]
}

async fn slots_are(harness: &Harness, id: FunctionId, wanted: &[Backend]) {
    eventually("these slots are left", SOON, async || {
        let slots = harness.all_slots(id).await;
        (slots == wanted).then_some(()).ok_or(format!("{slots:?}"))
    })
    .await;
}

/// Requests go to these slots, and there are no others.
async fn moved_to(harness: &Harness, id: FunctionId, wanted: &[Backend]) {
    eventually("requests go there", SOON, async || {
        let routed = harness.routed(id).await;
        (routed == wanted)
            .then_some(())
            .ok_or(format!("{routed:?}"))
    })
    .await;
    slots_are(harness, id, wanted).await;
}

/// A function of one running slot.
async fn deployed(harness: &Harness) -> (FunctionId, Backend) {
    let id = harness.create(&definition()).await;
    let slot = harness.newest(id).await[0];
    harness.runs(slot).await;
    (id, slot)
}

/// Another API takes the place of the one that runs.
async fn replace_api(harness: &mut Harness, api: RunningApi) {
    std::mem::replace(&mut harness.api, api).stop().await;
}

#[tokio::test]
async fn requests_move_when_the_new_revision_runs_and_the_old_slots_go() {
    let harness = Harness::with_nodes(&[NODE]).await;
    let (id, old) = deployed(&harness).await;
    let mut next = definition();
    next["env"] = json!({"COLOUR": "red"});
    let shown = put(&harness, id, next).await;
    assert_eq!(shown["wanted"]["env"]["COLOUR"], "red");
    assert_eq!(
        shown["definition"]["env"],
        json!(null),
        "what serves is the old one"
    );
    let new = harness.newest(id).await[0];
    let [newest, before] = [&shown["backends"][0], &shown["backends"][1]];
    assert_eq!(newest["backend"]["container_id"], json!(new.container_id));
    assert_has(newest, json!({"routed": false, "status": "Starting"}));
    assert_has(before, json!({"routed": true, "status": "Running"}));

    harness
        .report_status(new, ContainerState::Starting, None)
        .await;
    assert_eq!(harness.routed(id).await, [old]);
    harness.runs(new).await;
    moved_to(&harness, id, &[new]).await;
    let shown = harness.api.get(&format!("/function/{id}")).await.ok();
    assert_eq!(shown["definition"]["env"]["COLOUR"], "red");
    assert_eq!(shown.get("wanted"), None);
}

/// The newest slot runs, and requests go there.
async fn proven(harness: &Harness, id: FunctionId) {
    let new = harness.newest(id).await[0];
    harness.runs(new).await;
    moved_to(harness, id, &[new]).await;
}

#[tokio::test]
async fn an_earlier_revision_is_deployed_again_by_a_rollback() {
    let harness = Harness::with_nodes(&[NODE]).await;
    let (id, _) = deployed(&harness).await;
    let (revisions, rollback) = (
        format!("/function/{id}/revision"),
        format!("/function/{id}/rollback"),
    );
    let fates = async || -> Vec<(u64, String, bool)> {
        let shown = harness.api.get(&revisions).await.ok();
        let kept = shown["revisions"].as_array().unwrap().iter();
        kept.map(|kept| {
            let fate = kept["fate"].as_str().unwrap().to_owned();
            let revision = kept["revision"].as_u64().unwrap();
            (revision, fate, kept["serving"].as_bool().unwrap())
        })
        .collect()
    };
    eventually(
        "the first revision is proven",
        SOON,
        async || match fates().await.as_slice() {
            [(1, fate, true)] if fate == "proven" => Ok(()),
            other => Err(format!("{other:?}")),
        },
    )
    .await;
    let nothing = harness.api.call(Method::POST, &rollback, "").await;
    nothing.problem(404, "unknown_revision");

    let mut next = definition();
    next["env"] = json!({"COLOUR": "red"});
    put(&harness, id, next).await;
    proven(&harness, id).await;
    let kept = |revision, serving| (revision, "proven".to_owned(), serving);
    eventually("both are proven", SOON, async || {
        let fates = fates().await;
        let both = fates == [kept(2, true), kept(1, false)];
        both.then_some(()).ok_or(format!("{fates:?}"))
    })
    .await;

    let shown = harness.api.call(Method::POST, &rollback, "").await.ok();
    assert_eq!(shown["wanted"]["env"], json!(null));
    proven(&harness, id).await;
    let shown = harness.api.get(&format!("/function/{id}")).await.ok();
    assert_eq!(shown["definition"]["env"], json!(null));

    let named = json!({"revision": 2}).to_string();
    let shown = harness.api.call(Method::POST, &rollback, named).await.ok();
    assert_eq!(shown["wanted"]["env"]["COLOUR"], "red");
    for (body, status, code) in [
        (json!({"revision": 99}).to_string(), 404, "unknown_revision"),
        (json!({"version": 1}).to_string(), 400, "body_malformed"),
        ("x".repeat(2000), 413, "body_too_large"),
    ] {
        let refused = harness.api.call(Method::POST, &rollback, body).await;
        refused.problem(status, code);
    }
}

#[tokio::test]
async fn an_empty_body_deploys_the_same_definition_again() {
    let harness = Harness::with_nodes(&[NODE]).await;
    let (id, _) = deployed(&harness).await;
    let before = harness.function(id).await.record;
    put(&harness, id, "").await;
    let after = harness.function(id).await.record;
    assert_eq!(after.definition, before.definition);
    assert_eq!(after.revision, before.revision.next());
}

#[tokio::test]
async fn a_revision_that_fails_is_shown_and_the_old_one_goes_on() {
    let harness = Harness::with_nodes(&[NODE]).await;
    let (id, old) = deployed(&harness).await;
    let bad = redeploy(&harness, id).await;
    harness
        .report_status(bad, ContainerState::Failed, Some("exited with 1"))
        .await;
    let shown = harness.api.get(&format!("/function/{id}")).await.ok();
    let failed = json!({"status": "Failed", "reason": "exited with 1"});
    assert_has(&shown["backends"][0], failed);
    assert_eq!(shown["backends"][1]["status"], "Running");

    // Another revision supersedes it: its slot goes, and the first one is never without requests.
    let good = redeploy(&harness, id).await;
    slots_are(&harness, id, &[good, old]).await;
    assert_eq!(harness.routed(id).await, [old]);
    harness.runs(good).await;
    moved_to(&harness, id, &[good]).await;
}

#[tokio::test]
async fn all_instances_must_run_before_requests_move() {
    let harness = Harness::with_nodes(&[NODE]).await;
    let (id, old) = deployed(&harness).await;
    let mut more = definition();
    more["max_instances"] = json!(2);
    put(&harness, id, more).await;
    let new = harness.newest(id).await;
    harness.runs(new[0]).await;
    assert_eq!(harness.routed(id).await, [old]);
    harness.runs(new[1]).await;
    moved_to(&harness, id, &new).await;
}

#[tokio::test]
async fn an_api_that_was_killed_in_a_rollout_goes_on_with_it() {
    let mut harness = Harness::with_nodes(&[NODE]).await;
    let (id, _) = deployed(&harness).await;
    let new = redeploy(&harness, id).await;
    let next = RunningApi::start(&harness.tree, &[]);
    replace_api(&mut harness, next).await;
    harness.runs(new).await;
    moved_to(&harness, id, &[new]).await;
}

#[tokio::test]
async fn a_rollout_that_became_ready_while_no_api_ran_is_finished_at_the_start() {
    let mut harness = Harness::with_nodes(&[NODE]).await;
    let (id, old) = deployed(&harness).await;
    let new = redeploy(&harness, id).await;
    // One that knows another, empty environment takes the place of the first.
    let idle = RunningApi::start_on(bismuth_coord::MemoryTree::new(), &[]);
    replace_api(&mut harness, idle).await;
    harness.runs(new).await;
    assert_eq!(harness.routed(id).await, [old]);
    let api = RunningApi::start(&harness.tree, &[]);
    moved_to(&harness, id, &[new]).await;
    api.stop().await;
}

#[tokio::test]
async fn a_revision_that_another_program_wrote_is_rolled_out_too() {
    let harness = Harness::with_nodes(&[NODE]).await;
    let (id, _) = deployed(&harness).await;
    let function = harness.function(id).await;
    let slot = Backend {
        ip: NODE,
        container_id: bismuth_model::ContainerId::new_random(),
    };
    harness
        .registry
        .replace_definition(id, &function.record.definition, function.version, &[slot])
        .await
        .unwrap();
    harness.runs(slot).await;
    moved_to(&harness, id, &[slot]).await;
}

#[tokio::test]
async fn a_session_that_ends_in_a_rollout_does_not_end_the_rollout() {
    let mut harness = Harness::with_nodes(&[NODE]).await;
    let (id, _) = deployed(&harness).await;
    let tree = harness.tree.another_session();
    replace_api(&mut harness, RunningApi::start_on(tree.clone(), &[])).await;
    let new = redeploy(&harness, id).await;
    tree.disconnect();
    tree.expire();
    harness.runs(new).await;
    tree.reconnect();
    moved_to(&harness, id, &[new]).await;
}

#[tokio::test]
async fn of_two_apis_the_leader_rolls_out_what_the_other_was_given() {
    let mut harness = Harness::with_nodes(&[NODE]).await;
    eventually("the first leads", SOON, async || {
        match harness.api.gauge("bismuth_api_leader").await {
            1 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    let first = std::mem::replace(&mut harness.api, RunningApi::start(&harness.tree, &[]));
    let (id, _) = deployed(&harness).await;
    for _ in 0..3 {
        let new = redeploy(&harness, id).await;
        harness.runs(new).await;
        moved_to(&harness, id, &[new]).await;
    }
    assert_eq!(first.gauge("bismuth_api_leader").await, 1);
    assert_eq!(first.gauge("bismuth_api_rollout_switches_total").await, 3);
    assert_eq!(harness.api.gauge("bismuth_api_leader").await, 0);
    assert_eq!(harness.api.gauge("bismuth_api_term").await, 1);
    first.stop().await;
}
