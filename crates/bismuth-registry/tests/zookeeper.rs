//! Watches and node registration on a real ZooKeeper that is stopped, started again, and forgets sessions.

#![allow(clippy::unwrap_used)] // Also outside of test functions: what fails here fails the test.

#[allow(dead_code, reason = "the tests on a tree in memory use the rest of it")]
#[path = "registry/fixture.rs"]
mod fixture;

use std::future::pending;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use bismuth_coord::{ConnectOptions, ZkTree};
use bismuth_model::{Environment, FunctionId};
use bismuth_registry::{
    Assignment, ElectionState, Error, RegistrationState, Registry, RoutingSnapshot, Term,
};
use bismuth_testkit::ZooKeeper;
use tokio::sync::{mpsc, watch};

use fixture::{definition, facts, refused, slot, spawned};

/// A JVM restarts and clients find it again, while the machine builds beside the test.
const BOUND: Duration = Duration::from_secs(90);
const NODE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);

async fn connect(server: &ZooKeeper) -> Registry {
    let tree = ZkTree::connect(&server.connect_string(), ConnectOptions::default())
        .await
        .unwrap();
    Registry::new(Arc::new(tree), Environment::default())
}

/// Ends all sessions that there are now. A client that comes back at the same moment may win one from the harness.
async fn forget_sessions(server: &ZooKeeper) {
    for session in server.sessions().await.unwrap() {
        bismuth_testkit::eventually("the session is forgotten", BOUND, async || {
            let expired = server.expire_session(session).await;
            match server.sessions().await {
                Ok(sessions) if !sessions.contains(&session) => Ok(()),
                _ => Err(format!("{expired:?}")),
            }
        })
        .await;
    }
}

async fn shows<T: Clone>(
    watch: &mut watch::Receiver<T>,
    what: &str,
    wanted: impl FnMut(&T) -> bool,
) -> T {
    match tokio::time::timeout(BOUND, watch.wait_for(wanted)).await {
        Ok(shown) => shown.expect("the watch goes on").clone(),
        Err(_) => panic!("it never showed {what}"),
    }
}

