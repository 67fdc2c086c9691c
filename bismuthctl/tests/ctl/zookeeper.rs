//! Commands on the registry, against a real ZooKeeper.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bismuth_coord::{ConnectOptions, Tree as _, ZkTree};
use bismuth_model::{Backend, ContainerState, ContainerStatus, FunctionId};
use bismuth_registry::Registry;
use bismuth_testkit::eventually;
use serde_json::json;

use crate::harness::{CtlHarness, TIMEOUT, ctl};

async fn connect(harness: &CtlHarness) -> (ZkTree, Registry) {
    let servers = harness.zookeeper.connect_string();
    let tree = ZkTree::connect(&servers, ConnectOptions::default());
    let tree = tree.await.unwrap();
    let registry = Registry::new(Arc::new(tree.clone()), "default".parse().unwrap());
    (tree, registry)
}

/// An environment with a node.
async fn provisioned() -> CtlHarness {
    let harness = CtlHarness::bootstrapped().await;
    harness.ok("provision 127.0.0.1").await;
    harness
}

#[tokio::test]
async fn the_commands_of_the_readme_work_as_written() {
    let harness = provisioned().await;
    // They are safe to repeat.
    harness.ok("bootstrap").await;
    harness.ok("provision 127.0.0.1").await;
    let exec = "create-function docker.io/library/alpine:latest exec:/bin/ls";
    let exec = harness.ok(exec).await;
    let mode = "server:8000:/usr/local/bin/python3 -m http.server";
    let server = format!("create-function docker.io/library/python:3.11 '{mode}'");
    let server = harness.ok(&server).await;
    let mut containers = Vec::new();
    for id in [&exec, &server] {
        assert!(id.parse::<FunctionId>().is_ok(), "{id:?} is the id alone");
        let add = format!("add-backend {id} 127.0.0.1 --force");
        let container = harness.ok(&add).await;
        let shown = harness.json(&format!("get-function {id}")).await;
        let slot = &shown["backends"][0];
        assert_eq!(
            slot["backend"],
            json!({"ip": "127.0.0.1", "container_id": container})
        );
        assert_eq!(slot["status"], "Unknown", "no bismuthd runs");
        assert_eq!(slot["routed"], true);
        containers.push(container);
    }
    let shown = harness.json(&format!("get-function {server}")).await;
    assert_eq!(
        shown["definition"]["invoke_mode"],
        json!({"Server": [["/usr/local/bin/python3", "-m", "http.server"], 8000]})
    );
    let table = harness.ok("list-functions").await;
    assert!(table.starts_with("ID "), "{table}");
    assert_eq!(table.lines().count(), 3, "{table}");
    let nodes = harness.json("list-nodes").await;
    assert_eq!(
        (&nodes[0]["ip"], &nodes[0]["alive"], &nodes[0]["containers"]),
        (&json!("127.0.0.1"), &json!(false), &json!(2))
    );
    let nodes = harness.run("list-nodes").await;
    assert_eq!(nodes.row(), ["127.0.0.1", "no", "yes", "2", "-", "-", "-"]);
    harness.ok("consistency").await;

    // The way back.
    let in_use = ["127.0.0.1 still has 2 containers", "remove-backend"];
    harness.fails("deprovision 127.0.0.1", 1, &in_use).await;
    let remove = format!("remove-backend {exec} 127.0.0.1 {}", containers[0]);
    harness.ok(&remove).await;
    harness.ok(&format!("delete-function {server}")).await;
    harness.ok("deprovision 127.0.0.1").await;
    assert_eq!(harness.json("list-nodes").await, json!([]));
}

#[tokio::test]
async fn errors_are_printed_in_one_line() {
    let harness = CtlHarness::start().await;
    let missing = ["/default does not exist", "bismuthctl bootstrap"];
    for line in ["list-nodes", "provision 127.0.0.1"] {
        harness.fails(line, 1, &missing).await;
    }
    harness.ok("bootstrap").await;
    let create = "create-function alpine exec:/bin/ls";
    let routed = format!("{create} --route a.example");
    let id = harness.ok(&routed).await;
    let unknown = FunctionId::new_random();
    let no_function = format!("function {unknown} does not exist");
    let no_node = "node 127.0.0.9 is not provisioned";
    for (line, code, words) in [
        (
            format!("add-backend {id} 127.0.0.9"),
            3,
            &[no_node, "bismuthctl provision"][..],
        ),
        ("deprovision 127.0.0.9".to_owned(), 3, &[no_node]),
        (routed, 1, &["hostname a.example belongs to function", &id]),
        (format!("{create} --memory 1KiB"), 2, &["memory"]),
        (format!("get-function {unknown}"), 3, &[&no_function]),
        (format!("delete-function {unknown}"), 3, &[&no_function]),
        (
            format!("add-backend {unknown} 127.0.0.1"),
            3,
            &[&no_function],
        ),
        (format!("update-function {unknown}"), 3, &[&no_function]),
        (
            format!("remove-backend {id} 127.0.0.1 {unknown}"),
            3,
            &["is not a backend"],
        ),
        // Another environment shares nothing with it.
        (
            "--zookeeper-env other list-functions".to_owned(),
            1,
            &["/other does not exist"],
        ),
    ] {
        harness.fails(&line, code, words).await;
    }
}

