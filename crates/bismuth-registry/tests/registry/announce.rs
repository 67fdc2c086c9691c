//! The sign of life of a node.

use bismuth_coord::Tree;
use bismuth_registry::{Error, Presence};
use tokio::sync::watch;

use crate::fixture::{Fixture, NODES, facts, shows};

async fn becomes(shown: &mut watch::Receiver<Presence>, wanted: Presence) {
    shows(shown, &format!("{wanted:?}"), |shown| *shown == wanted).await;
}

#[tokio::test]
async fn an_announced_node_is_alive_until_it_is_withdrawn() {
    let f = Fixture::new().await;
    let announcement = f.announce("e").await;
    assert_eq!(f.node().await.facts, Some(facts("e")));
    announcement.withdraw().await.unwrap();
    assert_eq!(f.node().await.facts, None);
}

#[tokio::test]
async fn a_second_owner_of_another_epoch_is_refused() {
    let f = Fixture::new().await;
    let _announcement = f.announce("first").await;
    let error = f
        .other()
        .registry
        .announce_node(NODES[0], &facts("second"))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, Error::NodeAlreadyServed { epoch, .. } if epoch == "first"),
        "{error}"
    );
}

#[tokio::test]
async fn a_restarted_owner_replaces_what_it_left_behind() {
    let f = Fixture::new().await;
    let before = f.other();
    // Killed: nothing is withdrawn, and the session is still there.
    drop(before.announce("e").await);
    let _announcement = f.announce("e").await;
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
async fn a_node_that_is_not_provisioned_cannot_be_announced() {
    let f = Fixture::bare().await;
    let error = f
        .registry
        .announce_node(NODES[0], &facts("e"))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::NodeUnknown { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_announcement_comes_back_after_the_session_is_lost() {
    let f = Fixture::new().await;
    let observer = f.other();
    let announcement = f.announce("e").await;
    let mut presence = announcement.presence();
    for _ in 0..3 {
        f.tree.disconnect();
        becomes(&mut presence, Presence::Absent).await;
        f.tree.expire();
        assert!(!observer.node().await.is_alive());
        f.tree.reconnect();
        becomes(&mut presence, Presence::Present).await;
        assert_eq!(observer.node().await.facts, Some(facts("e")));
    }
}

#[tokio::test(start_paused = true)]
async fn an_announcement_made_without_a_connection_appears_when_there_is_one() {
    let f = Fixture::new().await;
    f.tree.disconnect();
    let announcement = f.announce("e").await;
    let mut presence = announcement.presence();
    assert_eq!(*presence.borrow_and_update(), Presence::Absent);
    f.tree.reconnect();
    becomes(&mut presence, Presence::Present).await;
}

#[tokio::test(start_paused = true)]
async fn a_deleted_sign_of_life_is_made_again() {
    let f = Fixture::new().await;
    let announcement = f.announce("e").await;
    let path = f.registry.layout().alive(NODES[0]);
    let mut events = f.tree.watch(&path).await.unwrap();
    f.remove(&path).await;
    loop {
        if matches!(events.next().await, bismuth_coord::Event::Created { .. }) {
            break;
        }
    }
    assert_eq!(*announcement.presence().borrow(), Presence::Present);
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_lost_its_node_to_another_says_so_and_returns_when_that_is_gone() {
    let f = Fixture::new().await;
    let other = f.other();
    let announcement = f.announce("e").await;
    let mut presence = announcement.presence();
    f.tree.disconnect();
    f.tree.expire();
    let theirs = other.announce("other").await;
    f.tree.reconnect();
    let epoch = "other".into();
    becomes(&mut presence, Presence::ServedByOther { epoch }).await;
    theirs.withdraw().await.unwrap();
    becomes(&mut presence, Presence::Present).await;
}
