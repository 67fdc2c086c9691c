//! Registration of a node: its ephemeral `alive` znode.

use bismuth_coord::Tree;
use bismuth_registry::{Error, RegistrationState};
use tokio::sync::watch;

use crate::fixture::{Fixture, NODES, facts, refused, shows};

async fn becomes(shown: &mut watch::Receiver<RegistrationState>, wanted: RegistrationState) {
    shows(shown, &format!("{wanted:?}"), |shown| *shown == wanted).await;
}

#[tokio::test]
async fn a_registered_node_is_alive_until_it_is_deregistered() {
    let f = Fixture::new().await;
    let registration = f.register("e").await;
    assert_eq!(f.node().await.facts, Some(facts("e")));
    registration.deregister().await.unwrap();
    assert_eq!(f.node().await.facts, None);
}

#[tokio::test]
async fn a_second_bismuthd_of_another_epoch_is_refused() {
    let f = Fixture::new().await;
    let _registration = f.register("first").await;
    refused!(
        f.other().registry.register_node(NODES[0], &facts("second")),
        Error::NodeAlreadyServed { epoch, .. } if epoch == "first"
    );
}

#[tokio::test]
async fn a_restarted_bismuthd_replaces_its_earlier_registration() {
    let f = Fixture::new().await;
    let before = f.other();
    // Killed: nothing is deregistered, and the session is still there.
    drop(before.register("e").await);
    let _registration = f.register("e").await;
    assert!(
        f.tree
            .get(&f.registry.layout().alive(NODES[0]))
            .await
            .unwrap()
            .mine
    );
    before.tree.expire();
    assert!(f.exists(&f.registry.layout().alive(NODES[0])).await);
}

#[tokio::test]
async fn a_node_that_is_not_provisioned_cannot_be_registered() {
    let f = Fixture::bare().await;
    refused!(
        f.registry.register_node(NODES[0], &facts("e")),
        Error::NodeUnknown { .. }
    );
}

#[tokio::test(start_paused = true)]
async fn a_node_is_registered_again_after_its_session_expired() {
    let f = Fixture::new().await;
    let observer = f.other();
    let registration = f.register("e").await;
    let mut state = registration.state();
    for _ in 0..3 {
        f.tree.disconnect();
        becomes(&mut state, RegistrationState::Unregistered).await;
        f.tree.expire();
        assert!(!observer.node().await.is_alive());
        f.tree.reconnect();
        becomes(&mut state, RegistrationState::Registered).await;
        assert_eq!(observer.node().await.facts, Some(facts("e")));
    }
}

#[tokio::test(start_paused = true)]
async fn a_registration_made_without_a_connection_appears_when_there_is_one() {
    let f = Fixture::new().await;
    f.tree.disconnect();
    let registration = f.register("e").await;
    let mut state = registration.state();
    assert_eq!(*state.borrow_and_update(), RegistrationState::Unregistered);
    f.tree.reconnect();
    becomes(&mut state, RegistrationState::Registered).await;
}

#[tokio::test(start_paused = true)]
async fn a_deleted_registration_is_created_again() {
    let f = Fixture::new().await;
    let registration = f.register("e").await;
    let path = f.registry.layout().alive(NODES[0]);
    let mut events = f.tree.watch(&path).await.unwrap();
    f.remove(&path).await;
    loop {
        if matches!(events.next().await, bismuth_coord::Event::Created { .. }) {
            break;
        }
    }
    assert_eq!(
        *registration.state().borrow(),
        RegistrationState::Registered
    );
}

#[tokio::test(start_paused = true)]
async fn a_registration_taken_by_another_bismuthd_is_reported_and_regained_when_that_is_gone() {
    let f = Fixture::new().await;
    let other = f.other();
    let registration = f.register("e").await;
    let mut state = registration.state();
    f.tree.disconnect();
    f.tree.expire();
    let theirs = other.register("other").await;
    f.tree.reconnect();
    let epoch = "other".into();
    becomes(&mut state, RegistrationState::ServedByOther { epoch }).await;
    theirs.deregister().await.unwrap();
    becomes(&mut state, RegistrationState::Registered).await;
}
