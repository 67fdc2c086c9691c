//! Conformance: watches without faults.

use crate::harness::{
    TreeHarness, at, changed, created, deleted, ephemeral, next, node, persistent,
};

pub async fn a_watch_sees_what_happens_at_and_below_its_path(harness: &dyn TreeHarness) {
    let other = harness.observer();
    let top = node(harness, "top", "").await;
    let mut watch = harness.tree().watch(&top).await.unwrap();
    let (child, deep) = (at(harness, "top/child"), at(harness, "top/child/deep"));
    node(harness, "topmost", "a sibling whose name begins alike").await;
    other.set(&top, b"x", None).await.unwrap();
    persistent(&*other, &child).await;
    ephemeral(&*other, &deep).await;
    other.set(&deep, b"x", None).await.unwrap();
    other.delete(&deep, None).await.unwrap();
    other.delete(&child, None).await.unwrap();
    other.delete(&top, None).await.unwrap();
    let expected = [
        changed(&top),
        created(&child),
        created(&deep),
        changed(&deep),
        deleted(&deep),
        deleted(&child),
        deleted(&top),
    ];
    for event in expected {
        assert_eq!(next(&mut watch).await, event);
    }
}

pub async fn a_watch_on_a_missing_node_sees_it_come_go_and_come_again(harness: &dyn TreeHarness) {
    let path = at(harness, "later");
    let mut watch = harness.tree().watch(&path).await.unwrap();
    for _ in 0..3 {
        persistent(&*harness.observer(), &path).await;
        harness.observer().delete(&path, None).await.unwrap();
        assert_eq!(next(&mut watch).await, created(&path));
        assert_eq!(next(&mut watch).await, deleted(&path));
    }
}

pub async fn overlapping_watches_each_see_every_event(harness: &dyn TreeHarness) {
    let tree = harness.tree();
    let inner_path = node(harness, "inner", "").await;
    let mut outer = tree.watch(harness.base()).await.unwrap();
    let mut inner = tree.watch(&inner_path).await.unwrap();
    let mut second = tree.watch(&inner_path).await.unwrap();
    let dropped = tree.watch(&inner_path).await.unwrap();
    drop(dropped);
    let path = node(harness, "inner/x", "").await;
    for watch in [&mut outer, &mut inner, &mut second] {
        assert_eq!(next(watch).await, created(&path));
    }
}

pub async fn a_watch_can_be_set_again_after_it_was_dropped(harness: &dyn TreeHarness) {
    let tree = harness.tree();
    for n in 0..5 {
        let mut watch = tree.watch(harness.base()).await.unwrap();
        let path = node(harness, &format!("n{n}"), "").await;
        assert_eq!(next(&mut watch).await, created(&path));
    }
}

pub async fn changes_before_the_watch_are_not_reported(harness: &dyn TreeHarness) {
    node(harness, "before", "").await;
    let mut watch = harness.tree().watch(harness.base()).await.unwrap();
    let after = node(harness, "after", "").await;
    assert_eq!(next(&mut watch).await, created(&after));
}
