//! Claim and release of the services' embedded store.

use std::net::Ipv4Addr;

use bismuth_coord::MemoryTree;
use bismuth_model::StoreClaim;
use bismuth_registry::Error;

use crate::fixture::{Fixture, NODES, on};

fn claim(node: Ipv4Addr, store: &str) -> StoreClaim {
    StoreClaim {
        node,
        store: store.to_owned(),
    }
}

#[tokio::test]
async fn the_first_store_gets_the_claim_and_keeps_it() {
    let f = Fixture::new().await;
    assert_eq!(f.registry.store_claim().await.unwrap(), None);
    let (first, second) = (claim(NODES[0], "a"), claim(NODES[1], "b"));
    for _ in 0..2 {
        assert_eq!(f.registry.claim_store(&first).await.unwrap(), first);
        assert_eq!(f.registry.claim_store(&second).await.unwrap(), first);
    }
    assert_eq!(f.registry.store_claim().await.unwrap(), Some(first));
    assert_eq!(f.registry.audit().await.unwrap(), []);
}

#[tokio::test]
async fn the_same_store_on_another_node_waits_for_a_release_since_it_may_be_a_copy() {
    let f = Fixture::new().await;
    let (first, moved) = (claim(NODES[0], "a"), claim(NODES[1], "a"));
    f.registry.claim_store(&first).await.unwrap();
    assert_eq!(f.registry.claim_store(&moved).await.unwrap(), first);
    assert_eq!(f.registry.store_claim().await.unwrap(), Some(first.clone()));
    assert!(f.registry.release_store(&first).await.unwrap());
    assert_eq!(f.registry.claim_store(&moved).await.unwrap(), moved);
    // The one it was copied from is told.
    assert_eq!(f.registry.claim_store(&first).await.unwrap(), moved);
}

#[tokio::test]
async fn only_the_current_claim_is_released() {
    let f = Fixture::new().await;
    let (first, second) = (claim(NODES[0], "a"), claim(NODES[1], "b"));
    f.registry.claim_store(&first).await.unwrap();
    assert!(!f.registry.release_store(&second).await.unwrap());
    assert!(f.registry.release_store(&first).await.unwrap());
    assert!(!f.registry.release_store(&first).await.unwrap());
    assert_eq!(f.registry.claim_store(&second).await.unwrap(), second);
}

#[tokio::test]
async fn of_concurrent_claims_exactly_one_succeeds() {
    let f = Fixture::new().await;
    let claims = (0..8).map(|n| claim(NODES[0], &n.to_string()));
    let claims: Vec<_> = claims.collect();
    let answers = claims.iter().map(|claim| f.registry.claim_store(claim));
    let answers = futures_util::future::try_join_all(answers).await.unwrap();
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    assert_eq!(
        f.registry.store_claim().await.unwrap().as_ref(),
        answers.first()
    );
}

#[tokio::test]
async fn without_an_environment_nothing_is_claimed() {
    let registry = on(&MemoryTree::new());
    let error = registry.claim_store(&claim(NODES[0], "a")).await;
    assert!(matches!(error, Err(Error::NotBootstrapped { .. })));
}