#[tokio::test]
async fn an_unreachable_zookeeper_is_named_within_the_timeout() {
    let free = bismuth_testkit::ports::reserve().unwrap();
    let address = format!("127.0.0.1:{free}");
    let begun = Instant::now();
    let refused = ctl(&format!("--zookeeper {address} list-nodes")).await;
    refused.failed(1, &[&address]);
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(15), "{took:?}");
}

#[tokio::test]
async fn records_are_shown_as_json() {
    let harness = provisioned().await;
    let id = harness.ok("create-function alpine exec:/bin/ls").await;
    for path in [
        format!("/function/{id}"),
        format!("/default/function/{id}"),
        format!("function/{id}/"),
    ] {
        let shown = harness.run(&format!("show {path}")).await.json();
        let image = &shown["definition"]["image"];
        assert_eq!(image, "docker.io/library/alpine:latest", "{path}");
    }
    let node = harness.run("show /node/127.0.0.1").await;
    assert_eq!(node.json(), json!({"schedulable": true}));
    let unknown = ["/default/node/127.0.0.2", "no such record"];
    harness.fails("show /node/127.0.0.2", 3, &unknown).await;
    let foreign = "/default/colour is not a path that Bismuth uses";
    harness.fails("show /colour", 2, &[foreign]).await;
}

/// Says as the node would how the slots of the newest revision do, once they are there.
async fn report_status(
    registry: &Registry,
    id: FunctionId,
    revision: u64,
    state: ContainerState,
    reason: Option<&str>,
) -> Backend {
    let slot = eventually("the new slot is assigned", TIMEOUT, async || {
        let slots = registry.function_containers(id).await;
        let mut slots = slots.map_err(|error| error.to_string())?.into_iter();
        let slot = slots.find(|(_, record)| record.revision.0 == revision);
        slot.map(|(slot, _)| slot).ok_or("it is not".to_owned())
    })
    .await;
    let status = ContainerStatus {
        state,
        reason: reason.map(str::to_owned),
        ..ContainerStatus::assigned(0)
    };
    registry
        .update_container_status(slot.ip, slot.container_id, &status)
        .await
        .unwrap();
    slot
}

