//! Commands on the registry, against a real ZooKeeper.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bismuth_coord::{ConnectOptions, Tree as _, ZkTree};
use bismuth_model::{Backend, ContainerState, ContainerStatus, FunctionId};
use bismuth_registry::Registry;
use bismuth_testkit::eventually;
use serde_json::json;

use crate::harness::{CtlHarness, TIMEOUT, ctl, run};

async fn connect(harness: &CtlHarness) -> (ZkTree, Registry) {
    let tree = ZkTree::connect(
        &harness.zookeeper.connect_string(),
        ConnectOptions::default(),
    )
    .await
    .unwrap();
    let registry = Registry::new(Arc::new(tree.clone()), "default".parse().unwrap());
    (tree, registry)
}

#[tokio::test]
async fn the_commands_of_the_readme_work_as_written() {
    let harness = CtlHarness::start().await;
    harness.ctl(&["bootstrap"]).await.ok();
    harness.ctl(&["bootstrap"]).await.ok();
    harness.ctl(&["provision", "127.0.0.1"]).await.ok();
    harness.ctl(&["provision", "127.0.0.1"]).await.ok();
    let exec = harness
        .ctl(&[
            "create-function",
            "docker.io/library/alpine:latest",
            "exec:/bin/ls",
        ])
        .await
        .ok()
        .to_owned();
    let mode = "server:8000:/usr/local/bin/python3 -m http.server";
    let server = harness
        .ctl(&["create-function", "docker.io/library/python:3.11", mode])
        .await
        .ok()
        .to_owned();
    for id in [&exec, &server] {
        assert!(id.parse::<FunctionId>().is_ok(), "{id:?} is the id alone");
        let container = harness
            .ctl(&["add-backend", id, "127.0.0.1"])
            .await
            .ok()
            .to_owned();
        let shown = harness
            .ctl(&["get-function", id, "-o", "json"])
            .await
            .json();
        assert_eq!(
            shown["backends"][0]["backend"],
            json!({"ip": "127.0.0.1", "container_id": container})
        );
        assert_eq!(
            (
                &shown["backends"][0]["status"],
                &shown["backends"][0]["routed"]
            ),
            (&json!("Starting"), &json!(true))
        );
    }
    let shown = harness
        .ctl(&["get-function", &server, "-o", "json"])
        .await
        .json();
    assert_eq!(
        shown["definition"]["invoke_mode"],
        json!({"Server": [["/usr/local/bin/python3", "-m", "http.server"], 8000]})
    );
    let table = harness.ctl(&["list-functions"]).await.ok().to_owned();
    assert!(table.starts_with("ID "), "{table}");
    assert_eq!(table.lines().count(), 3, "{table}");
    let nodes = harness.ctl(&["list-nodes", "-o", "json"]).await.json();
    assert_eq!(
        (&nodes[0]["ip"], &nodes[0]["alive"], &nodes[0]["containers"]),
        (&json!("127.0.0.1"), &json!(false), &json!(2))
    );
    let line = harness
        .ctl(&["list-nodes"])
        .await
        .ok()
        .lines()
        .nth(1)
        .unwrap()
        .to_owned();
    assert_eq!(
        line.split_whitespace().collect::<Vec<_>>(),
        ["127.0.0.1", "no", "yes", "2", "-", "-", "-"]
    );
    harness.ctl(&["consistency"]).await.ok();

    // The way back.
    let slot = harness
        .ctl(&["get-function", &exec, "-o", "json"])
        .await
        .json()["backends"][0]["backend"]
        .clone();
    let container = slot["container_id"].as_str().unwrap();
    harness
        .ctl(&["deprovision", "127.0.0.1"])
        .await
        .failed(1, &["127.0.0.1 still has 2 containers", "remove-backend"]);
    harness
        .ctl(&["remove-backend", &exec, "127.0.0.1", container])
        .await
        .ok();
    harness.ctl(&["delete-function", &server]).await.ok();
    harness.ctl(&["deprovision", "127.0.0.1"]).await.ok();
    assert_eq!(
        harness.ctl(&["list-nodes", "-o", "json"]).await.json(),
        json!([])
    );
}