#[tokio::test]
async fn snapshots_are_updated_across_restarts_and_expired_sessions() {
    let mut server = ZooKeeper::start().await.unwrap();
    let registry = connect(&server).await;
    registry.bootstrap().await.unwrap();
    assert!(registry.provision_node(NODE).await.unwrap());
    let registration = registry.register_node(NODE, &facts("e")).await.unwrap();
    let mut state = registration.state();
    let mut routing = spawned(registry.watch_routing(RoutingSnapshot::default(), pending()));
    let mut assignment = spawned(registry.watch_assignment(NODE, Assignment::default(), pending()));
    shows(&mut routing, "everything", |s| s.complete).await;
    shows(&mut assignment, "everything", |s| s.complete).await;

    let id = FunctionId::new_random();
    registry
        .create_function(id, &definition(&["a.b"]), &[])
        .await
        .unwrap();
    let backend = registry.add_backend(id, NODE).await.unwrap();
    shows(&mut routing, "the backend", |s| {
        s.functions
            .get(&id)
            .is_some_and(|f| f.backends[..] == [backend])
    })
    .await;
    shows(&mut assignment, "the slot", |s| {
        s.containers.contains_key(&backend.container_id)
    })
    .await;

    // Down: what was known stays.
    server.kill().await.unwrap();
    shows(&mut state, "that the node is absent", |shown| {
        *shown == RegistrationState::Unregistered
    })
    .await;
    assert!(routing.borrow().functions.contains_key(&id));
    assert!(
        assignment
            .borrow()
            .containers
            .contains_key(&backend.container_id)
    );

    // Up again: changes flow again.
    server.restart().await.unwrap();
    shows(&mut state, "that the node is present", |shown| {
        *shown == RegistrationState::Registered
    })
    .await;
    let writer = connect(&server).await;
    let second = writer.add_backend(id, NODE).await.unwrap();
    shows(&mut routing, "the second backend", |s| {
        s.functions[&id].backends[..] == [backend, second]
    })
    .await;
    shows(&mut assignment, "the second slot", |s| {
        s.containers.contains_key(&second.container_id)
    })
    .await;

    // All sessions forgotten: the node announces itself again, and nothing that was assigned goes.
    forget_sessions(&server).await;
    let observer = connect(&server).await;
    bismuth_testkit::eventually("the node is alive again", BOUND, async || {
        match observer.node(NODE).await {
            Ok(Some(node)) if node.is_alive() => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert_eq!(assignment.borrow().containers.len(), 2);
    let third = observer.add_backend(id, NODE).await.unwrap();
    shows(&mut routing, "the third backend", |s| {
        s.functions[&id].backends.contains(&third)
    })
    .await;

    observer.delete_function(id).await.unwrap();
    shows(&mut routing, "nothing", |s| {
        s.functions.is_empty() && s.routes.is_empty()
    })
    .await;
    shows(&mut assignment, "nothing", |s| s.containers.is_empty()).await;
    assert_eq!(observer.audit().await.unwrap(), []);
    registration.deregister().await.unwrap();
    assert!(!observer.node(NODE).await.unwrap().unwrap().is_alive());
}

/// A candidate that never ends, and the terms that it leads in, each with its registry.
fn candidate(
    registry: &Registry,
    name: &str,
) -> (
    watch::Receiver<ElectionState>,
    mpsc::UnboundedReceiver<(Term, Registry)>,
) {
    let candidate = registry.candidate(name);
    let state = candidate.state();
    let (sender, terms) = mpsc::unbounded_channel();
    tokio::spawn(candidate.run(pending(), move |term, fenced| {
        sender.send((term, fenced)).unwrap();
        pending()
    }));
    (state, terms)
}

#[tokio::test]
async fn a_leader_whose_session_expired_is_fenced_and_the_other_leads() {
    let server = ZooKeeper::start().await.unwrap();
    let tree = ZkTree::connect(&server.connect_string(), ConnectOptions::default())
        .await
        .unwrap();
    let first = Registry::new(Arc::new(tree.clone()), Environment::default());
    let second = connect(&server).await;
    first.bootstrap().await.unwrap();
    let (mut first_state, mut first_terms) = candidate(&first, "first");
    let (_, earlier) = first_terms.recv().await.unwrap();
    let (mut second_state, mut second_terms) = candidate(&second, "second");
    shows(
        &mut second_state,
        "that the first leads",
        |state| matches!(state, ElectionState::Following(leader) if leader.name == "first"),
    )
    .await;
    assert!(earlier.provision_node(NODE).await.unwrap());

    let session = tree.session_id().unwrap();
    server.expire_session(session).await.unwrap();
    let led = tokio::time::timeout(BOUND, second_terms.recv());
    let (term, fenced) = led.await.unwrap().unwrap();
    assert_eq!(term.number(), 2);
    shows(
        &mut first_state,
        "that the second leads",
        |state| matches!(state, ElectionState::Following(leader) if leader.name == "second"),
    )
    .await;
    // Over a new session, which may write like any other.
    let refused = earlier.set_schedulable(NODE, false).await.unwrap_err();
    assert!(
        matches!(refused, Error::TermLost { term: 1, .. }),
        "{refused}"
    );
    assert!(second.node(NODE).await.unwrap().unwrap().schedulable);
    fenced.set_schedulable(NODE, false).await.unwrap();
    assert_eq!(second.audit().await.unwrap(), []);
}

#[tokio::test]
async fn a_transaction_names_what_refused_it() {
    let server = ZooKeeper::start().await.unwrap();
    let registry = connect(&server).await;
    let id = FunctionId::new_random();
    refused!(
        registry.create_function(id, &definition(&["a.b"]), &[]),
        Error::NotBootstrapped { .. }
    );
    registry.bootstrap().await.unwrap();
    registry
        .create_function(id, &definition(&["a.b"]), &[])
        .await
        .unwrap();
    refused!(
        registry.create_function(id, &definition(&["c.d"]), &[]),
        Error::FunctionExists { .. }
    );
    let new = FunctionId::new_random();
    refused!(
        registry.create_function(new, &definition(&["a.b"]), &[]),
        Error::RouteTaken { owner, .. } if owner == id
    );
    let slot = slot(NODE);
    refused!(
        registry.create_function(new, &definition(&["e.f"]), &[slot]),
        Error::NodeUnknown { .. }
    );
    refused!(
        registry.replace_definition(id, &definition(&["a.b"]), bismuth_coord::Version(7), &[]),
        Error::FunctionChanged { .. }
    );
}
