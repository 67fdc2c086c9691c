//! Worker nodes.

use bismuth_model::{ContainerId, FunctionId};
use bismuth_registry::{Error, Node};

use crate::fixture::{Fixture, NODES, definition, facts, refused, slot};

#[tokio::test]
async fn a_node_is_provisioned_once_and_stays_as_it_is() {
    let f = Fixture::bare().await;
    assert!(f.registry.provision_node(NODES[0]).await.unwrap());
    f.registry.set_schedulable(NODES[0], false).await.unwrap();
    assert!(!f.registry.provision_node(NODES[0]).await.unwrap());
    let node = f.registry.node(NODES[0]).await.unwrap().unwrap();
    assert_eq!(
        node,
        Node {
            ip: NODES[0],
            schedulable: false,
            facts: None,
            containers: Vec::new(),
            unreadable: Vec::new()
        }
    );
}

#[tokio::test]
async fn nodes_are_listed_with_their_facts_and_containers() {
    let f = Fixture::new().await;
    let slot = slot(NODES[1]);
    let id: FunctionId = f.function(&definition(&[]), &[slot]).await;
    let bad = ContainerId::new_random();
    f.put(&f.registry.layout().container(NODES[1], bad), b"\x01bad")
        .await;
    let _registration = f
        .registry
        .register_node(NODES[1], &facts("e"))
        .await
        .unwrap();
    let nodes = f.registry.list_nodes().await.unwrap();
    assert_eq!(nodes.iter().map(|node| node.ip).collect::<Vec<_>>(), NODES);
    assert_eq!(
        nodes.iter().map(Node::is_alive).collect::<Vec<_>>(),
        [false, true, false]
    );
    let (container, record) = &nodes[1].containers[0];
    assert_eq!((*container, record.function_id), (slot.container_id, id));
    assert_eq!(nodes[1].unreadable, [bad]);
}

#[tokio::test]
async fn a_node_with_assignments_is_not_deprovisioned() {
    let f = Fixture::new().await;
    let id = f.function(&definition(&[]), &[slot(NODES[0])]).await;
    refused!(
        f.registry.deprovision_node(NODES[0]),
        Error::NodeInUse { containers: 1, .. }
    );
    f.registry.delete_function(id).await.unwrap();
    f.registry.deprovision_node(NODES[0]).await.unwrap();
    assert_eq!(f.registry.node(NODES[0]).await.unwrap(), None);
    refused!(
        f.registry.deprovision_node(NODES[0]),
        Error::NodeUnknown { .. }
    );
    refused!(
        f.registry.set_schedulable(NODES[0], true),
        Error::NodeUnknown { .. }
    );
}