#[tokio::test]
async fn errors_are_printed_in_one_line() {
    let harness = CtlHarness::start().await;
    let unknown = FunctionId::new_random().to_string();
    for args in [["list-nodes", ""], ["provision", "127.0.0.1"]] {
        let args: Vec<&str> = args.into_iter().filter(|arg| !arg.is_empty()).collect();
        harness
            .ctl(&args)
            .await
            .failed(1, &["/default does not exist", "bismuthctl bootstrap"]);
    }
    harness.ctl(&["bootstrap"]).await.ok();
    let route = ["--route", "a.example"];
    fn create<'a>(more: &[&'a str]) -> Vec<&'a str> {
        [&["create-function", "alpine", "exec:/bin/ls"], more].concat()
    }
    let id = harness.ctl(&create(&route)).await.ok().to_owned();
    harness
        .ctl(&["add-backend", &id, "127.0.0.9"])
        .await
        .failed(
            3,
            &["node 127.0.0.9 is not provisioned", "bismuthctl provision"],
        );
    harness
        .ctl(&["deprovision", "127.0.0.9"])
        .await
        .failed(3, &["node 127.0.0.9 is not provisioned"]);
    harness
        .ctl(&create(&route))
        .await
        .failed(1, &["hostname a.example belongs to function", &id]);
    harness
        .ctl(&create(&["--memory", "1KiB"]))
        .await
        .failed(2, &["memory"]);
    for args in [
        &["get-function", &unknown][..],
        &["delete-function", &unknown],
        &["add-backend", &unknown, "127.0.0.1"],
        &["update-function", &unknown],
    ] {
        harness
            .ctl(args)
            .await
            .failed(3, &[&format!("function {unknown} does not exist")]);
    }
    harness
        .ctl(&["remove-backend", &id, "127.0.0.1", &unknown])
        .await
        .failed(3, &["is not a backend"]);
    // Another environment shares nothing with it.
    harness
        .ctl(&["--zookeeper-env", "other", "list-functions"])
        .await
        .failed(1, &["/other does not exist"]);
}