#[tokio::test]
async fn an_update_waits_for_the_new_revision_and_moves_the_requests() {
    let harness = provisioned().await;
    let (_tree, registry) = connect(&harness).await;
    let text = harness
        .ok("create-function alpine exec:/bin/ls --env A=1")
        .await;
    let id: FunctionId = text.parse().unwrap();
    let update = format!("update-function {text}");
    assert_eq!(
        harness.ok(&update).await,
        "2",
        "without backends there is nothing to wait for"
    );
    let add = format!("add-backend {text} 127.0.0.1");
    harness
        .fails(&add, 1, &["127.0.0.1 is not alive", "--force"])
        .await;
    harness.ok(&format!("{add} --force")).await;
    let old = registry.function(id).await.unwrap().unwrap().backends[0];

    let next = format!("{update} --env B=2 --memory 256MiB --wait");
    let (output, new) = tokio::join!(
        harness.run(&next),
        report_status(&registry, id, 3, ContainerState::Running, None)
    );
    assert_eq!(output.ok(), "3");
    let function = registry.function(id).await.unwrap().unwrap();
    assert_eq!(function.backends, [new]);
    let gone = registry.container(old.ip, old.container_id).await.unwrap();
    assert_eq!(gone, None, "the old slot is gone");
    assert_eq!(function.record.definition.env.len(), 2);

    // One that fails changes nothing for requests, and can be taken away by hand.
    let next = format!("{update} --mode exec:/bin/nothing --wait");
    let reason = "there is no /bin/nothing";
    let (output, bad) = tokio::join!(
        harness.run(&next),
        report_status(&registry, id, 4, ContainerState::Failed, Some(reason))
    );
    let old_stays = "requests still go to the old one";
    output.failed(1, &["revision 4", reason, old_stays]);
    let routed = registry.function(id).await.unwrap().unwrap().backends;
    assert_eq!(routed, [new]);
    let table = harness.ok(&format!("get-function {text}")).await;
    assert!(table.contains(reason), "{table}");
    let remove = format!("remove-backend {text} 127.0.0.1 {}", bad.container_id);
    harness.ok(&remove).await;
    assert_eq!(registry.function_containers(id).await.unwrap().len(), 1);

    // The next change is made to what serves, and what serves can be gone back to.
    let shown = harness.json(&format!("revisions {text}")).await;
    let of = |index: usize| {
        let kept = &shown[index];
        (
            kept["revision"].as_u64(),
            kept["fate"].as_str(),
            kept["serving"].as_bool(),
        )
    };
    assert_eq!(of(0), (Some(4), Some("failed"), Some(false)));
    assert_eq!(shown[0]["reason"], reason);
    assert_eq!(of(1), (Some(3), Some("proven"), Some(true)));
    assert_eq!(harness.ok(&format!("{update} --env C=3")).await, "5");
    let changed = registry.function(id).await.unwrap().unwrap().record;
    assert_eq!(changed.definition.invoke_mode.to_string(), "exec:/bin/ls");
    assert_eq!(changed.definition.env.len(), 3);
    let back = format!("rollback {text} --wait");
    let (output, new) = tokio::join!(
        harness.run(&back),
        report_status(&registry, id, 6, ContainerState::Running, None)
    );
    assert_eq!(output.ok(), "6");
    let function = registry.function(id).await.unwrap().unwrap();
    assert_eq!(function.backends, [new]);
    assert_eq!(function.record.definition.env.len(), 2);
    let unknown = format!("rollback {text} 99");
    harness
        .fails(&unknown, 1, &["revision 99", "is not kept"])
        .await;
}

#[tokio::test]
async fn a_create_that_is_repeated_under_a_chosen_id_is_one_function() {
    let harness = provisioned().await;
    let id = FunctionId::new_random().to_string();
    let create = format!("create-function alpine exec:/bin/ls --id {id}");
    assert_eq!(harness.ok(&create).await, id);
    assert_eq!(harness.ok(&create).await, id);
    let other = format!("{create} --env A=1");
    harness.fails(&other, 1, &[&id, "exists already"]).await;
}

#[tokio::test]
async fn inconsistencies_are_found_and_repaired() {
    let harness = provisioned().await;
    let (tree, registry) = connect(&harness).await;
    let id = harness.ok("create-function alpine exec:/bin/ls").await;
    let add = format!("add-backend {id} 127.0.0.1 --force");
    let container = harness.ok(&add).await;
    // A hand deletes the assignment and leaves the backend.
    let path = format!("/default/node/127.0.0.1/container/{container}");
    tree.delete(&path, None).await.unwrap();
    let shown = harness.ok(&format!("get-function {id}")).await;
    assert!(shown.contains("not assigned"), "{shown}");
    let found = harness.run("consistency").await;
    assert_eq!(found.code, 1);
    let answer = &found.stdout;
    assert!(
        answer.contains(&container) && answer.contains("--repair"),
        "{answer}"
    );
    assert_eq!(found.stderr, "bismuthctl: error: 1 inconsistency found\n");
    let repaired = harness.json("consistency --repair").await;
    assert_eq!(repaired[0]["mended"], true);
    assert_eq!(harness.json("consistency").await, json!([]));
    // The repair assigns the slot again: requests are sent there.
    let slots = registry.function_containers(id.parse().unwrap()).await;
    assert_eq!(slots.unwrap()[0].0.container_id.to_string(), container);
}

#[tokio::test]
async fn an_embedded_store_is_shown_and_released_only_by_naming_its_node() {
    let harness = CtlHarness::bootstrapped().await;
    let (_tree, registry) = connect(&harness).await;
    let claim = bismuth_model::StoreClaim {
        node: "10.0.0.7".parse().unwrap(),
        store: "a-store".to_owned(),
    };
    registry.claim_store(&claim).await.unwrap();
    assert_eq!(harness.ok("store show").await, "10.0.0.7 a-store");
    let shown = harness.json("show /service/store").await;
    assert_eq!(shown, json!({"node": "10.0.0.7", "store": "a-store"}));
    let refused = harness.run("store release 10.0.0.8").await;
    refused.failed(1, &["10.0.0.8", "store show"]);
    assert_eq!(registry.store_claim().await.unwrap(), Some(claim));
    harness.ok("store release 10.0.0.7").await;
    assert_eq!(registry.store_claim().await.unwrap(), None);
}