#[tokio::test]
async fn an_unreachable_zookeeper_is_named_within_the_timeout() {
    let free = bismuth_testkit::ports::reserve().unwrap();
    let address = format!("127.0.0.1:{free}");
    let begun = Instant::now();
    ctl(&["--zookeeper", &address, "list-nodes"])
        .await
        .failed(1, &[&address]);
    assert!(
        begun.elapsed() < Duration::from_secs(15),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn records_are_shown_as_json() {
    let harness = CtlHarness::start().await;
    harness.ctl(&["bootstrap"]).await.ok();
    harness.ctl(&["provision", "127.0.0.1"]).await.ok();
    let id = harness
        .ctl(&["create-function", "alpine", "exec:/bin/ls"])
        .await
        .ok()
        .to_owned();
    for path in [
        format!("/function/{id}"),
        format!("/default/function/{id}"),
        format!("function/{id}/"),
    ] {
        let shown = harness.ctl(&["show", &path]).await.json();
        assert_eq!(
            shown["definition"]["image"], "docker.io/library/alpine:latest",
            "{path}"
        );
    }
    assert_eq!(
        harness.ctl(&["show", "/node/127.0.0.1"]).await.json(),
        json!({"schedulable": true})
    );
    harness
        .ctl(&["show", "/node/127.0.0.2"])
        .await
        .failed(3, &["/default/node/127.0.0.2", "no such record"]);
    harness
        .ctl(&["show", "/colour"])
        .await
        .failed(2, &["/default/colour is not a path that Bismuth uses"]);
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
        let slots = registry
            .function_containers(id)
            .await
            .map_err(|error| error.to_string())?;
        let slot = slots
            .into_iter()
            .find(|(_, record)| record.revision.0 == revision);
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
    let harness = CtlHarness::start().await;
    let (_tree, registry) = connect(&harness).await;
    harness.ctl(&["bootstrap"]).await.ok();
    harness.ctl(&["provision", "127.0.0.1"]).await.ok();
    let text = harness
        .ctl(&["create-function", "alpine", "exec:/bin/ls", "--env", "A=1"])
        .await
        .ok()
        .to_owned();
    let id: FunctionId = text.parse().unwrap();
    assert_eq!(
        harness.ctl(&["update-function", &text]).await.ok(),
        "2",
        "without backends there is nothing to wait for"
    );
    harness.ctl(&["add-backend", &text, "127.0.0.1"]).await.ok();
    let old = registry.function(id).await.unwrap().unwrap().backends;

    let mut update = harness.command(&[
        "update-function",
        &text,
        "--env",
        "B=2",
        "--memory",
        "256MiB",
        "--wait",
    ]);
    let (output, new) = tokio::join!(
        run(&mut update),
        report_status(&registry, id, 3, ContainerState::Running, None)
    );
    assert_eq!(output.ok(), "3");
    let function = registry.function(id).await.unwrap().unwrap();
    assert_eq!(function.backends, [new]);
    assert_eq!(
        registry
            .container(old[0].ip, old[0].container_id)
            .await
            .unwrap(),
        None,
        "the old slot is gone"
    );
    assert_eq!(function.record.definition.env.len(), 2);

    // One that fails changes nothing for requests, and can be taken away by hand.
    let mut update = harness.command(&[
        "update-function",
        &text,
        "--mode",
        "exec:/bin/nothing",
        "--wait",
    ]);
    let (output, bad) = tokio::join!(
        run(&mut update),
        report_status(
            &registry,
            id,
            4,
            ContainerState::Failed,
            Some("there is no /bin/nothing")
        )
    );
    output.failed(
        1,
        &[
            "revision 4",
            "there is no /bin/nothing",
            "requests still go to the old one",
        ],
    );
    assert_eq!(
        registry.function(id).await.unwrap().unwrap().backends,
        [new]
    );
    let table = harness.ctl(&["get-function", &text]).await.ok().to_owned();
    assert!(table.contains("there is no /bin/nothing"), "{table}");
    harness
        .ctl(&[
            "remove-backend",
            &text,
            "127.0.0.1",
            &bad.container_id.to_string(),
        ])
        .await
        .ok();
    assert_eq!(registry.function_containers(id).await.unwrap().len(), 1);
}

#[tokio::test]
async fn inconsistencies_are_found_and_repaired() {
    let harness = CtlHarness::start().await;
    let (tree, registry) = connect(&harness).await;
    harness.ctl(&["bootstrap"]).await.ok();
    harness.ctl(&["provision", "127.0.0.1"]).await.ok();
    let id = harness
        .ctl(&["create-function", "alpine", "exec:/bin/ls"])
        .await
        .ok()
        .to_owned();
    let container = harness
        .ctl(&["add-backend", &id, "127.0.0.1"])
        .await
        .ok()
        .to_owned();
    // A hand deletes the assignment and leaves the backend.
    tree.delete(
        &format!("/default/node/127.0.0.1/container/{container}"),
        None,
    )
    .await
    .unwrap();
    let shown = harness.ctl(&["get-function", &id]).await.ok().to_owned();
    assert!(shown.contains("not assigned"), "{shown}");
    let found = harness.ctl(&["consistency"]).await;
    assert_eq!(found.code, 1);
    assert!(
        found.stdout.contains(&container) && found.stdout.contains("--repair"),
        "{}",
        found.stdout
    );
    assert_eq!(found.stderr, "bismuthctl: error: 1 inconsistency found\n");
    let repaired = harness
        .ctl(&["consistency", "--repair", "-o", "json"])
        .await
        .json();
    assert_eq!(repaired[0]["mended"], true);
    assert_eq!(
        harness.ctl(&["consistency", "-o", "json"]).await.json(),
        json!([])
    );
    // The repair assigns the slot again: requests are sent there.
    let slots = registry
        .function_containers(id.parse().unwrap())
        .await
        .unwrap();
    assert_eq!(slots[0].0.container_id.to_string(), container);
}

#[tokio::test]
async fn an_embedded_store_is_shown_and_released_only_by_naming_its_node() {
    let harness = CtlHarness::start().await;
    harness.ctl(&["bootstrap"]).await.ok();
    let (_tree, registry) = connect(&harness).await;
    let claim = bismuth_model::StoreClaim {
        node: "10.0.0.7".parse().unwrap(),
        store: "a-store".to_owned(),
    };
    registry.claim_store(&claim).await.unwrap();
    assert_eq!(
        harness.ctl(&["store", "show"]).await.ok(),
        "10.0.0.7 a-store"
    );
    let shown = harness.ctl(&["show", "/service/store"]).await.json();
    assert_eq!(shown, json!({"node": "10.0.0.7", "store": "a-store"}));
    let refused = harness.ctl(&["store", "release", "10.0.0.8"]).await;
    refused.failed(1, &["10.0.0.8", "store show"]);
    assert_eq!(registry.store_claim().await.unwrap(), Some(claim));
    harness.ctl(&["store", "release", "10.0.0.7"]).await.ok();
    assert_eq!(registry.store_claim().await.unwrap(), None);
}
